//! Who may stay: memory and number of objects under assembly, who gives way to whom, and what ages.

use super::api::Event;
use super::assembly::{Assembly, Cut};
use super::{Finished, RecvSession};
use crate::drop::DropReason;
use crate::ids::Toi;
use crate::limits;
use crate::object::ObjectMeta;
use std::time::Duration;

/// A finished TOI is forgotten when nothing of it was heard for this long: it may come round again in a carousel.
const FINISHED_MEMORY: Duration = Duration::from_secs(30);
/// A described object of which symbols still come keeps its memory; one without any for this long gives way.
const STALLED: Duration = Duration::from_millis(500);

impl RecvSession {
    /// Starts an object, with room for a description of so many bytes; the one longest without progress gives way where
    /// there are too many.
    pub(super) fn insert(
        &mut self,
        toi: Toi,
        cut: Cut,
        described: bool,
        meta_bytes: u64,
    ) -> Result<(), DropReason> {
        self.reserve(toi, Assembly::fixed_cost(&cut) + meta_bytes, described)?;
        if self.objects.len() >= limits::OBJECTS_IN_FLIGHT {
            let victim = self.victim(toi, described, |_| true).ok_or(DropReason::ObjectLimit)?;
            self.give_up(victim, DropReason::ObjectLimit);
        }
        let id = self.new_id();
        let mut assembly = Assembly::new(id, cut, self.now);
        // Of what is not described yet, packets may be the last ones: only its description tells when it began.
        assembly.early = !described && self.may_precede_join(true);
        self.objects.insert(toi, assembly);
        Ok(())
    }

    /// Frees memory for `cost` more bytes of this object. Where nobody has to give way, a described object gives up itself:
    /// with a part of it missing it would only stand in the way.
    pub(super) fn make_room(&mut self, toi: Toi, cost: u64) -> Result<(), DropReason> {
        let described = self.objects.get(&toi).is_some_and(|o| o.meta.is_some());
        let reserved = self.reserve(toi, cost, described);
        if reserved.is_err() && described {
            self.give_up(toi, DropReason::ByteLimit);
        }
        reserved
    }

    /// Frees memory for `cost` more bytes.
    pub(super) fn reserve(&mut self, toi: Toi, cost: u64, described: bool) -> Result<(), DropReason> {
        let now = self.now;
        while cost > 0 && !self.fits(self.assembly_bytes() + cost, described) {
            // Displacing what is nearly complete for what has just begun would, in a session with room for fewer objects
            // than are sent at a time, complete nothing at all. What has no symbols would free next to nothing.
            let idle = |o: &Assembly| {
                o.first_symbol.is_some() && (o.meta.is_none() || now >= o.last_symbol + STALLED)
            };
            let victim = self.victim(toi, described, idle).ok_or(DropReason::ByteLimit)?;
            self.give_up(victim, DropReason::ByteLimit);
        }
        Ok(())
    }

    /// Whether so many bytes may be held, borrowed ones included. What anybody can make up borrows nothing.
    fn fits(&mut self, bytes: u64, described: bool) -> bool {
        let beyond = bytes.saturating_sub(self.config.assembly_bytes);
        beyond == 0 || described && self.loan.as_mut().is_some_and(|loan| loan.reach(beyond))
    }

    /// Gives back what is borrowed and no longer needed.
    pub(super) fn settle(&mut self) {
        let beyond = self.assembly_bytes().saturating_sub(self.config.assembly_bytes);
        if let Some(loan) = &mut self.loan {
            loan.settle(beyond);
        }
    }

    /// Who gives way to `keep`: objects without description first, then the longest without a symbol. One without
    /// description, which anybody can make up, never displaces one that has its own.
    fn victim(&self, keep: Toi, described: bool, may_go: impl Fn(&Assembly) -> bool) -> Option<Toi> {
        self.objects
            .iter()
            .filter(|(toi, o)| **toi != keep && may_go(o) && (described || o.meta.is_none()))
            .min_by_key(|(_, o)| (o.meta.is_some(), o.last_symbol))
            .map(|(toi, _)| *toi)
    }

