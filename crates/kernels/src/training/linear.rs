//! A linear layer and its gradients: three products.

use rayon::prelude::*;

use crate::aligned::{Aligned, Scratch, Shared, unwritten};
use crate::engine::{Engine, STRIP, padded_rows, product, with_engine};
use crate::profile::Part;
use crate::rows::RowKernels;
use crate::vit::{Cost, for_blocks};
use crate::{Level, Precision};

/// Rows whose products are added up at once for the weight's gradient: sums have one order, whatever the threads.
const ROWS_AT_ONCE: usize = 2048;
/// Rows of those that are packed at once.
const DEPTH: usize = 512;

/// The sizes of a product of rows with a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Sizes {
    /// Of the product with the weight turned.
    pub(super) fn turned(self) -> Self {
        Self {
            inputs: self.outputs,
            outputs: self.inputs,
            ..self
        }
    }
}

/// `x` `[rows, inputs]` times `weight` `[inputs, outputs]` and `bias` `[outputs]` added: `[rows, outputs]`.
pub(super) fn forward(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    sizes: Sizes,
    (level, precision): (Level, Precision),
) -> Vec<f32> {
    let Sizes {
        inputs, outputs, ..
    } = sizes;
    with_engine!(level, precision, E => {
        let mut right = Aligned::zeros(E::right_len(inputs, outputs));
        // SAFETY: `with_engine` checks that the CPU has the level.
        unsafe {
            E::pack_rows(&mut right, inputs, 0..inputs, outputs, |i| {
                &weight[i * outputs..][..outputs]
            });
            rows_times::<E>(x, &right, Some(bias), sizes)
        }
    })
}

/// The gradient at `x` of that at the result, `g` `[rows, outputs]`.
pub(super) fn gradient_of_rows(
    g: &[f32],
    weight: &[f32],
    sizes: Sizes,
    (level, precision): (Level, Precision),
) -> Vec<f32> {
    let Sizes {
        inputs, outputs, ..
    } = sizes;
    with_engine!(level, precision, E => {
        let mut right = Aligned::zeros(E::right_len(outputs, inputs));
        // SAFETY: `with_engine` checks that the CPU has the level.
        unsafe {
            E::pack_columns(&mut right, outputs, inputs, |j| &weight[j * outputs..][..outputs]);
            rows_times::<E>(g, &right, None, sizes.turned())
        }
    })
}

/// # Safety
/// The CPU has the engine's level; `right` is packed by it.
unsafe fn rows_times<E: Engine>(
    x: &[f32],
    right: &[E::Element],
    bias: Option<&[f32]>,
    Sizes {
        rows,
        inputs,
        outputs,
    }: Sizes,
) -> Vec<f32> {
    let bias = bias.map_or(vec![0.0; outputs.next_multiple_of(STRIP)], padded);
    // SAFETY: blocks are all rows, and their strips all columns.
    let mut y = unsafe { unwritten(rows * outputs) };
    let shared = Shared::new(&mut y);
    let cost = Cost {
        part: Part::Linear,
        flops_per_row: 2 * inputs * outputs,
        bytes_per_row: (inputs + outputs) * size_of::<f32>(),
        bytes_per_block: size_of_val(right),
    };
    for_blocks::<E>(rows, cost, |first, count| {
        let sizes = Sizes {
            rows: count,
            inputs,
            outputs,
        };
        let x = &x[first * inputs..][..count * inputs];
        // SAFETY: the caller promises the level and the packing; a block's rows are its task's alone.
        unsafe {
            let y = shared.part(first * outputs, count * outputs);
            block_times::<E>(y, x, right, &bias, sizes);
        }
    });
    y
}

/// A bias as whole strips.
pub(super) fn padded(bias: &[f32]) -> Vec<f32> {
    let mut padded = bias.to_vec();
    padded.resize(bias.len().next_multiple_of(STRIP), 0.0);
    padded
}

