//! The running stages, from shards to committed parts.
//!
//! ```text
//!                           ┌── crops to label ──┐
//!                           v                    │
//!  reader ──> decode x N ──> device ──────> selector ──> assembler ──> commits, some at a time
//!    │           │             │ labelled, rejected         ^
//!    └───────────┴─────────────┴────────────────────────────┘
//! ```
//!
//! One thread each but for decoding, whose threads hand their work to the pool that kernels and selection
//! run on ([`in_pool`](crate::pool::in_pool)); every arrow is a bounded channel, and [`InFlight`] bounds the images
//! and bytes between the reader and the selector. A stage ends when its input does, or when the stage
//! behind it is gone; so an error in any stage ends them all, and what is committed stays committed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick, unbounded};
use maskmill_job::{Job, Shard, ShardId};
use maskmill_storage::{Commit, CommitError, FailureRecord, Marker, StorageError, record_failure};
use tokio::runtime::Handle;

use crate::assemble::{Assembler, OpenShard, ShardError};
use crate::describe::describe;
use crate::heartbeat::{Heartbeat, worker_name};
use crate::in_flight::InFlight;
use crate::known_prompts::KnownPrompts;
use crate::meter::{Meter, Stage};
use crate::models::Models;
use crate::open_source::OpenSource;
use crate::options::prompt_budget;
use crate::plan_items::PlanItems;
use crate::reader::{Attempts, Reader, decode_limits};
use crate::run::{Event, RunError, Summary};
use crate::source::{seconds, table_columns};
use crate::stages::{Assembled, Attempt, FinishedImage};
use crate::workers::{DeviceStage, decode_images, select_masks};

/// Candidate batches between the device and the selector. Each holds the masks of one batch of prompts, which
/// `run.prompt_memory` bounds; two let the device run ahead while one is selected.
const PROPOSALS_AHEAD: usize = 2;
/// Messages to the assembler, which are small.
const ROWS_AHEAD: usize = 64;
/// Shards being committed at the same time: enough that the device need not wait for a slow store.
const COMMITS_AT_ONCE: usize = 4;
/// Between two looks at the whole.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// Everything that a run needs.
pub(crate) struct Flow<'a> {
    pub job: &'a Job,
    pub models: &'a Models,
    pub known: &'a KnownPrompts,
    pub source: &'a OpenSource,
    pub items: &'a PlanItems,
    pub shards: &'a [Shard],
    pub assembler: Assembler,
    pub tool_version: &'a str,
    pub runtime: Handle,
    pub observe: &'a dyn Fn(&Event<'_>),
}

