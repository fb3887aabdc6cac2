//! Peak memory of a whole job: many 12-megapixel photos through the quick-start checkpoint.
//!
//! ```text
//! cargo bench --bench memory                       200 images, bar 1536 MiB
//! cargo bench --bench memory -- --images 50
//! ```
//!
//! Runs the real binary on JPEGs of 4000 x 3000 pixels and samples its high-water mark from `/proc`
//! (Linux). Appends one line to `benches/results/memory.jsonl`; fails if the bar is missed.

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use serde_json::json;

const WIDTH: u32 = 4000;
const HEIGHT: u32 = 3000;
const BAR_MIB: u64 = 1536;
const PHOTOS: [&str; 4] = ["cat.png", "coffee.png", "fig.png", "china.jpg"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let images = match arguments.iter().position(|argument| argument == "--images") {
        Some(at) => arguments
            .get(at + 1)
            .ok_or("--images needs a number")?
            .parse()?,
        None => 200_u32,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let work = tempfile::tempdir()?;
    let source = work.path().join("images");
    fs::create_dir(&source)?;
    eprintln!("making {images} JPEGs of {WIDTH} x {HEIGHT}");
    make_photos(root, &source, images)?;

    let pipeline = work.path().join("memory.toml");
    let checkpoint = root.join("models/sam-seeded-tiny.safetensors");
    fs::write(
        &pipeline,
        format!(
            "name = \"memory\"\n[source]\nkind = \"images\"\npath = {source:?}\nimages_per_shard = 32\n\
             [model]\ncheckpoint = {checkpoint:?}\n[prompts]\nmode = \"automatic\"\n"
        ),
    )?;
    let out = work.path().join("out");
    let start = Instant::now();
    let mut job = Command::new(env!("CARGO_BIN_EXE_maskmill"))
        .arg("run")
        .arg(&pipeline)
        .arg("--config")
        .arg(root.join("configs/local.toml"))
        .arg("--set")
        .arg(format!("output.root={}", out.display()))
        .stdout(Stdio::null())
        .spawn()?;
    let mut peak_kib = 0;
    let mut samples = Vec::new();
    let status = loop {
        if let Some(kib) = high_water_kib(job.id()) {
            peak_kib = kib;
        }
        if samples.len() < start.elapsed().as_secs() as usize / 10 {
            samples.push(peak_kib / 1024);
        }
        if let Some(status) = job.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        return Err(format!("the job ended with {status}").into());
    }
    let seconds = start.elapsed().as_secs_f64();
    let peak_mib = peak_kib / 1024;
    let result = json!({
        "bench": "memory",
        "images": images,
        "pixels": u64::from(WIDTH) * u64::from(HEIGHT),
        "checkpoint": "models/sam-seeded-tiny.safetensors",
        "config": "configs/local.toml",
        "peak_mib": peak_mib,
        "bar_mib": BAR_MIB,
        "high_water_mib_every_10_s": samples,
        "seconds": seconds,
        "cores": std::thread::available_parallelism()?.get(),
        "cpu": cpu(),
        "commit": commit(root),
    });
    let path = root.join("benches/results/memory.jsonl");
    let mut log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)?;
    writeln!(log, "{result}")?;
    println!(
        "peak {peak_mib} MiB over {images} images in {seconds:.0} s; the bar is {BAR_MIB} MiB"
    );
    match peak_mib <= BAR_MIB {
        true => Ok(()),
        false => Err("the bar is missed".into()),
    }
}

/// Enlarged sample photos, shifted so that no two files are equal.
fn make_photos(root: &Path, folder: &Path, count: u32) -> Result<(), Box<dyn Error>> {
    let mut photos = Vec::new();
    for name in PHOTOS {
        let photo = image::open(root.join("samples").join(name))?.to_rgb8();
        photos.push(image::imageops::resize(
            &photo,
            WIDTH,
            HEIGHT,
            FilterType::Triangle,
        ));
    }
    for index in 0..count {
        let photo = &mut photos[index as usize % PHOTOS.len()];
        // A stripe whose place is the file's number.
        for y in 0..HEIGHT {
            photo.put_pixel(index % WIDTH, y, image::Rgb([255, (y % 256) as u8, 0]));
        }
        let file = BufWriter::new(fs::File::create(folder.join(format!("{index:05}.jpg")))?);
        JpegEncoder::new_with_quality(file, 90).encode_image(&*photo)?;
    }
    Ok(())
}

/// `VmHWM` of a process, in KiB; `None` once it has ended.
fn high_water_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split(':').nth(1));
    name.unwrap_or("unknown").trim().to_owned()
}

fn commit(root: &Path) -> String {
    let output = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .current_dir(root)
        .output();
    output.map_or(String::new(), |o| {
        String::from_utf8_lossy(&o.stdout).trim().to_owned()
    })
}
