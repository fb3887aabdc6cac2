#![no_main]
//! See `maskmill_fuzz_checks::detections`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| maskmill_fuzz_checks::detections(data));
