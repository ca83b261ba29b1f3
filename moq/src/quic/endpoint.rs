//! Listening and connecting.

use super::places::Places;
use super::session::{Limits, QuicSession};
use super::stats::SessionStats;
use super::tls::{Identity, TlsError, Trust};
use crate::exchange::Exchange;
use crate::plane::{ObjectPlane as _, PlaneError};
use crate::room::Room;
use crate::wire::{ALPN, SessionCode, SetupOptions};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, Endpoint, TransportConfig, VarInt};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use url::Url;

/// Sessions of a listener at once: more are refused.
const SESSIONS: usize = 4096;
/// Connections above which a client must first show that its address is its own: what it sends may be forged until then.
const UNPROVEN: usize = SESSIONS / 4;
/// Requests of the peer at once.
const BIDI_STREAMS: u32 = 256;
/// Silence after which a session is over; half of it, and somebody says something.
const IDLE: Duration = Duration::from_secs(15);
/// Addresses of a host that are tried.
const ADDRESSES: usize = 4;
/// Between one and the next (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Alert of TLS when no protocol is common (RFC 7301), as a QUIC error code (RFC 9001 section 4.8).
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

fn transport(limits: Limits) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.max_concurrent_uni_streams(VarInt::from_u32(limits.streams));
    config.max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS));
    config.stream_receive_window(VarInt::from_u32(limits.stream_window));
    // A stream that waits for memory must not keep another from going on.
    config.receive_window(VarInt::from_u32((limits.streams + 8).saturating_mul(limits.stream_window)));
    config.keep_alive_interval(Some(IDLE / 3));
    config.max_idle_timeout(Some(VarInt::from_u32(IDLE.as_millis() as u32).into()));
    Arc::new(config)
}

fn implementation() -> Option<Bytes> {
    Some(Bytes::from_static(concat!("mahp-moq/", env!("CARGO_PKG_VERSION")).as_bytes()))
}

/// What a listener has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerStats {
    /// Sessions open now.
    pub sessions: usize,
    /// Connections that did not become a session, or were refused.
    pub failed: u64,
    /// What its sessions have carried, those that ended included.
    pub carried: SessionStats,
    /// Bytes made or got for those who asked, which have not taken them yet.
    pub held_bytes: usize,
}

/// Accepts sessions and answers them from an exchange.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    places: Places,
    sessions: Mutex<HashMap<usize, QuicSession>>,
    ended: Mutex<SessionStats>,
    failed: AtomicU64,
}

impl Listener {
    /// Binds and begins to accept. Must be called inside a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        identity: &Identity,
        exchange: Arc<Exchange>,
        limits: Limits,
    ) -> io::Result<Listener> {
        let tls = identity.server_config().map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport(limits));
        let endpoint = Endpoint::server(config, address)?;
        let shared = Arc::new(Shared {
            places: Places::new(limits),
            sessions: Mutex::default(),
            ended: Mutex::default(),
            failed: AtomicU64::new(0),
        });
        tokio::spawn(accept(endpoint.clone(), shared.clone(), exchange, limits));
        Ok(Listener { endpoint, shared })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// What it has done.
    pub fn stats(&self) -> ListenerStats {
        let sessions = self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let carried = sessions.values().map(QuicSession::stats).fold(ended, SessionStats::with);
        ListenerStats {
            sessions: sessions.len(),
            failed: self.shared.failed.load(Ordering::Relaxed),
            carried,
            held_bytes: self.shared.places.held(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"shutting down");
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>, exchange: Arc<Exchange>, limits: Limits) {
    while let Some(incoming) = endpoint.accept().await {
        let open = endpoint.open_connections();
        if open > SESSIONS {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
            continue;
        }
        if open > UNPROVEN && incoming.may_retry() && !incoming.remote_address_validated() {
            // An error says that it has been asked before.
            let _ = incoming.retry();
            continue;
        }
        let (shared, exchange) = (shared.clone(), exchange.clone());
        tokio::spawn(async move {
            let peer = incoming.remote_address();
            let Err(reason) = session(incoming, &shared, exchange, limits).await else { return };
            shared.failed.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%peer, %reason, "moq: no session with a client");
        });
    }
}

async fn session(
    incoming: quinn::Incoming,
    shared: &Shared,
    exchange: Arc<Exchange>,
    limits: Limits,
) -> Result<(), PlaneError> {
    let conn = incoming.await.map_err(|e| PlaneError::Closed(e.to_string()))?;
    let id = conn.stable_id();
    let Some(place) = shared.places.enter(conn.remote_address().ip()) else {
        // The draft has no code of its own for this.
        conn.close(VarInt::from_u32(SessionCode::Unauthorized as u32), b"too many sessions of this address");
        return Err(PlaneError::Closed("too many sessions of this address".into()));
    };
    let setup = SetupOptions { implementation: implementation(), ..SetupOptions::default() };
    let session = QuicSession::start(conn, setup, exchange, (limits, place.room())).await?;
    shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, session.clone());
    let reason = session.closed().await;
    tracing::debug!(%reason, "moq: session ended");
    shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    let ended = &mut *shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
    *ended = ended.with(session.stats());
    Ok(())
}

