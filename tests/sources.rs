//! The same images through every kind of source and store give the same masks.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow_array::builder::{Float64Builder, ListBuilder};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::ImageFormat;
use maskmill_formats::rows::{ImageRow, MaskRow};
use maskmill_loopback_s3::LoopbackS3;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use support::{DATA, Job, OUT, Rows, picture, png};

/// Names that stores, URLs, tars or shells could take apart where they should not.
const NAMES: [&str; 6] = [
    "plain.png",
    "a b/\u{fc} \u{672c}.png",
    "100%2F.png",
    "x#1.png",
    "p+q&r.png",
    "why?.png",
];

/// The images, none like another in size or content.
fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    let picture = |index: u32| png(&picture(40 + 8 * index, 90 - 6 * index, index), None);
    NAMES.into_iter().zip((0..).map(picture)).collect()
}

fn bytes_of(name: &str) -> Vec<u8> {
    let pictures = pictures();
    let found = pictures.into_iter().find(|(other, _)| *other == name);
    found.expect("one of the pictures").1
}

/// All that an image's rows say but for its key, its shard, and what its source says of it.
type Content = (ImageRow, Vec<MaskRow>);

fn content(rows: &Rows, key: &str) -> Content {
    let image = ImageRow {
        image_key: String::new(),
        shard: 0,
        caption: None,
        boxes: None,
        ..rows.expect_masks(key).clone()
    };
    let masks = rows.masks(key).into_iter().map(|mask| MaskRow {
        image_key: String::new(),
        ..mask.clone()
    });
    (image, masks.collect())
}

/// What every source must give: the rows of a folder of the images.
fn expected() -> &'static BTreeMap<&'static str, Content> {
    static EXPECTED: OnceLock<BTreeMap<&'static str, Content>> = OnceLock::new();
    EXPECTED.get_or_init(|| {
        let rows = filled(Job::of_images()).rows_of_run();
        assert_eq!(rows.images.len(), NAMES.len());
        NAMES.map(|name| (name, content(&rows, name))).into()
    })
}

/// The images as files of the job's source.
fn filled(job: Job) -> Job {
    for (name, bytes) in pictures() {
        job.put(name, &bytes);
    }
    job
}

/// Fails unless `key` has the rows of the image `name`.
#[track_caller]
fn expect_picture(rows: &Rows, key: &str, name: &str) {
    assert_eq!(content(rows, key), expected()[name], "{key:?} is {name:?}");
}

/// Fails unless the rows are those of all images, each under the key that its name gives.
#[track_caller]
fn expect_pictures(rows: &Rows, key: impl Fn(&str) -> String) {
    for name in NAMES {
        expect_picture(rows, &key(name), name);
    }
    assert_eq!(rows.images.len(), NAMES.len(), "{:?}", rows.keys());
}

/// Fails unless `verify` finds nothing wrong and `view` draws each of the images.
#[track_caller]
fn expect_whole_and_drawn(job: &Job, rows: &Rows, keys: &[&str]) {
    let verified = job.maskmill(&["verify", &job.location()]);
    verified.expect_code(0);
    let location = job.location();
    for key in keys {
        let drawn = job.path("drawn.png");
        let arguments = [
            "view",
            &location,
            "--config",
            "config.toml",
            "--image",
            key,
            "--out",
            "drawn.png",
        ];
        job.maskmill(&arguments).expect_code(0);
        let size = image::open(&drawn).unwrap().to_rgb8().dimensions();
        let row = rows.image(key);
        assert_eq!(size, (row.width, row.height), "{key:?}");
        fs::remove_file(drawn).unwrap();
    }
}

fn server() -> Arc<LoopbackS3> {
    Arc::new(LoopbackS3::start())
}

/// Everything but what every reader of URLs leaves alone, as `%XX`.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn file_uri(path: &Path) -> String {
    let path = path.to_str().expect("temporary folders have plain names");
    format!("file://{}", percent_encoded(path))
}

