//! The switch all hosts hang on: forwards by MAC address and membership, through the pipes of two legs, and counts.

use super::frame::{self, Kind, TrafficClass};
use super::pipe::{Cause, Impairment, Packet, Pipe};
use super::snoop::Membership;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

/// Entries of the trace; later ones are counted only.
const TRACE_MAX: usize = 400_000;
/// Groups that are counted, over all legs.
const GROUPS_MAX: usize = 16_384;
/// Frames that are ready for hosts. Beyond it the oldest waits no longer.
const READY_MAX: usize = 65_536;

/// Seen from the host of the leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the host.
    Up,
    /// To the host.
    Down,
}

/// Frames and bytes of Ethernet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// Frames that came.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these frames, those that were dropped.
    pub dropped: u64,
}

/// Something that was done to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// When.
    pub at: Instant,
    /// Index of the leg.
    pub leg: usize,
    /// Direction.
    pub direction: Direction,
    /// Class.
    pub class: TrafficClass,
    /// Number of the packet in this leg, direction and class, from 0.
    pub index: u64,
    /// What.
    pub cause: Cause,
    /// Length of the frame.
    pub length: usize,
    /// Group and port, when it is multicast.
    pub to: Option<(IpAddr, u16)>,
}

#[derive(Debug)]
struct Leg {
    mac: [u8; 6],
    members: Membership,
    /// Directions, then classes.
    pipes: [[Pipe; 3]; 2],
    counts: [[Count; 3]; 2],
}

/// See the module.
#[derive(Debug)]
pub struct Switch {
    legs: Vec<Leg>,
    ready: VecDeque<(usize, Bytes)>,
    trace: Vec<Trace>,
    untraced: u64,
    /// Unicast frames and bytes by leg of departure and arrival, as delivered.
    pairs: BTreeMap<(usize, usize), Count>,
    /// Multicast frames and bytes towards a leg, by group.
    groups: BTreeMap<(usize, IpAddr), Count>,
    overflow: u64,
}

