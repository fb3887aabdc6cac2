//! Annotation documents in SA-1B's JSON layout, one per image.
//!
//! ```text
//! { "image": { "image_id", "width", "height", "file_name" },
//!   "annotations": [ { "id", "segmentation": { "size": [h, w], "counts" }, "area", "bbox": [x, y, w, h],
//!                      "predicted_iou", "stability_score", "crop_box": [x, y, w, h], "point_coords": [[x, y]] } ] }
//! ```
//! `segmentation` is what `pycocotools.mask.decode` takes. SA-1B's ids are numbers; the caller gives them.

use serde::{Deserialize, Serialize};

use crate::rows::{ImageRow, MaskRow};

/// The annotations of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The image.
    pub image: Image,
    /// Its masks.
    pub annotations: Vec<Annotation>,
}

/// The image of a [`Document`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Unique within the dataset.
    pub image_id: u64,
    /// Columns, in pixels, after EXIF orientation.
    pub width: u32,
    /// Rows, in pixels, after EXIF orientation.
    pub height: u32,
    /// The image file.
    pub file_name: String,
}

/// One mask of a [`Document`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// Unique within the dataset.
    pub id: u64,
    /// The mask.
    pub segmentation: Segmentation,
    /// Number of pixels.
    pub area: u64,
    /// `[x, y, w, h]`, with `w` and `h` one less than the pixel count, as in SA-1B.
    pub bbox: [u32; 4],
    /// The model's own estimate of the mask's IoU.
    pub predicted_iou: f32,
    /// IoU of the mask with itself under a shifted threshold.
    pub stability_score: f32,
    /// The image crop the mask was found in: `[x, y, w, h]`, exact.
    pub crop_box: [u32; 4],
    /// The prompting points `[x, y]`, in pixels of the image.
    pub point_coords: Vec<[f64; 2]>,
}

/// A mask in COCO's compressed run-length encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segmentation {
    /// `[height, width]`.
    pub size: [u32; 2],
    /// Column-major run lengths as COCO's string.
    pub counts: String,
}

/// The names and numbers a [`Document`] needs beyond the tables' rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// [`Image::image_id`].
    pub image_id: u64,
    /// [`Image::file_name`].
    pub file_name: String,
    /// [`Annotation::id`] of the first mask; the others follow.
    pub first_annotation_id: u64,
}

impl Document {
    /// The document of `image` and its `masks`, in the order given.
    ///
    /// # Panics
    /// When a mask belongs to another image: the rows were joined wrongly.
    pub fn new(image: &ImageRow, masks: &[MaskRow], naming: Naming) -> Self {
        let annotation = |(id, mask): (u64, &MaskRow)| {
            assert_eq!(mask.image_key, image.image_key, "a mask of another image");
            Annotation {
                id,
                segmentation: Segmentation {
                    size: [mask.rle.size().height, mask.rle.size().width],
                    counts: mask.rle.to_coco_string(),
                },
                area: mask.area,
                bbox: mask.bbox,
                predicted_iou: mask.predicted_iou,
                stability_score: mask.stability_score,
                crop_box: mask.crop_box,
                point_coords: mask.point_coords.clone(),
            }
        };
        Self {
            image: Image {
                image_id: naming.image_id,
                width: image.width,
                height: image.height,
                file_name: naming.file_name,
            },
            annotations: (naming.first_annotation_id..)
                .zip(masks)
                .map(annotation)
                .collect(),
        }
    }

    /// The document as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and lists are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::samples::{image_row, mask_row};

    fn naming() -> Naming {
        Naming {
            image_id: 7,
            file_name: "sa_7.jpg".to_owned(),
            first_annotation_id: 40,
        }
    }

    #[test]
    fn fields_come_in_sa1bs_order() {
        let masks = [mask_row("a", 0, "..#\n.##"), mask_row("a", 1, "##.\n...")];
        let json = Document::new(&image_row("a"), &masks, naming()).to_json();
        assert_eq!(
            json,
            concat!(
                r#"{"image":{"image_id":7,"width":3,"height":2,"file_name":"sa_7.jpg"},"annotations":["#,
                r#"{"id":40,"segmentation":{"size":[2,3],"counts":"33"},"area":3,"bbox":[1,0,1,1],"#,
                r#""predicted_iou":0.9,"stability_score":0.95,"crop_box":[0,0,3,2],"point_coords":[[1.5,0.5]]},"#,
                r#"{"id":41,"segmentation":{"size":[2,3],"counts":"01102"},"area":2,"bbox":[0,0,1,0],"#,
                r#""predicted_iou":0.9,"stability_score":0.95,"crop_box":[0,0,3,2],"point_coords":[[1.5,0.5]]}]}"#,
            )
        );
    }

    #[test]
    fn json_round_trips() {
        let document = Document::new(&image_row("a"), &[mask_row("a", 0, "..#\n.##")], naming());
        assert_eq!(
            serde_json::from_str::<Document>(&document.to_json()).unwrap(),
            document
        );
    }

    #[test]
    fn an_image_without_masks_has_an_empty_list() {
        let json = Document::new(&image_row("a"), &[], naming()).to_json();
        assert!(json.ends_with(r#""annotations":[]}"#), "{json}");
    }

    #[test]
    #[should_panic(expected = "a mask of another image")]
    fn masks_of_other_images_are_a_bug() {
        Document::new(&image_row("a"), &[mask_row("b", 0, "#")], naming());
    }
}
