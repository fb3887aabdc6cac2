//! Text to rows against the same path written with transformers and segment-anything.

use std::fs;

use maskmill_formats::rows::MaskRow;
use maskmill_masks::{ImageSize, Rle};
use serde::Deserialize;

use crate::support::Rows;
use crate::{detector, fixture, job, sample};

#[derive(Deserialize)]
struct WholePath {
    labels: Vec<String>,
    score_threshold: f64,
    nms_iou: f64,
    pred_iou_threshold: f64,
    stability_threshold: f64,
    photos: Vec<Photo>,
}

#[derive(Deserialize)]
struct Photo {
    image: String,
    detections: Vec<Detection>,
    masks: Vec<Mask>,
    masks_refined: Vec<Mask>,
    near_thresholds: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Detection {
    label: usize,
    score: f32,
    box_xyxy_px: [f32; 4],
}

#[derive(Deserialize)]
struct Mask {
    predicted_iou: f32,
    stability_score: f32,
    kept: bool,
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct Segmentation {
    size: [u32; 2],
    counts: String,
}

impl WholePath {
    fn read() -> Self {
        let text = fs::read_to_string(fixture("whole_path.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn file_name(photo: &Photo) -> &str {
        photo.image.rsplit('/').next().unwrap()
    }

    /// The rows of the job with the same settings.
    fn rows(&self, refine: bool) -> Rows {
        let labels = serde_json::to_string(&self.labels).unwrap();
        let job = job(
            &detector(),
            &format!(
                "[prompts]\nmode = \"text\"\nscore_thresh = {}\nlabel_nms_thresh = {}\nrefine = {refine}\n\
                 [labels]\nnames = {labels}\n\
                 [masks]\npred_iou_thresh = {:?}\nstability_score_thresh = {:?}\n",
                self.score_threshold,
                self.nms_iou,
                self.pred_iou_threshold,
                self.stability_threshold
            ),
        );
        for photo in &self.photos {
            let name = Self::file_name(photo);
            job.put(name, &sample(name));
        }
        let rows = job.rows_of_run();
        job.maskmill(&["verify", "out/job"]).expect_code(0);
        rows
    }
}

/// Whether a row is the mask of a detection, to the tolerances of the reference's README.
fn same(row: &MaskRow, detection: &Detection, mask: &Mask, labels: &[String], side: f32) -> bool {
    let [height, width] = mask.segmentation.size;
    let size = ImageSize::new(height, width);
    let expected = Rle::from_coco_string(size, &mask.segmentation.counts).unwrap();
    let corners = row.prompt_box.expect("a box prompted it");
    let apart = corners.iter().zip(detection.box_xyxy_px);
    row.label.as_deref() == Some(labels[detection.label].as_str())
        && (row.label_score.unwrap() - detection.score).abs() <= 1e-4
        && apart.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) <= 1e-4 * side
        && row.rle.iou(&expected).unwrap() >= 0.999
        && (row.predicted_iou - mask.predicted_iou).abs() <= 1e-3
        && (row.stability_score - mask.stability_score).abs() <= 1e-3
        && row.point_coords.is_empty()
}

fn check(refine: bool) {
    let expected = WholePath::read();
    let rows = expected.rows(refine);
    for photo in &expected.photos {
        assert!(
            photo.near_thresholds.is_empty(),
            "rounding may decide: choose other thresholds"
        );
        let masks = if refine {
            &photo.masks_refined
        } else {
            &photo.masks
        };
        let kept: Vec<(&Detection, &Mask)> = photo
            .detections
            .iter()
            .zip(masks)
            .filter(|(_, mask)| mask.kept)
            .collect();
        let key = WholePath::file_name(photo);
        let image = rows.image(key);
        let side = image.width.max(image.height) as f32;
        let found = rows.masks(key);
        assert_eq!(found.len(), kept.len(), "{key}");
        // Rows are in the order of the detections, the best score first.
        for (row, (detection, mask)) in found.iter().zip(&kept) {
            assert!(
                same(row, detection, mask, &expected.labels, side),
                "{key}: {:?} {:?} {:?} is not the reference's",
                row.label,
                row.label_score,
                row.prompt_box
            );
        }
    }
}

#[test]
fn rows_are_those_of_transformers_and_segment_anything() {
    check(false);
}

#[test]
fn refined_rows_are_too() {
    check(true);
}
