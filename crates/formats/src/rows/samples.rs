//! Rows for tests.

use maskmill_masks::{Bitmap, BoxPx, Rle};

use super::{ImageRow, ImageStatus, MaskRow};

/// A mask drawn in ASCII, `#` inside.
pub(crate) fn mask_row(image_key: &str, mask_id: u32, drawing: &str) -> MaskRow {
    let rle = Rle::encode(&Bitmap::from_ascii(drawing));
    MaskRow {
        image_key: image_key.to_owned(),
        mask_id,
        bbox: rle.bounds().sa_xywh(),
        area: rle.area(),
        predicted_iou: 0.9,
        stability_score: 0.95,
        crop_box: BoxPx::of(rle.size()).xywh(),
        point_coords: vec![[1.5, 0.5]],
        label: None,
        label_score: None,
        prompt_box: None,
        rle,
    }
}

/// An image of 2 rows and 3 columns.
pub(crate) fn image_row(image_key: &str) -> ImageRow {
    ImageRow {
        image_key: image_key.to_owned(),
        shard: 12,
        width: 3,
        height: 2,
        sha256: "0123456789abcdef".repeat(4),
        bytes: 1_234,
        format: Some("jpeg".to_owned()),
        exif_orientation: 6,
        masks: 2,
        status: ImageStatus::Ok,
        reason: None,
        detail: None,
        milliseconds: 3.25,
        caption: None,
        boxes: None,
    }
}
