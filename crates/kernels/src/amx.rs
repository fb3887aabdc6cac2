//! Products of bfloat16 tiles on AMX.
//!
//! Eight tile registers hold 16 rows of 64 bytes. `tdpbf16ps` multiplies a tile of 16 x 32 bfloat16 with one of 32 x 16
//! and adds to a tile of 16 x 16 f32. The kernels here hold 32 x 32 sums in four tiles and stream the factors through
//! the other four.
//!
//! # 32-bit floats out of bfloat16
//! With `TERMS` = 3 each f32 is the sum of three bfloat16 (8 + 8 + 8 significant bits), and of the nine products the
//! six that matter are taken: those left out are below 2^-24 of the result. Henry, Tang and Heinecke, "Leveraging the
//! bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations" (2019). Sums are f32. The result is as
//! close to the exact one as a product in f32 is, at several times the speed of AVX-512. Subnormal terms count as zero,
//! and an infinite factor gives NaN, where f32 may give an infinity.
//!
//! With `TERMS` = 2 a factor has 16 bits, and three products of four are taken: those left out are below 2^-16.
//!
//! Tiles are not yet among Rust's stable intrinsics, so they are used through inline assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_ps,
    _mm512_ternarylogic_epi32,
};

/// Elements of a packed tile.
pub(crate) const TILE: usize = 512;
/// Bytes that [`tile_1`], [`tile_2`] and [`tile_3`] bring near at each depth.
pub(crate) const NEXT_1: usize = 128;
pub(crate) const NEXT_2: usize = 384;
pub(crate) const NEXT_3: usize = 640;

/// Whether the CPU has the tiles and the operating system lets this process use them.
pub(crate) fn available() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    if leaf.eax < 7 {
        return false;
    }
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    let (bf16, tiles) = (1 << 22, 1 << 24);
    features & bf16 != 0 && features & tiles != 0 && permitted()
}

