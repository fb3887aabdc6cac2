//! One page of `ListObjectsV2`: prefix, delimiter, and where the last page ended.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What a page is asked for.
pub(crate) struct ListQuery<'a> {
    pub(crate) prefix: &'a str,
    /// Never empty.
    pub(crate) delimiter: Option<&'a str>,
    pub(crate) after: After,
    /// Keys and common prefixes together.
    pub(crate) limit: usize,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum After {
    /// At the beginning.
    Nothing,
    /// Behind this key, which need not exist. Other keys of its common prefix are still to come.
    Key(String),
    /// Behind every key of this common prefix.
    Prefix(String),
}

/// What a page shows, in the order of the keys' UTF-8 bytes.
pub(crate) struct Page<'a, V> {
    pub(crate) objects: Vec<(&'a str, &'a V)>,
    pub(crate) common_prefixes: Vec<&'a str>,
    /// Where the next page begins; none after the last one.
    pub(crate) next: Option<After>,
}

/// Collects one page of `all`. Looks at the page's own keys only, unless a delimiter hides many.
pub(crate) fn page<'a, V>(all: &'a BTreeMap<String, V>, query: &ListQuery<'_>) -> Page<'a, V> {
    let mut page = Page {
        objects: Vec::new(),
        common_prefixes: Vec::new(),
        next: None,
    };
    let mut last = query.after.clone();
    for (key, value) in all.range::<str, _>((query.lower_bound(), Bound::Unbounded)) {
        if !key.starts_with(query.prefix) {
            break;
        }
        if let After::Prefix(prefix) = &last
            && key.starts_with(prefix.as_str())
        {
            continue;
        }
        if page.objects.len() + page.common_prefixes.len() == query.limit {
            page.next = (query.limit > 0).then_some(last);
            break;
        }
        match query.common_prefix(key) {
            Some(prefix) => {
                page.common_prefixes.push(prefix);
                last = After::Prefix(prefix.to_string());
            }
            None => {
                page.objects.push((key, value));
                last = After::Key(key.clone());
            }
        }
    }
    page
}

impl ListQuery<'_> {
    fn lower_bound(&self) -> Bound<&str> {
        match &self.after {
            After::Key(after) | After::Prefix(after) if after.as_str() >= self.prefix => {
                Bound::Excluded(after)
            }
            _ => Bound::Included(self.prefix),
        }
    }

    /// `key` up to the first delimiter behind the prefix.
    fn common_prefix<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter?;
        let at = key[self.prefix.len()..].find(delimiter)?;
        Some(&key[..self.prefix.len() + at + delimiter.len()])
    }
}

impl After {
    /// A continuation token: opaque, and plain ASCII whatever the key holds.
    pub(crate) fn to_token(&self) -> String {
        let (kind, text) = match self {
            After::Nothing => ('n', ""),
            After::Key(key) => ('k', key.as_str()),
            After::Prefix(prefix) => ('p', prefix.as_str()),
        };
        let mut token = String::from(kind);
        for byte in text.bytes() {
            token.push_str(&format!("{byte:02x}"));
        }
        token
    }

    /// `None` for what is no token of this server.
    pub(crate) fn from_token(token: &str) -> Option<Self> {
        let (kind, hex) = token.split_at_checked(1)?;
        let pairs = hex.as_bytes().chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return None;
        }
        let mut bytes = Vec::new();
        for pair in pairs {
            let pair = std::str::from_utf8(pair).ok()?;
            bytes.push(u8::from_str_radix(pair, 16).ok()?);
        }
        let text = String::from_utf8(bytes).ok()?;
        match kind {
            "n" => Some(After::Nothing),
            "k" => Some(After::Key(text)),
            "p" => Some(After::Prefix(text)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every page of a listing: `limit` entries each, common prefixes and keys in one list.
    fn pages(keys: &[&str], prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<String> {
        let all: BTreeMap<String, ()> = keys.iter().map(|key| (key.to_string(), ())).collect();
        let mut shown = Vec::new();
        let mut after = After::Nothing;
        loop {
            let query = ListQuery {
                prefix,
                delimiter,
                after,
                limit,
            };
            let page = page(&all, &query);
            let mut entries: Vec<String> =
                page.objects.iter().map(|(k, ())| k.to_string()).collect();
            entries.extend(page.common_prefixes.iter().map(|p| p.to_string()));
            assert!(entries.len() <= limit);
            entries.sort();
            shown.extend(entries);
            match page.next {
                Some(next) => after = After::from_token(&next.to_token()).unwrap(),
                None => return shown,
            }
        }
    }

    const KEYS: [&str; 9] = [
        "a",
        "a/",
        "a//b",
        "a/../c",
        "a/é",
        "a/\u{10000}",
        "a/\u{ff5e}",
        "a b",
        "z%2Fz",
    ];

    #[test]
    fn keys_come_in_the_order_of_their_bytes_whatever_the_page_size() {
        let mut sorted = KEYS.map(String::from).to_vec();
        sorted.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for limit in 1..=10 {
            assert_eq!(pages(&KEYS, "", None, limit), sorted, "limit {limit}");
        }
    }

    #[test]
    fn a_delimiter_gathers_keys_once_even_across_pages() {
        for limit in 1..=6 {
            let shown = pages(&KEYS, "", Some("/"), limit);
            assert_eq!(shown, ["a", "a b", "a/", "z%2Fz"], "limit {limit}");
            let inside = pages(&KEYS, "a/", Some("/"), limit);
            let expected = ["a/", "a/../", "a//", "a/é", "a/\u{ff5e}", "a/\u{10000}"];
            assert_eq!(inside, expected, "limit {limit}");
        }
    }

    #[test]
    fn a_start_inside_a_common_prefix_still_shows_it() {
        let all: BTreeMap<String, ()> = KEYS.iter().map(|key| (key.to_string(), ())).collect();
        let query = ListQuery {
            prefix: "",
            delimiter: Some("/"),
            after: After::Key("a//b".to_string()),
            limit: 100,
        };
        let page = page(&all, &query);
        assert_eq!(page.common_prefixes, ["a/"]);
        assert_eq!(page.objects, [("z%2Fz", &())]);
    }

    #[test]
    fn a_start_before_or_behind_the_prefix_is_harmless() {
        let all: BTreeMap<String, ()> = KEYS.iter().map(|key| (key.to_string(), ())).collect();
        for (after, expected) in [("A", 1), ("zz", 0)] {
            let query = ListQuery {
                prefix: "z",
                delimiter: None,
                after: After::Key(after.to_string()),
                limit: 3,
            };
            let page = page(&all, &query);
            assert_eq!(page.objects.len(), expected, "after {after:?}");
        }
    }

    #[test]
    fn a_page_of_nothing_is_the_last_one() {
        let all = BTreeMap::from([("k".to_string(), ())]);
        let query = ListQuery {
            prefix: "",
            delimiter: None,
            after: After::Nothing,
            limit: 0,
        };
        assert_eq!(page(&all, &query).next, None);
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["", "k0", "kzz", "x61", "kff", "é"] {
            assert_eq!(After::from_token(token), None, "{token:?}");
        }
    }
}
