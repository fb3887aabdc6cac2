//! From painted colours to the bytes of a photo: lens, exposure, sensor, compression.

use maskmill_masks::ImageSize;

use crate::canvas::Canvas;
use crate::colour::{Rgb, luma};
use crate::random::{Random, hash, hash_signed};

/// How a picture is taken.
#[derive(Clone, Debug)]
pub(crate) struct Camera {
    /// Passes of [`Canvas::blur`].
    blur: u32,
    /// Brightness of each channel: exposure and white balance.
    gain: Rgb,
    /// Strength of colours; 1 leaves them, 0 is gray.
    saturation: f32,
    /// Above 0 darkens shadows and brightens lights, below 0 flattens.
    contrast: f32,
    /// Darkening of the corners.
    vignette: f32,
    /// Standard deviation of the sensor's noise at middle gray, of a range of 1.
    noise: f32,
    /// What compression does to colours, if the picture is compressed.
    chroma: Option<Chroma>,
    seed: u32,
}

/// Colours at half the resolution in both directions, in coarse steps, and brightness that jumps a little between blocks of 8
/// pixels: what JPEG does.
#[derive(Clone, Copy, Debug)]
struct Chroma {
    step: f32,
    block: f32,
}

impl Camera {
    pub(crate) fn random(random: &mut Random) -> Self {
        let exposure = random.range(0.8, 1.15);
        let warmth = random.range(-0.09, 0.09);
        let tint = random.range(-0.03, 0.03);
        Self {
            blur: random.weighted(&[(0, 4.0), (1, 3.0), (2, 1.0), (4, 0.5)]),
            gain: [
                exposure * (1.0 + warmth),
                exposure * (1.0 + tint),
                exposure * (1.0 - warmth),
            ],
            saturation: random.range(0.55, 1.1),
            contrast: random.range(-0.25, 0.6),
            vignette: if random.chance(0.4) {
                random.range(0.05, 0.4)
            } else {
                0.0
            },
            noise: if random.chance(0.8) {
                random.log_range(0.003, 0.035)
            } else {
                0.0
            },
            chroma: random.chance(0.5).then(|| Chroma {
                step: random.log_range(0.01, 0.05),
                block: random.range(0.0, 0.01),
            }),
            seed: random.noise_seed(),
        }
    }

    /// The bytes of the picture, `[height, width, 3]`.
    pub(crate) fn take(&self, mut canvas: Canvas) -> Vec<u8> {
        canvas.blur(self.blur);
        let size = canvas.size;
        let mut pixels = canvas.pixels;
        self.expose(&mut pixels, size);
        if let Some(chroma) = self.chroma {
            self.compress(chroma, &mut pixels, size);
        }
        pixels
            .iter()
            .flatten()
            .map(|&channel| (channel * 255.0 + 0.5).clamp(0.0, 255.0) as u8)
            .collect()
    }

    /// Saturation, vignette, gain, contrast and noise.
    fn expose(&self, pixels: &mut [Rgb], size: ImageSize) {
        let (width, height) = (size.width as f32, size.height as f32);
        for (y, row) in (0..).zip(pixels.chunks_exact_mut(size.width as usize)) {
            let v = (y as f32 + 0.5) / height - 0.5;
            for (x, pixel) in (0..).zip(row) {
                let u = (x as f32 + 0.5) / width - 0.5;
                let corner = 1.0 - self.vignette * 2.0 * (u * u + v * v);
                let gray = luma(*pixel);
                for (channel, value) in (0..).zip(pixel) {
                    let colour = gray + (*value - gray) * self.saturation;
                    let lit = (colour * self.gain[channel as usize] * corner).clamp(0.0, 1.0);
                    let steep = lit * lit * (3.0 - 2.0 * lit);
                    let toned = lit + (steep - lit) * self.contrast;
                    // Shot noise: its deviation grows with the root of the light, roughly so after the tone curve.
                    let deviation = self.noise * (0.5 + toned);
                    *value = toned + deviation * gaussian(hash(x, 3 * y + channel, self.seed));
                }
            }
        }
    }

