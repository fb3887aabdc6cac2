//! Every fault and every act of a hook, as a client meets it.

mod client;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use client::{BUCKET, builder, raw, raw_with_body, server_and_client};
use futures::TryStreamExt;
use maskmill_loopback_s3::{Act, FaultKind, Faults, LoopbackS3, Phase};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};

/// A public bucket with one object of 300,007 bytes, where every request meets `kind`.
fn faulty(kind: FaultKind) -> (LoopbackS3, Vec<u8>) {
    let server = LoopbackS3::start();
    server.create_bucket(BUCKET);
    server.make_public(BUCKET);
    let bytes: Vec<u8> = (0..300_007u32).map(|i| (i % 253) as u8).collect();
    server.put(BUCKET, "a.jpg", bytes.clone());
    server.fault(always(kind));
    (server, bytes)
}

fn always(kind: FaultKind) -> Faults {
    Faults {
        seed: 5,
        rate: 1.0,
        kinds: vec![kind],
    }
}

#[test]
fn a_status_is_answered_with_its_code_and_the_request_is_not_applied() {
    for (status, code) in [(500, "InternalError"), (503, "SlowDown")] {
        let (server, _) = faulty(FaultKind::Status(status));
        let got = raw(&server, "GET", "/photos/a.jpg", &[]);
        assert_eq!(got.status, Some(status));
        assert_eq!(got.xml("Code"), [code]);
        // Longer than a socket's buffers: the answer comes only to who has sent it all.
        let body = vec![7; 8 << 20];
        let put = raw_with_body(&server, "PUT", "/photos/b.jpg", &[], &body);
        assert_eq!(put.status, Some(status));
        assert_eq!(server.get(BUCKET, "b.jpg"), None);
    }
}

#[test]
fn a_timeout_says_nothing_for_its_time_and_then_hangs_up() {
    let wait = Duration::from_millis(120);
    let (server, _) = faulty(FaultKind::Timeout(wait));
    let before = Instant::now();
    let got = raw(&server, "GET", "/photos/a.jpg", &[]);
    assert!(before.elapsed() >= wait);
    assert_eq!(got.status, None);
    let seen = &server.requests()[0];
    assert_eq!(
        (seen.status, seen.fault),
        (None, Some(FaultKind::Timeout(wait)))
    );
}

#[test]
fn a_truncated_body_is_less_than_its_head_promises() {
    let (server, bytes) = faulty(FaultKind::TruncatedBody);
    let got = raw(&server, "GET", "/photos/a.jpg", &[]);
    assert_eq!(got.status, Some(200));
    assert_eq!(got.header("content-length"), Some("300007"));
    // Up to half: what the socket would not take before the cut is lost with it.
    assert!(got.body.len() <= 150_003 && !got.body.is_empty());
    assert_eq!(got.body, bytes[..got.body.len()]);
    let ranged = raw(&server, "GET", "/photos/a.jpg", &[("Range", "bytes=9-18")]);
    assert_eq!(ranged.status, Some(206));
    assert_eq!(ranged.body, bytes[9..14]);
    let listing = raw(&server, "GET", "/photos?list-type=2", &[]);
    let promised: usize = listing.header("content-length").unwrap().parse().unwrap();
    assert_eq!(listing.body.len(), promised / 2);
}

