//! COCO files: the instances of many images.

mod file;

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use maskmill_masks::ImageSize;

use self::file::Annotation;
use crate::assemble::{At, below, read_image};
use crate::segmentation::Segmentation;
use crate::{Example, ExampleError, OpenError, Problem};

/// The images of a COCO file that have instances.
///
/// ```text
/// { "images":      [{ "id", "file_name", "height"?, "width"? }],
///   "annotations": [{ "id"?, "image_id", "segmentation", "iscrowd"? }] }
/// ```
/// Crowds are left out, since they are no single object; images without another annotation are no examples. Ids are
/// whole numbers or texts. The file is read once; polygons are kept in fifths of a pixel, 8 bytes a corner, and drawn
/// when their example is asked for.
#[derive(Debug)]
pub struct CocoDataset {
    file: PathBuf,
    folder: PathBuf,
    images: Vec<Image>,
    /// Sorted by image; within one in the order of the file.
    instances: Vec<Instance>,
    crowds_skipped: usize,
    images_without_masks: usize,
}

#[derive(Debug)]
struct Image {
    file_name: String,
    size: Option<ImageSize>,
    /// In `instances`.
    instances: Range<usize>,
}

#[derive(Debug)]
struct Instance {
    /// In the file's list.
    number: usize,
    segmentation: Segmentation,
}

impl CocoDataset {
    /// Reads a file; `folder` is where its `file_name`s begin. No image is looked at.
    ///
    /// # Errors
    /// - [`OpenError::Unreadable`], [`OpenError::Json`]: the file
    /// - [`OpenError::Entry`]: an id or a `file_name` that is there twice, an annotation of an image that is not there, a
    ///   `file_name` that leads out of the folder
    /// - [`OpenError::Empty`]: no image has an instance
    pub fn open(file: &Path, folder: &Path) -> Result<Self, OpenError> {
        let bytes = fs::read(file).map_err(|source| OpenError::Unreadable {
            path: file.to_owned(),
            source,
        })?;
        let content = file::parse(&bytes).map_err(|source| OpenError::Json {
            path: file.to_owned(),
            expected: file::EXPECTED,
            source,
        })?;
        drop(bytes);

        let places = check_images(file, folder, &content.images)?;
        let (of_images, crowds_skipped) = sort(file, &places, content.annotations)?;
        let mut instances = Vec::new();
        let mut images = Vec::new();
        let all = content.images.len();
        for (image, of_image) in content.images.into_iter().zip(of_images) {
            if of_image.is_empty() {
                continue;
            }
            let start = instances.len();
            instances.extend(of_image);
            let size = image.height.zip(image.width);
            images.push(Image {
                file_name: image.file_name,
                size: size.map(|(height, width)| ImageSize::new(height, width)),
                instances: start..instances.len(),
            });
        }
        if images.is_empty() {
            return Err(OpenError::Empty {
                path: file.to_owned(),
                what: "annotations that are no crowds",
            });
        }
        Ok(Self {
            file: file.to_owned(),
            folder: folder.to_owned(),
            images_without_masks: all - images.len(),
            images,
            instances,
            crowds_skipped,
        })
    }

    /// Annotations of crowds, which were left out.
    pub fn crowds_skipped(&self) -> usize {
        self.crowds_skipped
    }

    /// Images without an annotation that is no crowd; they are no examples.
    pub fn images_without_masks(&self) -> usize {
        self.images_without_masks
    }

    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// The image's `file_name`.
    pub(crate) fn key(&self, index: usize) -> &str {
        &self.images[index].file_name
    }

    pub(crate) fn example(&self, index: usize) -> Result<Example, ExampleError> {
        let Image {
            file_name: key,
            size,
            instances,
        } = &self.images[index];
        let at = At {
            key,
            file: &self.file,
        };
        let path = below(&self.folder, key).ok_or_else(|| {
            let name = key.clone();
            at.problem(Problem::ImageName { name })
        })?;
        let image = read_image(key, &path)?;
        at.check_size(*size, &image)?;
        let mut masks = Vec::with_capacity(instances.len());
        for instance in &self.instances[instances.clone()] {
            let place = format!("annotations[{}]", instance.number);
            match instance.segmentation.to_rle(image.size()) {
                Ok(mask) => masks.push((place, mask)),
                Err(problem) => return Err(at.mask(place, problem)),
            }
        }
        at.example(image, masks)
    }
}

/// Where each id is in the list of images.
fn check_images<'a>(
    path: &Path,
    folder: &Path,
    images: &'a [file::Image],
) -> Result<HashMap<&'a str, usize>, OpenError> {
    let bad = |number: usize, detail: String| OpenError::Entry {
        path: path.to_owned(),
        place: format!("images[{number}]"),
        detail,
    };
    let mut places = HashMap::with_capacity(images.len());
    let mut names = HashMap::with_capacity(images.len());
    for (number, image) in images.iter().enumerate() {
        let name = &image.file_name;
        if let Some(first) = places.insert(&*image.id.0, number) {
            let detail = format!(
                "it has the id {} of images[{first}]; give each image an id of its own",
                image.id.0
            );
            return Err(bad(number, detail));
        }
        if let Some(first) = names.insert(name, number) {
            let detail =
                format!("it has the file_name {name:?} of images[{first}]; list each image once");
            return Err(bad(number, detail));
        }
        if below(folder, name).is_none() {
            let detail = format!("the file_name {name:?} is not a path below the folder of images");
            return Err(bad(number, detail));
        }
    }
    Ok(places)
}

/// The instances of each image, and how many crowds there are.
fn sort(
    path: &Path,
    places: &HashMap<&str, usize>,
    annotations: Vec<Annotation>,
) -> Result<(Vec<Vec<Instance>>, usize), OpenError> {
    let bad = |number: usize, detail: String| OpenError::Entry {
        path: path.to_owned(),
        place: format!("annotations[{number}]"),
        detail,
    };
    let mut of_images: Vec<Vec<Instance>> = Vec::new();
    of_images.resize_with(places.len(), Vec::new);
    let mut crowds = 0;
    let mut ids = HashMap::with_capacity(annotations.len());
    for (number, annotation) in annotations.into_iter().enumerate() {
        if let Some(id) = annotation.id {
            if let Some(first) = ids.get(&*id.0) {
                let detail = format!(
                    "it has the id {} of annotations[{first}]; give each annotation an id of its own",
                    id.0
                );
                return Err(bad(number, detail));
            }
            ids.insert(id.0, number);
        }
        let image_id = annotation.image_id.0;
        let Some(&image) = places.get(&*image_id) else {
            let detail = format!(
                "its image_id {image_id} is none of the {} images'; the file may have been cut into parts wrongly",
                places.len()
            );
            return Err(bad(number, detail));
        };
        match annotation.iscrowd.0 {
            true => crowds += 1,
            false => of_images[image].push(Instance {
                number,
                segmentation: annotation.segmentation,
            }),
        }
    }
    Ok((of_images, crowds))
}
