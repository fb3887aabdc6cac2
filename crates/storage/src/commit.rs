//! The commit of a shard: two parts and a marker, each written create-if-absent.
//!
//! ```text
//!            ┌──────────────── marker there? ── yes ──> already committed, nothing to do
//!            no
//!            v
//!   put masks/part-NNNNNN.parquet ─┐
//!   put images/part-NNNNNN.parquet ┤ each: absent ──────────────> written
//!            │                     │       there, same bytes ───> adopted
//!            │                     │       there, same job and rows (an attempt that crashed before
//!            │                     │         its marker, or a second worker) ──> adopted
//!            │                     └       there, else ─> error, nothing overwritten
//!            │       (too large for one write: under a name of this attempt, unasked)
//!            v
//!   a minute gone? ── yes ──> parts still there? else put them again
//!            │
//!            v
//!   put _commits/NNNNNN.json ── there? ── ours, byte for byte ──> committed: the answer was lost
//!            │                         └─ yes ──> already committed, by another worker;
//!            v                                    large parts of this attempt are deleted
//!        committed
//! ```
//!
//! A shard is committed when its marker exists; readers trust only parts that a marker names. A
//! crash between any two steps leaves a shard without a marker, which the next run does again. Two
//! workers on one shard are harmless: one marker wins, and both find the same parts.
//!
//! **Why look again after a minute?** Between a part and its marker the part is an orphan, and the
//! `gc` of another machine deletes orphans, old ones only. A process that was stopped in between,
//! for hours perhaps, must not commit what is gone.
//!
//! **Why adopt?** Rows are determined by the input and the fingerprint, except for timings
//! (`milliseconds`), so two attempts write equal rows in unequal bytes. Writing the second attempt
//! under a name of its own would leave the first as an orphan, and everyone who reads
//! `masks/*.parquet` would count its rows twice. The part that is there is as good as ours, so the
//! marker takes its digest. What decides is what the part says about itself: its fingerprint, its
//! shard, and a digest over all its values but the timings ([`PartFacts`]).
//!
//! **Large parts** cannot be written create-if-absent on every store, so they go by multipart
//! upload to a name that no other attempt uses, and the marker names it. An attempt that dies
//! leaves an orphan; that is what `gc` is for.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::error::StorageError;
use crate::output::{OutputStore, PutOutcome};
use crate::{attempt_id, layout, sha256_hex};

/// A part above this goes by multipart upload. S3 takes 5 GB in one write, which would be sent anew
/// as a whole after every hiccup.
const PUT_LIMIT: u64 = 1 << 30;

/// Parts that were put longer ago are looked for before the marker names them. No `gc` deletes an
/// orphan that is younger.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Which of the two parts of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// One row per mask.
    Masks,
    /// One row per image, the rejected ones too.
    Images,
}

impl PartKind {
    fn path(self, shard: u32) -> String {
        match self {
            PartKind::Masks => layout::masks_part(shard),
            PartKind::Images => layout::images_part(shard),
        }
    }
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PartKind::Masks => "masks",
            PartKind::Images => "images",
        })
    }
}

/// A finished part file, to be written.
#[derive(Debug, Clone)]
pub struct Part {
    /// The whole file.
    pub bytes: Bytes,
    /// How many rows it has.
    pub rows: u64,
}

/// The two parts of a shard.
#[derive(Debug, Clone)]
pub struct ShardParts {
    /// One row per mask.
    pub masks: Part,
    /// One row per image, the rejected ones too.
    pub images: Part,
}

/// What a part file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFacts {
    /// The fingerprint of the job that wrote it.
    pub fingerprint: String,
    /// Its shard.
    pub shard: u32,
    /// How many rows it has.
    pub rows: u64,
    /// A digest over every value of every row that the input and the fingerprint determine;
    /// timings are left out. Two parts are interchangeable if it is equal.
    pub rows_digest: String,
}

/// Reads what a part file says about itself. Called only when a part is already there.
///
/// An error means that the file is damaged or no part at all.
pub type InspectPart =
    Arc<dyn Fn(PartKind, &Bytes) -> Result<PartFacts, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// What a shard took, in the attempt that committed it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardStats {
    /// Encoded bytes of its images.
    #[serde(default)]
    pub bytes: u64,
    /// Time in each stage, summed over its images; by the stage's name.
    #[serde(default)]
    pub stage_seconds: BTreeMap<String, f64>,
}

