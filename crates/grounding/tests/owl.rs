//! OWLv2 and OWL-ViT against transformers: two seeded checkpoints, three photos, texts and examples.

mod support;

use maskmill_grounding::{
    DetectionOptions, Owl, OwlArchitecture, TransformerSizes, Vocabulary, detect,
};
use serde::Deserialize;

use support::owl::{PIXEL_TOLERANCE, check_owl};
use support::{
    Inputs, Photo, TOLERANCE, before_normalising, fixture, fixtures, json, load_owl, max_error,
    plain_labels,
};

fn sizes(transformer: &TransformerSizes) -> [usize; 4] {
    let TransformerSizes {
        width,
        layers,
        heads,
        mlp_dim,
        ..
    } = *transformer;
    [width, layers, heads, mlp_dim]
}

#[test]
fn owlv2() {
    let owl = check_owl(&fixtures(), "owlv2-small", 10);
    let architecture = owl.architecture();
    assert_eq!(architecture.boxes(), 100);
    assert!(architecture.has_objectness);
    assert_eq!(architecture.image.patch_size, 8);
    assert_eq!(sizes(&architecture.image.transformer), [64, 2, 4, 160]);
    assert_eq!(sizes(&architecture.text.transformer), [48, 2, 4, 128]);
}

#[test]
fn owl_vit() {
    let owl = check_owl(&fixtures(), "owlvit-small", 8);
    let architecture = owl.architecture();
    assert_eq!(architecture.boxes(), 100);
    assert!(!architecture.has_objectness);
    assert_eq!(architecture.image.patch_size, 12);
    assert_eq!(sizes(&architecture.image.transformer), [56, 2, 7, 144]);
    assert_eq!(sizes(&architecture.text.transformer), [40, 2, 5, 96]);
}

/// The small model's architecture with another input size: the processor needs no more.
fn at_size(owl: &Owl, image_size: usize) -> OwlArchitecture {
    let mut architecture = owl.architecture().clone();
    architecture.image.image_size = image_size;
    architecture
}

/// Photos shrunk and enlarged to 960 pixels, blurred as scikit-image's `resize` does it.
#[test]
fn owlv2_pixels_at_the_published_size() {
    let (inputs, tensors) = Inputs::open("owlv2");
    let architecture = at_size(&load_owl(&fixture("owlv2-small")), inputs.image_size);
    for case in inputs.cases() {
        let input = architecture.input(&case.image);
        assert_eq!(input.original_size(), case.image.size());
        let name = format!("{}/pixel_values", case.name);
        let (_, expected) = tensors.floats(&name);
        let error = max_error(&inputs.kept(input.values()), &expected, &name);
        println!("{name}: {error:.1e}");
        assert!(error <= PIXEL_TOLERANCE, "{name}: {error}");
    }
}

#[test]
fn owl_vit_pixels_at_the_published_size() {
    let (inputs, tensors) = Inputs::open("owlvit");
    let architecture = at_size(&load_owl(&fixture("owlvit-small")), inputs.image_size);
    for case in inputs.cases() {
        let bytes = before_normalising(architecture.input(&case.image).values());
        let (_, expected) = tensors.bytes(&format!("{}/pixels_u8", case.name));
        assert!(inputs.kept(&bytes) == expected, "{}", case.name);
    }
}

#[derive(Deserialize)]
struct WholePath {
    checkpoint: String,
    labels: Vec<String>,
    score_threshold: f32,
    nms_iou: f64,
    photos: Vec<PathPhoto>,
}

#[derive(Deserialize)]
struct PathPhoto {
    #[serde(flatten)]
    photo: Photo,
    detected: usize,
    detections: Vec<Found>,
    near_thresholds: Vec<Near>,
}

#[derive(Deserialize)]
struct Found {
    patch: usize,
    label: usize,
    score: f32,
    box_xyxy_px: [f32; 4],
}

#[derive(Deserialize)]
struct Near {
    decision: String,
}

/// Texts to boxes as a job does it, thresholds and NMS included: the first half of the whole path, whose second
/// half `maskmill-sam` compares.
#[test]
fn detections_of_the_whole_path() {
    let path: WholePath = json(&fixture("whole_path.json"));
    let owl = load_owl(&fixture(&path.checkpoint));
    let labels: Vec<&str> = path.labels.iter().map(String::as_str).collect();
    let vocabulary = Vocabulary::new(plain_labels(&labels), &[], &[]).unwrap();
    let (embeddings, overlong) = vocabulary.embed(owl.text_encoder());
    assert_eq!(overlong, []);
    let queries = owl.queries(&embeddings);
    let with_duplicates = DetectionOptions {
        score_thresh: path.score_threshold,
        label_nms_thresh: 1.0,
        ..DetectionOptions::default()
    };
    let options = DetectionOptions {
        label_nms_thresh: path.nms_iou,
        ..with_duplicates.clone()
    };
    let mut suppressed = 0;
    for expected in &path.photos {
        let close = |near: &Near| ["label_score", "box_iou"].contains(&near.decision.as_str());
        assert!(
            !expected.near_thresholds.iter().any(close),
            "no decision is to be excused"
        );
        let image = expected.photo.read();
        let embedded = owl.embed(&owl.input(&image));
        let found = |options| {
            detect(
                &owl,
                &embedded,
                image.size(),
                &queries,
                &vocabulary,
                options,
            )
            .unwrap()
        };
        assert_eq!(found(&with_duplicates).len(), expected.detected);
        let found = found(&options);
        assert_eq!(found.len(), expected.detections.len());
        suppressed += expected.detected - found.len();
        let longer = image.size().height.max(image.size().width) as f32;
        for (ours, reference) in found.iter().zip(&expected.detections) {
            assert_eq!(ours.patch, reference.patch);
            assert_eq!(vocabulary.name(ours.label), path.labels[reference.label]);
            assert!((ours.score - reference.score).abs() <= TOLERANCE);
            let error = max_error(&ours.box_xyxy_px, &reference.box_xyxy_px, "box");
            assert!(error / longer <= TOLERANCE, "{error}");
        }
    }
    assert_eq!(path.photos.len(), 3);
    assert!(suppressed > 0, "NMS had nothing to do");
}
