//! Products of packed matrices, one engine per level and precision.
//!
//! Factors are packed so that an engine reads them in the order of its instructions:
//!
//! ```text
//! left   [rows / ROWS]    [depth / DEPTH] [ROWS x DEPTH]        activations, packed as they are made
//! right  [columns / 16]   [depth / DEPTH] [DEPTH x 16]          weights, packed once; keys and values
//! ```
//!
//! Rows, columns and depth are padded with zeros. Sums are f32, `[rows, columns]` with a stride.

use crate::aligned::Number;
#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::fma;
#[cfg(target_arch = "x86_64")]
use crate::rows;
use crate::rows::RowKernels;

/// Columns of a panel of a right factor.
pub(crate) const PANEL: usize = 16;
/// Columns that a product computes at once: two panels.
pub(crate) const STRIP: usize = 2 * PANEL;

/// How packed matrices are laid out and multiplied.
pub(crate) trait Engine: Copy + Send + Sync + 'static {
    /// What factors are packed into.
    type Element: Number;
    /// Rows of a block of a left factor: results come in as many rows.
    const ROWS: usize;
    /// Elements per place of a factor, for terms.
    const TERMS: usize;
    /// Factors are padded to multiples of this depth.
    const DEPTH: usize;
    /// Rows that a thread works on at once, a multiple of [`Engine::ROWS`] and of 32.
    const BLOCK: usize;
    /// Queries of global attention that a thread works on at once, likewise, and keys, a multiple of 32.
    const QUERIES: usize;
    /// Keys of global attention that a thread works on at once.
    const KEYS: usize;
    /// Depths that a right panel pair keeps in the nearest cache, in units of [`Engine::DEPTH`].
    const DEPTH_BLOCK: usize;
    /// Work on rows of floats, at the same level.
    const KERNELS: &'static RowKernels;

    /// What must be alive on a thread while it multiplies: tiles that are configured.
    type Session;

    /// Makes this thread ready to multiply.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn session() -> Self::Session;

    /// Packs rows of a left factor, at depths `depth` of `depths` (in elements, a multiple of [`Engine::DEPTH`] but for the
    /// last). Rows that are missing to a whole block become zero.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_left<'a>(
        dst: &mut [Self::Element],
        rows: usize,
        depths: usize,
        depth: std::ops::Range<usize>,
        row: impl FnMut(usize) -> &'a [f32],
    );

    /// Packs `e^(score - most)` of rows of scores, `stride` apart, as a left factor of `columns` depths; `totals` gets the sum of
    /// each row. The scores may be overwritten.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_weights(
        dst: &mut [Self::Element],
        scores: &mut [f32],
        stride: usize,
        columns: usize,
        most: &[f32],
        totals: &mut [f32],
    ) {
        // SAFETY: the caller promises the level.
        unsafe {
            let rows = scores.chunks_exact_mut(stride).zip(most).zip(totals);
            for ((scores, &most), total) in rows {
                *total = (Self::KERNELS.exp_sum)(&mut scores[..columns], most);
            }
            let scores = &*scores;
            Self::pack_left(dst, most.len(), columns, 0..columns, |r| {
                &scores[r * stride..][..columns]
            });
        }
    }

    /// Packs a right factor given by its columns: `column(j)` has `depth` floats.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_columns<'a>(
        dst: &mut [Self::Element],
        depth: usize,
        columns: usize,
        column: impl FnMut(usize) -> &'a [f32],
    );

    /// Packs a right factor given by its rows: `row(i)` has `columns` floats; rows `depth` of `depths`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_rows<'a>(
        dst: &mut [Self::Element],
        depths: usize,
        depth: std::ops::Range<usize>,
        columns: usize,
        row: impl FnMut(usize) -> &'a [f32],
    );

    /// Packs a left factor given transposed: `src` has `depth` rows, `stride` apart, of which the first `rows` columns become
    /// the factor's rows. Depths that are missing to a whole unit become zero.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_transposed(
        dst: &mut [Self::Element],
        src: &[f32],
        stride: usize,
        depth: usize,
        rows: usize,
    );

    /// `c` (+)= left x right over `depth` (in units of [`Engine::DEPTH`]), for `rows` rows and a strip of two panels.
    ///
    /// # Safety
    /// The CPU has the engine's level, and a [`Engine::session`] is alive on this thread; factors are packed by this engine
    /// and hold the rows and depths; `c` has [`padded_rows`] times `ldc` floats.
    unsafe fn strip(
        c: *mut f32,
        ldc: usize,
        rows: usize,
        left: Packed<Self::Element>,
        right: Packed<Self::Element>,
        depth: std::ops::Range<usize>,
        accumulate: bool,
    );

    /// Elements of a packed left factor.
    fn left_len(rows: usize, depth: usize) -> usize {
        padded_rows(rows) * depth.next_multiple_of(Self::DEPTH) * Self::TERMS
    }

    /// Elements of a packed right factor.
    fn right_len(depth: usize, columns: usize) -> usize {
        columns.next_multiple_of(STRIP) * depth.next_multiple_of(Self::DEPTH) * Self::TERMS
    }
}

