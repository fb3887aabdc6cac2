//! Reading a model's sizes from its tensors' shapes.

use crate::checkpoint::{Checkpoint, CheckpointError};

/// The shapes of a checkpoint, with what was looked for in vain noted.
pub struct Shapes<'a> {
    checkpoint: &'a Checkpoint,
    missing: Vec<String>,
}

impl<'a> Shapes<'a> {
    /// Nothing missing yet.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self {
            checkpoint,
            missing: Vec::new(),
        }
    }

    /// The shape of `key` with rank `R` and without empty sides, or ones with the key noted as missing.
    pub fn of<const R: usize>(&mut self, key: &str) -> [usize; R] {
        let shape = self.checkpoint.shape(key);
        let shape: Option<[usize; R]> = shape.and_then(|shape| shape.try_into().ok());
        let shape = shape.filter(|shape| shape.iter().all(|side| *side > 0));
        shape.unwrap_or_else(|| {
            self.missing.push(format!("{key} (of rank {R})"));
            [1; R]
        })
    }

    /// How many consecutive `prefix.N.suffix` there are, from 0.
    pub fn count(&self, prefix: &str, suffix: &str) -> usize {
        (0..)
            .take_while(|n| {
                let key = format!("{prefix}.{n}.{suffix}");
                self.checkpoint.shape(&key).is_some()
            })
            .count()
    }

    /// What was missing, if anything was; `hint` follows the list.
    ///
    /// # Errors
    /// [`CheckpointError::OtherModel`]: the file is none of a `wanted` model.
    pub fn finish(self, wanted: &'static str, hint: &str) -> Result<(), CheckpointError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let lacks = format!("{}{hint}", self.missing.join(", "));
        Err(self.checkpoint.other_model(wanted, &lacks))
    }
}
