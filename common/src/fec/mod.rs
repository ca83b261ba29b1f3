//! Forward error correction: partitioning (RFC 5052) and RaptorQ (RFC 6330) behind validation.

/// Repair symbols to make for one source block. Pure data: run it on any thread.
#[derive(Debug)]
pub struct EncodeJob {}

/// Repair symbols of one block.
#[derive(Debug)]
pub struct EncodeResult {}

/// A source block to solve. Pure data: run it on any thread.
#[derive(Debug)]
pub struct DecodeJob {}

/// A solved block, or not.
#[derive(Debug)]
pub struct DecodeResult {}

impl EncodeJob {
    /// Does the work.
    pub fn run(self) -> EncodeResult {
        todo!("engine")
    }
}

impl DecodeJob {
    /// Does the work.
    pub fn run(self) -> DecodeResult {
        todo!("engine")
    }
}
