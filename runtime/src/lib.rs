//! `mahp-runtime`.
