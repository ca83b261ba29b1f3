//! One object coming together from symbols of any flow, in any order, block by block.
//!
//! A source symbol is copied once, to its place in its block's buffer; a RaptorQ decoder exists only for a block that lost
//! something, and only while it runs. Buffers are made when a block's first symbol arrives, so an OTI that promises much
//! costs nothing until symbols come.

mod doubt;

use super::path::{BlockLack, ByPath, Path};
use crate::drop::DropReason;
use crate::fec::raptorq::ESI_END;
use crate::fec::{Bitmap, Blocks, DecodeJob, DecodeResult};
use crate::ids::{Esi, Sbn};
use crate::object::{ObjectMeta, Payload};
use crate::repair::report::{RUN_BINS, run_bin};
use crate::time::Time;
use crate::wire::alc::PayloadId;
use crate::wire::fti::{FecScheme, NO_CODE, Oti};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// A block with K + this many symbols is solved at once: the decoder's fast path needs about H more than K.
const SURPLUS_SYMBOLS: u32 = 14;
/// A block with K symbols but less than the surplus is solved when nothing came for this long.
pub(super) const SOLVE_DELAY: Duration = Duration::from_millis(20);

/// What a repair symbol takes besides its bytes: memory of its own, a place in a list that grows by doubling and one in an
/// index. Of small symbols that is most of it.
const REPAIR_OVERHEAD: u64 = 96;
/// What a block with symbols takes besides them and what is known of each.
const BLOCK_OVERHEAD: u64 = 64;

/// How an object is cut, from FDT and EXT_FTI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Memory; the RaptorQ blocks where there is RaptorQ.
    storage: Blocks,
    /// How no-code packets name symbols, where known.
    no_code: Option<Blocks>,
    /// Whether RaptorQ symbols can be used.
    raptorq: bool,
}

impl Cut {
    /// From the OTI of the source flow and that of the repair flow, which must agree on F and T.
    pub(super) fn new(oti: Option<&Oti>, repair: Option<&Oti>, max_bytes: u64) -> Result<Cut, DropReason> {
        let (mut no_code, mut raptorq) = (None, None);
        for oti in [oti, repair].into_iter().flatten() {
            let blocks = Blocks::of(oti, max_bytes).map_err(|e| e.reason)?;
            match oti.scheme {
                FecScheme::NoCode { .. } => no_code = Some(blocks),
                FecScheme::RaptorQ { .. } => raptorq = Some(blocks),
            }
        }
        let storage = match (no_code, raptorq) {
            (Some(n), Some(r))
                if n.transfer_length() != r.transfer_length() || n.symbol_size() != r.symbol_size() =>
            {
                return Err(DropReason::OtiConflict);
            }
            (_, Some(r)) => r,
            (Some(n), None) => {
                Blocks::for_storage(n.transfer_length(), n.symbol_size()).ok_or(DropReason::BadOti)?
            }
            (None, None) => return Err(DropReason::BadOti),
        };
        Ok(Cut { storage, no_code, raptorq: raptorq.is_some() })
    }

    /// Whether another OTI of the same object says the same.
    pub(super) fn agrees(&self, oti: &Oti, max_bytes: u64) -> bool {
        match (oti.scheme, Blocks::of(oti, max_bytes)) {
            (FecScheme::RaptorQ { .. }, Ok(b)) if self.raptorq => b == self.storage,
            (FecScheme::NoCode { .. }, Ok(b)) => self.no_code.is_none_or(|n| n == b) && self.same_size(&b),
            (_, Ok(b)) => self.same_size(&b),
            (_, Err(_)) => false,
        }
    }

    /// How memory is cut: the RaptorQ blocks where there is RaptorQ.
    pub(super) const fn storage(&self) -> &Blocks {
        &self.storage
    }

    /// Whether repair symbols can be used.
    pub(super) const fn is_fountain(&self) -> bool {
        self.raptorq
    }

    fn same_size(&self, b: &Blocks) -> bool {
        b.transfer_length() == self.storage.transfer_length() && b.symbol_size() == self.storage.symbol_size()
    }
}

