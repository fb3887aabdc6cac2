//! The two towers of CLIP, which OWL-ViT and OWLv2 share: text to embeddings, image to tokens.
//!
//! Follows `CLIPTextTransformer` and `CLIPVisionTransformer` (transformers), and `CLIP.encode_text` and
//! `VisionTransformer` (open_clip), which differ in names alone. Images are channels-last.

use std::fmt;

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};
use maskmill_kernels::layers::layer_norm;
use maskmill_weights::{PatchConv, Shapes, Weights, row_product};

use crate::tokenizer::Tokens;
use crate::transformer::{EPSILON, KeyNames, Transformer, TransformerSizes};

/// Where the parts of the towers stand in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub names: KeyNames,
    token_embedding: &'static str,
    text_positions: &'static str,
    text_layers: &'static str,
    text_norm: &'static str,
    text_projection: &'static str,
    class_embedding: &'static str,
    patch_embedding: &'static str,
    image_positions: &'static str,
    image_layers: &'static str,
    image_pre_norm: &'static str,
    pub image_post_norm: &'static str,
    pub image_projection: &'static str,
    pub logit_scale: &'static str,
}

macro_rules! hugging_face {
    ($prefix:literal, $pre_norm:literal) => {
        Layout {
            names: KeyNames::HuggingFace,
            token_embedding: concat!($prefix, "text_model.embeddings.token_embedding.weight"),
            text_positions: concat!($prefix, "text_model.embeddings.position_embedding.weight"),
            text_layers: concat!($prefix, "text_model.encoder.layers"),
            text_norm: concat!($prefix, "text_model.final_layer_norm"),
            text_projection: concat!($prefix, "text_projection.weight"),
            class_embedding: concat!($prefix, "vision_model.embeddings.class_embedding"),
            patch_embedding: concat!($prefix, "vision_model.embeddings.patch_embedding"),
            image_positions: concat!($prefix, "vision_model.embeddings.position_embedding.weight"),
            image_layers: concat!($prefix, "vision_model.encoder.layers"),
            image_pre_norm: concat!($prefix, "vision_model.", $pre_norm),
            image_post_norm: concat!($prefix, "vision_model.post_layernorm"),
            image_projection: concat!($prefix, "visual_projection.weight"),
            logit_scale: concat!($prefix, "logit_scale"),
        }
    };
}

impl Layout {
    // The name of CLIP's first norm is a slip that became official.
    pub(crate) const CLIP: Self = hugging_face!("", "pre_layrnorm");
    pub(crate) const OWL_VIT: Self = hugging_face!("owlvit.", "pre_layernorm");
    pub(crate) const OWLV2: Self = hugging_face!("owlv2.", "pre_layernorm");
    pub(crate) const OPEN_CLIP: Self = Self {
        names: KeyNames::OpenClip,
        token_embedding: "token_embedding.weight",
        text_positions: "positional_embedding",
        text_layers: "transformer.resblocks",
        text_norm: "ln_final",
        text_projection: "text_projection",
        class_embedding: "visual.class_embedding",
        patch_embedding: "visual.conv1",
        image_positions: "visual.positional_embedding",
        image_layers: "visual.transformer.resblocks",
        image_pre_norm: "visual.ln_pre",
        image_post_norm: "visual.ln_post",
        image_projection: "visual.proj",
        logit_scale: "logit_scale",
    };

    /// Keys that old versions saved and that hold no weights.
    pub(crate) fn ignore_buffers(&self, w: &mut Weights<'_>) {
        let prefix = self.token_embedding.find("text_model.");
        let prefix = prefix.map_or("", |end| &self.token_embedding[..end]);
        w.ignore(&format!("{prefix}text_model.embeddings.position_ids"));
        w.ignore(&format!("{prefix}vision_model.embeddings.position_ids"));
        w.ignore("attn_mask");
    }

