//! What labels are, and what results must not depend on.

use crate::support::{Job, Rows, picture, png};
use crate::{detector, fixture, job, job_of, labeller, sample};

const TEXT: &str = "[prompts]\nmode = \"text\"\nscore_thresh = 0.3\n";

fn with_photos(job: Job) -> Job {
    for name in ["cat.png", "coffee.png"] {
        job.put(name, &sample(name));
    }
    job
}

fn rows(sections: &str) -> Rows {
    with_photos(job(&detector(), sections)).rows_of_run()
}

#[test]
fn the_order_of_labels_phrases_and_negatives_does_not_matter() {
    let one = rows(&format!(
        "{TEXT}[labels]\nnegatives = [\"sky\", \"a wall\"]\ntemplates = [\"a photo of a {{}}\", \"the {{}}\"]\n\
         [labels.names]\ncat = [\"a cat\", \"a kitten\"]\ndog = \"dog\"\ncup = {{ phrases = [\"cup\", \"mug\"], score_thresh = 0.2 }}\n"
    ));
    let other = rows(&format!(
        "{TEXT}[labels]\ntemplates = [\"the {{}}\", \"a photo of a {{}}\"]\nnegatives = [\"a wall\", \"sky\"]\n\
         [labels.names]\ncup = {{ score_thresh = 0.2, phrases = [\"mug\", \"cup\"] }}\ndog = [\"dog\"]\ncat = [\"a kitten\", \"a cat\"]\n"
    ));
    assert!(one.masks.len() > 3, "{} masks", one.masks.len());
    assert!(one == other, "other rows");
}

#[test]
fn results_do_not_depend_on_batches_or_on_other_images() {
    let sections =
        format!("{TEXT}refine = true\n[labels]\nnames = [\"a cat\", \"a dog\", \"coffee\"]\n");
    let all = rows(&sections);
    for (points, in_flight) in [(1, 1), (3, 8)] {
        let mut job = with_photos(job(&detector(), &sections));
        job.put("other.png", &png(&picture(60, 90, 1), None));
        job.set(&format!("run.points_per_batch={points}"));
        job.set(&format!("run.images_in_flight={in_flight}"));
        let found = job.rows_of_run();
        for name in ["cat.png", "coffee.png"] {
            assert!(!all.masks(name).is_empty());
            assert!(
                found.masks(name) == all.masks(name),
                "{name}, {points}, {in_flight}"
            );
        }
    }
}

#[test]
fn synonyms_are_written_as_their_label() {
    let found = rows(&format!(
        "{TEXT}[labels.names]\nanimal = [\"a cat\", \"a dog\", \"a photo of a cat\"]\n"
    ));
    assert!(!found.masks.is_empty());
    for mask in &found.masks {
        assert_eq!(mask.label.as_deref(), Some("animal"));
        assert!(mask.label_score.unwrap() > 0.3);
    }
}

#[test]
fn negatives_only_absorb() {
    let plain = rows(&format!(
        "{TEXT}[labels]\nnames = [\"a cat\", \"coffee\"]\n"
    ));
    let absorbed = rows(&format!(
        "{TEXT}[labels]\nnames = [\"a cat\"]\nnegatives = [\"coffee\"]\n"
    ));
    assert!(
        plain
            .masks
            .iter()
            .any(|mask| mask.label.as_deref() == Some("coffee"))
    );
    let cats: Vec<_> = plain
        .masks
        .iter()
        .filter(|mask| mask.label.as_deref() == Some("a cat"))
        .map(|mask| (&mask.image_key, mask.prompt_box))
        .collect();
    let left: Vec<_> = absorbed
        .masks
        .iter()
        .map(|mask| (&mask.image_key, mask.prompt_box))
        .collect();
    assert_eq!(left, cats);
}

