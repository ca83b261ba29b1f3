//! The page at `/`, its assets, and what it asks for: `/api/status`, `/api/history`, `/api/events` (server-sent events, one
//! snapshot a second), `/api/doctor`. Everything is in the binary; the page loads nothing from elsewhere.

use crate::doctor::Report;
use crate::http::Extra;
use crate::http::body::{Body, BodyError, BoxFuture};
use crate::snapshot::Observe;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, request};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const INDEX: &str = include_str!("../web/index.html");
const SCRIPT: &str = include_str!("../web/app.js");
const PLOTS: &str = include_str!("../web/plots.js");
const STYLE: &str = include_str!("../web/style.css");
const ICON: &str = include_str!("../web/icon.svg");
/// Compressed; empty where npm was missing at build time.
const HLS_JS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hls.js.gz"));
const DASH_JS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dash.js.gz"));

/// Nothing from elsewhere; media and workers from blobs, as players need.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; \
                      frame-ancestors 'self'; base-uri 'none'; form-action 'none'";
/// Pages that may listen at a time: each costs a snapshot a second.
const LISTENERS: usize = 64;
/// Between two snapshots of a page.
const STEP: Duration = Duration::from_secs(1);
/// A diagnosis is shared by those who ask within this time.
const DIAGNOSIS_AGE: Duration = Duration::from_secs(5);

/// The page. One per process.
pub struct Page {
    observe: Arc<dyn Observe>,
    listeners: Arc<AtomicUsize>,
    diagnosis: Arc<Mutex<Option<(Instant, Report)>>>,
    stop: CancellationToken,
}

impl Page {
    /// `stop`: ends event streams, so that shutdown need not wait for them.
    pub fn new(observe: Arc<dyn Observe>, stop: CancellationToken) -> Arc<Page> {
        Arc::new(Page { observe, listeners: Arc::default(), diagnosis: Arc::default(), stop })
    }

    fn events(&self) -> Response<Body> {
        let slot = Slot(self.listeners.clone());
        if self.listeners.fetch_add(1, Ordering::Relaxed) >= LISTENERS {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open; close one and reload\n");
        }
        let mut ticks = interval(STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (observe, stop) = (self.observe.clone(), self.stop.clone());
        let body = Body::unfold((ticks, slot), move |(mut ticks, slot)| {
            let (observe, stop) = (observe.clone(), stop.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(None),
                    _ = ticks.tick() => {
                        let json = serde_json::to_string(&observe.snapshot()).map_err(|e| BodyError(e.to_string()))?;
                        Ok(Some((Bytes::from(format!("data: {json}\n\n")), (ticks, slot))))
                    }
                }
            }
        });
        answer(body, "text/event-stream", "no-store")
    }
}

/// A place among the listeners; given back when the connection ends.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Extra for Page {
    fn answer(&self, request: &request::Parts, _: SocketAddr) -> BoxFuture<'static, Option<Response<Body>>> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return ready(plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"));
        }
        match request.uri.path() {
            "/" => ready(text(INDEX, "text/html; charset=utf-8")),
            "/assets/app.js" => ready(text(SCRIPT, "text/javascript; charset=utf-8")),
            "/assets/plots.js" => ready(text(PLOTS, "text/javascript; charset=utf-8")),
            "/assets/style.css" => ready(text(STYLE, "text/css; charset=utf-8")),
            "/assets/icon.svg" => ready(text(ICON, "image/svg+xml")),
            "/favicon.ico" => ready(plain(StatusCode::NO_CONTENT, "")),
            "/assets/hls.js" => ready(player(HLS_JS)),
            "/assets/dash.js" => ready(player(DASH_JS)),
            "/api/status" => ready(json(&self.observe.snapshot())),
            "/api/history" => ready(json(&self.observe.history())),
            "/api/events" if request.method == Method::GET => ready(self.events()),
            "/api/doctor" => {
                let (observe, cell) = (self.observe.clone(), self.diagnosis.clone());
                Box::pin(async move { Some(diagnose(observe, &cell).await) })
            }
            _ => Box::pin(async { None }),
        }
    }
}

