//! A subscription that outlives its sessions: it reconnects with back-off, subscribes again behind the largest object it
//! has, fetches what it missed beside what is live, and gives every object once. No publisher is waited for without end.

mod gaps;

use crate::plane::{Event, Object, ObjectPlane, PlaneError, Start, Subscription as _};
use crate::wire::{Location, LocationRange, TrackName, publish_done, request_error};
use gaps::{Filled, Gaps};
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// First wait before another attempt; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait, but for a publisher that asks for more.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest wait that a publisher may ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long a relay may wait for the publisher to come back.
const RENDEZVOUS: Duration = Duration::from_secs(5);
/// Longest wait for an answer, besides.
const ANSWER: Duration = Duration::from_secs(10);
/// Locations that are remembered to leave out what comes twice; what is older than all of them is left out, too.
const REMEMBERED: usize = 4096;

/// Opens sessions.
pub trait Dial: Send + Sync + 'static {
    /// What it opens.
    type Plane: ObjectPlane;
    /// One attempt.
    fn dial(&self) -> impl Future<Output = Result<Self::Plane, PlaneError>> + Send;
}

/// What happened to a [`Follower`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowStats {
    /// Sessions opened.
    pub sessions: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Objects that came live.
    pub live: u64,
    /// Objects that were fetched after a gap.
    pub fetched: u64,
    /// Objects that came a second time and were left out.
    pub duplicates: u64,
    /// Gaps that nobody could fill.
    pub holes: u64,
}

/// The subscription.
pub struct Follower<D: Dial> {
    dial: D,
    track: TrackName,
    start: Start,
    live: Option<Live<D::Plane>>,
    gaps: Gaps<D::Plane>,
    /// The publisher ended the track.
    over: bool,
    seen: Seen,
    backoff: Duration,
    /// No attempt before.
    not_before: Option<Instant>,
    rng: fastrand::Rng,
    stats: FollowStats,
}

struct Live<P: ObjectPlane> {
    plane: P,
    subscription: P::Subscription,
}

/// What came next.
enum Came<S> {
    Live(S),
    Fill(Filled),
}

