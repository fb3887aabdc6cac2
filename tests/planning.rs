//! Plans: looked at, frozen, extended, shared, edited by hand, and repaired.

mod support;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::ImageFormat;
use maskmill_formats::manifest_out::read_committed;
use maskmill_formats::plan_items::{plan_rows_to_parquet, read_plan_rows};
use maskmill_formats::rows::{ImageRow, ImageStatus, read_images};
use maskmill_job::format_bytes;
use maskmill_loopback_s3::{Act, LoopbackS3, Phase};
use serde_json::Value;
use support::{DATA, Job, MASKMILL, OUT, Ran, picture, png, snapshot};

fn server() -> Arc<LoopbackS3> {
    Arc::new(LoopbackS3::start())
}

fn jobs(kind: &str) -> [Job; 2] {
    [
        Job::new(kind, "source", "out", None),
        Job::in_store(kind, &server()),
    ]
}

fn photo(seed: u32) -> Vec<u8> {
    png(&picture(40 + 3 * seed, 60 - 2 * seed, seed), None)
}

/// Another picture in as many bytes for each seed.
fn bmp(seed: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = picture(48, 40, seed);
    picture.write_to(&mut bytes, ImageFormat::Bmp).unwrap();
    bytes.into_inner()
}

/// Puts an image under each of the letters.
fn fill(job: &Job, letters: &str) {
    for letter in letters.chars() {
        let seed = u32::from(letter) - u32::from('a');
        job.put(&format!("{letter}.png"), &photo(seed));
    }
}

fn remove(job: &Job, key: &str) {
    match job.location().starts_with("s3://") {
        true => job.server().remove(DATA, &format!("source/{key}")),
        false => std::fs::remove_file(job.path("source").join(key)).unwrap(),
    }
}

/// The path below the output -> the bytes of everything that a job has written and that stays. A local
/// folder that is empty is there too.
fn output(job: &Job) -> BTreeMap<String, Vec<u8>> {
    let files: Vec<(String, Vec<u8>)> = match job.location().starts_with("s3://") {
        true => {
            let server = job.server();
            let keys = server.keys(OUT, "").into_iter();
            keys.map(|key| {
                let bytes = server.get(OUT, &key).unwrap().to_vec();
                (key.trim_start_matches("job/").to_owned(), bytes)
            })
            .collect()
        }
        false => snapshot(&job.output())
            .into_iter()
            .map(|(path, bytes)| {
                let path = path.strip_prefix(job.output()).unwrap();
                (path.to_str().unwrap().to_owned(), bytes)
            })
            .collect(),
    };
    let stays = |path: &str| !path.starts_with("_workers");
    files.into_iter().filter(|(path, _)| stays(path)).collect()
}

fn write(job: &Job, path: &str, bytes: Vec<u8>) {
    match job.location().starts_with("s3://") {
        true => job.server().put(OUT, &format!("job/{path}"), bytes),
        false => std::fs::write(job.output().join(path), bytes).unwrap(),
    }
}

fn delete(job: &Job, path: &str) {
    match job.location().starts_with("s3://") {
        true => job.server().remove(OUT, &format!("job/{path}")),
        false => std::fs::remove_file(job.output().join(path)).unwrap(),
    }
}

/// Fails unless everything of `before` is there as it was.
#[track_caller]
fn expect_untouched(job: &Job, before: &BTreeMap<String, Vec<u8>>) {
    let now = output(job);
    for (path, bytes) in before {
        assert!(now.get(path) == Some(bytes), "{path} was touched");
    }
}

#[track_caller]
fn expect_whole(job: &Job) {
    let verified = job.maskmill(&["verify", &job.location()]);
    verified.expect_code(0);
}

/// A plan that is only counted: no model is run.
fn plan(job: &Job, further: &[&str]) -> Ran {
    job.job("plan", &[&["--measure", "0"], further].concat())
}

#[track_caller]
fn expect_said(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.stdout.contains(word), "no {word:?} in {ran:#?}");
    }
}

/// The number in front of `unit` in a line that begins with `label`.
#[track_caller]
fn number(ran: &Ran, label: &str) -> f64 {
    let line = ran.stdout.lines().find(|line| line.starts_with(label));
    let line = line.unwrap_or_else(|| panic!("no {label:?} in {ran:#?}"));
    let words = line[label.len()..].split_whitespace().next();
    words.unwrap().parse().unwrap()
}

