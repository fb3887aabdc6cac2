//! Mistakes in `[prompts]`, and what the sections owe each other, through [`load_pipeline`].

use super::prompt_tests::{EXAMPLES, LABELLED, TEXT, loaded, with, with_columns};
use super::tests::{messages, pipeline};
use super::*;

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
