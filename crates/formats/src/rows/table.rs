//! Rows of any table to Parquet bytes: the writer, and Rust values to Arrow columns.

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, Float64Builder, ListBuilder, StringBuilder};
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::{ParquetMeta, RowsError};

/// Rows handed to the encoder at once. Constant, because pages end where batches do: the bytes would otherwise depend
/// on how the rows arrived.
const ROWS_PER_BATCH: usize = 1024;

/// A mask takes 1 to 2 kB before compression, so a group of this many is some 20 MB.
const ROWS_PER_GROUP: usize = 16 * ROWS_PER_BATCH;

/// What precedes every key of the file's key-value metadata.
pub(super) const KEY_PREFIX: &str = "maskmill.";

/// The key of [`ParquetMeta::fingerprint`].
pub(super) const FINGERPRINT_KEY: &str = "fingerprint";

/// The columns of some rows. The number is that of the rows before them, to number rows in errors.
type ToBatch<R> = fn(&[R], usize) -> Result<RecordBatch, RowsError>;

/// The table of `rows`, as a Parquet file compressed with zstd.
pub(crate) fn to_parquet<R>(
    schema: SchemaRef,
    rows: &[R],
    meta: &ParquetMeta,
    to_batch: ToBatch<R>,
) -> Result<Vec<u8>, RowsError> {
    let mut writer = parquet_writer(schema, meta)?;
    for (index, batch) in rows.chunks(ROWS_PER_BATCH).enumerate() {
        writer.write(&to_batch(batch, index * ROWS_PER_BATCH)?)?;
    }
    Ok(writer.into_inner()?)
}

/// Writes a table as its rows appear, holding them compressed. Gives the bytes of [`to_parquet`].
#[derive(Debug)]
pub(crate) struct TableWriter<R> {
    writer: ArrowWriter<Vec<u8>>,
    to_batch: ToBatch<R>,
    /// Fewer than [`ROWS_PER_BATCH`] rows, not encoded yet.
    pending: Vec<R>,
    encoded: usize,
}

impl<R> TableWriter<R> {
    pub(crate) fn new(
        schema: SchemaRef,
        meta: &ParquetMeta,
        to_batch: ToBatch<R>,
    ) -> Result<Self, RowsError> {
        Ok(Self {
            writer: parquet_writer(schema, meta)?,
            to_batch,
            pending: Vec::new(),
            encoded: 0,
        })
    }

    pub(crate) fn push(&mut self, row: R) -> Result<(), RowsError> {
        self.pending.push(row);
        if self.pending.len() == ROWS_PER_BATCH {
            self.encode_pending()?;
        }
        Ok(())
    }

    pub(crate) fn rows(&self) -> usize {
        self.encoded + self.pending.len()
    }

    pub(crate) fn finish(mut self) -> Result<Vec<u8>, RowsError> {
        if !self.pending.is_empty() {
            self.encode_pending()?;
        }
        Ok(self.writer.into_inner()?)
    }

    fn encode_pending(&mut self) -> Result<(), RowsError> {
        let batch = (self.to_batch)(&self.pending, self.encoded)?;
        self.writer.write(&batch)?;
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

pub(crate) fn strings<'a, R, S: AsRef<str>>(rows: &'a [R], get: impl Fn(&'a R) -> S) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(get)))
}

pub(crate) fn optional_strings<'a, R>(
    rows: &'a [R],
    get: impl Fn(&'a R) -> Option<&'a str>,
) -> ArrayRef {
    Arc::new(rows.iter().map(get).collect::<StringArray>())
}

pub(crate) fn floats<R>(rows: &[R], get: impl Fn(&R) -> Option<f32>) -> ArrayRef {
    Arc::new(rows.iter().map(get).collect::<Float32Array>())
}

pub(crate) fn integers<R, N: Into<i64>>(rows: &[R], get: impl Fn(&R) -> N) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(
        rows.iter().map(|row| get(row).into()),
    ))
}

pub(crate) fn wide_integers<R>(
    rows: &[R],
    first_row: usize,
    column: &'static str,
    get: impl Fn(&R) -> u64,
) -> Result<ArrayRef, RowsError> {
    optional_wide_integers(rows, first_row, column, |row| Some(get(row)))
}

pub(crate) fn optional_wide_integers<R>(
    rows: &[R],
    first_row: usize,
    column: &'static str,
    get: impl Fn(&R) -> Option<u64>,
) -> Result<ArrayRef, RowsError> {
    let signed = |(row, value): (usize, Option<u64>)| {
        let Some(value) = value else { return Ok(None) };
        i64::try_from(value)
            .map(Some)
            .map_err(|_| RowsError::BadValue {
                row: first_row + row,
                column,
                detail: format!("{value} does not fit a signed 64-bit integer"),
            })
    };
    let values: Result<Int64Array, _> = rows.iter().map(get).enumerate().map(signed).collect();
    Ok(Arc::new(values?))
}

pub(crate) fn integer_lists<R, const N: usize>(
    rows: &[R],
    get: impl Fn(&R) -> [u32; N],
) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
        rows.iter()
            .map(|row| Some(get(row).map(|value| Some(i64::from(value))))),
    ))
}

pub(crate) fn optional_integers<R>(rows: &[R], get: impl Fn(&R) -> Option<u32>) -> ArrayRef {
    let values = rows.iter().map(|row| get(row).map(i64::from));
    Arc::new(values.collect::<Int64Array>())
}

/// A list of points, boxes or the like per row.
pub(crate) fn vector_lists<'a, R, const N: usize>(
    rows: &'a [R],
    get: impl Fn(&'a R) -> Option<&'a [[f64; N]]>,
) -> ArrayRef {
    let mut lists = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    for row in rows {
        let vectors = get(row);
        for vector in vectors.unwrap_or_default() {
            lists.values().values().append_slice(vector);
            lists.values().append(true);
        }
        lists.append(vectors.is_some());
    }
    Arc::new(lists.finish())
}

/// A list of texts per row.
pub(crate) fn string_lists<'a, R>(
    rows: &'a [R],
    get: impl Fn(&'a R) -> Option<&'a [String]>,
) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in rows {
        let texts = get(row);
        for text in texts.unwrap_or_default() {
            lists.values().append_value(text);
        }
        lists.append(texts.is_some());
    }
    Arc::new(lists.finish())
}

/// A list of numbers per row.
pub(crate) fn float_lists<'a, R>(
    rows: &'a [R],
    get: impl Fn(&'a R) -> Option<&'a [f32]>,
) -> ArrayRef {
    let mut lists = ListBuilder::new(Float32Builder::new());
    for row in rows {
        let numbers = get(row);
        lists.values().append_slice(numbers.unwrap_or_default());
        lists.append(numbers.is_some());
    }
    Arc::new(lists.finish())
}
