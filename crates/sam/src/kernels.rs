//! SAM by the kernels for CPUs of `maskmill-kernels`: the same functions as the modules in Burn's operations, whose tests
//! compare the two.

use std::sync::Arc;

use burn::tensor::Tensor;
use maskmill_kernels::{
    AttentionWeights, BlockWeights, Decoder, DecoderImage, DecoderWeights, Level, LinearWeights,
    Neck, NeckWeights, NormWeights, PatchEmbed, PatchWeights, Precision, TwoWayWeights,
    UpConvWeights, UpscalingWeights, VitBlock, neck, patch_embed, vit_block,
};
use maskmill_weights::{Weights, to_host};

use crate::architecture::{Architecture, DECODER_HEADS};
use crate::image_encoder::interpolation;
use crate::layers::ENCODER_EPSILON;
use crate::transformer::EPSILON as DECODER_EPSILON;

/// The image encoder and the mask decoder, packed for this CPU.
pub(crate) struct Kernels {
    patch_embed: Arc<PatchEmbed>,
    blocks: Vec<Arc<VitBlock>>,
    neck: Arc<Neck>,
    decoder: Decoder,
    /// The IoU token and the mask tokens, `[1 + masks, dim]`.
    output_tokens: Vec<f32>,
    dim: usize,
}

/// A linear layer's values, as PyTorch has them.
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    fn load(w: &mut Weights<'_>, prefix: &str, input: usize, output: usize) -> Self {
        Self {
            weight: w.values(&format!("{prefix}.weight"), [output, input]),
            bias: w.values(&format!("{prefix}.bias"), [output]),
        }
    }

    fn get(&self) -> LinearWeights<'_> {
        LinearWeights {
            weight: &self.weight,
            bias: &self.bias,
        }
    }

    /// Where the weight is a transposed convolution's.
    fn up_conv(&self) -> UpConvWeights<'_> {
        UpConvWeights {
            weight: &self.weight,
            bias: &self.bias,
        }
    }
}

fn layers_of(layers: &[Linear]) -> Vec<LinearWeights<'_>> {
    layers.iter().map(Linear::get).collect()
}

/// A layer norm's values.
struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn load(w: &mut Weights<'_>, prefix: &str, dim: usize, epsilon: f64) -> Self {
        Self {
            gamma: w.values(&format!("{prefix}.weight"), [dim]),
            beta: w.values(&format!("{prefix}.bias"), [dim]),
            epsilon: epsilon as f32,
        }
    }

    fn get(&self) -> NormWeights<'_> {
        NormWeights {
            gamma: &self.gamma,
            beta: &self.beta,
            epsilon: self.epsilon,
        }
    }
}

impl Kernels {
    pub(crate) fn load(
        w: &mut Weights<'_>,
        a: &Architecture,
        level: Level,
        precision: Precision,
    ) -> Self {
        let dim = a.embed_dim;
        let blocks = (0..a.windows.len())
            .map(|i| Arc::new(load_block(w, a, i, level, precision)))
            .collect();
        let mut output_tokens = w.values("mask_decoder.iou_token.weight", [1, dim]);
        output_tokens.extend(w.values("mask_decoder.mask_tokens.weight", [a.mask_tokens, dim]));
        Self {
            patch_embed: Arc::new(load_patch_embed(w, a, level, precision)),
            blocks,
            neck: Arc::new(load_neck(w, a, level, precision)),
            decoder: load_decoder(w, a, level, precision),
            output_tokens,
            dim,
        }
    }

    /// Embeds normalised, padded images: `[batch, image_size, image_size, 3]` -> `[batch, grid, grid, embed_dim]`.
    pub(crate) fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        let x = patch_embed(images, &self.patch_embed);
        neck(self.blocks.iter().fold(x, vit_block), &self.neck)
    }

    /// Every stage in order, as [`ImageEncoder::stages`](crate::ImageEncoder::stages).
    pub(crate) fn encoder_stages(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut stages = vec![patch_embed(images, &self.patch_embed)];
        for block in &self.blocks {
            stages.push(vit_block(stages[stages.len() - 1].clone(), block));
        }
        stages.push(neck(stages[stages.len() - 1].clone(), &self.neck));
        stages
    }

    /// What all prompts on an image share.
    ///
    /// # Shapes
    /// - `embedding`, `positions`: `[1, grid, grid, dim]`
    /// - `dense`: `[1, grid, grid, dim]` of a mask, or `[1, 1, 1, dim]` where there is none
    pub(crate) fn image(
        &self,
        embedding: &Tensor<4>,
        positions: &Tensor<4>,
        dense: Tensor<4>,
    ) -> DecoderImage {
        let image = to_host(embedding.clone() + dense);
        self.decoder.image(&image, &to_host(positions.clone()))
    }

    /// The decoder's tokens for prompts: their number per prompt, and `[prompts, tokens, dim]`.
    ///
    /// # Shapes
    /// - `sparse`: `[prompts, n, dim]`, or none of prompts of a mask alone
    pub(crate) fn tokens(&self, sparse: Option<Tensor<3>>, prompts: usize) -> (usize, Vec<f32>) {
        let own = self.output_tokens.len() / self.dim;
        let Some(sparse) = sparse else {
            return (own, self.output_tokens.repeat(prompts));
        };
        let [_, n, dim] = sparse.dims();
        let prompts = to_host(sparse);
        let tokens = prompts.chunks_exact(n * dim);
        let tokens = tokens.flat_map(|prompt| [&self.output_tokens[..], prompt].concat());
        (own + n, tokens.collect())
    }
}

