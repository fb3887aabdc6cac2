//! The gzip stream under a `.tar.gz` shard.
//!
//! Decoders report damage, a cut and a failing reader as the same kind of error. Here they stay apart: the reader's own
//! failure is remembered below the decoder and handed on as it was, and everything else is a [`Fault`] inside the
//! `io::Error`.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

/// Up to this many bytes any expansion is allowed.
const MIN_EXPANDED: u64 = 64 << 20;

/// What is wrong with a gzip stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the gzip stream is cut off")]
    Cut,
    #[error("the gzip stream is damaged: {0}")]
    Damaged(String),
    #[error("{compressed} bytes of gzip expanded to more than {expanded}")]
    Bomb { compressed: u64, expanded: u64 },
}

impl Fault {
    /// The fault inside an error of [`TarInput`], if it is not the reader's own failure.
    pub(super) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// The bytes of a tar file, whether or not they are compressed with gzip. The first two bytes tell.
#[derive(Debug)]
pub struct TarInput<R> {
    stream: Stream<R>,
    max_expansion: u64,
    /// Bytes that came out of the decoder.
    expanded: u64,
}

#[derive(Debug)]
enum Stream<R> {
    /// Nothing was read yet; `None` if reading the first bytes failed.
    Unknown(Option<R>),
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
}

impl<R: Read> TarInput<R> {
    pub(super) fn new(input: R, max_expansion: u64) -> Self {
        Self {
            stream: Stream::Unknown(Some(input)),
            max_expansion,
            expanded: 0,
        }
    }

    fn open(&mut self, input: R) -> io::Result<()> {
        let mut source = Source {
            input,
            first: [0; 2],
            held: 0..0,
            bytes: 0,
            failure: None,
        };
        let mut filled = 0;
        while filled < 2 {
            match source.input.read(&mut source.first[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        source.held = 0..filled;
        self.stream = if source.first == [0x1F, 0x8B] {
            Stream::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else {
            Stream::Plain(source)
        };
        Ok(())
    }
}

impl<R: Read> Read for TarInput<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Stream::Unknown(input) = &mut self.stream {
            let Some(input) = input.take() else {
                return Ok(0);
            };
            self.open(input)?;
        }
        let decoder = match &mut self.stream {
            Stream::Unknown(_) => return Ok(0),
            Stream::Plain(source) => return source.input_or_held(buffer),
            Stream::Gzip(decoder) => decoder,
        };
        let count = decoder.read(buffer);
        let source = decoder.get_mut();
        if let Some(failure) = source.failure.take() {
            return Err(failure);
        }
        let count = count.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            io::ErrorKind::UnexpectedEof => io::Error::other(Fault::Cut),
            _ => io::Error::other(Fault::Damaged(error.to_string())),
        })?;
        self.expanded += count as u64;
        let limit = MIN_EXPANDED.max(source.bytes.saturating_mul(self.max_expansion));
        if self.expanded > limit {
            return Err(io::Error::other(Fault::Bomb {
                compressed: source.bytes,
                expanded: limit,
            }));
        }
        Ok(count)
    }
}

/// The input with its first two bytes put back. Counts, and remembers a failure.
#[derive(Debug)]
struct Source<R> {
    input: R,
    first: [u8; 2],
    /// The part of `first` that was not given yet.
    held: std::ops::Range<usize>,
    /// Bytes given.
    bytes: u64,
    failure: Option<io::Error>,
}

impl<R: Read> Source<R> {
    fn input_or_held(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() {
            return self.input.read(buffer);
        }
        let count = self.held.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.first[self.held.start..][..count]);
        self.held.start += count;
        Ok(count)
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input_or_held(buffer) {
            Ok(count) => {
                self.bytes += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failure = Some(error);
                Err(io::Error::other("the input failed"))
            }
        }
    }
}
