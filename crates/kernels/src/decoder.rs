//! The mask decoder, fused: prompts to predicted IoU and low-resolution mask logits, without a tensor per prompt and image
//! token ever leaving the caches.
//!
//! Follows `MaskDecoder` and `TwoWayTransformer` (segment-anything). What makes it fast, all of it exact but for rounding:
//!
//! - **The first block shares the image.** All prompts on an image see the same image tokens there, so their queries,
//!   keys and values are made once per image ([`DecoderImage`]).
//! - **Absorbed projections.** Later blocks never project the image's tokens: `q_h (X W_k)^T = (q_h W_k^T) X^T` for a
//!   prompt's few tokens, `A (X W_v + b) = (A X) W_v + b`, and `P_h V_h W_o` is one product over all heads.
//! - **One sweep per block.** Image tokens attend to the prompt's tokens, are normed, and are attended to by the next
//!   block's tokens, a few rows at a time: they are read and written once per block, whatever the number of heads.
//! - **IoU before pixels.** Only masks whose predicted IoU is wanted run their hypernetwork, and only their prompts are
//!   upscaled, from image tokens that are still in the cache.
//!
//! A prompt's result does not depend on the prompts beside it.

use std::sync::Arc;

use rayon::prelude::*;

use crate::aligned::{Aligned, Scratch, Shared};
use crate::engine::{Engine, STRIP, padded_rows, product};
use crate::level::Level;
use crate::matrix::{Linear, Norm};
use crate::precision::Precision;
use crate::profile::{self, Part};
use crate::rows::AnswerRows;
use crate::upscaling::{Upscaling, UpscalingWeights};
use crate::vit::{LinearWeights, NormWeights};

/// Image tokens that are worked on at once.
const CHUNK: usize = 128;
/// Rows of tokens whose layers run together: prompts are grouped to about as many.
const GROUP_ROWS: usize = 64;

/// An attention with separate projections.
#[derive(Clone, Copy, Debug)]
pub struct AttentionWeights<'a> {
    /// `dim` to `inner`.
    pub q: LinearWeights<'a>,
    /// `dim` to `inner`.
    pub k: LinearWeights<'a>,
    /// `dim` to `inner`.
    pub v: LinearWeights<'a>,
    /// `inner` to `dim`.
    pub out: LinearWeights<'a>,
}

/// A block of the two-way transformer.
#[derive(Clone, Copy, Debug)]
pub struct TwoWayWeights<'a> {
    /// Among tokens.
    pub self_attn: AttentionWeights<'a>,
    /// After it.
    pub norm1: NormWeights<'a>,
    /// From tokens to the image.
    pub token_to_image: AttentionWeights<'a>,
    /// After it.
    pub norm2: NormWeights<'a>,
    /// The MLP's layers, with ReLU between them.
    pub mlp: [LinearWeights<'a>; 2],
    /// After it.
    pub norm3: NormWeights<'a>,
    /// From the image to tokens.
    pub image_to_token: AttentionWeights<'a>,
    /// After it, over the image.
    pub norm4: NormWeights<'a>,
}

/// The weights of the mask decoder.
#[derive(Clone, Debug)]
pub struct DecoderWeights<'a> {
    /// The two-way transformer's blocks, at least one.
    pub blocks: Vec<TwoWayWeights<'a>>,
    /// From tokens to the image, at the end.
    pub final_attn: AttentionWeights<'a>,
    /// After it.
    pub norm_final: NormWeights<'a>,
    /// The IoU head's layers, with ReLU between them; applied to the first token.
    pub iou_head: Vec<LinearWeights<'a>>,
    /// A hypernetwork per mask token; mask i's is applied to token 1 + i.
    pub hypernetworks: Vec<Vec<LinearWeights<'a>>>,
    /// The transposed convolutions.
    pub upscaling: UpscalingWeights<'a>,
    /// Heads of every attention.
    pub heads: usize,
    /// Rows and columns of image tokens.
    pub grid: [usize; 2],
}

/// The mask decoder, its weights packed for this CPU.
#[derive(Clone)]
pub struct Decoder(Arc<dyn Share>);

/// An image as the decoder takes it, with all that its prompts share.
pub struct DecoderImage(Box<dyn Decode>);

/// Which masks are wanted.
pub struct Wanted<'a> {
    /// Of the decoder's masks, those to predict.
    pub masks: std::ops::Range<usize>,
    /// Given a prompt's predicted IoU of these masks, which are wanted: their places among them.
    pub choose: &'a (dyn Fn(&[f32]) -> Vec<usize> + Sync),
}

/// What came of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedPrompt {
    /// The predicted IoU of each mask of [`Wanted::masks`].
    pub predicted_iou: Vec<f32>,
    /// The low-resolution logits of those that are wanted, `[4 rows, 4 columns]`, row-major; none of the others.
    pub logits: Vec<Option<Vec<f32>>>,
}

trait Share: Send + Sync {
    fn share(self: Arc<Self>, image: &[f32], positions: &[f32]) -> DecoderImage;
}

