//! A job from its files to committed shards.
//!
//! ```text
//!  reader ──> decode x N ──> device ──> selector ──> assembler ──> commit
//!    │           │ rejected images                      ^
//!    └───────────┴─────────────────────────────────────-┘
//! ```
//!
//! One thread each but for decoding; every arrow is a bounded channel, and [`InFlight`] bounds the images
//! and bytes between the reader and the assembler. A stage ends when its input does, or when the stage
//! behind it is gone; so an error in any stage ends them all, and what is committed stays committed.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use maskmill_job::{Job, JobRecord, Plan, Shard, ShardId};
use maskmill_sam::{AutomaticOptions, Checkpoint, CheckpointError, DeviceError, DeviceName, Sam};
use maskmill_storage::{
    Claim, ClaimError, CommitError, CommitStore, Marker, OutputStore, SourceError, StorageError,
    claim, layout,
};
use sha2::{Digest, Sha256};

use crate::assemble::{Assembler, OpenShard, ShardError, inspector};
use crate::describe::describe;
use crate::in_flight::InFlight;
use crate::options::automatic_options;
use crate::reader::{Reader, decode_limits};
use crate::source::plan;
use crate::stages::{Assembled, hex};
use crate::workers::{decode_images, run_model, select_masks};

/// Candidate batches between the device and the selector. Each holds at most `points_per_batch` points'
/// masks; two let the device run ahead while one is selected.
const PROPOSALS_AHEAD: usize = 2;
/// Messages to the assembler, which are small.
const ROWS_AHEAD: usize = 64;

/// What a running job tells its caller, who may draw progress or log it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The source is listed and the output claimed.
    Planned {
        /// All shards.
        shards: usize,
        /// Those that an earlier run committed.
        committed: usize,
        /// Images in the shards to do; unknown for tars.
        images: Option<u64>,
        /// Bytes in the shards to do.
        bytes: u64,
    },
    /// An image has its rows.
    Image {
        /// Its masks.
        masks: usize,
        /// Why it has none, if it was rejected.
        rejected: Option<&'a str>,
    },
    /// A shard is committed.
    Committed(&'a Marker),
    /// A shard could not be read or committed; the others go on.
    Failed {
        /// The shard.
        shard: ShardId,
        /// Why.
        detail: &'a str,
    },
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Where the output is.
    pub output: String,
    /// What the checkpoint says of itself, such as that it is untrained.
    pub about_model: Option<String>,
    /// All shards of the plan.
    pub shards: usize,
    /// Shards that were committed before this run.
    pub resumed: usize,
    /// Shards that this run committed.
    pub committed: usize,
    /// Shards that failed, with the reason.
    pub failed: Vec<(ShardId, String)>,
    /// Images that this run gave to the model.
    pub images: u64,
    /// Images that this run rejected, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Masks that this run wrote.
    pub masks: u64,
    /// Wall time of the stages, without planning and loading.
    pub elapsed: Duration,
}

/// Why a run did not start, or was given up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The source cannot be listed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source has nothing to read.
    #[error(
        "the source {path} holds no {what}; check source.path and source.kind in the pipeline file"
    )]
    EmptySource {
        /// The source's path.
        path: String,
        /// What was looked for.
        what: &'static str,
    },
    /// The output belongs to another job.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The output cannot be opened or read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The runtime for object stores could not be started.
    #[error("no threads for input and output could be started: {0}")]
    Runtime(std::io::Error),
    /// Writing failed in a way that every shard would fail: the disk is full, or may not be written.
    #[error(
        "shard {shard} could not be written, and the job was stopped; {committed} shard(s) of this run are committed, and running it again goes on from there"
    )]
    Output {
        /// The shard at hand.
        shard: ShardId,
        /// Shards committed by this run.
        committed: usize,
        /// Why.
        source: StorageError,
    },
    /// A stage panicked: a bug, or a device that failed.
    #[error(
        "the {stage} stage broke down ({message}); what is committed is whole, and running the job again goes on from there"
    )]
    Stage {
        /// Its name.
        stage: &'static str,
        /// Its panic message.
        message: String,
    },
}