/// Rows of sums and of packed left factors: engines compute 32 or 12 at once.
pub(crate) const fn padded_rows(rows: usize) -> usize {
    rows.next_multiple_of(96)
}

/// Where a packed factor lies.
#[derive(Clone, Copy)]
pub(crate) struct Packed<T> {
    /// Its first element: of a left factor the first row's, of a right one the strip's.
    pub(crate) data: *const T,
    /// Depths of the whole factor, in units of [`Engine::DEPTH`].
    pub(crate) depths: usize,
}

/// The whole product: `c` `[rows, columns]` (+)= left x right over depths in units of [`Engine::DEPTH`].
///
/// # Safety
/// As [`Engine::strip`], with `columns` rounded up to strips in `right` and in `ldc`.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product<E: Engine>(
    c: &mut [f32],
    ldc: usize,
    rows: usize,
    columns: usize,
    left: &[E::Element],
    right: &[E::Element],
    depths: usize,
    depth: std::ops::Range<usize>,
    accumulate: bool,
) {
    for first in (0..columns).step_by(STRIP) {
        debug_assert!(ldc >= first + STRIP);
        // SAFETY: the strip's panels follow `first / 16` panels of `depths`; the rest as the caller promises.
        unsafe {
            let right = right.as_ptr().add(first * depths * E::DEPTH * E::TERMS);
            E::strip(
                c.as_mut_ptr().add(first),
                ldc,
                rows,
                Packed {
                    data: left.as_ptr(),
                    depths,
                },
                Packed {
                    data: right,
                    depths,
                },
                depth.clone(),
                accumulate,
            );
        }
    }
}

/// bfloat16 tiles; `TERMS` 1: factors rounded to bfloat16, 3: as good as f32.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Amx<const TERMS: usize>;

#[cfg(target_arch = "x86_64")]
impl<const TERMS: usize> Engine for Amx<TERMS> {
    type Element = u16;
    type Session = amx::Tiles;
    const ROWS: usize = 16;
    const TERMS: usize = TERMS;
    const DEPTH: usize = 32;
    const BLOCK: usize = if TERMS == 1 { 256 } else { 160 };
    const QUERIES: usize = if TERMS == 1 { 256 } else { 192 };
    const KEYS: usize = 256;
    const DEPTH_BLOCK: usize = 32;
    const KERNELS: &'static RowKernels = &rows::AVX512;

    unsafe fn session() -> amx::Tiles {
        // SAFETY: the caller promises the level.
        unsafe { amx::Tiles::configure() }
    }

