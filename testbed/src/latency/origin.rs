//! A low-latency origin, and a log of when it had what and gave it to whom. HLS: parts as files of their own, reloads that block.
//! DASH: segments that are sent while they are made, a chunk for each part.

use super::encoder::{Encoder, Spec};
use super::picture;
use crate::presentation::iso8601;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mahp_common::{Digest, WallTime};
use mahp_runtime::clock::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
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
    /// Their digest.
    pub digest: Option<Digest>,
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
    /// When the first frame was painted, Unix milliseconds.
    began: u64,
    log: Log,
}

type Sent = BoxBody<Bytes, Infallible>;

/// A body of parts that are not there yet.
struct Parts(mpsc::Receiver<Bytes>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
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
    pub async fn start(
        spec: Spec,
        hold_back: Duration,
        listener: std::net::TcpListener,
    ) -> anyhow::Result<Origin> {
        let mut encoder = Encoder::start(spec)?;
        let init = encoder.init().await?;
        let shared = Arc::new(Shared {
            spec,
            hold_back,
            clock: Clock::new(),
            content: Mutex::new(Content { init, ..Content::default() }),
            changes: watch::Sender::new(0),
        });
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
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

    /// A file of the channel: `master.m3u8` or `manifest.mpd`.
    pub fn url(&self, file: &str) -> String {
        format!("http://{}/ll/{file}", self.address)
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
        let digest = Some(Digest::of(&part));
        let times = Times { painted: last, ready, taken: None, bytes: part.len() as u64, digest };
        if number == 0 {
            shared.content().began = painted_at(0);
        }
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

    /// The MPD: the presentation began when the first frame was painted.
    fn mpd(&self, began: u64) -> String {
        let part = self.part_duration();
        let duration = part * f64::from(self.spec.segment_parts);
        format!(
            "<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" profiles=\"urn:mpeg:dash:profile:isoff-live:2011\" type=\"dynamic\" \
             availabilityStartTime=\"{}\" minimumUpdatePeriod=\"PT30S\" timeShiftBufferDepth=\"PT20S\" minBufferTime=\"PT1S\" \
             maxSegmentDuration=\"PT{duration}S\" suggestedPresentationDelay=\"PT{}S\">\
             <ServiceDescription id=\"0\"><Latency target=\"{}\"/></ServiceDescription>\
             <Period id=\"0\" start=\"PT0S\"><AdaptationSet contentType=\"video\" mimeType=\"video/mp4\" segmentAlignment=\"true\">\
             <SegmentTemplate timescale=\"1000\" duration=\"{}\" startNumber=\"0\" media=\"s$Number$.m4s\" initialization=\"init.mp4\" \
             availabilityTimeOffset=\"{:.3}\" availabilityTimeComplete=\"false\"/>\
             <Representation id=\"v\" bandwidth=\"{}\" codecs=\"avc1.42c01f\" width=\"{}\" height=\"{}\" frameRate=\"{}\"/>\
             </AdaptationSet></Period><UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:http-iso:2014\" value=\"time\"/></MPD>",
            iso8601(WallTime::from_unix_millis(began)),
            self.hold_back.as_secs_f64(),
            self.hold_back.as_millis(),
            duration * 1000.0,
            duration - part,
            self.spec.bitrate_bps * 11 / 10,
            picture::WIDTH,
            picture::HEIGHT,
            picture::RATE,
        )
    }

    /// A part, and a note of when the sender had it.
    fn take(&self, number: u64, place: u64, by_sender: bool) -> Option<Bytes> {
        let now = self.clock.wall().unix_millis();
        let mut content = self.content();
        let part = content.part(number, place)?;
        if let Some(times) = content.log.get_mut(&(number, place)).filter(|_| by_sender) {
            times.taken.get_or_insert(now);
        }
        Some(part)
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

async fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Sent> {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let query = request.uri().query().unwrap_or_default();
    let number = |key: &str| {
        query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    let whole = |body: Bytes| Full::new(body).boxed();
    let began = shared.content().began;
    let (body, kind) = match name {
        "master.m3u8" => (Some(whole(shared.master().into())), "application/vnd.apple.mpegurl"),
        "media.m3u8" => {
            if let Some(sequence) = number("_HLS_msn") {
                let asked = (sequence, number("_HLS_part").unwrap_or(u64::MAX));
                shared.wait(|content| content.next() > asked).await;
            }
            (Some(whole(shared.media().into())), "application/vnd.apple.mpegurl")
        }
        "manifest.mpd" => (Some(whole(shared.mpd(began).into())), "application/dash+xml"),
        "time" => (Some(whole(iso8601(shared.clock.wall()).into())), "text/plain"),
        "init.mp4" => (Some(whole(shared.content().init.clone())), "video/mp4"),
        _ => match growing(shared, request, name).await {
            Some(body) => (Some(body), "video/mp4"),
            None => (media(shared, request, name).await.map(whole), "video/iso.segment"),
        },
    };
    let cache = if kind.starts_with("video") { "max-age=60" } else { "no-cache" };
    let status = if body.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, cache)
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .body(body.unwrap_or_else(|| whole(Bytes::new())))
        .expect("constant headers are valid")
}

/// `sN.m4s`, which is being made or comes next: its parts as they come, without a length.
async fn growing(shared: &Arc<Shared>, request: &Request<Incoming>, name: &str) -> Option<Sent> {
    let number: u64 = name.strip_prefix('s')?.strip_suffix(".m4s")?.parse().ok()?;
    if number != shared.content().next().0 {
        return None;
    }
    let (send, receive) = mpsc::channel(1);
    let (shared, by_sender) = (shared.clone(), is_by_sender(request));
    tokio::spawn(async move {
        for place in 0..u64::from(shared.spec.segment_parts) {
            shared.wait(|content| content.part(number, place).is_some()).await;
            let Some(part) = shared.take(number, place, by_sender) else { return };
            if send.send(part).await.is_err() {
                return;
            }
        }
    });
    Some(Parts(receive).boxed())
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
    shared.take(number, place, is_by_sender(request))
}

fn is_by_sender(request: &Request<Incoming>) -> bool {
    let agent = request.headers().get(header::USER_AGENT).and_then(|a| a.to_str().ok());
    agent.is_some_and(|a| a.starts_with("mahp-sender"))
}
