//! Playlists and MPDs: from multicast when fresh, else from the origin through a short cache, else as last known; never
//! re-serialised, only edited where references must lead back here.

use super::Front;
use super::ask::Ask;
use super::body::Body;
use super::errors::Refusal;
use super::headers::{self, Entity};
use super::media::{self, HOLD_MAX};
use super::memo::Remembered;
use super::render::{self, Rendered};
use super::send;
use crate::library::{Availability, ManifestState, Source};
use crate::origin::Want;
use crate::origin::flight::{End, Fetched, Flight, Refused};
use crate::served::Why;
use bytes::Bytes;
use http::Response;
use http::header::{HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use url::Url;

/// With an old version at hand, the origin gets this long.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// So long after the origin's version, multicast may still bring one from before it.
const OVERLAP: Duration = Duration::from_secs(10);
/// Between attempts at an origin that does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// A version of a manifest.
pub struct Version {
    /// Its text.
    pub body: Bytes,
    /// Base of its relative references.
    pub base: Url,
    /// Where it came from.
    pub source: Source,
    /// How to say so.
    pub status: HeaderValue,
    /// Seconds since it was made or fetched.
    pub age: u64,
    /// For this viewer only.
    pub private: bool,
    /// Set-Cookie.
    pub others: Vec<(HeaderName, HeaderValue)>,
}

/// Whether this is a manifest as far as we know: named by the description, heard, or seen before. Else its content tells.
pub fn is_known(front: &Front, ask: &Ask) -> bool {
    if let Some(channel) = &ask.channel {
        front.memo.describe(channel, |url| front.multicast.key(url));
    }
    front.memo.is_manifest(&ask.key) || front.multicast.manifest(&ask.url).is_some()
}

/// Answers a request for a manifest.
pub async fn serve(front: &Arc<Front>, ask: &Ask) -> Response<Body> {
    let start = Instant::now();
    let (found, waited) = find(front, ask, start).await;
    match found {
        Found::Version(version) => {
            // What a request to the origin takes is no hold.
            if waited && version.source != Source::Unicast {
                front.served.hold(start.elapsed());
            }
            send(front, ask, version)
        }
        Found::Refused(refused) => send::pass_on(ask, &refused),
        Found::Nothing(refusal) => refusal.response(&ask.headers),
        // Either may turn out to be the other, once.
        Found::NoManifest => Box::pin(media::serve(front, ask)).await,
    }
}

/// The version to show. One that multicast brings is waited for where a blocking reload asks for it; an origin that is asked
/// instead does that itself. When time is up the version that is there is the answer.
async fn find(front: &Arc<Front>, ask: &Ask, start: Instant) -> (Found, bool) {
    let mut changes = front.multicast.changes();
    let mut waited = false;
    loop {
        changes.mark_unchanged();
        let (found, has_waited) = Search::new(front, ask).run().await;
        waited |= has_waited;
        let until = start + reload_budget(ask);
        match (&found, ask.reload) {
            (Found::Version(v), Some(reload))
                if v.source != Source::Unicast
                    && Instant::now() < until
                    && !render::has(front, ask, reload, &v.body, &v.base) => {}
            // What a player waits for that it has asked for early is no hold.
            _ => return (found, waited && ask.reload.is_none()),
        }
        tokio::select! {
            () = media::changed(&mut changes) => {}
            () = sleep_until(until) => {}
        }
    }
}

/// Three target durations, and not longer than anybody waits.
fn reload_budget(ask: &Ask) -> Duration {
    let target = ask.channel.as_ref().map_or(0, |c| c.target_duration_ms);
    Duration::from_millis(target.saturating_mul(3)).min(HOLD_MAX)
}

/// A body that turned out to be a manifest.
pub async fn serve_fetched(front: &Arc<Front>, ask: &Ask, fetched: Arc<Fetched>) -> Response<Body> {
    remember(front, ask, &fetched);
    send(front, ask, of_origin(front, ask, &fetched, Duration::ZERO, headers::miss(false)))
}

fn send(front: &Arc<Front>, ask: &Ask, version: Version) -> Response<Body> {
    let Version { body, base, source, status, age, private, others } = version;
    let rendered = render::render(front, ask, &body, &base).unwrap_or_else(|e| {
        tracing::debug!(key = %ask.key.0, error = %e, "manifest passed on unread");
        Rendered::as_it_is(body)
    });
    let entity = Entity {
        content_type: HeaderValue::from_static(rendered.content_type),
        etag: headers::etag(mahp_common::Digest::of(&rendered.bytes)),
        last_modified: None,
        cache_control: HeaderValue::from_static(match (private, rendered.live) {
            (true, _) => "private, no-cache",
            (false, true) => "no-cache",
            (false, false) => "max-age=60",
        }),
        age: Some(age),
        cache_status: status,
        complete: Some(rendered.bytes.len() as u64),
        others,
    };
    let all = (0, entity.complete);
    send::send_stream(front, ask, source, entity, all, || Body::from(rendered.bytes))
}

enum Found {
    Version(Version),
    Refused(Arc<Refused>),
    Nothing(Refusal),
    /// What was taken for a manifest is none.
    NoManifest,
}

struct Search<'a> {
    front: &'a Arc<Front>,
    ask: &'a Ask,
    deadline: Instant,
    patience: Instant,
    not_before: Instant,
    flight: Option<Arc<Flight>>,
    alone: bool,
    refused: Option<Arc<Refused>>,
    failure: Option<Arc<str>>,
}

