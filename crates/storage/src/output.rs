//! A place for outputs: any object store, written create-if-absent.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as ObjectError, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use url::Url;

use crate::error::StorageError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The root itself, in messages.
const OUTPUT_DIRECTORY: &str = "the output directory";

/// What a create-if-absent write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is there now, with these bytes.
    Created,
    /// An object of that name was there; it is as it was.
    AlreadyExists,
}

/// An object and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The path below the root, with `/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// The directory of one job's output, in any object store. Cheap to clone.
///
/// Paths are relative to the root, with `/`. Every method may be called again after a failure.
#[derive(Debug, Clone)]
pub struct OutputStore {
    store: Arc<dyn ObjectStore>,
    location: String,
    local_root: Option<PathBuf>,
}

impl OutputStore {
    /// Opens `location`, a local path or `file://` URI, and creates the directory if it is missing.
    ///
    /// # Errors
    /// A scheme that is not supported, a location that is a file, no permission, a full disk.
    pub fn open(location: &str) -> Result<Self, StorageError> {
        let root = local_path(location)?;
        fs::create_dir_all(&root).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
                StorageError::InvalidLocation {
                    location: location.to_string(),
                    reason: "it, or a part of its path, is a file".to_string(),
                }
            }
            _ => StorageError::of("create", location, OUTPUT_DIRECTORY, error),
        })?;
        OutputStore::over_local(&root, location)
    }

    /// Opens an output that must exist; for commands that only read.
    ///
    /// # Errors
    /// [`StorageError::NoOutput`] if there is no directory, else as [`OutputStore::open`].
    pub fn open_existing(location: &str) -> Result<Self, StorageError> {
        let root = local_path(location)?;
        if !root.is_dir() {
            return Err(StorageError::NoOutput {
                location: location.to_string(),
            });
        }
        OutputStore::over_local(&root, location)
    }

    /// Wraps any object store; `location` is what messages call it.
    pub fn over(store: Arc<dyn ObjectStore>, location: &str) -> Self {
        OutputStore {
            store,
            location: location.to_string(),
            local_root: None,
        }
    }

    fn over_local(root: &Path, location: &str) -> Result<Self, StorageError> {
        let failed = |error: Cause| StorageError::of("open", location, OUTPUT_DIRECTORY, error);
        let root = root.canonicalize().map_err(|e| failed(e.into()))?;
        if root.to_str().is_none() {
            return Err(StorageError::InvalidLocation {
                location: location.to_string(),
                reason: format!("its real path {} is not UTF-8", root.display()),
            });
        }
        let store = LocalFileSystem::new_with_prefix(&root).map_err(|e| failed(e.into()))?;
        Ok(OutputStore {
            // Synced writes: see "Durability" in the crate's documentation.
            store: Arc::new(store.with_fsync(true)),
            location: location.to_string(),
            local_root: Some(root),
        })
    }

    /// The location as it was given.
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
    /// # Errors
    /// [`StorageError::Full`], [`StorageError::PermissionDenied`], [`StorageError::Failed`].
    pub async fn put_if_absent(
        &self,
        path: &str,
        bytes: Bytes,
    ) -> Result<PutOutcome, StorageError> {
        let at = self.object_path("write", path)?;
        let create = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&at, bytes.into(), create).await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(ObjectError::AlreadyExists { .. }) => Ok(PutOutcome::AlreadyExists),
            Err(error) => Err(StorageError::of("write", &self.location, path, error)),
        }
    }

    /// The bytes of an object; `None` if there is none. Changes nothing.
    ///
    /// # Errors
    /// [`StorageError::PermissionDenied`], [`StorageError::Failed`].
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, StorageError> {
        let at = self.object_path("read", path)?;
        let failed = |error| StorageError::of("read", &self.location, path, error);
        match self.store.get_opts(&at, GetOptions::default()).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether there is an object of that name. Changes nothing.
    ///
    /// # Errors
    /// [`StorageError::PermissionDenied`], [`StorageError::Failed`].
    pub async fn exists(&self, path: &str) -> Result<bool, StorageError> {
        let at = self.object_path("read", path)?;
        match self.store.head(&at).await {
            Ok(_) => Ok(true),
            Err(ObjectError::NotFound { .. }) => Ok(false),
            Err(error) => Err(StorageError::of("read", &self.location, path, error)),
        }
    }

    /// All objects below the directory `prefix` (`""` for all), sorted by path. Unfinished writes
    /// are not objects. Changes nothing.
    ///
    /// # Errors
    /// [`StorageError::PermissionDenied`], [`StorageError::Failed`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        let at = self.object_path("list", prefix)?;
        let objects = self.store.list(Some(&at)).map_ok(|meta| ObjectInfo {
            path: meta.location.to_string(),
            bytes: meta.size,
        });
        let mut objects: Vec<ObjectInfo> = objects
            .try_collect()
            .await
            .map_err(|error| StorageError::of("list", &self.location, prefix, error))?;
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// Any one object, without listing all; `None` if the store is empty.
    pub(crate) async fn any_object(&self) -> Result<Option<String>, StorageError> {
        let first = self.store.list(None).try_next().await;
        let first = first.map_err(|error| StorageError::of("list", &self.location, "", error))?;
        Ok(first.map(|meta| meta.location.to_string()))
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
            |error: Cause| StorageError::of("sweep", &self.location, "unfinished files", error);
        let swept = tokio::task::spawn_blocking(move || sweep(&root, older_than));
        let swept = swept.await.map_err(|e| failed(e.into()))?;
        swept.map_err(|e| failed(e.into()))
    }

    fn object_path(&self, action: &'static str, path: &str) -> Result<ObjectPath, StorageError> {
        ObjectPath::parse(path)
            .map_err(|error| StorageError::of(action, &self.location, path, error))
    }
}

/// The local path that `location` names. A store of another kind is one more arm here.
fn local_path(location: &str) -> Result<PathBuf, StorageError> {
    let invalid = |reason: &str| StorageError::InvalidLocation {
        location: location.to_string(),
        reason: reason.to_string(),
    };
    if location.trim().is_empty() {
        return Err(invalid("it is empty"));
    }
    match location.split_once("://").map(|(scheme, _)| scheme) {
        None => Ok(PathBuf::from(location)),
        Some("file") => {
            let url = Url::parse(location).map_err(|error| invalid(&error.to_string()))?;
            url.to_file_path()
                .map_err(|()| invalid("a file:// URI names an absolute path: file:///data/out"))
        }
        Some(scheme) => Err(StorageError::UnsupportedScheme {
            location: location.to_string(),
            scheme: scheme.to_string(),
        }),
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
mod tests;
