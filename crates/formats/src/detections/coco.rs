//! COCO files: annotations of a dataset, or the results of a detector.
//!
//! ```text
//! dataset  { "images":      [{ "id", "file_name" }],
//!            "annotations": [{ "image_id", "category_id", "bbox": [x, y, w, h], "score"?, "iscrowd"? }],
//!            "categories":  [{ "id", "name" }] }
//! results  [{ "image_id", "category_id", "bbox": [x, y, w, h], "score" }]
//! ```
//! Results (Detectron2's `coco_instances_results.json`, and what most detectors write) name neither images nor
//! categories: these come from the dataset's own file. Without it an image id is looked for in the images' names, and a
//! label is the category's id. Ids are whole numbers or texts. Everything else in a file is ignored.
//!
//! A file whose entries do not belong together is an error as a whole. Boxes that cannot be meant are an error of their
//! image, found by [`check`](super::check) when the image's size is known.

mod file;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;

use self::file::{BoxField, Category, Document, Entry, Id, Image, Number};
use super::Detection;
use super::image_index::ImageIndex;

/// What a file should be, for messages.
const SHAPE: &str = "{\"images\", \"annotations\", \"categories\"}, or a list of results [{\"image_id\", \
                     \"category_id\", \"bbox\", \"score\"}, ..]";

/// A file in memory.
#[derive(Debug, Clone, Copy)]
pub struct CocoFile<'a> {
    /// What to call it in messages: its path.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Why a COCO file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CocoError {
    /// It is no JSON.
    #[error("{file} is not JSON; a COCO file is")]
    NotJson {
        /// The file.
        file: String,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// It is JSON of another kind.
    #[error("{file} is not a COCO file: {detail}. It should be {SHAPE}")]
    WrongShape {
        /// The file.
        file: String,
        /// What it is instead.
        detail: String,
    },
    /// An entry cannot be used.
    #[error("{file}, {place}: {detail}")]
    BadEntry {
        /// The file.
        file: String,
        /// The list and the place in it, from 0.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An entry is of an image that is not listed.
    #[error(
        "{file}, {place}: there is no image with the id {image_id:?} among the {images} of {images_file}; is it the \
         dataset's file?"
    )]
    NoSuchImage {
        /// The file with the entry.
        file: String,
        /// The list and the place in it, from 0.
        place: String,
        /// What it refers to.
        image_id: String,
        /// How many images are listed.
        images: usize,
        /// Where they are listed.
        images_file: String,
    },
    /// An entry is of a category that is not listed.
    #[error(
        "{file}, {place}: there is no category with the id {category_id:?} among the {categories} of {categories_file}"
    )]
    NoSuchCategory {
        /// The file with the entry.
        file: String,
        /// The list and the place in it, from 0.
        place: String,
        /// What it refers to.
        category_id: String,
        /// How many categories are listed.
        categories: usize,
        /// Where they are listed.
        categories_file: String,
    },
    /// None of its images is among those it is used for.
    #[error(
        "{file}: none of its {images} images is among those of the source; it has {example:?}, and the source \
         {key:?}{hint}"
    )]
    MatchesNothing {
        /// The file.
        file: String,
        /// How many images it has.
        images: usize,
        /// The first of them.
        example: String,
        /// The first of the source.
        key: String,
        /// What may help, or nothing.
        hint: &'static str,
    },
}

/// Two images of a file of boxes, or two label files, have the name of one image of the source. It concerns that image
/// alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the boxes of the image {key:?} may be those of {first:?} or {second:?}; give the images the paths that they have there"
)]
pub struct AmbiguousImage {
    /// The image of the source.
    pub key: String,
    /// One that it may be.
    pub first: String,
    /// Another.
    pub second: String,
}

impl AmbiguousImage {
    /// The stable code written to rejected image rows.
    pub const REASON: &'static str = "ambiguous_image";
}

/// The detections of a COCO file by the names of their images.
///
/// It takes some 100 bytes for a detection, and twice that while it is read.
#[derive(Debug)]
pub struct CocoDetections {
    file: String,
    images: ImageIndex,
    are_ids: bool,
    /// Those of an image are one behind the other, in the order of the file.
    detections: Vec<Detection>,
    /// Of each image, where in `detections`.
    ranges: Vec<Range<usize>>,
    crowds_skipped: usize,
}

