//! The mask decoder's last layers and their gradients, fused: from a prompt's image tokens to the logits of its masks, some
//! tokens at a time.
//!
//! Upscaling makes sixteen pixels of `dim / 8` channels of a token: twice as many numbers as the token has, in each of five
//! layers. Kept for the gradients, they would be most of what a step of training writes to memory and reads again. So
//! nothing between tokens and logits is kept: what the gradients need is computed once more.

use rayon::prelude::*;

use super::linear::{self, added, block_times, weights_of_rows};
use crate::aligned::{Aligned, Scratch, unwritten};
use crate::engine::{Engine, with_engine};
use crate::rows::NormGradient;
use crate::{Level, Precision};

/// Tokens that are worked on at once: what is between them and their logits stays in a core's cache.
const CHUNK: usize = 128;
/// Pixels that a transposed convolution makes of one.
const CORNERS: usize = 4;
/// Pixels of a token.
const PIXELS: usize = CORNERS * CORNERS;

/// The sizes of a batch of prompts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) prompts: usize,
    /// Rows and columns of tokens.
    pub(super) grid: [usize; 2],
    pub(super) dim: usize,
    /// Channels after the first transposed convolution and after the second.
    pub(super) channels: [usize; 2],
    pub(super) masks: usize,
}

impl Sizes {
    fn tokens(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// Numbers of a prompt's logits.
    fn logits(&self) -> usize {
        self.masks * PIXELS * self.tokens()
    }

    /// Numbers of its masks' weights.
    fn weights(&self) -> usize {
        self.masks * self.channels[1]
    }

    /// Of both transposed convolutions as linear layers: inputs, and the outputs of all corners.
    fn products(&self, rows: usize) -> [linear::Sizes; 2] {
        let [quarter, eighth] = self.channels;
        let sizes = |rows, inputs, outputs| linear::Sizes {
            rows,
            inputs,
            outputs: CORNERS * outputs,
        };
        [
            sizes(rows, self.dim, quarter),
            sizes(CORNERS * rows, quarter, eighth),
        ]
    }

    /// Where a pixel of a token lies in a mask's logits: conv by conv, each from left to right and from above.
    fn place(&self, token: usize, pixel: usize) -> usize {
        let width = self.grid[1];
        let (first, second) = (pixel / CORNERS, pixel % CORNERS);
        let y = 4 * (token / width) + 2 * (first / 2) + second / 2;
        let x = 4 * (token % width) + 2 * (first % 2) + second % 2;
        y * 4 * width + x
    }
}

/// The parameters: weights are `[inputs, 4 outputs]`, corner by corner, and biases `[4 outputs]`.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) weight1: &'a [f32],
    pub(super) bias1: &'a [f32],
    pub(super) gamma: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) epsilon: f32,
    pub(super) weight2: &'a [f32],
    pub(super) bias2: &'a [f32],
}

/// Weights as right factors, biases as whole strips.
struct Packed<E: Engine> {
    weights: [Aligned<E::Element>; 2],
    biases: [Vec<f32>; 2],
}

impl<E: Engine> Packed<E> {
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new(layers: &Layers<'_>, sizes: Sizes) -> Self {
        let weights = [layers.weight1, layers.weight2];
        let products = sizes.products(0);
        let pack = |i: usize| {
            let linear::Sizes {
                inputs, outputs, ..
            } = products[i];
            let mut right = Aligned::zeros(E::right_len(inputs, outputs));
            // SAFETY: the caller promises the level.
            unsafe {
                E::pack_rows(&mut right, inputs, 0..inputs, outputs, |row| {
                    &weights[i][row * outputs..][..outputs]
                });
            }
            right
        };
        Self {
            weights: [pack(0), pack(1)],
            biases: [layers.bias1, layers.bias2].map(linear::padded),
        }
    }

