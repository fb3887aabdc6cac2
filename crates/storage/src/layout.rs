//! The names of the objects of an output.
//!
//! ```text
//! _job.json                                    what the output was made by; written first
//! _plan/000000.json                            the head of a segment of the plan
//! _plan/000000-<digest>/items-00000.parquet    the items of its shards
//! masks/part-000012.parquet                    the mask rows of a shard
//! images/part-000012.parquet                   the image rows of a shard
//! masks/part-000012-<attempt>.parquet          the same, too large for one write
//! _commits/000012.json                         the marker that commits a shard
//! _failures/000012-<attempt>.json              why a shard was given up
//! _workers/<id>.json                           what a worker does; overwritten, no part of the output
//! _manifest.parquet, _manifest-000002.parquet  what is committed, written when all is
//! ```

/// What the output was made by; written first.
pub const JOB_RECORD: &str = "_job.json";

/// Where the markers are.
pub const COMMITS: &str = "_commits";

/// Where the mask rows are.
pub const MASKS: &str = "masks";

/// Where the image rows are.
pub const IMAGES: &str = "images";

/// Where the plan is.
pub const PLAN: &str = "_plan";

/// Where workers leave signs of life: the only objects that are overwritten.
pub const WORKERS: &str = "_workers";

/// Where failures are written down.
pub const FAILURES: &str = "_failures";

/// The mask rows of a shard: `masks/part-000012.parquet`.
pub fn masks_part(shard: u32) -> String {
    format!("{MASKS}/part-{shard:06}.parquet")
}

/// The image rows of a shard: `images/part-000012.parquet`.
pub fn images_part(shard: u32) -> String {
    format!("{IMAGES}/part-{shard:06}.parquet")
}

/// The name of one attempt for a part: `masks/part-000012-0123456789abcdef.parquet`.
pub(crate) fn attempt_part(part: &str, attempt: &str) -> String {
    let part = part.strip_suffix(".parquet").unwrap_or(part);
    format!("{part}-{attempt}.parquet")
}

/// The marker that commits a shard: `_commits/000012.json`.
pub fn marker(shard: u32) -> String {
    format!("{COMMITS}/{shard:06}.json")
}

/// The head of a segment of the plan: `_plan/000000.json`.
pub fn plan_head(segment: u32) -> String {
    format!("{PLAN}/{segment:06}.json")
}

/// A file of plan items: `_plan/000000-3f2a9c01b4de/items-00000.parquet`.
///
/// `digest` tells planners that saw different listings apart.
pub fn plan_items(segment: u32, digest: &str, file: u32) -> String {
    format!("{PLAN}/{segment:06}-{digest}/items-{file:05}.parquet")
}

/// Whether a path is that of a plan's head.
pub fn is_plan_head(path: &str) -> bool {
    numbered(path, PLAN, ".json").is_some_and(|segment| plan_head(segment) == path)
}

/// A worker's sign of life: `_workers/ID.json`. Characters of its name that are no letters, digits,
/// `-`, `_` or `.` become `-`.
pub fn worker(id: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let id: String = id.chars().map(|c| if safe(c) { c } else { '-' }).collect();
    format!("{WORKERS}/{id}.json")
}

/// Whether a path is that of a sign of life, which may be overwritten.
pub(crate) fn is_worker(path: &str) -> bool {
    let name = path.strip_prefix(WORKERS);
    name.is_some_and(|name| name.starts_with('/'))
}

/// Whether an output would not be whole without it: it is never deleted.
pub(crate) fn is_kept(path: &str) -> bool {
    let is_marker = path
        .strip_prefix(COMMITS)
        .is_some_and(|name| name.starts_with('/'));
    path == JOB_RECORD || is_marker || is_plan_head(path)
}

/// A failure of a shard: `_failures/000012-ATTEMPT.json`.
pub fn failure(shard: u32, attempt: &str) -> String {
    format!("{FAILURES}/{shard:06}-{attempt}.json")
}

/// The shard of a failure's path; `None` for any other path.
pub fn shard_of_failure(path: &str) -> Option<u32> {
    let name = path.strip_prefix(FAILURES)?.strip_prefix('/')?;
    let (shard, attempt) = name.strip_suffix(".json")?.split_once('-')?;
    let shard = shard.parse().ok()?;
    (failure(shard, attempt) == path).then_some(shard)
}

/// The table of all parts, when every shard of a plan of so many segments is committed:
/// `_manifest.parquet`, and `_manifest-000002.parquet` for a plan that was extended.
pub fn manifest(segments: u32) -> String {
    match segments {
        0 | 1 => "_manifest.parquet".to_owned(),
        segments => format!("_manifest-{segments:06}.parquet"),
    }
}

/// The shard of a marker's path; `None` for any other path.
pub(crate) fn shard_of_marker(path: &str) -> Option<u32> {
    numbered(path, COMMITS, ".json").filter(|shard| marker(*shard) == path)
}

/// The number of `FOLDER/NUMBER.EXTENSION`, however many digits.
fn numbered(path: &str, folder: &str, extension: &str) -> Option<u32> {
    let name = path.strip_prefix(folder)?.strip_prefix('/')?;
    name.strip_suffix(extension)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_paths_read_back_and_others_do_not() {
        for shard in [0, 12, 999_999, 1_000_000] {
            assert_eq!(shard_of_marker(&marker(shard)), Some(shard));
        }
        for path in [
            "_commits/12.json",
            "_commits/000012.json.bak",
            "_commits/x.json",
            "000012.json",
        ] {
            assert_eq!(shard_of_marker(path), None, "{path}");
        }
    }

    #[test]
    fn names_are_as_documented() {
        let part = attempt_part(&masks_part(12), "0123456789abcdef");
        assert_eq!(part, "masks/part-000012-0123456789abcdef.parquet");
        assert_eq!(worker("gpu 7/a\u{fc}"), "_workers/gpu-7-a-.json");
        assert!(is_worker("_workers/x.json") && !is_worker("_workersx/y.json"));
    }

    #[test]
    fn an_output_keeps_what_it_is_not_whole_without() {
        for path in [
            "_job.json",
            "_commits/000001.json",
            "_commits/odd",
            "_plan/000000.json",
        ] {
            assert!(is_kept(path), "{path}");
        }
        for path in [
            &plan_items(0, "0123456789ab", 0),
            "_workers/a.json",
            "_commitsx/1.json",
        ] {
            assert!(!is_kept(path), "{path}");
        }
    }

    #[test]
    fn failures_and_heads_read_back_and_others_do_not() {
        assert_eq!(shard_of_failure(&failure(12, "0a-1")), Some(12));
        for path in [
            "_failures/12-a.json",
            "_failures/000012.json",
            "x/000012-a.json",
        ] {
            assert_eq!(shard_of_failure(path), None, "{path}");
        }
        assert!(is_plan_head(&plan_head(3)));
        assert!(!is_plan_head(&plan_items(3, "abc", 0)));
        assert!(!is_plan_head("_plan/3.json"));
        assert_eq!(manifest(1), "_manifest.parquet");
        assert_eq!(manifest(2), "_manifest-000002.parquet");
    }
}
