//! `predict --text` and `models inspect`.

use std::fs;

use serde_json::Value;

use crate::support::{Job, Ran, TINY, repository};
use crate::{fixture, sample};

fn predict(arguments: &[&str]) -> (Job, Ran) {
    let job = Job::of_images();
    fs::write(job.path("cat.png"), sample("cat.png")).unwrap();
    let checkpoint = repository(TINY);
    let detector = fixture("owlv2-small");
    let mut all = vec![
        "predict",
        "cat.png",
        "--checkpoint",
        checkpoint.to_str().unwrap(),
    ];
    all.extend(["--detector", detector.to_str().unwrap()]);
    all.extend(arguments);
    let ran = job.maskmill(&all);
    (job, ran)
}

fn answer(job: &Job) -> Value {
    serde_json::from_slice(&fs::read(job.path("cat.masks.json")).unwrap()).unwrap()
}

#[test]
fn predict_finds_what_texts_name() {
    let texts = ["--text", "a cat", "--text", "animal=a dog|a photo of a dog"];
    let (job, ran) = predict(&[&texts[..], &["--score-thresh", "0.35"]].concat());
    ran.expect_code(0);
    let answer = answer(&job);
    let prompts = answer["prompts"].as_array().unwrap();
    assert!(!prompts.is_empty());
    let mut last = 1.0;
    for prompt in prompts {
        let label = prompt["label"].as_str().unwrap();
        assert!(["a cat", "animal"].contains(&label), "{label}");
        let score = prompt["label_score"].as_f64().unwrap();
        assert!((0.35..=last).contains(&score), "the best come first");
        last = score;
        assert_eq!(prompt["box"].as_array().unwrap().len(), 4);
        assert_eq!(prompt["masks"].as_array().unwrap().len(), 1);
    }
    let first = prompts[0]["label"].as_str().unwrap();
    assert!(ran.stdout.contains(&format!("{first} (0.")), "{ran:#?}");
    assert_eq!(
        image::image_dimensions(job.path("cat.masks.png")).unwrap(),
        (451, 300)
    );
}

#[test]
fn predict_says_that_nothing_was_found() {
    let (job, ran) = predict(&["--text", "a cat", "--score-thresh", "1"]);
    ran.expect_code(0);
    assert!(
        ran.stdout.contains("nothing found with a score above 1"),
        "{ran:#?}"
    );
    assert_eq!(answer(&job)["prompts"], serde_json::json!([]));
}

#[test]
fn predict_refuses_texts_that_cannot_be_used() {
    for (arguments, words) in [
        (
            &["--text", "a cat", "--text", "a cat"][..],
            "\"a cat\" is given twice",
        ),
        (&["--text", " "], "label 1 is empty"),
        (
            &["--text", "a=x|y", "--text", "b=x"],
            "\"x\" is given for the label \"a\"",
        ),
        (
            &["--text", "a cat", "--point", "3,4"],
            "cannot be used with",
        ),
        (&["--text", "a cat", "--score-thresh", "2"], "from 0 to 1"),
    ] {
        let (_, ran) = predict(arguments);
        ran.expect_code(2).expect_error(&[words]);
    }
    let job = Job::of_images();
    job.maskmill(&["predict", "cat.png", "--text", "a cat"])
        .expect_code(2)
        .expect_error(&["--detector"]);
}

#[test]
fn predict_warns_of_texts_that_are_too_long() {
    let long = "a cat that sits on a red sofa in the evening sun and looks at a bird in the tree";
    let (_, ran) = predict(&["--text", long]);
    ran.expect_code(0).expect_error(&[
        "warning: --text",
        "longer than the 16 tokens",
        "in the tree",
    ]);
}

#[test]
fn inspect_says_what_a_checkpoint_is() {
    let job = Job::of_images();
    let inspect = |path: &str| job.maskmill(&["models", "inspect", path]);
    for (name, words) in [
        (
            "owlv2-small",
            &[
                "an OWLv2 checkpoint",
                "80 px, patch 8",
                "100 boxes",
                "model.detector",
                "1314 tokens",
            ][..],
        ),
        (
            "owlvit-small",
            &[
                "an OWL-ViT checkpoint",
                "120 px, patch 12",
                "model.detector",
            ],
        ),
        (
            "clip-small",
            &[
                "a CLIP checkpoint (transformers)",
                "quick-GELU",
                "embedding 40",
                "model.labeller",
            ],
        ),
        (
            "clip-small-gelu/pytorch_model.bin",
            &["a CLIP checkpoint (transformers)", "32 px, patch 8"],
        ),
        (
            "openclip-small",
            &[
                "a CLIP checkpoint (open_clip)",
                "64 px, patch 16",
                "context",
            ],
        ),
    ] {
        let ran = inspect(fixture(name).to_str().unwrap());
        ran.expect_code(0);
        for word in words {
            assert!(ran.stdout.contains(word), "no {word:?} in {ran:#?}");
        }
    }
    let ran = inspect(repository(TINY).to_str().unwrap());
    ran.expect_code(0);
    for word in [
        "a Segment Anything checkpoint",
        "UNTRAINED",
        "256 px",
        "model.checkpoint",
    ] {
        assert!(ran.stdout.contains(word), "no {word:?} in {ran:#?}");
    }
}

#[test]
fn inspect_refuses_what_is_no_model() {
    let job = Job::of_images();
    fs::write(job.path("text.bin"), "no model").unwrap();
    job.maskmill(&["models", "inspect", "text.bin"])
        .expect_code(2)
        .expect_error(&["text.bin", "not a readable"]);
    job.maskmill(&["models", "inspect", "source"])
        .expect_code(2)
        .expect_error(&["no weights in source"]);
    job.maskmill(&["models", "inspect", "nowhere"])
        .expect_code(2);
}