    /// Turned, for the gradients at inputs.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn turned(layers: &Layers<'_>, sizes: Sizes) -> [Aligned<E::Element>; 2] {
        let weights = [layers.weight1, layers.weight2];
        let products = sizes.products(0);
        [0, 1].map(|i| {
            let linear::Sizes {
                inputs, outputs, ..
            } = products[i];
            let mut right = Aligned::zeros(E::right_len(outputs, inputs));
            // SAFETY: the caller promises the level.
            unsafe {
                E::pack_columns(&mut right, outputs, inputs, |row| {
                    &weights[i][row * outputs..][..outputs]
                });
            }
            right
        })
    }
}

/// What lies between some tokens and their logits.
struct Between {
    /// After the first transposed convolution.
    once: Scratch<f32>,
    /// Its norm.
    normed: Scratch<f32>,
    /// The GELU of that.
    active: Scratch<f32>,
    /// After the second transposed convolution.
    twice: Scratch<f32>,
    /// The GELU of that: pixels.
    pixels: Scratch<f32>,
}

impl Between {
    fn new(sizes: Sizes) -> Self {
        let [once, twice] = sizes.products(CHUNK).map(|p| p.rows * p.outputs);
        Self {
            once: Scratch::take(once),
            normed: Scratch::take(once),
            active: Scratch::take(once),
            twice: Scratch::take(twice),
            pixels: Scratch::take(twice),
        }
    }

    /// Computes everything of the tokens `x`, `[count, dim]`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn compute<E: Engine>(
        &mut self,
        x: &[f32],
        layers: &Layers<'_>,
        packed: &Packed<E>,
        sizes: Sizes,
    ) {
        let [first, second] = sizes.products(x.len() / sizes.dim);
        let (once, twice) = (first.rows * first.outputs, second.rows * second.outputs);
        let width = layers.gamma.len();
        // SAFETY: the caller promises the level; weights are packed by this engine.
        unsafe {
            let [weight1, weight2] = &packed.weights;
            let [bias1, bias2] = &packed.biases;
            block_times::<E>(&mut self.once[..once], x, weight1, bias1, first);
            let rows = self.normed[..once].chunks_exact_mut(width);
            for (normed, x) in rows.zip(self.once[..once].chunks_exact(width)) {
                (E::KERNELS.layer_norm)(normed, x, layers.gamma, layers.beta, layers.epsilon);
            }
            self.active[..once].copy_from_slice(&self.normed[..once]);
            (E::KERNELS.gelu_plain)(&mut self.active[..once]);
            let twice_of = &mut self.twice[..twice];
            block_times::<E>(twice_of, &self.active[..once], weight2, bias2, second);
            self.pixels[..twice].copy_from_slice(twice_of);
            (E::KERNELS.gelu_plain)(&mut self.pixels[..twice]);
        }
    }
}

/// The logits of all masks, `[prompts, masks, 4 height, 4 width]`, of tokens `x` `[prompts, height * width, dim]` and the masks'
/// weights `[prompts, masks, channels]`.
pub(super) fn forward(
    x: &[f32],
    layers: &Layers<'_>,
    weights: &[f32],
    sizes: Sizes,
    (level, precision): (Level, Precision),
) -> Vec<f32> {
    // SAFETY: every pixel of every token of every mask is written.
    let mut logits = unsafe { unwritten(sizes.prompts * sizes.logits()) };
    with_engine!(level, precision, E => {
        // SAFETY: `with_engine` checks that the CPU has the level.
        let packed = unsafe { Packed::<E>::new(layers, sizes) };
        let prompts = logits.par_chunks_exact_mut(sizes.logits());
        let prompts = prompts.zip(x.par_chunks_exact(sizes.tokens() * sizes.dim));
        let prompts = prompts.zip(weights.par_chunks_exact(sizes.weights()));
        prompts.for_each(|((logits, x), weights)| {
            // SAFETY: as above; packed by this engine.
            unsafe { logits_of_prompt::<E>(logits, x, layers, &packed, weights, sizes) }
        });
    });
    logits
}

