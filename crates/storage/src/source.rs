//! Inputs, wherever they are: what is below a root, and the bytes of one file.
//!
//! Nothing found is passed over in silence: what looks like an input and cannot be used is returned
//! as a [`SourceReject`], which the job turns into a row.

mod blob;
mod bucket;
mod error;
mod fetch;
mod folder;
mod random;
mod sequential;
mod target;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use url::Url;

pub use self::blob::{Blob, read_error};
pub use self::error::{ReadError, SourceError};
pub use self::fetch::Fetch;
pub use self::random::RandomReader;
pub use self::sequential::SequentialReader;
pub(crate) use self::target::head;

use self::bucket::{Entry, list_bucket};
use self::folder::list_folder;
use self::target::Target;
use crate::location::{Cloud, Location, object_path, printable, split_scheme};
use crate::options::StoreOptions;
use crate::stores::Stores;

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path below the root, with `/`.
    pub key: String,
    /// Its size when it was listed.
    pub bytes: u64,
    /// Its version, where the store keeps one; `None` for local files.
    pub etag: Option<String>,
}

/// Something found that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReject {
    /// The path below the root, with `/`; bytes that are not UTF-8 are written `\xE9`.
    pub key: String,
    /// Why, to count by.
    pub reason: RejectReason,
    /// Why, for people.
    pub detail: String,
}

impl SourceReject {
    fn compressed(key: String) -> Self {
        SourceReject {
            key,
            reason: RejectReason::CompressedTar,
            detail: "of compressed tars only .tar.gz and .tgz are read; unpack it to .tar"
                .to_string(),
        }
    }

    fn bad_key(key: String, why: &str) -> Self {
        SourceReject {
            key,
            reason: RejectReason::BadKey,
            detail: format!("{why}; rename it"),
        }
    }
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
    /// A tar that is compressed in a way that is not read.
    CompressedTar,
    /// A key that no request can name: with `..`, `//` or a control character.
    BadKey,
}

impl RejectReason {
    /// The word that rows and counts use.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::NonUtf8Name => "non_utf8_name",
            RejectReason::Unreadable => "unreadable",
            RejectReason::NotAFile => "not_a_file",
            RejectReason::CompressedTar => "compressed_tar",
            RejectReason::BadKey => "bad_key",
        }
    }
}

/// What is below a root, both sorted by key, in the order of its UTF-8 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// To be read.
    pub files: Vec<SourceFile>,
    /// Found, and cannot be read.
    pub rejects: Vec<SourceReject>,
}

/// What a file's name says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is to be read.
    Yes,
    /// It is something else.
    No,
    /// It would be, but for the way it is compressed.
    Compressed,
}

impl Wanted {
    /// Files with one of `extensions` (lower case, no dot; the file's own case does not matter).
    pub fn extension(name: &str, extensions: &[&str]) -> Self {
        match lower_extension(Path::new(name)) {
            Some(found) if extensions.contains(&found.as_str()) => Wanted::Yes,
            _ => Wanted::No,
        }
    }

    /// `.tar`, `.tar.gz` and `.tgz`; tars that are compressed otherwise are [`Wanted::Compressed`].
    pub fn tar(name: &str) -> Self {
        let name = Path::new(name);
        let unpacked = || lower_extension(&name.with_extension(""));
        match lower_extension(name).as_deref() {
            Some("tar" | "tgz") => Wanted::Yes,
            Some("gz") if unpacked().as_deref() == Some("tar") => Wanted::Yes,
            Some("tbz2" | "txz" | "tzst") => Wanted::Compressed,
            Some("bz2" | "xz" | "zst" | "lz4") if unpacked().as_deref() == Some("tar") => {
                Wanted::Compressed
            }
            _ => Wanted::No,
        }
    }
}

fn lower_extension(name: &Path) -> Option<String> {
    let extension = name.extension()?.to_str()?;
    Some(extension.to_ascii_lowercase())
}

/// Asked for each file, with its name (the last part of its key).
pub type Wants<'a> = &'a (dyn Fn(&str) -> Wanted + Sync);

/// What a file must still be; `None` for whatever it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect<'a> {
    /// Its size.
    pub bytes: Option<u64>,
    /// Its version. Local files have none, and are not asked for it.
    pub etag: Option<&'a str>,
}

