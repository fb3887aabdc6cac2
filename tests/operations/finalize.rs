//! `finalize`: the table of all parts, for complete outputs only.

use maskmill_formats::manifest_out::{CommittedRow, committed_to_parquet, read_committed};
use maskmill_loopback_s3::{Act, LoopbackS3};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{Job, OUT, Ran};
use crate::{job, objects, photo, start_server, status};

fn finalize(job: &Job) -> Ran {
    job.maskmill(&["finalize", &job.location()])
}

fn table(server: &LoopbackS3, path: &str) -> Vec<CommittedRow> {
    let bytes = server.get(OUT, &format!("job/{path}"));
    let bytes = bytes.unwrap_or_else(|| panic!("no {path} in {:?}", objects(server)));
    let (rows, meta) = read_committed(bytes).unwrap();
    let record = server.get(OUT, "job/_job.json").unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["fingerprint"], meta.fingerprint);
    assert!(meta.entries["plan"].len() >= 32, "{meta:?}");
    rows
}

/// Fails unless each row tells the truth about objects that are there.
fn expect_true(server: &LoopbackS3, rows: &[CommittedRow]) {
    for row in rows {
        for (path, bytes, sha256) in [
            (&row.masks_path, row.masks_bytes, &row.masks_sha256),
            (&row.images_path, row.images_bytes, &row.images_sha256),
        ] {
            let part = server.get(OUT, &format!("job/{path}")).unwrap();
            assert_eq!(part.len() as u64, bytes, "{path}");
            let digest = Sha256::digest(&part);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(&hex, sha256, "{path}");
        }
    }
}

fn manifests(server: &LoopbackS3) -> Vec<String> {
    let mut found = objects(server);
    found.retain(|path| path.starts_with("_manifest"));
    found
}

#[test]
fn an_unfinished_job_is_refused_and_told_what_is_missing() {
    let server = start_server();
    let mut job = job(&server);
    job.set("store.max_retries=0").set("run.shard_attempts=1");
    job.job("run", &["--shards", "0..1"]).expect_code(0);
    finalize(&job)
        .expect_code(1)
        .expect_error(&["2 of 3 shards are not committed; run the job"]);

    server.hook(|seen, _| match seen.key.as_str() {
        "source/5.png" => Act::Status(503),
        _ => Act::Go,
    });
    job.run().expect_code(1);
    server.clear_hook();
    finalize(&job).expect_code(1).expect_error(&[
        "1 of 3 shards are not committed, 1 of them failed",
        "--retry-failed",
    ]);
    assert!(manifests(&server).is_empty());
}

/// A marker that no plan knows does not stand in for one that is missing.
#[test]
fn a_marker_beyond_the_plan_does_not_make_a_job_complete() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    let marker = server.get(OUT, "job/_commits/000001.json").unwrap();
    let mut stray: Value = serde_json::from_slice(&marker).unwrap();
    stray["shard"] = 7.into();
    server.put(OUT, "job/_commits/000007.json", stray.to_string());
    server.remove(OUT, "job/_commits/000001.json");
    finalize(&job)
        .expect_code(1)
        .expect_error(&["1 of 3 shards are not committed"]);
    assert!(manifests(&server).is_empty());
}

#[test]
fn the_table_has_a_row_per_shard_and_is_written_once() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    let done = finalize(&job);
    done.expect_code(0);
    assert!(
        done.stdout
            .contains("_manifest.parquet lists the parts of 3 shards\n"),
        "{done:#?}"
    );
    let rows = table(&server, "_manifest.parquet");
    assert_eq!(
        rows.iter().map(|row| row.shard).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    expect_true(&server, &rows);
    let written = job.rows();
    let sum = |count: fn(&CommittedRow) -> u64| rows.iter().map(count).sum::<u64>();
    assert_eq!(sum(|row| row.images_rows), written.images.len() as u64);
    assert_eq!(sum(|row| row.masks_rows), written.masks.len() as u64);
    assert_eq!(
        (sum(|row| row.images_ok), sum(|row| row.images_rejected)),
        (5, 1)
    );

    let before = server.get(OUT, "job/_manifest.parquet");
    let again = finalize(&job);
    again.expect_code(0);
    assert!(again.stdout.contains("it was there already"), "{again:#?}");
    assert_eq!(server.get(OUT, "job/_manifest.parquet"), before);
    job.maskmill(&["verify", &job.location()]).expect_code(0);
}

#[test]
fn an_extended_job_gets_a_second_table_of_all_shards() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    finalize(&job).expect_code(0);
    let first = server.get(OUT, "job/_manifest.parquet");

    job.put("new.png", &photo(9));
    job.job("plan", &["--extend", "--measure", "0"])
        .expect_code(0);
    assert_eq!(status(&job)["finalized"], false);
    finalize(&job)
        .expect_code(1)
        .expect_error(&["1 of 4 shards are not committed"]);
    job.run().expect_code(0);
    finalize(&job).expect_code(0);
    assert_eq!(
        manifests(&server),
        ["_manifest-000002.parquet", "_manifest.parquet"]
    );
    let rows = table(&server, "_manifest-000002.parquet");
    assert_eq!(
        rows.iter().map(|row| row.shard).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    expect_true(&server, &rows);
    assert_eq!(
        server.get(OUT, "job/_manifest.parquet"),
        first,
        "it tells what it told"
    );
    assert_eq!(status(&job)["finalized"], true);
}

#[test]
fn a_table_that_was_changed_by_hand_is_refused_and_left() {
    let server = start_server();
    let job = job(&server);
    job.run().expect_code(0);
    finalize(&job).expect_code(0);
    let key = "job/_manifest.parquet";
    let (mut rows, meta) = read_committed(server.get(OUT, key).unwrap()).unwrap();
    rows[1].masks_rows += 1;
    let changed = committed_to_parquet(&rows, &meta).unwrap();
    server.put(OUT, key, changed.clone());
    finalize(&job)
        .expect_code(1)
        .expect_error(&["_manifest.parquet in s3://out/job is there and lists other parts"]);
    assert_eq!(
        server.get(OUT, key).unwrap(),
        changed,
        "nothing is overwritten"
    );
}
