//! The protocol killed between all its steps, raced by several workers, and fed foreign files.
//!
//! A part here is a small JSON text, `{fingerprint, shard, rows, milliseconds}`: storage never looks
//! inside except through the function given to it.

use std::path::Path;

use futures::future::join_all;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::faulty::{Fault, FaultyStore};
use crate::options::StoreOptions;
use crate::testing::{impatient, server, stores_of};
use maskmill_loopback_s3::{Act, Faults, Phase};

const OURS: &str = "f0";

fn part(fingerprint: &str, shard: u32, rows: &[&str], milliseconds: u64) -> Part {
    let value = json!({
        "fingerprint": fingerprint, "shard": shard, "rows": rows, "milliseconds": milliseconds,
    });
    Part {
        bytes: value.to_string().into(),
        rows: rows.len() as u64,
    }
}

fn inspect(_: PartKind, bytes: &Bytes) -> Result<PartFacts, Box<dyn Error + Send + Sync>> {
    let value: Value = serde_json::from_slice(bytes)?;
    Ok(PartFacts {
        fingerprint: value["fingerprint"]
            .as_str()
            .ok_or("no fingerprint")?
            .into(),
        shard: value["shard"].as_u64().ok_or("no shard")? as u32,
        rows: value["rows"].as_array().ok_or("no rows")?.len() as u64,
        rows_digest: value["rows"].to_string(),
    })
}

/// The parts of one attempt: the rows are those of the shard, the timings its own.
fn attempt(shard: u32, milliseconds: u64) -> ShardParts {
    ShardParts {
        masks: part(OURS, shard, &["mask 0", "mask 1"], 0),
        images: part(OURS, shard, &["a.jpg", "b.jpg", "c.jpg"], milliseconds),
    }
}

fn summary(seconds: f64) -> ShardSummary {
    ShardSummary {
        images_ok: 2,
        images_rejected: 1,
        rejects: BTreeMap::from([("truncated".to_string(), 1)]),
        seconds,
        inputs: "d0".to_string(),
        retry_of: None,
        stats: ShardStats {
            bytes: 12_345,
            stage_seconds: BTreeMap::from([("decode".to_string(), 0.1 + 0.2)]),
        },
    }
}

fn commits(store: OutputStore) -> CommitStore {
    CommitStore::new(store, OURS, "0.1.0", Arc::new(inspect))
}

fn local(root: &Path) -> OutputStore {
    OutputStore::open(root.to_str().unwrap(), &StoreOptions::default()).unwrap()
}

fn killed_at(root: &Path, put: usize, fault: Fault) -> OutputStore {
    let inner: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(root).unwrap());
    OutputStore::over(
        Arc::new(FaultyStore::new(inner).on_put(put, fault)),
        "faulty",
    )
}

async fn paths(store: &OutputStore) -> Vec<String> {
    let objects = store.list("").await.unwrap();
    objects.into_iter().map(|object| object.path).collect()
}

/// The marker and the files it names agree, byte for byte.
async fn assert_whole(commits: &CommitStore, shard: u32) {
    let marker = commits.committed(shard).await.unwrap().expect("committed");
    for (kind, info) in [
        (PartKind::Masks, &marker.masks),
        (PartKind::Images, &marker.images),
    ] {
        let bytes = commits
            .store()
            .get(&info.path)
            .await
            .unwrap()
            .expect("part");
        assert_eq!(info.sha256, sha256_hex(&bytes));
        assert_eq!(info.bytes, bytes.len() as u64);
        let facts = inspect(kind, &bytes).unwrap();
        assert_eq!((facts.rows, facts.shard), (info.rows, shard));
    }
}

fn scratch() -> (TempDir, CommitStore) {
    let dir = tempdir().unwrap();
    let commits = commits(local(dir.path()));
    (dir, commits)
}

#[tokio::test]
async fn a_shard_is_committed_once() {
    let (_dir, commits) = scratch();
    assert_eq!(commits.committed(12).await.unwrap(), None);
    let first = commits
        .commit_shard(12, attempt(12, 5), summary(1.5))
        .await
        .unwrap();
    let Commit::Committed(marker) = &first else {
        panic!("{first:?}");
    };
    assert_eq!(marker.masks.path, "masks/part-000012.parquet");
    assert_eq!(marker.rejects["truncated"], 1);
    assert_eq!(
        paths(commits.store()).await,
        [
            "_commits/000012.json",
            "images/part-000012.parquet",
            "masks/part-000012.parquet"
        ]
    );
    let second = commits
        .commit_shard(12, attempt(12, 9), summary(9.0))
        .await
        .unwrap();
    assert_eq!(second, Commit::AlreadyCommitted(marker.clone()));
    assert_whole(&commits, 12).await;
}

