//! The `segmentation` of COCO and SA-1B: polygons, or run lengths as a list or as COCO's text.

use std::fmt;

use maskmill_masks::{ImageSize, MergeOp, Rle};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::MaskProblem;
use crate::polygon::{Polygon, PolygonError};

/// One annotation's mask as it is written, not decoded yet.
#[derive(Debug, Default)]
pub(crate) enum Segmentation {
    /// There is none: keypoints and boxes come without.
    #[default]
    None,
    /// The union of polygons.
    Polygons(Box<[Result<Polygon, PolygonError>]>),
    /// Run lengths.
    Runs(Runs),
}

/// `{"size": [height, width], "counts": ..}`
#[derive(Debug, Deserialize)]
pub(crate) struct Runs {
    size: Box<[i64]>,
    counts: Counts,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Counts {
    /// COCO's compressed text.
    Text(Box<str>),
    /// The lengths themselves.
    List(Box<[i64]>),
}

impl Segmentation {
    /// The mask; `image` is the size that polygons are drawn on. Run lengths have a size of their own.
    ///
    /// # Errors
    /// What is wrong with the runs, or with one of the polygons.
    pub(crate) fn to_rle(&self, image: ImageSize) -> Result<Rle, MaskProblem> {
        match self {
            Self::None => Ok(Rle::empty(image)),
            Self::Polygons(polygons) => {
                let mut drawn = Vec::with_capacity(polygons.len());
                for polygon in polygons {
                    drawn.push(polygon.as_ref().map_err(Clone::clone)?.draw(image)?);
                }
                let drawn: Vec<&Rle> = drawn.iter().collect();
                match drawn.is_empty() {
                    true => Ok(Rle::empty(image)),
                    false => Ok(Rle::merge(&drawn, MergeOp::Union)?),
                }
            }
            Self::Runs(runs) => runs.to_rle(),
        }
    }
}

impl Runs {
    fn to_rle(&self) -> Result<Rle, MaskProblem> {
        let side = |side: i64| u32::try_from(side).map_err(|_| MaskProblem::Shape);
        let [height, width] = *self.size else {
            return Err(MaskProblem::Shape);
        };
        let size = ImageSize::new(side(height)?, side(width)?);
        match &self.counts {
            Counts::Text(text) => Ok(Rle::from_coco_string(size, text)?),
            Counts::List(list) => {
                let count =
                    |&count: &i64| u32::try_from(count).map_err(|_| MaskProblem::Count { count });
                let counts: Vec<u32> = list.iter().map(count).collect::<Result<_, _>>()?;
                Ok(Rle::from_counts(size, counts)?)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Segmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SegmentationVisitor;

        impl<'de> Visitor<'de> for SegmentationVisitor {
            type Value = Segmentation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("polygons [[x, y, ..], ..] or run lengths {\"size\", \"counts\"}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut polygons = Vec::new();
                while let Some(numbers) = list.next_element::<Vec<f64>>()? {
                    polygons.push(Polygon::new(&numbers));
                }
                Ok(Segmentation::Polygons(polygons.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Runs::deserialize(MapAccessDeserializer::new(map)).map(Segmentation::Runs)
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Segmentation::None)
            }
        }

        deserializer.deserialize_any(SegmentationVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize::new(4, 6);

    fn mask(json: &str) -> Result<String, MaskProblem> {
        let segmentation: Segmentation = serde_json::from_str(json).expect(json);
        segmentation.to_rle(SIZE).map(|rle| rle.decode().to_ascii())
    }

    #[test]
    fn every_form_of_one_mask() {
        let drawing = Ok("......\n.##...\n.##...\n......\n".to_owned());
        assert_eq!(mask("[[1, 1, 3, 1, 3, 3, 1, 3]]"), drawing);
        let counts = r#"{"size": [4, 6], "counts": [5, 2, 2, 2, 13]}"#;
        assert_eq!(mask(counts), drawing);
        let text = serde_json::from_str::<Segmentation>(counts).unwrap();
        let text = text.to_rle(SIZE).unwrap().to_coco_string();
        let text = serde_json::json!({ "counts": text, "size": [4, 6] });
        assert_eq!(mask(&text.to_string()), drawing);
    }

    #[test]
    fn polygons_of_one_object_are_joined() {
        let two = "[[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 5, 1, 5, 3, 1, 3]]";
        assert_eq!(mask(two).unwrap(), "##....\n#####.\n.####.\n......\n");
    }

    #[test]
    fn nothing_is_an_empty_mask() {
        let nothing = Ok("......\n".repeat(4));
        assert_eq!(mask("[]"), nothing);
        assert_eq!(mask("null"), nothing);
    }

    #[test]
    fn bad_runs_are_refused() {
        for (json, expected) in [
            (r#"{"size": [4, 6], "counts": [5, 2]}"#, "cover 7 pixels"),
            (r#"{"size": [4, 6], "counts": [5, -2, 21]}"#, "-2"),
            (r#"{"size": [4, 6], "counts": "5~"}"#, "byte 0x7e"),
            (r#"{"size": [4], "counts": [24]}"#, "[height, width]"),
            (r#"{"size": [-4, 6], "counts": [24]}"#, "[height, width]"),
        ] {
            let error = mask(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
