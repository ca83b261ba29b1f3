//! LCT header extensions (RFC 5651 section 5.2; RFC 6726 section 3.4): EXT_FTI, EXT_FDT, EXT_CENC, EXT_TIME, EXT_AUTH, EXT_NOP.

/// EXT_FDT (HET 192).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExtFdt {
    /// FLUTE version: 1 (RFC 3926, 3GPP, DVB) or 2 (RFC 6726).
    pub version: u8,
    /// FDT Instance ID, 20 bits.
    pub instance_id: u32,
}

/// EXT_CENC (HET 193): content encoding of an FDT Instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentEncoding {
    /// As it is.
    Null,
    /// RFC 1950.
    Zlib,
    /// RFC 1951.
    Deflate,
    /// RFC 1952.
    Gzip,
}
