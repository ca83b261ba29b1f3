//! Follows a rendition of a dynamic MPD ([`super::dash_mpd`]): its segments as they become available, by the clock ($Number$) or by
//! the list (SegmentTimeline), and files (SegmentBase) as their Periods come near.

use super::chunks::{Chunks, Ready};
use super::dash::{Ladder, init_want, segment_want};
use super::dash_mpd::{Feed, POLL_MAX};
use super::outbox::{Outbox, Step};
use super::single_file::{self, Lengths};
use super::{Inits, Origin, Want};
use crate::sink::{Item, ObjectSink};
use mahp_common::manifest::dash::{Addressing, Mpd, Representation};
use mahp_common::{ObjectKind, Time, WallTime};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep_until;
use url::Url;

/// Init segments are sent again this often.
const INIT_REPEAT: Duration = Duration::from_secs(2);
/// How often a Period that has just begun is looked at for its first segment, and for how long.
const FIRST_SEGMENT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Segments remembered as known, beyond those that are listed.
const REMEMBERED: usize = 8192;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When a Representation's Period begins, Unix milliseconds.
fn begin(mpd: &Mpd, r: &Representation) -> u64 {
    mpd.availability_start.unwrap_or_default().unix_millis().saturating_add(millis(r.period_start))
}

/// When to look for the first segment of a Period that begins at `begin` (Unix milliseconds): none is listed, so no clock tells.
fn first_segment(begin: u64, now: WallTime) -> Option<WallTime> {
    let (pause, patience) = FIRST_SEGMENT;
    let now = now.unix_millis();
    let at = begin.max(now.saturating_add(millis(pause)));
    (now < begin.saturating_add(millis(patience))).then(|| WallTime::from_unix_millis(at))
}

/// Follows one rendition until the MPD becomes static and its last segment is sent. `low_latency`: of segments that the origin
/// serves while it makes them, the chunks are carried, each as soon as it exists.
pub async fn follow(
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    feed: Feed,
    ladder: Arc<Ladder>,
    rung: usize,
    low_latency: bool,
    done: watch::Sender<u64>,
) {
    let mut current = feed.current.clone();
    // The first notice comes when the origin's clock is known.
    if current.changed().await.is_err() {
        return;
    }
    let now = origin.clock.now();
    let mut follower = Follower {
        outbox: Outbox::new(origin.clone(), sink),
        chunks: Chunks::new(origin.clone()),
        low_latency,
        origin,
        feed,
        ladder,
        rung,
        started: false,
        availability_start: None,
        listed: BTreeSet::new(),
        known: BTreeMap::new(),
        order: VecDeque::new(),
        next: 0,
        inits: Inits::default(),
        current_init: None,
        lengths: Lengths::default(),
        idle: VecDeque::new(),
        wake: now,
        repeat_at: now + INIT_REPEAT,
    };
    loop {
        let version = current.borrow_and_update().clone();
        follower.update(&version.mpd);
        let ended = !version.mpd.dynamic;
        loop {
            if follower.outbox.has_room() {
                done.send_if_modified(|n| std::mem::replace(n, version.number) != version.number);
            }
            if ended && follower.idle.is_empty() && follower.outbox.is_idle() && follower.chunks.is_idle() {
                return;
            }
            tokio::select! {
                changed = current.changed(), if !ended => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = follower.step(&version.mpd) => {}
            }
        }
    }
}

/// A segment that the MPD lists.
struct Wanted {
    init: Option<Want>,
    segment: Want,
    how: How,
}

/// How a segment is fetched and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Whole,
    /// It may be asked for before it is complete.
    ByChunks,
    /// When nothing else waits.
    WhenIdle,
}

/// What is to be sent of a Representation in one file.
enum Blocks {
    Now(Vec<Wanted>),
    /// Nothing before.
    From(WallTime),
}

