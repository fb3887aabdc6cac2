//! Resampling filters in fixed point: a window of inputs with weights for every output position.

use crate::rgb_image::CHANNELS;

/// Fraction bits of Pillow's weights: 32 bits minus 8 for the pixel minus 2 of headroom.
const PILLOW_BITS: u32 = 22;

/// A filter along one axis.
pub(crate) struct Filter {
    /// Window slots per output position; also the most inputs any window has.
    pub(crate) taps: usize,
    /// First input and number of inputs of each window.
    bounds: Vec<(usize, usize)>,
    /// `[outputs, taps]` weights with `bits` fraction bits; slots past a window's end are unused.
    weights: Vec<i32>,
    bits: u32,
}

/// The inputs one output position is made of.
pub(crate) struct Window<'a> {
    pub(crate) start: usize,
    pub(crate) weights: &'a [i32],
    bits: u32,
}

impl Filter {
    /// Pillow's bilinear filter: a triangle, one input wide on each side when enlarging and one output wide when
    /// reducing.
    pub(crate) fn triangle(input: u32, output: u32) -> Self {
        Self::new(input, output, 1.0, triangle, |_| PILLOW_BITS)
    }

    /// PyTorch's antialiased bicubic filter for bytes.
    pub(crate) fn cubic(input: u32, output: u32) -> Self {
        Self::new(input, output, 2.0, keys_cubic, bits_within_16)
    }

    /// Follows `precompute_coeffs` and `normalize_coeffs_8bpc` (Pillow), operation by operation: the weights must round
    /// alike. PyTorch does the same but for `bits`, the fraction bits by the largest weight.
    fn new(
        input: u32,
        output: u32,
        radius: f64,
        kernel: fn(f64) -> f64,
        bits: fn(f64) -> u32,
    ) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let stretch = scale.max(1.0);
        let support = radius * stretch;
        let taps = support.ceil() as usize * 2 + 1;
        let inverse_stretch = 1.0 / stretch;

        let mut bounds = Vec::with_capacity(output as usize);
        let mut exact = vec![0.0; output as usize * taps];
        let mut largest = 0.0_f64;
        for (position, window) in (0..output).zip(exact.chunks_exact_mut(taps)) {
            let center = (f64::from(position) + 0.5) * scale;
            // Casts truncate towards zero and clamp below at 0.
            let start = (center - support + 0.5) as u32;
            let end = ((center + support + 0.5) as u32).min(input);
            for (x, weight) in (start..end).zip(window.iter_mut()) {
                *weight = kernel((f64::from(x) - center + 0.5) * inverse_stretch);
            }
            let length = (end - start) as usize;
            let total: f64 = window[..length].iter().sum();
            for weight in &mut window[..length] {
                *weight /= total;
                largest = largest.max(*weight);
            }
            bounds.push((start as usize, length));
        }
        let bits = bits(largest);
        let unit = f64::from(1_u32 << bits);
        let fixed = |weight: f64| (weight * unit + 0.5_f64.copysign(weight)) as i32;
        Self {
            taps,
            bounds,
            weights: exact.into_iter().map(fixed).collect(),
            bits,
        }
    }

    pub(crate) fn windows(&self) -> impl Iterator<Item = Window<'_>> {
        self.bounds
            .iter()
            .zip(self.weights.chunks_exact(self.taps))
            .map(|(&(start, len), weights)| Window {
                start,
                weights: &weights[..len],
                bits: self.bits,
            })
    }

    /// Resizes one row, `[input, 3]` to `[output, 3]`.
    pub(crate) fn reduce_row(&self, row: &[u8], out: &mut [u8]) {
        let (pixels, _) = row.as_chunks::<CHANNELS>();
        let (out, _) = out.as_chunks_mut::<CHANNELS>();
        for (window, out) in self.windows().zip(out) {
            let [mut red, mut green, mut blue] = [window.half(); CHANNELS];
            let inputs = &pixels[window.start..][..window.weights.len()];
            for (pixel, &weight) in inputs.iter().zip(window.weights) {
                red += i32::from(pixel[0]) * weight;
                green += i32::from(pixel[1]) * weight;
                blue += i32::from(pixel[2]) * weight;
            }
            *out = [red, green, blue].map(|sum| window.to_byte(sum));
        }
    }
}

impl Window<'_> {
    /// Half of one unit of a weighted sum: added before the shift, it rounds to nearest.
    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    fn to_byte(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }
}

/// Sums whole rows by their weights: `inputs` gives the window's rows in order, `sums` is scratch of a row's length.
pub(crate) fn reduce_column<'a>(
    window: &Window<'_>,
    inputs: impl Iterator<Item = &'a [u8]>,
    sums: &mut [i32],
    out: &mut [u8],
) {
    sums.fill(window.half());
    for (&weight, row) in window.weights.iter().zip(inputs) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += i32::from(value) * weight;
        }
    }
    for (out, &sum) in out.iter_mut().zip(sums.iter()) {
        *out = window.to_byte(sum);
    }
}

fn triangle(distance: f64) -> f64 {
    (1.0 - distance.abs()).max(0.0)
}

/// Keys' cubic convolution kernel with a = -0.5, as both Pillow and PyTorch have it for antialiasing.
fn keys_cubic(distance: f64) -> f64 {
    const A: f64 = -0.5;
    let x = distance.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The most fraction bits with which the largest weight still fits a signed 16-bit integer
/// (`compute_index_ranges_int16_weights`, PyTorch).
fn bits_within_16(largest: f64) -> u32 {
    let fits = |bits: &u32| ((0.5 + largest * f64::from(1_u32 << (bits + 1))) as i32) < 1 << 15;
    (0..PILLOW_BITS).take_while(fits).count() as u32
}
