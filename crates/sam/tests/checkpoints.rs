//! Checkpoint files in every form that people have them in, and in forms that cannot be used.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use maskmill_sam::{MaskOutput, PointPrompt, Precision, Predictor, Prompt, Sam};
use maskmill_weights::{Checkpoint, CheckpointError, KeyProblem};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use support::{max_norm_error, photo, root};

/// A tensor to be written: type, shape, bytes.
type Owned = (Dtype, Vec<usize>, Vec<u8>);

fn shipped() -> PathBuf {
    root().join("models/sam-seeded-tiny.safetensors")
}

/// The shipped checkpoint's tensors, changed and written anew.
fn changed(folder: &TempDir, change: impl Fn(&str, &mut Owned) -> Option<String>) -> PathBuf {
    let bytes = std::fs::read(shipped()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut changed: HashMap<String, Owned> = HashMap::new();
    for (name, view) in tensors.iter() {
        let mut tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        if let Some(name) = change(name, &mut tensor) {
            changed.insert(name, tensor);
        }
    }
    let views = changed.iter().map(|(name, (dtype, shape, data))| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    let path = folder.path().join("changed.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk))
}

/// Logits of one prompt.
fn logits(checkpoint: &Path) -> Vec<f32> {
    let sam = support::load(checkpoint);
    let mut predictor = Predictor::new(&sam);
    predictor.set_image(&photo(&root().join("samples/cat.png")));
    let point = PointPrompt {
        xy_px: [200.0, 150.0],
        foreground: true,
    };
    let prompt = Prompt {
        points: vec![point],
        ..Prompt::default()
    };
    let masks = predictor.predict(&[prompt], MaskOutput::Multi).unwrap();
    let masks = masks.into_iter().flatten();
    masks.flat_map(|mask| mask.low_res_logits).collect()
}

fn refused(checkpoint: &Path) -> CheckpointError {
    match Sam::load(checkpoint, &support::device(), Precision::F32) {
        Ok(_) => panic!("{} was loaded", checkpoint.display()),
        Err(error) => error,
    }
}

/// Half precision in the file costs precision; a wrong conversion would cost everything.
#[test]
fn half_and_double_precision_load() {
    let expected = logits(&shipped());
    type ToBytes = fn(f32) -> Vec<u8>;
    let cases: [(Dtype, ToBytes, f32); 3] = [
        (
            Dtype::F16,
            |v| half::f16::from_f32(v).to_le_bytes().to_vec(),
            0.05,
        ),
        (
            Dtype::BF16,
            |v| half::bf16::from_f32(v).to_le_bytes().to_vec(),
            0.3,
        ),
        (Dtype::F64, |v| f64::from(v).to_le_bytes().to_vec(), 1e-6),
    ];
    for (dtype, convert, tolerance) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = changed(&folder, |name, tensor| {
            let bytes = floats(&tensor.2).flat_map(convert).collect();
            *tensor = (dtype, tensor.1.clone(), bytes);
            Some(name.to_owned())
        });
        let error = max_norm_error(&logits(&path), &expected, "logits");
        assert!(error <= tolerance, "{dtype:?}: {error}");
    }
}

/// As training code saves them.
#[test]
fn a_wrapper_around_the_keys_is_taken_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = changed(&folder, |name, _| Some(format!("module.sam.{name}")));
    assert_eq!(logits(&path), logits(&shipped()));
}

#[test]
fn what_it_says_of_itself_is_read() {
    let about = Checkpoint::open(&shipped()).unwrap();
    assert!(about.about().unwrap().contains("UNTRAINED"));
}

#[test]
fn integer_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let key = "mask_decoder.iou_token.weight";
    let path = changed(&folder, |name, tensor| {
        if name == key {
            tensor.0 = Dtype::I32;
        }
        Some(name.to_owned())
    });
    let CheckpointError::Mismatch { problems, .. } = refused(&path) else {
        panic!("another error");
    };
    let expected = KeyProblem::Type {
        key: key.to_owned(),
        found: "I32".to_owned(),
    };
    assert_eq!(problems, [expected]);
}

/// Shapes that would divide by zero.
#[test]
fn empty_tensors_are_no_architecture() {
    for key in [
        "image_encoder.blocks.0.attn.rel_pos_h",
        "image_encoder.pos_embed",
        "mask_decoder.mask_tokens.weight",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = changed(&folder, |name, tensor| {
            if name == key {
                tensor.1[0] = 0;
                tensor.2.clear();
            }
            Some(name.to_owned())
        });
        let error = refused(&path);
        assert!(
            matches!(&error, CheckpointError::OtherModel { detail, .. } if detail.contains(key)),
            "{error}"
        );
    }
}

/// Any cut of the file is told, wherever it falls.
#[test]
fn a_cut_file_is_corrupt() {
    let bytes = std::fs::read(shipped()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    for length in [0, 1, 8, 9, 1000, 23_255, 23_256, 100_000, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = refused(&path);
        assert!(
            matches!(error, CheckpointError::Corrupt { .. }),
            "{length} bytes: {error}"
        );
    }
}
