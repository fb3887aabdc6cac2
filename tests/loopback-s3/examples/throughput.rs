//! How fast a virtual object goes over loopback: GB/s for a plain socket that throws it away.
//!
//! `cargo run --release -p maskmill-loopback-s3 --example throughput`

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use maskmill_loopback_s3::{LoopbackS3, VirtualObject};

struct Zeros(Bytes);

impl VirtualObject for Zeros {
    fn len(&self) -> u64 {
        4 << 30
    }

    fn read(&self, range: Range<u64>) -> Vec<Bytes> {
        vec![self.0.slice(..(range.end - range.start) as usize)]
    }
}

fn main() {
    let server = LoopbackS3::start();
    server.create_bucket("shards");
    server.make_public("shards");
    let zeros = Zeros(Bytes::from(vec![0; 1 << 20]));
    server.put_virtual("shards", "4gib.tar", Arc::new(zeros));

    let endpoint = server.endpoint();
    let address = endpoint.strip_prefix("http://").expect("plain HTTP");
    let mut stream = TcpStream::connect(address).expect("a server");
    let request = "GET /shards/4gib.tar HTTP/1.1\r\nHost: loopback\r\nConnection: close\r\n\r\n";
    let start = Instant::now();
    stream.write_all(request.as_bytes()).expect("a request");
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0u64;
    loop {
        match stream.read(&mut buffer).expect("an answer") {
            0 => break,
            read => bytes += read as u64,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = bytes as f64 / 1e9 / seconds;
    println!("{bytes} bytes in {seconds:.2} s: {rate:.2} GB/s");
}
