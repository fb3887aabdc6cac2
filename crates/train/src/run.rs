//! The training run: draw, ask, step; save, measure, go on.
//!
//! ```text
//!             +------------- state.safetensors: every few minutes, replaced whole -------------+
//!             v                                                                                |
//! position ──> batch of a number ──> prompts of a number ──> loss ──> gradients ──> AdamW ─────+──> last.safetensors
//!              (threads, ahead)      (rounds of clicks)                                        |
//!                                                               every so many steps: validation ──> checkpoint.safetensors
//! ```
//!
//! Every draw is a function of the seed and the step, so a run that was killed ends with the weights of one that was not.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use maskmill_job::{
    Augmentation, EncoderTraining, ExportPrecision, StartingWeights, Train, TrainingPipeline,
    TrainingRecord, Validation,
};
use maskmill_sam::{Architecture, Precision, Sam, TrainableSam};
use maskmill_weights::{StoredAs, to_host, write_whole};
use rayon::prelude::*;

use crate::data::{Data, Drawn, mixed, sampler, unchanged};
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Report, evaluate_on};
use crate::optimiser::Optimiser;
use crate::state::{self, Position};
use crate::step::Batch;

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

/// One row of the metrics: means over the steps since the last.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done.
    pub step: u32,
    /// Images learned from.
    pub images: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// The weighted sum.
    pub loss: f64,
    /// Unweighted.
    pub focal: f64,
    /// Unweighted.
    pub dice: f64,
    /// Unweighted.
    pub iou: f64,
    /// Before clipping.
    pub gradient_norm: f64,
    /// Images a second.
    pub images_per_second: f64,
    /// Examples passed over since the last row.
    pub skipped: u64,
}

