//! Whole runs of a very small model: stopped and resumed, refused, and broken.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use maskmill_job::{TextFile, TrainingPipeline, TrainingRecord, load_training_pipeline};
use maskmill_sam::{Precision, Sam};
use maskmill_train::{
    Data, Evaluation, Observer, Outcome, Position, Report, StepReport, TrainError, evaluate, files,
    train,
};

use support::{bytes, in_place};

const TRAINING: &str = r#"
name = "very-small"
seed = 3

[architecture]
image_size = 64
patch_size = 8
encoder_dim = 32
encoder_depth = 2
encoder_heads = 2
encoder_mlp_dim = 48
window = 4
global_blocks = [1]
embed_dim = 32
mask_in_channels = 8
decoder_mlp_dim = 48
cross_attention_dim = 16
iou_head_dim = 32

[[data]]
kind = "scenes"
seed = 1
count = 50
width = [90, 120]
height = 100
objects = [3, 6]

[prompts]
masks_per_image = 3
rounds = 1

[optimiser]
learning_rate = 1e-3
warmup_steps = 2
steps = 6
batch_images = 2
accumulate = 2

[validation]
images = 2
every_steps = 4
masks_per_image = 2

[[validation.data]]
kind = "scenes"
seed = 7
count = 10
width = 120
height = 96
objects = [3, 6]
"#;

fn pipeline(overrides: &[&str]) -> TrainingPipeline {
    let file = TextFile {
        name: "very-small.toml",
        text: TRAINING,
    };
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    load_training_pipeline(file, &overrides).unwrap_or_else(|error| panic!("{error}"))
}

#[derive(Default)]
struct Heard {
    begun_at: u32,
    steps: Vec<StepReport>,
    validated: Vec<(u32, bool)>,
    skipped: Vec<String>,
}

impl Observer for Heard {
    fn begun(&mut self, position: &Position, _: u32, parameters: usize) -> Result<(), TrainError> {
        assert!(parameters > 10_000);
        self.begun_at = position.step;
        Ok(())
    }

    fn stepped(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.steps.push(report.clone());
        Ok(())
    }

    fn validated(&mut self, step: u32, report: &Report, best: bool) -> Result<(), TrainError> {
        assert!(report.images == 2 && report.masks > 0 && (0.0..=1.0).contains(&report.miou_box));
        self.validated.push((step, best));
        Ok(())
    }

    fn skipped(&mut self, problem: &str) {
        self.skipped.push(problem.to_owned());
    }
}

fn run(
    pipeline: &TrainingPipeline,
    directory: &Path,
    steps_at_most: Option<u32>,
) -> (Result<Outcome, TrainError>, Heard) {
    let record = TrainingRecord::new(pipeline, &BTreeMap::new(), "test");
    let mut heard = Heard::default();
    let outcome = in_place(directory, steps_at_most, |place| {
        train(pipeline, &record, place, &mut heard)
    });
    (outcome, heard)
}

#[test]
fn a_resumed_run_ends_with_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let pipeline = pipeline(&[]);
    let (outcome, heard) = run(&pipeline, &whole, None);
    let outcome = outcome.unwrap();
    assert!(outcome.finished && outcome.position.step == 6 && outcome.position.images == 24);
    assert_eq!(heard.steps.len(), 6);
    assert_eq!(
        heard.validated.iter().map(|v| v.0).collect::<Vec<_>>(),
        [4, 6]
    );
    assert!(heard.validated[0].1);
    // The model for use is one, and it is whole.
    Sam::load(&outcome.checkpoint, &Device::flex(), Precision::F32).unwrap();

    for (at_most, begun_at) in [(1, 0), (4, 1), (9, 5)] {
        let (outcome, heard) = run(&pipeline, &parts, Some(at_most));
        assert_eq!(heard.begun_at, begun_at);
        assert_eq!(outcome.unwrap().finished, at_most == 9);
    }
    assert!(bytes(&whole, files::LAST) == bytes(&parts, files::LAST));
    assert!(bytes(&whole, files::CHECKPOINT) == bytes(&parts, files::CHECKPOINT));
    // A finished run has nothing more to do.
    let (outcome, heard) = run(&pipeline, &parts, None);
    assert!(outcome.unwrap().finished && heard.steps.is_empty());
}

