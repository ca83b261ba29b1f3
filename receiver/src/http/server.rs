//! Connections of players: bounded in number, time and memory; finished properly at the end.

use super::body::Body;
use super::lent::{self, Cut};
use super::{Ends, Front};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
    let peers = Arc::new(Peers::default());
    let looking = tokio::spawn(look_after(front.clone()));
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
        let Some(place) = peers.admit(ends.peer.ip(), front.options.connections_of_one) else {
            tracing::debug!(peer = %ends.peer, "closed: it has as many connections as one may have");
            metrics::counter!("mahp_receiver_connections_refused_total").increment(1);
            continue;
        };
        let (cut, broken) = (Cut::default(), Arc::new(AtomicBool::new(false)));
        let service = service(front.clone(), ends, cut.clone(), broken.clone());
        let connection = graceful.watch(http(TokioIo::new(Line { stream, broken }), service));
        tokio::spawn(async move {
            // Errors here are the peer's, or a body that could not be completed.
            match cut.0.run_until_cancelled(connection).await {
                Some(Ok(())) => {}
                Some(Err(e)) => tracing::debug!(error = %e, "connection"),
                None => {
                    tracing::debug!(peer = %ends.peer, "broken off: its answer kept memory that was needed")
                }
            }
            drop((slot, place));
        });
    }
    drop(listener);
    looking.abort();
    if tokio::time::timeout(FINISH_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some responses were not finished within {FINISH_WITHIN:?}");
    }
}

/// Frees memory that answers keep too long.
async fn look_after(front: Arc<Front>) {
    loop {
        tokio::time::sleep(lent::LOOK).await;
        let cut = front.lent.look();
        metrics::counter!("mahp_receiver_responses_cut_total").increment(cut as u64);
    }
}

fn service(
    front: Arc<Front>,
    ends: Ends,
    cut: Cut,
    broken: Arc<AtomicBool>,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = hyper::Response<Body>,
    Error = Infallible,
    Future: Send,
> {
    service_fn(move |mut request: hyper::Request<Incoming>| {
        let (front, broken) = (front.clone(), broken.clone());
        request.extensions_mut().insert(cut.clone());
        async move {
            let old = request.version() == hyper::Version::HTTP_10;
            let response = front.handle(request, ends).await;
            // Such a client takes the end of the connection for the end of the body.
            Ok::<_, Infallible>(if old { response.map(|body| body.telling(broken)) } else { response })
        }
    })
}

/// How many connections each peer has.
#[derive(Debug, Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a peer.
struct Place {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Peers {
    /// `None`: this one has as many as one may have. Reverse proxies on this machine stand for many.
    fn admit(self: &Arc<Self>, peer: IpAddr, most: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= most && !peer.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// A connection. If an answer broke off that only its end could tell from a whole one, it is reset instead of closed.
struct Line {
    stream: TcpStream,
    broken: Arc<AtomicBool>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Relaxed) {
            // If that fails, a short body looks whole to a client of HTTP/1.0: nothing else can be done.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn http<S>(io: TokioIo<Line>, service: S) -> http1::Connection<TokioIo<Line>, S>
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_cannot_have_all_connections() {
        let (peers, one) = (Arc::new(Peers::default()), "10.0.0.1".parse().unwrap());
        let held: Vec<Place> = (0..3).filter_map(|_| peers.admit(one, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(peers.admit("10.0.0.2".parse().unwrap(), 2).is_some());
        drop(held);
        assert!(peers.admit(one, 2).is_some());
        assert_eq!(peers.0.lock().unwrap().len(), 0, "who has none is forgotten");
        let proxy = "::1".parse().unwrap();
        let many: Vec<Place> = (0..9).filter_map(|_| peers.admit(proxy, 2)).collect();
        assert_eq!(many.len(), 9);
    }
}
