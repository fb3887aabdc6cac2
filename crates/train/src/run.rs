//! The training run, whatever is trained: draw, ask, step; save, measure, go on.
//!
//! ```text
//!             +------------- state.safetensors: every few minutes, replaced whole -------------+
//!             v                                                                                |
//! position ──> images of a number ──> batch of a number ──> loss ──> gradients ──> AdamW ──────+──> last.safetensors
//!              (threads, ahead)       (prompts, queries)                                       |
//!                                                               every so many steps: validation ──> checkpoint.safetensors
//! ```
//!
//! Every draw is a function of the seed and the step, so a run that was killed ends with the weights of one that was not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use maskmill_job as job;
use maskmill_job::{
    ExportPrecision, ExportSettings, Fingerprint, OptimiserSettings, Train, TrainingRecord,
};
use maskmill_kernels::{Precision, set_training_precision};
use maskmill_weights::{StoredAs, to_host, write_whole};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use crate::data::batches;
use crate::error::TrainError;
use crate::evaluate::Report;
use crate::model::Learner;
use crate::optimiser::{Optimiser, StepAt};
use crate::segmenter::StepReport;
use crate::state::{self, Position};

/// Names of what a run leaves in its directory.
pub mod files {
    /// Which training file the run is of.
    pub const RECORD: &str = "_train.json";
    /// What a killed run goes on from.
    pub const STATE: &str = "state.safetensors";
    /// The weights of the best validation, or the last ones where nothing is validated: for use.
    pub const CHECKPOINT: &str = "checkpoint.safetensors";
    /// The weights as they were last saved: for use.
    pub const LAST: &str = "last.safetensors";
}

/// Where and how fast a run goes.
pub struct Place<'p> {
    /// The run's directory.
    pub directory: &'p Path,
    /// Where it computes, without autodiff.
    pub device: &'p Device,
    /// Saving and reading ahead.
    pub train: &'p Train,
    /// Becomes true when the run is to save and stop.
    pub stop: &'p AtomicBool,
    /// Steps after which the run saves and stops, though its training file wants more.
    pub steps_at_most: Option<u32>,
}

/// Hears how a run goes: of rows of its metrics (`S`) and of its validations (`V`), by default those of Segment Anything.
pub trait Observer<S = StepReport, V = Report> {
    /// Before the first step, at the step the run goes on from.
    fn begun(
        &mut self,
        position: &Position,
        steps: u32,
        parameters: usize,
    ) -> Result<(), TrainError>;
    /// Every `train.log_steps` steps.
    fn stepped(&mut self, report: &S) -> Result<(), TrainError>;
    /// After each validation; `best` where it is the best so far.
    fn validated(&mut self, step: u32, report: &V, best: bool) -> Result<(), TrainError>;
    /// An example was passed over.
    fn skipped(&mut self, problem: &str);
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Where it stands.
    pub position: Position,
    /// Whether all steps are done.
    pub finished: bool,
    /// The checkpoint for use.
    pub checkpoint: PathBuf,
}

/// One row of the metrics: means over the steps since the last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepRow<const LOSSES: usize> {
    /// Steps done.
    pub step: u32,
    /// Images learned from.
    pub images: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// The weighted sum, and its parts unweighted.
    pub losses: [f64; LOSSES],
    /// Before clipping.
    pub gradient_norm: f64,
    /// Images a second.
    pub images_per_second: f64,
    /// Examples passed over since the last row.
    pub skipped: u64,
}

/// What is trained, on what, and how it is measured. `LOSSES`: the sum that is minimised, and its parts.
pub(crate) trait Task<const LOSSES: usize>: Sync {
    /// What learns.
    type Model: Learner;
    /// One image, drawn and prepared.
    type Image: Send;
    /// Images with what is asked about them.
    type Batch: Send;
    /// A row of the metrics.
    type Step;
    /// A validation.
    type Report;

