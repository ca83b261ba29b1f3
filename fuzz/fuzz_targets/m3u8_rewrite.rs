//! `mahp_tests::fuzz::m3u8_rewrite` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mahp_tests::fuzz::m3u8_rewrite(data));
