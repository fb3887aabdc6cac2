//! What S3 promises, seen through a client that signs.

mod client;

use std::sync::{Arc, Barrier};
use std::time::SystemTime;

use bytes::Bytes;
use client::{BUCKET, builder, server_and_client};
use futures::{StreamExt, TryStreamExt, stream};
use maskmill_loopback_s3::{ACCESS_KEY, LoopbackS3};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion,
};

fn path(key: &str) -> Path {
    Path::parse(key).expect("a key that object_store can name")
}

#[tokio::test]
async fn of_racing_creates_exactly_one_wins_and_its_bytes_stay() {
    let (server, client) = server_and_client();
    let client = Arc::new(client);
    for round in 0..40 {
        let key = format!("round-{round:02}");
        let mut racers = Vec::new();
        let start = Arc::new(tokio::sync::Barrier::new(8));
        for racer in 0..8 {
            let (client, start, at) = (client.clone(), start.clone(), path(&key));
            racers.push(tokio::spawn(async move {
                start.wait().await;
                let bytes = format!("racer {racer}");
                let put = client.put_opts(&at, bytes.into(), PutMode::Create.into());
                (racer, put.await)
            }));
        }
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                (racer, Ok(_)) => winners.push(racer),
                (_, Err(Error::AlreadyExists { .. })) => {}
                (racer, Err(error)) => panic!("racer {racer}: {error}"),
            }
        }
        let [winner] = winners[..] else {
            panic!("{winners:?} won {key}");
        };
        let kept = server.get(BUCKET, &key).unwrap();
        assert_eq!(kept, format!("racer {winner}"));
    }
}

#[tokio::test]
async fn an_update_wants_the_etag_that_is_there() {
    let (server, client) = server_and_client();
    let at = path("state.json");
    let first = client.put(&at, "one".into()).await.unwrap();
    let second = client.put(&at, "two".into()).await.unwrap();
    assert_ne!(first.e_tag, second.e_tag);
    let from = |put: &object_store::PutResult| {
        PutMode::Update(UpdateVersion {
            e_tag: put.e_tag.clone(),
            version: None,
        })
    };
    let late = client.put_opts(&at, "late".into(), from(&first).into());
    assert!(matches!(late.await, Err(Error::Precondition { .. })));
    let third = client.put_opts(&at, "three".into(), from(&second).into());
    third.await.unwrap();
    assert_eq!(server.get(BUCKET, "state.json").unwrap(), "three");
}

#[tokio::test]
async fn ranges_are_exact_at_both_ends() {
    let (server, client) = server_and_client();
    let bytes: Vec<u8> = (0..70_003u32).map(|i| (i % 251) as u8).collect();
    server.put(BUCKET, "tar", bytes.clone());
    for range in [0..1, 13..70_003, 70_002..70_003, 60_000..90_000] {
        let got = client.get_range(&path("tar"), range.clone()).await.unwrap();
        let end = (range.end as usize).min(bytes.len());
        assert_eq!(got, bytes[range.start as usize..end], "{range:?}");
    }
    let suffix = GetOptions::new().with_range(Some(GetRange::Suffix(7)));
    let got = client.get_opts(&path("tar"), suffix).await.unwrap();
    assert_eq!(got.range, 69_996..70_003);
    assert_eq!(got.bytes().await.unwrap(), bytes[69_996..]);

    let beyond = client.get_range(&path("tar"), 70_003..70_004).await;
    assert!(beyond.is_err());
    assert_eq!(server.requests().last().unwrap().status, Some(416));
}

