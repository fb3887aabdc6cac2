//! Text grounding on Burn: boxes and labels for what a text names.
//!
//! ```text
//! labels ──> Vocabulary ──> TextEncoder ──> Embeddings ──┐ once per job
//!                                                        ├──> detect: boxes, labels, scores    (Owl)
//! RgbImage ──> OwlInput ──> Owl::embed ──> OwlImage ─────┘
//!
//! RgbImage, masks ──> crops: ClipInput ──> Clip::embed_images ──┬──> Labeller: a label per mask    (Clip)
//! labels ──> Vocabulary ──> TextEncoder ──> Embeddings ─────────┘
//!
//! images, tokens ──> TrainableOwl ──> BatchDetections ──> (training) ──> a checkpoint that Owl loads
//! ```
//!
//! What enters: 8-bit RGB images, labels, and the checkpoints of CLIP (`transformers` or `open_clip`), OWL-ViT and
//! OWLv2 with their tokenizers; sizes are read from the tensors. What leaves: detections in pixels of the image,
//! and labels with scores. What never happens here: segmenting (`maskmill-sam` does it from the boxes), reading
//! images, choosing paths.
//!
//! Numbers equal those of `transformers` to rounding; the tests hold them. Departures:
//! - boxes that lie wholly in the padding beside an OWLv2 image are dropped;
//! - per-label thresholds, negatives and NMS, which `transformers` leaves to the caller ([`detect`]).

mod antialias;
mod byte_pairs;
mod clip;
mod config;
mod crops;
mod detect;
mod detector;
mod files;
mod initial;
mod labeller;
mod model_files;
mod owl;
mod pixel_values;
mod texts;
mod tokenizer;
mod towers;
mod trainable;
mod transformer;
mod vocabulary;

pub use byte_pairs::BytePairs;
pub use clip::{Clip, ClipArchitecture};
pub use config::ConfigFileError;
pub use crops::{CropBackground, CropOptions, crop_mask};
pub use detect::{Detection, DetectionOptions, NotFinite, detect};
pub use detector::OwlNetworks;
pub use files::{LoadError, files_of_model, tokenizer_place, weights_file};
pub use labeller::{LabelScores, Labeller, LabellerOptions, MaskLabel};
pub use model_files::write_model_files;
pub use owl::{CandidateBoxes, Owl, OwlArchitecture, OwlImage, Queries};
pub use pixel_values::{CLIP_MEAN, CLIP_STD, ClipInput, OwlInput};
pub use texts::{Embeddings, Overlong, TextEncoder};
pub use tokenizer::{ClipTokenizer, TokenizerError, Tokens};
pub use towers::{ImageSizes, TextSizes};
pub use trainable::{BatchDetections, TrainableOwl};
pub use transformer::{Activation, TransformerSizes};
pub use vocabulary::{KnownPhrases, Label, Owner, Vocabulary, VocabularyError};
