//! An OWLv2 or OWL-ViT checkpoint against what transformers computed with it.

use std::collections::BTreeMap;
use std::path::Path;

use maskmill_grounding::{
    CandidateBoxes, DetectionOptions, Embeddings, Label, Owl, OwlImage, OwlInput, Vocabulary,
    detect,
};
use maskmill_masks::{BoxPx, ImageSize, box_nms};
use serde::Deserialize;

use super::{
    Photo, Report, TOLERANCE, Tensors, before_normalising, channels_first, json, load_owl,
    max_error, photo,
};

/// Of normalised pixels: sums in f32 over windows of up to 23 x 23 pixels.
pub(crate) const PIXEL_TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Expected {
    checkpoint: String,
    family: String,
    tensors: String,
    image_size: usize,
    context: usize,
    queries: Vec<Query>,
    photos: Vec<Searched>,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Query {
    text: String,
    count: usize,
}

#[derive(Deserialize)]
struct Searched {
    #[serde(flatten)]
    photo: Photo,
    tensors: String,
    thresholds: Vec<AtThreshold>,
    near_thresholds: Vec<Near>,
}

#[derive(Deserialize)]
struct AtThreshold {
    threshold: f32,
    detections: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    patch: usize,
    label: usize,
    score: f32,
    #[serde(rename = "box")]
    box_xyxy_px: [f32; 4],
}

/// A decision of the reference within 0.001 of its threshold.
#[derive(Deserialize)]
struct Near {
    decision: String,
    /// Of decisions about one patch.
    patch: Option<usize>,
    threshold: Option<f32>,
}

#[derive(Deserialize)]
struct Example {
    crop_of: String,
    crop_xyxy: [u32; 4],
    #[serde(flatten)]
    target: Photo,
    tensors: String,
    query_patch: usize,
    threshold: f32,
    nms_threshold: f64,
    detections: Vec<Guided>,
    near_thresholds: Vec<Near>,
}

#[derive(Deserialize)]
struct Guided {
    alpha: f32,
    #[serde(rename = "box")]
    box_xyxy_px: [f32; 4],
}

/// Compares every stage, texts and examples, with `folder`'s `<name>.json`, at least so many kinds of values; gives
/// the model for further checks.
pub(crate) fn check_owl(folder: &Path, name: &str, at_least: usize) -> Owl {
    let expected: Expected = json(&folder.join(format!("{name}.json")));
    let tensors = Tensors::open(&folder.join(&expected.tensors));
    let owl = load_owl(&folder.join(&expected.checkpoint));
    let sizes = owl.architecture();
    assert_eq!(sizes.is_v2, expected.family == "owlv2");
    assert_eq!(sizes.image.image_size, expected.image_size);
    assert_eq!(sizes.text.context, expected.context);
    let mut report = Report::default();

    let queries = check_texts(&owl, &expected, &tensors, &mut report);
    for searched in &expected.photos {
        check_photo(&owl, &expected, searched, &queries, &tensors, &mut report);
    }
    assert_eq!(expected.photos.len(), 3);
    for example in &expected.examples {
        check_example(&owl, example, &tensors, &mut report);
    }
    assert_eq!(expected.examples.len(), 2);
    report.finish(name, at_least);
    owl
}

fn check_texts(
    owl: &Owl,
    expected: &Expected,
    tensors: &Tensors,
    report: &mut Report,
) -> Embeddings {
    let encoder = owl.text_encoder();
    for (query, ids) in expected.queries.iter().zip(tensors.ids("token_ids")) {
        let tokens = encoder.tokens(&query.text);
        assert_eq!(tokens.cut.is_some(), query.count > expected.context);
        let padded = owl.tokenizer().padded(&tokens, expected.context);
        assert_eq!(padded, ids, "{:?}", query.text);
    }
    let texts: Vec<String> = expected.queries.iter().map(|q| q.text.clone()).collect();
    let embeds = encoder.embed(&texts).0.normalised();
    report.compare("text_embeds", embeds.values(), tensors, "text_embeds");
    embeds
}

fn check_photo(
    owl: &Owl,
    expected: &Expected,
    searched: &Searched,
    queries: &Embeddings,
    tensors: &Tensors,
    report: &mut Report,
) {
    let prefix = &searched.tensors;
    let image = searched.photo.read();
    let input = owl.input(&image);
    check_pixels(owl, &input, tensors, &format!("{prefix}/"), report);
    let embedded = owl.embed(&input);
    let (boxes, logits) = scored(owl, &embedded, queries);
    report.compare("logits", &logits, tensors, &format!("{prefix}/logits"));
    compare_boxes(&boxes, tensors, &format!("{prefix}/pred_boxes"), report);
    assert_eq!(boxes.objectness.is_some(), owl.architecture().is_v2);
    if let Some(objectness) = &boxes.objectness {
        let name = format!("{prefix}/objectness_logits");
        report.compare("objectness_logits", objectness, tensors, &name);
    }
    for at in &searched.thresholds {
        let found = SearchFor {
            owl,
            expected,
            queries,
        };
        found.check(&embedded, image.size(), searched, at, report);
    }
    assert_eq!(searched.thresholds.len(), 2);
}

/// Bytes where the processor resizes bytes, values where it resizes floats.
fn check_pixels(owl: &Owl, input: &OwlInput, tensors: &Tensors, prefix: &str, report: &mut Report) {
    if owl.architecture().is_v2 {
        let name = format!("{prefix}pixel_values");
        let (_, expected) = tensors.floats(&name);
        let error = max_error(&channels_first(input.values()), &expected, &name);
        report.note("pixel_values (absolute)", error, PIXEL_TOLERANCE);
    } else {
        let name = format!("{prefix}pixels_u8");
        let got = channels_first(&before_normalising(input.values()));
        assert!(
            got == tensors.bytes(&name).1,
            "{name}: not as torchvision resizes"
        );
    }
}

/// Boxes, and `[boxes, queries]` logits.
pub(crate) fn scored(
    owl: &Owl,
    image: &OwlImage,
    queries: &Embeddings,
) -> (CandidateBoxes, Vec<f32>) {
    let mut logits = Vec::new();
    let boxes = owl.score(image, &owl.queries(queries), |first, batch| {
        assert_eq!(first, 0, "so few queries are one batch");
        logits.extend_from_slice(batch);
    });
    (boxes, logits)
}

fn compare_boxes(boxes: &CandidateBoxes, tensors: &Tensors, name: &str, report: &mut Report) {
    let (_, expected) = tensors.floats(name);
    let error = max_error(boxes.cxcywh_norm.as_flattened(), &expected, name);
    report.note("boxes (of the side)", error, TOLERANCE);
}

/// Whether a box lies wholly beside its image: `detect` drops those.
fn is_beside([x0, y0, x1, y1]: [f32; 4], size: ImageSize) -> bool {
    x0 >= size.width as f32 || y0 >= size.height as f32 || x1 <= 0.0 || y1 <= 0.0
}

/// Detections of the queries, each its own label.
struct SearchFor<'a> {
    owl: &'a Owl,
    expected: &'a Expected,
    queries: &'a Embeddings,
}

