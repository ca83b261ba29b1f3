//! The border between MAHP and a MoQ session, in both directions.
//!
//! [`ObjectPlane`] is what we ask of a session: subscribe to a track, fetch a range, publish a namespace. [`Source`] is
//! what a session asks of us: give the live track, answer a fetch. No type of a QUIC library or a draft's message stands here.

use crate::room::{Room, Taken};
use crate::track::Track;
use crate::wire::{Location, LocationRange, Namespace, TrackName, WireError, request_error};
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A future on the heap: [`Source`] is used as a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One object of a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Group and object ID.
    pub at: Location,
    /// Subgroup ID: 0 for everything MAHP makes.
    pub subgroup: u64,
    /// Properties as they are on the wire; kept and forwarded unread.
    pub properties: Bytes,
    /// The bytes.
    pub payload: Bytes,
}

impl Object {
    /// An object of subgroup 0 without properties.
    pub fn new(at: Location, payload: Bytes) -> Object {
        Object { at, subgroup: 0, properties: Bytes::new(), payload }
    }
}

/// A request that is answered with REQUEST_ERROR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (code {code:#x})")]
pub struct Refusal {
    /// A code of [`request_error`].
    pub code: u64,
    /// For people.
    pub reason: String,
    /// When to ask again; none: never.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// No such track, namespace or object.
    pub fn does_not_exist(what: impl Into<String>) -> Refusal {
        Refusal { code: request_error::DOES_NOT_EXIST, reason: what.into(), retry_after: None }
    }

    /// Nothing in that range.
    pub fn invalid_range(what: impl Into<String>) -> Refusal {
        Refusal { code: request_error::INVALID_RANGE, reason: what.into(), retry_after: None }
    }

    /// Too much at once.
    pub fn excessive_load(what: impl Into<String>, retry_after: Duration) -> Refusal {
        Refusal { code: request_error::EXCESSIVE_LOAD, reason: what.into(), retry_after: Some(retry_after) }
    }

    /// Whether what was asked for is not there.
    pub const fn is_absence(&self) -> bool {
        matches!(self.code, request_error::DOES_NOT_EXIST | request_error::INVALID_RANGE)
    }

    /// Any other code.
    pub fn new(code: u64, reason: impl Into<String>) -> Refusal {
        Refusal { code, reason: reason.into(), retry_after: None }
    }
}

/// Why something asked of a session failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    /// The peer refused the request.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The session is over.
    #[error("session is over: {0}")]
    Closed(String),
    /// The peer broke the protocol.
    #[error("peer broke the protocol: {0}")]
    Protocol(#[from] WireError),
    /// The peer ended the stream before all was sent.
    #[error("stream was reset by the peer (code {0})")]
    Reset(u64),
    /// More than we take.
    #[error("{0} is above the limit")]
    TooLarge(&'static str),
}

/// What a relay answers when its publisher did not.
impl From<PlaneError> for Refusal {
    fn from(e: PlaneError) -> Refusal {
        match e {
            PlaneError::Refused(refusal) => refusal,
            other => Refusal::new(request_error::INTERNAL, format!("upstream: {other}")),
        }
    }
}

/// From where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the group behind the largest one.
    NextGroup,
    /// With the object behind the largest one.
    Latest,
    /// Here; what is older than the publisher's largest object must be fetched.
    At(Location),
}

/// What arrives on a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object. Objects of one subgroup come in order; groups may overlap.
    Object(Object),
    /// No more objects in this subgroup; with `last`, none in its group either.
    EndOfSubgroup {
        /// Which group.
        group: u64,
        /// Which subgroup.
        subgroup: u64,
        /// Whether the group is complete.
        last: bool,
    },
    /// A stream of this group broke off: objects may be missing.
    Broken(u64),
    /// The publisher ended the subscription: a code of [`crate::wire::publish_done`] and words.
    Done(u64, String),
}

/// A live subscription. Dropping it ends it.
pub trait Subscription: Send {
    /// Largest location the publisher knew when it accepted, if there was any.
    fn largest(&self) -> Option<Location>;
    /// The next event; [`PlaneError::Closed`] when the session is over.
    fn next(&mut self) -> impl Future<Output = Result<Event, PlaneError>> + Send;
}

/// The answer to a FETCH, object by object. Dropping it cancels it.
pub trait Fetching: Send {
    /// The end the publisher announced, one behind the last.
    fn end(&self) -> Location;
    /// The next object; none: that was all.
    fn next(&mut self) -> impl Future<Output = Result<Option<Object>, PlaneError>> + Send;

    /// All objects; refused above `limit` bytes of payload.
    fn collect(mut self, limit: usize) -> impl Future<Output = Result<Vec<Object>, PlaneError>> + Send
    where
        Self: Sized,
    {
        async move {
            let (mut objects, mut bytes) = (Vec::new(), 0usize);
            while let Some(object) = self.next().await? {
                bytes = bytes.saturating_add(object.payload.len());
                if bytes > limit {
                    return Err(PlaneError::TooLarge("answer to a FETCH"));
                }
                objects.push(object);
            }
            Ok(objects)
        }
    }
}

