//! A place for outputs: any object store, written create-if-absent.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{
    Error as ObjectError, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    WriteMultipart,
};

use crate::connect::Attempts;
use crate::error::StorageError;
use crate::layout;
use crate::location::{Location, LocationError, object_path, printable};
use crate::options::StoreOptions;
use crate::retry::Retry;
use crate::source::head;
use crate::stores::Stores;

/// The root itself, in messages.
const OUTPUT_DIRECTORY: &str = "the output directory";

/// What [`OutputStore::put_large`] sends at once. S3 takes 10,000 of them, of 5 MiB at least.
const UPLOAD_PART: usize = 16 << 20;

/// How many of them are under way.
const UPLOADS_IN_FLIGHT: usize = 4;

/// What a create-if-absent write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is there now, with these bytes.
    Created,
    /// An object of that name was there; it is as it was.
    AlreadyExists,
}

/// An object, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The path below the root, with `/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the store's clock ([`OutputStore::now`]).
    pub modified: SystemTime,
    /// Its version, where the store keeps one.
    pub etag: Option<String>,
}

impl From<ObjectMeta> for ObjectInfo {
    fn from(meta: ObjectMeta) -> Self {
        ObjectInfo {
            path: meta.location.to_string(),
            bytes: meta.size,
            modified: meta.last_modified.into(),
            etag: meta.e_tag,
        }
    }
}

/// What is directly in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shallow {
    /// The objects, sorted by path.
    pub objects: Vec<ObjectInfo>,
    /// The paths of the directories, sorted.
    pub directories: Vec<String>,
}

/// The directory of one job's output, in any object store. Cheap to clone.
///
/// Paths are relative to the root, with `/`. Every method may be called again after a failure, and
/// remote stores are asked again by the methods themselves as long as [`StoreOptions`] say.
#[derive(Clone)]
pub struct OutputStore {
    store: Arc<dyn ObjectStore>,
    location: String,
    local_root: Option<PathBuf>,
    retry: Retry,
}

/// Without the store itself, which would print how it is configured.
impl fmt::Debug for OutputStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputStore")
            .field("location", &self.location)
            .field("local_root", &self.local_root)
            .finish_non_exhaustive()
    }
}

impl OutputStore {
    /// Opens `location`: a local path or `file://` URI, whose directory is created if it is missing,
    /// or `s3://bucket/prefix` (in builds with them, `gs://` and `az://`), which is not asked yet.
    ///
    /// # Errors
    /// A scheme that is not supported, a location that is a file, no permission, a full disk,
    /// settings that contradict each other.
    pub fn open(location: &str, options: &StoreOptions) -> Result<Self, StorageError> {
        OutputStore::open_in(location, &Stores::new(options))
    }

