//! Random faults that a seed repeats, and the bodies that misbehave.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Response};
use http_body_util::{BodyDataStream, StreamBody};
use hyper::body::{Body as _, Frame};
use s3s::Body;

use crate::requests::Seen;

/// Which share of the requests goes wrong, and how.
///
/// What happens to a request is a function of the seed, of what it asks for, and of how often that
/// has been asked for before: two runs that ask for the same meet the same faults, in whatever
/// order their threads ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Another seed, other faults.
    pub seed: u64,
    /// The share of requests that a fault hits, in [0, 1].
    pub rate: f64,
    /// One of these is drawn, of those that can happen to the request.
    pub kinds: Vec<FaultKind>,
}

impl Faults {
    /// No request goes wrong.
    pub fn none() -> Self {
        Faults {
            seed: 0,
            rate: 0.0,
            kinds: Vec::new(),
        }
    }

    /// Every kind there is; `timeout` should be longer than the client waits.
    pub fn every_kind(seed: u64, rate: f64, timeout: Duration) -> Self {
        let kinds = vec![
            FaultKind::Status(500),
            FaultKind::Status(503),
            FaultKind::Timeout(timeout),
            FaultKind::SlowBody { bytes_per_ms: 1000 },
            FaultKind::TruncatedBody,
            FaultKind::LostResponse,
            FaultKind::Conflict,
            FaultKind::Dropped,
        ];
        Faults { seed, rate, kinds }
    }
}

/// One way to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Not applied; this status is answered, with S3's error code for it.
    Status(u16),
    /// Not applied; no answer for so long, then the connection is closed.
    Timeout(Duration),
    /// Applied; the answer's body trickles. GETs only.
    SlowBody {
        /// Bytes in a millisecond.
        bytes_per_ms: u32,
    },
    /// Applied; the answer's head is right, and the connection is closed after half the body
    /// at most. GETs only.
    TruncatedBody,
    /// Applied; the connection is closed without an answer.
    LostResponse,
    /// Not applied; 409 `ConditionalRequestConflict`. Only for writes with `If-None-Match`.
    Conflict,
    /// Not applied; the connection is closed.
    Dropped,
}

impl FaultKind {
    fn can_hit(self, seen: &Seen) -> bool {
        match self {
            FaultKind::SlowBody { .. } | FaultKind::TruncatedBody => seen.method == Method::GET,
            FaultKind::Conflict => seen.is_create(),
            _ => true,
        }
    }
}

/// Draws the faults.
pub(crate) struct Chooser {
    faults: Faults,
    /// How often each thing was asked for.
    tries: HashMap<u64, u32>,
}

impl Chooser {
    pub(crate) fn new(faults: Faults) -> Self {
        let rate = faults.rate;
        assert!(
            (0.0..=1.0).contains(&rate),
            "Faults::rate = {rate} is outside [0, 1]"
        );
        Chooser {
            faults,
            tries: HashMap::new(),
        }
    }

    pub(crate) fn choose(&mut self, seen: &Seen) -> Option<FaultKind> {
        if self.faults.kinds.is_empty() {
            return None;
        }
        let asked = (
            seen.method.as_str(),
            &seen.bucket,
            &seen.key,
            &seen.query,
            &seen.range,
        );
        let identity = hash(&asked);
        let tries = self.tries.entry(identity).or_insert(0);
        *tries += 1;
        let draw = hash(&(self.faults.seed, identity, *tries));
        // The upper 53 bits: as many as a double holds.
        let unit = (draw >> 11) as f64 / (1u64 << 53) as f64;
        if unit >= self.faults.rate {
            return None;
        }
        let mut kinds = self.faults.kinds.clone();
        kinds.retain(|kind| kind.can_hit(seen));
        if kinds.is_empty() {
            return None;
        }
        let index = hash(&(draw, "kind")) % kinds.len() as u64;
        Some(kinds[index as usize])
    }
}

