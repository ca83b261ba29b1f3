//! The built-in player: loads playlists and segments as hls.js (HLS) and dash.js (DASH) do as far as timing goes, keeps a
//! buffer, plays it with a [`Playhead`] instead of a decoder, and compares every byte with what the origin has.

pub mod feed;
pub mod fetch;
pub mod playhead;
mod track;

pub use feed::Choice;
pub use fetch::Via;
pub use playhead::{Playhead, Stall};

use anyhow::{Context, bail};
use bytes::Bytes;
use feed::Listing;
use fetch::Got;
use mahp_common::ByteRange;
use mahp_common::catalog::Format;
use mahp_common::manifest::dash::Mpd;
use mahp_common::manifest::hls::Playlist;
use mahp_common::manifest::sniff;
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::Fetcher;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

/// What a URL's bytes must be; `None` = not known.
pub type Truth = Arc<dyn Fn(&Url) -> Option<Bytes> + Send + Sync>;

/// When a live segment's URL became available at the origin; `None` = not known.
pub type Available = Arc<dyn Fn(&Url) -> Option<mahp_common::WallTime> + Send + Sync>;

/// What to play and for how long.
#[derive(Clone)]
pub struct Options {
    /// Master playlist, media playlist or MPD.
    pub manifest: Url,
    /// Which rendition.
    pub choice: Choice,
    /// Media to keep ahead of the playhead; live, the edge is the bound.
    pub buffer: Duration,
    /// Wall-clock time to run; content that ends earlier ends it.
    pub run_for: Duration,
    /// What to compare bytes with.
    pub truth: Option<Truth>,
    /// When a segment became available at the origin.
    pub available: Option<Available>,
    /// Fetch each segment as soon as it is listed, look for new ones twenty times a second: a measuring instrument, no player.
    pub probe: bool,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("manifest", &self.manifest.as_str()).finish_non_exhaustive()
    }
}

impl Options {
    /// hls.js' defaults: 30 s of buffer, the best rendition.
    pub fn new(manifest: Url, run_for: Duration) -> Options {
        Options {
            manifest,
            choice: Choice::Highest,
            buffer: Duration::from_secs(30),
            run_for,
            truth: None,
            available: None,
            probe: false,
        }
    }
}

/// Whether bytes are the origin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Equal.
    Same,
    /// Not equal.
    Different,
    /// There was nothing to compare with.
    Unknown,
}

/// A segment that was fetched.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Fetched {
    /// Index of the track: 0 video, 1 sound.
    pub track: usize,
    /// Media sequence number or `$Number$`.
    pub number: u64,
    /// Where from.
    pub url: String,
    /// Its length.
    pub bytes: u64,
    /// How the receiver got it.
    pub via: Via,
    /// Whether its bytes are right.
    pub verdict: Verdict,
    /// From request to headers: what a hold costs.
    pub first_byte_ms: u64,
    /// From the first request to the last byte.
    pub total_ms: u64,
    /// Requests it took.
    pub requests: u32,
    /// The playhead was there before it.
    pub late: bool,
    /// When its last byte came, milliseconds since the player started.
    pub at_ms: u64,
    /// From its availability at the origin to its last byte, milliseconds, where the origin's clock is known.
    pub behind_ms: Option<i64>,
}

/// How it went.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Report {
    /// The manifest.
    pub manifest: String,
    /// `hls` or `dash`.
    pub format: String,
    /// Until the first picture, milliseconds; `None`: never.
    pub startup_ms: Option<u64>,
    /// Media shown, milliseconds.
    pub played_ms: u64,
    /// Stalls after the start.
    pub stalls: Vec<Stall>,
    /// Holes in the media that were jumped over.
    pub holes: u64,
    /// Segments in the order they came.
    pub segments: Vec<Fetched>,
    /// Initialization segments.
    pub inits: Vec<(String, Verdict)>,
    /// Segments that never came: how many, and why.
    pub missed: Vec<(u64, String)>,
    /// Failed requests by what they said.
    pub failures: BTreeMap<String, u64>,
    /// Loads of playlists and MPDs.
    pub manifest_loads: u64,
    /// What stopped the player before its time.
    pub error: Option<String>,
    /// Media ahead of the playhead: milliseconds since the player started, milliseconds of media.
    pub buffer: Vec<(u64, u64)>,
    /// Bytes of all bodies (playlists, initialization segments and media) by source: the player's side of the ledger.
    pub received: BTreeMap<Via, u64>,
    /// Unix milliseconds of its start.
    pub started_ms: u64,
}

