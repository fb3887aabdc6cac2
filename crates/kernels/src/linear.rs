//! A linear layer by itself.

use crate::aligned::{Scratch, Shared};
use crate::engine::{Engine, STRIP};
use crate::level::Level;
use crate::matrix::Linear;
use crate::precision::Precision;
use crate::profile::Part;
use crate::vit::{Cost, LinearWeights, for_blocks};

/// A linear layer, its weight packed for this CPU.
pub struct PackedLinear {
    kernel: Box<dyn Apply>,
    inputs: usize,
    outputs: usize,
}

trait Apply: Send + Sync {
    fn apply(&self, x: &[f32], y: &mut [f32]);
}

impl PackedLinear {
    /// Packs the weight for a level of the CPU.
    ///
    /// # Panics
    /// If the weight is not whole outputs, or this CPU lacks the level.
    pub fn new(weights: LinearWeights<'_>, level: Level, precision: Precision) -> Self {
        let outputs = weights.bias.len();
        let inputs = weights.weight.len() / outputs;
        crate::engine::with_engine!(level, precision, E => {
            // SAFETY: `with_engine` checks that the CPU has the level.
            let kernel = unsafe { Linear::<E>::new(weights.weight, Some(weights.bias), outputs) };
            Self { kernel: Box::new(kernel), inputs, outputs }
        })
    }

    /// # Shapes
    /// - `x`: `[rows, inputs]`
    /// - `y`: `[rows, outputs]`
    ///
    /// # Panics
    /// If the sizes are others.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        assert!(
            x.len().is_multiple_of(self.inputs),
            "whole rows of {}",
            self.inputs
        );
        assert_eq!(
            y.len(),
            x.len() / self.inputs * self.outputs,
            "as many rows"
        );
        self.kernel.apply(x, y);
    }
}

impl<E: Engine> Apply for Linear<E> {
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let y = Shared::new(y);
        let cost = Cost::of(Part::Linear, &[self], inputs + outputs);
        for_blocks::<E>(x.len() / inputs, cost, |first, rows| {
            let mut left = Scratch::<E::Element>::take(E::left_len(rows, inputs));
            // SAFETY: the level was checked when the weight was packed; rows of a block are written by its task alone.
            unsafe {
                E::pack_left(&mut left, rows, inputs, 0..inputs, |r| {
                    &x[(first + r) * inputs..][..inputs]
                });
                self.strips(&left, rows, |column, sums| {
                    let count = STRIP.min(outputs - column);
                    for (r, sums) in sums.chunks_exact_mut(STRIP).enumerate() {
                        (E::KERNELS.add)(sums, &self.bias[column..]);
                        y.part((first + r) * outputs + column, count)
                            .copy_from_slice(&sums[..count]);
                    }
                });
            }
        });
    }
}
