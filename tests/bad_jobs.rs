//! Jobs that cannot start or cannot go on: what is said, with which exit code, and that nothing is lost.

mod support;

use std::fs;

use serde_json::Value;
use support::{Job, MASKMILL, Ran, files_below, picture, png, repository, small_sample, snapshot};

/// Sees that a run did not start: exit code 2, and no output directory.
#[track_caller]
fn refused(job: &Job, words: &[&str]) -> Ran {
    let ran = job.run();
    ran.expect_code(2).expect_error(words);
    assert!(ran.stdout.is_empty(), "{ran:#?}");
    let left = files_below(&job.path("out"));
    assert!(left.is_empty(), "{left:?}");
    ran
}

fn job() -> Job {
    let job = Job::of_images();
    job.put("a.png", &png(&picture(48, 40, 1), None));
    job
}

/// A job with the file `name` as its checkpoint.
fn with_checkpoint(name: &str, bytes: &[u8]) -> Job {
    let mut job = job();
    fs::write(job.path(name), bytes).unwrap();
    job.set(&format!("model.checkpoint={name}"));
    job
}

#[test]
fn a_missing_checkpoint() {
    let mut job = job();
    job.set("model.checkpoint=models/none.pth");
    let ran = refused(&job, &["models/none.pth", "cannot be read", "No such file"]);
    let causes = ran.stderr.matches("No such file").count();
    assert_eq!(causes, 1, "the cause is said once: {}", ran.stderr);
}

#[test]
fn a_truncated_checkpoint() {
    let safetensors = fs::read(repository(support::TINY)).unwrap();
    let pth = fs::read(repository(
        "tests/reference/fixtures/sam-seeded-compact.pth",
    ))
    .unwrap();
    for (name, bytes, length) in [
        ("cut.safetensors", &safetensors, 1_000_000),
        ("cut_in_header.safetensors", &safetensors, 5000),
        ("cut.pth", &pth, pth.len() / 2),
        ("cut_at_end.pth", &pth, pth.len() - 30),
        ("empty.pth", &pth, 0),
    ] {
        let words = [
            name,
            "not a readable .safetensors or .pth file",
            "may be truncated",
        ];
        refused(&with_checkpoint(name, &bytes[..length]), &words);
    }
}

/// The whole files that the tests above cut are good: it is the cut that is refused.
#[test]
fn both_formats_and_any_architecture_run() {
    for name in ["sam-seeded-compact.pth", "sam-seeded-stretched.safetensors"] {
        let path = repository("tests/reference/fixtures").join(name);
        with_checkpoint(name, &fs::read(path).unwrap())
            .rows_of_run()
            .expect_masks("a.png");
    }
}

/// A `.safetensors` file whose header, the tensors' names and shapes, went through `change`.
fn with_header(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    let whole = fs::read(repository(support::TINY)).unwrap();
    let (length, rest) = whole.split_first_chunk().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let Value::Object(mut header) = serde_json::from_slice(header).unwrap() else {
        panic!("a safetensors header is an object")
    };
    change(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, tensors].concat()
}

#[test]
fn a_checkpoint_of_another_architecture() {
    let renamed = with_header(|header| {
        let keys: Vec<String> = header.keys().cloned().collect();
        for key in keys.iter().filter(|key| *key != "__metadata__") {
            let tensor = header.remove(key).unwrap();
            header.insert(format!("vision_model.{}", key.replace('.', "_")), tensor);
        }
    });
    refused(
        &with_checkpoint("clip.safetensors", &renamed),
        &[
            "clip.safetensors",
            "not a Segment Anything checkpoint",
            "it lacks image_encoder.patch_embed.proj.weight",
            "vision_model.image_encoder",
        ],
    );
}

/// One run names every key that does not fit, so that one look at the file is enough.
#[test]
fn all_keys_that_do_not_fit_are_listed_at_once() {
    let bytes = with_header(|header| {
        let mut rename = |from: &str, to: &str| {
            let tensor = header.remove(from).unwrap();
            header.insert(to.to_owned(), tensor);
        };
        rename("image_encoder.neck.1.bias", "image_encoder.neck.1.offset");
        rename("mask_decoder.iou_token.weight", "extra.table");
        let shape = &mut header["prompt_encoder.no_mask_embed.weight"]["shape"];
        assert_eq!(shape, &serde_json::json!([1, 64]));
        *shape = serde_json::json!([64, 1]);
    });
    let job = with_checkpoint("edited.safetensors", &bytes);
    refused(
        &job,
        &[
            "edited.safetensors: 5 tensor(s) do not fit the architecture",
            "missing    image_encoder.neck.1.bias [64]",
            "missing    mask_decoder.iou_token.weight [1, 64]",
            "unexpected image_encoder.neck.1.offset [64]",
            "unexpected extra.table [1, 64]",
            "mis-shaped prompt_encoder.no_mask_embed.weight: [64, 1], expected [1, 64]",
        ],
    );

    // The refused checkpoint has left nothing that would stand in a good one's way.
    fs::copy(repository(support::TINY), job.path("edited.safetensors")).unwrap();
    job.rows_of_run().expect_masks("a.png");
}

