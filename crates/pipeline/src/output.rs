//! A job's output, read back: only what a commit marker names is trusted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use maskmill_formats::rows::{ImageRow, MaskRow, RowsError, read_images, read_masks};
use maskmill_formats::tar_shard::{TarItem, TarLimits, TarReader};
use maskmill_job::{JobRecord, Source};
use maskmill_storage::{
    ClaimError, CommitError, CommitStore, Marker, OutputStore, PartInfo, StorageError, list_tars,
    read_file, read_record,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::assemble::inspector;
use crate::stages::hex;

/// Why an output could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// No job wrote there.
    #[error(
        "{location} holds no job: there is no _job.json; give the directory that `maskmill run` printed"
    )]
    NoJob {
        /// The location.
        location: String,
    },
    /// The job's record is of another version, or damaged.
    #[error("_job.json in {location} cannot be used: {detail}")]
    BadRecord {
        /// The location.
        location: String,
        /// What is wrong.
        detail: String,
    },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The record cannot be read.
    #[error(transparent)]
    Record(#[from] ClaimError),
    /// A marker cannot be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A marker was deleted while the output was read.
    #[error("shard {shard:06}: its marker disappeared while the output was read")]
    MarkerGone {
        /// The shard.
        shard: u32,
    },
    /// A part that a marker names is missing.
    #[error(
        "shard {shard:06}: {path} is committed but missing; restore it, or delete the shard's marker in _commits and run the job again"
    )]
    MissingPart {
        /// The shard.
        shard: u32,
        /// The part.
        path: String,
    },
    /// A part is not what was committed.
    #[error(
        "shard {shard:06}: {path} is not what was committed ({detail}); restore it, or delete it and the shard's marker in _commits and run the job again"
    )]
    ChangedPart {
        /// The shard.
        shard: u32,
        /// The part.
        path: String,
        /// What differs.
        detail: String,
    },
    /// A part cannot be read as rows.
    #[error("shard {shard:06}: {path}: {source}")]
    Rows {
        /// The shard.
        shard: u32,
        /// The part.
        path: String,
        /// Why.
        source: RowsError,
    },
    /// No committed shard has the image.
    #[error(
        "no image {key:?} in {location}; the column image_key of images/*.parquet lists them{}",
        near(suggestion)
    )]
    NoImage {
        /// The location.
        location: String,
        /// The key asked for.
        key: String,
        /// A key that is like it.
        suggestion: Option<String>,
    },
    /// The image's bytes are gone from the source, or are others.
    #[error("the image {key:?} cannot be read from the source {origin}: {detail}")]
    SourceImage {
        /// The image.
        key: String,
        /// The source.
        origin: String,
        /// Why.
        detail: String,
    },
    /// The runtime for object stores could not be started.
    #[error("no threads for input and output could be started: {0}")]
    Runtime(std::io::Error),
}

fn near(suggestion: &Option<String>) -> String {
    let suggestion = suggestion.as_ref();
    suggestion.map_or(String::new(), |key| format!("; did you mean {key:?}?"))
}

/// One image and its masks, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRows {
    /// The image's row.
    pub image: ImageRow,
    /// Its masks' rows.
    pub masks: Vec<MaskRow>,
}

/// The output of a job.
pub struct JobOutput {
    store: OutputStore,
    record: JobRecord,
    runtime: Runtime,
}

