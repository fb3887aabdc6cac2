//! `status`: while a job runs, after it was killed, after failures, and at the end.

use std::collections::BTreeMap;

use maskmill_formats::rows::ImageStatus;
use maskmill_loopback_s3::Act;
use serde_json::{Value, json};

use crate::running::{Gate, Running, wait_until};
use crate::support::{Job, OUT};
use crate::{REJECTED, job, start_server, status};

/// The status as people read it.
fn words(job: &Job) -> String {
    let ran = job.maskmill(&["status", &job.location()]);
    ran.expect_code(0);
    ran.stdout
}

#[track_caller]
fn expect_words(job: &Job, expected: &[&str]) {
    let found = words(job);
    for words in expected {
        assert!(found.contains(words), "no {words:?} in\n{found}");
    }
}

const STAGES: [&str; 5] = ["commit", "decode", "device", "fetch", "select"];

#[test]
fn a_running_job_shows_its_worker_its_shards_and_its_bottleneck() {
    let server = start_server();
    let job = job(&server);
    let gate = Gate::at_write(&server, "_commits/000001.json");
    let mut running = Running::start(&job, &[]);
    gate.wait();
    // Signs of life come every few seconds.
    let mut seen = Value::Null;
    wait_until("a status with shard 1 running and the others done", || {
        seen = status(&job);
        seen["done"] == 2 && seen["running"] == json!([1]) && seen["workers"][0]["images"] == 6
    });
    assert_eq!(seen["shards"], 3);
    assert_eq!(seen["failed"], json!({}));
    assert_eq!(seen["silent_workers"], json!([]));
    assert_eq!(seen["finalized"], false);
    // In committed shards; the shard that is held has the rejected one.
    assert_eq!((&seen["images"], &seen["rejects"]), (&json!(4), &json!({})));
    assert!(seen["eta_seconds"].is_u64(), "{seen}");
    let worker = &seen["workers"][0];
    assert_eq!(worker["process"], running.child().id());
    assert_eq!(worker["shards"], json!([1]));
    assert!(
        worker["images_per_second"].as_f64().unwrap() > 0.0,
        "{seen}"
    );
    let bottleneck = worker["bottleneck"].as_str().unwrap();
    assert!(STAGES.contains(&bottleneck), "{seen}");
    let process = format!("(process {})", running.child().id());
    expect_words(
        &job,
        &[
            "2 of 3 shards done, 1 running, 0 failed\n",
            "4 images of 6",
            &process,
            "bottleneck",
            "shards {1}",
            "Left:",
        ],
    );
    assert!(!words(&job).contains("Waiting:"), "nobody waits");

    gate.open(Act::Go);
    running.wait().expect_code(0);
    assert_eq!(status(&job)["workers"], json!([]));
    let signs = server.keys(OUT, "job/_workers/");
    assert!(
        signs.is_empty(),
        "a worker that ends takes back its sign of life: {signs:?}"
    );
}

#[test]
fn a_killed_worker_goes_silent_and_its_shards_are_done_by_the_next_run() {
    let server = start_server();
    let job = job(&server);
    let gate = Gate::at_write(&server, "_commits/000001.json");
    let mut running = Running::start(&job, &[]);
    gate.wait();
    wait_until("the worker tells of shard 1", || {
        status(&job)["running"] == json!([1])
    });
    running.signal("KILL");
    assert_eq!(running.wait().code, None);
    gate.open(Act::Drop);
    server.clear_hook();

    // Nobody can tell yet.
    let seen = status(&job);
    assert_eq!(seen["workers"].as_array().unwrap().len(), 1);
    assert_eq!(seen["running"], json!([1]));
    // Two minutes later, by the store's clock.
    server.set_clock_skew(120);
    let seen = status(&job);
    assert_eq!(
        (&seen["workers"], &seen["running"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(seen["silent_workers"].as_array().unwrap().len(), 1);
    assert_eq!(seen["eta_seconds"], Value::Null);
    expect_words(
        &job,
        &[
            "2 of 3 shards done, 0 running",
            "is no longer heard of; run the job again",
            "Waiting: 000001",
        ],
    );

    let ran = job.run();
    ran.expect_code(0);
    assert_eq!(ran.committed(), [1]);
    assert_eq!(status(&job)["done"], 3);
}

#[test]
fn a_failed_shard_is_shown_with_its_cause_until_it_is_done() {
    let server = start_server();
    let mut job = job(&server);
    job.set("store.max_retries=1").set("run.shard_attempts=2");
    server.hook(|seen, _| match seen.key.as_str() {
        "source/4.png" => Act::Status(500),
        _ => Act::Go,
    });
    job.run()
        .expect_code(1)
        .expect_error(&["1 of 3 shards failed", "--retry-failed"]);
    let seen = status(&job);
    assert_eq!((&seen["done"], &seen["running"]), (&json!(2), &json!([])));
    let cause = seen["failed"]["2"].as_str().expect("a cause");
    assert!(cause.contains("4.png") && cause.contains("500"), "{cause}");
    expect_words(
        &job,
        &[
            "2 of 3 shards done, 0 running, 1 failed",
            "Failed: shard 000002: ",
        ],
    );
    assert!(!words(&job).contains("Waiting:"), "it is given up");

    server.clear_hook();
    job.job("run", &["--retry-failed"]).expect_code(0);
    let seen = status(&job);
    assert_eq!((&seen["done"], &seen["failed"]), (&json!(3), &json!({})));
}

#[test]
fn at_the_end_the_numbers_are_those_of_the_rows() {
    let server = start_server();
    let job = job(&server);
    job.job("run", &["--shards", "1..2"]).expect_code(0);
    expect_words(&job, &["1 of 3 shards done", "Waiting: 000000 000002"]);
    job.run().expect_code(0);

    let rows = job.rows();
    let seen = status(&job);
    assert_eq!(seen["shards"], 3);
    assert_eq!(seen["done"], 3);
    assert_eq!(seen["planned_images"], rows.images.len());
    let ok = rows
        .images
        .iter()
        .filter(|row| row.status == ImageStatus::Ok);
    assert_eq!(seen["images"], ok.count());
    assert_eq!(seen["masks"], rows.masks.len());
    let bytes: u64 = rows.images.iter().map(|row| row.bytes).sum();
    assert_eq!(
        (&seen["bytes"], &seen["planned_bytes"]),
        (&json!(bytes), &json!(bytes))
    );
    let mut rejects = BTreeMap::new();
    for reason in rows.images.iter().filter_map(|row| row.reason.as_deref()) {
        *rejects.entry(reason).or_insert(0) += 1;
    }
    assert_eq!(seen["rejects"], json!(rejects));
    assert_eq!(rows.image(REJECTED).reason.as_deref(), Some("not_an_image"));
    let seconds = seen["stage_seconds"].as_object().unwrap();
    assert_eq!(seconds.keys().collect::<Vec<_>>(), STAGES);
    assert!(
        seconds.values().all(|s| s.as_f64().unwrap() > 0.0),
        "{seen}"
    );

    job.maskmill(&["finalize", &job.location()]).expect_code(0);
    assert_eq!(status(&job)["finalized"], true);
    expect_words(
        &job,
        &[
            "3 of 3 shards done, 0 running, 0 failed; finalized",
            "1 rejected",
            "1 not_an_image",
        ],
    );
}