#[test]
fn a_folder_its_uri_and_a_prefix() {
    let local = filled(Job::of_images());
    let mut by_uri = filled(Job::of_images());
    let uri = file_uri(&by_uri.path("source"));
    by_uri.set(&format!("source.path={uri}"));
    let prefix = filled(Job::in_store("images", &server()));
    for job in [local, by_uri, prefix] {
        let rows = job.rows_of_run();
        expect_pictures(&rows, str::to_owned);
        expect_whole_and_drawn(&job, &rows, &NAMES);
    }
}

/// The whole bucket, with the output in it: what the job writes is not taken for its input.
#[test]
fn a_bucket_without_a_prefix() {
    let server = server();
    let mut job = filled(Job::in_store("images", &server));
    job.set("source.path=s3://data");
    let rows = job.rows_of_run();
    expect_pictures(&rows, |name| format!("source/{name}"));
    expect_whole_and_drawn(&job, &rows, &["source/why?.png"]);
}

/// Another server's public bucket as the source: nobody signs for it, and the output stays private.
#[test]
fn a_public_bucket_without_credentials() {
    let server = server();
    let job = filled(Job::in_store("images", &server));
    let config = fs::read_to_string(job.path("config.toml")).unwrap();
    let anonymous = format!("{config}[store]\nsource_s3_anonymous = true\n");
    fs::write(job.path("config.toml"), anonymous).unwrap();

    // Not public yet.
    let refused = job.run();
    refused.expect_code(2).expect_error(&["s3://data/source"]);
    assert!(server.keys(OUT, "").is_empty());

    server.make_public(DATA);
    server.clear_requests();
    let rows = job.rows_of_run();
    expect_pictures(&rows, str::to_owned);
    expect_whole_and_drawn(&job, &rows, &["100%2F.png", "x#1.png"]);
    for seen in server.requests() {
        assert_eq!(seen.signed, seen.bucket == OUT, "{seen:?}");
    }
}

#[test]
fn shards_by_bytes() {
    let pictures: Vec<Vec<u8>> = (0..4)
        .map(|seed| {
            // 350 x 350 x 3 bytes: two of them are less than a MiB, three are more.
            let mut bytes = std::io::Cursor::new(Vec::new());
            let picture = picture(350, 350, seed);
            picture.write_to(&mut bytes, ImageFormat::Bmp).unwrap();
            bytes.into_inner()
        })
        .collect();
    let rows_of = |mut job: Job, limit: &str| {
        for (index, bytes) in pictures.iter().enumerate() {
            job.put(&format!("{index}.bmp"), bytes);
        }
        job.set(limit).set("prompts.points_per_side=2");
        job.rows_of_run()
    };
    let whole = rows_of(Job::of_images(), "source.bytes_per_shard=1 GiB");
    for job in [Job::of_images(), Job::in_store("images", &server())] {
        let cut = rows_of(job, "source.bytes_per_shard=1 MiB");
        let shards: Vec<u32> = cut.images.iter().map(|row| row.shard).collect();
        assert_eq!(shards, [0, 0, 1, 1]);
        assert_eq!(cut.keys(), whole.keys());
        for key in whole.keys() {
            assert_eq!(content(&cut, key), content(&whole, key));
        }
    }
}

