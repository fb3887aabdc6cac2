//! Tables made here, whole, damaged and failing; those of other programs are in `tests/foreign_tables.rs`.

use std::sync::Mutex;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, ListBuilder};
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, DictionaryArray, Int64Array, LargeBinaryArray,
    LargeStringArray, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use super::*;

fn properties(rows_per_group: usize) -> parquet::file::properties::WriterPropertiesBuilder {
    WriterProperties::builder().set_max_row_group_row_count(Some(rows_per_group))
}

fn table(columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) -> Bytes {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

fn binary(values: &[Option<&[u8]>]) -> ArrayRef {
    Arc::new(BinaryArray::from(values.to_vec()))
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn open(file: Bytes) -> Result<ImageTable, ImageTableError> {
    ImageTable::open(Arc::new(file), &ImageTableColumns::default())
}

fn named(image: &str) -> ImageTableColumns {
    ImageTableColumns {
        image: Some(image.to_owned()),
        ..ImageTableColumns::default()
    }
}

/// `row key=bytes|caption|boxes` per image, without what is missing, or `row key!reason`.
fn summary(table: &ImageTable) -> Vec<String> {
    let line = |item: TableItem| match item {
        TableItem::Sample {
            row,
            key,
            bytes,
            caption,
            boxes,
            ..
        } => {
            let caption = caption.unwrap_or_default();
            let boxes = boxes.map_or(String::new(), |boxes| format!("{boxes:?}"));
            let line = format!("{row} {key}={}|{caption}|{boxes}", bytes.escape_ascii());
            line.trim_end_matches('|').to_owned()
        }
        TableItem::Rejected {
            row, key, reason, ..
        } => format!("{row} {key}!{reason}"),
    };
    let groups = 0..table.row_groups().len();
    let items = groups.flat_map(|group| table.read(group, 1000));
    items.map(|item| line(item.unwrap())).collect()
}

#[test]
fn rows_become_samples_with_all_that_comes_with_them() {
    let images = [
        Some(&b"A"[..]),
        None,
        Some(b""),
        Some(&[7; 1001]),
        Some(b"E"),
    ];
    let keys = [Some("a"), Some("b"), None, Some(""), Some("a")];
    let boxes = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(0), Some(1), Some(3), Some(2)]),
        None,
        Some(vec![]),
        None,
        Some(vec![Some(1); 3]),
    ]);
    let file = table(
        vec![
            ("jpg", binary(&images)),
            ("key", strings(&keys)),
            ("text", strings(&[Some("x"), None, None, None, None])),
            ("bbox", Arc::new(boxes)),
        ],
        properties(2).build(),
    );
    let table = open(file).unwrap();
    let rows: Vec<u64> = table.row_groups().iter().map(|group| group.rows).collect();
    assert_eq!(rows, [2, 2, 1]);
    assert_eq!(
        summary(&table),
        [
            "0 a=A|x|[[0.0, 1.0, 3.0, 2.0]]",
            "1 b!no_bytes",
            "2 00000002=||[]",
            "3 00000003!entry_too_large",
            "4 a!bad_boxes",
        ]
    );
}

#[test]
fn labels_scores_and_points_are_read_where_they_are_named() {
    let columns = || -> Vec<(&str, ArrayRef)> {
        let texts = |values: [&str; 4]| strings(&values.map(Some));
        vec![
            ("jpg", binary(&[Some(&b"A"[..]); 4])),
            ("bbox", texts(["[0, 1, 3, 2]", "[0, 1, 3, 2]", "", ""])),
            (
                "labels",
                texts(["[\"a cat\", \"ü\"]", "a dog", "[\"\"]", ""]),
            ),
            ("conf", texts(["0.5", "[0.5, 0.5]", "", ""])),
            ("clicks", texts(["[[2, 1]]", "", "", "[[2, 1, 7]]"])),
        ]
    };
    let file = table(columns(), properties(9).build());
    let names = ImageTableColumns {
        labels: Some("labels".to_owned()),
        scores: Some("conf".to_owned()),
        points: Some("clicks".to_owned()),
        ..ImageTableColumns::default()
    };
    let found = |names: &ImageTableColumns| -> Vec<TableItem> {
        let table = ImageTable::open(Arc::new(file.clone()), names).unwrap();
        table.read(0, 1000).map(Result::unwrap).collect()
    };
    let named = found(&names);
    assert_eq!(
        named[0],
        TableItem::Sample {
            row: 0,
            key: "00000000".to_owned(),
            bytes: b"A".to_vec(),
            caption: None,
            boxes: Some(vec![[0.0, 1.0, 3.0, 2.0]]),
            labels: Some(vec!["a cat".to_owned(), "ü".to_owned()]),
            scores: Some(vec![0.5]),
            points: Some(vec![[2.0, 1.0, 1.0]]),
        }
    );
    let reasons = named[1..].iter().map(|item| match item {
        TableItem::Rejected { reason, .. } => *reason,
        TableItem::Sample { .. } => "none",
    });
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        ["bad_scores", "bad_labels", "bad_points"]
    );
    for item in found(&ImageTableColumns::default()) {
        let TableItem::Sample {
            labels,
            scores,
            points,
            ..
        } = item
        else {
            panic!("what is not read is not wrong");
        };
        assert_eq!((labels, scores, points), (None, None, None));
    }
}

