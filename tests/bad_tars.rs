//! WebDataset shards, whole, damaged and hostile, through the whole program.

mod support;

use std::fs;

use maskmill_formats::rows::ImageStatus;
use support::{Job, Rows, files_below, jpeg, picture, png, small_sample};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// A member with any bytes as its name, padded to whole blocks.
fn member(name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::Regular);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), data].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn tar(members: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = members
        .iter()
        .flat_map(|(name, data)| member(name, data))
        .collect();
    bytes.extend([0; 2 * BLOCK]);
    bytes
}

fn photo(seed: u32) -> Vec<u8> {
    png(&picture(48, 40, seed), None)
}

/// Tars with a whole one among them, `good.tar`, whose image has masks whatever the others are.
fn rows_of(tars: &[(&str, Vec<u8>)]) -> Rows {
    let job = Job::of_tars();
    job.put("good.tar", &tar(&[(b"fine.png", &photo(1))]));
    for (name, bytes) in tars {
        job.put(name, bytes);
    }
    let rows = job.rows_of_run();
    rows.expect_masks("good.tar/fine");
    job.maskmill(&["verify", "out/job"]).expect_code(0);
    rows
}

#[test]
fn keys_are_the_tar_and_the_sample() {
    let cat = small_sample("cat.png", 80);
    let rows = rows_of(&[
        (
            "train/0001.tar",
            tar(&[
                (b"cat.png", &png(&cat, None)),
                (b"cat.json", b"{\"caption\": \"a cat\"}"),
                (b"sub/b.left.jpg", &jpeg(&picture(30, 50, 3))),
            ]),
        ),
        ("train/0002.tar", tar(&[(b"cat.png", &png(&cat, None))])),
        ("notes.txt", b"not a tar".to_vec()),
    ]);
    assert_eq!(
        rows.keys(),
        [
            "good.tar/fine",
            "train/0001.tar/cat",
            "train/0001.tar/sub/b",
            "train/0002.tar/cat"
        ]
    );
    for image in &rows.images {
        rows.expect_masks(&image.image_key);
    }
    // Equal photos of two shards have equal masks under their own keys.
    let [first, second] = ["train/0001.tar/cat", "train/0002.tar/cat"].map(|key| rows.masks(key));
    assert_eq!(first.len(), second.len());
    for (first, second) in first.iter().zip(second) {
        assert_eq!(first.rle, second.rle);
    }
    assert_eq!(rows.image("train/0002.tar/cat").shard, 2);
}

#[test]
fn a_tar_cut_in_the_middle_keeps_what_precedes_the_cut() {
    let whole = tar(&[
        (b"a.png", &photo(1)),
        (b"b.png", &photo(2)),
        (b"c.png", &photo(3)),
    ]);
    let second = member(b"a.png", &photo(1)).len();
    // Inside the data of the second member, and inside its header.
    for cut in [second + BLOCK + 100, second + 100] {
        let rows = rows_of(&[("cut.tar", whole[..cut].to_vec())]);
        rows.expect_masks("cut.tar/a");
        let detail = rows.expect_reject("cut.tar/#rest", "tar_truncated");
        assert!(
            detail.contains("cut.tar") && detail.contains(&format!("cut off at byte {cut}")),
            "{detail}"
        );
        assert_eq!(rows.images.len(), 3, "{:?}", rows.keys());
    }
}

#[test]
fn a_damaged_header_ends_the_shard_with_a_row() {
    let mut bytes = tar(&[(b"a.png", &photo(1)), (b"b.png", &photo(2))]);
    let second = member(b"a.png", &photo(1)).len();
    bytes[second + 5] ^= 0x20;
    let rows = rows_of(&[("damaged.tar", bytes)]);
    rows.expect_masks("damaged.tar/a");
    let detail = rows.expect_reject("damaged.tar/#rest", "tar_corrupt");
    assert!(detail.contains("wrong checksum"), "{detail}");
}

#[test]
fn files_that_are_no_tar() {
    let rows = rows_of(&[
        ("empty.tar", Vec::new()),
        ("text.tar", b"not a tar at all\n".repeat(100)),
        ("packed.tar.zst", b"\x28\xb5\x2f\xfd".to_vec()),
        ("renamed.tar", [&b"\x1f\x8b\x08\0"[..], &[7; 600]].concat()),
    ]);
    rows.expect_reject("empty.tar/#rest", "tar_truncated");
    let detail = rows.expect_reject("text.tar/#rest", "tar_corrupt");
    assert!(detail.contains("no tar header"), "{detail}");
    let detail = rows.expect_reject("renamed.tar/#rest", "tar_corrupt");
    assert!(detail.contains("gzip"), "{detail}");
    let detail = rows.expect_reject("packed.tar.zst", "compressed_tar");
    assert!(detail.contains("unpack it"), "{detail}");
}

