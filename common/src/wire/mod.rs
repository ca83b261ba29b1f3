//! Bytes of LCT (RFC 5651), ALC (RFC 5775) and FLUTE (RFC 3926, RFC 6726): views for reading, values for writing.

pub mod alc;
pub mod ext;
pub mod fdt;
pub mod fti;
pub mod lct;

#[cfg(test)]
mod golden;

use crate::drop::DropReason;

/// Why bytes are not what they should be. Maps to the [`DropReason`] that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason:?}: {what}")]
pub struct ParseError {
    /// The counter.
    pub reason: DropReason,
    /// The field, for people.
    pub what: &'static str,
}

impl ParseError {
    /// An error of this reason.
    pub const fn new(reason: DropReason, what: &'static str) -> ParseError {
        ParseError { reason, what }
    }
}
