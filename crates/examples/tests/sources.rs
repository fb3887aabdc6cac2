//! Every source on small files, and everything that can be wrong with them.

use std::error::Error;
use std::fs;
use std::path::Path;

use maskmill_examples::{Example, ExampleError, OpenError, Source};
use maskmill_masks::{Bitmap, ImageSize, Rle};
use maskmill_scenes::SceneOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

mod support;

use support::{Output, write_image};

const DRAWING: &str = "
    .......
    .##....
    .###...
    .......
";

fn mask() -> Bitmap {
    Bitmap::from_ascii(DRAWING)
}

fn counts() -> String {
    Rle::encode(&mask()).to_coco_string()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Everything a user would see of an error.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    format!("{error}{causes}")
}

fn all(source: &Source) -> Vec<Result<Example, ExampleError>> {
    (0..source.len())
        .map(|index| source.example(index))
        .collect()
}

/// Opens a source that has one example, which cannot be used; gives its reason and what a user would see.
fn only_error(source: Result<Source, OpenError>) -> (&'static str, String) {
    let source = source.unwrap();
    assert_eq!(source.len(), 1);
    let error = source.example(0).unwrap_err();
    assert_eq!(error.key, source.key(0));
    assert!(!error.file.as_os_str().is_empty());
    (error.problem.reason(), chain(&error))
}

fn sa1b_document(annotations: Value) -> String {
    let image = json!({"image_id": 1, "file_name": "a.png", "height": 4, "width": 7});
    json!({"image": image, "annotations": annotations}).to_string()
}

fn good_annotation() -> Value {
    json!({"id": 1, "segmentation": {"size": [4, 7], "counts": counts()}})
}

#[test]
fn sa1b_folders_are_read_at_any_depth() {
    let dir = folder();
    let size = mask().size();
    write_image(&dir.path().join("sa_0/a.png"), size);
    let uncompressed =
        json!({"id": 2, "segmentation": {"size": [4, 7], "counts": [5, 2, 2, 2, 3, 1, 13]}});
    let empty = json!({"id": 3, "segmentation": {"size": [4, 7], "counts": [28]}});
    let document = sa1b_document(json!([good_annotation(), uncompressed, empty]));
    write(dir.path().join("sa_0/a.json"), &document);
    // As `maskmill export` writes it: the name is the path below the folder.
    write_image(&dir.path().join("b/c.png"), size);
    let exported = document.replace("a.png", "b/c.png");
    write(dir.path().join("b/c.png.json"), exported);
    write(dir.path().join(".hidden.json"), "no JSON at all");

    let source = Source::sa1b(dir.path()).unwrap();
    assert_eq!(source.len(), 2);
    assert_eq!([source.key(0), source.key(1)], ["b/c.png", "sa_0/a"]);
    for example in all(&source) {
        let example = example.unwrap();
        assert_eq!(example.image.size(), size);
        let expected = Rle::encode(&mask());
        assert_eq!(example.masks, [expected.clone(), expected]);
        assert_eq!(example.empty_masks, 1);
    }
}

#[test]
fn what_is_wrong_in_an_sa1b_folder_is_said() {
    let cases = [
        (
            "no_masks",
            "no mask to learn from (0 ",
            sa1b_document(json!([])),
        ),
        (
            "no_masks",
            "no mask to learn from (1 ",
            sa1b_document(json!([{"segmentation": {"size": [4, 7], "counts": [28]}}])),
        ),
        (
            "mask_size",
            "annotations[0]: it has 7x4 (height x width), but the image has 4x7",
            sa1b_document(json!([{"segmentation": {"size": [7, 4], "counts": [0, 28]}}])),
        ),
        (
            "bad_mask",
            "annotations[1]: the runs cover 5 pixels",
            sa1b_document(
                json!([good_annotation(), {"segmentation": {"size": [4, 7], "counts": [5]}}]),
            ),
        ),
        (
            "bad_mask",
            "annotations[0]: the COCO RLE string ends",
            sa1b_document(json!([{"segmentation": {"size": [4, 7], "counts": "5P"}}])),
        ),
        (
            "bad_mask",
            "annotations[1]: its id 1 is an earlier mask's",
            sa1b_document(json!([good_annotation(), good_annotation()])),
        ),
        (
            "bad_mask",
            "a polygon of 4 numbers has no three corners",
            sa1b_document(json!([{"segmentation": [[1, 1, 3, 3]]}])),
        ),
        ("bad_json", "line 1", "{\"image\": ".to_owned()),
        (
            "bad_json",
            "missing field `annotations`",
            "{\"image\": {\"file_name\": \"a.png\"}}".to_owned(),
        ),
        (
            "image_size",
            "an image of 4x8 (height x width), but the image has 4x7",
            sa1b_document(json!([good_annotation()])).replace("\"width\":7", "\"width\":8"),
        ),
        (
            "bad_name",
            "\"../a.png\", which is not a path below",
            sa1b_document(json!([good_annotation()])).replace("a.png", "../a.png"),
        ),
        (
            "unreadable",
            "missing.png cannot be read",
            sa1b_document(json!([good_annotation()])).replace("a.png", "missing.png"),
        ),
        (
            "bad_image",
            "not a JPEG",
            sa1b_document(json!([good_annotation()])).replace("a.png", "text.png"),
        ),
    ];
    for (reason, expected, document) in cases {
        let dir = folder();
        write_image(&dir.path().join("a.png"), mask().size());
        write(dir.path().join("text.png"), "a text");
        write(dir.path().join("a.json"), &document);
        let (found, message) = only_error(Source::sa1b(dir.path()));
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(expected), "{expected:?}: {message}");
        assert!(message.starts_with("example \"a\": "), "{message}");
    }
}

