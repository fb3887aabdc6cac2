//! Manifests in every format, whole and damaged.

use std::sync::Arc;

use arrow_array::{Int32Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::*;

fn read(text: impl AsRef<[u8]>, format: ManifestFormat) -> Result<Manifest, ManifestError> {
    let file = Bytes::copy_from_slice(text.as_ref());
    Manifest::read(file, format, &ManifestColumns::default())
}

fn csv(text: impl AsRef<[u8]>) -> Result<Manifest, ManifestError> {
    read(text, ManifestFormat::Csv)
}

fn json_lines(text: impl AsRef<[u8]>) -> Result<Manifest, ManifestError> {
    read(text, ManifestFormat::JsonLines)
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Bytes {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

/// `uri|key|caption|boxes|bytes` per row, without what is missing; `!reason` for a reject.
fn summary(manifest: Result<Manifest, ManifestError>) -> Vec<String> {
    let manifest = manifest.unwrap();
    let line = |row: Result<ManifestRow<'_>, ManifestReject>| match row {
        Ok(row) => {
            let boxes = row.boxes.map(|boxes| format!("{boxes:?}"));
            let bytes = row.bytes.map(|bytes| bytes.to_string());
            let line = [
                Some(row.uri),
                row.key,
                row.caption,
                boxes.as_deref(),
                bytes.as_deref(),
            ];
            let line = line.map(Option::unwrap_or_default).join("|");
            line.trim_end_matches('|').to_owned()
        }
        Err(reject) => format!("{}!{}", reject.key.unwrap_or_default(), reject.reason),
    };
    let lines: Vec<String> = manifest.rows().map(line).collect();
    assert_eq!(lines.len(), manifest.len());
    let mut drained = Vec::new();
    manifest.drain(|row| drained.push(line(row)));
    assert_eq!(drained, lines);
    lines
}

#[test]
fn rows_keep_their_order_and_numbers_over_many_chunks() {
    let mut text = "key,uri\n".to_owned();
    for row in 0..140_001 {
        // Row 131072 is the first of a chunk.
        let uri = if row == 131_072 { "" } else { "a.jpg" };
        text.push_str(&format!("k{row},{uri}\n"));
    }
    let mut count = 0;
    csv(text).unwrap().drain(|row| {
        match row {
            Ok(row) => assert_eq!((row.row, row.key), (count, Some(&*format!("k{count}")))),
            Err(reject) => assert_eq!((reject.row, count), (131_072, 131_072)),
        }
        count += 1;
    });
    assert_eq!(count, 140_001);
}

fn error(manifest: Result<Manifest, ManifestError>) -> String {
    let error = manifest.unwrap_err();
    match std::error::Error::source(&error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

#[test]
fn formats_are_told_by_name() {
    for (name, expected) in [
        ("a.parquet", Some(ManifestFormat::Parquet)),
        ("dir.csv/a.PQ", Some(ManifestFormat::Parquet)),
        ("a.csv", Some(ManifestFormat::Csv)),
        ("a.b.tsv", Some(ManifestFormat::Csv)),
        ("a.jsonl", Some(ManifestFormat::JsonLines)),
        ("a.ndjson", Some(ManifestFormat::JsonLines)),
        ("a.json", Some(ManifestFormat::JsonLines)),
        ("a.csv.gz", None),
        ("csv", None),
        ("a.txt", None),
    ] {
        assert_eq!(ManifestFormat::of_name(name), expected, "{name}");
    }
}

#[test]
fn csv_is_read_in_its_dialects() {
    let expected = [
        "s3://b/a 1.jpg|007|two\nlines, \"quoted\"|[[1.0, 2.0, 3.0, 4.0]]|12",
        "b",
    ];
    let comma = "url,id,text,bbox,size,other\ns3://b/a 1.jpg,007,\"two\nlines, \"\"quoted\"\"\",\"[1,2,3,4]\",12,x\nb,,,,,\n";
    assert_eq!(summary(csv(comma)), expected);
    let windows = "\u{feff}url\tid\ttext\tbbox\tsize\r\ns3://b/a 1.jpg\t007\t\"two\nlines, \"\"quoted\"\"\"\t[1,2,3,4]\t12\r\nb\t\t\t\t\t".trim_end_matches('\t').to_owned() + "\t\t\t\t\r\n\r\n";
    assert_eq!(summary(csv(windows)), expected);
    assert_eq!(summary(csv("uri;key\na,b;c")), ["a,b|c"]);
    assert_eq!(summary(csv("\"uri\",\"multi\nline\"\na,b")), ["a"]);
}

#[test]
fn csv_without_rows_is_empty_and_without_header_an_error() {
    for text in ["uri", "uri,key\n", "uri\r\n\r\n"] {
        assert!(csv(text).unwrap().is_empty(), "{text:?}");
    }
    for text in ["", "\n\n", "\u{feff}"] {
        assert!(error(csv(text)).contains("it is empty"), "{text:?}");
    }
}

#[test]
fn csv_that_would_lose_or_shift_rows_is_refused() {
    // Each of these, Polars reads without the columns in question as one row less, or another address.
    for (text, expected) in [
        (
            "uri,x\na,5\" nail\nb,6\" nail\n",
            "line 2 has a quote inside a field",
        ),
        (
            "uri,x\na, \"q\nb,6\" nail\n",
            "line 2 has a quote inside a field",
        ),
        ("uri,x\na,\"q\"z\n", "line 2 has a quote inside a field"),
        (
            "uri,x\n\"a\nb\",\"c\nd,e\n",
            "record of line 2 are never closed",
        ),
        (
            "x,uri,y\n\"1\n2\",a,\n1,b, c,\n",
            "line 4 has 4 fields and the header 3",
        ),
        ("uri,key\na,b\n\nc", "line 4 has 1 fields and the header 2"),
        ("uri,key\ra,b\rc,d\r", "line 1 has a carriage return inside"),
        ("uri,key\na,\rb\n", "line 2 has a carriage return inside"),
    ] {
        let error = error(csv(text));
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_line() {
    let error_of = |text: &[u8]| error(csv(text));
    assert!(error_of(b"uri,x\na,b\nc,\xE9\n").contains("line 3 is not UTF-8"));
    assert!(error_of(b"\xFF\xFEu\0r\0i\0").contains("it is UTF-16"));
    assert!(error_of(b"\x1F\x8B\x08\0").contains("gzip"));
    assert!(error(json_lines(b"{\"uri\":\"a\"}\n{\"uri\":\"\xE9\"}")).contains("line 2, column 9"));
}

#[test]
fn blank_lines_of_csv_are_rows_without_an_address() {
    assert_eq!(summary(csv("uri\na\n\nb\n\n\n")), ["a", "!no_uri", "b"]);
    assert_eq!(
        summary(csv("uri,key\na,1\n\n,2\n")),
        ["a|1", "!no_uri", "2!no_uri"]
    );
}

#[test]
fn json_lines_hold_values_of_any_type() {
    let text = concat!(
        "\u{feff}{\"uri\":\"a\\n\\ud83d\\ude00\",\"key\":7,\"boxes\":[[1,2,3,4.5]],\"bytes\":12}\n",
        "\r\n",
        "{\"uri\":8,\"key\":18446744073709551615,\"boxes\":\"[1,2,3,4]\",\"bytes\":\"12.0\"}\r\n",
        "{\"key\":true,\"extra\":{\"uri\":\"no\"}}\n",
        "{\"uri\":\"b\",\"boxes\":[1,2,3],\"key\":\"k\"}\n",
        "{\"uri\":\"c\",\"boxes\":[[1,2,null,4]]}\n",
        "{\"uri\":\"d\",\"boxes\":[],\"bytes\":-1}\n",
        "{\"uri\":null}",
    );
    assert_eq!(
        summary(json_lines(text)),
        [
            "a\n😀|7||[[1.0, 2.0, 3.0, 4.5]]|12",
            "8|18446744073709551615||[[1.0, 2.0, 3.0, 4.0]]|12",
            "true!no_uri",
            "k!bad_boxes",
            "!bad_boxes",
            "d|||[]",
            "!no_uri",
        ]
    );
}

#[test]
fn json_columns_that_begin_late_are_found() {
    let mut text = "{\"url\":\"a\"}\n".repeat(3000);
    text.push_str("{\"url\":\"b\",\"caption\":\"late\"}\n");
    assert_eq!(summary(json_lines(text))[2999..], ["a", "b||late"]);
}

#[test]
fn json_without_lines_is_empty() {
    for text in ["", "\n\r\n", "\u{feff}\n"] {
        assert!(json_lines(text).unwrap().is_empty(), "{text:?}");
    }
}

#[test]
fn lines_that_are_no_objects_are_named() {
    let deep = format!("{{\"uri\":\"a\"}}\n{{\"uri\":{}", "[".repeat(200_000));
    for (text, expected) in [
        (
            "{\"uri\":\"a\"}\n\n[1]\n",
            "line 3, column 0: invalid type: sequence",
        ),
        (
            "{\"uri\":\"a\"}\n{\"uri\":\"b",
            "line 2, column 9: EOF while parsing",
        ),
        (
            "[\n{\"uri\":\"a\"}\n]",
            "line 1, column 0: invalid type: sequence",
        ),
        (
            "{\"uri\":\"a\"}{\"uri\":\"b\"}",
            "line 1, column 12: trailing",
        ),
        ("{\"uri\":\"\\ud83d\"}", "line 1, column 15"),
        (
            "{\"uri\":\"a\",\"x\":NaN}",
            "line 1, column 16: expected value",
        ),
        ("{\"uri\":\"a\"}\0", "line 1, column 12: trailing"),
        (&deep, "line 2, column 134: recursion limit exceeded"),
    ] {
        let error = error(json_lines(text));
        assert!(error.contains(expected), "{:.60}: {error}", text);
    }
}

#[test]
fn named_columns_are_read_and_missing_ones_listed() {
    let columns = |uri: &str| ManifestColumns {
        uri: Some(uri.to_owned()),
        key: Some("uri".to_owned()),
        ..ManifestColumns::default()
    };
    for (format, text) in [
        (ManifestFormat::Csv, "uri,thumb\na,b\n"),
        (ManifestFormat::JsonLines, "{\"uri\":\"a\",\"thumb\":\"b\"}"),
    ] {
        let manifest = Manifest::read(text.into(), format, &columns("thumb"));
        assert_eq!(summary(manifest), ["b|a"]);
        let manifest = Manifest::read(text.into(), format, &columns("thumbs"));
        let error = error(manifest);
        assert!(
            error.starts_with("there is no column \"thumbs\"; the columns are \""),
            "{error}"
        );
    }
}

/// `labels|scores|points` per row; `!reason` for a reject.
fn annotations(manifest: Result<Manifest, ManifestError>) -> Vec<String> {
    let manifest = manifest.unwrap();
    let line = |row: Result<ManifestRow<'_>, ManifestReject>| match row {
        Ok(row) => {
            let labels = row.labels.map(|labels| format!("{labels:?}"));
            let scores = row.scores.map(|scores| format!("{scores:?}"));
            let points = row.points.map(|points| format!("{points:?}"));
            [labels, scores, points]
                .map(Option::unwrap_or_default)
                .join("|")
        }
        Err(reject) => format!("!{}", reject.reason),
    };
    manifest.rows().map(line).collect()
}

fn annotated() -> ManifestColumns {
    ManifestColumns {
        labels: Some("labels".to_owned()),
        scores: Some("scores".to_owned()),
        points: Some("points".to_owned()),
        ..ManifestColumns::default()
    }
}

#[test]
fn annotations_of_json_lines_are_lists_texts_or_nothing() {
    let text = concat!(
        "{\"uri\":\"a\",\"labels\":[\"a \\\"red\\\" car\",\"\\u00fc\\\\\"],\"boxes\":[[0,1,8,6]],\"scores\":[0.5]}\n",
        "{\"uri\":\"b\",\"labels\":\"a dog, asleep\",\"points\":[[7.5,2],[0,5,0]]}\n",
        "{\"uri\":\"c\",\"labels\":\"[\\\"a\\\"]\",\"boxes\":[0,1,8,6],\"scores\":0.25,\"points\":\"[[1,1,1]]\"}\n",
        "{\"uri\":\"d\",\"labels\":null,\"scores\":null}\n",
        "{\"uri\":\"e\",\"labels\":[\"\"]}\n",
        "{\"uri\":\"f\",\"boxes\":[[0,1,8,6]],\"scores\":[0.5,0.5]}\n",
        "{\"uri\":\"g\",\"points\":[[1,1,2]]}\n",
        "{\"uri\":\"h\",\"labels\":[1]}\n",
    );
    let file = Bytes::copy_from_slice(text.as_bytes());
    let named = Manifest::read(file.clone(), ManifestFormat::JsonLines, &annotated());
    assert_eq!(
        annotations(named),
        [
            "[\"a \\\"red\\\" car\", \"ü\\\\\"]|[0.5]|",
            "[\"a dog, asleep\"]||[[7.5, 2.0, 1.0], [0.0, 5.0, 0.0]]",
            "[\"a\"]|[0.25]|[[1.0, 1.0, 1.0]]",
            "||",
            "!bad_labels",
            "!bad_scores",
            "!bad_points",
            "!bad_labels",
        ]
    );
    // Not named, they are not read: nothing in them is wrong.
    let usual = Manifest::read(file, ManifestFormat::JsonLines, &ManifestColumns::default());
    assert_eq!(annotations(usual), ["||"; 8]);
}

#[test]
fn annotations_of_csv_and_parquet() {
    let text = "uri,labels,boxes,scores,points\n\
        a,\"[\"\"a cat\"\", \"\"a dog\"\"]\",\"[[0,1,8,6]]\",0.5,\"[[1,2]]\"\n\
        b,a cat,,,\n";
    let expected = [
        "[\"a cat\", \"a dog\"]|[0.5]|[[1.0, 2.0, 1.0]]",
        "[\"a cat\"]||",
    ];
    let manifest = Manifest::read(text.into(), ManifestFormat::Csv, &annotated());
    assert_eq!(annotations(manifest), expected);

    use arrow_array::builder::{Float32Builder, Float64Builder, ListBuilder, StringBuilder};
    let mut labels = ListBuilder::new(StringBuilder::new());
    labels.append_value([Some("a cat"), Some("a dog")]);
    labels.append_value([Some("a cat")]);
    let mut scores = ListBuilder::new(Float32Builder::new());
    scores.append_value([Some(0.5)]);
    scores.append_null();
    let mut points = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    points.values().append_value([Some(1.0), Some(2.0)]);
    points.append(true);
    points.append(false);
    let boxes = StringArray::from(vec![Some("[0, 1, 8, 6]"), None]);
    let file = parquet(vec![
        ("points", Arc::new(points.finish())),
        ("uri", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("scores", Arc::new(scores.finish())),
        ("boxes", Arc::new(boxes)),
        ("labels", Arc::new(labels.finish())),
    ]);
    let manifest = Manifest::read(file, ManifestFormat::Parquet, &annotated());
    assert_eq!(annotations(manifest), expected);
}

#[test]
fn named_annotation_columns_must_be_there_and_readable() {
    let uris: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let file = parquet(vec![("uri", uris), ("label", numbers)]);
    let labels = |name: &str| {
        let columns = ManifestColumns {
            labels: Some(name.to_owned()),
            ..ManifestColumns::default()
        };
        error(Manifest::read(
            file.clone(),
            ManifestFormat::Parquet,
            &columns,
        ))
    };
    assert_eq!(
        labels("label"),
        "the column \"label\" is Int32, it should be list<text> or text"
    );
    assert!(labels("labels").starts_with("there is no column \"labels\""));
}

#[test]
fn one_column_may_serve_twice() {
    let columns = ManifestColumns {
        key: Some("uri".to_owned()),
        ..ManifestColumns::default()
    };
    let uris: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let file = parquet(vec![("other", uris.clone()), ("uri", uris)]);
    let manifest = Manifest::read(file, ManifestFormat::Parquet, &columns);
    assert_eq!(summary(manifest), ["a|a", "b|b"]);
}

#[test]
fn columns_of_one_name_are_ambiguous() {
    let expected = "two columns are called \"uri\"; rename one of them";
    assert_eq!(error(csv("uri,uri,key\na,b,c\n")), expected);
    let uris: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let file = parquet(vec![("uri", uris.clone()), ("uri", uris.clone())]);
    assert_eq!(error(read(file, ManifestFormat::Parquet)), expected);
    let file = parquet(vec![
        ("x", uris.clone()),
        ("x", uris.clone()),
        ("uri", uris),
    ]);
    assert_eq!(summary(read(file, ManifestFormat::Parquet)), ["a"]);
    assert_eq!(summary(csv("x,x,uri\na,b,c\n")), ["c"]);
}

#[test]
fn ten_thousand_columns_are_read_past() {
    let names: Vec<String> = (0..10_000).map(|n| format!("c{n}")).collect();
    let row = vec!["v"; 10_000].join(",");
    let text = format!("{},uri\n{row},a\n{row},b\n", names.join(","));
    assert_eq!(summary(csv(text)), ["a", "b"]);

    let objects = names.iter().map(|name| format!("\"{name}\":1,"));
    let object = format!("{{{}\"uri\":\"a\"}}\n", objects.collect::<String>());
    assert_eq!(summary(json_lines(object.repeat(2))), ["a", "a"]);

    let column: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let mut columns: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), column.clone()))
        .collect();
    columns.insert(5000, ("uri", column.clone()));
    assert_eq!(
        summary(read(parquet(columns), ManifestFormat::Parquet)),
        ["a", "b"]
    );
}

#[test]
fn parquet_rows_keep_their_order_across_batches() {
    let count = 20_001;
    let uris: StringArray = (0..count)
        .map(|n| (n != 9000).then(|| format!("u{n}")))
        .collect();
    let keys: Int32Array = (0..count).map(Some).collect();
    let file = parquet(vec![("uri", Arc::new(uris)), ("id", Arc::new(keys))]);
    let lines = summary(read(file, ManifestFormat::Parquet));
    for (n, line) in lines.iter().enumerate() {
        let expected = match n {
            9000 => "9000!no_uri".to_owned(),
            _ => format!("u{n}|{n}"),
        };
        assert_eq!(*line, expected);
    }
    assert_eq!(lines.len(), count as usize);
}

#[test]
fn parquet_columns_of_other_types_are_named() {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let columns = ManifestColumns {
        boxes: Some("n".to_owned()),
        ..ManifestColumns::default()
    };
    let uris: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let file = parquet(vec![
        ("uri", uris),
        ("n", numbers.clone()),
        ("bbox", numbers),
    ]);
    assert_eq!(
        error(Manifest::read(
            file.clone(),
            ManifestFormat::Parquet,
            &columns
        )),
        "the column \"n\" is Int32, it should be list<list<number>>, list<number> or text"
    );
    // A column that was not asked for is not in the way.
    assert_eq!(summary(read(file, ManifestFormat::Parquet)), ["a"]);
}

#[test]
fn files_of_another_format_are_errors() {
    let table = parquet(vec![("uri", Arc::new(StringArray::from(vec!["a"])))]);
    assert!(error(csv(&table)).contains("it is a Parquet file"));
    assert!(error(json_lines(&table)).contains("it is a Parquet file"));
    assert!(read("uri\na\n", ManifestFormat::Parquet).is_err());
    for length in [0, 7, table.len() / 2, table.len() - 1] {
        let cut = read(&table[..length], ManifestFormat::Parquet);
        assert!(matches!(cut, Err(ManifestError::Parquet(_))), "{length}");
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

proptest! {
    #[test]
    fn quoted_csv_round_trips(
        rows in proptest::collection::vec(("[^\0]{1,9}", any::<String>(), "[a-z]{0,3}"), 0..12),
        windows in any::<bool>(),
        separator in proptest::sample::select(vec![",", "\t", ";"]),
    ) {
        let end = if windows { "\r\n" } else { "\n" };
        let mut text = ["plain", "\"url\"", "caption"].join(separator) + end;
        for (uri, caption, plain) in &rows {
            text += &([plain, &quoted(uri), &quoted(caption)].map(String::as_str).join(separator) + end);
        }
        let manifest = csv(text).unwrap();
        prop_assert_eq!(manifest.len(), rows.len());
        for (row, (uri, caption, _)) in manifest.rows().zip(&rows) {
            let row = row.unwrap();
            prop_assert_eq!(row.uri, uri);
            prop_assert_eq!(row.caption.unwrap_or_default(), caption);
        }
    }

    #[test]
    fn json_lines_round_trip(
        rows in proptest::collection::vec((any::<String>(), any::<Option<String>>(), any::<Option<u64>>()), 0..12),
    ) {
        let mut text = String::new();
        for (uri, caption, key) in &rows {
            text += &(serde_json::json!({"url": uri, "caption": caption, "id": key}).to_string() + "\n");
        }
        let manifest = json_lines(text).unwrap();
        prop_assert_eq!(manifest.len(), rows.len());
        for (row, (uri, caption, key)) in manifest.rows().zip(&rows) {
            let Ok(row) = row else {
                prop_assert!(uri.is_empty());
                continue;
            };
            prop_assert_eq!(row.uri, uri);
            prop_assert_eq!(row.caption.unwrap_or_default(), caption.as_deref().unwrap_or_default());
            prop_assert_eq!(row.key.map(str::to_owned), key.map(|key| key.to_string()));
        }
    }

    #[test]
    fn damaged_text_never_panics(
        flips in proptest::collection::vec((0_usize..4096, any::<u8>()), 1..6),
        cut in 0_usize..4096,
    ) {
        let csv_text = "uri,key,boxes\n\"a\",\"b\"\"c\n\",\"[[1,2,3,4]]\"\nd,e,\n".repeat(3);
        let json_text = "{\"uri\":\"a\\u00e9\",\"boxes\":[[1,2,3,4]],\"key\":7}\n".repeat(3);
        for (text, format) in [
            (csv_text, ManifestFormat::Csv),
            (json_text, ManifestFormat::JsonLines),
        ] {
            let mut text = text.into_bytes();
            for (at, byte) in &flips {
                let at = at % text.len();
                text[at] = *byte;
            }
            text.truncate(1 + cut % text.len());
            match read(&text, format) {
                Ok(manifest) => prop_assert_eq!(manifest.rows().count(), manifest.len()),
                Err(ManifestError::Damaged { detail }) => prop_assert!(false, "{}", detail),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn damaged_parquet_never_panics(flips in proptest::collection::vec((0.0_f64..1.0, any::<u8>()), 1..4)) {
        let uris = StringArray::from(vec!["a"; 40]);
        let keys: Int32Array = (0..40).collect();
        let mut file = parquet(vec![("uri", Arc::new(uris)), ("id", Arc::new(keys))]).to_vec();
        for (at, byte) in flips {
            let at = (at * file.len() as f64) as usize;
            file[at] = byte;
        }
        if let Ok(manifest) = read(file, ManifestFormat::Parquet) {
            // Damage may change values, and never the number of rows.
            prop_assert_eq!(manifest.rows().count(), 40);
        }
    }
}
