//! Colours varied by one affine map of the whole image.

use maskmill_pixels::RgbImage;

use crate::augmentation::Colour;
use crate::random::Random;
use crate::sample::COLOURS;

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

/// The image with colours drawn by a seed, as a [`Sampler`](crate::Sampler) draws them.
pub fn recoloured(image: &RgbImage, colour: &Colour, seed: u64) -> RgbImage {
    let mut pixels = image.data().to_vec();
    recolour(&mut pixels, colour, &mut Random::new(seed, COLOURS));
    RgbImage::new(image.size(), pixels).expect("as many pixels as before")
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

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: [u8; 12] = [250, 10, 20, 90, 90, 90, 0, 0, 0, 30, 60, 200];

    fn recoloured(colour: Colour, seed: u64) -> Vec<u8> {
        let mut pixels = IMAGE;
        recolour(&mut pixels, &colour, &mut Random::new(seed, 0));
        pixels.to_vec()
    }

    #[test]
    fn nothing_changes_nothing() {
        assert_eq!(recoloured(Colour::NONE, 1), IMAGE);
        // The map itself is the identity then, to the level.
        let never = Colour {
            grayscale: f64::MIN_POSITIVE,
            ..Colour::NONE
        };
        assert_eq!(recoloured(never, 1), IMAGE);
    }

    #[test]
    fn grayscale_is_pillow_s() {
        let gray = Colour {
            grayscale: 1.0,
            ..Colour::NONE
        };
        // 0.299 * 250 + 0.587 * 10 + 0.114 * 20 = 82.9; 0.299 * 30 + 0.587 * 60 + 0.114 * 200 = 67.0
        assert_eq!(
            recoloured(gray, 1),
            [83, 83, 83, 90, 90, 90, 0, 0, 0, 67, 67, 67]
        );
    }

    #[test]
    fn brightness_scales_and_is_cut_off() {
        let brightness = Colour {
            brightness: 0.5,
            ..Colour::NONE
        };
        let mut brighter = 0;
        for seed in 0..20 {
            let pixels = recoloured(brightness, seed);
            let factor = f64::from(pixels[3]) / 90.0;
            assert!((0.49..=1.51).contains(&factor), "{factor}");
            for (&before, &after) in IMAGE.iter().zip(&pixels) {
                let expected = (f64::from(before) * factor).min(255.0);
                assert!((f64::from(after) - expected).abs() < 2.5, "{pixels:?}");
            }
            brighter += u32::from(factor > 1.0);
        }
        assert!((5..=15).contains(&brighter), "{brighter}");
    }

    #[test]
    fn contrast_and_saturation_keep_grays_mean_and_each_gray() {
        let mut vivid = 0;
        for seed in 0..20 {
            let contrast = Colour {
                contrast: 0.3,
                ..Colour::NONE
            };
            let mean = |pixels: &[u8]| mean_gray(pixels.as_chunks().0, LUMA);
            let changed = recoloured(contrast, seed);
            // Some levels of the image are cut off at 0 and 255.
            assert!((mean(&changed) - mean(&IMAGE)).abs() < 8.0);
            let saturation = Colour {
                saturation: 0.5,
                ..Colour::NONE
            };
            let changed = recoloured(saturation, seed);
            assert_eq!(changed[3..9], IMAGE[3..9], "grays have no colour to lose");
            vivid += u32::from(changed[2] < IMAGE[2]);
        }
        assert!((5..=15).contains(&vivid), "{vivid}");
    }
}
