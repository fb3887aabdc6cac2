//! The content of `_job.json`: what an output directory was made by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fingerprint::Fingerprint;
use crate::pipeline::Pipeline;
use crate::precision::Precision;

/// What an output directory was made by, written once as `_job.json`.
///
/// A later run may add to the directory if `fingerprint` is its own. What the job reads is not here
/// but in its [`Plan`](crate::Plan), which may grow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The version of maskmill that began the job.
    pub tool_version: String,
    /// Which rows the job makes.
    pub fingerprint: Fingerprint,
    /// The pipeline with all defaults filled in, but for a precision of f32, which is in `model`
    /// alone.
    pub pipeline: Pipeline,
    /// The weights.
    pub model: ModelRecord,
    /// SHA-256 of each other file that rows depend on, lower-case hex, by its setting:
    /// `model.detector`, `prompts.examples[0].image`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// The weights a job ran with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The checkpoint as the pipeline names it.
    pub path: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// In which numbers it computed; records from before there was a choice do not have it.
    #[serde(default)]
    pub precision: Precision,
}

impl JobRecord {
    /// The record of `pipeline` with the model file whose SHA-256 is `model_sha256` and the other
    /// `files`, as in [`Fingerprint::of`].
    pub fn new(
        pipeline: &Pipeline,
        model_sha256: &str,
        files: &BTreeMap<String, String>,
        tool_version: &str,
    ) -> Self {
        JobRecord {
            tool_version: tool_version.to_string(),
            fingerprint: Fingerprint::of(pipeline, model_sha256, files),
            pipeline: pipeline.clone(),
            model: ModelRecord {
                path: pipeline.model.checkpoint.clone(),
                sha256: model_sha256.to_string(),
                precision: pipeline.model.precision,
            },
            files: files.clone(),
        }
    }

    /// The record as the JSON value that is written to `_job.json`.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a record has string keys and finite numbers")
    }
}
