//! Pictures of masks on their image.

use std::f32::consts::TAU;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use maskmill_masks::{Bitmap, BoxPx, ImageSize, Rle};
use maskmill_pixels::RgbImage;

/// How masks are drawn, and what is drawn over them.
#[derive(Debug, Clone, PartialEq)]
pub struct OverlayOptions {
    /// Weight of a mask's colour inside it, from 0 (only its outline shows) to 1 (it hides the image).
    pub opacity: f32,
    /// Whether outlines are drawn.
    pub outlines: bool,
    /// Prompting points.
    pub points: Vec<PointMark>,
    /// Prompting boxes `[x0, y0, x1, y1]`, in pixels of the image.
    pub boxes: Vec<[f64; 4]>,
}

impl Default for OverlayOptions {
    fn default() -> Self {
        Self {
            opacity: 0.45,
            outlines: true,
            points: Vec::new(),
            boxes: Vec::new(),
        }
    }
}

/// A prompting point to draw: green on the object, red beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointMark {
    /// `[x, y]`, in pixels of the image.
    pub point: [f64; 2],
    /// Whether the point says "this object" (label 1) or "not this" (label 0).
    pub is_foreground: bool,
}

/// Why no picture could be made.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A mask belongs to an image of another size.
    #[error(
        "mask {index} is {mask} and the image {image}; was the image replaced after its masks were made?"
    )]
    SizeMismatch {
        /// The mask's place in the list.
        index: usize,
        /// The mask's size.
        mask: ImageSize,
        /// The image's size.
        image: ImageSize,
    },
    /// The PNG encoder failed.
    #[error("the PNG file cannot be made")]
    Png(#[from] image::ImageError),
}

/// Draws `masks` over a copy of `image`.
///
/// A mask's colour depends on its place in the list alone, and neighbours in the list differ most. Large masks are
/// drawn before small ones, so that each stays visible.
///
/// # Errors
/// [`OverlayError::SizeMismatch`] if a mask is not of the image's size.
pub fn overlay(
    image: &RgbImage,
    masks: &[&Rle],
    options: &OverlayOptions,
) -> Result<RgbImage, OverlayError> {
    let size = image.size();
    for (index, mask) in masks.iter().enumerate() {
        if mask.size() != size {
            return Err(OverlayError::SizeMismatch {
                index,
                mask: mask.size(),
                image: size,
            });
        }
    }
    let mut order: Vec<usize> = (0..masks.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(masks[index].area()));

    let mut canvas = Canvas {
        size,
        pixels: image.data().as_chunks().0.to_vec(),
    };
    for index in order {
        canvas.mask(masks[index], mask_color(index), options);
    }
    // From the image's longer side: lines and dots look alike when pictures are shown at the same width.
    let unit = f64::from(size.height.max(size.width)) / 1000.0;
    for &corners in &options.boxes {
        canvas.frame(corners, unit.max(1.0) * 2.0);
    }
    for mark in &options.points {
        let color = if mark.is_foreground {
            [40, 200, 80]
        } else {
            [230, 50, 50]
        };
        canvas.disc(mark.point, unit.max(0.5) * 9.0, [255; 3]);
        canvas.disc(mark.point, unit.max(0.5) * 6.0, color);
    }
    let data = canvas.pixels.into_flattened();
    Ok(RgbImage::new(size, data).expect("the canvas has the image's size"))
}

/// The image as a PNG file.
///
/// # Errors
/// [`OverlayError::Png`] if the encoder fails.
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>, OverlayError> {
    let ImageSize { height, width } = image.size();
    let mut file = Vec::new();
    PngEncoder::new(&mut file).write_image(image.data(), width, height, ExtendedColorType::Rgb8)?;
    Ok(file)
}

struct Canvas {
    size: ImageSize,
    /// `[height * width]`, row by row.
    pixels: Vec<[u8; 3]>,
}

impl Canvas {
    fn blend(&mut self, y: u32, x: u32, color: [u8; 3], opacity: f32) {
        let pixel = &mut self.pixels[y as usize * self.size.width as usize + x as usize];
        for (channel, color) in pixel.iter_mut().zip(color) {
            let mixed = f32::from(*channel) * (1.0 - opacity) + f32::from(color) * opacity;
            *channel = mixed.round() as u8;
        }
    }

