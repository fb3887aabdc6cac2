//! Tar shards.

use std::collections::HashSet;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use maskmill_formats::tar_shard::{TarError, TarItem, TarLimits, TarReader};

use crate::is_set;
use crate::panics::guarded;
use crate::split;

/// What a gzip stream may expand to in any case.
const FREE_EXPANSION: u64 = 64 << 20;

/// Reads a tar shard: keys are unique, entries are within limits, and nothing comes out that did not go in.
///
/// Bit 0 of the options: small entries only. Bit 1: the file is compressed with gzip first, which must change nothing.
/// Bit 2: bytes arrive one to seven at a time, which must change nothing either,
/// but how much of a damaged gzip stream is read.
pub fn tar(data: &[u8]) {
    guarded(|| check(data));
}

fn check(data: &[u8]) {
    let (options, file) = split(data);
    let limits = TarLimits {
        max_entry_bytes: if is_set(options, 0) { 100 } else { 1 << 20 },
        max_expansion: 2,
    };
    let items = read(TarReader::detect(file, limits));
    check_items(&items, file, limits);
    if is_set(options, 1) && !is_gzip(file) && (file.len() as u64) < FREE_EXPANSION {
        let compressed = compress(file);
        assert_same(&items, &read(TarReader::detect(&compressed[..], limits)));
    }
    if is_set(options, 2) {
        let slowly = read(TarReader::detect(Trickle(file), limits));
        match is_gzip(file) {
            false => assert_same(&items, &slowly),
            true => assert_no_contradiction(&items, &slowly),
        }
    }
    if !is_gzip(file) {
        assert_same(&items, &read(TarReader::new(file, limits)));
    }
}

type Items = Vec<Result<TarItem, TarError>>;

/// All items; the reader must stay at its end.
fn read<R: Read>(mut reader: TarReader<R>) -> Items {
    let items: Items = reader.by_ref().collect();
    assert!(reader.next().is_none(), "the end was not the end");
    items
}

fn check_items(items: &Items, file: &[u8], limits: TarLimits) {
    let mut keys = HashSet::new();
    let mut total = 0;
    for (at, item) in items.iter().enumerate() {
        let (key, name) = match item {
            Ok(TarItem::Sample { key, name, bytes }) => {
                assert!(bytes.len() as u64 <= limits.max_entry_bytes, "{name:?}");
                assert!(!name.starts_with('/'), "{name:?}");
                assert!(!name.split('/').any(|part| part == ".."), "{name:?}");
                total += bytes.len() as u64;
                (key, name)
            }
            Ok(TarItem::Rejected {
                key, name, detail, ..
            }) => {
                assert!(!detail.is_empty(), "{name:?}");
                (key, name)
            }
            Err(error) => {
                assert_eq!(at + 1, items.len(), "items behind the error {error}");
                continue;
            }
        };
        assert!(!key.is_empty(), "{name:?} has an empty key");
        assert!(keys.insert(key), "two items have the key {key:?}");
    }
    let most = match is_gzip(file) {
        false => file.len() as u64,
        true => FREE_EXPANSION.max(file.len() as u64 * limits.max_expansion),
    };
    assert!(total <= most, "{total} bytes of {}", file.len());
}

fn assert_same(items: &Items, others: &Items) {
    // Errors of readers have no equality; what is written of them holds all of it.
    assert_eq!(format!("{items:?}"), format!("{others:?}"));
}

/// The same items until one reading fails. A damaged gzip stream fails sooner when more of it is there at once.
fn assert_no_contradiction(items: &Items, others: &Items) {
    for (item, other) in items.iter().zip(others) {
        if let (Ok(item), Ok(other)) = (item, other) {
            assert_eq!(item, other);
        }
    }
}

fn is_gzip(file: &[u8]) -> bool {
    file.starts_with(&[0x1F, 0x8B])
}

fn compress(file: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(file).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// Gives its bytes a few at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = (1 + self.0.len() % 7).min(buffer.len());
        self.0.read(&mut buffer[..count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gzip_bomb_is_read_no_further_than_is_free() {
        // A member that is skipped: 65 MiB in 300 KiB, which at twice their length would not be 64 MiB.
        let mut header = ::tar::Header::new_gnu();
        header.set_path("zeros.txt").unwrap();
        header.set_size(65 << 20);
        header.set_cksum();
        let zeros = vec![0; 65 << 20];
        let bomb = compress(&[header.as_bytes(), &zeros[..]].concat());
        let limits = TarLimits {
            max_entry_bytes: 100,
            max_expansion: 2,
        };
        let items = read(TarReader::detect(&bomb[..], limits));
        assert!(
            matches!(items[..], [Err(TarError::Bomb { .. })]),
            "{items:?}"
        );
        tar(&[&[0][..], &bomb].concat());
    }

    #[test]
    fn different_items_are_seen() {
        let header = |name: &str| {
            let mut header = ::tar::Header::new_gnu();
            header.set_path(name).unwrap();
            header.set_size(0);
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        let limits = TarLimits::default();
        let items = |name| read(TarReader::new(&header(name)[..], limits));
        assert_same(&items("a.jpg"), &items("a.jpg"));
        let differ = || assert_same(&items("a.jpg"), &items("b.jpg"));
        assert!(std::panic::catch_unwind(differ).is_err());
    }
}
