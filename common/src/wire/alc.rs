//! ALC packets (RFC 5775): LCT header, FEC Payload ID, encoding symbol.

use super::ParseError;
use super::ext::{self, ContentEncoding, ExtFdt, Extension, het};
use super::fti::{NO_CODE, Oti, RAPTORQ};
use super::lct::{LCT_REPR_LEN, LctHeader, LctRepr};
use crate::drop::DropReason;
use crate::ids::{Esi, Sbn, Toi, Tsi};

/// A received packet: a view; `payload` borrows the datagram. Unknown header extensions are skipped.
#[derive(Clone, Debug, PartialEq)]
pub struct AlcPacket<'a> {
    /// Transport session.
    pub tsi: Tsi,
    /// Object; a packet without TOI field reads as `None` (session control only).
    pub toi: Option<Toi>,
    /// Codepoint: the FEC Encoding ID in FLUTE.
    pub codepoint: u8,
    /// A flag: the sender ends the session.
    pub close_session: bool,
    /// B flag: the sender sends no more of this object.
    pub close_object: bool,
    /// EXT_FTI, where present.
    pub fti: Option<Oti>,
    /// EXT_FDT, where present.
    pub fdt: Option<ExtFdt>,
    /// EXT_CENC, where present.
    pub cenc: Option<ContentEncoding>,
    /// EXT_TIME sender current time, as 64-bit NTP, where present.
    pub sender_time: Option<u64>,
    /// FEC Payload ID; `None` when the packet ends after its header.
    pub payload_id: Option<PayloadId>,
    /// One encoding symbol (the last source symbol may be short with FEC Encoding ID 0).
    pub payload: &'a [u8],
}

/// SBN and ESI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PayloadId {
    /// Source Block Number.
    pub sbn: Sbn,
    /// Encoding Symbol ID.
    pub esi: Esi,
}

/// A packet to write: everything but the symbol. C = 0, CCI = 0, TSI and TOI of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlcRepr {
    /// Transport session, at most 32 bits.
    pub tsi: Tsi,
    /// Object, at most 32 bits.
    pub toi: Toi,
    /// FEC Encoding ID.
    pub codepoint: u8,
    /// A flag.
    pub close_session: bool,
    /// B flag.
    pub close_object: bool,
    /// EXT_FTI.
    pub fti: Option<Oti>,
    /// EXT_FDT.
    pub fdt: Option<ExtFdt>,
    /// EXT_CENC.
    pub cenc: Option<ContentEncoding>,
    /// EXT_TIME, 64-bit NTP sender current time.
    pub sender_time: Option<u64>,
    /// SBN and ESI.
    pub payload_id: PayloadId,
}

/// Bytes of the FEC Payload ID of FEC Encoding IDs 0 and 6.
const PAYLOAD_ID_LEN: usize = 4;

impl PayloadId {
    /// Splits the FEC Payload ID off: SBN 16, ESI 16 bits with FEC Encoding ID 0 (RFC 5445 section 3.2.1), SBN 8,
    /// ESI 24 bits with 6 (RFC 6330 section 3.2).
    fn parse(codepoint: u8, bytes: &[u8]) -> Result<(Option<PayloadId>, &[u8]), ParseError> {
        if bytes.is_empty() {
            return Ok((None, bytes));
        }
        let esi_bits = match codepoint {
            NO_CODE => 16,
            RAPTORQ => 24,
            _ => return Err(ParseError::new(DropReason::UnknownFec, "codepoint")),
        };
        let truncated = ParseError::new(DropReason::Truncated, "FEC Payload ID");
        let (word, payload) = bytes.split_first_chunk::<PAYLOAD_ID_LEN>().ok_or(truncated)?;
        let word = u32::from_be_bytes(*word);
        let id = PayloadId { sbn: Sbn(word >> esi_bits), esi: Esi(word & ((1 << esi_bits) - 1)) };
        Ok((Some(id), payload))
    }