trait Decode: Send + Sync {
    fn decode(&self, tokens: &[f32], count: usize, wanted: &Wanted<'_>) -> Vec<DecodedPrompt>;
    fn transform(&self, tokens: &[f32], count: usize) -> (Vec<f32>, Vec<f32>);
}

impl Decoder {
    /// Packs the weights for a level of the CPU.
    ///
    /// # Panics
    /// If sizes do not fit each other, or this CPU lacks the level.
    pub fn new(weights: &DecoderWeights<'_>, level: Level, precision: Precision) -> Self {
        crate::engine::with_engine!(level, precision, E => {
            // SAFETY: `with_engine` checks that the CPU has the level.
            Self(Arc::new(unsafe { Weights::<E>::new(weights) }))
        })
    }

    /// Makes what all prompts on an image share.
    ///
    /// # Shapes
    /// - `image`: `[rows, columns, dim]`, the embedding with the embedding of no mask, or of a mask, added
    /// - `positions`: `[rows, columns, dim]`, the image's positional encoding
    ///
    /// # Panics
    /// If these have other sizes.
    pub fn image(&self, image: &[f32], positions: &[f32]) -> DecoderImage {
        Arc::clone(&self.0).share(image, positions)
    }
}

impl DecoderImage {
    /// Decodes prompts, in parallel.
    ///
    /// # Shapes
    /// - `tokens`: `[prompts, count, dim]`: the IoU token, the mask tokens, and those of the prompt
    /// - output: one per prompt
    ///
    /// # Panics
    /// If `tokens` is not whole prompts.
    pub fn decode(&self, tokens: &[f32], count: usize, wanted: &Wanted<'_>) -> Vec<DecodedPrompt> {
        self.0.decode(tokens, count, wanted)
    }

    /// The transformer alone: tokens and image tokens of each prompt.
    ///
    /// # Shapes
    /// - `tokens`: as for [`DecoderImage::decode`]
    /// - output: `[prompts, count, dim]` and `[prompts, rows, columns, dim]`
    ///
    /// # Panics
    /// As [`DecoderImage::decode`].
    pub fn transform(&self, tokens: &[f32], count: usize) -> (Vec<f32>, Vec<f32>) {
        self.0.transform(tokens, count)
    }
}

/// Layers with ReLU between them.
struct Mlp<E: Engine>(Vec<Linear<E>>);

impl<E: Engine> Mlp<E> {
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new(layers: &[LinearWeights<'_>]) -> Self {
        // SAFETY: the caller promises the level.
        Self(
            layers
                .iter()
                .map(|layer| unsafe { linear(layer) })
                .collect(),
        )
    }

    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        for (i, layer) in self.0.iter().enumerate() {
            // SAFETY: the caller promises the level.
            x = unsafe { layer.forward(&x, i + 1 < self.0.len()) };
        }
        x
    }
}

/// # Safety
/// The CPU has the engine's level.
unsafe fn linear<E: Engine>(layer: &LinearWeights<'_>) -> Linear<E> {
    // SAFETY: the caller promises the level.
    unsafe { Linear::new(layer.weight, Some(layer.bias), layer.bias.len()) }
}

/// An attention whose projections of tokens are plain and those of the image absorbed.
struct Cross<E: Engine> {
    /// Of the tokens: `q` where they ask, `k` and `v` where they are asked. Scores are scaled here.
    tokens: Vec<Linear<E>>,
    /// Per head: a token's query or key, `inner / heads`, to what it is multiplied with in the image, `dim`.
    absorbed: Vec<Linear<E>>,
    /// Tokens to the image: per head `dim` to `inner / heads`. The image to tokens: per head `inner / heads` to `dim`.
    values: Vec<Linear<E>>,
    /// Tokens to the image: `inner` to `dim`.
    out: Option<Linear<E>>,
    /// Tokens to the image: the bias of values, `inner`. The image to tokens: the bias of queries, scaled.
    bias: Vec<f32>,
    /// The image to tokens: the bias of the output, `dim`.
    out_bias: Vec<f32>,
    inner: usize,
}

/// `weight` `[inner, dim]` as one layer per head from `inner / heads` to `dim`: its transpose, absorbed.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn heads_transposed<E: Engine>(weight: &[f32], dim: usize, heads: usize) -> Vec<Linear<E>> {
    let d = weight.len() / dim / heads;
    let head = |h: usize| {
        let transposed: Vec<f32> = (0..dim)
            .flat_map(|c| (0..d).map(move |i| weight[(h * d + i) * dim + c]))
            .collect();
        // SAFETY: the caller promises the level.
        unsafe { Linear::new(&transposed, None, dim) }
    };
    (0..heads).map(head).collect()
}

