//! From a decoder's logits to masks, boxes, stability scores and run lengths, against the reference's own functions.
//!
//! ```text
//! cargo bench --bench postprocessing
//! cargo bench --bench postprocessing -- --logits FILE --reference PYTHON --checkpoint FILE
//! ```
//!
//! Scans the masks of 64 points, three each, at a photo of 1500x2250: all of them fully, as if no filter dropped any;
//! on all cores with rayon, as the selector does, and on one. The logits are blobs with rough outlines, or raw
//! little-endian f32 `[masks, 256, 256]` from `--logits`. A run is twenty passes, because the kernel counts CPU time in
//! hundredths of a second; of a pass's seconds the median over the runs is reported.
//!
//! `--reference` names a Python with the packages of `benches/reference/requirements.txt`: PyTorch then does the same,
//! here, with the same logits; `--checkpoint` is any SAM whose model input is 1024x1024, for its sizes. Areas, boxes and
//! stability scores must agree, and the bar is 60 times less CPU time than PyTorch's. Appends a line to
//! `benches/results/postprocessing.jsonl`; fails if the bar is missed.

mod support;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use maskmill_masks::{ImageSize, Scan, ScanOptions, Upscaler};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::json;

use support::{ClockTicks, Outcome, argument, judge, record, repository};

const BAR_RATIO: f64 = 60.0;
const ORIGINAL: ImageSize = ImageSize::new(1500, 2250);
/// The photo, resized for the model.
const INPUT: ImageSize = ImageSize::new(683, 1024);
const MODEL_SIDE: u32 = 1024;
const LOW_RES: ImageSize = ImageSize::new(256, 256);
const MASK_LOGITS: usize = LOW_RES.pixels() as usize;
/// 64 points, three masks each.
const MASKS: usize = 192;
const PASSES: usize = 20;
/// PyTorch fuses multiplications with additions, so a pixel on a threshold may fall on its other side: in one mask at
/// most so many, and at most so far from where the mask's box was.
const PIXELS_APART: u64 = 16;
const BOX_PIXELS_APART: u32 = 1;
const STABILITY_APART: f32 = 1e-4;

fn main() -> Outcome {
    let runs: usize = argument("--runs", 5)?;
    let logits: PathBuf = argument("--logits", PathBuf::new())?;
    let python: PathBuf = argument("--reference", PathBuf::new())?;
    let checkpoint: PathBuf = argument("--checkpoint", PathBuf::new())?;
    let work = tempfile::tempdir()?;
    let built_in = logits.as_os_str().is_empty();
    let logits = if built_in {
        let path = work.path().join("blobs.f32");
        fs::write(&path, rough_blobs())?;
        path
    } else {
        logits
    };
    let masks = read_masks(&logits)?;
    let upscaler = Upscaler::new(LOW_RES, MODEL_SIDE, INPUT, ORIGINAL);
    let scan = |mask: &Vec<f32>| upscaler.scan(mask, ScanOptions::default());

    let parallel = measure(runs, || masks.par_iter().map(scan).collect())?;
    let single = measure(runs, || masks.iter().map(scan).collect())?;
    if parallel.scans != single.scans {
        return Err("threads change masks".into());
    }
    let run_lengths: usize = single.scans.iter().map(|s| s.rle.counts().len()).sum();
    let mut numbers = json!({
        "logits": if built_in { "built in" } else { "file" },
        "masks": masks.len(),
        "original": [ORIGINAL.height, ORIGINAL.width],
        "run_lengths_per_mask": run_lengths / masks.len(),
        "passes": PASSES,
        "threads": rayon::current_num_threads(),
        "parallel_cpu_seconds": parallel.cpu_seconds,
        "parallel_seconds": parallel.seconds,
        "single_cpu_seconds": single.cpu_seconds,
        "single_seconds": single.seconds,
    });
    for (what, measured) in [("all cores", &parallel), ("one core", &single)] {
        let cpu = median(&measured.cpu_seconds);
        println!(
            "{} masks on {what}: {cpu:.4} s of CPU, {:.3} ms a mask; {:.4} s",
            masks.len(),
            1e3 * cpu / masks.len() as f64,
            median(&measured.seconds),
        );
    }
    let mut missed = Vec::new();
    if !python.as_os_str().is_empty() {
        let reference = reference(&python, &checkpoint, &logits, work.path())?;
        let apart = compare(&parallel.scans, &reference.masks, &mut missed);
        let cpu = median(&reference.cpu_seconds);
        let ratio = cpu / median(&parallel.cpu_seconds);
        numbers["reference_cpu_seconds"] = json!(reference.cpu_seconds);
        numbers["reference_seconds"] = json!(reference.seconds);
        numbers["reference_torch"] = json!(reference.torch);
        numbers["ratio"] = json!(ratio);
        numbers["bar_ratio"] = json!(BAR_RATIO);
        numbers["pixels_apart"] = json!(apart.pixels);
        numbers["masks_apart"] = json!(apart.masks);
        println!(
            "PyTorch: {cpu:.2} s of CPU, {ratio:.0} times as much; the bar is {BAR_RATIO}. {} masks differ, by {} \
             pixels of area together",
            apart.masks, apart.pixels
        );
        if ratio < BAR_RATIO {
            missed.push(format!("{ratio:.0} times less CPU time"));
        }
    }
    record("postprocessing", numbers)?;
    judge(&missed)
}

