//! The two clients of these tests: `object_store`, which signs, and a socket, which can ask for
//! anything.

#![allow(dead_code, reason = "each test file uses its share")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use maskmill_loopback_s3::LoopbackS3;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, RetryConfig};

/// The bucket of these tests.
pub(crate) const BUCKET: &str = "photos";

/// A server with one bucket, and one client of it that tries everything once.
pub(crate) fn server_and_client() -> (LoopbackS3, AmazonS3) {
    let server = LoopbackS3::start();
    server.create_bucket(BUCKET);
    let client = client(&server);
    (server, client)
}

/// A client that the server's environment leads to it.
pub(crate) fn client(server: &LoopbackS3) -> AmazonS3 {
    builder(server).build().expect("a complete configuration")
}

/// The same, for a test to change.
pub(crate) fn builder(server: &LoopbackS3) -> AmazonS3Builder {
    // There is no TLS here, but the HTTP client wants to be able to. Another test was first: fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let once = RetryConfig {
        max_retries: 0,
        retry_timeout: Duration::from_secs(30),
        backoff: BackoffConfig::default(),
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_retry(once);
    for (name, value) in server.environment() {
        let key = name.to_lowercase().parse().expect("a setting of S3");
        builder = builder.with_config(key, value);
    }
    builder
}

/// What came back over a socket.
#[derive(Debug)]
pub(crate) struct Raw {
    /// None if the connection was closed without a status line.
    pub(crate) status: Option<u16>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// All that came, be it less than announced.
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(candidate, _)| candidate == name)?;
        Some(&found.1)
    }

    /// The texts of all elements of this name, entities resolved.
    pub(crate) fn xml(&self, element: &str) -> Vec<String> {
        let xml = std::str::from_utf8(&self.body).expect("XML in UTF-8");
        let mut texts = Vec::new();
        for rest in xml.split(&format!("<{element}>")).skip(1) {
            let (text, _) = rest.split_once("</").expect("an end tag");
            let text = text
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&apos;", "'")
                .replace("&amp;", "&");
            texts.push(text);
        }
        texts
    }
}

/// Asks without a signature for exactly this path, on a connection of its own.
pub(crate) fn raw(server: &LoopbackS3, method: &str, path: &str, headers: &[(&str, &str)]) -> Raw {
    raw_with_body(server, method, path, headers, b"")
}

/// The same with a body.
pub(crate) fn raw_with_body(
    server: &LoopbackS3,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Raw {
    let endpoint = server.endpoint();
    let address = endpoint.strip_prefix("http://").expect("plain HTTP");
    let mut stream = TcpStream::connect(address).expect("a server");
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).expect("a request");
    stream.write_all(body).expect("its body");
    read_answer(stream)
}

fn read_answer(stream: TcpStream) -> Raw {
    let mut reader = BufReader::new(stream);
    let mut raw = Raw {
        status: None,
        headers: Vec::new(),
        body: Vec::new(),
    };
    let mut line = String::new();
    // A connection that is reset reads like one that ends: that is what these tests look at.
    let _ = reader.read_line(&mut line);
    raw.status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    loop {
        line.clear();
        let _ = reader.read_line(&mut line);
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        raw.headers.push((name.to_lowercase(), value.to_string()));
    }
    let _ = reader.read_to_end(&mut raw.body);
    raw
}
