//! Frozen plans: the heads of segments and the tables of their items.

use bytes::Bytes;
use maskmill_formats::plan_items::{plan_rows_to_parquet, read_plan_rows};
use maskmill_job::{Plan, Segment, SegmentDraft, SegmentFile};

use crate::panics::guarded;
use crate::{is_set, split};

/// Reads a part of a plan: what is accepted survives being written.
///
/// Bit 0 of the options: a table of items instead of the head of a segment. Bit 1: the head's digests are made true
/// first, as whoever edits a plan on purpose could.
pub fn plan(data: &[u8]) {
    guarded(|| check(data));
}

fn check(data: &[u8]) {
    let (options, file) = split(data);
    if is_set(options, 0) {
        return check_items(file);
    }
    if !is_set(options, 1) {
        if let Ok(segment) = Segment::from_json(file, "a head") {
            check_segment(&segment);
        }
        return;
    }
    let Ok(segment) = serde_json::from_slice::<Segment>(file) else {
        return;
    };
    let sealed = seal(segment);
    match Segment::from_json(&sealed.to_json(), "a head") {
        Ok(read) => {
            assert_eq!(read, sealed);
            check_segment(&read);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn seal(segment: Segment) -> Segment {
    let files = segment.files.into_iter();
    Segment::seal(SegmentDraft {
        number: segment.number,
        previous: segment.previous,
        fingerprint: segment.fingerprint,
        kind: segment.kind,
        created_unix_seconds: segment.created_unix_seconds,
        tool_version: segment.tool_version,
        source: segment.source,
        changed: segment.changed,
        vanished: segment.vanished,
        files: files
            .map(|file| SegmentFile::new(file.path, file.first_shard, file.shards))
            .collect(),
    })
}

fn check_segment(segment: &Segment) {
    let again = Segment::from_json(&segment.to_json(), "a head");
    assert_eq!(again.as_ref(), Ok(segment));
    let Ok(plan) = Plan::of(vec![segment.clone()]) else {
        return;
    };
    assert_eq!(plan.digest(), segment.digest);
    let shards = plan.shards().count();
    assert_eq!(plan.next_shard().0 as usize, shards, "shards begin at 0");
    for (at, shard) in plan.shards().enumerate() {
        assert_eq!(shard.id.0 as usize, at);
        assert_eq!(plan.shard(shard.id), Some(shard));
        let file = plan.file_of(shard.id).expect("every shard is in a file");
        assert!(file.shards.contains(shard));
    }
    assert_eq!(plan.shard(plan.next_shard()), None);
    let known = plan.shards().all(|shard| shard.images.is_some());
    assert!(known || plan.images().is_none());
    assert!(plan.shards().all(|shard| shard.bytes <= plan.bytes()));
}

fn check_items(file: &[u8]) {
    let (rows, meta) = match read_plan_rows(Bytes::copy_from_slice(file)) {
        Ok(read) => read,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let written = plan_rows_to_parquet(&rows, &meta).expect("what was read can be written");
    let again = read_plan_rows(written.into()).expect("what was written can be read");
    // As text: a box may have a corner that is not a number.
    assert_eq!(format!("{again:?}"), format!("{:?}", (rows, meta)));
}
