//! `mahp_tests::fuzz::repair::report` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mahp_tests::fuzz::repair::report(data));
