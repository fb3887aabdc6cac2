//! Shards compressed with gzip, whole, damaged, cut, failing and malicious.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

const LIMITS: TarLimits = TarLimits {
    max_entry_bytes: 1 << 20,
    max_expansion: 200,
};

/// Three images; the second does not compress.
fn shard() -> Vec<u8> {
    let noise: Vec<u8> = (0..3000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in [("a.jpg", &b"AAA"[..]), ("b.png", &noise), ("c.jpg", b"C")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn detect(input: impl Read) -> Vec<Result<TarItem, TarError>> {
    TarReader::detect(input, LIMITS).collect()
}

/// The samples, and the error that ended them.
fn parts(items: Vec<Result<TarItem, TarError>>) -> (Vec<TarItem>, Option<TarError>) {
    let mut samples = Vec::new();
    for item in items {
        match item {
            Ok(item) => samples.push(item),
            Err(error) => return (samples, Some(error)),
        }
    }
    (samples, None)
}

fn samples() -> Vec<TarItem> {
    let (samples, error) = parts(TarReader::new(&shard()[..], LIMITS).collect());
    assert!(error.is_none() && samples.len() == 3);
    samples
}

/// Gives a byte at a time, every other time only a pretext, and fails at its end if told to.
struct Reluctant {
    bytes: Cursor<Vec<u8>>,
    pause: bool,
    failure: Option<io::ErrorKind>,
}

impl Read for Reluctant {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pause = !self.pause;
        if self.pause {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buffer.len().min(1);
        match (self.bytes.read(&mut buffer[..most])?, self.failure) {
            (0, Some(kind)) => Err(io::Error::new(kind, "connection reset by test")),
            (count, _) => Ok(count),
        }
    }
}

fn reluctant(bytes: Vec<u8>, failure: Option<io::ErrorKind>) -> Reluctant {
    Reluctant {
        bytes: Cursor::new(bytes),
        pause: false,
        failure,
    }
}

#[test]
fn compressed_or_not_the_samples_are_the_same() {
    let plain = shard();
    let (first, second) = plain.split_at(1000);
    let members = [gzip(first), gzip(b""), gzip(second)].concat();
    for file in [plain.clone(), gzip(&plain), members] {
        assert_eq!(parts(detect(&file[..])).0, samples());
        let (found, error) = parts(detect(reluctant(file, None)));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(found, samples());
    }
}

#[test]
fn inputs_of_hardly_any_bytes() {
    for file in [&b""[..], b"\x1F", b"\x1F\x8B", b"x", b"xy"] {
        let (samples, error) = parts(detect(file));
        assert!(samples.is_empty());
        assert!(
            matches!(error, Some(TarError::Truncated { .. })),
            "{error:?}"
        );
    }
}

#[test]
fn a_cut_gives_the_samples_before_it() {
    let file = gzip(&shard());
    let expected = samples();
    let mut complete = 0;
    for cut in 2..file.len() {
        let (found, error) = parts(detect(&file[..cut]));
        assert_eq!(found, expected[..found.len()], "cut at {cut}");
        // Behind the end mark nothing is read, so the checksum's absence goes unnoticed.
        match error {
            None => complete += usize::from(found.len() == 3),
            Some(error) => assert!(matches!(error, TarError::Truncated { .. }), "{error}"),
        }
    }
    assert!((1..64).contains(&complete), "{complete}");
}

#[test]
fn damage_is_corrupt_and_a_failing_reader_is_not() {
    let mut file = gzip(&shard());
    let middle = file.len() / 2;
    file.truncate(middle);
    // A deflate block of the reserved kind.
    let damaged = [&gzip(b"")[..10], &[0xFF; 700]].concat();
    let (_, error) = parts(detect(&damaged[..]));
    assert!(matches!(error, Some(TarError::Corrupt { .. })), "{error:?}");

    for length in [0, 1, 2, 5, 10, 11, middle] {
        let input = reluctant(
            file[..length].to_vec(),
            Some(io::ErrorKind::ConnectionReset),
        );
        let (_, error) = parts(detect(input));
        let Some(TarError::Io { source, .. }) = error else {
            panic!("failing at {length}: {error:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset, "{length}");
        assert_eq!(source.to_string(), "connection reset by test");
    }
}

#[test]
fn bombs_are_not_unpacked() {
    // A member of 80 MiB of zeros that claims to be skippable, then an image.
    let mut header = tar::Header::new_ustar();
    header.set_path("zeros.bin").unwrap();
    header.set_size(80 << 20);
    header.set_cksum();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(header.as_bytes()).unwrap();
    io::copy(&mut io::repeat(0).take(80 << 20), &mut encoder).unwrap();
    encoder.write_all(&shard()).unwrap();
    let file = encoder.finish().unwrap();
    assert!(file.len() < 1 << 20, "{}", file.len());

    let (samples, error) = parts(detect(&file[..]));
    assert!(samples.is_empty());
    let Some(TarError::Bomb {
        expanded,
        compressed,
    }) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(expanded, 64 << 20);
    assert!(compressed < file.len() as u64);

    // The same file is read where such an expansion is allowed.
    let generous = TarLimits {
        max_expansion: 1100,
        ..LIMITS
    };
    assert_eq!(TarReader::detect(&file[..], generous).flatten().count(), 3);
}

proptest! {
    /// Damage never panics and never passes for the reader's failure.
    #[test]
    fn damaged_streams_never_panic(
        flips in proptest::collection::vec((2_usize..8192, any::<u8>()), 1..6),
    ) {
        let mut file = gzip(&shard());
        for (at, byte) in flips {
            let at = 2 + at % (file.len() - 2);
            file[at] = byte;
        }
        let (_, error) = parts(detect(&file[..]));
        prop_assert!(!matches!(error, Some(TarError::Io { .. })), "{:?}", error);
    }
}
