//! `mahp_tests::fuzz::moq::catalog` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mahp_tests::fuzz::moq::catalog(data));