impl Report {
    /// Media bytes that came this way.
    pub fn bytes_via(&self, via: Via) -> u64 {
        self.segments.iter().filter(|s| s.via == via).map(|s| s.bytes).sum()
    }

    /// Media bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// What a viewer would complain about; empty = nothing.
    pub fn complaints(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut complain = |bad: bool, text: String| {
            if bad {
                out.push(text);
            }
        };
        if let Some(error) = &self.error {
            complain(true, format!("the player stopped: {error}"));
        }
        complain(self.startup_ms.is_none(), "it never started to play".into());
        let stalled: u64 = self.stalls.iter().map(|s| s.lasted_ms).sum();
        complain(!self.stalls.is_empty(), format!("{} stalls, {stalled} ms together", self.stalls.len()));
        for (count, why) in &self.missed {
            complain(true, format!("{count} segments missed: {why}"));
        }
        let late = self.segments.iter().filter(|s| s.late).count();
        complain(late > 0, format!("{late} segments came after the playhead"));
        for segment in self.segments.iter().filter(|s| s.verdict == Verdict::Different) {
            complain(true, format!("{} has other bytes than at the origin", segment.url));
        }
        for (url, _) in self.inits.iter().filter(|(_, v)| *v == Verdict::Different) {
            complain(true, format!("{url} has other bytes than at the origin"));
        }
        let unknown = self.segments.iter().filter(|s| s.verdict == Verdict::Unknown).count();
        complain(unknown > 0, format!("{unknown} segments could not be compared with the origin"));
        out
    }
}

/// What the loops of a player share.
struct Shared {
    options: Options,
    fetcher: Fetcher,
    clock: Clock,
    playhead: Mutex<Playhead>,
    report: Mutex<Report>,
}

impl Shared {
    fn playhead(&self) -> MutexGuard<'_, Playhead> {
        self.playhead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// How long to wait until the buffer has room; `None`: it has.
    fn room(&self, track: usize) -> Option<Duration> {
        let mut playhead = self.playhead();
        playhead.advance(self.clock.now());
        let over = playhead.ahead(track).checked_sub(self.options.buffer)?;
        Some(over.max(Duration::from_millis(100)))
    }

    /// Whether its time is over: what was begun is finished, nothing new is asked for.
    fn over(&self) -> bool {
        self.clock.now().since(mahp_common::Time::ZERO) >= self.options.run_for
    }

    fn note_received(&self, got: &Got) {
        self.report(|r| *r.received.entry(got.via).or_default() += got.body.len() as u64);
    }

    fn missed(&self, track: usize, count: u64, why: &str) {
        self.report(|r| r.missed.push((count, format!("track {track}: {why}"))));
    }

    fn note_failures(&self, failures: &[String]) {
        self.report(|r| {
            for failure in failures {
                *r.failures.entry(failure.clone()).or_default() += 1;
            }
        });
    }

    async fn manifest(&self, url: &Url) -> anyhow::Result<Got> {
        let got = fetch::get(&self.fetcher, url, None).await;
        self.report(|r| r.manifest_loads += 1);
        match got {
            Ok(got) => {
                self.note_failures(&got.failures);
                self.note_received(&got);
                Ok(got)
            }
            Err(error) => {
                self.note_failures(&error.0);
                Err(error).with_context(|| url.to_string())
            }
        }
    }

    fn judge(&self, url: &Url, range: Option<ByteRange>, body: &[u8]) -> Verdict {
        let Some(truth) = self.options.truth.as_ref().and_then(|t| t(url)) else { return Verdict::Unknown };
        let whole = || Some(&truth[..]);
        let part = |r: ByteRange| {
            truth.get(usize::try_from(r.first).ok()?..usize::try_from(r.last).ok()?.saturating_add(1))
        };
        if range.map_or_else(whole, part) == Some(body) { Verdict::Same } else { Verdict::Different }
    }
}

/// Plays. What goes wrong is in the report.
pub async fn play(options: Options) -> Report {
    let clock = Clock::new();
    let shared = Arc::new(Shared {
        fetcher: Fetcher::new("mahp-testbed-player/0.1"),
        clock,
        playhead: Mutex::new(Playhead::new(0, clock.now())),
        report: Mutex::new(Report { manifest: options.manifest.to_string(), ..Report::default() }),
        options,
    });
    let started_ms = clock.wall().unix_millis();
    let watch = tokio::spawn(watch_buffer(shared.clone()));
    let ended = tokio::time::timeout(shared.options.run_for + FINISH, run(shared.clone())).await;
    watch.abort();
    let mut report = shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Ok(Err(error)) = ended {
        report.error = Some(format!("{error:#}"));
    }
    let mut playhead = shared.playhead();
    playhead.advance(clock.now());
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    report.startup_ms = playhead.startup().map(millis);
    report.played_ms = millis(playhead.played());
    report.stalls = playhead.stalls();
    report.holes = playhead.holes();
    report.started_ms = started_ms;
    report
}

