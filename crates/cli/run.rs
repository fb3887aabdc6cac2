//! `maskmill run`: a job, with a progress bar or a line per shard, and a summary.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use maskmill_job::{Config, Job, Log, LogFormat, Progress, TextFile, load};
use maskmill_pipeline::{Event, Summary, run as run_job};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::args::RunArguments;
use crate::failure::Failure;

/// Written to `_job.json` and to commit markers.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let job = read_job(arguments)?;
    start_logging(&job.config.log)?;
    let progress = Reporter::new(&job.config);
    let summary = run_job(&job, VERSION, &|event| progress.report(event)).map_err(|error| {
        match error.had_started() {
            true => Failure::incomplete(error),
            false => Failure::from(error),
        }
    });
    progress.finish();
    let summary = summary?;
    print_summary(&job, &summary);
    if summary.failed.is_empty() {
        return Ok(());
    }
    Err(Failure::incomplete(anyhow::anyhow!(
        "{} of {} shards failed; running the job again tries them again",
        summary.failed.len(),
        summary.shards
    )))
}

fn read_job(arguments: &RunArguments) -> anyhow::Result<Job> {
    let text = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let pipeline = text(&arguments.pipeline)?;
    let config = text(&arguments.config)?;
    let job = load(
        TextFile {
            name: &arguments.pipeline.display().to_string(),
            text: &pipeline,
        },
        TextFile {
            name: &arguments.config.display().to_string(),
            text: &config,
        },
        &arguments.overrides,
    )?;
    Ok(job)
}

fn start_logging(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level)
        .with_context(|| format!("log.level = {:?} is no log filter", log.level))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

/// Shows events: a bar on a terminal, one JSON line per shard elsewhere.
struct Reporter {
    bar: ProgressBar,
    lines: bool,
}

impl Reporter {
    fn new(config: &Config) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let draw = terminal && config.log.progress == Progress::Auto;
        let target = match draw {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Self {
            bar: ProgressBar::with_draw_target(None, target),
            lines: !draw,
        }
    }

    fn report(&self, event: &Event<'_>) {
        match event {
            Event::Planned {
                shards,
                committed,
                images,
                bytes,
            } => {
                // Tars tell their number of images only when they are read: then without an ETA.
                let template = match images {
                    Some(_) => "{bar:30} {pos}/{len} images, {per_sec}, {eta} left {msg}",
                    None => "{spinner} {pos} images, {per_sec}, {elapsed} {msg}",
                };
                let style = ProgressStyle::with_template(template).expect("a constant template");
                self.bar.set_style(style);
                if let Some(images) = images {
                    self.bar.set_length(*images);
                }
                if self.lines {
                    let line = json!({"event": "planned", "shards": shards, "committed": committed,
                        "images": images, "bytes": bytes});
                    eprintln!("{line}");
                }
            }
            Event::Image { .. } => self.bar.inc(1),
            Event::Committed(marker) => {
                self.bar
                    .set_message(format!("(shard {:06} committed)", marker.shard));
                if self.lines {
                    let line = json!({"event": "committed", "shard": marker.shard,
                        "images": marker.images_ok, "rejected": marker.images_rejected,
                        "rejects": marker.rejects, "masks": marker.masks.rows,
                        "seconds": marker.seconds});
                    eprintln!("{line}");
                }
            }
            Event::Failed { shard, detail } => {
                let line = json!({"event": "failed", "shard": shard.0, "detail": detail});
                self.bar.suspend(|| eprintln!("{line}"));
            }
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn print_summary(job: &Job, summary: &Summary) {
    let output = &summary.output;
    if summary.resumed == summary.shards {
        println!(
            "All {} shards were committed before; nothing to do.",
            summary.shards
        );
    } else {
        let seconds = summary.elapsed.as_secs_f64();
        let rejected: u64 = summary.rejects.values().sum();
        println!(
            "{} images -> {} masks in {seconds:.1} s ({:.2} images/s); {} shards committed, {} resumed, {} failed",
            summary.images,
            summary.masks,
            summary.images as f64 / seconds,
            summary.committed,
            summary.resumed,
            summary.failed.len(),
        );
        if rejected > 0 {
            let reasons = summary.rejects.iter();
            let reasons: Vec<String> = reasons.map(|(reason, n)| format!("{n} {reason}")).collect();
            println!("{rejected} images rejected: {}", reasons.join(", "));
        }
    }
    println!("Masks:  {output}/masks/*.parquet");
    println!("Images: {output}/images/*.parquet (rejected ones too, with a reason)");
    println!("Look at one:  maskmill view {output} --image KEY");
    println!("Check all:    maskmill verify {output}");
    println!("As SA-1B:     maskmill export {output} --format sa1b");
    if let Some(about) = &summary.about_model {
        println!("Model:  {} ({about})", job.pipeline.model.checkpoint);
        if about.contains("UNTRAINED") {
            println!(
                "        Its masks show that everything works, not what is in the images: set model.checkpoint \
                 to an official SAM checkpoint for real masks."
            );
        }
    }
}
