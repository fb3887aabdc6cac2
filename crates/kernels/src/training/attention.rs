//! Multi-head attention and its gradients, over heads that lie side by side in rows: nothing is moved before or after.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

use super::few;
use super::linear::added;
use crate::aligned::{Shared, unwritten};
use crate::rows::RowKernels;

/// Rows of floats, of which every head has some columns.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    /// Where the first head's columns begin.
    pub(super) offset: usize,
    /// From row to row.
    pub(super) stride: usize,
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

impl Sizes {
    fn scores(&self) -> usize {
        self.queries * self.keys
    }

    pub(super) fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}

/// Decomposed relative positions of a grid of tokens: `[height, height, head_dim]` and `[width, width, head_dim]`, of
/// queries and keys.
#[derive(Clone, Copy)]
pub(super) struct Positions<'a> {
    pub(super) down: &'a [f32],
    pub(super) across: &'a [f32],
    pub(super) height: usize,
    pub(super) width: usize,
}

/// A matrix: where its first number is, and how far it is to the next row and to the next column.
#[derive(Clone, Copy)]
struct Matrix {
    data: *const f32,
    row: usize,
    column: usize,
}

impl Matrix {
    fn of(data: &[f32], row: usize) -> Self {
        let data = data.as_ptr();
        Self {
            data,
            row,
            column: 1,
        }
    }

    fn turned(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }
}

