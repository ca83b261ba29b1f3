//! `mahp-testbed`.
