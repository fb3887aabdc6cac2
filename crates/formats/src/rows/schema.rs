//! The columns of the two tables.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};

use super::RowsError;

/// The columns of the masks table.
pub fn mask_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("image_key", DataType::Utf8, false),
        Field::new("mask_id", DataType::Int64, false),
        Field::new("rle", DataType::Struct(rle_fields()), false),
        Field::new("bbox", list_of(DataType::Int64), false),
        Field::new("area", DataType::Int64, false),
        Field::new("predicted_iou", DataType::Float32, false),
        Field::new("stability_score", DataType::Float32, false),
        Field::new("crop_box", list_of(DataType::Int64), false),
        Field::new("point_coords", list_of(list_of(DataType::Float64)), false),
        Field::new("label", DataType::Utf8, true),
        Field::new("label_score", DataType::Float32, true),
        Field::new("prompt_box", list_of(DataType::Float32), true),
    ]))
}

/// The columns of the images table.
pub fn image_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("image_key", DataType::Utf8, false),
        Field::new("shard", DataType::Int64, false),
        Field::new("width", DataType::Int64, false),
        Field::new("height", DataType::Int64, false),
        Field::new("sha256", DataType::Utf8, false),
        Field::new("bytes", DataType::Int64, false),
        Field::new("format", DataType::Utf8, true),
        Field::new("exif_orientation", DataType::Int64, false),
        Field::new("masks", DataType::Int64, false),
        Field::new("status", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, true),
        Field::new("detail", DataType::Utf8, true),
        Field::new("milliseconds", DataType::Float32, false),
        Field::new("caption", DataType::Utf8, true),
        Field::new("boxes", list_of(list_of(DataType::Float64)), true),
    ]))
}

/// The fields of the `rle` struct; declared nullable for the reason [`list_of`] gives.
pub(super) fn rle_fields() -> Fields {
    Fields::from(vec![
        Field::new("size", list_of(DataType::Int64), true),
        Field::new("counts", DataType::Utf8, true),
    ])
}

/// Items are declared nullable, which they never are: Polars and DuckDB declare everything so, and a table they rewrote
/// is to remain readable.
pub(crate) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// Whether `found` has the columns of `expected` with their types. Nullable ones may be missing, as they are in tables
/// written before they were added; more columns are allowed.
pub(super) fn check(
    table: &'static str,
    expected: &Schema,
    found: &Schema,
) -> Result<(), RowsError> {
    for field in expected.fields() {
        let detail = match found.field_with_name(field.name()) {
            Err(_) if field.is_nullable() => continue,
            Err(_) => format!("the column {} is missing", field.name()),
            Ok(column) if !column.data_type().equals_datatype(field.data_type()) => format!(
                "the column {} is {}, it should be {}",
                field.name(),
                column.data_type(),
                field.data_type()
            ),
            Ok(_) => continue,
        };
        return Err(RowsError::WrongSchema { table, detail });
    }
    Ok(())
}
