//! Every stage of the model against PyTorch: the numbers of `tests/reference/README.md`.
//!
//! The seeded small checkpoints run in every test run. The full ViT-B runs when `MASKMILL_VIT_B_FIXTURES`
//! names the folder that `generate.py --full vit_b` filled.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_masks::{ImageSize, Rle};
use maskmill_pixels::{longest_side, resize_bilinear};
use maskmill_sam::{
    MaskOutput, ModelInput, PointLabel, PointPrompt, Precision, Predictor, Prompt, PromptPoints,
    Sam,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use support::{Tensors, channels_first, fixture, json, max_norm_error, photo, root};

/// Relative to the largest value of a tensor. f32 rounding accumulates over some hundred operations;
/// 1e-4 is an order of magnitude above what is seen, and far below what moves a mask's outline.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Stages {
    checkpoint: String,
    image: String,
    tensors: String,
    original_size: Size,
    input_size: Size,
    image_size: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Size {
    height: u32,
    width: u32,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    multimask: bool,
    mask_input: Option<MaskInput>,
    prompts: Vec<CasePrompt>,
    masks: Vec<Vec<CaseMask>>,
}

#[derive(Deserialize)]
struct MaskInput {
    case: String,
    mask: usize,
}

#[derive(Deserialize)]
struct CasePrompt {
    points: Vec<[f64; 2]>,
    labels: Vec<i8>,
    #[serde(rename = "box")]
    box_xyxy_px: Option<[f64; 4]>,
}

#[derive(Deserialize)]
struct CaseMask {
    area: u64,
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct Segmentation {
    size: [u32; 2],
    counts: String,
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

/// Collects errors by stage and fails with all of them.
struct Report(BTreeMap<String, f32>);

impl Report {
    fn compare(&mut self, stage: &str, got: &[f32], tensors: &Tensors) {
        let (_, expected) = tensors.floats(stage);
        let error = max_norm_error(got, &expected, stage);
        self.0.insert(stage.to_owned(), error);
    }

    fn finish(self, at_least: usize) {
        let worst = self.0.values().fold(0.0_f32, |a, b| a.max(*b));
        println!("{} tensors, worst {worst:.1e}", self.0.len());
        let bad: Vec<_> = self.0.iter().filter(|(_, e)| **e > TOLERANCE).collect();
        assert!(bad.is_empty(), "beyond {TOLERANCE:e}: {bad:#?}");
        assert!(self.0.len() >= at_least, "only {} compared", self.0.len());
    }
}

fn model_points(prompt: &CasePrompt, original: &Size, input: &Size) -> PromptPoints {
    let scale = |[x, y]: [f64; 2]| {
        [
            x * f64::from(input.width) / f64::from(original.width),
            y * f64::from(input.height) / f64::from(original.height),
        ]
    };
    let mut points: PromptPoints = Vec::new();
    for (&xy, label) in prompt.points.iter().zip(&prompt.labels) {
        let label = match label {
            -1 => PointLabel::Padding,
            0 => PointLabel::Background,
            1 => PointLabel::Foreground,
            other => panic!("label {other}"),
        };
        points.push((scale(xy), label));
    }
    match prompt.box_xyxy_px {
        Some([x0, y0, x1, y1]) => {
            points.push((scale([x0, y0]), PointLabel::BoxTopLeft));
            points.push((scale([x1, y1]), PointLabel::BoxBottomRight));
        }
        None if !points.is_empty() => points.push(([0.0, 0.0], PointLabel::Padding)),
        None => {}
    }
    points
}

/// By kernels of every level of this CPU, and by Burn's operations.
fn check_stages(folder: &Path, name: &str) {
    for implementation in support::implementations() {
        println!("{implementation:?}");
        check_implementation(folder, name, implementation);
    }
}

fn check_implementation(folder: &Path, name: &str, implementation: support::Implementation) {
    let stages: Stages = json(&folder.join(name));
    let tensors = Tensors::open(&folder.join(&stages.tensors));
    let under = |path: &str| match Path::new(path).is_absolute() || folder.join(path).exists() {
        true => folder.join(path),
        false => root().join(path),
    };
    let sam = support::load_as(&under(&stages.checkpoint), implementation, Precision::F32);
    assert_eq!(sam.architecture().image_size, stages.image_size);
    let image = photo(&under(&stages.image));
    let original = ImageSize::new(stages.original_size.height, stages.original_size.width);
    assert_eq!(image.size(), original);

    let input = ModelInput::new(&image, stages.image_size);
    if tensors.names().iter().any(|name| name == "input_image") {
        let expected = tensors.bytes("input_image");
        assert_eq!(input.resized().data(), expected, "not as Pillow resizes it");
    }

    let mut report = Report(BTreeMap::new());
    let encoded = sam.encoder_stages(sam.normalised(&input));
    let names = tensors.names();
    let last = encoded.len() - 1;
    for (i, stage) in encoded.iter().enumerate() {
        let name = match i {
            0 => "encoder/patches".to_owned(),
            i if i == last => "image_embedding".to_owned(),
            i => format!("encoder/block_{}", i - 1),
        };
        if names.contains(&name) {
            let channels = stage.dims()[3];
            let got = values(stage.clone());
            match i == last {
                true => report.compare(&name, &channels_first(&got, channels), &tensors),
                false => report.compare(&name, &got, &tensors),
            }
        }
    }
    let embed_dim = sam.architecture().embed_dim;
    let positions = values(sam.dense_positions().clone());
    if names.iter().any(|name| name == "dense_pe") {
        report.compare("dense_pe", &channels_first(&positions, embed_dim), &tensors);
    }

    for case in &stages.cases {
        check_case(&sam, &stages, case, &encoded[last], &tensors, &mut report);
    }
    check_predictor(&sam, &stages, &image, &tensors);
    report.finish(4 + 2 * stages.cases.len());
}

/// The networks, batched as the reference batched them.
fn check_case(
    sam: &Sam,
    stages: &Stages,
    case: &Case,
    embedding: &Tensor<4>,
    tensors: &Tensors,
    report: &mut Report,
) {
    let name = &case.name;
    let prompt_encoder = sam.prompt_encoder();
    let prompts: Vec<PromptPoints> = case
        .prompts
        .iter()
        .map(|prompt| model_points(prompt, &stages.original_size, &stages.input_size))
        .collect();
    let sparse = prompt_encoder.embed_points(&prompts, sam.device());
    if let Some(sparse) = &sparse {
        report.compare(&format!("{name}/sparse"), &values(sparse.clone()), tensors);
    }
    let dense = match mask_input(stages, case, tensors) {
        None => prompt_encoder.no_mask(),
        Some(logits) => {
            let side = sam.architecture().low_res_side();
            let logits = TensorData::new(logits, [1, side, side, 1]);
            let logits = Tensor::from_data(logits, sam.device());
            let dense = prompt_encoder.embed_masks(logits);
            let got = channels_first(&values(dense.clone()), sam.architecture().embed_dim);
            report.compare(&format!("{name}/dense"), &got, tensors);
            dense
        }
    };
    let made = sam.prompt_stages(embedding, sparse, dense);
    let has = |stage: &str| tensors.names().contains(&format!("{name}/{stage}"));
    if has("transformer_tokens") {
        report.compare(&format!("{name}/transformer_tokens"), &made.tokens, tensors);
        report.compare(&format!("{name}/transformer_image"), &made.image, tensors);
    }
    // Of the mask tokens those of the output.
    let masks = sam.architecture().mask_tokens;
    let wanted = match output_of(case) {
        MaskOutput::Single => 0..1,
        MaskOutput::Multi => 1..masks,
    };
    let of_output = |values: &[f32]| -> Vec<f32> {
        let each = values.len() / prompts.len() / masks;
        let prompts = values.chunks_exact(masks * each);
        prompts
            .flat_map(|v| v[wanted.start * each..wanted.end * each].to_vec())
            .collect()
    };
    let iou = of_output(&made.predicted_iou);
    report.compare(&format!("{name}/iou_predictions"), &iou, tensors);
    let logits = of_output(&made.low_res_logits);
    report.compare(&format!("{name}/low_res_logits"), &logits, tensors);
}

fn output_of(case: &Case) -> MaskOutput {
    match case.multimask {
        true => MaskOutput::Multi,
        false => MaskOutput::Single,
    }
}

/// The earlier case's mask that this case feeds back.
fn mask_input(stages: &Stages, case: &Case, tensors: &Tensors) -> Option<Vec<f32>> {
    let input = case.mask_input.as_ref()?;
    assert!(stages.cases.iter().any(|c| c.name == input.case));
    let (shape, values) = tensors.floats(&format!("{}/low_res_logits", input.case));
    let plane = shape[2] * shape[3];
    Some(values[input.mask * plane..][..plane].to_vec())
}

/// The predictor, from pixels to masks at the original size.
fn check_predictor(
    sam: &Sam,
    stages: &Stages,
    image: &maskmill_pixels::RgbImage,
    tensors: &Tensors,
) {
    let mut predictor = Predictor::new(sam);
    predictor.set_image(image);
    let mut compared = 0;
    for case in &stages.cases {
        // A padding point that the caller gives has no counterpart in `Prompt`.
        if case.prompts.iter().any(|p| p.labels.contains(&-1)) {
            continue;
        }
        let prompts: Vec<Prompt> = case
            .prompts
            .iter()
            .map(|p| Prompt {
                points: p
                    .points
                    .iter()
                    .zip(&p.labels)
                    .map(|(&xy_px, &label)| PointPrompt {
                        xy_px,
                        foreground: label == 1,
                    })
                    .collect(),
                box_xyxy_px: p.box_xyxy_px,
                mask_logits: mask_input(stages, case, tensors),
            })
            .collect();
        let predicted = predictor.predict(&prompts, output_of(case)).unwrap();
        for (predicted, expected) in predicted.iter().zip(&case.masks) {
            assert_eq!(predicted.len(), expected.len());
            for (predicted, expected) in predicted.iter().zip(expected) {
                let mask = predictor.mask(predicted);
                let [height, width] = expected.segmentation.size;
                let size = ImageSize::new(height, width);
                let reference = Rle::from_coco_string(size, &expected.segmentation.counts).unwrap();
                assert_eq!(reference.area(), expected.area);
                // Two empty masks are equal and have no IoU.
                let iou = match mask == reference {
                    true => 1.0,
                    false => mask.iou(&reference).unwrap(),
                };
                assert!(iou >= 0.999, "{}: IoU {iou}", case.name);
                let logits = predictor.logits(predicted);
                let above = logits.iter().filter(|v| **v > 0.0).count() as u64;
                assert_eq!(above, mask.area(), "{}", case.name);
                compared += 1;
            }
        }
    }
    assert!(compared >= 6, "only {compared} masks compared");
}

#[test]
fn tiny_landscape() {
    check_stages(&fixture(""), "stages_tiny_cat.json");
}

#[test]
fn tiny_portrait() {
    check_stages(&fixture(""), "stages_tiny_dogs.json");
}

/// Another architecture, read from the shapes of an official-format `.pth`.
#[test]
fn compact_pth() {
    check_stages(&fixture(""), "stages_compact_coffee.json");
}

/// Relative-position tables of another length than the grid: interpolated.
#[test]
fn stretched_relative_positions() {
    check_stages(&fixture(""), "stages_stretched_fig.json");
}

/// The full ViT-B: `MASKMILL_VIT_B_FIXTURES=DIR cargo test --release -p maskmill-sam --test stages vit_b`
#[test]
fn vit_b() {
    let Some(folder) = std::env::var_os("MASKMILL_VIT_B_FIXTURES") else {
        println!("not asked for: see tests/reference/README.md");
        return;
    };
    let folder = Path::new(&folder);
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("stages_") && name.ends_with(".json") {
            check_stages(folder, &name);
            found += 1;
        }
    }
    assert!(found > 0, "no stages_*.json in {}", folder.display());
}

/// Every photo at every model size, byte for byte as Pillow 12 decodes and resizes it.
#[test]
fn resized_inputs() {
    #[derive(Deserialize)]
    struct Inputs {
        photos: Vec<Photo>,
    }
    #[derive(Deserialize)]
    struct Photo {
        image: String,
        height: u32,
        width: u32,
        decoded_sha256: String,
        resized: Vec<Resized>,
    }
    #[derive(Deserialize)]
    struct Resized {
        image_size: u32,
        height: u32,
        width: u32,
        sha256: String,
    }
    let hex = |bytes: &[u8]| -> String {
        let digest = Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let inputs: Inputs = json(&fixture("resized_inputs.json"));
    assert!(inputs.photos.len() >= 4);
    for photo in &inputs.photos {
        let bytes = std::fs::read(root().join(&photo.image)).unwrap();
        let image = decode(&bytes, &DecodeLimits::default()).unwrap().image;
        assert_eq!(image.size(), ImageSize::new(photo.height, photo.width));
        assert_eq!(hex(image.data()), photo.decoded_sha256, "{}", photo.image);
        for expected in &photo.resized {
            let size = longest_side(image.size(), expected.image_size);
            assert_eq!(size, ImageSize::new(expected.height, expected.width));
            let resized = resize_bilinear(&image, size);
            let what = format!("{} to {}", photo.image, expected.image_size);
            assert_eq!(hex(resized.data()), expected.sha256, "{what}");
        }
    }
}
