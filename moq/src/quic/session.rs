//! One session: control streams, request IDs, and where what arrives goes.

use super::answer;
use super::stats::{Counters, SessionStats};
use super::stream::{self, StreamReader};
use crate::exchange::Exchange;
use crate::plane::{Asker, Event, Object, PlaneError};
use crate::room::Room;
use crate::wire::{
    FetchDecoder, FetchRecord, Location, Message, Namespace, SessionCode, SetupOptions, StreamHeader,
    SubgroupHeader, SubgroupObject, TrackName, WireError, reset,
};
use bytes::Bytes;
use quinn::{Connection, VarInt};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Bounds of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest object, bytes: a larger one ends its stream.
    pub object_bytes: usize,
    /// Bytes of objects of one session that are under assembly, or wait for whoever asked for them: streams wait for each other
    /// above it.
    pub assembly_bytes: usize,
    /// Events waiting in one subscription or fetch: the stream waits, and with it its sender, above it.
    pub queue: usize,
    /// How long to wait for the peer's SETUP.
    pub setup_timeout: Duration,
    /// Longest a SUBSCRIBE may wait here for a publisher.
    pub rendezvous: Duration,
    /// Longest wait for the peer's answer to a request of ours.
    pub answer: Duration,
    /// Longest that a peer may leave no room in its streams for something small; for more it has as long as that takes at 2 Mbit/s.
    pub grace: Duration,
    /// Data streams of the peer at once. With `stream_window`, what a peer can make us hold unread.
    pub streams: u32,
    /// Unread bytes of one stream.
    pub stream_window: u32,
    /// Bytes made or got for one session alone, until it has taken them: requests are told to come again above it.
    pub session_bytes: usize,
    /// The same, for all sessions of an address.
    pub address_bytes: usize,
    /// The same, for all sessions of a listener.
    pub listener_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            object_bytes: 32 << 20,
            assembly_bytes: 64 << 20,
            queue: 64,
            setup_timeout: Duration::from_secs(10),
            rendezvous: Duration::from_secs(10),
            answer: Duration::from_secs(40),
            grace: Duration::from_secs(10),
            streams: 64,
            stream_window: 1 << 20,
            session_bytes: 40 << 20,
            address_bytes: 80 << 20,
            listener_bytes: 256 << 20,
        }
    }
}

impl Limits {
    /// For receivers, which have less memory than senders, and fewer who ask them.
    pub fn small() -> Limits {
        Limits {
            assembly_bytes: 40 << 20,
            streams: 32,
            stream_window: 512 << 10,
            session_bytes: 36 << 20,
            address_bytes: 36 << 20,
            listener_bytes: 72 << 20,
            ..Limits::default()
        }
    }
}

/// Data streams that may wait for their track alias to become known, and how long.
const ALIAS_WAIT: Duration = Duration::from_secs(2);
/// Aliases of ended subscriptions that are remembered, to discard what is still on its way.
const CLOSED_ALIASES: usize = 64;
/// Request IDs that may arrive before a smaller one: more is no reordering but an attack.
const REORDERED_REQUESTS: usize = 512;

/// A session, client's or server's. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct QuicSession {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) conn: Connection,
    pub(super) exchange: Arc<Exchange>,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    client: bool,
    next_request: AtomicU64,
    next_alias: AtomicU64,
    routes: Mutex<Routes>,
    routes_changed: watch::Sender<u64>,
    peer: Mutex<PeerRequests>,
    assembly: Arc<Semaphore>,
    room: Room,
}

/// Something that arrived, and the room that its bytes take until whoever asked for it has it.
#[derive(Debug)]
pub(super) struct Queued<T> {
    pub(super) what: T,
    _room: Option<OwnedSemaphorePermit>,
}

impl<T> From<T> for Queued<T> {
    fn from(what: T) -> Queued<T> {
        Queued { what, _room: None }
    }
}

/// To whoever asked.
pub(super) type Queue<T> = mpsc::Sender<Queued<T>>;

/// Where objects of an alias or a Request ID go.
#[derive(Debug, Default)]
struct Routes {
    subscriptions: HashMap<u64, Route>,
    fetches: HashMap<u64, (Queue<FetchEvent>, bool)>,
    closed: VecDeque<u64>,
}