/// What a store knows of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Its size.
    pub bytes: u64,
    /// Its version, where the store keeps one; `None` for local files.
    pub etag: Option<String>,
}

/// A root to read from, and, by absolute URI, everywhere else. Cheap to clone.
#[derive(Clone)]
pub struct SourceStore {
    stores: Stores,
    root: Root,
    location: String,
}

/// Without the root, whose URL may hold a signature.
impl fmt::Debug for SourceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceStore")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Root {
    Folder(PathBuf),
    File(PathBuf),
    /// `key` is a prefix, without a `/` at its end, or one object.
    Bucket {
        cloud: Cloud,
        bucket: String,
        key: String,
    },
    Web(Url),
}

impl SourceStore {
    /// Opens a local path, `file://`, `s3://bucket/prefix`, `http(s)://` (and, in builds with them,
    /// `gs://` and `az://`). It may name one file.
    ///
    /// Sends nothing. Blocking for the time of a look at the local disk.
    ///
    /// # Errors
    /// A location that is none, a local path where nothing is, settings that contradict each other.
    pub fn open(root: &str, options: &StoreOptions) -> Result<Self, SourceError> {
        SourceStore::open_in(root, Stores::new(options))
    }

    pub(crate) fn open_in(root: &str, stores: Stores) -> Result<Self, SourceError> {
        let location = printable(root);
        let bad = |reason: String| SourceError::BadLocation {
            location: location.clone(),
            reason,
        };
        let parsed = Location::parse(root);
        let parsed = parsed.map_err(|error| SourceError::bad_location(&location, &error))?;
        let root = match parsed {
            Location::Local(path) => local_root(&path, &location)?,
            Location::Bucket { cloud, bucket, key } => {
                let built = stores.bucket(cloud, &bucket);
                built.map_err(|error| SourceError::settings(&location, error))?;
                let key = key.strip_suffix('/').unwrap_or(&key).to_string();
                if !key.is_empty() {
                    object_path(&key).map_err(bad)?;
                }
                Root::Bucket { cloud, bucket, key }
            }
            Location::Web(url) => Root::Web(url),
        };
        Ok(SourceStore {
            stores,
            root,
            location,
        })
    }

    /// The root as it was given, but for what must not be printed.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Lists the `wanted` files below the root. A root that is one file is a listing of one, with
    /// the file's name as its key.
    ///
    /// # Errors
    /// There is nothing at the root, it may not be listed, it is on a web server, or the store
    /// failed.
    pub async fn list(&self, wanted: Wants<'_>) -> Result<Listing, SourceError> {
        let mut listing = match &self.root {
            Root::Folder(path) => list_folder(path, wanted).await?,
            Root::File(path) => {
                let name = path.file_name().and_then(|name| name.to_str());
                self.list_one(name.unwrap_or_default(), wanted).await?
            }
            Root::Bucket { cloud, bucket, key } => {
                match self.list_bucket(*cloud, bucket, key, wanted).await? {
                    Some(listing) => listing,
                    None => self.list_one(last_part(key), wanted).await?,
                }
            }
            Root::Web(url) if last_part(url.path()).is_empty() => {
                let location = self.location.clone();
                return Err(SourceError::CannotList { location });
            }
            Root::Web(url) => {
                let name = web_name(url);
                if wanted(&name) == Wanted::No {
                    let location = self.location.clone();
                    return Err(SourceError::CannotList { location });
                }
                self.list_one(&name, wanted).await?
            }
        };
        listing.files.sort_by(|a, b| a.key.cmp(&b.key));
        listing.rejects.sort_by(|a, b| a.key.cmp(&b.key));
        // Where listing went on behind a bad key, a folder marker may have come twice.
        listing.files.dedup_by(|a, b| a.key == b.key);
        Ok(listing)
    }

