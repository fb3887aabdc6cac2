//! Pipeline and config files to a validated job, the shard plan and the fingerprint.
//!
//! ```text
//!  pipelines/*.toml ─┐                      ┌─> Pipeline ──┐
//!  --set a.b=value  ─┼─> load ─> all checks ┤              ├─> Fingerprint ─┐
//!  configs/*.toml   ─┘                      └─> Config     │   model digest │
//!                                                          │                ├─> JobRecord (_job.json)
//!  listed files ───────────────────────────────────────────┴─> Plan ────────┘
//! ```
//!
//! What enters: the text of a pipeline file (WHAT is computed), the text of a config file (WHERE
//! and how fast), the `--set` overrides of the command line, and a listing of the source.
//! What leaves: a [`Job`] in which every default is filled in and every value is in range, the
//! [`Plan`] of its shards, and the [`Fingerprint`] that decides whether an output may be resumed.
//!
//! Only the [`Pipeline`] (with the model's digest and [`OUTPUT_VERSION`]) enters the fingerprint.
//! The [`Config`] never changes a row, so a job may resume on another machine with another config.
//!
//! What never happens here: reading files, opening images, touching a device. The caller reads;
//! this crate turns text and listings into values, so all of it is tested without a disk.
//!
//! A mistake is reported with its file and line, and all mistakes of both files at once:
//! see [`ConfigError`].

mod byte_size;
mod config;
mod document;
mod fingerprint;
mod load;
mod pipeline;
mod plan;
mod problem;
mod record;
mod schema;
mod section;

pub use byte_size::{format_bytes, parse_bytes};
pub use config::{Config, Log, LogFormat, Output, Progress, Run};
pub use fingerprint::{Fingerprint, OUTPUT_VERSION, canonical_json};
pub use load::{Job, TextFile, load, load_config, load_pipeline};
pub use pipeline::{
    AutomaticPrompts, Limits, MaskSettings, ModelSource, Pipeline, PointGrid, Prompts, Source,
};
pub use plan::{FileRef, Plan, Reject, Shard, ShardId, ShardItems, TarRef};
pub use problem::{ConfigError, Problem};
pub use record::{JobRecord, ModelRecord, PlanRecord};
