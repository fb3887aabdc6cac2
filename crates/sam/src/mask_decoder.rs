//! The mask decoder: image embedding and prompt tokens to mask logits and predicted IoU.
//!
//! Follows `MaskDecoder` (segment-anything), in two steps where the reference has one: the predicted
//! IoU needs only the transformer, so a caller can drop prompts by it before any mask is upscaled.

use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use maskmill_kernels::layers::gelu;
use maskmill_kernels::{TrainingUpscaling, training_masks, trains_here};
use maskmill_weights::Weights;

use crate::architecture::Architecture;
use crate::layers::{ENCODER_EPSILON, HeadMlp, UpConv, cast_products, normed};
use crate::transformer::TwoWayTransformer;

/// Which of the decoder's masks are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskOutput {
    /// The one mask of the first mask token: for unambiguous prompts.
    Single,
    /// The masks of the other tokens (three: whole, part, subpart), for ambiguous prompts.
    Multi,
}

impl MaskOutput {
    /// The masks of an output among the `mask_tokens` of the decoder.
    pub(crate) fn masks(self, mask_tokens: usize) -> std::ops::Range<usize> {
        match self {
            Self::Single => 0..1,
            Self::Multi => 1..mask_tokens,
        }
    }
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
/// that are wanted, the masks. In the numbers in which the transformer computes.
#[derive(Clone)]
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

    /// How many prompts there are.
    pub(crate) fn len(&self) -> usize {
        self.tokens.dims()[0]
    }

    /// Bytes that its tensors hold on the device.
    pub(crate) fn bytes(&self) -> usize {
        let values = self.tokens.shape().num_elements() + self.image.shape().num_elements();
        values * self.image.dtype().size()
    }

    /// The prompts of these numbers, in this order.
    pub(crate) fn select(&self, wanted: &[usize]) -> Self {
        if wanted.iter().copied().eq(0..self.len()) {
            return self.clone();
        }
        let wanted = indices(wanted, &self.tokens.device());
        Self {
            tokens: self.tokens.clone().select(0, wanted.clone()),
            image: self.image.clone().select(0, wanted),
        }
    }

    /// Several batches as one.
    pub(crate) fn cat(parts: Vec<Self>) -> Self {
        let (tokens, image): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|p| (p.tokens, p.image)).unzip();
        Self {
            tokens: Tensor::cat(tokens, 0),
            image: Tensor::cat(image, 0),
        }
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

    /// Computes the transformer and the upscaling in `dtype`; the heads, of few rows each, stay in 32 bits.
    pub(crate) fn cast_products(mut self, dtype: DType) -> Self {
        self.transformer = cast_products(self.transformer, dtype);
        self.upscaling = cast_products(self.upscaling, dtype);
        self
    }

