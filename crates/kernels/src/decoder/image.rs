//! Prompts on an image: the two-way transformer over groups of them, and the masks of those that are wanted.

use std::sync::Arc;

use rayon::prelude::*;

use crate::aligned::{Aligned, Scratch, Shared};
use crate::engine::{Ahead, Engine, STRIP, product_ahead};
use crate::matrix::Norm;
use crate::profile::{self, Part};
use crate::rows::AnswerRows;

use super::layers::Cross;
use super::sweep::{Answer, Buffers, Gathered};
use super::weights::{Block, Weights};
use super::{CHUNK, Decode, DecodedPrompt, GROUP_ROWS, Wanted};

/// An image and what its prompts share.
pub(super) struct Image<E: Engine> {
    pub(super) weights: Arc<Weights<E>>,
    /// `[tokens, dim]`
    pub(super) image: Vec<f32>,
    /// `[tokens, dim]`
    pub(super) positions: Vec<f32>,
    /// Per chunk, of the first block: the image's keys as a left factor, its values as a right one, and its queries as
    /// a left one.
    pub(super) keys: Aligned<E::Element>,
    pub(super) values: Aligned<E::Element>,
    pub(super) queries: Aligned<E::Element>,
}

/// `dst[i] = a[i] + b[i]`, both `[rows, dim]`.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn added<E: Engine>(a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut sum = a.to_vec();
    // SAFETY: the caller promises the level.
    unsafe { (E::KERNELS.add)(&mut sum, b) };
    sum
}

/// Layer norm of `x + y`, in place of `x`.
///
/// # Safety
/// The CPU has the engine's level.
unsafe fn norm_sum<E: Engine>(norm: &Norm, x: &mut [f32], y: Option<&[f32]>) {
    // SAFETY: the caller promises the level.
    unsafe {
        if let Some(y) = y {
            (E::KERNELS.add)(x, y);
        }
        norm.apply::<E>(x, norm.gamma.len());
    }
}

