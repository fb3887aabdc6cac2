//! What the lists of numbers have in common.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, downcast_integer_array};
use arrow_schema::DataType;

/// Whether [`numbers`] reads lists of this type.
pub(super) fn is_number(item: &DataType) -> bool {
    item.is_integer() || item.is_floating() || *item == DataType::Null
}

/// The values of an array.
///
/// # Errors
/// One of them is null.
pub(super) fn numbers(list: &ArrayRef) -> Result<Vec<f64>, String> {
    let list = list.as_ref();
    let numbers: Option<Vec<f64>> = downcast_integer_array!(
        list => list.iter().map(|number| number.map(|number| number as f64)).collect(),
        DataType::Float16 => {
            let list = list.as_primitive::<Float16Type>();
            list.iter().map(|number| number.map(f64::from)).collect()
        }
        DataType::Float32 => {
            let list = list.as_primitive::<Float32Type>();
            list.iter().map(|number| number.map(f64::from)).collect()
        }
        DataType::Float64 => list.as_primitive::<Float64Type>().iter().collect(),
        _ => list.is_empty().then(Vec::new),
    );
    numbers.ok_or_else(|| "a number is null".to_owned())
}

/// The text of one row of a text column, trimmed; `None` for a null, an empty text, or JSON's `null`.
///
/// # Errors
/// It is not UTF-8.
pub(super) fn text_value(column: &ArrayRef, row: usize) -> Result<Option<&str>, String> {
    if column.is_null(row) {
        return Ok(None);
    }
    let text = match column.data_type() {
        DataType::Utf8View => column.as_string_view().value(row),
        DataType::BinaryView => std::str::from_utf8(column.as_binary_view().value(row))
            .map_err(|_| "the text is not UTF-8")?,
        _ => return Ok(None),
    };
    let text = text.trim();
    Ok(Some(text).filter(|text| !text.is_empty() && *text != "null"))
}

/// Enough of a text to recognise it.
pub(super) fn start(text: &str) -> String {
    let mut start: String = text.chars().take(60).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}
