//! What a listing has that a plan does not: new items, and planned ones that changed or vanished.

use std::hash::{DefaultHasher, Hasher};

use crate::item::Item;
use crate::shard::in_plan_order;

/// A listing compared with a plan.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extension {
    /// Items whose keys are not planned, in plan order.
    pub new: Vec<Item>,
    /// Planned keys that are listed with other content (size, etag, location, row groups, caption,
    /// boxes, labels, scores or points), each once, sorted. They are not planned again: their rows
    /// may be committed.
    pub changed: Vec<String>,
    /// Planned keys that are not listed any more, each once, sorted.
    pub vanished: Vec<String>,
    /// How many listed items are as planned.
    pub unchanged: u64,
}

/// Compares a listing with a plan, whose items are shown to it one after the other.
///
/// Of each it keeps the key and 24 bytes, of a million with keys of 60 bytes 84 MB.
#[derive(Debug, Default)]
pub struct Extender {
    /// The keys of all known items, one behind the other.
    keys: String,
    known: Vec<Known>,
    /// Reused, so that an item costs no allocation.
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Where in `keys` its key begins, and how long it is.
    start: u64,
    length: u32,
    /// A hash of everything else that decides its rows. Two contents of one key have the same in
    /// one of 2^64 cases, and then a change is not reported; no row depends on it.
    content: u64,
}

impl Extender {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Extender::default()
    }

    /// Takes note of a planned item. A rejected one counts too: its key has a row.
    ///
    /// # Panics
    /// If its key has 4 GiB or more.
    pub fn known(&mut self, item: &Item) {
        self.known.push(Known {
            start: self.keys.len() as u64,
            length: u32::try_from(item.key.len()).expect("a key is shorter than 4 GiB"),
            content: content_hash(item, &mut self.buffer),
        });
        self.keys.push_str(&item.key);
    }

    /// Compares `listed` with what is known.
    ///
    /// Items are matched by key alone: a row group that a known file did not have is a change of
    /// that file and not a new item, because its other rows would then be of two versions.
    pub fn finish(mut self, mut listed: Vec<Item>) -> Extension {
        let keys = self.keys;
        let key = |known: &Known| &keys[known.start as usize..][..known.length as usize];
        self.known.sort_by(|a, b| key(a).cmp(key(b)));
        listed.sort_unstable_by(in_plan_order);

        let mut extension = Extension::default();
        let mut known = self.known.as_slice();
        let mut buffer = self.buffer;
        // The known items of the key that is looked at, and whether it was seen to be changed.
        let mut of_key: &[Known] = &[];
        listed.retain(|item| {
            let same_key = of_key.first().is_some_and(|known| key(known) == &*item.key);
            if !same_key {
                while let Some(first) = known.first().filter(|first| key(first) < &*item.key) {
                    push_once(&mut extension.vanished, key(first));
                    known = &known[1..];
                }
                let length = known
                    .iter()
                    .take_while(|known| key(known) == &*item.key)
                    .count();
                (of_key, known) = known.split_at(length);
            }
            if of_key.is_empty() {
                return true;
            }
            let content = content_hash(item, &mut buffer);
            if of_key.iter().any(|known| known.content == content) {
                extension.unchanged += 1;
            } else {
                push_once(&mut extension.changed, &item.key);
            }
            false
        });
        for gone in known {
            push_once(&mut extension.vanished, key(gone));
        }
        extension.new = listed;
        extension
    }
}

/// Adds `key` unless it was the last one added; keys come in order.
fn push_once(keys: &mut Vec<String>, key: &str) {
    if keys.last().is_none_or(|last| last != key) {
        keys.push(key.to_string());
    }
}

