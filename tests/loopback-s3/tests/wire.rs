//! Bytes on the wire: keys that clients would normalise, heads, objects larger than memory.

mod client;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use client::{BUCKET, raw, raw_with_body};
use maskmill_loopback_s3::{LoopbackS3, VirtualObject};

fn public() -> LoopbackS3 {
    let server = LoopbackS3::start();
    server.create_bucket(BUCKET);
    server.make_public(BUCKET);
    server
}

/// A key, and how it stands in a request's path.
const ODD: [(&str, &str); 11] = [
    ("a/../b", "a/../b"),
    ("../up", "../up"),
    ("..", ".."),
    ("a//b", "a//b"),
    ("/leading", "/leading"),
    ("trailing/", "trailing/"),
    ("a%2Fb", "a%252Fb"),
    ("a b+c", "a%20b+c"),
    ("<&>'\"", "%3C%26%3E'%22"),
    ("é\u{1F431}", "%C3%A9%F0%9F%90%B1"),
    ("./.", "%2E/%2E"),
];

#[test]
fn no_key_is_normalised() {
    let server = public();
    for (key, _) in ODD {
        server.put(BUCKET, key, key);
    }
    for (key, in_path) in ODD {
        let got = raw(&server, "GET", &format!("/photos/{in_path}"), &[]);
        assert_eq!(got.status, Some(200), "{key:?}");
        assert_eq!(got.body, key.as_bytes());
    }
    let seen: Vec<String> = server.requests().into_iter().map(|seen| seen.key).collect();
    assert_eq!(seen, ODD.map(|(key, _)| key.to_string()));
    let missing = raw(&server, "GET", "/photos/b", &[]);
    assert_eq!(missing.status, Some(404));
    assert_eq!(missing.xml("Code"), ["NoSuchKey"]);
}

#[test]
fn a_listing_shows_odd_keys_page_by_page_in_the_order_of_their_bytes() {
    let server = public();
    server.set_page_size(2);
    let mut expected = Vec::new();
    for (key, _) in ODD {
        server.put(BUCKET, key, key);
        expected.push(key.to_string());
    }
    expected.sort();
    let mut keys = Vec::new();
    let mut uri = "/photos?list-type=2&max-keys=1000".to_string();
    loop {
        let page = raw(&server, "GET", &uri, &[]);
        assert_eq!(page.status, Some(200));
        assert!(page.xml("Key").len() <= 2);
        keys.extend(page.xml("Key"));
        match &page.xml("NextContinuationToken")[..] {
            [token] => uri = format!("/photos?list-type=2&continuation-token={token}"),
            _ => break,
        }
    }
    assert_eq!(keys, expected);

    let encoded = raw(
        &server,
        "GET",
        "/photos?list-type=2&encoding-type=url&prefix=%3C",
        &[],
    );
    assert_eq!(encoded.xml("Key"), ["%3C%26%3E%27%22"]);
    assert_eq!(encoded.xml("Prefix"), ["%3C"]);
    let level = raw(
        &server,
        "GET",
        "/photos?list-type=2&delimiter=/&prefix=a/",
        &[],
    );
    assert_eq!(level.xml("Prefix"), ["a/", "a/../", "a//"]);
    let none = raw(
        &server,
        "GET",
        "/photos?list-type=2&continuation-token=mine",
        &[],
    );
    assert_eq!(none.status, Some(400));
}

#[test]
fn heads_say_what_bodies_are() {
    let server = public();
    server.put(BUCKET, "k", "0123456789");
    let whole = raw(&server, "GET", "/photos/k", &[]);
    assert_eq!(whole.header("content-length"), Some("10"));
    // MD5 of the ten digits.
    let etag = "\"781e5e245d69b566979b86e28d23f2c7\"";
    assert_eq!(whole.header("etag"), Some(etag));
    let part = raw(&server, "GET", "/photos/k", &[("Range", "bytes=7-99")]);
    assert_eq!(part.status, Some(206));
    assert_eq!(part.header("content-range"), Some("bytes 7-9/10"));
    assert_eq!(part.body, b"789");
    let beyond = raw(&server, "GET", "/photos/k", &[("Range", "bytes=10-")]);
    assert_eq!(beyond.status, Some(416));
    let head = raw(&server, "HEAD", "/photos/k", &[("If-Match", etag)]);
    assert_eq!(head.header("content-length"), Some("10"));
    assert_eq!((head.status, head.body), (Some(200), Vec::new()));
    let other = raw(&server, "HEAD", "/photos/k", &[("If-Match", "\"0\"")]);
    assert_eq!(other.status, Some(412));
    server.put(BUCKET, "empty", "");
    let empty = raw(&server, "GET", "/photos/empty", &[]);
    assert_eq!((empty.status, empty.body), (Some(200), Vec::new()));
}

