//! JSON lines manifests.
//!
//! Each line is looked at before Polars parses it: for the columns there are, and because Polars does not say which line
//! is at fault, and overflows its stack on lines nested a hundred thousand deep.

use std::collections::{BTreeSet, HashMap};
use std::io::Cursor;
use std::sync::Arc;

use arrow_schema::FieldRef;
use polars::prelude::{DataType, JsonFormat, JsonReader, PolarsError, Schema, SerReader};
use serde_json::Value;

use super::text::{chunks, plain_text, text_field};
use super::{Chunk, ManifestColumns, ManifestError, Places};

const JSON_LINES: &str = "JSON lines";

pub(super) fn read(file: &[u8], columns: &ManifestColumns) -> Result<Vec<Chunk>, ManifestError> {
    let file = plain_text(file, JSON_LINES)?;
    let Some(fields) = fields(file)? else {
        return Ok(vec![]);
    };
    let places = Places::find(&fields, columns)?;
    let all = places.all();
    let schema: Schema = all
        .iter()
        .map(|&place| (fields[place].name().as_str().into(), DataType::String))
        .collect();
    let frame = JsonReader::new(Cursor::new(file))
        .with_json_format(JsonFormat::JsonLines)
        .set_rechunk(false)
        .with_schema(Arc::new(schema))
        .finish()
        .map_err(|error: PolarsError| unreadable(error.to_string()))?;
    Ok(chunks(frame, &places, &all))
}

/// The columns that any line has, in alphabetical order; `None` if there are no lines.
fn fields(file: &[u8]) -> Result<Option<Vec<FieldRef>>, ManifestError> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut is_empty = true;
    for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        is_empty = false;
        let object: HashMap<String, Value> =
            serde_json::from_slice(line).map_err(|error| no_object(index + 1, &error))?;
        for name in object.into_keys() {
            if !names.contains(&name) {
                names.insert(name);
            }
        }
    }
    let fields = names.iter().map(|name| text_field(name)).collect();
    Ok((!is_empty).then_some(fields))
}

fn no_object(line: usize, error: &serde_json::Error) -> ManifestError {
    let message = error.to_string();
    // The parser counts lines too, and sees only this one.
    let what = message.split(" at line ").next().unwrap_or_default();
    unreadable(format!(
        "line {line}, column {}: {what}; each line is to be a JSON object",
        error.column()
    ))
}

fn unreadable(detail: String) -> ManifestError {
    ManifestError::Text {
        format: JSON_LINES,
        detail,
    }
}
