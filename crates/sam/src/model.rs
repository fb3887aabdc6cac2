//! The whole model on a device: image in, embedding out; prompts in, mask logits out.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use maskmill_kernels::{DecoderImage, Level, Precision, Wanted};
use maskmill_masks::{ImageSize, Upscaler};
use maskmill_pixels::{RgbImage, longest_side, resize_bilinear};
use maskmill_weights::{Checkpoint, CheckpointError, Weights, to_host};

use crate::architecture::Architecture;
use crate::image_encoder::{ImageEncoder, LargeAttention};
use crate::kernels::Kernels;
use crate::mask_decoder::{MaskDecoder, MaskOutput};
use crate::prompt_encoder::PromptEncoder;

/// Writes an image's pixels, normalised, into zeros of `side` pixels, row-major `[side, side, 3]`.
///
/// # Panics
/// If the image is larger.
pub(crate) fn normalise(image: &RgbImage, side: usize, values: &mut [f32]) {
    let size = image.size();
    let (height, width) = (size.height as usize, size.width as usize);
    assert!(height <= side && width <= side, "{size:?} exceeds {side}");
    let levels: Vec<[f32; 3]> = (0..=255_u8)
        .map(|v| std::array::from_fn(|c| (f32::from(v) - PIXEL_MEAN[c]) / PIXEL_STD[c]))
        .collect();
    let rows = values.chunks_exact_mut(side * 3);
    for (row, source) in rows.zip(image.data().chunks_exact(width * 3)) {
        for (target, source) in row.chunks_exact_mut(3).zip(source.chunks_exact(3)) {
            for c in 0..3 {
                target[c] = levels[source[c] as usize][c];
            }
        }
    }
}

/// Mean of the training images' channels, in 8-bit steps (`build_sam.py`).
pub const PIXEL_MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Standard deviation of the training images' channels, in 8-bit steps (`build_sam.py`).
pub const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

/// SAM's two large networks in Burn's operations, as they stand in a checkpoint.
#[derive(Module, Debug)]
pub struct Networks {
    /// Image to embedding.
    pub image_encoder: ImageEncoder,
    /// Embedding and tokens to masks.
    pub mask_decoder: MaskDecoder,
}

impl Networks {
    /// The networks with the image encoder and the decoder's transformer and upscaling in bfloat16. What passes between
    /// the networks and what leaves them stays in 32 bits.
    fn in_bf16(self, device: &Device) -> Self {
        let large = match on_cpu(device) {
            true => LargeAttention::Chunked,
            false => LargeAttention::Appended,
        };
        Self {
            image_encoder: self.image_encoder.cast_products(DType::BF16, large),
            mask_decoder: self.mask_decoder.cast_products(DType::BF16),
        }
    }
}

/// What runs the large networks.
pub(crate) enum Implementation {
    /// Burn's own operations, on any device.
    Burn(Box<Networks>),
    /// Kernels for this CPU.
    Kernels(Box<Kernels>),
}

/// Whether Burn computes on the CPU here.
pub(crate) fn on_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// A loaded SAM model.
pub struct Sam {
    architecture: Architecture,
    precision: Precision,
    prompt_encoder: PromptEncoder,
    implementation: Implementation,
    dense_positions: Tensor<4>,
    device: Device,
}

/// What prompts of one form become on the way to their masks: for comparing devices and implementations.
#[derive(Clone, Debug)]
pub struct PromptStages {
    /// Of the transformer, `[prompts, tokens, dim]`.
    pub tokens: Vec<f32>,
    /// Of the transformer, `[prompts, grid, grid, dim]`.
    pub image: Vec<f32>,
    /// Of every mask token, `[prompts, masks]`.
    pub predicted_iou: Vec<f32>,
    /// Of every mask token, `[prompts, masks, 4 grid, 4 grid]`.
    pub low_res_logits: Vec<f32>,
}

/// An image as the encoder takes it: resized so that its longer side is the model's, not yet padded.
///
/// Making one is CPU work that needs no model, so it can run ahead of the device.
#[derive(Clone, Debug)]
pub struct ModelInput {
    resized: RgbImage,
    original: ImageSize,
}

impl ModelInput {
    /// Resizes as `ResizeLongestSide.apply_image` does: Pillow's antialiased bilinear filter on bytes.
    pub fn new(image: &RgbImage, image_size: usize) -> Self {
        let side = u32::try_from(image_size).expect("model sides are thousands of pixels at most");
        Self {
            resized: resize_bilinear(image, longest_side(image.size(), side)),
            original: image.size(),
        }
    }

    /// The resized image.
    pub fn resized(&self) -> &RgbImage {
        &self.resized
    }

    /// Size before resizing, in pixels.
    pub fn original_size(&self) -> ImageSize {
        self.original
    }
}

