//! Fuzzes [`cellway_fuzz::targets::proxy_protocol`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cellway_fuzz::targets::proxy_protocol(bytes));
