#![no_main]
//! See `maskmill_fuzz_checks::image_table`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| maskmill_fuzz_checks::image_table(data));
