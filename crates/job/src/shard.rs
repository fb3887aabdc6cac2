//! Items cut into shards. The same items in any order give the same shards.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::item::{Item, ItemKind, Reject, items_digest};
use crate::location::redacted;

/// The number of a shard, from 0, in the order of the plan. Shown with six digits: `000012`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// The unit of work and of commit. Its items are not inside: they are loaded when it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// How many image rows it makes, rejected ones included; `None` if it has a tar, whose samples
    /// are known only when it is read.
    pub images: Option<u64>,
    /// The bytes to read, as far as they are known.
    pub bytes: u64,
    /// How many items it has.
    pub items: u32,
    /// The shard whose rejected items it tries again.
    pub retry_of: Option<ShardId>,
    /// [`items_digest`] of its items.
    pub digest: String,
}

/// How much goes into a shard. An item over the limits makes a shard by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLimits {
    /// Images, at most.
    pub images_per_shard: u32,
    /// Bytes to read, at most; a size that is not known counts as 0.
    pub bytes_per_shard: u64,
}

/// Items cut into shards.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The shards, numbered without gaps.
    pub shards: Vec<Shard>,
    /// The items in the order of shards; each shard's are consecutive.
    pub items: Vec<Item>,
}

/// Cuts `items` into shards in the order of their keys, numbered from `first`.
///
/// Each tar is a shard. Everything else fills shards up to `limits`, behind the tars: rejected
/// items too, which take a place because they become rows. A row group is never split.
///
/// Of several items with one key the first by location is kept and the others are rejected with
/// reason `duplicate_key`; the row groups of one file share its key and are no duplicates.
///
/// # Panics
/// If there are more than 2^32 shards.
pub fn cut(mut items: Vec<Item>, limits: ShardLimits, first: ShardId) -> Cut {
    // In place: of millions of items, a copy of half of them matters. The order is total.
    items.sort_unstable_by(in_plan_order);
    reject_duplicates(&mut items);
    // Nearly always a no-op: a source is of tars or of something else.
    if items.iter().any(is_tar) && !items.iter().all(is_tar) {
        items.sort_by_key(|item| !is_tar(item));
    }

    let mut shards = Vec::new();
    let mut rest = items.as_slice();
    while !rest.is_empty() {
        let (of_shard, behind) = rest.split_at(shard_length(rest, limits));
        let id = u32::try_from(shards.len()).ok();
        let id = id.and_then(|at| first.0.checked_add(at));
        let id = ShardId(id.expect("fewer than 2^32 shards"));
        shards.push(Shard::of(id, of_shard));
        rest = behind;
    }
    Cut { shards, items }
}

impl Shard {
    /// The shard `id` of `items`.
    fn of(id: ShardId, items: &[Item]) -> Self {
        Shard {
            id,
            images: items.iter().map(Item::images).sum(),
            bytes: items
                .iter()
                .fold(0, |sum, item| sum.saturating_add(item.bytes)),
            items: u32::try_from(items.len()).expect("a shard has at most u32::MAX images"),
            retry_of: None,
            digest: items_digest(items),
        }
    }
}

/// How many of the first of `items`, at least one, make a shard.
fn shard_length(items: &[Item], limits: ShardLimits) -> usize {
    let (mut images, mut bytes) = (0_u64, 0_u64);
    for (at, item) in items.iter().enumerate() {
        // A tar fills its shard.
        images = images.saturating_add(item.images().unwrap_or(u64::MAX));
        bytes = bytes.saturating_add(item.bytes);
        let full = images > u64::from(limits.images_per_shard) || bytes > limits.bytes_per_shard;
        if full || at as u64 == u64::from(u32::MAX) {
            return at.max(1);
        }
    }
    items.len()
}

/// A tar that will be read; a rejected one is a row like any other.
fn is_tar(item: &Item) -> bool {
    item.kind == ItemKind::Tar && item.reject().is_none()
}

