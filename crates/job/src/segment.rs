//! One link of a frozen plan: its head, as JSON, which names the files that hold its items.
//!
//! ```text
//!  head of segment 0 <── previous ── head of segment 1 <── previous ── ...
//!    │ files                           │ files
//!    ├─> items of shards 0..400        └─> items of shards 517..530
//!    └─> items of shards 400..517
//! ```
//!
//! Every digest covers the ones below it: a shard's its items, a file's its shards, a segment's
//! its files and the segment before. Whoever has the digest of the last head can tell any change.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fingerprint::{Fingerprint, hex};
use crate::item::{write_option, write_text};
use crate::plan::PlanError;
use crate::shard::{Shard, ShardId};

/// The layout of heads and item files; raised when an older build could not read a newer one's.
pub const SEGMENT_VERSION: u32 = 1;

/// Why a segment was added to a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentKind {
    /// The plan began with it.
    First,
    /// The source has grown.
    Extension,
    /// Rejected items of earlier shards are tried again.
    Retry,
}

/// A file of plan items and the shards they make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawFile", into = "RawFile")]
pub struct SegmentFile {
    /// Below the output's root.
    pub path: String,
    /// How many items it has.
    pub items: u64,
    /// SHA-256 over what is said of its shards, their digests among it; lower-case hex.
    pub digest: String,
    /// The number of its first shard.
    pub first_shard: ShardId,
    /// Its shards, numbered on from `first_shard`, in the order of their items in the file.
    pub shards: Vec<Shard>,
}

impl SegmentFile {
    /// The file at `path` with the items of `shards`.
    ///
    /// # Panics
    /// If the shards are not numbered on from `first_shard`.
    pub fn new(path: String, first_shard: ShardId, shards: Vec<Shard>) -> Self {
        for (at, shard) in shards.iter().enumerate() {
            let number = u64::from(first_shard.0) + at as u64;
            assert_eq!(u64::from(shard.id.0), number, "shards are numbered on");
        }
        SegmentFile {
            path,
            items: shards.iter().map(|shard| u64::from(shard.items)).sum(),
            digest: shards_digest(&shards),
            first_shard,
            shards,
        }
    }

    /// The number behind its last shard.
    ///
    /// Beyond 32 bits only in a damaged file, hence the width.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.first_shard.0) + self.shards.len() as u64
    }
}

/// One link of a frozen plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// [`SEGMENT_VERSION`] of the build that wrote it.
    pub version: u32,
    /// Its place in the chain, from 0.
    pub number: u32,
    /// The digest of the segment before; the first has none.
    pub previous: Option<String>,
    /// Which rows the job makes.
    pub fingerprint: Fingerprint,
    /// Why it was added.
    pub kind: SegmentKind,
    /// When, by the clock of the machine that planned.
    pub created_unix_seconds: u64,
    /// The version of maskmill that planned.
    pub tool_version: String,
    /// The source as the pipeline names it.
    pub source: String,
    /// How many planned keys were found to have other content; they are not planned again.
    pub changed: u64,
    /// How many planned keys were no longer found.
    pub vanished: u64,
    /// Its items, file by file in the order of shards.
    pub files: Vec<SegmentFile>,
    /// [`SegmentDraft::digest`], lower-case hex.
    pub digest: String,
}

/// A segment before it has its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDraft {
    /// See [`Segment::number`].
    pub number: u32,
    /// See [`Segment::previous`].
    pub previous: Option<String>,
    /// See [`Segment::fingerprint`].
    pub fingerprint: Fingerprint,
    /// See [`Segment::kind`].
    pub kind: SegmentKind,
    /// See [`Segment::created_unix_seconds`].
    pub created_unix_seconds: u64,
    /// See [`Segment::tool_version`].
    pub tool_version: String,
    /// See [`Segment::source`].
    pub source: String,
    /// See [`Segment::changed`].
    pub changed: u64,
    /// See [`Segment::vanished`].
    pub vanished: u64,
    /// See [`Segment::files`].
    pub files: Vec<SegmentFile>,
}

impl SegmentDraft {
    /// SHA-256 over what decides rows: the segment before, the fingerprint, the kind and the
    /// shards. Two planners that see the same listing get the same.
    ///
    /// The paths of the files do not enter, so that they may be named after the digest; what is
    /// read from them is checked against their shards by [`check_items`](crate::check_items).
    pub fn digest(&self) -> String {
        let files = &self.files;
        segment_digest(
            self.number,
            self.previous.as_deref(),
            &self.fingerprint,
            self.kind,
            files,
        )
    }
}

impl Segment {
    /// The finished segment.
    pub fn seal(draft: SegmentDraft) -> Self {
        let digest = draft.digest();
        Segment {
            version: SEGMENT_VERSION,
            number: draft.number,
            previous: draft.previous,
            fingerprint: draft.fingerprint,
            kind: draft.kind,
            created_unix_seconds: draft.created_unix_seconds,
            tool_version: draft.tool_version,
            source: draft.source,
            changed: draft.changed,
            vanished: draft.vanished,
            files: draft.files,
            digest,
        }
    }

