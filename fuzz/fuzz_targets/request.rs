//! Fuzzes [`cellway_fuzz::targets::request`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cellway_fuzz::targets::request(bytes));
