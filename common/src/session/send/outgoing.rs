//! An object on its way out: first its source symbols, then its repair symbols.

use super::ObjectTag;
use crate::fec::{Blocks, EncodeResult};
use crate::ids::{Esi, Sbn, Toi, Tsi};
use crate::time::Time;
use crate::wire::alc::{AlcRepr, PayloadId};
use crate::wire::fti::{NO_CODE, Oti, RAPTORQ};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Objects of fewer symbols are not announced again half-way: start and end suffice. An object whose every instance is lost is
/// complete only when a later one lists it: where one packet in ten is lost, once in a hundred of these, once in a thousand larger ones.
const HALF_WAY_SYMBOLS: u64 = 8;

/// Source symbols of one object, in the order of the code's blocks: first symbol of each block, second of each, ….
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) tag: ObjectTag,
    pub(super) toi: Toi,
    fec: u8,
    /// How packets name symbols.
    blocks: Blocks,
    /// Which blocks a burst should spread over.
    code: Blocks,
    data: Bytes,
    /// Next: symbol `row` of block `column`.
    row: u32,
    column: u32,
    sent: u64,
    announced_half: bool,
}

impl Sending {
    pub(super) fn new(
        tag: ObjectTag,
        toi: Toi,
        fec: u8,
        blocks: Blocks,
        code: Blocks,
        data: Bytes,
    ) -> Sending {
        Sending { tag, toi, fec, blocks, code, data, row: 0, column: 0, sent: 0, announced_half: false }
    }

    pub(super) fn length(&self) -> u64 {
        self.data.len() as u64
    }

    pub(super) fn is_done(&self) -> bool {
        self.sent >= self.blocks.symbols()
    }

    /// True once, when half of a long object has left.
    pub(super) fn passes_half(&mut self) -> bool {
        let half = self.blocks.symbols() >= HALF_WAY_SYMBOLS && self.sent * 2 >= self.blocks.symbols();
        half && !std::mem::replace(&mut self.announced_half, true)
    }

    /// Appends up to `most` packets of one size (the last may be shorter). Returns their number and size.
    pub(super) fn write(&mut self, tsi: Tsi, close: bool, most: usize, buf: &mut Vec<u8>) -> (usize, usize) {
        let mut packets = 0;
        let mut segment_size = 0;
        while packets < most && !self.is_done() {
            let index = self.next_index();
            let last = self.sent + 1 == self.blocks.symbols();
            let before = buf.len();
            self.write_packet(tsi, close && last, index, buf);
            segment_size = segment_size.max(buf.len() - before);
            packets += 1;
            self.sent += 1;
            if self.is_short(index) {
                // Only the last packet of a batch may be shorter; where the short one comes first, it leaves alone.
                break;
            }
        }
        (packets, segment_size)
    }

    fn is_short(&self, index: u64) -> bool {
        self.fec == NO_CODE && self.blocks.symbol_bytes(index) < usize::from(self.blocks.symbol_size())
    }

    fn next_index(&mut self) -> u64 {
        loop {
            if self.column >= self.code.count() {
                self.column = 0;
                self.row += 1;
            }
            let sbn = Sbn(self.column);
            self.column += 1;
            if self.row < self.code.block_symbols(sbn) {
                return self.code.first_symbol(sbn) + u64::from(self.row);
            }
            // Blocks differ by one symbol at most: only the last row has gaps. An empty object never gets here.
        }
    }

    fn write_packet(&self, tsi: Tsi, close_object: bool, index: u64, buf: &mut Vec<u8>) {
        let repr = AlcRepr {
            tsi,
            toi: self.toi,
            codepoint: self.fec,
            close_session: false,
            close_object,
            fti: None,
            fdt: None,
            cenc: None,
            sender_time: None,
            payload_id: self.blocks.locate(index),
        };
        repr.emit(buf);
        let size = usize::from(self.blocks.symbol_size());
        let from = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(size);
        let to = (from + size).min(self.data.len());
        buf.extend_from_slice(self.data.get(from..to).unwrap_or_default());
        if self.fec != NO_CODE {
            // RaptorQ symbols are always T long; the object's end is padded (RFC 6330 section 4.4.2).
            buf.resize(buf.len() + size - (to - from), 0);
        }
    }
}

