#![no_main]
//! See `maskmill_fuzz_checks::rle`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| maskmill_fuzz_checks::rle(data));
