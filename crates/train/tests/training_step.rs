//! One step of training against PyTorch: losses, gradients and the weights after it (`tests/reference/training_step.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_job::{
    EncoderTraining, LossSettings, OptimiserName, OptimiserSettings, Precision, Schedule,
    TrainingPrompts,
};
use maskmill_masks::{Bitmap, ImageSize};
use maskmill_pixels::RgbImage;
use maskmill_sam::{ModelInput, PointLabel, TrainableSam};
use maskmill_train::{Batch, First, GivenPrompt, Optimiser, StepAt};
use safetensors::SafeTensors;
use serde::Deserialize;

/// Relative, of norms and of the largest value of a tensor.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Fixture {
    checkpoint: String,
    tensors: String,
    settings: Settings,
    rounds: u32,
    prompts: BTreeMap<String, Vec<FixturePrompt>>,
    losses: BTreeMap<String, f64>,
    gradient_norm: f64,
}

#[derive(Deserialize)]
struct Settings {
    focal: f64,
    dice: f64,
    iou: f64,
    focal_alpha: f64,
    focal_gamma: f64,
    learning_rate: f64,
    betas: [f64; 2],
    weight_decay: f64,
    layer_decay: f64,
    clip_norm: f64,
}

#[derive(Deserialize)]
struct FixturePrompt {
    point: Option<[f64; 2]>,
    #[serde(rename = "box")]
    box_xyxy: Option<[f64; 4]>,
    ellipse: [f64; 4],
    clicks: Vec<(f64, f64, u8)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn photo(name: &str) -> RgbImage {
    let bytes = std::fs::read(root().join("samples").join(name)).unwrap();
    decode(&bytes, &DecodeLimits::default()).unwrap().image
}

fn given(prompt: &FixturePrompt, side: u32) -> GivenPrompt {
    let [cx, cy, rx, ry] = prompt.ellipse;
    let inside = |y: u32, x: u32| {
        ((f64::from(x) - cx) / rx).powi(2) + ((f64::from(y) - cy) / ry).powi(2) <= 1.0
    };
    let label = |foreground: u8| match foreground {
        1 => PointLabel::Foreground,
        _ => PointLabel::Background,
    };
    let clicks = prompt.clicks.iter();
    GivenPrompt {
        first: match (prompt.point, prompt.box_xyxy) {
            (Some(point), _) => First::Point(point),
            (None, corners) => First::Box(corners.unwrap()),
        },
        mask: Bitmap::from_fn(ImageSize::new(side, side), inside),
        clicks: clicks.map(|&(x, y, of)| ([x, y], label(of))).collect(),
    }
}

/// The largest difference over the largest value.
fn error(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        f64::from(values.fold(0.0_f32, |max, v| max.max(v.abs())))
    };
    let scale = largest(&mut wanted.iter().copied());
    let difference = largest(&mut found.iter().zip(wanted).map(|(a, b)| a - b));
    difference / scale.max(f64::MIN_POSITIVE)
}

