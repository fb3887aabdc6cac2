//! What a run writes to standard error, and what it says at the end.

use std::collections::BTreeMap;

use maskmill_loopback_s3::Act;
use serde_json::Value;

use crate::support::Ran;
use crate::{job, start_server};

fn lines(ran: &Ran) -> Vec<Value> {
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    ran.stderr.lines().map(parse).collect()
}

#[test]
fn as_json_every_line_is_an_object_and_every_stage_has_spans_with_times() {
    let server = start_server();
    let mut job = job(&server);
    job.set("log.level=debug");
    let ran = job.job("run", &["--log-format", "json"]);
    ran.expect_code(0);
    let mut spans: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines(&ran) {
        assert!(line.is_object(), "{line}");
        let fields = &line["fields"];
        if fields["message"] != "close" || line["target"] == "hyper" {
            continue;
        }
        let Some(name) = line["span"]["name"].as_str() else {
            continue;
        };
        assert!(
            fields["time.busy"].is_string() && fields["time.idle"].is_string(),
            "{line}"
        );
        *spans.entry(name.to_owned()).or_default() += 1;
    }
    // Three shards; six images, of which one cannot be decoded.
    for (stage, count) in [
        ("fetch", 3),
        ("decode", 6),
        ("device", 5),
        ("select", 5),
        ("commit", 3),
    ] {
        assert_eq!(spans.get(stage), Some(&count), "{stage} in {spans:?}");
    }
}

#[test]
fn progress_lines_tell_of_every_shard() {
    let server = start_server();
    let mut job = job(&server);
    job.set("store.max_retries=0").set("run.shard_attempts=2");
    server.hook(|seen, _| match seen.key.as_str() {
        "source/2.png" => Act::Status(500),
        _ => Act::Go,
    });
    let ran = job.run();
    ran.expect_code(1);
    let events = ran.events();
    let of = |kind: &str| -> Vec<&Value> {
        let of_kind = events.iter().filter(|event| event["event"] == kind);
        of_kind.collect()
    };
    let planned = of("planned");
    assert_eq!(planned.len(), 1);
    assert_eq!(planned[0], &events[0]);
    assert_eq!(
        (&planned[0]["shards"], &planned[0]["images"]),
        (&3.into(), &6.into())
    );
    assert_eq!(
        (&planned[0]["committed"], &planned[0]["failed_before"]),
        (&0.into(), &0.into())
    );

    assert_eq!(ran.committed(), [0, 2]);
    for event in of("committed") {
        assert_eq!(
            (&event["images"], &event["rejected"]),
            (&2.into(), &0.into())
        );
        assert!(event["masks"].as_u64().unwrap() > 0);
        let stages = event["stage_seconds"].as_object().unwrap();
        assert!(
            stages.contains_key(event["bottleneck"].as_str().unwrap()),
            "{event}"
        );
        assert!(event["eta_seconds"].is_u64(), "{event}");
        assert!(
            event["images_per_second"].as_f64().unwrap() > 0.0,
            "{event}"
        );
    }
    let again = of("again");
    assert_eq!(again.len(), 1);
    assert_eq!(
        (&again[0]["shard"], &again[0]["attempt"]),
        (&1.into(), &1.into())
    );
    let failed = of("failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["shard"], 1);
    for event in [again[0], failed[0]] {
        let detail = event["detail"].as_str().unwrap();
        assert!(
            detail.contains("2.png") && detail.contains("500"),
            "{detail}"
        );
    }

    server.clear_hook();
    let ran = job.run();
    ran.expect_code(1)
        .expect_error(&["1 of 3 shards failed in an earlier run"]);
    assert_eq!(ran.events()[0]["committed"], 2);
    assert_eq!(ran.events()[0]["failed_before"], 1);
}

#[test]
fn a_run_says_how_long_its_warm_device_waited() {
    let server = start_server();
    let ran = job(&server).run();
    ran.expect_code(0);
    let (_, rest) = ran
        .stdout
        .split_once("the warm device waited for images ")
        .unwrap_or_else(|| panic!("{ran:#?}"));
    let share = rest.split(" % of the time").next().unwrap();
    let share: f64 = share.parse().unwrap();
    assert!((0.0..=100.0).contains(&share), "{share}");
}
