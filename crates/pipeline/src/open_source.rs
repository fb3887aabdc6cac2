//! Where the bytes of images come from: the objects of a store, or scenes that are generated.

use bytes::Bytes;
use maskmill_job::Source;
use maskmill_storage::{
    Blob, Expect, Fetch, ObjectFacts, ReadError, SourceError, SourceStore, StoreOptions,
};

use crate::scenes::Scenes;
use crate::source::folder_and_name;

/// A pipeline's source, opened. Its methods are those of [`SourceStore`].
#[derive(Clone)]
pub(crate) enum OpenSource {
    Store(SourceStore),
    Scenes(Scenes),
}

/// An image whose size is known and whose bytes are on their way, or there.
pub(crate) enum Answer {
    Fetch(Box<Fetch>),
    Made(Bytes),
}

impl OpenSource {
    /// Opens the source; a manifest's store is the folder it lies in, where relative addresses begin.
    ///
    /// # Errors
    /// A location that is none, or a store that this build does not have.
    pub(crate) fn open(source: &Source, options: &StoreOptions) -> Result<Self, SourceError> {
        if let Some(scenes) = Scenes::of(source) {
            return Ok(Self::Scenes(scenes));
        }
        let root = match source {
            Source::Manifest { path, .. } => folder_and_name(path).0,
            _ => source.path(),
        };
        SourceStore::open(root, options).map(Self::Store)
    }

    /// Asks for an image of at most `max_bytes`.
    pub(crate) async fn get(
        &self,
        at: &str,
        expect: Expect<'_>,
        max_bytes: u64,
    ) -> Result<Answer, ReadError> {
        match self {
            Self::Store(store) => {
                let fetch = store.get(at, expect, max_bytes).await?;
                Ok(Answer::Fetch(Box::new(fetch)))
            }
            Self::Scenes(scenes) => {
                let png = scenes.png(at, expect, max_bytes).await;
                png.map(Answer::Made)
            }
        }
    }

    /// Size and etag of an object as they are now.
    pub(crate) async fn facts(&self, at: &str) -> Result<ObjectFacts, ReadError> {
        match self {
            Self::Store(store) => store.facts(at).await,
            Self::Scenes(scenes) => scenes.facts(at),
        }
    }

    /// Opens a file that holds many images; there is none among scenes.
    pub(crate) async fn open_blob(&self, at: &str, expect: Expect<'_>) -> Result<Blob, ReadError> {
        match self {
            Self::Store(store) => store.open_blob(at, expect).await,
            Self::Scenes(_) => Err(ReadError::Missing),
        }
    }
}

impl Answer {
    /// How many bytes it has.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Fetch(fetch) => fetch.bytes(),
            Self::Made(bytes) => bytes.len() as u64,
        }
    }

    pub(crate) async fn body(self) -> Result<Bytes, ReadError> {
        match self {
            Self::Fetch(fetch) => fetch.body().await,
            Self::Made(bytes) => Ok(bytes),
        }
    }
}
