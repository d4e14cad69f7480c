//! Fuzzes the reader of configuration files: whatever the text, it is taken or refused with a reason. The short run is
//! a test beside that reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = cellway_cli::check_config(text) {
        assert!(!error.to_string().is_empty());
    }
});
