//! Initial values that models which learn from nothing share: positions, patches, random numbers.
//!
//! Every tensor's numbers are a function of its key and a seed alone, so a model does not depend on the order in which it is
//! made.

/// `get_2d_sincos_pos_embed` of MAE: half the channels for x, half for y, each sines and then cosines.
///
/// # Shapes
/// - output: `[height, width, dim]`, row-major
pub fn sines(height: usize, width: usize, dim: usize) -> Vec<f32> {
    let quarter = dim / 4;
    let mut values = Vec::with_capacity(height * width * dim);
    for y in 0..height {
        for x in 0..width {
            for place in [x, y] {
                let angle = |i: usize| place as f64 / 10_000_f64.powf(i as f64 / quarter as f64);
                values.extend((0..quarter).map(|i| angle(i).sin() as f32));
                values.extend((0..quarter).map(|i| angle(i).cos() as f32));
            }
            let missing = dim - 4 * quarter;
            values.extend(std::iter::repeat_n(0.0, missing));
        }
    }
    values
}

/// Projections of a patch `[channels, height, width]` to cosines: type II DCT of RGB turned to luminance and two colour
/// differences, in the order of their frequencies, fine ones amplified as much as images lack them. Outputs beyond what
/// patches hold are random.
///
/// # Shapes
/// - output: `[output, input, height, width]`, row-major
pub fn cosines([output, input, height, width]: [usize; 4], random: &mut Random) -> Vec<f32> {
    let patch = input * height * width;
    // Orthonormal; colours are seen at half the frequencies.
    let third = 3.0_f64.sqrt().recip();
    let (half, sixth) = (2.0_f64.sqrt().recip(), 6.0_f64.sqrt().recip());
    let colours = [
        ([third, third, third], 1.0),
        ([half, -half, 0.0], 2.0),
        ([sixth, sixth, -2.0 * sixth], 2.0),
    ];
    let mut all = Vec::new();
    if input == colours.len() {
        for (colour, step) in colours {
            for v in 0..height {
                for u in 0..width {
                    all.push((step * ((u * u + v * v) as f64).sqrt(), colour, [v, u]));
                }
            }
        }
    }
    all.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    let mut values = Vec::with_capacity(output * patch);
    for &(_, colour, [v, u]) in all.iter().take(output) {
        // Amplitudes in images fall with the frequency.
        let frequency = ((u * u + v * v) as f64).sqrt();
        let gain = 0.5 * (1.0 + frequency) / ((height * width) as f64).sqrt();
        let along = |frequency: usize, at: usize, length: usize| {
            let norm = if frequency == 0 { 1.0 } else { 2.0 } / length as f64;
            let angle = std::f64::consts::PI * frequency as f64 * (at as f64 + 0.5) / length as f64;
            norm.sqrt() * angle.cos()
        };
        for weight in colour {
            for y in 0..height {
                let row = gain * weight * along(v, y, height);
                values.extend((0..width).map(|x| (row * along(u, x, width)) as f32));
            }
        }
    }
    let missing = output * patch - values.len();
    values.extend(random.uniform(missing, (patch as f32).sqrt().recip()));
    values
}

/// SplitMix64 (Steele et al., 2014), started by a key and a seed.
pub struct Random(u64);

impl Random {
    /// The numbers of a tensor: a function of its key and the model's seed.
    pub fn new(key: &str, seed: u64) -> Self {
        // FNV-1a of the key.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Uniform in (0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Uniform in `(-bound, bound)`.
    pub fn uniform(&mut self, count: usize, bound: f32) -> Vec<f32> {
        let mut next = || (2.0 * self.next() - 1.0) as f32 * bound;
        std::iter::repeat_with(&mut next).take(count).collect()
    }

    /// Normal around 0 (Box and Muller).
    pub fn normal(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        let mut next = || {
            let radius = (-2.0 * self.next().ln()).sqrt();
            (radius * (std::f64::consts::TAU * self.next()).cos()) as f32 * deviation
        };
        std::iter::repeat_with(&mut next).take(count).collect()
    }
}
