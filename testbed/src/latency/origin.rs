//! A low-latency HLS origin: parts as files of their own, reloads that block, and a log of when it had what and gave it to whom.

use super::encoder::{Encoder, Spec};
use super::picture;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mahp_runtime::clock::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Complete segments that are listed.
const LISTED: usize = 6;
/// Complete segments whose parts are listed.
const LISTED_WITH_PARTS: usize = 3;
/// Complete segments that are kept.
const KEPT: usize = 12;
/// A request for what is not there yet waits for so long.
const PATIENCE: Duration = Duration::from_secs(8);

/// When a part was where, Unix milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Its last frame was painted.
    pub painted: u64,
    /// The origin had it.
    pub ready: u64,
    /// The sender had asked for it, and it was there.
    pub taken: Option<u64>,
    /// Its bytes.
    pub bytes: u64,
}

/// Parts by segment and number.
pub type Log = BTreeMap<(u64, u64), Times>;

#[derive(Debug)]
struct Segment {
    number: u64,
    parts: Vec<Bytes>,
}

#[derive(Debug, Default)]
struct Content {
    init: Bytes,
    segments: VecDeque<Segment>,
    /// The one that is growing.
    growing: Option<Segment>,
    log: Log,
}

#[derive(Debug)]
struct Shared {
    spec: Spec,
    hold_back: Duration,
    clock: Clock,
    content: Mutex<Content>,
    changes: watch::Sender<u64>,
}

