//! `mahp-tests`.
