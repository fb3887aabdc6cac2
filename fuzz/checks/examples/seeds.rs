//! Writes the first inputs of every fuzz target: `cargo run -p maskmill-fuzz-checks --example seeds`.
//!
//! They are files that other programs or maskmill itself would write, and such as have been hard for readers of their
//! kind. What the fuzzers find is kept beside them under other names. The first byte is the check's options.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use maskmill_formats::manifest::ManifestFormat;
use maskmill_formats::plan_items::{PlanRow, PlanRowKind, plan_rows_to_parquet};
use maskmill_formats::rows::ParquetMeta;
use maskmill_job::{
    Item, ItemKind, Segment, SegmentDraft, SegmentFile, SegmentKind, ShardId, ShardLimits, cut,
};
use maskmill_masks::{Bitmap, ImageSize, Rle};
use tar::{Builder, EntryType, Header};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn main() {
    tars();
    masks();
    tables();
    texts();
    plans();
    settings();
    detections();
}

/// Writes one input.
fn seed(target: &str, name: &str, options: u8, file: &[u8]) {
    let folder = Path::new(ROOT).join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).expect("the folder can be made");
    let input = [&[options], file].concat();
    fs::write(folder.join(format!("seed-{name}")), input).expect("the input can be written");
}

fn tars() {
    seed("tar", "images", 2, &images());
    seed("tar", "images-small-only", 5, &images());
    let cut = &images()[..1500];
    seed("tar", "cut", 4, cut);
    seed("tar", "gzip", 4, &gzip(&images()));
    seed("tar", "gzip-cut", 0, &gzip(cut)[..60]);
    let names = names();
    let (first, second) = names.split_at(700);
    let members = [gzip(first), gzip(second)].concat();
    seed("tar", "names", 0, &names);
    seed("tar", "gzip-members", 0, &members);
    seed(
        "tar",
        "gzip-zeros",
        1,
        &gzip(&[names.as_slice(), &[0; 1 << 20]].concat()),
    );
    seed("tar", "odd-members", 2, &odd_members());
}

fn gzip(file: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(file).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// A header for `data`, with any bytes as its name.
fn header(name: &[u8], kind: EntryType, data: &[u8]) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

fn append(tar: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType, data: &[u8]) {
    let header = header(name, kind, data);
    tar.append(&header, data).expect("memory takes everything");
}

fn finished(tar: Builder<Vec<u8>>) -> Vec<u8> {
    tar.into_inner().expect("memory takes everything")
}

fn images() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    append(&mut tar, b"photos/", EntryType::Directory, b"");
    append(&mut tar, b"photos/a.jpg", EntryType::Regular, &[7; 131]);
    append(&mut tar, b"photos/a.json", EntryType::Regular, b"{}");
    append(&mut tar, b"./b.left.PNG", EntryType::Continuous, b"png");
    append(&mut tar, b"c.webp", EntryType::Regular, b"");
    finished(tar)
}

/// Long, repeated, unsafe and foreign names.
fn names() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let long = format!("{}/image.jpeg", "d".repeat(150));
    let mut header = header(b"", EntryType::Regular, b"long");
    tar.append_data(&mut header, long, &b"long"[..])
        .expect("memory takes everything");
    let pax = [("path", "real/ü.jpg".as_bytes()), ("size", b"3")];
    tar.append_pax_extensions(pax)
        .expect("memory takes everything");
    append(&mut tar, b"placeholder", EntryType::Regular, b"pax");
    for name in [
        "a.jpg",
        "a.png",
        "a#2.jpg",
        "a.jpg",
        "../up.jpg",
        "/etc/x.jpg",
    ] {
        append(&mut tar, name.as_bytes(), EntryType::Regular, b"A");
    }
    append(&mut tar, b"caf\xE9.jpg", EntryType::Regular, b"latin");
    finished(tar)
}

/// Links with sizes, global headers, and at the end a sparse file.
fn odd_members() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let global = b"19 comment=created\n";
    append(&mut tar, b"", EntryType::XGlobalHeader, global);
    append(&mut tar, b"link.jpg", EntryType::Symlink, b"");
    let mut large = header(b"huge.jpg", EntryType::Link, b"");
    large.set_size(1 << 40);
    large.set_cksum();
    tar.append(&large, &b""[..])
        .expect("memory takes everything");
    append(&mut tar, b"a.tiff", EntryType::Regular, &[1; 513]);
    append(&mut tar, b"sparse.jpg", EntryType::GNUSparse, b"");
    finished(tar)
}

