//! WebDataset tar shards, read as a stream.
//!
//! A sample's key is its member's path up to the first dot of the file name, without a leading `./`; its extension is
//! the rest, lower-cased: `a/b.left.JPG` has key `a/b` and extension `left.jpg`. Members whose extension does not end
//! in an image's ([`is_image_extension`]) are skipped, as are directories, links and files that begin with a dot.
//!
//! Nothing that claims to be an image vanishes: one that cannot become a sample is a [`TarItem::Rejected`] with a
//! reason, and every item of a shard has a key of its own. A shard that ends too early gives the samples before the
//! cut, then an error.
//!
//! ```text
//! header block -> extended names (GNU L, pax x) -> member data, padded to 512 bytes -> ... -> zero block: end
//!      | end of input here: accepted as the end, as GNU tar does (an input of 0 bytes is an error)
//!                    | end of input here: Truncated        | anything after it is ignored
//! ```
//! Shards compressed with gzip are read as they are ([`TarReader::detect`]); offsets count the bytes that come out. What
//! is held is never more than has arrived, whatever sizes the headers claim.

mod gzip;
#[cfg(test)]
mod gzip_tests;
mod members;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read};

pub use gzip::TarInput;
use members::{Member, Members};
use tar::EntryType;

/// Whether a file name's extension (in any case, without the dot) is one of an image that `decode` reads: `jpg`,
/// `jpeg`, `png`, `tif`, `tiff`, `bmp` or `webp`. Of several extensions the last counts: `left.jpg` is an image's.
pub fn is_image_extension(extension: &str) -> bool {
    let last = extension.rsplit('.').next().unwrap_or_default();
    ["jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp"]
        .iter()
        .any(|image| last.eq_ignore_ascii_case(image))
}

/// What a shard may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    /// Most bytes of one image file. A larger one is rejected, and skipped without holding it in memory.
    pub max_entry_bytes: u64,
    /// How many times its length a shard that is compressed with gzip may expand to; the first 64 MiB are free. Gzip
    /// itself reaches 1030, and images, which are compressed already, hardly 2.
    pub max_expansion: u64,
}

impl Default for TarLimits {
    /// 512 MiB, and 200 times.
    fn default() -> Self {
        Self {
            max_entry_bytes: 512 << 20,
            max_expansion: 200,
        }
    }
}

/// An image of a shard, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarItem {
    /// An image file, not decoded yet.
    Sample {
        /// Unique within the shard.
        key: String,
        /// The member's name as stored.
        name: String,
        /// The file's bytes.
        bytes: Vec<u8>,
    },
    /// An image file that is not used.
    Rejected {
        /// Unique within the shard: the sample's key, with `#2`, `#3`, ... appended if that is taken.
        key: String,
        /// The member's name; bytes that are not UTF-8 appear as U+FFFD.
        name: String,
        /// Why.
        reason: TarReject,
        /// The reason in words.
        detail: String,
    },
}

/// Why an image file of a shard is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TarReject {
    /// The name is absolute or climbs out with `..`: it could overwrite files where keys become paths.
    UnsafeName,
    /// The name is not UTF-8, so it cannot be a key.
    NonUtf8Name,
    /// An earlier image of the shard has the same key, whatever its extension.
    DuplicateKey,
    /// More bytes than [`TarLimits::max_entry_bytes`].
    TooLarge,
}

impl TarReject {
    /// The stable code written to rejected image rows: `unsafe_name`, `non_utf8_name`, `duplicate_key` or
    /// `entry_too_large`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnsafeName => "unsafe_name",
            Self::NonUtf8Name => "non_utf8_name",
            Self::DuplicateKey => "duplicate_key",
            Self::TooLarge => "entry_too_large",
        }
    }
}

/// Why a shard could not be read to its end. The samples before `offset` were delivered.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The input ends inside a header or a member.
    #[error(
        "the tar file is cut off at byte {offset}, inside {inside}; samples before it were read"
    )]
    Truncated {
        /// Where the input ended, in bytes.
        offset: u64,
        /// What was being read.
        inside: String,
    },
    /// The input is not a tar file, or is damaged.
    #[error("the tar file is damaged at byte {offset}: {detail}")]
    Corrupt {
        /// Start of the block at fault, in bytes.
        offset: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// A shard compressed with gzip expands to far more than images would.
    #[error(
        "the tar file expands to more than {expanded} bytes from {compressed}: not a shard of images, and it was read no further"
    )]
    Bomb {
        /// Compressed bytes read.
        compressed: u64,
        /// The bytes they may expand to.
        expanded: u64,
    },
    /// The reader failed.
    #[error("reading the tar file failed at byte {offset}")]
    Io {
        /// Bytes read before the failure.
        offset: u64,
        /// The reader's error.
        #[source]
        source: io::Error,
    },
}

