//! What the flows' engines say.

use super::{FLIGHTS_MAX, Flight, Hub, ManifestInfo, State, object_url};
use crate::flow::{Control, Sink};
use crate::library::{ResourceKey, Source, Stored};
use crate::store::{Class, PieceKey};
use crate::urls::RenditionKey;
use mahp_common::catalog::Format;
use mahp_common::drop::DropReason;
use mahp_common::manifest::{dash::Mpd, hls::Playlist, sniff};
use mahp_common::recipe::Recipe;
use mahp_common::session::recv::{Event, Reception};
use mahp_common::{ObjectKind, ObjectMeta, Payload, Time, Toi, WallTime};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Segments of one Representation that are looked at in an MPD: the newest.
const LESSON_MAX: usize = 256;

/// An object that had no room may be collected again after this: its repair symbols of this round are through then.
const REOPEN_AFTER: Duration = Duration::from_secs(3);

/// What a manifest that came by multicast teaches: segments in order, oldest first.
#[derive(Debug)]
struct Lesson {
    /// Initialization segments of each list.
    inits: Vec<Vec<Url>>,
    lists: Vec<Vec<Url>>,
    /// Its segments were sent before it.
    proves_sent: bool,
    live: bool,
}

impl Sink for Hub {
    fn events(&self, key: &RenditionKey, events: Vec<Event>) -> Vec<Control> {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        // Manifests are read before the lock is taken.
        let lessons: Vec<Option<Lesson>> = events.iter().map(|e| lesson(e, wall)).collect();
        let mut controls = Vec::new();
        let mut wake = false;
        let mut state = self.state();
        for (event, lesson) in events.into_iter().zip(lessons) {
            wake |= state.event(now, wall, key, event, lesson, &mut controls);
        }
        drop(state);
        if wake {
            self.changed();
        }
        self.effects.notify_waiters();
        controls
    }
}

impl State {
    /// Returns whether those who wait for objects should look again.
    fn event(
        &mut self,
        now: Time,
        wall: WallTime,
        key: &RenditionKey,
        event: Event,
        lesson: Option<Lesson>,
        controls: &mut Vec<Control>,
    ) -> bool {
        match event {
            Event::Announced { toi, meta, newest } => {
                self.announced(now, key, toi, meta, newest, controls);
                newest
            }
            Event::Complete { toi, meta, payload, how } => {
                self.complete(now, wall, key, (toi, meta, payload), how, controls);
                if let Some(lesson) = lesson {
                    self.learn(now, key, lesson);
                }
                true
            }
            Event::Lost { toi, meta, heard_from_start, reason } => {
                self.lost(now, key, toi, (meta, heard_from_start), reason);
                true
            }
            Event::NewSession { .. } => {
                self.new_session(key);
                true
            }
            Event::Closed => false,
        }
    }

    fn announced(
        &mut self,
        now: Time,
        key: &RenditionKey,
        toi: Toi,
        meta: ObjectMeta,
        newest: bool,
        controls: &mut Vec<Control>,
    ) {
        let Some(entry) = self.renditions.get_mut(key) else { return };
        let Some(url) = object_url(entry, &meta.url) else {
            controls.push(Control::Forget(toi));
            return;
        };
        if newest {
            entry.expect(now, &meta);
        }
        let resource = self.urls.described_key(&url);
        self.urls.learn(&resource, key);
        let last_byte = meta.range.map(|r| r.last);
        match meta.is_past() {
            true => entry.hearing.announced_past(now, &resource, newest, last_byte),
            false => entry.hearing.announced(now, &resource, meta.kind, newest, last_byte),
        }
        let first = meta.range.map_or(0, |r| r.first);
        let here = self.store.piece(&resource, first).is_some_and(|s| is_same(&s.meta, &meta))
            || self.store.has_longer(&resource, &meta);
        if here {
            if let Some(info) = self.manifests.get_mut(&resource) {
                info.heard_at = now;
                info.toi = Some(toi).max(info.toi);
            }
            controls.push(Control::Forget(toi));
            return;
        }
        if self.is_outlived(&resource, &meta, toi) {
            controls.push(Control::Forget(toi));
            return;
        }
        let Some(entry) = self.renditions.get_mut(key) else { return };
        entry.flying.push_back((resource.clone(), toi));
        let oldest = if entry.flying.len() > FLIGHTS_MAX { entry.flying.pop_front() } else { None };
        if let Some((old, toi)) = oldest {
            self.land(&old, key, toi);
        }
        let flights = self.flights.entry(resource).or_default();
        flights.retain(|f| f.toi != toi || f.rendition != *key);
        self.flown += 1;
        let number = self.flown;
        flights.push(Flight { rendition: key.clone(), toi, meta, at: now, number, asked_at: None });
    }