impl JobOutput {
    /// Opens an output directory. Changes nothing.
    ///
    /// # Errors
    /// There is none, no job wrote there, or its record cannot be read.
    pub fn open(location: &str) -> Result<Self, OutputError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(OutputError::Runtime)?;
        let store = OutputStore::open_existing(location)?;
        let location = location.to_owned();
        let Some(record) = runtime.block_on(read_record(&store))? else {
            return Err(OutputError::NoJob { location });
        };
        let record = serde_json::from_value(record).map_err(|error| {
            let detail = format!("{error}; it was written by another version of maskmill");
            OutputError::BadRecord { location, detail }
        })?;
        Ok(Self {
            store,
            record,
            runtime,
        })
    }

    /// What the output was made by.
    pub fn record(&self) -> &JobRecord {
        &self.record
    }

    /// The location as it was given.
    pub fn location(&self) -> &str {
        self.store.location()
    }

    /// The markers of all committed shards, in order.
    ///
    /// # Errors
    /// A marker that cannot be read or is of another job.
    pub fn markers(&self) -> Result<Vec<Marker>, OutputError> {
        Ok(self.runtime.block_on(self.commits().markers())?)
    }

    /// The shards that have a marker, good or not.
    pub(crate) fn committed_shards(&self) -> Result<BTreeSet<u32>, OutputError> {
        Ok(self.runtime.block_on(self.commits().committed_shards())?)
    }

    /// The marker of a shard that has one.
    pub(crate) fn marker(&self, shard: u32) -> Result<Marker, OutputError> {
        let marker = self.runtime.block_on(self.commits().committed(shard))?;
        marker.ok_or(OutputError::MarkerGone { shard })
    }

    fn commits(&self) -> CommitStore {
        CommitStore::new(
            self.store.clone(),
            self.record.fingerprint.as_str(),
            &self.record.tool_version,
            inspector(),
        )
    }

    /// The rows of a committed shard, checked against the digests in its marker, image by image.
    ///
    /// # Errors
    /// A part that is missing, changed or unreadable, or masks that belong to no image of the shard.
    pub fn shard(&self, marker: &Marker) -> Result<Vec<ImageRows>, OutputError> {
        let rows = |path: &str| {
            let (shard, path) = (marker.shard, path.to_owned());
            move |source| OutputError::Rows {
                shard,
                path,
                source,
            }
        };
        let images = self.part(marker, &marker.images)?;
        let images = read_images(images).map_err(rows(&marker.images.path))?;
        let masks = self.part(marker, &marker.masks)?;
        let masks = read_masks(masks).map_err(rows(&marker.masks.path))?;
        let changed = |part: &PartInfo, detail| OutputError::ChangedPart {
            shard: marker.shard,
            path: part.path.clone(),
            detail,
        };
        for (part, found) in [(&marker.images, images.len()), (&marker.masks, masks.len())] {
            if part.rows != found as u64 {
                let detail = format!("{found} rows, the marker says {}", part.rows);
                return Err(changed(part, detail));
            }
        }
        let mut masks = masks.into_iter().peekable();
        let mut shard = Vec::with_capacity(images.len());
        for image in images {
            let mut of_image = Vec::with_capacity(image.masks as usize);
            while let Some(mask) = masks.next_if(|mask| mask.image_key == image.image_key) {
                of_image.push(mask);
            }
            let masks = of_image;
            shard.push(ImageRows { image, masks });
        }
        match masks.next() {
            None => Ok(shard),
            Some(stray) => {
                let detail = format!(
                    "mask {} of image {:?} follows no row of its image",
                    stray.mask_id, stray.image_key
                );
                Err(changed(&marker.masks, detail))
            }
        }
    }

    /// The rows of one image.
    ///
    /// # Errors
    /// No committed shard has it, or as [`JobOutput::shard`].
    pub fn image(&self, key: &str) -> Result<ImageRows, OutputError> {
        let mut nearest: Option<(usize, String)> = None;
        for marker in self.markers()? {
            for rows in self.shard(&marker)? {
                let found = &rows.image.image_key;
                if found == key {
                    return Ok(rows);
                }
                // A key given without its folder or extension, or with a typing error or two.
                let stem = found.rsplit_once('.').map_or("", |(stem, _)| stem);
                let distance = match found.ends_with(key) || stem.ends_with(key) {
                    true => 0,
                    false => strsim::levenshtein(found, key),
                };
                if distance <= 3 && nearest.as_ref().is_none_or(|(best, _)| distance < *best) {
                    nearest = Some((distance, found.clone()));
                }
            }
        }
        Err(OutputError::NoImage {
            location: self.location().to_owned(),
            key: key.to_owned(),
            suggestion: nearest.map(|(_, key)| key),
        })
    }

    /// The bytes of an image, read again from the job's source.
    ///
    /// # Errors
    /// They are gone, unreadable, or not those that the job saw.
    pub fn source_image(&self, image: &ImageRow) -> Result<Vec<u8>, OutputError> {
        let source = &self.record.pipeline.source;
        let error = |detail: String| OutputError::SourceImage {
            key: image.image_key.clone(),
            origin: source.path().to_owned(),
            detail,
        };
        let max_bytes = self.record.pipeline.limits.max_file_bytes;
        let bytes = match source {
            Source::Images { path, .. } => {
                let path = Path::new(path).join(&image.image_key);
                read_file(&path, max_bytes)
                    .map(Into::into)
                    .map_err(|e| error(e.to_string()))?
            }
            Source::Webdataset { path } => {
                tar_member(path, &image.image_key, max_bytes).map_err(error)?
            }
        };
        if hex(&Sha256::digest(&bytes)) != image.sha256 {
            let detail = "its bytes changed since the job read it".to_owned();
            return Err(error(detail));
        }
        Ok(bytes)
    }

    fn part(&self, marker: &Marker, part: &PartInfo) -> Result<Bytes, OutputError> {
        let (shard, path) = (marker.shard, part.path.clone());
        let Some(bytes) = self.runtime.block_on(self.store.get(&part.path))? else {
            return Err(OutputError::MissingPart { shard, path });
        };
        let sha256 = hex(&Sha256::digest(&bytes));
        if sha256 != part.sha256 {
            let detail = format!("sha256 {sha256}, the marker says {}", part.sha256);
            return Err(OutputError::ChangedPart {
                shard,
                path,
                detail,
            });
        }
        Ok(bytes)
    }
}

/// The sample `TAR/KEY` of a folder of tar shards.
fn tar_member(root: &str, image_key: &str, max_bytes: u64) -> Result<Vec<u8>, String> {
    let tars = list_tars(Path::new(root)).map_err(|e| e.to_string())?.files;
    let found: Option<(PathBuf, &str)> = tars.into_iter().find_map(|tar| {
        let key = image_key.strip_prefix(&tar.key)?.strip_prefix('/')?;
        Some((tar.path, key))
    });
    let (path, wanted) = found.ok_or("its tar file is gone")?;
    let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let limits = TarLimits {
        max_entry_bytes: max_bytes,
    };
    for item in TarReader::new(BufReader::new(file), limits) {
        match item.map_err(|e| format!("{}: {e}", path.display()))? {
            TarItem::Sample { key, bytes, .. } if key == wanted => return Ok(bytes),
            _ => {}
        }
    }
    Err(format!("{} has no sample {wanted:?}", path.display()))
}