fn heads(job: &Job) -> Vec<String> {
    let paths = output(job).into_keys();
    paths
        .filter(|path| path.starts_with("_plan/") && path.ends_with(".json"))
        .collect()
}

// What a plan says.

#[test]
fn a_plan_is_shown_and_nothing_is_written() {
    for mut job in jobs("images") {
        fill(&job, "abcde");
        job.put("notes.txt", b"no image");
        job.set("source.images_per_shard=2");
        let bytes: usize = (0..5).map(|seed| photo(seed).len()).sum();

        let price = ["--price-per-hour", "1000000", "--workers", "2"];
        let shown = job.job("plan", &price);
        shown.expect_code(0);
        let counts = format!("3 shards, 5 images, {} to read", format_bytes(bytes as u64));
        expect_said(
            &shown,
            &[
                &counts,
                "0 shards committed",
                "Nothing was written",
                "measured on 3 images run now",
                "for 5 images on 2 worker(s)",
            ],
        );
        // The pace is printed to a millisecond.
        let pace = number(&shown, "Pace:");
        let cost = number(&shown, "Cost:");
        let of_pace = |pace: f64| 5.0 * pace / 3600.0 * 1_000_000.0;
        assert!(of_pace(pace - 0.000_51) - 0.01 <= cost, "{shown:#?}");
        assert!(cost <= of_pace(pace + 0.000_51) + 0.01, "{shown:#?}");

        let unmeasured = plan(&job, &[]);
        unmeasured.expect_code(0);
        expect_said(&unmeasured, &[&counts, "Time: not measured"]);
        assert!(!unmeasured.stdout.contains("Cost"));

        assert!(!job.path("out").exists(), "not even a folder");
        if job.location().starts_with("s3://") {
            assert!(job.server().keys(OUT, "").is_empty());
            let requests = job.server().requests();
            assert!(
                requests
                    .iter()
                    .all(|seen| seen.method == "GET" || seen.method == "HEAD")
            );
        }
    }
}

#[test]
fn the_pace_of_committed_shards_tells_the_time_of_the_others() {
    let mut job = Job::of_images();
    fill(&job, "abcde");
    job.set("source.images_per_shard=2");
    job.job("run", &["--shards", "0..2"]).expect_code(0);
    let before = output(&job);
    let shown = job.job("plan", &["--price-per-hour", "3"]);
    shown.expect_code(0);
    expect_said(
        &shown,
        &[
            "3 shards, 5 images",
            "2 shards committed",
            "measured on 4 images of committed shards",
            "for 1 images on 1 worker(s)",
            "Cost: ",
        ],
    );
    assert_eq!(output(&job), before);
}

#[test]
fn options_of_plan_that_cannot_be_meant() {
    let job = Job::of_images();
    fill(&job, "a");
    for options in [
        &["--write", "--extend"][..],
        &["--price-per-hour", "-1"],
        &["--price-per-hour", "much"],
        &["--workers", "0"],
        &["--measure", "-1"],
    ] {
        job.job("plan", options).expect_code(2);
    }
    let none = plan(&job, &["--extend"]);
    none.expect_code(2)
        .expect_error(&["out/job", "has no plan"]);
    assert!(!job.path("out").exists());
}

#[test]
fn an_empty_source_leaves_nothing_behind() {
    for kind in ["images", "webdataset", "parquet"] {
        for job in jobs(kind) {
            // Something, so that the prefix is there; but nothing to do.
            job.put("notes.txt", b"nothing else");
            for ran in [plan(&job, &[]), plan(&job, &["--write"]), job.run()] {
                ran.expect_code(2)
                    .expect_error(&["holds no", "source.path"]);
            }
            assert!(!job.path("out").exists());
            if job.location().starts_with("s3://") {
                assert!(job.server().keys(OUT, "").is_empty());
            }
        }
    }
    for job in jobs("images") {
        if !job.location().starts_with("s3://") {
            std::fs::remove_dir(job.path("source")).unwrap();
        }
        let ran = job.run();
        ran.expect_code(2).expect_error(&["source"]);
        assert!(output(&job).is_empty());
    }
}

// A frozen plan and a source that goes on changing.