#[test]
fn folders_without_examples_are_refused() {
    let dir = folder();
    let error = Source::sa1b(dir.path()).unwrap_err();
    assert!(error.to_string().contains("has no JSON files"), "{error}");
    let error = Source::sa1b(&dir.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, OpenError::Unreadable { .. }), "{error}");
}

fn coco(images: Value, annotations: Value) -> String {
    json!({"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": []})
        .to_string()
}

fn coco_images() -> Value {
    json!([{"id": 139, "file_name": "val/a.png", "height": 4, "width": 7}, {"id": "x", "file_name": "b.png"}])
}

fn open_coco(dir: &TempDir, text: &str) -> Result<Source, OpenError> {
    let file = dir.path().join("instances.json");
    write(&file, text);
    write_image(&dir.path().join("images/val/a.png"), mask().size());
    Source::coco(&file, &dir.path().join("images"))
}

#[test]
fn coco_instances_in_every_form() {
    let dir = folder();
    let annotations = json!([
        {"id": 1, "image_id": 139, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]], "iscrowd": 0, "category_id": 18},
        {"id": 2, "image_id": "139", "segmentation": {"size": [4, 7], "counts": counts()}},
        {"id": 3, "image_id": 139, "segmentation": {"size": [4, 7], "counts": [0, 28]}, "iscrowd": 1},
        {"id": 4, "image_id": 139, "segmentation": []},
        {"id": 5, "image_id": 139, "bbox": [1, 1, 2, 2]},
        {"image_id": 139, "segmentation": {"size": [4, 7], "counts": [27, 1]}},
    ]);
    let source = open_coco(&dir, &coco(coco_images(), annotations)).unwrap();
    assert_eq!(source.len(), 1, "an image without instances is no example");
    assert_eq!(source.key(0), "val/a.png");
    let example = source.example(0).unwrap();
    let square = Bitmap::from_fn(mask().size(), |y, x| {
        (1..3).contains(&y) && (1..3).contains(&x)
    });
    let corner = Bitmap::from_fn(mask().size(), |y, x| (y, x) == (3, 6));
    let expected: Vec<Rle> = [square, mask(), corner].iter().map(Rle::encode).collect();
    assert_eq!(example.masks, expected);
    assert_eq!(example.empty_masks, 2);
    let Source::Coco(coco) = source else { panic!() };
    assert_eq!(coco.crowds_skipped(), 1);
    assert_eq!(coco.images_without_masks(), 1);
}

