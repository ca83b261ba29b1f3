//! Descriptions without OTI: they wait, within bounds, for a packet that tells how the object is cut.

use crate::ids::Toi;
use crate::limits;
use crate::object::ObjectMeta;
use crate::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// What waits, by object.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    objects: BTreeMap<Toi, (Time, ObjectMeta)>,
    bytes: u64,
}

impl Waiting {
    /// Memory that a description takes here.
    pub(super) fn cost(meta: &ObjectMeta) -> u64 {
        // What does not differ: the description itself and its place in the map.
        let fixed = size_of::<(Toi, Time, ObjectMeta)>() * 2;
        meta.heap_bytes() + fixed as u64
    }

    /// Keeps a description. Returns whether the oldest had to go for it.
    pub(super) fn push(&mut self, toi: Toi, meta: ObjectMeta, now: Time) -> bool {
        self.take(toi);
        let full = self.objects.len() >= limits::OBJECTS_WAITING;
        if full && let Some(oldest) = self.objects.iter().min_by_key(|(_, (since, _))| *since) {
            self.take(*oldest.0);
        }
        self.bytes += Waiting::cost(&meta);
        self.objects.insert(toi, (now, meta));
        full
    }

    /// Gives back the description of this object.
    pub(super) fn take(&mut self, toi: Toi) -> Option<ObjectMeta> {
        let (_, meta) = self.objects.remove(&toi)?;
        self.bytes -= Waiting::cost(&meta);
        Some(meta)
    }

    /// The description of this object.
    pub(super) fn get(&self, toi: Toi) -> Option<&ObjectMeta> {
        self.objects.get(&toi).map(|(_, meta)| meta)
    }

    /// Drops what waited too long; returns how many.
    pub(super) fn expire(&mut self, now: Time, timeout: Duration) -> u64 {
        let is_old = |since: Time| now >= since + timeout;
        let old: Vec<Toi> =
            self.objects.iter().filter(|(_, (since, _))| is_old(*since)).map(|(toi, _)| *toi).collect();
        old.into_iter().filter_map(|toi| self.take(toi)).count() as u64
    }

    /// When the first of them will have waited for `timeout`.
    pub(super) fn expires_at(&self, timeout: Duration) -> Option<Time> {
        self.objects.values().map(|(since, _)| *since + timeout).min()
    }

    /// Memory taken.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Drops all.
    pub(super) fn clear(&mut self) {
        *self = Waiting::default();
    }
}