impl<E: Engine> Cross<E> {
    /// Tokens ask, the image answers.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn tokens_to_image(w: &AttentionWeights<'_>, heads: usize) -> Self {
        let (inner, dim) = (w.q.bias.len(), w.out.bias.len());
        let scale = ((inner / heads) as f32).powf(-0.5);
        let scaled = |values: &[f32]| -> Vec<f32> { values.iter().map(|v| v * scale).collect() };
        let d = inner / heads;
        // SAFETY: the caller promises the level.
        unsafe {
            Self {
                tokens: vec![Linear::new(
                    &scaled(w.q.weight),
                    Some(&scaled(w.q.bias)),
                    inner,
                )],
                // The bias of keys adds the same to all scores of a query: the softmax drops it.
                absorbed: heads_transposed(w.k.weight, dim, heads),
                values: w
                    .v
                    .weight
                    .chunks_exact(d * dim)
                    .map(|head| Linear::new(head, None, d))
                    .collect(),
                out: Some(linear(&w.out)),
                bias: w.v.bias.to_vec(),
                out_bias: Vec::new(),
                inner,
            }
        }
    }

    /// The image asks, tokens answer.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn image_to_tokens(w: &AttentionWeights<'_>, heads: usize) -> Self {
        let (inner, dim) = (w.q.bias.len(), w.out.bias.len());
        let scale = ((inner / heads) as f32).powf(-0.5);
        let scaled = |values: &[f32]| -> Vec<f32> { values.iter().map(|v| v * scale).collect() };
        let d = inner / heads;
        // `[dim, inner]` by columns of a head: `[dim, d]`, a layer from d to dim.
        let out = |h: usize| -> Vec<f32> {
            w.out
                .weight
                .chunks_exact(inner)
                .flat_map(|row| row[h * d..][..d].iter().copied())
                .collect()
        };
        // SAFETY: the caller promises the level.
        unsafe {
            Self {
                tokens: vec![
                    Linear::new(&scaled(w.k.weight), Some(&scaled(w.k.bias)), inner),
                    linear(&w.v),
                ],
                absorbed: heads_transposed(w.q.weight, dim, heads),
                values: (0..heads)
                    .map(|h| Linear::new(&out(h), None, dim))
                    .collect(),
                out: None,
                bias: w.q.bias.to_vec(),
                out_bias: w.out.bias.to_vec(),
                inner,
            }
        }
    }

    /// What each token and head is multiplied with in the image: `[rows, heads, dim]` of `[rows, inner]`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn per_head(&self, layers: &[Linear<E>], x: &[f32], width: usize) -> Vec<f32> {
        let heads = layers.len();
        let (inputs, outputs) = (layers[0].inputs, layers[0].outputs);
        let rows = x.len() / width;
        let mut result = vec![0.0; rows * heads * outputs];
        for (h, layer) in layers.iter().enumerate() {
            let part: Vec<f32> = x
                .chunks_exact(width)
                .flat_map(|row| row[h * inputs..][..inputs].iter().copied())
                .collect();
            // SAFETY: the caller promises the level.
            let made = unsafe { layer.forward(&part, false) };
            for (row, made) in made.chunks_exact(outputs).enumerate() {
                result[(row * heads + h) * outputs..][..outputs].copy_from_slice(made);
            }
        }
        result
    }
}

struct SelfAttention<E: Engine> {
    q: Linear<E>,
    k: Linear<E>,
    v: Linear<E>,
    out: Linear<E>,
    heads: usize,
}

impl<E: Engine> SelfAttention<E> {
    /// Attention among the `count` tokens of each prompt: `[rows, dim]` each.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn forward(&self, qk: &[f32], v: &[f32], count: usize) -> Vec<f32> {
        // SAFETY: the caller promises the level.
        let (q, k, v) = unsafe {
            (
                self.q.forward(qk, false),
                self.k.forward(qk, false),
                self.v.forward(v, false),
            )
        };
        let inner = self.q.outputs;
        let d = inner / self.heads;
        let scale = (d as f32).powf(-0.5);
        let mut y = vec![0.0; q.len()];
        let mut scores = vec![0.0; count];
        let prompts = q
            .chunks_exact(count * inner)
            .zip(k.chunks_exact(count * inner));
        let prompts = prompts
            .zip(v.chunks_exact(count * inner))
            .zip(y.chunks_exact_mut(count * inner));
        for (((q, k), v), y) in prompts {
            for (query, y) in q.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
                for head in (0..inner).step_by(d) {
                    let q = &query[head..head + d];
                    for (score, k) in scores.iter_mut().zip(k.chunks_exact(inner)) {
                        *score = q.iter().zip(&k[head..]).map(|(q, k)| q * k).sum::<f32>() * scale;
                    }
                    let most = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                    // SAFETY: the caller promises the level.
                    let total = unsafe { (E::KERNELS.exp_sum)(&mut scores, most) };
                    for (score, v) in scores.iter().zip(v.chunks_exact(inner)) {
                        let weight = score / total;
                        for (y, v) in y[head..head + d].iter_mut().zip(&v[head..]) {
                            *y += weight * v;
                        }
                    }
                }
            }
        }
        // SAFETY: the caller promises the level.
        unsafe { self.out.forward(&y, false) }
    }
}

struct Block<E: Engine> {
    self_attn: SelfAttention<E>,
    norm1: Norm,
    to_image: Cross<E>,
    norm2: Norm,
    mlp: Mlp<E>,
    norm3: Norm,
    to_tokens: Cross<E>,
    norm4: Norm,
}

/// The projections of the image in the first block, which prompts share.
struct SharedProjections<E: Engine> {
    /// Tokens to the image: keys and values.
    k: Linear<E>,
    v: Linear<E>,
    /// The image to tokens: queries.
    q: Linear<E>,
}

struct Weights<E: Engine> {
    blocks: Vec<Block<E>>,
    shared: SharedProjections<E>,
    final_attn: Cross<E>,
    norm_final: Norm,
    iou_head: Mlp<E>,
    hypernetworks: Vec<Mlp<E>>,
    upscaling: Upscaling<E>,
    heads: usize,
    grid: [usize; 2],
    dim: usize,
}

