//! An S3 server on loopback that misbehaves on request: for tests and benches.
//!
//! ```text
//!  client --HTTP--> http (log, hooks, faults) --> s3s (signatures, XML) --> service --> objects
//! ```
//!
//! What enters: requests of any S3 client over plain HTTP, path style, on a port of its own. What
//! leaves: what S3 would answer, and whatever [`Faults`] and hooks make of it.
//!
//! Stock servers for tests let two racing creates both win. Here a condition is checked and the
//! object written under one lock: of any number of `PUT`s with `If-None-Match: *` exactly one
//! answers 200, the others 412.
//!
//! Signatures are checked, against [`ACCESS_KEY`] and [`SECRET_KEY`]. Unsigned requests may read
//! buckets that were made public, and nothing else.
//!
//! Keys are kept as they come: `..`, `//` and `%2F` mean nothing here. Many HTTP clients take `..`
//! out of a path before they send it; that is theirs to avoid.
//!
//! Nothing is kept on disk, and there are no versions, no ACLs and no regions.

mod faults;
mod http;
mod listing;
mod objects;
mod requests;
mod service;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::sync::oneshot;

pub use faults::{FaultKind, Faults};
pub use objects::VirtualObject;
pub use requests::{Act, Phase, Seen};

use crate::http::Front;
use crate::listing::{After, ListQuery};
use crate::objects::{WriteCondition, etag_of};
use crate::service::{Operations, Shared};

/// The only access key. Random enough that a test finds it nowhere by chance.
pub const ACCESS_KEY: &str = "AKIA5XQ7LOOPBACK3ZTM";
/// The secret that belongs to [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "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";
/// The session token. A request may leave it out, but not bring another.
pub const SESSION_TOKEN: &str = "FwoGZXIvYXdzEPz7c1RkN0xVbU9yWkE2dHhGa0Jq";

