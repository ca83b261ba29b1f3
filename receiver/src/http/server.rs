//! Connections of players: bounded in number, time and memory; finished properly at the end.

use super::body::Body;
use super::{Ends, Front};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Until a request's headers are complete, idle time of a kept connection included.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);
/// At the end, running responses get this long.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// Data that a peer does not take for this long ends the connection: it holds memory of the store.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// Bytes of headers, and of what is read ahead.
const HEADER_BYTES: usize = 64 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// After an error of accept (no more file descriptors): until the next attempt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `stop`; then stops accepting and finishes running responses, for 10 s at most.
pub async fn serve(listener: TcpListener, front: Arc<Front>, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(front.options.connections.max(1)));
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!(error = %e, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((stream, ends)) = prepared(stream) else { continue };
        let front = front.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let front = front.clone();
            async move { Ok::<hyper::Response<Body>, Infallible>(front.handle(request, ends).await) }
        });
        let connection = graceful.watch(http(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // Errors here are the peer's, or a body that could not be completed.
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "connection");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(FINISH_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some responses were not finished within {FINISH_WITHIN:?}");
    }
}

fn http<S>(io: TokioIo<TcpStream>, service: S) -> http1::Connection<TokioIo<TcpStream>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(io, service)
}

/// Options of an accepted connection, and its ends. `None`: it is gone already.
fn prepared(stream: TcpStream) -> Option<(TcpStream, Ends)> {
    let ends = Ends { peer: plain(stream.peer_addr().ok()?), local: plain(stream.local_addr().ok()?) };
    // Neither is needed for correct answers.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(STALLED_AFTER));
    Some((stream, ends))
}

/// IPv4 addresses as such, on a socket for both families too.
fn plain(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}