    fn mask(&mut self, rle: &Rle, color: [u8; 3], options: &OverlayOptions) {
        let BoxPx { x0, y0, x1, y1 } = rle.bounds();
        let mask = rle.decode();
        let outline_width = if self.size.height.max(self.size.width) < 1200 {
            1
        } else {
            2
        };
        for y in y0..y1 {
            for x in x0..x1 {
                if !mask.get(y, x) {
                    continue;
                }
                if options.outlines && is_outline(&mask, y, x, outline_width) {
                    self.blend(y, x, color, 1.0);
                } else {
                    self.blend(y, x, color, options.opacity);
                }
            }
        }
    }

    /// The outline of a box, `width` pixels wide, around its edges.
    fn frame(&mut self, [x0, y0, x1, y1]: [f64; 4], width: f64) {
        let half = width / 2.0;
        self.fill_where([x0 - half, y0 - half, x1 + half, y1 + half], |x, y| {
            let inside = x0 + half <= x && x < x1 - half && y0 + half <= y && y < y1 - half;
            (!inside).then_some([255, 210, 0])
        });
    }

    fn disc(&mut self, [center_x, center_y]: [f64; 2], radius: f64, color: [u8; 3]) {
        let bounds = [
            center_x - radius,
            center_y - radius,
            center_x + radius,
            center_y + radius,
        ];
        self.fill_where(bounds, |x, y| {
            let distance = (x - center_x).hypot(y - center_y);
            (distance <= radius).then_some(color)
        });
    }

    /// Colours the pixels whose centres `[x, y]` lie in a box and to which `color` gives a colour.
    fn fill_where(
        &mut self,
        [x0, y0, x1, y1]: [f64; 4],
        color: impl Fn(f64, f64) -> Option<[u8; 3]>,
    ) {
        // Casts clamp to 0; what lies outside the image is not drawn.
        let clamp = |from: f64, to: f64, side: u32| {
            (from - 0.5).ceil() as u32..((to + 0.5).floor() as u32).min(side)
        };
        for row in clamp(y0, y1, self.size.height) {
            for column in clamp(x0, x1, self.size.width) {
                if let Some(color) = color(f64::from(column) + 0.5, f64::from(row) + 0.5) {
                    self.blend(row, column, color, 1.0);
                }
            }
        }
    }
}

/// Whether a pixel inside `mask` has one outside at most `width` pixels away, along a row or column. The image's own
/// border is no outline.
fn is_outline(mask: &Bitmap, y: u32, x: u32, width: u32) -> bool {
    let ImageSize {
        height,
        width: columns,
    } = mask.size();
    (1..=width).any(|step| {
        let left_or_up =
            (x >= step && !mask.get(y, x - step)) || (y >= step && !mask.get(y - step, x));
        let right = x + step < columns && !mask.get(y, x + step);
        let down = y + step < height && !mask.get(y + step, x);
        left_or_up || right || down
    })
}

/// The colour of the mask at `index`: hues a golden angle apart, so that no two of any few successive ones are close,
/// at three lightnesses.
fn mask_color(index: usize) -> [u8; 3] {
    let hue = (index as f32 * 0.618_034).fract() * TAU;
    let lightness = [0.70, 0.55, 0.85][index % 3];
    oklch_to_srgb(lightness, 0.17, hue)
}

