//! What the HTTP half remembers of manifests: the origin's versions, which resources are manifests or keys at all, and the
//! variables that a master playlist gives to its media playlists.

use super::ask::Ask;
use crate::library::ResourceKey;
use crate::origin::flight::Fetched;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Manifests of origins kept; the oldest is forgotten.
const VERSIONS_MAX: usize = 256;
/// Bytes of them together; the oldest are forgotten.
const VERSIONS_BYTES_MAX: u64 = 32 << 20;
/// Resources known to be manifests, or keys; the oldest is forgotten.
const KNOWN_MAX: usize = 4096;
/// Masters whose variables are kept; the oldest is forgotten.
const MASTERS_MAX: usize = 256;

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

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.entries.len() > self.max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.entries.remove(&oldest);
        }
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
                variables: Bounded::new(MASTERS_MAX),
            }),
        }
    }
}

impl Memo {
    /// Notes that this is a manifest, and keeps the version if there is one.
    pub fn remember(&self, ask: &Ask, version: Option<Remembered>) {
        let mut state = self.lock();
        state.manifests.insert(ask.key.clone(), ());
        let Some(version) = version else { return };
        let key = version_key(ask);
        let size = |v: &Remembered| v.fetched.payload.len();
        let before = state.versions.entries.get(&key).map_or(0, size);
        state.versions_bytes = state.versions_bytes - before + size(&version);
        state.versions.max = usize::MAX;
        state.versions.insert(key, version);
        while state.versions.entries.len() > VERSIONS_MAX || state.versions_bytes > VERSIONS_BYTES_MAX {
            let Some(oldest) = state.versions.order.front() else { break };
            let freed = state.versions.entries.get(oldest).map_or(0, size);
            state.versions_bytes -= freed;
            state.versions.forget_oldest();
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

    /// It is none after all.
    pub fn forget(&self, key: &ResourceKey) {
        self.lock().manifests.remove(key);
    }

    /// Notes decryption keys that a playlist names.
    pub fn remember_keys(&self, keys: impl IntoIterator<Item = ResourceKey>) {
        let distinct: HashSet<ResourceKey> = keys.into_iter().collect();
        let mut state = self.lock();
        distinct.into_iter().for_each(|key| state.keys.insert(key, ()));
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
        playlists.into_iter().for_each(|key| state.variables.insert(key, variables.clone()));
    }

    /// The variables that a media playlist may import.
    pub fn variables(&self, playlist: &ResourceKey) -> Option<Arc<[(String, String)]>> {
        self.lock().variables.entries.get(playlist).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version_key(ask: &Ask) -> VersionKey {
    (ask.url.to_string(), ask.credentials.key())
}
