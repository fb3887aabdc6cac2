//! Heads written and read back, and every way to damage one.

use serde_json::Value;

use super::*;
use crate::item::{Item, ItemKind};
use crate::shard::{ShardLimits, cut};

/// Images named after `keys`, of 10 bytes and more.
pub(crate) fn images(keys: &[&str]) -> Vec<Item> {
    let image = |(at, key): (usize, &&str)| Item {
        key: (*key).into(),
        uri: None,
        bytes: 10 + at as u64,
        etag: Some("\"5d\"".into()),
        kind: ItemKind::Image,
        extras: None,
    };
    keys.iter().enumerate().map(image).collect()
}

/// The fingerprint of a job called `name`.
pub(crate) fn fingerprint(name: &str) -> Fingerprint {
    serde_json::from_value(Value::from(name)).expect("a fingerprint is a string")
}

/// The segment behind `previous` with these files, each a list of shards of two images at most.
pub(crate) fn draft(previous: Option<&Segment>, first: u32, files: &[&[&str]]) -> SegmentDraft {
    let limits = ShardLimits {
        images_per_shard: 2,
        bytes_per_shard: u64::MAX,
    };
    let mut next = ShardId(first);
    let mut drafted = Vec::new();
    for (at, keys) in files.iter().enumerate() {
        let shards = cut(images(keys), limits, next).shards;
        let file = SegmentFile::new(format!("_plan/items-{at:05}.parquet"), next, shards);
        next = ShardId(next.0 + file.shards.len() as u32);
        drafted.push(file);
    }
    SegmentDraft {
        number: previous.map_or(0, |previous| previous.number + 1),
        previous: previous.map(|previous| previous.digest.clone()),
        fingerprint: fingerprint("f00d"),
        kind: match previous {
            None => SegmentKind::First,
            Some(_) => SegmentKind::Extension,
        },
        created_unix_seconds: 1_700_000_000,
        tool_version: "0.1.0".to_string(),
        source: "s3://bucket/photos".to_string(),
        changed: 0,
        vanished: 0,
        files: drafted,
    }
}

fn segment() -> Segment {
    Segment::seal(draft(None, 0, &[&["a", "b", "c"], &["d"]]))
}

/// The head of a retry of shard 1 and a tar, to have every sort of value.
fn retry() -> Segment {
    let mut draft = draft(Some(&segment()), 3, &[&["c"]]);
    draft.kind = SegmentKind::Retry;
    let mut shards = draft.files[0].shards.clone();
    shards[0].retry_of = Some(ShardId(1));
    shards[0].images = None;
    draft.files[0] = SegmentFile::new("_plan/retry.parquet".to_string(), ShardId(3), shards);
    Segment::seal(draft)
}

fn read(json: &str) -> Result<Segment, PlanError> {
    Segment::from_json(json.as_bytes(), "_plan/000000.json")
}

#[test]
fn a_head_reads_back() {
    for written in [segment(), retry(), Segment::seal(draft(None, 0, &[]))] {
        let json = written.to_json();
        let name = "_plan/000000.json";
        assert_eq!(Segment::from_json(&json, name), Ok(written));
        assert_eq!(json.last(), Some(&b'\n'));
    }
}

#[test]
fn a_head_of_four_thousand_shards_is_small() {
    let shard = |id: u32| Shard {
        id: ShardId(id),
        images: Some(256),
        bytes: 1_073_000_000,
        items: 256,
        retry_of: None,
        digest: "0123456789abcdef".repeat(4),
    };
    let shards = (0..4000).map(shard).collect();
    let mut draft = draft(None, 0, &[]);
    draft.files = vec![SegmentFile::new("_plan/x".to_string(), ShardId(0), shards)];
    let json = Segment::seal(draft).to_json();
    assert!(json.len() < 400_000, "{} bytes", json.len());
}

/// Every byte changed by itself. What still reads has the same shards under the same digest.
#[test]
fn an_edited_head_is_refused() {
    for written in [segment(), retry()] {
        let json = written.to_json();
        let mut refused = 0;
        for at in 0..json.len() {
            for to in [b'0', b'7', b'x', b'"', b' ', b',', 0xff] {
                let mut edited = json.clone();
                edited[at] = to;
                let Ok(mut read) = Segment::from_json(&edited, "head") else {
                    refused += 1;
                    continue;
                };
                // What a reader may rename: nothing that decides rows.
                read.created_unix_seconds = written.created_unix_seconds;
                read.tool_version.clone_from(&written.tool_version);
                read.source.clone_from(&written.source);
                (read.changed, read.vanished) = (written.changed, written.vanished);
                for (read, written) in read.files.iter_mut().zip(&written.files) {
                    read.path.clone_from(&written.path);
                }
                assert_eq!(read, written, "byte {at} as {to}");
            }
        }
        assert!(refused > json.len(), "{refused} of {} bytes", json.len());
    }
}

