//! Freezes what a source holds into a plan, once, and adds to it.
//!
//! ```text
//!  source ──list──> items ──cut──> shards ──> _plan/000000-<digest>/items-*.parquet ─┐
//!                                                                                   v
//!                                            _plan/000000.json, create-if-absent: the plan
//!  later:  items that no segment has ──cut──> segment 1, 2, ... whose head names the one before
//! ```
//!
//! The head is written last, so a plan is there whole or not at all. Of two machines that plan at once
//! one head wins, and both go on with it: all workers of a job see the same shards. Nothing of a plan
//! is ever rewritten; what changed in the source or vanished from it is found when it is read.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures::{StreamExt, stream};
use maskmill_formats::rows::{ImageStatus, ParquetMeta, RowsError, read_images};
use maskmill_job::{
    Extender, Fingerprint, Item, ItemKind, Plan, PlanError, Segment, SegmentDraft, SegmentFile,
    SegmentKind, Shard, ShardId, ShardLimits, Source, cut,
};
use maskmill_storage::{
    CommitError, CommitStore, OutputStore, PutOutcome, ReadError, StorageError, layout,
};
use tokio::runtime::Handle;

use crate::open_source::OpenSource;
use crate::plan_items::{PlanItems, PlanItemsError, encode, load};
use crate::source::{InputError, list_items};

/// Items per file of a plan: some megabytes each.
const ITEMS_PER_FILE: u64 = 65_536;
/// Requests at the same time, to hide the latency of a remote store.
const AT_ONCE: usize = 16;
/// Rejects that no second look can change: they are of names, not of content.
const HOPELESS: [&str; 12] = [
    "duplicate_key",
    "non_utf8_name",
    "unsafe_name",
    "bad_key",
    "bad_uri",
    "bad_boxes",
    "bad_labels",
    "bad_scores",
    "bad_points",
    "no_uri",
    "not_a_file",
    "compressed_tar",
];

/// A plan could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PlanningError {
    /// The source.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The output's store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The plan in the output.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan's items.
    #[error(transparent)]
    Items(#[from] PlanItemsError),
    /// A head is gone, and what was written after it is there.
    #[error(
        "{path} in {location} is missing, though there is what was done by it; restore it, or plan into a new output"
    )]
    NoHead {
        /// The output.
        location: String,
        /// The head.
        path: String,
    },
    /// The items could not be encoded.
    #[error("the plan could not be written as Parquet: {0}")]
    Rows(#[from] RowsError),
    /// A marker of a shard with rejects.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The images of a shard with rejects.
    #[error("shard {shard}, whose rejects are to be done again: {detail}")]
    Rejects {
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        detail: String,
    },
    /// A rejected image's store gives no answer.
    #[error("{at} cannot be looked at again")]
    Look {
        /// The object.
        at: String,
        /// Why.
        source: ReadError,
    },
}

/// What identifies the job that plans.
#[derive(Clone, Debug)]
pub(crate) struct Planner {
    pub fingerprint: Fingerprint,
    pub tool_version: String,
    pub source: Source,
    pub runtime: Handle,
}

/// What extending a plan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Items that the plan did not have.
    pub new: u64,
    /// Shards they make.
    pub shards: u64,
    /// Items that are as they were.
    pub unchanged: u64,
    /// Keys whose size, etag or place is another: they stay planned as they were.
    pub changed: Vec<String>,
    /// Keys that are no longer there.
    pub vanished: Vec<String>,
}

/// The plan in an output; `None` if there is none. Changes nothing.
pub(crate) async fn read_plan(store: &OutputStore) -> Result<Option<Plan>, PlanningError> {
    let mut segments = Vec::new();
    loop {
        let number = segments.len() as u32;
        let path = layout::plan_head(number);
        let mut found = store.get(&path).await?;
        if found.is_none() && has_what_follows(store, number).await? {
            // Unless another machine has just written both.
            found = store.get(&path).await?;
            if found.is_none() {
                let location = store.location().to_owned();
                return Err(PlanningError::NoHead { location, path });
            }
        }
        let Some(bytes) = found else {
            break;
        };
        let name = format!("{path} in {}", store.location());
        segments.push(Segment::from_json(&bytes, &name)?);
    }
    match segments.is_empty() {
        true => Ok(None),
        false => Ok(Some(Plan::of(segments)?)),
    }
}

