//! Fetch and decode of a tar in a bucket, against decoding the same files from memory.
//!
//! ```text
//! cargo bench --bench streaming                    a tar of 4 GiB, three rounds
//! cargo bench --bench streaming -- --mib 512 --rounds 1 --photos 50
//! ```
//!
//! The tar lies in the loopback S3 and is never held whole: some hundred distinct JPEGs of 1 to 4
//! megapixels, repeated under names of their own. A round is: decode half of its files from memory,
//! `maskmill run --stop-after decode` over all of it, decode the other half; with as many threads, on the
//! same cores, which the server shares with the child. The ratio of CPU seconds, the server's included, says
//! the same of a machine that is busy with other things. Bars: 400 MiB resident, and a median of 0.9 of the
//! images/s from memory. Appends a line per round to `benches/results/streaming.jsonl`; fails if a bar is
//! missed.

mod support;

use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use image::GenericImageView;
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_loopback_s3::{LoopbackS3, VirtualObject};
use serde_json::json;

use support::{
    ClockTicks, Outcome, Watched, argument, jpeg, judge, maskmill, mosaic, record, watch,
    write_pipeline,
};

const BAR_MIB: f64 = 400.0;
const BAR_RATIO: f64 = 0.9;
const BLOCK: u64 = 512;

fn main() -> Outcome {
    let mib: u64 = argument("--mib", 4096)?;
    let rounds: usize = argument("--rounds", 3)?;
    let photos: usize = argument("--photos", 240)?;
    let threads = thread::available_parallelism()?.get();
    eprintln!("making {photos} JPEGs");
    let photos = make_photos(photos, threads)?;
    let tar = Arc::new(VirtualTar::new(photos, mib << 20)?);
    let images = tar.members.len();
    let jpeg_bytes = tar.bytes / images as u64;
    eprintln!("a tar of {images} JPEGs, {} KiB each", jpeg_bytes >> 10);

    let server = LoopbackS3::start();
    server.create_bucket("data");
    server.put_virtual("data", "photos.tar", tar.clone());
    let work = tempfile::tempdir()?;
    let source = "kind = \"webdataset\"\npath = \"s3://data/photos.tar\"";
    let pipeline = write_pipeline(work.path(), "streaming", source, "")?;

    let out = work.path().join("out");
    let mut ratios = Vec::new();
    let mut missed = Vec::new();
    for round in 0..rounds {
        let first = decode_from_memory(&tar, 0..images / 2, threads)?;
        let fetched = stream("fetch", "fetched", &pipeline, &out, &server, images)?;
        let streamed = stream("decode", "decoded", &pipeline, &out, &server, images)?;
        let second = decode_from_memory(&tar, images / 2..images, threads)?;

        let memory_seconds = first.seconds + second.seconds;
        let memory_cpu = first.cpu_seconds + second.cpu_seconds;
        let Streamed { child, server_cpu } = streamed;
        let ratio = memory_seconds / child.seconds;
        let cpu_ratio = memory_cpu / (child.cpu_seconds + server_cpu);
        let peak_mib = child.peak_mib();
        record(
            "streaming",
            json!({
                "round": round,
                "tar_bytes": tar.bytes,
                "images": images,
                "threads": threads,
                "memory_seconds": memory_seconds,
                "memory_cpu_seconds": memory_cpu,
                "fetch_seconds": fetched.child.seconds,
                "fetch_cpu_seconds": fetched.child.cpu_seconds,
                "stream_seconds": child.seconds,
                "stream_cpu_seconds": child.cpu_seconds,
                "server_cpu_seconds": server_cpu,
                "ratio": ratio,
                "bar_ratio": BAR_RATIO,
                "cpu_ratio": cpu_ratio,
                "peak_mib": peak_mib,
                "bar_mib": BAR_MIB,
                "high_water_mib_every_10_s": child.high_water_mib,
            }),
        )?;
        println!(
            "from memory {:.1} images/s ({memory_cpu:.1} s of CPU), streamed {:.1} images/s ({:.1} s of CPU \
             and {server_cpu:.1} s in the server): {ratio:.3}, by CPU {cpu_ratio:.3}; peak {peak_mib:.0} MiB; \
             fetched alone in {:.1} s ({:.1} s of CPU)",
            images as f64 / memory_seconds,
            images as f64 / child.seconds,
            child.cpu_seconds,
            fetched.child.seconds,
            fetched.child.cpu_seconds,
        );
        ratios.push(ratio);
        if peak_mib > BAR_MIB {
            missed.push(format!("{peak_mib:.0} MiB resident"));
        }
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("median ratio {median:.3}; the bars are {BAR_RATIO} and {BAR_MIB} MiB");
    if median < BAR_RATIO {
        missed.push(format!("ratio {median:.3}"));
    }
    judge(&missed)
}

struct Streamed {
    child: Watched,
    /// What this process used meanwhile.
    server_cpu: f64,
}

/// `maskmill run --stop-after STAGE`, which must get all images.
fn stream(
    stage: &str,
    done: &str,
    pipeline: &Path,
    out: &Path,
    server: &LoopbackS3,
    images: usize,
) -> Result<Streamed, Box<dyn Error>> {
    let cpu = ClockTicks::now()?.of_this_process;
    let mut command = maskmill("run", pipeline, out);
    command
        .args(["--stop-after", stage])
        .envs(server.environment());
    let child = watch(&mut command)?;
    let server_cpu = ClockTicks::now()?.of_this_process - cpu;
    let expected = format!("{images} images {done} (0 rejected)");
    match child.stdout.starts_with(&expected) {
        true => Ok(Streamed { child, server_cpu }),
        false => Err(format!("no {expected:?} in {:?}", child.stdout).into()),
    }
}

/// Distinct views of the sample photos, of 1 to 4 megapixels.
fn make_photos(count: usize, threads: usize) -> Result<Vec<Bytes>, Box<dyn Error>> {
    const SIDE: u32 = 3200;
    let mosaic = mosaic(SIDE, SIDE)?;
    let mut random = fastrand::Rng::with_seed(4);
    let mut views = Vec::new();
    for _ in 0..count {
        let (width, height) = (random.u32(1200..2400), random.u32(900..1700));
        let (x, y) = (random.u32(0..SIDE - width), random.u32(0..SIDE - height));
        views.push((x, y, width, height));
    }
    let mut photos = Vec::new();
    thread::scope(|scope| {
        let share = views.chunks(count.div_ceil(threads).max(1)).map(|views| {
            let mosaic = &mosaic;
            scope.spawn(move || {
                let encode = |&(x, y, width, height): &(u32, u32, u32, u32)| {
                    let view = mosaic.view(x, y, width, height).to_image();
                    jpeg(&view).map_err(|error| error.to_string())
                };
                views.iter().map(encode).collect::<Result<Vec<_>, _>>()
            })
        });
        let encoders: Vec<_> = share.collect();
        for encoder in encoders {
            photos.extend(encoder.join().map_err(|_| "an encoder panicked")??);
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(photos.into_iter().map(Bytes::from).collect())
}

struct Decoded {
    seconds: f64,
    cpu_seconds: f64,
}

/// What the pipeline's decoder makes of the same files, held in memory; members in their order.
fn decode_from_memory(
    tar: &VirtualTar,
    members: Range<usize>,
    threads: usize,
) -> Result<Decoded, Box<dyn Error>> {
    let limits = DecodeLimits::default();
    let next = AtomicUsize::new(members.start);
    let cpu = ClockTicks::now()?.of_this_process;
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= members.end {
                        return;
                    }
                    let photo = &tar.photos[tar.members[index].photo];
                    let decoded = decode(photo, &limits).expect("it has just been encoded");
                    std::hint::black_box(decoded);
                }
            });
        }
    });
    Ok(Decoded {
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: ClockTicks::now()?.of_this_process - cpu,
    })
}

