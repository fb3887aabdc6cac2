//! `plan`: what a job would do, how long it takes and what it costs, before anything is begun.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use maskmill_formats::decode::{Decoded, decode};
use maskmill_job::{Item, ItemKind, Job, JobRecord, Plan, ShardId, cut};
use maskmill_sam::PromptBudget;
use maskmill_storage::{CommitStore, OutputStore, StorageError, claim};
use maskmill_weights::Checkpoint;
use tokio::runtime::Runtime;

use crate::describe::describe;
use crate::known_prompts::KnownPrompts;
use crate::models::Models;
use crate::open_source::OpenSource;
use crate::options::prompt_budget;
use crate::planning::{Changes, Planner, PlanningError, read_plan};
use crate::prompt_files::PromptFiles;
use crate::reader::{carried, decode_limits, expect};
use crate::run::{RunError, commit_store, new_runtime, sha256_of};
use crate::source::store_options;
use crate::stages::{Attempt, ImageId, Rejection};
use crate::workers::{Question, Selector, ask, cut_out, prepare};

/// What to do with the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanMode {
    /// Only look.
    Show,
    /// Freeze it in the output, so that every worker does the same shards.
    Write,
    /// Add what is new to the plan that is there.
    Extend,
}

/// A plan in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanReport {
    /// The output.
    pub output: String,
    /// Its digest, if it stands in the output.
    pub digest: Option<String>,
    /// Shards.
    pub shards: u64,
    /// Committed ones.
    pub committed: u64,
    /// Images; unknown for tars.
    pub images: Option<u64>,
    /// Bytes to read; what manifests do not tell counts as 0.
    pub bytes: u64,
    /// Items that are rejected already, by reason.
    pub rejects: std::collections::BTreeMap<String, u64>,
    /// What an extension found.
    pub changes: Option<Changes>,
    /// How long planning took.
    pub planned_in: Duration,
    /// How fast the job goes, if it was measured.
    pub pace: Option<Pace>,
    /// Images that are not committed; of tars an estimate by their bytes, if it was measured.
    pub images_left: Option<f64>,
}

/// How fast a job goes on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Seconds an image takes, of one worker.
    pub seconds_per_image: f64,
    /// Of how many images.
    pub images: u64,
    /// Whether from committed shards; else a few images were run now.
    pub from_output: bool,
}

