//! How many prompts of one image are asked at once, within a number of bytes.

use maskmill_kernels::Precision;

use crate::architecture::Architecture;
use crate::model::{Implementation, Sam};

/// Burn's operations hold this many times a prompt's image tokens, `[grid, grid, dim]`, where a mask is upscaled: the
/// tokens, once; what the first convolution makes of them, as many values; what the second one makes, twice as many,
/// before and after its GELU.
const TENSORS_OF_TOKENS: usize = 6;

/// Bounds the batches in which prompts of one image are asked. It changes neither what is found nor its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptBudget {
    /// Prompts in a batch, at most.
    pub prompts_per_batch: usize,
    /// Bytes that a batch takes while it is asked, at most; a single prompt may take more. GPUs keep, beside the batch,
    /// decoded prompts of as many bytes ([`Reading::Deferred`](crate::Reading::Deferred)).
    pub bytes: usize,
}

impl PromptBudget {
    /// Bytes where nobody says how many: some 1300 prompts of a published model by the CPU's kernels, 42 by Burn's
    /// operations.
    pub const BYTES: usize = 1 << 30;

    /// Prompts in a batch for `sam`: at least 1.
    pub(crate) fn prompts(self, sam: &Sam) -> usize {
        let bytes = match sam.implementation() {
            Implementation::Kernels(_) => bytes_by_kernels(sam.architecture()),
            Implementation::Burn(_) => bytes_by_burn(sam.architecture(), sam.precision()),
        };
        self.prompts_of(bytes)
    }

    fn prompts_of(self, bytes_of_prompt: usize) -> usize {
        let fitting = self.bytes / bytes_of_prompt.max(1);
        self.prompts_per_batch.min(fitting).max(1)
    }
}

impl From<usize> for PromptBudget {
    /// Batches of `prompts_per_batch` within [`PromptBudget::BYTES`].
    fn from(prompts_per_batch: usize) -> Self {
        Self {
            prompts_per_batch,
            bytes: Self::BYTES,
        }
    }
}

/// By kernels a prompt leaves nothing but the logits of its masks, at most all of them.
fn bytes_by_kernels(a: &Architecture) -> usize {
    let masks = a.mask_tokens - 1;
    masks * a.low_res_side().pow(2) * size_of::<f32>()
}

/// By Burn's operations a prompt has image tokens of its own, in the numbers of `precision`.
fn bytes_by_burn(a: &Architecture, precision: Precision) -> usize {
    let size = match precision {
        Precision::F32 | Precision::High => 4,
        Precision::Bf16 => 2,
    };
    TENSORS_OF_TOKENS * a.grid().pow(2) * a.embed_dim * size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ViT-B; what is left out of the arithmetic is left at 1.
    fn vit_b() -> Architecture {
        Architecture {
            image_size: 1024,
            patch_size: 16,
            encoder_dim: 1,
            encoder_heads: 1,
            encoder_mlp_dim: 1,
            windows: Vec::new(),
            embed_dim: 256,
            mask_in_channels: 1,
            decoder_depth: 1,
            decoder_mlp_dim: 1,
            cross_attention_dim: 1,
            mask_tokens: 4,
            iou_head_depth: 1,
            iou_head_dim: 1,
        }
    }

    #[test]
    fn a_prompt_of_a_published_model_takes_768_kib_or_24_mib() {
        assert_eq!(bytes_by_kernels(&vit_b()), 768 << 10);
        assert_eq!(bytes_by_burn(&vit_b(), Precision::F32), 24 << 20);
        assert_eq!(bytes_by_burn(&vit_b(), Precision::Bf16), 12 << 20);
    }

    #[test]
    fn a_batch_is_bounded_by_prompts_and_by_bytes() {
        let prompts = |prompts_per_batch, bytes, of_prompt| {
            let budget = PromptBudget {
                prompts_per_batch,
                bytes,
            };
            budget.prompts_of(of_prompt)
        };
        assert_eq!(prompts(256, 1 << 30, 768 << 10), 256);
        assert_eq!(prompts(2000, 1 << 30, 768 << 10), 1365);
        assert_eq!(prompts(256, 1 << 30, 24 << 20), 42);
        assert_eq!(prompts(256, 1 << 30, 12 << 20), 85);
        assert_eq!(prompts(256, 100, 10), 10);
        assert_eq!(prompts(256, 99, 10), 9);
        assert_eq!(prompts(usize::MAX, usize::MAX, 1), usize::MAX);
    }

    #[test]
    fn a_batch_has_a_prompt_at_least() {
        let none = PromptBudget {
            prompts_per_batch: 0,
            bytes: 0,
        };
        assert_eq!(none.prompts_of(24 << 20), 1);
        assert_eq!(PromptBudget::from(0).prompts_of(24 << 20), 1);
        assert_eq!(PromptBudget::from(7).prompts_of(usize::MAX), 1);
    }
}
