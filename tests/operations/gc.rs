//! `gc`: what nothing names goes when it is old, and nothing else.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use maskmill_loopback_s3::{Act, LoopbackS3};

use crate::running::{Gate, Running, wait_until};
use crate::support::{Job, OUT, Ran, snapshot};
use crate::{job, local_job, objects, start_server, status};

const TWO_DAYS: Duration = Duration::from_secs(2 * 24 * 3600);

fn gc(job: &Job, further: &[&str]) -> Ran {
    let location = job.location();
    let ran = job.maskmill(&[&["gc", &location], further].concat());
    ran.expect_code(0);
    ran
}

fn two_days_pass(server: &LoopbackS3) {
    server.set_clock_skew(TWO_DAYS.as_secs().cast_signed());
}

/// The paths that it printed, sorted.
fn listed(ran: &Ran) -> Vec<&str> {
    let is_path = |line: &&str| line.contains('/') && !line.contains(' ');
    let mut paths: Vec<&str> = ran.stdout.lines().filter(is_path).collect();
    paths.sort_unstable();
    paths
}

/// What dead processes leave behind in the output of [`job`]: parts without a marker, one of them large, a
/// plan that lost, a worker, the failure of a shard that is done.
const ORPHANS: [&str; 6] = [
    "_failures/000001-1700000000-w.json",
    "_plan/000001-0123456789ab/items-00000.parquet",
    "_workers/dead.json",
    "images/part-000001-0123456789abcdef.parquet",
    "masks/part-000001-0123456789abcdef.parquet",
    "masks/part-000009.parquet",
];

const FAILURE: &str = "{\"shard\": 1, \"attempts\": 3, \"cause\": \"x\", \"worker\": \"w\", \
    \"tool_version\": \"0\", \"at_unix_seconds\": 1700000000}";

fn orphan_bytes(path: &str) -> &'static str {
    match path.starts_with("_failures") {
        true => FAILURE,
        false => "left over",
    }
}

#[test]
fn a_clean_output_keeps_everything_however_old() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    job.maskmill(&["finalize", &job.location()]).expect_code(0);
    let before = objects(&server);
    two_days_pass(&server);
    for further in [
        &["--older-than", "10m"][..],
        &["--older-than", "10m", "--delete"],
    ] {
        let ran = gc(&job, further);
        assert!(ran.stdout.starts_with("0 objects "), "{ran:#?}");
        assert_eq!(objects(&server), before, "{further:?}");
    }
}

#[test]
fn what_nothing_names_is_listed_and_removed_once_it_is_old() {
    let server = start_server();
    let mut job = job(&server);
    job.set("store.max_retries=0").set("run.shard_attempts=1");
    server.hook(|seen, _| match seen.key.as_str() {
        "source/5.png" => Act::Status(500),
        _ => Act::Go,
    });
    job.run().expect_code(1);
    server.clear_hook();
    // Shard 2 has a record of its failure, which is still news.
    let before = objects(&server);
    assert!(
        before
            .iter()
            .any(|path| path.starts_with("_failures/000002-"))
    );
    for path in ORPHANS {
        server.put(OUT, &format!("job/{path}"), orphan_bytes(path));
    }
    two_days_pass(&server);
    let young = "masks/part-000010.parquet";
    server.put(OUT, &format!("job/{young}"), "of a commit under way");
    let all = objects(&server);

    let ran = gc(&job, &[]);
    assert_eq!(listed(&ran), ORPHANS);
    assert!(
        ran.stdout.contains("6 objects could be removed"),
        "{ran:#?}"
    );
    assert!(
        ran.stdout
            .contains("1 more are named by nothing and too young"),
        "{ran:#?}"
    );
    assert_eq!(objects(&server), all, "only --delete removes");
    let old_enough = gc(&job, &["--older-than", "3days"]);
    assert!(listed(&old_enough).is_empty(), "{old_enough:#?}");

    let ran = gc(&job, &["--delete"]);
    assert_eq!(listed(&ran), ORPHANS);
    let mut expected = before.clone();
    expected.push(young.to_owned());
    expected.sort_unstable();
    assert_eq!(objects(&server), expected);
    assert!(listed(&gc(&job, &["--delete"])).is_empty(), "again");

    job.job("run", &["--retry-failed"]).expect_code(0);
    job.maskmill(&["verify", &job.location()]).expect_code(0);
    assert_eq!(status(&job)["done"], 3);
}