impl<E: Engine> Weights<E> {
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new(w: &DecoderWeights<'_>) -> Self {
        let heads = w.heads;
        // SAFETY: the caller promises the level.
        unsafe {
            let block = |b: &TwoWayWeights<'_>| Block {
                self_attn: SelfAttention {
                    q: linear(&b.self_attn.q),
                    k: linear(&b.self_attn.k),
                    v: linear(&b.self_attn.v),
                    out: linear(&b.self_attn.out),
                    heads,
                },
                norm1: Norm::new(b.norm1),
                to_image: Cross::tokens_to_image(&b.token_to_image, heads),
                norm2: Norm::new(b.norm2),
                mlp: Mlp::new(&b.mlp),
                norm3: Norm::new(b.norm3),
                to_tokens: Cross::image_to_tokens(&b.image_to_token, heads),
                norm4: Norm::new(b.norm4),
            };
            let first = &w.blocks[0];
            Self {
                blocks: w.blocks.iter().map(block).collect(),
                shared: SharedProjections {
                    k: linear(&first.token_to_image.k),
                    v: linear(&first.token_to_image.v),
                    q: linear(&first.image_to_token.q),
                },
                final_attn: Cross::tokens_to_image(&w.final_attn, heads),
                norm_final: Norm::new(w.norm_final),
                iou_head: Mlp::new(&w.iou_head),
                hypernetworks: w
                    .hypernetworks
                    .iter()
                    .map(|layers| Mlp::new(layers))
                    .collect(),
                upscaling: Upscaling::new(&w.upscaling),
                heads,
                grid: w.grid,
                dim: w.norm_final.gamma.len(),
            }
        }
    }
}

impl<E: Engine> Share for Weights<E> {
    fn share(self: Arc<Self>, image: &[f32], positions: &[f32]) -> DecoderImage {
        let dim = self.dim;
        let tokens = self.grid[0] * self.grid[1];
        assert!(image.len() == tokens * dim && positions.len() == tokens * dim);
        let chunks = tokens.div_ceil(CHUNK);
        let (k, v, q) = (&self.shared.k, &self.shared.v, &self.shared.q);
        let (left_k, left_q) = (E::left_len(CHUNK, k.outputs), E::left_len(CHUNK, q.outputs));
        let right_v = E::right_len(CHUNK, v.outputs);
        let mut keys = Aligned::zeros(chunks * left_k);
        let mut values = Aligned::zeros(chunks * right_v);
        let mut queries = Aligned::zeros(chunks * left_q);
        keys.par_chunks_exact_mut(left_k)
            .zip(values.par_chunks_exact_mut(right_v))
            .zip(queries.par_chunks_exact_mut(left_q))
            .enumerate()
            .for_each(|(chunk, ((keys, values), queries))| {
                profile::count(Part::Shared, 0, 0, || {
                    // SAFETY: the level was checked when the weights were packed.
                    let _session = unsafe { E::session() };
                    let part = |x: &[f32]| {
                        x.chunks(CHUNK * dim)
                            .nth(chunk)
                            .map(<[f32]>::to_vec)
                            .expect("as many chunks")
                    };
                    let x = part(image);
                    let rows = x.len() / dim;
                    let mut positioned = part(positions);
                    // SAFETY: the level was checked when the weights were packed.
                    unsafe {
                        (E::KERNELS.add)(&mut positioned, &x);
                        let made = k.forward(&positioned, false);
                        E::pack_left(keys, rows, k.outputs, 0..k.outputs, |r| {
                            &made[r * k.outputs..][..k.outputs]
                        });
                        let made = v.forward(&x, false);
                        E::pack_rows(values, rows, 0..rows, v.outputs, |r| {
                            &made[r * v.outputs..][..v.outputs]
                        });
                        let made = q.forward(&positioned, false);
                        E::pack_left(queries, rows, q.outputs, 0..q.outputs, |r| {
                            &made[r * q.outputs..][..q.outputs]
                        });
                    }
                })
            });
        DecoderImage(Box::new(Image {
            weights: self,
            image: image.to_vec(),
            positions: positions.to_vec(),
            keys,
            values,
            queries,
        }))
    }
}

/// An image and what its prompts share.
struct Image<E: Engine> {
    weights: Arc<Weights<E>>,
    /// `[tokens, dim]`
    image: Vec<f32>,
    /// `[tokens, dim]`
    positions: Vec<f32>,
    /// Per chunk, of the first block: the image's keys as a left factor, its values as a right one, and its queries as
    /// a left one.
    keys: Aligned<E::Element>,
    values: Aligned<E::Element>,
    queries: Aligned<E::Element>,
}

/// The attention of tokens to the image, while chunks of the image go by.
struct Gathered<E: Engine> {
    /// What scores are the products with, a right factor `[channels, heads of tokens]`.
    asked: Scratch<E::Element>,
    most: Vec<f32>,
    total: Vec<f32>,
    factors: Vec<f32>,
    /// `[heads of tokens, value channels]`
    sums: Scratch<f32>,
    channels: usize,
    value_channels: usize,
    columns: usize,
    empty: bool,
}

