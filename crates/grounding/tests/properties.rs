//! What must not change a result: the order of labels, other labels, batches.

mod support;

use std::time::{Duration, Instant};

use maskmill_grounding::{
    ClipInput, CropBackground, CropOptions, DetectionOptions, Label, Labeller, LabellerOptions,
    MaskLabel, Owl, OwlImage, Vocabulary, crop_mask, detect,
};
use maskmill_masks::{Bitmap, ImageSize, Rle};
use maskmill_pixels::RgbImage;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use support::{fixture, load_clip, load_owl, photos, plain_labels};

/// A detector with the three photos embedded.
struct Scene {
    owl: Owl,
    images: Vec<(OwlImage, ImageSize)>,
}

/// A detection by its label's name, bit for bit.
type Named = (String, usize, [u32; 4], u32);

impl Scene {
    fn new() -> Self {
        let owl = load_owl(&fixture("owlv2-small"));
        let images = photos()
            .iter()
            .map(|photo| (owl.embed(&owl.input(photo)), photo.size()))
            .collect();
        Self { owl, images }
    }

    /// Detections in all photos.
    fn find(&self, vocabulary: &Vocabulary, options: &DetectionOptions) -> Vec<Vec<Named>> {
        let (embeddings, _) = vocabulary.embed(self.owl.text_encoder());
        let queries = self.owl.queries(&embeddings);
        let images = self.images.iter().map(|(image, size)| {
            let found = detect(&self.owl, image, *size, &queries, vocabulary, options).unwrap();
            let named = found.iter().map(|detection| {
                let name = vocabulary.name(detection.label).to_owned();
                let corners = detection.box_xyxy_px.map(f32::to_bits);
                (name, detection.patch, corners, detection.score.to_bits())
            });
            named.collect()
        });
        images.collect()
    }
}

fn label(name: &str, phrases: &[&str], score_thresh: Option<f32>) -> Label {
    Label {
        name: name.to_owned(),
        phrases: phrases.iter().map(|phrase| (*phrase).to_owned()).collect(),
        score_thresh,
    }
}

fn labels() -> Vec<Label> {
    vec![
        label("cat", &["a photo of a cat", "kitten", "cat"], Some(0.3)),
        label("dog", &["a dog", "puppy"], None),
        label("cup", &["coffee", "a cup of coffee"], Some(0.5)),
        label("bowl", &["a red bowl on a table"], None),
        label("sky", &["the sky", "clouds", "blue sky"], None),
    ]
}

const NEGATIVES: [&str; 3] = ["wall", "grass", "the sea"];
const TEMPLATES: [&str; 2] = ["{}", "a photo of {}"];

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Options under which every rule has something to do.
fn options() -> DetectionOptions {
    DetectionOptions {
        score_thresh: 0.2,
        objectness_thresh: 0.05,
        cross_label_nms_thresh: Some(0.7),
        ..DetectionOptions::default()
    }
}

/// Moves elements about by `keys`, which are drawn at random.
fn shuffle<T>(values: &mut [T], keys: &[u8]) {
    for (i, &key) in (0..values.len()).zip(keys.iter().cycle()) {
        values.swap(i, usize::from(key) % values.len());
    }
}

#[test]
fn the_order_of_writing_changes_nothing() {
    let scene = Scene::new();
    let (negatives, templates) = (owned(&NEGATIVES), owned(&TEMPLATES));
    let vocabulary = Vocabulary::new(labels(), &negatives, &templates).unwrap();
    let expected = scene.find(&vocabulary, &options());
    let found: usize = expected.iter().map(Vec::len).sum();
    assert!(found > 20, "{found} detections");
    let without = Vocabulary::new(labels(), &[], &templates).unwrap();
    assert_ne!(
        scene.find(&without, &options()),
        expected,
        "negatives absorb something"
    );

    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(24)
    };
    let mut runner = TestRunner::new(config);
    let keys = proptest::collection::vec(any::<u8>(), 8);
    runner
        .run(&keys, |keys| {
            let (mut labels, mut negatives, mut templates) =
                (labels(), negatives.clone(), templates.clone());
            shuffle(&mut labels, &keys);
            shuffle(&mut negatives, &keys[2..]);
            shuffle(&mut templates, &keys[4..]);
            for label in &mut labels {
                shuffle(&mut label.phrases, &keys[1..]);
            }
            let shuffled = Vocabulary::new(labels, &negatives, &templates).unwrap();
            prop_assert_eq!(&scene.find(&shuffled, &options()), &expected);
            Ok(())
        })
        .unwrap();
}