#[derive(Clone, Debug)]
struct Route {
    events: Queue<Event>,
    streams: watch::Sender<u64>,
}

/// What arrives for a FETCH.
#[derive(Debug)]
pub(super) enum FetchEvent {
    Object(Object),
    End,
    Failed(PlaneError),
}

/// What the peer asked for, by Request ID.
#[derive(Debug, Default)]
struct PeerRequests {
    /// Every ID below this one was used.
    next: u64,
    early: BTreeSet<u64>,
    subscriptions: HashMap<u64, (TrackName, Option<Location>)>,
    prefixes: Vec<Namespace>,
}

/// A prefix of a SUBSCRIBE_NAMESPACE of the peer, while it is open.
#[derive(Debug)]
pub(super) struct OpenPrefix<'a> {
    inner: &'a Inner,
    prefix: Namespace,
}

impl Drop for OpenPrefix<'_> {
    fn drop(&mut self) {
        self.inner.peer().prefixes.retain(|p| *p != self.prefix);
    }
}

/// Unit of the assembly semaphore: permits are 32 bits.
const ASSEMBLY_UNIT: usize = 1 << 10;

fn assembly_units(limits: Limits) -> usize {
    limits.assembly_bytes.max(limits.object_bytes).div_ceil(ASSEMBLY_UNIT)
}

impl QuicSession {
    /// Starts the session on a connection and waits for the peer's SETUP. `setup`: our options. `room`: of what it is answered.
    pub(super) async fn start(
        conn: Connection,
        setup: SetupOptions,
        exchange: Arc<Exchange>,
        (limits, room): (Limits, Room),
    ) -> Result<QuicSession, PlaneError> {
        let client = conn.side() == quinn::Side::Client;
        let inner = Arc::new(Inner {
            conn,
            exchange,
            limits,
            counters: Counters::default(),
            client,
            next_request: AtomicU64::new(u64::from(!client)),
            next_alias: AtomicU64::new(1),
            routes: Mutex::default(),
            routes_changed: watch::Sender::new(0),
            peer: Mutex::new(PeerRequests { next: u64::from(client), ..PeerRequests::default() }),
            assembly: Arc::new(Semaphore::new(assembly_units(limits))),
            room,
        });
        let (ready, mut setup_seen) = watch::channel(false);
        tokio::spawn(drive(inner.clone(), setup, ready));
        let waited = tokio::time::timeout(limits.setup_timeout, setup_seen.wait_for(|seen| *seen)).await;
        match waited {
            Ok(Ok(_)) => Ok(QuicSession { inner }),
            Ok(Err(_)) => Err(inner.closed_error()),
            Err(_) => {
                inner.close(SessionCode::ControlMessageTimeout, "no SETUP");
                Err(PlaneError::Closed("the peer sent no SETUP".into()))
            }
        }
    }

    /// What it has carried.
    pub fn stats(&self) -> SessionStats {
        self.inner.counters.now()
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.inner.conn.close_reason().is_some()
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.inner.conn.rtt()
    }
}

/// Everything that happens until the connection is over.
async fn drive(inner: Arc<Inner>, setup: SetupOptions, ready: watch::Sender<bool>) {
    let result = tokio::select! {
        result = send_setup(&inner, setup) => result,
        result = accept_uni(&inner, &ready) => result,
        result = accept_bi(&inner) => result,
        result = discard_datagrams(&inner) => result,
    };
    if let Err(e) = result {
        inner.fail(&e);
    }
    // Nothing arrives any more: those who wait must learn it.
    *inner.routes() = Routes::default();
}

/// Our control stream: SETUP, and open as long as the session (draft-18 section 3.3).
async fn send_setup(inner: &Inner, setup: SetupOptions) -> Result<(), PlaneError> {
    let mut control = inner.conn.open_uni().await.map_err(closed)?;
    control.set_priority(i32::MAX).ok();
    stream::write(&mut control, &Message::Setup(setup)).await?;
    Err(PlaneError::Closed(inner.conn.closed().await.to_string()))
}

