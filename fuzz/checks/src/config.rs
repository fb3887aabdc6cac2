//! Pipeline and config files.

use std::collections::BTreeMap;

use maskmill_job::{
    ConfigError, Fingerprint, Job, Source, TextFile, load, load_config, load_pipeline, redacted,
};

use crate::panics::guarded;
use crate::split;

/// Stands for a password wherever this check puts one.
const SECRET: &str = "jMx9Secret";

const PIPELINE: &str = "
name = 'fuzz'
source = { kind = 'images', path = 'samples' }
model = { checkpoint = 'model.pth' }
";

const CONFIG: &str = "output = { root = 'out' }";

/// Where a location may be, as `(pipeline, config)`; `LOCATION` stands for it.
const FILES: &[(&str, &str)] = &[
    (PIPELINE, "output = { root = LOCATION }"),
    (
        PIPELINE,
        "output = { root = 'out' }\nstore = { s3_endpoint = LOCATION }",
    ),
    (
        PIPELINE,
        "output = { root = 'out' }\nstore = { source_s3_endpoint = LOCATION }",
    ),
    (
        "name = 'fuzz'\nsource = { kind = 'manifest', path = LOCATION }\nmodel = { checkpoint = 'model.pth' }",
        CONFIG,
    ),
    (
        "name = 'fuzz'\nsource = { kind = 'parquet', path = 'samples' }\nmodel = { checkpoint = LOCATION }",
        CONFIG,
    ),
    // Not locations: what is typed is repeated.
    (
        PIPELINE,
        "output = { root = 'out', max_put_bytes = LOCATION }\nrun = { device = 7, x = LOCATION }",
    ),
];

/// The settings that are locations, for overrides.
const LOCATIONS: [&str; 9] = [
    "output.root",
    "store.s3_endpoint",
    "store.source_s3_endpoint",
    "source.path",
    "model.checkpoint",
    "model.detector",
    "model.detector_tokenizer",
    "model.labeller",
    "model.labeller_tokenizer",
];

/// Loads a job: mistakes are named, what loads loads again to the same, and no secret gets in or out.
///
/// The options modulo 4: a pipeline file; a config file; overrides, one per line; or a location, in which every `@` is
/// preceded by a user name and a password.
pub fn config(data: &[u8]) {
    guarded(|| check(data));
}

fn check(data: &[u8]) {
    let (options, text) = split(data);
    let Ok(text) = std::str::from_utf8(text) else {
        return; // files are read as text
    };
    match options % 4 {
        0 => check_pipeline(text),
        1 => check_config(text),
        2 => {
            let overrides: Vec<String> = text.lines().map(str::to_owned).collect();
            check_job(PIPELINE, CONFIG, &overrides);
        }
        _ => check_location(text),
    }
}

fn check_pipeline(text: &str) {
    let file = TextFile {
        name: "pipeline.toml",
        text,
    };
    let read = load_pipeline(file, &[]);
    assert_eq!(read, load_pipeline(file, &[]));
    match read {
        Ok(pipeline) => {
            let fingerprint = Fingerprint::of(&pipeline, "00", &BTreeMap::new());
            assert_eq!(fingerprint.as_str().len(), 64);
            assert_nothing_to_hide(path_of(&pipeline.source));
            assert_nothing_to_hide(&pipeline.model.checkpoint);
        }
        Err(error) => check_error(&error),
    }
}

fn check_config(text: &str) {
    let file = TextFile {
        name: "config.toml",
        text,
    };
    let read = load_config(file, &[]);
    assert_eq!(read, load_config(file, &[]));
    match read {
        Ok(config) => {
            let store = &config.store;
            let endpoints = [&store.s3_endpoint, &store.source_s3_endpoint];
            let locations = endpoints.into_iter().flatten().chain([&config.output.root]);
            locations.for_each(|location| assert_nothing_to_hide(location));
        }
        Err(error) => check_error(&error),
    }
}

fn check_job(pipeline: &str, config: &str, overrides: &[String]) -> Option<Job> {
    let file = |name, text| TextFile { name, text };
    let (pipeline, config) = (file("pipeline.toml", pipeline), file("config.toml", config));
    match load(pipeline, config, overrides) {
        Ok(job) => Some(job),
        Err(error) => {
            check_error(&error);
            None
        }
    }
}

/// A location with a password in it is refused, and nobody is told the password.
fn check_location(location: &str) {
    let user = format!("user:{SECRET}@");
    let location = location.replace('@', &user);
    let quoted = serde_json::to_string(&location).expect("a string");
    for (pipeline, config) in FILES {
        let fill = |text: &str| text.replace("LOCATION", &quoted);
        let job = check_job(&fill(pipeline), &fill(config), &[]);
        check_accepted(&location, job);
    }
    for setting in LOCATIONS {
        let job = check_job(PIPELINE, CONFIG, &[format!("{setting}={quoted}")]);
        check_accepted(&location, job);
    }
    let shown = redacted(&location);
    let is_uri = location.contains(&format!("://{user}"));
    assert!(
        !is_uri || !shown.contains(&format!("://{user}")),
        "{location:?} is shown as {shown:?}"
    );
}

fn check_accepted(location: &str, job: Option<Job>) {
    let Some(job) = job else {
        return;
    };
    // Without `://` it is a path on this machine, where any character may be.
    let shown = format!("{job:?}");
    assert!(
        !shown.contains(&format!("://user:{SECRET}@")),
        "{location:?} was accepted: {shown}"
    );
    let config = &job.config;
    let all = [
        Some(config.output.root.as_str()),
        config.store.s3_endpoint.as_deref(),
        config.store.source_s3_endpoint.as_deref(),
        Some(path_of(&job.pipeline.source)),
        Some(&job.pipeline.model.checkpoint),
    ];
    all.into_iter().flatten().for_each(assert_nothing_to_hide);
}

fn check_error(error: &ConfigError) {
    assert!(!error.problems.is_empty());
    for problem in &error.problems {
        assert!(!problem.place.is_empty() && !problem.message.is_empty());
        // What is behind the `=` of an override is hidden apart.
        let place = problem.place.strip_suffix("=(hidden)");
        for text in [place.unwrap_or(&problem.place), &problem.message] {
            assert_eq!(redacted(text), text, "a message repeats a secret");
        }
    }
}

fn assert_nothing_to_hide(location: &str) {
    if location.contains("://") {
        assert_eq!(redacted(location), location, "a secret was accepted");
    }
}

fn path_of(source: &Source) -> &str {
    match source {
        Source::Images { path, .. }
        | Source::Webdataset { path, .. }
        | Source::Parquet { path, .. }
        | Source::Manifest { path, .. } => path,
        Source::Scenes { .. } => "",
    }
}