/// # Safety
/// The CPU has the engine's level.
unsafe fn logits_of_prompt<E: Engine>(
    logits: &mut [f32],
    x: &[f32],
    layers: &Layers<'_>,
    packed: &Packed<E>,
    weights: &[f32],
    sizes: Sizes,
) {
    let Sizes { dim, masks, .. } = sizes;
    let (tokens, eighth) = (sizes.tokens(), sizes.channels[1]);
    let mut between = Between::new(sizes);
    let mut values = Scratch::<f32>::take(PIXELS * CHUNK * masks);
    let mut right = Scratch::<E::Element>::take(E::right_len(eighth, masks));
    let no_bias = linear::padded(&vec![0.0; masks]);
    // SAFETY: the caller promises the level; packed by this engine.
    unsafe {
        E::pack_columns(&mut right, eighth, masks, |mask| {
            &weights[mask * eighth..][..eighth]
        });
        for first in (0..tokens).step_by(CHUNK) {
            let count = CHUNK.min(tokens - first);
            between.compute::<E>(&x[first * dim..][..count * dim], layers, packed, sizes);
            let product = linear::Sizes {
                rows: PIXELS * count,
                inputs: eighth,
                outputs: masks,
            };
            let pixels = &between.pixels[..product.rows * eighth];
            let values = &mut values[..product.rows * masks];
            block_times::<E>(values, pixels, &right, &no_bias, product);
            for (i, values) in values.chunks_exact(masks).enumerate() {
                let place = sizes.place(first + i / PIXELS, i % PIXELS);
                let places = logits[place..].iter_mut().step_by(PIXELS * tokens);
                places.zip(values).for_each(|(to, value)| *to = *value);
            }
        }
    }
}

/// A weight's gradient and a bias's, or those of a norm's parameters.
type Pair = (Vec<f32>, Vec<f32>);

/// The gradients at everything that [`forward`] takes.
pub(super) struct Gradients {
    pub(super) x: Vec<f32>,
    /// Of the first transposed convolution, the norm and the second transposed convolution.
    pub(super) layers: [Pair; 3],
    pub(super) weights: Vec<f32>,
}

/// The gradients of that at the logits, `g`.
pub(super) fn backward(
    g: &[f32],
    x: &[f32],
    layers: &Layers<'_>,
    weights: &[f32],
    sizes: Sizes,
    (level, precision): (Level, Precision),
) -> Gradients {
    // SAFETY: every token of every prompt is written.
    let mut of_x = unsafe { unwritten(x.len()) };
    let mut of_weights = vec![0.0; weights.len()];
    let parts: Vec<[Pair; 3]> = with_engine!(level, precision, E => {
        // SAFETY: `with_engine` checks that the CPU has the level.
        let (packed, turned) = unsafe {
            (Packed::<E>::new(layers, sizes), Packed::<E>::turned(layers, sizes))
        };
        let each = sizes.tokens() * sizes.dim;
        let prompts = of_x.par_chunks_exact_mut(each).zip(x.par_chunks_exact(each));
        let prompts = prompts.zip(of_weights.par_chunks_exact_mut(sizes.weights()));
        let prompts = prompts.zip(weights.par_chunks_exact(sizes.weights()));
        let prompts = prompts.zip(g.par_chunks_exact(sizes.logits()));
        let parts = prompts.map(|((((of_x, x), of_weights), weights), g)| {
            let prompt = Prompt { g, x, weights };
            // SAFETY: as above; packed by this engine.
            unsafe { prompt.gradients::<E>(of_x, of_weights, layers, &packed, &turned, sizes) }
        });
        parts.collect()
    });
    let mut lists: [Vec<Pair>; 3] = Default::default();
    for part in parts {
        for (list, pair) in lists.iter_mut().zip(part) {
            list.push(pair);
        }
    }
    let kernels = super::kernels();
    Gradients {
        x: of_x,
        layers: lists.map(|parts| added(parts, kernels)),
        weights: of_weights,
    }
}