impl RunError {
    /// Whether shards may have been committed before the error.
    pub fn had_started(&self) -> bool {
        matches!(self, Self::Output { .. } | Self::Stage { .. })
    }
}

/// Runs a job, or what an earlier run left of it. Blocking.
///
/// `observe` is called from the assembling thread.
///
/// # Errors
/// See [`RunError`]. Failed shards and rejected images are no errors: they are in the [`Summary`].
pub fn run(
    job: &Job,
    tool_version: &str,
    observe: &dyn Fn(&Event<'_>),
) -> Result<Summary, RunError> {
    let device = job.config.run.device.parse::<DeviceName>()?.open()?;
    let checkpoint = PathBuf::from(&job.pipeline.model.checkpoint);
    let about_model = Checkpoint::open(&checkpoint)?.about().map(str::to_owned);
    let model_sha256 = sha256_of(&checkpoint)?;
    let plan = plan(&job.pipeline.source)?;
    if plan.shards().is_empty() {
        return Err(RunError::EmptySource {
            path: job.pipeline.source.path().to_owned(),
            what: "images (JPEG, PNG, TIFF, BMP, WebP) or tar shards of them",
        });
    }
    let record = JobRecord::new(&job.pipeline, &model_sha256, &plan, tool_version);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let output = job.config.output.job_root(&job.pipeline.name);
    let load = || {
        let sam = Sam::load(&checkpoint, &device)?;
        tracing::info!(architecture = %sam.architecture(), device = %job.config.run.device, "model loaded");
        Ok::<Sam, CheckpointError>(sam)
    };
    // A checkpoint that does not load must leave no job behind it, so a new output is claimed after
    // loading. A resumed job has loaded it before and may have nothing left to do.
    let sam = match runtime.block_on(has_job(&output))? {
        true => None,
        false => Some(load()?),
    };
    let store = OutputStore::open(&output)?;
    let fingerprint = record.fingerprint.clone();
    let commits = CommitStore::new(
        store.clone(),
        fingerprint.as_str(),
        tool_version,
        inspector(),
    );
    let claimed = runtime.block_on(claim(&store, &record.to_json()))?;
    let done = match claimed {
        Claim::New => Default::default(),
        Claim::Resumed => runtime.block_on(commits.committed_shards())?,
    };
    let pending: Vec<&Shard> = plan
        .shards()
        .iter()
        .filter(|shard| !done.contains(&shard.id.0))
        .collect();
    let summary = Summary {
        output,
        about_model,
        shards: plan.shards().len(),
        resumed: plan.shards().len() - pending.len(),
        ..Summary::default()
    };
    observe(&planned(&plan, &pending));
    if pending.is_empty() {
        return Ok(summary);
    }
    let sam = match sam {
        Some(sam) => sam,
        None => load()?,
    };
    let assembler = Assembler {
        commits,
        fingerprint,
        runtime: runtime.handle().clone(),
    };
    run_stages(job, &sam, &pending, &assembler, summary, observe)
}

/// Whether some job has written to `output`.
async fn has_job(output: &str) -> Result<bool, StorageError> {
    match OutputStore::open_existing(output) {
        Ok(store) => store.exists(layout::JOB_RECORD).await,
        Err(StorageError::NoOutput { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn planned<'a>(plan: &Plan, pending: &[&Shard]) -> Event<'a> {
    Event::Planned {
        shards: plan.shards().len(),
        committed: plan.shards().len() - pending.len(),
        images: pending.iter().map(|shard| shard.images()).sum(),
        bytes: pending.iter().map(|shard| shard.bytes()).sum(),
    }
}

fn run_stages(
    job: &Job,
    sam: &Sam,
    pending: &[&Shard],
    assembler: &Assembler,
    mut summary: Summary,
    observe: &dyn Fn(&Event<'_>),
) -> Result<Summary, RunError> {
    let start = Instant::now();
    let options: &AutomaticOptions = &automatic_options(&job.pipeline);
    let config = &job.config.run;
    let limits = decode_limits(&job.pipeline.limits);
    let decoders = match config.decode_threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads as usize,
    };
    let in_flight = InFlight::new(
        config.images_in_flight as usize,
        config.max_bytes_in_flight,
        assembler.runtime.clone(),
    );
    let points_per_batch = config.points_per_batch as usize;
    let (samples_in, samples) = bounded(decoders);
    let (prepared_in, prepared) = bounded(1);
    let (proposals_in, proposals) = bounded(PROPOSALS_AHEAD);
    let (assembled_in, assembled) = bounded(ROWS_AHEAD);

    thread::scope(|scope| {
        let mut stages = Vec::new();
        let reader = Reader {
            limits: &job.pipeline.limits,
            in_flight: &in_flight,
            samples: samples_in,
            assembler: assembled_in.clone(),
        };
        stages.push(spawn(scope, "reader", move || reader.run(pending)));
        for _ in 0..decoders {
            let (samples, device) = (samples.clone(), prepared_in.clone());
            let assembler = assembled_in.clone();
            let image_size = sam.architecture().image_size;
            stages.push(spawn(scope, "decode", move || {
                decode_images(&samples, &limits, options, image_size, &device, &assembler);
            }));
        }
        stages.push(spawn(scope, "device", move || {
            run_model(&prepared, sam, options, points_per_batch, &proposals_in);
        }));
        stages.push(spawn(scope, "selector", move || {
            select_masks(&proposals, sam, options, &assembled_in);
        }));
        // This thread's copies would keep the channels open.
        drop((samples, prepared_in));

        let mut stopped = None;
        let mut open: BTreeMap<ShardId, OpenShard> = BTreeMap::new();
        for message in &assembled {
            let shard = match message {
                Assembled::Image(image) => {
                    observe(&Event::Image {
                        masks: image.masks.len(),
                        rejected: image.image.reason.as_deref(),
                    });
                    let shard = image.shard;
                    open.entry(shard)
                        .or_insert_with(OpenShard::new)
                        .push(*image);
                    shard
                }
                Assembled::ShardRead { shard, images } => {
                    open.entry(shard)
                        .or_insert_with(OpenShard::new)
                        .expect(images);
                    shard
                }
                Assembled::ShardFailed { shard, detail } => {
                    open.remove(&shard);
                    fail(&mut summary, shard, detail, observe);
                    continue;
                }
            };
            if !open[&shard].is_whole() {
                continue;
            }
            let whole = open.remove(&shard).expect("it was looked at just now");
            match assembler.commit(shard, whole) {
                Ok(marker) => {
                    count(&mut summary, &marker);
                    observe(&Event::Committed(&marker));
                }
                Err(ShardError::Commit(CommitError::Storage(source))) => {
                    stopped = Some(RunError::Output {
                        shard,
                        committed: summary.committed,
                        source,
                    });
                    break;
                }
                Err(error) => fail(&mut summary, shard, describe(&error), observe),
            }
        }
        // Stages that still send find nobody there, and end.
        drop(assembled);
        for (stage, handle) in stages {
            if let Err(panic) = handle.join() {
                let message = panic_message(panic.as_ref());
                stopped.get_or_insert(RunError::Stage { stage, message });
            }
        }
        summary.elapsed = start.elapsed();
        match stopped {
            Some(error) => Err(error),
            None => Ok(summary),
        }
    })
}

/// Starts a stage's thread, named after it.
fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'static str,
    work: impl FnOnce() + Send + 'scope,
) -> (&'static str, ScopedJoinHandle<'scope, ()>) {
    let builder = thread::Builder::new().name(stage.to_owned());
    let handle = builder.spawn_scoped(scope, work);
    (stage, handle.expect("the operating system has threads"))
}

fn count(summary: &mut Summary, marker: &Marker) {
    summary.committed += 1;
    summary.images += marker.images_ok;
    summary.masks += marker.masks.rows;
    for (reason, count) in &marker.rejects {
        *summary.rejects.entry(reason.clone()).or_default() += count;
    }
}

fn fail(summary: &mut Summary, shard: ShardId, detail: String, observe: &dyn Fn(&Event<'_>)) {
    observe(&Event::Failed {
        shard,
        detail: &detail,
    });
    summary.failed.push((shard, detail));
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

fn sha256_of(path: &Path) -> Result<String, CheckpointError> {
    let io = |source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(io)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(io)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}
