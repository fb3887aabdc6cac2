//! `_failures/`: shards that could not be done, with the cause.
//!
//! A record is written once and never changed; a shard that fails again gets another. Whether a shard
//! has failed is thus: it has a record and no marker.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::error::StorageError;
use crate::layout;
use crate::output::OutputStore;
use crate::redact::redacted;

/// Reads at the same time, to hide the latency of a remote store.
const READS_IN_FLIGHT: usize = 32;

/// Why a shard was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The shard.
    pub shard: u32,
    /// How often it was begun.
    pub attempts: u32,
    /// What went wrong in the last attempt.
    pub cause: String,
    /// Which worker gave up.
    pub worker: String,
    /// The version of maskmill that gave up.
    pub tool_version: String,
    /// When, by the clock of that machine.
    pub at_unix_seconds: u64,
}

/// Writes a failure down. Idempotent for the same worker, shard and second.
///
/// # Errors
/// A store that fails.
pub async fn record_failure(
    store: &OutputStore,
    record: &FailureRecord,
) -> Result<(), StorageError> {
    let attempt = format!("{}-{}", record.at_unix_seconds, record.worker);
    let path = layout::failure(record.shard, &attempt);
    let record = FailureRecord {
        cause: redacted(&record.cause),
        ..record.clone()
    };
    let mut json = serde_json::to_vec_pretty(&record).expect("a record has string keys");
    json.push(b'\n');
    store.put_if_absent(&path, json.into()).await?;
    Ok(())
}

/// The last failure of each shard that has one, committed since or not. Changes nothing.
///
/// A record that cannot be read counts: its shard is there under its number, with that as the cause.
///
/// # Errors
/// A store that fails.
pub async fn failed_shards(
    store: &OutputStore,
) -> Result<BTreeMap<u32, FailureRecord>, StorageError> {
    let listed = store.list(layout::FAILURES).await?;
    let paths = listed.into_iter().filter_map(|object| {
        let shard = layout::shard_of_failure(&object.path)?;
        Some((shard, object.path))
    });
    let records = stream::iter(paths).map(|(shard, path)| async move {
        // One deleted since is forgiven.
        let found = store.get(&path).await?;
        Ok::<_, StorageError>(found.map(|bytes| read(shard, &path, &bytes)))
    });
    let records: Vec<Option<FailureRecord>> =
        records.buffered(READS_IN_FLIGHT).try_collect().await?;
    let mut last: BTreeMap<u32, FailureRecord> = BTreeMap::new();
    for record in records.into_iter().flatten() {
        let known = last.get(&record.shard);
        if known.is_none_or(|known| known.at_unix_seconds <= record.at_unix_seconds) {
            last.insert(record.shard, record);
        }
    }
    Ok(last)
}

fn read(shard: u32, path: &str, bytes: &[u8]) -> FailureRecord {
    let record = serde_json::from_slice::<FailureRecord>(bytes);
    match record {
        Ok(record) if record.shard == shard => record,
        _ => FailureRecord {
            shard,
            attempts: 0,
            cause: format!("{path} cannot be read as the record of a failure"),
            worker: String::new(),
            tool_version: String::new(),
            at_unix_seconds: 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn the_last_failure_of_a_shard_counts() {
        let store = OutputStore::over(Arc::new(InMemory::new()), "memory");
        for (shard, at, cause) in [(7, 20, "late"), (7, 10, "early"), (3, 5, "other")] {
            let record = FailureRecord {
                shard,
                attempts: 3,
                cause: cause.to_string(),
                worker: "w".to_string(),
                tool_version: "0".to_string(),
                at_unix_seconds: at,
            };
            record_failure(&store, &record).await.unwrap();
            record_failure(&store, &record).await.unwrap();
        }
        let path = layout::failure(9, "x");
        store.put_if_absent(&path, "{".into()).await.unwrap();
        let failed = failed_shards(&store).await.unwrap();
        let causes: Vec<(u32, &str)> = failed.iter().map(|(s, f)| (*s, f.cause.as_str())).collect();
        assert_eq!(causes[..2], [(3, "other"), (7, "late")]);
        assert!(causes[2].1.contains("000009-x.json cannot be read"));
    }
}
