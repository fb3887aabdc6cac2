//! Why a source cannot be listed, and why something in it cannot be read.

use std::io;

use object_store::Error as ObjectError;

use crate::location::LocationError;
use crate::retry::used_up;
use crate::stores::SettingsError;
use crate::verdict::{StoreFailure, Verdict, verdict};

/// A source cannot be listed at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is nothing of that name.
    #[error("the source {location} does not exist; check source.path in the pipeline file")]
    NotFound {
        /// The root.
        location: String,
    },
    /// It is a file, and of another kind.
    #[error(
        "the source {location} is a file; source.path must be a folder or prefix, or one file of \
         the kind that the pipeline reads"
    )]
    NotAFolder {
        /// The root.
        location: String,
    },
    /// It names no place.
    #[error("the source {location:?} is no location: {reason}")]
    BadLocation {
        /// The root, as far as it may be shown.
        location: String,
        /// Why.
        reason: String,
    },
    /// Web servers have no listings.
    #[error(
        "the source {location} is on a web server, which has no listing of its files; give the \
         URL of one file, or a manifest of URLs"
    )]
    CannotList {
        /// The root.
        location: String,
    },
    /// The store does not accept who is asking.
    #[error("the source {location} cannot be listed: {advice} ({detail})")]
    Credentials {
        /// The root.
        location: String,
        /// What to do.
        advice: String,
        /// What the store said.
        detail: String,
    },
    /// It may not be read, or the store failed.
    #[error("the source {location} cannot be read")]
    Unreadable {
        /// The root.
        location: String,
        /// The operating system's error, or the store's.
        source: io::Error,
    },
}

impl SourceError {
    pub(super) fn bad_location(location: &str, error: &LocationError) -> Self {
        SourceError::BadLocation {
            location: location.to_string(),
            reason: error.to_string(),
        }
    }

    pub(super) fn settings(location: &str, error: SettingsError) -> Self {
        SourceError::Unreadable {
            location: location.to_string(),
            source: io::Error::other(error),
        }
    }

    /// The error of a look at one file, met while listing.
    pub(super) fn of_read(location: &str, error: ReadError) -> Self {
        let location = location.to_string();
        match error {
            ReadError::Missing => SourceError::NotFound { location },
            ReadError::Credentials { advice, detail, .. } => SourceError::Credentials {
                location,
                advice,
                detail,
            },
            error => SourceError::Unreadable {
                location,
                source: io::Error::other(error),
            },
        }
    }

    /// Sorts the error of a listing.
    pub(super) fn of(location: &str, error: &ObjectError) -> Self {
        let location = location.to_string();
        let failure = StoreFailure::of(error);
        match verdict(error) {
            Verdict::Missing => SourceError::NotFound { location },
            Verdict::Credentials(advice) => SourceError::Credentials {
                location,
                advice,
                detail: failure.to_string(),
            },
            _ => SourceError::Unreadable {
                location,
                source: io::Error::other(failure),
            },
        }
    }
}

/// Something of a source cannot be read.
///
/// Most become a rejected row ([`ReadError::reject_reason`]); two never do, since they say nothing
/// about the image: [`ReadError::Credentials`] ends the job, and after [`ReadError::Transient`]
/// the shard is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, or not any more.
    #[error("it does not exist")]
    Missing,
    /// It is not what was listed or opened.
    #[error("it has changed: {detail}; plan again to read what is there now")]
    Changed {
        /// What differs.
        detail: String,
    },
    /// It is larger than the pipeline allows.
    #[error("the file has {bytes} bytes, more than limits.max_file_bytes = {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// It is not for this user.
    #[error("no permission to read it: {detail}")]
    Denied {
        /// What the store said.
        detail: String,
    },
    /// It names no place.
    #[error("it is no location: {reason}")]
    BadLocation {
        /// Why.
        reason: String,
    },
    /// The store does not accept who is asking, whatever the object. Stop.
    #[error("{at} cannot be read: {advice} ({detail})")]
    Credentials {
        /// What was to be read.
        at: String,
        /// What to do.
        advice: String,
        /// What the store said.
        detail: String,
    },
    /// The store failed, again and again. Another attempt, later, may succeed.
    #[error("{at} could not be read for now, after all retries: {detail}")]
    Transient {
        /// What was to be read.
        at: String,
        /// What happened last.
        detail: String,
    },
    /// It cannot be read, and trying again will not help.
    #[error("the file cannot be read: {source}")]
    Unreadable {
        /// The operating system's error, or the store's.
        source: io::Error,
    },
}

impl ReadError {
    /// The word that rows and counts use; `None` for what is no fault of the image, and must not
    /// become a row.
    pub fn reject_reason(&self) -> Option<&'static str> {
        match self {
            ReadError::Missing => Some("missing"),
            ReadError::Changed { .. } => Some("changed"),
            ReadError::TooLarge { .. } => Some("too_large"),
            ReadError::Denied { .. } | ReadError::Unreadable { .. } => Some("unreadable"),
            ReadError::BadLocation { .. } => Some("bad_uri"),
            ReadError::Credentials { .. } | ReadError::Transient { .. } => None,
        }
    }

    /// Whether every other request to this store would fail too.
    pub fn is_credentials(&self) -> bool {
        matches!(self, ReadError::Credentials { .. })
    }

    /// Whether the same request is to be sent again at once.
    pub(super) fn is_to_be_retried(&self) -> bool {
        match self {
            ReadError::Transient { detail, .. } => !used_up(detail),
            _ => false,
        }
    }

    /// Sorts an error of the operating system.
    pub(super) fn of_io(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => ReadError::Missing,
            io::ErrorKind::PermissionDenied => ReadError::Denied {
                detail: source.to_string(),
            },
            _ => ReadError::Unreadable { source },
        }
    }

    /// Sorts an error of a store, met when `at` was read.
    pub(super) fn of(at: &str, error: &ObjectError) -> Self {
        let failure = StoreFailure::of(error);
        let (at, detail) = (at.to_string(), failure.to_string());
        match verdict(error) {
            Verdict::Missing => ReadError::Missing,
            Verdict::Changed => ReadError::Changed {
                detail: "it is not the object that was opened".to_string(),
            },
            Verdict::Denied => ReadError::Denied { detail },
            Verdict::Credentials(advice) => ReadError::Credentials { at, advice, detail },
            Verdict::Transient => ReadError::Transient { at, detail },
            Verdict::Full | Verdict::Permanent => ReadError::Unreadable {
                source: io::Error::other(failure),
            },
        }
    }
}
