//! The items of a plan's shards: written when the plan is frozen, loaded when a shard is run.
//!
//! A plan of a hundred million images does not fit into memory, and a shard needs its own items only.
//! So they lie in files of some 65,000 beside the plan's heads, and the file at hand is kept: shards
//! are run in order.

use std::sync::{Arc, Mutex};

use maskmill_formats::plan_items::{PlanRow, PlanRowKind, plan_rows_to_parquet, read_plan_rows};
use maskmill_formats::rows::{ParquetMeta, RowsError};
use maskmill_job::{
    Extras, Item, ItemKind, Plan, PlanError, Reject, SegmentFile, Shard, ShardId, check_items,
};
use maskmill_storage::{OutputStore, StorageError};

/// The items of a shard could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PlanItemsError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The items are not those of the plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The file is not a table of items.
    #[error(
        "{path} in {location} cannot be read: {source}. Restore it: a plan is not edited by hand"
    )]
    Rows {
        /// The output.
        location: String,
        /// The file.
        path: String,
        /// Why.
        source: RowsError,
    },
    /// The file has other items than were planned.
    #[error("{path} in {location} is not the file that was planned: {source}")]
    Edited {
        /// The output.
        location: String,
        /// The file.
        path: String,
        /// What differs.
        source: PlanError,
    },
    /// The file is gone.
    #[error(
        "{path} in {location} is missing, though the plan names it; restore it, or plan into a new output"
    )]
    Missing {
        /// The output.
        location: String,
        /// The file.
        path: String,
    },
    /// The plan has no such shard.
    #[error("the plan has no shard {0}")]
    NoShard(ShardId),
}

/// Where the items of a plan are.
pub(crate) enum PlanItems {
    /// In files of the output.
    Stored {
        store: OutputStore,
        plan: Arc<Plan>,
        /// The file last loaded.
        loaded: Mutex<Option<Loaded>>,
    },
    /// In memory, for a plan that is not written.
    Held {
        shards: Vec<Shard>,
        items: Vec<Item>,
    },
}

/// The items of one file.
#[derive(Clone)]
pub(crate) struct Loaded {
    path: String,
    items: Arc<Vec<Item>>,
}

impl PlanItems {
    pub(crate) fn stored(store: OutputStore, plan: Arc<Plan>) -> Self {
        Self::Stored {
            store,
            plan,
            loaded: Mutex::new(None),
        }
    }

    /// The items of `shard`, checked against its digest.
    pub(crate) async fn of(&self, shard: &Shard) -> Result<Vec<Item>, PlanItemsError> {
        match self {
            Self::Held { shards, items } => {
                let items = part_of(items, shards, shard);
                check_items(shard, &items)?;
                Ok(items)
            }
            Self::Stored {
                store,
                plan,
                loaded,
            } => {
                let file = plan.file_of(shard.id);
                let file = file.ok_or(PlanItemsError::NoShard(shard.id))?;
                let kept = loaded.lock().expect("no panic while it is held").clone();
                let items = match kept {
                    Some(kept) if kept.path == file.path => kept.items,
                    _ => {
                        let items = Arc::new(load(store, file).await?);
                        *loaded.lock().expect("no panic while it is held") = Some(Loaded {
                            path: file.path.clone(),
                            items: items.clone(),
                        });
                        items
                    }
                };
                // All of the file was checked when it was loaded.
                Ok(part_of(&items, &file.shards, shard))
            }
        }
    }
}

/// The items of `shard` among those of `shards`, which it is one of. Fewer than it should have where there
/// are fewer: the digest tells.
fn part_of(items: &[Item], shards: &[Shard], shard: &Shard) -> Vec<Item> {
    let before = shards.iter().take_while(|s| s.id != shard.id);
    let first: u64 = before.map(|s| u64::from(s.items)).sum();
    let skip = usize::try_from(first).unwrap_or(usize::MAX);
    let count = shard.items as usize;
    items.iter().skip(skip).take(count).cloned().collect()
}

/// All items of a file, checked against the digests of its shards.
pub(crate) async fn load(
    store: &OutputStore,
    file: &SegmentFile,
) -> Result<Vec<Item>, PlanItemsError> {
    let (location, path) = (store.location().to_owned(), file.path.clone());
    let Some(bytes) = store.get(&file.path).await? else {
        return Err(PlanItemsError::Missing { location, path });
    };
    let rows = match read_plan_rows(bytes) {
        Ok((rows, _)) => rows,
        Err(source) => {
            return Err(PlanItemsError::Rows {
                location,
                path,
                source,
            });
        }
    };
    let items: Vec<Item> = rows.into_iter().map(item).collect();
    match check_file(file, &items) {
        Ok(()) => Ok(items),
        Err(source) => Err(PlanItemsError::Edited {
            location,
            path,
            source,
        }),
    }
}

