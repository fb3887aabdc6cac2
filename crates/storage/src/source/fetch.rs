//! A file that is being read: asked for, and not yet all there.

use bytes::Bytes;
use object_store::{GetResult, ObjectMeta};

use super::target::Target;
use super::{Expect, ReadError};

/// A file whose size is known and whose bytes are on their way.
///
/// Between the request and [`Fetch::body`] any time may pass; what the network loses meanwhile is
/// asked for again.
pub struct Fetch {
    target: Target,
    meta: ObjectMeta,
    first: GetResult,
}

impl Fetch {
    /// Sends the request, again and again if need be.
    pub(super) async fn send(
        target: Target,
        expect: &Expect<'_>,
        max_bytes: u64,
    ) -> Result<Self, ReadError> {
        let limit = max_bytes;
        if let Some(bytes) = expect.bytes.filter(|bytes| *bytes > limit) {
            return Err(ReadError::TooLarge { bytes, limit });
        }
        let once = || target.get(None, expect);
        let first = target
            .retry()
            .run(once, ReadError::is_to_be_retried)
            .await?;
        let meta = first.meta.clone();
        if meta.size > limit {
            let bytes = meta.size;
            return Err(ReadError::TooLarge { bytes, limit });
        }
        Ok(Fetch {
            target,
            meta,
            first,
        })
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.meta.size
    }

    /// All its bytes. An answer that breaks off is gone on with, or asked for anew, as long as the
    /// file is the same.
    ///
    /// # Errors
    /// The file is another one by now, or the retries are used up.
    pub async fn body(self) -> Result<Bytes, ReadError> {
        let Fetch {
            target,
            meta,
            first,
        } = self;
        match whole(&target, first, meta.size).await {
            Err(error) if error.is_to_be_retried() => {}
            done => return done,
        }
        let expect = Expect {
            bytes: Some(meta.size),
            etag: meta.e_tag.as_deref(),
        };
        let again = || async {
            let found = target.get(None, &expect).await?;
            whole(&target, found, meta.size).await
        };
        target.retry().run(again, ReadError::is_to_be_retried).await
    }
}

/// The body of an answer, checked to be `bytes` long.
pub(super) async fn whole(
    target: &Target,
    answer: GetResult,
    bytes: u64,
) -> Result<Bytes, ReadError> {
    let body = answer.bytes().await;
    let body = body.map_err(|error| target.sorted(&error))?;
    match body.len() as u64 == bytes {
        true => Ok(body),
        false => Err(target.truncated(bytes, body.len())),
    }
}
