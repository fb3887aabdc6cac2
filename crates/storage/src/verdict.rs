//! What an error of a store means for the caller, whichever store it is.

use std::error::Error;
use std::io::{self, ErrorKind};

use object_store::Error as ObjectError;
use object_store::client::{HttpError, HttpErrorKind};

use crate::connect::{METADATA_PATHS, WebPage};
use crate::redact::{element, redacted};

/// What the caller does about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no such object.
    Missing,
    /// A condition on the request does not hold: the object is another one by now.
    Changed,
    /// This object is not for this user.
    Denied,
    /// Nothing of this store is, with what to do about it: every other request would fail too.
    Credentials(String),
    /// No space or quota is left.
    Full,
    /// The same request may succeed later.
    Transient,
    /// It will not.
    Permanent,
}

/// Codes of S3 and its relatives that say that the credentials, not the object, are the trouble.
const CREDENTIAL_CODES: [(&str, &str); 16] = [
    ("ExpiredToken", EXPIRED),
    ("ExpiredTokenException", EXPIRED),
    ("RequestExpired", EXPIRED),
    ("TokenRefreshRequired", EXPIRED),
    ("InvalidToken", WRONG),
    ("InvalidIdentityToken", WRONG),
    ("InvalidClientTokenId", WRONG),
    ("InvalidAccessKeyId", WRONG),
    ("SignatureDoesNotMatch", WRONG),
    ("AuthenticationFailed", WRONG),
    ("InvalidSecurity", WRONG),
    ("NotSignedUp", WRONG),
    ("RequestTimeTooSkewed", SKEWED),
    ("AuthorizationHeaderMalformed", REGION),
    ("PermanentRedirect", REGION),
    ("IllegalLocationConstraintException", REGION),
];
const EXPIRED: &str = "the credentials have expired: get new ones and run again";
const WRONG: &str = "the store does not know these credentials: check AWS_ACCESS_KEY_ID, \
                     AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or what provides them";
const SKEWED: &str = "this machine's clock is off: set it (NTP) and run again";
const REGION: &str = "the bucket is in another region: set AWS_REGION or store.s3_region";
const NONE: &str = "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                    or store.s3_anonymous = true for a public bucket";

/// Codes with which S3 asks for patience under a status that says otherwise.
const TRANSIENT_CODES: [&str; 6] = [
    "RequestTimeout",
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "ConditionalRequestConflict",
];

/// Sorts an error of any store.
pub(crate) fn verdict(error: &ObjectError) -> Verdict {
    match root_kind(error) {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => return Verdict::Full,
        Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            return Verdict::Denied;
        }
        Some(ErrorKind::NotFound) => return Verdict::Missing,
        _ => {}
    }
    let text = chain_text(error);
    let code = element(&text, "Code").unwrap_or_default();
    if let Some((_, advice)) = CREDENTIAL_CODES.iter().find(|(known, _)| *known == code) {
        return Verdict::Credentials((*advice).to_string());
    }
    if TRANSIENT_CODES.contains(&code) {
        return Verdict::Transient;
    }
    // Of the services that hand out credentials to machines and containers.
    if text.contains("://169.254.") || METADATA_PATHS.iter().any(|path| text.contains(path)) {
        return Verdict::Credentials(NONE.to_string());
    }
    match error {
        ObjectError::NotFound { .. } => Verdict::Missing,
        ObjectError::Precondition { .. } | ObjectError::NotModified { .. } => Verdict::Changed,
        ObjectError::PermissionDenied { .. } => Verdict::Denied,
        ObjectError::Unauthenticated { .. } => Verdict::Credentials(WRONG.to_string()),
        _ if text.contains("redirect without LOCATION") => Verdict::Credentials(REGION.to_string()),
        // Listings and the like, whose errors object_store does not sort.
        _ => match status(&text) {
            Some(404) => Verdict::Missing,
            Some(403) => Verdict::Denied,
            Some(401) => Verdict::Credentials(WRONG.to_string()),
            Some(408 | 429 | 500..) => Verdict::Transient,
            Some(_) => Verdict::Permanent,
            None if in_chain(error, |error| error.is::<WebPage>()) => Verdict::Permanent,
            None if in_chain(error, |error| error.is::<HttpError>()) => Verdict::Transient,
            None => Verdict::Permanent,
        },
    }
}

