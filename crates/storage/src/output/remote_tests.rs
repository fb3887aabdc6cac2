//! Outputs on a server that misbehaves.

use std::sync::atomic::AtomicUsize;

use maskmill_loopback_s3::{Act, FaultKind, Faults, LoopbackS3, Phase};

use super::*;
use crate::testing::{BUCKET, all_text, assert_no_secret, impatient, server, stores_of};

fn open(stores: &Stores) -> OutputStore {
    OutputStore::open_in("s3://photos/out", stores).unwrap()
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Does something to the first `times` creates, before or after they are applied.
fn on_create(server: &LoopbackS3, times: usize, at: Phase, act: Act) {
    let done = AtomicUsize::new(0);
    server.hook(move |seen, phase| {
        let count = || done.fetch_add(1, Ordering::SeqCst);
        match phase == at && seen.is_create() && count() < times {
            true => act,
            false => Act::Go,
        }
    });
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_known_to_be_ours() {
    for (at, act) in [
        (Phase::After, Act::Drop),
        (Phase::After, Act::Status(500)),
        (Phase::After, Act::Hold(Duration::from_secs(1))),
        (Phase::Before, Act::Drop),
        (Phase::Before, Act::Status(503)),
        (Phase::Before, Act::Status(409)),
    ] {
        for times in [1, 3] {
            let (server, stores) = server();
            let store = open(&stores);
            on_create(&server, times, at, act);
            let put = store.put_if_absent("_commits/000001.json", text("ours"));
            assert_eq!(
                put.await.unwrap(),
                PutOutcome::Created,
                "{at:?} {act:?} {times}"
            );
            server.clear_hook();

            server.put(BUCKET, "out/theirs", "theirs");
            on_create(&server, times, at, act);
            let put = store.put_if_absent("theirs", text("ours"));
            assert_eq!(
                put.await.unwrap(),
                PutOutcome::AlreadyExists,
                "{at:?} {act:?} {times}"
            );
            assert_eq!(server.get(BUCKET, "out/theirs").unwrap(), "theirs");
        }
    }
}

#[tokio::test]
async fn a_plain_write_costs_one_request() {
    let (server, stores) = server();
    let store = open(&stores);
    store.put_if_absent("a", text("x")).await.unwrap();
    store.put_if_absent("a", text("y")).await.unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_under_faults_one_creates_each_object() {
    let (server, stores) = server();
    server.fault(Faults::every_kind(9, 0.4, 2 * impatient().request_timeout));
    let writers = [stores, stores_of(&server)].map(|stores| open(&stores));
    let writers = writers.into_iter().enumerate().map(|(writer, store)| {
        tokio::spawn(async move {
            let mut created = Vec::new();
            for n in 0..30 {
                let bytes = format!("object {n} of writer {writer}");
                let put = store.put_if_absent(&format!("{n:02}"), bytes.into()).await;
                created.push(put.unwrap() == PutOutcome::Created);
            }
            created
        })
    });
    let mut created = Vec::new();
    for writer in futures::future::join_all(writers).await {
        created.push(writer.unwrap());
    }
    for n in 0..30 {
        let winner = usize::from(created[1][n]);
        assert!(created[0][n] != created[1][n], "{n}: {created:?}");
        let bytes = server.get(BUCKET, &format!("out/{n:02}")).unwrap();
        assert_eq!(bytes, format!("object {n} of writer {winner}"));
    }
}

#[tokio::test]
async fn everything_works_under_faults() {
    let (server, stores) = server();
    server.set_page_size(5);
    server.fault(Faults::every_kind(4, 0.3, 2 * impatient().request_timeout));
    let store = open(&stores);
    let large: Bytes = (0..(UPLOAD_PART + 100_001))
        .map(|i| (i / 99) as u8)
        .collect();
    store.put_large("masks/large", large.clone()).await.unwrap();
    assert!(store.get("masks/large").await.unwrap() == Some(large));
    let mut paths = Vec::new();
    for n in 0..20 {
        let path = format!("images/{n:02}");
        store.put_if_absent(&path, text("x")).await.unwrap();
        assert!(store.exists(&path).await.unwrap());
        paths.push(path);
    }
    assert_eq!(store.list("images").await.unwrap().len(), 20);
    assert_eq!(
        store.list_shallow("").await.unwrap().directories,
        ["images", "masks"]
    );
    store.now().await.unwrap();
    store.delete(&paths).await.unwrap();
    server.fault(Faults::none());
    assert_eq!(server.keys(BUCKET, ""), ["out/masks/large"]);
    let hit = server
        .requests()
        .iter()
        .filter(|seen| seen.fault.is_some())
        .count();
    assert!(hit > 10, "{hit}");
}

#[tokio::test]
async fn a_large_upload_that_fails_leaves_nothing() {
    let (server, stores) = server();
    server.hook(|seen, phase| match (phase, seen.parameter("partNumber")) {
        (Phase::Before, Some("2")) => Act::Status(400),
        _ => Act::Go,
    });
    let large = Bytes::from(vec![1; UPLOAD_PART * 2]);
    let error = open(&stores)
        .put_large("masks/large", large)
        .await
        .unwrap_err();
    assert!(!error.is_transient(), "{error}");
    assert_eq!(server.keys(BUCKET, ""), Vec::<String>::new());
    let requests = server.requests();
    let aborted = requests
        .iter()
        .filter(|seen| seen.method == http::Method::DELETE);
    assert_eq!(aborted.count(), 1);
}

#[tokio::test]
async fn the_stores_clock_is_the_servers() {
    let (server, stores) = server();
    server.set_clock_skew(-7200);
    let now = open(&stores).now().await.unwrap();
    let behind = SystemTime::now().duration_since(now).unwrap().as_secs();
    assert!((7190..7300).contains(&behind), "{behind}");
    assert_eq!(server.keys(BUCKET, ""), Vec::<String>::new());
}

#[tokio::test]
async fn an_output_that_must_exist_is_looked_for() {
    let (server, stores) = server();
    let existing = || OutputStore::open_existing_in("s3://photos/out", &stores);
    let error = existing().await.unwrap_err();
    assert!(matches!(error, StorageError::NoOutput { .. }), "{error}");
    server.put(BUCKET, "out/", "");
    server.put(BUCKET, "outside", "x");
    let error = existing().await.unwrap_err();
    assert!(
        matches!(error, StorageError::NoOutput { .. }),
        "a marker alone: {error}"
    );
    server.put(BUCKET, "out/_job.json", "{}");
    let store = existing().await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
    let elsewhere = OutputStore::open_existing_in("s3://no-such-bucket/out", &stores).await;
    assert!(elsewhere.is_err());
}

#[tokio::test]
async fn expired_credentials_and_a_dead_server_are_told_apart_and_no_secret_is_shown() {
    let (server, stores) = server();
    let store = open(&stores);
    assert_no_secret(&format!("{store:?} {:?}", impatient()));
    server.expire_credentials(true);
    let errors = [
        store.put_if_absent("a", text("x")).await.unwrap_err(),
        store.get("a").await.unwrap_err(),
        store.exists("a").await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.put_large("masks/a", text("x")).await.unwrap_err(),
        store.delete(&["a".to_string()]).await.unwrap_err(),
        store.now().await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_credentials(), "{}", all_text(&error));
        assert!(error.to_string().contains("have expired"), "{error}");
        assert_no_secret(&all_text(&error));
    }
    server.expire_credentials(false);
    let kinds = vec![FaultKind::Status(500)];
    server.fault(Faults {
        seed: 1,
        rate: 1.0,
        kinds,
    });
    let error = store.put_if_absent("a", text("x")).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_no_secret(&all_text(&error));
    drop(server);
    let error = store.list("").await.unwrap_err();
    assert!(error.is_transient(), "{}", all_text(&error));
}

#[tokio::test]
#[should_panic(expected = "is never deleted")]
async fn a_marker_is_never_deleted() {
    let (_server, stores) = server();
    let paths = ["masks/part-000000.parquet", "_commits/000000.json"].map(str::to_string);
    let _ = open(&stores).delete(&paths).await;
}

#[tokio::test]
#[should_panic(expected = "is not overwritten")]
async fn a_part_is_never_overwritten() {
    let (_server, stores) = server();
    let _ = open(&stores)
        .replace("masks/part-000000.parquet", text("x"))
        .await;
}