/// The images in a tar.
fn tar_of_pictures() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in pictures() {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar's samples are called by its key and their names up to the dot.
fn in_file(file: &str, name: &str) -> String {
    let name = name.strip_suffix(".png").unwrap_or(name);
    format!("{file}/{name}")
}

#[test]
fn tars_plain_and_compressed() {
    let tar = tar_of_pictures();
    let packed = gzipped(&tar);
    assert_ne!(tar[..2], packed[..2]);
    for job in [Job::of_tars(), Job::in_store("webdataset", &server())] {
        let tars = ["sub/plain.tar", "packed.tar.gz", "odd #1+%2F \u{fc}?.tgz"];
        job.put(tars[0], &tar)
            .put(tars[1], &packed)
            .put(tars[2], &packed);
        let rows = job.rows_of_run();
        assert_eq!(rows.images.len(), 3 * NAMES.len(), "{:?}", rows.keys());
        let mut drawn = Vec::new();
        for tar in tars {
            for name in NAMES {
                expect_picture(&rows, &in_file(tar, name), name);
            }
            drawn.push(in_file(tar, NAMES[1]));
            drawn.push(in_file(tar, NAMES[5]));
        }
        let drawn: Vec<&str> = drawn.iter().map(String::as_str).collect();
        expect_whole_and_drawn(&job, &rows, &drawn);
    }
}

/// The source is one tar: in a folder, in a bucket, on a web server.
#[test]
fn one_tar_wherever_it_is() {
    let server = server();
    let local = Job::of_tars();
    let prefix = Job::in_store("webdataset", &server);
    let web = Job::in_store("webdataset", &server);
    server.make_public(DATA);
    let key = "deep/a b%2F+\u{fc}.tar.gz";
    let address = percent_encoded(&format!("{DATA}/source/{key}"));
    let paths = [
        format!("source/{key}"),
        format!("s3://{DATA}/source/{key}"),
        format!("{}/{address}", server.endpoint()),
    ];
    for (index, (mut job, path)) in [local, prefix, web].into_iter().zip(paths).enumerate() {
        job.put(key, &gzipped(&tar_of_pictures()));
        // The two in the store share its bucket of outputs.
        job.set(&format!("source.path={path}"));
        if index == 2 {
            for key in server.keys(OUT, "") {
                server.remove(OUT, &key);
            }
        }
        let rows = job.rows_of_run();
        expect_pictures(&rows, |name| in_file("a b%2F+\u{fc}.tar.gz", name));
        let drawn = in_file("a b%2F+\u{fc}.tar.gz", NAMES[3]);
        expect_whole_and_drawn(&job, &rows, &[&drawn]);
    }
}

fn binary(files: &[Option<Vec<u8>>]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter(files.iter().map(Option::as_deref)))
}

fn strings(texts: &[Option<String>]) -> ArrayRef {
    Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref)))
}

fn boxes(of_rows: &[Option<Vec<[f64; 4]>>]) -> ArrayRef {
    let mut rows = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    for boxes in of_rows {
        for corners in boxes.iter().flatten() {
            rows.values().values().append_slice(corners);
            rows.values().append(true);
        }
        rows.append(boxes.is_some());
    }
    Arc::new(rows.finish())
}

/// A Parquet file with so many rows to a row group.
fn parquet(columns: Vec<(&str, ArrayRef)>, rows_per_group: usize) -> Vec<u8> {
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows_per_group))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn files_of(names: &[&str]) -> Vec<Option<Vec<u8>>> {
    names.iter().map(|name| Some(bytes_of(name))).collect()
}

fn names(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|name| Some((*name).to_owned())).collect()
}

fn hugging_face(of: &[&str]) -> ArrayRef {
    let field = |name, kind| Arc::new(Field::new(name, kind, true));
    Arc::new(StructArray::from(vec![
        (field("bytes", DataType::Binary), binary(&files_of(of))),
        (field("path", DataType::Utf8), strings(&names(of))),
    ]))
}

const BOXES: [[f64; 4]; 2] = [[1.5, 2.0, 30.0, 40.25], [0.0, 0.0, 8.0, 8.0]];

/// As Hugging Face writes datasets: keys are the struct's paths.
fn hugging_face_table(of: &[&str], rows_per_group: usize) -> Vec<u8> {
    let captions: Vec<_> = of
        .iter()
        .map(|name| Some(format!("\u{201e}{name}\u{201c}")))
        .collect();
    let columns = vec![("image", hugging_face(of)), ("text", strings(&captions))];
    parquet(columns, rows_per_group)
}

