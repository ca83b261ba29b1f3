//! Carries what is complete: every segment in presentation order at a set speed, once or as a carousel.

use super::dash::{self, Ladder};
use super::hls::{self, HlsRendition};
use super::{Origin, Want};
use crate::sink::{Item, ObjectSink};
use crate::spool::Spool;
use crate::status::Pace;
use mahp_common::manifest::dash::Mpd;
use mahp_common::{Object, Time};
use mahp_runtime::clock::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Playlists and init segments are sent again this often during a carousel.
const REPEAT: Duration = Duration::from_secs(2);
/// Share of the flow's rate that they may take.
const REPEAT_SHARE: f64 = 0.2;
/// Segments asked for before their time.
const AHEAD: usize = 3;
/// Pauses between the attempts at one segment in one turn.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Where a rendition's segments are listed.
#[derive(Clone, Debug)]
pub enum Source {
    /// A media playlist; whether keys are carried.
    Hls(Box<HlsRendition>, bool),
    /// A rung of an MPD.
    Dash(Arc<Mpd>, Arc<Ladder>, usize),
}

/// What a rendition consists of.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// Its playlist and the like, already here: sent first, and again and again.
    pub manifests: Vec<Object>,
    /// Its init segments: fetched first, sent again and again.
    pub inits: Vec<Want>,
    /// Its segments with their start on the presentation timeline, in order.
    pub segments: Vec<(Duration, Want)>,
}

/// The shared timeline of a channel's tracks.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// Clock time of the start.
    pub start: Time,
    /// Media seconds per second.
    pub speed: f64,
    /// Duration of the whole.
    pub duration: Duration,
    /// Turn after turn, or once.
    pub repeat: bool,
}

impl Timeline {
    /// When something that starts at `media` is due in turn `turn`.
    fn due(&self, turn: u32, media: Duration) -> Time {
        self.start + (self.duration.saturating_mul(turn) + media).div_f64(self.speed)
    }
}

/// Carries a rendition; returns after the first turn unless the timeline repeats.
pub async fn carry(
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    spool: Spool,
    source: Source,
    rate_bps: u64,
    timeline: Timeline,
) {
    let track = Arc::new(load_track(&origin, &source).await);
    let spool = timeline.repeat.then(|| (spool.track(), spool));
    origin.status.total.store(track.segments.len() as u64, Relaxed);
    let mut carrier =
        Carrier { origin, sink, spool, track, rate_bps, timeline, heads: Vec::new(), repeat_at: Time::ZERO };
    carrier.start().await;
    let mut turn = 0;
    loop {
        carrier.turn(turn).await;
        turn = turn.saturating_add(1);
        carrier.origin.status.turns.store(u64::from(turn), Relaxed);
        if !timeline.repeat {
            return;
        }
        carrier.wait(timeline.due(turn, Duration::ZERO)).await;
    }
}

/// Asks until the origin tells what there is.
async fn load_track(origin: &Origin, source: &Source) -> Track {
    let mut pauses = PAUSES.iter();
    loop {
        let result = match source {
            Source::Hls(hls, carry_keys) => match &hls.first {
                Some(version) => Ok(hls::track(version, *carry_keys)),
                None => {
                    let loaded = hls::load(origin, &hls.url, &hls.imports).await;
                    loaded.map(|version| hls::track(&version, *carry_keys)).map_err(|e| e.message)
                }
            },
            Source::Dash(mpd, ladder, rung) => {
                dash::track(origin, mpd, ladder, *rung).await.map_err(|e| e.to_string())
            }
        };
        match result {
            Ok(track) => return track,
            Err(e) => tracing::debug!("{e}"),
        }
        sleep(pauses.next().copied().unwrap_or(PAUSES[PAUSES.len() - 1])).await;
    }
}

struct Carrier {
    origin: Origin,
    sink: Arc<dyn ObjectSink>,
    /// And the number of this track there.
    spool: Option<(usize, Spool)>,
    track: Arc<Track>,
    /// Pacing rate of the flow, bit/s.
    rate_bps: u64,
    timeline: Timeline,
    /// Playlist and init segments.
    heads: Vec<Object>,
    repeat_at: Time,
}

impl Carrier {
    /// Playlists and init segments, before anything else.
    async fn start(&mut self) {
        for object in self.track.manifests.clone() {
            self.sink.put(Item::new(object.clone())).await;
            self.heads.push(object);
        }
        for want in self.track.inits.clone() {
            match fetch(&self.origin, &want).await {
                Some(object) => {
                    self.sink.put(Item::new(object.clone())).await;
                    self.heads.push(object);
                }
                None => {
                    self.origin.status.failed.fetch_add(1, Relaxed);
                }
            }
        }
        self.repeat_at = self.origin.clock.now() + self.repeat_pause();
    }

