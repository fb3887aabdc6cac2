//! Images as the models take them: resized and normalised exactly as the image processors of
//! transformers 5 do it with their torchvision backend.

use burn::tensor::{Device, Tensor, TensorData};
use maskmill_masks::{BoxPx, ImageSize};
use maskmill_pixels::{RgbImage, resize_bicubic};

use crate::antialias::shrink_square;

/// Mean of CLIP's training images (`OPENAI_CLIP_MEAN`), of values in [0, 1].
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their standard deviation (`OPENAI_CLIP_STD`).
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// An image for CLIP, not yet normalised: CPU work that can run ahead of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipInput {
    pixels: RgbImage,
}

impl ClipInput {
    /// The shorter side resized to `image_size` (bicubic), and the centre cut out
    /// (`CLIPImageProcessor`).
    ///
    /// A very long image is resized as a whole before its centre is cut out: memory follows its aspect.
    ///
    /// # Panics
    /// When `image_size` is 0.
    pub fn new(image: &RgbImage, image_size: usize) -> Self {
        let side = u32::try_from(image_size).expect("model sides are thousands of pixels at most");
        let size = image.size();
        let shorter = u64::from(size.height.min(size.width));
        // `get_size_with_aspect_ratio`: the longer side is truncated.
        let scaled = |length: u32| match u64::from(length) == shorter {
            true => side,
            false => (u64::from(side) * u64::from(length) / shorter) as u32,
        };
        let resized = resize_bicubic(
            image,
            ImageSize::new(scaled(size.height), scaled(size.width)),
        );
        Self {
            pixels: centre(resized, side),
        }
    }

    /// The pixels, `[image_size, image_size, 3]`.
    pub fn pixels(&self) -> &RgbImage {
        &self.pixels
    }
}

/// `center_crop` (transformers) of an image whose sides are at least `side`: an odd pixel stays on the right and at
/// the bottom.
fn centre(image: RgbImage, side: u32) -> RgbImage {
    let size = image.size();
    if size == ImageSize::new(side, side) {
        return image;
    }
    let margin = |length: u32| (length - side) / 2;
    let (x0, y0) = (margin(size.width), margin(size.height));
    image.crop(BoxPx {
        x0,
        y0,
        x1: x0 + side,
        y1: y0 + side,
    })
}

/// Normalised images, `[batch, image_size, image_size, 3]`.
pub(crate) fn normalised(images: &[&ClipInput], device: &Device) -> Tensor<4> {
    let size = images.first().map_or(0, |image| image.pixels.size().width) as usize;
    let levels = levels();
    let bytes = images.iter().flat_map(|image| image.pixels.data());
    let values: Vec<f32> = bytes
        .enumerate()
        .map(|(i, &byte)| levels[i % 3][byte as usize])
        .collect();
    let shape = [images.len(), size, size, 3];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Every byte normalised, by channel. Rescaling is folded into mean and deviation, as torchvision's backend
/// does it.
fn levels() -> [[f32; 256]; 3] {
    std::array::from_fn(|c| {
        let (mean, std) = (CLIP_MEAN[c] * 255.0, CLIP_STD[c] * 255.0);
        std::array::from_fn(|byte| (byte as f32 - mean) / std)
    })
}

/// How a detector's processor makes images square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Squaring {
    /// OWLv2: black pixels are added on the right and at the bottom; then a Gaussian filter and bilinear
    /// interpolation.
    Pad,
    /// OWL-ViT: width and height are resized apart (bicubic).
    Stretch,
}

/// An image for OWL-ViT or OWLv2: CPU work that can run ahead of the device.
#[derive(Clone, Debug, PartialEq)]
pub struct OwlInput {
    /// `[image_size, image_size, 3]`
    values: Vec<f32>,
    side: usize,
    /// Original pixels that the model's unit square is wide and high.
    extent: [f32; 2],
    original: ImageSize,
}

impl OwlInput {
    pub(crate) fn new(image: &RgbImage, image_size: usize, squaring: Squaring) -> Self {
        let original = image.size();
        let (values, extent) = match squaring {
            Squaring::Pad => {
                let mut values = shrink_square(image, image_size);
                for pixel in values.as_chunks_mut::<3>().0 {
                    for c in 0..3 {
                        pixel[c] = (pixel[c] - CLIP_MEAN[c]) / CLIP_STD[c];
                    }
                }
                let longer = original.height.max(original.width) as f32;
                (values, [longer, longer])
            }
            Squaring::Stretch => {
                let side = u32::try_from(image_size).expect("sides are thousands of pixels");
                let resized = resize_bicubic(image, ImageSize::new(side, side));
                let levels = levels();
                let values = resized.data().iter().enumerate();
                let values = values.map(|(i, &byte)| levels[i % 3][byte as usize]);
                let extent = [original.width as f32, original.height as f32];
                (values.collect(), extent)
            }
        };
        Self {
            values,
            side: image_size,
            extent,
            original,
        }
    }

    /// The processor's `pixel_values`, channels last: `[image_size, image_size, 3]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Bytes of pixels held.
    pub fn bytes(&self) -> usize {
        size_of_val(self.values.as_slice())
    }

    /// Size of the image before it was resized.
    pub fn original_size(&self) -> ImageSize {
        self.original
    }

    /// Width and height of the model's unit square, in pixels of the original image.
    pub(crate) fn extent(&self) -> [f32; 2] {
        self.extent
    }

    pub(crate) fn tensor(&self, device: &Device) -> Tensor<4> {
        let shape = [1, self.side, self.side, 3];
        Tensor::from_data(TensorData::new(self.values.clone(), shape), device)
    }
}
