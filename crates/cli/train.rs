//! `maskmill train`: a training run, with a progress bar or a line per row of the metrics, and a summary.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use maskmill_job::{Log, TrainingJob};
use maskmill_sam::DeviceName;
use maskmill_train::curves::{self, CURVES};
use maskmill_train::metrics::{EVENTS, METRICS, Metrics};
use maskmill_train::{
    Observer, Outcome, Place, Position, Report, StepReport, TrainError, files, record_of,
    train as run_training,
};
use serde_json::{Value, json};

use crate::args::TrainArguments;
use crate::failure::{Failure, INTERRUPTED};
use crate::interrupt::save_on_signals;
use crate::job_files::{VERSION, last_words, read_training, start_logging};
use crate::progress::{line, new_bar};

pub(crate) fn train(arguments: &TrainArguments) -> Result<(), Failure> {
    let job = read_training(&arguments.pipeline, &arguments.place)?;
    start_logging(&job.config.log)?;
    let device = job.config.run.device.parse::<DeviceName>()?.open()?;
    let record = record_of(&job.pipeline, VERSION)?;
    let directory = job.directory();
    let stop = save_on_signals()?;
    let place = Place {
        directory: &directory,
        device: &device,
        train: &job.config.train,
        stop,
        steps_at_most: arguments.steps_at_most,
    };
    let mut watcher = Watcher::new(&job.config.log, &directory);
    let outcome = run_training(&job.pipeline, &record, &place, &mut watcher);
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
    print_summary(arguments, &job, &outcome);
    Ok(())
}

fn print_summary(arguments: &TrainArguments, job: &TrainingJob, outcome: &Outcome) {
    let (position, steps) = (&outcome.position, job.pipeline.optimiser.steps);
    let directory = job.directory();
    let directory = directory.display();
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
        None => (job.directory().join(files::LAST), String::new()),
    };
    println!("Checkpoint:  {}{why}", checkpoint.display());
    println!("Metrics:     {directory}/{METRICS}, drawn in {directory}/{CURVES}");
    println!("TensorBoard: tensorboard --logdir {directory}/{EVENTS}");
    if job.pipeline.validation.is_some() {
        println!(
            "Measure it:  maskmill eval {} --pipeline {} --config {}",
            checkpoint.display(),
            arguments.pipeline.display(),
            arguments.place.config.display(),
        );
    }
}

/// Examples that cannot be used are warned of one by one up to this many; `metrics.csv` counts all.
const WARNINGS: usize = 20;

/// Shows a run and writes its metrics.
struct Watcher {
    directory: PathBuf,
    bar: ProgressBar,
    lines: bool,
    /// There once the run has begun.
    progress: Option<Progress>,
    warned: HashSet<String>,
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

impl Watcher {
    fn new(log: &Log, directory: &Path) -> Self {
        let (bar, lines) = new_bar(log);
        Watcher {
            directory: directory.to_owned(),
            bar,
            lines,
            progress: None,
            warned: HashSet::new(),
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

impl Observer for Watcher {
    fn begun(
        &mut self,
        position: &Position,
        steps: u32,
        parameters: usize,
    ) -> Result<(), TrainError> {
        let metrics = Metrics::open(&self.directory, position.step)?;
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

    fn stepped(&mut self, report: &StepReport) -> Result<(), TrainError> {
        let progress = self.begun();
        progress.metrics.stepped(report)?;
        let left = progress.left(report.step);
        self.bar.set_position(u64::from(report.step));
        self.bar.set_message(words(report, left));
        line(self.lines, &step_line(report, left));
        Ok(())
    }

    fn validated(&mut self, step: u32, report: &Report, best: bool) -> Result<(), TrainError> {
        self.begun().metrics.validated(step, report)?;
        curves::draw(&self.directory)?;
        self.bar.suspend(|| match self.lines {
            true => line(true, &validation_line(step, report, best)),
            false => eprintln!("{}", validation_words(step, report, best)),
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

fn step_line(report: &StepReport, left: Option<Duration>) -> Value {
    json!({"event": "step", "step": report.step, "images": report.images,
        "seconds": report.seconds, "learning_rate": report.learning_rate, "loss": report.loss,
        "focal": report.focal, "dice": report.dice, "iou": report.iou,
        "gradient_norm": report.gradient_norm, "images_per_second": report.images_per_second,
        "skipped": report.skipped, "eta_seconds": left.map(|left| left.as_secs())})
}

fn validation_line(step: u32, report: &Report, best: bool) -> Value {
    json!({"event": "validation", "step": step, "images": report.images, "masks": report.masks,
        "miou_1_click_best": report.miou_1_click_best, "miou_1_click": report.miou_1_click,
        "miou_3_clicks": report.miou_3_clicks, "miou_5_clicks": report.miou_5_clicks,
        "miou_box": report.miou_box, "iou_correlation": report.iou_correlation, "best": best})
}

/// `loss 1.234, 3.21 images/s, 4 hours left`
fn words(report: &StepReport, left: Option<Duration>) -> String {
    let left = left.map_or(String::new(), |left| {
        let left = Duration::from_secs(left.as_secs());
        format!(", {} left", HumanDuration(left))
    });
    format!(
        "loss {:.3}, {:.2} images/s{left}",
        report.loss, report.images_per_second
    )
}

/// `step 500: mIoU 0.612 at 1 click (best mask), 0.655 at 3, 0.689 at 5, 0.743 of boxes; the best so far`
fn validation_words(step: u32, report: &Report, best: bool) -> String {
    let best = match best {
        true => "; the best so far",
        false => "",
    };
    format!(
        "step {step}: mIoU {:.3} at 1 click (best mask), {:.3} at 3, {:.3} at 5, {:.3} of boxes{best}",
        report.miou_1_click_best, report.miou_3_clicks, report.miou_5_clicks, report.miou_box
    )
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
