//! Where the time of automatic masks goes, and how it compares with PyTorch on the same cores in the same run.
//!
//! ```text
//! cargo bench --bench speed                                           the shipped checkpoint
//! cargo bench --bench speed -- --sam FILE                             another, in f32, high and bf16
//! cargo bench --bench speed -- --sam FILE --reference PYTHON          beside PyTorch: a quarter of an hour for a ViT-B
//!     --runs 5            timed runs of each measurement
//!     --only LIST         of gemm, encoder, decoder, automatic, threads, precision, job
//!     --pred-iou-thresh, --stability-score-thresh     of the masks that precisions are compared by: 0.5 and 0.8 suit sam-nano
//! ```
//!
//! `--reference` names a Python with the packages of `benches/reference/requirements.txt`. Each measurement's baseline
//! runs right beside it; medians of the runs are compared. Masks must be the reference's: as many, each of IoU 0.999 with
//! its own; precision "high" stands beside PyTorch's f32 and is held to its masks. Appends a line with all numbers to `benches/results/speed.jsonl`; fails if a bar is missed.

mod support;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use image::imageops::FilterType;
use maskmill_kernels::profile::{self, Part, PartProfile};
use maskmill_kernels::{Level, LinearWeights, PackedLinear};
use maskmill_masks::Rle;
use maskmill_pixels::RgbImage;
use maskmill_sam::{
    AutomaticOptions, DeviceName, GeneratedMask, MaskFilters, MaskOutput, ModelInput, PointPrompt,
    Precision, Predictor, PreparedImage, Prompt, Sam, generate,
};
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};

use support::{
    ClockTicks, Outcome, argument, judge, maskmill, median, record, repository, watch,
    write_pipeline,
};

/// Points that the decoder is given at once.
const POINTS: u32 = 64;
/// Height and width of the photos.
const PHOTOS: [[u32; 2]; 2] = [[512, 512], [1500, 2250]];
/// Products of a ViT-B's encoder: rows, inputs, outputs.
const PRODUCTS: [[usize; 3]; 4] = [
    [4096, 768, 3072],
    [4096, 3072, 768],
    [4096, 768, 2304],
    [4096, 768, 768],
];
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::High, Precision::Bf16];
/// Sample photos for the comparison of precisions.
const SAMPLES: [&str; 4] = ["cat.png", "coffee.png", "fig.png", "china.jpg"];

/// The bars, as ratios to PyTorch where not said otherwise.
mod bar {
    pub(super) const ENCODER_F32: f64 = 1.4;
    pub(super) const ENCODER_BF16: f64 = 2.5;
    pub(super) const DECODER_F32: f64 = 6.0;
    pub(super) const AUTOMATIC: f64 = 8.0;
    pub(super) const SAME_MASK_IOU: f64 = 0.999;
    /// Of the peak of products measured in the same run.
    pub(super) const PRODUCTS_F32: f64 = 0.85;
    /// Of oneDNN's.
    pub(super) const PRODUCTS_BF16: f64 = 0.6;
    pub(super) const BEST_IOU_BF16: f64 = 0.97;
    /// Two threads against one.
    pub(super) const THREADS: f64 = 1.8;
    pub(super) const PEAK_MIB: f64 = 1536.0;
}

fn main() -> Outcome {
    let bench = Bench::new()?;
    let mut results = json!({
        "sam": bench.sam.file_name().map(|name| name.to_string_lossy()),
        "level": Level::choose()?.to_string(),
        "runs": bench.runs,
    });
    let mut missed = Vec::new();
    type Measure = fn(&Bench, &mut Vec<String>) -> Result<Value, Box<dyn Error>>;
    let measurements: [(&str, Measure); 7] = [
        ("gemm", gemm),
        ("encoder", encoder),
        ("decoder", decoder),
        ("automatic", automatic),
        ("threads", threads),
        ("precision", precision),
        ("job", job),
    ];
    for (name, measure) in measurements {
        if bench.only.is_empty() || bench.only.iter().any(|only| only == name) {
            println!("{name}");
            match measure(&bench, &mut missed) {
                Ok(measured) => results[name] = measured,
                // What was measured before it took minutes: it is kept.
                Err(error) => {
                    record("speed", results)?;
                    return Err(error);
                }
            }
        }
    }
    record("speed", results)?;
    judge(&missed)
}

