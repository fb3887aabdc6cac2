//! Labels: a list of texts, the same as JSON, or one text that is the label.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::numbers::{start, text_value};

/// Whether [`labels_at`] reads columns of this type.
pub(super) fn are_labels(column: &DataType) -> bool {
    match column {
        DataType::Utf8View | DataType::BinaryView | DataType::Null => true,
        // Inside lists texts stay as they are in the file.
        DataType::List(item) => matches!(
            item.data_type(),
            DataType::Utf8 | DataType::Binary | DataType::Null
        ),
        _ => false,
    }
}

/// The labels of one row without spaces around them; `None` for a null or an empty text.
///
/// # Errors
/// What is wrong with them, in words.
pub(super) fn labels_at(column: &ArrayRef, row: usize) -> Result<Option<Vec<String>>, String> {
    let labels = if let DataType::List(_) = column.data_type() {
        if column.is_null(row) {
            return Ok(None);
        }
        in_list(&column.as_list::<i32>().value(row))?
    } else {
        match text_value(column, row)? {
            Some(text) => in_text(text)?,
            None => return Ok(None),
        }
    };
    let labels = labels.iter().enumerate().map(|(at, label)| {
        let label = label.trim();
        match label.is_empty() {
            true => Err(format!("label {at}, counted from 0, is empty")),
            false => Ok(label.to_owned()),
        }
    });
    labels.collect::<Result<_, _>>().map(Some)
}

fn in_list(list: &ArrayRef) -> Result<Vec<String>, String> {
    let label = |at| match list.data_type() {
        _ if list.is_null(at) => Err(format!("label {at}, counted from 0, is null")),
        DataType::Utf8 => Ok(list.as_string::<i32>().value(at).to_owned()),
        _ => {
            let text = std::str::from_utf8(list.as_binary::<i32>().value(at));
            let text = text.map_err(|_| format!("label {at}, counted from 0, is not UTF-8"));
            text.map(str::to_owned)
        }
    };
    (0..list.len()).map(label).collect()
}

/// What looks like JSON has to be a list of texts. Anything else is a label.
fn in_text(text: &str) -> Result<Vec<String>, String> {
    if !text.starts_with(['[', '{']) {
        return Ok(vec![text.to_owned()]);
    }
    serde_json::from_str(text).map_err(|error| {
        let start = start(text);
        format!("{start:?} is not a label nor [\"label\", ..]: {error}")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};
    use arrow_array::{NullArray, StringViewArray};

    use super::*;

    fn text(text: &str) -> Result<Option<Vec<String>>, String> {
        let column: ArrayRef = Arc::new(StringViewArray::from(vec![text]));
        labels_at(&column, 0)
    }

    fn labels(labels: &[&str]) -> Option<Vec<String>> {
        Some(labels.iter().map(|label| label.to_string()).collect())
    }

    #[test]
    fn a_text_is_a_json_list_or_one_label() {
        assert_eq!(
            text(" [\"a red car\", \" \\u00fc \"]\n"),
            Ok(labels(&["a red car", "ü"]))
        );
        assert_eq!(
            text(" a red car, parked "),
            Ok(labels(&["a red car, parked"]))
        );
        assert_eq!(text("[]"), Ok(labels(&[])));
        assert_eq!(text("   "), Ok(None));
        assert_eq!(text("null"), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said() {
        for (given, expected) in [
            ("[\"a\", \"\"]", "label 1, counted from 0, is empty"),
            ("[\"a\", \" \\t\"]", "label 1, counted from 0, is empty"),
            ("[1, 2]", "is not a label nor [\"label\", ..]"),
            ("['a', 'b']", "is not a label nor [\"label\", ..]"),
            ("[\"a\"", "is not a label nor [\"label\", ..]"),
            ("{\"a\": 1}", "is not a label nor [\"label\", ..]"),
        ] {
            let error = text(given).unwrap_err();
            assert!(error.contains(expected), "{given}: {error}");
        }
    }

    #[test]
    fn lists_of_texts() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a cat"), Some(" dog ")]);
        lists.append_null();
        lists.append_value([Some("a"), None]);
        lists.append_value([Some("a"), Some("")]);
        lists.append_value(Vec::<Option<&str>>::new());
        let column: ArrayRef = Arc::new(lists.finish());
        assert!(are_labels(column.data_type()));
        assert_eq!(labels_at(&column, 0), Ok(labels(&["a cat", "dog"])));
        assert_eq!(labels_at(&column, 1), Ok(None));
        assert!(labels_at(&column, 2).unwrap_err().contains("1, counted"));
        assert!(labels_at(&column, 3).unwrap_err().ends_with("is empty"));
        assert_eq!(labels_at(&column, 4), Ok(labels(&[])));

        let mut lists = ListBuilder::new(BinaryBuilder::new());
        lists.append_value([Some(b"\xC3\xBC")]);
        lists.append_value([Some(b"\xC3\xC3")]);
        let column: ArrayRef = Arc::new(lists.finish());
        assert!(are_labels(column.data_type()));
        assert_eq!(labels_at(&column, 0), Ok(labels(&["ü"])));
        assert!(labels_at(&column, 1).unwrap_err().ends_with("not UTF-8"));
    }

    #[test]
    fn other_types_are_no_labels() {
        assert!(!are_labels(&DataType::Int64));
        assert!(!are_labels(&DataType::new_list(DataType::Int64, true)));
        let nulls: ArrayRef = Arc::new(NullArray::new(1));
        assert!(are_labels(nulls.data_type()));
        assert_eq!(labels_at(&nulls, 0), Ok(None));
    }
}
