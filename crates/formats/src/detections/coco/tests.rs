//! COCO files as other programs write them, and such as nobody should.

use std::error::Error;

use super::*;

const DATASET: &str = r#"{
    "info": {"year": 2017}, "licenses": [],
    "images": [
        {"id": 139, "file_name": "000000000139.jpg", "width": 8, "height": 6, "license": 2},
        {"id": 285, "file_name": "000000000285.jpg", "width": 6, "height": 8},
        {"id": 632, "file_name": "000000000632.jpg", "width": 8, "height": 6}
    ],
    "annotations": [
        {"id": 1, "image_id": 285, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 9.5,
         "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 2, "image_id": 139, "category_id": 1, "bbox": [0.5, 1.25, 4, 2], "iscrowd": 0},
        {"id": 3, "image_id": 139, "category_id": 1, "bbox": [0, 0, 8, 6], "iscrowd": 1,
         "segmentation": {"counts": [0, 48], "size": [6, 8]}},
        {"id": 4, "image_id": 139, "category_id": 18, "bbox": [2, 2, 1, 1]}
    ],
    "categories": [{"supercategory": "person", "id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
}"#;

/// As Detectron2's `COCOEvaluator` writes them to `coco_instances_results.json`.
const RESULTS: &str = r#"[{"image_id": 139, "category_id": 1, "bbox": [0.5, 1.25, 4.0, 2.0], "score": 0.987, "segmentation": {"size": [6, 8], "counts": "`02N1"}}, {"image_id": 285, "category_id": 18, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.25, "segmentation": {"size": [8, 6], "counts": "`02N1"}}, {"image_id": 139, "category_id": 18, "bbox": [2.0, 2.0, 1.0, 1.0], "score": 0.5}]"#;

fn file<'a>(name: &'a str, text: &'a str) -> CocoFile<'a> {
    CocoFile {
        name,
        bytes: text.as_bytes(),
    }
}

fn read(text: &str) -> Result<CocoDetections, CocoError> {
    CocoDetections::read(file("a.json", text), None)
}

fn read_results(results: &str, dataset: &str) -> Result<CocoDetections, CocoError> {
    CocoDetections::read(file("r.json", results), Some(file("d.json", dataset)))
}

fn detection(box_xyxy_px: [f64; 4], label: &str, score: Option<f32>) -> Detection {
    Detection {
        box_xyxy_px,
        label: Some(label.to_owned()),
        score,
    }
}

fn of(coco: &CocoDetections, key: &str) -> Option<Vec<Detection>> {
    coco.of(key).unwrap().map(<[Detection]>::to_vec)
}

/// What is said, with its cause.
fn message(result: Result<CocoDetections, CocoError>) -> String {
    let error = result.unwrap_err();
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn annotations_of_a_dataset() {
    let coco = read(DATASET).unwrap();
    assert_eq!(coco.detections(), 3);
    assert_eq!(coco.images_with_detections(), 2);
    assert_eq!(coco.crowds_skipped(), 1);
    assert_eq!(
        of(&coco, "val2017/000000000139.jpg").unwrap(),
        [
            detection([0.5, 1.25, 4.5, 3.25], "person", None),
            detection([2.0, 2.0, 3.0, 3.0], "dog", None)
        ]
    );
    assert_eq!(
        of(&coco, "000000000285").unwrap(),
        [detection([1.0, 2.0, 4.0, 6.0], "dog", None)]
    );
    assert_eq!(of(&coco, "000000000632.jpg"), Some(vec![]), "nothing on it");
    assert_eq!(of(&coco, "000000000633.jpg"), None, "no such image");
}

#[test]
fn results_with_the_file_of_their_dataset() {
    let coco = read_results(RESULTS, DATASET).unwrap();
    assert_eq!((coco.detections(), coco.crowds_skipped()), (3, 0));
    assert_eq!(
        of(&coco, "a/000000000139.png").unwrap(),
        [
            detection([0.5, 1.25, 4.5, 3.25], "person", Some(0.987)),
            detection([2.0, 2.0, 3.0, 3.0], "dog", Some(0.5))
        ]
    );
    // A file with the images alone, as there are of test sets.
    let images =
        r#"{"images": [{"id": 139, "file_name": "x.jpg"}, {"id": 285, "file_name": "y.jpg"}]}"#;
    let coco = read_results(RESULTS, images).unwrap();
    let labels: Vec<_> = of(&coco, "x.jpg").unwrap();
    let labels = labels.iter().map(|detection| detection.label.as_deref());
    assert_eq!(labels.collect::<Vec<_>>(), [Some("1"), Some("18")]);
}

#[test]
fn results_alone_are_found_by_their_ids() {
    let coco = read(RESULTS).unwrap();
    assert_eq!(coco.images_with_detections(), 2);
    assert_eq!(
        of(&coco, "val.tar/000000000285").unwrap(),
        [detection([1.0, 2.0, 4.0, 6.0], "18", Some(0.25))]
    );
    assert_eq!(of(&coco, "x/139.png").unwrap().len(), 2);
    assert_eq!(of(&coco, "x/1390.png"), None);
    assert!(read("[]").unwrap().of("x").unwrap().is_none());
}

#[test]
fn ids_may_be_texts() {
    let results = r#"[
        {"image_id": "street/a.jpg", "category_id": "car", "bbox": [0, 0, 2, 2]},
        {"image_id": "b", "category_id": "cat", "bbox": [0, 0, 3, 3]},
        {"image_id": "139", "category_id": "dog", "bbox": [0, 0, 4, 4]},
        {"image_id": 139, "bbox": [0, 0, 5, 5]}
    ]"#;
    let coco = read(results).unwrap();
    assert_eq!(
        of(&coco, "street/a.jpg").unwrap(),
        [detection([0.0, 0.0, 2.0, 2.0], "car", None)]
    );
    assert_eq!(of(&coco, "x/y/b.webp").unwrap().len(), 1);
    let both = of(&coco, "000139.jpg").unwrap();
    assert_eq!(both.len(), 2, "139 and \"139\" are one id");
    assert_eq!(both[1].label, None);

    let dataset = r#"{"images": [{"id": "a1", "file_name": ".\\day\\a.jpg"}],
        "annotations": [{"image_id": "a1", "category_id": "k", "bbox": [0, 0, 2, 2]}],
        "categories": [{"id": "k", "name": " cat "}]}"#;
    let coco = read(dataset).unwrap();
    assert_eq!(
        of(&coco, "day/a.jpg").unwrap(),
        [detection([0.0, 0.0, 2.0, 2.0], "cat", None)]
    );
    assert_eq!(of(&coco, "a1.jpg"), None, "images have names");
}

#[test]
fn one_file_name_in_two_folders_is_ambiguous() {
    let dataset = r#"{"images": [{"id": 1, "file_name": "day/a.jpg"}, {"id": 2, "file_name": "night/a.jpg"}],
        "annotations": [{"image_id": 2, "bbox": [0, 0, 2, 2]}]}"#;
    let coco = read(dataset).unwrap();
    assert_eq!(of(&coco, "day/a.jpg").unwrap().len(), 0);
    assert_eq!(of(&coco, "photos/night/a.png").unwrap().len(), 1);
    let error = coco.of("dusk/a.jpg").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the boxes of the image \"dusk/a.jpg\" may be those of \"day/a.jpg\" or \"night/a.jpg\"; give the images the \
         paths that they have there"
    );
    assert!(coco.matches_any(["x", "dusk/a.jpg"]));
}

