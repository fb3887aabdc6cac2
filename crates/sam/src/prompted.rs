//! Masks for many given prompts of one image, in the two halves that a job overlaps: candidates on the device
//! ([`propose_prompted`]), masks on the CPU ([`PromptedSelector`]).
//!
//! Each prompt gives at most one mask. Follows `SamPredictor.predict_torch` (segment-anything) for each prompt;
//! the filters are those of `SamAutomaticMaskGenerator`:
//!
//! ```text
//! prompts -> mask, or the best of three -> again with that mask* -> predicted IoU      propose_prompted, in batches
//!         -> stability -> small regions* -> coverage, area* -> mask NMS*               PromptedSelector      (*: off by default)
//! ```

use std::ops::ControlFlow;

use maskmill_masks::{ImageSize, passes_iou};
use rayon::prelude::*;

use crate::architecture::Architecture;
use crate::ask::{Answer, Asking, by_batch};
use crate::budget::PromptBudget;
use crate::deferred::Reading;
use crate::generator::{Candidate, CandidateBatch, PreparedImage, PromptedBy};
use crate::mask_decoder::MaskOutput;
use crate::model::Sam;
use crate::predictor::{Prompt, PromptError, by_form, check_all, model_prompts};
use crate::selector::{GeneratedMask, MaskFilters, Measure, nms_by_pixels, remove_small_regions};

/// How prompts are answered, and which masks are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptedOptions {
    /// One mask a prompt, or the one of three with the best predicted IoU.
    pub output: MaskOutput,
    /// Asks a second time, with the first answer's low-resolution logits beside the prompt.
    pub refine: bool,
    /// Which masks are kept. The thresholds of box NMS do not apply: prompts are not a grid.
    pub filters: MaskFilters,
}

impl Default for PromptedOptions {
    /// One mask a prompt, asked once, with the filters' defaults.
    fn default() -> Self {
        Self {
            output: MaskOutput::Single,
            refine: false,
            filters: MaskFilters::default(),
        }
    }
}

