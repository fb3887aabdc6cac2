use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::tempdir;

use super::*;
use crate::options::StoreOptions;

fn open(root: &Path) -> OutputStore {
    OutputStore::open(root.to_str().unwrap(), &StoreOptions::default()).unwrap()
}

fn record(fingerprint: &str, nms: f64, images: u64) -> Value {
    json!({
        "tool_version": "0.1.0",
        "fingerprint": fingerprint,
        "pipeline": {"name": "cats", "masks": {"box_nms_thresh": nms, "max_coverage": null}},
        "model": {"path": "models/a.pth", "sha256": "aa"},
        "plan": {"digest": format!("d{images}"), "images": images},
    })
}

fn differences_of(error: ClaimError) -> Vec<String> {
    match error {
        ClaimError::ForeignOutput { differences, .. } => differences,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_first_job_claims_and_the_same_job_resumes() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let ours = record("f0", 0.7, 4);
    assert_eq!(read_record(&store).await.unwrap(), None);
    assert_eq!(claim(&store, &ours).await.unwrap(), Claim::New);
    let mut newer = ours.clone();
    newer["tool_version"] = "0.1.1".into();
    assert_eq!(claim(&store, &newer).await.unwrap(), Claim::Resumed);
    assert_eq!(read_record(&store).await.unwrap(), Some(ours));
}

#[tokio::test]
async fn another_job_is_refused_with_what_differs_by_path() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    claim(&store, &record("f0", 0.7, 4)).await.unwrap();

    let mut other = record("f1", 0.8, 4);
    other["pipeline"]["masks"]["max_coverage"] = 0.95.into();
    other["tool_version"] = "0.2.0".into();
    let error = claim(&store, &other).await.unwrap_err();
    let message = error.to_string();
    assert_eq!(
        differences_of(error),
        [
            "masks.box_nms_thresh: 0.7 -> 0.8",
            "masks.max_coverage: off -> 0.95"
        ]
    );
    assert!(
        message.contains("\n  masks.box_nms_thresh: 0.7 -> 0.8\n"),
        "{message}"
    );

    // Same settings, more photos in the folder: the plan grows, and says so itself.
    let more = claim(&store, &record("f0", 0.7, 5)).await.unwrap();
    assert_eq!(more, Claim::Resumed);

    // Same settings, other rows: another version of the tool.
    let mut newer = record("f9", 0.7, 4);
    newer["tool_version"] = "0.9.0".into();
    let error = claim(&store, &newer).await.unwrap_err();
    assert_eq!(
        differences_of(error),
        [
            "fingerprint: \"f0\" -> \"f9\"",
            "tool_version: \"0.1.0\" -> \"0.9.0\""
        ]
    );
}

/// A record has `pipeline.model.precision` where it is not f32, and older ones have no precision at all.
#[tokio::test]
async fn a_precision_that_is_not_written_is_f32() {
    let of = |precision: &str| {
        let mut record = record(precision, 0.7, 4);
        record["model"]["precision"] = precision.into();
        record["pipeline"]["model"] = match precision {
            "f32" => json!({}),
            other => json!({"precision": other}),
        };
        record
    };
    let mut older = of("f32");
    older["model"].as_object_mut().unwrap().remove("precision");
    for (theirs, ours, difference) in [
        (&of("bf16"), &of("f32"), r#""bf16" -> "f32""#),
        (&of("f32"), &of("bf16"), r#""f32" -> "bf16""#),
        (&older, &of("bf16"), r#""f32" -> "bf16""#),
    ] {
        let dir = tempdir().unwrap();
        let store = open(dir.path());
        claim(&store, theirs).await.unwrap();
        let error = claim(&store, ours).await.unwrap_err();
        let expected = format!("model.precision: {difference}");
        assert_eq!(differences_of(error), [expected]);
    }

    // Where something else differs, the older record's silence is no difference.
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    claim(&store, &older).await.unwrap();
    let mut newer = of("f32");
    newer["fingerprint"] = "f9".into();
    let error = claim(&store, &newer).await.unwrap_err();
    assert_eq!(differences_of(error), [r#"fingerprint: "f32" -> "f9""#]);
}

#[tokio::test]
async fn a_directory_with_other_files_is_refused_and_left_as_it_is() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("thesis")).unwrap();
    fs::write(dir.path().join("thesis/chapter1.tex"), "x").unwrap();
    let store = open(dir.path());
    let error = claim(&store, &record("f0", 0.7, 4)).await.unwrap_err();
    let ClaimError::NotAnOutput { found, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(found, "thesis/chapter1.tex");
    assert!(!dir.path().join(JOB_RECORD).exists());
}

#[tokio::test]
async fn a_plan_and_waiting_workers_may_be_there_before_the_job() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    for path in [
        "_plan/000000.json",
        "_plan/000000-0123456789ab/items-00000.parquet",
    ] {
        store.put_if_absent(path, "x".into()).await.unwrap();
    }
    let worker = crate::layout::worker("a");
    store.replace(&worker, "{}".into()).await.unwrap();
    assert_eq!(
        claim(&store, &record("f0", 0.7, 4)).await.unwrap(),
        Claim::New
    );

    let dir = tempdir().unwrap();
    let store = open(dir.path());
    for path in ["_plan/000000.json", "_planner/mine.txt"] {
        store.put_if_absent(path, "x".into()).await.unwrap();
    }
    let error = claim(&store, &record("f0", 0.7, 4)).await.unwrap_err();
    assert!(error.to_string().contains("_planner/mine.txt"), "{error}");
}

#[tokio::test]
async fn a_record_that_is_not_json_is_an_error() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(JOB_RECORD), "{\"fingerprint\": ").unwrap();
    let error = claim(&open(dir.path()), &record("f0", 0.7, 4))
        .await
        .unwrap_err();
    assert!(matches!(error, ClaimError::CorruptRecord { .. }), "{error}");
}

#[tokio::test]
async fn a_claim_killed_while_writing_is_claimed_again() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("_job.json#1"), "{\"finger").unwrap();
    let claimed = claim(&open(dir.path()), &record("f0", 0.7, 4))
        .await
        .unwrap();
    assert_eq!(claimed, Claim::New);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_workers_one_claims_and_the_others_resume() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { claim(&store, &record("f0", 0.7, 4)).await.unwrap() })
        })
        .collect();
    let mut new = 0;
    for worker in workers {
        new += usize::from(worker.await.unwrap() == Claim::New);
    }
    assert_eq!(new, 1);
}