/// What a shard came to, for its marker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShardSummary {
    /// A digest of the plan's items that it was made from.
    pub inputs: String,
    /// The shard whose rejected images it tries again.
    pub retry_of: Option<u32>,
    /// Images that were read and given to the model.
    pub images_ok: u64,
    /// Images that became rows with a reason.
    pub images_rejected: u64,
    /// How many were rejected, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Wall time of the shard.
    pub seconds: f64,
    /// What it took.
    pub stats: ShardStats,
}

/// A part that a marker commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Below the output's root.
    pub path: String,
    /// How many rows it has.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
}

/// The content of `_commits/NNNNNN.json`: the shard is done, and these are its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Marker {
    /// The shard.
    pub shard: u32,
    /// Which rows the job makes.
    pub fingerprint: String,
    /// A digest of the plan's items that it was made from; empty in markers of old versions.
    #[serde(default)]
    pub inputs: String,
    /// The shard whose rejected images it tries again.
    #[serde(default)]
    pub retry_of: Option<u32>,
    /// The mask rows.
    pub masks: PartInfo,
    /// The image rows.
    pub images: PartInfo,
    /// Images that were read and given to the model.
    pub images_ok: u64,
    /// Images that became rows with a reason.
    pub images_rejected: u64,
    /// How many were rejected, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Wall time of the shard, in the attempt that committed it.
    pub seconds: f64,
    /// What it took.
    #[serde(default)]
    pub stats: ShardStats,
    /// The version of maskmill that committed it.
    pub tool_version: String,
}

/// What [`CommitStore::commit_shard`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Commit {
    /// The shard is committed now, by this call.
    Committed(Marker),
    /// The shard was committed by another attempt; its marker stands.
    AlreadyCommitted(Marker),
}

impl Commit {
    /// The marker that stands.
    pub fn marker(&self) -> &Marker {
        match self {
            Commit::Committed(marker) | Commit::AlreadyCommitted(marker) => marker,
        }
    }
}

/// A shard could not be committed, or its marker not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The file belongs to another job. Stop.
    #[error(
        "{path} in {location} was written by another job: its fingerprint is {found}, this job's \
         is {ours}; nothing was overwritten. Use another output directory"
    )]
    FingerprintMismatch {
        /// The root of the store.
        location: String,
        /// The part or marker.
        path: String,
        /// The fingerprint in the file.
        found: String,
        /// This job's.
        ours: String,
    },

    /// The same job got other rows before: the input has changed. The shard fails.
    #[error(
        "{path} in {location}, left by an attempt at this shard that did not finish, has other \
         rows than this attempt (there {found_rows}, here {our_rows}): the input changed in \
         between, or an image could not be read in one of them. Delete that file and run again"
    )]
    RowsDiffer {
        /// The root of the store.
        location: String,
        /// The part.
        path: String,
        /// Its number of rows.
        found_rows: u64,
        /// The number of rows of this attempt.
        our_rows: u64,
    },

    /// A part that no marker names cannot be read. The shard fails.
    #[error(
        "{path} in {location} is not a readable {kind} part, and no marker commits it. \
         Delete that file and run again"
    )]
    CorruptPart {
        /// The root of the store.
        location: String,
        /// The part.
        path: String,
        /// Which part it should be.
        kind: PartKind,
        /// What the reader said.
        source: Box<dyn Error + Send + Sync>,
    },

    /// A marker cannot be read. The shard fails.
    #[error(
        "{path} in {location} is not a marker of its shard: {reason}. \
         Delete that file and run again: the shard is then checked against its parts"
    )]
    CorruptMarker {
        /// The root of the store.
        location: String,
        /// The marker.
        path: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The commits of one job in one output. Cheap to clone.
#[derive(Clone)]
pub struct CommitStore {
    store: OutputStore,
    fingerprint: String,
    tool_version: String,
    inspect: InspectPart,
    put_limit: u64,
    look_again_after: Duration,
}

impl fmt::Debug for CommitStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitStore")
            .field("store", &self.store)
            .field("fingerprint", &self.fingerprint)
            .field("tool_version", &self.tool_version)
            .finish_non_exhaustive()
    }
}

impl CommitStore {
    /// The commits of the job `fingerprint` in `store`, made by `tool_version`.
    pub fn new(
        store: OutputStore,
        fingerprint: &str,
        tool_version: &str,
        inspect: InspectPart,
    ) -> Self {
        CommitStore {
            store,
            fingerprint: fingerprint.to_string(),
            tool_version: tool_version.to_string(),
            inspect,
            put_limit: PUT_LIMIT,
            look_again_after: LOOK_AGAIN_AFTER,
        }
    }

