//! Multi-head attention and its gradients, over heads that lie side by side in rows: nothing is moved before or after.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

use super::few;
use super::linear::added;
use crate::aligned::{Scratch, Shared, unwritten};
use crate::engine::{Engine, STRIP, padded_rows, product, with_engine};
use crate::rows::RowKernels;
use crate::{Level, Precision};

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

/// `c` (+)= `a b`, where `a` is `[m, k]` and `b` `[k, n]`, and `c` has rows `stride` apart.
///
/// # Safety
/// The matrices lie within their memory, `c` alone in its.
unsafe fn multiply(
    c: *mut f32,
    stride: usize,
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
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
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Queries that are worked on at once: their scores stay in a core's cache.
const BLOCK: usize = 128;
/// Keys whose scores are packed at once.
const DEPTH: usize = 1024;

/// A head of an item of the batch: its columns of queries, keys and values.
#[derive(Clone, Copy)]
struct Head<'a> {
    sizes: Sizes,
    q: HeadRows<'a>,
    k: HeadRows<'a>,
    v: HeadRows<'a>,
}

/// The columns of a head of an item's rows.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a> {
    /// From the first row's columns to the last one's.
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) width: usize,
}

impl<'a> HeadRows<'a> {
    /// Of the `index`-th of all items' heads, where an item has `count` rows.
    pub(super) fn new(index: usize, rows: Rows<'a>, count: usize, sizes: Sizes) -> Self {
        let (item, head) = (index / sizes.heads, index % sizes.heads);
        let (stride, width) = (rows.stride, sizes.head_dim);
        let first = item * count * stride + rows.offset + head * width;
        Self {
            data: &rows.data[first..][..(count - 1) * stride + width],
            stride,
            width,
        }
    }

    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..self.width]
    }

    /// Those rows of a grid `width` wide that are its row `y`.
    fn row_of_grid(&self, y: usize, width: usize) -> Matrix {
        Matrix::of(&self.data[y * width * self.stride..], self.stride)
    }

    /// Those that are its column `x`.
    fn column_of_grid(&self, x: usize, width: usize) -> Matrix {
        Matrix::of(&self.data[x * self.stride..], width * self.stride)
    }
}