impl Flow<'_> {
    pub(crate) fn run(self, summary: Summary) -> Result<Summary, RunError> {
        let images = self.shards.iter().map(|shard| shard.images).sum();
        let bytes = self.shards.iter().map(|shard| shard.bytes).sum();
        let meter = Arc::new(Meter::new(images, bytes));
        let open = Arc::new(Mutex::new(BTreeSet::new()));
        let worker = worker_name();
        let heartbeat = Heartbeat::start(
            self.assembler.commits.store().clone(),
            worker.clone(),
            meter.clone(),
            open.clone(),
            &self.runtime,
        );
        let config = &self.job.config.run;
        let limits = decode_limits(&self.job.pipeline.limits);
        let decoders = decoders(config.decode_threads);
        meter.set_width(Stage::Decode, decoders);
        meter.set_width(Stage::Commit, COMMITS_AT_ONCE);
        let in_flight = InFlight::new(
            config.images_in_flight as usize,
            config.max_bytes_in_flight,
            self.runtime.clone(),
        );
        let columns = table_columns(&self.job.pipeline.source);
        let (samples_in, samples) = bounded(decoders);
        let (prepared_in, prepared) = bounded(1);
        let (proposals_in, proposals) = bounded(PROPOSALS_AHEAD);
        // Bounded by the images in flight: the selector must not wait for the device, which waits for it.
        let (crops_in, crops) = unbounded();
        let (assembled_in, assembled) = bounded(ROWS_AHEAD);

        thread::scope(|scope| {
            let meter = &*meter;
            let mut stages = Vec::new();
            let reader = Reader {
                source: self.source,
                items: self.items,
                commits: Some(&self.assembler.commits),
                columns: &columns,
                limits: &self.job.pipeline.limits,
                in_flight: &in_flight,
                fetch_concurrency: config.fetch_concurrency as usize,
                attempts: attempts(self.job),
                samples: samples_in,
                assembler: assembled_in.clone(),
                runtime: self.runtime.clone(),
                meter,
            };
            let shards = self.shards;
            stages.push(spawn(scope, "reader", move || reader.run(shards)));
            for _ in 0..decoders {
                let (samples, device) = (samples.clone(), prepared_in.clone());
                let assembler = assembled_in.clone();
                let (models, known) = (self.models, self.known);
                stages.push(spawn(scope, "decode", move || {
                    decode_images(&samples, &limits, models, known, &device, &assembler, meter);
                }));
            }
            let models = self.models;
            let assembler = assembled_in.clone();
            stages.push(spawn(scope, "device", move || {
                let stage = DeviceStage {
                    models,
                    budget: prompt_budget(config),
                    crops_per_batch: config.crops_per_batch as usize,
                    images: &prepared,
                    crops: &crops,
                    assembler: &assembler,
                    meter,
                };
                stage.run(proposals_in);
            }));
            stages.push(spawn(scope, "selector", move || {
                select_masks(&proposals, models, &crops_in, &assembled_in, meter);
            }));
            // This thread's copies would keep the channels open.
            drop((samples, prepared_in));

            let desk = Desk::new(&self, meter, worker, open, summary);
            let (mut summary, mut stopped) = desk.assemble(assembled);
            for (stage, handle) in stages {
                if let Err(panic) = handle.join() {
                    let message = panic_message(panic.as_ref());
                    stopped.get_or_insert(RunError::Stage { stage, message });
                }
            }
            drop(heartbeat);
            let now = meter.snapshot();
            summary.elapsed = now.elapsed;
            summary.load = now.load;
            summary.device_idle = now.device_idle;
            match stopped {
                Some(error) => Err(error),
                None => Ok(summary),
            }
        })
    }
}

/// How many images are decoded at once: no more than the pool, which does the work, has threads.
pub(crate) fn decoders(configured: u32) -> usize {
    let threads = rayon::current_num_threads();
    match configured {
        0 => threads,
        images => threads.min(images as usize),
    }
}

pub(crate) fn attempts(job: &Job) -> Attempts {
    Attempts {
        most: job.config.run.shard_attempts,
        first_backoff: seconds(job.config.store.first_backoff_seconds),
        longest_backoff: seconds(job.config.store.longest_backoff_seconds),
    }
}

/// The assembler: the one place that knows which shards are open.
struct Desk<'a> {
    flow: &'a Flow<'a>,
    meter: &'a Meter,
    worker: String,
    /// By number, for the heartbeat.
    open_now: Arc<Mutex<BTreeSet<u32>>>,
    by_id: HashMap<ShardId, &'a Shard>,
    open: BTreeMap<Attempt, OpenShard>,
    given_up: HashSet<Attempt>,
    committing: BTreeSet<ShardId>,
    committed_in: Sender<Committed>,
    committed: Receiver<Committed>,
    summary: Summary,
    stopped: Option<RunError>,
}

/// How a commit ended.
struct Committed {
    shard: ShardId,
    outcome: Result<Commit, ShardError>,
    spent: Duration,
}

impl<'a> Desk<'a> {
    fn new(
        flow: &'a Flow<'a>,
        meter: &'a Meter,
        worker: String,
        open_now: Arc<Mutex<BTreeSet<u32>>>,
        summary: Summary,
    ) -> Self {
        let (committed_in, committed) = unbounded();
        Self {
            flow,
            meter,
            worker,
            open_now,
            by_id: flow.shards.iter().map(|shard| (shard.id, shard)).collect(),
            open: BTreeMap::new(),
            given_up: HashSet::new(),
            committing: BTreeSet::new(),
            committed_in,
            committed,
            summary,
            stopped: None,
        }
    }

