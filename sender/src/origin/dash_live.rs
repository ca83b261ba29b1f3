//! Follows a dynamic MPD: one task reloads it and carries each version, one task for each rendition fetches segments as they
//! become available, by the clock ($Number$) or by the list (SegmentTimeline).

use super::chunks::{Chunks, Ready};
use super::dash::{Ladder, MpdVersion, init_want, segment_want, version};
use super::outbox::{Outbox, Step};
use super::single_file::{self, Lengths};
use super::utc::Offset;
use super::{Inits, Origin, Want};
use crate::sink::{Item, ObjectSink};
use mahp_common::manifest::dash::{Addressing, Mpd, Representation};
use mahp_common::{Object, ObjectKind, Time, WallTime};
use mahp_runtime::fetch::{Request, Response};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep_until;
use url::Url;

/// Bounds of the time between two requests for an MPD.
const POLL_MIN: Duration = Duration::from_millis(500);
/// Where minimumUpdatePeriod is missing: to notice the end.
const POLL_MAX: Duration = Duration::from_secs(30);
/// The current MPD and init segments are sent again this often.
const MPD_REPEAT: Duration = Duration::from_secs(2);
/// Init segments.
const INIT_REPEAT: Duration = Duration::from_secs(2);
/// The origin's clock is asked for again this often.
const CLOCK_PERIOD: Duration = Duration::from_secs(300);
/// Longest that a version of the MPD waits for its segments.
const HOLD_MAX: Duration = Duration::from_secs(4);
/// How often a Period that has just begun is looked at for its first segment, and for how long.
const FIRST_SEGMENT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Segments remembered as known, beyond those that are listed.
const REMEMBERED: usize = 8192;

/// Between the task of the MPD and those of its renditions.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The newest version.
    pub current: watch::Receiver<Arc<MpdVersion>>,
    /// The origin's clock.
    pub offset: Offset,
    /// The MPD's address.
    pub url: Url,
}

/// Reloads the MPD and carries it.
pub struct MpdFollower {
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    url: Url,
    publish: watch::Sender<Arc<MpdVersion>>,
    offset: Offset,
    /// Which version each rendition has sent the segments of.
    progress: Vec<watch::Receiver<u64>>,
    watch: Newcomers,
}

/// Representations that came after the start and fit nowhere: flows are made at the start of a channel.
#[derive(Default)]
struct Newcomers {
    ladder: Arc<Ladder>,
    filter: Vec<String>,
}

impl Newcomers {
    /// Says of each that it is not carried.
    fn look(&self, origin: &Origin, url: &Url, mpd: &Mpd) {
        for name in self.ladder.left_out(url, mpd, &self.filter) {
            origin.not_carried(url, &name);
        }
    }
}

impl MpdFollower {
    /// A follower of what was discovered, and what its renditions listen to. `progress`: of these renditions.
    pub fn new(
        origin: Origin,
        sink: Arc<dyn ObjectSink>,
        url: Url,
        first: MpdVersion,
        progress: Vec<watch::Receiver<u64>>,
    ) -> (MpdFollower, Feed) {
        let (publish, current) = watch::channel(Arc::new(first));
        let offset = Offset::default();
        let feed = Feed { current, offset: offset.clone(), url: url.clone() };
        let watch = Newcomers::default();
        (MpdFollower { origin, sink, url, publish, offset, progress, watch }, feed)
    }

    /// Tells of what the MPD offers and no rendition carries, of what passes `filter` (the setting `renditions`).
    pub fn watching(self, ladder: Arc<Ladder>, filter: Vec<String>) -> MpdFollower {
        MpdFollower { watch: Newcomers { ladder, filter }, ..self }
    }

    /// Until the MPD becomes static.
    pub async fn run(mut self) {
        let clock = self.origin.clock;
        let first = self.publish.borrow().clone();
        self.offset.learn(&self.origin, &first.mpd.utc_timing, &self.url, None).await;
        // The renditions wait for the clock: they start with this notice.
        self.publish.send_replace(first.clone());
        self.put(&first).await;
        self.watch.look(&self.origin, &self.url, &first.mpd);
        let mut sent = first;
        let mut asked_at = clock.now();
        let mut clock_at = clock.now() + CLOCK_PERIOD;
        let mut repeat_at = clock.now() + MPD_REPEAT;
        while self.publish.borrow().mpd.dynamic {
            let poll_at = asked_at + period(&self.publish.borrow().mpd);
            sleep_until(clock.instant(poll_at.min(repeat_at))).await;
            let now = clock.now();
            if now >= repeat_at {
                self.repeat(&sent).await;
                repeat_at = now + MPD_REPEAT;
            }
            if now < poll_at {
                continue;
            }
            asked_at = now;
            let Some((version, response)) = self.load(sent.number + 1).await else { continue };
            if now >= clock_at || self.offset.millis() == 0 {
                self.offset
                    .learn(&self.origin, &version.mpd.utc_timing, &response.final_url, Some(&response))
                    .await;
                clock_at = now + CLOCK_PERIOD;
            }
            if version.object.meta.digest != sent.object.meta.digest {
                sent = Arc::new(version);
                self.publish.send_replace(sent.clone());
                self.watch.look(&self.origin, &self.url, &sent.mpd);
                self.wait_for_segments(sent.number).await;
                self.put(&sent).await;
            }
        }
    }

    async fn load(&self, number: u64) -> Option<(MpdVersion, Response)> {
        let location = self.publish.borrow().mpd.location.clone();
        let request =
            Request { accept_gzip: true, timeout: Some(Duration::from_secs(10)), ..Request::default() };
        let mut result = self.origin.get(location.as_ref().unwrap_or(&self.url), request.clone()).await;
        if result.is_err() && location.is_some() {
            // A Location that has gone (a session that ended): begin again.
            result = self.origin.get(&self.url, request).await;
        }
        let response = result.map_err(|e| tracing::debug!("{e}")).ok()?;
        match version(&self.origin, &self.url, number, &response) {
            Ok(version) => Some((version, response)),
            Err(e) => {
                tracing::warn!("{e}");
                self.origin.status.origin_bad(e);
                None
            }
        }
    }

    /// Receivers should not hear of segments before their bytes: a version waits until its segments are in their flows.
    async fn wait_for_segments(&mut self, number: u64) {
        let all = async {
            for progress in &mut self.progress {
                // A rendition that has ended is not waited for.
                let _ = progress.wait_for(|n| *n >= number).await;
            }
        };
        let _ = tokio::time::timeout(HOLD_MAX, all).await;
    }

    async fn put(&self, version: &MpdVersion) {
        for object in self.objects(version) {
            self.sink.put(Item::new(object)).await;
        }
    }

    async fn repeat(&self, version: &MpdVersion) {
        for object in self.objects(version) {
            self.sink.put(Item::repeat(object)).await;
        }
    }

    /// Under its URL, and under its Location, where players will ask for it from then on.
    fn objects(&self, version: &MpdVersion) -> Vec<Object> {
        let mut objects = vec![version.object.clone()];
        if let Some(location) = version.mpd.location.as_ref().filter(|l| **l != self.url) {
            let mut moved = version.object.clone();
            moved.meta.url = location.to_string();
            objects.push(moved);
        }
        objects
    }
}

/// Time between two requests for the MPD.
fn period(mpd: &Mpd) -> Duration {
    mpd.minimum_update_period.unwrap_or(POLL_MAX).clamp(POLL_MIN, POLL_MAX)
}

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