impl SearchFor<'_> {
    /// The same patches, labels, scores and boxes as `post_process_object_detection` gives, but for decisions
    /// that the reference lists as near a threshold.
    fn check(
        &self,
        image: &OwlImage,
        size: ImageSize,
        searched: &Searched,
        at: &AtThreshold,
        report: &mut Report,
    ) {
        let named = |index: usize| format!("query {index}");
        let labels = (0..self.queries.count()).map(|index| Label::plain(named(index)));
        let vocabulary = Vocabulary::new(labels.collect(), &[], &[]).unwrap();
        let options = DetectionOptions {
            score_thresh: at.threshold,
            label_nms_thresh: 1.0,
            max_detections: usize::MAX,
            ..DetectionOptions::default()
        };
        let queries = self.owl.queries(self.queries);
        let found = detect(self.owl, image, size, &queries, &vocabulary, &options).unwrap();
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
        let found: BTreeMap<usize, _> = found.iter().map(|d| (d.patch, d)).collect();

        let what = format!("{}, above {}", searched.tensors, at.threshold);
        let near = |decision: &str, patch: usize| {
            searched.near_thresholds.iter().any(|near| {
                near.decision == decision
                    && near.patch == Some(patch)
                    && near
                        .threshold
                        .is_none_or(|threshold| threshold == at.threshold)
            })
        };
        let longer = size.height.max(size.width) as f32;
        let mut unexpected: BTreeMap<usize, _> = found.clone();
        for reference in &at.detections {
            let patch = reference.patch;
            let Some(ours) = unexpected.remove(&patch) else {
                let beside = is_beside(reference.box_xyxy_px, size);
                assert!(
                    beside || near("score", patch),
                    "{what}: patch {patch} is missing"
                );
                continue;
            };
            let label = vocabulary.name(ours.label);
            if label != named(reference.label) {
                assert!(near("label", patch), "{what}: patch {patch} is {label}");
            }
            report.note(
                "detections' scores",
                (ours.score - reference.score).abs(),
                TOLERANCE,
            );
            let error = max_error(&ours.box_xyxy_px, &reference.box_xyxy_px, &what);
            report.note("detections' boxes (of the side)", error / longer, TOLERANCE);
        }
        for patch in unexpected.keys() {
            assert!(
                near("score", *patch),
                "{what}: patch {patch} is one too many"
            );
        }
        println!(
            "{} {what}: {} of {} detections",
            self.expected.checkpoint,
            found.len(),
            at.detections.len()
        );
        assert!(found.len() >= 3, "{what}: {} detections", found.len());
    }
}