fn masks() {
    let size = ImageSize::new(23, 31);
    let ring = Bitmap::from_fn(size, |y, x| {
        let squared = (y as i32 - 11).pow(2) + (x as i32 - 15).pow(2);
        (36..100).contains(&squared)
    });
    let dots = Bitmap::from_fn(size, |y, x| (x * 7 + y * 5) % 11 == 0);
    let full = Bitmap::from_fn(ImageSize::new(3, 4), |_, _| true);
    for (name, mask) in [("ring", &ring), ("dots", &dots), ("full", &full)] {
        let mask = Rle::encode(mask);
        mask_seed(name, 0, mask.size(), mask.to_coco_string().as_bytes());
        let counts: Vec<u8> = mask.counts().iter().flat_map(|c| c.to_le_bytes()).collect();
        mask_seed(&format!("{name}-counts"), 1, mask.size(), &counts);
    }
    // Made with pycocotools.
    mask_seed("pycocotools", 2, ImageSize::new(40, 50), b"T33U1Uo0mNbK");
    let longest = Rle::from_counts(ImageSize::new(u32::MAX, 1), [1, u32::MAX - 3, 1, 1]);
    let longest = longest.expect("the runs add up");
    mask_seed(
        "longest",
        0,
        longest.size(),
        longest.to_coco_string().as_bytes(),
    );
    mask_seed("empty", 0, ImageSize::new(0, 5), b"");
    mask_seed(
        "zero-runs",
        3,
        ImageSize::new(2, 3),
        &[1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0],
    );
}

fn mask_seed(name: &str, options: u8, size: ImageSize, runs: &[u8]) {
    let [height, width] = [size.height, size.width].map(u32::to_le_bytes);
    let file = [&height, &width, runs].concat();
    seed("rle", name, options, &file);
}

/// Files of pandas, Polars, Excel and Hugging Face, and the same as tables of images.
fn tables() {
    let folder = Path::new(ROOT).join("crates/formats/tests/tables");
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(format) = ManifestFormat::of_name(&name) else {
            continue;
        };
        let file = fs::read(&path).expect("the file can be read");
        match format {
            ManifestFormat::Parquet if !name.starts_with("manifest") => {
                seed("image_table", &name, 200, &file);
            }
            ManifestFormat::Parquet => {
                seed("manifest", &name, 0, &file);
                // No column of it holds images.
                seed("image_table", &name, 200, &file);
            }
            ManifestFormat::Csv => seed("manifest", &name, 1, &file),
            ManifestFormat::JsonLines if name == "expected.json" => {}
            ManifestFormat::JsonLines => seed("manifest", &name, 2, &file),
        }
    }
    seed("manifest", "nulls.parquet", 0, NULLS);
    seed("image_table", "nulls.parquet", 200, NO_IMAGES);
}

/// A Parquet file, as small as they get: a column `uri` of a thousand nulls, which is one run.
const NULLS: &[u8] =
    b"PAR1\x15\x00\x15\x0E\x15\x0E,\x15\xD0\x0F\x15\x00\x15\x06\x15\x06\x00\x00\x03\x00\x00\
    \x00\xD0\x0F\x00\x15\x02\x19,H\x06schema\x15\x02\x00\x15\x0C%\x02\x18\x03uri%\x00\x00\
    \x16\xD0\x0F\x19\x1C\x19\x1C&\x08\x1C\x15\x0C\x19%\x00\x06\x19\x18\x03uri\x15\x00\x16\
    \xD0\x0F\x162\x162&\x08\x00\x00\x162\x16\xD0\x0F\x00\x00E\x00\x00\x00PAR1";

/// The same for a column `image`, without a type of its own.
const NO_IMAGES: &[u8] =
    b"PAR1\x15\x00\x15\x0E\x15\x0E,\x15\xD0\x0F\x15\x00\x15\x06\x15\x06\x00\x00\x03\x00\x00\
    \x00\xD0\x0F\x00\x15\x02\x19,H\x06schema\x15\x02\x00\x15\x0C%\x02\x18\x05image\x00\x16\
    \xD0\x0F\x19\x1C\x19\x1C&\x08\x1C\x15\x0C\x19%\x00\x06\x19\x18\x05image\x15\x00\x16\xD0\
    \x0F\x162\x162&\x08\x00\x00\x162\x16\xD0\x0F\x00\x00G\x00\x00\x00PAR1";

