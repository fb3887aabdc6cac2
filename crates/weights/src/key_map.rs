//! Modules back to a checkpoint: which parameter stands under which key, and how the file lays it out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::module::{Module, ParamId};
use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::parameters::parameter_values;
use crate::weights::transposed;

/// One tensor of a checkpoint and what it became.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Its key in the file.
    pub key: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
    /// The parameter that was made of it, or none: a constant that is not trained.
    pub parameter: Option<ParamId>,
    /// Whether the parameter is the file's matrix transposed, `[in, out]` where the file has `[out, in]`.
    pub transposed: bool,
    /// Which part of the parameter it is, where that was made of several tensors of the file.
    pub part: Option<Part>,
}

/// One of several equal parts of a parameter, side by side along its last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

impl Placement {
    /// The tensor's values in the file's order, of its parameter's, row-major as the module has them: all of the
    /// parameter's, also where the tensor is a part of it.
    pub fn in_file_order(&self, values: Vec<f32>) -> Vec<f32> {
        let values = match self.part {
            None => values,
            Some(Part { number, of }) => {
                let width = self.shape[0];
                let rows = values.chunks_exact(of * width);
                let part = rows.flat_map(|row| &row[number * width..][..width]);
                part.copied().collect()
            }
        };
        match (self.transposed, self.shape.as_slice()) {
            (true, &[rows, columns]) => transposed(&values, columns, rows),
            _ => values,
        }
    }
}

/// The tensors of a checkpoint in the order in which a model took them.
#[derive(Clone, Debug, Default)]
pub struct KeyMap {
    placements: Vec<Placement>,
}

/// The number type of a saved checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredAs {
    /// 32-bit floats: exactly what the model holds.
    #[default]
    F32,
    /// 16-bit floats (IEEE half precision), each rounded to nearest: half the size.
    F16,
}

/// Why a checkpoint could not be saved. What stood at the path before still does.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file system refused.
    #[error(
        "checkpoint {path}: cannot be written: {source}; the file that was there before is unchanged"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A value is not a number that the format holds.
    #[error(
        "checkpoint {path}: {key} has the value {value}, which {format} cannot hold: nothing was written"
    )]
    Value {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Its first such value.
        value: f32,
        /// The number type.
        format: &'static str,
    },
}

impl KeyMap {
    /// In the order in which the model took them.
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    pub(crate) fn constant(&mut self, key: &str, shape: &[usize]) {
        self.placements.push(Placement {
            key: key.to_owned(),
            shape: shape.to_vec(),
            parameter: None,
            transposed: false,
            part: None,
        });
    }

    /// Says which parameter the constant of `key` became.
    pub(crate) fn parameter(&mut self, key: &str, id: ParamId, transposed: bool) {
        let placement = self.taken(key);
        placement.parameter = Some(id);
        placement.transposed = transposed;
    }

    /// Says which part of which parameter the constant of `key` became. A matrix is transposed.
    pub(crate) fn part(&mut self, key: &str, id: ParamId, part: Part) {
        let placement = self.taken(key);
        placement.parameter = Some(id);
        placement.transposed = placement.shape.len() == 2;
        placement.part = Some(part);
    }

    fn taken(&mut self, key: &str) -> &mut Placement {
        let found = self.placements.iter_mut().rev().find(|p| p.key == key);
        found.expect("a parameter is made of values that were taken")
    }

