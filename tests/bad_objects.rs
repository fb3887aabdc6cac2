//! Bad objects in a bucket: images, tars, tables, manifests and names. Each becomes a row or an error that
//! says what it is about, and what lies beside it keeps its masks.

mod support;

use std::io::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use maskmill_formats::rows::ImageStatus;
use maskmill_loopback_s3::LoopbackS3;
use parquet::arrow::ArrowWriter;
use support::{
    DATA, Job, MASKMILL, OUT, Ran, decoder_data, jpeg, picture, png, repository, small_sample,
};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

fn in_store(kind: &str) -> Job {
    Job::in_store(kind, &Arc::new(LoopbackS3::start()))
}

fn photo(seed: u32) -> Vec<u8> {
    png(&picture(48, 40, seed), None)
}

/// Runs the job to its end and verifies what it wrote.
fn run_and_verify(job: &Job) -> support::Rows {
    let rows = job.rows_of_run();
    let verified = job.maskmill(&["verify", &job.location()]);
    verified.expect_code(0);
    rows
}

/// A PNG file that says it is 100,000 x 100,000 pixels. Its checksum is wrong then, which nobody reaches.
fn huge_png() -> Vec<u8> {
    let mut bytes = decoder_data("png_1x1.png");
    let side = 100_000_u32.to_be_bytes();
    bytes[16..24].copy_from_slice(&[side, side].concat());
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    bytes
}

#[test]
fn images_in_a_bucket_become_the_rows_that_they_become_on_disk() {
    let whole = jpeg(&small_sample("china.jpg", 120));
    let drawn = photo(1);
    let mut damaged = drawn.clone();
    let data = damaged.windows(4).position(|name| name == b"IDAT").unwrap();
    damaged[data + 20] ^= 0xFF;
    let bad = [
        ("cut.jpg", whole[..whole.len() / 2].to_vec(), "truncated"),
        ("cut.png", drawn[..drawn.len() / 2].to_vec(), "truncated"),
        ("nothing.jpg", Vec::new(), "empty"),
        ("page.jpg", b"<html>404</html>\n".to_vec(), "not_an_image"),
        ("damaged.png", damaged, "corrupt"),
        ("huge.png", huge_png(), "too_large"),
        ("heavy.bmp", vec![0; 30_000], "too_large"),
    ];
    let good = [
        "png_alpha.png",
        "png_bilevel.png",
        "png_gray16.png",
        "png_palette_transparent.png",
        "png_rgb16.png",
        "jpeg_cmyk.jpg",
        "jpeg_exif_6.jpg",
        "png_1x1.png",
        "jpeg_1x5000.jpg",
    ];
    let mut local = Job::of_images();
    let mut remote = in_store("images");
    for job in [&mut local, &mut remote] {
        for (key, bytes, _) in &bad {
            job.put(key, bytes);
        }
        for name in good {
            job.put(name, &decoder_data(name));
        }
        job.put("notes.txt", b"not an image");
        job.set("limits.max_file_bytes=20000")
            .set("source.images_per_shard=5");
    }
    let rows = run_and_verify(&remote);
    assert_eq!(rows, local.rows_of_run());
    for (key, _, reason) in bad {
        rows.expect_reject(key, reason);
    }
    for name in good {
        rows.expect_masks(name);
    }
    assert_eq!(rows.images.len(), 7 + 9);
}

/// A member's header, whatever it says of its size.
fn header(name: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// `bytes` and zeros up to a whole block.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn member(name: &[u8], data: &[u8]) -> Vec<u8> {
    let header = header(name, data.len() as u64);
    [header.as_bytes().to_vec(), padded(data)].concat()
}

