//! What a grounder minimises: focal loss of class logits, L1 and generalised IoU of boxes, cross entropy of objectness; and,
//! at every patch that shows an object, which of the queries are true of it and where it is.
//!
//! Set prediction alone teaches a model that knows nothing too little: what lowers the loss first is to say the same of all
//! patches and queries, and the embeddings of both fall together. To tell the queries apart at a patch is a loss that no
//! common answer lowers (contrastive, as CLIP's), and every patch of an object takes part in it.

use burn::tensor::{Device, Int, Tensor, TensorData};
use maskmill_grounding::BatchDetections;
use maskmill_job::GrounderLoss;
use maskmill_weights::all_to_host;
use rayon::prelude::*;

use super::matching::{Match, matches};
use super::queries::{ImageTruth, Questions};
use crate::losses::{cross_entropy, focal_terms};

/// The weighted sum, then its parts unweighted, `[1]` each: class, L1, generalised IoU, objectness, dense.
///
/// - class: the focal loss of all boxes and queries, over the number of pairs that are true (as `loss_labels` of Deformable
///   DETR). A box is to say the queries of its object, every other box none. Of queries in
///   [`ImageTruth::uncounted`](super::ImageTruth::uncounted) only boxes that are to say them count.
/// - L1: the sum of the differences of centres and sides, the mean over matched boxes (`loss_boxes`).
/// - generalised IoU: 1 less it, likewise.
/// - objectness: whether a box is matched, the mean over all boxes.
/// - dense: the weighted sum of three at patches that show an object ([`ImageTruth::shown`](super::ImageTruth::shown)), each
///   the mean over an object's patches and then over objects: how well each query that is true of the object is told from
///   those that are not (cross entropy of their softmax, the mean over true queries; weight of the class), L1 and
///   generalised IoU. 0 without such a patch, or if its own weight is 0.
///
/// # Panics
/// If no image has an object.
pub fn losses(
    detections: BatchDetections,
    questions: &Questions,
    settings: &GrounderLoss,
) -> [Tensor<1>; 6] {
    let [images, boxes, queries] = detections.logits.dims();
    let device = detections.logits.device();
    let matched = matched(&detections, questions, settings);
    let truth = Truth::of(&matched, questions, [boxes, queries]);

    let shape = [images, boxes, queries];
    let tensor = |values: Vec<f32>| Tensor::<3>::from_data(TensorData::new(values, shape), &device);
    let (alpha, gamma) = (settings.focal_alpha, settings.focal_gamma);
    let logits = detections.logits.clone();
    let terms = focal_terms(logits, tensor(truth.classes), alpha, gamma);
    let class = (terms * tensor(truth.counted))
        .sum()
        .div_scalar(truth.positives);

    let dense = match settings.dense {
        0.0 => Tensor::zeros([1], &device),
        _ => dense(&detections, questions, settings),
    };

    let count = truth.patches.len();
    assert!(count > 0, "images of a batch have objects");
    let weights = vec![(count as f32).recip(); count];
    let targets = BoxTargets {
        patches: truth.patches,
        boxes: truth.boxes,
        weights,
    };
    let [l1, giou] = targets.losses(detections.boxes);

    // 1 where a box is matched and -1 elsewhere.
    let sign = TensorData::new(truth.is_object, [images, boxes]);
    let sign = Tensor::<2>::from_data(sign, &device);
    let objectness = cross_entropy(detections.objectness * sign).mean();

    let total = class.clone().mul_scalar(settings.class)
        + l1.clone().mul_scalar(settings.l1)
        + giou.clone().mul_scalar(settings.giou)
        + objectness.clone().mul_scalar(settings.objectness)
        + dense.clone().mul_scalar(settings.dense);
    [total, class, l1, giou, objectness, dense]
}

/// Patches among `[images * boxes]`, what their boxes should be and how much each counts.
#[derive(Default)]
struct BoxTargets {
    patches: Vec<i64>,
    /// Four numbers of each.
    boxes: Vec<f32>,
    weights: Vec<f32>,
}

