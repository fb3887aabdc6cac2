//! The last stage: rows in the order of their shard, committed when the shard is whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use maskmill_formats::rows::{
    ImageStatus, MaskRow, ParquetMeta, RowsError, images_to_parquet, masks_to_parquet, read_images,
    read_masks, read_meta,
};
use maskmill_job::{Fingerprint, ShardId};
use maskmill_storage::{
    CommitError, CommitStore, InspectPart, Marker, Part, PartFacts, PartKind, ShardParts,
    ShardSummary,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::stages::{FinishedImage, hex};

/// Metadata entry that holds a part's shard.
const SHARD_ENTRY: &str = "shard";

/// A shard whose images are coming in.
pub(crate) struct OpenShard {
    started: Instant,
    /// How many images it has, once it is read to its end.
    expected: Option<usize>,
    /// By place in the shard.
    images: BTreeMap<usize, FinishedImage>,
}

impl OpenShard {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            expected: None,
            images: BTreeMap::new(),
        }
    }

    pub(crate) fn push(&mut self, image: FinishedImage) {
        self.images.insert(image.index, image);
    }

    pub(crate) fn expect(&mut self, images: usize) {
        self.expected = Some(images);
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.expected == Some(self.images.len())
    }
}

/// Why a shard was not committed.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Its rows could not be encoded.
    #[error("its rows could not be written as Parquet: {0}")]
    Rows(#[from] RowsError),
    /// Its parts could not be stored.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Writes the rows of whole shards.
pub(crate) struct Assembler {
    pub commits: CommitStore,
    pub fingerprint: Fingerprint,
    pub runtime: Handle,
}

impl Assembler {
    /// Encodes and commits a whole shard.
    pub(crate) fn commit(&self, id: ShardId, shard: OpenShard) -> Result<Marker, ShardError> {
        let mut images = Vec::with_capacity(shard.images.len());
        let mut masks: Vec<MaskRow> = Vec::new();
        let mut rejects: BTreeMap<String, u64> = BTreeMap::new();
        for finished in shard.images.into_values() {
            if let (ImageStatus::Rejected, Some(reason)) =
                (finished.image.status, &finished.image.reason)
            {
                *rejects.entry(reason.clone()).or_default() += 1;
            }
            images.push(finished.image);
            masks.extend(finished.masks);
        }
        let images_rejected = rejects.values().sum();
        let summary = ShardSummary {
            images_ok: images.len() as u64 - images_rejected,
            images_rejected,
            rejects,
            seconds: shard.started.elapsed().as_secs_f64(),
        };
        let meta = meta(&self.fingerprint, id);
        let parts = ShardParts {
            masks: part(masks_to_parquet(&masks, &meta)?, masks.len()),
            images: part(images_to_parquet(&images, &meta)?, images.len()),
        };
        let commit = self.commits.commit_shard(id.0, parts, summary);
        Ok(self.runtime.block_on(commit)?.marker().clone())
    }
}

fn part(bytes: Vec<u8>, rows: usize) -> Part {
    Part {
        bytes: Bytes::from(bytes),
        rows: rows as u64,
    }
}

fn meta(fingerprint: &Fingerprint, shard: ShardId) -> ParquetMeta {
    ParquetMeta {
        fingerprint: fingerprint.to_string(),
        entries: BTreeMap::from([(SHARD_ENTRY.to_owned(), shard.to_string())]),
    }
}

/// Reads what a part says about itself, for the commit protocol.
pub(crate) fn inspector() -> InspectPart {
    Arc::new(|kind, bytes| Ok(inspect(kind, bytes)?))
}

fn inspect(kind: PartKind, bytes: &Bytes) -> Result<PartFacts, RowsError> {
    let meta = read_meta(bytes.clone())?;
    // Encoding is deterministic: equal rows are equal bytes. Timings do not count.
    let (rows, canonical) = match kind {
        PartKind::Masks => {
            let rows = read_masks(bytes.clone())?;
            (rows.len(), masks_to_parquet(&rows, &meta)?)
        }
        PartKind::Images => {
            let mut rows = read_images(bytes.clone())?;
            rows.iter_mut().for_each(|row| row.milliseconds = 0.0);
            (rows.len(), images_to_parquet(&rows, &meta)?)
        }
    };
    let shard = meta.entries.get(SHARD_ENTRY);
    let shard = shard.and_then(|shard| shard.parse().ok());
    Ok(PartFacts {
        fingerprint: meta.fingerprint,
        shard: shard.unwrap_or(u32::MAX),
        rows: rows as u64,
        rows_digest: hex(&Sha256::digest(canonical)),
    })
}
