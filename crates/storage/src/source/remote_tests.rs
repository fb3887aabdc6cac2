//! Buckets and web servers, well and unwell.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use maskmill_loopback_s3::{Act, FaultKind, Faults, LoopbackS3, Phase};
use object_store::aws::AmazonS3Builder;
use object_store::signer::Signer;

use super::*;
use crate::testing::{BUCKET, all_text, assert_no_secret, impatient, server, stores_of};

fn images(name: &str) -> Wanted {
    Wanted::extension(name, &["jpg", "png"])
}

fn open(stores: &Stores, root: &str) -> SourceStore {
    SourceStore::open_in(root, stores.clone()).unwrap()
}

fn keys(listing: &Listing) -> Vec<&str> {
    listing.files.iter().map(|file| file.key.as_str()).collect()
}

fn bad_keys(listing: &Listing) -> Vec<&str> {
    let bad = listing.rejects.iter();
    let bad = bad.filter(|reject| reject.reason == RejectReason::BadKey);
    bad.map(|reject| reject.key.as_str()).collect()
}

async fn read(store: &SourceStore, at: &str) -> Result<Bytes, ReadError> {
    let fetch = store.get(at, Expect::default(), 1 << 30).await?;
    fetch.body().await
}

/// Bytes that differ everywhere.
fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|i| (i ^ (i >> 8) ^ (i >> 15)) as u8)
        .collect()
}

const ODD: [&str; 14] = [
    "a b.jpg",
    "%2F.jpg",
    "a%20b.jpg",
    "\u{fc}.jpg",
    "\u{1f408}/1.jpg",
    "a+b.jpg",
    "a&b<c>.jpg",
    "a?b=c.jpg",
    "a#1.jpg",
    "..x.jpg",
    "a\\b.jpg",
    "'\"`.jpg",
    "{}|^~[].jpg",
    "e\u{301}.jpg",
];

#[tokio::test]
async fn five_thousand_keys_are_listed_over_many_pages_whatever_they_are_called() {
    let (server, stores) = server();
    server.set_page_size(100);
    let mut expected = BTreeSet::from(ODD.map(str::to_string));
    expected.extend((0..5_000).map(|n| format!("{:03}/{n:05}.jpg", n % 37)));
    for key in &expected {
        server.put(BUCKET, &format!("in/{key}"), key.clone());
    }
    server.put(BUCKET, "in/notes.txt", "x");
    server.put(BUCKET, "in", "x");
    server.put(BUCKET, "inside/other.jpg", "x");
    let listing = open(&stores, "s3://photos/in/")
        .list(&images)
        .await
        .unwrap();
    assert!(
        keys(&listing).iter().eq(expected.iter()),
        "and sorted by bytes"
    );
    assert_eq!(listing.rejects, []);
    assert!(
        listing
            .files
            .iter()
            .all(|f| f.bytes == f.key.len() as u64 && f.etag.is_some())
    );
    assert_eq!(server.requests().len(), 51, "one a page");
}

#[tokio::test]
async fn odd_keys_are_read_by_key_and_by_uri() {
    let (server, stores) = server();
    for key in ODD {
        server.put(BUCKET, &format!("in/{key}"), key);
    }
    let store = open(&stores, "s3://photos/in");
    for file in store.list(&images).await.unwrap().files {
        for at in [file.key.clone(), format!("s3://photos/in/{}", file.key)] {
            assert_eq!(read(&store, &at).await.unwrap(), file.key, "{at}");
        }
    }
}

#[tokio::test]
async fn keys_that_cannot_be_asked_for_are_named_and_the_others_are_listed() {
    let (server, stores) = server();
    server.set_page_size(100);
    let good: Vec<String> = (0..500).map(|n| format!("{n:03}.jpg")).collect();
    let mut bad: Vec<String> = [0, 7, 8, 9, 250, 499]
        .into_iter()
        .flat_map(|n| [format!("{n:03}/../b.jpg"), format!("{n:03}//b.jpg")])
        .collect();
    bad.extend((0..40).map(|n| format!("zz/./{n:02}.jpg")));
    for key in good.iter().chain(&bad) {
        server.put(BUCKET, &format!("in/{key}"), "x");
    }
    server.put(BUCKET, "in/a//notes.txt", "not asked for");
    let listing = open(&stores, "s3://photos/in").list(&images).await.unwrap();
    bad.sort();
    assert_eq!(keys(&listing), good);
    assert_eq!(bad_keys(&listing), bad);
    assert!(listing.rejects[0].detail.contains("rename it"));
    assert!(server.requests().len() < 300, "{}", server.requests().len());
}

