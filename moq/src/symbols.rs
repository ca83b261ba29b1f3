//! The virtual track of a rendition whose objects are encoding symbols, made when somebody fetches them.
//!
//! Group = TOI of the object, object = FEC Payload ID of RFC 6330 (SBN in the upper 8 bits, ESI in the lower 24). So a
//! FETCH of a range of one group is "these symbols of this block", the bytes of an object never change, and nothing is
//! stored for it. Repair symbols are taken from the ESIs that belong to MoQ ([`FIRST_REPAIR`]): what multicast has sent
//! is never sent again. Whoever lacks `n` asks for the first `n` of them, so that requests for a block overlap and a
//! relay answers most of them by itself.

use crate::limits::SYMBOLS_PER_FETCH;
use crate::plane::Refusal;
use crate::wire::LocationRange;
use mahp_common::fec::raptorq::{ESI_MOQ_END, ESI_MULTICAST_END};
use mahp_common::{Esi, Sbn, Toi};

/// First repair symbol of every block that is asked for by MoQ.
pub const FIRST_REPAIR: Esi = Esi(ESI_MULTICAST_END);

/// Symbols of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolRange {
    /// The object.
    pub toi: Toi,
    /// The block.
    pub sbn: Sbn,
    /// The first symbol.
    pub first: Esi,
    /// How many; at least 1.
    pub count: u32,
}

impl SymbolRange {
    /// `count` repair symbols of a block from those that belong to MoQ, behind the first `skip` (asked for before).
    pub const fn repair(toi: Toi, sbn: Sbn, skip: u32, count: u32) -> SymbolRange {
        SymbolRange { toi, sbn, first: Esi(FIRST_REPAIR.0 + skip), count }
    }

    /// As FETCH writes it.
    pub fn to_range(self) -> LocationRange {
        let first = u64::from(self.sbn.0) << 24 | u64::from(self.first.0);
        // TOIs of MAHP have 32 bits.
        LocationRange::objects(self.toi.0 as u64, first, u64::from(self.count))
    }

    /// Reads the range of a FETCH; whole groups, several blocks, symbols of other ways and too many are refused.
    pub fn of(range: LocationRange) -> Result<SymbolRange, Refusal> {
        let (start, last) = (range.start, range.last());
        let group = u32::try_from(start.group);
        let (Ok(toi), true, false) = (group, start.group == last.group, range.is_empty()) else {
            return Err(Refusal::invalid_range("a range of symbols lies in one group"));
        };
        let behind_first = last.object - start.object;
        if behind_first >= SYMBOLS_PER_FETCH {
            return Err(Refusal::invalid_range("too many symbols at once"));
        }
        let count = behind_first + 1;
        let (sbn, first) = (start.object >> 24, start.object & 0xff_ffff);
        let (Ok(sbn), true) = (u8::try_from(sbn), first + count <= u64::from(ESI_MOQ_END)) else {
            return Err(Refusal::invalid_range("no such FEC Payload ID here"));
        };
        // Both fit: the ESI has 24 bits, and the count is below the bound.
        Ok(SymbolRange {
            toi: Toi(toi.into()),
            sbn: Sbn(sbn.into()),
            first: Esi(first as u32),
            count: count as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Location;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_are_no_symbols_are_refused() {
        let bad = [
            LocationRange::groups(3, 3),
            LocationRange::objects(1 << 32, 5, 1),
            LocationRange { start: Location::new(3, 9), end: Location::new(4, 2) },
            LocationRange { start: Location::new(3, 9), end: Location::new(3, 9) },
            LocationRange::objects(3, 0, SYMBOLS_PER_FETCH + 1),
            LocationRange::objects(3, (1 << 24) - 1, 2),
            LocationRange::objects(3, u64::from(ESI_MOQ_END), 1),
            LocationRange::objects(3, 1 << 32, 1),
            LocationRange { start: Location::new(0, 0), end: Location::new(u64::MAX, u64::MAX) },
        ];
        for range in bad {
            assert!(SymbolRange::of(range).is_err(), "{range:?}");
        }
    }

    proptest! {
        #[test]
        fn symbols_come_back(toi in any::<u32>(), sbn in 0..256u32, skip in 0..1000u32, count in 1..4000u32) {
            let symbols = SymbolRange::repair(Toi(toi.into()), Sbn(sbn), skip, count);
            prop_assert_eq!(SymbolRange::of(symbols.to_range()), Ok(symbols));
        }
    }
}
