//! How good a checkpoint is: mIoU by clicks and from boxes, and what automatic generation finds.

use std::path::Path;

use crossbeam_channel::bounded;
use maskmill_examples::Example;
use maskmill_masks::{Bitmap, Rle};
use maskmill_sam::{
    AutomaticOptions, MaskOutput, PointPrompt, PredictedMask, Predictor, Prompt, Sam, generate,
};
use serde::{Deserialize, Serialize};

use crate::clicks::middle_of_error;
use crate::data::Data;
use crate::error::TrainError;

/// Clicks after which mIoU is reported.
const REPORTED: [usize; 3] = [1, 3, 5];
/// IoU from which a generated mask counts as having found an object.
pub const FOUND_IOU: f64 = 0.75;
/// The least part of an image that an object covers whose finding is counted.
pub const COUNTED_PART: f64 = 0.01;
/// Classes of masks by the part of their image that they cover, from the smallest: the least of each.
pub const AREA_CLASSES: [f64; 5] = [0.0, 0.0025, 0.01, 0.03, 0.1];

/// What is evaluated.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Images, the same ones every time.
    pub images: usize,
    /// The largest masks of each image, at most so many.
    pub masks_per_image: usize,
    /// Automatic generation, if it is evaluated: its options and the points of a batch.
    pub automatic: Option<(AutomaticOptions, usize)>,
}

/// What was found. All IoU are of whole masks at the image's size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Images evaluated.
    pub images: usize,
    /// Examples that could not be used.
    pub skipped: usize,
    /// Masks asked for.
    pub masks: usize,
    /// One click in the middle, the best of the masks of the multi-mask output.
    pub miou_1_click_best: f64,
    /// One click, the mask of the highest predicted IoU.
    pub miou_1_click: f64,
    /// Three clicks, the mask so far fed back.
    pub miou_3_clicks: f64,
    /// Five clicks.
    pub miou_5_clicks: f64,
    /// The mask's box.
    pub miou_box: f64,
    /// mIoU by the part of its image that a mask covers.
    pub by_area: Vec<AreaReport>,
    /// Pearson's correlation of predicted and true IoU, of the masks of one click and of boxes.
    pub iou_correlation: f64,
    /// Automatic generation.
    pub automatic: Option<AutomaticReport>,
}

/// Masks of similar size. The part of its image that a mask covers is at least that of its class, and below that of the
/// next one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AreaReport {
    /// The least part of an image.
    pub from: f64,
    /// Masks asked for.
    pub masks: usize,
    /// One click, the best of the masks of the multi-mask output; 0 without masks.
    pub miou_1_click_best: f64,
    /// The mask's box; 0 without masks.
    pub miou_box: f64,
}

/// What automatic generation found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AutomaticReport {
    /// Objects of more than [`COUNTED_PART`] of their image.
    pub objects: usize,
    /// Of them, those with a mask of IoU [`FOUND_IOU`] or more.
    pub found: usize,
    /// Masks generated.
    pub masks: usize,
    /// Masks that match an object of any size that a mask before them matches better.
    pub duplicates: usize,
}

impl AutomaticReport {
    /// Part of the objects found.
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.objects.max(1) as f64
    }

    /// Duplicates a mask.
    pub fn duplicates_per_mask(&self) -> f64 {
        self.duplicates as f64 / self.masks.max(1) as f64
    }
}

impl Report {
    /// One number to choose between checkpoints: the mean of mIoU at one click, at five, and from boxes.
    pub fn score(&self) -> f64 {
        (self.miou_1_click_best + self.miou_5_clicks + self.miou_box) / 3.0
    }
}

/// Evaluates a loaded model on the data of a training file.
///
/// # Errors
/// [`TrainError::NoExamples`] where not one example can be used.
pub fn evaluate_on(
    sam: &Sam,
    data: &Data,
    evaluation: &Evaluation,
    skipped: &mut dyn FnMut(String),
) -> Result<Report, TrainError> {
    let mut sums = Sums::new();
    std::thread::scope(|scope| {
        // Read and drawn while the model computes.
        let (send, receive) = bounded(2);
        scope.spawn(move || {
            for example in data.first(evaluation.images) {
                if send.send(example).is_err() {
                    return;
                }
            }
        });
        for example in receive {
            match example {
                Ok(example) => sums.add(sam, &example, evaluation),
                Err(error) => {
                    sums.report.skipped += 1;
                    sums.last_problem = error.to_string();
                    skipped(sums.last_problem.clone());
                }
            }
        }
    });
    match sums.report.images {
        0 => Err(TrainError::NoExamples {
            tries: sums.report.skipped,
            last: sums.last_problem,
        }),
        _ => Ok(sums.finished()),
    }
}

