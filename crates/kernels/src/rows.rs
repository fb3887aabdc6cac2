//! Work on rows of floats: norms, activations and softmax, each written once and compiled for every level.
//!
//! The bodies are plain loops over sixteen lanes, which the compiler turns into the vectors of a level. Sums have one
//! order at every level and every length of the row's whole vectors.

use crate::Level;
use crate::engine::STRIP;

/// Lanes that loops work on at once.
const LANES: usize = 16;
type Vector = [f32; LANES];

/// The functions of this module at one level.
#[allow(
    clippy::type_complexity,
    reason = "the types are those of the functions"
)]
pub(crate) struct RowKernels {
    pub(crate) layer_norm: unsafe fn(&mut [f32], &[f32], &[f32], &[f32], f32),
    pub(crate) norm_rows: unsafe fn(&mut [f32], usize, &[f32], &[f32], f32),
    pub(crate) answer_rows: unsafe fn(&mut [f32], &mut [f32], Option<&[f32]>, &AnswerRows<'_>),
    pub(crate) store_strip: unsafe fn(&mut [f32], usize, usize, &[f32], &[f32]),
    pub(crate) add_strip: unsafe fn(&mut [f32], usize, usize, &[f32], &[f32]),
    pub(crate) gelu_strip: unsafe fn(&mut [f32], &[f32]),
    pub(crate) relu: unsafe fn(&mut [f32]),
    pub(crate) add: unsafe fn(&mut [f32], &[f32]),
    pub(crate) scale: unsafe fn(&mut [f32], f32),
    pub(crate) sum: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) positions_max: unsafe fn(&mut [f32], &[f32], &[f32]) -> f32,
    pub(crate) exp_sum: unsafe fn(&mut [f32], f32) -> f32,
    pub(crate) gelu_plain: unsafe fn(&mut [f32]),
    pub(crate) columns_softmax: unsafe fn(&mut [f32], usize, &mut [f32], &mut [f32], &mut [f32]),
    pub(crate) group_softmax: unsafe fn(&mut [f32], &[f32], usize),
    pub(crate) gelu_gradient: unsafe fn(&mut [f32], &[f32]),
    pub(crate) norm_gradient: unsafe fn(&mut [f32], &[f32], &[f32], &mut NormGradient<'_>),
    pub(crate) scores_softmax: unsafe fn(&mut [f32], f32, &[f32], &[f32]),
    pub(crate) softmax_gradient: unsafe fn(&mut [f32], &[f32]),
    pub(crate) softmax_of_columns: unsafe fn(&mut [f32], usize),
    pub(crate) columns_gradient: unsafe fn(&mut [f32], &[f32], usize),
    pub(crate) turn: unsafe fn(&mut [f32], usize, &[f32], usize, usize),
    pub(crate) small_times: unsafe fn(&mut [f32], &[f32], &[f32], usize),
    pub(crate) pixels_gradient: unsafe fn(&mut [f32], &mut [f32], &[f32], &[f32], &[f32], usize),
    pub(crate) row_dots: unsafe fn(&mut [f32], &[f32], &[f32], usize),
    pub(crate) mask_sums: unsafe fn(&[f32], &[f32], &Focal) -> [f32; MASK_SUMS],
    pub(crate) mask_gradient: unsafe fn(&mut [f32], &[f32], &[f32], &Focal, [f32; 3]),
}

impl RowKernels {
    /// Those of a level that this CPU has.
    pub(crate) fn of(level: Level) -> &'static Self {
        assert!(level <= Level::best(), "this CPU has no {level}");
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Amx | Level::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &AVX2,
            _ => &PLAIN,
        }
    }
}

/// What the gradients of a norm's parameters are added to, and what it was computed with.
pub(crate) struct NormGradient<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) epsilon: f32,
    pub(crate) of_gamma: &'a mut [f32],
    pub(crate) of_beta: &'a mut [f32],
}

/// The constants of a focal loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Focal {
    /// The weight of what is inside; that of the rest is `1 - alpha`.
    pub(crate) alpha: f32,
    /// The power of how wrong a pixel is.
    pub(crate) gamma: f32,
}

/// How many sums [`RowKernels::mask_sums`] gives.
pub(crate) const MASK_SUMS: usize = 5;

/// What image tokens get from a prompt's, and how they are normed after it.
pub(crate) struct AnswerRows<'a> {
    /// `[rows, stride]`
    pub(crate) answers: &'a [f32],
    pub(crate) stride: usize,
    /// Added to each answer.
    pub(crate) bias: &'a [f32],
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
    pub(crate) epsilon: f32,
    /// Added to the normed rows for the next attention.
    pub(crate) positions: &'a [f32],
}

/// `a * b + c`, fused where the level has the instruction.
#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x for x <= 0 or moderate, to 2 units in the last place; 0 below -87.3, and NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then a polynomial of degree 6 for `e^r` (Cephes `expf`).
#[inline(always)]
fn exp_lane<const FMA: bool>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first of few bits: n times it is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// 1.5 x 2^23: adding and subtracting it rounds to whole numbers.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.33 { -87.33 } else { x };
    let clamped = if clamped > 88.37 { 88.37 } else { clamped };
    let shifted = fma::<FMA>(clamped, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -LN2_HIGH, clamped);
    let r = fma::<FMA>(n, -LN2_LOW, r);
    let p = 1.987_569_1e-4;
    let p = fma::<FMA>(p, r, 1.398_199_9e-3);
    let p = fma::<FMA>(p, r, 8.333_452e-3);
    let p = fma::<FMA>(p, r, 4.166_579_6e-2);
    let p = fma::<FMA>(p, r, 1.666_666_5e-1);
    let p = fma::<FMA>(p, r, 0.5);
    let p = fma::<FMA>(p, r * r, r) + 1.0;
    // The whole number sits in the low bits of `shifted`; as an exponent it scales `p`.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.33 { 0.0 } else { p * scale }
}

