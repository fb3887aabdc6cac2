//! Colours varied by one affine map of the whole image.

use crate::augmentation::Colour;
use crate::random::Random;

/// Gray from red, green and blue (ITU-R BT.601, Pillow's `convert("L")`).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Draws colours and applies them to `[pixels, 3]` levels.
///
/// In this order: channel gains, brightness, contrast about the mean gray, saturation about each pixel's gray. All are
/// linear, so they are one map, and levels are rounded and cut to 0 and 255 once, at the end.
pub(crate) fn recolour(pixels: &mut [u8], colour: &Colour, random: &mut Random) {
    if *colour == Colour::NONE {
        return;
    }
    let mut factor = |spread: f64| random.between(1.0 - spread, 1.0 + spread) as f32;
    let gains: [f32; 3] = std::array::from_fn(|_| factor(colour.channel_gain));
    let brightness = factor(colour.brightness);
    let contrast = factor(colour.contrast);
    let saturation = factor(colour.saturation);
    let saturation = match random.chance(colour.grayscale) {
        true => 0.0,
        false => saturation,
    };

    let (pixels, _) = pixels.as_chunks_mut::<3>();
    let gray_weights: [f32; 3] = std::array::from_fn(|c| LUMA[c] * gains[c]);
    let mean_gray = mean_gray(pixels, gray_weights);
    let scale = brightness * contrast;
    // Half a level more: the cast below cuts off.
    let offset = (1.0 - contrast) * brightness * mean_gray + 0.5;
    let own: [f32; 3] = std::array::from_fn(|c| scale * saturation * gains[c]);
    let gray = gray_weights.map(|weight| scale * (1.0 - saturation) * weight);
    for pixel in pixels {
        let [red, green, blue] = pixel.map(f32::from);
        let common = gray[0] * red + gray[1] * green + gray[2] * blue + offset;
        // A cast of a float to a byte saturates.
        *pixel = [
            (own[0] * red + common) as u8,
            (own[1] * green + common) as u8,
            (own[2] * blue + common) as u8,
        ];
    }
}

fn mean_gray(pixels: &[[u8; 3]], weights: [f32; 3]) -> f32 {
    let mut sums = [0_u64; 3];
    for pixel in pixels {
        for (sum, &level) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(level);
        }
    }
    let mean = |c: usize| (sums[c] as f64 / pixels.len() as f64) as f32;
    weights[0] * mean(0) + weights[1] * mean(1) + weights[2] * mean(2)
}
