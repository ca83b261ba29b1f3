//! What the HTTP half remembers of manifests: the origin's versions, which resources are manifests or keys at all, the
//! variables that a master playlist gives to its media playlists, how far live playlists were listed and where live MPDs begin.

use super::ask::Ask;
use crate::library::ResourceKey;
use crate::origin::flight::Fetched;
use mahp_common::catalog::Channel;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// Manifests of origins kept; the oldest is forgotten.
const VERSIONS_MAX: usize = 256;
/// Bytes of them together; the oldest are forgotten.
const VERSIONS_BYTES_MAX: u64 = 32 << 20;
/// Resources known to be manifests, or keys; the oldest is forgotten.
const KNOWN_MAX: usize = 4096;
/// Playlists of which variables, or how far they were listed, are kept; the oldest is forgotten.
const PLAYLISTS_MAX: usize = 1024;

/// An origin's manifest.
#[derive(Clone)]
pub struct Remembered {
    /// When it came.
    pub at: Instant,
    /// How long it is good.
    pub ttl: Duration,
    /// It.
    pub fetched: Arc<Fetched>,
}

/// A map that forgets its oldest entries.
struct Bounded<K, V> {
    max: usize,
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    fn new(max: usize) -> Bounded<K, V> {
        Bounded { max, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// Returns what had to go for it.
    fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.entries.len() > self.max { self.forget_oldest() } else { None }
    }

    fn forget_oldest(&mut self) -> Option<V> {
        self.order.pop_front().and_then(|oldest| self.entries.remove(&oldest))
    }

    fn remove(&mut self, key: &K) {
        if self.entries.remove(key).is_some() {
            self.order.retain(|k| k != key);
        }
    }
}

type Variables = Arc<[(String, String)]>;
/// The URL with its tokens, and the viewer's credentials: manifests are not shared across either.
type VersionKey = (String, String);

struct State {
    versions: Bounded<VersionKey, Remembered>,
    versions_bytes: u64,
    manifests: Bounded<ResourceKey, ()>,
    keys: Bounded<ResourceKey, ()>,
    variables: Bounded<ResourceKey, Variables>,
    listed: Bounded<ResourceKey, RangeInclusive<u64>>,
    begun: Bounded<ResourceKey, u64>,
    described: Bounded<String, Arc<Channel>>,
}

/// See the module.
pub struct Memo {
    state: Mutex<State>,
}

impl Default for Memo {
    fn default() -> Self {
        Memo {
            state: Mutex::new(State {
                versions: Bounded::new(VERSIONS_MAX),
                versions_bytes: 0,
                manifests: Bounded::new(KNOWN_MAX),
                keys: Bounded::new(KNOWN_MAX),
                variables: Bounded::new(PLAYLISTS_MAX),
                listed: Bounded::new(PLAYLISTS_MAX),
                begun: Bounded::new(PLAYLISTS_MAX),
                described: Bounded::new(PLAYLISTS_MAX),
            }),
        }
    }
}

impl Memo {
    /// Notes that this is a manifest, and keeps the version if there is one.
    pub fn remember(&self, ask: &Ask, version: Option<Remembered>) {
        let mut state = self.lock();
        let _ = state.manifests.insert(ask.key.clone(), ());
        let Some(version) = version else { return };
        let key = version_key(ask);
        let size = |v: &Remembered| v.fetched.payload.len();
        let before = state.versions.entries.get(&key).map_or(0, size);
        state.versions_bytes = state.versions_bytes - before + size(&version);
        let mut gone = state.versions.insert(key, version);
        loop {
            state.versions_bytes -= gone.as_ref().map_or(0, size);
            if state.versions_bytes <= VERSIONS_BYTES_MAX {
                break;
            }
            gone = state.versions.forget_oldest();
        }
    }

    /// The origin's version, while it is good.
    pub fn fresh(&self, ask: &Ask, now: Instant) -> Option<Remembered> {
        self.any(ask).filter(|v| now.duration_since(v.at) < v.ttl)
    }

