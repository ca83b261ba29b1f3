//! `mahp-testbed`: see the library crate.
fn main() {}