/// Whether there is something that is only written when the head of `segment` is there: a later head, or
/// committed shards. Another plan must not take the place of a head that was deleted.
async fn has_what_follows(store: &OutputStore, segment: u32) -> Result<bool, StorageError> {
    let head = layout::plan_head(segment);
    let plan = store.list_shallow(layout::PLAN).await?;
    let mut paths = plan.objects.iter().map(|object| object.path.as_str());
    if paths.any(|path| layout::is_plan_head(path) && *path > *head) {
        return Ok(true);
    }
    Ok(segment == 0 && !store.list(layout::COMMITS).await?.is_empty())
}

impl Planner {
    /// The plan in `store`, or one made now of all that the source holds. Blocking. Idempotent, and
    /// safe beside other workers.
    pub(crate) fn plan(
        &self,
        store: &OutputStore,
        source: &OpenSource,
    ) -> Result<Plan, PlanningError> {
        if let Some(plan) = self.runtime.block_on(read_plan(store))? {
            return Ok(plan);
        }
        let items = self.list(source)?;
        self.freeze(store, items)
    }

    /// Everything that the source holds now. Blocking.
    pub(crate) fn list(&self, source: &OpenSource) -> Result<Vec<Item>, PlanningError> {
        Ok(list_items(&self.source, source, &self.runtime)?)
    }

    /// Writes the first segment. The plan that stands is returned: another worker's, if it came first.
    pub(crate) fn freeze(
        &self,
        store: &OutputStore,
        items: Vec<Item>,
    ) -> Result<Plan, PlanningError> {
        let limits = self.source.shard_limits();
        let cut = cut(items, limits, ShardId(0));
        self.runtime.block_on(async {
            let segment = Draft::new(SegmentKind::First, None, cut.shards, cut.items);
            self.write(store, 0, segment).await?;
            let plan = read_plan(store).await?;
            Ok(plan.expect("its first head has just been written"))
        })
    }

    /// Adds what the source holds and the plan has not. Blocking; writes nothing if that is nothing,
    /// or unless `write`.
    pub(crate) fn extend(
        &self,
        store: &OutputStore,
        source: &OpenSource,
        plan: &Plan,
        write: bool,
    ) -> Result<Changes, PlanningError> {
        let mut known = Extender::new();
        for file in plan.segments().iter().flat_map(|segment| &segment.files) {
            let retried: HashSet<ShardId> = retries(file);
            let items = self.runtime.block_on(load(store, file))?;
            let shards = file
                .shards
                .iter()
                .flat_map(|shard| std::iter::repeat_n(shard.id, shard.items as usize));
            for (shard, item) in shards.zip(&items) {
                if !retried.contains(&shard) {
                    known.known(item);
                }
            }
        }
        let listed = list_items(&self.source, source, &self.runtime)?;
        let found = known.finish(listed);
        let new = found.new.len() as u64;
        let cut = cut(found.new, self.source.shard_limits(), plan.next_shard());
        let changes = Changes {
            new,
            shards: cut.shards.len() as u64,
            unchanged: found.unchanged,
            changed: found.changed,
            vanished: found.vanished,
        };
        if write && new > 0 {
            let mut draft = Draft::new(
                SegmentKind::Extension,
                Some(plan.digest().to_owned()),
                cut.shards,
                cut.items,
            );
            draft.changed = changes.changed.len() as u64;
            draft.vanished = changes.vanished.len() as u64;
            let number = plan.segments().len() as u32;
            self.runtime.block_on(self.write(store, number, draft))?;
        }
        Ok(changes)
    }

