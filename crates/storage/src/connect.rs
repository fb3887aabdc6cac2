//! The one door to the network: counts requests, watches the clock, and keeps secrets out of errors.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Uri};
use http_body::{Body, Frame, SizeHint};
use metrics::counter;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use tokio::time::{Sleep, sleep, timeout};

use crate::redact::{element, redacted};

/// What an upload is given on top of the timeout: the slowest uplink that is not taken for dead.
const SLOWEST_UPLOAD: u64 = 256 << 10;

/// Bytes of an error's body that are looked at.
const LONGEST_ERROR: usize = 64 << 10;

/// Where a machine of a cloud asks who it is, whatever the service's address.
pub(crate) const METADATA_PATHS: [&str; 2] = ["/latest/api/token", "/latest/meta-data/"];

/// What all remote stores together have done since the program began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Requests sent, repeated ones too.
    pub requests: u64,
    /// Attempts that failed in a way that is tried again.
    pub retries: u64,
    /// Bytes of bodies that came.
    pub bytes_read: u64,
}

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static RETRIES: AtomicU64 = AtomicU64::new(0);
static BYTES_READ: AtomicU64 = AtomicU64::new(0);

/// What all remote stores together have done since the program began.
pub fn store_counters() -> StoreCounters {
    StoreCounters {
        requests: REQUESTS.load(Ordering::Relaxed),
        retries: RETRIES.load(Ordering::Relaxed),
        bytes_read: BYTES_READ.load(Ordering::Relaxed),
    }
}

fn count_retry() {
    RETRIES.fetch_add(1, Ordering::Relaxed);
    counter!("maskmill_store_retries_total").increment(1);
}

/// Travels in a request's extensions: the URI to send, exactly, in place of the request's own. So a
/// query that is a secret is in no error of the layers above, which only know the request's.
#[derive(Clone)]
pub(crate) struct ExactUri(pub(crate) Uri);

impl fmt::Debug for ExactUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactUri({})", redacted(&self.0.to_string()))
    }
}

/// Travels in a request's extensions and counts how often it was sent: an answer to the second
/// attempt may be about what the first one did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts(Arc<AtomicU32>);

impl Attempts {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes the clients of all stores.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// How long a server may be silent.
    pub(crate) silence: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        static TLS: Once = Once::new();
        TLS.call_once(|| {
            // An error says that the program has chosen a provider before.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        // Its timeouts begin with the request, so that a body that waits for its reader, or a long
        // upload, would run into them.
        let options = options.clone().with_timeout_disabled();
        Ok(HttpClient::new(Watched {
            inner: ReqwestConnector::default().connect(&options)?,
            silence: self.silence,
        }))
    }
}

/// A client that counts, times out and tidies up.
#[derive(Debug)]
struct Watched {
    inner: HttpClient,
    silence: Duration,
}

#[async_trait]
impl HttpService for Watched {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(attempts) = request.extensions().get::<Attempts>() {
            attempts.0.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(exact) = request.extensions().get::<ExactUri>().cloned() {
            *request.uri_mut() = exact.0;
        }
        let method = method_name(request.method());
        let is_listing = is_listing(request.uri());
        let answer = match hands_out_credentials(request.uri()) {
            true => self.ask_for_credentials(request).await,
            false => self.answer(request, self.silence).await,
        };
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        let outcome = match &answer {
            Err(_) => "transport",
            Ok(answer) if answer.status().is_server_error() => "server_error",
            Ok(answer) if answer.status().is_client_error() => "client_error",
            Ok(_) => "ok",
        };
        counter!("maskmill_store_requests_total", "method" => method, "outcome" => outcome)
            .increment(1);
        let status = answer.as_ref().map(|answer| answer.status().as_u16());
        if status.map_or(true, |status| status >= 500 || matches!(status, 408 | 429)) {
            count_retry();
        }
        let answer = answer?;
        if is_listing && answer.status().is_success() && is_web_page(answer.headers()) {
            return Err(HttpError::new(HttpErrorKind::Decode, WebPage));
        }
        let failed = answer.status().is_client_error() || answer.status().is_server_error();
        let (head, body) = answer.into_parts();
        let body = HttpResponseBody::new(WatchedBody {
            inner: body,
            silence: self.silence,
            patience: None,
        });
        let body = if failed { error_body(body).await } else { body };
        Ok(HttpResponse::from_parts(head, body))
    }
}

impl Watched {
    async fn answer(
        &self,
        request: HttpRequest,
        silence: Duration,
    ) -> Result<HttpResponse, HttpError> {
        let upload = request.body().content_length() as u64 / SLOWEST_UPLOAD;
        let limit = silence + Duration::from_secs(upload);
        match timeout(limit, self.inner.execute(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::new(HttpErrorKind::Timeout, Silent(limit))),
        }
    }

    /// On a machine that is no cloud machine nobody answers there, and waiting minutes for it would
    /// hide that there are no credentials: three short tries, and then an error that is final.
    async fn ask_for_credentials(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let silence = self.silence.min(Duration::from_secs(2));
        for wait in [100, 400] {
            if let Ok(answer) = self.answer(request.clone(), silence).await {
                return Ok(answer);
            }
            sleep(Duration::from_millis(wait)).await;
        }
        let last = self.answer(request, silence).await;
        last.map_err(|error| HttpError::new(HttpErrorKind::Decode, error))
    }
}

/// Whether it is a service that hands out credentials to this machine or container.
fn hands_out_credentials(uri: &Uri) -> bool {
    let link_local = uri.host().is_some_and(|host| host.starts_with("169.254."));
    link_local
        || METADATA_PATHS
            .iter()
            .any(|path| uri.path().starts_with(path))
}

/// Whether it asks an S3 server for a listing.
fn is_listing(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    query.split('&').any(|pair| pair == "list-type=2")
}

fn is_web_page(headers: &HeaderMap) -> bool {
    let content = headers.get(CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"text/html"))
}

/// The console of a store, or the page with which a network greets its guests. Read as XML it would
/// be a listing of nothing.
#[derive(Debug, thiserror::Error)]
#[error("the server answered with a web page instead of a listing: it is no S3 server")]
pub(crate) struct WebPage;

/// The methods stores use; a server cannot make more labels.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// The body of an error, as far as it may be shown: its code and its message.
async fn error_body(body: HttpResponseBody) -> HttpResponseBody {
    let mut text = Vec::new();
    let mut body = std::pin::pin!(body);
    while text.len() < LONGEST_ERROR {
        let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else { break };
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&text);
    // Pages of web servers explain themselves to people with browsers.
    let Some(code) = element(&text, "Code") else {
        return Bytes::new().into();
    };
    let message = redacted(element(&text, "Message").unwrap_or_default());
    format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>").into()
}

#[derive(Debug, thiserror::Error)]
#[error("nothing came for {0:?}")]
struct Silent(Duration);

/// A body that fails when its server is silent for too long while somebody waits for it.
struct WatchedBody {
    inner: HttpResponseBody,
    silence: Duration,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.patience = None;
            match &frame {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                    BYTES_READ.fetch_add(bytes, Ordering::Relaxed);
                    counter!("maskmill_store_bytes_read_total").increment(bytes);
                }
                Some(Err(_)) => count_retry(),
                None => {}
            }
            return Poll::Ready(frame);
        }
        let silence = self.silence;
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(silence)));
        ready!(patience.as_mut().poll(cx));
        self.patience = None;
        count_retry();
        let error = HttpError::new(HttpErrorKind::Timeout, Silent(silence));
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