/// A tar of which only the distinct photos and the headers are held.
struct VirtualTar {
    photos: Vec<Bytes>,
    members: Vec<Member>,
    bytes: u64,
}

struct Member {
    /// Where its header begins in the tar.
    start: u64,
    header: Bytes,
    photo: usize,
}

impl VirtualTar {
    /// As many members as `bytes` hold, at least one, then the two zero blocks at the end.
    fn new(photos: Vec<Bytes>, bytes: u64) -> Result<Self, Box<dyn Error>> {
        let mut members = Vec::new();
        let mut start = 0;
        while start < bytes - 2 * BLOCK {
            let photo = members.len() % photos.len();
            let size = photos[photo].len() as u64;
            let mut header = tar::Header::new_ustar();
            header.set_path(format!("photos/{:07}.jpg", members.len()))?;
            header.set_mode(0o644);
            header.set_size(size);
            header.set_cksum();
            let header = Bytes::copy_from_slice(header.as_bytes());
            members.push(Member {
                start,
                header,
                photo,
            });
            start += BLOCK + size.next_multiple_of(BLOCK);
        }
        Ok(Self {
            photos,
            members,
            bytes: start + 2 * BLOCK,
        })
    }
}

impl VirtualObject for VirtualTar {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read(&self, range: Range<u64>) -> Vec<Bytes> {
        // Padding, and the two blocks at the end.
        static ZEROS: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];
        let zeros = Bytes::from_static(&ZEROS);
        let mut pieces = Vec::new();
        let mut at = range.start;
        let mut next = self.members.partition_point(|member| member.start <= at);
        while at < range.end {
            // In a member, or behind the last: then in the zeros at the end, which begin where it ends.
            let member = &self.members[next - 1];
            let photo = &self.photos[member.photo];
            let end = self
                .members
                .get(next)
                .map_or(self.bytes, |member| member.start);
            let data = member.start + BLOCK;
            let padding = data + photo.len() as u64;
            let (part, part_start) = if at < data {
                (member.header.clone(), member.start)
            } else if at < padding {
                (photo.clone(), data)
            } else {
                (zeros.clone(), at)
            };
            let part_end = (part_start + part.len() as u64).min(end);
            let until = part_end.min(range.end);
            pieces.push(part.slice((at - part_start) as usize..(until - part_start) as usize));
            at = until;
            if at == end {
                next += 1;
            }
        }
        pieces
    }
}
