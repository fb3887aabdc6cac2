//! Segment Anything (Kirillov et al., 2023) on Burn.
//!
//! ```text
//! RgbImage -> ModelInput -> ImageEncoder -> ImageEmbedding --+
//!                                                            +-> MaskDecoder -> low-resolution logits, IoU
//! points, boxes, masks -----> PromptEncoder -----------------+         |
//!                                                                      v
//!            Predictor: masks of given prompts      propose: candidates of a grid -> MaskSelector: masks
//!                            propose_prompted: candidates of given prompts -> PromptedSelector: masks
//! ```
//!
//! What enters: an 8-bit RGB image of any size, prompts in its pixels, and a checkpoint with the official
//! key names, whose shapes tell the architecture. What leaves the device: low-resolution logits of the
//! masks that passed the IoU filter, once. What never happens here: reading images, writing masks,
//! choosing paths.
//!
//! Tensors are channels-last (`[batch, height, width, channels]`), unlike the reference's: norms and
//! products then run over contiguous channels, and no transposition is needed between the encoder and
//! the decoder. Results equal the reference's to rounding; the tests hold the numbers.
//!
//! Departures from segment-anything 1.0, all without effect on which masks come out:
//! - the image tokens are not repeated per prompt before the decoder needs them apart;
//! - after the decoder's first block, attention between prompts and image absorbs the image's projections;
//! - predicted IoU is filtered before upscaling, not after;
//! - masks are thresholded, measured and run-length encoded without a full-size logit image.

mod architecture;
mod ask;
mod budget;
mod deferred;
mod device;
mod generator;
mod image_encoder;
mod initial;
mod kernels;
mod layers;
mod mask_decoder;
mod model;
mod predictor;
mod prompt_encoder;
mod prompted;
mod resized;
mod selector;
mod trainable;
mod transformer;

pub use burn::tensor::Device;
pub use maskmill_kernels::{LEVEL_VARIABLE, Level, Precision};

pub use architecture::{Architecture, DECODER_HEADS};
pub use budget::PromptBudget;
pub use deferred::Reading;
pub use device::{DeviceError, DeviceName};
pub use generator::{
    AutomaticOptions, Candidate, CandidateBatch, PreparedImage, PromptedBy, generate, propose,
    propose_reading,
};
pub use image_encoder::ImageEncoder;
pub use mask_decoder::{DecodedPrompts, MaskDecoder, MaskOutput};
pub use model::{ImageEmbedding, ModelInput, Networks, PIXEL_MEAN, PIXEL_STD, PromptStages, Sam};
pub use predictor::{PointPrompt, PredictedMask, Predictor, Prompt, PromptError};
pub use prompt_encoder::{PointLabel, PromptEncoder, PromptPoints};
pub use prompted::{PromptedOptions, PromptedSelector, propose_prompted, propose_prompted_reading};
pub use resized::grid_stretched;
pub use selector::{GeneratedMask, MaskFilters, MaskSelector};
pub use trainable::{PromptMasks, TrainableNetworks, TrainableSam};
pub use transformer::TwoWayTransformer;
