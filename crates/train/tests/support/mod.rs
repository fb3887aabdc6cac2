//! What tests of whole runs share.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use maskmill_job::Train;
use maskmill_train::Place;

/// Begins a run in a directory, on the CPU, that tells of every step.
pub(crate) fn in_place<T>(
    directory: &Path,
    steps_at_most: Option<u32>,
    begin: impl FnOnce(&Place<'_>) -> T,
) -> T {
    let settings = Train {
        checkpoint_minutes: 10.0,
        log_steps: 1,
        loader_threads: 2,
        cache_memory: 0,
    };
    begin(&Place {
        directory,
        device: &Device::flex(),
        train: &settings,
        stop: &AtomicBool::new(false),
        steps_at_most,
    })
}

pub(crate) fn bytes(directory: &Path, name: &str) -> Vec<u8> {
    std::fs::read(directory.join(name)).unwrap()
}
