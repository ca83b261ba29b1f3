//! `mahp-sender`.
