//! FEC Object Transmission Information (RFC 5052) and its forms: EXT_FTI, the 12 octets of RFC 6330, and the
//! Scheme-Specific-Info of an FDT Instance.

use super::ParseError;
use super::ext::{FTI_LEN, WORD, het};
use crate::drop::DropReason;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// FEC Encoding IDs we send and decode (IANA `ietf:rmt:fec:encoding`).
pub const NO_CODE: u8 = 0;
/// RaptorQ, RFC 6330.
pub const RAPTORQ: u8 = 6;

/// The OTI of one object: how its bytes are cut into symbols.
///
/// As read, it may say anything: [`crate::fec::Blocks::of`] is the way to use it, and checks it.
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

/// Reads a number of at most 8 bytes, most significant first.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

impl Oti {
    /// Reads the content of EXT_FTI (after HET and HEL) as FEC Encoding ID `encoding_id` lays it out; `None` for IDs that
    /// we do not read. Reserved bits and padding are ignored.
    pub(super) fn parse_ext(encoding_id: u8, content: &[u8]) -> Result<Option<Oti>, ParseError> {
        if !matches!(encoding_id, NO_CODE | RAPTORQ) {
            return Ok(None);
        }
        let bad = ParseError::new(DropReason::BadFti, "EXT_FTI length");
        let content: &[u8; FTI_LEN - 2] = content.try_into().map_err(|_| bad)?;
        if encoding_id == NO_CODE {
            return Ok(Some(Oti {
                transfer_length: big_endian(&content[..6]),
                symbol_size: u16::from_be_bytes([content[8], content[9]]),
                scheme: FecScheme::NoCode { max_source_block_length: big_endian(&content[10..]) as u32 },
            }));
        }
        content.first_chunk::<RAPTORQ_OTI_LEN>().map(|oti| Some(Oti::from_rfc6330(oti))).ok_or(bad)
    }

    /// Appends EXT_FTI, HEL = 4 for both schemes: the 14 bytes of FEC Encoding ID 6 are padded to a word boundary.
    pub(super) fn emit_ext(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[het::FTI, (FTI_LEN / WORD) as u8]);
        match self.scheme {
            FecScheme::NoCode { max_source_block_length } => {
                debug_assert!(self.transfer_length < 1 << 48);
                out.extend_from_slice(&self.transfer_length.to_be_bytes()[2..]);
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&self.symbol_size.to_be_bytes());
                out.extend_from_slice(&max_source_block_length.to_be_bytes());
            }
            FecScheme::RaptorQ { source_blocks, sub_blocks, alignment } => {
                out.extend_from_slice(&self.common_fec_octets());
                out.extend_from_slice(&raptorq_specific(source_blocks, sub_blocks, alignment));
                out.extend_from_slice(&[0, 0]);
            }
        }
    }

    /// RFC 6330 section 3.3.2: F of 40 bits, 8 reserved, T of 16.
    fn common_fec_octets(&self) -> [u8; 8] {
        debug_assert!(self.transfer_length < 1 << 40);
        (self.transfer_length << 24 | u64::from(self.symbol_size)).to_be_bytes()
    }

    fn from_rfc6330(octets: &[u8; RAPTORQ_OTI_LEN]) -> Oti {
        let [f0, f1, f2, f3, f4, _, t0, t1, source_blocks, n0, n1, alignment] = *octets;
        Oti {
            transfer_length: big_endian(&[f0, f1, f2, f3, f4]),
            symbol_size: u16::from_be_bytes([t0, t1]),
            scheme: FecScheme::RaptorQ { source_blocks, sub_blocks: u16::from_be_bytes([n0, n1]), alignment },
        }
    }

    /// Base64 of the 12 octets of RFC 6330 section 3.3 (Common and Scheme-Specific FEC OTI); `None` for other schemes.
    pub fn to_base64(&self) -> Option<String> {
        let FecScheme::RaptorQ { source_blocks, sub_blocks, alignment } = self.scheme else { return None };
        let specific = raptorq_specific(source_blocks, sub_blocks, alignment);
        Some(BASE64.encode([self.common_fec_octets().as_slice(), &specific].concat()))
    }

    /// Reads [`Oti::to_base64`]; `None` when it is not base64 of 12 octets.
    pub fn from_base64(s: &str) -> Option<Oti> {
        let octets: [u8; RAPTORQ_OTI_LEN] = BASE64.decode(s).ok()?.try_into().ok()?;
        Some(Oti::from_rfc6330(&octets))
    }
}

