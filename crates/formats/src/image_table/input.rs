//! Ranged reads under the Parquet reader: few, and with the failures kept.
//!
//! The Parquet reader asks for a page's header byte by byte, then for the page. Over a network each of these would be
//! a request; here what is asked for is cut out of windows of some megabytes, read as they are reached.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

/// A file that can be read from any place: an object of a store, or bytes in memory.
pub trait ReadAt: Send + Sync {
    /// Its length.
    fn bytes(&self) -> u64;

    /// Exactly `length` bytes from `offset`.
    ///
    /// # Errors
    /// Whatever kept the bytes from being read; fewer bytes than asked for are an error too.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;
}

impl ReadAt for Bytes {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let end = offset.saturating_add(length as u64);
        if end > self.len() as u64 {
            let message = format!("bytes {offset}..{end} of {}", self.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(self.slice(offset as usize..end as usize))
    }
}

/// Bytes read at once: some pages of the usual 1 MiB.
const WINDOW: u64 = 4 << 20;

/// Windows held at once: each column that is read has its own place in the file. A group's small columns are smaller
/// than a window, so what is held is some 10 MiB.
const WINDOWS: usize = 8;

/// The file as the Parquet reader sees it.
#[derive(Clone)]
pub(super) struct Input(Arc<Shared>);

struct Shared {
    file: Arc<dyn ReadAt>,
    /// Where windows end: the ends of column chunks, in order, and the end of the file.
    ends: Vec<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one used last is at the end.
    windows: Vec<Window>,
    /// The file's first failure. The Parquet reader may pass on no more than its message.
    failure: Option<(u64, io::Error)>,
}

struct Window {
    start: u64,
    bytes: Bytes,
}

impl Input {
    /// `ends` are places that windows do not cross, in order: what follows is not going to be read.
    pub(super) fn new(file: Arc<dyn ReadAt>, mut ends: Vec<u64>) -> Self {
        let length = file.bytes();
        // Damaged metadata may put them anywhere.
        ends.retain(|end| *end < length);
        ends.push(length);
        Self(Arc::new(Shared {
            file,
            ends,
            state: Mutex::default(),
        }))
    }

    /// Where the file's first failure was, and the failure, for the one that asks first.
    pub(super) fn take_failure(&self) -> Option<(u64, io::Error)> {
        self.state().failure.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that change it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a held window has from `start` on, at most `length` bytes.
    fn held(&self, start: u64, length: usize) -> Bytes {
        let mut state = self.state();
        let holds = |window: &Window| {
            window.start <= start && start - window.start < window.bytes.len() as u64
        };
        let Some(place) = state.windows.iter().position(holds) else {
            return Bytes::new();
        };
        let window = state.windows.remove(place);
        let from = (start - window.start) as usize;
        let part = window
            .bytes
            .slice(from..window.bytes.len().min(from.saturating_add(length)));
        state.windows.push(window);
        part
    }

    /// From 1 to `length` bytes from `start` on; none at the end of the file.
    fn some(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let held = self.held(start, length);
        let end = self.0.ends.iter().find(|end| **end > start);
        let (true, Some(end)) = (held.is_empty(), end) else {
            return Ok(held);
        };
        let bytes = self.read(start, (end - start).min(WINDOW) as usize)?;
        let part = bytes.slice(..bytes.len().min(length));
        let mut state = self.state();
        if state.windows.len() == WINDOWS {
            state.windows.remove(0);
        }
        state.windows.push(Window { start, bytes });
        Ok(part)
    }

    /// Exactly `length` bytes, which the file has.
    fn exactly(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let first = self.held(start, length);
        if first.len() == length {
            return Ok(first);
        }
        if first.is_empty() && (length as u64) < WINDOW {
            let first = self.some(start, length)?;
            if first.len() == length {
                return Ok(first);
            }
        }
        let first = self.held(start, length);
        let rest = self.read(start + first.len() as u64, length - first.len())?;
        if first.is_empty() {
            return Ok(rest);
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }

    fn read(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let bytes = self.0.file.read_at(start, length).and_then(|bytes| {
            if bytes.len() == length {
                return Ok(bytes);
            }
            let message = format!("{} bytes were read instead of {length}", bytes.len());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
        });
        bytes.map_err(|error| {
            // Not the error's kind: readers go on after `Interrupted`.
            let message = io::Error::other(error.to_string());
            self.state().failure.get_or_insert((start, error));
            message
        })
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        self.0.file.bytes()
    }
}

impl ChunkReader for Input {
    type T = ReadOn;

    fn get_read(&self, start: u64) -> Result<ReadOn, ParquetError> {
        Ok(ReadOn {
            input: self.clone(),
            offset: start,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.saturating_add(length as u64);
        if end > self.len() {
            return Err(ParquetError::EOF(format!(
                "bytes {start}..{end} of a file of {} bytes",
                self.len()
            )));
        }
        self.exactly(start, length)
            .map_err(|error| ParquetError::External(Box::new(error)))
    }
}

/// Reads the file on from a place.
pub(super) struct ReadOn {
    input: Input,
    offset: u64,
}

impl Read for ReadOn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.input.some(self.offset, buffer.len())?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what was read; fails from a place on.
    struct Recorder {
        file: Bytes,
        fails_from: u64,
        reads: Mutex<Vec<(u64, usize)>>,
    }

    impl ReadAt for Recorder {
        fn bytes(&self) -> u64 {
            self.file.bytes()
        }

        fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
            self.reads.lock().unwrap().push((offset, length));
            if offset >= self.fails_from {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "too slow"));
            }
            self.file.read_at(offset, length)
        }
    }

