//! A web server for test content: static files with ranges and validators, an access log, switches that break it on purpose, and
//! habits that origins have.
//!
//! Below `/moved/` everything is redirected to the same path without it. Below `/looped/` VOD playlists are served as live ones
//! ([`crate::looped`]).

use crate::looped;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// One request that the origin answered.
#[derive(Clone, Debug)]
pub struct Access {
    /// Path with query.
    pub path: String,
    /// The Range header, if any.
    pub range: Option<String>,
    /// The User-Agent header.
    pub agent: String,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: usize,
    /// The answer was compressed.
    pub gzip: bool,
}

/// What an origin does besides serving files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Playlists are compressed for those who accept gzip.
    pub gzip: bool,
    /// Every URI in a playlist carries a token, which is another one every [`TOKEN_LIFE`]. Segments want one that is not too old.
    pub tokens: bool,
}

/// A new token is given out this often.
const TOKEN_LIFE: Duration = Duration::from_secs(3);
/// So many tokens before the newest one are still good.
const TOKENS_KEPT: u64 = 10;

struct Shared {
    root: PathBuf,
    habits: Habits,
    started: Instant,
    log: Mutex<Vec<Access>>,
    paused: watch::Sender<bool>,
    flipped: Mutex<Option<String>>,
}

/// A running origin. Dropping it closes the listener and every connection.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Origin {
    /// Serves the files below `root` on a free port of loopback.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(root: &Path) -> anyhow::Result<Origin> {
        Origin::start_at(root, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), Habits::default())
    }

    /// The same at another address or with habits. Port 0 is a free one.
    ///
    /// # Errors
    /// As [`Origin::start`].
    pub fn start_at(root: &Path, address: SocketAddr, habits: Habits) -> anyhow::Result<Origin> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            root: root.to_path_buf(),
            habits,
            started: Instant::now(),
            log: Mutex::default(),
            paused: watch::Sender::new(false),
            flipped: Mutex::default(),
        });
        runtime.spawn(accept(listener, shared.clone()));
        Ok(Origin { address, shared, runtime: Some(runtime) })
    }

    /// The URL of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.address, path.trim_start_matches('/'))
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What was asked so far.
    pub fn log(&self) -> Vec<Access> {
        self.shared.log.lock().expect("no holder of the log panics").clone()
    }

    /// Bytes of bodies that went to clients whose User-Agent starts with `agent`: an account that no program under test keeps.
    pub fn bytes_to(&self, agent: &str) -> usize {
        self.log().iter().filter(|access| access.agent.starts_with(agent)).map(|access| access.bytes).sum()
    }

    /// Forgets the log, to count from here.
    pub fn clear_log(&self) {
        self.shared.log.lock().expect("no holder of the log panics").clear();
    }

    /// While paused, requests are accepted and get no answer: an origin that hangs.
    pub fn pause(&self, on: bool) {
        self.shared.paused.send_replace(on);
    }

    /// From now on the last byte of every file whose path contains `part` is wrong: what a damaged copy looks like.
    pub fn flip(&self, part: &str) {
        *self.shared.flipped.lock().expect("no holder panics") = Some(part.to_owned());
    }

    /// Dies: connections break, new ones are refused.
    pub fn cut(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            // A client that goes away is no error of the test.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut paused = shared.paused.subscribe();
    let _ = paused.wait_for(|paused| !paused).await;
    let response = respond(shared, request.method(), request.uri(), request.headers());
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    shared.log.lock().expect("no holder of the log panics").push(Access {
        path: request.uri().to_string(),
        range: text(header::RANGE),
        agent: text(header::USER_AGENT).unwrap_or_default(),
        status: response.status().as_u16(),
        bytes: http_body::Body::size_hint(response.body()).exact().unwrap_or(0) as usize,
        gzip: response.headers().contains_key(header::CONTENT_ENCODING),
    });
    response
}

fn respond(shared: &Shared, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let path = uri.path();
    let builder = Response::builder()
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .header(header::ACCESS_CONTROL_ALLOW_HEADERS, "range")
        .header(header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date, ETag, Content-Length, Content-Range")
        .header("timing-allow-origin", "*");
    let empty = |builder: http::response::Builder, status| {
        builder.status(status).body(Full::default()).expect("constant headers are valid")
    };
    if method == Method::OPTIONS {
        return empty(builder, StatusCode::NO_CONTENT);
    }
    if let Some(there) = uri.to_string().strip_prefix("/moved/") {
        return empty(builder.header(header::LOCATION, format!("/{there}")), StatusCode::FOUND);
    }
    if shared.habits.tokens && !is_manifest(path) && !shared.token_is_good(uri.query()) {
        return empty(builder, StatusCode::FORBIDDEN);
    }
    let Some((mut body, tag)) = shared.read(path) else {
        return empty(builder, StatusCode::NOT_FOUND);
    };
    let flipped = shared.flipped.lock().expect("no holder panics");
    if let (Some(part), Some(last)) = (flipped.as_deref(), body.last_mut())
        && path.contains(part)
    {
        *last ^= 1;
    }
    let accepts = headers
        .get(header::ACCEPT_ENCODING)
        .is_some_and(|value| value.as_bytes().windows(4).any(|word| word == b"gzip"));
    let builder = if shared.habits.gzip && is_manifest(path) && accepts {
        body = compress(&body);
        builder.header(header::CONTENT_ENCODING, "gzip")
    } else {
        builder
    };
    let builder = builder
        .header(header::CONTENT_TYPE, content_type(path))
        .header(header::ETAG, &tag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, if is_manifest(path) { "no-cache" } else { "public, max-age=3600" });
    if headers.get(header::IF_NONE_MATCH).is_some_and(|seen| seen.as_bytes() == tag.as_bytes()) {
        return empty(builder, StatusCode::NOT_MODIFIED);
    }
    let whole = Bytes::from(body);
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).and_then(parse_range);
    let (builder, part) = match asked.map(|asked| cut_range(asked, whole.len())) {
        None => (builder.status(StatusCode::OK), whole),
        Some(None) => {
            let total = format!("bytes */{}", whole.len());
            return empty(builder.header(header::CONTENT_RANGE, total), StatusCode::RANGE_NOT_SATISFIABLE);
        }
        Some(Some((first, last))) => (
            builder
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", whole.len())),
            whole.slice(first..=last),
        ),
    };
    builder.body(Full::new(part)).expect("numbers are valid header values")
}