impl<E: Engine> Gathered<E> {
    /// `asked(j)`: what token and head j are multiplied with.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new<'a>(
        columns: usize,
        channels: usize,
        value_channels: usize,
        asked: impl FnMut(usize) -> &'a [f32],
    ) -> Self {
        let stride = columns.next_multiple_of(STRIP);
        let mut right = Scratch::take(E::right_len(channels, columns));
        // SAFETY: the caller promises the level.
        unsafe { E::pack_columns(&mut right, channels, columns, asked) };
        Self {
            asked: right,
            most: vec![f32::NEG_INFINITY; stride],
            total: vec![0.0; stride],
            factors: vec![0.0; stride],
            sums: Scratch::take(padded_rows(columns) * value_channels.next_multiple_of(STRIP)),
            channels,
            value_channels,
            columns,
            empty: true,
        }
    }

    /// Takes a chunk of the image: keys as a left factor, values as a right one.
    ///
    /// # Safety
    /// The CPU has the engine's level; factors have `rows` rows and this attention's channels.
    unsafe fn take(
        &mut self,
        rows: usize,
        keys: &[E::Element],
        values: &[E::Element],
        scores: &mut [f32],
        weights: &mut [E::Element],
    ) {
        let stride = self.columns.next_multiple_of(STRIP);
        let width = self.value_channels.next_multiple_of(STRIP);
        let depths = self.channels.div_ceil(E::DEPTH);
        // SAFETY: as the caller promises.
        unsafe {
            product::<E>(
                scores,
                stride,
                rows,
                stride,
                keys,
                &self.asked,
                depths,
                0..depths,
                false,
            );
            (E::KERNELS.columns_softmax)(
                &mut scores[..rows * stride],
                stride,
                &mut self.most,
                &mut self.total,
                &mut self.factors,
            );
            if !self.empty {
                for (sums, &factor) in self
                    .sums
                    .chunks_exact_mut(width)
                    .zip(&self.factors[..self.columns])
                {
                    if factor != 1.0 {
                        (E::KERNELS.scale)(sums, factor);
                    }
                }
            }
            E::pack_transposed(weights, scores, stride, rows, self.columns);
            let depths = rows.div_ceil(E::DEPTH);
            product::<E>(
                &mut self.sums,
                width,
                self.columns,
                width,
                weights,
                values,
                depths,
                0..depths,
                !self.empty,
            );
        }
        self.empty = false;
    }

    /// The averages of values, `[heads of tokens, value channels]`.
    fn finish(&mut self) -> Vec<f32> {
        let width = self.value_channels.next_multiple_of(STRIP);
        let rows = self
            .sums
            .chunks_exact(width)
            .zip(&self.total[..self.columns]);
        let rows = rows
            .flat_map(|(sums, total)| sums[..self.value_channels].iter().map(move |v| v / total));
        rows.collect()
    }
}

/// The attention of the image to a prompt's tokens.
struct Answer<E: Engine> {
    /// Keys of heads of tokens, a right factor `[channels, heads of tokens]`.
    keys: Scratch<E::Element>,
    /// What each head of a token adds to the image, a right factor `[heads of tokens, dim]`.
    values: Scratch<E::Element>,
    /// Added to scores; minus infinity for columns that fill the last strip.
    bias: Vec<f32>,
    channels: usize,
    columns: usize,
}

/// Working memory of a sweep.
struct Buffers<E: Engine> {
    scores: Scratch<f32>,
    weights: Scratch<E::Element>,
    transposed: Scratch<E::Element>,
    answers: Scratch<f32>,
    positioned: Scratch<f32>,
    left: Scratch<E::Element>,
    right: Scratch<E::Element>,
}

impl<E: Engine> Buffers<E> {
    fn new(columns: usize, dim: usize) -> Self {
        let stride = columns.next_multiple_of(STRIP);
        let rows = padded_rows(CHUNK);
        Self {
            scores: Scratch::take(rows * stride),
            weights: Scratch::take(E::left_len(CHUNK, stride)),
            transposed: Scratch::take(E::left_len(columns, CHUNK)),
            answers: Scratch::take(rows * dim.next_multiple_of(STRIP)),
            positioned: Scratch::take(CHUNK * dim),
            left: Scratch::take(E::left_len(CHUNK, dim)),
            right: Scratch::take(E::right_len(CHUNK, dim)),
        }
    }
}

/// `dst[i] = a[i] + b[i]`, both `[rows, dim]`.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn added<E: Engine>(a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut sum = a.to_vec();
    // SAFETY: the caller promises the level.
    unsafe { (E::KERNELS.add)(&mut sum, b) };
    sum
}

/// Layer norm of `x + y`, in place of `x`.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn norm_sum<E: Engine>(norm: &Norm, x: &mut [f32], y: Option<&[f32]>) {
    // SAFETY: the caller promises the level.
    unsafe {
        if let Some(y) = y {
            (E::KERNELS.add)(x, y);
        }
        norm.apply::<E>(x, norm.gamma.len());
    }
}

