//! Both tables, written and read back.

use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use maskmill_masks::{ImageSize, Rle};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::samples::{image_row, mask_row};
use super::*;

fn meta() -> ParquetMeta {
    ParquetMeta {
        fingerprint: "f00d".to_owned(),
        entries: BTreeMap::from([("version".to_owned(), "0.1.0".to_owned())]),
    }
}

fn masks_file(rows: &[MaskRow]) -> Bytes {
    masks_to_parquet(rows, &meta()).unwrap().into()
}

fn many_masks(count: u32) -> Vec<MaskRow> {
    (0..count).map(|id| mask_row("a", id, "..#\n.##")).collect()
}

#[test]
fn empty_tables_keep_their_columns() {
    assert_eq!(read_masks(masks_file(&[])).unwrap(), []);
    let images = images_to_parquet(&[], &meta()).unwrap();
    assert_eq!(read_images(images.into()).unwrap(), []);
}

#[test]
fn optional_columns_round_trip_with_and_without_values() {
    let plain = mask_row("dir/ü.jpg", 0, "..#\n.##");
    let labelled = MaskRow {
        point_coords: vec![],
        label: Some("a cat".to_owned()),
        label_score: Some(0.5),
        prompt_box: Some([0.25, 0.0, 3.0, 2.0]),
        ..mask_row("b", 1, "#..\n...")
    };
    let empty_mask = mask_row("b", 2, "...\n...");
    let rows = [plain, labelled, empty_mask];
    assert_eq!(read_masks(masks_file(&rows)).unwrap(), rows);
}

#[test]
fn image_rows_round_trip() {
    let rejected = ImageRow {
        width: 0,
        height: 0,
        format: None,
        exif_orientation: 1,
        masks: 0,
        status: ImageStatus::Rejected,
        reason: Some("truncated".to_owned()),
        detail: Some("the JPEG file is cut short".to_owned()),
        ..image_row("b")
    };
    let rows = [image_row("a"), rejected];
    let file = images_to_parquet(&rows, &meta()).unwrap();
    assert_eq!(read_images(file.into()).unwrap(), rows);
}

#[test]
fn the_file_names_its_job() {
    assert_eq!(read_meta(masks_file(&[])).unwrap(), meta());
}

#[test]
fn bytes_do_not_depend_on_how_rows_arrive() {
    // On both sides of the borders between batches and between row groups.
    for count in [0, 1, 1023, 1024, 1025, 2500, 16 * 1024, 16 * 1024 + 1] {
        let rows = many_masks(count);
        let file = masks_to_parquet(&rows, &meta()).unwrap();
        assert_eq!(file, masks_to_parquet(&rows, &meta()).unwrap());

        let mut writer = MaskWriter::new(&meta()).unwrap();
        for row in rows.clone() {
            writer.push(row).unwrap();
        }
        assert_eq!(writer.rows(), count as usize);
        assert!(file == writer.finish().unwrap(), "{count} masks");
        assert!(read_masks(file.into()).unwrap() == rows, "{count} masks");

        let rows: Vec<ImageRow> = (0..count).map(|n| image_row(&format!("{n}"))).collect();
        let mut writer = ImageWriter::new(&meta()).unwrap();
        for row in rows.clone() {
            writer.push(row).unwrap();
        }
        assert_eq!(writer.rows(), count as usize);
        let file = writer.finish().unwrap();
        assert!(
            file == images_to_parquet(&rows, &meta()).unwrap(),
            "{count} images"
        );
        assert!(read_images(file.into()).unwrap() == rows, "{count} images");
    }
}

#[test]
fn a_bad_value_is_found_in_whichever_batch_it_comes() {
    let mut writer = MaskWriter::new(&meta()).unwrap();
    let mut rows = many_masks(1030);
    rows[1027].area = u64::MAX;
    for row in rows {
        writer.push(row).unwrap();
    }
    let error = writer.finish().unwrap_err();
    assert!(
        error.to_string().starts_with("row 1027, column area"),
        "{error}"
    );
}

#[test]
fn captions_and_boxes_travel_with_images() {
    let rows = [
        ImageRow {
            caption: Some("two\nlines".to_owned()),
            boxes: Some(vec![[0.5, 0.0, 3.0, 2.0], [1.0; 4]]),
            ..image_row("a")
        },
        ImageRow {
            boxes: Some(vec![]),
            ..image_row("b")
        },
        image_row("c"),
    ];
    let file = images_to_parquet(&rows, &meta()).unwrap();
    assert_eq!(read_images(file.into()).unwrap(), rows);
}

