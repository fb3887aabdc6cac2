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
use crate::fma;
use crate::matrix::Norm;
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
    /// Rows of the decoder's image that are packed while the nearest cache has them: a multiple of what factors are padded to.
    const NEAR_ROWS: usize;
    /// Prompts of the decoder that sweep over an image together: as many as a core's cache has room for.
    const PROMPTS: usize;
    /// Bytes that [`Engine::strip`] brings near.
    const NEXT: usize;
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

    /// A step of the softmax of rows of scores, `stride` apart, as keys go by: adds the relative positions, and packs
    /// `e^(score - most)` as a left factor of `columns` depths. The scores may be overwritten.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_softmax(
        dst: &mut [Self::Element],
        scores: &mut [f32],
        stride: usize,
        columns: usize,
        relative: &Relative<'_>,
        state: Softmax<'_>,
    ) {
        let count = state.most.len();
        // SAFETY: the caller promises the level.
        unsafe {
            for (q, scores) in scores.chunks_exact_mut(stride).take(count).enumerate() {
                let scores = &mut scores[..columns];
                let (across, down) = relative.of(q, columns);
                let most = (Self::KERNELS.positions_max)(scores, across, down).max(state.most[q]);
                state.factors[q] = (state.most[q] - most).exp();
                state.most[q] = most;
                let total = (Self::KERNELS.exp_sum)(scores, most);
                state.total[q] = state.total[q] * state.factors[q] + total;
            }
            let scores = &*scores;
            Self::pack_left(dst, count, columns, 0..columns, |r| {
                &scores[r * stride..][..columns]
            });
        }
    }

    /// Packs the GELU of a strip of sums with the bias as the depths `depth` of a left factor, as [`Engine::pack_left`] does. The sums
    /// may be overwritten.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_gelu(
        dst: &mut [Self::Element],
        rows: usize,
        depths: usize,
        depth: std::ops::Range<usize>,
        sums: &mut [f32],
        bias: &[f32],
    ) {
        // SAFETY: the caller promises the level.
        unsafe {
            (Self::KERNELS.gelu_strip)(sums, bias);
            let (sums, count) = (&*sums, depth.len());
            Self::pack_left(dst, rows, depths, depth, |r| &sums[r * STRIP..][..count]);
        }
    }

    /// Packs the GELU of the norm of sums with the bias, rows `stride` apart, as a left factor. The sums may be overwritten.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack_norm_gelu(
        dst: &mut [Self::Element],
        sums: &mut [f32],
        stride: usize,
        bias: &[f32],
        norm: &Norm,
    ) {
        let (rows, count) = (sums.len() / stride, norm.gamma.len());
        // SAFETY: the caller promises the level.
        unsafe {
            for row in sums.chunks_exact_mut(stride) {
                (Self::KERNELS.add)(&mut row[..count], &bias[..count]);
            }
            norm.apply::<Self>(sums, stride);
            (Self::KERNELS.gelu_plain)(sums);
            let sums = &*sums;
            Self::pack_left(dst, rows, count, 0..count, |r| &sums[r * stride..][..count]);
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

    /// `c` (+)= left x right over `depth` (in units of [`Engine::DEPTH`]), for `rows` rows and a strip of two panels. Meanwhile what
    /// lies at each of `next` may be brought near: [`Engine::NEXT`] bytes for every 32 rows and depth.
    ///
    /// # Safety
    /// The CPU has the engine's level, and a [`Engine::session`] is alive on this thread; factors are packed by this engine
    /// and hold the rows and depths; `c` has [`padded_rows`] times `ldc` floats.
    #[allow(clippy::too_many_arguments)]
    unsafe fn strip(
        c: *mut f32,
        ldc: usize,
        rows: usize,
        left: Packed<Self::Element>,
        right: Packed<Self::Element>,
        depth: std::ops::Range<usize>,
        next: [*const Self::Element; 2],
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

/// The relative positions of some queries to keys of a grid: the sum of one for the key's column and one for its row.
pub(crate) struct Relative<'a> {
    /// `[queries, width]`, whole vectors
    pub(crate) across: &'a [f32],
    pub(crate) width: usize,
    /// `[queries, height]`
    pub(crate) down: &'a [f32],
    pub(crate) height: usize,
    /// The row of the first key.
    pub(crate) first: usize,
}

impl<'a> Relative<'a> {
    /// Those of a query to all columns, and to the rows of `keys` keys.
    fn of(&self, query: usize, keys: usize) -> (&'a [f32], &'a [f32]) {
        let rows = &self.down[query * self.height + self.first..];
        (
            &self.across[query * self.width..][..self.width],
            &rows[..keys / self.width],
        )
    }
}

/// What the softmax of some queries knows of the keys so far.
pub(crate) struct Softmax<'a> {
    /// Their largest scores.
    pub(crate) most: &'a mut [f32],
    /// The sums of `e^(score - most)`.
    pub(crate) total: &'a mut [f32],
    /// Set to what sums of a step before are to be multiplied with.
    pub(crate) factors: &'a mut [f32],
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

impl<T> Packed<T> {
    /// The panels of the strip after this one of a right factor, from a depth on: they come from a far cache.
    pub(crate) fn next_strip<E: Engine<Element = T>>(&self, depth: usize) -> [*const T; 2] {
        let unit = E::DEPTH * E::TERMS;
        let panel = self.depths * PANEL * unit;
        [2, 3].map(|panels| {
            self.data
                .wrapping_add(panels * panel + depth * PANEL * unit)
        })
    }
}

/// Memory that is needed soon, brought near while products keep the core from reading it.
pub(crate) struct Ahead {
    at: *const u8,
    bytes: usize,
}

impl Ahead {
    /// These floats, which need not be there yet.
    pub(crate) fn of(at: *const f32, length: usize) -> Self {
        let bytes = length * size_of::<f32>();
        Self {
            at: at.cast(),
            bytes,
        }
    }

    pub(crate) fn nothing() -> Self {
        Self::of(std::ptr::null(), 0)
    }

    /// What a strip of a product is to bring near.
    fn next<E: Engine>(&mut self, rows: usize, depths: usize) -> Option<[*const E::Element; 2]> {
        let part = rows.div_ceil(32) * depths * E::NEXT;
        if self.bytes == 0 {
            return None;
        }
        let next = [0, part].map(|bytes| self.at.wrapping_add(bytes).cast());
        self.at = self.at.wrapping_add(2 * part);
        self.bytes = self.bytes.saturating_sub(2 * part);
        Some(next)
    }
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
    let ahead = &mut Ahead::nothing();
    // SAFETY: as the caller promises.
    unsafe {
        product_ahead::<E>(
            c, ldc, rows, columns, left, right, depths, depth, accumulate, ahead,
        );
    }
}

/// [`product`], and meanwhile what is needed after it is brought near.
///
/// # Safety
/// As [`product`].
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product_ahead<E: Engine>(
    c: &mut [f32],
    ldc: usize,
    rows: usize,
    columns: usize,
    left: &[E::Element],
    right: &[E::Element],
    depths: usize,
    depth: std::ops::Range<usize>,
    accumulate: bool,
    ahead: &mut Ahead,
) {
    for first in (0..columns).step_by(STRIP) {
        debug_assert!(ldc >= first + STRIP);
        // SAFETY: the strip's panels follow `first / 16` panels of `depths`; the rest as the caller promises.
        unsafe {
            let right = Packed {
                data: right.as_ptr().add(first * depths * E::DEPTH * E::TERMS),
                depths,
            };
            let next = ahead.next::<E>(rows, depth.len());
            let next = next.unwrap_or_else(|| right.next_strip::<E>(depth.start));
            E::strip(
                c.as_mut_ptr().add(first),
                ldc,
                rows,
                Packed {
                    data: left.as_ptr(),
                    depths,
                },
                right,
                depth.clone(),
                next,
                accumulate,
            );
        }
    }
}

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
    const NEAR_ROWS: usize = usize::MAX;
    const NEXT: usize = 0;
    const PROMPTS: usize = 4;
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
        _next: [*const f32; 2],
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
                type $engine = $crate::tiles::Amx<3>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Precision::High) => {
                type $engine = $crate::tiles::Amx<2>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Precision::Bf16) => {
                type $engine = $crate::tiles::Amx<1>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Precision::F32 | Precision::High) => {
                type $engine = Fma<fma::Avx512, false>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Precision::Bf16) => {
                type $engine = Fma<fma::Avx512, true>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::F32 | Precision::High) => {
                type $engine = Fma<fma::Avx2, false>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::Bf16) => {
                type $engine = Fma<fma::Avx2, true>;
                $body
            }
            (_, Precision::F32 | Precision::High) => {
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
