//! Rows of sums on their way to the next product's tiles: softmax, norms and GELU in registers, with no pass over memory
//! of their own.
//!
//! The functions are those of `rows.rs`, to the rounding; what is rounded to bfloat16 has an exponential of its own.

use std::arch::x86_64::{
    __m512, _CMP_EQ_OQ, _CMP_NLT_UQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps,
    _mm512_fmsub_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_maskz_scalef_ps, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_rcp14_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps,
    _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_sub_ps,
};

use crate::amx::{TILE, split_32};
use crate::engine::{Relative, Softmax};

/// 32 floats to row `r` of the tiles at depth `kt`.
///
/// # Safety
/// AVX-512 F, BW and BF16; `dst` has the tiles, and `r` < 16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn store<const TERMS: usize>(dst: *mut u16, r: usize, kt: usize, low: __m512, high: __m512) {
    for (t, term) in split_32::<TERMS>(low, high).into_iter().enumerate() {
        // SAFETY: row `r` of tile `kt TERMS + t`, which the caller promises to be there.
        unsafe { _mm512_storeu_si512(dst.add((kt * TERMS + t) * TILE + r * 32).cast(), term) };
    }
}

/// e^x of sixteen x <= 0, 0 below -87.3: the same function as that of `rows.rs`.
#[target_feature(enable = "avx512f")]
#[inline]
fn exp(x: __m512) -> __m512 {
    let set = |v: f32| _mm512_set1_ps(v);
    let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, set(-87.33));
    let clamped = _mm512_max_ps(set(-87.33), x); // NaN passes
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(clamped, set(std::f32::consts::LOG2_E)));
    let r = _mm512_fnmadd_ps(n, set(355.0 / 512.0), clamped);
    let r = _mm512_fnmadd_ps(n, set(-2.121_944_4e-4), r);
    let p = set(1.987_569_1e-4);
    let p = _mm512_fmadd_ps(p, r, set(1.398_199_9e-3));
    let p = _mm512_fmadd_ps(p, r, set(8.333_452e-3));
    let p = _mm512_fmadd_ps(p, r, set(4.166_579_6e-2));
    let p = _mm512_fmadd_ps(p, r, set(1.666_666_5e-1));
    let p = _mm512_fmadd_ps(p, r, set(0.5));
    let p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), set(1.0));
    _mm512_maskz_scalef_ps(kept, p, n)
}

/// e^(x - most) of sixteen x <= most to 1e-5, for what is rounded to bfloat16; `shift` is most / ln 2. 2^f for |f| <= 1/2
/// is a polynomial of degree 4, which interpolates it in Chebyshev's nodes.
#[target_feature(enable = "avx512f")]
#[inline]
fn rough_exp(x: __m512, shift: __m512) -> __m512 {
    let y = _mm512_fmsub_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), shift);
    // Not below the smallest normal number, which is as good as 0 here: results that are not normal take many times as long.
    let y = _mm512_max_ps(_mm512_set1_ps(-126.0), y); // NaN passes
    // 1.5 x 2^23: adding and subtracting it rounds to whole numbers.
    let round = _mm512_set1_ps(12_582_912.0);
    let n = _mm512_sub_ps(_mm512_add_ps(y, round), round);
    let f = _mm512_sub_ps(y, n);
    let p = _mm512_set1_ps(9.666_368e-3);
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.592_197_6e-2));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240_223_5));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693_121_1));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0));
    _mm512_scalef_ps(p, n)
}

