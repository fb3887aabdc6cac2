//! The two-way transformer of the mask decoder: prompt tokens and image tokens attend to each other.
//!
//! Follows `TwoWayTransformer` (segment-anything). The image tokens may have batch 1 while the prompts
//! have batch B: until the first image-to-token attention every prompt sees the same image, and
//! broadcasting computes that part once.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Tensor, activation};

use crate::architecture::{Architecture, DECODER_HEADS};
use crate::layers::Mlp;
use crate::weights::Weights;

/// Epsilon of the decoder's norms (PyTorch's default).
const EPSILON: f64 = 1e-5;

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
        let attended = self.final_attn_token_to_image.forward(
            queries.clone() + tokens,
            keys.clone() + image_pe,
            keys.clone(),
        );
        (self.norm_final_attn.forward(queries + attended), keys)
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
        let queries = self.norm1.forward(queries);

        let k = keys.clone() + key_pe;
        let attended = self.cross_attn_token_to_image.forward(
            queries.clone() + query_pe.clone(),
            k.clone(),
            keys.clone(),
        );
        let queries = self.norm2.forward(queries + attended);

        let hidden = self.mlp.relu(queries.clone());
        let queries = self.norm3.forward(queries + hidden);

        let attended =
            self.cross_attn_image_to_token
                .forward(k, queries.clone() + query_pe, queries.clone());
        (queries, self.norm4.forward(keys + attended))
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
        let q = split_heads(self.q_proj.forward(q));
        let k = split_heads(self.k_proj.forward(k));
        let v = split_heads(self.v_proj.forward(v));
        let scale = 1.0 / (q.dims()[3] as f64).sqrt();
        let attention = activation::softmax(q.matmul(k.transpose()).mul_scalar(scale), 3);
        let y = attention.matmul(v);
        let [batch, heads, tokens, head_dim] = y.dims();
        let y = y.swap_dims(1, 2).reshape([batch, tokens, heads * head_dim]);
        self.out_proj.forward(y)
    }
}

/// `[batch, tokens, dim]` -> `[batch, heads, tokens, dim / heads]`
fn split_heads(x: Tensor<3>) -> Tensor<4> {
    let [batch, tokens, dim] = x.dims();
    x.reshape([batch, tokens, DECODER_HEADS, dim / DECODER_HEADS])
        .swap_dims(1, 2)
}