#[tokio::test]
async fn keys_that_begin_with_a_slash_do_not_hide_others_in_a_whole_bucket() {
    let (server, stores) = server();
    server.set_page_size(3);
    let good = [
        "!.jpg", "-a.jpg", "-b.jpg", ".z.jpg", "0.jpg", "a.jpg", "b/c.jpg", "z.jpg",
    ];
    let bad = ["/-a.jpg", "/a.jpg", "//b.jpg", "/b.jpg", "/c/d.jpg"];
    for key in good.iter().chain(&bad) {
        server.put(BUCKET, key, "x");
    }
    let listing = open(&stores, "s3://photos").list(&images).await.unwrap();
    assert_eq!(keys(&listing), good);
    let mut bad = bad.to_vec();
    bad.sort_unstable();
    assert_eq!(bad_keys(&listing), bad);
}

#[tokio::test]
async fn folder_markers_are_no_files_and_empty_files_are() {
    let (server, stores) = server();
    for (key, content) in [
        ("in/", ""),
        ("in/album.jpg/", ""),
        ("in/album.jpg/1.jpg", "one"),
        ("in/both.jpg", "file"),
        ("in/both.jpg/", ""),
        ("in/both.jpg-2.jpg", "between"),
        ("in/empty.jpg", ""),
    ] {
        server.put(BUCKET, key, content);
    }
    server.set_page_size(1);
    let listing = open(&stores, "s3://photos/in").list(&images).await.unwrap();
    let files = ["album.jpg/1.jpg", "both.jpg", "both.jpg-2.jpg", "empty.jpg"];
    assert_eq!(keys(&listing), files);
    assert_eq!(listing.files[1].bytes, 4);
}

#[tokio::test]
async fn a_listing_goes_on_after_errors_without_gaps_or_repetitions() {
    let (server, stores) = server();
    server.set_page_size(10);
    let expected: Vec<String> = (0..300).map(|n| format!("{n:03}.jpg")).collect();
    for key in &expected {
        server.put(BUCKET, key, "x");
    }
    let kinds = vec![
        FaultKind::Status(503),
        FaultKind::Dropped,
        FaultKind::TruncatedBody,
        FaultKind::Timeout(Duration::from_millis(900)),
    ];
    server.fault(Faults {
        seed: 3,
        rate: 0.3,
        kinds,
    });
    let listing = open(&stores, "s3://photos").list(&images).await.unwrap();
    assert_eq!(keys(&listing), expected);
    let hit = server
        .requests()
        .iter()
        .filter(|seen| seen.fault.is_some())
        .count();
    assert!(hit >= 3, "{hit}");
}

#[tokio::test]
async fn a_root_may_be_one_object_or_nothing() {
    let (server, stores) = server();
    server.put(BUCKET, "a/x.tar", "tar");
    let store = open(&stores, "s3://photos/a/x.tar");
    let listing = store.list(&Wanted::tar).await.unwrap();
    assert_eq!(keys(&listing), ["x.tar"]);
    let file = &listing.files[0];
    let expect = Expect {
        bytes: Some(3),
        etag: file.etag.as_deref(),
    };
    assert_eq!(
        store
            .get("x.tar", expect, 9)
            .await
            .unwrap()
            .body()
            .await
            .unwrap(),
        "tar"
    );
    assert_eq!(store.open_blob("x.tar", expect).await.unwrap().bytes(), 3);
    for (root, what) in [
        ("s3://photos/b", "does not exist"),
        ("s3://no-such-bucket/b", "does not exist"),
        ("s3://photos/a/x.tar/", "is a file"),
    ] {
        let error = open(&stores, root).list(&images).await.unwrap_err();
        assert!(error.to_string().contains(what), "{root}: {error}");
    }
    assert_eq!(
        open(&stores, "s3://photos/").list(&images).await.unwrap(),
        Listing::default()
    );
}