    /// Writes a `.safetensors` file of the keys and shapes that the model was loaded from. The file appears whole, under
    /// its name, or not at all: a crash or a full disk leaves the previous one.
    ///
    /// `values` gives each tensor's values in the file's order (see [`Placement::in_file_order`]); `metadata` is kept in
    /// the file's header, as a JSON object under the key `maskmill`. Beside it is `format`, without which releases of
    /// `transformers` before the fifth refuse a file.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn save(
        &self,
        path: &Path,
        stored_as: StoredAs,
        metadata: BTreeMap<String, String>,
        mut values: impl FnMut(&Placement) -> Vec<f32>,
    ) -> Result<(), SaveError> {
        let mut bytes = Vec::with_capacity(self.placements.len());
        for placement in &self.placements {
            let values = values(placement);
            bytes.push(
                encoded(&values, stored_as).map_err(|value| SaveError::Value {
                    path: path.to_owned(),
                    key: placement.key.clone(),
                    value,
                    format: match stored_as {
                        StoredAs::F32 => "a checkpoint",
                        StoredAs::F16 => "16-bit floats",
                    },
                })?,
            );
        }
        let dtype = match stored_as {
            StoredAs::F32 => Dtype::F32,
            StoredAs::F16 => Dtype::F16,
        };
        let tensors = self.placements.iter().zip(&bytes).map(|(p, bytes)| {
            let view = TensorView::new(dtype, p.shape.clone(), bytes);
            (p.key.as_str(), view.expect("a value for each element"))
        });
        let file = serialize(tensors, None).expect("views of consistent sizes");
        let metadata = serde_json::to_string(&metadata).expect("plain text");
        let entries = BTreeMap::from([("format", "pt"), ("maskmill", metadata.as_str())]);
        write_whole(path, &with_metadata(&file, &entries)).map_err(|source| SaveError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

/// A `.safetensors` file with entries in its header, in their order: that of the library, which keeps them in a hash map, changes
/// from run to run, and the same weights would not always be the same bytes.
fn with_metadata(file: &[u8], entries: &BTreeMap<&str, &str>) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk::<8>().expect("it has a header");
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = std::str::from_utf8(header).expect("JSON").trim_end();
    let mut of_tensors = header.strip_prefix('{').expect("an object").to_owned();
    if of_tensors != "}" {
        of_tensors.insert(0, ',');
    }
    let entries = serde_json::to_string(entries).expect("plain text");
    let header = format!("{{\"__metadata__\":{entries}{of_tensors}");
    // Tensors begin at a multiple of eight bytes.
    let length = header.len().next_multiple_of(8);
    let mut file = (length as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(8 + length, b' ');
    file.extend(tensors);
    file
}

impl KeyMap {
    /// The parameters of the module that was made with these keys, read from the device at once: each tensor's values in the file's
    /// order, by its key. What is in the file and no parameter is left out.
    pub fn values_by_key(&self, module: &impl Module) -> BTreeMap<String, Vec<f32>> {
        let values = parameter_values(module);
        let placements = self.placements.iter();
        let of_key = placements.filter_map(|placement| {
            let values = values[&placement.parameter?].clone();
            Some((placement.key.clone(), placement.in_file_order(values)))
        });
        of_key.collect()
    }

    /// [`KeyMap::save`] with the parameters of the module that was made with these keys, read from the device at once;
    /// `constant` gives what is in the file and no parameter.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn save_module(
        &self,
        path: &Path,
        stored_as: StoredAs,
        metadata: BTreeMap<String, String>,
        module: &impl Module,
        constant: impl Fn(&Placement) -> Vec<f32>,
    ) -> Result<(), SaveError> {
        let values = parameter_values(module);
        self.save(path, stored_as, metadata, |placement| {
            match placement.parameter {
                // Cloned: several tensors of a file may be one parameter.
                Some(id) => placement.in_file_order(values[&id].clone()),
                None => constant(placement),
            }
        })
    }
}

/// Little-endian bytes, or the first value that is no finite number of the type.
fn encoded(values: &[f32], stored_as: StoredAs) -> Result<Vec<u8>, f32> {
    let held = |value: f32| match stored_as {
        StoredAs::F32 => value.is_finite(),
        StoredAs::F16 => f16::from_f32(value).is_finite(),
    };
    if let Some(value) = values.iter().copied().find(|&value| !held(value)) {
        return Err(value);
    }
    Ok(match stored_as {
        StoredAs::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        StoredAs::F16 => values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
    })
}

/// Writes a file whole or not at all: beside `path`, brought to the disk, then renamed. What was there before stands until
/// then.
///
/// # Errors
/// The operating system's; nothing of the attempt is left.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    });
    if written.is_err() {
        // Best effort: the error that matters is the one above.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::nn::{LayerNorm, Linear};
    use burn::tensor::Device;

    use super::*;
    use crate::{Checkpoint, Weights};

    #[derive(Module, Debug)]
    struct Model {
        linear: Linear,
        norm: LayerNorm,
    }

    fn load(w: &mut Weights<'_>) -> Model {
        let _constant = w.values("constant", [2]);
        Model {
            linear: w.linear("linear", 3, 2),
            norm: w.layer_norm("norm", 2, 1e-6),
        }
    }

    fn fresh() -> (Model, KeyMap) {
        let mut next = 0.0;
        let mut initial = |_: &str, shape: &[usize]| {
            let count = shape.iter().product();
            std::iter::repeat_with(|| {
                next += 0.125;
                next
            })
            .take(count)
            .collect()
        };
        let device = Device::flex();
        let mut w = Weights::fresh(&device, &mut initial);
        let model = load(&mut w);
        let keys = w.finish(&"a test").unwrap();
        (model, keys)
    }

    fn value_of(model: &Model, placement: &Placement) -> Vec<f32> {
        let host = |id| {
            if id == model.linear.weight.id {
                return crate::to_host(model.linear.weight.val());
            }
            let bias = model.linear.bias.as_ref().unwrap();
            let beta = model.norm.beta.as_ref().unwrap();
            [bias, &model.norm.gamma, beta]
                .into_iter()
                .find(|p| p.id == id)
                .map(|p| crate::to_host(p.val()))
                .unwrap()
        };
        match placement.parameter {
            Some(id) => placement.in_file_order(host(id)),
            None => vec![0.125, 0.25],
        }
    }

    #[test]
    fn a_saved_model_loads_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (model, keys) = fresh();
        for stored_as in [StoredAs::F32, StoredAs::F16] {
            let path = folder.path().join("model.safetensors");
            let metadata = BTreeMap::from([("step".to_owned(), "7".to_owned())]);
            keys.save(&path, stored_as, metadata, |p| value_of(&model, p))
                .unwrap();
            let checkpoint = Checkpoint::open(&path).unwrap();
            assert_eq!(checkpoint.shape("linear.weight"), Some(&[2, 3][..]));
            assert_eq!(checkpoint.metadata("format"), Some("pt"));
            assert_eq!(checkpoint.metadata("maskmill"), Some("{\"step\":\"7\"}"));
            let length = std::fs::read(&path).unwrap()[..8].try_into().unwrap();
            assert!(u64::from_le_bytes(length).is_multiple_of(8));
            let device = Device::flex();
            let mut w = Weights::new(&checkpoint, &device);
            let loaded = load(&mut w);
            w.finish(&"a test").unwrap();
            // Eighths are exact in both types.
            let host = |m: &Model| crate::to_host(m.linear.weight.val());
            assert_eq!(host(&loaded), host(&model));
            let beta = |m: &Model| crate::to_host(m.norm.beta.as_ref().unwrap().val());
            assert_eq!(beta(&loaded), beta(&model));
        }
    }

    /// Three layers of the file that are one in the module.
    #[test]
    fn a_parameter_of_several_tensors_is_saved_as_those() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut next = 0.0;
        let mut initial = |_: &str, shape: &[usize]| {
            let count = shape.iter().product();
            std::iter::repeat_with(|| {
                next += 1.0;
                next
            })
            .take(count)
            .collect()
        };
        let device = Device::flex();
        let names = ["q", "k", "v"].map(str::to_owned);
        let mut w = Weights::fresh(&device, &mut initial);
        let fused = w.fused_linear(&names, 4, 3);
        let keys = w.finish(&"a test").unwrap();
        assert_eq!(fused.weight.dims(), [4, 9]);
        let values = |id| match id == fused.weight.id {
            true => crate::to_host(fused.weight.val()),
            false => crate::to_host(fused.bias.as_ref().unwrap().val()),
        };
        keys.save(&path, StoredAs::F32, BTreeMap::new(), |p| {
            p.in_file_order(values(p.parameter.unwrap()))
        })
        .unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        // As they were drawn: 12 weights and 3 biases, three times.
        let numbers = |from: u8, to: u8| (from..=to).map(f32::from).collect::<Vec<f32>>();
        let read = |key| checkpoint.read(key).unwrap().unwrap().unwrap();
        assert_eq!(read("q.weight"), numbers(1, 12));
        assert_eq!(read("k.weight"), numbers(16, 27));
        assert_eq!(read("v.bias"), numbers(43, 45));
        let mut w = Weights::new(&checkpoint, &device);
        let loaded = w.fused_linear(&names, 4, 3);
        w.finish(&"a test").unwrap();
        let host = |linear: &Linear| crate::to_host(linear.weight.val());
        assert_eq!(host(&loaded), host(&fused));
    }

    #[test]
    fn what_cannot_be_held_is_refused_and_the_old_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, b"before").unwrap();
        let (model, keys) = fresh();
        for (value, stored_as) in [
            (f32::NAN, StoredAs::F32),
            (f32::INFINITY, StoredAs::F16),
            (1e5, StoredAs::F16),
        ] {
            let saved = keys.save(&path, stored_as, BTreeMap::new(), |p| {
                let mut values = value_of(&model, p);
                if p.key == "norm.bias" {
                    values[1] = value;
                }
                values
            });
            let error = saved.unwrap_err().to_string();
            assert!(error.contains("norm.bias"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), b"before");
        }
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/model.safetensors");
        let (model, keys) = fresh();
        let saved = keys.save(&path, StoredAs::F32, BTreeMap::new(), |p| {
            value_of(&model, p)
        });
        let error = saved.unwrap_err().to_string();
        assert!(error.contains("missing/model.safetensors"), "{error}");
    }
}
