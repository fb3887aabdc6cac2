//! Pipeline, training and config files to a validated job, the shard plan and the fingerprint.
//!
//! ```text
//!  pipelines/*.toml ─┐                      ┌─> Pipeline ──┐
//!  --set a.b=value  ─┼─> load ─> all checks ┤              ├─> Fingerprint ──> JobRecord (_job.json)
//!  configs/*.toml   ─┘                      └─> Config     │   digests             │
//!                                                          │                       │
//!  listing: Items ──> Extender: new ones ──> cut: Shards ──┴──> Segment (_plan/) <─┘
//!                         ^                                        │
//!                         └──────────── Plan: the chain <──────────┘
//! ```
//!
//! What enters: the text of a pipeline file (WHAT is computed), the text of a config file (WHERE
//! and how fast), the `--set` overrides of the command line, and a listing of the source.
//! What leaves: a [`Job`] in which every default is filled in and every value is in range, the
//! [`Plan`] of its shards, frozen as a chain of [`Segment`]s, and the [`Fingerprint`] that decides
//! whether an output may be resumed.
//!
//! Only the [`Pipeline`] (with the digests of the models and other files that it names, and
//! [`OUTPUT_VERSION`]) enters the fingerprint.
//! The [`Config`] never changes a row, so a job may resume on another machine with another config.
//!
//! What never happens here: reading files, opening images, touching a device. The caller reads;
//! this crate turns text and listings into values, so all of it is tested without a disk. Nor does
//! a secret get through: a location with credentials in it is refused, and no message repeats it.
//!
//! A training run has a training file in place of the pipeline file, read in the same way into a
//! [`TrainingJob`]; its [`TrainingRecord`] decides whether a run may go on. Its `task` says what is
//! trained, and with that which sections the file has: [`AnyTrainingJob`].
//!
//! A mistake is reported with its file and line, and all mistakes of both files at once:
//! see [`ConfigError`].

mod byte_size;
mod choice;
mod config;
mod document;
mod extend;
mod fingerprint;
mod item;
mod labels;
mod load;
mod location;
mod needs;
mod pipeline;
mod plan;
mod precision;
mod problem;
mod prompts;
mod record;
mod scenes;
mod schema;
mod section;
mod segment;
mod select;
mod shard;
mod training;

pub use byte_size::{format_bytes, parse_bytes};
pub use config::{Config, Log, LogFormat, Output, Progress, Run, Store, Train};
pub use extend::{Extender, Extension};
pub use fingerprint::{Fingerprint, OUTPUT_VERSION, canonical_json};
pub use item::{Extras, Item, ItemKind, Reject, items_digest};
pub use labels::{CropBackground, Label, LabellerSettings, Labels};
pub use load::{
    AnyTrainingJob, Job, TextFile, TrainingJob, load, load_any_training, load_config,
    load_grounder_pipeline, load_pipeline, load_training, load_training_pipeline,
};
pub use location::redacted;
pub use pipeline::{Limits, MaskSettings, ModelSource, Pipeline, Source};
pub use plan::{Plan, PlanError, check_items};
pub use precision::Precision;
pub use problem::{ConfigError, Problem};
pub use prompts::{
    AutomaticPrompts, BoxPrompts, BoxesFrom, DetectionSettings, Example, ExamplePrompts,
    LabelsFrom, PointGrid, PointGroups, PointPrompts, PointsFrom, PromptedMasks, Prompts,
    TextPrompts,
};
pub use record::{JobRecord, ModelRecord};
pub use scenes::SceneSettings;
pub use segment::{SEGMENT_VERSION, Segment, SegmentDraft, SegmentFile, SegmentKind};
pub use select::{Selection, SelectionError};
pub use shard::{Cut, Shard, ShardId, ShardLimits, cut};
pub use training::{
    ArchitectureSettings, Augmentation, EncoderTraining, ExportPrecision, ExportSettings,
    GrounderArchitecture, GrounderAugmentation, GrounderLoss, GrounderModel, GrounderPipeline,
    GrounderValidation, LossSettings, OptimiserName, OptimiserSettings, QuerySettings, Schedule,
    StartingWeights, TRAINING_VERSION, TrainingData, TrainingDataKind, TrainingPipeline,
    TrainingPrompts, TrainingRecord, TrainingTask, Validation, training_fingerprint,
};