impl<'a> Search<'a> {
    fn new(front: &'a Arc<Front>, ask: &'a Ask) -> Search<'a> {
        let now = Instant::now();
        Search {
            front,
            ask,
            deadline: ask.asked_at + front.multicast.hold_budget().min(HOLD_MAX),
            patience: now + STALE_AFTER,
            not_before: now,
            flight: None,
            alone: false,
            refused: None,
            failure: None,
        }
    }

    /// What was found, and whether it had to be waited for.
    async fn run(mut self) -> (Found, bool) {
        let mut changes = self.front.multicast.changes();
        let mut waited = false;
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let heard = self.front.multicast.manifest(&self.ask.url).filter(|s| self.may_begin(s, now));
            let fresh = heard.as_ref().filter(|s| s.fresh);
            let newer = fresh.and_then(|state| self.newer_of_origin(state, now));
            if let Some(state) = fresh.filter(|_| newer.is_none()) {
                return (Found::Version(of_multicast(self.front, state)), waited);
            }
            if let Some(kept) = newer.or_else(|| self.front.memo.fresh(self.ask, now)) {
                let status = headers::hit(Source::Unicast);
                let age = now.duration_since(kept.at);
                return (Found::Version(of_origin(self.front, self.ask, &kept.fetched, age, status)), waited);
            }
            if let Some(found) = self.give_up(heard.as_ref(), now) {
                return (found, waited);
            }
            let fetching = self.front.options.unicast;
            if self.flight.is_none() && fetching && self.not_before <= now {
                match self.depart() {
                    Ok(flight) => self.flight = Some(flight),
                    Err(refusal) => return (Found::Nothing(*refusal), waited),
                }
            }
            let wake = if self.flight.is_none() && fetching { self.not_before } else { self.deadline };
            let wake = if heard.is_some() { wake.min(self.patience.max(now)) } else { wake };
            tokio::select! {
                biased;
                end = media::ended(self.flight.as_ref()) => {
                    if let Some(found) = self.landed(end) {
                        return (found, waited);
                    }
                }
                () = media::changed(&mut changes) => {}
                () = sleep_until(wake.min(self.deadline)) => {}
            }
            waited = true;
        }
    }

    /// The origin's version, if a player that saw it would go back in time with what multicast brought: a channel that begins
    /// by unicast is ahead of multicast for a moment.
    fn newer_of_origin(&self, heard: &ManifestState, now: Instant) -> Option<Remembered> {
        let kept = self.front.memo.any(self.ask).filter(|kept| now.duration_since(kept.at) < OVERLAP)?;
        let origin = kept.fetched.payload.to_bytes();
        let multicast = heard.stored.payload.to_bytes();
        let newer = render::goes_beyond((&origin, &kept.fetched.head.final_url), (&multicast, &heard.base));
        newer.then_some(kept)
    }

    /// Whether to show a player this version yet.
    fn may_begin(&self, heard: &ManifestState, now: Instant) -> bool {
        now >= self.deadline
            || render::can_begin(self.front, self.ask, &heard.stored.payload.to_bytes(), &heard.base)
    }

    /// What to answer when the origin does not: an old version soon, an error late.
    fn give_up(&mut self, heard: Option<&ManifestState>, now: Instant) -> Option<Found> {
        let origin_is_bad = self.failure.is_some() || now >= self.patience || !self.front.options.unicast;
        if origin_is_bad && let Some(version) = self.last_known(heard, now) {
            return Some(Found::Version(version));
        }
        if now < self.deadline {
            return None;
        }
        Some(match (self.refused.take(), &self.failure) {
            (Some(refused), _) => Found::Refused(refused),
            (None, failure) => {
                let why = failure.as_deref().unwrap_or("the origin did not answer in time");
                Found::Nothing(Refusal::no_source(self.ask.url.as_str(), why))
            }
        })
    }

    fn last_known(&self, heard: Option<&ManifestState>, now: Instant) -> Option<Version> {
        if let Some(state) = heard {
            let mut version = of_multicast(self.front, state);
            version.status = HeaderValue::from_static("mahp; hit; ttl=-1; detail=multicast-stale");
            return Some(version);
        }
        let kept = self.front.memo.any(self.ask)?;
        let status = HeaderValue::from_static("mahp; hit; ttl=-1; detail=unicast-stale");
        Some(of_origin(self.front, self.ask, &kept.fetched, now.duration_since(kept.at), status))
    }

    fn depart(&self) -> Result<Arc<Flight>, Box<Refusal>> {
        let available = match &self.ask.channel {
            Some(_) => Availability::NotComing,
            None => self.front.multicast.demand(&self.ask.url, None),
        };
        if matches!(available, Availability::Forbidden) {
            return Err(Box::new(Refusal::origin_not_allowed(self.ask.host())));
        }
        Ok(self.front.origins.fetch(Want {
            url: self.ask.url.clone(),
            key: self.ask.key.clone(),
            range: None,
            credentials: self.ask.credentials.clone(),
            alone: self.alone,
            // A manifest may name its segments by the viewer's token.
            exact: true,
            why: Why::Manifest,
            known: true,
        }))
    }

    fn landed(&mut self, end: End) -> Option<Found> {
        self.flight = None;
        let now = Instant::now();
        match end {
            End::Manifest(fetched) => {
                let private = !headers::may_store(&fetched.head.headers);
                if private && !self.alone && self.ask.credentials.0.is_empty() {
                    self.alone = true;
                    return None;
                }
                remember(self.front, self.ask, &fetched);
                let status = headers::miss(false);
                Some(Found::Version(of_origin(self.front, self.ask, &fetched, Duration::ZERO, status)))
            }
            End::Stored(_) | End::Private(_) | End::Large(_) | End::Repaired => {
                self.front.memo.forget(&self.ask.key);
                Some(Found::NoManifest)
            }
            End::Refused(refused) => {
                let may_come = self.ask.channel.is_some()
                    && matches!(
                        self.front.multicast.demand(&self.ask.url, None),
                        Availability::Coming { .. } | Availability::Expected { .. }
                    );
                if !may_come {
                    return Some(Found::Refused(refused));
                }
                self.refused = Some(refused);
                self.not_before = now + 2 * RETRY;
                None
            }
            End::Walled(why, host) => Some(Found::Nothing(Refusal::origin_private(&why, &host))),
            End::Failed(why) => {
                self.failure = Some(why);
                self.not_before = now + RETRY;
                None
            }
        }
    }
}

