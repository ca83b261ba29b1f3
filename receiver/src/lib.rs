//! `mahp-receiver`: rebuilds segments from multicast and serves unmodified players over HTTP.

pub mod library;
