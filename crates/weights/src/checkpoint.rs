//! Checkpoint files: named tensors with shapes, read one at a time.
//!
//! Both official formats are opened lazily: `.safetensors` by its header, `.pth`/`.pt`/`.bin` by its
//! pickle (interpreted as data only, no code runs). Nothing but the header is in memory until a
//! tensor is taken, so loading peaks at one copy of the weights plus the largest tensor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use half::{bf16, f16};
use pytorch_reader::PytorchReader;
use safetensors::tensor::Metadata;

use crate::kind::ModelKind;

/// Why a checkpoint could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file is missing or cannot be read.
    #[error("checkpoint {path}: cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is cut short or is no checkpoint at all.
    #[error(
        "checkpoint {path}: not a readable .safetensors or .pth file ({detail}); it may be truncated: compare its size and sha256 with the source, and fetch it again"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        detail: String,
    },
    /// The tensors are those of another model.
    #[error("checkpoint {path}: not {wanted} checkpoint: {detail}")]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The model that was asked for, with its article: `a Segment Anything`.
        wanted: &'static str,
        /// What is missing, and what the file holds instead.
        detail: String,
    },
    /// It is the right model, but single tensors are missing, superfluous or of the wrong shape.
    #[error("checkpoint {path}: {} tensor(s) do not fit the architecture ({architecture}):\n{}", problems.len(), list(problems))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The architecture read from the tensors' shapes, in words.
        architecture: String,
        /// Every missing, unexpected and mis-shaped key.
        problems: Vec<KeyProblem>,
    },
    /// It is the right model, but cannot take images of a size that was asked for.
    #[error(
        "checkpoint {path}: cannot take images of {image_size} pixels: its patches are {patch_size} pixels wide; use a multiple"
    )]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// The side asked for, in pixels.
        image_size: usize,
        /// The side of a patch, in pixels.
        patch_size: usize,
    },
}

/// One tensor that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyProblem {
    /// The architecture needs it, the file lacks it.
    Missing {
        /// Its key.
        key: String,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// The file has it, the architecture has no place for it.
    Unexpected {
        /// Its key.
        key: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// Its shape is another than the architecture needs.
    Shape {
        /// Its key.
        key: String,
        /// The shape needed.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// Its element type is not a float.
    Type {
        /// Its key.
        key: String,
        /// The element type found.
        found: String,
    },
}

impl std::fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing { key, expected } => write!(f, "missing    {key} {expected:?}"),
            Self::Unexpected { key, found } => write!(f, "unexpected {key} {found:?}"),
            Self::Shape {
                key,
                expected,
                found,
            } => write!(f, "mis-shaped {key}: {found:?}, expected {expected:?}"),
            Self::Type { key, found } => {
                write!(
                    f,
                    "wrong type {key}: {found}, expected f32, f16, bf16 or f64"
                )
            }
        }
    }
}

