//! The server and the impatient settings of this crate's tests.

use std::error::Error;
use std::time::Duration;

use maskmill_loopback_s3::{ACCESS_KEY, LoopbackS3, SECRET_KEY, SESSION_TOKEN};

use crate::options::StoreOptions;
use crate::stores::Stores;

pub(crate) const BUCKET: &str = "photos";

/// A server with an empty bucket, and stores that know its credentials.
pub(crate) fn server() -> (LoopbackS3, Stores) {
    let server = LoopbackS3::start();
    server.create_bucket(BUCKET);
    let stores = stores_of(&server);
    (server, stores)
}

/// New connections, and nothing remembered.
pub(crate) fn stores_of(server: &LoopbackS3) -> Stores {
    Stores::in_environment(&impatient(), server.environment())
}

/// As the defaults, but a test has no minutes to wait.
pub(crate) fn impatient() -> StoreOptions {
    StoreOptions {
        request_timeout: Duration::from_millis(400),
        max_retries: 12,
        retry_timeout: Duration::from_secs(30),
        first_backoff: Duration::from_millis(2),
        longest_backoff: Duration::from_millis(20),
        ..StoreOptions::default()
    }
}

/// Everything that printing an error can show.
pub(crate) fn all_text(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("{error} {error:?}");
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(&format!(" {error} {error:?}"));
        next = error.source();
    }
    text
}

/// Fails if a secret of the server is in `text`.
pub(crate) fn assert_no_secret(text: &str) {
    for secret in [ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, "X-Amz-Signature="] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}