impl<E: Engine> Image<E> {
    /// Runs the transformer over the prompts of a group, and hands each prompt's image tokens, `[tokens, dim]`, and its
    /// tokens to `finish`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn group(
        &self,
        prompt_tokens: &[f32],
        count: usize,
        mut finish: impl FnMut(usize, &[f32], &[f32]),
    ) {
        let w = &*self.weights;
        let (dim, heads) = (w.dim, w.heads);
        let prompts = prompt_tokens.len() / (count * dim);
        let columns = count * heads;
        let mut queries = prompt_tokens.to_vec();
        let image_len = self.image.len();
        let mut images = Scratch::<f32>::take(prompts * image_len);
        let mut buffers = Buffers::<E>::new(columns, dim);
        // SAFETY: the caller promises the level.
        unsafe {
            let mut gathered = Vec::new();
            for (index, block) in w.blocks.iter().enumerate() {
                // Tokens among themselves.
                let attended = if index == 0 {
                    block.self_attn.forward(&queries, &queries, count)
                } else {
                    let positioned = added::<E>(&queries, prompt_tokens);
                    let attended = block.self_attn.forward(&positioned, &queries, count);
                    added::<E>(&queries, &attended)
                };
                queries = attended;
                norm_sum::<E>(&block.norm1, &mut queries, None);
                // Tokens to the image.
                if index == 0 {
                    let asked = self.ask_shared(
                        &block.to_image,
                        &added::<E>(&queries, prompt_tokens),
                        count,
                        &mut buffers,
                    );
                    norm_sum::<E>(&block.norm2, &mut queries, Some(&asked));
                } else {
                    self.conclude(
                        &block.to_image,
                        &mut gathered,
                        count,
                        &mut queries,
                        &block.norm2,
                    );
                }
                let hidden = block.mlp.forward(&queries);
                norm_sum::<E>(&block.norm3, &mut queries, Some(&hidden));
                // The image to tokens; then the next block's tokens, or the last attention's, to the image, in one sweep.
                let next = w.blocks.get(index + 1);
                // The next block's queries are those after its self attention, which needs no image.
                let (next_attention, asking) = match next {
                    Some(next) => {
                        let positioned = added::<E>(&queries, prompt_tokens);
                        let attended = next.self_attn.forward(&positioned, &queries, count);
                        let mut asking = added::<E>(&queries, &attended);
                        norm_sum::<E>(&next.norm1, &mut asking, None);
                        (&next.to_image, asking)
                    }
                    None => (&w.final_attn, queries.clone()),
                };
                gathered = self.ask(next_attention, &added::<E>(&asking, prompt_tokens), count);
                let keys =
                    block.to_tokens.tokens[0].forward(&added::<E>(&queries, prompt_tokens), false);
                let values = block.to_tokens.tokens[1].forward(&queries, false);
                for (prompt, gathered) in gathered.iter_mut().enumerate() {
                    let image = &mut images[prompt * image_len..][..image_len];
                    let inner = block.to_tokens.inner;
                    let part = prompt * count * inner..(prompt + 1) * count * inner;
                    let answer = self.answer(
                        &block.to_tokens,
                        &keys[part.clone()],
                        &values[part],
                        index == 0,
                    );
                    let rows = image_len / dim;
                    let flops = 2 * rows * columns * (answer.channels + 3 * dim);
                    let bytes = 3 * size_of_val(image);
                    profile::count(Part::Transformer, flops, bytes, || {
                        self.sweep(index == 0, block, &answer, gathered, image, &mut buffers);
                    });
                }
            }
            self.conclude(
                &w.final_attn,
                &mut gathered,
                count,
                &mut queries,
                &w.norm_final,
            );
        }
        for prompt in 0..prompts {
            let tokens = &queries[prompt * count * dim..][..count * dim];
            finish(prompt, tokens, &images[prompt * image_len..][..image_len]);
        }
    }

    /// What tokens ask of the image after the first block, one per prompt.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn ask(&self, attention: &Cross<E>, tokens: &[f32], count: usize) -> Vec<Gathered<E>> {
        let (dim, columns) = (self.weights.dim, count * self.weights.heads);
        // SAFETY: the caller promises the level.
        unsafe {
            let q = attention.tokens[0].forward(tokens, false);
            let asked = attention.per_head(&attention.absorbed, &q, attention.inner);
            let prompts = asked.chunks_exact(columns * dim);
            prompts
                .map(|asked| Gathered::new(columns, dim, dim, |j| &asked[j * dim..][..dim]))
                .collect()
        }
    }

    /// Ends the attention of tokens to the image: values, output, residual, norm.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn conclude(
        &self,
        attention: &Cross<E>,
        gathered: &mut [Gathered<E>],
        count: usize,
        queries: &mut [f32],
        norm: &Norm,
    ) {
        let (dim, heads) = (self.weights.dim, self.weights.heads);
        let averages: Vec<f32> = gathered.iter_mut().flat_map(Gathered::finish).collect();
        // SAFETY: the caller promises the level.
        unsafe {
            let values = attention.per_head(&attention.values, &averages, heads * dim);
            let values: Vec<f32> = values
                .chunks_exact(attention.inner)
                .flat_map(|row| row.iter().zip(&attention.bias).map(|(v, bias)| v + bias))
                .collect();
            debug_assert_eq!(values.len(), gathered.len() * count * attention.inner);
            let out = attention
                .out
                .as_ref()
                .expect("tokens that ask have an output layer");
            norm_sum::<E>(norm, queries, Some(&out.forward(&values, false)));
        }
    }

    /// The first block's attention of tokens to the image that all prompts share.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn ask_shared(
        &self,
        attention: &Cross<E>,
        tokens: &[f32],
        count: usize,
        buffers: &mut Buffers<E>,
    ) -> Vec<f32> {
        let (dim, heads, inner) = (self.weights.dim, self.weights.heads, attention.inner);
        let (d, columns) = (inner / heads, count * heads);
        let image_tokens = self.image.len() / dim;
        let (left, right) = (E::left_len(CHUNK, inner), E::right_len(CHUNK, inner));
        // SAFETY: the caller promises the level; chunks were packed by `share`.
        unsafe {
            let q = attention.tokens[0].forward(tokens, false);
            let mut values = Vec::with_capacity(q.len());
            for q in q.chunks_exact(count * inner) {
                let apart = heads_apart(q, inner, heads);
                let mut gathered =
                    Gathered::<E>::new(columns, inner, inner, |j| &apart[j * inner..][..inner]);
                let bytes = size_of_val(&*self.keys) + size_of_val(&*self.values);
                let flops = 4 * image_tokens * columns * inner;
                profile::count(Part::Transformer, flops, bytes, || {
                    for chunk in 0..image_tokens.div_ceil(CHUNK) {
                        let rows = CHUNK.min(image_tokens - chunk * CHUNK);
                        gathered.take(
                            rows,
                            &self.keys[chunk * left..][..left],
                            &self.values[chunk * right..][..right],
                            &mut buffers.scores,
                            &mut buffers.transposed,
                        );
                    }
                });
                let averages = gathered.finish();
                for token in averages.chunks_exact(heads * inner) {
                    for (h, row) in token.chunks_exact(inner).enumerate() {
                        values.extend_from_slice(&row[h * d..][..d]);
                    }
                }
            }
            let out = attention
                .out
                .as_ref()
                .expect("tokens that ask have an output layer");
            out.forward(&values, false)
        }
    }

    /// A prompt's keys and values, `[count, inner]` each, as the image's tokens meet them.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn answer(
        &self,
        attention: &Cross<E>,
        keys: &[f32],
        values: &[f32],
        shared: bool,
    ) -> Answer<E> {
        let (dim, heads, inner) = (self.weights.dim, self.weights.heads, attention.inner);
        let (d, columns) = (inner / heads, keys.len() / inner * heads);
        let channels = if shared { inner } else { dim };
        let mut packed_keys = Scratch::take(E::right_len(channels, columns));
        let mut packed_values = Scratch::take(E::right_len(columns, dim));
        // SAFETY: the caller promises the level.
        let bias = unsafe {
            let met = if shared {
                heads_apart(keys, inner, heads)
            } else {
                attention.per_head(&attention.absorbed, keys, inner)
            };
            E::pack_columns(&mut packed_keys, channels, columns, |j| {
                &met[j * channels..][..channels]
            });
            let given = attention.per_head(&attention.values, values, inner);
            E::pack_rows(&mut packed_values, columns, 0..columns, dim, |j| {
                &given[j * dim..][..dim]
            });
            // Shared queries have their bias.
            let mut bias: Vec<f32> = match shared {
                true => vec![0.0; columns],
                false => keys
                    .chunks_exact(d)
                    .zip(attention.bias.chunks_exact(d).cycle())
                    .map(|(k, bias)| k.iter().zip(bias).map(|(k, bias)| k * bias).sum())
                    .collect(),
            };
            // Columns that fill the last strip get no weight.
            bias.resize(columns.next_multiple_of(STRIP), f32::NEG_INFINITY);
            bias
        };
        Answer {
            keys: packed_keys,
            values: packed_values,
            bias,
            channels,
            columns,
        }
    }

    /// The image's tokens attend to a prompt's, are normed, and are attended to by `gathered`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn sweep(
        &self,
        first: bool,
        block: &Block<E>,
        answer: &Answer<E>,
        gathered: &mut Gathered<E>,
        image: &mut [f32],
        buffers: &mut Buffers<E>,
    ) {
        let (k, dim) = (E::KERNELS, self.weights.dim);
        let stride = answer.columns.next_multiple_of(STRIP);
        let width = dim.next_multiple_of(STRIP);
        let depths = answer.channels.div_ceil(E::DEPTH);
        let queries_len = E::left_len(CHUNK, self.weights.shared.q.outputs);
        let Buffers {
            scores,
            weights,
            transposed,
            answers,
            positioned,
            left,
            right,
        } = buffers;
        for chunk in 0..(self.image.len() / dim).div_ceil(CHUNK) {
            let part = chunk * CHUNK * dim..self.image.len().min((chunk + 1) * CHUNK * dim);
            let rows = part.len() / dim;
            let image = &mut image[part.clone()];
            let positions = &self.positions[part.clone()];
            // SAFETY: the caller promises the level; buffers are made for chunks.
            unsafe {
                let asking = if first {
                    &self.queries[chunk * queries_len..][..queries_len]
                } else {
                    (k.sum)(&mut positioned[..rows * dim], image, positions);
                    E::pack_left(left, rows, dim, 0..dim, |r| &positioned[r * dim..][..dim]);
                    &left[..]
                };
                product::<E>(
                    scores,
                    stride,
                    rows,
                    stride,
                    asking,
                    &answer.keys,
                    depths,
                    0..depths,
                    false,
                );
                (k.group_softmax)(
                    &mut scores[..rows * stride],
                    &answer.bias,
                    self.weights.heads,
                );
                E::pack_left(weights, rows, answer.columns, 0..answer.columns, |r| {
                    &scores[r * stride..][..answer.columns]
                });
                let depths = answer.columns.div_ceil(E::DEPTH);
                product::<E>(
                    answers,
                    width,
                    rows,
                    width,
                    weights,
                    &answer.values,
                    depths,
                    0..depths,
                    false,
                );
                let normed = AnswerRows {
                    answers,
                    stride: width,
                    bias: &block.to_tokens.out_bias,
                    gamma: &block.norm4.gamma,
                    beta: &block.norm4.beta,
                    epsilon: block.norm4.epsilon,
                    positions,
                };
                // In the first block from the image that all prompts share.
                let shared = first.then(|| &self.image[part]);
                (k.answer_rows)(image, positioned, shared, &normed);
                E::pack_left(left, rows, dim, 0..dim, |r| &positioned[r * dim..][..dim]);
                E::pack_rows(right, rows, 0..rows, dim, |r| &image[r * dim..][..dim]);
                gathered.take(rows, left, right, scores, transposed);
            }
        }
    }

    /// The wanted masks of a prompt's transformed tokens, `[count, dim]`, and image, `[tokens, dim]`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn masks(&self, tokens: &[f32], image: &[f32], wanted: &Wanted<'_>) -> DecodedPrompt {
        let w = &*self.weights;
        let token = |i: usize| &tokens[i * w.dim..][..w.dim];
        // SAFETY: the caller promises the level.
        unsafe {
            let iou = w.iou_head.forward(token(0));
            let predicted_iou = iou[wanted.masks.clone()].to_vec();
            let chosen = (wanted.choose)(&predicted_iou);
            let mut logits = vec![None; predicted_iou.len()];
            if !chosen.is_empty() {
                let masks = chosen.iter().map(|i| wanted.masks.start + i);
                let weights: Vec<Vec<f32>> = masks
                    .map(|mask| w.hypernetworks[mask].forward(token(1 + mask)))
                    .collect();
                let flops = w.upscaling.flops(w.grid, weights.len());
                let made = profile::count(Part::Upscaling, flops, size_of_val(image), || {
                    w.upscaling.masks(image, w.grid, &weights)
                });
                for (i, made) in chosen.into_iter().zip(made) {
                    logits[i] = Some(made);
                }
            }
            DecodedPrompt {
                predicted_iou,
                logits,
            }
        }
    }

    /// Prompts per group.
    fn group_size(count: usize) -> usize {
        (GROUP_ROWS / count).max(1)
    }
}

