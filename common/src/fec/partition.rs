//! Cutting an object into source blocks and symbols (RFC 5052 section 9.1, RFC 6330 section 4.4.1.2).
//!
//! With one sub-block (N = 1), symbol `i` of the object is bytes `i*T..(i+1)*T`, whatever the scheme. So a *symbol index*
//! counts symbols over the whole object, and each scheme only names it differently: FEC Encoding ID 0 by its own blocks,
//! RaptorQ by others. This identity is what lets a no-code source flow feed a RaptorQ decoder.

use crate::drop::DropReason;
use crate::ids::{Esi, Sbn};
use crate::limits;
use crate::wire::ParseError;
use crate::wire::alc::PayloadId;
use crate::wire::fti::{FecScheme, Oti};

/// Largest source block of the no-code flow: its ESI has 16 bits, and receivers that ignore the SBN need one block.
pub const NO_CODE_BLOCK_SYMBOLS: u32 = 65_535;

/// How an object is cut: the first `large_count` blocks have `large` symbols, the others `large - 1`
/// (Partition\[I, J\] of RFC 5052).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    transfer_length: u64,
    symbol_size: u16,
    symbols: u64,
    count: u32,
    large: u32,
    small: u32,
    large_count: u32,
}

impl Blocks {
    /// Cuts `transfer_length` bytes into symbols of `symbol_size` and those into `count` blocks of nearly equal size.
    fn partition(transfer_length: u64, symbol_size: u16, count: u32) -> Option<Blocks> {
        let symbols = transfer_length.div_ceil(u64::from(symbol_size));
        let count = u64::from(count).min(symbols).max(1);
        let large = u32::try_from(symbols.div_ceil(count)).ok()?;
        let small = u32::try_from(symbols / count).ok()?;
        let large_count = symbols - u64::from(small) * count;
        Some(Blocks {
            transfer_length,
            symbol_size,
            symbols,
            count: u32::try_from(count).ok()?,
            large,
            small,
            large_count: u32::try_from(large_count).ok()?,
        })
    }

    /// The cut that an OTI describes.
    ///
    /// # Errors
    /// `bad_oti` where the OTI is outside [`limits`] or impossible: these are the values that make a RaptorQ library panic,
    /// loop or allocate without bound, so nothing unvalidated gets past here.
    pub fn of(oti: &Oti, max_bytes: u64) -> Result<Blocks, ParseError> {
        let bad = |what| Err(ParseError::new(DropReason::BadOti, what));
        if !(limits::SYMBOL_SIZE_MIN..=limits::SYMBOL_SIZE_MAX).contains(&oti.symbol_size) {
            return bad("symbol size");
        }
        if oti.transfer_length > max_bytes {
            return bad("transfer length");
        }
        let symbols = oti.transfer_length.div_ceil(u64::from(oti.symbol_size));
        let count = match oti.scheme {
            FecScheme::NoCode { max_source_block_length: 0 } => return bad("max source block length"),
            FecScheme::NoCode { max_source_block_length: b } => {
                u32::try_from(symbols.div_ceil(u64::from(b))).unwrap_or(u32::MAX)
            }
            FecScheme::RaptorQ { source_blocks, sub_blocks, alignment } => {
                if sub_blocks != 1 {
                    return bad("sub-blocks");
                }
                if alignment == 0 || !oti.symbol_size.is_multiple_of(u16::from(alignment)) {
                    return bad("alignment");
                }
                // An empty object has no block to code, and a block without symbols cannot be coded.
                if source_blocks == 0 || symbols < u64::from(source_blocks) {
                    return bad("source blocks");
                }
                u32::from(source_blocks)
            }
        };
        let Some(blocks) = Blocks::partition(oti.transfer_length, oti.symbol_size, count) else {
            return bad("number of symbols");
        };
        let limit = match oti.scheme {
            FecScheme::NoCode { .. } => u32::MAX,
            FecScheme::RaptorQ { .. } => limits::SYMBOLS_PER_BLOCK,
        };
        if blocks.large > limit { bad("symbols in a block") } else { Ok(blocks) }
    }

