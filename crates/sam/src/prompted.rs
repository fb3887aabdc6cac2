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
use maskmill_weights::to_host;
use rayon::prelude::*;

use crate::architecture::Architecture;
use crate::generator::{Candidate, CandidateBatch, PreparedImage, PromptedBy};
use crate::mask_decoder::{DecodedPrompts, MaskOutput};
use crate::model::{ImageEmbedding, Sam};
use crate::predictor::{Prompt, PromptError, by_form, check_all, decode_prompts};
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
/// `prompts_per_batch` bounds memory and does not change what is found. `sink` may stop the run.
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
    prompts_per_batch: usize,
    image: &PreparedImage,
    mut sink: impl FnMut(CandidateBatch) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, PromptError> {
    check_all(prompts, sam.architecture().low_res_side())?;
    if prompts.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    let (crop, input) = image.whole_input();
    let embedding = sam.encode(input);
    for form in by_form(prompts) {
        for batch in form.chunks(prompts_per_batch.max(1)) {
            let asked: Vec<Prompt> = batch.iter().map(|&index| prompts[index].clone()).collect();
            let answers = answer(sam, &embedding, asked, options);
            let candidates: Vec<Candidate> = answers
                .into_iter()
                .map(|answer| Candidate {
                    prompted_by: PromptedBy::Given(batch[answer.prompt]),
                    predicted_iou: answer.predicted_iou,
                    low_res_logits: answer.low_res_logits,
                })
                .collect();
            if candidates.is_empty() {
                continue;
            }
            let batch = CandidateBatch {
                crop_index: 0,
                crop,
                input: input.resized().size(),
                candidates,
            };
            if sink(batch).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// One mask for one prompt of a batch.
struct Answer {
    prompt: usize,
    predicted_iou: f32,
    low_res_logits: Vec<f32>,
}

/// The masks of prompts of one form that pass the predicted-IoU filter.
fn answer(
    sam: &Sam,
    embedding: &ImageEmbedding,
    mut prompts: Vec<Prompt>,
    options: &PromptedOptions,
) -> Vec<Answer> {
    let decode = |prompts: &[Prompt]| {
        let prompts: Vec<&Prompt> = prompts.iter().collect();
        decode_prompts(sam, embedding, &prompts)
    };
    let threshold = options.filters.pred_iou_thresh;
    if !options.refine {
        return best_masks(sam, &decode(&prompts), options.output, Some(threshold));
    }
    let first = best_masks(sam, &decode(&prompts), options.output, None);
    for answer in first {
        prompts[answer.prompt].mask_logits = Some(answer.low_res_logits);
    }
    // With a mask a prompt is no longer ambiguous.
    best_masks(sam, &decode(&prompts), MaskOutput::Single, Some(threshold))
}

/// Each prompt's mask of the best predicted IoU, where that passes. The IoU comes from the transformer alone, so
/// only prompts that pass are upscaled.
fn best_masks(
    sam: &Sam,
    decoded: &DecodedPrompts,
    output: MaskOutput,
    pred_iou_thresh: Option<f64>,
) -> Vec<Answer> {
    let decoder = &sam.networks().mask_decoder;
    let iou = decoder.predicted_iou(decoded, output);
    let [_, masks] = iou.dims();
    let iou = to_host(iou);
    let passing: Vec<(usize, usize, f32)> = iou
        .chunks_exact(masks)
        .enumerate()
        .map(|(prompt, iou)| {
            let best = (0..masks).reduce(|a, b| if iou[b] > iou[a] { b } else { a });
            let best = best.expect("a decoder has masks");
            (prompt, best, iou[best])
        })
        .filter(|(_, _, iou)| pred_iou_thresh.is_none_or(|t| passes_iou(*iou, t)))
        .collect();
    if passing.is_empty() {
        return Vec::new();
    }
    let wanted: Vec<usize> = passing.iter().map(|(prompt, _, _)| *prompt).collect();
    let logits = decoder.low_res_logits(decoded, output, &wanted);
    let [_, _, height, width] = logits.dims();
    let logits = to_host(logits);
    let plane = height * width;
    passing
        .iter()
        .zip(logits.chunks_exact(masks * plane))
        .map(|(&(prompt, best, predicted_iou), planes)| Answer {
            prompt,
            predicted_iou,
            low_res_logits: planes[best * plane..][..plane].to_vec(),
        })
        .collect()
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
