//! What must hold when maskmill's readers are given any bytes at all.
//!
//! One function per reader. Each gives the bytes to the reader and asserts what is promised of whatever comes back:
//! limits are kept, what is accepted survives being written and read again, what two ways of reading give is the same,
//! and messages hold no secret. An error is a good answer; a panic is a finding, and so is one in maskmill's own code
//! that a reader catches because its libraries panic on damaged files.
//!
//! Where a reader has options, the first byte chooses among them. The rest is the file.
//!
//! Two things call these functions: the fuzz targets in `fuzz/`, which search for inputs for as long as they are let,
//! and `tests/corpus.rs`, which replays what they found, and changes of it, for some seconds.

mod config;
mod detections;
mod image_table;
mod manifest;
mod panics;
mod plan;
mod rle;
mod tar;

pub use crate::config::config;
pub use crate::detections::detections;
pub use crate::image_table::image_table;
pub use crate::manifest::manifest;
pub use crate::plan::plan;
pub use crate::rle::rle;
pub use crate::tar::tar;

/// A check, as the others have it.
pub type Check = fn(&[u8]);

/// All checks by the names of their fuzz targets and of the folders of their inputs.
pub const CHECKS: &[(&str, Check)] = &[
    ("config", config),
    ("detections", detections),
    ("image_table", image_table),
    ("manifest", manifest),
    ("plan", plan),
    ("rle", rle),
    ("tar", tar),
];

/// The options and the file; of an empty input, option 0 and an empty file.
fn split(data: &[u8]) -> (u8, &[u8]) {
    match data {
        [options, file @ ..] => (*options, file),
        [] => (0, &[]),
    }
}

/// Whether bit `bit` of the options is set.
fn is_set(options: u8, bit: u8) -> bool {
    options >> bit & 1 == 1
}
