//! `maskmill status`: how far a job is.

use std::time::Duration;

use indicatif::HumanDuration;
use maskmill_job::format_bytes;
use maskmill_pipeline::Status;
use serde_json::json;

use crate::args::StatusArguments;
use crate::failure::Failure;
use crate::job_files::open_output;

/// Shards shown of those that wait.
const SHOWN: usize = 10;

pub(crate) fn status(arguments: &StatusArguments) -> Result<(), Failure> {
    let output = open_output(&arguments.output)?;
    let status = output.status()?;
    if arguments.json {
        println!("{}", as_json(&status));
        return Ok(());
    }
    print_status(&status);
    let waiting = output.waiting(&status, SHOWN)?;
    if !waiting.is_empty() {
        let names: Vec<String> = waiting.iter().map(ToString::to_string).collect();
        println!("Waiting: {} (the first {})", names.join(" "), names.len());
    }
    Ok(())
}

fn print_status(status: &Status) {
    println!(
        "{} of {} shards done, {} running, {} failed{}",
        status.done,
        status.shards,
        status.running.len(),
        status.failed.len(),
        match status.finalized {
            true => "; finalized",
            false => "",
        }
    );
    let planned = status
        .planned_images
        .map_or(String::new(), |images| format!(" of {images}"));
    let rejected: u64 = status.rejects.values().sum();
    println!(
        "{} images{planned} ({} of {}), {} masks, {rejected} rejected",
        status.images + rejected,
        format_bytes(status.bytes),
        format_bytes(status.planned_bytes),
        status.masks,
    );
    for (reason, count) in &status.rejects {
        println!("  {count} {reason}");
    }
    let seconds = status.stage_seconds.iter().filter(|(_, s)| **s > 0.0);
    let seconds: Vec<String> = seconds
        .map(|(stage, s)| format!("{stage} {s:.1} s"))
        .collect();
    if !seconds.is_empty() {
        println!("Work:   {}", seconds.join(", "));
    }
    for worker in &status.workers {
        println!(
            "Worker {} (process {}): {:.2} images/s, {} images, bottleneck {}, shards {:?}",
            worker.worker,
            worker.process,
            worker.images_per_second,
            worker.images,
            worker.bottleneck,
            worker.shards
        );
    }
    for worker in &status.silent_workers {
        println!(
            "Worker {} (process {}) is no longer heard of; run the job again to do its shards",
            worker.worker, worker.process
        );
    }
    if let Some(eta) = status.eta {
        println!(
            "Left:   {}",
            HumanDuration(Duration::from_secs(eta.as_secs()))
        );
    }
    for (shard, cause) in &status.failed {
        println!("Failed: shard {shard:06}: {cause}");
    }
}

fn as_json(status: &Status) -> serde_json::Value {
    json!({
        "shards": status.shards, "done": status.done, "running": status.running,
        "failed": status.failed, "planned_images": status.planned_images,
        "planned_bytes": status.planned_bytes, "images": status.images,
        "rejects": status.rejects, "masks": status.masks, "bytes": status.bytes,
        "stage_seconds": status.stage_seconds, "workers": status.workers,
        "silent_workers": status.silent_workers,
        "eta_seconds": status.eta.map(|eta| eta.as_secs()), "finalized": status.finalized,
    })
}
