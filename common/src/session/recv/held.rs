//! Packets that came before the FDT that describes them: kept, within bounds, and given back when it comes.

use crate::ids::Toi;
use crate::limits;
use crate::time::Time;
use crate::wire::alc::PayloadId;
use std::collections::BTreeMap;
use std::time::Duration;

/// A packet waits this long for its FDT.
const PATIENCE: Duration = Duration::from_secs(5);

/// A packet that waits.
#[derive(Debug)]
pub(super) struct HeldPacket {
    pub(super) codepoint: u8,
    pub(super) payload_id: PayloadId,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug, Default)]
struct OfObject {
    since: Time,
    /// Of the newest packet.
    last: Time,
    packets: Vec<HeldPacket>,
}

/// Waiting packets by object.
#[derive(Debug, Default)]
pub(super) struct Held {
    objects: BTreeMap<Toi, OfObject>,
    bytes: usize,
}

/// What a waiting packet costs beyond its payload.
const OVERHEAD: usize = 64;

impl Held {
    /// Keeps a packet; false when there is no room.
    pub(super) fn push(&mut self, toi: Toi, packet: HeldPacket, limit: usize, now: Time) -> bool {
        let cost = packet.payload.len() + OVERHEAD;
        let is_new = !self.objects.contains_key(&toi);
        if self.bytes + cost > limit || is_new && self.objects.len() >= limits::HELD_OBJECTS {
            return false;
        }
        self.bytes += cost;
        let fresh = || OfObject { since: now, last: now, packets: Vec::new() };
        let object = self.objects.entry(toi).or_insert_with(fresh);
        object.last = now;
        object.packets.push(packet);
        true
    }

    /// Gives back what waited for this object.
    pub(super) fn take(&mut self, toi: Toi) -> Vec<HeldPacket> {
        let packets = self.objects.remove(&toi).map(|o| o.packets).unwrap_or_default();
        self.bytes -= cost(&packets);
        packets
    }

    /// Drops what waited too long; returns how many packets.
    pub(super) fn expire(&mut self, now: Time) -> u64 {
        let old: Vec<Toi> =
            self.objects.iter().filter(|(_, o)| now >= o.since + PATIENCE).map(|(t, _)| *t).collect();
        old.into_iter().map(|toi| self.take(toi).len() as u64).sum()
    }

    /// When the first of them will have waited too long.
    pub(super) fn expires_at(&self) -> Option<Time> {
        self.objects.values().map(|o| o.since + PATIENCE).min()
    }

    /// When the newest of them came.
    pub(super) fn last(&self) -> Option<Time> {
        self.objects.values().map(|o| o.last).max()
    }

    /// Memory held.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(packets: &[HeldPacket]) -> usize {
    packets.iter().map(|p| p.payload.len() + OVERHEAD).sum()
}
