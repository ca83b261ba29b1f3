//! The receiving engine of one rendition: packets of its source and repair flows in, verified objects out.

mod api;
mod assembly;
mod describe;
mod fdts;
mod held;
mod path;
mod pool;
mod room;
mod waiting;

use crate::drop::DropReason;
use crate::fec::{DecodeJob, DecodeResult};
use crate::ids::{Esi, Toi, Tsi};
use crate::object::{Digest, Payload};
use crate::time::{Time, WallTime};
use crate::wire::alc::{AlcPacket, PayloadId};
use crate::wire::fti::{Oti, RAPTORQ};
pub use api::{Command, Event, Input, Output, Progress, Reception, RecvConfig, RecvStats};
use assembly::{Assembly, Cut, Place, Stored};
use fdts::FdtAssembly;
use held::{Held, HeldPacket};
pub use path::{BlockLack, ByPath, Lack, Path};
use pool::Loan;
pub use pool::Pool;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use waiting::Waiting;

/// The receiving engine: one mutation, then drain [`RecvSession::poll_output`] until it answers `Timeout`.
///
/// Bounds: [`OBJECTS_IN_FLIGHT`](crate::limits::OBJECTS_IN_FLIGHT) objects and [`RecvConfig::assembly_bytes`], descriptions included, beyond which a described object borrows from
/// [`RecvConfig::pool`] while that has some. For a new symbol the object that has been without one longest gives way, objects without a description first; where symbols of all come, the new object does.
/// Packets without FDT wait within [`RecvConfig::held_bytes`]; when that is full the newest is refused.
#[derive(Debug)]
pub struct RecvSession {
    config: RecvConfig,
    /// Memory from [`RecvConfig::pool`].
    loan: Option<Loan>,
    now: Time,
    wall: WallTime,
    /// First packet ever.
    joined_at: Option<Time>,
    /// An FDT Instance was read from packets.
    opened: bool,
    /// Identities of the senders' runs, and when each was last heard.
    sessions: Vec<(u64, Time)>,
    objects: BTreeMap<Toi, Assembly>,
    fdts: Vec<FdtAssembly>,
    /// FDT Instances read, and when: repeats are not read again for a while.
    fdts_read: HashMap<u32, Time>,
    /// Described without OTI.
    waiting: Waiting,
    held: Held,
    finished: HashMap<Toi, Finished>,
    finished_order: VecDeque<Toi>,
    commands: VecDeque<DecodeJob>,
    events: VecDeque<Event>,
    next_id: u64,
    /// Next look at what has aged.
    housekeeping_at: Time,
    stats: RecvStats,
}

/// A TOI that needs no more symbols.
#[derive(Debug)]
struct Finished {
    heard: Time,
    /// What it was described as, where another description may come: the whole would be kept for thousands of them.
    described_as: Option<Digest>,
}

/// Ageing is looked at this often while packets come, not at each packet.
const HOUSEKEEPING: Duration = Duration::from_millis(5);
/// An object of which packets came this soon after the first packet of all may have begun before the join.
const JOINING: Duration = Duration::from_secs(1);
impl RecvSession {
    /// A session that has heard nothing.
    pub fn new(config: RecvConfig) -> RecvSession {
        let loan = config.pool.clone().map(|pool| Loan::new(pool, config.borrowed_bytes));
        RecvSession {
            config,
            loan,
            now: Time::ZERO,
            wall: WallTime::default(),
            joined_at: None,
            opened: false,
            sessions: Vec::new(),
            objects: BTreeMap::new(),
            fdts: Vec::new(),
            fdts_read: HashMap::new(),
            waiting: Waiting::default(),
            held: Held::default(),
            finished: HashMap::new(),
            finished_order: VecDeque::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            next_id: 1,
            housekeeping_at: Time::ZERO,
            stats: RecvStats::default(),
        }
    }