#[test]
fn a_structs_path_is_the_key_where_there_is_no_other() {
    let bytes = binary(&[Some(b"A"), Some(b"B"), None, Some(b"D")]);
    let paths = strings(&[Some("x/a.png"), None, Some("c.png"), Some("d.png")]);
    let bytes_field = Arc::new(Field::new("bytes", bytes.data_type().clone(), true));
    let path_field = Arc::new(Field::new("path", paths.data_type().clone(), true));
    let nulls = vec![true, true, true, false].into();
    let fields = vec![bytes_field, path_field].into();
    let images: ArrayRef = Arc::new(StructArray::new(fields, vec![bytes, paths], Some(nulls)));

    let file = table(vec![("image", images.clone())], properties(9).build());
    assert_eq!(
        summary(&open(file).unwrap()),
        [
            "0 x/a.png=A",
            "1 00000001=B",
            "2 c.png!no_bytes",
            "3 00000003!no_bytes"
        ]
    );
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(70), None, Some(-1), Some(70)]));
    let file = table(vec![("photo", images), ("id", ids)], properties(9).build());
    assert_eq!(
        summary(&open(file).unwrap()),
        ["0 70=A", "1 00000001=B", "2 -1!no_bytes", "3 70!no_bytes"]
    );
}

#[test]
fn every_kind_of_byte_column_and_compression_is_read() {
    let values = vec![Some(&b"AA"[..]), None, Some(b"AA")];
    let dictionary = DictionaryArray::<Int32Type>::new(
        vec![Some(0), None, Some(0)].into(),
        Arc::new(BinaryArray::from(vec![&b"AA"[..]])),
    );
    let columns: [ArrayRef; 4] = [
        Arc::new(BinaryArray::from(values.clone())),
        Arc::new(LargeBinaryArray::from(values.clone())),
        Arc::new(BinaryViewArray::from(values)),
        Arc::new(dictionary),
    ];
    let keys: ArrayRef = Arc::new(LargeStringArray::from(vec!["x", "y", "z"]));
    for column in columns {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::BROTLI(BrotliLevel::default()),
            Compression::LZ4_RAW,
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            for dictionary in [true, false] {
                let properties = properties(2)
                    .set_compression(compression)
                    .set_dictionary_enabled(dictionary)
                    .build();
                let columns = vec![("key", keys.clone()), ("content", column.clone())];
                let found = summary(&open(table(columns, properties)).unwrap());
                assert_eq!(found, ["0 x=AA", "1 y!no_bytes", "2 z=AA"], "{compression}");
            }
        }
    }
}

#[test]
fn boxes_of_fixed_size_are_read() {
    let mut lists = ListBuilder::new(FixedSizeListBuilder::new(Float32Builder::new(), 4));
    lists.values().values().append_slice(&[0.5, 0.0, 3.0, 2.0]);
    lists.values().append(true);
    lists.append(true);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", binary(&[Some(b"A")])),
        ("bboxes", Arc::new(lists.finish())),
    ];
    let found = summary(&open(table(columns, properties(9).build())).unwrap());
    assert_eq!(found, ["0 00000000=A||[[0.5, 0.0, 3.0, 2.0]]"]);
}

