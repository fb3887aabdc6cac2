//! A step of AdamW as one sweep over the numbers that it changes, where Burn's operations make a dozen.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Numbers that a thread works on at once.
const BLOCK: usize = 1 << 16;

/// The numbers of a step that are the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct AdamwStep {
    /// How much of the running means stays: of gradients, and of their squares.
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// The learning rate.
    pub rate: f64,
    /// Counted from 1: running means begin at zero, which is corrected for.
    pub step: u32,
    /// What the gradients are multiplied by.
    pub gradient_scale: f64,
}

impl AdamwStep {
    /// What running means are divided by, the second one's root taken.
    pub fn corrections(&self) -> [f64; 2] {
        let [first, second] = self.betas.map(|beta| 1.0 - beta.powf(self.step.into()));
        [first, second.sqrt()]
    }
}

/// What a step changes: the parameters, the running mean of gradients, and that of their squares. `[parameters]` each.
pub type AdamwState = (Tensor<1>, Tensor<1>, Tensor<1>);

/// The operation of an optimiser, on rows of f32 without gradients.
#[backend_extension(Flex)]
pub trait OptimiserOps: Backend {
    /// All are `[parameters]`.
    fn adamw(
        weights: FloatTensor<Self>,
        first_moment: FloatTensor<Self>,
        second_moment: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        step: AdamwStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl OptimiserOps for Flex {
    fn adamw(
        weights: FlexTensor,
        first_moment: FlexTensor,
        second_moment: FlexTensor,
        gradient: FlexTensor,
        scale: FlexTensor,
        decay: FlexTensor,
        step: AdamwStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let rows = [weights, first_moment, second_moment];
        let [mut weights, mut first, mut second] = rows.map(|x| x.to_contiguous());
        let [gradient, scale, decay] = [gradient, scale, decay].map(|x| x.to_contiguous());
        let [a, b] = step.betas.map(|beta| beta as f32);
        let [a_new, b_new] = step.betas.map(|beta| (1.0 - beta) as f32);
        let [first_correction, second_correction] = step.corrections();
        let (corrected, epsilon) = (second_correction as f32, step.epsilon as f32);
        let towards = (step.rate / first_correction) as f32;
        let (rate, factor) = (step.rate as f32, step.gradient_scale as f32);
        // In place where nobody else holds them.
        let changed = weights
            .storage_mut::<f32>()
            .par_chunks_mut(BLOCK)
            .zip(first.storage_mut::<f32>().par_chunks_mut(BLOCK))
            .zip(second.storage_mut::<f32>().par_chunks_mut(BLOCK));
        let given = gradient
            .storage::<f32>()
            .par_chunks(BLOCK)
            .zip(scale.storage::<f32>().par_chunks(BLOCK))
            .zip(decay.storage::<f32>().par_chunks(BLOCK));
        changed.zip(given).for_each(|(changed, given)| {
            let ((weights, first), second) = changed;
            let ((gradient, scale), decay) = given;
            for i in 0..weights.len() {
                let g = gradient[i] * factor;
                let m = first[i] * a + g * a_new;
                let v = second[i] * b + g * g * b_new;
                let spread = v.sqrt() / corrected + epsilon;
                let kept = 1.0 - decay[i] * rate;
                weights[i] = weights[i] * kept - m / spread * scale[i] * towards;
                first[i] = m;
                second[i] = v;
            }
        });
        (weights, first, second)
    }
}

/// A step of AdamW (Loshchilov and Hutter, 2019) as `torch.optim.AdamW` computes it, on the CPU.
///
/// # Shapes
/// `[parameters]` each: the state, the gradient, and by parameter the share of the learning rate and the weight decay (that
/// share included).
///
/// # Panics
/// If the tensors are of another device, or not of f32.
pub fn adamw(
    (weights, first_moment, second_moment): AdamwState,
    gradient: Tensor<1>,
    scale: Tensor<1>,
    decay: Tensor<1>,
    step: AdamwStep,
) -> AdamwState {
    let (weights, first_moment, second_moment) = Dispatch::adamw(
        weights.into_dispatch(),
        first_moment.into_dispatch(),
        second_moment.into_dispatch(),
        gradient.into_dispatch(),
        scale.into_dispatch(),
        decay.into_dispatch(),
        step,
    );
    (
        Tensor::from_dispatch(weights),
        Tensor::from_dispatch(first_moment),
        Tensor::from_dispatch(second_moment),
    )
}
