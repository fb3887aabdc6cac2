//! Local inputs: what is in a folder, and the bytes of one file.
//!
//! Nothing found is passed over in silence: what looks like an input and cannot be used is returned
//! as a [`SourceReject`], which the job turns into a row.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use walkdir::WalkDir;

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path below the root, with `/`.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub bytes: u64,
}

/// Something found that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReject {
    /// The path below the root, with `/`; bytes that are not UTF-8 are written `\xE9`.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
    /// Why, to count by.
    pub reason: RejectReason,
    /// Why, for people.
    pub detail: String,
}

/// Why something found cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// The name cannot be a key.
    NonUtf8Name,
    /// A folder that may not be listed, or a link to nothing.
    Unreadable,
    /// A pipe, socket or device with the name of an image: reading could wait for ever.
    NotAFile,
    /// A compressed tar: it can only be read from the front, so it is not.
    CompressedTar,
}

impl RejectReason {
    /// The word that rows and counts use.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::NonUtf8Name => "non_utf8_name",
            RejectReason::Unreadable => "unreadable",
            RejectReason::NotAFile => "not_a_file",
            RejectReason::CompressedTar => "compressed_tar",
        }
    }
}

/// What a folder holds, both sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// To be read.
    pub files: Vec<SourceFile>,
    /// Found, and cannot be read.
    pub rejects: Vec<SourceReject>,
}

/// A source cannot be listed at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is nothing of that name.
    #[error("the source {path} does not exist; check source.path in the pipeline file", path = .path.display())]
    NotFound {
        /// The root.
        path: PathBuf,
    },
    /// It is a file.
    #[error("the source {path} is a file; source.path must be {must}", path = .path.display())]
    NotAFolder {
        /// The root.
        path: PathBuf,
        /// What it must be.
        must: &'static str,
    },
    /// It may not be read.
    #[error("the source {path} cannot be read", path = .path.display())]
    Unreadable {
        /// The root.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Lists the files below `root` whose extension is one of `extensions` (lower case, no dot; the
/// files' own case does not matter).
///
/// Hidden files count and links are followed; a link back to a folder that contains it is not,
/// since it leads to nothing new. A folder that cannot be listed is a reject with a key ending in
/// `/`. The order, by key, is the same on every machine.
///
/// Blocking.
///
/// # Errors
/// The root does not exist, is no folder or cannot be listed.
pub fn list_images(root: &Path, extensions: &[&str]) -> Result<Listing, SourceError> {
    let must = "a folder of images";
    if root_metadata(root)?.is_file() {
        let path = root.to_path_buf();
        return Err(SourceError::NotAFolder { path, must });
    }
    let wanted = |path: &Path| match extension(path) {
        Some(found) if extensions.contains(&found.as_str()) => Wanted::Yes,
        _ => Wanted::No,
    };
    walk(root, &wanted)
}

/// Lists the `.tar` files below `root`, or `root` itself if it is one; otherwise as [`list_images`].
///
/// Compressed tars (`.tar.gz`, `.tgz`, `.tar.zst`...) are rejects: they have to be unpacked first.
///
/// Blocking.
///
/// # Errors
/// The root does not exist, is a file other than a tar, or cannot be listed.
pub fn list_tars(root: &Path) -> Result<Listing, SourceError> {
    let metadata = root_metadata(root)?;
    if metadata.is_file() {
        let path = root.to_path_buf();
        let name = root.file_name().and_then(|name| name.to_str());
        let (true, Some(name)) = (extension(root).as_deref() == Some("tar"), name) else {
            let must = "a folder of .tar files or one .tar file";
            return Err(SourceError::NotAFolder { path, must });
        };
        let file = SourceFile {
            key: name.to_string(),
            path,
            bytes: metadata.len(),
        };
        return Ok(Listing {
            files: vec![file],
            rejects: Vec::new(),
        });
    }
    let wanted = |path: &Path| match extension(path).as_deref() {
        Some("tar") => Wanted::Yes,
        Some("tgz" | "tbz2" | "txz" | "tzst") => Wanted::Compressed,
        Some("gz" | "bz2" | "xz" | "zst") => match extension(&path.with_extension("")).as_deref() {
            Some("tar") => Wanted::Compressed,
            _ => Wanted::No,
        },
        _ => Wanted::No,
    };
    walk(root, &wanted)
}

/// A file cannot be read; it becomes a rejected row.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is larger than the pipeline allows.
    #[error("the file has {bytes} bytes, more than limits.max_file_bytes = {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The operating system refused.
    #[error("the file cannot be read: {source}")]
    Unreadable {
        /// Its error.
        source: io::Error,
    },
}

