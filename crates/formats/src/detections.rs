//! Boxes that somebody else found: any detector's output, to be turned into masks.
//!
//! In: COCO files ([`CocoDetections`]), YOLO label files ([`parse_yolo`]), or columns of a table or a manifest
//! ([`Detection::from_columns`]). Out: the boxes of an image in pixels, each with a label and a score if it had them.
//! Where they came from, [`check`] has the last word on them: it knows the image's size, and a box that cannot be meant
//! is an error of that image alone.

mod coco;
mod image_index;
mod yolo;
mod yolo_files;
mod yolo_names;

use maskmill_masks::ImageSize;

pub use self::coco::{AmbiguousImage, CocoDetections, CocoError, CocoFile};
pub use self::yolo::{YoloError, parse_yolo};
pub use self::yolo_files::YoloFiles;
pub use self::yolo_names::{YoloNames, YoloNamesError};

/// A box that somebody else found.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// `[x0, y0, x1, y1]` in pixels of the upright image, half-open; not checked until [`check`] has seen it.
    pub box_xyxy_px: [f64; 4],
    /// What it was called.
    pub label: Option<String>,
    /// How sure its finder was.
    pub score: Option<f32>,
}

/// Why an image's boxes cannot be used. It concerns that image alone.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadDetections {
    /// A corner is not a finite number.
    #[error("box {index}, counted from 0, is not finite: {box_xyxy_px:?}")]
    NotFinite {
        /// Its place among the image's boxes, from 0.
        index: usize,
        /// `[x0, y0, x1, y1]`.
        box_xyxy_px: [f64; 4],
    },
    /// Its width or its height is zero or negative.
    #[error(
        "box {index}, counted from 0, has no area: {box_xyxy_px:?}; boxes are [x0, y0, x1, y1] with x0 < x1 and y0 < y1"
    )]
    NoArea {
        /// Its place among the image's boxes, from 0.
        index: usize,
        /// `[x0, y0, x1, y1]`.
        box_xyxy_px: [f64; 4],
    },
    /// No part of it is on the image.
    #[error(
        "box {index}, counted from 0, is outside the image of {} x {} pixels: {box_xyxy_px:?}", size.width, size.height
    )]
    Outside {
        /// Its place among the image's boxes, from 0.
        index: usize,
        /// `[x0, y0, x1, y1]`.
        box_xyxy_px: [f64; 4],
        /// The image's.
        size: ImageSize,
    },
    /// Its score is not a finite number.
    #[error("the score of box {index}, counted from 0, is {score}")]
    NotFiniteScore {
        /// Its place among the image's boxes, from 0.
        index: usize,
        /// Infinite or not a number.
        score: f32,
    },
    /// Labels are to be one for each box.
    #[error("{labels} labels for {boxes} boxes")]
    LabelCount {
        /// How many labels there are.
        labels: usize,
        /// How many boxes there are.
        boxes: usize,
    },
    /// Scores are to be one for each box.
    #[error("{scores} scores for {boxes} boxes")]
    ScoreCount {
        /// How many scores there are.
        scores: usize,
        /// How many boxes there are.
        boxes: usize,
    },
}

impl BadDetections {
    /// The stable code written to rejected image rows: `bad_boxes`, `bad_labels` or `bad_scores`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFinite { .. } | Self::NoArea { .. } | Self::Outside { .. } => "bad_boxes",
            Self::LabelCount { .. } => "bad_labels",
            Self::NotFiniteScore { .. } | Self::ScoreCount { .. } => "bad_scores",
        }
    }
}

impl Detection {
    /// What the columns of one row hold: boxes `[x0, y0, x1, y1]` in pixels, and for each a label and a score.
    ///
    /// # Errors
    /// [`BadDetections::LabelCount`] and [`BadDetections::ScoreCount`] if there are not as many as boxes.
    pub fn from_columns(
        boxes: &[[f64; 4]],
        labels: Option<&[String]>,
        scores: Option<&[f32]>,
    ) -> Result<Vec<Self>, BadDetections> {
        let count = boxes.len();
        if let Some(labels) = labels.filter(|labels| labels.len() != count) {
            return Err(BadDetections::LabelCount {
                labels: labels.len(),
                boxes: count,
            });
        }
        if let Some(scores) = scores.filter(|scores| scores.len() != count) {
            return Err(BadDetections::ScoreCount {
                scores: scores.len(),
                boxes: count,
            });
        }
        let detections = boxes.iter().enumerate().map(|(at, corners)| Self {
            box_xyxy_px: *corners,
            label: labels.map(|labels| labels[at].clone()),
            score: scores.map(|scores| scores[at]),
        });
        Ok(detections.collect())
    }
}

/// The detections of an image of `size`, with boxes that reach over its edges cut at them.
///
/// Detectors put boxes of objects at the edge some pixels outside, so a part outside is no fault. A box without a pixel
/// on the image, without area, or with a corner that is no number shows that the boxes are of another image, another
/// size or another layout (`[x, y, width, height]`), and then the others are not to be trusted either.
///
/// # Errors
/// [`BadDetections`] for the first box that is at fault.
pub fn check(
    mut detections: Vec<Detection>,
    size: ImageSize,
) -> Result<Vec<Detection>, BadDetections> {
    for (index, detection) in detections.iter_mut().enumerate() {
        if let Some(score) = detection.score.filter(|score| !score.is_finite()) {
            return Err(BadDetections::NotFiniteScore { index, score });
        }
        detection.box_xyxy_px = clipped(index, detection.box_xyxy_px, size)?;
    }
    Ok(detections)
}

