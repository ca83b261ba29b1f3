//! A receiver's HTTP half between a library and web servers that do as they are told, in virtual time.

use crate::http::body::{Body, BoxFuture};
use crate::http::{Ends, Front, Options};
use crate::library::{Availability, Library, ManifestState, RepairPlan, ResourceKey, Source, Stored};
use crate::origin::upstream::{Answer, Head, Incoming, Upstream};
use crate::served::Served;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use mahp_common::catalog::{Channel, Format};
use mahp_common::manifest::url::cache_key;
use mahp_common::{ByteRange, Digest, ObjectKind, ObjectMeta, Payload, Time};
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::{self, FetchError};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

pub(crate) const CHANNEL: &str = "https://cdn.example/live/master.m3u8";
pub(crate) const SEGMENT: &str = "https://cdn.example/live/v/1.ts";

pub(crate) fn bytes(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

pub(crate) fn channel() -> Channel {
    Channel {
        name: "news".into(),
        title: "The News".into(),
        format: Format::Hls,
        live: true,
        manifest_url: CHANNEL.into(),
        prefixes: vec!["https://cdn.example/".into()],
        token_parameters: vec![],
        standby_sources: Vec::new(),
        repair_servers: Vec::new(),
        report_url: None,
        moq_url: None,
        target_duration_ms: 2000,
        part_target_ms: None,
        renditions: vec![],
    }
}

/// A library that has and expects what it is told.
pub(crate) struct FakeLibrary {
    pub(crate) state: Mutex<FakeState>,
    version: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Default)]
pub(crate) struct FakeState {
    pub(crate) channels: Vec<Arc<Channel>>,
    pub(crate) allowed: Vec<String>,
    pub(crate) forecast: HashMap<String, Availability>,
    pub(crate) store: HashMap<ResourceKey, Vec<Arc<Stored>>>,
    pub(crate) manifests: HashMap<ResourceKey, ManifestState>,
    pub(crate) plan: Option<RepairPlan>,
    pub(crate) fed: Vec<(u64, Bytes)>,
    /// When this many bytes were fed, the object of the plan is complete.
    pub(crate) complete_after: Option<(u64, Bytes)>,
    pub(crate) put: Vec<ObjectMeta>,
    /// Init segments and segments.
    pub(crate) taught: Vec<(Vec<String>, Vec<String>)>,
    pub(crate) unheard_sessions: bool,
    /// 8 s if not set.
    pub(crate) budget: Option<Duration>,
}

impl FakeLibrary {
    pub(crate) fn new(clock: Clock) -> FakeLibrary {
        let state = FakeState { channels: vec![Arc::new(channel())], ..FakeState::default() };
        FakeLibrary { state: Mutex::new(state), version: watch::channel(0).0, clock }
    }

    pub(crate) fn forecast(&self, url: &str, availability: Availability) {
        self.state.lock().unwrap().forecast.insert(url.into(), availability);
        self.bump();
    }

    pub(crate) fn store(&self, meta: ObjectMeta, body: Bytes, source: Source) -> Arc<Stored> {
        self.store_until(meta, body, source, None)
    }

    fn store_until(
        &self,
        meta: ObjectMeta,
        body: Bytes,
        source: Source,
        good_until: Option<Time>,
    ) -> Arc<Stored> {
        let key = self.key(&Url::parse(&meta.url).unwrap());
        let digest = Some(Digest::of(&body));
        let meta = ObjectMeta { length: body.len() as u64, digest, ..meta };
        let payload = Payload::from_chunks(body.chunks(1000).map(|c| body.slice_ref(c)));
        let stored = Arc::new(Stored { meta, payload, source, stored_at: self.clock.now(), good_until });
        let mut state = self.state.lock().unwrap();
        let pieces = state.store.entry(key).or_default();
        pieces.push(stored.clone());
        pieces.sort_by_key(|p| p.meta.range.map(|r| r.first));
        drop(state);
        self.bump();
        stored
    }

    pub(crate) fn multicast(&self, url: &str, body: &Bytes) {
        let meta =
            ObjectMeta { url: url.into(), content_type: Some("video/mp2t".into()), ..ObjectMeta::default() };
        self.store(meta, body.clone(), Source::Multicast);
    }

