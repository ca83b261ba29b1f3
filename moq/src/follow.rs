//! A subscription that outlives its sessions: it reconnects with back-off, subscribes again behind the largest object it
//! has, fetches what it missed, and gives every object once.

use crate::plane::{Event, Fetching as _, Object, ObjectPlane, PlaneError, Start, Subscription as _};
use crate::wire::{Location, LocationRange, TrackName, publish_done};
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::time::Duration;

/// First wait before another attempt; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a relay may wait for the publisher to come back.
const RENDEZVOUS: Duration = Duration::from_secs(5);
/// Locations that are remembered to leave out what comes twice; what is older than all of them is left out, too.
const REMEMBERED: usize = 4096;
/// Gaps that wait to be fetched: the oldest is given up for a new one.
const GAPS: usize = 64;

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
    gaps: VecDeque<LocationRange>,
    seen: Seen,
    backoff: Duration,
    rng: fastrand::Rng,
    stats: FollowStats,
}

struct Live<P: ObjectPlane> {
    plane: P,
    subscription: P::Subscription,
    fetching: Option<P::Fetching>,
}

impl<D: Dial> Follower<D> {
    /// Begins at `start`; later sessions go on where this one was. `seed`: of the jitter of the back-off.
    pub fn new(dial: D, track: TrackName, start: Start, seed: u64) -> Follower<D> {
        let rng = fastrand::Rng::with_seed(seed);
        Follower {
            dial,
            track,
            start,
            live: None,
            gaps: VecDeque::new(),
            seen: Seen::default(),
            backoff: BACKOFF,
            rng,
            stats: FollowStats::default(),
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> FollowStats {
        self.stats
    }

    /// The session, while there is one.
    pub fn plane(&self) -> Option<&D::Plane> {
        self.live.as_ref().map(|live| &live.plane)
    }

    /// The next object; none: the publisher ended the track. Does not lose anything when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<Object> {
        loop {
            let Some(live) = &mut self.live else {
                self.connect().await;
                continue;
            };
            let object = if live.fetching.is_some() || !self.gaps.is_empty() {
                self.fill().await
            } else {
                match live.subscription.next().await {
                    Ok(Event::Object(object)) => Some((object, true)),
                    Ok(Event::Broken(group)) => {
                        self.gap(LocationRange::groups(group, group));
                        None
                    }
                    Ok(Event::EndOfSubgroup { .. }) => None,
                    Ok(Event::Done(publish_done::TRACK_ENDED, _)) => return None,
                    Ok(Event::Done(code, reason)) => {
                        tracing::info!(track = %self.track, code, reason, "moq: subscription ended; subscribing again");
                        self.live = None;
                        None
                    }
                    Err(e) => {
                        tracing::info!(track = %self.track, error = %e, "moq: session ended; connecting again");
                        self.live = None;
                        None
                    }
                }
            };
            if let Some((object, is_live)) = object
                && let Some(object) = self.take(object, is_live)
            {
                return Some(object);
            }
        }
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

    /// One step of filling the oldest gap.
    async fn fill(&mut self) -> Option<(Object, bool)> {
        let live = self.live.as_mut()?;
        if let Some(fetching) = &mut live.fetching {
            match fetching.next().await {
                Ok(Some(object)) => return Some((object, false)),
                Ok(None) => {
                    live.fetching = None;
                    self.gaps.pop_front();
                }
                Err(_) => self.live = None,
            }
            return None;
        }
        let range = *self.gaps.front()?;
        match live.plane.fetch(&self.track, range).await {
            Ok(fetching) => live.fetching = Some(fetching),
            Err(PlaneError::Refused(refusal)) => {
                tracing::warn!(track = %self.track, ?range, %refusal, "moq: a gap cannot be filled");
                self.stats.holes += 1;
                self.gaps.pop_front();
            }
            Err(_) => self.live = None,
        }
        None
    }

    fn gap(&mut self, range: LocationRange) {
        if self.gaps.len() == GAPS {
            self.gaps.pop_front();
            self.stats.holes += 1;
        }
        self.gaps.push_back(range);
    }

    async fn connect(&mut self) {
        match self.attempt().await {
            Ok(live) => {
                self.stats.sessions += 1;
                self.live = Some(live);
            }
            Err(e) => {
                self.stats.failures += 1;
                let wait = self.backoff.mul_f64(0.5 + self.rng.f64());
                tracing::debug!(track = %self.track, error = %e, ?wait, "moq: no subscription");
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn attempt(&mut self) -> Result<Live<D::Plane>, PlaneError> {
        let plane = self.dial.dial().await?;
        let held = self.seen.largest();
        let start = held.map_or(self.start, |held| Start::At(held.next()));
        let subscription = plane.subscribe(&self.track, start, RENDEZVOUS).await?;
        let from = match (held, self.start) {
            (Some(held), _) => Some(held.next()),
            (None, Start::At(at)) => Some(at),
            (None, _) => None,
        };
        if let (Some(from), Some(largest)) = (from, subscription.largest())
            && from <= largest
        {
            self.gap(LocationRange { start: from, end: largest.next() });
        }
        Ok(Live { plane, subscription, fetching: None })
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