/// A session with a publisher or a relay.
pub trait ObjectPlane: Clone + Send + Sync + 'static {
    /// The subscription type.
    type Subscription: Subscription;
    /// The fetch type.
    type Fetching: Fetching;

    /// Subscribes; waits up to `rendezvous` for a publisher to appear behind a relay.
    fn subscribe(
        &self,
        track: &TrackName,
        start: Start,
        rendezvous: Duration,
    ) -> impl Future<Output = Result<Self::Subscription, PlaneError>> + Send;

    /// Fetches a range of past objects.
    fn fetch(
        &self,
        track: &TrackName,
        range: LocationRange,
    ) -> impl Future<Output = Result<Self::Fetching, PlaneError>> + Send;

    /// Tells the peer of a namespace; its requests go to what the session was opened with. Returns when the peer
    /// withdraws from it or the session ends.
    fn publish(&self, namespace: &Namespace) -> impl Future<Output = Result<(), PlaneError>> + Send;

    /// Waits for the end of the session and says why.
    fn closed(&self) -> impl Future<Output = String> + Send;

    /// Ends it.
    fn close(&self);
}

/// An object of an answer: its place is known, its bytes are got when its turn comes.
///
/// Until then it must hold none that memory would not hold without it, but those that [`Fetched::held`] counts.
pub struct Promise {
    /// Group and object ID.
    pub at: Location,
    object: Boxed<'static, Result<Object, Refusal>>,
}

impl Promise {
    /// An object that `object` gets, once it is asked for.
    pub fn new(
        at: Location,
        object: impl Future<Output = Result<Object, Refusal>> + Send + 'static,
    ) -> Promise {
        Promise { at, object: Box::pin(object) }
    }

    /// The object. Refused: it cannot be had, although it was published.
    pub async fn get(self) -> Result<Object, Refusal> {
        self.object.await
    }
}

impl From<Object> for Promise {
    fn from(object: Object) -> Promise {
        Promise::new(object.at, std::future::ready(Ok(object)))
    }
}

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise").field("at", &self.at).finish_non_exhaustive()
    }
}

/// The answer of a [`Source`] to a fetch.
#[derive(Debug, Default)]
pub struct Fetched {
    /// One behind the last object that exists in the range (FETCH_OK).
    pub end: Location,
    /// Whether the track is over and its last object is in the range.
    pub end_of_track: bool,
    /// The objects, ascending.
    pub objects: Vec<Promise>,
    /// Room for what was made or got for this answer alone.
    pub held: Taken,
}

impl Fetched {
    /// Objects that are here.
    pub fn of(end: Location, objects: impl IntoIterator<Item = Object>) -> Fetched {
        let objects = objects.into_iter().map(Promise::from).collect();
        Fetched { end, objects, ..Fetched::default() }
    }

    /// The whole answer of another publisher, as far as there is room for it. Refused above `limit` bytes.
    pub async fn from_upstream<F: Fetching>(
        mut fetching: F,
        limit: usize,
        room: &Room,
    ) -> Result<Fetched, Refusal> {
        let (mut held, mut objects, mut bytes) = (room.take(0)?, Vec::new(), 0usize);
        while let Some(object) = fetching.next().await? {
            bytes = bytes.saturating_add(object.payload.len());
            if bytes > limit {
                return Err(PlaneError::TooLarge("answer to a FETCH").into());
            }
            held.grow(object.payload.len())?;
            objects.push(object);
        }
        Ok(Fetched { held, ..Fetched::of(fetching.end(), objects) })
    }

    /// All objects, got one after the other. Refused: one of them cannot be had.
    pub async fn all(self) -> Result<Vec<Object>, Refusal> {
        let mut all = Vec::with_capacity(self.objects.len());
        for promise in self.objects {
            all.push(promise.get().await?);
        }
        Ok(all)
    }
}

/// Who asks: the address of a session's peer, the session's number, and what its answers may hold.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Address; behind a relay, that of the relay.
    pub address: IpAddr,
    /// Tells sessions of an address apart.
    pub session: u64,
    /// Of the session.
    pub room: Room,
}

impl Asker {
    /// Our own program.
    pub fn ourselves() -> Asker {
        Asker { address: Ipv4Addr::LOCALHOST.into(), session: 0, room: Room::unbounded() }
    }
}

/// What is counted as one client: an IPv4 address, or the /64 of an IPv6 address, of which one host can have any.
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Somebody who has tracks: a publisher's own, or a relay's.
pub trait Source: Send + Sync + 'static {
    /// The live window of a track.
    fn track<'a>(&'a self, track: &'a TrackName) -> Boxed<'a, Result<Arc<Track>, Refusal>>;

    /// Past objects. Without an override they come from the live window.
    fn fetch<'a>(
        &'a self,
        _asker: &'a Asker,
        track: &'a TrackName,
        range: LocationRange,
    ) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move { self.track(track).await?.fetch(range) })
    }
}
