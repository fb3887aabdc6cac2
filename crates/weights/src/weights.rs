//! Checkpoint tensors to Burn modules, every misfit collected.
//!
//! Modules ask for their tensors by official key and expected shape. A tensor that is missing or
//! mis-shaped is noted and stood in for by zeros, so that one pass finds every problem; [`Weights::finish`]
//! then refuses the model as a whole, with the keys nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use burn::module::Param;
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor, TensorData};

use crate::checkpoint::{Checkpoint, CheckpointError, KeyProblem};
use crate::key_map::{KeyMap, Part};

/// Where the values come from.
enum Source<'a> {
    Checkpoint(&'a Checkpoint),
    /// Makes the values of the tensor of a key and a shape.
    Fresh(&'a mut dyn FnMut(&str, &[usize]) -> Vec<f32>),
}

/// A checkpoint being taken apart into the modules of a model.
pub struct Weights<'a> {
    source: Source<'a>,
    device: &'a Device,
    /// Shapes and values in place of the file's.
    changed: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    taken: BTreeSet<String>,
    problems: Vec<KeyProblem>,
    failed: Option<CheckpointError>,
    keys: KeyMap,
}

impl<'a> Weights<'a> {
    /// Nothing taken yet.
    pub fn new(checkpoint: &'a Checkpoint, device: &'a Device) -> Self {
        Self::of(Source::Checkpoint(checkpoint), device)
    }

    /// Without a checkpoint: `initial` makes the values of each tensor that is asked for, by its key and shape, row-major.
    pub fn fresh(
        device: &'a Device,
        initial: &'a mut dyn FnMut(&str, &[usize]) -> Vec<f32>,
    ) -> Self {
        Self::of(Source::Fresh(initial), device)
    }

    fn of(source: Source<'a>, device: &'a Device) -> Self {
        Self {
            source,
            device,
            changed: BTreeMap::new(),
            taken: BTreeSet::new(),
            problems: Vec::new(),
            failed: None,
            keys: KeyMap::default(),
        }
    }

    /// Which key stands for which parameter, of the modules made so far.
    pub fn keys(&self) -> &KeyMap {
        &self.keys
    }

    /// From now on the tensor of `key`, which the file has in the shape `found`, is what `change` makes of its values,
    /// row-major, in the shape `wanted`.
    pub fn change<const D: usize>(
        &mut self,
        key: &str,
        found: [usize; D],
        wanted: [usize; D],
        change: impl FnOnce(Vec<f32>) -> Vec<f32>,
    ) {
        let values = change(self.read(key, found));
        assert_eq!(
            values.len(),
            wanted.iter().product::<usize>(),
            "values of {key}"
        );
        self.changed
            .insert(key.to_owned(), (wanted.to_vec(), values));
    }

    /// The shape the file gives for `key`, of rank 1 or more, or that which it was changed to.
    pub fn checkpoint_shape(&self, key: &str) -> Option<&[usize]> {
        if let Some((shape, _)) = self.changed.get(key) {
            return Some(shape);
        }
        match &self.source {
            Source::Checkpoint(checkpoint) => {
                checkpoint.shape(key).filter(|shape| !shape.is_empty())
            }
            Source::Fresh(_) => None,
        }
    }

    /// The tensor's values, row-major; zeros where it does not fit.
    pub fn values<const D: usize>(&mut self, key: &str, expected: [usize; D]) -> Vec<f32> {
        self.taken.insert(key.to_owned());
        self.keys.constant(key, &expected);
        match self.changed.get(key) {
            Some((shape, values)) if *shape == expected => values.clone(),
            _ => self.read(key, expected),
        }
    }

    /// The values in the source.
    fn read<const D: usize>(&mut self, key: &str, expected: [usize; D]) -> Vec<f32> {
        let zeros = || vec![0.0; expected.iter().product()];
        let checkpoint = match &mut self.source {
            Source::Checkpoint(checkpoint) => *checkpoint,
            Source::Fresh(initial) => {
                let values = initial(key, &expected);
                let wanted: usize = expected.iter().product();
                assert_eq!(values.len(), wanted, "values of {key}");
                return values;
            }
        };
        let Some(found) = checkpoint.shape(key) else {
            self.problems.push(KeyProblem::Missing {
                key: key.to_owned(),
                expected: expected.to_vec(),
            });
            return zeros();
        };
        if found != expected {
            self.problems.push(KeyProblem::Shape {
                key: key.to_owned(),
                expected: expected.to_vec(),
                found: found.to_vec(),
            });
            return zeros();
        }
        match checkpoint.read(key) {
            Ok(Some(Ok(values))) => values,
            Ok(Some(Err(found))) => {
                let key = key.to_owned();
                self.problems.push(KeyProblem::Type { key, found });
                zeros()
            }
            Ok(None) => zeros(),
            Err(error) => {
                self.failed.get_or_insert(error);
                zeros()
            }
        }
    }

