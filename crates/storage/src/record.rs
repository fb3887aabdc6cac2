//! `_job.json`: an output directory belongs to the job that wrote it first.

use std::time::Duration;

use serde_json::Value;

use crate::error::StorageError;
use crate::layout::{JOB_RECORD, PLAN, WORKERS};
use crate::output::{OutputStore, PutOutcome};

/// Whose an output directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It was empty and is this job's now.
    New,
    /// It was this job's already: go on where it stopped.
    Resumed,
}

/// An output directory cannot be used by this job. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It is the output of a job with other settings, another model or another input.
    #[error(
        "{location} holds the output of another job and nothing was written. What differs \
         (there -> here):{}\nGive this job another name or output root, or set the values back",
        .differences.iter().map(|line| format!("\n  {line}")).collect::<String>()
    )]
    ForeignOutput {
        /// The root of the store.
        location: String,
        /// `masks.box_nms_thresh: 0.7 -> 0.8`, one per value.
        differences: Vec<String>,
    },

    /// It holds files and is no output.
    #[error(
        "{location} is not empty and has no {JOB_RECORD}, so it is not an output of maskmill \
         (it holds {found}, for one). Nothing was written; use another directory"
    )]
    NotAnOutput {
        /// The root of the store.
        location: String,
        /// One of the files in it.
        found: String,
    },

    /// Its record cannot be read.
    #[error(
        "{JOB_RECORD} in {location} is not a job's record; nothing was written. Use another \
         directory, or restore that file"
    )]
    CorruptRecord {
        /// The root of the store.
        location: String,
        /// What the JSON reader said.
        source: serde_json::Error,
    },

    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What must be equal for an output to be resumed, as a JSON pointer.
const IDENTITY: &str = "/fingerprint";

/// What may be there before the job's record is: a plan that was written before the first run, and
/// workers that say that they are coming.
const BEFORE_THE_JOB: [&str; 2] = [PLAN, WORKERS];

/// Values that may differ, or that only follow from others that are shown.
const UNSHOWN: [&str; 4] = [
    "fingerprint",
    "tool_version",
    "model.path",
    "model.precision",
];

/// What stands for a value that is not in a record. A pipeline's precision is written where it is not
/// this one, and records from before there was a choice do not have it at all.
fn unwritten(path: &str) -> Value {
    match path {
        "model.precision" | "pipeline.model.precision" => "f32".into(),
        _ => Value::Null,
    }
}

/// A write takes seconds; an hour leaves room for a stalled network disk.
const STAGING_IS_STALE: Duration = Duration::from_secs(3600);

/// Makes the output `store` this job's, or finds that it is, by `_job.json`. Idempotent, and safe
/// beside other workers of the same job.
///
/// `record` has `fingerprint`, which decides; its other values are there to explain a difference.
/// A directory that holds nothing but a plan counts as empty. On resuming, the unfinished files of killed processes are removed.
///
/// # Errors
/// An output of another job, a directory with other files, a record that cannot be read, or a
/// store that fails. Nothing has been written then.
pub async fn claim(store: &OutputStore, record: &Value) -> Result<Claim, ClaimError> {
    if let Some(theirs) = read_record(store).await? {
        return resume(store, &theirs, record).await;
    }
    if let Some(found) = store.any_object(&BEFORE_THE_JOB).await? {
        // Another worker of this job may have come between the two looks.
        return match read_record(store).await? {
            Some(theirs) => resume(store, &theirs, record).await,
            None => Err(ClaimError::NotAnOutput {
                location: store.location().to_string(),
                found,
            }),
        };
    }
    let mut json = serde_json::to_vec_pretty(record).expect("a JSON value");
    json.push(b'\n');
    match store.put_if_absent(JOB_RECORD, json.into()).await? {
        PutOutcome::Created => Ok(Claim::New),
        PutOutcome::AlreadyExists => {
            let theirs = read_record(store).await?.unwrap_or(Value::Null);
            resume(store, &theirs, record).await
        }
    }
}

/// The record of the job an output belongs to; `None` if it has none. Changes nothing.
///
/// # Errors
/// A record that is not JSON, or a store that fails.
pub async fn read_record(store: &OutputStore) -> Result<Option<Value>, ClaimError> {
    let Some(bytes) = store.get(JOB_RECORD).await? else {
        return Ok(None);
    };
    let record = serde_json::from_slice(&bytes);
    record
        .map(Some)
        .map_err(|source| ClaimError::CorruptRecord {
            location: store.location().to_string(),
            source,
        })
}

async fn resume(store: &OutputStore, theirs: &Value, ours: &Value) -> Result<Claim, ClaimError> {
    if theirs.pointer(IDENTITY) != ours.pointer(IDENTITY) {
        return Err(ClaimError::ForeignOutput {
            location: store.location().to_string(),
            differences: shown_differences(theirs, ours),
        });
    }
    store.sweep_staging(STAGING_IS_STALE).await?;
    Ok(Claim::Resumed)
}

/// The differences people can act on; where there are none, the version is what differs.
fn shown_differences(theirs: &Value, ours: &Value) -> Vec<String> {
    let mut all = Vec::new();
    differences("", theirs, ours, &mut all);
    let shown = |path: &str| !UNSHOWN.contains(&path);
    let (mut lines, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(path, _)| shown(path));
    if lines.is_empty() {
        lines = rest;
    }
    lines
        .into_iter()
        .map(|(path, change)| {
            // As the pipeline file has it.
            let path = path.strip_prefix("pipeline.").unwrap_or(&path);
            format!("{path}: {change}")
        })
        .collect()
}

fn differences(path: &str, theirs: &Value, ours: &Value, found: &mut Vec<(String, String)>) {
    if theirs == ours {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (theirs, ours) {
        let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let value = |map: &serde_json::Map<String, Value>| {
                map.get(key).cloned().unwrap_or_else(|| unwritten(&path))
            };
            differences(&path, &value(a), &value(b), found);
        }
        return;
    }
    let change = format!("{} -> {}", shown_value(theirs), shown_value(ours));
    found.push((path.to_string(), change));
}

/// A value on one line; what is absent or null is `off`, and long ones are cut.
fn shown_value(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = match value {
        Value::Null => "off".to_string(),
        value => value.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