#[test]
fn every_mistake_in_both_files_is_reported_at_once() {
    let job = job();
    let pipeline = fs::read_to_string(job.path("pipeline.toml")).unwrap();
    let pipeline = pipeline.replace("points_per_side = 4", "points_per_sid = 4\ncrop_layers = 1")
        + "box_nms_tresh = 0.5\nstability_score_offset = \"one\"\n[limit]\nmax_side = 7\n";
    fs::write(job.path("pipeline.toml"), pipeline).unwrap();
    let config = "[output]\nroot = \"out\"\n[run]\ndevise = \"cpu\"\npoints_per_batch = 0\n";
    fs::write(job.path("config.toml"), config).unwrap();
    let ran = refused(
        &job,
        &[
            "7 problems in the job's settings; nothing was started",
            "points_per_sid is not a key of [prompts]; did you mean `points_per_side`?",
            "crop_layers is not a key of [prompts]; did you mean `crop_n_layers`?",
            "box_nms_tresh is not a key of [masks]; did you mean `box_nms_thresh`?",
            "masks.stability_score_offset = \"one\" is a string; it must be a number",
            "[limit] is not a section of a pipeline file; did you mean `limits`?",
            "run.devise is not a key of [run]; did you mean `device`?",
            "run.points_per_batch = 0 is outside [1, 65536]",
        ],
    );
    // Each with its file and line.
    assert_eq!(ran.stderr.matches("\n  pipeline.toml:").count(), 5);
    assert_eq!(ran.stderr.matches("\n  config.toml:").count(), 2);
    assert!(ran.stderr.contains("config.toml:4: run.devise"), "{ran:#?}");
}

#[test]
fn a_mistake_on_the_command_line() {
    let mut job = job();
    job.set("masks.nms_iou=0.5");
    refused(
        &job,
        &["--set masks.nms_iou=0.5", "did you mean `box_nms_thresh`?"],
    );
    let ran = job.maskmill(&["run", "none.toml", "--config", "config.toml"]);
    ran.expect_code(2)
        .expect_error(&["none.toml cannot be read"]);
    job.maskmill(&["run", "pipeline.toml"])
        .expect_code(2)
        .expect_error(&["--config"]);
    job.maskmill(&["rnu"]).expect_code(2);
}

#[test]
fn a_source_with_nothing_to_read() {
    for (setting, words) in [
        (
            "source.path=nowhere",
            "the source nowhere does not exist; check source.path",
        ),
        (
            "source.path=config.toml",
            "is a file; source.path must be a folder or prefix",
        ),
        ("source.path=empty", "holds no images"),
        ("source.kind=webdataset", "holds no"),
    ] {
        let mut job = job();
        fs::create_dir(job.path("empty")).unwrap();
        job.set(setting);
        refused(&job, &[words]);
    }
}

/// A device that this build or this machine does not have is an error, never a panic.
#[test]
fn a_device_that_is_not_there() {
    let mut job = job();
    // No machine has so many cards, whether or not this build knows of them.
    job.set("run.device=cuda:99");
    let ran = refused(&job, &["cuda:99"]);
    assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
    assert_eq!(ran.stderr.matches("error: ").count(), 1);
}

