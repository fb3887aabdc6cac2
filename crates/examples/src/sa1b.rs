//! Folders in SA-1B's layout: images, and a JSON file for each.

use std::fs;
use std::path::{Path, PathBuf};

use maskmill_masks::ImageSize;
use serde::Deserialize;

use crate::assemble::{At, below, read_image};
use crate::segmentation::Segmentation;
use crate::{Example, ExampleError, MaskProblem, OpenError, Problem};

/// What a file should be, for messages.
const EXPECTED: &str = "JSON of SA-1B's layout {\"image\": {\"file_name\", \"width\", \"height\"}, \"annotations\": \
                        [{\"segmentation\"}, ..]}";

/// A folder of JSON files, one for each image: SA-1B itself, or what `maskmill export` writes.
///
/// ```text
/// sa_000000/sa_1.jpg
/// sa_000000/sa_1.json   {"image": {"file_name": "sa_1.jpg", "width", "height"}, "annotations": [{"segmentation"}, ..]}
/// ```
/// The image of a file lies beside it, or at its `file_name` below the folder itself.
#[derive(Debug)]
pub struct Sa1bFolder {
    folder: PathBuf,
    /// The files' paths below the folder, with `/` and without `.json`; sorted.
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    image: Image,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Image {
    file_name: String,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
struct Annotation {
    id: Option<u64>,
    #[serde(default)]
    segmentation: Segmentation,
}

impl Sa1bFolder {
    /// Lists the JSON files of a folder, at any depth and in the order of their paths. None of them is read. Hidden files
    /// and folders, and names that are not UTF-8, are passed over.
    ///
    /// # Errors
    /// A folder cannot be listed, or there is no JSON file.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let mut keys = Vec::new();
        list(folder, "", &mut keys)?;
        if keys.is_empty() {
            return Err(OpenError::Empty {
                path: folder.to_owned(),
                what: "JSON files",
            });
        }
        keys.sort_unstable();
        Ok(Self {
            folder: folder.to_owned(),
            keys,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn key(&self, index: usize) -> &str {
        &self.keys[index]
    }

    pub(crate) fn example(&self, index: usize) -> Result<Example, ExampleError> {
        let key = &self.keys[index];
        let file = self.folder.join(format!("{key}.json"));
        let at = At { key, file: &file };
        let bytes = fs::read(&file).map_err(|source| at.problem(Problem::Unreadable(source)))?;
        let document: Document = serde_json::from_slice(&bytes).map_err(|source| {
            let expected = EXPECTED;
            at.problem(Problem::Json { expected, source })
        })?;

        let image = read_image(key, &self.image_path(at, &document.image.file_name)?)?;
        let Image { width, height, .. } = document.image;
        let stated = height.zip(width);
        let stated = stated.map(|(height, width)| ImageSize::new(height, width));
        at.check_size(stated, &image)?;

        let mut ids = std::collections::HashSet::new();
        let mut masks = Vec::with_capacity(document.annotations.len());
        for (number, annotation) in document.annotations.iter().enumerate() {
            let place = format!("annotations[{number}]");
            if let Some(id) = annotation.id
                && !ids.insert(id)
            {
                return Err(at.mask(place, MaskProblem::RepeatedId { id: id.to_string() }));
            }
            match annotation.segmentation.to_rle(image.size()) {
                Ok(mask) => masks.push((place, mask)),
                Err(problem) => return Err(at.mask(place, problem)),
            }
        }
        at.example(image, masks)
    }

    /// Where the image of a file is: beside it, or else below the folder.
    fn image_path(&self, at: At<'_>, name: &str) -> Result<PathBuf, ExampleError> {
        let beside = at.file.parent().and_then(|folder| below(folder, name));
        let (Some(beside), Some(in_folder)) = (beside, below(&self.folder, name)) else {
            let name = name.to_owned();
            return Err(at.problem(Problem::ImageName { name }));
        };
        match !beside.exists() && in_folder.exists() {
            true => Ok(in_folder),
            false => Ok(beside),
        }
    }
}

/// Appends the keys of the JSON files in `folder/prefix`.
fn list(folder: &Path, prefix: &str, keys: &mut Vec<String>) -> Result<(), OpenError> {
    let path = folder.join(prefix);
    let unreadable = |source| OpenError::Unreadable {
        path: path.clone(),
        source,
    };
    for entry in fs::read_dir(&path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        // Of what a link leads to.
        let is_folder = fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
        if is_folder {
            list(folder, &format!("{prefix}{name}/"), keys)?;
        } else if let Some(stem) = name.strip_suffix(".json") {
            keys.push(format!("{prefix}{stem}"));
        }
    }
    Ok(())
}
