//! The crop of an image that shows one mask to CLIP.

use maskmill_masks::{BoxPx, ImageSize, Rle};
use maskmill_pixels::{RgbImage, resize_bilinear};

use crate::pixel_values::ClipInput;

/// Stands in for pixels beyond the image and for a removed background: the mean of CLIP's training images,
/// which normalises to 0.
const NOTHING: [u8; 3] = [123, 117, 104];

/// A blurred background has at most this many samples across the crop: shapes of a twelfth of the crop and less
/// disappear, light and colour stay.
const BLUR_SAMPLES: u32 = 12;

/// What is seen around a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropBackground {
    /// The image as it is: surroundings help to recognise small things.
    Keep,
    /// The image out of focus.
    Blur,
    /// An even grey.
    Remove,
}

/// How a mask is cut out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropOptions {
    /// Added on each side of the mask's box, as a fraction of its longer side.
    pub padding: f64,
    /// What is seen around the mask.
    pub background: CropBackground,
}

impl Default for CropOptions {
    fn default() -> Self {
        Self {
            padding: 0.1,
            background: CropBackground::Keep,
        }
    }
}

/// Cuts a mask out for CLIP: a square around its box, so that nothing is distorted or lost, resized to
/// `image_size`. Where the square leaves the image, and for a mask without pixels, there is grey.
///
/// # Panics
/// When mask and image differ in size.
pub fn crop_mask(
    image: &RgbImage,
    mask: &Rle,
    options: &CropOptions,
    image_size: usize,
) -> ClipInput {
    assert_eq!(image.size(), mask.size(), "the mask is of this image");
    let square = Square::around(mask.bounds(), options.padding);
    let kept = square.copy(image);
    let crop = match options.background {
        CropBackground::Keep => kept,
        CropBackground::Blur => square.over(&kept, blurred(&kept), mask),
        CropBackground::Remove => square.over(&kept, grey(kept.size()), mask),
    };
    ClipInput::new(&crop, image_size)
}

/// A square of pixels that may reach beyond the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Square {
    x0: i64,
    y0: i64,
    side: u32,
}

impl Square {
    fn around(bounds: BoxPx, padding: f64) -> Self {
        let longer = bounds.width().max(bounds.height()).max(1);
        let margin = (f64::from(longer) * padding).round() as u32;
        let side = longer + 2 * margin;
        let start = |from: u32, length: u32| {
            i64::from(from) - (i64::from(side) - i64::from(length)).div_euclid(2)
        };
        Self {
            x0: start(bounds.x0, bounds.width()),
            y0: start(bounds.y0, bounds.height()),
            side,
        }
    }

    /// The part that lies in an image, in the image's pixels.
    fn within(&self, size: ImageSize) -> BoxPx {
        let clamp = |v: i64, length: u32| v.clamp(0, i64::from(length)) as u32;
        let end = i64::from(self.side);
        BoxPx {
            x0: clamp(self.x0, size.width),
            y0: clamp(self.y0, size.height),
            x1: clamp(self.x0 + end, size.width),
            y1: clamp(self.y0 + end, size.height),
        }
    }

    /// Bytes before a pixel of the image in the square's own rows.
    fn offset(&self, x: u32, y: u32) -> usize {
        let column = (i64::from(x) - self.x0) as usize;
        let row = (i64::from(y) - self.y0) as usize;
        3 * (row * self.side as usize + column)
    }

    fn copy(&self, image: &RgbImage) -> RgbImage {
        let mut data = grey(ImageSize::new(self.side, self.side)).into_data();
        let inside = self.within(image.size());
        if !inside.is_empty() {
            let bytes = 3 * inside.width() as usize;
            for y in inside.y0..inside.y1 {
                let row = &image.row(y)[3 * inside.x0 as usize..][..bytes];
                data[self.offset(inside.x0, y)..][..bytes].copy_from_slice(row);
            }
        }
        self.image(data)
    }

    /// The mask's pixels of `kept` over `background`, both of the square's size.
    fn over(&self, kept: &RgbImage, background: RgbImage, mask: &Rle) -> RgbImage {
        let mut data = background.into_data();
        let height = mask.size().height;
        // Runs go down the columns, and never leave the mask's box.
        for run in mask.runs_inside() {
            for at in run {
                let offset = self.offset(at / height, at % height);
                data[offset..offset + 3].copy_from_slice(&kept.data()[offset..offset + 3]);
            }
        }
        self.image(data)
    }

