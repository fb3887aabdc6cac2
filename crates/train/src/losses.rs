//! What training minimises: focal and dice loss of masks, squared error of predicted IoU.
//!
//! Of the masks that a prompt may be answered by, only the one of least loss is learned from (Kirillov et al. 2023,
//! appendix A): so the three of the multi-mask output come to mean different things.

use burn::tensor::{Tensor, activation};
use maskmill_job::LossSettings;
use maskmill_kernels::{training_mask_sums, trains_here};

/// Added to a loss that must not be chosen.
const NEVER: f64 = 1e9;

/// The loss of one round of prompts, and its parts, each `[1]`: means over prompts.
pub struct RoundLoss {
    /// The weighted sum that is minimised.
    pub total: Tensor<1>,
    /// Focal loss of the chosen masks, unweighted.
    pub focal: Tensor<1>,
    /// Dice loss of the chosen masks, unweighted.
    pub dice: Tensor<1>,
    /// Squared error of the predicted IoU of all allowed masks, unweighted.
    pub iou: Tensor<1>,
}

/// What one round is measured by.
pub struct RoundTargets {
    /// The masks: 1 inside and 0 outside, `[prompts, 1, pixels]`.
    pub masks: Tensor<3>,
    /// 1 where a mask token may answer the prompt, otherwise 0, `[prompts, mask tokens]`; at least one of each prompt's.
    pub allowed: Tensor<2>,
}

/// # Shapes
/// - `logits`: `[prompts, mask tokens, pixels]`
/// - `predicted_iou`: `[prompts, mask tokens]`
pub fn round_loss(
    logits: Tensor<3>,
    predicted_iou: Tensor<2>,
    targets: &RoundTargets,
    settings: &LossSettings,
) -> RoundLoss {
    let [prompts, tokens, _] = logits.dims();
    let by_token = |x: Tensor<3>| x.reshape([prompts, tokens]);
    let [focal, dice, true_iou] =
        mask_losses(logits, targets.masks.clone(), settings).map(by_token);
    let both = focal.clone().mul_scalar(settings.focal) + dice.clone().mul_scalar(settings.dice);
    let barred = (targets.allowed.clone() - 1.0).mul_scalar(-NEVER);
    let chosen = (both.clone() + barred).argmin(1);
    let of_chosen = |x: Tensor<2>| x.gather(1, chosen.clone()).mean();

    let error = (predicted_iou - true_iou).square() * targets.allowed.clone();
    let iou = error.sum() / targets.allowed.clone().sum();
    RoundLoss {
        total: of_chosen(both) + iou.clone().mul_scalar(settings.iou),
        focal: of_chosen(focal),
        dice: of_chosen(dice),
        iou,
    }
}

/// Focal loss, dice loss and true IoU of each mask, `[prompts, mask tokens, 1]`.
fn mask_losses(logits: Tensor<3>, masks: Tensor<3>, settings: &LossSettings) -> [Tensor<3>; 3] {
    if !trains_here(&logits) {
        return [
            focal_loss(logits.clone(), masks.clone(), settings),
            dice_loss(logits.clone(), masks.clone()),
            true_iou(logits.detach(), masks),
        ];
    }
    // On the CPU all sums over pixels are made in one sweep.
    let [_, _, pixels] = logits.dims();
    let area = masks.clone().sum_dim(2);
    let focal = [settings.focal_alpha, settings.focal_gamma];
    let sums = training_mask_sums(logits, masks, focal);
    let sum = |i: usize| sums.clone().narrow(2, i, 1);
    let (inside, positive) = (sum(2), sum(4).detach());
    let both = sum(3).detach();
    let union = positive + area.clone() - both.clone();
    [
        sum(0).div_scalar(pixels as f64),
        dice_of(sum(1), inside + area),
        both / union.clamp_min(1.0),
    ]
}

/// [`focal_terms`], the mean over pixels: `[prompts, mask tokens, 1]`.
fn focal_loss(logits: Tensor<3>, masks: Tensor<3>, settings: &LossSettings) -> Tensor<3> {
    let (alpha, gamma) = (settings.focal_alpha, settings.focal_gamma);
    focal_terms(logits, masks, alpha, gamma).mean_dim(2)
}

/// `sigmoid_focal_loss` of torchvision (Lin et al. 2017) of each logit; `targets` are 0 or 1, of one shape with `logits` or
/// stretched to it.
pub(crate) fn focal_terms(
    logits: Tensor<3>,
    targets: Tensor<3>,
    alpha: f64,
    gamma: f64,
) -> Tensor<3> {
    // 1 inside and -1 outside: both classes are then one formula of the margin, which is positive where a logit is right.
    let sign = targets.clone().mul_scalar(2.0) - 1.0;
    let margin = logits * sign;
    let entropy = cross_entropy(margin.clone());
    let wrong = activation::sigmoid(margin.neg());
    let modulated = match gamma {
        0.0 => entropy,
        1.0 => entropy * wrong,
        2.0 => entropy * wrong.square(),
        _ => entropy * wrong.powf_scalar(gamma),
    };
    let weight = targets.mul_scalar(2.0 * alpha - 1.0) + (1.0 - alpha);
    modulated * weight
}

/// `-log sigmoid(margin)`, without overflow on either side.
pub(crate) fn cross_entropy<const D: usize>(margin: Tensor<D>) -> Tensor<D> {
    activation::relu(margin.clone().neg()) + margin.abs().neg().exp().log1p()
}

/// `dice_loss` of MaskFormer and DETR, smoothed by 1: `[prompts, mask tokens, 1]`.
fn dice_loss(logits: Tensor<3>, masks: Tensor<3>) -> Tensor<3> {
    let inside = activation::sigmoid(logits);
    let both = (inside.clone() * masks.clone()).sum_dim(2);
    dice_of(both, inside.sum_dim(2) + masks.sum_dim(2))
}

