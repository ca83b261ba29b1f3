//! The decision ladder (DESIGN section 5): what is here is sent; what is coming is waited for; what is not, or not in time, is
//! fetched from the origin; and only when neither can bring it is the player told so.

use super::Front;
use super::ask::Ask;
use super::body::Body;
use super::errors::Refusal;
use super::growing::{self, send_growing};
use super::large::send_large;
use super::pieces::{covers, send_pieces, worst_source};
use super::{headers, manifest, send};
use crate::library::{Availability, Source, Stored};
use crate::origin::flight::{End, Fetched, Flight, Large, Refused};
use crate::origin::upstream::Head;
use crate::origin::{Want, repair};
use crate::served::Why;
use http::Response;
use http::header::HeaderValue;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// No request waits longer than this: hls.js gives up after 10 s without a first byte.
pub const HOLD_MAX: Duration = Duration::from_secs(8);
/// An object that is a little late is not lost.
const MARGIN: Duration = Duration::from_millis(100);
/// The origin is asked at least this long before a deadline: a repair may fail, and the whole object must still fit.
const LEAD_MIN: Duration = Duration::from_millis(2500);
/// A live segment is left to multicast for this long at most.
const LIVE_PATIENCE: Duration = Duration::from_secs(3);
/// Receivers that lost the same packet do not ask the origin all at once.
const JITTER_MAX: Duration = Duration::from_millis(500);
/// After a repair was fed: until the decoder has done its work.
const REPAIR_GRACE: Duration = Duration::from_millis(500);
/// Between attempts at an origin that does not answer: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// Attempts at an origin of no channel: nothing else can bring it.
const FOREIGN_ATTEMPTS: u32 = 3;
/// An origin that might have replaced what is here gets this long to say so.
const STALE_PATIENCE: Duration = Duration::from_secs(2);
/// Size of a segment of which nothing is known.
const SIZE_DEFAULT: u64 = 2 << 20;

/// Answers a request for a resource that is not known to be a manifest.
pub async fn serve(front: &Arc<Front>, ask: &Ask) -> Response<Body> {
    match Hunt::new(front, ask).run().await {
        Got::Pieces(pieces, status) => send_pieces(front, ask, &pieces, status),
        Got::Coming(flight, head) => {
            let entity = send::origin_entity(ask, &head);
            send::send_stream(front, ask, Source::Unicast, entity, send::have(&head), || flight.body())
        }
        Got::Private(fetched) => {
            let entity = send::origin_entity(ask, &fetched.head);
            let have = (send::have(&fetched.head).0, Some(fetched.payload.len()));
            let payload = fetched.payload.clone();
            send::send_stream(front, ask, Source::Unicast, entity, have, || {
                Body::from(payload).holding(fetched)
            })
        }
        Got::Manifest(fetched) => manifest::serve_fetched(front, ask, fetched).await,
        Got::Growing(first) => send_growing(front, ask, &first),
        Got::Large(large) => send_large(front, ask, *large).await,
        Got::Refused(refused) => send::pass_on(ask, &refused),
        Got::Nothing(refusal) => refusal.response(&ask.headers),
    }
}

/// What to fetch for a request.
pub(super) fn want(ask: &Ask, why: Why) -> Want {
    Want {
        url: ask.url.clone(),
        key: ask.key.clone(),
        range: ask.conditions.bounds(),
        credentials: ask.credentials.clone(),
        alone: false,
        exact: false,
        why,
        known: ask.channel.is_some(),
    }
}

/// What a hunt ends with.
enum Got {
    /// Of the store, with its Cache-Status.
    Pieces(Vec<Arc<Stored>>, HeaderValue),
    /// Its time is up, but its bytes are coming by unicast: the viewer gets them as they come.
    Coming(Arc<Flight>, Arc<Head>),
    /// Of a segment that is still being made: its first chunk.
    Growing(Arc<Stored>),
    Private(Arc<Fetched>),
    Manifest(Arc<Fetched>),
    Large(Box<Large>),
    Refused(Arc<Refused>),
    Nothing(Refusal),
}

/// One request on its way through the ladder.
struct Hunt<'a> {
    front: &'a Arc<Front>,
    ask: &'a Ask,
    range: Option<(u64, Option<u64>)>,
    start: Instant,
    /// No request waits longer.
    deadline: Instant,
    /// The bytes should be here by then: the player's own deadline, where that is nearer.
    due: Instant,
    jitter: f64,
    flight: Option<Arc<Flight>>,
    /// The running flight is a repair.
    repairing: bool,
    repair_done: bool,
    attempts: u32,
    not_before: Instant,
    exact: bool,
    alone: bool,
    waited: bool,
    /// What the origin may have replaced by now.
    stale: Option<Vec<Arc<Stored>>>,
    refused: Option<Arc<Refused>>,
    failure: Option<Arc<str>>,
}

