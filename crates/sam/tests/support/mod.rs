//! Fixtures that `tests/reference/generate.py` made with segment-anything and PyTorch, and the photos and
//! checkpoints they were made from.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};

use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_pixels::RgbImage;
use maskmill_sam::{Level, Precision, Sam};
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    root().join("tests/reference/fixtures").join(name)
}

pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A photo, decoded as the reference decoded it (`samples/` are PNG or JPEG).
pub(crate) fn photo(path: &Path) -> RgbImage {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    decode(&bytes, &DecodeLimits::default()).unwrap().image
}

pub(crate) fn load(checkpoint: &Path) -> Sam {
    Sam::load(checkpoint, &device(), Precision::F32).unwrap()
}

/// How the model is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Implementation {
    /// By Burn's operations.
    Burn,
    /// On the CPU, by kernels of a level.
    Kernels(Level),
}

/// All that the device under test has.
pub(crate) fn implementations() -> Vec<Implementation> {
    let levels = Level::supported().map(Implementation::Kernels);
    let kernels = levels.filter(|_| device() == burn::tensor::Device::flex());
    kernels.chain([Implementation::Burn]).collect()
}

pub(crate) fn load_as(checkpoint: &Path, by: Implementation, precision: Precision) -> Sam {
    match by {
        Implementation::Burn => Sam::load_burn(checkpoint, &device(), precision),
        Implementation::Kernels(level) => Sam::load_kernels(checkpoint, level, precision),
    }
    .unwrap()
}

/// The device under test: the CPU, or the one that `MASKMILL_TEST_DEVICE` names.
pub(crate) fn device() -> burn::tensor::Device {
    let name = std::env::var("MASKMILL_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    name.parse::<maskmill_sam::DeviceName>()
        .and_then(maskmill_sam::DeviceName::open)
        .unwrap()
}

/// Named f32 tensors of a safetensors file.
pub(crate) struct Tensors(Vec<u8>);

impl Tensors {
    pub(crate) fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.names().into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.tensor(name).unwrap().data().to_vec()
    }

    /// Shape and values.
    pub(crate) fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors
            .tensor(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
        let (chunks, _) = tensor.data().as_chunks::<4>();
        let values = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk));
        (tensor.shape().to_vec(), values.collect())
    }
}

/// Largest difference over the largest magnitude of the expected values.
pub(crate) fn max_norm_error(got: &[f32], expected: &[f32], what: &str) -> f32 {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    let error = got
        .iter()
        .zip(expected)
        .fold(0.0_f32, |max, (g, e)| max.max((g - e).abs()));
    assert!(
        got.iter().all(|v| v.is_finite()) && scale > 0.0,
        "{what}: not finite or all zero"
    );
    error / scale
}

/// `[height, width, channels]` -> `[channels, height, width]`
pub(crate) fn channels_first(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    (0..channels)
        .flat_map(|c| (0..pixels).map(move |p| values[p * channels + c]))
        .collect()
}
