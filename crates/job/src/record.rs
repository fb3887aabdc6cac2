//! The content of `_job.json`: what an output directory was made by.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fingerprint::Fingerprint;
use crate::pipeline::Pipeline;
use crate::plan::Plan;

/// What an output directory was made by, written once as `_job.json`.
///
/// A later run may add to the directory if `fingerprint` and `plan.digest` are its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The version of maskmill that began the job.
    pub tool_version: String,
    /// Which rows the job makes.
    pub fingerprint: Fingerprint,
    /// The pipeline with all defaults filled in.
    pub pipeline: Pipeline,
    /// The weights.
    pub model: ModelRecord,
    /// The input.
    pub plan: PlanRecord,
}

/// The weights a job ran with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The checkpoint as the pipeline names it.
    pub path: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
}

/// The input a job ran over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// [`Plan::digest`].
    pub digest: String,
    /// How many shards.
    pub shards: u64,
    /// How many image files; unknown for tars.
    pub images: Option<u64>,
    /// The bytes to read.
    pub bytes: u64,
}

impl JobRecord {
    /// The record of `pipeline` over `plan`, with the model file whose SHA-256 is `model_sha256`.
    pub fn new(pipeline: &Pipeline, model_sha256: &str, plan: &Plan, tool_version: &str) -> Self {
        JobRecord {
            tool_version: tool_version.to_string(),
            fingerprint: Fingerprint::of(pipeline, model_sha256),
            pipeline: pipeline.clone(),
            model: ModelRecord {
                path: pipeline.model.checkpoint.clone(),
                sha256: model_sha256.to_string(),
            },
            plan: PlanRecord {
                digest: plan.digest(),
                shards: plan.shards().len() as u64,
                images: plan.images(),
                bytes: plan.bytes(),
            },
        }
    }

    /// The record as the JSON value that is written to `_job.json`.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a record has string keys and finite numbers")
    }
}