#[test]
fn the_output_of_another_job_is_left_as_it_is() {
    let mut job = job();
    job.run().expect_code(0);
    let before = snapshot(&job.output());

    job.set("masks.box_nms_thresh=0.5")
        .set("limits.max_side=99");
    let refused = |job: &Job, words: &[&str]| {
        let ran = job.run();
        ran.expect_code(2).expect_error(words);
        assert_eq!(snapshot(&job.output()), before, "something was written");
    };
    refused(
        &job,
        &[
            "out/job holds the output of another job and nothing was written",
            "masks.box_nms_thresh: 0.7 -> 0.5",
            "limits.max_side: 65535 -> 99",
        ],
    );

    // Another model under the old settings, and another input.
    let mut other_model = Job::of_images();
    other_model.put("a.png", &png(&picture(48, 40, 1), None));
    let compact = repository("tests/reference/fixtures/sam-seeded-compact.pth");
    other_model
        .set(&format!("model.checkpoint={}", compact.display()))
        .set(&format!("output.root={}", job.path("out").display()));
    other_model
        .run()
        .expect_code(2)
        .expect_error(&["model.sha256", "sam-seeded-compact.pth"]);
    // The plan was frozen: what lies in a folder of the same name elsewhere is not looked at.
    let mut other_input = Job::of_images();
    other_input.put("b.png", &png(&picture(48, 40, 1), None));
    other_input.set(&format!("output.root={}", job.path("out").display()));
    let ran = other_input.run();
    ran.expect_code(0);
    assert!(ran.stdout.contains("nothing to do"), "{ran:#?}");
    assert!(ran.stdout.contains("plan ... --extend"), "{ran:#?}");
    assert_eq!(snapshot(&job.output()), before, "something was written");
}

/// Rows of two precisions are never mixed in one output.
#[test]
fn the_output_of_another_precision_is_left_as_it_is() {
    for (there, here) in [("bf16", "f32"), ("f32", "bf16")] {
        let mut job = job();
        job.set(&format!("model.precision={there}"));
        job.run().expect_code(0);
        let record: Value =
            serde_json::from_slice(&fs::read(job.output().join("_job.json")).unwrap()).unwrap();
        assert_eq!(record["model"]["precision"], there);
        let before = snapshot(&job.output());

        // Of two values for one setting the last counts.
        job.set(&format!("model.precision={here}"));
        job.run().expect_code(2).expect_error(&[
            "out/job holds the output of another job and nothing was written",
            &format!("model.precision: \"{there}\" -> \"{here}\""),
        ]);
        assert_eq!(snapshot(&job.output()), before, "something was written");

        job.set(&format!("model.precision={there}"));
        let again = job.run();
        again.expect_code(0);
        assert!(again.stdout.contains("nothing to do"), "{again:#?}");
    }
}

#[test]
fn a_precision_that_there_is_not() {
    let mut job = job();
    job.set("model.precision=fp32");
    refused(
        &job,
        &["model.precision = \"fp32\" is unknown; did you mean `f32`?"],
    );
}

#[test]
fn a_directory_with_other_files_is_left_as_it_is() {
    let job = job();
    fs::create_dir_all(job.output()).unwrap();
    fs::write(job.output().join("thesis.tex"), "years of work").unwrap();
    let before = snapshot(&job.output());
    job.run().expect_code(2).expect_error(&[
        "out/job is not empty and has no _job.json",
        "thesis.tex",
        "Nothing was written; use another directory",
    ]);
    assert_eq!(snapshot(&job.output()), before);
}

#[test]
fn an_output_that_cannot_be_a_directory() {
    let mut job = job();
    job.set("output.root=config.toml");
    refused(&job, &["config.toml/job", "is a file"]);
    let mut job = self::job();
    job.set("output.root=s3://bucket/masks");
    job.set("store.s3_endpoint=http://127.0.0.1:9")
        .set("store.max_retries=1")
        .set("store.first_backoff_seconds=0.01");
    let mut command = job.command(MASKMILL);
    command.args(job.arguments()).envs([
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
    ]);
    let ran = Ran::of(&mut command);
    ran.expect_code(2)
        .expect_error(&["s3://bucket/masks/job", "127.0.0.1:9"]);
    assert!(!ran.stderr.contains("nobody"), "{ran:#?}");
}

/// Shards of one photo each; the settings give each about 20 KB of rows.
fn job_of_six_shards() -> Job {
    let mut job = Job::of_images();
    for shard in 0..6 {
        let photo = small_sample(["cat.png", "fig.png", "coffee.png"][shard % 3], 300);
        job.put(&format!("{shard}.png"), &png(&photo, None));
    }
    // One image at a time: shards do not overtake each other.
    job.set("source.images_per_shard=1")
        .set("run.images_in_flight=1")
        .set("prompts.points_per_side=8");
    job
}