#[tokio::test]
async fn a_public_bucket_is_read_without_credentials() {
    let (server, _) = server();
    server.put(BUCKET, "a.jpg", "x");
    let options = StoreOptions {
        s3_endpoint: Some(server.endpoint()),
        s3_anonymous: true,
        ..impatient()
    };
    let store = open(&Stores::in_environment(&options, Vec::new()), "s3://photos");
    let error = store.list(&images).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreadable { .. }), "{error}");
    server.make_public(BUCKET);
    assert_eq!(keys(&store.list(&images).await.unwrap()), ["a.jpg"]);
    assert_eq!(read(&store, "a.jpg").await.unwrap(), "x");
    assert!(server.requests().iter().all(|seen| !seen.signed));
}

#[tokio::test]
async fn what_changes_or_goes_between_the_listing_and_the_read_is_noticed() {
    let (server, stores) = server();
    for key in ["etag.jpg", "size.jpg", "gone.jpg", "same.jpg"] {
        server.put(BUCKET, key, "listed");
    }
    let store = open(&stores, "s3://photos");
    let listing = store.list(&images).await.unwrap();
    server.put(BUCKET, "etag.jpg", "LISTED");
    server.put(BUCKET, "size.jpg", "longer than listed");
    server.remove(BUCKET, "gone.jpg");
    let mut reasons = Vec::new();
    for file in &listing.files {
        let expect = Expect {
            bytes: Some(file.bytes),
            etag: file.etag.as_deref(),
        };
        let fetched = store.get(&file.key, expect, 100).await;
        let opened = store.open_blob(&file.key, expect).await;
        let reason = fetched.err().and_then(|error| error.reject_reason());
        assert_eq!(opened.err().and_then(|error| error.reject_reason()), reason);
        reasons.push(reason);
    }
    assert_eq!(
        reasons,
        [Some("changed"), Some("missing"), None, Some("changed")]
    );
}

#[tokio::test]
async fn expired_credentials_stop_and_are_no_fault_of_the_image() {
    let (server, stores) = server();
    server.put(BUCKET, "a.jpg", "x");
    let store = open(&stores, "s3://photos");
    let blob = store.open_blob("a.jpg", Expect::default()).await.unwrap();
    server.expire_credentials(true);
    server.clear_requests();
    let errors = [
        read(&store, "a.jpg").await.unwrap_err(),
        store.facts("a.jpg").await.unwrap_err(),
        blob.range(0..1).await.unwrap_err(),
    ];
    for error in errors {
        assert!(
            error.is_credentials() && error.reject_reason().is_none(),
            "{error}"
        );
        let text = all_text(&error);
        assert!(
            text.contains("s3://photos/a.jpg") && text.contains("have expired"),
            "{text}"
        );
        assert_no_secret(&text);
    }
    let error = store.list(&images).await.unwrap_err();
    assert!(matches!(error, SourceError::Credentials { .. }), "{error}");
    assert_no_secret(&all_text(&error));
    // A HEAD has no body to say why, so it is asked again; nothing else is.
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn wrong_credentials_are_told_and_not_shown() {
    let (server, _) = server();
    server.put(BUCKET, "a.jpg", "x");
    let mut environment = server.environment();
    for (name, value) in &mut environment {
        if name == "AWS_SECRET_ACCESS_KEY" {
            *value = "a wrong one".to_string();
        }
    }
    let stores = Stores::in_environment(&impatient(), environment);
    let store = open(&stores, "s3://photos");
    for text in [
        all_text(&read(&store, "a.jpg").await.unwrap_err()),
        all_text(&store.list(&images).await.unwrap_err()),
        format!("{store:?} {stores:?}"),
    ] {
        assert_no_secret(&text);
        assert!(!text.contains("a wrong one"), "{text}");
    }
    let error = read(&store, "a.jpg").await.unwrap_err();
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");

    let half = vec![("AWS_ACCESS_KEY_ID".to_string(), "AKIA".to_string())];
    let half = Stores::in_environment(&impatient(), half);
    let error = SourceStore::open_in("s3://photos", half).unwrap_err();
    assert!(all_text(&error).contains("environment"), "{error:?}");
}

#[tokio::test]
async fn no_credentials_at_all_is_told_soon() {
    let (server, _) = server();
    let mut environment = server.environment();
    environment.retain(|(name, _)| !name.contains("KEY") && !name.contains("TOKEN"));
    let nobody = "http://127.0.0.1:1".to_string();
    environment.push(("AWS_METADATA_ENDPOINT".to_string(), nobody));
    let stores = Stores::in_environment(&impatient(), environment);
    let error = read(&open(&stores, "s3://photos"), "a.jpg")
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no credentials were found"),
        "{error}"
    );
    assert!(error.is_credentials());
}

