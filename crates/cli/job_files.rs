//! Pipeline and config files, read; outputs, opened.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use maskmill_job::{
    AnyTrainingJob, Config, Job, Log, LogFormat, TextFile, load, load_any_training, load_config,
};
use maskmill_pipeline::{JobOutput, store_options};
use maskmill_storage::StoreOptions;
use serde_json::json;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{JobArguments, LogFormatArgument, OutputArguments, TrainingPlace};

/// Written to `_job.json`, plans and commit markers.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether log lines are JSON: then the last words are, too.
static LOGS_ARE_JSON: AtomicBool = AtomicBool::new(false);

/// Says why the program ends, after `label`: a log line for machines where there are such, else a line
/// for people.
pub(crate) fn last_words(label: &str, words: &str) {
    let words = format!("{label}: {words}");
    match LOGS_ARE_JSON.load(Ordering::Relaxed) {
        true => eprintln!("{}", json!({"level": "ERROR", "message": words})),
        false => eprintln!("{words}"),
    }
}

/// The job of the files and overrides that were given.
pub(crate) fn read_job(arguments: &JobArguments) -> anyhow::Result<Job> {
    let (pipeline, config) = (text(&arguments.pipeline)?, text(&arguments.config)?);
    let mut job = load(
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
    set_format(&mut job.config.log, arguments.log_format);
    Ok(job)
}

/// The training run of the files and overrides that were given.
pub(crate) fn read_training(path: &Path, place: &TrainingPlace) -> anyhow::Result<AnyTrainingJob> {
    let (pipeline, config) = (text(path)?, text(&place.config)?);
    let mut job = load_any_training(
        TextFile {
            name: &path.display().to_string(),
            text: &pipeline,
        },
        TextFile {
            name: &place.config.display().to_string(),
            text: &config,
        },
        &place.overrides,
    )?;
    set_format(&mut job.config_mut().log, place.log_format);
    Ok(job)
}

fn set_format(log: &mut Log, format: Option<LogFormatArgument>) {
    match format {
        Some(LogFormatArgument::Text) => log.format = LogFormat::Text,
        Some(LogFormatArgument::Json) => log.format = LogFormat::Json,
        None => {}
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Libraries that speak to servers. What they say at lower levels repeats addresses with their users and
/// passwords, and they do not know what else of it is secret: it is not logged, whatever `log.level` asks for.
const SPEAKERS: [&str; 5] = ["h2", "hyper", "hyper_util", "reqwest", "rustls"];

fn may_be_logged(event: &Metadata<'_>) -> bool {
    let library = event.target().split("::").next().unwrap_or_default();
    *event.level() <= Level::WARN || !SPEAKERS.contains(&library)
}

/// Sends log lines to standard error. Spans, which are of level debug, are written when they end.
pub(crate) fn start_logging(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level)
        .with_context(|| format!("log.level = {:?} is no log filter", log.level))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr);
    let shown = filter_fn(may_be_logged);
    match log.format {
        LogFormat::Text => logs.finish().with(shown).init(),
        LogFormat::Json => {
            LOGS_ARE_JSON.store(true, Ordering::Relaxed);
            logs.json().finish().with(shown).init();
        }
    }
    Ok(())
}

/// The output of a command that reads one.
pub(crate) fn open_output(arguments: &OutputArguments) -> anyhow::Result<JobOutput> {
    let options = match read_config(arguments)? {
        Some(config) => store_options(&config, false),
        None => StoreOptions::default(),
    };
    Ok(JobOutput::open(&arguments.output, &options)?)
}

/// How that output's source is reached.
pub(crate) fn source_stores(arguments: &OutputArguments) -> anyhow::Result<StoreOptions> {
    Ok(match read_config(arguments)? {
        Some(config) => store_options(&config, true),
        None => StoreOptions::default(),
    })
}

fn read_config(arguments: &OutputArguments) -> anyhow::Result<Option<Config>> {
    let Some(path) = &arguments.config else {
        return Ok(None);
    };
    let file = TextFile {
        name: &path.display().to_string(),
        text: &text(path)?,
    };
    Ok(Some(load_config(file, &[])?))
}
