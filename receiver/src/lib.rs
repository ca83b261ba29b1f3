//! `mahp-receiver`.
