//! A pipeline file's prompts and mask settings as the mask generator takes them.

use maskmill_job::{AutomaticPrompts, MaskSettings, Pipeline, PointGrid, Prompts};
use maskmill_sam::{AutomaticOptions, MaskFilters, MaskOutput};

/// What `pipeline` asks of the mask generator.
pub fn automatic_options(pipeline: &Pipeline) -> AutomaticOptions {
    let Prompts::Automatic(prompts) = &pipeline.prompts;
    AutomaticOptions {
        point_grids: point_grids(prompts),
        crop_n_layers: prompts.crop_n_layers,
        crop_overlap_ratio: prompts.crop_overlap_ratio,
        output: match prompts.single_mask {
            true => MaskOutput::Single,
            false => MaskOutput::Multi,
        },
        filters: mask_filters(&pipeline.masks),
    }
}

fn point_grids(prompts: &AutomaticPrompts) -> Vec<Vec<[f64; 2]>> {
    match &prompts.grid {
        PointGrid::Explicit(grids) => grids.clone(),
        PointGrid::PerSide(points_per_side) => AutomaticOptions::regular_grids(
            *points_per_side,
            prompts.crop_n_layers,
            prompts.crop_n_points_downscale_factor,
        ),
    }
}

fn mask_filters(masks: &MaskSettings) -> MaskFilters {
    MaskFilters {
        pred_iou_thresh: masks.pred_iou_thresh,
        stability_score_thresh: masks.stability_score_thresh,
        stability_score_offset: masks.stability_score_offset,
        mask_threshold: masks.mask_threshold,
        box_nms_thresh: masks.box_nms_thresh,
        crop_nms_thresh: masks.crop_nms_thresh,
        min_mask_region_area: u64::from(masks.min_mask_region_area),
        min_area: masks.min_area,
        max_coverage: masks.max_coverage,
        mask_nms_thresh: masks.mask_nms_thresh,
        containment_nms_thresh: masks.containment_nms_thresh,
    }
}
