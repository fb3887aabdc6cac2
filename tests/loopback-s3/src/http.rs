//! HTTP around the S3 operations: connections, hooks, faults, the log.
//!
//! ```text
//!  arrived -> hook Before -> fault not applied? -> credentials -> S3 operation
//!                                                                     |
//!  answered <- fault on the answer? <- hook After <-------------------+
//! ```

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::service::S3Service;
use tokio::net::{TcpListener, TcpStream};

use crate::SESSION_TOKEN;
use crate::faults::{Chooser, FaultKind, Faults, slowed, truncated};
use crate::requests::{Act, Log, Phase, Seen};

const TOKEN_HEADER: &str = "x-amz-security-token";

/// What a test does with every request.
pub(crate) type Hook = dyn Fn(&Seen, Phase) -> Act + Send + Sync;

/// Everything between the socket and the operations.
pub(crate) struct Front {
    service: S3Service,
    hook: Mutex<Option<Arc<Hook>>>,
    faults: Mutex<Chooser>,
    log: Mutex<Log>,
    pub(crate) expired: AtomicBool,
}

/// The connection is closed without a further word: hyper does so when it is given an error.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed on request")
    }
}

impl std::error::Error for Closed {}

type Answer = Result<Response<Body>, Closed>;

impl Front {
    pub(crate) fn new(service: S3Service) -> Self {
        Front {
            service,
            hook: Mutex::new(None),
            faults: Mutex::new(Chooser::new(Faults::none())),
            log: Mutex::new(Log::default()),
            expired: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_hook(&self, hook: Option<Arc<Hook>>) {
        *lock(&self.hook) = hook;
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = Chooser::new(faults);
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let mut seen = self.log().arrived(&request);
        let answer = self.process(&mut seen, request).await;
        seen.status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        self.log().update(&seen);
        answer
    }

    async fn process(&self, seen: &mut Seen, request: Request<Incoming>) -> Answer {
        match self.ask_hook(seen, Phase::Before).await {
            Act::Go => {}
            Act::Drop => return Err(Closed),
            Act::Status(status) => return refuse(request, status).await,
            Act::Hold(time) => tokio::time::sleep(time).await,
        }
        seen.fault = lock(&self.faults).choose(seen);
        self.log().update(seen);
        match seen.fault {
            Some(FaultKind::Status(status)) => return refuse(request, status).await,
            Some(FaultKind::Conflict) => return refuse(request, 409).await,
            Some(FaultKind::Dropped) => return Err(Closed),
            Some(FaultKind::Timeout(time)) => {
                tokio::time::sleep(time).await;
                return Err(Closed);
            }
            _ => {}
        }
        if let Some(code) = self.refused_credentials(&request) {
            drain(request).await;
            return Ok(error(400, code));
        }

        let answer = self.apply(request).await?;
        seen.status = Some(answer.status().as_u16());
        let answer = match self.ask_hook(seen, Phase::After).await {
            Act::Go => answer,
            Act::Drop => return Err(Closed),
            Act::Status(status) => error(status, code_of(status)),
            Act::Hold(time) => {
                tokio::time::sleep(time).await;
                answer
            }
        };
        match seen.fault {
            Some(FaultKind::LostResponse) => Err(Closed),
            Some(FaultKind::TruncatedBody) => truncated(answer).ok_or(Closed),
            Some(FaultKind::SlowBody { bytes_per_ms }) => {
                slowed(answer, bytes_per_ms).ok_or(Closed)
            }
            _ => Ok(answer),
        }
    }

    /// On a thread of its own, for a hook may block. One that panics closes the connection.
    async fn ask_hook(&self, seen: &Seen, phase: Phase) -> Act {
        let Some(hook) = lock(&self.hook).clone() else {
            return Act::Go;
        };
        let seen = seen.clone();
        let asked = tokio::task::spawn_blocking(move || hook(&seen, phase));
        asked.await.unwrap_or(Act::Drop)
    }

    /// The error code, if the credentials have expired or the token is none of ours. A missing
    /// token is let pass: the keys alone are enough for a client that was given no token.
    fn refused_credentials(&self, request: &Request<Incoming>) -> Option<&'static str> {
        let headers = request.headers();
        if headers.contains_key(AUTHORIZATION) && self.expired.load(Ordering::SeqCst) {
            return Some("ExpiredToken");
        }
        match headers.get(TOKEN_HEADER) {
            Some(token) if token != SESSION_TOKEN => Some("InvalidToken"),
            _ => None,
        }
    }

    async fn apply(&self, mut request: Request<Incoming>) -> Answer {
        // The service logs requests: these then show as `Sensitive`.
        for name in [AUTHORIZATION.as_str(), TOKEN_HEADER] {
            if let Some(value) = request.headers_mut().get_mut(name) {
                value.set_sensitive(true);
            }
        }
        let answer = self.service.call(request.map(Body::from)).await;
        answer.map_err(|_| Closed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds it")
}

async fn refuse(request: Request<Incoming>, status: u16) -> Answer {
    drain(request).await;
    Ok(error(status, code_of(status)))
}

/// Reads the request's body to its end: a client that is still sending would see a reset
/// connection instead of the answer.
async fn drain(request: Request<Incoming>) {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}

fn code_of(status: u16) -> &'static str {
    match status {
        400 => "InvalidRequest",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    }
}

fn error(status: u16, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>answered so on request</Message></Error>"
    );
    let mut response = Response::new(Body::from(xml));
    *response.status_mut() = StatusCode::from_u16(status).expect("an HTTP status has three digits");
    let xml = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(CONTENT_TYPE, xml);
    response
}

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, front: Arc<Front>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, front.clone()));
            }
            // No file descriptors, say: they come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(stream: TcpStream, front: Arc<Front>) {
    // An answer's last packet must not wait for the client to confirm the one before.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let answer = service_fn(move |request| {
        let front = front.clone();
        async move { front.answer(request).await }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    // Its errors are clients that went away and connections closed on request.
    let _ = connection.await;
}
