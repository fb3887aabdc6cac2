//! The architecture of a SAM checkpoint, read from its tensors' shapes.
//!
//! No name ("vit_b") is needed: everything that differs between SAM models shows in a shape, but for
//! the decoder's eight attention heads, which all published SAM models share.

use std::fmt;

use maskmill_weights::{Checkpoint, CheckpointError, Shapes};

/// Heads of every attention in the mask decoder (`TwoWayTransformer(num_heads=8)` in
/// `build_sam.py`); the one number that no tensor's shape reveals.
pub const DECODER_HEADS: usize = 8;

/// The model, for errors.
const MODEL: &str = "a Segment Anything";

/// Sizes of a SAM model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Side of the square model input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of the image encoder's tokens.
    pub encoder_dim: usize,
    /// Attention heads of the image encoder.
    pub encoder_heads: usize,
    /// Hidden width of the image encoder's MLPs.
    pub encoder_mlp_dim: usize,
    /// Side of the attention window of each encoder block, in tokens; `None` attends globally.
    pub windows: Vec<Option<usize>>,
    /// Channels of the image embedding and of the decoder.
    pub embed_dim: usize,
    /// Channels of the mask-prompt encoder.
    pub mask_in_channels: usize,
    /// Two-way blocks of the decoder.
    pub decoder_depth: usize,
    /// Hidden width of the decoder's MLPs.
    pub decoder_mlp_dim: usize,
    /// Width inside the decoder's cross attention.
    pub cross_attention_dim: usize,
    /// Mask tokens: one for the single mask, then those of the multi-mask output.
    pub mask_tokens: usize,
    /// Linear layers of the IoU head.
    pub iou_head_depth: usize,
    /// Hidden width of the IoU head.
    pub iou_head_dim: usize,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let global = self.windows.iter().filter(|w| w.is_none()).count();
        write!(
            f,
            "{} px, patch {}, encoder {} blocks ({global} global) x {} channels x {} heads, embedding {}, decoder {} blocks, {} mask tokens",
            self.image_size,
            self.patch_size,
            self.windows.len(),
            self.encoder_dim,
            self.encoder_heads,
            self.embed_dim,
            self.decoder_depth,
            self.mask_tokens,
        )
    }
}

impl Architecture {
    /// Side of the image embedding, in tokens.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Side of the low-resolution mask logits and of mask prompts, in pixels.
    pub fn low_res_side(&self) -> usize {
        4 * self.grid()
    }

    /// Reads the architecture from the shapes in `checkpoint`.
    ///
    /// # Errors
    /// [`CheckpointError::OtherModel`] where the tensors that tell it are missing or contradictory.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let mut shapes = Shapes::new(checkpoint);
        let not_sam = |detail: String| CheckpointError::OtherModel {
            path: checkpoint.path().to_owned(),
            wanted: MODEL,
            detail,
        };
        let [encoder_dim, channels, patch_size, patch_width] =
            shapes.of("image_encoder.patch_embed.proj.weight");
        let [_, grid, grid_width, _] = shapes.of("image_encoder.pos_embed");
        let depth = shapes.count("image_encoder.blocks", "attn.qkv.weight");
        let [encoder_mlp_dim, _] = shapes.of("image_encoder.blocks.0.mlp.lin1.weight");
        let mut head_dim = 1;
        let mut rel_pos = Vec::with_capacity(depth);
        for block in 0..depth {
            let [length, dim] = shapes.of(&format!("image_encoder.blocks.{block}.attn.rel_pos_h"));
            head_dim = dim;
            rel_pos.push(length);
        }
        let [embed_dim, _, _, _] = shapes.of("image_encoder.neck.0.weight");
        let [mask_in_channels, _, _, _] = shapes.of("prompt_encoder.mask_downscaling.3.weight");
        let layers = "mask_decoder.transformer.layers";
        let decoder_depth = shapes.count(layers, "self_attn.q_proj.weight");
        let [decoder_mlp_dim, _] = shapes.of(&format!("{layers}.0.mlp.lin1.weight"));
        let [cross_attention_dim, _] =
            shapes.of("mask_decoder.transformer.final_attn_token_to_image.q_proj.weight");
        let [mask_tokens, _] = shapes.of("mask_decoder.mask_tokens.weight");
        let iou_head = "mask_decoder.iou_prediction_head.layers";
        let iou_head_depth = shapes.count(iou_head, "weight");
        let [iou_head_dim, _] = shapes.of(&format!("{iou_head}.0.weight"));

        shapes.finish(MODEL, " (official key names; ViT-B, L, H or another size)")?;
        let checks = [
            (
                channels == 3,
                format!("the patch embedding reads {channels} channels, not 3"),
            ),
            (
                patch_size == patch_width,
                format!("patches are {patch_size}x{patch_width}, not square"),
            ),
            (
                grid == grid_width,
                format!("the position embedding is {grid}x{grid_width}, not square"),
            ),
            (
                encoder_dim % head_dim == 0,
                format!("{encoder_dim} channels do not divide into heads of {head_dim}"),
            ),
            (
                embed_dim % 8 == 0,
                format!("an embedding of {embed_dim} channels is no multiple of 8"),
            ),
            (
                cross_attention_dim % DECODER_HEADS == 0,
                format!(
                    "a cross attention of {cross_attention_dim} channels does not divide into {DECODER_HEADS} heads"
                ),
            ),
            (
                decoder_depth > 0 && iou_head_depth > 0 && mask_tokens > 1,
                "its decoder is incomplete".to_owned(),
            ),
        ];
        if let Some((_, detail)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(not_sam(detail));
        }
        Ok(Architecture {
            image_size: grid * patch_size,
            patch_size,
            encoder_dim,
            encoder_heads: encoder_dim / head_dim,
            encoder_mlp_dim,
            windows: windows(&rel_pos, grid),
            embed_dim,
            mask_in_channels,
            decoder_depth,
            decoder_mlp_dim,
            cross_attention_dim,
            mask_tokens,
            iou_head_depth,
            iou_head_dim,
        })
    }
}

/// Attention windows from the lengths of the relative-position tables.
///
/// A table of `2 g - 1` entries spans the whole grid of side `g`: global attention. The windowed blocks
/// of a model share one window, the shortest table; any longer table belongs to a global block whose
/// table is interpolated to the grid (`get_rel_pos`).
fn windows(rel_pos_lengths: &[usize], grid: usize) -> Vec<Option<usize>> {
    let shortest = rel_pos_lengths.iter().copied().min().unwrap_or(0);
    rel_pos_lengths
        .iter()
        .map(|&length| {
            let windowed = length == shortest && length < 2 * grid - 1;
            windowed.then_some(length.div_ceil(2))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_the_tables() {
        // ViT-B: window 14 (27 entries), grid 64 (127).
        let vit_b = [27, 27, 127, 27, 27, 127];
        let w = Some(14);
        assert_eq!(windows(&vit_b, 64), [w, w, None, w, w, None]);
        // A global block trained on a smaller grid: its table is interpolated, not a window.
        assert_eq!(
            windows(&[13, 17, 13, 31], 16),
            [Some(7), None, Some(7), None]
        );
        assert_eq!(windows(&[31, 31], 16), [None, None]);
        assert_eq!(windows(&[13, 13], 16), [Some(7), Some(7)]);
    }
}
