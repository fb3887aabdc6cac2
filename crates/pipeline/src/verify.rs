//! Re-reads an output and says everything that is wrong with it.

use std::collections::{BTreeMap, HashMap, HashSet};

use maskmill_formats::rows::{ImageStatus, MaskRow};
use maskmill_job::{Item, ItemKind, Shard};
use maskmill_masks::ImageSize;
use maskmill_storage::Marker;
use sha2::{Digest, Sha256};

use crate::describe::describe;
use crate::output::{ImageRows, JobOutput, OutputError};
use crate::plan_items::PlanItems;

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Shards in the plan.
    pub shards: u64,
    /// Shards with a marker.
    pub committed: u64,
    /// Image rows.
    pub images: u64,
    /// Mask rows.
    pub masks: u64,
    /// Everything wrong, one sentence each.
    pub problems: Vec<String>,
}

/// Which images were met, by half of their key's SHA-256: a job has more keys than memory.
#[derive(Default)]
struct Seen(HashMap<[u8; 16], ImageStatus>);

impl Seen {
    /// The status under which the image was met before.
    fn meet(&mut self, key: &str, status: ImageStatus) -> Option<ImageStatus> {
        let digest = Sha256::digest(key.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        self.0.insert(half, status)
    }
}

impl JobOutput {
    /// Reads every part of every committed shard: digests and counts agree with the markers and the plan,
    /// every mask decodes to its own area and box and to its image's size, no image is there twice, and
    /// no shard and no image of the plan is missing.
    ///
    /// # Errors
    /// The markers cannot be listed. Everything else is a [problem](Verification::problems).
    pub fn verify(&self) -> Result<Verification, OutputError> {
        let committed = self.committed_shards()?;
        let mut found = Verification {
            shards: self.plan().shards().count() as u64,
            committed: committed.len() as u64,
            ..Verification::default()
        };
        let failures = self.failures(&committed)?;
        for shard in self.plan().shards() {
            if committed.contains(&shard.id.0) {
                continue;
            }
            let problem = match failures.get(&shard.id.0) {
                Some(failure) => format!("shard {} failed: {}", shard.id, failure.cause),
                None => format!(
                    "shard {} is not committed: run the job again to do it",
                    shard.id
                ),
            };
            found.problems.push(problem);
        }
        let items = self.plan_items();
        let mut seen = Seen::default();
        for id in committed {
            let Some(shard) = self.planned(id) else {
                let problem = format!(
                    "shard {id:06} is committed, the plan has {} shards",
                    found.shards
                );
                found.problems.push(problem);
                continue;
            };
            let read = self.marker(id).and_then(|marker| {
                let rows = self.shard(&marker)?;
                Ok((marker, rows))
            });
            match read {
                Ok((marker, rows)) => {
                    found.check(&marker, &rows, shard.retry_of.is_some(), &mut seen);
                    self.check_plan(shard, &marker, &rows, &items, &mut found);
                }
                Err(error) => found.problems.push(describe(&error)),
            }
        }
        Ok(found)
    }

