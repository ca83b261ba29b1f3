//! The LCT header (RFC 5651 section 5.1).