/// Octets of the OTI of RFC 6330 section 3.3: 8 common, 4 scheme-specific.
const RAPTORQ_OTI_LEN: usize = 12;

/// RFC 6330 section 3.3.3: Z of 8 bits, N of 16, Al of 8.
fn raptorq_specific(source_blocks: u8, sub_blocks: u16, alignment: u8) -> [u8; 4] {
    let [n0, n1] = sub_blocks.to_be_bytes();
    [source_blocks, n0, n1, alignment]
}

impl FecScheme {
    /// `FEC-OTI-Scheme-Specific-Info`: base64 of Z, N, Al; FEC Encoding ID 0 has none.
    pub fn specific_info(&self) -> Option<String> {
        match *self {
            FecScheme::NoCode { .. } => None,
            FecScheme::RaptorQ { source_blocks, sub_blocks, alignment } => {
                Some(BASE64.encode(raptorq_specific(source_blocks, sub_blocks, alignment)))
            }
        }
    }

    /// Reads `FEC-OTI-Scheme-Specific-Info` of FEC Encoding ID 6.
    pub fn from_specific_info(s: &str) -> Option<FecScheme> {
        let [source_blocks, n0, n1, alignment]: [u8; 4] = BASE64.decode(s).ok()?.try_into().ok()?;
        let sub_blocks = u16::from_be_bytes([n0, n1]);
        Some(FecScheme::RaptorQ { source_blocks, sub_blocks, alignment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raptorq(f: u64, t: u16, z: u8, n: u16, al: u8) -> Oti {
        let scheme = FecScheme::RaptorQ { source_blocks: z, sub_blocks: n, alignment: al };
        Oti { transfer_length: f, symbol_size: t, scheme }
    }

    fn no_code(f: u64, t: u16, b: u32) -> Oti {
        let scheme = FecScheme::NoCode { max_source_block_length: b };
        Oti { transfer_length: f, symbol_size: t, scheme }
    }

    proptest! {
        #[test]
        fn base64_reads_back(f in 0..1u64 << 40, t: u16, z: u8, n: u16, al: u8) {
            let oti = raptorq(f, t, z, n, al);
            prop_assert_eq!(Oti::from_base64(&oti.to_base64().unwrap()), Some(oti));
            prop_assert_eq!(FecScheme::from_specific_info(&oti.scheme.specific_info().unwrap()), Some(oti.scheme));
        }
    }

    #[test]
    fn ext_fti_bytes_of_both_schemes() {
        let mut out = Vec::new();
        no_code(0x0102_0304_0506, 0x0708, 0x090a_0b0c).emit_ext(&mut out);
        assert_eq!(out, [64, 4, 1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12]);
        out.clear();
        raptorq(0x01_0203_0405, 0x0607, 8, 0x090a, 11).emit_ext(&mut out);
        assert_eq!(out, [64, 4, 1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10, 11, 0, 0]);
    }

    #[test]
    fn ext_fti_of_another_length_is_refused_and_of_another_scheme_skipped() {
        for id in [NO_CODE, RAPTORQ] {
            for len in [0, 2, 6, 10, 18] {
                assert_eq!(Oti::parse_ext(id, &vec![0; len]).unwrap_err().reason, DropReason::BadFti);
            }
        }
        assert_eq!(Oti::parse_ext(5, &[0; 10]), Ok(None));
    }

    #[test]
    fn base64_of_the_wrong_length_or_scheme_is_none() {
        assert_eq!(Oti::from_base64("AAAA"), None);
        assert_eq!(Oti::from_base64("no base64"), None);
        assert_eq!(FecScheme::from_specific_info("AQABCAA="), None);
        assert_eq!(no_code(1, 8, 1).to_base64(), None);
    }
}