impl<E: Engine> Image<E> {
    /// Runs the transformer over the prompts of a group, and hands each prompt's image tokens, `[tokens, dim]`, and its
    /// tokens to `finish`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn group(
        &self,
        prompt_tokens: &[f32],
        count: usize,
        mut finish: impl FnMut(usize, &[f32], &[f32]),
    ) {
        let w = &*self.weights;
        let (dim, heads) = (w.dim, w.heads);
        let prompts = prompt_tokens.len() / (count * dim);
        let columns = count * heads;
        let mut queries = prompt_tokens.to_vec();
        let image_len = self.image.len();
        let mut images = Scratch::<f32>::take(prompts * image_len);
        let mut buffers = Buffers::<E>::new(columns, dim);
        // SAFETY: the caller promises the level.
        unsafe {
            let mut gathered = Vec::new();
            // Tokens among themselves; those of later blocks follow at the end of the block before.
            let first = &w.blocks[0];
            queries = first.self_attn.forward(&queries, &queries, count);
            norm_sum::<E>(&first.norm1, &mut queries, None);
            for (index, block) in w.blocks.iter().enumerate() {
                // Tokens to the image.
                if index == 0 {
                    let asked = self.ask_shared(
                        &block.to_image,
                        &added::<E>(&queries, prompt_tokens),
                        count,
                        &mut buffers,
                    );
                    norm_sum::<E>(&block.norm2, &mut queries, Some(&asked));
                } else {
                    self.conclude(
                        &block.to_image,
                        &mut gathered,
                        count,
                        &mut queries,
                        &block.norm2,
                    );
                }
                let hidden = block.mlp.forward(&queries);
                norm_sum::<E>(&block.norm3, &mut queries, Some(&hidden));
                // The image to tokens; then the next block's tokens, or the last attention's, to the image, in one sweep.
                let keys =
                    block.to_tokens.tokens[0].forward(&added::<E>(&queries, prompt_tokens), false);
                let values = block.to_tokens.tokens[1].forward(&queries, false);
                // The next block's self attention needs no image.
                let next_attention = match w.blocks.get(index + 1) {
                    Some(next) => {
                        let positioned = added::<E>(&queries, prompt_tokens);
                        let attended = next.self_attn.forward(&positioned, &queries, count);
                        norm_sum::<E>(&next.norm1, &mut queries, Some(&attended));
                        &next.to_image
                    }
                    None => &w.final_attn,
                };
                gathered = self.ask(next_attention, &added::<E>(&queries, prompt_tokens), count);
                // A few prompts at once: what they share of the image, its tokens or its positions, is brought near once for
                // all of them.
                let inner = count * block.to_tokens.inner;
                let together = images
                    .chunks_mut(E::PROMPTS * image_len)
                    .zip(gathered.chunks_mut(E::PROMPTS))
                    .zip(keys.chunks(E::PROMPTS * inner))
                    .zip(values.chunks(E::PROMPTS * inner));
                for (((images, gathered), keys), values) in together {
                    let answers: Vec<_> = keys
                        .chunks_exact(inner)
                        .zip(values.chunks_exact(inner))
                        .map(|(keys, values)| {
                            self.answer(&block.to_tokens, keys, values, index == 0)
                        })
                        .collect();
                    let rows = image_len / dim * answers.len();
                    let flops = 2 * rows * columns * (answers[0].channels + 3 * dim);
                    let bytes = 3 * size_of_val(images);
                    profile::count(Part::Transformer, flops, bytes, || {
                        self.sweep(index == 0, block, &answers, gathered, images, &mut buffers);
                    });
                }
            }
            self.conclude(
                &w.final_attn,
                &mut gathered,
                count,
                &mut queries,
                &w.norm_final,
            );
        }
        for prompt in 0..prompts {
            let tokens = &queries[prompt * count * dim..][..count * dim];
            finish(prompt, tokens, &images[prompt * image_len..][..image_len]);
        }
    }

    /// What tokens ask of the image after the first block, one per prompt.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn ask(&self, attention: &Cross<E>, tokens: &[f32], count: usize) -> Vec<Gathered<E>> {
        let (dim, columns) = (self.weights.dim, count * self.weights.heads);
        // SAFETY: the caller promises the level.
        unsafe {
            let q = attention.tokens[0].forward(tokens, false);
            let asked = attention.per_head(&attention.absorbed, &q, attention.inner);
            let prompts = asked.chunks_exact(columns * dim);
            prompts
                .map(|asked| Gathered::new(columns, dim, dim, |j| &asked[j * dim..][..dim]))
                .collect()
        }
    }

    /// Ends the attention of tokens to the image: values, output, residual, norm.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn conclude(
        &self,
        attention: &Cross<E>,
        gathered: &mut [Gathered<E>],
        count: usize,
        queries: &mut [f32],
        norm: &Norm,
    ) {
        let (dim, heads) = (self.weights.dim, self.weights.heads);
        let averages: Vec<f32> = gathered.iter_mut().flat_map(Gathered::finish).collect();
        // SAFETY: the caller promises the level.
        unsafe {
            let values = attention.per_head(&attention.values, &averages, heads * dim);
            let values: Vec<f32> = values
                .chunks_exact(attention.inner)
                .flat_map(|row| row.iter().zip(&attention.bias).map(|(v, bias)| v + bias))
                .collect();
            debug_assert_eq!(values.len(), gathered.len() * count * attention.inner);
            let out = attention
                .out
                .as_ref()
                .expect("tokens that ask have an output layer");
            norm_sum::<E>(norm, queries, Some(&out.forward(&values, false)));
        }
    }

    /// The first block's attention of tokens to the image that all prompts share.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn ask_shared(
        &self,
        attention: &Cross<E>,
        tokens: &[f32],
        count: usize,
        buffers: &mut Buffers<E>,
    ) -> Vec<f32> {
        let (dim, heads, inner) = (self.weights.dim, self.weights.heads, attention.inner);
        let (d, columns) = (inner / heads, count * heads);
        let image_tokens = self.image.len() / dim;
        let (left, right) = (E::left_len(CHUNK, inner), E::right_len(CHUNK, inner));
        // SAFETY: the caller promises the level; chunks were packed by `share`.
        unsafe {
            let q = attention.tokens[0].forward(tokens, false);
            let mut asking: Vec<Gathered<E>> = q
                .chunks_exact(count * inner)
                .map(|q| {
                    let apart = heads_apart(q, inner, heads);
                    Gathered::new(columns, inner, inner, |j| &apart[j * inner..][..inner])
                })
                .collect();
            let bytes = size_of_val(&*self.keys) + size_of_val(&*self.values);
            let flops = 4 * image_tokens * columns * inner * asking.len();
            profile::count(Part::Transformer, flops, bytes, || {
                for chunk in 0..image_tokens.div_ceil(CHUNK) {
                    let rows = CHUNK.min(image_tokens - chunk * CHUNK);
                    for gathered in &mut asking {
                        gathered.take(
                            rows,
                            &self.keys[chunk * left..][..left],
                            &self.values[chunk * right..][..right],
                            &mut buffers.scores,
                            &mut buffers.transposed,
                            &mut Ahead::nothing(),
                        );
                    }
                }
            });
            let mut values = Vec::with_capacity(q.len());
            for gathered in &mut asking {
                for token in gathered.finish().chunks_exact(heads * inner) {
                    for (h, row) in token.chunks_exact(inner).enumerate() {
                        values.extend_from_slice(&row[h * d..][..d]);
                    }
                }
            }
            let out = attention
                .out
                .as_ref()
                .expect("tokens that ask have an output layer");
            out.forward(&values, false)
        }
    }

    /// A prompt's keys and values, `[count, inner]` each, as the image's tokens meet them.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn answer(
        &self,
        attention: &Cross<E>,
        keys: &[f32],
        values: &[f32],
        shared: bool,
    ) -> Answer<E> {
        let (dim, heads, inner) = (self.weights.dim, self.weights.heads, attention.inner);
        let (d, columns) = (inner / heads, keys.len() / inner * heads);
        let channels = if shared { inner } else { dim };
        let mut packed_keys = Scratch::take(E::right_len(channels, columns));
        let mut packed_values = Scratch::take(E::right_len(columns, dim));
        // SAFETY: the caller promises the level.
        let bias = unsafe {
            let met = if shared {
                heads_apart(keys, inner, heads)
            } else {
                attention.per_head(&attention.absorbed, keys, inner)
            };
            E::pack_columns(&mut packed_keys, channels, columns, |j| {
                &met[j * channels..][..channels]
            });
            let given = attention.per_head(&attention.values, values, inner);
            E::pack_rows(&mut packed_values, columns, 0..columns, dim, |j| {
                &given[j * dim..][..dim]
            });
            // Shared queries have their bias.
            let mut bias: Vec<f32> = match shared {
                true => vec![0.0; columns],
                false => keys
                    .chunks_exact(d)
                    .zip(attention.bias.chunks_exact(d).cycle())
                    .map(|(k, bias)| k.iter().zip(bias).map(|(k, bias)| k * bias).sum())
                    .collect(),
            };
            // Columns that fill the last strip get no weight.
            bias.resize(columns.next_multiple_of(STRIP), f32::NEG_INFINITY);
            bias
        };
        Answer {
            keys: packed_keys,
            values: packed_values,
            bias,
            channels,
            columns,
        }
    }

    /// The image's tokens of each prompt attend to the prompt's, are normed, and are attended to by `gathered`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn sweep(
        &self,
        first: bool,
        block: &Block<E>,
        answers: &[Answer<E>],
        gathered: &mut [Gathered<E>],
        images: &mut [f32],
        buffers: &mut Buffers<E>,
    ) {
        let (image_len, size) = (self.image.len(), CHUNK * self.weights.dim);
        for (chunk, start) in (0..image_len).step_by(size).enumerate() {
            let part = start..image_len.min(start + size);
            for (prompt, (answer, gathered)) in answers.iter().zip(&mut *gathered).enumerate() {
                // The same chunk of the next prompt, or the next chunk of the first one.
                let next = match prompt + 1 < answers.len() {
                    true => (prompt + 1) * image_len + start,
                    false => start + size,
                };
                let ahead = Ahead::of(images.as_ptr().wrapping_add(next), part.len());
                let image = &mut images[prompt * image_len..][part.clone()];
                // SAFETY: the caller promises the level.
                unsafe {
                    self.sweep_chunk(first, block, answer, gathered, chunk, image, buffers, ahead);
                }
            }
        }
    }

    /// [`Image::sweep`] of a chunk of a prompt's image; meanwhile `ahead` is brought near.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    #[allow(clippy::too_many_arguments)]
    unsafe fn sweep_chunk(
        &self,
        first: bool,
        block: &Block<E>,
        answer: &Answer<E>,
        gathered: &mut Gathered<E>,
        chunk: usize,
        image: &mut [f32],
        buffers: &mut Buffers<E>,
        mut ahead: Ahead,
    ) {
        let (k, dim) = (E::KERNELS, self.weights.dim);
        let part = chunk * CHUNK * dim..chunk * CHUNK * dim + image.len();
        let rows = part.len() / dim;
        let positions = &self.positions[part.clone()];
        let stride = answer.columns.next_multiple_of(STRIP);
        let width = dim.next_multiple_of(STRIP);
        let depths = answer.channels.div_ceil(E::DEPTH);
        let queries_len = E::left_len(CHUNK, self.weights.shared.q.outputs);
        let Buffers {
            scores,
            weights,
            transposed,
            answers,
            positioned,
            left,
            right,
        } = buffers;
        // Rows that are packed while they are near, and what they take of a packed factor.
        let near = E::NEAR_ROWS.min(CHUNK);
        let near_len = match near {
            CHUNK => left.len(),
            rows => rows * dim.next_multiple_of(E::DEPTH) * E::TERMS,
        };
        // SAFETY: the caller promises the level; buffers are made for chunks.
        unsafe {
            let asking = if first {
                &self.queries[chunk * queries_len..][..queries_len]
            } else {
                let parts = image.chunks(near * dim).zip(positions.chunks(near * dim));
                for ((image, positions), left) in parts.zip(left.chunks_mut(near_len)) {
                    (k.sum)(&mut positioned[..image.len()], image, positions);
                    E::pack_left(left, image.len() / dim, dim, 0..dim, |r| {
                        &positioned[r * dim..][..dim]
                    });
                }
                &left[..]
            };
            product_ahead::<E>(
                scores,
                stride,
                rows,
                stride,
                asking,
                &answer.keys,
                depths,
                0..depths,
                false,
                &mut ahead,
            );
            (k.group_softmax)(
                &mut scores[..rows * stride],
                &answer.bias,
                self.weights.heads,
            );
            E::pack_left(weights, rows, answer.columns, 0..answer.columns, |r| {
                &scores[r * stride..][..answer.columns]
            });
            let depths = answer.columns.div_ceil(E::DEPTH);
            product_ahead::<E>(
                answers,
                width,
                rows,
                width,
                weights,
                &answer.values,
                depths,
                0..depths,
                false,
                &mut ahead,
            );
            for (start, left) in (0..rows).step_by(near).zip(left.chunks_mut(near_len)) {
                let count = near.min(rows - start);
                let here = start * dim..(start + count) * dim;
                let normed = AnswerRows {
                    answers: &answers[start * width..],
                    stride: width,
                    bias: &block.to_tokens.out_bias,
                    gamma: &block.norm4.gamma,
                    beta: &block.norm4.beta,
                    epsilon: block.norm4.epsilon,
                    positions: &positions[here.clone()],
                };
                // In the first block from the image that all prompts share.
                let shared = first.then(|| &self.image[part.clone()][here.clone()]);
                (k.answer_rows)(&mut image[here], positioned, shared, &normed);
                E::pack_left(left, count, dim, 0..dim, |r| &positioned[r * dim..][..dim]);
                E::pack_rows(right, rows, start..start + count, dim, |r| {
                    &image[r * dim..][..dim]
                });
            }
            gathered.take(rows, left, right, scores, transposed, &mut ahead);
        }
    }

    /// The wanted masks of a prompt's transformed tokens, `[count, dim]`, and image, `[tokens, dim]`.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    unsafe fn masks(&self, tokens: &[f32], image: &[f32], wanted: &Wanted<'_>) -> DecodedPrompt {
        let w = &*self.weights;
        let token = |i: usize| &tokens[i * w.dim..][..w.dim];
        // SAFETY: the caller promises the level.
        unsafe {
            let iou = w.iou_head.forward(token(0));
            let predicted_iou = iou[wanted.masks.clone()].to_vec();
            let chosen = (wanted.choose)(&predicted_iou);
            let mut logits = vec![None; predicted_iou.len()];
            if !chosen.is_empty() {
                let masks = chosen.iter().map(|i| wanted.masks.start + i);
                let weights: Vec<Vec<f32>> = masks
                    .map(|mask| w.hypernetworks[mask].forward(token(1 + mask)))
                    .collect();
                let flops = w.upscaling.flops(w.grid, weights.len());
                let made = profile::count(Part::Upscaling, flops, size_of_val(image), || {
                    w.upscaling.masks(image, w.grid, &weights)
                });
                for (i, made) in chosen.into_iter().zip(made) {
                    logits[i] = Some(made);
                }
            }
            DecodedPrompt {
                predicted_iou,
                logits,
            }
        }
    }

    /// Prompts per group.
    fn group_size(count: usize) -> usize {
        (GROUP_ROWS / count).max(1)
    }
}

