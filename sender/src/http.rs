//! The server of the session description, `/.well-known/mahp/session.json`, `/session.xml`, `/session.sdp`, and of the repair
//! service below `/repair/`.

use crate::description::Published;
use crate::repair::{self, Service};
use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mahp_common::catalog::WELL_KNOWN_PATH;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 512;
/// From connection to the end of the request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves until dropped.
pub async fn serve(
    listener: TcpListener,
    current: watch::Receiver<Arc<Published>>,
    repair: Option<Arc<Service>>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer.ip().to_canonical(), current.clone(), repair.clone()));
                }
                Err(e) => {
                    // Out of file descriptors, mostly: it passes.
                    tracing::warn!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    current: watch::Receiver<Arc<Published>>,
    repair: Option<Arc<Service>>,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let published = current.borrow().clone();
        let repair = repair.clone();
        async move {
            Ok::<_, Infallible>(match repair {
                Some(service) if request.uri().path().starts_with(repair::http::PREFIX) => {
                    repair::http::answer(&service, peer, request).await
                }
                _ => answer(request.method(), request.uri().path(), request.headers(), &published),
            })
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(e)) = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        tracing::debug!("connection: {e}")
    }
}

fn answer(
    method: &Method,
    path: &str,
    headers: &http::HeaderMap,
    published: &Published,
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (kind, body) = match path {
        WELL_KNOWN_PATH | "/session.json" => ("application/json", &published.json),
        "/session.xml" => ("application/xml", &published.xml),
        "/session.sdp" => ("application/sdp", &published.sdp),
        "/" => return plain(StatusCode::OK, HELP),
        _ => return plain(StatusCode::NOT_FOUND, HELP),
    };
    let response = Response::builder()
        .header(CONTENT_TYPE, kind)
        .header(ETAG, &published.etag)
        .header(CACHE_CONTROL, "no-cache")
        .header(ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|t| t.trim() == published.etag));
    let response = match known {
        true => response.status(StatusCode::NOT_MODIFIED).body(Full::default()),
        false => response.body(Full::new(body.clone())),
    };
    response.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "\n"))
}

const HELP: &str = "mahp-sender\n\
    /.well-known/mahp/session.json  signed session description: give its address to mahp-receiver\n\
    /session.xml                    DVB-MABR gateway configuration\n\
    /session.sdp                    SDP\n\
    /repair/                        for receivers: symbols, object, report\n";

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
