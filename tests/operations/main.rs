//! A job seen and kept from outside: `status`, `verify`, `finalize`, `gc`, signals, metrics, logs and
//! `--stop-after`.

#[path = "../support/mod.rs"]
mod support;

mod finalize;
mod gc;
mod logs;
mod metrics;
mod running;
mod signals;
mod status;
mod stop_after;
mod verify;

use std::sync::Arc;

use maskmill_loopback_s3::LoopbackS3;
use serde_json::Value;
use support::{Job, OUT, picture, png};

/// Six files in three shards, in a store. The file of [`REJECTED`] is no image.
fn job(server: &Arc<LoopbackS3>) -> Job {
    let mut job = Job::in_store("images", server);
    fill(&job);
    job.set("source.images_per_shard=2");
    job
}

/// The same on the local disk.
fn local_job() -> Job {
    let mut job = Job::of_images();
    fill(&job);
    job.set("source.images_per_shard=2");
    job
}

/// In shard 1, its second.
const REJECTED: &str = "3.png";

fn fill(job: &Job) {
    for index in 0..6 {
        job.put(&format!("{index}.png"), &photo(index));
    }
    job.put(REJECTED, b"no image");
}

/// A small picture as a file; another one for each `seed`.
fn photo(seed: u32) -> Vec<u8> {
    png(&picture(40 + 3 * seed, 56, seed), None)
}

fn start_server() -> Arc<LoopbackS3> {
    Arc::new(LoopbackS3::start())
}

/// `maskmill status --json`.
fn status(job: &Job) -> Value {
    let ran = job.maskmill(&["status", &job.location(), "--json"]);
    ran.expect_code(0);
    serde_json::from_str(&ran.stdout).expect("a status is JSON")
}

/// The keys of a job's output in a store, below its root.
fn objects(server: &LoopbackS3) -> Vec<String> {
    let keys = server.keys(OUT, "job/").into_iter();
    keys.map(|key| key["job/".len()..].to_owned()).collect()
}