struct Bench {
    sam: PathBuf,
    python: Option<PathBuf>,
    runs: usize,
    only: Vec<String>,
    filters: MaskFilters,
    threads: usize,
    work: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self, Box<dyn Error>> {
        let python: PathBuf = argument("--reference", PathBuf::new())?;
        let filters = MaskFilters::default();
        let only: String = argument("--only", String::new())?;
        Ok(Self {
            sam: argument("--sam", repository(support::CHECKPOINT))?,
            python: (!python.as_os_str().is_empty()).then_some(python),
            runs: argument("--runs", 5)?,
            only: only
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            filters: MaskFilters {
                pred_iou_thresh: argument("--pred-iou-thresh", filters.pred_iou_thresh)?,
                stability_score_thresh: argument(
                    "--stability-score-thresh",
                    filters.stability_score_thresh,
                )?,
                ..filters
            },
            threads: std::thread::available_parallelism()?.get(),
            work: tempfile::tempdir()?,
        })
    }

    fn load(&self, precision: Precision) -> Result<Sam, Box<dyn Error>> {
        Ok(Sam::load(&self.sam, &DeviceName::Cpu.open()?, precision)?)
    }

    /// A sample photo of a size, and its file.
    fn photo(&self, [height, width]: [u32; 2]) -> Result<(RgbImage, PathBuf), Box<dyn Error>> {
        let photo = image::open(repository("samples/coffee.png"))?.to_rgb8();
        let photo = image::imageops::resize(&photo, width, height, FilterType::Triangle);
        let path = self.work.path().join(format!("{height}x{width}.png"));
        photo.save(&path)?;
        Ok((pixels(photo)?, path))
    }

    /// Lines that PyTorch's script prints for a measurement; none without `--reference`.
    fn reference(&self, arguments: &[&str]) -> Result<Vec<Value>, Box<dyn Error>> {
        let Some(python) = &self.python else {
            return Ok(Vec::new());
        };
        let output = Command::new(python)
            .arg(repository("benches/reference/speed.py"))
            .args(["--threads", &self.threads.to_string()])
            .args(["--runs", &self.runs.to_string()])
            .arg("--checkpoint")
            .arg(&self.sam)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(format!("PyTorch's {arguments:?} ended with {}", output.status).into());
        }
        let lines = std::str::from_utf8(&output.stdout)?.lines();
        Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

fn pixels(photo: image::RgbImage) -> Result<RgbImage, Box<dyn Error>> {
    let size = maskmill_masks::ImageSize::new(photo.height(), photo.width());
    Ok(RgbImage::new(size, photo.into_raw())?)
}

/// Seconds and CPU seconds of runs, after one to warm up.
struct Times {
    seconds: Vec<f64>,
    cpu_seconds: f64,
}

impl Times {
    fn of<T>(runs: usize, mut work: impl FnMut() -> T) -> Result<Self, Box<dyn Error>> {
        work();
        let before = ClockTicks::now()?.of_this_process;
        let seconds: Vec<f64> = (0..runs)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64()
            })
            .collect();
        let cpu_seconds = (ClockTicks::now()?.of_this_process - before) / runs as f64;
        Ok(Self {
            seconds,
            cpu_seconds,
        })
    }

    fn median(&self) -> f64 {
        median(&self.seconds)
    }

    fn json(&self) -> Value {
        json!({ "seconds": self.seconds, "median": self.median(), "cpu_seconds": self.cpu_seconds })
    }
}

/// The median of the `seconds` that a line of PyTorch's has.
fn reference_median(line: &Value) -> Option<f64> {
    let seconds: Vec<f64> = line["seconds"]
        .as_array()?
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    (!seconds.is_empty()).then(|| median(&seconds))
}

