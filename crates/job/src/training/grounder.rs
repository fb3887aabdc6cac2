//! The training file of `task = "grounder"`: a detector of what phrases name, learned from generated scenes.

use serde::{Deserialize, Serialize};

use super::read::{TASKS, read_data, read_export, read_optimiser, read_validation_data};
use super::{ExportSettings, OptimiserSettings, TrainingData, TrainingDataKind, TrainingTask};
use crate::document::Document;
use crate::location;
use crate::pipeline::required_name;
use crate::problem::{Origin, Problems};
use crate::schema::FileKind;
use crate::section::Section;

const KIND: FileKind = FileKind::Grounder;
/// Why other data than scenes cannot be learned from.
const NO_PHRASES: &str =
    " must be \"scenes\" for task = \"grounder\": only generated scenes come with phrases";

/// What a training run of a grounder computes, with every default filled in and every value in range.
///
/// Its JSON has the section and key names of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrounderPipeline {
    /// Names the run and its directory under the output root: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// [`TrainingTask::Grounder`].
    pub task: TrainingTask,
    /// Of everything that is drawn: fresh weights, the order of images, augmentation and queries.
    pub seed: u64,
    /// The sizes of the model.
    pub architecture: GrounderArchitecture,
    /// Where weights come from that are not fresh.
    #[serde(default, skip_serializing_if = "GrounderModel::is_fresh")]
    pub model: GrounderModel,
    /// Which scenes are learned from; at least one.
    pub data: Vec<TrainingData>,
    /// How images are changed before they are learned from.
    pub augmentation: GrounderAugmentation,
    /// What is asked about images.
    pub queries: QuerySettings,
    /// What is minimised.
    pub loss: GrounderLoss,
    /// How it is minimised.
    pub optimiser: OptimiserSettings,
    /// How progress is measured; `None` measures nothing but the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<GrounderValidation>,
    /// The checkpoint that is for use, not for going on.
    pub export: ExportSettings,
}

/// Sizes of an OWLv2. Texts and patches are compared in the text tower's channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrounderArchitecture {
    /// Side of the square model input, in pixels.
    pub image_size: u32,
    /// Side of a patch, in pixels; each patch is a candidate box.
    pub patch_size: u32,
    /// Channels of the image tower's tokens.
    pub image_dim: u32,
    /// Blocks of the image tower.
    pub image_depth: u32,
    /// Attention heads of the image tower.
    pub image_heads: u32,
    /// Hidden width of the image tower's MLPs.
    pub image_mlp_dim: u32,
    /// Channels of the text tower's tokens.
    pub text_dim: u32,
    /// Blocks of the text tower.
    pub text_depth: u32,
    /// Attention heads of the text tower.
    pub text_heads: u32,
    /// Hidden width of the text tower's MLPs.
    pub text_mlp_dim: u32,
    /// Most tokens of a text, start and end included.
    pub context: u32,
}

/// Where a grounder's first weights come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrounderModel {
    /// A SAM checkpoint whose image encoder has the sizes of the image tower, which begins with its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_encoder: Option<String>,
    /// A grounder's checkpoint of the same sizes (but for `image_size`) and words, with its tokenizer beside it: all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

impl GrounderModel {
    fn is_fresh(&self) -> bool {
        *self == Self::default()
    }
}

/// How images are changed before they are learned from, their boxes with them: only so far that their phrases stay true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrounderAugmentation {
    /// Whether every other image is mirrored left to right.
    pub flip: bool,
    /// Whether every other image is mirrored top to bottom.
    pub vertical_flip: bool,
    /// Brightness and contrast are multiplied by factors from `[1 - colour, 1 + colour]`; 0 leaves colours as they are.
    pub colour: f64,
}

/// What is asked about images: phrases that are true of objects in them, and phrases that are not. Every image of a batch is
/// asked the queries of all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuerySettings {
    /// Phrases drawn for each image.
    pub per_image: u32,
    /// The part of them that is true of an object in it, in [0, 1].
    pub positives: f64,
    /// The part of the pairs of a colour and a shape that no query names, in [0, 0.5]; validation tells them apart.
    pub held_out: f64,
}

