//! Automatic masks, second half: candidates to the masks that are kept. CPU only.
//!
//! Follows `SamAutomaticMaskGenerator._process_batch`, `_process_crop`, `_generate_masks` and
//! `postprocess_small_regions` (segment-anything), in their order:
//!
//! ```text
//! candidates -> stability -> coverage, area* -> crop edge -> RLE      per batch, in parallel
//!            -> box NMS within the crop, by predicted IoU             per crop
//!            -> box NMS across crops, smaller crops first             per image, with crops
//!            -> small regions, and box NMS again                      min_mask_region_area
//!            -> coverage, area*; mask NMS*; containment NMS*          (*: not in the reference, off)
//! ```

use maskmill_masks::{
    BoxPx, Crop, ImageSize, RegionMode, Rle, ScanOptions, Upscaler, box_nms, containment_nms,
    is_near_crop_edge, mask_nms, passes_max_coverage, passes_min_area, passes_stability,
};
use rayon::prelude::*;

use crate::architecture::Architecture;
use crate::generator::{Candidate, CandidateBatch, PromptedBy};

/// Which masks are kept. Defaults and names are those of `SamAutomaticMaskGenerator`.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskFilters {
    /// Keeps masks whose predicted IoU is above this; 0 or less keeps all.
    pub pred_iou_thresh: f64,
    /// Keeps masks whose stability score is at least this; 0 or less keeps all.
    pub stability_score_thresh: f64,
    /// How far the cutoff is moved, in logits, to measure stability.
    pub stability_score_offset: f64,
    /// Logit above which a pixel belongs to the mask.
    pub mask_threshold: f64,
    /// Box IoU above which the mask of lower predicted IoU is dropped, within a crop.
    pub box_nms_thresh: f64,
    /// Box IoU above which the mask of the larger crop is dropped, between crops.
    pub crop_nms_thresh: f64,
    /// Holes and islands smaller than this are removed, in pixels; 0 leaves masks as they are.
    pub min_mask_region_area: u64,
    /// Masks of fewer pixels are dropped; 0 keeps all.
    pub min_area: u64,
    /// Masks that cover at least this fraction of the image are dropped (SA-1B: 0.95).
    pub max_coverage: Option<f64>,
    /// Mask IoU above which the mask of lower predicted IoU is dropped.
    pub mask_nms_thresh: Option<f64>,
    /// A mask is dropped when this fraction of it lies within one mask of higher predicted IoU.
    pub containment_nms_thresh: Option<f64>,
}

impl Default for MaskFilters {
    fn default() -> Self {
        Self {
            pred_iou_thresh: 0.88,
            stability_score_thresh: 0.95,
            stability_score_offset: 1.0,
            mask_threshold: 0.0,
            box_nms_thresh: 0.7,
            crop_nms_thresh: 0.7,
            min_mask_region_area: 0,
            min_area: 0,
            max_coverage: None,
            mask_nms_thresh: None,
            containment_nms_thresh: None,
        }
    }
}

impl MaskFilters {
    pub(crate) fn passes_size(&self, area: u64, image: ImageSize) -> bool {
        passes_min_area(area, self.min_area)
            && self
                .max_coverage
                .is_none_or(|limit| passes_max_coverage(area, image, limit))
    }
}

/// A mask of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedMask {
    /// The mask, over the whole image.
    pub rle: Rle,
    /// Its box, in pixels of the image.
    pub bounds: BoxPx,
    /// Its pixels.
    pub area: u64,
    /// The model's estimate of its IoU.
    pub predicted_iou: f32,
    /// IoU of the mask cut at a higher and at a lower threshold.
    pub stability_score: f32,
    /// What prompted it.
    pub prompted_by: PromptedBy,
    /// The crop it was found in, in pixels of the image.
    pub crop: BoxPx,
}

/// Candidates of one image to the masks that pass on their own, before any are compared.
pub(crate) struct Measure {
    pub(crate) filters: MaskFilters,
    pub(crate) image: ImageSize,
    low_res: ImageSize,
    model_side: u32,
}

