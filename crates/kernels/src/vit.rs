//! A block of SAM's image encoder: norm, attention, residual; norm, MLP, residual.

use rayon::prelude::*;

use crate::aligned::{Scratch, Shared};
use crate::attention::{Positions, Qkv, attention};
use crate::engine::{Engine, STRIP, padded_rows};
use crate::level::Level;
use crate::matrix::{Linear, Norm};
use crate::precision::Precision;
use crate::profile::{self, Part};

/// Hidden channels of the MLP that are made at once, so that they stay in the cache.
const HIDDEN: usize = 384;

/// A linear layer as PyTorch has it.
#[derive(Clone, Copy, Debug)]
pub struct LinearWeights<'a> {
    /// `[outputs, inputs]`, row-major.
    pub weight: &'a [f32],
    /// `[outputs]`
    pub bias: &'a [f32],
}

/// A layer norm.
#[derive(Clone, Copy, Debug)]
pub struct NormWeights<'a> {
    /// Scale, `[channels]`.
    pub gamma: &'a [f32],
    /// Shift, `[channels]`.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// The weights of a block of the image encoder, of `dim` channels.
#[derive(Clone, Copy, Debug)]
pub struct BlockWeights<'a> {
    /// Before the attention.
    pub norm1: NormWeights<'a>,
    /// `dim` to queries, keys and values, `3 dim`, each `[heads, dim / heads]`.
    pub qkv: LinearWeights<'a>,
    /// `[2 rows - 1, dim / heads]` for the rows of a window, or of the grid.
    pub rel_pos_h: &'a [f32],
    /// `[2 columns - 1, dim / heads]`
    pub rel_pos_w: &'a [f32],
    /// After the attention.
    pub proj: LinearWeights<'a>,
    /// Before the MLP.
    pub norm2: NormWeights<'a>,
    /// `dim` to hidden channels.
    pub lin1: LinearWeights<'a>,
    /// Hidden channels to `dim`.
    pub lin2: LinearWeights<'a>,
    /// Heads of the attention.
    pub heads: usize,
    /// Side of a window, in tokens; none for attention among all tokens.
    pub window: Option<usize>,
    /// Rows and columns of tokens.
    pub grid: [usize; 2],
}

/// A block of the image encoder, its weights packed for this CPU.
pub struct VitBlock(Box<dyn Run>);

trait Run: Send + Sync {
    fn run(&self, x: &mut [f32]);
}

impl VitBlock {
    /// Packs the weights for a level of the CPU.
    ///
    /// # Panics
    /// If sizes do not fit each other, or this CPU lacks the level.
    pub fn new(weights: &BlockWeights<'_>, level: Level, precision: Precision) -> Self {
        crate::engine::with_engine!(level, precision, E => {
            // SAFETY: `with_engine` checks that the CPU has the level.
            Self(Box::new(unsafe { Block::<E>::new(weights) }))
        })
    }

    /// Runs the block over images, in place.
    ///
    /// # Shapes
    /// - `x`: `[images, rows, columns, dim]`
    ///
    /// # Panics
    /// If `x` is not whole images.
    pub fn forward(&self, x: &mut [f32]) {
        self.0.run(x);
    }
}

struct Block<E: Engine> {
    norm1: Norm,
    qkv: Linear<E>,
    positions: Positions<E>,
    proj: Linear<E>,
    norm2: Norm,
    lin1: Linear<E>,
    lin2: Linear<E>,
    heads: usize,
    window: Option<usize>,
    grid: [usize; 2],
}

impl<E: Engine> Block<E> {
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn new(w: &BlockWeights<'_>) -> Self {
        let dim = w.norm1.gamma.len();
        let d = dim / w.heads;
        // Queries are scaled by their weights; their products with positions are not, so those are scaled back.
        let scale = (d as f32).powf(-0.5);
        let scaled = |values: &[f32], queries: usize| -> Vec<f32> {
            let (q, rest) = values.split_at(queries);
            q.iter()
                .map(|v| v * scale)
                .chain(rest.iter().copied())
                .collect()
        };
        let unscaled = |values: &[f32]| -> Vec<f32> { values.iter().map(|v| v / scale).collect() };
        let [height, width] = w.window.map_or(w.grid, |window| [window; 2]);
        // SAFETY: the caller promises the level.
        unsafe {
            Self {
                norm1: Norm::new(w.norm1),
                qkv: Linear::new(
                    &scaled(w.qkv.weight, dim * dim),
                    Some(&scaled(w.qkv.bias, dim)),
                    3 * dim,
                ),
                positions: Positions::new(
                    &unscaled(w.rel_pos_h),
                    &unscaled(w.rel_pos_w),
                    height,
                    width,
                ),
                proj: Linear::new(w.proj.weight, Some(w.proj.bias), dim),
                norm2: Norm::new(w.norm2),
                lin1: Linear::new(w.lin1.weight, Some(w.lin1.bias), w.lin1.bias.len()),
                lin2: Linear::new(w.lin2.weight, Some(w.lin2.bias), dim),
                heads: w.heads,
                window: w.window,
                grid: w.grid,
            }
        }
    }

