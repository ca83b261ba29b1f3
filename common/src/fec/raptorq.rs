//! RaptorQ (RFC 6330) block by block: repair symbols, made as jobs that any thread may run.
//!
//! The `raptorq` crate panics or aborts on hostile values; what reaches it was validated by [`super::Blocks::of`] and by the
//! session (SBN, ESI, symbol length). Blocks are padded to K' before encoding, so that the crate's plan cache is keyed by one of
//! few K' (measured: half the time).

use super::Blocks;
use crate::ids::{Esi, Sbn, Toi};
use bytes::Bytes;
use raptorq::{
    ObjectTransmissionInformation, SourceBlockEncoder, SourceBlockEncodingPlan, extended_source_block_symbols,
};
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// ESIs of RaptorQ have 24 bits. They are shared out by the way on which repair symbols travel, so that what comes one way is
/// never what has come another: multicast has those below this.
pub const ESI_MULTICAST_END: u32 = 1 << 22;
/// Of these, the second repair layer has those from here on.
pub const ESI_LAYER_2: u32 = 1 << 21;
/// A MoQ publisher has those from [`ESI_MULTICAST_END`] on, below this.
pub const ESI_MOQ_END: u32 = 1 << 23;
/// The repair service has those from [`ESI_MOQ_END`] on, below this. The library counts from K' instead of K when it encodes,
/// and refuses what would be more than 24 bits then; K' - K is below 1024 for every K.
pub const ESI_END: u32 = (1 << 24) - (1 << 10);

/// Repair symbols to make for one source block.
#[derive(Clone, Debug)]
pub struct EncodeJob {
    /// Whoever asked tells jobs apart by it.
    pub id: u64,
    /// The object, for the session.
    pub toi: Toi,
    /// The block.
    pub sbn: Sbn,
    /// The block's bytes (the last symbol may be short).
    pub data: Bytes,
    /// K.
    pub symbols: u32,
    /// T.
    pub symbol_size: u16,
    /// First repair symbol: ESI = K + `first`.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Repair symbols of one block: ESI K + `first`, and so on.
#[derive(Clone, Debug)]
pub struct EncodeResult {
    /// That of the job.
    pub id: u64,
    /// The object.
    pub toi: Toi,
    /// The block.
    pub sbn: Sbn,
    /// ESI and symbol of T bytes. Empty if the encoder failed.
    pub repair: Vec<(Esi, Vec<u8>)>,
}

impl EncodeJob {
    /// `count` repair symbols from ESI `from` on of block `sbn` of `data`, an object cut into `blocks`. `None` where there is no
    /// such block, or `from` is a source symbol's or too large an ESI.
    pub fn of_object(
        toi: Toi,
        data: &Bytes,
        blocks: &Blocks,
        sbn: Sbn,
        from: Esi,
        count: u32,
    ) -> Option<EncodeJob> {
        let symbols = blocks.block_symbols(sbn);
        let end = from.0.checked_add(count)?;
        if sbn.0 >= blocks.count() || from.0 < symbols || end > ESI_END {
            return None;
        }
        let offset = usize::try_from(blocks.block_offset(sbn)).ok()?;
        let len = usize::try_from(blocks.block_bytes(sbn)).ok()?;
        let data = data.get(offset..offset + len).map(|b| data.slice_ref(b))?;
        let (symbol_size, first) = (blocks.symbol_size(), from.0 - symbols);
        Some(EncodeJob { id: 0, toi, sbn, data, symbols, symbol_size, first, count })
    }

    /// Makes the repair symbols.
    pub fn run(self) -> EncodeResult {
        let (id, toi, sbn) = (self.id, self.toi, self.sbn);
        // The crate asserts; a defect there must cost one block's repair, not the sender.
        let repair = catch_unwind(AssertUnwindSafe(|| self.encode())).unwrap_or_default();
        EncodeResult { id, toi, sbn, repair }
    }

    fn encode(&self) -> Vec<(Esi, Vec<u8>)> {
        let padded = padded_bytes(self.symbols, self.symbol_size);
        let mut block = Cow::Borrowed(&self.data[..]);
        if block.len() < padded {
            let mut longer = Vec::with_capacity(padded);
            longer.extend_from_slice(&block);
            longer.resize(padded, 0);
            block = Cow::Owned(longer);
        }
        let first = self.symbols + self.first;
        PaddedEncoder::new(&block, self.symbols, self.symbol_size)
            .encoder
            .repair_packets(self.first, self.count)
            .into_iter()
            .zip(first..)
            .map(|(packet, esi)| (Esi(esi), packet.split().1))
            .collect()
    }
}

/// K' for K `symbols`.
pub(super) fn padded_symbols(symbols: u32) -> u32 {
    extended_source_block_symbols(symbols)
}

/// Length of a block of K `symbols` that was padded to K' symbols.
pub(super) fn padded_bytes(symbols: u32, symbol_size: u16) -> usize {
    padded_symbols(symbols) as usize * usize::from(symbol_size)
}

/// Makes repair symbols of a block that was padded from K to K' symbols.
///
/// Repair symbol j of a block of K' symbols has the same internal symbol ID (K' + j) as that of the block of K symbols it
/// was padded from; only its ESI differs (RFC 6330 section 5.3.1).
pub(super) struct PaddedEncoder {
    encoder: SourceBlockEncoder,
    symbols: u32,
}

impl PaddedEncoder {
    /// `block`: [`padded_bytes`] of `symbols` and `symbol_size`.
    pub(super) fn new(block: &[u8], symbols: u32, symbol_size: u16) -> PaddedEncoder {
        PaddedEncoder { encoder: SourceBlockEncoder::new(0, &block_oti(symbol_size), block), symbols }
    }

