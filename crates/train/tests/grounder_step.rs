//! One step of training a grounder against PyTorch: matches, losses, gradients and the weights after it
//! (`tests/reference/grounding/grounder_step.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_grounding::{ClipTokenizer, TrainableOwl};
use maskmill_job::{
    EncoderTraining, GrounderLoss, OptimiserName, OptimiserSettings, Precision, Schedule,
};
use maskmill_pixels::RgbImage;
use maskmill_train::grounder::{ImageTruth, Match, Questions, losses, matches};
use maskmill_train::{Learner, Optimiser, StepAt};
use safetensors::SafeTensors;
use serde::Deserialize;

/// Relative, of norms and of the largest value of a tensor.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Fixture {
    checkpoint: String,
    tensors: String,
    settings: Settings,
    queries: Vec<String>,
    images: Vec<Image>,
    matches: Vec<Vec<[usize; 2]>>,
    losses: BTreeMap<String, f64>,
    gradient_norm: f64,
    gradient_norms: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Settings {
    class: f64,
    l1: f64,
    giou: f64,
    objectness: f64,
    focal_alpha: f64,
    focal_gamma: f64,
    boxes_per_object: u32,
    dense: f64,
    learning_rate: f64,
    betas: [f64; 2],
    weight_decay: f64,
    clip_norm: f64,
}

#[derive(Deserialize)]
struct Image {
    image: String,
    objects: Vec<Object>,
    uncounted: Vec<usize>,
    shown: Vec<[usize; 2]>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(rename = "box")]
    cxcywh: [f32; 4],
    queries: Vec<usize>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn photo(name: &str) -> RgbImage {
    let bytes = std::fs::read(root().join(name)).unwrap();
    decode(&bytes, &DecodeLimits::default()).unwrap().image
}

fn norm_of(values: &[f32]) -> f64 {
    let squares = values.iter().map(|v| f64::from(*v).powi(2));
    squares.sum::<f64>().sqrt()
}

