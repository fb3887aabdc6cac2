//! A blob as a stream of bytes for a thread that blocks.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::ReadError;
use super::blob::{Blob, carry};

/// Reads a [`Blob`] from the front; made by [`Blob::sequential`].
///
/// `read` blocks and must not be called on a thread of the runtime. After an error, reading goes on
/// where it stopped: the next call asks again.
pub struct SequentialReader {
    blob: Blob,
    runtime: Handle,
    chunk_bytes: u64,
    chunks_ahead: usize,
    current: Bytes,
    /// In order; together with `current` they end at `asked`.
    ahead: VecDeque<Chunk>,
    asked: u64,
}

struct Chunk {
    start: u64,
    bytes: JoinHandle<Result<Bytes, ReadError>>,
}

impl fmt::Debug for SequentialReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SequentialReader")
            .field("blob", &self.blob)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl SequentialReader {
    pub(super) fn new(blob: Blob, runtime: Handle, chunk_bytes: u64, chunks_ahead: usize) -> Self {
        let mut reader = SequentialReader {
            blob,
            runtime,
            chunk_bytes: chunk_bytes.max(1),
            chunks_ahead: chunks_ahead.max(1),
            current: Bytes::new(),
            ahead: VecDeque::new(),
            asked: 0,
        };
        reader.ask();
        reader
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.blob.bytes()
    }

    fn ask(&mut self) {
        while self.ahead.len() < self.chunks_ahead && self.asked < self.blob.bytes() {
            let start = self.asked;
            let end = self.blob.bytes().min(start + self.chunk_bytes);
            let blob = self.blob.clone();
            let bytes = self
                .runtime
                .spawn(async move { blob.range(start..end).await });
            self.ahead.push_back(Chunk { start, bytes });
            self.asked = end;
        }
    }

    fn next_chunk(&mut self) -> io::Result<Bytes> {
        self.ask();
        let Some(chunk) = self.ahead.pop_front() else {
            return Ok(Bytes::new());
        };
        let error = match self.runtime.block_on(chunk.bytes) {
            Ok(Ok(bytes)) => {
                self.ask();
                return Ok(bytes);
            }
            Ok(Err(error)) => carry(Arc::new(error)),
            Err(stopped) => io::Error::other(stopped),
        };
        // Whoever calls again gets the same bytes, or the same error.
        self.forget();
        self.asked = chunk.start;
        Err(error)
    }

    fn forget(&mut self) {
        for chunk in self.ahead.drain(..) {
            chunk.bytes.abort();
        }
    }
}

impl Read for SequentialReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.current.is_empty() {
            self.current = self.next_chunk()?;
        }
        let length = into.len().min(self.current.len());
        self.current.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

impl Drop for SequentialReader {
    fn drop(&mut self) {
        self.forget();
    }
}
