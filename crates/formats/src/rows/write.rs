//! Rows to Parquet bytes.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder};
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{
    ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::schema::{image_schema, mask_schema, rle_fields};
use super::{ImageRow, MaskRow, ParquetMeta, RowsError};

/// Rows handed to the encoder at once. Constant, because pages end where batches do: the bytes would otherwise depend
/// on how the rows arrived.
const ROWS_PER_BATCH: usize = 1024;

/// A mask takes 1 to 2 kB before compression, so a group of this many is some 20 MB.
const ROWS_PER_GROUP: usize = 16 * ROWS_PER_BATCH;

/// What precedes every key of the file's key-value metadata.
pub(super) const KEY_PREFIX: &str = "maskmill.";

/// The key of [`ParquetMeta::fingerprint`].
pub(super) const FINGERPRINT_KEY: &str = "fingerprint";

/// The masks table of `rows`, as a Parquet file compressed with zstd. No rows make a valid, empty table.
///
/// # Errors
/// [`RowsError::BadValue`] for numbers over 2^63.
pub fn masks_to_parquet(rows: &[MaskRow], meta: &ParquetMeta) -> Result<Vec<u8>, RowsError> {
    let mut writer = parquet_writer(mask_schema(), meta)?;
    for (index, batch) in rows.chunks(ROWS_PER_BATCH).enumerate() {
        writer.write(&mask_batch(batch, index * ROWS_PER_BATCH)?)?;
    }
    Ok(writer.into_inner()?)
}

/// The images table of `rows`, as a Parquet file compressed with zstd. No rows make a valid, empty table.
///
/// # Errors
/// [`RowsError::BadValue`] for numbers over 2^63.
pub fn images_to_parquet(rows: &[ImageRow], meta: &ParquetMeta) -> Result<Vec<u8>, RowsError> {
    let mut writer = parquet_writer(image_schema(), meta)?;
    for (index, batch) in rows.chunks(ROWS_PER_BATCH).enumerate() {
        writer.write(&image_batch(batch, index * ROWS_PER_BATCH)?)?;
    }
    Ok(writer.into_inner()?)
}

/// Writes a masks table as its rows appear, holding them compressed. Gives the bytes of [`masks_to_parquet`].
#[derive(Debug)]
pub struct MaskWriter {
    writer: ArrowWriter<Vec<u8>>,
    /// Fewer than [`ROWS_PER_BATCH`] rows, not encoded yet.
    pending: Vec<MaskRow>,
    encoded: usize,
}

impl MaskWriter {
    /// An empty table.
    ///
    /// # Errors
    /// [`RowsError::Parquet`] if the schema cannot be written, which would be a bug.
    pub fn new(meta: &ParquetMeta) -> Result<Self, RowsError> {
        Ok(Self {
            writer: parquet_writer(mask_schema(), meta)?,
            pending: Vec::new(),
            encoded: 0,
        })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`RowsError::BadValue`] for numbers over 2^63.
    pub fn push(&mut self, row: MaskRow) -> Result<(), RowsError> {
        self.pending.push(row);
        if self.pending.len() == ROWS_PER_BATCH {
            self.encode_pending()?;
        }
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.encoded + self.pending.len()
    }

    /// The finished file.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(mut self) -> Result<Vec<u8>, RowsError> {
        if !self.pending.is_empty() {
            self.encode_pending()?;
        }
        Ok(self.writer.into_inner()?)
    }

    fn encode_pending(&mut self) -> Result<(), RowsError> {
        self.writer
            .write(&mask_batch(&self.pending, self.encoded)?)?;
        self.encoded += self.pending.len();
        self.pending.clear();
        Ok(())
    }
}

fn parquet_writer(
    schema: SchemaRef,
    meta: &ParquetMeta,
) -> Result<ArrowWriter<Vec<u8>>, RowsError> {
    let fingerprint = [(FINGERPRINT_KEY, meta.fingerprint.as_str())];
    let entries = meta
        .entries
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let key_values = fingerprint
        .into_iter()
        .chain(entries)
        .map(|(key, value)| KeyValue::new(format!("{KEY_PREFIX}{key}"), value.to_owned()))
        .collect();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .set_key_value_metadata(Some(key_values))
        // Almost every mask is unlike all others.
        .set_column_dictionary_enabled(
            ColumnPath::from(vec!["rle".to_owned(), "counts".to_owned()]),
            false,
        )
        .build();
    Ok(ArrowWriter::try_new(Vec::new(), schema, Some(properties))?)
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
        points(rows),
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
    ];
    Ok(RecordBatch::try_new(image_schema(), columns)?)
}

fn strings<'a, R, S: AsRef<str>>(rows: &'a [R], get: impl Fn(&'a R) -> S) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(get)))
}

fn optional_strings<'a, R>(rows: &'a [R], get: impl Fn(&'a R) -> Option<&'a str>) -> ArrayRef {
    Arc::new(rows.iter().map(get).collect::<StringArray>())
}

fn floats<R>(rows: &[R], get: impl Fn(&R) -> Option<f32>) -> ArrayRef {
    Arc::new(rows.iter().map(get).collect::<Float32Array>())
}

fn integers<R, N: Into<i64>>(rows: &[R], get: impl Fn(&R) -> N) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(
        rows.iter().map(|row| get(row).into()),
    ))
}

fn wide_integers<R>(
    rows: &[R],
    first_row: usize,
    column: &'static str,
    get: impl Fn(&R) -> u64,
) -> Result<ArrayRef, RowsError> {
    let value = |(row, value): (usize, u64)| {
        i64::try_from(value).map_err(|_| RowsError::BadValue {
            row: first_row + row,
            column,
            detail: format!("{value} does not fit a signed 64-bit integer"),
        })
    };
    let values: Result<Vec<i64>, _> = rows.iter().map(get).enumerate().map(value).collect();
    Ok(Arc::new(Int64Array::from(values?)))
}

fn integer_lists<R, const N: usize>(rows: &[R], get: impl Fn(&R) -> [u32; N]) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
        rows.iter()
            .map(|row| Some(get(row).map(|value| Some(i64::from(value))))),
    ))
}

fn points(rows: &[MaskRow]) -> ArrayRef {
    let mut lists = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    for row in rows {
        for point in &row.point_coords {
            lists.values().values().append_slice(point);
            lists.values().append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}