/// Whether a server refused because the time of a signed URL is over.
pub(crate) fn says_expired(error: &ObjectError) -> bool {
    let text = chain_text(error);
    let says = |name| {
        element(&text, name)
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    says("Code").contains("expired") || says("Message").contains("expired")
}

/// The HTTP status in the text of an error; object_store keeps the error's type to itself.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// What a store said, fit to be printed. Object stores' own errors are not: they repeat URIs with
/// their queries, and response bodies, in `Display` and in `Debug`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StoreFailure(String);

impl StoreFailure {
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = redacted(&chain_text(error));
        if in_chain(error, is_no_connection) {
            text.push_str(NO_CONNECTION);
        }
        StoreFailure(text)
    }
}

const NO_CONNECTION: &str = "; check the network, and that the server is up and its address right \
                             (of an S3 server: store.s3_endpoint or AWS_ENDPOINT_URL)";

fn is_no_connection(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<HttpError>();
    error.is_some_and(|error| error.kind() == HttpErrorKind::Connect)
}

/// The messages of an error and of what caused it, each part once.
fn chain_text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    in_chain(error, |cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        false
    });
    text
}

/// The kind of the I/O error deepest in the chain; object stores wrap it several times.
pub(crate) fn root_kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mut kind = None;
    in_chain(error, |error| {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            kind = Some(error.kind());
        }
        false
    });
    kind
}

/// Whether `found` says yes to the error or to one it was caused by, from the outside in.
fn in_chain<'a>(
    error: &'a (dyn Error + 'static),
    mut found: impl FnMut(&'a (dyn Error + 'static)) -> bool,
) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if found(error) {
            return true;
        }
        // `source()` of an I/O error that wraps another skips the wrapped one.
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: &str, code: &str) -> ObjectError {
        let message = format!(
            "Server returned non-2xx status code: {status}: <Error><Code>{code}</Code>\
             <Message>why</Message></Error>"
        );
        let source = message.into();
        match status.get(..3) {
            Some("403") => ObjectError::PermissionDenied {
                path: "a.jpg".to_string(),
                source,
            },
            _ => ObjectError::Generic {
                store: "S3",
                source,
            },
        }
    }

    #[test]
    fn the_code_decides_before_the_status() {
        for (status, code, expected) in [
            ("403 Forbidden", "AccessDenied", Verdict::Denied),
            ("403 Forbidden", "InvalidObjectState", Verdict::Denied),
            ("400 Bad Request", "RequestTimeout", Verdict::Transient),
            ("400 Bad Request", "InvalidRequest", Verdict::Permanent),
            ("404 Not Found", "NoSuchBucket", Verdict::Missing),
            ("429 Too Many Requests", "", Verdict::Transient),
            ("503 Service Unavailable", "SlowDown", Verdict::Transient),
            ("501 Not Implemented", "NotImplemented", Verdict::Transient),
        ] {
            assert_eq!(
                verdict(&answered(status, code)),
                expected,
                "{status} {code}"
            );
        }
        for (status, code, advice) in [
            ("400 Bad Request", "ExpiredToken", "expired"),
            ("403 Forbidden", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("403 Forbidden", "RequestTimeTooSkewed", "clock is off"),
            (
                "400 Bad Request",
                "AuthorizationHeaderMalformed",
                "AWS_REGION",
            ),
            ("401 Unauthorized", "", "AWS_ACCESS_KEY_ID"),
        ] {
            match verdict(&answered(status, code)) {
                Verdict::Credentials(told) => assert!(told.contains(advice), "{told}"),
                other => panic!("{status} {code}: {other:?}"),
            }
        }
    }

    #[test]
    fn only_a_server_that_says_so_says_that_a_signature_has_expired() {
        let refused = |path: &str, message: &str| ObjectError::PermissionDenied {
            path: path.to_string(),
            source: format!("403: <Error><Code>AccessDenied</Code><Message>{message}</Message>")
                .into(),
        };
        assert!(says_expired(&refused("a.jpg", "Request has expired")));
        assert!(!says_expired(&refused(
            "expired-milk/a.jpg",
            "Access Denied"
        )));
    }

    #[test]
    fn a_failure_shows_each_part_once_and_no_secret() {
        let inner = std::io::Error::other("connection reset");
        let error = ObjectError::Generic {
            store: "S3",
            source: Box::new(HttpError::new(
                object_store::client::HttpErrorKind::Interrupted,
                inner,
            )),
        };
        let shown = StoreFailure::of(&error).to_string();
        assert_eq!(shown, "Generic S3 error: HTTP error: connection reset");
        assert_eq!(verdict(&error), Verdict::Transient);
        let signed = answered(
            "403 GET https://h/a?X-Amz-Signature=hunter2",
            "AccessDenied",
        );
        assert!(!format!("{:?}", StoreFailure::of(&signed)).contains("hunter2"));
    }
}
