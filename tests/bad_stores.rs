//! Stores that refuse, are overloaded, or are none: what is said, with which exit code, and that the rows are
//! those of an undisturbed run or none. Clocks that are off, too.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use maskmill_loopback_s3::{Act, LoopbackS3, Phase, Seen};
use serde_json::Value;
use support::{DATA, Job, MASKMILL, OUT, Ran, metrics, of_images, photo, server, tar};

fn verify(job: &Job) {
    let verified = job.maskmill(&["verify", &job.location()]);
    verified.expect_code(0);
}

fn written(job: &Job, folder: &str) -> Vec<String> {
    job.server().keys(OUT, &format!("job/{folder}"))
}

/// Whether it is a request for an object of the source.
fn reads_source(seen: &Seen) -> bool {
    seen.bucket == DATA && seen.method == "GET" && !seen.is_list()
}

#[test]
fn credentials_that_expire_midway_stop_the_job_and_are_no_image_s_fault() {
    let expected = of_images(&server(), 8).rows_of_run();
    let server = server();
    let mut job = of_images(&server, 8);
    // One after the other, so that some images come before and some after.
    job.set("run.fetch_concurrency=1");
    let (weak, reads) = (Arc::downgrade(&server), AtomicUsize::new(0));
    server.hook(move |seen, phase| {
        if phase == Phase::After && reads_source(seen) && reads.fetch_add(1, Ordering::SeqCst) == 2
        {
            let server = weak.upgrade().expect("it is answering");
            server.expire_credentials(true);
        }
        Act::Go
    });
    let ran = job.run();
    ran.expect_code(1)
        .expect_error(&["the credentials have expired: get new ones and run again"]);
    server.expire_credentials(false);
    server.clear_hook();
    for row in job.rows().images {
        assert_eq!(row.reason, None, "{row:?}");
    }
    assert_eq!(written(&job, "_failures"), [""; 0]);
    job.run().expect_code(0);
    assert_eq!(job.rows(), expected);
    verify(&job);
}

/// `job`'s environment with another value of a variable.
fn run_with(job: &Job, variable: &str, value: &str) -> Ran {
    let mut command = job.command(MASKMILL);
    command.env(variable, value).args(job.arguments());
    Ran::of(&mut command)
}

#[test]
fn credentials_that_are_wrong_from_the_start_leave_nothing_behind() {
    let server = server();
    let job = of_images(&server, 2);
    for variable in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ] {
        let ran = run_with(&job, variable, "AKIAWRONGWRONGWRONG1");
        ran.expect_code(2)
            .expect_error(&["the store does not know these credentials", variable]);
        assert!(!ran.stderr.contains("WRONGWRONG"), "{ran:#?}");
    }
    server.expire_credentials(true);
    job.run()
        .expect_code(2)
        .expect_error(&["the credentials have expired"]);
    assert_eq!(server.keys(OUT, ""), [""; 0]);
}

#[test]
fn a_bucket_that_does_not_exist_is_named() {
    let server = server();
    let mut job = of_images(&server, 2);
    job.set("source.path=s3://no-such-bucket/source");
    job.run()
        .expect_code(2)
        .expect_error(&["the source s3://no-such-bucket/source does not exist"]);
    job.set("source.path=s3://data/source")
        .set("output.root=s3://no-such-output");
    job.run().expect_code(2).expect_error(&[
        "the output directory in s3://no-such-output/job",
        "NoSuchBucket",
    ]);
    assert_eq!(server.keys(OUT, ""), [""; 0]);
}

#[test]
fn an_output_that_may_only_be_read_is_refused() {
    let server = server();
    let mut job = of_images(&server, 2);
    server.make_public(OUT);
    job.set("store.s3_anonymous=true")
        .set("store.source_s3_anonymous=false");
    job.run().expect_code(2).expect_error(&[
        "no permission to write _job.json in s3://out/job",
        "the bucket's policy",
    ]);
    assert_eq!(server.keys(OUT, ""), [""; 0]);
}

const DAYS: i64 = 86_400;

#[test]
fn gc_goes_by_the_store_s_clock_and_not_by_this_machine_s() {
    for skew in [-2 * DAYS, 2 * DAYS] {
        let server = server();
        let job = of_images(&server, 2);
        let orphan = |age_hours: i64, name: &str| {
            server.set_clock_skew(skew - 3600 * age_hours);
            let key = format!("job/masks/part-000000-{name}.parquet");
            server.put(OUT, &key, "left by an attempt that died");
        };
        server.set_clock_skew(skew);
        job.run().expect_code(0);
        orphan(25, "0123456789abcdef");
        orphan(23, "fedcba9876543210");
        server.set_clock_skew(skew);
        let rows_before = written(&job, "");

        let output = job.location();
        let listed = job.maskmill(&["gc", &output]);
        listed.expect_code(0);
        let old = "masks/part-000000-0123456789abcdef.parquet";
        assert!(listed.stdout.starts_with(old), "{listed:#?}");
        assert!(
            listed.stdout.contains("1 objects could be removed"),
            "{listed:#?}"
        );
        assert!(
            listed
                .stdout
                .contains("1 more are named by nothing and too young")
        );
        assert_eq!(written(&job, ""), rows_before, "only listed");

        let removed = job.maskmill(&["gc", &output, "--older-than", "24h", "--delete"]);
        removed.expect_code(0);
        let mut left = rows_before;
        left.retain(|key| !key.ends_with(old));
        assert_eq!(written(&job, ""), left, "skew {skew}");
        verify(&job);
    }
}

