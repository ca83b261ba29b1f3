//! Unicast: what multicast cannot bring is fetched from the origin, once for all who wait for it.
//!
//! [`Origins::fetch`] and [`Origins::repair`] start a download or join the one that runs for the same resource. The result
//! goes into the store by [`Library::put`] or [`Library::feed`] and to everyone who holds the [`Flight`].

pub mod flight;
pub mod health;
pub mod reach;
pub mod repair;
pub mod upstream;

use crate::freshness::lifetime;
use crate::http::headers::may_store;
use crate::library::{Library, RepairPlan, ResourceKey};
use crate::served::{Served, Why};
use bytes::Bytes;
use flight::{End, EndGuard, Fetched, Flight, Large, Refused, Shared};
use health::Health;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use mahp_common::manifest::sniff;
use mahp_common::manifest::url::REQUEST_PARAMETERS;
use mahp_common::{ByteRange, ObjectKind, ObjectMeta, Payload, limits};
use mahp_runtime::fetch::{FetchError, Request};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use upstream::{Answer, Head, Upstream};
use url::Url;

/// Downloads at a time; more wait.
const DOWNLOADS_MAX: usize = 64;
/// Until the headers of an answer.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two pieces of a body.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// The digest of a body above this size is computed on a thread for blocking work.
const DIGEST_INLINE_MAX: u64 = 1 << 20;

/// Bounds of memory for downloads.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest body of a channel's resource that is kept whole; above it is passed on as it comes.
    pub whole_max: u64,
    /// The same for resources of no channel.
    pub foreign_max: u64,
    /// All bodies that are being kept whole together; beyond it, further ones are passed on as they come.
    pub total: u64,
}

impl Bounds {
    /// Beside a store of so many bytes.
    pub fn beside(store: u64) -> Bounds {
        let total = (store / 2).clamp(16 << 20, 64 << 20);
        Bounds { whole_max: total.min(32 << 20), foreign_max: 4 << 20, total }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds::beside(u64::MAX)
    }
}

/// What a viewer identifies himself with to the origin; downloads with credentials are his alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials(pub Vec<(HeaderName, HeaderValue)>);

impl Credentials {
    /// Cookie and Authorization of a request.
    pub fn of(headers: &HeaderMap) -> Credentials {
        let names = [header::COOKIE, header::AUTHORIZATION];
        let values =
            |name: HeaderName| headers.get_all(&name).iter().map(|v| (name.clone(), v.clone())).collect();
        Credentials(names.into_iter().flat_map::<Vec<_>, _>(values).collect())
    }

    /// Tells them apart.
    pub fn key(&self) -> String {
        self.0.iter().map(|(n, v)| format!("{n}:{}\n", v.as_bytes().escape_ascii())).collect()
    }
}

/// What to fetch.
#[derive(Clone, Debug)]
pub struct Want {
    /// The origin's URL, as the viewer asked for it.
    pub url: Url,
    /// Its key.
    pub key: ResourceKey,
    /// Inclusive byte range; `None` = whole.
    pub range: Option<(u64, Option<u64>)>,
    /// The viewer's.
    pub credentials: Credentials,
    /// Neither join a download nor let others join: an answer for one viewer only.
    pub alone: bool,
    /// Join a download only if it is of the same URL, tokens included.
    pub exact: bool,
    /// For the counters.
    pub why: Why,
    /// Of a channel: kept whole up to [`Bounds::whole_max`].
    pub known: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FlightKey {
    key: ResourceKey,
    range: Option<(u64, Option<u64>)>,
    credentials: String,
    exact: Option<String>,
    repair: bool,
}

impl FlightKey {
    fn of(want: &Want, repair: bool) -> FlightKey {
        FlightKey {
            key: want.key.clone(),
            range: want.range,
            credentials: want.credentials.key(),
            exact: want.exact.then(|| want.url.to_string()),
            repair,
        }
    }
}

/// All origins.
pub struct Origins {
    upstream: Arc<dyn Upstream>,
    multicast: Arc<dyn Library>,
    served: Arc<Served>,
    bounds: Bounds,
    via: HeaderValue,
    slots: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    flights: Mutex<HashMap<FlightKey, Weak<Flight>>>,
    health: Mutex<Health>,
}

impl Origins {
    /// `via`: our name in the Via header of requests.
    pub fn new(
        upstream: Arc<dyn Upstream>,
        multicast: Arc<dyn Library>,
        served: Arc<Served>,
        bounds: Bounds,
        via: HeaderValue,
    ) -> Arc<Origins> {
        Arc::new(Origins {
            upstream,
            multicast,
            served,
            bounds,
            via,
            slots: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            memory: Arc::new(Semaphore::new(usize::try_from(bounds.total).unwrap_or(usize::MAX >> 4) >> 10)),
            flights: Mutex::default(),
            health: Mutex::default(),
        })
    }

    /// The whole of it, by the download that runs or a new one.
    pub fn fetch(self: &Arc<Self>, want: Want) -> Arc<Flight> {
        self.join(FlightKey::of(&want, false), &want.clone(), |origins, shared| async move {
            let end = origins.download(&want, &shared).await;
            shared.end(end.unwrap_or_else(|e| origins.failure(&want.url, &e)));
        })
    }

