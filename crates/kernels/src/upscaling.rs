//! The decoder's transposed convolutions and the masks, fused: from a prompt's image tokens to logits, a row of the grid
//! at a time.
//!
//! A transposed convolution of kernel = stride = 2 is a product: each token becomes four. Two of them, with a norm and
//! GELUs, make sixteen pixels of `dim / 8` channels of a token; a mask's logits are their products with the mask's weights.
//! The four corners of a token go one after the other, and the four of each of them: what is between two products
//! stays in the nearest cache.

use crate::aligned::Scratch;
use crate::engine::{Ahead, Engine, STRIP, padded_rows, product};
use crate::matrix::{Linear, Norm};
use crate::vit::NormWeights;

/// Tokens that are worked on at once.
const CHUNK: usize = 64;

/// A transposed convolution, as `torch.nn.ConvTranspose2d(inputs, outputs, 2, stride=2)`.
#[derive(Clone, Copy, Debug)]
pub struct UpConvWeights<'a> {
    /// `[inputs, outputs, 2, 2]`, row-major.
    pub weight: &'a [f32],
    /// `[outputs]`
    pub bias: &'a [f32],
}

/// The decoder's upscaling.
#[derive(Clone, Copy, Debug)]
pub struct UpscalingWeights<'a> {
    /// `dim` to `dim / 4` channels.
    pub conv1: UpConvWeights<'a>,
    /// After it.
    pub norm: NormWeights<'a>,
    /// `dim / 4` to `dim / 8` channels.
    pub conv2: UpConvWeights<'a>,
}

pub(crate) struct Upscaling<E: Engine> {
    conv1: UpConv<E>,
    norm: Norm,
    conv2: UpConv<E>,
}

/// A transposed convolution as a linear layer to `[2, 2, padded]`.
struct UpConv<E: Engine> {
    linear: Linear<E>,
    outputs: usize,
    /// Outputs of a corner with zeros, whole strips.
    padded: usize,
}

impl<E: Engine> UpConv<E> {
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new(w: &UpConvWeights<'_>) -> Self {
        let outputs = w.bias.len();
        let padded = outputs.next_multiple_of(STRIP);
        let inputs = w.weight.len() / (4 * outputs);
        let (mut weight, mut bias) = (vec![0.0; 4 * padded * inputs], vec![0.0; 4 * padded]);
        for corner in 0..4 {
            for output in 0..outputs {
                let row = corner * padded + output;
                bias[row] = w.bias[output];
                for input in 0..inputs {
                    weight[row * inputs + input] =
                        w.weight[(input * outputs + output) * 4 + corner];
                }
            }
        }
        Self {
            // SAFETY: the caller promises the level.
            linear: unsafe { Linear::new(&weight, Some(&bias), 4 * padded) },
            outputs,
            padded,
        }
    }
}

impl<E: Engine> Upscaling<E> {
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn new(w: &UpscalingWeights<'_>) -> Self {
        // SAFETY: the caller promises the level.
        unsafe {
            Self {
                conv1: UpConv::new(&w.conv1),
                norm: Norm::new(w.norm),
                conv2: UpConv::new(&w.conv2),
            }
        }
    }

    /// Multiplications and additions for some masks of a prompt.
    pub(crate) fn flops(&self, [rows, columns]: [usize; 2], masks: usize) -> usize {
        let (quarter, eighth) = (self.conv1.outputs, self.conv2.outputs);
        let convolutions = 4 * self.conv1.linear.inputs * quarter + 16 * quarter * eighth;
        2 * rows * columns * (convolutions + 16 * masks * eighth)
    }

