//! `mahp-sender`: see the library crate.
fn main() {}
