//! What a subscription missed: ranges that are fetched one after the other, each for a while and a few times, then given up.

use super::{ANSWER, RETRY_MAX, late, retry_after};
use crate::plane::{Fetching as _, Object, ObjectPlane, PlaneError};
use crate::wire::{LocationRange, TrackName};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Gaps that wait to be fetched: the oldest is given up for a new one.
const GAPS: usize = 64;
/// Attempts at a gap that bring nothing.
const TRIES: u32 = 3;
/// Between them, if the publisher asks for no other time.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Gaps<P: ObjectPlane> {
    track: TrackName,
    waiting: VecDeque<Gap>,
    fetch: Fetch<P>,
    holes: u64,
}

struct Gap {
    range: LocationRange,
    /// Attempts since something came.
    tries: u32,
    not_before: Instant,
}

/// Of the oldest gap. Kept here, not in a future that is dropped whenever a live object comes.
enum Fetch<P: ObjectPlane> {
    None,
    Asking(Answer<P>, Instant),
    Reading(P::Fetching, Instant),
}

type Answer<P> = Pin<Box<dyn Future<Output = Result<<P as ObjectPlane>::Fetching, PlaneError>> + Send>>;

/// What came of it.
pub(super) enum Filled {
    Object(Object),
    /// The session is over.
    Closed,
}

impl<P: ObjectPlane> Gaps<P> {
    pub(super) fn new(track: TrackName) -> Gaps<P> {
        Gaps { track, waiting: VecDeque::new(), fetch: Fetch::None, holes: 0 }
    }

    /// Gaps that nobody could fill.
    pub(super) fn holes(&self) -> u64 {
        self.holes
    }

    /// Something is missing. A gap that begins where the newest one does is the same, and has grown.
    pub(super) fn add(&mut self, range: LocationRange) {
        let gap = Gap { range, tries: 0, not_before: Instant::now() };
        if self.waiting.back().is_some_and(|newest| newest.range.start == range.start) {
            if self.waiting.len() == 1 {
                self.fetch = Fetch::None;
            }
            self.waiting.pop_back();
        } else if self.waiting.len() == GAPS {
            self.give_up();
        }
        self.waiting.push_back(gap);
    }

    /// The session is over: what was asked there is asked again in the next one.
    pub(super) fn interrupt(&mut self) {
        self.fetch = Fetch::None;
    }

    /// The next object of a gap, once there is a gap. Loses nothing when it is dropped while it waits.
    pub(super) async fn fill(&mut self, plane: &P) -> Filled {
        match self.fill_or_end(plane).await {
            Some(filled) => filled,
            None => std::future::pending().await,
        }
    }

    /// The next object of the oldest gap; none: there is no gap.
    pub(super) async fn fill_or_end(&mut self, plane: &P) -> Option<Filled> {
        loop {
            let gap = self.waiting.front_mut()?;
            match &mut self.fetch {
                Fetch::None => {
                    sleep_until(gap.not_before).await;
                    let (plane, track, range) = (plane.clone(), self.track.clone(), gap.range);
                    let answer: Answer<P> = Box::pin(async move { plane.fetch(&track, range).await });
                    self.fetch = Fetch::Asking(answer, Instant::now() + ANSWER);
                }
                Fetch::Asking(answer, deadline) => {
                    match timeout_at(*deadline, answer).await.unwrap_or_else(|_| Err(late())) {
                        Ok(fetching) => self.fetch = Fetch::Reading(fetching, Instant::now() + ANSWER),
                        Err(PlaneError::Closed(_)) => return Some(Filled::Closed),
                        Err(e) => self.failed(&e),
                    }
                }
                Fetch::Reading(fetching, deadline) => {
                    match timeout_at(*deadline, fetching.next()).await.unwrap_or_else(|_| Err(late())) {
                        Ok(Some(object)) if gap.range.contains(object.at) => {
                            *deadline = Instant::now() + ANSWER;
                            gap.range.start = object.at.next();
                            gap.tries = 0;
                            if gap.range.is_empty() {
                                self.done();
                            }
                            return Some(Filled::Object(object));
                        }
                        // Nobody asked for that.
                        Ok(Some(_)) => self.give_up(),
                        Ok(None) => self.done(),
                        Err(PlaneError::Closed(_)) => return Some(Filled::Closed),
                        Err(e) => self.failed(&e),
                    }
                }
            }
        }
    }

    /// Again later, unless it is in vain.
    fn failed(&mut self, error: &PlaneError) {
        self.fetch = Fetch::None;
        let Some(gap) = self.waiting.front_mut() else { return };
        gap.tries += 1;
        let again = retry_after(error);
        let in_vain = matches!(error, PlaneError::Refused(r) if r.is_absence());
        if in_vain || gap.tries >= TRIES {
            tracing::warn!(track = %self.track, range = ?gap.range, %error, "moq: a gap cannot be filled");
            return self.give_up();
        }
        gap.not_before = Instant::now() + again.unwrap_or(AGAIN).clamp(AGAIN, RETRY_MAX);
    }

    fn done(&mut self) {
        self.fetch = Fetch::None;
        self.waiting.pop_front();
    }

    fn give_up(&mut self) {
        self.done();
        self.holes += 1;
    }
}
