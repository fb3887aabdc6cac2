//! The networks of OWL-ViT and OWLv2, for batches of images: what detection and training share.
//!
//! Follows `OwlViTForObjectDetection` and `Owlv2ForObjectDetection` (transformers).

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Tensor, TensorData, activation};
use maskmill_kernels::layers::{gelu, layer_norm, linear};
use maskmill_weights::Weights;

use crate::owl::OwlArchitecture;
use crate::towers::{ImageTower, Layout, TextTower};
use crate::transformer::EPSILON;

/// Kept away from 0 where embeddings are divided by their length (`ClassPredictionHead`).
pub(crate) const TINY: f32 = 1e-6;

/// A detector's parameters: two towers and the heads.
#[derive(Module, Debug)]
pub struct OwlNetworks {
    pub(crate) text: TextTower,
    image: ImageTower,
    layer_norm: LayerNorm,
    class_head: ClassHead,
    box_head: PatchMlp,
    objectness_head: Option<PatchMlp>,
}

/// Patch tokens to embeddings that are compared with queries, and each patch's own shift and scale.
#[derive(Module, Debug)]
struct ClassHead {
    dense0: Linear,
    logit_shift: Linear,
    logit_scale: Linear,
}

/// Three linear layers with GELU between them (`BoxPredictionHead`).
#[derive(Module, Debug)]
struct PatchMlp {
    dense0: Linear,
    dense1: Linear,
    dense2: Linear,
}

/// What every patch of a batch of images says, whatever the queries are.
pub(crate) struct Patches {
    /// `[images, boxes, dim]`, as `dense0` gives them.
    pub class_embeds: Tensor<3>,
    /// `[images, boxes, 1]`
    pub shift: Tensor<3>,
    /// `[images, boxes, 1]`, above 0.
    pub scale: Tensor<3>,
    /// `[images, boxes, 4]` centre x, centre y, width, height in [0, 1].
    pub boxes: Tensor<3>,
    /// `[images, boxes, 1]` logits, where there is such a head.
    pub objectness: Option<Tensor<3>>,
}

impl OwlNetworks {
    pub(crate) fn load(
        w: &mut Weights<'_>,
        layout: &Layout,
        architecture: &OwlArchitecture,
    ) -> Self {
        // Not weights: it follows from the grid.
        w.ignore("box_bias");
        let width = architecture.image.transformer.width;
        // The class head compares in the text tower's width, to which texts are projected.
        let dim = architecture.text.embed_dim;
        Self {
            text: TextTower::load(w, layout, &architecture.text),
            image: ImageTower::load(w, layout, &architecture.image),
            layer_norm: w.layer_norm("layer_norm", width, EPSILON),
            class_head: ClassHead {
                dense0: w.linear("class_head.dense0", width, dim),
                logit_shift: w.linear("class_head.logit_shift", width, 1),
                logit_scale: w.linear("class_head.logit_scale", width, 1),
            },
            box_head: PatchMlp::load(w, "box_head", width, 4),
            objectness_head: architecture
                .has_objectness
                .then(|| PatchMlp::load(w, "objectness_head", width, 1)),
        }
    }

    /// The image side.
    ///
    /// # Shapes
    /// - `images`: `[images, image_size, image_size, 3]`, normalised
    /// - `box_bias`: of [`box_bias`]
    pub(crate) fn patches(&self, images: Tensor<4>, box_bias: Tensor<3>) -> Patches {
        let tokens = self.image.normalise(self.image.tokens(images));
        let [_, count, _] = tokens.dims();
        let class = tokens.clone().narrow(1, 0, 1);
        let patches = tokens.narrow(1, 1, count - 1);
        let features = layer_norm(&self.layer_norm, EPSILON, patches * class);
        let head = &self.class_head;
        let objectness = self.objectness_head.as_ref();
        let located = self.box_head.forward(features.clone()) + box_bias;
        Patches {
            class_embeds: linear(&head.dense0, features.clone()),
            shift: head.logit_shift.forward(features.clone()),
            // ELU, plus 1: positive.
            scale: activation::elu(head.logit_scale.forward(features.clone()), 1.0).add_scalar(1.0),
            boxes: activation::sigmoid(located),
            objectness: objectness.map(|head| head.forward(features)),
        }
    }
}

impl PatchMlp {
    fn load(w: &mut Weights<'_>, prefix: &str, width: usize, output: usize) -> Self {
        Self {
            dense0: w.linear(&format!("{prefix}.dense0"), width, width),
            dense1: w.linear(&format!("{prefix}.dense1"), width, width),
            dense2: w.linear(&format!("{prefix}.dense2"), width, output),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = gelu(linear(&self.dense0, x));
        let x = gelu(linear(&self.dense1, x));
        linear(&self.dense2, x)
    }
}

/// Every row divided by its length: `[rows, dim]` -> the same.
pub(crate) fn unit(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt();
    x / norm.add_scalar(TINY)
}

/// Where a patch expects its box, before the sigmoid: `[1, boxes, 4]`.
pub(crate) fn box_bias(grid: usize, device: &Device) -> Tensor<3> {
    let values = TensorData::new(box_bias_values(grid), [1, grid * grid, 4]);
    Tensor::from_data(values, device)
}

/// Each patch's default box, its corner and the size of a patch, before the sigmoid: `[grid * grid, 4]`
/// (`compute_box_bias`).
fn box_bias_values(grid: usize) -> Vec<f32> {
    let logit = |v: f32| (v + 1e-4).ln() - (1e-4 - v).ln_1p();
    let at = |i: usize| logit((i + 1) as f32 / grid as f32);
    let size = logit(1.0 / grid as f32);
    let rows = 0..grid;
    rows.flat_map(|y| (0..grid).flat_map(move |x| [at(x), at(y), size, size]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_boxes_are_the_patches_corners() {
        let bias = box_bias_values(2);
        assert_eq!(bias.len(), 16);
        let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
        let first: Vec<f32> = bias[..4].iter().map(|&v| sigmoid(v)).collect();
        for (got, expected) in first.iter().zip([0.5, 0.5, 0.5, 0.5]) {
            assert!((got - expected).abs() < 1e-3, "{first:?}");
        }
        // The second patch is to the right: x changes, y does not.
        assert!(bias[4] > bias[0] && bias[5] == bias[1]);
        assert!(bias.iter().all(|v| v.is_finite()));
    }
}
