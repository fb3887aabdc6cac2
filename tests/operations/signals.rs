//! SIGINT and SIGTERM end a run at once, and nothing half-written can be seen afterwards.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use maskmill_formats::rows::{read_images, read_masks};
use maskmill_loopback_s3::{Act, Seen};
use serde_json::Value;

use crate::running::{Gate, Running};
use crate::support::{Job, OUT, Rows, files_below};
use crate::{job, local_job, start_server};

/// A machine that is taken away gives notice of seconds; the requests here would hang for ever.
const AT_ONCE: Duration = Duration::from_secs(2);
const INTERRUPTED: i32 = 130;

#[track_caller]
fn interrupt(mut running: Running, signal: &str) {
    running.signal(signal);
    assert!(running.ends_within(AT_ONCE), "SIG{signal} did not end it");
    let words = format!("SIG{signal}: stopped");
    running
        .wait()
        .expect_code(INTERRUPTED)
        .expect_error(&[&words]);
}

/// Fails unless a file of an output is what its name says, whole.
fn expect_whole(path: &str, bytes: Vec<u8>) {
    let is_whole = match path {
        path if path.contains("masks/") => read_masks(bytes.into()).is_ok(),
        path if path.contains("images/") => read_images(bytes.into()).is_ok(),
        _ => serde_json::from_slice::<Value>(&bytes).is_ok(),
    };
    assert!(is_whole, "{path} is not whole");
}

fn finish(job: &Job, expected: &Rows, what: &str) {
    job.run().expect_code(0);
    assert_eq!(&job.rows(), expected, "{what}");
    job.maskmill(&["verify", &job.location()]).expect_code(0);
}

#[test]
fn a_signal_ends_a_run_whose_request_hangs() {
    let undisturbed = job(&start_server()).rows_of_run();
    type Request = fn(&Seen) -> bool;
    let requests: [(&str, Request); 4] = [
        ("listing the source", |seen| {
            seen.is_list() && seen.bucket != OUT
        }),
        ("reading an image", |seen| seen.key == "source/2.png"),
        ("writing a part", |seen| {
            seen.key == "job/masks/part-000001.parquet"
        }),
        ("writing a marker", |seen| {
            seen.key == "job/_commits/000001.json"
        }),
    ];
    for signal in ["INT", "TERM"] {
        for (what, request) in requests {
            let server = start_server();
            let job = job(&server);
            let gate = Gate::at(&server, request);
            let running = Running::start(&job, &[]);
            gate.wait();
            interrupt(running, signal);
            gate.open(Act::Drop);
            server.clear_hook();
            for folder in ["masks/", "images/", "_commits/"] {
                for key in server.keys(OUT, &format!("job/{folder}")) {
                    expect_whole(&key, server.get(OUT, &key).unwrap().to_vec());
                }
            }
            finish(&job, &undisturbed, &format!("SIG{signal} while {what}"));
        }
    }
}

#[test]
fn a_signal_leaves_no_half_file_on_a_local_disk() {
    let undisturbed = local_job().rows_of_run();
    let mut interrupted = 0;
    for (signal, commits) in [("INT", 0), ("TERM", 0), ("TERM", 1), ("INT", 2)] {
        let job = local_job();
        let mut running = Running::start(&job, &[]);
        let stderr = running.child().stderr.take().unwrap();
        let mut lines = BufReader::new(stderr).lines();
        let mut next = |event: &str| lines.by_ref().any(|line| line.unwrap().contains(event));
        assert!(next("\"planned\""), "it begins");
        for _ in 0..commits {
            assert!(next("\"committed\""), "it goes on");
        }
        running.signal(signal);
        assert!(running.ends_within(AT_ONCE), "SIG{signal} did not end it");
        let markers = files_below(&job.output().join("_commits")).len();
        match running.wait().code {
            Some(INTERRUPTED) => interrupted += 1,
            // It was quicker than the signal.
            Some(0) => assert_eq!(markers, 3),
            code => panic!("it ended with {code:?}"),
        }
        for folder in ["masks", "images", "_commits"] {
            for path in files_below(&job.output().join(folder)) {
                let name = path.to_str().unwrap();
                let is_final = name.ends_with(".parquet") || name.ends_with(".json");
                assert!(
                    is_final || name.contains('#'),
                    "{name} is none of maskmill's"
                );
                if is_final {
                    expect_whole(name, std::fs::read(&path).unwrap());
                }
            }
        }
        let what = format!("SIG{signal} after {commits} commits");
        finish(&job, &undisturbed, &what);
    }
    assert!(interrupted >= 2, "{interrupted} of 4 runs were interrupted");
}
