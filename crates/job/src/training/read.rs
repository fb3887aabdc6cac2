//! Reads a training file, section by section, and checks one setting against another.

use super::{
    Augmentation, EncoderTraining, ExportPrecision, ExportSettings, LossSettings, OptimiserName,
    OptimiserSettings, Schedule, StartingWeights, TrainingData, TrainingPipeline, TrainingPrompts,
    TrainingTask, Validation, architecture, data,
};
use crate::choice::Choice;
use crate::document::{Document, Node, Value};
use crate::location;
use crate::pipeline::required_name;
use crate::precision::PRECISIONS;
use crate::problem::{Origin, Problems};
use crate::schema::FileKind;
use crate::section::Section;

const KIND: FileKind = FileKind::Training;

/// The words for what is trained.
pub(super) const TASKS: &[(&str, TrainingTask)] = &[
    ("segmenter", TrainingTask::Segmenter),
    ("grounder", TrainingTask::Grounder),
];

impl TrainingPipeline {
    /// Reads a parsed training file. What is returned counts only if no problem was noted.
    pub(crate) fn read(mut document: Document, problems: &mut Problems) -> Self {
        let document = &mut document;
        let encoder_origin = document.place_of(&["optimiser", "encoder"]).clone();
        let start = read_start(document, problems);
        let augmentation =
            read_augmentation(Section::take(document, KIND, "augmentation", problems));
        let prompts = read_prompts(Section::take(document, KIND, "prompts", problems));
        let loss = read_loss(Section::take(document, KIND, "loss", problems));
        let mut section = Section::take(document, KIND, "optimiser", problems);
        let (layer_decay, encoder) = read_encoder(&mut section);
        let optimiser = OptimiserSettings {
            layer_decay,
            encoder,
            ..read_optimiser(section)
        };
        let validation = read_validation(
            Section::take(document, KIND, "validation", problems),
            optimiser.steps,
        );
        let export = read_export(Section::take(document, KIND, "export", problems));
        let mut front = Section::take(document, KIND, "", problems);
        let name = required_name(
            &mut front,
            "a name for the run, which also names its directory",
        );
        let task_origin = front.origin_of("task");
        if front.one_of("task", TASKS) == Some(TrainingTask::Grounder) {
            let what = " = \"grounder\": a model of Segment Anything is asked for";
            front.note(task_origin, "task", what);
        }
        let seed = front.integer("seed", 0, 0..=u64::MAX >> 1);
        let held_out = validation
            .as_ref()
            .map(|(v, origins)| (&v.data[..], &origins[..]));
        let data = read_data(&mut front, held_out, "images and masks");
        let data = data.into_iter().map(|(data, _)| data).collect();
        front.finish();
        if let Some(what) = encoder_problem(&start, optimiser.encoder) {
            problems.add(&encoder_origin, format!("optimiser.encoder{what}"));
        }
        TrainingPipeline {
            name,
            seed,
            start,
            data,
            augmentation,
            prompts,
            loss,
            optimiser,
            validation: validation.map(|(validation, _)| validation),
            export,
        }
    }
}

fn read_start(document: &mut Document, problems: &mut Problems) -> StartingWeights {
    let fresh_at = document.get(&["architecture"]).map(|n| n.origin.clone());
    let checkpoint_at = document
        .get(&["model", "checkpoint"])
        .map(|n| n.origin.clone());
    let mut model = Section::take(document, KIND, "model", problems);
    let checkpoint = model.location("checkpoint", location::LOCAL);
    let image_size_at = model.origin_of("image_size");
    let image_size = image_size_at
        .is_some()
        .then(|| model.integer_u32("image_size", 1024, 32..=4096));
    match (&checkpoint_at, &fresh_at) {
        (None, None) => model.note(
            None,
            "checkpoint",
            " is missing: a SAM checkpoint to begin with; or [architecture], to begin with fresh \
             weights",
        ),
        (Some(_), Some(at)) => model.note(
            Some(at.clone()),
            "checkpoint",
            " and [architecture] are both given: a checkpoint says its architecture itself. \
             Remove one",
        ),
        _ => {}
    }
    if let (Some(_), Some(at)) = (&fresh_at, image_size_at) {
        let what = " is of a checkpoint: with [architecture] it is architecture.image_size";
        model.note(Some(at), "image_size", what);
    }
    model.finish();
    match fresh_at {
        Some(_) => StartingWeights::Fresh(architecture::read(Section::take(
            document,
            KIND,
            "architecture",
            problems,
        ))),
        None => StartingWeights::Checkpoint {
            checkpoint: checkpoint.unwrap_or_default(),
            image_size,
        },
    }
}

