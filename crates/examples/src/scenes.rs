//! Generated scenes as examples.

use std::path::Path;

use maskmill_scenes::{Scene, SceneOptions};

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

    /// What they are asked for.
    pub fn options(&self) -> &SceneOptions {
        &self.options
    }

    /// How many there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is at least one scene")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// `scenes/SEED/INDEX`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn key(&self, index: usize) -> String {
        assert!(index < self.count, "scene {index} of {}", self.count);
        format!("scenes/{}/{index:08}", self.seed)
    }

    /// A scene with all that is known of its objects: the same for the same options and seed.
    pub fn scene(&self, index: usize) -> Scene {
        // Mixed: seeds that follow each other would have all scenes but one in common.
        let seed = Random::new(self.seed, index as u64).next();
        self.options.scene(seed)
    }

    pub(crate) fn example(&self, index: usize) -> Result<Example, ExampleError> {
        let key = self.key(index);
        let scene = self.scene(index);
        let at = At {
            key: &key,
            file: Path::new("scene"),
        };
        let masks = scene.objects.into_iter().enumerate();
        let masks = masks.map(|(number, object)| (format!("object {number}"), object.mask));
        at.example(scene.image, masks)
    }
}