/// As img2dataset writes shards. A row that was not downloaded has no image.
fn img2dataset_table() -> Vec<u8> {
    let mut files = files_of(&NAMES);
    files.push(None);
    let keys: Vec<_> = (0..files.len())
        .map(|row| Some(format!("{row:09}")))
        .collect();
    let captions: Vec<_> = (0..files.len())
        .map(|row| (row % 2 == 0).then(|| format!("line {row}\nand another")))
        .collect();
    let columns = vec![
        ("key", strings(&keys)),
        ("caption", strings(&captions)),
        ("jpg", binary(&files)),
    ];
    parquet(columns, 4)
}

/// The key of a row: unique by its number, and telling by what the table calls it.
fn img2dataset_key(row: usize) -> String {
    format!("img2dataset.parquet/{row:08}-{row:09}")
}

/// A column of bytes, keys that are numbers, and boxes.
fn plain_table() -> Vec<u8> {
    let of_rows = [
        Some(BOXES.to_vec()),
        None,
        Some(vec![]),
        Some(vec![BOXES[1]]),
        None,
        None,
    ];
    let columns = vec![
        ("id", Arc::new(Int64Array::from_iter_values(7..13)) as _),
        ("content", binary(&files_of(&NAMES))),
        ("bboxes", boxes(&of_rows)),
    ];
    parquet(columns, 3)
}

#[test]
fn tables_of_images() {
    for mut job in [
        Job::new("parquet", "source", "out", None),
        Job::in_store("parquet", &server()),
    ] {
        job.put("hf/0.parquet", &hugging_face_table(&NAMES[..4], 2))
            .put("hf/1 \u{fc}#%2F.pq", &hugging_face_table(&NAMES[4..], 1))
            .put("img2dataset.parquet", &img2dataset_table())
            .put("plain.parquet", &plain_table())
            .put("README.md", b"# no table");
        job.set("source.images_per_shard=3");
        let rows = job.rows_of_run();
        assert_eq!(rows.images.len(), 3 * NAMES.len() + 1, "{:?}", rows.keys());

        let mut keys = Vec::new();
        for (index, name) in NAMES.into_iter().enumerate() {
            let file = ["hf/0.parquet", "hf/1 \u{fc}#%2F.pq"][usize::from(index >= 4)];
            keys.push((format!("{file}/{:08}-{name}", index % 4), name));
            keys.push((img2dataset_key(index), name));
            keys.push((format!("plain.parquet/{index:08}-{}", 7 + index), name));
        }
        for (key, name) in &keys {
            expect_picture(&rows, key, name);
        }
        rows.expect_reject(&img2dataset_key(6), "no_bytes");

        let caption = |key: &str| rows.image(key).caption.as_deref();
        let hash = NAMES.iter().position(|name| *name == "x#1.png").unwrap();
        let hash_key = format!("hf/0.parquet/{hash:08}-x#1.png");
        let quoted = "\u{201e}x#1.png\u{201c}";
        assert_eq!(caption(hash_key.as_str()), Some(quoted));
        assert_eq!(caption(&img2dataset_key(1)), None);
        let lines = "line 2\nand another";
        assert_eq!(caption(&img2dataset_key(2)), Some(lines));
        let boxes = |key: &str| rows.image(key).boxes.as_deref();
        assert_eq!(boxes("plain.parquet/00000000-7"), Some(&BOXES[..]));
        assert_eq!(boxes("plain.parquet/00000001-8"), None);
        assert_eq!(boxes("plain.parquet/00000002-9"), Some(&[][..]));
        assert_eq!(boxes("plain.parquet/00000003-10"), Some(&BOXES[1..]));
        // No row group is split, and a shard has at most three rows unless a group has more.
        let mut shards: BTreeMap<u32, usize> = BTreeMap::new();
        for row in &rows.images {
            *shards.entry(row.shard).or_default() += 1;
        }
        assert!(shards.len() >= 6, "{shards:?}");
        assert!(shards.values().all(|rows| *rows <= 4), "{shards:?}");

        let some: Vec<&str> = keys
            .iter()
            .step_by(2)
            .map(|(key, _)| key.as_str())
            .collect();
        expect_whole_and_drawn(&job, &rows, &some);
    }
}

