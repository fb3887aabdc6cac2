//! The names of the objects of an output.

/// What the output was made by; written first.
pub const JOB_RECORD: &str = "_job.json";

/// Where the markers are.
pub const COMMITS: &str = "_commits";

/// The mask rows of a shard: `masks/part-000012.parquet`.
pub fn masks_part(shard: u32) -> String {
    format!("masks/part-{shard:06}.parquet")
}

/// The image rows of a shard: `images/part-000012.parquet`.
pub fn images_part(shard: u32) -> String {
    format!("images/part-{shard:06}.parquet")
}

/// The marker that commits a shard: `_commits/000012.json`.
pub fn marker(shard: u32) -> String {
    format!("{COMMITS}/{shard:06}.json")
}

/// The shard of a marker's path; `None` for any other path.
pub(crate) fn shard_of_marker(path: &str) -> Option<u32> {
    let name = path.strip_prefix(COMMITS)?.strip_prefix('/')?;
    let shard = name.strip_suffix(".json")?.parse().ok()?;
    (marker(shard) == path).then_some(shard)
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
}