    pub(crate) fn hear_manifest(&self, url: &str, text: &str, fresh: bool) {
        let meta = ObjectMeta { url: url.into(), kind: ObjectKind::Manifest, ..ObjectMeta::default() };
        let body = Bytes::copy_from_slice(text.as_bytes());
        let stored = Arc::new(Stored {
            meta,
            payload: body.into(),
            source: Source::Multicast,
            stored_at: self.clock.now(),
            good_until: None,
        });
        let base = Url::parse(url).unwrap();
        let key = self.key(&base);
        self.state.lock().unwrap().manifests.insert(key, ManifestState { stored, fresh, base });
        self.bump();
    }

    pub(crate) fn bump(&self) {
        self.version.send_modify(|v| *v += 1);
    }

    fn covering(&self, url: &Url, range: Option<(u64, Option<u64>)>) -> Option<Vec<Arc<Stored>>> {
        let state = self.state.lock().unwrap();
        let pieces = state.store.get(&self.key(url))?;
        if let Some(whole) = pieces.iter().find(|p| p.meta.range.is_none()) {
            return Some(vec![whole.clone()]);
        }
        let of = |p: &Arc<Stored>| p.meta.range.unwrap();
        let (first, last) = range.unwrap_or((0, None));
        let last = last.or(of(pieces.first()?).complete.map(|c| c - 1))?;
        let wanted: Vec<_> =
            pieces.iter().filter(|p| of(p).last >= first && of(p).first <= last).cloned().collect();
        let (a, b) = (of(wanted.first()?), of(wanted.last()?));
        (a.first <= first && b.last >= last).then_some(wanted)
    }
}

impl Library for FakeLibrary {
    fn channels(&self) -> Vec<Arc<Channel>> {
        self.state.lock().unwrap().channels.clone()
    }
    fn key(&self, url: &Url) -> ResourceKey {
        ResourceKey(cache_key(url, &[]).into())
    }
    fn channel_of(&self, url: &Url) -> Option<Arc<Channel>> {
        let state = self.state.lock().unwrap();
        state
            .channels
            .iter()
            .find(|c| c.prefixes.iter().any(|p| url.as_str().starts_with(p.as_str())))
            .cloned()
    }
    fn demand(&self, url: &Url, range: Option<(u64, Option<u64>)>) -> Availability {
        if let Some(pieces) = self.covering(url, range) {
            return Availability::Here(pieces);
        }
        let state = self.state.lock().unwrap();
        if let Some(availability) = state.forecast.get(url.as_str()) {
            return availability.clone();
        }
        let ours =
            state.channels.iter().any(|c| c.prefixes.iter().any(|p| url.as_str().starts_with(p.as_str())));
        match (ours, state.allowed.iter().any(|h| Some(h.as_str()) == url.host_str())) {
            (true, _) => Availability::NotComing,
            (_, true) => Availability::Allowed,
            _ => Availability::Forbidden,
        }
    }
    fn piece(&self, url: &Url, at: u64) -> Option<Arc<Stored>> {
        let state = self.state.lock().unwrap();
        let holds = |p: &&Arc<Stored>| {
            let first = p.meta.range.map_or(0, |r| r.first);
            (first..first + p.payload.len()).contains(&at)
        };
        state.store.get(&self.key(url))?.iter().find(holds).cloned()
    }
    fn manifest(&self, url: &Url) -> Option<ManifestState> {
        self.state.lock().unwrap().manifests.get(&self.key(url)).cloned()
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
    fn repair_plan(&self, _: &Url, _: Option<(u64, Option<u64>)>) -> Option<RepairPlan> {
        self.state.lock().unwrap().plan.clone()
    }
    fn feed(&self, plan: &RepairPlan, offset: u64, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.fed.push((offset, Bytes::copy_from_slice(bytes)));
        let sum: u64 = state.fed.iter().map(|(_, b)| b.len() as u64).sum();
        if let Some((need, body)) = state.complete_after.clone()
            && sum >= need
        {
            drop(state);
            self.store(plan.meta.clone(), body, Source::Repaired);
        }
    }
    fn lasts(&self, url: &Url) -> bool {
        self.channel_of(url).is_some() && url.path().ends_with(".ts")
    }
    fn put(&self, meta: ObjectMeta, body: Bytes, good_for: Duration) -> Arc<Stored> {
        self.state.lock().unwrap().put.push(meta.clone());
        let lasts = self.lasts(&Url::parse(&meta.url).unwrap());
        let good_until = (!lasts).then(|| self.clock.now() + good_for);
        self.store_until(meta, body, Source::Unicast, good_until)
    }
    fn teach_playlist(&self, inits: &[Url], segments: &[Url]) {
        let texts = |urls: &[Url]| urls.iter().map(Url::to_string).collect();
        self.state.lock().unwrap().taught.push((texts(inits), texts(segments)));
    }
    fn unheard_sessions(&self) -> bool {
        self.state.lock().unwrap().unheard_sessions
    }
    fn hold_budget(&self) -> Duration {
        self.state.lock().unwrap().budget.unwrap_or(Duration::from_secs(8))
    }
}

/// What a web server does with one request.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) wait: Duration,
    pub(crate) reply: Reply,
}

