//! FEC Object Transmission Information (RFC 5052) and its EXT_FTI forms.

/// FEC Encoding IDs we send and decode (IANA `ietf:rmt:fec:encoding`).
pub const NO_CODE: u8 = 0;
/// RaptorQ, RFC 6330.
pub const RAPTORQ: u8 = 6;

/// The OTI of one object: how its bytes are cut into symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Oti {
    /// Transfer length F, bytes.
    pub transfer_length: u64,
    /// Encoding symbol length T, bytes.
    pub symbol_size: u16,
    /// Scheme and its parameters.
    pub scheme: FecScheme,
}

/// Scheme-specific part of the OTI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FecScheme {
    /// FEC Encoding ID 0, Compact No-Code (RFC 5445).
    NoCode {
        /// B, symbols.
        max_source_block_length: u32,
    },
    /// FEC Encoding ID 6 (RFC 6330 section 3.3).
    RaptorQ {
        /// Z, 1 to 255.
        source_blocks: u8,
        /// N; we send and accept only 1 (with N = 1 a source symbol is a slice of the object).
        sub_blocks: u16,
        /// Al.
        alignment: u8,
    },
}

impl FecScheme {
    /// The FEC Encoding ID, which FLUTE puts into the codepoint.
    pub const fn encoding_id(&self) -> u8 {
        match self {
            FecScheme::NoCode { .. } => NO_CODE,
            FecScheme::RaptorQ { .. } => RAPTORQ,
        }
    }
}
