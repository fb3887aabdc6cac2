//! One thing to read, wherever it is: a request for it, and what its answer must be.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as ObjectError, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore,
};
use url::Url;

use super::{Expect, ReadError};
use crate::connect::ExactUri;
use crate::location::{Cloud, object_path, printable};
use crate::retry::Retry;
use crate::stores::Stores;
use crate::verdict::{Verdict, says_expired, verdict};

/// Something to read.
#[derive(Clone)]
pub(super) struct Target {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    place: Place,
    /// For messages.
    shown: String,
    retry: Retry,
}

/// Where it is, as far as reading differs.
#[derive(Debug, Clone)]
enum Place {
    Disk(PathBuf),
    Bucket,
    Web(ExactUri),
}

impl Target {
    /// A file, by its absolute path.
    pub(super) fn file(stores: &Stores, file: PathBuf) -> Result<Self, ReadError> {
        let bad = |reason: String| ReadError::BadLocation { reason };
        let Some(text) = file.to_str() else {
            return Err(bad("the path is not UTF-8; rename it".to_string()));
        };
        let path = object_path(text.strip_prefix('/').unwrap_or(text)).map_err(bad)?;
        Ok(Target {
            store: stores.disk(),
            path,
            shown: text.to_string(),
            place: Place::Disk(file),
            retry: Retry::never(),
        })
    }

    /// An object of a bucket.
    pub(super) fn object(
        stores: &Stores,
        cloud: Cloud,
        bucket: &str,
        key: &str,
    ) -> Result<Self, ReadError> {
        let path = object_path(key).map_err(|reason| ReadError::BadLocation { reason })?;
        let shown = format!("{}://{bucket}/{key}", cloud.scheme());
        let built = stores.bucket(cloud, bucket);
        let built = built.map_err(|error| settings(&shown, &error))?;
        Ok(Target {
            store: built.store,
            path,
            shown: printable(&shown),
            place: Place::Bucket,
            retry: stores.retry(),
        })
    }

    /// What a web server has at a URL.
    pub(super) fn web(stores: &Stores, url: &Url) -> Result<Self, ReadError> {
        let shown = printable(url.as_str());
        let exact: Uri = match url.as_str().parse() {
            Ok(exact) => exact,
            Err(_) => {
                let reason = "the URL has characters that must be percent-encoded".to_string();
                return Err(ReadError::BadLocation { reason });
            }
        };
        let origin = &url[..url::Position::BeforePath];
        let store = stores.server(origin);
        let store = store.map_err(|error| settings(&shown, &error))?;
        // Only for messages: the exact URI goes out in its place.
        let path = ObjectPath::from_url_path(url.path()).unwrap_or_default();
        Ok(Target {
            store,
            path,
            shown,
            place: Place::Web(ExactUri(exact)),
            retry: stores.retry(),
        })
    }

