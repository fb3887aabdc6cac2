//! What can go wrong with a store, sorted by what the caller does about it.

use std::error::Error;
use std::io::ErrorKind;

use object_store::Error as ObjectError;

use crate::retry::used_up;
use crate::verdict::{StoreFailure, Verdict, root_kind, verdict};

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
    #[error(
        "no permission to {action} {path} in {location}; check its owner and mode, or the bucket's policy"
    )]
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

    /// The store does not accept who is asking. Stop: nothing else would work either.
    #[error("cannot {action} {path} in {location}: {advice}")]
    Credentials {
        /// `read`, `write`, `list`, `create`.
        action: &'static str,
        /// The root of the store.
        location: String,
        /// The object inside it.
        path: String,
        /// What to do.
        advice: String,
        /// The store's own error.
        source: Box<dyn Error + Send + Sync>,
    },

    /// The store failed, again and again; a later attempt may succeed.
    #[error("cannot {action} {path} in {location} for now, after all retries")]
    Transient {
        /// `read`, `write`, `list`, `create`.
        action: &'static str,
        /// The root of the store.
        location: String,
        /// The object inside it.
        path: String,
        /// The store's own error.
        source: Box<dyn Error + Send + Sync>,
    },

    /// Anything else; another attempt will hardly help.
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
        "{location:?}: there is no store for outputs at `{scheme}://`; a location is a local path, \
         or a URI that begins with file:// or s3:// (gs:// and az:// in builds with them)"
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

    /// Whether the store does not accept who is asking.
    pub fn is_credentials(&self) -> bool {
        matches!(self, StorageError::Credentials { .. })
    }

    /// Whether a later attempt may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, StorageError::Transient { .. })
    }

    /// Whether the same request is to be sent again at once.
    pub(crate) fn is_to_be_retried(&self) -> bool {
        match self {
            StorageError::Transient { source, .. } => !used_up(&source.to_string()),
            _ => false,
        }
    }

    /// Sorts a store's error.
    pub(crate) fn of(
        action: &'static str,
        location: &str,
        path: &str,
        error: &ObjectError,
    ) -> Self {
        let source = StoreFailure::of(error).into();
        StorageError::sorted(verdict(error), action, location, path, source)
    }

    /// Sorts an error of the operating system.
    pub(crate) fn of_io(
        action: &'static str,
        location: &str,
        path: &str,
        error: std::io::Error,
    ) -> Self {
        let verdict = match root_kind(&error) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Verdict::Full,
            Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => Verdict::Denied,
            _ => Verdict::Permanent,
        };
        StorageError::sorted(verdict, action, location, path, error.into())
    }

    fn sorted(
        verdict: Verdict,
        action: &'static str,
        location: &str,
        path: &str,
        source: Box<dyn Error + Send + Sync>,
    ) -> Self {
        let (location, path) = (location.to_string(), path.to_string());
        match verdict {
            Verdict::Full => StorageError::Full {
                location,
                path,
                source,
            },
            Verdict::Denied => StorageError::PermissionDenied {
                action,
                location,
                path,
                source,
            },
            Verdict::Credentials(advice) => StorageError::Credentials {
                action,
                location,
                path,
                advice,
                source,
            },
            Verdict::Transient => StorageError::Transient {
                action,
                location,
                path,
                source,
            },
            Verdict::Missing | Verdict::Changed | Verdict::Permanent => StorageError::Failed {
                action,
                location,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn wrapped(source: io::Error) -> object_store::Error {
        object_store::Error::Generic {
            store: "Test",
            source: Box::new(io::Error::other(source)),
        }
    }

    #[test]
    fn the_root_error_decides_through_every_wrapping() {
        let sorted = |kind| StorageError::of("write", "out", "a", &wrapped(io::Error::from(kind)));
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
        assert!(StorageError::of("write", "out", "a", &wrapped(error)).is_full());
    }
}