    fn emit(self, codepoint: u8, out: &mut Vec<u8>) {
        let esi_bits = if codepoint == RAPTORQ { 24 } else { 16 };
        debug_assert!(self.esi.0 >> esi_bits == 0 && self.sbn.0 >> (32 - esi_bits) == 0, "{self:?}");
        let word = self.sbn.0 << esi_bits | self.esi.0 & ((1 << esi_bits) - 1);
        out.extend_from_slice(&word.to_be_bytes());
    }
}

impl<'a> AlcPacket<'a> {
    /// Reads one datagram.
    ///
    /// The OTI of an EXT_FTI is read as it stands: [`crate::fec::Blocks::of`] checks it.
    ///
    /// # Errors
    /// The reason to count: truncated, bad version, bad header, bad FTI, unknown FEC (codepoints other than 0 and 6 have
    /// an unknown FEC Payload ID; TOI 0 too uses its codepoint). A header alone is read with any codepoint.
    pub fn parse(datagram: &'a [u8]) -> Result<AlcPacket<'a>, ParseError> {
        let (lct, rest) = LctHeader::parse(datagram)?;
        let (payload_id, payload) = PayloadId::parse(lct.codepoint, rest)?;
        let mut packet = AlcPacket {
            tsi: lct.tsi,
            toi: lct.toi,
            codepoint: lct.codepoint,
            close_session: lct.close_session,
            close_object: lct.close_object,
            fti: None,
            fdt: None,
            cenc: None,
            sender_time: None,
            payload_id,
            payload,
        };
        for extension in lct.extensions() {
            packet.take(extension?)?;
        }
        Ok(packet)
    }

    fn take(&mut self, extension: Extension<'_>) -> Result<(), ParseError> {
        match extension.het {
            het::FTI => self.fti = Oti::parse_ext(self.codepoint, extension.content)?,
            het::FDT => self.fdt = ExtFdt::parse(extension.content),
            het::CENC => self.cenc = Some(ContentEncoding::parse(extension.content)?),
            het::TIME => self.sender_time = ext::parse_time(extension.content),
            // EXT_NOP, EXT_AUTH and what we do not know.
            _ => {}
        }
        Ok(())
    }
}

impl AlcRepr {
    /// Bytes that [`AlcRepr::emit`] appends.
    pub fn header_len(&self) -> usize {
        LCT_REPR_LEN + self.extensions_len() + PAYLOAD_ID_LEN
    }

    fn extensions_len(&self) -> usize {
        let len = |present: bool, len: usize| if present { len } else { 0 };
        len(self.fdt.is_some(), ext::WORD)
            + len(self.cenc.is_some(), ext::WORD)
            + len(self.sender_time.is_some(), ext::TIME_LEN)
            + len(self.fti.is_some(), ext::FTI_LEN)
    }