#[test]
fn tables_from_before_captions_are_read() {
    let batch = super::write::image_batch(&[image_row("a"), image_row("b")], 0).unwrap();
    let before: Vec<usize> = (0..13).collect();
    let batch = batch.project(&before).unwrap();
    assert_eq!(
        batch.schema().fields().last().unwrap().name(),
        "milliseconds"
    );
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let rows = read_images(writer.into_inner().unwrap().into()).unwrap();
    assert_eq!(rows, [image_row("a"), image_row("b")]);
}

#[test]
fn cut_and_damaged_files_are_errors() {
    let file = masks_file(&many_masks(10));
    for length in [0, 3, 11, file.len() / 2, file.len() - 1] {
        let result = read_masks(file.slice(..length));
        assert!(
            matches!(result, Err(RowsError::Parquet(_))),
            "cut to {length}: {result:?}"
        );
    }
    assert!(read_masks(Bytes::from_static(b"not a table at all")).is_err());
}

#[test]
fn another_table_is_named_as_such() {
    let images = images_to_parquet(&[image_row("a")], &meta()).unwrap();
    let error = read_masks(images.into()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not a maskmill masks table: the column mask_id is missing"
    );

    let schema = Arc::new(Schema::new(vec![Field::new(
        "image_key",
        DataType::Int64,
        false,
    )]));
    let column = Arc::new(Int64Array::from(vec![1]));
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), None).unwrap();
    writer
        .write(&RecordBatch::try_new(schema, vec![column]).unwrap())
        .unwrap();
    let error = read_masks(writer.into_inner().unwrap().into()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not a maskmill masks table: the column image_key is Int64, it should be Utf8"
    );
}

#[test]
fn values_that_do_not_fit_name_their_row_and_column() {
    let mut rows = many_masks(1030);
    rows[1027].area = u64::MAX;
    let error = masks_to_parquet(&rows, &meta()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 1027, column area: 18446744073709551615 does not fit a signed 64-bit integer"
    );
}

#[test]
fn values_that_no_maskmill_writes_are_refused() {
    let columns = |status: &str, shard: i64| {
        let batch = super::write::image_batch(&[image_row("a")], 0).unwrap();
        let mut columns = batch.columns().to_vec();
        columns[1] = Arc::new(Int64Array::from(vec![shard]));
        columns[9] = Arc::new(arrow_array::StringArray::from(vec![status]));
        let batch = RecordBatch::try_new(image_schema(), columns).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), image_schema(), None).unwrap();
        writer.write(&batch).unwrap();
        read_images(writer.into_inner().unwrap().into()).map_err(|error| error.to_string())
    };
    assert_eq!(columns("ok", 12).unwrap(), [image_row("a")]);
    assert_eq!(
        columns("maybe", 12).unwrap_err(),
        "row 0, column status: \"maybe\" is neither \"ok\" nor \"rejected\""
    );
    assert_eq!(
        columns("ok", -1).unwrap_err(),
        "row 0, column shard: -1 is outside the range of u32"
    );
}

proptest! {
    #[test]
    fn masks_round_trip(
        ids in proptest::collection::vec(any::<u32>(), 0..20),
        text in any::<Option<String>>(),
        scores in any::<[f32; 2]>(),
        label_score in proptest::option::of(-1.0_f32..1.0),
        prompt_box in proptest::option::of(any::<[f32; 4]>()),
        boxes in any::<[[u32; 4]; 2]>(),
        points in proptest::collection::vec(any::<[f64; 2]>(), 0..4),
        cuts in proptest::collection::btree_set(1_u32..600, 0..12),
    ) {
        prop_assume!(scores.iter().chain(prompt_box.iter().flatten()).all(|x| !x.is_nan()));
        prop_assume!(points.iter().flatten().all(|x| !x.is_nan()));
        let mut start = 0;
        let mut counts = Vec::new();
        for end in cuts.into_iter().chain([600]) {
            counts.push(end - start);
            start = end;
        }
        let rle = Rle::from_counts(ImageSize { height: 20, width: 30 }, counts).unwrap();
        let rows: Vec<MaskRow> = ids
            .into_iter()
            .map(|mask_id| MaskRow {
                image_key: text.clone().unwrap_or_default(),
                mask_id,
                rle: rle.clone(),
                bbox: boxes[0],
                area: u64::from(mask_id),
                predicted_iou: scores[0],
                stability_score: scores[1],
                crop_box: boxes[1],
                point_coords: points.clone(),
                label: text.clone(),
                label_score,
                prompt_box,
            })
            .collect();
        prop_assert_eq!(read_masks(masks_file(&rows)).unwrap(), rows);
    }

    #[test]
    fn damaged_files_never_panic(at in 0.0_f64..1.0, byte in any::<u8>(), count in 0_u32..40) {
        let mut file = masks_file(&many_masks(count)).to_vec();
        let at = (at * file.len() as f64) as usize;
        file[at] = byte;
        let _ = read_masks(file.into());
    }
}