#[test]
fn a_run_does_the_frozen_plan_whatever_the_source_has_become() {
    for mut job in jobs("images") {
        let in_store = job.location().starts_with("s3://");
        fill(&job, "abe");
        job.put("c.bmp", &bmp(1)).put("d.bmp", &bmp(4));
        job.set("source.images_per_shard=2");
        let expected = job.rows_of_run();
        for path in output(&job).into_keys() {
            delete(&job, &path);
        }

        let written = plan(&job, &["--write"]);
        written.expect_code(0);
        expect_said(&written, &["3 shards, 5 images", "/_plan"]);
        let frozen = output(&job);
        assert_eq!(heads(&job), ["_plan/000000.json"]);

        fill(&job, "fx");
        remove(&job, "b.png");
        // As many bytes: only an etag tells. On a disk there is none, so there it is longer.
        match in_store {
            true => job.put("c.bmp", &bmp(2)),
            false => job.put("c.bmp", &[bmp(2), vec![0]].concat()),
        };
        let again = plan(&job, &["--write"]);
        again.expect_code(0);
        expect_said(&again, &["3 shards, 5 images"]);
        assert_eq!(output(&job), frozen, "a plan is frozen once");

        let rows = job.rows_of_run();
        assert_eq!(rows.keys(), ["a.png", "b.png", "c.bmp", "d.bmp", "e.png"]);
        rows.expect_reject("b.png", "missing");
        let detail = rows.expect_reject("c.bmp", "changed");
        let what = if in_store { "etag" } else { "bytes" };
        assert!(detail.contains(what), "{detail}");
        for key in ["a.png", "d.bmp", "e.png"] {
            assert_eq!(rows.image(key), expected.image(key));
            assert_eq!(rows.masks(key), expected.masks(key));
        }
        expect_untouched(&job, &frozen);
        expect_whole(&job);
    }
}

#[test]
fn an_extension_adds_only_what_is_new() {
    for mut job in jobs("images") {
        fill(&job, "bcd");
        job.put("e.bmp", &bmp(1));
        job.set("source.images_per_shard=3");
        job.run().expect_code(0);
        let location = job.location();
        job.maskmill(&["finalize", &location]).expect_code(0);
        let first = output(&job);

        let nothing = plan(&job, &["--extend"]);
        nothing.expect_code(0);
        expect_said(
            &nothing,
            &["0 new in 0 shards, 4 unchanged, 0 changed, 0 vanished"],
        );
        assert_eq!(output(&job), first, "nothing new, nothing written");

        // Before, between and behind what is planned.
        fill(&job, "afgh");
        remove(&job, "c.png");
        let changed = match job.location().starts_with("s3://") {
            true => bmp(2),
            false => [bmp(2), vec![0]].concat(),
        };
        job.put("e.bmp", &changed);
        let extended = plan(&job, &["--extend"]);
        extended.expect_code(0);
        expect_said(
            &extended,
            &[
                "4 new in 2 shards, 2 unchanged, 1 changed, 1 vanished",
                "changed: e.bmp",
                "vanished: c.png",
                "4 shards, 8 images",
            ],
        );
        expect_untouched(&job, &first);
        assert_eq!(heads(&job), ["_plan/000000.json", "_plan/000001.json"]);
        let unfinished = job.maskmill(&["verify", &location]);
        unfinished.expect_code(1);
        expect_said(&unfinished, &["2 of 4 shards committed"]);

        let second = output(&job);
        let again = plan(&job, &["--extend"]);
        again.expect_code(0);
        expect_said(
            &again,
            &["0 new in 0 shards, 6 unchanged, 1 changed, 1 vanished"],
        );
        assert_eq!(output(&job), second);

        let ran = job.run();
        ran.expect_code(0);
        assert_eq!(ran.committed(), [2, 3]);
        expect_untouched(&job, &second);
        let rows = job.rows();
        let keys = [
            "b.png", "c.png", "d.png", "e.bmp", "a.png", "f.png", "g.png", "h.png",
        ];
        assert_eq!(rows.keys(), keys);
        for key in keys {
            rows.expect_masks(key);
        }
        expect_whole(&job);
        let finalized = job.maskmill(&["finalize", &location]);
        finalized.expect_code(0);
        expect_said(&finalized, &["_manifest-000002.parquet", "of 4 shards"]);
        expect_untouched(&job, &second);
    }
}

/// New tars, and new row groups in a table that is planned: those are a change, not new images.
#[test]
fn tars_are_added_like_images() {
    for job in jobs("webdataset") {
        job.put("a.tar", &tar(&[("x.png", photo(1))]));
        job.run().expect_code(0);
        let first = output(&job);
        job.put("b.tar", &tar(&[("x.png", photo(2)), ("y.png", photo(3))]));
        let extended = plan(&job, &["--extend"]);
        extended.expect_code(0);
        expect_said(&extended, &["1 new in 1 shards, 1 unchanged"]);
        let ran = job.run();
        ran.expect_code(0);
        assert_eq!(ran.committed(), [1]);
        assert_eq!(job.rows().keys(), ["a.tar/x", "b.tar/x", "b.tar/y"]);
        expect_untouched(&job, &first);
        expect_whole(&job);
    }
}

