//! Masks for given prompts: points, boxes and earlier masks, several prompts per call.
//!
//! Follows `SamPredictor` (segment-anything): the image is embedded once by [`Predictor::set_image`] and
//! reused by every call after it.

use std::collections::BTreeMap;

use maskmill_masks::{ImageSize, Rle, ScanOptions, Upscaler};
use maskmill_pixels::RgbImage;

use crate::ask::{Asking, ModelPrompt};
use crate::budget::PromptBudget;
use crate::deferred::Reading;
use crate::mask_decoder::MaskOutput;
use crate::model::{ImageEmbedding, ModelInput, Sam};
use crate::prompt_encoder::{PointLabel, PromptPoints};

/// A point in the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PointPrompt {
    /// x and y, in pixels of the original image.
    pub xy_px: [f64; 2],
    /// Whether the point lies on the object (`true`) or beside it.
    pub foreground: bool,
}

/// One prompt: any of points, a box and an earlier mask, together naming one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Points on and beside the object.
    pub points: Vec<PointPrompt>,
    /// A box around the object, x0, y0, x1, y1 in pixels of the original image.
    pub box_xyxy_px: Option<[f64; 4]>,
    /// Low-resolution logits of an earlier prediction, row-major `[4 grid, 4 grid]`
    /// ([`PredictedMask::low_res_logits`]).
    pub mask_logits: Option<Vec<f32>>,
}

/// Why a prompt cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PromptError {
    /// `predict` before `set_image`.
    #[error("no image is set: call set_image before predict")]
    NoImage,
    /// No points, no box, no mask.
    #[error("prompt {index} is empty: give it a point, a box or a mask")]
    Empty {
        /// Its place in the call.
        index: usize,
    },
    /// A coordinate is NaN or infinite.
    #[error("prompt {index} has a coordinate that is not finite: {value}")]
    NotFinite {
        /// Its place in the call.
        index: usize,
        /// The coordinate.
        value: f64,
    },
    /// The mask has another number of logits than the model's masks.
    #[error("prompt {index}: its mask has {found} logits, this model's masks have {side} x {side}")]
    MaskSize {
        /// Its place in the call.
        index: usize,
        /// Logits given.
        found: usize,
        /// Side of the model's low-resolution masks.
        side: usize,
    },
}

/// One mask for one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictedMask {
    /// Mask logits before thresholding, row-major `[4 grid, 4 grid]`, over the padded square input.
    pub low_res_logits: Vec<f32>,
    /// The model's own estimate of the mask's IoU with the object.
    pub predicted_iou: f32,
}

/// Embeds an image once and predicts masks for prompts on it.
pub struct Predictor<'m> {
    sam: &'m Sam,
    image: Option<(ImageEmbedding, Upscaler)>,
}

impl<'m> Predictor<'m> {
    /// A predictor without an image yet.
    pub fn new(sam: &'m Sam) -> Self {
        Self { sam, image: None }
    }

    /// Embeds `image`; later predictions are for it.
    pub fn set_image(&mut self, image: &RgbImage) {
        let input = ModelInput::new(image, self.sam.architecture().image_size);
        let embedding = self.sam.encode(&input);
        let upscaler = self.sam.upscaler(embedding.input, embedding.original);
        self.image = Some((embedding, upscaler));
    }

    /// The current image's embedding.
    pub fn embedding(&self) -> Option<&ImageEmbedding> {
        self.image.as_ref().map(|(embedding, _)| embedding)
    }

    /// Size of the current image, in pixels.
    pub fn image_size(&self) -> Option<ImageSize> {
        self.embedding().map(|embedding| embedding.original)
    }

    /// Predicts the masks of each prompt: for each of `prompts`, in order, one mask or three.
    ///
    /// Prompts of the same form (number of points, box, mask) run together, in batches that take
    /// [`PromptBudget::BYTES`] at most.
    ///
    /// # Errors
    /// See [`PromptError`]; nothing is computed if any prompt is at fault.
    pub fn predict(
        &self,
        prompts: &[Prompt],
        output: MaskOutput,
    ) -> Result<Vec<Vec<PredictedMask>>, PromptError> {
        let (embedding, _) = self.image.as_ref().ok_or(PromptError::NoImage)?;
        let side = self.sam.architecture().low_res_side();
        check_all(prompts, side)?;
        let mut masks = vec![Vec::new(); prompts.len()];
        for indices in by_form(prompts) {
            let batch: Vec<&Prompt> = indices.iter().map(|&i| &prompts[i]).collect();
            let predicted = self.predict_batch(embedding, &batch, output);
            for (index, predicted) in indices.into_iter().zip(predicted) {
                masks[index] = predicted;
            }
        }
        Ok(masks)
    }

