//! Settings of prompts and masks as the mask generator takes them.

use maskmill_job::{AutomaticPrompts, MaskSettings, PointGrid, PromptedMasks, Run};
use maskmill_sam::{AutomaticOptions, MaskFilters, MaskOutput, PromptBudget, PromptedOptions};

/// What a pipeline of automatic prompts asks of the mask generator.
pub(crate) fn automatic_options(
    prompts: &AutomaticPrompts,
    masks: &MaskSettings,
) -> AutomaticOptions {
    AutomaticOptions {
        point_grids: point_grids(prompts),
        crop_n_layers: prompts.crop_n_layers,
        crop_overlap_ratio: prompts.crop_overlap_ratio,
        output: output(prompts.single_mask),
        filters: mask_filters(masks),
    }
}

/// What a pipeline of other prompts asks.
pub(crate) fn prompted_options(prompted: PromptedMasks, masks: &MaskSettings) -> PromptedOptions {
    PromptedOptions {
        output: output(prompted.single_mask),
        refine: prompted.refine,
        filters: mask_filters(masks),
    }
}

/// How many prompts a config file has asked at once.
pub(crate) fn prompt_budget(run: &Run) -> PromptBudget {
    PromptBudget {
        prompts_per_batch: run.points_per_batch as usize,
        bytes: usize::try_from(run.prompt_memory).unwrap_or(usize::MAX),
    }
}

fn output(single_mask: bool) -> MaskOutput {
    match single_mask {
        true => MaskOutput::Single,
        false => MaskOutput::Multi,
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

#[cfg(test)]
mod tests {
    use maskmill_job::{Prompts, TextFile, load_pipeline};

    use super::*;

    fn options(sections: &str) -> AutomaticOptions {
        let text = format!(
            "name = \"n\"\n[source]\nkind = \"images\"\npath = \"p\"\n[model]\ncheckpoint = \"c\"\n{sections}"
        );
        let file = TextFile {
            name: "test.toml",
            text: &text,
        };
        let pipeline = load_pipeline(file, &[]).unwrap();
        let Prompts::Automatic(prompts) = &pipeline.prompts else {
            panic!("automatic is the default");
        };
        automatic_options(prompts, &pipeline.masks)
    }

    #[test]
    fn defaults_are_the_reference_s() {
        assert_eq!(options(""), AutomaticOptions::default());
    }

    #[test]
    fn every_setting_arrives() {
        let got = options(
            "[prompts]\nmode = \"automatic\"\npoint_grids = [[[0.25, 0.5]], [[0.5, 0.125]]]\n\
             crop_n_layers = 1\ncrop_overlap_ratio = 0.25\nsingle_mask = true\n\
             [masks]\npred_iou_thresh = 0.11\nstability_score_thresh = 0.12\n\
             stability_score_offset = 0.13\nmask_threshold = 0.14\nbox_nms_thresh = 0.15\n\
             crop_nms_thresh = 0.16\nmin_mask_region_area = 17\nmin_area = 18\nmax_coverage = 0.19\n\
             mask_nms_thresh = 0.21\ncontainment_nms_thresh = 0.22\n",
        );
        let expected = AutomaticOptions {
            point_grids: vec![vec![[0.25, 0.5]], vec![[0.5, 0.125]]],
            crop_n_layers: 1,
            crop_overlap_ratio: 0.25,
            output: MaskOutput::Single,
            filters: MaskFilters {
                pred_iou_thresh: 0.11,
                stability_score_thresh: 0.12,
                stability_score_offset: 0.13,
                mask_threshold: 0.14,
                box_nms_thresh: 0.15,
                crop_nms_thresh: 0.16,
                min_mask_region_area: 17,
                min_area: 18,
                max_coverage: Some(0.19),
                mask_nms_thresh: Some(0.21),
                containment_nms_thresh: Some(0.22),
            },
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn grids_are_thinned_layer_by_layer() {
        let got = options(
            "[prompts]\npoints_per_side = 8\ncrop_n_layers = 2\ncrop_n_points_downscale_factor = 2\n",
        );
        let points: Vec<usize> = got.point_grids.iter().map(Vec::len).collect();
        assert_eq!(points, [64, 16, 4]);
    }
}
