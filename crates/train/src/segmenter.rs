//! Training of Segment Anything: what a run of it draws, asks and measures.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use maskmill_job::{
    Augmentation, EncoderTraining, ExportSettings, OptimiserSettings, StartingWeights, Train,
    TrainingPipeline, TrainingRecord, Validation,
};
use maskmill_sam::{Architecture, Precision, Sam, TrainableSam};
use maskmill_weights::to_host;

use crate::data::{Data, Drawn, mixed, sampler, unchanged};
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Report, evaluate_on};
use crate::run::{self, Observer, Outcome, Place, StepRow, Task};
use crate::step::Batch;

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

impl StepReport {
    fn of(row: StepRow<4>) -> Self {
        let [loss, focal, dice, iou] = row.losses;
        Self {
            step: row.step,
            images: row.images,
            seconds: row.seconds,
            learning_rate: row.learning_rate,
            loss,
            focal,
            dice,
            iou,
            gradient_norm: row.gradient_norm,
            images_per_second: row.images_per_second,
            skipped: row.skipped,
        }
    }
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
    run::claim(record, place.directory)?;
    let device = place.device.clone().autodiff();
    let sam = match &pipeline.start {
        StartingWeights::Checkpoint {
            checkpoint,
            image_size,
        } => {
            let image_size = image_size.map(|size| size as usize);
            TrainableSam::load(Path::new(checkpoint), image_size, &device)?
        }
        StartingWeights::Fresh(settings) => {
            TrainableSam::fresh(&architecture(settings), pipeline.seed, &device)
        }
    };
    let data = Data::open(&pipeline.data, "data")?;
    let validation = match &pipeline.validation {
        None => None,
        Some(settings) => Some((settings, Data::open(&settings.data, "validation.data")?)),
    };
    let sampler = sampler(&pipeline.augmentation, sam.architecture().image_size)?;
    let segmenter = Segmenter {
        pipeline,
        device: place.device,
        encoder: FrozenEncoder::of(pipeline, place.train)?,
        validation,
    };
    let low_res_side = sam.architecture().low_res_side();
    let draw = |number| data.image(&sampler, low_res_side, mixed(pipeline.seed, number));
    run::go(segmenter, sam, &record.fingerprint, place, &draw, observer)
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

struct Segmenter<'r> {
    pipeline: &'r TrainingPipeline,
    device: &'r Device,
    encoder: Option<FrozenEncoder>,
    validation: Option<(&'r Validation, Data)>,
}

/// Keeps what prompts draw apart from what images do.
const PROMPTS: u64 = 0x70_72_6f_6d_70_74_73;

impl Task<4> for Segmenter<'_> {
    type Model = TrainableSam;
    type Image = Drawn;
    /// With the images' embeddings where the encoder is frozen.
    type Batch = (Batch, Option<Tensor<4>>);
    type Step = StepReport;
    type Report = Report;

    fn name(&self) -> &str {
        &self.pipeline.name
    }

    fn optimiser(&self) -> &OptimiserSettings {
        &self.pipeline.optimiser
    }

    fn export(&self) -> &ExportSettings {
        &self.pipeline.export
    }

    fn validation_steps(&self) -> Option<u32> {
        self.validation.as_ref().map(|(v, _)| v.every_steps)
    }

    fn of_image(image: &Drawn) -> (&str, &[String]) {
        (&image.image.key, &image.skipped)
    }

    /// Draws the prompts.
    fn batch(&mut self, sam: &TrainableSam, drawn: Vec<Drawn>, number: u64) -> Self::Batch {
        let places: Vec<_> = drawn.iter().map(|one| one.place).collect();
        let architecture = sam.architecture();
        let sides = [architecture.image_size, architecture.low_res_side()];
        let images = drawn.into_iter().map(|one| one.image).collect();
        let seed = mixed(self.pipeline.seed ^ PROMPTS, number);
        let batch = Batch::draw(images, &self.pipeline.prompts, sides, seed);
        let encoder = self.encoder.as_mut();
        let embeddings = encoder.map(|encoder| encoder.embed(&batch, &places, sam.device()));
        (batch, embeddings)
    }

    /// Loss, focal, dice, IoU.
    fn losses(&self, sam: &TrainableSam, (batch, embeddings): Self::Batch) -> [Tensor<1>; 4] {
        let embeddings = embeddings.unwrap_or_else(|| batch.encode(sam));
        let (prompts, losses) = (&self.pipeline.prompts, &self.pipeline.loss);
        let loss = batch.loss(sam, embeddings, prompts, losses);
        let [focal, dice, iou] = loss.parts;
        [loss.total, focal, dice, iou]
    }

    fn report(&self, row: StepRow<4>) -> StepReport {
        StepReport::of(row)
    }

    fn validate(
        &self,
        checkpoint: &Path,
        skipped: &mut dyn FnMut(String),
    ) -> Result<(Report, f64), TrainError> {
        let (settings, data) = self.validation.as_ref().expect("asked only where it is");
        let sam = Sam::load(checkpoint, self.device, Precision::F32)?;
        let evaluation = Evaluation {
            images: settings.images as usize,
            masks_per_image: settings.masks_per_image as usize,
            automatic: None,
        };
        let report = evaluate_on(&sam, data, &evaluation, skipped)?;
        let score = report.score();
        Ok((report, score))
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
        let StartingWeights::Checkpoint { checkpoint, .. } = &pipeline.start else {
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