#[derive(Debug)]
enum Block {
    Empty,
    Collecting(Collecting),
    /// Its buffer is with the decoder.
    Solving,
    Done(Done),
}

/// A block of which every source symbol is here. What they came from is kept until the object's digest is known to be right.
#[derive(Debug)]
struct Done {
    bytes: Bytes,
    have: Bitmap,
    /// By ESI.
    repair: Vec<(Esi, Vec<u8>)>,
}

impl Done {
    /// What a symbol is that comes now: late, unless it contradicts what is here.
    fn refuse(&self, place: Place, symbols: u32, symbol: &[u8], size: usize) -> DropReason {
        let here = if place.esi.0 < symbols {
            let at = place.esi.0 as usize * size;
            self.bytes.get(at..at + symbol.len())
        } else {
            let at = self.repair.binary_search_by_key(&place.esi, |(esi, _)| *esi).ok();
            at.and_then(|at| self.repair.get(at)).map(|(_, symbol)| symbol.as_slice())
        };
        if here.is_some_and(|here| here != symbol) { DropReason::SymbolConflict } else { DropReason::Late }
    }
}

#[derive(Debug)]
struct Collecting {
    /// Source symbols in their places, up to the last that came: no longer, so that nothing is cleared to be overwritten.
    buffer: Vec<u8>,
    have: Bitmap,
    repair: Vec<(Esi, Vec<u8>)>,
    /// Where each is in `repair`.
    repair_at: BTreeMap<Esi, usize>,
    /// Since when it has at least K symbols; in doubt, when the last came.
    solvable_since: Option<Time>,
    /// Symbols at the last failed attempt.
    tried_with: u32,
}

impl Collecting {
    /// A block that was tried with so many symbols and needs more.
    fn again(
        buffer: Vec<u8>,
        have: Bitmap,
        repair: Vec<(Esi, Vec<u8>)>,
        now: Time,
        tried_with: u32,
    ) -> Collecting {
        let repair_at = repair.iter().zip(0..).map(|((esi, _), at)| (*esi, at)).collect();
        Collecting { buffer, have, repair, repair_at, solvable_since: Some(now), tried_with }
    }

    fn symbols(&self) -> u32 {
        self.have.count() + self.repair.len() as u32
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) id: u64,
    cut: Cut,
    blocks: Vec<Block>,
    done: u32,
    /// Memory held: buffers, symbols, description, and what it costs to know them.
    pub(super) bytes: u64,
    pub(super) meta: Option<ObjectMeta>,
    pub(super) since: Time,
    pub(super) first_symbol: Option<Time>,
    /// Its first source symbol was the first to come, by multicast.
    from_start: bool,
    /// Its transmission may have begun before the join.
    pub(super) early: bool,
    /// The first source symbol, in the order of the object, that came by multicast.
    earliest: Option<(Sbn, Esi)>,
    pub(super) last_symbol: Time,
    /// When the sender was heard to begin a later object.
    pub(super) superseded: Option<Time>,
    pub(super) source_received: u64,
    pub(super) repair_received: u64,
    pub(super) recovered: u64,
    /// Runs of source symbols that the decoder rebuilt, by length.
    pub(super) runs: [u64; RUN_BINS],
    /// Symbols that came another way than by multicast, and their bytes.
    pub(super) fetched: u64,
    fetched_bytes: ByPath,
    /// How often it was complete and not what was promised: some symbols are wrong.
    doubts: u32,
    /// How often blocks were searched for wrong symbols.
    audits: u32,
}

/// What became of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Source,
    Repair,
}

/// Where a symbol belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    sbn: Sbn,
    /// ESI in the storage block; at or above K for repair symbols.
    esi: Esi,
    /// Bytes of it that are the object's (less than T for the last source symbol).
    len: usize,
}

impl Assembly {
    /// Memory taken before there is any symbol.
    pub(super) const fn fixed_cost(cut: &Cut) -> u64 {
        (size_of::<Assembly>() + cut.storage.count() as usize * size_of::<Block>()) as u64
    }

