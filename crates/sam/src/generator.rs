//! Automatic masks, first half: a grid of points over the image and its crops, each a prompt.
//!
//! Follows `SamAutomaticMaskGenerator` (segment-anything). The work is cut where the machine is: the
//! device makes [`CandidateBatch`]es ([`propose`]), the CPU turns them into masks
//! ([`MaskSelector`](crate::MaskSelector)), and images are resized ahead of both ([`PreparedImage`]).
//! On the CPU candidates stream batch by batch, so memory does not grow with the number of points; GPUs answer a
//! crop's points together ([`Reading`]).

use std::ops::ControlFlow;

use maskmill_masks::{BoxPx, Crop, ImageSize, crops, layer_point_grids, passes_iou, scale_points};
use maskmill_pixels::RgbImage;

use crate::ask::{Asking, ModelPrompt, by_batch};
use crate::budget::PromptBudget;
use crate::deferred::Reading;
use crate::mask_decoder::MaskOutput;
use crate::model::{ModelInput, Sam};
use crate::prompt_encoder::PointLabel;
use crate::selector::{GeneratedMask, MaskFilters, MaskSelector};

/// What is prompted, and which masks are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct AutomaticOptions {
    /// Points in `[0, 1]^2` (x, y) for each crop layer, the whole image being layer 0.
    pub point_grids: Vec<Vec<[f64; 2]>>,
    /// Crop layers beyond the whole image; layer i has `2^i x 2^i` crops.
    pub crop_n_layers: u32,
    /// Overlap of the first layer's crops, as a fraction of the image's shorter side.
    pub crop_overlap_ratio: f64,
    /// Three masks a point, or one.
    pub output: MaskOutput,
    /// Which masks are kept.
    pub filters: MaskFilters,
}

impl AutomaticOptions {
    /// A regular grid per layer: `points_per_side` divided by `downscale_factor^layer`.
    pub fn regular_grids(
        points_per_side: u32,
        crop_n_layers: u32,
        downscale_factor: u32,
    ) -> Vec<Vec<[f64; 2]>> {
        layer_point_grids(points_per_side, crop_n_layers, downscale_factor)
    }
}

impl Default for AutomaticOptions {
    /// The defaults of `SamAutomaticMaskGenerator`: 32 x 32 points, no crops.
    fn default() -> Self {
        Self {
            point_grids: Self::regular_grids(32, 0, 1),
            crop_n_layers: 0,
            crop_overlap_ratio: 512.0 / 1500.0,
            output: MaskOutput::Multi,
            filters: MaskFilters::default(),
        }
    }
}

/// An image cut into crops and resized: all that the device stage needs of it.
pub struct PreparedImage {
    size: ImageSize,
    crops: Vec<(Crop, ModelInput)>,
}

impl PreparedImage {
    /// Cuts and resizes; CPU work only. `image_size` is the model's.
    pub fn new(image: &RgbImage, options: &AutomaticOptions, image_size: usize) -> Self {
        let bounds = crops(
            image.size(),
            options.crop_n_layers,
            options.crop_overlap_ratio,
        );
        let whole = bounds.len() == 1;
        Self {
            size: image.size(),
            crops: bounds
                .into_iter()
                .map(|crop| {
                    let input = if whole {
                        ModelInput::new(image, image_size)
                    } else {
                        ModelInput::new(&image.crop(crop.bounds), image_size)
                    };
                    (crop, input)
                })
                .collect(),
        }
    }

    /// Resizes without cutting; CPU work only. `image_size` is the model's.
    pub fn whole(image: &RgbImage, image_size: usize) -> Self {
        let crop = Crop {
            layer: 0,
            bounds: BoxPx::of(image.size()),
        };
        Self {
            size: image.size(),
            crops: vec![(crop, ModelInput::new(image, image_size))],
        }
    }

    /// The first crop, which is the whole image.
    pub(crate) fn whole_input(&self) -> (Crop, &ModelInput) {
        let (crop, input) = &self.crops[0];
        (*crop, input)
    }

    /// Size of the original image, in pixels.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// Bytes of pixels held.
    pub fn bytes(&self) -> usize {
        let inputs = self.crops.iter().map(|(_, input)| input);
        inputs.map(|input| input.resized().data().len()).sum()
    }
}

/// What a mask was asked for with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PromptedBy {
    /// A point of a grid: of a candidate in pixels of its crop, of a mask in pixels of the image.
    GridPoint([f64; 2]),
    /// The prompt of this number among those that were given.
    Given(usize),
}