/// Hears how a run goes.
pub trait Observer {
    /// Before the first step, at the step the run goes on from.
    fn begun(
        &mut self,
        position: &Position,
        steps: u32,
        parameters: usize,
    ) -> Result<(), TrainError>;
    /// Every `train.log_steps` steps.
    fn stepped(&mut self, report: &StepReport) -> Result<(), TrainError>;
    /// After each validation; `best` where it is the best so far.
    fn validated(&mut self, step: u32, report: &Report, best: bool) -> Result<(), TrainError>;
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

/// Trains, from the beginning or from the state in the directory.
///
/// # Errors
/// [`TrainError`]; the last saved state stands.
pub fn train(
    pipeline: &TrainingPipeline,
    record: &TrainingRecord,
    place: &Place<'_>,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    let at = |name: &str| place.directory.join(name);
    claim(record, &at(files::RECORD))?;
    let device = place.device.clone().autodiff();
    let mut sam = match &pipeline.start {
        StartingWeights::Checkpoint { checkpoint } => {
            TrainableSam::load(Path::new(checkpoint), &device)?
        }
        StartingWeights::Fresh(settings) => {
            TrainableSam::fresh(&architecture(settings), pipeline.seed, &device)
        }
    };
    let mut optimiser = Optimiser::new(&mut sam, &pipeline.optimiser);
    let mut position = Position {
        fingerprint: record.fingerprint.to_string(),
        ..Position::default()
    };
    if let Some((saved, rows)) = state::load(&at(files::STATE), optimiser.row_length())? {
        if saved.fingerprint != position.fingerprint {
            return Err(TrainError::State {
                path: at(files::STATE),
                detail: "it is of another training file".to_owned(),
            });
        }
        optimiser.restore(&mut sam, rows);
        position = saved;
    }
    let data = Data::open(&pipeline.data, "data")?;
    let validation = match &pipeline.validation {
        None => None,
        Some(settings) => Some((settings, Data::open(&settings.data, "validation.data")?)),
    };
    let encoder = FrozenEncoder::of(pipeline, place.train)?;
    let sampler = sampler(&pipeline.augmentation, sam.architecture().image_size)?;
    observer.begun(&position, pipeline.optimiser.steps, optimiser.parameters())?;

    let images = pipeline.optimiser.batch_images as usize;
    let accumulate = u64::from(pipeline.optimiser.accumulate);
    let first = u64::from(position.step) * accumulate;
    let last = u64::from(pipeline.optimiser.steps) * accumulate;
    let threads = place.train.loader_threads as usize;
    let mut run = Run {
        pipeline,
        place,
        sam,
        optimiser,
        position,
        encoder,
        validation,
    };
    std::thread::scope(|scope| {
        let batches = data.batches(scope, sampler, images, pipeline.seed, first..last, threads);
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
fn claim(record: &TrainingRecord, path: &Path) -> Result<(), TrainError> {
    let read_error = |source| TrainError::Read {
        path: path.to_owned(),
        source,
    };
    match std::fs::read(path) {
        Ok(bytes) => {
            let there: TrainingRecord =
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

/// The architecture that a training file asks for.
pub fn architecture(settings: &maskmill_job::ArchitectureSettings) -> Architecture {
    let wide = |v: u32| v as usize;
    Architecture {
        image_size: wide(settings.image_size),
        patch_size: wide(settings.patch_size),
        encoder_dim: wide(settings.encoder_dim),
        encoder_heads: wide(settings.encoder_heads),
        encoder_mlp_dim: wide(settings.encoder_mlp_dim),
        windows: (0..settings.encoder_depth)
            .map(|block| {
                let global = settings.global_blocks.contains(&block);
                (!global).then_some(wide(settings.window))
            })
            .collect(),
        embed_dim: wide(settings.embed_dim),
        mask_in_channels: wide(settings.mask_in_channels),
        decoder_depth: wide(settings.decoder_depth),
        decoder_mlp_dim: wide(settings.decoder_mlp_dim),
        cross_attention_dim: wide(settings.cross_attention_dim),
        mask_tokens: wide(settings.mask_tokens),
        iou_head_depth: wide(settings.iou_head_depth),
        iou_head_dim: wide(settings.iou_head_dim),
    }
}

struct Run<'r> {
    pipeline: &'r TrainingPipeline,
    place: &'r Place<'r>,
    sam: TrainableSam,
    optimiser: Optimiser,
    position: Position,
    encoder: Option<FrozenEncoder>,
    validation: Option<(&'r Validation, Data)>,
}

/// Keeps what prompts draw apart from what images do.
const PROMPTS: u64 = 0x70_72_6f_6d_70_74_73;

/// Loss, focal, dice, IoU.
const PARTS: usize = 4;

impl Run<'_> {
    /// Steps until all are done, or until it is to stop; whether all are done.
    fn steps(
        &mut self,
        batches: &mut dyn Iterator<Item = Result<Vec<Drawn>, TrainError>>,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        let steps = self.pipeline.optimiser.steps;
        let at_most = self
            .place
            .steps_at_most
            .map_or(steps, |n| steps.min(self.position.step.saturating_add(n)));
        let begun = Instant::now();
        let before = self.position.seconds;
        let mut saved = Instant::now();
        let mut saved_step = None;
        let mut since = Means::default();
        while self.position.step < at_most {
            if self.place.stop.load(Ordering::Relaxed) {
                break;
            }
            let report = self.step(batches, observer)?;
            since.add(&report);
            self.position.seconds = before + begun.elapsed().as_secs_f64();
            let step = self.position.step;
            if step.is_multiple_of(self.place.train.log_steps.max(1)) || step == steps {
                observer.stepped(&since.row(&self.position, self.pipeline))?;
                since = Means::default();
            }
            let due = self.validation.as_ref().is_some_and(|(settings, _)| {
                step.is_multiple_of(settings.every_steps) || step == steps
            });
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
        batches: &mut dyn Iterator<Item = Result<Vec<Drawn>, TrainError>>,
        observer: &mut dyn Observer,
    ) -> Result<StepMeans, TrainError> {
        let settings = &self.pipeline.optimiser;
        let mut means = StepMeans::default();
        let mut keys = Vec::new();
        let mut asked = Vec::with_capacity(settings.accumulate as usize);
        for index in 0..settings.accumulate {
            let drawn = batches.next().expect("a batch for each step")?;
            for one in &drawn {
                keys.push(one.image.key.clone());
                means.skipped += one.skipped.len() as u64;
                for problem in &one.skipped {
                    observer.skipped(problem);
                }
            }
            means.images += drawn.len() as u64;
            asked.push(self.ask(drawn, index));
        }
        let each = |(batch, embeddings)| self.gradients(batch, embeddings);
        let gathered: Vec<[Tensor<1>; 2]> = match *self.place.device == Device::flex() {
            true => asked.into_par_iter().map(each).collect(),
            false => asked.into_iter().map(each).collect(),
        };
        let scale = 1.0 / f64::from(settings.accumulate);
        let sums = gathered
            .into_iter()
            .reduce(|[row, parts], [more_row, more_parts]| [row + more_row, parts + more_parts]);
        let [row, parts] = sums
            .expect("at least one batch")
            .map(|sum| sum.mul_scalar(scale));
        let norm = row.clone().square().sum().sqrt();
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
        finite("the norm of the gradients", read[PARTS])?;
        let norm = f64::from(read[PARTS]);
        let row = match settings.clip_norm > 0.0 && norm > settings.clip_norm {
            // As `clip_grad_norm_` has it.
            true => row.mul_scalar(settings.clip_norm / (norm + 1e-6)),
            false => row,
        };
        let rate = settings.learning_rate_at(self.position.step);
        self.optimiser.step(&mut self.sam, row, step, rate);
        self.position.step = step;
        self.position.images += means.images;
        means.values = [read[0], read[1], read[2], read[3], read[PARTS]].map(f64::from);
        Ok(means)
    }

    /// Draws the prompts of the batch of a number within the step; with embeddings where the encoder is frozen.
    fn ask(&mut self, drawn: Vec<Drawn>, index: u32) -> (Batch, Option<Tensor<4>>) {
        let places: Vec<_> = drawn.iter().map(|one| one.place).collect();
        let architecture = self.sam.architecture();
        let sides = [architecture.image_size, architecture.low_res_side()];
        let images = drawn.into_iter().map(|one| one.image).collect();
        let accumulate = u64::from(self.pipeline.optimiser.accumulate);
        let number = u64::from(self.position.step) * accumulate + u64::from(index);
        let seed = mixed(self.pipeline.seed ^ PROMPTS, number);
        let batch = Batch::draw(images, &self.pipeline.prompts, sides, seed);
        let device = self.sam.device();
        let encoder = self.encoder.as_mut();
        let embeddings = encoder.map(|encoder| encoder.embed(&batch, &places, device));
        (batch, embeddings)
    }

    /// The gradients of a batch as a row, and its loss and parts.
    fn gradients(&self, batch: Batch, embeddings: Option<Tensor<4>>) -> [Tensor<1>; 2] {
        let sam = self.optimiser.copy_of(&self.sam);
        let embeddings = embeddings.unwrap_or_else(|| batch.encode(&sam));
        let (prompts, losses) = (&self.pipeline.prompts, &self.pipeline.loss);
        let loss = batch.loss(&sam, embeddings, prompts, losses);
        let [focal, dice, iou] = loss.parts;
        let parts = Tensor::cat(vec![loss.total.clone(), focal, dice, iou], 0);
        let gradients = loss.total.backward();
        let row = self.optimiser.gathered(&sam.networks, gradients);
        [row, parts.without_autodiff()]
    }

    fn validate(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let Some((settings, data)) = &self.validation else {
            return Ok(());
        };
        let last = self.place.directory.join(files::LAST);
        self.export(&last)?;
        let sam = Sam::load(&last, self.place.device, Precision::F32)?;
        let evaluation = Evaluation {
            images: settings.images as usize,
            masks_per_image: settings.masks_per_image as usize,
            automatic: None,
        };
        let mut skipped = Vec::new();
        let report = evaluate_on(&sam, data, &evaluation, &mut |problem| {
            skipped.push(problem)
        })?;
        for problem in &skipped {
            observer.skipped(problem);
        }
        let score = report.score();
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
        if self.validation.is_none() {
            self.export(&at(files::CHECKPOINT))?;
        }
        Ok(())
    }

    fn export(&self, path: &Path) -> Result<(), TrainError> {
        let stored_as = match self.pipeline.export.precision {
            ExportPrecision::F32 => StoredAs::F32,
            ExportPrecision::F16 => StoredAs::F16,
        };
        let metadata = BTreeMap::from([
            ("name".to_owned(), self.pipeline.name.clone()),
            ("step".to_owned(), self.position.step.to_string()),
            ("images".to_owned(), self.position.images.to_string()),
        ]);
        Ok(self.sam.save(path, stored_as, metadata)?)
    }
}

#[derive(Default)]
struct StepMeans {
    images: u64,
    skipped: u64,
    /// Loss, focal, dice, IoU, norm.
    values: [f64; PARTS + 1],
}

/// Sums since the last row.
struct Means {
    begun: Instant,
    steps: u32,
    images: u64,
    skipped: u64,
    values: [f64; PARTS + 1],
}

impl Default for Means {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            steps: 0,
            images: 0,
            skipped: 0,
            values: [0.0; PARTS + 1],
        }
    }
}

impl Means {
    fn add(&mut self, step: &StepMeans) {
        self.steps += 1;
        self.images += step.images;
        self.skipped += step.skipped;
        for (sum, value) in self.values.iter_mut().zip(step.values) {
            *sum += value;
        }
    }

    fn row(&self, position: &Position, pipeline: &TrainingPipeline) -> StepReport {
        let [loss, focal, dice, iou, gradient_norm] =
            self.values.map(|sum| sum / f64::from(self.steps.max(1)));
        StepReport {
            step: position.step,
            images: position.images,
            seconds: position.seconds,
            learning_rate: pipeline.optimiser.learning_rate_at(position.step - 1),
            loss,
            focal,
            dice,
            iou,
            gradient_norm,
            images_per_second: self.images as f64 / self.begun.elapsed().as_secs_f64(),
            skipped: self.skipped,
        }
    }
}

/// An encoder that does not learn: it runs as in jobs, by the kernels of the CPU where it is on one, and what it made of
/// an image is kept where the image comes up again unchanged.
struct FrozenEncoder {
    sam: Sam,
    kept: HashMap<(usize, usize), Vec<f32>>,
    /// Images that may be kept.
    room: usize,
}

impl FrozenEncoder {
    fn of(pipeline: &TrainingPipeline, train: &Train) -> Result<Option<Self>, TrainError> {
        if pipeline.optimiser.encoder != EncoderTraining::Frozen {
            return Ok(None);
        }
        let StartingWeights::Checkpoint { checkpoint } = &pipeline.start else {
            return Err(TrainError::Settings(
                "optimiser.encoder = \"frozen\" needs model.checkpoint: a fresh encoder that does not learn sees nothing"
                    .to_owned(),
            ));
        };
        let sam = Sam::load(Path::new(checkpoint), &Device::flex(), Precision::F32)?;
        let architecture = sam.architecture();
        let bytes = architecture.grid().pow(2) * architecture.embed_dim * size_of::<f32>();
        let augmentation: &Augmentation = &pipeline.augmentation;
        let room = match unchanged(augmentation) {
            true => train.cache_memory as usize / bytes,
            false => 0,
        };
        Ok(Some(Self {
            sam,
            kept: HashMap::new(),
            room,
        }))
    }

    /// `[images, grid, grid, dim]`
    fn embed(&mut self, batch: &Batch, places: &[(usize, usize)], device: &Device) -> Tensor<4> {
        let architecture = self.sam.architecture();
        let (grid, dim) = (architecture.grid(), architecture.embed_dim);
        let mut values = Vec::with_capacity(places.len() * grid * grid * dim);
        for (image, place) in batch.images().iter().zip(places) {
            match self.kept.get(place) {
                Some(kept) => values.extend_from_slice(kept),
                None => {
                    let embedding = self.sam.encode_resized(image);
                    let made = to_host(embedding);
                    values.extend_from_slice(&made);
                    if self.kept.len() < self.room {
                        self.kept.insert(*place, made);
                    }
                }
            }
        }
        let shape = [places.len(), grid, grid, dim];
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}
