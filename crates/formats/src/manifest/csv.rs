//! CSV manifests.
//!
//! A file is held to RFC 4180 before Polars parses it. Polars leaves out what is wrong in columns that are not read: an
//! inch sign in a caption takes the next rows with it, a comma shifts the columns behind it, and neither is an error.

use std::io::Cursor;
use std::sync::Arc;

use arrow_schema::FieldRef;
use polars::prelude::{CsvReadOptions, PolarsError, SerReader};

use super::text::{chunks, plain_text, text_field};
use super::{Chunk, ManifestColumns, ManifestError, Places};

const CSV: &str = "CSV";

pub(super) fn read(file: &[u8], columns: &ManifestColumns) -> Result<Vec<Chunk>, ManifestError> {
    let file = plain_text(file, CSV)?;
    let file = match file.iter().rposition(|byte| !b"\r\n".contains(byte)) {
        Some(last) => &file[..=last],
        None => return Err(unreadable("it is empty; a header is needed".to_owned())),
    };
    if let Err(error) = std::str::from_utf8(file) {
        let line = 1 + newlines(&file[..error.valid_up_to()]);
        return Err(unreadable(format!(
            "line {line} is not UTF-8; save the file as UTF-8"
        )));
    }
    let header = header(file);
    let separator = separator(header);
    check(file, separator)?;
    let fields = fields(header, separator)?;
    let places = Places::find(&fields, columns)?;
    let all = places.all();
    let frame = options(separator)
        .with_projection(Some(Arc::new(all.clone())))
        .into_reader_with_file_handle(Cursor::new(file))
        .finish()
        .map_err(|error: PolarsError| unreadable(error.to_string()))?;
    Ok(chunks(frame, &places, &all))
}

/// The first line that ends outside quotes, with its end.
fn header(file: &[u8]) -> &[u8] {
    let mut quoted = false;
    for (at, byte) in file.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => return &file[..=at],
            _ => {}
        }
    }
    file
}

fn separator(header: &[u8]) -> u8 {
    let separators = [b',', b'\t', b';'];
    let found = separators.iter().find(|byte| header.contains(byte));
    found.copied().unwrap_or(b',')
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'\n').count()
}

/// Where in a record a byte is.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Start,
    Plain,
    Quotes,
    /// Behind a quote that ends its field, unless another quote follows.
    Quoted,
}

/// Whether every record has as many fields as the header, or none, and quotes only around fields.
fn check(file: &[u8], separator: u8) -> Result<(), ManifestError> {
    let mut within = Within::Start;
    let mut fields = 1;
    let mut header_fields = None;
    let mut line = 1;
    let mut record_line = 1;
    let mut previous = 0;
    for &byte in file.iter().chain(b"\n") {
        if previous == b'\r' && byte != b'\n' && within != Within::Quotes {
            return Err(unreadable(format!(
                "line {line} has a carriage return inside; end lines with line feeds, and quote texts that hold either"
            )));
        }
        within = match (within, byte) {
            (Within::Start, b'"') | (Within::Quoted, b'"') => Within::Quotes,
            (Within::Quotes, b'"') => Within::Quoted,
            (Within::Quotes, _) => Within::Quotes,
            (_, byte) if byte == separator => {
                fields += 1;
                Within::Start
            }
            (_, b'\n') => {
                let expected = *header_fields.get_or_insert(fields);
                let is_blank = fields == 1 && within == Within::Start;
                if fields != expected && !is_blank {
                    return Err(unreadable(format!(
                        "line {record_line} has {fields} fields and the header {expected}; quote fields that hold the separator"
                    )));
                }
                fields = 1;
                record_line = line + 1;
                Within::Start
            }
            (within, b'\r') => within,
            (Within::Plain, b'"') | (Within::Quoted, _) => {
                return Err(unreadable(format!(
                    "line {line} has a quote inside a field; quote the whole field and double the quotes inside"
                )));
            }
            (_, _) => Within::Plain,
        };
        line += usize::from(byte == b'\n');
        previous = byte;
    }
    if within == Within::Quotes {
        return Err(unreadable(format!(
            "the quotes that open in the record of line {record_line} are never closed"
        )));
    }
    Ok(())
}

fn options(separator: u8) -> CsvReadOptions {
    CsvReadOptions::default()
        // Nothing is inferred: every column is text.
        .with_infer_schema_length(Some(0))
        .map_parse_options(|options| options.with_separator(separator))
}

/// The columns a header names.
fn fields(header: &[u8], separator: u8) -> Result<Vec<FieldRef>, ManifestError> {
    let frame = options(separator)
        .into_reader_with_file_handle(Cursor::new(header))
        .finish()
        .map_err(|error: PolarsError| unreadable(error.to_string()))?;
    let mut names: Vec<&str> = Vec::new();
    for name in frame.get_column_names() {
        // Polars renames the second "x" to "x_duplicated_0"; here it is to remain ambiguous.
        let original = name.rsplit_once("_duplicated_").map(|(name, _)| name);
        names.push(match original {
            Some(original) if names.contains(&original) => original,
            _ => name.as_str(),
        });
    }
    Ok(names.into_iter().map(text_field).collect())
}

fn unreadable(detail: String) -> ManifestError {
    ManifestError::Text {
        format: CSV,
        detail,
    }
}