    /// One input; then drain [`RecvSession::poll_output`].
    pub fn handle_input(&mut self, input: Input<'_>) {
        let is_packet = matches!(input, Input::Packet { .. });
        match input {
            Input::Packet { now, wall, datagram } => {
                (self.now, self.wall) = (now, wall);
                self.joined_at.get_or_insert(now);
                self.stats.packets += 1;
                self.stats.bytes += datagram.len() as u64;
                if let Err(reason) = self.packet(datagram) {
                    self.stats.drops.count(reason);
                }
            }
            Input::Bytes { now, toi, path, offset, bytes } => {
                self.now = now;
                self.fetched(toi, path, offset, bytes);
            }
            Input::Symbols { now, toi, path, first, symbols } => {
                self.now = now;
                self.symbols(toi, path, first, symbols);
            }
            Input::Description { now, wall, newest, instance } => {
                (self.now, self.wall) = (now, wall);
                self.accept_fdt(instance, None, newest);
            }
            Input::Decoded { now, result } => {
                self.now = now;
                self.decoded(result);
            }
            Input::Forget { now, toi } => {
                self.now = now;
                let meta = self.remove(toi).and_then(|a| a.meta);
                self.finish(toi, meta.as_ref());
            }
            Input::Reopen { toi } => {
                if self.finished.remove(&toi).is_some() {
                    self.fdts_read.clear(); // its description must be read again
                }
            }
            Input::Timeout { now } => self.now = now,
        }
        if self.now >= self.housekeeping_at || !is_packet {
            self.housekeeping_at = self.now + HOUSEKEEPING;
            self.expire();
            self.solve_waiting();
            self.settle();
            self.stats.assembly_bytes = self.assembly_bytes() + self.held.bytes() as u64;
            self.stats.objects_in_flight = self.objects.len();
        }
    }

    /// Next output.
    pub fn poll_output(&mut self) -> Output {
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        match self.commands.pop_front() {
            Some(job) => Output::Command(Command::Decode(job)),
            None => Output::Timeout(self.next_timeout()),
        }
    }

    /// How far an object is.
    pub fn progress(&self, toi: Toi) -> Option<Progress> {
        let object = self.objects.get(&toi)?;
        Some(Progress {
            toi,
            first_symbol: object.first_symbol?,
            last_symbol: object.last_symbol,
            source_symbols: object.source_symbols(),
            missing_symbols: object.missing_symbols(),
            unheard_symbols: object.unheard_symbols(),
            length: object.length(),
        })
    }

    /// Whether nothing more is collected of an object: it is complete, given up for want of room, or was told to be forgotten.
    pub fn is_finished(&self, toi: Toi) -> bool {
        self.finished.contains_key(&toi)
    }

    /// When the last symbol came of an object that no FDT Instance has described yet.
    pub fn undescribed(&self) -> Option<Time> {
        let begun = self.objects.values().filter(|o| o.meta.is_none()).map(|o| o.last_symbol);
        begun.chain(self.held.last()).max()
    }

    /// What an object under assembly still needs.
    pub fn lack(&self, toi: Toi) -> Option<Lack> {
        self.objects.get(&toi).map(|o| o.lack(toi))
    }

    /// Byte ranges (inclusive) whose source symbols would complete the object: at most what the decoder lacks, merged
    /// over gaps of at most `merge` bytes.
    pub fn missing_ranges(&self, toi: Toi, merge: u64) -> Vec<(u64, u64)> {
        self.objects.get(&toi).map(|o| o.missing_ranges(merge)).unwrap_or_default()
    }

    /// Counters.
    pub fn stats(&self) -> &RecvStats {
        &self.stats
    }

    fn packet(&mut self, datagram: &[u8]) -> Result<(), DropReason> {
        let packet = AlcPacket::parse(datagram).map_err(|e| e.reason)?;
        self.check_tsi(packet.tsi)?;
        if packet.close_session {
            self.events.push_back(Event::Closed);
        }
        let (Some(toi), Some(id)) = (packet.toi, packet.payload_id) else { return Ok(()) };
        if toi == Toi::FDT {
            return match packet.fdt {
                Some(fdt) => self.fdt_symbol(fdt, &packet, id),
                // A packet of TOI 0 without EXT_FDT is our close packet, or nothing we can use.
                None if packet.close_session => Ok(()),
                None => Err(DropReason::BadFdt),
            };
        }
        self.stats.source_packets += u64::from(self.config.tsi == Some(packet.tsi));
        self.object_symbol(toi, &packet, id)
    }

    fn check_tsi(&mut self, tsi: Tsi) -> Result<(), DropReason> {
        let ours = *self.config.tsi.get_or_insert(tsi);
        let repair = [self.config.repair_tsi, self.config.layer_2_tsi];
        if tsi == ours || repair.contains(&Some(tsi)) { Ok(()) } else { Err(DropReason::WrongTsi) }
    }

