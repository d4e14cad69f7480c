//! Fuzzes [`cellway_fuzz::targets::snapshot`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cellway_fuzz::targets::snapshot(bytes));
