//! AdamW over all trained parameters as one row of numbers.
//!
//! One row instead of three hundred small tensors: a step is a dozen operations whatever the model, the norm of all
//! gradients is one sum, and the state that a resumed run needs is three rows.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use maskmill_job::{EncoderTraining, OptimiserSettings};
use maskmill_sam::{Architecture, TrainableNetworks, TrainableSam};
use maskmill_weights::Placement;

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
    /// For what `settings` says is trained; everything else of `sam` stops asking for gradients.
    pub fn new(sam: &mut TrainableSam, settings: &OptimiserSettings) -> Self {
        let architecture = sam.architecture().clone();
        let trained = |p: &&Placement| {
            p.parameter.is_some() && is_trained(&p.key, settings.encoder, &architecture)
        };
        let placements: Vec<Placement> = sam
            .keys()
            .placements()
            .iter()
            .filter(trained)
            .cloned()
            .collect();
        let layout = Layout::of(&placements);
        let [mut scale, mut decay] = [vec![0.0_f32; layout.length], vec![0.0_f32; layout.length]];
        for placement in &placements {
            let id = placement.parameter.expect("chosen so");
            let Slot { offset, count } = layout.slots[&id];
            let rate = rate_scale(&placement.key, settings.layer_decay, &architecture);
            scale[offset..offset + count].fill(rate as f32);
            if decays(placement) {
                let decayed = (rate * settings.weight_decay) as f32;
                decay[offset..offset + count].fill(decayed);
            }
        }
        let device = sam.device().clone().without_autodiff();
        let row = |values| row(values, &device);
        let values = sam.values();
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
        let mut optimiser = Self {
            layout,
            state,
            scale: row(scale),
            decay: row(decay),
            betas: settings.betas,
        };
        optimiser.assign(sam);
        optimiser
    }

    /// Numbers trained.
    pub fn parameters(&self) -> usize {
        self.layout.keys.iter().map(|(_, _, slot)| slot.count).sum()
    }

    /// Each trained parameter's key and its part of a row of the layout.
    pub fn parts<'r>(&'r self, row: &'r [f32]) -> impl Iterator<Item = (&'r str, &'r [f32])> {
        let keys = self.layout.keys.iter();
        keys.map(|(key, _, slot)| (key.as_str(), &row[slot.offset..slot.offset + slot.count]))
    }

    /// The gradients of a loss as one row; zeros where a parameter had no part in it.
    pub fn gathered(&self, networks: &TrainableNetworks, mut gradients: Gradients) -> Tensor<1> {
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

    /// One step: changes the parameters of `sam`. `step` counts from 1; `gradient` is the row that it follows.
    pub fn step(&mut self, sam: &mut TrainableSam, gradient: Tensor<1>, step: u32, rate: f64) {
        let [beta_1, beta_2] = self.betas;
        let steps = f64::from(step);
        let OptimiserState {
            weights,
            first_moment,
            second_moment,
        } = self.state.clone();
        let first = first_moment.mul_scalar(beta_1) + gradient.clone().mul_scalar(1.0 - beta_1);
        let second = second_moment.mul_scalar(beta_2) + gradient.square().mul_scalar(1.0 - beta_2);
        let corrected = (1.0 - beta_2.powf(steps)).sqrt();
        let spread = second.clone().sqrt().div_scalar(corrected) + EPSILON;
        let towards = first.clone().div(spread) * self.scale.clone();
        let kept = self.decay.clone().mul_scalar(-rate) + 1.0;
        self.state = OptimiserState {
            weights: weights * kept - towards.mul_scalar(rate / (1.0 - beta_1.powf(steps))),
            first_moment: first,
            second_moment: second,
        };
        self.assign(sam);
    }

    /// What a resumed run needs.
    pub fn state(&self) -> &OptimiserState {
        &self.state
    }

    /// Goes on from a saved state.
    ///
    /// # Panics
    /// If its rows have another length.
    pub fn restore(&mut self, sam: &mut TrainableSam, rows: [Vec<f32>; 3]) {
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
        self.assign(sam);
    }

    /// Numbers in a row, the gaps between parameters included.
    pub fn row_length(&self) -> usize {
        self.layout.length
    }

    /// The model with leaves of its own in autodiff's graph: gradients of copies can be computed at the same time.
    pub fn copy_of(&self, sam: &TrainableSam) -> TrainableSam {
        sam.with_networks(self.assigned(&sam.networks))
    }

    fn assign(&mut self, sam: &mut TrainableSam) {
        sam.networks = self.assigned(&sam.networks);
    }

    fn assigned(&self, networks: &TrainableNetworks) -> TrainableNetworks {
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
    fn of(placements: &[Placement]) -> Self {
        let mut keys = Vec::with_capacity(placements.len());
        let mut length = 0;
        // Those of aligned length first, so that few gaps are needed.
        let count = |p: &Placement| p.shape.iter().product::<usize>();
        let (aligned, others): (Vec<_>, Vec<_>) = placements
            .iter()
            .partition(|p| count(p).is_multiple_of(ALIGNMENT));
        for placement in aligned.into_iter().chain(others) {
            let slot = Slot {
                offset: length,
                count: count(placement),
            };
            length += slot.count.next_multiple_of(ALIGNMENT);
            let id = placement.parameter.expect("only parameters are trained");
            keys.push((placement.key.clone(), id, slot));
        }
        let slots = keys.iter().map(|(_, id, slot)| (*id, *slot)).collect();
        Self {
            keys,
            slots,
            length,
        }
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

/// Whether the parameter of an official key is trained.
fn is_trained(key: &str, encoder: EncoderTraining, architecture: &Architecture) -> bool {
    if !key.starts_with("image_encoder.") {
        return true;
    }
    let depth = architecture.windows.len();
    match encoder {
        EncoderTraining::Trained => true,
        EncoderTraining::Frozen => false,
        EncoderTraining::Last(blocks) => layer(key, depth) + blocks as usize > depth,
    }
}

/// The layer of an image encoder's key: 0 of the patches and positions, 1 of the first block, `depth + 1` of the neck.
fn layer(key: &str, depth: usize) -> usize {
    let rest = key.strip_prefix("image_encoder.").unwrap_or(key);
    if let Some(block) = rest.strip_prefix("blocks.") {
        let number = block
            .split('.')
            .next()
            .and_then(|n| n.parse::<usize>().ok());
        return 1 + number.expect("blocks are numbered");
    }
    match rest.starts_with("neck.") {
        true => depth + 1,
        false => 0,
    }
}

/// Layer-wise decay of the learning rate (Clark et al. 2020; BEiT, ViTDet): the neck and what is behind it learn at the
/// full rate, every block before at `layer_decay` times that of the next.
fn rate_scale(key: &str, layer_decay: f64, architecture: &Architecture) -> f64 {
    if !key.starts_with("image_encoder.") {
        return 1.0;
    }
    let depth = architecture.windows.len();
    layer_decay.powi((depth + 1 - layer(key, depth)) as i32)
}

/// Whether weight decay acts on a tensor: on matrices and kernels, but not on embeddings and positions.
fn decays(placement: &Placement) -> bool {
    let key = placement.key.as_str();
    let exempt = [
        "rel_pos",
        "_embed.weight",
        "point_embeddings",
        "iou_token",
        "mask_tokens",
    ];
    placement.shape.len() > 1
        && key.ends_with(".weight")
        && !exempt.iter().any(|part| key.contains(part))
}