#[test]
fn a_step_equals_pytorchs() {
    let folder = root().join("tests/reference/fixtures");
    let text = std::fs::read_to_string(folder.join("training_step.json")).unwrap();
    let fixture: Fixture = serde_json::from_str(&text).unwrap();
    let bytes = std::fs::read(folder.join(&fixture.tensors)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let wanted = |name: &str| -> Option<Vec<f32>> {
        let view = tensors.tensor(name).ok()?;
        let values = view.data().chunks_exact(4);
        Some(
            values
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
        )
    };

    let device = Device::flex().autodiff();
    let mut sam = TrainableSam::load(&root().join(&fixture.checkpoint), None, &device).unwrap();
    let s = &fixture.settings;
    let settings = OptimiserSettings {
        name: OptimiserName::Adamw,
        precision: Precision::F32,
        learning_rate: s.learning_rate,
        betas: s.betas,
        weight_decay: s.weight_decay,
        warmup_steps: 0,
        steps: 1,
        schedule: Schedule::Constant,
        layer_decay: s.layer_decay,
        clip_norm: s.clip_norm,
        batch_images: 2,
        accumulate: 1,
        encoder: EncoderTraining::Trained,
    };
    let prompts = TrainingPrompts {
        masks_per_image: 3,
        rounds: fixture.rounds - 1,
        box_probability: 0.0,
        box_noise: 0.0,
        multimask: true,
        pixels_per_image: 0,
    };
    let losses = LossSettings {
        focal: s.focal,
        dice: s.dice,
        iou: s.iou,
        focal_alpha: s.focal_alpha,
        focal_gamma: s.focal_gamma,
        pixels: 0.0,
    };
    let mut optimiser = Optimiser::new(&mut sam, &settings);
    let side = sam.architecture().image_size;
    let sides = [side, sam.architecture().low_res_side()];
    let images = fixture.prompts.iter().map(|(name, prompts)| {
        let input = ModelInput::new(&photo(name), side);
        let prompts = prompts.iter().map(|p| given(p, side as u32)).collect();
        (input.resized().clone(), prompts)
    });
    let batch = Batch::given(images.collect(), sides);
    let embeddings = batch.encode(&sam);
    let loss = batch.loss(&sam, embeddings, &prompts, &losses);

    let value = |x: &Tensor<1>| f64::from(x.clone().into_scalar::<f32>());
    let [focal, dice, iou] = &loss.parts;
    for (name, found) in [
        ("total", &loss.total),
        ("focal", focal),
        ("dice", dice),
        ("iou", iou),
    ] {
        let (found, wanted) = (value(found), fixture.losses[name]);
        assert!(
            (found / wanted - 1.0).abs() <= TOLERANCE,
            "{name}: {found}, {wanted}"
        );
    }

    let row = optimiser.gathered(&sam.networks, loss.total.backward());
    let norm = value(&row.clone().square().sum().sqrt());
    assert!(
        (norm / fixture.gradient_norm - 1.0).abs() <= TOLERANCE,
        "norm {norm}"
    );
    let gradients: Vec<f32> = row.clone().try_into_vec_as().unwrap();
    let placements = sam.keys().placements().to_vec();
    let placement = |key: &str| placements.iter().find(|p| p.key == key).unwrap();
    let mut compared = 0;
    let norm_of = |values: &[f32]| {
        values
            .iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    for (key, values) in optimiser.parts(&gradients) {
        let found = placement(key).in_file_order(values.to_vec());
        match wanted(&format!("gradient/{key}")) {
            None => assert!(
                found.iter().all(|v| *v == 0.0),
                "{key} has no part in the loss"
            ),
            Some(wanted) => {
                // The key bias of an attention has no effect: its gradient is rounding alone.
                let noise = 1e-6 * norm;
                let (a, b) = (norm_of(&found), norm_of(&wanted));
                assert!(
                    (a - b).abs() <= TOLERANCE * b + noise,
                    "{key}: norm {a}, {b}"
                );
                if b > 1e3 * noise {
                    let error = error(&found, &wanted);
                    assert!(error <= TOLERANCE, "{key}: {error:e}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 60, "{compared} gradients compared");

    let at = StepAt {
        step: 1,
        rate: settings.learning_rate_at(0),
        gradient_scale: s.clip_norm / (norm + 1e-6),
    };
    optimiser.step(&mut sam, row, at);
    let values = sam.values();
    let mut compared = 0;
    for placement in &placements {
        let Some(id) = placement.parameter else {
            continue;
        };
        let found = placement.in_file_order(values[&id].clone());
        let wanted = wanted(&format!("after/{}", placement.key)).unwrap();
        // AdamW's first step follows the gradient's sign: where that is rounding alone it moves by the learning rate
        // either way.
        let error = error(&found, &wanted);
        let scale = wanted.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        let blind = placement.key.ends_with("k_proj.bias") || placement.key.ends_with("qkv.bias");
        let allowed = match blind {
            true => 2.1 * s.learning_rate / f64::from(scale),
            false => TOLERANCE,
        };
        assert!(error <= allowed, "{}: {error:e}", placement.key);
        compared += 1;
    }
    assert_eq!(compared, placements.len() - 1);
}