#[test]
fn the_image_column_is_found_by_name_then_by_type() {
    let bytes = |value: &'static [u8]| binary(&[Some(value)]);
    let numbers = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let found = |columns: Vec<(&str, ArrayRef)>| {
        open(table(columns, properties(9).build())).map(|table| summary(&table).remove(0))
    };
    let both = vec![("png", bytes(b"P")), ("JPG", bytes(b"J"))];
    assert_eq!(found(both).unwrap(), "0 00000000=J");
    // `image` is an address here, so it cannot be the image.
    let address = vec![("image", strings(&[Some("a")])), ("thumb", bytes(b"T"))];
    assert_eq!(found(address).unwrap(), "0 00000000=T");

    let error = found(vec![("a", bytes(b"A")), ("b", bytes(b"B"))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"several columns may hold the images; name one of "a", "b""#
    );
    let error = found(vec![("label", numbers())]).unwrap_err();
    assert!(matches!(
        error,
        ImageTableError::Column(ColumnError::Unknown { .. })
    ));
}

#[test]
fn a_named_image_column_wins_or_is_refused() {
    let file = table(
        vec![
            ("image", binary(&[Some(b"A")])),
            ("mask", binary(&[Some(b"M")])),
            ("label", Arc::new(Int64Array::from(vec![1]))),
        ],
        properties(9).build(),
    );
    let open = |name| ImageTable::open(Arc::new(file.clone()), &named(name));
    assert_eq!(summary(&open("mask").unwrap()), ["0 00000000=M"]);
    for (name, expected) in [
        (
            "label",
            r#"the column "label" is Int64, it should be binary or struct{bytes binary, path utf8}"#,
        ),
        (
            "Image",
            r#"there is no column "Image"; the columns are "image", "mask", "label""#,
        ),
    ] {
        let error = open(name).err().unwrap();
        assert_eq!(error.source().unwrap().to_string(), expected);
    }
}

#[test]
fn no_rows_are_an_empty_table() {
    let file = table(vec![("image", binary(&[]))], properties(9).build());
    let table = open(file).unwrap();
    assert!(summary(&table).is_empty());
    let mut beyond = table.read(table.row_groups().len(), 1000);
    assert!(matches!(
        beyond.next(),
        Some(Err(ImageTableError::NoSuchRowGroup { .. }))
    ));
    assert!(beyond.next().is_none());
}

/// Counts what is read, and fails where it is told to.
struct Watched {
    file: Bytes,
    fails: std::ops::Range<u64>,
    reads: Mutex<Vec<usize>>,
}

impl ReadAt for Watched {
    fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.reads.lock().unwrap().push(length);
        if offset < self.fails.end && self.fails.start < offset + length as u64 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "too slow"));
        }
        self.file.read_at(offset, length)
    }
}

impl Watched {
    fn new(file: &Bytes, fails: std::ops::Range<u64>) -> Arc<Self> {
        Arc::new(Self {
            file: file.clone(),
            fails,
            reads: Mutex::default(),
        })
    }

    fn bytes_read(&self) -> usize {
        self.reads.lock().unwrap().iter().sum()
    }
}

/// Images of `length` bytes that do not compress, beside a column of the same size that is not read.
fn large(rows: u64, length: usize) -> Bytes {
    let image = |row: u64| -> Vec<u8> {
        let noise = (0..length as u64).map(|n| (n + row).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        noise.map(|noise| (noise >> 32) as u8).collect()
    };
    let images: Vec<Vec<u8>> = (0..rows).map(image).collect();
    let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(&images));
    let columns = vec![("image", column.clone()), ("raw", column)];
    let properties = properties(1 << 20).set_dictionary_enabled(false);
    table(columns, properties.build())
}

#[test]
fn a_row_group_is_read_as_it_is_used_in_few_requests() {
    let file = large(64, 512 << 10);
    let watched = Watched::new(&file, 0..0);
    let table = ImageTable::open(watched.clone(), &ImageTableColumns::default()).unwrap();
    assert!(watched.bytes_read() < 64 << 10, "{}", watched.bytes_read());

    let group = table.row_groups()[0];
    assert!((32 << 20..34 << 20).contains(&group.bytes), "{group:?}");
    let mut items = table.read(0, 1 << 20);
    assert!(matches!(items.next(), Some(Ok(TableItem::Sample { .. }))));
    let read = watched.bytes_read();
    assert!(read < 18 << 20, "{read} bytes for the first image");
    assert_eq!(items.count(), 63);
    // The images once, and nothing of the column beside them.
    let read = watched.bytes_read() as u64;
    assert!(read < group.bytes + (64 << 10), "{read} of {group:?}");
    let requests = watched.reads.lock().unwrap().len();
    assert!(requests < 40, "{requests} requests");
}