    /// A projection to the shared embedding space, without bias. In `open_clip` it is a plain matrix
    /// `[width, embed_dim]`, in `transformers` a linear layer's weight, `[embed_dim, width]`.
    pub(crate) fn projection(
        &self,
        w: &mut Weights<'_>,
        key: &str,
        width: usize,
        embed_dim: usize,
    ) -> Linear {
        match self.names {
            KeyNames::OpenClip => Linear {
                weight: w.param(key, [width, embed_dim]),
                bias: None,
            },
            KeyNames::HuggingFace => {
                let prefix = key.strip_suffix(".weight").expect("a layer's weight");
                w.linear_without_bias(prefix, width, embed_dim)
            }
        }
    }
}

/// Sizes of a text tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSizes {
    /// Token embeddings.
    pub vocabulary: usize,
    /// Most tokens of a text, start and end included.
    pub context: usize,
    /// Its blocks.
    pub transformer: TransformerSizes,
    /// Channels of an embedding.
    pub embed_dim: usize,
}

impl fmt::Display for TextSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "text {} ({} tokens, context {})",
            self.transformer, self.vocabulary, self.context
        )
    }
}

/// Sizes of an image tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSizes {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Its blocks.
    pub transformer: TransformerSizes,
}

impl ImageSizes {
    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

impl fmt::Display for ImageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "image {} ({} px, patch {})",
            self.transformer, self.image_size, self.patch_size
        )
    }
}

/// What shapes tell of the towers: everything but heads and activations.
pub(crate) struct TowerShapes {
    pub vocabulary: usize,
    pub context: usize,
    pub text_width: usize,
    pub text_layers: usize,
    pub text_mlp_dim: usize,
    pub embed_dim: usize,
    pub image_positions: usize,
    pub patch_size: usize,
    pub image_width: usize,
    pub image_layers: usize,
    pub image_mlp_dim: usize,
}

impl TowerShapes {
    pub(crate) fn of(shapes: &mut Shapes<'_>, layout: &Layout) -> Self {
        let first_mlp = match layout.names {
            KeyNames::HuggingFace => "mlp.fc1.weight",
            KeyNames::OpenClip => "mlp.c_fc.weight",
        };
        let [vocabulary, text_width] = shapes.of(layout.token_embedding);
        let [context, _] = shapes.of(layout.text_positions);
        let [text_mlp_dim, _] = shapes.of(&format!("{}.0.{first_mlp}", layout.text_layers));
        let projection: [usize; 2] = shapes.of(layout.text_projection);
        let embed_dim = match layout.names {
            KeyNames::HuggingFace => projection[0],
            KeyNames::OpenClip => projection[1],
        };
        let [image_positions, image_width] = shapes.of(layout.image_positions);
        let [_, _, patch_size, _] = shapes.of(&format!("{}.weight", layout.patch_embedding));
        let [image_mlp_dim, _] = shapes.of(&format!("{}.0.{first_mlp}", layout.image_layers));
        Self {
            vocabulary,
            context,
            text_width,
            text_layers: shapes.count(layout.text_layers, first_mlp),
            text_mlp_dim,
            embed_dim,
            image_positions,
            patch_size,
            image_width,
            image_layers: shapes.count(layout.image_layers, first_mlp),
            image_mlp_dim,
        }
    }

    /// Side of the square grid of patches, which stand behind the class token.
    pub(crate) fn grid(&self) -> Option<usize> {
        let patches = self.image_positions.checked_sub(1)?;
        let grid = patches.isqrt();
        (grid > 0 && grid * grid == patches).then_some(grid)
    }
}

/// Text to embeddings.
#[derive(Module, Debug)]
pub(crate) struct TextTower {
    token_embedding: Param<Tensor<2>>,
    positions: Param<Tensor<2>>,
    transformer: Transformer,
    final_norm: LayerNorm,
    projection: Linear,
}