impl BoxTargets {
    fn rows(&self, device: &Device) -> Tensor<1, Int> {
        let patches = TensorData::new(self.patches.clone(), [self.patches.len()]);
        Tensor::from_data(patches, device)
    }

    /// The weighted sums of L1 and of 1 less the generalised IoU, `[1]` each.
    ///
    /// `boxes`: `[images, boxes, 4]`
    fn losses(self, boxes: Tensor<3>) -> [Tensor<1>; 2] {
        let device = boxes.device();
        let count = self.patches.len();
        let [images, of_image, _] = boxes.dims();
        let found = boxes.reshape([images * of_image, 4]);
        let found = found.select(0, self.rows(&device));
        let tensor = |values: Vec<f32>, columns: usize| {
            Tensor::<2>::from_data(TensorData::new(values, [count, columns]), &device)
        };
        let (wanted, weights) = (tensor(self.boxes, 4), tensor(self.weights, 1));
        let l1 = (found.clone() - wanted.clone()).abs().sum_dim(1);
        let giou = generalised_iou(found, wanted).neg() + 1.0;
        [l1, giou].map(|loss| (loss * weights.clone()).sum())
    }
}

/// The loss of patches that show an object, `[1]`.
fn dense(detections: &BatchDetections, questions: &Questions, s: &GrounderLoss) -> Tensor<1> {
    let [images, boxes, queries] = detections.logits.dims();
    let device = detections.logits.device();
    let mut targets = BoxTargets::default();
    // `[patches, queries]`: what is true, and what each true query counts.
    let (mut trues, mut shares) = (Vec::new(), Vec::new());
    let per_object = |truth: &ImageTruth| {
        let mut patches = vec![0_usize; truth.objects.len()];
        for Match { object, .. } in &truth.shown {
            patches[*object] += 1;
        }
        patches
    };
    let patches: Vec<Vec<usize>> = questions.images.iter().map(per_object).collect();
    let objects = patches.iter().flatten().filter(|count| **count > 0).count();
    if objects == 0 {
        return Tensor::zeros([1], &device);
    }
    for (image, (truth, patches)) in questions.images.iter().zip(&patches).enumerate() {
        for Match { patch, object } in &truth.shown {
            let (cxcywh, named) = &truth.objects[*object];
            let weight = ((objects * patches[*object]) as f32).recip();
            targets.patches.push((image * boxes + patch) as i64);
            targets.boxes.extend(cxcywh);
            targets.weights.push(weight);
            let first = trues.len();
            trues.resize(first + queries, 0.0_f32);
            shares.resize(first + queries, 0.0_f32);
            for query in named {
                trues[first + query] = 1.0;
                shares[first + query] = weight / named.len() as f32;
            }
        }
    }
    let logits = detections.logits.clone().reshape([images * boxes, queries]);
    let logits = logits.select(0, targets.rows(&device));
    let shape = [targets.patches.len(), queries];
    let tensor = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, shape), &device);
    let told = told_apart(logits, tensor(trues)) * tensor(shares);
    let [l1, giou] = targets.losses(detections.boxes.clone());
    told.sum().mul_scalar(s.class) + l1.mul_scalar(s.l1) + giou.mul_scalar(s.giou)
}

/// Of each logit the cross entropy of its softmax among itself and those of its row that are not true.
fn told_apart(logits: Tensor<2>, trues: Tensor<2>) -> Tensor<2> {
    let largest = logits.clone().detach().max_dim(1);
    let logits = logits - largest;
    let odds = logits.clone().exp();
    let others = (odds.clone() * (trues.neg() + 1.0)).sum_dim(1);
    (odds + others).log() - logits
}