/// What is minimised: a weighted sum. The same weights choose which box is whose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrounderLoss {
    /// Weight of the focal loss of a box's class logits.
    pub class: f64,
    /// Weight of the sum of the differences of a box's centre and sides, in sides of the model's input.
    pub l1: f64,
    /// Weight of 1 less the generalised IoU of a box.
    pub giou: f64,
    /// Weight of the cross entropy of objectness.
    pub objectness: f64,
    /// The weight of what a query is true of in the focal loss, in [0, 1]; that of everything else is the rest.
    pub focal_alpha: f64,
    /// How much less logits count that are right already: 0 makes it cross entropy.
    pub focal_gamma: f64,
    /// Boxes that learn to show an object, at most; above 1 the others are removed where the model is used (NMS).
    pub boxes_per_object: u32,
    /// Weight of the loss of every patch that shows an object, matched or not: which queries are true of it, and its box.
    pub dense: f64,
}

/// How progress is measured: AP50 of every phrase of the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrounderValidation {
    /// Which scenes; at least one.
    pub data: Vec<TrainingData>,
    /// Images looked at each time, the same ones, in the shares of the data's weights.
    pub images: u32,
    /// Steps from one validation to the next; there is one after the last step, too.
    pub every_steps: u32,
}

impl GrounderPipeline {
    /// Reads a parsed training file. What is returned counts only if no problem was noted.
    pub(crate) fn read(mut document: Document, problems: &mut Problems) -> Self {
        let document = &mut document;
        let architecture =
            read_architecture(Section::take(document, KIND, "architecture", problems));
        let model = read_model(Section::take(document, KIND, "model", problems));
        let augmentation =
            read_augmentation(Section::take(document, KIND, "augmentation", problems));
        let queries = read_queries(Section::take(document, KIND, "queries", problems));
        let boxes = architecture.image_size / architecture.patch_size.max(1);
        let loss = read_loss(
            Section::take(document, KIND, "loss", problems),
            boxes * boxes,
        );
        let optimiser = read_optimiser(Section::take(document, KIND, "optimiser", problems));
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
        let task = front.one_of("task", TASKS);
        let seed = front.integer("seed", 0, 0..=u64::MAX >> 1);
        let held_out = validation
            .as_ref()
            .map(|(validation, origins)| (&validation.data[..], &origins[..]));
        let data = read_data(&mut front, held_out, "scenes");
        refuse_other_kinds(&mut front, &data);
        front.finish();
        GrounderPipeline {
            name,
            task: task.unwrap_or(TrainingTask::Grounder),
            seed,
            architecture,
            model,
            data: data.into_iter().map(|(data, _)| data).collect(),
            augmentation,
            queries,
            loss,
            optimiser,
            validation: validation.map(|(validation, _)| validation),
            export,
        }
    }
}

fn refuse_other_kinds(section: &mut Section<'_>, data: &[(TrainingData, Origin)]) {
    for (at, (data, origin)) in data.iter().enumerate() {
        if !matches!(data.kind, TrainingDataKind::Scenes { .. }) {
            let what = format!("[{at}].kind{NO_PHRASES}");
            section.note(Some(origin.clone()), "data", &what);
        }
    }
}

fn read_architecture(mut section: Section<'_>) -> GrounderArchitecture {
    let at = ["patch_size", "image_heads", "text_heads"].map(|key| section.origin_of(key));
    let a = GrounderArchitecture {
        image_size: section.integer_u32("image_size", 256, 32..=4096),
        patch_size: section.integer_u32("patch_size", 16, 2..=64),
        image_dim: section.integer_u32("image_dim", 192, 8..=4096),
        image_depth: section.integer_u32("image_depth", 6, 1..=64),
        image_heads: section.integer_u32("image_heads", 6, 1..=64),
        image_mlp_dim: section.integer_u32("image_mlp_dim", 768, 8..=16_384),
        text_dim: section.integer_u32("text_dim", 128, 8..=4096),
        text_depth: section.integer_u32("text_depth", 4, 1..=64),
        text_heads: section.integer_u32("text_heads", 4, 1..=64),
        text_mlp_dim: section.integer_u32("text_mlp_dim", 512, 8..=16_384),
        // The longest phrase of a scene has six words, each a token.
        context: section.integer_u32("context", 16, 8..=512),
    };
    let pairs = [
        ("patch_size", a.patch_size, "image_size", a.image_size),
        ("image_heads", a.image_heads, "image_dim", a.image_dim),
        ("text_heads", a.text_heads, "text_dim", a.text_dim),
    ];
    for ((key, divisor, of, value), at) in pairs.into_iter().zip(at) {
        if !value.is_multiple_of(divisor) {
            let what = format!(" = {divisor} does not divide {of} = {value}");
            section.note(at, key, &what);
        }
    }
    section.finish();
    a
}