/// Reads the image samples of one shard, one at a time and in order.
///
/// After an error the iterator is finished.
#[derive(Debug)]
pub struct TarReader<R> {
    members: Members<R>,
    limits: TarLimits,
    /// How often each key was met.
    keys: HashMap<String, u32>,
    finished: bool,
}

impl<R: Read> TarReader<R> {
    /// A reader of the tar file that `input` gives from its first byte. Small reads are made: buffer files.
    pub fn new(input: R, limits: TarLimits) -> Self {
        Self {
            members: Members::new(input),
            limits,
            keys: HashMap::new(),
            finished: false,
        }
    }
}

impl<R: Read> TarReader<TarInput<R>> {
    /// As [`new`](Self::new), of a tar file that may be compressed with gzip.
    pub fn detect(input: R, limits: TarLimits) -> Self {
        Self::new(TarInput::new(input, limits.max_expansion), limits)
    }
}

impl<R: Read> TarReader<R> {
    /// The next image, or `None` at the end.
    fn next_item(&mut self) -> Result<Option<TarItem>, TarError> {
        while let Some(member) = self.members.next_member()? {
            let name = String::from_utf8_lossy(&member.name).into_owned();
            let is_file = matches!(member.kind, EntryType::Regular | EntryType::Continuous);
            let Some((key, extension)) = key_and_extension(&name).filter(|_| is_file) else {
                self.members.skip_data(&member, &name)?;
                continue;
            };
            if !is_image_extension(extension) {
                self.members.skip_data(&member, &name)?;
                continue;
            }
            let (key, is_first) = self.unique_key(key);
            if let Some((reason, detail)) = self.reject(&member, &name, &key, is_first) {
                self.members.skip_data(&member, &name)?;
                return Ok(Some(TarItem::Rejected {
                    key,
                    name,
                    reason,
                    detail,
                }));
            }
            let bytes = self.members.read_data(&member, &name)?;
            return Ok(Some(TarItem::Sample { key, name, bytes }));
        }
        Ok(None)
    }

    fn reject(
        &self,
        member: &Member,
        name: &str,
        key: &str,
        is_first: bool,
    ) -> Option<(TarReject, String)> {
        if std::str::from_utf8(&member.name).is_err() {
            let detail = format!("the name \"{}\" is not UTF-8", member.name.escape_ascii());
            return Some((TarReject::NonUtf8Name, detail));
        }
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            let detail = format!("the name {name:?} is absolute or contains \"..\"");
            return Some((TarReject::UnsafeName, detail));
        }
        if !is_first {
            let taken = key.rsplit_once('#').map_or(key, |(taken, _)| taken);
            let detail = format!(
                "{name:?}: an earlier image has the key {taken:?}; keys end at the name's first dot"
            );
            return Some((TarReject::DuplicateKey, detail));
        }
        if member.size > self.limits.max_entry_bytes {
            let detail = format!(
                "{name:?} has {} bytes, at most {} are allowed",
                member.size, self.limits.max_entry_bytes
            );
            return Some((TarReject::TooLarge, detail));
        }
        None
    }

    /// `key`, and whether it was free; if it was not, with the first free `#n` appended.
    fn unique_key(&mut self, key: &str) -> (String, bool) {
        let mut unique = key.to_owned();
        let is_first = !self.keys.contains_key(key);
        while self.keys.contains_key(&unique) {
            let met = self.keys.entry(key.to_owned()).or_insert(1);
            *met += 1;
            unique = format!("{key}#{met}");
        }
        self.keys.insert(unique.clone(), 1);
        (unique, is_first)
    }
}

impl<R: Read> Iterator for TarReader<R> {
    type Item = Result<TarItem, TarError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.next_item().transpose();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

/// A member's key and extension, or `None` for a name without either.
fn key_and_extension(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    (dot > base && dot + 1 < name.len()).then(|| (&name[..dot], &name[dot + 1..]))
}
