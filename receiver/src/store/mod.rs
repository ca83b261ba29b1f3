//! Verified objects in memory, within one budget of bytes.
//!
//! All bytes are in one map; two policies decide what leaves it. The *pinned* part (at most a share of the budget) is the live
//! window of each rendition, its init segments and manifests: [`live`]. Everything else is the *cache* part, in which moka picks
//! the least recently used: [`cache`]. What left a live window goes there until no player can ask for it any more. moka holds keys and weights only: it frees values whenever it likes (measured: five
//! times its cap), we free them when it says evicted.
//!
//! A resource may be here in pieces (byte ranges); a request is answered when pieces cover it without a gap. Pieces of two
//! versions of a file (another ETag, Last-Modified or length) are never mixed.

mod cache;
pub mod disk;
mod live;

use crate::library::{ResourceKey, Stored};
use crate::urls::RenditionKey;
use cache::Cache;
use live::{Ages, Kind, Pinned};
use mahp_common::{ObjectKind, ObjectMeta, Time};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Counted for each object besides its bytes and those of its description: what it costs to know it.
const OVERHEAD: u64 = 1024;

/// One object of a resource: where it begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceKey {
    /// The resource.
    pub resource: ResourceKey,
    /// First byte of this piece; 0 for whole resources.
    pub first: u64,
}

/// How an object is to be kept.
#[derive(Clone, Debug)]
pub enum Class {
    /// Of a live rendition: pinned while it is in the live window.
    Live {
        /// The rendition.
        rendition: RenditionKey,
        /// Media objects younger than this are pinned beyond the fixed number (6 target durations).
        window: Duration,
        /// Media objects older than this are dropped: no player's playlist lists them any more. At least `window`.
        keep: Duration,
    },
    /// Of a film, of a live channel's past, or by unicast: kept while there is room. Manifests and init segments of a rendition are pinned all the same.
    Cached {
        /// The rendition, where known.
        rendition: Option<RenditionKey>,
    },
}

/// What identifies a version of a file, beyond its URL.
type Version = (Option<u64>, Option<String>, Option<String>);

#[derive(Debug)]
struct Resource {
    version: Version,
    pieces: BTreeMap<u64, Arc<Stored>>,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    limit: u64,
    bytes: u64,
    resources: HashMap<ResourceKey, Resource>,
    pinned: Pinned,
    cache: Cache,
    /// What had to make way for others since it was last asked.
    evicted: Vec<PieceKey>,
}

impl Store {
    /// A store of at most `limit` bytes, of which live windows may pin half (`any_live`) or manifests and init segments an
    /// eighth.
    pub fn new(limit: u64, any_live: bool) -> Store {
        let share = pinned_share(limit, any_live);
        Store {
            limit,
            bytes: 0,
            resources: HashMap::new(),
            pinned: Pinned::new(share),
            cache: Cache::new(limit - share),
            evicted: Vec::new(),
        }
    }

    /// Divides the budget anew when the first live channel comes or the last one goes.
    pub fn set_any_live(&mut self, any_live: bool) {
        let share = pinned_share(self.limit, any_live);
        if share == self.pinned.limit() {
            return;
        }
        let evicted = self.cache.resize(self.limit - share);
        self.evict(evicted);
        let demoted = self.pinned.set_limit(share);
        self.demote(demoted);
    }

    /// Puts a verified object. Returns whether its bytes are here now: they are not if it is larger than the budget's part; they
    /// are already if a longer piece has them, and then nothing changes.
    pub fn insert(&mut self, now: Time, key: &ResourceKey, stored: Arc<Stored>, class: Class) -> bool {
        let first = stored.meta.range.map_or(0, |r| r.first);
        if let Some(longer) = self.longer(key, &stored.meta) {
            self.cache.touch(&PieceKey { resource: key.clone(), first: longer });
            return true;
        }
        let piece = PieceKey { resource: key.clone(), first };
        self.make_way(&piece, &stored);
        // It may have been here and left: its time begins anew.
        self.pinned.forget(&piece);
        let weight = weight(key, &stored);
        let placed = match pin_kind(&class, stored.meta.kind) {
            Some((rendition, kind)) => {
                let ages = match class {
                    Class::Live { window, keep, .. } => Ages { window, keep },
                    Class::Cached { .. } => Ages { window: Duration::ZERO, keep: Duration::ZERO },
                };
                self.pinned.push(now, (rendition, kind), piece.clone(), weight, ages)
            }
            None => live::Placed::TooLarge,
        };
        match placed {
            live::Placed::Pinned { demoted, expired } => {
                self.add(piece, stored, weight);
                self.demote(demoted);
                expired.iter().for_each(|piece| self.cache.remove(piece));
                self.evict(expired);
                true
            }
            live::Placed::TooLarge => {
                let evicted = self.cache.insert(&piece, weight);
                let kept = !evicted.contains(&piece);
                if kept {
                    self.add(piece, stored, weight);
                }
                self.evict(evicted);
                kept
            }
        }
    }