#[derive(Clone)]
pub(crate) enum Reply {
    Status(u16),
    Dead,
    Body(Sent),
}

#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) body: Bytes,
    pub(crate) headers: HeaderMap,
    /// Size of the pieces, and the time before each.
    pub(crate) piece: usize,
    pub(crate) pace: Duration,
    /// Breaks off after this many bytes.
    pub(crate) breaks_at: Option<usize>,
    pub(crate) knows_ranges: bool,
    pub(crate) tells_length: bool,
}

impl Script {
    pub(crate) fn body(body: &Bytes) -> Script {
        let sent = Sent {
            body: body.clone(),
            headers: HeaderMap::new(),
            piece: usize::MAX,
            pace: Duration::ZERO,
            breaks_at: None,
            knows_ranges: true,
            tells_length: true,
        };
        Script { wait: Duration::ZERO, reply: Reply::Body(sent) }
    }
    pub(crate) fn status(status: u16) -> Script {
        Script { wait: Duration::ZERO, reply: Reply::Status(status) }
    }
    pub(crate) fn dead() -> Script {
        Script { wait: Duration::ZERO, reply: Reply::Dead }
    }
    pub(crate) fn after(mut self, millis: u64) -> Script {
        self.wait = Duration::from_millis(millis);
        self
    }
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Sent)) -> Script {
        if let Reply::Body(sent) = &mut self.reply {
            change(sent);
        }
        self
    }
    pub(crate) fn header(self, name: HeaderName, value: &str) -> Script {
        self.with(|s| {
            s.headers.append(name, HeaderValue::from_str(value).unwrap());
        })
    }
}

/// A request that reached a web server.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Duration,
    pub(crate) url: String,
    pub(crate) range: Option<(u64, Option<u64>)>,
    pub(crate) headers: HeaderMap,
}

/// Web servers that follow scripts: the next one of a URL at each request, the last one for ever. A script
/// without a query is for all.
pub(crate) struct FakeWeb {
    start: Instant,
    scripts: Mutex<HashMap<String, VecDeque<Script>>>,
    pub(crate) asked: Mutex<Vec<Asked>>,
}

impl FakeWeb {
    pub(crate) fn script(&self, url: &str, scripts: impl IntoIterator<Item = Script>) {
        self.scripts.lock().unwrap().insert(url.into(), scripts.into_iter().collect());
    }
    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Upstream for FakeWeb {
    fn open(&self, url: Url, request: fetch::Request) -> BoxFuture<'static, Result<Answer, FetchError>> {
        let (at, headers) = (self.start.elapsed(), request.headers);
        let range = request.range;
        self.asked.lock().unwrap().push(Asked { at, url: url.to_string(), range, headers });
        let mut scripts = self.scripts.lock().unwrap();
        let bare = url.as_str().split('?').next().unwrap();
        let name = if scripts.contains_key(url.as_str()) { url.as_str() } else { bare };
        let script = scripts.get_mut(name).and_then(|scripts| {
            if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }
        });
        drop(scripts);
        Box::pin(async move {
            let script = script.unwrap_or_else(|| Script::status(404));
            tokio::time::sleep(script.wait).await;
            match script.reply {
                Reply::Dead => {
                    Err(FetchError::Connect { url: url.to_string(), cause: "connection refused".into() })
                }
                Reply::Status(status) => {
                    Err(FetchError::Status { url: url.to_string(), status, headers: Box::default() })
                }
                Reply::Body(sent) => Ok(answer(url, range, sent)),
            }
        })
    }
}

