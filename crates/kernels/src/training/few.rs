//! Attention between many rows and few: an image's tokens and a prompt's, of narrow heads.
//!
//! A product of such a head is too small for a library of large ones: packing its factors is most of the work. Here the
//! many rows are turned once, so that they lie in the lanes of vectors, and the few are numbers that vectors are multiplied by.

use rayon::prelude::*;

use super::attention::{Rows, RowsMut, Sizes};
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

/// A head of an item of the batch.
#[derive(Clone, Copy)]
struct Place {
    item: usize,
    head: usize,
    sizes: Sizes,
}

impl Place {
    fn new(index: usize, sizes: Sizes) -> Self {
        Self {
            item: index / sizes.heads,
            head: index % sizes.heads,
            sizes,
        }
    }

    /// Where the head's columns begin, in rows of which an item has `count`.
    fn first(&self, count: usize, offset: usize, stride: usize) -> usize {
        self.item * count * stride + offset + self.head * self.sizes.head_dim
    }

    /// The head's columns of each of an item's rows.
    fn rows<'a>(&self, rows: Rows<'a>, count: usize) -> impl Iterator<Item = &'a [f32]> {
        let width = self.sizes.head_dim;
        let rows_of = self.columns(rows, count).chunks(rows.stride);
        rows_of.map(move |row| &row[..width])
    }

    /// The columns of the head, and where each of `count` rows of them begins: `stride` apart.
    fn columns<'a>(&self, rows: Rows<'a>, count: usize) -> &'a [f32] {
        let first = self.first(count, rows.offset, rows.stride);
        &rows.data[first..][..(count - 1) * rows.stride + self.sizes.head_dim]
    }

    /// One row after the other, times a factor: `[count, head_dim]`.
    fn gathered(&self, rows: Rows<'_>, count: usize, factor: f32) -> Vec<f32> {
        let rows = self.rows(rows, count);
        rows.flat_map(|row| row.iter().map(|v| v * factor))
            .collect()
    }

    /// Writes what is turned back, or what was gathered, into the head's columns.
    ///
    /// # Safety
    /// Nobody else writes or reads those columns of the item's rows.
    unsafe fn write(&self, to: &RowsMut<'_>, count: usize, value: impl Fn(usize, usize) -> f32) {
        let first = self.first(count, to.offset, to.stride);
        let width = self.sizes.head_dim;
        for row in 0..count {
            // SAFETY: as the caller promises; other heads have other columns.
            let row_of = unsafe { to.data.part(first + row * to.stride, width) };
            for (channel, to) in row_of.iter_mut().enumerate() {
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
    let (length, width) = (row_length(many), sizes.head_dim);
    let dim = sizes.heads * width;
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
        let place = Place::new(index, sizes);
        let mut turned = Scratch::<f32>::take(width * length);
        // SAFETY: the table is of a level that the CPU has; the columns of a head of an item are its task's alone.
        unsafe {
            if sizes.queries == many {
                let x = place.columns(q, many);
                (kernels.turn)(&mut turned, length, x, q.stride, width);
                let k = place.gathered(k, few, sizes.scale());
                (kernels.small_times)(p, &k, &turned, length);
                (kernels.softmax_of_columns)(p, length);
                let v = transposed(&place.gathered(v, few, 1.0), width);
                (kernels.small_times)(&mut turned, &v, p, length);
                place.write(&answers, many, |row, channel| {
                    turned[channel * length + row]
                });
            } else {
                let x = place.columns(k, many);
                (kernels.turn)(&mut turned, length, x, k.stride, width);
                let q = place.gathered(q, few, sizes.scale());
                (kernels.small_times)(p, &q, &turned, length);
                for p in p.chunks_exact_mut(length) {
                    (kernels.scores_softmax)(&mut p[..many], 1.0, &[], &[]);
                    p[many..].fill(0.0);
                }
                let x = place.columns(v, many);
                (kernels.turn)(&mut turned, length, x, v.stride, width);
                let mut y = vec![0.0; few * width];
                (kernels.row_dots)(&mut y, p, &turned, length);
                place.write(&answers, few, |row, channel| y[row * width + channel]);
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
    gradients: [RowsMut<'_>; 3],
    sizes: Sizes,
    kernels: &RowKernels,
) {
    let (few, many) = counts(sizes);
    let (length, width) = (row_length(many), sizes.head_dim);
    let scale = sizes.scale();
    let [of_q, of_k, of_v] = gradients;
    let g = Rows {
        data: g,
        offset: 0,
        stride: sizes.heads * width,
    };
    let each = softmax.par_chunks_exact(few * length).enumerate();
    each.for_each(|(index, p)| {
        let place = Place::new(index, sizes);
        let mut turned = Scratch::<f32>::take(width * length);
        let mut scores = Scratch::<f32>::take(few * length);
        let mut of_few = vec![0.0; few * width];
        // SAFETY: the table is of a level that the CPU has; the columns of a head of an item are its task's alone.
        unsafe {
            if sizes.queries == many {
                let x = place.columns(g, many);
                (kernels.turn)(&mut turned, length, x, g.stride, width);
                (kernels.row_dots)(&mut of_few, p, &turned, length);
                place.write(&of_v, few, |row, channel| of_few[row * width + channel]);
                let v = place.gathered(v, few, 1.0);
                (kernels.small_times)(&mut scores, &v, &turned, length);
                (kernels.columns_gradient)(&mut scores, p, length);
                let x = place.columns(q, many);
                (kernels.turn)(&mut turned, length, x, q.stride, width);
                (kernels.row_dots)(&mut of_few, &scores, &turned, length);
                place.write(&of_k, few, |row, channel| {
                    scale * of_few[row * width + channel]
                });
                let k = transposed(&place.gathered(k, few, scale), width);
                (kernels.small_times)(&mut turned, &k, &scores, length);
                place.write(&of_q, many, |row, channel| turned[channel * length + row]);
            } else {
                let g = place.gathered(g, few, 1.0);
                let x = place.columns(v, many);
                (kernels.turn)(&mut turned, length, x, v.stride, width);
                (kernels.small_times)(&mut scores, &g, &turned, length);
                for (scores, p) in scores.chunks_exact_mut(length).zip(p.chunks_exact(length)) {
                    (kernels.softmax_gradient)(scores, p);
                }
                (kernels.small_times)(&mut turned, &transposed(&g, width), p, length);
                place.write(&of_v, many, |row, channel| turned[channel * length + row]);
                let x = place.columns(k, many);
                (kernels.turn)(&mut turned, length, x, k.stride, width);
                (kernels.row_dots)(&mut of_few, &scores, &turned, length);
                place.write(&of_q, few, |row, channel| {
                    scale * of_few[row * width + channel]
                });
                let q = transposed(&place.gathered(q, few, scale), width);
                (kernels.small_times)(&mut turned, &q, &scores, length);
                place.write(&of_k, many, |row, channel| turned[channel * length + row]);
            }
        }
    });
}
