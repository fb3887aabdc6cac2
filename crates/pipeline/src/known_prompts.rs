//! Prompts that exist before the job: boxes of any detector or annotator, and points.

use maskmill_formats::detections::{
    AmbiguousImage, BadDetections, CocoDetections, Detection, YoloFiles, YoloNames, check,
    parse_yolo,
};
use maskmill_job::PointGroups;
use maskmill_masks::ImageSize;
use maskmill_sam::{PointPrompt, Prompt};

use crate::given::Given;
use crate::stages::{ImageId, Rejection};

/// Where the prompts of an image are.
#[derive(Debug)]
pub(crate) enum KnownPrompts {
    /// There are none: the prompts are a grid, or a detector finds them.
    None,
    /// Boxes, and the least score of those that are used.
    Boxes { from: Boxes, min_score: f32 },
    /// Points.
    Points { from: Points, groups: PointGroups },
}

#[derive(Debug)]
pub(crate) enum Boxes {
    /// In the source's columns.
    Columns,
    Coco(CocoDetections),
    Yolo {
        files: YoloFiles,
        names: Option<YoloNames>,
        expect_scores: Option<bool>,
    },
}

#[derive(Debug)]
pub(crate) enum Points {
    /// In the source's column.
    Columns,
    /// The same for all images, as fractions of the image.
    Fixed(Vec<[f64; 2]>),
}

impl KnownPrompts {
    /// The prompts of an image of `size`, in their order; none where nothing is said of it.
    pub(crate) fn of(&self, id: &ImageId, size: ImageSize) -> Result<Vec<Given>, Rejection> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Boxes { from, min_score } => {
                let detections = check(from.of(id, size)?, size).map_err(bad_detections)?;
                let kept = detections.into_iter().filter(|one| {
                    // A box without a score was drawn by somebody who was sure.
                    one.score.is_none_or(|score| score >= *min_score)
                });
                let given = kept.map(|one| Given::of_box(one.box_xyxy_px, one.label, one.score));
                Ok(given.collect())
            }
            Self::Points { from, groups } => prompts_of_points(&from.of(id, size), *groups, size),
        }
    }
}

/// What files of boxes call an image.
fn name_of(id: &ImageId) -> &str {
    id.carried.own_name.as_deref().unwrap_or(&id.key)
}

impl Boxes {
    fn of(&self, id: &ImageId, size: ImageSize) -> Result<Vec<Detection>, Rejection> {
        match self {
            Self::Columns => {
                let carried = &id.carried;
                let boxes = carried.boxes.as_deref().unwrap_or_default();
                let labels = carried.labels.as_deref();
                Detection::from_columns(boxes, labels, carried.scores.as_deref())
                    .map_err(bad_detections)
            }
            Self::Coco(detections) => {
                let found = detections.of(name_of(id)).map_err(ambiguous)?;
                Ok(found.unwrap_or_default().to_vec())
            }
            Self::Yolo {
                files,
                names,
                expect_scores,
            } => {
                let Some(text) = files.of(name_of(id)).map_err(ambiguous)? else {
                    return Ok(Vec::new());
                };
                parse_yolo(text, names.as_ref(), size, *expect_scores).map_err(|error| Rejection {
                    reason: "bad_boxes".to_owned(),
                    detail: format!("its label file: {error}"),
                })
            }
        }
    }
}

fn bad_detections(error: BadDetections) -> Rejection {
    Rejection {
        reason: error.reason().to_owned(),
        detail: error.to_string(),
    }
}

fn ambiguous(error: AmbiguousImage) -> Rejection {
    Rejection {
        reason: AmbiguousImage::REASON.to_owned(),
        detail: error.to_string(),
    }
}

impl Points {
    fn of(&self, id: &ImageId, size: ImageSize) -> Vec<PointPrompt> {
        match self {
            Self::Columns => {
                let points = id.carried.points.as_deref().unwrap_or_default();
                let point = |&[x, y, label]: &[f64; 3]| PointPrompt {
                    xy_px: [x, y],
                    foreground: label != 0.0,
                };
                points.iter().map(point).collect()
            }
            Self::Fixed(fractions) => {
                let point = |&[x, y]: &[f64; 2]| PointPrompt {
                    xy_px: [x * f64::from(size.width), y * f64::from(size.height)],
                    foreground: true,
                };
                fractions.iter().map(point).collect()
            }
        }
    }
}

