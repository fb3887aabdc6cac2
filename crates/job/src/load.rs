//! Text of the two files and the overrides -> a valid job, or everything that is wrong with them.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::document::{Document, Override, Value};
use crate::pipeline::Pipeline;
use crate::problem::{ConfigError, Problems};
use crate::schema::FileKind;
use crate::training::{GrounderPipeline, TrainingPipeline};

/// The text of a file and the name to report problems under.
#[derive(Debug, Clone, Copy)]
pub struct TextFile<'a> {
    /// As the user typed it: `pipelines/quickstart.toml`.
    pub name: &'a str,
    /// The whole text.
    pub text: &'a str,
}

/// A job: what is computed, and where and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// What is computed.
    pub pipeline: Pipeline,
    /// Where and how fast.
    pub config: Config,
}

/// A training run: what is learned, and where and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingJob<P = TrainingPipeline> {
    /// What is learned.
    pub pipeline: P,
    /// Where and how fast; its output root is a path on this machine.
    pub config: Config,
}

/// A training run of either task.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyTrainingJob {
    /// `task = "segmenter"`, the default.
    Segmenter(Box<TrainingJob>),
    /// `task = "grounder"`.
    Grounder(Box<TrainingJob<GrounderPipeline>>),
}

impl TrainingJob {
    /// The directory of the run: checkpoints, metrics, curves.
    pub fn directory(&self) -> PathBuf {
        Path::new(&self.config.output.root).join(&self.pipeline.name)
    }
}

impl TrainingJob<GrounderPipeline> {
    /// The directory of the run: checkpoints with their configuration and tokenizer, metrics, curves.
    pub fn directory(&self) -> PathBuf {
        Path::new(&self.config.output.root).join(&self.pipeline.name)
    }
}

impl AnyTrainingJob {
    /// Where and how fast.
    pub fn config_mut(&mut self) -> &mut Config {
        match self {
            AnyTrainingJob::Segmenter(job) => &mut job.config,
            AnyTrainingJob::Grounder(job) => &mut job.config,
        }
    }
}

/// Reads a job from its pipeline file, its config file and the overrides of the command line.
///
/// Each override is `section.key=value` and goes to the file that has the section; its value is
/// read as TOML, and as a plain string where it is not TOML.
///
/// # Errors
/// Everything that is wrong with both files and all overrides, at once: syntax, unknown keys with
/// the nearest valid one, wrong types, values out of range, missing keys.
pub fn load(
    pipeline: TextFile<'_>,
    config: TextFile<'_>,
    overrides: &[String],
) -> Result<Job, ConfigError> {
    let mut problems = Problems::default();
    let (for_pipeline, for_config) = split_by_file(overrides, &mut problems);
    let pipeline = parse(pipeline, 0, &for_pipeline, &mut problems)
        .map(|document| Pipeline::read(document, &mut problems));
    let config = parse(config, 1, &for_config, &mut problems)
        .map(|document| Config::read(document, &mut problems));
    let job = pipeline.zip(config);
    let job = job.map(|(pipeline, config)| Job { pipeline, config });
    finish(job, problems)
}

/// Reads a training run from its training file, its config file and the overrides, as [`load`] reads
/// a job.
///
/// # Errors
/// As of [`load`]; also an output root that is not on this machine.
pub fn load_training(
    training: TextFile<'_>,
    config: TextFile<'_>,
    overrides: &[String],
) -> Result<TrainingJob, ConfigError> {
    let mut problems = Problems::default();
    let (for_training, for_config) = split_by_file(overrides, &mut problems);
    let pipeline = parse(training, 0, &for_training, &mut problems)
        .map(|document| TrainingPipeline::read(document, &mut problems));
    let job = pipeline.zip(config_of_training(config, &for_config, &mut problems));
    let job = job.map(|(pipeline, config)| TrainingJob { pipeline, config });
    finish(job, problems)
}

/// Reads a training run of the task that its training file says, as [`load_training`] does.
///
/// # Errors
/// As of [`load_training`].
pub fn load_any_training(
    training: TextFile<'_>,
    config: TextFile<'_>,
    overrides: &[String],
) -> Result<AnyTrainingJob, ConfigError> {
    let mut problems = Problems::default();
    let (for_training, for_config) = split_by_file(overrides, &mut problems);
    let document = parse(training, 0, &for_training, &mut problems);
    let job = match document {
        Some(document) if is_grounder(&document) => {
            let pipeline = GrounderPipeline::read(document, &mut problems);
            let config = config_of_training(config, &for_config, &mut problems);
            let job = config.map(|config| TrainingJob { pipeline, config });
            job.map(|job| AnyTrainingJob::Grounder(Box::new(job)))
        }
        document => {
            let pipeline = document.map(|d| TrainingPipeline::read(d, &mut problems));
            let config = config_of_training(config, &for_config, &mut problems);
            let job = pipeline.zip(config);
            let job = job.map(|(pipeline, config)| TrainingJob { pipeline, config });
            job.map(|job| AnyTrainingJob::Segmenter(Box::new(job)))
        }
    };
    finish(job, problems)
}