    /// Pieces that cover `range` (inclusive; open end; `None` = whole) in order, if all of it is here. Where the range begins
    /// beyond the end of a file whose length is known, its first piece, from which the length can be told.
    pub fn lookup(&self, key: &ResourceKey, range: Option<(u64, Option<u64>)>) -> Option<Vec<Arc<Stored>>> {
        let resource = self.resources.get(key)?;
        let complete = resource.complete();
        let (first, last) = match (range.unwrap_or((0, None)), complete) {
            ((first, _), Some(length)) if first >= length => {
                return Some(resource.pieces.values().take(1).cloned().collect());
            }
            ((first, Some(last)), Some(length)) => (first, last.min(length.saturating_sub(1))),
            ((first, None), Some(length)) => (first, length.saturating_sub(1)),
            ((first, Some(last)), None) => (first, last),
            ((_, None), None) => return None,
        };
        let found = resource.covering(first, last)?;
        for stored in &found {
            let first = stored.meta.range.map_or(0, |r| r.first);
            self.cache.touch(&PieceKey { resource: key.clone(), first });
        }
        Some(found)
    }

    /// The piece that begins there.
    pub fn piece(&self, key: &ResourceKey, first: u64) -> Option<&Arc<Stored>> {
        self.resources.get(key)?.pieces.get(&first)
    }

    /// Whether a longer piece of the same version has the bytes of what `meta` describes.
    pub fn has_longer(&self, key: &ResourceKey, meta: &ObjectMeta) -> bool {
        self.longer(key, meta).is_some()
    }

    /// Whether all of this (inclusive) range is here. Not a use of it.
    pub fn covers(&self, key: &ResourceKey, (first, last): (u64, u64)) -> bool {
        self.resources.get(key).is_some_and(|r| r.covering(first, last).is_some())
    }

    /// Where a longer piece of the same version begins that has all of this one.
    fn longer(&self, key: &ResourceKey, meta: &ObjectMeta) -> Option<u64> {
        let first = meta.range.map_or(0, |r| r.first);
        let resource = self.resources.get(key).filter(|r| r.version == version(meta))?;
        let has_all = |start: u64, length: u64| {
            length > meta.length && start.saturating_add(length) >= first.saturating_add(meta.length)
        };
        let mut before = resource.pieces.range(..=first);
        before.find(|(start, old)| has_all(**start, old.payload.len())).map(|(start, _)| *start)
    }

    /// A piece that holds this byte.
    pub fn holding(&self, key: &ResourceKey, at: u64) -> Option<&Arc<Stored>> {
        let mut before = self.resources.get(key)?.pieces.range(..=at).rev();
        before.find(|(first, piece)| first.saturating_add(piece.payload.len()) > at).map(|(_, piece)| piece)
    }

    /// What had to make way for others since the last call.
    pub fn take_evicted(&mut self) -> Vec<PieceKey> {
        std::mem::take(&mut self.evicted)
    }

    /// The rendition's live window loses its pin (it was left); its objects stay while there is room.
    pub fn unpin(&mut self, rendition: &RenditionKey) {
        let demoted = self.pinned.release(rendition);
        self.demote(demoted);
    }

    /// Bytes here, overhead included. Never above [`Store::limit`] after a call has returned.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The budget.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Of [`Store::bytes`], pinned.
    pub const fn pinned_bytes(&self) -> u64 {
        self.pinned.bytes()
    }

