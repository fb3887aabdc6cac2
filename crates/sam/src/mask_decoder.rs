//! The mask decoder: image embedding and prompt tokens to mask logits and predicted IoU.
//!
//! Follows `MaskDecoder` (segment-anything), in two steps where the reference has one: the predicted
//! IoU needs only the transformer, so a caller can drop prompts by it before any mask is upscaled.

use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use maskmill_weights::Weights;

use crate::architecture::Architecture;
use crate::layers::{ENCODER_EPSILON, HeadMlp, UpConv};
use crate::transformer::TwoWayTransformer;

/// Which of the decoder's masks are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskOutput {
    /// The one mask of the first mask token: for unambiguous prompts.
    Single,
    /// The masks of the other tokens (three: whole, part, subpart), for ambiguous prompts.
    Multi,
}

/// The mask decoder.
#[derive(Module, Debug)]
pub struct MaskDecoder {
    transformer: TwoWayTransformer,
    iou_token: Param<Tensor<2>>,
    mask_tokens: Param<Tensor<2>>,
    upscaling: Upscaling,
    output_hypernetworks_mlps: Vec<HeadMlp>,
    iou_prediction_head: HeadMlp,
}

/// What the transformer made of a batch of prompts: enough for the IoU predictions and, for the prompts
/// that are wanted, the masks.
pub struct DecodedPrompts {
    /// `[batch, tokens, dim]`
    tokens: Tensor<3>,
    /// `[batch, grid, grid, dim]`
    image: Tensor<4>,
}

impl DecodedPrompts {
    /// The transformer's outputs, tokens `[batch, tokens, dim]` and image `[batch, grid, grid, dim]`: for
    /// comparing devices and implementations.
    pub fn stages(&self) -> (Tensor<3>, Tensor<4>) {
        (self.tokens.clone(), self.image.clone())
    }
}

impl MaskDecoder {
    pub(crate) fn load(w: &mut Weights<'_>, a: &Architecture) -> Self {
        let dim = a.embed_dim;
        let mut iou_dims = vec![dim];
        iou_dims.resize(a.iou_head_depth, a.iou_head_dim);
        iou_dims.push(a.mask_tokens);
        Self {
            transformer: TwoWayTransformer::load(w, a),
            iou_token: w.param("mask_decoder.iou_token.weight", [1, dim]),
            mask_tokens: w.param("mask_decoder.mask_tokens.weight", [a.mask_tokens, dim]),
            upscaling: Upscaling::load(w, dim),
            output_hypernetworks_mlps: (0..a.mask_tokens)
                .map(|i| {
                    let prefix = format!("mask_decoder.output_hypernetworks_mlps.{i}");
                    HeadMlp::load(w, &prefix, &[dim, dim, dim, dim / 8])
                })
                .collect(),
            iou_prediction_head: HeadMlp::load(w, "mask_decoder.iou_prediction_head", &iou_dims),
        }
    }

    /// Runs the transformer over prompts.
    ///
    /// # Shapes
    /// - `embedding`: `[1, grid, grid, dim]`, one image
    /// - `positions`: `[1, grid, grid, dim]`
    /// - `sparse`: `[batch, n, dim]`, of [`PromptEncoder::embed_points`](crate::PromptEncoder::embed_points)
    /// - `dense`: `[batch, grid, grid, dim]` of mask prompts, or `[1, 1, 1, dim]` where there are none
    ///
    /// `batch` is that of `sparse` or, where there are no points, that of `dense`.
    pub fn decode(
        &self,
        embedding: Tensor<4>,
        positions: Tensor<4>,
        sparse: Option<Tensor<3>>,
        dense: Tensor<4>,
    ) -> DecodedPrompts {
        let batch = sparse
            .as_ref()
            .map_or(dense.dims()[0], |sparse| sparse.dims()[0]);
        let output = Tensor::cat(vec![self.iou_token.val(), self.mask_tokens.val()], 0);
        let [n_output, dim] = output.dims();
        let output = output.unsqueeze::<3>().expand([batch, n_output, dim]);
        let tokens = match sparse {
            Some(sparse) => Tensor::cat(vec![output, sparse], 1),
            None => output,
        };

        let image = embedding + dense;
        let [image_batch, height, width, _] = image.dims();
        let image = image.reshape([image_batch, height * width, dim]);
        let positions = positions.reshape([1, height * width, dim]);
        let (tokens, image) = self.transformer.forward(image, positions, tokens);
        let image = image.reshape([batch, height, width, dim]);
        DecodedPrompts { tokens, image }
    }

    /// Predicted IoU of each wanted mask: `[batch, masks]`.
    pub fn predicted_iou(&self, prompts: &DecodedPrompts, output: MaskOutput) -> Tensor<2> {
        let [batch, _, dim] = prompts.tokens.dims();
        let iou_token = prompts.tokens.clone().narrow(1, 0, 1).reshape([batch, dim]);
        let (first, count) = self.masks_of(output);
        self.iou_prediction_head
            .forward(iou_token)
            .narrow(1, first, count)
    }

    /// Low-resolution mask logits of the prompts listed in `wanted`, by their index in the batch.
    ///
    /// # Shapes
    /// - output: `[wanted, masks, 4 grid, 4 grid]`
    pub fn low_res_logits(
        &self,
        prompts: &DecodedPrompts,
        output: MaskOutput,
        wanted: &[usize],
    ) -> Tensor<4> {
        let device = prompts.tokens.device();
        let all = wanted.iter().copied().eq(0..prompts.tokens.dims()[0]);
        let (tokens, image) = if all {
            prompts.stages()
        } else {
            let wanted = indices(wanted, &device);
            (
                prompts.tokens.clone().select(0, wanted.clone()),
                prompts.image.clone().select(0, wanted),
            )
        };
        let [batch, _, dim] = tokens.dims();
        let upscaled = self.upscaling.forward(image);
        let [_, height, width, channels] = upscaled.dims();
        let (first, count) = self.masks_of(output);
        let weights = (first..first + count).map(|i| {
            let token = tokens.clone().narrow(1, 1 + i, 1).reshape([batch, dim]);
            self.output_hypernetworks_mlps[i].forward(token)
        });
        let weights: Tensor<3> = Tensor::stack(weights.collect(), 1);
        let upscaled = upscaled.reshape([batch, height * width, channels]);
        weights
            .matmul(upscaled.transpose())
            .reshape([batch, count, height, width])
    }

    /// First mask token and number of masks of an output mode.
    fn masks_of(&self, output: MaskOutput) -> (usize, usize) {
        match output {
            MaskOutput::Single => (0, 1),
            MaskOutput::Multi => (1, self.output_hypernetworks_mlps.len() - 1),
        }
    }
}

fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Two transposed convolutions: image tokens to four times the resolution.
#[derive(Module, Debug)]
struct Upscaling {
    conv1: UpConv,
    norm: LayerNorm,
    conv2: UpConv,
}

impl Upscaling {
    fn load(w: &mut Weights<'_>, dim: usize) -> Self {
        let key = |i: usize| format!("mask_decoder.output_upscaling.{i}");
        Self {
            conv1: UpConv::load(w, &key(0), dim, dim / 4),
            norm: w.layer_norm(&key(1), dim / 4, ENCODER_EPSILON),
            conv2: UpConv::load(w, &key(3), dim / 4, dim / 8),
        }
    }

    /// `[batch, grid, grid, dim]` -> `[batch, 4 grid, 4 grid, dim / 8]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = activation::gelu(self.norm.forward(self.conv1.forward(x)));
        activation::gelu(self.conv2.forward(x))
    }
}