/// Asks Linux for the tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    let (call, request, feature) = (158_i64, 0x1023, 18);
    let result: i64;
    // SAFETY: a system call that reads no memory of this process; rcx and r11 are clobbered by `syscall`.
    unsafe {
        asm!("syscall", inlateout("rax") call => result, in("rdi") request, in("rsi") feature,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

#[repr(C, align(64))]
struct TileConfig([u8; 64]);

/// Palette 1, eight tiles of 16 rows of 64 bytes.
static CONFIG: TileConfig = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut i = 0;
    while i < 8 {
        bytes[16 + 2 * i] = 64;
        bytes[48 + i] = 16;
        i += 1;
    }
    TileConfig(bytes)
};

/// Tiles that are configured for this thread, until dropped.
pub(crate) struct Tiles(());

impl Tiles {
    /// # Safety
    /// [`available`] must be true.
    #[inline(always)]
    pub(crate) unsafe fn configure() -> Self {
        // SAFETY: reads 64 bytes; the caller promises that the CPU has the instruction.
        unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIG.0.as_ptr(), options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: tiles were configured by `configure`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// A product of 32 x 32 sums from the lines of its loop, which `sub {depth}` and a jump end: factors at `a0`, `a1`, `b0` and `b1`,
/// what is brought near at `n0` and `n1`, and 64, the bytes of a tile's row, in `s`.
macro_rules! tile_product {
    ($(#[$attribute:meta])* $name:ident, [$($line:literal),* $(,)?]) => {
        $(#[$attribute])*
        #[inline(always)]
        pub(crate) unsafe fn $name(
            c: *mut f32,
            ldc: usize,
            [a0, a1]: [*const u16; 2],
            [b0, b1]: [*const u16; 2],
            [n0, n1]: [*const u16; 2],
            depth: usize,
            accumulate: bool,
        ) {
            // SAFETY: reads the tiles of `depth` depths from each factor and reads and writes 32 rows of `c`, as the caller
            // promises.
            unsafe {
                load_sums(c, ldc, accumulate);
                asm!(
                    "2:",
                    $($line,)*
                    "sub {depth}, 1",
                    "jnz 2b",
                    a0 = inout(reg) a0 => _, a1 = inout(reg) a1 => _,
                    b0 = inout(reg) b0 => _, b1 = inout(reg) b1 => _,
                    n0 = inout(reg) n0 => _, n1 = inout(reg) n1 => _,
                    depth = inout(reg) depth => _, s = in(reg) 64_usize,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
                store_sums(c, ldc);
            }
        }
    };
}

tile_product!(
    /// `c` `[32, 32]` (+)= `a` `[32, 32 depth]` x `b` `[32 depth, 32]`, one term. At each depth [`NEXT_1`] bytes from `n0` and from
    /// `n1` on are brought near for a later product; they may lie anywhere.
    ///
    /// # Safety
    /// Tiles are configured; `a0`, `a1`, `b0`, `b1` have `depth` > 0 tiles, `c` 32 rows of 32 floats, `ldc` apart.
    tile_1,
    [
        "tileloadd tmm4, [{a0} + {s}*1]",
        "prefetcht1 [{n0}]", "prefetcht1 [{n1}]",
        "tileloadd tmm6, [{b0} + {s}*1]",
        "tileloadd tmm5, [{a1} + {s}*1]",
        "prefetcht1 [{n0} + 64]", "prefetcht1 [{n1} + 64]",
        "tileloadd tmm7, [{b1} + {s}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "add {a0}, 1024", "add {a1}, 1024", "add {b0}, 1024", "add {b1}, 1024",
        "add {n0}, 128", "add {n1}, 128",
    ]
);

tile_product!(
    /// [`tile_1`] with two terms: at each depth the two tiles of a factor follow each other, the leading term first; [`NEXT_2`] bytes
    /// are brought near.
    ///
    /// # Safety
    /// As [`tile_1`], with `2 depth` tiles in each factor.
    tile_2,
    [
        // The leading term of `a` with both of `b`, the smaller first.
        "tileloadd tmm4, [{a0} + {s}*1]",
        "tileloadd tmm6, [{b0} + {s}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0}]",
        "tileloadd tmm5, [{a1} + {s}*1]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n1}]",
        "tileloadd tmm7, [{b1} + {s}*1 + 1024]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n0} + 64]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 64]",
        "tileloadd tmm6, [{b0} + {s}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0} + 128]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n1} + 128]",
        "tileloadd tmm7, [{b1} + {s}*1]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n0} + 192]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 192]",
        // The second term of `a` with the leading one of `b`.
        "tileloadd tmm4, [{a0} + {s}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0} + 256]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n1} + 256]",
        "tileloadd tmm5, [{a1} + {s}*1 + 1024]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n0} + 320]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 320]",
        "add {a0}, 2048", "add {a1}, 2048", "add {b0}, 2048", "add {b1}, 2048",
        "add {n0}, 384", "add {n1}, 384",
    ]
);

tile_product!(
    /// [`tile_1`] with three terms: at each depth the three tiles of a factor follow each other, the leading term first; [`NEXT_3`]
    /// bytes are brought near.
    ///
    /// # Safety
    /// As [`tile_1`], with `3 depth` tiles in each factor.
    tile_3,
    [
        // The leading term of `a` with the three of `b`, the smallest first.
        "tileloadd tmm4, [{a0} + {s}*1]",
        "tileloadd tmm6, [{b0} + {s}*1 + 2048]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0}]",
        "tileloadd tmm5, [{a1} + {s}*1]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n1}]",
        "tileloadd tmm7, [{b1} + {s}*1 + 2048]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n0} + 64]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 64]",
        "tileloadd tmm6, [{b0} + {s}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0} + 128]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n1} + 128]",
        "tileloadd tmm7, [{b1} + {s}*1 + 1024]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n0} + 192]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 192]",
        // The second term of `a` with the second and the leading one of `b`.
        "tileloadd tmm4, [{a0} + {s}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0} + 256]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n1} + 256]",
        "tileloadd tmm5, [{a1} + {s}*1 + 1024]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n0} + 320]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 320]",
        "tileloadd tmm6, [{b0} + {s}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0} + 384]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n1} + 384]",
        "tileloadd tmm7, [{b1} + {s}*1]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n0} + 448]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 448]",
        // The third and the leading term of `a` with the leading one of `b`.
        "tileloadd tmm4, [{a0} + {s}*1 + 2048]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "prefetcht1 [{n0} + 512]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "prefetcht1 [{n1} + 512]",
        "tileloadd tmm5, [{a1} + {s}*1 + 2048]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "prefetcht1 [{n0} + 576]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "prefetcht1 [{n1} + 576]",
        "tileloadd tmm4, [{a0} + {s}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{a1} + {s}*1]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "add {a0}, 3072", "add {a1}, 3072", "add {b0}, 3072", "add {b1}, 3072",
    ]
);

/// # Safety
/// Tiles are configured; `c` has 32 rows of 32 floats, `ldc` apart.
#[inline(always)]
unsafe fn load_sums(c: *mut f32, ldc: usize, accumulate: bool) {
    // SAFETY: reads 32 rows of `c`, as the caller promises. The sums stay in the tiles 0 to 3 until `store_sums`:
    // nothing else in this crate uses tiles, and the compiler does not.
    unsafe {
        if accumulate {
            asm!(
                "tileloadd tmm0, [{c0} + {ldc}*1]", "tileloadd tmm1, [{c0} + {ldc}*1 + 64]",
                "tileloadd tmm2, [{c1} + {ldc}*1]", "tileloadd tmm3, [{c1} + {ldc}*1 + 64]",
                c0 = in(reg) c, c1 = in(reg) c.add(16 * ldc), ldc = in(reg) 4 * ldc,
                options(nostack, readonly),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem)
            );
        }
    }
}

/// # Safety
/// As [`load_sums`].
#[inline(always)]
unsafe fn store_sums(c: *mut f32, ldc: usize) {
    // SAFETY: writes 32 rows of `c`, as the caller promises.
    unsafe {
        asm!(
            "tilestored [{c0} + {ldc}*1], tmm0", "tilestored [{c0} + {ldc}*1 + 64], tmm1",
            "tilestored [{c1} + {ldc}*1], tmm2", "tilestored [{c1} + {ldc}*1 + 64], tmm3",
            c0 = in(reg) c, c1 = in(reg) c.add(16 * ldc), ldc = in(reg) 4 * ldc,
            options(nostack),
        );
    }
}

/// 32 floats as `TERMS` rows of 32 bfloat16. One term is in the order of the floats; more are in pairs of `low` and `high`,
/// which takes fewer instructions. The depths of both factors are in the same order, whichever it is.
///
/// Terms are rounded, ties away from zero. The third is what remains, which bfloat16 holds exactly. NaN reaches the last.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
pub(crate) fn split_32<const TERMS: usize>(low: __m512, high: __m512) -> [__m512i; TERMS] {
    let mut terms = [_mm512_setzero_si512(); TERMS];
    if TERMS == 1 {
        // SAFETY: `__m512bh` and `__m512i` are 64 bytes without invalid values.
        terms[0] =
            unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
        return terms;
    }
    let (mut low, mut high) = (low, high);
    let (half, kept) = (
        _mm512_set1_epi32(0x8000),
        _mm512_set1_epi32(0xffff_0000_u32 as i32),
    );
    for (i, term) in terms.iter_mut().enumerate() {
        let (mut a, mut b) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
        if i < 2 {
            a = _mm512_and_si512(_mm512_add_epi32(a, half), kept);
            b = _mm512_and_si512(_mm512_add_epi32(b, half), kept);
            low = _mm512_sub_ps(low, _mm512_castsi512_ps(a));
            high = _mm512_sub_ps(high, _mm512_castsi512_ps(b));
        }
        // `kept & b | a >> 16`
        *term = _mm512_ternarylogic_epi32::<0xea>(kept, b, _mm512_srli_epi32::<16>(a));
    }
    terms
}

/// Packs a row of a left factor: `row` at depth 32 i goes to row `r` of tile i.
///
/// # Safety
/// AVX-512 F, BW and BF16. `dst` has `TERMS` tiles for every 32 floats of `row`, rounded up; `r` < 16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn pack_row<const TERMS: usize>(dst: *mut u16, r: usize, row: &[f32]) {
    let store = |kt: usize, terms: [__m512i; TERMS]| {
        for (t, term) in terms.into_iter().enumerate() {
            // SAFETY: row `r` of tile `kt TERMS + t`, which the caller promises to be there.
            unsafe { _mm512_storeu_si512(dst.add((kt * TERMS + t) * TILE + r * 32).cast(), term) };
        }
    };
    let whole = row.len() / 32;
    for kt in 0..whole {
        // SAFETY: 32 floats from 32 kt are within the row.
        unsafe {
            let at = row.as_ptr().add(32 * kt);
            store(
                kt,
                split_32::<TERMS>(_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16))),
            );
        }
    }
    let rest = row.len() % 32;
    if rest > 0 {
        let mask = |count: usize| ((1_u32 << count.min(16)) - 1) as u16;
        // SAFETY: only the lanes of the mask are read, which are within the row.
        unsafe {
            let at = row.as_ptr().add(32 * whole);
            let low = _mm512_maskz_loadu_ps(mask(rest), at);
            let high = _mm512_maskz_loadu_ps(mask(rest.saturating_sub(16)), at.wrapping_add(16));
            store(whole, split_32::<TERMS>(low, high));
        }
    }
}

/// Transposes 16 x 16 elements of 32 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(mut r: [__m512i; 16]) -> [__m512i; 16] {
    use std::arch::x86_64::{
        _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
        _mm512_unpacklo_epi64,
    };
    // Within lanes of 128 bits: pairs of rows, then pairs of pairs.
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // Row 4 i + j holds in lane l the column 4 l + j of rows 4 i .. 4 i + 4: lanes are transposed.
    for j in 0..4 {
        let a = _mm512_shuffle_i32x4::<0x88>(r[j], r[4 + j]);
        let b = _mm512_shuffle_i32x4::<0xdd>(r[j], r[4 + j]);
        let c = _mm512_shuffle_i32x4::<0x88>(r[8 + j], r[12 + j]);
        let d = _mm512_shuffle_i32x4::<0xdd>(r[8 + j], r[12 + j]);
        t[j] = _mm512_shuffle_i32x4::<0x88>(a, c);
        t[4 + j] = _mm512_shuffle_i32x4::<0x88>(b, d);
        t[8 + j] = _mm512_shuffle_i32x4::<0xdd>(a, c);
        t[12 + j] = _mm512_shuffle_i32x4::<0xdd>(b, d);
    }
    t
}

/// Transposes a tile of 16 x 16 pairs: columns of a right factor, packed as rows, to the layout of a right factor.
///
/// # Safety
/// AVX-512 F; both slices are whole tiles.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn transpose_pairs(dst: &mut [u16], src: &[u16]) {
    use std::arch::x86_64::_mm512_loadu_si512;
    assert!(dst.len() == TILE && src.len() == TILE);
    let mut rows = [_mm512_setzero_si512(); 16];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: row i of the tile.
        *row = unsafe { _mm512_loadu_si512(src.as_ptr().add(32 * i).cast()) };
    }
    for (i, row) in transposed(rows).into_iter().enumerate() {
        // SAFETY: row i of the tile.
        unsafe { _mm512_storeu_si512(dst.as_mut_ptr().add(32 * i).cast(), row) };
    }
}