impl Switch {
    /// One leg for each MAC address. `seed` decides the fate of all packets.
    pub fn new(macs: &[[u8; 6]], seed: u64) -> Switch {
        let leg = |(number, mac): (usize, &[u8; 6])| {
            let pipe = |direction: u64, class: usize| {
                // Different streams of random numbers for each pipe.
                let id = number as u64 * 16 + direction * 8 + class as u64;
                Pipe::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(id))
            };
            Leg {
                mac: *mac,
                members: Membership::default(),
                pipes: [0, 1].map(|d| [0, 1, 2].map(|c| pipe(d, c))),
                counts: Default::default(),
            }
        };
        Switch {
            legs: macs.iter().enumerate().map(leg).collect(),
            ready: VecDeque::new(),
            trace: Vec::new(),
            untraced: 0,
            pairs: BTreeMap::new(),
            groups: BTreeMap::new(),
            overflow: 0,
        }
    }

    /// Changes what happens on a leg.
    pub fn set(&mut self, leg: usize, direction: Direction, class: TrafficClass, impairment: &Impairment) {
        if let Some(leg) = self.legs.get_mut(leg) {
            leg.pipes[direction as usize][class.index()].set(impairment);
        }
    }

    /// A host sent a frame.
    pub fn receive(&mut self, now: Instant, leg: usize, frame: Bytes) {
        let kind = frame::classify(&frame);
        let class = kind.class();
        let packet = Packet { frame, from: leg, datagram: datagram(&kind) };
        if let Some(packet) = self.offer(now, leg, Direction::Up, class, packet) {
            self.forward(now, packet, kind);
        }
    }

    /// Through a pipe; what may pass at once is returned.
    fn offer(
        &mut self,
        now: Instant,
        number: usize,
        direction: Direction,
        class: TrafficClass,
        packet: Packet,
    ) -> Option<Packet> {
        let leg = self.legs.get_mut(number)?;
        let count = &mut leg.counts[direction as usize][class.index()];
        let (index, length) = (count.frames, packet.frame.len());
        count.frames += 1;
        count.bytes += length as u64;
        let pipe = &mut leg.pipes[direction as usize][class.index()];
        if pipe.is_clear() {
            return Some(packet);
        }
        let to = packet.datagram.map(|d| (d.group, d.port));
        pipe.offer(now, packet, |cause| {
            count.dropped += u64::from(cause.drops());
            if self.trace.len() < TRACE_MAX {
                self.trace.push(Trace { at: now, leg: number, direction, class, index, cause, length, to });
            } else {
                self.untraced += 1;
            }
        });
        None
    }

    /// A frame that is through the pipe of the host that sent it.
    fn forward(&mut self, now: Instant, packet: Packet, kind: Kind) {
        let (from, class) = (packet.from, kind.class());
        let targets: Vec<usize> = match kind {
            Kind::Multicast(d) => self.others(from, |leg| leg.members.wants(d.source, d.group)),
            Kind::Report(records) => {
                if let Some(leg) = self.legs.get_mut(from) {
                    records.into_iter().for_each(|(group, change)| leg.members.change(group, change));
                }
                return;
            }
            Kind::Local if frame::destination(&packet.frame)[0] & 1 == 1 => self.others(from, |_| true),
            Kind::Unicast | Kind::Local => {
                let mac = frame::destination(&packet.frame);
                self.others(from, |leg| leg.mac == mac)
            }
        };
        for to in targets {
            self.note_group(to, &packet);
            if let Some(packet) = self.offer(now, to, Direction::Down, class, packet.clone()) {
                self.deliver(to, packet, class);
            }
        }
    }

    fn note_group(&mut self, to: usize, packet: &Packet) {
        let Some(group) = packet.datagram.map(|d| d.group) else { return };
        if self.groups.len() < GROUPS_MAX || self.groups.contains_key(&(to, group)) {
            let count = self.groups.entry((to, group)).or_default();
            count.frames += 1;
            count.bytes += packet.frame.len() as u64;
        }
    }

    fn others(&self, from: usize, want: impl Fn(&Leg) -> bool) -> Vec<usize> {
        let found = self.legs.iter().enumerate().filter(|(n, leg)| *n != from && want(leg));
        found.map(|(n, _)| n).collect()
    }

    fn deliver(&mut self, to: usize, packet: Packet, class: TrafficClass) {
        if class == TrafficClass::Unicast {
            let pair = self.pairs.entry((packet.from, to)).or_default();
            pair.frames += 1;
            pair.bytes += packet.frame.len() as u64;
        }
        if self.ready.len() >= READY_MAX {
            self.ready.pop_front();
            self.overflow += 1;
        }
        self.ready.push_back((to, packet.frame));
    }

    /// The next frame for a host: which leg, and the frame.
    pub fn poll(&mut self, now: Instant) -> Option<(usize, Bytes)> {
        if self.ready.is_empty() {
            self.advance(now);
        }
        self.ready.pop_front()
    }

    /// Moves on what is due.
    fn advance(&mut self, now: Instant) {
        for number in 0..self.legs.len() {
            for class in TrafficClass::ALL {
                while let Some(packet) = self.due(now, number, Direction::Up, class) {
                    let kind = frame::classify(&packet.frame);
                    self.forward(now, packet, kind);
                }
            }
        }
        for number in 0..self.legs.len() {
            for class in TrafficClass::ALL {
                while let Some(packet) = self.due(now, number, Direction::Down, class) {
                    self.deliver(number, packet, class);
                }
            }
        }
    }

    fn due(&mut self, now: Instant, leg: usize, direction: Direction, class: TrafficClass) -> Option<Packet> {
        self.legs[leg].pipes[direction as usize][class.index()].poll(now)
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        let pipes = self.legs.iter().flat_map(|l| l.pipes.iter().flatten());
        pipes.filter_map(Pipe::next).min()
    }

    /// Frames and bytes of a leg.
    pub fn count(&self, leg: usize, direction: Direction, class: TrafficClass) -> Count {
        self.legs.get(leg).map(|l| l.counts[direction as usize][class.index()]).unwrap_or_default()
    }

    /// Unicast delivered between two legs so far.
    pub fn between(&self, from: usize, to: usize) -> Count {
        self.pairs.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Multicast of a group sent down a leg so far, before anything was done to it there.
    pub fn of_group(&self, leg: usize, group: IpAddr) -> Count {
        self.groups.get(&(leg, group)).copied().unwrap_or_default()
    }

    /// Whether the host of a leg would get what `source` sends to `group`.
    pub fn carries(&self, leg: usize, source: IpAddr, group: IpAddr) -> bool {
        self.legs.get(leg).is_some_and(|l| l.members.wants(source, group))
    }

    /// What was done to packets, in order, and how many entries did not fit.
    pub fn trace(&self) -> (&[Trace], u64) {
        (&self.trace, self.untraced)
    }

    /// Frames the emulator itself could not hold; anything but 0 spoils a measurement.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }
}

fn datagram(kind: &Kind) -> Option<frame::Datagram> {
    match kind {
        Kind::Multicast(datagram) => Some(*datagram),
        _ => None,
    }
}
