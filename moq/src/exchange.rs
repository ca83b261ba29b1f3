//! Which namespaces and tracks an endpoint offers to its sessions: its own, and those that peers publish to it.
//!
//! A publisher has an exchange with its own sources in it; a relay lets peers add theirs ([`Exchange::relay`]). A request
//! goes to the source with the longest matching namespace.

use crate::plane::{Asker, Boxed, Event, Fetched, ObjectPlane, Refusal, Source, Start, Subscription};
use crate::track::{Track, TrackConfig};
use crate::wire::{LocationRange, Namespace, TrackName, request_error};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Namespaces and single tracks that peers may publish to a relay: more are refused.
const PUBLISHED: usize = 1024;
/// Bytes a relay collects to answer one FETCH from upstream: a longer answer is refused.
const FETCH_BYTES: usize = 64 << 20;
/// Longest wait for that answer.
const FETCH_TIME: Duration = Duration::from_secs(30);
/// How long a relay keeps an upstream subscription that nobody listens to.
const LINGER: Duration = Duration::from_secs(5);

/// The table.
#[derive(Default)]
pub struct Exchange {
    relay: bool,
    offers: Mutex<Offers>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Offers {
    next: u64,
    namespaces: BTreeMap<Namespace, (u64, Arc<dyn Source>)>,
    tracks: BTreeMap<TrackName, PublishedTrack>,
}

struct PublishedTrack {
    offer: u64,
    owner: usize,
    track: Arc<Track>,
}

/// Something offered. Dropping it withdraws it.
pub struct Offer {
    exchange: Arc<Exchange>,
    id: u64,
}

impl Exchange {
    /// An exchange for our own sources only.
    pub fn new() -> Arc<Exchange> {
        Arc::default()
    }

    /// An exchange that peers may publish to.
    pub fn relay() -> Arc<Exchange> {
        Arc::new(Exchange { relay: true, ..Exchange::default() })
    }

    /// Whether peers may publish.
    pub fn is_relay(&self) -> bool {
        self.relay
    }

    /// Offers a namespace. One that is offered already is taken over: a publisher that comes back after a broken link
    /// must not wait until the old session is noticed to be dead.
    pub fn offer(self: &Arc<Self>, namespace: Namespace, source: Arc<dyn Source>) -> Result<Offer, Refusal> {
        if namespace.is_reserved() {
            return Err(Refusal::does_not_exist("reserved namespace"));
        }
        let id = {
            let offers = &mut *self.lock();
            if offers.namespaces.len() >= PUBLISHED && !offers.namespaces.contains_key(&namespace) {
                return Err(Refusal::excessive_load("too many namespaces", Duration::from_secs(10)));
            }
            offers.next += 1;
            offers.namespaces.insert(namespace, (offers.next, source));
            offers.next
        };
        self.changed.send_modify(|v| *v += 1);
        Ok(Offer { exchange: self.clone(), id })
    }

    /// Offers a single track. `owner`: the session it comes from, which it is not sent back to.
    pub fn offer_track(
        self: &Arc<Self>,
        name: TrackName,
        track: Arc<Track>,
        owner: usize,
    ) -> Result<Offer, Refusal> {
        if name.namespace.is_reserved() {
            return Err(Refusal::does_not_exist("reserved namespace"));
        }
        let id = {
            let offers = &mut *self.lock();
            if offers.tracks.len() >= PUBLISHED && !offers.tracks.contains_key(&name) {
                return Err(Refusal::excessive_load("too many tracks", Duration::from_secs(10)));
            }
            offers.next += 1;
            offers.tracks.insert(name, PublishedTrack { offer: offers.next, owner, track });
            offers.next
        };
        self.changed.send_modify(|v| *v += 1);
        Ok(Offer { exchange: self.clone(), id })
    }

    /// Namespaces below `prefix`.
    pub fn namespaces(&self, prefix: &Namespace) -> Vec<Namespace> {
        self.lock().namespaces.keys().filter(|n| n.starts_with(prefix)).cloned().collect()
    }

    /// Single tracks below `prefix` that do not come from `session`.
    pub fn tracks(&self, prefix: &Namespace, session: usize) -> Vec<(TrackName, Arc<Track>)> {
        let offers = self.lock();
        let found =
            offers.tracks.iter().filter(|(n, t)| n.namespace.starts_with(prefix) && t.owner != session);
        found.map(|(name, t)| (name.clone(), t.track.clone())).collect()
    }