impl Shared {
    /// What is at a path, and a strong validator; `None` when there is no such file below the root.
    fn read(&self, path: &str) -> Option<(Vec<u8>, String)> {
        let relative = path.trim_start_matches('/');
        let Some(looped) = relative.strip_prefix("looped/") else {
            let (body, modified) = read(&self.root.join(below(relative)?))?;
            return Some(self.with_tokens(path, body, &modified));
        };
        let (folder, name) = looped.rsplit_once('/')?;
        let (body, modified) = read(&self.root.join(below(folder)?).join(looped::file(name)))?;
        if !is_manifest(path) {
            return Some(self.with_tokens(path, body, &modified));
        }
        let live = looped::playlist(std::str::from_utf8(&body).ok()?, self.started.elapsed());
        let tag = live.lines().nth(3).unwrap_or_default().replace(|c: char| !c.is_ascii_digit(), "");
        Some(self.with_tokens(path, live.into_bytes(), &format!("{modified}-{tag}")))
    }

    /// The body with a token in each URI of a playlist, where that is the habit; and its quoted validator.
    fn with_tokens(&self, path: &str, body: Vec<u8>, tag: &str) -> (Vec<u8>, String) {
        if !self.habits.tokens || !path.ends_with(".m3u8") {
            return (body, format!("\"{tag}\""));
        }
        let token = self.newest_token();
        let mut text = String::new();
        for line in String::from_utf8_lossy(&body).lines() {
            text.push_str(line);
            if !line.starts_with('#') && !line.is_empty() {
                text.push_str(&format!("?token={token}"));
            }
            text.push('\n');
        }
        (text.into_bytes(), format!("\"{tag}-{token}\""))
    }

    fn newest_token(&self) -> u64 {
        1000 + self.started.elapsed().as_millis() as u64 / TOKEN_LIFE.as_millis() as u64
    }

    fn token_is_good(&self, query: Option<&str>) -> bool {
        let token = query.and_then(|query| query.strip_prefix("token=")?.parse::<u64>().ok());
        let newest = self.newest_token();
        token.is_some_and(|token| token <= newest && token + TOKENS_KEPT >= newest)
    }
}

/// A relative path that does not lead out.
fn below(relative: &str) -> Option<&str> {
    relative.split('/').all(|part| part != "..").then_some(relative)
}

/// A file's bytes, and what changes when the file does.
fn read(file: &Path) -> Option<(Vec<u8>, String)> {
    let modified =
        file.metadata().ok().filter(|data| data.is_file())?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let body = std::fs::read(file).ok()?;
    let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let tag = format!("{:x}-{age:x}", body.len());
    Some((body, tag))
}

fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

/// `bytes=a-b`, `bytes=a-`, `bytes=-n`; anything else is ignored, as RFC 9110 section 14.2 allows.
fn parse_range(value: &str) -> Option<(Option<usize>, Option<usize>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
    Some((number(first)?, number(last)?)).filter(|asked| *asked != (None, None))
}

fn cut_range(asked: (Option<usize>, Option<usize>), length: usize) -> Option<(usize, usize)> {
    let end = length.checked_sub(1)?;
    match asked {
        (Some(first), last) => (first <= end && last.is_none_or(|last| last >= first))
            .then(|| (first, last.unwrap_or(end).min(end))),
        (None, Some(suffix)) => (suffix > 0).then(|| (length.saturating_sub(suffix), end)),
        (None, None) => None,
    }
}

fn is_manifest(path: &str) -> bool {
    path.ends_with(".m3u8") || path.ends_with(".mpd")
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "m3u8" => "application/vnd.apple.mpegurl",
        "mpd" => "application/dash+xml",
        "ts" => "video/mp2t",
        "m4s" => "video/iso.segment",
        "mp4" => "video/mp4",
        "vtt" => "text/vtt",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        let cut = |text, length| parse_range(text).map(|asked| cut_range(asked, length));
        assert_eq!(cut("bytes=0-", 10), Some(Some((0, 9))));
        assert_eq!(cut("bytes=2-3", 10), Some(Some((2, 3))));
        assert_eq!(cut("bytes=2-99", 10), Some(Some((2, 9))));
        assert_eq!(cut("bytes=-4", 10), Some(Some((6, 9))));
        assert_eq!(cut("bytes=-40", 10), Some(Some((0, 9))));
        assert_eq!(cut("bytes=10-", 10), Some(None));
        assert_eq!(cut("bytes=-0", 10), Some(None));
        assert_eq!(cut("bytes=-", 10), None);
        assert_eq!(cut("lines=1-2", 10), None);
    }
}
