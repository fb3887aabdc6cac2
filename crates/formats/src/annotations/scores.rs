//! Scores of boxes: a list of numbers, the same as JSON, or one number where there is one box.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::numbers::{is_number, numbers, start, text_value};

/// Whether [`scores_at`] reads columns of this type.
pub(super) fn are_scores(column: &DataType) -> bool {
    match column {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::List(item) => is_number(item.data_type()),
        number => is_number(number),
    }
}

/// The scores of one row; `None` for a null or an empty text.
///
/// # Errors
/// What is wrong with them, in words.
pub(super) fn scores_at(column: &ArrayRef, row: usize) -> Result<Option<Vec<f32>>, String> {
    let scores = match column.data_type() {
        DataType::Utf8View | DataType::BinaryView => match text_value(column, row)? {
            Some(text) => in_text(text)?,
            None => return Ok(None),
        },
        // Which has no list of what is null in it.
        DataType::Null => return Ok(None),
        _ if column.is_null(row) => return Ok(None),
        DataType::List(_) => numbers(&column.as_list::<i32>().value(row))?,
        _ => numbers(&column.slice(row, 1))?,
    };
    let scores = scores.into_iter().map(|score| {
        let narrow = score as f32;
        match narrow.is_finite() {
            true => Ok(narrow),
            false => Err(format!("the score {score} is not finite")),
        }
    });
    scores.collect::<Result<_, _>>().map(Some)
}

fn in_text(text: &str) -> Result<Vec<f64>, String> {
    if let Ok(one) = serde_json::from_str(text) {
        return Ok(vec![one]);
    }
    serde_json::from_str(text)
        .map_err(|error| format!("{:?} is not [score, ..]: {error}", start(text)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::Float32Type;
    use arrow_array::{Float64Array, ListArray, NullArray, StringViewArray};

    use super::*;

    fn text(text: &str) -> Result<Option<Vec<f32>>, String> {
        let column: ArrayRef = Arc::new(StringViewArray::from(vec![text]));
        scores_at(&column, 0)
    }

    #[test]
    fn a_text_is_a_json_list_or_one_number() {
        assert_eq!(text(" [0.5, 1, 1e-3] "), Ok(Some(vec![0.5, 1.0, 1e-3])));
        assert_eq!(text("0.25"), Ok(Some(vec![0.25])));
        assert_eq!(text("[]"), Ok(Some(vec![])));
        assert_eq!(text(""), Ok(None));
        assert_eq!(text("null"), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said() {
        for (given, expected) in [
            ("high", "\"high\" is not [score, ..]"),
            ("[0.5, null]", "is not [score, ..]"),
            ("[[0.5]]", "is not [score, ..]"),
            ("[NaN]", "is not [score, ..]"),
            ("[1e39]", "is not finite"),
        ] {
            let error = text(given).unwrap_err();
            assert!(error.contains(expected), "{given}: {error}");
        }
    }

    #[test]
    fn lists_and_single_numbers_of_any_type() {
        let lists = ListArray::from_iter_primitive::<Float32Type, _, _>([
            Some(vec![Some(0.5), Some(0.75)]),
            None,
            Some(vec![None]),
            Some(vec![Some(f32::NAN)]),
        ]);
        let column: ArrayRef = Arc::new(lists);
        assert!(are_scores(column.data_type()));
        assert_eq!(scores_at(&column, 0), Ok(Some(vec![0.5, 0.75])));
        assert_eq!(scores_at(&column, 1), Ok(None));
        assert_eq!(scores_at(&column, 2), Err("a number is null".to_owned()));
        assert!(scores_at(&column, 3).unwrap_err().contains("not finite"));

        let single: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(0.5)]));
        assert!(are_scores(single.data_type()));
        assert_eq!(scores_at(&single, 0), Ok(None));
        assert_eq!(scores_at(&single, 1), Ok(Some(vec![0.5])));
        let nulls: ArrayRef = Arc::new(NullArray::new(1));
        assert!(are_scores(nulls.data_type()));
        assert_eq!(scores_at(&nulls, 0), Ok(None));
        assert!(!are_scores(&DataType::new_list(DataType::Utf8, true)));
    }
}