impl<D: Dial> Follower<D> {
    /// Begins at `start`; later sessions go on where this one was. `seed`: of the jitter of the back-off.
    pub fn new(dial: D, track: TrackName, start: Start, seed: u64) -> Follower<D> {
        let rng = fastrand::Rng::with_seed(seed);
        Follower {
            gaps: Gaps::new(track.clone()),
            dial,
            track,
            start,
            live: None,
            over: false,
            seen: Seen::default(),
            backoff: BACKOFF,
            not_before: None,
            rng,
            stats: FollowStats::default(),
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> FollowStats {
        FollowStats { holes: self.gaps.holes(), ..self.stats }
    }

    /// The session, while there is one.
    pub fn plane(&self) -> Option<&D::Plane> {
        self.live.as_ref().map(|live| &live.plane)
    }

    /// The next object; none: the publisher ended the track. Does not lose anything when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<Object> {
        loop {
            if self.over {
                return self.rest().await;
            }
            let Some(live) = &mut self.live else {
                self.connect().await;
                continue;
            };
            let came = tokio::select! {
                event = live.subscription.next() => Came::Live(event),
                filled = self.gaps.fill(&live.plane) => Came::Fill(filled),
            };
            let object = match came {
                Came::Live(Ok(Event::Object(object))) => Some((object, true)),
                Came::Live(Ok(Event::Broken(group))) => {
                    self.gaps.add(LocationRange::groups(group, group));
                    None
                }
                Came::Live(Ok(Event::EndOfSubgroup { .. })) => None,
                Came::Live(Ok(Event::Done(publish_done::TRACK_ENDED, _))) => {
                    self.over = true;
                    None
                }
                Came::Live(Ok(Event::Done(code, reason))) => {
                    tracing::info!(track = %self.track, code, reason, "moq: subscription ended; subscribing again");
                    self.ended(Duration::ZERO);
                    None
                }
                Came::Live(Err(e)) => {
                    tracing::info!(track = %self.track, error = %e, "moq: session ended; connecting again");
                    self.ended(Duration::ZERO);
                    None
                }
                Came::Fill(Filled::Object(object)) => Some((object, false)),
                Came::Fill(Filled::Closed) => {
                    self.ended(Duration::ZERO);
                    None
                }
            };
            if let Some((object, is_live)) = object
                && let Some(object) = self.take(object, is_live)
            {
                return Some(object);
            }
        }
    }

    /// Behind the end of the track: what is still missing.
    async fn rest(&mut self) -> Option<Object> {
        let plane = self.live.as_ref()?.plane.clone();
        while let Some(Filled::Object(object)) = self.gaps.fill_or_end(&plane).await {
            if let Some(object) = self.take(object, false) {
                return Some(object);
            }
        }
        None
    }

    fn take(&mut self, object: Object, is_live: bool) -> Option<Object> {
        if !self.seen.insert(object.at) {
            self.stats.duplicates += 1;
            return None;
        }
        self.backoff = BACKOFF;
        *if is_live { &mut self.stats.live } else { &mut self.stats.fetched } += 1;
        Some(object)
    }

    /// The subscription is over, or there was none. The next attempt waits, longer each time until an object comes, and not less
    /// than the publisher asks for.
    fn ended(&mut self, asked: Duration) {
        self.live = None;
        self.gaps.interrupt();
        let wait = self.backoff.mul_f64(0.5 + self.rng.f64()).max(asked.min(RETRY_MAX));
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.not_before = Some(Instant::now() + wait);
    }

    async fn connect(&mut self) {
        if let Some(at) = self.not_before {
            sleep_until(at).await;
        }
        match self.attempt().await {
            Ok(live) => {
                self.stats.sessions += 1;
                self.live = Some(live);
            }
            Err(e) => {
                self.stats.failures += 1;
                tracing::debug!(track = %self.track, error = %e, "moq: no subscription");
                self.ended(retry_after(&e).unwrap_or_default());
            }
        }
    }

    async fn attempt(&mut self) -> Result<Live<D::Plane>, PlaneError> {
        let plane = self.dial.dial().await?;
        let held = self.seen.largest();
        let start = held.map_or(self.start, |held| Start::At(held.next()));
        let subscribing = plane.subscribe(&self.track, start, RENDEZVOUS);
        let subscription = timeout(RENDEZVOUS + ANSWER, subscribing).await.map_err(|_| late())??;
        let from = match (held, self.start) {
            (Some(held), _) => Some(held.next()),
            (None, Start::At(at)) => Some(at),
            (None, _) => None,
        };
        if let (Some(from), Some(largest)) = (from, subscription.largest())
            && from <= largest
        {
            self.gaps.add(LocationRange { start: from, end: largest.next() });
        }
        Ok(Live { plane, subscription })
    }
}

fn late() -> PlaneError {
    PlaneError::Refused(crate::Refusal::new(request_error::TIMEOUT, "no answer in time"))
}

fn retry_after(error: &PlaneError) -> Option<Duration> {
    match error {
        PlaneError::Refused(refusal) => refusal.retry_after,
        _ => None,
    }
}

/// Locations that were given out, the newest of them.
#[derive(Debug, Default)]
struct Seen {
    at: BTreeSet<Location>,
    /// What is not above it is old.
    floor: Option<Location>,
}

impl Seen {
    fn insert(&mut self, at: Location) -> bool {
        if Some(at) <= self.floor || !self.at.insert(at) {
            return false;
        }
        if self.at.len() > REMEMBERED {
            self.floor = self.at.pop_first();
        }
        true
    }

    fn largest(&self) -> Option<Location> {
        self.at.last().copied()
    }
}

#[cfg(test)]
mod tests;
