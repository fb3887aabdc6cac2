//! What stops training.

use std::io;
use std::path::PathBuf;

use maskmill_examples::{OpenError, OptionsError};
use maskmill_weights::{CheckpointError, SaveError};

use crate::curves::CurvesError;
use crate::metrics::MetricsError;

/// Why training or evaluation stopped. The last saved state stands.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The checkpoint to begin with or to evaluate.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The detector to evaluate: its weights, configuration or tokenizer.
    #[error(transparent)]
    Detector(#[from] maskmill_grounding::LoadError),
    /// The tokenizer of a run.
    #[error(transparent)]
    Tokenizer(#[from] maskmill_grounding::TokenizerError),
    /// A detector says nothing that can be measured.
    #[error(
        "{}: {source}; measure the checkpoint of an earlier step, or lower optimiser.learning_rate and train anew",
        checkpoint.display()
    )]
    Detections {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What is wrong.
        source: maskmill_grounding::NotFinite,
    },
    /// A checkpoint could not be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A file could not be written.
    #[error("{} cannot be written ({source}); what was there before still is", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("{} cannot be read ({source})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file of the metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The picture of the curves.
    #[error(transparent)]
    Curves(#[from] CurvesError),
    /// The saved state is damaged, or of another model.
    #[error(
        "{} is no state that this run can go on from: {detail}; move the run's directory away to begin anew",
        path.display()
    )]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The directory holds a run of another training file.
    #[error(
        "{} holds a run that was begun otherwise; change its name, or move it away. What differs:\n{}",
        directory.display(),
        differences.join("\n")
    )]
    OtherRun {
        /// The run's directory.
        directory: PathBuf,
        /// A line for each setting.
        differences: Vec<String>,
    },
    /// A source of examples.
    #[error("{setting}: {source}")]
    Data {
        /// Its place in the training file: `data[0]`.
        setting: String,
        /// Why.
        source: OpenError,
    },
    /// The augmentation.
    #[error("augmentation: {0}")]
    Augmentation(#[from] OptionsError),
    /// One example after another could not be used.
    #[error(
        "{tries} examples in a row could not be used, the last: {last}; is it the right folder?"
    )]
    NoExamples {
        /// How many.
        tries: usize,
        /// The last one's problem.
        last: String,
    },
    /// The loss or its gradients left the numbers.
    #[error(
        "step {step}: {what} is {value}; weights of step {step} were not saved, {} holds those of before. Its images: {}. \
         Lower optimiser.learning_rate or set optimiser.clip_norm",
        state.display(),
        images.join(", ")
    )]
    NotFinite {
        /// The step.
        step: u32,
        /// The loss or the norm of the gradients.
        what: &'static str,
        /// NaN or infinite.
        value: f32,
        /// Where the last good state is.
        state: PathBuf,
        /// Keys of the images of the batch.
        images: Vec<String>,
    },
    /// Another architecture than the training file's or the data's.
    #[error("{0}")]
    Settings(String),
}
