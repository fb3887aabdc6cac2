//! The decoder's layers over tokens, and its attention to the image with absorbed projections.

use crate::engine::Engine;
use crate::matrix::Linear;
use crate::vit::LinearWeights;

use super::AttentionWeights;

/// Layers with ReLU between them.
pub(super) struct Mlp<E: Engine>(pub(super) Vec<Linear<E>>);

impl<E: Engine> Mlp<E> {
    /// # Safety
    /// The CPU has the engine's level.
    pub(super) unsafe fn new(layers: &[LinearWeights<'_>]) -> Self {
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
    pub(super) unsafe fn forward(&self, x: &[f32]) -> Vec<f32> {
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
pub(super) unsafe fn linear<E: Engine>(layer: &LinearWeights<'_>) -> Linear<E> {
    // SAFETY: the caller promises the level.
    unsafe { Linear::new(layer.weight, Some(layer.bias), layer.bias.len()) }
}

/// An attention whose projections of tokens are plain and those of the image absorbed.
pub(super) struct Cross<E: Engine> {
    /// Of the tokens: `q` where they ask, `k` and `v` where they are asked. Scores are scaled here.
    pub(super) tokens: Vec<Linear<E>>,
    /// Per head: a token's query or key, `inner / heads`, to what it is multiplied with in the image, `dim`.
    pub(super) absorbed: Vec<Linear<E>>,
    /// Tokens to the image: per head `dim` to `inner / heads`. The image to tokens: per head `inner / heads` to `dim`.
    pub(super) values: Vec<Linear<E>>,
    /// Tokens to the image: `inner` to `dim`.
    pub(super) out: Option<Linear<E>>,
    /// Tokens to the image: the bias of values, `inner`. The image to tokens: the bias of queries, scaled.
    pub(super) bias: Vec<f32>,
    /// The image to tokens: the bias of the output, `dim`.
    pub(super) out_bias: Vec<f32>,
    pub(super) inner: usize,
}

/// `weight` `[inner, dim]` as one layer per head from `inner / heads` to `dim`: its transpose, absorbed.
///
/// # Safety
/// The CPU has the engine's level.
pub(super) unsafe fn heads_transposed<E: Engine>(
    weight: &[f32],
    dim: usize,
    heads: usize,
) -> Vec<Linear<E>> {
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
    pub(super) unsafe fn tokens_to_image(w: &AttentionWeights<'_>, heads: usize) -> Self {
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
    pub(super) unsafe fn image_to_tokens(w: &AttentionWeights<'_>, heads: usize) -> Self {
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
    pub(super) unsafe fn per_head(
        &self,
        layers: &[Linear<E>],
        x: &[f32],
        width: usize,
    ) -> Vec<f32> {
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

pub(super) struct SelfAttention<E: Engine> {
    pub(super) q: Linear<E>,
    pub(super) k: Linear<E>,
    pub(super) v: Linear<E>,
    pub(super) out: Linear<E>,
    pub(super) heads: usize,
}

impl<E: Engine> SelfAttention<E> {
    /// Attention among the `count` tokens of each prompt: `[rows, dim]` each.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(super) unsafe fn forward(&self, qk: &[f32], v: &[f32], count: usize) -> Vec<f32> {
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
