//! What is in a bucket, page by page.
//!
//! `ObjectStore::list` fails as a whole when one key of a page cannot be expressed as its `Path`
//! (`a/../b.jpg`, `a//b.jpg`), and buckets of other people have such keys. Here a page that fails
//! for that is asked for in halves, until the key stands alone and can be named.

use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Error as PathError;
use object_store::{Error as ObjectError, ObjectMeta};

use crate::retry::{Retry, used_up};
use crate::verdict::{Verdict, verdict};

/// What S3 gives at most.
const PAGE: usize = 1000;

/// Something in a bucket.
pub(super) enum Entry {
    /// An object. Of a folder marker (`a/`, empty) the last `/` is missing.
    Object(ObjectMeta),
    /// A key that no request can name.
    BadKey(String),
}

/// Passes everything below `prefix`, a beginning of keys, to `found`, in the order of keys. Holds
/// one page at a time.
///
/// # Errors
/// The store's, when the retries of a page are used up.
pub(super) async fn list_bucket(
    pages: &dyn PaginatedListStore,
    prefix: &str,
    retry: &Retry,
    found: &mut (dyn FnMut(Entry) + Send),
) -> Result<(), ObjectError> {
    if !prefix.is_empty() || !has_leading_slashes(pages, retry).await? {
        return walk(pages, prefix, None, retry, found).await;
    }
    // `/a` would come back as `a`, and could not be told from it: these keys are listed apart, and
    // what comes before and after them is listed around them.
    for first in 1..b'/' {
        let beginning = char::from(first).to_string();
        walk(pages, &beginning, None, retry, found).await?;
    }
    let mut slashed = |entry: Entry| {
        found(Entry::BadKey(match entry {
            Entry::Object(meta) => format!("/{}", meta.location),
            Entry::BadKey(key) => key,
        }));
    };
    walk(pages, "/", None, retry, &mut slashed).await?;
    let behind = format!("/{}", char::MAX);
    walk(pages, "", Some(behind), retry, found).await
}

async fn has_leading_slashes(
    pages: &dyn PaginatedListStore,
    retry: &Retry,
) -> Result<bool, ObjectError> {
    let one = PaginatedListOptions {
        max_keys: Some(1),
        ..Default::default()
    };
    match page(pages, "/", one, retry).await {
        Ok(page) => Ok(!page.result.objects.is_empty()),
        Err(ObjectError::InvalidPath { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn walk(
    pages: &dyn PaginatedListStore,
    prefix: &str,
    mut behind: Option<String>,
    retry: &Retry,
    found: &mut (dyn FnMut(Entry) + Send),
) -> Result<(), ObjectError> {
    let mut token: Option<String> = None;
    let mut most = PAGE;
    loop {
        let options = PaginatedListOptions {
            offset: behind.clone(),
            page_token: token.clone(),
            max_keys: Some(most),
            ..Default::default()
        };
        match page(pages, prefix, options, retry).await {
            Ok(page) => {
                for object in page.result.objects {
                    found(Entry::Object(object));
                }
                // The token, not the last key: a folder marker's is not known to the letter.
                let Some(next) = page.page_token else {
                    return Ok(());
                };
                token = Some(next);
                most = PAGE.min(most * 2);
            }
            Err(ObjectError::InvalidPath { .. }) if most > 1 => most /= 2,
            Err(ObjectError::InvalidPath { source }) => {
                let key = bad_key(source)?;
                behind = Some(key.clone());
                token = None;
                found(Entry::BadKey(key));
            }
            Err(error) => return Err(error),
        }
    }
}

/// One page, retried.
async fn page(
    pages: &dyn PaginatedListStore,
    prefix: &str,
    options: PaginatedListOptions,
    retry: &Retry,
) -> Result<PaginatedListResult, ObjectError> {
    let prefix = (!prefix.is_empty()).then_some(prefix);
    let once = || pages.list_paginated(prefix, options.clone());
    let to_be_retried =
        |error: &ObjectError| verdict(error) == Verdict::Transient && !used_up(&error.to_string());
    retry.run(once, to_be_retried).await
}

fn bad_key(error: PathError) -> Result<String, ObjectError> {
    match error {
        PathError::EmptySegment { path } | PathError::BadSegment { path, .. } => Ok(path),
        source => Err(ObjectError::InvalidPath { source }),
    }
}
