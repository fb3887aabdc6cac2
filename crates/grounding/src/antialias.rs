//! OWLv2's resize: padded to a square, blurred by a Gaussian, interpolated bilinearly.
//!
//! Blur and interpolation are both separable and linear, so their product is too: each output position is a
//! weighted sum over one window of columns, then of rows. Neither the padded nor the blurred image is made.

use maskmill_pixels::RgbImage;

/// Resizes to a square of `side` pixels, `[side, side, 3]` values in [0, 1], not normalised. Below and to the
/// right of the image there is black.
///
/// Follows `Owlv2ImageProcessor.pad` and `.resize` (transformers 5, torchvision backend): standard deviation
/// `(factor - 1) / 2`, a kernel of `2 ceil(3 sigma) + 1` values, no blur when enlarging; and PyTorch's bilinear
/// interpolation without corner alignment.
pub(crate) fn shrink_square(image: &RgbImage, side: usize) -> Vec<f32> {
    let size = image.size();
    let (height, width) = (size.height as usize, size.width as usize);
    let square = height.max(width);
    let taps = Taps::new(square, side);
    let columns = taps.within(width);
    let rows = taps.within(height);

    let mut values = vec![0.0; side * side * 3];
    // Row y of the horizontally resized image lives in slot y % slots while a window needs it.
    let slots = rows.iter().map(|window| window.weights.len()).max();
    let slots = slots.unwrap_or(0).max(1);
    let mut held = vec![0.0_f32; slots * side * 3];
    let mut next = 0;
    for (window, out) in rows.iter().zip(values.chunks_exact_mut(side * 3)) {
        while next < window.start + window.weights.len() {
            let slot = &mut held[next % slots * side * 3..][..side * 3];
            shrink_row(image.row(next as u32), &columns, slot);
            next += 1;
        }
        for (y, &weight) in (window.start..).zip(&window.weights) {
            let row = &held[y % slots * side * 3..][..side * 3];
            for (out, value) in out.iter_mut().zip(row) {
                *out += weight * value;
            }
        }
    }
    values
}

fn shrink_row(row: &[u8], columns: &[Window], out: &mut [f32]) {
    const RESCALE: f32 = 1.0 / 255.0;
    let (pixels, _) = row.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    for (window, out) in columns.iter().zip(out) {
        let mut sums = [0.0_f32; 3];
        let inputs = &pixels[window.start..][..window.weights.len()];
        for (pixel, &weight) in inputs.iter().zip(&window.weights) {
            for c in 0..3 {
                sums[c] += f32::from(pixel[c]) * weight;
            }
        }
        *out = sums.map(|sum| sum * RESCALE);
    }
}

/// Successive inputs of one output position.
#[derive(Clone, Debug, PartialEq)]
struct Window {
    start: usize,
    weights: Vec<f32>,
}

/// Blur and interpolation along one axis of the square.
struct Taps {
    windows: Vec<Window>,
}

impl Taps {
    /// From `input` to `output` positions.
    fn new(input: usize, output: usize) -> Self {
        let kernel = gaussian(input, output);
        let half = kernel.len() / 2;
        // PyTorch computes the source position in f32.
        let scale = input as f32 / output as f32;
        let windows = (0..output).map(|position| {
            let source = (scale * (position as f32 + 0.5) - 0.5).max(0.0);
            let low = (source as usize).min(input - 1);
            let high = (low + 1).min(input - 1);
            let toward_high = source - low as f32;
            let start = low.saturating_sub(half);
            let end = (high + half + 1).min(input);
            let mut weights = vec![0.0; end - start];
            for (centre, share) in [(low, 1.0 - toward_high), (high, toward_high)] {
                for (k, &weight) in kernel.iter().enumerate() {
                    let at = reflected(centre as isize + k as isize - half as isize, input);
                    weights[at - start] += share * weight;
                }
            }
            Window { start, weights }
        });
        Self {
            windows: windows.collect(),
        }
    }

    /// The windows without what lies beyond `extent`, where the square is black.
    fn within(&self, extent: usize) -> Vec<Window> {
        let clipped = self.windows.iter().map(|window| {
            let start = window.start.min(extent);
            let length = window.weights.len().min(extent - start);
            Window {
                start,
                weights: window.weights[..length].to_vec(),
            }
        });
        clipped.collect()
    }
}

/// Padding by reflection without the edge itself, as `gaussian_blur` (torchvision) pads.
fn reflected(index: isize, length: usize) -> usize {
    let last = length as isize - 1;
    let index = index.abs();
    (if index > last {
        2 * last - index
    } else {
        index
    }) as usize
}

/// The kernel of `gaussian_blur` (torchvision) for a reduction from `input` to `output`; one tap of 1 where it is
/// an enlargement.
fn gaussian(input: usize, output: usize) -> Vec<f32> {
    let sigma = (input as f32 / output as f32 - 1.0) / 2.0;
    if sigma <= 0.0 {
        return vec![1.0];
    }
    let half = (3.0 * sigma).ceil() as i32;
    let exact = (-half..=half).map(|x| (-(f64::from(x) / f64::from(sigma)).powi(2) / 2.0).exp());
    let exact: Vec<f64> = exact.collect();
    let total: f64 = exact.iter().sum();
    exact.iter().map(|weight| (weight / total) as f32).collect()
}

#[cfg(test)]
mod tests {
    use maskmill_masks::ImageSize;

    use super::*;

    fn flat(height: u32, width: u32, level: u8) -> RgbImage {
        let data = vec![level; (height * width * 3) as usize];
        RgbImage::new(ImageSize::new(height, width), data).unwrap()
    }

    #[test]
    fn weights_sum_to_one() {
        for (input, output) in [(1, 5), (7, 7), (100, 96), (1000, 96), (95, 96), (97, 96)] {
            for window in Taps::new(input, output).windows {
                let sum: f32 = window.weights.iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "{input} to {output}: {sum}");
            }
        }
    }

    #[test]
    fn a_landscape_image_has_black_below_it() {
        let side = 20;
        let values = shrink_square(&flat(50, 100, 255), side);
        let at = |y: usize, x: usize| values[(y * side + x) * 3];
        assert!((at(2, 3) - 1.0).abs() < 1e-5);
        assert!((at(2, 19) - 1.0).abs() < 1e-5, "no black at the right");
        assert_eq!(at(17, 3), 0.0);
        let edge = (at(9, 3), at(10, 3));
        assert!(edge.0 > 0.5 && edge.0 < 1.0 && edge.1 > 0.0 && edge.1 < 0.5);
    }

    #[test]
    fn an_enlarged_pixel_is_flat() {
        let values = shrink_square(&flat(1, 1, 51), 7);
        assert!(values.iter().all(|value| (value - 0.2).abs() < 1e-6));
    }

    #[test]
    fn reflection_leaves_the_edge_out() {
        let indices: Vec<usize> = (-2..6).map(|index| reflected(index, 4)).collect();
        assert_eq!(indices, [2, 1, 0, 1, 2, 3, 2, 1]);
    }
}
