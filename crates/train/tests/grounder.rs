//! Whole runs of a very small grounder: resumed, refused, its checkpoint used, and something learnt.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Device;
use maskmill_grounding::{ClipTokenizer, Owl, TrainableOwl, write_model_files};
use maskmill_job::{
    GrounderPipeline, StartingWeights, TextFile, load_grounder_pipeline, load_training_pipeline,
};
use maskmill_sam::TrainableSam;
use maskmill_train::grounder::{
    GrounderReport, GrounderStep, SceneData, architecture, byte_pairs, evaluate, train,
};
use maskmill_train::{Observer, Outcome, Position, TrainError, files, record_of_grounder};
use maskmill_weights::{Checkpoint, StoredAs};

use support::{bytes, in_place};

const TRAINING: &str = include_str!("../../../tests/interop/training-grounder.toml");

fn pipeline(overrides: &[&str]) -> GrounderPipeline {
    let file = TextFile {
        name: "very-small.toml",
        text: TRAINING,
    };
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    load_grounder_pipeline(file, &overrides).unwrap_or_else(|error| panic!("{error}"))
}

#[derive(Default)]
struct Heard {
    begun_at: u32,
    steps: Vec<GrounderStep>,
    validated: Vec<(u32, GrounderReport)>,
}

impl Observer<GrounderStep, GrounderReport> for Heard {
    fn begun(&mut self, position: &Position, _: u32, parameters: usize) -> Result<(), TrainError> {
        assert!(parameters > 10_000);
        self.begun_at = position.step;
        Ok(())
    }

    fn stepped(&mut self, report: &GrounderStep) -> Result<(), TrainError> {
        self.steps.push(report.clone());
        Ok(())
    }

    fn validated(&mut self, step: u32, report: &GrounderReport, _: bool) -> Result<(), TrainError> {
        self.validated.push((step, report.clone()));
        Ok(())
    }

    fn skipped(&mut self, problem: &str) {
        assert!(
            problem.contains("no object covers") || problem.contains("no patch"),
            "{problem}"
        );
    }
}

fn run(
    pipeline: &GrounderPipeline,
    directory: &Path,
    steps_at_most: Option<u32>,
) -> (Result<Outcome, TrainError>, Heard) {
    let record = record_of_grounder(pipeline, "test").unwrap();
    let mut heard = Heard::default();
    let outcome = in_place(directory, steps_at_most, |place| {
        train(pipeline, &record, place, &mut heard)
    });
    (outcome, heard)
}

#[test]
fn a_resumed_run_ends_with_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let pipeline = pipeline(&[]);
    let (outcome, heard) = run(&pipeline, &whole, None);
    let outcome = outcome.unwrap();
    assert!(outcome.finished && outcome.position.step == 6 && outcome.position.images == 24);
    assert_eq!(heard.steps.len(), 6);
    assert!(
        heard
            .steps
            .iter()
            .all(|step| step.loss > 0.0 && step.giou > 0.0)
    );
    let at: Vec<u32> = heard.validated.iter().map(|v| v.0).collect();
    assert_eq!(at, [4, 6]);
    let report = &heard.validated[0].1;
    assert!(report.images == 3 && report.objects > 3 && report.phrases > report.objects);

    for (at_most, begun_at) in [(1, 0), (4, 1), (9, 5)] {
        let (outcome, heard) = run(&pipeline, &parts, Some(at_most));
        assert_eq!(heard.begun_at, begun_at);
        assert_eq!(outcome.unwrap().finished, at_most == 9);
    }
    assert!(bytes(&whole, files::LAST) == bytes(&parts, files::LAST));
    assert!(bytes(&whole, files::CHECKPOINT) == bytes(&parts, files::CHECKPOINT));

    // The model for use is one, measured as it was.
    let last = whole.join(files::LAST);
    let settings = pipeline.validation.as_ref().unwrap();
    let data = SceneData::open(&settings.data, "validation.data").unwrap();
    let skipped = &mut |problem: String| panic!("{problem}");
    let again = evaluate(&last, &Device::flex(), &data, 3, 0.1, skipped).unwrap();
    assert_eq!(again, heard.validated[1].1);
}

