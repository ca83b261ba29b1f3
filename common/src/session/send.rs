//! The sending engine of one rendition: objects in, paced packets out.

mod announce;
mod outgoing;

use crate::catalog::WireProfile;
use crate::fec::partition::{raptorq_oti, source_oti};
use crate::fec::raptorq::{ESI_MULTICAST_END, repair_symbols};
use crate::fec::{Blocks, EncodeJob, EncodeResult};
use crate::ids::{Esi, Sbn, Toi, Tsi};
use crate::limits;
use crate::object::{Digest, Object};
use crate::time::{Time, WallTime};
use crate::wire::alc::{AlcRepr, PayloadId};
use crate::wire::fdt::can_describe;
use crate::wire::fti::{NO_CODE, RAPTORQ};
use announce::Announcer;
use bytes::Bytes;
use outgoing::{Repairing, Sending};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Parameters of a [`SendSession`]. Fixed for its life.
#[derive(Clone, Debug)]
pub struct SendConfig {
    /// How objects are put into packets.
    pub profile: WireProfile,
    /// TSI of the source flow (or the one session).
    pub tsi: Tsi,
    /// TSI of the repair flow; unused with `flute-raptorq`.
    pub repair_tsi: Tsi,
    /// Encoding symbol length T.
    pub symbol_size: u16,
    /// Repair symbols per hundred source symbols (rounded up per block, at least 2 where not 0).
    pub repair_percent: u32,
    /// Whether receivers are told how the repair flow cuts objects, also while the share is 0: without, only source symbols
    /// (byte ranges) can complete an object.
    pub repair_flow: bool,
    /// Pacing rate over both flows, UDP payload bit/s.
    pub rate_bps: u64,
    /// Most packets in one [`Transmit`] (one GSO call).
    pub max_segments: usize,
    /// Identity of this run of the sender, in every FDT Instance.
    pub session: u64,
    /// TOIs follow from what an object is (URL, range, digest), so that every sender of a channel gives the same object the same
    /// TOI, in every run: symbols of a hot standby, and of a restarted sender, add up with those before.
    pub toi_of_content: bool,
    /// First TOI, where they are counted; first FDT Instance. Derived from wall clock by the driver, so that a restart goes on above the TOIs of the run before.
    pub first_toi: u32,
    /// Key for FDT Instances; none = unsigned (interoperation only).
    pub key: Option<crate::auth::SigningKey>,
    /// Validity of an FDT Instance from its sending.
    pub fdt_lifetime: Duration,
    /// How many recent objects each FDT Instance lists, where they fit (see [`SendSession`]).
    pub fdt_window: usize,
    /// Time over which the second half of an object's repair symbols is spread, so that one outage cannot take them all. The first
    /// half follows the source symbols at once.
    pub repair_spread: Duration,
    /// Set the B flag on an object's last packet. Only where objects are never sent again.
    pub close_objects: bool,
}

impl SendConfig {
    /// Defaults for a session of this profile and these TSIs at this rate: T = 1344, 15 % repair, 16-packet batches.
    pub fn new(profile: WireProfile, tsi: Tsi, repair_tsi: Tsi, rate_bps: u64) -> SendConfig {
        SendConfig {
            profile,
            tsi,
            repair_tsi,
            symbol_size: limits::SYMBOL_SIZE_DEFAULT,
            repair_percent: 15,
            repair_flow: true,
            rate_bps,
            max_segments: 16,
            session: 0,
            toi_of_content: false,
            first_toi: 1,
            key: None,
            fdt_lifetime: Duration::from_secs(120),
            fdt_window: 8,
            repair_spread: Duration::from_millis(100),
            close_objects: false,
        }
    }
}

/// Which flow of the rendition a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKind {
    /// Source flow (or the one session).
    Source,
    /// Repair flow.
    Repair,
}

/// Handle that the driver gives an object and gets back in events.
pub type ObjectTag = u64;