async fn accept_uni(inner: &Arc<Inner>, ready: &watch::Sender<bool>) -> Result<(), PlaneError> {
    loop {
        let reader = StreamReader::new(inner.conn.accept_uni().await.map_err(closed)?);
        let (inner, ready) = (inner.clone(), ready.clone());
        tokio::spawn(async move {
            if let Err(e) = receive(&inner, reader, &ready).await {
                inner.fail(&e);
            }
        });
    }
}

async fn accept_bi(inner: &Arc<Inner>) -> Result<(), PlaneError> {
    loop {
        let (send, recv) = inner.conn.accept_bi().await.map_err(closed)?;
        let session = QuicSession { inner: inner.clone() };
        tokio::spawn(async move {
            let inner = session.inner.clone();
            if let Err(e) = answer::request(session, send, recv).await {
                inner.fail(&e);
            }
        });
    }
}

/// We ask for no track that is sent in datagrams: what comes is thrown away.
async fn discard_datagrams(inner: &Inner) -> Result<(), PlaneError> {
    loop {
        inner.conn.read_datagram().await.map_err(closed)?;
    }
}

fn closed(e: quinn::ConnectionError) -> PlaneError {
    PlaneError::Closed(e.to_string())
}

/// A unidirectional stream, from its first byte.
async fn receive(
    inner: &Inner,
    mut reader: StreamReader,
    ready: &watch::Sender<bool>,
) -> Result<(), PlaneError> {
    match reader.decode(StreamHeader::decode).await? {
        None => Ok(()),
        Some(StreamHeader::Padding) => reader.discard().await,
        Some(StreamHeader::Control) => control(inner, reader, ready).await,
        Some(StreamHeader::Subgroup(header)) => subgroup(inner, reader, header).await,
        Some(StreamHeader::Fetch(id)) => fetch(inner, reader, id).await,
    }
}

async fn control(
    inner: &Inner,
    mut reader: StreamReader,
    ready: &watch::Sender<bool>,
) -> Result<(), PlaneError> {
    match reader.message().await? {
        Some(Message::Setup(options)) if !*ready.borrow() => {
            if inner.client && (options.path.is_some() || options.authority.is_some()) {
                return Err(WireError::violation("a server sent PATH or AUTHORITY").into());
            }
            let program = options.implementation.as_deref().map(String::from_utf8_lossy);
            tracing::debug!(peer = %inner.conn.remote_address(), program = program.as_deref(), "moq: session set up");
            ready.send_replace(true);
        }
        _ => return Err(WireError::violation("control stream does not begin with one SETUP").into()),
    }
    while let Some(message) = reader.message().await? {
        match message {
            Message::GoAway { .. } => {
                tracing::info!(peer = %inner.conn.remote_address(), "moq: peer is going away");
                inner.close(SessionCode::NoError, "going away");
            }
            _ => return Err(WireError::violation("request on the control stream").into()),
        }
    }
    Err(WireError::violation("control stream was closed").into())
}

async fn subgroup(inner: &Inner, mut reader: StreamReader, header: SubgroupHeader) -> Result<(), PlaneError> {
    let Some(route) = inner.route(header.alias).await else {
        reader.stop(reset::CANCELLED);
        return Ok(());
    };
    let result = subgroup_objects(inner, &mut reader, &header, &route).await;
    route.streams.send_modify(|n| *n += 1);
    match result {
        Err(PlaneError::Reset(_)) => {
            // The subscription may be gone: then nobody needs to know.
            let _ = route.events.send(Event::Broken(header.group).into()).await;
            Ok(())
        }
        other => other,
    }
}

