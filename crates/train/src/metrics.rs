//! What is written of a run while it goes on: tables for people and spreadsheets, events for TensorBoard.
//!
//! ```text
//! metrics.csv        a row for each StepReport
//! validation.csv     a row for each validation
//! events/events.out.tfevents.maskmill     both, for TensorBoard
//! ```
//!
//! Rows are in the order of their steps. A run that goes on from a step first cuts what was written of later ones, and
//! what a kill left unfinished: every step is in the files once. Each row is one write, so another process sees whole rows.

use std::io;
use std::path::{Path, PathBuf};

mod events;
mod table;

use crate::evaluate::Report;
use crate::run::StepReport;
use events::EventFile;
use table::Table;
pub(crate) use table::read_columns;

/// The table of steps.
pub const METRICS: &str = "metrics.csv";
/// The table of validations.
pub const VALIDATION: &str = "validation.csv";
/// The folder for TensorBoard's `--logdir`.
pub const EVENTS: &str = "events";

/// A file of the metrics cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The operating system refused.
    #[error("{} cannot be read or written ({source})", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// It has other columns: nothing was written.
    #[error(
        "{} is no table of this version of maskmill: it begins with {found:?} instead of {expected:?}; move it away",
        path.display()
    )]
    OtherTable {
        /// The file.
        path: PathBuf,
        /// Its first line.
        found: String,
        /// What it would be.
        expected: String,
    },
    /// It is no event file, though it has the name of one: nothing was written.
    #[error("{} is no event file; move it away", path.display())]
    OtherEvents {
        /// The file.
        path: PathBuf,
    },
}

/// The columns of `metrics.csv`, as in [`StepReport`]; losses are unweighted but for `loss`.
const STEP_COLUMNS: [&str; 11] = [
    "step",
    "images",
    "seconds",
    "learning_rate",
    "loss",
    "focal",
    "dice",
    "iou",
    "gradient_norm",
    "images_per_second",
    "skipped",
];

/// The columns of `validation.csv`, as in [`Report`].
const VALIDATION_COLUMNS: [&str; 9] = [
    "step",
    "images",
    "masks",
    "miou_1_click_best",
    "miou_1_click",
    "miou_3_clicks",
    "miou_5_clicks",
    "miou_box",
    "iou_correlation",
];

/// Columns that TensorBoard does not need: its axes are the step and the wall clock.
const NOT_DRAWN: [&str; 4] = ["step", "seconds", "masks", "skipped"];

/// The metrics of one run, open for writing.
#[derive(Debug)]
pub struct Metrics {
    steps: Table,
    validations: Table,
    events: EventFile,
}

impl Metrics {
    /// Opens the metrics in the run's `directory`, or begins them, and cuts what is of steps after `step`, the one the
    /// run goes on from; 0 begins anew.
    ///
    /// # Errors
    /// Files that cannot be written, and those of the same names that are something else.
    pub fn open(directory: &Path, step: u32) -> Result<Self, MetricsError> {
        Ok(Metrics {
            steps: Table::open(&directory.join(METRICS), &STEP_COLUMNS, step)?,
            validations: Table::open(&directory.join(VALIDATION), &VALIDATION_COLUMNS, step)?,
            events: EventFile::open(&directory.join(EVENTS), step)?,
        })
    }

    /// Adds a row of the steps.
    ///
    /// # Errors
    /// [`MetricsError::Io`].
    pub fn stepped(&mut self, report: &StepReport) -> Result<(), MetricsError> {
        let values = [
            f64::from(report.step),
            report.images as f64,
            report.seconds,
            report.learning_rate,
            report.loss,
            report.focal,
            report.dice,
            report.iou,
            report.gradient_norm,
            report.images_per_second,
            report.skipped as f64,
        ];
        self.steps.append(&values)?;
        let scalars = scalars("train", &STEP_COLUMNS, &values);
        self.events.append(report.step, &scalars)
    }

    /// Adds the row of the validation after `step`.
    ///
    /// # Errors
    /// [`MetricsError::Io`].
    pub fn validated(&mut self, step: u32, report: &Report) -> Result<(), MetricsError> {
        let values = [
            f64::from(step),
            report.images as f64,
            report.masks as f64,
            report.miou_1_click_best,
            report.miou_1_click,
            report.miou_3_clicks,
            report.miou_5_clicks,
            report.miou_box,
            report.iou_correlation,
        ];
        self.validations.append(&values)?;
        let scalars = scalars("validation", &VALIDATION_COLUMNS, &values);
        self.events.append(step, &scalars)
    }
}

/// What TensorBoard draws of a row, under `group/column`.
fn scalars(group: &str, columns: &[&str], values: &[f64]) -> Vec<(String, f32)> {
    let row = columns.iter().zip(values);
    row.filter(|(column, _)| !NOT_DRAWN.contains(column))
        .map(|(column, value)| (format!("{group}/{column}"), *value as f32))
        .collect()
}

#[cfg(test)]
mod tests;