/// `[tokens, inner]` -> `[tokens, heads, inner]`, zero but for the head's own channels: a product over all channels is then
/// one over the head's.
fn heads_apart(x: &[f32], inner: usize, heads: usize) -> Vec<f32> {
    let d = inner / heads;
    let mut apart = vec![0.0; x.len() * heads];
    for (token, x) in x.chunks_exact(inner).enumerate() {
        for h in 0..heads {
            apart[(token * heads + h) * inner + h * d..][..d].copy_from_slice(&x[h * d..][..d]);
        }
    }
    apart
}

impl<E: Engine> Decode for Image<E> {
    fn decode(&self, tokens: &[f32], count: usize, wanted: &Wanted<'_>) -> Vec<DecodedPrompt> {
        let w = &*self.weights;
        let prompt = count * w.dim;
        assert!(
            tokens.len().is_multiple_of(prompt),
            "whole prompts of {count} tokens"
        );
        assert!(
            wanted.masks.end <= w.hypernetworks.len(),
            "masks that the decoder has"
        );
        let group = share_out(tokens.len() / prompt, Self::group_size(count));
        let groups: Vec<Vec<DecodedPrompt>> = tokens
            .par_chunks(group * prompt)
            .map(|tokens| {
                let mut decoded = Vec::new();
                profile::count(Part::Prompts, 0, 0, || {
                    // SAFETY: the level was checked when the weights were packed.
                    unsafe {
                        let _session = E::session();
                        self.group(tokens, count, |_, tokens, image| {
                            decoded.push(self.masks(tokens, image, wanted));
                        });
                    }
                });
                decoded
            })
            .collect();
        groups.into_iter().flatten().collect()
    }

