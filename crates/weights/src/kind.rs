//! Which model a checkpoint is of, told by its tensors' names.

use std::fmt;

use crate::checkpoint::Checkpoint;

/// What a checkpoint holds. Names of files say little; every model has tensors that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Segment Anything, with the official key names.
    Sam,
    /// CLIP as `transformers` saves it (`CLIPModel`).
    Clip,
    /// CLIP as `open_clip` saves it.
    OpenClip,
    /// OWL-ViT (`OwlViTForObjectDetection`).
    OwlVit,
    /// OWLv2 (`Owlv2ForObjectDetection`): OWL-ViT with an objectness head.
    Owlv2,
    /// None of these.
    Unknown,
}

impl ModelKind {
    /// The kind of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let has = |key: &str| checkpoint.shape(key).is_some();
        if has("image_encoder.patch_embed.proj.weight") {
            Self::Sam
        } else if has("class_head.dense0.weight") {
            match has("owlv2.visual_projection.weight") || has("objectness_head.dense0.weight") {
                true => Self::Owlv2,
                false => Self::OwlVit,
            }
        } else if has("visual.conv1.weight") && has("token_embedding.weight") {
            Self::OpenClip
        } else if has("text_model.embeddings.token_embedding.weight")
            && has("vision_model.embeddings.patch_embedding.weight")
        {
            Self::Clip
        } else {
            Self::Unknown
        }
    }

    /// Which setting such a checkpoint belongs in.
    pub fn belongs_in(self) -> Option<&'static str> {
        match self {
            Self::Sam => Some("model.checkpoint"),
            Self::Clip | Self::OpenClip => Some("model.labeller"),
            Self::OwlVit | Self::Owlv2 => Some("model.detector"),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sam => "a Segment Anything checkpoint",
            Self::Clip => "a CLIP checkpoint (transformers)",
            Self::OpenClip => "a CLIP checkpoint (open_clip)",
            Self::OwlVit => "an OWL-ViT checkpoint",
            Self::Owlv2 => "an OWLv2 checkpoint",
            Self::Unknown => "none of SAM, CLIP, OWL-ViT and OWLv2",
        })
    }
}
