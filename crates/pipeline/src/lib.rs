//! The running job, and its output read back.
//!
//! ```text
//! Job ──> run ──> reader ─> decode ─> device ─> selector ─> assembler ──> committed shards
//!                                                                             │
//!                                              verify, export, source image <─┘ JobOutput
//! ```
//!
//! What enters: a validated [`Job`](maskmill_job::Job). What leaves: Parquet parts and commit markers, written
//! by `maskmill-storage`, and a [`Summary`]. This crate is the only place where object stores (async), threads
//! and the device meet. What never happens here: parsing of files for people, printing, choosing defaults.
//!
//! Rows depend on the pipeline file, the checkpoint and the images alone: not on threads, batch sizes,
//! which image is ready first, or how often the job was interrupted.

mod assemble;
mod describe;
mod in_flight;
mod options;
mod output;
mod reader;
mod run;
mod source;
mod stages;
mod verify;
mod workers;

pub use assemble::ShardError;
pub use describe::describe;
pub use options::automatic_options;
pub use output::{ImageRows, JobOutput, OutputError};
pub use reader::decode_limits;
pub use run::{Event, RunError, Summary, run};
pub use source::plan;
pub use verify::Verification;
