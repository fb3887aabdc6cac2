//! The mask decoder, fused: prompts to predicted IoU and low-resolution mask logits, without a tensor per prompt and image
//! token ever leaving the caches.
//!
//! Follows `MaskDecoder` and `TwoWayTransformer` (segment-anything). What makes it fast, all of it exact but for rounding:
//!
//! - **The first block shares the image.** All prompts on an image see the same image tokens there, so their queries,
//!   keys and values are made once per image ([`DecoderImage`]).
//! - **Absorbed projections.** Later blocks never project the image's tokens: `q_h (X W_k)^T = (q_h W_k^T) X^T` for a
//!   prompt's few tokens, `A (X W_v + b) = (A X) W_v + b`, and `P_h V_h W_o` is one product over all heads.
//! - **One sweep per block.** Image tokens attend to the prompt's tokens, are normed, and are attended to by the next
//!   block's tokens, a few rows at a time: they are read and written once per block, whatever the number of heads.
//! - **IoU before pixels.** Only masks whose predicted IoU is wanted run their hypernetwork, and only their prompts are
//!   upscaled, from image tokens that are still in the cache.
//!
//! A prompt's result does not depend on the prompts beside it.

mod image;
mod layers;
mod sweep;
mod weights;

use std::sync::Arc;

use crate::level::Level;
use crate::precision::Precision;
use crate::upscaling::UpscalingWeights;
use crate::vit::{LinearWeights, NormWeights};

use weights::Weights;

/// Image tokens that are worked on at once.
const CHUNK: usize = 128;
/// Rows of tokens whose layers run together: prompts are grouped to about as many.
const GROUP_ROWS: usize = 64;

/// An attention with separate projections.
#[derive(Clone, Copy, Debug)]
pub struct AttentionWeights<'a> {
    /// `dim` to `inner`.
    pub q: LinearWeights<'a>,
    /// `dim` to `inner`.
    pub k: LinearWeights<'a>,
    /// `dim` to `inner`.
    pub v: LinearWeights<'a>,
    /// `inner` to `dim`.
    pub out: LinearWeights<'a>,
}

/// A block of the two-way transformer.
#[derive(Clone, Copy, Debug)]
pub struct TwoWayWeights<'a> {
    /// Among tokens.
    pub self_attn: AttentionWeights<'a>,
    /// After it.
    pub norm1: NormWeights<'a>,
    /// From tokens to the image.
    pub token_to_image: AttentionWeights<'a>,
    /// After it.
    pub norm2: NormWeights<'a>,
    /// The MLP's layers, with ReLU between them.
    pub mlp: [LinearWeights<'a>; 2],
    /// After it.
    pub norm3: NormWeights<'a>,
    /// From the image to tokens.
    pub image_to_token: AttentionWeights<'a>,
    /// After it, over the image.
    pub norm4: NormWeights<'a>,
}

/// The weights of the mask decoder.
#[derive(Clone, Debug)]
pub struct DecoderWeights<'a> {
    /// The two-way transformer's blocks, at least one.
    pub blocks: Vec<TwoWayWeights<'a>>,
    /// From tokens to the image, at the end.
    pub final_attn: AttentionWeights<'a>,
    /// After it.
    pub norm_final: NormWeights<'a>,
    /// The IoU head's layers, with ReLU between them; applied to the first token.
    pub iou_head: Vec<LinearWeights<'a>>,
    /// A hypernetwork per mask token; mask i's is applied to token 1 + i.
    pub hypernetworks: Vec<Vec<LinearWeights<'a>>>,
    /// The transposed convolutions.
    pub upscaling: UpscalingWeights<'a>,
    /// Heads of every attention.
    pub heads: usize,
    /// Rows and columns of image tokens.
    pub grid: [usize; 2],
}

/// The mask decoder, its weights packed for this CPU.
#[derive(Clone)]
pub struct Decoder(Arc<dyn Share>);

/// An image as the decoder takes it, with all that its prompts share.
pub struct DecoderImage(Box<dyn Decode>);

/// Which masks are wanted.
pub struct Wanted<'a> {
    /// Of the decoder's masks, those to predict.
    pub masks: std::ops::Range<usize>,
    /// Given a prompt's predicted IoU of these masks, which are wanted: their places among them.
    pub choose: &'a (dyn Fn(&[f32]) -> Vec<usize> + Sync),
}

/// What came of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedPrompt {
    /// The predicted IoU of each mask of [`Wanted::masks`].
    pub predicted_iou: Vec<f32>,
    /// The low-resolution logits of those that are wanted, `[4 rows, 4 columns]`, row-major; none of the others.
    pub logits: Vec<Option<Vec<f32>>>,
}

trait Share: Send + Sync {
    fn share(self: Arc<Self>, image: &[f32], positions: &[f32]) -> DecoderImage;
}

trait Decode: Send + Sync {
    fn decode(&self, tokens: &[f32], count: usize, wanted: &Wanted<'_>) -> Vec<DecodedPrompt>;
    fn transform(&self, tokens: &[f32], count: usize) -> (Vec<f32>, Vec<f32>);
}

impl Decoder {
    /// Packs the weights for a level of the CPU.
    ///
    /// # Panics
    /// If sizes do not fit each other, or this CPU lacks the level.
    pub fn new(weights: &DecoderWeights<'_>, level: Level, precision: Precision) -> Self {
        crate::engine::with_engine!(level, precision, E => {
            // SAFETY: `with_engine` checks that the CPU has the level.
            Self(Arc::new(unsafe { Weights::<E>::new(weights) }))
        })
    }

    /// Makes what all prompts on an image share.
    ///
    /// # Shapes
    /// - `image`: `[rows, columns, dim]`, the embedding with the embedding of no mask, or of a mask, added
    /// - `positions`: `[rows, columns, dim]`, the image's positional encoding
    ///
    /// # Panics
    /// If these have other sizes.
    pub fn image(&self, image: &[f32], positions: &[f32]) -> DecoderImage {
        Arc::clone(&self.0).share(image, positions)
    }
}

impl DecoderImage {
    /// Decodes prompts, in parallel.
    ///
    /// # Shapes
    /// - `tokens`: `[prompts, count, dim]`: the IoU token, the mask tokens, and those of the prompt
    /// - output: one per prompt
    ///
    /// # Panics
    /// If `tokens` is not whole prompts.
    pub fn decode(&self, tokens: &[f32], count: usize, wanted: &Wanted<'_>) -> Vec<DecodedPrompt> {
        self.0.decode(tokens, count, wanted)
    }

    /// The transformer alone: tokens and image tokens of each prompt.
    ///
    /// # Shapes
    /// - `tokens`: as for [`DecoderImage::decode`]
    /// - output: `[prompts, count, dim]` and `[prompts, rows, columns, dim]`
    ///
    /// # Panics
    /// As [`DecoderImage::decode`].
    pub fn transform(&self, tokens: &[f32], count: usize) -> (Vec<f32>, Vec<f32>) {
        self.0.transform(tokens, count)
    }
}