/// What goes in.
#[derive(Debug)]
pub enum Input {
    /// An object to send after those before it.
    Object {
        /// Now.
        now: Time,
        /// Wall clock, for FDT expiry.
        wall: WallTime,
        /// Returned in events.
        tag: ObjectTag,
        /// The object.
        object: Box<Object>,
    },
    /// Result of [`Command::Encode`].
    Encoded {
        /// Now.
        now: Time,
        /// The result.
        result: EncodeResult,
    },
    /// Receivers lack symbols of an object that was sent: fresh repair symbols for all of them.
    Repair {
        /// Now.
        now: Time,
        /// The object.
        toi: Toi,
        /// Its bytes again.
        data: Bytes,
        /// How many symbols of which blocks.
        blocks: Vec<(Sbn, u32)>,
    },
    /// From now on, this many repair symbols per hundred source symbols.
    Share {
        /// As [`SendConfig::repair_percent`].
        percent: u32,
    },
    /// The time asked for has come.
    Timeout {
        /// Now.
        now: Time,
        /// Wall clock.
        wall: WallTime,
    },
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// Packets to send now, already in the buffer that was passed to `poll_output`.
    Transmit(Transmit),
    /// Work for another thread.
    Command(Command),
    /// Something to know.
    Event(Event),
    /// Nothing more until this time; `None`: until the next input.
    Timeout(Option<Time>),
}

/// One batch: `len / segment_size` packets of the same size, the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Destination.
    pub flow: FlowKind,
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of each packet but the last.
    pub segment_size: usize,
}

/// Heavy work.
#[derive(Debug)]
pub enum Command {
    /// Make repair symbols: `job.run()` on any thread, then `Input::Encoded`.
    Encode(EncodeJob),
}

/// Something to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// First packet of the object has left.
    Started {
        /// Driver's handle.
        tag: ObjectTag,
        /// Its TOI.
        toi: Toi,
    },
    /// All source symbols have left (playlists may name it now).
    SourceSent {
        /// Driver's handle.
        tag: ObjectTag,
        /// Its TOI.
        toi: Toi,
    },
    /// Everything, repair too, has left.
    Sent {
        /// Driver's handle.
        tag: ObjectTag,
        /// Its TOI.
        toi: Toi,
    },
}

/// Counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendStats {
    /// UDP payload bytes by kind.
    pub source_bytes: u64,
    /// Repair packets' bytes, those that receivers asked for included.
    pub repair_bytes: u64,
    /// Of these, those that receivers asked for.
    pub requested_bytes: u64,
    /// FDT packets' bytes.
    pub fdt_bytes: u64,
    /// Packets of all kinds.
    pub packets: u64,
    /// Objects fully sent.
    pub objects: u64,
    /// Bytes of objects waiting or being sent.
    pub queued_bytes: u64,
    /// Objects waiting or being sent.
    pub queued_objects: usize,
    /// Objects that cannot be carried: longer than 255 blocks of 56,403 symbols, or with a URL that no FDT Instance takes.
    pub refused_objects: u64,
}

/// The sending engine: one mutation, then drain [`SendSession::poll_output`] until it answers `Timeout`.
///
/// An object leaves as: FDT Instance, source symbols (round robin over its blocks, so that a burst of lost packets spreads),
/// FDT Instance again half-way when it is long, repair symbols (half at once, half spread over [`SendConfig::repair_spread`]), FDT
/// Instance again.
/// The next object's source symbols do not wait for the repair symbols of the one before.
///
/// The same object again (same URL, range and digest) keeps its TOI and continues its repair symbols where the last
/// sending stopped: a receiver that has a part of it goes on collecting, and everything it hears is new to it.
#[derive(Debug)]
pub struct SendSession {
    config: SendConfig,
    now: Time,
    wall: WallTime,
    /// Next packet may leave at this time (token bucket of one batch).
    ready_at: Time,
    queue: VecDeque<Queued>,
    sending: Option<Sending>,
    /// Objects whose source symbols have left, oldest first; keyed by order of sending.
    repairing: VecDeque<Repairing>,
    announcer: Announcer,
    /// FDT packets to send before anything else.
    fdt_packets: VecDeque<Vec<u8>>,
    identities: Identities,
    next_job: u64,
    commands: VecDeque<EncodeJob>,
    events: VecDeque<Event>,
    /// Repair takes turns with source symbols of the next object.
    repair_turn: bool,
    stats: SendStats,
}

