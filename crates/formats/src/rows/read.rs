//! Parquet bytes to rows.

use std::any::type_name;
use std::str::FromStr;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, Float64Type, Int64Type};
use arrow_array::{
    Array, Float32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::Schema;
use bytes::Bytes;
use maskmill_masks::{ImageSize, Rle};
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use super::schema::{self, image_schema, mask_schema};
use super::table::{FINGERPRINT_KEY, KEY_PREFIX};
use super::{ImageRow, ImageStatus, MaskRow, ParquetMeta, RowsError};
use crate::panics::caught;

/// All rows of a masks table.
///
/// # Errors
/// [`RowsError`] if `file` is not such a table or holds a mask that does not fit its image.
pub fn read_masks(file: Bytes) -> Result<Vec<MaskRow>, RowsError> {
    guarded(|| masks(file))
}

fn masks(file: Bytes) -> Result<Vec<MaskRow>, RowsError> {
    let mut rows = Vec::new();
    for batch in open(file, "masks", &mask_schema())? {
        let table = Table::new(batch?, rows.len());
        let rle = table.nested("rle");
        for row in 0..table.rows() {
            let [height, width] = rle.numbers("size", row)?;
            let mask =
                Rle::from_coco_string(ImageSize { height, width }, rle.string("counts", row)?)
                    .map_err(|error| table.bad_value("rle", row, error.to_string()))?;
            rows.push(MaskRow {
                image_key: table.string("image_key", row)?.to_owned(),
                mask_id: table.number("mask_id", row)?,
                rle: mask,
                bbox: table.numbers("bbox", row)?,
                area: table.number("area", row)?,
                predicted_iou: table.float("predicted_iou", row)?,
                stability_score: table.float("stability_score", row)?,
                crop_box: table.numbers("crop_box", row)?,
                point_coords: table.vectors("point_coords", row)?,
                label: table.optional_string("label", row).map(str::to_owned),
                label_score: table.optional_float("label_score", row),
                prompt_box: table.optional_box("prompt_box", row)?,
            });
        }
    }
    Ok(rows)
}

/// All rows of an images table.
///
/// # Errors
/// [`RowsError`] if `file` is not such a table.
pub fn read_images(file: Bytes) -> Result<Vec<ImageRow>, RowsError> {
    guarded(|| images(file))
}

fn images(file: Bytes) -> Result<Vec<ImageRow>, RowsError> {
    let mut rows = Vec::new();
    for batch in open(file, "images", &image_schema())? {
        let table = Table::new(batch?, rows.len());
        for row in 0..table.rows() {
            let status = table.string("status", row)?.parse::<ImageStatus>();
            rows.push(ImageRow {
                image_key: table.string("image_key", row)?.to_owned(),
                shard: table.number("shard", row)?,
                width: table.number("width", row)?,
                height: table.number("height", row)?,
                sha256: table.string("sha256", row)?.to_owned(),
                bytes: table.number("bytes", row)?,
                format: table.optional_string("format", row).map(str::to_owned),
                exif_orientation: table.number("exif_orientation", row)?,
                masks: table.number("masks", row)?,
                status: status.map_err(|detail| table.bad_value("status", row, detail))?,
                reason: table.optional_string("reason", row).map(str::to_owned),
                detail: table.optional_string("detail", row).map(str::to_owned),
                milliseconds: table.float("milliseconds", row)?,
                caption: table.optional_string("caption", row).map(str::to_owned),
                boxes: table.optional_vectors("boxes", row)?,
            });
        }
    }
    Ok(rows)
}

/// What a table's file says of its origin; both parts are empty for a file of other origin.
///
/// # Errors
/// [`RowsError::Parquet`] if `file` is not a Parquet file.
pub fn read_meta(file: Bytes) -> Result<ParquetMeta, RowsError> {
    guarded(|| meta(file))
}

pub(crate) fn meta(file: Bytes) -> Result<ParquetMeta, RowsError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let mut meta = ParquetMeta::default();
    for entry in builder
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .into_iter()
        .flatten()
    {
        let Some(key) = entry.key.strip_prefix(KEY_PREFIX) else {
            continue;
        };
        let value = entry.value.clone().unwrap_or_default();
        if key == FINGERPRINT_KEY {
            meta.fingerprint = value;
        } else {
            meta.entries.insert(key.to_owned(), value);
        }
    }
    Ok(meta)
}