impl Measure {
    pub(crate) fn new(
        architecture: &Architecture,
        filters: &MaskFilters,
        image: ImageSize,
    ) -> Self {
        let side = architecture.low_res_side() as u32;
        Self {
            filters: filters.clone(),
            image,
            low_res: ImageSize::new(side, side),
            model_side: architecture.image_size as u32,
        }
    }

    /// `_process_batch`: the masks that no filter drops, in order. Their bounds stay in the crop's frame.
    pub(crate) fn masks(&self, batch: &CandidateBatch) -> Vec<GeneratedMask> {
        let upscaler = Upscaler::new(
            self.low_res,
            self.model_side,
            batch.input,
            batch.crop.bounds.size(),
        );
        let found: Vec<Option<GeneratedMask>> = batch
            .candidates
            .par_iter()
            .map(|candidate| self.mask(&upscaler, batch.crop, candidate))
            .collect();
        found.into_iter().flatten().collect()
    }

    /// `_process_batch` for one mask: `None` where a filter drops it.
    fn mask(
        &self,
        upscaler: &Upscaler,
        crop: Crop,
        candidate: &Candidate,
    ) -> Option<GeneratedMask> {
        let (filters, image) = (&self.filters, self.image);
        let options = ScanOptions {
            threshold: filters.mask_threshold as f32,
            stability_offset: filters.stability_score_offset as f32,
        };
        let scan = upscaler.scan(&candidate.low_res_logits, options);
        let stability_score = scan.stability_score();
        let kept = passes_stability(stability_score, filters.stability_score_thresh)
            && filters.passes_size(scan.area, image)
            && !is_near_crop_edge(scan.bounds, crop.bounds, image);
        if !kept {
            return None;
        }
        let rle = scan
            .rle
            .uncrop(crop.bounds, image)
            .expect("a crop lies within its image");
        Some(GeneratedMask {
            rle,
            bounds: scan.bounds,
            area: scan.area,
            predicted_iou: candidate.predicted_iou,
            stability_score,
            prompted_by: candidate
                .prompted_by
                .translate(crop.bounds.x0, crop.bounds.y0),
            crop: crop.bounds,
        })
    }
}

/// Collects one image's candidates and keeps the masks that pass.
pub struct MaskSelector {
    measure: Measure,
    crop_index: usize,
    crops_seen: usize,
    /// Masks of the current crop; their bounds are in the crop's frame until it ends.
    current: Vec<GeneratedMask>,
    kept: Vec<GeneratedMask>,
}