#[derive(Debug)]
struct Queued {
    tag: ObjectTag,
    object: Box<Object>,
}

/// TOIs given so far, and how many repair symbols each object's blocks have used.
#[derive(Debug)]
struct Identities {
    of_content: bool,
    next_toi: u32,
    /// TOIs in use, where they follow from content: two objects of the same 32 bits must not meet.
    taken: HashSet<Toi>,
    known: HashMap<Identity, Toi>,
    used: HashMap<Toi, u32>,
    order: VecDeque<Identity>,
}

/// What makes an object the same one: URL, first byte of its range, digest.
type Identity = (String, Option<u64>, Option<Digest>);

/// Objects remembered for a second sending: the oldest is forgotten (and would get a new TOI).
const REMEMBERED_OBJECTS: usize = 65_536;
/// Repair ESIs start again from the first after this many: K and a generous sending more are still multicast's.
const REPAIR_ESI_WRAP: u32 = ESI_MULTICAST_END / 2;

impl Identities {
    fn assign(&mut self, object: &Object) -> Toi {
        let key = (object.meta.url.clone(), object.meta.range.map(|r| r.first), object.meta.digest);
        if let Some(toi) = self.known.get(&key) {
            return *toi;
        }
        let toi = if self.of_content { self.free(&key) } else { self.next() };
        if self.order.len() >= REMEMBERED_OBJECTS
            && let Some(old) = self.order.pop_front()
            && let Some(old) = self.known.remove(&old)
        {
            self.used.remove(&old);
            self.taken.remove(&old);
        }
        self.taken.insert(toi);
        self.known.insert(key.clone(), toi);
        self.order.push_back(key);
        toi
    }

    fn next(&mut self) -> Toi {
        let toi = Toi(u128::from(self.next_toi));
        // TOI 0 is the FDT.
        self.next_toi = self.next_toi.checked_add(1).unwrap_or(1);
        toi
    }

    /// The first 32 bits of the BLAKE3 of URL, first byte and digest, or the next free number.
    fn free(&self, (url, first, digest): &Identity) -> Toi {
        let mut hasher = blake3::Hasher::new();
        hasher.update(url.as_bytes()).update(&[0]).update(&first.unwrap_or(0).to_be_bytes());
        hasher.update(&digest.map_or([0; 32], |d| d.0));
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        let mut toi = u32::from_be_bytes([a, b, c, d]);
        while toi == 0 || self.taken.contains(&Toi(toi.into())) {
            toi = toi.wrapping_add(1);
        }
        Toi(toi.into())
    }

    /// The first of `count` repair symbols of each block of an object that were not sent before.
    fn fresh(&mut self, toi: Toi, count: u32) -> u32 {
        let used = self.used.entry(toi).or_default();
        let first = if *used > REPAIR_ESI_WRAP { 0 } else { *used };
        *used = first.saturating_add(count);
        first
    }
}

impl SendSession {
    /// A session with nothing to send.
    pub fn new(config: SendConfig) -> SendSession {
        let identities = Identities {
            of_content: config.toi_of_content,
            taken: HashSet::new(),
            next_toi: config.first_toi.max(1),
            known: HashMap::new(),
            used: HashMap::new(),
            order: VecDeque::new(),
        };
        SendSession {
            announcer: Announcer::new(&config),
            config,
            now: Time::ZERO,
            wall: WallTime::default(),
            ready_at: Time::ZERO,
            queue: VecDeque::new(),
            sending: None,
            repairing: VecDeque::new(),
            fdt_packets: VecDeque::new(),
            identities,
            next_job: 0,
            commands: VecDeque::new(),
            events: VecDeque::new(),
            repair_turn: false,
            stats: SendStats::default(),
        }
    }