    /// The logits of a predicted mask at the original image's size, row-major `[height, width]`.
    ///
    /// # Panics
    /// Without an image, or with logits of another model.
    pub fn logits(&self, mask: &PredictedMask) -> Vec<f32> {
        self.current_upscaler().logits(&mask.low_res_logits)
    }

    /// A predicted mask at the original image's size: the pixels whose logit is above 0.
    ///
    /// # Panics
    /// Without an image, or with logits of another model.
    pub fn mask(&self, mask: &PredictedMask) -> Rle {
        let options = ScanOptions {
            threshold: 0.0,
            stability_offset: 1.0,
        };
        self.current_upscaler()
            .scan(&mask.low_res_logits, options)
            .rle
    }

    fn current_upscaler(&self) -> &Upscaler {
        let (_, upscaler) = self.image.as_ref().expect("a mask comes from a set image");
        upscaler
    }

    /// Prompts of one form.
    fn predict_batch(
        &self,
        embedding: &ImageEmbedding,
        prompts: &[&Prompt],
        output: MaskOutput,
    ) -> Vec<Vec<PredictedMask>> {
        let budget = PromptBudget::from(prompts.len());
        let asking = Asking {
            sam: self.sam,
            embedding,
            output,
            prompts_per_batch: budget.prompts(self.sam),
            reading: Reading::of(self.sam.device(), budget),
        };
        let all = |iou: &[f32]| (0..iou.len()).collect();
        let mut masks = vec![Vec::new(); prompts.len()];
        for answer in asking.answers(&model_prompts(embedding, prompts.iter().copied()), all) {
            masks[answer.prompt].push(PredictedMask {
                low_res_logits: answer.low_res_logits,
                predicted_iou: answer.predicted_iou,
            });
        }
        masks
    }
}

/// The numbers of prompts of the same form: as many points, a box or none, a mask or none. Prompts of one form run
/// together.
pub(crate) fn by_form(prompts: &[Prompt]) -> impl Iterator<Item = Vec<usize>> {
    let mut forms: BTreeMap<(usize, bool, bool), Vec<usize>> = BTreeMap::new();
    for (index, p) in prompts.iter().enumerate() {
        let form = (
            p.points.len(),
            p.box_xyxy_px.is_some(),
            p.mask_logits.is_some(),
        );
        forms.entry(form).or_default().push(index);
    }
    forms.into_values()
}

/// Prompts of one form as the model takes them.
pub(crate) fn model_prompts<'p>(
    embedding: &ImageEmbedding,
    prompts: impl IntoIterator<Item = &'p Prompt>,
) -> Vec<ModelPrompt<'p>> {
    let prompts = prompts.into_iter().map(|prompt| ModelPrompt {
        points: model_points(embedding, prompt),
        mask_logits: prompt.mask_logits.as_deref(),
    });
    prompts.collect()
}

/// Refuses prompts that cannot be used.
pub(crate) fn check_all(prompts: &[Prompt], side: usize) -> Result<(), PromptError> {
    let mut prompts = prompts.iter().enumerate();
    prompts.try_for_each(|(index, prompt)| check(index, prompt, side))
}

fn check(index: usize, prompt: &Prompt, side: usize) -> Result<(), PromptError> {
    if prompt.points.is_empty() && prompt.box_xyxy_px.is_none() && prompt.mask_logits.is_none() {
        return Err(PromptError::Empty { index });
    }
    let mut coordinates = prompt
        .points
        .iter()
        .flat_map(|point| point.xy_px)
        .chain(prompt.box_xyxy_px.into_iter().flatten());
    if let Some(value) = coordinates.find(|value| !value.is_finite()) {
        return Err(PromptError::NotFinite { index, value });
    }
    match &prompt.mask_logits {
        Some(logits) if logits.len() != side * side => Err(PromptError::MaskSize {
            index,
            found: logits.len(),
            side,
        }),
        _ => Ok(()),
    }
}

/// Points, then box corners; a padding point follows points that have no box
/// (`PromptEncoder._embed_points`).
fn model_points(embedding: &ImageEmbedding, prompt: &Prompt) -> PromptPoints {
    let mut points: PromptPoints = prompt
        .points
        .iter()
        .map(|point| {
            let label = match point.foreground {
                true => PointLabel::Foreground,
                false => PointLabel::Background,
            };
            (embedding.to_input(point.xy_px), label)
        })
        .collect();
    match prompt.box_xyxy_px {
        Some([x0, y0, x1, y1]) => {
            points.push((embedding.to_input([x0, y0]), PointLabel::BoxTopLeft));
            points.push((embedding.to_input([x1, y1]), PointLabel::BoxBottomRight));
        }
        None if !points.is_empty() => points.push(([0.0, 0.0], PointLabel::Padding)),
        None => {}
    }
    points
}
