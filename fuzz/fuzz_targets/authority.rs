//! Fuzzes [`cellway_fuzz::targets::authority`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cellway_fuzz::targets::authority(bytes));