/// `moqt://host:port/path?query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoqtUrl {
    host: String,
    port: u16,
    path: String,
}

/// Reads a `moqt:` URL; the words of an error are for people.
pub fn parse_url(text: &str) -> Result<MoqtUrl, String> {
    let url = Url::parse(text).map_err(|e| format!("`{text}`: {e}"))?;
    if url.scheme() != "moqt" {
        return Err(format!("`{text}`: use moqt://host:port/"));
    }
    let host = url.host_str().ok_or_else(|| format!("`{text}` has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
    Ok(MoqtUrl { host, port: url.port().unwrap_or(443), path: format!("{}{query}", url.path()) })
}

impl MoqtUrl {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Opens sessions.
#[derive(Clone, Debug)]
pub struct Connector {
    v4: Endpoint,
    v6: Option<Endpoint>,
    config: quinn::ClientConfig,
    limits: Limits,
}

impl Connector {
    /// With this trust. Must be called inside a tokio runtime.
    pub fn new(trust: &Trust, limits: Limits) -> Result<Connector, TlsError> {
        let unusable = |e: String| TlsError::Unusable(e);
        let crypto =
            QuicClientConfig::try_from(trust.client_config()?).map_err(|e| unusable(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport(limits));
        let bind = |ip: IpAddr| Endpoint::client(SocketAddr::new(ip, 0));
        let v4 = bind(Ipv4Addr::UNSPECIFIED.into()).map_err(|e| unusable(e.to_string()))?;
        // A host without IPv6 has no such socket.
        let v6 = bind(Ipv6Addr::UNSPECIFIED.into()).ok();
        Ok(Connector { v4, v6, config, limits })
    }

    /// A connection to whichever answers first; each is tried a moment after the one before it.
    async fn reach_one_of(
        &self,
        url: &MoqtUrl,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Result<quinn::Connection, String> {
        let mut attempts = JoinSet::new();
        for (after, address) in (0..).zip(addresses) {
            let (connector, host) = (self.clone(), url.host.clone());
            attempts.spawn(async move {
                tokio::time::sleep(STAGGER * after).await;
                connector.reach(&host, address).await
            });
        }
        let mut answer = Err("no address".to_owned());
        while let Some(attempt) = attempts.join_next().await {
            answer = attempt.map_err(|e| e.to_string()).flatten();
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    async fn reach(&self, host: &str, address: SocketAddr) -> Result<quinn::Connection, String> {
        let endpoint = self.v6.as_ref().filter(|_| address.is_ipv6()).unwrap_or(&self.v4);
        let connecting = endpoint.connect_with(self.config.clone(), address, host);
        let connecting = connecting.map_err(|e| e.to_string())?;
        let connected = tokio::time::timeout(self.limits.setup_timeout, connecting).await;
        connected.map_err(|_| format!("{address} does not answer"))?.map_err(|e| connect_error(&e))
    }

    /// Opens a session, at the first address of the host that answers; the peer's requests are answered from `exchange`.
    pub async fn connect(&self, url: &MoqtUrl, exchange: Arc<Exchange>) -> Result<QuicSession, PlaneError> {
        let unreachable = |e: String| PlaneError::Closed(format!("{}: {e}", url.authority()));
        let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await;
        let found = found.map_err(|e| unreachable(e.to_string()))?;
        let usable = found.filter(|a| a.is_ipv4() || self.v6.is_some()).take(ADDRESSES);
        let conn = self.reach_one_of(url, usable).await.map_err(unreachable)?;
        let setup = SetupOptions {
            path: Some(url.path.clone().into()),
            authority: Some(url.authority().into()),
            implementation: implementation(),
        };
        // A peer that we went to is one only.
        let room = Room::new(self.limits.address_bytes);
        QuicSession::start(conn, setup, exchange, (self.limits, room)).await
    }
}

/// Opens a session with the server at `url`, `moqt://host:port/path`. A fragment `#sha256=…` pins its certificate; without it,
/// the public certificate authorities are believed.
pub async fn open(url: &Url, exchange: Arc<Exchange>, limits: Limits) -> Result<QuicSession, PlaneError> {
    let failed = |e: String| PlaneError::Closed(e);
    let pin = url.fragment().and_then(|f| f.strip_prefix("sha256=")).map(str::parse).transpose();
    let pin = pin.map_err(|e: TlsError| failed(e.to_string()))?;
    let trust = pin.map_or(Trust::Public, |pin| Trust::Fingerprints(vec![pin]));
    let connector = Connector::new(&trust, limits).map_err(|e| failed(e.to_string()))?;
    connector.connect(&parse_url(url.as_str()).map_err(failed)?, exchange).await
}

fn connect_error(e: &ConnectionError) -> String {
    let code = match e {
        ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        ConnectionError::TransportError(error) => Some(u64::from(error.code)),
        _ => None,
    };
    if code == Some(NO_APPLICATION_PROTOCOL) {
        tracing::warn!(offered = ?[ALPN], "moq: the server speaks another draft or another protocol");
        return format!("the server does not speak {ALPN}, the only protocol we offer");
    }
    e.to_string()
}
