//! Examples to train Segment Anything on: images with the masks of what is on them.
//!
//! ```text
//! Source ─ example(index) ─> Example{key, image, masks} ─ Sampler::sample(seed) ─> Sample{image, content, masks}
//! files                      as it lies there, upright                            in the frame of the model's input
//! ```
//! # What enters
//! Files of this machine: folders in SA-1B's layout ([`Sa1bFolder`]), COCO files with polygons or run lengths
//! ([`CocoDataset`]), and what maskmill itself has written ([`MaskOutput`]). Or no files at all: generated [`Scenes`].
//!
//! # What leaves
//! [`Example`]s, and [`Sample`]s made of them: resized, cropped, flipped and coloured as an [`Augmentation`] says, the
//! image and its masks by one and the same geometry. Without augmentation a sample's image is what
//! `ResizeLongestSide` (segment-anything) makes of it, to the byte.
//!
//! # What never happens here
//! No tensors, no threads, no clocks: a sample is a function of its example, its options and a seed, the same bits on
//! every machine. Nothing is left out silently: what is wrong with an example is an [`ExampleError`] that names it, and
//! whether to skip it or to stop is the caller's concern.

mod assemble;
mod augmentation;
mod coco;
mod colour;
mod coverage;
mod error;
mod frame;
mod output;
mod polygon;
mod random;
mod sa1b;
mod sample;
mod scenes;
mod segmentation;
mod source;
mod texture;

use maskmill_masks::Rle;
use maskmill_pixels::RgbImage;

pub use augmentation::{Augmentation, Colour, OptionsError};
pub use coco::CocoDataset;
pub use colour::recoloured;
pub use error::{ExampleError, MaskProblem, OpenError, Problem};
pub use output::{MaskOutput, TableError};
pub use polygon::PolygonError;
pub use sa1b::Sa1bFolder;
pub use sample::{Sample, SampleOptions, Sampler};
pub use scenes::Scenes;
pub use source::Source;

/// An image with the masks of what is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Names it within its source.
    pub key: String,
    /// The image, upright.
    pub image: RgbImage,
    /// At least one; each has the image's size and at least one pixel. They may overlap.
    pub masks: Vec<Rle>,
    /// How many masks were left out because they have no pixel.
    pub empty_masks: usize,
}