    fn complete(
        &mut self,
        now: Time,
        wall: WallTime,
        key: &RenditionKey,
        (toi, meta, payload): (Toi, ObjectMeta, Payload),
        how: Reception,
        controls: &mut Vec<Control>,
    ) {
        let Some(entry) = self.renditions.get_mut(key) else { return };
        let Some(url) = object_url(entry, &meta.url) else { return };
        let resource = self.urls.described_key(&url);
        let source = if how.fetched > 0 { Source::Repaired } else { Source::Multicast };
        if meta.kind == ObjectKind::Media && how.heard_from_start {
            entry.hearing.completed(how.first_symbol, &resource);
        }
        entry.note_layer(now, (toi, &meta), &how);
        entry.completed(wall, &meta, source, how);
        self.land_all(&resource, key, toi, &meta, controls);
        self.copies.object(key, toi, &payload);
        if meta.kind == ObjectKind::Manifest || sniff(payload.chunks().first().map_or(&[], |c| c)).is_some() {
            self.forget_older(&resource, key, (&meta, toi), controls);
            self.complete_manifest(now, key, toi, resource, meta, payload, source);
            return;
        }
        if Recipe::is(&meta) {
            self.recipe(now, key, resource, &meta, &payload);
            return;
        }
        let stored = Arc::new(Stored { meta, payload, source, stored_at: now, good_until: None });
        let Some(entry) = self.renditions.get(key) else { return };
        let class = match stored.meta.is_past() {
            true => Class::Cached { rendition: Some(key.clone()) },
            false => entry.class(key),
        };
        if !entry.channel.live && !self.store.has_longer(&resource, &stored.meta) {
            let first = stored.meta.range.map_or(0, |r| r.first);
            let piece = PieceKey { resource: resource.clone(), first };
            if let Some(disk) = &mut self.disk {
                disk.write(&piece, &stored);
            }
            if self.origins.len() > crate::hub::ORIGINS_MAX {
                self.origins.clear();
            }
            self.origins.insert(piece, (key.clone(), toi));
        }
        self.keep(now, &resource, stored, class);
        self.make(now);
    }

    #[allow(clippy::too_many_arguments)] // the parts of one object
    fn complete_manifest(
        &mut self,
        now: Time,
        key: &RenditionKey,
        toi: Toi,
        resource: ResourceKey,
        mut meta: ObjectMeta,
        payload: Payload,
        source: Source,
    ) {
        meta.kind = ObjectKind::Manifest; // foreign senders do not say
        // An older version that took longer than a newer one.
        if self.is_outlived(&resource, &meta, toi) {
            return;
        }
        if self.manifests.len() >= crate::hub::MANIFESTS_MAX {
            let store = &self.store;
            self.manifests.retain(|k, _| store.piece(k, 0).is_some());
        }
        let info = ManifestInfo { rendition: Some(key.clone()), toi: Some(toi), heard_at: now };
        self.manifests.insert(resource.clone(), info);
        let stored = Arc::new(Stored { meta, payload, source, stored_at: now, good_until: None });
        self.keep(now, &resource, stored, Class::Cached { rendition: Some(key.clone()) });
    }

    /// Whether a newer version of a manifest is here.
    fn is_outlived(&self, resource: &ResourceKey, meta: &ObjectMeta, toi: Toi) -> bool {
        let here = self.manifests.get(resource).zip(self.store.piece(resource, 0));
        here.is_some_and(|(info, stored)| is_newer((&stored.meta, info.toi), (meta, toi)))
    }

    /// Ends the flights of versions of a manifest that are older than one that is complete. FDT Instances list them to those who
    /// join later, they never come again, and a version that was described and does not come makes what is here look outdated.
    fn forget_older(
        &mut self,
        resource: &ResourceKey,
        key: &RenditionKey,
        (meta, toi): (&ObjectMeta, Toi),
        controls: &mut Vec<Control>,
    ) {
        let Some(flights) = self.flights.get_mut(resource) else { return };
        flights.retain(|f| {
            let older = f.rendition == *key && is_newer((meta, Some(toi)), (&f.meta, f.toi));
            if older {
                controls.push(Control::Forget(f.toi));
            }
            !older
        });
        if flights.is_empty() {
            self.flights.remove(resource);
        }
    }