/// A step of the softmax of up to 32 rows of scores, whole tiles: packs `e^(score - most)`, where `most` is the largest so
/// far, NaN passed over. Adds to each score those of `across` and `down` for its column and row.
///
/// # Safety
/// AVX-512 F, BW and BF16; `dst` has `TERMS` tiles for every 16 rows and 32 columns, those of other rows `block`
/// elements apart.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn pack_softmax<const TERMS: usize>(
    dst: *mut u16,
    block: usize,
    scores: &[f32],
    stride: usize,
    relative: &Relative<'_>,
    columns: usize,
    state: &mut Softmax<'_>,
) {
    let (rows, vectors) = (state.most.len(), relative.width / 16);
    let lines = columns / relative.width;
    assert!(rows <= 32 && columns == 16 * vectors * lines && columns.is_multiple_of(32));
    assert!(scores.len() >= rows * stride && stride >= columns);
    assert!(relative.across.len() >= rows * relative.width);
    assert!(relative.down.len() >= (rows - 1) * relative.height + relative.first + lines);
    assert!(state.total.len() == rows && state.factors.len() == rows);
    let down_at = relative.down[relative.first..].as_ptr();
    let mut most = [0.0_f32; 32];
    // SAFETY: rows and their vectors lie within the scores and what is added to them, by the assertions; tiles are as the
    // caller promises.
    unsafe {
        // All rows' largest first: one row's steps wait for each other, those of several do not.
        for (r, most) in most[..rows].iter_mut().enumerate() {
            let scores = scores.as_ptr().add(r * stride);
            let across = relative.across.as_ptr().add(r * relative.width);
            let down = down_at.add(r * relative.height);
            let mut largest = _mm512_set1_ps(state.most[r]);
            for v in 0..vectors {
                let mut column = _mm512_set1_ps(f32::NEG_INFINITY);
                for line in 0..lines {
                    let x = _mm512_loadu_ps(scores.add((line * vectors + v) * 16));
                    let x = _mm512_add_ps(x, _mm512_set1_ps(*down.add(line)));
                    column = _mm512_max_ps(x, column);
                }
                let x = _mm512_add_ps(column, _mm512_loadu_ps(across.add(16 * v)));
                largest = _mm512_max_ps(x, largest);
            }
            *most = _mm512_reduce_max_ps(largest);
        }
        for first in (0..rows).step_by(16) {
            let here = ((1_u32 << (rows - first).min(16)) - 1) as u16;
            let before = _mm512_maskz_loadu_ps(here, state.most.as_ptr().add(first));
            let now = _mm512_maskz_loadu_ps(here, most.as_ptr().add(first));
            let same = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(before, now);
            let factor =
                _mm512_mask_blend_ps(same, exp(_mm512_sub_ps(before, now)), _mm512_set1_ps(1.0));
            let total = _mm512_maskz_loadu_ps(here, state.total.as_ptr().add(first));
            let total = _mm512_mul_ps(total, factor);
            _mm512_mask_storeu_ps(state.factors.as_mut_ptr().add(first), here, factor);
            _mm512_mask_storeu_ps(state.total.as_mut_ptr().add(first), here, total);
            _mm512_mask_storeu_ps(state.most.as_mut_ptr().add(first), here, now);
        }
        for (r, &most) in most[..rows].iter().enumerate() {
            let scores = scores.as_ptr().add(r * stride);
            let across = relative.across.as_ptr().add(r * relative.width);
            let down = down_at.add(r * relative.height);
            let largest = _mm512_set1_ps(most);
            let shift = _mm512_mul_ps(largest, _mm512_set1_ps(std::f32::consts::LOG2_E));
            let mut sums = [_mm512_setzero_ps(); 2];
            let (mut v, mut line) = (0, 0);
            for kt in 0..columns / 32 {
                let mut halves = [largest; 2];
                for (half, (value, sum)) in halves.iter_mut().zip(&mut sums).enumerate() {
                    let x = _mm512_loadu_ps(scores.add(32 * kt + 16 * half));
                    let position = _mm512_add_ps(
                        _mm512_loadu_ps(across.add(16 * v)),
                        _mm512_set1_ps(*down.add(line)),
                    );
                    let x = _mm512_add_ps(x, position);
                    *value = match TERMS {
                        1 => rough_exp(x, shift),
                        _ => exp(_mm512_sub_ps(x, largest)),
                    };
                    *sum = _mm512_add_ps(*sum, *value);
                    v += 1;
                    if v == vectors {
                        (v, line) = (0, line + 1);
                    }
                }
                store::<TERMS>(dst.add(r / 16 * block), r % 16, kt, halves[0], halves[1]);
            }
            state.total[r] += _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
        }
    }
}

/// The exact GELU of sixteen floats. The quotient's divisor is inverted to 14 bits, then by a step of Newton's.
#[target_feature(enable = "avx512f")]
#[inline]
fn gelu(x: __m512) -> __m512 {
    let set = |v: f32| _mm512_set1_ps(v);
    let half = _mm512_mul_ps(x, set(0.5));
    // NaN passes, as the second operand.
    let z = _mm512_mul_ps(x, set(std::f32::consts::FRAC_1_SQRT_2));
    let z = _mm512_min_ps(set(4.0), _mm512_max_ps(set(-4.0), z));
    let y = _mm512_mul_ps(z, z);
    let p = set(-2.726_142_3e-10);
    let p = _mm512_fmadd_ps(p, y, set(2.770_681_4e-8));
    let p = _mm512_fmadd_ps(p, y, set(-2.101_024e-6));
    let p = _mm512_fmadd_ps(p, y, set(-5.692_506_3e-5));
    let p = _mm512_fmadd_ps(p, y, set(-7.349_906e-4));
    let p = _mm512_fmadd_ps(p, y, set(-2.954_6e-3));
    let p = _mm512_fmadd_ps(p, y, set(-1.609_603_3e-2));
    let q = set(-1.456_607_2e-5);
    let q = _mm512_fmadd_ps(q, y, set(-2.133_740_6e-4));
    let q = _mm512_fmadd_ps(q, y, set(-1.682_827e-3));
    let q = _mm512_fmadd_ps(q, y, set(-7.373_329e-3));
    let q = _mm512_fmadd_ps(q, y, set(-1.426_473_9e-2));
    let inverse = _mm512_rcp14_ps(q);
    let inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(q, inverse, set(2.0)));
    let erf = _mm512_mul_ps(_mm512_mul_ps(z, p), inverse);
    _mm512_fmadd_ps(half, erf, half)
}