/// CSV and JSON lines that are hard to read.
fn texts() {
    for (name, text) in [
        (
            "quotes.csv",
            "uri,caption\n\"a,b.jpg\",\"two\nlines, \"\"quoted\"\"\"\nc.jpg,",
        ),
        (
            "crlf.csv",
            "\u{feff}key;url;bbox\r\n007;a.jpg;[1,2,3,4]\r\n;;\r\n8;b.jpg;[[1,2,3]]\r\n",
        ),
        ("ragged.csv", "uri,key,bytes\na,1\nb,2,3,4\n\nc\n\"d"),
        ("same.csv", "uri,uri,uri_duplicated_0\na,b,c\n"),
        ("header.csv", "image_uri"),
        (
            "boxes.csv",
            "uri\tboxes\na\t[1e308,0,1e309,1]\nb\tnull\nc\t[[0,0,-0,1e-400]]\n",
        ),
    ] {
        seed("manifest", name, 1, text.as_bytes());
    }
    for (name, text) in [
        (
            "types.jsonl",
            "{\"uri\":\"a\",\"id\":7,\"boxes\":[[1,2,3.5,4]]}\n\n{\"uri\":null}\n{\"id\":true}\n",
        ),
        (
            "escapes.jsonl",
            "{\"u\\u0072i\":\"\\ud83d\\ude00\\n\",\"caption\":\"\\u0000\"}\n",
        ),
        (
            "nested.jsonl",
            "{\"uri\":{\"a\":[[[[[[[[[[1]]]]]]]]]]},\"bytes\":1e400}",
        ),
        ("cut.jsonl", "{\"uri\":\"a\"}\n{\"uri\":\"b"),
        ("array.jsonl", "[{\"uri\":\"a\"}]\n"),
    ] {
        seed("manifest", name, 2, text.as_bytes());
    }
    // Bit 6 is set in both, and modulo 3 they are 2 and 1.
    let annotated = "{\"uri\":\"a\",\"labels\":[\"a \\\"red\\\" car\",\"\\u00fc\"],\"boxes\":[[1,2,3,4]],\"scores\":[0.5],\"points\":[[1,2],[3,4,0]]}\n\
                     {\"uri\":\"b\",\"labels\":\"a dog\",\"scores\":\"[0.5]\",\"points\":[[1]]}\n{\"uri\":\"c\",\"labels\":[\"\"]}\n";
    seed(
        "manifest",
        "annotated.jsonl",
        0x40 + 4,
        annotated.as_bytes(),
    );
    let annotated = "uri,labels,boxes,scores,points\na,\"[\"\"a\"\",\"\"b\"\"]\",\"[1,2,3,4]\",0.5,\"[[1,2]]\"\nb,a cat,,1,\n";
    seed("manifest", "annotated.csv", 0x40, annotated.as_bytes());
    seed(
        "manifest",
        "named.csv",
        0x80 | 2,
        b"{\"c\":\"text\",\"uri\":\"a\"}\n",
    );
}

/// COCO files, YOLO labels and names, good and bad.
fn detections() {
    let dataset = r#"{"images":[{"id":139,"file_name":"day/a.jpg"},{"id":"x","file_name":"night/a.jpg"}],
        "annotations":[{"image_id":139,"category_id":1,"bbox":[1,2,3,4.5],"iscrowd":0},
        {"image_id":"x","category_id":1,"bbox":[0,0,9,9],"iscrowd":1}],"categories":[{"id":1,"name":"cat"}]}"#;
    let results = r#"[{"image_id":139,"category_id":1,"bbox":[0.5,1,90,2],"score":0.9,"segmentation":{"size":[6,8]}},
        {"image_id":"139","category_id":1,"bbox":[NaN,-Infinity,1e3,-1]}]"#;
    let both = [results, dataset].join("\0");
    for (name, options, text) in [
        ("dataset.json", 0, dataset),
        ("results.json", 0, results),
        ("results-and-dataset.json", 1, &both),
        ("no-box.json", 0, r#"[{"image_id":1,"bbox":[1,2,3]}]"#),
        (
            "labels.txt",
            2,
            "0 0.5 0.5 0.25 0.5\r\n\r\n79 0.1 0.1 0.2 0.2\n",
        ),
        (
            "scores.txt",
            2 | 0xC0,
            "0 0.5 0.5 1 1 0.75\n1 0.5 0.5 0.1 0.1\n",
        ),
        ("polygon.txt", 2, "0 0.1 0.1 0.2 0.1 0.2 0.2\n"),
        ("classes.txt", 3, "person\r\nred car\n"),
        ("list.yaml", 3, "nc: 2\nnames: ['person', \"red car\"]\n"),
        (
            "map.yaml",
            3,
            "train: [a, {b: c}]\nnames:\n  0: person\n  7: car  # red\n",
        ),
    ] {
        seed("detections", name, options, text.as_bytes());
    }
}