    /// Adds, for every committed shard with rejects that may have passed, a shard that does those
    /// images again; returns how many. Blocking.
    ///
    /// The rejected rows stay as they are: no row of a committed shard is rewritten. Who wants the
    /// last word on an image takes its row from the highest shard.
    pub(crate) fn retry_rejects(
        &self,
        commits: &CommitStore,
        source: &OpenSource,
        plan: &Arc<Plan>,
    ) -> Result<u64, PlanningError> {
        let markers = self.runtime.block_on(commits.markers())?;
        let repeated: HashSet<ShardId> = plan.shards().filter_map(|shard| shard.retry_of).collect();
        let store = commits.store();
        // Shards come in order: each file of items is loaded once.
        let planned = PlanItems::stored(store.clone(), plan.clone());
        let mut shards: Vec<Shard> = Vec::new();
        let mut items: Vec<Item> = Vec::new();
        for marker in markers {
            let id = ShardId(marker.shard);
            let hope = |reason: &String| !HOPELESS.contains(&reason.as_str());
            if repeated.contains(&id) || !marker.rejects.keys().any(hope) {
                continue;
            }
            let Some(shard) = plan.shard(id) else {
                continue;
            };
            let rejected = self
                .runtime
                .block_on(rejected_keys(store, id, &marker.images.path))?;
            let of_shard = self.runtime.block_on(planned.of(shard))?;
            // Of a tar or a table it is not known where the image lies: it is read again, and what is
            // done in it passed over.
            let again: Vec<Item> = of_shard
                .into_iter()
                .filter(|item| match item.kind {
                    ItemKind::Image => rejected.contains(&*item.key) && item.reject().is_none(),
                    _ => true,
                })
                .collect();
            let again = self.runtime.block_on(self.look_again(source, again))?;
            if again.is_empty() {
                continue;
            }
            let next = ShardId(plan.next_shard().0 + shards.len() as u32);
            let limits = ShardLimits {
                images_per_shard: u32::MAX,
                bytes_per_shard: u64::MAX,
            };
            let one = cut(again, limits, next);
            shards.extend(one.shards.into_iter().map(|shard| Shard {
                retry_of: Some(id),
                ..shard
            }));
            items.extend(one.items);
        }
        let count = shards.len() as u64;
        if count > 0 {
            let previous = Some(plan.digest().to_owned());
            let draft = Draft::new(SegmentKind::Retry, previous, shards, items);
            let number = plan.segments().len() as u32;
            self.runtime.block_on(self.write(store, number, draft))?;
        }
        Ok(count)
    }

    /// The items with the sizes and etags that their objects have now.
    async fn look_again(
        &self,
        source: &OpenSource,
        items: Vec<Item>,
    ) -> Result<Vec<Item>, PlanningError> {
        let looks = stream::iter(items).map(|mut item| async move {
            match source.facts(item.at()).await {
                Ok(facts) => {
                    let is_part = matches!(item.kind, ItemKind::Rows { .. });
                    if !is_part {
                        item.bytes = facts.bytes;
                    }
                    // Only stores whose listings have etags: elsewhere they differ by machine.
                    if item.etag.is_some() {
                        item.etag = facts.etag.map(Into::into);
                    }
                    Ok(item)
                }
                // It will be a row again.
                Err(error) if error.reject_reason().is_some() => Ok(item),
                Err(error) => Err(PlanningError::Look {
                    at: item.key.to_string(),
                    source: error,
                }),
            }
        });
        let looks: Vec<_> = looks.buffered(AT_ONCE).collect().await;
        looks.into_iter().collect()
    }