/// By key, location and row group; beyond that by what else decides rows, so that the order in
/// which a listing came never matters.
pub(crate) fn in_plan_order(a: &Item, b: &Item) -> Ordering {
    let by_place = a.key.cmp(&b.key).then_with(|| a.uri.cmp(&b.uri));
    by_place.then_with(|| {
        let content = |item: &Item| {
            let mut bytes = Vec::new();
            item.write_content(&mut bytes);
            bytes
        };
        row_group(a)
            .cmp(&row_group(b))
            .then_with(|| a.reject().is_some().cmp(&b.reject().is_some()))
            .then_with(|| content(a).cmp(&content(b)))
    })
}

/// The number of the row group; images and tars have none, and come before.
fn row_group(item: &Item) -> Option<u32> {
    match item.kind {
        ItemKind::Rows { row_group, .. } => Some(row_group),
        ItemKind::Image | ItemKind::Tar => None,
    }
}

/// Rejects every item but the first of its key; `items` are in plan order.
fn reject_duplicates(items: &mut [Item]) {
    let mut first = 0;
    for at in 1..items.len() {
        if items[at].key != items[first].key {
            first = at;
            continue;
        }
        let one_file = row_group(&items[first]).is_some() && items[at].uri == items[first].uri;
        if one_file && row_group(&items[at]) != row_group(&items[at - 1]) {
            continue;
        }
        let (kept, duplicate) = (redacted(items[first].at()), redacted(items[at].at()));
        let detail = format!("{kept} and {duplicate} have the same key; the first is used");
        let extras = items[at].extras.get_or_insert_default();
        extras.reject.get_or_insert(Reject {
            reason: "duplicate_key".to_string(),
            detail,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::item::Extras;

    const LIMITS: ShardLimits = ShardLimits {
        images_per_shard: 3,
        bytes_per_shard: 100,
    };

    fn image(key: &str, bytes: u64) -> Item {
        Item {
            key: key.into(),
            uri: None,
            bytes,
            etag: None,
            kind: ItemKind::Image,
            extras: None,
        }
    }

    fn tar(key: &str, bytes: u64) -> Item {
        Item {
            kind: ItemKind::Tar,
            ..image(key, bytes)
        }
    }

    fn of_table(key: &str, row_group: u32, rows: u64, bytes: u64) -> Item {
        Item {
            kind: ItemKind::Rows { row_group, rows },
            ..image(key, bytes)
        }
    }

    fn rejected(item: Item) -> Item {
        let reject = Some(Reject {
            reason: "compressed_tar".to_string(),
            detail: "unpack it".to_string(),
        });
        let extras = Extras {
            reject,
            ..Extras::default()
        };
        Item {
            extras: Some(Box::new(extras)),
            ..item
        }
    }

    fn keys(cut: &Cut) -> Vec<Vec<&str>> {
        let mut items = cut.items.iter();
        let shards = cut.shards.iter();
        shards
            .map(|shard| {
                let of_shard = items.by_ref().take(shard.items as usize);
                of_shard.map(|item| &*item.key).collect()
            })
            .collect()
    }

    #[test]
    fn items_are_sorted_and_cut_by_count_and_by_bytes() {
        let items = [
            ("e", 10),
            ("b", 10),
            ("c/1", 0),
            ("a", 10),
            ("f", 60),
            ("g", 500),
            ("c", 10),
            ("d", 80),
            ("h", 1),
        ];
        let items = items.map(|(key, bytes)| image(key, bytes)).to_vec();
        let cut = cut(items, LIMITS, ShardId(7));
        assert_eq!(
            keys(&cut),
            [
                vec!["a", "b", "c"], // three images
                vec!["c/1", "d", "e"],
                vec!["f"], // 60 + 500 bytes are too many,
                vec!["g"], // and 500 alone: by itself
                vec!["h"],
            ]
        );
        let shard = &cut.shards[1];
        assert_eq!(
            (shard.id, shard.images, shard.bytes),
            (ShardId(8), Some(3), 90)
        );
        assert_eq!(shard.id.to_string(), "000008");
        assert_eq!(shard.digest, items_digest(&cut.items[3..6]));
    }

    #[test]
    fn row_groups_are_not_split_and_not_duplicates() {
        let items = vec![
            of_table("b.parquet", 0, 2, 5),
            of_table("a.parquet", 1, 2, 5),
            of_table("a.parquet", 0, 1, 5),
            of_table("a.parquet", 2, 900, 5),
            of_table("a.parquet", 10, 1, 5),
        ];
        let cut = cut(items, LIMITS, ShardId(0));
        let groups: Vec<Option<u64>> = cut.shards.iter().map(|shard| shard.images).collect();
        assert_eq!(groups, [Some(3), Some(900), Some(3)]);
        assert!(cut.items.iter().all(|item| item.reject().is_none()));
        let of_last: Vec<&str> = cut.items[3..].iter().map(|item| &*item.key).collect();
        assert_eq!(
            of_last,
            ["a.parquet", "b.parquet"],
            "by number: 10 behind 2"
        );
    }

    #[test]
    fn a_row_group_listed_twice_is_rejected_once() {
        let twice = of_table("a.parquet", 1, 2, 5);
        let items = vec![twice.clone(), of_table("a.parquet", 0, 1, 5), twice];
        let cut = cut(items, LIMITS, ShardId(0));
        let rejects: Vec<bool> = cut.items.iter().map(|i| i.reject().is_some()).collect();
        assert_eq!(rejects, [false, false, true]);
    }

    #[test]
    fn the_second_image_of_a_key_is_rejected_and_still_a_row() {
        let at = |uri: &str| Item {
            uri: Some(uri.into()),
            ..image("7", 4)
        };
        let items = vec![
            at("https://h/b.jpg?sig=hunter2"),
            at("https://h/c.jpg"),
            image("8", 4),
            at("https://h/a.jpg?sig=hunter2"),
        ];
        let cut = cut(items, LIMITS, ShardId(0));
        assert_eq!(cut.items[0].reject(), None);
        for (at, name) in [(1, "b.jpg"), (2, "c.jpg")] {
            let reject = cut.items[at].reject().unwrap();
            assert_eq!(reject.reason, "duplicate_key");
            let detail = &reject.detail;
            assert!(
                detail.contains(name) && detail.contains("a.jpg"),
                "{detail}"
            );
            assert!(!detail.contains("hunter2"), "{detail}");
        }
        assert_eq!(cut.items[3].reject(), None);
        let images: Option<u64> = cut.shards.iter().map(|shard| shard.images).sum();
        assert_eq!(images, Some(4));
    }

    #[test]
    fn an_item_rejected_before_keeps_its_reason() {
        let cut = cut(
            vec![rejected(image("a", 1)), image("a", 1)],
            LIMITS,
            ShardId(0),
        );
        let reasons = cut
            .items
            .iter()
            .map(|i| i.reject().map(|r| r.reason.as_str()));
        assert_eq!(reasons.collect::<Vec<_>>(), [None, Some("compressed_tar")]);
    }

    #[test]
    fn each_tar_is_a_shard_and_rejects_are_the_last_one() {
        let items = vec![
            tar("b.tar", 20),
            rejected(tar("a.tar.zst", 9)),
            tar("c.tar", 10),
            rejected(image("bad", 0)),
        ];
        let limits = ShardLimits {
            images_per_shard: u32::MAX,
            bytes_per_shard: u64::MAX,
        };
        let cut = cut(items, limits, ShardId(0));
        assert_eq!(
            keys(&cut),
            [vec!["b.tar"], vec!["c.tar"], vec!["a.tar.zst", "bad"]]
        );
        let images: Vec<Option<u64>> = cut.shards.iter().map(|shard| shard.images).collect();
        assert_eq!(images, [None, None, Some(2)]);
    }

    #[test]
    fn nothing_makes_no_shards_and_sizes_beyond_64_bits_no_panic() {
        assert_eq!(cut(Vec::new(), LIMITS, ShardId(3)).shards, []);
        let limits = ShardLimits {
            bytes_per_shard: u64::MAX,
            ..LIMITS
        };
        let huge = vec![
            of_table("a", 0, u64::MAX, u64::MAX),
            image("b", u64::MAX),
            image("c", 7),
        ];
        let cut = cut(huge, limits, ShardId(0));
        let sizes: Vec<u32> = cut.shards.iter().map(|shard| shard.items).collect();
        assert_eq!(sizes, [1, 2]);
        assert_eq!(cut.shards[1].bytes, u64::MAX);
    }

    /// Keys and places of few letters, so that there are duplicates of every sort.
    fn any_item() -> impl Strategy<Value = Item> {
        let kind = prop_oneof![
            4 => Just(ItemKind::Image),
            1 => Just(ItemKind::Tar),
            2 => (0..3_u32, 0..5_u64).prop_map(|(row_group, rows)| ItemKind::Rows { row_group, rows }),
        ];
        let caption = proptest::option::of("[xy]");
        let fields = (
            "[abc]",
            proptest::option::of("[uv]"),
            0..120_u64,
            kind,
            caption,
        );
        fields.prop_map(|(key, uri, bytes, kind, caption)| {
            let extras = caption.map(|caption| Extras {
                caption: Some(caption),
                ..Extras::default()
            });
            Item {
                key: key.into(),
                uri: uri.map(Into::into),
                bytes,
                etag: None,
                kind,
                extras: extras.map(Box::new),
            }
        })
    }

    proptest! {
        #[test]
        fn the_order_of_a_listing_does_not_matter(
            (items, shuffled) in proptest::collection::vec(any_item(), 0..12)
                .prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
        ) {
            prop_assert_eq!(cut(items, LIMITS, ShardId(0)), cut(shuffled, LIMITS, ShardId(0)));
        }

        #[test]
        fn shards_hold_all_items_within_the_limits(
            items in proptest::collection::vec(any_item(), 0..30),
        ) {
            let cut = cut(items.clone(), LIMITS, ShardId(5));
            prop_assert_eq!(cut.items.len(), items.len());
            let mut rest = cut.items.as_slice();
            for (at, shard) in cut.shards.iter().enumerate() {
                prop_assert_eq!(shard.id.0 as usize, 5 + at);
                let (of_shard, behind) = rest.split_at(shard.items as usize);
                rest = behind;
                prop_assert_eq!(&shard.digest, &items_digest(of_shard));
                prop_assert_eq!(shard.images.is_none(), of_shard.iter().any(is_tar));
                let small = shard.images.is_some_and(|n| n <= 3) && shard.bytes <= 100;
                prop_assert!(shard.items == 1 || small, "{:?}", shard);
                prop_assert!(shard.items > 0);
            }
            prop_assert!(rest.is_empty());
        }

        /// What is run is run once: among the items that are not rejected, no image and no tar has
        /// the key of another item, and no row group comes twice.
        #[test]
        fn no_image_is_planned_twice(items in proptest::collection::vec(any_item(), 0..12)) {
            let cut = cut(items.clone(), LIMITS, ShardId(0));
            let mut used: Vec<(&str, Option<u32>)> = Vec::new();
            for item in cut.items.iter().filter(|item| item.reject().is_none()) {
                let row_group = row_group(item);
                for (key, other) in &used {
                    let same = *key == &*item.key
                        && (row_group.is_none() || other.is_none() || row_group == *other);
                    prop_assert!(!same, "{:?} twice in {:?}", item.key, cut.items);
                }
                used.push((&item.key, row_group));
            }
            let used: BTreeSet<&str> = used.iter().map(|(key, _)| *key).collect();
            let listed: BTreeSet<&str> = items.iter().map(|item| &*item.key).collect();
            prop_assert_eq!(used, listed);
        }
    }
}