/// Three writes, each with a death before and after it: every point at which a process can end.
#[tokio::test]
async fn killed_at_any_step_the_next_attempt_finishes_with_the_same_rows() {
    for put in 1..=3 {
        for fault in [Fault::DieBefore, Fault::DieAfter] {
            let dir = tempdir().unwrap();
            let dying = commits(killed_at(dir.path(), put, fault));
            let died = dying.commit_shard(3, attempt(3, 100), summary(1.0)).await;
            assert!(matches!(died, Err(CommitError::Storage(_))), "{died:?}");

            let next = commits(local(dir.path()));
            let marker_written = put == 3 && fault == Fault::DieAfter;
            let found = next.committed(3).await.unwrap();
            assert_eq!(found.is_some(), marker_written, "put {put}, {fault:?}");

            let commit = next
                .commit_shard(3, attempt(3, 222), summary(2.0))
                .await
                .unwrap();
            let already = matches!(commit, Commit::AlreadyCommitted(_));
            assert_eq!(already, marker_written, "put {put}, {fault:?}");
            assert_whole(&next, 3).await;
            assert_eq!(paths(next.store()).await.len(), 3, "no orphans");

            // The images part of whichever attempt wrote it first stands, never the later one's.
            let images = next
                .store()
                .get(&layout::images_part(3))
                .await
                .unwrap()
                .unwrap();
            let images: Value = serde_json::from_slice(&images).unwrap();
            let from_first = put == 3 || (put == 2 && fault == Fault::DieAfter);
            assert_eq!(images["milliseconds"], if from_first { 100 } else { 222 });
        }
    }
}

