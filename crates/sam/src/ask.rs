//! Prompts of one form to the masks that are wanted of them, by whatever runs the model.

use burn::tensor::{Tensor, TensorData};
use maskmill_kernels::{DecodedPrompt, Wanted};

use crate::deferred::{Batches, Reading};
use crate::kernels::Kernels;
use crate::mask_decoder::{DecodedPrompts, MaskOutput};
use crate::model::{ImageEmbedding, Implementation, Networks, Sam};
use crate::prompt_encoder::PromptPoints;

/// A prompt as the model takes it.
pub(crate) struct ModelPrompt<'a> {
    /// In pixels of the model's input, the padding point included.
    pub(crate) points: PromptPoints,
    /// Row-major `[4 grid, 4 grid]`
    pub(crate) mask_logits: Option<&'a [f32]>,
}

/// One mask for one prompt.
pub(crate) struct Answer {
    /// The prompt's number.
    pub(crate) prompt: usize,
    pub(crate) predicted_iou: f32,
    /// Row-major `[4 grid, 4 grid]`
    pub(crate) low_res_logits: Vec<f32>,
}

/// Asks the model about one image.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) sam: &'a Sam,
    pub(crate) embedding: &'a ImageEmbedding,
    pub(crate) output: MaskOutput,
    /// At least 1.
    pub(crate) prompts_per_batch: usize,
    pub(crate) reading: Reading,
}

impl<'a> Asking<'a> {
    /// How many prompts to hand to [`Asking::answers`] at once, of `count`.
    pub(crate) fn together(&self, count: usize) -> usize {
        match self.reading {
            Reading::Streaming => self.prompts_per_batch,
            Reading::Deferred { .. } => count.max(1),
        }
    }

    /// The wanted masks of prompts of one form, ordered by prompt and then by mask.
    ///
    /// `wanted` names, given the predicted IoU of one prompt's masks, those that are wanted, in ascending order.
    pub(crate) fn answers(
        &self,
        prompts: &[ModelPrompt<'_>],
        wanted: impl Fn(&[f32]) -> Vec<usize> + Sync,
    ) -> Vec<Answer> {
        match self.sam.implementation() {
            Implementation::Kernels(kernels) => self.by_kernels(kernels, prompts, &wanted),
            Implementation::Burn(networks) => {
                let batches = Batches {
                    decoder: &networks.mask_decoder,
                    output: self.output,
                    prompts_per_batch: self.prompts_per_batch,
                    kept_bytes: match self.reading {
                        Reading::Streaming => usize::MAX,
                        Reading::Deferred { kept_bytes } => kept_bytes,
                    },
                };
                let decode = |numbers: &[usize]| {
                    let prompts: Vec<_> = numbers.iter().map(|&number| &prompts[number]).collect();
                    self.decode(networks, &prompts)
                };
                batches.answers(prompts.len(), decode, wanted)
            }
        }
    }

    fn decode(&self, networks: &Networks, prompts: &[&ModelPrompt<'_>]) -> DecodedPrompts {
        let points: Vec<PromptPoints> = prompts.iter().map(|p| p.points.clone()).collect();
        let sparse = self
            .sam
            .prompt_encoder()
            .embed_points(&points, self.sam.device());
        let logits: Vec<&[f32]> = prompts.iter().filter_map(|p| p.mask_logits).collect();
        networks.mask_decoder.decode(
            self.embedding.tensor.clone(),
            self.sam.dense_positions().clone(),
            sparse,
            self.dense(&logits),
        )
    }

    /// `[masks, grid, grid, dim]`, or `[1, 1, 1, dim]` without masks.
    fn dense(&self, mask_logits: &[&[f32]]) -> Tensor<4> {
        let prompt_encoder = self.sam.prompt_encoder();
        if mask_logits.is_empty() {
            return prompt_encoder.no_mask();
        }
        let side = self.sam.architecture().low_res_side();
        let logits = TensorData::new(mask_logits.concat(), [mask_logits.len(), side, side, 1]);
        prompt_encoder.embed_masks(Tensor::from_data(logits, self.sam.device()))
    }

    fn by_kernels(
        &self,
        kernels: &Kernels,
        prompts: &[ModelPrompt<'_>],
        choose: &(dyn Fn(&[f32]) -> Vec<usize> + Sync),
    ) -> Vec<Answer> {
        let points: Vec<PromptPoints> = prompts.iter().map(|p| p.points.clone()).collect();
        let sparse = self
            .sam
            .prompt_encoder()
            .embed_points(&points, self.sam.device());
        let (count, tokens) = kernels.tokens(sparse, prompts.len());
        let masks = self.output.masks(self.sam.architecture().mask_tokens);
        let wanted = Wanted { masks, choose };
        let decoded: Vec<DecodedPrompt> = match prompts.first().and_then(|p| p.mask_logits) {
            None => self
                .embedding
                .shared(self.sam, kernels)
                .decode(&tokens, count, &wanted),
            // Each mask makes an image of its own.
            Some(_) => prompts
                .iter()
                .zip(tokens.chunks_exact(tokens.len() / prompts.len()))
                .flat_map(|(prompt, tokens)| {
                    let logits = prompt.mask_logits.expect("prompts of one form");
                    let dense = self.dense(&[logits]);
                    let positions = self.sam.dense_positions();
                    let image = kernels.image(&self.embedding.tensor, positions, dense);
                    image.decode(tokens, count, &wanted)
                })
                .collect(),
        };
        let answers = decoded
            .into_iter()
            .enumerate()
            .flat_map(|(prompt, decoded)| {
                let masks = decoded.predicted_iou.into_iter().zip(decoded.logits);
                masks.filter_map(move |(predicted_iou, logits)| {
                    Some(Answer {
                        prompt,
                        predicted_iou,
                        low_res_logits: logits?,
                    })
                })
            });
        answers.collect()
    }
}

/// Answers, ordered by prompt, in groups of the batches of `per_batch` prompts that they belong to; empty ones left out.
pub(crate) fn by_batch(
    answers: Vec<Answer>,
    per_batch: usize,
) -> impl Iterator<Item = Vec<Answer>> {
    let mut answers = answers.into_iter().peekable();
    std::iter::from_fn(move || {
        let batch = answers.peek()?.prompt / per_batch;
        let next = || answers.next_if(|answer| answer.prompt / per_batch == batch);
        Some(std::iter::from_fn(next).collect())
    })
}