/// The same in every run: `DefaultHasher::new` has fixed keys.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Sends the right head and half the body, then breaks off. `None` if there is no body to cut.
pub(crate) fn truncated(response: Response<Body>) -> Option<Response<Body>> {
    let (response, length) = with_length(response)?;
    if length == 0 {
        return None;
    }
    Some(response.map(|body| {
        let chunks = BodyDataStream::new(body);
        let cut = stream::unfold((chunks, length / 2), |(mut chunks, left)| async move {
            if left > 0 {
                let mut bytes = chunks.next().await?.map_err(io::Error::other);
                let mut sent = 0;
                if let Ok(bytes) = &mut bytes {
                    bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    sent = bytes.len() as u64;
                }
                return Some((bytes.map(Frame::data), (chunks, left - sent)));
            }
            // A pause, for what went before to be flushed: an error throws away what is buffered.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, "cut on request");
            Some((Err(error), (chunks, 0)))
        });
        Body::http_body_unsync(StreamBody::new(cut))
    }))
}

/// Lets the body trickle. `None` if there is none.
pub(crate) fn slowed(response: Response<Body>, bytes_per_ms: u32) -> Option<Response<Body>> {
    // Ten milliseconds' worth at a time: timers are no finer than one.
    let piece = (bytes_per_ms.max(1) as usize).saturating_mul(10);
    let (response, _) = with_length(response)?;
    Some(response.map(|body| {
        let state = (BodyDataStream::new(body), Bytes::new());
        let slow = stream::unfold(state, move |(mut chunks, mut left)| async move {
            while left.is_empty() {
                match chunks.next().await? {
                    Ok(bytes) => left = bytes,
                    Err(error) => return Some((Err(io::Error::other(error)), (chunks, left))),
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let bytes = left.split_to(left.len().min(piece));
            Some((Ok(Frame::data(bytes)), (chunks, left)))
        });
        Body::http_body_unsync(StreamBody::new(slow))
    }))
}

/// Writes the body's length into the head, where a body that is streamed would not have it.
fn with_length(mut response: Response<Body>) -> Option<(Response<Body>, u64)> {
    let length = match response.headers().get(CONTENT_LENGTH) {
        Some(value) => value.to_str().ok()?.parse().ok()?,
        None => response.body().size_hint().exact()?,
    };
    let value = HeaderValue::from(length);
    response.headers_mut().insert(CONTENT_LENGTH, value);
    Some((response, length))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(method: &str, key: usize) -> Seen {
        let request = Request::builder()
            .method(method)
            .uri(format!("/bucket/{key}"))
            .body(())
            .unwrap();
        Seen::of(0, &request)
    }

    #[test]
    fn the_rate_is_the_share_that_is_hit() {
        let mut chooser = Chooser::new(Faults::every_kind(11, 0.25, Duration::ZERO));
        let mut hits = 0;
        for key in 0..4000 {
            hits += usize::from(chooser.choose(&request("GET", key)).is_some());
        }
        // Four standard deviations of a binomial around 1000.
        assert!((890..1110).contains(&hits), "{hits} of 4000");
    }

    #[test]
    fn the_order_of_requests_does_not_matter_but_the_seed_and_the_try_do() {
        let draw = |seed, backwards: bool| {
            let mut chooser = Chooser::new(Faults::every_kind(seed, 0.5, Duration::ZERO));
            let mut drawn = vec![Vec::new(); 200];
            for step in 0..400 {
                let key = if backwards { 399 - step } else { step } % 200;
                drawn[key].push(chooser.choose(&request("GET", key)));
            }
            drawn
        };
        assert_eq!(draw(3, false), draw(3, true));
        assert_ne!(draw(3, false), draw(4, false));
        assert!(draw(3, false).iter().any(|tries| tries[0] != tries[1]));
    }

    #[test]
    fn a_fault_hits_only_what_it_can() {
        let only = |kind| {
            Chooser::new(Faults {
                seed: 1,
                rate: 1.0,
                kinds: vec![kind],
            })
        };
        let mut create = request("PUT", 0);
        create.if_none_match = Some("*".to_string());
        assert_eq!(
            only(FaultKind::Conflict).choose(&create),
            Some(FaultKind::Conflict)
        );
        assert_eq!(only(FaultKind::Conflict).choose(&request("PUT", 0)), None);
        assert_eq!(only(FaultKind::TruncatedBody).choose(&create), None);
        assert!(
            only(FaultKind::TruncatedBody)
                .choose(&request("GET", 0))
                .is_some()
        );
    }

    #[test]
    #[should_panic(expected = "Faults::rate = 1.5 is outside [0, 1]")]
    fn a_rate_above_one_is_refused() {
        Chooser::new(Faults::every_kind(0, 1.5, Duration::ZERO));
    }
}