async fn subgroup_objects(
    inner: &Inner,
    reader: &mut StreamReader,
    header: &SubgroupHeader,
    route: &Route,
) -> Result<(), PlaneError> {
    let mut prior = None;
    let mut subgroup = header.subgroup;
    let mut last = header.end_of_group;
    while let Some(o) = reader.decode(|r| SubgroupObject::decode(r, header, prior)).await? {
        prior = Some(o.object);
        let subgroup = *subgroup.get_or_insert(o.object);
        if o.status != 0 {
            last = true;
            continue;
        }
        let Some((payload, room)) = inner.payload(reader, o.len).await? else {
            let _ = route.events.send(Event::Broken(header.group).into()).await;
            return Ok(());
        };
        let at = Location::new(header.group, o.object);
        let object = Object { at, subgroup, properties: o.properties, payload };
        let queued = Queued { what: Event::Object(object), _room: room };
        if route.events.send(queued).await.is_err() {
            reader.stop(reset::CANCELLED);
            return Ok(());
        }
    }
    let end = Event::EndOfSubgroup { group: header.group, subgroup: subgroup.unwrap_or(0), last };
    // The subscription may be gone: then nobody needs to know.
    let _ = route.events.send(end.into()).await;
    Ok(())
}

async fn fetch(inner: &Inner, mut reader: StreamReader, id: u64) -> Result<(), PlaneError> {
    let Some((events, descending)) = inner.routes().fetches.remove(&id) else {
        reader.stop(reset::CANCELLED); // cancelled, or never asked for
        return Ok(());
    };
    match fetch_objects(inner, &mut reader, descending, &events).await {
        Err(e @ (PlaneError::Reset(_) | PlaneError::TooLarge(_))) => {
            // The one who asked may be gone.
            let _ = events.send(FetchEvent::Failed(e).into()).await;
            Ok(())
        }
        other => other,
    }
}

async fn fetch_objects(
    inner: &Inner,
    reader: &mut StreamReader,
    descending: bool,
    events: &Queue<FetchEvent>,
) -> Result<(), PlaneError> {
    let mut decoder = FetchDecoder::new(descending);
    while let Some(record) = reader.decode(|r| decoder.decode(r)).await? {
        let FetchRecord::Object { at, subgroup, properties, len, .. } = record else { continue };
        let (payload, room) = inner.payload(reader, len).await?.ok_or(PlaneError::TooLarge("object"))?;
        let object = Object { at, subgroup: subgroup.unwrap_or(0), properties, payload };
        let queued = Queued { what: FetchEvent::Object(object), _room: room };
        if events.send(queued).await.is_err() {
            reader.stop(reset::CANCELLED);
            return Ok(());
        }
    }
    // The one who asked may be gone.
    let _ = events.send(FetchEvent::End.into()).await;
    Ok(())
}

impl Inner {
    /// Whom a request comes from.
    pub(super) fn asker(&self) -> Asker {
        let (address, session) = (self.conn.remote_address().ip(), self.conn.stable_id() as u64);
        Asker { address, session, room: self.room.clone() }
    }

    /// A payload and its room, or none (and the stream is stopped) when it is above the limit.
    async fn payload(
        &self,
        reader: &mut StreamReader,
        len: u64,
    ) -> Result<Option<(Bytes, Option<OwnedSemaphorePermit>)>, PlaneError> {
        let len = match usize::try_from(len) {
            Ok(len) if len <= self.limits.object_bytes => len,
            _ => {
                tracing::warn!(
                    len,
                    limit = self.limits.object_bytes,
                    "moq: object is too large; stream stopped"
                );
                reader.stop(reset::CANCELLED);
                return Ok(None);
            }
        };
        // Fits: the limit of an object is below 4 TiB.
        let units = len.div_ceil(ASSEMBLY_UNIT) as u32;
        let room = self.assembly.clone().acquire_many_owned(units).await.ok();
        let payload = reader.payload(len).await?;
        self.counters.received(len);
        Ok(Some((payload, room)))
    }