/// Evaluates a checkpoint file: see [`evaluate_on`].
///
/// # Errors
/// As [`evaluate_on`]; the checkpoint's.
pub fn evaluate(
    checkpoint: &Path,
    device: &maskmill_sam::Device,
    data: &Data,
    evaluation: &Evaluation,
    skipped: &mut dyn FnMut(String),
) -> Result<Report, TrainError> {
    let sam = Sam::load(checkpoint, device, maskmill_sam::Precision::F32)?;
    evaluate_on(&sam, data, evaluation, skipped)
}

struct Sums {
    report: Report,
    last_problem: String,
    /// Predicted and true IoU.
    pairs: Vec<[f64; 2]>,
}

impl Sums {
    fn new() -> Self {
        let class = |from| AreaReport {
            from,
            ..AreaReport::default()
        };
        Self {
            report: Report {
                by_area: AREA_CLASSES.map(class).to_vec(),
                ..Report::default()
            },
            last_problem: String::new(),
            pairs: Vec::new(),
        }
    }

    fn class_of(&mut self, mask: &Rle) -> &mut AreaReport {
        let size = mask.size();
        let part = mask.area() as f64 / (f64::from(size.width) * f64::from(size.height));
        let classes = &mut self.report.by_area;
        let class = classes.iter().rposition(|class| class.from <= part);
        &mut classes[class.expect("the first class begins at 0")]
    }

    fn add(&mut self, sam: &Sam, example: &Example, evaluation: &Evaluation) {
        let mut order: Vec<&Rle> = example.masks.iter().collect();
        order.sort_by_key(|mask| std::cmp::Reverse(mask.area()));
        order.truncate(evaluation.masks_per_image);
        let mut predictor = Predictor::new(sam);
        predictor.set_image(&example.image);
        self.report.images += 1;
        self.report.masks += order.len();
        self.clicks(&predictor, &order);
        self.boxes(&predictor, &order);
        if let Some((options, points_per_batch)) = &evaluation.automatic {
            let masks = generate(sam, options, *points_per_batch, &example.image);
            let masks: Vec<&Rle> = masks.iter().map(|mask| &mask.rle).collect();
            let report = self.report.automatic.get_or_insert_default();
            count_found(&masks, &example.masks, report);
        }
    }

    fn clicks(&mut self, predictor: &Predictor<'_>, targets: &[&Rle]) {
        let bitmaps: Vec<Bitmap> = targets.iter().map(|mask| mask.decode()).collect();
        let mut prompts = vec![Prompt::default(); targets.len()];
        let mut answers: Vec<Option<Bitmap>> = vec![None; targets.len()];
        for click in 1..=REPORTED[REPORTED.len() - 1] {
            for ((prompt, answer), target) in prompts.iter_mut().zip(&answers).zip(&bitmaps) {
                let click = middle_of_error(answer.as_ref(), target);
                let click = click.expect("masks of examples are not empty");
                prompt.points.push(PointPrompt {
                    xy_px: click.xy_px,
                    foreground: click.foreground,
                });
            }
            let output = if click == 1 {
                MaskOutput::Multi
            } else {
                MaskOutput::Single
            };
            let predicted = predictor.predict(&prompts, output);
            let predicted = predicted.expect("prompts of the image that is set");
            let (mut sum, mut best_sum) = (0.0, 0.0);
            for (i, masks) in predicted.into_iter().enumerate() {
                let ious: Vec<f64> = masks
                    .iter()
                    .map(|mask| self.pair(predictor, mask, targets[i], click == 1))
                    .collect();
                let chosen = highest(&masks);
                sum += ious[chosen];
                let best = ious.iter().copied().fold(0.0, f64::max);
                best_sum += best;
                if click == 1 {
                    let class = self.class_of(targets[i]);
                    class.masks += 1;
                    class.miou_1_click_best += best;
                }
                answers[i] = Some(predictor.mask(&masks[chosen]).decode());
                let logits = masks
                    .into_iter()
                    .nth(chosen)
                    .map(|mask| mask.low_res_logits);
                prompts[i].mask_logits = logits;
            }
            let report = &mut self.report;
            match click {
                1 => {
                    report.miou_1_click += sum;
                    report.miou_1_click_best += best_sum;
                }
                3 => report.miou_3_clicks += sum,
                5 => report.miou_5_clicks += sum,
                _ => {}
            }
        }
    }

    fn boxes(&mut self, predictor: &Predictor<'_>, targets: &[&Rle]) {
        let prompts: Vec<Prompt> = targets
            .iter()
            .map(|mask| {
                let bounds = mask.bounds();
                let corners = [bounds.x0, bounds.y0, bounds.x1, bounds.y1];
                Prompt {
                    box_xyxy_px: Some(corners.map(f64::from)),
                    ..Prompt::default()
                }
            })
            .collect();
        let predicted = predictor.predict(&prompts, MaskOutput::Single);
        let predicted = predicted.expect("prompts of the image that is set");
        for (masks, target) in predicted.iter().zip(targets) {
            let iou = self.pair(predictor, &masks[0], target, true);
            self.report.miou_box += iou;
            self.class_of(target).miou_box += iou;
        }
    }

