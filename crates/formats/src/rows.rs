//! The output tables: one Parquet row per mask, one per image.
//!
//! ```text
//! masks:  image_key utf8, mask_id int64, rle struct{size list<int64> [height, width], counts utf8},
//!         bbox list<int64> [x, y, w, h], area int64, predicted_iou float, stability_score float,
//!         crop_box list<int64> [x, y, w, h], point_coords list<list<double>> [[x, y], ..],
//!         label utf8?, label_score float?, prompt_box list<float>? [x0, y0, x1, y1]
//! images: image_key utf8, shard int64, width int64, height int64, sha256 utf8, bytes int64, format utf8?,
//!         exif_orientation int64, masks int64, status utf8, reason utf8?, detail utf8?, milliseconds float,
//!         caption utf8?, boxes list<list<double>>? [[x0, y0, x1, y1], ..]
//! ```
//! Integers are signed and 64 bits wide although the values are small: every engine has that type, and dictionary
//! encoding and zstd make it as compact. `rle` is what pycocotools takes. The same rows always give the same bytes.
//! Columns may be added at the end, nullable: a table without them is read as if they were null.

pub(crate) mod read;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod schema;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use maskmill_masks::Rle;

pub use read::{read_images, read_masks, read_meta};
pub use schema::{image_schema, mask_schema};
pub use write::{ImageWriter, MaskWriter, images_to_parquet, masks_to_parquet};

/// One mask of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskRow {
    /// The image's key, unique within the job.
    pub image_key: String,
    /// The mask's place within its image, from 0.
    pub mask_id: u32,
    /// The mask, at the upright image's size.
    pub rle: Rle,
    /// The mask's box as Segment Anything gives it: `[x, y, w, h]` in pixels with `w` and `h` one less than the pixel
    /// count (`BoxPx::sa_xywh`).
    pub bbox: [u32; 4],
    /// Number of pixels in the mask.
    pub area: u64,
    /// The model's own estimate of the mask's IoU.
    pub predicted_iou: f32,
    /// IoU of the mask with itself under a shifted threshold.
    pub stability_score: f32,
    /// The image crop the mask was found in: `[x, y, w, h]` in pixels, exact.
    pub crop_box: [u32; 4],
    /// The prompting points `[x, y]`, in pixels of the image; none for a box prompt.
    pub point_coords: Vec<[f64; 2]>,
    /// What a text prompt called the object.
    pub label: Option<String>,
    /// Confidence of `label`, 0 to 1.
    pub label_score: Option<f32>,
    /// The prompting box `[x0, y0, x1, y1]`, in pixels of the image.
    pub prompt_box: Option<[f32; 4]>,
}

/// Whether an image gave masks or was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageStatus {
    /// It was processed; it may still have no masks.
    Ok,
    /// It could not be read; the row's `reason` says why.
    Rejected,
}

impl ImageStatus {
    /// The column's value: `ok` or `rejected`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
        }
    }
}

/// One image of the input, whether or not it could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRow {
    /// The image's key, unique within the job.
    pub image_key: String,
    /// The shard it came from.
    pub shard: u32,
    /// Columns after EXIF orientation, in pixels; 0 if the image was not decoded.
    pub width: u32,
    /// Rows after EXIF orientation, in pixels; 0 if the image was not decoded.
    pub height: u32,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits; empty if the file was not read.
    pub sha256: String,
    /// Length of the file.
    pub bytes: u64,
    /// `jpeg`, `png`, `tiff`, `bmp` or `webp`; none if the image was not decoded.
    pub format: Option<String>,
    /// The EXIF orientation that was applied, 1 to 8; 1 if the file has none.
    pub exif_orientation: u8,
    /// Number of its masks in the masks table.
    pub masks: u32,
    /// Whether it was processed.
    pub status: ImageStatus,
    /// Why it was rejected: a stable code such as `truncated`.
    pub reason: Option<String>,
    /// Why it was rejected, in words.
    pub detail: Option<String>,
    /// Time spent on it. The one column that differs between two runs.
    pub milliseconds: f32,
    /// What the image's source says of it.
    pub caption: Option<String>,
    /// The boxes `[x0, y0, x1, y1]` that came with the image, in pixels.
    pub boxes: Option<Vec<[f64; 4]>>,
}

/// What a table's file says of its origin, kept as Parquet key-value metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParquetMeta {
    /// The fingerprint of the job that wrote it (key `maskmill.fingerprint`).
    pub fingerprint: String,
    /// Further entries; each key is written with `maskmill.` before it.
    pub entries: BTreeMap<String, String>,
}

/// Why a table could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The file is not Parquet, or is damaged or cut short.
    #[error(
        "the Parquet file cannot be read or written; if it is damaged, delete it and have it made again"
    )]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The Parquet file is damaged in a way that its reader panicked on.
    #[error("the Parquet file is damaged ({detail}); delete it and have it made again")]
    Damaged {
        /// What the reader said.
        detail: String,
    },
    /// Rows did not fit their columns.
    #[error("the Parquet columns cannot be read or written")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// A Parquet file, but not one of these tables.
    #[error("not a maskmill {table} table: {detail}")]
    WrongSchema {
        /// `masks`, `images`, `plan` or `committed`.
        table: &'static str,
        /// The column that is missing or of another type.
        detail: String,
    },
    /// A value that no maskmill writes.
    #[error("row {row}, column {column}: {detail}")]
    BadValue {
        /// The row, from 0.
        row: usize,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}