fn plans() {
    let items: Vec<Item> = ["a", "b", "c d/\u{fc}", "t.tar"]
        .into_iter()
        .map(item)
        .collect();
    let limits = ShardLimits {
        images_per_shard: 2,
        bytes_per_shard: 1 << 20,
    };
    let first = SegmentFile::new(
        "_plan/items-0.parquet".to_owned(),
        ShardId(0),
        cut(items, limits, ShardId(0)).shards,
    );
    let mut draft = SegmentDraft {
        number: 0,
        previous: None,
        fingerprint: serde_json::from_str("\"f00d\"").expect("a string"),
        kind: SegmentKind::First,
        created_unix_seconds: 1_700_000_000,
        tool_version: "0.1.0".to_owned(),
        source: "s3://bucket/photos".to_owned(),
        changed: 1,
        vanished: 0,
        files: vec![first],
    };
    let head = Segment::seal(draft.clone());
    seed("plan", "first.json", 0, &head.to_json());
    seed("plan", "first-resealed.json", 2, &head.to_json());
    draft.number = 1;
    draft.kind = SegmentKind::Retry;
    draft.previous = Some(head.digest);
    draft.files[0].first_shard = ShardId(3);
    for (at, shard) in draft.files[0].shards.iter_mut().enumerate() {
        shard.id = ShardId(3 + at as u32);
        shard.retry_of = Some(ShardId(at as u32));
    }
    seed(
        "plan",
        "retry-resealed.json",
        2,
        &Segment::seal(draft).to_json(),
    );

    let kinds = [
        PlanRowKind::Image,
        PlanRowKind::Tar,
        PlanRowKind::Rows {
            row_group: 3,
            rows: 1 << 40,
        },
    ];
    let rows: Vec<PlanRow> = kinds.into_iter().map(plan_row).collect();
    let meta = ParquetMeta {
        fingerprint: "f00d".to_owned(),
        entries: [("shards".to_owned(), "3".to_owned())].into(),
    };
    for (name, rows) in [("items.parquet", &rows[..]), ("no-items.parquet", &[])] {
        let file = plan_rows_to_parquet(rows, &meta).expect("the rows fit");
        seed("plan", name, 1, &file);
    }
}

fn item(key: &str) -> Item {
    let kind = match key.ends_with(".tar") {
        true => ItemKind::Tar,
        false => ItemKind::Image,
    };
    Item {
        key: key.into(),
        uri: None,
        bytes: 640,
        etag: Some("\"5d\"".into()),
        kind,
        extras: None,
    }
}

fn plan_row(kind: PlanRowKind) -> PlanRow {
    PlanRow {
        shard: 7,
        key: "b c/\u{fc}.jpg".to_owned(),
        uri: Some("s3://bucket/x".to_owned()),
        bytes: 1_234,
        etag: None,
        kind,
        reason: Some("no_uri".to_owned()),
        detail: Some("row 9 has no uri".to_owned()),
        caption: Some("two\nlines".to_owned()),
        boxes: Some(vec![[0.5, 1.0, 8.0, 6.0], [0.0; 4]]),
        labels: Some(vec!["a cat".to_owned()]),
        scores: Some(vec![0.5, 0.25]),
        points: Some(vec![[3.0, 2.0, 1.0]]),
    }
}

/// The files that are shipped, overrides, and locations.
fn settings() {
    for (folder, options) in [("pipelines", 0), ("configs", 1)] {
        for entry in fs::read_dir(Path::new(ROOT).join(folder)).expect("the folder is there") {
            let path = entry.expect("the folder can be listed").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let file = fs::read(&path).expect("the file can be read");
            seed("config", &name, options, &file);
        }
    }
    let grids = "name='g'\nsource={kind='parquet',path='a',image_column='x'}\nmodel.checkpoint='m'\n\
                 [prompts]\npoint_grids=[[[0.5,1],[0,0.25]],[[1e-3,-0.0]]]\ncrop_n_layers=1\n";
    seed("config", "grids.toml", 0, grids.as_bytes());
    let overrides = "masks.box_nms_thresh=0.5\nrun.device=cuda:0\nlog.level=\"info\"\nsource.kind=manifest\n\
                     source.uri_column=u\noutput.max_put_bytes=\"5 MiB\"\nname=x\nmasks=3\n.=\n";
    seed("config", "overrides", 2, overrides.as_bytes());
    for (name, location) in [
        ("path", "photos/a:b"),
        ("s3", "s3://bucket/a b"),
        ("user", "https://@host:80/x?y#z"),
        ("ipv6", "http://[::1]:9000"),
        ("file", "file:///a"),
        ("scheme", "ftp://@h"),
    ] {
        seed(
            "config",
            &format!("location-{name}"),
            3,
            location.as_bytes(),
        );
    }
}
