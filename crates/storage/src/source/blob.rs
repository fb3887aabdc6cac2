//! A file that is too large to hold: read by ranges, all of one and the same version.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::fetch::whole;
use super::random::RandomReader;
use super::sequential::SequentialReader;
use super::target::Target;
use super::{Expect, ReadError};

/// A file to be read by ranges. Cheap to clone.
///
/// Every range is of the version that was opened: if the file is replaced meanwhile, the next range
/// is [`ReadError::Changed`].
#[derive(Clone)]
pub struct Blob(Arc<Opened>);

struct Opened {
    target: Target,
    bytes: u64,
    etag: Option<String>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("bytes", &self.0.bytes)
            .field("etag", &self.0.etag)
            .finish_non_exhaustive()
    }
}

impl Blob {
    pub(super) async fn open(target: Target, expect: &Expect<'_>) -> Result<Self, ReadError> {
        let meta = target.meta().await?;
        expect.check(&meta)?;
        Ok(Blob(Arc::new(Opened {
            target,
            bytes: meta.size,
            etag: meta.e_tag,
        })))
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The bytes of a range, exactly so many.
    ///
    /// # Errors
    /// The range ends behind the file, the file is another one by now, or the retries are used up.
    pub async fn range(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let Opened {
            target,
            bytes,
            etag,
        } = self.0.as_ref();
        if range.end > *bytes || range.start > range.end {
            let what = format!("bytes {range:?} of a file of {bytes}");
            return Err(ReadError::Unreadable {
                source: io::Error::new(io::ErrorKind::UnexpectedEof, what),
            });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let expect = Expect {
            bytes: Some(*bytes),
            etag: etag.as_deref(),
        };
        let length = range.end - range.start;
        let once = || async {
            let found = target.get(Some(range.clone()), &expect).await?;
            whole(target, found, length).await
        };
        target.retry().run(once, ReadError::is_to_be_retried).await
    }

    /// Reads it from the front, for a plain thread: `chunks_ahead` requests of `chunk_bytes` are
    /// under way while the thread works on what has come. `runtime` must have threads of its own.
    ///
    /// Memory: at most `chunks_ahead + 1` chunks.
    pub fn sequential(
        &self,
        runtime: Handle,
        chunk_bytes: u64,
        chunks_ahead: usize,
    ) -> SequentialReader {
        SequentialReader::new(self.clone(), runtime, chunk_bytes, chunks_ahead)
    }

    /// Reads it in any order, for plain threads, keeping the `blocks` blocks of `block_bytes` that
    /// were used last. `runtime` must have threads of its own.
    pub fn random(&self, runtime: Handle, block_bytes: u64, blocks: usize) -> RandomReader {
        RandomReader::new(self.clone(), runtime, block_bytes, blocks)
    }
}

/// A [`ReadError`] on its way through [`io::Error`]; shared by all who waited for the same bytes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
struct Carried(Arc<ReadError>);

pub(super) fn carry(error: Arc<ReadError>) -> io::Error {
    let kind = match error.as_ref() {
        ReadError::Missing => io::ErrorKind::NotFound,
        ReadError::Denied { .. } => io::ErrorKind::PermissionDenied,
        ReadError::Transient { .. } => io::ErrorKind::TimedOut,
        ReadError::Unreadable { source } => source.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, Carried(error))
}

/// The [`ReadError`] that an error of a [`SequentialReader`] or [`RandomReader`] is about; `None`
/// for other errors. Looks through readers that wrap errors in errors.
pub fn read_error(error: &io::Error) -> Option<&ReadError> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = match error.get_ref() {
        Some(inner) => Some(inner),
        None => None,
    };
    while let Some(error) = next {
        if let Some(carried) = error.downcast_ref::<Carried>() {
            return Some(carried.0.as_ref());
        }
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
