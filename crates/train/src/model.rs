//! What can be trained: parameters with official keys, and how each of them learns.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ParamId};
use burn::tensor::Device;
use maskmill_job::{EncoderTraining, OptimiserSettings};
use maskmill_sam::{Architecture, TrainableNetworks, TrainableSam};
use maskmill_weights::{KeyMap, Placement, SaveError, StoredAs};

/// A model whose parameters can be trained and saved under their official keys.
pub trait Learner: Sync {
    /// The module that holds every parameter.
    type Networks: Module;

    /// The parameters.
    fn networks(&self) -> &Self::Networks;
    /// The parameters, to be replaced; their ids must stay.
    fn networks_mut(&mut self) -> &mut Self::Networks;
    /// The same model of other networks, whose parameters have the same ids.
    fn with_networks(&self, networks: Self::Networks) -> Self;
    /// Which parameter stands under which key.
    fn keys(&self) -> &KeyMap;
    /// Where it computes.
    fn device(&self) -> &Device;
    /// Every parameter's values, as the modules lay them out.
    fn values(&self) -> BTreeMap<ParamId, Vec<f32>>;
    /// Writes a checkpoint with the official keys.
    ///
    /// # Errors
    /// [`SaveError`]; the previous file stays.
    fn save(
        &self,
        path: &Path,
        stored_as: StoredAs,
        metadata: BTreeMap<String, String>,
    ) -> Result<(), SaveError>;
    /// At which part of the learning rate the parameter of a key learns; none where it is not trained.
    fn rate(&self, key: &str, settings: &OptimiserSettings) -> Option<f64>;
    /// Whether weight decay acts on a tensor.
    fn decays(&self, placement: &Placement) -> bool;
}

/// What an implementation forwards to the model's own methods of the same names.
macro_rules! forwarded {
    ($networks:ty) => {
        type Networks = $networks;

        fn networks(&self) -> &Self::Networks {
            &self.networks
        }

        fn networks_mut(&mut self) -> &mut Self::Networks {
            &mut self.networks
        }

        fn with_networks(&self, networks: Self::Networks) -> Self {
            Self::with_networks(self, networks)
        }

        fn keys(&self) -> &maskmill_weights::KeyMap {
            Self::keys(self)
        }

        fn device(&self) -> &burn::tensor::Device {
            Self::device(self)
        }

        fn values(&self) -> std::collections::BTreeMap<burn::module::ParamId, Vec<f32>> {
            Self::values(self)
        }

        fn save(
            &self,
            path: &std::path::Path,
            stored_as: maskmill_weights::StoredAs,
            metadata: std::collections::BTreeMap<String, String>,
        ) -> Result<(), maskmill_weights::SaveError> {
            Self::save(self, path, stored_as, metadata)
        }
    };
}
pub(crate) use forwarded;

impl Learner for TrainableSam {
    forwarded!(TrainableNetworks);

    /// With layer-wise decay in the image encoder.
    fn rate(&self, key: &str, settings: &OptimiserSettings) -> Option<f64> {
        let architecture = self.architecture();
        is_trained(key, settings.encoder, architecture)
            .then(|| rate_scale(key, settings.layer_decay, architecture))
    }

    /// On matrices and kernels, but not on embeddings and positions.
    fn decays(&self, placement: &Placement) -> bool {
        decays(placement)
    }
}

/// Whether the parameter of an official key is trained.
fn is_trained(key: &str, encoder: EncoderTraining, architecture: &Architecture) -> bool {
    if !key.starts_with("image_encoder.") {
        return true;
    }
    let depth = architecture.windows.len();
    match encoder {
        EncoderTraining::Trained => true,
        EncoderTraining::Frozen => false,
        EncoderTraining::Last(blocks) => layer(key, depth) + blocks as usize > depth,
    }
}

/// The layer of an image encoder's key: 0 of the patches and positions, 1 of the first block, `depth + 1` of the neck.
fn layer(key: &str, depth: usize) -> usize {
    let rest = key.strip_prefix("image_encoder.").unwrap_or(key);
    if let Some(block) = rest.strip_prefix("blocks.") {
        let number = block
            .split('.')
            .next()
            .and_then(|n| n.parse::<usize>().ok());
        return 1 + number.expect("blocks are numbered");
    }
    match rest.starts_with("neck.") {
        true => depth + 1,
        false => 0,
    }
}

/// Layer-wise decay of the learning rate (Clark et al. 2020; BEiT, ViTDet): the neck and what is behind it learn at the
/// full rate, every block before at `layer_decay` times that of the next.
fn rate_scale(key: &str, layer_decay: f64, architecture: &Architecture) -> f64 {
    if !key.starts_with("image_encoder.") {
        return 1.0;
    }
    let depth = architecture.windows.len();
    layer_decay.powi((depth + 1 - layer(key, depth)) as i32)
}

/// Whether weight decay acts on a tensor: on matrices and kernels, but not on embeddings and positions.
fn decays(placement: &Placement) -> bool {
    let key = placement.key.as_str();
    let exempt = [
        "rel_pos",
        "_embed.weight",
        "point_embeddings",
        "iou_token",
        "mask_tokens",
    ];
    placement.shape.len() > 1
        && key.ends_with(".weight")
        && !exempt.iter().any(|part| key.contains(part))
}
