//! The admin server of both programs: `/metrics`, `/healthz`, `/readyz`, `/api/status`, and `POST /api/reload`. Loopback unless
//! told otherwise; the `Host` header must be an address or `localhost` (DNS rebinding), and pages of other sites cannot POST.

use crate::error::StartupError;
use crate::guard;
use crate::listen;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What the program tells about itself.
pub trait Status: Send + Sync + 'static {
    /// The body of `/api/status`.
    fn status(&self) -> serde_json::Value;
    /// Why it is not ready; empty = ready. `/readyz` answers 503 with these.
    fn not_ready(&self) -> Vec<String>;
    /// Called before `/metrics` is rendered, to set gauges.
    fn before_metrics(&self) {}
    /// Whether `/metrics` shows this line: what something counted that is no longer there is left out.
    fn shows_metric(&self, line: &str) -> bool {
        let _ = line;
        true
    }
    /// Other paths: (status, content type, body).
    fn extra(&self, path: &str) -> Option<(u16, &'static str, Vec<u8>)> {
        let _ = path;
        None
    }
}

/// The heartbeat may be this old before `/healthz` answers 503.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A connection whose request headers take longer is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Running answers may take this long after `stop`.
const DRAIN: Duration = Duration::from_secs(2);
/// Upper bounds of histogram buckets in seconds: from a packet's decoding to a player's patience.
const BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
const PATHS: [&str; 5] = ["/metrics", "/healthz", "/readyz", "/api/status", "/api/reload (POST)"];
const RELOAD: &str = "/api/reload";

/// Installs the Prometheus recorder of this process (once) and returns its handle. Histograms named `…_seconds` have buckets
/// from 1 ms to 60 s. If another recorder is installed, the handle renders nothing.
pub fn install_metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
                .expect("there are buckets")
                .build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed: /metrics will be empty");
            }
            handle
        })
        .clone()
}

/// What a program's metrics mean: names and words.
#[derive(Clone, Copy, Debug)]
pub struct Meanings {
    /// Counters.
    pub counters: &'static [(&'static str, &'static str)],
    /// Gauges.
    pub gauges: &'static [(&'static str, &'static str)],
    /// Histograms.
    pub histograms: &'static [(&'static str, &'static str)],
}

impl Meanings {
    /// Tells the recorder, for `# HELP`. After [`install_metrics`].
    pub fn tell(&self) {
        self.counters.iter().for_each(|(name, meaning)| describe_counter!(*name, *meaning));
        self.gauges.iter().for_each(|(name, meaning)| describe_gauge!(*name, *meaning));
        self.histograms.iter().for_each(|(name, meaning)| describe_histogram!(*name, *meaning));
    }
}

/// Binds and serves until `stop`. Returns the bound address. Errors: `E-PORT-IN-USE`, `E-BIND`.
pub async fn serve(
    listen: SocketAddr,
    handle: PrometheusHandle,
    status: Arc<dyn Status>,
    stop: CancellationToken,
) -> Result<SocketAddr, StartupError> {
    let (bound, server) = server(listen, handle, status, stop).await?;
    tokio::spawn(server);
    Ok(bound)
}

/// As [`serve`], for a caller that wants to know when the address is free again: the future ends after `stop`.
///
/// # Errors
/// As [`serve`].
pub async fn server(
    listen: SocketAddr,
    handle: PrometheusHandle,
    status: Arc<dyn Status>,
    stop: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send), StartupError> {
    let (listener, bound) = listen::bind(listen, "the admin server", "--admin")?;
    let heart = Arc::new(Heart::default());
    tokio::spawn(beat(heart.clone(), handle.clone(), stop.clone()));
    let admin = Arc::new(Admin { handle, status, heart });
    Ok((bound, accept(listener, admin, stop)))
}

/// When the runtime last turned.
struct Heart(Mutex<Instant>);

impl Default for Heart {
    fn default() -> Self {
        Heart(Mutex::new(Instant::now()))
    }
}

impl Heart {
    fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

async fn beat(heart: Arc<Heart>, handle: PrometheusHandle, stop: CancellationToken) {
    let mut tick = tokio::time::interval(HEARTBEAT);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        heart.beat();
        handle.run_upkeep(); // moves histogram samples into buckets, or they pile up between scrapes
    }
}