fn clipped(
    index: usize,
    box_xyxy_px: [f64; 4],
    size: ImageSize,
) -> Result<[f64; 4], BadDetections> {
    let [x0, y0, x1, y1] = box_xyxy_px;
    if !box_xyxy_px.iter().all(|corner| corner.is_finite()) {
        return Err(BadDetections::NotFinite { index, box_xyxy_px });
    }
    if x1 <= x0 || y1 <= y0 {
        return Err(BadDetections::NoArea { index, box_xyxy_px });
    }
    let [width, height] = [f64::from(size.width), f64::from(size.height)];
    if x1 <= 0.0 || y1 <= 0.0 || x0 >= width || y0 >= height {
        return Err(BadDetections::Outside {
            index,
            box_xyxy_px,
            size,
        });
    }
    Ok([x0.max(0.0), y0.max(0.0), x1.min(width), y1.min(height)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 8 columns, 6 rows.
    const SIZE: ImageSize = ImageSize::new(6, 8);

    fn unnamed(boxes: &[[f64; 4]]) -> Vec<Detection> {
        Detection::from_columns(boxes, None, None).unwrap()
    }

    fn error(last: [f64; 4]) -> BadDetections {
        check(unnamed(&[[0.0, 0.0, 8.0, 6.0], last]), SIZE).unwrap_err()
    }

    #[test]
    fn boxes_over_the_edge_are_cut_at_it() {
        let found = check(
            unnamed(&[
                [1.5, 2.0, 3.0, 4.25],
                [-2.0, -0.5, 3.0, 4.0],
                [7.5, 5.5, 9.0, 6.5],
                [-1.0, -1.0, 100.0, 100.0],
            ]),
            SIZE,
        );
        assert_eq!(
            found.unwrap(),
            unnamed(&[
                [1.5, 2.0, 3.0, 4.25],
                [0.0, 0.0, 3.0, 4.0],
                [7.5, 5.5, 8.0, 6.0],
                [0.0, 0.0, 8.0, 6.0],
            ])
        );
        assert_eq!(check(vec![], SIZE), Ok(vec![]));
    }

    #[test]
    fn boxes_that_cannot_be_meant_are_named() {
        assert_eq!(
            error([7.0, 1.0, 7.0, 5.0]).to_string(),
            "box 1, counted from 0, has no area: [7.0, 1.0, 7.0, 5.0]; boxes are [x0, y0, x1, y1] with x0 < x1 and y0 < y1"
        );
        // A [x, y, width, height].
        assert!(matches!(
            error([5.0, 4.0, 2.0, 2.0]),
            BadDetections::NoArea { index: 1, .. }
        ));
        // On the image if it were 6 wide and 8 high.
        assert_eq!(
            error([1.0, 6.0, 5.0, 8.0]).to_string(),
            "box 1, counted from 0, is outside the image of 8 x 6 pixels: [1.0, 6.0, 5.0, 8.0]"
        );
        for outside in [
            [8.0, 1.0, 9.0, 2.0],
            [-3.0, 1.0, 0.0, 2.0],
            [1.0, -3.0, 2.0, 0.0],
        ] {
            assert!(matches!(
                error(outside),
                BadDetections::Outside { index: 1, .. }
            ));
        }
        assert!(check(unnamed(&[[6.0, 1.0, 7.0, 2.0]]), SIZE).is_ok());
        let error = error([0.0, f64::NAN, 1.0, f64::INFINITY]);
        assert_eq!(
            error.to_string(),
            "box 1, counted from 0, is not finite: [0.0, NaN, 1.0, inf]"
        );
        assert_eq!(error.reason(), "bad_boxes");
    }

    #[test]
    fn columns_have_one_value_for_each_box() {
        let boxes = [[0.0, 0.0, 8.0, 6.0], [1.0, 1.0, 2.0, 2.0]];
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let found = Detection::from_columns(&boxes, Some(&labels), Some(&[0.5, 0.25])).unwrap();
        let expected = Detection {
            box_xyxy_px: boxes[1],
            label: Some("dog".to_owned()),
            score: Some(0.25),
        };
        assert_eq!(found[1], expected);

        let error = Detection::from_columns(&boxes, Some(&labels[..1]), None).unwrap_err();
        assert_eq!(error.to_string(), "1 labels for 2 boxes");
        assert_eq!(error.reason(), "bad_labels");
        let error = Detection::from_columns(&boxes, None, Some(&[0.5; 3])).unwrap_err();
        assert_eq!(error.to_string(), "3 scores for 2 boxes");
        assert_eq!(error.reason(), "bad_scores");
        let found = Detection::from_columns(&boxes, None, Some(&[0.5, f32::NAN])).unwrap();
        let error = check(found, SIZE).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the score of box 1, counted from 0, is NaN"
        );
    }

    proptest! {
        #[test]
        fn what_passes_lies_on_the_image_and_passes_again(
            corners in proptest::collection::vec(prop_oneof![-20.0_f64..20.0, any::<f64>()], 4),
            height in 1_u32..12,
            width in 1_u32..12,
        ) {
            let size = ImageSize::new(height, width);
            let given = [corners[0], corners[1], corners[2], corners[3]];
            if let Ok(found) = check(unnamed(&[given]), size) {
                let [x0, y0, x1, y1] = found[0].box_xyxy_px;
                prop_assert!(0.0 <= x0 && x0 < x1 && x1 <= f64::from(width));
                prop_assert!(0.0 <= y0 && y0 < y1 && y1 <= f64::from(height));
                prop_assert_eq!(check(found.clone(), size), Ok(found));
            }
        }
    }
}
