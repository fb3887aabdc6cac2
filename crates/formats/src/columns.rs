//! The columns of tables that other programs wrote: found by name, read whatever their exact type.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, StringViewArray, downcast_integer_array};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

/// Names under which a key is looked for.
pub(crate) const KEY_NAMES: &[&str] = &["key", "id", "image_key", "image_id", "__key__"];

/// Names under which a caption is looked for.
pub(crate) const CAPTION_NAMES: &[&str] = &["caption", "text"];

/// Why a column cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// A column that was asked for by name is not there.
    #[error("there is no column {name:?}; the columns are {columns}")]
    Missing {
        /// The name asked for.
        name: String,
        /// The columns there are.
        columns: String,
    },
    /// Two columns have the name of one that is needed.
    #[error("two columns are called {name:?}; rename one of them")]
    Ambiguous {
        /// The name.
        name: String,
    },
    /// A column that was asked for by name is of a type that cannot be read.
    #[error("the column {name:?} is {found}, it should be {expected}")]
    WrongType {
        /// The column.
        name: String,
        /// Its type.
        found: String,
        /// What can be read.
        expected: &'static str,
    },
    /// No column was asked for, and none of the known names is there.
    #[error("no column is known to hold {what}; name the one that does, the columns are {columns}")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The columns there are.
        columns: String,
    },
}

/// A column that is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The name asked for.
    pub(crate) named: Option<&'a str>,
    /// Names to look for if none was asked for, the likeliest first. Case does not matter: `URL` is as common as `url`.
    pub(crate) known: &'a [&'a str],
    /// Whether its type can be read.
    pub(crate) usable: fn(&DataType) -> bool,
    /// The types that can be read, in words.
    pub(crate) expected: &'static str,
}

impl Wanted<'_> {
    /// The column's place; `None` if no name was asked for and no column of a known name can be used.
    pub(crate) fn find(&self, fields: &[FieldRef]) -> Result<Option<usize>, ColumnError> {
        let Some(name) = self.named else {
            for known in self.known {
                if let Some(place) = self.known_place(fields, known) {
                    return unambiguous(fields, place).map(Some);
                }
            }
            return Ok(None);
        };
        let Some(place) = fields.iter().position(|field| field.name() == name) else {
            return Err(ColumnError::Missing {
                name: name.to_owned(),
                columns: list(fields),
            });
        };
        let found = fields[place].data_type();
        if !(self.usable)(found) {
            return Err(ColumnError::WrongType {
                name: name.to_owned(),
                found: found.to_string(),
                expected: self.expected,
            });
        }
        unambiguous(fields, place).map(Some)
    }

    fn known_place(&self, fields: &[FieldRef], known: &str) -> Option<usize> {
        let usable = |field: &FieldRef| (self.usable)(field.data_type());
        let exact = |field: &FieldRef| field.name() == known && usable(field);
        let similar = |field: &FieldRef| field.name().eq_ignore_ascii_case(known) && usable(field);
        let place = fields.iter().position(exact);
        place.or_else(|| fields.iter().position(similar))
    }
}

fn unambiguous(fields: &[FieldRef], place: usize) -> Result<usize, ColumnError> {
    let name = fields[place].name();
    match fields.iter().filter(|field| field.name() == name).count() {
        1 => Ok(place),
        _ => Err(ColumnError::Ambiguous { name: name.clone() }),
    }
}

/// The names of the columns, for an error.
pub(crate) fn list(fields: &[FieldRef]) -> String {
    const MOST: usize = 20;
    let names: Vec<_> = fields
        .iter()
        .take(MOST)
        .map(|field| format!("{:?}", field.name()))
        .collect();
    match fields.len() {
        0 => "none".to_owned(),
        count if count <= MOST => names.join(", "),
        count => format!("{} and {} more", names.join(", "), count - MOST),
    }
}

/// `schema` with texts and byte strings as views into the pages that hold them, at the top and inside structs: a
/// batch copies no image, and no batch is too large for 32-bit offsets.
pub(crate) fn with_views(schema: &Schema) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(view_of).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn view_of(field: &FieldRef) -> FieldRef {
    let viewed = match field.data_type() {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(view_of).collect()),
        _ => return field.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(viewed))
}

/// Whether [`texts`] reads columns of this type.
pub(crate) fn is_text(column: &DataType) -> bool {
    match column {
        DataType::Utf8View | DataType::BinaryView | DataType::Null => true,
        DataType::Float32 | DataType::Float64 => true,
        other => other.is_integer(),
    }
}