impl<'a> Head<'a> {
    fn new(index: usize, sizes: Sizes, [q, k, v]: [Rows<'a>; 3]) -> Self {
        Self {
            sizes,
            q: HeadRows::new(index, q, sizes.queries, sizes),
            k: HeadRows::new(index, k, sizes.keys, sizes),
            v: HeadRows::new(index, v, sizes.keys, sizes),
        }
    }

    /// What positions add to scores: of every query a number for each row and for each column of keys.
    fn position_scores(&self, positions: &Positions<'_>) -> [Vec<f32>; 2] {
        let Positions { height, width, .. } = *positions;
        let (queries, head_dim) = (self.sizes.queries, self.sizes.head_dim);
        let mut down = vec![0.0_f32; queries * height];
        let mut across = vec![0.0_f32; queries * width];
        // SAFETY: the grid has as many places as there are queries; the sums are as large as their products.
        unsafe {
            for y in 0..height {
                let table = &positions.down[y * height * head_dim..][..height * head_dim];
                let table = Matrix::of(table, head_dim).turned();
                let c = down[y * width * height..].as_mut_ptr();
                let q = self.q.row_of_grid(y, width);
                multiply(c, height, [width, height, head_dim], q, table, false);
            }
            for x in 0..width {
                let table = &positions.across[x * width * head_dim..][..width * head_dim];
                let table = Matrix::of(table, head_dim).turned();
                let c = across[x * width..].as_mut_ptr();
                let q = self.q.column_of_grid(x, width);
                let sizes = [height, width, head_dim];
                multiply(c, width * width, sizes, q, table, false);
            }
        }
        [down, across]
    }

    /// Fills the softmax of scores, `[queries, keys]`, and writes the answers.
    ///
    /// # Safety
    /// The CPU has the engine's level; nobody else writes or reads the head's columns of answers.
    unsafe fn forward<E: Engine>(
        &self,
        p: &mut [f32],
        answers: &HeadRowsMut<'_>,
        positions: Option<&Positions<'_>>,
    ) {
        let Sizes { keys, head_dim, .. } = self.sizes;
        let stride = keys.next_multiple_of(STRIP);
        let scale = self.sizes.scale();
        let (height, width) = positions.map_or((0, 0), |p| (p.height, p.width));
        let [down, across] = positions.map_or_else(Default::default, |p| self.position_scores(p));
        // SAFETY: the caller promises the level, and the columns.
        unsafe {
            let _session = E::session();
            let mut work = Work::<E>::new(self.sizes);
            let k = columns_of::<E>(&self.k, keys);
            let v = rows_of::<E>(&self.v, 0..keys);
            for (block, p) in p.chunks_mut(BLOCK * keys).enumerate() {
                let (first, count) = (block * BLOCK, p.len() / keys);
                work.scores(&self.q, first, count, &k);
                for (r, p) in p.chunks_exact_mut(keys).enumerate() {
                    let across = &across[(first + r) * width..][..width];
                    let down = &down[(first + r) * height..][..height];
                    let row = &mut work.scores[r * stride..][..keys];
                    (E::KERNELS.scores_softmax)(row, scale, across, down);
                    p.copy_from_slice(row);
                }
                work.sums(count, &v);
                for r in 0..count {
                    let y = &work.sums[r * work.sums_stride..][..head_dim];
                    answers.row(first + r).copy_from_slice(y);
                }
            }
        }
    }

    /// Writes the gradients at queries, keys and values, and returns those at the tables of positions.
    ///
    /// # Safety
    /// The CPU has the engine's level; nobody else writes or reads the head's columns of gradients.
    unsafe fn backward<E: Engine>(
        &self,
        g: &HeadRows<'_>,
        p: &[f32],
        [of_q, of_k, of_v]: [HeadRowsMut<'_>; 3],
        positions: Option<&Positions<'_>>,
    ) -> (Vec<f32>, Vec<f32>) {
        let Sizes { keys, queries, .. } = self.sizes;
        let stride = keys.next_multiple_of(STRIP);
        let scale = self.sizes.scale();
        let (height, width) = positions.map_or((0, 0), |p| (p.height, p.width));
        // Sums over the columns and over the rows of keys.
        let mut down = vec![0.0_f32; queries * height];
        let mut across = vec![0.0_f32; queries * width];
        // SAFETY: the caller promises the level, and the columns.
        unsafe {
            let _session = E::session();
            let mut work = Work::<E>::new(self.sizes);
            let mut wide = Scratch::<f32>::take(if stride > keys { BLOCK * stride } else { 0 });
            let [mut k_sums, mut v_sums] = [(); 2].map(|()| KeySums::<E>::new(self.sizes));
            let v = columns_of::<E>(&self.v, keys);
            let k = rows_of::<E>(&self.k, 0..keys);
            for (block, p) in p.chunks(BLOCK * keys).enumerate() {
                let (first, count) = (block * BLOCK, p.len() / keys);
                // Engines turn whole tiles of columns: rows that end within one are copied apart.
                if stride > keys {
                    for (wide, p) in wide.chunks_exact_mut(stride).zip(p.chunks_exact(keys)) {
                        wide[..keys].copy_from_slice(p);
                        wide[keys..].fill(0.0);
                    }
                    v_sums.add(&wide, g, first, count);
                } else {
                    v_sums.add(p, g, first, count);
                }
                work.scores(g, first, count, &v);
                for (r, p) in p.chunks_exact(keys).enumerate() {
                    let row = &mut work.scores[r * stride..][..keys];
                    (E::KERNELS.softmax_gradient)(row, p);
                    let down = &mut down[(first + r) * height..][..height];
                    let across = &mut across[(first + r) * width..][..width];
                    for (down, scores) in down.iter_mut().zip(row.chunks_exact(width.max(1))) {
                        *down = scores.iter().sum();
                        (E::KERNELS.add)(across, scores);
                    }
                }
                work.sums(count, &k);
                for r in 0..count {
                    let sums = &work.sums[r * work.sums_stride..];
                    let to = of_q.row(first + r).iter_mut();
                    to.zip(sums).for_each(|(to, sum)| *to = scale * sum);
                }
                k_sums.add(&work.scores, &self.q, first, count);
            }
            for (to, sums, factor) in [(&of_k, &k_sums, scale), (&of_v, &v_sums, 1.0)] {
                for row in 0..keys {
                    let sums = &sums.sums[row * work.sums_stride..];
                    let to = to.row(row).iter_mut();
                    to.zip(sums.iter()).for_each(|(to, sum)| *to = factor * sum);
                }
            }
            match positions {
                Some(positions) => self.position_gradients([&down, &across], &of_q, positions),
                None => (Vec::new(), Vec::new()),
            }
        }
    }

    /// The gradients at both tables of positions, from that at scores, summed over the columns and over the rows of keys; what the
    /// tables add to the gradient at queries is added.
    ///
    /// # Safety
    /// Nobody else writes or reads the head's columns of that.
    unsafe fn position_gradients(
        &self,
        [down, across]: [&[f32]; 2],
        of_q: &HeadRowsMut<'_>,
        positions: &Positions<'_>,
    ) -> (Vec<f32>, Vec<f32>) {
        let Positions { height, width, .. } = *positions;
        let (head_dim, stride) = (self.sizes.head_dim, of_q.stride);
        let mut of_down = vec![0.0_f32; height * height * head_dim];
        let mut of_across = vec![0.0_f32; width * width * head_dim];
        // SAFETY: as the caller promises; sums and tables are as large as their products.
        unsafe {
            for y in 0..height {
                let part = y * height * head_dim..(y + 1) * height * head_dim;
                let g = Matrix::of(&down[y * width * height..][..width * height], height);
                let table = Matrix::of(&positions.down[part.clone()], head_dim);
                let c = of_q.row(y * width).as_mut_ptr();
                multiply(c, stride, [width, head_dim, height], g, table, true);
                let c = of_down[part].as_mut_ptr();
                let q = self.q.row_of_grid(y, width);
                let sizes = [height, head_dim, width];
                multiply(c, head_dim, sizes, g.turned(), q, false);
            }
            for x in 0..width {
                let part = x * width * head_dim..(x + 1) * width * head_dim;
                let g = Matrix::of(&across[x * width..], width * width);
                let table = Matrix::of(&positions.across[part.clone()], head_dim);
                let c = of_q.row(x).as_mut_ptr();
                let sizes = [height, head_dim, width];
                multiply(c, width * stride, sizes, g, table, true);
                let c = of_across[part].as_mut_ptr();
                let q = self.q.column_of_grid(x, width);
                let sizes = [width, head_dim, height];
                multiply(c, head_dim, sizes, g.turned(), q, false);
            }
        }
        (of_down, of_across)
    }
}

/// Rows as the columns of a right factor, `[width, count]`.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn columns_of<E: Engine>(rows: &HeadRows<'_>, count: usize) -> Scratch<E::Element> {
    let mut right = Scratch::take(E::right_len(rows.width, count));
    // SAFETY: the caller promises the level.
    unsafe { E::pack_columns(&mut right, rows.width, count, |j| rows.row(j)) };
    right
}

/// Rows as a right factor, `[count, width]`.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn rows_of<E: Engine>(
    rows: &HeadRows<'_>,
    range: std::ops::Range<usize>,
) -> Scratch<E::Element> {
    let count = range.len();
    let mut right = Scratch::take(E::right_len(count, rows.width));
    // SAFETY: the caller promises the level.
    unsafe {
        E::pack_rows(&mut right, count, 0..count, rows.width, |i| {
            rows.row(range.start + i)
        });
    }
    right
}

