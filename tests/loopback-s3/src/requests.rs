//! What came in, and what a test may do about it.

use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH, RANGE};
use http::{Method, Request};
use s3s::path::{S3Path, parse_path_style};

use crate::faults::FaultKind;

/// One request, as the server saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Counts all requests of this server, from 0.
    pub number: u64,
    /// `GET`, `PUT`, ...
    pub method: Method,
    /// Empty for a request on the server itself.
    pub bucket: String,
    /// Decoded; empty for a request on the bucket itself.
    pub key: String,
    /// Names and values, decoded, in their order.
    pub query: Vec<(String, String)>,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `If-Match` header.
    pub if_match: Option<String>,
    /// The `If-None-Match` header.
    pub if_none_match: Option<String>,
    /// Whether it was signed, rightly or wrongly.
    pub signed: bool,
    /// The fault it met.
    pub fault: Option<FaultKind>,
    /// What was answered; none if nothing was, or not yet.
    pub status: Option<u16>,
}

impl Seen {
    pub(crate) fn of<B>(number: u64, request: &Request<B>) -> Self {
        let (bucket, key) = bucket_and_key(request.uri().path());
        let header = |name: HeaderName| {
            let value = request.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Seen {
            number,
            method: request.method().clone(),
            bucket,
            key,
            query: query(request.uri().query().unwrap_or_default()),
            range: header(RANGE),
            if_match: header(IF_MATCH),
            if_none_match: header(IF_NONE_MATCH),
            signed: is_signed(request),
            fault: None,
            status: None,
        }
    }

    /// The value of a query parameter: `list-type`, `prefix`, `uploadId`, ...
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query.iter();
        let found = pairs.find(|(candidate, _)| candidate == name)?;
        Some(&found.1)
    }

    /// Whether it asks for a page of a listing.
    pub fn is_list(&self) -> bool {
        self.parameter("list-type").is_some()
    }

    /// Whether it is a write that must not replace anything.
    pub fn is_create(&self) -> bool {
        let writes = self.method == Method::PUT || self.method == Method::POST;
        writes && self.if_none_match.is_some()
    }
}

fn is_signed<B>(request: &Request<B>) -> bool {
    let in_query = request.uri().query().unwrap_or_default();
    request.headers().contains_key(http::header::AUTHORIZATION)
        || in_query.contains("X-Amz-Signature=")
}

/// Reads the path as the S3 service will. A path that it refuses has neither.
fn bucket_and_key(path: &str) -> (String, String) {
    let decoded = percent_decoded(path);
    match parse_path_style(&decoded) {
        Ok(S3Path::Object { bucket, key }) => (bucket.into(), key.into()),
        Ok(S3Path::Bucket { bucket }) => (bucket.into(), String::new()),
        Ok(S3Path::Root) | Err(_) => (String::new(), String::new()),
    }
}

fn query(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for pair in text.split('&') {
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |part: &str| percent_decoded(&part.replace('+', " "));
        pairs.push((decode(name), decode(value)));
    }
    pairs
}

/// What is no escape, or no UTF-8, is shown as well as it can be: this is for reading, the service
/// decodes for itself.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3);
        let escaped = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// When a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has been done yet, nor has the request's body been read.
    Before,
    /// It has been applied, and [`Seen::status`] is what is about to be answered.
    After,
}

/// What a hook lets happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing special.
    Go,
    /// The connection is closed without an answer.
    Drop,
    /// This is answered instead.
    Status(u16),
    /// It waits so long, then goes on.
    Hold(std::time::Duration),
}

/// Every request since the last [`Log::clear`].
#[derive(Default)]
pub(crate) struct Log {
    seen: Vec<Seen>,
    count: u64,
}

impl Log {
    pub(crate) fn arrived<B>(&mut self, request: &Request<B>) -> Seen {
        let seen = Seen::of(self.count, request);
        self.count += 1;
        self.seen.push(seen.clone());
        seen
    }

    /// Keeps what became of it, unless the log has been cleared since it arrived.
    pub(crate) fn update(&mut self, seen: &Seen) {
        let first = self.count - self.seen.len() as u64;
        if let Some(index) = seen.number.checked_sub(first) {
            self.seen[index as usize] = seen.clone();
        }
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.seen.clone()
    }

    pub(crate) fn clear(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(uri: &str) -> Seen {
        let request = Request::builder().uri(uri).body(()).unwrap();
        Seen::of(7, &request)
    }

    #[test]
    fn keys_are_decoded_once_and_not_normalised() {
        let get = seen("/photos/a/..//b%252Fc%20%C3%A9?versionId=%26+x&acl");
        assert_eq!(get.bucket, "photos");
        assert_eq!(get.key, "a/..//b%2Fc é");
        assert_eq!(get.parameter("versionId"), Some("& x"));
        assert_eq!(get.parameter("acl"), Some(""));
        assert_eq!(get.parameter("list-type"), None);
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(percent_decoded("100%"), "100%");
        assert_eq!(percent_decoded("%zz%4"), "%zz%4");
        assert_eq!(percent_decoded("%é%41"), "%éA");
    }

    #[test]
    fn a_cleared_log_forgets_requests_under_way() {
        let mut log = Log::default();
        let request = Request::builder().uri("/b/k").body(()).unwrap();
        let mut early = log.arrived(&request);
        log.clear();
        let mut late = log.arrived(&request);
        early.status = Some(500);
        late.status = Some(200);
        log.update(&early);
        log.update(&late);
        assert_eq!(log.all(), [late]);
    }
}