/// What is wrong with the part of the encoder that is trained. Of a checkpoint it is not known here
/// how many blocks it has.
fn encoder_problem(start: &StartingWeights, encoder: EncoderTraining) -> Option<String> {
    let architecture = match start {
        StartingWeights::Fresh(architecture) => architecture,
        StartingWeights::Checkpoint { image_size, .. } => {
            let frozen = encoder == EncoderTraining::Frozen && image_size.is_some();
            return frozen.then(|| {
                " = \"frozen\" with model.image_size: an encoder for another size has to learn; \
                 \"last:N\" trains its last blocks"
                    .to_owned()
            });
        }
    };
    match encoder {
        EncoderTraining::Trained => None,
        EncoderTraining::Last(blocks) if blocks == architecture.encoder_depth => None,
        EncoderTraining::Frozen | EncoderTraining::Last(_) => Some(format!(
            " = {:?} would leave weights of the encoder as they were drawn; with [architecture] it \
             must be \"trained\"",
            String::from(encoder)
        )),
    }
}

/// Each with the place where it is written; `held_out` is what is measured on, and where that is written.
pub(super) fn read_data(
    front: &mut Section<'_>,
    held_out: Option<(&[TrainingData], &[Origin])>,
    what: &str,
) -> Vec<(TrainingData, Origin)> {
    if front.origin_of("data").is_none() {
        let what = format!(" is missing: at least one [[data]] with {what} to learn from");
        front.note(None, "data", &what);
    }
    let read = data::read_all(front, "[[data]]");
    let (held_out, origins) = held_out.unwrap_or_default();
    for (at, (held_out, origin)) in held_out.iter().zip(origins).enumerate() {
        let seed = held_out.scenes_seed();
        let same =
            |(data, _): &(TrainingData, Origin)| seed.is_some() && data.scenes_seed() == seed;
        if let Some(trained) = read.iter().position(same) {
            let what = format!(
                "[{trained}].seed is also the seed of validation.data[{at}]: the scenes \
                 that are learned would be those that measure what was learned"
            );
            front.note(Some(origin.clone()), "data", &what);
        }
    }
    read
}

fn read_augmentation(mut section: Section<'_>) -> Augmentation {
    let augmentation = Augmentation {
        scale: read_scale(&mut section),
        flip: section.boolean("flip", true),
        vertical_flip: section.boolean("vertical_flip", false),
        colour: section.number("colour", 0.2, 0.0..=0.95),
        grayscale: section.number("grayscale", 0.05, 0.0..=1.0),
    };
    section.finish();
    augmentation
}

fn read_scale(section: &mut Section<'_>) -> [f64; 2] {
    const DEFAULT: [f64; 2] = [0.5, 2.0];
    let origin = section.origin_of("scale");
    let Some([least, most]) = section.numbers("scale", "factors [least, most]") else {
        return DEFAULT;
    };
    // A factor of 0.1 is SAM's largest jitter; beyond ten a crop is a few source pixels.
    if !(0.1..=10.0).contains(&least) || !(least..=10.0).contains(&most) {
        let what = format!(
            " = [{least}, {most}] must be two factors from [0.1, 10], the first not above the second"
        );
        section.note(origin, "scale", &what);
    }
    [least, most]
}

fn read_prompts(mut section: Section<'_>) -> TrainingPrompts {
    let prompts = TrainingPrompts {
        masks_per_image: section.integer_u32("masks_per_image", 8, 1..=1024),
        // SAM: eight points, and two rounds of the mask alone.
        rounds: section.integer_u32("rounds", 3, 0..=32),
        box_probability: section.number("box_probability", 0.5, 0.0..=1.0),
        box_noise: section.number("box_noise", 0.1, 0.0..=1.0),
        multimask: section.boolean("multimask", true),
        pixels_per_image: section.integer_u32("pixels_per_image", 0, 0..=4096),
    };
    section.finish();
    prompts
}

