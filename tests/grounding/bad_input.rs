//! Labels, boxes and models that cannot be used: a clear error before anything is begun, or a counted reject.

use std::fs;

use crate::support::{Job, Ran};
use crate::{detector, fixture, job, job_of, labeller, sample};

const TEXT: &str = "[prompts]\nmode = \"text\"\nscore_thresh = 0.3\n";

/// Fails unless nothing was begun, with an error that has all of `words`.
#[track_caller]
fn refused(job: &Job, words: &[&str]) -> Ran {
    let ran = job.run();
    ran.expect_code(2).expect_error(words);
    assert!(!job.output().exists(), "nothing may be begun");
    ran
}

fn with_cat(job: Job) -> Job {
    job.put("cat.png", &sample("cat.png"));
    job
}

fn text(labels: &str) -> Job {
    with_cat(job(&detector(), &format!("{TEXT}[labels]\n{labels}\n")))
}

#[test]
fn empty_and_duplicate_labels() {
    refused(
        &text("names = [\"cat\", \" \"]"),
        &["labels.names[1]", "empty"],
    );
    refused(&text("names = []"), &["labels.names"]);
    refused(
        &text("names = [\"cat\", \"cat\"]"),
        &["labels.names[1]", "\"cat\""],
    );
    refused(
        &text("names = [\"cat\", \"Cat \"]"),
        &["labels.names[1]", "\"cat\""],
    );
    refused(
        &text("names = { a = [\"x\"], b = [\"x\"] }"),
        &["\"x\"", "pipeline.toml:"],
    );
    refused(&with_cat(job(&detector(), TEXT)), &["labels.names"]);
}

#[test]
fn a_phrase_longer_than_the_context_is_told_with_what_is_cut() {
    let long = "a very long description of a cat that sits on a red sofa in the evening sun";
    let ran = text(&format!("names = [\"a cat\", \"{long}\"]")).run();
    ran.expect_code(0);
    for printed in [&ran.stdout, &ran.stderr] {
        assert!(
            printed.contains("longer than the 16 tokens") && printed.contains("evening sun\""),
            "{ran:#?}"
        );
    }
}

#[test]
fn ten_thousand_labels_are_looked_for() {
    let names: Vec<String> = (0..10_000).map(|n| format!("\"thing {n}\"")).collect();
    let job = text(&format!("names = [{}]", names.join(", ")));
    let rows = job.rows_of_run();
    assert!(!rows.masks.is_empty());
    let too_many: Vec<String> = (0..20_001).map(|n| format!("\"thing {n}\"")).collect();
    refused(
        &text(&format!("names = [{}]", too_many.join(", "))),
        &["labels.names", "20001", "20000"],
    );
}

#[test]
fn boxes_that_cannot_be_meant_reject_their_image() {
    let source = "kind = \"manifest\"\npath = \"source/list.jsonl\"\nlabels_column = \"names\"";
    let prompts = "[prompts]\nmode = \"boxes\"\nboxes_from = \"columns\"\n";
    let job = job_of(source, "", prompts);
    let lines = [
        ("good", "[[10, 10, 200, 100]]"),
        ("partly", "[[400, 250, 900, 900]]"),
        ("outside", "[[460, 10, 500, 100]]"),
        ("flat", "[[10, 10, 10, 100]]"),
        ("count", "[[10, 10, 20, 100], [1, 1, 9, 9]]"),
    ];
    let mut list = String::new();
    for (name, boxes) in lines {
        job.put(&format!("{name}.png"), &sample("cat.png"));
        list += &format!("{{\"uri\": \"{name}.png\", \"boxes\": {boxes}, \"names\": [\"cat\"]}}\n");
    }
    job.put("list.jsonl", list.as_bytes());
    let rows = job.rows_of_run();
    for good in ["good", "partly"] {
        assert_eq!(rows.masks(&format!("{good}.png")).len(), 1, "{good}");
    }
    let partly = rows.masks("partly.png")[0].prompt_box;
    assert_eq!(
        partly,
        Some([400.0, 250.0, 451.0, 300.0]),
        "cut at the image"
    );
    for (name, words) in [("outside", "460"), ("flat", "10")] {
        let detail = rows.expect_reject(&format!("{name}.png"), "bad_boxes");
        assert!(
            detail.contains("box 0") && detail.contains(words),
            "{detail}"
        );
    }
    let detail = rows.expect_reject("count.png", "bad_labels");
    assert!(detail.contains('1') && detail.contains('2'), "{detail}");
}

#[test]
fn boxes_that_are_no_numbers_reject_their_image() {
    // JSON has no NaN; a COCO file written by Python may have one all the same, and YOLO lines too.
    let job = with_cat(job(
        "",
        "[prompts]\nmode = \"boxes\"\nboxes_from = \"yolo\"\nboxes_path = \"labels\"\n",
    ));
    job.put("other.png", &sample("cat.png"));
    job.put("short.png", &sample("cat.png"));
    fs::create_dir(job.path("labels")).unwrap();
    fs::write(job.path("labels/cat.txt"), "0 nan 0.5 0.2 0.2\n").unwrap();
    fs::write(job.path("labels/other.txt"), "0 0.5 0.5 0.2 0.2\n").unwrap();
    fs::write(
        job.path("labels/short.txt"),
        "0 0.5 0.5 0.2 0.2 0.9\n1 0.5 0.5 0.2 0.2\n",
    )
    .unwrap();
    let rows = job.rows_of_run();
    let detail = rows.expect_reject("cat.png", "bad_boxes");
    assert!(
        detail.contains("line 1") && detail.contains("nan"),
        "{detail}"
    );
    let detail = rows.expect_reject("short.png", "bad_boxes");
    assert!(
        detail.contains("line 2 has five fields where six are due"),
        "{detail}"
    );
    assert_eq!(rows.masks("other.png").len(), 1);
}

