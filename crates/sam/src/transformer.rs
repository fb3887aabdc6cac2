//! The two-way transformer of the mask decoder: prompt tokens and image tokens attend to each other.
//!
//! Follows `TwoWayTransformer` (segment-anything), with two departures that change only rounding:
//!
//! - **The first block shares the image.** Without mask prompts the image tokens have batch 1 while the
//!   prompts have batch B: until the first image-to-token attention every prompt sees the same image, and
//!   broadcasting projects it once.
//! - **Absorbed projections.** Later, attention between a few tokens and thousands of image tokens does not
//!   project the image: `q (X W)^T = (q W^T) X^T`, and the few tokens are projected instead. A ViT-B prompt
//!   of 7 tokens needs 117 instead of 275 million multiplications per cross attention.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{DType, Tensor, activation};
use maskmill_kernels::layers::linear;
use maskmill_kernels::{training_attention, trains_here};
use maskmill_weights::Weights;

use crate::architecture::{Architecture, DECODER_HEADS};
use crate::layers::{Mlp, normed};

/// Epsilon of the decoder's norms (PyTorch's default).
pub(crate) const EPSILON: f64 = 1e-5;

/// The two-way transformer.
#[derive(Module, Debug)]
pub struct TwoWayTransformer {
    layers: Vec<TwoWayBlock>,
    final_attn_token_to_image: Attention,
    norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    pub(crate) fn load(w: &mut Weights<'_>, a: &Architecture) -> Self {
        let prefix = "mask_decoder.transformer";
        Self {
            layers: (0..a.decoder_depth)
                .map(|i| TwoWayBlock::load(w, &format!("{prefix}.layers.{i}"), a, i == 0))
                .collect(),
            final_attn_token_to_image: Attention::load(
                w,
                &format!("{prefix}.final_attn_token_to_image"),
                a.embed_dim,
                a.cross_attention_dim,
            ),
            norm_final_attn: w.layer_norm(
                &format!("{prefix}.norm_final_attn"),
                a.embed_dim,
                EPSILON,
            ),
        }
    }

    /// In which numbers it takes its inputs and computes.
    pub(crate) fn dtype(&self) -> DType {
        self.final_attn_token_to_image.q_proj.weight.dtype()
    }

    /// # Shapes
    /// - `image`: `[1 or batch, image tokens, dim]`
    /// - `image_pe`: `[1, image tokens, dim]`
    /// - `tokens`: `[batch, tokens, dim]`
    /// - output: tokens `[batch, tokens, dim]` and image `[batch, image tokens, dim]`
    pub fn forward(
        &self,
        image: Tensor<3>,
        image_pe: Tensor<3>,
        tokens: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        let mut queries = tokens.clone();
        let mut keys = image;
        for layer in &self.layers {
            (queries, keys) = layer.forward(queries, keys, tokens.clone(), image_pe.clone());
        }
        let attended = self.final_attn_token_to_image.tokens_to_image(
            queries.clone() + tokens,
            keys.clone() + image_pe,
            keys.clone(),
        );
        (
            normed(&self.norm_final_attn, EPSILON, queries + attended),
            keys,
        )
    }
}

#[derive(Module, Debug)]
struct TwoWayBlock {
    self_attn: Attention,
    norm1: LayerNorm,
    cross_attn_token_to_image: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    norm3: LayerNorm,
    norm4: LayerNorm,
    cross_attn_image_to_token: Attention,
    /// The first block's self attention has no positions and replaces its input
    /// (`skip_first_layer_pe`).
    first: bool,
}

impl TwoWayBlock {
    fn load(w: &mut Weights<'_>, prefix: &str, a: &Architecture, first: bool) -> Self {
        let (dim, cross) = (a.embed_dim, a.cross_attention_dim);
        let key = |name: &str| format!("{prefix}.{name}");
        Self {
            self_attn: Attention::load(w, &key("self_attn"), dim, dim),
            norm1: w.layer_norm(&key("norm1"), dim, EPSILON),
            cross_attn_token_to_image: Attention::load(
                w,
                &key("cross_attn_token_to_image"),
                dim,
                cross,
            ),
            norm2: w.layer_norm(&key("norm2"), dim, EPSILON),
            mlp: Mlp::load(w, &key("mlp"), dim, a.decoder_mlp_dim),
            norm3: w.layer_norm(&key("norm3"), dim, EPSILON),
            norm4: w.layer_norm(&key("norm4"), dim, EPSILON),
            cross_attn_image_to_token: Attention::load(
                w,
                &key("cross_attn_image_to_token"),
                dim,
                cross,
            ),
            first,
        }
    }