struct Measured {
    scans: Vec<Scan>,
    /// Of a pass, per run.
    cpu_seconds: Vec<f64>,
    seconds: Vec<f64>,
}

/// Times `pass`, which scans all masks.
fn measure(runs: usize, pass: impl Fn() -> Vec<Scan>) -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured {
        scans: pass(), // and warms up
        cpu_seconds: Vec::new(),
        seconds: Vec::new(),
    };
    for _ in 0..runs {
        let cpu = ClockTicks::now()?.of_this_process;
        let start = Instant::now();
        for _ in 0..PASSES {
            std::hint::black_box(pass());
        }
        let seconds = start.elapsed().as_secs_f64();
        let cpu_seconds = ClockTicks::now()?.of_this_process - cpu;
        measured.seconds.push(seconds / PASSES as f64);
        measured.cpu_seconds.push(cpu_seconds / PASSES as f64);
    }
    Ok(measured)
}

/// What `benches/reference/speed.py` measured, and the masks it made.
struct Reference {
    cpu_seconds: Vec<f64>,
    seconds: Vec<f64>,
    torch: String,
    masks: Vec<ReferenceMask>,
}

/// A line that it prints.
#[derive(Deserialize)]
struct ReferenceTimes {
    what: String,
    cpu_seconds: Vec<f64>,
    seconds: Vec<f64>,
    torch: String,
}

/// The file it writes.
#[derive(Deserialize)]
struct ReferenceResults {
    postprocess: ReferenceMasks,
}

#[derive(Deserialize)]
struct ReferenceMasks {
    masks: Vec<ReferenceMask>,
}

#[derive(Deserialize)]
struct ReferenceMask {
    area: u64,
    /// Inclusive corners.
    box_xyxy: [u32; 4],
    /// None for 0 / 0.
    stability_score: Option<f32>,
}

fn reference(
    python: &Path,
    checkpoint: &Path,
    logits: &Path,
    work: &Path,
) -> Result<Reference, Box<dyn Error>> {
    if checkpoint.as_os_str().is_empty() {
        return Err("--reference needs --checkpoint".into());
    }
    let out = work.join("reference.json");
    let threads = std::thread::available_parallelism()?.get();
    let output = Command::new(python)
        .arg(repository("benches/reference/speed.py"))
        .args(["--what", "postprocess", "--threads", &threads.to_string()])
        .args(["--checkpoint".as_ref(), checkpoint.as_os_str()])
        .args(["--logits".as_ref(), logits.as_os_str()])
        .args(["--original", &ORIGINAL.height.to_string()])
        .arg(ORIGINAL.width.to_string())
        .args(["--out".as_ref(), out.as_os_str()])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the reference ended with {}", output.status).into());
    }
    let stdout = String::from_utf8(output.stdout)?;
    let line = stdout.lines().last().ok_or("the reference says nothing")?;
    let times: ReferenceTimes = serde_json::from_str(line)?;
    if times.what != "postprocess" {
        return Err(format!("the reference measured {:?}", times.what).into());
    }
    let results: ReferenceResults = serde_json::from_slice(&fs::read(out)?)?;
    Ok(Reference {
        cpu_seconds: times.cpu_seconds,
        seconds: times.seconds,
        torch: times.torch,
        masks: results.postprocess.masks,
    })
}

