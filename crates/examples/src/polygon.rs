//! Polygons to masks, as pycocotools draws them.

use maskmill_masks::{ImageSize, Rle};

use crate::MaskProblem;

/// Why a polygon cannot be drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolygonError {
    /// Fewer than three corners, which enclose nothing.
    #[error(
        "a polygon of {numbers} numbers has no three corners [x, y, x, y, x, y]; correct or remove the annotation"
    )]
    TooFewCorners {
        /// How many numbers there are.
        numbers: usize,
    },
    /// A corner without a y.
    #[error(
        "a polygon of {numbers} numbers, which are not x and y in turn; correct or remove the annotation"
    )]
    OddNumbers {
        /// How many numbers there are.
        numbers: usize,
    },
    /// A corner too far away to be in the image.
    #[error(
        "corner {corner} of a polygon, counted from 0, is far outside of the image; corners are in pixels"
    )]
    FarCorner {
        /// Which.
        corner: usize,
    },
}

/// Subdivisions of a pixel in which corners are rounded and edges walked (`scale` of `rleFrPoly`).
const SCALE: f64 = 5.0;

/// How far beyond the image corners may lie, in sides of the image: annotators' strokes end outside of it, but not in
/// another picture. It bounds the walk along an edge.
const MARGIN_SIDES: i64 = 2;

/// A polygon of at least three corners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Polygon {
    /// `[x, y]` in fifths of a pixel, rounded as `rleFrPoly` rounds: all that its result depends on.
    corners: Box<[[i32; 2]]>,
}

impl Polygon {
    /// A polygon of `[x, y, x, y, ..]`, in pixels: (0, 0) is the top left corner of the first pixel.
    pub(crate) fn new(numbers: &[f64]) -> Result<Self, PolygonError> {
        let (corners, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            let numbers = numbers.len();
            return Err(PolygonError::OddNumbers { numbers });
        }
        if corners.len() < 3 {
            let numbers = numbers.len();
            return Err(PolygonError::TooFewCorners { numbers });
        }
        // Casts truncate, and saturate where C's would be undefined: `draw` refuses what is so far away.
        let fifths = |x: f64| (SCALE * x + 0.5) as i32;
        Ok(Self {
            corners: corners.iter().map(|corner| corner.map(fifths)).collect(),
        })
    }

    /// The pixels inside, in an image of this size.
    ///
    /// Follows `rleFrPoly` (pycocotools): the boundary is walked in fifths of a pixel; where it passes the middle of a
    /// column of pixels, the column's side changes from the next row on.
    ///
    /// # Errors
    /// [`PolygonError::FarCorner`].
    pub(crate) fn draw(&self, image: ImageSize) -> Result<Rle, MaskProblem> {
        let (height, width) = (i64::from(image.height), i64::from(image.width));
        let is_near = |value: i32, side: i64| {
            let far = MARGIN_SIDES * side * SCALE as i64;
            (-far..=far + side * SCALE as i64).contains(&i64::from(value))
        };
        let near = |&[x, y]: &[i32; 2]| is_near(x, width) && is_near(y, height);
        if let Some(corner) = self.corners.iter().position(|corner| !near(corner)) {
            return Err(PolygonError::FarCorner { corner }.into());
        }

        // Column-major pixels from which on the side changes.
        let mut changes = Vec::new();
        let mut previous: Option<[i32; 2]> = None;
        let ends = self.corners.iter().skip(1).chain(&self.corners[..1]);
        for (&start, &end) in self.corners.iter().zip(ends) {
            walk(start, end, |point| {
                let change = previous.and_then(|previous| change(previous, point, image));
                changes.extend(change);
                previous = Some(point);
            });
        }
        changes.sort_unstable();
        changes.push(image.pixels());
        let mut from = 0;
        let lengths = changes.iter().map(|&to| {
            let length = to - from;
            from = to;
            length as u32
        });
        Ok(Rle::from_counts(image, lengths.collect::<Vec<_>>())?)
    }
}

