//! How each parameter of a detector learns.

use maskmill_grounding::{OwlNetworks, TrainableOwl};
use maskmill_job::OptimiserSettings;
use maskmill_weights::Placement;

use crate::model::{Learner, forwarded};

impl Learner for TrainableOwl {
    forwarded!(OwlNetworks);

    /// All alike: weights are fresh.
    fn rate(&self, _: &str, _: &OptimiserSettings) -> Option<f64> {
        Some(1.0)
    }

    /// On matrices and kernels, but not on embeddings and positions.
    fn decays(&self, placement: &Placement) -> bool {
        let key = placement.key.as_str();
        let exempt = ["position_embedding", "token_embedding"];
        placement.shape.len() > 1
            && key.ends_with(".weight")
            && !exempt.iter().any(|part| key.contains(part))
    }
}
