//! Examples in the frame of a model's input.

use maskmill_masks::{Bitmap, ImageSize};
use maskmill_pixels::RgbImage;

use crate::augmentation::{Augmentation, OptionsError};
use crate::colour::recolour;
use crate::coverage::resample;
use crate::frame::Frame;
use crate::random::Random;
use crate::{Example, texture};

/// An example as a model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `[side, side, 3]`: the image in the top left corner, and zeros right of and below it.
    ///
    /// Zero levels are black, not the zeros after normalising that `Sam.preprocess` pads with: normalise `content`
    /// alone, and leave the rest 0.
    pub image: RgbImage,
    /// The part of `image` that is no padding: rows `[0, height)` and columns `[0, width)`. The longer side is the
    /// model's, unless the scale was jittered below 1.
    pub content: ImageSize,
    /// `[side, side]` each, empty outside of `content`. None of them if the example has none that is large enough.
    pub masks: Vec<Bitmap>,
    /// For each of `masks` the place of its original in [`Example::masks`].
    pub mask_indices: Vec<usize>,
}

/// What samples are to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// The side of the model's square input, in pixels: 1024 for SAM as published.
    pub side: u32,
    /// Masks of fewer pixels in the model's input are left out: there is next to nothing to see of the object.
    pub min_mask_px: u64,
    /// What is varied at random.
    pub augmentation: Augmentation,
}

impl SampleOptions {
    /// Samples for a model of this side, without augmentation, of masks of at least 16 pixels (4 x 4, one cell of SAM's
    /// low-resolution masks).
    pub const fn new(side: u32) -> Self {
        Self {
            side,
            min_mask_px: 16,
            augmentation: Augmentation::NONE,
        }
    }
}

/// Makes samples by options that were checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    options: SampleOptions,
}

/// How often a frame is drawn again that shows no mask.
const CROP_TRIES: u32 = 8;

/// The streams of a seed: what one of them draws does not depend on how much another has drawn.
const FRAMES: u64 = 0;
pub(crate) const COLOURS: u64 = 1;
const TEXTURES: u64 = 2;

impl Sampler {
    /// A sampler by these options.
    ///
    /// # Errors
    /// [`OptionsError`], with everything that is out of range.
    pub fn new(options: SampleOptions) -> Result<Self, OptionsError> {
        let mut problems = options.augmentation.problems();
        if !(16..=4096).contains(&options.side) {
            problems.push(format!("side = {} is outside [16, 4096]", options.side));
        }
        match problems.is_empty() {
            true => Ok(Self { options }),
            false => Err(OptionsError { problems }),
        }
    }

    /// The options.
    pub fn options(&self) -> &SampleOptions {
        &self.options
    }

    /// The sample of an example by a seed: the same for the same.
    ///
    /// Without augmentation the image is that of `ResizeLongestSide.apply_image` (segment-anything). A pixel is inside a
    /// mask where the original mask covers at least half of it, so outlines are not moved. Where none of the masks is
    /// large enough to see, crop and scale are drawn again, and after some tries the whole image fills the input.
    ///
    /// # Panics
    /// If a mask is not of its image's size, or the image has more than 2^31 pixels.
    pub fn sample(&self, example: &Example, seed: u64) -> Sample {
        let SampleOptions {
            side,
            min_mask_px,
            augmentation,
        } = &self.options;
        let size = example.image.size();
        let mut random = Random::new(seed, FRAMES);
        let mut frame = Frame::draw(size, *side, augmentation, &mut random);
        let mut masks = masks_in(example, &frame, *side, *min_mask_px);
        for _ in 0..CROP_TRIES {
            if !masks.is_empty() {
                break;
            }
            frame = Frame::draw(size, *side, augmentation, &mut random);
            masks = masks_in(example, &frame, *side, *min_mask_px);
        }
        if masks.is_empty() {
            frame = frame.widened(size, *side);
            masks = masks_in(example, &frame, *side, *min_mask_px);
        }

        let mut pixels = frame.cut(&example.image).into_data();
        recolour(
            &mut pixels,
            &augmentation.colour,
            &mut Random::new(seed, COLOURS),
        );
        let mut textures = Random::new(seed, TEXTURES);
        texture::blur(
            &mut pixels,
            frame.content,
            textures.between(0.0, augmentation.blur_px),
        );
        let noise = textures.between(0.0, augmentation.noise_levels);
        texture::add_noise(&mut pixels, noise, &mut textures);
        let (mask_indices, masks) = masks.into_iter().unzip();
        Sample {
            image: padded(&pixels, frame.content, *side),
            content: frame.content,
            masks,
            mask_indices,
        }
    }
}

/// What a frame shows of an example's masks, each with its index.
fn masks_in(example: &Example, frame: &Frame, side: u32, min_px: u64) -> Vec<(usize, Bitmap)> {
    let size = example.image.size();
    let mut masks = Vec::with_capacity(example.masks.len());
    for (index, mask) in example.masks.iter().enumerate() {
        assert_eq!(
            mask.size(),
            size,
            "mask {index} of example {:?} must have its image's size",
            example.key
        );
        if let Some(mask) = resample(mask, frame, side, min_px) {
            masks.push((index, mask));
        }
    }
    masks
}

/// `[content.height, content.width, 3]` in the top left corner of `[side, side, 3]` zeros.
fn padded(pixels: &[u8], content: ImageSize, side: u32) -> RgbImage {
    let (row, padded_row) = (content.width as usize * 3, side as usize * 3);
    let mut data = vec![0; padded_row * side as usize];
    for (from, to) in pixels
        .chunks_exact(row)
        .zip(data.chunks_exact_mut(padded_row))
    {
        to[..row].copy_from_slice(from);
    }
    RgbImage::new(ImageSize::new(side, side), data).expect("the buffer was made for the side")
}
