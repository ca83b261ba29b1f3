//! Forward error correction: partitioning (RFC 5052) and RaptorQ (RFC 6330) behind validation.

mod audit;
mod bitmap;
mod decode;
pub mod partition;
pub mod raptorq;

pub(crate) use bitmap::Bitmap;
pub use decode::{DecodeJob, DecodeResult};
pub use partition::Blocks;
pub use raptorq::{EncodeJob, EncodeResult};
