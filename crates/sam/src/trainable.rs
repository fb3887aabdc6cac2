//! SAM as it is trained: Burn's operations throughout, every tensor of the checkpoint a parameter with its official key.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use maskmill_pixels::RgbImage;
use maskmill_weights::{
    Checkpoint, CheckpointError, KeyMap, SaveError, StoredAs, Weights, parameter_values,
};
use rayon::prelude::*;

use crate::architecture::Architecture;
use crate::image_encoder::ImageEncoder;
use crate::initial::initial_values;
use crate::mask_decoder::MaskDecoder;
use crate::model::normalise;
use crate::prompt_encoder::{PromptEncoder, PromptPoints};
use crate::resized::resize;

/// The three networks, whose parameters are those that training changes.
#[derive(Module, Debug)]
pub struct TrainableNetworks {
    /// Image to embedding.
    pub image_encoder: ImageEncoder,
    /// Prompts to tokens.
    pub prompt_encoder: PromptEncoder,
    /// Embedding and tokens to masks.
    pub mask_decoder: MaskDecoder,
}

/// A SAM model whose parameters can be trained and saved under their official keys.
pub struct TrainableSam {
    architecture: Architecture,
    /// Replace them to change the parameters; their ids must stay.
    pub networks: TrainableNetworks,
    keys: KeyMap,
    dense_positions: Tensor<4>,
    device: Device,
}

/// What every mask token says of a batch of prompts.
pub struct PromptMasks {
    /// `[prompts, mask tokens]`: the single mask's first, then those of the multi-mask output.
    pub predicted_iou: Tensor<2>,
    /// `[prompts, mask tokens, 4 grid, 4 grid]`
    pub low_res_logits: Tensor<4>,
}

impl TrainableSam {
    /// Loads a checkpoint as [`Sam::load`](crate::Sam::load) does; with `image_size`, for inputs of that side, in pixels,
    /// in place of its own. For gradients, `device` is one with autodiff.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn load(
        path: &Path,
        image_size: Option<usize>,
        device: &Device,
    ) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let own = Architecture::of(&checkpoint)?;
        let mut w = Weights::new(&checkpoint, device);
        let mut architecture = own.clone();
        if let Some(image_size) = image_size.filter(|&size| size != own.image_size) {
            if image_size == 0 || !image_size.is_multiple_of(own.patch_size) {
                return Err(CheckpointError::ImageSize {
                    path: path.to_owned(),
                    image_size,
                    patch_size: own.patch_size,
                });
            }
            architecture = own.at(image_size);
            resize(&mut w, &own, &architecture);
        }
        let networks = networks(&mut w, &architecture);
        let keys = w.finish(&architecture)?;
        Ok(Self::of(architecture, networks, keys, device))
    }

    /// Weights to train from nothing: a function of the architecture and `seed` alone.
    pub fn fresh(architecture: &Architecture, seed: u64, device: &Device) -> Self {
        let mut initial =
            |key: &str, shape: &[usize]| initial_values(key, shape, architecture, seed);
        let mut w = Weights::fresh(device, &mut initial);
        let networks = networks(&mut w, architecture);
        let keys = w.finish(architecture);
        let keys = keys.expect("fresh weights have the shapes that are asked for");
        Self::of(architecture.clone(), networks, keys, device)
    }

    fn of(
        architecture: Architecture,
        networks: TrainableNetworks,
        keys: KeyMap,
        device: &Device,
    ) -> Self {
        let dense_positions = networks.prompt_encoder.dense_positions(device);
        Self {
            architecture,
            networks,
            keys,
            dense_positions,
            device: device.clone(),
        }
    }

    /// The same model of other networks, whose parameters have the same ids.
    pub fn with_networks(&self, networks: TrainableNetworks) -> Self {
        Self {
            architecture: self.architecture.clone(),
            networks,
            keys: self.keys.clone(),
            dense_positions: self.dense_positions.clone(),
            device: self.device.clone(),
        }
    }

    /// Its sizes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Which parameter stands under which key, in the order of the model's parts: image encoder, prompt encoder, mask
    /// decoder.
    pub fn keys(&self) -> &KeyMap {
        &self.keys
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Normalises and zero-pads images: `[images, image_size, image_size, 3]`.
    ///
    /// # Panics
    /// If an image is larger than the model's input.
    pub fn normalised(&self, images: &[&RgbImage]) -> Tensor<4> {
        let side = self.architecture.image_size;
        let mut values = vec![0.0; images.len() * side * side * 3];
        let each = values.par_chunks_exact_mut(side * side * 3).zip(images);
        each.for_each(|(values, image)| normalise(image, side, values));
        let shape = [images.len(), side, side, 3];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// `[images, image_size, image_size, 3]`, of [`TrainableSam::normalised`] -> `[images, grid, grid, embed_dim]`
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        self.networks.image_encoder.forward(images)
    }

    /// Decodes prompts, each about an image of its own.
    ///
    /// # Shapes
    /// - `embeddings`: `[prompts, grid, grid, embed_dim]`
    /// - `points`: of each prompt, in pixels of the model's input; as many for each
    /// - `mask_logits`: `[prompts, 4 grid, 4 grid, 1]`, or none
    pub fn decode(
        &self,
        embeddings: Tensor<4>,
        points: &[PromptPoints],
        mask_logits: Option<Tensor<4>>,
    ) -> PromptMasks {
        let prompt_encoder = &self.networks.prompt_encoder;
        let sparse = prompt_encoder.embed_points(points, &self.device);
        let dense = match mask_logits {
            Some(logits) => prompt_encoder.embed_masks(logits),
            None => prompt_encoder.no_mask(),
        };
        let decoder = &self.networks.mask_decoder;
        let decoded = decoder.decode(embeddings, self.dense_positions.clone(), sparse, dense);
        let (predicted_iou, low_res_logits) = decoder.all_masks(&decoded);
        PromptMasks {
            predicted_iou,
            low_res_logits,
        }
    }

    /// The image embedding upscaled, as masks are read from it, before any prompt: `[images, grid, grid, embed_dim]` ->
    /// `[images, 4 grid, 4 grid, embed_dim / 8]`
    pub fn pixels(&self, embeddings: Tensor<4>) -> Tensor<4> {
        self.networks.mask_decoder.upscaled(embeddings)
    }

    /// Every parameter's values, as the modules lay them out: one read from the device.
    pub fn values(&self) -> BTreeMap<ParamId, Vec<f32>> {
        parameter_values(&self.networks)
    }

    /// Every parameter's values as they stand in a checkpoint, by official key.
    pub fn values_by_key(&self) -> BTreeMap<String, Vec<f32>> {
        self.keys.values_by_key(&self.networks)
    }

    /// Writes a checkpoint with the official keys, which segment-anything loads as it is.
    ///
    /// # Errors
    /// [`SaveError`]; the previous file stays.
    pub fn save(
        &self,
        path: &Path,
        stored_as: StoredAs,
        metadata: BTreeMap<String, String>,
    ) -> Result<(), SaveError> {
        self.keys
            .save_module(path, stored_as, metadata, &self.networks, |_| {
                self.networks.prompt_encoder.frequencies().to_vec()
            })
    }
}