    /// Parts above `bytes` go by multipart upload, under a name of their attempt.
    pub fn with_put_limit(mut self, bytes: u64) -> Self {
        self.put_limit = bytes;
        self
    }

    /// The store underneath.
    pub fn store(&self) -> &OutputStore {
        &self.store
    }

    /// The marker of `shard`; `None` if it is not committed. Changes nothing.
    ///
    /// # Errors
    /// A marker that is damaged or of another job, or a store that fails.
    pub async fn committed(&self, shard: u32) -> Result<Option<Marker>, CommitError> {
        let path = layout::marker(shard);
        let Some(bytes) = self.store.get(&path).await? else {
            return Ok(None);
        };
        let corrupt = |path: String, reason: String| CommitError::CorruptMarker {
            location: self.store.location().to_string(),
            path,
            reason,
        };
        let marker: Marker = match serde_json::from_slice(&bytes) {
            Ok(marker) => marker,
            Err(error) => return Err(corrupt(path, error.to_string())),
        };
        if marker.shard != shard {
            return Err(corrupt(path, format!("it names shard {}", marker.shard)));
        }
        self.check_fingerprint(&path, &marker.fingerprint)?;
        Ok(Some(marker))
    }

    /// The shards that have a marker, by one listing and without reading the markers. Changes
    /// nothing.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn committed_shards(&self) -> Result<BTreeSet<u32>, StorageError> {
        let markers = self.store.list(layout::COMMITS).await?;
        let shards = markers.iter();
        Ok(shards
            .filter_map(|marker| layout::shard_of_marker(&marker.path))
            .collect())
    }

    /// All markers, in the order of shards. Changes nothing.
    ///
    /// # Errors
    /// As [`CommitStore::committed`], for the first marker that cannot be read.
    pub async fn markers(&self) -> Result<Vec<Marker>, CommitError> {
        // Enough to hide the latency of a remote store.
        const READS_IN_FLIGHT: usize = 32;
        let shards = self.committed_shards().await?;
        let markers = stream::iter(shards).map(|shard| self.committed(shard));
        let markers = markers.buffered(READS_IN_FLIGHT);
        // A marker that vanished after the listing was deleted by hand: not committed.
        let markers = markers.try_filter_map(|marker| async move { Ok(marker) });
        markers.try_collect().await
    }

    /// Commits a shard, as drawn at the top of this module. Idempotent, and safe beside other
    /// workers on the same shard.
    ///
    /// # Errors
    /// A part or marker that is there and is not ours ([`CommitError::FingerprintMismatch`],
    /// [`CommitError::RowsDiffer`]) or cannot be read, or a store that fails. In each case the
    /// shard has no marker from this call, and nothing that was there has changed.
    pub async fn commit_shard(
        &self,
        shard: u32,
        parts: ShardParts,
        summary: ShardSummary,
    ) -> Result<Commit, CommitError> {
        if let Some(marker) = self.committed(shard).await? {
            return Ok(Commit::AlreadyCommitted(marker));
        }
        let begun = Instant::now();
        let masks = self.put_part(PartKind::Masks, shard, &parts.masks).await?;
        let images = self
            .put_part(PartKind::Images, shard, &parts.images)
            .await?;
        let (masks, images) = match begun.elapsed() > self.look_again_after {
            true => (
                self.put_back(PartKind::Masks, shard, &parts.masks, masks)
                    .await?,
                self.put_back(PartKind::Images, shard, &parts.images, images)
                    .await?,
            ),
            false => (masks, images),
        };
        let marker = Marker {
            shard,
            fingerprint: self.fingerprint.clone(),
            inputs: summary.inputs,
            retry_of: summary.retry_of,
            masks,
            images,
            images_ok: summary.images_ok,
            images_rejected: summary.images_rejected,
            rejects: summary.rejects,
            seconds: summary.seconds,
            stats: summary.stats,
            tool_version: self.tool_version.clone(),
        };
        self.put_marker(marker).await
    }

    async fn put_marker(&self, marker: Marker) -> Result<Commit, CommitError> {
        let mut json = serde_json::to_vec_pretty(&marker).expect("a marker has string keys");
        json.push(b'\n');
        let json = Bytes::from(json);
        let path = layout::marker(marker.shard);
        let put = self.store.put_if_absent(&path, json.clone()).await?;
        if put == PutOutcome::Created || self.store.get(&path).await?.as_ref() == Some(&json) {
            return Ok(Commit::Committed(marker));
        }
        let Some(theirs) = self.committed(marker.shard).await? else {
            return Err(CommitError::CorruptMarker {
                location: self.store.location().to_string(),
                path,
                reason: "it disappeared while it was read".to_string(),
            });
        };
        self.delete_own(&marker, &theirs).await;
        Ok(Commit::AlreadyCommitted(theirs))
    }

    /// Deletes the parts that only this attempt has names for, now that another one's marker stands.
    /// Those that stay, if the store fails, are orphans for `gc`.
    async fn delete_own(&self, ours: &Marker, theirs: &Marker) {
        let pairs = [
            (
                &ours.masks.path,
                &theirs.masks.path,
                layout::masks_part(ours.shard),
            ),
            (
                &ours.images.path,
                &theirs.images.path,
                layout::images_part(ours.shard),
            ),
        ];
        let mut orphans = Vec::new();
        for (ours, theirs, shared) in pairs {
            if ours != theirs && *ours != shared {
                orphans.push(ours.clone());
            }
        }
        if orphans.is_empty() {
            return;
        }
        if let Err(error) = self.store.delete(&orphans).await {
            tracing::warn!(%error, ?orphans, "parts that nobody needs could not be deleted");
        }
    }

    /// Writes a part, or adopts the one that is there.
    async fn put_part(
        &self,
        kind: PartKind,
        shard: u32,
        ours: &Part,
    ) -> Result<PartInfo, CommitError> {
        // Deleted between "there is one" and the look at it: by hand, or by a `gc`.
        const TRIES: usize = 3;
        let path = kind.path(shard);
        if ours.bytes.len() as u64 > self.put_limit {
            return self.put_large_part(&path, ours).await;
        }
        for _ in 0..TRIES {
            let put = self.store.put_if_absent(&path, ours.bytes.clone()).await?;
            if put == PutOutcome::Created {
                return Ok(part_info(path, ours));
            }
            let Some(found) = self.store.get(&path).await? else {
                continue;
            };
            if found != ours.bytes {
                self.check_same_rows(kind, shard, &path, &found, ours)?;
            }
            let adopted = Part {
                bytes: found,
                rows: ours.rows,
            };
            return Ok(part_info(path, &adopted));
        }
        Err(CommitError::CorruptPart {
            location: self.store.location().to_string(),
            path,
            kind,
            source: "it is there for every write, and gone for every look at it".into(),
        })
    }

    async fn put_large_part(&self, path: &str, ours: &Part) -> Result<PartInfo, CommitError> {
        let info = part_info(path.to_string(), ours);
        let path = layout::attempt_part(path, &attempt_id(&info.sha256));
        self.store.put_large(&path, ours.bytes.clone()).await?;
        Ok(PartInfo { path, ..info })
    }

    /// Puts a part again that is gone.
    async fn put_back(
        &self,
        kind: PartKind,
        shard: u32,
        ours: &Part,
        put: PartInfo,
    ) -> Result<PartInfo, CommitError> {
        match self.store.exists(&put.path).await? {
            true => Ok(put),
            false => self.put_part(kind, shard, ours).await,
        }
    }

    fn check_same_rows(
        &self,
        kind: PartKind,
        shard: u32,
        path: &str,
        found: &Bytes,
        ours: &Part,
    ) -> Result<(), CommitError> {
        let corrupt = |source| CommitError::CorruptPart {
            location: self.store.location().to_string(),
            path: path.to_string(),
            kind,
            source,
        };
        let theirs = (self.inspect)(kind, found).map_err(corrupt)?;
        self.check_fingerprint(path, &theirs.fingerprint)?;
        if theirs.shard != shard {
            let what = format!("it says it belongs to shard {}", theirs.shard);
            return Err(corrupt(what.into()));
        }
        let our_facts = (self.inspect)(kind, &ours.bytes)
            .unwrap_or_else(|error| panic!("the {kind} part just made cannot be read: {error}"));
        if theirs != our_facts {
            return Err(CommitError::RowsDiffer {
                location: self.store.location().to_string(),
                path: path.to_string(),
                found_rows: theirs.rows,
                our_rows: our_facts.rows,
            });
        }
        Ok(())
    }

    fn check_fingerprint(&self, path: &str, found: &str) -> Result<(), CommitError> {
        if found == self.fingerprint {
            return Ok(());
        }
        Err(CommitError::FingerprintMismatch {
            location: self.store.location().to_string(),
            path: path.to_string(),
            found: found.to_string(),
            ours: self.fingerprint.clone(),
        })
    }
}

fn part_info(path: String, part: &Part) -> PartInfo {
    PartInfo {
        path,
        rows: part.rows,
        bytes: part.bytes.len() as u64,
        sha256: sha256_hex(&part.bytes),
    }
}

#[cfg(test)]
mod tests;