/// How long a player may take to finish what it asked for when its time is over.
const FINISH: Duration = Duration::from_secs(15);
/// Between two looks at the buffer.
const LOOK: Duration = Duration::from_millis(500);

async fn watch_buffer(shared: Arc<Shared>) {
    while !shared.over() {
        let now = shared.clock.now();
        let buffered = {
            let mut playhead = shared.playhead();
            playhead.advance(now);
            playhead.started().then(|| playhead.buffered())
        };
        if let Some(buffered) = buffered {
            let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
            let at = millis(now.since(mahp_common::Time::ZERO));
            shared.report(|r| r.buffer.push((at, millis(buffered))));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn run(shared: Arc<Shared>) -> anyhow::Result<()> {
    // Dropping the set ends all loops.
    let mut loops = JoinSet::new();
    let tracks = match open(&shared, &mut loops).await? {
        0 => bail!("{}: nothing to play", shared.options.manifest),
        tracks => tracks,
    };
    let mut filled = 0;
    while let Some(done) = loops.join_next().await {
        if done.context("a loop of the player broke off")?? == Loop::Fill {
            filled += 1;
        }
        if filled == tracks {
            break;
        }
    }
    while !shared.over() && !shared.playhead().ended() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        shared.playhead().advance(shared.clock.now());
    }
    Ok(())
}

/// What kind of loop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loop {
    Follow,
    Fill,
}

type Loops = JoinSet<anyhow::Result<Loop>>;

/// Loads the manifest and starts the loops of each track; returns how many tracks there are.
async fn open(shared: &Arc<Shared>, loops: &mut Loops) -> anyhow::Result<usize> {
    let url = &shared.options.manifest;
    let got = shared.manifest(url).await?;
    match sniff(&got.body) {
        Some(Format::Hls) => open_hls(shared, loops, &got),
        Some(Format::Dash) => open_dash(shared, loops, &got),
        None => bail!("{url}: neither a playlist nor an MPD"),
    }
}

fn open_hls(shared: &Arc<Shared>, loops: &mut Loops, got: &Got) -> anyhow::Result<usize> {
    let (urls, imports) = match Playlist::parse(&got.body, &got.final_url, &[])? {
        Playlist::Master(master) => {
            (feed::renditions(&master, &got.final_url, shared.options.choice)?, master.variables)
        }
        Playlist::Media(_) => (vec![got.final_url.clone()], Vec::new()),
    };
    let imports = Arc::new(imports);
    set_up(shared, "hls", urls.len());
    for (track, url) in urls.iter().cloned().enumerate() {
        let listings = start_filling(shared, loops, track);
        let (shared, imports) = (shared.clone(), imports.clone());
        loops.spawn(
            async move { track::follow_hls(shared, url, imports, listings).await.map(|()| Loop::Follow) },
        );
    }
    Ok(urls.len())
}

fn open_dash(shared: &Arc<Shared>, loops: &mut Loops, got: &Got) -> anyhow::Result<usize> {
    let mpd = Mpd::parse(&got.body, &got.final_url)?;
    let chosen = feed::representations(&mpd, shared.options.choice)?;
    let (sender, mpds) = watch::channel(Arc::new(mpd));
    let tracks = chosen.len();
    set_up(shared, "dash", tracks);
    for (track, representation) in chosen.into_iter().enumerate() {
        let listings = start_filling(shared, loops, track);
        let (shared, mpds) = (shared.clone(), mpds.clone());
        loops.spawn(async move {
            track::follow_dash(shared, representation, mpds, listings).await.map(|()| Loop::Follow)
        });
    }
    let (shared, url) = (shared.clone(), shared.options.manifest.clone());
    loops.spawn(async move { track::follow_mpd(shared, url, sender).await.map(|()| Loop::Follow) });
    Ok(tracks)
}

/// The wait for the first picture counts from the request for the manifest.
fn set_up(shared: &Shared, format: &str, tracks: usize) {
    *shared.playhead() = Playhead::new(tracks, mahp_common::Time::ZERO);
    shared.report(|r| r.format = format.into());
}

fn start_filling(shared: &Arc<Shared>, loops: &mut Loops, track: usize) -> watch::Sender<Listing> {
    let (sender, listings) = watch::channel(Listing::default());
    let shared = shared.clone();
    loops.spawn(async move { track::fill(shared, track, listings).await.map(|()| Loop::Fill) });
    sender
}