/// `erf(x)` to 3e-7: a rational function of x on [-4, 4], where it reaches 1 in f32 (the coefficients of Eigen's
/// `generic_fast_erf_float`).
#[inline(always)]
fn erf_lane<const FMA: bool>(x: f32) -> f32 {
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let y = x * x;
    let p = -2.726_142_3e-10;
    let p = fma::<FMA>(p, y, 2.770_681_4e-8);
    let p = fma::<FMA>(p, y, -2.101_024e-6);
    let p = fma::<FMA>(p, y, -5.692_506_3e-5);
    let p = fma::<FMA>(p, y, -7.349_906e-4);
    let p = fma::<FMA>(p, y, -2.954_6e-3);
    let p = fma::<FMA>(p, y, -1.609_603_3e-2);
    let q = -1.456_607_2e-5;
    let q = fma::<FMA>(q, y, -2.133_740_6e-4);
    let q = fma::<FMA>(q, y, -1.682_827e-3);
    let q = fma::<FMA>(q, y, -7.373_329e-3);
    let q = fma::<FMA>(q, y, -1.426_473_9e-2);
    x * p / q
}

#[inline(always)]
fn gelu_lane<const FMA: bool>(x: f32) -> f32 {
    let half = 0.5 * x;
    fma::<FMA>(
        half,
        erf_lane::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2),
        half,
    )
}

/// The derivative of [`gelu_lane`]: the normal distribution's function, and x times its density.
#[inline(always)]
fn gelu_slope<const FMA: bool>(x: f32) -> f32 {
    /// `1 / sqrt(2 pi)`
    const PEAK: f32 = 0.398_942_3;
    let below = erf_lane::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2);
    let density = PEAK * exp_lane::<FMA>(-0.5 * x * x);
    fma::<FMA>(x, density, fma::<FMA>(0.5, below, 0.5))
}

/// `ln(1 + t)` for t from 0 to 1, to 2 units in the last place: `2 artanh(t / (2 + t))` by its series.
#[inline(always)]
fn ln_1p_lane<const FMA: bool>(t: f32) -> f32 {
    let z = t / (2.0 + t);
    let y = z * z;
    let p = 2.0 / 15.0;
    let p = fma::<FMA>(p, y, 2.0 / 13.0);
    let p = fma::<FMA>(p, y, 2.0 / 11.0);
    let p = fma::<FMA>(p, y, 2.0 / 9.0);
    let p = fma::<FMA>(p, y, 2.0 / 7.0);
    let p = fma::<FMA>(p, y, 2.0 / 5.0);
    let p = fma::<FMA>(p, y, 2.0 / 3.0);
    z * fma::<FMA>(p, y, 2.0)
}

/// What a mask's losses see in a pixel.
struct Pixel {
    /// The logit's sigmoid.
    inside: f32,
    /// Of the sigmoid.
    slope: f32,
    /// 1 minus the probability of the truth.
    wrong: f32,
    /// `-ln` of the probability of the truth.
    entropy: f32,
}

#[inline(always)]
fn pixel<const FMA: bool>(logit: f32, target: f32) -> Pixel {
    let small = exp_lane::<FMA>(-logit.abs());
    let high = 1.0 / (1.0 + small);
    let low = small * high;
    let margin = if target > 0.5 { logit } else { -logit };
    Pixel {
        inside: if logit >= 0.0 { high } else { low },
        slope: high * low,
        wrong: if margin >= 0.0 { low } else { high },
        entropy: larger(-margin, 0.0) + ln_1p_lane::<FMA>(small),
    }
}

/// `wrong` to the power of gamma, where `POWER` is 0, 1 or 2 for gammas that are, and otherwise of any gamma.
#[inline(always)]
fn power<const POWER: usize>(wrong: f32, gamma: f32) -> f32 {
    match POWER {
        0 => 1.0,
        1 => wrong,
        2 => wrong * wrong,
        _ => wrong.powf(gamma),
    }
}

/// Calls `$call` with the `POWER` of a gamma.
macro_rules! with_power {
    ($gamma:expr, $power:ident => $call:expr) => {
        match $gamma {
            0.0 => {
                const $power: usize = 0;
                $call
            }
            1.0 => {
                const $power: usize = 1;
                $call
            }
            2.0 => {
                const $power: usize = 2;
                $call
            }
            _ => {
                const $power: usize = 3;
                $call
            }
        }
    };
}

// Loops are macros, not functions that take closures: a closure is compiled without the level's instructions wherever the
// compiler does not inline it.

/// A vector of an expression in the lane's index.
macro_rules! lanes {
    ($i:ident => $value:expr) => {{
        let mut vector = [0.0_f32; LANES];
        for $i in 0..LANES {
            vector[$i] = $value;
        }
        vector
    }};
}

/// Sets every float of `x` to an expression in it and the float of `other` at its place.
macro_rules! zip {
    ($x:expr, $other:expr, |$a:ident, $b:ident| $value:expr) => {{
        let count = $x.len().min($other.len());
        let whole = count / LANES * LANES;
        let (vectors, rest) = $x[..count].split_at_mut(whole);
        let (others, other_rest) = $other[..count].split_at(whole);
        for (x, o) in vectors
            .chunks_exact_mut(LANES)
            .zip(others.chunks_exact(LANES))
        {
            for i in 0..LANES {
                let ($a, $b) = (x[i], o[i]);
                x[i] = $value;
            }
        }
        for (x, &$b) in rest.iter_mut().zip(other_rest) {
            let $a = *x;
            *x = $value;
        }
    }};
}

/// Sets every float of `x` to an expression in it.
macro_rules! each {
    ($x:expr, |$a:ident| $value:expr) => {{
        let whole = $x.len() / LANES * LANES;
        let (vectors, rest) = $x.split_at_mut(whole);
        for x in vectors.chunks_exact_mut(LANES) {
            for i in 0..LANES {
                let $a = x[i];
                x[i] = $value;
            }
        }
        for x in rest {
            let $a = *x;
            *x = $value;
        }
    }};
}