/// A running server, with a thread and a port of its own; stops when dropped.
pub struct LoopbackS3 {
    shared: Arc<Shared>,
    front: Arc<Front>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LoopbackS3 {
    /// Starts one with no buckets, on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// Without a port or a thread to be had.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::new());
        let operations = Operations(shared.clone());
        let mut builder = S3ServiceBuilder::new(operations.clone());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        builder.set_access(operations);
        let front = Arc::new(Front::new(builder.build()));

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel();
        let served = front.clone();
        let thread = std::thread::Builder::new()
            .name("loopback-s3".to_string())
            .spawn(move || run(listener, served, stopped))
            .expect("a thread for the server");
        LoopbackS3 {
            shared,
            front,
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The environment variables that lead a client here.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL", self.endpoint().as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_SESSION_TOKEN", SESSION_TOKEN),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()));
        variables.to_vec()
    }

    /// Makes a bucket, unless there is one of that name.
    ///
    /// # Panics
    /// If S3 would not allow the name.
    pub fn create_bucket(&self, name: &str) {
        let allowed = s3s::path::check_bucket_name(name);
        assert!(
            allowed,
            "{name:?} is no name for a bucket: 3 to 63 of a-z, 0-9, `-` and `.`"
        );
        self.shared.store().create_bucket(name);
    }

    /// Lets unsigned requests read the bucket.
    ///
    /// # Panics
    /// Without such a bucket, as all methods here that take one.
    pub fn make_public(&self, bucket: &str) {
        let made = self.shared.store().make_public(bucket);
        made.unwrap_or_else(|error| no_bucket(bucket, &error));
    }

    /// Writes an object, or replaces it. Not seen by hooks.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let etag = etag_of(&bytes);
        let always = WriteCondition::default();
        let mut store = self.shared.store();
        let put = store.put(bucket, key, Arc::new(bytes), etag, &always);
        put.unwrap_or_else(|error| no_bucket(bucket, &error));
    }

    /// Writes an object whose bytes are made when they are read. Each time it has a new etag.
    pub fn put_virtual(&self, bucket: &str, key: &str, object: Arc<dyn VirtualObject>) {
        let always = WriteCondition::default();
        let mut store = self.shared.store();
        let etag = store.unique_etag();
        let put = store.put(bucket, key, object, etag, &always);
        put.unwrap_or_else(|error| no_bucket(bucket, &error));
    }

    /// The bytes of an object. A virtual one is read whole.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let object = self.shared.store().get(bucket, key).ok()?;
        let mut pieces = object.content.read(0..object.content.len());
        match pieces.len() {
            1 => pieces.pop(),
            _ => Some(Bytes::from(pieces.concat())),
        }
    }

    /// Removes an object, if it is there. Not seen by hooks.
    pub fn remove(&self, bucket: &str, key: &str) {
        let removed = self.shared.store().remove(bucket, key);
        removed.unwrap_or_else(|error| no_bucket(bucket, &error));
    }

    /// The keys that begin with `prefix`, in the order of their bytes.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let query = ListQuery {
            prefix,
            delimiter: None,
            after: After::Nothing,
            limit: usize::MAX,
        };
        let store = self.shared.store();
        let objects = store.objects(bucket);
        let objects = objects.unwrap_or_else(|error| no_bucket(bucket, &error));
        let page = listing::page(objects, &query);
        page.objects
            .iter()
            .map(|(key, _)| key.to_string())
            .collect()
    }

    /// Lets requests go wrong from now on; [`Faults::none`] ends it.
    ///
    /// # Panics
    /// If the rate is no share.
    pub fn fault(&self, faults: Faults) {
        self.front.set_faults(faults);
    }

    /// Calls `hook` for every request from now on: before it is applied, and, if it was, before it
    /// is answered. Replaces the hook before.
    ///
    /// A hook may block, to stop a client at one exact step; other requests go on meanwhile. If
    /// the client goes away while [`Phase::Before`] holds its request, the request may still be
    /// applied: answer [`Act::Drop`] to be sure that it is not.
    ///
    /// A hook that needs the server itself holds it by [`std::sync::Weak`], for a hook lives as
    /// long as the server.
    pub fn hook(&self, hook: impl Fn(&Seen, Phase) -> Act + Send + Sync + 'static) {
        self.front.set_hook(Some(Arc::new(hook)));
    }

    /// Ends the hook; one that is blocking goes on until it returns.
    pub fn clear_hook(&self) {
        self.front.set_hook(None);
    }

    /// What came, in the order in which it came.
    pub fn requests(&self) -> Vec<Seen> {
        self.front.log().all()
    }

    /// Forgets what came.
    pub fn clear_requests(&self) {
        self.front.log().clear();
    }

    /// While `expired`, signed requests get 400 `ExpiredToken`.
    pub fn expire_credentials(&self, expired: bool) {
        self.front.expired.store(expired, Ordering::SeqCst);
    }

    /// Sets the server's clock ahead: for the time of change of what is written from now on.
    pub fn set_clock_skew(&self, seconds: i64) {
        self.shared.store().skew_seconds = seconds;
    }

    /// Lets pages of listings have at most so many entries; S3's own limit is 1000.
    ///
    /// # Panics
    /// If `entries` is 0: such a listing would never end.
    pub fn set_page_size(&self, entries: usize) {
        assert!(entries > 0, "a page has at least one entry");
        self.shared.page_size.store(entries, Ordering::Relaxed);
    }
}

fn no_bucket(bucket: &str, error: &s3s::S3Error) -> ! {
    panic!("bucket {bucket:?} on the loopback server: {error}; create_bucket makes one")
}

/// Two threads: a client under test has the others.
fn run(listener: TcpListener, front: Arc<Front>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("loopback-s3")
        .enable_all()
        .build()
        .expect("a runtime for the server");
    runtime.block_on(async {
        let nonblocking = listener.set_nonblocking(true);
        nonblocking.expect("a socket that need not block");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket to listen on");
        tokio::spawn(http::serve(listener, front));
        // An error means that the owner is gone: just as well.
        let _ = stopped.await;
    });
    // A hook may block for ever.
    runtime.shutdown_timeout(Duration::from_secs(1));
}

impl Drop for LoopbackS3 {
    /// Closes the port and all connections.
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have panicked; then it has said so.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