    /// What is missing of an object under assembly.
    pub fn repair(self: &Arc<Self>, want: Want, plan: RepairPlan) -> Arc<Flight> {
        self.join(FlightKey::of(&want, true), &want.clone(), |origins, shared| async move {
            let end = repair::run(&origins, &want, &plan).await;
            shared.end(end.unwrap_or_else(|e| origins.failure(&want.url, &e)));
        })
    }

    /// Whether there is no reason to think that this URL's host will not answer.
    pub fn is_healthy(&self, url: &Url) -> bool {
        self.health().is_healthy(host(url), Instant::now())
    }

    /// How long fetching this much from there will take.
    pub fn estimate(&self, url: &Url, bytes: u64) -> Duration {
        self.health().estimate(host(url), bytes)
    }

    fn join<F, Fut>(self: &Arc<Self>, key: FlightKey, want: &Want, work: F) -> Arc<Flight>
    where
        F: FnOnce(Arc<Origins>, Arc<Shared>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if !want.alone
            && let Some(flight) = flights.get(&key).and_then(Weak::upgrade)
        {
            return flight;
        }
        flights.retain(|_, f| f.strong_count() > 0);
        let shared = Shared::new();
        let (origins, own, own_key) = (self.clone(), shared.clone(), key.clone());
        let task = tokio::spawn(async move {
            let guard = EndGuard(own.clone());
            // As many as there are viewers may be waiting here; the semaphore is never closed.
            let _slot = origins.slots.clone().acquire_owned().await;
            work(origins.clone(), own.clone()).await;
            // Those who come later find it in the store or try again.
            origins.forget(&own_key, &own);
            drop(guard);
        });
        let flight = Arc::new(Flight { url: want.url.clone(), shared, task: task.abort_handle() });
        if !want.alone {
            flights.insert(key, Arc::downgrade(&flight));
        }
        flight
    }

    fn forget(&self, key: &FlightKey, shared: &Arc<Shared>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // The last reader must not be this one: dropping a flight aborts its task.
        let gone = flights.get(key).is_some_and(|weak| match weak.upgrade() {
            Some(flight) => Arc::ptr_eq(&flight.shared, shared),
            None => true,
        });
        if gone {
            flights.remove(key);
        }
    }

    /// One GET up to the end of the headers.
    pub(crate) async fn open(
        &self,
        want: &Want,
        range: Option<(u64, Option<u64>)>,
        extra: HeaderMap,
    ) -> Result<Answer, FetchError> {
        let mut headers = extra;
        headers.insert(header::VIA, self.via.clone());
        headers.extend(want.credentials.0.iter().cloned());
        let manifest = want.why == Why::Manifest;
        let request = Request {
            range,
            headers,
            max_bytes: Some(if manifest { limits::MANIFEST_BYTES as u64 } else { u64::MAX }),
            first_byte_timeout: Some(FIRST_BYTE_TIMEOUT),
            timeout: Some(SILENCE_TIMEOUT),
            accept_gzip: manifest,
        };
        let asked = Instant::now();
        let answer = self.upstream.open(upstream_url(&want.url), request).await?;
        self.health().answered(host(&want.url), Instant::now(), asked.elapsed());
        Ok(answer)
    }

    async fn download(&self, want: &Want, shared: &Shared) -> Result<End, FetchError> {
        let mut answer = self.open(want, want.range, HeaderMap::new()).await?;
        let limit = if want.known { self.bounds.whole_max } else { self.bounds.foreign_max };
        let mut memory = Memory { pool: self.memory.clone(), held: None };
        if answer.head.length.is_some_and(|l| l > limit || !memory.cover(l)) {
            return Ok(large(Vec::new(), answer));
        }
        shared.set_head(answer.head.clone());
        let started = Instant::now();
        let mut received = 0u64;
        while let Some(piece) = answer.body.chunk().await? {
            received += piece.len() as u64;
            self.served.fetched(want.why, piece.len() as u64);
            shared.push(piece);
            if received > limit || !memory.cover(received) {
                return Ok(large(shared.pieces(), answer));
            }
        }
        self.health().transferred(host(&want.url), Instant::now(), received, started.elapsed());
        let memory = Arc::new(memory);
        shared.hold(memory.clone());
        Ok(self.keep(want, answer.head, shared.pieces(), memory).await)
    }

    /// Decides what a whole body is, and stores it if it may be.
    async fn keep(&self, want: &Want, head: Head, pieces: Vec<Bytes>, memory: Arc<Memory>) -> End {
        let payload = Payload::from_chunks(pieces);
        let body = payload.to_bytes();
        if head.range.is_none() && sniff(&body).is_some() {
            // Kept for the next viewer, in another memory.
            return End::Manifest(Arc::new(Fetched { head, payload: body.into(), _memory: None }));
        }
        self.store(want, &head, meta(want, &head), body, Some(memory)).await
    }

