//! Tells other machines that this worker is alive: one small object, overwritten every few seconds.
//!
//! Nothing depends on it. Shards are not reserved: a worker that died is simply no longer heard of,
//! and whoever runs the job again does what is missing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use maskmill_storage::{OutputStore, layout};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::meter::Meter;

/// Between the first two signs of life: soon there are shards to tell of. It doubles.
const FIRST: Duration = Duration::from_secs(1);
/// Between two signs of life, later on.
const EVERY: Duration = Duration::from_secs(15);
/// A worker that was silent for this long is taken for dead.
pub(crate) const SILENT: Duration = Duration::from_secs(90);

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Its name, unique.
    pub worker: String,
    /// Its process on its machine.
    pub process: u32,
    /// Shards it has begun and not committed.
    pub shards: BTreeSet<u32>,
    /// Images done since it began.
    pub images: u64,
    /// Masks written since it began.
    pub masks: u64,
    /// Images a second since it began.
    pub images_per_second: f64,
    /// The stage that the others wait for.
    pub bottleneck: String,
}

/// Reports until it is dropped; then the report is removed.
pub(crate) struct Heartbeat {
    store: OutputStore,
    path: String,
    task: JoinHandle<()>,
    runtime: Handle,
}

impl Heartbeat {
    pub(crate) fn start(
        store: OutputStore,
        worker: String,
        meter: Arc<Meter>,
        open: Arc<Mutex<BTreeSet<u32>>>,
        runtime: &Handle,
    ) -> Self {
        let path = layout::worker(&worker);
        let (to, at) = (store.clone(), path.clone());
        let task = runtime.spawn(async move {
            let mut pause = FIRST;
            loop {
                let now = meter.snapshot();
                let report = WorkerReport {
                    worker: worker.clone(),
                    process: std::process::id(),
                    shards: open.lock().expect("no panic while it is held").clone(),
                    images: now.images,
                    masks: now.masks,
                    images_per_second: now.images_per_second,
                    bottleneck: now.bottleneck.as_str().to_owned(),
                };
                let json = serde_json::to_vec(&report).expect("a report has string keys");
                if let Err(error) = to.replace(&at, json.into()).await {
                    tracing::debug!(%error, "no sign of life could be left");
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(EVERY);
            }
        });
        Self {
            store,
            path,
            task,
            runtime: runtime.clone(),
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
        let removed = self
            .runtime
            .block_on(self.store.delete(std::slice::from_ref(&self.path)));
        if let Err(error) = removed {
            tracing::debug!(%error, "the last sign of life could not be removed");
        }
    }
}

/// A name that no other worker has: the process, and when it began.
pub(crate) fn worker_name() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.as_nanos()) as u64;
    format!("{:08x}-{nanos:016x}", std::process::id())
}
