//! `mahp-receiver`: see the library crate.
fn main() {}