fn tar(members: &[(&[u8], &[u8])]) -> Vec<u8> {
    let members = members.iter().map(|(name, data)| member(name, data));
    [members.collect::<Vec<_>>().concat(), vec![0; 2 * BLOCK]].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn tars_in_a_bucket_become_the_rows_that_they_become_on_disk() {
    let two = tar(&[(b"a.png", &photo(1)), (b"b.png", &photo(2))]);
    let second = member(b"a.png", &photo(1)).len();
    let mut damaged = two.clone();
    damaged[second + 5] ^= 0x20;
    let hostile = tar(&[
        (b"../../escaped.png", &photo(1)),
        (b"/tmp/maskmill-absolute.png", &photo(2)),
        (b"inner/../up.png", &photo(3)),
        (b"caf\xE9.png", &photo(4)),
        (b"twice.png", &photo(5)),
        (b"twice.jpg", &jpeg(&picture(48, 40, 6))),
        (b"empty.jpg", b""),
        (b"text.png", b"no picture"),
        (b"large.bmp", &[0; 9000]),
        (b"sub/fine.left.png", &photo(7)),
    ]);
    let mut local = Job::of_tars();
    let mut remote = in_store("webdataset");
    for job in [&mut local, &mut remote] {
        job.put("cut_in_data.tar", &two[..second + BLOCK + 100])
            .put("cut_in_header.tar", &two[..second + 100])
            .put("damaged.tar", &damaged)
            .put("deep/hostile.tar", &hostile)
            .put("empty.tar", b"")
            .put("packed.tar.gz", &gzip(&two))
            .put("packed.tar.zst", b"\x28\xB5\x2F\xFD")
            .put("text.tar", &b"not a tar at all\n".repeat(100))
            .put("notes.txt", b"no tar");
        job.set("limits.max_file_bytes=8000");
    }
    let rows = run_and_verify(&remote);
    assert_eq!(rows, local.rows_of_run());
    for (key, reason) in [
        ("cut_in_data.tar/#rest", "tar_truncated"),
        ("cut_in_header.tar/#rest", "tar_truncated"),
        ("damaged.tar/#rest", "tar_corrupt"),
        ("deep/hostile.tar/../../escaped", "unsafe_name"),
        ("deep/hostile.tar//tmp/maskmill-absolute", "unsafe_name"),
        ("deep/hostile.tar/inner/../up", "unsafe_name"),
        ("deep/hostile.tar/twice#2", "duplicate_key"),
        ("deep/hostile.tar/empty", "empty"),
        ("deep/hostile.tar/text", "not_an_image"),
        ("deep/hostile.tar/large", "entry_too_large"),
        ("empty.tar/#rest", "tar_truncated"),
        ("packed.tar.zst", "compressed_tar"),
        ("text.tar/#rest", "tar_corrupt"),
    ] {
        rows.expect_reject(key, reason);
    }
    for key in [
        "cut_in_data.tar/a",
        "cut_in_header.tar/a",
        "damaged.tar/a",
        "deep/hostile.tar/twice",
        "deep/hostile.tar/sub/fine",
        "packed.tar.gz/a",
        "packed.tar.gz/b",
    ] {
        rows.expect_masks(key);
    }
    let latin1 = rows.images.iter();
    let latin1 = latin1.filter(|row| row.reason.as_deref() == Some("non_utf8_name"));
    assert_eq!(latin1.count(), 1);
}

#[test]
fn every_key_of_a_bucket_is_a_row_whatever_its_name() {
    let long = format!("{}.png", "k".repeat(996));
    let good = [
        "a b.png",
        " lead and trail .png",
        "\u{fc}\u{1f408}/e\u{301}.png",
        "%2F.png",
        "a%20b.png",
        "100%.png",
        "a+b&c=d.png",
        "what?#.png",
        "back\\slash.png",
        "<xml>&amp;\"'.png",
        "..x/x...png",
        &long,
    ];
    let bad = [
        "up/../b.png",
        "./here.png",
        "two//parts.png",
        "new\nline.png",
        "tab\there.png",
        "bell\u{7}.png",
    ];
    let job = in_store("images");
    for (seed, key) in good.iter().chain(&bad).enumerate() {
        job.put(key, &photo(seed as u32));
    }
    let rows = run_and_verify(&job);
    for key in good {
        rows.expect_masks(key);
    }
    for key in bad {
        let detail = rows.expect_reject(key, "bad_key");
        assert!(detail.contains("rename it"), "{key:?}: {detail}");
    }
    assert_eq!(rows.images.len(), good.len() + bad.len());
    // Each was read under its own name: equal masks would mean that one was read for another.
    let digests = rows
        .images
        .iter()
        .filter(|row| row.status == ImageStatus::Ok);
    let digests: std::collections::BTreeSet<_> = digests.map(|row| &row.sha256).collect();
    assert_eq!(digests.len(), good.len());
}

/// Runs a job; with it the most memory that it ever had resident, in MiB.
#[cfg(target_os = "linux")]
fn run_measured(job: &Job) -> (Ran, u64) {
    use std::process::Stdio;
    let mut command = job.command(MASKMILL);
    command.args(job.arguments());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    // The peak only grows, so the last look has nearly all of it.
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kib) = line.and_then(|line| line.trim().strip_suffix(" kB")) {
            peak_kib = kib.parse().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(peak_kib > 0, "it ended before it was looked at: {ran:#?}");
    (ran, peak_kib / 1024)
}

/// A tar with one member, 3 GiB of zeros, in some 3 MB: streams of 64 MiB each, one behind the other.
fn bomb(name: &[u8]) -> Vec<u8> {
    let zeros = gzip(&vec![0; 64 << 20]).repeat(48);
    [
        gzip(header(name, 3 << 30).as_bytes()),
        zeros,
        gzip(&[0; 2 * BLOCK]),
    ]
    .concat()
}

/// As an image and as a text that is passed over; with the limit that files have, and with none to speak of.
#[cfg(target_os = "linux")]
#[test]
fn a_gzip_bomb_takes_little_memory_and_becomes_a_row() {
    let mut job = in_store("webdataset");
    job.put("image.tar.gz", &bomb(b"zeros.png"))
        .put("text.tar.gz", &bomb(b"zeros.txt"))
        .put("good.tar", &tar(&[(b"fine.png", &photo(1))]));
    for (output, limit) in [("a", "256MiB"), ("b", "16GiB")] {
        job.set(&format!("output.root=s3://{OUT}/{output}"))
            .set(&format!("limits.max_file_bytes={limit}"));
        let (ran, peak_mib) = run_measured(&job);
        ran.expect_code(0);
        assert!(peak_mib < 600, "{peak_mib} MiB with {limit}");
        let words = "2 images rejected: 2 tar_bomb";
        assert!(ran.stdout.contains(words), "{ran:#?}");
        assert!(ran.stdout.contains("1 images -> "), "{ran:#?}");
    }
}

/// A header whose size field is these twelve bytes.
fn with_size_field(name: &[u8], field: &[u8; 12]) -> Vec<u8> {
    let mut header = header(name, 0);
    header.as_old_mut().size = *field;
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[cfg(target_os = "linux")]
#[test]
fn headers_that_lie_about_sizes_take_little_memory_and_become_rows() {
    let end = vec![0; 2 * BLOCK];
    let whole = photo(1);
    let first = member(b"first.png", &whole);
    let pax = |record: &[u8]| {
        let mut extension = header(b"pax", record.len() as u64);
        extension.set_entry_type(EntryType::XHeader);
        extension.set_cksum();
        [extension.as_bytes().to_vec(), padded(record)].concat()
    };
    let mut long_name = header(b"././@LongLink", 1 << 40);
    long_name.set_entry_type(EntryType::GNULongName);
    long_name.set_cksum();
    let tail = member(b"b.png", &whole);
    let lies: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "two_to_63",
            header(b"b.png", 1 << 63).as_bytes().to_vec(),
            "tar_corrupt",
        ),
        (
            "negative",
            with_size_field(b"b.png", &[0xFF; 12]),
            "tar_corrupt",
        ),
        (
            "letters",
            with_size_field(b"b.png", b"seventeen   "),
            "tar_corrupt",
        ),
        (
            "name_of_1_tib",
            long_name.as_bytes().to_vec(),
            "tar_corrupt",
        ),
        (
            "pax_size",
            [pax(b"28 size=9223372036854775807\n"), tail.clone()].concat(),
            "tar_truncated",
        ),
        (
            "pax_letters",
            [pax(b"13 size=many\n"), tail.clone()].concat(),
            "tar_corrupt",
        ),
        (
            "text_of_4_eib",
            [header(b"b.txt", 1 << 62).as_bytes(), &padded(&whole)[..]].concat(),
            "tar_truncated",
        ),
        (
            "more_than_there_is",
            [
                header(b"b.png", 900_000).as_bytes(),
                &padded(&whole)[..],
                &tail,
            ]
            .concat(),
            "tar_truncated",
        ),
        (
            "less_than_there_is",
            [header(b"b.png", 5).as_bytes(), &padded(&whole)[..], &tail].concat(),
            "tar_corrupt",
        ),
    ];
    let mut job = in_store("webdataset");
    job.put("good.tar", &tar(&[(b"fine.png", &whole)]));
    for (name, lie, _) in &lies {
        let bytes = [first.clone(), lie.clone(), end.clone()].concat();
        job.put(&format!("{name}.tar"), &bytes);
        // The same within gzip, where the length of the object says nothing.
        job.put(&format!("{name}.tar.gz"), &gzip(&bytes));
    }
    let two = tar(&[(b"first.png", &whole), (b"second.png", &photo(2))]);
    let packed = gzip(&two);
    job.put("cut.tar.gz", &packed[..packed.len() - packed.len() / 4])
        .put("only_a_header.tar.gz", &packed[..10])
        .put(
            "garbage.tar.gz",
            &[&packed[..10], &[0x7F; 900][..]].concat(),
        )
        .put("packed_twice.tar.gz", &gzip(&packed));
    job.set("limits.max_file_bytes=16GiB");
    let (ran, peak_mib) = run_measured(&job);
    ran.expect_code(0);
    assert!(peak_mib < 600, "{peak_mib} MiB");

    let rows = job.rows();
    rows.expect_masks("good.tar/fine");
    rows.expect_masks("cut.tar.gz/first");
    for (name, _, reason) in &lies {
        for tar in [format!("{name}.tar"), format!("{name}.tar.gz")] {
            rows.expect_masks(&format!("{tar}/first"));
            let detail = rows.expect_reject(&format!("{tar}/#rest"), reason);
            assert!(detail.contains(&tar), "{detail}");
        }
    }
    rows.expect_reject("cut.tar.gz/#rest", "tar_truncated");
    rows.expect_reject("only_a_header.tar.gz/#rest", "tar_truncated");
    rows.expect_reject("garbage.tar.gz/#rest", "tar_corrupt");
    let detail = rows.expect_reject("packed_twice.tar.gz/#rest", "tar_corrupt");
    assert!(detail.contains("compressed with gzip"), "{detail}");
    // What the header of 5 bytes gave is no image, and a row all the same.
    for tar in ["less_than_there_is.tar", "less_than_there_is.tar.gz"] {
        rows.expect_reject(&format!("{tar}/b"), "not_an_image");
    }
    job.maskmill(&["verify", &job.location()]).expect_code(0);
}

