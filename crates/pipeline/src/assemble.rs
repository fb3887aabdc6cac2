//! The last stage: rows in the order of their shard, committed when the shard is whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use maskmill_formats::rows::{
    ImageRow, ImageStatus, MaskWriter, ParquetMeta, RowsError, images_to_parquet, masks_to_parquet,
    read_images, read_masks, read_meta,
};
use maskmill_job::{Fingerprint, Shard, ShardId};
use maskmill_storage::{
    Commit, CommitError, CommitStore, InspectPart, Part, PartFacts, PartKind, ShardParts,
    ShardStats, ShardSummary,
};
use sha2::{Digest, Sha256};
use tracing::Instrument;

use crate::meter::{Stage, StageTimes};
use crate::stages::{FinishedImage, hex};

/// Metadata entry that holds a part's shard.
const SHARD_ENTRY: &str = "shard";

/// A shard whose images are coming in. Its masks are encoded as they come, so that what is held of a
/// large tar is compressed rows.
pub(crate) struct OpenShard {
    started: Instant,
    meta: ParquetMeta,
    /// How many images it has, once it is read to its end.
    expected: Option<usize>,
    /// Images that overtook others, by place.
    early: BTreeMap<usize, FinishedImage>,
    images: Vec<ImageRow>,
    masks: MaskWriter,
    rejects: BTreeMap<String, u64>,
    bytes: u64,
    times: StageTimes,
}

impl OpenShard {
    pub(crate) fn new(fingerprint: &Fingerprint, id: ShardId) -> Result<Self, RowsError> {
        let meta = ParquetMeta {
            fingerprint: fingerprint.to_string(),
            entries: BTreeMap::from([(SHARD_ENTRY.to_owned(), id.to_string())]),
        };
        Ok(Self {
            started: Instant::now(),
            masks: MaskWriter::new(&meta)?,
            meta,
            expected: None,
            early: BTreeMap::new(),
            images: Vec::new(),
            rejects: BTreeMap::new(),
            bytes: 0,
            times: StageTimes::default(),
        })
    }

    pub(crate) fn push(&mut self, image: FinishedImage) -> Result<(), RowsError> {
        self.early.insert(image.index, image);
        while let Some(next) = self.early.remove(&self.images.len()) {
            let start = Instant::now();
            if let (ImageStatus::Rejected, Some(reason)) = (next.image.status, &next.image.reason) {
                *self.rejects.entry(reason.clone()).or_default() += 1;
            }
            self.bytes += next.image.bytes;
            self.times.merge(&next.times);
            self.images.push(next.image);
            for mask in next.masks {
                self.masks.push(mask)?;
            }
            self.times.add(Stage::Commit, start.elapsed());
        }
        Ok(())
    }

    /// Images so far and their bytes, to be counted back when the attempt is given up.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        let early: u64 = self.early.values().map(|image| image.image.bytes).sum();
        let images = self.images.len() + self.early.len();
        (images as u64, self.bytes + early)
    }

    pub(crate) fn expect(&mut self, images: usize) {
        self.expected = Some(images);
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.expected == Some(self.images.len())
    }

    /// The parts, and what the marker says of them.
    pub(crate) fn finish(mut self, shard: &Shard) -> Result<(ShardParts, ShardSummary), RowsError> {
        let start = Instant::now();
        let images = images_to_parquet(&self.images, &self.meta)?;
        let mask_rows = self.masks.rows();
        let masks = self.masks.finish()?;
        self.times.add(Stage::Commit, start.elapsed());
        let images_rejected = self.rejects.values().sum();
        let summary = ShardSummary {
            images_ok: self.images.len() as u64 - images_rejected,
            images_rejected,
            rejects: self.rejects,
            seconds: self.started.elapsed().as_secs_f64(),
            inputs: shard.digest.clone(),
            retry_of: shard.retry_of.map(|id| id.0),
            stats: ShardStats {
                bytes: self.bytes,
                stage_seconds: self.times.seconds(),
            },
        };
        let parts = ShardParts {
            masks: part(masks, mask_rows),
            images: part(images, self.images.len()),
        };
        Ok((parts, summary))
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

/// Commits whole shards. Cheap to clone: several commits may be under way.
#[derive(Clone)]
pub(crate) struct Assembler {
    pub commits: CommitStore,
    pub fingerprint: Fingerprint,
}

impl Assembler {
    /// Stores the parts of a whole shard and its marker.
    pub(crate) async fn commit(
        self,
        shard: Shard,
        whole: OpenShard,
    ) -> (Result<Commit, ShardError>, Duration) {
        let start = Instant::now();
        let committed = async {
            // Encoding takes a core for a while; the runtime's threads have requests to answer.
            let encoded = {
                let shard = shard.clone();
                tokio::task::spawn_blocking(move || whole.finish(&shard))
            };
            let (parts, summary) = encoded.await.expect("encoding does not panic")?;
            let commit = self.commits.commit_shard(shard.id.0, parts, summary);
            Ok(commit.await?)
        };
        let span = tracing::debug_span!("commit", shard = %shard.id);
        (committed.instrument(span).await, start.elapsed())
    }
}

fn part(bytes: Vec<u8>, rows: usize) -> Part {
    Part {
        bytes: Bytes::from(bytes),
        rows: rows as u64,
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