    /// Runs the transformer over prompts.
    ///
    /// # Shapes
    /// - `embedding`: `[1, grid, grid, dim]`, one image, or `[batch, grid, grid, dim]`, one for each prompt
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
        let dtype = self.transformer.dtype();
        let (tokens, image) =
            self.transformer
                .forward(image.cast(dtype), positions.cast(dtype), tokens.cast(dtype));
        let image = image.reshape([batch, height, width, dim]);
        DecodedPrompts { tokens, image }
    }

    /// Predicted IoU of each wanted mask, in 32 bits: `[batch, masks]`.
    pub fn predicted_iou(&self, prompts: &DecodedPrompts, output: MaskOutput) -> Tensor<2> {
        let (first, count) = self.masks_of(output);
        self.iou_prediction_head
            .forward(token(prompts, 0))
            .narrow(1, first, count)
    }

    /// Low-resolution mask logits of the prompts listed in `wanted`, by their index in the batch.
    ///
    /// # Shapes
    /// - output: `[wanted, masks, 4 grid, 4 grid]`, in 32 bits
    pub fn low_res_logits(
        &self,
        prompts: &DecodedPrompts,
        output: MaskOutput,
        wanted: &[usize],
    ) -> Tensor<4> {
        let (_, count) = self.masks_of(output);
        let masks: Vec<usize> = (0..count).collect();
        self.logits_of_masks(&prompts.select(wanted), output, &masks)
    }

    /// Low-resolution mask logits of all of `prompts`, and of their masks only those listed in `masks`, by their number
    /// among the masks of `output`. Nothing is computed for the others but what all share.
    ///
    /// # Shapes
    /// - output: `[batch, masks, 4 grid, 4 grid]`, in 32 bits
    pub(crate) fn logits_of_masks(
        &self,
        prompts: &DecodedPrompts,
        output: MaskOutput,
        masks: &[usize],
    ) -> Tensor<4> {
        let (first, _) = self.masks_of(output);
        self.logits_of_tokens(prompts, masks.iter().map(|mask| first + mask))
    }

    /// What every mask token says, as it is trained: predicted IoU `[batch, mask tokens]` and low-resolution logits
    /// `[batch, mask tokens, 4 grid, 4 grid]`, in 32 bits.
    pub(crate) fn all_masks(&self, prompts: &DecodedPrompts) -> (Tensor<2>, Tensor<4>) {
        let iou = self.iou_prediction_head.forward(token(prompts, 0));
        let tokens = 0..self.output_hypernetworks_mlps.len();
        (iou, self.logits_of_tokens(prompts, tokens))
    }

    /// What masks are read from, before any prompt: the image embedding upscaled.
    ///
    /// # Shapes
    /// - `embeddings`: `[images, grid, grid, dim]`
    /// - output: `[images, 4 grid, 4 grid, dim / 8]`
    pub(crate) fn upscaled(&self, embeddings: Tensor<4>) -> Tensor<4> {
        let [images, height, width, _] = embeddings.dims();
        in_rows(self.upscaling.forward(embeddings), images, [height, width])
    }

    fn logits_of_tokens(
        &self,
        prompts: &DecodedPrompts,
        tokens: impl ExactSizeIterator<Item = usize>,
    ) -> Tensor<4> {
        let [batch, height, width, _] = prompts.image.dims();
        let masks = tokens.len();
        let weights = tokens
            .map(|mask| self.output_hypernetworks_mlps[mask].forward(token(prompts, 1 + mask)));
        let weights: Tensor<3> = Tensor::stack(weights.collect(), 1);
        if trains_here(&prompts.image) {
            return self.upscaling.trained(prompts.image.clone(), weights);
        }
        let upscaled = self.upscaling.forward(prompts.image.clone());
        let [_, channels] = upscaled.dims();
        let upscaled = upscaled.reshape([batch, height * width * 16, channels]);
        let logits = weights
            .cast(upscaled.dtype())
            .matmul(upscaled.transpose())
            .reshape([batch * masks * height * width * 16, 1]);
        // One number a pixel is put in its place here, not its channels before.
        in_rows(logits, batch * masks, [height, width])
            .reshape([batch, masks, 4 * height, 4 * width])
            .cast(DType::F32)
    }

    /// First mask token and number of masks of an output mode.
    fn masks_of(&self, output: MaskOutput) -> (usize, usize) {
        let masks = output.masks(self.output_hypernetworks_mlps.len());
        (masks.start, masks.len())
    }
}

/// One output token of each prompt, for a head: `[batch, dim]`, in 32 bits.
fn token(prompts: &DecodedPrompts, index: usize) -> Tensor<2> {
    let [batch, _, dim] = prompts.tokens.dims();
    let token = prompts.tokens.clone().narrow(1, index, 1);
    token.reshape([batch, dim]).cast(DType::F32)
}

pub(crate) fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
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

    /// The sixteen pixels of an image token stay together: [`in_rows`] puts them in their places.
    ///
    /// `[batch, grid, grid, dim]` -> `[batch * grid * grid * 16, dim / 8]`
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, height, width, dim] = x.dims();
        let x = x.reshape([batch * height * width, dim]);
        let x = gelu(normed(&self.norm, ENCODER_EPSILON, self.conv1.forward(x)));
        gelu(self.conv2.forward(x))
    }

    /// The logits of masks with these weights, `[batch, masks, dim / 8]`, as they are trained on the CPU.
    ///
    /// `[batch, grid, grid, dim]` -> `[batch, masks, 4 grid, 4 grid]`
    fn trained(&self, x: Tensor<4>, masks: Tensor<3>) -> Tensor<4> {
        let [batch, height, width, dim] = x.dims();
        let (weight1, bias1) = self.conv1.as_linear();
        let (weight2, bias2) = self.conv2.as_linear();
        let upscaling = TrainingUpscaling {
            weight1,
            bias1,
            gamma: self.norm.gamma.val(),
            beta: self.norm.beta.as_ref().expect("norms have one").val(),
            epsilon: ENCODER_EPSILON,
            weight2,
            bias2,
        };
        let x = x.reshape([batch, height * width, dim]);
        training_masks(x, upscaling, masks, [height, width])
    }
}

/// Pixels of [`Upscaling::forward`] in the order of rows: `[batch * height * width * 16, channels]` ->
/// `[batch, 4 height, 4 width, channels]`
fn in_rows(x: Tensor<2>, batch: usize, [height, width]: [usize; 2]) -> Tensor<4> {
    let [_, channels] = x.dims();
    x.reshape([batch * height, width, 2, 2, 2, 2, channels])
        .permute([0, 2, 4, 1, 3, 5, 6])
        .reshape([batch, 4 * height, 4 * width, channels])
}