fn prompts_of_points(
    points: &[PointPrompt],
    groups: PointGroups,
    size: ImageSize,
) -> Result<Vec<Given>, Rejection> {
    let bad = |detail: String| Rejection {
        reason: "bad_points".to_owned(),
        detail,
    };
    for (index, point) in points.iter().enumerate() {
        let [x, y] = point.xy_px;
        let inside = (0.0..=f64::from(size.width)).contains(&x)
            && (0.0..=f64::from(size.height)).contains(&y);
        if !inside {
            return Err(bad(format!(
                "point {index} at [{x}, {y}] is not on the image of {size}"
            )));
        }
    }
    let prompt = |points: Vec<PointPrompt>| Given {
        prompt: Prompt {
            points,
            ..Prompt::default()
        },
        label: None,
        score: None,
    };
    match groups {
        PointGroups::Together if points.is_empty() => Ok(Vec::new()),
        PointGroups::Together => Ok(vec![prompt(points.to_vec())]),
        PointGroups::Each => {
            if let Some(index) = points.iter().position(|point| !point.foreground) {
                return Err(bad(format!(
                    "point {index} is beside the object (its label is 0) and cannot be a prompt of its own; \
                     set prompts.point_groups = \"together\" if all points of an image are of one object"
                )));
            }
            Ok(points.iter().map(|&point| prompt(vec![point])).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use maskmill_job::ShardId;

    use super::*;
    use crate::stages::{Attempt, Carried};

    /// 80 columns, 60 rows.
    const SIZE: ImageSize = ImageSize {
        height: 60,
        width: 80,
    };

    fn image(key: &str, carried: Carried) -> ImageId {
        ImageId {
            attempt: Attempt {
                shard: ShardId(0),
                number: 1,
            },
            index: 0,
            key: key.to_owned(),
            carried,
        }
    }

    fn boxes(from: Boxes, min_score: f32) -> KnownPrompts {
        KnownPrompts::Boxes { from, min_score }
    }

    #[test]
    fn columns_give_boxes_with_labels_and_scores() {
        let carried = Carried {
            boxes: Some(vec![[1.0, 2.0, 90.0, 40.0], [5.0, 5.0, 9.0, 9.0]]),
            labels: Some(vec!["cat".to_owned(), "dog".to_owned()]),
            scores: Some(vec![0.9, 0.2]),
            ..Carried::default()
        };
        let known = boxes(Boxes::Columns, 0.5);
        let given = known.of(&image("a.jpg", carried), SIZE).unwrap();
        assert_eq!(given.len(), 1, "the other's score is too low");
        assert_eq!(given[0].prompt_box(), Some([1.0, 2.0, 80.0, 40.0]));
        assert_eq!(given[0].label.as_deref(), Some("cat"));
        let nothing = known.of(&image("b.jpg", Carried::default()), SIZE);
        assert_eq!(nothing.unwrap(), []);
    }

    #[test]
    fn bad_boxes_reject_their_image() {
        for (corners, said) in [
            ([90.0, 2.0, 95.0, 40.0], "box 0"),
            ([5.0, 5.0, 5.0, 9.0], "box 0"),
            ([f64::NAN, 5.0, 6.0, 9.0], "box 0"),
        ] {
            let carried = Carried {
                boxes: Some(vec![corners]),
                ..Carried::default()
            };
            let known = boxes(Boxes::Columns, 0.0);
            let rejected = known.of(&image("a.jpg", carried), SIZE).unwrap_err();
            assert_eq!(rejected.reason, "bad_boxes");
            assert!(rejected.detail.contains(said), "{}", rejected.detail);
        }
    }

    #[test]
    fn a_yolo_line_with_a_field_too_few_rejects_its_image() {
        let files = YoloFiles::new(vec![(
            "train/a.txt".to_owned(),
            "0 0.5 0.5 0.5 0.5 0.9\n0 0.5 0.5 0.25 0.25\n".to_owned(),
        )]);
        let yolo = boxes(
            Boxes::Yolo {
                files,
                names: None,
                expect_scores: Some(true),
            },
            0.0,
        );
        let rejected = yolo.of(&image("train/a.jpg", Carried::default()), SIZE);
        let rejected = rejected.unwrap_err();
        assert_eq!(rejected.reason, "bad_boxes");
        assert!(
            rejected.detail.contains("line 2") && rejected.detail.contains("six"),
            "{}",
            rejected.detail
        );
        let row = Carried {
            own_name: Some("a.jpg".to_owned()),
            ..Carried::default()
        };
        let of_table = yolo.of(&image("t.parquet/00000003-a.jpg", row), SIZE);
        assert_eq!(
            of_table.unwrap_err().reason,
            "bad_boxes",
            "found by its own name"
        );
        let other = yolo.of(&image("train/b.jpg", Carried::default()), SIZE);
        assert_eq!(other.unwrap(), [], "no file, nothing on the image");
    }

    #[test]
    fn points_are_prompts_alone_or_together() {
        let carried = |points: &[[f64; 3]]| Carried {
            points: Some(points.to_vec()),
            ..Carried::default()
        };
        let known = |groups| KnownPrompts::Points {
            from: Points::Columns,
            groups,
        };
        let two = image("a", carried(&[[1.0, 2.0, 1.0], [70.0, 50.0, 1.0]]));
        assert_eq!(known(PointGroups::Each).of(&two, SIZE).unwrap().len(), 2);
        let together = known(PointGroups::Together).of(&two, SIZE).unwrap();
        assert_eq!(together[0].point_coords(), [[1.0, 2.0], [70.0, 50.0]]);
        let beside = image("a", carried(&[[1.0, 2.0, 1.0], [70.0, 50.0, 0.0]]));
        let rejected = known(PointGroups::Each).of(&beside, SIZE).unwrap_err();
        assert!(rejected.detail.contains("point_groups"), "{rejected:?}");
        let together = known(PointGroups::Together).of(&beside, SIZE).unwrap();
        assert!(!together[0].prompt.points[1].foreground);
        let outside = image("a", carried(&[[1.0, 61.0, 1.0]]));
        let rejected = known(PointGroups::Each).of(&outside, SIZE).unwrap_err();
        assert_eq!(rejected.reason, "bad_points");
    }

    #[test]
    fn fixed_points_scale_with_the_image() {
        let known = KnownPrompts::Points {
            from: Points::Fixed(vec![[0.5, 0.25]]),
            groups: PointGroups::Each,
        };
        let given = known.of(&image("a", Carried::default()), SIZE).unwrap();
        assert_eq!(given[0].point_coords(), [[40.0, 15.0]]);
    }
}
