//! `run --stop-after`: reads the source, counts, and writes nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use maskmill_loopback_s3::{Act, Phase};

use crate::support::Job;
use crate::{job, local_job, objects, start_server};

/// Needs no model, whatever the pipeline file says.
fn without_a_model(job: &mut Job) -> &Job {
    job.set("model.checkpoint=nowhere.safetensors")
}

fn stop_after(job: &Job, stage: &str) -> String {
    let ran = job.job("run", &["--stop-after", stage]);
    ran.expect_code(0);
    assert!(ran.stdout.contains("nothing was written"), "{ran:#?}");
    ran.stdout
}

#[test]
fn images_and_rejects_are_counted_and_nothing_is_written() {
    let server = start_server();
    let mut job = job(&server);
    let job = without_a_model(&mut job);
    // In the listing, and gone when it is read.
    server.hook(|seen, _| match seen.key.as_str() {
        "source/5.png" => Act::Status(404),
        _ => Act::Go,
    });
    let fetched = stop_after(job, "fetch");
    assert!(
        fetched.starts_with("6 images fetched (1 rejected), "),
        "{fetched}"
    );
    let decoded = stop_after(job, "decode");
    assert!(
        decoded.starts_with("6 images decoded (2 rejected), "),
        "{decoded}"
    );
    let written: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|seen| seen.method != "GET" && seen.method != "HEAD")
        .collect();
    assert!(written.is_empty(), "{written:#?}");
    assert!(objects(&server).is_empty());
}

#[test]
fn requests_that_were_repeated_are_counted() {
    let server = start_server();
    let mut job = job(&server);
    let job = without_a_model(&mut job);
    let first = AtomicBool::new(true);
    server.hook(move |seen, phase| {
        let is_it = seen.key == "source/1.png" && phase == Phase::Before;
        match is_it && first.swap(false, Ordering::SeqCst) {
            true => Act::Status(503),
            false => Act::Go,
        }
    });
    let fetched = stop_after(job, "fetch");
    assert!(
        fetched.starts_with("6 images fetched (0 rejected), "),
        "{fetched}"
    );
    assert!(
        fetched.contains(" requests, 1 of them repeated"),
        "{fetched}"
    );
}

#[test]
fn a_shard_that_cannot_be_read_is_told() {
    let server = start_server();
    let mut job = job(&server);
    job.set("store.max_retries=0").set("run.shard_attempts=1");
    let job = without_a_model(&mut job);
    server.hook(|seen, _| match seen.key.as_str() {
        "source/0.png" => Act::Status(500),
        _ => Act::Go,
    });
    let ran = job.job("run", &["--stop-after", "decode"]);
    ran.expect_code(1)
        .expect_error(&["1 shard(s) could not be read", "0.png"]);
}

#[test]
fn a_local_source_is_read_as_well() {
    let mut job = local_job();
    let job = without_a_model(&mut job);
    let decoded = stop_after(job, "decode");
    assert!(
        decoded.starts_with("6 images decoded (1 rejected), "),
        "{decoded}"
    );
    assert!(!job.path("out").exists());
}