    /// The listing of a root that is one file.
    async fn list_one(&self, name: &str, wanted: Wants<'_>) -> Result<Listing, SourceError> {
        let facts = self.facts(name).await;
        let facts = facts.map_err(|error| SourceError::of_read(&self.location, error))?;
        let mut listing = Listing::default();
        match wanted(name) {
            Wanted::Yes => listing.files.push(SourceFile {
                key: name.to_string(),
                bytes: facts.bytes,
                etag: facts.etag,
            }),
            Wanted::Compressed => listing
                .rejects
                .push(SourceReject::compressed(name.to_string())),
            Wanted::No => {
                let location = self.location.clone();
                return Err(SourceError::NotAFolder { location });
            }
        }
        Ok(listing)
    }

    /// `None` if there is nothing below `key`, so that it may be an object.
    async fn list_bucket(
        &self,
        cloud: Cloud,
        bucket: &str,
        key: &str,
        wanted: Wants<'_>,
    ) -> Result<Option<Listing>, SourceError> {
        let built = self.stores.bucket(cloud, bucket);
        let built = built.map_err(|error| SourceError::settings(&self.location, error))?;
        let prefix = match key {
            "" => String::new(),
            key => format!("{key}/"),
        };
        let mut listing = Listing::default();
        let mut empty = Vec::new();
        let mut any = false;
        let mut sort = |entry: Entry| {
            any = true;
            let (full, object) = match entry {
                Entry::Object(meta) => (meta.location.to_string(), Some((meta.size, meta.e_tag))),
                Entry::BadKey(key) => (key, None),
            };
            let Some(key) = full.strip_prefix(&prefix).map(str::to_string) else {
                return; // The marker of the root itself.
            };
            match (wanted(last_part(&key)), object) {
                (Wanted::No, _) => {}
                (Wanted::Compressed, _) => listing.rejects.push(SourceReject::compressed(key)),
                (Wanted::Yes, None) => {
                    let why = object_path(&key).err().unwrap_or_default();
                    listing.rejects.push(SourceReject::bad_key(key, &why));
                }
                (Wanted::Yes, Some((bytes, etag))) => {
                    let list = if bytes == 0 {
                        &mut empty
                    } else {
                        &mut listing.files
                    };
                    list.push(SourceFile { key, bytes, etag });
                }
            }
        };
        let retry = self.stores.retry();
        let listed = list_bucket(built.pages.as_ref(), &prefix, &retry, &mut sort).await;
        listed.map_err(|error| SourceError::of(&self.location, &error))?;
        if !any && !key.is_empty() {
            return Ok(None);
        }
        // A marker, `a.jpg/`, cannot be told in a listing from an empty file `a.jpg`.
        const REQUESTS: usize = 16;
        let checked = stream::iter(empty).map(|file| async move {
            match self.facts(&file.key).await {
                Ok(facts) if facts.bytes == file.bytes => Ok(Some(file)),
                Ok(_) | Err(ReadError::Missing) => Ok(None),
                Err(error) => Err(SourceError::of_read(&self.location, error)),
            }
        });
        let checked: Vec<_> = checked.buffered(REQUESTS).try_collect().await?;
        listing.files.extend(checked.into_iter().flatten());
        Ok(Some(listing))
    }

    /// Asks for a file of at most `max_bytes`; when this returns, its size is known and its bytes
    /// are on their way.
    ///
    /// `at` is a key below the root, or an absolute path or URI: `/data/x.jpg`, `file:///x`,
    /// `s3://bucket/key`, `https://host/x.jpg?signature`. The query of a URL is sent and never shown.
    ///
    /// # Errors
    /// All of [`ReadError`].
    pub async fn get(
        &self,
        at: &str,
        expect: Expect<'_>,
        max_bytes: u64,
    ) -> Result<Fetch, ReadError> {
        let target = self.target(at)?;
        let expect = expect.of(&target);
        match Fetch::send(target, &expect, max_bytes).await {
            Err(ReadError::Missing) => match self.root_object(at) {
                Some(target) => Fetch::send(target?, &expect, max_bytes).await,
                None => Err(ReadError::Missing),
            },
            done => done,
        }
    }

    /// The size and version of a file; `at` as in [`SourceStore::get`].
    ///
    /// # Errors
    /// [`ReadError`], but for what is about the content.
    pub async fn facts(&self, at: &str) -> Result<ObjectFacts, ReadError> {
        let target = self.target(at)?;
        let is_local = target.is_local();
        let meta = match target.meta().await {
            Err(ReadError::Missing) => match self.root_object(at) {
                Some(target) => target?.meta().await?,
                None => return Err(ReadError::Missing),
            },
            done => done?,
        };
        Ok(ObjectFacts {
            bytes: meta.size,
            etag: meta.e_tag.filter(|_| !is_local),
        })
    }