/// Whether `items` are those of the file's shards.
fn check_file(file: &SegmentFile, items: &[Item]) -> Result<(), PlanError> {
    let mut rest = items;
    for (index, shard) in file.shards.iter().enumerate() {
        // The last has whatever is left: items behind it are seen too.
        let is_last = index + 1 == file.shards.len();
        let count = if is_last {
            rest.len()
        } else {
            rest.len().min(shard.items as usize)
        };
        let (of_shard, behind) = rest.split_at(count);
        check_items(shard, of_shard)?;
        rest = behind;
    }
    Ok(())
}

/// The file of the items of `shards`, which begin at the first of `items`.
pub(crate) fn encode(
    shards: &[Shard],
    items: &[Item],
    meta: &ParquetMeta,
) -> Result<Vec<u8>, RowsError> {
    let shard_of_item = shards
        .iter()
        .flat_map(|shard| std::iter::repeat_n(shard.id, shard.items as usize));
    let rows: Vec<PlanRow> = shard_of_item
        .zip(items)
        .map(|(shard, item)| row(shard, item))
        .collect();
    plan_rows_to_parquet(&rows, meta)
}

fn row(shard: ShardId, item: &Item) -> PlanRow {
    let extras = item.extras.as_deref();
    let reject = item.reject();
    PlanRow {
        shard: shard.0,
        key: item.key.to_string(),
        uri: item.uri.as_deref().map(str::to_owned),
        bytes: item.bytes,
        etag: item.etag.as_deref().map(str::to_owned),
        kind: match item.kind {
            ItemKind::Image => PlanRowKind::Image,
            ItemKind::Tar => PlanRowKind::Tar,
            ItemKind::Rows { row_group, rows } => PlanRowKind::Rows { row_group, rows },
        },
        reason: reject.map(|reject| reject.reason.clone()),
        detail: reject.map(|reject| reject.detail.clone()),
        caption: extras.and_then(|extras| extras.caption.clone()),
        boxes: extras.and_then(|extras| extras.boxes.clone()),
        labels: extras.and_then(|extras| extras.labels.clone()),
        scores: extras.and_then(|extras| extras.scores.clone()),
        points: extras.and_then(|extras| extras.points.clone()),
    }
}

fn item(row: PlanRow) -> Item {
    let reject = row.reason.map(|reason| Reject {
        reason,
        detail: row.detail.unwrap_or_default(),
    });
    let extras = Extras {
        reject,
        caption: row.caption,
        boxes: row.boxes,
        labels: row.labels,
        scores: row.scores,
        points: row.points,
    };
    Item {
        key: row.key.into(),
        uri: row.uri.map(Into::into),
        bytes: row.bytes,
        etag: row.etag.map(Into::into),
        kind: match row.kind {
            PlanRowKind::Image => ItemKind::Image,
            PlanRowKind::Tar => ItemKind::Tar,
            PlanRowKind::Rows { row_group, rows } => ItemKind::Rows { row_group, rows },
        },
        extras: (extras != Extras::default()).then(|| Box::new(extras)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_survive_their_file() {
        let items = [
            Item {
                key: "a b#1.png".into(),
                uri: None,
                bytes: 7,
                etag: Some("\"x\"".into()),
                kind: ItemKind::Image,
                extras: Some(Box::new(Extras {
                    reject: None,
                    caption: Some("ein Hund, \"groß\"\n".to_owned()),
                    boxes: Some(vec![[0.0, 1.5, 9.0, 3.25], [1.0, 1.0, 2.0, 2.0]]),
                    labels: Some(vec!["ein Hund".to_owned(), "\"groß\"".to_owned()]),
                    scores: Some(vec![0.5, 0.1]),
                    points: Some(vec![[3.0, 2.5, 1.0], [0.0, 0.0, 0.0]]),
                })),
            },
            Item {
                key: "gone".into(),
                uri: Some("https://example.com/a.jpg?sig=1".into()),
                bytes: 0,
                etag: None,
                kind: ItemKind::Image,
                extras: Some(Box::new(Extras {
                    reject: Some(Reject {
                        reason: "duplicate_key".to_owned(),
                        detail: "twice".to_owned(),
                    }),
                    ..Extras::default()
                })),
            },
            Item {
                key: "t.parquet".into(),
                uri: None,
                bytes: 1 << 40,
                etag: None,
                kind: ItemKind::Rows {
                    row_group: 3,
                    rows: 100,
                },
                extras: None,
            },
        ];
        let cut = maskmill_job::cut(
            items.to_vec(),
            maskmill_job::ShardLimits {
                images_per_shard: 2,
                bytes_per_shard: u64::MAX,
            },
            ShardId(4),
        );
        let file = encode(&cut.shards, &cut.items, &ParquetMeta::default()).unwrap();
        let (rows, _) = read_plan_rows(file.into()).unwrap();
        let shards: Vec<u32> = rows.iter().map(|row| row.shard).collect();
        assert_eq!(shards.first(), Some(&4));
        let read: Vec<Item> = rows.into_iter().map(item).collect();
        assert_eq!(read, cut.items);
    }
}
