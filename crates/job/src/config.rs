//! The config file: WHERE outputs go and how fast. Nothing here changes a row.

use std::net::SocketAddr;

use crate::document::Document;
use crate::location;
use crate::problem::Problems;
use crate::schema::FileKind;
use crate::section::Section;

/// Where a job writes and how much of the machine it uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where outputs go.
    pub output: Output,
    /// How object stores are reached.
    pub store: Store,
    /// Device, concurrency and memory.
    pub run: Run,
    /// What only training uses.
    pub train: Train,
    /// What is printed.
    pub log: Log,
}

/// Where outputs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// A local path or a `file://`, `s3://bucket/prefix`, `gs://` or `az://` location without
    /// credentials in it; a job writes to `root/<pipeline name>`.
    pub root: String,
    /// Larger parts are written in several requests.
    pub max_put_bytes: u64,
}

impl Output {
    /// The directory of the job called `name`.
    pub fn job_root(&self, name: &str) -> String {
        // One slash only: `file:///` names the root directory.
        let root = self.root.strip_suffix('/').unwrap_or(&self.root);
        format!("{root}/{name}")
    }
}

/// How object stores are reached. Credentials are not here: they come from the environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// The S3 endpoint, `http://` or `https://`; without one it is AWS's or the environment's.
    pub s3_endpoint: Option<String>,
    /// The S3 region; without one it is the environment's.
    pub s3_region: Option<String>,
    /// Whether the bucket is in the path instead of the host's name.
    pub s3_path_style: Option<bool>,
    /// Whether requests to S3 are sent without credentials.
    pub s3_anonymous: bool,
    /// `s3_endpoint` for the source alone.
    pub source_s3_endpoint: Option<String>,
    /// `s3_region` for the source alone.
    pub source_s3_region: Option<String>,
    /// `s3_path_style` for the source alone.
    pub source_s3_path_style: Option<bool>,
    /// `s3_anonymous` for the source alone.
    pub source_s3_anonymous: Option<bool>,
    /// How long one request may take.
    pub request_timeout_seconds: f64,
    /// How long a connection may take.
    pub connect_timeout_seconds: f64,
    /// How often a request that failed for a while is sent again.
    pub max_retries: u32,
    /// How long a request is sent again, from the first time.
    pub retry_timeout_seconds: f64,
    /// How long the first pause between two attempts is; the next are longer.
    pub first_backoff_seconds: f64,
    /// How long a pause may become.
    pub longest_backoff_seconds: f64,
}

impl Store {
    /// The settings as the source has them: what is set for the source alone is put in place.
    pub fn for_source(&self) -> Store {
        let of_source = &self.source_s3_endpoint;
        Store {
            s3_endpoint: of_source.clone().or_else(|| self.s3_endpoint.clone()),
            s3_region: self
                .source_s3_region
                .clone()
                .or_else(|| self.s3_region.clone()),
            s3_path_style: self.source_s3_path_style.or(self.s3_path_style),
            s3_anonymous: self.source_s3_anonymous.unwrap_or(self.s3_anonymous),
            ..self.clone()
        }
    }
}

/// Device, concurrency and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `cpu`, `cuda`, `cuda:1`, `wgpu`, `wgpu:0`...; the part behind the colon is the device's own.
    pub device: String,
    /// How many points or boxes are asked at once, at most: more is faster and takes more memory.
    pub points_per_batch: u32,
    /// Bytes that a batch of points or boxes may take, at most: batches are as small as that needs, down to one.
    pub prompt_memory: u64,
    /// How many crops of masks the labeller takes at once.
    pub crops_per_batch: u32,
    /// Images that are decoded at once; 0 means one per core, and more are not.
    pub decode_threads: u32,
    /// Requests to the source under way, at most.
    pub fetch_concurrency: u32,
    /// Images between the first byte read and the last mask written, at most.
    pub images_in_flight: u32,
    /// Bytes of encoded and decoded images waiting between stages, at most. An image that alone
    /// needs more still passes, by itself.
    pub max_bytes_in_flight: u64,
    /// How often a shard is tried before it is marked failed.
    pub shard_attempts: u32,
}

