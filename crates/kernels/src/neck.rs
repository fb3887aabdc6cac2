//! Before and after the blocks of the image encoder: patches to tokens, tokens to the decoder's channels.

use crate::aligned::{Scratch, Shared};
use crate::engine::{Engine, STRIP};
use crate::level::Level;
use crate::matrix::{Linear, Norm};
use crate::precision::Precision;
use crate::profile::Part;
use crate::vit::{Cost, NormWeights, for_blocks};

/// A convolution of kernel = stride that makes tokens of patches, and their positions.
#[derive(Clone, Copy, Debug)]
pub struct PatchWeights<'a> {
    /// `[dim, channels, patch, patch]`, row-major, as `torch.nn.Conv2d` has it.
    pub weight: &'a [f32],
    /// `[dim]`
    pub bias: &'a [f32],
    /// Added to the tokens: `[rows, columns, dim]`.
    pub positions: &'a [f32],
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
}

/// The neck: 1x1 convolution, norm, 3x3 convolution with zeros around the image, norm.
#[derive(Clone, Copy, Debug)]
pub struct NeckWeights<'a> {
    /// `[channels, dim]`
    pub conv1: &'a [f32],
    /// After it.
    pub norm1: NormWeights<'a>,
    /// `[channels, channels, 3, 3]`, row-major.
    pub conv2: &'a [f32],
    /// After it.
    pub norm2: NormWeights<'a>,
    /// Rows and columns of tokens.
    pub grid: [usize; 2],
}

/// The patch embedding, its weights packed for this CPU.
pub struct PatchEmbed {
    kernel: Box<dyn Map>,
    outputs: usize,
    grid: [usize; 2],
}

/// The neck, its weights packed for this CPU.
pub struct Neck {
    kernel: Box<dyn Map>,
    outputs: usize,
}

trait Map: Send + Sync {
    fn map(&self, x: &[f32]) -> Vec<f32>;
}

impl PatchEmbed {
    /// Packs the weights for a level of the CPU.
    ///
    /// # Panics
    /// If sizes do not fit each other, or this CPU lacks the level.
    pub fn new(weights: &PatchWeights<'_>, level: Level, precision: Precision) -> Self {
        crate::engine::with_engine!(level, precision, E => {
            // SAFETY: `with_engine` checks that the CPU has the level.
            let kernel = Box::new(unsafe { Patches::<E>::new(weights) });
            Self { kernel, outputs: weights.bias.len(), grid: weights.grid }
        })
    }

    /// Images to tokens.
    ///
    /// # Shapes
    /// - `images`: `[images, height, width, channels]`, whole patches
    /// - output: `[images, rows, columns, dim]`
    ///
    /// # Panics
    /// If `images` is not whole images.
    pub fn forward(&self, images: &[f32]) -> Vec<f32> {
        self.kernel.map(images)
    }

    /// Channels of a token.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows and columns of patches.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }
}

impl Neck {
    /// Packs the weights for a level of the CPU.
    ///
    /// # Panics
    /// If sizes do not fit each other, or this CPU lacks the level.
    pub fn new(weights: &NeckWeights<'_>, level: Level, precision: Precision) -> Self {
        crate::engine::with_engine!(level, precision, E => {
            // SAFETY: `with_engine` checks that the CPU has the level.
            let kernel = Box::new(unsafe { Convolutions::<E>::new(weights) });
            Self { kernel, outputs: weights.norm1.gamma.len() }
        })
    }

    /// Tokens to the embedding.
    ///
    /// # Shapes
    /// - `x`: `[images, rows, columns, dim]`
    /// - output: `[images, rows, columns, channels]`
    ///
    /// # Panics
    /// If `x` is not whole images.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        self.kernel.map(x)
    }

    /// Channels of the embedding.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

struct Patches<E: Engine> {
    proj: Linear<E>,
    positions: Vec<f32>,
    patch: usize,
    grid: [usize; 2],
}

impl<E: Engine> Patches<E> {
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new(w: &PatchWeights<'_>) -> Self {
        let (dim, area) = (w.bias.len(), w.patch * w.patch);
        let channels = w.weight.len() / (dim * area);
        assert_eq!(w.weight.len(), dim * area * channels);
        assert_eq!(w.positions.len(), w.grid[0] * w.grid[1] * dim);
        // Channels last, as the image has them.
        let weight: Vec<f32> = w
            .weight
            .chunks_exact(channels * area)
            .flat_map(|w| (0..area * channels).map(move |i| w[i % channels * area + i / channels]))
            .collect();
        Self {
            // SAFETY: the caller promises the level.
            proj: unsafe { Linear::new(&weight, Some(w.bias), dim) },
            positions: w.positions.to_vec(),
            patch: w.patch,
            grid: w.grid,
        }
    }
}

