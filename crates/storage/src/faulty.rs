//! An object store that fails on schedule, for tests.
//!
//! A process that is killed between two writes is a store in which the first was done and nothing
//! after it: [`Fault::DieAfter`]. So every step of a protocol can be tested without killing anyone.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written: the disk is full.
    Full,
    /// Nothing is written: not allowed.
    PermissionDenied,
    /// Nothing is written, and every later call fails: killed before the write.
    DieBefore,
    /// It is written, the caller does not learn it, and every later call fails: killed after.
    DieAfter,
}

/// A store that passes everything on to another, except the writes that are to fail.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: BTreeMap<usize, Fault>,
    puts: AtomicUsize,
    dead: AtomicBool,
}

impl FaultyStore {
    /// A store that does not fail yet.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        FaultyStore {
            inner,
            faults: BTreeMap::new(),
            puts: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
        }
    }

    /// Lets the `nth` write, counted from 1, fail.
    pub fn on_put(mut self, nth: usize, fault: Fault) -> Self {
        self.faults.insert(nth, fault);
        self
    }

    fn alive(&self) -> Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(failure(ErrorKind::ConnectionAborted));
        }
        Ok(())
    }

    fn die(&self) -> Error {
        self.dead.store(true, Ordering::SeqCst);
        failure(ErrorKind::ConnectionAborted)
    }
}

fn failure(kind: ErrorKind) -> Error {
    Error::Generic {
        store: "FaultyStore",
        source: Box::new(io::Error::from(kind)),
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.alive()?;
        let nth = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        match self.faults.get(&nth) {
            None => self.inner.put_opts(at, bytes, how).await,
            Some(Fault::Full) => Err(failure(ErrorKind::StorageFull)),
            Some(Fault::PermissionDenied) => Err(failure(ErrorKind::PermissionDenied)),
            Some(Fault::DieBefore) => Err(self.die()),
            Some(Fault::DieAfter) => {
                self.inner.put_opts(at, bytes, how).await?;
                Err(self.die())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.alive()?;
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.alive() {
            Ok(()) => self.inner.delete_stream(paths),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.alive() {
            Ok(()) => self.inner.list(prefix).into_stream().boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.alive()?;
        self.inner.copy_opts(from, to, how).await
    }
}
