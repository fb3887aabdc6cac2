//! Attention between many rows and few: an image's tokens and a prompt's, of narrow heads.
//!
//! A product of such a head is too small for a library of large ones: packing its factors is most of the work. Here the
//! many rows are turned once, so that they lie in the lanes of vectors, and the few are numbers that vectors are multiplied by.

use rayon::prelude::*;

use super::attention::{HeadRows, Rows, RowsMut, Sizes};
use crate::aligned::{Scratch, Shared, unwritten};
use crate::engine::STRIP;
use crate::rows::RowKernels;

/// Rows that are few, and channels of a head that are.
const FEW: usize = 32;

/// Whether the sizes are those of many rows and few.
pub(super) fn suits(sizes: Sizes) -> bool {
    let (few, many) = counts(sizes);
    sizes.head_dim <= FEW && few <= FEW && 4 * few <= many
}

/// The smaller and the larger of queries and keys.
fn counts(sizes: Sizes) -> (usize, usize) {
    let (a, b) = (sizes.queries, sizes.keys);
    (a.min(b), a.max(b))
}

/// The length of a turned row: whole vectors, and no multiple of a page, whose rows would share a place in the cache.
fn row_length(many: usize) -> usize {
    let strips = many.div_ceil(STRIP);
    (strips | 1) * STRIP
}

/// A head of an item of the batch, and what it is computed in.
struct Head<'a> {
    index: usize,
    sizes: Sizes,
    few: usize,
    many: usize,
    /// Of a turned row.
    length: usize,
    /// Columns of the many: `[head_dim, length]`.
    turned: Scratch<f32>,
    kernels: &'a RowKernels,
}

impl<'a> Head<'a> {
    /// The `index`-th of all items' heads.
    fn new(index: usize, sizes: Sizes, kernels: &'a RowKernels) -> Self {
        let (few, many) = counts(sizes);
        let length = row_length(many);
        Self {
            index,
            sizes,
            few,
            many,
            length,
            turned: Scratch::take(sizes.head_dim * length),
            kernels,
        }
    }

    /// The head's columns of `count` rows.
    fn rows<'r>(&self, rows: Rows<'r>, count: usize) -> HeadRows<'r> {
        HeadRows::new(self.index, rows, count, self.sizes)
    }

    /// The few's columns one row after the other, times a factor: `[few, head_dim]`.
    fn gathered(&self, rows: Rows<'_>, factor: f32) -> Vec<f32> {
        let rows = self.rows(rows, self.few);
        (0..self.few)
            .flat_map(|row| rows.row(row).iter().map(|v| v * factor))
            .collect()
    }

    /// Turns the many's columns: what follows is of them.
    ///
    /// # Safety
    /// The CPU has the table's level.
    unsafe fn turn(&mut self, rows: Rows<'_>) {
        let x = self.rows(rows, self.many);
        let turned = &mut self.turned;
        // SAFETY: as the caller promises.
        unsafe { (self.kernels.turn)(turned, self.length, x.data, x.stride, x.width) }
    }

    /// The products of the few, times a factor, with the many: `scores` `[few, length]`.
    ///
    /// # Safety
    /// The CPU has the table's level.
    unsafe fn scores(&self, scores: &mut [f32], few: Rows<'_>, factor: f32) {
        let few = self.gathered(few, factor);
        // SAFETY: as the caller promises.
        unsafe { (self.kernels.small_times)(scores, &few, &self.turned, self.length) }
    }

    /// For each of the few the sum of the many, weighted by scores, times a factor.
    ///
    /// # Safety
    /// The CPU has the table's level; nobody else writes or reads the head's columns of `to`.
    unsafe fn fill_few(&self, scores: &[f32], factor: f32, to: &RowsMut<'_>) {
        let width = self.sizes.head_dim;
        let mut sums = vec![0.0; self.few * width];
        // SAFETY: as the caller promises.
        unsafe {
            (self.kernels.row_dots)(&mut sums, scores, &self.turned, self.length);
            self.write(to, self.few, |row, channel| {
                factor * sums[row * width + channel]
            });
        }
    }

    /// For each of the many the sum of the few, weighted by scores, times a factor. The many are no longer turned after it.
    ///
    /// # Safety
    /// As [`Head::fill_few`].
    unsafe fn fill_many(&mut self, scores: &[f32], few: Rows<'_>, factor: f32, to: &RowsMut<'_>) {
        let few = transposed(&self.gathered(few, factor), self.sizes.head_dim);
        // SAFETY: as the caller promises.
        unsafe {
            (self.kernels.small_times)(&mut self.turned, &few, scores, self.length);
            self.write(to, self.many, |row, channel| {
                self.turned[channel * self.length + row]
            });
        }
    }

    /// Writes the head's columns of `count` rows.
    ///
    /// # Safety
    /// Nobody else writes or reads them.
    unsafe fn write(&self, to: &RowsMut<'_>, count: usize, value: impl Fn(usize, usize) -> f32) {
        let to = to.of_head(self.index, count, self.sizes);
        for row in 0..count {
            // SAFETY: as the caller promises; other heads have other columns.
            let to = unsafe { to.row(row) };
            for (channel, to) in to.iter_mut().enumerate() {
                *to = value(row, channel);
            }
        }
    }
}