struct Admin {
    handle: PrometheusHandle,
    status: Arc<dyn Status>,
    heart: Arc<Heart>,
}

async fn accept(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => serve_connection(stream, admin.clone(), &graceful),
            Err(e) => {
                // Out of file descriptors, most likely: give others time to close some.
                tracing::warn!(error = %e, "admin server: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

fn serve_connection(stream: TcpStream, admin: Arc<Admin>, graceful: &GracefulShutdown) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(&request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let watched = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(e) = watched.await {
            tracing::debug!(error = %e, "admin connection");
        }
    });
}

type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Admin {
    async fn answer<B>(&self, request: &Request<B>) -> Answer {
        if !host_is_local(request) {
            return answer(403, TEXT, "the Host header must be an IP address or localhost\n");
        }
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            RELOAD if *request.method() == Method::POST => reload(request).await,
            RELOAD => not_allowed("POST"),
            _ if !reading => not_allowed("GET, HEAD"),
            path => self.page(path),
        }
    }

    fn page(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {
                self.status.before_metrics();
                let mut text = String::new();
                let all = self.handle.render();
                let shown = all.split_inclusive('\n').filter(|line| self.status.shows_metric(line));
                shown.for_each(|line| text.push_str(line));
                answer(200, PROMETHEUS, text + &crate::process::metrics())
            }
            "/healthz" => self.health(),
            "/readyz" => self.readiness(),
            "/api/status" => answer(200, JSON, json(&self.status.status())),
            other => match self.status.extra(other) {
                Some((status, kind, body)) => answer(status, kind, body),
                None => answer(404, TEXT, format!("no such page; there are: {}\n", PATHS.join(" "))),
            },
        }
    }

    fn health(&self) -> Answer {
        let age = self.heart.age();
        if age <= HEARTBEAT_LIMIT {
            answer(200, TEXT, "ok\n")
        } else {
            answer(503, TEXT, format!("the event loop has not turned for {:.1} s\n", age.as_secs_f64()))
        }
    }

    fn readiness(&self) -> Answer {
        let reasons = self.status.not_ready();
        let status = if reasons.is_empty() { 200 } else { 503 };
        answer(status, JSON, json(&serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons })))
    }
}

/// Reads the configuration again, for programs on this machine and not for pages of other sites that a browser here shows.
async fn reload<B>(request: &Request<B>) -> Answer {
    if request.headers().contains_key(ORIGIN) {
        return answer(403, TEXT, "web pages cannot do this: use curl -X POST\n");
    }
    match crate::shutdown::ask_to_reload().await {
        Ok(()) => answer(200, JSON, json(&serde_json::json!({ "reloaded": true }))),
        Err(e) => {
            let error = serde_json::json!({ "code": e.code, "message": e.message, "try": e.hint });
            let status = if e.code == "E-RELOAD" { 503 } else { 400 };
            answer(status, JSON, json(&serde_json::json!({ "reloaded": false, "error": error })))
        }
    }
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut refusal = answer(405, TEXT, format!("only {methods}\n"));
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    refusal
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    let mut body = value.to_string().into_bytes();
    body.push(b'\n');
    body
}

fn answer(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A page of another site can make a browser ask us under a name of its own that resolves to us; it cannot use an address.
fn host_is_local<B>(request: &Request<B>) -> bool {
    let header = request.headers().get(HOST).map(HeaderValue::to_str);
    let host = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(Ok(host))) => host,
        (None, Some(Err(_))) => return false,
        // HTTP/1.0; no browser.
        (None, None) => return request.version() < http::Version::HTTP_11,
    };
    guard::host_name(host).is_some_and(|name| guard::is_address_or_localhost(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Status for Nothing {
        fn status(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn not_ready(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn a_heart_that_stopped_is_unhealthy() {
        let handle = PrometheusBuilder::new().build_recorder().handle();
        let admin = Admin { handle, status: Arc::new(Nothing), heart: Arc::new(Heart::default()) };
        assert_eq!(admin.health().status(), 200);
        let long_ago = Instant::now().checked_sub(HEARTBEAT_LIMIT + HEARTBEAT).unwrap();
        *admin.heart.0.lock().unwrap() = long_ago;
        assert_eq!(admin.health().status(), 503);
        admin.heart.beat();
        assert_eq!(admin.health().status(), 200);
    }
}
