//! The answers to many prompts of one image in two reads from the device, whatever their number.
//!
//! ```text
//! prompts -> transformer, IoU head        batch by batch; what was decoded is kept while it fits
//!         -> every predicted IoU          read 1
//!         -> wanted masks of full batches of the prompts that have any; what was not kept is decoded again
//!         -> their logits                 read 2
//! ```
//!
//! A read waits for all that was asked of the device before it. Reading batch by batch, a GPU stands idle between its
//! batches twice; and where few prompts of each pass, it upscales batches that are nearly empty.

use burn::tensor::{Device, Tensor};
use maskmill_weights::{all_to_host, to_host};

use crate::ask::Answer;
use crate::budget::PromptBudget;
use crate::mask_decoder::{DecodedPrompts, MaskDecoder, MaskOutput, indices};
use crate::model::on_cpu;

/// When the answers to prompts leave the device. It changes neither what is found nor its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Batch by batch, in two reads each: memory does not grow with the number of prompts.
    Streaming,
    /// All of a crop, or of a form of prompts, together: two reads.
    Deferred {
        /// Bytes of decoded prompts to keep on the device until it is known which are wanted. A prompt has 4 MiB of
        /// them at 1024 px in 32 bits. The others are decoded a second time where they are wanted.
        kept_bytes: usize,
    },
}

impl Reading {
    /// What suits a device: a read costs the CPU nothing, and makes a GPU wait. A GPU keeps as many bytes as a batch may
    /// take.
    pub fn of(device: &Device, budget: PromptBudget) -> Self {
        match on_cpu(device) {
            true => Self::Streaming,
            false => Self::Deferred {
                kept_bytes: budget.bytes,
            },
        }
    }
}

/// How the prompts of one image are asked.
#[derive(Clone, Copy)]
pub(crate) struct Batches<'a> {
    pub(crate) decoder: &'a MaskDecoder,
    pub(crate) output: MaskOutput,
    /// At least 1.
    pub(crate) prompts_per_batch: usize,
    /// As in [`Reading::Deferred`].
    pub(crate) kept_bytes: usize,
}

/// A prompt of which at least one mask is wanted.
struct Passing {
    prompt: usize,
    /// Numbers among the masks of the output, ascending.
    masks: Vec<usize>,
}

impl Batches<'_> {
    /// Asks prompts 0 to `count` and gives the wanted masks, ordered by prompt and then by mask.
    ///
    /// `decode` runs the transformer over the prompts of the given numbers; `wanted` names, given the predicted IoU of
    /// one prompt's masks, those that are wanted, in ascending order.
    pub(crate) fn answers(
        &self,
        count: usize,
        decode: impl Fn(&[usize]) -> DecodedPrompts,
        wanted: impl Fn(&[f32]) -> Vec<usize>,
    ) -> Vec<Answer> {
        if count == 0 {
            return Vec::new();
        }
        let (kept, iou) = self.decode_all(count, &decode);
        let [_, masks] = iou.dims();
        let iou = to_host(iou);
        let passing: Vec<Passing> = iou
            .chunks_exact(masks)
            .enumerate()
            .map(|(prompt, iou)| Passing {
                prompt,
                masks: wanted(iou),
            })
            .filter(|passing| !passing.masks.is_empty())
            .collect();

        let kept_prompts = kept.len() * self.prompts_per_batch;
        let first_lost = passing.partition_point(|passing| passing.prompt < kept_prompts);
        let (of_kept, of_lost) = passing.split_at(first_lost);
        let mut logits = Vec::new();
        for group in of_kept.chunks(self.prompts_per_batch) {
            logits.push(self.logits(&self.gathered(&kept, group), group));
        }
        drop(kept);
        for group in of_lost.chunks(self.prompts_per_batch) {
            let prompts: Vec<usize> = group.iter().map(|passing| passing.prompt).collect();
            logits.push(self.logits(&decode(&prompts), group));
        }
        let plane = logits.first().map_or(1, |logits| {
            let [_, height, width] = logits.dims();
            height * width
        });
        let logits = all_to_host(logits);
        let planes = logits.iter().flat_map(|logits| logits.chunks_exact(plane));
        passing
            .iter()
            .flat_map(|passing| passing.masks.iter().map(|&mask| (passing.prompt, mask)))
            .zip(planes)
            .map(|((prompt, mask), logits)| Answer {
                prompt,
                predicted_iou: iou[prompt * masks + mask],
                low_res_logits: logits.to_vec(),
            })
            .collect()
    }

    /// The first batches, as many as may be kept, and the predicted IoU of all prompts, `[count, masks]`.
    fn decode_all(
        &self,
        count: usize,
        decode: impl Fn(&[usize]) -> DecodedPrompts,
    ) -> (Vec<DecodedPrompts>, Tensor<2>) {
        let prompts: Vec<usize> = (0..count).collect();
        let (mut kept, mut iou) = (Vec::new(), Vec::new());
        let mut room = Some(self.kept_bytes);
        for batch in prompts.chunks(self.prompts_per_batch) {
            let decoded = decode(batch);
            iou.push(self.decoder.predicted_iou(&decoded, self.output));
            // Once a batch has no room, none after it is kept: the kept prompts are the first ones.
            room = room.and_then(|room| room.checked_sub(decoded.bytes()));
            if room.is_some() {
                kept.push(decoded);
            }
        }
        (kept, Tensor::cat(iou, 0))
    }

    /// The prompts of `group`, of which every one was kept, as one batch.
    fn gathered(&self, kept: &[DecodedPrompts], group: &[Passing]) -> DecodedPrompts {
        let batch_of = |passing: &Passing| passing.prompt / self.prompts_per_batch;
        let parts = group.chunk_by(|a, b| batch_of(a) == batch_of(b));
        let parts = parts.map(|part| {
            let within = |passing: &Passing| passing.prompt % self.prompts_per_batch;
            let places: Vec<usize> = part.iter().map(within).collect();
            kept[batch_of(&part[0])].select(&places)
        });
        DecodedPrompts::cat(parts.collect())
    }

    /// The wanted masks of a batch, `[wanted, 4 grid, 4 grid]`. Masks that no prompt of it wants are not computed.
    fn logits(&self, decoded: &DecodedPrompts, group: &[Passing]) -> Tensor<3> {
        let mut masks: Vec<usize> = group.iter().flat_map(|p| p.masks.clone()).collect();
        masks.sort_unstable();
        masks.dedup();
        let logits = self.decoder.logits_of_masks(decoded, self.output, &masks);
        let [prompts, count, height, width] = logits.dims();
        let logits = logits.reshape([prompts * count, height, width]);
        let mut wanted = Vec::new();
        for (place, passing) in group.iter().enumerate() {
            for mask in &passing.masks {
                let among = masks.binary_search(mask).expect("a mask of the group");
                wanted.push(place * count + among);
            }
        }
        if wanted.len() == prompts * count {
            return logits;
        }
        let wanted = indices(&wanted, &logits.device());
        logits.select(0, wanted)
    }
}