    /// Ends the flight of a completed object, and those of the same bytes under other TOIs (a carousel, a repeated manifest).
    fn land_all(
        &mut self,
        resource: &ResourceKey,
        key: &RenditionKey,
        toi: Toi,
        meta: &ObjectMeta,
        controls: &mut Vec<Control>,
    ) {
        self.land(resource, key, toi);
        let Some(flights) = self.flights.get_mut(resource) else { return };
        flights.retain(|f| {
            let same = is_same(&f.meta, meta);
            if same && f.rendition == *key {
                controls.push(Control::Forget(f.toi));
            }
            !(same && f.rendition == *key)
        });
        if flights.is_empty() {
            self.flights.remove(resource);
        }
    }

    fn lost(
        &mut self,
        now: Time,
        key: &RenditionKey,
        toi: Toi,
        (meta, heard_from_start): (Option<ObjectMeta>, bool),
        reason: DropReason,
    ) {
        let Some(entry) = self.renditions.get_mut(key) else { return };
        let resource =
            meta.as_ref().and_then(|m| object_url(entry, &m.url)).map(|u| self.urls.described_key(&u));
        let described = meta.is_some();
        if described {
            entry.stats.counts.objects.lost += 1;
            entry.stats.this_second.unfinished += u64::from(heard_from_start);
            metrics::counter!("mahp_receiver_objects_total", "channel" => key.channel.to_string(), "result" => "lost")
                .increment(1);
            tracing::debug!(%key, %toi, reason = reason.as_str(), "object lost");
        }
        let no_room = matches!(reason, DropReason::ByteLimit | DropReason::ObjectLimit);
        let once = entry.channel.live && meta.as_ref().is_none_or(|m| m.kind == ObjectKind::Media);
        if no_room && !once && self.reopen.len() < super::REOPEN_MAX {
            self.reopen.push_back((now + REOPEN_AFTER, key.clone(), toi));
        }
        if let Some(resource) = resource {
            self.land(&resource, key, toi);
        }
    }

    /// Lets objects that are sent again and again, and had no room, be collected the next time.
    pub(super) fn reopen(&mut self, now: Time) {
        while self.reopen.front().is_some_and(|(at, _, _)| now >= *at) {
            let Some((_, key, toi)) = self.reopen.pop_front() else { return };
            if let Some(flow) = self.renditions.get(&key).and_then(|e| e.flow.as_ref()) {
                flow.tell(Control::Reopen(toi));
            }
        }
    }

    fn new_session(&mut self, key: &RenditionKey) {
        let Some(entry) = self.renditions.get_mut(key) else { return };
        tracing::info!(%key, "the sender was restarted");
        entry.hearing.new_session();
        let flying = std::mem::take(&mut entry.flying);
        if let Some(session) = self.sessions.get(entry.session) {
            session.refresh.notify_one();
        }
        // TOIs of another run say nothing about which version is newer.
        for info in self.manifests.values_mut().filter(|m| m.rendition.as_ref() == Some(key)) {
            info.toi = None;
        }
        for (resource, toi) in flying {
            self.land(&resource, key, toi);
        }
    }

    fn learn(&mut self, now: Time, key: &RenditionKey, lesson: Lesson) {
        let Lesson { inits, lists, proves_sent, live } = lesson;
        if let Some(first) = self.renditions.get(key).filter(|e| e.channel.manifest_url.is_empty()) {
            let url = self
                .manifests
                .iter()
                .find(|(_, m)| m.rendition.as_ref() == Some(key))
                .map(|(k, _)| k.0.clone());
            if let Some(url) = url.and_then(|u| object_url(first, &u)) {
                self.name_foreign_manifest(now, key, &url, live);
            }
        }
        for (inits, urls) in inits.iter().zip(lists) {
            let keys: Vec<ResourceKey> = urls.iter().map(|u| self.urls.described_key(u)).collect();
            // A media playlist travels with its segments; an MPD speaks of other renditions, which patterns and FDTs name.
            let owner = match (proves_sent, urls.last().zip(keys.last())) {
                (true, _) => Some(key.clone()),
                (false, Some((url, k))) => self.urls.owner(url, k).and_then(|o| o.rendition),
                (false, None) => None,
            };
            let Some(owner) = owner else { continue };
            let inits: Vec<ResourceKey> = inits.iter().map(|u| self.urls.described_key(u)).collect();
            for k in keys.iter().chain(&inits) {
                self.urls.learn(k, &owner);
            }
            if let Some(entry) = self.renditions.get_mut(&owner) {
                entry.hearing.taught(&keys, proves_sent);
                entry.hearing.taught_inits(&inits);
            }
        }
    }
}

