//! `--metrics-addr`: valid Prometheus text with the right numbers.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use maskmill_formats::rows::ImageStatus;
use maskmill_loopback_s3::{Act, Phase};

use crate::running::{Gate, Running, wait_until};
use crate::{job, objects, start_server};

/// Samples by name and labels, as they are written: `maskmill_images_total{status="ok"}`.
type Samples = BTreeMap<String, f64>;

/// One request for the metrics; `None` as long as nobody answers.
fn scrape(address: &str) -> Option<Samples> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        !head.contains("chunked"),
        "this reader knows no chunks: {head}"
    );
    Some(parse(body))
}

/// Reads the text format, strictly.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut typed = HashSet::new();
    // Nothing has been counted yet, or the last line ends.
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["TYPE", name, kind] => {
                    let known = ["counter", "gauge", "histogram", "summary", "untyped"];
                    assert!(known.contains(&kind), "{line:?}");
                    assert!(typed.insert(name), "{name} has its type twice");
                }
                ["HELP", name, _] => assert!(is_name(name), "{line:?}"),
                _ => panic!("{line:?} is no comment that Prometheus knows"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a name and a value");
        let value: f64 = value
            .parse()
            .unwrap_or_else(|_| panic!("{line:?} has no number"));
        let name = series.split('{').next().unwrap();
        assert!(
            is_name(name) && typed.contains(name),
            "{line:?}: a name with a type"
        );
        if let Some(labels) = series
            .strip_prefix(name)
            .filter(|labels| !labels.is_empty())
        {
            expect_labels(labels, line);
        }
        assert!(
            samples.insert(series.to_owned(), value).is_none(),
            "{series} is there twice"
        );
    }
    samples
}

fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !name.is_empty() && name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// `{name="value",name="value"}`, without escapes.
fn expect_labels(labels: &str, line: &str) {
    let inner = labels
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    for label in inner.unwrap_or_else(|| panic!("{line:?}")).split(',') {
        let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        let value = value.unwrap_or_else(|| panic!("{line:?}"));
        assert!(is_name(name) && !value.contains(['"', '\\']), "{line:?}");
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

const STAGES: [&str; 5] = ["fetch", "decode", "device", "select", "commit"];

#[test]
fn metrics_can_be_scraped_while_the_job_runs_and_are_right_at_its_end() {
    let server = start_server();
    let job = job(&server);
    let address = free_address();
    let last_image = Gate::at(&server, |seen| seen.key == "source/5.png");
    let running = Running::start(&job, &["--metrics-addr", &address]);
    last_image.wait();
    let mut now = Samples::new();
    wait_until("two shards are committed", || {
        now = scrape(&address).expect("it is running");
        now.get("maskmill_shards_total{state=\"committed\"}") == Some(&2.0)
    });
    // The image beside the one that is held may be done or not.
    let ok = now["maskmill_images_total{status=\"ok\"}"];
    assert!((3.0..=4.0).contains(&ok), "{ok}");
    assert_eq!(now["maskmill_images_total{status=\"rejected\"}"], 1.0);
    // The last thing that a worker does is to take back its sign of life: all is counted by then.
    let end = Gate::at(&server, |seen| {
        seen.method == "DELETE" || seen.parameter("delete").is_some()
    });
    last_image.open(Act::Go);
    end.wait();
    let end_now = scrape(&address).expect("it is running");
    let rows = job.rows();
    let value = |series: &str| {
        let found = end_now.get(series);
        *found.unwrap_or_else(|| panic!("no {series} in {end_now:#?}"))
    };
    let ok = rows
        .images
        .iter()
        .filter(|row| row.status == ImageStatus::Ok)
        .count();
    assert_eq!(value("maskmill_images_total{status=\"ok\"}"), ok as f64);
    assert_eq!(value("maskmill_images_total{status=\"rejected\"}"), 1.0);
    assert_eq!(
        value("maskmill_rejects_total{reason=\"not_an_image\"}"),
        1.0
    );
    assert_eq!(value("maskmill_masks_total"), rows.masks.len() as f64);
    let bytes: u64 = rows.images.iter().map(|row| row.bytes).sum();
    assert_eq!(value("maskmill_source_bytes_total"), bytes as f64);
    assert!(value("maskmill_store_bytes_read_total") >= bytes as f64);
    assert_eq!(value("maskmill_shards_total{state=\"committed\"}"), 3.0);
    assert!(value("maskmill_images_per_second") > 0.0);
    for stage in STAGES {
        let series = format!("maskmill_stage_microseconds_total{{stage=\"{stage}\"}}");
        assert!(value(&series) > 0.0, "{stage} has taken time");
    }
    for stage in &STAGES[1..] {
        let series = format!("maskmill_queue_depth{{stage=\"{stage}\"}}");
        assert_eq!(value(&series), 0.0, "nothing waits for {stage} any more");
    }
    let requests = end_now.iter();
    let requests =
        requests.filter(|(series, _)| series.starts_with("maskmill_store_requests_total{"));
    assert!(
        requests.map(|(_, n)| n).sum::<f64>() >= 12.0,
        "{end_now:#?}"
    );
    end.open(Act::Go);
    running.wait().expect_code(0);
    assert!(scrape(&address).is_none(), "it ends with the job");
}

#[test]
fn retries_are_counted() {
    let server = start_server();
    let job = job(&server);
    let address = free_address();
    let refusals = AtomicUsize::new(0);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    server.hook(move |seen, phase| {
        if phase != Phase::Before {
            return Act::Go;
        }
        if seen.key == "source/1.png" && refusals.fetch_add(1, Ordering::SeqCst) < 2 {
            return Act::Status(503);
        }
        // Until the numbers are read.
        while seen.key == "job/_commits/000002.json" && !over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Act::Go
    });
    let running = Running::start(&job, &["--metrics-addr", &address]);
    wait_until("both retries are counted", || {
        let now = scrape(&address).unwrap_or_default();
        now.get("maskmill_store_retries_total") == Some(&2.0)
    });
    is_over.store(true, Ordering::SeqCst);
    running.wait().expect_code(0);
}

#[test]
fn the_config_may_give_the_address() {
    let server = start_server();
    let mut job = job(&server);
    let address = free_address();
    job.set(&format!("log.metrics_addr={address}"));
    let gate = Gate::at_write(&server, "_commits/000000.json");
    let running = Running::start(&job, &[]);
    gate.wait();
    assert!(scrape(&address).is_some());
    gate.open(Act::Go);
    running.wait().expect_code(0);
}

#[test]
fn a_port_that_is_taken_is_an_error_before_anything_is_done() {
    let server = start_server();
    let job = job(&server);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ran = job.job("run", &["--metrics-addr", &address]);
    ran.expect_code(2).expect_error(&[&format!(
        "metrics cannot be served at {address}; is the port taken?"
    )]);
    assert!(objects(&server).is_empty());
}