fn answer(url: Url, range: Option<(u64, Option<u64>)>, mut sent: Sent) -> Answer {
    let complete = sent.body.len() as u64;
    let range = range.filter(|_| sent.knows_ranges).map(|(first, last)| {
        let last = last.unwrap_or(u64::MAX).min(complete - 1);
        sent.body = sent.body.slice(first as usize..=last as usize);
        ByteRange { first, last, complete: Some(complete) }
    });
    let head = Head {
        status: if range.is_some() { 206 } else { 200 },
        final_url: url,
        headers: sent.headers.clone(),
        range,
        length: sent.tells_length.then_some(sent.body.len() as u64),
    };
    Answer { head, body: Box::new(FakeBody { sent, at: 0 }) }
}

struct FakeBody {
    sent: Sent,
    at: usize,
}

impl Incoming for FakeBody {
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(async move {
            tokio::time::sleep(self.sent.pace).await;
            if self.sent.breaks_at.is_some_and(|b| self.at >= b) {
                return Err(FetchError::Body { url: "x".into(), cause: "connection reset".into() });
            }
            let end = self.at.saturating_add(self.sent.piece).min(self.sent.body.len());
            let end = self.sent.breaks_at.map_or(end, |b| end.min(b));
            let piece = self.sent.body.slice(self.at..end);
            self.at = end;
            Ok((!piece.is_empty()).then_some(piece))
        })
    }
}

pub(crate) struct Rig {
    pub(crate) front: Arc<Front>,
    pub(crate) multicast: Arc<FakeLibrary>,
    pub(crate) web: Arc<FakeWeb>,
    pub(crate) served: Arc<Served>,
    pub(crate) clock: Clock,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The bytes, or what came before the connection broke.
    pub(crate) body: Result<Bytes, Bytes>,
    /// Until the headers.
    pub(crate) waited: Duration,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone().unwrap().to_vec()).unwrap()
    }
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Rig {
        let clock = Clock::new();
        let state = FakeState { channels: vec![Arc::new(channel())], ..FakeState::default() };
        let library = Arc::new(FakeLibrary { state: Mutex::new(state), version: watch::channel(0).0, clock });
        let web =
            Arc::new(FakeWeb { start: Instant::now(), scripts: Mutex::default(), asked: Mutex::default() });
        let served = Arc::new(Served::default());
        let front = Front::new(library.clone(), web.clone(), served.clone(), clock, options, None);
        Rig { front, multicast: library, web, served, clock }
    }

    pub(crate) async fn get(&self, target: &str) -> Seen {
        self.ask("GET", target, &[]).await
    }

    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[(HeaderName, &str)]) -> Seen {
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, "10.0.0.1:8087");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        self.send(request.body(()).unwrap(), "10.0.0.9").await
    }

    pub(crate) async fn send(&self, mut request: Request<()>, peer: &str) -> Seen {
        request.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static("10.0.0.1:8087"));
        let ends = Ends {
            peer: (peer.parse::<std::net::IpAddr>().unwrap(), 5000).into(),
            local: "10.0.0.1:8087".parse().unwrap(),
        };
        let start = Instant::now();
        let (parts, body) = self.front.handle(request, ends).await.into_parts();
        let waited = start.elapsed();
        let body = read(body).await;
        Seen { status: parts.status, headers: parts.headers, body, waited }
    }

    pub(crate) fn at(&self, millis: u64) -> Time {
        self.clock.now() + Duration::from_millis(millis)
    }

    /// Runs something at a later time.
    pub(crate) fn later(&self, millis: u64, action: impl FnOnce(&FakeLibrary) + Send + 'static) {
        let library = self.multicast.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            action(&library);
        });
    }
}

async fn read(mut body: Body) -> Result<Bytes, Bytes> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => all.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => return Err(all.into()),
        }
    }
    Ok(all.into())
}