/// A table of images, `rows_per_group` to a row group, with the keys `k0`, `k1`, ...
fn table(images: &[Vec<u8>], rows_per_group: usize) -> Vec<u8> {
    let keys: Vec<String> = (0..images.len()).map(|row| format!("k{row}")).collect();
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(images));
    let keys: ArrayRef = Arc::new(StringArray::from(keys));
    let batch = RecordBatch::try_from_iter([("image", images), ("key", keys)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    for start in (0..batch.num_rows()).step_by(rows_per_group) {
        let rows = rows_per_group.min(batch.num_rows() - start);
        writer.write(&batch.slice(start, rows)).unwrap();
        writer.flush().unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn tables_that_are_cut_or_damaged_are_rows_and_their_neighbours_are_read() {
    let images: Vec<Vec<u8>> = (0..5).map(photo).collect();
    let whole = table(&images, 2);
    let mut job = in_store("parquet");
    job.put("whole.parquet", &whole)
        .put("empty.parquet", b"")
        .put("text.parquet", &b"not a table\n".repeat(90))
        .put("no_rows.parquet", &table(&[], 2));
    for quarter in 1..4 {
        let cut = &whole[..whole.len() * quarter / 4];
        job.put(&format!("cut_{quarter}.parquet"), cut);
    }
    // Its end is whole, so that it is planned; the pages of its first group are not.
    let mut damaged = whole.clone();
    damaged[4..4 + images[0].len()].fill(0xA5);
    job.put("damaged.parquet", &damaged);
    job.set("source.images_per_shard=2");
    let rows = run_and_verify(&job);

    for row in 0..5 {
        rows.expect_masks(&format!("whole.parquet/{row:08}-k{row}"));
    }
    for row in 2..5 {
        rows.expect_masks(&format!("damaged.parquet/{row:08}-k{row}"));
    }
    let detail = rows.expect_reject("damaged.parquet/#rest-0", "table_corrupt");
    assert!(detail.contains("damaged.parquet"), "{detail}");
    let unreadable = ["empty", "text", "cut_1", "cut_2", "cut_3"];
    for name in unreadable {
        let key = format!("{name}.parquet");
        let detail = rows.expect_reject(&key, "table_corrupt");
        assert!(detail.contains(&key), "{detail}");
    }
    assert_eq!(rows.images.len(), 5 + 4 + unreadable.len());
}

#[test]
fn what_is_no_manifest_is_refused_and_nothing_is_written() {
    let csv = b"uri,caption\ns3://data/source/a.png,one\n";
    let uris: ArrayRef = Arc::new(StringArray::from(Vec::<String>::new()));
    let none = RecordBatch::try_from_iter([("uri", uris)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), none.schema(), None).unwrap();
    writer.write(&none).unwrap();
    let no_rows = writer.into_inner().unwrap();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("image.csv", photo(1), &["image.csv", "UTF-8"]),
        (
            "image.parquet",
            photo(1),
            &["image.parquet", "Parquet manifest cannot be read"],
        ),
        ("image.jsonl", photo(1), &["image.jsonl", "line 1"]),
        (
            "empty.csv",
            vec![],
            &["empty.csv", "it is empty; a header is needed"],
        ),
        ("empty.parquet", vec![], &["empty.parquet", "cannot be"]),
        (
            "empty.jsonl",
            vec![],
            &["empty.jsonl", "holds no rows in its manifest"],
        ),
        (
            "header.csv",
            b"uri,caption\n".to_vec(),
            &["holds no rows in its manifest"],
        ),
        (
            "header.parquet",
            no_rows,
            &["holds no rows in its manifest"],
        ),
        (
            "list.txt",
            csv.to_vec(),
            &["list.txt", "rename it after its format"],
        ),
        (
            "cut.jsonl",
            b"{\"uri\": \"a.png\"}\n{\"uri\": \"b".to_vec(),
            &["line 2"],
        ),
        ("gone.csv", vec![], &[]),
    ];
    for (name, bytes, words) in cases {
        let mut job = in_store("manifest");
        let missing = name == "gone.csv";
        if !missing {
            job.put(name, &bytes);
        }
        job.set(&format!("source.path=s3://data/source/{name}"));
        let ran = job.run();
        ran.expect_code(2).expect_error(words);
        if missing {
            ran.expect_error(&["gone.csv", "does not exist"]);
        }
        assert_eq!(job.server().keys(OUT, ""), [""; 0], "{name}");
    }

    let mut job = in_store("manifest");
    job.put("a.png", &photo(1)).put("list.csv", csv);
    job.set("source.path=s3://data/source/list.csv")
        .set("source.key_column=name");
    let ran = job.run();
    ran.expect_code(2)
        .expect_error(&["list.csv", "\"name\"", "uri", "caption"]);

    // A folder, in a bucket and on disk.
    let mut job = in_store("manifest");
    job.put("folder.csv/a.png", &photo(1));
    job.set("source.path=s3://data/source/folder.csv");
    job.run()
        .expect_code(2)
        .expect_error(&["folder.csv", "does not exist"]);
    std::fs::create_dir(job.path("folder.csv")).unwrap();
    job.set("source.path=folder.csv");
    job.run()
        .expect_code(2)
        .expect_error(&["folder.csv", "a folder"]);
    assert_eq!(job.server().keys(OUT, ""), [""; 0]);
}

#[test]
fn addresses_that_climb_or_lead_nowhere_are_rows() {
    let mut job = in_store("manifest");
    let inside = repository("samples/cat.png").display().to_string();
    let bad = [
        ("s3://data/source/../secret.png", "bad_uri"),
        ("s3://data/source/%2e%2e/secret.png", "missing"),
        ("../secret.png", "bad_uri"),
        ("s3://data//secret.png", "bad_uri"),
        ("s3:///secret.png", "bad_uri"),
        ("s3://data/source/new%0Aline.png", "missing"),
        ("ftp://host/secret.png", "bad_uri"),
        ("file://host/secret.png", "bad_uri"),
        ("sub/../a.png", "bad_uri"),
        ("s3://data/source/gone.png", "missing"),
        ("/nowhere/at/all.png", "missing"),
        ("/proc", "unreadable"),
    ];
    let mut list = "key,uri\n".to_owned();
    for (row, (uri, _)) in bad.iter().enumerate() {
        list += &format!("bad{row},{uri}\n");
    }
    list += &format!("absolute,{inside}\nrelative,a.png\nwhole,s3://data/source/a.png\nnone,\n");
    job.put("list.csv", list.as_bytes()).put("a.png", &photo(1));
    job.server().put(DATA, "secret.png", photo(2));
    job.set("source.path=s3://data/source/list.csv")
        .set("prompts.points_per_side=2");
    let rows = run_and_verify(&job);
    for (row, (uri, reason)) in bad.iter().enumerate() {
        let detail = rows.expect_reject(&format!("bad{row}"), reason);
        assert!(detail.contains(uri), "{uri}: {detail}");
    }
    rows.expect_reject("none", "no_uri");
    for key in ["absolute", "relative", "whole"] {
        rows.expect_masks(key);
    }
    let seen = job.server().requests();
    assert!(
        seen.iter()
            .all(|seen| !seen.key.ends_with("secret.png") || seen.key.contains('%'))
    );
}