/// Keys that repeat, in one row group and in several: every image has rows of its own all the same.
#[test]
fn a_table_whose_keys_repeat() {
    let mut job = Job::new("parquet", "source", "out", None);
    let keys = [7, 7, 9, 7, 9, 11];
    let columns = vec![
        ("id", Arc::new(Int64Array::from_iter_values(keys)) as _),
        ("image", binary(&files_of(&NAMES))),
    ];
    job.put("t.parquet", &parquet(columns, 3));
    job.set("source.images_per_shard=3");
    let rows = job.rows_of_run();
    assert_eq!(rows.images.len(), NAMES.len(), "{:?}", rows.keys());
    let mut keys = rows.keys();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), NAMES.len(), "{keys:?}");
    expect_whole_and_drawn(&job, &rows, &[]);
}

/// Columns by names that nobody would look for, in a file on a web server.
#[test]
fn a_table_with_columns_of_other_names() {
    let server = server();
    let mut job = Job::in_store("parquet", &server);
    server.make_public(DATA);
    let table = parquet(
        vec![
            ("image", binary(&vec![Some(b"a thumbnail".to_vec()); 6])),
            ("original", binary(&files_of(&NAMES))),
            ("caption", strings(&vec![Some("not this".to_owned()); 6])),
            ("alt", strings(&names(&NAMES))),
            ("name", strings(&names(&NAMES))),
            ("rois", boxes(&vec![Some(BOXES.to_vec()); 6])),
        ],
        5,
    );
    job.put("t.parquet", &table);
    let uri = format!("{}/{DATA}/source/t.parquet", server.endpoint());
    job.set(&format!("source.path={uri}"))
        .set("source.image_column=original")
        .set("source.key_column=name")
        .set("source.caption_column=alt")
        .set("source.boxes_column=rois");
    let rows = job.rows_of_run();
    let key = |name: &str| {
        let row = NAMES.iter().position(|other| *other == name).unwrap();
        format!("t.parquet/{row:08}-{name}")
    };
    expect_pictures(&rows, key);
    for name in NAMES {
        let row = rows.image(&key(name));
        assert_eq!(row.caption.as_deref(), Some(name));
        assert_eq!(row.boxes.as_deref(), Some(&BOXES[..]));
    }
    expect_whole_and_drawn(&job, &rows, &[&key("why?.png")]);
}

/// A row of a manifest; boxes as JSON.
#[derive(Clone, Default)]
struct Entry {
    uri: Option<String>,
    key: Option<&'static str>,
    caption: Option<&'static str>,
    boxes: Option<&'static str>,
}

fn entry(uri: impl Into<String>) -> Entry {
    Entry {
        uri: Some(uri.into()),
        ..Entry::default()
    }
}

impl Entry {
    fn key(self, key: &'static str) -> Self {
        let key = Some(key);
        Self { key, ..self }
    }

    fn about(self, caption: &'static str, boxes: &'static str) -> Self {
        Self {
            caption: Some(caption),
            boxes: Some(boxes),
            ..self
        }
    }
}

