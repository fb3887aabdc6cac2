//! Training of a small grounder: an OWLv2 that finds in generated scenes what phrases name.
//!
//! ```text
//! scenes ──> GroundedImage ──> Questions: phrases of all images, true or not ──> matching ──> losses
//!                                                                       Owl ──> evaluate ──> GrounderReport
//! ```
//!
//! Set prediction as in DETR (Carion et al. 2020) and OWL (Minderer et al. 2022, 2023): every object is given the box that
//! shows it best, those boxes learn to, and every other learns to show nothing. Scenes are known to the last object, so each
//! image of a batch is asked the queries of all of them.
//!
//! A part of the pairs of a colour and a shape ([`is_held_out`]) is named by no query: what the model makes of those phrases
//! shows whether it has learnt what their words mean.

mod ap50;
mod data;
mod evaluate;
mod held_out;
mod image_tower;
mod losses;
mod matching;
mod model;
mod queries;
mod run;
mod start;

pub use data::{GroundedImage, GroundedObject, SceneData};
pub use evaluate::{FormReport, GrounderReport, evaluate, evaluate_on};
pub use held_out::is_held_out;
pub use losses::losses;
pub use matching::{Match, assigned, matches};
pub use queries::{ImageTruth, Questions};
pub use run::{GrounderStep, architecture, byte_pairs, train};
