//! LCT header extensions (RFC 5651 section 5.2; RFC 6726 section 3.4): EXT_FTI, EXT_FDT, EXT_CENC, EXT_TIME are read,
//! EXT_NOP, EXT_AUTH and unknown ones skipped.

use super::ParseError;
use crate::drop::DropReason;
use crate::limits;

/// Header Extension Types.
pub mod het {
    /// No operation (RFC 5651).
    pub const NOP: u8 = 0;
    /// Packet authentication (RFC 5651).
    pub const AUTH: u8 = 1;
    /// Time (RFC 5651).
    pub const TIME: u8 = 2;
    /// FEC Object Transmission Information (RFC 5775).
    pub const FTI: u8 = 64;
    /// FDT Instance header (RFC 6726).
    pub const FDT: u8 = 192;
    /// Content encoding of an FDT Instance (RFC 6726).
    pub const CENC: u8 = 193;
}

/// First HET of the fixed-length range: one word, no HEL (RFC 5651 erratum 3843).
const FIXED_LENGTH: u8 = 128;

/// Bytes of EXT_FDT and of EXT_CENC as written.
pub(super) const WORD: usize = 4;
/// Bytes of EXT_TIME as written (sender current time, both halves).
pub(super) const TIME_LEN: usize = 12;
/// Bytes of EXT_FTI of both FEC Encoding IDs that we write.
pub(super) const FTI_LEN: usize = 16;

/// EXT_TIME flags: sender current time, upper and lower half.
const SCT_HIGH: u16 = 0x8000;
const SCT_LOW: u16 = 0x4000;

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

/// One header extension: a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Header Extension Type.
    pub het: u8,
    /// What follows HET and, below 128, HEL: 3 bytes from HET 128 on, else 2 bytes more than a multiple of 4.
    pub content: &'a [u8],
}

/// Walks the header extensions of one LCT header. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    rest: &'a [u8],
    seen: usize,
}

impl<'a> Extensions<'a> {
    /// Over the bytes between the TOI and the end of the header.
    pub(super) const fn new(bytes: &'a [u8]) -> Extensions<'a> {
        Extensions { rest: bytes, seen: 0 }
    }

    fn take_one(&mut self, het: u8) -> Result<Extension<'a>, ParseError> {
        self.seen += 1;
        if self.seen > limits::HEADER_EXTENSIONS {
            return Err(ParseError::new(DropReason::BadHeader, "number of header extensions"));
        }
        let bad = ParseError::new(DropReason::BadHeader, "HEL");
        let (words, skip) = match (het, self.rest.get(1)) {
            (FIXED_LENGTH.., _) => (1, 1),
            // 0 would make a reader loop for ever.
            (_, None | Some(0)) => return Err(bad),
            (_, Some(hel)) => (usize::from(*hel), 2),
        };
        let (one, rest) = self.rest.split_at_checked(words * WORD).ok_or(bad)?;
        self.rest = rest;
        Ok(Extension { het, content: one.get(skip..).ok_or(bad)? })
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let het = *self.rest.first()?;
        let item = self.take_one(het);
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

impl ExtFdt {
    /// Reads the content of EXT_FDT: V of 4 bits, FDT Instance ID of 20.
    pub(super) fn parse(content: &[u8]) -> Option<ExtFdt> {
        let &[a, b, c] = content.first_chunk::<3>()?;
        Some(ExtFdt { version: a >> 4, instance_id: u32::from_be_bytes([0, a & 0xf, b, c]) })
    }

    /// Appends EXT_FDT; of the Instance ID, 20 bits.
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        debug_assert!(self.version < 16 && self.instance_id < 1 << 20);
        let [_, a, b, c] = self.instance_id.to_be_bytes();
        out.extend_from_slice(&[het::FDT, self.version << 4 | a & 0xf, b, c]);
    }
}

impl ContentEncoding {
    /// Reads the content of EXT_CENC.
    pub(super) fn parse(content: &[u8]) -> Result<ContentEncoding, ParseError> {
        match content.first() {
            Some(0) => Ok(ContentEncoding::Null),
            Some(1) => Ok(ContentEncoding::Zlib),
            Some(2) => Ok(ContentEncoding::Deflate),
            Some(3) => Ok(ContentEncoding::Gzip),
            _ => Err(ParseError::new(DropReason::BadHeader, "EXT_CENC algorithm")),
        }
    }

    /// Appends EXT_CENC.
    pub(super) fn emit(self, out: &mut Vec<u8>) {
        let algorithm = match self {
            ContentEncoding::Null => 0,
            ContentEncoding::Zlib => 1,
            ContentEncoding::Deflate => 2,
            ContentEncoding::Gzip => 3,
        };
        out.extend_from_slice(&[het::CENC, algorithm, 0, 0]);
    }
}

/// Reads the sender current time out of EXT_TIME, as 64-bit NTP. An EXT_TIME without it, or too short for its own
/// flags, tells nothing: it is not worth a packet.
pub(super) fn parse_time(content: &[u8]) -> Option<u64> {
    let (flags, words) = content.split_first_chunk::<2>()?;
    let flags = u16::from_be_bytes(*flags);
    let (high, words) = words.split_first_chunk::<4>().filter(|_| flags & SCT_HIGH != 0)?;
    let low = if flags & SCT_LOW == 0 { &[0; 4] } else { words.first_chunk::<4>()? };
    Some(u64::from(u32::from_be_bytes(*high)) << 32 | u64::from(u32::from_be_bytes(*low)))
}

/// Appends EXT_TIME with both halves of the sender current time.
pub(super) fn emit_time(ntp: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[het::TIME, (TIME_LEN / WORD) as u8]);
    out.extend_from_slice(&(SCT_HIGH | SCT_LOW).to_be_bytes());
    out.extend_from_slice(&ntp.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> Result<Vec<(u8, usize)>, ParseError> {
        Extensions::new(bytes).map(|e| e.map(|e| (e.het, e.content.len()))).collect()
    }

    #[test]
    fn fixed_and_variable_lengths_are_told_apart_at_128() {
        let bytes = [[0, 1, 9, 9], [127, 2, 0, 0], [0, 0, 0, 0], [128, 0, 0, 0], [255, 0, 0, 0]].concat();
        assert_eq!(walk(&bytes), Ok(vec![(0, 2), (127, 6), (128, 3), (255, 3)]));
    }

    #[test]
    fn hel_0_hel_beyond_the_header_and_floods_are_refused() {
        for bytes in
            [vec![1, 0, 0, 0], vec![1, 2, 0, 0], [192, 0, 0, 1].repeat(limits::HEADER_EXTENSIONS + 1)]
        {
            assert_eq!(walk(&bytes).unwrap_err().reason, DropReason::BadHeader, "{bytes:?}");
        }
        assert!(walk(&[192, 0, 0, 1].repeat(limits::HEADER_EXTENSIONS)).is_ok());
        assert_eq!(Extensions::new(&[1, 0, 0, 0, 192, 0, 0, 0]).count(), 1, "nothing after an error");
    }

    #[test]
    fn sender_time_needs_its_upper_half() {
        let both = [0xc0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(parse_time(&both), Some(0x0102_0304_0506_0708));
        assert_eq!(parse_time(&[0x80, 0, 1, 2, 3, 4]), Some(0x0102_0304_0000_0000));
        assert_eq!(parse_time(&[0x20, 0, 1, 2, 3, 4]), None, "ERT only");
        assert_eq!(parse_time(&both[..6]), None, "shorter than its flags say");
    }
}