#[test]
fn each_image_may_bring_its_own_labels() {
    let manifest = "\
{\"uri\": \"cat.png\", \"about\": \"a cat; a dog\", \"tags\": [\"a cat\", \"a dog\"]}\n\
{\"uri\": \"coffee.png\", \"about\": \"coffee\", \"tags\": [\"coffee\"]}\n\
{\"uri\": \"dogs.png\", \"about\": null, \"tags\": []}\n";
    let rows = |columns: &str, prompts: &str| {
        let source = format!("kind = \"manifest\"\npath = \"source/list.jsonl\"\n{columns}");
        let job = job_of(&source, &detector(), &format!("{TEXT}{prompts}"));
        for name in ["cat.png", "coffee.png", "dogs.png"] {
            job.put(name, &sample(name));
        }
        job.put("list.jsonl", manifest.as_bytes());
        job.rows_of_run()
    };
    let captions = rows(
        "caption_column = \"about\"",
        "labels_from = \"caption\"\ncaption_separator = \";\"",
    );
    let lists = rows("labels_column = \"tags\"", "labels_from = \"labels\"");
    assert!(
        captions.masks == lists.masks,
        "the same labels, wherever they are written"
    );
    let labels = |key: &str| {
        let mut labels: Vec<_> = captions
            .masks(key)
            .iter()
            .filter_map(|m| m.label.clone())
            .collect();
        labels.sort();
        labels.dedup();
        labels
    };
    assert!(
        labels("cat.png")
            .iter()
            .all(|label| ["a cat", "a dog"].contains(&label.as_str()))
    );
    assert_eq!(labels("coffee.png"), ["coffee"]);
    assert_eq!(
        labels("dogs.png"),
        [""; 0],
        "it has no labels, and is no reject"
    );
    assert_eq!(captions.image("dogs.png").reason, None);
}

#[test]
fn automatic_masks_get_labels() {
    let sections = "[prompts]\nmode = \"automatic\"\npoints_per_side = 3\n\
                    [labels]\nnames = [\"a cat\", \"a cup\", \"a dog\"]\nnegatives = [\"nothing\"]\n\
                    [masks]\npred_iou_thresh = 0.0\nstability_score_thresh = 0.0\nmin_area = 1\n";
    let rows = |settings: &[&str]| {
        let mut job = with_photos(job(&labeller(), sections));
        for setting in settings {
            job.set(setting);
        }
        job.rows_of_run()
    };
    let found = rows(&[]);
    assert!(found.masks.len() > 5);
    for mask in &found.masks {
        let label = mask.label.as_deref().expect("every mask has a label");
        match mask.label_score {
            Some(score) => {
                assert!(["a cat", "a cup", "a dog"].contains(&label), "{label}");
                assert!((0.0..=1.0).contains(&score));
            }
            None => assert_eq!(label, "other"),
        }
    }
    for settings in [
        &["run.crops_per_batch=1", "run.images_in_flight=1"][..],
        &["run.crops_per_batch=7", "run.decode_threads=1"],
        &["labels.names=[\"a dog\", \"a cup\", \"a cat\"]"],
    ] {
        assert!(rows(settings) == found, "{settings:?}");
    }
    let none = rows(&[
        "labeller.min_similarity=0.99",
        "labeller.other_label=unknown",
    ]);
    for mask in &none.masks {
        assert_eq!(
            (mask.label.as_deref(), mask.label_score),
            (Some("unknown"), None)
        );
    }
    let removed = rows(&["labeller.crop_background=remove"]);
    assert!(removed.masks != found.masks, "other crops, other scores");
}

#[test]
fn example_crops_find_what_looks_like_them() {
    let example = fixture("../../../../samples/cat.png");
    let sections = format!(
        "[prompts]\nmode = \"examples\"\nscore_thresh = 0.2\n\
         examples = [{{ image = '{0}', box = [60, 20, 300, 280], label = \"cat\" }}, {{ image = '{0}', label = \"whole\" }}]\n",
        example.display()
    );
    let found = rows(&sections);
    assert!(!found.masks.is_empty());
    for mask in &found.masks {
        assert!(["cat", "whole"].contains(&mask.label.as_deref().unwrap()));
        assert!(mask.prompt_box.is_some() && mask.label_score.unwrap() > 0.2);
    }
}
