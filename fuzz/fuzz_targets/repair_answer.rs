//! `mahp_tests::fuzz::repair::answer` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mahp_tests::fuzz::repair::answer(data));
