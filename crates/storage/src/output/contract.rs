//! What every store does alike: on disk, in memory, and over the network.

use object_store::memory::InMemory;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::testing::server;

/// Keeps a store alive.
enum Behind {
    Disk(#[allow(dead_code, reason = "removed on drop")] TempDir),
    Memory,
    Server(#[allow(dead_code, reason = "stopped on drop")] maskmill_loopback_s3::LoopbackS3),
}

fn every_store() -> Vec<(OutputStore, Behind)> {
    let dir = tempdir().unwrap();
    let disk = OutputStore::open(dir.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
    let memory = OutputStore::over(Arc::new(InMemory::new()), "memory");
    let (server, stores) = server();
    // Neighbours, which are no part of it.
    server.put(crate::testing::BUCKET, "output", "x");
    server.put(
        crate::testing::BUCKET,
        "outputs/masks/part-000000.parquet",
        "x",
    );
    let s3 = OutputStore::open_in("s3://photos/output/", &stores).unwrap();
    vec![
        (disk, Behind::Disk(dir)),
        (memory, Behind::Memory),
        (s3, Behind::Server(server)),
    ]
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn paths(objects: Vec<ObjectInfo>) -> Vec<String> {
    objects.into_iter().map(|object| object.path).collect()
}

#[tokio::test]
async fn the_first_write_stands() {
    for (store, _behind) in every_store() {
        let put = |bytes| store.put_if_absent("a/\u{fc} b.json", bytes);
        assert_eq!(put(text("first")).await.unwrap(), PutOutcome::Created);
        for other in ["second", "first"] {
            let again = put(text(other)).await.unwrap();
            assert_eq!(again, PutOutcome::AlreadyExists, "{}", store.location());
        }
        assert_eq!(
            store.get("a/\u{fc} b.json").await.unwrap(),
            Some(text("first"))
        );
        assert_eq!(store.get("a/c").await.unwrap(), None);
        assert!(store.exists("a/\u{fc} b.json").await.unwrap());
        assert!(!store.exists("a/c").await.unwrap());
        assert!(!store.exists("a").await.unwrap());
        let empty = store.put_if_absent("empty", Bytes::new()).await.unwrap();
        assert_eq!(empty, PutOutcome::Created);
        assert_eq!(store.get("empty").await.unwrap(), Some(Bytes::new()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_one_creates() {
    for (store, _behind) in every_store() {
        let writers = (0..8u8).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put_if_absent("x", Bytes::from(vec![n; 999])).await })
        });
        let mut created = Vec::new();
        for (n, writer) in futures::future::join_all(writers)
            .await
            .into_iter()
            .enumerate()
        {
            if writer.unwrap().unwrap() == PutOutcome::Created {
                created.push(n as u8);
            }
        }
        assert_eq!(created.len(), 1, "{}", store.location());
        assert_eq!(
            store.get("x").await.unwrap(),
            Some(Bytes::from(vec![created[0]; 999]))
        );
    }
}

#[tokio::test]
async fn lists_are_sorted_and_below_the_prefix() {
    for (store, _behind) in every_store() {
        assert_eq!(
            store.any_object(&[]).await.unwrap(),
            None,
            "{}",
            store.location()
        );
        for path in ["z/1", "a/2", "a/10", "a/b/1", "ab/1", "root"] {
            store.put_if_absent(path, text("xyz")).await.unwrap();
        }
        let listed = store.list("a").await.unwrap();
        assert_eq!(listed[0].bytes, 3);
        assert_eq!(paths(listed), ["a/10", "a/2", "a/b/1"]);
        assert_eq!(store.list("").await.unwrap().len(), 6);
        assert_eq!(store.list("nothing").await.unwrap(), []);
        let shallow = store.list_shallow("a").await.unwrap();
        assert_eq!(paths(shallow.objects), ["a/10", "a/2"]);
        assert_eq!(shallow.directories, ["a/b"]);
        let shallow = store.list_shallow("").await.unwrap();
        assert_eq!(paths(shallow.objects), ["root"]);
        assert_eq!(shallow.directories, ["a", "ab", "z"]);
        let others = store.any_object(&["a", "ab", "z"]).await.unwrap();
        assert_eq!(others.as_deref(), Some("root"));
        let others = store.any_object(&["a", "ab", "z", "root"]).await.unwrap();
        assert_eq!(others, None);
    }
}

#[tokio::test]
async fn deleting_is_idempotent() {
    for (store, _behind) in every_store() {
        for path in ["masks/1", "masks/2", "masks/3"] {
            store.put_if_absent(path, text("x")).await.unwrap();
        }
        let gone = ["masks/1", "masks/never", "masks/3"].map(str::to_string);
        store.delete(&gone).await.unwrap();
        store.delete(&gone).await.unwrap();
        store.delete(&[]).await.unwrap();
        assert_eq!(paths(store.list("").await.unwrap()), ["masks/2"]);
        let put = store.put_if_absent("masks/1", text("y")).await.unwrap();
        assert_eq!(put, PutOutcome::Created);
    }
}

#[tokio::test]
async fn the_word_of_a_worker_is_replaced_and_the_clock_leaves_nothing() {
    for (store, _behind) in every_store() {
        let path = layout::worker("a");
        for word in [text("one"), text("another")] {
            store.replace(&path, word.clone()).await.unwrap();
            assert_eq!(store.get(&path).await.unwrap(), Some(word));
        }
        let (before, now) = (store.info(&path).await.unwrap(), store.now().await.unwrap());
        // S3 tells whole seconds.
        assert!(now + Duration::from_secs(1) >= before.unwrap().modified);
        assert_eq!(paths(store.list("").await.unwrap()), [path]);
    }
}

#[tokio::test]
async fn large_objects_are_written_in_parts() {
    for (store, behind) in every_store() {
        let bytes: Bytes = (0..(UPLOAD_PART * 2 + 12_345))
            .map(|i| (i / 251) as u8)
            .collect();
        store.put_large("masks/large", bytes.clone()).await.unwrap();
        store.put_large("masks/small", text("x")).await.unwrap();
        store.put_large("masks/none", Bytes::new()).await.unwrap();
        assert!(store.get("masks/large").await.unwrap() == Some(bytes));
        assert_eq!(store.get("masks/small").await.unwrap(), Some(text("x")));
        assert_eq!(store.get("masks/none").await.unwrap(), Some(Bytes::new()));
        assert_eq!(store.list("").await.unwrap().len(), 3);
        if let Behind::Server(server) = behind {
            let requests = server.requests();
            let parts = requests
                .iter()
                .filter(|seen| seen.parameter("partNumber").is_some());
            assert_eq!(parts.count(), 3 + 1 + 1);
        }
    }
}

#[tokio::test]
async fn a_shard_is_committed_alike() {
    use crate::{CommitStore, Part, PartFacts, ShardParts, ShardSummary};
    for (store, _behind) in every_store() {
        let record = serde_json::json!({"fingerprint": "f0"});
        crate::claim(&store, &record).await.unwrap();
        let claimed = crate::claim(&store, &record).await.unwrap();
        assert_eq!(claimed, crate::Claim::Resumed);
        let inspect = |_, _: &Bytes| {
            Ok(PartFacts {
                fingerprint: "f0".to_string(),
                shard: 3,
                rows: 2,
                rows_digest: "same".to_string(),
            })
        };
        let commits = CommitStore::new(store.clone(), "f0", "0.1.0", Arc::new(inspect));
        let part = |bytes| Part {
            bytes: text(bytes),
            rows: 2,
        };
        let attempt = |images| ShardParts {
            masks: part("masks"),
            images: part(images),
        };
        let left = attempt("left by an attempt that died").images.bytes;
        store
            .put_if_absent(&layout::images_part(3), left.clone())
            .await
            .unwrap();
        let summary = ShardSummary::default();
        let done = commits
            .commit_shard(3, attempt("new"), summary.clone())
            .await
            .unwrap();
        assert!(
            matches!(done, crate::Commit::Committed(_)),
            "{}",
            store.location()
        );
        assert_eq!(done.marker().images.sha256, crate::sha256_hex(&left));
        let again = commits
            .commit_shard(3, attempt("newer"), summary)
            .await
            .unwrap();
        assert_eq!(
            again,
            crate::Commit::AlreadyCommitted(done.marker().clone())
        );
        assert_eq!(store.list("").await.unwrap().len(), 4);
    }
}

#[tokio::test]
async fn failures_are_written_down_without_secrets() {
    use crate::{FailureRecord, failed_shards, record_failure};
    for (store, _behind) in every_store() {
        assert!(failed_shards(&store).await.unwrap().is_empty());
        for (shard, attempts) in [(7, 3), (1_000_000, 1)] {
            let record = FailureRecord {
                shard,
                attempts,
                cause: "GET https://h/x?X-Amz-Signature=hunter2 failed".to_string(),
                worker: "w".to_string(),
                tool_version: "0.1.0".to_string(),
                at_unix_seconds: 1_800_000_000,
            };
            record_failure(&store, &record).await.unwrap();
            record_failure(&store, &record).await.unwrap();
        }
        store
            .put_if_absent("_failures/notes.txt", text("x"))
            .await
            .unwrap();
        let failed = failed_shards(&store).await.unwrap();
        assert!(failed.keys().eq(&[7, 1_000_000]), "{failed:?}");
        assert_eq!(failed[&7].attempts, 3);
        assert_eq!(failed[&7].cause, "GET https://h/x?... failed");
        let kept = store.list("_failures").await.unwrap();
        assert_eq!(kept.len(), 3, "one for each worker, shard and second");
    }
}
