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
use crate::segmenter::StepReport;
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

/// A row of a table: what stands behind the step.
pub trait Row {
    /// Names of the columns.
    const COLUMNS: &'static [&'static str];

    /// A number for each column.
    fn values(&self) -> Vec<f64>;
}

/// A row of the steps' table.
pub trait StepRow: Row {
    /// Steps done.
    fn step(&self) -> u32;
}

/// Losses are unweighted but for `loss`.
impl Row for StepReport {
    const COLUMNS: &'static [&'static str] = &[
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

    fn values(&self) -> Vec<f64> {
        vec![
            self.images as f64,
            self.seconds,
            self.learning_rate,
            self.loss,
            self.focal,
            self.dice,
            self.iou,
            self.gradient_norm,
            self.images_per_second,
            self.skipped as f64,
        ]
    }
}

impl StepRow for StepReport {
    fn step(&self) -> u32 {
        self.step
    }
}

impl Row for Report {
    const COLUMNS: &'static [&'static str] = &[
        "images",
        "masks",
        "miou_1_click_best",
        "miou_1_click",
        "miou_3_clicks",
        "miou_5_clicks",
        "miou_box",
        "iou_correlation",
    ];

    fn values(&self) -> Vec<f64> {
        vec![
            self.images as f64,
            self.masks as f64,
            self.miou_1_click_best,
            self.miou_1_click,
            self.miou_3_clicks,
            self.miou_5_clicks,
            self.miou_box,
            self.iou_correlation,
        ]
    }
}

/// Columns that TensorBoard does not need: its axes are the step and the wall clock.
const NOT_DRAWN: [&str; 5] = ["seconds", "masks", "objects", "phrases", "skipped"];

/// The metrics of one run, open for writing.
#[derive(Debug)]
pub struct Metrics {
    steps: Table,
    validations: Table,
    events: EventFile,
}

impl Metrics {
    /// Opens the metrics of a run of Segment Anything: see [`Metrics::of`].
    ///
    /// # Errors
    /// As [`Metrics::of`].
    pub fn open(directory: &Path, step: u32) -> Result<Self, MetricsError> {
        Self::of::<StepReport, Report>(directory, step)
    }

    /// Opens the metrics in the run's `directory`, or begins them, and cuts what is of steps after `step`, the one the
    /// run goes on from; 0 begins anew.
    ///
    /// # Errors
    /// Files that cannot be written, and those of the same names that are something else.
    pub fn of<S: StepRow, V: Row>(directory: &Path, step: u32) -> Result<Self, MetricsError> {
        Ok(Metrics {
            steps: Table::open(&directory.join(METRICS), &columns::<S>(), step)?,
            validations: Table::open(&directory.join(VALIDATION), &columns::<V>(), step)?,
            events: EventFile::open(&directory.join(EVENTS), step)?,
        })
    }

    /// Adds a row of the steps.
    ///
    /// # Errors
    /// [`MetricsError::Io`].
    pub fn stepped<S: StepRow>(&mut self, report: &S) -> Result<(), MetricsError> {
        let step = report.step();
        self.steps.append(&row(step, report))?;
        self.events.append(step, &scalars("train", report))
    }

    /// Adds the row of the validation after `step`.
    ///
    /// # Errors
    /// [`MetricsError::Io`].
    pub fn validated<V: Row>(&mut self, step: u32, report: &V) -> Result<(), MetricsError> {
        self.validations.append(&row(step, report))?;
        self.events.append(step, &scalars("validation", report))
    }
}

fn columns<R: Row>() -> Vec<&'static str> {
    [&["step"], R::COLUMNS].concat()
}

fn row(step: u32, report: &impl Row) -> Vec<f64> {
    let mut values = vec![f64::from(step)];
    values.extend(report.values());
    values
}

/// What TensorBoard draws of a row, under `group/column`.
fn scalars<R: Row>(group: &str, report: &R) -> Vec<(String, f32)> {
    let row = R::COLUMNS.iter().zip(report.values());
    row.filter(|(column, _)| !NOT_DRAWN.contains(column))
        .map(|(column, value)| (format!("{group}/{column}"), value as f32))
        .collect()
}

#[cfg(test)]
mod tests;
