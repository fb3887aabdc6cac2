//! Where things are: which locations are understood, and that none of them carries a secret.
//!
//! The pipeline is written into every output, and locations into logs. So credentials come from
//! the environment alone, and a location that has any in it is refused without being repeated.

/// What can be read from.
pub(crate) const SOURCES: &[&str] = &["file", "s3", "gs", "az", "http", "https"];
/// What can be written to.
pub(crate) const OUTPUTS: &[&str] = &["file", "s3", "gs", "az"];
/// What answers requests.
pub(crate) const ENDPOINTS: &[&str] = &["http", "https"];
/// A path on this machine and nothing else.
pub(crate) const LOCAL: &[&str] = &[];

/// Checks a local path or a URI of one of `schemes`.
///
/// # Errors
/// What is wrong with it, to be put behind the name of the setting. Nothing but the scheme is
/// repeated.
pub(crate) fn check(location: &str, schemes: &[&str]) -> Result<(), String> {
    check_form(location, schemes)?;
    // Such as an address within an address.
    match redacted(location) == location {
        true => Ok(()),
        false => Err(
            " has what looks like a password or a query behind a `://`; credentials \
                      belong in the environment"
                .to_string(),
        ),
    }
}

fn check_form(location: &str, schemes: &[&str]) -> Result<(), String> {
    let Some((scheme, rest)) = location.split_once(':') else {
        return Ok(());
    };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !scheme.chars().all(is_scheme) {
        return Ok(()); // `photos/a:b` is a file name
    }
    let known = SOURCES.contains(&scheme.to_ascii_lowercase().as_str());
    let Some(rest) = rest.strip_prefix("//") else {
        return match known {
            true => Err(format!(
                " begins with `{scheme}:`; a location is written with `{scheme}://`"
            )),
            false => Ok(()),
        };
    };
    if !schemes.contains(&scheme) {
        return Err(wrong_scheme(scheme, known, schemes));
    }
    let authority_end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if authority.contains('@') {
        let what = " has a user name or password in it; credentials belong in the environment";
        return Err(what.to_string());
    }
    if rest.contains(['?', '#']) {
        return Err(format!(
            " has a query or a fragment (`?` or `#` in a {scheme}:// location), where signatures \
             and tokens are; remove it: credentials belong in the environment"
        ));
    }
    check_authority(scheme, authority, path)
}

fn wrong_scheme(scheme: &str, known: bool, schemes: &[&str]) -> String {
    if schemes.is_empty() {
        return " must be a path on this machine; download it first".to_string();
    }
    let all: Vec<String> = schemes
        .iter()
        .map(|scheme| format!("{scheme}://"))
        .collect();
    let all = all.join(", ");
    let lower = scheme.to_ascii_lowercase();
    if schemes.contains(&lower.as_str()) {
        format!(" has the scheme `{scheme}`; write it `{lower}`")
    } else if known {
        format!(" cannot be a {lower}:// location; it can be {all}")
    } else {
        // Not repeated: in `key:secret://...` it would be one.
        format!(" has an unknown scheme before `://`; it can be {all}")
    }
}

/// Checks the part between `://` and the path: a host, a bucket, or nothing.
fn check_authority(scheme: &str, authority: &str, path: &str) -> Result<(), String> {
    match scheme {
        "file" if authority.is_empty() || authority == "localhost" => match path {
            "" => Err(" names no folder; write file:///folder".to_string()),
            _ => Ok(()),
        },
        "file" => Err(" names a host; a file:// location has three slashes: file:///folder".into()),
        "http" | "https" => {
            if authority.is_empty() || authority.starts_with(':') {
                return Err(format!(" names no host; write {scheme}://host/path"));
            }
            match has_bad_port(authority) {
                true => Err(" has something behind the host's `:` that is no port".to_string()),
                false => Ok(()),
            }
        }
        _ if authority.is_empty() => {
            Err(format!(" names no bucket; write {scheme}://bucket/prefix"))
        }
        _ => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            match authority.chars().all(plain) {
                true => Ok(()),
                false => Err(format!(
                    " has characters in the bucket's name that no bucket has; write \
                     {scheme}://bucket/prefix"
                )),
            }
        }
    }
}

