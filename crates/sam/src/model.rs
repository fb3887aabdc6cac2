//! The whole model on a device: image in, embedding out; prompts in, mask logits out.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use maskmill_masks::{ImageSize, Upscaler};
use maskmill_pixels::{RgbImage, longest_side, resize_bilinear};
use maskmill_weights::{Checkpoint, CheckpointError, Weights};

use crate::architecture::Architecture;
use crate::image_encoder::ImageEncoder;
use crate::mask_decoder::MaskDecoder;
use crate::prompt_encoder::PromptEncoder;

/// Mean of the training images' channels, in 8-bit steps (`build_sam.py`).
const PIXEL_MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Standard deviation of the training images' channels, in 8-bit steps (`build_sam.py`).
const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

/// SAM's three networks, as they stand in a checkpoint.
#[derive(Module, Debug)]
pub struct Networks {
    /// Image to embedding.
    pub image_encoder: ImageEncoder,
    /// Prompts to tokens.
    pub prompt_encoder: PromptEncoder,
    /// Embedding and tokens to masks.
    pub mask_decoder: MaskDecoder,
}

/// A loaded SAM model.
pub struct Sam {
    architecture: Architecture,
    networks: Networks,
    dense_positions: Tensor<4>,
    device: Device,
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
#[derive(Clone, Debug)]
pub struct ImageEmbedding {
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
    /// from its tensors' shapes.
    ///
    /// # Errors
    /// See [`CheckpointError`]: every missing, unexpected and mis-shaped key in one error.
    pub fn load(path: &Path, device: &Device) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let architecture = Architecture::of(&checkpoint)?;
        let mut w = Weights::new(&checkpoint, device);
        let networks = Networks {
            image_encoder: ImageEncoder::load(&mut w, &architecture),
            prompt_encoder: PromptEncoder::load(&mut w, &architecture),
            mask_decoder: MaskDecoder::load(&mut w, &architecture),
        };
        w.finish(&architecture)?;
        let dense_positions = networks.prompt_encoder.dense_positions(device);
        Ok(Self {
            architecture,
            networks,
            dense_positions,
            device: device.clone(),
        })
    }

    /// The sizes read from the checkpoint.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The three networks.
    pub fn networks(&self) -> &Networks {
        &self.networks
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
        let side = self.architecture.image_size;
        let size = input.resized.size();
        let (height, width) = (size.height as usize, size.width as usize);
        let levels: Vec<[f32; 3]> = (0..=255_u8)
            .map(|v| std::array::from_fn(|c| (f32::from(v) - PIXEL_MEAN[c]) / PIXEL_STD[c]))
            .collect();
        let mut values = vec![0.0; side * side * 3];
        for y in 0..height {
            let source = &input.resized.data()[y * width * 3..(y + 1) * width * 3];
            let target = &mut values[y * side * 3..][..width * 3];
            for (source, target) in source.chunks_exact(3).zip(target.chunks_exact_mut(3)) {
                for c in 0..3 {
                    target[c] = levels[source[c] as usize][c];
                }
            }
        }
        Tensor::from_data(TensorData::new(values, [1, side, side, 3]), &self.device)
    }

    /// Embeds an image: the expensive step, done once per image.
    pub fn encode(&self, input: &ModelInput) -> ImageEmbedding {
        ImageEmbedding {
            tensor: self.networks.image_encoder.forward(self.normalised(input)),
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
