//! `mahp_tests::fuzz::mpd_rewrite` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mahp_tests::fuzz::mpd_rewrite(data));