/// Packs 16 columns of `depth` <= 32 rows, `stride` floats apart, as 16 rows of a left factor; missing depths become zero.
///
/// # Safety
/// AVX-512 F, BW and BF16; `src` has `depth` rows of 16 floats, `dst` `TERMS` tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn pack_transposed<const TERMS: usize>(
    dst: *mut u16,
    src: *const f32,
    stride: usize,
    depth: usize,
) {
    let mut halves = [[_mm512_setzero_si512(); 16]; 2];
    for (half, rows) in halves.iter_mut().enumerate() {
        for (i, row) in rows.iter_mut().enumerate() {
            let k = 16 * half + i;
            if k < depth {
                // SAFETY: row k, 16 floats, as the caller promises.
                *row = _mm512_castps_si512(unsafe { _mm512_loadu_ps(src.add(k * stride)) });
            }
        }
        *rows = transposed(*rows);
    }
    let [low, high] = halves;
    for (i, (low, high)) in low.into_iter().zip(high).enumerate() {
        let terms = split_32::<TERMS>(_mm512_castsi512_ps(low), _mm512_castsi512_ps(high));
        for (t, term) in terms.into_iter().enumerate() {
            // SAFETY: row i of tile t.
            unsafe { _mm512_storeu_si512(dst.add(t * TILE + 32 * i).cast(), term) };
        }
    }
}

