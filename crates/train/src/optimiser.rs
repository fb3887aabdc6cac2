//! AdamW over all trained parameters as one row of numbers.
//!
//! One row instead of three hundred small tensors: a step is a dozen operations whatever the model, the norm of all
//! gradients is one sum, and the state that a resumed run needs is three rows.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use maskmill_job::OptimiserSettings;
use maskmill_kernels::{AdamwState, AdamwStep, adamw};

use crate::model::Learner;

/// Added to the root of the mean square (PyTorch's default).
const EPSILON: f64 = 1e-8;
/// Parameters begin at multiples of this many numbers: GPUs load aligned vectors.
const ALIGNMENT: usize = 64;

/// Where a parameter lies in the row.
#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: usize,
    count: usize,
}

/// The trained parameters' places in the row, in the order of their keys.
#[derive(Clone, Debug)]
pub struct Layout {
    keys: Vec<(String, ParamId, Slot)>,
    slots: HashMap<ParamId, Slot>,
    length: usize,
}

/// The numbers that training changes, and what it remembers of earlier gradients: `[parameters]` each.
#[derive(Clone)]
pub struct OptimiserState {
    /// The parameters.
    pub weights: Tensor<1>,
    /// Running mean of gradients.
    pub first_moment: Tensor<1>,
    /// Running mean of their squares.
    pub second_moment: Tensor<1>,
}

/// [`adamw`] of Burn's operations, for every device.
fn adamw_of_operations(
    (weights, first_moment, second_moment): AdamwState,
    gradient: Tensor<1>,
    scale: Tensor<1>,
    decay: Tensor<1>,
    step: AdamwStep,
) -> AdamwState {
    let [beta_1, beta_2] = step.betas;
    let [first_correction, second_correction] = step.corrections();
    let gradient = gradient.mul_scalar(step.gradient_scale);
    let first = first_moment.mul_scalar(beta_1) + gradient.clone().mul_scalar(1.0 - beta_1);
    let second = second_moment.mul_scalar(beta_2) + gradient.square().mul_scalar(1.0 - beta_2);
    let spread = second.clone().sqrt().div_scalar(second_correction) + step.epsilon;
    let towards = first.clone().div(spread) * scale;
    let kept = decay.mul_scalar(-step.rate) + 1.0;
    let weights = weights * kept - towards.mul_scalar(step.rate / first_correction);
    (weights, first, second)
}

/// Which step of the optimiser it is.
#[derive(Clone, Copy, Debug)]
pub struct StepAt {
    /// Counted from 1.
    pub step: u32,
    /// The learning rate.
    pub rate: f64,
    /// What the gradient is multiplied by before all else.
    pub gradient_scale: f64,
}

/// AdamW (Loshchilov and Hutter, 2019) as `torch.optim.AdamW` computes it, with layer-wise decay of the learning rate.
pub struct Optimiser {
    layout: Layout,
    state: OptimiserState,
    /// Of the learning rate, by parameter.
    scale: Tensor<1>,
    /// Weight decay by parameter, `scale` included.
    decay: Tensor<1>,
    betas: [f64; 2],
}

impl Optimiser {
    /// For what `settings` says is trained; everything else of `model` stops asking for gradients.
    pub fn new(model: &mut impl Learner, settings: &OptimiserSettings) -> Self {
        let trained = Trained::of(model, settings);
        let layout = Layout::of(&trained);
        let [mut scale, mut decay] = [vec![0.0_f32; layout.length], vec![0.0_f32; layout.length]];
        for Trained {
            id, rate, decays, ..
        } in &trained
        {
            let Slot { offset, count } = layout.slots[id];
            scale[offset..offset + count].fill(*rate as f32);
            if *decays {
                let decayed = (rate * settings.weight_decay) as f32;
                decay[offset..offset + count].fill(decayed);
            }
        }
        let device = model.device().clone().without_autodiff();
        let row = |values| row(values, &device);
        let values = model.values();
        let mut weights = vec![0.0_f32; layout.length];
        for (_, id, slot) in &layout.keys {
            weights[slot.offset..slot.offset + slot.count].copy_from_slice(&values[id]);
        }
        let zeros = || Tensor::zeros([layout.length], &device);
        let state = OptimiserState {
            weights: row(weights),
            first_moment: zeros(),
            second_moment: zeros(),
        };
        let optimiser = Self {
            layout,
            state,
            scale: row(scale),
            decay: row(decay),
            betas: settings.betas,
        };
        optimiser.assign(model);
        optimiser
    }

