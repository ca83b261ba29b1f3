//! One direction of one leg for one class of traffic: loss, outage, corruption, forgery, delay, jitter, rate, queue,
//! duplicates, reordering. Random numbers are seeded and drawn per packet, so the fate of the n-th packet depends on the
//! seed and n only.

use super::frame::{self, Datagram};
use crate::link::Percent;
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::{Duration, Instant};
use str0m_netem::{
    Bitrate, DataSize, GilbertElliot, Input, LossModel as Model, Netem, NetemConfig, Output, Probability,
    RandomLoss,
};

/// How packets are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LossModel {
    /// None is.
    #[default]
    None,
    /// Each on its own.
    Independent(Percent),
    /// Gilbert-Elliott: the mean share, and the mean number lost in a row.
    Bursts(Percent, f64),
}

impl LossModel {
    /// The mean share.
    pub fn share(self) -> Percent {
        match self {
            LossModel::None => Percent::default(),
            LossModel::Independent(share) | LossModel::Bursts(share, _) => share,
        }
    }

    fn model(self) -> Model {
        match self {
            LossModel::None => Model::None,
            LossModel::Independent(share) => {
                RandomLoss::new(Probability::new(share.fraction() as f32)).into()
            }
            LossModel::Bursts(share, burst) => {
                let loss = share.fraction().clamp(1e-6, 0.999);
                let burst = burst.max(1.0);
                let good = burst * (1.0 - loss) / loss;
                GilbertElliot::new().good_duration(good as f32).bad_duration(burst as f32).into()
            }
        }
    }
}

/// What happens to the packets of a pipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Random loss.
    pub loss: LossModel,
    /// Nothing passes.
    pub outage: bool,
    /// Delay of each packet.
    pub delay: Duration,
    /// Largest deviation from it, either way; order is kept.
    pub jitter: Duration,
    /// Share of packets that are held back so that later ones overtake them.
    pub reorder: Percent,
    /// For how long at most.
    pub reorder_by: Duration,
    /// Share that comes twice.
    pub duplicate: Percent,
    /// Share of multicast packets with a flipped bit and a checksum that is right.
    pub corrupt: Percent,
    /// Share of multicast packets after which a forged one follows: the headers of the real one and other content.
    pub forge: Percent,
    /// Bottleneck, bit/s of Ethernet frames.
    pub rate: Option<u64>,
    /// Bytes that may wait for the bottleneck.
    pub queue: Option<usize>,
}

/// Queue of a bottleneck when none is given: what a home router has.
const QUEUE: usize = 256 << 10;
/// Hold-back of reordered packets when none is given.
const REORDER_BY: Duration = Duration::from_millis(20);

/// Why a packet did not pass, or not as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Random loss.
    Loss,
    /// An outage.
    Outage,
    /// The bottleneck's queue was full.
    Queue,
    /// Came twice.
    Duplicate,
    /// A bit was flipped.
    Corrupt,
    /// A forged packet was put behind it.
    Forge,
    /// Held back so that others overtook it.
    Reorder,
}

impl Cause {
    /// Lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cause::Loss => "loss",
            Cause::Outage => "outage",
            Cause::Queue => "queue",
            Cause::Duplicate => "duplicate",
            Cause::Corrupt => "corrupt",
            Cause::Forge => "forge",
            Cause::Reorder => "reorder",
        }
    }

    /// Whether the packet is gone.
    pub const fn drops(self) -> bool {
        matches!(self, Cause::Loss | Cause::Outage | Cause::Queue)
    }
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The frame.
    pub frame: Bytes,
    /// Leg it came from.
    pub from: usize,
    /// Its UDP datagram, when it is multicast.
    pub datagram: Option<Datagram>,
}

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

/// A packet that is held back.
struct Late {
    due: Instant,
    order: u64,
    packet: Packet,
}

impl PartialEq for Late {
    fn eq(&self, other: &Late) -> bool {
        self.order == other.order
    }
}
impl Eq for Late {}
impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Late) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Late {
    fn cmp(&self, other: &Late) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// See the module.
pub struct Pipe {
    impairment: Impairment,
    seed: u64,
    /// Loss and duplicates; nothing stays in it.
    fate: Netem<Packet>,
    /// Delay, jitter, rate and queue.
    way: Netem<Packet>,
    /// Packets that are held back.
    late: BinaryHeap<Reverse<Late>>,
    rng: fastrand::Rng,
    passed: u64,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("impairment", &self.impairment).finish_non_exhaustive()
    }
}

impl Pipe {
    /// A pipe that does nothing yet.
    pub fn new(seed: u64) -> Pipe {
        let impairment = Impairment::default();
        Pipe {
            fate: Netem::new(fate(&impairment, seed)),
            way: Netem::new(way(&impairment, seed)),
            late: BinaryHeap::new(),
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            impairment,
            seed,
            passed: 0,
        }
    }

    /// From now on, another behaviour; packets on their way keep theirs. Random numbers start anew.
    pub fn set(&mut self, impairment: &Impairment) {
        if *impairment == self.impairment {
            return;
        }
        // An outage alone must not change the fate of the packets after it.
        let same = Impairment { outage: self.impairment.outage, ..impairment.clone() } == self.impairment;
        self.impairment = impairment.clone();
        if !same {
            self.fate.set_config(fate(impairment, self.seed));
            self.way.set_config(way(impairment, self.seed));
            self.rng = fastrand::Rng::with_seed(self.seed ^ 0x5eed);
        }
    }