/// A running origin; it ends when it is dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Origin {
    /// Starts to encode and to serve. `hold_back`: PART-HOLD-BACK.
    pub async fn start(spec: Spec, hold_back: Duration) -> anyhow::Result<Origin> {
        let mut encoder = Encoder::start(spec)?;
        let init = encoder.init().await?;
        let shared = Arc::new(Shared {
            spec,
            hold_back,
            clock: Clock::new(),
            content: Mutex::new(Content { init, ..Content::default() }),
            changes: watch::Sender::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (growing, serving) =
            (grow(shared.clone(), encoder), serve(listener, shared.clone(), stop.clone()));
        let token = stop.clone();
        tokio::spawn(async move { token.run_until_cancelled(growing).await });
        let token = stop.clone();
        tokio::spawn(async move { token.run_until_cancelled(serving).await });
        Ok(Origin { address, shared, _stop: stop.drop_guard() })
    }

    /// The master playlist.
    pub fn url(&self) -> String {
        format!("http://{}/ll/master.m3u8", self.address)
    }

    /// Waits until there are complete segments.
    pub async fn ready(&self, segments: usize) {
        let mut changes = self.shared.changes.subscribe();
        // The sender lives as long as `self`.
        let _ = changes.wait_for(|_| self.shared.content().segments.len() >= segments).await;
    }

    /// When parts were where.
    pub fn log(&self) -> Log {
        self.shared.content().log.clone()
    }
}

async fn grow(shared: Arc<Shared>, mut encoder: Encoder) {
    let painted = encoder.painted();
    let spec = shared.spec;
    for number in 0u64.. {
        let part = match encoder.part().await {
            Ok(part) => part,
            Err(e) => {
                tracing::error!("{e:#}");
                return;
            }
        };
        let painted_at = |frame: u64| {
            let painted = painted.lock().unwrap_or_else(PoisonError::into_inner);
            usize::try_from(frame).ok().and_then(|i| painted.get(i).copied()).unwrap_or_default()
        };
        let last = painted_at((number + 1) * u64::from(spec.part_frames) - 1);
        let (segment, place) =
            (number / u64::from(spec.segment_parts), number % u64::from(spec.segment_parts));
        let ready = shared.clock.wall().unix_millis();
        let times = Times { painted: last, ready, taken: None, bytes: part.len() as u64 };
        shared.content().add((segment, place), part, times, spec);
        shared.changes.send_modify(|n| *n += 1);
    }
}

impl Content {
    fn add(&mut self, (number, place): (u64, u64), part: Bytes, times: Times, spec: Spec) {
        let growing = self.growing.get_or_insert_with(|| Segment { number, parts: Vec::new() });
        growing.parts.push(part);
        self.log.insert((number, place), times);
        if growing.parts.len() >= spec.segment_parts as usize {
            self.segments.extend(self.growing.take());
        }
        if self.segments.len() > KEPT {
            self.segments.pop_front();
        }
    }

    fn segment(&self, number: u64) -> Option<&Segment> {
        self.segments.iter().find(|s| s.number == number)
    }

    fn part(&self, number: u64, place: u64) -> Option<Bytes> {
        let segment = self.segment(number).or(self.growing.as_ref().filter(|s| s.number == number))?;
        segment.parts.get(usize::try_from(place).ok()?).cloned()
    }

    /// Number of the segment that is growing, and of the next part of it.
    fn next(&self) -> (u64, u64) {
        match &self.growing {
            Some(s) => (s.number, s.parts.len() as u64),
            None => (self.segments.back().map_or(0, |s| s.number + 1), 0),
        }
    }
}

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part_duration(&self) -> f64 {
        f64::from(self.spec.part_frames) / f64::from(picture::RATE)
    }

    fn master(&self) -> String {
        format!(
            "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-STREAM-INF:BANDWIDTH={},RESOLUTION={}x{},\
             CODECS=\"avc1.42c01f\",FRAME-RATE={}\nmedia.m3u8\n",
            self.spec.bitrate_bps * 11 / 10,
            picture::WIDTH,
            picture::HEIGHT,
            picture::RATE
        )
    }

    /// The media playlist as of now.
    fn media(&self) -> String {
        let content = self.content();
        let part = self.part_duration();
        let duration = part * f64::from(self.spec.segment_parts);
        let skip = content.segments.len().saturating_sub(LISTED);
        let first = content.segments.get(skip).map_or(content.next().0, |s| s.number);
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:{}\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={:.3}\n#EXT-X-PART-INF:PART-TARGET={part:.3}\n\
             #EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-MAP:URI=\"init.mp4\"\n",
            duration.ceil(),
            self.hold_back.as_secs_f64(),
        );
        let with_parts = content.segments.len().saturating_sub(LISTED_WITH_PARTS);
        let line = |text: &mut String, s: &Segment, place: usize| {
            let independent = if place == 0 { ",INDEPENDENT=YES" } else { "" };
            let uri = format!("s{}.p{place}.m4s", s.number);
            let _ = writeln!(text, "#EXT-X-PART:DURATION={part:.5},URI=\"{uri}\"{independent}");
        };
        for (i, segment) in content.segments.iter().enumerate().skip(skip) {
            if i >= with_parts {
                (0..segment.parts.len()).for_each(|place| line(&mut text, segment, place));
            }
            let _ = writeln!(text, "#EXTINF:{duration:.5},\ns{}.m4s", segment.number);
        }
        if let Some(segment) = &content.growing {
            (0..segment.parts.len()).for_each(|place| line(&mut text, segment, place));
        }
        let (number, place) = content.next();
        let _ = writeln!(text, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"s{number}.p{place}.m4s\"");
        text
    }

    /// Waits until `there` is.
    async fn wait(&self, there: impl Fn(&Content) -> bool) {
        let mut changes = self.changes.subscribe();
        let come = changes.wait_for(|_| there(&self.content()));
        let _ = tokio::time::timeout(PATIENCE, come).await;
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        // What is small must not wait for what was sent before it.
        let _ = stream.set_nodelay(true);
        let (shared, stop) = (shared.clone(), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            stop.run_until_cancelled(connection).await
        });
    }
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let query = request.uri().query().unwrap_or_default();
    let number = |key: &str| {
        query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    let (body, kind) = match name {
        "master.m3u8" => (Some(shared.master().into()), "application/vnd.apple.mpegurl"),
        "media.m3u8" => {
            if let Some(sequence) = number("_HLS_msn") {
                let asked = (sequence, number("_HLS_part").unwrap_or(u64::MAX));
                shared.wait(|content| content.next() > asked).await;
            }
            (Some(shared.media().into()), "application/vnd.apple.mpegurl")
        }
        "init.mp4" => (Some(shared.content().init.clone()), "video/mp4"),
        _ => (media(shared, request, name).await, "video/iso.segment"),
    };
    let cache = if kind.starts_with("video") { "max-age=60" } else { "no-cache" };
    let status = if body.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, cache)
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .body(Full::new(body.unwrap_or_default()))
        .expect("constant headers are valid")
}

/// `sN.m4s` or `sN.pM.m4s`. The part that was hinted at is waited for.
async fn media(shared: &Shared, request: &Request<Incoming>, name: &str) -> Option<Bytes> {
    let name = name.strip_prefix('s')?.strip_suffix(".m4s")?;
    let Some((number, place)) = name.split_once(".p") else {
        let number = name.parse().ok()?;
        let content = shared.content();
        return Some(content.segment(number)?.parts.concat().into());
    };
    let (number, place) = (number.parse().ok()?, place.parse().ok()?);
    if (number, place) == shared.content().next() {
        shared.wait(|content| content.part(number, place).is_some()).await;
    }
    let now = shared.clock.wall().unix_millis();
    let mut content = shared.content();
    let part = content.part(number, place)?;
    let agent = request.headers().get(header::USER_AGENT).and_then(|a| a.to_str().ok());
    if agent.is_some_and(|a| a.starts_with("mahp-sender"))
        && let Some(times) = content.log.get_mut(&(number, place))
    {
        times.taken.get_or_insert(now);
    }
    Some(part)
}
