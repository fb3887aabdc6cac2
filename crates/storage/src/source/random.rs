//! A blob in any order for threads that block, with the blocks used last kept.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt, Shared};
use tokio::runtime::Handle;

use super::ReadError;
use super::blob::{Blob, carry};

/// Reads a [`Blob`] in any order; made by [`Blob::random`].
///
/// Several threads may read at once. `read_at` blocks and must not be called on a thread of the
/// runtime. When blocks are used one after the other, the next one is asked for ahead.
pub struct RandomReader {
    blob: Blob,
    runtime: Handle,
    block_bytes: u64,
    most: usize,
    /// The one used last is at the back.
    recent: Mutex<VecDeque<Block>>,
}

type Pending = Shared<BoxFuture<'static, Result<Bytes, Arc<ReadError>>>>;

#[derive(Clone)]
struct Block {
    index: u64,
    bytes: Pending,
}

impl fmt::Debug for RandomReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RandomReader")
            .field("blob", &self.blob)
            .field("block_bytes", &self.block_bytes)
            .finish_non_exhaustive()
    }
}

impl RandomReader {
    pub(super) fn new(blob: Blob, runtime: Handle, block_bytes: u64, blocks: usize) -> Self {
        RandomReader {
            blob,
            runtime,
            block_bytes: block_bytes.max(1),
            // One to use, and one ahead.
            most: blocks.max(2),
            recent: Mutex::default(),
        }
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.blob.bytes()
    }

    /// `length` bytes from `offset` on, exactly.
    ///
    /// # Errors
    /// They end behind the file (`UnexpectedEof`), or cannot be read
    /// ([`read_error`](super::read_error) says why).
    pub fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let end = offset.checked_add(length as u64);
        let Some(end) = end.filter(|end| *end <= self.bytes()) else {
            let what = format!("{length} bytes at {offset} of a file of {}", self.bytes());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        };
        if length == 0 {
            return Ok(Bytes::new());
        }
        let blocks = offset / self.block_bytes..(end - 1) / self.block_bytes + 1;
        if blocks.end - blocks.start > self.most as u64 / 2 {
            // It would push out everything else; one request serves it better.
            let bytes = self.runtime.block_on(self.blob.range(offset..end));
            return bytes.map_err(|error| carry(Arc::new(error)));
        }
        let pending = self.take(blocks.clone());
        let mut out = BytesMut::new();
        for (index, block) in blocks.zip(pending) {
            let start = index * self.block_bytes;
            let bytes = self.wait(index, block)?;
            let from = offset.saturating_sub(start) as usize;
            let to = (end - start).min(bytes.len() as u64) as usize;
            let part = bytes.slice(from..to);
            if part.len() == length {
                return Ok(part);
            }
            out.extend_from_slice(&part);
        }
        Ok(out.freeze())
    }

    /// The blocks, asked for if they are not there, and the next one if they follow the last use.
    fn take(&self, blocks: Range<u64>) -> Vec<Pending> {
        let mut recent = self.recent.lock().expect("no panic while it is held");
        let last = recent.back().map(|block| block.index);
        let forwards = last.is_some_and(|last| last == blocks.start || last + 1 == blocks.start);
        let next = blocks.end;
        if forwards && next * self.block_bytes < self.bytes() {
            // Before the blocks in use, so that these stay the last used.
            drop(self.used(&mut recent, next));
        }
        blocks.map(|index| self.used(&mut recent, index)).collect()
    }

    /// Moves a block to the back of the queue, and begins to read it if it is new.
    fn used(&self, recent: &mut VecDeque<Block>, index: u64) -> Pending {
        let known = recent.iter().position(|block| block.index == index);
        let block = match known.and_then(|at| recent.remove(at)) {
            Some(block) => block,
            None => self.begin(index),
        };
        let bytes = block.bytes.clone();
        recent.push_back(block);
        while recent.len() > self.most {
            recent.pop_front();
        }
        bytes
    }

    fn begin(&self, index: u64) -> Block {
        let start = index * self.block_bytes;
        let end = self.bytes().min(start + self.block_bytes);
        let blob = self.blob.clone();
        let task = self
            .runtime
            .spawn(async move { blob.range(start..end).await });
        let bytes = async move {
            match task.await {
                Ok(bytes) => bytes.map_err(Arc::new),
                Err(stopped) => Err(Arc::new(ReadError::Unreadable {
                    source: io::Error::other(stopped),
                })),
            }
        };
        let bytes = bytes.boxed().shared();
        Block { index, bytes }
    }

    fn wait(&self, index: u64, block: Pending) -> io::Result<Bytes> {
        self.runtime.block_on(block).map_err(|error| {
            // Whoever asks again is to try again.
            let mut recent = self.recent.lock().expect("no panic while it is held");
            recent.retain(|block| block.index != index);
            carry(error)
        })
    }
}
