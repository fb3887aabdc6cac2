//! JSON lines manifests.
//!
//! Each line is looked at before Polars parses it: for the columns there are, and because Polars does not say which line
//! is at fault, and overflows its stack on lines nested a hundred thousand deep. Labels are taken from there too: Polars
//! makes text of a list without escaping the texts in it.

use std::collections::{BTreeSet, HashMap};
use std::io::Cursor;
use std::sync::Arc;

use arrow_schema::FieldRef;
use polars::prelude::{Column, DataType, JsonFormat, JsonReader, PolarsError, Schema, SerReader};
use serde_json::Value;

use super::text::{chunks, plain_text, text_field};
use super::{Chunk, ManifestColumns, ManifestError, Places};

const JSON_LINES: &str = "JSON lines";

pub(super) fn read(file: &[u8], columns: &ManifestColumns) -> Result<Vec<Chunk>, ManifestError> {
    let file = plain_text(file, JSON_LINES)?;
    let lines = lines(file, columns.labels.as_deref())?;
    let Some(Lines { fields, labels }) = lines else {
        return Ok(vec![]);
    };
    let places = Places::find(&fields, columns)?;
    let all = places.all();
    let schema: Schema = all
        .iter()
        .map(|&place| (fields[place].name().as_str().into(), DataType::String))
        .collect();
    let damaged = |error: PolarsError| unreadable(error.to_string());
    let mut frame = JsonReader::new(Cursor::new(file))
        .with_json_format(JsonFormat::JsonLines)
        .set_rechunk(false)
        .with_schema(Arc::new(schema))
        .finish()
        .map_err(damaged)?;
    if let Some(name) = &columns.labels {
        let labels = Column::new(name.into(), labels);
        frame.replace(name, labels).map_err(damaged)?;
    }
    Ok(chunks(frame, &places, &all))
}

/// What is read of the lines before Polars reads them.
struct Lines {
    /// The columns that any line has, in alphabetical order.
    fields: Vec<FieldRef>,
    /// The values of the column of labels, if one was asked for, as texts: lists as JSON.
    labels: Vec<Option<String>>,
}

/// Reads all lines; `None` if there are none.
fn lines(file: &[u8], labels_name: Option<&str>) -> Result<Option<Lines>, ManifestError> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut labels = Vec::new();
    let mut is_empty = true;
    for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        is_empty = false;
        let mut object: HashMap<String, Value> =
            serde_json::from_slice(line).map_err(|error| no_object(index + 1, &error))?;
        if let Some(value) = labels_name.map(|name| object.get_mut(name)) {
            labels.push(match value.map(Value::take) {
                None | Some(Value::Null) => None,
                Some(Value::String(label)) => Some(label),
                Some(other) => Some(other.to_string()),
            });
        }
        for name in object.into_keys() {
            if !names.contains(&name) {
                names.insert(name);
            }
        }
    }
    let fields = names.iter().map(|name| text_field(name)).collect();
    Ok((!is_empty).then_some(Lines { fields, labels }))
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