    unsafe fn pack_left<'a>(
        dst: &mut [u16],
        rows: usize,
        depths: usize,
        depth: std::ops::Range<usize>,
        mut row: impl FnMut(usize) -> &'a [f32],
    ) {
        let tiles = depths.div_ceil(32);
        assert!(dst.len() >= rows.next_multiple_of(32) * tiles * 32 * TERMS);
        assert!(depth.start.is_multiple_of(32) && depth.end <= depths);
        for r in 0..rows.next_multiple_of(32) {
            let values = if r < rows {
                row(r)
            } else {
                &ZEROS[..depth.len()]
            };
            assert_eq!(values.len(), depth.len());
            let start = ((r / 16) * tiles + depth.start / 32) * TERMS * amx::TILE;
            // SAFETY: within `dst` by the first assertion; the caller promises the level.
            unsafe { amx::pack_row::<TERMS>(dst.as_mut_ptr().add(start), r % 16, values) };
        }
    }

    unsafe fn pack_weights(
        dst: &mut [u16],
        scores: &mut [f32],
        stride: usize,
        columns: usize,
        most: &[f32],
        totals: &mut [f32],
    ) {
        let tiles = columns.div_ceil(32);
        let rows = most.len();
        assert!(dst.len() >= rows.next_multiple_of(32) * tiles * 32 * TERMS);
        assert!(columns.is_multiple_of(32) && scores.len() >= rows * stride && stride >= columns);
        for r in 0..rows.next_multiple_of(32) {
            let start = (r / 16 * tiles) * TERMS * amx::TILE;
            // SAFETY: within `dst` by the assertion; the caller promises the level.
            unsafe {
                let dst = dst.as_mut_ptr().add(start);
                if r < rows {
                    let scores = &scores[r * stride..][..columns];
                    totals[r] = amx::pack_exp_row::<TERMS>(dst, r % 16, scores, most[r]);
                } else {
                    amx::pack_row::<TERMS>(dst, r % 16, &ZEROS[..columns]);
                }
            }
        }
    }

    unsafe fn pack_columns<'a>(
        dst: &mut [u16],
        depth: usize,
        columns: usize,
        mut column: impl FnMut(usize) -> &'a [f32],
    ) {
        let tiles = depth.div_ceil(32);
        let panel = tiles * TERMS * amx::TILE;
        assert!(dst.len() >= columns.next_multiple_of(STRIP) / 16 * panel);
        // 16 columns as rows of a left factor, whose pairs are then transposed.
        let mut block = [0_u16; amx::TILE * 3];
        for first in (0..columns.next_multiple_of(STRIP)).step_by(16) {
            for kt in 0..tiles {
                block.fill(0);
                for c in 0..16.min(columns.saturating_sub(first)) {
                    let values = column(first + c);
                    let values = &values[kt * 32..depth.min(kt * 32 + 32)];
                    // SAFETY: row c of TERMS tiles of `block`; the caller promises the level.
                    unsafe { amx::pack_row::<TERMS>(block.as_mut_ptr(), c, values) };
                }
                for t in 0..TERMS {
                    let tile = first / 16 * panel + (kt * TERMS + t) * amx::TILE;
                    let block = &block[t * amx::TILE..][..amx::TILE];
                    // SAFETY: both are whole tiles; the caller promises the level.
                    unsafe { amx::transpose_pairs(&mut dst[tile..][..amx::TILE], block) };
                }
            }
        }
    }

    unsafe fn pack_rows<'a>(
        dst: &mut [u16],
        depths: usize,
        depth: std::ops::Range<usize>,
        columns: usize,
        mut row: impl FnMut(usize) -> &'a [f32],
    ) {
        let tiles = depths.div_ceil(32);
        let panel = tiles * TERMS * amx::TILE;
        assert!(dst.len() >= columns.div_ceil(16) * panel);
        assert!(depth.start.is_multiple_of(2));
        let zeros = &ZEROS[..columns];
        let end = if depth.end == depths {
            depths.next_multiple_of(32)
        } else {
            depth.end
        };
        for k in (depth.start..end).step_by(2) {
            let first = if k < depth.end { row(k) } else { zeros };
            let second = if k + 1 < depth.end { row(k + 1) } else { zeros };
            assert!(first.len() == columns && second.len() == columns);
            let at = (k / 32) * TERMS * amx::TILE + k % 32 / 2 * 32;
            // SAFETY: a row of `TERMS` tiles in each panel, all within `dst`; the caller promises the level.
            unsafe { amx::pack_pair::<TERMS>(dst.as_mut_ptr().add(at), panel, first, second) };
        }
    }

    unsafe fn pack_transposed(
        dst: &mut [u16],
        src: &[f32],
        stride: usize,
        depth: usize,
        rows: usize,
    ) {
        let tiles = depth.div_ceil(32);
        let padded = rows.next_multiple_of(32);
        assert!(dst.len() >= padded * tiles * 32 * TERMS);
        assert!(stride >= padded && src.len() >= depth * stride);
        for row in (0..padded).step_by(16) {
            for kt in 0..tiles {
                let count = (depth - 32 * kt).min(32);
                let tile = (row / 16 * tiles + kt) * TERMS * amx::TILE;
                // SAFETY: `TERMS` tiles from `tile` on, `count` rows of 16 floats; the caller promises the level.
                unsafe {
                    let src = src.as_ptr().add(32 * kt * stride + row);
                    amx::pack_transposed::<TERMS>(dst.as_mut_ptr().add(tile), src, stride, count);
                }
            }
        }
    }

    unsafe fn strip(
        c: *mut f32,
        ldc: usize,
        rows: usize,
        left: Packed<u16>,
        right: Packed<u16>,
        depth: std::ops::Range<usize>,
        accumulate: bool,
    ) {
        let unit = TERMS * amx::TILE;
        let mut accumulate = accumulate;
        let mut start = depth.start;
        // SAFETY: the caller promises the level, and that factors and sums hold what is read and written.
        unsafe {
            while start < depth.end {
                let count = (depth.end - start).min(Self::DEPTH_BLOCK);
                let b0 = right.data.add(start * unit);
                let b1 = right.data.add((right.depths + start) * unit);
                // The panels of the strip after this one come from a far cache: some of them with each tile of sums.
                let mut next = [b0, b1].map(|b| b.wrapping_add(2 * right.depths * unit));
                for row in (0..rows).step_by(32) {
                    let a0 = left.data.add((row / 16 * left.depths + start) * unit);
                    let a1 = left.data.add(((row / 16 + 1) * left.depths + start) * unit);
                    let c = c.add(row * ldc);
                    match TERMS {
                        1 => amx::tile_1(c, ldc, [a0, a1], [b0, b1], next, count, accumulate),
                        _ => amx::tile_3(c, ldc, [a0, a1], [b0, b1], next, count, accumulate),
                    }
                    let bytes = if TERMS == 1 { amx::NEXT_1 } else { amx::NEXT_3 };
                    next = next.map(|next| next.wrapping_byte_add(count * bytes));
                }
                start += count;
                accumulate = true;
            }
        }
    }
}