/// `[tokens, inner]` -> `[tokens, heads, inner]`, zero but for the head's own channels: a product over all channels is then
/// one over the head's.
fn heads_apart(x: &[f32], inner: usize, heads: usize) -> Vec<f32> {
    let d = inner / heads;
    let mut apart = vec![0.0; x.len() * heads];
    for (token, x) in x.chunks_exact(inner).enumerate() {
        for h in 0..heads {
            apart[(token * heads + h) * inner + h * d..][..d].copy_from_slice(&x[h * d..][..d]);
        }
    }
    apart
}

impl<E: Engine> Decode for Image<E> {
    fn decode(&self, tokens: &[f32], count: usize, wanted: &Wanted<'_>) -> Vec<DecodedPrompt> {
        let w = &*self.weights;
        let prompt = count * w.dim;
        assert!(
            tokens.len().is_multiple_of(prompt),
            "whole prompts of {count} tokens"
        );
        assert!(
            wanted.masks.end <= w.hypernetworks.len(),
            "masks that the decoder has"
        );
        let group = share_out(tokens.len() / prompt, Self::group_size(count));
        let groups: Vec<Vec<DecodedPrompt>> = tokens
            .par_chunks(group * prompt)
            .map(|tokens| {
                let mut decoded = Vec::new();
                profile::count(Part::Prompts, 0, 0, || {
                    // SAFETY: the level was checked when the weights were packed.
                    unsafe {
                        let _session = E::session();
                        self.group(tokens, count, |_, tokens, image| {
                            decoded.push(self.masks(tokens, image, wanted));
                        });
                    }
                });
                decoded
            })
            .collect();
        groups.into_iter().flatten().collect()
    }

