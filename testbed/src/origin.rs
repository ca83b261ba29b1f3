//! A web origin in this process: the [`Presentation`] over HTTP/1.1, with an access log and knobs that make it slow, faulty or
//! silent.

use crate::presentation::{Answer, Class, Presentation, iso8601};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mahp_common::{Digest, WallTime};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Paths the log keeps apart; requests for more are counted in the totals only.
const LOG_PATHS: usize = 20_000;

/// A running origin. Dropping it stops it.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    presentation: Presentation,
    /// Files that go before the clip.
    folder: Option<PathBuf>,
    knobs: Mutex<Knobs>,
    log: Mutex<AccessLog>,
}

/// What can be made worse, at any time.
#[derive(Clone, Debug, Default)]
pub struct Knobs {
    /// Added before each answer.
    pub delay: Duration,
    /// The first fault whose path part matches decides.
    pub faults: Vec<Fault>,
}

/// Answers with an error status instead of the content.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Part of the path.
    pub path: String,
    /// The status.
    pub status: StatusCode,
    /// How often; `None` = always.
    pub times: Option<u32>,
}

/// Requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// Answered requests.
    pub requests: u64,
    /// Body bytes.
    pub bytes: u64,
    /// Answers with status 400 and above.
    pub errors: u64,
}

/// What was asked of the origin.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    /// By path, at most 20 000.
    pub paths: BTreeMap<String, Count>,
    /// By what asked (product token of the User-Agent, `-` without) and class of content.
    pub agents: BTreeMap<(String, Option<Class>), Count>,
}

impl AccessLog {
    fn note(&mut self, path: &str, agent: &str, class: Option<Class>, status: StatusCode, bytes: u64) {
        let errors = u64::from(status.as_u16() >= 400);
        let add = |c: &mut Count| {
            *c = Count { requests: c.requests + 1, bytes: c.bytes + bytes, errors: c.errors + errors }
        };
        if let Some(count) = self.paths.get_mut(path) {
            add(count);
        } else if self.paths.len() < LOG_PATHS {
            add(self.paths.entry(path.to_owned()).or_default());
        }
        add(self.agents.entry((agent.to_owned(), class)).or_default());
    }

    /// Everything of one class that agents whose name starts with `agent` asked for.
    pub fn of(&self, agent: &str, class: Class) -> Count {
        let mut sum = Count::default();
        for ((name, c), count) in &self.agents {
            if name.starts_with(agent) && *c == Some(class) {
                sum.requests += count.requests;
                sum.bytes += count.bytes;
                sum.errors += count.errors;
            }
        }
        sum
    }
}

impl Origin {
    /// Binds `listen` (port 0: any free port) and serves until dropped or stopped.
    pub async fn start(listen: SocketAddr, presentation: Presentation) -> io::Result<Origin> {
        Origin::with_folder(listen, presentation, None).await
    }

    /// As [`Origin::start`], with the files of a folder before the clip's paths.
    pub async fn with_folder(
        listen: SocketAddr,
        presentation: Presentation,
        folder: Option<PathBuf>,
    ) -> io::Result<Origin> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { presentation, folder, knobs: Mutex::default(), log: Mutex::default() });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, shared.clone(), stop.clone()));
        Ok(Origin { address, shared, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path (`/live/master.m3u8`).
    pub fn url(&self, path: &str) -> Url {
        let text = format!("http://{}{path}", self.address);
        Url::parse(&text).expect("an address and a path that starts with a slash make a URL")
    }

    /// What it serves.
    pub fn presentation(&self) -> &Presentation {
        &self.shared.presentation
    }

    /// Changes the knobs.
    pub fn set_knobs(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut lock(&self.shared.knobs));
    }

    /// What was asked so far.
    pub fn log(&self) -> AccessLog {
        lock(&self.shared.log).clone()
    }

    /// Stops listening and cuts all connections, as a crashed server does.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Paths of the testbed's own.
const CONTROL: &str = "/_testbed/";

/// A line of the log as the origin tells it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogRow {
    /// What asked.
    pub agent: String,
    /// For what.
    pub class: Option<Class>,
    /// How much.
    pub count: Count,
}