fn start_extension(job: &Job) -> std::process::Child {
    job.command(MASKMILL)
        .args(job.arguments_of("plan"))
        .args(["--extend", "--measure", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: std::process::Child) -> Ran {
    let ended = child.wait_with_output().unwrap();
    Ran {
        code: ended.status.code(),
        stdout: String::from_utf8(ended.stdout).unwrap(),
        stderr: String::from_utf8(ended.stderr).unwrap(),
    }
}

/// Waits, like a hook, until `count` reaches `most`; a test that goes wrong does not hang.
fn wait_for(count: &AtomicUsize, most: usize) {
    for _ in 0..3000 {
        if count.load(Ordering::SeqCst) >= most {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Both heads are on their way when the first is written.
#[test]
fn two_machines_that_extend_at_once_make_one_segment() {
    let server = server();
    let job = Job::in_store("images", &server);
    fill(&job, "ab");
    job.run().expect_code(0);
    fill(&job, "cd");
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = arrived.clone();
    server.hook(move |seen, phase| {
        let is_head = seen.key == "job/_plan/000001.json" && seen.is_create();
        if is_head && phase == Phase::Before {
            counted.fetch_add(1, Ordering::SeqCst);
            wait_for(&counted, 2);
        }
        Act::Go
    });
    let machines = [start_extension(&job), start_extension(&job)].map(end);
    server.clear_hook();
    assert_eq!(arrived.load(Ordering::SeqCst), 2, "both came to write");
    for machine in &machines {
        machine.expect_code(0);
        expect_said(machine, &["2 shards, 4 images"]);
    }
    assert_eq!(heads(&job), ["_plan/000000.json", "_plan/000001.json"]);
    let ran = job.run();
    ran.expect_code(0);
    assert_eq!(ran.committed(), [1]);
    assert_eq!(job.rows().keys(), ["a.png", "b.png", "c.png", "d.png"]);
    expect_whole(&job);
}

/// The machine that listed first is the last to write: it goes on with the other's plan.
#[test]
fn an_extension_that_was_overtaken_goes_by_the_plan_that_stands() {
    let server = server();
    let job = Job::in_store("images", &server);
    fill(&job, "ab");
    job.run().expect_code(0);
    fill(&job, "c");
    let slow_is_there = Arc::new(AtomicUsize::new(0));
    let fast_is_done = Arc::new(AtomicUsize::new(0));
    let (there, done) = (slow_is_there.clone(), fast_is_done.clone());
    server.hook(move |seen, phase| {
        let is_head = seen.key == "job/_plan/000001.json" && seen.is_create();
        if is_head && phase == Phase::Before && there.fetch_add(1, Ordering::SeqCst) == 0 {
            wait_for(&done, 1);
        }
        Act::Go
    });
    let slow = start_extension(&job);
    wait_for(&slow_is_there, 1);
    fill(&job, "d");
    let fast = end(start_extension(&job));
    fast_is_done.fetch_add(1, Ordering::SeqCst);
    fast.expect_code(0);
    expect_said(&fast, &["2 new in 1 shards", "2 shards, 4 images"]);
    let slow = end(slow);
    server.clear_hook();
    slow.expect_code(0);
    expect_said(&slow, &["2 shards, 4 images"]);
    assert_eq!(heads(&job), ["_plan/000000.json", "_plan/000001.json"]);
    job.run().expect_code(0);
    assert_eq!(job.rows().keys(), ["a.png", "b.png", "c.png", "d.png"]);
    expect_whole(&job);
}

// A plan that was edited.

/// Fails unless every command that goes by the plan refuses it, naming `file`, and writes nothing.
#[track_caller]
fn expect_refused(job: &Job, file: &str) {
    let before = output(job);
    let location = job.location();
    let refusals = [
        job.run(),
        job.job("run", &["--retry-rejects"]),
        plan(job, &[]),
        plan(job, &["--write"]),
        plan(job, &["--extend"]),
        job.maskmill(&["status", &location]),
        job.maskmill(&["verify", &location]),
        job.maskmill(&["finalize", &location]),
        job.maskmill(&["gc", &location, "--delete"]),
    ];
    for refused in refusals {
        refused.expect_code(2).expect_error(&[file]);
    }
    assert_eq!(output(job), before);
}

#[test]
fn an_edited_head_is_refused() {
    for mut job in jobs("images") {
        fill(&job, "abc");
        job.set("source.images_per_shard=2");
        job.job("run", &["--shards", "0..1"]).expect_code(0);
        let head = "_plan/000000.json";
        let good = output(&job)[head].clone();
        let parsed: Value = serde_json::from_slice(&good).unwrap();
        // Another count of images, another size, another number of items, another file, half of it.
        let mut edits = Vec::new();
        for (field, value) in [(0, 5), (1, 6), (2, 1)] {
            let mut edited = parsed.clone();
            edited["files"][0]["shards"][0][field] = value.into();
            edits.push(serde_json::to_vec(&edited).unwrap());
        }
        for (key, value) in [("number", 1), ("version", 7)] {
            let mut edited = parsed.clone();
            edited[key] = value.into();
            edits.push(serde_json::to_vec(&edited).unwrap());
        }
        edits.push(good[..good.len() / 2].to_vec());
        edits.push(Vec::new());
        for edit in edits {
            assert_ne!(edit, good);
            write(&job, head, edit);
            expect_refused(&job, head);
        }
        write(&job, head, good);
        job.run().expect_code(0);
        expect_whole(&job);
    }
}

/// A key of the same length in the file of items: the head cannot tell.
#[test]
fn edited_items_are_refused() {
    for mut job in jobs("images") {
        fill(&job, "abc");
        job.set("source.images_per_shard=2");
        plan(&job, &["--write"]).expect_code(0);
        let paths = output(&job).into_keys();
        let mut files: Vec<String> = paths.filter(|path| path.contains("/items-")).collect();
        let file = files.pop().unwrap();
        assert!(files.is_empty());
        let good = output(&job)[&file].clone();
        let (mut rows, meta) = read_plan_rows(good.clone().into()).unwrap();
        let key = rows[0].key.replace('a', "z");
        assert_ne!(key, rows[0].key);
        rows[0].key = key;
        let edited = plan_rows_to_parquet(&rows, &meta).unwrap();
        rows.pop();
        let shorter = plan_rows_to_parquet(&rows, &meta).unwrap();

        fill(&job, "d");
        for edit in [edited, shorter, b"no Parquet".to_vec()] {
            write(&job, &file, edit);
            let before = output(&job);
            let refused = plan(&job, &["--extend"]);
            refused.expect_code(2).expect_error(&[&file]);
            assert_eq!(output(&job), before);

            let ran = job.job("run", &["--shards", "0..1"]);
            ran.expect_code(1);
            assert!(
                ran.stderr.contains(&file) || ran.stdout.contains(&file),
                "{ran:#?}"
            );
            assert!(ran.committed().is_empty());
            expect_untouched(&job, &before);
            assert!(job.rows().images.is_empty(), "nothing was made of it");
        }
        delete(&job, &file);
        plan(&job, &["--extend"])
            .expect_code(2)
            .expect_error(&[&file, "missing"]);
        write(&job, &file, good);
        job.job("run", &["--retry-failed"]).expect_code(0);
        assert_eq!(job.rows().keys(), ["a.png", "b.png", "c.png"]);
        expect_whole(&job);
    }
}

/// Whatever is left of a plan, no other plan takes the place of one by which shards were committed.
#[test]
fn a_deleted_head_is_missed() {
    for mut job in jobs("images") {
        fill(&job, "abc");
        job.set("source.images_per_shard=2");
        job.job("run", &["--shards", "0..1"]).expect_code(0);
        // Now the same numbers would be other images.
        fill(&job, "de");
        remove(&job, "a.png");
        let heads = [
            "_plan/000000.json",
            "_plan/000001.json",
            "_plan/000002.json",
        ];
        let only = output(&job)[heads[0]].clone();
        delete(&job, heads[0]);
        expect_refused(&job, heads[0]);
        write(&job, heads[0], only);

        plan(&job, &["--extend"]).expect_code(0);
        fill(&job, "f");
        plan(&job, &["--extend"]).expect_code(0);
        for head in &heads[..2] {
            let bytes = output(&job)[*head].clone();
            delete(&job, head);
            expect_refused(&job, head);
            write(&job, head, bytes);
        }
        job.run().expect_code(0);
        expect_whole(&job);
        // Nothing names the last one, but its shards are there.
        delete(&job, heads[2]);
        let beyond = job.maskmill(&["verify", &job.location()]);
        beyond.expect_code(1);
        expect_said(
            &beyond,
            &["shard 000003 is committed, the plan has 3 shards"],
        );
    }
}

// Machines that share a plan.

/// Seven images, one a shard, and the rows that one machine makes of them.
fn seven(mut job: Job) -> Job {
    fill(&job, "abcdef");
    job.put("g.png", b"not an image");
    job.set("source.images_per_shard=1");
    job
}

#[test]
fn three_workers_do_every_shard_once() {
    let expected = seven(Job::of_images()).rows_of_run();
    for job in [
        seven(Job::of_images()),
        seven(Job::in_store("images", &server())),
    ] {
        plan(&job, &["--write"]).expect_code(0);
        for (worker, shards) in [("1/3", &[1, 4][..]), ("0/3", &[0, 3, 6]), ("2/3", &[2, 5])] {
            let ran = job.job("run", &["--worker", worker]);
            ran.expect_code(0);
            assert_eq!(ran.committed(), shards, "worker {worker}");
        }
        assert_eq!(job.rows(), expected);
        expect_whole(&job);
        let again = job.job("run", &["--worker", "1/3"]);
        again.expect_code(0);
        assert!(again.committed().is_empty());
    }
}

#[test]
fn three_workers_at_once_give_the_rows_of_one() {
    let expected = seven(Job::of_images()).rows_of_run();
    let job = seven(Job::in_store("images", &server()));
    // Nobody has planned: whoever comes first does.
    let workers = ["0/3", "1/3", "2/3"].map(|worker| {
        let mut command = job.command(MASKMILL);
        command.args(job.arguments()).args(["--worker", worker]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    let mut committed = Vec::new();
    for worker in workers.map(end) {
        worker.expect_code(0);
        committed.extend(worker.committed());
    }
    committed.sort_unstable();
    assert_eq!(committed, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(heads(&job), ["_plan/000000.json"]);
    assert_eq!(job.rows(), expected);
    expect_whole(&job);
}

#[test]
fn ranges_of_shards() {
    let expected = seven(Job::of_images()).rows_of_run();
    let job = seven(Job::of_images());
    let first = job.job("run", &["--shards", "0..2"]);
    first.expect_code(0);
    assert_eq!(first.committed(), [0, 1]);
    let behind = job.job("run", &["--shards", "7..9"]);
    behind
        .expect_code(2)
        .expect_error(&["the plan has 7 shards"]);
    // Beyond the end of the plan there is nothing, and one of these is done.
    let rest = job.job("run", &["--shards", "1..900"]);
    rest.expect_code(0);
    assert_eq!(rest.committed(), [2, 3, 4, 5, 6]);
    assert_eq!(job.rows(), expected);
    expect_whole(&job);
    // More workers than shards: the last ones have nothing to do.
    let idle = job.job("run", &["--worker", "8/9"]);
    idle.expect_code(0);
    assert!(idle.committed().is_empty());
}

#[test]
fn selections_that_cannot_be_meant() {
    let job = Job::of_images();
    fill(&job, "a");
    for (flag, values) in [
        (
            "--worker",
            &[
                "3/3", "0/0", "1", "1/", "/2", "-1/2", "a/b", "1/2/3", "0..2", "",
            ][..],
        ),
        (
            "--shards",
            &[
                "2..2", "3..1", "1", "..", "1..", "..4", "a..b", "0..=2", "0/2", "-1..2",
            ],
        ),
    ] {
        for value in values {
            let refused = job.job("run", &[&format!("{flag}={value}")]);
            refused.expect_code(2).expect_error(&[flag]);
        }
    }
    let both = job.job("run", &["--worker", "0/2", "--shards", "0..1"]);
    both.expect_code(2).expect_error(&["--worker", "--shards"]);
    assert!(!job.path("out").exists());
}

#[test]
fn a_run_without_a_plan_freezes_one_for_the_others() {
    for mut job in jobs("images") {
        fill(&job, "bcde");
        job.set("source.images_per_shard=1");
        let first = job.job("run", &["--worker", "0/2"]);
        first.expect_code(0);
        assert_eq!(first.committed(), [0, 2]);
        let before = output(&job);
        // In front of all others: a plan made now would have other shards.
        fill(&job, "a");
        let second = job.job("run", &["--worker", "1/2"]);
        second.expect_code(0);
        assert_eq!(second.committed(), [1, 3]);
        expect_untouched(&job, &before);
        assert_eq!(heads(&job), ["_plan/000000.json"]);
        assert_eq!(job.rows().keys(), ["b.png", "c.png", "d.png", "e.png"]);
        expect_whole(&job);
    }
}

// Once more.

fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn status(job: &Job) -> Value {
    let status = job.maskmill(&["status", "--json", &job.location()]);
    status.expect_code(0);
    serde_json::from_str(&status.stdout).unwrap()
}

#[test]
fn a_failed_shard_is_tried_again_when_asked_to() {
    for job in jobs("webdataset") {
        let tars: Vec<_> = (0..3)
            .map(|seed| tar(&[("x.png", photo(seed)), ("y.png", photo(seed + 3))]))
            .collect();
        for (name, bytes) in ["a.tar", "b.tar", "c.tar"].iter().zip(&tars) {
            job.put(name, bytes);
        }
        plan(&job, &["--write"]).expect_code(0);
        remove(&job, "b.tar");

        let failed = job.run();
        failed
            .expect_code(1)
            .expect_error(&["1 of 3 shards failed", "--retry-failed"]);
        assert_eq!(failed.committed(), [0, 2], "the others went on");
        let shown = job.maskmill(&["status", &job.location()]);
        shown.expect_code(0);
        expect_said(
            &shown,
            &[
                "2 of 3 shards done",
                "1 failed",
                "Failed: shard 000001:",
                "b.tar",
            ],
        );
        let told = status(&job);
        assert_eq!((&told["done"], &told["shards"]), (&2.into(), &3.into()));
        let cause = told["failed"]["1"].as_str().unwrap().to_owned();
        assert!(cause.contains("b.tar"), "{cause}");
        let unfinished = job.maskmill(&["finalize", &job.location()]);
        unfinished.expect_code(1).expect_error(&["1 of 3"]);

        let before = output(&job);
        let passed_over = job.run();
        passed_over
            .expect_code(1)
            .expect_error(&["failed in an earlier run", "--retry-failed"]);
        expect_said(&passed_over, &["000001", "b.tar"]);
        assert!(passed_over.committed().is_empty());
        assert_eq!(output(&job), before);

        let too_early = job.job("run", &["--retry-failed"]);
        too_early
            .expect_code(1)
            .expect_error(&["1 of 3 shards failed"]);
        assert!(status(&job)["failed"]["1"].is_string());

        job.put("b.tar", &tars[1]);
        let done = job.job("run", &["--retry-failed"]);
        done.expect_code(0);
        assert_eq!(done.committed(), [1]);
        assert_eq!(status(&job)["failed"], serde_json::json!({}));
        assert_eq!(status(&job)["done"], 3);
        let keys = [
            "a.tar/x", "a.tar/y", "b.tar/x", "b.tar/y", "c.tar/x", "c.tar/y",
        ];
        assert_eq!(job.rows().keys(), keys);
        expect_whole(&job);
        job.run().expect_code(0);
        let listed = job.maskmill(&["finalize", &job.location()]);
        listed.expect_code(0);
        expect_said(&listed, &["of 3 shards"]);
    }
}

/// The rows of the images of each shard, and all keys that were rejected in it.
fn shard(job: &Job, shard: u32) -> Vec<ImageRow> {
    let path = format!("images/part-{shard:06}.parquet");
    read_images(output(job)[&path].clone().into()).unwrap()
}

fn states(rows: &[ImageRow]) -> Vec<(&str, Option<&str>)> {
    let rows = rows.iter();
    rows.map(|row| (row.image_key.as_str(), row.reason.as_deref()))
        .collect()
}

#[test]
fn mended_images_are_done_in_shards_of_their_own() {
    for mut job in jobs("images") {
        fill(&job, "acdef");
        job.put("b.png", &photo(1))
            .put("d.png", b"not an image")
            .put("e.png", &photo(4)[..60])
            .put("f.png", b"nor is this");
        // a b | c d | e f
        job.set("source.images_per_shard=2");
        plan(&job, &["--write"]).expect_code(0);
        remove(&job, "b.png");
        job.run().expect_code(0);
        let rows = job.rows();
        rows.expect_reject("b.png", "missing");
        rows.expect_reject("d.png", "not_an_image");
        rows.expect_reject("f.png", "not_an_image");
        assert_eq!(rows.image("e.png").status, ImageStatus::Rejected);
        expect_whole(&job);
        let before = output(&job);

        job.put("b.png", &photo(1))
            .put("d.png", &photo(3))
            .put("e.png", &photo(4));
        let mended = job.job("run", &["--retry-rejects"]);
        mended.expect_code(0);
        assert_eq!(mended.committed(), [3, 4, 5]);
        expect_untouched(&job, &before);
        assert_eq!(states(&shard(&job, 3)), [("b.png", None)]);
        assert_eq!(states(&shard(&job, 4)), [("d.png", None)]);
        let last = [("e.png", None), ("f.png", Some("not_an_image"))];
        assert_eq!(states(&shard(&job, 5)), last);
        expect_whole(&job);
        // The masks are those of the mended images.
        let undisturbed = Job::of_images();
        fill(&undisturbed, "bde");
        let expected = undisturbed.rows_of_run();
        let rows = job.rows();
        for key in ["b.png", "d.png", "e.png"] {
            assert_eq!(rows.masks(key), expected.masks(key));
        }
        let drawn = [
            "view",
            &job.location(),
            "--image",
            "b.png",
            "--out",
            "b.masks.png",
        ];
        job.maskmill(&drawn).expect_code(0);

        let listed = job.maskmill(&["finalize", &job.location()]);
        listed.expect_code(0);
        let table = output(&job)["_manifest-000002.parquet"].clone();
        let (parts, _) = read_committed(table.into()).unwrap();
        let repeats: Vec<_> = parts
            .iter()
            .map(|part| (part.shard, part.retry_of))
            .collect();
        let expected = [
            (0, None),
            (1, None),
            (2, None),
            (3, Some(0)),
            (4, Some(1)),
            (5, Some(2)),
        ];
        assert_eq!(repeats, expected);

        // Nothing was mended since: at most what is still rejected is looked at again.
        let before = output(&job);
        let again = job.job("run", &["--retry-rejects"]);
        again.expect_code(0);
        assert!(again.committed().len() <= 1, "{again:#?}");
        for number in again.committed() {
            let rows = shard(&job, number as u32);
            assert_eq!(states(&rows), [("f.png", Some("not_an_image"))]);
        }
        expect_untouched(&job, &before);
        expect_whole(&job);

        // A run without the flag finds nothing to do, and the last image is mended at last.
        assert!(job.run().expect_code(0).committed().is_empty());
        job.put("f.png", &photo(5));
        let last = job.job("run", &["--retry-rejects"]);
        last.expect_code(0);
        let number = *last.committed().last().unwrap() as u32;
        assert_eq!(states(&shard(&job, number)), [("f.png", None)]);
        let done = job.job("run", &["--retry-rejects"]);
        assert!(done.expect_code(0).committed().is_empty());
        expect_whole(&job);
        job.maskmill(&["finalize", &job.location()]).expect_code(0);
    }
}

/// Rejects that are of names and not of content are not looked at again.
#[test]
fn what_no_second_look_can_mend_is_left_alone() {
    let mut job = Job::new("manifest", "source/list.csv", "out", None);
    fill(&job, "a");
    job.put(
        "list.csv",
        b"uri,key\na.png,a\n,nothing\na.png,twice\na.png,twice\n../a.png,up\n",
    );
    job.set("source.images_per_shard=2");
    job.run().expect_code(0);
    let before = output(&job);
    let again = job.job("run", &["--retry-rejects"]);
    again.expect_code(0);
    assert!(again.committed().is_empty(), "{again:#?}");
    assert_eq!(output(&job), before);
}

/// Where in a tar an image lies is not known: the mended tar is read again, and what is done passed over.
#[test]
fn a_mended_image_in_a_tar() {
    for job in jobs("webdataset") {
        let damaged = [("x.png", photo(1)), ("y.png", b"not an image".to_vec())];
        job.put("a.tar", &tar(&damaged));
        job.put("b.tar", &tar(&[("x.png", photo(2))]));
        job.run().expect_code(0);
        let before = output(&job);
        assert_eq!(
            states(&shard(&job, 0)),
            [("a.tar/x", None), ("a.tar/y", Some("not_an_image"))]
        );
        job.put("a.tar", &tar(&[("x.png", photo(1)), ("y.png", photo(3))]));
        let mended = job.job("run", &["--retry-rejects"]);
        mended.expect_code(0);
        assert_eq!(mended.committed(), [2]);
        assert_eq!(states(&shard(&job, 2)), [("a.tar/y", None)]);
        expect_untouched(&job, &before);
        expect_whole(&job);
        let drawn = [
            "view",
            &job.location(),
            "--image",
            "a.tar/y",
            "--out",
            "y.masks.png",
        ];
        job.maskmill(&drawn).expect_code(0);
    }
}
