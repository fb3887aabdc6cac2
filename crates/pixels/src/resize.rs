//! Pillow's antialiased bilinear resize, byte for byte.

use maskmill_masks::ImageSize;

use crate::rgb_image::{CHANNELS, RgbImage};

/// Fraction bits of a fixed-point filter weight: 32 bits minus 8 for the pixel minus 2 of headroom.
const WEIGHT_BITS: u32 = 22;

/// Half of one unit of a weighted sum: added before the shift, it rounds to nearest.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

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

    let columns = (source.width != target.width).then(|| Filter::new(source.width, target.width));
    let rows = (source.height != target.height).then(|| Filter::new(source.height, target.height));

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
                reduce_column(window.weights, inputs, &mut sums, out);
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
                reduce_column(window.weights, inputs, &mut sums, out);
            }
        }
    }
    RgbImage::new(target, data).expect("the buffer was made for the target size")
}

/// Whether Pillow takes the vertical pass first: the image is over 100 times as tall as wide, and loses height.
fn is_reduced_from_very_tall(source: ImageSize, target: ImageSize) -> bool {
    u64::from(source.height) > u64::from(source.width) * 100 && target.height < source.height
}

/// The triangle filter along one axis: for every output position a window of inputs and their weights.
struct Filter {
    /// Window slots per output position; also the most inputs any window has.
    taps: usize,
    /// First input and number of inputs of each window.
    bounds: Vec<(usize, usize)>,
    /// `[outputs, taps]` weights with [`WEIGHT_BITS`] fraction bits; slots past a window's end are unused.
    weights: Vec<i32>,
}

/// The inputs one output position is made of.
struct Window<'a> {
    start: usize,
    weights: &'a [i32],
}

impl Filter {
    /// Follows `precompute_coeffs` and `normalize_coeffs_8bpc`, operation by operation: the weights must round alike.
    fn new(input: u32, output: u32) -> Self {
        let scale = f64::from(input) / f64::from(output);
        // The triangle is one input wide on each side when enlarging and one output wide when reducing.
        let support = scale.max(1.0);
        let taps = support.ceil() as usize * 2 + 1;
        let inverse_support = 1.0 / support;

        let mut bounds = Vec::with_capacity(output as usize);
        let mut weights = vec![0; output as usize * taps];
        let mut exact = Vec::with_capacity(taps);
        for (position, fixed) in (0..output).zip(weights.chunks_exact_mut(taps)) {
            let center = (f64::from(position) + 0.5) * scale;
            // Casts truncate towards zero and clamp below at 0.
            let start = (center - support + 0.5) as u32;
            let end = ((center + support + 0.5) as u32).min(input);

            exact.clear();
            exact.extend((start..end).map(|x| {
                let distance = (f64::from(x) - center + 0.5) * inverse_support;
                (1.0 - distance.abs()).max(0.0)
            }));
            let total: f64 = exact.iter().sum();
            for (fixed, weight) in fixed.iter_mut().zip(&exact) {
                *fixed = (0.5 + weight / total * f64::from(1 << WEIGHT_BITS)) as i32;
            }
            bounds.push((start as usize, exact.len()));
        }
        Self {
            taps,
            bounds,
            weights,
        }
    }

    fn windows(&self) -> impl Iterator<Item = Window<'_>> {
        self.bounds
            .iter()
            .zip(self.weights.chunks_exact(self.taps))
            .map(|(&(start, len), weights)| Window {
                start,
                weights: &weights[..len],
            })
    }

    /// Resizes one row, `[input, 3]` to `[output, 3]`.
    fn reduce_row(&self, row: &[u8], out: &mut [u8]) {
        let (pixels, _) = row.as_chunks::<CHANNELS>();
        let (out, _) = out.as_chunks_mut::<CHANNELS>();
        for (window, out) in self.windows().zip(out) {
            let [mut red, mut green, mut blue] = [HALF; CHANNELS];
            let inputs = &pixels[window.start..][..window.weights.len()];
            for (pixel, &weight) in inputs.iter().zip(window.weights) {
                red += i32::from(pixel[0]) * weight;
                green += i32::from(pixel[1]) * weight;
                blue += i32::from(pixel[2]) * weight;
            }
            *out = [to_byte(red), to_byte(green), to_byte(blue)];
        }
    }
}

/// Sums whole rows by their weights: `inputs` gives the window's rows in order, `sums` is scratch of a row's length.
fn reduce_column<'a>(
    weights: &[i32],
    inputs: impl Iterator<Item = &'a [u8]>,
    sums: &mut [i32],
    out: &mut [u8],
) {
    sums.fill(HALF);
    for (&weight, row) in weights.iter().zip(inputs) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += i32::from(value) * weight;
        }
    }
    for (out, &sum) in out.iter_mut().zip(sums.iter()) {
        *out = to_byte(sum);
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
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
