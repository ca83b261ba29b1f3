//! The LCT header (RFC 5651 section 5.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   V   | C |PSI|S| O |H|Res|A|B|   HDR_LEN     | Codepoint (CP)|
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | CCI, 32*(C+1) bits | TSI, 32*S+16*H bits | TOI, 32*O+16*H bits |
//! | header extensions up to HDR_LEN words                         |
//! ```

use super::ParseError;
use super::ext::Extensions;
use crate::drop::DropReason;
use crate::ids::{Toi, Tsi};

/// The version this header has since RFC 3451.
pub const LCT_VERSION: u8 = 1;

/// Bytes of the header we write, before extensions: C = 0, S = 1, O = 1, H = 0.
pub const LCT_REPR_LEN: usize = 16;

/// A received LCT header: a view, `extensions` borrows the datagram. Any legal C, S, O and H is read.
///
/// The reserved bits are ignored (RFC 5651 section 5.1); so is the congestion control information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LctHeader<'a> {
    /// Protocol-specific indication: 2 bits, ignored by FLUTE.
    pub psi: u8,
    /// Transport session; a header without TSI field reads as 0.
    pub tsi: Tsi,
    /// Object; `None` without TOI field.
    pub toi: Option<Toi>,
    /// A flag.
    pub close_session: bool,
    /// B flag.
    pub close_object: bool,
    /// Codepoint.
    pub codepoint: u8,
    extensions: &'a [u8],
}

impl<'a> LctHeader<'a> {
    /// Reads the header at the start of `datagram`; returns it with what follows.
    ///
    /// # Errors
    /// Truncated, a version other than 1, or an HDR_LEN smaller than the fields it has to cover.
    pub fn parse(datagram: &'a [u8]) -> Result<(LctHeader<'a>, &'a [u8]), ParseError> {
        let truncated = ParseError::new(DropReason::Truncated, "LCT header");
        let &[first, second, hdr_len, codepoint] = datagram.first_chunk::<4>().ok_or(truncated)?;
        if first >> 4 != LCT_VERSION {
            return Err(ParseError::new(DropReason::BadVersion, "LCT version"));
        }
        let half = usize::from(second >> 4 & 1) * 2;
        let cci_len = (usize::from(first >> 2 & 3) + 1) * 4;
        let tsi_len = usize::from(second >> 7) * 4 + half;
        let toi_len = usize::from(second >> 5 & 3) * 4 + half;
        let header = datagram.get(..usize::from(hdr_len) * 4).ok_or(truncated)?;
        let too_short = ParseError::new(DropReason::BadHeader, "HDR_LEN");
        let fields = header.get(4 + cci_len..).ok_or(too_short)?;
        let (tsi, fields) = fields.split_at_checked(tsi_len).ok_or(too_short)?;
        let (toi, extensions) = fields.split_at_checked(toi_len).ok_or(too_short)?;
        let lct = LctHeader {
            psi: first & 3,
            // At most 6 bytes: the cast cannot cut anything off.
            tsi: Tsi(big_endian(tsi) as u64),
            toi: (toi_len > 0).then(|| Toi(big_endian(toi))),
            close_session: second & 2 != 0,
            close_object: second & 1 != 0,
            codepoint,
            extensions,
        };
        Ok((lct, datagram.get(header.len()..).unwrap_or_default()))
    }

    /// The header extensions, in order.
    pub const fn extensions(&self) -> Extensions<'a> {
        Extensions::new(self.extensions)
    }
}

/// A most-significant-byte-first number of at most 16 bytes.
fn big_endian(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |n, b| n << 8 | u128::from(*b))
}

/// An LCT header to write: V = 1, C = 0, CCI = 0, PSI = 0, S = 1, O = 1, H = 0.
///
/// 32-bit TSI and TOI are what every receiver reads: some refuse C other than 0 or 48-bit fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LctRepr {
    /// Transport session; the lower 32 bits are written.
    pub tsi: Tsi,
    /// Object; the lower 32 bits are written.
    pub toi: Toi,
    /// A flag.
    pub close_session: bool,
    /// B flag.
    pub close_object: bool,
    /// Codepoint.
    pub codepoint: u8,
    /// Bytes of the header extensions that the caller appends: a multiple of 4, at most 1004.
    pub extensions_len: usize,
}