/// A file of the folder; none for paths that would leave it.
fn read_file(folder: &Path, path: &str) -> Option<Bytes> {
    let parts = path.trim_start_matches('/').split('/');
    let mut file = folder.to_path_buf();
    for part in parts {
        if part.is_empty() || part.starts_with('.') || part.contains('\\') {
            return None;
        }
        file.push(part);
    }
    std::fs::read(file).ok().map(Bytes::from)
}

fn file_type(path: &str) -> (&'static str, Class) {
    let extension = path.rsplit('.').next().unwrap_or("");
    match extension {
        "m3u8" => ("application/vnd.apple.mpegurl", Class::Manifest),
        "mpd" => ("application/dash+xml", Class::Manifest),
        "ts" => ("video/mp2t", Class::Media),
        "mp4" | "m4v" if path.contains("init") => ("video/mp4", Class::Init),
        "mp4" | "m4s" | "m4v" => ("video/mp4", Class::Media),
        "m4a" | "aac" => ("audio/mp4", Class::Media),
        "vtt" => ("text/vtt", Class::Media),
        _ => ("application/octet-stream", Class::Media),
    }
}

/// A panic of another holder leaves counters and knobs usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, shared.clone(), stop.clone()));
            }
            // Out of descriptors or the like: give others time to close some.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(respond(&shared, &request).await) }
    });
    let serve = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        // A client that goes away is no error of the origin.
        _ = serve => {}
    }
}

async fn respond(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if let Some(control) = path.strip_prefix(CONTROL) {
        return shared.control(control, request.uri().query().unwrap_or(""));
    }
    let (delay, fault) = shared.knobs_for(path);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let (mut response, class) = match fault {
        Some(status) => (text(status, "fault injected by the testbed\n"), None),
        None => shared.content(request),
    };
    cross_origin(response.headers_mut());
    let bytes = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    let agent = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("-");
    let agent = agent.split(['/', ' ']).next().unwrap_or("-");
    lock(&shared.log).note(path, agent, class, response.status(), bytes);
    response
}

impl Shared {
    /// The delay, and the status of the fault that applies.
    fn knobs_for(&self, path: &str) -> (Duration, Option<StatusCode>) {
        let mut knobs = lock(&self.knobs);
        let delay = knobs.delay;
        let fault = knobs.faults.iter_mut().find(|f| f.times != Some(0) && path.contains(&f.path));
        let status = fault.map(|f| {
            f.times = f.times.map(|t| t - 1);
            f.status
        });
        (delay, status)
    }

    /// What the testbed asks of an origin in another process: its log, or other knobs.
    fn control(&self, what: &str, query: &str) -> Response<Full<Bytes>> {
        if what == "delay" {
            let Ok(millis) = query.parse() else { return text(StatusCode::BAD_REQUEST, "milliseconds\n") };
            lock(&self.knobs).delay = Duration::from_millis(millis);
            return text(StatusCode::OK, "");
        }
        let log = lock(&self.log);
        let row = |((agent, class), count): (&(String, Option<Class>), &Count)| LogRow {
            agent: agent.clone(),
            class: *class,
            count: *count,
        };
        let rows: Vec<LogRow> = log.agents.iter().map(row).collect();
        text(StatusCode::OK, &serde_json::to_string(&rows).unwrap_or_default())
    }

