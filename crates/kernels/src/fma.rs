//! Products of f32 by fused multiply-adds: AVX-512, AVX2, and plain Rust.

use crate::rows::{self, RowKernels};

/// Rows of a left block: two times six, one set of AVX2's registers each, and one of AVX-512's.
pub(crate) const ROWS: usize = 12;

/// The vectors of a level.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// Work on rows of floats, at the same level.
    const KERNELS: &'static RowKernels;

    /// `c` `[12, 32]` (+)= `a` `[depth, 12]`, transposed, x the panels `b` `[depth, 16]`.
    ///
    /// # Safety
    /// The CPU has the level; the factors hold `depth` rows, `c` 12 rows of 32 floats, `ldc` apart.
    unsafe fn tile(
        c: *mut f32,
        ldc: usize,
        a: *const f32,
        b: [*const f32; 2],
        depth: usize,
        accumulate: bool,
    );
}

/// AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    const KERNELS: &'static RowKernels = &rows::AVX512;

    unsafe fn tile(
        c: *mut f32,
        ldc: usize,
        a: *const f32,
        b: [*const f32; 2],
        depth: usize,
        accumulate: bool,
    ) {
        #[target_feature(enable = "avx512f")]
        unsafe fn tile(
            c: *mut f32,
            ldc: usize,
            mut a: *const f32,
            [mut b0, mut b1]: [*const f32; 2],
            depth: usize,
            accumulate: bool,
        ) {
            use std::arch::x86_64::{
                _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
                _mm512_storeu_ps,
            };
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            // SAFETY: the caller promises the factors' and the sums' sizes.
            unsafe {
                for _ in 0..depth {
                    let right = [_mm512_loadu_ps(b0), _mm512_loadu_ps(b1)];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let left = _mm512_set1_ps(*a.add(r));
                        sums[0] = _mm512_fmadd_ps(left, right[0], sums[0]);
                        sums[1] = _mm512_fmadd_ps(left, right[1], sums[1]);
                    }
                    (a, b0, b1) = (a.add(ROWS), b0.add(16), b1.add(16));
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    for (half, mut sum) in sums.into_iter().enumerate() {
                        let c = c.add(r * ldc + 16 * half);
                        if accumulate {
                            sum = _mm512_add_ps(sum, _mm512_loadu_ps(c));
                        }
                        _mm512_storeu_ps(c, sum);
                    }
                }
            }
        }
        // SAFETY: the caller promises the level and the sizes.
        unsafe { tile(c, ldc, a, b, depth, accumulate) }
    }
}

/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    const KERNELS: &'static RowKernels = &rows::AVX2;

    unsafe fn tile(
        c: *mut f32,
        ldc: usize,
        a: *const f32,
        b: [*const f32; 2],
        depth: usize,
        accumulate: bool,
    ) {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn tile(
            c: *mut f32,
            ldc: usize,
            mut a: *const f32,
            mut b: *const f32,
            depth: usize,
            accumulate: bool,
        ) {
            use std::arch::x86_64::{
                _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
                _mm256_storeu_ps,
            };
            let mut sums = [[_mm256_setzero_ps(); 2]; 6];
            // SAFETY: the caller promises the factors' and the sums' sizes.
            unsafe {
                for _ in 0..depth {
                    let right = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let left = _mm256_set1_ps(*a.add(r));
                        sums[0] = _mm256_fmadd_ps(left, right[0], sums[0]);
                        sums[1] = _mm256_fmadd_ps(left, right[1], sums[1]);
                    }
                    (a, b) = (a.add(ROWS), b.add(16));
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    for (half, mut sum) in sums.into_iter().enumerate() {
                        let c = c.add(r * ldc + 8 * half);
                        if accumulate {
                            sum = _mm256_add_ps(sum, _mm256_loadu_ps(c));
                        }
                        _mm256_storeu_ps(c, sum);
                    }
                }
            }
        }
        for (panel, b) in b.into_iter().enumerate() {
            for half in 0..2 {
                // SAFETY: the caller promises the level and the sizes; this is a quarter of the tile.
                unsafe {
                    let c = c.add(6 * half * ldc + 16 * panel);
                    tile(c, ldc, a.add(6 * half), b, depth, accumulate);
                }
            }
        }
    }
}

/// Plain Rust in blocks that fit the registers of most machines.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Lanes for Plain {
    const KERNELS: &'static RowKernels = &rows::PLAIN;

    unsafe fn tile(
        c: *mut f32,
        ldc: usize,
        a: *const f32,
        b: [*const f32; 2],
        depth: usize,
        accumulate: bool,
    ) {
        /// `R` rows and 8 columns of sums.
        const R: usize = 4;
        const C: usize = 8;
        // SAFETY: the caller promises the factors' sizes.
        let a = unsafe { std::slice::from_raw_parts(a, depth * ROWS) };
        for (panel, b) in b.into_iter().enumerate() {
            // SAFETY: as above.
            let b = unsafe { std::slice::from_raw_parts(b, depth * 16) };
            for (row, column) in (0..ROWS / R).flat_map(|r| [(r * R, 0), (r * R, C)]) {
                let mut sums = [[0.0_f32; C]; R];
                for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(16)) {
                    let (a, b) = (&a[row..row + R], &b[column..column + C]);
                    for (sums, &a) in sums.iter_mut().zip(a) {
                        for (sum, &b) in sums.iter_mut().zip(b) {
                            *sum += a * b;
                        }
                    }
                }
                for (r, sums) in sums.iter().enumerate() {
                    // SAFETY: row `row + r` of `c`, columns of this panel.
                    let c = unsafe {
                        let start = c.add((row + r) * ldc + 16 * panel + column);
                        std::slice::from_raw_parts_mut(start, C)
                    };
                    for (c, sum) in c.iter_mut().zip(sums) {
                        *c = if accumulate { *c + sum } else { *sum };
                    }
                }
            }
        }
    }
}