    /// Reads the head of a segment; `name` is the object's path, for errors.
    ///
    /// # Errors
    /// It was written by a build with another layout, it is no head, or it is not as it was
    /// written: a digest or a count does not agree.
    pub fn from_json(json: &[u8], name: &str) -> Result<Self, PlanError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |detail: String| PlanError::damaged(name, detail);
        let version: Version = serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
        if version.version != SEGMENT_VERSION {
            return Err(PlanError::Version {
                place: name.to_string(),
                found: version.version,
            });
        }
        let segment: Segment = serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
        segment.check().map_err(damaged)?;
        Ok(segment)
    }

    /// The head as it is written.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("a segment has string keys");
        json.push(b'\n');
        json
    }

    /// Whether digests, counts and numbers agree; if not, what does not.
    pub(crate) fn check(&self) -> Result<(), String> {
        for file in &self.files {
            let items: u64 = file.shards.iter().map(|s| u64::from(s.items)).sum();
            if file.items != items {
                return Err(format!(
                    "{} is said to have {} items, its shards have {items}",
                    file.path, file.items
                ));
            }
            if file.digest != shards_digest(&file.shards) {
                let path = &file.path;
                return Err(format!("the digest of the shards of {path} does not agree"));
            }
        }
        for pair in self.files.windows(2) {
            if pair[0].end() != u64::from(pair[1].first_shard.0) {
                return Err(format!(
                    "the shards of {} begin at {}, not behind those of {}",
                    pair[1].path, pair[1].first_shard, pair[0].path
                ));
            }
        }
        let digest = segment_digest(
            self.number,
            self.previous.as_deref(),
            &self.fingerprint,
            self.kind,
            &self.files,
        );
        if self.digest != digest {
            let found = &self.digest;
            return Err(format!(
                "its digest is {found:?}, its content's is {digest}"
            ));
        }
        self.check_kind()
    }

    /// Whether kind, number, link and shards go together.
    fn check_kind(&self) -> Result<(), String> {
        let is_first = self.kind == SegmentKind::First;
        if is_first != (self.number == 0) || is_first != self.previous.is_none() {
            let (kind, number) = (self.kind, self.number);
            let link = if self.previous.is_some() { "a" } else { "no" };
            return Err(format!(
                "number {number} of kind {kind:?} has {link} segment before it"
            ));
        }
        let is_retry = self.kind == SegmentKind::Retry;
        for shard in self.files.iter().flat_map(|file| &file.shards) {
            if shard.retry_of.is_some() != is_retry {
                let (kind, id) = (self.kind, shard.id);
                return Err(format!("shard {id} does not belong in the kind {kind:?}"));
            }
            if shard.retry_of.is_some_and(|of| of >= shard.id) {
                let id = shard.id;
                return Err(format!("shard {id} repeats a shard that is not before it"));
            }
        }
        Ok(())
    }
}

fn segment_digest(
    number: u32,
    previous: Option<&str>,
    fingerprint: &Fingerprint,
    kind: SegmentKind,
    files: &[SegmentFile],
) -> String {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    write_option(previous, &mut bytes);
    write_text(fingerprint.as_str(), &mut bytes);
    bytes.push(match kind {
        SegmentKind::First => 0,
        SegmentKind::Extension => 1,
        SegmentKind::Retry => 2,
    });
    for file in files {
        bytes.extend_from_slice(&file.first_shard.0.to_le_bytes());
        bytes.extend_from_slice(&file.items.to_le_bytes());
        write_text(&file.digest, &mut bytes);
    }
    hex(&Sha256::digest(&bytes))
}

/// SHA-256 over everything that is said of the shards.
fn shards_digest(shards: &[Shard]) -> String {
    let mut bytes = Vec::new();
    for shard in shards {
        bytes.extend_from_slice(&shard.id.0.to_le_bytes());
        for number in [shard.images, shard.retry_of.map(|of| u64::from(of.0))] {
            bytes.push(u8::from(number.is_some()));
            bytes.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
        }
        bytes.extend_from_slice(&shard.bytes.to_le_bytes());
        bytes.extend_from_slice(&shard.items.to_le_bytes());
        write_text(&shard.digest, &mut bytes);
    }
    hex(&Sha256::digest(&bytes))
}

/// [`SegmentFile`] as it is written: shards without their numbers, which follow from the first's.
#[derive(Serialize, Deserialize)]
struct RawFile {
    path: String,
    items: u64,
    digest: String,
    first_shard: ShardId,
    shards: Vec<RawShard>,
}

/// `[images, bytes, items, digest]`, and for a retry the shard it repeats. 90 bytes: plans have
/// thousands of shards.
#[derive(Serialize, Deserialize)]
struct RawShard(
    Option<u64>,
    u64,
    u32,
    String,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<ShardId>,
);

impl From<SegmentFile> for RawFile {
    fn from(file: SegmentFile) -> Self {
        let shards = file.shards.into_iter();
        let raw = |s: Shard| RawShard(s.images, s.bytes, s.items, s.digest, s.retry_of);
        RawFile {
            path: file.path,
            items: file.items,
            digest: file.digest,
            first_shard: file.first_shard,
            shards: shards.map(raw).collect(),
        }
    }
}

impl TryFrom<RawFile> for SegmentFile {
    type Error = String;

    fn try_from(file: RawFile) -> Result<Self, String> {
        let mut shards = Vec::with_capacity(file.shards.len());
        for (at, RawShard(images, bytes, items, digest, retry_of)) in
            file.shards.into_iter().enumerate()
        {
            let at = u32::try_from(at).ok();
            let id = at.and_then(|at| file.first_shard.0.checked_add(at));
            shards.push(Shard {
                id: ShardId(id.ok_or("it has more than 2^32 shards")?),
                images,
                bytes,
                items,
                retry_of,
                digest,
            });
        }
        Ok(SegmentFile {
            path: file.path,
            items: file.items,
            digest: file.digest,
            first_shard: file.first_shard,
            shards,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
