//! Fixtures that `tests/reference/grounding/generate.py` made with transformers, OpenCLIP and PyTorch, and the
//! photos and checkpoints they were made from.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod clip;
pub(crate) mod owl;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_grounding::{Clip, Label, Owl};
use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Relative to the largest value of a tensor: the reference's README gives the reason.
pub(crate) const TOLERANCE: f32 = 1e-4;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn fixtures() -> PathBuf {
    root().join("tests/reference/fixtures/grounding")
}

/// A file or folder of the fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    fixtures().join(name)
}

pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A photo of `samples/`, decoded as the reference decoded it.
pub(crate) fn photo(name: &str) -> RgbImage {
    let path = root().join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    decode(&bytes, &DecodeLimits::default()).unwrap().image
}

/// The three photos of the fixtures, landscape and portrait.
pub(crate) fn photos() -> [RgbImage; 3] {
    ["cat", "coffee", "dogs"].map(|name| photo(&format!("samples/{name}.png")))
}

pub(crate) fn device() -> Device {
    Device::flex()
}

pub(crate) fn load_clip(folder: &Path) -> Clip {
    Clip::load(folder, None, &device()).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

pub(crate) fn load_owl(folder: &Path) -> Owl {
    Owl::load(folder, None, &device()).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

pub(crate) fn plain_labels(names: &[&str]) -> Vec<Label> {
    names.iter().map(|name| Label::plain(*name)).collect()
}

/// A copy of a model's folder that a test may change.
pub(crate) fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// A photo that fixtures were computed from.
#[derive(Deserialize)]
pub(crate) struct Photo {
    image: String,
    height: u32,
    width: u32,
}

impl Photo {
    /// Decodes it; its sides differ, so that a swap of them is seen.
    pub(crate) fn read(&self) -> RgbImage {
        let image = photo(&self.image);
        assert_eq!(image.size(), ImageSize::new(self.height, self.width));
        assert_ne!(self.height, self.width);
        image
    }
}

/// Named tensors of a safetensors file.
pub(crate) struct Tensors(Vec<u8>);

impl Tensors {
    pub(crate) fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// Shape and bytes.
    fn read(&self, name: &str, dtype: Dtype) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name);
        let tensor = tensor.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    pub(crate) fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, bytes) = self.read(name, Dtype::F32);
        let (chunks, _) = bytes.as_chunks::<4>();
        (
            shape,
            chunks.iter().map(|c| f32::from_le_bytes(*c)).collect(),
        )
    }

    pub(crate) fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        self.read(name, Dtype::U8)
    }

    /// Rows of ids.
    pub(crate) fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let (shape, bytes) = self.read(name, Dtype::I64);
        let (chunks, _) = bytes.as_chunks::<8>();
        let ids: Vec<u32> = chunks
            .iter()
            .map(|chunk| u32::try_from(i64::from_le_bytes(*chunk)).unwrap())
            .collect();
        ids.chunks_exact(shape[1]).map(<[u32]>::to_vec).collect()
    }
}

/// Largest difference over the largest magnitude of the expected values.
pub(crate) fn max_norm_error(got: &[f32], expected: &[f32], what: &str) -> f32 {
    let scale = expected.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    assert!(scale > 0.0, "{what}: all zero");
    max_error(got, expected, what) / scale
}

/// Largest difference.
pub(crate) fn max_error(got: &[f32], expected: &[f32], what: &str) -> f32 {
    assert_eq!(got.len(), expected.len(), "{what}");
    assert!(got.iter().all(|v| v.is_finite()), "{what}: not finite");
    let differences = got.iter().zip(expected).map(|(g, e)| (g - e).abs());
    differences.fold(0.0, f32::max)
}

/// Worst errors by what was compared; fails with all that are beyond their tolerance.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<String, (f32, f32)>);

impl Report {
    pub(crate) fn note(&mut self, what: impl Into<String>, error: f32, tolerance: f32) {
        let worst = self.0.entry(what.into()).or_insert((0.0, tolerance));
        worst.0 = worst.0.max(error);
    }