impl<'a> Hunt<'a> {
    fn new(front: &'a Arc<Front>, ask: &'a Ask) -> Hunt<'a> {
        let start = Instant::now();
        let budget = front.multicast.hold_budget().min(HOLD_MAX);
        Hunt {
            front,
            ask,
            range: ask.conditions.stored_bounds(),
            start,
            deadline: ask.asked_at + budget,
            due: ask.asked_at + ask.player_deadline.unwrap_or(budget).min(budget),
            jitter: fastrand::f64(),
            flight: None,
            repairing: false,
            repair_done: false,
            attempts: 0,
            not_before: start,
            exact: false,
            alone: false,
            waited: false,
            stale: None,
            refused: None,
            failure: None,
        }
    }

    async fn run(mut self) -> Got {
        let got = self.search().await;
        if self.waited {
            self.front.served.hold(self.start.elapsed());
        }
        got
    }

    async fn search(&mut self) -> Got {
        let mut changes = self.front.multicast.changes();
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let available = self.front.multicast.demand(&self.ask.url, self.range);
            match &available {
                Availability::Here(pieces) | Availability::Stale(pieces) if covers(pieces, self.range) => {
                    let same = pieces.iter().all(|p| self.ask.conditions.if_range_names(&p.meta));
                    if !same && self.range.is_some() {
                        // What the client has a part of is another version: it gets the whole of this one.
                        self.range = None;
                        continue;
                    }
                    if matches!(available, Availability::Here(_)) {
                        return Got::Pieces(pieces.clone(), self.how(pieces));
                    }
                    self.stale = Some(pieces.clone());
                }
                Availability::Forbidden => {
                    return Got::Nothing(Refusal::origin_not_allowed(self.ask.host()));
                }
                Availability::Coming { .. } | Availability::Expected { .. } => self.waited = true,
                Availability::Here(_)
                | Availability::Stale(_)
                | Availability::NotComing
                | Availability::Allowed => {}
            }
            if let Some(first) = growing::begun(self.front, self.ask) {
                return Got::Growing(first);
            }
            if self.stale.is_some() {
                let patience = if self.front.options.unicast { STALE_PATIENCE } else { Duration::ZERO };
                self.deadline = self.deadline.min(self.start + patience);
            }
            if now >= self.deadline {
                return self.time_is_up();
            }
            let fetch_at = self.fetch_at(&available, now);
            if self.flight.is_none() && fetch_at.is_some_and(|at| at <= now) {
                self.depart(&available);
            }
            let wake = match fetch_at {
                Some(at) if self.flight.is_none() => at.min(self.deadline),
                _ => self.deadline,
            };
            tokio::select! {
                biased;
                end = ended(self.flight.as_ref()) => {
                    if let Some(got) = self.landed(end, &available) {
                        return got;
                    }
                }
                () = changed(&mut changes) => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Cache-Status of what is in the store: it may be there because this request had it fetched.
    fn how(&self, pieces: &[Arc<Stored>]) -> HeaderValue {
        match worst_source(pieces) {
            Source::Unicast if self.attempts > 0 => headers::miss(true),
            source => headers::hit(source),
        }
    }

    /// When to ask the origin: `None` = never.
    fn fetch_at(&self, available: &Availability, now: Instant) -> Option<Instant> {
        if !self.front.options.unicast {
            return None;
        }
        let (hoped_for, missing) = match available {
            Availability::Coming { expected_by, progress } => {
                (self.front.clock.instant(*expected_by) + MARGIN, 1.0 - f64::from(progress.clamp(0.0, 1.0)))
            }
            Availability::Expected { until } => (self.front.clock.instant(*until), 1.0),
            _ => return Some(self.not_before.max(now)),
        };
        // A size as f64 is exact enough for an estimate.
        let bytes = (self.size() as f64 * missing) as u64;
        let estimate = self.front.origins.estimate(&self.ask.url, bytes);
        let lead = estimate.max(LEAD_MIN);
        let before = |deadline: Instant| deadline.checked_sub(lead).unwrap_or(self.start).max(self.start);
        let mut latest = before(self.deadline);
        if self.ask.channel.as_ref().is_some_and(|c| c.live) {
            // Live players buffer three segments or so: what is still missing by then must come the other way.
            latest = latest.min(self.start + LIVE_PATIENCE);
        }
        // However near the player's deadline: what should be here before the origin could bring it is not asked for.
        if hoped_for > self.start + estimate {
            latest = latest.min(before(self.due));
        }
        let slack = latest.saturating_duration_since(hoped_for) / 2;
        let jitter = slack.min(JITTER_MAX).mul_f64(self.jitter);
        Some((hoped_for + jitter).min(latest).max(self.not_before))
    }

    /// Size of a segment of this channel.
    fn size(&self) -> u64 {
        let Some(channel) = &self.ask.channel else { return SIZE_DEFAULT };
        let rate = channel.renditions.iter().map(|r| r.bitrate_bps).max().unwrap_or(0);
        match rate.saturating_mul(channel.target_duration_ms) / 8000 {
            0 => SIZE_DEFAULT,
            size => size.min(64 << 20),
        }
    }

    /// Starts, or joins, a download: missing ranges if that is worth it, else the whole.
    fn depart(&mut self, available: &Availability) {
        self.range = self.ask.conditions.bounds();
        let coming = matches!(available, Availability::Coming { .. });
        let plan = (coming && !self.repair_done)
            .then(|| self.front.multicast.repair_plan(&self.ask.url, self.range))
            .flatten()
            .filter(|plan| repair::requests(plan).is_some());
        let why = match &plan {
            Some(_) => Why::Repair,
            None if self.front.memo.is_key(&self.ask.key) => Why::Key,
            None => Why::Fallback,
        };
        let (alone, exact) = (self.alone, self.exact);
        let want = Want { alone, exact, ..want(self.ask, why) };
        self.attempts += 1;
        self.repairing = plan.is_some();
        self.flight = Some(match plan {
            Some(plan) => self.front.origins.repair(want, plan),
            None => self.front.origins.fetch(want),
        });
    }

    /// A download ended. `None`: go on.
    fn landed(&mut self, end: End, available: &Availability) -> Option<Got> {
        let flight = self.flight.take();
        let now = Instant::now();
        let may_come = matches!(available, Availability::Coming { .. } | Availability::Expected { .. });
        match end {
            End::Stored(stored) => return Some(Got::Pieces(vec![stored], headers::miss(true))),
            End::Private(fetched) if self.alone || !self.ask.credentials.0.is_empty() => {
                return Some(Got::Private(fetched));
            }
            // For one viewer only, and it may not be this one.
            End::Private(_) => self.alone = true,
            End::Manifest(fetched) => {
                // It may name segments by another viewer's token, or be for one viewer only.
                let mine = flight.is_some_and(|f| f.url == self.ask.url);
                if mine && (self.alone || headers::may_store(&fetched.head.headers)) {
                    return Some(Got::Manifest(fetched));
                }
                (self.exact, self.alone) = (true, mine);
            }
            End::Large(large) => match large.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(large) => return Some(Got::Large(Box::new(large))),
                None => self.alone = true,
            },
            End::Repaired => {
                self.repair_done = true;
                self.not_before = now + REPAIR_GRACE;
            }
            End::Refused(refused) => return self.was_refused(refused, flight, may_come),
            End::Walled(why, host) => return Some(Got::Nothing(Refusal::origin_private(&why, &host))),
            End::Failed(_) if self.stale.is_some() => return Some(self.time_is_up()),
            End::Failed(why) => {
                self.failure = Some(why);
                self.repair_done = true;
                let wait = RETRY.0.saturating_mul(1 << self.attempts.clamp(1, 8)) / 2;
                self.not_before = now + wait.min(RETRY.1);
                if matches!(available, Availability::Allowed) && self.attempts >= FOREIGN_ATTEMPTS {
                    return Some(self.time_is_up());
                }
            }
        }
        None
    }

    fn was_refused(
        &mut self,
        refused: Arc<Refused>,
        flight: Option<Arc<Flight>>,
        may_come: bool,
    ) -> Option<Got> {
        // Another viewer's token may have been refused: then this one's is tried.
        let mine = flight.is_some_and(|f| f.url == self.ask.url);
        if mine && !may_come {
            return Some(Got::Refused(refused));
        }
        if mine {
            self.refused = Some(refused);
        }
        self.exact |= !mine;
        self.repair_done = true;
        self.not_before = Instant::now() + if mine { RETRY.1 } else { Duration::ZERO };
        None
    }

    fn time_is_up(&mut self) -> Got {
        if let Some(pieces) = self.stale.take() {
            return Got::Pieces(pieces, headers::stale());
        }
        if let Some(flight) = self.flight.take().filter(|_| !self.repairing)
            && let Some(head) = flight.readable()
        {
            return Got::Coming(flight, head);
        }
        if let Some(refused) = self.refused.take() {
            return Got::Refused(refused);
        }
        let why = match (&self.failure, self.front.options.unicast) {
            (_, false) => "unicast is switched off",
            (Some(why), true) => why,
            (None, true) => "the origin did not answer in time",
        };
        Got::Nothing(Refusal::no_source(self.ask.url.as_str(), why))
    }
}

/// A change in the library; never if there will be none.
pub(super) async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

pub(super) async fn ended(flight: Option<&Arc<Flight>>) -> End {
    match flight {
        Some(flight) => flight.ended().await,
        None => std::future::pending().await,
    }
}