    pub(super) fn new(id: u64, cut: Cut, now: Time) -> Assembly {
        let blocks = (0..cut.storage.count()).map(|_| Block::Empty).collect();
        Assembly {
            id,
            cut,
            blocks,
            done: 0,
            bytes: Assembly::fixed_cost(&cut),
            meta: None,
            since: now,
            first_symbol: None,
            from_start: false,
            early: false,
            earliest: None,
            last_symbol: now,
            superseded: None,
            source_received: 0,
            repair_received: 0,
            recovered: 0,
            runs: [0; RUN_BINS],
            fetched: 0,
            fetched_bytes: ByPath::default(),
            doubts: 0,
            audits: 0,
        }
    }

    /// Gives it its description.
    pub(super) fn describe(&mut self, meta: ObjectMeta) {
        self.bytes -= self.meta.as_ref().map_or(0, ObjectMeta::heap_bytes);
        self.bytes += meta.heap_bytes();
        self.meta = Some(meta);
    }

    /// Whether what it lacks was lost, and not sent before the join.
    pub(super) const fn is_heard_from_start(&self) -> bool {
        self.from_start || !self.early
    }

    pub(super) const fn cut(&self) -> &Cut {
        &self.cut
    }

    /// Learns the no-code cut from an FDT that came after symbols.
    pub(super) const fn learn(&mut self, cut: Cut) {
        if self.cut.no_code.is_none() {
            self.cut.no_code = cut.no_code;
        }
    }

    pub(super) const fn source_symbols(&self) -> u64 {
        self.cut.storage.symbols()
    }

    /// Source symbols before the first that came by multicast; all of them where only repair symbols did.
    pub(super) fn unheard_symbols(&self) -> u64 {
        match self.earliest {
            Some((sbn, esi)) => self.cut.storage.index(PayloadId { sbn, esi }).unwrap_or(0),
            None if self.repair_received > 0 => self.source_symbols(),
            None => 0,
        }
    }

    pub(super) const fn length(&self) -> u64 {
        self.cut.storage.transfer_length()
    }

    /// Checks SBN, ESI and length of a symbol: nothing else may reach the buffers or the decoder.
    pub(super) fn place(&self, codepoint: u8, id: PayloadId, len: usize) -> Result<Place, DropReason> {
        let storage = &self.cut.storage;
        let size = usize::from(storage.symbol_size());
        let index = if codepoint == NO_CODE {
            let unnamed =
                || (id.sbn.0 == 0 && u64::from(id.esi.0) < storage.symbols()).then_some(u64::from(id.esi.0));
            let index = self.cut.no_code.map_or_else(unnamed, |blocks| blocks.index(id));
            Some(index.ok_or(DropReason::BadPayloadId)?)
        } else {
            // The library makes no symbols beyond, and the search for wrong ones has to.
            if !self.cut.raptorq || id.sbn.0 >= storage.count() || id.esi.0 >= ESI_END {
                return Err(DropReason::BadPayloadId);
            }
            storage.index(id)
        };
        match index {
            Some(index) => {
                let real = storage.symbol_bytes(index);
                // The last source symbol may come short or padded.
                if len != real && len != size {
                    return Err(DropReason::BadSymbolLength);
                }
                let at = storage.locate(index);
                Ok(Place { sbn: at.sbn, esi: at.esi, len: real })
            }
            None if len != size => Err(DropReason::BadSymbolLength),
            None => Ok(Place { sbn: id.sbn, esi: id.esi, len: size }),
        }
    }

    /// Memory that storing a symbol there would add.
    pub(super) fn cost(&self, place: Place) -> u64 {
        let symbol = u64::from(self.cut.storage.symbol_size());
        let symbols = self.cut.storage.block_symbols(place.sbn);
        let own = if place.esi.0 >= symbols { symbol + REPAIR_OVERHEAD } else { 0 };
        match self.blocks.get(place.sbn.0 as usize) {
            Some(Block::Empty) => {
                own + u64::from(symbols) * symbol + u64::from(symbols.div_ceil(8)) + BLOCK_OVERHEAD
            }
            Some(Block::Collecting(_)) => own,
            _ => 0,
        }
    }

