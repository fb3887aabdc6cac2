//! Generated scenes with exact masks and phrases: images for training, tests and benches.
//!
//! ```
//! use maskmill_scenes::SceneOptions;
//!
//! let scene = SceneOptions::default().scene(7);
//! for object in &scene.objects {
//!     println!("{}: {} pixels in {}", object.phrase(), object.area, object.bounds);
//! }
//! ```
//!
//! # What enters
//! [`SceneOptions`] and a seed.
//!
//! # What leaves
//! A [`Scene`]: an image, and each [`SceneObject`] in it with the mask of its visible pixels, what it is a part of, and words for
//! it. A scene is painted from the back to the front:
//!
//! ```text
//! background -> per whole: shadow, parts behind it, itself, parts before it -> camera -> bytes
//!                            each pixel remembers who was painted over its centre -> masks
//! ```
//!
//! Shapes are signed distances: their sign decides whose a pixel is, their value blends the edge. So masks are exact, while the
//! image has anti-aliased or soft edges, blur, noise and compression. Stripes, dots and checks are texture; what one would point
//! at, a lid, a window, an ear, is a part, which is an object of its own and belongs to its whole's mask too.
//!
//! # What never happens here
//! No files, threads, clocks or global state. A scene is the same bytes on every platform: numbers come from integer hashes, sines and
//! exponentials from `libm`, and the rest is `f32` arithmetic that IEEE 754 rounds in one way. When the scenes of a seed
//! change, [`VERSION`] does.

/// Raised whenever some options and some seed give another scene than before.
pub const VERSION: u32 = 1;

mod arrange;
mod background;
mod camera;
mod canvas;
mod colour;
mod field;
mod light;
mod masks;
mod noise;
mod options;
mod outline;
mod parts;
mod phrase;
mod random;
mod scene;
mod shape;
mod texture;
mod thing;
mod window;

pub use colour::Colour;
pub use options::{OptionsError, SceneOptions};
pub use phrase::{SizeClass, phrase, words};
pub use scene::{Scene, SceneObject};
pub use shape::Shape;
pub use texture::Texture;
