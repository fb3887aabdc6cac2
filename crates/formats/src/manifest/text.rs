//! What CSV and JSON lines have in common. Polars parses both with every column as text: keys keep their zeros, and what
//! a value is is decided row by row.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, StringViewArray};
use arrow_schema::{DataType, Field, FieldRef};
use polars::prelude::DataFrame;

use super::{Chunk, ManifestError, Places};

/// The text without its byte order mark.
pub(super) fn plain_text<'a>(
    file: &'a [u8],
    format: &'static str,
) -> Result<&'a [u8], ManifestError> {
    let detail = match file {
        [0xEF, 0xBB, 0xBF, text @ ..] => return Ok(text),
        [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] => "it is UTF-16; save it as UTF-8",
        [0x1F, 0x8B, ..] => "it is compressed with gzip; decompress it first",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "it is compressed with zstd; decompress it first",
        [b'P', b'A', b'R', b'1', ..] => "it is a Parquet file",
        _ => return Ok(file),
    };
    Err(ManifestError::Text {
        format,
        detail: detail.to_owned(),
    })
}

pub(super) fn text_field(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Utf8View, true))
}

/// Rows of a chunk, which is freed as a whole.
const ROWS_PER_CHUNK: usize = 65_536;

/// The rows of a frame that holds the columns at the places `all`, in their order.
pub(super) fn chunks(frame: DataFrame, places: &Places, all: &[usize]) -> Vec<Chunk> {
    let count = frame.height().div_ceil(ROWS_PER_CHUNK);
    let mut columns: HashMap<usize, Vec<ArrayRef>> = HashMap::new();
    // Each of Polars' columns is freed before the next is copied.
    for (&place, column) in all.iter().zip(frame.into_columns()) {
        let texts = column.str().expect("every column is read as text");
        let mut texts = texts.iter();
        let chunks = (0..count).map(|_| {
            let chunk: StringViewArray = texts.by_ref().take(ROWS_PER_CHUNK).collect();
            Arc::new(chunk) as ArrayRef
        });
        columns.insert(place, chunks.collect());
    }
    (0..count)
        .map(|chunk| Chunk::new(places, |place| columns[&place][chunk].clone()))
        .collect()
}
