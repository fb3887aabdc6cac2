//! Masks of tables that were read, kept in a temporary file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use maskmill_formats::rows::{RowsError, read_masks};
use maskmill_masks::{ImageSize, Rle, RleError};

/// Why masks could not be had. Cloned: a part that cannot be read fails every example of it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TableError {
    /// A file cannot be read, or the temporary file not written.
    #[error("the file, or its copy in a temporary file, cannot be read or written")]
    Io(#[source] Arc<io::Error>),
    /// The file is no table of masks.
    #[error("the file is no table of masks")]
    Rows(#[source] Arc<RowsError>),
    /// The temporary file was changed.
    #[error("the temporary file of masks was changed")]
    Changed(#[from] RleError),
}

impl From<io::Error> for TableError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Where the masks of one part are.
#[derive(Debug)]
pub(super) struct Part {
    /// In `masks`, by image.
    images: HashMap<Box<str>, Range<u32>>,
    masks: Vec<Place>,
}

/// A mask in the temporary file.
#[derive(Debug)]
struct Place {
    mask_id: u32,
    size: ImageSize,
    length: u32,
    offset: u64,
}

/// A temporary file without a name, which the system removes when it is closed.
#[derive(Debug)]
pub(super) struct Spill {
    file: Mutex<File>,
}

impl Spill {
    pub(super) fn new() -> io::Result<Self> {
        let file = Mutex::new(tempfile::tempfile()?);
        Ok(Self { file })
    }

    /// Reads a table of masks and appends them.
    pub(super) fn part(&self, file: &Path) -> Result<Part, TableError> {
        let bytes = fs::read(file)?;
        let mut rows =
            read_masks(bytes.into()).map_err(|error| TableError::Rows(Arc::new(error)))?;
        // Stable: the order of masks remains. A table of maskmill is sorted already.
        rows.sort_by(|a, b| a.image_key.cmp(&b.image_key));
        let mut part = Part {
            images: HashMap::new(),
            masks: Vec::with_capacity(rows.len()),
        };
        let mut text = String::new();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let start = file.seek(SeekFrom::End(0))?;
        for of_image in rows.chunk_by(|a, b| a.image_key == b.image_key) {
            let first = part.masks.len() as u32;
            for row in of_image {
                let offset = start + text.len() as u64;
                let counts = row.rle.to_coco_string();
                part.masks.push(Place {
                    mask_id: row.mask_id,
                    size: row.rle.size(),
                    length: counts.len() as u32,
                    offset,
                });
                text.push_str(&counts);
            }
            let range = first..part.masks.len() as u32;
            part.images
                .insert(of_image[0].image_key.as_str().into(), range);
        }
        file.write_all(text.as_bytes())?;
        Ok(part)
    }

    /// The masks of an image, each with its `mask_id`; none if the part has none.
    pub(super) fn masks(&self, part: &Part, key: &str) -> Result<Vec<(u32, Rle)>, TableError> {
        let Some(range) = part.images.get(key) else {
            return Ok(Vec::new());
        };
        let places = &part.masks[range.start as usize..range.end as usize];
        // One after the other in the file.
        let (first, last) = (&places[0], &places[places.len() - 1]);
        let length = last.offset + u64::from(last.length) - first.offset;
        let mut text = vec![0; length as usize];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(first.offset))?;
            file.read_exact(&mut text)?;
        }
        let mut masks = Vec::with_capacity(places.len());
        for place in places {
            let start = (place.offset - first.offset) as usize;
            let counts = String::from_utf8_lossy(&text[start..][..place.length as usize]);
            let mask = Rle::from_coco_string(place.size, &counts)?;
            masks.push((place.mask_id, mask));
        }
        Ok(masks)
    }
}