struct Follower {
    origin: Origin,
    outbox: Outbox,
    chunks: Chunks,
    low_latency: bool,
    feed: Feed,
    ladder: Arc<Ladder>,
    rung: usize,
    started: bool,
    availability_start: Option<WallTime>,
    /// Numbers of the segments that the MPD lists now.
    listed: BTreeSet<u64>,
    /// Numbers of all segments seen, by their identity.
    known: BTreeMap<String, u64>,
    order: VecDeque<String>,
    next: u64,
    inits: Inits,
    current_init: Option<String>,
    lengths: Lengths,
    /// Blocks of files, and their numbers.
    idle: VecDeque<(Wanted, u64)>,
    /// When the clock makes the next segment available.
    wake: Time,
    repeat_at: Time,
}

impl Follower {
    async fn step(&mut self, mpd: &Mpd) {
        let clock = self.origin.clock;
        if self.outbox.has_room()
            && let Some((block, number)) = self.idle.pop_front()
        {
            self.fetch(block, number);
        }
        tokio::select! {
            step = self.outbox.step() => if let Step::Fetched(object) = step {
                match object.meta.kind {
                    ObjectKind::Init => self.inits.insert(self.origin.key_of(&object), *object),
                    _ => self.origin.status.came(),
                }
            },
            ready = self.chunks.next(), if !self.outbox.is_full() => match ready {
                Ready::Object(object) => {
                    self.origin.status.came();
                    self.outbox.push(Item::new(*object));
                }
                Ready::Whole(want, sequence) => self.outbox.want(*want, sequence),
            },
            () = self.lengths.learned() => self.update(mpd),
            () = sleep_until(clock.instant(self.wake.min(self.repeat_at))) => {
                if clock.now() >= self.repeat_at {
                    self.repeat_init();
                }
                if clock.now() >= self.wake {
                    self.update(mpd);
                }
            }
        }
    }

    /// Wants what is new at this time.
    fn update(&mut self, mpd: &Mpd) {
        if self.started && mpd.availability_start != self.availability_start {
            self.origin.began_anew(&self.feed.url);
            (self.known, self.order) = (BTreeMap::new(), VecDeque::new());
            (self.inits, self.current_init, self.started) = (Inits::default(), None, false);
            self.idle.clear();
        }
        self.availability_start = mpd.availability_start;
        let now = self.feed.offset.apply(self.origin.clock.wall());
        let mut wanted: Vec<Wanted> = Vec::new();
        let (mut next, mut first): (Option<WallTime>, Option<WallTime>) = (None, None);
        let mut expected = false;
        let ladder = self.ladder.clone();
        for r in ladder.representations(mpd, self.rung) {
            let begin = begin(mpd, r);
            if let Addressing::SingleFile { url, .. } = &r.addressing {
                match self.blocks(r, url, begin, now) {
                    Blocks::Now(blocks) => wanted.extend(blocks),
                    Blocks::From(at) => first = first.into_iter().chain([at]).min(),
                }
                continue;
            }
            let end = r.period_duration.map(|d| begin.saturating_add(millis(d)));
            expected |= begin <= now.unix_millis() && end.is_none_or(|end| now.unix_millis() < end);
            let init = init_want(mpd, r);
            let how = if self.low_latency && r.early().is_some() { How::ByChunks } else { How::Whole };
            let segments = mpd.segments(r, now);
            let last = segments.last().map(|s| s.number);
            let one = |s| Wanted { init: init.clone(), segment: segment_want(s), how };
            wanted.extend(segments.iter().map(one));
            next = next.max(last.and_then(|n| mpd.next_available(r, n)));
            if segments.is_empty() {
                first = first.into_iter().chain(first_segment(begin, now)).min();
            }
            self.outbox.hold =
                segments.last().map_or(self.outbox.hold, |s| s.duration.max(Duration::from_millis(500)));
        }
        self.origin.status.expects(expected && mpd.dynamic);
        self.want(wanted);
        self.wake = self.wake_at(next.into_iter().chain(first).min(), now);
    }