fn csv(entries: &[Entry]) -> Vec<u8> {
    let field = |text: Option<&str>| match text {
        Some(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        None => String::new(),
    };
    let mut lines = "url,key,caption,boxes\n".to_owned();
    for entry in entries {
        let fields = [entry.uri.as_deref(), entry.key, entry.caption, entry.boxes];
        lines += &(fields.map(field).join(",") + "\n");
    }
    lines.into_bytes()
}

fn json_lines(entries: &[Entry]) -> Vec<u8> {
    let mut lines = String::new();
    for entry in entries {
        // What is no JSON is a text.
        let boxes = entry
            .boxes
            .map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
        let row = json!({
            "uri": entry.uri, "key": entry.key, "caption": entry.caption, "boxes": boxes,
        });
        lines += &format!("{row}\n");
    }
    lines.into_bytes()
}

fn parquet_list(entries: &[Entry]) -> Vec<u8> {
    let column = |of: fn(&Entry) -> Option<&str>| {
        let texts = entries.iter().map(|entry| of(entry).map(str::to_owned));
        strings(&texts.collect::<Vec<_>>())
    };
    parquet(
        vec![
            ("image_url", column(|entry| entry.uri.as_deref())),
            ("key", column(|entry| entry.key)),
            ("caption", column(|entry| entry.caption)),
            ("boxes", column(|entry| entry.boxes)),
        ],
        5,
    )
}

const CAPTION: &str = "said \"hi\", then\nleft; \u{fc}";

/// Every way to name an image, with and without keys, and rows that cannot be used.
fn manifest_entries(job: &Job) -> Vec<Entry> {
    for name in NAMES {
        let path = job.path("elsewhere").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes_of(name)).unwrap();
    }
    let path = |name: &str| {
        let path = job.path("elsewhere").join(name);
        path.to_str().unwrap().to_owned()
    };
    vec![
        entry(NAMES[0]),
        entry(NAMES[1])
            .key("own/\u{43a} 1")
            .about(CAPTION, "[[1.5, 2, 30, 40.25], [0, 0, 8, 8]]"),
        entry("s3://other/deep/100%2F.png"),
        entry("s3://other/x#1.png").about("bare", "[]"),
        entry("s3://other/x#2.png"),
        entry(file_uri(Path::new(&path("p+q&r.png")))).key("p+q&r.png"),
        entry(NAMES[0]).key("why? me").about("", "[[4, 3, 2]]"),
        entry(path("why?.png")).key("why? me"),
        Entry {
            key: Some("nowhere"),
            ..Entry::default()
        },
        Entry::default(),
        entry(NAMES[0]).key("bent").about("", "[[1, 2, 3]]"),
        entry("s3://other/gone.png"),
        entry("ftp://host/x.png").key("ftp"),
        entry("../plain.png").key("up"),
        entry(NAMES[0]).key("again"),
        entry(NAMES[3]).key("again"),
    ]
}

fn expect_entries(rows: &Rows) {
    expect_picture(rows, "plain.png", "plain.png");
    expect_picture(rows, "own/\u{43a} 1", NAMES[1]);
    expect_picture(rows, "other/deep/100%2F.png", "100%2F.png");
    expect_picture(rows, "other/x#1.png", "x#1.png");
    expect_picture(rows, "other/x#2.png", "why?.png");
    expect_picture(rows, "p+q&r.png", "p+q&r.png");
    expect_picture(rows, "why? me", "why?.png");
    let about = |key: &str| {
        let row = rows.image(key);
        (row.caption.as_deref(), row.boxes.as_deref())
    };
    assert_eq!(about("own/\u{43a} 1"), (Some(CAPTION), Some(&BOXES[..])));
    assert_eq!(about("other/x#1.png"), (Some("bare"), Some(&[][..])));
    assert_eq!(about("plain.png"), (None, None));
    rows.expect_reject("nowhere", "no_uri");
    rows.expect_reject("row-00000009", "no_uri");
    rows.expect_reject("bent", "bad_boxes");
    rows.expect_reject("other/gone.png", "missing");
    rows.expect_reject("ftp", "bad_uri");
    rows.expect_reject("up", "bad_uri");
    // The first row that can be used has the key; every other row has one of its own.
    expect_picture(rows, "again", "plain.png");
    rows.expect_reject("again#2", "duplicate_key");
    rows.expect_reject("why? me#2", "bad_boxes");
    assert_eq!(rows.images.len(), 16, "{:?}", rows.keys());
}

/// Turns rows into a manifest file.
type Writer = fn(&[Entry]) -> Vec<u8>;