/// Whether something other than a number is behind the host's `:`.
fn has_bad_port(authority: &str) -> bool {
    let port = match authority.rsplit_once(']') {
        Some((_, behind)) => behind.strip_prefix(':'), // an IPv6 address is in brackets
        None => authority.split_once(':').map(|(_, port)| port),
    };
    port.is_some_and(|port| port.parse::<u16>().is_err())
}

const HIDDEN: &str = "(hidden)";

/// `text` with every URI in it cut before its query, and hidden up to the `@` of a user name or
/// password.
///
/// For messages that repeat what a user or a manifest wrote: presigned addresses have their
/// signature in the query.
pub fn redacted(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + "://".len());
        shown.push_str(before);
        let end = behind.find(|c: char| c.is_whitespace() || "\"'`<>".contains(c));
        let (uri, after) = behind.split_at(end.unwrap_or(behind.len()));
        rest = after;
        let (address, has_query) = match uri.find(['?', '#']) {
            Some(at) => (&uri[..at], true),
            None => (uri, false),
        };
        // An address may have another in its path.
        let parts: Vec<String> = address.split("://").map(without_user).collect();
        shown.push_str(&parts.join("://"));
        if has_query {
            shown.push('?');
            shown.push_str(HIDDEN);
        }
    }
    shown.push_str(rest);
    shown
}

/// What is behind `://`, from the `@` on if there is a user name or password before it.
fn without_user(address: &str) -> String {
    let authority = address.split('/').next().unwrap_or_default();
    // `user:sec/ret@host`: the `@` may be behind what looks like the authority.
    if !authority.contains('@') && !has_bad_port(authority) {
        return address.to_string();
    }
    let host = address.rfind('@').map_or("", |at| &address[at..]);
    format!("{HIDDEN}{host}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_in_addresses_are_hidden_and_the_rest_is_kept() {
        for (text, shown) in [
            ("photos/a b?.jpg", "photos/a b?.jpg"),
            ("s3://b/a@2x.jpg and x", "s3://b/a@2x.jpg and x"),
            ("https://h:8443/x", "https://h:8443/x"),
            ("http://[::1]:9000/x", "http://[::1]:9000/x"),
            (
                "https://h/a.jpg?X-Amz-Signature=S",
                "https://h/a.jpg?(hidden)",
            ),
            ("https://h/a.jpg#S", "https://h/a.jpg?(hidden)"),
            (
                "\"https://u:S@h/a.jpg\" is bad",
                "\"https://(hidden)@h/a.jpg\" is bad",
            ),
            ("https://u:S/S@h/a.jpg", "https://(hidden)@h/a.jpg"),
            ("https://u:S", "https://(hidden)"),
            (
                "https://h/https://u:S@g/x",
                "https://h/https://(hidden)@g/x",
            ),
            ("https://h/?to=https://g/&sig=S", "https://h/?(hidden)"),
            (
                "from s3://S@b/x to https://h/?S.",
                "from s3://(hidden)@b/x to https://h/?(hidden)",
            ),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn a_path_on_this_machine_may_have_any_characters() {
        for path in ["a", "/", "a?b#c@d", "C:x", "a:b@c", "%2F", "./http:x"] {
            assert_eq!(check(path, LOCAL), Ok(()), "{path}");
        }
    }

    proptest! {
        /// What is accepted shows all of itself: there is nothing to hide in it.
        #[test]
        fn an_accepted_location_has_nothing_to_hide(
            location in "(s3|https|file|)(:|://|)[a-c@:/?#. ]{0,12}",
        ) {
            if check(&location, SOURCES).is_ok() && location.contains("://") {
                prop_assert_eq!(redacted(&location), location);
            }
        }

        #[test]
        fn no_message_repeats_a_location(tail in "[@:/?#]{0,3}QQ[@:/?# ]{0,3}") {
            for scheme in ["s3://", "https://", "file://", "ftp://", "s3:", "https://u:", "QQ://"] {
                let said = check(&format!("{scheme}{tail}"), OUTPUTS);
                prop_assert!(!said.clone().err().unwrap_or_default().contains("QQ"), "{:?}", said);
            }
        }
    }
}
