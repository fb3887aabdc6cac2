//! Training of Segment Anything, from nothing or from a checkpoint, and of a small [`grounder`]; and how good the result is.
//!
//! ```text
//! examples ──> Batch: prompts of every image ──> rounds of clicks ──> losses ──> Optimiser ──> checkpoint
//!                                                                                      evaluate ──> Report
//! ```
//!
//! The run itself (`run`) does not know what is trained: `segmenter` and `grounder` say what a batch is, what it loses and how
//! a checkpoint is measured.
//!
//! What enters: a [`TrainingPipeline`](maskmill_job::TrainingPipeline) and a directory. What leaves: checkpoints with the
//! official key names, and a state that a killed run goes on from, to the same weights as if it had not been killed. What
//! never happens here: reading settings or printing (`crates/cli` does).
//!
//! The recipe is SAM's (Kirillov et al. 2023, appendix A): focal and dice loss 20:1, the least of several masks, rounds of
//! clicks where the answer is wrong.

pub mod clicks;
pub mod curves;
mod data;
mod error;
mod evaluate;
pub mod grounder;
mod losses;
pub mod metrics;
mod model;
mod optimiser;
mod pixels;
mod record;
mod run;
mod segmenter;
mod state;
mod step;

pub use data::{Data, Drawn};
pub use error::TrainError;
pub use evaluate::{
    AREA_CLASSES, AreaReport, AutomaticReport, COUNTED_PART, Evaluation, FOUND_IOU, Report,
    evaluate, evaluate_on,
};
pub use losses::{RoundLoss, RoundTargets, round_loss};
pub use model::Learner;
pub use optimiser::{Layout, Optimiser, OptimiserState, StepAt};
pub use record::{record_of, record_of_grounder};
pub use run::{Observer, Outcome, Place, files};
pub use segmenter::{StepReport, architecture, train};
pub use state::Position;
pub use step::{Batch, BatchLoss, First, GivenPrompt, TrainingImage};
