//! The output's manifest: one row per committed shard, with the files it wrote.
//!
//! ```text
//! shard int64, masks_path utf8, masks_rows int64, masks_bytes int64, masks_sha256 utf8,
//! images_path utf8, images_rows int64, images_bytes int64, images_sha256 utf8,
//! images_ok int64, images_rejected int64, retry_of int64?
//! ```
//! An engine that reads tables by their list of files starts here; the other tables need no catalogue.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use crate::rows::read::{Table, guarded, meta, open};
use crate::rows::table::{integers, optional_integers, strings, to_parquet, wide_integers};
use crate::rows::{ParquetMeta, RowsError};

/// One committed shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedRow {
    /// The shard.
    pub shard: u32,
    /// The masks table, relative to the output.
    pub masks_path: String,
    /// Rows of the masks table.
    pub masks_rows: u64,
    /// Length of the masks table's file.
    pub masks_bytes: u64,
    /// SHA-256 of the masks table's file, in lower-case hexadecimal digits.
    pub masks_sha256: String,
    /// The images table, relative to the output.
    pub images_path: String,
    /// Rows of the images table.
    pub images_rows: u64,
    /// Length of the images table's file.
    pub images_bytes: u64,
    /// SHA-256 of the images table's file, in lower-case hexadecimal digits.
    pub images_sha256: String,
    /// Images that were processed.
    pub images_ok: u64,
    /// Images that were rejected.
    pub images_rejected: u64,
    /// The shard whose rejected images this one tried again.
    pub retry_of: Option<u32>,
}

/// The table of `rows`, as a Parquet file compressed with zstd. No rows make a valid, empty table.
///
/// # Errors
/// [`RowsError::BadValue`] for numbers over 2^63.
pub fn committed_to_parquet(
    rows: &[CommittedRow],
    meta: &ParquetMeta,
) -> Result<Vec<u8>, RowsError> {
    to_parquet(schema(), rows, meta, batch)
}

/// All rows of such a table, in order, and what the file says of its origin.
///
/// # Errors
/// [`RowsError`] if `file` is not such a table.
pub fn read_committed(file: Bytes) -> Result<(Vec<CommittedRow>, ParquetMeta), RowsError> {
    guarded(|| Ok((committed(file.clone())?, meta(file)?)))
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("shard", DataType::Int64, false),
        Field::new("masks_path", DataType::Utf8, false),
        Field::new("masks_rows", DataType::Int64, false),
        Field::new("masks_bytes", DataType::Int64, false),
        Field::new("masks_sha256", DataType::Utf8, false),
        Field::new("images_path", DataType::Utf8, false),
        Field::new("images_rows", DataType::Int64, false),
        Field::new("images_bytes", DataType::Int64, false),
        Field::new("images_sha256", DataType::Utf8, false),
        Field::new("images_ok", DataType::Int64, false),
        Field::new("images_rejected", DataType::Int64, false),
        Field::new("retry_of", DataType::Int64, true),
    ]))
}

fn batch(rows: &[CommittedRow], first_row: usize) -> Result<RecordBatch, RowsError> {
    let wide = |column, get: fn(&CommittedRow) -> u64| wide_integers(rows, first_row, column, get);
    let columns = vec![
        integers(rows, |row| row.shard),
        strings(rows, |row| row.masks_path.as_str()),
        wide("masks_rows", |row| row.masks_rows)?,
        wide("masks_bytes", |row| row.masks_bytes)?,
        strings(rows, |row| row.masks_sha256.as_str()),
        strings(rows, |row| row.images_path.as_str()),
        wide("images_rows", |row| row.images_rows)?,
        wide("images_bytes", |row| row.images_bytes)?,
        strings(rows, |row| row.images_sha256.as_str()),
        wide("images_ok", |row| row.images_ok)?,
        wide("images_rejected", |row| row.images_rejected)?,
        optional_integers(rows, |row| row.retry_of),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

fn committed(file: Bytes) -> Result<Vec<CommittedRow>, RowsError> {
    let mut rows = Vec::new();
    for batch in open(file, "committed", &schema())? {
        let table = Table::new(batch?, rows.len());
        for row in 0..table.rows() {
            rows.push(CommittedRow {
                shard: table.number("shard", row)?,
                masks_path: table.string("masks_path", row)?.to_owned(),
                masks_rows: table.number("masks_rows", row)?,
                masks_bytes: table.number("masks_bytes", row)?,
                masks_sha256: table.string("masks_sha256", row)?.to_owned(),
                images_path: table.string("images_path", row)?.to_owned(),
                images_rows: table.number("images_rows", row)?,
                images_bytes: table.number("images_bytes", row)?,
                images_sha256: table.string("images_sha256", row)?.to_owned(),
                images_ok: table.number("images_ok", row)?,
                images_rejected: table.number("images_rejected", row)?,
                retry_of: table.optional_number("retry_of", row)?,
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shard: u32, retry_of: Option<u32>) -> CommittedRow {
        CommittedRow {
            shard,
            masks_path: format!("masks/part-{shard:06}.parquet"),
            masks_rows: 31,
            masks_bytes: 4_321,
            masks_sha256: "0123456789abcdef".repeat(4),
            images_path: format!("images/part-{shard:06}.parquet"),
            images_rows: 5,
            images_bytes: 876,
            images_sha256: "fedcba9876543210".repeat(4),
            images_ok: 3,
            images_rejected: 2,
            retry_of,
        }
    }

    #[test]
    fn rows_come_back_with_their_origin() {
        let meta = ParquetMeta {
            fingerprint: "f00d".to_owned(),
            ..ParquetMeta::default()
        };
        for rows in [vec![], vec![row(0, None), row(12, Some(0))]] {
            let file = committed_to_parquet(&rows, &meta).unwrap();
            assert_eq!(file, committed_to_parquet(&rows, &meta).unwrap());
            assert_eq!(read_committed(file.into()).unwrap(), (rows, meta.clone()));
        }
    }

    #[test]
    fn another_table_is_named_as_such() {
        let masks = crate::rows::masks_to_parquet(&[], &ParquetMeta::default()).unwrap();
        let error = read_committed(masks.into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not a maskmill committed table: the column shard is missing"
        );
    }
}
