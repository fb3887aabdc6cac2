//! What all sources do: read an image below a folder, and put an image and its masks together.

use std::fs;
use std::path::{Component, Path, PathBuf};

use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_masks::{ImageSize, Rle};
use maskmill_pixels::RgbImage;

use crate::{Example, ExampleError, MaskProblem, Problem};

/// Which example is being read, and from which of its files the next problem comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) key: &'a str,
    pub(crate) file: &'a Path,
}

impl At<'_> {
    pub(crate) fn problem(&self, problem: Problem) -> ExampleError {
        ExampleError {
            key: self.key.to_owned(),
            file: self.file.to_owned(),
            problem,
        }
    }

    /// A mask that cannot be used, and where it is in the file.
    pub(crate) fn mask(&self, place: String, problem: MaskProblem) -> ExampleError {
        self.problem(Problem::Mask { place, problem })
    }

    /// An example of an image and the masks of the file, each with its place in it.
    ///
    /// # Errors
    /// A mask has another size than the image, or no mask has a pixel.
    pub(crate) fn example(
        &self,
        image: RgbImage,
        masks: impl IntoIterator<Item = (String, Rle)>,
    ) -> Result<Example, ExampleError> {
        let mut kept = Vec::new();
        let mut empty_masks = 0;
        for (place, mask) in masks {
            if mask.size() != image.size() {
                let problem = MaskProblem::Size {
                    mask: mask.size(),
                    image: image.size(),
                };
                return Err(self.mask(place, problem));
            }
            match mask.area() {
                0 => empty_masks += 1,
                _ => kept.push(mask),
            }
        }
        if kept.is_empty() {
            return Err(self.problem(Problem::NoMasks { empty: empty_masks }));
        }
        Ok(Example {
            key: self.key.to_owned(),
            image,
            masks: kept,
            empty_masks,
        })
    }

    /// Checks an image's size against what the file says of it.
    pub(crate) fn check_size(
        &self,
        stated: Option<ImageSize>,
        image: &RgbImage,
    ) -> Result<(), ExampleError> {
        match stated {
            Some(stated) if stated != image.size() => Err(self.problem(Problem::ImageSize {
                stated,
                image: image.size(),
            })),
            _ => Ok(()),
        }
    }
}

/// Reads and decodes the image of an example, upright.
pub(crate) fn read_image(key: &str, file: &Path) -> Result<RgbImage, ExampleError> {
    let at = At { key, file };
    let bytes = fs::read(file).map_err(|source| at.problem(Problem::Unreadable(source)))?;
    let decoded = decode(&bytes, &DecodeLimits::default());
    let decoded = decoded.map_err(|source| at.problem(Problem::Image(source)))?;
    Ok(decoded.image)
}

/// `folder/name`; none if the name could lead out of the folder.
pub(crate) fn below(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = Path::new(name).components();
    let stays = parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (stays && !name.is_empty()).then(|| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_folder() {
        let folder = Path::new("images");
        for name in ["a.jpg", "a/b.jpg", "./a.jpg"] {
            assert_eq!(below(folder, name), Some(folder.join(name)));
        }
        for name in ["", "/etc/passwd", "../a.jpg", "a/../../b.jpg"] {
            assert_eq!(below(folder, name), None, "{name:?}");
        }
    }
}
