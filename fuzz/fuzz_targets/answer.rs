//! Fuzzes [`cellway_fuzz::targets::answer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cellway_fuzz::targets::answer(bytes));
