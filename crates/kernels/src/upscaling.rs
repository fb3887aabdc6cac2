//! The decoder's transposed convolutions and the masks, fused: from a prompt's image tokens to logits, a row of the grid
//! at a time.
//!
//! A transposed convolution of kernel = stride = 2 is a product: each token becomes four. Two of them, with a norm and
//! GELUs, make sixteen pixels of `dim / 8` channels of a token; a mask's logits are their products with the mask's weights.

use crate::aligned::Scratch;
use crate::engine::{Engine, STRIP, padded_rows, product};
use crate::matrix::{Linear, Norm};
use crate::vit::NormWeights;

static NO_BIAS: [f32; STRIP] = [0.0; STRIP];

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
    conv1: Linear<E>,
    norm: Norm,
    conv2: Linear<E>,
}

/// As a linear layer to `[2, 2, outputs]`.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn up_conv<E: Engine>(w: &UpConvWeights<'_>) -> Linear<E> {
    let outputs = w.bias.len();
    let inputs = w.weight.len() / (4 * outputs);
    let weight: Vec<f32> = (0..4 * outputs)
        .flat_map(|i| {
            let (corner, output) = (i / outputs, i % outputs);
            (0..inputs).map(move |input| w.weight[(input * outputs + output) * 4 + corner])
        })
        .collect();
    let bias: Vec<f32> = w.bias.iter().copied().cycle().take(4 * outputs).collect();
    // SAFETY: the caller promises the level.
    unsafe { Linear::new(&weight, Some(&bias), 4 * outputs) }
}

impl<E: Engine> Upscaling<E> {
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn new(w: &UpscalingWeights<'_>) -> Self {
        // SAFETY: the caller promises the level.
        unsafe {
            Self {
                conv1: up_conv(&w.conv1),
                norm: Norm::new(w.norm),
                conv2: up_conv(&w.conv2),
            }
        }
    }

    /// Multiplications and additions for some masks of a prompt.
    pub(crate) fn flops(&self, [rows, columns]: [usize; 2], masks: usize) -> usize {
        let convolutions =
            self.conv1.inputs * self.conv1.outputs + 4 * self.conv2.inputs * self.conv2.outputs;
        2 * rows * columns * (convolutions + 16 * masks * self.conv2.outputs / 4)
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
        let (k, [height, width]) = (E::KERNELS, grid);
        let (dim, quarter, eighth) = (
            self.conv1.inputs,
            self.conv1.outputs / 4,
            self.conv2.outputs / 4,
        );
        let mut logits = vec![vec![0.0; 16 * height * width]; masks.len()];
        let mut right = Scratch::<E::Element>::take(E::right_len(eighth, masks.len()));
        let mut left = Scratch::<E::Element>::take(E::left_len(CHUNK, dim));
        let mut once = Scratch::<f32>::take(CHUNK * 4 * quarter);
        let mut left_once = Scratch::<E::Element>::take(E::left_len(4 * CHUNK, quarter));
        let mut twice = Scratch::<f32>::take(16 * CHUNK * eighth);
        let mut left_twice = Scratch::<E::Element>::take(E::left_len(16 * CHUNK, eighth));
        let stride = masks.len().next_multiple_of(STRIP);
        let mut values = Scratch::<f32>::take(padded_rows(16 * CHUNK) * stride);
        // SAFETY: the caller promises the level; factors are packed here.
        unsafe {
            E::pack_columns(&mut right, eighth, masks.len(), |i| &masks[i]);
            for first in (0..height * width).step_by(CHUNK) {
                let rows = CHUNK.min(height * width - first);
                E::pack_left(&mut left, rows, dim, 0..dim, |r| {
                    &image[(first + r) * dim..][..dim]
                });
                self.conv1.strips(&left, rows, |column, sums| {
                    let once = &mut once[column..rows * 4 * quarter];
                    let count = STRIP.min(4 * quarter - column);
                    (k.store_strip)(once, 4 * quarter, count, sums, &self.conv1.bias[column..]);
                });
                // `[rows, 2, 2, quarter]`: four times as many rows of a quarter of the channels.
                self.norm
                    .apply::<E>(&mut once[..4 * rows * quarter], quarter);
                (k.gelu_plain)(&mut once[..4 * rows * quarter]);
                E::pack_left(&mut left_once, 4 * rows, quarter, 0..quarter, |r| {
                    &once[r * quarter..][..quarter]
                });
                self.conv2.strips(&left_once, 4 * rows, |column, sums| {
                    let twice = &mut twice[column..16 * rows * eighth];
                    let count = STRIP.min(4 * eighth - column);
                    (k.gelu_strip)(sums, &self.conv2.bias[column..]);
                    (k.store_strip)(twice, 4 * eighth, count, sums, &NO_BIAS);
                });
                let pixels = 16 * rows;
                E::pack_left(&mut left_twice, pixels, eighth, 0..eighth, |r| {
                    &twice[r * eighth..][..eighth]
                });
                let depths = eighth.div_ceil(E::DEPTH);
                product::<E>(
                    &mut values,
                    stride,
                    pixels,
                    stride,
                    &left_twice,
                    &right,
                    depths,
                    0..depths,
                    false,
                );
                // `[rows, 2, 2, 2, 2]`: token, then the corner in it, then the corner in that, rows before columns.
                for (r, values) in values.chunks_exact(16 * stride).enumerate().take(rows) {
                    let (y, x) = ((first + r) / width, (first + r) % width);
                    for (corner, values) in values.chunks_exact(stride).enumerate() {
                        let [y1, x1, y2, x2] =
                            [corner >> 3, corner >> 2, corner >> 1, corner].map(|bits| bits & 1);
                        let at = (4 * y + 2 * y1 + y2) * 4 * width + 4 * x + 2 * x1 + x2;
                        for (logits, &value) in logits.iter_mut().zip(values) {
                            logits[at] = value;
                        }
                    }
                }
            }
        }
        logits
    }
}