    /// Of the training file.
    fn name(&self) -> &str;
    /// Of the training file.
    fn optimiser(&self) -> &OptimiserSettings;
    /// Of the training file.
    fn export(&self) -> &ExportSettings;
    /// Steps from one validation to the next; none where nothing is validated.
    fn validation_steps(&self) -> Option<u32>;
    /// An image's key, and the problems of examples that were passed over on the way to it.
    fn of_image(image: &Self::Image) -> (&str, &[String]);
    /// Draws what is asked about the images of the batch of a number.
    fn batch(&mut self, model: &Self::Model, images: Vec<Self::Image>, number: u64) -> Self::Batch;
    /// The sum that is minimised, then its parts, `[1]` each.
    fn losses(&self, model: &Self::Model, batch: Self::Batch) -> [Tensor<1>; LOSSES];
    /// A row of the metrics.
    fn report(&self, row: StepRow<LOSSES>) -> Self::Step;
    /// Measures an exported checkpoint; with one number to choose between checkpoints, the higher the better.
    fn validate(
        &self,
        checkpoint: &Path,
        skipped: &mut dyn FnMut(String),
    ) -> Result<(Self::Report, f64), TrainError>;
}

/// Trains `model` from the state in the directory, or from as it is where there is none. `draw` makes the image of a number,
/// and is called by several threads.
///
/// # Errors
/// [`TrainError`]; the last saved state stands.
pub(crate) fn go<const LOSSES: usize, T: Task<LOSSES>>(
    task: T,
    mut model: T::Model,
    fingerprint: &Fingerprint,
    place: &Place<'_>,
    draw: &(impl Fn(u64) -> Result<T::Image, TrainError> + Sync),
    observer: &mut dyn Observer<T::Step, T::Report>,
) -> Result<Outcome, TrainError> {
    let at = |name: &str| place.directory.join(name);
    let settings = task.optimiser().clone();
    let mut optimiser = Optimiser::new(&mut model, &settings);
    let mut position = Position {
        fingerprint: fingerprint.to_string(),
        ..Position::default()
    };
    if let Some((saved, rows)) = state::load(&at(files::STATE), optimiser.row_length())? {
        if saved.fingerprint != position.fingerprint {
            return Err(TrainError::State {
                path: at(files::STATE),
                detail: "it is of another training file".to_owned(),
            });
        }
        optimiser.restore(&mut model, rows);
        position = saved;
    }
    observer.begun(&position, settings.steps, optimiser.parameters())?;

    let images = settings.batch_images as usize;
    let accumulate = u64::from(settings.accumulate);
    let numbers = u64::from(position.step) * accumulate..u64::from(settings.steps) * accumulate;
    let threads = place.train.loader_threads as usize;
    let mut run = Run {
        task,
        settings,
        place,
        model,
        optimiser,
        position,
    };
    std::thread::scope(|scope| {
        let batches = batches(scope, draw, images, numbers, threads);
        let finished = run.steps(&mut batches.iter(), observer);
        // Lets the reading threads end before the scope waits for them.
        drop(batches);
        let finished = finished?;
        Ok(Outcome {
            position: run.position.clone(),
            finished,
            checkpoint: at(files::CHECKPOINT),
        })
    })
}

/// Notes whose directory it is, or refuses another's.
///
/// # Errors
/// [`TrainError::OtherRun`] with every setting that differs.
pub(crate) fn claim<P: Serialize>(
    record: &TrainingRecord<P>,
    directory: &Path,
) -> Result<(), TrainError> {
    let path = &directory.join(files::RECORD);
    let read_error = |source| TrainError::Read {
        path: path.to_owned(),
        source,
    };
    match std::fs::read(path) {
        Ok(bytes) => {
            let there: TrainingRecord<Value> =
                serde_json::from_slice(&bytes).map_err(|e| TrainError::State {
                    path: path.to_owned(),
                    detail: e.to_string(),
                })?;
            let differences = there.differences(record);
            match differences.is_empty() {
                true => Ok(()),
                false => Err(TrainError::OtherRun {
                    directory: path.parent().unwrap_or(path).to_owned(),
                    differences,
                }),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            std::fs::create_dir_all(folder).map_err(|source| TrainError::Write {
                path: folder.to_owned(),
                source,
            })?;
            let text = serde_json::to_vec_pretty(record).expect("plain values");
            write_whole(path, &text).map_err(|source| TrainError::Write {
                path: path.to_owned(),
                source,
            })
        }
        Err(source) => Err(read_error(source)),
    }
}

struct Run<'r, const LOSSES: usize, T: Task<LOSSES>> {
    task: T,
    settings: OptimiserSettings,
    place: &'r Place<'r>,
    model: T::Model,
    optimiser: Optimiser,
    position: Position,
}