/// The embedding of one image and the sizes that lead back to it.
#[derive(Clone)]
pub struct ImageEmbedding {
    /// What prompts without a mask share, where kernels decode; made for the first of them.
    shared: Arc<OnceLock<DecoderImage>>,
    /// `[1, grid, grid, embed_dim]`
    pub(crate) tensor: Tensor<4>,
    pub(crate) input: ImageSize,
    pub(crate) original: ImageSize,
}

impl ImageEmbedding {
    /// The embedding, `[1, grid, grid, embed_dim]` (the reference's is `[1, embed_dim, grid, grid]`).
    pub fn tensor(&self) -> &Tensor<4> {
        &self.tensor
    }

    /// What all prompts without a mask share.
    pub(crate) fn shared(&self, sam: &Sam, kernels: &Kernels) -> &DecoderImage {
        self.shared.get_or_init(|| {
            let dense = sam.prompt_encoder.no_mask();
            kernels.image(&self.tensor, &sam.dense_positions, dense)
        })
    }

    /// Pixels of the original image to pixels of the model input (`ResizeLongestSide.apply_coords`).
    pub(crate) fn to_input(&self, xy: [f64; 2]) -> [f64; 2] {
        let ratio = |input: u32, original: u32| f64::from(input) / f64::from(original);
        [
            xy[0] * ratio(self.input.width, self.original.width),
            xy[1] * ratio(self.input.height, self.original.height),
        ]
    }
}