impl TextTower {
    pub(crate) fn load(w: &mut Weights<'_>, layout: &Layout, sizes: &TextSizes) -> Self {
        let width = sizes.transformer.width;
        Self {
            token_embedding: w.param(layout.token_embedding, [sizes.vocabulary, width]),
            positions: w.param(layout.text_positions, [sizes.context, width]),
            transformer: Transformer::load(w, layout.names, layout.text_layers, sizes.transformer),
            final_norm: w.layer_norm(layout.text_norm, width, EPSILON),
            projection: layout.projection(w, layout.text_projection, width, sizes.embed_dim),
        }
    }

    /// Projected embeddings of texts, not normalised: the hidden state at the FIRST end-of-text token.
    ///
    /// Texts are filled up to the longest of them. What follows the end is never attended to, so neither
    /// the filling nor the other texts change an embedding.
    ///
    /// # Shapes
    /// - output: `[texts, embed_dim]`
    pub(crate) fn forward(&self, texts: &[&Tokens], end: u32) -> Tensor<2> {
        let device = self.positions.device();
        let [_, width] = self.positions.dims();
        let length = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(texts.len() * length);
        let mut ends = Vec::with_capacity(texts.len());
        for (row, text) in texts.iter().enumerate() {
            let at = text.ids.iter().position(|&id| id == end);
            ends.push((row * length + at.expect("a text has an end")) as i64);
            ids.extend(text.ids.iter().map(|&id| i64::from(id)));
            ids.resize((row + 1) * length, 0);
        }
        let tokens = self.token_embedding.val().select(0, indices(ids, &device));
        let tokens = tokens.reshape([texts.len(), length, width]);
        let positions = self.positions.val().narrow(0, 0, length);
        let x = self
            .transformer
            .forward(tokens + positions.unsqueeze(), true);
        let ends = x
            .reshape([texts.len() * length, width])
            .select(0, indices(ends, &device));
        let ends = layer_norm(&self.final_norm, EPSILON, ends);
        row_product(ends, self.projection.weight.val())
    }
}

fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Images to tokens.
#[derive(Module, Debug)]
pub(crate) struct ImageTower {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: PatchConv,
    positions: Param<Tensor<2>>,
    pre_norm: LayerNorm,
    transformer: Transformer,
    post_norm: LayerNorm,
}

impl ImageTower {
    pub(crate) fn load(w: &mut Weights<'_>, layout: &Layout, sizes: &ImageSizes) -> Self {
        let (width, patch) = (sizes.transformer.width, sizes.patch_size);
        let positions = sizes.grid() * sizes.grid() + 1;
        Self {
            class_embedding: w.param(layout.class_embedding, [width]),
            patch_embedding: PatchConv::load(
                w,
                layout.patch_embedding,
                [width, 3, patch, patch],
                false,
            ),
            positions: w.param(layout.image_positions, [positions, width]),
            pre_norm: w.layer_norm(layout.image_pre_norm, width, EPSILON),
            transformer: Transformer::load(w, layout.names, layout.image_layers, sizes.transformer),
            post_norm: w.layer_norm(layout.image_post_norm, width, EPSILON),
        }
    }

    /// Tokens of normalised images, the class token first, after the blocks and before the last norm.
    ///
    /// # Shapes
    /// - `images`: `[batch, image_size, image_size, 3]`
    /// - output: `[batch, 1 + grid * grid, width]`
    pub(crate) fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embedding.forward(images);
        let [batch, rows, columns, width] = patches.dims();
        let patches = patches.reshape([batch, rows * columns, width]);
        let class = self.class_embedding.val().reshape([1, 1, width]);
        let tokens = Tensor::cat(vec![class.expand([batch, 1, width]), patches], 1);
        let tokens = tokens + self.positions.val().unsqueeze();
        let tokens = layer_norm(&self.pre_norm, EPSILON, tokens);
        self.transformer.forward(tokens, false)
    }

    /// The last norm, for whichever tokens are wanted: `[batch, tokens, width]` -> the same.
    pub(crate) fn normalise(&self, tokens: Tensor<3>) -> Tensor<3> {
        layer_norm(&self.post_norm, EPSILON, tokens)
    }
}