/// Packs the GELU of rows of 32 sums with their bias as one depth of a left factor, whose tiles of rows are `block` elements
/// apart.
///
/// # Safety
/// AVX-512 F, BW and BF16; `dst` has `TERMS` tiles for every 16 rows of sums.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn pack_gelu<const TERMS: usize>(
    dst: *mut u16,
    block: usize,
    sums: &[f32],
    bias: &[f32; 32],
) {
    // SAFETY: 32 floats each; row `r % 16` of tiles that the caller promises to be there.
    unsafe {
        let bias = [
            _mm512_loadu_ps(bias.as_ptr()),
            _mm512_loadu_ps(bias.as_ptr().add(16)),
        ];
        for (r, sums) in sums.chunks_exact(32).enumerate() {
            let at = sums.as_ptr();
            let low = _mm512_add_ps(_mm512_loadu_ps(at), bias[0]);
            let high = _mm512_add_ps(_mm512_loadu_ps(at.add(16)), bias[1]);
            store::<TERMS>(dst.add(r / 16 * block), r % 16, 0, gelu(low), gelu(high));
        }
    }
}

/// Packs the GELU of the layer norm of rows of sums with their bias as a left factor. The rows are overwritten.
///
/// # Safety
/// AVX-512 F, BW and BF16; `dst` has `TERMS` tiles for every 16 rows and 32 floats of `gamma`, whole tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn pack_norm_gelu<const TERMS: usize>(
    dst: *mut u16,
    sums: &mut [f32],
    stride: usize,
    [bias, gamma, beta]: [&[f32]; 3],
    epsilon: f32,
) {
    let count = gamma.len();
    assert!(count.is_multiple_of(32) && stride >= count);
    assert!(bias.len() >= count && beta.len() >= count);
    let block = count / 32 * TERMS * TILE;
    // The statistics of sixteen rows first: one row's wait for each other, those of several do not.
    for (rows, sums) in sums.chunks_mut(16 * stride).enumerate() {
        let mut statistics = [(0.0_f32, 0.0_f32); 16];
        // SAFETY: vectors within the row and what is as long, by the assertions; rows of tiles that the caller promises
        // to be there.
        unsafe {
            for (row, (mean, factor)) in sums.chunks_exact_mut(stride).zip(&mut statistics) {
                let (mut sum, mut squares) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                for i in (0..count).step_by(16) {
                    let at = row.as_mut_ptr().add(i);
                    let biased = _mm512_loadu_ps(bias.as_ptr().add(i));
                    let x = _mm512_add_ps(_mm512_loadu_ps(at), biased);
                    _mm512_storeu_ps(at, x);
                    sum = _mm512_add_ps(sum, x);
                }
                *mean = _mm512_reduce_add_ps(sum) / count as f32;
                for i in (0..count).step_by(16) {
                    let x = _mm512_loadu_ps(row.as_ptr().add(i));
                    let apart = _mm512_sub_ps(x, _mm512_set1_ps(*mean));
                    squares = _mm512_fmadd_ps(apart, apart, squares);
                }
                let variance = _mm512_reduce_add_ps(squares) / count as f32;
                *factor = 1.0 / (variance + epsilon).sqrt();
            }
            let dst = dst.add(rows * block);
            for i in (0..count).step_by(32) {
                let (gamma, beta) = (gamma.as_ptr().add(i), beta.as_ptr().add(i));
                let gamma = [_mm512_loadu_ps(gamma), _mm512_loadu_ps(gamma.add(16))];
                let beta = [_mm512_loadu_ps(beta), _mm512_loadu_ps(beta.add(16))];
                for (r, (row, (mean, factor))) in
                    sums.chunks_exact(stride).zip(statistics).enumerate()
                {
                    let [mean, factor] = [_mm512_set1_ps(mean), _mm512_set1_ps(factor)];
                    let at = row.as_ptr().add(i);
                    let low = _mm512_sub_ps(_mm512_loadu_ps(at), mean);
                    let low = _mm512_fmadd_ps(_mm512_mul_ps(low, factor), gamma[0], beta[0]);
                    let high = _mm512_sub_ps(_mm512_loadu_ps(at.add(16)), mean);
                    let high = _mm512_fmadd_ps(_mm512_mul_ps(high, factor), gamma[1], beta[1]);
                    store::<TERMS>(dst, r, i / 32, gelu(low), gelu(high));
                }
            }
        }
    }
}
