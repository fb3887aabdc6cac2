//! What can go wrong with a store, sorted by what the caller does about it.

use std::error::Error;
use std::io::{self, ErrorKind};

/// A store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No space or quota is left. Stop: every later write would fail too.
    #[error(
        "no space left in {location} to write {path}; free some and run again: \
         what is committed is kept, and only missing shards are done"
    )]
    Full {
        /// The root of the store.
        location: String,
        /// The object inside it.
        path: String,
        /// The store's own error.
        source: Box<dyn Error + Send + Sync>,
    },

    /// This user may not. Stop: it will not change by itself.
    #[error("no permission to {action} {path} in {location}; check its owner and mode")]
    PermissionDenied {
        /// `read`, `write`, `list`, `create`.
        action: &'static str,
        /// The root of the store.
        location: String,
        /// The object inside it.
        path: String,
        /// The store's own error.
        source: Box<dyn Error + Send + Sync>,
    },

    /// Anything else; another attempt may help.
    #[error("cannot {action} {path} in {location}")]
    Failed {
        /// `read`, `write`, `list`, `create`.
        action: &'static str,
        /// The root of the store.
        location: String,
        /// The object inside it.
        path: String,
        /// The store's own error.
        source: Box<dyn Error + Send + Sync>,
    },

    /// The location names a kind of store that there is not.
    #[error(
        "{location:?}: there is no store for `{scheme}://`; \
         a location is a local path or a file:// URI"
    )]
    UnsupportedScheme {
        /// The location as typed.
        location: String,
        /// What stands before `://`.
        scheme: String,
    },

    /// The location can name no directory.
    #[error("{location:?} is no location for outputs: {reason}")]
    InvalidLocation {
        /// The location as typed.
        location: String,
        /// Why.
        reason: String,
    },

    /// An output that should exist does not.
    #[error("there is no output at {location}; check the path, or make one with `maskmill run`")]
    NoOutput {
        /// The location as typed.
        location: String,
    },
}

impl StorageError {
    /// Whether space or quota has run out.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }

    /// Sorts a store's error by the operating system's error at its root.
    pub(crate) fn of(
        action: &'static str,
        location: &str,
        path: &str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        let (location, path) = (location.to_string(), path.to_string());
        match root_kind(source.as_ref()) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => StorageError::Full {
                location,
                path,
                source,
            },
            Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                StorageError::PermissionDenied {
                    action,
                    location,
                    path,
                    source,
                }
            }
            _ => StorageError::Failed {
                action,
                location,
                path,
                source,
            },
        }
    }
}

/// The kind of the I/O error deepest in the chain; object stores wrap it several times.
fn root_kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mut kind = None;
    let mut next = Some(error);
    while let Some(error) = next {
        next = match error.downcast_ref::<io::Error>() {
            Some(io_error) => {
                kind = Some(io_error.kind());
                // `source()` of an I/O error that wraps another skips the wrapped one.
                match io_error.get_ref() {
                    Some(wrapped) => Some(wrapped),
                    None => io_error.source(),
                }
            }
            None => error.source(),
        };
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(source: io::Error) -> object_store::Error {
        object_store::Error::Generic {
            store: "Test",
            source: Box::new(io::Error::other(source)),
        }
    }

    #[test]
    fn the_root_error_decides_through_every_wrapping() {
        let sorted = |kind| StorageError::of("write", "out", "a", wrapped(io::Error::from(kind)));
        assert!(sorted(ErrorKind::StorageFull).is_full());
        assert!(sorted(ErrorKind::QuotaExceeded).is_full());
        let denied = sorted(ErrorKind::ReadOnlyFilesystem);
        assert!(matches!(denied, StorageError::PermissionDenied { .. }));
        let failed = sorted(ErrorKind::TimedOut);
        assert!(matches!(failed, StorageError::Failed { .. }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_error_of_a_device_that_is_really_full_is_full() {
        use std::io::Write;
        let mut full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let error = full.write_all(b"x").unwrap_err();
        assert!(StorageError::of("write", "out", "a", wrapped(error)).is_full());
    }
}
