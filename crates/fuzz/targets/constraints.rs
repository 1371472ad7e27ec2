//! For `cargo fuzz`: see `scripts/fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gaffer_fuzz::constraints::check(input));
