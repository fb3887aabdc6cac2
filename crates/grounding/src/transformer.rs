//! The pre-norm transformer that both towers of CLIP and OWL-ViT are made of.
//!
//! Follows `CLIPEncoderLayer` (transformers) and `ResidualAttentionBlock` (open_clip).

use std::fmt;

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, activation};
use maskmill_kernels::layers::{gelu, layer_norm, linear};
use maskmill_kernels::{training_packed_attention, trains_here};
use maskmill_weights::Weights;

/// Epsilon of every norm (`layer_norm_eps` of the configurations, PyTorch's default).
pub(crate) const EPSILON: f64 = 1e-5;

/// The activation inside the MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)`, OpenAI's.
    QuickGelu,
    /// The exact (error-function) GELU.
    Gelu,
}

impl Activation {
    /// The activation of a name in `config.json`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "quick_gelu" => Some(Self::QuickGelu),
            "gelu" => Some(Self::Gelu),
            _ => None,
        }
    }

    fn forward(self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::QuickGelu => x.clone() * activation::sigmoid(x.mul_scalar(1.702)),
            Self::Gelu => gelu(x),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuickGelu => "quick-GELU",
            Self::Gelu => "GELU",
        })
    }
}

/// Sizes of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransformerSizes {
    /// Channels of a token.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLPs.
    pub mlp_dim: usize,
    /// The MLPs' activation.
    pub activation: Activation,
}

impl fmt::Display for TransformerSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} blocks x {} channels x {} heads, {}",
            self.layers, self.width, self.heads, self.activation
        )
    }
}

/// How a checkpoint names the parts of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyNames {
    /// `self_attn.q_proj`, `mlp.fc1`.
    HuggingFace,
    /// `attn.in_proj_weight`, `mlp.c_fc`.
    OpenClip,
}

/// Blocks of attention and MLP.
#[derive(Module, Debug)]
pub(crate) struct Transformer {
    layers: Vec<Layer>,
}

impl Transformer {
    /// `prefix`: what precedes the block's number in its keys.
    pub(crate) fn load(
        w: &mut Weights<'_>,
        names: KeyNames,
        prefix: &str,
        sizes: TransformerSizes,
    ) -> Self {
        let layers = 0..sizes.layers;
        Self {
            layers: layers
                .map(|i| Layer::load(w, names, &format!("{prefix}.{i}"), sizes))
                .collect(),
        }
    }

    /// `[batch, tokens, width]` -> the same. With `causal` a token attends to itself and those before.
    pub(crate) fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        self.layers
            .iter()
            .fold(x, |x, layer| layer.forward(x, causal))
    }
}

#[derive(Module, Debug)]
struct Layer {
    norm1: LayerNorm,
    qkv: Linear,
    out_proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    #[module(skip)]
    activation: Activation,
}

impl Layer {
    fn load(w: &mut Weights<'_>, names: KeyNames, prefix: &str, sizes: TransformerSizes) -> Self {
        let (width, mlp_dim) = (sizes.width, sizes.mlp_dim);
        let key = |name: &str| format!("{prefix}.{name}");
        let (norm1, attention, norm2, fc1, fc2) = match names {
            KeyNames::HuggingFace => (
                "layer_norm1",
                "self_attn",
                "layer_norm2",
                "mlp.fc1",
                "mlp.fc2",
            ),
            KeyNames::OpenClip => ("ln_1", "attn", "ln_2", "mlp.c_fc", "mlp.c_proj"),
        };
        // Queries, keys and values are one product, `[3 width, width]` as PyTorch's `in_proj_weight`.
        let qkv = |w: &mut Weights<'_>| match names {
            KeyNames::OpenClip => {
                let weight = w.values(&key("attn.in_proj_weight"), [3 * width, width]);
                let bias = w.values(&key("attn.in_proj_bias"), [3 * width]);
                w.linear_of(&weight, Some(bias), width, 3 * width)
            }
            KeyNames::HuggingFace => {
                let parts = ["q_proj", "k_proj", "v_proj"];
                let parts = parts.map(|part| key(&format!("self_attn.{part}")));
                w.fused_linear(&parts, width, width)
            }
        };
        Self {
            norm1: w.layer_norm(&key(norm1), width, EPSILON),
            qkv: qkv(w),
            out_proj: w.linear(&key(&format!("{attention}.out_proj")), width, width),
            norm2: w.layer_norm(&key(norm2), width, EPSILON),
            fc1: w.linear(&key(fc1), width, mlp_dim),
            fc2: w.linear(&key(fc2), mlp_dim, width),
            heads: sizes.heads,
            activation: sizes.activation,
        }
    }

    fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let normed = layer_norm(&self.norm1, EPSILON, x.clone());
        let x = x + self.attend(normed, causal);
        let normed = layer_norm(&self.norm2, EPSILON, x.clone());
        let hidden = self.activation.forward(linear(&self.fc1, normed));
        x + linear(&self.fc2, hidden)
    }

    fn attend(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let head_dim = width / self.heads;
        let qkv = linear(&self.qkv, x);
        if !causal && trains_here(&qkv) {
            let y = training_packed_attention(qkv, self.heads);
            return linear(&self.out_proj, y);
        }
        let qkv = qkv
            .reshape([batch, tokens, 3, self.heads, head_dim])
            .permute([2, 0, 3, 1, 4]);
        // Each `[batch, heads, tokens, head_dim]`.
        let part = |i: usize| {
            let part = qkv.clone().narrow(0, i, 1);
            part.reshape([batch, self.heads, tokens, head_dim])
        };
        let options = AttentionModuleOptions {
            is_causal: causal,
            ..AttentionModuleOptions::default()
        };
        let y = attention(part(0), part(1), part(2), None, None, options);
        let y = y.swap_dims(1, 2).reshape([batch, tokens, width]);
        linear(&self.out_proj, y)
    }
}