#[test]
fn what_is_wrong_with_a_coco_image_is_said() {
    for (reason, expected, annotation) in [
        (
            "bad_mask",
            "annotations[0]: a polygon of 5 numbers",
            json!([[1, 1, 3, 3, 5]]),
        ),
        (
            "bad_mask",
            "a polygon of 4 numbers has no three corners",
            json!([[1, 1, 3, 3]]),
        ),
        (
            "bad_mask",
            "corner 2 of a polygon",
            json!([[1, 1, 3, 3, 5000, 1]]),
        ),
        (
            "bad_mask",
            "the runs cover 9 pixels",
            json!({"size": [4, 7], "counts": [9]}),
        ),
        (
            "bad_mask",
            "a run of -9 pixels",
            json!({"size": [4, 7], "counts": [-9, 37]}),
        ),
        (
            "bad_mask",
            "is not part of a COCO RLE",
            json!({"size": [4, 7], "counts": "\u{7f}"}),
        ),
        (
            "mask_size",
            "it has 7x4",
            json!({"size": [7, 4], "counts": [0, 28]}),
        ),
        ("no_masks", "no mask to learn from (1 ", json!([])),
    ] {
        let dir = folder();
        let annotations = json!([{"id": 1, "image_id": 139, "segmentation": annotation}]);
        let (found, message) = only_error(open_coco(&dir, &coco(coco_images(), annotations)));
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(expected), "{expected:?}: {message}");
        assert!(message.starts_with("example \"val/a.png\": "), "{message}");
        assert!(message.contains("instances.json"), "{message}");
    }
    let dir = folder();
    let annotations = json!([{"image_id": "x", "segmentation": [[0, 0, 3, 0, 3, 3]]}]);
    let (found, message) = only_error(open_coco(&dir, &coco(coco_images(), annotations)));
    assert_eq!(found, "unreadable", "{message}");
    assert!(message.contains("b.png cannot be read"), "{message}");
}

#[test]
fn coco_files_whose_entries_contradict_each_other_are_refused() {
    let image = |id: u32, name: &str| json!({"id": id, "file_name": name});
    let square = |id: u32, image_id: u32| json!({"id": id, "image_id": image_id, "segmentation": [[0, 0, 3, 0, 3, 3]]});
    for (expected, images, annotations) in [
        (
            "images[1]: it has the id 1 of images[0]",
            json!([image(1, "a"), image(1, "b")]),
            json!([square(1, 1)]),
        ),
        (
            "images[1]: it has the file_name \"a\" of images[0]",
            json!([image(1, "a"), image(2, "a")]),
            json!([square(1, 1)]),
        ),
        (
            "images[0]: the file_name \"/etc/a\"",
            json!([image(1, "/etc/a")]),
            json!([square(1, 1)]),
        ),
        (
            "annotations[1]: it has the id 7 of annotations[0]",
            json!([image(1, "a")]),
            json!([square(7, 1), square(7, 1)]),
        ),
        (
            "annotations[0]: its image_id 9 is none of the 1",
            json!([image(1, "a")]),
            json!([square(7, 9)]),
        ),
        ("has no annotations", json!([image(1, "a")]), json!([])),
        ("is not a COCO file", json!({}), json!([])),
    ] {
        let error = open_coco(&folder(), &coco(images, annotations)).unwrap_err();
        let message = chain(&error);
        assert!(message.contains(expected), "{expected:?}: {message}");
        assert!(message.contains("instances.json"), "{message}");
    }
    let error = open_coco(&folder(), "[1, 2").unwrap_err();
    assert!(chain(&error).contains("line 1"), "{}", chain(&error));
}

