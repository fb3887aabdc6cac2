//! Locations as people type them: paths and URIs.

use std::path::PathBuf;

use object_store::path::Path as ObjectPath;
use url::Url;

use crate::redact::redacted;

/// A kind of store with buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cloud {
    S3,
    Gcs,
    Azure,
}

impl Cloud {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Cloud::S3 => "s3",
            Cloud::Gcs => "gs",
            Cloud::Azure => "az",
        }
    }
}

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// On this machine; relative to the working directory if it is relative.
    Local(PathBuf),
    /// In a bucket; the key is as the store knows it, without percent signs of its own.
    Bucket {
        cloud: Cloud,
        bucket: String,
        key: String,
    },
    /// On a web server.
    Web(Url),
}

/// A text that is no location.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LocationError {
    #[error(
        "there is no store for `{0}://`; a location is a local path, or a URI that begins with \
         file://, s3://, http:// or https:// (gs:// and az:// in builds with them)"
    )]
    Unsupported(String),
    #[error("{0}")]
    Invalid(String),
}

impl Location {
    /// Reads a path or URI. Of URIs, `file://` and `http(s)://` are percent-encoded and the others
    /// are not, as in the tools of their makers.
    pub(crate) fn parse(text: &str) -> Result<Self, LocationError> {
        let invalid = |reason: &str| LocationError::Invalid(reason.to_string());
        if text.trim().is_empty() {
            return Err(invalid("it is empty"));
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return Ok(Location::Local(PathBuf::from(text)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
                let path = url.to_file_path();
                path.map(Location::Local)
                    .map_err(|()| invalid("a file:// URI names an absolute path: file:///data/out"))
            }
            "s3" | "s3a" => bucket(Cloud::S3, rest),
            "gs" => bucket(Cloud::Gcs, rest),
            "az" | "abfs" => bucket(Cloud::Azure, rest),
            "http" | "https" => {
                let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
                let user = !url.username().is_empty() || url.password().is_some();
                match user || without_query(rest).contains('@') && !url.path().contains('@') {
                    true => Err(invalid(USER_INFO)),
                    false => Ok(Location::Web(url)),
                }
            }
            scheme => Err(LocationError::Unsupported(scheme.to_string())),
        }
    }
}

const USER_INFO: &str = "a URI must not hold a user or a password: they would end up in plans and \
                         outputs; credentials come from the environment";

fn bucket(cloud: Cloud, rest: &str) -> Result<Location, LocationError> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let invalid = |reason: &str| LocationError::Invalid(reason.to_string());
    if bucket.contains(['@', ':']) {
        return Err(invalid(USER_INFO));
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if bucket.is_empty() || bucket.contains(odd) {
        let scheme = cloud.scheme();
        return Err(invalid(&format!(
            "it names no bucket; write {scheme}://bucket/prefix"
        )));
    }
    let (bucket, key) = (bucket.to_string(), key.to_string());
    Ok(Location::Bucket { cloud, bucket, key })
}

/// `("s3", "bucket/key")` of `s3://bucket/key`; `None` for what is no URI.
pub(crate) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let is_scheme =
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(valid);
    is_scheme.then_some((scheme, rest))
}

fn without_query(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or(uri)
}

/// A location as it may be printed: a path as it is, a URI without query and user.
pub(crate) fn printable(location: &str) -> String {
    match split_scheme(location) {
        Some(_) => redacted(location),
        None => location.to_string(),
    }
}

/// The path of a key below a root, exactly: no character is changed, none is cut.
///
/// # Errors
/// Why stores cannot be asked for such a key.
pub(crate) fn object_path(key: &str) -> Result<ObjectPath, String> {
    // `Path::parse` would take them away, and so name another object.
    if key.starts_with('/') || key.ends_with('/') || key.is_empty() {
        return Err("a key must not be empty, or begin or end with `/`".to_string());
    }
    ObjectPath::parse(key).map_err(|_| {
        "a key must not have empty parts (`//`), `.` or `..` as a part, or control characters"
            .to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(text: &str) -> String {
        match Location::parse(text) {
            Ok(Location::Bucket { bucket, key, .. }) => format!("{bucket} {key}"),
            Ok(Location::Local(path)) => path.display().to_string(),
            Ok(Location::Web(url)) => url.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_kind_keeps_or_decodes_its_percent_signs() {
        assert_eq!(key_of("s3://b/a%20b/\u{fc}?#.jpg"), "b a%20b/\u{fc}?#.jpg");
        assert_eq!(key_of("S3A://my.bucket_1"), "my.bucket_1 ");
        assert_eq!(key_of("file:///data/a%20b%2525.jpg"), "/data/a b%25.jpg");
        assert_eq!(key_of("data/a%20b://c"), "data/a%20b://c");
        assert_eq!(
            key_of("https://h/a%2Fb.jpg?sig=x%2F"),
            "https://h/a%2Fb.jpg?sig=x%2F"
        );
        assert_eq!(key_of("http://h/@me/x"), "http://h/@me/x");
    }

    #[test]
    fn what_is_no_location_says_why_and_repeats_no_password() {
        assert_eq!(key_of("\t"), "it is empty");
        assert!(key_of("ftp://h/x").contains("there is no store for `ftp://`"));
        assert!(key_of("s3:///x").contains("names no bucket"));
        assert!(key_of("file://host/x").contains("names an absolute path"));
        for text in [
            "https://user:hunter2@h/x",
            "https://hunter2@h/x",
            "https://:hunter2@h/x",
            "s3://AKID:hunter2@bucket/x",
        ] {
            let message = key_of(text);
            assert!(message.contains("must not hold a user"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
            assert!(!printable(text).contains("hunter2"));
        }
    }

    #[test]
    fn a_key_is_taken_as_it_is_or_not_at_all() {
        for key in [
            "a b#1.png",
            "%2F.jpg",
            "\u{fc}/.hidden",
            "a/b?c",
            "a\\b",
            "..a",
        ] {
            assert_eq!(object_path(key).unwrap().as_ref(), key);
        }
        for key in ["", "/a", "a/", "a//b", "a/../b", "./a", "a\nb", "a/."] {
            assert!(object_path(key).is_err(), "{key:?}");
        }
    }
}
