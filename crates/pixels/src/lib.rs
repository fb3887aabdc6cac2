//! RGB images and the references' exact resizes.
//!
//! What enters: decoded pixels as rows of RGB bytes. What leaves: crops of them and the resized image the model
//! sees. Segment Anything was trained on images that Pillow resized, so [`resize_bilinear`] gives the bytes that
//! Pillow 12 gives, not merely similar ones; and [`resize_bicubic`] those of torchvision, for CLIP and OWL-ViT.
//!
//! Nothing here reads files, knows about codecs or touches tensors: `maskmill-formats` makes an [`RgbImage`] out of
//! bytes, `maskmill-sam` and
//! `maskmill-grounding` normalise it.

mod filter;
mod resize;
mod rgb_image;

pub use resize::{longest_side, resize_bicubic, resize_bilinear};
pub use rgb_image::{PixelsError, RgbImage};