/// Adds up an expression in the floats of two rows, lane by lane, then the lanes.
macro_rules! dot {
    ($x:expr, $y:expr, |$a:ident, $b:ident, $sum:ident| $value:expr) => {{
        let mut sums = [0.0_f32; LANES];
        let whole = $x.len() / LANES * LANES;
        let (x, x_rest) = $x.split_at(whole);
        let (y, y_rest) = $y[..$x.len()].split_at(whole);
        for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact(LANES)) {
            for i in 0..LANES {
                let ($a, $b, $sum) = (x[i], y[i], sums[i]);
                sums[i] = $value;
            }
        }
        for (sum, (&$a, &$b)) in sums.iter_mut().zip(x_rest.iter().zip(y_rest)) {
            let $sum = *sum;
            *sum = $value;
        }
        total(sums)
    }};
}

/// Folds the row lane by lane with an expression in a float and what is there, then adds up the lanes.
macro_rules! reduce {
    ($x:expr, |$a:ident, $sum:ident| $value:expr) => {{
        let mut sums = [0.0_f32; LANES];
        let chunks = $x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for x in chunks {
            for i in 0..LANES {
                let ($a, $sum) = (x[i], sums[i]);
                sums[i] = $value;
            }
        }
        for (sum, &$a) in sums.iter_mut().zip(rest) {
            let $sum = *sum;
            *sum = $value;
        }
        total(sums)
    }};
}

