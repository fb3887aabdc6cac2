//! Killed and resumed, fast and slow: the rows are the same.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use support::{Job, MASKMILL, Ran, Rows, files_below, jpeg, picture, png, small_sample, snapshot};

const SHARDS: usize = 8;

/// A photo per shard and a bad image among them; each shard takes long enough to be killed in.
fn job_of_eight_shards() -> Job {
    let mut job = Job::of_images();
    for shard in 0..SHARDS {
        let name = ["cat.png", "china.jpg", "dogs.png"][shard % 3];
        let photo = small_sample(name, 120 + 20 * shard as u32);
        match shard {
            3 => job.put("3.png", b"not an image"),
            shard => job.put(&format!("{shard}.png"), &png(&photo, None)),
        };
    }
    job.set("source.images_per_shard=1")
        .set("prompts.points_per_side=12");
    job
}

/// Starts the job and kills it, as `kill -9` does, when it has committed `commits` shards.
fn kill_after(job: &Job, commits: usize) {
    let mut child = job
        .command(MASKMILL)
        .args(job.arguments())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut committed = lines.filter(|line| {
        let event: Option<Value> = serde_json::from_str(line.as_ref().unwrap()).ok();
        event.is_some_and(|event| event["event"] == "committed")
    });
    for _ in 0..commits {
        let line = committed.next();
        line.expect("the job commits shard after shard").unwrap();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "it was done before it was killed");
}

/// Unfinished ones, `000003.json#1`, are none.
fn markers(job: &Job) -> Vec<PathBuf> {
    let mut markers = files_below(&job.output().join("_commits"));
    markers.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    markers
}

/// The shards that have a marker.
fn committed_shards(job: &Job) -> Vec<u64> {
    let markers = markers(job);
    let stems = markers.iter().filter_map(|path| path.file_stem()?.to_str());
    stems.map(|stem| stem.parse().unwrap()).collect()
}