/// The fastest line of a precision, with its variant and median.
fn fastest<'v>(lines: &'v [Value], precision: &str) -> Option<(&'v str, f64)> {
    let lines = lines.iter().filter(|line| line["precision"] == precision);
    let medians =
        lines.filter_map(|line| Some((line["variant"].as_str()?, reference_median(line)?)));
    medians.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Notes a bar that was not reached.
fn expect(missed: &mut Vec<String>, what: &str, value: f64, at_least: f64) {
    let reached = value >= at_least;
    println!(
        "    {what}: {value:.3} (bar {at_least}){}",
        if reached { "" } else { "  MISSED" }
    );
    if !reached {
        missed.push(format!("{what} {value:.3}, not {at_least}"));
    }
}

/// Matrix products by themselves: the peak that layers are measured by.
fn peak(precision: Precision, runs: usize) -> Result<Vec<Value>, Box<dyn Error>> {
    let level = Level::choose()?;
    let mut results = Vec::new();
    for [rows, inputs, outputs] in PRODUCTS {
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5;
        let weight: Vec<f32> = (0..inputs * outputs).map(value).collect();
        let x: Vec<f32> = (0..rows * inputs).map(value).collect();
        let mut y = vec![0.0; rows * outputs];
        let bias = vec![0.0; outputs];
        let weights = LinearWeights {
            weight: &weight,
            bias: &bias,
        };
        let layer = PackedLinear::new(weights, level, precision);
        let times = Times::of(runs.max(5), || layer.forward(&x, &mut y))?;
        let best = times.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let gflops = 2.0 * (rows * inputs * outputs) as f64 / best * 1e-9;
        results.push(json!({ "shape": [rows, inputs, outputs], "gflops": gflops }));
    }
    Ok(results)
}

/// Which of PyTorch's numbers a precision stands beside.
fn beside(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 | Precision::High => "f32",
        Precision::Bf16 => "bf16",
    }
}

fn best_gflops(results: &[Value]) -> f64 {
    let gflops = results
        .iter()
        .filter_map(|result| result["gflops"].as_f64());
    gflops.fold(0.0, f64::max)
}

fn gemm(bench: &Bench, missed: &mut Vec<String>) -> Result<Value, Box<dyn Error>> {
    let lines = bench.reference(&["--what", "gemm"])?;
    let mut results = json!({ "reference": lines });
    for precision in PRECISIONS {
        let ours = peak(precision, bench.runs)?;
        for (result, shape) in ours.iter().zip(PRODUCTS) {
            let gflops = result["gflops"].as_f64().unwrap_or_default();
            let theirs = lines
                .iter()
                .filter(|line| {
                    line["precision"] == beside(precision) && line["shape"] == json!(shape)
                })
                .filter_map(|line| line["gflops"].as_array())
                .flatten()
                .filter_map(Value::as_f64)
                .fold(0.0, f64::max);
            println!("    {precision} {shape:?}: {gflops:.0} GFLOP/s, oneDNN {theirs:.0}");
            if precision == Precision::Bf16 && theirs > 0.0 {
                expect(
                    missed,
                    "bf16 product against oneDNN",
                    gflops / theirs,
                    bar::PRODUCTS_BF16,
                );
            }
        }
        results[precision.to_string()] = json!(ours);
    }
    Ok(results)
}

/// A profile as JSON, with each part's share of the peak.
fn parts(profile: &[PartProfile], runs: usize, threads: usize, peak: f64) -> Vec<Value> {
    let worked = profile.iter().filter(|part| part.busy_seconds > 0.0);
    worked
        .map(|part| {
            let seconds = part.busy_seconds / runs as f64;
            // Of all threads together.
            let gflops = part.flops / part.busy_seconds * 1e-9 * threads as f64;
            let share = gflops / peak;
            println!(
                "    {:?}: {seconds:.3} busy s, {gflops:.0} GFLOP/s ({:.0} % of the peak), {:.2} GB",
                part.part,
                share * 100.0,
                part.bytes / runs as f64 * 1e-9
            );
            json!({
                "part": format!("{:?}", part.part),
                "busy_seconds": seconds,
                "gflop": part.flops / runs as f64 * 1e-9,
                "gflops": gflops,
                "of_peak": share,
                "gigabytes": part.bytes / runs as f64 * 1e-9,
            })
        })
        .collect()
}

