//! The running job, and its output read back.
//!
//! ```text
//! Job ──> plan ──> run ──> reader ─> decode ─> device ─> selector ─> assembler ──> committed shards
//!                                                                                       │
//!                          verify, status, finalize, gc, export, source image <─────────┘ JobOutput
//! ```
//!
//! What enters: a validated [`Job`](maskmill_job::Job). What leaves: Parquet parts and commit markers, written
//! by `maskmill-storage`, and a [`Summary`]. This crate is the only place where object stores (async), threads
//! and the device meet. What never happens here: parsing of files for people, printing, choosing defaults.
//!
//! Rows depend on the pipeline file, the checkpoint and the images alone: not on threads, batch sizes,
//! which image is ready first, how many machines share the plan, or how often the job was interrupted.

mod assemble;
mod blob_table;
mod describe;
mod estimate;
mod finalize;
mod finder;
mod flow;
mod gc;
mod given;
mod heartbeat;
mod in_flight;
mod known_prompts;
mod label_queue;
mod meter;
mod models;
mod open_source;
mod options;
mod output;
mod plan_items;
mod planning;
mod pool;
mod prompt_files;
mod reader;
mod run;
mod scenes;
mod source;
mod source_image;
mod stages;
mod status;
mod stop_after;
mod verify;
mod workers;

pub use assemble::ShardError;
pub use describe::describe;
pub use estimate::{Pace, PlanMode, PlanReport, make_plan};
pub use finalize::Finalized;
pub use gc::{Garbage, YOUNGEST};
pub use heartbeat::WorkerReport;
pub use meter::{Snapshot, Stage};
pub use models::ModelsError;
pub use output::{ImageRows, JobOutput, OutputError};
pub use plan_items::PlanItemsError;
pub use planning::{Changes, PlanningError};
pub use prompt_files::PromptFilesError;
pub use reader::decode_limits;
pub use run::{Event, RunError, RunOptions, Summary, run};
pub use source::{InputError, store_options};
pub use status::Status;
pub use stop_after::{InputRate, StopAfter, run_input};
pub use verify::Verification;
