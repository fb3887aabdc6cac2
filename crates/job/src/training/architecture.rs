//! `[architecture]`: the sizes of a SAM model whose weights are fresh.

use serde::{Deserialize, Serialize};

use crate::document::{Node, Value};
use crate::section::Section;

/// Heads of every attention in SAM's mask decoder; no checkpoint says another number.
const DECODER_HEADS: u32 = 8;

/// Sizes of a SAM model, as a checkpoint's tensors would tell them. The defaults are sam-nano's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchitectureSettings {
    /// Side of the square model input, in pixels.
    pub image_size: u32,
    /// Side of a patch, in pixels.
    pub patch_size: u32,
    /// Channels of the image encoder's tokens.
    pub encoder_dim: u32,
    /// Blocks of the image encoder.
    pub encoder_depth: u32,
    /// Attention heads of the image encoder.
    pub encoder_heads: u32,
    /// Hidden width of the image encoder's MLPs.
    pub encoder_mlp_dim: u32,
    /// Side of the attention window of encoder blocks, in tokens.
    pub window: u32,
    /// Encoder blocks that attend globally instead, counted from 0, ascending.
    pub global_blocks: Vec<u32>,
    /// Channels of the image embedding and of the decoder.
    pub embed_dim: u32,
    /// Channels of the mask-prompt encoder.
    pub mask_in_channels: u32,
    /// Two-way blocks of the decoder.
    pub decoder_depth: u32,
    /// Hidden width of the decoder's MLPs.
    pub decoder_mlp_dim: u32,
    /// Width inside the decoder's cross attention.
    pub cross_attention_dim: u32,
    /// Mask tokens: one for the single mask, then those of the multi-mask output.
    pub mask_tokens: u32,
    /// Linear layers of the IoU head.
    pub iou_head_depth: u32,
    /// Hidden width of the IoU head.
    pub iou_head_dim: u32,
}

/// Reads `[architecture]`, all of it at defaults where it is empty.
pub(super) fn read(mut section: Section<'_>) -> ArchitectureSettings {
    // Where each is written, for checks of one against another.
    let at = |section: &Section<'_>, key| section.origin_of(key);
    let patch_at = at(&section, "patch_size");
    let heads_at = at(&section, "encoder_heads");
    let window_at = at(&section, "window");
    let embed_at = at(&section, "embed_dim");
    let cross_at = at(&section, "cross_attention_dim");
    let mask_in_at = at(&section, "mask_in_channels");
    // Twice the largest of the published models', and tables of a global block at 4096 px.
    let encoder_depth = section.integer_u32("encoder_depth", 6, 1..=64);
    let settings = ArchitectureSettings {
        image_size: section.integer_u32("image_size", 512, 32..=4096),
        patch_size: section.integer_u32("patch_size", 16, 2..=64),
        encoder_dim: section.integer_u32("encoder_dim", 192, 8..=4096),
        encoder_depth,
        encoder_heads: section.integer_u32("encoder_heads", 6, 1..=64),
        encoder_mlp_dim: section.integer_u32("encoder_mlp_dim", 768, 8..=16_384),
        window: section.integer_u32("window", 8, 1..=256),
        global_blocks: read_global_blocks(&mut section, encoder_depth),
        embed_dim: section.integer_u32("embed_dim", 128, 8..=1024),
        mask_in_channels: section.integer_u32("mask_in_channels", 16, 4..=256),
        decoder_depth: section.integer_u32("decoder_depth", 2, 1..=16),
        decoder_mlp_dim: section.integer_u32("decoder_mlp_dim", 512, 8..=16_384),
        cross_attention_dim: section.integer_u32("cross_attention_dim", 64, 8..=1024),
        mask_tokens: section.integer_u32("mask_tokens", 4, 2..=16),
        iou_head_depth: section.integer_u32("iou_head_depth", 3, 1..=8),
        iou_head_dim: section.integer_u32("iou_head_dim", 128, 8..=4096),
    };
    let a = &settings;
    if !a.image_size.is_multiple_of(a.patch_size) {
        let what = format!(
            " = {} does not divide image_size = {}",
            a.patch_size, a.image_size
        );
        section.note(patch_at, "patch_size", &what);
    }
    if !a.encoder_dim.is_multiple_of(a.encoder_heads) {
        let what = format!(
            " = {} does not divide encoder_dim = {}",
            a.encoder_heads, a.encoder_dim
        );
        section.note(heads_at, "encoder_heads", &what);
    }
    // Windows are padded, so they need not divide the grid; a window of the whole grid would read
    // back from the checkpoint as global attention.
    let grid = a.image_size / a.patch_size;
    let all_global = a.global_blocks.len() == a.encoder_depth as usize;
    if !all_global && a.window >= grid {
        let what = format!(
            " = {} must be below the {grid} tokens of a side, image_size / patch_size; for blocks \
             that see everything put them into global_blocks",
            a.window
        );
        section.note(window_at, "window", &what);
    }
    // A head's width, the two halves of the positional encoding, and the two steps of the mask
    // upscaling, to a quarter and an eighth of the channels.
    if !a.embed_dim.is_multiple_of(DECODER_HEADS) {
        let what = format!(
            " = {} is no multiple of the decoder's {DECODER_HEADS} heads",
            a.embed_dim
        );
        section.note(embed_at, "embed_dim", &what);
    }
    if !a.cross_attention_dim.is_multiple_of(DECODER_HEADS) {
        let what = format!(
            " = {} is no multiple of the decoder's {DECODER_HEADS} heads",
            a.cross_attention_dim
        );
        section.note(cross_at, "cross_attention_dim", &what);
    }
    // The first of its two convolutions has a quarter of the channels.
    if !a.mask_in_channels.is_multiple_of(4) {
        let what = format!(" = {} is no multiple of 4", a.mask_in_channels);
        section.note(mask_in_at, "mask_in_channels", &what);
    }
    section.finish();
    settings
}

fn read_global_blocks(section: &mut Section<'_>, depth: u32) -> Vec<u32> {
    const SHAPE: &str = "an array of block numbers, such as [2, 5]";
    let Some(nodes) = section.array("global_blocks", SHAPE) else {
        // Every third block, as in the published models' quarters, and the last one.
        return (0..depth).filter(|block| block % 3 == 2).collect();
    };
    let mut blocks = Vec::new();
    for (at, Node { value, origin }) in nodes.into_iter().enumerate() {
        let key = format!("global_blocks[{at}]");
        let block = match value {
            Value::Integer(block) => block,
            other => {
                section.wrong_type::<u32>(&key, &other, origin, "a block number");
                continue;
            }
        };
        match u32::try_from(block) {
            Ok(block) if block >= depth => {
                let what = format!(
                    " = {block} is outside [0, {}]: there are encoder_depth = {depth} blocks",
                    depth - 1
                );
                section.note(Some(origin), &key, &what);
            }
            Ok(block) if blocks.contains(&block) => {
                section.note(Some(origin), &key, &format!(" = {block} is there twice"));
            }
            Ok(block) => blocks.push(block),
            Err(_) => section.note(
                Some(origin),
                &key,
                &format!(" = {block} is no block number"),
            ),
        }
    }
    // One form for one meaning, and one fingerprint.
    blocks.sort_unstable();
    blocks
}