    fn content(&self, request: &Request<Incoming>) -> (Response<Full<Bytes>>, Option<Class>) {
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => return (text(StatusCode::NO_CONTENT, ""), None),
            _ => return (text(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD or OPTIONS\n"), None),
        }
        let now = mahp_runtime::clock::Clock::new().wall();
        if request.uri().path() == "/time" {
            return (text(StatusCode::OK, &iso8601(now)), None);
        }
        if let Some(file) = self.folder.as_deref().and_then(|f| read_file(f, request.uri().path())) {
            let (content_type, class) = file_type(request.uri().path());
            let cache = if class == Class::Manifest { "no-cache" } else { "public, max-age=3600" };
            return (representation(request, file, content_type, cache), Some(class));
        }
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
        match self.presentation.answer(request.uri().path(), host, now) {
            Answer::Here { body, content_type, class, cache_control } => {
                let response = representation(request, body, content_type, cache_control);
                (response, Some(class))
            }
            Answer::NotYet(at) => (not_yet(at, now), Some(Class::Media)),
            Answer::NotFound => (text(StatusCode::NOT_FOUND, "no such path\n"), None),
        }
    }
}

fn not_yet(at: WallTime, now: WallTime) -> Response<Full<Bytes>> {
    let wait = at.unix_millis().saturating_sub(now.unix_millis());
    text(StatusCode::NOT_FOUND, &format!("available in {wait} ms\n"))
}

/// 200, 206, 304 or 416 for a body.
fn representation(
    request: &Request<Incoming>,
    body: Bytes,
    content_type: &'static str,
    cache_control: &'static str,
) -> Response<Full<Bytes>> {
    let etag = format!("\"{}\"", &Digest::of(&body).to_hex()[..32]);
    let length = body.len() as u64;
    let range = request.headers().get(header::RANGE).and_then(|r| r.to_str().ok());
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let (status, part) = match (known, range.map(|r| parse_range(r, length))) {
        (Some(known), _) if known.split(',').any(|k| k.trim() == etag) => (StatusCode::NOT_MODIFIED, None),
        (_, None | Some(RangeAnswer::Whole)) => (StatusCode::OK, Some((0, length))),
        (_, Some(RangeAnswer::Part(first, end))) => (StatusCode::PARTIAL_CONTENT, Some((first, end))),
        (_, Some(RangeAnswer::Beyond)) => (StatusCode::RANGE_NOT_SATISFIABLE, None),
    };
    let slice = part.map_or_else(Bytes::new, |(first, end)| {
        body.slice(usize::try_from(first).unwrap_or(0)..usize::try_from(end).unwrap_or(0))
    });
    let mut response = Response::new(Full::new(slice));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    put(headers, header::ETAG, &etag);
    match (status, part) {
        (StatusCode::PARTIAL_CONTENT, Some((first, end))) => {
            put(headers, header::CONTENT_RANGE, &format!("bytes {first}-{}/{length}", end - 1));
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, _) => {
            put(headers, header::CONTENT_RANGE, &format!("bytes */{length}"))
        }
        _ => {}
    }
    response
}

/// What a Range header asks of a body of a given length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RangeAnswer {
    /// Not understood or several ranges: the whole body, as RFC 9110 section 14.2 allows.
    Whole,
    /// From the first byte up to, not including, the second.
    Part(u64, u64),
    /// Nothing of it exists.
    Beyond,
}

fn parse_range(value: &str, length: u64) -> RangeAnswer {
    let Some((first, last)) = value.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return RangeAnswer::Whole;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => part(first, last.saturating_add(1), length),
        (Ok(first), Err(_)) if last.trim().is_empty() => part(first, length, length),
        (Err(_), Ok(suffix)) if first.trim().is_empty() => {
            part(length.saturating_sub(suffix), if suffix == 0 { 0 } else { length }, length)
        }
        _ => RangeAnswer::Whole,
    }
}

fn part(first: u64, end: u64, length: u64) -> RangeAnswer {
    let end = end.min(length);
    if first < end { RangeAnswer::Part(first, end) } else { RangeAnswer::Beyond }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_owned())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Players in a page of another origin may read everything.
fn cross_origin(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Range, *"));
    let exposed = HeaderValue::from_static("Date, Age, Content-Length, Content-Range, ETag");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    headers.insert("timing-allow-origin", HeaderValue::from_static("*"));
}

