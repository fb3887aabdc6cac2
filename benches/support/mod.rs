//! What the benches share: photos, a child that is watched while it runs, and a line per result.

#![allow(dead_code, reason = "every bench uses a part of it")]

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{GenericImageView, Rgb, RgbImage};
use serde_json::{Value, json};

/// Sample photos that the benches' images are made of.
const PHOTOS: [&str; 4] = ["cat.png", "coffee.png", "fig.png", "china.jpg"];
/// The program under test.
pub(crate) const MASKMILL: &str = env!("CARGO_BIN_EXE_maskmill");
/// The checkpoint that ships with maskmill.
pub(crate) const CHECKPOINT: &str = "models/sam-seeded-tiny.safetensors";
/// The config file that ships with maskmill, for one machine.
pub(crate) const CONFIG: &str = "configs/local.toml";

/// How a bench ends.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The number behind `name` on the command line: `--images 50`.
///
/// # Errors
/// There is none behind it.
pub(crate) fn argument<T: FromStr>(name: &str, default: T) -> Result<T, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(at) = arguments.iter().position(|argument| argument == name) else {
        return Ok(default);
    };
    let number = arguments.get(at + 1).and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{name} needs a number").into())
}

/// A pipeline file with the shipped checkpoint in `folder`; `source` and `prompts` are TOML.
pub(crate) fn write_pipeline(
    folder: &Path,
    name: &str,
    source: &str,
    prompts: &str,
) -> Result<PathBuf, Box<dyn Error>> {
    let path = folder.join(format!("{name}.toml"));
    let checkpoint = repository(CHECKPOINT);
    let text = format!(
        "name = {name:?}\n[source]\n{source}\n[model]\ncheckpoint = {checkpoint:?}\n\
         [prompts]\nmode = \"automatic\"\n{prompts}\n"
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// `maskmill COMMAND` with a pipeline, the shipped config, and an output below `out`.
pub(crate) fn maskmill(command: &str, pipeline: &Path, out: &Path) -> Command {
    let mut maskmill = Command::new(MASKMILL);
    maskmill
        .arg(command)
        .arg(pipeline)
        .arg("--config")
        .arg(repository(CONFIG))
        .arg("--set")
        .arg(format!("output.root={}", out.display()));
    // Whatever the machine's environment says of stores is not the benches' business.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        maskmill.env_remove(name);
    }
    maskmill
}

/// A child that has done its work.
pub(crate) struct Watched {
    pub(crate) stdout: String,
    pub(crate) seconds: f64,
    /// Of all its threads, user and system.
    pub(crate) cpu_seconds: f64,
    /// `VmHWM`.
    pub(crate) peak_kib: u64,
    /// `VmHWM` so far, every 10 seconds.
    pub(crate) high_water_mib: Vec<u64>,
}

impl Watched {
    pub(crate) fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }

    pub(crate) fn peak_mb(&self) -> f64 {
        self.peak_kib as f64 * 1024.0 / 1e6
    }
}

/// Runs a child to its end and samples its high-water mark from `/proc` (Linux).
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn watch(command: &mut Command) -> Result<Watched, Box<dyn Error>> {
    let cpu_before = ClockTicks::now()?.of_children;
    let start = Instant::now();
    // What it prints on stdout, a summary, is less than a pipe holds.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut peak_kib = 0;
    let mut high_water_mib = Vec::new();
    let status = loop {
        if let Some(kib) = high_water_kib(child.id()) {
            peak_kib = kib;
        }
        if high_water_mib.len() < start.elapsed().as_secs() as usize / 10 {
            high_water_mib.push(peak_kib / 1024);
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let seconds = start.elapsed().as_secs_f64();
    let mut stdout = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut stdout)?;
    }
    if !status.success() {
        return Err(format!("{command:?} ended with {status}: {stdout}").into());
    }
    Ok(Watched {
        stdout,
        seconds,
        cpu_seconds: ClockTicks::now()?.of_children - cpu_before,
        peak_kib,
        high_water_mib,
    })
}

/// `VmHWM` of a process, in KiB; `None` once it has ended.
fn high_water_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// CPU seconds, user and system, as the kernel counts them: in hundredths.
pub(crate) struct ClockTicks {
    pub(crate) of_this_process: f64,
    /// Of children that have ended and been waited for.
    pub(crate) of_children: f64,
}