/// `c` (+)= `factor a b`, where `a` is `[m, k]` and `b` `[k, n]`, and `c` has rows `stride` apart.
///
/// # Safety
/// The matrices lie within their memory, `c` alone in its.
unsafe fn multiply(
    c: *mut f32,
    stride: usize,
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
    factor: f32,
    accumulate: bool,
) {
    // SAFETY: as the caller promises.
    unsafe {
        gemm(
            m,
            n,
            k,
            c,
            1,
            stride as isize,
            accumulate,
            a.data,
            a.column as isize,
            a.row as isize,
            b.data,
            b.column as isize,
            b.row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// What a head of an item of the batch works on.
struct Head<'a> {
    sizes: Sizes,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    kernels: &'a RowKernels,
}

impl<'a> Head<'a> {
    /// Of the `index`-th of all items' heads.
    fn new(index: usize, sizes: Sizes, rows: [Rows<'_>; 3], kernels: &'a RowKernels) -> Self {
        let (item, head) = (index / sizes.heads, index % sizes.heads);
        let counts = [sizes.queries, sizes.keys, sizes.keys];
        let part = |i: usize| {
            let (rows, count): (Rows<'_>, usize) = (rows[i], counts[i]);
            let first = item * count * rows.stride + rows.offset + head * sizes.head_dim;
            let end = first + (count - 1) * rows.stride + sizes.head_dim;
            Matrix::of(&rows.data[first..end], rows.stride)
        };
        Self {
            sizes,
            q: part(0),
            k: part(1),
            v: part(2),
            kernels,
        }
    }

    /// The queries of a row of the grid.
    fn queries_of_row(&self, y: usize, width: usize) -> Matrix {
        let data = self.q.data.wrapping_add(y * width * self.q.row);
        Matrix { data, ..self.q }
    }

    /// The queries of a column of the grid.
    fn queries_of_column(&self, x: usize, width: usize) -> Matrix {
        let data = self.q.data.wrapping_add(x * self.q.row);
        Matrix {
            data,
            row: width * self.q.row,
            column: 1,
        }
    }

    /// Fills the softmax of scores, `[queries, keys]`.
    fn attend(&self, p: &mut [f32], positions: Option<&Positions<'_>>) {
        let Sizes {
            head_dim,
            queries,
            keys,
            ..
        } = self.sizes;
        let scale = self.sizes.scale();
        let (height, width) = positions.map_or((0, 0), |p| (p.height, p.width));
        let mut down = vec![0.0_f32; queries * height];
        let mut across = vec![0.0_f32; queries * width];
        // SAFETY: rows of queries and keys are as long as `Head::new` checked; the sums are as large as their products.
        unsafe {
            let sizes = [queries, keys, head_dim];
            multiply(
                p.as_mut_ptr(),
                keys,
                sizes,
                self.q,
                self.k.turned(),
                1.0,
                false,
            );
            if let Some(positions) = positions {
                for y in 0..height {
                    let table = &positions.down[y * height * head_dim..][..height * head_dim];
                    let table = Matrix::of(table, head_dim).turned();
                    let c = down[y * width * height..].as_mut_ptr();
                    let q = self.queries_of_row(y, width);
                    multiply(c, height, [width, height, head_dim], q, table, 1.0, false);
                }
                for x in 0..width {
                    let table = &positions.across[x * width * head_dim..][..width * head_dim];
                    let table = Matrix::of(table, head_dim).turned();
                    let c = across[x * width..].as_mut_ptr();
                    let q = self.queries_of_column(x, width);
                    multiply(
                        c,
                        width * width,
                        [height, width, head_dim],
                        q,
                        table,
                        1.0,
                        false,
                    );
                }
            }
            for (query, row) in p.chunks_exact_mut(keys).enumerate() {
                let across = &across[query * width..][..width];
                let down = &down[query * height..][..height];
                (self.kernels.scores_softmax)(row, scale, across, down);
            }
        }
    }
}

/// The answers, `[batch, queries, heads * head_dim]`, and the softmax of scores, `[batch, heads, queries, keys]` or as [`few`]
/// has it.
pub(super) fn forward(
    rows: [Rows<'_>; 3],
    positions: Option<&Positions<'_>>,
    sizes: Sizes,
    kernels: &RowKernels,
) -> (Vec<f32>, Vec<f32>) {
    let Sizes {
        batch,
        heads,
        head_dim,
        queries,
        keys,
    } = sizes;
    if positions.is_none() && few::suits(sizes) {
        return few::forward(rows, sizes, kernels);
    }
    let dim = heads * head_dim;
    // SAFETY: every head of every item writes its columns of all rows, and its own scores.
    let mut y = unsafe { unwritten(batch * queries * dim) };
    // SAFETY: as above.
    let mut softmax = unsafe { unwritten(batch * heads * sizes.scores()) };
    let shared = Shared::new(&mut y);
    let each = softmax.par_chunks_exact_mut(sizes.scores()).enumerate();
    each.for_each(|(index, p)| {
        let head = Head::new(index, sizes, rows, kernels);
        head.attend(p, positions);
        let p = Matrix::of(p, keys);
        // SAFETY: the columns of a head of an item are its task's alone.
        unsafe {
            let c = answer(&shared, index, sizes);
            multiply(c, dim, [queries, head_dim, keys], p, head.v, 1.0, false);
        }
    });
    (y, softmax)
}

/// Where the columns of a head of an item begin.
///
/// # Safety
/// As [`Shared::part`].
unsafe fn answer(y: &Shared<'_, f32>, index: usize, sizes: Sizes) -> *mut f32 {
    let (item, head) = (index / sizes.heads, index % sizes.heads);
    let dim = sizes.heads * sizes.head_dim;
    let first = item * sizes.queries * dim + head * sizes.head_dim;
    // SAFETY: as the caller promises. Columns of other heads lie between, so only the first number is asked for.
    unsafe { y.part(first, 1).as_mut_ptr() }
}

/// Where gradients at queries, keys or values go: [`Rows`] that are written.
pub(super) struct RowsMut<'a> {
    pub(super) data: &'a Shared<'a, f32>,
    pub(super) offset: usize,
    pub(super) stride: usize,
}

impl RowsMut<'_> {
    /// # Safety
    /// As [`Shared::part`].
    unsafe fn part(&self, index: usize, count: usize, sizes: Sizes) -> *mut f32 {
        let (item, head) = (index / sizes.heads, index % sizes.heads);
        let first = item * count * self.stride + self.offset + head * sizes.head_dim;
        // SAFETY: as the caller promises.
        unsafe { self.data.part(first, 1).as_mut_ptr() }
    }
}

/// The gradients at queries, keys and values, from that at the answers, `g`, and the softmax of before. Those at the tables
/// of relative positions are returned.
pub(super) fn backward(
    g: &[f32],
    softmax: &[f32],
    rows: [Rows<'_>; 3],
    gradients: [RowsMut<'_>; 3],
    positions: Option<&Positions<'_>>,
    sizes: Sizes,
    kernels: &RowKernels,
) -> (Vec<f32>, Vec<f32>) {
    let Sizes {
        heads,
        head_dim,
        queries,
        keys,
        ..
    } = sizes;
    if positions.is_none() && few::suits(sizes) {
        few::backward(g, softmax, rows, gradients, sizes, kernels);
        return (Vec::new(), Vec::new());
    }
    let scale = sizes.scale();
    let dim = heads * head_dim;
    let each = softmax.par_chunks_exact(sizes.scores()).enumerate();
    let tables = each.map(|(index, p)| {
        let head = Head::new(index, sizes, rows, kernels);
        let (item, column) = (index / heads, index % heads * head_dim);
        let first = item * queries * dim + column;
        let g = Matrix::of(&g[first..first + (queries - 1) * dim + head_dim], dim);
        // SAFETY: the product below writes all of them.
        let mut scores = unsafe { unwritten(sizes.scores()) };
        // SAFETY: sizes are those of `Head::new`; the columns of a head of an item are its task's alone.
        unsafe {
            let [of_q, of_k, of_v] = [
                gradients[0].part(index, queries, sizes),
                gradients[1].part(index, keys, sizes),
                gradients[2].part(index, keys, sizes),
            ];
            let [q_stride, k_stride, v_stride] = [0, 1, 2].map(|i| gradients[i].stride);
            let turned = Matrix::of(p, keys).turned();
            multiply(
                of_v,
                v_stride,
                [keys, head_dim, queries],
                turned,
                g,
                1.0,
                false,
            );
            let c = scores.as_mut_ptr();
            multiply(
                c,
                keys,
                [queries, keys, head_dim],
                g,
                head.v.turned(),
                1.0,
                false,
            );
            for (row, p) in scores.chunks_exact_mut(keys).zip(p.chunks_exact(keys)) {
                (kernels.softmax_gradient)(row, p);
            }
            let g = Matrix::of(&scores, keys);
            multiply(
                of_q,
                q_stride,
                [queries, head_dim, keys],
                g,
                head.k,
                scale,
                false,
            );
            multiply(
                of_k,
                k_stride,
                [keys, head_dim, queries],
                g.turned(),
                head.q,
                scale,
                false,
            );
            match positions {
                Some(positions) => position_gradients(&head, &scores, of_q, q_stride, positions),
                None => (Vec::new(), Vec::new()),
            }
        }
    });
    let tables: Vec<_> = tables.collect();
    added(tables, kernels)
}

/// The gradients at both tables of relative positions from one head's; what the tables add to that at the queries is added.
///
/// # Safety
/// `of_q` has the head's columns of as many rows as there are queries, `stride` apart.
unsafe fn position_gradients(
    head: &Head<'_>,
    scores: &[f32],
    of_q: *mut f32,
    stride: usize,
    positions: &Positions<'_>,
) -> (Vec<f32>, Vec<f32>) {
    let Positions { height, width, .. } = *positions;
    let head_dim = head.sizes.head_dim;
    let (queries, keys) = (head.sizes.queries, head.sizes.keys);
    // Sums over the columns and over the rows of keys.
    let mut down = vec![0.0_f32; queries * height];
    let mut across = vec![0.0_f32; queries * width];
    for (query, scores) in scores.chunks_exact(keys).enumerate() {
        let down = &mut down[query * height..][..height];
        let across = &mut across[query * width..][..width];
        for (down, scores) in down.iter_mut().zip(scores.chunks_exact(width)) {
            *down = scores.iter().sum();
            for (across, score) in across.iter_mut().zip(scores) {
                *across += score;
            }
        }
    }
    let mut of_down = vec![0.0_f32; height * height * head_dim];
    let mut of_across = vec![0.0_f32; width * width * head_dim];
    // SAFETY: as the caller promises; sums and tables are as large as their products.
    unsafe {
        for y in 0..height {
            let part = y * height * head_dim..(y + 1) * height * head_dim;
            let g = Matrix::of(&down[y * width * height..][..width * height], height);
            let table = Matrix::of(&positions.down[part.clone()], head_dim);
            let c = of_q.add(y * width * stride);
            multiply(c, stride, [width, head_dim, height], g, table, 1.0, true);
            let c = of_down[part].as_mut_ptr();
            let q = head.queries_of_row(y, width);
            multiply(
                c,
                head_dim,
                [height, head_dim, width],
                g.turned(),
                q,
                1.0,
                false,
            );
        }
        for x in 0..width {
            let part = x * width * head_dim..(x + 1) * width * head_dim;
            let g = Matrix {
                data: across[x * width..].as_ptr(),
                row: width * width,
                column: 1,
            };
            let table = Matrix::of(&positions.across[part.clone()], head_dim);
            let c = of_q.add(x * stride);
            multiply(
                c,
                width * stride,
                [height, head_dim, width],
                g,
                table,
                1.0,
                true,
            );
            let c = of_across[part].as_mut_ptr();
            let q = head.queries_of_column(x, width);
            multiply(
                c,
                head_dim,
                [width, head_dim, height],
                g.turned(),
                q,
                1.0,
                false,
            );
        }
    }
    (of_down, of_across)
}