/// Not inlined: the compiler would scatter the lanes of the loop before it for the sake of these few sums.
#[inline(never)]
fn total(mut lanes: Vector) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Not inlined: see [`total`].
#[inline(never)]
fn largest(lanes: Vector) -> f32 {
    let mut most = f32::NEG_INFINITY;
    for lane in lanes {
        most = larger(lane, most);
    }
    most
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn vector(x: &[f32], first: usize) -> &Vector {
    let part = &x[first..first + LANES];
    part.try_into().expect("LANES floats")
}

#[inline(always)]
fn vector_mut(x: &mut [f32], first: usize) -> &mut Vector {
    let part = &mut x[first..first + LANES];
    part.try_into().expect("LANES floats")
}

mod body {
    use super::*;

    /// `dst = (x - mean) / sqrt(variance + epsilon) gamma + beta` (`torch.nn.LayerNorm`).
    #[inline(always)]
    pub(super) fn layer_norm<const FMA: bool>(
        dst: &mut [f32],
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
    ) {
        let count = x.len() as f32;
        let mean = reduce!(x, |x, sum| sum + x) / count;
        let variance = reduce!(x, |x, sum| fma::<FMA>(x - mean, x - mean, sum)) / count;
        let factor = 1.0 / (variance + epsilon).sqrt();
        let count = x.len();
        let (dst, gamma, beta) = (&mut dst[..count], &gamma[..count], &beta[..count]);
        for i in 0..count {
            dst[i] = fma::<FMA>((x[i] - mean) * factor, gamma[i], beta[i]);
        }
    }

    /// [`layer_norm`] of rows that are `stride` apart, in place.
    #[inline(always)]
    pub(super) fn norm_rows<const FMA: bool>(
        x: &mut [f32],
        stride: usize,
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
    ) {
        let count = gamma.len();
        let beta = &beta[..count];
        for x in x.chunks_exact_mut(stride) {
            let x = &mut x[..count];
            let mean = reduce!(x, |x, sum| sum + x) / count as f32;
            let variance = reduce!(x, |x, sum| fma::<FMA>(x - mean, x - mean, sum)) / count as f32;
            let factor = 1.0 / (variance + epsilon).sqrt();
            for i in 0..count {
                x[i] = fma::<FMA>((x[i] - mean) * factor, gamma[i], beta[i]);
            }
        }
    }

    /// Rows become the norm of themselves, or of those of `from`, with their answers; `positioned` gets them with their
    /// positions.
    #[inline(always)]
    pub(super) fn answer_rows<const FMA: bool>(
        x: &mut [f32],
        positioned: &mut [f32],
        from: Option<&[f32]>,
        rows: &AnswerRows<'_>,
    ) {
        let count = rows.gamma.len();
        let (gamma, beta, bias) = (rows.gamma, &rows.beta[..count], &rows.bias[..count]);
        let others = rows.answers.chunks_exact(rows.stride);
        let others = others.zip(rows.positions.chunks_exact(count));
        let targets = x
            .chunks_exact_mut(count)
            .zip(positioned.chunks_exact_mut(count));
        for (row, ((x, positioned), (answer, position))) in targets.zip(others).enumerate() {
            let answer = &answer[..count];
            if let Some(from) = from {
                let from = &from[row * count..][..count];
                for i in 0..count {
                    x[i] = from[i] + (answer[i] + bias[i]);
                }
            } else {
                for i in 0..count {
                    x[i] += answer[i] + bias[i];
                }
            }
            let mean = reduce!(x, |x, sum| sum + x) / count as f32;
            let variance = reduce!(x, |x, sum| fma::<FMA>(x - mean, x - mean, sum)) / count as f32;
            let factor = 1.0 / (variance + rows.epsilon).sqrt();
            for i in 0..count {
                let normed = fma::<FMA>((x[i] - mean) * factor, gamma[i], beta[i]);
                x[i] = normed;
                positioned[i] = normed + position[i];
            }
        }
    }

    /// The first `count` floats of rows of `dst`, `stride` apart, become those of a strip of sums with the bias.
    #[inline(always)]
    pub(super) fn store_strip<const FMA: bool>(
        dst: &mut [f32],
        stride: usize,
        count: usize,
        sums: &[f32],
        bias: &[f32],
    ) {
        let bias: &[f32; STRIP] = bias[..STRIP].try_into().unwrap();
        for (dst, sums) in dst.chunks_mut(stride).zip(sums.chunks_exact(STRIP)) {
            let sums: &[f32; STRIP] = sums.try_into().unwrap();
            if count == STRIP {
                let dst: &mut [f32; STRIP] = (&mut dst[..STRIP]).try_into().unwrap();
                for i in 0..STRIP {
                    dst[i] = sums[i] + bias[i];
                }
            } else {
                for (i, dst) in dst[..count].iter_mut().enumerate() {
                    *dst = sums[i] + bias[i];
                }
            }
        }
    }

    /// [`store_strip`], added to what is there.
    #[inline(always)]
    pub(super) fn add_strip<const FMA: bool>(
        dst: &mut [f32],
        stride: usize,
        count: usize,
        sums: &[f32],
        bias: &[f32],
    ) {
        let bias: &[f32; STRIP] = bias[..STRIP].try_into().unwrap();
        for (dst, sums) in dst.chunks_mut(stride).zip(sums.chunks_exact(STRIP)) {
            let sums: &[f32; STRIP] = sums.try_into().unwrap();
            if count == STRIP {
                let dst: &mut [f32; STRIP] = (&mut dst[..STRIP]).try_into().unwrap();
                for i in 0..STRIP {
                    dst[i] += sums[i] + bias[i];
                }
            } else {
                for (i, dst) in dst[..count].iter_mut().enumerate() {
                    *dst += sums[i] + bias[i];
                }
            }
        }
    }

    /// The exact GELU of a strip of sums with the bias.
    #[inline(always)]
    pub(super) fn gelu_strip<const FMA: bool>(sums: &mut [f32], bias: &[f32]) {
        let bias: &[f32; STRIP] = bias[..STRIP].try_into().unwrap();
        for sums in sums.chunks_exact_mut(STRIP) {
            for i in 0..STRIP {
                sums[i] = gelu_lane::<FMA>(sums[i] + bias[i]);
            }
        }
    }

    /// `max(x, 0)`
    #[inline(always)]
    pub(super) fn relu<const FMA: bool>(x: &mut [f32]) {
        each!(x, |x| larger(x, 0.0));
    }

    /// `x += other`
    #[inline(always)]
    pub(super) fn add<const FMA: bool>(x: &mut [f32], other: &[f32]) {
        zip!(x, other, |x, other| x + other);
    }

    /// `x *= factor`
    #[inline(always)]
    pub(super) fn scale<const FMA: bool>(x: &mut [f32], factor: f32) {
        each!(x, |x| x * factor);
    }

    /// `dst = a + b`
    #[inline(always)]
    pub(super) fn sum<const FMA: bool>(dst: &mut [f32], a: &[f32], b: &[f32]) {
        let count = dst.len();
        let (a, b) = (&a[..count], &b[..count]);
        for i in 0..count {
            dst[i] = a[i] + b[i];
        }
    }

    /// `x[row, column] += across[column] + down[row]`; the largest of it, NaN passed over. `across` is whole vectors.
    #[inline(always)]
    pub(super) fn positions_max<const FMA: bool>(
        x: &mut [f32],
        across: &[f32],
        down: &[f32],
    ) -> f32 {
        let mut most = [f32::NEG_INFINITY; LANES];
        for (x, &down) in x.chunks_exact_mut(across.len()).zip(down) {
            for (x, across) in x.chunks_exact_mut(LANES).zip(across.chunks_exact(LANES)) {
                let (x, across): (&mut Vector, &Vector) =
                    (x.try_into().unwrap(), across.try_into().unwrap());
                *x = lanes!(i => x[i] + (across[i] + down));
                most = lanes!(i => larger(x[i], most[i]));
            }
        }
        largest(most)
    }

    /// `x = e^(x - most)`; the sum.
    #[inline(always)]
    pub(super) fn exp_sum<const FMA: bool>(x: &mut [f32], most: f32) -> f32 {
        let mut sums = [0.0; LANES];
        let whole = x.len() / LANES * LANES;
        let (vectors, rest) = x.split_at_mut(whole);
        for x in vectors.chunks_exact_mut(LANES) {
            let x: &mut Vector = x.try_into().unwrap();
            *x = lanes!(i => exp_lane::<FMA>(x[i] - most));
            sums = lanes!(i => sums[i] + x[i]);
        }
        for (x, sum) in rest.iter_mut().zip(&mut sums) {
            *x = exp_lane::<FMA>(*x - most);
            *sum += *x;
        }
        total(sums)
    }

    /// The exact GELU.
    #[inline(always)]
    pub(super) fn gelu_plain<const FMA: bool>(x: &mut [f32]) {
        each!(x, |x| gelu_lane::<FMA>(x));
    }

    /// `g` times the derivative of the exact GELU at `x`.
    #[inline(always)]
    pub(super) fn gelu_gradient<const FMA: bool>(g: &mut [f32], x: &[f32]) {
        zip!(g, x, |g, x| g * gelu_slope::<FMA>(x));
    }

    /// The gradient at a row `x` of [`layer_norm`], of that at its result, and those of its parameters added up.
    #[inline(always)]
    pub(super) fn norm_gradient<const FMA: bool>(
        dst: &mut [f32],
        g: &[f32],
        x: &[f32],
        norm: &mut NormGradient<'_>,
    ) {
        let length = x.len();
        let count = length as f32;
        let mean = reduce!(x, |x, sum| sum + x) / count;
        let variance = reduce!(x, |x, sum| fma::<FMA>(x - mean, x - mean, sum)) / count;
        let factor = 1.0 / (variance + norm.epsilon).sqrt();
        let (dst, g, gamma) = (&mut dst[..length], &g[..length], &norm.gamma[..length]);
        let (of_gamma, of_beta) = (&mut norm.of_gamma[..length], &mut norm.of_beta[..length]);
        for i in 0..length {
            dst[i] = g[i] * gamma[i];
        }
        let shift = reduce!(dst, |d, sum| sum + d) / count;
        let along = dot!(dst, x, |d, x, sum| fma::<FMA>(d, x - mean, sum)) * factor / count;
        for i in 0..length {
            let normed = (x[i] - mean) * factor;
            of_gamma[i] = fma::<FMA>(g[i], normed, of_gamma[i]);
            of_beta[i] += g[i];
            dst[i] = factor * (dst[i] - shift - normed * along);
        }
    }

    /// The softmax of `scale x`, to which a number of its column and one of its row are added where there are such.
    #[inline(always)]
    pub(super) fn scores_softmax<const FMA: bool>(
        x: &mut [f32],
        scale: f32,
        across: &[f32],
        down: &[f32],
    ) {
        if across.is_empty() {
            each!(x, |x| x * scale);
        } else {
            for (x, &down) in x.chunks_exact_mut(across.len()).zip(down) {
                zip!(x, across, |x, across| fma::<FMA>(x, scale, across + down));
            }
        }
        let mut most = [f32::NEG_INFINITY; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for x in chunks {
            for i in 0..LANES {
                most[i] = larger(x[i], most[i]);
            }
        }
        for (most, &x) in most.iter_mut().zip(rest) {
            *most = larger(x, *most);
        }
        let factor = 1.0 / exp_sum::<FMA>(x, largest(most));
        each!(x, |x| x * factor);
    }

    /// The gradient at scores of that at their softmax `p`, in place.
    #[inline(always)]
    pub(super) fn softmax_gradient<const FMA: bool>(g: &mut [f32], p: &[f32]) {
        let along = dot!(g, p, |g, p, sum| fma::<FMA>(g, p, sum));
        zip!(g, p, |g, p| p * (g - along));
    }

    /// The softmax of each column of a matrix whose rows are whole vectors.
    #[inline(always)]
    pub(super) fn softmax_of_columns<const FMA: bool>(x: &mut [f32], columns: usize) {
        for first in (0..columns).step_by(LANES) {
            let mut most = [f32::NEG_INFINITY; LANES];
            for row in x.chunks_exact(columns) {
                let row = vector(row, first);
                most = lanes!(i => larger(row[i], most[i]));
            }
            let mut sums = [0.0; LANES];
            for row in x.chunks_exact_mut(columns) {
                let row = vector_mut(row, first);
                *row = lanes!(i => exp_lane::<FMA>(row[i] - most[i]));
                sums = lanes!(i => sums[i] + row[i]);
            }
            let factors = lanes!(i => 1.0 / sums[i]);
            for row in x.chunks_exact_mut(columns) {
                let row = vector_mut(row, first);
                *row = lanes!(i => row[i] * factors[i]);
            }
        }
    }

    /// The gradient at scores of that at their [`softmax_of_columns`] `p`, in place.
    #[inline(always)]
    pub(super) fn columns_gradient<const FMA: bool>(g: &mut [f32], p: &[f32], columns: usize) {
        for first in (0..columns).step_by(LANES) {
            let mut along = [0.0; LANES];
            for (g, p) in g.chunks_exact(columns).zip(p.chunks_exact(columns)) {
                let (g, p) = (vector(g, first), vector(p, first));
                along = lanes!(i => fma::<FMA>(g[i], p[i], along[i]));
            }
            for (g, p) in g.chunks_exact_mut(columns).zip(p.chunks_exact(columns)) {
                let (g, p) = (vector_mut(g, first), vector(p, first));
                *g = lanes!(i => p[i] * (g[i] - along[i]));
            }
        }
    }

    /// `dst = x^T`: the first `width` columns of rows that lie `stride` apart become rows, whole vectors of zeros at their end.
    #[inline(always)]
    pub(super) fn turn<const FMA: bool>(
        dst: &mut [f32],
        columns: usize,
        x: &[f32],
        stride: usize,
        width: usize,
    ) {
        let count = x.len().div_ceil(stride);
        let whole = count / LANES * LANES;
        for (first, x) in (0..whole).step_by(LANES).zip(x.chunks(LANES * stride)) {
            let x = &x[..(LANES - 1) * stride + width];
            for (channel, dst) in dst.chunks_exact_mut(columns).take(width).enumerate() {
                *vector_mut(dst, first) = lanes!(i => x[i * stride + channel]);
            }
        }
        for (channel, dst) in dst.chunks_exact_mut(columns).take(width).enumerate() {
            for row in whole..count {
                dst[row] = x[row * stride + channel];
            }
            dst[count..].fill(0.0);
        }
    }

    /// `dst = a x`, where `a` has few rows and columns and the rows of `x` and `dst` are whole vectors.
    #[inline(always)]
    pub(super) fn small_times<const FMA: bool>(
        dst: &mut [f32],
        a: &[f32],
        x: &[f32],
        columns: usize,
    ) {
        let depth = x.len() / columns;
        for first in (0..columns).step_by(LANES) {
            for (dst, a) in dst.chunks_exact_mut(columns).zip(a.chunks_exact(depth)) {
                let mut sums = [0.0; LANES];
                for (x, &a) in x.chunks_exact(columns).zip(a) {
                    let x = vector(x, first);
                    sums = lanes!(i => fma::<FMA>(a, x[i], sums[i]));
                }
                *vector_mut(dst, first) = sums;
            }
        }
    }

    /// The gradients at pixels `x` and at the weights of masks of those at their products, `g` `[pixels, masks]`. Those at the
    /// weights are added.
    #[inline(always)]
    pub(super) fn pixels_gradient<const FMA: bool>(
        of_x: &mut [f32],
        of_masks: &mut [f32],
        g: &[f32],
        x: &[f32],
        masks: &[f32],
        channels: usize,
    ) {
        let count = masks.len() / channels;
        for ((of_x, x), g) in of_x
            .chunks_exact_mut(channels)
            .zip(x.chunks_exact(channels))
            .zip(g.chunks_exact(count))
        {
            of_x.fill(0.0);
            for (mask, &g) in g.iter().enumerate() {
                let of_mask = &mut of_masks[mask * channels..][..channels];
                zip!(of_mask, x, |sum, x| fma::<FMA>(g, x, sum));
                let mask = &masks[mask * channels..][..channels];
                zip!(of_x, mask, |sum, mask| fma::<FMA>(g, mask, sum));
            }
        }
    }

    /// `dst = a x^T`, where the rows of `a` and `x` are few and whole vectors.
    #[inline(always)]
    pub(super) fn row_dots<const FMA: bool>(dst: &mut [f32], a: &[f32], x: &[f32], columns: usize) {
        /// Rows of `x` at once: sums that do not wait for each other.
        const AT_ONCE: usize = 4;
        let width = x.len() / columns;
        for (dst, a) in dst.chunks_exact_mut(width).zip(a.chunks_exact(columns)) {
            for (dst, x) in dst.chunks_mut(AT_ONCE).zip(x.chunks(AT_ONCE * columns)) {
                let mut sums = [[0.0; LANES]; AT_ONCE];
                // Where rows are missing the last is taken again.
                let mut rows = [x; AT_ONCE];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = &x[i.min(dst.len() - 1) * columns..][..columns];
                }
                for first in (0..columns).step_by(LANES) {
                    let a = vector(a, first);
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let x = vector(row, first);
                        *sums = lanes!(i => fma::<FMA>(a[i], x[i], sums[i]));
                    }
                }
                for (dst, sums) in dst.iter_mut().zip(sums) {
                    *dst = total(sums);
                }
            }
        }
    }

    /// Sums over the pixels of a mask: focal loss, the probability inside where the target is, the probability inside, and
    /// the last two of pixels whose logit is positive.
    #[inline(always)]
    pub(super) fn mask_sums<const FMA: bool>(
        logits: &[f32],
        target: &[f32],
        focal: &Focal,
    ) -> [f32; MASK_SUMS] {
        with_power!(focal.gamma, POWER => sums_of_power::<FMA, POWER>(logits, target, focal))
    }

    #[inline(always)]
    fn sums_of_power<const FMA: bool, const POWER: usize>(
        logits: &[f32],
        target: &[f32],
        focal: &Focal,
    ) -> [f32; MASK_SUMS] {
        let mut sums = [[0.0_f32; LANES]; MASK_SUMS];
        let mut add = |i: usize, x: f32, target: f32| {
            let pixel = pixel::<FMA>(x, target);
            let weight = fma::<FMA>(target, 2.0 * focal.alpha - 1.0, 1.0 - focal.alpha);
            let positive = if x > 0.0 { 1.0 } else { 0.0 };
            sums[0][i] += weight * power::<POWER>(pixel.wrong, focal.gamma) * pixel.entropy;
            sums[1][i] += pixel.inside * target;
            sums[2][i] += pixel.inside;
            sums[3][i] += positive * target;
            sums[4][i] += positive;
        };
        let whole = logits.len() / LANES * LANES;
        let (vectors, rest) = logits.split_at(whole);
        let (targets, target_rest) = target[..logits.len()].split_at(whole);
        for (x, target) in vectors.chunks_exact(LANES).zip(targets.chunks_exact(LANES)) {
            for i in 0..LANES {
                add(i, x[i], target[i]);
            }
        }
        for (i, (x, target)) in rest.iter().zip(target_rest).enumerate() {
            add(i, *x, *target);
        }
        sums.map(total)
    }

    /// The gradient at the logits of those at the first three of [`mask_sums`].
    #[inline(always)]
    pub(super) fn mask_gradient<const FMA: bool>(
        dst: &mut [f32],
        logits: &[f32],
        target: &[f32],
        focal: &Focal,
        g: [f32; 3],
    ) {
        dst.copy_from_slice(logits);
        with_power!(focal.gamma, POWER => gradient_of_power::<FMA, POWER>(dst, target, focal, g));
    }

    #[inline(always)]
    fn gradient_of_power<const FMA: bool, const POWER: usize>(
        x: &mut [f32],
        target: &[f32],
        focal: &Focal,
        [of_focal, of_both, of_inside]: [f32; 3],
    ) {
        zip!(x, target, |x, target| {
            let pixel = pixel::<FMA>(x, target);
            let weight = fma::<FMA>(target, 2.0 * focal.alpha - 1.0, 1.0 - focal.alpha);
            let sign = fma::<FMA>(target, -2.0, 1.0);
            // d/dm of w^gamma e, where w is sigmoid(-m), e is -ln(1 - w), and m is the logit or its opposite.
            let modulated = fma::<FMA>(
                focal.gamma * (1.0 - pixel.wrong),
                pixel.entropy,
                pixel.wrong,
            );
            let slope = sign * weight * power::<POWER>(pixel.wrong, focal.gamma) * modulated;
            fma::<FMA>(
                of_focal,
                slope,
                pixel.slope * fma::<FMA>(of_both, target, of_inside),
            )
        });
    }

    /// A step of the softmax of columns, as rows go by: `x` becomes e to the power of `x - most`, where `most` is the largest
    /// of the column so far, NaN passed over. What was summed for a smaller `most` is to be multiplied by `factors`;
    /// `total` is, and is added to. Columns are whole vectors.
    #[inline(always)]
    pub(super) fn columns_softmax<const FMA: bool>(
        x: &mut [f32],
        columns: usize,
        most: &mut [f32],
        total: &mut [f32],
        factors: &mut [f32],
    ) {
        for first in (0..columns).step_by(LANES) {
            let part = first..first + LANES;
            let before = lanes!(i => most[part.start + i]);
            let mut now = before;
            for row in x.chunks_exact(columns) {
                let row = &row[part.clone()];
                for i in 0..LANES {
                    now[i] = larger(row[i], now[i]);
                }
            }
            // Where nothing has come but minus infinity, there is nothing to multiply.
            let factor = lanes!(i => if before[i] == now[i] { 1.0 } else { exp_lane::<FMA>(before[i] - now[i]) });
            let mut sums = lanes!(i => total[part.start + i] * factor[i]);
            for row in x.chunks_exact_mut(columns) {
                let row = &mut row[part.clone()];
                for i in 0..LANES {
                    let e = exp_lane::<FMA>(row[i] - now[i]);
                    row[i] = e;
                    sums[i] += e;
                }
            }
            most[part.clone()].copy_from_slice(&now);
            total[part.clone()].copy_from_slice(&sums);
            factors[part].copy_from_slice(&factor);
        }
    }

    /// Softmax of rows with a bias, over entries `groups` apart: entry `t groups + g` belongs to group g. A row is as long as
    /// the bias; entries whose bias is minus infinity become 0.
    #[inline(always)]
    pub(super) fn group_softmax<const FMA: bool>(x: &mut [f32], bias: &[f32], groups: usize) {
        if groups == LANES / 2 {
            return softmax_of_eight::<FMA>(x, bias);
        }
        for x in x.chunks_exact_mut(bias.len()) {
            zip!(x, bias, |x, bias| x + bias);
            for group in 0..groups {
                let mut most = f32::NEG_INFINITY;
                for i in (group..bias.len()).step_by(groups) {
                    most = larger(x[i], most);
                }
                let mut sum = 0.0;
                for i in (group..bias.len()).step_by(groups) {
                    x[i] = exp_lane::<FMA>(x[i] - most);
                    sum += x[i];
                }
                for i in (group..bias.len()).step_by(groups) {
                    x[i] /= sum;
                }
            }
        }
    }

    /// Eight groups: a vector has two entries of each. Rows are whole vectors.
    #[inline(always)]
    fn softmax_of_eight<const FMA: bool>(x: &mut [f32], bias: &[f32]) {
        for x in x.chunks_exact_mut(bias.len()) {
            let mut most = [f32::NEG_INFINITY; LANES];
            for (x, bias) in x.chunks_exact_mut(LANES).zip(bias.chunks_exact(LANES)) {
                for i in 0..LANES {
                    x[i] += bias[i];
                    most[i] = larger(x[i], most[i]);
                }
            }
            let most = lanes!(i => larger(most[(i + LANES / 2) % LANES], most[i]));
            let mut sums = [0.0; LANES];
            for x in x.chunks_exact_mut(LANES) {
                for i in 0..LANES {
                    let e = exp_lane::<FMA>(x[i] - most[i]);
                    x[i] = e;
                    sums[i] += e;
                }
            }
            let factors = lanes!(i => 1.0 / (sums[i] + sums[(i + LANES / 2) % LANES]));
            for x in x.chunks_exact_mut(LANES) {
                for i in 0..LANES {
                    x[i] *= factors[i];
                }
            }
        }
    }
}

