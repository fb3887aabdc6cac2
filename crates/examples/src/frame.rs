//! Which part of an image a sample shows, and how large: one geometry for the image and its masks.

use maskmill_masks::{BoxPx, ImageSize};
use maskmill_pixels::{RgbImage, longest_side, resize_bilinear};

use crate::augmentation::Augmentation;
use crate::random::Random;

/// A part of an image, resized to `content` and then flipped.
///
/// The part consists of whole pixels and so does its place in the sample: the image and every mask are cut by the same
/// numbers, without rounding between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// In the image's pixels; not empty.
    pub(crate) crop: BoxPx,
    /// The part's size in the sample, in its pixels.
    pub(crate) content: ImageSize,
    /// Left and right are exchanged, after resizing.
    pub(crate) mirrored: bool,
    /// Top and bottom are exchanged, after resizing.
    pub(crate) upside_down: bool,
}

impl Frame {
    /// A frame of an image of this size, for a model's input of `side` pixels.
    pub(crate) fn draw(
        image: ImageSize,
        side: u32,
        augmentation: &Augmentation,
        random: &mut Random,
    ) -> Self {
        let least = augmentation.least_crop;
        let kept = |length, random: &mut Random| {
            let fraction = random.between(least, 1.0);
            window(length, f64::from(length) * fraction, random)
        };
        let (y0, height) = kept(image.height, random);
        let (x0, width) = kept(image.width, random);

        let [least, most] = augmentation.scale_jitter;
        let longest = (f64::from(side) * random.between(least, most)).round();
        let scaled = longest_side(ImageSize::new(height, width), (longest as u32).max(1));
        let content = ImageSize::new(scaled.height.min(side), scaled.width.min(side));
        // The window of the scaled image that fits the input, in pixels of the original.
        let shown = |length, content: u32, scaled: u32, random: &mut Random| {
            let fraction = f64::from(content) / f64::from(scaled);
            window(length, f64::from(length) * fraction, random)
        };
        let (below, height) = shown(height, content.height, scaled.height, random);
        let (right, width) = shown(width, content.width, scaled.width, random);
        let (x0, y0) = (x0 + right, y0 + below);
        Self {
            crop: BoxPx {
                x0,
                y0,
                x1: x0 + width,
                y1: y0 + height,
            },
            content,
            mirrored: random.chance(augmentation.horizontal_flip),
            upside_down: random.chance(augmentation.vertical_flip),
        }
    }

    /// Whether all of the image is in it.
    pub(crate) fn is_whole(&self, image: ImageSize) -> bool {
        self.crop == BoxPx::of(image)
    }

    /// The frame of the whole image that fills the input, flipped as this one.
    pub(crate) fn widened(&self, image: ImageSize, side: u32) -> Self {
        Self {
            crop: BoxPx::of(image),
            content: longest_side(image, side),
            ..*self
        }
    }

    /// What the frame shows of an image: `[content.height, content.width, 3]`.
    ///
    /// Resized by Pillow's bilinear filter, as `ResizeLongestSide.apply_image` (segment-anything).
    pub(crate) fn cut(&self, image: &RgbImage) -> RgbImage {
        let resized = match self.is_whole(image.size()) {
            true => resize_bilinear(image, self.content),
            false => resize_bilinear(&image.crop(self.crop), self.content),
        };
        if !self.mirrored && !self.upside_down {
            return resized;
        }
        let mut data = Vec::with_capacity(resized.data().len());
        for y in 0..self.content.height {
            let row = resized.row(self.row(y));
            match self.mirrored {
                true => data.extend(row.as_chunks::<3>().0.iter().rev().flatten()),
                false => data.extend_from_slice(row),
            }
        }
        RgbImage::new(self.content, data).expect("flipping keeps the size")
    }

    /// Where row `y` of the resized part is in the sample, and the other way around.
    pub(crate) fn row(&self, y: u32) -> u32 {
        match self.upside_down {
            true => self.content.height - 1 - y,
            false => y,
        }
    }

    /// Where column `x` of the resized part is in the sample, and the other way around.
    pub(crate) fn column(&self, x: u32) -> u32 {
        match self.mirrored {
            true => self.content.width - 1 - x,
            false => x,
        }
    }
}

/// A random window of about `wanted` in `length` pixels, and at least one: its first pixel and its length.
fn window(length: u32, wanted: f64, random: &mut Random) -> (u32, u32) {
    let kept = (wanted.round() as u32).clamp(1, length);
    (random.up_to(length - kept), kept)
}
