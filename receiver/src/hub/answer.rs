//! What players ask: the [`Library`] of the HTTP half.

use super::intake::is_same;
use super::{Flight, Hub, ManifestInfo, State};
use crate::expect::Verdict;
use crate::flow::Control;
use crate::library::{Availability, Library, ManifestState, RepairPlan, ResourceKey, Source, Stored};
use crate::store::Class;
use crate::urls::{Owner, RenditionKey};
use bytes::Bytes;
use mahp_common::catalog::{Channel, Role};
use mahp_common::recipe::Recipe;
use mahp_common::session::recv::{Path, Progress};
use mahp_common::{Digest, ObjectKind, ObjectMeta, Payload, Time, Toi};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use url::Url;

/// Ranges to fetch for a repair are merged over gaps of this size: a request costs more than the bytes.
const MERGE: u64 = 16 << 10;
/// A repair that needs more than this share of the object is not worth it.
const REPAIR_SHARE_MAX: f64 = 0.7;
/// A new version of a manifest that is not here this long after its description was lost.
const NEW_VERSION_MAX: Duration = Duration::from_secs(1);
/// A disk read should be done by then.
const DISK_TIME: Duration = Duration::from_millis(200);

type Range = Option<(u64, Option<u64>)>;

impl Library for Hub {
    fn channels(&self) -> Vec<Arc<Channel>> {
        self.state().channels.clone()
    }

    fn key(&self, url: &Url) -> ResourceKey {
        self.state().urls.key(url)
    }

    fn channel_of(&self, url: &Url) -> Option<Arc<Channel>> {
        let state = self.state();
        let owner = state.urls.owner(url, &state.urls.key(url))?;
        state.channels.iter().find(|c| *c.name == *owner.channel).cloned()
    }

    fn demand(&self, url: &Url, range: Range) -> Availability {
        self.with(|state, now| {
            let key = state.urls.key(url);
            let owner = state.urls.owner(url, &key);
            if let Some(owner) = &owner {
                state.want(now, owner);
            }
            if let Some(pieces) = state.store.lookup(&key, range) {
                let is_old = |piece: &Arc<Stored>| piece.good_until.is_some_and(|until| until <= now);
                return if pieces.iter().any(is_old) {
                    Availability::Stale(pieces)
                } else {
                    Availability::Here(pieces)
                };
            }
            if state.disk.as_mut().is_some_and(|d| d.request(&key, range)) {
                return Availability::Coming { expected_by: now + DISK_TIME, progress: 1.0 };
            }
            match owner {
                Some(owner) => state.availability(now, &key, range, owner.rendition.as_ref()),
                None if self.is_allowed(state, url) => Availability::Allowed,
                None => Availability::Forbidden,
            }
        })
    }

    fn piece(&self, url: &Url, at: u64) -> Option<Arc<Stored>> {
        let state = self.state();
        state.store.holding(&state.urls.key(url), at).cloned()
    }