/// Reads a whole file of at most `max_bytes`; a larger one is refused before anything is allocated.
///
/// Blocking.
///
/// # Errors
/// The file is too large, gone, or may not be read.
pub fn read_file(path: &Path, max_bytes: u64) -> Result<Bytes, ReadError> {
    let unreadable = |source| ReadError::Unreadable { source };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    let limit = max_bytes;
    if bytes > limit {
        return Err(ReadError::TooLarge { bytes, limit });
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    // The file may have grown since; one byte over the limit tells.
    let mut reader = file.take(limit.saturating_add(1));
    reader.read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > limit {
        let bytes = content.len() as u64;
        return Err(ReadError::TooLarge { bytes, limit });
    }
    Ok(content.into())
}

/// What a name says about a file.
enum Wanted {
    Yes,
    No,
    Compressed,
}

fn root_metadata(root: &Path) -> Result<fs::Metadata, SourceError> {
    let path = root.to_path_buf();
    fs::metadata(root).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound { path },
        _ => SourceError::Unreadable { path, source },
    })
}

fn walk(root: &Path, wanted: &dyn Fn(&Path) -> Wanted) -> Result<Listing, SourceError> {
    let mut listing = Listing::default();
    for entry in WalkDir::new(root).follow_links(true) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error) => {
                let path = error.path().unwrap_or(root).to_path_buf();
                let source = error.into();
                if path == root {
                    return Err(SourceError::Unreadable { path, source });
                }
                listing
                    .rejects
                    .extend(unreadable(root, path, &source, wanted));
                continue;
            }
        };
        let path = entry.path().to_path_buf();
        if entry.file_type().is_dir() {
            continue;
        }
        let reject = match wanted(&path) {
            Wanted::No => continue,
            Wanted::Yes if !entry.file_type().is_file() => Some((
                RejectReason::NotAFile,
                "a pipe, socket or device, not a file".to_string(),
            )),
            Wanted::Yes if key_of(root, &path).is_none() => Some((
                RejectReason::NonUtf8Name,
                "the name is not UTF-8; rename it".to_string(),
            )),
            Wanted::Yes => None,
            Wanted::Compressed => Some((
                RejectReason::CompressedTar,
                "compressed tars are not read; unpack it to .tar".to_string(),
            )),
        };
        match (reject, entry.metadata()) {
            (Some((reason, detail)), _) => listing.rejects.push(SourceReject {
                key: escaped_key(root, &path),
                path,
                reason,
                detail,
            }),
            (None, Ok(metadata)) => listing.files.push(SourceFile {
                key: escaped_key(root, &path),
                path,
                bytes: metadata.len(),
            }),
            (None, Err(error)) => {
                listing
                    .rejects
                    .extend(unreadable(root, path, &error.into(), wanted));
            }
        }
    }
    listing.files.sort_by(|a, b| a.key.cmp(&b.key));
    listing.rejects.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(listing)
}

/// The reject for a path that gave an error: a folder, a wanted file, or a link to nothing that
/// may have been either. Other files are none of our business.
fn unreadable(
    root: &Path,
    path: PathBuf,
    error: &io::Error,
    wanted: &dyn Fn(&Path) -> Wanted,
) -> Option<SourceReject> {
    let mut key = escaped_key(root, &path);
    let is_folder = path.is_dir();
    if is_folder {
        key.push('/');
    } else if matches!(wanted(&path), Wanted::No) && path.extension().is_some() {
        return None;
    }
    let detail = if fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
        format!("a link that cannot be followed: {error}")
    } else {
        error.to_string()
    };
    Some(SourceReject {
        key,
        path,
        reason: RejectReason::Unreadable,
        detail,
    })
}

/// The path below `root` with `/`, if all of it is UTF-8.
fn key_of(root: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/"))
}

/// [`key_of`], with bytes that are not UTF-8 written `\xE9`, so that different names stay different.
fn escaped_key(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts = below.iter().map(|part| {
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

fn extension(path: &Path) -> Option<String> {
    let extension = path.extension()?.to_str()?;
    Some(extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
