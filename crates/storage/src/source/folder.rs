//! What is in a folder of this machine.
//!
//! Walked here and not by object_store, which passes over what it cannot name or open: names that
//! are not UTF-8, links to nothing, folders that may not be listed. All of these become rejects.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use super::{Listing, RejectReason, SourceError, SourceFile, SourceReject, Wanted, Wants};
use crate::location::object_path;

/// Something that was met on the walk, other than a folder.
struct Met {
    path: PathBuf,
    what: What,
}

enum What {
    File {
        bytes: u64,
    },
    /// A pipe, socket or device.
    Special,
    /// An error; of a folder, or of something else.
    Unreadable {
        error: io::Error,
        folder: bool,
    },
}

/// Lists the files below `root`, an absolute path.
///
/// Hidden files count and links are followed; a link back to a folder that contains it is not,
/// since it leads to nothing new. A folder that cannot be listed is a reject with a key ending in
/// `/`.
///
/// # Errors
/// The root cannot be listed.
pub(super) async fn list_folder(root: &Path, wanted: Wants<'_>) -> Result<Listing, SourceError> {
    // Names only; enough to keep the walk and the receiver from waiting for each other.
    let (send, mut receive) = mpsc::channel(256);
    let below = root.to_path_buf();
    let walk = tokio::task::spawn_blocking(move || walk(&below, &send));
    let mut listing = Listing::default();
    while let Some(met) = receive.recv().await {
        sort(root, met, wanted, &mut listing);
    }
    let walked = walk.await.expect("it does not panic and is not cancelled");
    walked.map_err(|source| SourceError::Unreadable {
        location: root.display().to_string(),
        source,
    })?;
    Ok(listing)
}

fn walk(root: &Path, send: &mpsc::Sender<Met>) -> io::Result<()> {
    for entry in WalkDir::new(root).follow_links(true) {
        let met = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) => met(entry),
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error) => {
                let path = error.path().unwrap_or(root).to_path_buf();
                if path == root {
                    return Err(error.into());
                }
                unreadable(path, error.into())
            }
        };
        if send.blocking_send(met).is_err() {
            break; // The listing was given up.
        }
    }
    Ok(())
}

fn met(entry: DirEntry) -> Met {
    let what = match entry.metadata() {
        Ok(metadata) if metadata.is_file() => What::File {
            bytes: metadata.len(),
        },
        Ok(_) => What::Special,
        Err(error) => return unreadable(entry.into_path(), error.into()),
    };
    let path = entry.into_path();
    Met { path, what }
}

fn unreadable(path: PathBuf, error: io::Error) -> Met {
    let folder = path.is_dir();
    let error = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_symlink() => {
            io::Error::other(format!("a link that cannot be followed: {error}"))
        }
        _ => error,
    };
    Met {
        path,
        what: What::Unreadable { error, folder },
    }
}

fn sort(root: &Path, met: Met, wanted: Wants<'_>, listing: &mut Listing) {
    let below = met.path.strip_prefix(root).unwrap_or(&met.path);
    let key = escaped(below);
    let name = key.rsplit('/').next().unwrap_or_default();
    let reject = |key: String, reason, detail: &str| SourceReject {
        key,
        reason,
        detail: detail.to_string(),
    };
    let verdict = wanted(name);
    let reject = match met.what {
        What::Unreadable {
            error,
            folder: true,
        } => reject(
            format!("{key}/"),
            RejectReason::Unreadable,
            &error.to_string(),
        ),
        // A link to nothing without an extension may have been a folder; other files are none of
        // our business.
        What::Unreadable { error, .. } if verdict != Wanted::No || below.extension().is_none() => {
            reject(key, RejectReason::Unreadable, &error.to_string())
        }
        What::Unreadable { .. } => return,
        _ if verdict == Wanted::No => return,
        _ if verdict == Wanted::Compressed => SourceReject::compressed(key),
        What::Special => reject(
            key,
            RejectReason::NotAFile,
            "a pipe, socket or device, not a file",
        ),
        What::File { .. } if below.to_str().is_none() => reject(
            key,
            RejectReason::NonUtf8Name,
            "the name is not UTF-8; rename it",
        ),
        What::File { bytes } => match object_path(&key) {
            Ok(_) => {
                let etag = None;
                listing.files.push(SourceFile { key, bytes, etag });
                return;
            }
            Err(why) => SourceReject::bad_key(key, &why),
        },
    };
    listing.rejects.push(reject);
}

/// A path with `/`, and bytes that are not UTF-8 written `\xE9`, so that different names stay
/// different.
fn escaped(path: &Path) -> String {
    let parts = path.iter().map(|part| {
        let mut text = String::new();
        for chunk in part.as_encoded_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02X}"));
            }
        }
        text
    });
    parts.collect::<Vec<String>>().join("/")
}