#[tokio::test]
async fn a_read_of_another_version_is_refused() {
    let (server, client) = server_and_client();
    let at = path("a.jpg");
    server.put(BUCKET, "a.jpg", "first");
    let meta = client.head(&at).await.unwrap();
    assert_eq!(meta.size, 5);
    let same = GetOptions::new().with_if_match(meta.e_tag.clone());
    let got = client.get_opts(&at, same.clone()).await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "first");

    server.put(BUCKET, "a.jpg", "other");
    let got = client.get_opts(&at, same.clone()).await;
    assert!(matches!(got, Err(Error::Precondition { .. })));
    let headed = client.get_opts(&at, same.clone().with_head(true));
    assert!(matches!(headed.await, Err(Error::Precondition { .. })));
    let changed = GetOptions::new().with_if_none_match(meta.e_tag);
    let got = client.get_opts(&at, changed).await.unwrap();
    let now = got.meta.e_tag.clone();
    let unchanged = GetOptions::new().with_if_none_match(now);
    let got = client.get_opts(&at, unchanged).await;
    assert!(matches!(got, Err(Error::NotModified { .. })));

    server.remove(BUCKET, "a.jpg");
    let got = client.get_opts(&at, same).await;
    assert!(matches!(got, Err(Error::NotFound { .. })));
}

const KEYS: [&str; 8] = [
    "in/a b.jpg",
    "in/a%2Fb.jpg",
    "in/a+b&c=d.jpg",
    "in/<tag>'\"?.jpg",
    "in/été/\u{1F431}.jpg",
    "in/{0}#~.jpg",
    "in/ leading and trailing ",
    "inside.jpg",
];

#[tokio::test]
async fn odd_keys_are_signed_written_listed_and_deleted_as_they_are() {
    let (server, client) = server_and_client();
    server.set_page_size(3);
    for key in KEYS {
        let written = client.put(&path(key), key.into()).await;
        written.unwrap_or_else(|error| panic!("{key:?}: {error}"));
    }
    let mut sorted = KEYS.to_vec();
    sorted.sort();
    assert_eq!(server.keys(BUCKET, ""), sorted);

    let listed: Vec<_> = client.list(None).try_collect().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|meta| meta.location.as_ref()).collect();
    assert_eq!(names, sorted);
    for meta in &listed {
        let key = meta.location.as_ref();
        assert_eq!(meta.size, key.len() as u64);
        let got = client.get(&meta.location).await.unwrap();
        assert_eq!(got.meta.e_tag, meta.e_tag);
        assert_eq!(got.bytes().await.unwrap(), key);
    }
    let offset = client.list_with_offset(Some(&path("in")), &path("in/a+b&c=d.jpg"));
    let rest: Vec<_> = offset.try_collect().await.unwrap();
    let rest: Vec<&str> = rest.iter().map(|meta| meta.location.as_ref()).collect();
    assert_eq!(rest, ["in/{0}#~.jpg", "in/été/\u{1F431}.jpg"]);
    let level = client.list_with_delimiter(Some(&path("in"))).await.unwrap();
    assert_eq!(level.objects.len(), 6);
    assert_eq!(level.common_prefixes, [path("in/été")]);

    let all = stream::iter(sorted.clone().into_iter().map(|key| Ok(path(key))));
    let deleted: Vec<_> = client
        .delete_stream(all.boxed())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(deleted.len(), KEYS.len());
    assert_eq!(server.keys(BUCKET, ""), [""; 0]);
    client.delete(&path("in/not there")).await.unwrap();
}

