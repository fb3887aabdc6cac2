//! Self attention over a grid of tokens with decomposed relative positions, fused: scores of a few queries and keys at a
//! time, softmax on the fly, never a matrix of all queries and keys.
//!
//! `softmax(q k^T / sqrt(d) + q R_h[qh - kh] + q R_w[qw - kw]) v` (segment-anything's `add_decomposed_rel_pos`; ViTDet,
//! MViTv2). A query's products with both tables are one small matrix product; from its row, the positions relative to
//! all keys of the grid's rows, or columns, are a slice. The softmax keeps its largest score and its sum from block to
//! block of keys (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; FlashAttention).

use rayon::prelude::*;

use crate::aligned::{Scratch, Shared};
use crate::engine::{Engine, PANEL, Packed, Relative, STRIP, Softmax, padded_rows, product};
use crate::matrix::Linear;
use crate::profile::{self, Part};

/// Columns of the grid are padded to whole vectors.
const LANES: usize = 16;
/// Up to this many queries are worked on at once where all keys are too: windows.
const WINDOW_QUERIES: usize = 256;

/// The relative positions of a grid.
pub(crate) struct Positions<E: Engine> {
    /// Both tables, `[rows of h, then of w; from the furthest key before the query to the furthest after]`.
    table: Linear<E>,
    height: usize,
    width: usize,
}

impl<E: Engine> Positions<E> {
    /// `down` `[2 height - 1, d]` and `across` `[2 width - 1, d]`: row `q - k + size - 1` for query q and key k.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn new(down: &[f32], across: &[f32], height: usize, width: usize) -> Self {
        let rows = 2 * (height + width) - 2;
        let d = (down.len() + across.len()) / rows;
        assert!(down.len() == (2 * height - 1) * d && across.len() == (2 * width - 1) * d);
        let reversed = |table: &[f32]| -> Vec<f32> {
            table.chunks_exact(d).rev().flatten().copied().collect()
        };
        let table = [reversed(down), reversed(across)].concat();
        Self {
            // SAFETY: the caller promises the level.
            table: unsafe { Linear::new(&table, None, rows) },
            height,
            width,
        }
    }

    fn stride(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    /// Rows of keys, with those that fill the last strip.
    fn key_rows(&self) -> usize {
        let mut rows = self.height;
        while !(rows * self.stride()).is_multiple_of(STRIP) {
            rows += 1;
        }
        rows
    }
}

/// Queries, keys and values of all tokens, as a linear layer gives them.
#[derive(Clone, Copy)]
pub(crate) struct Qkv<'a> {
    /// `[tokens, 3, heads, d]`; queries are scaled by `1 / sqrt(d)`, and the tables of positions by its inverse.
    pub(crate) values: &'a [f32],
    /// The same for a token of padding: `[3, heads, d]`.
    pub(crate) padding: &'a [f32],
    pub(crate) heads: usize,
    pub(crate) d: usize,
}

impl<'a> Qkv<'a> {
    /// Query (0), key (1) or value (2) of a token in a head.
    fn of(&self, part: usize, head: usize, token: Option<usize>) -> &'a [f32] {
        let dim = self.heads * self.d;
        let row = match token {
            Some(token) => &self.values[token * 3 * dim..][..3 * dim],
            None => self.padding,
        };
        &row[part * dim + head * self.d..][..self.d]
    }
}

/// A head's keys and values over a grid, packed.
struct Keys<'a, E: Engine> {
    keys: &'a [E::Element],
    values: &'a [E::Element],
}

/// The grid that attention spans: a window of the image, or all of it.
struct Grid<'a, E: Engine> {
    positions: &'a Positions<E>,
    /// The token at a place of the grid; none where the grid reaches over the image's end.
    token: &'a (dyn Fn(usize, usize) -> Option<usize> + Sync),
}

