//! A job from its files to committed shards: what has to be there before the stages begin.
//!
//! ```text
//!  device, checkpoint ─> fingerprint ─> whose output is it? ─> plan (frozen, or frozen now)
//!        ─> shards selected, not committed, not failed ─> model ─> stages (flow.rs)
//! ```
//!
//! A checkpoint that does not load, or a source that is empty, leaves no job behind it: a new output is
//! claimed after both are known.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use maskmill_job::{Fingerprint, Job, JobRecord, Plan, Selection, Shard, ShardId};
use maskmill_sam::DeviceError;
use maskmill_storage::{
    ClaimError, CommitError, CommitStore, Marker, OutputStore, SourceError, StorageError, claim,
    failed_shards, layout,
};
use maskmill_weights::{Checkpoint, CheckpointError};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::assemble::{Assembler, inspector};
use crate::flow::Flow;
use crate::meter::{Snapshot, Stage};
use crate::models::{Models, ModelsError, open_device};
use crate::open_source::OpenSource;
use crate::plan_items::PlanItems;
use crate::planning::{Planner, PlanningError};
use crate::prompt_files::{PromptFiles, PromptFilesError};
use crate::source::store_options;
use crate::stages::hex;

/// What a running job tells its caller, who may draw progress or log it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The plan is there and the output claimed.
    Planned {
        /// All shards of the plan.
        shards: usize,
        /// Those of the selection that are committed.
        committed: usize,
        /// Those of the selection that failed in an earlier run and are passed over.
        failed: usize,
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
    /// A second or so has passed.
    Tick(&'a Snapshot),
    /// A shard is committed.
    Committed {
        /// Its marker.
        marker: &'a Marker,
        /// The job at this moment.
        now: &'a Snapshot,
    },
    /// A shard could not be read, and is begun again.
    Again {
        /// The shard.
        shard: ShardId,
        /// The attempt that was given up, from 1.
        attempt: u32,
        /// Why.
        cause: &'a str,
    },
    /// A shard could not be read or committed; the others go on.
    Failed {
        /// The shard.
        shard: ShardId,
        /// Why.
        cause: &'a str,
    },
}

/// Which part of a job to run, and what of it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// Which shards are this machine's.
    pub selection: Selection,
    /// Shards that failed in an earlier run are tried again.
    pub retry_failed: bool,
    /// Rejected images of committed shards are looked at again, in shards of their own.
    pub retry_rejects: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            selection: Selection::All,
            retry_failed: false,
            retry_rejects: false,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Where the output is.
    pub output: String,
    /// What the checkpoint says of itself, such as that it is untrained.
    pub about_model: Option<String>,
    /// Shards of the selection.
    pub shards: usize,
    /// Those that were committed before this run, or by another worker during it.
    pub resumed: usize,
    /// Shards that this run committed.
    pub committed: usize,
    /// Shards that failed in this run, with the reason.
    pub failed: Vec<(ShardId, String)>,
    /// Shards that failed in an earlier run and were passed over, with the reason.
    pub failed_before: Vec<(ShardId, String)>,
    /// Images that this run gave to the model.
    pub images: u64,
    /// Images that this run rejected, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Labels that are longer than their model reads, with the part that it does not see.
    pub overlong_labels: Vec<String>,
    /// Masks that this run wrote.
    pub masks: u64,
    /// Wall time of the stages, without planning and loading.
    pub elapsed: Duration,
    /// Share of the time each stage was busy.
    pub load: Vec<(Stage, f64)>,
    /// Share of the time in which the warm device waited for input.
    pub device_idle: Option<f64>,
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
    /// The source cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source cannot be planned, or its plan not be read.
    #[error(transparent)]
    Planning(#[from] PlanningError),
    /// The device lacks the model's precision, or the detector, the labeller, labels or examples cannot be used.
    #[error(transparent)]
    Models(ModelsError),
    /// Files of prompts cannot be used.
    #[error(transparent)]
    PromptFiles(#[from] PromptFilesError),
    /// A marker or the records of failures cannot be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// `--shards` names shards that the plan does not have.
    #[error("the plan has {planned} shards, none of them in the selection; see `maskmill plan`")]
    NothingSelected {
        /// How many shards there are.
        planned: usize,
    },
    /// There is nothing to extend.
    #[error("{location} has no plan yet: make one with `maskmill plan --write`, or run the job")]
    NoPlan {
        /// The output.
        location: String,
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
    /// Nothing can be read any more: the credentials are not accepted.
    #[error(
        "the source can no longer be read and the job was stopped ({cause}); {committed} shard(s) of this run are committed, and running it again goes on from there"
    )]
    Input {
        /// What the store said.
        cause: String,
        /// Shards committed by this run.
        committed: usize,
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

impl From<ModelsError> for RunError {
    fn from(error: ModelsError) -> Self {
        match error {
            ModelsError::Device(error) => Self::Device(error),
            ModelsError::Sam(error) => Self::Checkpoint(error),
            error => Self::Models(error),
        }
    }
}

impl RunError {
    /// Whether shards may have been committed before the error.
    pub fn had_started(&self) -> bool {
        matches!(
            self,
            Self::Output { .. } | Self::Input { .. } | Self::Stage { .. }
        )
    }
}

/// Runs a job, or what earlier runs and other workers left of it. Blocking.
///
/// `observe` is called from the assembling thread.
///
/// # Errors
/// See [`RunError`]. Failed shards and rejected images are no errors: they are in the [`Summary`].
pub fn run(
    job: &Job,
    options: &RunOptions,
    tool_version: &str,
    observe: &dyn Fn(&Event<'_>),
) -> Result<Summary, RunError> {
    // Before anything is read: a device that is not there needs no files.
    open_device(&job.pipeline, &job.config.run.device)?;
    let checkpoint = PathBuf::from(&job.pipeline.model.checkpoint);
    let about_model = Checkpoint::open(&checkpoint)?.about().map(str::to_owned);
    let model_sha256 = sha256_of(&checkpoint)?;
    let runtime = new_runtime().map_err(RunError::Runtime)?;
    let output = job.config.output.job_root(&job.pipeline.name);
    let source = OpenSource::open(&job.pipeline.source, &store_options(&job.config, true))?;
    let files = PromptFiles::read(
        &job.pipeline,
        &store_options(&job.config, true),
        runtime.handle(),
    )?;
    let record = JobRecord::new(&job.pipeline, &model_sha256, &files.digests, tool_version);
    let planner = Planner {
        fingerprint: record.fingerprint.clone(),
        tool_version: tool_version.to_owned(),
        source: job.pipeline.source.clone(),
        runtime: runtime.handle().clone(),
    };
    let load = || Models::load(&job.pipeline, &job.config.run.device);
    let stores = store_options(&job.config, false);
    let mut models = None;
    let mut listed = None;
    if !runtime.block_on(has_job(&output, &stores))? {
        let items = planner.list(&source)?;
        files.require_match(&items, &job.pipeline)?;
        listed = Some(items);
        models = Some(load()?);
    }
    let store = OutputStore::open(&output, &stores)?;
    let commits = commit_store(
        &store,
        &record.fingerprint,
        tool_version,
        job.config.output.max_put_bytes,
    );
    runtime.block_on(claim(&store, &record.to_json()))?;
    let mut plan = Arc::new(match listed {
        Some(items) => planner.freeze(&store, items)?,
        None => planner.plan(&store, &source)?,
    });
    if options.retry_rejects && planner.retry_rejects(&commits, &source, &plan)? > 0 {
        plan = Arc::new(planner.plan(&store, &source)?);
    }
    let todo = Todo::of(&plan, options, &runtime, &commits)?;
    let mut summary = Summary {
        output,
        about_model,
        shards: todo.selected,
        resumed: todo.committed,
        failed_before: todo.failed,
        ..Summary::default()
    };
    observe(&Event::Planned {
        shards: plan.shards().count(),
        committed: todo.committed,
        failed: summary.failed_before.len(),
        images: todo.pending.iter().map(|shard| shard.images).sum(),
        bytes: todo.pending.iter().map(|shard| shard.bytes).sum(),
    });
    if todo.pending.is_empty() {
        return Ok(summary);
    }
    let models = match models {
        Some(models) => models,
        None => load()?,
    };
    summary.overlong_labels = models.overlong.iter().map(ToString::to_string).collect();
    let flow = Flow {
        job,
        models: &models,
        known: &files.known,
        source: &source,
        items: &PlanItems::stored(store, plan),
        shards: &todo.pending,
        assembler: Assembler {
            commits,
            fingerprint: record.fingerprint,
        },
        tool_version,
        runtime: runtime.handle().clone(),
        observe,
    };
    flow.run(summary)
}

/// Threads that wait for stores; the work is done elsewhere.
pub(crate) fn new_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

pub(crate) fn commit_store(
    store: &OutputStore,
    fingerprint: &Fingerprint,
    tool_version: &str,
    max_put_bytes: u64,
) -> CommitStore {
    CommitStore::new(
        store.clone(),
        fingerprint.as_str(),
        tool_version,
        inspector(),
    )
    .with_put_limit(max_put_bytes)
}

/// The shards of a run.
struct Todo {
    selected: usize,
    committed: usize,
    failed: Vec<(ShardId, String)>,
    pending: Vec<Shard>,
}

impl Todo {
    fn of(
        plan: &Plan,
        options: &RunOptions,
        runtime: &Runtime,
        commits: &CommitStore,
    ) -> Result<Self, RunError> {
        let planned = plan.shards().count();
        let selected: Vec<&Shard> = plan
            .shards()
            .filter(|shard| options.selection.contains(shard.id))
            .collect();
        if selected.is_empty() && matches!(options.selection, Selection::Range(_)) {
            return Err(RunError::NothingSelected { planned });
        }
        let done = runtime.block_on(commits.committed_shards())?;
        let failures = runtime.block_on(failed_shards(commits.store()))?;
        let mut todo = Self {
            selected: selected.len(),
            committed: 0,
            failed: Vec::new(),
            pending: Vec::new(),
        };
        for shard in selected {
            if done.contains(&shard.id.0) {
                todo.committed += 1;
                continue;
            }
            match failures.get(&shard.id.0) {
                Some(failure) if !options.retry_failed => {
                    todo.failed.push((shard.id, failure.cause.clone()));
                }
                _ => todo.pending.push(shard.clone()),
            }
        }
        Ok(todo)
    }
}

/// Whether some job has written to `output`.
async fn has_job(
    output: &str,
    stores: &maskmill_storage::StoreOptions,
) -> Result<bool, StorageError> {
    match OutputStore::open_existing(output, stores).await {
        Ok(store) => store.exists(layout::JOB_RECORD).await,
        Err(StorageError::NoOutput { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn sha256_of(path: &Path) -> Result<String, CheckpointError> {
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
