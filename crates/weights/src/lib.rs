//! Checkpoint files to Burn modules.
//!
//! ```text
//! .safetensors, .pth, .bin ──> Checkpoint ──> ModelKind: what is it?
//!                                  │
//!                                  └──> Weights: tensors by key and shape ──> a model's modules
//!                                                                                  │
//!                              .safetensors <── KeyMap: which parameter is which key ──┘
//! ```
//!
//! What enters: a path. What leaves: tensors on a device, or one error that names every tensor that is
//! missing, superfluous or of another shape. What never happens here: knowing a model's structure (the
//! crates `sam` and `grounding` do), or running code from a file (pickles are read as data).

mod checkpoint;
mod from_device;
pub mod initial;
mod key_map;
mod kind;
mod parameters;
mod patch_conv;
mod row_product;
mod shapes;
mod weights;

pub use checkpoint::{Checkpoint, CheckpointError, KeyProblem};
pub use from_device::{all_to_host, reads, to_host};
pub use key_map::{KeyMap, Part, Placement, SaveError, StoredAs, write_whole};
pub use kind::ModelKind;
pub use parameters::parameter_values;
pub use patch_conv::PatchConv;
pub use row_product::row_product;
pub use shapes::Shapes;
pub use weights::Weights;