impl<E: Engine> Grid<'_, E> {
    fn slots(&self) -> usize {
        self.positions.key_rows() * self.positions.stride()
    }

    /// The row and column of a slot for a key; none for slots that only fill vectors.
    fn place(&self, slot: usize) -> Option<(usize, usize)> {
        let (row, column) = (
            slot / self.positions.stride(),
            slot % self.positions.stride(),
        );
        (row < self.positions.height && column < self.positions.width).then_some((row, column))
    }

    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn pack(
        &self,
        qkv: Qkv<'_>,
        head: usize,
        keys: &mut [E::Element],
        values: &mut [E::Element],
    ) {
        let (zeros, slots) = (vec![0.0; qkv.d], self.slots());
        let row = |part: usize, slot: usize| match self.place(slot) {
            Some((row, column)) => qkv.of(part, head, (self.token)(row, column)),
            None => &zeros,
        };
        let bytes = 2 * slots * qkv.d * size_of::<f32>() + size_of_val(keys) + size_of_val(values);
        // SAFETY: the caller promises the level.
        profile::count(Part::Keys, 0, bytes, || unsafe {
            E::pack_columns(keys, qkv.d, slots, |slot| row(1, slot));
            E::pack_rows(values, slots, 0..slots, qkv.d, |slot| row(2, slot));
        });
    }

    /// Attention of some queries, by their places, in one head; `out` is handed each query's token and result.
    ///
    /// # Safety
    /// The CPU has the engine's level; `keys` are packed by [`Grid::pack`].
    unsafe fn attend(
        &self,
        part: Part,
        qkv: Qkv<'_>,
        head: usize,
        queries: &[(usize, usize, usize)],
        keys: &Keys<'_, E>,
        out: impl FnMut(usize, &mut [f32]),
    ) {
        let (tokens, d) = (self.positions.height * self.positions.width, qkv.d);
        let flops = queries.len() * d * (4 * tokens + 2 * self.positions.table.outputs);
        let bytes = 2 * queries.len() * d * size_of::<f32>()
            + size_of_val(keys.keys)
            + size_of_val(keys.values);
        profile::count(part, flops, bytes, || {
            // SAFETY: as the caller promises.
            unsafe {
                let _session = E::session();
                self.attend_uncounted(qkv, head, queries, keys, out);
            }
        });
    }

    /// # Safety
    /// As [`Grid::attend`].
    unsafe fn attend_uncounted(
        &self,
        qkv: Qkv<'_>,
        head: usize,
        queries: &[(usize, usize, usize)],
        keys: &Keys<'_, E>,
        mut out: impl FnMut(usize, &mut [f32]),
    ) {
        let (k, positions, slots, d) = (E::KERNELS, self.positions, self.slots(), qkv.d);
        let (count, stride) = (queries.len(), positions.stride());
        let rows = padded_rows(count);
        let block = if slots <= WINDOW_QUERIES {
            slots
        } else {
            block_of_keys::<E>(stride, slots)
        };
        let width = d.next_multiple_of(STRIP);
        let table_width = positions.table.outputs.next_multiple_of(STRIP);
        let depths = d.div_ceil(E::DEPTH);
        let slot_depths = slots.div_ceil(E::DEPTH);
        let mut left = Scratch::<E::Element>::take(E::left_len(count, d));
        let mut relative = Scratch::<f32>::take(rows * table_width);
        let mut across = Scratch::<f32>::take(count * stride);
        let mut down = Scratch::<f32>::take(count * positions.key_rows());
        let mut scores = Scratch::<f32>::take(rows * block);
        let mut weights = Scratch::<E::Element>::take(E::left_len(count, block));
        let mut sums = Scratch::<f32>::take(rows * width);
        let mut most = vec![f32::NEG_INFINITY; count];
        let mut total = vec![0.0_f32; count];
        let mut factors = vec![0.0_f32; count];
        let key_rows = positions.key_rows();
        // SAFETY: the caller promises the level; factors are packed here or by `pack`, sums have padded rows.
        unsafe {
            E::pack_left(&mut left, count, d, 0..d, |q| {
                qkv.of(0, head, Some(queries[q].0))
            });
            positions.table.add_part(&mut relative, &left, count, 0..d);
            across.fill(f32::NEG_INFINITY);
            down.fill(f32::NEG_INFINITY);
            for (q, &(_, row, column)) in queries.iter().enumerate() {
                let relative = &relative[q * table_width..];
                let (height, grid_width) = (positions.height, positions.width);
                down[q * key_rows..][..height]
                    .copy_from_slice(&relative[height - 1 - row..][..height]);
                across[q * stride..][..grid_width].copy_from_slice(
                    &relative[2 * height - 1 + grid_width - 1 - column..][..grid_width],
                );
            }
            for first in (0..slots).step_by(block) {
                let columns = block.min(slots - first);
                let block_depths = columns.div_ceil(E::DEPTH);
                let right = &keys.keys[first * depths * E::DEPTH * E::TERMS..];
                product::<E>(
                    &mut scores,
                    block,
                    count,
                    columns,
                    &left,
                    right,
                    depths,
                    0..depths,
                    false,
                );
                let relative = Relative {
                    across: &across,
                    width: stride,
                    down: &down,
                    height: key_rows,
                    first: first / stride,
                };
                let state = Softmax {
                    most: &mut most,
                    total: &mut total,
                    factors: &mut factors,
                };
                E::pack_softmax(&mut weights, &mut scores, block, columns, &relative, state);
                if first > 0 {
                    for (sums, &factor) in sums.chunks_exact_mut(width).zip(&factors) {
                        if factor != 1.0 {
                            (k.scale)(sums, factor);
                        }
                    }
                }
                for column in (0..width).step_by(STRIP) {
                    let at =
                        (column * slot_depths + first / E::DEPTH * PANEL) * E::DEPTH * E::TERMS;
                    let right = Packed {
                        data: keys.values.as_ptr().add(at),
                        depths: slot_depths,
                    };
                    E::strip(
                        sums.as_mut_ptr().add(column),
                        width,
                        count,
                        Packed {
                            data: weights.as_ptr(),
                            depths: block_depths,
                        },
                        right,
                        0..block_depths,
                        right.next_strip::<E>(0),
                        first > 0,
                    );
                }
            }
            for (q, &(token, ..)) in queries.iter().enumerate() {
                let sums = &mut sums[q * width..][..d];
                (k.scale)(sums, 1.0 / total[q]);
                out(token, sums);
            }
        }
    }
}