#[test]
fn who_has_not_signed_may_read_public_buckets_and_nothing_else() {
    let server = public();
    server.create_bucket("secret");
    server.put("secret", "k", "x");
    for (method, path, status) in [
        ("GET", "/secret/k", 403),
        ("HEAD", "/secret", 403),
        ("GET", "/", 403),
        ("HEAD", "/photos", 200),
        ("PUT", "/photos/new", 403),
        ("PUT", "/other-bucket", 403),
        ("DELETE", "/photos/k", 403),
    ] {
        let got = raw_with_body(&server, method, path, &[], b"");
        assert_eq!(got.status, Some(status), "{method} {path}");
    }
    assert_eq!(server.keys(BUCKET, ""), [""; 0]);
}

/// Its byte at `i` is `i / 4096 % 256`, made from one buffer of 2 MiB.
struct Striped {
    stripes: Bytes,
    len: u64,
}

impl Striped {
    fn new(len: u64) -> Self {
        let stripes: Vec<u8> = (0..2 << 20).map(|i: u32| (i / 4096 % 256) as u8).collect();
        Striped {
            stripes: Bytes::from(stripes),
            len,
        }
    }
}

impl VirtualObject for Striped {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> Vec<Bytes> {
        assert!(range.end - range.start <= 1 << 20, "asked for {range:?}");
        let start = (range.start % (1 << 20)) as usize;
        let end = start + (range.end - range.start) as usize;
        vec![
            self.stripes.slice(start..start),
            self.stripes.slice(start..end),
        ]
    }
}

fn stripe(range: Range<u64>) -> Vec<u8> {
    range.map(|i| (i / 4096 % 256) as u8).collect()
}

#[test]
fn a_virtual_object_is_read_anywhere_and_never_held() {
    let server = public();
    let len = (4 << 30) + 12_345;
    server.put_virtual(BUCKET, "big.tar", Arc::new(Striped::new(len)));
    let head = raw(&server, "HEAD", "/photos/big.tar", &[]);
    assert_eq!(head.header("content-length"), Some("4294979641"));
    for range in [
        0..10,
        4095..5000,
        (3 << 30) - 7..(3 << 30) + 3_000_001,
        len - 9..len,
    ] {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let got = raw(&server, "GET", "/photos/big.tar", &[("Range", &header)]);
        assert_eq!(got.status, Some(206));
        assert!(got.body == stripe(range.clone()), "{range:?}");
    }
    let etag = head.header("etag");
    server.put_virtual(BUCKET, "big.tar", Arc::new(Striped::new(len)));
    let again = raw(&server, "HEAD", "/photos/big.tar", &[]);
    assert_ne!(again.header("etag"), etag);
}

#[test]
fn a_virtual_object_is_sent_whole() {
    let server = public();
    let len = 40_000_003;
    server.put_virtual(BUCKET, "some.tar", Arc::new(Striped::new(len)));
    let got = raw(&server, "GET", "/photos/some.tar", &[]);
    assert!(got.body == stripe(0..len));
}

/// Gives a byte too few.
struct Short;

impl VirtualObject for Short {
    fn len(&self) -> u64 {
        100
    }

    fn read(&self, range: Range<u64>) -> Vec<Bytes> {
        vec![Bytes::from(vec![0; (range.end - range.start) as usize - 1])]
    }
}

#[test]
fn a_virtual_object_that_gives_too_little_breaks_off() {
    let server = public();
    server.put_virtual(BUCKET, "short", Arc::new(Short));
    let got = raw(&server, "GET", "/photos/short", &[]);
    assert!(got.body.len() < 100, "{} bytes", got.body.len());
}
