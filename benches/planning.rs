//! Time and memory of planning: manifests of a million images, and a bucket of many objects.
//!
//! ```text
//! cargo bench --bench planning                     1,000,000 images; 1,000 and 100,000 objects
//! cargo bench --bench planning -- --images 100000 --objects 10000
//! ```
//!
//! `maskmill plan` and `plan --write` over one manifest in Parquet, CSV and JSON lines, each below 10 s
//! and 500 MB; then `plan` over a prefix of the loopback S3, whose memory may grow by at most 1 KiB an
//! object. The clock is the child's whole life; making the manifests and objects is not counted. Appends
//! a line per run to `benches/results/planning.jsonl`; fails if a bar is missed.

mod support;

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use maskmill_loopback_s3::LoopbackS3;
use parquet::arrow::ArrowWriter;
use serde_json::json;

use support::{Outcome, Watched, argument, judge, maskmill, record, watch, write_pipeline};

const BAR_SECONDS: f64 = 10.0;
const BAR_MB: f64 = 500.0;
const BAR_BYTES_PER_OBJECT: f64 = 1024.0;

fn main() -> Outcome {
    let images: usize = argument("--images", 1_000_000)?;
    let objects: usize = argument("--objects", 100_000)?;
    let work = tempfile::tempdir()?;
    let mut missed = Vec::new();
    eprintln!("making manifests of {images} images");
    for format in ["parquet", "csv", "jsonl"] {
        let path = work.path().join(format!("manifest.{format}"));
        match format {
            "parquet" => write_parquet(&path, images)?,
            "csv" => write_csv(&path, images)?,
            _ => write_json_lines(&path, images)?,
        }
        let bytes = std::fs::metadata(&path)?.len();
        let source = format!("kind = \"manifest\"\npath = {path:?}");
        let pipeline = write_pipeline(work.path(), &format!("plan-{format}"), &source, "")?;
        for write in [false, true] {
            let mut command = maskmill("plan", &pipeline, &work.path().join("out"));
            command.args(["--measure", "0"]);
            if write {
                command.arg("--write");
            }
            let planned = watch(&mut command)?;
            expect_images(&planned, images)?;
            let (seconds, mb) = (planned.seconds, planned.peak_mb());
            record(
                "planning",
                json!({
                    "source": format!("manifest.{format}"),
                    "source_bytes": bytes,
                    "images": images,
                    "write": write,
                    "seconds": seconds,
                    "bar_seconds": BAR_SECONDS,
                    "cpu_seconds": planned.cpu_seconds,
                    "peak_mb": mb,
                    "bar_mb": BAR_MB,
                }),
            )?;
            let what = format!(
                "plan{} of {images} images in {format}: {seconds:.2} s ({:.2} s of CPU), {mb:.0} MB",
                if write { " --write" } else { "" },
                planned.cpu_seconds,
            );
            println!("{what}; the bars are {BAR_SECONDS} s and {BAR_MB} MB");
            if seconds > BAR_SECONDS || mb > BAR_MB {
                missed.push(what);
            }
        }
    }
    list(work.path(), objects, &mut missed)?;
    judge(&missed)
}

/// Lists a hundredth of the objects, then all: what the memory grows by is what one costs.
fn list(work: &Path, objects: usize, missed: &mut Vec<String>) -> Outcome {
    let server = LoopbackS3::start();
    server.create_bucket("data");
    let few = (objects / 100).max(1);
    for (prefix, count) in [("few", few), ("all", objects)] {
        for index in 0..count {
            server.put("data", &format!("{prefix}/{}.jpg", name(index)), "bytes");
        }
    }
    let mut peaks = Vec::new();
    for (prefix, count) in [("few", few), ("all", objects)] {
        let source = format!("kind = \"images\"\npath = \"s3://data/{prefix}\"");
        let pipeline = write_pipeline(work, &format!("list-{prefix}"), &source, "")?;
        let mut command = maskmill("plan", &pipeline, &work.join("out"));
        command.args(["--measure", "0"]).envs(server.environment());
        let planned = watch(&mut command)?;
        expect_images(&planned, count)?;
        record(
            "planning",
            json!({
                "source": "s3 listing",
                "images": count,
                "write": false,
                "seconds": planned.seconds,
                "cpu_seconds": planned.cpu_seconds,
                "peak_mb": planned.peak_mb(),
            }),
        )?;
        println!(
            "plan of {count} objects listed: {:.2} s, {:.1} MB",
            planned.seconds,
            planned.peak_mb()
        );
        peaks.push(planned.peak_mb() * 1e6);
    }
    let per_object = (peaks[1] - peaks[0]) / (objects - few).max(1) as f64;
    let what = format!("{per_object:.0} bytes an object");
    println!("{what}; the bar is {BAR_BYTES_PER_OBJECT}");
    if per_object > BAR_BYTES_PER_OBJECT {
        missed.push(what);
    }
    Ok(())
}

fn expect_images(planned: &Watched, images: usize) -> Outcome {
    let expected = format!(" {images} images, ");
    match planned.stdout.contains(&expected) {
        true => Ok(()),
        false => Err(format!("no {expected:?} in {:?}", planned.stdout).into()),
    }
}

/// Spread over folders as camera archives are.
fn name(index: usize) -> String {
    format!("{:05}/IMG_{index:012}", index / 1000)
}

/// 61 bytes.
fn uri(index: usize) -> String {
    format!("s3://camera-archive/2024/full-size/{}.jpg", name(index))
}

fn key(index: usize) -> String {
    format!("img-{index:09}")
}

fn write_parquet(path: &Path, images: usize) -> Outcome {
    const ROWS: usize = 100_000;
    let mut writer: Option<ArrowWriter<File>> = None;
    for first in (0..images).step_by(ROWS) {
        let rows = first..images.min(first + ROWS);
        let uris: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(uri)));
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.map(key)));
        let batch = RecordBatch::try_from_iter([("uri", uris), ("key", keys)])?;
        let open = match writer.take() {
            Some(open) => open,
            None => ArrowWriter::try_new(File::create(path)?, batch.schema(), None)?,
        };
        writer.insert(open).write(&batch)?;
    }
    let writer = writer.ok_or("a manifest has images")?;
    writer.close()?;
    Ok(())
}

fn write_csv(path: &Path, images: usize) -> Outcome {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "uri,key")?;
    for index in 0..images {
        writeln!(file, "{},{}", uri(index), key(index))?;
    }
    Ok(file.flush()?)
}

/// With captions, some of which need escapes.
fn write_json_lines(path: &Path, images: usize) -> Result<(), Box<dyn Error>> {
    let mut file = BufWriter::new(File::create(path)?);
    for index in 0..images {
        let caption = match index % 3 {
            0 => format!("a cat on a \"sofa\", frame {index}"),
            _ => format!("ein Kaffee für {index}"),
        };
        let line = json!({"uri": uri(index), "key": key(index), "caption": caption});
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}