#[test]
fn names_that_climb_out_are_rejected_and_nothing_is_written_there() {
    let job = Job::of_tars();
    let shard = tar(&[
        (b"../../escaped.png", &photo(1)),
        (b"/tmp/maskmill-absolute.png", &photo(2)),
        (b"inner/../up.png", &photo(3)),
        (b"fine.png", &photo(4)),
    ]);
    job.put("hostile.tar", &shard);
    let rows = job.rows_of_run();
    for name in ["../../escaped", "/tmp/maskmill-absolute", "inner/../up"] {
        let detail = rows.expect_reject(&format!("hostile.tar/{name}"), "unsafe_name");
        assert!(detail.contains("absolute or contains"), "{detail}");
    }
    rows.expect_masks("hostile.tar/fine");

    let exported = job.maskmill(&["export", "out/job", "--format", "sa1b", "--out", "sa1b"]);
    exported.expect_code(0);
    let json = files_below(&job.path("sa1b"));
    assert_eq!(json, [job.path("sa1b/hostile.tar/fine.json")]);
    let files = files_below(&job.path(""));
    let strays = files.iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.contains("escaped") || name.contains("absolute")
    });
    assert_eq!(strays.count(), 0, "{files:?}");
}

#[test]
fn two_samples_with_one_key() {
    let rows = rows_of(&[(
        "twice.tar",
        tar(&[
            (b"a.png", &photo(1)),
            (b"a.jpg", &jpeg(&picture(48, 40, 2))),
            (b"a.png", &photo(3)),
            (b"b.png", &photo(4)),
        ]),
    )]);
    rows.expect_masks("twice.tar/a");
    for key in ["twice.tar/a#2", "twice.tar/a#3"] {
        let detail = rows.expect_reject(key, "duplicate_key");
        assert!(detail.contains("an earlier image has the key"), "{detail}");
    }
    rows.expect_masks("twice.tar/b");
}

#[test]
fn names_that_are_not_utf8() {
    let rows = rows_of(&[(
        "latin1.tar",
        tar(&[(b"caf\xE9.png", &photo(1)), (b"caf\xC3\xA9.png", &photo(2))]),
    )]);
    rows.expect_masks("latin1.tar/caf\u{e9}");
    let rejects: Vec<_> = rows
        .images
        .iter()
        .filter(|row| row.status == ImageStatus::Rejected)
        .collect();
    let [reject] = rejects[..] else {
        panic!("one reject, not {rejects:?}")
    };
    assert_eq!(reject.reason.as_deref(), Some("non_utf8_name"));
    let detail = reject.detail.as_deref().unwrap();
    assert!(detail.contains(r"caf\xe9.png"), "{detail}");
}

#[test]
fn bad_images_in_a_tar_are_rows_too() {
    let whole = jpeg(&picture(60, 50, 1));
    let mut job = Job::of_tars();
    let shard = tar(&[
        (b"empty.jpg", b""),
        (b"cut.jpg", &whole[..whole.len() / 2]),
        (b"text.png", b"no picture"),
        (b"large.bmp", &[0; 9000]),
        (b"whole.jpg", &whole),
    ]);
    job.put("mixed.tar", &shard);
    job.set("limits.max_file_bytes=8000");
    let rows = job.rows_of_run();
    rows.expect_reject("mixed.tar/empty", "empty");
    rows.expect_reject("mixed.tar/cut", "truncated");
    rows.expect_reject("mixed.tar/text", "not_an_image");
    let detail = rows.expect_reject("mixed.tar/large", "entry_too_large");
    assert!(detail.contains("9000 bytes, at most 8000"), "{detail}");
    rows.expect_masks("mixed.tar/whole");
    assert_eq!(rows.images.len(), 5);
}

#[cfg(unix)]
#[test]
fn a_tar_that_cannot_be_opened_is_a_row() {
    let job = Job::of_tars();
    job.put("good.tar", &tar(&[(b"fine.png", &photo(1))]));
    std::os::unix::fs::symlink("nowhere", job.path("source/gone.tar")).unwrap();
    let rows = job.rows_of_run();
    rows.expect_masks("good.tar/fine");
    let detail = rows.expect_reject("gone.tar", "unreadable");
    assert!(
        detail.contains("a link that cannot be followed"),
        "{detail}"
    );
}

/// One tar file instead of a folder of them.
#[test]
fn a_source_may_be_one_tar() {
    let mut job = Job::of_tars();
    fs::write(job.path("only.tar"), tar(&[(b"a.png", &photo(1))])).unwrap();
    job.set("source.path=only.tar");
    job.rows_of_run().expect_masks("only.tar/a");
}