fn of_multicast(front: &Front, state: &ManifestState) -> Version {
    let stored = &state.stored;
    Version {
        body: stored.payload.to_bytes(),
        base: state.base.clone(),
        source: stored.source,
        status: headers::hit(stored.source),
        age: front.clock.now().since(stored.stored_at).as_secs(),
        private: false,
        others: Vec::new(),
    }
}

fn of_origin(_front: &Front, ask: &Ask, fetched: &Fetched, age: Duration, status: HeaderValue) -> Version {
    Version {
        body: fetched.payload.to_bytes(),
        base: fetched.head.final_url.clone(),
        source: Source::Unicast,
        status,
        age: age.as_secs(),
        private: !headers::may_store(&fetched.head.headers),
        others: ask.set_cookies(&fetched.head.headers),
    }
}

/// Keeps an origin's manifest for half a target duration, and after that in case the origin fails.
fn remember(front: &Front, ask: &Ask, fetched: &Arc<Fetched>) {
    let body = fetched.payload.to_bytes();
    let ttl = render::update_period(&body, &fetched.head.final_url) / 2;
    let private = !headers::may_store(&fetched.head.headers);
    let kept = Remembered { at: Instant::now(), ttl, fetched: fetched.clone() };
    front.memo.remember(ask, (!private).then_some(kept));
}