/// How far our masks are from the reference's.
#[derive(Default)]
struct Apart {
    masks: usize,
    /// Of area, of all masks together.
    pixels: u64,
}

fn compare(scans: &[Scan], reference: &[ReferenceMask], missed: &mut Vec<String>) -> Apart {
    let mut apart = Apart::default();
    if scans.len() != reference.len() {
        missed.push(format!("the reference has {} masks", reference.len()));
    }
    for (index, (scan, theirs)) in scans.iter().zip(reference).enumerate() {
        let pixels = scan.area.abs_diff(theirs.area);
        let ours = scan.bounds.sa_xyxy();
        let corners = ours.iter().zip(theirs.box_xyxy);
        let box_apart = corners.map(|(&a, b)| a.abs_diff(b)).max().unwrap_or(0);
        let stability = scan.stability_score();
        let stability_apart = match theirs.stability_score {
            Some(score) => (stability - score).abs(),
            None if stability.is_nan() => 0.0,
            None => f32::INFINITY,
        };
        let agree = pixels <= PIXELS_APART
            && box_apart <= BOX_PIXELS_APART
            && stability_apart <= STABILITY_APART;
        if !agree {
            missed.push(format!(
                "mask {index}: {pixels} pixels of area, {box_apart} of its box and {stability_apart} of its \
                 stability from the reference's"
            ));
        }
        apart.pixels += pixels;
        apart.masks += usize::from(pixels > 0 || box_apart > 0 || stability_apart > 0.0);
    }
    apart
}

/// `[masks, 256, 256]`.
fn read_masks(path: &Path) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let bytes = fs::read(path)?;
    let (logits, rest) = bytes.as_chunks::<4>();
    if logits.is_empty() || !rest.is_empty() || logits.len() % MASK_LOGITS != 0 {
        let name = path.display();
        return Err(format!("{name} does not hold f32 masks of {LOW_RES}").into());
    }
    let masks = logits.chunks(MASK_LOGITS).map(|mask| {
        let logits = mask.iter().map(|&bytes| f32::from_le_bytes(bytes));
        logits.collect()
    });
    Ok(masks.collect())
}

/// Logits as a decoder makes them, little-endian: up to three ellipses a mask, steep at the outline and flat far from it,
/// with noise that roughens the outline and leaves islands and holes along it.
fn rough_blobs() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(192);
    let mut bytes = Vec::with_capacity(MASKS * MASK_LOGITS * 4);
    for _ in 0..MASKS {
        let side = LOW_RES.width as f32;
        let count = random.usize(1..=3);
        let ellipses: Vec<[f32; 4]> = std::iter::repeat_with(|| {
            let (x, y) = (random.f32() * side, random.f32() * side);
            [x, y, 4.0 + random.f32() * 50.0, 0.5 + random.f32()]
        })
        .take(count)
        .collect();
        for index in 0..MASK_LOGITS {
            let (x, y) = (
                (index % LOW_RES.width as usize) as f32,
                (index / LOW_RES.width as usize) as f32,
            );
            let depth = |[cx, cy, radius, aspect]: &[f32; 4]| {
                radius - ((x - cx).powi(2) + ((y - cy) * aspect).powi(2)).sqrt()
            };
            let depth = ellipses.iter().map(depth).fold(f32::MIN, f32::max);
            let logit = (2.0 * depth).clamp(-18.0, 12.0) + 5.0 * (random.f32() - 0.5);
            bytes.extend(logit.to_le_bytes());
        }
    }
    bytes
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