    fn image(&self, data: Vec<u8>) -> RgbImage {
        let size = ImageSize::new(self.side, self.side);
        RgbImage::new(size, data).expect("the buffer was made for the square")
    }
}

fn grey(size: ImageSize) -> RgbImage {
    let data = NOTHING.repeat(size.pixels() as usize);
    RgbImage::new(size, data).expect("the buffer was made for the size")
}

fn blurred(image: &RgbImage) -> RgbImage {
    let samples = (image.size().width / 2).clamp(1, BLUR_SAMPLES);
    let few = ImageSize::new(samples, samples);
    resize_bilinear(&resize_bilinear(image, few), image.size())
}

#[cfg(test)]
mod tests {
    use maskmill_masks::Bitmap;

    use super::*;

    /// Red at x, green at y.
    fn image(height: u32, width: u32) -> RgbImage {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| [x as u8, y as u8, 200]));
        let data = pixels.flatten().collect();
        RgbImage::new(ImageSize::new(height, width), data).unwrap()
    }

    fn mask(height: u32, width: u32, inside: impl Fn(u32, u32) -> bool) -> Rle {
        Rle::encode(&Bitmap::from_fn(ImageSize::new(height, width), inside))
    }

    fn options(padding: f64, background: CropBackground) -> CropOptions {
        CropOptions {
            padding,
            background,
        }
    }

    #[test]
    fn a_crop_is_a_square_around_the_mask_s_box() {
        let bounds = BoxPx {
            x0: 10,
            y0: 20,
            x1: 30,
            y1: 26,
        };
        let square = Square::around(bounds, 0.1);
        // 20 wide and 2 on each side; 6 high, centred.
        assert_eq!((square.x0, square.y0, square.side), (8, 11, 24));
    }

    #[test]
    fn without_resizing_the_crop_is_the_image() {
        let (height, width) = (40, 60);
        let mask = mask(height, width, |y, x| {
            (10..18).contains(&y) && (30..38).contains(&x)
        });
        let crop = crop_mask(
            &image(height, width),
            &mask,
            &options(0.0, CropBackground::Keep),
            8,
        );
        assert_eq!(crop.pixels().data()[..6], [30, 10, 200, 31, 10, 200]);
        assert_eq!(crop.pixels().row(7)[21..], [37, 17, 200]);
    }

    #[test]
    fn beyond_the_image_there_is_grey() {
        let mask = mask(40, 60, |y, x| y < 4 && x < 8);
        let crop = crop_mask(
            &image(40, 60),
            &mask,
            &options(0.0, CropBackground::Keep),
            8,
        );
        assert_eq!(
            crop.pixels().data()[..3],
            NOTHING,
            "two rows above the image"
        );
        assert_eq!(crop.pixels().row(2)[..3], [0, 0, 200]);
    }

    #[test]
    fn a_removed_background_is_grey_and_the_mask_stays() {
        let mask = mask(40, 60, |y, x| {
            (10..18).contains(&y) && (30..38).contains(&x) && x - 30 <= y - 10
        });
        let picture = image(40, 60);
        let removed = crop_mask(&picture, &mask, &options(0.0, CropBackground::Remove), 8);
        assert_eq!(removed.pixels().data()[..6], [30, 10, 200, 123, 117, 104]);
        let blurred = crop_mask(&picture, &mask, &options(0.0, CropBackground::Blur), 8);
        assert_eq!(blurred.pixels().data()[..3], [30, 10, 200]);
        assert_ne!(blurred.pixels().data()[3..6], [123, 117, 104]);
        assert_ne!(blurred.pixels().row(0)[21..24], picture.row(10)[111..114]);
    }

    #[test]
    fn masks_of_nothing_and_of_everything_are_cut() {
        let picture = image(30, 50);
        for (inside, padding) in [(false, 0.1), (true, 0.0), (true, 3.0)] {
            let mask = mask(30, 50, |_, _| inside);
            for background in [
                CropBackground::Keep,
                CropBackground::Blur,
                CropBackground::Remove,
            ] {
                let crop = crop_mask(&picture, &mask, &options(padding, background), 16);
                assert_eq!(crop.pixels().size(), ImageSize::new(16, 16));
            }
        }
    }
}