fn list(problems: &[KeyProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(|p| format!("  {p}")).collect();
    lines.join("\n")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FloatType {
    F16,
    Bf16,
    F32,
    F64,
}

impl FloatType {
    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Little-endian bytes to f32, f64 rounded to nearest.
    fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            let (chunks, _) = bytes.as_chunks::<N>();
            chunks.iter().map(|chunk| convert(*chunk)).collect()
        }
        match self {
            Self::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

enum Location {
    /// Byte range in the safetensors file.
    Range { start: u64, length: usize },
    /// A tensor of the pickle archive. It reads native-endian bytes.
    Pickle(pytorch_reader::Tensor),
}

struct Entry {
    shape: Vec<usize>,
    dtype: Result<FloatType, String>,
    location: Location,
}

/// A checkpoint file, opened: keys and shapes are known, tensors are read on demand.
pub struct Checkpoint {
    path: PathBuf,
    file: Mutex<File>,
    metadata: BTreeMap<String, String>,
    entries: Entries,
}

impl Checkpoint {
    /// Opens a `.safetensors` or `.pth` file; the format is told by content, not by name.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] or [`CheckpointError::Corrupt`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut start = Vec::new();
        file.by_ref().take(9).read_to_end(&mut start).map_err(io)?;
        // A safetensors file is an 8-byte header length followed by a JSON object.
        let opened = if start.get(8) == Some(&b'{') {
            file.rewind().map_err(io)?;
            safetensors_entries(&mut file, length)
        } else {
            pickle_entries(path).map(|entries| (entries, BTreeMap::new()))
        };
        let (entries, metadata) = opened.map_err(|detail| CheckpointError::Corrupt {
            path: path.to_owned(),
            detail,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            metadata,
            entries: strip_wrapper(entries),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the checkpoint says of itself: the entry `about` of a safetensors file's metadata.
    /// `models/sam-seeded-tiny.safetensors` says there that it is untrained.
    pub fn about(&self) -> Option<&str> {
        self.metadata("about")
    }

    /// An entry of a safetensors file's metadata.
    pub fn metadata(&self, entry: &str) -> Option<&str> {
        self.metadata.get(entry).map(String::as_str)
    }

    /// Every key with its shape, sorted by key.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry.shape.as_slice()))
    }

    /// The shape of one tensor.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.entries.get(key).map(|entry| entry.shape.as_slice())
    }

    /// The element type of one tensor, as the file calls it.
    pub fn element_type(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|entry| match &entry.dtype {
            Ok(dtype) => dtype.name(),
            Err(name) => name,
        })
    }

    /// The error of a file that holds another model than the `wanted` one: says what it is and where it
    /// belongs, or else what it begins with. `lacks` names what is missing.
    pub fn other_model(&self, wanted: &'static str, lacks: &str) -> CheckpointError {
        let kind = ModelKind::of(self);
        let detail = match kind.belongs_in() {
            Some(setting) => format!("it is {kind}, which belongs in {setting}; it lacks {lacks}"),
            None => {
                let total = self.entries.len();
                let sample: Vec<&str> = self.entries.keys().take(5).map(String::as_str).collect();
                format!(
                    "it lacks {lacks}; its {total} tensors begin with {}",
                    sample.join(", ")
                )
            }
        };
        CheckpointError::OtherModel {
            path: self.path.clone(),
            wanted,
            detail,
        }
    }

    /// Reads one tensor as f32, row-major. `None` where the file has no such key.
    ///
    /// # Errors
    /// The element type's name where it is not a float (inner `Err`), [`CheckpointError::Corrupt`]
    /// where the data cannot be read.
    pub fn read(&self, key: &str) -> Result<Option<Result<Vec<f32>, String>>, CheckpointError> {
        let Some(entry) = self.entries.get(key) else {
            return Ok(None);
        };
        let dtype = match &entry.dtype {
            Ok(dtype) => *dtype,
            Err(name) => return Ok(Some(Err(name.clone()))),
        };
        let bytes = match &entry.location {
            Location::Range { start, length } => {
                let mut bytes = vec![0; *length];
                let mut file = self.file.lock().expect("no reader panics");
                file.seek(SeekFrom::Start(*start))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map(|()| bytes)
            }
            Location::Pickle(tensor) => tensor.read(),
        };
        let bytes = bytes.map_err(|error| CheckpointError::Corrupt {
            path: self.path.clone(),
            detail: format!("{key}: {error}"),
        })?;
        Ok(Some(Ok(dtype.to_f32(&bytes))))
    }
}

type Entries = BTreeMap<String, Entry>;

/// The tensors and the metadata.
fn safetensors_entries(
    file: &mut File,
    file_length: u64,
) -> Result<(Entries, BTreeMap<String, String>), String> {
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|e| e.to_string())?;
    let header_length = u64::from_le_bytes(size);
    if header_length > file_length.saturating_sub(8) {
        return Err(format!(
            "the header claims {header_length} bytes, the file has {file_length}"
        ));
    }
    let mut header = Vec::new();
    file.take(header_length)
        .read_to_end(&mut header)
        .map_err(|e| e.to_string())?;
    // Checks that the tensors' ranges fit their shapes and neither overlap nor leave gaps.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| e.to_string())?;
    let data_start = 8 + header_length;
    let expected = data_start + metadata.data_len() as u64;
    if expected != file_length {
        return Err(format!(
            "the header describes {expected} bytes, the file has {file_length}"
        ));
    }
    let entries = metadata.tensors().into_iter().map(|(key, info)| {
        let dtype = match info.dtype {
            safetensors::Dtype::F16 => Ok(FloatType::F16),
            safetensors::Dtype::BF16 => Ok(FloatType::Bf16),
            safetensors::Dtype::F32 => Ok(FloatType::F32),
            safetensors::Dtype::F64 => Ok(FloatType::F64),
            other => Err(format!("{other:?}")),
        };
        let (start, end) = info.data_offsets;
        let location = Location::Range {
            start: data_start + start as u64,
            length: end - start,
        };
        let shape = info.shape.clone();
        (
            key,
            Entry {
                shape,
                dtype,
                location,
            },
        )
    });
    let entries = entries.collect();
    let metadata = metadata.metadata().clone().unwrap_or_default();
    Ok((entries, metadata.into_iter().collect()))
}

fn pickle_entries(path: &Path) -> Result<Entries, String> {
    let reader = PytorchReader::new(path).map_err(|e| e.to_string())?;
    if reader.is_empty() {
        return Err("it holds no tensors".to_owned());
    }
    let entries = reader.into_tensors().into_iter().map(|(key, tensor)| {
        let dtype = match tensor.dtype() {
            pytorch_reader::DType::F16 => Ok(FloatType::F16),
            pytorch_reader::DType::BF16 => Ok(FloatType::Bf16),
            pytorch_reader::DType::F32 => Ok(FloatType::F32),
            pytorch_reader::DType::F64 => Ok(FloatType::F64),
            other => Err(format!("{other:?}")),
        };
        let shape = tensor.shape().to_vec();
        let location = Location::Pickle(tensor);
        (
            key,
            Entry {
                shape,
                dtype,
                location,
            },
        )
    });
    Ok(entries.collect())
}

/// Training code often wraps the weights: `model.image_encoder...`, `state_dict.sam....`. The
/// official keys are what follows the wrapper, told by the first of these tensors that there is.
fn strip_wrapper(entries: Entries) -> Entries {
    // SAM; OWL-ViT and OWLv2, before CLIP because they hold one; open_clip; transformers' CLIP.
    const ANCHORS: [&str; 4] = [
        "image_encoder.patch_embed.proj.weight",
        "class_head.dense0.weight",
        "visual.conv1.weight",
        "text_model.embeddings.token_embedding.weight",
    ];
    let mut prefixes = ANCHORS
        .iter()
        .filter_map(|anchor| entries.keys().find_map(|key| key.strip_suffix(anchor)));
    let prefix = prefixes.next().unwrap_or("").to_owned();
    if prefix.is_empty() || !prefix.ends_with('.') {
        return entries;
    }
    entries
        .into_iter()
        .map(|(key, entry)| match key.strip_prefix(&prefix) {
            Some(official) => (official.to_owned(), entry),
            None => (key, entry),
        })
        .collect()
}