impl FromStr for ImageStatus {
    type Err = String;

    fn from_str(status: &str) -> Result<Self, Self::Err> {
        match status {
            "ok" => Ok(Self::Ok),
            "rejected" => Ok(Self::Rejected),
            other => Err(format!("{other:?} is neither \"ok\" nor \"rejected\"")),
        }
    }
}

/// The Parquet reader panics on some damaged footers (negative column offsets, for one).
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T, RowsError>) -> Result<T, RowsError> {
    caught(read).unwrap_or_else(|detail| Err(RowsError::Damaged { detail }))
}

pub(crate) fn open(
    file: Bytes,
    table: &'static str,
    expected: &Schema,
) -> Result<ParquetRecordBatchReader, RowsError> {
    // Plain Parquet types only: other writers' Arrow hints (large strings, string views) are not of the data.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
    schema::check(table, expected, builder.schema())?;
    Ok(builder.build()?)
}

/// The columns of one batch, or the fields of one struct column. Their types were checked when the file was opened.
pub(crate) struct Table {
    columns: StructArray,
    /// Rows of the file before this batch, to number rows in errors.
    first_row: usize,
}

impl Table {
    pub(crate) fn new(batch: RecordBatch, first_row: usize) -> Self {
        Self {
            columns: StructArray::from(batch),
            first_row,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.columns.len()
    }

    /// The fields of a struct column.
    fn nested(&self, column: &'static str) -> Self {
        Self {
            columns: self.column::<StructArray>(column).clone(),
            first_row: self.first_row,
        }
    }

    fn column<A: Array + 'static>(&self, column: &'static str) -> &A {
        self.optional_column(column)
            .expect("the schema was checked when the file was opened")
    }