/// Different phrases, short enough for the small vocabulary's byte pairs.
fn fillers(count: usize) -> Vec<String> {
    let letters = |n: usize| {
        let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
        [letter(n), letter(n / 26), letter(n / 676)]
            .iter()
            .collect::<String>()
    };
    (0..count)
        .map(|n| format!("the {} one", letters(n)))
        .collect()
}

/// Detections of a label are bit for bit the same with one phrase and with a hundred, and where the phrases fill
/// more than one batch of queries, if nothing else scores higher.
#[test]
fn labels_that_find_nothing_change_nothing() {
    let scene = Scene::new();
    let plain = DetectionOptions {
        score_thresh: 0.2,
        ..DetectionOptions::default()
    };
    for name in ["a photo of a cat", "coffee", "the sky"] {
        let alone = Vocabulary::new(plain_labels(&[name]), &[], &[]).unwrap();
        let expected = scene.find(&alone, &plain);
        assert!(expected.iter().map(Vec::len).sum::<usize>() > 5, "{name}");
        for count in [1, 2, 7, 99, 600, 1200] {
            let mut labels = plain_labels(&[name]);
            // A label above whose threshold no score is never takes a box.
            labels.extend(fillers(count).into_iter().map(|phrase| Label {
                score_thresh: Some(1.0),
                ..Label::plain(phrase)
            }));
            let many = Vocabulary::new(labels, &[], &[]).unwrap();
            assert!(
                scene.find(&many, &plain) == expected,
                "{name} and {count} others"
            );
        }
    }
}