    pub(super) fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Sends one request, for all or a range, and checks that the answer is about the object that
    /// is `expect`ed; the body is still to come.
    pub(super) async fn get(
        &self,
        range: Option<Range<u64>>,
        expect: &Expect<'_>,
    ) -> Result<GetResult, ReadError> {
        let if_match = expect.etag.filter(|etag| {
            // A weak etag matches nothing by definition, and a whole object is checked below.
            range.is_some() && etag.starts_with('"')
        });
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            if_match: if_match.map(str::to_string),
            ..self.options()
        };
        self.check_kind().await?;
        let found = self.store.get_opts(&self.path, options).await;
        let found = found.map_err(|error| self.sorted(&error))?;
        expect.check(&found.meta)?;
        Ok(found)
    }

    /// The size and etag, retried.
    pub(super) async fn meta(&self) -> Result<ObjectMeta, ReadError> {
        self.check_kind().await?;
        let once = || async { self.meta_once().await.map_err(|error| self.sorted(&error)) };
        self.retry.run(once, ReadError::is_to_be_retried).await
    }

    async fn meta_once(&self) -> Result<ObjectMeta, ObjectError> {
        if let Place::Web(_) = self.place {
            // A presigned URL is for one method, and some servers know no HEAD.
            let found = self.store.get_opts(&self.path, self.options()).await?;
            return Ok(found.meta);
        }
        head(self.store.as_ref(), &self.path).await
    }

    fn options(&self) -> GetOptions {
        let mut options = GetOptions::default();
        if let Place::Web(exact) = &self.place {
            options.extensions.insert(exact.clone());
        }
        options
    }

    /// On disk only files are opened: opening a pipe could wait for ever.
    async fn check_kind(&self) -> Result<(), ReadError> {
        let Place::Disk(file) = &self.place else {
            return Ok(());
        };
        let file = file.clone();
        let metadata = tokio::task::spawn_blocking(move || std::fs::metadata(file));
        let metadata = metadata
            .await
            .expect("it does not panic and is not cancelled");
        let metadata = metadata.map_err(ReadError::of_io)?;
        match metadata.is_file() {
            true => Ok(()),
            false => Err(ReadError::Unreadable {
                source: std::io::Error::other("a folder, pipe, socket or device, not a file"),
            }),
        }
    }

    /// Sorts an error of the store.
    pub(super) fn sorted(&self, error: &ObjectError) -> ReadError {
        let sorted = ReadError::of(&self.shown, error);
        let Place::Web(exact) = &self.place else {
            return sorted;
        };
        // No credentials of this process were sent: it is this URL that is refused.
        let (ReadError::Denied { detail } | ReadError::Credentials { detail, .. }) = sorted else {
            return sorted;
        };
        match is_signed(&exact.0) && says_expired(error) {
            // So are its neighbours in the manifest, which was made for one day.
            true => ReadError::Credentials {
                at: self.shown.clone(),
                advice: "its signature has expired: make the manifest's URLs anew".to_string(),
                detail,
            },
            false => ReadError::Denied { detail },
        }
    }

    /// An answer that broke off.
    pub(super) fn truncated(&self, expected: u64, got: usize) -> ReadError {
        ReadError::Transient {
            at: self.shown.clone(),
            detail: format!("{got} of {expected} bytes came"),
        }
    }

    /// Local files have etags of this machine only, which no plan may hold.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.place, Place::Disk(_))
    }
}

impl Expect<'_> {
    /// Compares what a store says of an object with what it must be.
    pub(super) fn check(&self, meta: &ObjectMeta) -> Result<(), ReadError> {
        let changed = |detail| Err(ReadError::Changed { detail });
        match (self.bytes, meta.size) {
            (Some(expected), found) if expected != found => {
                return changed(format!("it has {found} bytes, and had {expected}"));
            }
            _ => {}
        }
        match (self.etag, meta.e_tag.as_deref()) {
            (Some(expected), Some(found)) if bare_etag(expected) != bare_etag(found) => {
                changed(format!("its etag is {found}, and was {expected}"))
            }
            _ => Ok(()),
        }
    }
}

/// Servers differ, between a listing and a header, in quotes and in the mark of a weak etag.
fn bare_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// A HEAD request; where it is refused, a GET of one byte, since only that has a body to say why.
pub(crate) async fn head(
    store: &dyn ObjectStore,
    path: &ObjectPath,
) -> Result<ObjectMeta, ObjectError> {
    let options = GetOptions {
        head: true,
        ..GetOptions::default()
    };
    let refused = match store.get_opts(path, options).await {
        Ok(found) => return Ok(found.meta),
        Err(error) => error,
    };
    match verdict(&refused) {
        Verdict::Denied | Verdict::Credentials(_) | Verdict::Permanent => {
            let options = GetOptions {
                range: Some(GetRange::Bounded(0..1)),
                ..GetOptions::default()
            };
            match store.get_opts(path, options).await {
                Ok(found) => Ok(found.meta),
                // Of an empty object there is no first byte.
                Err(error) if verdict(&error) == Verdict::Permanent => Err(refused),
                Err(error) => Err(error),
            }
        }
        _ => Err(refused),
    }
}

fn settings(at: &str, error: &crate::stores::SettingsError) -> ReadError {
    ReadError::Credentials {
        at: at.to_string(),
        advice: "the store cannot be asked".to_string(),
        detail: error.to_string(),
    }
}

/// Whether a URL carries its permission in its query.
fn is_signed(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default().to_ascii_lowercase();
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        ["x-amz-signature", "x-goog-signature", "signature", "sig"].contains(&name)
    })
}