async fn diagnose(observe: Arc<dyn Observe>, cell: &Mutex<Option<(Instant, Report)>>) -> Response<Body> {
    let mut last = cell.lock().await;
    let fresh =
        last.as_ref().filter(|(at, _)| at.elapsed() < DIAGNOSIS_AGE).map(|(_, report)| report.clone());
    let report = match fresh {
        Some(report) => report,
        None => match tokio::task::spawn_blocking(move || observe.diagnose()).await {
            Ok(report) => report,
            Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR, "the diagnosis did not finish\n"),
        },
    };
    *last = Some((Instant::now(), report.clone()));
    json(&report)
}

fn ready(response: Response<Body>) -> BoxFuture<'static, Option<Response<Body>>> {
    Box::pin(std::future::ready(Some(response)))
}

fn answer(body: Body, content_type: &'static str, cache: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn text(text: &'static str, content_type: &'static str) -> Response<Body> {
    // A new version of the program brings a new page: browsers ask each time.
    answer(Body::from(Bytes::from_static(text.as_bytes())), content_type, "no-cache")
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => answer(Body::from(Bytes::from(bytes)), "application/json", "no-store"),
        Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
    }
}

fn plain(status: StatusCode, message: &str) -> Response<Body> {
    let mut response = answer(Body::from(message.to_owned()), "text/plain; charset=utf-8", "no-store");
    *response.status_mut() = status;
    response
}

/// A player, compressed as it is stored: every browser that plays takes gzip.
fn player(compressed: &'static [u8]) -> Response<Body> {
    if compressed.is_empty() {
        return plain(
            StatusCode::NOT_FOUND,
            "this program was built without npm, so it has no player of its own; install npm and build again\n",
        );
    }
    let mut response = answer(
        Body::from(Bytes::from_static(compressed)),
        "text/javascript; charset=utf-8",
        "public, max-age=86400",
    );
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{History, Snapshot};
    use http_body_util::BodyExt as _;

    struct Still;

    impl Observe for Still {
        fn snapshot(&self) -> Snapshot {
            Snapshot { version: "1.2.3".into(), ..Snapshot::default() }
        }
        fn history(&self) -> History {
            History::default()
        }
        fn diagnose(&self) -> Report {
            Report::default()
        }
    }

    async fn get(page: &Page, method: Method, path: &str) -> Option<Response<Body>> {
        let request = http::Request::builder().method(method).uri(path).body(()).expect("request");
        page.answer(&request.into_parts().0, ([127, 0, 0, 1], 1).into()).await
    }

    #[tokio::test]
    async fn everything_the_page_names_is_there() {
        let page = Page::new(Arc::new(Still), CancellationToken::new());
        let index = get(&page, Method::GET, "/").await.expect("page");
        let body = index.into_body().collect().await.expect("whole").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("UTF-8");
        let named: Vec<&str> = text.split('"').filter(|s| s.starts_with("assets/")).collect();
        assert!(named.len() >= 3, "{named:?}");
        for path in named.into_iter().chain(["api/status", "api/history", "api/doctor"]) {
            let found = get(&page, Method::GET, &format!("/{path}")).await.expect(path);
            assert_eq!(found.status(), 200, "{path}");
        }
        assert!(!text.contains("http://") && !text.contains("https://"), "no outside assets");
        assert!(get(&page, Method::GET, "/nothing").await.is_none());
        assert_eq!(get(&page, Method::POST, "/").await.expect("answer").status(), 405);
    }

    #[tokio::test(start_paused = true)]
    async fn events_come_each_second_until_shutdown() {
        let stop = CancellationToken::new();
        let page = Page::new(Arc::new(Still), stop.clone());
        let mut events = get(&page, Method::GET, "/api/events").await.expect("stream").into_body();
        for _ in 0..3 {
            let frame = events.frame().await.expect("open").expect("event");
            let text = String::from_utf8(frame.data_ref().expect("data").to_vec()).expect("UTF-8");
            assert!(text.starts_with("data: {\"version\":\"1.2.3\"") && text.ends_with("\n\n"), "{text}");
        }
        stop.cancel();
        assert!(events.frame().await.is_none());
        drop(events);
        assert_eq!(page.listeners.load(Ordering::Relaxed), 0);
    }
}
