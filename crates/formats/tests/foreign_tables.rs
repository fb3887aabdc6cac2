//! Tables and manifests that pyarrow, pandas and Polars wrote, read row by row.
//!
//! `generate_tables.py` wrote the files and `expected.json`, which says what is in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_formats::image_table::{ImageTable, ImageTableColumns, TableItem};
use maskmill_formats::manifest::{Manifest, ManifestColumns, ManifestFormat};
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tables")
        .join(name)
}

fn file(name: &str) -> Bytes {
    fs::read(data(name)).unwrap().into()
}

fn expected(name: &str) -> Vec<Value> {
    let expected: Value = serde_json::from_slice(&file("expected.json")).unwrap();
    expected[name].as_array().unwrap().clone()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn item(item: TableItem) -> Value {
    match item {
        TableItem::Sample {
            row,
            key,
            bytes,
            caption,
            boxes,
            ..
        } => {
            let image = decode(&bytes, &DecodeLimits::default()).unwrap().image;
            assert_eq!((image.size().height, image.size().width), (6, 8), "{key}");
            let crc32 = crc32(&bytes);
            json!({"row": row, "key": key, "crc32": crc32, "caption": caption, "boxes": boxes})
        }
        TableItem::Rejected {
            row, key, reason, ..
        } => json!({"row": row, "key": key, "reason": reason}),
    }
}

/// `0` and `0.0` are one number in boxes.
fn with_floats(mut row: Value) -> Value {
    let boxes = row.get_mut("boxes").and_then(Value::as_array_mut);
    for corners in boxes.into_iter().flatten() {
        for corner in corners.as_array_mut().unwrap() {
            *corner = json!(corner.as_f64().unwrap());
        }
    }
    row
}

#[test]
fn image_tables_of_other_programs() {
    for (name, groups) in [
        ("hugging_face.parquet", vec![3, 3, 2]),
        ("img2dataset.parquet", vec![4]),
        ("plain.parquet", vec![2, 2, 1]),
    ] {
        let file = file(name);
        let size = file.len() as u64;
        let table = ImageTable::open(Arc::new(file), &ImageTableColumns::default()).unwrap();
        let rows: Vec<u64> = table.row_groups().iter().map(|group| group.rows).collect();
        assert_eq!(rows, groups, "{name}");
        let bytes: u64 = table.row_groups().iter().map(|group| group.bytes).sum();
        assert!(0 < bytes && bytes < size, "{name}: {bytes} of {size}");

        let items = (0..rows.len()).flat_map(|group| table.read(group, 1 << 20));
        let found: Vec<Value> = items.map(|found| item(found.unwrap())).collect();
        let expected: Vec<Value> = expected(name).into_iter().map(with_floats).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn manifests_of_other_programs() {
    let expected: Vec<Value> = expected("manifests").into_iter().map(with_floats).collect();
    for name in [
        "manifest_pandas.csv",
        "manifest_excel.tsv",
        "manifest_pandas.jsonl",
        "manifest_polars.jsonl",
        "manifest_polars.parquet",
    ] {
        let format = ManifestFormat::of_name(name).unwrap();
        let manifest = Manifest::read(file(name), format, &ManifestColumns::default()).unwrap();
        let rows = manifest.rows().map(|row| match row {
            Ok(row) => json!({
                "row": row.row, "uri": row.uri, "key": row.key, "caption": row.caption,
                "boxes": row.boxes, "bytes": row.bytes,
            }),
            Err(reject) => json!({"row": reject.row, "key": reject.key, "reason": reject.reason}),
        });
        assert_eq!(rows.collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(manifest.len(), expected.len(), "{name}");
    }
}

#[test]
fn a_table_of_images_is_no_manifest() {
    let error = Manifest::read(
        file("hugging_face.parquet"),
        ManifestFormat::Parquet,
        &ManifestColumns::default(),
    )
    .unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(
        cause.to_string(),
        "no column is known to hold the images' addresses; name the one that does, the columns are \
         \"image\", \"label\", \"caption\", \"bboxes\""
    );
}
