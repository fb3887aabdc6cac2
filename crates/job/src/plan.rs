//! The shards of a job: which files each one reads. Made from a listing, without touching the files.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fingerprint::sha256_hex;

/// The number of a shard, from 0, in the order of keys. Shown with six digits: `000012`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// Why a listed file is rejected before it is read; it becomes a row all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// A short word to count by: `duplicate_key`.
    pub reason: String,
    /// A sentence for people.
    pub detail: String,
}

/// An image file of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// The path below the source's root, with `/`: the image's key in every output.
    pub key: String,
    /// Where to read it on this machine.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub bytes: u64,
    /// Set when the listing already knows that it cannot be used.
    pub reject: Option<Reject>,
}

/// A tar file of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarRef {
    /// The path below the source's root, with `/`.
    pub key: String,
    /// Where to read it on this machine.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub bytes: u64,
}

/// What a shard reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardItems {
    /// Single files, in the order of their keys.
    Files(Vec<FileRef>),
    /// The samples of one tar.
    Tar(TarRef),
}

/// The unit of work and of commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// What it reads.
    pub items: ShardItems,
}

impl Shard {
    /// How many image files it has, rejected ones included; `None` for a tar, whose samples are
    /// known only when it is read.
    pub fn images(&self) -> Option<u64> {
        match &self.items {
            ShardItems::Files(files) => Some(files.len() as u64),
            ShardItems::Tar(_) => None,
        }
    }

    /// The bytes to read.
    pub fn bytes(&self) -> u64 {
        match &self.items {
            ShardItems::Files(files) => files.iter().map(|file| file.bytes).sum(),
            ShardItems::Tar(tar) => tar.bytes,
        }
    }
}

/// All shards of a job. The same listing in any order gives the same plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    shards: Vec<Shard>,
}

impl Plan {
    /// Cuts a listing of image files into shards of `images_per_shard`, in the order of keys.
    ///
    /// Of several files with one key the first by path is kept and the others are rejected with
    /// reason `duplicate_key`. Rejected files take a place in a shard: they become rows.
    ///
    /// # Panics
    /// If `images_per_shard` is 0, which no valid pipeline has.
    pub fn of_files(mut files: Vec<FileRef>, images_per_shard: u32) -> Self {
        assert!(images_per_shard > 0, "a shard holds at least one image");
        sort_and_reject_duplicates(&mut files);
        let chunks = files.chunks(images_per_shard as usize);
        let items = chunks.map(|chunk| ShardItems::Files(chunk.to_vec()));
        Plan::number(items)
    }

    /// Makes one shard per tar, in the order of keys.
    ///
    /// `rejects`, what the listing found and could not use, makes a last shard of its own, so that
    /// it becomes rows too.
    pub fn of_tars(mut tars: Vec<TarRef>, mut rejects: Vec<FileRef>) -> Self {
        tars.sort_by(|a, b| (&a.key, &a.path).cmp(&(&b.key, &b.path)));
        sort_and_reject_duplicates(&mut rejects);
        let rejects = (!rejects.is_empty()).then_some(ShardItems::Files(rejects));
        Plan::number(tars.into_iter().map(ShardItems::Tar).chain(rejects))
    }

    /// The shards, numbered from 0 without gaps.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// How many image files are planned, rejected ones included; `None` if there are tars.
    pub fn images(&self) -> Option<u64> {
        self.shards.iter().map(Shard::images).sum()
    }

    /// The bytes to read.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::bytes).sum()
    }

    /// SHA-256 over the keys and sizes, shard by shard, in lower-case hex.
    ///
    /// Where the source lies on this machine does not enter, so it may be mounted elsewhere on
    /// another. A file replaced by one of the same size is not seen.
    pub fn digest(&self) -> String {
        let mut text = String::new();
        let mut line = |kind: &str, key: &str, bytes: u64, rejected: bool| {
            // The key's length keeps keys with line feeds apart.
            let length = key.len();
            let rejected = if rejected { "!" } else { "" };
            text.push_str(&format!("{kind}{rejected} {bytes} {length} {key}\n"));
        };
        for shard in &self.shards {
            match &shard.items {
                ShardItems::Files(files) => {
                    line("shard", &shard.id.to_string(), files.len() as u64, false);
                    for file in files {
                        line("file", &file.key, file.bytes, file.reject.is_some());
                    }
                }
                ShardItems::Tar(tar) => line("tar", &tar.key, tar.bytes, false),
            }
        }
        sha256_hex(text.as_bytes())
    }

    fn number(items: impl Iterator<Item = ShardItems>) -> Self {
        let number = |(id, items): (usize, ShardItems)| Shard {
            id: ShardId(u32::try_from(id).expect("fewer than 2^32 shards")),
            items,
        };
        Plan {
            shards: items.enumerate().map(number).collect(),
        }
    }
}