fn encoder(bench: &Bench, missed: &mut Vec<String>) -> Result<Value, Box<dyn Error>> {
    let (photo, _) = bench.photo(PHOTOS[1])?;
    let variants = ["f32/eager", "bf16/autocast", "bf16/sdpa"];
    let lines = bench.reference(&[&["--what", "encoder", "--variants"][..], &variants].concat())?;
    let mut results = json!({ "reference": lines });
    for (precision, bar) in [
        (Precision::F32, bar::ENCODER_F32),
        (Precision::High, bar::ENCODER_F32),
        (Precision::Bf16, bar::ENCODER_BF16),
    ] {
        let sam = bench.load(precision)?;
        let input = ModelInput::new(&photo, sam.architecture().image_size);
        let times = Times::of(bench.runs, || sam.encode(&input))?;
        println!(
            "  {precision}: {:.3} s, {:.3} CPU s",
            times.median(),
            times.cpu_seconds
        );
        let products = peak(precision, bench.runs)?;
        profile::start();
        for _ in 0..bench.runs {
            sam.encode(&input);
        }
        let profile = profile::stop();
        let peak = best_gflops(&products);
        let parts = parts(&profile, bench.runs, bench.threads, peak);
        if precision == Precision::F32 {
            // Layers that are products: queries, keys, values, projection and MLP.
            let bound: Vec<_> = profile
                .iter()
                .filter(|p| matches!(p.part, Part::Projection | Part::Mlp))
                .collect();
            let flops: f64 = bound.iter().map(|part| part.flops).sum();
            let busy: f64 = bound.iter().map(|part| part.busy_seconds).sum();
            let share = flops / busy * 1e-9 * bench.threads as f64 / peak;
            expect(
                missed,
                "encoder's products against the peak",
                share,
                bar::PRODUCTS_F32,
            );
        }
        results[precision.to_string()] =
            json!({ "times": times.json(), "parts": parts, "peak_gflops": peak });
        if let Some((variant, theirs)) = fastest(&lines, beside(precision)) {
            let what = format!("encoder {precision} against PyTorch {variant} ({theirs:.3} s)");
            expect(missed, &what, theirs / times.median(), bar);
        }
    }
    Ok(results)
}

fn decoder(bench: &Bench, missed: &mut Vec<String>) -> Result<Value, Box<dyn Error>> {
    let (photo, _) = bench.photo(PHOTOS[1])?;
    let variants = ["f32/eager", "bf16/autocast"];
    let lines = bench.reference(&[&["--what", "decoder", "--variants"][..], &variants].concat())?;
    let mut results = json!({ "reference": lines });
    for precision in PRECISIONS {
        let sam = bench.load(precision)?;
        let mut predictor = Predictor::new(&sam);
        predictor.set_image(&photo);
        let [height, width] = PHOTOS[1].map(f64::from);
        let prompts: Vec<Prompt> = (0..POINTS)
            .map(|i| Prompt {
                points: vec![PointPrompt {
                    xy_px: [
                        (f64::from(i % 8) + 0.5) / 8.0 * width,
                        (f64::from(i / 8) + 0.5) / 8.0 * height,
                    ],
                    foreground: true,
                }],
                ..Prompt::default()
            })
            .collect();
        let decode = || predictor.predict(&prompts, MaskOutput::Multi);
        decode()?;
        let times = Times::of(bench.runs, decode)?;
        println!(
            "  {precision}: {:.3} s, {:.3} CPU s",
            times.median(),
            times.cpu_seconds
        );
        let products = best_gflops(&peak(precision, bench.runs)?);
        profile::start();
        for _ in 0..bench.runs {
            decode()?;
        }
        let parts = parts(&profile::stop(), bench.runs, bench.threads, products);
        results[precision.to_string()] = json!({ "times": times.json(), "parts": parts });
        if let Some((variant, theirs)) = fastest(&lines, beside(precision)) {
            let ratio = theirs / times.median();
            let what = format!("decoder {precision} against PyTorch {variant} ({theirs:.3} s)");
            match precision {
                Precision::F32 | Precision::High => {
                    expect(missed, &what, ratio, bar::DECODER_F32);
                }
                Precision::Bf16 => println!("    {what}: {ratio:.3}"),
            }
        }
    }
    Ok(results)
}

