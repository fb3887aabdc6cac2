//! Outputs of `maskmill run` as examples.

mod spill;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use maskmill_formats::rows::{ImageStatus, read_images};
use maskmill_masks::ImageSize;
use serde::Deserialize;

pub use self::spill::TableError;
use self::spill::{Part, Spill};
use crate::assemble::{At, below, read_image};
use crate::{Example, ExampleError, OpenError, Problem};

/// Where an output's markers are.
const COMMITS: &str = "_commits";

/// The images of a job's output that have masks.
///
/// ```text
/// _commits/000012.json           names the parts of a shard that is done
/// images/part-000012.parquet     read when the output is opened
/// masks/part-000012.parquet      read once, when the first of its examples is asked for
/// ```
/// Only what is committed counts. Of an image that was tried again the row in the highest shard counts, as everywhere in
/// maskmill. A key is the image's path below the folder that was the job's source; images of a job over tars or
/// tables have to be unpacked to their keys.
///
/// A part of masks is read as a whole, since rows are compressed together, and then kept as compressed run lengths in an
/// unnamed temporary file: so examples can be drawn in any order, and only 24 bytes a mask are held in memory.
#[derive(Debug)]
pub struct MaskOutput {
    folder: PathBuf,
    images: Vec<Image>,
    parts: Vec<MaskPart>,
    spill: Spill,
}

#[derive(Debug)]
struct Image {
    key: String,
    size: ImageSize,
    /// In `parts`.
    part: usize,
}

#[derive(Debug)]
struct MaskPart {
    file: PathBuf,
    /// Filled when it is first needed.
    read: OnceLock<Result<Part, TableError>>,
}

/// What is used of a marker of a committed shard.
#[derive(Deserialize)]
struct Marker {
    shard: u32,
    masks: Named,
    images: Named,
}

#[derive(Deserialize)]
struct Named {
    path: String,
}

impl MaskOutput {
    /// Reads the markers and the tables of images of `output`, a directory; `folder` is where the keys begin.
    ///
    /// # Errors
    /// Nothing is committed there, or a marker or a table cannot be read.
    pub fn open(output: &Path, folder: &Path) -> Result<Self, OpenError> {
        let mut parts = Vec::new();
        // The last word on a key.
        let mut rows = HashMap::new();
        for marker in markers(output)? {
            let file = output.join(&marker.images.path);
            let bytes = fs::read(&file).map_err(|source| OpenError::Unreadable {
                path: file.clone(),
                source,
            })?;
            let images = read_images(bytes.into());
            let images = images.map_err(|source| OpenError::Table { path: file, source })?;
            for row in images {
                let usable = row.status == ImageStatus::Ok && row.masks > 0;
                let size = ImageSize::new(row.height, row.width);
                rows.insert(row.image_key, usable.then_some((size, parts.len())));
            }
            parts.push(MaskPart {
                file: output.join(&marker.masks.path),
                read: OnceLock::new(),
            });
        }
        let mut images: Vec<Image> = rows
            .into_iter()
            .filter_map(|(key, usable)| usable.map(|(size, part)| Image { key, size, part }))
            .collect();
        images.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        if images.is_empty() {
            return Err(OpenError::Empty {
                path: output.to_owned(),
                what: "images with masks",
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
            images,
            parts,
            spill: Spill::new().map_err(|source| OpenError::Unreadable {
                path: std::env::temp_dir(),
                source,
            })?,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// The image's key in the tables.
    pub(crate) fn key(&self, index: usize) -> &str {
        &self.images[index].key
    }

    pub(crate) fn example(&self, index: usize) -> Result<Example, ExampleError> {
        let Image { key, size, part } = &self.images[index];
        let part = &self.parts[*part];
        let at = At {
            key,
            file: &part.file,
        };
        let image = self.image(at)?;
        at.check_size(Some(*size), &image)?;
        let read = part.read.get_or_init(|| self.spill.part(&part.file));
        let masks = match read {
            Ok(read) => self.spill.masks(read, key),
            Err(error) => Err(error.clone()),
        };
        let masks = masks.map_err(|error| at.problem(Problem::Table(error)))?;
        let masks = masks
            .into_iter()
            .map(|(id, mask)| (format!("mask {id} of the image"), mask));
        at.example(image, masks)
    }

    fn image(&self, at: At<'_>) -> Result<maskmill_pixels::RgbImage, ExampleError> {
        let Some(path) = below(&self.folder, at.key) else {
            let name = at.key.to_owned();
            return Err(at.problem(Problem::ImageName { name }));
        };
        // `shard.tar/a/b` and `table.parquet/00000007`: a file where a folder would have to be.
        let container = path.ancestors().skip(1).find(|path| path.is_file());
        match container {
            Some(container) => {
                let at = At {
                    key: at.key,
                    file: container,
                };
                Err(at.problem(Problem::Packed { path: path.clone() }))
            }
            None => read_image(at.key, &path),
        }
    }
}

/// The markers of the committed shards, by shard.
fn markers(output: &Path) -> Result<Vec<Marker>, OpenError> {
    let folder = output.join(COMMITS);
    let unreadable = |source| OpenError::Unreadable {
        path: folder.clone(),
        source,
    };
    let mut markers: Vec<Marker> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = fs::read(&path).map_err(|source| OpenError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let marker = serde_json::from_slice(&bytes).map_err(|source| OpenError::Json {
            path: path.clone(),
            expected: "a marker of a committed shard",
            source,
        })?;
        markers.push(marker);
    }
    markers.sort_unstable_by_key(|marker| marker.shard);
    Ok(markers)
}
