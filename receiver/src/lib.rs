//! `mahp-receiver`: rebuilds segments from multicast and serves unmodified players over HTTP.

pub mod doctor;
pub mod histogram;
pub mod library;
pub mod served;
pub mod snapshot;
