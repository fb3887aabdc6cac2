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

/// RGB turned to luminance and two colour differences, orthonormal, and how fast each loses its frequencies: colours are
/// seen at half of them.
fn colours() -> [([f64; 3], f64); 3] {
    let third = 3.0_f64.sqrt().recip();
    let (half, sixth) = (2.0_f64.sqrt().recip(), 6.0_f64.sqrt().recip());
    [
        ([third, third, third], 1.0),
        ([half, -half, 0.0], 2.0),
        ([sixth, sixth, -2.0 * sixth], 2.0),
    ]
}

/// What a projection of an RGB patch sees: a colour's cosine.
#[derive(Clone, Copy)]
struct Cosine {
    colour: usize,
    /// Half periods down and across the patch.
    frequencies: [usize; 2],
}

impl Cosine {
    /// All of a patch, the coarse ones first, luminance before colour.
    fn all([height, width]: [usize; 2]) -> Vec<Self> {
        let mut all = Vec::new();
        for (colour, (_, step)) in colours().into_iter().enumerate() {
            for v in 0..height {
                for u in 0..width {
                    let cosine = Self {
                        colour,
                        frequencies: [v, u],
                    };
                    all.push((step * cosine.frequency(), cosine));
                }
            }
        }
        all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        all.into_iter().map(|(_, cosine)| cosine).collect()
    }

    fn frequency(&self) -> f64 {
        let [v, u] = self.frequencies;
        ((u * u + v * v) as f64).sqrt()
    }

    /// Amplitudes in images fall with the frequency: by as much each is amplified. The same for patches of any size.
    fn gain(&self, [height, width]: [usize; 2]) -> f64 {
        0.5 * (1.0 + self.frequency()) / ((height * width) as f64).sqrt()
    }
}

/// The orthonormal cosine of a frequency (DCT-II) at a place of a line.
fn along(frequency: usize, at: usize, length: usize) -> f64 {
    let norm = if frequency == 0 { 1.0 } else { 2.0 } / length as f64;
    let angle = std::f64::consts::PI * frequency as f64 * (at as f64 + 0.5) / length as f64;
    norm.sqrt() * angle.cos()
}

/// Projections of a patch `[channels, height, width]` to cosines: type II DCT of RGB turned to luminance and two colour
/// differences, in the order of their frequencies, fine ones amplified as much as images lack them. Outputs beyond what
/// patches hold are random.
///
/// # Shapes
/// - output: `[output, input, height, width]`, row-major
pub fn cosines([output, input, height, width]: [usize; 4], random: &mut Random) -> Vec<f32> {
    let patch = input * height * width;
    let all = match input {
        3 => Cosine::all([height, width]),
        _ => Vec::new(),
    };
    let mut values = Vec::with_capacity(output * patch);
    for cosine in all.iter().take(output) {
        let gain = cosine.gain([height, width]);
        let [v, u] = cosine.frequencies;
        let (colour, _) = colours()[cosine.colour];
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

/// The cosines of the quarters of a patch from those of the patch, of which a projection of [`cosines`] gives the first:
/// what a transposed convolution of kernel and stride 2 has to do to see at twice the resolution.
///
/// `side` is the patch's, in pixels, and even. Outputs come in pairs, one the other's negative, so that nothing is lost in
/// a ReLU or GELU after them; with `paired`, so do inputs.
///
/// # Shapes
/// - output: `[input, output, 2, 2]`, row-major
pub fn quarters([input, output]: [usize; 2], side: usize, paired: bool) -> Vec<f32> {
    let half = side / 2;
    let per_input = 1 + usize::from(paired);
    let wholes = Cosine::all([side, side]);
    let parts = Cosine::all([half, half]);
    // A cosine of the line with one of one of its halves.
    let overlap = |whole: usize, part: usize, which: usize| -> f64 {
        (0..half)
            .map(|at| along(whole, which * half + at, side) * along(part, at, half))
            .sum()
    };
    let sign = |index: usize| 1.0 - 2.0 * (index % 2) as f64;
    let mut values = Vec::with_capacity(input * output * 4);
    for i in 0..input {
        for o in 0..output {
            let pair = wholes.get(i / per_input).zip(parts.get(o / 2));
            let same = pair.filter(|(whole, part)| whole.colour == part.colour);
            for [down, across] in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                let weight = same.map_or(0.0, |(whole, part)| {
                    let gain = part.gain([half, half]) / whole.gain([side, side]);
                    let sign = sign(o) * if paired { sign(i) } else { 1.0 };
                    let ([v, u], [y, x]) = (whole.frequencies, part.frequencies);
                    sign * gain * overlap(v, y, down) * overlap(u, x, across)
                });
                values.push(weight as f32);
            }
        }
    }
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
