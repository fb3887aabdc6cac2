//! OWLv2 as it is trained: every tensor of the checkpoint a parameter with its official key.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor, TensorData};
use maskmill_weights::{Checkpoint, KeyMap, SaveError, StoredAs, Weights, parameter_values};

use crate::detector::{OwlNetworks, box_bias, unit};
use crate::files::{LoadError, weights_file};
use crate::initial::initial_values;
use crate::owl::{MODEL, OwlArchitecture, Parts};
use crate::pixel_values::OwlInput;
use crate::tokenizer::Tokens;
use crate::towers::Layout;

/// An OWLv2 whose parameters can be trained and saved under their official keys.
pub struct TrainableOwl {
    architecture: OwlArchitecture,
    /// Replace them to change the parameters; their ids must stay.
    pub networks: OwlNetworks,
    keys: KeyMap,
    /// Tensors of the CLIP that a detector is made from, by their keys. It does not use them, but files have them.
    constants: BTreeMap<String, Vec<f32>>,
    box_bias: Tensor<3>,
    device: Device,
}

/// What a detector says of a batch of images and queries.
pub struct BatchDetections {
    /// Class logits, `[images, boxes, queries]`.
    pub logits: Tensor<3>,
    /// Centre x, centre y, width, height in fractions of the square input, `[images, boxes, 4]`.
    pub boxes: Tensor<3>,
    /// Logits of there being an object, `[images, boxes]`.
    pub objectness: Tensor<2>,
}

impl TrainableOwl {
    /// Loads an OWLv2 checkpoint of `transformers`, a file or the folder that holds it, without its tokenizer. For
    /// gradients, `device` is one with autodiff.
    ///
    /// # Errors
    /// See [`LoadError`]; an OWL-ViT, which has no objectness head, is none that can be trained.
    pub fn load(path: &Path, device: &Device) -> Result<Self, LoadError> {
        let checkpoint = Checkpoint::open(&weights_file(path)?)?;
        let Parts {
            architecture,
            layout,
        } = Parts::of(&checkpoint)?;
        if !architecture.is_v2 || !architecture.has_objectness {
            let lacks = "objectness_head.dense0.weight, which training needs";
            return Err(checkpoint.other_model(MODEL, lacks).into());
        }
        let mut w = Weights::new(&checkpoint, device);
        layout.ignore_buffers(&mut w);
        let (networks, constants) = taken(&mut w, &layout, &architecture);
        let keys = w.finish(&architecture)?;
        Ok(Self::of(architecture, networks, constants, keys, device))
    }

    /// Weights to train from nothing: a function of the sizes and `seed` alone, but for the tensors that are `given` by
    /// their official keys, row-major.
    ///
    /// # Panics
    /// If the architecture is not that of an OWLv2 with objectness, or a given tensor has another size.
    pub fn fresh(
        architecture: &OwlArchitecture,
        seed: u64,
        given: &BTreeMap<String, Vec<f32>>,
        device: &Device,
    ) -> Self {
        assert!(
            architecture.is_v2 && architecture.has_objectness,
            "an OWLv2"
        );
        let mut initial = |key: &str, shape: &[usize]| match given.get(key) {
            Some(values) => values.clone(),
            None => initial_values(key, shape, architecture, seed),
        };
        let mut w = Weights::fresh(device, &mut initial);
        let (networks, constants) = taken(&mut w, &Layout::OWLV2, architecture);
        let keys = w.finish(architecture);
        let keys = keys.expect("fresh weights have the shapes that are asked for");
        Self::of(architecture.clone(), networks, constants, keys, device)
    }

    fn of(
        architecture: OwlArchitecture,
        networks: OwlNetworks,
        constants: BTreeMap<String, Vec<f32>>,
        keys: KeyMap,
        device: &Device,
    ) -> Self {
        Self {
            box_bias: box_bias(architecture.image.grid(), device),
            architecture,
            networks,
            keys,
            constants,
            device: device.clone(),
        }
    }