    /// A tensor; zeros where it does not fit.
    pub fn tensor<const D: usize>(&mut self, key: &str, shape: [usize; D]) -> Tensor<D> {
        let values = self.values(key, shape);
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    /// [`Weights::tensor`] as a module's parameter.
    pub fn param<const D: usize>(&mut self, key: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        let param = Param::from_tensor(self.tensor(key, shape));
        self.keys.parameter(key, param.id, false);
        param
    }

    /// `torch.nn.Linear(input, output)`, whose `[out, in]` weight Burn keeps as `[in, out]`.
    pub fn linear(&mut self, prefix: &str, input: usize, output: usize) -> Linear {
        let weight = self.values(&format!("{prefix}.weight"), [output, input]);
        let bias = self.values(&format!("{prefix}.bias"), [output]);
        let linear = self.linear_of(&weight, Some(bias), input, output);
        self.linear_keys(prefix, &linear);
        linear
    }

    /// `torch.nn.Linear(input, output, bias=False)`.
    pub fn linear_without_bias(&mut self, prefix: &str, input: usize, output: usize) -> Linear {
        let weight = self.values(&format!("{prefix}.weight"), [output, input]);
        let linear = self.linear_of(&weight, None, input, output);
        self.linear_keys(prefix, &linear);
        linear
    }

    fn linear_keys(&mut self, prefix: &str, linear: &Linear) {
        self.keys
            .parameter(&format!("{prefix}.weight"), linear.weight.id, true);
        if let Some(bias) = &linear.bias {
            self.keys
                .parameter(&format!("{prefix}.bias"), bias.id, false);
        }
    }

    /// Several `torch.nn.Linear(input, output)` of one input as one layer, their outputs side by side: queries, keys and
    /// values of an attention. They stay tensors of their own in the file.
    pub fn fused_linear(&mut self, prefixes: &[String], input: usize, output: usize) -> Linear {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            weight.extend(self.values(&format!("{prefix}.weight"), [output, input]));
            bias.extend(self.values(&format!("{prefix}.bias"), [output]));
        }
        let of = prefixes.len();
        let linear = self.linear_of(&weight, Some(bias), input, of * output);
        let bias = linear.bias.as_ref().expect("made with one").id;
        for (number, prefix) in prefixes.iter().enumerate() {
            let part = Part { number, of };
            self.keys
                .part(&format!("{prefix}.weight"), linear.weight.id, part);
            self.keys.part(&format!("{prefix}.bias"), bias, part);
        }
        linear
    }

    /// A linear layer of values that were taken already: `weight` is `[output, input]`, row-major.
    ///
    /// The weight is laid out anew rather than viewed transposed: over a transposed view the CPU's matrix
    /// product takes another path for few rows, with another order of summation, and a row's result
    /// would depend on how many rows are in its batch.
    pub fn linear_of(
        &self,
        weight: &[f32],
        bias: Option<Vec<f32>>,
        input: usize,
        output: usize,
    ) -> Linear {
        let weight = TensorData::new(transposed(weight, output, input), [input, output]);
        let bias = bias.map(|bias| TensorData::new(bias, [output]));
        Linear {
            weight: Param::from_tensor(Tensor::from_data(weight, self.device)),
            bias: bias.map(|bias| Param::from_tensor(Tensor::from_data(bias, self.device))),
        }
    }

    /// Passes over a tensor that the file may have and the model does not use.
    pub fn ignore(&mut self, key: &str) {
        self.taken.insert(key.to_owned());
    }

    /// `torch.nn.LayerNorm`, or SAM's `LayerNorm2d` applied to channels-last tensors.
    pub fn layer_norm(&mut self, prefix: &str, dim: usize, epsilon: f64) -> LayerNorm {
        let mut norm = LayerNormConfig::new(dim)
            .with_epsilon(epsilon)
            .init(self.device);
        norm.gamma = self.param(&format!("{prefix}.weight"), [dim]);
        norm.beta = Some(self.param(&format!("{prefix}.bias"), [dim]));
        norm
    }

    /// Refuses the model where any tensor did not fit or was left over; `architecture` says what was expected.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] with every tensor at fault; what could not be read at all.
    pub fn finish(mut self, architecture: &impl Display) -> Result<KeyMap, CheckpointError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Source::Checkpoint(checkpoint) = self.source else {
            return Ok(self.keys);
        };
        for (key, shape) in checkpoint.shapes() {
            if !self.taken.contains(key) {
                self.problems.push(KeyProblem::Unexpected {
                    key: key.to_owned(),
                    found: shape.to_vec(),
                });
            }
        }
        if self.problems.is_empty() {
            return Ok(self.keys);
        }
        Err(CheckpointError::Mismatch {
            path: checkpoint.path().to_owned(),
            architecture: architecture.to_string(),
            problems: self.problems,
        })
    }
}

/// `[rows, columns]` -> `[columns, rows]`, in blocks that stay in the cache.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let mut result = vec![0.0; values.len()];
    for row_block in (0..rows).step_by(BLOCK) {
        for column_block in (0..columns).step_by(BLOCK) {
            for row in row_block..rows.min(row_block + BLOCK) {
                for column in column_block..columns.min(column_block + BLOCK) {
                    result[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_moves_every_element() {
        let (rows, columns) = (37, 65);
        let values: Vec<f32> = (0..rows * columns).map(|v| v as f32).collect();
        let result = transposed(&values, rows, columns);
        for row in 0..rows {
            for column in 0..columns {
                assert_eq!(result[column * rows + row], values[row * columns + column]);
            }
        }
    }
}
