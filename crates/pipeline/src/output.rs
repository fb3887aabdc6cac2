//! A job's output, read back: only what a commit marker names is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use maskmill_formats::rows::{ImageRow, MaskRow, RowsError, read_images, read_masks};
use maskmill_job::{JobRecord, Plan, Shard};
use maskmill_storage::{
    ClaimError, CommitError, CommitStore, FailureRecord, Marker, OutputStore, PartInfo,
    SourceError, StorageError, StoreOptions, failed_shards, read_record,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::plan_items::{PlanItems, PlanItemsError};
use crate::planning::{PlanningError, read_plan};
use crate::run::{commit_store, new_runtime};
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
    /// The plan cannot be read.
    #[error(transparent)]
    Planning(#[from] PlanningError),
    /// The plan's items cannot be read.
    #[error(transparent)]
    Items(#[from] PlanItemsError),
    /// The job's record is there and its plan is not.
    #[error(
        "{location} has a job and no plan (_plan/000000.json): it was interrupted before anything was done; run the job again"
    )]
    NoPlan {
        /// The location.
        location: String,
    },
    /// The source cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The table of all shards could not be encoded.
    #[error("the table of committed shards could not be written as Parquet: {0}")]
    Table(RowsError),
    /// Shards are missing.
    #[error(
        "{missing} of {planned} shards are not committed{}; run the job to its end first (`maskmill status` tells which)",
        failed_note(*failed)
    )]
    Unfinished {
        /// Not committed.
        missing: u64,
        /// All.
        planned: u64,
        /// Not committed because they failed.
        failed: u64,
    },
    /// The output was finalized with other content.
    #[error(
        "{path} in {location} is there and lists other parts: a part was changed by hand since; run `maskmill verify`"
    )]
    OtherManifest {
        /// The location.
        location: String,
        /// The manifest.
        path: String,
    },
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

fn failed_note(failed: u64) -> String {
    match failed {
        0 => String::new(),
        n => format!(", {n} of them failed (--retry-failed tries those again)"),
    }
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
    pub(crate) store: OutputStore,
    record: JobRecord,
    plan: Arc<Plan>,
    pub(crate) runtime: Runtime,
}

impl JobOutput {
    /// Opens an output directory. Changes nothing.
    ///
    /// # Errors
    /// There is none, no job wrote there, or its record or plan cannot be read.
    pub fn open(location: &str, options: &StoreOptions) -> Result<Self, OutputError> {
        let runtime = new_runtime().map_err(OutputError::Runtime)?;
        let store = runtime.block_on(OutputStore::open_existing(location, options))?;
        let location = location.to_owned();
        let Some(record) = runtime.block_on(read_record(&store))? else {
            return Err(OutputError::NoJob { location });
        };
        let record = serde_json::from_value(record).map_err(|error| {
            let detail = format!("{error}; it was written by another version of maskmill");
            let location = location.clone();
            OutputError::BadRecord { location, detail }
        })?;
        let plan = runtime.block_on(read_plan(&store))?;
        let plan = plan.ok_or(OutputError::NoPlan { location })?;
        Ok(Self {
            store,
            record,
            plan: Arc::new(plan),
            runtime,
        })
    }

    /// What the output was made by.
    pub fn record(&self) -> &JobRecord {
        &self.record
    }

    /// What was to be done.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The items of the plan's shards.
    pub(crate) fn plan_items(&self) -> PlanItems {
        PlanItems::stored(self.store.clone(), self.plan.clone())
    }

    /// Shards that failed and were not committed since.
    ///
    /// # Errors
    /// The store, or a record that cannot be read.
    pub(crate) fn failures(
        &self,
        committed: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, FailureRecord>, OutputError> {
        let mut failures = self.runtime.block_on(failed_shards(&self.store))?;
        failures.retain(|shard, _| !committed.contains(shard));
        Ok(failures)
    }

    /// The shard of the plan.
    pub(crate) fn planned(&self, shard: u32) -> Option<&Shard> {
        self.plan.shard(maskmill_job::ShardId(shard))
    }

    /// The directory on this machine, if it is on this machine.
    pub fn local_root(&self) -> Option<&std::path::Path> {
        self.store.local_root()
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

    pub(crate) fn commits(&self) -> CommitStore {
        // Nothing is put: the limit of a put does not matter.
        commit_store(
            &self.store,
            &self.record.fingerprint,
            &self.record.tool_version,
            u64::MAX,
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

    /// The rows of one image; if it was rejected and tried again, those of the last time.
    ///
    /// # Errors
    /// No committed shard has it, or as [`JobOutput::shard`].
    pub fn image(&self, key: &str) -> Result<ImageRows, OutputError> {
        let mut nearest: Option<(usize, String)> = None;
        // Retries have higher numbers than what they repeat.
        for marker in self.markers()?.iter().rev() {
            for rows in self.shard(marker)? {
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

    fn part(&self, marker: &Marker, part: &PartInfo) -> Result<Bytes, OutputError> {
        let (shard, path) = (marker.shard, part.path.clone());
        let Some(bytes) = self.runtime.block_on(self.store.get(&part.path))? else {
            return Err(OutputError::MissingPart { shard, path });
        };
        let changed = |detail| OutputError::ChangedPart {
            shard,
            path,
            detail,
        };
        if bytes.len() as u64 != part.bytes {
            let detail = format!("{} bytes, the marker says {}", bytes.len(), part.bytes);
            return Err(changed(detail));
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        if sha256 != part.sha256 {
            let detail = format!("sha256 {sha256}, the marker says {}", part.sha256);
            return Err(changed(detail));
        }
        Ok(bytes)
    }
}