/// Fills a job's manifest with addresses of every kind and its store with what they name.
fn expect_manifest(mut job: Job, name: &str, write: Writer) {
    let server = job.server().clone();
    server.create_bucket("other");
    for (key, of) in [
        ("deep/100%2F.png", "100%2F.png"),
        ("x#1.png", "x#1.png"),
        ("x#2.png", "why?.png"),
    ] {
        server.put("other", key, bytes_of(of));
    }
    let manifest = write(&manifest_entries(&job));
    for name in [NAMES[0], NAMES[1], NAMES[3]] {
        job.put(&format!("lists/{name}"), &bytes_of(name));
        let path = job.path("source/lists").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes_of(name)).unwrap();
    }
    job.put(&format!("lists/{name}"), &manifest);
    fs::write(job.path("source/lists").join(name), manifest).unwrap();
    job.set("source.images_per_shard=4");
    let rows = job.rows_of_run();
    expect_entries(&rows);
    let keys = [
        "plain.png",
        "own/\u{43a} 1",
        "other/x#2.png",
        "p+q&r.png",
        "why? me",
    ];
    expect_whole_and_drawn(&job, &rows, &keys);
}

#[test]
fn manifests_in_a_store() {
    let writers: [(&str, Writer); 3] = [
        ("list.csv", csv),
        ("list.jsonl", json_lines),
        ("list 1+%2F.parquet", parquet_list),
    ];
    for (name, write) in writers {
        let mut job = Job::in_store("manifest", &server());
        job.set(&format!("source.path=s3://{DATA}/source/lists/{name}"));
        expect_manifest(job, name, write);
    }
}

#[test]
fn a_manifest_on_this_disk() {
    let server = server();
    server.create_bucket(DATA);
    server.create_bucket(OUT);
    let out = format!("s3://{OUT}");
    let job = Job::new(
        "manifest",
        "source/lists/l \u{fc}#1.csv",
        &out,
        Some(server),
    );
    expect_manifest(job, "l \u{fc}#1.csv", csv);
}

/// Addresses with and without queries, which no row repeats; and a list that lies on the web itself, so that
/// relative addresses are the list's neighbours.
#[test]
fn manifests_of_web_addresses() {
    let server = server();
    let mut by_url = filled(Job::in_store("manifest", &server));
    server.make_public(DATA);
    let url = |name: &str| {
        let path = percent_encoded(&format!("{DATA}/source/{name}"));
        format!("{}/{path}", server.endpoint())
    };
    let mut entries: Vec<Entry> = NAMES.map(|name| entry(url(name)).key(name)).into();
    let (plain, path) = (NAMES[0], percent_encoded(NAMES[1]));
    entries.push(entry(url(plain) + "?x-id=GetObject&token=hush"));
    entries.push(entry(url(NAMES[1])));
    entries.push(entry(url("gone.png")).key("gone"));
    by_url.put("web.jsonl", &json_lines(&entries));
    by_url.set(&format!("source.path=s3://{DATA}/source/web.jsonl"));

    server.clear_requests();
    let rows = by_url.rows_of_run();
    for name in NAMES {
        expect_picture(&rows, name, name);
    }
    let host = server.endpoint().replace("http://", "");
    let bare = format!("{host}/{DATA}/source/{plain}");
    expect_picture(&rows, &bare, plain);
    let escaped = format!("{host}/{DATA}/source/{path}");
    expect_picture(&rows, &escaped, NAMES[1]);
    rows.expect_reject("gone", "missing");
    assert_eq!(rows.images.len(), NAMES.len() + 3);
    // No credentials go to a web server, though this one would take them.
    let images = server.requests().into_iter();
    let mut images = images.filter(|seen| seen.bucket == DATA && seen.key.ends_with(".png"));
    assert!(images.all(|seen| !seen.signed));
    expect_whole_and_drawn(&by_url, &rows, &["why?.png", &bare, &escaped]);

    for key in server.keys(OUT, "") {
        server.remove(OUT, &key);
    }
    let mut on_web = filled(Job::in_store("manifest", &server));
    let entries: Vec<Entry> = NAMES.map(entry).into();
    on_web.put("list.csv", &csv(&entries));
    on_web.set(&format!("source.path={}", url("list.csv")));
    let rows = on_web.rows_of_run();
    expect_pictures(&rows, str::to_owned);
    expect_whole_and_drawn(&on_web, &rows, &["100%2F.png", "why?.png"]);
}