    /// The route of an alias, waited for a little: data may overtake SUBSCRIBE_OK.
    async fn route(&self, alias: u64) -> Option<Route> {
        let mut changed = self.routes_changed.subscribe();
        let wait = async {
            loop {
                changed.borrow_and_update();
                {
                    let routes = self.routes();
                    if let Some(route) = routes.subscriptions.get(&alias) {
                        return Some(route.clone());
                    }
                    if routes.closed.contains(&alias) {
                        return None;
                    }
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(ALIAS_WAIT, wait).await.ok().flatten()
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self) -> MutexGuard<'_, PeerRequests> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends objects of `alias` to `events`. An alias that is in use is a violation (DUPLICATE_TRACK_ALIAS).
    pub(super) fn open_route(
        &self,
        alias: u64,
        events: Queue<Event>,
    ) -> Result<watch::Receiver<u64>, PlaneError> {
        let streams = watch::Sender::new(0);
        let seen = streams.subscribe();
        if self.routes().subscriptions.insert(alias, Route { events, streams }).is_some() {
            let code = SessionCode::DuplicateTrackAlias;
            return Err(WireError::Violation { code, reason: "track alias is in use" }.into());
        }
        self.routes_changed.send_modify(|v| *v += 1);
        Ok(seen)
    }

    pub(super) fn close_route(&self, alias: u64) {
        let routes = &mut *self.routes();
        routes.subscriptions.remove(&alias);
        routes.closed.push_back(alias);
        if routes.closed.len() > CLOSED_ALIASES {
            routes.closed.pop_front();
        }
    }

    pub(super) fn open_fetch(&self, id: u64, events: Queue<FetchEvent>) {
        self.routes().fetches.insert(id, (events, false));
    }

    pub(super) fn close_fetch(&self, id: u64) {
        self.routes().fetches.remove(&id);
    }

    pub(super) fn next_request(&self) -> u64 {
        self.next_request.fetch_add(2, Ordering::Relaxed)
    }

    pub(super) fn next_alias(&self) -> u64 {
        self.next_alias.fetch_add(1, Ordering::Relaxed)
    }

    /// Checks a Request ID of the peer: its parity, and that it is new (draft-18 section 10.1).
    pub(super) fn accept_request(&self, id: u64) -> Result<(), PlaneError> {
        let peer = &mut *self.peer();
        let parity = u64::from(self.client);
        if id % 2 != parity
            || id < peer.next
            || peer.early.len() >= REORDERED_REQUESTS
            || !peer.early.insert(id)
        {
            let code = SessionCode::InvalidRequestId;
            return Err(WireError::Violation { code, reason: "Request ID" }.into());
        }
        while peer.early.remove(&peer.next) {
            peer.next += 2;
        }
        Ok(())
    }

    /// Remembers a subscription of the peer; false: it has one of this track already.
    pub(super) fn add_subscription(&self, id: u64, track: &TrackName, largest: Option<Location>) -> bool {
        let peer = &mut *self.peer();
        if peer.subscriptions.values().any(|(t, _)| t == track) {
            return false;
        }
        peer.subscriptions.insert(id, (track.clone(), largest));
        true
    }

    pub(super) fn remove_subscription(&self, id: u64) {
        self.peer().subscriptions.remove(&id);
    }

    pub(super) fn subscription(&self, id: u64) -> Option<(TrackName, Option<Location>)> {
        self.peer().subscriptions.get(&id).cloned()
    }

    /// Notes a SUBSCRIBE_NAMESPACE of the peer; none: it overlaps with an open one.
    pub(super) fn open_prefix(&self, prefix: &Namespace) -> Option<OpenPrefix<'_>> {
        let peer = &mut *self.peer();
        if peer.prefixes.iter().any(|p| p.starts_with(prefix) || prefix.starts_with(p)) {
            return None;
        }
        peer.prefixes.push(prefix.clone());
        Some(OpenPrefix { inner: self, prefix: prefix.clone() })
    }

    pub(super) fn close(&self, code: SessionCode, reason: &str) {
        self.conn.close(VarInt::from_u32(code as u32), reason.as_bytes());
    }

    /// Closes the session when the peer broke the protocol; other errors concern one stream.
    fn fail(&self, e: &PlaneError) {
        match e {
            PlaneError::Protocol(WireError::Violation { code, reason }) => {
                self.counters.violation();
                tracing::warn!(peer = %self.conn.remote_address(), ?code, reason, "moq: session closed, peer broke the protocol");
                self.close(*code, reason);
            }
            other => tracing::debug!(peer = %self.conn.remote_address(), error = %other, "moq: stream ended"),
        }
    }

    pub(super) fn closed_error(&self) -> PlaneError {
        let reason = self.conn.close_reason();
        PlaneError::Closed(reason.map_or_else(|| "stream ended".to_owned(), |r| r.to_string()))
    }
}