    /// The cut for memory alone, where no FEC says otherwise: blocks of about [`limits::BLOCK_BYTES_TARGET`].
    pub fn for_storage(transfer_length: u64, symbol_size: u16) -> Option<Blocks> {
        let count = transfer_length.div_ceil(limits::BLOCK_BYTES_TARGET);
        Blocks::partition(transfer_length, symbol_size, u32::try_from(count).ok()?)
    }

    /// Number of source blocks, at least 1.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Symbols of the object.
    pub const fn symbols(&self) -> u64 {
        self.symbols
    }

    /// T, bytes.
    pub const fn symbol_size(&self) -> u16 {
        self.symbol_size
    }

    /// F, bytes.
    pub const fn transfer_length(&self) -> u64 {
        self.transfer_length
    }

    /// K of a block; 0 if there is no such block.
    pub const fn block_symbols(&self, sbn: Sbn) -> u32 {
        if sbn.0 >= self.count {
            0
        } else if sbn.0 < self.large_count {
            self.large
        } else {
            self.small
        }
    }

    /// Symbol index of a block's first symbol.
    pub const fn first_symbol(&self, sbn: Sbn) -> u64 {
        let large = if sbn.0 < self.large_count { sbn.0 } else { self.large_count };
        large as u64 * self.large as u64 + (sbn.0 - large) as u64 * self.small as u64
    }

    /// Byte offset of a block in the object.
    pub const fn block_offset(&self, sbn: Sbn) -> u64 {
        self.first_symbol(sbn) * self.symbol_size as u64
    }

    /// Bytes of a block, without the padding of the object's last symbol.
    pub fn block_bytes(&self, sbn: Sbn) -> u64 {
        let end = self.block_offset(sbn) + u64::from(self.block_symbols(sbn)) * u64::from(self.symbol_size);
        end.min(self.transfer_length) - self.block_offset(sbn).min(self.transfer_length)
    }

    /// Bytes of a source symbol, without padding.
    pub fn symbol_bytes(&self, index: u64) -> usize {
        let size = u64::from(self.symbol_size);
        let left = self.transfer_length.saturating_sub(index.saturating_mul(size));
        usize::try_from(left.min(size)).unwrap_or(usize::from(self.symbol_size))
    }

    /// Symbol index of a source symbol; `None` if SBN or ESI is outside the object (or it is a repair symbol).
    pub fn index(&self, id: PayloadId) -> Option<u64> {
        (id.esi.0 < self.block_symbols(id.sbn)).then(|| self.first_symbol(id.sbn) + u64::from(id.esi.0))
    }

    /// SBN and ESI of a symbol index below [`Blocks::symbols`].
    pub fn locate(&self, index: u64) -> PayloadId {
        let in_large = u64::from(self.large_count) * u64::from(self.large);
        let (first, size, at) = if index < in_large {
            (0, self.large, index)
        } else {
            (self.large_count, self.small, index - in_large)
        };
        let size = u64::from(size.max(1));
        // Both quotient and remainder are below count and large, which are u32.
        PayloadId { sbn: Sbn(first + (at / size) as u32), esi: Esi((at % size) as u32) }
    }
}

/// OTI of the source flow of profile `mabr`: FEC Encoding ID 0, one block wherever 16 bits of ESI suffice.
pub fn source_oti(transfer_length: u64, symbol_size: u16) -> Oti {
    Oti {
        transfer_length,
        symbol_size,
        scheme: FecScheme::NoCode { max_source_block_length: NO_CODE_BLOCK_SYMBOLS },
    }
}

