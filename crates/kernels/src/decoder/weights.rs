//! The decoder's weights, packed, and what they make of an image before its prompts.

use std::sync::Arc;

use rayon::prelude::*;

use crate::aligned::Aligned;
use crate::engine::Engine;
use crate::matrix::{Linear, Norm};
use crate::profile::{self, Part};
use crate::upscaling::Upscaling;

use super::image::Image;
use super::layers::{Cross, Mlp, SelfAttention, linear};
use super::{CHUNK, DecoderImage, DecoderWeights, Share, TwoWayWeights};

pub(super) struct Block<E: Engine> {
    pub(super) self_attn: SelfAttention<E>,
    pub(super) norm1: Norm,
    pub(super) to_image: Cross<E>,
    pub(super) norm2: Norm,
    pub(super) mlp: Mlp<E>,
    pub(super) norm3: Norm,
    pub(super) to_tokens: Cross<E>,
    pub(super) norm4: Norm,
}

/// The projections of the image in the first block, which prompts share.
pub(super) struct SharedProjections<E: Engine> {
    /// Tokens to the image: keys and values.
    pub(super) k: Linear<E>,
    pub(super) v: Linear<E>,
    /// The image to tokens: queries.
    pub(super) q: Linear<E>,
}

pub(super) struct Weights<E: Engine> {
    pub(super) blocks: Vec<Block<E>>,
    pub(super) shared: SharedProjections<E>,
    pub(super) final_attn: Cross<E>,
    pub(super) norm_final: Norm,
    pub(super) iou_head: Mlp<E>,
    pub(super) hypernetworks: Vec<Mlp<E>>,
    pub(super) upscaling: Upscaling<E>,
    pub(super) heads: usize,
    pub(super) grid: [usize; 2],
    pub(super) dim: usize,
}

impl<E: Engine> Weights<E> {
    /// # Safety
    /// The CPU has the engine's level.
    pub(super) unsafe fn new(w: &DecoderWeights<'_>) -> Self {
        let heads = w.heads;
        // SAFETY: the caller promises the level.
        unsafe {
            let block = |b: &TwoWayWeights<'_>| Block {
                self_attn: SelfAttention {
                    q: linear(&b.self_attn.q),
                    k: linear(&b.self_attn.k),
                    v: linear(&b.self_attn.v),
                    out: linear(&b.self_attn.out),
                    heads,
                },
                norm1: Norm::new(b.norm1),
                to_image: Cross::tokens_to_image(&b.token_to_image, heads),
                norm2: Norm::new(b.norm2),
                mlp: Mlp::new(&b.mlp),
                norm3: Norm::new(b.norm3),
                to_tokens: Cross::image_to_tokens(&b.image_to_token, heads),
                norm4: Norm::new(b.norm4),
            };
            let first = &w.blocks[0];
            Self {
                blocks: w.blocks.iter().map(block).collect(),
                shared: SharedProjections {
                    k: linear(&first.token_to_image.k),
                    v: linear(&first.token_to_image.v),
                    q: linear(&first.image_to_token.q),
                },
                final_attn: Cross::tokens_to_image(&w.final_attn, heads),
                norm_final: Norm::new(w.norm_final),
                iou_head: Mlp::new(&w.iou_head),
                hypernetworks: w
                    .hypernetworks
                    .iter()
                    .map(|layers| Mlp::new(layers))
                    .collect(),
                upscaling: Upscaling::new(&w.upscaling),
                heads,
                grid: w.grid,
                dim: w.norm_final.gamma.len(),
            }
        }
    }
}

impl<E: Engine> Share for Weights<E> {
    fn share(self: Arc<Self>, image: &[f32], positions: &[f32]) -> DecoderImage {
        let dim = self.dim;
        let tokens = self.grid[0] * self.grid[1];
        assert!(image.len() == tokens * dim && positions.len() == tokens * dim);
        let chunks = tokens.div_ceil(CHUNK);
        let (k, v, q) = (&self.shared.k, &self.shared.v, &self.shared.q);
        let (left_k, left_q) = (E::left_len(CHUNK, k.outputs), E::left_len(CHUNK, q.outputs));
        let right_v = E::right_len(CHUNK, v.outputs);
        let mut keys = Aligned::zeros(chunks * left_k);
        let mut values = Aligned::zeros(chunks * right_v);
        let mut queries = Aligned::zeros(chunks * left_q);
        keys.par_chunks_exact_mut(left_k)
            .zip(values.par_chunks_exact_mut(right_v))
            .zip(queries.par_chunks_exact_mut(left_q))
            .enumerate()
            .for_each(|(chunk, ((keys, values), queries))| {
                profile::count(Part::Shared, 0, 0, || {
                    // SAFETY: the level was checked when the weights were packed.
                    let _session = unsafe { E::session() };
                    let part = |x: &[f32]| {
                        x.chunks(CHUNK * dim)
                            .nth(chunk)
                            .map(<[f32]>::to_vec)
                            .expect("as many chunks")
                    };
                    let x = part(image);
                    let rows = x.len() / dim;
                    let mut positioned = part(positions);
                    // SAFETY: the level was checked when the weights were packed.
                    unsafe {
                        (E::KERNELS.add)(&mut positioned, &x);
                        let made = k.forward(&positioned, false);
                        E::pack_left(keys, rows, k.outputs, 0..k.outputs, |r| {
                            &made[r * k.outputs..][..k.outputs]
                        });
                        let made = v.forward(&x, false);
                        E::pack_rows(values, rows, 0..rows, v.outputs, |r| {
                            &made[r * v.outputs..][..v.outputs]
                        });
                        let made = q.forward(&positioned, false);
                        E::pack_left(queries, rows, q.outputs, 0..q.outputs, |r| {
                            &made[r * q.outputs..][..q.outputs]
                        });
                    }
                })
            });
        DecoderImage(Box::new(Image {
            weights: self,
            image: image.to_vec(),
            positions: positions.to_vec(),
            keys,
            values,
            queries,
        }))
    }
}
