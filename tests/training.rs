//! `maskmill train` and `maskmill eval`: a very small model, through the program itself.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{MASKMILL, Ran};
use tempfile::TempDir;

const TRAINING: &str = include_str!("interop/training.toml");

const CONFIG: &str = "[output]\nroot = \"runs\"\n[train]\nlog_steps = 2\nloader_threads = 1\n";

/// A folder with a training and a config file, where commands run.
struct Training {
    folder: TempDir,
}

impl Training {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("training.toml"), TRAINING).unwrap();
        fs::write(folder.path().join("config.toml"), CONFIG).unwrap();
        Training { folder }
    }

    /// A file of the run's directory.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("runs/very-small").join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MASKMILL);
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    fn train(&self, further: &[&str]) -> Ran {
        let arguments = ["train", "training.toml", "--config", "config.toml"];
        Ran::of(self.command(&arguments).args(further))
    }

    fn eval(&self, checkpoint: &Path, further: &[&str]) -> Ran {
        let files = ["--pipeline", "training.toml", "--config", "config.toml"];
        Ran::of(
            self.command(&["eval"])
                .arg(checkpoint)
                .args(files)
                .args(further),
        )
    }
}

/// The rows of a table, without the columns that clocks fill.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let is_clock = |column: &str| ["seconds", "images_per_second"].contains(&column);
    let names: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let mut rows = Vec::new();
    for line in table.lines() {
        let cells = names.iter().zip(line.split(','));
        rows.push(
            cells
                .filter(|(name, _)| !is_clock(name))
                .map(|(_, cell)| cell)
                .collect(),
        );
    }
    rows
}

/// The steps of the rows of a table.
fn steps(table: &str) -> Vec<&str> {
    let rows = table.lines().skip(1);
    rows.map(|row| row.split(',').next().unwrap()).collect()
}

#[test]
fn a_run_leaves_a_checkpoint_metrics_and_curves() {
    let training = Training::new();
    let ran = training.train(&[]);
    ran.expect_code(0);
    for words in [
        "12 of 12 steps, 24 images",
        "Checkpoint:  runs/very-small/checkpoint.safetensors (the best validation: 0.",
        "tensorboard --logdir runs/very-small/events",
        "maskmill eval runs/very-small/checkpoint.safetensors --pipeline training.toml",
    ] {
        assert!(ran.stdout.contains(words), "no {words:?} in {ran:#?}");
    }
    assert_eq!(
        steps(&training.text("metrics.csv")),
        ["2", "4", "6", "8", "10", "12"]
    );
    assert_eq!(steps(&training.text("validation.csv")), ["4", "8", "12"]);
    assert!(training.text("curves.svg").contains("<polyline"));
    assert!(
        training
            .path("events/events.out.tfevents.maskmill")
            .exists()
    );
    let events = ran.events();
    let of = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert_eq!((of("begun"), of("step"), of("validation")), (1, 6, 3));
    let last = events
        .iter()
        .rfind(|event| event["event"] == "step")
        .unwrap();
    assert_eq!(
        (&last["step"], &last["eta_seconds"]),
        (&12.into(), &0.into())
    );

    // The checkpoint is one like any other.
    let checkpoint = training.path("checkpoint.safetensors");
    let evaluated = training.eval(&checkpoint, &["--json"]);
    evaluated.expect_code(0);
    let report: Value = serde_json::from_str(&evaluated.stdout).unwrap();
    assert_eq!(report["images"], 2);
    let best = training.text("validation.csv");
    let best = best
        .lines()
        .skip(1)
        .map(|row| row.split(',').nth(7).unwrap());
    let miou: f64 = report["miou_box"].as_f64().unwrap();
    let near = |cell: &str| (cell.parse::<f64>().unwrap() - miou).abs() < 1e-3;
    assert!(
        best.clone().any(near),
        "{miou} is none of {:?}",
        best.collect::<Vec<_>>()
    );
    let automatic = [
        "--automatic",
        "--points-per-side",
        "4",
        "--pred-iou-thresh",
        "0",
    ];
    let evaluated = training.eval(&checkpoint, &automatic);
    evaluated.expect_code(0);
    assert!(
        evaluated
            .stdout
            .contains("objects that cover more than 1 %"),
        "{evaluated:#?}"
    );
}