    pub(crate) fn open_in(location: &str, stores: &Stores) -> Result<Self, StorageError> {
        let root = match parse(location)? {
            Location::Local(root) => root,
            remote => return OutputStore::over_bucket(remote, location, stores),
        };
        fs::create_dir_all(&root).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
                invalid(location, "it, or a part of its path, is a file")
            }
            _ => StorageError::of_io("create", location, OUTPUT_DIRECTORY, error),
        })?;
        OutputStore::over_local(&root, location)
    }

    /// Opens an output that must exist; for commands that only read.
    ///
    /// # Errors
    /// [`StorageError::NoOutput`] if there is no directory, or nothing below the prefix; else as
    /// [`OutputStore::open`], and what [`OutputStore::list`] gives.
    pub async fn open_existing(
        location: &str,
        options: &StoreOptions,
    ) -> Result<Self, StorageError> {
        OutputStore::open_existing_in(location, &Stores::new(options)).await
    }

    pub(crate) async fn open_existing_in(
        location: &str,
        stores: &Stores,
    ) -> Result<Self, StorageError> {
        let none = || StorageError::NoOutput {
            location: printable(location),
        };
        let root = match parse(location)? {
            Location::Local(root) => root,
            remote => {
                let store = OutputStore::over_bucket(remote, location, stores)?;
                let any = store.any_object(&[]).await?;
                return any.map(|_| store).ok_or_else(none);
            }
        };
        if !root.is_dir() {
            return Err(none());
        }
        OutputStore::over_local(&root, location)
    }

    /// Wraps any object store; `location` is what messages call it. Nothing is tried again.
    pub fn over(store: Arc<dyn ObjectStore>, location: &str) -> Self {
        OutputStore {
            store,
            location: location.to_string(),
            local_root: None,
            retry: Retry::never(),
        }
    }

    fn over_bucket(at: Location, location: &str, stores: &Stores) -> Result<Self, StorageError> {
        let Location::Bucket { cloud, bucket, key } = at else {
            let scheme = location.split("://").next().unwrap_or_default();
            return Err(StorageError::UnsupportedScheme {
                location: printable(location),
                scheme: scheme.to_string(),
            });
        };
        let built = stores.bucket(cloud, &bucket);
        let built = built.map_err(|error| invalid(location, &error.to_string()))?;
        let store: Arc<dyn ObjectStore> = match key.strip_suffix('/').unwrap_or(&key) {
            "" => built.store,
            key => {
                let prefix = object_path(key).map_err(|why| invalid(location, &why))?;
                Arc::new(PrefixStore::new(built.store, prefix))
            }
        };
        Ok(OutputStore {
            store,
            location: printable(location),
            local_root: None,
            retry: stores.retry(),
        })
    }

    fn over_local(root: &Path, location: &str) -> Result<Self, StorageError> {
        let root = root.canonicalize();
        let root =
            root.map_err(|error| StorageError::of_io("open", location, OUTPUT_DIRECTORY, error))?;
        if root.to_str().is_none() {
            let reason = format!("its real path {} is not UTF-8", root.display());
            return Err(invalid(location, &reason));
        }
        let store = LocalFileSystem::new_with_prefix(&root);
        let store =
            store.map_err(|error| StorageError::of("open", location, OUTPUT_DIRECTORY, &error))?;
        Ok(OutputStore {
            // Synced writes: see "Durability" in the crate's documentation.
            store: Arc::new(store.with_fsync(true)),
            location: location.to_string(),
            local_root: Some(root),
            retry: Retry::never(),
        })
    }

    /// The location as it was given, but for what must not be printed.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The directory on this machine, absolute, if it is on this machine.
    pub fn local_root(&self) -> Option<&Path> {
        self.local_root.as_deref()
    }

    /// Writes an object if there is none of that name. Idempotent: whoever comes second changes
    /// nothing.
    ///
    /// Atomic: the object is seen with all its bytes or not at all, whatever crashes. On a local
    /// disk the bytes go to `<path>#<n>` first, which is hard-linked to its name once synced; a
    /// failed write removes that file, a killed process leaves it ([`OutputStore::sweep_staging`]).
    /// The file system must know hard links; FAT does not.
    ///
    /// Over a network an answer may be lost after the write was done, and a second attempt then
    /// finds its own object there. What is found in doubt is compared, so that
    /// [`PutOutcome::AlreadyExists`] is the truth: others came first.
    ///
    /// # Errors
    /// [`StorageError::Full`], [`StorageError::PermissionDenied`], [`StorageError::Credentials`],
    /// [`StorageError::Transient`], [`StorageError::Failed`].
    pub async fn put_if_absent(
        &self,
        path: &str,
        bytes: Bytes,
    ) -> Result<PutOutcome, StorageError> {
        let at = self.object_path("write", path)?;
        let in_doubt = AtomicBool::new(false);
        let once = || self.create(path, &at, &bytes, &in_doubt);
        self.retry.run(once, StorageError::is_to_be_retried).await
    }

    async fn create(
        &self,
        path: &str,
        at: &ObjectPath,
        bytes: &Bytes,
        in_doubt: &AtomicBool,
    ) -> Result<PutOutcome, StorageError> {
        let attempts = Attempts::default();
        let mut create = PutOptions::from(PutMode::Create);
        create.extensions.insert(attempts.clone());
        let put = self.store.put_opts(at, bytes.clone().into(), create).await;
        let error = match put {
            Ok(_) => return Ok(PutOutcome::Created),
            Err(error) => error,
        };
        let ObjectError::AlreadyExists { source, .. } = &error else {
            in_doubt.store(true, Ordering::Relaxed);
            return Err(self.failed("write", path, &error));
        };
        // The layers below may have sent it more than once, too.
        let first = attempts.count() <= 1 && !in_doubt.load(Ordering::Relaxed);
        // A refused condition (412) says that it is there. A conflict (409) only says that somebody
        // else was at it in the same moment, and may have failed.
        let refused = matches!(
            source.downcast_ref::<ObjectError>(),
            Some(ObjectError::Precondition { .. } | ObjectError::NotModified { .. })
        );
        if first && (refused || self.local_root.is_some()) {
            return Ok(PutOutcome::AlreadyExists);
        }
        match self.get(path).await? {
            Some(found) if found == *bytes && !first => Ok(PutOutcome::Created),
            Some(_) => Ok(PutOutcome::AlreadyExists),
            None => Err(StorageError::Transient {
                action: "write",
                location: self.location.clone(),
                path: path.to_string(),
                source: "the store says that it exists, and does not have it".into(),
            }),
        }
    }

    /// Writes an object of any size, in parts. Only for names that no other attempt uses: what is
    /// there is overwritten. An upload that fails is taken back; one whose process is killed is
    /// left to the bucket's rule for unfinished uploads.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    pub async fn put_large(&self, path: &str, bytes: Bytes) -> Result<(), StorageError> {
        let at = self.object_path("write", path)?;
        let once = || async {
            let Err(error) = self.upload(&at, bytes.clone()).await else {
                return Ok(());
            };
            // The answer to the last request may have been lost, and its repetition refused.
            let there = head(self.store.as_ref(), &at).await;
            match there.is_ok_and(|meta| meta.size == bytes.len() as u64) {
                true => Ok(()),
                false => Err(self.failed("write", path, &error)),
            }
        };
        self.retry.run(once, StorageError::is_to_be_retried).await
    }

    async fn upload(&self, at: &ObjectPath, mut bytes: Bytes) -> Result<(), ObjectError> {
        let upload = self.store.put_multipart(at).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_PART);
        while !bytes.is_empty() {
            if let Err(error) = upload.wait_for_capacity(UPLOADS_IN_FLIGHT).await {
                // The error that counts is the first one.
                let _ = upload.abort().await;
                return Err(error);
            }
            upload.put(bytes.split_to(bytes.len().min(UPLOAD_PART)));
        }
        upload.finish().await?;
        Ok(())
    }

    /// Writes an object over what is there. Only for what a worker says about itself, from time to
    /// time: nothing else in an output ever changes.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    ///
    /// # Panics
    /// If `path` is not below `_workers/`.
    pub async fn replace(&self, path: &str, bytes: Bytes) -> Result<(), StorageError> {
        assert!(
            layout::is_worker(path),
            "{path} is no status of a worker and is not overwritten"
        );
        let at = self.object_path("write", path)?;
        let once = || async {
            let put = self.store.put(&at, bytes.clone().into()).await;
            put.map_err(|error| self.failed("write", path, &error))
        };
        self.retry.run(once, StorageError::is_to_be_retried).await?;
        Ok(())
    }

    /// Deletes objects; those that are gone already do not matter. Only for what no marker names:
    /// the caller has to know.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`]; some may be deleted then.
    ///
    /// # Panics
    /// If one of them is the job's record, a marker or a segment of the plan: no output is whole
    /// without.
    pub async fn delete(&self, paths: &[String]) -> Result<(), StorageError> {
        let mut at = Vec::with_capacity(paths.len());
        for path in paths {
            assert!(!layout::is_kept(path), "{path} is never deleted");
            at.push(self.object_path("delete", path)?);
        }
        let once = || async {
            let paths = stream::iter(at.clone()).map(Ok).boxed();
            let mut deleted = self.store.delete_stream(paths);
            while let Some(deleted) = deleted.next().await {
                match deleted {
                    Ok(_) | Err(ObjectError::NotFound { .. }) => {}
                    Err(error) => return Err(self.failed("delete", "objects", &error)),
                }
            }
            Ok(())
        };
        self.retry.run(once, StorageError::is_to_be_retried).await
    }

    /// The bytes of an object; `None` if there is none. Changes nothing.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, StorageError> {
        let at = self.object_path("read", path)?;
        let once = || async {
            match self.get_once(&at).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(ObjectError::NotFound { .. }) => Ok(None),
                Err(error) => Err(self.failed("read", path, &error)),
            }
        };
        self.retry.run(once, StorageError::is_to_be_retried).await
    }

    async fn get_once(&self, at: &ObjectPath) -> Result<Bytes, ObjectError> {
        let found = self.store.get_opts(at, GetOptions::default()).await?;
        let size = found.meta.size;
        let bytes = found.bytes().await?;
        match bytes.len() as u64 == size {
            true => Ok(bytes),
            false => Err(broken_off(bytes.len(), size)),
        }
    }

    /// Whether there is an object of that name. Changes nothing.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    pub async fn exists(&self, path: &str) -> Result<bool, StorageError> {
        Ok(self.info(path).await?.is_some())
    }

    /// What the store knows of an object; `None` if there is none. Changes nothing.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    pub async fn info(&self, path: &str) -> Result<Option<ObjectInfo>, StorageError> {
        let at = self.object_path("read", path)?;
        let once = || async {
            match head(self.store.as_ref(), &at).await {
                Ok(meta) => Ok(Some(meta.into())),
                Err(ObjectError::NotFound { .. }) => Ok(None),
                Err(error) => Err(self.failed("read", path, &error)),
            }
        };
        self.retry.run(once, StorageError::is_to_be_retried).await
    }

    /// All objects below the directory `prefix` (`""` for all), sorted by path. Unfinished writes
    /// are not objects. Changes nothing.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        let at = self.object_path("list", prefix)?;
        let once = || async {
            let listed = self.store.list(Some(&at)).try_collect::<Vec<ObjectMeta>>();
            let listed = listed.await;
            listed.map_err(|error| self.failed("list", prefix, &error))
        };
        let listed = self.retry.run(once, StorageError::is_to_be_retried).await?;
        Ok(sorted(listed))
    }

    /// What is directly in the directory `prefix` (`""` for the root). Changes nothing.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    pub async fn list_shallow(&self, prefix: &str) -> Result<Shallow, StorageError> {
        let at = self.object_path("list", prefix)?;
        let once = || async {
            let listed = self.store.list_with_delimiter(Some(&at)).await;
            listed.map_err(|error| self.failed("list", prefix, &error))
        };
        let listed = self.retry.run(once, StorageError::is_to_be_retried).await?;
        let directories = listed.common_prefixes.iter().map(ToString::to_string);
        let mut directories: Vec<String> = directories.collect();
        directories.sort();
        Ok(Shallow {
            objects: sorted(listed.objects),
            directories,
        })
    }

    /// Any one object that is in none of the directories `but`, without listing all; `None` if there
    /// is none.
    pub(crate) async fn any_object(&self, but: &[&str]) -> Result<Option<String>, StorageError> {
        let counts = |meta: &ObjectMeta| {
            let path = meta.location.as_ref();
            let first = path.split('/').next().unwrap_or_default();
            // An empty path is the marker that consoles make for a folder.
            !path.is_empty() && !but.contains(&first)
        };
        let once = || async {
            let objects = self.store.list(None);
            let mut objects = objects.try_filter(|meta| std::future::ready(counts(meta)));
            let first = objects.try_next().await;
            first.map_err(|error| self.failed("list", "", &error))
        };
        let first = self.retry.run(once, StorageError::is_to_be_retried).await?;
        Ok(first.map(|meta| meta.location.to_string()))
    }

    /// The store's own clock, which dates its objects: this machine's may be off by hours. Writes a
    /// small object below `_workers/`, looks at it and deletes it.
    ///
    /// # Errors
    /// As [`OutputStore::put_if_absent`].
    pub async fn now(&self) -> Result<SystemTime, StorageError> {
        let path = layout::worker(&format!("clock-{}", crate::attempt_id("")));
        self.replace(&path, Bytes::from_static(b"{}\n")).await?;
        let info = self.info(&path).await;
        self.delete(std::slice::from_ref(&path)).await?;
        match info? {
            Some(info) => Ok(info.modified),
            None => Err(StorageError::Failed {
                action: "read",
                location: self.location.clone(),
                path,
                source: "it was just written, and is not there".into(),
            }),
        }
    }

    /// Removes the unfinished files that killed processes left on a local disk, and returns how
    /// many; other stores keep none. Idempotent.
    ///
    /// Only files untouched for `older_than` go: a younger one may be another worker's write.
    ///
    /// # Errors
    /// [`StorageError::PermissionDenied`], [`StorageError::Failed`].
    pub async fn sweep_staging(&self, older_than: Duration) -> Result<u64, StorageError> {
        let Some(root) = self.local_root.clone() else {
            return Ok(0);
        };
        let failed =
            |error| StorageError::of_io("sweep", &self.location, "unfinished files", error);
        let swept = tokio::task::spawn_blocking(move || sweep(&root, older_than));
        let swept = swept.await.map_err(|stopped| failed(stopped.into()))?;
        swept.map_err(failed)
    }

    fn failed(&self, action: &'static str, path: &str, error: &ObjectError) -> StorageError {
        let path = if path.is_empty() {
            OUTPUT_DIRECTORY
        } else {
            path
        };
        StorageError::of(action, &self.location, path, error)
    }

    fn object_path(&self, action: &'static str, path: &str) -> Result<ObjectPath, StorageError> {
        ObjectPath::parse(path).map_err(|error| self.failed(action, path, &error.into()))
    }
}