/// Compiles every function of `body` for one level and collects them in a table.
macro_rules! level {
    ($module:ident, $table:ident, $fma:literal, $attribute:tt, [$($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*]) => {
        mod $module {
            $(
                /// # Safety
                /// The CPU has the level.
                #$attribute
                #[allow(clippy::too_many_arguments)]
                pub(super) unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                    super::body::$name::<$fma>($($arg),*)
                }
            )*
        }
        pub(crate) static $table: RowKernels = RowKernels { $($name: $module::$name),* };
    };
}

macro_rules! all_levels {
    ($list:tt) => {
        #[cfg(target_arch = "x86_64")]
        level!(
            avx512,
            AVX512,
            true,
            [target_feature(
                enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
            )],
            $list
        );
        #[cfg(target_arch = "x86_64")]
        level!(
            avx2,
            AVX2,
            true,
            [target_feature(enable = "avx2,fma")],
            $list
        );
        #[cfg(target_arch = "aarch64")]
        level!(plain, PLAIN, true, [inline], $list);
        #[cfg(not(target_arch = "aarch64"))]
        level!(plain, PLAIN, false, [inline], $list);
    };
}

all_levels!([
    layer_norm(dst: &mut [f32], x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32);
    norm_rows(x: &mut [f32], stride: usize, gamma: &[f32], beta: &[f32], epsilon: f32);
    answer_rows(x: &mut [f32], positioned: &mut [f32], from: Option<&[f32]>, rows: &super::AnswerRows<'_>);
    store_strip(dst: &mut [f32], stride: usize, count: usize, sums: &[f32], bias: &[f32]);
    add_strip(dst: &mut [f32], stride: usize, count: usize, sums: &[f32], bias: &[f32]);
    gelu_strip(sums: &mut [f32], bias: &[f32]);
    relu(x: &mut [f32]);
    add(x: &mut [f32], other: &[f32]);
    scale(x: &mut [f32], factor: f32);
    sum(dst: &mut [f32], a: &[f32], b: &[f32]);
    positions_max(x: &mut [f32], across: &[f32], down: &[f32]) -> f32;
    exp_sum(x: &mut [f32], most: f32) -> f32;
    gelu_plain(x: &mut [f32]);
    columns_softmax(x: &mut [f32], columns: usize, most: &mut [f32], total: &mut [f32], factors: &mut [f32]);
    group_softmax(x: &mut [f32], bias: &[f32], groups: usize);
    gelu_gradient(g: &mut [f32], x: &[f32]);
    norm_gradient(dst: &mut [f32], g: &[f32], x: &[f32], norm: &mut super::NormGradient<'_>);
    scores_softmax(x: &mut [f32], scale: f32, across: &[f32], down: &[f32]);
    softmax_gradient(g: &mut [f32], p: &[f32]);
    softmax_of_columns(x: &mut [f32], columns: usize);
    columns_gradient(g: &mut [f32], p: &[f32], columns: usize);
    turn(dst: &mut [f32], columns: usize, x: &[f32], stride: usize, width: usize);
    small_times(dst: &mut [f32], a: &[f32], x: &[f32], columns: usize);
    pixels_gradient(of_x: &mut [f32], of_masks: &mut [f32], g: &[f32], x: &[f32], masks: &[f32], channels: usize);
    row_dots(dst: &mut [f32], a: &[f32], x: &[f32], columns: usize);
    mask_sums(logits: &[f32], target: &[f32], focal: &super::Focal) -> [f32; super::MASK_SUMS];
    mask_gradient(dst: &mut [f32], logits: &[f32], target: &[f32], focal: &super::Focal, g: [f32; 3]);
]);

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Vec<(Level, &'static RowKernels)> {
        Level::supported()
            .map(|level| (level, RowKernels::of(level)))
            .collect()
    }

    /// Values from -`size` to `size`, of which no two are equal.
    fn values(count: usize, size: f32) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919) % 1013) as f32 / 506.5 * size - size)
            .collect()
    }

    #[test]
    fn e_to_the_power_of_anything() {
        for (level, k) in tables() {
            for count in [1, 15, 16, 33, 200] {
                let x = values(count, 87.0);
                let mut y = x.clone();
                // SAFETY: the level is one of this CPU.
                let sum = unsafe { (k.exp_sum)(&mut y, 3.0) };
                let exact = |x: f32| match x - 3.0 {
                    x if x < -87.33 => 0.0,
                    x => f64::from(x).exp(),
                };
                for (&x, &y) in x.iter().zip(&y) {
                    let error = (f64::from(y) - exact(x)).abs();
                    assert!(error <= exact(x) * 3e-7, "{level}: e^{}: {y}", x - 3.0);
                }
                let exact: f64 = x.iter().map(|&x| exact(x)).sum();
                assert!((f64::from(sum) - exact).abs() <= exact * 1e-6, "{level}");
            }
            let mut odd = [f32::NAN, f32::NEG_INFINITY, 0.0, -1000.0];
            // SAFETY: as above.
            unsafe { (k.exp_sum)(&mut odd, 0.0) };
            assert!(
                odd[0].is_nan() && odd[1..] == [0.0, 1.0, 0.0],
                "{level}: {odd:?}"
            );
        }
    }

    #[test]
    fn gelu_of_small_and_large() {
        // The error function by its series, in f64.
        let erf = |x: f64| -> f64 {
            let (mut term, mut sum) = (x, x);
            for n in 1..150 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        for (level, k) in tables() {
            let x = values(1013, 6.0);
            let mut y = x.clone();
            // SAFETY: the level is one of this CPU.
            unsafe { (k.gelu_plain)(&mut y) };
            for (&x, &y) in x.iter().zip(&y) {
                let x = f64::from(x);
                let exact = 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
                assert!(
                    (f64::from(y) - exact).abs() < 1.5e-6,
                    "{level}: gelu({x}) {y}, not {exact}"
                );
            }
        }
    }

    #[test]
    fn softmax_of_columns_goes_on_from_chunk_to_chunk() {
        for (level, k) in tables() {
            let (rows, columns) = (50, 32);
            let x = values(rows * columns, 20.0);
            let (mut most, mut total) = (vec![f32::NEG_INFINITY; columns], vec![0.0; columns]);
            let mut factors = vec![0.0; columns];
            let mut weights = vec![0.0_f64; rows * columns];
            for first in [0, 7, 8, 40] {
                let last = [7, 8, 40, 50][[0, 7, 8, 40].iter().position(|&f| f == first).unwrap()];
                let mut chunk = x[first * columns..last * columns].to_vec();
                // SAFETY: the level is one of this CPU.
                unsafe {
                    (k.columns_softmax)(&mut chunk, columns, &mut most, &mut total, &mut factors);
                }
                for (i, weight) in weights[..first * columns].iter_mut().enumerate() {
                    *weight *= f64::from(factors[i % columns]);
                }
                for (weight, v) in weights[first * columns..].iter_mut().zip(chunk) {
                    *weight = f64::from(v);
                }
            }
            for column in 0..columns {
                let exact: Vec<f64> = (0..rows)
                    .map(|row| f64::from(x[row * columns + column]).exp())
                    .collect();
                let sum: f64 = exact.iter().sum();
                for row in 0..rows {
                    let found = weights[row * columns + column] / f64::from(total[column]);
                    assert!((found - exact[row] / sum).abs() < 1e-6, "{level}");
                }
            }
        }
    }

    #[test]
    fn softmax_of_groups_with_padding() {
        for (level, k) in tables() {
            for (groups, tokens) in [(8, 7), (8, 1), (8, 4), (4, 5), (5, 3)] {
                let columns = groups * tokens;
                let stride = usize::next_multiple_of(columns, 32);
                let mut bias = values(columns, 1.0);
                bias.resize(stride, f32::NEG_INFINITY);
                let x = values(3 * stride, 9.0);
                let mut y = x.clone();
                // SAFETY: the level is one of this CPU.
                unsafe { (k.group_softmax)(&mut y, &bias, groups) };
                for (x, y) in x.chunks(stride).zip(y.chunks(stride)) {
                    for group in 0..groups {
                        let places = || (group..columns).step_by(groups);
                        let exact = |i: usize| f64::from(x[i] + bias[i]).exp();
                        let sum: f64 = places().map(exact).sum();
                        for i in places() {
                            assert!((f64::from(y[i]) - exact(i) / sum).abs() < 1e-6, "{level}");
                        }
                    }
                    assert!(y[columns..].iter().all(|&v| v == 0.0), "{level}");
                }
            }
        }
    }

    #[test]
    fn norms_of_any_width() {
        for (level, k) in tables() {
            for width in [1, 3, 16, 31, 64, 100] {
                let (gamma, beta) = (values(width, 1.0), values(width, 0.5));
                let x = values(4 * (width + 2), 5.0);
                let mut y = x.clone();
                // SAFETY: the level is one of this CPU.
                unsafe { (k.norm_rows)(&mut y, width + 2, &gamma, &beta, 1e-5) };
                for (x, y) in x.chunks(width + 2).zip(y.chunks(width + 2)) {
                    assert_eq!(x[width..], y[width..], "what lies between rows stays");
                    let mean = x[..width].iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
                    let squares = x[..width].iter().map(|&v| (f64::from(v) - mean).powi(2));
                    let deviation = (squares.sum::<f64>() / width as f64 + 1e-5).sqrt();
                    for i in 0..width {
                        let normed = (f64::from(x[i]) - mean) / deviation;
                        let exact = normed * f64::from(gamma[i]) + f64::from(beta[i]);
                        assert!((f64::from(y[i]) - exact).abs() < 2e-5, "{level}, {width}");
                    }
                }
            }
        }
    }
}
