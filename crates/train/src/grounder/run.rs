//! A training run of a grounder: what it draws, asks and measures.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use fastrand::Rng;
use maskmill_grounding::{
    Activation, BytePairs, ClipTokenizer, ImageSizes, OwlArchitecture, OwlInput, TextSizes, Tokens,
    TrainableOwl, TransformerSizes, write_model_files,
};
use maskmill_job::{
    ExportSettings, GrounderArchitecture, GrounderPipeline, GrounderValidation, OptimiserSettings,
    TrainingRecord,
};
use serde::{Deserialize, Serialize};

use super::data::{Drawn, GroundedObject, Kinds, SceneData};
use super::evaluate::{GrounderReport, evaluate};
use super::image_tower::from_sam;
use super::losses::losses;
use super::queries::Questions;
use super::start::from_grounder;
use crate::data::mixed;
use crate::error::TrainError;
use crate::metrics::{Row, StepRow as StepTable};
use crate::run::{self, Observer, Outcome, Place, StepRow, Task};

/// Keeps what queries draw apart from what images do.
const QUERIES: u64 = 0x71_75_65_72_69_65_73;

/// One row of the metrics: means over the steps since the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrounderStep {
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
    /// Focal loss of class logits, unweighted.
    pub class: f64,
    /// Unweighted.
    pub l1: f64,
    /// 1 less the generalised IoU of matched boxes, unweighted.
    pub giou: f64,
    /// Unweighted.
    pub objectness: f64,
    /// Of patches that show an object, unweighted.
    pub dense: f64,
    /// Before clipping.
    pub gradient_norm: f64,
    /// Images a second.
    pub images_per_second: f64,
    /// Scenes passed over since the last row.
    pub skipped: u64,
}

impl Row for GrounderStep {
    const COLUMNS: &'static [&'static str] = &[
        "images",
        "seconds",
        "learning_rate",
        "loss",
        "class",
        "l1",
        "giou",
        "objectness",
        "dense",
        "gradient_norm",
        "images_per_second",
        "skipped",
    ];

    fn values(&self) -> Vec<f64> {
        vec![
            self.images as f64,
            self.seconds,
            self.learning_rate,
            self.loss,
            self.class,
            self.l1,
            self.giou,
            self.objectness,
            self.dense,
            self.gradient_norm,
            self.images_per_second,
            self.skipped as f64,
        ]
    }
}

impl StepTable for GrounderStep {
    fn step(&self) -> u32 {
        self.step
    }
}

impl Row for GrounderReport {
    const COLUMNS: &'static [&'static str] = &[
        "images",
        "objects",
        "phrases",
        "ap50_held_out",
        "ap50_others",
    ];

    fn values(&self) -> Vec<f64> {
        vec![
            self.images as f64,
            self.objects as f64,
            self.phrases as f64,
            self.ap50_held_out,
            self.ap50_others,
        ]
    }
}

/// Trains, from the beginning or from the state in the directory. The configuration and the tokenizer of the model lie beside
/// its checkpoints.
///
/// # Errors
/// [`TrainError`]; the last saved state stands.
pub fn train(
    pipeline: &GrounderPipeline,
    record: &TrainingRecord<GrounderPipeline>,
    place: &Place<'_>,
    observer: &mut dyn Observer<GrounderStep, GrounderReport>,
) -> Result<Outcome, TrainError> {
    run::claim(record, place.directory)?;
    let byte_pairs = byte_pairs();
    let architecture = architecture(&pipeline.architecture, byte_pairs.size());
    write_model_files(place.directory, &architecture, &byte_pairs)
        .map_err(|(path, source)| TrainError::Write { path, source })?;
    let tokenizer = ClipTokenizer::load(place.directory)?;
    let data = SceneData::open(&pipeline.data, "data")?;
    let validation = match &pipeline.validation {
        None => None,
        Some(settings) => Some((
            settings,
            SceneData::open(&settings.data, "validation.data")?,
        )),
    };
    let device = place.device.clone().autodiff();
    let model = &pipeline.model;
    let given = match (&model.checkpoint, &model.image_encoder) {
        (Some(path), _) => from_grounder(Path::new(path), &architecture, &byte_pairs)?,
        (None, Some(path)) => from_sam(Path::new(path), &architecture)?,
        (None, None) => BTreeMap::new(),
    };
    let owl = TrainableOwl::fresh(&architecture, pipeline.seed, &given, &device);
    let grounder = Grounder {
        pipeline,
        device: place.device,
        tokenizer,
        kinds: data.kinds(),
        validation,
    };
    let draw = |number| {
        let seed = mixed(pipeline.seed, number);
        data.image(&architecture, &pipeline.augmentation, seed)
    };
    run::go(grounder, owl, &record.fingerprint, place, &draw, observer)
}