/// What only training uses. The weights do not depend on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Train {
    /// Minutes from one saved state to the next: what a kill costs, at most.
    pub checkpoint_minutes: f64,
    /// Steps from one row of the metrics to the next.
    pub log_steps: u32,
    /// Threads that read, draw and augment images ahead of the device; 0 means one per core.
    pub loader_threads: u32,
    /// Bytes of image embeddings that are kept where the encoder is frozen and nothing is
    /// augmented, at most; 0 keeps none.
    pub cache_memory: u64,
}

/// What is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,maskmill_sam=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: LogFormat,
    /// Whether a progress bar is drawn.
    pub progress: Progress,
    /// Where metrics are served to Prometheus, `address:port`; without one they are not.
    pub metrics_addr: Option<String>,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// When a progress bar is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// On a terminal, and only there.
    Auto,
    /// Never.
    Never,
}

/// Smallest memory budget: an encoded and decoded photo of a few megapixels.
const MIN_BYTES_IN_FLIGHT: u64 = 16 << 20;
/// Smallest memory of a batch of prompts: the masks of one prompt of the published models take 768 KiB.
const MIN_PROMPT_MEMORY: u64 = 1 << 20;
/// Largest memory budget: more than a machine has.
const MAX_MEMORY: u64 = 1 << 50;
/// What S3 takes in one piece of several, at least, and in one request, at most.
const MIN_PUT_BYTES: u64 = 5 << 20;
const MAX_PUT_BYTES: u64 = 5 << 30;

impl Config {
    /// Reads a parsed config file. What is returned counts only if no problem was noted.
    pub(crate) fn read(mut document: Document, problems: &mut Problems) -> Self {
        const KIND: FileKind = FileKind::Config;
        let document = &mut document;
        let config = Config {
            output: read_output(Section::take(document, KIND, "output", problems)),
            store: read_store(Section::take(document, KIND, "store", problems)),
            run: read_run(Section::take(document, KIND, "run", problems)),
            train: read_train(Section::take(document, KIND, "train", problems)),
            log: read_log(Section::take(document, KIND, "log", problems)),
        };
        Section::take(document, KIND, "", problems).finish();
        config
    }
}

fn read_output(mut section: Section<'_>) -> Output {
    let what = "the directory under which each job gets its own";
    let output = Output {
        root: section.required_location("root", location::OUTPUTS, what),
        max_put_bytes: section.bytes("max_put_bytes", 1 << 30, MIN_PUT_BYTES..=MAX_PUT_BYTES),
    };
    section.finish();
    output
}

fn read_store(mut section: Section<'_>) -> Store {
    let longest_origin = section.origin_of("longest_backoff_seconds");
    let store = Store {
        s3_endpoint: read_endpoint(&mut section, "s3_endpoint"),
        s3_region: section.optional_text("s3_region"),
        s3_path_style: section.optional_boolean("s3_path_style"),
        s3_anonymous: section.boolean("s3_anonymous", false),
        source_s3_endpoint: read_endpoint(&mut section, "source_s3_endpoint"),
        source_s3_region: section.optional_text("source_s3_region"),
        source_s3_path_style: section.optional_boolean("source_s3_path_style"),
        source_s3_anonymous: section.optional_boolean("source_s3_anonymous"),
        request_timeout_seconds: section.number("request_timeout_seconds", 30.0, 0.01..=3600.0),
        connect_timeout_seconds: section.number("connect_timeout_seconds", 5.0, 0.01..=3600.0),
        max_retries: section.integer_u32("max_retries", 8, 0..=1000),
        retry_timeout_seconds: section.number("retry_timeout_seconds", 180.0, 0.0..=86_400.0),
        first_backoff_seconds: section.number("first_backoff_seconds", 0.1, 0.001..=3600.0),
        longest_backoff_seconds: section.number("longest_backoff_seconds", 15.0, 0.001..=3600.0),
    };
    if store.longest_backoff_seconds < store.first_backoff_seconds {
        let what = format!(
            " = {} is below first_backoff_seconds = {}",
            store.longest_backoff_seconds, store.first_backoff_seconds
        );
        section.note(longest_origin, "longest_backoff_seconds", &what);
    }
    section.finish();
    store
}

