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
    /// Pinned; these lost their pin, and of these it is too long ago that they did.
    Pinned { demoted: Vec<(PieceKey, u64)>, expired: Vec<PieceKey> },
    /// Larger than the whole pinned part.
    TooLarge,
}

#[derive(Debug)]
struct Pin {
    piece: PieceKey,
    weight: u64,
    at: Time,
}

#[derive(Debug, Default)]
struct Window {
    /// Oldest first.
    pins: VecDeque<Pin>,
    /// Media objects that lost their pin, oldest first.
    past: VecDeque<(PieceKey, Time)>,
    /// Age at which these are dropped.
    keep: Duration,
}

/// For how long media objects of a live rendition are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    /// Pinned for so long at least, beyond a fixed number.
    pub(super) window: Duration,
    /// Dropped at this age.
    pub(super) keep: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pinned {
    limit: u64,
    bytes: u64,
    windows: BTreeMap<WindowKey, Window>,
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
        key: WindowKey,
        piece: PieceKey,
        weight: u64,
        ages: Ages,
    ) -> Placed {
        if weight > self.limit {
            return Placed::TooLarge;
        }
        let kind = key.1;
        let window = self.windows.entry(key.clone()).or_default();
        window.keep = ages.keep;
        window.pins.push_back(Pin { piece, weight, at: now });
        self.bytes += weight;
        let mut demoted = Vec::new();
        while window.pins.front().is_some_and(|oldest| {
            let (young, pins) = (now - oldest.at < ages.window, window.pins.len());
            match kind {
                Kind::Manifest => pins > MANIFEST_MAX,
                Kind::Init => pins > INIT_MAX,
                Kind::Media => pins > MEDIA_MAX || (pins > MEDIA_ALWAYS && !young),
            }
        }) {
            let Some(oldest) = window.unpin_oldest(kind) else { break };
            self.bytes -= oldest.1;
            demoted.push(oldest);
        }
        demoted.extend(self.shrink(Some(&key)));
        Placed::Pinned { demoted, expired: self.expired(now) }
    }

    /// Media objects of live renditions whose time is over: no player's playlist lists them any more.
    fn expired(&mut self, now: Time) -> Vec<PieceKey> {
        let mut expired = Vec::new();
        self.windows.retain(|_, window| {
            while window.past.front().is_some_and(|(_, at)| now - *at >= window.keep) {
                expired.extend(window.past.pop_front().map(|(piece, _)| piece));
            }
            !window.is_empty()
        });
        expired
    }

    /// A piece is going to be replaced, or comes again.
    pub(super) fn forget(&mut self, piece: &PieceKey) {
        for window in self.windows.values_mut() {
            window.past.retain(|(past, _)| past != piece);
            let at = window.pins.iter().position(|p| p.piece == *piece);
            if let Some(pin) = at.and_then(|i| window.pins.remove(i)) {
                self.bytes -= pin.weight;
            }
        }
    }

    /// A rendition was left: its media objects lose their pin. Init segments and manifests, which are small, keep theirs.
    pub(super) fn release(&mut self, rendition: &RenditionKey) -> Vec<(PieceKey, u64)> {
        let Some(window) = self.windows.get_mut(&(rendition.clone(), Kind::Media)) else { return Vec::new() };
        let demoted: Vec<_> = std::iter::from_fn(|| window.unpin_oldest(Kind::Media)).collect();
        self.bytes -= demoted.iter().map(|(_, weight)| weight).sum::<u64>();
        demoted
    }

    /// Unpins until the limit holds: first the oldest media object of the fullest window, down to two each; then whatever is
    /// oldest, `newest` (the window just pushed to) last of all.
    fn shrink(&mut self, newest: Option<&WindowKey>) -> Vec<(PieceKey, u64)> {
        let mut demoted = Vec::new();
        while self.bytes > self.limit {
            let Some(victim) = self.fullest().or_else(|| self.stalest(newest)) else { break };
            let Some(window) = self.windows.get_mut(&victim) else { break };
            if let Some(pin) = window.unpin_oldest(victim.1) {
                self.bytes -= pin.1;
                demoted.push(pin);
            }
            if window.is_empty() {
                self.windows.remove(&victim);
            }
        }
        demoted
    }

    fn fullest(&self) -> Option<WindowKey> {
        self.windows
            .iter()
            .filter(|((_, kind), window)| *kind == Kind::Media && window.pins.len() > MEDIA_MIN)
            .max_by_key(|(_, window)| window.pins.iter().map(|p| p.weight).sum::<u64>())
            .map(|(key, _)| key.clone())
    }

    /// Of what may go at all, media before the rest, the window that has had nothing new for longest.
    fn stalest(&self, newest: Option<&WindowKey>) -> Option<WindowKey> {
        self.windows
            .iter()
            .filter(|(_, window)| !window.pins.is_empty())
            .min_by_key(|(key, window)| {
                let alone = Some(*key) == newest && window.pins.len() == 1;
                (alone, key.1 != Kind::Media, window.pins.back().map(|p| p.at))
            })
            .map(|(key, _)| key.clone())
    }
}

impl Window {
    /// Takes the pin off its oldest object. A media object is remembered until its time is over.
    fn unpin_oldest(&mut self, kind: Kind) -> Option<(PieceKey, u64)> {
        let Pin { piece, weight, at } = self.pins.pop_front()?;
        if kind == Kind::Media {
            self.past.push_back((piece.clone(), at));
        }
        Some((piece, weight))
    }

    fn is_empty(&self) -> bool {
        self.pins.is_empty() && self.past.is_empty()
    }
}
