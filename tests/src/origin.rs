//! A web server for test content: static files with ranges and validators, an access log, and switches that break it on purpose.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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
}

struct Shared {
    root: PathBuf,
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
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            root: root.to_path_buf(),
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
    let response = respond(shared, request.method(), request.uri().path(), request.headers());
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    shared.log.lock().expect("no holder of the log panics").push(Access {
        path: request.uri().to_string(),
        range: text(header::RANGE),
        agent: text(header::USER_AGENT).unwrap_or_default(),
        status: response.status().as_u16(),
        bytes: http_body::Body::size_hint(response.body()).exact().unwrap_or(0) as usize,
    });
    response
}

fn respond(shared: &Shared, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
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
    let Some((mut body, tag)) = read(&shared.root, path) else {
        return empty(builder, StatusCode::NOT_FOUND);
    };
    let flipped = shared.flipped.lock().expect("no holder panics");
    if let (Some(part), Some(last)) = (flipped.as_deref(), body.last_mut())
        && path.contains(part)
    {
        *last ^= 1;
    }
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

/// A file's bytes and strong validator; `None` when there is no such file below `root`.
fn read(root: &Path, path: &str) -> Option<(Vec<u8>, String)> {
    let relative = path.trim_start_matches('/');
    if relative.split('/').any(|part| part == "..") {
        return None;
    }
    let file = root.join(relative);
    let modified =
        file.metadata().ok().filter(|data| data.is_file())?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let body = std::fs::read(&file).ok()?;
    let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let tag = format!("\"{:x}-{age:x}\"", body.len());
    Some((body, tag))
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
