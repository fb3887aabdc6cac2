//! Points on an object or beside it: lists of lists, or the same as JSON.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::numbers::{is_number, numbers, start, text_value};

/// The label of a point that has none: it is on the object.
const ON_THE_OBJECT: f64 = 1.0;

/// Whether [`points_at`] reads columns of this type. A flat list is none: of four numbers it does not say whether they
/// are two points.
pub(super) fn are_points(column: &DataType) -> bool {
    match column {
        DataType::Utf8View | DataType::BinaryView | DataType::Null => true,
        DataType::List(item) => match item.data_type() {
            DataType::List(number) => is_number(number.data_type()),
            DataType::Null => true,
            _ => false,
        },
        _ => false,
    }
}

/// The points `[x, y, label]` of one row, with label 1 where none is given; `None` for a null or an empty text.
///
/// # Errors
/// What is wrong with them, in words.
pub(super) fn points_at(column: &ArrayRef, row: usize) -> Result<Option<Vec<[f64; 3]>>, String> {
    let points = if let DataType::List(_) = column.data_type() {
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
    let points = points.iter().map(|point| checked(point));
    points.collect::<Result<_, _>>().map(Some)
}

fn in_list(list: &ArrayRef) -> Result<Vec<Vec<f64>>, String> {
    let point = |point: Option<ArrayRef>| numbers(&point.ok_or("a point is null")?);
    match list.as_list_opt::<i32>() {
        Some(points) => points.iter().map(point).collect(),
        None if list.is_empty() => Ok(vec![]),
        None => Err("a point is null".to_owned()),
    }
}

fn in_text(text: &str) -> Result<Vec<Vec<f64>>, String> {
    serde_json::from_str(text).map_err(|error| {
        let start = start(text);
        format!("{start:?} is not [[x, y], ..] nor [[x, y, label], ..]: {error}")
    })
}

fn checked(point: &[f64]) -> Result<[f64; 3], String> {
    let [x, y, label] = match *point {
        [x, y] => [x, y, ON_THE_OBJECT],
        [x, y, label] => [x, y, label],
        _ => {
            let count = point.len();
            return Err(format!(
                "a point of {count} numbers; points are [x, y] or [x, y, label]"
            ));
        }
    };
    if !x.is_finite() || !y.is_finite() {
        return Err(format!("the point {point:?} is not finite"));
    }
    if label != 0.0 && label != 1.0 {
        return Err(format!(
            "the point {point:?} has the label {label}; it is 1 on the object or 0 beside it"
        ));
    }
    Ok([x, y, label])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::StringViewArray;
    use arrow_array::builder::{Int32Builder, ListBuilder};

    use super::*;

    fn text(text: &str) -> Result<Option<Vec<[f64; 3]>>, String> {
        let column: ArrayRef = Arc::new(StringViewArray::from(vec![text]));
        points_at(&column, 0)
    }

    #[test]
    fn points_without_a_label_are_on_the_object() {
        assert_eq!(
            text("[[7.5, 2], [0, 5, 0], [1, 1, 1.0]]"),
            Ok(Some(vec![
                [7.5, 2.0, 1.0],
                [0.0, 5.0, 0.0],
                [1.0, 1.0, 1.0]
            ]))
        );
        assert_eq!(text("[]"), Ok(Some(vec![])));
        assert_eq!(text(""), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_points_is_said() {
        for (points, expected) in [
            ("[7, 2]", "is not [[x, y], ..] nor [[x, y, label], ..]"),
            ("[[7]]", "a point of 1 numbers"),
            ("[[7, 2, 1, 0]]", "a point of 4 numbers"),
            ("[[7, 2, 2]]", "has the label 2; it is 1 on the object or 0"),
            ("[[7, 2, -1]]", "has the label -1"),
            ("[[7, null]]", "is not [[x, y], ..]"),
            ("[[NaN, 2]]", "is not [[x, y], ..]"),
            ("here", "\"here\" is not [[x, y], ..]"),
        ] {
            let error = text(points).unwrap_err();
            assert!(error.contains(expected), "{points}: {error}");
        }
        assert!(
            checked(&[f64::NAN, 2.0])
                .unwrap_err()
                .contains("not finite")
        );
        assert!(checked(&[1.0, 2.0, f64::NAN]).unwrap_err().contains("NaN"));
    }

    #[test]
    fn lists_of_lists() {
        let mut lists = ListBuilder::new(ListBuilder::new(Int32Builder::new()));
        lists.values().append_value([Some(7), Some(2)]);
        lists.values().append_value([Some(0), Some(5), Some(0)]);
        lists.append(true);
        lists.append(false);
        lists.values().append(false);
        lists.append(true);
        lists.append(true);
        let column: ArrayRef = Arc::new(lists.finish());
        assert!(are_points(column.data_type()));
        let expected = vec![[7.0, 2.0, 1.0], [0.0, 5.0, 0.0]];
        assert_eq!(points_at(&column, 0), Ok(Some(expected)));
        assert_eq!(points_at(&column, 1), Ok(None));
        assert_eq!(points_at(&column, 2), Err("a point is null".to_owned()));
        assert_eq!(points_at(&column, 3), Ok(Some(vec![])));
    }

    #[test]
    fn flat_lists_are_no_points() {
        assert!(!are_points(&DataType::new_list(DataType::Float32, true)));
        assert!(!are_points(&DataType::Int64));
    }
}