/// An example of one photo, looked for in another.
fn check_example(owl: &Owl, example: &Example, tensors: &Tensors, report: &mut Report) {
    let prefix = &example.tensors;
    let [x0, y0, x1, y1] = example.crop_xyxy;
    let crop = photo(&example.crop_of).crop(BoxPx { x0, y0, x1, y1 });
    let input = owl.input(&crop);
    check_pixels(owl, &input, tensors, &format!("{prefix}/query_"), report);
    let (query, patch) = owl.example_query(&input);
    assert_eq!(patch, example.query_patch, "{prefix}");
    report.compare(
        "query_embeds",
        &query,
        tensors,
        &format!("{prefix}/query_embeds"),
    );
    let dim = query.len();
    let query = Embeddings::new(query, dim);
    let (in_crop, _) = scored(owl, &owl.embed(&input), &query);
    compare_boxes(
        &in_crop,
        tensors,
        &format!("{prefix}/query_pred_boxes"),
        report,
    );

    let target = example.target.read();
    let embedded = owl.embed(&owl.input(&target));
    let (boxes, logits) = scored(owl, &embedded, &query);
    report.compare(
        "example's logits",
        &logits,
        tensors,
        &format!("{prefix}/logits"),
    );
    compare_boxes(
        &boxes,
        tensors,
        &format!("{prefix}/target_pred_boxes"),
        report,
    );
    check_guided(&boxes, &logits, target.size(), example, report);
}

/// `post_process_image_guided_detection`: NMS over all boxes, and scores rescaled so that the best is 1.
fn check_guided(
    boxes: &CandidateBoxes,
    logits: &[f32],
    size: ImageSize,
    example: &Example,
    report: &mut Report,
) {
    let scores: Vec<f32> = logits
        .iter()
        .map(|logit| 1.0 / (1.0 + (-logit).exp()))
        .collect();
    let best = scores.iter().copied().fold(0.0, f32::max) + 1e-6;
    let alpha = |patch: usize| ((scores[patch] - best * 0.1) / (best * 0.9)).clamp(0.0, 1.0);
    let mut found = box_nms(&boxes.xyxy_px, &scores, example.nms_threshold);
    found.retain(|&patch| scores[patch] >= example.threshold);

    if !is_order_clear(boxes, &scores, example) {
        println!(
            "{}: NMS hangs on scores that are equal to rounding",
            example.tensors
        );
        return;
    }
    let longer = size.height.max(size.width) as f32;
    let mut missing = 0;
    for reference in &example.detections {
        let twin = found.iter().position(|&patch| {
            let off = max_error(&boxes.xyxy_px[patch], &reference.box_xyxy_px, "box") / longer;
            off <= TOLERANCE && (alpha(patch) - reference.alpha).abs() <= TOLERANCE
        });
        match twin {
            Some(place) => {
                let error = (alpha(found.remove(place)) - reference.alpha).abs();
                report.note("example's alphas", error, TOLERANCE);
            }
            None => missing += 1,
        }
    }
    let (different, near) = (missing + found.len(), example.near_thresholds.len());
    println!(
        "{}: {} detections, {different} different, {near} decisions near a threshold",
        example.tensors,
        example.detections.len(),
    );
    assert!(
        different <= near,
        "{}: {different} detections differ, which {near} decisions near a threshold cannot explain",
        example.tensors
    );
}

/// Whether no two overlapping boxes have scores so near to each other that rounding decides which one NMS keeps: those
/// of untrained base sizes saturate.
fn is_order_clear(boxes: &CandidateBoxes, scores: &[f32], example: &Example) -> bool {
    let candidates = (0..scores.len()).filter(|&patch| scores[patch] >= example.threshold - 0.001);
    let candidates: Vec<usize> = candidates.collect();
    let alike = |a: usize, b: usize| {
        if (scores[a] - scores[b]).abs() >= 1e-5 {
            return false;
        }
        let pair = [boxes.xyxy_px[a], boxes.xyxy_px[b]];
        box_nms(&pair, &[1.0, 0.0], example.nms_threshold - 0.001).len() == 1
    };
    candidates
        .iter()
        .enumerate()
        .all(|(place, &a)| candidates[place + 1..].iter().all(|&b| !alike(a, b)))
}
