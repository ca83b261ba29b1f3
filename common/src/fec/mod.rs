//! Forward error correction: partitioning (RFC 5052) and RaptorQ (RFC 6330) behind validation.

mod audit;
mod bitmap;
mod decode;
mod equations;
mod gf256;
pub mod partition;
mod plans;
pub mod raptorq;
mod solve;

pub(crate) use bitmap::Bitmap;
pub use decode::{DecodeJob, DecodeResult};
pub use partition::Blocks;
pub use raptorq::{EncodeJob, EncodeResult};
