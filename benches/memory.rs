//! Peak memory of a whole job: many 12-megapixel photos through the quick-start checkpoint.
//!
//! ```text
//! cargo bench --bench memory                       200 images, bar 1536 MiB
//! cargo bench --bench memory -- --images 50
//! ```
//!
//! Runs the real binary on JPEGs of 4000 x 3000 pixels and samples its high-water mark from `/proc`
//! (Linux). Appends one line to `benches/results/memory.jsonl`; fails if the bar is missed.

mod support;

use std::fs;

use serde_json::json;

use support::{Enlarged, Outcome, argument, judge, maskmill, record, watch, write_pipeline};

const WIDTH: u32 = 4000;
const HEIGHT: u32 = 3000;
const BAR_MIB: f64 = 1536.0;

fn main() -> Outcome {
    let images: u32 = argument("--images", 200)?;
    let work = tempfile::tempdir()?;
    let source = work.path().join("images");
    fs::create_dir(&source)?;
    eprintln!("making {images} JPEGs of {WIDTH} x {HEIGHT}");
    let mut photos = Enlarged::new(WIDTH, HEIGHT)?;
    for index in 0..images {
        fs::write(source.join(format!("{index:05}.jpg")), photos.jpeg(index)?)?;
    }
    drop(photos);

    let source = format!("kind = \"images\"\npath = {source:?}\nimages_per_shard = 32");
    let pipeline = write_pipeline(work.path(), "memory", &source, "")?;
    let job = watch(&mut maskmill("run", &pipeline, &work.path().join("out")))?;
    let peak_mib = job.peak_mib();
    record(
        "memory",
        json!({
            "images": images,
            "pixels": u64::from(WIDTH) * u64::from(HEIGHT),
            "peak_mib": peak_mib,
            "bar_mib": BAR_MIB,
            "high_water_mib_every_10_s": job.high_water_mib,
            "seconds": job.seconds,
        }),
    )?;
    println!(
        "peak {peak_mib:.0} MiB over {images} images in {:.0} s; the bar is {BAR_MIB} MiB",
        job.seconds
    );
    let missed = (peak_mib > BAR_MIB).then(|| format!("{peak_mib:.0} MiB"));
    judge(missed.as_slice())
}