    /// The same model of other networks, whose parameters have the same ids.
    pub fn with_networks(&self, networks: OwlNetworks) -> Self {
        Self {
            architecture: self.architecture.clone(),
            networks,
            keys: self.keys.clone(),
            constants: self.constants.clone(),
            box_bias: self.box_bias.clone(),
            device: self.device.clone(),
        }
    }

    /// Its sizes.
    pub fn architecture(&self) -> &OwlArchitecture {
        &self.architecture
    }

    /// Which parameter stands under which key, in the order of the model's parts: text tower, image tower, heads.
    pub fn keys(&self) -> &KeyMap {
        &self.keys
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Prepared images as one tensor: `[images, image_size, image_size, 3]`.
    pub fn images(&self, inputs: &[OwlInput]) -> Tensor<4> {
        let side = self.architecture.image.image_size;
        let values: Vec<f32> = inputs.iter().flat_map(OwlInput::values).copied().collect();
        let shape = [inputs.len(), side, side, 3];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// Projected embeddings of texts, not normalised: `[texts, embed_dim]`. `end` is the tokenizer's end of text.
    pub fn embed_texts(&self, texts: &[Tokens], end: u32) -> Tensor<2> {
        let texts: Vec<&Tokens> = texts.iter().collect();
        self.networks.text.forward(&texts, end)
    }

    /// What every box of every image is, for the same queries.
    ///
    /// # Shapes
    /// - `images`: `[images, image_size, image_size, 3]`, of [`TrainableOwl::images`]
    /// - `queries`: `[queries, embed_dim]`, of [`TrainableOwl::embed_texts`]
    ///
    /// Follows `Owlv2ForObjectDetection.forward` (transformers).
    pub fn forward(&self, images: Tensor<4>, queries: Tensor<2>) -> BatchDetections {
        let patches = self.networks.patches(images, self.box_bias.clone());
        let [images, boxes, dim] = patches.class_embeds.dims();
        let [count, _] = queries.dims();
        let embeds = unit(patches.class_embeds.reshape([images * boxes, dim]));
        let cosines = embeds.matmul(unit(queries).transpose());
        let cosines = cosines.reshape([images, boxes, count]);
        let objectness = patches.objectness.expect("checked when it was made");
        BatchDetections {
            logits: (cosines + patches.shift) * patches.scale,
            boxes: patches.boxes,
            objectness: objectness.reshape([images, boxes]),
        }
    }

    /// Every parameter's values, as the modules lay them out: one read from the device.
    pub fn values(&self) -> BTreeMap<ParamId, Vec<f32>> {
        parameter_values(&self.networks)
    }

    /// Every parameter's values as they stand in a checkpoint, by the keys of `transformers`.
    pub fn values_by_key(&self) -> BTreeMap<String, Vec<f32>> {
        self.keys.values_by_key(&self.networks)
    }

    /// Writes a checkpoint with the keys of `transformers`; see [`write_model_files`](crate::write_model_files) for what
    /// stands beside it.
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
            .save_module(path, stored_as, metadata, &self.networks, |placement| {
                self.constants[&placement.key].clone()
            })
    }
}

/// The networks, and the tensors that they do not use.
fn taken(
    w: &mut Weights<'_>,
    layout: &Layout,
    architecture: &OwlArchitecture,
) -> (OwlNetworks, BTreeMap<String, Vec<f32>>) {
    let networks = OwlNetworks::load(w, layout, architecture);
    let projection = [
        architecture.text.embed_dim,
        architecture.image.transformer.width,
    ];
    let constants = [
        (
            layout.image_projection,
            w.values(layout.image_projection, projection),
        ),
        (layout.logit_scale, w.values(layout.logit_scale, [])),
    ];
    let constants = constants.map(|(key, values)| (key.to_owned(), values));
    (networks, constants.into())
}