    fn forward(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        query_pe: Tensor<3>,
        key_pe: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        let queries = if self.first {
            self.self_attn
                .forward(queries.clone(), queries.clone(), queries)
        } else {
            let q = queries.clone() + query_pe.clone();
            queries.clone() + self.self_attn.forward(q.clone(), q, queries)
        };
        let queries = normed(&self.norm1, EPSILON, queries);

        let k = keys.clone() + key_pe;
        let q = queries.clone() + query_pe.clone();
        let attention = &self.cross_attn_token_to_image;
        // The first block's image is shared by all prompts: projecting it once is cheaper still.
        let attended = match self.first {
            true => attention.forward(q, k.clone(), keys.clone()),
            false => attention.tokens_to_image(q, k.clone(), keys.clone()),
        };
        let queries = normed(&self.norm2, EPSILON, queries + attended);

        let hidden = self.mlp.relu(queries.clone());
        let queries = normed(&self.norm3, EPSILON, queries + hidden);

        let q = queries.clone() + query_pe;
        let attention = &self.cross_attn_image_to_token;
        let attended = match self.first {
            true => attention.forward(k, q, queries.clone()),
            false => attention.image_to_tokens(k, q, queries.clone()),
        };
        (queries, normed(&self.norm4, EPSILON, keys + attended))
    }
}

/// Multi-head attention with separate projections, optionally narrower inside
/// (`attention_downsample_rate`).
#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
}

impl Attention {
    fn load(w: &mut Weights<'_>, prefix: &str, dim: usize, inner: usize) -> Self {
        Self {
            q_proj: w.linear(&format!("{prefix}.q_proj"), dim, inner),
            k_proj: w.linear(&format!("{prefix}.k_proj"), dim, inner),
            v_proj: w.linear(&format!("{prefix}.v_proj"), dim, inner),
            out_proj: w.linear(&format!("{prefix}.out_proj"), inner, dim),
        }
    }

    /// `q` `[batch, queries, dim]`, `k` and `v` `[batch, keys, dim]`, where a batch of 1 is shared.
    fn forward(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let [q, k, v] = [(&self.q_proj, q), (&self.k_proj, k), (&self.v_proj, v)]
            .map(|(projection, x)| linear(projection, x));
        if trains_here(&q) && q.dims()[0] == k.dims()[0] {
            return linear(&self.out_proj, training_attention(q, k, v, DECODER_HEADS));
        }
        let [q, k, v] = [q, k, v].map(split_heads);
        let scale = 1.0 / (q.dims()[3] as f64).sqrt();
        let attention = activation::softmax(q.matmul(k.transpose()).mul_scalar(scale), 3);
        let y = attention.matmul(v);
        let [batch, heads, tokens, head_dim] = y.dims();
        let y = y.swap_dims(1, 2).reshape([batch, tokens, heads * head_dim]);
        self.out_proj.forward(y)
    }
}

/// Attention whose keys and values, or queries, are the many image tokens. Each form falls back to
/// [`Attention::forward`] where absorbing would cost more: many tokens, or a narrow decoder. The choice
/// depends on shapes other than the batch, so that a prompt's result does not depend on its batch.
impl Attention {
    /// Tokens attend to the image: `tokens` `[batch, tokens, dim]`, `k` and `v` `[batch, image, dim]`.
    fn tokens_to_image(&self, tokens: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let [batch, count, dim] = tokens.dims();
        if trains_here(&tokens) || !self.absorbs(count) {
            return self.forward(tokens, k, v);
        }
        let q = split_heads(self.q_proj.forward(tokens));
        let [_, heads, _, head_dim] = q.dims();
        // The key bias adds the same to all scores of a query: the softmax drops it.
        let q = q
            .mul_scalar(1.0 / (head_dim as f64).sqrt())
            .matmul(heads_of_columns(&self.k_proj).transpose())
            .reshape([batch, heads * count, dim]);
        let attention = activation::softmax(q.matmul(k.transpose()), 2);
        // Rows of the softmax sum to 1, so the value bias passes through unchanged.
        let y = attention
            .matmul(v)
            .reshape([batch, heads, count, dim])
            .matmul(heads_of_columns(&self.v_proj))
            .swap_dims(1, 2)
            .reshape([batch, count, heads * head_dim]);
        let bias = bias_of(&self.v_proj);
        self.out_proj.forward(y + bias.unsqueeze())
    }