#[test]
fn outputs_of_maskmill_are_read_shard_by_shard() {
    let dir = folder();
    let images = dir.path().join("images");
    for key in ["a.png", "b/c.png", "d.png"] {
        write_image(&images.join(key), mask().size());
    }
    let output = Output::new(dir.path().join("out"));
    let other = Bitmap::from_fn(mask().size(), |y, x| y == x);
    let empty = Bitmap::new(mask().size());
    output.shard(
        0,
        &[
            ("b/c.png", vec![mask(), other.clone()]),
            ("a.png", vec![other.clone()]),
        ],
    );
    output.shard(1, &[("d.png", vec![empty, mask()]), ("none.png", vec![])]);
    // Tried again: the last word on it.
    output.shard(2, &[("a.png", vec![mask()])]);
    // Not committed.
    output.parts(3, &[("e.png", vec![mask()])]);

    let source = Source::maskmill(&dir.path().join("out"), &images).unwrap();
    let keys: Vec<String> = (0..source.len()).map(|index| source.key(index)).collect();
    assert_eq!(keys, ["a.png", "b/c.png", "d.png"]);
    // In any order, and from several threads.
    let examples: Vec<Example> = std::thread::scope(|scope| {
        let read = |index| {
            scope.spawn({
                let source = &source;
                move || source.example(index).unwrap()
            })
        };
        let threads = [2, 0, 1, 2].map(read);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let rles = |masks: &[Bitmap]| masks.iter().map(Rle::encode).collect::<Vec<_>>();
    assert_eq!(examples[1].masks, rles(&[mask()]));
    assert_eq!(examples[2].masks, rles(&[mask(), other]));
    assert_eq!(examples[0].masks, rles(&[mask()]));
    assert_eq!(examples[0].empty_masks, 1);
    assert_eq!(examples[0], examples[3]);
}

#[test]
fn what_is_wrong_with_an_output_is_said() {
    let dir = folder();
    let (out, images) = (dir.path().join("out"), dir.path().join("images"));
    let error = Source::maskmill(&out, &images).unwrap_err();
    assert!(
        error.to_string().contains("_commits cannot be read"),
        "{error}"
    );

    let output = Output::new(out.clone());
    output.shard(0, &[("a.png", vec![mask()])]);
    let (reason, message) = only_error(Source::maskmill(&out, &images));
    assert_eq!(reason, "unreadable");
    assert!(message.contains("a.png cannot be read"), "{message}");

    write_image(&images.join("a.png"), ImageSize::new(7, 4));
    let (reason, message) = only_error(Source::maskmill(&out, &images));
    assert_eq!(reason, "image_size");
    assert!(message.contains("but the image has 7x4"), "{message}");

    write_image(&images.join("a.png"), mask().size());
    let part = out.join("masks/part-000000.parquet");
    let whole = fs::read(&part).unwrap();
    fs::write(&part, &whole[..whole.len() / 2]).unwrap();
    let (reason, message) = only_error(Source::maskmill(&out, &images));
    assert_eq!(reason, "bad_table");
    assert!(message.contains("part-000000.parquet"), "{message}");
    fs::remove_file(&part).unwrap();
    let (reason, _) = only_error(Source::maskmill(&out, &images));
    assert_eq!(reason, "bad_table");

    fs::write(out.join("images/part-000000.parquet"), "no table").unwrap();
    let error = Source::maskmill(&out, &images).unwrap_err();
    assert!(matches!(error, OpenError::Table { .. }), "{error}");
    fs::write(out.join("_commits/000000.json"), "{").unwrap();
    let error = Source::maskmill(&out, &images).unwrap_err();
    assert!(matches!(error, OpenError::Json { .. }), "{error}");
}

#[test]
fn images_inside_tars_are_told_from_missing_ones() {
    let dir = folder();
    let (out, images) = (dir.path().join("out"), dir.path().join("images"));
    Output::new(out.clone()).shard(0, &[("shards/0.tar/a/b", vec![mask()])]);
    write(images.join("shards/0.tar"), "a tar");
    let (reason, message) = only_error(Source::maskmill(&out, &images));
    assert_eq!(reason, "packed");
    assert!(
        message.contains("0.tar holds the image among others"),
        "{message}"
    );
    assert!(message.contains("unpack it"), "{message}");
}

#[test]
fn scenes_are_numbered_and_seeds_share_none() {
    let options = SceneOptions::of_size(ImageSize::new(48, 64));
    let source = |seed| Source::scenes(options.clone(), seed, 4).unwrap();
    let examples: Vec<Example> = all(&source(1)).into_iter().map(Result::unwrap).collect();
    let again: Vec<Example> = all(&source(1)).into_iter().map(Result::unwrap).collect();
    assert_eq!(examples, again);
    assert_eq!(examples[3].key, "scenes/1/00000003");
    let others: Vec<Example> = all(&source(2)).into_iter().map(Result::unwrap).collect();
    for example in &examples {
        assert_eq!(example.image.size(), ImageSize::new(48, 64));
        assert!(others.iter().all(|other| other.image != example.image));
    }
}

#[test]
fn scenes_that_cannot_be_made_are_refused() {
    let options = SceneOptions {
        parts: 2.0,
        ..SceneOptions::default()
    };
    let error = Source::scenes(options, 1, 4).unwrap_err();
    assert!(
        error.to_string().contains("parts = 2 is outside"),
        "{error}"
    );
    let error = Source::scenes(SceneOptions::default(), 1, 0).unwrap_err();
    assert!(matches!(error, OpenError::Empty { .. }), "{error}");
    // Nothing in it.
    let options = SceneOptions {
        objects: 0..=0,
        ..SceneOptions::of_size(ImageSize::new(16, 16))
    };
    let (reason, message) = only_error(Source::scenes(options, 1, 1));
    assert_eq!(reason, "no_masks", "{message}");
}