/// The depths of row `i` of pairs in a tile of a right factor: those of [`split_32`].
pub(crate) const fn pair<const TERMS: usize>(i: usize) -> [usize; 2] {
    if TERMS == 1 {
        [2 * i, 2 * i + 1]
    } else {
        [i, i + 16]
    }
}

/// Packs two rows of a right factor, those of a [`pair`], into one row of pairs in each panel; panels are `panel` elements apart.
///
/// # Safety
/// AVX-512 F, BW and BF16. Each panel of 16 columns, rounded up, has `TERMS` tiles at `dst`; the rows are equally long.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn pack_pair<const TERMS: usize>(
    dst: *mut u16,
    panel: usize,
    first: &[f32],
    second: &[f32],
) {
    use std::arch::x86_64::_mm512_permutexvar_epi16;
    // Element 2 c of the row is the first row's, 2 c + 1 the second's: several terms come so.
    let mut order = [0_u16; 32];
    for (i, place) in order.iter_mut().enumerate() {
        *place = (i / 2 + i % 2 * 16) as u16;
    }
    // SAFETY: 64 bytes without invalid values.
    let order: __m512i = unsafe { std::mem::transmute(order) };
    for (p, start) in (0..first.len()).step_by(16).enumerate() {
        let count = (first.len() - start).min(16);
        let mask = ((1_u32 << count) - 1) as u16;
        // SAFETY: only lanes within the rows are read; the panel's row is written, as the caller promises.
        unsafe {
            let a = _mm512_maskz_loadu_ps(mask, first.as_ptr().add(start));
            let b = _mm512_maskz_loadu_ps(mask, second.as_ptr().add(start));
            for (t, term) in split_32::<TERMS>(a, b).into_iter().enumerate() {
                let pairs = match TERMS {
                    1 => _mm512_permutexvar_epi16(order, term),
                    _ => term,
                };
                _mm512_storeu_si512(dst.add(p * panel + t * TILE).cast(), pairs);
            }
        }
    }
}