    /// The origin's version, however old.
    pub fn any(&self, ask: &Ask) -> Option<Remembered> {
        self.lock().versions.entries.get(&version_key(ask)).cloned()
    }

    /// Whether it was seen to be a manifest.
    pub fn is_manifest(&self, key: &ResourceKey) -> bool {
        self.lock().manifests.entries.contains_key(key)
    }

    /// Notes the manifests that a description names for a channel, once for each version of it.
    pub fn describe(&self, channel: &Arc<Channel>, key: impl Fn(&Url) -> ResourceKey) {
        let mut state = self.lock();
        if state.described.entries.get(&channel.name).is_some_and(|c| Arc::ptr_eq(c, channel)) {
            return;
        }
        let _ = state.described.insert(channel.name.clone(), channel.clone());
        let playlists = channel.renditions.iter().filter_map(|r| r.playlist_url.as_deref());
        for url in playlists.chain([channel.manifest_url.as_str()]).filter_map(|u| Url::parse(u).ok()) {
            let _ = state.manifests.insert(key(&url), ());
        }
    }

    /// It is none after all.
    pub fn forget(&self, key: &ResourceKey) {
        self.lock().manifests.remove(key);
    }

    /// Notes decryption keys that a playlist names.
    pub fn remember_keys(&self, keys: impl IntoIterator<Item = ResourceKey>) {
        let distinct: HashSet<ResourceKey> = keys.into_iter().collect();
        let mut state = self.lock();
        for key in distinct {
            let _ = state.keys.insert(key, ());
        }
    }

    /// Whether a playlist named this as a decryption key.
    pub fn is_key(&self, key: &ResourceKey) -> bool {
        self.lock().keys.entries.contains_key(key)
    }

    /// Notes the variables of a master playlist for each of its media playlists.
    pub fn remember_variables(
        &self,
        playlists: impl IntoIterator<Item = ResourceKey>,
        of: &[(String, String)],
    ) {
        let variables: Variables = of.into();
        let mut state = self.lock();
        playlists.into_iter().for_each(|key| drop(state.variables.insert(key, variables.clone())));
    }

    /// The variables that a media playlist may import.
    pub fn variables(&self, playlist: &ResourceKey) -> Option<Arc<[(String, String)]>> {
        self.lock().variables.entries.get(playlist).cloned()
    }

    /// Which part of a live playlist to list: `all`, the sequence numbers of its segments, without the `trim` (head, tail) that
    /// are not worth listing. What was listed once must not disappear at the live edge, and what was left out at the
    /// beginning must not come back (RFC 8216 section 6.2.1). Returns how many to leave out at both ends.
    pub fn list(
        &self,
        playlist: &ResourceKey,
        all: RangeInclusive<u64>,
        trim: (usize, usize),
    ) -> (usize, usize) {
        let (first, last) = all.into_inner();
        let mut state = self.lock();
        let before = state.listed.entries.get(playlist).cloned();
        // An older version of the list, or a new beginning, says nothing about what is new.
        let before = before.map(RangeInclusive::into_inner);
        let (head, tail) = match before {
            Some((_, listed)) if last < listed => (0, 0),
            Some((begun, listed)) => {
                (begun.saturating_sub(first).max(trim.0 as u64), (trim.1 as u64).min(last - listed))
            }
            None => (trim.0 as u64, trim.1 as u64),
        };
        let head = head.min((last - first).saturating_sub(tail));
        let _ = state.listed.insert(playlist.clone(), first + head..=last - tail);
        // Neither is more than there are segments.
        (head as usize, tail as usize)
    }

    /// Notes where (wall-clock milliseconds) a live MPD begins, if it is known anew, and tells where it begins: never before
    /// where it began once.
    pub fn begin(&self, mpd: &ResourceKey, begins: Option<u64>) -> Option<u64> {
        let mut state = self.lock();
        let begins = begins.max(state.begun.entries.get(mpd).copied())?;
        let _ = state.begun.insert(mpd.clone(), begins);
        Some(begins)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version_key(ask: &Ask) -> VersionKey {
    (ask.url.to_string(), ask.credentials.key())
}
