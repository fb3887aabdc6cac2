//! Where examples come from.

use std::path::Path;

use maskmill_scenes::SceneOptions;

use crate::coco::CocoDataset;
use crate::output::MaskOutput;
use crate::sa1b::Sa1bFolder;
use crate::scenes::Scenes;
use crate::{Example, ExampleError, OpenError, Problem};

/// Examples by their index. Opened once and shared by threads; an example is read and decoded when it is asked for.
#[derive(Debug)]
pub enum Source {
    /// A folder of images and JSON files, as SA-1B has it.
    Sa1b(Sa1bFolder),
    /// A COCO file and its folder of images.
    Coco(CocoDataset),
    /// What a job of maskmill wrote, and the folder of its images.
    Maskmill(MaskOutput),
    /// Generated scenes.
    Scenes(Scenes),
}

impl Source {
    /// A folder of images with a JSON file for each, at any depth: [`Sa1bFolder::open`].
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be listed or has no JSON file.
    pub fn sa1b(folder: &Path) -> Result<Self, OpenError> {
        Sa1bFolder::open(folder).map(Self::Sa1b)
    }

    /// The instances of a COCO file, and the folder that its `file_name`s begin at: [`CocoDataset::open`].
    ///
    /// # Errors
    /// [`OpenError`] if the file is none, or its entries do not belong together.
    pub fn coco(annotations: &Path, images: &Path) -> Result<Self, OpenError> {
        CocoDataset::open(annotations, images).map(Self::Coco)
    }

    /// The committed rows of an output directory, and the folder that was the job's source: [`MaskOutput::open`].
    ///
    /// # Errors
    /// [`OpenError`] if nothing is committed, or a table cannot be read.
    pub fn maskmill(output: &Path, images: &Path) -> Result<Self, OpenError> {
        MaskOutput::open(output, images).map(Self::Maskmill)
    }

    /// `count` generated scenes; those of different seeds have nothing in common: [`Scenes::new`].
    ///
    /// # Errors
    /// [`OpenError::Scenes`] if no scene can be made of the options.
    pub fn scenes(options: SceneOptions, seed: u64, count: usize) -> Result<Self, OpenError> {
        Scenes::new(options, seed, count).map(Self::Scenes)
    }

    /// How many examples there are, usable or not; at least one.
    #[expect(clippy::len_without_is_empty, reason = "an open source is not empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Sa1b(source) => source.len(),
            Self::Coco(source) => source.len(),
            Self::Maskmill(source) => source.len(),
            Self::Scenes(source) => source.len(),
        }
    }

    /// The key of an example, to name it without reading it. No two are the same.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn key(&self, index: usize) -> String {
        match self {
            Self::Sa1b(source) => source.key(index).to_owned(),
            Self::Coco(source) => source.key(index).to_owned(),
            Self::Maskmill(source) => source.key(index).to_owned(),
            Self::Scenes(source) => source.key(index),
        }
    }

    /// Reads an example: the same for the same files.
    ///
    /// # Errors
    /// What is wrong with this example; others can still be used.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn example(&self, index: usize) -> Result<Example, ExampleError> {
        match self {
            Self::Sa1b(source) => source.example(index),
            Self::Coco(source) => source.example(index),
            Self::Maskmill(source) => source.example(index),
            Self::Scenes(source) => source.example(index),
        }
    }

    /// [`example`](Self::example) without the masks that cover less than the part `least` of the image.
    ///
    /// # Errors
    /// As [`example`](Self::example), and [`Problem::SmallMasks`] if no mask is left.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn example_of_masks_from(&self, index: usize, least: f64) -> Result<Example, ExampleError> {
        let mut example = self.example(index)?;
        let size = example.image.size();
        let least_px = least * f64::from(size.width) * f64::from(size.height);
        example.masks.retain(|mask| mask.area() as f64 >= least_px);
        match example.masks.is_empty() {
            true => Err(ExampleError {
                file: (&example.key).into(),
                key: example.key,
                problem: Problem::SmallMasks { least },
            }),
            false => Ok(example),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_masks_are_left_out_and_said_where_none_remains() {
        let source = Source::scenes(SceneOptions::default(), 5, 3).unwrap();
        let all = source.example(0).unwrap();
        let pixels = 512.0 * 512.0;
        let least = all.masks.iter().map(|mask| mask.area()).max().unwrap() as f64 / pixels;
        let some = source.example_of_masks_from(0, least).unwrap();
        assert_eq!(some.masks.len(), 1);
        assert!(all.masks.len() > 1 && all.masks.contains(&some.masks[0]));
        let none = source.example_of_masks_from(0, least + 1.0 / pixels);
        let error = none.unwrap_err();
        assert_eq!(error.problem.reason(), "small_masks");
        assert!(error.to_string().contains("scenes/5/00000000"), "{error}");
    }

    #[test]
    fn sources_are_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Source>();
        shared::<ExampleError>();
    }
}