impl<const LOSSES: usize, T: Task<LOSSES>> Run<'_, LOSSES, T> {
    /// Steps until all are done, or until it is to stop; whether all are done.
    fn steps(
        &mut self,
        batches: &mut dyn Iterator<Item = Result<Vec<T::Image>, TrainError>>,
        observer: &mut dyn Observer<T::Step, T::Report>,
    ) -> Result<bool, TrainError> {
        set_training_precision(match self.settings.precision {
            job::Precision::F32 => Precision::F32,
            job::Precision::High => Precision::High,
            job::Precision::Bf16 => Precision::Bf16,
        });
        let steps = self.settings.steps;
        let at_most = self
            .place
            .steps_at_most
            .map_or(steps, |n| steps.min(self.position.step.saturating_add(n)));
        let begun = Instant::now();
        let before = self.position.seconds;
        let mut saved = Instant::now();
        let mut saved_step = None;
        let mut since = Means::<LOSSES>::default();
        while self.position.step < at_most {
            if self.place.stop.load(Ordering::Relaxed) {
                break;
            }
            let report = self.step(batches, observer)?;
            since.add(&report);
            self.position.seconds = before + begun.elapsed().as_secs_f64();
            let step = self.position.step;
            if step.is_multiple_of(self.place.train.log_steps.max(1)) || step == steps {
                let row = since.row(&self.position, &self.settings);
                observer.stepped(&self.task.report(row))?;
                since = Means::default();
            }
            let every = self.task.validation_steps();
            let due = every.is_some_and(|every| step.is_multiple_of(every) || step == steps);
            if due {
                self.validate(observer)?;
            }
            let minutes = saved.elapsed().as_secs_f64() / 60.0;
            if due || minutes >= self.place.train.checkpoint_minutes {
                self.save()?;
                saved = Instant::now();
                saved_step = Some(step);
            }
        }
        if saved_step != Some(self.position.step) {
            self.save()?;
        }
        Ok(self.position.step == steps)
    }

    /// One step: batches until enough gradients are gathered, then AdamW.
    ///
    /// On the CPU the batches of a step are computed at the same time, each by a copy of the networks: Burn's elementwise
    /// operations there take one core. What is added up, and in which order, does not depend on the number of cores.
    fn step(
        &mut self,
        batches: &mut dyn Iterator<Item = Result<Vec<T::Image>, TrainError>>,
        observer: &mut dyn Observer<T::Step, T::Report>,
    ) -> Result<StepMeans<LOSSES>, TrainError> {
        let settings = &self.settings;
        let mut means = StepMeans::default();
        let mut keys = Vec::new();
        let mut asked = Vec::with_capacity(settings.accumulate as usize);
        for index in 0..settings.accumulate {
            let drawn = batches.next().expect("a batch for each step")?;
            for one in &drawn {
                let (key, skipped) = T::of_image(one);
                keys.push(key.to_owned());
                means.skipped += skipped.len() as u64;
                for problem in skipped {
                    observer.skipped(problem);
                }
            }
            means.images += drawn.len() as u64;
            let number =
                u64::from(self.position.step) * u64::from(settings.accumulate) + u64::from(index);
            asked.push(self.task.batch(&self.model, drawn, number));
        }
        let each = |batch| self.gradients(batch);
        let gathered: Vec<[Tensor<1>; 2]> = match *self.place.device == Device::flex() {
            true => asked.into_par_iter().map(each).collect(),
            false => asked.into_iter().map(each).collect(),
        };
        let scale = 1.0 / f64::from(settings.accumulate);
        let sums = gathered
            .into_iter()
            .reduce(|[row, parts], [more_row, more_parts]| [row + more_row, parts + more_parts]);
        let [row, parts] = sums.expect("at least one batch");
        let parts = parts.mul_scalar(scale);
        let norm = row.clone().square().sum().sqrt().mul_scalar(scale);
        let read = to_host(Tensor::cat(vec![parts, norm], 0));
        let step = self.position.step + 1;
        let finite = |what, value: f32| match value.is_finite() {
            true => Ok(()),
            false => Err(TrainError::NotFinite {
                step,
                what,
                value,
                state: self.place.directory.join(files::STATE),
                images: keys.clone(),
            }),
        };
        finite("the loss", read[0])?;
        finite("the norm of the gradients", read[LOSSES])?;
        let norm = f64::from(read[LOSSES]);
        let clip = match settings.clip_norm > 0.0 && norm > settings.clip_norm {
            // As `clip_grad_norm_` has it.
            true => settings.clip_norm / (norm + 1e-6),
            false => 1.0,
        };
        let at = StepAt {
            step,
            rate: settings.learning_rate_at(self.position.step),
            gradient_scale: scale * clip,
        };
        self.optimiser.step(&mut self.model, row, at);
        self.position.step = step;
        self.position.images += means.images;
        means.losses = std::array::from_fn(|i| f64::from(read[i]));
        means.norm = f64::from(read[LOSSES]);
        Ok(means)
    }

    /// The gradients of a batch as a row, and its losses.
    fn gradients(&self, batch: T::Batch) -> [Tensor<1>; 2] {
        let model = self.optimiser.copy_of(&self.model);
        let losses = self.task.losses(&model, batch);
        let total = losses[0].clone();
        let losses = Tensor::cat(losses.into(), 0);
        let gradients = total.backward();
        let row = self.optimiser.gathered(model.networks(), gradients);
        [row, losses.without_autodiff()]
    }

    fn validate(
        &mut self,
        observer: &mut dyn Observer<T::Step, T::Report>,
    ) -> Result<(), TrainError> {
        let last = self.place.directory.join(files::LAST);
        self.export(&last)?;
        let mut skipped = Vec::new();
        let (report, score) = self
            .task
            .validate(&last, &mut |problem| skipped.push(problem))?;
        for problem in &skipped {
            observer.skipped(problem);
        }
        let best = self.position.best.is_none_or(|(best, _)| score > best);
        if best {
            self.position.best = Some((score, self.position.step));
            self.export(&self.place.directory.join(files::CHECKPOINT))?;
        }
        observer.validated(self.position.step, &report, best)
    }

    fn save(&self) -> Result<(), TrainError> {
        let at = |name: &str| self.place.directory.join(name);
        state::save(&at(files::STATE), self.optimiser.state(), &self.position)?;
        self.export(&at(files::LAST))?;
        if self.task.validation_steps().is_none() {
            self.export(&at(files::CHECKPOINT))?;
        }
        Ok(())
    }

    fn export(&self, path: &Path) -> Result<(), TrainError> {
        let stored_as = match self.task.export().precision {
            ExportPrecision::F32 => StoredAs::F32,
            ExportPrecision::F16 => StoredAs::F16,
        };
        let metadata = BTreeMap::from([
            ("name".to_owned(), self.task.name().to_owned()),
            ("step".to_owned(), self.position.step.to_string()),
            ("images".to_owned(), self.position.images.to_string()),
        ]);
        Ok(self.model.save(path, stored_as, metadata)?)
    }
}

