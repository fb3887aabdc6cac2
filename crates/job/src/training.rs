//! The training file: WHAT is learned, from what and how. Every value here enters the fingerprint.

use serde::{Deserialize, Serialize};

use crate::precision::Precision;

mod architecture;
mod data;
mod grounder;
mod read;
mod record;

pub use architecture::ArchitectureSettings;
pub use data::{TrainingData, TrainingDataKind};
pub use grounder::{
    GrounderArchitecture, GrounderAugmentation, GrounderLoss, GrounderModel, GrounderPipeline,
    GrounderValidation, QuerySettings,
};
pub use record::{TRAINING_VERSION, TrainingRecord, training_fingerprint};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainingTask {
    /// A Segment Anything model: [`TrainingPipeline`].
    Segmenter,
    /// A detector of what phrases name: [`GrounderPipeline`].
    Grounder,
}

/// What a training run of Segment Anything computes, with every default filled in and every value in range.
///
/// Its JSON has the section and key names of the file, so that two of them can be compared by the
/// paths that people typed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingPipeline {
    /// Names the run and its directory under the output root: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Of everything that is drawn: fresh weights, the order of images, augmentation and prompts.
    pub seed: u64,
    /// The weights that training begins with: `model.checkpoint` or `[architecture]`.
    #[serde(flatten)]
    pub start: StartingWeights,
    /// Where images and their masks come from; at least one.
    pub data: Vec<TrainingData>,
    /// How images are changed before they are learned from.
    pub augmentation: Augmentation,
    /// What the model is asked about an image.
    pub prompts: TrainingPrompts,
    /// What is minimised.
    pub loss: LossSettings,
    /// How it is minimised.
    pub optimiser: OptimiserSettings,
    /// How progress is measured; `None` measures nothing but the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// The checkpoint that is for use, not for going on.
    pub export: ExportSettings,
}

/// The weights that training begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartingWeights {
    /// Those of a SAM checkpoint: fine-tuning.
    #[serde(rename = "model")]
    Checkpoint {
        /// A local `.pth` or `.safetensors` with the official key names.
        checkpoint: String,
        /// The side of the square input, in pixels, where it is not to be the checkpoint's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_size: Option<u32>,
    },
    /// Fresh ones, drawn by `seed`: training from scratch.
    #[serde(rename = "architecture")]
    Fresh(ArchitectureSettings),
}

/// How images are changed before they are learned from, their masks with them. Each image is drawn
/// anew every time it comes up; validation changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Scale jitter, `[least, most]`: what the longer side of the image is scaled to, in sides of
    /// the model's input, drawn uniformly. Above 1 a random window is kept.
    pub scale: [f64; 2],
    /// Whether every other image is mirrored left to right.
    pub flip: bool,
    /// Whether every other image is mirrored top to bottom.
    pub vertical_flip: bool,
    /// Brightness, contrast and saturation are multiplied by factors from `[1 - colour, 1 + colour]`;
    /// 0 leaves colours as they are.
    pub colour: f64,
    /// The probability that an image loses its colours.
    pub grayscale: f64,
}

/// What the model is asked about an image: SAM's interactive prompts (Kirillov et al. 2023,
/// appendix A).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingPrompts {
    /// Masks drawn per image, at most.
    pub masks_per_image: u32,
    /// Rounds after the first prompt: each adds a point in the error region, and the mask so far.
    pub rounds: u32,
    /// The probability that the first prompt is the mask's box instead of a point in the mask.
    pub box_probability: f64,
    /// The standard deviation of each edge of that box, as a fraction of the box's side (SAM: 0.1);
    /// no edge moves by more than a 51st of the image's longer side (SAM: 20 pixels of 1024).
    pub box_noise: f64,
    /// Whether a first prompt of one point is answered by several masks, of which only the best is
    /// learned from; otherwise one mask answers.
    pub multimask: bool,
    /// Pixels per image that are compared with all others, for [`LossSettings::pixels`]; 0 for none.
    pub pixels_per_image: u32,
}

/// What is minimised: a weighted sum, averaged over masks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossSettings {
    /// Weight of the focal loss of a mask's pixels.
    pub focal: f64,
    /// Weight of the dice loss of a mask.
    pub dice: f64,
    /// Weight of the squared error of the predicted IoU.
    pub iou: f64,
    /// The weight of pixels in the mask in the focal loss, in [0, 1]; that of others is the rest.
    pub focal_alpha: f64,
    /// How much less pixels count that are right already: 0 makes it cross entropy.
    pub focal_gamma: f64,
    /// Weight of the loss of pixels that belong together.
    pub pixels: f64,
}

