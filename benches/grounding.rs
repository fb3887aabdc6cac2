//! What text prompts cost: one phrase against a hundred, and the memory of two large models at once.
//!
//! ```text
//! cargo bench --bench grounding -- --detector DIR --sam FILE      an OWLv2 base and a SAM ViT-B
//! cargo bench --bench grounding                                    the small seeded ones of the tests
//! ```
//!
//! Runs the real binary over photos of samples/, with 16 boxes a photo however many phrases there are, in turn with 1
//! and with 100 phrases. The detector's image side runs once per photo: a hundred phrases may add less than 10 % to a
//! photo's time on the device, which the commit markers tell. Peak memory is read from `/proc` (Linux); its bar is that
//! of OWLv2 base with SAM ViT-B. Appends a line to `benches/results/grounding.jsonl`; fails if a bar is missed.

mod support;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use support::{CHECKPOINT, Outcome, argument, judge, maskmill, median, record, repository, watch};

const PHOTOS: [&str; 3] = ["cat.png", "coffee.png", "dogs.png"];
const BOXES: u32 = 16;
const PHRASES: [usize; 2] = [1, 100];
const BAR_PERCENT: f64 = 10.0;
const BAR_MIB: f64 = 3072.0;

fn main() -> Outcome {
    let rounds: usize = argument("--rounds", 3)?;
    let small = "tests/reference/fixtures/grounding/owlv2-small";
    let detector: PathBuf = argument("--detector", repository(small))?;
    let sam: PathBuf = argument("--sam", repository(CHECKPOINT))?;
    let work = tempfile::tempdir()?;
    let source = work.path().join("images");
    fs::create_dir(&source)?;
    for photo in PHOTOS {
        fs::copy(repository("samples").join(photo), source.join(photo))?;
    }
    let mut seconds: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let mut peak_mib = 0.0_f64;
    for round in 0..rounds {
        for (phrases, seconds) in PHRASES.into_iter().zip(&mut seconds) {
            let name = format!("phrases-{phrases}-{round}");
            let pipeline = pipeline(work.path(), &name, &source, &detector, &sam, phrases)?;
            let out = work.path().join("out");
            let ran = watch(&mut maskmill("run", &pipeline, &out))?;
            peak_mib = peak_mib.max(ran.peak_mib());
            let device = device_seconds(&out.join(&name))? / PHOTOS.len() as f64;
            eprintln!("round {round}, {phrases} phrases: {device:.3} s a photo");
            seconds.push(device);
        }
    }
    let [one, hundred] = seconds.each_ref().map(|seconds| median(seconds));
    let added_percent = 100.0 * (hundred / one - 1.0);
    record(
        "grounding",
        json!({
            "detector": name_of(&detector),
            "sam": name_of(&sam),
            "photos": PHOTOS,
            "boxes": BOXES,
            "seconds_per_photo": { "1": seconds[0], "100": seconds[1] },
            "added_percent": added_percent,
            "bar_percent": BAR_PERCENT,
            "peak_mib": peak_mib,
            "bar_mib": BAR_MIB,
        }),
    )?;
    println!(
        "1 phrase {one:.3} s, 100 phrases {hundred:.3} s a photo: {added_percent:+.1} %, the bar is {BAR_PERCENT} %; \
         peak {peak_mib:.0} MiB, the bar is {BAR_MIB} MiB"
    );
    let mut missed = Vec::new();
    if added_percent >= BAR_PERCENT {
        missed.push(format!("100 phrases add {added_percent:.1} %"));
    }
    if peak_mib > BAR_MIB {
        missed.push(format!("{peak_mib:.0} MiB"));
    }
    judge(&missed)
}

fn pipeline(
    folder: &Path,
    name: &str,
    source: &Path,
    detector: &Path,
    sam: &Path,
    phrases: usize,
) -> Result<PathBuf, Box<dyn Error>> {
    let names: Vec<String> = (0..phrases)
        .map(|n| format!("a photo of thing {n}"))
        .collect();
    let text = format!(
        "name = {name:?}\n[source]\nkind = \"images\"\npath = {source:?}\n\
         [model]\ncheckpoint = {sam:?}\ndetector = {detector:?}\n\
         [prompts]\nmode = \"text\"\nscore_thresh = 0.0\nlabel_nms_thresh = 1.0\nmax_detections = {BOXES}\n\
         [labels]\nnames = {names:?}\n\
         [masks]\npred_iou_thresh = 0.0\nstability_score_thresh = 0.0\n"
    );
    let path = folder.join(format!("{name}.toml"));
    fs::write(&path, text)?;
    Ok(path)
}

/// What the markers of an output say of the device stage.
fn device_seconds(output: &Path) -> Result<f64, Box<dyn Error>> {
    let mut seconds = 0.0;
    for marker in fs::read_dir(output.join("_commits"))? {
        let marker: Value = serde_json::from_slice(&fs::read(marker?.path())?)?;
        let device = &marker["stats"]["stage_seconds"]["device"];
        seconds += device.as_f64().ok_or("a marker has stage times")?;
    }
    Ok(seconds)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