    /// Objects here.
    pub fn len(&self) -> usize {
        self.resources.values().map(|r| r.pieces.len()).sum()
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Removes what the new piece replaces: the same piece, pieces inside it, and all pieces of another version.
    fn make_way(&mut self, piece: &PieceKey, stored: &Stored) {
        let Some(resource) = self.resources.get(&piece.resource) else { return };
        let same_version = resource.version == version(&stored.meta);
        let end = piece.first.saturating_add(stored.payload.len());
        let replaced: Vec<PieceKey> = resource
            .pieces
            .iter()
            .filter(|(first, old)| {
                !same_version
                    || **first == piece.first
                    || (**first > piece.first && first.saturating_add(old.payload.len()) <= end)
            })
            .map(|(first, _)| PieceKey { resource: piece.resource.clone(), first: *first })
            .collect();
        for key in &replaced {
            self.pinned.forget(key);
            self.cache.remove(key);
        }
        self.remove_all(replaced);
    }

    fn add(&mut self, piece: PieceKey, stored: Arc<Stored>, weight: u64) {
        let resource = self
            .resources
            .entry(piece.resource)
            .or_insert_with(|| Resource { version: version(&stored.meta), pieces: BTreeMap::new() });
        resource.pieces.insert(piece.first, stored);
        self.bytes += weight;
    }

    /// Moves pieces from the pinned to the cache part.
    fn demote(&mut self, demoted: Vec<(PieceKey, u64)>) {
        for (piece, weight) in demoted {
            let evicted = self.cache.insert(&piece, weight);
            self.evict(evicted);
        }
    }

    fn evict(&mut self, pieces: Vec<PieceKey>) {
        self.evicted.extend_from_slice(&pieces);
        self.remove_all(pieces);
    }

    fn remove_all(&mut self, pieces: Vec<PieceKey>) {
        for piece in pieces {
            let Some(resource) = self.resources.get_mut(&piece.resource) else { continue };
            if let Some(stored) = resource.pieces.remove(&piece.first) {
                self.bytes -= weight(&piece.resource, &stored);
            }
            if resource.pieces.is_empty() {
                self.resources.remove(&piece.resource);
            }
        }
    }
}

impl Resource {
    /// Length of the file, if a piece tells it.
    fn complete(&self) -> Option<u64> {
        self.pieces.values().find_map(|s| match s.meta.range {
            Some(range) => range.complete,
            None => Some(s.payload.len()),
        })
    }

    /// At each step the piece that reaches furthest.
    fn covering(&self, first: u64, last: u64) -> Option<Vec<Arc<Stored>>> {
        if self.complete() == Some(0) {
            return Some(self.pieces.values().take(1).cloned().collect());
        }
        let mut found = Vec::new();
        let mut at = first;
        loop {
            let (start, piece) = self
                .pieces
                .range(..=at)
                .filter(|(start, s)| start.saturating_add(s.payload.len()) > at)
                .max_by_key(|(start, s)| start.saturating_add(s.payload.len()))?;
            found.push(piece.clone());
            at = start.saturating_add(piece.payload.len());
            if at > last {
                return Some(found);
            }
        }
    }
}

fn pin_kind(class: &Class, kind: ObjectKind) -> Option<(RenditionKey, Kind)> {
    match (class, kind) {
        (Class::Live { rendition, .. }, ObjectKind::Manifest)
        | (Class::Cached { rendition: Some(rendition) }, ObjectKind::Manifest) => {
            Some((rendition.clone(), Kind::Manifest))
        }
        (Class::Live { rendition, .. }, ObjectKind::Init)
        | (Class::Cached { rendition: Some(rendition) }, ObjectKind::Init) => {
            Some((rendition.clone(), Kind::Init))
        }
        (Class::Live { rendition, .. }, ObjectKind::Media) => Some((rendition.clone(), Kind::Media)),
        (Class::Live { .. } | Class::Cached { .. }, _) => None,
    }
}

fn pinned_share(limit: u64, any_live: bool) -> u64 {
    if any_live { limit / 2 } else { limit / 8 }
}

fn weight(key: &ResourceKey, stored: &Stored) -> u64 {
    stored.payload.len() + stored.meta.heap_bytes() + key.0.len() as u64 + OVERHEAD
}

fn version(meta: &ObjectMeta) -> Version {
    let complete = meta.range.map_or(Some(meta.length), |range| range.complete);
    (complete, meta.etag.clone(), meta.last_modified.clone())
}

#[cfg(test)]
mod tests;