/// How the loss is minimised: AdamW, the learning rate over steps, and what is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimiserSettings {
    /// The one there is.
    pub name: OptimiserName,
    /// After the warm-up, of the decoder; the encoder's layers have less, by `layer_decay`.
    pub learning_rate: f64,
    /// Decay of AdamW's running means of gradients and of their squares.
    pub betas: [f64; 2],
    /// AdamW's decoupled weight decay; biases, norms and embeddings have none.
    pub weight_decay: f64,
    /// Steps over which the learning rate rises from zero, in a line.
    pub warmup_steps: u32,
    /// Steps in all; each changes the weights once.
    pub steps: u32,
    /// The learning rate after the warm-up.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// The learning rate of each encoder block is this times that of the block after it; 1 makes
    /// all equal.
    pub layer_decay: f64,
    /// Gradients are scaled down together until their norm is this; 0 leaves them.
    pub clip_norm: f64,
    /// In which numbers linear layers, attention and the products of masks are computed, forwards and backwards; sums, norms and
    /// softmax, and attention between few rows and many, are in 32 bits.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Images whose gradients are computed at once.
    pub batch_images: u32,
    /// Batches whose gradients are averaged for one step.
    pub accumulate: u32,
    /// Which part of the image encoder is trained.
    pub encoder: EncoderTraining,
}

/// The optimisers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserName {
    /// AdamW (Loshchilov and Hutter 2019).
    Adamw,
}

/// The learning rate after the warm-up, as a fraction of `learning_rate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "schedule", rename_all = "lowercase")]
pub enum Schedule {
    /// From 1 to `final_fraction` at the last step, along half a cosine.
    Cosine {
        /// In [0, 1].
        final_fraction: f64,
    },
    /// 1, then times `step_factor` from each of `step_at` on.
    Step {
        /// Steps, ascending, between the warm-up and the last step.
        step_at: Vec<u32>,
        /// In [0, 1].
        step_factor: f64,
    },
    /// 1 to the end.
    Constant,
}

/// Which part of the image encoder is trained. In a file: `"trained"`, `"frozen"`, `"last:2"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum EncoderTraining {
    /// All of it.
    Trained,
    /// None of it.
    Frozen,
    /// The last so many blocks, and the neck behind them.
    Last(u32),
}

/// How progress is measured: mIoU at 1, 3 and 5 clicks and from boxes, of masks never learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Where images and their masks come from; at least one.
    pub data: Vec<TrainingData>,
    /// Images looked at each time, the same ones, in the shares of the data's weights.
    pub images: u32,
    /// Steps from one validation to the next; there is one after the last step, too.
    pub every_steps: u32,
    /// Masks asked for per image, at most; the largest.
    pub masks_per_image: u32,
}

/// The checkpoint that is for use: `checkpoint.safetensors` under the official key names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSettings {
    /// In which numbers its weights are stored.
    pub precision: ExportPrecision,
}

/// In which numbers the weights of a checkpoint are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportPrecision {
    /// 32 bits.
    F32,
    /// 16 bits (binary16): half the size.
    F16,
}

impl OptimiserSettings {
    /// The learning rate of `step`, counted from 0, for weights without layer decay.
    pub fn learning_rate_at(&self, step: u32) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * f64::from(step + 1) / f64::from(self.warmup_steps);
        }
        let fraction = match &self.schedule {
            Schedule::Cosine { final_fraction } => {
                // Of the steps after the warm-up the last one has the final fraction.
                let last = self.steps.saturating_sub(self.warmup_steps + 1).max(1);
                let done = (f64::from(step - self.warmup_steps) / f64::from(last)).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                final_fraction + (1.0 - final_fraction) * cosine
            }
            Schedule::Step {
                step_at,
                step_factor,
            } => {
                let passed = step_at.iter().filter(|at| **at <= step).count();
                step_factor.powi(i32::try_from(passed).expect("fewer than steps"))
            }
            Schedule::Constant => 1.0,
        };
        self.learning_rate * fraction
    }
}

impl EncoderTraining {
    /// Reads a word of the file.
    fn parse(word: &str) -> Option<Self> {
        match word {
            "trained" => Some(Self::Trained),
            "frozen" => Some(Self::Frozen),
            other => {
                let blocks = other.strip_prefix("last:")?.parse().ok()?;
                (blocks > 0).then_some(Self::Last(blocks))
            }
        }
    }
}

impl From<EncoderTraining> for String {
    fn from(encoder: EncoderTraining) -> Self {
        match encoder {
            EncoderTraining::Trained => "trained".to_string(),
            EncoderTraining::Frozen => "frozen".to_string(),
            EncoderTraining::Last(blocks) => format!("last:{blocks}"),
        }
    }
}

impl TryFrom<String> for EncoderTraining {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        Self::parse(&word).ok_or_else(|| format!("{word:?} is no part of an encoder"))
    }
}

#[cfg(test)]
mod tests;