/// Makes or reads a plan, and measures. Blocking.
///
/// `measure` images are run through the model if no committed shard tells the pace; 0 for none.
///
/// # Errors
/// As [`run`](crate::run()), and for [`PlanMode::Extend`] an output that has no plan.
pub fn make_plan(
    job: &Job,
    mode: PlanMode,
    measure: usize,
    tool_version: &str,
) -> Result<PlanReport, RunError> {
    let start = Instant::now();
    let runtime = new_runtime().map_err(RunError::Runtime)?;
    let source = OpenSource::open(&job.pipeline.source, &store_options(&job.config, true))?;
    let location = job.config.output.job_root(&job.pipeline.name);
    let stores = store_options(&job.config, false);
    let standing = match runtime.block_on(OutputStore::open_existing(&location, &stores)) {
        Ok(store) => runtime
            .block_on(read_plan(&store))?
            .map(|plan| (store, plan)),
        Err(StorageError::NoOutput { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut report = PlanReport {
        output: location.clone(),
        ..PlanReport::default()
    };
    let identity = || identity(job, tool_version, &runtime);
    let samples = match (standing, mode) {
        (Some((store, plan)), mode) => {
            let plan = if mode == PlanMode::Show {
                plan
            } else {
                let (record, planner) = identity()?;
                // The plan of another job is refused before anything is added to it.
                runtime.block_on(claim(&store, &record.to_json()))?;
                if mode == PlanMode::Extend {
                    report.changes = Some(planner.extend(&store, &source, &plan, true)?);
                }
                planner.plan(&store, &source)?
            };
            report.describe(&plan);
            report.planned_in = start.elapsed();
            let committed = commits(&store, &plan, job, tool_version);
            report.history(&plan, &committed, &runtime)?;
            match report.pace {
                // Nothing is to be measured.
                Some(_) => Vec::new(),
                None => stored_samples(&store, &plan, measure, &runtime)?,
            }
        }
        (None, PlanMode::Extend) => return Err(RunError::NoPlan { location }),
        (None, PlanMode::Show) => {
            let items = crate::source::list_items(&job.pipeline.source, &source, runtime.handle());
            let items = items.map_err(PlanningError::from)?;
            let cut = cut(items, job.pipeline.source.shard_limits(), ShardId(0));
            report.shards = cut.shards.len() as u64;
            report.images = cut.shards.iter().map(|shard| shard.images).sum();
            report.bytes = cut.shards.iter().map(|shard| shard.bytes).sum();
            report.images_left = report.images.map(|images| images as f64);
            report.count_rejects(&cut.items);
            report.planned_in = start.elapsed();
            spread(&cut.items, measure)
        }
        (None, PlanMode::Write) => {
            let (record, planner) = identity()?;
            // An empty source leaves nothing behind.
            let items = planner.list(&source)?;
            report.count_rejects(&items);
            let samples = spread(&items, measure);
            let store = OutputStore::open(&location, &stores)?;
            runtime.block_on(claim(&store, &record.to_json()))?;
            let plan = planner.freeze(&store, items)?;
            report.describe(&plan);
            report.images_left = report.images.map(|images| images as f64);
            report.planned_in = start.elapsed();
            samples
        }
    };
    if report.pace.is_none() && measure > 0 {
        report.measure(job, &samples, &source, &runtime)?;
    }
    Ok(report)
}

/// What makes this job this job.
fn identity(
    job: &Job,
    tool_version: &str,
    runtime: &Runtime,
) -> Result<(JobRecord, Planner), RunError> {
    let checkpoint = Path::new(&job.pipeline.model.checkpoint);
    Checkpoint::open(checkpoint)?;
    let stores = store_options(&job.config, true);
    let files = PromptFiles::read(&job.pipeline, &stores, runtime.handle())?;
    let model_sha256 = sha256_of(checkpoint)?;
    let record = JobRecord::new(&job.pipeline, &model_sha256, &files.digests, tool_version);
    let planner = Planner {
        fingerprint: record.fingerprint.clone(),
        tool_version: tool_version.to_owned(),
        source: job.pipeline.source.clone(),
        runtime: runtime.handle().clone(),
    };
    Ok((record, planner))
}

fn commits(store: &OutputStore, plan: &Plan, job: &Job, tool_version: &str) -> CommitStore {
    let limit = job.config.output.max_put_bytes;
    commit_store(store, plan.fingerprint(), tool_version, limit)
}

impl PlanReport {
    fn describe(&mut self, plan: &Plan) {
        self.digest = Some(plan.digest().to_owned());
        self.shards = plan.shards().count() as u64;
        self.images = plan.images();
        self.bytes = plan.bytes();
    }

    fn count_rejects(&mut self, items: &[Item]) {
        for reject in items.iter().filter_map(Item::reject) {
            *self.rejects.entry(reject.reason.clone()).or_default() += 1;
        }
    }

    /// Reads the pace and what is left from committed shards.
    fn history(
        &mut self,
        plan: &Plan,
        commits: &CommitStore,
        runtime: &Runtime,
    ) -> Result<(), RunError> {
        let markers = runtime.block_on(commits.markers())?;
        self.committed = markers.len() as u64;
        let (mut images, mut all, mut bytes, mut device) = (0, 0, 0, 0.0);
        for marker in &markers {
            images += marker.images_ok;
            all += marker.images_ok + marker.images_rejected;
            bytes += marker.stats.bytes;
            // The device does one image at a time: its seconds are the pace of one worker.
            device += marker.stats.stage_seconds.get("device").unwrap_or(&0.0);
        }
        let done: std::collections::BTreeSet<u32> = markers.iter().map(|m| m.shard).collect();
        let left = plan.shards().filter(|shard| !done.contains(&shard.id.0));
        let (mut images_left, mut bytes_left) = (Some(0), 0);
        for shard in left {
            images_left = images_left.zip(shard.images).map(|(sum, n)| sum + n);
            bytes_left += shard.bytes;
        }
        self.images_left = match images_left {
            Some(images) => Some(images as f64),
            None if bytes > 0 => Some(bytes_left as f64 * all as f64 / bytes as f64),
            None => None,
        };
        if images > 0 && device > 0.0 {
            self.pace = Some(Pace {
                seconds_per_image: device / images as f64,
                images,
                from_output: true,
            });
        }
        Ok(())
    }

    /// Runs a few images through all stages, one by one.
    fn measure(
        &mut self,
        job: &Job,
        samples: &[Item],
        source: &OpenSource,
        runtime: &Runtime,
    ) -> Result<(), RunError> {
        let models = Models::load(&job.pipeline, &job.config.run.device)?;
        let stores = store_options(&job.config, true);
        let files = PromptFiles::read(&job.pipeline, &stores, runtime.handle())?;
        let limits = decode_limits(&job.pipeline.limits);
        let budget = prompt_budget(&job.config.run);
        let mut seconds = Vec::new();
        // The first is run twice: a device compiles and tunes its kernels in its first turn.
        for item in samples.iter().take(1).chain(samples) {
            let max_bytes = job.pipeline.limits.max_file_bytes;
            let bytes = runtime.block_on(async {
                let fetch = source.get(item.at(), expect(item), max_bytes).await?;
                fetch.body().await
            });
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!(image = %item.key, error = describe(&error), "not measured");
                    continue;
                }
            };
            let start = Instant::now();
            let Ok(decoded) = decode(&bytes, &limits) else {
                continue;
            };
            if let Err(rejection) = run_image(&models, &files.known, item, decoded, budget) {
                let why = rejection.detail;
                tracing::warn!(image = %item.key, error = why, "not measured");
                continue;
            }
            seconds.push(start.elapsed().as_secs_f64());
        }
        if seconds.len() > 1 {
            let warm = &seconds[1..];
            self.pace = Some(Pace {
                seconds_per_image: warm.iter().sum::<f64>() / warm.len() as f64,
                images: warm.len() as u64,
                from_output: false,
            });
        }
        Ok(())
    }
}

/// All stages of an image, one after the other.
fn run_image(
    models: &Models,
    known: &KnownPrompts,
    item: &Item,
    decoded: Decoded,
    budget: PromptBudget,
) -> Result<(), Rejection> {
    let id = ImageId {
        attempt: Attempt {
            shard: ShardId(0),
            number: 1,
        },
        index: 0,
        key: item.key.to_string(),
        carried: carried(item),
    };
    let size = decoded.image.size();
    let given = known.of(&id, size)?;
    let inputs = prepare(decoded, models);
    let mut selector = Selector::new(models, size);
    let question = Question {
        image: &inputs.image,
        for_detector: inputs.for_detector.as_ref(),
        given,
        carried: &id.carried,
        size,
    };
    let (given, flow) = ask(models, question, budget, |batch| {
        selector.push(batch);
        ControlFlow::Continue(())
    })?;
    debug_assert!(flow.is_continue(), "this sink never stops");
    let masks = selector.finish(&given);
    if let (Some(labeller), Some(pixels)) = (&models.labeller, &inputs.pixels) {
        let crops = cut_out(models, pixels, &masks, &given);
        labeller.label(&crops.iter().collect::<Vec<_>>());
    }
    Ok(())
}

/// A few single images, evenly over the plan.
fn spread(items: &[Item], count: usize) -> Vec<Item> {
    let usable: Vec<&Item> = items
        .iter()
        .filter(|item| matches!(item.kind, ItemKind::Image) && item.reject().is_none())
        .collect();
    let count = count.min(usable.len());
    (0..count)
        .map(|index| usable[(2 * index + 1) * usable.len() / (2 * count)].clone())
        .collect()
}

fn stored_samples(
    store: &OutputStore,
    plan: &Plan,
    count: usize,
    runtime: &Runtime,
) -> Result<Vec<Item>, RunError> {
    let Some(file) = plan.segments().iter().flat_map(|s| &s.files).next() else {
        return Ok(Vec::new());
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    let items = runtime.block_on(crate::plan_items::load(store, file));
    Ok(spread(&items.map_err(PlanningError::from)?, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_over_usable_images() {
        let item = |key: &str| Item {
            key: key.into(),
            uri: None,
            bytes: 1,
            etag: None,
            kind: ItemKind::Image,
            extras: None,
        };
        let items: Vec<Item> = (0..10).map(|n| item(&n.to_string())).collect();
        let keys = |count| -> Vec<String> {
            let samples = spread(&items, count).into_iter();
            samples.map(|item| item.key.to_string()).collect()
        };
        assert_eq!(keys(2), ["2", "7"]);
        assert_eq!(keys(0), [""; 0]);
        assert_eq!(keys(99).len(), 10);
    }
}
