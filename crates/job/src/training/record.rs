//! What a run's directory was made by: only the same training file may go on in it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TrainingPipeline;
use crate::fingerprint::{Fingerprint, canonical_json};

/// Raised when the same training file begins to give other weights: a changed loss, a changed
/// order of draws, a corrected bug. A run begun before cannot go on after.
pub const TRAINING_VERSION: u32 = 1;

/// The fingerprint of `pipeline`, which begins with and learns from files whose SHA-256 (hex) are
/// in `files`, by their settings: `model.checkpoint`, `data[0].annotations`.
pub fn training_fingerprint(
    pipeline: &impl Serialize,
    files: &BTreeMap<String, String>,
) -> Fingerprint {
    Fingerprint::of_value(&json!({
        "training_version": TRAINING_VERSION,
        "files": files,
        "training": pipeline,
    }))
}

/// What a run's directory was made by, written once as `_train.json`.
///
/// A later run may go on in the directory if `fingerprint` is its own. `P` is the training file; one that is there may be
/// read as any JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord<P = TrainingPipeline> {
    /// The version of maskmill that began the run.
    pub tool_version: String,
    /// Which weights the run ends with.
    pub fingerprint: Fingerprint,
    /// The training file with all defaults filled in.
    pub pipeline: P,
    /// As for [`training_fingerprint`].
    pub files: BTreeMap<String, String>,
}

impl<P: Clone + Serialize> TrainingRecord<P> {
    /// The record of a run of `pipeline`; `files` as for [`training_fingerprint`].
    pub fn new(pipeline: &P, files: &BTreeMap<String, String>, tool_version: &str) -> Self {
        TrainingRecord {
            tool_version: tool_version.to_string(),
            fingerprint: training_fingerprint(pipeline, files),
            pipeline: pipeline.clone(),
            files: files.clone(),
        }
    }
}

impl<P: Serialize> TrainingRecord<P> {
    /// What differs between this record, which is there, and one that is `here`, a line per value
    /// by the path in the training file: `optimiser.steps: 1000 -> 2000`. Empty if the runs are
    /// the same; versions are named only where nothing else differs.
    pub fn differences(&self, here: &TrainingRecord<impl Serialize>) -> Vec<String> {
        if self.fingerprint == here.fingerprint {
            return Vec::new();
        }
        let mut lines = Vec::new();
        compare("", &json!(self.pipeline), &json!(here.pipeline), &mut lines);
        compare(
            "sha256 of",
            &json!(self.files),
            &json!(here.files),
            &mut lines,
        );
        if lines.is_empty() {
            let (there, here) = (&self.tool_version, &here.tool_version);
            lines.push(format!("version of maskmill: {there} -> {here}"));
        }
        lines
    }
}

fn compare(path: &str, there: &Value, here: &Value, lines: &mut Vec<String>) {
    if there == here {
        return;
    }
    match (there, here) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = match path {
                    "" => key.clone(),
                    "sha256 of" => format!("sha256 of {key}"),
                    path => format!("{path}.{key}"),
                };
                let null = Value::Null;
                let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
                compare(&path, a, b, lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.iter().chain(b).all(Value::is_object) => {
            for at in 0..a.len().max(b.len()) {
                let null = Value::Null;
                let (a, b) = (a.get(at).unwrap_or(&null), b.get(at).unwrap_or(&null));
                compare(&format!("{path}[{at}]"), a, b, lines);
            }
        }
        _ => lines.push(format!("{path}: {} -> {}", shown(there), shown(here))),
    }
}

/// A value on one line; what is absent is `none`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_string(),
        value => canonical_json(value),
    }
}