    /// Writes the files of a segment, then its head. Does nothing if that head is there already.
    async fn write(
        &self,
        store: &OutputStore,
        number: u32,
        draft: Draft,
    ) -> Result<(), PlanningError> {
        let meta = ParquetMeta {
            fingerprint: self.fingerprint.to_string(),
            entries: BTreeMap::from([("segment".to_owned(), number.to_string())]),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let files = files_of(&draft.shards).into_iter().map(|range| {
            let shards = draft.shards[range].to_vec();
            SegmentFile::new(String::new(), shards[0].id, shards)
        });
        let mut head = SegmentDraft {
            number,
            previous: draft.previous,
            fingerprint: self.fingerprint.clone(),
            kind: draft.kind,
            created_unix_seconds: now.map_or(0, |now| now.as_secs()),
            tool_version: self.tool_version.clone(),
            source: self.source.path().to_owned(),
            changed: draft.changed,
            vanished: draft.vanished,
            files: files.collect(),
        };
        // The digest covers the items and not the names, so the names can hold the digest: planners
        // that saw different listings do not get into each other's way.
        let digest = head.digest();
        let mut items = draft.items.as_slice();
        for (index, file) in head.files.iter_mut().enumerate() {
            let (ours, rest) = items.split_at(file.items as usize);
            items = rest;
            file.path = layout::plan_items(number, &digest[..12], index as u32);
            let bytes = encode(&file.shards, ours, &meta)?;
            store.put_if_absent(&file.path, bytes.into()).await?;
        }
        let path = layout::plan_head(number);
        let json = Segment::seal(head).to_json();
        let put = store.put_if_absent(&path, json.into()).await?;
        if put == PutOutcome::AlreadyExists {
            tracing::info!(segment = number, "another worker planned it first");
        }
        Ok(())
    }
}

/// A segment before it is written.
struct Draft {
    kind: SegmentKind,
    previous: Option<String>,
    shards: Vec<Shard>,
    items: Vec<Item>,
    changed: u64,
    vanished: u64,
}

impl Draft {
    fn new(
        kind: SegmentKind,
        previous: Option<String>,
        shards: Vec<Shard>,
        items: Vec<Item>,
    ) -> Self {
        Self {
            kind,
            previous,
            shards,
            items,
            changed: 0,
            vanished: 0,
        }
    }
}

/// Whole shards per file, until it has [`ITEMS_PER_FILE`].
fn files_of(shards: &[Shard]) -> Vec<std::ops::Range<usize>> {
    let mut files = Vec::new();
    let (mut start, mut items) = (0, 0);
    for (index, shard) in shards.iter().enumerate() {
        items += u64::from(shard.items);
        if items >= ITEMS_PER_FILE || index + 1 == shards.len() {
            files.push(start..index + 1);
            (start, items) = (index + 1, 0);
        }
    }
    files
}

fn retries(file: &SegmentFile) -> HashSet<ShardId> {
    let repeats = file.shards.iter().filter(|shard| shard.retry_of.is_some());
    repeats.map(|shard| shard.id).collect()
}

/// The keys of a committed shard's rejected images.
async fn rejected_keys(
    store: &OutputStore,
    shard: ShardId,
    path: &str,
) -> Result<HashSet<String>, PlanningError> {
    let failed = |detail: String| PlanningError::Rejects { shard, detail };
    let part = store.get(path).await?;
    let part = part.ok_or_else(|| failed(format!("{path} is missing")))?;
    let rows = read_images(part).map_err(|error| failed(format!("{path}: {error}")))?;
    let rejected = rows
        .into_iter()
        .filter(|row| row.status == ImageStatus::Rejected);
    Ok(rejected.map(|row| row.image_key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_whole_shards() {
        let shard = |id, items| Shard {
            id: ShardId(id),
            images: None,
            bytes: 0,
            items,
            retry_of: None,
            digest: String::new(),
        };
        let shards = [shard(0, 65_535), shard(1, 2), shard(2, 70_000), shard(3, 1)];
        assert_eq!(files_of(&shards), [0..2, 2..3, 3..4]);
        assert!(files_of(&[]).is_empty());
    }
}
