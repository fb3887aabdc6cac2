//! Weights, packed once.

use crate::aligned::{Aligned, Scratch};
use crate::engine::{Ahead, Engine, PANEL, Packed, STRIP, padded_rows, product, product_ahead};

/// The weight and bias of a linear layer, as an engine reads them.
pub(crate) struct Linear<E: Engine> {
    weight: Aligned<E::Element>,
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl<E: Engine> Linear<E> {
    /// `weight`: `[outputs, inputs]`, row-major, as PyTorch has it.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn new(weight: &[f32], bias: Option<&[f32]>, outputs: usize) -> Self {
        let inputs = weight.len() / outputs;
        assert_eq!(weight.len(), inputs * outputs);
        let mut packed = Aligned::zeros(E::right_len(inputs, outputs));
        // SAFETY: the caller promises the level.
        unsafe {
            E::pack_columns(&mut packed, inputs, outputs, |j| {
                &weight[j * inputs..][..inputs]
            });
        }
        let mut bias = bias.map_or(Vec::new(), <[f32]>::to_vec);
        bias.resize(outputs.next_multiple_of(STRIP), 0.0);
        Self {
            weight: packed,
            bias,
            inputs,
            outputs,
        }
    }

    /// Bytes of the packed weight.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.weight)
    }

    /// Depth in units of the engine.
    fn depths(&self) -> usize {
        self.inputs.div_ceil(E::DEPTH)
    }

    /// `x` `[rows, inputs]` to `[rows, outputs]`, with ReLU if asked, on this thread: for few rows.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn forward(&self, x: &[f32], relu: bool) -> Vec<f32> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        let mut left = Scratch::<E::Element>::take(E::left_len(rows, inputs));
        // SAFETY: the caller promises the level.
        unsafe {
            E::pack_left(&mut left, rows, inputs, 0..inputs, |r| {
                &x[r * inputs..][..inputs]
            });
            self.strips(&left, rows, |column, sums| {
                let count = STRIP.min(outputs - column);
                (E::KERNELS.store_strip)(
                    &mut y[column..],
                    outputs,
                    count,
                    sums,
                    &self.bias[column..],
                );
            });
            if relu {
                (E::KERNELS.relu)(&mut y);
            }
        }
        y
    }

    /// Multiplies a packed block of rows and hands out the sums, strip by strip: the first output, and per row
    /// [`STRIP`] sums without the bias. The last strip has sums of padding.
    ///
    /// # Safety
    /// The CPU has the engine's level; `left` was packed by it, with `rows` rows of `inputs`.
    pub(crate) unsafe fn strips(
        &self,
        left: &[E::Element],
        rows: usize,
        strip: impl FnMut(usize, &mut [f32]),
    ) {
        // SAFETY: as the caller promises.
        unsafe { self.strips_of(left, rows, 0..self.outputs, strip) }
    }

    /// [`Linear::strips`] of some of the outputs, from a multiple of [`STRIP`] on.
    ///
    /// # Safety
    /// As [`Linear::strips`].
    pub(crate) unsafe fn strips_of(
        &self,
        left: &[E::Element],
        rows: usize,
        outputs: std::ops::Range<usize>,
        mut strip: impl FnMut(usize, &mut [f32]),
    ) {
        let mut sums = Scratch::<f32>::take(padded_rows(rows) * STRIP);
        let depths = self.depths();
        for column in outputs.step_by(STRIP) {
            let right = &self.weight[column * depths * E::DEPTH * E::TERMS..];
            // SAFETY: the caller promises the level and the left factor; the right one is this strip.
            unsafe {
                product::<E>(
                    &mut sums,
                    STRIP,
                    rows,
                    STRIP,
                    left,
                    right,
                    depths,
                    0..depths,
                    false,
                );
            }
            strip(column, &mut sums[..rows * STRIP]);
        }
    }

    /// Multiplies a packed block of rows: the sums of some of the outputs, whole strips, without the bias. Meanwhile `ahead` is
    /// brought near.
    ///
    /// # Safety
    /// As [`Linear::strips`]; `sums` has [`padded_rows`] of as many floats as outputs are asked for.
    pub(crate) unsafe fn sums_of(
        &self,
        sums: &mut [f32],
        left: &[E::Element],
        rows: usize,
        outputs: std::ops::Range<usize>,
        ahead: &mut Ahead,
    ) {
        let depths = self.depths();
        let right = &self.weight[outputs.start * depths * E::DEPTH * E::TERMS..];
        let columns = outputs.len();
        // SAFETY: the caller promises the level and the left factor; the right one begins at these outputs.
        unsafe {
            product_ahead::<E>(
                sums,
                columns,
                rows,
                columns,
                left,
                right,
                depths,
                0..depths,
                false,
                ahead,
            );
        }
    }

    /// Adds the product of a part of the inputs to `sums` `[padded rows, outputs rounded up to strips]`: `left` is packed with
    /// the depths `inputs` alone.
    ///
    /// # Safety
    /// As [`Linear::strips`]; `inputs` begins at a multiple of [`Engine::DEPTH`].
    pub(crate) unsafe fn add_part(
        &self,
        sums: &mut [f32],
        left: &[E::Element],
        rows: usize,
        inputs: std::ops::Range<usize>,
    ) {
        let stride = self.outputs.next_multiple_of(STRIP);
        let unit = E::DEPTH * E::TERMS;
        let first = inputs.start / E::DEPTH;
        let count = inputs.end.div_ceil(E::DEPTH) - first;
        for column in (0..stride).step_by(STRIP) {
            // SAFETY: the strip's panels and `count` depths from `first` lie within the weight.
            unsafe {
                let right = Packed {
                    data: self
                        .weight
                        .as_ptr()
                        .add((column * self.depths() + first * PANEL) * unit),
                    depths: self.depths(),
                };
                E::strip(
                    sums.as_mut_ptr().add(column),
                    stride,
                    rows,
                    Packed {
                        data: left.as_ptr(),
                        depths: count,
                    },
                    right,
                    0..count,
                    right.next_strip::<E>(0),
                    inputs.start > 0,
                );
            }
        }
    }
}

/// Scale and shift of a layer norm.
pub(crate) struct Norm {
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
    pub(crate) epsilon: f32,
}

impl Norm {
    pub(crate) fn new(weights: crate::vit::NormWeights<'_>) -> Self {
        Self {
            gamma: weights.gamma.to_vec(),
            beta: weights.beta.to_vec(),
            epsilon: weights.epsilon,
        }
    }

    /// Normalises rows that are `stride` apart, in place.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn apply<E: Engine>(&self, x: &mut [f32], stride: usize) {
        // SAFETY: the caller promises the level.
        unsafe { (E::KERNELS.norm_rows)(x, stride, &self.gamma, &self.beta, self.epsilon) };
    }

    /// Packs normalised rows as a left factor.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(crate) unsafe fn pack<'a, E: Engine>(
        &self,
        left: &mut [E::Element],
        rows: usize,
        dim: usize,
        row: impl Fn(usize) -> &'a [f32],
    ) {
        let mut normed = Scratch::<f32>::take(rows * dim);
        // SAFETY: the caller promises the level.
        unsafe {
            for (r, normed) in normed.chunks_exact_mut(dim).enumerate() {
                (E::KERNELS.layer_norm)(normed, row(r), &self.gamma, &self.beta, self.epsilon);
            }
            E::pack_left(left, rows, dim, 0..dim, |r| &normed[r * dim..][..dim]);
        }
    }
}