impl PromptedBy {
    /// The same, from a crop's frame to the image's, given the crop's first column and row.
    #[must_use]
    pub fn translate(self, dx: u32, dy: u32) -> Self {
        match self {
            Self::GridPoint([x, y]) => Self::GridPoint([x + f64::from(dx), y + f64::from(dy)]),
            Self::Given(index) => Self::Given(index),
        }
    }
}

/// One mask that passed the predicted-IoU filter, not yet upscaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What prompted it.
    pub prompted_by: PromptedBy,
    /// The model's estimate of the mask's IoU.
    pub predicted_iou: f32,
    /// Low-resolution logits, row-major `[4 grid, 4 grid]`.
    pub low_res_logits: Vec<f32>,
}

/// Candidates of some points of one crop. Crops come in order, points within a crop too.
#[derive(Clone, Debug)]
pub struct CandidateBatch {
    /// The crop's place in the order of crops.
    pub crop_index: usize,
    /// The crop, in pixels of the image.
    pub crop: Crop,
    /// Size of the crop as the model saw it, resized and unpadded.
    pub input: ImageSize,
    /// What passed.
    pub candidates: Vec<Candidate>,
}

/// Runs the model over an image's points and hands out the candidates, batch by batch.
///
/// `budget`, or a number of points in a batch, bounds memory and does not change what is found. `sink` may stop the run.
///
/// # Panics
/// When `options` has fewer point grids than the image has crop layers, or the device fails.
pub fn propose(
    sam: &Sam,
    options: &AutomaticOptions,
    budget: impl Into<PromptBudget>,
    image: &PreparedImage,
    sink: impl FnMut(CandidateBatch) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let budget = budget.into();
    let reading = Reading::of(sam.device(), budget);
    propose_reading(sam, options, budget, reading, image, sink)
}

/// [`propose`] with the choice of [`Reading`] that is otherwise the device's.
///
/// # Panics
/// As [`propose`].
pub fn propose_reading(
    sam: &Sam,
    options: &AutomaticOptions,
    budget: impl Into<PromptBudget>,
    reading: Reading,
    image: &PreparedImage,
    mut sink: impl FnMut(CandidateBatch) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let per_batch = budget.into().prompts(sam);
    let passes = |iou: f32| passes_iou(iou, options.filters.pred_iou_thresh);
    // The IoU comes from the transformer alone, so points without a good mask are never upscaled.
    let wanted = |iou: &[f32]| (0..iou.len()).filter(|&mask| passes(iou[mask])).collect();
    for (crop_index, (crop, input)) in image.crops.iter().enumerate() {
        let embedding = sam.encode(input);
        let grid = &options.point_grids[crop.layer as usize];
        let points = scale_points(grid, crop.bounds.size());
        let asking = Asking {
            sam,
            embedding: &embedding,
            output: options.output,
            prompts_per_batch: per_batch,
            reading,
        };
        for points in points.chunks(asking.together(points.len())) {
            let prompts: Vec<ModelPrompt<'_>> = points
                .iter()
                .map(|&xy| ModelPrompt {
                    points: vec![
                        (embedding.to_input(xy), PointLabel::Foreground),
                        ([0.0, 0.0], PointLabel::Padding),
                    ],
                    mask_logits: None,
                })
                .collect();
            for answers in by_batch(asking.answers(&prompts, wanted), per_batch) {
                let candidates = answers.into_iter().map(|answer| Candidate {
                    prompted_by: PromptedBy::GridPoint(points[answer.prompt]),
                    predicted_iou: answer.predicted_iou,
                    low_res_logits: answer.low_res_logits,
                });
                sink(CandidateBatch {
                    crop_index,
                    crop: *crop,
                    input: input.resized().size(),
                    candidates: candidates.collect(),
                })?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// All masks of one image, device and CPU work in turn. Jobs overlap the two with [`propose`].
///
/// # Panics
/// As [`propose`].
pub fn generate(
    sam: &Sam,
    options: &AutomaticOptions,
    budget: impl Into<PromptBudget>,
    image: &RgbImage,
) -> Vec<GeneratedMask> {
    let prepared = PreparedImage::new(image, options, sam.architecture().image_size);
    let mut selector = MaskSelector::new(sam.architecture(), &options.filters, prepared.size());
    let done = propose(sam, options, budget, &prepared, |batch| {
        selector.push(batch);
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "this sink never stops");
    selector.finish()
}