impl ClockTicks {
    /// # Errors
    /// `/proc/self/stat` is not as on Linux.
    pub(crate) fn now() -> Result<Self, Box<dyn Error>> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        // Behind the program's name in parentheses: fields 3 and on of proc(5).
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let seconds = |number: usize| -> Result<f64, Box<dyn Error>> {
            let ticks: f64 = fields.get(number - 3).ok_or("a short stat")?.parse()?;
            Ok(ticks / 100.0)
        };
        Ok(Self {
            of_this_process: seconds(14)? + seconds(15)?,
            of_children: seconds(16)? + seconds(17)?,
        })
    }
}

/// Enlarged sample photos, `index` of which is marked so that no two are equal.
pub(crate) struct Enlarged {
    photos: Vec<RgbImage>,
}

impl Enlarged {
    pub(crate) fn new(width: u32, height: u32) -> Result<Self, Box<dyn Error>> {
        let mut photos = Vec::new();
        for name in PHOTOS {
            let photo = sample(name)?;
            photos.push(image::imageops::resize(
                &photo,
                width,
                height,
                FilterType::Triangle,
            ));
        }
        Ok(Self { photos })
    }

    /// A JPEG with a stripe whose place is the file's number.
    pub(crate) fn jpeg(&mut self, index: u32) -> Result<Vec<u8>, Box<dyn Error>> {
        let photo = &mut self.photos[index as usize % PHOTOS.len()];
        let (width, height) = photo.dimensions();
        for y in 0..height {
            photo.put_pixel(index % width, y, Rgb([255, (y % 256) as u8, 0]));
        }
        jpeg(photo)
    }
}

/// The sample photos side by side, again and again, unscaled: with as much detail per pixel, and so as
/// many bytes, as photos have.
pub(crate) fn mosaic(width: u32, height: u32) -> Result<RgbImage, Box<dyn Error>> {
    let mut photos = Vec::new();
    for name in PHOTOS {
        photos.push(sample(name)?);
    }
    let mut mosaic = RgbImage::new(width, height);
    let (mut y, mut turn) = (0, 0);
    while y < height {
        let mut x = 0;
        let mut row_height = u32::MAX;
        while x < width {
            let photo = &photos[turn % photos.len()];
            turn += 1;
            image::imageops::replace(&mut mosaic, photo, x.into(), y.into());
            x += photo.width();
            row_height = row_height.min(photo.height());
        }
        // The next row begins with another photo, and covers what the shortest of this one left black.
        turn += 1;
        y += row_height;
    }
    Ok(mosaic)
}

fn sample(name: &str) -> Result<RgbImage, Box<dyn Error>> {
    Ok(image::open(repository("samples").join(name))?.to_rgb8())
}

/// A photo as a JPEG file of quality 90.
pub(crate) fn jpeg(
    photo: &impl GenericImageView<Pixel = Rgb<u8>>,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(photo)?;
    Ok(bytes)
}

/// Appends a line to `benches/results/BENCH.jsonl`: `numbers`, and the machine and commit they belong to.
pub(crate) fn record(bench: &str, mut numbers: Value) -> Outcome {
    let about = json!({
        "bench": bench,
        "checkpoint": CHECKPOINT,
        "config": CONFIG,
        "cores": std::thread::available_parallelism()?.get(),
        "cpu": cpu(),
        "commit": commit(),
        "load_1_minute": load(),
    });
    for (key, value) in about.as_object().ok_or("no object")? {
        numbers[key] = value.clone();
    }
    let path = repository("benches/results").join(format!("{bench}.jsonl"));
    let mut log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)?;
    writeln!(log, "{numbers}")?;
    Ok(())
}

/// Fails, with what was missed, unless every bar is reached.
pub(crate) fn judge(missed: &[String]) -> Outcome {
    match missed.is_empty() {
        true => Ok(()),
        false => Err(format!("missed: {}", missed.join("; ")).into()),
    }
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split(':').nth(1));
    name.unwrap_or("unknown").trim().to_owned()
}

/// How many threads of all programs wanted a core in the last minute: beyond the bench's own, they
/// make its times longer.
fn load() -> Option<f64> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    load.split_whitespace().next()?.parse().ok()
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    output.map_or(String::new(), |o| {
        String::from_utf8_lossy(&o.stdout).trim().to_owned()
    })
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