    /// Numbers trained.
    pub fn parameters(&self) -> usize {
        self.layout.keys.iter().map(|(_, _, slot)| slot.count).sum()
    }

    /// Each trained parameter's key and its part of a row of the layout. A parameter that is made of several of the file's
    /// tensors comes with the key of the first.
    pub fn parts<'r>(&'r self, row: &'r [f32]) -> impl Iterator<Item = (&'r str, &'r [f32])> {
        let keys = self.layout.keys.iter();
        keys.map(|(key, _, slot)| (key.as_str(), &row[slot.offset..slot.offset + slot.count]))
    }

    /// The gradients of a loss as one row; zeros where a parameter had no part in it.
    pub fn gathered(&self, networks: &impl Module, mut gradients: Gradients) -> Tensor<1> {
        let mut gather = Gather {
            gradients: &mut gradients,
            found: HashMap::new(),
        };
        networks.visit(&mut gather);
        let device = self.state.weights.device();
        let mut found = gather.found;
        let mut parts = Vec::with_capacity(self.layout.keys.len());
        let mut filled = 0;
        for (_, id, slot) in &self.layout.keys {
            if slot.offset > filled {
                parts.push(Tensor::zeros([slot.offset - filled], &device));
            }
            let gradient = found.remove(id);
            parts.push(gradient.unwrap_or_else(|| Tensor::zeros([slot.count], &device)));
            filled = slot.offset + slot.count;
        }
        if self.layout.length > filled {
            parts.push(Tensor::zeros([self.layout.length - filled], &device));
        }
        Tensor::cat(parts, 0)
    }

    /// One step: changes the parameters of `model`. The gradient is the row that it follows.
    pub fn step(&mut self, model: &mut impl Learner, gradient: Tensor<1>, at: StepAt) {
        let nothing = || Tensor::empty([0], &self.state.weights.device());
        let nothing = OptimiserState {
            weights: nothing(),
            first_moment: nothing(),
            second_moment: nothing(),
        };
        // Moved, so that it is changed in place.
        let state = std::mem::replace(&mut self.state, nothing);
        let step = AdamwStep {
            betas: self.betas,
            epsilon: EPSILON,
            rate: at.rate,
            step: at.step,
            gradient_scale: at.gradient_scale,
        };
        let compute = match gradient.device() == Device::flex() {
            true => adamw,
            false => adamw_of_operations,
        };
        let (weights, first_moment, second_moment) = compute(
            (state.weights, state.first_moment, state.second_moment),
            gradient,
            self.scale.clone(),
            self.decay.clone(),
            step,
        );
        self.state = OptimiserState {
            weights,
            first_moment,
            second_moment,
        };
        self.assign(model);
    }

    /// What a resumed run needs.
    pub fn state(&self) -> &OptimiserState {
        &self.state
    }

    /// Goes on from a saved state.
    ///
    /// # Panics
    /// If its rows have another length.
    pub fn restore(&mut self, model: &mut impl Learner, rows: [Vec<f32>; 3]) {
        let device = self.state.weights.device();
        let [weights, first_moment, second_moment] = rows.map(|values| {
            assert_eq!(values.len(), self.layout.length, "numbers of a saved state");
            row(values, &device)
        });
        self.state = OptimiserState {
            weights,
            first_moment,
            second_moment,
        };
        self.assign(model);
    }

    /// Numbers in a row, the gaps between parameters included.
    pub fn row_length(&self) -> usize {
        self.layout.length
    }

    /// The model with leaves of its own in autodiff's graph: gradients of copies can be computed at the same time.
    pub fn copy_of<M: Learner>(&self, model: &M) -> M {
        model.with_networks(self.assigned(model.networks()))
    }

    fn assign(&self, model: &mut impl Learner) {
        let networks = self.assigned(model.networks());
        *model.networks_mut() = networks;
    }

    fn assigned<N: Module>(&self, networks: &N) -> N {
        networks.clone().map(&mut Assign {
            weights: &self.state.weights,
            slots: &self.layout.slots,
        })
    }
}