#[test]
fn a_stopped_run_goes_on_to_the_same_weights_and_metrics() {
    let whole = Training::new();
    whole.train(&[]).expect_code(0);
    let stopped = Training::new();
    let ran = stopped.train(&["--steps-at-most", "6"]);
    ran.expect_code(0);
    assert!(ran.stdout.contains("6 of 12 steps"), "{ran:#?}");
    let ran = stopped.train(&[]);
    ran.expect_code(0);
    assert_eq!(ran.events()[0]["step"], 6);
    let weights = "checkpoint.safetensors";
    assert!(
        whole.read(weights) == stopped.read(weights),
        "other weights"
    );
    for table in ["metrics.csv", "validation.csv"] {
        let (whole, stopped) = (whole.text(table), stopped.text(table));
        assert_eq!(rows(&whole), rows(&stopped), "{table}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_a_kill_loses_no_more_than_was_not_saved() {
    let whole = Training::new();
    whole.train(&[]).expect_code(0);
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(130)), ("KILL", None)] {
        let training = Training::new();
        let arguments = ["train", "training.toml", "--config", "config.toml"];
        let mut child = training
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // In the middle: six steps are in the metrics, four were saved with the validation.
        let reached =
            lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("\"step\":6")));
        assert!(reached.is_some(), "SIG{signal}: step 6 was never reached");
        let pid = child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
        let last: Vec<String> = lines.map_while(Result::ok).collect();
        let status = child.wait().unwrap();
        // It may have finished before the signal came.
        if status.code() != Some(0) {
            assert_eq!(status.code(), code, "SIG{signal}: {last:?}");
            if code.is_some() {
                let words = "run the same command again to go on";
                assert!(last.iter().any(|line| line.contains(words)), "{last:?}");
            }
        }
        training.train(&[]).expect_code(0);
        let weights = "last.safetensors";
        assert!(
            whole.read(weights) == training.read(weights),
            "SIG{signal}: other weights"
        );
        let steps_of = |training: &Training| training.text("validation.csv");
        assert_eq!(
            rows(&steps_of(&whole)),
            rows(&steps_of(&training)),
            "SIG{signal}"
        );
    }
}

#[test]
fn another_training_file_is_refused_by_what_differs() {
    let training = Training::new();
    training.train(&["--steps-at-most", "2"]).expect_code(0);
    let before = training.read("state.safetensors");
    training
        .train(&["--set", "optimiser.learning_rate=0.002"])
        .expect_code(2)
        .expect_error(&["optimiser.learning_rate: 0.001 -> 0.002"]);
    assert!(before == training.read("state.safetensors"));
    // Where and how fast may differ.
    let place = ["--set", "train.loader_threads=2", "--steps-at-most", "1"];
    training.train(&place).expect_code(0);
}

#[test]
fn mistakes_are_all_reported_before_anything_is_written() {
    let training = Training::new();
    let sets = [
        "--set",
        "optimiser.step=3",
        "--set",
        "loss.dice=-1",
        "--set",
        "run.device=cud",
    ];
    training.train(&sets).expect_code(2).expect_error(&[
        "3 problems",
        "did you mean `steps`?",
        "loss.dice = -1 is outside",
        "run.device = \"cud\" is not a device",
    ]);
    assert!(!training.folder.path().join("runs").exists());
    let ran = Ran::of(&mut training.command(&["train", "none.toml", "--config", "config.toml"]));
    ran.expect_code(2)
        .expect_error(&["none.toml cannot be read"]);
    let missing = training.eval(Path::new("none.safetensors"), &[]);
    missing.expect_code(2).expect_error(&["none.safetensors"]);
    let ran = training.eval(
        Path::new("none.safetensors"),
        &["--set", "validation.data=[]"],
    );
    ran.expect_code(2)
        .expect_error(&["validation.data is empty"]);
}

const GROUNDER: &str = include_str!("interop/training-grounder.toml");