    /// Puts a symbol to its place. `symbol` is at least `place.len` long.
    pub(super) fn store(
        &mut self,
        place: Place,
        symbol: &[u8],
        path: Path,
        now: Time,
    ) -> Result<Stored, DropReason> {
        let cost = self.cost(place);
        let storage = self.cut.storage;
        let symbols = storage.block_symbols(place.sbn);
        let size = usize::from(storage.symbol_size());
        let block = self.blocks.get_mut(place.sbn.0 as usize).ok_or(DropReason::BadPayloadId)?;
        if let Block::Empty = block {
            *block = Block::Collecting(Collecting {
                buffer: Vec::with_capacity(symbols as usize * size),
                have: Bitmap::new(symbols),
                repair: Vec::new(),
                repair_at: BTreeMap::new(),
                solvable_since: None,
                tried_with: 0,
            });
        }
        let symbol = symbol.get(..place.len).ok_or(DropReason::BadSymbolLength)?;
        let c = match block {
            Block::Collecting(c) => c,
            Block::Done(done) => return Err(done.refuse(place, symbols, symbol, size)),
            Block::Empty | Block::Solving => return Err(DropReason::Late),
        };
        let stored = if place.esi.0 < symbols {
            store_source(c, place.esi, symbol, size)?;
            Stored::Source
        } else {
            store_repair(c, place.esi, symbol, symbols + SURPLUS_SYMBOLS)?;
            Stored::Repair
        };
        if (c.solvable_since.is_none() || self.doubts > 0) && c.symbols() >= symbols {
            c.solvable_since = Some(now);
        }
        let complete = c.have.count() == symbols && self.doubts == 0;
        self.bytes += cost;
        if self.first_symbol.is_none() {
            self.first_symbol = Some(now);
            self.from_start = path == Path::Multicast && (place.sbn, place.esi) == (Sbn(0), Esi(0));
        }
        self.last_symbol = now;
        match (stored, path) {
            (Stored::Source, Path::Multicast) => {
                self.source_received += 1;
                let at = (place.sbn, place.esi);
                if self.earliest.is_none_or(|earliest| at < earliest) {
                    self.earliest = Some(at);
                }
            }
            (Stored::Repair, Path::Multicast) => self.repair_received += 1,
            (_, Path::Sender | Path::Origin | Path::Moq) => {
                self.fetched += 1;
                self.fetched_bytes.add(path, place.len as u64);
            }
        }
        if complete {
            self.finish_block(place.sbn);
        }
        Ok(stored)
    }

    fn finish_block(&mut self, sbn: Sbn) {
        let len = self.block_len(sbn);
        if let Some(block) = self.blocks.get_mut(sbn.0 as usize)
            && let Block::Collecting(c) = std::mem::replace(block, Block::Empty)
        {
            *block = done(c.buffer, len, c.have, c.repair);
            self.done += 1;
        }
    }

    fn block_len(&self, sbn: Sbn) -> usize {
        usize::try_from(self.cut.storage.block_bytes(sbn)).unwrap_or(usize::MAX)
    }

    /// The next block to solve now, if any: enough symbols, or none came for a while.
    pub(super) fn solve(&mut self, now: Time) -> Option<DecodeJob> {
        let storage = self.cut.storage;
        let audit = self.doubts > 0;
        let ready = |(i, block): &(usize, &mut Block)| match block {
            Block::Collecting(c) if audit => c.may_be_audited(storage.block_symbols(Sbn(*i as u32)), now),
            Block::Collecting(c) => {
                let need = storage.block_symbols(Sbn(*i as u32));
                let enough = c.symbols() >= (need + SURPLUS_SYMBOLS).max(c.tried_with + SURPLUS_SYMBOLS / 2);
                let waited = c.solvable_since.is_some_and(|at| now >= at + SOLVE_DELAY);
                enough || (waited && c.symbols() > c.tried_with)
            }
            _ => false,
        };
        let (i, block) = self.blocks.iter_mut().enumerate().find(ready)?;
        let Block::Collecting(mut c) = std::mem::replace(block, Block::Solving) else { return None };
        let sbn = Sbn(i as u32);
        self.audits += u32::from(audit);
        c.buffer.resize(storage.block_symbols(sbn) as usize * usize::from(storage.symbol_size()), 0);
        Some(DecodeJob {
            object: self.id,
            sbn,
            symbols: storage.block_symbols(sbn),
            symbol_size: storage.symbol_size(),
            buffer: c.buffer,
            have: c.have,
            repair: c.repair,
            audit,
        })
    }