/// What a block of queries is computed in.
struct Work<E: Engine> {
    keys: usize,
    left: Scratch<E::Element>,
    /// `[queries, keys]`, rows whole strips.
    scores: Scratch<f32>,
    /// `[queries, head_dim]`, rows [`Work::sums_stride`] apart.
    sums: Scratch<f32>,
    sums_stride: usize,
}

impl<E: Engine> Work<E> {
    fn new(sizes: Sizes) -> Self {
        let stride = sizes.keys.next_multiple_of(STRIP);
        let sums_stride = sizes.head_dim.next_multiple_of(STRIP);
        let depth = sizes.head_dim.max(sizes.keys);
        Self {
            keys: sizes.keys,
            left: Scratch::take(E::left_len(BLOCK, depth)),
            scores: Scratch::take(padded_rows(BLOCK) * stride),
            sums: Scratch::take(padded_rows(BLOCK) * sums_stride),
            sums_stride,
        }
    }

    /// The products of some rows with the keys' columns.
    ///
    /// # Safety
    /// The CPU has the engine's level, and a session is alive.
    unsafe fn scores(
        &mut self,
        rows: &HeadRows<'_>,
        first: usize,
        count: usize,
        right: &[E::Element],
    ) {
        let stride = self.keys.next_multiple_of(STRIP);
        let (width, left) = (rows.width, &mut self.left);
        let depths = width.div_ceil(E::DEPTH);
        // SAFETY: as the caller promises.
        unsafe {
            E::pack_left(left, count, width, 0..width, |r| rows.row(first + r));
            let scores = &mut self.scores;
            product::<E>(
                scores,
                stride,
                count,
                stride,
                left,
                right,
                depths,
                0..depths,
                false,
            );
        }
    }