#[test]
fn a_head_cut_short_is_refused_wherever_it_is_cut() {
    let json = segment().to_json();
    for length in 0..json.len() - 1 {
        assert!(Segment::from_json(&json[..length], "head").is_err());
    }
}

#[test]
fn what_does_not_agree_is_said() {
    let text = String::from_utf8(segment().to_json()).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        read(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    let said = edit("[2,21,2,", "[2,99,2,");
    let why = "the digest of the shards of _plan/items-00000.parquet does not agree";
    assert_eq!(
        said,
        format!(
            "_plan/000000.json: the plan was edited by hand or is damaged: {why}. Restore it from \
             a copy, or plan again into another output directory"
        )
    );
    for (from, to, part) in [
        ("\"items\":3", "\"items\":4", "is said to have 4 items"),
        ("\"first_shard\":2", "\"first_shard\":3", "does not agree"),
        ("f00d", "f00e", "its digest is"),
        ("\"kind\":\"first\"", "\"kind\":\"retry\"", "its digest is"),
        (
            "\"kind\":\"first\"",
            "\"kind\":\"third\"",
            "unknown variant",
        ),
        (
            "\"first_shard\":2",
            "\"first_shard\":4294967295",
            "does not agree",
        ),
    ] {
        let said = edit(from, to);
        assert!(said.contains(part), "{said}");
    }
    let said = edit("\"version\":1", "\"version\":2");
    assert!(
        said.starts_with("_plan/000000.json is a plan of version 2; this"),
        "{said}"
    );
}

/// Whoever reseals an edited head gets past the digests, and not past the numbers.
#[test]
fn shards_of_the_wrong_kind_or_number_are_refused() {
    let base = || draft(Some(&segment()), 3, &[&["x", "y", "z"], &["w"]]);
    let refused = |draft: SegmentDraft, part: &str| {
        let json = Segment::seal(draft).to_json();
        let said = Segment::from_json(&json, "head").unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    };
    let mut gap = base();
    let first_shard = ShardId(9);
    let mut moved = gap.files[1].shards.clone();
    moved[0].id = first_shard;
    gap.files[1] = SegmentFile::new("_plan/moved".to_string(), first_shard, moved);
    refused(
        gap,
        "the shards of _plan/moved begin at 000009, not behind those of",
    );

    let mut first = base();
    first.kind = SegmentKind::First;
    refused(first, "number 1 of kind First has a segment before it");
    let mut unlinked = base();
    unlinked.previous = None;
    refused(
        unlinked,
        "number 1 of kind Extension has no segment before it",
    );
    let mut retry_of_none = base();
    retry_of_none.kind = SegmentKind::Retry;
    refused(
        retry_of_none,
        "shard 000003 does not belong in the kind Retry",
    );

    let mut of_itself = base();
    of_itself.kind = SegmentKind::Retry;
    let mut shards = of_itself.files.remove(1).shards;
    shards[0].retry_of = Some(ShardId(5));
    of_itself.files = vec![SegmentFile::new("_plan/x".to_string(), ShardId(5), shards)];
    refused(
        of_itself,
        "shard 000005 repeats a shard that is not before it",
    );
}

#[test]
fn the_digest_covers_what_decides_rows_and_nothing_else() {
    let base = draft(None, 0, &[&["a", "b", "c"], &["d"]]);
    let mut same = base.clone();
    same.created_unix_seconds += 1;
    same.tool_version = "0.2.0".to_string();
    same.changed = 7;
    same.files[0].path = "_plan/elsewhere.parquet".to_string();
    assert_eq!(same.digest(), base.digest());
    assert_eq!(Segment::seal(same).digest, base.digest());

    let mut other_job = base.clone();
    other_job.fingerprint = fingerprint("beef");
    let mut other_link = base.clone();
    other_link.previous = Some("ab".to_string());
    let other_key = draft(None, 0, &[&["a", "b", "cc"], &["d"]]);
    let other_files = draft(None, 0, &[&["a", "b"], &["c", "d"]]);
    for other in [other_job, other_link, other_key, other_files] {
        assert_ne!(other.digest(), base.digest());
    }
}

#[test]
#[should_panic(expected = "shards are numbered on")]
fn shards_with_a_gap_make_no_file() {
    let mut shards = segment().files[0].shards.clone();
    shards[1].id = ShardId(7);
    SegmentFile::new("_plan/x".to_string(), ShardId(0), shards);
}