    fn transform(&self, tokens: &[f32], count: usize) -> (Vec<f32>, Vec<f32>) {
        let prompt = count * self.weights.dim;
        assert!(
            tokens.len().is_multiple_of(prompt),
            "whole prompts of {count} tokens"
        );
        let prompts = tokens.len() / prompt;
        let mut out_tokens = vec![0.0; tokens.len()];
        let mut out_images = vec![0.0; prompts * self.image.len()];
        let shared_tokens = Shared::new(&mut out_tokens);
        let shared_images = Shared::new(&mut out_images);
        let group = share_out(prompts, Self::group_size(count));
        tokens
            .par_chunks(group * prompt)
            .enumerate()
            .for_each(|(i, tokens)| {
                // SAFETY: the level was checked when the weights were packed; each prompt's results are written once.
                unsafe {
                    let _session = E::session();
                    self.group(tokens, count, |p, tokens, image| {
                        let p = i * group + p;
                        shared_tokens
                            .part(p * prompt, prompt)
                            .copy_from_slice(tokens);
                        shared_images
                            .part(p * image.len(), image.len())
                            .copy_from_slice(image);
                    });
                }
            });
        (out_tokens, out_images)
    }
}

/// Prompts per task, at most `most`: few prompts are spread over the threads.
fn share_out(prompts: usize, most: usize) -> usize {
    prompts
        .div_ceil(rayon::current_num_threads())
        .clamp(1, most)
}