#[test]
fn lvis_has_addresses_instead_of_names() {
    let dataset = r#"{"images": [{"id": 1, "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 2, 2]}], "categories": [{"id": 2, "name": "axe"}]}"#;
    let coco = read(dataset).unwrap();
    assert_eq!(of(&coco, "train2017/000000391895.jpg").unwrap().len(), 1);
}

#[test]
fn a_file_that_matches_nothing_is_told() {
    let coco = read(DATASET).unwrap();
    assert!(!coco.matches_any(["a.jpg", "b.jpg"]));
    assert!(coco.matches_any(["a.jpg", "000000000632.jpg"]));
    assert!(coco.require_match(["a.jpg", "000000000632.jpg"]).is_ok());
    assert!(coco.require_match([]).is_ok());
    assert_eq!(
        coco.require_match(["a.jpg", "b.jpg"])
            .unwrap_err()
            .to_string(),
        "a.json: none of its 3 images is among those of the source; it has \"000000000139.jpg\", and the source \"a.jpg\""
    );
    let error = read(RESULTS)
        .unwrap()
        .require_match(["img_139.jpg"])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.json: none of its 2 images is among those of the source; it has \"139\", and the source \"img_139.jpg\"; \
         the names of images are not in a list of results, give the dataset's file as well"
    );
    assert!(read("[]").unwrap().require_match(["a.jpg"]).is_ok());
}

#[test]
fn entries_without_their_image_or_category_are_named() {
    let other = DATASET.replace(
        "\"image_id\": 139, \"category_id\": 18",
        "\"image_id\": 7, \"category_id\": 18",
    );
    assert_eq!(
        message(read(&other)),
        "a.json, annotations[3]: there is no image with the id \"7\" among the 3 of a.json; is it the dataset's file?"
    );
    let other = RESULTS.replace("\"image_id\": 285", "\"image_id\": \"x\"");
    assert_eq!(
        message(read_results(&other, DATASET)),
        "r.json, result 1, counted from 0: there is no image with the id \"x\" among the 3 of d.json; is it the \
         dataset's file?"
    );
    let other = DATASET.replace("\"id\": 18, \"name\"", "\"id\": 17, \"name\"");
    assert_eq!(
        message(read_results(RESULTS, &other)),
        "r.json, result 1, counted from 0: there is no category with the id \"18\" among the 2 of d.json"
    );
}

