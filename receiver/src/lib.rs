//! `mahp-receiver`: rebuilds segments from multicast and serves unmodified players over HTTP.

pub mod doctor;
pub mod expect;
pub mod histogram;
pub mod http;
pub mod joins;
pub mod library;
pub mod origin;
pub mod served;
pub mod snapshot;
pub mod store;
#[cfg(test)]
mod testing;
pub mod urls;
