//! A scripted origin, and a sink that keeps a list.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::Fetcher;
use mahp_sender::origin::{Origin, Whole};
use mahp_sender::plan::MOST_AT_START;
use mahp_sender::sink::{Item, ObjectSink, PutFuture};
use mahp_sender::status::RenditionStatus;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What the origin answers for a path.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) delay: Duration,
    /// Answer 206 to ranges.
    pub(crate) ranges: bool,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Reply {
        Reply { status: 200, headers: Vec::new(), body: body.into(), delay: Duration::ZERO, ranges: true }
    }

    pub(crate) fn status(status: u16) -> Reply {
        Reply { status, ..Reply::ok("") }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn after(self, delay: Duration) -> Reply {
        Reply { delay, ..self }
    }
}

#[derive(Default)]
struct State {
    /// By path with query: the next replies, the last one stays.
    replies: HashMap<String, Vec<Reply>>,
    requests: Vec<(String, HeaderMap)>,
}

/// A web server on loopback that follows a script.
pub(crate) struct ScriptedOrigin {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _server: JoinSet<()>,
}

impl ScriptedOrigin {
    pub(crate) async fn start() -> ScriptedOrigin {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address");
        let state: Arc<Mutex<State>> = Arc::default();
        let mut server = JoinSet::new();
        let shared = state.clone();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(state.clone(), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        ScriptedOrigin { address, state, _server: server }
    }

    pub(crate) fn url(&self, path: &str) -> url::Url {
        format!("http://{}{path}", self.address).parse().expect("url")
    }

    /// From now on, `path` is answered like this.
    pub(crate) fn set(&self, path: &str, reply: Reply) {
        self.sequence(path, vec![reply]);
    }

    /// From now on, `path` is answered like this, one after the other; the last one stays.
    pub(crate) fn sequence(&self, path: &str, mut replies: Vec<Reply>) {
        replies.reverse();
        self.state.lock().expect("state").replies.insert(path.to_owned(), replies);
    }

    /// How often a path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.state.lock().expect("state").requests.iter().filter(|(p, _)| p == path).count()
    }

    /// All requests in order.
    pub(crate) fn requests(&self) -> Vec<(String, HeaderMap)> {
        self.state.lock().expect("state").requests.clone()
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path_and_query().map_or("/".into(), |p| p.to_string());
    let reply = {
        let mut state = state.lock().expect("state");
        state.requests.push((path.clone(), request.headers().clone()));
        match state.replies.get_mut(&path) {
            Some(replies) if replies.len() > 1 => replies.pop().expect("one"),
            Some(replies) => replies[0].clone(),
            None => Reply::status(404),
        }
    };
    tokio::time::sleep(reply.delay).await;
    Ok(respond(&reply, request.headers()))
}

fn respond(reply: &Reply, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut builder = Response::builder();
    for (name, value) in &reply.headers {
        builder = builder.header(*name, value);
    }
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let etag = reply.headers.iter().find(|(n, _)| *n == "etag").map(|(_, v)| v.as_str());
    if etag.is_some() && header("if-none-match") == etag {
        return builder.status(304).body(Full::default()).expect("304");
    }
    let range = header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    if let Some((first, last)) = range.filter(|_| reply.ranges && reply.status == 200) {
        let (first, last): (usize, usize) = (first.parse().expect("first"), last.parse().expect("last"));
        if first >= reply.body.len() {
            return builder.status(416).body(Full::default()).expect("416");
        }
        let last = last.min(reply.body.len() - 1);
        let body = Bytes::copy_from_slice(&reply.body[first..=last]);
        let content_range = format!("bytes {first}-{last}/{}", reply.body.len());
        return builder
            .status(206)
            .header("content-range", content_range)
            .body(Full::new(body))
            .expect("206");
    }
    builder.status(reply.status).body(Full::new(Bytes::from(reply.body.clone()))).expect("reply")
}

/// Keeps what is put.
#[derive(Clone, Default)]
pub(crate) struct ListSink(pub(crate) Arc<Mutex<Vec<Item>>>);

impl ObjectSink for ListSink {
    fn put(&self, item: Item) -> PutFuture {
        self.0.lock().expect("list").push(item);
        Box::pin(std::future::ready(()))
    }
}

impl ListSink {
    /// What was put for the first time: paths (with query and range), in order. Repeats are left out.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.lock().expect("list").iter().filter(|i| !i.repeat).map(path_of).collect()
    }

    /// Without playlists.
    pub(crate) fn media(&self) -> Vec<String> {
        self.paths().into_iter().filter(|p| !p.contains(".m3u8") && !p.contains(".mpd")).collect()
    }

    pub(crate) fn items(&self) -> Vec<Item> {
        self.0.lock().expect("list").clone()
    }

    /// Waits until `done` is true of the list, at most 20 s.
    pub(crate) async fn wait(&self, what: &str, done: impl Fn(&ListSink) -> bool) {
        for _ in 0..2000 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: never; the list is {:#?}", self.paths());
    }
}

fn path_of(item: &Item) -> String {
    let url: url::Url = item.object.meta.url.parse().expect("url");
    let path = match url.query() {
        Some(q) => format!("{}?{q}", url.path()),
        None => url.path().to_owned(),
    };
    match item.object.meta.range {
        Some(r) => format!("{path}#{}-{}", r.first, r.last),
        None => path,
    }
}

/// An origin handle with its counters.
pub(crate) fn origin() -> (Origin, Arc<RenditionStatus>) {
    let status: Arc<RenditionStatus> = Arc::default();
    (
        Origin {
            fetcher: Fetcher::new("mahp-sender/test"),
            clock: Clock::new(),
            status: status.clone(),
            token_parameters: Arc::new([]),
            segments_at_start: MOST_AT_START,
            whole: Whole::default(),
        },
        status,
    )
}

/// A live media playlist: segments `first..=last`, `EXTRA` lines before a segment where given.
pub(crate) fn playlist(first: u64, last: u64, extra: &[(u64, &str)]) -> String {
    let extra: BTreeMap<u64, &str> = extra.iter().copied().collect();
    let mut out =
        format!("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    for n in first..=last {
        if let Some(line) = extra.get(&n) {
            out.push_str(line);
            out.push('\n');
        }
        out.push_str(&format!("#EXTINF:1.0,\nseg{n}.ts\n"));
    }
    out
}

/// Sets segments `first..=last` of `folder`.
pub(crate) fn segments(origin: &ScriptedOrigin, folder: &str, first: u64, last: u64) {
    for n in first..=last {
        origin.set(
            &format!("{folder}/seg{n}.ts"),
            Reply::ok(format!("segment {n}")).header("content-type", "video/mp2t"),
        );
    }
}