    /// A column, unless the table was written before the column was added.
    fn optional_column<A: Array + 'static>(&self, column: &'static str) -> Option<&A> {
        let array = self.columns.column_by_name(column)?;
        let array = array.as_any().downcast_ref();
        Some(array.expect("the schema was checked when the file was opened"))
    }

    pub(crate) fn optional_string(&self, column: &'static str, row: usize) -> Option<&str> {
        let strings: &StringArray = self.optional_column(column)?;
        strings.is_valid(row).then(|| strings.value(row))
    }

    pub(crate) fn string(&self, column: &'static str, row: usize) -> Result<&str, RowsError> {
        self.required(column, row, self.optional_string(column, row))
    }

    fn optional_float(&self, column: &'static str, row: usize) -> Option<f32> {
        let floats: &Float32Array = self.optional_column(column)?;
        floats.is_valid(row).then(|| floats.value(row))
    }

    fn float(&self, column: &'static str, row: usize) -> Result<f32, RowsError> {
        self.required(column, row, self.optional_float(column, row))
    }

    pub(crate) fn optional_number<N: TryFrom<i64>>(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<Option<N>, RowsError> {
        let numbers: Option<&Int64Array> = self.optional_column(column);
        numbers
            .filter(|numbers| numbers.is_valid(row))
            .map(|numbers| self.in_range(column, row, numbers.value(row)))
            .transpose()
    }

    pub(crate) fn number<N: TryFrom<i64>>(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<N, RowsError> {
        let number = self.optional_number(column, row)?;
        self.required(column, row, number)
    }

    /// A list of exactly `LENGTH` numbers.
    fn numbers<const LENGTH: usize>(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<[u32; LENGTH], RowsError> {
        let list = self.required(
            column,
            row,
            list_item::<Int64Type>(self.column(column), row),
        )?;
        let list: [i64; LENGTH] = self.exactly(column, row, &list)?;
        let mut numbers = [0; LENGTH];
        for (number, value) in numbers.iter_mut().zip(list) {
            *number = self.in_range(column, row, value)?;
        }
        Ok(numbers)
    }

    /// A list of points, boxes or the like.
    fn vectors<const N: usize>(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<Vec<[f64; N]>, RowsError> {
        let vectors = self.optional_vectors(column, row)?;
        self.required(column, row, vectors)
    }

    pub(crate) fn optional_vectors<const N: usize>(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<Option<Vec<[f64; N]>>, RowsError> {
        let lists: Option<&ListArray> = self.optional_column(column);
        let Some(lists) = lists.filter(|lists| lists.is_valid(row)) else {
            return Ok(None);
        };
        let vectors = lists.value(row);
        let vectors: &ListArray = vectors.as_list();
        let vector = |index| {
            let numbers = list_item::<Float64Type>(vectors, index);
            self.exactly(column, row, &self.required(column, row, numbers)?)
        };
        (0..vectors.len())
            .map(vector)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A list of texts.
    pub(crate) fn optional_strings(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<Option<Vec<String>>, RowsError> {
        let lists: Option<&ListArray> = self.optional_column(column);
        let Some(lists) = lists.filter(|lists| lists.is_valid(row)) else {
            return Ok(None);
        };
        let texts = lists.value(row);
        let texts = texts.as_string::<i32>().iter();
        let texts = texts.map(|text| self.required(column, row, text).map(str::to_owned));
        texts.collect::<Result<_, _>>().map(Some)
    }

    /// A list of numbers.
    pub(crate) fn optional_floats(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<Option<Vec<f32>>, RowsError> {
        let lists: Option<&ListArray> = self.optional_column(column);
        let Some(lists) = lists.filter(|lists| lists.is_valid(row)) else {
            return Ok(None);
        };
        let numbers = list_item::<Float32Type>(lists, row);
        self.required(column, row, numbers).map(Some)
    }

    fn optional_box(
        &self,
        column: &'static str,
        row: usize,
    ) -> Result<Option<[f32; 4]>, RowsError> {
        self.optional_column(column)
            .and_then(|lists| list_item::<Float32Type>(lists, row))
            .map(|corners| self.exactly(column, row, &corners))
            .transpose()
    }

    fn required<T>(
        &self,
        column: &'static str,
        row: usize,
        value: Option<T>,
    ) -> Result<T, RowsError> {
        value.ok_or_else(|| self.bad_value(column, row, "is null"))
    }

    fn in_range<N: TryFrom<i64>>(
        &self,
        column: &'static str,
        row: usize,
        value: i64,
    ) -> Result<N, RowsError> {
        N::try_from(value).map_err(|_| {
            let detail = format!("{value} is outside the range of {}", type_name::<N>());
            self.bad_value(column, row, detail)
        })
    }

    fn exactly<T: Copy, const LENGTH: usize>(
        &self,
        column: &'static str,
        row: usize,
        list: &[T],
    ) -> Result<[T; LENGTH], RowsError> {
        list.try_into().map_err(|_| {
            let detail = format!("a list of {} values, not of {LENGTH}", list.len());
            self.bad_value(column, row, detail)
        })
    }

    pub(crate) fn bad_value(
        &self,
        column: &'static str,
        row: usize,
        detail: impl Into<String>,
    ) -> RowsError {
        RowsError::BadValue {
            row: self.first_row + row,
            column,
            detail: detail.into(),
        }
    }
}

/// The values of one list; `None` if it, or a value in it, is null.
fn list_item<T: ArrowPrimitiveType>(lists: &ListArray, row: usize) -> Option<Vec<T::Native>> {
    if lists.is_null(row) {
        return None;
    }
    lists.value(row).as_primitive::<T>().iter().collect()
}
