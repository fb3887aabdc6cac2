//! Prompts through [`load_pipeline`]: what each mode reads, its defaults, what the fingerprint sees.

use std::collections::BTreeMap;

use serde_json::Value;

use super::tests::{PIPELINE, job, messages, no_files, pipeline};
use super::*;
use crate::{
    BoxPrompts, BoxesFrom, CropBackground, DetectionSettings, Example, ExamplePrompts, Fingerprint,
    JobRecord, Label, LabellerSettings, Labels, LabelsFrom, PointGroups, PointPrompts, PointsFrom,
    PromptedMasks, Prompts, TextPrompts,
};

const DETECTION: DetectionSettings = DetectionSettings {
    score_thresh: 0.1,
    objectness_thresh: 0.0,
    label_nms_thresh: 0.5,
    cross_label_nms_thresh: None,
    max_detections: 100,
};
const MASKS: PromptedMasks = PromptedMasks {
    single_mask: true,
    refine: false,
};

pub(super) const TEXT: &str = "detector = 'models/owl'\n[prompts]\nmode = 'text'\n";
pub(super) const EXAMPLES: &str = "detector = 'models/owl'\n[prompts]\nmode = 'examples'\n";
pub(super) const LABELLED: &str = "labeller = 'models/clip'\n";

/// A pipeline with `rest` behind its `[model]` section, whose lines begin with the eighth.
pub(super) fn with(rest: &str) -> String {
    format!("{PIPELINE}{rest}")
}

/// The same with a source that has columns.
pub(super) fn with_columns(rest: &str) -> String {
    with(rest).replace("\"images\"", "\"manifest\"")
}

