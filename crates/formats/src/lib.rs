//! Bytes to values and back.
//!
//! In: image files ([`decode`]), and what holds or lists them: WebDataset tar shards ([`tar_shard`]), Parquet files of
//! images ([`image_table`]) and manifests ([`manifest`]); and the boxes that a detector found on them ([`detections`]).
//! Between: a job's plan ([`plan_items`]). Out: the masks and images tables ([`rows`]), which are read back too, the
//! list of what was committed ([`manifest_out`]), SA-1B annotation documents ([`sa1b`]) and pictures of masks
//! ([`overlay`]).
//!
//! Everything works on bytes in memory or on a reader: no paths, no network, no retries, which are the business of
//! `maskmill-storage`. A file that cannot be read is an error value with a stable reason code, never a panic, so that
//! one bad image in a million becomes one rejected row.

mod annotations;
mod columns;
pub mod decode;
pub mod detections;
pub mod image_table;
pub mod manifest;
pub mod manifest_out;
pub mod overlay;
mod panics;
pub mod plan_items;
pub mod rows;
pub mod sa1b;
pub mod tar_shard;