#[test]
fn boxes_and_scores_that_are_no_numbers_are_named() {
    for (field, expected) in [
        (
            r#""bbox": [1, 2, 3]"#,
            "bbox should be four numbers [x, y, width, height]",
        ),
        (
            r#""bbox": [1, 2, 3, null]"#,
            "bbox should be four numbers [x, y, width, height]",
        ),
        (
            r#""bbox": {"x": 1}"#,
            "bbox should be four numbers [x, y, width, height]",
        ),
        (r#""box": [1, 2, 3, 4]"#, "it has no bbox"),
        (
            r#""bbox": [1, 2, 3, 4], "score": "high""#,
            "score should be a number",
        ),
    ] {
        let results =
            format!(r#"[{{"image_id": 1, "bbox": [0, 0, 2, 2]}}, {{"image_id": 1, {field}}}]"#);
        let expected = format!("a.json, result 1, counted from 0: {expected}");
        assert_eq!(message(read(&results)), expected, "{field}");
    }
    let error = message(read(r#"[{"id": 1, "bbox": [0, 0, 2, 2]}]"#));
    assert_eq!(
        error,
        "a.json, result 0, counted from 0: it has no image_id"
    );
}

#[test]
fn boxes_that_python_writes_are_read_whatever_they_are() {
    let results = r#"[
        {"image_id": 1, "bbox": [NaN, 0, 2, 2], "score": 1},
        {"image_id": 2, "bbox": [0, 0, Infinity, 2], "score": 1},
        {"image_id": 3, "bbox": [9, 9, -4, 0], "score": NaN}
    ]"#;
    let coco = read(results).unwrap();
    let size = maskmill_masks::ImageSize::new(6, 8);
    for (key, reason) in [
        ("1.jpg", "bad_boxes"),
        ("2.jpg", "bad_boxes"),
        ("3.jpg", "bad_scores"),
    ] {
        let found = of(&coco, key).unwrap();
        let error = super::super::check(found, size).unwrap_err();
        assert_eq!(error.reason(), reason, "{key}: {error}");
    }
}

#[test]
fn other_files_are_told_from_coco_s() {
    for (text, expected) in [
        (
            "not json",
            "a.json is not JSON; a COCO file is: expected ident",
        ),
        ("", "a.json is not JSON; a COCO file is: EOF while parsing"),
        (
            "[{\"image_id\": 1",
            "a.json is not JSON; a COCO file is: EOF while parsing",
        ),
        (
            "{\"image\": {}, \"annotations\": [], \"x\": [[1]]}",
            "a.json is not a COCO file: \"images\" is missing; it is an object with the keys \"image\", \
             \"annotations\", \"x\". It should be {\"images\",",
        ),
        (
            "{\"images\": []}",
            "\"annotations\" is missing; it is an object with the keys \"images\"",
        ),
        ("{}", "it is an object with no keys"),
        (
            "7",
            "a.json is not a COCO file: invalid type: integer `7`, expected an object or a list at line 1",
        ),
        (
            "[[1, 1, [0, 0, 2, 2], 1]]",
            "invalid type: sequence, expected an object at line 1 column 1",
        ),
        (
            "{\"images\": [{\"file_name\": \"a\"}]}",
            "missing field `id` at line 1 column 30",
        ),
        (
            "{\"images\": [], \"images\": []}",
            "the key \"images\" is there twice",
        ),
        (
            "[{\"image_id\": [1]}]",
            "expected an id, which is a whole number or a text at line 1",
        ),
        (
            "{\"images\": [{\"id\": 1}], \"annotations\": []}",
            "a.json, images[0]: it has no file_name",
        ),
        (
            "{\"images\": [{\"id\": 1, \"file_name\": \"a\"}, {\"id\": \"1\", \"file_name\": \"b\"}], \"annotations\": []}",
            "a.json, images[1]: it has the id of images[0]",
        ),
        (
            "{\"images\": [], \"annotations\": [], \"categories\": [{\"id\": 1, \"name\": \" \"}]}",
            "a.json, categories[0]: its name is empty",
        ),
        (
            "{\"images\": [], \"annotations\": [], \"categories\": [{\"id\": 1, \"name\": \"a\"}, {\"id\": 1, \"name\": \"b\"}]}",
            "a.json, categories[1]: \"b\" has the id 1, and so has \"a\"",
        ),
    ] {
        let error = message(read(text));
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert_eq!(read(&format!("\u{feff}{RESULTS}")).unwrap().detections(), 3);
}

#[test]
fn two_files_of_one_kind_do_not_go_together() {
    let error = message(read_results(RESULTS, RESULTS));
    assert!(
        error.starts_with(
            "d.json is not a COCO file: it is a list, and so is the file of the results"
        ),
        "{error}"
    );
    let error = message(read_results(DATASET, DATASET));
    assert!(
        error.starts_with(
            "r.json is not a COCO file: beside d.json it should be a list of results, and it is an object with the \
             keys \"info\", \"licenses\", \"images\""
        ),
        "{error}"
    );
}
