//! Blur and noise, which move no outline.

use maskmill_masks::ImageSize;

use crate::random::Random;

/// Below this standard deviation, in pixels, a blur changes next to nothing: a neighbour's weight is `exp(-50)`.
const LEAST_BLUR_PX: f64 = 0.1;

/// Standard deviations that the kernel reaches to each side; 1% of a Gaussian lies outside.
const REACH: f64 = 2.5;

/// Fraction bits of the kernel's weights: 255 times their sum fits 32 bits.
const BITS: u32 = 16;

/// Standard deviation of the sum of four bytes, each uniform: `sqrt(4 (256^2 - 1) / 12)`.
const FOUR_BYTES_DEVIATION: f64 = 147.800_541_270_8;

/// Mean of the sum of four bytes.
const FOUR_BYTES_MEAN: f32 = 510.0;

/// Blurs `[height, width, 3]` levels with a Gaussian of this standard deviation, in pixels; the border is repeated
/// outwards.
pub(crate) fn blur(pixels: &mut [u8], size: ImageSize, sigma_px: f64) {
    if sigma_px < LEAST_BLUR_PX {
        return;
    }
    let kernel = gaussian(sigma_px);
    let row_bytes = size.width as usize * 3;
    let radius = kernel.len() / 2;
    let mut sums = vec![0_u32; row_bytes];

    let mut padded = Vec::with_capacity(row_bytes + 2 * radius * 3);
    for row in pixels.chunks_exact_mut(row_bytes) {
        padded.clear();
        padded.extend(row[..3].iter().cycle().take(radius * 3));
        padded.extend_from_slice(row);
        padded.extend(row[row_bytes - 3..].iter().cycle().take(radius * 3));
        let shifted = (0..kernel.len()).map(|tap| &padded[tap * 3..][..row_bytes]);
        weigh(&kernel, shifted, &mut sums, row);
    }

    let unblurred = pixels.to_vec();
    let last = size.height as usize - 1;
    for (y, row) in pixels.chunks_exact_mut(row_bytes).enumerate() {
        let near = (0..kernel.len()).map(|tap| (y + tap).saturating_sub(radius).min(last));
        let rows = near.map(|y| &unblurred[y * row_bytes..][..row_bytes]);
        weigh(&kernel, rows, &mut sums, row);
    }
}

/// Sums rows by their weights; `sums` is scratch of a row's length.
fn weigh<'a>(
    kernel: &[u32],
    rows: impl Iterator<Item = &'a [u8]>,
    sums: &mut [u32],
    out: &mut [u8],
) {
    sums.fill(1 << (BITS - 1));
    for (&weight, row) in kernel.iter().zip(rows) {
        for (sum, &level) in sums.iter_mut().zip(row) {
            *sum += u32::from(level) * weight;
        }
    }
    for (out, &sum) in out.iter_mut().zip(sums.iter()) {
        *out = (sum >> BITS) as u8;
    }
}

/// Odd in number, symmetric, with a sum of exactly 1 in fixed point.
fn gaussian(sigma_px: f64) -> Vec<u32> {
    let radius = (REACH * sigma_px).ceil() as i32;
    let weight = |x: i32| libm::exp(-0.5 * f64::from(x * x) / (sigma_px * sigma_px));
    let total: f64 = (-radius..=radius).map(weight).sum();
    let unit = f64::from(1 << BITS);
    let mut kernel: Vec<u32> = (-radius..=radius)
        .map(|x| (weight(x) / total * unit).round() as u32)
        .collect();
    let others: u32 = kernel.iter().sum::<u32>() - kernel[radius as usize];
    kernel[radius as usize] = (1 << BITS) - others;
    kernel
}

/// Adds noise of this standard deviation, in levels, to each level on its own: nearly Gaussian, a sum of four uniform
/// numbers.
pub(crate) fn add_noise(pixels: &mut [u8], levels: f64, random: &mut Random) {
    if levels == 0.0 {
        return;
    }
    let scale = (levels / FOUR_BYTES_DEVIATION) as f32;
    for pair in pixels.chunks_mut(2) {
        let bytes = random.next().to_le_bytes();
        for (level, four) in pair.iter_mut().zip(bytes.as_chunks::<4>().0) {
            let sum: u32 = four.iter().map(|&byte| u32::from(byte)).sum();
            let noise = (sum as f32 - FOUR_BYTES_MEAN) * scale;
            // A cast of a float to a byte cuts off at 0 and 255.
            *level = (f32::from(*level) + noise + 0.5) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_sum_to_one() {
        for sigma in [0.1, 0.5, 1.0, 3.3, 8.0] {
            let kernel = gaussian(sigma);
            assert_eq!(kernel.iter().sum::<u32>(), 1 << BITS, "{sigma}");
            let reversed: Vec<u32> = kernel.iter().rev().copied().collect();
            assert_eq!(kernel, reversed, "{sigma}");
        }
    }

    #[test]
    fn a_point_spreads_alike_in_all_directions() {
        let size = ImageSize::new(15, 21);
        let mut pixels = vec![0; 15 * 21 * 3];
        let at = |y: usize, x: usize| (y * 21 + x) * 3 + 1;
        pixels[at(7, 10)] = 255;
        blur(&mut pixels, size, 1.0);
        // A Gaussian of deviation 1, cut off after 3 pixels: 0.3991 along an axis at its middle, 0.2420 beside it.
        assert_eq!(pixels[at(7, 10)], 41);
        for (y, x) in [(6, 10), (8, 10), (7, 9), (7, 11)] {
            assert_eq!(pixels[at(y, x)], 25, "({y}, {x})");
        }
        assert!(pixels.iter().skip(2).step_by(3).all(|&blue| blue == 0));
    }

    #[test]
    fn flat_images_stay_flat() {
        let mut pixels = [200, 100, 7].repeat(5 * 4);
        blur(&mut pixels, ImageSize::new(5, 4), 8.0);
        assert_eq!(pixels, [200, 100, 7].repeat(5 * 4));
    }

    #[test]
    fn noise_has_its_deviation_and_no_bias() {
        let mut pixels = vec![128; 30_000];
        add_noise(&mut pixels, 10.0, &mut Random::new(3, 0));
        let differences = pixels.iter().map(|&level| f64::from(level) - 128.0);
        let mean = differences.clone().sum::<f64>() / 30_000.0;
        let variance = differences.map(|x| (x - mean).powi(2)).sum::<f64>() / 30_000.0;
        // Five standard errors.
        assert!(mean.abs() < 0.3, "{mean}");
        assert!((variance.sqrt() - 10.0).abs() < 0.3, "{variance}");
    }
}