    fn transform(&self, tokens: &[f32], count: usize) -> (Vec<f32>, Vec<f32>) {
        let prompt = count * self.weights.dim;
        assert!(
            tokens.len().is_multiple_of(prompt),
            "whole prompts of {count} tokens"
        );
        let prompts = tokens.len() / prompt;
        let mut out_tokens = vec![0.0; tokens.len()];
        let mut out_images = vec![0.0; prompts * self.image.len()];
        let shared_tokens = Shared::new(&mut out_tokens);
        let shared_images = Shared::new(&mut out_images);
        let group = share_out(prompts, Self::group_size(count));
        tokens
            .par_chunks(group * prompt)
            .enumerate()
            .for_each(|(i, tokens)| {
                // SAFETY: the level was checked when the weights were packed; each prompt's results are written once.
                unsafe {
                    let _session = E::session();
                    self.group(tokens, count, |p, tokens, image| {
                        let p = i * group + p;
                        shared_tokens
                            .part(p * prompt, prompt)
                            .copy_from_slice(tokens);
                        shared_images
                            .part(p * image.len(), image.len())
                            .copy_from_slice(image);
                    });
                }
            });
        (out_tokens, out_images)
    }
}

/// Prompts per task, at most `most`: few prompts are spread over the threads.
fn share_out(prompts: usize, most: usize) -> usize {
    prompts
        .div_ceil(rayon::current_num_threads())
        .clamp(1, most)
}