    /// The products of the scores with the keys' rows.
    ///
    /// # Safety
    /// The CPU has the engine's level, and a session is alive.
    unsafe fn sums(&mut self, count: usize, right: &[E::Element]) {
        let keys = self.keys;
        let stride = keys.next_multiple_of(STRIP);
        let (scores, left) = (&self.scores, &mut self.left);
        let depths = keys.div_ceil(E::DEPTH);
        // SAFETY: as the caller promises.
        unsafe {
            for first in (0..keys).step_by(DEPTH) {
                let part = first..keys.min(first + DEPTH);
                E::pack_left(left, count, keys, part.clone(), |r| {
                    &scores[r * stride..][part.clone()]
                });
            }
            let ldc = self.sums_stride;
            product::<E>(
                &mut self.sums,
                ldc,
                count,
                ldc,
                left,
                right,
                depths,
                0..depths,
                false,
            );
        }
    }
}

/// Sums over queries for each key, as their blocks go by.
struct KeySums<E: Engine> {
    keys: usize,
    turned: Scratch<E::Element>,
    /// `[keys, head_dim]`, rows whole strips.
    sums: Scratch<f32>,
}

impl<E: Engine> KeySums<E> {
    fn new(sizes: Sizes) -> Self {
        let stride = sizes.head_dim.next_multiple_of(STRIP);
        Self {
            keys: sizes.keys,
            turned: Scratch::take(E::left_len(sizes.keys, BLOCK)),
            sums: Scratch::take(padded_rows(sizes.keys) * stride),
        }
    }

    /// Adds the products of a block's scores, `[count, keys]` in rows of whole strips, with the rows of its queries.
    ///
    /// # Safety
    /// The CPU has the engine's level, and a session is alive.
    unsafe fn add(&mut self, scores: &[f32], rows: &HeadRows<'_>, first: usize, count: usize) {
        let keys = self.keys;
        let stride = keys.next_multiple_of(STRIP);
        let ldc = rows.width.next_multiple_of(STRIP);
        let depths = count.div_ceil(E::DEPTH);
        // SAFETY: as the caller promises.
        unsafe {
            let right = rows_of::<E>(rows, first..first + count);
            E::pack_transposed(&mut self.turned, scores, stride, count, keys);
            product::<E>(
                &mut self.sums,
                ldc,
                keys,
                ldc,
                &self.turned,
                &right,
                depths,
                0..depths,
                first > 0,
            );
        }
    }
}

