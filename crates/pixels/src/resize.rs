//! The antialiased resizes of the models' reference implementations, byte for byte.

use maskmill_masks::ImageSize;

use crate::filter::{Filter, reduce_column};
use crate::rgb_image::{CHANNELS, RgbImage};

/// The size with its longer side scaled to `target` pixels and the other in proportion, rounded half up.
///
/// Follows `ResizeLongestSide.get_preprocess_shape` (segment-anything), with one departure: a side never becomes 0.
/// There a 1 x 5000 image at target 256 rounds to 0 x 256, and the resize then fails; here it is 1 x 256.
pub fn longest_side(size: ImageSize, target: u32) -> ImageSize {
    let scale = f64::from(target) / f64::from(size.height.max(size.width));
    let scaled = |side: u32| ((f64::from(side) * scale + 0.5) as u32).max(1);
    ImageSize {
        height: scaled(size.height),
        width: scaled(size.width),
    }
}

/// Resizes to `target` exactly as Pillow 12.3's `Image.resize(size, BILINEAR)` resizes an RGB image.
///
/// The filter is a triangle that widens with the reduction (antialiasing), with weights of 22 fraction bits. A
/// horizontal pass is rounded to bytes, then a vertical pass follows; a pass whose size does not change is skipped.
/// Only the rows under the current vertical window are held between the passes.
///
/// # Shapes
/// - `image`: `[height, width, 3]`
/// - output: `[target.height, target.width, 3]`
///
/// Follows `ImagingResample` (Pillow, `Resample.c`) and, in the order of passes, `Image.resize` (`Image.py`). Other
/// versions order the passes by other rules.
///
/// # Panics
/// When a side of `target` is 0.
pub fn resize_bilinear(image: &RgbImage, target: ImageSize) -> RgbImage {
    assert!(
        target.height > 0 && target.width > 0,
        "cannot resize to {target}: both sides must be at least 1"
    );
    let source = image.size();
    if source.width != target.width && is_reduced_from_very_tall(source, target) {
        let reduced = resize_bilinear(
            image,
            ImageSize {
                height: target.height,
                width: source.width,
            },
        );
        return resize_bilinear(&reduced, target);
    }

    resize(image, target, Filter::triangle)
}

/// Resizes to `target` exactly as torchvision 0.29 resizes an RGB byte tensor on a CPU with `BICUBIC` and antialiasing:
/// what CLIP's and OWL-ViT's image processors do in transformers 5.
///
/// Pillow's algorithm, but for the weights: their fractions have as many bits as fit 16, so that bytes differ from
/// Pillow's by at most 1. A horizontal pass, then a vertical one; the kernel is Keys' cubic with a = -0.5.
///
/// # Shapes
/// - `image`: `[height, width, 3]`
/// - output: `[target.height, target.width, 3]`
///
/// Follows `upsample_bicubic2d_aa` for bytes (PyTorch, `UpSampleKernel.cpp`).
///
/// # Panics
/// When a side of `target` is 0.
pub fn resize_bicubic(image: &RgbImage, target: ImageSize) -> RgbImage {
    assert!(
        target.height > 0 && target.width > 0,
        "cannot resize to {target}: both sides must be at least 1"
    );
    resize(image, target, Filter::cubic)
}