    /// One turn: every segment at its time.
    async fn turn(&mut self, turn: u32) {
        let mut fetches = Fetches::default();
        let (began, speed, total) = (Instant::now(), self.timeline.speed, self.timeline.duration);
        let status = self.origin.status.clone();
        let pace = |media| status.set_pace(Pace { began, at: Instant::now(), media, total, speed });
        pace(Duration::ZERO);
        // All renditions begin a turn at once: what is added up is of one turn.
        status.position.store(0, Relaxed);
        for i in 0..self.track.segments.len() {
            for ahead in i..self.track.segments.len().min(i + AHEAD) {
                fetches.ask(self, ahead);
            }
            let due = self.timeline.due(turn, self.track.segments[i].0);
            self.wait(due).await;
            match fetches.get(i).await {
                Some(object) => {
                    let item = Item { repeat: turn > 0, ..Item::new(object) };
                    self.sink.put(item).await;
                }
                None => {
                    self.origin.status.failed.fetch_add(1, Relaxed);
                    tracing::warn!(url = %self.track.segments[i].1.url, "cannot be had from the origin; left out of this turn");
                }
            }
            status.position.store(i as u64 + 1, Relaxed);
            pace(self.track.segments[i].0);
            self.repeat_heads().await;
        }
        pace(total);
    }

    /// Sleeps until `at`, and meanwhile sends playlists and init segments again.
    async fn wait(&mut self, at: Time) {
        let clock = self.origin.clock;
        while clock.now() < at {
            sleep_until(clock.instant(at.min(self.repeat_at.max(clock.now())))).await;
            self.repeat_heads().await;
        }
    }

    async fn repeat_heads(&mut self) {
        if self.origin.clock.now() < self.repeat_at {
            return;
        }
        for object in &self.heads {
            self.sink.put(Item::repeat(object.clone())).await;
        }
        self.repeat_at = self.origin.clock.now() + self.repeat_pause();
    }

    /// A long playlist is repeated less often, so that it leaves the rate to the media.
    fn repeat_pause(&self) -> Duration {
        let bits = self.heads.iter().map(|o| o.data.len() as u64 * 8).sum::<u64>();
        REPEAT.max(Duration::from_secs_f64(bits as f64 / (self.rate_bps.max(1) as f64 * REPEAT_SHARE)))
    }
}

/// Segments asked for, and those that came before their time.
#[derive(Default)]
struct Fetches {
    asked: usize,
    requests: JoinSet<(usize, Option<Object>)>,
    here: BTreeMap<usize, Option<Object>>,
}

impl Fetches {
    fn ask(&mut self, carrier: &Carrier, i: usize) {
        if i < self.asked {
            return;
        }
        self.asked = i + 1;
        let (origin, spool, track) = (carrier.origin.clone(), carrier.spool.clone(), carrier.track.clone());
        self.requests.spawn(async move {
            let kept = match &spool {
                Some((number, spool)) => spool.get((*number, i)).await,
                None => None,
            };
            if kept.is_some() {
                return (i, kept);
            }
            let object = fetch(&origin, &track.segments[i].1).await;
            if let (Some(object), Some((number, spool))) = (&object, &spool) {
                spool.put((*number, i), object).await;
            }
            (i, object)
        });
    }

    async fn get(&mut self, i: usize) -> Option<Object> {
        loop {
            if let Some(object) = self.here.remove(&i) {
                return object;
            }
            match self.requests.join_next().await {
                Some(Ok((j, object))) => {
                    self.here.insert(j, object);
                }
                Some(Err(_)) => {}
                None => return None,
            }
        }
    }
}

/// Fetches, with pauses between attempts.
async fn fetch(origin: &Origin, want: &Want) -> Option<Object> {
    for pause in PAUSES.iter().map(Some).chain([None]) {
        match origin.fetch(want).await {
            Ok(object) => return Some(object),
            Err(e) => tracing::debug!("{e}"),
        }
        if let Some(pause) = pause {
            sleep(*pause).await;
        }
    }
    None
}

/// Sends `object` every two seconds: a master playlist or MPD for those who join late.
pub async fn repeat(clock: Clock, sink: Arc<dyn ObjectSink>, object: Object) {
    sink.put(Item::new(object.clone())).await;
    let mut at: Instant = clock.instant(clock.now());
    loop {
        at = (at + REPEAT).max(Instant::now());
        sleep_until(at).await;
        sink.put(Item::repeat(object.clone())).await;
    }
}
