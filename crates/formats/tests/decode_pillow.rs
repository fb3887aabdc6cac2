//! Decoding against Pillow: every byte of small files of every kind that is read.
//!
//! `generate_data.py` wrote the files and `expected.json`.

use std::fs;
use std::path::{Path, PathBuf};

use maskmill_formats::decode::{DecodeLimits, decode};
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// 64-bit FNV-1a, in hexadecimal.
fn fnv1a(bytes: &[u8]) -> String {
    let digest = bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |digest: u64, &byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
    format!("{digest:016x}")
}

#[test]
fn every_byte_is_pillows() {
    let expected: Value =
        serde_json::from_slice(&fs::read(data("expected.json")).unwrap()).unwrap();
    let files = expected["files"].as_array().unwrap();
    assert!(files.len() >= 40);
    let mut wrong = Vec::new();
    for file in files {
        let name = file["file"].as_str().unwrap();
        let decoded = match decode(&fs::read(data(name)).unwrap(), &DecodeLimits::default()) {
            Ok(decoded) => decoded,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let size = decoded.image.size();
        let found = (
            u64::from(size.height),
            u64::from(size.width),
            u64::from(decoded.exif_orientation),
            fnv1a(decoded.image.data()),
        );
        let number = |key: &str| file[key].as_u64().unwrap();
        let wanted = (
            number("height"),
            number("width"),
            number("exif_orientation"),
            file["fnv1a"].as_str().unwrap().to_owned(),
        );
        if found != wanted {
            wrong.push(format!("{name}: {found:?}, but Pillow says {wanted:?}"));
        }
        assert_eq!(
            decoded.format.as_str(),
            name.split('_').next().unwrap(),
            "{name}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
