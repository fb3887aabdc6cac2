//! CPU kernels: the image encoder and the mask decoder of Segment Anything, fused and packed for the machine.
//!
//! # What enters
//! Weights as PyTorch has them, once, with a [`Level`] of the CPU and a [`Precision`]: they are packed in the order in which
//! instructions read them. Then activations as `&[f32]`, channels last.
//!
//! # What leaves
//! - of the image encoder, on Burn's tensors through `#[backend_extension]` ([`EncoderOps`]): [`patch_embed`],
//!   [`vit_block`] (norm, attention in windows or among all tokens with decomposed relative positions, MLP), [`neck`];
//! - of the mask decoder, [`Decoder`]: predicted IoU and the low-resolution logits of wanted masks.
//!
//! # How
//! ```text
//! Level x Precision -> Engine: how factors are packed and multiplied
//!   portable  plain Rust             avx2, avx512  fused multiply-adds
//!   amx       bfloat16 tiles: one term a factor (bf16), or three, which are as good as f32 (tiles.rs)
//! rows.rs: norms, activations, softmax, written once and compiled for every level; packing.rs: those between tiles
//! vit.rs, attention.rs, neck.rs, decoder.rs, upscaling.rs: the networks over any engine
//! ```
//! Work is cut into blocks of rows that stay in a core's cache; norms are fused into the packing before a product, biases,
//! activations and residuals into what follows it. Blocks run in parallel on the calling thread's rayon pool.
//!
//! # What never happens here
//! No file is read, no model is chosen, no gradient is kept. A result does not depend on the images or prompts beside it,
//! nor on the number of threads. It does depend, in the last bits, on the level.
//!
//! All `unsafe` of maskmill is in this crate: instructions that a CPU may lack, inline assembly for tiles, and memory that
//! threads share by parts. Each engine's functions ask of their caller that the CPU has the level; [`Level::best`] is
//! consulted wherever weights are packed, which is the only way to an engine.

mod adamw;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod burn_ops;
mod decoder;
mod engine;
mod fma;
pub mod layers;
mod level;
mod linear;
mod matrix;
mod neck;
#[cfg(target_arch = "x86_64")]
mod packing;
mod precision;
pub mod profile;
mod rows;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod training;
mod upscaling;
mod vit;

pub use adamw::{AdamwState, AdamwStep, OptimiserOps, adamw};
pub use burn_ops::{EncoderOps, neck, patch_embed, vit_block};
pub use decoder::{
    AttentionWeights, DecodedPrompt, Decoder, DecoderImage, DecoderWeights, TwoWayWeights, Wanted,
};
pub use level::{LEVEL_VARIABLE, Level, LevelError};
pub use linear::PackedLinear;
pub use neck::{Neck, NeckWeights, PatchEmbed, PatchWeights};
pub use precision::Precision;
pub use training::{
    TrainingOps, TrainingUpscaling, set_training_precision, training_attention, training_gelu,
    training_linear, training_mask_sums, training_masks, training_norm, training_packed_attention,
    training_self_attention, trains_here,
};
pub use upscaling::{UpConvWeights, UpscalingWeights};
pub use vit::{BlockWeights, LinearWeights, NormWeights, VitBlock};
