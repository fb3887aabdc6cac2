//! TensorBoard's event files: scalars, one record for each row.
//!
//! A file is a run of records, each a TFRecord with a protocol buffer in it:
//!
//! ```text
//! u64 length | u32 masked CRC-32C of the length | payload | u32 masked CRC-32C of the payload      little-endian
//!
//! message Event   { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//! message Summary { repeated Value value = 1; }
//! message Value   { string tag = 1; float simple_value = 2; }
//! ```
//!
//! Written here in full, because that is all there is to scalars: crates for it build a code generator for protocol
//! buffers or an image library. Formats: tensorflow/core/lib/io/record_writer.cc, core/util/event.proto.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::MetricsError;

/// TensorBoard reads files with `tfevents` in their name.
pub(super) const FILE: &str = "events.out.tfevents.maskmill";
/// The first record's, without which TensorBoard takes a file for one of 2015.
const FILE_VERSION: &str = "brain.Event:2";

/// Numbers of fields, with the kind of value in the three bits below.
const WALL_TIME: u8 = 1 << 3 | FIXED_64;
const STEP: u8 = 2 << 3 | VARINT;
const VERSION: u8 = 3 << 3 | BYTES;
const SUMMARY: u8 = 5 << 3 | BYTES;
const SUMMARY_VALUE: u8 = 1 << 3 | BYTES;
const TAG: u8 = 1 << 3 | BYTES;
const SIMPLE_VALUE: u8 = 2 << 3 | FIXED_32;
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// An event file, open for appending.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Opens the event file in `folder`, or begins it, and cuts records of steps after `step` and a record that was not
    /// finished.
    pub(super) fn open(folder: &Path, step: u32) -> Result<Self, MetricsError> {
        let path = folder.join(FILE);
        let io = |source| MetricsError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(folder).map_err(io)?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
        };
        let mut kept = 0;
        for payload in Records(&bytes) {
            if step_of(payload) > u64::from(step) {
                break;
            }
            kept += record(payload).len();
        }
        // A record is longer than what a kill leaves of the first one.
        if kept == 0 && bytes.len() >= first_record(0.0).len() {
            return Err(MetricsError::OtherEvents { path });
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let mut file = file.map_err(io)?;
        file.set_len(kept as u64).map_err(io)?;
        if kept == 0 {
            file.write_all(&first_record(now())).map_err(io)?;
        }
        Ok(EventFile { path, file })
    }

    /// Appends the scalars of `step` by their tags, such as `train/loss`.
    pub(super) fn append(
        &mut self,
        step: u32,
        scalars: &[(String, f32)],
    ) -> Result<(), MetricsError> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut message = Vec::new();
            put_bytes(&mut message, TAG, tag.as_bytes());
            message.push(SIMPLE_VALUE);
            message.extend(value.to_le_bytes());
            put_bytes(&mut summary, SUMMARY_VALUE, &message);
        }
        let mut event = event_at(now());
        event.push(STEP);
        put_varint(&mut event, u64::from(step));
        put_bytes(&mut event, SUMMARY, &summary);
        let written = self.file.write_all(&record(&event));
        written.map_err(|source| MetricsError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn first_record(wall_time: f64) -> Vec<u8> {
    let mut event = event_at(wall_time);
    put_bytes(&mut event, VERSION, FILE_VERSION.as_bytes());
    record(&event)
}

/// The beginning of every event.
fn event_at(wall_time: f64) -> Vec<u8> {
    let mut event = vec![WALL_TIME];
    event.extend(wall_time.to_le_bytes());
    event
}

/// The step of an event written here, which stands behind the time; 0 of the first record, which has none.
fn step_of(event: &[u8]) -> u64 {
    let behind_time = 1 + size_of::<f64>();
    match event.get(behind_time..) {
        Some([STEP, varint @ ..]) => {
            let last = varint.iter().position(|byte| byte & 0x80 == 0);
            let bytes = varint.iter().take(last.map_or(0, |last| last + 1)).rev();
            bytes.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
        }
        _ => 0,
    }
}

fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field);
    put_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// The record of a payload.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(payload);
    record.extend(masked_crc(payload).to_le_bytes());
    record
}

/// CRC-32C, rotated and moved: the CRC of bytes that hold a CRC would be weak (`crc32c::Mask` of TensorFlow).
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// The payloads of a file's records, up to the first that is damaged or not finished.
pub(super) struct Records<'b>(pub(super) &'b [u8]);

impl<'b> Iterator for Records<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let (length, rest) = self.0.split_first_chunk::<8>()?;
        let (length_crc, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*length_crc) != masked_crc(length) {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        let (payload_crc, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*payload_crc) != masked_crc(payload) {
            return None;
        }
        self.0 = rest;
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_castagnolis_masked_as_tensorflow_does() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // As the reader of PyPI's tensorboard 2.21 has them.
        let mut expected = vec![4, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(0x0452_4542_u32.to_le_bytes());
        expected.extend(b"abcd");
        expected.extend(0xb6e6_1068_u32.to_le_bytes());
        assert_eq!(record(b"abcd"), expected);
    }

    #[test]
    fn varints_are_read_back_at_the_borders_of_their_bytes() {
        for step in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX)] {
            let mut event = event_at(1.5);
            event.push(STEP);
            put_varint(&mut event, step);
            assert_eq!(step_of(&event), step);
        }
        assert_eq!(step_of(&event_at(1.5)), 0);
        assert_eq!(step_of(&[]), 0);
    }

    #[test]
    fn a_record_with_any_byte_changed_is_not_read() {
        let whole = record(b"payload");
        assert_eq!(Records(&whole).collect::<Vec<_>>(), [b"payload"]);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Records(&damaged).count(), 0, "byte {at}");
            assert_eq!(Records(&whole[..at]).count(), 0, "cut at {at}");
        }
    }
}