    /// What it does now.
    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// Whether packets may skip it.
    pub fn is_clear(&self) -> bool {
        self.impairment == Impairment::default() && self.way.is_empty() && self.late.is_empty()
    }

    /// A packet comes. `note` hears what is done to it.
    pub fn offer(&mut self, now: Instant, packet: Packet, mut note: impl FnMut(Cause)) {
        // Drawn for every packet, used or not: so the fate of the n-th packet does not depend on the others'.
        let [hold, bit_flip, forgery] = std::array::from_fn(|_| self.rng.f64());
        let pattern = self.rng.u64(..);
        self.fate.handle_input(Input::Packet(now, packet.clone()));
        let mut copies: Vec<Packet> = Vec::new();
        while let Some(Output::Packet(copy)) = self.fate.poll_output() {
            copies.push(copy);
        }
        if self.impairment.outage {
            return note(Cause::Outage);
        }
        if copies.is_empty() {
            return note(Cause::Loss);
        }
        if copies.len() > 1 {
            note(Cause::Duplicate);
        }
        if let Some(datagram) = packet.datagram {
            if bit_flip < self.impairment.corrupt.fraction() {
                note(Cause::Corrupt);
                let altered = frame::alter_payload(&packet.frame, &datagram, |p| flip(p, pattern));
                copies[0].frame = altered;
            }
            if forgery < self.impairment.forge.fraction() {
                note(Cause::Forge);
                let forged = frame::alter_payload(&packet.frame, &datagram, |p| forge(p, pattern));
                copies.push(Packet { frame: forged, ..packet });
            }
        }
        let held = hold < self.impairment.reorder.fraction();
        for copy in copies {
            if held {
                note(Cause::Reorder);
                self.hold_back(now, copy, pattern);
            } else {
                self.travel(now, copy, &mut note);
            }
        }
    }

    fn travel(&mut self, now: Instant, packet: Packet, note: &mut impl FnMut(Cause)) {
        let before = self.way.queue_len();
        self.way.handle_input(Input::Packet(now, packet));
        if self.way.queue_len() == before {
            note(Cause::Queue);
        }
    }

    fn hold_back(&mut self, now: Instant, packet: Packet, pattern: u64) {
        let most = if self.impairment.reorder_by.is_zero() { REORDER_BY } else { self.impairment.reorder_by };
        // Half to all of it.
        let share = 0.5 + (pattern % 1000) as f64 / 2000.0;
        self.passed += 1;
        let due = now + self.impairment.delay + most.mul_f64(share);
        self.late.push(Reverse(Late { due, order: self.passed, packet }));
    }

    /// The next packet that is due at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Packet> {
        if self.late.peek().is_some_and(|l| l.0.due <= now) {
            return self.late.pop().map(|l| l.0.packet);
        }
        if self.way.is_empty() {
            return None;
        }
        self.way.handle_input(Input::Timeout(now));
        match self.way.poll_output() {
            Some(Output::Packet(packet)) => Some(packet),
            Some(Output::Timeout(_)) | None => None,
        }
    }

    /// When the next packet is due; `None`: none is on its way.
    pub fn next(&self) -> Option<Instant> {
        let way = (!self.way.is_empty()).then(|| self.way.poll_timeout());
        let late = self.late.peek().map(|l| l.0.due);
        way.into_iter().chain(late).min()
    }
}

fn fate(impairment: &Impairment, seed: u64) -> NetemConfig {
    let duplicate = Probability::new(impairment.duplicate.fraction() as f32);
    NetemConfig::new().loss(impairment.loss.model()).duplicate(duplicate).seed(seed)
}

fn way(impairment: &Impairment, seed: u64) -> NetemConfig {
    let config =
        NetemConfig::new().latency(impairment.delay).jitter(impairment.jitter).seed(seed.wrapping_add(1));
    match impairment.rate {
        Some(rate) => {
            let queue = impairment.queue.unwrap_or(QUEUE);
            config.link(Bitrate::bps(rate), DataSize::bytes(i64::try_from(queue).unwrap_or(i64::MAX)))
        }
        None => config,
    }
}

fn flip(payload: &mut [u8], pattern: u64) {
    let bits = payload.len() as u64 * 8;
    if bits > 0 {
        let bit = pattern % bits;
        if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| payload.get_mut(at)) {
            *byte ^= 1 << (bit % 8);
        }
    }
}

/// What an attacker who hears the flow can send: other symbols under the same headers, other symbol numbers, noise.
fn forge(payload: &mut [u8], pattern: u64) {
    let mut rng = fastrand::Rng::with_seed(pattern);
    let length = payload.len();
    let from = match pattern % 4 {
        // The headers stay: LCT and FEC Payload ID take less than 32 bytes of a media packet.
        0 | 1 => length.min(64),
        // From somewhere in the headers on.
        2 => rng.usize(4..32).min(length),
        _ => 0,
    };
    rng.fill(&mut payload[from..]);
}