fn load_patch_embed(
    w: &mut Weights<'_>,
    a: &Architecture,
    level: Level,
    precision: Precision,
) -> PatchEmbed {
    let (dim, grid, patch) = (a.encoder_dim, a.grid(), a.patch_size);
    let prefix = "image_encoder.patch_embed.proj";
    let weight = w.values(&format!("{prefix}.weight"), [dim, 3, patch, patch]);
    let bias = w.values(&format!("{prefix}.bias"), [dim]);
    let positions = w.values("image_encoder.pos_embed", [1, grid, grid, dim]);
    let weights = PatchWeights {
        weight: &weight,
        bias: &bias,
        positions: &positions,
        patch,
        grid: [grid; 2],
    };
    PatchEmbed::new(&weights, level, precision)
}

fn load_block(
    w: &mut Weights<'_>,
    a: &Architecture,
    index: usize,
    level: Level,
    precision: Precision,
) -> VitBlock {
    let prefix = format!("image_encoder.blocks.{index}");
    let key = |name: &str| format!("{prefix}.{name}");
    let (dim, heads, window) = (a.encoder_dim, a.encoder_heads, a.windows[index]);
    let size = window.unwrap_or(a.grid());
    let norm1 = Norm::load(w, &key("norm1"), dim, ENCODER_EPSILON);
    let qkv = Linear::load(w, &key("attn.qkv"), dim, 3 * dim);
    // A global block's table may be of any length: it is interpolated to the grid.
    let mut table = |axis: &str| {
        let key = key(&format!("attn.rel_pos_{axis}"));
        let found = w.checkpoint_shape(&key).map(|shape| shape[0]);
        let length = found.unwrap_or(2 * size - 1);
        let values = w.values(&key, [length, dim / heads]);
        resized_table(values, length, 2 * size - 1)
    };
    let (rel_pos_h, rel_pos_w) = (table("h"), table("w"));
    let proj = Linear::load(w, &key("attn.proj"), dim, dim);
    let norm2 = Norm::load(w, &key("norm2"), dim, ENCODER_EPSILON);
    let lin1 = Linear::load(w, &key("mlp.lin1"), dim, a.encoder_mlp_dim);
    let lin2 = Linear::load(w, &key("mlp.lin2"), a.encoder_mlp_dim, dim);
    let weights = BlockWeights {
        norm1: norm1.get(),
        qkv: qkv.get(),
        rel_pos_h: &rel_pos_h,
        rel_pos_w: &rel_pos_w,
        proj: proj.get(),
        norm2: norm2.get(),
        lin1: lin1.get(),
        lin2: lin2.get(),
        heads,
        window,
        grid: [a.grid(); 2],
    };
    VitBlock::new(&weights, level, precision)
}

/// A table of relative positions of another length: `[from, d]` -> `[to, d]`.
fn resized_table(table: Vec<f32>, from: usize, to: usize) -> Vec<f32> {
    if from == to {
        return table;
    }
    let d = table.len() / from;
    let row = |i: usize| &table[i * d..][..d];
    interpolation(from, to)
        .flat_map(|(low, high, weight)| {
            let pairs = row(low).iter().zip(row(high));
            pairs.map(move |(low, high)| low * (1.0 - weight) + high * weight)
        })
        .collect()
}

fn load_neck(w: &mut Weights<'_>, a: &Architecture, level: Level, precision: Precision) -> Neck {
    let (dim, out) = (a.encoder_dim, a.embed_dim);
    let conv1 = w.values("image_encoder.neck.0.weight", [out, dim, 1, 1]);
    let norm1 = Norm::load(w, "image_encoder.neck.1", out, ENCODER_EPSILON);
    let conv2 = w.values("image_encoder.neck.2.weight", [out, out, 3, 3]);
    let norm2 = Norm::load(w, "image_encoder.neck.3", out, ENCODER_EPSILON);
    let weights = NeckWeights {
        conv1: &conv1,
        norm1: norm1.get(),
        conv2: &conv2,
        norm2: norm2.get(),
        grid: [a.grid(); 2],
    };
    Neck::new(&weights, level, precision)
}