    /// Appends LCT header, extensions and FEC Payload ID to `out`; the caller appends the symbol.
    pub fn emit(&self, out: &mut Vec<u8>) {
        debug_assert!(self.fti.is_none_or(|oti| oti.scheme.encoding_id() == self.codepoint));
        let lct = LctRepr {
            tsi: self.tsi,
            toi: self.toi,
            close_session: self.close_session,
            close_object: self.close_object,
            codepoint: self.codepoint,
            extensions_len: self.extensions_len(),
        };
        lct.emit(out);
        if let Some(fdt) = self.fdt {
            fdt.emit(out);
        }
        if let Some(cenc) = self.cenc {
            cenc.emit(out);
        }
        if let Some(ntp) = self.sender_time {
            ext::emit_time(ntp, out);
        }
        if let Some(oti) = self.fti {
            oti.emit_ext(out);
        }
        self.payload_id.emit(self.codepoint, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fti::FecScheme;
    use super::*;
    use proptest::prelude::*;

    fn any_oti() -> impl Strategy<Value = Oti> {
        let no_code = (0..1u64 << 48, any::<u16>(), any::<u32>()).prop_map(|(f, t, b)| Oti {
            transfer_length: f,
            symbol_size: t,
            scheme: FecScheme::NoCode { max_source_block_length: b },
        });
        let raptorq =
            (0..1u64 << 40, any::<u16>(), any::<(u8, u16, u8)>()).prop_map(|(f, t, (z, n, al))| Oti {
                transfer_length: f,
                symbol_size: t,
                scheme: FecScheme::RaptorQ { source_blocks: z, sub_blocks: n, alignment: al },
            });
        prop_oneof![no_code, raptorq]
    }

    fn any_cenc() -> impl Strategy<Value = ContentEncoding> {
        use ContentEncoding::{Deflate, Gzip, Null, Zlib};
        prop::sample::select(vec![Null, Zlib, Deflate, Gzip])
    }

    prop_compose! {
        fn any_repr()(
            (tsi, toi, close_session, close_object) in any::<(u32, u32, bool, bool)>(),
            (oti, with_fti) in (any_oti(), any::<bool>()),
            fdt in prop::option::of((0u8..16, 0u32..1 << 20)),
            cenc in prop::option::of(any_cenc()),
            sender_time: Option<u64>,
            id: u32,
        ) -> AlcRepr {
            let codepoint = oti.scheme.encoding_id();
            let esi_bits = if codepoint == RAPTORQ { 24 } else { 16 };
            AlcRepr {
                tsi: Tsi(tsi.into()),
                toi: Toi(toi.into()),
                codepoint,
                close_session,
                close_object,
                fti: with_fti.then_some(oti),
                fdt: fdt.map(|(version, instance_id)| ExtFdt { version, instance_id }),
                cenc,
                sender_time,
                payload_id: PayloadId { sbn: Sbn(id >> esi_bits), esi: Esi(id & ((1 << esi_bits) - 1)) },
            }
        }
    }

    fn as_packet(repr: &AlcRepr, payload: &'static [u8]) -> AlcPacket<'static> {
        AlcPacket {
            tsi: repr.tsi,
            toi: Some(repr.toi),
            codepoint: repr.codepoint,
            close_session: repr.close_session,
            close_object: repr.close_object,
            fti: repr.fti,
            fdt: repr.fdt,
            cenc: repr.cenc,
            sender_time: repr.sender_time,
            payload_id: Some(repr.payload_id),
            payload,
        }
    }

    proptest! {
        #[test]
        fn parse_of_emit_is_identity(repr in any_repr()) {
            let mut bytes = Vec::new();
            repr.emit(&mut bytes);
            prop_assert_eq!(bytes.len(), repr.header_len());
            bytes.extend_from_slice(b"symbol");
            prop_assert_eq!(AlcPacket::parse(&bytes).unwrap(), as_packet(&repr, b"symbol"));
        }

        #[test]
        fn every_truncation_within_the_header_is_refused_or_header_only(repr in any_repr()) {
            let mut bytes = Vec::new();
            repr.emit(&mut bytes);
            for cut in 0..bytes.len() {
                match AlcPacket::parse(&bytes[..cut]) {
                    Ok(packet) => prop_assert_eq!((cut, packet.payload_id), (bytes.len() - PAYLOAD_ID_LEN, None)),
                    Err(error) => prop_assert_eq!(error.reason, DropReason::Truncated),
                }
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>, repr in any_repr(), at: prop::sample::Index, value: u8) {
            let _ = AlcPacket::parse(&bytes);
            let mut mutated = Vec::new();
            repr.emit(&mut mutated);
            let at = at.index(mutated.len());
            mutated[at] = value;
            let _ = AlcPacket::parse(&mutated);
        }
    }

    #[test]
    fn headers_are_20_bytes_and_36_with_fti() {
        let mut repr = AlcRepr {
            tsi: Tsi(1),
            toi: Toi(2),
            codepoint: RAPTORQ,
            close_session: false,
            close_object: false,
            fti: None,
            fdt: None,
            cenc: None,
            sender_time: None,
            payload_id: PayloadId { sbn: Sbn(0), esi: Esi(0) },
        };
        assert_eq!(repr.header_len(), 20);
        repr.fti = Some(Oti {
            transfer_length: 1,
            symbol_size: 1344,
            scheme: FecScheme::RaptorQ { source_blocks: 1, sub_blocks: 1, alignment: 8 },
        });
        assert_eq!(repr.header_len(), 36);
    }
}