/// A colour of equal perceived lightness and colourfulness at every hue (radians), clamped to what screens show.
///
/// Follows B. Ottosson, "A perceptual color space for image processing" (2020).
fn oklch_to_srgb(lightness: f32, chroma: f32, hue: f32) -> [u8; 3] {
    let (a, b) = (chroma * hue.cos(), chroma * hue.sin());
    let long = (lightness + 0.396_337_78 * a + 0.215_803_76 * b).powi(3);
    let medium = (lightness - 0.105_561_346 * a - 0.063_854_17 * b).powi(3);
    let short = (lightness - 0.089_484_18 * a - 1.291_485_5 * b).powi(3);
    let linear = [
        4.076_741_7 * long - 3.307_711_6 * medium + 0.230_969_94 * short,
        -1.268_438 * long + 2.609_757_4 * medium - 0.341_319_4 * short,
        -0.004_196_086_3 * long - 0.703_418_6 * medium + 1.707_614_7 * short,
    ];
    linear.map(|light| {
        let encoded = if light <= 0.003_130_8 {
            12.92 * light
        } else {
            1.055 * light.powf(1.0 / 2.4) - 0.055
        };
        (encoded.clamp(0.0, 1.0) * 255.0).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(height: u32, width: u32) -> RgbImage {
        RgbImage::new(
            ImageSize { height, width },
            vec![128; (height * width * 3) as usize],
        )
        .unwrap()
    }

    fn rle(drawing: &str) -> Rle {
        Rle::encode(&Bitmap::from_ascii(drawing))
    }

    /// `.` unchanged, `o` outline (the mask's own colour), `+` blended.
    fn drawn(picture: &RgbImage, color: [u8; 3]) -> Vec<String> {
        let letter = |pixel: &[u8; 3]| match pixel {
            [128, 128, 128] => '.',
            pixel if *pixel == color => 'o',
            _ => '+',
        };
        (0..picture.size().height)
            .map(|y| picture.row(y).as_chunks().0.iter().map(letter).collect())
            .collect()
    }

    #[test]
    fn a_mask_is_filled_and_outlined() {
        let mask = rle("......\n.####.\n.####.\n.####.\n......");
        let picture = overlay(&gray(5, 6), &[&mask], &OverlayOptions::default()).unwrap();
        assert_eq!(
            drawn(&picture, mask_color(0)),
            ["......", ".oooo.", ".o++o.", ".oooo.", "......"]
        );
    }

    #[test]
    fn the_images_border_is_no_outline() {
        let mask = rle("##.\n##.\n##.");
        let picture = overlay(&gray(3, 3), &[&mask], &OverlayOptions::default()).unwrap();
        assert_eq!(drawn(&picture, mask_color(0)), ["+o.", "+o.", "+o."]);
    }

    #[test]
    fn small_masks_lie_over_large_ones_whatever_their_order() {
        let (small, large) = (rle("...\n.#.\n..."), rle("###\n###\n###"));
        let options = OverlayOptions {
            opacity: 1.0,
            ..OverlayOptions::default()
        };
        for (masks, place) in [([&small, &large], 0), ([&large, &small], 1)] {
            let picture = overlay(&gray(3, 3), &masks, &options).unwrap();
            assert_eq!(picture.row(1)[3..6], mask_color(place));
        }
    }

    #[test]
    fn blending_without_opacity_leaves_the_image() {
        let options = OverlayOptions {
            opacity: 0.0,
            outlines: false,
            ..OverlayOptions::default()
        };
        let picture = overlay(&gray(2, 3), &[&rle("##.\n##.")], &options).unwrap();
        assert_eq!(picture, gray(2, 3));
    }

    #[test]
    fn prompts_may_reach_outside_the_image() {
        let options = OverlayOptions {
            points: vec![PointMark {
                point: [39.0, -1.0],
                is_foreground: true,
            }],
            boxes: vec![[-5.0, 4.0, 500.0, 12.0]],
            ..OverlayOptions::default()
        };
        let picture = overlay(&gray(20, 40), &[], &options).unwrap();
        let at = |y: u32, x: usize| <[u8; 3]>::try_from(&picture.row(y)[x * 3..][..3]).unwrap();
        assert_eq!(at(0, 39), [40, 200, 80]);
        assert_eq!([at(4, 0), at(11, 39)], [[255, 210, 0]; 2]);
        assert_eq!([at(8, 20), at(15, 20)], [[128; 3]; 2]);
    }

    #[test]
    fn masks_of_another_image_are_an_error() {
        let error = overlay(
            &gray(3, 2),
            &[&rle("#.\n..\n..").clone(), &rle("...\n...")],
            &OverlayOptions::default(),
        );
        assert!(matches!(
            error,
            Err(OverlayError::SizeMismatch { index: 1, .. })
        ));
    }

    #[test]
    fn the_first_colours_are_far_apart() {
        let distance = |a: [u8; 3], b: [u8; 3]| -> u32 {
            a.iter()
                .zip(b)
                .map(|(&a, b)| u32::from(a.abs_diff(b)))
                .sum()
        };
        for first in 0..12 {
            for second in 0..first {
                let apart = distance(mask_color(first), mask_color(second));
                assert!(apart > 60, "colours {first} and {second} are {apart} apart");
            }
        }
    }

    #[test]
    fn white_and_black_are_oklabs() {
        assert_eq!(oklch_to_srgb(1.0, 0.0, 0.0), [255; 3]);
        assert_eq!(oklch_to_srgb(0.0, 0.0, 0.0), [0; 3]);
        // Red is L 0.628, C 0.2577, hue 29.23 degrees.
        assert_eq!(oklch_to_srgb(0.627_955, 0.257_683, 0.510_186), [255, 0, 0]);
    }

    #[test]
    fn png_round_trips() {
        use crate::decode::{DecodeLimits, decode};
        let picture = overlay(&gray(5, 7), &[], &OverlayOptions::default()).unwrap();
        let decoded = decode(&encode_png(&picture).unwrap(), &DecodeLimits::default()).unwrap();
        assert_eq!(decoded.image, picture);
    }
}
