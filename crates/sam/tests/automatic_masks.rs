//! Automatic masks against `SamAutomaticMaskGenerator`: four photos, seven settings, mask by mask.

mod support;

use std::ops::ControlFlow;
use std::path::Path;

use maskmill_masks::{ImageSize, Rle};
use maskmill_sam::{
    AutomaticOptions, Device, GeneratedMask, MaskFilters, MaskOutput, Precision, PreparedImage,
    PromptBudget, PromptedBy, Sam, generate, propose,
};
use serde::Deserialize;

use support::{fixture, json, photo, root};

#[derive(Deserialize)]
struct Photo {
    checkpoint: String,
    image: String,
    height: u32,
    width: u32,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    settings: Settings,
    masks: Vec<Mask>,
    near_thresholds: Vec<NearThreshold>,
}

#[derive(Deserialize)]
struct Settings {
    points_per_side: u32,
    points_per_batch: usize,
    pred_iou_thresh: f64,
    stability_score_thresh: f64,
    stability_score_offset: f64,
    box_nms_thresh: f64,
    crop_n_layers: u32,
    crop_nms_thresh: f64,
    crop_overlap_ratio: f64,
    crop_n_points_downscale_factor: u32,
    min_mask_region_area: u64,
    multimask_output: bool,
}

#[derive(Deserialize)]
struct Mask {
    segmentation: Segmentation,
    area: u64,
    /// The reference writes integers as floats when a batch of points ended empty.
    bbox: [f64; 4],
    predicted_iou: f32,
    point_coords: [[f64; 2]; 1],
    stability_score: f32,
    crop_box: [f64; 4],
}

#[derive(Deserialize)]
struct Segmentation {
    size: [u32; 2],
    counts: String,
}

/// A decision of the reference that lay within 1e-3 of its threshold.
#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "shown when a mask differs")]
struct NearThreshold {
    decision: String,
    value: f64,
    threshold: f64,
}

fn options(settings: &Settings) -> AutomaticOptions {
    AutomaticOptions {
        point_grids: AutomaticOptions::regular_grids(
            settings.points_per_side,
            settings.crop_n_layers,
            settings.crop_n_points_downscale_factor,
        ),
        crop_n_layers: settings.crop_n_layers,
        crop_overlap_ratio: settings.crop_overlap_ratio,
        output: match settings.multimask_output {
            true => MaskOutput::Multi,
            false => MaskOutput::Single,
        },
        filters: MaskFilters {
            pred_iou_thresh: settings.pred_iou_thresh,
            stability_score_thresh: settings.stability_score_thresh,
            stability_score_offset: settings.stability_score_offset,
            box_nms_thresh: settings.box_nms_thresh,
            crop_nms_thresh: settings.crop_nms_thresh,
            min_mask_region_area: settings.min_mask_region_area,
            ..MaskFilters::default()
        },
    }
}

/// Same point and crop, IoU at least 0.999, scores within 1e-3, and the numbers that follow from them.
fn same(ours: &GeneratedMask, reference: &Mask) -> bool {
    let [height, width] = reference.segmentation.size;
    let size = ImageSize::new(height, width);
    let rle = Rle::from_coco_string(size, &reference.segmentation.counts).unwrap();
    assert_eq!(rle.area(), reference.area);
    let point = reference.point_coords[0];
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-3;
    let mut boxes = ours.bounds.sa_xywh().into_iter().zip(reference.bbox);
    let PromptedBy::GridPoint(ours_px) = ours.prompted_by else {
        return false;
    };
    (ours_px[0] - point[0]).abs() < 1e-9
        && (ours_px[1] - point[1]).abs() < 1e-9
        && ours.crop.xywh().map(f64::from) == reference.crop_box
        && ours.rle.iou(&rle).unwrap() >= 0.999
        && boxes.all(|(a, b)| (f64::from(a) - b).abs() <= 1.0)
        && close(ours.predicted_iou, reference.predicted_iou)
        && close(ours.stability_score, reference.stability_score)
}