fn row(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

impl Layout {
    fn of(parameters: &[Trained]) -> Self {
        let mut keys = Vec::with_capacity(parameters.len());
        let mut length = 0;
        // Those of aligned length first, so that few gaps are needed.
        let (aligned, others): (Vec<_>, Vec<_>) = parameters
            .iter()
            .partition(|p| p.count.is_multiple_of(ALIGNMENT));
        for parameter in aligned.into_iter().chain(others) {
            let slot = Slot {
                offset: length,
                count: parameter.count,
            };
            length += slot.count.next_multiple_of(ALIGNMENT);
            keys.push((parameter.key.clone(), parameter.id, slot));
        }
        let slots = keys.iter().map(|(_, id, slot)| (*id, *slot)).collect();
        Self {
            keys,
            slots,
            length,
        }
    }
}

/// A parameter that is trained.
struct Trained {
    /// Its key, or that of the first of the file's tensors that it is made of.
    key: String,
    id: ParamId,
    count: usize,
    /// Of the learning rate.
    rate: f64,
    decays: bool,
}

impl Trained {
    /// Those of a model, in the order of their keys.
    fn of(model: &impl Learner, settings: &OptimiserSettings) -> Vec<Self> {
        let mut trained: Vec<Self> = Vec::new();
        for placement in model.keys().placements() {
            let rate = model.rate(&placement.key, settings);
            let (Some(id), Some(rate)) = (placement.parameter, rate) else {
                continue;
            };
            let count = placement.shape.iter().product::<usize>();
            if placement.part.is_some_and(|part| part.number > 0) {
                let first = trained.iter_mut().find(|parameter| parameter.id == id);
                first.expect("parts follow the first").count += count;
                continue;
            }
            trained.push(Self {
                key: placement.key.clone(),
                id,
                count,
                rate,
                decays: model.decays(placement),
            });
        }
        trained
    }
}

struct Gather<'g> {
    gradients: &'g mut Gradients,
    found: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for Gather<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            let count = gradient.shape().num_elements();
            self.found.insert(param.id, gradient.reshape([count]));
        }
    }
}

struct Assign<'w> {
    weights: &'w Tensor<1>,
    slots: &'w HashMap<ParamId, Slot>,
}

impl ModuleMapper for Assign<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.slots.get(&param.id) {
            None => param.set_require_grad(false),
            Some(&Slot { offset, count }) => param.map(|old| {
                let part = self.weights.clone().narrow(0, offset, count);
                part.reshape(old.dims()).autodiff().require_grad()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel of the CPU against Burn's operations, over steps with gaps, parameters without decay and a gradient of
    /// zero.
    #[test]
    fn in_place_is_as_with_operations() {
        let device = Device::flex();
        let numbers = |seed: u32, scale: f32| -> Tensor<1> {
            let value = |i: u32| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5;
            row((0..70_000).map(|i| value(i) * scale).collect(), &device)
        };
        let scale = numbers(1, 1.0).abs();
        let decay = numbers(2, 1.0).clamp_min(0.0);
        let zeros = || Tensor::zeros([70_000], &device);
        let start = || (numbers(3, 4.0), zeros(), zeros());
        let (mut plain, mut swept) = (start(), start());
        for step in 1..=5 {
            let gradient = numbers(10 + step, 3.0).clamp_min(0.0);
            let at = AdamwStep {
                betas: [0.9, 0.98],
                epsilon: EPSILON,
                rate: 0.01,
                step,
                gradient_scale: 0.25,
            };
            let (scale, decay) = (scale.clone(), decay.clone());
            plain = adamw_of_operations(plain, gradient.clone(), scale.clone(), decay.clone(), at);
            swept = adamw(swept, gradient, scale, decay, at);
            for (a, b) in [
                (&plain.0, &swept.0),
                (&plain.1, &swept.1),
                (&plain.2, &swept.2),
            ] {
                let apart = (a.clone() - b.clone()).abs().max().into_scalar::<f32>();
                assert!(apart < 1e-6, "{apart} at step {step}");
            }
        }
        let moved = (swept.0 - numbers(3, 4.0)).abs().max();
        assert!(moved.into_scalar::<f32>() > 0.01);
    }
}
