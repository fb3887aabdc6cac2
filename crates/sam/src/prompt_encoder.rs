//! Prompts to tokens: points, boxes and mask logits.
//!
//! Follows `PromptEncoder` (segment-anything). The positional encoding of the coordinates is computed
//! on the host: its sines have arguments of many turns, where GPU shader `sin` is not accurate.

use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{Device, Tensor, TensorData, activation};
use maskmill_weights::{PatchConv, Weights};

use crate::architecture::Architecture;
use crate::layers::ENCODER_EPSILON;

/// What a coordinate given to the model means; the discriminant is its row among the label embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointLabel {
    /// Label -1: no point. Fills the place of a box where there is none.
    Padding = 0,
    /// Label 0: a background point.
    Background = 1,
    /// Label 1: a foreground point.
    Foreground = 2,
    /// Label 2: the top-left corner of a box.
    BoxTopLeft = 3,
    /// Label 3: the bottom-right corner of a box.
    BoxBottomRight = 4,
}

/// Number of [`PointLabel`]s.
const LABELS: usize = 5;

/// Coordinates for one prompt, in pixels of the model input (the resized image).
pub type PromptPoints = Vec<([f64; 2], PointLabel)>;

/// The prompt encoder.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// `not_a_point_embed` and `point_embeddings.0..4`, in the order of [`PointLabel`].
    labels: Vec<Param<Tensor<2>>>,
    no_mask_embed: Param<Tensor<2>>,
    mask_downscaling: MaskDownscaling,
    /// `pe_layer.positional_encoding_gaussian_matrix`, `[2, embed_dim / 2]` row-major; not trained.
    #[module(skip)]
    frequencies: Vec<f32>,
    image_size: usize,
    grid: usize,
}

impl PromptEncoder {
    pub(crate) fn load(w: &mut Weights<'_>, a: &Architecture) -> Self {
        let dim = a.embed_dim;
        let mut labels = vec![w.param("prompt_encoder.not_a_point_embed.weight", [1, dim])];
        for i in 0..LABELS - 1 {
            labels.push(w.param(
                &format!("prompt_encoder.point_embeddings.{i}.weight"),
                [1, dim],
            ));
        }
        Self {
            labels,
            no_mask_embed: w.param("prompt_encoder.no_mask_embed.weight", [1, dim]),
            mask_downscaling: MaskDownscaling::load(w, a),
            frequencies: w.values(
                "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
                [2, dim / 2],
            ),
            image_size: a.image_size,
            grid: a.grid(),
        }
    }

    /// Embeds points and box corners.
    ///
    /// Every prompt must have the same number of coordinates; `0.5` is added to each, the centre of its
    /// pixel. The caller adds the padding point that a prompt without a box ends with.
    ///
    /// # Shapes
    /// - `prompts`: `batch` prompts of `n` coordinates
    /// - output: `[batch, n, embed_dim]`, or none where `n` is 0: prompts of a mask alone
    pub fn embed_points(&self, prompts: &[PromptPoints], device: &Device) -> Option<Tensor<3>> {
        let (batch, n) = (prompts.len(), prompts.first().map_or(0, Vec::len));
        if n == 0 {
            return None;
        }
        let dim = self.frequencies.len();
        let mut encoding = Vec::with_capacity(batch * n * dim);
        let mut one_hot = vec![0.0_f32; batch * n * LABELS];
        for (i, (xy, label)) in prompts.iter().flatten().enumerate() {
            one_hot[i * LABELS + *label as usize] = 1.0;
            if *label == PointLabel::Padding {
                encoding.resize(encoding.len() + dim, 0.0);
            } else {
                let xy = xy.map(|v| ((v + 0.5) / self.image_size as f64) as f32);
                self.encode(xy, &mut encoding);
            }
        }
        let encoding = Tensor::<3>::from_data(TensorData::new(encoding, [batch, n, dim]), device);
        let one_hot = TensorData::new(one_hot, [batch * n, LABELS]);
        let labels = Tensor::cat(self.labels.iter().map(Param::val).collect(), 0);
        let labels = Tensor::<2>::from_data(one_hot, device).matmul(labels);
        Some(encoding + labels.reshape([batch, n, dim]))
    }

    /// The random frequencies of the positional encoding, `[2, embed_dim / 2]` row-major; they are not trained.
    pub(crate) fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// Embeds low-resolution mask logits.
    ///
    /// # Shapes
    /// - `masks`: `[batch, 4 grid, 4 grid, 1]`
    /// - output: `[batch, grid, grid, embed_dim]`
    pub fn embed_masks(&self, masks: Tensor<4>) -> Tensor<4> {
        self.mask_downscaling.forward(masks)
    }

    /// What stands for a mask where none is given: `[1, 1, 1, embed_dim]`.
    pub fn no_mask(&self) -> Tensor<4> {
        self.no_mask_embed.val().unsqueeze()
    }

    /// Positional encoding of the image embedding (`get_dense_pe`): `[1, grid, grid, embed_dim]`.
    pub fn dense_positions(&self, device: &Device) -> Tensor<4> {
        let (grid, dim) = (self.grid, self.frequencies.len());
        let mut encoding = Vec::with_capacity(grid * grid * dim);
        for y in 0..grid {
            for x in 0..grid {
                let centre = |v: usize| (v as f32 + 0.5) / grid as f32;
                self.encode([centre(x), centre(y)], &mut encoding);
            }
        }
        Tensor::from_data(TensorData::new(encoding, [1, grid, grid, dim]), device)
    }

    /// `PositionEmbeddingRandom._pe_encoding` of one point in `[0, 1]^2`: sines, then cosines.
    fn encode(&self, xy: [f32; 2], out: &mut Vec<f32>) {
        let [x, y] = xy.map(|v| 2.0 * v - 1.0);
        let (fx, fy) = self.frequencies.split_at(self.frequencies.len() / 2);
        let angles = fx
            .iter()
            .zip(fy)
            .map(|(fx, fy)| std::f32::consts::TAU * (x * fx + y * fy));
        out.extend(angles.clone().map(f32::sin));
        out.extend(angles.map(f32::cos));
    }
}

/// Three convolutions that bring mask logits to the image embedding's size.
#[derive(Module, Debug)]
struct MaskDownscaling {
    conv1: PatchConv,
    norm1: LayerNorm,
    conv2: PatchConv,
    norm2: LayerNorm,
    conv3: PatchConv,
}

impl MaskDownscaling {
    fn load(w: &mut Weights<'_>, a: &Architecture) -> Self {
        let (channels, dim) = (a.mask_in_channels, a.embed_dim);
        let key = |i: usize| format!("prompt_encoder.mask_downscaling.{i}");
        Self {
            conv1: PatchConv::load(w, &key(0), [channels / 4, 1, 2, 2], true),
            norm1: w.layer_norm(&key(1), channels / 4, ENCODER_EPSILON),
            conv2: PatchConv::load(w, &key(3), [channels, channels / 4, 2, 2], true),
            norm2: w.layer_norm(&key(4), channels, ENCODER_EPSILON),
            conv3: PatchConv::load(w, &key(6), [dim, channels, 1, 1], true),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = activation::gelu(self.norm1.forward(self.conv1.forward(x)));
        let x = activation::gelu(self.norm2.forward(self.conv2.forward(x)));
        self.conv3.forward(x)
    }
}