/// What the gradients of a prompt are made of.
struct Prompt<'a> {
    /// At its logits.
    g: &'a [f32],
    x: &'a [f32],
    weights: &'a [f32],
}

impl Prompt<'_> {
    /// Writes those at its tokens, adds those at its masks' weights, and returns its part of those at the layers.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn gradients<E: Engine>(
        &self,
        of_x: &mut [f32],
        of_weights: &mut [f32],
        layers: &Layers<'_>,
        packed: &Packed<E>,
        turned: &[Aligned<E::Element>; 2],
        sizes: Sizes,
    ) -> [Pair; 3] {
        let Self { g, x, weights } = self;
        let Sizes { dim, masks, .. } = sizes;
        let (tokens, [quarter, eighth]) = (sizes.tokens(), sizes.channels);
        let mut between = Between::new(sizes);
        let mut values = Scratch::<f32>::take(PIXELS * CHUNK * masks);
        let [once, twice] = sizes.products(CHUNK).map(|p| p.rows * p.outputs);
        let mut of_twice = Scratch::<f32>::take(twice);
        let mut of_active = Scratch::<f32>::take(once);
        let mut of_once = Scratch::<f32>::take(once);
        let no_biases = [dim, quarter].map(|count| linear::padded(&vec![0.0; count]));
        let (mut of_gamma, mut of_beta) = (vec![0.0; quarter], vec![0.0; quarter]);
        let mut convs: [Vec<Pair>; 2] = Default::default();
        for first in (0..tokens).step_by(CHUNK) {
            let count = CHUNK.min(tokens - first);
            let [conv1, conv2] = sizes.products(count);
            let [once, twice] = [conv1, conv2].map(|p| p.rows * p.outputs);
            let x = &x[first * dim..][..count * dim];
            let values = &mut values[..PIXELS * count * masks];
            for (i, values) in values.chunks_exact_mut(masks).enumerate() {
                let place = sizes.place(first + i / PIXELS, i % PIXELS);
                let places = g[place..].iter().step_by(PIXELS * tokens);
                values.iter_mut().zip(places).for_each(|(to, g)| *to = *g);
            }
            let of_twice = &mut of_twice[..twice];
            let (of_active, of_once) = (&mut of_active[..once], &mut of_once[..once]);
            let mut norm = NormGradient {
                gamma: layers.gamma,
                epsilon: layers.epsilon,
                of_gamma: &mut of_gamma,
                of_beta: &mut of_beta,
            };
            // SAFETY: the caller promises the level; packed by this engine.
            unsafe {
                let k = E::KERNELS;
                between.compute::<E>(x, layers, packed, sizes);
                let pixels = &between.pixels[..twice];
                (k.pixels_gradient)(of_twice, of_weights, values, pixels, weights, eighth);
                (k.gelu_gradient)(of_twice, &between.twice[..twice]);
                let active = &between.active[..once];
                convs[1].push(weights_of_rows::<E>(active, of_twice, conv2));
                let bias = &no_biases[1];
                block_times::<E>(of_active, of_twice, &turned[1], bias, conv2.turned());
                (k.gelu_gradient)(of_active, &between.normed[..once]);
                let rows = of_once.chunks_exact_mut(quarter);
                let rows = rows.zip(of_active.chunks_exact(quarter));
                for ((of_once, g), x) in rows.zip(between.once.chunks_exact(quarter)) {
                    (k.norm_gradient)(of_once, g, x, &mut norm);
                }
                convs[0].push(weights_of_rows::<E>(x, of_once, conv1));
                let (of_x, bias) = (&mut of_x[first * dim..][..count * dim], &no_biases[0]);
                block_times::<E>(of_x, of_once, &turned[0], bias, conv1.turned());
            }
        }
        let [conv1, conv2] = convs.map(|parts| added(parts, E::KERNELS));
        [conv1, (of_gamma, of_beta), conv2]
    }
}
