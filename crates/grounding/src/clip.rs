//! CLIP: images and texts to embeddings that can be compared.

use std::fmt;
use std::path::Path;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use maskmill_weights::{
    Checkpoint, CheckpointError, ModelKind, Shapes, Weights, row_product, to_host,
};

use crate::config::ModelConfig;
use crate::files::{LoadError, tokenizer_place, weights_file};
use crate::pixel_values::{ClipInput, normalised};
use crate::texts::{Embeddings, TextEncoder};
use crate::tokenizer::ClipTokenizer;
use crate::towers::{ImageSizes, ImageTower, Layout, TextSizes, TextTower, TowerShapes};
use crate::transformer::TransformerSizes;

/// The model, for errors.
const MODEL: &str = "a CLIP";

/// Sizes of a CLIP, read from its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipArchitecture {
    /// The text tower.
    pub text: TextSizes,
    /// The image tower.
    pub image: ImageSizes,
}

impl fmt::Display for ClipArchitecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}, embedding {}",
            self.image, self.text, self.text.embed_dim
        )
    }
}

impl ClipArchitecture {
    /// Reads the sizes from the shapes in `checkpoint`, and what they do not tell from the configuration
    /// beside it.
    ///
    /// # Errors
    /// [`CheckpointError::OtherModel`] where it is no CLIP; a configuration that contradicts it.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        Ok(Parts::of(checkpoint)?.architecture)
    }
}

struct Parts {
    architecture: ClipArchitecture,
    layout: Layout,
}

impl Parts {
    fn of(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let kind = ModelKind::of(checkpoint);
        let layout = match kind {
            ModelKind::OpenClip => Layout::OPEN_CLIP,
            ModelKind::Clip | ModelKind::Unknown => Layout::CLIP,
            _ => return Err(checkpoint.other_model(MODEL, "CLIP's tensors").into()),
        };
        let config = match kind {
            ModelKind::OpenClip => {
                ModelConfig::open_clip(checkpoint.path(), checkpoint.metadata("config"))
            }
            _ => ModelConfig::hugging_face(checkpoint.path()),
        };
        let mut shapes = Shapes::new(checkpoint);
        let found = TowerShapes::of(&mut shapes, &layout);
        let hint = " (CLIPModel of transformers, or a ViT of open_clip)";
        shapes.finish(MODEL, hint)?;
        let architecture = towers(checkpoint, &found, &config?, MODEL)?;
        Ok(Self {
            architecture: ClipArchitecture {
                text: architecture.0,
                image: architecture.1,
            },
            layout,
        })
    }
}

/// Both towers' sizes, from shapes and configuration.
pub(crate) fn towers(
    checkpoint: &Checkpoint,
    found: &TowerShapes,
    config: &ModelConfig,
    model: &'static str,
) -> Result<(TextSizes, ImageSizes), LoadError> {
    let Some(grid) = found.grid() else {
        return Err(CheckpointError::OtherModel {
            path: checkpoint.path().to_owned(),
            wanted: model,
            detail: format!(
                "{} image positions are not a class token and a square of patches",
                found.image_positions
            ),
        }
        .into());
    };
    let text = TextSizes {
        vocabulary: found.vocabulary,
        context: found.context,
        transformer: TransformerSizes {
            width: found.text_width,
            layers: found.text_layers,
            heads: config.text_heads(found.text_width)?,
            mlp_dim: found.text_mlp_dim,
            activation: config.text_activation,
        },
        embed_dim: found.embed_dim,
    };
    let image = ImageSizes {
        image_size: grid * found.patch_size,
        patch_size: found.patch_size,
        transformer: TransformerSizes {
            width: found.image_width,
            layers: found.image_layers,
            heads: config.vision_heads(found.image_width)?,
            mlp_dim: found.image_mlp_dim,
            activation: config.vision_activation,
        },
    };
    Ok((text, image))
}

/// A loaded CLIP with its tokenizer.
pub struct Clip {
    architecture: ClipArchitecture,
    networks: Networks,
    tokenizer: ClipTokenizer,
    logit_scale: f32,
    device: Device,
}

#[derive(Module, Debug)]
struct Networks {
    text: TextTower,
    image: ImageTower,
    image_projection: Linear,
}

impl Clip {
    /// Loads a checkpoint of `transformers` or `open_clip`, a file or the folder that holds it, with the
    /// tokenizer beside it or at `tokenizer`. Sizes are read from the tensors.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(path: &Path, tokenizer: Option<&Path>, device: &Device) -> Result<Self, LoadError> {
        let checkpoint = Checkpoint::open(&weights_file(path)?)?;
        let Parts {
            architecture,
            layout,
        } = Parts::of(&checkpoint)?;
        let place = tokenizer_place(checkpoint.path(), tokenizer);
        let tokenizer = ClipTokenizer::load(&place)?;
        tokenizer.check_fits(checkpoint.path(), architecture.text.vocabulary)?;
        let mut w = Weights::new(&checkpoint, device);
        layout.ignore_buffers(&mut w);
        let width = architecture.image.transformer.width;
        let embed_dim = architecture.text.embed_dim;
        let networks = Networks {
            text: TextTower::load(&mut w, &layout, &architecture.text),
            image: ImageTower::load(&mut w, &layout, &architecture.image),
            image_projection: layout.projection(&mut w, layout.image_projection, width, embed_dim),
        };
        let logit_scale = w.values(layout.logit_scale, [])[0].exp();
        w.finish(&architecture)?;
        Ok(Self {
            architecture,
            networks,
            tokenizer,
            logit_scale,
            device: device.clone(),
        })
    }

    /// The sizes read from the checkpoint.
    pub fn architecture(&self) -> &ClipArchitecture {
        &self.architecture
    }

    /// The checkpoint's tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// What cosines are multiplied with before the softmax over texts.
    pub fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    /// The text side, for [`TextEncoder::embed`].
    pub fn text_encoder(&self) -> TextEncoder<'_> {
        TextEncoder {
            tower: &self.networks.text,
            tokenizer: &self.tokenizer,
            context: self.architecture.text.context,
        }
    }

    /// Projected embeddings of images, not normalised (`CLIPModel.get_image_features`).
    pub fn embed_images(&self, images: &[&ClipInput]) -> Embeddings {
        let pixels = normalised(images, &self.device);
        let tokens = self.networks.image.tokens(pixels);
        let [batch, _, width] = tokens.dims();
        let class: Tensor<3> = self.networks.image.normalise(tokens.narrow(1, 0, 1));
        let projection = self.networks.image_projection.weight.val();
        let embedded = row_product(class.reshape([batch, width]), projection);
        Embeddings::new(to_host(embedded), self.architecture.text.embed_dim)
    }
}