fn networks(w: &mut Weights<'_>, architecture: &Architecture) -> TrainableNetworks {
    TrainableNetworks {
        image_encoder: ImageEncoder::load(w, architecture).with_whole_scores(),
        prompt_encoder: PromptEncoder::load(w, architecture),
        mask_decoder: MaskDecoder::load(w, architecture),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use maskmill_kernels::Precision;
    use maskmill_masks::ImageSize;

    use super::*;
    use crate::{ModelInput, PointLabel, Sam};

    pub(crate) fn small() -> Architecture {
        Architecture {
            image_size: 64,
            patch_size: 8,
            encoder_dim: 32,
            encoder_heads: 4,
            encoder_mlp_dim: 48,
            windows: vec![Some(3), None],
            embed_dim: 32,
            mask_in_channels: 8,
            decoder_depth: 2,
            decoder_mlp_dim: 40,
            cross_attention_dim: 16,
            mask_tokens: 4,
            iou_head_depth: 3,
            iou_head_dim: 24,
        }
    }

    #[test]
    fn a_saved_model_is_the_model() {
        let device = Device::flex().autodiff();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.safetensors");
        let model = TrainableSam::fresh(&small(), 3, &device);
        model.save(&path, StoredAs::F32, BTreeMap::new()).unwrap();
        assert_eq!(
            Architecture::of(&Checkpoint::open(&path).unwrap()).unwrap(),
            small()
        );
        let again = TrainableSam::load(&path, None, &device).unwrap();
        assert_eq!(model.values_by_key(), again.values_by_key());

        // The trained form and the one that runs in jobs say the same of a prompt.
        let sam = Sam::load(&path, &Device::flex(), Precision::F32).unwrap();
        let size = ImageSize::new(64, 48);
        let pixels = (0..64 * 48 * 3).map(|i| (i * 31 % 251) as u8).collect();
        let image = RgbImage::new(size, pixels).unwrap();
        let embedding = sam.encode(&ModelInput::new(&image, 64));
        let point = ([20.0, 30.0], PointLabel::Foreground);
        let points = vec![vec![point, ([0.0, 0.0], PointLabel::Padding)]];
        let trained = {
            let embeddings = model.encode(model.normalised(&[&image]));
            model.decode(embeddings, &points, None)
        };
        let sparse = sam.prompt_encoder().embed_points(&points, sam.device());
        let jobs = sam.prompt_stages(embedding.tensor(), sparse, sam.prompt_encoder().no_mask());
        let trained: Vec<f32> = trained
            .low_res_logits
            .without_autodiff()
            .try_into_vec_as()
            .unwrap();
        let scale = jobs
            .low_res_logits
            .iter()
            .fold(0.0_f32, |max, v| max.max(v.abs()));
        for (a, b) in trained.iter().zip(&jobs.low_res_logits) {
            assert!((a - b).abs() <= 1e-4 * scale, "{a} {b}");
        }
    }

    /// What is loaded is saved under the same keys, in the same shapes and with the same values: whoever reads the
    /// original, segment-anything above all, reads the copy.
    #[test]
    fn a_loaded_checkpoint_is_saved_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy.safetensors");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in [
            "models/sam-seeded-tiny.safetensors",
            "tests/reference/fixtures/sam-seeded-compact.pth",
            "tests/reference/fixtures/sam-seeded-stretched.safetensors",
        ] {
            let original = Checkpoint::open(&root.join(name)).unwrap();
            let model = TrainableSam::load(original.path(), None, &Device::flex()).unwrap();
            model.save(&copy, StoredAs::F32, BTreeMap::new()).unwrap();
            let saved = Checkpoint::open(&copy).unwrap();
            let shapes = |checkpoint: &Checkpoint| -> BTreeMap<String, Vec<usize>> {
                let shapes = checkpoint.shapes();
                shapes
                    .map(|(key, shape)| (key.to_owned(), shape.to_vec()))
                    .collect()
            };
            assert_eq!(shapes(&saved), shapes(&original), "{name}");
            for key in shapes(&original).keys() {
                let values = |checkpoint: &Checkpoint| checkpoint.read(key).unwrap().unwrap();
                assert!(values(&saved) == values(&original), "{name}: {key}");
            }
        }
    }

    /// At twice the size, an image twice as large is seen as before: the same positions, to the stretching between them.
    #[test]
    fn a_checkpoint_is_loaded_at_another_size() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // All global: their tables alone tell that they have no windows.
        let plain = Architecture {
            windows: vec![None, None],
            ..small()
        };
        for architecture in [small(), plain] {
            let model = TrainableSam::fresh(&architecture, 3, &device);
            let (path, wide) = (at("small.safetensors"), at("wide.safetensors"));
            model.save(&path, StoredAs::F32, BTreeMap::new()).unwrap();
            let resized = TrainableSam::load(&path, Some(128), &device).unwrap();
            resized.save(&wide, StoredAs::F32, BTreeMap::new()).unwrap();
            let found = Architecture::of(&Checkpoint::open(&wide).unwrap()).unwrap();
            assert_eq!(found, architecture.at(128));
            let own = TrainableSam::load(&path, Some(64), &device).unwrap();
            assert_eq!(own.architecture(), &architecture);

            let read = |path: &Path, key: &str| {
                let checkpoint = Checkpoint::open(path).unwrap();
                checkpoint.read(key).unwrap().unwrap().unwrap()
            };
            let key = "image_encoder.pos_embed";
            let (before, after) = (read(&path, key), read(&wide, key));
            // In a corner, and between two places.
            let dim = architecture.encoder_dim;
            assert_eq!(before[..dim], after[..dim]);
            let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
            for i in 0..dim {
                let between = 0.75 * before[i] + 0.25 * before[dim + i];
                assert!(close(after[dim + i], between));
            }
        }
        let Err(refused) = TrainableSam::load(&at("small.safetensors"), Some(100), &device) else {
            panic!("100 is no multiple of 8");
        };
        let message = refused.to_string();
        assert!(message.ends_with(
            "cannot take images of 100 pixels: its patches are 8 pixels wide; use a multiple"
        ));
    }

    #[test]
    fn fresh_weights_follow_their_seed() {
        let device = Device::flex();
        let values = |seed| TrainableSam::fresh(&small(), seed, &device).values_by_key();
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }
}
