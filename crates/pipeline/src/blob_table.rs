//! A Parquet file in any store, read at random places through a few cached blocks.

use std::io;

use bytes::Bytes;
use maskmill_formats::image_table::ReadAt;
use maskmill_storage::{Blob, RandomReader};
use tokio::runtime::Handle;

/// Most bytes that one request asks for: Parquet reads pages of about 1 MiB one behind the other.
const BLOCK: u64 = 4 << 20;
/// The columns read side by side, and the footer, have a block each.
const BLOCKS: u64 = 6;

pub(crate) struct BlobTable {
    bytes: u64,
    reader: RandomReader,
}

impl BlobTable {
    /// Reads `blob` with at most about `budget` bytes cached.
    pub(crate) fn new(blob: &Blob, runtime: Handle, budget: u64) -> Self {
        let block = BLOCK.min(budget / BLOCKS).max(1 << 16);
        Self {
            bytes: blob.bytes(),
            reader: blob.random(runtime, block, BLOCKS as usize),
        }
    }
}

impl ReadAt for BlobTable {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.reader.read_at(offset, length)
    }
}