    fn manifest(&self, url: &Url) -> Option<ManifestState> {
        self.with(|state, now| {
            let key = state.urls.key(url);
            if let Some(owner) = state.urls.owner(url, &key) {
                state.want(now, &owner);
            }
            let info = state.manifests.get(&key)?.clone();
            let stored = state.store.lookup(&key, None)?.into_iter().next()?;
            let base = stored.meta.final_url.as_ref().unwrap_or(&stored.meta.url);
            let base = Url::parse(base).unwrap_or_else(|_| url.clone());
            Some(ManifestState { fresh: state.is_fresh(now, &key, &info, stored.meta.digest), stored, base })
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn repair_plan(&self, url: &Url, range: Range) -> Option<RepairPlan> {
        let state = self.state();
        let (flight, _) = state.flight(&state.urls.key(url), range)?;
        if Recipe::is(&flight.meta) {
            return None; // bytes of the segment are no bytes of it
        }
        let flow = state.renditions.get(&flight.rendition)?.flow.clone()?;
        let flight = flight.clone();
        drop(state);
        let ranges = flow.session().missing_ranges(flight.toi, MERGE);
        let missing: u64 = ranges.iter().map(|(first, last)| last - first + 1).sum();
        let worth_it = missing > 0 && (missing as f64) < flight.meta.length as f64 * REPAIR_SHARE_MAX;
        worth_it.then_some(RepairPlan { meta: flight.meta, ranges })
    }

    fn feed(&self, plan: &RepairPlan, offset: u64, bytes: &[u8]) {
        let state = self.state();
        let Ok(url) = Url::parse(&plan.meta.url) else { return };
        let flights =
            state.flights.get(&state.urls.described_key(&url)).map(Vec::as_slice).unwrap_or_default();
        let bytes = Bytes::copy_from_slice(bytes);
        for flight in flights.iter().filter(|f| is_same(&f.meta, &plan.meta) || f.meta == plan.meta) {
            if let Some(flow) = state.renditions.get(&flight.rendition).and_then(|e| e.flow.as_ref()) {
                flow.tell(Control::Bytes {
                    toi: flight.toi,
                    path: Path::Origin,
                    offset,
                    bytes: bytes.clone(),
                });
            }
        }
    }

    fn lasts(&self, url: &Url) -> bool {
        let state = self.state();
        state.urls.owner(url, &state.urls.key(url)).is_some_and(|o| o.rendition.is_some())
    }

    fn put(&self, meta: ObjectMeta, body: Bytes, good_for: Duration) -> Arc<Stored> {
        let stored = self.with(|state, now| state.put(now, meta, body, good_for));
        self.changed();
        stored
    }

    fn teach_playlist(&self, inits: &[Url], segments: &[Url]) {
        let mut guard = self.state();
        let state = &mut *guard;
        let keys: Vec<ResourceKey> = segments.iter().map(|u| state.urls.key(u)).collect();
        // All segments of a media playlist are of one rendition: one that is known tells of the others.
        let mut owners =
            segments.iter().zip(&keys).rev().filter_map(|(u, k)| state.urls.owner(u, k)?.rendition);
        let Some(owner) = owners.next() else { return };
        drop(owners);
        for key in &keys {
            state.urls.learn(key, &owner);
        }
        let inits: Vec<ResourceKey> = inits.iter().map(|u| state.urls.key(u)).collect();
        for key in &inits {
            state.urls.learn(key, &owner);
        }
        if let Some(entry) = state.renditions.get_mut(&owner) {
            entry.hearing.taught(&keys, false);
            entry.hearing.taught_inits(&inits);
        }
    }

    fn hold_budget(&self) -> Duration {
        self.options.hold
    }

    fn unheard_sessions(&self) -> bool {
        self.state().sessions.iter().any(|s| !s.answered)
    }
}

impl Hub {
    /// Whether a URL of no channel may be asked for.
    fn is_allowed(&self, state: &State, url: &Url) -> bool {
        state.urls.is_channel_host(url) || self.options.allow_origins.listing(url).is_some()
    }
}

/// Of an object that its engine has completed a moment ago.
fn landing(toi: Toi, at: Time) -> Progress {
    Progress {
        toi,
        first_symbol: at,
        last_symbol: at,
        source_symbols: 1,
        missing_symbols: 0,
        unheard_symbols: 0,
        length: 0,
    }
}

impl State {
    fn want(&mut self, now: Time, owner: &Owner) {
        match &owner.rendition {
            Some(rendition) => {
                self.joins.demand(now, rendition);
                if let Some(entry) = self.renditions.get_mut(rendition) {
                    entry.wanted_at = Some(now);
                }
            }
            None => self.joins.demand_channel(now, &owner.channel),
        }
    }

    /// Of an object that is not in the store.
    fn availability(
        &mut self,
        now: Time,
        key: &ResourceKey,
        range: Range,
        rendition: Option<&RenditionKey>,
    ) -> Availability {
        let (hope, progress) = match self.flight(key, range) {
            Some((flight, progress)) => {
                let number = flight.number;
                let seen = (self.hope(now, flight), progress.map(|p| (flight.rendition.clone(), p)));
                self.ask(now, key, number);
                seen
            }
            None => (None, None),
        };
        // What is under assembly may be of another rendition than the patterns say.
        let rendition = progress.as_ref().map(|(r, _)| r).or(rendition);
        let Some(entry) = rendition.and_then(|r| self.renditions.get_mut(r)) else {
            return Availability::NotComing;
        };
        if entry.flow.is_none() && !entry.error.is_empty() {
            return Availability::NotComing;
        }
        entry.listen();
        let nameless = entry.flow.as_ref().and_then(|flow| flow.session().undescribed());
        entry.hearing.nameless(nameless);
        let flight = progress.as_ref().map(|(_, p)| p);
        let verdict = entry.hearing.verdict(now, key, range.map(|r| r.0), flight, &entry.flow_rate());
        // What the recovery is at work on is left to it for a while.
        match (verdict, hope) {
            (Verdict::Coming { progress, .. }, Some(hope)) => {
                Availability::Coming { expected_by: hope, progress }
            }
            (Verdict::Coming { expected_by, progress }, None) => {
                Availability::Coming { expected_by, progress }
            }
            (Verdict::Expected { until }, hope) => {
                Availability::Expected { until: hope.map_or(until, |hope| until.max(hope)) }
            }
            (Verdict::NotComing(_), Some(hope)) => Availability::Expected { until: hope },
            (Verdict::NotComing(why), None) => {
                tracing::debug!(url = %key.0, ?why, "multicast will not bring it");
                Availability::NotComing
            }
        }
    }

    /// A player asks for what a flight brings.
    fn ask(&mut self, now: Time, key: &ResourceKey, number: u64) {
        let flights = self.flights.get_mut(key).into_iter().flatten();
        for flight in flights.filter(|f| f.number == number) {
            flight.asked_at.get_or_insert(now);
        }
    }

    /// The flight that brings the first missing part of a request, and how far it is.
    fn flight(&self, key: &ResourceKey, range: Range) -> Option<(&Flight, Option<Progress>)> {
        let (first, last) = range.unwrap_or((0, None));
        let progress = |f: &Flight| {
            let flow = self.renditions.get(&f.rendition)?.flow.as_ref()?;
            let session = flow.session();
            // Complete, and its event is on the way to us: to take it for missed would be a request to the origin.
            session.progress(f.toi).or_else(|| session.is_finished(f.toi).then(|| landing(f.toi, f.at)))
        };
        self.flights
            .get(key)?
            .iter()
            .filter(|f| f.range().last >= first && last.is_none_or(|last| f.range().first <= last))
            .filter(|f| !self.store.covers(key, (f.range().first, f.range().last)))
            .map(|f| (f, progress(f)))
            .min_by_key(|(f, p)| {
                let missing = p.as_ref().map_or(u64::MAX, |p| p.missing_symbols);
                (f.range().first, p.is_none(), missing)
            })
    }

    /// Master playlists and MPDs are repeated every 2 s, so the one we have is the newest unless a newer one was described and
    /// did not come. A live media playlist has a new version every target duration.
    fn is_fresh(
        &mut self,
        now: Time,
        key: &ResourceKey,
        info: &ManifestInfo,
        digest: Option<Digest>,
    ) -> bool {
        let Some(entry) = info.rendition.as_ref().and_then(|r| self.renditions.get_mut(r)) else {
            return false;
        };
        entry.listen();
        if entry.flow.is_none() || !entry.hearing.is_heard(now) {
            return false;
        }
        let late = |f: &Flight| f.meta.digest != digest && now - f.at > NEW_VERSION_MAX;
        let outdated = self.flights.get(key).is_some_and(|flights| flights.iter().any(late));
        let changes = entry.channel.live && entry.rendition.role != Role::Manifest;
        let period = entry.part_target().map_or(entry.target() * 3 / 2, |part| part * 4);
        let lifetime = period.max(Duration::from_secs(2));
        !outdated && (!changes || now - info.heard_at <= lifetime)
    }

    fn put(&mut self, now: Time, meta: ObjectMeta, body: Bytes, good_for: Duration) -> Arc<Stored> {
        let url = Url::parse(&meta.url).ok();
        let key = url.as_ref().map(|url| self.urls.key(url));
        let owner = url.as_ref().zip(key.as_ref()).and_then(|(url, key)| self.urls.owner(url, key));
        let rendition = owner.and_then(|o| o.rendition);
        let good_until = rendition.is_none().then(|| now + good_for);
        let payload = Payload::from(body);
        let stored = Arc::new(Stored { meta, payload, source: Source::Unicast, stored_at: now, good_until });
        let Some(key) = key else { return stored };
        if self.contradicts(&key, &stored) {
            // This viewer's origin sends something else than everybody gets (an advertisement): his alone.
            return stored;
        }
        if let Some(entry) = rendition.as_ref().and_then(|r| self.renditions.get_mut(r)) {
            entry.stats.counts.objects.unicast += 1;
            entry.stats.counts.whole_bytes += stored.payload.len();
            let missed = stored.meta.kind == ObjectKind::Media
                && entry.flow.is_some()
                && !entry.hearing.precedes_join(now, &key);
            entry.stats.this_second.unfinished += u64::from(missed);
            let channel = entry.channel.name.clone();
            metrics::counter!("mahp_receiver_objects_total", "channel" => channel, "result" => "unicast")
                .increment(1);
        }
        if stored.meta.kind == ObjectKind::Manifest {
            let info = ManifestInfo { rendition: None, toi: None, heard_at: now };
            self.manifests.insert(key.clone(), info);
        } else {
            self.stop_collecting(&key, &stored);
        }
        self.keep(now, &key, stored.clone(), Class::Cached { rendition });
        stored
    }

    /// Whether multicast has described other bytes for the same part, or brought them.
    fn contradicts(&self, key: &ResourceKey, stored: &Stored) -> bool {
        let meta = &stored.meta;
        if meta.kind == ObjectKind::Manifest || meta.digest.is_none() {
            return false;
        }
        let other = |m: &ObjectMeta| {
            m.range == meta.range && m.digest.is_some() && m.digest != meta.digest && !Recipe::is(m)
        };
        let first = meta.range.map_or(0, |r| r.first);
        self.flights.get(key).is_some_and(|flights| flights.iter().any(|f| other(&f.meta)))
            || self.store.piece(key, first).is_some_and(|s| s.source != Source::Unicast && other(&s.meta))
    }

    fn stop_collecting(&mut self, key: &ResourceKey, stored: &Stored) {
        let whole = stored.meta.range.is_none();
        let Some(flights) = self.flights.get_mut(key) else { return };
        flights.retain(|f| {
            let done = whole || f.meta.range == stored.meta.range;
            if done && let Some(flow) = self.renditions.get(&f.rendition).and_then(|e| e.flow.as_ref()) {
                flow.tell(Control::Forget(f.toi));
            }
            !done
        });
        if flights.is_empty() {
            self.flights.remove(key);
        }
    }
}