fn parse(location: &str) -> Result<Location, StorageError> {
    Location::parse(location).map_err(|error| match error {
        LocationError::Unsupported(scheme) => StorageError::UnsupportedScheme {
            location: printable(location),
            scheme,
        },
        LocationError::Invalid(reason) => invalid(location, &reason),
    })
}

fn invalid(location: &str, reason: &str) -> StorageError {
    StorageError::InvalidLocation {
        location: printable(location),
        reason: reason.to_string(),
    }
}

fn sorted(listed: Vec<ObjectMeta>) -> Vec<ObjectInfo> {
    let mut objects: Vec<ObjectInfo> = listed.into_iter().map(ObjectInfo::from).collect();
    objects.retain(|object| !object.path.is_empty());
    objects.sort_by(|a, b| a.path.cmp(&b.path));
    objects
}

/// Sorted as what it is: an answer that the network lost.
fn broken_off(got: usize, of: u64) -> ObjectError {
    let what = std::io::Error::other(format!("{got} of {of} bytes came"));
    ObjectError::Generic {
        store: "output",
        source: Box::new(HttpError::new(HttpErrorKind::Interrupted, what)),
    }
}

fn sweep(root: &Path, older_than: Duration) -> std::io::Result<u64> {
    let mut removed = 0;
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry?;
        if !entry.file_type().is_file() || !is_staging_name(entry.file_name()) {
            continue;
        }
        // Gone or not readable: another worker has finished it or swept it.
        let Ok(modified) = entry
            .metadata()
            .map_err(Into::into)
            .and_then(|m| m.modified())
        else {
            continue;
        };
        let age = SystemTime::now().duration_since(modified);
        if age.is_ok_and(|age| age >= older_than) {
            match fs::remove_file(entry.path()) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

/// `part-000012.parquet#1`: how object_store's local store names what it has not finished.
fn is_staging_name(name: &OsStr) -> bool {
    let name = name.to_str().and_then(|name| name.rsplit_once('#'));
    name.is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod contract;
#[cfg(test)]
mod remote_tests;
#[cfg(test)]
mod tests;
