//! ALC packets (RFC 5775): LCT header, FEC Payload ID, encoding symbol.

use super::ParseError;
use super::ext::{ContentEncoding, ExtFdt};
use super::fti::Oti;
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

impl<'a> AlcPacket<'a> {
    /// Reads one datagram.
    ///
    /// # Errors
    /// The reason to count: truncated, bad version, bad header, bad FTI, unknown FEC (codepoints other than 0 and 6 have
    /// an unknown FEC Payload ID; TOI 0 too uses its codepoint).
    pub fn parse(datagram: &'a [u8]) -> Result<AlcPacket<'a>, ParseError> {
        let _ = datagram;
        todo!("helper wire")
    }
}

impl AlcRepr {
    /// Bytes that [`AlcRepr::emit`] appends.
    pub fn header_len(&self) -> usize {
        todo!("helper wire")
    }

    /// Appends LCT header, extensions and FEC Payload ID to `out`; the caller appends the symbol.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let _ = out;
        todo!("helper wire")
    }
}