fn is_grounder(document: &Document) -> bool {
    let task = document.get(&["task"]).map(|node| &node.value);
    matches!(task, Some(Value::String(task)) if task == "grounder")
}

/// The config file of a training run.
fn config_of_training(
    config: TextFile<'_>,
    overrides: &[Override],
    problems: &mut Problems,
) -> Option<Config> {
    parse(config, 1, overrides, problems).map(|document| {
        let root_at = document.place_of(&["output", "root"]).clone();
        let config = Config::read(document, problems);
        if config.output.root.contains("://") {
            let what = "output.root must be a path on this machine for training: checkpoints are \
                        written there over and over";
            problems.add(&root_at, what);
        }
        config
    })
}

/// Reads a training file alone; see [`load_training`].
///
/// # Errors
/// Everything that is wrong with the file and the overrides, at once.
pub fn load_training_pipeline(
    file: TextFile<'_>,
    overrides: &[String],
) -> Result<TrainingPipeline, ConfigError> {
    let mut problems = Problems::default();
    let overrides = split(overrides, &mut problems);
    let pipeline = parse(file, 0, &overrides, &mut problems)
        .map(|document| TrainingPipeline::read(document, &mut problems));
    finish(pipeline, problems)
}

/// Reads a training file of a grounder alone; see [`load_any_training`].
///
/// # Errors
/// Everything that is wrong with the file and the overrides, at once.
pub fn load_grounder_pipeline(
    file: TextFile<'_>,
    overrides: &[String],
) -> Result<GrounderPipeline, ConfigError> {
    let mut problems = Problems::default();
    let overrides = split(overrides, &mut problems);
    let pipeline = parse(file, 0, &overrides, &mut problems)
        .map(|document| GrounderPipeline::read(document, &mut problems));
    finish(pipeline, problems)
}

/// Reads a pipeline file alone; see [`load`].
///
/// # Errors
/// Everything that is wrong with the file and the overrides, at once.
pub fn load_pipeline(file: TextFile<'_>, overrides: &[String]) -> Result<Pipeline, ConfigError> {
    let mut problems = Problems::default();
    let overrides = split(overrides, &mut problems);
    let pipeline = parse(file, 0, &overrides, &mut problems)
        .map(|document| Pipeline::read(document, &mut problems));
    finish(pipeline, problems)
}

/// Reads a config file alone; see [`load`].
///
/// # Errors
/// Everything that is wrong with the file and the overrides, at once.
pub fn load_config(file: TextFile<'_>, overrides: &[String]) -> Result<Config, ConfigError> {
    let mut problems = Problems::default();
    let overrides = split(overrides, &mut problems);
    let config = parse(file, 0, &overrides, &mut problems)
        .map(|document| Config::read(document, &mut problems));
    finish(config, problems)
}

fn split(overrides: &[String], problems: &mut Problems) -> Vec<Override> {
    let parsed = overrides.iter();
    parsed
        .filter_map(|typed| Override::parse(typed, problems))
        .collect()
}

/// The overrides for the pipeline or training file, and those for the config file.
fn split_by_file(overrides: &[String], problems: &mut Problems) -> (Vec<Override>, Vec<Override>) {
    let of_config =
        |set: &Override| !set.section.is_empty() && FileKind::Config.keys(&set.section).is_some();
    let overrides = split(overrides, problems).into_iter();
    overrides.partition(|set| !of_config(set))
}

fn parse(
    file: TextFile<'_>,
    rank: usize,
    overrides: &[Override],
    problems: &mut Problems,
) -> Option<Document> {
    let mut document = Document::parse(file, rank, problems)?;
    for setting in overrides {
        document.set(setting);
    }
    Some(document)
}

/// A file that did not parse has left a problem, so `value` is there when there is none.
fn finish<T>(value: Option<T>, problems: Problems) -> Result<T, ConfigError> {
    problems
        .into_result(value)
        .map(|value| value.expect("a file that does not parse leaves a problem"))
}

#[cfg(test)]
mod label_tests;
#[cfg(test)]
mod prompt_problem_tests;
#[cfg(test)]
mod prompt_tests;
#[cfg(test)]
mod tests;