pub(super) fn loaded(text: &str) -> Pipeline {
    pipeline(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub(super) fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint::of(&loaded(text), "ab", &no_files())
}

pub(super) fn label(name: &str, phrases: &[&str]) -> Label {
    Label {
        name: name.to_string(),
        phrases: phrases.iter().map(ToString::to_string).collect(),
        score_thresh: None,
    }
}

fn example(label: &str, image: &str, box_xyxy_px: Option<[f64; 4]>) -> Example {
    Example {
        label: label.to_string(),
        image: image.to_string(),
        box_xyxy_px,
    }
}

#[test]
fn each_mode_has_its_defaults() {
    let text = loaded(&with(&format!("{TEXT}[labels]\nnames = ['cat']\n")));
    let expected = TextPrompts {
        labels_from: LabelsFrom::Pipeline,
        detection: DETECTION,
        masks: MASKS,
    };
    assert_eq!(text.prompts, Prompts::Text(expected));
    let labels = Labels {
        names: vec![label("cat", &["cat"])],
        templates: vec!["{}".to_string()],
        negatives: Vec::new(),
    };
    assert_eq!(text.labels, Some(labels));
    assert_eq!((text.labeller, text.model.labeller), (None, None));

    let examples = loaded(&with(&format!(
        "{EXAMPLES}examples = [{{ image = 'a.png', label = 'logo' }}]\n"
    )));
    let expected = ExamplePrompts {
        examples: vec![example("logo", "a.png", None)],
        detection: DETECTION,
        masks: MASKS,
    };
    assert_eq!(examples.prompts, Prompts::Examples(expected));
    assert_eq!(examples.labels, None);

    let boxes = "[prompts]\nmode = 'boxes'\nboxes_from = 'columns'\n";
    let expected = BoxPrompts {
        boxes_from: BoxesFrom::Columns,
        min_box_score: 0.0,
        masks: MASKS,
    };
    let boxes = loaded(&with_columns(boxes)).prompts;
    assert_eq!(boxes, Prompts::Boxes(expected));

    let points = "[prompts]\nmode = 'points'\npoints_from = 'columns'\n";
    let expected = PointPrompts {
        points_from: PointsFrom::Columns,
        point_groups: PointGroups::Each,
        masks: MASKS,
    };
    let points = loaded(&with_columns(points)).prompts;
    assert_eq!(points, Prompts::Points(expected));

    let labelled = loaded(&with(&format!("{LABELLED}[labels]\nnames = ['cat']\n")));
    let expected = LabellerSettings {
        crop_padding: 0.1,
        crop_background: CropBackground::Keep,
        min_probability: 0.0,
        min_similarity: -1.0,
        other_label: "other".to_string(),
    };
    assert_eq!(labelled.labeller, Some(expected));
    assert!(matches!(labelled.prompts, Prompts::Automatic(_)));
}

/// Every setting of every mode, at values that are not the defaults.
fn full_files() -> Vec<String> {
    let detection = "score_thresh = 0.2\nobjectness_thresh = 0.3\nlabel_nms_thresh = 0.4\n\
                     cross_label_nms_thresh = 0.6\nmax_detections = 7\n";
    let masks = "single_mask = false\nrefine = true\n";
    let tokenizer = "detector_tokenizer = 'models/t.json'\n";
    let labels = "[labels]\nnames = { car = ['auto', 'car'], dog = 'dog', \
                  truck = { phrases = ['lorry'], score_thresh = 0.3 } }\n\
                  templates = ['a {}', 'the {}']\nnegatives = ['sky', 'wall']\n";
    let no_thresh = labels.replace(", score_thresh = 0.3", "");
    vec![
        with(&format!("{tokenizer}{TEXT}{detection}{masks}{labels}")),
        with_columns(&format!(
            "{TEXT}labels_from = 'caption'\ncaption_separator = \"\\n\"\n[labels]\nnegatives = \
             ['sky']\n"
        )),
        with_columns(&format!("{TEXT}labels_from = 'labels'\n")),
        with(&format!(
            "{EXAMPLES}{detection}{masks}examples = [{{ image = 'a', box = [1, 2, 3.5, 4], label \
             = 'x' }}]\n"
        )),
        with(&format!(
            "[prompts]\nmode = 'boxes'\nboxes_from = 'coco'\nboxes_path = 's3://b/r.json'\n\
             coco_images = 'i.json'\nmin_box_score = 0.5\n{masks}"
        )),
        with(&format!(
            "[prompts]\nmode = 'boxes'\nboxes_from = 'yolo'\nboxes_path = 'labels'\n\
             yolo_names = 'classes.txt'\nyolo_scores = true\n{masks}"
        )),
        with(&format!(
            "[prompts]\nmode = 'points'\npoints_from = 'fixed'\nfixed_points = [[0, 0.5], [1, \
             0.25]]\npoint_groups = 'together'\n{masks}"
        )),
        with(&format!(
            "{LABELLED}labeller_tokenizer = 't'\n{no_thresh}[labeller]\ncrop_padding = 0.5\n\
             crop_background = 'remove'\nmin_probability = 0.5\nmin_similarity = 0.2\n\
             other_label = 'thing'\n"
        )),
    ]
}

#[test]
fn every_setting_is_read_and_a_record_reads_back() {
    let files = BTreeMap::from([("model.detector".to_string(), "cd".to_string())]);
    let all: Vec<Pipeline> = full_files().iter().map(|text| loaded(text)).collect();
    for pipeline in &all {
        let record = JobRecord::new(pipeline, "ab", &files, "0.1.0");
        let json: Value = serde_json::from_str(&record.to_json().to_string()).unwrap();
        assert_eq!(serde_json::from_value::<JobRecord>(json).unwrap(), record);
    }

    let masks = PromptedMasks {
        single_mask: false,
        refine: true,
    };
    let detection = DetectionSettings {
        score_thresh: 0.2,
        objectness_thresh: 0.3,
        label_nms_thresh: 0.4,
        cross_label_nms_thresh: Some(0.6),
        max_detections: 7,
    };
    let Prompts::Text(text) = &all[0].prompts else {
        panic!("{:?}", all[0])
    };
    assert_eq!((&text.detection, text.masks), (&detection, masks));
    assert_eq!(
        all[0].model.detector_tokenizer.as_deref(),
        Some("models/t.json")
    );
    let labels = all[0].labels.as_ref().unwrap();
    let mut truck = label("truck", &["lorry"]);
    truck.score_thresh = Some(0.3);
    let names = [
        label("car", &["auto", "car"]),
        label("dog", &["dog"]),
        truck,
    ];
    assert_eq!(labels.names, names);
    assert_eq!(labels.templates, ["a {}", "the {}"]);
    assert_eq!(labels.negatives, ["sky", "wall"]);

    let Prompts::Text(caption) = &all[1].prompts else {
        panic!("{:?}", all[1])
    };
    let separator = Some("\n".to_string());
    assert_eq!(caption.labels_from, LabelsFrom::Caption { separator });
    assert!(all[1].labels.as_ref().unwrap().names.is_empty());
    let Prompts::Text(lists) = &all[2].prompts else {
        panic!("{:?}", all[2])
    };
    assert_eq!(lists.labels_from, LabelsFrom::Labels);

    let examples = vec![example("x", "a", Some([1.0, 2.0, 3.5, 4.0]))];
    let expected = ExamplePrompts {
        examples,
        detection,
        masks,
    };
    assert_eq!(all[3].prompts, Prompts::Examples(expected));
    let coco = BoxesFrom::Coco {
        path: "s3://b/r.json".to_string(),
        images: Some("i.json".to_string()),
    };
    let expected = BoxPrompts {
        boxes_from: coco,
        min_box_score: 0.5,
        masks,
    };
    assert_eq!(all[4].prompts, Prompts::Boxes(expected));
    let yolo = BoxesFrom::Yolo {
        path: "labels".to_string(),
        names: Some("classes.txt".to_string()),
        scores: Some(true),
    };
    let expected = BoxPrompts {
        boxes_from: yolo,
        min_box_score: 0.0,
        masks,
    };
    assert_eq!(all[5].prompts, Prompts::Boxes(expected));
    let points = vec![[0.0, 0.5], [1.0, 0.25]];
    let expected = PointPrompts {
        points_from: PointsFrom::Fixed { points },
        point_groups: PointGroups::Together,
        masks,
    };
    assert_eq!(all[6].prompts, Prompts::Points(expected));
    let expected = LabellerSettings {
        crop_padding: 0.5,
        crop_background: CropBackground::Remove,
        min_probability: 0.5,
        min_similarity: 0.2,
        other_label: "thing".to_string(),
    };
    assert_eq!(all[7].labeller, Some(expected));
    assert_eq!(all[7].model.labeller_tokenizer.as_deref(), Some("t"));
}

#[test]
fn the_json_of_a_pipeline_has_the_paths_that_were_typed() {
    let sections = ["prompts", "labels", "labeller", "model"];
    for text in full_files() {
        let json = serde_json::to_value(loaded(&text)).unwrap();
        let written: toml::Table = text.parse().unwrap();
        for section in sections {
            let Some(settings) = written.get(section) else {
                continue;
            };
            for key in settings.as_table().unwrap().keys() {
                let found = json.get(section).and_then(|settings| settings.get(key));
                assert!(found.is_some(), "{section}.{key} is not in {json}");
            }
        }
    }
}

#[test]
fn the_order_of_examples_changes_nothing() {
    let list = |items: &[&str]| {
        let examples = items.join(", ");
        loaded(&with(&format!("{EXAMPLES}examples = [{examples}]\n"))).prompts
    };
    let whole = "{ label = 'b', image = 'x.png' }";
    let part = "{ label = 'b', image = 'x.png', box = [0, 0, 9, 5] }";
    let lower = "{ label = 'b', image = 'x.png', box = [0, 2, 9, 5] }";
    let first = "{ label = 'a', image = 'y.png' }";
    let expected = vec![
        example("a", "y.png", None),
        example("b", "x.png", None),
        example("b", "x.png", Some([0.0, 0.0, 9.0, 5.0])),
        example("b", "x.png", Some([0.0, 2.0, 9.0, 5.0])),
    ];
    for order in [
        &[first, whole, part, lower][..],
        &[lower, part, whole, first, whole],
        &[part, lower, first, whole],
    ] {
        match list(order) {
            Prompts::Examples(prompts) => assert_eq!(prompts.examples, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn labels_and_prompts_can_be_overridden() {
    let changed = job(&[
        "prompts.mode=text",
        "model.detector=models/owl",
        "labels.names=[\"cat\"]",
        "prompts.score_thresh=0.2",
    ])
    .unwrap()
    .pipeline;
    assert_eq!(changed.labels.unwrap().names, [label("cat", &["cat"])]);
    match changed.prompts {
        Prompts::Text(text) => assert_eq!(text.detection.score_thresh, 0.2),
        other => panic!("{other:?}"),
    }
    let table = job(&[
        "model.labeller=models/clip",
        "labels.names={car = [\"car\", \"auto\"], dog = \"dog\"}",
    ])
    .unwrap();
    let names = table.pipeline.labels.unwrap().names;
    assert_eq!(
        names,
        [label("car", &["auto", "car"]), label("dog", &["dog"])]
    );
    let set = "labels.names=[\"cat\", \"Cat\"]";
    let found = messages(job(&["model.labeller=models/clip", set]));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(&format!("--set {set}: labels.names[1]: ")));
}

#[test]
fn the_modes_have_fingerprints_of_their_own() {
    let mut texts = full_files();
    texts.push(PIPELINE.to_string());
    let mut prints: Vec<String> = texts
        .iter()
        .map(|text| fingerprint(text).to_string())
        .collect();
    prints.sort();
    prints.dedup();
    assert_eq!(prints.len(), texts.len());
}

#[test]
fn the_fingerprint_sees_the_files_that_rows_depend_on() {
    let pipeline = loaded(&with(&format!("{TEXT}[labels]\nnames = ['a']")));
    let print = |files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(key, sha256)| (key.to_string(), sha256.to_string()));
        Fingerprint::of(&pipeline, "ab", &files.collect())
    };
    let mut prints = vec![
        print(&[]),
        print(&[("model.detector", "cd")]),
        print(&[("model.detector", "ef")]),
        print(&[("model.detector_tokenizer", "cd")]),
        print(&[("model.detector", "cd"), ("model.detector_tokenizer", "cd")]),
    ];
    let all = prints.len();
    prints.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    prints.dedup();
    assert_eq!(prints.len(), all);

    // The record of a job without other files is what it was before there were any.
    let automatic = loaded(PIPELINE);
    let record = JobRecord::new(&automatic, "ab", &no_files(), "0.1.0").to_json();
    assert!(record.get("files").is_none(), "{record}");
    for section in ["labels", "labeller"] {
        assert!(record["pipeline"].get(section).is_none(), "{record}");
    }
}

#[test]
fn the_shipped_pipelines_of_each_mode_are_of_that_mode() {
    let text = loaded(include_str!("../../../../pipelines/text.toml"));
    assert!(matches!(text.prompts, Prompts::Text(_)) && text.model.detector.is_some());
    assert!(text.labels.is_some_and(|labels| labels.names.len() > 1));
    let boxes = loaded(include_str!("../../../../pipelines/coco-boxes.toml"));
    match boxes.prompts {
        Prompts::Boxes(prompts) => {
            assert!(
                matches!(prompts.boxes_from, BoxesFrom::Coco { .. }),
                "{prompts:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    let labelled = loaded(include_str!("../../../../pipelines/labelled.toml"));
    assert!(matches!(labelled.prompts, Prompts::Automatic(_)));
    assert!(labelled.labeller.is_some() && labelled.model.labeller.is_some());
}