/// A gate that a hook waits at.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, std::sync::Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        let wait = self.0.1.wait_while(open, |open| !*open);
        drop(wait.unwrap());
    }
}

/// Asks until `found` says that it is as it should be.
#[track_caller]
fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1200 {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {what}");
}

fn status(job: &Job) -> Value {
    let ran = job.maskmill(&["status", &job.location(), "--json"]);
    ran.expect_code(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn workers_live_and_die_by_the_store_s_clock() {
    for skew in [-2 * DAYS, 2 * DAYS] {
        let server = server();
        server.set_clock_skew(skew);
        let job = of_images(&server, 6);
        let gate = Gate::default();
        let waits = gate.clone();
        server.hook(move |seen, phase| {
            if phase == Phase::Before && reads_source(seen) && seen.key == "source/05.png" {
                waits.wait();
            }
            Act::Go
        });
        let mut child = job
            .command(MASKMILL)
            .args(job.arguments())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let seen = wait_until("a worker", || {
            let has_job = !written(&job, "_workers").is_empty();
            let status = has_job.then(|| status(&job))?;
            (status["workers"].as_array().unwrap().len() == 1).then_some(status)
        });
        assert_eq!(seen["silent_workers"].as_array().unwrap().len(), 0);
        assert_eq!(seen["workers"][0]["process"], child.id());

        child.kill().unwrap();
        child.wait().unwrap();
        server.set_clock_skew(skew + 120);
        let seen = status(&job);
        assert_eq!(seen["workers"].as_array().unwrap().len(), 0, "{seen}");
        assert_eq!(
            seen["silent_workers"].as_array().unwrap().len(),
            1,
            "{seen}"
        );
        assert_eq!(seen["running"].as_array().unwrap().len(), 0, "{seen}");
        gate.open();
        server.clear_hook();
        job.run().expect_code(0);
        assert_eq!(status(&job)["done"], 3);
    }
}

/// A server that says the same to every request; where it is.
fn server_that_says(status: &'static str, kind: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that went away has its answer.
            let _ = stream.and_then(|stream| answer(&stream, status, kind, body));
        }
    });
    endpoint
}

fn answer(stream: &TcpStream, status: &str, kind: &str, body: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut request = String::new();
    let mut length = 0;
    while !request.ends_with("\r\n\r\n") {
        let start = request.len();
        if lines.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let header = request[start..].to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut lines.take(length), &mut std::io::sink())?;
    let shown = if request.starts_with("HEAD") {
        ""
    } else {
        body
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{shown}",
        body.len()
    )
}

#[test]
fn a_clock_that_is_off_is_said() {
    let endpoint = server_that_says(
        "403 Forbidden",
        "application/xml",
        "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between \
         the request time and the server's time is too large</Message></Error>",
    );
    let server = server();
    let mut job = of_images(&server, 2);
    job.set(&format!("store.s3_endpoint={endpoint}"));
    for ran in [job.run(), job.job("plan", &["--write"])] {
        ran.expect_code(2)
            .expect_error(&["this machine's clock is off", "NTP"]);
    }
    let config = format!("[output]\nroot = \"s3://out\"\n[store]\ns3_endpoint = \"{endpoint}\"\n");
    std::fs::write(job.path("skewed.toml"), config).unwrap();
    let output = job.location();
    for command in ["status", "verify", "gc"] {
        let ran = job.maskmill(&[command, &output, "--config", "skewed.toml"]);
        ran.expect_code(2)
            .expect_error(&["this machine's clock is off"]);
    }
}

#[test]
fn a_server_that_answers_nonsense_is_told_from_an_empty_bucket() {
    for (kind, body) in [
        ("application/xml", "<ListBucketResult><<<"),
        ("application/xml", ""),
        ("application/xml", "{\"buckets\": []}"),
        (
            "text/html; charset=utf-8",
            "<html><body>Welcome</body></html>",
        ),
    ] {
        let endpoint = server_that_says("200 OK", kind, body);
        let server = server();
        let mut job = of_images(&server, 2);
        job.set(&format!("store.source_s3_endpoint={endpoint}"))
            .set("store.max_retries=2");
        let ran = job.run();
        ran.expect_code(2)
            .expect_error(&["the source s3://data/source cannot be read"]);
        assert!(!ran.stderr.contains("holds no"), "{ran:#?}");
        if kind.starts_with("text/html") {
            ran.expect_error(&["a web page instead of a listing"]);
        }
        assert_eq!(server.keys(OUT, ""), [""; 0]);
    }
}

