//! Fuzzes a response frame, as our client gets it.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::response(bytes);
});