/// Of the sum of what is in both, and that of both sums.
fn dice_of(both: Tensor<3>, either: Tensor<3>) -> Tensor<3> {
    ((both.mul_scalar(2.0) + 1.0) / (either + 1.0)).neg() + 1.0
}

/// IoU of the pixels whose logit is positive with the mask: `[prompts, mask tokens, 1]`; 0 where both are empty.
fn true_iou(logits: Tensor<3>, masks: Tensor<3>) -> Tensor<3> {
    let inside = logits.greater_scalar(0.0).float();
    let both = (inside.clone() * masks.clone()).sum_dim(2);
    let union = inside.sum_dim(2) + masks.sum_dim(2) - both.clone();
    both / union.clamp_min(1.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    const SETTINGS: LossSettings = LossSettings {
        focal: 20.0,
        dice: 1.0,
        iou: 1.0,
        focal_alpha: 0.25,
        focal_gamma: 2.0,
        pixels: 0.0,
    };

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), shape),
            &Device::flex().autodiff(),
        )
    }

    fn value(x: Tensor<1>) -> f64 {
        f64::from(x.into_scalar::<f32>())
    }

    /// The definitions, one pixel at a time.
    fn plain(logits: &[f64], mask: &[f64]) -> (f64, f64, f64) {
        let n = logits.len() as f64;
        let (mut focal, mut both, mut either) = (0.0, 0.0, 0.0);
        let (mut intersection, mut union) = (0.0, 0.0);
        for (x, t) in logits.iter().zip(mask) {
            let p = 1.0 / (1.0 + (-x).exp());
            let (p_t, alpha_t) = match *t > 0.5 {
                true => (p, 0.25),
                false => (1.0 - p, 0.75),
            };
            focal -= alpha_t * (1.0 - p_t).powi(2) * p_t.ln() / n;
            both += p * t;
            either += p + t;
            let inside = f64::from(u8::from(*x > 0.0));
            intersection += inside * t;
            union += inside.max(*t);
        }
        let dice = 1.0 - (2.0 * both + 1.0) / (either + 1.0);
        (focal, dice, intersection / union)
    }

    #[test]
    fn the_least_allowed_loss_counts_and_every_allowed_iou() {
        // Two prompts of three tokens of four pixels. The first token fits best, and may not answer the first prompt.
        let logits = [
            [9.0, 8.0, -7.0, -9.0],
            [0.5, -0.3, 0.2, -2.0],
            [-3.0, 1.0, 2.0, 0.7],
            [1.5, 0.1, -0.4, -0.2],
            [5.0, 5.0, 5.0, 5.0],
            [-5.0, -5.0, -5.0, -5.0],
        ];
        let mask = [1.0, 1.0, 0.0, 0.0];
        let iou = [0.3, 0.6, 0.1, 0.7, 0.0, 0.0];
        let allowed = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0];
        let found = round_loss(
            tensor(
                &logits
                    .concat()
                    .iter()
                    .map(|v| *v as f32)
                    .collect::<Vec<_>>(),
                [2, 3, 4],
            ),
            tensor(&iou, [2, 3]),
            &RoundTargets {
                masks: tensor(&[1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], [2, 1, 4]),
                allowed: tensor(&allowed, [2, 3]),
            },
            &SETTINGS,
        );
        let (focal_0, dice_0, iou_1) = plain(&logits[1], &mask);
        let (_, _, iou_2) = plain(&logits[2], &mask);
        let (focal_3, dice_3, iou_3) = plain(&logits[3], &mask);
        let focal = (focal_0 + focal_3) / 2.0;
        let dice = (dice_0 + dice_3) / 2.0;
        let squares = [(0.6, iou_1), (0.1, iou_2), (0.7, iou_3)];
        let iou = squares.iter().map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / 3.0;
        let close =
            |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
        close(value(found.focal), focal);
        close(value(found.dice), dice);
        close(value(found.iou), iou);
        close(value(found.total), 20.0 * focal + dice + iou);
    }

    #[test]
    fn only_the_chosen_mask_learns_and_extreme_logits_stay_finite() {
        let logits =
            tensor(&[80.0, -200.0, 3.0, 90.0, 1.0, -1.0, 0.5, 0.1], [1, 2, 4]).require_grad();
        let loss = round_loss(
            logits.clone(),
            tensor(&[0.5, 0.5], [1, 2]),
            &RoundTargets {
                masks: tensor(&[1.0, 0.0, 0.0, 0.0], [1, 1, 4]),
                allowed: tensor(&[1.0, 1.0], [1, 2]),
            },
            &SETTINGS,
        );
        assert!(value(loss.total.clone()).is_finite());
        let gradients = loss.total.backward();
        let gradient: Vec<f32> = logits.grad(&gradients).unwrap().try_into_vec_as().unwrap();
        assert!(gradient[..4].iter().all(|g| *g == 0.0), "{gradient:?}");
        assert!(gradient[4..].iter().any(|g| *g != 0.0) && gradient.iter().all(|g| g.is_finite()));
    }

    #[test]
    fn an_empty_answer_to_an_empty_mask_is_no_nan() {
        let loss = round_loss(
            tensor(&[-1.0, -2.0], [1, 1, 2]),
            tensor(&[0.5], [1, 1]),
            &RoundTargets {
                masks: tensor(&[0.0, 0.0], [1, 1, 2]),
                allowed: tensor(&[1.0], [1, 1]),
            },
            &SETTINGS,
        );
        assert!((value(loss.iou) - 0.25).abs() < 1e-6);
        assert!(value(loss.total).is_finite());
    }
}