/// Of one step.
struct StepMeans<const LOSSES: usize> {
    images: u64,
    skipped: u64,
    losses: [f64; LOSSES],
    norm: f64,
}

impl<const LOSSES: usize> Default for StepMeans<LOSSES> {
    fn default() -> Self {
        Self {
            images: 0,
            skipped: 0,
            losses: [0.0; LOSSES],
            norm: 0.0,
        }
    }
}

/// Sums since the last row.
struct Means<const LOSSES: usize> {
    begun: Instant,
    steps: u32,
    sums: StepMeans<LOSSES>,
}

impl<const LOSSES: usize> Default for Means<LOSSES> {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            steps: 0,
            sums: StepMeans::default(),
        }
    }
}

impl<const LOSSES: usize> Means<LOSSES> {
    fn add(&mut self, step: &StepMeans<LOSSES>) {
        self.steps += 1;
        self.sums.images += step.images;
        self.sums.skipped += step.skipped;
        self.sums.norm += step.norm;
        for (sum, value) in self.sums.losses.iter_mut().zip(step.losses) {
            *sum += value;
        }
    }

    fn row(&self, position: &Position, settings: &OptimiserSettings) -> StepRow<LOSSES> {
        let mean = |sum: f64| sum / f64::from(self.steps.max(1));
        StepRow {
            step: position.step,
            images: position.images,
            seconds: position.seconds,
            learning_rate: settings.learning_rate_at(position.step - 1),
            losses: self.sums.losses.map(mean),
            gradient_norm: mean(self.sums.norm),
            images_per_second: self.sums.images as f64 / self.begun.elapsed().as_secs_f64(),
            skipped: self.sums.skipped,
        }
    }
}