/// Keys at once: whole rows of the grid and whole strips, near [`Engine::KEYS`].
fn block_of_keys<E: Engine>(stride: usize, slots: usize) -> usize {
    let unit = if stride.is_multiple_of(STRIP) {
        stride
    } else {
        2 * stride
    };
    (E::KEYS / unit * unit).max(unit).min(slots)
}

/// Attention of every token within its window of `window` x `window` tokens, or among all of them.
///
/// # Shapes
/// - `qkv`: see [`Qkv`]; tokens are `height` x `width`, row by row
/// - `out`: `[height * width, heads * d]`
///
/// # Safety
/// The CPU has the engine's level.
pub(crate) unsafe fn attention<E: Engine>(
    qkv: Qkv<'_>,
    height: usize,
    width: usize,
    window: Option<usize>,
    positions: &Positions<E>,
    out: &mut [f32],
) {
    let (heads, d) = (qkv.heads, qkv.d);
    let dim = heads * d;
    let out = Shared::new(out);
    let write = |head: usize, token: usize, result: &mut [f32]| {
        // SAFETY: each token's result in each head is written once.
        let out = unsafe { out.part(token * dim + head * d, d) };
        out.copy_from_slice(result);
    };
    match window {
        None => {
            let grid = Grid {
                positions,
                token: &|row, column| Some(row * width + column),
            };
            let slots = grid.slots();
            let (keys_len, values_len) = (E::right_len(d, slots), E::right_len(slots, d));
            let mut keys = Scratch::<E::Element>::take(heads * keys_len);
            let mut values = Scratch::<E::Element>::take(heads * values_len);
            keys.par_chunks_exact_mut(keys_len)
                .zip(values.par_chunks_exact_mut(values_len))
                .enumerate()
                // SAFETY: the caller promises the level.
                .for_each(|(head, (keys, values))| unsafe { grid.pack(qkv, head, keys, values) });
            let tokens = height * width;
            let blocks = tokens.div_ceil(E::QUERIES);
            (0..heads * blocks).into_par_iter().for_each(|task| {
                let (head, block) = (task / blocks, task % blocks);
                let first = block * E::QUERIES;
                let queries: Vec<_> = (first..tokens.min(first + E::QUERIES))
                    .map(|token| (token, token / width, token % width))
                    .collect();
                let keys = Keys {
                    keys: &keys[head * keys_len..][..keys_len],
                    values: &values[head * values_len..][..values_len],
                };
                // SAFETY: the caller promises the level; keys are packed above.
                unsafe {
                    grid.attend(
                        Part::GlobalAttention,
                        qkv,
                        head,
                        &queries,
                        &keys,
                        |token, result| write(head, token, result),
                    );
                }
            });
        }
        Some(window) => {
            let (rows, columns) = (height.div_ceil(window), width.div_ceil(window));
            (0..rows * columns * heads)
                .into_par_iter()
                .for_each(|task| {
                    let (at, head) = (task / heads, task % heads);
                    let (top, left) = (at / columns * window, at % columns * window);
                    let token = |row: usize, column: usize| {
                        let (row, column) = (top + row, left + column);
                        (row < height && column < width).then_some(row * width + column)
                    };
                    let grid = Grid {
                        positions,
                        token: &token,
                    };
                    let slots = grid.slots();
                    let mut keys = Scratch::<E::Element>::take(E::right_len(d, slots));
                    let mut values = Scratch::<E::Element>::take(E::right_len(slots, d));
                    let queries: Vec<_> = (0..window * window)
                        .map(|i| (i / window, i % window))
                        .filter_map(|(row, column)| Some((token(row, column)?, row, column)))
                        .collect();
                    let chunk = if slots <= WINDOW_QUERIES {
                        WINDOW_QUERIES
                    } else {
                        E::QUERIES
                    };
                    // SAFETY: the caller promises the level; keys are packed here.
                    unsafe {
                        grid.pack(qkv, head, &mut keys, &mut values);
                        let keys = Keys {
                            keys: &keys,
                            values: &values,
                        };
                        for queries in queries.chunks(chunk) {
                            grid.attend(
                                Part::WindowAttention,
                                qkv,
                                head,
                                queries,
                                &keys,
                                |token, result| write(head, token, result),
                            );
                        }
                    }
                });
        }
    }
}
