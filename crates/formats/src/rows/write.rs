//! Mask and image rows to Parquet bytes.

use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, ListArray, RecordBatch, StructArray};

use super::schema::{image_schema, mask_schema, rle_fields};
use super::table::{
    TableWriter, floats, integer_lists, integers, optional_strings, strings, to_parquet,
    vector_lists, wide_integers,
};
use super::{ImageRow, MaskRow, ParquetMeta, RowsError};

/// The masks table of `rows`, as a Parquet file compressed with zstd. No rows make a valid, empty table.
///
/// # Errors
/// [`RowsError::BadValue`] for numbers over 2^63.
pub fn masks_to_parquet(rows: &[MaskRow], meta: &ParquetMeta) -> Result<Vec<u8>, RowsError> {
    to_parquet(mask_schema(), rows, meta, mask_batch)
}

/// The images table of `rows`, as a Parquet file compressed with zstd. No rows make a valid, empty table.
///
/// # Errors
/// [`RowsError::BadValue`] for numbers over 2^63.
pub fn images_to_parquet(rows: &[ImageRow], meta: &ParquetMeta) -> Result<Vec<u8>, RowsError> {
    to_parquet(image_schema(), rows, meta, image_batch)
}

/// Writes a masks table as its rows appear, holding them compressed. Gives the bytes of [`masks_to_parquet`].
#[derive(Debug)]
pub struct MaskWriter(TableWriter<MaskRow>);

impl MaskWriter {
    /// An empty table.
    ///
    /// # Errors
    /// [`RowsError::Parquet`] if the schema cannot be written, which would be a bug.
    pub fn new(meta: &ParquetMeta) -> Result<Self, RowsError> {
        TableWriter::new(mask_schema(), meta, mask_batch).map(Self)
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`RowsError::BadValue`] for numbers over 2^63.
    pub fn push(&mut self, row: MaskRow) -> Result<(), RowsError> {
        self.0.push(row)
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// The finished file.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(self) -> Result<Vec<u8>, RowsError> {
        self.0.finish()
    }
}

/// Writes an images table as its rows appear, holding them compressed. Gives the bytes of [`images_to_parquet`].
#[derive(Debug)]
pub struct ImageWriter(TableWriter<ImageRow>);

impl ImageWriter {
    /// An empty table.
    ///
    /// # Errors
    /// [`RowsError::Parquet`] if the schema cannot be written, which would be a bug.
    pub fn new(meta: &ParquetMeta) -> Result<Self, RowsError> {
        TableWriter::new(image_schema(), meta, image_batch).map(Self)
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`RowsError::BadValue`] for numbers over 2^63.
    pub fn push(&mut self, row: ImageRow) -> Result<(), RowsError> {
        self.0.push(row)
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// The finished file.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(self) -> Result<Vec<u8>, RowsError> {
        self.0.finish()
    }
}

fn mask_batch(rows: &[MaskRow], first_row: usize) -> Result<RecordBatch, RowsError> {
    let rle: ArrayRef = Arc::new(StructArray::try_new(
        rle_fields(),
        vec![
            integer_lists(rows, |row| [row.rle.size().height, row.rle.size().width]),
            strings(rows, |row| row.rle.to_coco_string()),
        ],
        None,
    )?);
    let prompt_boxes = ListArray::from_iter_primitive::<Float32Type, _, _>(
        rows.iter()
            .map(|row| row.prompt_box.map(|corners| corners.map(Some))),
    );
    let columns = vec![
        strings(rows, |row| row.image_key.as_str()),
        integers(rows, |row| row.mask_id),
        rle,
        integer_lists(rows, |row| row.bbox),
        wide_integers(rows, first_row, "area", |row| row.area)?,
        floats(rows, |row| Some(row.predicted_iou)),
        floats(rows, |row| Some(row.stability_score)),
        integer_lists(rows, |row| row.crop_box),
        vector_lists(rows, |row| Some(&row.point_coords)),
        optional_strings(rows, |row| row.label.as_deref()),
        floats(rows, |row| row.label_score),
        Arc::new(prompt_boxes),
    ];
    Ok(RecordBatch::try_new(mask_schema(), columns)?)
}

pub(super) fn image_batch(rows: &[ImageRow], first_row: usize) -> Result<RecordBatch, RowsError> {
    let columns = vec![
        strings(rows, |row| row.image_key.as_str()),
        integers(rows, |row| row.shard),
        integers(rows, |row| row.width),
        integers(rows, |row| row.height),
        strings(rows, |row| row.sha256.as_str()),
        wide_integers(rows, first_row, "bytes", |row| row.bytes)?,
        optional_strings(rows, |row| row.format.as_deref()),
        integers(rows, |row| row.exif_orientation),
        integers(rows, |row| row.masks),
        strings(rows, |row| row.status.as_str()),
        optional_strings(rows, |row| row.reason.as_deref()),
        optional_strings(rows, |row| row.detail.as_deref()),
        floats(rows, |row| Some(row.milliseconds)),
        optional_strings(rows, |row| row.caption.as_deref()),
        vector_lists(rows, |row| row.boxes.as_deref()),
    ];
    Ok(RecordBatch::try_new(image_schema(), columns)?)
}
