//! Files that are not, or not wholly, images: each gives its error, none panics or takes memory for its claims.

use std::fs;
use std::path::{Path, PathBuf};

use maskmill_formats::decode::{DecodeError, DecodeLimits, Decoded, decode};
use proptest::prelude::*;

fn data_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn data(name: &str) -> Vec<u8> {
    fs::read(data_dir().join(name)).unwrap()
}

/// Every image file of `tests/data`, sorted by name.
fn all_data() -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<String> = fs::read_dir(data_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".json"))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| (name.clone(), data(&name)))
        .collect()
}

fn read(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    decode(bytes, &DecodeLimits::default())
}

fn reason(bytes: &[u8]) -> &'static str {
    read(bytes).unwrap_err().reason()
}

#[test]
fn empty_files_and_texts_are_not_images() {
    assert_eq!(reason(b""), "empty");
    let error = read(b"<html>404 not found</html>\n").unwrap_err();
    assert_eq!(error.reason(), "not_an_image");
    assert_eq!(
        error.to_string(),
        "not a JPEG, PNG, TIFF, BMP or WebP image: the file begins with \"<html>404 not fo\""
    );
    assert_eq!(reason(b"BMW 320i, 4 photos attached"), "not_an_image");
}

#[test]
fn other_image_formats_are_named() {
    for (head, name) in [
        (&b"GIF89a"[..], "GIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\xFF\x0A", "JPEG XL"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
    ] {
        let error = read(head).unwrap_err();
        assert_eq!(error.reason(), "unsupported");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// A prefix of an image is an error, or it lacks only what follows the pixels and gives the whole image.
#[test]
fn no_prefix_of_an_image_gives_a_partial_image() {
    for (name, bytes) in all_data() {
        let whole = read(&bytes).unwrap();
        for length in 0..bytes.len() {
            match read(&bytes[..length]) {
                Ok(decoded) => {
                    assert!(
                        !name.starts_with("jpeg"),
                        "{name} cut to {length} bytes was accepted"
                    );
                    assert!(
                        decoded.image == whole.image,
                        "{name} cut to {length} of {} bytes gives another image",
                        bytes.len()
                    );
                }
                Err(error) => {
                    let expected = ["empty", "not_an_image", "truncated", "corrupt"];
                    assert!(
                        expected.contains(&error.reason()),
                        "{name} cut to {length}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn files_cut_in_their_pixels_are_truncated() {
    for (name, bytes) in all_data() {
        // What compressed TIFF data lacks at its end shows as broken data.
        if !name.starts_with("tiff") {
            assert_eq!(
                reason(&bytes[..bytes.len() / 2 + 10]),
                "truncated",
                "{name}"
            );
        }
    }
}

#[test]
fn damaged_jpeg_data_is_no_image() {
    let mut bytes = data("jpeg_444.jpg");
    let middle = bytes.len() - 200;
    bytes[middle..middle + 2].copy_from_slice(&[0xFF, 0xD9]);
    assert_eq!(reason(&bytes), "truncated");

    let mut bytes = data("jpeg_restart.jpg");
    let restart = bytes
        .windows(2)
        .position(|pair| pair == [0xFF, 0xD1])
        .unwrap();
    bytes[restart + 1] = 0xD5;
    assert_eq!(reason(&bytes), "corrupt");
}

/// A PNG that says it is 100,000 x 100,000 pixels: 30 GB of RGB in 57 bytes.
fn huge_png() -> Vec<u8> {
    let mut bytes = data("png_1x1.png");
    bytes[16..24].copy_from_slice(&[0, 1, 0x86, 0xA0, 0, 1, 0x86, 0xA0]);
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn huge_headers_are_refused() {
    let error = read(&huge_png()).unwrap_err();
    assert_eq!(error.reason(), "too_large");
    assert_eq!(
        error.to_string(),
        "the PNG image is too large: the header says 100000 x 100000 pixels, sides of at most 65500 pixels are allowed"
    );

    // The limit on pixels, where that on sides is lifted: 10^10 pixels.
    let limits = DecodeLimits {
        max_side: 1_000_000,
        ..DecodeLimits::default()
    };
    assert_eq!(
        decode(&huge_png(), &limits).unwrap_err().to_string(),
        "the PNG image is too large: the header says 100000 x 100000 pixels, at most 100000000 pixels are allowed"
    );

    // JPEG's sides have 16 bits: 65,000 x 65,000.
    let mut jpeg = data("jpeg_444.jpg");
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFD, 0xE8, 0xFD, 0xE8]);
    assert_eq!(reason(&jpeg), "too_large");

    let mut bmp = data("bmp_rgb.bmp");
    for at in [18, 22] {
        bmp[at..at + 4].copy_from_slice(&60_000_u32.to_le_bytes());
    }
    assert_eq!(reason(&bmp), "too_large");
}

#[test]
fn limits_are_inclusive() {
    let bytes = data("png_rgb.png");
    let limits = |max_pixels, max_side| DecodeLimits {
        max_pixels,
        max_side,
    };
    assert!(decode(&bytes, &limits(45 * 31, 45)).is_ok());
    for limits in [limits(45 * 31 - 1, 45), limits(45 * 31, 44)] {
        assert_eq!(decode(&bytes, &limits).unwrap_err().reason(), "too_large");
    }
}

#[test]
fn malformed_exif_does_not_cost_the_image() {
    let mut bytes = data("jpeg_exif_6.jpg");
    let block = bytes
        .windows(6)
        .position(|bytes| bytes == b"Exif\0\0")
        .unwrap();
    bytes[block + 10..block + 14].fill(0xEE);
    let decoded = read(&bytes).unwrap();
    assert_eq!(decoded.exif_orientation, 1);
    assert_eq!(decoded.image, read(&data("jpeg_exif_1.jpg")).unwrap().image);
}

#[test]
fn the_format_is_told_from_the_bytes() {
    for (name, bytes) in all_data() {
        let format = read(&bytes).unwrap().format.as_str();
        assert_eq!(format, name.split('_').next().unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Files with bytes changed, removed or repeated, as hostile or damaged ones have: an image or an error.
    #[test]
    fn mutated_files_never_panic(
        file in 0_usize..1000,
        changes in proptest::collection::vec((0.0_f64..1.0, any::<u8>()), 1..8),
        cut in proptest::option::of(0.0_f64..1.0),
        repeat in any::<bool>(),
    ) {
        let files = all_data();
        let (_, mut bytes) = files[file % files.len()].clone();
        for (at, byte) in changes {
            // Squared: headers, at the front, decide more than pixels do.
            let at = (at * at * bytes.len() as f64) as usize;
            bytes[at] = byte;
            if repeat {
                bytes.insert(at, byte);
            }
        }
        if let Some(cut) = cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        let limits = DecodeLimits { max_pixels: 1_000_000, max_side: 10_000 };
        if let Ok(decoded) = decode(&bytes, &limits) {
            prop_assert!(decoded.image.size().pixels() <= limits.max_pixels);
            prop_assert!((1..=8).contains(&decoded.exif_orientation));
        }
    }
}