    /// Changes with every offer.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The live window of a track; waits up to `rendezvous` for somebody to offer it.
    pub async fn track(&self, name: &TrackName, rendezvous: Duration) -> Result<Arc<Track>, Refusal> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.borrow_and_update();
                if let Some(published) = self.lock().tracks.get(name) {
                    return Ok(published.track.clone());
                }
                if let Some(source) = self.source(&name.namespace) {
                    return source.track(name).await;
                }
                if rendezvous.is_zero() || changed.changed().await.is_err() {
                    return Err(Refusal::does_not_exist("no such namespace"));
                }
            }
        };
        if rendezvous.is_zero() {
            return found.await;
        }
        let timeout = || Refusal::new(request_error::TIMEOUT, "no publisher came in time");
        tokio::time::timeout(rendezvous, found).await.unwrap_or_else(|_| Err(timeout()))
    }

    /// Answers a FETCH.
    pub async fn fetch(
        &self,
        asker: &Asker,
        name: &TrackName,
        range: LocationRange,
    ) -> Result<Fetched, Refusal> {
        let track = self.lock().tracks.get(name).map(|published| published.track.clone());
        if let Some(track) = track {
            return track.fetch(range);
        }
        let source = self.source(&name.namespace);
        let source = source.ok_or_else(|| Refusal::does_not_exist("no such namespace"))?;
        source.fetch(asker, name, range).await
    }

    /// The source with the longest namespace that `namespace` begins with.
    fn source(&self, namespace: &Namespace) -> Option<Arc<dyn Source>> {
        let offers = self.lock();
        let matching = offers.namespaces.iter().filter(|(n, _)| namespace.starts_with(n));
        matching.max_by_key(|(n, _)| n.fields().len()).map(|(_, (_, source))| source.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Offers> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offers = self.lock();
        f.debug_struct("Exchange")
            .field("relay", &self.relay)
            .field("namespaces", &offers.namespaces.keys())
            .field("tracks", &offers.tracks.keys())
            .finish()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        {
            let offers = &mut *self.exchange.lock();
            offers.namespaces.retain(|_, (id, _)| *id != self.id);
            offers.tracks.retain(|_, published| published.offer != self.id);
        }
        self.exchange.changed.send_modify(|v| *v += 1);
    }
}

/// A source that gets everything from a session: what a relay offers for a publisher. One upstream subscription serves
/// any number of subscribers; complete groups in its window answer a FETCH without asking upstream.
pub struct Upstream<P> {
    plane: P,
    config: TrackConfig,
    tracks: Arc<Mutex<HashMap<TrackName, Arc<Track>>>>,
    /// One at a time: two subscribers that come together must not become two upstream subscriptions.
    opening: tokio::sync::Mutex<()>,
}

impl<P: ObjectPlane> Upstream<P> {
    /// From a session; `config` bounds the window of each track.
    pub fn new(plane: P, config: TrackConfig) -> Upstream<P> {
        let config = TrackConfig { one_subgroup: false, ..config };
        Upstream { plane, config, tracks: Arc::default(), opening: tokio::sync::Mutex::default() }
    }

    fn known(&self, name: &TrackName) -> Option<Arc<Track>> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn open(&self, name: &TrackName) -> Result<Arc<Track>, Refusal> {
        let _one = self.opening.lock().await;
        if let Some(track) = self.known(name) {
            return Ok(track);
        }
        let subscription = self.plane.subscribe(name, Start::Latest, Duration::ZERO).await?;
        let track = Arc::new(Track::new(self.config));
        if let Some(largest) = subscription.largest() {
            track.raise_largest(largest);
        }
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), track.clone());
        let (tracks, name, pumped) = (self.tracks.clone(), name.clone(), track.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = pump(subscription, &pumped) => {}
                () = unused(&pumped) => {}
            }
            tracks.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            pumped.end();
        });
        Ok(track)
    }
}

impl<P: ObjectPlane> Source for Upstream<P> {
    fn track<'a>(&'a self, name: &'a TrackName) -> Boxed<'a, Result<Arc<Track>, Refusal>> {
        Box::pin(async move {
            match self.known(name) {
                Some(track) => Ok(track),
                None => self.open(name).await,
            }
        })
    }

    fn fetch<'a>(
        &'a self,
        asker: &'a Asker,
        name: &'a TrackName,
        range: LocationRange,
    ) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            if let Some(fetched) = self.known(name).and_then(|t| t.fetch_complete(range)) {
                return Ok(fetched);
            }
            let got = async {
                let fetching = self.plane.fetch(name, range).await?;
                Fetched::from_upstream(fetching, FETCH_BYTES, &asker.room).await
            };
            let late = |_| Refusal::new(request_error::TIMEOUT, "the publisher does not answer in time");
            tokio::time::timeout(FETCH_TIME, got).await.map_err(late)?
        })
    }
}

/// Fills a window from a subscription until that ends.
pub(crate) async fn pump(mut subscription: impl Subscription, track: &Track) {
    loop {
        match subscription.next().await {
            Ok(Event::Object(object)) => {
                track.push(object);
            }
            Ok(Event::EndOfSubgroup { group, subgroup, last }) => track.end_subgroup(group, subgroup, last),
            Ok(Event::Broken(_)) => {}
            Ok(Event::Done(..)) | Err(_) => return,
        }
    }
}

/// Returns when nobody has listened to the track for a while.
async fn unused(track: &Track) {
    loop {
        tokio::time::sleep(LINGER).await;
        if !track.is_watched() {
            return;
        }
    }
}
