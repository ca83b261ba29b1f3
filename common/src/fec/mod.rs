//! Forward error correction: partitioning (RFC 5052) and RaptorQ (RFC 6330) behind validation.

mod audit;
pub mod partition;
pub mod raptorq;

pub use partition::Blocks;
pub use raptorq::{DecodeJob, DecodeResult, EncodeJob, EncodeResult};