/// Both passes; one whose size does not change is skipped. Only the rows under the current vertical window are held
/// between them.
fn resize(image: &RgbImage, target: ImageSize, filter: fn(u32, u32) -> Filter) -> RgbImage {
    let source = image.size();
    let columns = (source.width != target.width).then(|| filter(source.width, target.width));
    let rows = (source.height != target.height).then(|| filter(source.height, target.height));

    let row_bytes = target.width as usize * CHANNELS;
    let mut data = vec![0; target.height as usize * row_bytes];
    match (columns, rows) {
        (None, None) => data.copy_from_slice(image.data()),
        (Some(columns), None) => {
            for (y, out) in (0..).zip(data.chunks_exact_mut(row_bytes)) {
                columns.reduce_row(image.row(y), out);
            }
        }
        (None, Some(rows)) => {
            let mut sums = vec![0; row_bytes];
            for (window, out) in rows.windows().zip(data.chunks_exact_mut(row_bytes)) {
                let inputs = (window.start as u32..).map(|y| image.row(y));
                reduce_column(&window, inputs, &mut sums, out);
            }
        }
        (Some(columns), Some(rows)) => {
            // Row y of the horizontally resized image lives in slot y % taps while a vertical window needs it.
            let mut slots = vec![0; rows.taps * row_bytes];
            let mut next_y = 0;
            let mut sums = vec![0; row_bytes];
            for (window, out) in rows.windows().zip(data.chunks_exact_mut(row_bytes)) {
                while next_y < window.start + window.weights.len() {
                    let slot = &mut slots[next_y % rows.taps * row_bytes..][..row_bytes];
                    columns.reduce_row(image.row(next_y as u32), slot);
                    next_y += 1;
                }
                let inputs =
                    (window.start..).map(|y| &slots[y % rows.taps * row_bytes..][..row_bytes]);
                reduce_column(&window, inputs, &mut sums, out);
            }
        }
    }
    RgbImage::new(target, data).expect("the buffer was made for the target size")
}

/// Whether Pillow takes the vertical pass first: the image is over 100 times as tall as wide, and loses height.
fn is_reduced_from_very_tall(source: ImageSize, target: ImageSize) -> bool {
    u64::from(source.height) > u64::from(source.width) * 100 && target.height < source.height
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(height: u32, width: u32) -> ImageSize {
        ImageSize { height, width }
    }

    #[test]
    fn longest_side_rounds_half_up() {
        // 683 * 1024 / 1024 needs no rounding; 1367 * 0.5 = 683.5 becomes 684.
        assert_eq!(longest_side(size(683, 1024), 1024), size(683, 1024));
        assert_eq!(longest_side(size(1367, 2048), 1024), size(684, 1024));
        assert_eq!(longest_side(size(427, 640), 1024), size(683, 1024));
        assert_eq!(longest_side(size(5, 3), 1024), size(1024, 614));
    }

    #[test]
    fn longest_side_never_loses_a_side() {
        assert_eq!(longest_side(size(1, 5000), 256), size(1, 256));
        assert_eq!(longest_side(size(5000, 1), 256), size(256, 1));
    }

    #[test]
    fn reducing_by_two_averages_with_a_triangle() {
        // Window of output 0: inputs 0, 1, 2 at distances 0.5, 0.5, 1.5 of a support of 2: weights 3 : 3 : 1.
        let row = [0, 0, 0, 70, 70, 70, 140, 140, 140, 210, 210, 210].to_vec();
        let image = RgbImage::new(size(1, 4), row).unwrap();
        let reduced = resize_bilinear(&image, size(1, 2));
        assert_eq!(reduced.data(), [50, 50, 50, 160, 160, 160]);
    }

    proptest! {
        /// Weights sum to one within rounding, so a flat image stays flat, whatever the sizes.
        #[test]
        fn flat_images_stay_flat(
            (from, to) in ((1_u32..40, 1_u32..40), (1_u32..40, 1_u32..40)),
            color in any::<[u8; 3]>(),
        ) {
            let pixels = (from.0 * from.1) as usize;
            let image = RgbImage::new(size(from.0, from.1), color.repeat(pixels)).unwrap();
            let resized = resize_bilinear(&image, size(to.0, to.1));
            prop_assert_eq!(resized.data(), color.repeat((to.0 * to.1) as usize));
        }

        /// The two passes treat rows and columns alike up to the rounding between them.
        #[test]
        fn each_axis_alone_is_the_transpose_of_the_other(
            values in proptest::collection::vec(any::<[u8; 3]>(), 1..60),
            target in 1_u32..80,
        ) {
            let len = values.len() as u32;
            let row = RgbImage::new(size(1, len), values.concat()).unwrap();
            let column = RgbImage::new(size(len, 1), values.concat()).unwrap();
            prop_assert_eq!(
                resize_bilinear(&row, size(1, target)).into_data(),
                resize_bilinear(&column, size(target, 1)).into_data()
            );
        }
    }
}