    /// The logits of masks, `[4 rows, 4 columns]` each.
    ///
    /// # Shapes
    /// - `image`: `[rows, columns, dim]`, for a `grid` of rows and columns
    /// - `masks`: per mask its weights, `[dim / 8]`
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn masks(
        &self,
        image: &[f32],
        grid: [usize; 2],
        masks: &[Vec<f32>],
    ) -> Vec<Vec<f32>> {
        let ([height, width], [conv1, conv2]) = (grid, [&self.conv1, &self.conv2]);
        let (dim, eighth) = (conv1.linear.inputs, conv2.outputs);
        let depths = eighth.div_ceil(E::DEPTH);
        let stride = masks.len().next_multiple_of(STRIP);
        let mut logits = vec![vec![0.0; 16 * height * width]; masks.len()];
        let mut right = Scratch::<E::Element>::take(E::right_len(eighth, masks.len()));
        let mut left = Scratch::<E::Element>::take(E::left_len(CHUNK, dim));
        let mut once = Scratch::<f32>::take(padded_rows(CHUNK) * conv1.padded);
        let mut left_once = Scratch::<E::Element>::take(E::left_len(CHUNK, conv1.outputs));
        let mut twice = Scratch::<f32>::take(padded_rows(CHUNK) * STRIP);
        let mut left_twice = Scratch::<E::Element>::take(E::left_len(CHUNK, eighth));
        // Of the pixels in an upper or lower half of each token, `[left or right, corner in that]`.
        let corner_len = padded_rows(CHUNK) * stride;
        let mut values = Scratch::<f32>::take(8 * corner_len);
        // SAFETY: the caller promises the level.
        unsafe {
            E::pack_columns(&mut right, eighth, masks.len(), |i| &masks[i]);
            for first in (0..height * width).step_by(CHUNK) {
                let rows = CHUNK.min(height * width - first);
                E::pack_left(&mut left, rows, dim, 0..dim, |r| {
                    &image[(first + r) * dim..][..dim]
                });
                let next = (first + CHUNK).min(height * width) * dim;
                let next = &image[next..image.len().min(next + CHUNK * dim)];
                let mut ahead = Ahead::of(next.as_ptr(), next.len());
                for corner in 0..4 {
                    let start = corner * conv1.padded;
                    let part = start..start + conv1.padded;
                    conv1
                        .linear
                        .sums_of(&mut once, &left, rows, part, &mut ahead);
                    E::pack_norm_gelu(
                        &mut left_once,
                        &mut once[..rows * conv1.padded],
                        conv1.padded,
                        &conv1.linear.bias[start..],
                        &self.norm,
                    );
                    for inner in 0..4 {
                        for depth in (0..eighth).step_by(STRIP) {
                            let column = inner * conv2.padded + depth;
                            let part = column..column + STRIP;
                            conv2
                                .linear
                                .sums_of(&mut twice, &left_once, rows, part, &mut ahead);
                            E::pack_gelu(
                                &mut left_twice,
                                rows,
                                eighth,
                                depth..eighth.min(depth + STRIP),
                                &mut twice,
                                &conv2.linear.bias[column..],
                            );
                        }
                        product::<E>(
                            &mut values[(corner % 2 * 4 + inner) * corner_len..],
                            stride,
                            rows,
                            stride,
                            &left_twice,
                            &right,
                            depths,
                            0..depths,
                            false,
                        );
                    }
                    if corner % 2 == 1 {
                        for inner in [0, 2] {
                            let of = |i: usize| &values[i * corner_len..][..rows * stride];
                            let four = [of(inner), of(inner + 1), of(4 + inner), of(5 + inner)];
                            let line = corner / 2 * 2 + inner / 2;
                            for (mask, logits) in logits.iter_mut().enumerate() {
                                spread(
                                    logits,
                                    width,
                                    line,
                                    first,
                                    stride,
                                    four.map(|v| &v[mask..]),
                                );
                            }
                        }
                    }
                }
            }
        }
        logits
    }
}

/// Sets the four pixels on one of the four lines of each token from `first` on; `values` has the pixels' values, those of a
/// token `stride` apart.
fn spread(
    logits: &mut [f32],
    width: usize,
    line: usize,
    first: usize,
    stride: usize,
    values: [&[f32]; 4],
) {
    let [a, b, c, d] = values.map(|values| values.chunks(stride));
    let mut tokens = a.zip(b).zip(c.zip(d));
    let mut token = first;
    while tokens.len() > 0 {
        let (y, x) = (token / width, token % width);
        let line = &mut logits[((4 * y + line) * width + x) * 4..][..4 * (width - x)];
        // The shorter side first: it must not take a token that has no place.
        for (pixels, ((a, b), (c, d))) in line.chunks_exact_mut(4).zip(&mut tokens) {
            pixels.copy_from_slice(&[a[0], b[0], c[0], d[0]]);
        }
        token += width - x;
    }
}