    /// Whether a shard's rows are those of its items.
    fn check_plan(
        &self,
        shard: &Shard,
        marker: &Marker,
        rows: &[ImageRows],
        items: &PlanItems,
        found: &mut Verification,
    ) {
        let mut problem = |text: String| {
            found.problems.push(format!("shard {}: {text}", shard.id));
        };
        if marker.inputs != shard.digest {
            problem(format!(
                "it was made of other inputs ({}) than the plan has ({})",
                marker.inputs, shard.digest
            ));
        }
        match self.runtime.block_on(items.of(shard)) {
            Ok(items) => missing(&items, rows, shard.retry_of.is_some())
                .into_iter()
                .for_each(problem),
            Err(error) => problem(describe(&error)),
        }
    }
}

/// What is planned and has no row, and the other way round.
fn missing(items: &[Item], rows: &[ImageRows], is_retry: bool) -> Vec<String> {
    let keys: HashSet<&str> = rows
        .iter()
        .map(|row| row.image.image_key.as_str())
        .collect();
    let images: HashSet<&str> = items
        .iter()
        .filter(|item| matches!(item.kind, ItemKind::Image))
        .map(|item| &*item.key)
        .collect();
    let files: HashMap<&str, u64> = items.iter().fold(HashMap::new(), |mut files, item| {
        let rows = match item.kind {
            ItemKind::Image => return files,
            ItemKind::Tar => 0,
            ItemKind::Rows { rows, .. } => rows,
        };
        *files.entry(&*item.key).or_default() += rows;
        files
    });
    let mut problems = Vec::new();
    for key in images.difference(&keys) {
        // Two items of one key are one row each, and `Seen` counts those.
        problems.push(format!("image {key:?} is planned and has no row"));
    }
    let of_file = |key: &str| {
        let mut folders = key.match_indices('/').map(|(at, _)| &key[..at]);
        folders
            .find(|folder| files.contains_key(folder))
            .map(str::to_owned)
    };
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut is_cut: HashSet<String> = HashSet::new();
    for key in keys.difference(&images) {
        match of_file(key) {
            None => problems.push(format!("image {key:?} is not planned")),
            Some(file) => {
                if key[file.len()..].starts_with("/#rest") {
                    is_cut.insert(file.clone());
                }
                *counts.entry(file).or_default() += 1;
            }
        }
    }
    for (file, planned) in files {
        let rows = counts.get(file).copied().unwrap_or(0);
        // What a damaged table still gave is not known before; a retry passes over what is done.
        if planned > 0 && rows != planned && !is_cut.contains(file) && !is_retry {
            problems.push(format!(
                "{file} has {rows} image rows, {planned} are planned"
            ));
        }
    }
    problems.sort();
    problems
}

impl Verification {
    fn check(&mut self, marker: &Marker, rows: &[ImageRows], is_retry: bool, seen: &mut Seen) {
        let shard = marker.shard;
        let mut rejects: BTreeMap<String, u64> = BTreeMap::new();
        for ImageRows { image, masks } in rows {
            self.images += 1;
            self.masks += masks.len() as u64;
            let key = &image.image_key;
            let mut problem = |text: String| {
                self.problems
                    .push(format!("shard {shard:06}, image {key:?}: {text}"));
            };
            match seen.meet(key, image.status) {
                // It was rejected, and this shard looked again.
                Some(ImageStatus::Rejected) if is_retry => {}
                Some(_) => problem("it is there twice".to_owned()),
                None => {}
            }
            if image.shard != shard {
                problem(format!("its row says shard {}", image.shard));
            }
            if image.masks as usize != masks.len() {
                problem(format!(
                    "{} masks, its row says {}",
                    masks.len(),
                    image.masks
                ));
            }
            if image.status == ImageStatus::Rejected {
                let reason = image.reason.clone().unwrap_or_default();
                *rejects.entry(reason).or_default() += 1;
                if image.reason.is_none() || !masks.is_empty() {
                    problem("a rejected image has a reason and no masks".to_owned());
                }
            }
            let size = ImageSize::new(image.height, image.width);
            for (index, mask) in masks.iter().enumerate() {
                if mask.mask_id as usize != index {
                    problem(format!("mask {} is in place {index}", mask.mask_id));
                }
                if let Some(wrong) = wrong_mask(mask, size) {
                    problem(format!("mask {index}: {wrong}"));
                }
            }
        }
        let rejected: u64 = rejects.values().sum();
        let ok = rows.len() as u64 - rejected;
        let counts = (ok, rejected, &rejects);
        let told = (marker.images_ok, marker.images_rejected, &marker.rejects);
        if counts != told {
            self.problems.push(format!(
                "shard {shard:06}: {ok} images are ok and {rejected} rejected {rejects:?}, its marker says \
                 {} and {} {:?}",
                told.0, told.1, told.2
            ));
        }
    }
}

/// What a mask says of itself against what its run lengths decode to.
fn wrong_mask(mask: &MaskRow, image: ImageSize) -> Option<String> {
    if mask.rle.size() != image {
        return Some(format!("it is {}, the image {image}", mask.rle.size()));
    }
    let decoded = mask.rle.decode();
    let (area, bbox) = (decoded.area(), decoded.bounds().sa_xywh());
    if (area, bbox) != (mask.area, mask.bbox) {
        return Some(format!(
            "it decodes to area {area} and box {bbox:?}, its row says {} and {:?}",
            mask.area, mask.bbox
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use maskmill_formats::rows::ImageRow;

    use super::*;

    fn item(key: &str, kind: ItemKind) -> Item {
        Item {
            key: key.into(),
            uri: None,
            bytes: 1,
            etag: None,
            kind,
            extras: None,
        }
    }

    fn rows(keys: &[&str]) -> Vec<ImageRows> {
        let row = |key: &&str| ImageRows {
            image: ImageRow {
                image_key: (*key).to_owned(),
                shard: 0,
                width: 1,
                height: 1,
                sha256: String::new(),
                bytes: 1,
                format: None,
                exif_orientation: 1,
                masks: 0,
                status: ImageStatus::Ok,
                reason: None,
                detail: None,
                milliseconds: 0.0,
                caption: None,
                boxes: None,
            },
            masks: Vec::new(),
        };
        keys.iter().map(row).collect()
    }

    #[test]
    fn every_planned_image_has_a_row_and_no_other() {
        let items = ["a", "b/c"].map(|key| item(key, ItemKind::Image));
        assert!(missing(&items, &rows(&["a", "b/c"]), false).is_empty());
        let problems = missing(&items, &rows(&["a", "d"]), false);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("\"b/c\" is planned and has no row"));
        assert!(problems[1].contains("\"d\" is not planned"));
    }

    #[test]
    fn rows_of_tables_are_counted_unless_the_table_was_cut() {
        let group = |row_group, rows| item("x/t.parquet", ItemKind::Rows { row_group, rows });
        let items = [group(0, 2), group(1, 1)];
        let three = ["x/t.parquet/0", "x/t.parquet/k/1", "x/t.parquet/2"];
        assert!(missing(&items, &rows(&three), false).is_empty());
        let problems = missing(&items, &rows(&three[..2]), false);
        assert_eq!(problems, ["x/t.parquet has 2 image rows, 3 are planned"],);
        assert!(missing(&items, &rows(&three[..2]), true).is_empty());
        let cut = [three[0], "x/t.parquet/#rest-1"];
        assert!(missing(&items, &rows(&cut), false).is_empty());
        let tar = [item("t.tar", ItemKind::Tar)];
        assert!(missing(&tar, &rows(&["t.tar/a", "t.tar/b"]), false).is_empty());
        assert_eq!(missing(&tar, &rows(&["u.tar/a"]), false).len(), 1);
    }
}
