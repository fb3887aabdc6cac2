//! The engine of AMX: factors of bfloat16 tiles, of one to three terms.

use crate::amx;
use crate::engine::{Engine, Packed, Relative, STRIP, Softmax};
use crate::matrix::Norm;
use crate::packing;
use crate::rows::{self, RowKernels};

/// Zeros to pad with.
static ZEROS: [f32; 8192] = [0.0; 8192];

/// bfloat16 tiles; `TERMS` 1: factors rounded to bfloat16, 2: to 16 bits, 3: as good as f32.
#[derive(Clone, Copy)]
pub(crate) struct Amx<const TERMS: usize>;

impl<const TERMS: usize> Engine for Amx<TERMS> {
    type Element = u16;
    type Session = amx::Tiles;
    const ROWS: usize = 16;
    const TERMS: usize = TERMS;
    const DEPTH: usize = 32;
    const BLOCK: usize = [256, 192, 160][TERMS - 1];
    const QUERIES: usize = [256, 224, 192][TERMS - 1];
    const KEYS: usize = 256;
    const DEPTH_BLOCK: usize = 32;
    const NEAR_ROWS: usize = 32;
    const NEXT: usize = [amx::NEXT_1, amx::NEXT_2, amx::NEXT_3][TERMS - 1];
    const PROMPTS: usize = [9, 6, 4][TERMS - 1];
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

    unsafe fn pack_softmax(
        dst: &mut [u16],
        scores: &mut [f32],
        stride: usize,
        columns: usize,
        relative: &Relative<'_>,
        state: Softmax<'_>,
    ) {
        let block = columns.div_ceil(32) * TERMS * amx::TILE;
        let rows = state.most.len();
        assert!(dst.len() >= rows.next_multiple_of(32) / 16 * block);
        assert!(columns.is_multiple_of(32));
        for first in (0..rows).step_by(32) {
            let part = first..rows.min(first + 32);
            let relative = Relative {
                across: &relative.across[first * relative.width..],
                down: &relative.down[first * relative.height..],
                ..*relative
            };
            let mut state = Softmax {
                most: &mut state.most[part.clone()],
                total: &mut state.total[part.clone()],
                factors: &mut state.factors[part.clone()],
            };
            // SAFETY: within `dst` by the assertion; the caller promises the level.
            unsafe {
                let dst = dst.as_mut_ptr().add(first / 16 * block);
                let scores = &scores[first * stride..];
                packing::pack_softmax::<TERMS>(
                    dst, block, scores, stride, &relative, columns, &mut state,
                );
                for r in part.len()..32 {
                    let dst = dst.add(r / 16 * block);
                    amx::pack_row::<TERMS>(dst, r % 16, &ZEROS[..columns]);
                }
            }
        }
    }

    unsafe fn pack_gelu(
        dst: &mut [u16],
        rows: usize,
        depths: usize,
        depth: std::ops::Range<usize>,
        sums: &mut [f32],
        bias: &[f32],
    ) {
        let tiles = depths.div_ceil(32);
        assert!(dst.len() >= rows.next_multiple_of(32) * tiles * 32 * TERMS);
        assert!(depth.start.is_multiple_of(32) && depth.end <= depths && depth.len() <= STRIP);
        let bias: &[f32; STRIP] = bias[..STRIP].try_into().expect("a strip");
        // SAFETY: within `dst` by the first assertion; the caller promises the level. Sums of padding are zero, and so is
        // their GELU.
        unsafe {
            let dst = dst.as_mut_ptr().add(depth.start / 32 * TERMS * amx::TILE);
            let block = tiles * TERMS * amx::TILE;
            packing::pack_gelu::<TERMS>(dst, block, &sums[..rows * STRIP], bias);
            for r in rows..rows.next_multiple_of(32) {
                let zeros = &ZEROS[..depth.len()];
                amx::pack_row::<TERMS>(dst.add(r / 16 * block), r % 16, zeros);
            }
        }
    }

    unsafe fn pack_norm_gelu(
        dst: &mut [u16],
        sums: &mut [f32],
        stride: usize,
        bias: &[f32],
        norm: &Norm,
    ) {
        let (rows, count) = (sums.len() / stride, norm.gamma.len());
        let whole = count.next_multiple_of(32);
        assert!(dst.len() >= rows.next_multiple_of(32) * whole * TERMS && stride >= whole);
        let block = whole / 32 * TERMS * amx::TILE;
        // SAFETY: within `dst` by the assertion; the caller promises the level.
        unsafe {
            if count == whole {
                let with = [bias, &norm.gamma, &norm.beta];
                packing::pack_norm_gelu::<TERMS>(
                    dst.as_mut_ptr(),
                    sums,
                    stride,
                    with,
                    norm.epsilon,
                );
            }
            for r in 0..rows.next_multiple_of(32) {
                let dst = dst.as_mut_ptr().add(r / 16 * block);
                if r >= rows {
                    amx::pack_row::<TERMS>(dst, r % 16, &ZEROS[..count]);
                } else if count < whole {
                    let row = &mut sums[r * stride..][..count];
                    (Self::KERNELS.add)(row, &bias[..count]);
                    norm.apply::<Self>(row, count);
                    (Self::KERNELS.gelu_plain)(row);
                    amx::pack_row::<TERMS>(dst, r % 16, row);
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
        assert!(depth.start.is_multiple_of(32));
        assert!(depth.end.is_multiple_of(32) || depth.end == depths);
        let zeros = &ZEROS[..columns];
        for tile in (depth.start..depth.end).step_by(32) {
            for i in 0..16 {
                let [first, second] = amx::pair::<TERMS>(i).map(|k| tile + k);
                let first = if first < depth.end { row(first) } else { zeros };
                let second = if second < depth.end {
                    row(second)
                } else {
                    zeros
                };
                assert!(first.len() == columns && second.len() == columns);
                let at = tile / 32 * TERMS * amx::TILE + i * 32;
                // SAFETY: a row of `TERMS` tiles in each panel, all within `dst`; the caller promises the level.
                unsafe { amx::pack_pair::<TERMS>(dst.as_mut_ptr().add(at), panel, first, second) };
            }
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
        next: [*const u16; 2],
        accumulate: bool,
    ) {
        let unit = TERMS * amx::TILE;
        let mut accumulate = accumulate;
        let mut start = depth.start;
        let mut next = next;
        // SAFETY: the caller promises the level, and that factors and sums hold what is read and written.
        unsafe {
            while start < depth.end {
                let count = (depth.end - start).min(Self::DEPTH_BLOCK);
                let b0 = right.data.add(start * unit);
                let b1 = right.data.add((right.depths + start) * unit);
                for row in (0..rows).step_by(32) {
                    let a0 = left.data.add((row / 16 * left.depths + start) * unit);
                    let a1 = left.data.add(((row / 16 + 1) * left.depths + start) * unit);
                    let c = c.add(row * ldc);
                    match TERMS {
                        1 => amx::tile_1(c, ldc, [a0, a1], [b0, b1], next, count, accumulate),
                        2 => amx::tile_2(c, ldc, [a0, a1], [b0, b1], next, count, accumulate),
                        _ => amx::tile_3(c, ldc, [a0, a1], [b0, b1], next, count, accumulate),
                    }
                    next = next.map(|next| next.wrapping_byte_add(count * Self::NEXT));
                }
                start += count;
                accumulate = true;
            }
        }
    }
}