/// The files that markers commit, and the markers, with their bytes.
fn committed_files(job: &Job) -> Vec<(PathBuf, Vec<u8>)> {
    let of_shard = |shard| {
        [
            format!("masks/part-{shard:06}.parquet"),
            format!("images/part-{shard:06}.parquet"),
            format!("_commits/{shard:06}.json"),
        ]
    };
    let files = committed_shards(job).into_iter().flat_map(of_shard);
    files
        .map(|file| {
            let path = job.output().join(file);
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

#[test]
fn a_killed_job_goes_on_where_it_stopped() {
    let job = job_of_eight_shards();
    let expected = job.rows_of_run();
    fs::remove_dir_all(job.output()).unwrap();

    kill_after(&job, 2);
    let committed = committed_shards(&job);
    let done = committed.len();
    assert!((2..SHARDS).contains(&done), "{done} shards committed");
    let before = committed_files(&job);
    let missing = job.maskmill(&["verify", "out/job"]);
    missing.expect_code(1);
    let words = format!("{done} of {SHARDS} shards committed");
    assert!(missing.stdout.contains(&words), "{missing:#?}");

    let resumed = job.run();
    resumed.expect_code(0);
    let mut todo: Vec<u64> = (0..SHARDS as u64).collect();
    todo.retain(|shard| !committed.contains(shard));
    assert_eq!(resumed.committed(), todo, "only what was missing");
    let words = format!("{} shards committed, {done} resumed, 0 failed", todo.len());
    assert!(resumed.stdout.contains(&words), "{resumed:#?}");
    assert_eq!(job.rows(), expected);
    let after = snapshot(&job.output());
    for (path, bytes) in before {
        let now = after.iter().find(|(found, _)| found == &path);
        assert!(now.is_some_and(|(_, now)| now == &bytes), "{path:?}");
    }
    job.maskmill(&["verify", "out/job"]).expect_code(0);
}

/// As on a machine that is taken away again and again: every attempt commits one more shard at least.
#[test]
fn a_job_killed_after_every_shard_ends_all_the_same() {
    let job = job_of_eight_shards();
    let expected = job.rows_of_run();
    fs::remove_dir_all(job.output()).unwrap();
    while markers(&job).len() < SHARDS - 3 {
        kill_after(&job, 1);
    }
    job.run().expect_code(0);
    assert_eq!(job.rows(), expected);
    job.maskmill(&["verify", "out/job"]).expect_code(0);
}

#[test]
fn a_finished_job_has_nothing_to_do() {
    let job = Job::of_images();
    job.put("a.png", &png(&picture(48, 40, 1), None));
    job.run().expect_code(0);
    let before = snapshot(&job.output());
    let again = job.run();
    again.expect_code(0);
    assert!(
        again
            .stdout
            .contains("All 1 shards were committed before; nothing to do."),
        "{again:#?}"
    );
    assert!(again.committed().is_empty());
    assert_eq!(snapshot(&job.output()), before);
}

/// Killed between its parts and its marker, a shard is done again and its parts are adopted.
#[test]
fn parts_without_a_marker_are_not_counted_twice() {
    let mut job = Job::of_images();
    for key in ["a.png", "b.png"] {
        job.put(key, &png(&picture(48, 40, key.len() as u32), None));
    }
    job.set("source.images_per_shard=1");
    let expected = job.rows_of_run();
    fs::remove_file(job.path("out/job/_commits/000001.json")).unwrap();
    let before = snapshot(&job.output().join("masks"));
    let again = job.run();
    again.expect_code(0);
    assert_eq!(again.committed(), [1]);
    assert_eq!(job.rows(), expected);
    assert_eq!(snapshot(&job.output().join("masks")), before);
    job.maskmill(&["verify", "out/job"]).expect_code(0);
}

/// The input changed between two attempts at a shard: what the first left is not mixed with the second's.
#[test]
fn parts_of_another_input_are_not_adopted() {
    let job = Job::of_images();
    let [first, second] = [1, 2].map(|seed| {
        // BMP: another picture in as many bytes, so that the plan is the same.
        let mut bytes = std::io::Cursor::new(Vec::new());
        let picture = picture(48, 40, seed);
        picture
            .write_to(&mut bytes, image::ImageFormat::Bmp)
            .unwrap();
        bytes.into_inner()
    });
    job.put("a.bmp", &first);
    job.run().expect_code(0);
    fs::remove_file(job.path("out/job/_commits/000000.json")).unwrap();
    let parts = || ["masks", "images"].map(|folder| snapshot(&job.output().join(folder)));
    let before = parts();
    job.put("a.bmp", &second);
    job.run().expect_code(1).expect_error(&[
        "part-000000.parquet",
        "has other rows than this attempt",
        "1 of 1 shards failed",
    ]);
    assert_eq!(parts(), before);
}

/// Photos and a text, with crops and region removal: every stage has work.
fn job_with_every_stage() -> Job {
    let mut job = Job::of_images();
    job.put("a.png", &png(&small_sample("cat.png", 110), None))
        .put("b.jpg", &jpeg(&small_sample("china.jpg", 90)))
        .put("c.jpg", b"no image")
        .put("d.png", &png(&picture(33, 97, 5), None));
    job.set("source.images_per_shard=3")
        .set("prompts.crop_n_layers=1")
        .set("masks.min_mask_region_area=20");
    job
}

fn rows_with(settings: &[&str], rayon_threads: Option<&str>) -> Rows {
    let mut job = job_with_every_stage();
    for setting in settings {
        job.set(setting);
    }
    let mut command = job.command(MASKMILL);
    command.args(job.arguments());
    if let Some(threads) = rayon_threads {
        command.env("RAYON_NUM_THREADS", threads);
    }
    Ran::of(&mut command).expect_code(0);
    job.rows()
}

/// Two runs, and runs with other batches, threads and budgets, give the same rows to the last bit.
#[test]
fn rows_depend_on_no_batch_size_or_thread_count() {
    let expected = rows_with(&[], None);
    for key in ["a.png", "b.jpg", "d.png"] {
        let masks = expected.masks(key);
        expected.expect_masks(key);
        let size = [expected.image(key).width, expected.image(key).height];
        let in_crops = masks.iter().filter(|mask| mask.crop_box[2..] != size);
        assert!(in_crops.count() > 0, "crops of {key} have masks");
    }
    expected.expect_reject("c.jpg", "not_an_image");

    assert_eq!(rows_with(&[], None), expected);
    for settings in [
        ["run.points_per_batch=1", "run.decode_threads=1"],
        ["run.points_per_batch=7", "run.decode_threads=5"],
        ["run.points_per_batch=1000", "run.images_in_flight=1"],
        ["run.points_per_batch=1000", "run.prompt_memory=1 MiB"],
        ["run.images_in_flight=64", "run.max_bytes_in_flight=16 MiB"],
    ] {
        assert_eq!(rows_with(&settings, None), expected, "{settings:?}");
    }
    for threads in ["1", "3"] {
        let settings = ["run.points_per_batch=5"];
        assert_eq!(
            rows_with(&settings, Some(threads)),
            expected,
            "{threads} threads"
        );
    }
}

/// The config file says where and how fast; another one resumes the job.
#[test]
fn a_job_resumes_under_another_config() {
    let mut job = job_of_eight_shards();
    let expected = job.rows_of_run();
    fs::remove_dir_all(job.output()).unwrap();
    kill_after(&job, 1);
    job.set("run.points_per_batch=3")
        .set("run.decode_threads=2")
        .set("run.images_in_flight=2")
        .set("log.format=json");
    job.run().expect_code(0);
    assert_eq!(job.rows(), expected);
}