#[tokio::test]
async fn bodies_are_whole_whatever_happens_on_the_way() {
    let (server, stores) = server();
    let images: Vec<(String, Bytes)> = (0..24)
        .map(|n| (format!("{n:02}.jpg"), pattern(40_000 + 977 * n)))
        .collect();
    for (key, bytes) in &images {
        server.put(BUCKET, key, bytes.clone());
    }
    server.fault(Faults::every_kind(5, 0.5, Duration::from_millis(900)));
    let store = open(&stores, "s3://photos");
    for (key, bytes) in &images {
        assert_eq!(read(&store, key).await.unwrap(), bytes, "{key}");
    }
    let met: BTreeSet<String> = server
        .requests()
        .iter()
        .filter_map(|seen| seen.fault.map(|fault| format!("{fault:?}")))
        .collect();
    assert!(met.len() >= 5, "{met:?}");
}

#[tokio::test]
async fn a_body_may_wait_for_its_reader_longer_than_for_its_server() {
    let (server, stores) = server();
    let bytes = pattern(8 << 20); // More than the sockets hold.
    server.put(BUCKET, "a.jpg", bytes.clone());
    let store = open(&stores, "s3://photos");
    let fetch = store
        .get("a.jpg", Expect::default(), 1 << 30)
        .await
        .unwrap();
    assert_eq!(fetch.bytes(), 8 << 20);
    tokio::time::sleep(3 * impatient().request_timeout).await;
    assert_eq!(fetch.body().await.unwrap(), bytes);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_server_that_stays_ill_is_no_fault_of_the_image() {
    let (server, stores) = server();
    server.put(BUCKET, "a.jpg", "x");
    let store = open(&stores, "s3://photos");
    for kind in [FaultKind::Status(500), FaultKind::Dropped] {
        let kinds = vec![kind];
        server.fault(Faults {
            seed: 1,
            rate: 1.0,
            kinds,
        });
        server.clear_requests();
        let error = read(&store, "a.jpg").await.unwrap_err();
        assert!(matches!(error, ReadError::Transient { .. }), "{error}");
        assert_eq!(error.reject_reason(), None);
        let sent = server.requests().len();
        assert_eq!(sent as u32, 1 + impatient().max_retries, "{error}");
        assert!(error.to_string().contains("s3://photos/a.jpg"), "{error}");
    }
    assert!(crate::store_counters().retries > 0);
    drop(server);
    let error = read(&store, "a.jpg").await.unwrap_err();
    assert!(matches!(error, ReadError::Transient { .. }), "{error}");
}

/// A presigned URL of an object, valid for an hour.
async fn presigned(server: &LoopbackS3, key: &str) -> String {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_allow_http(true);
    for (variable, value) in server.environment() {
        if let Ok(key) = variable.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let s3 = builder.build().unwrap();
    let path = object_store::path::Path::parse(key).unwrap();
    let hour = Duration::from_secs(3600);
    let url = s3.signed_url(http::Method::GET, &path, hour).await;
    url.unwrap().to_string()
}

#[tokio::test]
async fn a_presigned_url_is_read_and_its_query_never_shown() {
    let (server, stores) = server();
    let store = open(&stores, "/tmp");
    for key in ["a b.jpg", "%2F.jpg", "\u{fc}+&.jpg"] {
        server.put(BUCKET, key, pattern(30_000));
        let url = presigned(&server, key).await;
        assert_eq!(read(&store, &url).await.unwrap(), pattern(30_000), "{key}");
        let facts = store.facts(&url).await.unwrap();
        assert_eq!(facts.bytes, 30_000);
        let blob = store.open_blob(&url, Expect::default()).await.unwrap();
        assert_eq!(blob.range(7..19).await.unwrap(), pattern(19).slice(7..));

        let wrong = url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3599");
        let error = read(&store, &wrong).await.unwrap_err();
        assert_eq!(error.reject_reason(), Some("unreadable"), "{error}");
        assert_no_secret(&all_text(&error));

        let (_, date) = url.split_once("X-Amz-Date=").unwrap();
        let old = url.replace(&date[..8], "20200101");
        let error = read(&store, &old).await.unwrap_err();
        assert!(
            error.to_string().contains("make the manifest's URLs anew"),
            "{error}"
        );
        assert!(error.is_credentials());
        assert_no_secret(&all_text(&error));

        server.remove(BUCKET, key);
        let error = read(&store, &url).await.unwrap_err();
        assert_eq!(error.reject_reason(), Some("missing"));
    }
    let url = presigned(&server, "set/a.jpg").await;
    server.put(BUCKET, "set/a.jpg", "one");
    let one = open(&stores, &url);
    assert_no_secret(&format!("{one:?} {}", one.location()));
    assert_eq!(keys(&one.list(&images).await.unwrap()), ["a.jpg"]);
    assert_eq!(read(&one, "a.jpg").await.unwrap(), "one");
    server.fault(Faults {
        seed: 1,
        rate: 1.0,
        kinds: vec![FaultKind::Status(500)],
    });
    assert_no_secret(&all_text(&read(&one, "a.jpg").await.unwrap_err()));
}

#[tokio::test]
async fn a_web_server_has_files_and_no_listing() {
    let (server, stores) = server();
    server.make_public(BUCKET);
    server.put(BUCKET, "set/a.jpg", "x");
    let root = format!("{}/photos/set/", server.endpoint());
    let store = open(&stores, &root);
    let error = store.list(&images).await.unwrap_err();
    assert!(error.to_string().contains("manifest"), "{error}");
    assert_eq!(read(&store, "a.jpg").await.unwrap(), "x");
    for (at, reason) in [
        ("b.jpg", "missing"),
        ("https://user:hunter2@h/x.jpg", "bad_uri"),
        ("http://", "bad_uri"),
    ] {
        let error = read(&store, at).await.unwrap_err();
        assert_eq!(error.reject_reason(), Some(reason), "{error}");
        assert!(!all_text(&error).contains("hunter2"));
    }
    let private = format!("{}/no-such-bucket/a.jpg", server.endpoint());
    let error = read(&store, &private).await.unwrap_err();
    assert!(
        error.reject_reason().is_some(),
        "other people's servers end no job: {error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_gives_the_same_bytes_under_faults() {
    let (server, stores) = server();
    let bytes = pattern(700_001);
    server.put(BUCKET, "a.tar", bytes.clone());
    server.fault(Faults::every_kind(11, 0.4, Duration::from_millis(900)));
    let store = open(&stores, "s3://photos");
    for (chunk, ahead) in [(65_536, 3), (700_001, 1), (1 << 20, 4), (99_999, 2)] {
        let blob = store.open_blob("a.tar", Expect::default()).await.unwrap();
        let mut stream = blob.sequential(tokio::runtime::Handle::current(), chunk, ahead);
        let read = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            let mut buffer = [0; 7_919];
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return read,
                    n => read.extend_from_slice(&buffer[..n]),
                }
            }
        });
        assert!(
            read.await.unwrap() == bytes,
            "chunks of {chunk}, {ahead} ahead"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_asks_ahead_as_far_as_it_may() {
    let (server, stores) = server();
    server.put(BUCKET, "a.tar", pattern(100_000));
    let store = open(&stores, "s3://photos");
    let blob = store.open_blob("a.tar", Expect::default()).await.unwrap();
    server.clear_requests();
    let mut stream = blob.sequential(tokio::runtime::Handle::current(), 10_000, 3);
    let asked = |n: usize| {
        let server = &server;
        async move {
            let begin = Instant::now();
            while server.requests().len() < n && begin.elapsed() < Duration::from_secs(10) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(server.requests().len(), n);
        }
    };
    asked(3).await;
    let stream = tokio::task::spawn_blocking(move || {
        stream.read_exact(&mut [0; 10_000]).unwrap();
        stream
    });
    let stream = stream.await.unwrap();
    asked(4).await;
    drop(stream);
    asked(4).await;
    assert!(server.requests().iter().all(|seen| seen.if_match.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_file_that_changes_ends_with_that_and_not_with_other_bytes() {
    let (server, stores) = server();
    server.put(BUCKET, "a.tar", pattern(100_000));
    let store = open(&stores, "s3://photos");
    let blob = store.open_blob("a.tar", Expect::default()).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let mut stream = blob.sequential(runtime.clone(), 10_000, 1);
    let random = blob.random(runtime, 10_000, 4);
    server.put(BUCKET, "a.tar", Bytes::from(vec![7; 50_000]));
    let errors = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        let error = stream.read_to_end(&mut read).unwrap_err();
        assert_eq!(read, pattern(100_000)[..read.len()]);
        let wrapped = io::Error::other(io::Error::other(error));
        [wrapped, random.read_at(90_000, 10).unwrap_err()]
    });
    for error in errors.await.unwrap() {
        let reason = read_error(&error).and_then(ReadError::reject_reason);
        assert_eq!(reason, Some("changed"), "{error}");
    }
    assert!(read_error(&io::Error::other("another")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_reads_give_the_same_bytes_under_faults_and_from_many_threads() {
    let (server, stores) = server();
    let bytes = pattern(300_007);
    server.put(BUCKET, "a.parquet", bytes.clone());
    let store = open(&stores, "s3://photos");
    let blob = store
        .open_blob("a.parquet", Expect::default())
        .await
        .unwrap();
    server.fault(Faults::every_kind(2, 0.3, Duration::from_millis(900)));
    let reader = Arc::new(blob.random(tokio::runtime::Handle::current(), 10_000, 6));
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let (reader, bytes) = (reader.clone(), bytes.clone());
            tokio::task::spawn_blocking(move || {
                for n in 0..30u64 {
                    let offset = (n * 77_777 + thread * 31_337) % bytes.len() as u64;
                    let length = [1, 9_999, 10_001, 55_555][(n % 4) as usize];
                    let length = length.min(bytes.len() - offset as usize);
                    let read = reader.read_at(offset, length).unwrap();
                    let offset = offset as usize;
                    assert!(
                        read == bytes.slice(offset..offset + length),
                        "{offset} {length}"
                    );
                }
                let beyond = reader.read_at(300_000, 8).unwrap_err();
                assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
                assert_eq!(reader.read_at(300_007, 0).unwrap(), Bytes::new());
            })
        })
        .collect();
    for thread in threads {
        thread.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_asked_for_once_and_ahead_when_reading_forwards() {
    let (server, stores) = server();
    server.put(BUCKET, "a.parquet", pattern(100_000));
    let store = open(&stores, "s3://photos");
    let blob = store
        .open_blob("a.parquet", Expect::default())
        .await
        .unwrap();
    server.clear_requests();
    let reader = blob.random(tokio::runtime::Handle::current(), 10_000, 16);
    let reader = tokio::task::spawn_blocking(move || {
        for offset in (0..50_000).step_by(1_000) {
            reader.read_at(offset, 1_000).unwrap();
        }
        reader
    });
    let _reader = reader.await.unwrap();
    let begin = Instant::now();
    while server.requests().len() < 6 && begin.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut ranges: Vec<_> = server
        .requests()
        .into_iter()
        .filter_map(|seen| seen.range)
        .collect();
    ranges.sort();
    let blocks = [0, 1, 2, 3, 4, 5].map(|n| format!("bytes={}-{}", n * 10_000, n * 10_000 + 9_999));
    assert_eq!(ranges, blocks);
}

#[tokio::test]
async fn a_hook_sees_one_request_for_a_read() {
    // The price of a read: one request, no HEAD before it.
    let (server, stores) = server();
    server.put(BUCKET, "a.jpg", "x");
    let store = open(&stores, "s3://photos");
    server.hook(|seen, phase| match (seen.method.as_str(), phase) {
        ("GET", _) | (_, Phase::After) => Act::Go,
        _ => Act::Status(500),
    });
    assert_eq!(read(&store, "a.jpg").await.unwrap(), "x");
    assert_eq!(server.requests().len(), 1);
    drop(stores_of(&server));
}