    /// The same by a plan for its K', instead of the crate's own: it keeps 64 of them.
    pub(super) fn planned(
        block: &[u8],
        symbols: u32,
        symbol_size: u16,
        plan: &SourceBlockEncodingPlan,
    ) -> PaddedEncoder {
        let encoder = SourceBlockEncoder::with_encoding_plan(0, &block_oti(symbol_size), block, plan);
        PaddedEncoder { encoder, symbols }
    }

    /// The repair symbol of this ESI. `None` where it is a source symbol's.
    pub(super) fn repair(&self, esi: Esi) -> Option<Vec<u8>> {
        let packets = self.encoder.repair_packets(esi.0.checked_sub(self.symbols)?, 1);
        packets.into_iter().next().map(|packet| packet.split().1)
    }
}

/// The crate reads only T, N and Al of this when it works on single blocks.
pub(super) fn block_oti(symbol_size: u16) -> ObjectTransmissionInformation {
    ObjectTransmissionInformation::new(0, symbol_size, 1, 1, 8)
}

/// Repair symbols for a block of `symbols`, at `percent` repair symbols per hundred source symbols.
///
/// A plain share protects small blocks badly: at 15 %, a block of 23 symbols gets 4, and loses an object in a hundred at
/// 5 % loss. So every block gets at least what a loss of a third of the share needs at about 1 in 10^4 (mean + 3.7 sigma
/// plus 2 for the code itself), and, where that is few packets, what a burst of three more takes (measured on a satellite's 3 % in
/// bursts of three: one audio segment in fifty was lost without).
pub fn repair_symbols(symbols: u32, percent: u32) -> u32 {
    if percent == 0 || symbols == 0 {
        return 0;
    }
    let share = symbols.saturating_mul(percent).div_ceil(100);
    let lost = f64::from(symbols) * f64::from(percent) / 300.0;
    let floor = (lost + 3.7 * lost.sqrt() + 2.0).ceil();
    let burst = (symbols / 4).min(3);
    share.max(floor as u32 + burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(symbols: u32, size: u16, short_by: usize) -> Bytes {
        let mut rng = fastrand::Rng::with_seed(u64::from(symbols));
        let len = symbols as usize * usize::from(size) - short_by;
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect::<Vec<_>>().into()
    }

    fn encode(data: &Bytes, symbols: u32, size: u16, first: u32, count: u32) -> Vec<(Esi, Vec<u8>)> {
        let data = data.clone();
        EncodeJob { id: 0, toi: Toi(1), sbn: Sbn(0), data, symbols, symbol_size: size, first, count }
            .run()
            .repair
    }

    #[test]
    fn padding_to_k_prime_gives_the_repair_symbols_of_k() {
        for symbols in [1, 9, 11, 797] {
            let data = block(symbols, 64, 0);
            let direct = SourceBlockEncoder::new(0, &block_oti(64), &data).repair_packets(3, 5);
            let ours = encode(&data, symbols, 64, 3, 5);
            for (a, (esi, b)) in direct.iter().zip(&ours) {
                assert_eq!(a.payload_id().encoding_symbol_id(), esi.0, "K = {symbols}");
                assert_eq!(a.data(), b.as_slice(), "K = {symbols}");
            }
        }
    }

    #[test]
    fn the_last_symbols_of_every_block_can_be_made() {
        let widest =
            (1..=crate::limits::SYMBOLS_PER_BLOCK).map(|k| extended_source_block_symbols(k) - k).max();
        assert!(widest.is_some_and(|padding| padding <= (1 << 24) - ESI_END), "{widest:?}");
        for symbols in [1, 11, 797] {
            let made = encode(&block(symbols, 64, 0), symbols, 64, ESI_END - symbols - 1, 1);
            assert_eq!(made.first().map(|(esi, _)| *esi), Some(Esi(ESI_END - 1)), "K = {symbols}");
        }
    }

    #[test]
    fn small_blocks_get_more_than_their_share() {
        assert_eq!(repair_symbols(100, 0), 0);
        assert_eq!(repair_symbols(780, 15), 117);
        assert_eq!(repair_symbols(13, 15), 9);
        assert_eq!(repair_symbols(23, 15), 11);
        assert_eq!(repair_symbols(200, 15), 30);
        assert_eq!(repair_symbols(1, 15), 3);
    }
}