    /// One input; then drain [`SendSession::poll_output`].
    pub fn handle_input(&mut self, input: Input) {
        match input {
            Input::Object { now, wall, tag, object } => {
                (self.now, self.wall) = (now, wall);
                self.stats.queued_bytes += object.data.len() as u64;
                self.stats.queued_objects += 1;
                self.queue.push_back(Queued { tag, object });
            }
            Input::Encoded { now, result } => {
                self.now = now;
                if let Some(repairing) = self.repairing.iter_mut().find(|r| r.id == result.id) {
                    repairing.add(result);
                }
            }
            Input::Repair { now, toi, data, blocks } => {
                self.now = now;
                self.repair(toi, &data, blocks);
            }
            Input::Share { percent } => self.config.repair_percent = percent.min(limits::REPAIR_PERCENT_MAX),
            Input::Timeout { now, wall } => (self.now, self.wall) = (now, wall),
        }
    }

    /// Next output. A [`Transmit`]'s packets are written to `buf` (cleared first).
    pub fn poll_output(&mut self, buf: &mut Vec<u8>) -> Output {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Output::Event(event);
            }
            if let Some(job) = self.commands.pop_front() {
                return Output::Command(Command::Encode(job));
            }
            if self.sending.is_none() && self.start_next() {
                continue;
            }
            if self.finish_repaired() {
                continue;
            }
            let Some(at) = self.next_packet_at() else { return Output::Timeout(None) };
            if at > self.now {
                return Output::Timeout(Some(at));
            }
            if let Some(transmit) = self.transmit(buf) {
                self.account(transmit.len);
                return Output::Transmit(transmit);
            }
        }
    }

    /// Counters.
    pub fn stats(&self) -> &SendStats {
        &self.stats
    }

    /// The last packet of a session: A flag set (RFC 5775 section 4.1). For shutdown.
    pub fn close_packet(&self) -> Bytes {
        let mut out = Vec::new();
        AlcRepr { close_session: true, ..self.announcer.repr(PayloadId::default()) }.emit(&mut out);
        out.into()
    }

    /// Takes the next object from the queue: gives it a TOI, announces it, asks for its repair symbols.
    fn start_next(&mut self) -> bool {
        let Some(Queued { tag, object }) = self.queue.pop_front() else { return false };
        let length = object.data.len() as u64;
        if !can_describe(&object.meta) {
            return self.refuse(length);
        }
        let size = self.config.symbol_size;
        let raptorq = raptorq_oti(length, size);
        let code = raptorq.as_ref().and_then(|oti| Blocks::of(oti, u64::MAX).ok());
        let per_block =
            code.map_or(0, |b| repair_symbols(b.block_symbols(Sbn(0)), self.config.repair_percent));
        let toi = self.identities.assign(&object);
        let no_code = source_oti(length, size);
        let (oti, fec) = match (self.config.profile, raptorq) {
            (WireProfile::FluteRaptorq, Some(oti)) => (oti, RAPTORQ),
            _ => (no_code, NO_CODE),
        };
        let Ok(blocks) = Blocks::of(&oti, u64::MAX) else {
            // Only an object of more symbols than the code can name; the sender's own limit is far below.
            return self.refuse(length);
        };
        self.events.push_back(Event::Started { tag, toi });
        let repair_oti =
            raptorq.filter(|_| self.config.profile == WireProfile::Mabr && self.config.repair_flow);
        self.announcer.add(toi, object.meta.clone(), oti, repair_oti);
        self.queue_fdt(length);
        if let Some((code, oti)) = code.filter(|_| per_block > 0).zip(raptorq) {
            let percent = self.config.repair_percent;
            let wanted =
                (0..code.count()).map(|i| (Sbn(i), repair_symbols(code.block_symbols(Sbn(i)), percent)));
            let id = self.ask_repair(toi, &object.data, &code, wanted.collect());
            self.repairing.push_back(Repairing::new(id, Some((tag, length)), toi, oti, code.count()));
        }
        self.sending = Some(Sending::new(tag, toi, fec, blocks, code.unwrap_or(blocks), object.data));
        true
    }

    fn refuse(&mut self, length: u64) -> bool {
        self.stats.refused_objects += 1;
        self.forget_queued(length);
        true
    }

    /// Has fresh symbols made; returns the handle of the jobs.
    fn ask_repair(&mut self, toi: Toi, data: &Bytes, code: &Blocks, wanted: Vec<(Sbn, u32)>) -> u64 {
        self.next_job += 1;
        let first = self.identities.fresh(toi, wanted.iter().map(|(_, n)| *n).max().unwrap_or(0));
        for (sbn, count) in wanted {
            let from = Esi(code.block_symbols(sbn).saturating_add(first));
            if let Some(job) = EncodeJob::of_object(toi, data, code, sbn, from, count) {
                self.commands.push_back(EncodeJob { id: self.next_job, ..job });
            }
        }
        self.next_job
    }

    /// Repair symbols that receivers asked for: at once, as fast as the flow allows.
    fn repair(&mut self, toi: Toi, data: &Bytes, mut wanted: Vec<(Sbn, u32)>) {
        let Some(oti) = raptorq_oti(data.len() as u64, self.config.symbol_size) else { return };
        let Ok(code) = Blocks::of(&oti, u64::MAX) else { return };
        wanted.retain(|(sbn, n)| sbn.0 < code.count() && *n > 0);
        wanted.sort_unstable();
        wanted.dedup_by_key(|(sbn, _)| *sbn);
        if wanted.is_empty() {
            return;
        }
        let blocks = wanted.len() as u32; // at most 255
        let id = self.ask_repair(toi, data, &code, wanted);
        let mut repairing = Repairing::new(id, None, toi, oti, blocks);
        repairing.release(self.now, Duration::ZERO);
        self.repairing.push_back(repairing);
    }

    fn repairing_mut(&mut self, toi: Toi) -> Option<&mut Repairing> {
        // The newest of this TOI: an object may be sent again while its last repair symbols are still leaving.
        self.repairing.iter_mut().rev().find(|r| r.toi == toi && r.object.is_some())
    }

    fn queue_fdt(&mut self, object_length: u64) {
        let bytes = self.announcer.instance(self.wall, object_length);
        self.fdt_packets.extend(bytes);
    }

    /// When the next packet may leave; `None`: there is none.
    fn next_packet_at(&self) -> Option<Time> {
        if !self.fdt_packets.is_empty() || self.sending.is_some() {
            return Some(self.ready_at);
        }
        let repair = self.repairing.iter().filter_map(Repairing::next_at).min()?;
        Some(repair.max(self.ready_at))
    }

    fn transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        buf.clear();
        if !self.fdt_packets.is_empty() {
            return Some(self.transmit_fdt(buf));
        }
        let due = self.repairing.iter().position(|r| r.next_at().is_some_and(|at| at <= self.now));
        if let Some(i) = due
            && (self.sending.is_none() || self.repair_turn)
        {
            self.repair_turn = false;
            return Some(self.transmit_repair(i, buf));
        }
        self.repair_turn = true;
        self.transmit_source(buf)
    }

    fn transmit_fdt(&mut self, buf: &mut Vec<u8>) -> Transmit {
        let size = self.fdt_packets.front().map_or(0, Vec::len);
        // FDT packets but the last of an instance are of one size; a batch ends at the first shorter one.
        while let Some(packet) = self.fdt_packets.pop_front() {
            let ends = packet.len() < size || self.fdt_packets.front().is_some_and(|p| p.len() > size);
            buf.extend_from_slice(&packet);
            self.stats.packets += 1;
            if ends || buf.len() / size.max(1) >= self.config.max_segments {
                break;
            }
        }
        self.stats.fdt_bytes += buf.len() as u64;
        Transmit { flow: FlowKind::Source, len: buf.len(), segment_size: size }
    }

    /// Packets of a batch: about two milliseconds' worth. Less, and a fast flow wakes up more than it works; more, and a slow
    /// one bursts.
    fn batch(&self) -> usize {
        let packet_bits = (u64::from(self.config.symbol_size) + 36) * 8;
        let worth = self.config.rate_bps / 500 / packet_bits;
        usize::try_from(worth).unwrap_or(usize::MAX).clamp(1, self.config.max_segments.max(1))
    }

    fn transmit_source(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let batch = self.batch();
        let sending = self.sending.as_mut()?;
        let close = self.config.close_objects && self.config.repair_percent == 0;
        let (packets, segment_size) = sending.write(self.config.tsi, close, batch, buf);
        self.stats.packets += packets as u64;
        self.stats.source_bytes += buf.len() as u64;
        let (again, length) = (sending.passes_half(), sending.length());
        if sending.is_done() {
            let (tag, toi) = (sending.tag, sending.toi);
            self.sending = None;
            self.source_sent(tag, toi, length);
        } else if again {
            self.queue_fdt(length);
        }
        (!buf.is_empty()).then_some(Transmit { flow: FlowKind::Source, len: buf.len(), segment_size })
    }

    fn source_sent(&mut self, tag: ObjectTag, toi: Toi, length: u64) {
        self.events.push_back(Event::SourceSent { tag, toi });
        let (now, spread) = (self.now, self.config.repair_spread);
        match self.repairing_mut(toi) {
            Some(repairing) => repairing.release(now, spread),
            None => self.sent(tag, toi, length),
        }
    }

    fn sent(&mut self, tag: ObjectTag, toi: Toi, length: u64) {
        self.queue_fdt(length);
        self.events.push_back(Event::Sent { tag, toi });
        self.stats.objects += 1;
        self.forget_queued(length);
    }

    fn forget_queued(&mut self, length: u64) {
        self.stats.queued_bytes = self.stats.queued_bytes.saturating_sub(length);
        self.stats.queued_objects = self.stats.queued_objects.saturating_sub(1);
    }

    fn transmit_repair(&mut self, i: usize, buf: &mut Vec<u8>) -> Transmit {
        let batch = self.batch();
        let tsi = match self.config.profile {
            WireProfile::Mabr => self.config.repair_tsi,
            WireProfile::FluteRaptorq => self.config.tsi,
        };
        let close = self.config.close_objects;
        let mut segment_size = 0;
        if let Some(repairing) = self.repairing.get_mut(i) {
            let packets = repairing.write(tsi, close, batch, self.now, buf);
            segment_size = buf.len() / packets.max(1);
            self.stats.packets += packets as u64;
            if repairing.object.is_none() {
                self.stats.requested_bytes += buf.len() as u64;
            }
        }
        self.stats.repair_bytes += buf.len() as u64;
        let flow = match self.config.profile {
            WireProfile::Mabr => FlowKind::Repair,
            WireProfile::FluteRaptorq => FlowKind::Source,
        };
        Transmit { flow, len: buf.len(), segment_size }
    }

    /// Ends the first object whose repair symbols have all left.
    fn finish_repaired(&mut self) -> bool {
        let Some(i) = self.repairing.iter().position(Repairing::is_done) else { return false };
        if let Some(done) = self.repairing.remove(i)
            && let Some((tag, length)) = done.object
        {
            self.sent(tag, done.toi, length);
        }
        true
    }

    fn account(&mut self, bytes: usize) {
        let nanos = (bytes as u128 * 8 * 1_000_000_000 / u128::from(self.config.rate_bps.max(1))) as u64;
        // A driver that wakes late may catch up on at most this much, or a pause would end in a burst.
        let floor = Time::from_nanos(self.now.as_nanos().saturating_sub(CATCH_UP.as_nanos() as u64));
        self.ready_at = self.ready_at.max(floor) + Duration::from_nanos(nanos);
    }
}

/// How much lateness of the driver is made up for.
const CATCH_UP: Duration = Duration::from_millis(4);
