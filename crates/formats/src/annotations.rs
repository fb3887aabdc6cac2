//! What tables and manifests say of the objects on an image: boxes, a label and a score for each, and points.
//!
//! ```text
//! boxes   list<list<number>> | list<number> | text with JSON:  [[x0, y0, x1, y1], ..] in pixels
//! labels  list<text> | text:                                   a JSON list of texts, or one label as it is
//! scores  list<number> | number | text with JSON:              one number for each box
//! points  list<list<number>> | text with JSON:                 [[x, y], ..] or [[x, y, label], ..] in pixels
//! ```
//! Boxes are looked for under their usual names. The others are read only when they are named: a column called `label`
//! is as often the class of the whole image, and `score` how well its caption fits.

mod boxes;
mod labels;
mod numbers;
mod points;
mod scores;

use arrow_array::ArrayRef;
use arrow_schema::{DataType, FieldRef};

use self::boxes::{are_boxes, boxes_at};
use self::labels::{are_labels, labels_at};
use self::points::{are_points, points_at};
use self::scores::{are_scores, scores_at};
use crate::columns::{ColumnError, Wanted, list};

/// Names under which boxes are looked for.
const BOXES_NAMES: &[&str] = &["boxes", "bboxes", "bbox"];

/// The columns asked for by name.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AnnotationNames<'a> {
    pub(crate) boxes: Option<&'a str>,
    pub(crate) labels: Option<&'a str>,
    pub(crate) scores: Option<&'a str>,
    pub(crate) points: Option<&'a str>,
}

/// Where the columns are among the file's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AnnotationPlaces {
    boxes: Option<usize>,
    labels: Option<usize>,
    scores: Option<usize>,
    points: Option<usize>,
}

impl AnnotationPlaces {
    pub(crate) fn find(
        fields: &[FieldRef],
        names: AnnotationNames<'_>,
    ) -> Result<Self, ColumnError> {
        let find = |named, known, usable: fn(&DataType) -> bool, expected| {
            let wanted = Wanted {
                named,
                known,
                usable,
                expected,
            };
            wanted.find(fields)
        };
        let boxes = "list<list<number>>, list<number> or text";
        let scores = "list<number>, number or text";
        let points = "list<list<number>> or text";
        let places = Self {
            boxes: find(names.boxes, BOXES_NAMES, are_boxes, boxes)?,
            labels: find(names.labels, &[], are_labels, "list<text> or text")?,
            scores: find(names.scores, &[], are_scores, scores)?,
            points: find(names.points, &[], are_points, points)?,
        };
        if places.scores.is_some() && places.boxes.is_none() {
            return Err(ColumnError::Unknown {
                what: "the boxes that the scores belong to",
                columns: list(fields),
            });
        }
        Ok(places)
    }

    /// Those that there are, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = usize> {
        let all = [self.boxes, self.labels, self.scores, self.points];
        all.into_iter().flatten()
    }
}

/// Some rows' columns.
#[derive(Debug)]
pub(crate) struct AnnotationColumns {
    boxes: Option<ArrayRef>,
    labels: Option<ArrayRef>,
    scores: Option<ArrayRef>,
    points: Option<ArrayRef>,
}

/// What one row says; `None` where it says nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Annotations {
    /// `[x0, y0, x1, y1]`, in pixels.
    pub(crate) boxes: Option<Vec<[f64; 4]>>,
    pub(crate) labels: Option<Vec<String>>,
    /// One for each box.
    pub(crate) scores: Option<Vec<f32>>,
    /// `[x, y, label]`: in pixels, and 1 on the object or 0 beside it.
    pub(crate) points: Option<Vec<[f64; 3]>>,
}

/// Why a row's annotations cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadAnnotation {
    /// A stable code: `bad_boxes`, `bad_labels`, `bad_scores` or `bad_points`.
    pub(crate) reason: &'static str,
    /// The reason in words.
    pub(crate) detail: String,
}

impl AnnotationColumns {
    /// `column` gives the column at a place among the file's.
    pub(crate) fn new(places: AnnotationPlaces, column: impl Fn(usize) -> ArrayRef) -> Self {
        Self {
            boxes: places.boxes.map(&column),
            labels: places.labels.map(&column),
            scores: places.scores.map(&column),
            points: places.points.map(&column),
        }
    }

