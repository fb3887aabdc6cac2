//! What the tests against other libraries share: seeded noise, and cases whose expected bytes are digests.

use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;
use serde_json::Value;

/// Resizes each case's noise and compares every byte, through its digest, with what `library` made of it. Sizes in
/// `expected` are `[width, height]`, as Pillow gives them.
pub(crate) fn check_cases(
    expected: &Value,
    library: &str,
    at_least: usize,
    resize: fn(&RgbImage, ImageSize) -> RgbImage,
) {
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() >= at_least);
    for case in cases {
        let (source, target) = (size(&case["source"]), size(&case["target"]));
        let bytes = noise(
            case["seed"].as_u64().unwrap(),
            source.height as usize * source.width as usize * 3,
            case["extreme"].as_bool().unwrap(),
        );
        let resized = resize(&RgbImage::new(source, bytes).unwrap(), target);
        assert_eq!(resized.size(), target);
        assert_eq!(
            fnv1a(resized.data()),
            case["fnv1a"].as_str().unwrap(),
            "{source:?} to {target:?} differs from {library}"
        );
    }
}

/// Knuth's MMIX generator, top byte of each state; `extreme` leaves only 0 and 255.
fn noise(seed: u64, count: usize, extreme: bool) -> Vec<u8> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let byte = (state >> 56) as u8;
            match (extreme, byte >= 128) {
                (true, true) => 255,
                (true, false) => 0,
                (false, _) => byte,
            }
        })
        .collect()
}

/// 64-bit FNV-1a, in hexadecimal.
fn fnv1a(data: &[u8]) -> String {
    let digest = data
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |digest: u64, &byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
    format!("{digest:016x}")
}

fn size(width_height: &Value) -> ImageSize {
    let side = |i: usize| u32::try_from(width_height[i].as_u64().unwrap()).unwrap();
    ImageSize {
        height: side(1),
        width: side(0),
    }
}