#[test]
fn a_step_of_a_grounder_equals_pytorchs() {
    let folder = root().join("tests/reference/fixtures/grounding");
    let text = std::fs::read_to_string(folder.join("grounder_step.json")).unwrap();
    let fixture: Fixture = serde_json::from_str(&text).unwrap();
    let bytes = std::fs::read(folder.join(&fixture.tensors)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();

    let checkpoint = folder.join(&fixture.checkpoint);
    let device = Device::flex().autodiff();
    let mut owl = TrainableOwl::load(&checkpoint, &device).unwrap();
    let s = &fixture.settings;
    let settings = GrounderLoss {
        class: s.class,
        l1: s.l1,
        giou: s.giou,
        objectness: s.objectness,
        focal_alpha: s.focal_alpha,
        focal_gamma: s.focal_gamma,
        boxes_per_object: s.boxes_per_object,
        dense: s.dense,
    };
    let mut optimiser = Optimiser::new(
        &mut owl,
        &OptimiserSettings {
            name: OptimiserName::Adamw,
            precision: Precision::F32,
            learning_rate: s.learning_rate,
            betas: s.betas,
            weight_decay: s.weight_decay,
            warmup_steps: 0,
            steps: 1,
            schedule: Schedule::Constant,
            layer_decay: 1.0,
            clip_norm: s.clip_norm,
            batch_images: 2,
            accumulate: 1,
            encoder: EncoderTraining::Trained,
        },
    );
    let truth = fixture.images.iter().map(|image| ImageTruth {
        objects: image
            .objects
            .iter()
            .map(|object| (object.cxcywh, object.queries.clone()))
            .collect(),
        uncounted: image.uncounted.clone(),
        shown: image
            .shown
            .iter()
            .map(|[patch, object]| Match {
                patch: *patch,
                object: *object,
            })
            .collect(),
    });
    let questions = Questions {
        queries: fixture.queries.clone(),
        images: truth.collect(),
    };
    let tokenizer = ClipTokenizer::load(&checkpoint).unwrap();
    let context = owl.architecture().text.context;
    let tokens = questions.queries.iter();
    let tokens: Vec<_> = tokens.map(|q| tokenizer.encode(q, context)).collect();
    let inputs = fixture.images.iter().map(|image| photo(&image.image));
    let inputs: Vec<_> = inputs
        .map(|image| owl.architecture().input(&image))
        .collect();
    let queries = owl.embed_texts(&tokens, tokenizer.end());
    let detections = owl.forward(owl.images(&inputs), queries);

    let host = |x: &Tensor<3>| -> Vec<f32> {
        let x = x.clone().without_autodiff();
        x.try_into_vec_as().unwrap()
    };
    let [_, boxes, asked] = detections.logits.dims();
    let (logits, located) = (host(&detections.logits), host(&detections.boxes));
    let of_images = logits
        .chunks_exact(boxes * asked)
        .zip(located.chunks_exact(boxes * 4));
    for ((logits, located), (truth, wanted)) in
        of_images.zip(questions.images.iter().zip(&fixture.matches))
    {
        let found = matches(logits, located.as_chunks::<4>().0, truth, &settings);
        let found: Vec<[usize; 2]> = found.iter().map(|m| [m.patch, m.object]).collect();
        assert_eq!(found, *wanted);
    }

    let found = losses(detections, &questions, &settings);
    let value = |x: &Tensor<1>| f64::from(x.clone().into_scalar::<f32>());
    let names = ["total", "class", "l1", "giou", "objectness", "dense"];
    for (name, found) in names.iter().zip(&found) {
        let (found, wanted) = (value(found), fixture.losses[*name]);
        assert!(
            (found / wanted - 1.0).abs() <= TOLERANCE,
            "{name}: {found}, {wanted}"
        );
    }

    let [total, ..] = found;
    let row = optimiser.gathered(&owl.networks, total.backward());
    let norm = value(&row.clone().square().sum().sqrt());
    assert!(
        (norm / fixture.gradient_norm - 1.0).abs() <= TOLERANCE,
        "norm {norm}"
    );
    let gradients: Vec<f32> = row.clone().try_into_vec_as().unwrap();
    let placements = owl.keys().placements().to_vec();
    let of_parameter: BTreeMap<_, &[f32]> = optimiser
        .parts(&gradients)
        .map(|(key, values)| {
            let placement = placements.iter().find(|p| p.key == key).unwrap();
            (placement.parameter.unwrap(), values)
        })
        .collect();
    let trained: Vec<_> = placements
        .iter()
        .filter(|p| p.parameter.is_some())
        .collect();
    assert_eq!(trained.len(), fixture.gradient_norms.len());
    // The key bias of an attention has no effect: its gradient is rounding alone.
    let noise = 1e-6 * norm;
    for placement in &trained {
        let gradient = of_parameter[&placement.parameter.unwrap()];
        let found = norm_of(&placement.in_file_order(gradient.to_vec()));
        let wanted = fixture.gradient_norms[&placement.key];
        assert!(
            (found - wanted).abs() <= TOLERANCE * wanted + noise,
            "{}: norm {found}, {wanted}",
            placement.key
        );
    }

    let row = row.mul_scalar(s.clip_norm / (norm + 1e-6));
    let at = StepAt {
        step: 1,
        rate: s.learning_rate,
        gradient_scale: 1.0,
    };
    optimiser.step(&mut owl, row, at);
    let values = Learner::values(&owl);
    let read = |name: String| tensors.tensor(&name).unwrap().data().to_vec();
    let mut compared = 0;
    for placement in trained {
        let found = placement.in_file_order(values[&placement.parameter.unwrap()].clone());
        let wanted = read(format!("after/{}", placement.key));
        let wanted = wanted
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        // AdamW's first step follows the gradient's sign: where that is rounding alone it moves by the learning rate either
        // way.
        let clear = read(format!("clear/{}", placement.key));
        let scale = found.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        for ((found, wanted), clear) in found.iter().zip(wanted).zip(clear) {
            let error = f64::from((found - wanted).abs());
            let allowed = match clear {
                0 => 2.1 * s.learning_rate,
                _ => TOLERANCE * f64::from(scale),
            };
            assert!(error <= allowed, "{}: {found} {wanted}", placement.key);
            compared += usize::from(clear > 0);
        }
    }
    assert!(compared > 50_000, "{compared} values compared");
}