/// Encoded once, scored for three photos; nothing grows with labels times boxes beyond a batch.
#[test]
fn ten_thousand_labels() {
    let start = Instant::now();
    let scene = Scene::new();
    let labels = fillers(10_000).into_iter().map(Label::plain);
    let vocabulary = Vocabulary::new(labels.collect(), &[], &[]).unwrap();
    assert_eq!(vocabulary.names().len(), 10_000);
    let (embeddings, overlong) = vocabulary.embed(scene.owl.text_encoder());
    assert_eq!((embeddings.count(), overlong.len()), (10_000, 0));
    let queries = scene.owl.queries(&embeddings);
    assert_eq!(queries.count(), 10_000);
    for (image, size) in &scene.images {
        // Every query is scored once, in order.
        let mut seen = 0;
        scene.owl.score(image, &queries, |first, logits| {
            assert_eq!(first, seen);
            assert!(logits.len().is_multiple_of(100), "100 boxes");
            seen += logits.len() / 100;
        });
        assert_eq!(seen, 10_000);
        let any = DetectionOptions {
            score_thresh: 0.0,
            label_nms_thresh: 1.0,
            ..DetectionOptions::default()
        };
        let found = detect(&scene.owl, image, *size, &queries, &vocabulary, &any).unwrap();
        assert!(!found.is_empty());
        assert!(found.iter().all(|detection| detection.label < 10_000));
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// Masks of every kind in a photo: a corner, a band, a triangle, one pixel, everything.
fn masks(size: ImageSize) -> Vec<Rle> {
    let ImageSize { height, width } = size;
    let inside: [&dyn Fn(u32, u32) -> bool; 5] = [
        &|y, x| y < height / 3 && x < width / 4,
        &|y, _| (height / 2..height / 2 + 20).contains(&y),
        &|y, x| x > width / 3 && x - width / 3 < y / 2,
        &|y, x| (y, x) == (height - 1, width - 1),
        &|_, _| true,
    ];
    let masks = inside
        .iter()
        .map(|inside| Rle::encode(&Bitmap::from_fn(size, inside)));
    masks.collect()
}

fn labeller(labels: Vec<Label>, negatives: &[&str], templates: &[&str]) -> Labeller {
    let vocabulary = Vocabulary::new(labels, &owned(negatives), &owned(templates)).unwrap();
    let options = LabellerOptions {
        min_probability: 0.15,
        ..LabellerOptions::default()
    };
    let (labeller, overlong) =
        Labeller::new(load_clip(&fixture("clip-small")), vocabulary, options);
    assert_eq!(overlong, []);
    labeller
}

/// Crops of all photos' masks with every background.
fn crops(photos: &[RgbImage], side: usize) -> Vec<ClipInput> {
    let backgrounds = [
        CropBackground::Keep,
        CropBackground::Blur,
        CropBackground::Remove,
    ];
    let mut crops = Vec::new();
    for photo in photos {
        for mask in masks(photo.size()) {
            for background in backgrounds {
                let options = CropOptions {
                    background,
                    ..CropOptions::default()
                };
                crops.push(crop_mask(photo, &mask, &options, side));
            }
        }
    }
    crops
}

/// Bit for bit: a mask's label does not know the other crops, nor the order in which labels were written.
#[test]
fn a_mask_s_label_depends_on_its_crop_alone() {
    let mut reversed = labels();
    reversed.reverse();
    for label in &mut reversed {
        label.phrases.reverse();
    }
    let one = labeller(labels(), &NEGATIVES, &TEMPLATES);
    let other = labeller(
        reversed,
        &["the sea", "grass", "wall"],
        &["a photo of {}", "{}"],
    );
    let crops = crops(&photos(), one.clip().architecture().image.image_size);
    let crops: Vec<&ClipInput> = crops.iter().collect();
    let alone: Vec<MaskLabel> = crops.iter().flat_map(|crop| one.label(&[crop])).collect();
    assert_eq!(alone.len(), 45);
    let given = |labels: &[MaskLabel]| labels.iter().filter(|l| l.score.is_some()).count();
    assert!(
        (1..45).contains(&given(&alone)),
        "{} labels given",
        given(&alone)
    );
    for labeller in [&one, &other] {
        for batch in [2, 7, 44, 45] {
            let labels: Vec<MaskLabel> = crops
                .chunks(batch)
                .flat_map(|crops| labeller.label(crops))
                .collect();
            assert_eq!(labels, alone, "in batches of {batch}");
        }
        let backwards: Vec<&ClipInput> = crops.iter().rev().copied().collect();
        let mut labels = labeller.label(&backwards);
        labels.reverse();
        assert_eq!(labels, alone, "backwards");
    }
    assert_eq!(one.label(&[]), []);
}

/// Templates are averaged: more of them move the scores, the order does not.
#[test]
fn templates_are_averaged() {
    let scene = Scene::new();
    let with = |templates: &[&str]| {
        let labels = plain_labels(&["cat", "dog"]);
        let vocabulary = Vocabulary::new(labels, &[], &owned(templates)).unwrap();
        vocabulary.embed(scene.owl.text_encoder()).0
    };
    let (plain, photo) = (with(&["{}"]), with(&["a photo of a {}"]));
    let both = with(&["a photo of a {}", "{}"]);
    for ((a, b), mean) in plain.rows().zip(photo.rows()).zip(both.rows()) {
        let sum: Vec<f32> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        let length = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
        for (got, sum) in mean.iter().zip(&sum) {
            assert!((got - sum / length).abs() < 1e-6);
        }
    }
    assert_ne!(plain, photo);
}
