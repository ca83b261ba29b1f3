//! The sending engine of one rendition: objects in, paced packets out.

mod announce;
mod api;
mod outgoing;

use crate::catalog::WireProfile;
use crate::fec::partition::{raptorq_oti, source_oti};
use crate::fec::raptorq::{ESI_LAYER_2, repair_symbols};
use crate::fec::{Blocks, EncodeJob};
use crate::ids::{Esi, Sbn, Toi, Tsi};
use crate::limits;
use crate::object::{Digest, Object};
use crate::time::{Time, WallTime};
use crate::wire::alc::{AlcRepr, PayloadId};
use crate::wire::fdt::can_describe;
use crate::wire::fti::{NO_CODE, Oti, RAPTORQ};
use announce::Announcer;
pub use api::{
    Command, Event, FlowKind, Input, LayerConfig, ObjectTag, Output, SendConfig, SendStats, Transmit,
};
use bytes::Bytes;
use outgoing::{Purpose, Repairing, Sending};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

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
    /// By layer.
    used: HashMap<Toi, [u32; 2]>,
    order: VecDeque<Identity>,
}

/// What makes an object the same one: URL, first byte of its range, digest.
type Identity = (String, Option<u64>, Option<Digest>);

/// Objects remembered for a second sending: the oldest is forgotten (and would get a new TOI).
const REMEMBERED_OBJECTS: usize = 65_536;
/// Repair ESIs start again from the first after this many: K and a generous sending more are still the layer's.
const REPAIR_ESI_WRAP: u32 = ESI_LAYER_2 / 2;

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

    /// The first of `count` repair symbols of each block of an object that the layer has not sent before.
    fn fresh(&mut self, toi: Toi, layer: usize, count: u32) -> u32 {
        let [first, second] = self.used.entry(toi).or_default();
        let used = if layer == 0 { first } else { second };
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
        self.queue_fdt(toi, length);
        if let Some(code) = code.zip(raptorq) {
            let object = (toi, &object.data);
            self.start_repair(Purpose::Object { tag, length }, self.config.repair_percent, object, code);
            let percent = self.config.layer_2.map_or(0, |layer| layer.percent);
            self.start_repair(Purpose::Layer2, percent, object, code);
        }
        self.sending = Some(Sending::new(tag, toi, fec, blocks, code.unwrap_or(blocks), object.data));
        true
    }

    /// Has the repair symbols made that are sent with an object in any case.
    fn start_repair(
        &mut self,
        purpose: Purpose,
        percent: u32,
        (toi, data): (Toi, &Bytes),
        (code, oti): (Blocks, Oti),
    ) {
        let of_block = |i| (Sbn(i), repair_symbols(code.block_symbols(Sbn(i)), percent));
        let wanted: Vec<(Sbn, u32)> = (0..code.count()).map(of_block).filter(|(_, n)| *n > 0).collect();
        if wanted.is_empty() {
            return;
        }
        let id = self.ask_repair(toi, data, &code, purpose, wanted);
        self.repairing.push_back(Repairing::new(id, purpose, toi, oti, code.count()));
    }

    fn refuse(&mut self, length: u64) -> bool {
        self.stats.refused_objects += 1;
        self.forget_queued(length);
        true
    }

    /// Has fresh symbols made; returns the handle of the jobs.
    fn ask_repair(
        &mut self,
        toi: Toi,
        data: &Bytes,
        code: &Blocks,
        purpose: Purpose,
        wanted: Vec<(Sbn, u32)>,
    ) -> u64 {
        self.next_job += 1;
        let most = wanted.iter().map(|(_, n)| *n).max().unwrap_or(0);
        let second = purpose == Purpose::Layer2;
        let first = self.identities.fresh(toi, usize::from(second), most);
        for (sbn, count) in wanted {
            let base = if second { ESI_LAYER_2 } else { code.block_symbols(sbn) };
            let from = Esi(base.saturating_add(first));
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
        let id = self.ask_repair(toi, data, &code, Purpose::Requested, wanted);
        let mut repairing = Repairing::new(id, Purpose::Requested, toi, oti, blocks);
        repairing.release(self.now, Duration::ZERO);
        self.repairing.push_back(repairing);
    }

    /// The newest of this TOI: an object may be sent again while its last repair symbols are still leaving.
    fn repairing_mut(&mut self, toi: Toi, is: impl Fn(Purpose) -> bool) -> Option<&mut Repairing> {
        self.repairing.iter_mut().rev().find(|r| r.toi == toi && is(r.purpose))
    }

    fn queue_fdt(&mut self, toi: Toi, length: u64) {
        let packets = self.announcer.announce(toi, self.wall, length);
        self.fdt_packets.extend(packets);
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
        let (tag, toi) = (sending.tag, sending.toi);
        if sending.is_done() {
            self.sending = None;
            self.source_sent(tag, toi, length);
        } else if again {
            self.queue_fdt(toi, length);
        }
        (!buf.is_empty()).then_some(Transmit { flow: FlowKind::Source, len: buf.len(), segment_size })
    }

    fn source_sent(&mut self, tag: ObjectTag, toi: Toi, length: u64) {
        self.events.push_back(Event::SourceSent { tag, toi });
        let (now, spread) = (self.now, self.config.repair_spread);
        if let Some(second) = self.repairing_mut(toi, |p| p == Purpose::Layer2) {
            second.release(now, spread);
        }
        match self.repairing_mut(toi, |p| matches!(p, Purpose::Object { .. })) {
            Some(repairing) => repairing.release(now, spread),
            None => self.sent(tag, toi, length),
        }
    }

    fn sent(&mut self, tag: ObjectTag, toi: Toi, length: u64) {
        self.queue_fdt(toi, length);
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
        let purpose = self.repairing.get(i).map(|r| r.purpose);
        let (flow, tsi) = self.repair_session(purpose);
        let close = self.config.close_objects && purpose != Some(Purpose::Layer2);
        let mut segment_size = 0;
        if let Some(repairing) = self.repairing.get_mut(i) {
            let packets = repairing.write(tsi, close, batch, self.now, buf);
            segment_size = buf.len() / packets.max(1);
            self.stats.packets += packets as u64;
        }
        let bytes = buf.len() as u64;
        match purpose {
            Some(Purpose::Layer2) => self.stats.layer_2_bytes += bytes,
            Some(Purpose::Requested) => self.stats.requested_bytes += bytes,
            Some(Purpose::Object { .. }) | None => {}
        }
        if flow != FlowKind::Layer2 {
            self.stats.repair_bytes += bytes;
        }
        Transmit { flow, len: buf.len(), segment_size }
    }

    /// Which session repair symbols are sent in.
    fn repair_session(&self, purpose: Option<Purpose>) -> (FlowKind, Tsi) {
        match (purpose, self.config.layer_2, self.config.profile) {
            (Some(Purpose::Layer2), Some(layer), _) => (FlowKind::Layer2, layer.tsi),
            (_, _, WireProfile::Mabr) => (FlowKind::Repair, self.config.repair_tsi),
            (_, _, WireProfile::FluteRaptorq) => (FlowKind::Source, self.config.tsi),
        }
    }

    /// Ends the first object whose repair symbols have all left.
    fn finish_repaired(&mut self) -> bool {
        let Some(i) = self.repairing.iter().position(Repairing::is_done) else { return false };
        if let Some(done) = self.repairing.remove(i)
            && let Purpose::Object { tag, length } = done.purpose
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