    pub(super) fn give_up(&mut self, toi: Toi, reason: DropReason) {
        let Some(object) = self.remove(toi) else { return };
        let no_room = matches!(reason, DropReason::ByteLimit | DropReason::ObjectLimit);
        let heard_from_start = object.is_heard_from_start();
        match object.meta {
            // Its next symbol would make it displace another object, and that the next: nothing would complete. Only what is
            // described is remembered, else forged packets could shut out an object before it is sent.
            Some(meta) if no_room => {
                self.finish(toi, Some(&meta));
                self.lose(toi, Some(meta), heard_from_start, reason);
            }
            meta if object.first_symbol.is_some() => self.lose(toi, meta, heard_from_start, reason),
            _ => {}
        }
    }

    fn lose(&mut self, toi: Toi, meta: Option<ObjectMeta>, heard_from_start: bool, reason: DropReason) {
        self.stats.drops.count(reason);
        self.stats.objects_lost += 1;
        // A damaged object must be collected anew when it is sent again, so it is not remembered as finished, and its
        // description must be read anew although the same FDT Instance was read a moment ago.
        self.fdts_read.clear();
        self.events.push_back(Event::Lost { toi, meta, heard_from_start, reason });
    }

    pub(super) fn remove(&mut self, toi: Toi) -> Option<Assembly> {
        self.objects.remove(&toi)
    }

    pub(super) fn finish(&mut self, toi: Toi, meta: Option<&ObjectMeta>) {
        _ = self.held.take(toi);
        self.waiting.take(toi);
        // Where descriptions are signed, a finished object is not described anew.
        let described_as = meta.filter(|_| self.config.key.is_none()).map(ObjectMeta::fingerprint);
        if self.finished.insert(toi, Finished { heard: self.now, described_as }).is_none() {
            self.finished_order.push_back(toi);
        }
        while self.finished_order.len() > limits::REMEMBERED_TOIS {
            if let Some(old) = self.finished_order.pop_front() {
                self.finished.remove(&old);
            }
        }
    }

    /// The sender was restarted: what its last run left unfinished will never be finished.
    pub(super) fn abandon_session(&mut self) {
        let described: Vec<Toi> =
            self.objects.iter().filter(|(_, o)| o.meta.is_some()).map(|(t, _)| *t).collect();
        for toi in described {
            self.give_up(toi, DropReason::OldSession);
        }
        self.waiting.clear();
        self.fdts_read.clear();
        self.finished.clear();
        self.finished_order.clear();
    }

    pub(super) fn assembly_bytes(&self) -> u64 {
        self.objects.values().map(|o| o.bytes).sum::<u64>()
            + self.fdts.iter().map(|f| f.assembly.bytes).sum::<u64>()
            + self.waiting.bytes()
    }

    /// Gives up what has had no symbol for too long.
    pub(super) fn expire(&mut self) {
        let (now, timeout) = (self.now, self.config.object_timeout);
        let old: Vec<Toi> =
            self.objects.iter().filter(|(_, o)| now >= o.last_symbol + timeout).map(|(t, _)| *t).collect();
        for toi in old {
            self.give_up(toi, DropReason::Incomplete);
        }
        let hopeless: Vec<Toi> =
            self.objects.iter().filter(|(_, o)| o.is_hopeless()).map(|(t, _)| *t).collect();
        for toi in hopeless {
            self.give_up(toi, DropReason::DigestMismatch);
        }
        self.expire_fdts();
        let expired = self.waiting.expire(now, timeout);
        self.stats.drops.add(DropReason::Incomplete, expired);
        let expired = self.held.expire(now);
        self.stats.drops.add(DropReason::HeldExpired, expired);
        while let Some(toi) = self.finished_order.front() {
            match self.finished.get(toi) {
                Some(f) if now < f.heard + FINISHED_MEMORY => break,
                _ => {}
            }
            if let Some(toi) = self.finished_order.pop_front() {
                self.finished.remove(&toi);
            }
        }
    }
}
