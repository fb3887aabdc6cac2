//! The S3 operations, over [`Store`].

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;
use s3s::access::{S3Access, S3AccessContext};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::listing::{After, ListQuery, page};
use crate::objects::{Object, Store, UploadTarget, VirtualObject, WriteCondition};
use crate::objects::{etag_of, matches};

/// Bodies are sent in pieces of at most this.
const PIECE_BYTES: u64 = 1 << 20;

/// What the operations share with the test that owns the server.
pub(crate) struct Shared {
    store: Mutex<Store>,
    /// Most entries in a page of a listing.
    pub(crate) page_size: AtomicUsize,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Shared {
            store: Mutex::new(Store::default()),
            page_size: AtomicUsize::new(1000),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no operation panics midway")
    }
}

/// The operations, for `s3s`.
#[derive(Clone)]
pub(crate) struct Operations(pub(crate) Arc<Shared>);

type Answer<T> = S3Result<S3Response<T>>;

fn answer<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

#[async_trait::async_trait]
impl S3 for Operations {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        let mut store = self.0.store();
        if store.has_bucket(&req.input.bucket).is_ok() {
            return Err(s3_error!(BucketAlreadyOwnedByYou, "it is there already"));
        }
        store.create_bucket(&req.input.bucket);
        answer(CreateBucketOutput::default())
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.0.store().has_bucket(&req.input.bucket)?;
        answer(HeadBucketOutput::default())
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let input = req.input;
        let bytes = collect(input.body, input.content_length).await?;
        let etag = etag_of(&bytes);
        let condition = WriteCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        self.0.store().put(
            &input.bucket,
            &input.key,
            Arc::new(bytes),
            etag.clone(),
            &condition,
        )?;
        answer(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        })
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = req.input;
        let object = self.0.store().get(&input.bucket, &input.key)?;
        check_read(
            &object,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let length = object.content.len();
        let (range, content_range) = match &input.range {
            None => (0..length, None),
            Some(wanted) => {
                let range = wanted.check(length)?;
                let shown = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                (range, Some(shown))
            }
        };
        let content_length = range.end - range.start;
        let pieces = Pieces::new(object.content.clone(), range);
        answer(GetObjectOutput {
            accept_ranges: Some("bytes".to_string()),
            body: Some(StreamingBlob::wrap(stream::iter(pieces))),
            content_length: Some(content_length as i64),
            content_range,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        })
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = req.input;
        let object = self.0.store().get(&input.bucket, &input.key)?;
        check_read(
            &object,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        answer(HeadObjectOutput {
            accept_ranges: Some("bytes".to_string()),
            content_length: Some(object.content.len() as i64),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        })
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        self.0.store().remove(&req.input.bucket, &req.input.key)?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let input = req.input;
        let mut deleted = Vec::new();
        let mut store = self.0.store();
        for object in input.delete.objects {
            store.remove(&input.bucket, &object.key)?;
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            });
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        answer(DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            ..Default::default()
        })
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = req.input;
        let page_size = self.0.page_size.load(Ordering::Relaxed);
        let query = list_query(&input, page_size)?;
        let encode = match input.encoding_type.as_ref().map(EncodingType::as_str) {
            Some(EncodingType::URL) => url_encoded,
            _ => str::to_string,
        };

        let store = self.0.store();
        let page = page(store.objects(&input.bucket)?, &query);
        let mut contents = Vec::new();
        for (key, object) in &page.objects {
            contents.push(s3s::dto::Object {
                key: Some(encode(key)),
                size: Some(object.content.len() as i64),
                e_tag: Some(ETag::Strong(object.etag.clone())),
                last_modified: Some(object.modified.into()),
                ..Default::default()
            });
        }
        let mut common_prefixes = Vec::new();
        for prefix in &page.common_prefixes {
            let prefix = Some(encode(prefix));
            common_prefixes.push(CommonPrefix { prefix });
        }
        answer(ListObjectsV2Output {
            key_count: Some((contents.len() + common_prefixes.len()) as i32),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(After::to_token),
            max_keys: Some(query.limit as i32),
            name: Some(input.bucket.clone()),
            prefix: input.prefix.as_deref().map(encode),
            delimiter: input.delimiter.as_deref().map(encode),
            start_after: input.start_after.as_deref().map(encode),
            continuation_token: input.continuation_token.clone(),
            encoding_type: input.encoding_type.clone(),
            ..Default::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let (bucket, key) = (req.input.bucket, req.input.key);
        let id = self.0.store().start_upload(&bucket, &key)?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            ..Default::default()
        })
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let input = req.input;
        let bytes = collect(input.body, input.content_length).await?;
        let etag = etag_of(&bytes);
        let target = UploadTarget {
            bucket: &input.bucket,
            key: &input.key,
            id: &input.upload_id,
        };
        let mut store = self.0.store();
        store.put_part(&target, input.part_number, bytes, etag.clone())?;
        answer(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = req.input;
        let named = input.multipart_upload.and_then(|upload| upload.parts);
        let mut parts = Vec::new();
        for part in named.unwrap_or_default() {
            let Some(number) = part.part_number else {
                return Err(s3_error!(MalformedXML, "a part has no PartNumber"));
            };
            parts.push((number, part.e_tag));
        }
        let target = UploadTarget {
            bucket: &input.bucket,
            key: &input.key,
            id: &input.upload_id,
        };
        let condition = WriteCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        let mut store = self.0.store();
        let etag = store.complete_upload(&target, &parts, &condition)?;
        answer(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let target = UploadTarget {
            bucket: &req.input.bucket,
            key: &req.input.key,
            id: &req.input.upload_id,
        };
        self.0.store().abort_upload(&target)?;
        answer(AbortMultipartUploadOutput::default())
    }
}