/// Whole automatic generation, 32 x 32 points.
fn automatic(bench: &Bench, missed: &mut Vec<String>) -> Result<Value, Box<dyn Error>> {
    let mut results = Vec::new();
    for size in PHOTOS {
        let (photo, path) = bench.photo(size)?;
        let out = bench.work.path().join("reference.json");
        let mut lines = Vec::new();
        for precision in PRECISIONS {
            let sam = bench.load(precision)?;
            let options = AutomaticOptions::default();
            let mut masks = Vec::new();
            let times = Times::of(bench.runs, || masks = generate(&sam, &options, 256, &photo))?;
            println!(
                "  {size:?} {precision}: {:.3} s, {:.3} CPU s, {} masks",
                times.median(),
                times.cpu_seconds,
                masks.len()
            );
            let resized = Instant::now();
            drop(PreparedImage::new(
                &photo,
                &options,
                sam.architecture().image_size,
            ));
            let resize = resized.elapsed().as_secs_f64();
            profile::start();
            generate(&sam, &options, 256, &photo);
            let parts = parts(&profile::stop(), 1, bench.threads, f64::INFINITY);
            let image = path.to_string_lossy();
            let file = out.to_string_lossy();
            let mut arguments = vec!["--what", "automatic", "--image", &image, "--out", &file];
            match precision {
                // One run of minutes; the first is not slower than those after it.
                Precision::F32 => arguments.extend(["--runs", "1", "--warm-ups", "0"]),
                // Beside the run before.
                Precision::High => arguments.clear(),
                Precision::Bf16 => {
                    arguments.extend(["--best", "--runs", "2"]);
                }
            }
            if !arguments.is_empty() {
                lines = bench.reference(&arguments)?;
            }
            let mut result = json!({
                "size": size,
                "precision": precision.to_string(),
                "times": times.json(),
                "masks": masks.len(),
                "resize_seconds": resize,
                "parts": parts,
                "reference": lines,
            });
            if let Some((variant, theirs)) = fastest(&lines, beside(precision)) {
                let what = format!(
                    "automatic {size:?} {precision} against PyTorch {variant} ({theirs:.1} s)"
                );
                expect(missed, &what, theirs / times.median(), bar::AUTOMATIC);
                let (count, worst, mean) = compare(&masks, &out)?;
                println!("    PyTorch's masks: {count}, worst IoU {worst:.4}, mean {mean:.4}");
                result["reference_masks"] =
                    json!({ "count": count, "worst_iou": worst, "mean_iou": mean });
                if precision != Precision::Bf16 {
                    if count != masks.len() {
                        missed.push(format!(
                            "{size:?}: {} masks, PyTorch has {count}",
                            masks.len()
                        ));
                    }
                    expect(
                        missed,
                        "worst IoU with PyTorch's masks",
                        worst,
                        bar::SAME_MASK_IOU,
                    );
                }
            }
            results.push(result);
        }
    }
    Ok(json!(results))
}

/// How many masks PyTorch found, and the worst and mean IoU of ours with the best of them.
fn compare(masks: &[GeneratedMask], path: &Path) -> Result<(usize, f64, f64), Box<dyn Error>> {
    let found: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let found = found["automatic"]["masks"]
        .as_array()
        .ok_or("no masks in PyTorch's file")?;
    let mut theirs = Vec::new();
    for mask in found {
        let size = &mask["segmentation"]["size"];
        let [height, width] = [&size[0], &size[1]].map(|v| v.as_u64().unwrap_or(0) as u32);
        let counts = mask["segmentation"]["counts"].as_str().ok_or("no counts")?;
        let size = maskmill_masks::ImageSize::new(height, width);
        theirs.push(Rle::from_coco_string(size, counts)?);
    }
    let ious = best_ious(
        &masks.iter().map(|mask| &mask.rle).collect::<Vec<_>>(),
        &theirs,
    )?;
    let worst = ious.iter().copied().fold(1.0, f64::min);
    Ok((
        theirs.len(),
        worst,
        ious.iter().sum::<f64>() / ious.len().max(1) as f64,
    ))
}

/// Of each mask the IoU with the one of `others` that it is most like.
fn best_ious(masks: &[&Rle], others: &[Rle]) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut ious = Vec::new();
    for mask in masks {
        let mut best = 0.0_f64;
        for other in others {
            best = best.max(mask.iou(other)?);
        }
        ious.push(best);
    }
    Ok(ious)
}

/// The same work on one thread and on two.
fn threads(bench: &Bench, missed: &mut Vec<String>) -> Result<Value, Box<dyn Error>> {
    let (photo, _) = bench.photo(PHOTOS[0])?;
    let mut results = json!({});
    for precision in PRECISIONS {
        let sam = bench.load(precision)?;
        let options = AutomaticOptions::default();
        let on = |threads: usize| -> Result<f64, Box<dyn Error>> {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
            let times = Times::of(bench.runs, || {
                pool.install(|| generate(&sam, &options, 256, &photo))
            })?;
            Ok(times.median())
        };
        let (one, two) = (on(1)?, on(2)?);
        let what = format!("{precision} on two threads ({two:.3} s) against one ({one:.3} s)");
        expect(missed, &what, one / two, bar::THREADS);
        results[precision.to_string()] = json!({ "one": one, "two": two });
    }
    Ok(results)
}

