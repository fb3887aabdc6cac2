//! What the server holds: buckets, objects, uploads under way.
//!
//! Every method runs under the one lock that [`crate::service`] takes for it, so a condition and
//! the write that depends on it are one step: of two racing creates exactly one wins.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use s3s::crypto::{Checksum, Md5};
use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Result, s3_error};

/// Parts other than the last must have at least so many bytes, as on S3.
const MIN_PART_BYTES: u64 = 5 << 20;

/// Bytes that are made when they are read: an object larger than memory.
pub trait VirtualObject: Send + Sync {
    /// Size in bytes. Must not change.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes at `range`, in order, in as many pieces as suits. They are sent as they are, so
    /// slices of one buffer cost no copy. A long answer asks for a MiB at a time.
    fn read(&self, range: Range<u64>) -> Vec<Bytes>;
}

impl VirtualObject for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    fn read(&self, range: Range<u64>) -> Vec<Bytes> {
        // An object in memory has an address space's bytes at most.
        vec![self.slice(range.start as usize..range.end as usize)]
    }
}

/// One version of one object. Cheap to clone: a reader keeps it while it is replaced.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) content: Arc<dyn VirtualObject>,
    /// Without its quotes.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
}

/// `If-Match` and `If-None-Match` of a write.
#[derive(Default)]
pub(crate) struct WriteCondition {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
}

#[derive(Default)]
struct Bucket {
    public: bool,
    objects: BTreeMap<String, Object>,
}

struct Upload {
    bucket: String,
    key: String,
    parts: BTreeMap<i32, (Bytes, String)>,
}

/// All buckets of one server.
#[derive(Default)]
pub(crate) struct Store {
    buckets: BTreeMap<String, Bucket>,
    uploads: HashMap<String, Upload>,
    /// How far this server's clock is ahead of the machine's.
    pub(crate) skew_seconds: i64,
    serial: u64,
}

impl Store {
    /// Does nothing to a bucket that there is.
    pub(crate) fn create_bucket(&mut self, name: &str) {
        self.buckets.entry(name.to_string()).or_default();
    }

    pub(crate) fn has_bucket(&self, name: &str) -> S3Result<()> {
        self.objects(name).map(|_| ())
    }

    pub(crate) fn make_public(&mut self, name: &str) -> S3Result<()> {
        self.bucket_mut(name)?.public = true;
        Ok(())
    }

    pub(crate) fn is_public(&self, name: &str) -> bool {
        self.buckets.get(name).is_some_and(|bucket| bucket.public)
    }

    /// The objects of a bucket in the order of their keys' UTF-8 bytes.
    pub(crate) fn objects(&self, bucket: &str) -> S3Result<&BTreeMap<String, Object>> {
        match self.buckets.get(bucket) {
            Some(bucket) => Ok(&bucket.objects),
            None => Err(s3_error!(NoSuchBucket, "there is no bucket {bucket:?}")),
        }
    }