#[test]
fn an_image_tower_begins_as_a_sam_encoder_of_its_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sam_of = |seed: u64, overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        let file = TextFile {
            name: "very-small.toml",
            text: include_str!("../../../tests/interop/training.toml"),
        };
        let settings = load_training_pipeline(file, &overrides).unwrap();
        let StartingWeights::Fresh(settings) = &settings.start else {
            panic!("fresh weights");
        };
        let sizes = maskmill_train::architecture(settings);
        let sam = TrainableSam::fresh(&sizes, seed, &Device::flex());
        let metadata = BTreeMap::new();
        sam.save(&at("sam.safetensors"), StoredAs::F32, metadata)
            .unwrap();
    };
    let patches = ["architecture.patch_size=16", "architecture.window=3"];
    sam_of(1, &patches);
    let set = format!("model.image_encoder={:?}", at("sam.safetensors"));
    let pipeline = pipeline(&[&set]);
    run(&pipeline, &at("run"), Some(1)).0.unwrap();

    let read = |path: &Path, key: &str| -> Vec<f32> {
        let checkpoint = Checkpoint::open(path).unwrap();
        checkpoint.read(key).unwrap().unwrap().unwrap()
    };
    let same = |key: &str, wanted: &[f32]| {
        let key = format!("owlv2.vision_model.encoder.layers.1.{key}");
        let found = read(&at("run").join(files::LAST), &key);
        assert_eq!(found.len(), wanted.len(), "{key}");
        // After one step, of half the learning rate.
        let moved = found
            .iter()
            .zip(wanted)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(moved < 1e-3, "{key} moved by {moved}");
        assert!(wanted.iter().any(|w| w.abs() > 1e-2), "{key}");
    };
    let encoder = |key: &str| {
        let key = format!("image_encoder.blocks.1.{key}");
        read(&at("sam.safetensors"), &key)
    };
    same("mlp.fc1.weight", &encoder("mlp.lin1.weight"));
    same("self_attn.out_proj.weight", &encoder("attn.proj.weight"));
    let qkv = encoder("attn.qkv.weight");
    for (name, part) in ["q", "k", "v"].iter().zip(qkv.chunks_exact(32 * 32)) {
        same(&format!("self_attn.{name}_proj.weight"), part);
    }

    // The file's content is part of what the run is.
    sam_of(2, &patches);
    let error = run(&pipeline, &at("run"), Some(2)).0.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("sha256 of model.image_encoder: "), "{error}");
    let [patch, window] = patches;
    sam_of(1, &[patch, window, "architecture.encoder_mlp_dim=64"]);
    let error = run(&pipeline, &at("other"), None).0.unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("architecture.image_mlp_dim is 48 and not 64; give it the same sizes"),
        "{error}"
    );
}

#[test]
fn a_model_begins_with_the_weights_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    run(&pipeline(&["seed=9"]), &at("first"), None).0.unwrap();
    let from = at("first").join(files::LAST);
    let set = format!("model.checkpoint={from:?}");
    let hardly = "optimiser.learning_rate=1e-7";
    let next = pipeline(&[&set, hardly]);
    run(&next, &at("second"), Some(1)).0.unwrap();
    run(&pipeline(&[hardly]), &at("fresh"), Some(1)).0.unwrap();

    let tensors = |name: &str| {
        let folder = at(name);
        let model = TrainableOwl::load(&folder.join(files::LAST), &Device::flex()).unwrap();
        model.values_by_key()
    };
    let weights = |name: &str| {
        let values = tensors(name).into_values().flatten();
        values.collect::<Vec<f32>>()
    };
    let first = weights("first");
    let furthest = |other: &str| {
        let pairs = first.iter().zip(weights(other));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(furthest("second") < 1e-3, "{}", furthest("second"));
    assert!(furthest("fresh") > 0.1, "{}", furthest("fresh"));

    // On images twice as wide: a position is between those of the patches around it.
    let larger = pipeline(&[&set, hardly, "architecture.image_size=128"]);
    run(&larger, &at("larger"), Some(1)).0.unwrap();
    let (first_tensors, larger) = (tensors("first"), tensors("larger"));
    for (key, values) in &first_tensors {
        let larger = &larger[key];
        let row = |values: &[f32], row: usize| values[row * 32..][..32].to_vec();
        // The class token, and the first patch of all.
        let compared = match key.contains("vision_model.embeddings.position_embedding") {
            true => {
                assert_eq!((values.len(), larger.len()), (17 * 32, 65 * 32));
                let between = row(values, 1).into_iter().zip(row(values, 2));
                let between: Vec<f32> = between.map(|(a, b)| 0.75 * a + 0.25 * b).collect();
                let same = [row(values, 0), row(values, 1), between].concat();
                (same, larger[..3 * 32].to_vec())
            }
            false => (values.clone(), larger.clone()),
        };
        let pairs = compared.0.iter().zip(&compared.1);
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-3, "{key}: {difference}");
    }

    let refused = |pipeline: &GrounderPipeline| {
        let error = run(pipeline, &at("other"), None).0.unwrap_err();
        std::fs::remove_dir_all(at("other")).unwrap();
        error.to_string()
    };
    let error = refused(&pipeline(&[&set, "architecture.image_depth=1"]));
    assert!(
        error.contains("give it the checkpoint's sizes") && error.contains("model.checkpoint: "),
        "{error}"
    );
    let merges = at("first").join("merges.txt");
    let text = std::fs::read_to_string(&merges).unwrap();
    std::fs::write(&merges, text.replace("#version", "# version")).unwrap();
    let error = refused(&next);
    assert!(
        error.contains("has another merges.txt beside it"),
        "{error}"
    );
    std::fs::remove_file(&merges).unwrap();
    assert!(refused(&next).contains("merges.txt"));

    // The file's content is part of what the run is.
    run(&pipeline(&["seed=8"]), &at("another"), Some(1))
        .0
        .unwrap();
    std::fs::copy(at("another").join(files::LAST), &from).unwrap();
    let error = run(&next, &at("second"), Some(2)).0.unwrap_err();
    assert!(error.to_string().contains("sha256 of model.checkpoint: "));
}

