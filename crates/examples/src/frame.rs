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
        let scale = libm::exp(random.between(libm::log(least), libm::log(most)));
        let longest = (f64::from(side) * scale).round();
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

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: u32 = 200;

    fn frames(image: ImageSize, augmentation: Augmentation) -> impl Iterator<Item = Frame> {
        (0..500).map(move |seed| Frame::draw(image, SIDE, &augmentation, &mut Random::new(seed, 0)))
    }

    #[test]
    fn without_augmentation_the_whole_image_fills_the_input() {
        let image = ImageSize::new(300, 451);
        for frame in frames(image, Augmentation::NONE) {
            assert!(frame.is_whole(image));
            assert_eq!(frame.content, longest_side(image, SIDE));
            assert!(!frame.mirrored && !frame.upside_down);
        }
    }

    #[test]
    fn windows_lie_in_the_image_and_are_not_distorted() {
        let image = ImageSize::new(300, 451);
        let augmentation = Augmentation {
            scale_jitter: [0.25, 4.0],
            least_crop: 0.5,
            ..Augmentation::NONE
        };
        let mut enlarged = 0;
        for Frame { crop, content, .. } in frames(image, augmentation) {
            assert!(!crop.is_empty() && crop.x1 <= image.width && crop.y1 <= image.height);
            assert!(content.height.max(content.width) <= SIDE);
            assert!(content.height > 0 && content.width > 0);
            // Within the rounding of both ends to whole pixels.
            let scale = |shown: u32, part: u32| f64::from(shown) / f64::from(part);
            let (by_y, by_x) = (
                scale(content.height, crop.height()),
                scale(content.width, crop.width()),
            );
            let shortest = crop
                .height()
                .min(crop.width())
                .min(content.height)
                .min(content.width);
            assert!(
                (by_y / by_x - 1.0).abs() < 1.5 / f64::from(shortest),
                "{crop}, {content}"
            );
            enlarged += u32::from(content.height.max(content.width) == SIDE);
        }
        // Uniform in its logarithm, from a quarter to four times, the scale is above 1 in a half of all draws.
        assert!((200..300).contains(&enlarged), "{enlarged}");
    }

    #[test]
    fn windows_lie_anywhere_alike() {
        let image = ImageSize::new(300, 451);
        let augmentation = Augmentation {
            scale_jitter: [4.0, 4.0],
            ..Augmentation::NONE
        };
        // A fourth of the longer side, 113 pixels, is shown: from 0 to 187 lie above it, from 0 to 338 left of it.
        let starts = frames(image, augmentation).map(|Frame { crop, .. }| {
            assert_eq!(crop.size(), ImageSize::new(113, 113));
            [crop.y0, crop.x0]
        });
        let starts: Vec<[u32; 2]> = starts.collect();
        for (axis, most) in [(0, 187), (1, 338)] {
            let mut starts: Vec<u32> = starts.iter().map(|start| start[axis]).collect();
            starts.sort_unstable();
            assert!(starts[0] < 5 && starts[499] > most - 5 && starts[499] <= most);
            for (rank, start) in starts.iter().enumerate() {
                // Kolmogorov and Smirnov: beyond this in one of 10,000 runs.
                let expected = rank as f64 / 500.0;
                let found = f64::from(*start) / f64::from(most);
                assert!((found - expected).abs() < 0.1, "{start} is of rank {rank}");
            }
        }
    }

    #[test]
    fn a_crop_keeps_what_it_is_asked_to() {
        let image = ImageSize::new(300, 451);
        let augmentation = Augmentation {
            least_crop: 0.5,
            ..Augmentation::NONE
        };
        let (mut least, mut most) = (1.0_f64, 0.0_f64);
        for Frame { crop, content, .. } in frames(image, augmentation) {
            assert_eq!(content, longest_side(crop.size(), SIDE));
            let kept = f64::from(crop.height()) / 300.0;
            (least, most) = (least.min(kept), most.max(kept));
        }
        assert!((0.5..0.52).contains(&least), "{least}");
        assert!((0.98..=1.0).contains(&most), "{most}");
    }

    #[test]
    fn flips_come_as_often_as_asked() {
        let augmentation = Augmentation {
            horizontal_flip: 0.3,
            vertical_flip: 1.0,
            ..Augmentation::NONE
        };
        let mirrored = frames(ImageSize::new(9, 7), augmentation).filter(|frame| {
            assert!(frame.upside_down);
            frame.mirrored
        });
        assert!((110..190).contains(&mirrored.count()));
    }
}
