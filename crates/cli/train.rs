//! `maskmill train`: a training run, with a progress bar or a line per row of the metrics, and a summary.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use maskmill_job::{AnyTrainingJob, Config, Log, OptimiserSettings, TrainingJob};
use maskmill_sam::DeviceName;
use maskmill_train::curves::{self, CURVES};
use maskmill_train::metrics::{EVENTS, METRICS, Metrics};
use maskmill_train::{
    Observer, Outcome, Place, Position, TrainError, files, grounder, record_of, record_of_grounder,
    train as train_segmenter,
};
use serde_json::json;

use crate::args::TrainArguments;
use crate::failure::{Failure, INTERRUPTED};
use crate::interrupt::save_on_signals;
use crate::job_files::{VERSION, last_words, read_training, start_logging};
use crate::progress::{line, new_bar};
use crate::training_words::{StepWords, ValidationWords};

pub(crate) fn train(arguments: &TrainArguments) -> Result<(), Failure> {
    match read_training(&arguments.pipeline, &arguments.place)? {
        AnyTrainingJob::Segmenter(job) => {
            let (pipeline, directory) = (&job.pipeline, job.directory());
            let validates = pipeline.validation.is_some();
            let run = Run::new(arguments, &job, &directory, &pipeline.optimiser, validates);
            let record = || record_of(pipeline, VERSION);
            run.watched(record, |record, place, watcher| {
                train_segmenter(pipeline, record, place, watcher)
            })
        }
        AnyTrainingJob::Grounder(job) => {
            let (pipeline, directory) = (&job.pipeline, job.directory());
            let validates = pipeline.validation.is_some();
            let run = Run::new(arguments, &job, &directory, &pipeline.optimiser, validates);
            let record = || record_of_grounder(pipeline, VERSION);
            run.watched(record, |record, place, watcher| {
                grounder::train(pipeline, record, place, watcher)
            })
        }
    }
}

/// What a run is begun with, whatever is trained.
struct Run<'r> {
    arguments: &'r TrainArguments,
    config: &'r Config,
    directory: &'r Path,
    steps: u32,
    validates: bool,
}

impl<'r> Run<'r> {
    fn new<P>(
        arguments: &'r TrainArguments,
        job: &'r TrainingJob<P>,
        directory: &'r Path,
        optimiser: &OptimiserSettings,
        validates: bool,
    ) -> Self {
        Self {
            arguments,
            config: &job.config,
            directory,
            steps: optimiser.steps,
            validates,
        }
    }

    /// Trains by `begin`, given the record of the run, and says how it ended.
    fn watched<S: StepWords, V: ValidationWords, R>(
        &self,
        record: impl FnOnce() -> Result<R, TrainError>,
        begin: impl FnOnce(&R, &Place<'_>, &mut Watcher<S, V>) -> Result<Outcome, TrainError>,
    ) -> Result<(), Failure> {
        start_logging(&self.config.log)?;
        let device = self.config.run.device.parse::<DeviceName>()?.open()?;
        let record = record()?;
        let stop = save_on_signals()?;
        let place = Place {
            directory: self.directory,
            device: &device,
            train: &self.config.train,
            stop,
            steps_at_most: self.arguments.steps_at_most,
        };
        let mut watcher = Watcher::new(&self.config.log, self.directory);
        let outcome = begin(&record, &place, &mut watcher);
        watcher.finish();
        let outcome = outcome.map_err(|error| match watcher.progress {
            Some(_) => Failure::incomplete(error),
            None => Failure::from(error),
        })?;
        if stop.load(Ordering::Relaxed) && !outcome.finished {
            let step = outcome.position.step;
            let words = format!("saved at step {step}; run the same command again to go on");
            last_words("stopped", &words);
            std::process::exit(INTERRUPTED.into());
        }
        self.print_summary(&outcome);
        Ok(())
    }

    fn print_summary(&self, outcome: &Outcome) {
        let (position, steps) = (&outcome.position, self.steps);
        let directory = self.directory.display();
        println!(
            "{} of {steps} steps, {} images, {} of training",
            position.step,
            position.images,
            HumanDuration(Duration::from_secs_f64(position.seconds.max(0.0))),
        );
        if !outcome.finished {
            println!("Stopped as --steps-at-most says; the same command goes on.");
        }
        let (checkpoint, why) = match position.best {
            Some((score, step)) => {
                let why = format!(" (the best validation: {score:.3} at step {step})");
                (outcome.checkpoint.clone(), why)
            }
            // Nothing was validated yet, or nothing ever is.
            None => (self.directory.join(files::LAST), String::new()),
        };
        println!("Checkpoint:  {}{why}", checkpoint.display());
        println!("Metrics:     {directory}/{METRICS}, drawn in {directory}/{CURVES}");
        println!("TensorBoard: tensorboard --logdir {directory}/{EVENTS}");
        if self.validates {
            println!(
                "Measure it:  maskmill eval {} --pipeline {} --config {}",
                checkpoint.display(),
                self.arguments.pipeline.display(),
                self.arguments.place.config.display(),
            );
        }
    }
}

/// Examples that cannot be used are warned of one by one up to this many; `metrics.csv` counts all.
const WARNINGS: usize = 20;

/// Shows a run and writes its metrics.
struct Watcher<S, V> {
    directory: PathBuf,
    bar: ProgressBar,
    lines: bool,
    /// There once the run has begun.
    progress: Option<Progress>,
    warned: HashSet<String>,
    reports: PhantomData<fn(S, V)>,
}

/// How far a run is, as of this process.
struct Progress {
    metrics: Metrics,
    steps: u32,
    first_step: u32,
    began: Instant,
}

impl Progress {
    /// The time that is left, if steps and validations go on as they have since this process began.
    fn left(&self, step: u32) -> Option<Duration> {
        let done = step.checked_sub(self.first_step).filter(|done| *done > 0)?;
        let per_step = self.began.elapsed() / done;
        Some(per_step * self.steps.saturating_sub(step))
    }
}

impl<S: StepWords, V: ValidationWords> Watcher<S, V> {
    fn new(log: &Log, directory: &Path) -> Self {
        let (bar, lines) = new_bar(log);
        Watcher {
            directory: directory.to_owned(),
            bar,
            lines,
            progress: None,
            warned: HashSet::new(),
            reports: PhantomData,
        }
    }