#[test]
fn a_coco_file_of_other_images() {
    let coco = r#"{"images": [{"id": 1, "file_name": "beach.jpg"}], "categories": [{"id": 1, "name": "sea"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}"#;
    let job = with_cat(job(
        "",
        "[prompts]\nmode = \"boxes\"\nboxes_from = \"coco\"\nboxes_path = \"boxes.json\"\n",
    ));
    fs::write(job.path("boxes.json"), coco).unwrap();
    refused(&job, &["boxes.json", "beach.jpg", "cat.png"]);
    let dangling = coco.replace("\"image_id\": 1", "\"image_id\": 5");
    fs::write(job.path("boxes.json"), dangling).unwrap();
    refused(&job, &["annotations[0]", "no image with the id", "5"]);
    fs::write(job.path("boxes.json"), "{\"images\": 3}").unwrap();
    refused(&job, &["boxes.json"]);
    fs::remove_file(job.path("boxes.json")).unwrap();
    refused(&job, &["prompts.boxes_path"]);
}

#[test]
fn label_files_of_other_images() {
    let job = with_cat(job(
        "",
        "[prompts]\nmode = \"boxes\"\nboxes_from = \"yolo\"\nboxes_path = \"labels\"\n",
    ));
    fs::create_dir(job.path("labels")).unwrap();
    fs::write(job.path("labels/beach.txt"), "0 0.5 0.5 0.2 0.2\n").unwrap();
    refused(&job, &["prompts.boxes_path", "cat.png", "1 label files"]);
}

#[test]
fn a_model_in_another_s_place() {
    let labels = "[labels]\nnames = [\"cat\"]\n";
    let owl = fixture("owlv2-small");
    let clip = fixture("clip-small");
    let automatic = format!("[prompts]\nmode = \"automatic\"\npoints_per_side = 2\n{labels}");
    refused(
        &with_cat(job(&format!("labeller = '{}'", owl.display()), &automatic)),
        &[
            "model.labeller",
            "not a CLIP checkpoint",
            "OWLv2",
            "belongs in model.detector",
        ],
    );
    refused(
        &with_cat(job(
            &format!("detector = '{}'", clip.display()),
            &format!("{TEXT}{labels}"),
        )),
        &["model.detector", "CLIP", "belongs in model.labeller"],
    );
    refused(
        &with_cat(job("detector = 'nowhere'", &format!("{TEXT}{labels}"))),
        &["nowhere"],
    );
    // A folder without weights.
    let job = with_cat(job("detector = 'source'", &format!("{TEXT}{labels}")));
    refused(&job, &["no weights in source", "model.safetensors"]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let automatic =
        "[prompts]\nmode = \"automatic\"\npoints_per_side = 2\n[labels]\nnames = [\"cat\"]\n";
    let model = format!(
        "{}\nlabeller_tokenizer = '{}'",
        labeller(),
        fixture("clip-tokenizer").display()
    );
    refused(
        &with_cat(job(&model, automatic)),
        &["49408 tokens", "1314", "model.labeller"],
    );
    let nothing = format!("{}\nlabeller_tokenizer = 'source'", labeller());
    refused(
        &with_cat(job(&nothing, automatic)),
        &["no tokenizer in source", "tokenizer.json"],
    );
}

#[test]
fn a_changed_detector_is_another_job() {
    let mut job = with_cat(job("", &format!("{TEXT}[labels]\nnames = [\"a cat\"]\n")));
    let copy = job.path("owl");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(fixture("owlv2-small")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    job.set("model.detector=owl");
    job.run().expect_code(0);
    job.run().expect_code(0);
    let config = copy.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text} ")).unwrap();
    job.run()
        .expect_code(2)
        .expect_error(&["model.detector/config.json"]);
}

#[test]
fn examples_that_cannot_be_seen() {
    let examples = |example: &str| {
        with_cat(job(
            &detector(),
            &format!("[prompts]\nmode = \"examples\"\nexamples = [{example}]\n"),
        ))
    };
    refused(
        &examples("{ image = \"nowhere.png\", label = \"x\" }"),
        &["nowhere.png"],
    );
    refused(
        &examples("{ image = \"pipeline.toml\", label = \"x\" }"),
        &["prompts.examples", "pipeline.toml"],
    );
    refused(
        &examples("{ image = \"source/cat.png\", label = \"x\", box = [900, 10, 950, 40] }"),
        &[
            "prompts.examples",
            "source/cat.png",
            "not on the image of 300x451",
        ],
    );
}