#[test]
fn another_training_file_is_refused_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    run(&pipeline(&[]), folder.path(), Some(1)).0.unwrap();
    let other = pipeline(&["queries.per_image=5"]);
    let error = run(&other, folder.path(), Some(1)).0.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("queries.per_image: 4 -> 5"), "{error}");
}

#[test]
fn a_saved_model_is_the_model_and_knows_every_word() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = byte_pairs();
    let sizes = architecture(&pipeline(&[]).architecture, pairs.size());
    write_model_files(folder.path(), &sizes, &pairs).unwrap();
    let model = TrainableOwl::fresh(&sizes, 5, &BTreeMap::new(), &Device::flex());
    let path = folder.path().join("model.safetensors");
    let stored_as = StoredAs::F32;
    model.save(&path, stored_as, Default::default()).unwrap();

    // What jobs load has the same sizes, and says the same of phrases and patches.
    let owl = Owl::load(folder.path(), None, &Device::flex()).unwrap();
    assert_eq!(*owl.architecture(), sizes);
    let loaded = TrainableOwl::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!(model.values_by_key(), loaded.values_by_key());
    let again = folder.path().join("again.safetensors");
    loaded.save(&again, stored_as, Default::default()).unwrap();
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&path).unwrap());

    let tokenizer = ClipTokenizer::load(folder.path()).unwrap();
    for word in maskmill_scenes::words() {
        assert_eq!(tokenizer.encode(word, 16).ids.len(), 3, "{word}");
    }
    // Anything else falls to pieces, and to bytes.
    let other = tokenizer.encode("Zebra ñandú 7!", 64);
    let unique: BTreeSet<u32> = other.ids.iter().copied().collect();
    assert!(unique.len() > 8 && other.cut.is_none(), "{other:?}");

    let texts: Vec<String> = ["a red striped disc", "a disc"].map(str::to_owned).into();
    let (embeddings, _) = owl.text_encoder().embed(&texts);
    let tokens: Vec<_> = texts.iter().map(|t| tokenizer.encode(t, 16)).collect();
    let queries = model.embed_texts(&tokens, tokenizer.end());
    let data = SceneData::open(&pipeline(&[]).data, "data").unwrap();
    let input = owl.input(&data.at((0, 0)).unwrap().image);
    let detections = model.forward(model.images(&[input.clone(), input.clone()]), queries);
    let mut scored = Vec::new();
    let boxes = owl.score(
        &owl.embed(&input),
        &owl.queries(&embeddings),
        |_, logits| {
            scored.extend_from_slice(logits);
        },
    );
    let host = |values: Vec<f32>, other: &[f32]| {
        // Both images are the one.
        for half in values.chunks_exact(other.len()) {
            for (a, b) in half.iter().zip(other) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    };
    host(detections.logits.try_into_vec_as().unwrap(), &scored);
    host(
        detections.boxes.try_into_vec_as().unwrap(),
        boxes.cxcywh_norm.as_flattened(),
    );
    host(
        detections.objectness.try_into_vec_as().unwrap(),
        &boxes.objectness.unwrap(),
    );
    // At the beginning nothing is anything: a probability of about 0.05.
    let mean = scored.iter().sum::<f32>() / scored.len() as f32;
    assert!((-5.5..-1.0).contains(&mean), "{mean}");
}

/// What `CLIPTokenizer` (transformers) makes of the same files: `tests/reference/grounding/grounder_checkpoint.py --ids`.
#[test]
fn texts_have_the_ids_that_transformers_gives_them() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = byte_pairs();
    let sizes = architecture(&pipeline(&[]).architecture, pairs.size());
    write_model_files(folder.path(), &sizes, &pairs).unwrap();
    let tokenizer = ClipTokenizer::load(folder.path()).unwrap();
    let text = include_str!("../../../tests/reference/fixtures/grounding/grounder_ids.json");
    let fixture: serde_json::Value = serde_json::from_str(text).unwrap();
    let cases = fixture["cases"].as_object().unwrap();
    assert!(cases.len() > 5);
    for (text, ids) in cases {
        let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(tokenizer.encode(text, 77).ids, ids, "{text:?}");
    }
}