    /// Takes rows and commits shards until the stages have ended, or something stops the job.
    fn assemble(mut self, assembled: Receiver<Assembled>) -> (Summary, Option<RunError>) {
        let ticks = tick(TICK);
        let nothing = never();
        while self.stopped.is_none() {
            // With enough commits under way, rows wait: their memory is bounded by the channel.
            let rows = match self.committing.len() < COMMITS_AT_ONCE {
                true => &assembled,
                false => &nothing,
            };
            select! {
                recv(rows) -> message => match message {
                    Ok(message) => self.take(message),
                    Err(_) => break,
                },
                recv(self.committed) -> done => {
                    self.finish(done.expect("this desk holds a sender"));
                }
                recv(ticks) -> _ => (self.flow.observe)(&Event::Tick(&self.meter.snapshot())),
            }
        }
        // Stages that still send find nobody there, and end.
        drop(assembled);
        while !self.committing.is_empty() {
            let done = self.committed.recv();
            self.finish(done.expect("this desk holds a sender"));
        }
        (self.summary, self.stopped)
    }

    fn take(&mut self, message: Assembled) {
        match message {
            Assembled::Image(image) => self.image(*image),
            Assembled::ShardRead { attempt, images } => {
                if let Some(open) = self.open(attempt) {
                    open.expect(images);
                    self.commit_if_whole(attempt);
                }
            }
            Assembled::ShardDone { shard } => {
                let planned = self.by_id[&shard];
                self.meter.drop_planned(planned.images, planned.bytes);
                self.summary.resumed += 1;
            }
            Assembled::ShardAgain { attempt, cause } => {
                self.give_up(attempt);
                tracing::warn!(shard = %attempt.shard, attempt = attempt.number, cause, "a shard is begun again");
                (self.flow.observe)(&Event::Again {
                    shard: attempt.shard,
                    attempt: attempt.number,
                    cause: &cause,
                });
            }
            Assembled::ShardFailed { attempt, cause } => {
                self.give_up(attempt);
                self.fail(attempt.shard, attempt.number, cause);
            }
            Assembled::JobFailed { cause } => {
                let committed = self.summary.committed;
                self.stop(RunError::Input { cause, committed });
            }
        }
    }

    fn image(&mut self, image: FinishedImage) {
        let attempt = image.attempt;
        let rejected = image.image.reason.clone();
        let (bytes, masks) = (image.image.bytes, image.masks.len());
        let Some(open) = self.open(attempt) else {
            return;
        };
        if let Err(error) = open.push(image) {
            self.give_up(attempt);
            self.fail(
                attempt.shard,
                attempt.number,
                describe(&ShardError::Rows(error)),
            );
            return;
        }
        self.meter.image(bytes, masks, rejected.as_deref());
        (self.flow.observe)(&Event::Image {
            masks,
            rejected: rejected.as_deref(),
        });
        self.commit_if_whole(attempt);
    }

    /// The shard of an attempt that was not given up.
    fn open(&mut self, attempt: Attempt) -> Option<&mut OpenShard> {
        if self.given_up.contains(&attempt) {
            return None;
        }
        if !self.open.contains_key(&attempt) {
            let new = OpenShard::new(&self.flow.assembler.fingerprint, attempt.shard);
            let new = new.expect("an empty table can be begun");
            self.open.insert(attempt, new);
            self.note_open();
        }
        self.open.get_mut(&attempt)
    }

    fn give_up(&mut self, attempt: Attempt) {
        if let Some(open) = self.open.remove(&attempt) {
            let (images, bytes) = open.so_far();
            self.meter.take_back(images, bytes);
        }
        self.given_up.insert(attempt);
        self.note_open();
    }

    /// Shards that are begun and not committed, for the heartbeat.
    fn note_open(&self) {
        let begun = self.open.keys().map(|attempt| &attempt.shard);
        let begun = begun.chain(&self.committing).map(|shard| shard.0);
        let mut now = self.open_now.lock().expect("no panic while it is held");
        *now = begun.collect();
    }

