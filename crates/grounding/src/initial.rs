//! Weights of a detector that has learnt nothing yet.
//!
//! As `Owlv2PreTrainedModel._init_weights` (transformers), which is CLIP's, and `torch.nn` leave them, but for biases of linear
//! layers, which start at zero, and for what a small model would have to find out first:
//! - positions of patches are sines and cosines of their place (MAE), patches are taken apart by cosines;
//! - a patch's class logits and objectness start low, at the probability of [`PRIOR`] and [`OBJECT_PRIOR`], whatever it shows
//!   (RetinaNet, Lin et al. 2017): almost every pair of a patch and a query is a wrong one.

use maskmill_weights::initial::{Random, cosines, sines};

use crate::owl::OwlArchitecture;

/// Deviation of embeddings and of the last layers of boxes and objectness.
const DEVIATION: f32 = 0.02;
/// Probability that a patch shows what a query names.
const PRIOR: f32 = 0.05;
/// Probability that a patch's box is an object's.
const OBJECT_PRIOR: f32 = 0.05;
/// What a cosine of 1 adds to a class logit.
const SCALE: f32 = 10.0;
/// `logit_scale_init_value` of CLIP, ln(1 / 0.07). Detection does not use it.
const CLIP_LOGIT_SCALE: f32 = 2.6592;

/// The values of the tensor under an official key, row-major: a function of its arguments alone.
pub(crate) fn initial_values(
    key: &str,
    shape: &[usize],
    architecture: &OwlArchitecture,
    seed: u64,
) -> Vec<f32> {
    let count = shape.iter().product();
    let mut random = Random::new(key, seed);
    let is = |part: &str| key.contains(part);
    let transformer = match is("vision_model") {
        true => &architecture.image.transformer,
        false => &architecture.text.transformer,
    };
    let width = transformer.width as f32;
    // Of what each block adds, so that the sum does not grow with their number.
    let of_depth = (2.0 * transformer.layers as f32).sqrt().recip();
    let logit = |probability: f32| (probability / (1.0 - probability)).ln();
    match key {
        "class_head.logit_shift.bias" => return vec![logit(PRIOR) / SCALE],
        // `elu(x) + 1` of a positive x is x + 1.
        "class_head.logit_scale.bias" => return vec![SCALE - 1.0],
        "class_head.logit_shift.weight" | "class_head.logit_scale.weight" => {
            return vec![0.0; count];
        }
        "objectness_head.dense2.bias" => return vec![logit(OBJECT_PRIOR)],
        "box_head.dense2.weight" | "objectness_head.dense2.weight" => {
            return random.normal(count, DEVIATION);
        }
        _ => {}
    }
    if is("vision_model.embeddings.position_embedding") {
        let grid = architecture.image.grid();
        let channels = architecture.image.transformer.width;
        // The class token has no place.
        let mut values = vec![0.0; channels];
        values.extend(sines(grid, grid, channels));
        return values;
    }
    if is("embeddings.class_embedding") {
        return random.normal(count, width.sqrt().recip());
    }
    match *shape {
        [] => vec![CLIP_LOGIT_SCALE],
        // Norms' weights are the only vectors that are neither biases nor the class token.
        [_] if key.ends_with(".weight") => vec![1.0; count],
        [_] => vec![0.0; count],
        [_, _] if is("embedding") => random.normal(count, DEVIATION),
        [_, _] if is("q_proj") || is("k_proj") || is("v_proj") || is("mlp.fc2") => {
            random.normal(count, of_depth / width.sqrt())
        }
        [_, _] if is("out_proj") => random.normal(count, width.sqrt().recip()),
        [_, input] if is("_projection") => random.normal(count, (input as f32).sqrt().recip()),
        [_, _] if is("mlp.fc1") => random.normal(count, (2.0 * width).sqrt().recip()),
        // `nn.Linear`: within 1 / sqrt(fan in).
        [_, input] => random.uniform(count, (input as f32).sqrt().recip()),
        [output, input, height, width] => cosines([output, input, height, width], &mut random),
        _ => unreachable!("no tensor of OWLv2 has the shape {shape:?}: {key}"),
    }
}
