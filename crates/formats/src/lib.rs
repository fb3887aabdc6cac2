//! Bytes to values and back.
//!
//! In: image files ([`decode`]), WebDataset tar shards ([`tar_shard`]) and the Parquet tables of earlier runs
//! ([`rows`]). Out: those tables, SA-1B annotation documents ([`sa1b`]) and pictures of masks ([`overlay`]).
//!
//! Everything works on bytes in memory or on a reader: no paths, no network, no retries, which are the business of
//! `maskmill-storage`. A file that cannot be read is an error value with a stable reason code, never a panic, so that
//! one bad image in a million becomes one rejected row.

pub mod decode;
pub mod overlay;
mod panics;
pub mod rows;
pub mod sa1b;
pub mod tar_shard;