fn put(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        use RangeAnswer::{Beyond, Part, Whole};
        for (value, answer) in [
            ("bytes=0-", Part(0, 10)),
            ("bytes=0-0", Part(0, 1)),
            ("bytes=3-5", Part(3, 6)),
            ("bytes=3-500", Part(3, 10)),
            ("bytes=-3", Part(7, 10)),
            ("bytes=-30", Part(0, 10)),
            ("bytes=-0", Beyond),
            ("bytes=10-", Beyond),
            ("bytes=5-3", Whole),
            ("bytes=0-1,4-5", Whole),
            ("lines=0-1", Whole),
            ("bytes=-", Whole),
            ("bytes=0-18446744073709551615", Part(0, 10)),
        ] {
            assert_eq!(parse_range(value, 10), answer, "{value}");
        }
    }

    async fn ask(origin: &Origin, request: &str) -> (String, Vec<u8>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(origin.address()).await.unwrap();
        let request =
            format!("{request}\r\nHost: o.example\r\nUser-Agent: probe/1.0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        let split = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        (String::from_utf8(all[..split].to_vec()).unwrap().to_lowercase(), all[split..].to_vec())
    }

    async fn started() -> Origin {
        let epoch = WallTime::from_unix_secs(mahp_runtime::clock::Clock::new().wall().unix_secs() - 60);
        let presentation = Presentation::new(crate::clip::Clip::embedded(), epoch, Duration::from_secs(16));
        Origin::start(([127, 0, 0, 1], 0).into(), presentation).await.unwrap()
    }

    #[tokio::test]
    async fn serves_as_web_servers_do() {
        let origin = started().await;
        let truth = origin.presentation().truth("hi/3.m4s").unwrap();
        let (head, body) = ask(&origin, "GET /vod/hi/3.m4s HTTP/1.1").await;
        assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\ndate: "), "{head}");
        assert!(head.contains("content-type: video/mp4") && body == truth, "{head}");
        let etag = head.split("etag: ").nth(1).unwrap().lines().next().unwrap();
        let (head, body) =
            ask(&origin, &format!("GET /vod/hi/3.m4s HTTP/1.1\r\nIf-None-Match: {etag}")).await;
        assert!(head.starts_with("http/1.1 304 ") && body.is_empty(), "{head}");
        let (head, body) = ask(&origin, "GET /vod/hi/3.m4s?token=x HTTP/1.1\r\nRange: bytes=5-9").await;
        assert!(head.starts_with("http/1.1 206 ") && body == truth[5..10], "{head}");
        assert!(head.contains(&format!("content-range: bytes 5-9/{}", truth.len())), "{head}");
        let (head, body) = ask(&origin, "HEAD /vod/hi/3.m4s HTTP/1.1").await;
        assert!(head.contains(&format!("content-length: {}", truth.len())) && body.is_empty(), "{head}");
        let (head, _) = ask(&origin, "GET /live/hi/99999999.m4s HTTP/1.1").await;
        assert!(head.starts_with("http/1.1 404 "), "{head}");
        let (head, body) = ask(&origin, "GET /live/manifest.mpd HTTP/1.1").await;
        assert!(head.contains("application/dash+xml"), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("http://o.example/time"));
        let count = origin.log().of("probe", Class::Media);
        assert_eq!((count.requests, count.errors), (5, 1));
    }

    #[tokio::test]
    async fn knobs_make_it_faulty_and_silent() {
        let origin = started().await;
        let status = StatusCode::SERVICE_UNAVAILABLE;
        origin.set_knobs(|k| k.faults.push(Fault { path: "/hi/".into(), status, times: Some(1) }));
        assert!(ask(&origin, "GET /vod/lo/3.m4s HTTP/1.1").await.0.starts_with("http/1.1 200 "));
        assert!(ask(&origin, "GET /vod/hi/3.m4s HTTP/1.1").await.0.starts_with("http/1.1 503 "));
        assert!(ask(&origin, "GET /vod/hi/3.m4s HTTP/1.1").await.0.starts_with("http/1.1 200 "));
        let delay = Duration::from_millis(30);
        origin.set_knobs(|k| k.delay = delay);
        let before = std::time::Instant::now();
        ask(&origin, "GET /vod/hi/3.m4s HTTP/1.1").await;
        assert!(before.elapsed() >= delay);
        origin.stop();
        // The listener closes as soon as its task runs.
        while TcpStream::connect(origin.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