impl MaskSelector {
    /// A selector for an image of `image` pixels.
    pub fn new(architecture: &Architecture, filters: &MaskFilters, image: ImageSize) -> Self {
        Self {
            measure: Measure::new(architecture, filters, image),
            crop_index: 0,
            crops_seen: 0,
            current: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Takes the next batch; crops must come in order.
    pub fn push(&mut self, batch: CandidateBatch) {
        if batch.crop_index != self.crop_index || self.crops_seen == 0 {
            self.end_crop();
            self.crop_index = batch.crop_index;
            self.crops_seen += 1;
        }
        self.current.extend(self.measure.masks(&batch));
    }

    /// `_process_crop` after its batches: duplicates within the crop go, boxes return to the image.
    fn end_crop(&mut self) {
        let current = std::mem::take(&mut self.current);
        let scores: Vec<f32> = current.iter().map(|mask| mask.predicted_iou).collect();
        let keep = box_nms(
            &corner_boxes(&current),
            &scores,
            self.measure.filters.box_nms_thresh,
        );
        for mut mask in pick(current, &keep) {
            // An empty mask's box is [0, 0, 0, 0] of its crop, as in `batched_mask_to_box`.
            mask.bounds = mask.bounds.translate(mask.crop.x0, mask.crop.y0);
            self.kept.push(mask);
        }
    }

    /// The image's masks, in the reference's order.
    pub fn finish(mut self) -> Vec<GeneratedMask> {
        self.end_crop();
        let mut masks = self.kept;
        if self.crops_seen > 1 {
            let scores: Vec<f32> = masks
                .iter()
                .map(|mask| 1.0 / mask.crop.area() as f32)
                .collect();
            let keep = box_nms(
                &corner_boxes(&masks),
                &scores,
                self.measure.filters.crop_nms_thresh,
            );
            masks = pick(masks, &keep);
        }
        if self.measure.filters.min_mask_region_area > 0 {
            masks = clean_regions(masks, &self.measure.filters);
        }
        masks.retain(|mask| {
            self.measure
                .filters
                .passes_size(mask.area, self.measure.image)
        });
        nms_by_pixels(masks, &self.measure.filters, |masks| {
            masks.iter().map(|mask| mask.predicted_iou).collect()
        })
    }
}

/// `mask_nms_thresh` and `containment_nms_thresh`, where they are set; the masks' order stays.
pub(crate) fn nms_by_pixels(
    mut masks: Vec<GeneratedMask>,
    filters: &MaskFilters,
    scores: impl Fn(&[GeneratedMask]) -> Vec<f32>,
) -> Vec<GeneratedMask> {
    for (threshold, nms) in [
        (filters.mask_nms_thresh, mask_nms as MaskNms),
        (filters.containment_nms_thresh, containment_nms as MaskNms),
    ] {
        if let Some(threshold) = threshold {
            let rles: Vec<&Rle> = masks.iter().map(|mask| &mask.rle).collect();
            let mut keep = nms(&rles, &scores(&masks), threshold);
            keep.sort_unstable();
            masks = pick(masks, &keep);
        }
    }
    masks
}

type MaskNms = fn(&[&Rle], &[f32], f64) -> Vec<usize>;

/// `postprocess_small_regions`: fills small holes, then drops small islands; duplicates that this makes
/// go, changed masks before unchanged ones. Predicted IoU and stability stay those of the mask before.
fn clean_regions(masks: Vec<GeneratedMask>, filters: &MaskFilters) -> Vec<GeneratedMask> {
    let area = filters.min_mask_region_area;
    let (masks, scores): (Vec<GeneratedMask>, Vec<f32>) = masks
        .into_par_iter()
        .map(|mut mask| match remove_small_regions(&mut mask, area) {
            true => (mask, 0.0),
            false => (mask, 1.0),
        })
        .unzip();
    let threshold = filters.box_nms_thresh.max(filters.crop_nms_thresh);
    let keep = box_nms(&corner_boxes(&masks), &scores, threshold);
    pick(masks, &keep)
}

/// Fills holes and then drops islands of fewer than `area` pixels; whether there were any.
pub(crate) fn remove_small_regions(mask: &mut GeneratedMask, area: u64) -> bool {
    let (filled, holes) = mask.rle.remove_small_regions(area, RegionMode::Holes);
    let (cleaned, islands) = filled.remove_small_regions(area, RegionMode::Islands);
    if !(holes || islands) {
        return false;
    }
    mask.bounds = cleaned.bounds();
    mask.area = cleaned.area();
    mask.rle = cleaned;
    true
}

/// Boxes as the reference's NMS takes them: inclusive corners.
fn corner_boxes(masks: &[GeneratedMask]) -> Vec<[f32; 4]> {
    masks
        .iter()
        .map(|mask| mask.bounds.sa_xyxy().map(|v| v as f32))
        .collect()
}

/// The masks at `indices`, in that order. Each index occurs once.
pub(crate) fn pick(masks: Vec<GeneratedMask>, indices: &[usize]) -> Vec<GeneratedMask> {
    let mut masks: Vec<Option<GeneratedMask>> = masks.into_iter().map(Some).collect();
    indices
        .iter()
        .map(|&index| masks[index].take().expect("NMS keeps each mask once"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 x 8 logits over a 32-pixel model input; the image is 32 x 16.
    const LOW_RES: u32 = 8;
    const IMAGE: ImageSize = ImageSize {
        height: 16,
        width: 32,
    };

    fn selector(filters: MaskFilters) -> MaskSelector {
        MaskSelector {
            measure: Measure {
                filters,
                image: IMAGE,
                low_res: ImageSize::new(LOW_RES, LOW_RES),
                model_side: 32,
            },
            crop_index: 0,
            crops_seen: 0,
            current: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// A mask over the low-resolution columns `x` and rows `y`, sharp enough to be stable.
    fn candidate(
        x: std::ops::Range<u32>,
        y: std::ops::Range<u32>,
        predicted_iou: f32,
    ) -> Candidate {
        let inside = |index: u32| x.contains(&(index % LOW_RES)) && y.contains(&(index / LOW_RES));
        let logit = |index| if inside(index) { 100.0 } else { -100.0 };
        Candidate {
            prompted_by: PromptedBy::GridPoint([
                f64::from(x.start) * 4.0,
                f64::from(y.start) * 4.0,
            ]),
            predicted_iou,
            low_res_logits: (0..LOW_RES * LOW_RES).map(logit).collect(),
        }
    }

    /// Predicted IoUs of the masks that are kept, in order.
    fn kept(filters: MaskFilters, candidates: Vec<Candidate>) -> Vec<f32> {
        let bounds = BoxPx::of(IMAGE);
        let mut selector = selector(filters);
        selector.push(CandidateBatch {
            crop_index: 0,
            crop: Crop { layer: 0, bounds },
            input: IMAGE,
            candidates,
        });
        let masks = selector.finish();
        assert!(masks.iter().all(|mask| mask.rle.area() == mask.area));
        masks.iter().map(|mask| mask.predicted_iou).collect()
    }

    fn defaults() -> MaskFilters {
        MaskFilters::default()
    }

    #[test]
    fn duplicates_go_and_the_best_comes_first() {
        let candidates = || {
            vec![
                candidate(0..4, 0..4, 0.90),
                candidate(0..4, 0..4, 0.95),
                candidate(5..8, 0..2, 0.92),
            ]
        };
        assert_eq!(kept(defaults(), candidates()), [0.95, 0.92]);
        let all = MaskFilters {
            box_nms_thresh: 1.0,
            ..defaults()
        };
        assert_eq!(kept(all, candidates()), [0.95, 0.92, 0.90]);
    }

    #[test]
    fn unstable_masks_go() {
        let mut soft = candidate(0..4, 0..4, 0.9);
        for logit in &mut soft.low_res_logits {
            *logit *= 0.015;
        }
        let candidates = || vec![soft.clone(), candidate(5..8, 0..2, 0.8)];
        assert_eq!(kept(defaults(), candidates()), [0.8]);
        let any = MaskFilters {
            stability_score_thresh: 0.0,
            ..defaults()
        };
        assert_eq!(kept(any, candidates()), [0.9, 0.8]);
    }

    #[test]
    fn masks_too_small_or_too_large_go_before_they_suppress_others() {
        // The whole image, seven eighths of it, and a corner.
        let candidates = || {
            vec![
                candidate(0..8, 0..8, 0.99),
                candidate(0..7, 0..8, 0.95),
                candidate(0..1, 0..1, 0.90),
            ]
        };
        assert_eq!(kept(defaults(), candidates()), [0.99, 0.90]);
        let sa1b = MaskFilters {
            max_coverage: Some(0.95),
            min_area: 100,
            ..defaults()
        };
        assert_eq!(kept(sa1b, candidates()), [0.95]);
    }

    #[test]
    fn masks_alike_go_by_their_pixels_where_asked() {
        // Boxes with an IoU of 2/3, masks too.
        let candidates = || vec![candidate(0..3, 0..4, 0.9), candidate(0..2, 0..4, 0.95)];
        assert_eq!(kept(defaults(), candidates()).len(), 2);
        let by_mask = MaskFilters {
            mask_nms_thresh: Some(0.5),
            ..defaults()
        };
        assert_eq!(kept(by_mask, candidates()), [0.95]);
    }

    #[test]
    fn masks_within_better_masks_go_where_asked() {
        let candidates = || {
            vec![
                candidate(0..1, 0..1, 0.90),
                candidate(0..4, 0..4, 0.95),
                candidate(6..7, 0..1, 0.85),
            ]
        };
        assert_eq!(kept(defaults(), candidates()).len(), 3);
        let outermost = MaskFilters {
            containment_nms_thresh: Some(0.9),
            ..defaults()
        };
        assert_eq!(kept(outermost, candidates()), [0.95, 0.85]);
    }

    #[test]
    fn an_image_without_candidates_has_no_masks() {
        assert_eq!(selector(defaults()).finish(), []);
    }
}
