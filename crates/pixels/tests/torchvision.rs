//! The bicubic resize against torchvision: every byte of seeded noise, compared through digests.
//!
//! `generate_expected_bicubic.py` wrote `torchvision_bicubic.json`.

mod support;

use maskmill_pixels::resize_bicubic;
use serde_json::Value;

#[test]
fn every_byte_is_torchvisions() {
    let expected: Value = serde_json::from_str(include_str!("torchvision_bicubic.json")).unwrap();
    assert!(
        expected["torchvision"]
            .as_str()
            .unwrap()
            .starts_with("0.29")
    );
    support::check_cases(&expected, "torchvision", 25, resize_bicubic);
}
