//! How far a job is: from its plan, markers, records of failures and signs of life.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use maskmill_job::ShardId;
use maskmill_storage::layout;

use crate::heartbeat::{SILENT, WorkerReport};
use crate::output::{JobOutput, OutputError};

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Shards of the plan.
    pub shards: u64,
    /// Committed ones.
    pub done: u64,
    /// Those that a living worker has begun.
    pub running: BTreeSet<u32>,
    /// Those that failed, with the cause.
    pub failed: BTreeMap<u32, String>,
    /// Images of the plan; unknown for tars.
    pub planned_images: Option<u64>,
    /// Bytes of the plan.
    pub planned_bytes: u64,
    /// Images in committed shards that were given to the model.
    pub images: u64,
    /// Rejected images in committed shards, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Mask rows.
    pub masks: u64,
    /// Bytes of the images in committed shards.
    pub bytes: u64,
    /// Seconds of work per stage, of all shards and workers together.
    pub stage_seconds: BTreeMap<String, f64>,
    /// Living workers.
    pub workers: Vec<WorkerReport>,
    /// Workers that were not heard of for a while.
    pub silent_workers: Vec<WorkerReport>,
    /// How long what is left takes at the pace of the living workers.
    pub eta: Option<Duration>,
    /// Whether the table of all shards is written for this plan.
    pub finalized: bool,
}

impl JobOutput {
    /// How far the job is. Reads all markers.
    ///
    /// # Errors
    /// The store, or a marker or record that cannot be read.
    pub fn status(&self) -> Result<Status, OutputError> {
        let markers = self.markers()?;
        let committed: BTreeSet<u32> = markers.iter().map(|marker| marker.shard).collect();
        let segments = self.plan().segments().len() as u32;
        let manifest = layout::manifest(segments);
        let mut status = Status {
            shards: self.plan().shards().count() as u64,
            done: committed.len() as u64,
            planned_images: self.plan().images(),
            planned_bytes: self.plan().bytes(),
            failed: self
                .failures(&committed)?
                .into_iter()
                .map(|(shard, failure)| (shard, failure.cause))
                .collect(),
            finalized: self.runtime.block_on(self.store.exists(&manifest))?,
            ..Status::default()
        };
        for marker in &markers {
            status.images += marker.images_ok;
            status.masks += marker.masks.rows;
            status.bytes += marker.stats.bytes;
            for (reason, count) in &marker.rejects {
                *status.rejects.entry(reason.clone()).or_default() += count;
            }
            for (stage, seconds) in &marker.stats.stage_seconds {
                *status.stage_seconds.entry(stage.clone()).or_default() += seconds;
            }
        }
        self.hear(&committed, &mut status)?;
        status.eta = self.eta(&committed, &status);
        Ok(status)
    }

    /// Reads the workers' signs of life.
    fn hear(&self, committed: &BTreeSet<u32>, status: &mut Status) -> Result<(), OutputError> {
        let signs = self.runtime.block_on(self.store.list(layout::WORKERS))?;
        if signs.is_empty() {
            return Ok(());
        }
        // Ages by the store's clock: this machine's may be off.
        let now = self.runtime.block_on(self.store.now())?;
        for sign in signs {
            // It may have ended since it was listed.
            let Some(bytes) = self.runtime.block_on(self.store.get(&sign.path))? else {
                continue;
            };
            let Ok(report) = serde_json::from_slice::<WorkerReport>(&bytes) else {
                continue;
            };
            let age = now.duration_since(sign.modified).unwrap_or_default();
            if age > SILENT {
                status.silent_workers.push(report);
                continue;
            }
            let begun = report.shards.iter().copied();
            let begun = begun.filter(|shard| !committed.contains(shard));
            status.running.extend(begun);
            status.workers.push(report);
        }
        Ok(())
    }

    /// What is left, by images where their number is known and else by bytes, at the present pace.
    fn eta(&self, committed: &BTreeSet<u32>, status: &Status) -> Option<Duration> {
        let pace: f64 = status.workers.iter().map(|w| w.images_per_second).sum();
        if pace <= 0.0 {
            return None;
        }
        let left = self
            .plan()
            .shards()
            .filter(|shard| !committed.contains(&shard.id.0))
            .filter(|shard| !status.failed.contains_key(&shard.id.0));
        let (mut images, mut bytes) = (Some(0), 0);
        for shard in left {
            images = images.zip(shard.images).map(|(sum, n)| sum + n);
            bytes += shard.bytes;
        }
        let images = match images {
            Some(images) => images as f64,
            // The mean image of the committed shards.
            None if status.bytes > 0 => {
                let all = status.images + status.rejects.values().sum::<u64>();
                bytes as f64 * all as f64 / status.bytes as f64
            }
            None => return None,
        };
        Duration::try_from_secs_f64(images / pace).ok()
    }

    /// The first shards that nobody has done, begun or given up; for people.
    pub fn waiting(&self, status: &Status, most: usize) -> Result<Vec<ShardId>, OutputError> {
        let committed = self.committed_shards()?;
        let waiting = self.plan().shards().map(|shard| shard.id);
        Ok(waiting
            .filter(|id| !committed.contains(&id.0))
            .filter(|id| !status.running.contains(&id.0) && !status.failed.contains_key(&id.0))
            .take(most)
            .collect())
    }
}
