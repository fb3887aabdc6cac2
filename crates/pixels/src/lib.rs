//! RGB images and the Pillow-exact resize.
//!
//! What enters: decoded pixels as rows of RGB bytes. What leaves: crops of them and the resized image the model
//! sees. Segment Anything was trained on images that Pillow resized, so [`resize_bilinear`] gives the bytes that
//! Pillow 12 gives, not merely similar ones.
//!
//! Nothing here reads files, knows about codecs or touches tensors: `maskmill-formats` makes an [`RgbImage`] out of
//! bytes, `maskmill-sam` normalises it.

mod resize;
mod rgb_image;

pub use resize::{longest_side, resize_bilinear};
pub use rgb_image::{PixelsError, RgbImage};