#[tokio::test]
async fn parts_become_one_object_when_they_are_complete_and_not_before() {
    let (server, client) = server_and_client();
    let part: Vec<u8> = (0..5 << 20).map(|i: u32| (i / 7 % 256) as u8).collect();
    let mut upload = client.put_multipart(&path("big.parquet")).await.unwrap();
    upload.put_part(part.clone().into()).await.unwrap();
    upload.put_part("the end".into()).await.unwrap();
    assert_eq!(server.get(BUCKET, "big.parquet"), None);
    upload.complete().await.unwrap();
    let joined = server.get(BUCKET, "big.parquet").unwrap();
    assert_eq!(joined, [part.as_slice(), b"the end"].concat());

    let mut aborted = client.put_multipart(&path("never")).await.unwrap();
    aborted.put_part("x".into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert_eq!(server.get(BUCKET, "never"), None);
}

#[tokio::test]
async fn a_small_part_in_the_middle_is_refused_as_on_s3() {
    let (server, client) = server_and_client();
    let mut upload = client.put_multipart(&path("small")).await.unwrap();
    upload.put_part("first".into()).await.unwrap();
    upload.put_part("last".into()).await.unwrap();
    let error = upload.complete().await.unwrap_err().to_string();
    assert!(error.contains("EntityTooSmall"), "{error}");
    assert_eq!(server.get(BUCKET, "small"), None);
}

#[tokio::test]
async fn only_the_right_keys_open_a_bucket() {
    let (server, _) = server_and_client();
    server.put(BUCKET, "a.jpg", "bytes");
    let wrong = [
        builder(&server).with_secret_access_key("guessed"),
        builder(&server).with_access_key_id("AKIAUNKNOWN"),
        builder(&server).with_token("stolen"),
        builder(&server).with_skip_signature(true),
    ];
    for (index, builder) in wrong.into_iter().enumerate() {
        let client = builder.build().unwrap();
        assert!(client.get(&path("a.jpg")).await.is_err(), "{index}");
        assert!(
            client.put(&path("b.jpg"), "x".into()).await.is_err(),
            "{index}"
        );
    }
    assert_eq!(server.keys(BUCKET, ""), ["a.jpg"]);

    server.make_public(BUCKET);
    let anonymous = builder(&server).with_skip_signature(true).build().unwrap();
    let got = anonymous.get(&path("a.jpg")).await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "bytes");
    assert!(anonymous.put(&path("b.jpg"), "x".into()).await.is_err());
}

#[tokio::test]
async fn expired_credentials_are_told_apart_and_come_back() {
    let (server, client) = server_and_client();
    server.put(BUCKET, "a.jpg", "bytes");
    server.expire_credentials(true);
    let error = client.get(&path("a.jpg")).await.unwrap_err().to_string();
    assert!(error.contains("ExpiredToken"), "{error}");
    assert!(!error.contains(ACCESS_KEY), "{error}");
    server.expire_credentials(false);
    client.get(&path("a.jpg")).await.unwrap();
}

#[tokio::test]
async fn a_skewed_clock_shows_in_what_is_written_under_it() {
    let (server, client) = server_and_client();
    for (key, skew) in [("late", -7200), ("right", 0), ("early", 7200)] {
        server.set_clock_skew(skew);
        client.put(&path(key), "x".into()).await.unwrap();
        let meta = client.head(&path(key)).await.unwrap();
        let now = SystemTime::now();
        let expected = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64
            + skew;
        let off = meta.last_modified.timestamp() - expected;
        assert!(off.abs() < 600, "{key}: off by {off} s");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (server, client) = server_and_client();
    let missing = client.get(&path("x")).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    let elsewhere = builder(&server)
        .with_bucket_name("nowhere")
        .build()
        .unwrap();
    assert!(elsewhere.list(None).next().await.unwrap().is_err());
    let statuses: Vec<_> = server.requests().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [Some(404), Some(404)]);
}

#[tokio::test]
async fn a_dropped_server_is_gone_and_frees_what_it_held() {
    let (server, client) = server_and_client();
    server.put(BUCKET, "a.jpg", "bytes");
    let held = Arc::new(());
    let kept = held.clone();
    server.hook(move |_, _| {
        let _alive = &kept;
        maskmill_loopback_s3::Act::Go
    });
    client.get(&path("a.jpg")).await.unwrap();
    drop(server);
    assert!(client.get(&path("a.jpg")).await.is_err());
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn servers_share_nothing_and_serve_at_once() {
    let servers: Vec<Arc<LoopbackS3>> = (0..3).map(|_| Arc::new(LoopbackS3::start())).collect();
    let together = Arc::new(Barrier::new(servers.len()));
    std::thread::scope(|scope| {
        for (index, server) in servers.iter().enumerate() {
            let together = together.clone();
            scope.spawn(move || {
                server.create_bucket(BUCKET);
                server.make_public(BUCKET);
                server.put(BUCKET, "which", Bytes::from(vec![index as u8; 11]));
                together.wait();
                let got = client::raw(server, "GET", "/photos/which", &[]);
                assert_eq!(got.body, [index as u8; 11]);
            });
        }
    });
}
