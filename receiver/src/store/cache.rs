//! Which objects outside the live windows stay: moka, least recently used.

use super::PieceKey;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

type Evicted = Arc<Mutex<Vec<PieceKey>>>;

/// See the module. Keeps weights only; whoever inserts must drop what comes back as evicted.
pub(super) struct Cache {
    moka: moka::sync::Cache<PieceKey, u32>,
    evicted: Evicted,
}

impl Cache {
    pub(super) fn new(limit: u64) -> Cache {
        let evicted = Evicted::default();
        let sink = evicted.clone();
        let moka = moka::sync::Cache::builder()
            .max_capacity(limit)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_: &PieceKey, weight: &u32| *weight)
            .eviction_listener(move |key: Arc<PieceKey>, _, cause| {
                if cause == RemovalCause::Size {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push((*key).clone());
                }
            })
            .build();
        Cache { moka, evicted }
    }

    /// Takes a key in and returns those that had to go, possibly the new one itself.
    pub(super) fn insert(&mut self, key: &PieceKey, weight: u64) -> Vec<PieceKey> {
        let limit = self.moka.policy().max_capacity().unwrap_or(0);
        let fits = u32::try_from(weight).ok().filter(|_| weight <= limit);
        let Some(weight) = fits else { return vec![key.clone()] };
        self.moka.insert(key.clone(), weight);
        self.settle()
    }

    /// Forgets a key without reporting it.
    pub(super) fn remove(&mut self, key: &PieceKey) {
        self.moka.invalidate(key);
    }

    /// It was used.
    pub(super) fn touch(&self, key: &PieceKey) {
        let _ = self.moka.get(key);
    }

    /// Another limit; returns what no longer fits.
    pub(super) fn resize(&mut self, limit: u64) -> Vec<PieceKey> {
        let old = std::mem::replace(self, Cache::new(limit));
        let mut gone = Vec::new();
        for (key, weight) in &old.moka {
            gone.extend(self.insert(&key, u64::from(weight)));
        }
        gone
    }

    /// Without this, moka evicts when it likes.
    fn settle(&mut self) -> Vec<PieceKey> {
        let limit = self.moka.policy().max_capacity().unwrap_or(0);
        // It evicts in batches and may stop early; it always makes progress.
        for _ in 0..64 {
            self.moka.run_pending_tasks();
            if self.moka.weighted_size() <= limit {
                break;
            }
        }
        std::mem::take(&mut *self.evicted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} bytes)", self.moka.weighted_size())
    }
}
