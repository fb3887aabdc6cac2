//! Boxes as foreign tables hold them: lists of lists, flat lists, or either as JSON text.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::numbers::{is_number, numbers, start, text_value};

/// Whether [`boxes_at`] reads columns of this type.
pub(super) fn are_boxes(column: &DataType) -> bool {
    match column {
        DataType::Utf8View | DataType::BinaryView | DataType::Null => true,
        DataType::List(item) => match item.data_type() {
            DataType::List(number) => is_number(number.data_type()),
            number => is_number(number),
        },
        _ => false,
    }
}

/// The boxes `[x0, y0, x1, y1]` of one row; `None` for a null or an empty text.
///
/// # Errors
/// What is wrong with them, in words.
pub(super) fn boxes_at(column: &ArrayRef, row: usize) -> Result<Option<Vec<[f64; 4]>>, String> {
    let DataType::List(_) = column.data_type() else {
        return text_value(column, row)?.map(boxes_in_text).transpose();
    };
    if column.is_null(row) {
        return Ok(None);
    }
    let list = column.as_list::<i32>().value(row);
    let boxes = match list.as_list_opt::<i32>() {
        Some(boxes) => each_box(boxes.iter())?,
        None => fours(&numbers(&list)?)?,
    };
    checked(boxes).map(Some)
}

fn boxes_in_text(text: &str) -> Result<Vec<[f64; 4]>, String> {
    let boxes = match serde_json::from_str::<Vec<f64>>(text) {
        Ok(flat) => fours(&flat)?,
        Err(_) => serde_json::from_str::<Vec<[f64; 4]>>(text)
            .map_err(|error| format!("{:?} is not [[x0, y0, x1, y1], ..]: {error}", start(text)))?,
    };
    checked(boxes)
}

fn each_box(boxes: impl Iterator<Item = Option<ArrayRef>>) -> Result<Vec<[f64; 4]>, String> {
    let corners = |corners: Option<ArrayRef>| {
        let corners = numbers(&corners.ok_or("a box is null")?)?;
        <[f64; 4]>::try_from(corners.as_slice())
            .map_err(|_| format!("a box of {} numbers instead of 4", corners.len()))
    };
    boxes.map(corners).collect()
}

fn fours(flat: &[f64]) -> Result<Vec<[f64; 4]>, String> {
    match flat.as_chunks() {
        (boxes, []) => Ok(boxes.to_vec()),
        _ => Err(format!(
            "{} numbers, which are not 4 for each box",
            flat.len()
        )),
    }
}

/// Boxes given as `[x, y, width, height]` by mistake often end before they begin.
fn checked(boxes: Vec<[f64; 4]>) -> Result<Vec<[f64; 4]>, String> {
    for corners in &boxes {
        let [x0, y0, x1, y1] = corners;
        if !corners.iter().all(|corner| corner.is_finite()) {
            return Err(format!("the box {corners:?} is not finite"));
        }
        if x1 < x0 || y1 < y0 {
            return Err(format!(
                "the box {corners:?} ends before it begins; boxes are [x0, y0, x1, y1]"
            ));
        }
    }
    Ok(boxes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::{Int16Type, UInt8Type};
    use arrow_array::{ListArray, StringViewArray};

    use super::*;

    fn text(text: &str) -> Result<Option<Vec<[f64; 4]>>, String> {
        boxes_at(
            &(Arc::new(StringViewArray::from(vec![text])) as ArrayRef),
            0,
        )
    }

    #[test]
    fn json_text_holds_lists_or_a_flat_list() {
        let two = Some(vec![[1.0, 2.0, 3.5, 4.0], [0.0, 0.0, 8.0, 6.0]]);
        assert_eq!(text("[[1, 2, 3.5, 4], [0, 0, 8, 6]]"), Ok(two.clone()));
        assert_eq!(text(" [1,2,3.5,4,0,0,8,6]\n"), Ok(two));
        assert_eq!(text("[]"), Ok(Some(vec![])));
        assert_eq!(text(""), Ok(None));
        assert_eq!(text("null"), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said() {
        for (boxes, expected) in [
            ("[1, 2, 3]", "3 numbers, which are not 4 for each box"),
            ("[[1, 2, 3]]", "is not [[x0, y0, x1, y1], ..]"),
            ("[[1, 2, 3, 4, 5]]", "is not [[x0, y0, x1, y1], ..]"),
            ("[[1, 2, 3, NaN]]", "is not [[x0, y0, x1, y1], ..]"),
            ("[[1, 2, 3, 1e999]]", "is not [[x0, y0, x1, y1], ..]"),
            ("[[1, 2, 3, null]]", "is not [[x0, y0, x1, y1], ..]"),
            ("a cat", "\"a cat\" is not"),
            ("{}", "is not [[x0, y0, x1, y1], ..]"),
            ("[[100, 100, 50, 60]]", "ends before it begins"),
            ("[[1, 4, 2, 3]]", "ends before it begins"),
        ] {
            let error = text(boxes).unwrap_err();
            assert!(error.contains(expected), "{boxes}: {error}");
        }
    }

    #[test]
    fn flat_lists_of_any_number_type() {
        let lists = ListArray::from_iter_primitive::<Int16Type, _, _>([
            Some(vec![Some(-1), Some(2), Some(3), Some(4)]),
            None,
            Some(vec![Some(1), Some(2), None, Some(4)]),
            Some(vec![Some(1); 5]),
            Some(vec![]),
        ]);
        let column: ArrayRef = Arc::new(lists);
        assert!(are_boxes(column.data_type()));
        assert_eq!(boxes_at(&column, 0), Ok(Some(vec![[-1.0, 2.0, 3.0, 4.0]])));
        assert_eq!(boxes_at(&column, 1), Ok(None));
        assert_eq!(boxes_at(&column, 2), Err("a number is null".to_owned()));
        assert!(boxes_at(&column, 3).unwrap_err().starts_with("5 numbers"));
        assert_eq!(boxes_at(&column, 4), Ok(Some(vec![])));
    }

    #[test]
    fn lists_of_lists_that_are_no_boxes() {
        use arrow_array::builder::{Float32Builder, ListBuilder};
        let mut lists = ListBuilder::new(ListBuilder::new(Float32Builder::new()));
        for corners in [
            &[0.5, 1.0, 2.0, 3.0][..],
            &[1.0, 2.0, 3.0],
            &[0.0, 0.0, f32::NAN, 1.0],
            &[0.0, 0.0, f32::INFINITY, 1.0],
        ] {
            lists.values().values().append_slice(corners);
            lists.values().append(true);
            lists.append(true);
        }
        lists.values().append(false);
        lists.append(true);
        let column: ArrayRef = Arc::new(lists.finish());
        assert!(are_boxes(column.data_type()));
        let errors: Vec<_> = (0..5).map(|row| boxes_at(&column, row).err()).collect();
        let errors: Vec<_> = errors.iter().map(|error| error.as_deref()).collect();
        assert_eq!(
            errors,
            [
                None,
                Some("a box of 3 numbers instead of 4"),
                Some("the box [0.0, 0.0, NaN, 1.0] is not finite"),
                Some("the box [0.0, 0.0, inf, 1.0] is not finite"),
                Some("a box is null"),
            ]
        );
    }

    #[test]
    fn other_types_are_no_boxes() {
        let numbers = ListArray::from_iter_primitive::<UInt8Type, _, _>([Some(vec![Some(1)])]);
        assert!(are_boxes(numbers.data_type()));
        assert!(!are_boxes(&DataType::Int64));
        assert!(!are_boxes(&DataType::new_list(DataType::Utf8, true)));
    }
}