#[test]
fn a_slow_body_is_whole_and_slow() {
    let (server, bytes) = faulty(FaultKind::SlowBody { bytes_per_ms: 3000 });
    let before = Instant::now();
    let got = raw(&server, "GET", "/photos/a.jpg", &[]);
    assert_eq!(got.body, bytes);
    assert_eq!(got.header("content-length"), Some("300007"));
    // A lower bound, which no machine is too slow for: a timer is never early.
    assert!(before.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_dropped_request_has_no_answer() {
    let (server, _) = faulty(FaultKind::Dropped);
    assert_eq!(raw(&server, "GET", "/photos/a.jpg", &[]).status, None);
    server.fault(Faults::none());
    assert_eq!(raw(&server, "GET", "/photos/a.jpg", &[]).status, Some(200));
}

#[tokio::test]
async fn a_lost_response_hides_a_write_that_was_done_and_a_drop_one_that_was_not() {
    let (server, client) = server_and_client();
    let create = |key: &str| {
        let at = Path::parse(key).unwrap();
        let client = &client;
        async move {
            let how = PutMode::Create.into();
            client.put_opts(&at, "bytes".into(), how).await
        }
    };
    server.fault(always(FaultKind::LostResponse));
    assert!(create("done").await.is_err());
    assert_eq!(server.get(BUCKET, "done").unwrap(), "bytes");
    server.fault(always(FaultKind::Dropped));
    assert!(create("not done").await.is_err());
    assert_eq!(server.get(BUCKET, "not done"), None);
}

#[tokio::test]
async fn a_conflict_hits_creates_alone_and_writes_nothing() {
    let (server, client) = server_and_client();
    server.fault(always(FaultKind::Conflict));
    let at = Path::parse("marker").unwrap();
    let how = PutMode::Create.into();
    assert!(client.put_opts(&at, "x".into(), how).await.is_err());
    assert_eq!(server.requests()[0].status, Some(409));
    assert_eq!(server.get(BUCKET, "marker"), None);
    client.put(&at, "x".into()).await.unwrap();
    assert_eq!(server.get(BUCKET, "marker").unwrap(), "x");
}

#[tokio::test]
async fn a_client_that_tries_again_gets_through_every_kind_of_fault() {
    let (server, _) = server_and_client();
    let timeout = Duration::from_millis(40);
    server.fault(Faults::every_kind(17, 0.3, timeout));
    let client = builder(&server)
        .with_retry(object_store::RetryConfig {
            max_retries: 20,
            retry_timeout: Duration::from_secs(60),
            backoff: object_store::BackoffConfig {
                init_backoff: Duration::from_millis(1),
                max_backoff: Duration::from_millis(2),
                base: 2.0,
            },
        })
        .build()
        .unwrap();
    for index in 0..60 {
        let at = Path::parse(format!("part-{index:03}")).unwrap();
        let put = client.put(&at, format!("bytes of {index}").into());
        put.await.unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    server.fault(Faults::none());
    let listed: Vec<_> = client.list(None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 60);
    let hit = server
        .requests()
        .iter()
        .filter(|seen| seen.fault.is_some())
        .count();
    assert!(hit >= 10, "{hit} faults");
}

#[tokio::test]
async fn a_hook_sees_each_request_before_and_after() {
    let (server, client) = server_and_client();
    let (tell, told) = mpsc::channel();
    server.hook(move |seen, phase| {
        let _ = tell.send((
            phase,
            seen.method.to_string(),
            seen.key.clone(),
            seen.status,
        ));
        Act::Go
    });
    let at = Path::parse("a b.jpg").unwrap();
    client.put(&at, "x".into()).await.unwrap();
    server.clear_hook();
    client.head(&at).await.unwrap();
    let calls: Vec<_> = told.try_iter().collect();
    let call = |phase, status| (phase, "PUT".to_string(), "a b.jpg".to_string(), status);
    assert_eq!(
        calls,
        [call(Phase::Before, None), call(Phase::After, Some(200))]
    );
    let seen = server.requests();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].signed && seen[1].status == Some(200));
    server.clear_requests();
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn a_hook_drops_answers_and_holds_at_one_exact_step() {
    let (server, client) = server_and_client();
    server.hook(|seen, phase| match (seen.key.as_str(), phase) {
        ("before", Phase::Before) | ("after", Phase::After) => Act::Drop,
        ("status", Phase::After) => Act::Status(503),
        ("held", Phase::Before) => Act::Hold(Duration::from_millis(60)),
        ("panics", Phase::Before) => panic!("a hook that panics closes the connection"),
        _ => Act::Go,
    });
    let started = Instant::now();
    for (key, answered, applied) in [
        ("before", false, false),
        ("after", false, true),
        ("status", false, true),
        ("held", true, true),
        ("panics", false, false),
        ("other", true, true),
    ] {
        let put = client.put(&Path::parse(key).unwrap(), "x".into()).await;
        assert_eq!(put.is_ok(), answered, "{key}");
        assert_eq!(server.get(BUCKET, key).is_some(), applied, "{key}");
    }
    assert!(started.elapsed() >= Duration::from_millis(60));
}

#[test]
fn others_are_served_while_a_hook_blocks() {
    let (server, _) = server_and_client();
    server.make_public(BUCKET);
    server.put(BUCKET, "a.jpg", "bytes");
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let blocked = std::sync::Arc::new(AtomicUsize::new(0));
    let count = blocked.clone();
    server.hook(move |seen, phase| {
        if seen.range.is_some() && phase == Phase::Before {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = wait.lock().unwrap().recv();
        }
        Act::Go
    });
    std::thread::scope(|scope| {
        // More than the server has threads.
        let mut held = Vec::new();
        for _ in 0..5 {
            let server = &server;
            let range = [("Range", "bytes=1-2")];
            held.push(scope.spawn(move || raw(server, "GET", "/photos/a.jpg", &range)));
        }
        while blocked.load(Ordering::SeqCst) < 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(raw(&server, "GET", "/photos/a.jpg", &[]).body, b"bytes");
        for _ in 0..5 {
            release.send(()).unwrap();
        }
        for thread in held {
            assert_eq!(thread.join().unwrap().body, b"yt");
        }
    });
}

#[test]
fn a_listing_can_change_between_two_pages() {
    let (server, _) = server_and_client();
    let server = std::sync::Arc::new(server);
    server.make_public(BUCKET);
    server.set_page_size(2);
    for key in ["b", "d", "f"] {
        server.put(BUCKET, key, key);
    }
    let weak = std::sync::Arc::downgrade(&server);
    server.hook(move |seen, phase| {
        if let (Some(server), Phase::After, true) = (weak.upgrade(), phase, seen.is_list()) {
            for key in ["a", "c", "e"] {
                server.put(BUCKET, key, key);
            }
            server.remove(BUCKET, "f");
        }
        Act::Go
    });
    let first = raw(&server, "GET", "/photos?list-type=2", &[]);
    assert_eq!(first.xml("Key"), ["b", "d"]);
    let token = &first.xml("NextContinuationToken")[0];
    let uri = format!("/photos?list-type=2&continuation-token={token}");
    let second = raw(&server, "GET", &uri, &[]);
    assert_eq!(second.xml("Key"), ["e"]);
    assert_eq!(second.xml("IsTruncated"), ["false"]);
}