/// What repair symbols are sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// With the object, whose sending they end: driver's handle and length.
    Object { tag: ObjectTag, length: u64 },
    /// With the object, in the second layer.
    Layer2,
    /// Receivers asked for them.
    Requested,
}

/// Repair symbols of one object.
#[derive(Debug)]
pub(super) struct Repairing {
    /// Handle of its encode jobs.
    pub(super) id: u64,
    pub(super) purpose: Purpose,
    pub(super) toi: Toi,
    oti: Oti,
    waiting: u32,
    blocks: BTreeMap<u32, VecDeque<(Esi, Vec<u8>)>>,
    left: usize,
    /// Set when the source symbols have left.
    released: Option<Release>,
}

#[derive(Clone, Copy, Debug)]
struct Release {
    next_at: Time,
    spread: Duration,
    /// How many packets are left when spreading begins, and the time between them; known when all blocks are encoded.
    plan: Option<(usize, Duration)>,
}

impl Repairing {
    /// `blocks`: how many encode jobs there are.
    pub(super) fn new(id: u64, purpose: Purpose, toi: Toi, oti: Oti, blocks: u32) -> Repairing {
        Repairing { id, purpose, toi, oti, waiting: blocks, blocks: BTreeMap::new(), left: 0, released: None }
    }

    pub(super) fn add(&mut self, result: EncodeResult) {
        if self.waiting == 0 || self.blocks.contains_key(&result.sbn.0) {
            return;
        }
        self.waiting -= 1;
        self.left += result.repair.len();
        self.blocks.insert(result.sbn.0, result.repair.into());
    }

    pub(super) fn release(&mut self, now: Time, spread: Duration) {
        self.released = Some(Release { next_at: now, spread, plan: None });
    }

    /// When the next repair packet should leave; `None` while source symbols or encoders are not done, or nothing is left.
    pub(super) fn next_at(&self) -> Option<Time> {
        let ready = self.waiting == 0 && self.left > 0;
        self.released.filter(|_| ready).map(|r| r.next_at)
    }

    pub(super) fn is_done(&self) -> bool {
        self.released.is_some() && self.waiting == 0 && self.left == 0
    }

    /// Appends up to `most` packets, one block after the other in turn. Returns their number.
    pub(super) fn write(
        &mut self,
        tsi: Tsi,
        close: bool,
        most: usize,
        now: Time,
        buf: &mut Vec<u8>,
    ) -> usize {
        let mut packets = 0;
        while packets < most {
            let Some((sbn, esi, symbol)) = self.next_symbol() else { break };
            self.left -= 1;
            let repr = AlcRepr {
                tsi,
                toi: self.toi,
                codepoint: RAPTORQ,
                close_session: false,
                close_object: close && self.left == 0,
                fti: Some(self.oti),
                fdt: None,
                cenc: None,
                sender_time: None,
                payload_id: PayloadId { sbn, esi },
            };
            repr.emit(buf);
            buf.extend_from_slice(&symbol);
            packets += 1;
        }
        self.schedule(packets, now);
        packets
    }

    /// The symbol that stands furthest back in the block that has most left: blocks take turns.
    fn next_symbol(&mut self) -> Option<(Sbn, Esi, Vec<u8>)> {
        let most = self.blocks.values().map(VecDeque::len).max().filter(|n| *n > 0)?;
        let (sbn, symbols) = self.blocks.iter_mut().find(|(_, q)| q.len() == most)?;
        let (esi, symbol) = symbols.pop_front()?;
        Some((Sbn(*sbn), esi, symbol))
    }

    /// The first half at once: it mends most losses, and receivers wait for it. The rest is spread.
    fn schedule(&mut self, packets: usize, now: Time) {
        let left = self.left;
        if let Some(release) = &mut self.released {
            let half = (left + packets) / 2;
            let each = || release.spread / u32::try_from(half.max(1)).unwrap_or(u32::MAX);
            let (spread, each) = *release.plan.get_or_insert_with(|| (half, each()));
            let packets = packets.min(spread.saturating_sub(left));
            release.next_at = release.next_at.max(now) + each * u32::try_from(packets).unwrap_or(u32::MAX);
        }
    }
}
