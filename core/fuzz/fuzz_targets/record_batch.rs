//! Fuzzes the record batches of a produce request.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::record_batch(bytes);
});
