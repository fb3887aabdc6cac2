//! Parquet files of images.

use std::sync::Arc;

use bytes::Bytes;
use maskmill_formats::image_table::{ImageTable, ImageTableColumns, TableItem};

use crate::manifest::check_box;
use crate::panics::guarded;
use crate::split;

/// Rows looked at per row group: a few bytes can say a billion times that there is no image.
const MAX_ROWS: usize = 10_000;

/// Row groups looked at.
const MAX_ROW_GROUPS: usize = 8;

/// Reads a Parquet file of images: rows are numbered on, images are within limits, boxes are finite.
///
/// The options, times 16, are the most bytes of one image.
pub fn image_table(data: &[u8]) {
    guarded(|| check(data));
}

fn check(data: &[u8]) {
    let (options, file) = split(data);
    let most = 16 * u64::from(options);
    let file = Arc::new(Bytes::copy_from_slice(file));
    let table = match ImageTable::open(file, &ImageTableColumns::default()) {
        Ok(table) => table,
        Err(error) => {
            assert!(error.io_error().is_none(), "memory does not fail: {error}");
            return;
        }
    };
    let groups = table.row_groups();
    let mut first_row = 0_u64;
    for (number, group) in groups.iter().enumerate().take(MAX_ROW_GROUPS) {
        for (row, item) in (first_row..).zip(table.read(number, most).take(MAX_ROWS)) {
            match item {
                Ok(item) => check_item(item, row, most),
                Err(error) => {
                    assert!(error.io_error().is_none(), "memory does not fail: {error}");
                    break;
                }
            }
        }
        first_row = first_row.saturating_add(group.rows);
    }
    let beyond = table.read(groups.len(), most).next();
    assert!(matches!(beyond, Some(Err(_))), "a row group too many");
}

fn check_item(item: TableItem, expected_row: u64, most: u64) {
    let (row, key) = match item {
        TableItem::Sample {
            row,
            key,
            bytes,
            boxes,
            ..
        } => {
            assert!(bytes.len() as u64 <= most, "row {row}");
            boxes.into_iter().flatten().for_each(check_box);
            (row, key)
        }
        TableItem::Rejected {
            row,
            key,
            reason,
            detail,
        } => {
            let reasons = ["no_bytes", "entry_too_large", "bad_boxes"];
            assert!(reasons.contains(&reason), "{reason}: {detail}");
            (row, key)
        }
    };
    assert_eq!(row, expected_row);
    assert!(!key.is_empty(), "row {row}");
}
