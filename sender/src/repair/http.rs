//! The repair service by HTTP: `/repair/symbols`, `/repair/object`, `/repair/report`.

use super::ask::{SymbolsAsk, object_id, one_range};
use super::{Busy, Service};
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use mahp_common::fec::EncodeJob;
use mahp_common::repair::report::REPORT_BYTES;
use mahp_common::repair::{OBJECT_PATH, REPORT_PATH, SYMBOLS_PATH};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where the service stands on the sender's HTTP server.
pub const PREFIX: &str = "/repair/";
/// Longest wait for a free encoder.
const ENCODER_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for the body of a report.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Answers a request below [`PREFIX`].
pub async fn answer(service: &Arc<Service>, peer: IpAddr, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    match path.as_str() {
        SYMBOLS_PATH if reading => symbols(service, peer, request.uri().query().unwrap_or_default()).await,
        OBJECT_PATH if reading => {
            object(service, peer, request.uri().query().unwrap_or_default(), request.headers())
        }
        REPORT_PATH if *request.method() == Method::POST => report(service, peer, request.into_body()).await,
        SYMBOLS_PATH | OBJECT_PATH => not_allowed("GET, HEAD"),
        REPORT_PATH => not_allowed("POST"),
        _ => text(StatusCode::NOT_FOUND, "there are symbols, object and report\n"),
    }
}

async fn symbols(service: &Arc<Service>, peer: IpAddr, query: &str) -> Answer {
    let Some(ask) = SymbolsAsk::parse(query) else {
        service.invalid();
        return text(StatusCode::BAD_REQUEST, "give tsi, toi, sbn, from and count, in digits\n");
    };
    let Some(kept) = service.get(ask.id) else { return unknown() };
    let Some(code) = kept.code else {
        service.invalid();
        return text(StatusCode::BAD_REQUEST, "this object has no repair symbols: ask for its bytes\n");
    };
    if let Err(why) = ask.check(&code) {
        service.invalid();
        return text(StatusCode::BAD_REQUEST, format!("{why}\n"));
    }
    let bytes = u64::from(ask.count) * u64::from(code.symbol_size());
    if let Err(spent) = service.spend(peer, bytes) {
        return busy(spent);
    }
    let Some(job) = EncodeJob::of_object(ask.id.toi, &kept.data, &code, ask.sbn, ask.from, ask.count) else {
        return text(StatusCode::BAD_REQUEST, "no such symbols\n");
    };
    match encode(service, job).await {
        Some(body) if body.len() as u64 == bytes => binary(body),
        Some(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the encoder failed\n"),
        None => busy(Busy { spent: mahp_common::repair::budget::Spent::Global, after: ENCODER_TIMEOUT }),
    }
}

/// On a thread for blocking work. `None`: no encoder is free.
async fn encode(service: &Service, job: EncodeJob) -> Option<Bytes> {
    let free = tokio::time::timeout(ENCODER_TIMEOUT, service.encoders().acquire_owned()).await;
    let permit = free.ok()?.ok()?;
    let work = move || {
        let repair = job.run().repair;
        drop(permit);
        let mut body = Vec::with_capacity(repair.iter().map(|(_, s)| s.len()).sum());
        repair.iter().for_each(|(_, symbol)| body.extend_from_slice(symbol));
        Bytes::from(body)
    };
    tokio::task::spawn_blocking(work).await.ok()
}

fn object(service: &Service, peer: IpAddr, query: &str, headers: &HeaderMap) -> Answer {
    let Some(id) = object_id(query) else {
        service.invalid();
        return text(StatusCode::BAD_REQUEST, "give tsi and toi, in digits\n");
    };
    let Some(kept) = service.get(id) else { return unknown() };
    let length = kept.data.len();
    let range = match headers.get(http::header::RANGE).map(|v| one_range(v.to_str().ok()?, length)) {
        None => None,
        Some(Some(range)) => Some(range),
        Some(None) => {
            service.invalid();
            let mut refusal = text(StatusCode::RANGE_NOT_SATISFIABLE, "give one range within the object\n");
            set(&mut refusal, CONTENT_RANGE, &format!("bytes */{length}"));
            return refusal;
        }
    };
    let (first, end) = range.map_or((0, length), |(first, last)| (first, last + 1));
    if let Err(spent) = service.spend(peer, (end - first) as u64) {
        return busy(spent);
    }
    let mut answer = binary(kept.data.slice(first..end));
    if range.is_some() {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut answer, CONTENT_RANGE, &format!("bytes {first}-{}/{length}", end - 1));
    }
    set(&mut answer, ACCEPT_RANGES, "bytes");
    if let Some(kind) = &kept.content_type {
        set(&mut answer, CONTENT_TYPE, kind);
    }
    answer
}

async fn report(service: &Arc<Service>, peer: IpAddr, body: Incoming) -> Answer {
    if let Err(spent) = service.may_report(peer) {
        return busy(spent);
    }
    let collect = Limited::new(body, REPORT_BYTES).collect();
    let Ok(Ok(body)) = tokio::time::timeout(BODY_TIMEOUT, collect).await else {
        service.invalid();
        return text(StatusCode::PAYLOAD_TOO_LARGE, "a report has at most 16 KiB and comes at once\n");
    };
    match service.report(peer, &body.to_bytes()) {
        Ok(answer) => {
            let mut response = binary(answer.to_json().into());
            set(&mut response, CONTENT_TYPE, "application/json");
            set(&mut response, CACHE_CONTROL, "no-store");
            response
        }
        Err(why) => text(StatusCode::BAD_REQUEST, format!("report refused: {why}\n")),
    }
}

fn unknown() -> Answer {
    text(StatusCode::NOT_FOUND, "no such object, or it was sent too long ago\n")
}

fn busy(busy: Busy) -> Answer {
    let mut answer =
        text(StatusCode::SERVICE_UNAVAILABLE, "the repair budget is spent: come again, or ask the origin\n");
    set(&mut answer, RETRY_AFTER, &busy.after.as_secs_f64().ceil().max(1.0).to_string());
    answer
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("{methods}\n"));
    set(&mut answer, ALLOW, methods);
    answer
}

fn binary(body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    set(&mut answer, CONTENT_TYPE, "application/octet-stream");
    // Symbols and objects never change under their names, so caches may stand between; not for longer than TOIs are remembered.
    set(&mut answer, CACHE_CONTROL, "public, max-age=60");
    answer
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, "text/plain; charset=utf-8");
    answer
}

fn set(answer: &mut Answer, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}
