//! Checkpoints that cannot be used: of other models, damaged, or beside a configuration that is not theirs.

mod support;

use std::collections::HashMap;
use std::path::Path;

use maskmill_grounding::{
    Clip, DetectionOptions, LabellerOptions, LoadError, NotFinite, Owl, Vocabulary, detect,
};
use maskmill_weights::{CheckpointError, KeyProblem};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use support::{copy_of, device, fixture, json, load_owl, photos, plain_labels, root};

/// A tensor to be written: type, shape, bytes.
type Owned = (Dtype, Vec<usize>, Vec<u8>);

/// A copy of the model's folder with its tensors changed; those for which `change` gives false are left out.
fn changed(model: &str, change: impl Fn(&str, &mut Owned) -> bool) -> TempDir {
    let folder = copy_of(&fixture(model));
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut changed: HashMap<String, Owned> = HashMap::new();
    for (name, view) in tensors.iter() {
        let mut tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        if change(name, &mut tensor) {
            changed.insert(name.to_owned(), tensor);
        }
    }
    let views = changed.iter().map(|(name, (dtype, shape, data))| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

fn clip_error(path: &Path) -> LoadError {
    match Clip::load(path, None, &device()) {
        Ok(_) => panic!("{} was loaded as CLIP", path.display()),
        Err(error) => error,
    }
}

fn owl_error(path: &Path) -> LoadError {
    match Owl::load(path, None, &device()) {
        Ok(_) => panic!("{} was loaded as a detector", path.display()),
        Err(error) => error,
    }
}

fn assert_says(error: &LoadError, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// What it is, and where it belongs.
#[test]
fn a_detector_is_no_clip() {
    for (model, is) in [
        ("owlv2-small", "it is an OWLv2 checkpoint"),
        ("owlvit-small", "it is an OWL-ViT checkpoint"),
    ] {
        let path = fixture(model);
        let error = clip_error(&path);
        assert!(matches!(
            &error,
            LoadError::Checkpoint(CheckpointError::OtherModel {
                wanted: "a CLIP",
                ..
            })
        ));
        let file = path.join("model.safetensors").display().to_string();
        let belongs = "which belongs in model.detector";
        assert_says(&error, &[&file, "not a CLIP checkpoint", is, belongs]);
    }
}

#[test]
fn a_clip_is_no_detector() {
    for (model, is) in [
        ("clip-small", "it is a CLIP checkpoint (transformers)"),
        ("openclip-small", "it is a CLIP checkpoint (open_clip)"),
    ] {
        let error = owl_error(&fixture(model));
        let not = "not an OWL-ViT or OWLv2 checkpoint";
        let belongs = "which belongs in model.labeller";
        assert_says(&error, &[not, is, belongs, "class_head.dense0.weight"]);
    }
}

#[test]
fn segment_anything_is_neither() {
    let path = root().join("models/sam-seeded-tiny.safetensors");
    for error in [clip_error(&path), owl_error(&path)] {
        let is = "it is a Segment Anything checkpoint, which belongs in model.checkpoint";
        assert_says(&error, &["sam-seeded-tiny.safetensors", is]);
    }
}

/// Tensors of nothing that is known: what they begin with is told.
#[test]
fn unknown_tensors_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let data = [0; 8];
    let views = ["lstm.bias", "lstm.weight"]
        .map(|name| (name, TensorView::new(Dtype::F32, vec![2], &data).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    for error in [clip_error(folder.path()), owl_error(folder.path())] {
        assert!(matches!(
            &error,
            LoadError::Checkpoint(CheckpointError::OtherModel { .. })
        ));
        assert_says(&error, &["its 2 tensors begin with lstm.bias, lstm.weight"]);
    }
}

#[test]
fn a_folder_without_weights_is_told_with_the_names_looked_for() {
    let folder = copy_of(&fixture("owlv2-small"));
    let weights = folder.path().join("model.safetensors");
    std::fs::rename(&weights, folder.path().join("weights.safetensors")).unwrap();
    let path = folder.path().display().to_string();
    for error in [clip_error(folder.path()), owl_error(folder.path())] {
        assert!(matches!(error, LoadError::NoWeights { .. }));
        let names = "model.safetensors, open_clip_model.safetensors, pytorch_model.bin";
        assert_says(
            &error,
            &["no weights in", &path, names, "name the file itself"],
        );
    }
    // By its own name it is loaded.
    Owl::load(&folder.path().join("weights.safetensors"), None, &device()).unwrap();
    let missing = folder.path().join("missing.safetensors");
    assert_says(
        &owl_error(&missing),
        &["missing.safetensors", "cannot be read"],
    );
}

/// Any cut of either format is told, wherever it falls.
#[test]
fn a_truncated_file_is_corrupt() {
    for (model, file) in [
        ("clip-small", "model.safetensors"),
        ("clip-small-gelu", "pytorch_model.bin"),
        ("openclip-small-quick", "open_clip_pytorch_model.bin"),
    ] {
        let folder = copy_of(&fixture(model));
        let path = folder.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = clip_error(folder.path());
            assert!(
                matches!(
                    error,
                    LoadError::Checkpoint(CheckpointError::Corrupt { .. })
                ),
                "{file}, {length} bytes: {error}"
            );
            assert_says(&error, &[file, "truncated", "fetch it again"]);
        }
    }
}

fn problems(error: LoadError) -> Vec<KeyProblem> {
    match error {
        LoadError::Checkpoint(CheckpointError::Mismatch { problems, .. }) => problems,
        other => panic!("another error: {other}"),
    }
}

#[test]
fn missing_and_superfluous_tensors_are_named() {
    let key = "box_head.dense1.weight";
    let folder = changed("owlv2-small", |name, _| name != key);
    let missing = KeyProblem::Missing {
        key: key.to_owned(),
        expected: vec![64, 64],
    };
    let error = owl_error(folder.path());
    assert_says(
        &error,
        &["1 tensor(s) do not fit", "OWLv2, image 2 blocks", key],
    );
    assert_eq!(problems(error), [missing]);

    let key = "vision_model.encoder.layers.1.self_attn.k_proj.bias";
    let folder = changed("clip-small", |name, tensor| {
        if name == key {
            tensor.1 = vec![32];
            tensor.2.truncate(64);
        }
        true
    });
    let shape = KeyProblem::Shape {
        key: key.to_owned(),
        expected: vec![64],
        found: vec![32],
    };
    assert_eq!(problems(clip_error(folder.path())), [shape]);
}

/// Without the tensors that tell its sizes a file is no such model at all.
#[test]
fn a_tensor_that_tells_sizes_is_named_too() {
    let key = "text_model.embeddings.position_embedding.weight";
    let folder = changed("clip-small", |name, _| name != key);
    assert_says(
        &clip_error(folder.path()),
        &[key, "CLIPModel of transformers"],
    );
}

fn set(folder: &TempDir, file: &str, change: impl Fn(&mut Value)) {
    let path = folder.path().join(file);
    let mut config: Value = json(&path);
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn an_unknown_activation_is_told_with_those_known() {
    let folder = copy_of(&fixture("owlvit-small"));
    set(&folder, "config.json", |config| {
        config["vision_config"]["hidden_act"] = "swish".into();
    });
    let path = folder.path().join("config.json").display().to_string();
    let known = "it can be \"quick_gelu\" or \"gelu\"";
    assert_says(
        &owl_error(folder.path()),
        &[&path, "hidden_act = \"swish\" is not supported", known],
    );
}

#[test]
fn heads_that_do_not_divide_are_told() {
    let folder = copy_of(&fixture("clip-small"));
    let cases = [
        ("text_config", 7, "text", 48),
        ("vision_config", 0, "vision", 64),
    ];
    for (section, heads, tower, width) in cases {
        let original = std::fs::read(fixture("clip-small").join("config.json")).unwrap();
        std::fs::write(folder.path().join("config.json"), original).unwrap();
        set(&folder, "config.json", |config| {
            config[section]["num_attention_heads"] = heads.into();
        });
        let stated = format!("{heads} attention heads do not divide the {tower} tower's {width}");
        let hint = "is it the file that came with the checkpoint?";
        assert_says(&clip_error(folder.path()), &["config.json", &stated, hint]);
    }
    let folder = copy_of(&fixture("openclip-small"));
    set(&folder, "open_clip_config.json", |config| {
        config["model_cfg"]["vision_cfg"]["head_width"] = 60.into();
        config["model_cfg"]["text_cfg"]["heads"] = 5.into();
    });
    let stated = "5 attention heads do not divide the text tower's 48";
    assert_says(
        &clip_error(folder.path()),
        &["open_clip_config.json", stated],
    );
}

#[test]
fn a_configuration_that_is_no_json_is_told() {
    let folder = copy_of(&fixture("owlv2-small"));
    std::fs::write(folder.path().join("config.json"), "{\"text_config\": ").unwrap();
    assert_says(&owl_error(folder.path()), &["config.json", "not JSON"]);
}

/// Damaged weights give an error, not detections; and no label.
#[test]
fn weights_that_are_no_numbers_are_told_when_they_are_used() {
    // f16's quiet NaN, little-endian.
    let spoil = |tensor: &mut Owned| {
        assert_eq!(tensor.0, Dtype::F16);
        tensor.2[..2].copy_from_slice(&[0x00, 0x7e]);
    };
    let photo = &photos()[0];
    let vocabulary = || Vocabulary::new(plain_labels(&["a cat", "a dog"]), &[], &[]).unwrap();
    for key in [
        "class_head.logit_shift.weight",
        "box_head.dense2.bias",
        "owlv2.vision_model.encoder.layers.0.mlp.fc1.weight",
        "owlv2.text_projection.weight",
    ] {
        let folder = changed("owlv2-small", |name, tensor| {
            if name == key {
                spoil(tensor);
            }
            true
        });
        let owl = load_owl(folder.path());
        let image = owl.embed(&owl.input(photo));
        let (embeddings, _) = vocabulary().embed(owl.text_encoder());
        let queries = owl.queries(&embeddings);
        let options = DetectionOptions::default();
        let found = detect(
            &owl,
            &image,
            photo.size(),
            &queries,
            &vocabulary(),
            &options,
        );
        assert_eq!(found, Err(NotFinite), "{key}");
    }
    assert!(NotFinite.to_string().contains("is its checkpoint damaged?"));

    let folder = changed("clip-small", |name, tensor| {
        if name == "visual_projection.weight" {
            spoil(tensor);
        }
        true
    });
    let clip = support::load_clip(folder.path());
    let side = clip.architecture().image.image_size;
    let crop = maskmill_grounding::ClipInput::new(photo, side);
    let options = LabellerOptions::default();
    let (labeller, _) = maskmill_grounding::Labeller::new(clip, vocabulary(), options);
    let labels = labeller.label(&[&crop]);
    assert_eq!((labels[0].label.as_str(), labels[0].score), ("other", None));
}