#[test]
fn rows_of_many_megabytes_come_one_at_a_time() {
    let file = large(4, 5 << 20);
    let watched = Watched::new(&file, 0..0);
    let table = ImageTable::open(watched.clone(), &ImageTableColumns::default()).unwrap();
    let mut items = table.read(0, 6 << 20);
    assert!(matches!(items.next(), Some(Ok(TableItem::Sample { .. }))));
    assert!(watched.bytes_read() < 12 << 20, "{}", watched.bytes_read());
    assert_eq!(items.filter(Result::is_ok).count(), 3);
}

#[test]
fn a_failing_file_is_told_from_a_damaged_one() {
    let file = large(8, 1 << 20);
    let length = file.len() as u64;
    // The end of the file fails, with the layout in it.
    let watched = Watched::new(&file, length - 4..length);
    let error = ImageTable::open(watched, &ImageTableColumns::default());
    let error = error.err().unwrap();
    assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::TimedOut);

    // Pages and their headers fail, at many places.
    for at in (100..8 << 20).step_by(700_001) {
        let watched = Watched::new(&file, at..at + 1);
        let table = ImageTable::open(watched, &ImageTableColumns::default()).unwrap();
        let mut items = table.read(0, 2 << 20);
        let error = items.by_ref().find_map(Result::err).unwrap();
        assert!(matches!(error, ImageTableError::Io { .. }), "{at}: {error}");
        let failure = error.io_error().unwrap();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut, "{at}");
        assert_eq!(failure.to_string(), "too slow");
        assert!(items.next().is_none());
    }

    let mut damaged = file.to_vec();
    damaged[..100].fill(0xFF);
    let table = open(damaged.into()).unwrap();
    let error = table.read(0, 2 << 20).find_map(Result::err).unwrap();
    assert!(error.io_error().is_none(), "{error:?}");
    let error = open(file.slice(..file.len() / 2)).err().unwrap();
    assert!(error.io_error().is_none(), "{error:?}");
}

#[test]
fn files_that_are_no_tables() {
    for file in [
        &b""[..],
        b"PAR1",
        b"PAR1PAR1",
        b"\xFF\xD8\xFF\xE0 not a table at all",
    ] {
        let error = open(Bytes::from_static(file)).err().unwrap();
        assert!(error.io_error().is_none(), "{error:?}");
    }
}

proptest! {
    /// Damage anywhere gives samples, rejects or one error, which is never the file's own failure.
    #[test]
    fn damaged_tables_never_panic(
        flips in proptest::collection::vec((0.0_f64..1.0, any::<u8>()), 1..4),
        in_footer in any::<bool>(),
    ) {
        let images: Vec<Vec<u8>> = (0..40_u8).map(|row| vec![row; 1 + row as usize * 3]).collect();
        let keys: Vec<String> = (0..40).map(|row| format!("k{row}")).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("image", Arc::new(BinaryArray::from_iter_values(images))),
            ("key", Arc::new(StringArray::from(keys))),
        ];
        let compression = Compression::ZSTD(ZstdLevel::default());
        let file = table(columns, properties(16).set_compression(compression).build());
        let mut file = file.to_vec();
        let start = if in_footer { file.len() * 2 / 3 } else { 0 };
        for (at, byte) in flips {
            let at = start + (at * (file.len() - start) as f64) as usize;
            file[at] = byte;
        }
        let table = match open(file.into()) {
            Ok(table) => table,
            Err(error) => {
                prop_assert!(error.io_error().is_none(), "{:?}", error);
                return Ok(());
            }
        };
        for (group, declared) in table.row_groups().into_iter().enumerate() {
            let mut given = 0;
            let mut items = table.read(group, 1000);
            match items.by_ref().inspect(|item| given += u64::from(item.is_ok())).find_map(Result::err) {
                None => prop_assert_eq!(given, declared.rows),
                Some(error) => {
                    prop_assert!(error.io_error().is_none(), "{:?}", error);
                    prop_assert!(items.next().is_none());
                }
            }
        }
    }
}