/// `[rows, columns]` -> `[columns, rows]`
fn transposed(x: &[f32], columns: usize) -> Vec<f32> {
    let rows = x.len() / columns;
    let at = |i: usize| x[i % rows * columns + i / rows];
    (0..x.len()).map(at).collect()
}

/// The answers, `[batch, queries, heads * head_dim]`, and the softmax of scores with the many in rows,
/// `[batch, heads, few, length of a turned row]`.
pub(super) fn forward(
    [q, k, v]: [Rows<'_>; 3],
    sizes: Sizes,
    kernels: &RowKernels,
) -> (Vec<f32>, Vec<f32>) {
    let (few, many) = counts(sizes);
    let length = row_length(many);
    let dim = sizes.heads * sizes.head_dim;
    // SAFETY: every head of every item writes its columns of all rows.
    let mut y = unsafe { unwritten(sizes.batch * sizes.queries * dim) };
    // SAFETY: every head of every item writes its own part.
    let mut softmax = unsafe { unwritten(sizes.batch * sizes.heads * few * length) };
    let shared = Shared::new(&mut y);
    let answers = RowsMut {
        data: &shared,
        offset: 0,
        stride: dim,
    };
    let each = softmax.par_chunks_exact_mut(few * length).enumerate();
    each.for_each(|(index, p)| {
        let mut head = Head::new(index, sizes, kernels);
        // SAFETY: the table is of a level that the CPU has; the columns of a head of an item are its task's alone.
        unsafe {
            if sizes.queries == many {
                head.turn(q);
                head.scores(p, k, sizes.scale());
                (kernels.softmax_of_columns)(p, length);
                head.fill_many(p, v, 1.0, &answers);
            } else {
                head.turn(k);
                head.scores(p, q, sizes.scale());
                for p in p.chunks_exact_mut(length) {
                    (kernels.scores_softmax)(&mut p[..many], 1.0, &[], &[]);
                    p[many..].fill(0.0);
                }
                head.turn(v);
                head.fill_few(p, 1.0, &answers);
            }
        }
    });
    (y, softmax)
}

/// Writes the gradients at queries, keys and values, from that at the answers, `g`, and the softmax of [`forward`].
pub(super) fn backward(
    g: &[f32],
    softmax: &[f32],
    [q, k, v]: [Rows<'_>; 3],
    [of_q, of_k, of_v]: [RowsMut<'_>; 3],
    sizes: Sizes,
    kernels: &RowKernels,
) {
    let (few, many) = counts(sizes);
    let length = row_length(many);
    let scale = sizes.scale();
    let g = Rows {
        data: g,
        offset: 0,
        stride: sizes.heads * sizes.head_dim,
    };
    let each = softmax.par_chunks_exact(few * length).enumerate();
    each.for_each(|(index, p)| {
        let mut head = Head::new(index, sizes, kernels);
        let mut scores = Scratch::<f32>::take(few * length);
        // SAFETY: the table is of a level that the CPU has; the columns of a head of an item are its task's alone.
        unsafe {
            if sizes.queries == many {
                head.turn(g);
                head.fill_few(p, 1.0, &of_v);
                head.scores(&mut scores, v, 1.0);
                (kernels.columns_gradient)(&mut scores, p, length);
                head.turn(q);
                head.fill_few(&scores, scale, &of_k);
                head.fill_many(&scores, k, scale, &of_q);
            } else {
                head.turn(v);
                head.scores(&mut scores, g, 1.0);
                for (scores, p) in scores.chunks_exact_mut(length).zip(p.chunks_exact(length)) {
                    (kernels.softmax_gradient)(scores, p);
                }
                head.fill_many(p, g, 1.0, &of_v);
                head.turn(k);
                head.fill_few(&scores, scale, &of_q);
                head.fill_many(&scores, q, scale, &of_k);
            }
        }
    });
}