    /// When [`Assembly::solve`] wants to be asked again, without further symbols.
    pub(super) fn solve_at(&self) -> Option<Time> {
        let least = if self.doubts > 0 { doubt::LEAST_SURPLUS } else { 0 };
        let of = |(i, block): (u32, &Block)| match block {
            Block::Collecting(c) => {
                let need = self.cut.storage.block_symbols(Sbn(i)) + least;
                let more = c.symbols() > c.tried_with && c.symbols() >= need;
                c.solvable_since.filter(|_| more).map(|at| at + SOLVE_DELAY)
            }
            _ => None,
        };
        (0u32..).zip(&self.blocks).filter_map(of).min()
    }

    /// Takes a decoder's result back. True if the block is done.
    pub(super) fn solved(&mut self, result: DecodeResult, now: Time) -> bool {
        let DecodeResult { job, solved, .. } = result;
        let len = self.block_len(job.sbn);
        let Some(block @ Block::Solving) = self.blocks.get_mut(job.sbn.0 as usize) else { return false };
        if solved {
            self.recovered += u64::from(job.missing());
            count_runs(&job, &mut self.runs);
            *block = done(job.buffer, len, job.have, job.repair);
            self.done += 1;
        } else {
            let tried_with = job.have.count() + job.repair.len() as u32;
            *block = Block::Collecting(Collecting::again(job.buffer, job.have, job.repair, now, tried_with));
        }
        solved
    }

    pub(super) fn is_complete(&self) -> bool {
        self.done as usize == self.blocks.len() || self.length() == 0
    }

    /// The bytes, where complete.
    pub(super) fn payload(&self) -> Payload {
        Payload::from_chunks(self.blocks.iter().filter_map(|b| match b {
            Block::Done(done) => Some(done.bytes.clone()),
            _ => None,
        }))
    }

    /// Blocks that still need symbols.
    pub(super) fn shortage(&self) -> impl Iterator<Item = BlockLack> + '_ {
        (0u32..).zip(&self.blocks).filter_map(|(i, block)| {
            let symbols = self.cut.storage.block_symbols(Sbn(i));
            let (held, repair_held, tried_with) = match block {
                Block::Empty => (0, 0, 0),
                Block::Collecting(c) => (c.symbols(), c.repair.len() as u32, c.tried_with),
                Block::Solving | Block::Done(_) => return None,
            };
            let missing = if self.doubts > 0 {
                doubt::wanted(symbols, held, tried_with)
            } else {
                let need = symbols.max(if tried_with > 0 { tried_with + 1 } else { 0 });
                need.saturating_sub(held)
            };
            Some(BlockLack { sbn: Sbn(i), symbols, held, repair_held, missing })
        })
    }

    /// Symbols still needed, over all blocks.
    pub(super) fn missing_symbols(&self) -> u64 {
        self.shortage().map(|b| u64::from(b.missing)).sum()
    }

    /// Bytes of the object by the way they came, adding up to its length: what was not fetched is multicast's, rebuilt symbols
    /// included.
    pub(super) fn bytes_by_path(&self) -> ByPath {
        let (mut out, mut left) = (ByPath::default(), self.length());
        for (path, bytes) in self.fetched_bytes.iter() {
            out.add(path, bytes.min(left));
            left -= bytes.min(left);
        }
        out.add(Path::Multicast, left);
        out
    }

    /// Byte ranges whose source symbols would complete the object: what each block lacks, and two symbols more where repair
    /// symbols take part (RaptorQ fails with exactly K in one case of 200).
    pub(super) fn missing_ranges(&self, merge: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for BlockLack { sbn, symbols, repair_held, missing, .. } in self.shortage() {
            let spare = if repair_held > 0 { 2 } else { 0 };
            let lacking = (missing + spare) as usize;
            let missing = (0..symbols).filter(|esi| !self.has(sbn, Esi(*esi))).take(lacking);
            for esi in missing {
                let first = self.cut.storage.block_offset(sbn)
                    + u64::from(esi) * u64::from(self.cut.storage.symbol_size());
                let last = (first + u64::from(self.cut.storage.symbol_size())).min(self.length()) - 1;
                match ranges.last_mut() {
                    Some((_, end)) if first <= *end + 1 + merge => *end = last,
                    _ => ranges.push((first, last)),
                }
            }
        }
        ranges
    }

    fn has(&self, sbn: Sbn, esi: Esi) -> bool {
        match self.blocks.get(sbn.0 as usize) {
            Some(Block::Collecting(c)) => c.have.get(esi.0 as usize),
            Some(Block::Empty) | None => false,
            Some(Block::Solving | Block::Done(_)) => true,
        }
    }

    /// Whole source symbols inside `offset..offset + bytes.len()`: place and bytes of each.
    pub(super) fn symbols_in<'a>(&self, offset: u64, bytes: &'a [u8]) -> Vec<(Place, &'a [u8])> {
        let storage = &self.cut.storage;
        let size = u64::from(storage.symbol_size());
        let end = offset.saturating_add(bytes.len() as u64).min(storage.transfer_length());
        (offset.div_ceil(size)..storage.symbols())
            .take_while(|index| index * size + storage.symbol_bytes(*index) as u64 <= end)
            .filter_map(|index| {
                let from = usize::try_from(index * size - offset).ok()?;
                let len = storage.symbol_bytes(index);
                let at = storage.locate(index);
                Some((Place { sbn: at.sbn, esi: at.esi, len }, bytes.get(from..from + len)?))
            })
            .collect()
    }
}