    fn object_symbol(&mut self, toi: Toi, packet: &AlcPacket<'_>, id: PayloadId) -> Result<(), DropReason> {
        if let Some(finished) = self.finished.get_mut(&toi) {
            finished.heard = self.now;
            return Err(DropReason::Late);
        }
        if let Some(oti) = packet.fti {
            self.check_fti(toi, &oti)?;
        }
        if !self.objects.contains_key(&toi) {
            let held =
                HeldPacket { codepoint: packet.codepoint, payload_id: id, payload: packet.payload.to_vec() };
            let kept = self.held.push(toi, held, self.config.held_bytes, self.now);
            return if kept { Ok(()) } else { Err(DropReason::HeldLimit) };
        }
        let stored = self.store(toi, packet.codepoint, id, packet.payload)?;
        match stored {
            Stored::Source => self.stats.source_symbols += 1,
            Stored::Repair => self.stats.repair_symbols += 1,
        }
        self.after_symbol(toi);
        Ok(())
    }

    /// EXT_FTI starts an object that nothing else has described, and must agree with one that is there.
    fn check_fti(&mut self, toi: Toi, oti: &Oti) -> Result<(), DropReason> {
        let max = self.config.max_object_bytes;
        match self.objects.get(&toi) {
            Some(object) if object.cut().agrees(oti, max) => Ok(()),
            Some(_) => Err(DropReason::OtiConflict),
            None => {
                let cut = Cut::new(Some(oti), None, max)?;
                self.insert(toi, cut, self.waiting.get(toi).is_some(), 0)?;
                if let Some(meta) = self.waiting.take(toi)
                    && let Some(object) = self.objects.get_mut(&toi)
                {
                    object.describe(meta);
                }
                self.replay_held(toi);
                Ok(())
            }
        }
    }

    fn store(
        &mut self,
        toi: Toi,
        codepoint: u8,
        id: PayloadId,
        payload: &[u8],
    ) -> Result<Stored, DropReason> {
        let object = self.objects.get(&toi).ok_or(DropReason::Late)?;
        let place = object.place(codepoint, id, payload.len())?;
        self.store_at(toi, place, payload, Path::Multicast)
    }

    fn store_at(&mut self, toi: Toi, place: Place, payload: &[u8], path: Path) -> Result<Stored, DropReason> {
        let cost = self.objects.get(&toi).map_or(0, |o| o.cost(place));
        self.make_room(toi, cost)?;
        let now = self.now;
        self.objects.get_mut(&toi).ok_or(DropReason::Late)?.store(place, payload, path, now)
    }

    fn replay_held(&mut self, toi: Toi) {
        if !self.objects.contains_key(&toi) {
            return;
        }
        for packet in self.held.take(toi) {
            match self.store(toi, packet.codepoint, packet.payload_id, &packet.payload) {
                Ok(Stored::Source) => self.stats.source_symbols += 1,
                Ok(Stored::Repair) => self.stats.repair_symbols += 1,
                Err(reason) => self.stats.drops.count(reason),
            }
        }
    }

    fn fetched(&mut self, toi: Toi, path: Path, offset: u64, bytes: &[u8]) {
        let Some(object) = self.objects.get(&toi) else { return };
        for (place, symbol) in object.symbols_in(offset, bytes) {
            match self.store_at(toi, place, symbol, path) {
                // Symbols that are there already are normal: ranges are merged over small gaps.
                Ok(_) | Err(DropReason::Duplicate | DropReason::Late) => {}
                Err(reason) => self.stats.drops.count(reason),
            }
        }
        self.after_symbol(toi);
    }

    fn symbols(&mut self, toi: Toi, path: Path, first: PayloadId, symbols: &[u8]) {
        let Some(object) = self.objects.get(&toi) else { return };
        let size = usize::from(object.cut().storage().symbol_size());
        for (symbol, i) in symbols.chunks(size).zip(0u32..) {
            // An ESI beyond the last is as good as any other that is too large.
            let id = PayloadId { esi: Esi(first.esi.0.saturating_add(i)), ..first };
            let Some(object) = self.objects.get(&toi) else { return };
            let stored = object
                .place(RAPTORQ, id, symbol.len())
                .and_then(|place| self.store_at(toi, place, symbol, path));
            if let Err(reason) = stored {
                self.stats.drops.count(reason);
            }
        }
        self.after_symbol(toi);
    }

