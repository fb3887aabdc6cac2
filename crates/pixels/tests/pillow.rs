//! The bilinear resize against Pillow 12: every byte of seeded noise, compared through digests.
//!
//! `generate_expected.py` wrote `pillow_resize.json`.

mod support;

use maskmill_pixels::resize_bilinear;
use serde_json::Value;

#[test]
fn every_byte_is_pillows() {
    let expected: Value = serde_json::from_str(include_str!("pillow_resize.json")).unwrap();
    assert!(expected["pillow"].as_str().unwrap().starts_with("12."));
    support::check_cases(&expected, "Pillow", 25, resize_bilinear);
}