impl CocoDetections {
    /// Reads a file, and for a list of results the file that has its images and categories.
    ///
    /// Annotations of crowds (`iscrowd`) are left out: their boxes are around many objects.
    ///
    /// # Errors
    /// [`CocoError`] if a file is no such file, or its entries do not fit together.
    pub fn read(file: CocoFile<'_>, dataset: Option<CocoFile<'_>>) -> Result<Self, CocoError> {
        let name = file.name;
        match (parse(file)?, dataset) {
            (Document::Results(results), None) => {
                let place = |at| format!("result {at}, counted from 0");
                let lists = Lists::default();
                lists.detections(name, results, &place)
            }
            (Document::Results(results), Some(dataset)) => {
                let Document::Dataset(found) = parse(dataset)? else {
                    let detail = "it is a list, and so is the file of the results".to_owned();
                    return Err(wrong_shape(dataset.name, detail));
                };
                let place = |at| format!("result {at}, counted from 0");
                let images = present(found.images, "images", dataset.name, &found.keys)?;
                let lists = Lists::new(dataset.name, images, found.categories)?;
                lists.detections(name, results, &place)
            }
            (Document::Dataset(found), None) => {
                let images = present(found.images, "images", name, &found.keys)?;
                let annotations = present(found.annotations, "annotations", name, &found.keys)?;
                let place = |at| format!("annotations[{at}]");
                let lists = Lists::new(name, images, found.categories)?;
                lists.detections(name, annotations, &place)
            }
            (Document::Dataset(found), Some(dataset)) => {
                let keys = listed(&found.keys);
                let detail = format!(
                    "beside {} it should be a list of results, and it is an object with {keys}",
                    dataset.name
                );
                Err(wrong_shape(name, detail))
            }
        }
    }

    /// The detections of an image: none if the file has no such image, and an empty slice if it has the image and
    /// nothing on it.
    ///
    /// `image_key` is its path below the root of the source, or `TAR/KEY`. It is looked for as it is; then by where both
    /// paths end alike, by its file name, and by its file name without the extension. Where ids are all there is, they
    /// are looked for in the same way, and numbers as the digits of a file name: `000000000139.jpg` is 139.
    ///
    /// The source is not known here: of two images of the source with one file name, in folders that the file does not
    /// tell, both get the detections of that name.
    ///
    /// # Errors
    /// [`AmbiguousImage`] if it may be either of two.
    pub fn of(&self, image_key: &str) -> Result<Option<&[Detection]>, AmbiguousImage> {
        match self.images.find(image_key) {
            Ok(found) => Ok(found.map(|image| &self.detections[self.ranges[image].clone()])),
            Err((first, second)) => Err(AmbiguousImage {
                key: image_key.to_owned(),
                first: self.images.name(first).to_owned(),
                second: self.images.name(second).to_owned(),
            }),
        }
    }

    /// Whether the file has any of these images, or several with the name of one.
    pub fn matches_any<'a>(&self, image_keys: impl IntoIterator<Item = &'a str>) -> bool {
        let mut keys = image_keys.into_iter();
        keys.any(|key| !matches!(self.of(key), Ok(None)))
    }

    /// Checks that the file has any of these images: if it has none, it is of another dataset.
    ///
    /// # Errors
    /// [`CocoError::MatchesNothing`]. A file without images, or no keys, are no error.
    pub fn require_match<'a>(
        &self,
        image_keys: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), CocoError> {
        let mut keys = image_keys.into_iter();
        let Some(first) = keys.next() else {
            return Ok(());
        };
        if self.images.len() == 0 || self.matches_any([first]) || self.matches_any(keys) {
            return Ok(());
        }
        let hint = match self.are_ids {
            true => {
                "; the names of images are not in a list of results, give the dataset's file as well"
            }
            false => "",
        };
        Err(CocoError::MatchesNothing {
            file: self.file.clone(),
            images: self.images.len(),
            example: self.images.name(0).to_owned(),
            key: first.to_owned(),
            hint,
        })
    }

    /// Number of detections.
    pub fn detections(&self) -> usize {
        self.detections.len()
    }

    /// Number of images with detections.
    pub fn images_with_detections(&self) -> usize {
        self.ranges.iter().filter(|range| !range.is_empty()).count()
    }

    /// Number of annotations of crowds that were left out.
    pub fn crowds_skipped(&self) -> usize {
        self.crowds_skipped
    }
}

fn parse(file: CocoFile<'_>) -> Result<Document, CocoError> {
    let name = file.name;
    file::parse(file.bytes).map_err(|source| match source.is_data() {
        true => wrong_shape(name, source.to_string()),
        false => CocoError::NotJson {
            file: name.to_owned(),
            source,
        },
    })
}

fn wrong_shape(file: &str, detail: String) -> CocoError {
    CocoError::WrongShape {
        file: file.to_owned(),
        detail,
    }
}

fn present<T>(
    list: Option<Vec<T>>,
    key: &str,
    file: &str,
    keys: &[String],
) -> Result<Vec<T>, CocoError> {
    list.ok_or_else(|| {
        let detail = format!("{key:?} is missing; it is an object with {}", listed(keys));
        wrong_shape(file, detail)
    })
}

/// The keys of an object, for a message.
fn listed(keys: &[String]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
    match keys.is_empty() {
        true => "no keys".to_owned(),
        false => format!("the keys {}", keys.join(", ")),
    }
}

/// The images and categories that entries refer to. Without them every id is known.
#[derive(Default)]
struct Lists {
    /// The file that has them.
    file: String,
    images: Option<Vec<String>>,
    places: HashMap<Id, usize>,
    categories: Option<HashMap<Id, String>>,
}