/// A column as texts: numbers in decimal digits, and null what is not UTF-8.
pub(crate) fn texts(column: &ArrayRef) -> StringViewArray {
    let array = column.as_ref();
    downcast_integer_array!(
        array => array.iter().map(|number| number.map(|number| number.to_string())).collect(),
        DataType::Utf8View => array.as_string_view().clone(),
        DataType::BinaryView => {
            let bytes = array.as_binary_view().iter();
            bytes.map(|bytes| bytes.and_then(|bytes| std::str::from_utf8(bytes).ok())).collect()
        }
        DataType::Float32 => {
            let numbers = array.as_primitive::<Float32Type>().iter();
            numbers.map(|number| number.map(|number| number.to_string())).collect()
        }
        DataType::Float64 => {
            let numbers = array.as_primitive::<Float64Type>().iter();
            numbers.map(|number| number.map(|number| number.to_string())).collect()
        }
        _ => std::iter::repeat_n(None::<&str>, array.len()).collect(),
    )
}

/// The text of one row; `None` if it is null or empty.
pub(crate) fn text_at(texts: Option<&StringViewArray>, row: usize) -> Option<&str> {
    let texts = texts.filter(|texts| texts.is_valid(row))?;
    Some(texts.value(row)).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use arrow_array::{BinaryViewArray, Float64Array, UInt8Array};

    use super::*;

    fn fields(columns: &[(&str, DataType)]) -> Vec<FieldRef> {
        let field = |(name, data_type): &(&str, DataType)| {
            Arc::new(Field::new(*name, data_type.clone(), true))
        };
        columns.iter().map(field).collect()
    }

    fn key(named: Option<&'static str>) -> Wanted<'static> {
        Wanted {
            named,
            known: KEY_NAMES,
            usable: is_text,
            expected: "text",
        }
    }

    #[test]
    fn the_likeliest_usable_name_is_taken_in_any_case() {
        let columns = fields(&[
            ("ID", DataType::Int64),
            ("Key", DataType::new_list(DataType::Utf8, true)),
            ("image_key", DataType::Utf8View),
            ("id", DataType::Utf8View),
        ]);
        assert_eq!(key(None).find(&columns), Ok(Some(3)));
        assert_eq!(key(None).find(&columns[..3]), Ok(Some(0)));
        assert_eq!(key(None).find(&columns[1..2]), Ok(None));
        assert_eq!(key(Some("image_key")).find(&columns), Ok(Some(2)));
    }

    #[test]
    fn a_named_column_must_be_there_once_and_readable() {
        let columns = fields(&[
            ("a", DataType::Utf8View),
            ("b", DataType::Date32),
            ("id", DataType::Int8),
            ("id", DataType::Int8),
        ]);
        let error = |named| key(Some(named)).find(&columns).unwrap_err().to_string();
        assert_eq!(
            error("A"),
            r#"there is no column "A"; the columns are "a", "b", "id", "id""#
        );
        assert_eq!(error("b"), r#"the column "b" is Date32, it should be text"#);
        assert_eq!(
            error("id"),
            r#"two columns are called "id"; rename one of them"#
        );
        assert!(key(None).find(&columns).is_err());
    }

    #[test]
    fn long_lists_of_columns_are_cut() {
        let names: Vec<String> = (0..10_000).map(|n| format!("c{n}")).collect();
        let columns: Vec<_> = names.iter().map(|n| (n.as_str(), DataType::Int8)).collect();
        let list = list(&fields(&columns));
        assert!(list.ends_with("\"c19\" and 9980 more"), "{list}");
    }

    #[test]
    fn numbers_and_bytes_become_text() {
        let texts = |column: ArrayRef| {
            assert!(is_text(column.data_type()));
            let texts = texts(&column);
            let row = |row| text_at(Some(&texts), row).map(str::to_owned);
            (0..texts.len()).map(row).collect::<Vec<_>>()
        };
        let numbers = UInt8Array::from(vec![Some(7), None]);
        assert_eq!(texts(Arc::new(numbers)), [Some("7".to_owned()), None]);
        let numbers = Float64Array::from(vec![7.0, 0.5]);
        let expected = [Some("7".to_owned()), Some("0.5".to_owned())];
        assert_eq!(texts(Arc::new(numbers)), expected);
        let bytes = BinaryViewArray::from(vec![&b"\xC3\xBC"[..], b"\xC3", b""]);
        assert_eq!(texts(Arc::new(bytes)), [Some("ü".to_owned()), None, None]);
        let nulls = arrow_array::NullArray::new(2);
        assert_eq!(texts(Arc::new(nulls)), [None, None]);
    }
}