impl Sam {
    /// Loads a `.safetensors` or `.pth` checkpoint with the official key names; its architecture is read
    /// from its tensors' shapes. On the CPU it runs by kernels of this project, elsewhere by Burn's operations.
    ///
    /// # Errors
    /// See [`CheckpointError`]: every missing, unexpected and mis-shaped key in one error.
    ///
    /// # Panics
    /// When the device does not have the numbers of `precision`: see [`Sam::supports`]. On the CPU, when the environment
    /// asks for instructions that it lacks: [`DeviceName::open`](crate::DeviceName::open) tells beforehand.
    pub fn load(
        path: &Path,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, CheckpointError> {
        if !on_cpu(device) {
            return Self::load_burn(path, device, precision);
        }
        let level = Level::choose().unwrap_or_else(|error| panic!("{error}"));
        tracing::debug!(%level, %precision, "kernels chosen");
        Self::load_kernels(path, level, precision)
    }

    /// [`Sam::load`] on the CPU by the kernels of one level.
    ///
    /// # Errors
    /// As [`Sam::load`].
    ///
    /// # Panics
    /// If this CPU lacks the level.
    pub fn load_kernels(
        path: &Path,
        level: Level,
        precision: Precision,
    ) -> Result<Self, CheckpointError> {
        Self::load_as(path, &Device::flex(), precision, |w, architecture| {
            let kernels = Kernels::load(w, architecture, level, precision);
            Implementation::Kernels(Box::new(kernels))
        })
    }

    /// [`Sam::load`] by Burn's operations on any device: what other implementations are compared with.
    ///
    /// # Errors
    /// As [`Sam::load`].
    ///
    /// # Panics
    /// As [`Sam::load`].
    pub fn load_burn(
        path: &Path,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, CheckpointError> {
        assert!(
            Self::supports(device, precision),
            "{device:?} does not compute in {precision}"
        );
        Self::load_as(path, device, precision, |w, architecture| {
            let networks = Networks {
                image_encoder: ImageEncoder::load(w, architecture),
                mask_decoder: MaskDecoder::load(w, architecture),
            };
            Implementation::Burn(Box::new(match precision {
                Precision::F32 | Precision::High => networks,
                Precision::Bf16 => networks.in_bf16(device),
            }))
        })
    }

    fn load_as(
        path: &Path,
        device: &Device,
        precision: Precision,
        implementation: impl FnOnce(&mut Weights<'_>, &Architecture) -> Implementation,
    ) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let architecture = Architecture::of(&checkpoint)?;
        let mut w = Weights::new(&checkpoint, device);
        let prompt_encoder = PromptEncoder::load(&mut w, &architecture);
        let implementation = implementation(&mut w, &architecture);
        w.finish(&architecture)?;
        let dense_positions = prompt_encoder.dense_positions(device);
        Ok(Self {
            architecture,
            precision,
            prompt_encoder,
            implementation,
            dense_positions,
            device: device.clone(),
        })
    }

    /// Whether a device computes in the numbers of `precision`: every device does in 32 bits, and not every GPU in
    /// bfloat16.
    pub fn supports(device: &Device, precision: Precision) -> bool {
        match precision {
            Precision::F32 | Precision::High => true,
            Precision::Bf16 => device.supports_dtype(DType::BF16),
        }
    }

    /// In which numbers it computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The sizes read from the checkpoint.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Prompts to tokens.
    pub fn prompt_encoder(&self) -> &PromptEncoder {
        &self.prompt_encoder
    }

    pub(crate) fn implementation(&self) -> &Implementation {
        &self.implementation
    }

    /// Every stage of the image encoder: patches with positions, each block's output, the embedding. For comparing
    /// devices and implementations.
    ///
    /// # Shapes
    /// - `images`: `[batch, image_size, image_size, 3]`
    /// - output: `[batch, grid, grid, channels]` each
    pub fn encoder_stages(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        match &self.implementation {
            Implementation::Burn(networks) => networks.image_encoder.stages(images),
            Implementation::Kernels(kernels) => kernels.encoder_stages(images),
        }
    }

    /// What prompts of one form become. For comparing devices and implementations.
    ///
    /// # Shapes
    /// - `embedding`: `[1, grid, grid, dim]`
    /// - `sparse`: `[prompts, n, dim]`, of [`PromptEncoder::embed_points`], or none
    /// - `dense`: `[1, grid, grid, dim]`, a mask's, or `[1, 1, 1, dim]`
    pub fn prompt_stages(
        &self,
        embedding: &Tensor<4>,
        sparse: Option<Tensor<3>>,
        dense: Tensor<4>,
    ) -> PromptStages {
        match &self.implementation {
            Implementation::Burn(networks) => {
                let decoder = &networks.mask_decoder;
                let positions = self.dense_positions.clone();
                let decoded = decoder.decode(embedding.clone(), positions, sparse, dense);
                let (tokens, image) = decoded.stages();
                let outputs = [MaskOutput::Single, MaskOutput::Multi];
                let all: Vec<usize> = (0..tokens.dims()[0]).collect();
                let iou = outputs.map(|output| decoder.predicted_iou(&decoded, output));
                let logits = outputs.map(|output| decoder.low_res_logits(&decoded, output, &all));
                PromptStages {
                    tokens: to_host(tokens),
                    image: to_host(image),
                    predicted_iou: to_host(Tensor::cat(iou.to_vec(), 1)),
                    low_res_logits: to_host(Tensor::cat(logits.to_vec(), 1)),
                }
            }
            Implementation::Kernels(kernels) => {
                let prompts = sparse.as_ref().map_or(1, |sparse| sparse.dims()[0]);
                let (count, prompt_tokens) = kernels.tokens(sparse, prompts);
                let shared = kernels.image(embedding, &self.dense_positions, dense);
                let (tokens, image) = shared.transform(&prompt_tokens, count);
                let wanted = Wanted {
                    masks: 0..self.architecture.mask_tokens,
                    choose: &|iou| (0..iou.len()).collect(),
                };
                let decoded = shared.decode(&prompt_tokens, count, &wanted);
                let logits = decoded
                    .iter()
                    .flat_map(|one| one.logits.iter().flatten().flatten());
                PromptStages {
                    tokens,
                    image,
                    predicted_iou: decoded
                        .iter()
                        .flat_map(|one| one.predicted_iou.clone())
                        .collect(),
                    low_res_logits: logits.copied().collect(),
                }
            }
        }
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Positional encoding of the image embedding, `[1, grid, grid, embed_dim]`.
    pub fn dense_positions(&self) -> &Tensor<4> {
        &self.dense_positions
    }

    /// Normalises and then zero-pads, as `Sam.preprocess`: `[1, image_size, image_size, 3]`.
    pub fn normalised(&self, input: &ModelInput) -> Tensor<4> {
        self.padded(&input.resized)
    }

    fn padded(&self, image: &RgbImage) -> Tensor<4> {
        let side = self.architecture.image_size;
        let mut values = vec![0.0; side * side * 3];
        normalise(image, side, &mut values);
        Tensor::from_data(TensorData::new(values, [1, side, side, 3]), &self.device)
    }

    /// Embeds an image that has the model's size already: `[1, grid, grid, embed_dim]`.
    ///
    /// # Panics
    /// If a side exceeds the model's.
    pub fn encode_resized(&self, image: &RgbImage) -> Tensor<4> {
        let image = self.padded(image);
        match &self.implementation {
            Implementation::Burn(networks) => networks.image_encoder.forward(image),
            Implementation::Kernels(kernels) => kernels.encode(image),
        }
    }

    /// Embeds an image: the expensive step, done once per image.
    pub fn encode(&self, input: &ModelInput) -> ImageEmbedding {
        ImageEmbedding {
            shared: Arc::default(),
            tensor: self.encode_resized(&input.resized),
            input: input.resized.size(),
            original: input.original,
        }
    }

    /// What brings this image's low-resolution logits to its original size.
    pub(crate) fn upscaler(&self, input: ImageSize, original: ImageSize) -> Upscaler {
        let low_res = self.architecture.low_res_side() as u32;
        let side = self.architecture.image_size as u32;
        Upscaler::new(ImageSize::new(low_res, low_res), side, input, original)
    }
}