impl<E: Engine> Map for Patches<E> {
    fn map(&self, x: &[f32]) -> Vec<f32> {
        let (dim, inputs, patch) = (self.proj.outputs, self.proj.inputs, self.patch);
        let [rows, columns] = self.grid;
        // Floats of a patch's row, of an image's row, and of an image.
        let run = inputs / patch;
        let stride = columns * run;
        let image = rows * patch * stride;
        assert!(
            x.len().is_multiple_of(image),
            "whole images of {rows} x {columns} patches"
        );
        let tokens = rows * columns;
        let mut y = vec![0.0; x.len() / image * tokens * dim];
        let all = y.len() / dim;
        let shared = Shared::new(&mut y);
        let cost = Cost::of(Part::PatchEmbed, &[&self.proj], inputs + dim);
        for_blocks::<E>(all, cost, |first, count| {
            // SAFETY: a block's rows are its task's alone.
            let y = unsafe { shared.part(first * dim, count * dim) };
            let mut patches = Scratch::<f32>::take(count * inputs);
            for (r, gathered) in patches.chunks_exact_mut(inputs).enumerate() {
                let (image_index, token) = ((first + r) / tokens, (first + r) % tokens);
                let corner =
                    image_index * image + token / columns * patch * stride + token % columns * run;
                for (line, gathered) in gathered.chunks_exact_mut(run).enumerate() {
                    gathered.copy_from_slice(&x[corner + line * stride..][..run]);
                }
            }
            let mut left = Scratch::<E::Element>::take(E::left_len(count, inputs));
            // SAFETY: the level was checked when the weights were packed.
            unsafe {
                E::pack_left(&mut left, count, inputs, 0..inputs, |r| {
                    &patches[r * inputs..][..inputs]
                });
                self.proj.strips(&left, count, |column, sums| {
                    let (count, bias) = (STRIP.min(dim - column), &self.proj.bias[column..]);
                    (E::KERNELS.store_strip)(&mut y[column..], dim, count, sums, bias);
                });
                for (r, y) in y.chunks_exact_mut(dim).enumerate() {
                    let token = (first + r) % tokens;
                    (E::KERNELS.add)(y, &self.positions[token * dim..][..dim]);
                }
            }
        });
        y
    }
}

struct Convolutions<E: Engine> {
    conv1: Linear<E>,
    norm1: Norm,
    /// Over nine neighbours of `padded` channels each.
    conv2: Linear<E>,
    norm2: Norm,
    padded: usize,
    grid: [usize; 2],
}

impl<E: Engine> Convolutions<E> {
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new(w: &NeckWeights<'_>) -> Self {
        let channels = w.norm1.gamma.len();
        assert_eq!(w.conv2.len(), 9 * channels * channels);
        // Each neighbour's channels begin at a whole depth of any engine.
        let padded = channels.next_multiple_of(32);
        let mut weight = vec![0.0; channels * 9 * padded];
        for (output, weight) in weight.chunks_exact_mut(9 * padded).enumerate() {
            for (neighbour, weight) in weight.chunks_exact_mut(padded).enumerate() {
                for (input, weight) in weight[..channels].iter_mut().enumerate() {
                    *weight = w.conv2[(output * channels + input) * 9 + neighbour];
                }
            }
        }
        // SAFETY: the caller promises the level.
        unsafe {
            Self {
                conv1: Linear::new(w.conv1, None, channels),
                norm1: Norm::new(w.norm1),
                conv2: Linear::new(&weight, None, channels),
                norm2: Norm::new(w.norm2),
                padded,
                grid: w.grid,
            }
        }
    }
}

impl<E: Engine> Map for Convolutions<E> {
    fn map(&self, x: &[f32]) -> Vec<f32> {
        let (k, [height, width]) = (E::KERNELS, self.grid);
        let (dim, channels, padded) = (self.conv1.inputs, self.conv1.outputs, self.padded);
        let tokens = height * width;
        assert!(
            x.len().is_multiple_of(tokens * dim),
            "whole images of {height} x {width} tokens"
        );
        let total = x.len() / dim;
        let mut once = vec![0.0; total * padded];
        let mut twice = vec![0.0; total * channels];
        let zeros = vec![0.0; padded];
        // SAFETY, of both blocks: the level was checked when the weights were packed; a block's rows are its task's alone.
        let (shared_once, shared_twice) = (Shared::new(&mut once), Shared::new(&mut twice));
        for_blocks::<E>(
            total,
            Cost::of(Part::Neck, &[&self.conv1], dim + padded),
            |first, rows| {
                let mut left = Scratch::<E::Element>::take(E::left_len(rows, dim));
                // SAFETY: as above.
                unsafe {
                    let y = shared_once.part(first * padded, rows * padded);
                    E::pack_left(&mut left, rows, dim, 0..dim, |r| {
                        &x[(first + r) * dim..][..dim]
                    });
                    self.conv1.strips(&left, rows, |column, sums| {
                        let (count, bias) =
                            (STRIP.min(channels - column), &self.conv1.bias[column..]);
                        (k.store_strip)(&mut y[column..], padded, count, sums, bias);
                    });
                    self.norm1.apply::<E>(y, padded);
                }
            },
        );
        let once = &once;
        for_blocks::<E>(
            total,
            Cost::of(Part::Neck, &[&self.conv2], padded + channels),
            |first, rows| {
                let mut left = Scratch::<E::Element>::take(E::left_len(rows, 9 * padded));
                // SAFETY: as above.
                unsafe {
                    let y = shared_twice.part(first * channels, rows * channels);
                    for neighbour in 0..9 {
                        let part = neighbour * padded..(neighbour + 1) * padded;
                        E::pack_left(&mut left, rows, 9 * padded, part, |r| {
                            let (image, token) = ((first + r) / tokens, (first + r) % tokens);
                            let row = (token / width + neighbour / 3).wrapping_sub(1);
                            let column = (token % width + neighbour % 3).wrapping_sub(1);
                            match row < height && column < width {
                                true => {
                                    &once[(image * tokens + row * width + column) * padded..]
                                        [..padded]
                                }
                                false => &zeros,
                            }
                        });
                    }
                    self.conv2.strips(&left, rows, |column, sums| {
                        let (count, bias) =
                            (STRIP.min(channels - column), &self.conv2.bias[column..]);
                        (k.store_strip)(&mut y[column..], channels, count, sums, bias);
                    });
                    self.norm2.apply::<E>(y, channels);
                }
            },
        );
        twice
    }
}