    /// Compares with a tensor of the reference, relative to its largest magnitude.
    pub(crate) fn compare(&mut self, what: &str, got: &[f32], tensors: &Tensors, name: &str) {
        let (_, expected) = tensors.floats(name);
        self.note(what, max_norm_error(got, &expected, name), TOLERANCE);
    }

    /// Says what was compared, and fails if anything differs or if fewer things were compared than are due.
    pub(crate) fn finish(self, model: &str, at_least: usize) {
        for (what, (error, _)) in &self.0 {
            println!("{model}: {what}: worst {error:.1e}");
        }
        let mut all = self.0.iter();
        let bad: Vec<_> = all
            .by_ref()
            .filter(|(_, (e, tolerance))| e > tolerance)
            .collect();
        assert!(bad.is_empty(), "{model}: beyond the tolerance: {bad:#?}");
        assert!(self.0.len() >= at_least, "only {} compared", self.0.len());
    }
}

/// `[height, width, 3]` -> `[3, height, width]`
pub(crate) fn channels_first<T: Copy>(values: &[T]) -> Vec<T> {
    let (pixels, _) = values.as_chunks::<3>();
    (0..3)
        .flat_map(|c| pixels.iter().map(move |pixel| pixel[c]))
        .collect()
}

/// The bytes that normalised values were before: the reference keeps them so where its resize works in bytes.
/// `values` is `[side, side, 3]`; fails where a value is no byte's.
pub(crate) fn before_normalising(values: &[f32]) -> Vec<u8> {
    const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
    let bytes = values.iter().enumerate().map(|(i, value)| {
        let byte = (value * STD[i % 3] + MEAN[i % 3]) * 255.0;
        assert!((byte - byte.round()).abs() < 1e-3, "{byte} is no byte");
        byte.round() as u8
    });
    bytes.collect()
}

/// Prepared pixels of enlarged photos at a published size: `inputs_<family>.json`.
#[derive(Deserialize)]
pub(crate) struct Inputs {
    tensors: String,
    pub(crate) image_size: usize,
    stride: usize,
    cases: Vec<InputCase>,
}

#[derive(Deserialize)]
struct InputCase {
    #[serde(flatten)]
    photo: Photo,
    repeated: u32,
    tensors: String,
}

/// One of them, and the prefix of its tensors.
pub(crate) struct LargeInput {
    pub(crate) image: RgbImage,
    pub(crate) name: String,
}

impl Inputs {
    pub(crate) fn open(family: &str) -> (Self, Tensors) {
        let inputs: Self = json(&fixture(&format!("inputs_{family}.json")));
        let tensors = Tensors::open(&fixture(&inputs.tensors));
        assert!(inputs.cases.len() >= 3);
        (inputs, tensors)
    }

    pub(crate) fn cases(&self) -> impl Iterator<Item = LargeInput> {
        self.cases.iter().map(|case| LargeInput {
            image: repeated(&case.photo.read(), case.repeated),
            name: case.tensors.clone(),
        })
    }

    /// Every `stride`-th row and column of `[side, side, 3]`, channels first.
    pub(crate) fn kept<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let row = self.image_size * 3;
        let rows = values.chunks_exact(row).step_by(self.stride);
        let pixels = rows.flat_map(|row| row.chunks_exact(3).step_by(self.stride));
        channels_first(&pixels.flatten().copied().collect::<Vec<T>>())
    }
}

/// Each pixel repeated along both sides.
fn repeated(image: &RgbImage, times: u32) -> RgbImage {
    let size = image.size();
    let mut data = Vec::new();
    for y in 0..size.height {
        let row = image.row(y).chunks_exact(3);
        let row: Vec<u8> = row.flat_map(|pixel| pixel.repeat(times as usize)).collect();
        data.extend(row.repeat(times as usize));
    }
    let size = ImageSize::new(size.height * times, size.width * times);
    RgbImage::new(size, data).unwrap()
}