    fn bucket_mut(&mut self, name: &str) -> S3Result<&mut Bucket> {
        match self.buckets.get_mut(name) {
            Some(bucket) => Ok(bucket),
            None => Err(s3_error!(NoSuchBucket, "there is no bucket {name:?}")),
        }
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> S3Result<Object> {
        match self.objects(bucket)?.get(key) {
            Some(object) => Ok(object.clone()),
            None => Err(s3_error!(NoSuchKey, "there is no {key:?} in {bucket:?}")),
        }
    }

    /// Writes the whole object if `condition` holds, in one step.
    pub(crate) fn put(
        &mut self,
        bucket: &str,
        key: &str,
        content: Arc<dyn VirtualObject>,
        etag: String,
        condition: &WriteCondition,
    ) -> S3Result<()> {
        let modified = self.now();
        let objects = &mut self.bucket_mut(bucket)?.objects;
        condition.check(objects.get(key))?;
        let object = Object {
            content,
            etag,
            modified,
        };
        objects.insert(key.to_string(), object);
        Ok(())
    }

    /// An etag for content that is not read to hash it.
    pub(crate) fn unique_etag(&mut self) -> String {
        self.serial += 1;
        etag_of(format!("virtual object {}", self.serial).as_bytes())
    }

    /// As on S3, removing what is not there is no error.
    pub(crate) fn remove(&mut self, bucket: &str, key: &str) -> S3Result<()> {
        self.bucket_mut(bucket)?.objects.remove(key);
        Ok(())
    }

    /// The upload's id.
    pub(crate) fn start_upload(&mut self, bucket: &str, key: &str) -> S3Result<String> {
        self.has_bucket(bucket)?;
        self.serial += 1;
        let id = format!("upload-{:08}", self.serial);
        let upload = Upload {
            bucket: bucket.to_string(),
            key: key.to_string(),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    /// A part that is sent again replaces the first.
    pub(crate) fn put_part(
        &mut self,
        target: &UploadTarget<'_>,
        number: i32,
        bytes: Bytes,
        etag: String,
    ) -> S3Result<()> {
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(
                InvalidArgument,
                "part {number} is outside 1 to 10000"
            ));
        }
        self.upload_mut(target)?.parts.insert(number, (bytes, etag));
        Ok(())
    }

    pub(crate) fn abort_upload(&mut self, target: &UploadTarget<'_>) -> S3Result<()> {
        self.upload_mut(target)?;
        self.uploads.remove(target.id);
        Ok(())
    }

    /// Joins the named parts into the object, if `condition` holds; answers its etag.
    ///
    /// The upload is then gone, so a second completion is `NoSuchUpload`: what a client sees that
    /// tries again because the first answer was lost.
    pub(crate) fn complete_upload(
        &mut self,
        target: &UploadTarget<'_>,
        parts: &[(i32, Option<ETag>)],
        condition: &WriteCondition,
    ) -> S3Result<String> {
        let upload = self.upload_mut(target)?;
        let bytes = upload.join(parts)?;
        let etag = format!("{}-{}", etag_of(&bytes), parts.len());
        let content = Arc::new(bytes);
        self.put(target.bucket, target.key, content, etag.clone(), condition)?;
        self.uploads.remove(target.id);
        Ok(etag)
    }

    fn upload_mut(&mut self, target: &UploadTarget<'_>) -> S3Result<&mut Upload> {
        match self.uploads.get_mut(target.id) {
            Some(upload) if upload.bucket == target.bucket && upload.key == target.key => {
                Ok(upload)
            }
            _ => Err(s3_error!(
                NoSuchUpload,
                "there is no upload {:?} of {:?} in {:?}",
                target.id,
                target.key,
                target.bucket
            )),
        }
    }

    fn now(&self) -> SystemTime {
        let skew = Duration::from_secs(self.skew_seconds.unsigned_abs());
        if self.skew_seconds < 0 {
            SystemTime::now() - skew
        } else {
            SystemTime::now() + skew
        }
    }
}

/// Which upload, and where its object is to be.
pub(crate) struct UploadTarget<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    pub(crate) id: &'a str,
}

impl Upload {
    fn join(&self, wanted: &[(i32, Option<ETag>)]) -> S3Result<Bytes> {
        let mut joined = Vec::new();
        let mut previous = 0;
        for (index, (number, etag)) in wanted.iter().enumerate() {
            if *number <= previous {
                return Err(s3_error!(
                    InvalidPartOrder,
                    "part {number} after {previous}"
                ));
            }
            previous = *number;
            let Some((bytes, have)) = self.parts.get(number) else {
                return Err(s3_error!(InvalidPart, "part {number} was not uploaded"));
            };
            if etag.as_ref().is_some_and(|etag| etag.value() != have) {
                return Err(s3_error!(InvalidPart, "part {number} has etag {have:?}"));
            }
            let is_last = index + 1 == wanted.len();
            if !is_last && (bytes.len() as u64) < MIN_PART_BYTES {
                let len = bytes.len();
                return Err(s3_error!(
                    EntityTooSmall,
                    "part {number} has {len} bytes; only the last may have under {MIN_PART_BYTES}"
                ));
            }
            joined.extend_from_slice(bytes);
        }
        if wanted.is_empty() {
            return Err(s3_error!(MalformedXML, "an upload has at least one part"));
        }
        Ok(Bytes::from(joined))
    }
}

impl WriteCondition {
    fn check(&self, existing: Option<&Object>) -> S3Result<()> {
        if let (Some(condition), Some(object)) = (&self.if_none_match, existing)
            && matches(condition, object)
        {
            return Err(s3_error!(PreconditionFailed, "If-None-Match: it exists"));
        }
        let Some(condition) = &self.if_match else {
            return Ok(());
        };
        match existing {
            Some(object) if matches(condition, object) => Ok(()),
            Some(_) => Err(s3_error!(PreconditionFailed, "If-Match: it is another")),
            None => Err(s3_error!(NoSuchKey, "If-Match: there is no such object")),
        }
    }
}

/// Whether `object` is one that the condition names.
pub(crate) fn matches(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.as_strong() == Some(object.etag.as_str()),
    }
}

/// MD5 in hex, as S3's own etags of objects written with one PUT.
pub(crate) fn etag_of(bytes: &[u8]) -> String {
    let digest = Md5::checksum(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