/// The product of some rows with a packed weight, and a [`padded`] bias added: `y` is written.
///
/// # Safety
/// The CPU has the engine's level; `right` is packed by it.
pub(super) unsafe fn block_times<E: Engine>(
    y: &mut [f32],
    x: &[f32],
    right: &[E::Element],
    bias: &[f32],
    Sizes {
        rows,
        inputs,
        outputs,
    }: Sizes,
) {
    let depths = inputs.div_ceil(E::DEPTH);
    let mut left = Scratch::<E::Element>::take(E::left_len(rows, inputs));
    let mut sums = Scratch::<f32>::take(padded_rows(rows) * STRIP);
    // SAFETY: the caller promises the level and the packing; the session lives as long as the products.
    unsafe {
        let _session = E::session();
        E::pack_left(&mut left, rows, inputs, 0..inputs, |r| {
            &x[r * inputs..][..inputs]
        });
        for column in (0..outputs).step_by(STRIP) {
            let strip = &right[column * depths * E::DEPTH * E::TERMS..];
            product::<E>(
                &mut sums,
                STRIP,
                rows,
                STRIP,
                &left,
                strip,
                depths,
                0..depths,
                false,
            );
            let width = STRIP.min(outputs - column);
            let (y, bias) = (&mut y[column..], &bias[column..]);
            (E::KERNELS.store_strip)(y, outputs, width, &sums[..rows * STRIP], bias);
        }
    }
}

/// The gradients at the weight, `[inputs, outputs]`, and at the bias, `[outputs]`.
pub(super) fn gradient_of_weights(
    x: &[f32],
    g: &[f32],
    sizes: Sizes,
    (level, precision): (Level, Precision),
) -> (Vec<f32>, Vec<f32>) {
    with_engine!(level, precision, E => {
        let firsts = (0..sizes.rows).step_by(ROWS_AT_ONCE);
        let parts: Vec<_> = firsts
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|first| {
                let rows = ROWS_AT_ONCE.min(sizes.rows - first);
                let x = &x[first * sizes.inputs..][..rows * sizes.inputs];
                let g = &g[first * sizes.outputs..][..rows * sizes.outputs];
                // SAFETY: `with_engine` checks that the CPU has the level.
                unsafe { weights_of_rows::<E>(x, g, Sizes { rows, ..sizes }) }
            })
            .collect();
        added(parts, E::KERNELS)
    })
}

/// # Safety
/// The CPU has the engine's level.
pub(super) unsafe fn weights_of_rows<E: Engine>(
    x: &[f32],
    g: &[f32],
    Sizes {
        rows,
        inputs,
        outputs,
    }: Sizes,
) -> (Vec<f32>, Vec<f32>) {
    let stride = outputs.next_multiple_of(STRIP);
    let mut sums = Scratch::<f32>::take(padded_rows(inputs) * stride);
    let depth = DEPTH.min(rows);
    let mut left = Scratch::<E::Element>::take(E::left_len(inputs, depth));
    let mut right = Scratch::<E::Element>::take(E::right_len(depth, outputs));
    let mut bias = vec![0.0; outputs];
    // Engines turn whole tiles of columns: rows that end within one are copied apart.
    let apart = inputs.next_multiple_of(STRIP);
    let mut wide = Scratch::<f32>::take(if apart > inputs { depth * apart } else { 0 });
    // SAFETY: the caller promises the level; the session lives as long as the products.
    unsafe {
        let _session = E::session();
        for first in (0..rows).step_by(depth) {
            let count = depth.min(rows - first);
            let depths = count.div_ceil(E::DEPTH);
            let x = &x[first * inputs..][..count * inputs];
            if apart > inputs {
                for (wide, x) in wide.chunks_exact_mut(apart).zip(x.chunks_exact(inputs)) {
                    wide[..inputs].copy_from_slice(x);
                    wide[inputs..].fill(0.0);
                }
                E::pack_transposed(&mut left, &wide, apart, count, inputs);
            } else {
                E::pack_transposed(&mut left, x, inputs, count, inputs);
            }
            E::pack_rows(&mut right, count, 0..count, outputs, |i| {
                &g[(first + i) * outputs..][..outputs]
            });
            product::<E>(
                &mut sums,
                stride,
                inputs,
                stride,
                &left,
                &right,
                depths,
                0..depths,
                first > 0,
            );
        }
        for g in g.chunks_exact(outputs) {
            (E::KERNELS.add)(&mut bias, g);
        }
    }
    let mut weight = Vec::with_capacity(inputs * outputs);
    for row in sums.chunks_exact(stride).take(inputs) {
        weight.extend_from_slice(&row[..outputs]);
    }
    (weight, bias)
}

/// Partial sums added up in order.
pub(super) fn added(
    parts: Vec<(Vec<f32>, Vec<f32>)>,
    kernels: &RowKernels,
) -> (Vec<f32>, Vec<f32>) {
    let mut parts = parts.into_iter();
    let (mut a, mut b) = parts.next().expect("there are rows");
    for (x, y) in parts {
        // SAFETY: the table is of a level that the CPU has.
        unsafe {
            (kernels.add)(&mut a, &x);
            (kernels.add)(&mut b, &y);
        }
    }
    (a, b)
}
