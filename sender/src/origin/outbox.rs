//! Fetches what is wanted, a few at a time, and puts it into the flow in the order it was wanted.
//!
//! What the origin has not (404 at the live edge, a broken connection) does not hold up what comes after it: it is tried
//! again, with growing pauses, for as long as the manifest lists it, and is sent late. A manifest is pushed behind the
//! segments it lists, so that receivers never hear of a segment before its bytes.

use super::{Origin, Want};
use crate::sink::{Item, ObjectSink, PutFuture};
use mahp_common::{Object, ObjectKind, Time};
use mahp_runtime::fetch::FetchError;
use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// Requests at a time for one rendition.
const PARALLEL: usize = 4;
/// First pause before the origin is asked again; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Attempts at one object, where a manifest lists it for ever.
const ATTEMPTS: u32 = 30;
/// What the origin refused holds up what comes after it for this long: it is often there a moment later.
const HOLD_FAILED: Duration = Duration::from_secs(1);

/// See the module.
pub struct Outbox {
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    /// How long a request may hold up what comes after it.
    pub hold: Duration,
    next: u64,
    slots: VecDeque<Slot>,
    again: Vec<Again>,
    requests: JoinSet<(Job, Result<Object, FetchError>)>,
    putting: Option<PutFuture>,
}

enum Slot {
    Wanted(Job),
    Fetching {
        id: u64,
        since: Time,
        failed: bool,
    },
    /// `fetched`: by a request of ours, whose place among the [`PARALLEL`] it keeps until it is put.
    Ready {
        item: Box<Item>,
        fetched: bool,
    },
}

/// One thing to fetch.
#[derive(Clone, Debug)]
struct Job {
    id: u64,
    want: Want,
    listed_at: Time,
    attempts: u32,
    sequence: u64,
}

struct Again {
    job: Job,
    at: Time,
}

/// What [`Outbox::step`] did.
#[derive(Debug)]
pub enum Step {
    /// Something, of no interest outside.
    Moved,
    /// Fetched; on its way into the flow.
    Fetched(Box<Object>),
}

impl Outbox {
    /// An empty one.
    pub fn new(origin: Origin, sink: Arc<dyn ObjectSink>) -> Outbox {
        Outbox {
            origin,
            sink,
            hold: Duration::from_secs(2),
            next: 0,
            slots: VecDeque::new(),
            again: Vec::new(),
            requests: JoinSet::new(),
            putting: None,
        }
    }

    /// Fetch this and send it behind everything before. `sequence`: for [`Outbox::keep`].
    pub fn want(&mut self, want: Want, sequence: u64) {
        self.next += 1;
        let job = Job { id: self.next, want, listed_at: self.origin.clock.now(), attempts: 0, sequence };
        self.slots.push_back(Slot::Wanted(job));
    }

    /// Send this behind everything before.
    pub fn push(&mut self, item: Item) {
        self.slots.push_back(Slot::Ready { item: Box::new(item), fetched: false });
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.again.is_empty() && self.requests.is_empty() && self.putting.is_none()
    }

    /// Whether nothing waits to be put.
    pub fn has_room(&self) -> bool {
        self.slots.is_empty() && self.putting.is_none()
    }

    /// Whether as much waits to be put as is fetched at a time.
    pub fn is_full(&self) -> bool {
        let media = |s: &&Slot| matches!(s, Slot::Ready { item, .. } if item.object.meta.kind != ObjectKind::Manifest);
        self.slots.iter().filter(media).count() >= PARALLEL
    }

    fn fetched(&self) -> usize {
        self.slots.iter().filter(|s| matches!(s, Slot::Ready { fetched: true, .. })).count()
    }

    /// Gives up what failed and is not listed any more.
    pub fn keep(&mut self, listed: impl Fn(u64) -> bool) {
        let (kept, gone) = std::mem::take(&mut self.again).into_iter().partition(|a| listed(a.job.sequence));
        self.again = kept;
        for a in gone {
            self.give_up(&a.job);
        }
    }

    fn give_up(&self, job: &Job) {
        tracing::warn!(url = %job.want.url, attempts = job.attempts, "cannot be had from the origin; given up");
        self.origin.status.failed.fetch_add(1, Relaxed);
    }

