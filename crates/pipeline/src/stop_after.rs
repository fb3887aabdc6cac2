//! The first stages alone, to see what the source gives: nothing is loaded, claimed or written.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded, select, tick};
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_job::{Job, Shard, ShardId, cut};
use maskmill_storage::store_counters;

use crate::describe::describe;
use crate::flow::{TICK, attempts, decoders, panic_message, spawn};
use crate::in_flight::InFlight;
use crate::meter::{Meter, Snapshot, Stage};
use crate::open_source::OpenSource;
use crate::plan_items::PlanItems;
use crate::pool::in_pool;
use crate::reader::{Reader, decode_limits};
use crate::run::{Event, RunError, new_runtime};
use crate::source::{list_items, store_options, table_columns};
use crate::stages::{Assembled, Sample};

/// The last stage of a run that stops early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAfter {
    /// Encoded images are fetched and dropped.
    Fetch,
    /// They are decoded, and their pixels dropped.
    Decode,
}

/// What the first stages did.
#[derive(Clone, Debug, PartialEq)]
pub struct InputRate {
    /// The counters at the end.
    pub end: Snapshot,
    /// Requests to stores.
    pub requests: u64,
    /// Requests that were repeated.
    pub retries: u64,
    /// Shards that could not be read, with the reason.
    pub failed: Vec<(ShardId, String)>,
}

/// Reads the source as `run` would, up to `stop`, and drops what comes. Blocking.
///
/// # Errors
/// As [`run`](crate::run()), where the source is concerned.
pub fn run_input(
    job: &Job,
    options: &crate::RunOptions,
    stop: StopAfter,
    observe: &dyn Fn(&Event<'_>),
) -> Result<InputRate, RunError> {
    let runtime = new_runtime().map_err(RunError::Runtime)?;
    let source = &job.pipeline.source;
    let store = OpenSource::open(source, &store_options(&job.config, true))?;
    let items = list_items(source, &store, runtime.handle()).map_err(crate::PlanningError::from)?;
    let cut = cut(items, source.shard_limits(), ShardId(0));
    let all = cut.shards.clone();
    let shards: Vec<Shard> = all
        .iter()
        .filter(|shard| options.selection.contains(shard.id))
        .cloned()
        .collect();
    let meter = Arc::new(Meter::new(
        shards.iter().map(|shard| shard.images).sum(),
        shards.iter().map(|shard| shard.bytes).sum(),
    ));
    observe(&Event::Planned {
        shards: all.len(),
        committed: 0,
        failed: 0,
        images: shards.iter().map(|shard| shard.images).sum(),
        bytes: shards.iter().map(|shard| shard.bytes).sum(),
    });
    let items = PlanItems::Held {
        shards: cut.shards,
        items: cut.items,
    };
    let config = &job.config.run;
    let decoders = decoders(config.decode_threads);
    meter.set_width(Stage::Decode, decoders);
    let in_flight = InFlight::new(
        config.images_in_flight as usize,
        config.max_bytes_in_flight,
        runtime.handle().clone(),
    );
    let columns = table_columns(source);
    let limits = decode_limits(&job.pipeline.limits);
    let (samples_in, samples) = bounded(decoders);
    let (assembled_in, assembled) = bounded(decoders);
    std::thread::scope(|scope| {
        let meter = &*meter;
        let reader = Reader {
            source: &store,
            items: &items,
            commits: None,
            columns: &columns,
            limits: &job.pipeline.limits,
            in_flight: &in_flight,
            fetch_concurrency: config.fetch_concurrency as usize,
            attempts: attempts(job),
            samples: samples_in,
            assembler: assembled_in,
            runtime: runtime.handle().clone(),
            meter,
        };
        let shards = &shards;
        let mut stages = vec![spawn(scope, "reader", move || reader.run(shards))];
        for _ in 0..decoders {
            let samples = samples.clone();
            let stage = move || drop_samples(&samples, stop, &limits, meter);
            stages.push(spawn(scope, "decode", stage));
        }
        drop(samples);
        let end = watch(&assembled, meter, observe);
        drop(assembled);
        for (stage, handle) in stages {
            handle.join().map_err(|panic| RunError::Stage {
                stage,
                message: panic_message(panic.as_ref()),
            })?;
        }
        let counters = store_counters();
        Ok(InputRate {
            end: meter.snapshot(),
            requests: counters.requests,
            retries: counters.retries,
            failed: end?,
        })
    })
}

/// Counts samples, decoded or not.
fn drop_samples(samples: &Receiver<Sample>, stop: StopAfter, limits: &DecodeLimits, meter: &Meter) {
    for sample in samples {
        let rejected = match stop {
            StopAfter::Fetch => None,
            StopAfter::Decode => in_pool(|| {
                let start = Instant::now();
                let rejected = decode(&sample.bytes, limits).err();
                meter.busy(Stage::Decode, start.elapsed());
                rejected
            }),
        };
        if let Some(error) = &rejected {
            tracing::info!(image = %sample.id.key, error = describe(error), "rejected");
        }
        let rejected = rejected.as_ref().map(|error| error.reason());
        meter.image(sample.bytes.len() as u64, 0, rejected);
    }
}

/// Passes on what the reader says of shards, until it ends.
fn watch(
    assembled: &Receiver<Assembled>,
    meter: &Meter,
    observe: &dyn Fn(&Event<'_>),
) -> Result<Vec<(ShardId, String)>, RunError> {
    let ticks = tick(TICK);
    let mut failed = Vec::new();
    loop {
        let message = select! {
            recv(assembled) -> message => match message {
                Ok(message) => message,
                Err(_) => return Ok(failed),
            },
            recv(ticks) -> _ => {
                observe(&Event::Tick(&meter.snapshot()));
                continue;
            }
        };
        match message {
            Assembled::Image(image) => {
                let rejected = image.image.reason.as_deref();
                meter.image(image.image.bytes, 0, rejected);
            }
            Assembled::ShardAgain { attempt, cause } => observe(&Event::Again {
                shard: attempt.shard,
                attempt: attempt.number,
                cause: &cause,
            }),
            Assembled::ShardFailed { attempt, cause } => {
                observe(&Event::Failed {
                    shard: attempt.shard,
                    cause: &cause,
                });
                failed.push((attempt.shard, cause));
            }
            Assembled::JobFailed { cause } => {
                return Err(RunError::Input {
                    cause,
                    committed: 0,
                });
            }
            Assembled::ShardRead { .. } | Assembled::ShardDone { .. } => {}
        }
    }
}
