//! Prompts, labels and the labeller through [`load_pipeline`]: modes, canonical form, mistakes.

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
const EXAMPLES: &str = "detector = 'models/owl'\n[prompts]\nmode = 'examples'\n";
pub(super) const LABELLED: &str = "labeller = 'models/clip'\n";

/// A pipeline with `rest` behind its `[model]` section, whose lines begin with the eighth.
pub(super) fn with(rest: &str) -> String {
    format!("{PIPELINE}{rest}")
}

pub(super) fn loaded(text: &str) -> Pipeline {
    pipeline(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The same with a source that has columns.
fn with_columns(rest: &str) -> String {
    with(rest).replace("\"images\"", "\"manifest\"")
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
fn a_file_full_of_mistakes_in_prompts_is_reported_at_once_by_line() {
    let name = "mistakes.toml";
    let text = include_str!("../../testdata/prompt-mistakes.toml");
    let error = load_pipeline(TextFile { name, text }, &[]).unwrap_err();
    let expected = include_str!("../../testdata/prompt-mistakes.expected.txt");
    assert_eq!(format!("{error}\n"), expected);
}

/// Asserts that each file, the lines from the eighth on, has the one problem, at its line.
pub(super) fn assert_problems(cases: &[(&str, usize, &str)]) {
    for (rest, line, message) in cases {
        let found = messages(pipeline(&with(rest)));
        assert_eq!(found, [format!("cats.toml:{line}: {message}")], "{rest}");
    }
}

#[test]
fn settings_of_other_modes_are_refused() {
    assert_problems(&[
        (
            &format!("{TEXT}points_per_side = 8\n[labels]\nnames = ['a']"),
            11,
            "prompts.points_per_side has no meaning for mode = \"text\"; it is for mode = \
             \"automatic\". Remove it",
        ),
        (
            "[prompts]\nrefine = true",
            9,
            "prompts.refine has no meaning for mode = \"automatic\"; it is for mode = \"text\" or \
             \"examples\" or \"boxes\" or \"points\". Remove it",
        ),
        (
            "[prompts]\nmode = 'boxes'\nboxes_from = 'coco'\nboxes_path = 'x'\nyolo_scores = 3",
            12,
            "prompts.yolo_scores has no meaning for boxes_from = \"coco\"; it is for boxes_from = \
             \"yolo\". Remove it",
        ),
        (
            &format!("{TEXT}caption_separator = ';'\n[labels]\nnames = ['a']"),
            11,
            "prompts.caption_separator has no meaning for labels_from = \"pipeline\"; it is for \
             labels_from = \"caption\". Remove it",
        ),
        (
            "[prompts]\nmode = 'points'\npoints_from = 'fixed'\nfixed_points = [[0.5, 0.5]]\n\
             [masks]\nbox_nms_thresh = 0.5",
            13,
            "masks.box_nms_thresh has no meaning for mode = \"points\", where duplicates are told \
             by mask_nms_thresh; it is for mode = \"automatic\". Remove it",
        ),
    ]);
    let columns = "[prompts]\nmode = 'points'\npoints_from = 'columns'\nfixed_points = [[1, 1]]";
    assert_eq!(
        messages(pipeline(&with_columns(columns))),
        [
            "cats.toml:11: prompts.fixed_points has no meaning for points_from = \"columns\"; it is \
             for points_from = \"fixed\". Remove it"
        ]
    );
}

#[test]
fn what_a_mode_needs_is_named() {
    let no_detector = " is missing: mode = \"text\" needs an OWLv2 or OWL-ViT checkpoint, the file \
                       or the folder with model.safetensors";
    assert_problems(&[
        (
            "[prompts]\nmode = 'text'\n[labels]\nnames = ['a']",
            6,
            &format!("model.detector{no_detector}"),
        ),
        (
            "[prompts]\nmode = 'examples'\nexamples = [{ image = 'a', label = 'b' }]",
            6,
            &format!("model.detector{}", no_detector.replace("text", "examples")),
        ),
        (
            &format!("{TEXT}[labels]\nnegatives = ['sky']"),
            11,
            "labels.names is missing: the labels that mode = \"text\" looks for",
        ),
        (
            EXAMPLES,
            9,
            "prompts.examples is missing: an array of images of what to look for, such as \
             [{ image = \"examples/logo.png\", label = \"logo\" }]",
        ),
        (
            "[prompts]\nmode = 'boxes'",
            8,
            "prompts.boxes_from is missing: \"columns\" or \"coco\" or \"yolo\"",
        ),
        (
            "[prompts]\nmode = 'boxes'\nboxes_from = 'coco'",
            8,
            "prompts.boxes_path is missing: the COCO JSON file with the boxes",
        ),
        (
            "[prompts]\nmode = 'boxes'\nboxes_from = 'yolo'",
            8,
            "prompts.boxes_path is missing: the folder of YOLO label files",
        ),
        (
            "[prompts]\nmode = 'points'",
            8,
            "prompts.points_from is missing: \"columns\" or \"fixed\"",
        ),
        (
            "[prompts]\nmode = 'points'\npoints_from = 'fixed'",
            8,
            "prompts.fixed_points is missing: [x, y] points as fractions of the image, such as \
             [[0.5, 0.5]]",
        ),
    ]);
    // A section that is not there has no line.
    for (rest, user) in [
        (TEXT, "mode = \"text\" looks for"),
        (LABELLED, "model.labeller chooses from"),
    ] {
        let missing = format!("cats.toml: labels.names is missing: the labels that {user}");
        assert_eq!(messages(pipeline(&with(rest))), [missing]);
    }
}

#[test]
fn columns_need_a_source_that_has_some() {
    let needs = |what: &str, kind: &str| {
        format!(
            "prompts.{what} needs a source with columns: source.kind = \"parquet\" or \
             \"manifest\", not {kind:?}"
        )
    };
    for (rest, line, what) in [
        (
            "[prompts]\nmode = 'boxes'\nboxes_from = 'columns'".to_string(),
            10,
            "boxes_from = \"columns\"",
        ),
        (
            "[prompts]\nmode = 'points'\npoints_from = 'columns'".to_string(),
            10,
            "points_from = \"columns\"",
        ),
        (
            format!("{TEXT}labels_from = 'caption'"),
            11,
            "labels_from = \"caption\"",
        ),
        (
            format!("{TEXT}labels_from = 'labels'"),
            11,
            "labels_from = \"labels\"",
        ),
    ] {
        for kind in ["images", "webdataset"] {
            let text = with(&rest).replace("\"images\"", &format!("{kind:?}"));
            let expected = format!("cats.toml:{line}: {}", needs(what, kind));
            assert_eq!(messages(pipeline(&text)), [expected]);
        }
        for kind in ["parquet", "manifest"] {
            loaded(&with(&rest).replace("\"images\"", &format!("{kind:?}")));
        }
        // Which kind is meant is not known: that alone is said.
        let unknown = messages(pipeline(&with(&rest).replace("\"images\"", "\"tables\"")));
        assert_eq!(unknown.len(), 1, "{unknown:#?}");
    }
}

#[test]
fn what_nothing_uses_is_refused() {
    assert_problems(&[
        (
            "[labels]\nnames = ['a']",
            8,
            "[labels] is used by mode = \"text\" and by a labeller (model.labeller), and here is \
             neither. Remove the section",
        ),
        (
            &format!(
                "{EXAMPLES}examples = [{{ image = 'a', label = 'b' }}]\n[labels]\nnames = ['a']"
            ),
            12,
            "[labels] is used by mode = \"text\" and by a labeller (model.labeller), and here is \
             neither. Remove the section",
        ),
        (
            "[labeller]\ncrop_padding = 0.5",
            8,
            "[labeller] is there without model.labeller; name a CLIP checkpoint there, or remove \
             the section",
        ),
        (
            "labeller_tokenizer = 't'",
            8,
            "model.labeller_tokenizer is there without model.labeller; name a CLIP checkpoint \
             there, or remove this",
        ),
        (
            "detector = 'owl'",
            8,
            "model.detector has no meaning for mode = \"automatic\"; it is for mode = \"text\" or \
             \"examples\". Remove it",
        ),
        (
            &format!(
                "detector_tokenizer = 't'\n{EXAMPLES}examples = [{{ image = 'a', label = 'b' }}]"
            ),
            8,
            "model.detector_tokenizer has no meaning for mode = \"examples\"; it is for mode = \
             \"text\". Remove it",
        ),
        (
            &format!("{LABELLED}{TEXT}[labels]\nnames = ['a']"),
            8,
            "model.labeller has no meaning for mode = \"text\", whose masks have labels from the \
             detector; it is for mode = \"automatic\" or \"boxes\" or \"points\". Remove it",
        ),
        (
            &format!("{LABELLED}[labels.names]\n'a b' = {{\n score_thresh = 0.5 }}"),
            11,
            "labels.names.\"a b\".score_thresh has no meaning for mode = \"automatic\"; it is for \
             mode = \"text\". Remove it",
        ),
    ]);
    let captions = format!("{TEXT}labels_from = 'caption'\n[labels]\nnames = ['a']");
    assert_eq!(
        messages(pipeline(&with_columns(&captions))),
        [
            "cats.toml:13: labels.names has no meaning for labels_from = \"caption\", where each \
             image has its own labels; it is for labels_from = \"pipeline\". Remove it"
        ]
    );
}

#[test]
fn numbers_out_of_range_are_refused() {
    let detected = |line: &str| format!("{TEXT}{line}\n[labels]\nnames = ['a']");
    for (line, message) in [
        ("score_thresh = 1.5", "score_thresh = 1.5 is outside [0, 1]"),
        (
            "objectness_thresh = -0.1",
            "objectness_thresh = -0.1 is outside [0, 1]",
        ),
        (
            "label_nms_thresh = nan",
            "label_nms_thresh = NaN is outside [0, 1]",
        ),
        (
            "cross_label_nms_thresh = 2",
            "cross_label_nms_thresh = 2 is outside [0, 1]",
        ),
        (
            "max_detections = 0",
            "max_detections = 0 is outside [1, 10000]",
        ),
        (
            "max_detections = 10001",
            "max_detections = 10001 is outside [1, 10000]",
        ),
    ] {
        assert_problems(&[(&detected(line), 11, &format!("prompts.{message}"))]);
    }
    let boxes = "[prompts]\nmode = 'boxes'\nboxes_from = 'coco'\nboxes_path = 'x'";
    assert_problems(&[
        (
            &format!("{boxes}\nmin_box_score = 1.1"),
            12,
            "prompts.min_box_score = 1.1 is outside [0, 1]",
        ),
        (
            "[prompts]\nmode = 'points'\npoints_from = 'fixed'\nfixed_points = [[0.5, 0.5],\n\
             [0.5, 1.5]]",
            12,
            "prompts.fixed_points[1] is not a point [x, y] with x and y in [0, 1]",
        ),
        (
            "[prompts]\nmode = 'points'\npoints_from = 'fixed'\nfixed_points = []",
            11,
            "prompts.fixed_points has no points",
        ),
    ]);
}

#[test]
fn examples_are_checked_by_line() {
    const SHAPE: &str = "such as { image = \"examples/logo.png\", label = \"logo\" }";
    for (items, line, message) in [
        (
            "[]",
            11,
            " is empty: an array of images of what to look for, such as [{ image = \
          \"examples/logo.png\", label = \"logo\" }]"
                .to_string(),
        ),
        (
            "['a.png']",
            11,
            format!("[0] = \"a.png\" is a string; it must be a table {SHAPE}"),
        ),
        (
            "[{ image = 'a', label = 'a' },\n{ label = 'b' }]",
            12,
            "[1].image is missing: an image file".to_string(),
        ),
        (
            "[{ image = 'a' }]",
            11,
            "[0].label is missing: what is found is called".to_string(),
        ),
        (
            "[{ image = 'a', label = ' ' }]",
            11,
            "[0].label is empty".to_string(),
        ),
        (
            "[{ image = 'a', label = 'a', bbox = [0, 0, 1, 1] }]",
            11,
            "[0].bbox is not a key of an example; did you mean `box`?".to_string(),
        ),
        (
            "[{ image = 's3://b/a', label = 'a' }]",
            11,
            "[0].image must be a path on this machine; download it first".to_string(),
        ),
        (
            "[{ image = 'a', label = 'Logo' },\n{ image = 'b', label = 'logo' }]",
            12,
            "[1].label: the labels \"Logo\" and \"logo\" differ only in case or white space, and \
             models read them as the same text; keep one of them"
                .to_string(),
        ),
        (
            "[{ image = 'a', label = 'a', box = [10, 20, 10, 180] }]",
            11,
            "[0].box = [10, 20, 10, 180] has no area: x0 must be below x1, and y0 below y1"
                .to_string(),
        ),
        (
            "[{ image = 'a', label = 'a', box = [10, 20, 30, 10.5] }]",
            11,
            "[0].box = [10, 20, 30, 10.5] has no area: x0 must be below x1, and y0 below y1"
                .to_string(),
        ),
        (
            "[{ image = 'a', label = 'a', box = [0, nan, 30, 10] }]",
            11,
            "[0].box = [0, NaN, 30, 10] has a coordinate that is not finite".to_string(),
        ),
        (
            "[{ image = 'a', label = 'a', box = [0, 0, inf, 10] }]",
            11,
            "[0].box = [0, 0, inf, 10] has a coordinate that is not finite".to_string(),
        ),
        (
            "[{ image = 'a', label = 'a', box = [0, 0, 10] }]",
            11,
            "[0].box is not a box [x0, y0, x1, y1] in pixels".to_string(),
        ),
        (
            "[{ image = 'a', label = 'a', box = 7 }]",
            11,
            "[0].box = 7 is an integer; it must be a box [x0, y0, x1, y1] in pixels".to_string(),
        ),
    ] {
        let text = format!("{EXAMPLES}examples = {items}");
        assert_problems(&[(&text, line, &format!("prompts.examples{message}"))]);
    }
    // An array of tables is the same.
    let tables = format!(
        "{EXAMPLES}[[prompts.examples]]\nimage = 'a'\nlabel = 'a'\n[[prompts.examples]]\n\
         image = 'b'\nlabel = ''"
    );
    assert_problems(&[(&tables, 16, "prompts.examples[1].label is empty")]);
}

#[test]
fn a_word_that_is_wrong_hides_only_what_hangs_on_it() {
    let nearest = "[prompts]\nmode = 'txet'\nscore_thresh = 0.2\n[labels]\nnames = ['a', '']";
    let found = messages(pipeline(&with(nearest)));
    assert_eq!(
        found,
        [
            "cats.toml:9: prompts.mode = \"txet\" is unknown; did you mean `text`?",
            "cats.toml:12: labels.names[1] is empty",
        ]
    );
    assert_problems(&[
        (
            "[prompts]\nmode = 'boxes'\nboxes_from = 'coc'\nboxes_path = 'x'",
            10,
            "prompts.boxes_from = \"coc\" is unknown; did you mean `coco`?",
        ),
        (
            &format!("{TEXT}labels_from = 'captions'\ncaption_separator = ';'"),
            11,
            "prompts.labels_from = \"captions\" is unknown; did you mean `caption`?",
        ),
        (
            "[prompts]\nmode = 'points'\npoints_from = 'fixd'",
            10,
            "prompts.points_from = \"fixd\" is unknown; did you mean `fixed`?",
        ),
    ]);
}

/// `hunter2` stands for the secret, in each location that prompts have.
#[test]
fn no_location_of_prompts_takes_or_repeats_a_secret() {
    let location = "https://me:hunter2@h.example/x";
    let boxes = |from: &str, key: &str| {
        let path = match key {
            "boxes_path" => String::new(),
            _ => "boxes_path = 'x'\n".to_string(),
        };
        format!("[prompts]\nmode = 'boxes'\nboxes_from = '{from}'\n{path}{key} = '{location}'")
    };
    for rest in [
        boxes("coco", "boxes_path"),
        boxes("coco", "coco_images"),
        boxes("yolo", "boxes_path"),
        boxes("yolo", "yolo_names"),
        TEXT.replace("models/owl", location) + "[labels]\nnames = ['a']",
        format!("detector_tokenizer = '{location}'\n{TEXT}[labels]\nnames = ['a']"),
        LABELLED.replace("models/clip", location) + "[labels]\nnames = ['a']",
        format!("labeller_tokenizer = '{location}'\n{LABELLED}[labels]\nnames = ['a']"),
        format!("{EXAMPLES}examples = [{{ image = '{location}', label = 'a' }}]"),
    ] {
        let found = messages(pipeline(&with(&rest)));
        assert_eq!(found.len(), 1, "{rest}: {found:#?}");
        assert!(!found[0].contains("hunter2"), "{found:#?}");
    }
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