    /// The blocks of a file whose Period is on, or near: they go out when nothing else waits.
    fn blocks(&mut self, r: &Representation, url: &Url, begin: u64, now: WallTime) -> Blocks {
        let on = WallTime::from_unix_millis(begin.saturating_sub(millis(single_file::LEAD)));
        if now < on {
            return Blocks::From(on);
        }
        let Some(length) = self.lengths.get(&self.origin, url) else { return Blocks::Now(Vec::new()) };
        let by_rate = || Duration::from_secs_f64(length as f64 * 8.0 / r.bandwidth.max(1) as f64);
        let duration = r.period_duration.unwrap_or_else(by_rate);
        let init = single_file::head(r, length);
        let blocks = single_file::blocks(url, init.as_ref(), length, r.period_start, duration);
        let played = |w: &Want| {
            let end = w.media_time.unwrap_or_default() + w.duration.unwrap_or_default();
            let since = millis((end + single_file::BEHIND).saturating_sub(r.period_start));
            begin.saturating_add(since) < now.unix_millis()
        };
        let one = |segment| Wanted { init: init.clone(), segment, how: How::WhenIdle };
        Blocks::Now(blocks.filter(|w| !played(w)).map(one).collect())
    }

    fn want(&mut self, wanted: Vec<Wanted>) {
        let segments = wanted.iter().filter(|w| w.how != How::WhenIdle).count();
        let mut skip = if self.started { 0 } else { segments.saturating_sub(self.origin.segments_at_start) };
        self.started |= !wanted.is_empty();
        self.listed.clear();
        for one in wanted {
            let skipped = one.how != How::WhenIdle && skip > 0;
            skip -= usize::from(skipped);
            let segment = &one.segment;
            let key = self.origin.key(segment);
            if let Some(number) = self.known.get(&key) {
                self.listed.insert(*number);
                continue;
            }
            self.next += 1;
            self.listed.insert(self.next);
            self.known.insert(key.clone(), self.next);
            self.order.push_back(key);
            match one.how {
                _ if skipped => {}
                How::WhenIdle => self.idle.push_back((one, self.next)),
                How::Whole | How::ByChunks => self.fetch(one, self.next),
            }
        }
        let listed = &self.listed;
        // What was played, or has left the MPD, before its flow had room for it.
        let waiting = self.idle.len();
        self.idle.retain(|(_, number)| listed.contains(number));
        self.origin.status.skipped.fetch_add((waiting - self.idle.len()) as u64, Relaxed);
        self.outbox.keep(|number| listed.contains(&number));
        while self.order.len() > REMEMBERED.max(2 * self.listed.len()) {
            if let Some(old) = self.order.pop_front() {
                self.known.remove(&old);
            }
        }
    }

    /// `number`: among all segments seen.
    fn fetch(&mut self, Wanted { init, segment, how }: Wanted, number: u64) {
        self.want_init(init);
        let by_chunks = how == How::ByChunks;
        let whole = if by_chunks { self.chunks.follow(segment, number) } else { Some(segment) };
        if let Some(segment) = whole {
            self.outbox.want(segment, number);
        }
    }

    fn want_init(&mut self, init: Option<Want>) {
        let Some(init) = init else { return };
        let key = self.origin.key(&init);
        if self.current_init.as_ref() == Some(&key) {
            return;
        }
        match self.inits.get(&key) {
            Some(object) => self.outbox.push(Item::repeat(object.clone())),
            None => self.outbox.want(init, self.next),
        }
        self.current_init = Some(key);
    }

    fn repeat_init(&mut self) {
        self.repeat_at = self.origin.clock.now() + INIT_REPEAT;
        let object = self.current_init.as_ref().and_then(|k| self.inits.get(k));
        if let Some(object) = object.filter(|_| self.outbox.has_room()) {
            self.outbox.push(Item::repeat(object.clone()));
        }
    }

    /// Our clock's time of the next segment, by the origin's clock.
    fn wake_at(&self, next: Option<WallTime>, now: WallTime) -> Time {
        let wait = next
            .map_or(POLL_MAX, |t| Duration::from_millis(t.unix_millis().saturating_sub(now.unix_millis())));
        self.origin.clock.now() + wait.clamp(Duration::from_millis(20), POLL_MAX)
    }
}