    /// The true IoU of a mask; noted beside the predicted one where it counts.
    fn pair(
        &mut self,
        predictor: &Predictor<'_>,
        mask: &PredictedMask,
        target: &Rle,
        counts: bool,
    ) -> f64 {
        let iou = predictor.mask(mask).iou(target);
        let iou = iou.expect("masks of one image");
        let iou = if iou.is_nan() { 0.0 } else { iou };
        if counts {
            self.pairs.push([f64::from(mask.predicted_iou), iou]);
        }
        iou
    }

    fn finished(self) -> Report {
        let mut report = self.report;
        let masks = report.masks.max(1) as f64;
        for mean in [
            &mut report.miou_1_click_best,
            &mut report.miou_1_click,
            &mut report.miou_3_clicks,
            &mut report.miou_5_clicks,
            &mut report.miou_box,
        ] {
            *mean /= masks;
        }
        for class in &mut report.by_area {
            let masks = class.masks.max(1) as f64;
            class.miou_1_click_best /= masks;
            class.miou_box /= masks;
        }
        report.iou_correlation = correlation(&self.pairs);
        report
    }
}

fn highest(masks: &[PredictedMask]) -> usize {
    let order = |a: &usize, b: &usize| masks[*a].predicted_iou.total_cmp(&masks[*b].predicted_iou);
    (0..masks.len())
        .rev()
        .max_by(order)
        .expect("a mask for each prompt")
}

/// Pearson's correlation; 0 where one side does not vary.
fn correlation(pairs: &[[f64; 2]]) -> f64 {
    let n = pairs.len().max(1) as f64;
    let mean = |side: usize| pairs.iter().map(|pair| pair[side]).sum::<f64>() / n;
    let means = [mean(0), mean(1)];
    let product = |a: usize, b: usize| {
        let of = |pair: &[f64; 2]| (pair[a] - means[a]) * (pair[b] - means[b]);
        pairs.iter().map(of).sum::<f64>()
    };
    let spread = (product(0, 0) * product(1, 1)).sqrt();
    if spread > 0.0 {
        product(0, 1) / spread
    } else {
        0.0
    }
}

/// Counts what `masks`, in their order of preference, find of `objects`.
fn count_found(masks: &[&Rle], objects: &[Rle], report: &mut AutomaticReport) {
    report.masks += masks.len();
    let mut found = vec![false; objects.len()];
    for mask in masks {
        let mut best: Option<(usize, f64)> = None;
        for (i, object) in objects.iter().enumerate() {
            let iou = mask.iou(object).expect("masks of one image");
            if iou >= FOUND_IOU && best.is_none_or(|(_, b)| iou > b) {
                best = Some((i, iou));
            }
        }
        if let Some((i, _)) = best {
            report.duplicates += usize::from(found[i]);
            found[i] = true;
        }
    }
    for (object, found) in objects.iter().zip(found) {
        let size = object.size();
        let pixels = f64::from(size.width) * f64::from(size.height);
        if object.area() as f64 > COUNTED_PART * pixels {
            report.objects += 1;
            report.found += usize::from(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use maskmill_masks::ImageSize;

    use super::*;

    #[test]
    fn correlation_is_pearsons() {
        let line: Vec<[f64; 2]> = (0..5)
            .map(|i| [f64::from(i), 3.0 - 2.0 * f64::from(i)])
            .collect();
        assert!((correlation(&line) + 1.0).abs() < 1e-12);
        // numpy.corrcoef([1, 2, 3, 4], [2, 1, 4, 3])
        let pairs = [[1.0, 2.0], [2.0, 1.0], [3.0, 4.0], [4.0, 3.0]];
        assert!((correlation(&pairs) - 0.6).abs() < 1e-12);
        assert_eq!(correlation(&[[1.0, 2.0], [1.0, 3.0]]), 0.0);
    }

    #[test]
    fn found_objects_and_duplicates_are_counted() {
        let size = ImageSize::new(20, 30);
        let block = |x0: u32, y0: u32, x1: u32, y1: u32| {
            Rle::encode(&Bitmap::from_fn(size, |y, x| {
                (x0..x1).contains(&x) && (y0..y1).contains(&y)
            }))
        };
        // The last object is below one percent of 600 pixels.
        let objects = [
            block(0, 0, 10, 10),
            block(15, 5, 25, 15),
            block(28, 18, 30, 20),
        ];
        let masks = [
            block(0, 0, 10, 9),
            block(0, 0, 10, 10),
            block(15, 5, 25, 10),
            block(28, 18, 30, 20),
        ];
        let mut report = AutomaticReport::default();
        count_found(&masks.iter().collect::<Vec<_>>(), &objects, &mut report);
        let expected = AutomaticReport {
            objects: 2,
            found: 1,
            masks: 4,
            duplicates: 1,
        };
        assert_eq!(report, expected);
        assert_eq!((report.recall(), report.duplicates_per_mask()), (0.5, 0.25));
    }
}
