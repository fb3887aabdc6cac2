//! Generated scenes as examples.

use std::path::Path;

use maskmill_scenes::SceneOptions;

use crate::assemble::At;
use crate::random::Random;
use crate::{Example, ExampleError, OpenError};

/// A number of generated scenes; every object and every part of one is a mask.
#[derive(Debug)]
pub struct Scenes {
    options: SceneOptions,
    seed: u64,
    count: usize,
}

impl Scenes {
    /// `count` scenes. Those of one seed are the same for the same options; those of two seeds have none in common.
    ///
    /// # Errors
    /// [`OpenError::Scenes`] if no scene can be made of the options, [`OpenError::Empty`] for a count of 0.
    pub fn new(options: SceneOptions, seed: u64, count: usize) -> Result<Self, OpenError> {
        let problems = options.problems();
        if !problems.is_empty() {
            return Err(OpenError::Scenes { problems });
        }
        if count == 0 {
            return Err(OpenError::Empty {
                path: "scenes".into(),
                what: "scenes: count is 0",
            });
        }
        Ok(Self {
            options,
            seed,
            count,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// `scenes/SEED/INDEX`.
    pub(crate) fn key(&self, index: usize) -> String {
        assert!(index < self.count, "scene {index} of {}", self.count);
        format!("scenes/{}/{index:08}", self.seed)
    }

    pub(crate) fn example(&self, index: usize) -> Result<Example, ExampleError> {
        let key = self.key(index);
        // Mixed: seeds that follow each other would have all scenes but one in common.
        let seed = Random::new(self.seed, index as u64).next();
        let scene = self.options.scene(seed);
        let at = At {
            key: &key,
            file: Path::new("scene"),
        };
        let masks = scene.objects.into_iter().enumerate();
        let masks = masks.map(|(number, object)| (format!("object {number}"), object.mask));
        at.example(scene.image, masks)
    }
}