    fn recorder(length: usize, fails_from: u64) -> Arc<Recorder> {
        Arc::new(Recorder {
            file: (0..length).map(|n| n as u8).collect(),
            fails_from,
            reads: Mutex::default(),
        })
    }

    #[test]
    fn every_byte_is_read_once_though_pages_cross_windows() {
        let window = WINDOW as usize;
        let file = recorder(3 * window, u64::MAX);
        let input = Input::new(file.clone(), vec![]);
        let mut header = [0; 20];
        // A header, its page of 1.25 windows, then the next header and its page to the end.
        input.get_read(0).unwrap().read_exact(&mut header).unwrap();
        let page = input.get_bytes(20, window + window / 4).unwrap();
        let next = 20 + page.len() as u64;
        input
            .get_read(next)
            .unwrap()
            .read_exact(&mut header)
            .unwrap();
        let last = input
            .get_bytes(next + 20, 3 * window - next as usize - 20)
            .unwrap();

        assert_eq!(page, file.file.slice(20..next as usize));
        assert_eq!(header, file.file[next as usize..][..20]);
        assert_eq!(last, file.file.slice(next as usize + 20..));
        let reads = file.reads.lock().unwrap();
        let total: usize = reads.iter().map(|(_, length)| length).sum();
        assert_eq!((total, reads.len()), (3 * window, 4), "{reads:?}");
    }

    #[test]
    fn windows_end_where_column_chunks_do() {
        let file = recorder(1000, u64::MAX);
        let input = Input::new(file.clone(), vec![300, 700]);
        assert_eq!(input.get_bytes(290, 5).unwrap(), file.file.slice(290..295));
        assert_eq!(input.get_bytes(300, 5).unwrap(), file.file.slice(300..305));
        assert_eq!(input.get_bytes(690, 20).unwrap(), file.file.slice(690..710));
        assert_eq!(input.get_bytes(990, 10).unwrap(), file.file.slice(990..));
        let reads = file.reads.lock().unwrap();
        assert_eq!(*reads, [(290, 10), (300, 400), (700, 10), (990, 10)]);
    }

    #[test]
    fn ranges_beyond_the_file_are_damage_not_failures() {
        let input = Input::new(recorder(10, u64::MAX), vec![]);
        assert!(matches!(input.get_bytes(5, 6), Err(ParquetError::EOF(_))));
        assert!(input.get_bytes(u64::MAX, usize::MAX).is_err());
        assert_eq!(input.get_read(10).unwrap().read(&mut [0; 4]).unwrap(), 0);
        assert_eq!(input.get_read(99).unwrap().read(&mut [0; 4]).unwrap(), 0);
        assert!(input.take_failure().is_none());
    }

    #[test]
    fn a_failure_is_kept_as_it_was() {
        let input = Input::new(recorder(1000, 500), vec![500]);
        assert!(input.get_bytes(400, 200).is_err());
        let (offset, failure) = input.take_failure().unwrap();
        assert_eq!((offset, failure.kind()), (500, io::ErrorKind::TimedOut));
        assert!(input.take_failure().is_none());
    }

    #[test]
    fn a_file_that_gives_less_than_it_has_is_a_failure() {
        struct Short;
        impl ReadAt for Short {
            fn bytes(&self) -> u64 {
                100
            }
            fn read_at(&self, _: u64, length: usize) -> io::Result<Bytes> {
                Ok(Bytes::from(vec![0; length / 2]))
            }
        }
        let input = Input::new(Arc::new(Short), vec![]);
        assert!(input.get_bytes(0, 100).is_err());
        let (_, failure) = input.take_failure().unwrap();
        assert_eq!(failure.to_string(), "50 bytes were read instead of 100");
    }
}