/// The other precisions against f32 on sample photos.
fn precision(bench: &Bench, missed: &mut Vec<String>) -> Result<Value, Box<dyn Error>> {
    let exact = bench.load(Precision::F32)?;
    let others = [Precision::High, Precision::Bf16];
    let rounded = others.map(|precision| bench.load(precision));
    let options = AutomaticOptions {
        filters: bench.filters.clone(),
        ..AutomaticOptions::default()
    };
    let mut all = others.map(|_| Vec::new());
    let mut photos = Vec::new();
    for name in SAMPLES {
        let photo = pixels(image::open(repository("samples").join(name))?.to_rgb8())?;
        let exact = generate(&exact, &options, 256, &photo);
        let exact: Vec<&Rle> = exact.iter().map(|mask| &mask.rle).collect();
        let mut result = json!({ "photo": name, "f32": exact.len() });
        for ((precision, sam), all) in others.iter().zip(&rounded).zip(&mut all) {
            let sam = sam.as_ref().map_err(ToString::to_string)?;
            let masks = generate(sam, &options, 256, &photo);
            let rles: Vec<Rle> = masks.into_iter().map(|mask| mask.rle).collect();
            let ious = best_ious(&exact, &rles)?;
            let mean = ious.iter().sum::<f64>() / ious.len().max(1) as f64;
            println!(
                "  {name}: {} masks in f32, {} in {precision}, mean best IoU {mean:.4}",
                exact.len(),
                rles.len()
            );
            result[precision.to_string()] = json!({ "masks": rles.len(), "mean_best_iou": mean });
            all.extend(ious);
        }
        photos.push(result);
    }
    if all[0].is_empty() {
        return Err(
            "no masks to compare: lower --pred-iou-thresh and --stability-score-thresh".into(),
        );
    }
    let means = all.map(|ious| ious.iter().sum::<f64>() / ious.len().max(1) as f64);
    for ((precision, mean), bar) in others
        .iter()
        .zip(means)
        .zip([bar::SAME_MASK_IOU, bar::BEST_IOU_BF16])
    {
        expect(missed, &format!("mean best IoU of {precision}"), mean, bar);
    }
    Ok(json!({ "photos": photos, "high": means[0], "bf16": means[1] }))
}

/// The whole job: memory, and how busy the cores are.
fn job(bench: &Bench, missed: &mut Vec<String>) -> Result<Value, Box<dyn Error>> {
    let folder = bench.work.path().join("images");
    std::fs::create_dir_all(&folder)?;
    let [height, width] = PHOTOS[1];
    let mut enlarged = support::Enlarged::new(width, height)?;
    let images = 6;
    for index in 0..images {
        std::fs::write(folder.join(format!("{index}.jpg")), enlarged.jpeg(index)?)?;
    }
    let mut results = json!({});
    for precision in PRECISIONS {
        let source = format!("kind = \"images\"\npath = {folder:?}");
        let name = format!("job-{precision}");
        let pipeline = write_pipeline(bench.work.path(), &name, &source, "")?;
        let out = bench.work.path().join(format!("out-{precision}"));
        let mut command = maskmill("run", &pipeline, &out);
        command
            .arg("--set")
            .arg(format!("model.checkpoint={}", bench.sam.display()));
        command
            .arg("--set")
            .arg(format!("model.precision={precision}"));
        let watched = watch(&mut command)?;
        let busy = watched.cpu_seconds / watched.seconds / bench.threads as f64;
        println!(
            "  {precision}: {images} images in {:.1} s, cores busy {:.0} %, {:.0} MiB at the peak",
            watched.seconds,
            busy * 100.0,
            watched.peak_mib()
        );
        let within = bar::PEAK_MIB / watched.peak_mib();
        expect(
            missed,
            &format!("job {precision}: 1.5 GiB over the peak"),
            within,
            1.0,
        );
        results[precision.to_string()] = json!({
            "stage_seconds": stage_seconds(&out.join(&name))?,
            "images": images,
            "seconds": watched.seconds,
            "cpu_seconds": watched.cpu_seconds,
            "cores_busy": busy,
            "peak_mib": watched.peak_mib(),
        });
    }
    Ok(results)
}

/// Seconds of each stage of a job, as its markers have them.
fn stage_seconds(out: &Path) -> Result<Value, Box<dyn Error>> {
    let mut total = std::collections::BTreeMap::<String, f64>::new();
    for marker in std::fs::read_dir(out.join("_commits"))? {
        let marker: Value = serde_json::from_slice(&std::fs::read(marker?.path())?)?;
        let stages = marker["stats"]["stage_seconds"]
            .as_object()
            .ok_or("a marker has stages")?;
        for (stage, seconds) in stages {
            *total.entry(stage.clone()).or_default() += seconds.as_f64().unwrap_or_default();
        }
    }
    println!("    {total:.2?}");
    Ok(json!(total))
}