    fn compress(&self, chroma: Chroma, pixels: &mut [Rgb], size: ImageSize) {
        let (width, height) = (size.width as usize, size.height as usize);
        for y in (0..height).step_by(2) {
            for x in (0..width).step_by(2) {
                let quad = [y, (y + 1).min(height - 1)]
                    .map(|y| [x, (x + 1).min(width - 1)].map(|x| y * width + x));
                let (mut blue, mut red) = (0.0, 0.0);
                for index in quad.into_iter().flatten() {
                    let [_, cb, cr] = ycc(pixels[index]);
                    blue += cb * 0.25;
                    red += cr * 0.25;
                }
                let coarse = |value: f32| (value / chroma.step).round() * chroma.step;
                let jump = chroma.block * hash_signed(x as i32 / 8, y as i32 / 8, self.seed);
                let (blue, red) = (coarse(blue), coarse(red));
                // On an odd last row or column an index occurs twice: its luma does not change, so neither does the result.
                let luma = quad.map(|pair| pair.map(|index| ycc(pixels[index])[0]));
                for (row, lumas) in quad.into_iter().zip(luma) {
                    for (index, luma) in row.into_iter().zip(lumas) {
                        pixels[index] = from_ycc([luma + jump, blue, red]);
                    }
                }
            }
        }
    }
}

/// Of mean 0 and variance 1, from the sum of four random bytes.
fn gaussian(bits: u32) -> f32 {
    let sum: u32 = bits.to_le_bytes().into_iter().map(u32::from).sum();
    // The deviation of a byte is sqrt((256^2 - 1) / 12) = 73.9.
    (sum as f32 - 510.0) * (1.0 / 147.8)
}

/// Luma and colour differences of JPEG (ITU-R BT.601), the latter around 0.
fn ycc([r, g, b]: Rgb) -> [f32; 3] {
    let luma = luma([r, g, b]);
    [luma, (b - luma) * 0.564, (r - luma) * 0.713]
}

fn from_ycc([luma, blue, red]: [f32; 3]) -> Rgb {
    [
        luma + 1.403 * red,
        luma - 0.344 * blue - 0.714 * red,
        luma + 1.773 * blue,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Camera = Camera {
        blur: 0,
        gain: [1.0; 3],
        saturation: 1.0,
        contrast: 0.0,
        vignette: 0.0,
        noise: 0.0,
        chroma: None,
        seed: 1,
    };

    fn canvas() -> Canvas {
        let mut canvas = Canvas::new(ImageSize::new(33, 47));
        for (index, pixel) in canvas.pixels.iter_mut().enumerate() {
            *pixel = if index % 47 < 20 {
                [0.8, 0.2, 0.4]
            } else {
                [0.6; 3]
            };
        }
        canvas
    }

    #[test]
    fn a_camera_without_faults_takes_what_was_painted() {
        let bytes = PLAIN.take(canvas());
        assert_eq!(bytes.len(), 33 * 47 * 3);
        assert_eq!(bytes[..3], [204, 51, 102]);
        assert_eq!(bytes[bytes.len() - 3..], [153; 3]);
    }

    #[test]
    fn noise_has_the_deviation_it_says_and_no_mean() {
        let noisy = Camera {
            noise: 0.02,
            ..PLAIN
        };
        let gray: Vec<f32> = noisy
            .take(canvas())
            .chunks(3 * 47)
            .flat_map(|row| row[75..].to_vec())
            .map(f32::from)
            .collect();
        let mean = gray.iter().sum::<f32>() / gray.len() as f32;
        let variance =
            gray.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / gray.len() as f32;
        assert!((mean - 153.0).abs() < 0.7, "{mean}");
        assert!(
            (variance.sqrt() / 255.0 - 0.022).abs() < 0.002,
            "{}",
            variance.sqrt()
        );
    }

    #[test]
    fn compression_moves_colours_and_keeps_brightness() {
        let compressed = Camera {
            chroma: Some(Chroma {
                step: 0.05,
                block: 0.0,
            }),
            ..PLAIN
        };
        let (plain, compressed) = (PLAIN.take(canvas()), compressed.take(canvas()));
        let luma = |bytes: &[u8]| {
            0.299 * f32::from(bytes[0]) + 0.587 * f32::from(bytes[1]) + 0.114 * f32::from(bytes[2])
        };
        assert_ne!(plain, compressed);
        for (a, b) in plain.chunks(3).zip(compressed.chunks(3)) {
            assert!((luma(a) - luma(b)).abs() < 2.0, "{a:?} {b:?}");
        }
    }
}