/// The matches of each image, by what the model says now: one read from the device.
fn matched(
    detections: &BatchDetections,
    questions: &Questions,
    settings: &GrounderLoss,
) -> Vec<Vec<Match>> {
    let [_, boxes, queries] = detections.logits.dims();
    let flat = |x: &Tensor<3>| {
        let x = x.clone().without_autodiff();
        let count = x.shape().num_elements();
        x.reshape([count])
    };
    let read = all_to_host(vec![flat(&detections.logits), flat(&detections.boxes)]);
    let logits = read[0].par_chunks_exact(boxes * queries);
    let located = read[1].par_chunks_exact(boxes * 4);
    logits
        .zip(located)
        .zip(&questions.images)
        .map(
            |((logits, located), truth)| match finite(logits) && finite(located) {
                true => matches(logits, located.as_chunks::<4>().0, truth, settings),
                // The loss will be no number either, and that stops the run: any match serves.
                false => {
                    let objects = 0..truth.objects.len().min(boxes);
                    let any = |number| Match {
                        patch: number,
                        object: number,
                    };
                    objects.map(any).collect()
                }
            },
        )
        .collect()
}

fn finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// What the model should have said.
struct Truth {
    /// `[images, boxes, queries]`: 1 where a box is to say a query, otherwise 0.
    classes: Vec<f32>,
    /// Likewise: 1 where the class logit counts, otherwise 0.
    counted: Vec<f32>,
    /// Ones in `classes`, at least 1.
    positives: f64,
    /// `[images, boxes]`: 1 where a box is matched, otherwise -1.
    is_object: Vec<f32>,
    /// Of each matched box its number in `[images * boxes]`, and what it should be.
    patches: Vec<i64>,
    boxes: Vec<f32>,
}

impl Truth {
    fn of(matched: &[Vec<Match>], questions: &Questions, [boxes, queries]: [usize; 2]) -> Self {
        let images = questions.images.len();
        let mut truth = Self {
            classes: vec![0.0; images * boxes * queries],
            counted: vec![1.0; images * boxes * queries],
            positives: 0.0,
            is_object: vec![-1.0; images * boxes],
            patches: Vec::new(),
            boxes: Vec::new(),
        };
        for (image, (matches, of_image)) in matched.iter().zip(&questions.images).enumerate() {
            let first = image * boxes;
            for query in &of_image.uncounted {
                for patch in first..first + boxes {
                    truth.counted[patch * queries + query] = 0.0;
                }
            }
            for Match { patch, object } in matches {
                let patch = first + patch;
                let (cxcywh, trues) = &of_image.objects[*object];
                for query in trues {
                    truth.classes[patch * queries + query] = 1.0;
                    truth.counted[patch * queries + query] = 1.0;
                }
                truth.positives += trues.len() as f64;
                truth.is_object[patch] = 1.0;
                truth.patches.push(patch as i64);
                truth.boxes.extend(cxcywh);
            }
        }
        truth.positives = truth.positives.max(1.0);
        truth
    }
}

/// `generalized_box_iou` of DETR, row by row: `[boxes, 4]` centre and sides -> `[boxes, 1]`.
fn generalised_iou(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let corners = |x: Tensor<2>| {
        let (centre, half) = (x.clone().narrow(1, 0, 2), x.narrow(1, 2, 2).mul_scalar(0.5));
        [centre.clone() - half.clone(), centre + half]
    };
    let area = |sides: Tensor<2>| sides.clone().narrow(1, 0, 1) * sides.narrow(1, 1, 1);
    let ([a0, a1], [b0, b1]) = (corners(a), corners(b));
    let areas = area(a1.clone() - a0.clone()) + area(b1.clone() - b0.clone());
    let inner = a1.clone().min_pair(b1.clone()) - a0.clone().max_pair(b0.clone());
    let intersection = area(inner.clamp_min(0.0));
    let union = areas - intersection.clone();
    let hull = area(a1.max_pair(b1) - a0.min_pair(b0));
    intersection / union.clone() - (hull.clone() - union) / hull
}