/// Who is signed in may do all; who is not may read public buckets.
#[async_trait::async_trait]
impl S3Access for Operations {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let bucket = cx.s3_path().get_bucket_name().unwrap_or_default();
        let reads = [Method::GET, Method::HEAD].contains(cx.method());
        if cx.credentials().is_some() || (reads && self.0.store().is_public(bucket)) {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "sign the request"))
    }
}

fn check_read(
    object: &Object,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    if if_match.is_some_and(|condition| !matches(condition, object)) {
        return Err(s3_error!(PreconditionFailed, "If-Match: it is another now"));
    }
    if if_none_match.is_some_and(|condition| matches(condition, object)) {
        return Err(s3_error!(NotModified, "If-None-Match: it is the same"));
    }
    Ok(())
}

fn list_query(input: &ListObjectsV2Input, page_size: usize) -> S3Result<ListQuery<'_>> {
    let after = match (&input.continuation_token, &input.start_after) {
        (Some(token), _) => match After::from_token(token) {
            Some(after) => after,
            None => return Err(s3_error!(InvalidArgument, "continuation-token {token:?}")),
        },
        (None, Some(key)) => After::Key(key.clone()),
        (None, None) => After::Nothing,
    };
    let max_keys = match input.max_keys {
        None => page_size,
        Some(max) => match usize::try_from(max) {
            Ok(max) => max,
            Err(_) => return Err(s3_error!(InvalidArgument, "max-keys {max} is negative")),
        },
    };
    Ok(ListQuery {
        prefix: input.prefix.as_deref().unwrap_or_default(),
        delimiter: input.delimiter.as_deref().filter(|text| !text.is_empty()),
        after,
        limit: max_keys.min(page_size),
    })
}

/// `encoding-type=url`, for keys that XML cannot hold. Slashes stay, as on S3.
fn url_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The whole body, or an error if the client broke off.
async fn collect(body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<Bytes> {
    let mut chunks = Vec::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => return Err(s3_error!(IncompleteBody, "{error}")),
            }
        }
    }
    let bytes = match chunks.len() {
        1 => chunks.remove(0),
        _ => Bytes::from(chunks.concat()),
    };
    match length {
        Some(length) if length != bytes.len() as i64 => Err(s3_error!(
            IncompleteBody,
            "{} of {length} bytes came",
            bytes.len()
        )),
        _ => Ok(bytes),
    }
}

/// A range of an object, read a piece at a time as the client takes it.
struct Pieces {
    content: Arc<dyn VirtualObject>,
    range: Range<u64>,
    ready: VecDeque<Bytes>,
}

impl Pieces {
    fn new(content: Arc<dyn VirtualObject>, range: Range<u64>) -> Self {
        Pieces {
            content,
            range,
            ready: VecDeque::new(),
        }
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.ready.pop_front() {
                Some(piece) if piece.is_empty() => continue,
                Some(piece) => return Some(Ok(piece)),
                None if self.range.is_empty() => return None,
                None => {}
            }
            let end = self.range.end.min(self.range.start + PIECE_BYTES);
            let wanted = self.range.start..end;
            self.range.start = end;
            let pieces = self.content.read(wanted.clone());
            let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            if bytes != end - wanted.start {
                self.range.start = self.range.end;
                return Some(Err(io::Error::other(format!(
                    "a virtual object gave {bytes} bytes for its range {wanted:?}"
                ))));
            }
            self.ready.extend(pieces);
        }
    }
}