#[test]
fn nothing_younger_than_ten_minutes_is_removed_whatever_is_asked_for() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    server.put(OUT, "job/masks/part-000009.parquet", "left over");
    server.set_clock_skew(9 * 60);
    let ran = gc(&job, &["--older-than", "1s", "--delete"]);
    assert!(listed(&ran).is_empty(), "{ran:#?}");
    server.set_clock_skew(11 * 60);
    let ran = gc(&job, &["--older-than", "1s", "--delete"]);
    assert_eq!(listed(&ran), ["masks/part-000009.parquet"]);
}

/// What it names is unknown then.
#[test]
fn beside_a_marker_that_cannot_be_read_nothing_is_removed() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    server.put(OUT, "job/masks/part-000009.parquet", "left over");
    server.put(OUT, "job/_commits/000001.json", "{");
    let before = objects(&server);
    two_days_pass(&server);
    let ran = job.maskmill(&["gc", &job.location(), "--delete"]);
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    ran.expect_error(&["_commits/000001.json", "is not a marker"]);
    assert_eq!(objects(&server), before);
}

#[test]
fn committed_parts_of_a_running_job_stay() {
    let server = start_server();
    let job = job(&server);
    let gate = Gate::at(&server, |seen| seen.key == "source/5.png");
    let running = Running::start(&job, &[]);
    gate.wait();
    wait_until("two shards are committed", || status(&job)["done"] == 2);
    let committed = |path: &String| !path.starts_with("_workers/");
    let before: Vec<String> = objects(&server).into_iter().filter(committed).collect();
    two_days_pass(&server);
    gc(&job, &["--older-than", "10m", "--delete"]);
    let after: Vec<String> = objects(&server).into_iter().filter(committed).collect();
    assert_eq!(after, before);
    gate.open(Act::Go);
    running.wait().expect_code(0);
    job.maskmill(&["verify", &job.location()]).expect_code(0);
}

#[test]
fn parts_that_wait_for_their_marker_stay() {
    let server = start_server();
    let job = job(&server);
    let gate = Gate::at_write(&server, "_commits/000001.json");
    let running = Running::start(&job, &[]);
    gate.wait();
    let ran = gc(&job, &["--older-than", "1s", "--delete"]);
    assert!(listed(&ran).is_empty(), "{ran:#?}");
    assert!(ran.stdout.contains("too young"), "{ran:#?}");
    gate.open(Act::Go);
    running.wait().expect_code(0);
    job.maskmill(&["verify", &job.location()]).expect_code(0);
}

/// Has a file be two days old.
fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - TWO_DAYS).unwrap();
}

#[test]
fn on_a_local_disk_unfinished_files_go_too() {
    let job = local_job();
    job.run().expect_code(0);
    let output = job.output();
    for (path, _) in snapshot(&output) {
        age(&path);
    }
    let whole = snapshot(&output);
    let write = |path: &str, bytes: &str| {
        let path = output.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    };
    for path in ORPHANS {
        age(&write(path, orphan_bytes(path)));
    }
    age(&write("masks/part-000002.parquet#1", "half"));
    let young = write("masks/part-000010.parquet", "of a commit under way");
    let staging = write("images/part-000010.parquet#2", "half");

    let ran = gc(&job, &[]);
    assert_eq!(listed(&ran), ORPHANS);
    let ran = gc(&job, &["--delete"]);
    assert_eq!(listed(&ran), ORPHANS);
    assert!(ran.stdout.contains("1 unfinished files"), "{ran:#?}");
    assert!(young.exists() && staging.exists(), "they are young");
    fs::remove_file(young).unwrap();
    fs::remove_file(staging).unwrap();
    assert_eq!(snapshot(&output), whole);
    job.maskmill(&["verify", "out/job"]).expect_code(0);
}