fn content_hash(item: &Item, buffer: &mut Vec<u8>) -> u64 {
    buffer.clear();
    item.write_content(buffer);
    let mut hasher = DefaultHasher::new();
    hasher.write(buffer);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::item::{Extras, ItemKind, Reject};

    fn image(key: &str, bytes: u64) -> Item {
        Item {
            key: key.into(),
            uri: None,
            bytes,
            etag: Some(format!("\"{bytes}\"").into()),
            kind: ItemKind::Image,
            extras: None,
        }
    }

    fn row_group(key: &str, row_group: u32, bytes: u64) -> Item {
        Item {
            kind: ItemKind::Rows { row_group, rows: 9 },
            ..image(key, bytes)
        }
    }

    fn rejected(item: Item) -> Item {
        let reject = Some(Reject {
            reason: "duplicate_key".to_string(),
            detail: "twice".to_string(),
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

    fn extension(known: &[Item], listed: &[Item]) -> Extension {
        let mut extender = Extender::new();
        for item in known {
            extender.known(item);
        }
        extender.finish(listed.to_vec())
    }

    #[test]
    fn only_what_is_not_planned_is_new() {
        let known = [image("b", 1), image("d", 2), image("a/1", 3), image("e", 4)];
        let mut touched = image("d", 2);
        touched.etag = Some("\"other\"".into());
        let listed = [
            image("z", 9),
            image("b", 1),
            touched,
            image("c", 8),
            image("a/1", 30),
        ];
        let found = extension(&known, &listed);
        assert_eq!(found.new, [image("c", 8), image("z", 9)]);
        assert_eq!(found.changed, ["a/1", "d"]);
        assert_eq!(found.vanished, ["e"]);
        assert_eq!(found.unchanged, 1);
    }

    #[test]
    fn a_place_is_part_of_the_content() {
        let moved = Item {
            uri: Some("s3://b/a".into()),
            ..image("a", 1)
        };
        let found = extension(&[image("a", 1)], &[moved]);
        assert_eq!((found.changed.len(), found.new.len()), (1, 0));
    }

    #[test]
    fn a_rejected_key_is_known() {
        // The plan has a key twice, of which one was rejected; so has the listing.
        let twin = Item {
            uri: Some("s3://b/a".into()),
            ..image("a", 1)
        };
        let known = [image("a", 1), rejected(twin.clone())];
        let found = extension(&known, &[twin.clone(), image("a", 1)]);
        assert_eq!((found.unchanged, found.new.len()), (2, 0));
        assert_eq!((found.changed.len(), found.vanished.len()), (0, 0));
        let found = extension(&known, &[twin]);
        assert_eq!((found.unchanged, found.vanished.len()), (1, 0));
    }

    #[test]
    fn a_row_group_more_is_a_change_of_its_file() {
        let known = [
            row_group("a", 0, 5),
            row_group("a", 1, 5),
            row_group("b", 0, 5),
        ];
        let rewritten = [0, 1, 2].map(|group| row_group("a", group, 6));
        let found = extension(&known, &rewritten);
        assert_eq!(found.new, []);
        assert_eq!(found.changed, ["a"]);
        assert_eq!(found.vanished, ["b"]);
    }

    #[test]
    fn with_nothing_known_all_is_new_and_with_nothing_listed_all_is_gone() {
        let items = [image("a", 1), image("b", 2)];
        assert_eq!(extension(&[], &items).new, items);
        let gone = extension(&items, &[]);
        assert_eq!(gone.vanished, ["a", "b"]);
        assert_eq!((gone.new.len(), gone.unchanged), (0, 0));
        assert_eq!(extension(&[], &[]), Extension::default());
    }

    proptest! {
        /// Against the same comparison by maps.
        #[test]
        fn it_finds_what_maps_find(
            known in proptest::collection::vec(("[abc]{0,2}", 0..3_u64), 0..12),
            listed in proptest::collection::vec(("[abc]{0,2}", 0..3_u64), 0..12),
        ) {
            let items = |of: &[(String, u64)]| -> Vec<Item> {
                of.iter().map(|(key, bytes)| image(key, *bytes)).collect()
            };
            let found = extension(&items(&known), &items(&listed));

            let mut contents: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
            for (key, bytes) in &known {
                contents.entry(key).or_default().insert(*bytes);
            }
            let (mut new, mut unchanged) = (Vec::new(), 0);
            let mut changed = BTreeSet::new();
            for (key, bytes) in &listed {
                match contents.get(key.as_str()) {
                    None => new.push((key.clone(), *bytes)),
                    Some(contents) if contents.contains(bytes) => unchanged += 1,
                    Some(_) => {
                        changed.insert(key.clone());
                    }
                }
            }
            let is_listed = |key: &str| listed.iter().any(|(listed, _)| listed == key);
            let vanished = contents.keys().filter(|key| !is_listed(key));
            let vanished: Vec<String> = vanished.map(|key| key.to_string()).collect();
            new.sort();
            prop_assert_eq!(found.new, items(&new));
            prop_assert_eq!(found.changed, changed.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(found.vanished, vanished);
            prop_assert_eq!(found.unchanged, unchanged);
        }
    }
}