/// Runs the model over given prompts and hands out the candidates, batch by batch; without prompts the image is
/// not even encoded.
///
/// `budget`, or a number of prompts in a batch, bounds memory and does not change what is found. `sink` may stop the
/// run.
///
/// # Errors
/// See [`PromptError`]; nothing is computed if any prompt is at fault.
///
/// # Panics
/// When the device fails.
pub fn propose_prompted(
    sam: &Sam,
    prompts: &[Prompt],
    options: &PromptedOptions,
    budget: impl Into<PromptBudget>,
    image: &PreparedImage,
    sink: impl FnMut(CandidateBatch) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, PromptError> {
    let budget = budget.into();
    let reading = Reading::of(sam.device(), budget);
    propose_prompted_reading(sam, prompts, options, budget, reading, image, sink)
}

/// [`propose_prompted`] with the choice of [`Reading`] that is otherwise the device's.
///
/// # Errors
/// As [`propose_prompted`].
///
/// # Panics
/// As [`propose_prompted`].
pub fn propose_prompted_reading(
    sam: &Sam,
    prompts: &[Prompt],
    options: &PromptedOptions,
    budget: impl Into<PromptBudget>,
    reading: Reading,
    image: &PreparedImage,
    mut sink: impl FnMut(CandidateBatch) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, PromptError> {
    check_all(prompts, sam.architecture().low_res_side())?;
    if prompts.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    let (crop, input) = image.whole_input();
    let embedding = sam.encode(input);
    let per_batch = budget.into().prompts(sam);
    let asking = Asking {
        sam,
        embedding: &embedding,
        output: options.output,
        prompts_per_batch: per_batch,
        reading,
    };
    for form in by_form(prompts) {
        for together in form.chunks(asking.together(form.len())) {
            let asked: Vec<Prompt> = together.iter().map(|&i| prompts[i].clone()).collect();
            for answers in by_batch(best_answers(asking, asked, options), per_batch) {
                let candidates = answers.into_iter().map(|answer| Candidate {
                    prompted_by: PromptedBy::Given(together[answer.prompt]),
                    predicted_iou: answer.predicted_iou,
                    low_res_logits: answer.low_res_logits,
                });
                let batch = CandidateBatch {
                    crop_index: 0,
                    crop,
                    input: input.resized().size(),
                    candidates: candidates.collect(),
                };
                if sink(batch).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The masks of prompts of one form that pass the predicted-IoU filter: of each prompt the best. The IoU comes from the
/// transformer alone, so only prompts that pass are upscaled.
fn best_answers(
    asking: Asking<'_>,
    mut prompts: Vec<Prompt>,
    options: &PromptedOptions,
) -> Vec<Answer> {
    let best = |iou: &[f32]| vec![best_mask(iou)];
    let passing = |iou: &[f32]| {
        let best = best_mask(iou);
        let passes = passes_iou(iou[best], options.filters.pred_iou_thresh);
        Vec::from_iter(passes.then_some(best))
    };
    if !options.refine {
        return asking.answers(&model_prompts(asking.embedding, &prompts), passing);
    }
    for answer in asking.answers(&model_prompts(asking.embedding, &prompts), best) {
        prompts[answer.prompt].mask_logits = Some(answer.low_res_logits);
    }
    // With a mask a prompt is no longer ambiguous.
    let again = Asking {
        output: MaskOutput::Single,
        ..asking
    };
    again.answers(&model_prompts(asking.embedding, &prompts), passing)
}

/// The mask of the best predicted IoU, the first of equals.
fn best_mask(iou: &[f32]) -> usize {
    let best = (0..iou.len()).reduce(|a, b| if iou[b] > iou[a] { b } else { a });
    best.expect("a decoder has masks")
}

/// Collects the candidates of one image's prompts and keeps the masks that pass.
pub struct PromptedSelector {
    measure: Measure,
    masks: Vec<GeneratedMask>,
}

impl PromptedSelector {
    /// A selector for an image of `image` pixels.
    pub fn new(architecture: &Architecture, filters: &MaskFilters, image: ImageSize) -> Self {
        Self {
            measure: Measure::new(architecture, filters, image),
            masks: Vec::new(),
        }
    }

    /// Takes the next batch, in any order.
    pub fn push(&mut self, batch: CandidateBatch) {
        let mut masks = self.measure.masks(&batch);
        let area = self.measure.filters.min_mask_region_area;
        if area > 0 {
            masks.par_iter_mut().for_each(|mask| {
                remove_small_regions(mask, area);
            });
        }
        self.masks.append(&mut masks);
    }

    /// The image's masks, in the order of their prompts. `prompt_scores` ranks the prompts: of two masks alike that
    /// of the higher score stays, and of equal scores that of the higher predicted IoU.
    ///
    /// # Panics
    /// When a mask's prompt has no score.
    pub fn finish(self, prompt_scores: &[f32]) -> Vec<GeneratedMask> {
        let Measure { filters, image, .. } = self.measure;
        let mut masks = self.masks;
        masks.sort_by_key(given);
        masks.retain(|mask| filters.passes_size(mask.area, image));
        nms_by_pixels(masks, &filters, |masks| ranks(masks, prompt_scores))
    }
}

fn given(mask: &GeneratedMask) -> usize {
    match mask.prompted_by {
        PromptedBy::Given(prompt) => prompt,
        PromptedBy::GridPoint(_) => unreachable!("a grid's candidates go to MaskSelector"),
    }
}

/// Scores that order masks by their prompt's score and then by predicted IoU.
fn ranks(masks: &[GeneratedMask], prompt_scores: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..masks.len()).collect();
    order.sort_by(|&a, &b| {
        let key = |index: usize| {
            (
                prompt_scores[given(&masks[index])],
                masks[index].predicted_iou,
            )
        };
        let ((score_a, iou_a), (score_b, iou_b)) = (key(a), key(b));
        score_b
            .total_cmp(&score_a)
            .then(iou_b.total_cmp(&iou_a))
            .then(a.cmp(&b))
    });
    let mut ranks = vec![0.0; masks.len()];
    for (place, index) in order.into_iter().enumerate() {
        ranks[index] = -(place as f32);
    }
    ranks
}