/// OTI of RaptorQ: equal blocks of about [`limits::BLOCK_BYTES_TARGET`], N = 1, Al = 8. `None` for an empty object.
pub fn raptorq_oti(transfer_length: u64, symbol_size: u16) -> Option<Oti> {
    if transfer_length == 0 {
        return None;
    }
    let blocks =
        transfer_length.div_ceil(limits::BLOCK_BYTES_TARGET).clamp(1, u64::from(limits::SOURCE_BLOCKS));
    let blocks = blocks.min(transfer_length.div_ceil(u64::from(symbol_size)));
    Some(Oti {
        transfer_length,
        symbol_size,
        scheme: FecScheme::RaptorQ { source_blocks: u8::try_from(blocks).ok()?, sub_blocks: 1, alignment: 8 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc6330_example_shape() {
        // Kt = 11 symbols in Z = 4 blocks: Partition[11, 4] = (3, 2, 3, 1).
        let oti = Oti {
            transfer_length: 11 * 8 - 3,
            symbol_size: 8,
            scheme: FecScheme::RaptorQ { source_blocks: 4, sub_blocks: 1, alignment: 8 },
        };
        let b = Blocks::of(&oti, 1 << 20).expect("valid");
        let sizes: Vec<u32> = (0..5).map(|s| b.block_symbols(Sbn(s))).collect();
        assert_eq!(sizes, [3, 3, 3, 2, 0]);
        assert_eq!(b.block_bytes(Sbn(3)), 13);
        assert_eq!(b.symbol_bytes(10), 5);
    }

    #[test]
    fn impossible_oti_is_refused() {
        let rq = |f, t, z, n, al| Oti {
            transfer_length: f,
            symbol_size: t,
            scheme: FecScheme::RaptorQ { source_blocks: z, sub_blocks: n, alignment: al },
        };
        for bad in [
            rq(100, 0, 1, 1, 8),
            rq(4 << 30, 8, 1, 1, 8),
            rq(100, 8, 0, 1, 8),
            rq(100, 8, 1, 2, 8),
            rq(100, 12, 1, 1, 8),
            rq(100, 8, 1, 1, 0),
            rq(0, 8, 1, 1, 8),
            rq(8, 8, 2, 1, 8),
            rq(64 << 20, 8, 1, 1, 8), // 8 M symbols in one block
            rq(56_404 * 8, 8, 1, 1, 8),
            rq((1 << 40) - 1, 1344, 255, 1, 8),
            rq(100, limits::SYMBOL_SIZE_MIN - 1, 1, 1, 1),
            rq(100, limits::SYMBOL_SIZE_MAX + 8, 1, 1, 8),
            Oti {
                transfer_length: 1,
                symbol_size: 8,
                scheme: FecScheme::NoCode { max_source_block_length: 0 },
            },
        ] {
            let refused = Blocks::of(&bad, 64 << 20).map_err(|e| e.reason);
            assert_eq!(refused, Err(DropReason::BadOti), "{bad:?}");
        }
        for good in [rq(1, 1344, 1, 1, 8), rq(56_403 * 8, 8, 1, 1, 8), rq(64 << 20, 1344, 255, 1, 8)] {
            assert!(Blocks::of(&good, 64 << 20).is_ok(), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn locate_and_index_are_inverse(f in 1u64..50_000_000, t in 1u16..200, z in 1u8..=255) {
            let t = t * 8;
            let oti = Oti {
                transfer_length: f,
                symbol_size: t,
                scheme: FecScheme::RaptorQ { source_blocks: z, sub_blocks: 1, alignment: 8 },
            };
            if let Ok(b) = Blocks::of(&oti, 1 << 30) {
                let mut total = 0u64;
                let mut bytes = 0u64;
                for s in 0..b.count() {
                    prop_assert_eq!(b.first_symbol(Sbn(s)), total);
                    total += u64::from(b.block_symbols(Sbn(s)));
                    bytes += b.block_bytes(Sbn(s));
                }
                prop_assert_eq!(total, b.symbols());
                prop_assert_eq!(bytes, f);
                for i in [0, b.symbols() / 3, b.symbols() / 2, b.symbols() - 1] {
                    prop_assert_eq!(b.index(b.locate(i)), Some(i));
                }
            }
        }
    }
}