fn read_loss(mut section: Section<'_>) -> LossSettings {
    let origin = section.origin_of("focal");
    let loss = LossSettings {
        focal: section.number("focal", 20.0, 0.0..=1e6),
        dice: section.number("dice", 1.0, 0.0..=1e6),
        iou: section.number("iou", 1.0, 0.0..=1e6),
        focal_alpha: section.number("focal_alpha", 0.25, 0.0..=1.0),
        focal_gamma: section.number("focal_gamma", 2.0, 0.0..=16.0),
        pixels: section.number("pixels", 1.0, 0.0..=1e6),
    };
    if loss.focal == 0.0 && loss.dice == 0.0 {
        let what = " = 0 and loss.dice = 0: no mask would be learned";
        section.note(origin, "focal", what);
    }
    section.finish();
    loss
}

/// The word for each schedule.
#[derive(Clone, Copy, PartialEq)]
enum ScheduleWord {
    Cosine,
    Step,
    Constant,
}

const SCHEDULE: Choice<ScheduleWord> = Choice {
    key: "schedule",
    words: &[
        ("cosine", ScheduleWord::Cosine),
        ("step", ScheduleWord::Step),
        ("constant", ScheduleWord::Constant),
    ],
    settings: &[
        ("final_fraction", &[ScheduleWord::Cosine]),
        ("step_at", &[ScheduleWord::Step]),
        ("step_factor", &[ScheduleWord::Step]),
    ],
};

/// All of `[optimiser]` but what only an image encoder has.
pub(super) fn read_optimiser(mut section: Section<'_>) -> OptimiserSettings {
    let warmup_origin = section.origin_of("warmup_steps");
    for (key, what) in [
        (
            "learning_rate",
            "such as 1e-3 from scratch, 1e-4 from a checkpoint",
        ),
        ("steps", "how often the weights are changed, in all"),
    ] {
        if section.origin_of(key).is_none() {
            section.note(None, key, &format!(" is missing: {what}"));
        }
    }
    let names = [("adamw", OptimiserName::Adamw)];
    let name = section.one_of("name", &names);
    let steps = section.integer_u32("steps", 1000, 1..=1_000_000_000);
    let warmup_steps = section.integer_u32("warmup_steps", 250.min(steps / 10), 0..=1_000_000_000);
    if warmup_steps >= steps {
        let what = format!(" = {warmup_steps} must be below steps = {steps}");
        section.note(warmup_origin, "warmup_steps", &what);
    }
    let precision = section.one_of("precision", &PRECISIONS);
    let optimiser = OptimiserSettings {
        precision: precision.unwrap_or_default(),
        name: name.unwrap_or(OptimiserName::Adamw),
        learning_rate: section.number("learning_rate", 1e-4, 1e-12..=10.0),
        betas: read_betas(&mut section),
        weight_decay: section.number("weight_decay", 0.1, 0.0..=10.0),
        warmup_steps,
        steps,
        schedule: read_schedule(&mut section, warmup_steps, steps),
        layer_decay: 1.0,
        clip_norm: section.number("clip_norm", 1.0, 0.0..=1e6),
        batch_images: section.integer_u32("batch_images", 4, 1..=4096),
        accumulate: section.integer_u32("accumulate", 1, 1..=4096),
        encoder: EncoderTraining::Trained,
    };
    section.finish();
    optimiser
}

fn read_betas(section: &mut Section<'_>) -> [f64; 2] {
    let origin = section.origin_of("betas");
    let Some(betas) = section.numbers("betas", "two numbers, such as [0.9, 0.999]") else {
        return [0.9, 0.999];
    };
    if !betas.iter().all(|beta| (0.0..1.0).contains(beta)) {
        let what = format!(
            " = [{}, {}] must be two numbers from 0 to below 1",
            betas[0], betas[1]
        );
        section.note(origin, "betas", &what);
    }
    betas
}

