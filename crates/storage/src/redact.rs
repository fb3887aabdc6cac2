//! Text that may be printed: without passwords, queries and signatures.
//!
//! Errors of stores repeat whole URIs, and servers repeat in an error's body what they were sent:
//! `SignatureDoesNotMatch` comes with the access key, the string that was signed and the signature.

/// Names of query parameters and headers whose value is secret or leads to one.
const SECRET_NAMES: [&str; 10] = [
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-credential",
    "x-goog-signature",
    "x-goog-credential",
    "awsaccesskeyid",
    "signature",
    "authorization",
    "password",
    "sig",
];

/// `text` without what may be secret. What is cut is shown as `...`.
///
/// - of a URI: user info and query
/// - of an S3 error document: everything but its code and message
/// - of `name=value` with the name of a secret: the value
pub(crate) fn redacted(text: &str) -> String {
    without_secret_values(&without_uri_secrets(&without_error_details(text)))
}

/// The text between `<name>` and `</name>`, the first time.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    Some(content)
}

fn without_error_details(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, document)) = rest.split_once("<Error>") {
        // A document that was cut off has no end: nothing of its tail is shown.
        let (document, after) = document.split_once("</Error>").unwrap_or((document, ""));
        out.push_str(before);
        out.push_str(element(document, "Code").unwrap_or("an error without a code"));
        if let Some(message) = element(document, "Message") {
            out.push_str(": ");
            out.push_str(message);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn without_uri_secrets(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, uri) = rest.split_at(at + 3);
        out.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>' | '`');
        let (uri, after) = uri.split_at(uri.find(ends).unwrap_or(uri.len()));
        let (path, query) = match uri.find('?') {
            Some(at) => uri.split_at(at),
            None => (uri, ""),
        };
        out.push_str(without_user_info(path));
        if !query.is_empty() {
            out.push_str("?...");
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `host/path` of `user:password@host/path`, also where the password has a `/` in it.
fn without_user_info(uri: &str) -> &str {
    let authority = uri.split('/').next().unwrap_or(uri);
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let odd_port = !port.bytes().all(|byte| byte.is_ascii_digit()) && !authority.contains(']');
    match uri.rfind('@') {
        Some(at) if odd_port || authority.contains('@') => &uri[at + 1..],
        _ => uri,
    }
}

fn without_secret_values(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let ends = |c: char| c.is_whitespace() || matches!(c, '&' | '"' | '<' | ',' | ';');
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in lower.match_indices('=') {
        let secret = SECRET_NAMES.iter().any(|name| lower[..at].ends_with(name));
        if at < done || !secret {
            continue;
        }
        out.push_str(&text[done..=at]);
        out.push_str("...");
        let value = &text[at + 1..];
        done = at + 1 + value.find(ends).unwrap_or(value.len());
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_and_the_user_of_a_uri_are_cut_and_the_rest_stays() {
        let presigned = "GET https://b.s3.eu-west-1.amazonaws.com/a%20b.jpg?X-Amz-Algorithm=AWS4\
                         &X-Amz-Credential=AKIDEXAMPLE%2F20260101&X-Amz-Signature=deadbeef in 3 ms";
        assert_eq!(
            redacted(presigned),
            "GET https://b.s3.eu-west-1.amazonaws.com/a%20b.jpg?... in 3 ms"
        );
        for (text, shown) in [
            ("https://user:hunter2@h/x.jpg", "https://h/x.jpg"),
            (
                "\"https://user:hun/ter@2@h:90/x\" and more",
                "\"https://h:90/x\" and more",
            ),
            ("s3://AKID:secret@bucket/k, no", "s3://bucket/k, no"),
            ("http://[::1]:9000/b/@home/k", "http://[::1]:9000/b/@home/k"),
            (
                "http://h:9000/b/me@home?a=b?c",
                "http://h:9000/b/me@home?...",
            ),
            ("50 % of a://", "50 % of a://"),
            ("no URI: user@host?x=y", "no URI: user@host?x=y"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn an_error_document_keeps_its_code_and_its_message() {
        let document = "403 Forbidden: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
            <Message>The signature we calculated does not match</Message>\
            <AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256\n2026\
            </StringToSign><SignatureProvided>deadbeef</SignatureProvided>\
            <X-Amz-Security-Token>FwoGZX</X-Amz-Security-Token></Error> (end)";
        let shown = redacted(document);
        assert_eq!(
            shown,
            "403 Forbidden: <?xml version=\"1.0\"?>SignatureDoesNotMatch: \
             The signature we calculated does not match (end)"
        );
        let (cut, _) = document.split_at(document.find("</StringToSign>").unwrap());
        for secret in ["AKIDEXAMPLE", "AWS4-HMAC", "deadbeef", "FwoGZX"] {
            assert!(!redacted(document).contains(secret));
            assert!(!redacted(cut).contains(secret), "also when it is cut short");
        }
    }

    #[test]
    fn values_of_secret_names_are_cut_outside_of_uris_too() {
        assert_eq!(
            redacted("query X-Amz-Signature=abc==&x=1, sig=a%2Fb \u{fc} name=cat"),
            "query X-Amz-Signature=...&x=1, sig=... \u{fc} name=cat"
        );
    }
}