impl Lists {
    fn new(
        file: &str,
        images: Vec<Image>,
        categories: Option<Vec<Category>>,
    ) -> Result<Self, CocoError> {
        let bad = |place: String, detail: String| CocoError::BadEntry {
            file: file.to_owned(),
            place,
            detail,
        };
        let mut places = HashMap::with_capacity(images.len());
        let mut names = Vec::with_capacity(images.len());
        for (at, image) in images.into_iter().enumerate() {
            let place = || format!("images[{at}]");
            let name = image.file_name.or(image.coco_url);
            let name = name.ok_or_else(|| bad(place(), "it has no file_name".to_owned()))?;
            if let Some(first) = places.insert(image.id, at) {
                let detail = format!("it has the id of images[{first}]");
                return Err(bad(place(), detail));
            }
            names.push(as_path(&name));
        }
        let mut labels = HashMap::new();
        for (at, category) in categories.iter().flatten().enumerate() {
            let place = || format!("categories[{at}]");
            let name = category.name.trim().to_owned();
            if name.is_empty() {
                return Err(bad(place(), "its name is empty".to_owned()));
            }
            if let Some(other) = labels.insert(category.id.clone(), name.clone())
                && other != name
            {
                let id = &category.id;
                let detail = format!("{name:?} has the id {id}, and so has {other:?}");
                return Err(bad(place(), detail));
            }
        }
        Ok(Self {
            file: file.to_owned(),
            images: Some(names),
            places,
            categories: categories.map(|_| labels),
        })
    }

    /// Sorts `entries` by image. `place` says where one is in `file`.
    fn detections(
        mut self,
        file: &str,
        entries: Vec<Entry>,
        place: &dyn Fn(usize) -> String,
    ) -> Result<CocoDetections, CocoError> {
        let mut of_images = Vec::with_capacity(entries.len());
        let mut ids = Vec::new();
        let mut crowds_skipped = 0;
        for (at, entry) in entries.into_iter().enumerate() {
            let bad = |detail: &str| CocoError::BadEntry {
                file: file.to_owned(),
                place: place(at),
                detail: detail.to_owned(),
            };
            let image_id = entry.image_id.ok_or_else(|| bad("it has no image_id"))?;
            let image = match (self.places.get(&image_id), &self.images) {
                (Some(image), _) => *image,
                (None, None) => {
                    ids.push(as_path(&image_id.to_string()));
                    self.places.insert(image_id, ids.len() - 1);
                    ids.len() - 1
                }
                (None, Some(images)) => {
                    return Err(CocoError::NoSuchImage {
                        file: file.to_owned(),
                        place: place(at),
                        image_id: image_id.to_string(),
                        images: images.len(),
                        images_file: self.file,
                    });
                }
            };
            if entry.iscrowd.0 {
                crowds_skipped += 1;
                continue;
            }
            let BoxField(sides) = entry.bbox.ok_or_else(|| bad("it has no bbox"))?;
            let [x, y, width, height] =
                sides.ok_or_else(|| bad("bbox should be four numbers [x, y, width, height]"))?;
            let score = match entry.score {
                None => None,
                Some(Number(Some(score))) => Some(score as f32),
                Some(Number(None)) => return Err(bad("score should be a number")),
            };
            let label = match (entry.category_id, &self.categories) {
                (None, _) => None,
                (Some(id), None) => Some(id.to_string()),
                (Some(id), Some(categories)) => match categories.get(&id) {
                    Some(name) => Some(name.clone()),
                    None => {
                        return Err(CocoError::NoSuchCategory {
                            file: file.to_owned(),
                            place: place(at),
                            category_id: id.to_string(),
                            categories: categories.len(),
                            categories_file: self.file,
                        });
                    }
                },
            };
            let detection = Detection {
                box_xyxy_px: [x, y, x + width, y + height],
                label,
                score,
            };
            of_images.push((image, detection));
        }
        let are_ids = self.images.is_none();
        let images = ImageIndex::new(self.images.unwrap_or(ids), are_ids);
        // Stable: the order of the file remains within an image.
        of_images.sort_by_key(|(image, _)| *image);
        let mut ranges = vec![0..0; images.len()];
        let mut end = 0;
        for of_image in of_images.chunk_by(|(a, _), (b, _)| a == b) {
            ranges[of_image[0].0] = end..end + of_image.len();
            end += of_image.len();
        }
        let detections = of_images.into_iter().map(|(_, detection)| detection);
        Ok(CocoDetections {
            file: file.to_owned(),
            images,
            are_ids,
            detections: detections.collect(),
            ranges,
            crowds_skipped,
        })
    }
}

/// A name as images have it below the root of a source: with `/`, and not from `./`.
fn as_path(name: &str) -> String {
    let path = name.trim().replace('\\', "/");
    let path = path.strip_prefix("./").unwrap_or(&path);
    path.trim_start_matches('/').to_owned()
}