fn read_schedule(section: &mut Section<'_>, warmup_steps: u32, steps: u32) -> Schedule {
    let word = match section.origin_of(SCHEDULE.key) {
        None => Some(ScheduleWord::Cosine),
        Some(_) => section.one_of(SCHEDULE.key, SCHEDULE.words),
    };
    let Some(word) = word else {
        SCHEDULE.ignore_all(section);
        return Schedule::Constant;
    };
    SCHEDULE.refuse_others(section, word, |_| "");
    match word {
        ScheduleWord::Cosine => Schedule::Cosine {
            final_fraction: section.number("final_fraction", 0.01, 0.0..=1.0),
        },
        ScheduleWord::Step => Schedule::Step {
            step_at: read_step_at(section, warmup_steps, steps),
            step_factor: section.number("step_factor", 0.1, 0.0..=1.0),
        },
        ScheduleWord::Constant => Schedule::Constant,
    }
}

fn read_step_at(section: &mut Section<'_>, warmup_steps: u32, steps: u32) -> Vec<u32> {
    const SHAPE: &str = "an array of steps, such as [60000, 86666]";
    if section.origin_of("step_at").is_none() {
        let what =
            " is missing: the steps at which the learning rate drops, such as [60000, 86666]";
        section.note(None, "step_at", what);
        return Vec::new();
    }
    let mut step_at: Vec<u32> = Vec::new();
    let nodes = section.array("step_at", SHAPE).unwrap_or_default();
    for (at, Node { value, origin }) in nodes.into_iter().enumerate() {
        let key = format!("step_at[{at}]");
        let Value::Integer(step) = value else {
            section.wrong_type::<()>(&key, &value, origin, "a step");
            continue;
        };
        let after = step_at.last().copied().unwrap_or(warmup_steps);
        match u32::try_from(step) {
            Ok(step) if (after + 1..steps).contains(&step) => step_at.push(step),
            _ => {
                let what = format!(
                    " = {step} must be above {after}, the step before it or the end of the \
                     warm-up, and below steps = {steps}"
                );
                section.note(Some(origin), &key, &what);
            }
        }
    }
    step_at
}

/// The decay of the learning rate from block to block, and which blocks are trained.
fn read_encoder(section: &mut Section<'_>) -> (f64, EncoderTraining) {
    let layer_decay = section.number("layer_decay", 0.8, 0.01..=1.0);
    let Some((word, origin)) = section.text("encoder") else {
        return (layer_decay, EncoderTraining::Trained);
    };
    let encoder = EncoderTraining::parse(&word);
    if encoder.is_none() {
        let what = format!(
            " = {word:?} is unknown; it can be \"trained\", \"frozen\", or \"last:2\" for the last \
             two blocks"
        );
        section.note(Some(origin), "encoder", &what);
    }
    (layer_decay, encoder.unwrap_or(EncoderTraining::Trained))
}

/// With the places of its data.
fn read_validation(mut section: Section<'_>, steps: u32) -> Option<(Validation, Vec<Origin>)> {
    const SETTINGS: [&str; 3] = ["images", "every_steps", "masks_per_image"];
    let (data, origins) = read_validation_data(&mut section, &SETTINGS, "images and masks");
    let validation = Validation {
        images: section.integer_u32("images", 100, 1..=1_000_000),
        every_steps: section.integer_u32("every_steps", 500.min(steps), 1..=1_000_000_000),
        masks_per_image: section.integer_u32("masks_per_image", 8, 1..=1024),
        data,
    };
    section.finish();
    (!validation.data.is_empty()).then_some((validation, origins))
}

/// What is measured on, and where that is written; it must be there where any of `settings` is.
pub(super) fn read_validation_data(
    section: &mut Section<'_>,
    settings: &[&str],
    what: &str,
) -> (Vec<TrainingData>, Vec<Origin>) {
    let written = |key: &&str| section.origin_of(key).is_some();
    if section.origin_of("data").is_none() && settings.iter().any(written) {
        let what = format!(" is missing: at least one [[validation.data]] with {what}");
        section.note(None, "data", &what);
    }
    let data = data::read_all(section, "[[validation.data]]");
    data.into_iter().unzip()
}

pub(super) fn read_export(mut section: Section<'_>) -> ExportSettings {
    let precisions = [("f32", ExportPrecision::F32), ("f16", ExportPrecision::F16)];
    let export = ExportSettings {
        precision: section
            .one_of("precision", &precisions)
            .unwrap_or(ExportPrecision::F32),
    };
    section.finish();
    export
}