    /// Norm, queries, keys and values: `[tokens, 3 dim]`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn project(&self, x: &[f32], qkv: &mut [f32]) {
        let (dim, outputs) = (self.proj.inputs, self.qkv.outputs);
        let tokens = x.len() / dim;
        let qkv = Shared::new(qkv);
        let cost = Cost::of(Part::Projection, &[&self.qkv], dim + outputs);
        for_blocks::<E>(tokens, cost, |first, rows| {
            // SAFETY: a block's rows are its task's alone.
            let qkv = unsafe { qkv.part(first * outputs, rows * outputs) };
            let mut left = Scratch::<E::Element>::take(E::left_len(rows, dim));
            // SAFETY: the caller promises the level; rows of a block are written by its task alone.
            unsafe {
                self.norm1
                    .pack::<E>(&mut left, rows, dim, |r| &x[(first + r) * dim..][..dim]);
                self.qkv.strips(&left, rows, |column, sums| {
                    let (count, bias) = (STRIP.min(outputs - column), &self.qkv.bias[column..]);
                    (E::KERNELS.store_strip)(&mut qkv[column..], outputs, count, sums, bias);
                });
            }
        });
    }

    /// Projects what the attention gave and adds it to `x`; norm, MLP, and that added.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn finish(&self, attended: &[f32], x: &mut [f32]) {
        let (k, dim, hidden) = (E::KERNELS, self.proj.inputs, self.lin1.outputs);
        let tokens = x.len() / dim;
        let x = Shared::new(x);
        let layers = [&self.proj, &self.lin1, &self.lin2];
        let cost = Cost::of(Part::Mlp, &layers, 3 * dim);
        for_blocks::<E>(tokens, cost, |first, rows| {
            // SAFETY: a block's rows are its task's alone.
            let x = unsafe { x.part(first * dim, rows * dim) };
            let mut left = Scratch::<E::Element>::take(E::left_len(rows, dim));
            let mut made = Scratch::<E::Element>::take(E::left_len(rows, HIDDEN.min(hidden)));
            let stride = dim.next_multiple_of(STRIP);
            let mut sums = Scratch::<f32>::take(padded_rows(rows) * stride);
            // SAFETY: the caller promises the level.
            unsafe {
                E::pack_left(&mut left, rows, dim, 0..dim, |r| {
                    &attended[(first + r) * dim..][..dim]
                });
                self.proj.strips(&left, rows, |column, sums| {
                    let (count, bias) = (STRIP.min(dim - column), &self.proj.bias[column..]);
                    (k.add_strip)(&mut x[column..], dim, count, sums, bias);
                });
                self.norm2
                    .pack::<E>(&mut left, rows, dim, |r| &x[r * dim..][..dim]);
                for start in (0..hidden).step_by(HIDDEN) {
                    let part = start..hidden.min(start + HIDDEN);
                    self.lin1
                        .strips_of(&left, rows, part.clone(), |column, sums| {
                            let depth = column - start..part.end.min(column + STRIP) - start;
                            let bias = &self.lin1.bias[column..];
                            E::pack_gelu(&mut made, rows, part.len(), depth, sums, bias);
                        });
                    self.lin2.add_part(&mut sums, &made, rows, part);
                }
                for (sums, x) in sums.chunks_exact_mut(stride).zip(x.chunks_exact_mut(dim)) {
                    (k.add)(x, sums);
                    (k.add)(x, &self.lin2.bias);
                }
            }
        });
    }
}

impl<E: Engine> Run for Block<E> {
    fn run(&self, x: &mut [f32]) {
        let dim = self.proj.inputs;
        let [height, width] = self.grid;
        let tokens = height * width;
        assert!(
            x.len().is_multiple_of(tokens * dim),
            "whole images of {height} x {width} tokens"
        );
        let mut qkv = Scratch::<f32>::take(tokens * 3 * dim);
        let mut attended = Scratch::<f32>::take(tokens * dim);
        for x in x.chunks_exact_mut(tokens * dim) {
            // SAFETY: the level was checked when the block was made.
            unsafe {
                self.project(x, &mut qkv);
                let qkv = Qkv {
                    values: &qkv,
                    padding: &self.qkv.bias,
                    heads: self.heads,
                    d: dim / self.heads,
                };
                attention(
                    qkv,
                    height,
                    width,
                    self.window,
                    &self.positions,
                    &mut attended,
                );
                self.finish(&attended, x);
            }
        }
    }
}

/// What a block of rows costs, for the profile.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) part: Part,
    pub(crate) flops_per_row: usize,
    pub(crate) bytes_per_row: usize,
    pub(crate) bytes_per_block: usize,
}

impl Cost {
    /// Of linear layers over rows of which `floats` are read and written.
    pub(crate) fn of<E: Engine>(part: Part, layers: &[&Linear<E>], floats: usize) -> Self {
        Self {
            part,
            flops_per_row: layers.iter().map(|l| 2 * l.inputs * l.outputs).sum(),
            bytes_per_row: size_of::<f32>() * floats,
            bytes_per_block: layers.iter().map(|l| l.bytes()).sum(),
        }
    }
}

/// Calls `work` with the first row and the number of rows of every block, in parallel.
pub(crate) fn for_blocks<E: Engine>(
    rows: usize,
    cost: Cost,
    work: impl Fn(usize, usize) + Send + Sync,
) {
    // As many blocks for every thread, as large as the caches allow. Rows of a tile stay together.
    let threads = rayon::current_num_threads();
    let blocks = rows.div_ceil(E::BLOCK).next_multiple_of(threads);
    let block = rows.div_ceil(blocks).next_multiple_of(32);
    (0..rows.div_ceil(block)).into_par_iter().for_each(|i| {
        let first = i * block;
        let rows = block.min(rows - first);
        let bytes = rows * cost.bytes_per_row + cost.bytes_per_block;
        profile::count(cost.part, rows * cost.flops_per_row, bytes, || {
            // SAFETY: engines exist only where the level was checked, when weights were packed.
            let _session = unsafe { E::session() };
            work(first, rows);
        });
    });
}