/// An attention's four layers.
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    fn load(w: &mut Weights<'_>, prefix: &str, dim: usize, inner: usize) -> Self {
        let key = |name: &str| format!("{prefix}.{name}_proj");
        Self {
            q: Linear::load(w, &key("q"), dim, inner),
            k: Linear::load(w, &key("k"), dim, inner),
            v: Linear::load(w, &key("v"), dim, inner),
            out: Linear::load(w, &key("out"), inner, dim),
        }
    }

    fn get(&self) -> AttentionWeights<'_> {
        AttentionWeights {
            q: self.q.get(),
            k: self.k.get(),
            v: self.v.get(),
            out: self.out.get(),
        }
    }
}

struct TwoWayBlock {
    self_attn: Attention,
    token_to_image: Attention,
    image_to_token: Attention,
    mlp: [Linear; 2],
    norms: [Norm; 4],
}

impl TwoWayBlock {
    fn load(w: &mut Weights<'_>, prefix: &str, a: &Architecture) -> Self {
        let (dim, cross, hidden) = (a.embed_dim, a.cross_attention_dim, a.decoder_mlp_dim);
        let key = |name: &str| format!("{prefix}.{name}");
        Self {
            self_attn: Attention::load(w, &key("self_attn"), dim, dim),
            token_to_image: Attention::load(w, &key("cross_attn_token_to_image"), dim, cross),
            image_to_token: Attention::load(w, &key("cross_attn_image_to_token"), dim, cross),
            mlp: [
                Linear::load(w, &key("mlp.lin1"), dim, hidden),
                Linear::load(w, &key("mlp.lin2"), hidden, dim),
            ],
            norms: [1, 2, 3, 4]
                .map(|i| Norm::load(w, &key(&format!("norm{i}")), dim, DECODER_EPSILON)),
        }
    }

    fn get(&self) -> TwoWayWeights<'_> {
        let [norm1, norm2, norm3, norm4] = self.norms.each_ref().map(Norm::get);
        TwoWayWeights {
            self_attn: self.self_attn.get(),
            norm1,
            token_to_image: self.token_to_image.get(),
            norm2,
            mlp: self.mlp.each_ref().map(Linear::get),
            norm3,
            image_to_token: self.image_to_token.get(),
            norm4,
        }
    }
}

/// The layers of an MLP of the decoder's heads. `dims`: input, hidden..., output.
fn load_mlp(w: &mut Weights<'_>, prefix: &str, dims: &[usize]) -> Vec<Linear> {
    let layers = dims.windows(2).enumerate();
    layers
        .map(|(i, io)| Linear::load(w, &format!("{prefix}.layers.{i}"), io[0], io[1]))
        .collect()
}

fn load_decoder(
    w: &mut Weights<'_>,
    a: &Architecture,
    level: Level,
    precision: Precision,
) -> Decoder {
    let (dim, cross) = (a.embed_dim, a.cross_attention_dim);
    let prefix = "mask_decoder.transformer";
    let blocks: Vec<TwoWayBlock> = (0..a.decoder_depth)
        .map(|i| TwoWayBlock::load(w, &format!("{prefix}.layers.{i}"), a))
        .collect();
    let final_attn = Attention::load(
        w,
        &format!("{prefix}.final_attn_token_to_image"),
        dim,
        cross,
    );
    let norm_final = Norm::load(
        w,
        &format!("{prefix}.norm_final_attn"),
        dim,
        DECODER_EPSILON,
    );
    let mut iou_dims = vec![dim];
    iou_dims.resize(a.iou_head_depth, a.iou_head_dim);
    iou_dims.push(a.mask_tokens);
    let iou_head = load_mlp(w, "mask_decoder.iou_prediction_head", &iou_dims);
    let hypernetworks: Vec<Vec<Linear>> = (0..a.mask_tokens)
        .map(|i| {
            let prefix = format!("mask_decoder.output_hypernetworks_mlps.{i}");
            load_mlp(w, &prefix, &[dim, dim, dim, dim / 8])
        })
        .collect();
    let mut up_conv = |i: usize, input: usize, output: usize| {
        let prefix = format!("mask_decoder.output_upscaling.{i}");
        Linear {
            weight: w.values(&format!("{prefix}.weight"), [input, output, 2, 2]),
            bias: w.values(&format!("{prefix}.bias"), [output]),
        }
    };
    let (conv1, conv2) = (up_conv(0, dim, dim / 4), up_conv(3, dim / 4, dim / 8));
    let norm = Norm::load(
        w,
        "mask_decoder.output_upscaling.1",
        dim / 4,
        ENCODER_EPSILON,
    );
    let weights = DecoderWeights {
        blocks: blocks.iter().map(TwoWayBlock::get).collect(),
        final_attn: final_attn.get(),
        norm_final: norm_final.get(),
        iou_head: layers_of(&iou_head),
        hypernetworks: hypernetworks
            .iter()
            .map(|layers| layers_of(layers))
            .collect(),
        upscaling: UpscalingWeights {
            conv1: conv1.up_conv(),
            norm: norm.get(),
            conv2: conv2.up_conv(),
        },
        heads: DECODER_HEADS,
        grid: [a.grid(); 2],
    };
    Decoder::new(&weights, level, precision)
}
