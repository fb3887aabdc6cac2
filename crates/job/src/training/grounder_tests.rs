//! Training files of grounders: what is accepted, what is reported.

use std::collections::BTreeMap;

use super::*;
use crate::{
    AnyTrainingJob, ConfigError, TextFile, load_any_training, load_grounder_pipeline,
    load_training_pipeline, training_fingerprint,
};

const GROUNDER: &str = r#"
name = "finder"
task = "grounder"
[[data]]
kind = "scenes"
seed = 1
[optimiser]
learning_rate = 1e-3
steps = 2000
"#;

fn file(text: &str) -> TextFile<'_> {
    TextFile {
        name: "finder.toml",
        text,
    }
}

fn read(sets: &[&str]) -> Result<GrounderPipeline, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    load_grounder_pipeline(file(GROUNDER), &sets)
}

fn messages<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> Vec<String> {
    let problems = result.expect_err("accepted").problems;
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_task_decides_how_a_training_file_is_read() {
    let config = TextFile {
        name: "here.toml",
        text: "[output]\nroot = \"runs\"\n",
    };
    let of = |text: &str| load_any_training(file(text), config, &[]).unwrap();
    let AnyTrainingJob::Grounder(job) = of(GROUNDER) else {
        panic!("a grounder");
    };
    assert_eq!(job.directory(), std::path::Path::new("runs/finder"));
    assert_eq!(job.pipeline.task, TrainingTask::Grounder);
    for task in ["", "task = \"segmenter\""] {
        let text = GROUNDER.replace("task = \"grounder\"", task) + "[architecture]\n";
        assert!(matches!(of(&text), AnyTrainingJob::Segmenter(_)), "{task}");
    }
    let unknown = GROUNDER.replace("\"grounder\"", "\"grunder\"") + "[architecture]\n";
    assert_eq!(
        messages(load_any_training(file(&unknown), config, &[])),
        ["finder.toml:3: task = \"grunder\" is unknown; did you mean `grounder`?"]
    );
    let other = messages(load_training_pipeline(file(GROUNDER), &[]));
    assert!(
        other.contains(
            &"finder.toml:3: task = \"grounder\": a model of Segment Anything is asked for"
                .to_owned()
        ),
        "{other:?}"
    );
}

#[test]
fn sections_and_keys_of_the_other_task_are_told_apart() {
    let text = GROUNDER.to_owned() + "layer_decay = 0.8\n[prompts]\nrounds = 2\n";
    assert_eq!(
        messages(load_grounder_pipeline(file(&text), &[])),
        [
            "finder.toml:10: optimiser.layer_decay is not a key of [optimiser]; did you mean `weight_decay`?",
            "finder.toml:11: [prompts] is for task = \"segmenter\", which this file does not have",
        ]
    );
    let text = GROUNDER.replace("task = \"grounder\"", "") + "[architecture]\n[queries]\n";
    assert_eq!(
        messages(load_training_pipeline(file(&text), &[])),
        ["finder.toml:11: [queries] is for task = \"grounder\", which this file does not have"]
    );
}

#[test]
fn what_does_not_fit_is_reported_at_once_by_its_line() {
    let text = GROUNDER.to_owned()
        + "[[data]]\nkind = \"coco\"\nannotations = \"a\"\nimages = \"i\"\n[architecture]\n\
           image_heads = 5\npatch_size = 24\n[queries]\npositives = 1.5\n[loss]\nclass = 0\n\
           [augmentation]\ncolour = 0.5\n[[validation.data]]\nkind = \"scenes\"\nseed = 1\n";
    assert_eq!(
        messages(load_grounder_pipeline(file(&text), &[])),
        [
            "finder.toml:10: data[1].kind must be \"scenes\" for task = \"grounder\": only generated scenes come with phrases",
            "finder.toml:15: architecture.image_heads = 5 does not divide image_dim = 192",
            "finder.toml:16: architecture.patch_size = 24 does not divide image_size = 256",
            "finder.toml:18: queries.positives = 1.5 is outside [0, 1]",
            "finder.toml:20: loss.class = 0: no phrase would be learned",
            "finder.toml:22: augmentation.colour = 0.5 is outside [0, 0.25]",
            "finder.toml:23: data[0].seed is also the seed of validation.data[0]: the scenes that are learned would be those that measure what was learned",
        ]
    );
}

#[test]
fn weights_come_from_one_place() {
    let text = GROUNDER.to_owned() + "[model]\nimage_encoder = \"s\"\ncheckpoint = \"o\"\n";
    assert_eq!(
        messages(load_grounder_pipeline(file(&text), &[])),
        [
            "finder.toml:11: model.image_encoder has no meaning beside model.checkpoint, which has an image tower. Remove one of them"
        ]
    );
}

#[test]
fn every_key_changes_the_fingerprint() {
    let print = |sets: &[&str]| {
        let pipeline = read(sets).unwrap_or_else(|error| panic!("{sets:?}: {error}"));
        training_fingerprint(&pipeline, &BTreeMap::new())
    };
    let unchanged = print(&[]);
    for set in [
        "seed=4",
        "architecture.image_size=128",
        "architecture.patch_size=8",
        "architecture.image_dim=96",
        "architecture.image_depth=2",
        "architecture.image_heads=4",
        "architecture.image_mlp_dim=96",
        "architecture.text_dim=64",
        "architecture.text_depth=2",
        "architecture.text_heads=2",
        "architecture.text_mlp_dim=96",
        "architecture.context=12",
        "model.image_encoder=\"sam.safetensors\"",
        "model.checkpoint=\"owl.safetensors\"",
        "augmentation.flip=false",
        "augmentation.vertical_flip=true",
        "augmentation.colour=0.1",
        "queries.per_image=9",
        "queries.positives=0.25",
        "queries.held_out=0.2",
        "loss.class=1",
        "loss.l1=1",
        "loss.giou=1",
        "loss.objectness=2",
        "loss.focal_alpha=0.5",
        "loss.focal_gamma=1",
        "loss.boxes_per_object=3",
        "loss.dense=1",
        "optimiser.clip_norm=2",
        "export.precision=\"f16\"",
    ] {
        assert_ne!(print(&[set]), unchanged, "{set}");
    }
}