/// Runs of source symbols that were not there.
fn count_runs(job: &DecodeJob, runs: &mut [u64; RUN_BINS]) {
    let mut run = 0;
    for esi in 0..=job.symbols as usize {
        if esi < job.symbols as usize && !job.have.get(esi) {
            run += 1;
        } else if run > 0 {
            runs[run_bin(run)] += 1;
            run = 0;
        }
    }
}

fn done(mut buffer: Vec<u8>, len: usize, have: Bitmap, mut repair: Vec<(Esi, Vec<u8>)>) -> Block {
    buffer.truncate(len);
    repair.sort_unstable_by_key(|(esi, _)| *esi);
    Block::Done(Done { bytes: buffer.into(), have, repair })
}

fn store_source(c: &mut Collecting, esi: Esi, symbol: &[u8], size: usize) -> Result<(), DropReason> {
    let at = esi.0 as usize * size;
    if c.have.get(esi.0 as usize) {
        let same = c.buffer.get(at..at + symbol.len()) == Some(symbol);
        return Err(if same { DropReason::Duplicate } else { DropReason::SymbolConflict });
    }
    if !c.have.set(esi.0 as usize) {
        return Err(DropReason::BadPayloadId);
    }
    // In order, which is the rule, a symbol is appended; only the place of one that is late or lost is cleared first.
    if c.buffer.len() < at {
        c.buffer.resize(at, 0);
    }
    match c.buffer.get_mut(at..at + symbol.len()) {
        Some(slot) => slot.copy_from_slice(symbol),
        None => c.buffer.extend_from_slice(symbol),
    }
    Ok(())
}

/// More repair symbols than source symbols help nobody: at most `most` are kept.
fn store_repair(c: &mut Collecting, esi: Esi, symbol: &[u8], most: u32) -> Result<(), DropReason> {
    if let Some(at) = c.repair_at.get(&esi) {
        let same = c.repair.get(*at).is_some_and(|(_, here)| here == symbol);
        return Err(if same { DropReason::Duplicate } else { DropReason::SymbolConflict });
    }
    if c.repair.len() >= most as usize {
        return Err(DropReason::Late);
    }
    c.repair_at.insert(esi, c.repair.len());
    c.repair.push((esi, symbol.to_vec()));
    Ok(())
}