    /// One step: a request started or finished, an object put. Pends while there is nothing to do. Cancel safe.
    pub async fn step(&mut self) -> Step {
        self.start_requests();
        if self.putting.is_none() {
            self.start_put();
        }
        let wake = self.wake();
        tokio::select! {
            () = async { match &mut self.putting { Some(put) => put.await, None => pending().await } } => {
                self.putting = None;
                Step::Moved
            }
            Some(done) = self.requests.join_next() => match done {
                Ok((job, result)) => self.on_answer(job, result),
                Err(_) => Step::Moved,
            },
            () = async { match wake { Some(at) => sleep_until(self.origin.clock.instant(at)).await, None => pending().await } } => Step::Moved,
        }
    }

    fn start_requests(&mut self) {
        let now = self.origin.clock.now();
        let mut room = PARALLEL.saturating_sub(self.requests.len() + self.fetched());
        // What everything else waits behind is asked for, whatever hangs: nothing but its answer can free the queue.
        if matches!(self.slots.front(), Some(Slot::Wanted(_))) && self.requests.len() < 2 * PARALLEL {
            room = room.max(1);
        }
        // What is new goes before what failed: an origin that hangs on old segments must not hold up the live edge.
        for i in 0..self.slots.len() {
            if room == 0 {
                break;
            }
            let Some(Slot::Wanted(job)) = self.slots.get(i) else { continue };
            let job = job.clone();
            self.slots[i] = Slot::Fetching { id: job.id, since: now, failed: false };
            self.request(job);
            room -= 1;
        }
        while let Some(i) = self.again.iter().position(|a| a.at <= now).filter(|_| room > 1) {
            let job = self.again.swap_remove(i).job;
            self.request(job);
            room -= 1;
        }
    }

    fn request(&mut self, mut job: Job) {
        job.attempts += 1;
        let origin = self.origin.clone();
        self.requests.spawn(async move {
            let result = origin.fetch(&job.want).await;
            (job, result)
        });
    }

    fn on_answer(&mut self, job: Job, result: Result<Object, FetchError>) -> Step {
        let slot = self.slots.iter().position(|s| matches!(s, Slot::Fetching { id, .. } if *id == job.id));
        match result {
            Ok(object) => {
                let item = Item {
                    object: object.clone(),
                    listed_at: Some(job.listed_at),
                    late_after: job.want.duration,
                    repeat: false,
                };
                let ready = Slot::Ready { item: Box::new(item), fetched: true };
                match slot {
                    Some(i) => self.slots[i] = ready,
                    None => self.slots.push_front(ready),
                }
                Step::Fetched(Box::new(object))
            }
            Err(e) => {
                if let Some(Slot::Fetching { failed, .. }) = slot.and_then(|i| self.slots.get_mut(i)) {
                    *failed = true;
                }
                if job.attempts >= ATTEMPTS {
                    self.give_up(&job);
                    return Step::Moved;
                }
                let pause = (PAUSE * 2u32.saturating_pow(job.attempts.saturating_sub(1))).min(PAUSE_MAX);
                tracing::debug!(url = %job.want.url, attempt = job.attempts, "{e}; again in {pause:?}");
                self.again.push(Again { job, at: self.origin.clock.now() + pause });
                Step::Moved
            }
        }
    }

    /// Puts the first ready object, passing over requests that take too long (they are sent when they come).
    fn start_put(&mut self) {
        let now = self.origin.clock.now();
        while let Some(until) = self.held_until() {
            if now < until {
                return;
            }
            self.slots.pop_front();
        }
        match self.slots.pop_front() {
            Some(Slot::Ready { item, .. }) => self.putting = Some(self.sink.put(*item)),
            Some(other) => self.slots.push_front(other),
            None => {}
        }
    }

    /// How long the first request may hold up the others, if it does.
    fn held_until(&self) -> Option<Time> {
        match self.slots.front() {
            Some(Slot::Fetching { since, failed: true, .. }) => Some(*since + self.hold.min(HOLD_FAILED)),
            Some(Slot::Fetching { since, failed: false, .. }) => Some(*since + self.hold),
            _ => None,
        }
    }

    /// When the next pause ends, or the first request has held up others for long enough.
    fn wake(&self) -> Option<Time> {
        let again = self.again.iter().map(|a| a.at).min();
        let held = self.held_until();
        let now = self.origin.clock.now();
        // A pause that is over waits for a free request, not for a time.
        again.into_iter().chain(held).filter(|t| *t > now).min()
    }
}