fn read_model(mut section: Section<'_>) -> GrounderModel {
    let origin = section.origin_of("image_encoder");
    let model = GrounderModel {
        image_encoder: section.location("image_encoder", location::LOCAL),
        checkpoint: section.location("checkpoint", location::LOCAL),
    };
    if model.image_encoder.is_some() && model.checkpoint.is_some() {
        let what =
            " has no meaning beside model.checkpoint, which has an image tower. Remove one of them";
        section.note(origin, "image_encoder", what);
    }
    section.finish();
    model
}

fn read_augmentation(mut section: Section<'_>) -> GrounderAugmentation {
    let augmentation = GrounderAugmentation {
        flip: section.boolean("flip", true),
        vertical_flip: section.boolean("vertical_flip", false),
        // Beyond, a gray wall is white or black, and brown is orange.
        colour: section.number("colour", 0.05, 0.0..=0.25),
    };
    section.finish();
    augmentation
}

fn read_queries(mut section: Section<'_>) -> QuerySettings {
    let queries = QuerySettings {
        per_image: section.integer_u32("per_image", 12, 1..=256),
        positives: section.number("positives", 0.6, 0.0..=1.0),
        held_out: section.number("held_out", 0.1, 0.0..=0.5),
    };
    section.finish();
    queries
}

/// `boxes`: those of an image.
fn read_loss(mut section: Section<'_>, boxes: u32) -> GrounderLoss {
    let origin = section.origin_of("class");
    let per_object_at = section.origin_of("boxes_per_object");
    let loss = GrounderLoss {
        // Those of Deformable DETR (Zhu et al. 2021).
        class: section.number("class", 2.0, 0.0..=1e6),
        l1: section.number("l1", 5.0, 0.0..=1e6),
        giou: section.number("giou", 2.0, 0.0..=1e6),
        objectness: section.number("objectness", 1.0, 0.0..=1e6),
        focal_alpha: section.number("focal_alpha", 0.25, 0.0..=1.0),
        focal_gamma: section.number("focal_gamma", 2.0, 0.0..=16.0),
        boxes_per_object: section.integer_u32("boxes_per_object", 1, 1..=64),
        dense: section.number("dense", 0.0, 0.0..=1e6),
    };
    if loss.class == 0.0 {
        let what = " = 0: no phrase would be learned";
        section.note(origin, "class", what);
    }
    if loss.boxes_per_object > boxes {
        let what = format!(
            " = {} is above the {boxes} boxes of an image, one per patch",
            loss.boxes_per_object
        );
        section.note(per_object_at, "boxes_per_object", &what);
    }
    section.finish();
    loss
}

/// With the places of its data.
fn read_validation(
    mut section: Section<'_>,
    steps: u32,
) -> Option<(GrounderValidation, Vec<Origin>)> {
    let (data, origins) = read_validation_data(&mut section, &["images", "every_steps"], "scenes");
    let data: Vec<(TrainingData, Origin)> = data.into_iter().zip(origins).collect();
    refuse_other_kinds(&mut section, &data);
    let (data, origins) = data.into_iter().unzip();
    let validation = GrounderValidation {
        data,
        images: section.integer_u32("images", 100, 1..=1_000_000),
        every_steps: section.integer_u32("every_steps", 500.min(steps), 1..=1_000_000_000),
    };
    section.finish();
    (!validation.data.is_empty()).then_some((validation, origins))
}

#[cfg(test)]
#[path = "grounder_tests.rs"]
mod tests;