/// The byte pairs of the words that scenes' phrases are made of.
pub fn byte_pairs() -> BytePairs {
    BytePairs::learnt(&maskmill_scenes::words())
}

/// The architecture that a training file asks for, of a vocabulary of so many tokens.
pub fn architecture(settings: &GrounderArchitecture, vocabulary: usize) -> OwlArchitecture {
    let wide = |v: u32| v as usize;
    let sizes = |[width, layers, heads, mlp_dim]: [u32; 4]| TransformerSizes {
        width: wide(width),
        layers: wide(layers),
        heads: wide(heads),
        mlp_dim: wide(mlp_dim),
        // The towers of a fresh model have no weights that ask for OpenAI's.
        activation: Activation::Gelu,
    };
    let s = settings;
    OwlArchitecture {
        is_v2: true,
        text: TextSizes {
            vocabulary,
            context: wide(s.context),
            transformer: sizes([s.text_dim, s.text_depth, s.text_heads, s.text_mlp_dim]),
            // The class head of `Owlv2ForObjectDetection` has the text tower's width.
            embed_dim: wide(s.text_dim),
        },
        image: ImageSizes {
            image_size: wide(s.image_size),
            patch_size: wide(s.patch_size),
            transformer: sizes([s.image_dim, s.image_depth, s.image_heads, s.image_mlp_dim]),
        },
        has_objectness: true,
    }
}

struct Grounder<'r> {
    pipeline: &'r GrounderPipeline,
    device: &'r Device,
    tokenizer: ClipTokenizer,
    /// Of objects in scenes.
    kinds: Kinds,
    validation: Option<(&'r GrounderValidation, SceneData)>,
}

/// Images and what is asked about them.
pub(crate) struct Batch {
    inputs: Vec<OwlInput>,
    questions: Questions,
    tokens: Vec<Tokens>,
}

impl Task<6> for Grounder<'_> {
    type Model = TrainableOwl;
    type Image = Drawn;
    type Batch = Batch;
    type Step = GrounderStep;
    type Report = GrounderReport;

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
        (&image.key, &image.skipped)
    }

    /// Draws the queries.
    fn batch(&mut self, owl: &TrainableOwl, mut images: Vec<Drawn>, number: u64) -> Batch {
        let objects: Vec<&[GroundedObject]> = images.iter().map(|i| &i.objects[..]).collect();
        let mut rng = Rng::with_seed(mixed(self.pipeline.seed ^ QUERIES, number));
        let mut questions =
            Questions::draw(&objects, &self.kinds, &self.pipeline.queries, &mut rng);
        for (truth, image) in questions.images.iter_mut().zip(&mut images) {
            truth.shown = std::mem::take(&mut image.shown);
        }
        let context = owl.architecture().text.context;
        let queries = questions.queries.iter();
        Batch {
            tokens: queries
                .map(|query| self.tokenizer.encode(query, context))
                .collect(),
            questions,
            inputs: images.into_iter().map(|image| image.input).collect(),
        }
    }

    /// Loss, class, L1, generalised IoU, objectness, dense.
    fn losses(&self, owl: &TrainableOwl, batch: Batch) -> [Tensor<1>; 6] {
        let queries = owl.embed_texts(&batch.tokens, self.tokenizer.end());
        let detections = owl.forward(owl.images(&batch.inputs), queries);
        losses(detections, &batch.questions, &self.pipeline.loss)
    }

    fn report(&self, row: StepRow<6>) -> GrounderStep {
        let [loss, class, l1, giou, objectness, dense] = row.losses;
        GrounderStep {
            step: row.step,
            images: row.images,
            seconds: row.seconds,
            learning_rate: row.learning_rate,
            loss,
            class,
            l1,
            giou,
            objectness,
            dense,
            gradient_norm: row.gradient_norm,
            images_per_second: row.images_per_second,
            skipped: row.skipped,
        }
    }

    fn validate(
        &self,
        checkpoint: &Path,
        skipped: &mut dyn FnMut(String),
    ) -> Result<(GrounderReport, f64), TrainError> {
        let (settings, data) = self.validation.as_ref().expect("asked only where it is");
        let images = settings.images as usize;
        let held_out = self.pipeline.queries.held_out;
        let report = evaluate(checkpoint, self.device, data, images, held_out, skipped)?;
        let score = report.score();
        Ok((report, score))
    }
}