/// A file-size limit makes writes fail on every Unix, in the middle of a part: the job stops with what it
/// has, and goes on where it stopped once there is room.
#[cfg(unix)]
#[test]
fn a_write_that_fails_stops_the_job_and_the_next_run_finishes_it() {
    let job = job_of_six_shards();
    // The first shard is small, the second is not: the limit lies between the two.
    job.put("0.png", &png(&picture(8, 8, 1), None));
    let expected = job.rows_of_run();
    let part = |shard: u32| {
        let part = job.path(&format!("out/job/masks/part-{shard:06}.parquet"));
        fs::metadata(part).unwrap().len()
    };
    // `ulimit -f` counts blocks of 512 bytes in one shell and of 1024 in another.
    let blocks = part(0).max(7000).div_ceil(512);
    assert!(
        part(1) > 1024 * blocks + 1024,
        "{} and {}",
        part(0),
        part(1)
    );
    fs::remove_dir_all(job.output()).unwrap();

    // The signal that would kill is ignored, so that the write fails with an error.
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = job.command("sh");
    command
        .args(["-c", &limited, MASKMILL])
        .args(job.arguments());
    let first = Ran::of(&mut command);
    first.expect_code(1).expect_error(&[
        "shard 000001 could not be written, and the job was stopped",
        "1 shard(s) of this run are committed",
        "cannot write masks/part-000001.parquet in out/job",
        "File too large",
    ]);
    assert_eq!(first.committed(), [0]);
    let unfinished = files_below(&job.output())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains('#'));
    assert_eq!(unfinished.count(), 0, "failed writes leave no files");
    assert_eq!(job.rows().keys(), ["0.png"]);
    let before = snapshot(&job.output());

    let second = job.run();
    second.expect_code(0);
    assert_eq!(second.committed(), [1, 2, 3, 4, 5]);
    assert_eq!(job.rows(), expected);
    let after = snapshot(&job.output());
    assert!(before.iter().all(|file| after.contains(file)));
}

/// A disk that is really full: a small file system in memory, in a mount namespace of its own. Where this
/// user may not have one there is nothing to see; the test above fails writes everywhere.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_job_and_the_next_run_finishes_it() {
    if !may_mount() {
        eprintln!("not tested: this user may not mount a file system in a namespace");
        return;
    }
    let job = job_of_six_shards();
    let expected = job.rows_of_run();
    fs::remove_dir_all(job.path("out")).unwrap();
    fs::create_dir(job.path("out")).unwrap();

    // 128 KiB are left beside another's file, which is deleted between the two runs.
    let script = "set -e; mount -t tmpfs -o size=2048k tmpfs out; head -c 1966080 /dev/zero >out/other; \
        code=0; \"$0\" \"$@\" 2>first || code=$?; cp -r out/job first_output; echo $code; \
        rm out/other; \
        code=0; \"$0\" \"$@\" 2>second || code=$?; cp -r out/job second_output; echo $code";
    let mut command = job.command("unshare");
    command
        .args(IN_A_NAMESPACE)
        .args(["sh", "-c", script, MASKMILL])
        .args(job.arguments());
    let both = Ran::of(&mut command);
    both.expect_code(0);
    let codes: Vec<&str> = both
        .stdout
        .lines()
        .filter(|line| line.parse::<u8>().is_ok())
        .collect();
    assert_eq!(codes, ["1", "0"], "{both:#?}");

    let run = |stderr: &str| Ran {
        code: None,
        stdout: String::new(),
        stderr: fs::read_to_string(job.path(stderr)).unwrap(),
    };
    let (first, second) = (run("first"), run("second"));
    first.expect_error(&[
        "could not be written, and the job was stopped",
        "no space left in out/job",
        "free some and run again",
    ]);
    let mut done = first.committed();
    assert!(!done.is_empty() && done.len() < 6, "{first:#?}");
    done.extend(second.committed());
    done.sort_unstable();
    assert_eq!(done, [0, 1, 2, 3, 4, 5]);

    // What was there when the disk was full is there still, byte for byte.
    for (path, bytes) in snapshot(&job.path("first_output")) {
        let below = path.strip_prefix(job.path("first_output")).unwrap();
        let now = fs::read(job.path("second_output").join(below)).unwrap();
        assert!(now == bytes, "{} has changed", below.display());
    }
    fs::create_dir_all(job.path("out")).unwrap();
    fs::rename(job.path("second_output"), job.output()).unwrap();
    assert_eq!(job.rows(), expected);
}

/// A user and a mount namespace in which one may mount.
#[cfg(target_os = "linux")]
const IN_A_NAMESPACE: [&str; 3] = ["--user", "--map-root-user", "--mount"];

#[cfg(target_os = "linux")]
fn may_mount() -> bool {
    let tried = std::process::Command::new("unshare")
        .args(IN_A_NAMESPACE)
        .args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"])
        .output();
    tried.is_ok_and(|tried| tried.status.success())
}