/// Visits the points from one corner to the next, both included, one for each fifth of a pixel along the longer axis.
fn walk(start: [i32; 2], end: [i32; 2], mut visit: impl FnMut([i32; 2])) {
    let [dx, dy] = [0, 1].map(|axis| (end[axis] - start[axis]).abs());
    let (long, other) = if dx >= dy { (0, 1) } else { (1, 0) };
    let steps = dx.max(dy);
    // Always walked in the same direction, so that two polygons that share an edge meet exactly.
    let flipped = start[long] > end[long];
    let (from, to) = if flipped { (end, start) } else { (start, end) };
    let slope = f64::from(to[other] - from[other]) / f64::from(steps.max(1));
    for step in 0..=steps {
        let at = if flipped { steps - step } else { step };
        let mut point = [0; 2];
        point[long] = from[long] + at;
        point[other] = (f64::from(from[other]) + slope * f64::from(at) + 0.5) as i32;
        visit(point);
    }
}

/// The pixel from which on a step of the walk changes the side; none if it does not pass the middle of a column.
fn change(previous: [i32; 2], point: [i32; 2], image: ImageSize) -> Option<u64> {
    if point[0] == previous[0] {
        return None;
    }
    let left = if point[0] < previous[0] {
        point[0]
    } else {
        point[0] - 1
    };
    let x = (f64::from(left) + 0.5) / SCALE - 0.5;
    if x.floor() != x || x < 0.0 || x > f64::from(image.width) - 1.0 {
        return None;
    }
    let y = (f64::from(point[1].min(previous[1])) + 0.5) / SCALE - 0.5;
    let y = y.clamp(0.0, f64::from(image.height)).ceil();
    Some(x as u64 * u64::from(image.height) + y as u64)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::segmentation::Segmentation;

    /// Made by `tests/generate_polygons.py`.
    #[derive(Deserialize)]
    struct Expected {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        size: [u32; 2],
        polygons: Segmentation,
        counts: String,
    }

    #[test]
    fn masks_are_those_of_pycocotools() {
        let expected = include_str!("../tests/polygons.json");
        let expected: Expected = serde_json::from_str(expected).unwrap();
        assert!(expected.cases.len() >= 400);
        for (number, case) in expected.cases.iter().enumerate() {
            let size = ImageSize::new(case.size[0], case.size[1]);
            let rle = case.polygons.to_rle(size).unwrap();
            let expected = Rle::from_coco_string(size, &case.counts).unwrap();
            assert_eq!(
                rle.decode().to_ascii(),
                expected.decode().to_ascii(),
                "case {number}"
            );
            assert_eq!(rle.to_coco_string(), case.counts, "case {number}");
        }
    }

    #[test]
    fn what_encloses_nothing_is_refused() {
        let numbers = 4;
        assert_eq!(
            Polygon::new(&[0.0, 0.0, 5.0, 5.0]),
            Err(PolygonError::TooFewCorners { numbers })
        );
        let numbers = 7;
        assert_eq!(
            Polygon::new(&[0.0, 0.0, 5.0, 5.0, 0.0, 5.0, 1.0]),
            Err(PolygonError::OddNumbers { numbers })
        );
    }

    #[test]
    fn corners_in_another_picture_are_refused() {
        let size = ImageSize::new(20, 30);
        for far in [-61.0, 91.0, 1e300, f64::NEG_INFINITY] {
            let polygon = Polygon::new(&[0.0, 0.0, 5.0, 5.0, far, 5.0]).unwrap();
            let corner = 2;
            assert_eq!(
                polygon.draw(size),
                Err(PolygonError::FarCorner { corner }.into()),
                "{far}"
            );
        }
        // Beside the picture is an empty mask, as pycocotools has it.
        let beside = Polygon::new(&[32.0, 2.0, 40.0, 2.0, 40.0, 9.0]).unwrap();
        assert_eq!(beside.draw(size).unwrap().area(), 0);
    }
}