/// Zeros to pad with.
#[cfg(target_arch = "x86_64")]
static ZEROS: [f32; 8192] = [0.0; 8192];

/// Fused multiply-adds of f32 in vectors of the level. With `BF16` factors are rounded to bfloat16 as they are packed:
/// not faster, but the results are those of machines with tiles, to the rounding of sums.
#[derive(Clone, Copy)]
pub(crate) struct Fma<L: fma::Lanes, const BF16: bool>(std::marker::PhantomData<L>);

/// The nearest bfloat16, ties to even.
fn rounded<const BF16: bool>(x: f32) -> f32 {
    if !BF16 || x.is_nan() {
        return x;
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

impl<L: fma::Lanes, const BF16: bool> Engine for Fma<L, BF16> {
    type Element = f32;
    type Session = ();
    const ROWS: usize = fma::ROWS;
    const TERMS: usize = 1;
    const DEPTH: usize = 1;
    const BLOCK: usize = 192;
    const QUERIES: usize = 96;
    const KEYS: usize = 256;
    const DEPTH_BLOCK: usize = 256;
    const KERNELS: &'static RowKernels = L::KERNELS;

    unsafe fn session() {}

    unsafe fn pack_left<'a>(
        dst: &mut [f32],
        rows: usize,
        depths: usize,
        depth: std::ops::Range<usize>,
        mut row: impl FnMut(usize) -> &'a [f32],
    ) {
        assert!(dst.len() >= rows.next_multiple_of(Self::ROWS) * depths && depth.end <= depths);
        for r in 0..rows.next_multiple_of(Self::ROWS) {
            let block = &mut dst[(r / Self::ROWS * depths + depth.start) * Self::ROWS..];
            let target = block.iter_mut().skip(r % Self::ROWS).step_by(Self::ROWS);
            if r < rows {
                target
                    .zip(row(r))
                    .take(depth.len())
                    .for_each(|(to, from)| *to = rounded::<BF16>(*from));
            } else {
                target.take(depth.len()).for_each(|to| *to = 0.0);
            }
        }
    }

    unsafe fn pack_columns<'a>(
        dst: &mut [f32],
        depth: usize,
        columns: usize,
        mut column: impl FnMut(usize) -> &'a [f32],
    ) {
        assert!(dst.len() >= columns.div_ceil(PANEL) * PANEL * depth);
        for (panel, dst) in dst.chunks_exact_mut(PANEL * depth).enumerate() {
            for c in 0..PANEL {
                let target = dst.iter_mut().skip(c).step_by(PANEL);
                match panel * PANEL + c {
                    j if j < columns => target
                        .zip(column(j))
                        .for_each(|(to, from)| *to = rounded::<BF16>(*from)),
                    _ => target.for_each(|to| *to = 0.0),
                }
            }
        }
    }

    unsafe fn pack_rows<'a>(
        dst: &mut [f32],
        depths: usize,
        depth: std::ops::Range<usize>,
        columns: usize,
        mut row: impl FnMut(usize) -> &'a [f32],
    ) {
        assert!(dst.len() >= columns.div_ceil(PANEL) * PANEL * depths);
        for k in depth {
            let values = row(k);
            assert_eq!(values.len(), columns);
            for (panel, dst) in dst.chunks_exact_mut(PANEL * depths).enumerate() {
                let dst = &mut dst[k * PANEL..][..PANEL];
                let from = values.get(panel * PANEL..).unwrap_or(&[]);
                let count = from.len().min(PANEL);
                for (to, from) in dst.iter_mut().zip(from) {
                    *to = rounded::<BF16>(*from);
                }
                dst[count..].fill(0.0);
            }
        }
    }

    unsafe fn pack_transposed(
        dst: &mut [f32],
        src: &[f32],
        stride: usize,
        depth: usize,
        rows: usize,
    ) {
        assert!(dst.len() >= rows.next_multiple_of(Self::ROWS) * depth);
        for (block, dst) in dst
            .chunks_exact_mut(Self::ROWS * depth)
            .enumerate()
            .take(rows.div_ceil(Self::ROWS))
        {
            let first = block * Self::ROWS;
            let count = Self::ROWS.min(rows - first);
            for (dst, src) in dst
                .chunks_exact_mut(Self::ROWS)
                .zip(src.chunks_exact(stride))
            {
                for (to, from) in dst.iter_mut().zip(&src[first..first + count]) {
                    *to = rounded::<BF16>(*from);
                }
                dst[count..].fill(0.0);
            }
        }
    }

    unsafe fn strip(
        c: *mut f32,
        ldc: usize,
        rows: usize,
        left: Packed<f32>,
        right: Packed<f32>,
        depth: std::ops::Range<usize>,
        accumulate: bool,
    ) {
        let mut accumulate = accumulate;
        let mut start = depth.start;
        while start < depth.end {
            let count = (depth.end - start).min(Self::DEPTH_BLOCK);
            for row in (0..rows).step_by(Self::ROWS) {
                // SAFETY: the caller promises the level, and that factors and sums hold what is read and written.
                unsafe {
                    let a = left.data.add((row * left.depths) + start * Self::ROWS);
                    let b0 = right.data.add(start * PANEL);
                    let b1 = right.data.add((right.depths + start) * PANEL);
                    L::tile(c.add(row * ldc), ldc, a, [b0, b1], count, accumulate);
                }
            }
            start += count;
            accumulate = true;
        }
    }
}

/// Runs an expression with `E` the engine of a level and a precision.
///
/// # Panics
/// If this CPU lacks the level: what follows may use its instructions.
macro_rules! with_engine {
    ($level:expr, $precision:expr, $engine:ident => $body:expr) => {{
        use $crate::engine::Fma;
        use $crate::{Level, Precision, fma};
        let level: Level = $level;
        assert!(level <= Level::best(), "this CPU has no {level}");
        match (level, $precision) {
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Precision::F32) => {
                type $engine = $crate::engine::Amx<3>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Precision::Bf16) => {
                type $engine = $crate::engine::Amx<1>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Precision::F32) => {
                type $engine = Fma<fma::Avx512, false>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Precision::Bf16) => {
                type $engine = Fma<fma::Avx512, true>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::F32) => {
                type $engine = Fma<fma::Avx2, false>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::Bf16) => {
                type $engine = Fma<fma::Avx2, true>;
                $body
            }
            (_, Precision::F32) => {
                type $engine = Fma<fma::Plain, false>;
                $body
            }
            (_, Precision::Bf16) => {
                type $engine = Fma<fma::Plain, true>;
                $body
            }
        }
    }};
}
pub(crate) use with_engine;