impl super::Entry {
    /// How its media are kept.
    pub(super) fn class(&self, key: &RenditionKey) -> Class {
        match self.channel.live {
            true => {
                let window = self.target() * 6;
                let listed = self.target().saturating_mul(self.hearing.listing());
                // RFC 8216 section 6.2.2 has servers keep a segment for the duration of the longest playlist that lists it.
                Class::Live { rendition: key.clone(), window, keep: window.max(listed).saturating_mul(2) }
            }
            false => Class::Cached { rendition: Some(key.clone()) },
        }
    }

    fn completed(&mut self, wall: WallTime, meta: &ObjectMeta, source: Source, how: Reception) {
        let time = how.completed - how.first_symbol;
        let (objects, second) = (&mut self.stats.counts.objects, &mut self.stats.this_second);
        // What was under way at the join says nothing of the network.
        let counts = u64::from(how.heard_from_start);
        match source {
            Source::Repaired => {
                objects.repaired += 1;
                second.unfinished += counts;
            }
            Source::Multicast | Source::Unicast => {
                objects.multicast += 1;
                second.finished += counts;
            }
        }
        let channel = self.channel.name.clone();
        metrics::counter!("mahp_receiver_objects_total", "channel" => channel.clone(), "result" => source.as_str())
            .increment(1);
        metrics::histogram!("mahp_receiver_object_completion_seconds", "channel" => channel)
            .record(time.as_secs_f64());
        self.stats.completion.record(time);
        self.stats.recent_completion.record(time);
        if meta.kind == ObjectKind::Media
            && let Some(at) = meta.available_at.filter(|_| !meta.is_past())
        {
            self.stats.delay_ms = Some(wall.unix_millis().saturating_sub(at));
        }
    }
}

/// Whether the version that is here is newer than one that has come: by the time its sender had it, else by its number.
fn is_newer(here: (&ObjectMeta, Option<Toi>), came: (&ObjectMeta, Toi)) -> bool {
    match (here.0.available_at, came.0.available_at) {
        (Some(here), Some(came)) => here > came,
        _ => here.1 > Some(came.1),
    }
}

/// Whether two descriptions are of the same bytes. Without digests (foreign senders) nobody knows.
pub(super) fn is_same(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    a.digest.is_some() && a.digest == b.digest && a.length == b.length && a.range == b.range
}

fn lesson(event: &Event, wall: WallTime) -> Option<Lesson> {
    let Event::Complete { meta, payload, .. } = event else { return None };
    let format = sniff(payload.chunks().first()?)?;
    let body = payload.to_bytes();
    let base = Url::parse(meta.final_url.as_ref().unwrap_or(&meta.url)).ok();
    match format {
        Format::Hls => {
            let base = base.or_else(|| Url::parse("http://foreign.invalid/").ok())?;
            match Playlist::parse(&body, &base, &[]).ok()? {
                Playlist::Media(media) => {
                    let segments = media.segments.iter().filter(|s| !s.gap).map(|s| &s.uri);
                    let parts = media.parts.iter().filter(|p| !p.gap).map(|p| &p.uri);
                    let mut urls: Vec<Url> =
                        segments.chain(parts).filter_map(|uri| base.join(uri).ok()).collect();
                    urls.dedup();
                    let inits = vec![crate::http::render::inits(&media, &base)];
                    Some(Lesson { inits, lists: vec![urls], proves_sent: true, live: !media.endlist })
                }
                Playlist::Master(_) => None,
            }
        }
        Format::Dash => {
            let mpd = Mpd::parse(&body, &base?).ok()?;
            let list = |r| -> Vec<Url> {
                let segments = mpd.segments(r, wall);
                let skip = segments.len().saturating_sub(LESSON_MAX);
                segments.into_iter().skip(skip).map(|s| s.url).collect()
            };
            let representations = || mpd.representations.iter().take(64);
            let lists = representations().map(list).collect();
            let inits = representations().map(|r| mpd.init(r).map(|(url, _)| url).into_iter().collect());
            Some(Lesson { inits: inits.collect(), lists, proves_sent: false, live: mpd.dynamic })
        }
    }
}