impl LctRepr {
    /// Appends the header, without its extensions, to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        debug_assert!(self.tsi.0 <= u64::from(u32::MAX) && self.toi.0 <= u128::from(u32::MAX));
        debug_assert!(self.extensions_len.is_multiple_of(4) && self.extensions_len <= 255 * 4 - LCT_REPR_LEN);
        let flags = 0b1010_0000 | u8::from(self.close_session) << 1 | u8::from(self.close_object);
        let words = ((LCT_REPR_LEN + self.extensions_len) / 4) as u8;
        out.extend_from_slice(&[LCT_VERSION << 4, flags, words, self.codepoint, 0, 0, 0, 0]);
        out.extend_from_slice(&(self.tsi.0 as u32).to_be_bytes());
        out.extend_from_slice(&(self.toi.0 as u32).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header of any legal shape: C, S, O, H as given, values cut to the width of their fields.
    fn any_shape(
        c: u8,
        s: u8,
        o: u8,
        h: u8,
        tsi: u64,
        toi: u128,
        ext: &[u8],
    ) -> (Vec<u8>, u64, Option<u128>) {
        let (tsi_len, toi_len) =
            (usize::from(s) * 4 + usize::from(h) * 2, usize::from(o) * 4 + usize::from(h) * 2);
        let words = 2 + usize::from(c) + (tsi_len + toi_len + ext.len()) / 4;
        let mut bytes = vec![0x10 | c << 2, s << 7 | o << 5 | h << 4, words as u8, 0];
        bytes.extend(std::iter::repeat_n(0xcc, usize::from(c) * 4 + 4));
        let (tsi, toi) = (tsi & ((1 << (8 * tsi_len)) - 1), toi & ((1 << (8 * toi_len)) - 1));
        bytes.extend_from_slice(&tsi.to_be_bytes()[8 - tsi_len..]);
        bytes.extend_from_slice(&toi.to_be_bytes()[16 - toi_len..]);
        bytes.extend_from_slice(ext);
        (bytes, tsi, (toi_len > 0).then_some(toi))
    }

    proptest! {
        #[test]
        fn what_we_write_reads_back(tsi: u32, toi: u32, codepoint: u8, close_session: bool, close_object: bool, tail: Vec<u8>) {
            let repr = LctRepr {
                tsi: Tsi(tsi.into()), toi: Toi(toi.into()), close_session, close_object, codepoint, extensions_len: 0,
            };
            let mut bytes = Vec::new();
            repr.emit(&mut bytes);
            prop_assert_eq!(bytes.len(), LCT_REPR_LEN);
            bytes.extend_from_slice(&tail);
            let (lct, rest) = LctHeader::parse(&bytes).unwrap();
            prop_assert_eq!((lct.tsi, lct.toi, lct.codepoint), (repr.tsi, Some(repr.toi), codepoint));
            prop_assert_eq!((lct.close_session, lct.close_object, lct.psi), (close_session, close_object, 0));
            prop_assert_eq!(rest, &tail[..]);
        }

        #[test]
        fn every_legal_shape_reads(c in 0u8..4, s in 0u8..2, o in 0u8..4, h in 0u8..2, tsi: u64, toi: u128, n in 0usize..5) {
            let ext = vec![0u8; n * 4];
            let (bytes, tsi, toi) = any_shape(c, s, o, h, tsi, toi, &ext);
            let (lct, rest) = LctHeader::parse(&bytes).unwrap();
            prop_assert_eq!((lct.tsi.0, lct.toi.map(|t| t.0)), (tsi, toi));
            prop_assert_eq!((lct.extensions.len(), rest.len()), (ext.len(), 0));
            for cut in 0..bytes.len() {
                let error = LctHeader::parse(&bytes[..cut]).unwrap_err();
                prop_assert_eq!(error.reason, DropReason::Truncated);
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = LctHeader::parse(&bytes);
        }
    }

    #[test]
    fn versions_other_than_1_and_short_hdr_len_are_refused() {
        let (mut bytes, ..) = any_shape(0, 1, 1, 0, 7, 9, &[]);
        bytes[0] = 0x20;
        assert_eq!(LctHeader::parse(&bytes).unwrap_err().reason, DropReason::BadVersion);
        bytes[0] = 0x10;
        for hdr_len in 0..4 {
            bytes[2] = hdr_len;
            assert_eq!(
                LctHeader::parse(&bytes).unwrap_err().reason,
                DropReason::BadHeader,
                "HDR_LEN {hdr_len}"
            );
        }
        bytes[2] = 5;
        assert_eq!(LctHeader::parse(&bytes).unwrap_err().reason, DropReason::Truncated);
    }
}