    /// Opens a file that is read by ranges; `at` as in [`SourceStore::get`].
    ///
    /// # Errors
    /// As [`SourceStore::facts`], and [`ReadError::Changed`].
    pub async fn open_blob(&self, at: &str, expect: Expect<'_>) -> Result<Blob, ReadError> {
        let target = self.target(at)?;
        let expect = expect.of(&target);
        match Blob::open(target, &expect).await {
            Err(ReadError::Missing) => match self.root_object(at) {
                Some(target) => Blob::open(target?, &expect).await,
                None => Err(ReadError::Missing),
            },
            done => done,
        }
    }

    fn target(&self, at: &str) -> Result<Target, ReadError> {
        let bad = |reason: String| ReadError::BadLocation { reason };
        if split_scheme(at).is_some() || at.starts_with('/') {
            let location = Location::parse(at).map_err(|error| bad(error.to_string()))?;
            return match location {
                Location::Local(path) => Target::file(&self.stores, path),
                Location::Bucket { cloud, bucket, key } => {
                    Target::object(&self.stores, cloud, &bucket, &key)
                }
                Location::Web(url) => Target::web(&self.stores, &url),
            };
        }
        object_path(at).map_err(bad)?;
        match &self.root {
            Root::Folder(root) => Target::file(&self.stores, root.join(at)),
            Root::File(path) => Target::file(&self.stores, path.with_file_name(at)),
            Root::Bucket { cloud, bucket, key } if key.is_empty() => {
                Target::object(&self.stores, *cloud, bucket, at)
            }
            Root::Bucket { cloud, bucket, key } => {
                Target::object(&self.stores, *cloud, bucket, &format!("{key}/{at}"))
            }
            Root::Web(url) if web_name(url) == at => Target::web(&self.stores, url),
            Root::Web(url) => {
                let mut below = url.clone();
                below.set_query(None);
                if let Ok(mut parts) = below.path_segments_mut() {
                    parts.pop_if_empty().extend(at.split('/'));
                }
                Target::web(&self.stores, &below)
            }
        }
    }

    /// The root itself, if it may be an object of a bucket and `at` is its name.
    fn root_object(&self, at: &str) -> Option<Result<Target, ReadError>> {
        match &self.root {
            Root::Bucket { cloud, bucket, key } if !key.is_empty() && last_part(key) == at => {
                Some(Target::object(&self.stores, *cloud, bucket, key))
            }
            _ => None,
        }
    }
}

impl<'a> Expect<'a> {
    /// A local file has an etag of its own making, which is not the one of a plan.
    fn of(self, target: &Target) -> Self {
        Expect {
            bytes: self.bytes,
            etag: self.etag.filter(|_| !target.is_local()),
        }
    }
}

fn local_root(path: &Path, location: &str) -> Result<Root, SourceError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound {
            location: location.to_string(),
        },
        _ => SourceError::Unreadable {
            location: location.to_string(),
            source,
        },
    };
    let is_file = !fs::metadata(path).map_err(failed)?.is_dir();
    if is_file {
        // The name as given, also where it is a link.
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        let name = path.file_name().unwrap_or_default();
        return Ok(Root::File(folder.map_err(failed)?.join(name)));
    }
    let path = path.canonicalize().map_err(failed)?;
    match path.to_str() {
        Some(text) if text == "/" || object_path(text.trim_start_matches('/')).is_ok() => {
            Ok(Root::Folder(path))
        }
        _ => Err(SourceError::BadLocation {
            location: location.to_string(),
            reason: format!(
                "its real path {} is not UTF-8 or has control characters",
                path.display()
            ),
        }),
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// The file name of a URL, percent-decoded where that gives a name.
fn web_name(url: &Url) -> String {
    let path = object_store::path::Path::from_url_path(url.path()).unwrap_or_default();
    path.filename().unwrap_or_default().to_string()
}

#[cfg(test)]
mod remote_tests;
#[cfg(test)]
mod tests;