#[test]
fn a_grounder_is_trained_and_measured_by_the_same_commands() {
    let training = Training::new();
    fs::write(training.folder.path().join("training.toml"), GROUNDER).unwrap();
    let first = training.train(&["--steps-at-most", "3"]);
    first.expect_code(0);
    assert!(first.stdout.contains("3 of 6 steps"), "{first:#?}");
    let ran = training.train(&[]);
    ran.expect_code(0);
    for words in [
        "6 of 6 steps, 24 images",
        "Checkpoint:  runs/very-small/checkpoint.safetensors (the best validation: 0.",
        "maskmill eval runs/very-small/checkpoint.safetensors --pipeline training.toml",
    ] {
        assert!(ran.stdout.contains(words), "no {words:?} in {ran:#?}");
    }
    assert_eq!(steps(&training.text("metrics.csv")), ["2", "4", "6"]);
    assert!(
        training
            .text("metrics.csv")
            .starts_with("step,images,seconds,learning_rate,loss,class,")
    );
    assert_eq!(
        training.text("validation.csv").lines().next().unwrap(),
        "step,images,objects,phrases,ap50_held_out,ap50_others"
    );
    let curves = training.text("curves.svg");
    assert!(curves.contains("AP50") && curves.contains("<polyline"));
    for name in [
        "config.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
    ] {
        assert!(training.path(name).exists(), "{name}");
    }
    let validation = ran.events();
    let validation = validation
        .iter()
        .find(|e| e["event"] == "validation")
        .unwrap();
    assert_eq!(
        (&validation["step"], &validation["images"]),
        (&4.into(), &3.into())
    );

    let checkpoint = training.path("checkpoint.safetensors");
    let evaluated = training.eval(&checkpoint, &["--json"]);
    evaluated.expect_code(0);
    let report: Value = serde_json::from_str(&evaluated.stdout).unwrap();
    assert_eq!(report["images"], 3);
    assert!(report["by_form"].as_array().unwrap().len() > 3);
    let printed = training.eval(&checkpoint, &[]);
    printed.expect_code(0);
    assert!(printed.stdout.contains("held out"), "{printed:#?}");
    let automatic = training.eval(&checkpoint, &["--automatic"]);
    automatic
        .expect_code(2)
        .expect_error(&["--automatic", "Segment Anything", "training.toml"]);
}

/// Without later clicks: where they fall depends on the last bits of the logits. On an H200, whose tensor cores take TF32,
/// losses differ by half a percent.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[test]
fn a_gpu_trains_as_the_cpu_does() {
    let gpu = match cfg!(feature = "cuda") {
        true => "run.device=cuda:0",
        false => "run.device=wgpu:0",
    };
    for (file, prompts) in [(TRAINING, Some("prompts.rounds=0")), (GROUNDER, None)] {
        let on = |device: &str| {
            let training = Training::new();
            fs::write(training.folder.path().join("training.toml"), file).unwrap();
            let sets = [Some(device), prompts, Some("export.precision=f32")];
            let sets = sets.into_iter().flatten().flat_map(|set| ["--set", set]);
            let sets: Vec<&str> = sets.chain(["--set", "optimiser.clip_norm=0"]).collect();
            training.train(&sets).expect_code(0);
            training.text("metrics.csv")
        };
        let (cpu, gpu) = (on("run.device=cpu"), on(gpu));
        let (cpu, gpu) = (rows(&cpu), rows(&gpu));
        assert_eq!(cpu.len(), gpu.len());
        assert_eq!(cpu[0], gpu[0]);
        for (of_cpu, of_gpu) in cpu.iter().zip(&gpu).skip(1) {
            for ((name, of_cpu), of_gpu) in cpu[0].iter().zip(of_cpu).zip(of_gpu) {
                let [a, b] = [of_cpu, of_gpu].map(|cell| cell.parse::<f64>().unwrap());
                let close = (a - b).abs() <= 2e-2 * a.abs().max(1e-2);
                assert!(close, "{name}: {a} on the CPU, {b} on the GPU");
            }
        }
        println!("{gpu:?}");
    }
}
