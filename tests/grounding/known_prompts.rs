//! Boxes of other detectors and points, from every place they are written.

use maskmill_formats::rows::MaskRow;

use crate::support::{Job, Rows};
use crate::{job, job_of, sample};

/// Boxes on cat.png (451 x 300) with their labels and scores.
const CAT: [[f64; 4]; 2] = [[60.0, 20.0, 300.0, 280.0], [10.0, 10.0, 100.0, 90.0]];

const DATASET: &str = r#"{
    "images": [{"id": 7, "file_name": "photos/cat.png", "width": 451, "height": 300},
               {"id": 9, "file_name": "photos/coffee.png", "width": 600, "height": 400}],
    "categories": [{"id": 17, "name": "cat"}, {"id": 47, "name": "cup"}]"#;

/// As Detectron2 writes `coco_instances_results.json`.
const RESULTS: &str = r#"[
    {"image_id": 7, "category_id": 17, "bbox": [60, 20, 240, 260], "score": 0.9,
     "segmentation": {"size": [300, 451], "counts": "abc"}},
    {"image_id": 7, "category_id": 47, "bbox": [10.0, 10.0, 90.0, 80.0], "score": 0.5}]"#;

fn photos(job: Job) -> Job {
    for name in ["cat.png", "coffee.png"] {
        job.put(name, &sample(name));
    }
    job
}

fn boxes(prompts: &str) -> Job {
    photos(job(
        "",
        &format!("[prompts]\nmode = \"boxes\"\n{prompts}\n"),
    ))
}

/// What every way to write the same boxes must give.
fn check(rows: &Rows) {
    let masks: Vec<&MaskRow> = rows.masks("cat.png");
    assert_eq!(masks.len(), 2);
    for (mask, corners) in masks.iter().zip(CAT) {
        let found = mask.prompt_box.expect("a box prompted it");
        for (a, b) in found.iter().zip(corners) {
            assert!(
                (f64::from(*a) - b).abs() < 0.01,
                "{found:?} for {corners:?}"
            );
        }
        assert!(mask.point_coords.is_empty());
        assert!(mask.area > 0);
    }
    let labels: Vec<_> = masks.iter().map(|mask| mask.label.as_deref()).collect();
    assert_eq!(labels, [Some("cat"), Some("cup")]);
    let scores: Vec<_> = masks.iter().map(|mask| mask.label_score).collect();
    assert_eq!(scores, [Some(0.9), Some(0.5)]);
    assert_eq!(rows.masks("coffee.png").len(), 0, "there is no box on it");
    assert_eq!(rows.image("coffee.png").reason, None);
}

#[test]
fn coco_results_with_the_data_set_s_images() {
    let job =
        boxes("boxes_from = \"coco\"\nboxes_path = \"results.json\"\ncoco_images = \"data.json\"");
    std::fs::write(job.path("results.json"), RESULTS).unwrap();
    std::fs::write(job.path("data.json"), format!("{DATASET}}}")).unwrap();
    check(&job.rows_of_run());
    // Rows depend on the file: with another one it is another job.
    std::fs::write(job.path("results.json"), RESULTS.replace("0.5", "0.6")).unwrap();
    job.run().expect_code(2).expect_error(&["boxes_path"]);
}

#[test]
fn coco_data_sets_with_annotations() {
    let job = boxes("boxes_from = \"coco\"\nboxes_path = \"data.json\"");
    let annotations = RESULTS.trim_end_matches(']').trim_start_matches('[');
    let dataset = format!("{DATASET}, \"annotations\": [{annotations}]}}");
    std::fs::write(job.path("data.json"), dataset).unwrap();
    check(&job.rows_of_run());
}

#[test]
fn yolo_label_files() {
    let mut job = boxes(
        "boxes_from = \"yolo\"\nboxes_path = \"labels\"\nyolo_names = \"labels/classes.txt\"",
    );
    std::fs::create_dir(job.path("labels")).unwrap();
    let line = |class: u32, [x0, y0, x1, y1]: [f64; 4], score: f64| {
        let (width, height) = (451.0, 300.0);
        format!(
            "{class} {} {} {} {} {score}\n",
            (x0 + x1) / 2.0 / width,
            (y0 + y1) / 2.0 / height,
            (x1 - x0) / width,
            (y1 - y0) / height
        )
    };
    let text = line(0, CAT[0], 0.9) + &line(1, CAT[1], 0.5);
    std::fs::write(job.path("labels/cat.txt"), text).unwrap();
    std::fs::write(job.path("labels/classes.txt"), "cat\ncup\n").unwrap();
    check(&job.rows_of_run());
    job.set("prompts.min_box_score=0.6").set("name=strict");
    job.run().expect_code(0);
}

#[test]
fn columns_of_a_manifest() {
    let source = "kind = \"manifest\"\npath = \"source/list.jsonl\"\nlabels_column = \"names\"\nscores_column = \"conf\"";
    let prompts = "[prompts]\nmode = \"boxes\"\nboxes_from = \"columns\"\n";
    let job = photos(job_of(source, "", prompts));
    job.put(
        "list.jsonl",
        b"{\"uri\": \"cat.png\", \"boxes\": [[60, 20, 300, 280], [10, 10, 100, 90]], \"names\": [\"cat\", \"cup\"], \"conf\": [0.9, 0.5]}\n\
          {\"uri\": \"coffee.png\", \"boxes\": null, \"names\": null, \"conf\": null}\n",
    );
    check(&job.rows_of_run());
}

#[test]
fn points_fixed_and_of_columns() {
    let fixed = photos(job(
        "",
        "[prompts]\nmode = \"points\"\npoints_from = \"fixed\"\nfixed_points = [[0.5, 0.5], [0.25, 0.5]]\n",
    ))
    .rows_of_run();
    let masks = fixed.masks("cat.png");
    assert_eq!(masks.len(), 2);
    assert_eq!(masks[0].point_coords, [[225.5, 150.0]]);
    assert_eq!((masks[0].prompt_box, &masks[0].label), (None, &None));

    let source = "kind = \"manifest\"\npath = \"source/list.jsonl\"\npoints_column = \"clicks\"";
    let prompts = "[prompts]\nmode = \"points\"\npoints_from = \"columns\"\n";
    let of_columns = |groups: &str| {
        let job = photos(job_of(source, "", &format!("{prompts}{groups}\n")));
        job.put(
            "list.jsonl",
            b"{\"uri\": \"cat.png\", \"clicks\": [[225.5, 150.0], [112.75, 150.0]]}\n\
              {\"uri\": \"coffee.png\", \"clicks\": null}\n",
        );
        job.rows_of_run()
    };
    let each = of_columns("");
    let same: Vec<_> = each
        .masks("cat.png")
        .iter()
        .map(|mask| mask.rle.clone())
        .collect();
    let expected: Vec<_> = masks.iter().map(|mask| mask.rle.clone()).collect();
    assert_eq!(same, expected, "the same points, wherever they are written");
    let together = of_columns("point_groups = \"together\"");
    let masks = together.masks("cat.png");
    assert_eq!(masks.len(), 1);
    assert_eq!(masks[0].point_coords.len(), 2);
}