    /// Stores a whole body, unless it is for one viewer only.
    async fn store(
        &self,
        want: &Want,
        head: &Head,
        mut meta: ObjectMeta,
        body: Bytes,
        memory: Option<Arc<Memory>>,
    ) -> End {
        if !is_shared(want, head) {
            let (head, payload) = (head.clone(), body.into());
            return End::Private(Arc::new(Fetched { head, payload, _memory: memory }));
        }
        meta.length = body.len() as u64;
        meta.digest = Some(digest(body.clone().into()).await);
        End::Stored(self.multicast.put(meta, body, lifetime(&head.headers)))
    }

    fn failure(&self, url: &Url, error: &FetchError) -> End {
        if let FetchError::Status { status: status @ 400..=499, headers, .. } = error
            && !matches!(status, 408 | 425 | 429)
        {
            self.health().refused(host(url), Instant::now());
            let headers = HeaderMap::clone(headers);
            return End::Refused(Arc::new(Refused { url: url.clone(), status: *status, headers }));
        }
        if let FetchError::Private { host, .. } = error {
            return End::Walled(error.to_string().into(), host.clone());
        }
        self.health().failed(host(url), Instant::now());
        End::Failed(error.to_string().into())
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share of the memory for downloads, in KiB.
#[derive(Debug)]
struct Memory {
    pool: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// Takes what is missing for `bytes`; false if there is no more.
    fn cover(&mut self, bytes: u64) -> bool {
        let have = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Ok(need) = u32::try_from(bytes.div_ceil(1024).saturating_sub(have as u64)) else { return false };
        let Ok(more) = self.pool.clone().try_acquire_many_owned(need) else { return false };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }
}

/// Whether others may have this answer (RFC 9111 sections 3 and 3.5).
fn is_shared(want: &Want, head: &Head) -> bool {
    let authorized = want.credentials.0.iter().any(|(name, _)| *name == header::AUTHORIZATION);
    let varies = head.headers.get_all(header::VARY).iter().any(|v| {
        v.to_str().is_ok_and(|v| {
            v.split(',').any(|n| matches!(n.trim().to_ascii_lowercase().as_str(), "*" | "cookie"))
        })
    });
    may_store(&head.headers) && !authorized && (!varies || want.credentials.0.is_empty())
}

fn large(prefix: Vec<Bytes>, answer: Answer) -> End {
    End::Large(Arc::new(Mutex::new(Some(Large { prefix, answer }))))
}

async fn digest(payload: Payload) -> mahp_common::Digest {
    if payload.len() <= DIGEST_INLINE_MAX {
        return payload.digest();
    }
    let copy = payload.clone();
    tokio::task::spawn_blocking(move || copy.digest()).await.unwrap_or_else(|_| payload.digest())
}

/// What we know of an object from the origin's answer; without length and digest.
pub fn meta(want: &Want, head: &Head) -> ObjectMeta {
    let text = |name: HeaderName| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let is_all = |r: &ByteRange| r.first == 0 && r.complete == Some(r.len());
    ObjectMeta {
        url: want.url.to_string(),
        final_url: (head.final_url != want.url).then(|| head.final_url.to_string()),
        range: head.range.filter(|r| !is_all(r)),
        kind: if want.why == Why::Key { ObjectKind::Other } else { ObjectKind::Media },
        content_type: text(header::CONTENT_TYPE),
        etag: text(header::ETAG),
        last_modified: text(header::LAST_MODIFIED),
        cache_control: text(header::CACHE_CONTROL),
        ..ObjectMeta::default()
    }
}

/// What is asked of the origin: without parameters that are for us (CMCD, blocking reloads, which would make it wait or send
/// a delta).
fn upstream_url(url: &Url) -> Url {
    let ours = |pair: &&str| !REQUEST_PARAMETERS.contains(&pair.split('=').next().unwrap_or_default());
    let mut out = url.clone();
    out.set_fragment(None);
    if let Some(query) = url.query() {
        let kept: Vec<&str> = query.split('&').filter(ours).collect();
        if kept.len() != query.split('&').count() {
            out.set_query((!kept.is_empty()).then(|| kept.join("&")).as_deref());
        }
    }
    out
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_for_us_do_not_reach_the_origin() {
        for (asked, sent) in [
            ("https://h/a?CMCD=br%3D1&t=2", "https://h/a?t=2"),
            ("https://h/a?_HLS_msn=5&_HLS_part=1", "https://h/a"),
            ("https://h/a?t=%20+x&&y", "https://h/a?t=%20+x&&y"),
            ("https://h/a?", "https://h/a?"),
        ] {
            assert_eq!(upstream_url(&Url::parse(asked).expect("url")).as_str(), sent);
        }
    }

    #[test]
    fn memory_is_given_back() {
        let pool = Arc::new(Semaphore::new(10));
        let mut a = Memory { pool: pool.clone(), held: None };
        let mut b = Memory { pool: pool.clone(), held: None };
        assert!(a.cover(1) && a.cover(6 << 10) && b.cover(4 << 10) && !b.cover((4 << 10) + 1));
        drop(a);
        assert!(b.cover(10 << 10) && !b.cover(u64::MAX));
        drop(b);
        assert_eq!(pool.available_permits(), 10);
    }
}