fn sort_and_reject_duplicates(files: &mut [FileRef]) {
    files.sort_by(|a, b| (&a.key, &a.path).cmp(&(&b.key, &b.path)));
    let mut first_by_key: HashMap<String, PathBuf> = HashMap::new();
    for file in files {
        if let Some(first) = first_by_key.get(&file.key) {
            let detail = format!(
                "{} and {} have the same key; the first is used",
                first.display(),
                file.path.display()
            );
            let reason = "duplicate_key".to_string();
            file.reject.get_or_insert(Reject { reason, detail });
        } else {
            first_by_key.insert(file.key.clone(), file.path.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(key: &str, bytes: u64) -> FileRef {
        FileRef {
            key: key.to_string(),
            path: PathBuf::from("/data").join(key),
            bytes,
            reject: None,
        }
    }

    fn tar(key: &str, bytes: u64) -> TarRef {
        TarRef {
            key: key.to_string(),
            path: PathBuf::from("/data").join(key),
            bytes,
        }
    }

    fn keys(plan: &Plan) -> Vec<Vec<&str>> {
        let shards = plan.shards().iter();
        shards
            .map(|shard| match &shard.items {
                ShardItems::Files(files) => files.iter().map(|f| f.key.as_str()).collect(),
                ShardItems::Tar(tar) => vec![tar.key.as_str()],
            })
            .collect()
    }

    #[test]
    fn files_are_sorted_and_cut_into_shards() {
        let files = ["e.jpg", "a.jpg", "c/1.jpg", "b.jpg", "c.jpg"].map(|key| file(key, 10));
        let plan = Plan::of_files(files.to_vec(), 2);
        assert_eq!(
            keys(&plan),
            [
                vec!["a.jpg", "b.jpg"],
                vec!["c.jpg", "c/1.jpg"],
                vec!["e.jpg"]
            ]
        );
        assert_eq!((plan.images(), plan.bytes()), (Some(5), 50));
        assert_eq!(plan.shards()[2].id.to_string(), "000002");
    }

    #[test]
    fn the_listing_order_does_not_matter_but_keys_sizes_and_shards_do() {
        let listing = vec![file("a", 1), file("b", 2), file("c", 3)];
        let mut reversed = listing.clone();
        reversed.reverse();
        let digest = Plan::of_files(listing.clone(), 2).digest();
        assert_eq!(Plan::of_files(reversed, 2).digest(), digest);

        let mut moved = listing.clone();
        moved[0].path = PathBuf::from("/mnt/elsewhere/a");
        assert_eq!(Plan::of_files(moved, 2).digest(), digest);

        let mut other_size = listing.clone();
        other_size[1].bytes = 7;
        let mut other_key = listing.clone();
        other_key[1].key = "bb".to_string();
        let fewer = listing[..2].to_vec();
        for changed in [other_size, other_key, fewer] {
            assert_ne!(Plan::of_files(changed, 2).digest(), digest);
        }
        assert_ne!(Plan::of_files(listing, 3).digest(), digest);
    }

    #[test]
    fn the_second_file_of_a_key_is_rejected_and_still_a_row() {
        let mut twin = file("a.jpg", 5);
        twin.path = PathBuf::from("/other/a.jpg");
        let plan = Plan::of_files(vec![twin, file("a.jpg", 4)], 10);
        let ShardItems::Files(files) = &plan.shards()[0].items else {
            panic!("a plan of files");
        };
        assert_eq!(files[0].reject, None);
        let reject = files[1].reject.as_ref().unwrap();
        assert_eq!(reject.reason, "duplicate_key");
        assert!(reject.detail.contains("/other/a.jpg"), "{}", reject.detail);
        assert_eq!(plan.images(), Some(2));
    }

    #[test]
    fn each_tar_is_a_shard_and_rejects_are_the_last_one() {
        let mut broken = file("z.tar.gz", 0);
        broken.reject = Some(Reject {
            reason: "compressed_tar".to_string(),
            detail: "unpack it".to_string(),
        });
        let tars = vec![tar("b.tar", 20), tar("a.tar", 10)];
        let plan = Plan::of_tars(tars.clone(), vec![broken]);
        assert_eq!(
            keys(&plan),
            [vec!["a.tar"], vec!["b.tar"], vec!["z.tar.gz"]]
        );
        assert_eq!((plan.images(), plan.bytes()), (None, 30));
        let without = Plan::of_tars(tars, Vec::new());
        assert_eq!(without.shards().len(), 2);
        assert_ne!(without.digest(), plan.digest());
    }
}