    /// Asks for decoding where a block is ready, and completes the object.
    fn after_symbol(&mut self, toi: Toi) {
        let Some(object) = self.objects.get_mut(&toi) else { return };
        while let Some(job) = object.solve(self.now) {
            self.commands.push_back(job);
        }
        if object.is_complete() && object.meta.is_some() {
            self.complete(toi);
        } else if object.is_hopeless() {
            self.give_up(toi, DropReason::DigestMismatch);
        }
    }

    /// Every block of a described object is here: it is what was promised, or there are wrong symbols to be found.
    fn complete(&mut self, toi: Toi) {
        let Some(object) = self.objects.get_mut(&toi) else { return };
        let (payload, meta) = (object.payload(), object.meta.as_ref());
        let intact =
            meta.is_some_and(|m| payload.len() == m.length && m.digest.is_none_or(|d| d == payload.digest()));
        if intact {
            if let Some(object) = self.remove(toi) {
                self.hand_out(toi, object, payload);
            }
            return;
        }
        drop(payload); // the buffers are taken back without a copy
        if object.doubt(self.now) {
            self.after_symbol(toi);
        } else {
            self.give_up(toi, DropReason::DigestMismatch);
        }
    }

    fn hand_out(&mut self, toi: Toi, object: Assembly, payload: Payload) {
        let how = Reception {
            first_symbol: object.first_symbol.unwrap_or(self.now),
            completed: self.now,
            source_symbols: object.source_symbols(),
            source_received: object.source_received,
            repair_received: object.repair_received,
            recovered: object.recovered,
            fetched: object.fetched,
            bytes: object.bytes_by_path(),
            heard_from_start: object.is_heard_from_start(),
        };
        // What was under way when we joined has lost nothing by being sent before that.
        if how.heard_from_start {
            self.stats.expected_symbols += how.source_symbols;
            self.stats.lost_symbols += how.source_symbols.saturating_sub(how.source_received);
            self.stats.loss_runs.iter_mut().zip(object.runs).for_each(|(sum, n)| *sum += n);
        }
        self.stats.recovered_symbols += how.recovered;
        self.stats.objects_complete += 1;
        self.stats.object_bytes.add_all(&how.bytes);
        let meta = object.meta.unwrap_or_default();
        self.finish(toi, Some(&meta));
        self.events.push_back(Event::Complete { toi, meta, payload, how });
    }

    fn decoded(&mut self, result: DecodeResult) {
        let id = result.job.object;
        self.stats.drops.add(DropReason::WrongSymbol, result.wrong.into());
        if let Some(toi) = self.objects.iter().find(|(_, o)| o.id == id).map(|(t, _)| *t) {
            if let Some(object) = self.objects.get_mut(&toi)
                && !object.solved(result, self.now)
                && !object.is_doubtful()
            {
                self.stats.drops.count(DropReason::DecodeFailed);
            }
            self.after_symbol(toi);
        } else if let Some(entry) = self.fdts.iter_mut().find(|f| f.assembly.id == id) {
            entry.assembly.solved(result, self.now);
            self.after_fdt_symbol(id);
        }
    }

    /// Whether an object that is new to us now may have been on its way before the join: the first FDT Instance lists what is
    /// being sent and what was sent before, and so do later ones. `newest`: it is the one that is being sent.
    pub(super) fn may_precede_join(&self, newest: bool) -> bool {
        let since_join = self.joined_at.map(|at| self.now.since(at));
        since_join.is_some_and(|since| {
            !self.opened || since < JOINING || (!newest && since < self.config.object_timeout)
        })
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Blocks that have just enough symbols are solved when no more come.
    fn solve_waiting(&mut self) {
        let now = self.now;
        let due: Vec<Toi> = self
            .objects
            .iter()
            .filter(|(_, o)| o.solve_at().is_some_and(|at| at <= now))
            .map(|(t, _)| *t)
            .collect();
        for toi in due {
            self.after_symbol(toi);
        }
        let due = self.fdts.iter().map(|f| &f.assembly).filter(|a| a.solve_at().is_some_and(|at| at <= now));
        for id in due.map(|a| a.id).collect::<Vec<u64>>() {
            self.after_fdt_symbol(id);
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        let timeout = self.config.object_timeout;
        let objects = self.objects.values().chain(self.fdts.iter().map(|f| &f.assembly));
        objects
            .flat_map(|o| [Some(o.last_symbol + timeout), o.solve_at()])
            .flatten()
            .chain(self.held.expires_at())
            .chain(self.waiting.expires_at(timeout))
            .min()
    }
}