/// Compares one case; gives the number of masks that have no counterpart.
fn check_case(sam: &Sam, image: &maskmill_pixels::RgbImage, name: &str, case: &Case) -> usize {
    let ours = generate(
        sam,
        &options(&case.settings),
        case.settings.points_per_batch,
        image,
    );
    for mask in &ours {
        assert_eq!(mask.area, mask.rle.area());
        assert_eq!(mask.bounds, mask.rle.bounds());
    }
    let mut free: Vec<bool> = vec![true; ours.len()];
    let mut unmatched = Vec::new();
    let mut displaced = 0;
    for (place, reference) in case.masks.iter().enumerate() {
        let twin = (0..ours.len()).find(|&i| free[i] && same(&ours[i], reference));
        match twin {
            Some(i) => {
                free[i] = false;
                displaced += usize::from(i != place);
            }
            None => unmatched.push(format!(
                "reference mask {place}: point {:?}, predicted IoU {}, stability {}",
                reference.point_coords[0], reference.predicted_iou, reference.stability_score
            )),
        }
    }
    for (i, _) in free.iter().enumerate().filter(|(_, free)| **free) {
        unmatched.push(format!(
            "our mask {i}: point {:?}, predicted IoU {}, stability {}",
            ours[i].prompted_by, ours[i].predicted_iou, ours[i].stability_score
        ));
    }
    println!(
        "{name} {}: {} masks, {} unmatched, {displaced} in another place",
        case.name,
        case.masks.len(),
        unmatched.len()
    );
    if !unmatched.is_empty() {
        println!(
            "{unmatched:#?}\nnear a threshold: {:#?}",
            case.near_thresholds
        );
        assert!(
            !case.near_thresholds.is_empty(),
            "{name} {}: no decision was near its threshold, so rounding cannot explain {unmatched:#?}",
            case.name
        );
    }
    unmatched.len()
}

fn check_photo(name: &str) {
    let expected: Photo = json(&fixture(&format!("amg_{name}.json")));
    let sam = support::load(&root().join(&expected.checkpoint));
    let image = photo(&root().join(Path::new(&expected.image)));
    assert_eq!(
        image.size(),
        ImageSize::new(expected.height, expected.width)
    );
    assert!(expected.height != expected.width);
    assert!(expected.cases.len() >= 6);
    let unmatched: usize = expected
        .cases
        .iter()
        .map(|case| check_case(&sam, &image, name, case))
        .sum();
    let masks: usize = expected.cases.iter().map(|case| case.masks.len()).sum();
    assert!(
        unmatched * 100 <= masks,
        "{unmatched} of {masks} masks differ: more than 1 % is no rounding"
    );
}

#[test]
fn cat() {
    check_photo("cat");
}

#[test]
fn coffee() {
    check_photo("coffee");
}

#[test]
fn dogs() {
    check_photo("dogs");
}

#[test]
fn fig() {
    check_photo("fig");
}

/// Rows must not depend on how points are batched: bit for bit.
#[test]
fn batch_size_changes_nothing() {
    let expected: Photo = json(&fixture("amg_cat.json"));
    let sam = support::load(&root().join(&expected.checkpoint));
    let image = photo(&root().join(&expected.image));
    let mut options = options(&expected.cases[0].settings);
    options.point_grids = AutomaticOptions::regular_grids(13, 0, 1);
    let all = generate(&sam, &options, 1000, &image);
    assert!(all.len() > 5);
    // 13 x 13 points: last batches of 1 (with 2, 3, 8 and 56), 9 and 41 points.
    for points_per_batch in [1, 2, 3, 8, 10, 56, 64] {
        let batched = generate(&sam, &options, points_per_batch, &image);
        assert!(batched == all, "batches of {points_per_batch}");
    }
}

/// Nor on the bytes that a batch may take, by whatever runs the model.
#[test]
fn memory_changes_nothing() {
    let expected: Photo = json(&fixture("amg_cat.json"));
    let checkpoint = root().join(&expected.checkpoint);
    let image = photo(&root().join(&expected.image));
    let mut options = options(&expected.cases[0].settings);
    options.point_grids = AutomaticOptions::regular_grids(7, 0, 1);
    options.filters.pred_iou_thresh = 0.0;
    let kernels = Sam::load(&checkpoint, &Device::flex(), Precision::F32).unwrap();
    let burn = Sam::load_burn(&checkpoint, &Device::flex(), Precision::F32).unwrap();
    // A prompt takes 48 KiB of logits by kernels, and 384 KiB by Burn's operations.
    for (sam, of_prompt) in [(kernels, 48 << 10), (burn, 384 << 10)] {
        let prepared = PreparedImage::new(&image, &options, sam.architecture().image_size);
        let all = generate(&sam, &options, 1000, &image);
        assert!(all.len() > 5);
        for (prompts, batches) in [(0, 49), (1, 49), (8, 7), (48, 2), (49, 1)] {
            let budget = PromptBudget {
                prompts_per_batch: 1000,
                bytes: prompts * of_prompt,
            };
            let mut seen = 0;
            let flow = propose(&sam, &options, budget, &prepared, |_| {
                seen += 1;
                ControlFlow::Continue(())
            });
            assert!(flow.is_continue());
            assert_eq!(seen, batches, "batches in {} bytes", budget.bytes);
            let bounded = generate(&sam, &options, budget, &image);
            assert!(bounded == all, "{} bytes", budget.bytes);
        }
    }
}
