//! Objects that are complete and not what their description promised: some symbol is forged or damaged.
//!
//! Nothing that was received is thrown away: all blocks take symbols again, and each is searched for wrong ones
//! ([`crate::fec`]) as soon as it has more than it needs. Repair symbols that come after the source symbols are enough for
//! most; otherwise the object lacks a few symbols, like one that lost some, and gets them the same ways.

use super::{Assembly, Block, Collecting, Done, RUN_BINS, SOLVE_DELAY, SURPLUS_SYMBOLS};
use crate::ids::Sbn;
use crate::time::Time;

/// More symbols than needed with which the first search is worth while.
const FIRST_SURPLUS: u32 = 8;
/// Fewest: one equation names nothing.
pub(super) const LEAST_SURPLUS: u32 = 2;
/// Symbols asked for at a time.
const ASK: std::ops::RangeInclusive<u32> = 4..=64;
/// An object is doubted so often.
const DOUBTS: u32 = 4;
/// So many searches are made for each block of an object: each costs about as much as encoding the block twice.
const AUDITS: u32 = 8;

impl Assembly {
    /// Opens a complete object again. False: it is not worth while.
    pub(in super::super) fn doubt(&mut self, now: Time) -> bool {
        if !self.cut.raptorq || self.doubts >= DOUBTS || self.is_hopeless() {
            return false;
        }
        let first = self.doubts == 0;
        self.doubts += 1;
        (self.done, self.recovered, self.runs) = (0, 0, [0; RUN_BINS]);
        for block in &mut self.blocks {
            if let Block::Done(Done { bytes, have, repair }) = std::mem::replace(block, Block::Empty) {
                let tried_with = if first { 0 } else { have.count() + repair.len() as u32 };
                *block = Block::Collecting(Collecting::again(bytes.into(), have, repair, now, tried_with));
            }
        }
        true
    }

    /// Whether wrong symbols are among those that were received.
    pub(in super::super) const fn is_doubtful(&self) -> bool {
        self.doubts > 0
    }

    /// Whether enough has been tried: somebody sends more wrong symbols than true ones.
    pub(in super::super) fn is_hopeless(&self) -> bool {
        let storage = &self.cut.storage;
        let full = |(i, block): (u32, &Block)| {
            let most = (storage.block_symbols(Sbn(i)) + SURPLUS_SYMBOLS) as usize;
            matches!(block, Block::Collecting(c) if c.repair.len() >= most && c.tried_with >= c.symbols())
        };
        let searched = self.audits as usize >= AUDITS as usize * self.blocks.len();
        self.doubts > 0 && (searched || (0u32..).zip(&self.blocks).any(full))
    }
}

impl Collecting {
    /// Whether a search is worth while: with twice the surplus of the one before, or when nothing more comes.
    pub(super) fn may_be_audited(&self, need: u32, now: Time) -> bool {
        let held = self.symbols();
        let surplus = FIRST_SURPLUS.max(self.tried_with.saturating_sub(need) * 2);
        let quiet = self.solvable_since.is_some_and(|at| now >= at + SOLVE_DELAY);
        held >= need + LEAST_SURPLUS && held > self.tried_with && (quiet || held >= need + surplus)
    }
}

/// How many symbols more than are held a search needs.
pub(super) fn wanted(symbols: u32, held: u32, tried_with: u32) -> u32 {
    let more = tried_with.saturating_sub(symbols).clamp(*ASK.start(), *ASK.end());
    (symbols.max(tried_with) + more).saturating_sub(held).max(LEAST_SURPLUS)
}