fn read_endpoint(section: &mut Section<'_>, key: &str) -> Option<String> {
    let origin = section.origin_of(key);
    let endpoint = section.location(key, location::ENDPOINTS)?;
    if !endpoint.contains("://") {
        let what = " is no endpoint; write it as https://host or http://127.0.0.1:9000";
        section.note(origin, key, what);
    }
    Some(endpoint)
}

fn read_run(mut section: Section<'_>) -> Run {
    let run = Run {
        device: read_device(&mut section),
        points_per_batch: section.integer_u32("points_per_batch", 256, 1..=65_536),
        prompt_memory: section.bytes("prompt_memory", 1 << 30, MIN_PROMPT_MEMORY..=MAX_MEMORY),
        crops_per_batch: section.integer_u32("crops_per_batch", 32, 1..=65_536),
        fetch_concurrency: section.integer_u32("fetch_concurrency", 16, 1..=1024),
        shard_attempts: section.integer_u32("shard_attempts", 3, 1..=100),
        decode_threads: section.integer_u32("decode_threads", 0, 0..=1024),
        images_in_flight: section.integer_u32("images_in_flight", 4, 1..=1024),
        max_bytes_in_flight: section.bytes(
            "max_bytes_in_flight",
            512 << 20,
            MIN_BYTES_IN_FLIGHT..=MAX_MEMORY,
        ),
    };
    section.finish();
    run
}

fn read_train(mut section: Section<'_>) -> Train {
    let train = Train {
        checkpoint_minutes: section.number("checkpoint_minutes", 10.0, 0.01..=1e5),
        log_steps: section.integer_u32("log_steps", 10, 1..=1_000_000),
        loader_threads: section.integer_u32("loader_threads", 0, 0..=1024),
        cache_memory: section.bytes("cache_memory", 2 << 30, 0..=MAX_MEMORY),
    };
    section.finish();
    train
}

/// Checks the kind of device; whether the machine has it is known when the model is loaded.
fn read_device(section: &mut Section<'_>) -> String {
    let Some((device, origin)) = section.text("device") else {
        return "cpu".to_string();
    };
    let (kind, number) = device
        .split_once(':')
        .map_or((device.as_str(), None), |(kind, n)| (kind, Some(n)));
    let known = match kind {
        "cpu" => number.is_none(),
        "cuda" => number.is_none_or(|n| n.parse::<usize>().is_ok()),
        "wgpu" => number.is_none_or(|n| !n.is_empty()),
        _ => false,
    };
    if !known {
        let what = format!(" = {device:?} is not a device; it can be `cpu`, `cuda:0` or `wgpu`");
        section.note(Some(origin), "device", &what);
    }
    device
}

fn read_log(mut section: Section<'_>) -> Log {
    let level = section.text("level");
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let progress = [("auto", Progress::Auto), ("never", Progress::Never)];
    let log = Log {
        level: level.map_or("info".to_string(), |(level, _)| level),
        format: section
            .one_of("format", &formats)
            .unwrap_or(LogFormat::Text),
        progress: section
            .one_of("progress", &progress)
            .unwrap_or(Progress::Auto),
        metrics_addr: read_metrics_addr(&mut section),
    };
    section.finish();
    log
}

fn read_metrics_addr(section: &mut Section<'_>) -> Option<String> {
    let (address, origin) = section.text("metrics_addr")?;
    if address.parse::<SocketAddr>().is_err() {
        let what = format!(
            " = {address:?} is not an address and a port; write it as 127.0.0.1:9090, or as \
             0.0.0.0:9090 to be reached from other machines"
        );
        section.note(Some(origin), "metrics_addr", &what);
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_a_directory_of_its_own_under_the_root() {
        for (root, job_root) in [
            ("out", "out/cats"),
            ("out/", "out/cats"),
            ("/", "/cats"),
            ("file:///", "file:///cats"),
        ] {
            let output = Output {
                root: root.to_string(),
                max_put_bytes: 5 << 20,
            };
            assert_eq!(output.job_root("cats"), job_root);
        }
    }
}