/// The answers, `[batch, queries, heads * head_dim]`, and the softmax of scores, `[batch, heads, queries, keys]` or as [`few`]
/// has it.
pub(super) fn forward(
    rows: [Rows<'_>; 3],
    positions: Option<&Positions<'_>>,
    sizes: Sizes,
    (level, precision): (Level, Precision),
) -> (Vec<f32>, Vec<f32>) {
    if positions.is_none() && few::suits(sizes) {
        return few::forward(rows, sizes, RowKernels::of(level));
    }
    let dim = sizes.heads * sizes.head_dim;
    // SAFETY: every head of every item writes its columns of all rows, and its own scores.
    let mut y = unsafe { unwritten(sizes.batch * sizes.queries * dim) };
    // SAFETY: as above.
    let mut softmax = unsafe { unwritten(sizes.batch * sizes.heads * sizes.scores()) };
    let shared = Shared::new(&mut y);
    let answers = RowsMut {
        data: &shared,
        offset: 0,
        stride: dim,
    };
    let each = softmax.par_chunks_exact_mut(sizes.scores()).enumerate();
    with_engine!(level, precision, E => each.for_each(|(index, p)| {
        let head = Head::new(index, sizes, rows);
        let answers = answers.of_head(index, sizes.queries, sizes);
        // SAFETY: `with_engine` checks the level; the columns of a head of an item are its task's alone.
        unsafe { head.forward::<E>(p, &answers, positions) };
    }));
    (y, softmax)
}

/// Where gradients at queries, keys or values go: [`Rows`] that are written.
pub(super) struct RowsMut<'a> {
    pub(super) data: &'a Shared<'a, f32>,
    pub(super) offset: usize,
    pub(super) stride: usize,
}

impl<'a> RowsMut<'a> {
    /// The columns of the `index`-th of all items' heads, where an item has `count` rows.
    pub(super) fn of_head(&self, index: usize, count: usize, sizes: Sizes) -> HeadRowsMut<'a> {
        let (item, head) = (index / sizes.heads, index % sizes.heads);
        HeadRowsMut {
            data: self.data,
            first: item * count * self.stride + self.offset + head * sizes.head_dim,
            stride: self.stride,
            width: sizes.head_dim,
        }
    }
}

/// [`HeadRows`] that are written.
pub(super) struct HeadRowsMut<'a> {
    data: &'a Shared<'a, f32>,
    first: usize,
    stride: usize,
    width: usize,
}

impl HeadRowsMut<'_> {
    /// # Safety
    /// As [`Shared::part`].
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn row(&self, row: usize) -> &mut [f32] {
        // SAFETY: as the caller promises.
        unsafe { self.data.part(self.first + row * self.stride, self.width) }
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
    (level, precision): (Level, Precision),
) -> (Vec<f32>, Vec<f32>) {
    let kernels = RowKernels::of(level);
    if positions.is_none() && few::suits(sizes) {
        few::backward(g, softmax, rows, gradients, sizes, kernels);
        return (Vec::new(), Vec::new());
    }
    let g = Rows {
        data: g,
        offset: 0,
        stride: sizes.heads * sizes.head_dim,
    };
    let [of_q, of_k, of_v] = &gradients;
    let each = softmax.par_chunks_exact(sizes.scores()).enumerate();
    let tables: Vec<_> = with_engine!(level, precision, E => each.map(|(index, p)| {
        let head = Head::new(index, sizes, rows);
        let g = HeadRows::new(index, g, sizes.queries, sizes);
        let gradients = [
            of_q.of_head(index, sizes.queries, sizes),
            of_k.of_head(index, sizes.keys, sizes),
            of_v.of_head(index, sizes.keys, sizes),
        ];
        // SAFETY: `with_engine` checks the level; the columns of a head of an item are its task's alone.
        unsafe { head.backward::<E>(&g, p, gradients, positions) }
    }).collect());
    added(tables, kernels)
}