    /// What a row of these columns says.
    pub(crate) fn row(&self, at: usize) -> Result<Annotations, BadAnnotation> {
        let boxes = read(&self.boxes, at, "bad_boxes", boxes_at)?;
        let scores = read(&self.scores, at, "bad_scores", scores_at)?;
        let count = boxes.as_ref().map_or(0, Vec::len);
        if let Some(scores) = &scores
            && scores.len() != count
        {
            return Err(BadAnnotation {
                reason: "bad_scores",
                detail: format!("{} scores for {count} boxes", scores.len()),
            });
        }
        Ok(Annotations {
            boxes,
            labels: read(&self.labels, at, "bad_labels", labels_at)?,
            scores,
            points: read(&self.points, at, "bad_points", points_at)?,
        })
    }
}

/// What `value_at` makes of a row of a column, if there is one.
fn read<T>(
    column: &Option<ArrayRef>,
    row: usize,
    reason: &'static str,
    value_at: fn(&ArrayRef, usize) -> Result<Option<T>, String>,
) -> Result<Option<T>, BadAnnotation> {
    let value = column.as_ref().map(|column| value_at(column, row));
    let value = value.transpose();
    value
        .map(Option::flatten)
        .map_err(|detail| BadAnnotation { reason, detail })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::StringViewArray;
    use arrow_schema::Field;

    use super::*;

    fn fields(names: &[&str]) -> Vec<FieldRef> {
        let field = |name: &&str| Arc::new(Field::new(*name, DataType::Utf8View, true));
        names.iter().map(field).collect()
    }

    fn texts(values: [&str; 3]) -> ArrayRef {
        Arc::new(StringViewArray::from(values.to_vec()))
    }

    #[test]
    fn only_boxes_are_looked_for_under_usual_names() {
        let fields = fields(&["uri", "labels", "scores", "points", "bbox", "label"]);
        let places = AnnotationPlaces::find(&fields, AnnotationNames::default()).unwrap();
        assert_eq!(places.all().collect::<Vec<_>>(), [4]);
        let names = AnnotationNames {
            labels: Some("label"),
            scores: Some("scores"),
            points: Some("points"),
            ..AnnotationNames::default()
        };
        let places = AnnotationPlaces::find(&fields, names).unwrap();
        assert_eq!(places.all().collect::<Vec<_>>(), [4, 5, 2, 3]);
        let error = AnnotationPlaces::find(&fields[..4], names).unwrap_err();
        assert!(error.to_string().starts_with("there is no column"));
    }

    #[test]
    fn scores_need_boxes() {
        let names = AnnotationNames {
            scores: Some("conf"),
            ..AnnotationNames::default()
        };
        let error = AnnotationPlaces::find(&fields(&["uri", "conf"]), names).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no column is known to hold the boxes that the scores belong to; name the one that does, the columns are \
             \"uri\", \"conf\""
        );
    }

    #[test]
    fn scores_are_counted_against_boxes_row_by_row() {
        let columns = AnnotationColumns {
            boxes: Some(texts(["[[0, 0, 8, 6], [1, 1, 2, 2]]", "", "[]"])),
            labels: None,
            scores: Some(texts(["[0.5]", "", "[]"])),
            points: None,
        };
        let error = columns.row(0).unwrap_err();
        assert_eq!(
            (error.reason, &*error.detail),
            ("bad_scores", "1 scores for 2 boxes")
        );
        assert_eq!(columns.row(1).unwrap().scores, None);
        assert_eq!(columns.row(2).unwrap().scores, Some(vec![]));
    }

    #[test]
    fn every_column_has_a_reason_of_its_own() {
        let good = ["[[0, 0, 8, 6]]", "[\"cat\"]", "[0.5]", "[[1, 2]]"];
        for (bad, reason) in ["bad_boxes", "bad_labels", "bad_scores", "bad_points"]
            .into_iter()
            .enumerate()
        {
            let column = |at| Some(texts([if at == bad { "[{}]" } else { good[at] }, "", ""]));
            let columns = AnnotationColumns {
                boxes: column(0),
                labels: column(1),
                scores: column(2),
                points: column(3),
            };
            assert_eq!(columns.row(0).unwrap_err().reason, reason);
        }
    }
}