    fn commit_if_whole(&mut self, attempt: Attempt) {
        if !self.open.get(&attempt).is_some_and(OpenShard::is_whole) {
            return;
        }
        let whole = self
            .open
            .remove(&attempt)
            .expect("it was looked at just now");
        let id = attempt.shard;
        self.committing.insert(id);
        self.note_open();
        let shard = self.by_id[&id].clone();
        let (assembler, done) = (self.flow.assembler.clone(), self.committed_in.clone());
        self.meter.queue(Stage::Commit, self.committing.len());
        self.flow.runtime.spawn(async move {
            let (outcome, spent) = assembler.commit(shard, whole).await;
            // The desk waits for all of them.
            let _ = done.send(Committed {
                shard: id,
                outcome,
                spent,
            });
        });
    }

    fn finish(&mut self, done: Committed) {
        self.committing.remove(&done.shard);
        self.note_open();
        self.meter.queue(Stage::Commit, self.committing.len());
        self.meter.busy(Stage::Commit, done.spent);
        match done.outcome {
            Ok(Commit::Committed(marker)) => {
                self.count(&marker);
                (self.flow.observe)(&Event::Committed {
                    marker: &marker,
                    now: &self.meter.snapshot(),
                });
            }
            Ok(Commit::AlreadyCommitted(_)) => {
                tracing::info!(shard = %done.shard, "another worker has committed it");
                self.summary.resumed += 1;
            }
            // Every later write would fail too, after as long a time of retries.
            Err(ShardError::Commit(CommitError::Storage(source))) => {
                self.stop_writing(done.shard, source);
            }
            Err(error) => self.fail(done.shard, 1, describe(&error)),
        }
    }

    fn count(&mut self, marker: &Marker) {
        let summary = &mut self.summary;
        summary.committed += 1;
        summary.images += marker.images_ok;
        summary.masks += marker.masks.rows;
        for (reason, count) in &marker.rejects {
            *summary.rejects.entry(reason.clone()).or_default() += count;
        }
        metrics::counter!("maskmill_shards_total", "state" => "committed").increment(1);
    }

    /// Writes down that a shard failed; the others go on.
    fn fail(&mut self, shard: ShardId, attempts: u32, cause: String) {
        metrics::counter!("maskmill_shards_total", "state" => "failed").increment(1);
        let planned = self.by_id[&shard];
        self.meter.drop_planned(planned.images, planned.bytes);
        (self.flow.observe)(&Event::Failed {
            shard,
            cause: &cause,
        });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let record = FailureRecord {
            shard: shard.0,
            attempts,
            cause: cause.clone(),
            worker: self.worker.clone(),
            tool_version: self.flow.tool_version.to_owned(),
            at_unix_seconds: now.map_or(0, |now| now.as_secs()),
        };
        self.summary.failed.push((shard, cause));
        let store = self.flow.assembler.commits.store();
        if let Err(source) = self.flow.runtime.block_on(record_failure(store, &record)) {
            self.stop_writing(shard, source);
        }
    }

    fn stop_writing(&mut self, shard: ShardId, source: StorageError) {
        let committed = self.summary.committed;
        self.stop(RunError::Output {
            shard,
            committed,
            source,
        });
    }

    /// The first reason counts.
    fn stop(&mut self, error: RunError) {
        self.stopped.get_or_insert(error);
    }
}

/// Starts a stage's thread, named after it.
pub(crate) fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'static str,
    work: impl FnOnce() + Send + 'scope,
) -> (&'static str, ScopedJoinHandle<'scope, ()>) {
    let builder = thread::Builder::new().name(stage.to_owned());
    let handle = builder.spawn_scoped(scope, work);
    (stage, handle.expect("the operating system has threads"))
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_images_are_decoded_at_once_than_the_pool_has_threads() {
        let threads = rayon::current_num_threads();
        assert_eq!(decoders(0), threads);
        assert_eq!(decoders(1), 1);
        assert_eq!(decoders(1024), threads.min(1024));
    }
}
