//! How long the warm device waits for input while a job runs.
//!
//! ```text
//! cargo bench --bench idle                         60 images from disk, from a bucket, and 16 with all points
//! cargo bench --bench idle -- --images 20 --all-points 4
//! ```
//!
//! `maskmill run` with the shipped checkpoint over photos of 0.3 to 12 megapixels, from the local disk and
//! from the loopback S3, which holds every request for 20 ms. With 8 x 8 points an image keeps the device
//! for a shorter time than with the default of 32 x 32, so the stages before it have to be faster. The
//! number is the one `run` prints. Bar: 2 %. Appends a line per run to `benches/results/idle.jsonl`;
//! fails if the bar is missed.

mod support;

use std::error::Error;
use std::fs;
use std::time::Duration;

use maskmill_loopback_s3::{Act, LoopbackS3, Phase};
use serde_json::json;

use support::{Enlarged, Outcome, argument, judge, maskmill, record, watch, write_pipeline};

const BAR_PERCENT: f64 = 2.0;
const LATENCY: Duration = Duration::from_millis(20);
/// Width and height in pixels; a collection has them in turn.
const SIZES: [(u32, u32); 5] = [
    (640, 480),
    (1280, 853),
    (4000, 3000),
    (1024, 1536),
    (3000, 2000),
];

fn main() -> Outcome {
    let images: u32 = argument("--images", 60)?;
    let all_points: u32 = argument("--all-points", 16)?;
    let work = tempfile::tempdir()?;
    let server = LoopbackS3::start();
    server.create_bucket("data");
    eprintln!("making {images} JPEGs");
    make_photos(&work.path().join("many"), images)?;
    make_photos(&work.path().join("few"), all_points)?;
    for folder in ["many", "few"] {
        for photo in fs::read_dir(work.path().join(folder))? {
            let path = photo?.path();
            let name = path.file_name().ok_or("a file has a name")?;
            let key = format!("{folder}/{}", name.display());
            server.put("data", &key, fs::read(&path)?);
        }
    }
    server.hook(|_, phase| match phase {
        Phase::Before => Act::Hold(LATENCY),
        Phase::After => Act::Go,
    });

    let local = work.path().join("many").display().to_string();
    let cases = [
        ("local", local.as_str(), images, 8),
        ("s3", "s3://data/many", images, 8),
        ("s3", "s3://data/few", all_points, 32),
    ];
    let mut missed = Vec::new();
    for (number, (store, path, images, points_per_side)) in cases.into_iter().enumerate() {
        let source = format!("kind = \"images\"\npath = {path:?}");
        let prompts = format!("points_per_side = {points_per_side}");
        let name = format!("idle-{number}");
        let pipeline = write_pipeline(work.path(), &name, &source, &prompts)?;
        let mut command = maskmill("run", &pipeline, &work.path().join("out"));
        let ran = watch(command.envs(server.environment()))?;
        let idle_percent = idle_percent(&ran.stdout)?;
        record(
            "idle",
            json!({
                "source": store,
                "latency_ms": if store == "s3" { LATENCY.as_millis() } else { 0 },
                "images": images,
                "points_per_side": points_per_side,
                "seconds": ran.seconds,
                "cpu_seconds": ran.cpu_seconds,
                "idle_percent": idle_percent,
                "bar_percent": BAR_PERCENT,
                "busy": line(&ran.stdout, "Busy:")?,
            }),
        )?;
        let what = format!(
            "{store}, {images} images, {points_per_side} points a side, {:.0} s: idle {idle_percent} %",
            ran.seconds
        );
        println!("{what}; the bar is {BAR_PERCENT} %");
        if idle_percent >= BAR_PERCENT {
            missed.push(what);
        }
    }
    judge(&missed)
}

fn make_photos(folder: &std::path::Path, count: u32) -> Outcome {
    fs::create_dir(folder)?;
    for (turn, (width, height)) in SIZES.into_iter().enumerate() {
        let mut photos = Enlarged::new(width, height)?;
        for index in (turn as u32..count).step_by(SIZES.len()) {
            fs::write(folder.join(format!("{index:05}.jpg")), photos.jpeg(index)?)?;
        }
    }
    Ok(())
}

fn line<'a>(printed: &'a str, start: &str) -> Result<&'a str, Box<dyn Error>> {
    let line = printed.lines().find(|line| line.starts_with(start));
    line.ok_or_else(|| format!("no line {start:?} in {printed:?}").into())
}

/// Of `...; the warm device waited for images 1.3 % of the time`.
fn idle_percent(printed: &str) -> Result<f64, Box<dyn Error>> {
    let busy = line(printed, "Busy:")?;
    let (_, idle) = busy
        .split_once("waited for images ")
        .ok_or("no idle share was printed")?;
    let (percent, _) = idle
        .split_once(" %")
        .ok_or("the idle share is in percent")?;
    Ok(percent.parse()?)
}
