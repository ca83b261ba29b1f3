//! What is pinned: the newest media objects of each live rendition, its init segments and manifests.

use super::PieceKey;
use crate::urls::RenditionKey;
use mahp_common::Time;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Media objects that a rendition keeps whatever their age.
const MEDIA_ALWAYS: usize = 8;
/// Media objects that a rendition keeps at most (short parts).
const MEDIA_MAX: usize = 64;
/// When the budget is short, windows shrink to this before whole renditions lose theirs.
const MEDIA_MIN: usize = 2;
/// Init segments kept per rendition.
const INIT_MAX: usize = 4;
/// Manifests kept per rendition (different URLs).
const MANIFEST_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Manifest,
    Init,
    Media,
}

pub(super) type WindowKey = (RenditionKey, Kind);

pub(super) enum Placed {
    /// Pinned; these lost their pin.
    Pinned { demoted: Vec<(PieceKey, u64)> },
    /// Larger than the whole pinned part.
    TooLarge,
}

#[derive(Debug)]
struct Pin {
    piece: PieceKey,
    weight: u64,
    at: Time,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pinned {
    limit: u64,
    bytes: u64,
    windows: BTreeMap<WindowKey, VecDeque<Pin>>,
}

impl Pinned {
    pub(super) fn new(limit: u64) -> Pinned {
        Pinned { limit, bytes: 0, windows: BTreeMap::new() }
    }

    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn set_limit(&mut self, limit: u64) -> Vec<(PieceKey, u64)> {
        self.limit = limit;
        self.shrink(None)
    }

    pub(super) fn push(
        &mut self,
        now: Time,
        window: WindowKey,
        piece: PieceKey,
        weight: u64,
        age: Duration,
    ) -> Placed {
        if weight > self.limit {
            return Placed::TooLarge;
        }
        let kind = window.1;
        let pins = self.windows.entry(window.clone()).or_default();
        pins.push_back(Pin { piece, weight, at: now });
        self.bytes += weight;
        let mut demoted = Vec::new();
        while pins.front().is_some_and(|oldest| {
            let young = now - oldest.at < age;
            match kind {
                Kind::Manifest => pins.len() > MANIFEST_MAX,
                Kind::Init => pins.len() > INIT_MAX,
                Kind::Media => pins.len() > MEDIA_MAX || (pins.len() > MEDIA_ALWAYS && !young),
            }
        }) {
            let Some(oldest) = pins.pop_front() else { break };
            self.bytes -= oldest.weight;
            demoted.push((oldest.piece, oldest.weight));
        }
        demoted.extend(self.shrink(Some(&window)));
        Placed::Pinned { demoted }
    }

    /// A piece is going to be replaced.
    pub(super) fn forget(&mut self, piece: &PieceKey) {
        for pins in self.windows.values_mut() {
            if let Some(i) = pins.iter().position(|p| p.piece == *piece) {
                if let Some(pin) = pins.remove(i) {
                    self.bytes -= pin.weight;
                }
                return;
            }
        }
    }

    /// A rendition was left: its media objects lose their pin. Init segments and manifests, which are small, keep theirs.
    pub(super) fn release(&mut self, rendition: &RenditionKey) -> Vec<(PieceKey, u64)> {
        let pins = self.windows.remove(&(rendition.clone(), Kind::Media)).unwrap_or_default();
        self.bytes -= pins.iter().map(|p| p.weight).sum::<u64>();
        pins.into_iter().map(|p| (p.piece, p.weight)).collect()
    }

    /// Unpins until the limit holds: first the oldest media object of the fullest window, down to two each; then whatever is
    /// oldest, `newest` (the window just pushed to) last of all.
    fn shrink(&mut self, newest: Option<&WindowKey>) -> Vec<(PieceKey, u64)> {
        let mut demoted = Vec::new();
        while self.bytes > self.limit {
            let Some(victim) = self.fullest().or_else(|| self.stalest(newest)) else { break };
            let Some(pins) = self.windows.get_mut(&victim) else { break };
            if let Some(pin) = pins.pop_front() {
                self.bytes -= pin.weight;
                demoted.push((pin.piece, pin.weight));
            }
            if pins.is_empty() {
                self.windows.remove(&victim);
            }
        }
        demoted
    }

    fn fullest(&self) -> Option<WindowKey> {
        self.windows
            .iter()
            .filter(|((_, kind), pins)| *kind == Kind::Media && pins.len() > MEDIA_MIN)
            .max_by_key(|(_, pins)| pins.iter().map(|p| p.weight).sum::<u64>())
            .map(|(key, _)| key.clone())
    }

    /// Of what may go at all, media before the rest, the window that has had nothing new for longest.
    fn stalest(&self, newest: Option<&WindowKey>) -> Option<WindowKey> {
        self.windows
            .iter()
            .filter(|(_, pins)| !pins.is_empty())
            .min_by_key(|(key, pins)| {
                let alone = Some(*key) == newest && pins.len() == 1;
                (alone, key.1 != Kind::Media, pins.back().map(|p| p.at))
            })
            .map(|(key, _)| key.clone())
    }
}