#[test]
fn a_server_that_is_down_is_named_with_what_to_do() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let server = server();
    for which in ["source_s3_endpoint", "s3_endpoint"] {
        let mut job = of_images(&server, 2);
        job.set("store.max_retries=2")
            .set(&format!("store.{which}=http://{host}"));
        job.run()
            .expect_code(2)
            .expect_error(&[&host, "store.s3_endpoint", "network"]);
    }
    assert_eq!(server.keys(OUT, ""), [""; 0]);
}

/// Every request of the first ones is refused, and in the middle again.
#[test]
fn a_store_that_is_overloaded_for_a_while_costs_retries_and_no_rows() {
    let expected = of_images(&server(), 8).rows_of_run();
    let server = server();
    let mut job = of_images(&server, 8);
    job.set("store.max_retries=30")
        .set("run.fetch_concurrency=1");
    let overload = |gate: Option<Gate>| {
        let (all, reads) = (AtomicUsize::new(0), AtomicUsize::new(0));
        move |seen: &Seen, phase: Phase| {
            if phase == Phase::After {
                return Act::Go;
            }
            let is_read = reads_source(seen);
            if all.fetch_add(1, Ordering::SeqCst) < 5 {
                return Act::Status(503);
            }
            if is_read && (3..10).contains(&reads.fetch_add(1, Ordering::SeqCst)) {
                return Act::Status(503);
            }
            if let Some(gate) = gate.as_ref().filter(|_| seen.key == "source/07.png") {
                gate.wait();
            }
            Act::Go
        }
    };
    server.hook(overload(None));
    let ran = job.job("run", &["--stop-after", "fetch"]);
    ran.expect_code(0);
    assert!(
        ran.stdout.contains("8 images fetched (0 rejected)"),
        "{ran:#?}"
    );
    assert!(ran.stdout.contains(", 12 of them repeated;"), "{ran:#?}");

    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let gate = Gate::default();
    server.hook(overload(Some(gate.clone())));
    let child = job
        .command(MASKMILL)
        .args(job.arguments())
        .args(["--metrics-addr", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = wait_until("the retries among the metrics", || {
        metrics(&address).filter(|text| text.contains("\nmaskmill_store_retries_total 12\n"))
    });
    assert!(text.contains("maskmill_store_requests_total{"), "{text}");
    gate.open();
    let ended = child.wait_with_output().unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert_eq!(job.rows(), expected);
    verify(&job);
}

#[test]
fn a_tar_that_cannot_be_reached_is_tried_so_often_and_fails_alone() {
    let tars = |server: &Arc<LoopbackS3>| {
        let job = Job::in_store("webdataset", server);
        for index in 0..4 {
            let images = [photo(index), photo(index + 10)];
            let members = [("a.png", &images[0][..]), ("b.png", &images[1][..])];
            job.put(&format!("{index}.tar"), &tar(&members));
        }
        job
    };
    let expected = tars(&server()).rows_of_run();
    let server = server();
    let mut job = tars(&server);
    job.set("store.max_retries=1").set("run.shard_attempts=3");
    server.hook(
        |seen, _| match reads_source(seen) && seen.key == "source/1.tar" {
            true => Act::Status(500),
            false => Act::Go,
        },
    );
    let ran = job.run();
    ran.expect_code(1).expect_error(&["1 of 4 shards failed"]);
    assert_eq!(ran.committed(), [0, 2, 3]);
    let events = ran.events();
    let of = |name: &str| {
        let events = events.iter().filter(|event| event["event"] == name);
        events.cloned().collect::<Vec<Value>>()
    };
    let again: Vec<u64> = of("again")
        .iter()
        .filter_map(|e| e["attempt"].as_u64())
        .collect();
    assert_eq!(again, [1, 2]);
    let [failed] = &of("failed")[..] else {
        panic!("one failure: {ran:#?}")
    };
    assert_eq!(failed["shard"], 1);
    let cause = failed["detail"].as_str().unwrap();
    assert!(
        cause.contains("1.tar") && cause.contains("after all retries"),
        "{cause}"
    );

    let [record] = &written(&job, "_failures")[..] else {
        panic!("one record")
    };
    let record: Value = serde_json::from_slice(&server.get(OUT, record).unwrap()).unwrap();
    assert_eq!(
        (&record["shard"], &record["attempts"]),
        (&1.into(), &3.into())
    );
    let seen = status(&job);
    assert_eq!(seen["done"], 3);
    assert!(
        seen["failed"]["1"].as_str().unwrap().contains("1.tar"),
        "{seen}"
    );
    let shown = job.maskmill(&["status", &job.location()]);
    assert!(
        shown.stdout.contains("Failed: shard 000001: "),
        "{shown:#?}"
    );

    // It is passed over until it is asked for.
    server.clear_hook();
    job.run()
        .expect_code(1)
        .expect_error(&["failed in an earlier run"]);
    job.job("run", &["--retry-failed"]).expect_code(0);
    assert_eq!(job.rows(), expected);
    verify(&job);
}
