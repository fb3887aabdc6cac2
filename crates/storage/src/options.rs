//! How stores are reached: endpoints, timeouts, retries.

use std::fmt;
use std::time::Duration;

use crate::redact::redacted;

/// How stores are reached; the `[store]` section of a config file.
///
/// What is not set here comes from the environment (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
/// `AWS_ENDPOINT_URL` and so on). Nothing here changes what is computed.
#[derive(Clone, PartialEq)]
pub struct StoreOptions {
    /// The S3 server, `http://127.0.0.1:9000`; `None` for the environment's, else AWS.
    pub s3_endpoint: Option<String>,
    /// The S3 region; `None` for the environment's, else `us-east-1`.
    pub s3_region: Option<String>,
    /// Whether the bucket is the first part of the path (true) or of the host name (false);
    /// `None` for path style, which every server knows.
    pub s3_path_style: Option<bool>,
    /// Sends no credentials: for public buckets.
    pub s3_anonymous: bool,
    /// How long a server may be silent, before an answer and within one.
    pub request_timeout: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How often a request is sent again before the operation fails.
    pub max_retries: u32,
    /// After so long, nothing is sent again.
    pub retry_timeout: Duration,
    /// The wait before the first retry; it doubles, with jitter.
    pub first_backoff: Duration,
    /// The longest wait between retries.
    pub longest_backoff: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            s3_endpoint: None,
            s3_region: None,
            s3_path_style: None,
            s3_anonymous: false,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            max_retries: 8,
            retry_timeout: Duration::from_secs(180),
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(15),
        }
    }
}

/// As derived, but an endpoint with a password in it is shown without.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("s3_endpoint", &self.s3_endpoint.as_deref().map(redacted))
            .field("s3_region", &self.s3_region)
            .field("s3_path_style", &self.s3_path_style)
            .field("s3_anonymous", &self.s3_anonymous)
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_retries", &self.max_retries)
            .field("retry_timeout", &self.retry_timeout)
            .field("first_backoff", &self.first_backoff)
            .field("longest_backoff", &self.longest_backoff)
            .finish()
    }
}