#[test]
fn another_training_file_is_refused_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    run(&pipeline(&[]), folder.path(), Some(1)).0.unwrap();
    let other = pipeline(&["optimiser.learning_rate=0.01"]);
    let before = bytes(folder.path(), files::STATE);
    let error = run(&other, folder.path(), Some(1))
        .0
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("optimiser.learning_rate: 0.001 -> 0.01"),
        "{error}"
    );
    assert!(bytes(folder.path(), files::STATE) == before);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut wild = pipeline(&["optimiser.warmup_steps=0", "optimiser.steps=40"]);
    // No file may ask for this: after the first step the weights are beyond what products can hold.
    wild.optimiser.learning_rate = 1e30;
    let (outcome, heard) = run(&wild, folder.path(), Some(1));
    let (state, done) = match outcome {
        Ok(outcome) => (bytes(folder.path(), files::STATE), outcome.position.step),
        Err(error) => panic!("the first step is of fresh weights: {error}"),
    };
    assert_eq!((done, heard.steps.len()), (1, 1));
    let error = run(&wild, folder.path(), None).0.unwrap_err();
    let TrainError::NotFinite { step, images, .. } = &error else {
        panic!("{error}");
    };
    assert!(*step > 1 && images.len() == 4, "{error}");
    assert!(error.to_string().contains(&images[0]), "{error}");
    assert!(bytes(folder.path(), files::STATE) == state);
}

/// `/dev/full` answers every write as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_state_before() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(&[]);
    run(&pipeline, folder.path(), Some(1)).0.unwrap();
    let before = bytes(folder.path(), files::STATE);
    let partial = folder.path().join(format!("{}.partial", files::STATE));
    std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    let error = run(&pipeline, folder.path(), Some(1))
        .0
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(files::STATE) && error.contains("what was there before"),
        "{error}"
    );
    assert!(bytes(folder.path(), files::STATE) == before);
    // With room again it goes on.
    let (outcome, heard) = run(&pipeline, folder.path(), Some(1));
    assert_eq!((heard.begun_at, outcome.unwrap().position.step), (1, 2));
}

#[test]
fn a_damaged_state_and_a_wrong_checkpoint_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline_ = pipeline(&[]);
    run(&pipeline_, folder.path(), Some(1)).0.unwrap();
    let path = folder.path().join(files::STATE);
    let state = std::fs::read(&path).unwrap();
    std::fs::write(&path, &state[..state.len() / 2]).unwrap();
    let error = run(&pipeline_, folder.path(), Some(1)).0.unwrap_err();
    assert!(matches!(error, TrainError::State { .. }), "{error}");

    let data = Data::open(&pipeline_.data, "data").unwrap();
    let evaluation = Evaluation {
        images: 1,
        masks_per_image: 1,
        automatic: None,
    };
    let skipped = &mut |problem: String| panic!("{problem}");
    let error = evaluate(&path, &Device::flex(), &data, &evaluation, skipped).unwrap_err();
    assert!(matches!(error, TrainError::Checkpoint(_)), "{error}");
}

#[test]
fn folders_without_a_usable_example_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for i in 0..3 {
        std::fs::write(images.join(format!("{i}.json")), r#"{"annotations": []}"#).unwrap();
        std::fs::write(images.join(format!("{i}.png")), b"no image").unwrap();
    }
    let mut bad = pipeline(&[]);
    bad.data[0].kind = maskmill_job::TrainingDataKind::Sa1b {
        path: images.to_str().unwrap().to_owned(),
    };
    let error = run(&bad, &folder.path().join("run"), Some(1))
        .0
        .unwrap_err();
    assert!(matches!(error, TrainError::NoExamples { .. }), "{error}");
}
