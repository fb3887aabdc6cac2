//! The config file: WHERE outputs go and how fast. Nothing here changes a row.

use crate::document::Document;
use crate::problem::Problems;
use crate::schema::FileKind;
use crate::section::Section;

/// Where a job writes and how much of the machine it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where outputs go.
    pub output: Output,
    /// Device, concurrency and memory.
    pub run: Run,
    /// What is printed.
    pub log: Log,
}

/// Where outputs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// A local path or `file://` URI; a job writes to `root/<pipeline name>`.
    pub root: String,
}

impl Output {
    /// The directory of the job called `name`.
    pub fn job_root(&self, name: &str) -> String {
        // One slash only: `file:///` names the root directory.
        let root = self.root.strip_suffix('/').unwrap_or(&self.root);
        format!("{root}/{name}")
    }
}

/// Device, concurrency and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `cpu`, `cuda`, `cuda:1`, `wgpu`, `wgpu:0`...; the part behind the colon is the device's own.
    pub device: String,
    /// How many points are decoded at once: more is faster on a GPU and takes more memory.
    pub points_per_batch: u32,
    /// Threads that decode images; 0 means one per core.
    pub decode_threads: u32,
    /// Images between the first byte read and the last mask written, at most.
    pub images_in_flight: u32,
    /// Bytes of encoded and decoded images waiting between stages, at most. An image that alone
    /// needs more still passes, by itself.
    pub max_bytes_in_flight: u64,
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

impl Config {
    /// Reads a parsed config file. What is returned counts only if no problem was noted.
    pub(crate) fn read(mut document: Document, problems: &mut Problems) -> Self {
        const KIND: FileKind = FileKind::Config;
        let document = &mut document;
        let config = Config {
            output: read_output(Section::take(document, KIND, "output", problems)),
            run: read_run(Section::take(document, KIND, "run", problems)),
            log: read_log(Section::take(document, KIND, "log", problems)),
        };
        Section::take(document, KIND, "", problems).finish();
        config
    }
}

fn read_output(mut section: Section<'_>) -> Output {
    let what = "the directory under which each job gets its own";
    let root = section.required_text("root", what);
    section.finish();
    Output {
        root: root.map_or(String::new(), |(root, _)| root),
    }
}

fn read_run(mut section: Section<'_>) -> Run {
    let run = Run {
        device: read_device(&mut section),
        points_per_batch: section.integer_u32("points_per_batch", 64, 1..=65_536),
        decode_threads: section.integer_u32("decode_threads", 0, 0..=1024),
        images_in_flight: section.integer_u32("images_in_flight", 4, 1..=1024),
        max_bytes_in_flight: section.bytes(
            "max_bytes_in_flight",
            512 << 20,
            MIN_BYTES_IN_FLIGHT..=(1 << 50),
        ),
    };
    section.finish();
    run
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
    };
    section.finish();
    log
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
            let root = root.to_string();
            assert_eq!(Output { root }.job_root("cats"), job_root);
        }
    }
}