#[tokio::test]
async fn a_full_disk_leaves_no_marker_and_the_next_run_finishes() {
    for put in 1..=3 {
        let dir = tempdir().unwrap();
        let full = commits(killed_at(dir.path(), put, Fault::Full));
        let failed = full.commit_shard(0, attempt(0, 1), summary(1.0)).await;
        let Err(CommitError::Storage(error)) = failed else {
            panic!("{failed:?}");
        };
        assert!(error.is_full());
        assert_eq!(full.committed(0).await.unwrap(), None);
        let next = commits(local(dir.path()));
        next.commit_shard(0, attempt(0, 2), summary(1.0))
            .await
            .unwrap();
        assert_whole(&next, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_workers_on_one_shard_one_commits_and_all_agree() {
    for round in 0..20 {
        let (_dir, commits) = scratch();
        let workers = (0..8).map(|worker| {
            let commits = commits.clone();
            tokio::spawn(async move {
                let parts = attempt(round, worker);
                commits
                    .commit_shard(round, parts, summary(worker as f64))
                    .await
            })
        });
        let done: Vec<Commit> = join_all(workers)
            .await
            .into_iter()
            .map(|worker| worker.unwrap().unwrap())
            .collect();
        let won = done
            .iter()
            .filter(|c| matches!(c, Commit::Committed(_)))
            .count();
        assert_eq!(won, 1);
        for commit in &done {
            assert_eq!(commit.marker(), done[0].marker());
        }
        assert_whole(&commits, round).await;
        assert_eq!(paths(commits.store()).await.len(), 3);
    }
}

#[tokio::test]
async fn a_part_of_another_job_is_not_overwritten() {
    let (_dir, commits) = scratch();
    let theirs = part("f1", 0, &["mask 0"], 0).bytes;
    let path = layout::masks_part(0);
    commits
        .store()
        .put_if_absent(&path, theirs.clone())
        .await
        .unwrap();
    let error = commits
        .commit_shard(0, attempt(0, 1), summary(1.0))
        .await
        .unwrap_err();
    let CommitError::FingerprintMismatch { found, ours, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((found.as_str(), ours.as_str()), ("f1", "f0"));
    assert_eq!(commits.store().get(&path).await.unwrap(), Some(theirs));
    assert_eq!(paths(commits.store()).await, [path]);
}

#[tokio::test]
async fn a_part_with_other_rows_of_the_same_job_fails_the_shard() {
    // An image that could not be read in the first attempt can be in the second.
    let (_dir, commits) = scratch();
    let theirs = part(OURS, 0, &["mask 0"], 0).bytes;
    let path = layout::masks_part(0);
    commits.store().put_if_absent(&path, theirs).await.unwrap();
    let error = commits
        .commit_shard(0, attempt(0, 1), summary(1.0))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CommitError::RowsDiffer {
                found_rows: 1,
                our_rows: 2,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("Delete that file and run again"));
    assert_eq!(commits.committed(0).await.unwrap(), None);
}

#[tokio::test]
async fn a_damaged_or_misplaced_part_says_what_to_delete() {
    let misplaced = part(OURS, 7, &["mask 0", "mask 1"], 0).bytes;
    for bytes in [
        Bytes::from_static(b"PAR1 but not all of it"),
        Bytes::new(),
        misplaced,
    ] {
        let (_dir, commits) = scratch();
        let path = layout::images_part(0);
        commits.store().put_if_absent(&path, bytes).await.unwrap();
        let error = commits
            .commit_shard(0, attempt(0, 1), summary(1.0))
            .await
            .unwrap_err();
        assert!(matches!(error, CommitError::CorruptPart { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains(&path) && message.contains("Delete"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_marker_that_cannot_be_trusted_is_an_error_and_not_a_missing_shard() {
    let (_dir, commits) = scratch();
    let store = commits.store();
    commits
        .commit_shard(0, attempt(0, 1), summary(1.0))
        .await
        .unwrap();
    let marker = store.get(&layout::marker(0)).await.unwrap().unwrap();
    let text = String::from_utf8(marker.to_vec()).unwrap();
    store
        .put_if_absent(&layout::marker(1), "{".into())
        .await
        .unwrap();
    store
        .put_if_absent(&layout::marker(2), text.clone().into())
        .await
        .unwrap();
    let foreign = text
        .replace("\"shard\": 0", "\"shard\": 3")
        .replace(OURS, "f1");
    store
        .put_if_absent(&layout::marker(3), foreign.into())
        .await
        .unwrap();
    for shard in [1, 2] {
        let error = commits.committed(shard).await.unwrap_err();
        assert!(
            matches!(error, CommitError::CorruptMarker { .. }),
            "{error}"
        );
    }
    let error = commits
        .commit_shard(3, attempt(3, 1), summary(1.0))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CommitError::FingerprintMismatch { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn markers_are_listed_in_the_order_of_shards() {
    let (_dir, commits) = scratch();
    assert_eq!(commits.markers().await.unwrap(), []);
    for shard in [2, 1_000_000, 0] {
        commits
            .commit_shard(shard, attempt(shard, 1), summary(1.0))
            .await
            .unwrap();
    }
    let stray = "_commits/000001.json.bak";
    commits
        .store()
        .put_if_absent(stray, "{".into())
        .await
        .unwrap();
    let shards = commits.committed_shards().await.unwrap();
    assert_eq!(shards, BTreeSet::from([0, 2, 1_000_000]));
    let markers = commits.markers().await.unwrap();
    let shards: Vec<u32> = markers.iter().map(|marker| marker.shard).collect();
    assert_eq!(shards, [0, 2, 1_000_000]);
}

const LARGE: &str = "s3://photos/out";

async fn large_parts(store: &OutputStore, shard: u32) -> Vec<String> {
    let paths = paths(store).await;
    let large = paths
        .into_iter()
        .filter(|path| path.contains(&format!("{shard:06}-")));
    large.collect()
}

#[tokio::test]
async fn a_large_part_has_a_name_of_its_attempt_which_the_marker_knows() {
    let (dir, commits) = scratch();
    let limit = attempt(5, 1).images.bytes.len() as u64 - 1;
    let commits = commits.with_put_limit(limit);
    let commit = commits
        .commit_shard(5, attempt(5, 1), summary(1.0))
        .await
        .unwrap();
    let large = large_parts(commits.store(), 5).await;
    assert_eq!(large, [commit.marker().images.path.clone()]);
    assert!(large[0].starts_with("images/part-000005-"), "{large:?}");
    assert!(dir.path().join(layout::masks_part(5)).is_file());
    assert_whole(&commits, 5).await;
}

#[tokio::test]
async fn who_loses_the_race_for_the_marker_deletes_its_own_large_parts() {
    let (server, stores) = server();
    let commits_of = |stores| {
        let store = OutputStore::open_in(LARGE, stores).unwrap();
        commits(store).with_put_limit(10)
    };
    let (winner, loser) = (commits_of(&stores), commits_of(&stores_of(&server)));
    let (parts, their_parts) = (attempt(0, 1), attempt(0, 2));
    // Between the loser's parts and its marker, the winner commits.
    let (held, go) = (
        Arc::new(tokio::sync::Notify::new()),
        Arc::new(tokio::sync::Notify::new()),
    );
    let (at, until) = (held.clone(), go.clone());
    let runtime = tokio::runtime::Handle::current();
    let first = std::sync::atomic::AtomicBool::new(true);
    server.hook(move |seen, phase| {
        let is_marker = seen.key.contains("_commits") && seen.is_create();
        let first = || first.swap(false, std::sync::atomic::Ordering::SeqCst);
        if phase == Phase::Before && is_marker && first() {
            at.notify_one();
            let until = until.clone();
            let (sent, received) = std::sync::mpsc::channel();
            runtime.spawn(async move {
                until.notified().await;
                let _ = sent.send(());
            });
            let _ = received.recv_timeout(Duration::from_millis(300));
        }
        Act::Go
    });
    let losing = tokio::spawn(async move {
        loser
            .commit_shard(0, their_parts, summary(2.0))
            .await
            .unwrap()
    });
    held.notified().await;
    assert_eq!(large_parts(winner.store(), 0).await.len(), 2);
    let won = winner.commit_shard(0, parts, summary(1.0)).await.unwrap();
    assert!(matches!(won, Commit::Committed(_)));
    go.notify_one();
    let lost = losing.await.unwrap();
    assert_eq!(lost, Commit::AlreadyCommitted(won.marker().clone()));
    let mut named = [
        won.marker().images.path.clone(),
        won.marker().masks.path.clone(),
    ];
    named.sort();
    assert_eq!(large_parts(winner.store(), 0).await, named);
    assert_whole(&winner, 0).await;
}

#[tokio::test]
async fn parts_that_are_gone_before_the_marker_are_put_again() {
    let (dir, commits) = scratch();
    let mut commits = commits;
    commits.look_again_after = Duration::ZERO;
    let (masks, images) = (attempt(2, 1).masks, attempt(2, 1).images);
    let first = commits.put_part(PartKind::Masks, 2, &masks).await.unwrap();
    std::fs::remove_file(dir.path().join(&first.path)).unwrap();
    let again = commits
        .put_back(PartKind::Masks, 2, &masks, first.clone())
        .await
        .unwrap();
    assert_eq!(again, first);
    let parts = ShardParts { masks, images };
    commits.commit_shard(2, parts, summary(1.0)).await.unwrap();
    assert_whole(&commits, 2).await;
}

#[tokio::test]
async fn a_lost_answer_to_the_marker_is_a_commit() {
    let (server, stores) = server();
    let commits = commits(OutputStore::open_in(LARGE, &stores).unwrap());
    let lost = std::sync::atomic::AtomicUsize::new(0);
    server.hook(move |seen, phase| {
        let is_marker = seen.key.contains("_commits") && seen.is_create();
        let count = || lost.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match phase == Phase::After && is_marker && count() < 2 {
            true => Act::Drop,
            false => Act::Go,
        }
    });
    let commit = commits
        .commit_shard(4, attempt(4, 1), summary(1.0))
        .await
        .unwrap();
    assert!(matches!(commit, Commit::Committed(_)), "{commit:?}");
    assert_whole(&commits, 4).await;
    let again = commits
        .commit_shard(4, attempt(4, 2), summary(9.0))
        .await
        .unwrap();
    assert!(matches!(again, Commit::AlreadyCommitted(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_workers_under_faults_commit_every_shard_once() {
    let (server, stores) = server();
    server.fault(Faults::every_kind(7, 0.25, 2 * impatient().request_timeout));
    let workers = (0..4).map(|worker| {
        let stores = if worker % 2 == 0 {
            stores.clone()
        } else {
            stores_of(&server)
        };
        let commits = commits(OutputStore::open_in(LARGE, &stores).unwrap());
        tokio::spawn(async move {
            let mut won = 0;
            for shard in 0..10 {
                let seconds = f64::from(worker) + 0.1;
                let parts = attempt(shard, worker as u64);
                let done = commits.commit_shard(shard, parts, summary(seconds)).await;
                won += usize::from(matches!(done.unwrap(), Commit::Committed(_)));
            }
            won
        })
    });
    let won: Vec<usize> = join_all(workers)
        .await
        .into_iter()
        .map(|w| w.unwrap())
        .collect();
    server.fault(Faults::none());
    assert_eq!(won.iter().sum::<usize>(), 10, "{won:?}");
    let commits = commits(OutputStore::open_in(LARGE, &stores).unwrap());
    for shard in 0..10 {
        assert_whole(&commits, shard).await;
    }
    assert_eq!(server.keys("photos", "").len(), 30);
}

#[tokio::test]
async fn a_marker_of_an_old_version_is_read() {
    let (_dir, commits) = scratch();
    let commit = commits
        .commit_shard(0, attempt(0, 1), summary(0.1 + 0.2))
        .await
        .unwrap();
    let read = commits.committed(0).await.unwrap().unwrap();
    assert_eq!(read.inputs, "d0");
    assert_eq!(read.stats, commit.marker().stats);
    let mut old = serde_json::to_value(&read).unwrap();
    let old = old.as_object_mut().unwrap();
    old.retain(|key, _| !["inputs", "retry_of", "stats"].contains(&key.as_str()));
    old["shard"] = 1.into();
    let json = serde_json::to_vec(&old).unwrap();
    commits
        .store()
        .put_if_absent(&layout::marker(1), json.into())
        .await
        .unwrap();
    let old = commits.committed(1).await.unwrap().unwrap();
    assert_eq!((old.inputs.as_str(), old.retry_of), ("", None));
    assert_eq!(old.stats, ShardStats::default());
}