    /// The image attends to tokens: `q` `[batch, image, dim]`, `k` and `v` `[batch, tokens, dim]`.
    fn image_to_tokens(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let [batch, count, dim] = k.dims();
        if trains_here(&q) || !self.absorbs(count) {
            return self.forward(q, k, v);
        }
        let [_, image, _] = q.dims();
        let k = split_heads(self.k_proj.forward(k));
        let [_, heads, _, head_dim] = k.dims();
        let k = k.mul_scalar(1.0 / (head_dim as f64).sqrt());
        let bias = bias_of(&self.q_proj);
        let bias = bias.reshape([1, heads, head_dim, 1]);
        let from_bias = k.clone().matmul(bias).reshape([batch, 1, heads * count]);
        let k = k
            .matmul(heads_of_columns(&self.q_proj).transpose())
            .reshape([batch, heads * count, dim]);
        let scores = q.matmul(k.transpose()) + from_bias;
        let attention = activation::softmax(scores.reshape([batch, image, heads, count]), 3)
            .reshape([batch, image, heads * count]);
        let out = self
            .out_proj
            .weight
            .val()
            .reshape([1, heads, head_dim, dim]);
        let v =
            split_heads(self.v_proj.forward(v))
                .matmul(out)
                .reshape([batch, heads * count, dim]);
        let bias = bias_of(&self.out_proj);
        attention.matmul(v) + bias.unsqueeze()
    }

    /// Whether `tokens` tokens times all heads are fewer than the channels they would be projected to.
    fn absorbs(&self, tokens: usize) -> bool {
        DECODER_HEADS * tokens < self.q_proj.weight.dims()[1]
    }
}

/// `[inner]`
fn bias_of(projection: &Linear) -> Tensor<1> {
    let bias = projection.bias.as_ref();
    bias.expect("every projection has a bias").val()
}

/// A projection's columns by head: `[dim, inner]` -> `[1, heads, dim, inner / heads]`.
fn heads_of_columns(projection: &Linear) -> Tensor<4> {
    let weight = projection.weight.val();
    let [dim, inner] = weight.dims();
    weight
        .reshape([1, dim, DECODER_HEADS, inner / DECODER_HEADS])
        .swap_dims(1, 2)
}

/// `[batch, tokens, dim]` -> `[batch, heads, tokens, dim / heads]`
fn split_heads(x: Tensor<3>) -> Tensor<4> {
    let [batch, tokens, dim] = x.dims();
    x.reshape([batch, tokens, DECODER_HEADS, dim / DECODER_HEADS])
        .swap_dims(1, 2)
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn attention(dim: usize, inner: usize, device: &Device) -> Attention {
        let linear = |input, output| LinearConfig::new(input, output).init(device);
        Attention {
            q_proj: linear(dim, inner),
            k_proj: linear(dim, inner),
            v_proj: linear(dim, inner),
            out_proj: linear(inner, dim),
        }
    }

    fn close(a: Tensor<3>, b: Tensor<3>) -> bool {
        let scale: f32 = b.clone().abs().max().into_scalar();
        let error: f32 = (a - b).abs().max().into_scalar();
        scale > 0.0 && error <= 2e-6 * scale
    }

    #[test]
    fn absorbed_projections_equal_plain_ones() {
        let device = Device::flex();
        device.seed(7);
        let random =
            |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        for (batch, tokens, image) in [(3, 7, 50), (1, 1, 33), (2, 15, 9)] {
            let attention = attention(256, 128, &device);
            assert!(attention.absorbs(tokens));
            let [q, k] = [random([batch, tokens, 256]), random([batch, tokens, 256])];
            let [x, y] = [random([batch, image, 256]), random([batch, image, 256])];
            let plain = attention.forward(q.clone(), x.clone(), y.clone());
            assert!(close(attention.tokens_to_image(q, x.clone(), y), plain));
            let v = random([batch, tokens, 256]);
            let plain = attention.forward(x.clone(), k.clone(), v.clone());
            assert!(close(attention.image_to_tokens(x, k, v), plain));
        }
    }

    #[test]
    fn a_prompt_does_not_depend_on_its_batch() {
        let device = Device::flex();
        device.seed(8);
        let attention = attention(256, 128, &device);
        let random =
            |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (tokens, image) = (random([5, 7, 256]), random([5, 300, 256]));
        let of = |tokens: Tensor<3>, image: Tensor<3>| {
            let from = attention.tokens_to_image(tokens.clone(), image.clone(), image.clone());
            let to = attention.image_to_tokens(image, tokens.clone(), tokens);
            (from.into_data(), to.into_data())
        };
        let (from, to) = of(tokens.clone(), image.clone());
        for i in 0..5 {
            let part = |x: &Tensor<3>| x.clone().narrow(0, i, 1);
            let whole = |data: &burn::tensor::TensorData| {
                part(&Tensor::from_data(data.clone(), &device)).into_data()
            };
            let alone = of(part(&tokens), part(&image));
            assert_eq!(alone, (whole(&from), whole(&to)), "prompt {i}");
        }
    }

    #[test]
    fn many_tokens_or_a_narrow_decoder_project_plainly() {
        let device = Device::flex();
        assert!(!attention(256, 128, &device).absorbs(16));
        assert!(!attention(64, 32, &device).absorbs(7));
    }
}