    /// Draws the curves up to the last step, even of a run that failed.
    fn finish(&self) {
        self.bar.finish_and_clear();
        if self.progress.is_some()
            && let Err(error) = curves::draw(&self.directory)
        {
            tracing::warn!("the curves are not drawn: {error}");
        }
    }

    fn begun(&mut self) -> &mut Progress {
        self.progress.as_mut().expect("runs begin before they step")
    }
}

impl<S: StepWords, V: ValidationWords> Observer<S, V> for Watcher<S, V> {
    fn begun(
        &mut self,
        position: &Position,
        steps: u32,
        parameters: usize,
    ) -> Result<(), TrainError> {
        let metrics = Metrics::of::<S, V>(&self.directory, position.step)?;
        self.progress = Some(Progress {
            metrics,
            steps,
            first_step: position.step,
            began: Instant::now(),
        });
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps {msg}");
        self.bar.set_style(style.expect("a constant template"));
        self.bar.set_length(u64::from(steps));
        self.bar.set_position(u64::from(position.step));
        let begun = json!({"event": "begun", "step": position.step, "steps": steps,
            "images": position.images, "trained_parameters": parameters});
        line(self.lines, &begun);
        Ok(())
    }

    fn stepped(&mut self, report: &S) -> Result<(), TrainError> {
        let progress = self.begun();
        progress.metrics.stepped(report)?;
        let left = progress.left(report.step());
        self.bar.set_position(u64::from(report.step()));
        self.bar.set_message(report.words(left));
        let mut told = report.json();
        told["event"] = "step".into();
        told["eta_seconds"] = json!(left.map(|left| left.as_secs()));
        line(self.lines, &told);
        Ok(())
    }

    fn validated(&mut self, step: u32, report: &V, best: bool) -> Result<(), TrainError> {
        self.begun().metrics.validated(step, report)?;
        curves::draw(&self.directory)?;
        self.bar.suspend(|| match self.lines {
            true => {
                let mut told = report.json();
                told["event"] = "validation".into();
                told["step"] = step.into();
                told["best"] = best.into();
                line(true, &told);
            }
            false => {
                let best = if best { "; the best so far" } else { "" };
                eprintln!("step {step}: {}{best}", report.words());
            }
        });
        Ok(())
    }

    fn skipped(&mut self, problem: &str) {
        if self.warned.len() < WARNINGS && self.warned.insert(problem.to_owned()) {
            let more = match self.warned.len() == WARNINGS {
                true => "; further ones are only counted",
                false => "",
            };
            self.bar
                .suspend(|| tracing::warn!("an example was passed over: {problem}{more}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_steps_of_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress {
            metrics: Metrics::open(folder.path(), 100).unwrap(),
            steps: 200,
            first_step: 100,
            began: Instant::now() - Duration::from_secs(50),
        };
        assert_eq!(progress.left(100), None);
        let left = progress.left(110).unwrap().as_secs_f64();
        // Ten steps in 50 seconds: 90 more in 450.
        assert!((450.0..460.0).contains(&left), "{left}");
        assert_eq!(progress.left(200).unwrap(), Duration::ZERO);
    }
}
