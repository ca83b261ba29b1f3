//! What the peer asks of us.

use super::pace::{Pace, time_for};
use super::session::{Queued, QuicSession};
use super::stream::{RequestStream, finish, write, write_error};
use crate::exchange::{Upstream, pump};
use crate::plane::{Event, Fetched, Object, ObjectPlane as _, PlaneError, Refusal, Subscription};
use crate::room::Taken;
use crate::track::{Step, Track, TrackConfig};
use crate::wire::{
    FetchEncoder, FetchKind, Filter, Location, LocationRange, Message, Namespace, Params, StreamHeader,
    SubgroupHeader, SubgroupObject, TrackName, WireError, publish_done, request_error, reset,
};
use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Subgroups open at once in one subscription: the oldest is reset for a new one.
const OPEN_SUBGROUPS: usize = 16;
/// What it takes to hold one object of an answer that is got when its turn comes.
const PROMISE: usize = 256;

/// A request stream of the peer.
pub(super) async fn request(
    session: QuicSession,
    send: SendStream,
    recv: RecvStream,
) -> Result<(), PlaneError> {
    let mut stream = RequestStream::new(send, recv);
    let asked = timeout(session.inner.limits.setup_timeout, stream.recv.message()).await;
    let late = |_| PlaneError::Closed("a request stream without a request".into());
    let Some(message) = asked.map_err(late)?? else { return Ok(()) };
    tracing::trace!(message = message.name(), "moq: asked");
    let (id, params) = match &message {
        Message::Subscribe { id, params, .. }
        | Message::Fetch { id, params, .. }
        | Message::TrackStatus { id, params, .. }
        | Message::Publish { id, params, .. }
        | Message::PublishNamespace { id, params, .. }
        | Message::SubscribeNamespace { id, params, .. }
        | Message::SubscribeTracks { id, params, .. } => (*id, params.clone()),
        _ => return Err(WireError::violation("request stream does not begin with a request").into()),
    };
    session.inner.accept_request(id)?;
    match message {
        Message::Subscribe { track, .. } => subscribe(&session, stream, id, track, params).await,
        Message::Fetch { kind, .. } => fetch(&session, stream, id, kind, params).await,
        Message::TrackStatus { track, .. } => track_status(&session, stream, track).await,
        Message::Publish { track, alias, .. } => accept_track(&session, stream, track, alias).await,
        Message::PublishNamespace { namespace, .. } => accept_namespace(session, stream, namespace).await,
        Message::SubscribeNamespace { prefix, .. } => namespaces(&session, stream, prefix).await,
        Message::SubscribeTracks { prefix, .. } => tracks(&session, stream, prefix).await,
        _ => Ok(()), // refused above
    }
}

async fn refuse(
    session: &QuicSession,
    mut stream: RequestStream,
    refusal: Refusal,
) -> Result<(), PlaneError> {
    session.inner.counters.refused(refusal.code);
    let retry_after_ms = refusal.retry_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let message = Message::RequestError { code: refusal.code, retry_after_ms, reason: refusal.reason };
    stream.write_last(&message).await
}

fn ok() -> Message {
    Message::RequestOk { params: Params::default(), properties: Bytes::new() }
}

async fn track_status(
    session: &QuicSession,
    mut stream: RequestStream,
    name: TrackName,
) -> Result<(), PlaneError> {
    match session.inner.exchange.track(&name, Duration::ZERO).await {
        Ok(track) => {
            let params = Params { largest: track.largest(), ..Params::default() };
            stream.write_last(&Message::RequestOk { params, properties: Bytes::new() }).await
        }
        Err(refusal) => refuse(session, stream, refusal).await,
    }
}

// --- subscriptions ---

/// What a REQUEST_UPDATE can change.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    start: Location,
    end_group: u64,
    forward: bool,
    subscriber_priority: u8,
}

impl Wanted {
    fn new(params: &Params, largest: Option<Location>) -> Wanted {
        let mut wanted = Wanted {
            start: Location::default(),
            end_group: u64::MAX,
            forward: params.forward.unwrap_or(true),
            subscriber_priority: params.subscriber_priority.unwrap_or(128),
        };
        if let Some(filter) = params.filter {
            wanted.filter(filter, largest);
        }
        wanted
    }

    fn filter(&mut self, filter: Filter, largest: Option<Location>) {
        (self.start, self.end_group) = match filter {
            Filter::NextGroup => {
                let next = largest.map_or(0, |l| l.group.saturating_add(1));
                (Location::new(next, 0), u64::MAX)
            }
            Filter::LargestObject => (largest.map_or(Location::default(), Location::next), u64::MAX),
            Filter::From(start) => (start, u64::MAX),
            Filter::Range(start, end) => (start, end),
        };
    }
}

async fn subscribe(
    session: &QuicSession,
    mut stream: RequestStream,
    id: u64,
    name: TrackName,
    params: Params,
) -> Result<(), PlaneError> {
    let inner = &session.inner;
    let wait = Duration::from_millis(params.rendezvous_timeout.unwrap_or(0)).min(inner.limits.rendezvous);
    let found = tokio::select! {
        found = inner.exchange.track(&name, wait) => found,
        gone = stream.recv.message() => return gone.map(|_| ()),
    };
    let track = match found {
        Ok(track) => track,
        Err(refusal) => return refuse(session, stream, refusal).await,
    };
    let watch = track.watch();
    let (cursor, largest) = track.join();
    let wanted = Wanted::new(&params, largest);
    if largest.is_some_and(|l| wanted.end_group < l.group) {
        return refuse(session, stream, Refusal::invalid_range("the range is over")).await;
    }
    if !inner.add_subscription(id, &name, largest) {
        let refusal = Refusal::new(request_error::DUPLICATE_SUBSCRIPTION, "subscribed to this track already");
        return refuse(session, stream, refusal).await;
    }
    let alias = inner.next_alias();
    let ok = Params { largest, ..Params::default() };
    let mut result =
        stream.write(&Message::SubscribeOk { alias, params: ok, properties: Bytes::new() }).await;
    if result.is_ok() {
        result = feed(session, &mut stream, &track, Joined { watch, cursor, alias, wanted }).await;
    }
    inner.remove_subscription(id);
    result
}

/// Where a subscription begins.
struct Joined {
    watch: watch::Receiver<u64>,
    cursor: u64,
    alias: u64,
    wanted: Wanted,
}

/// Sends what the subscription wants until it ends.
async fn feed(
    session: &QuicSession,
    stream: &mut RequestStream,
    track: &Track,
    joined: Joined,
) -> Result<(), PlaneError> {
    let Joined { watch, cursor, alias, wanted } = joined;
    let (update, updated) = watch::channel(wanted);
    let mut feed =
        Feed { session, track, alias, watch, cursor, wanted: updated, open: BTreeMap::new(), streams: 0 };
    let (status, reason) = tokio::select! {
        end = feed.run() => end?,
        end = updates(stream, track, &update) => return end,
    };
    let done = Message::PublishDone { status, streams: feed.streams, reason: reason.into() };
    drop(feed);
    // Who does not take that either finds the stream reset.
    timeout(session.inner.limits.grace, stream.write_last(&done)).await.unwrap_or(Ok(()))
}

/// REQUEST_UPDATE, until the peer ends the subscription.
async fn updates(
    stream: &mut RequestStream,
    track: &Track,
    update: &watch::Sender<Wanted>,
) -> Result<(), PlaneError> {
    loop {
        match stream.recv.message().await {
            Ok(Some(Message::RequestUpdate { params, .. })) => {
                update.send_modify(|wanted| {
                    wanted.forward = params.forward.unwrap_or(wanted.forward);
                    wanted.subscriber_priority =
                        params.subscriber_priority.unwrap_or(wanted.subscriber_priority);
                    if let Some(filter) = params.filter {
                        wanted.filter(filter, track.largest());
                    }
                });
                write(&mut stream.send, &ok()).await?;
            }
            Ok(Some(_)) => return Err(WireError::violation("message on a subscription's stream").into()),
            Ok(None) | Err(PlaneError::Reset(_)) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// The objects of one subscription on their way out.
struct Feed<'a> {
    session: &'a QuicSession,
    track: &'a Track,
    alias: u64,
    watch: watch::Receiver<u64>,
    cursor: u64,
    wanted: watch::Receiver<Wanted>,
    open: BTreeMap<(u64, u64), OpenSubgroup>,
    streams: u64,
}

struct OpenSubgroup {
    send: SendStream,
    header: SubgroupHeader,
    prior: Option<u64>,
}

impl Feed<'_> {
    /// Until the track or the filter ends; the code and words of PUBLISH_DONE.
    async fn run(&mut self) -> Result<(u64, &'static str), PlaneError> {
        loop {
            self.watch.borrow_and_update();
            match self.track.step(&mut self.cursor) {
                Step::Object(object) => {
                    let wanted = *self.wanted.borrow();
                    if object.at.group > wanted.end_group {
                        self.finish_all();
                        return Ok((publish_done::SUBSCRIPTION_ENDED, "end of the range"));
                    }
                    let time = time_for(self.session.inner.limits.grace, object.payload.len());
                    if wanted.forward && object.at >= wanted.start {
                        let sent = timeout(time, self.send(object, wanted.subscriber_priority)).await;
                        let Ok(sent) = sent else { return Ok(self.behind()) };
                        sent?;
                    }
                }
                Step::EndOfSubgroup { group, subgroup, last } => {
                    let grace = self.session.inner.limits.grace;
                    let Ok(ended) = timeout(grace, self.end(group, subgroup, last)).await else {
                        return Ok(self.behind());
                    };
                    ended?;
                }
                Step::Wait => {
                    if self.watch.changed().await.is_err() {
                        self.finish_all();
                        return Ok((publish_done::TRACK_ENDED, "track is over"));
                    }
                }
                Step::Behind => return Ok(self.behind()),
                Step::Ended => {
                    self.finish_all();
                    return Ok((publish_done::TRACK_ENDED, "track is over"));
                }
            }
        }
    }

    async fn send(&mut self, object: Object, subscriber_priority: u8) -> Result<(), PlaneError> {
        let key = (object.at.group, object.subgroup);
        if !self.open.contains_key(&key) {
            self.open_subgroup(key, subscriber_priority).await?;
        }
        let Some(open) = self.open.get_mut(&key) else { return Ok(()) };
        let len = object.payload.len();
        let properties = object.properties;
        let fields = SubgroupObject { object: object.at.object, properties, len: len as u64, status: 0 };
        let head = Bytes::from(fields.encode(&open.header, open.prior));
        open.prior = Some(object.at.object);
        let sent = open.send.write_all_chunks(&mut [head, object.payload]).await;
        match sent.map_err(write_error) {
            // The peer does not want this group: later ones it may.
            Err(PlaneError::Reset(_)) => {}
            other => other?,
        }
        self.session.inner.counters.sent(len);
        Ok(())
    }

    async fn open_subgroup(&mut self, key: (u64, u64), subscriber_priority: u8) -> Result<(), PlaneError> {
        if self.open.len() >= OPEN_SUBGROUPS
            && let Some((_, mut oldest)) = self.open.pop_first()
        {
            // An error says that the stream is over already.
            let _ = oldest.send.reset(VarInt::from_u32(reset::TOO_FAR_BEHIND));
        }
        let opened = self.session.inner.conn.open_uni().await;
        let mut send = opened.map_err(|e| PlaneError::Closed(e.to_string()))?;
        let config = self.track.config();
        // Ours: the larger goes first. The draft's: the smaller does, the subscriber's before the publisher's.
        let rank = i32::from(subscriber_priority) << 8 | i32::from(config.priority);
        send.set_priority(-rank).ok();
        let header = SubgroupHeader {
            alias: self.alias,
            group: key.0,
            subgroup: Some(key.1),
            priority: Some(config.priority),
            properties: !config.one_subgroup,
            end_of_group: config.one_subgroup,
        };
        send.write_all(&header.encode()).await.map_err(write_error)?;
        self.streams += 1;
        self.open.insert(key, OpenSubgroup { send, header, prior: None });
        Ok(())
    }

    async fn end(&mut self, group: u64, subgroup: u64, last: bool) -> Result<(), PlaneError> {
        let Some(mut open) = self.open.remove(&(group, subgroup)) else { return Ok(()) };
        if last && !open.header.end_of_group {
            let object = open.prior.map_or(0, |p| p.saturating_add(1));
            let end = SubgroupObject { object, properties: Bytes::new(), len: 0, status: 3 };
            let sent = open.send.write_all(&end.encode(&open.header, open.prior)).await;
            match sent.map_err(write_error) {
                Err(PlaneError::Reset(_)) => {}
                other => other?,
            }
        }
        finish(&mut open.send);
        Ok(())
    }

    fn finish_all(&mut self) {
        for (_, mut open) in std::mem::take(&mut self.open) {
            finish(&mut open.send);
        }
    }

    /// The end of a subscription whose peer does not read, or not quickly enough.
    fn behind(&mut self) -> (u64, &'static str) {
        self.reset_all();
        (publish_done::TOO_FAR_BEHIND, "reads too slowly")
    }

    fn reset_all(&mut self) {
        for (_, mut open) in std::mem::take(&mut self.open) {
            // An error says that the stream is over already.
            let _ = open.send.reset(VarInt::from_u32(reset::TOO_FAR_BEHIND));
        }
    }
}

impl Drop for Feed<'_> {
    fn drop(&mut self) {
        for (_, mut open) in std::mem::take(&mut self.open) {
            // Cancelled in the middle: a clean end would claim that the group is complete.
            let _ = open.send.reset(VarInt::from_u32(reset::CANCELLED));
        }
    }
}

// --- fetches ---

async fn fetch(
    session: &QuicSession,
    mut stream: RequestStream,
    id: u64,
    kind: FetchKind,
    params: Params,
) -> Result<(), PlaneError> {
    let descending = params.descending.unwrap_or(false);
    let asker = session.inner.asker();
    let fetched = match range_of(session, kind) {
        Ok((name, range)) => {
            tokio::select! {
                fetched = session.inner.exchange.fetch(&asker, &name, range) => fetched,
                gone = cancelled(&mut stream) => return gone.or_else(unless_reset),
            }
        }
        Err(refusal) => Err(refusal),
    };
    // What is in memory for it is counted already; the list of what is not is not.
    let listed = fetched.and_then(|fetched| Ok((asker.room.take(PROMISE * fetched.objects.len())?, fetched)));
    let (_listed, fetched) = match listed {
        Ok(listed) => listed,
        Err(refusal) => return refuse(session, stream, refusal).await,
    };
    let Fetched { end, end_of_track, .. } = fetched;
    let ok = Message::FetchOk { end_of_track, end, params: Params::default(), properties: Bytes::new() };
    let mut pace = Pace::new(session.inner.limits.grace);
    let Some(told) = pace.take(0, stream.write(&ok)).await else { return Ok(()) };
    told?;
    let sent = tokio::select! {
        sent = send_fetched(session, id, fetched, descending, pace) => sent,
        gone = cancelled(&mut stream) => gone.map(|()| false),
    };
    match sent {
        Ok(true) => {
            stream.finish();
            Ok(())
        }
        // The request's stream is reset, too: of a data stream that is, the header may be lost.
        Ok(false) => Ok(()),
        Err(e) => unless_reset(e),
    }
}

/// A stream that the peer ended is no error.
fn unless_reset(error: PlaneError) -> Result<(), PlaneError> {
    if matches!(error, PlaneError::Reset(_)) { Ok(()) } else { Err(error) }
}

/// The track and range, of a joining FETCH relative to its subscription (draft-18 section 10.12.2).
fn range_of(session: &QuicSession, kind: FetchKind) -> Result<(TrackName, LocationRange), Refusal> {
    let (request, first): (u64, Box<dyn Fn(u64) -> u64>) = match kind {
        FetchKind::Standalone(name, range) => return Ok((name, range)),
        FetchKind::RelativeJoining { request, groups } => {
            (request, Box::new(move |g| g.saturating_sub(groups)))
        }
        FetchKind::AbsoluteJoining { request, group } => (request, Box::new(move |_| group)),
    };
    let unknown = || Refusal::new(request_error::INVALID_JOINING_REQUEST_ID, "no such subscription");
    let (name, largest) = session.inner.subscription(request).ok_or_else(unknown)?;
    let largest =
        largest.ok_or_else(|| Refusal::invalid_range("nothing was published before the subscription"))?;
    Ok((name, LocationRange { start: Location::new(first(largest.group), 0), end: largest.next() }))
}

/// Whether all was sent. Who does not read in time must not keep what nobody else needs: its stream is reset, or never opened.
async fn send_fetched(
    session: &QuicSession,
    id: u64,
    fetched: Fetched,
    descending: bool,
    mut pace: Pace,
) -> Result<bool, PlaneError> {
    let Fetched { mut objects, mut held, .. } = fetched;
    let opened = pace.take(0, open_fetch(session, id)).await;
    let Some(mut send) = opened.transpose()? else { return Ok(false) };
    if descending {
        objects.sort_by_key(|o| (std::cmp::Reverse(o.at.group), o.at.object));
    }
    let mut encoder = FetchEncoder::default();
    for promise in objects {
        let at = promise.at;
        let (head, payload) = match promise.get().await {
            Ok(Object { at, subgroup, properties, payload }) => {
                let head = encoder.encode(at, subgroup, 128, &properties, payload.len() as u64);
                (head, payload)
            }
            Err(refusal) if refusal.is_absence() => (encoder.unknown(at), Bytes::new()),
            Err(refusal) => {
                tracing::debug!(%refusal, ?at, "moq: answer to a FETCH is broken off");
                let _ = send.reset(VarInt::from_u32(reset::INTERNAL));
                return Ok(false);
            }
        };
        let len = payload.len();
        // Counted until the last byte has arrived there: the connection holds it, too.
        let payload = Counted { bytes: payload, _room: held.split(len) };
        let mut chunks = [Bytes::from(head), Bytes::from_owner(payload)];
        let Some(written) = pace.take(len, send.write_all_chunks(&mut chunks)).await else {
            let _ = send.reset(VarInt::from_u32(reset::TOO_FAR_BEHIND));
            return Ok(false);
        };
        written.map_err(write_error)?;
        session.inner.counters.sent(len);
    }
    finish(&mut send);
    Ok(true)
}

async fn open_fetch(session: &QuicSession, id: u64) -> Result<SendStream, PlaneError> {
    let opened = session.inner.conn.open_uni().await;
    let mut send = opened.map_err(|e| PlaneError::Closed(e.to_string()))?;
    send.write_all(&StreamHeader::encode_fetch(id)).await.map_err(write_error)?;
    Ok(send)
}

/// Bytes of an answer, and their room.
struct Counted {
    bytes: Bytes,
    _room: Taken,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns when the peer cancels the request; its clean end is none.
async fn cancelled(stream: &mut RequestStream) -> Result<(), PlaneError> {
    match stream.recv.message().await {
        Ok(None) => std::future::pending().await,
        Ok(Some(_)) => Err(WireError::violation("message after FETCH").into()),
        Err(e) => Err(e),
    }
}

// --- namespaces ---

/// SUBSCRIBE_NAMESPACE: what there is, and every change.
async fn namespaces(
    session: &QuicSession,
    mut stream: RequestStream,
    prefix: Namespace,
) -> Result<(), PlaneError> {
    let exchange = &session.inner.exchange;
    let Some(_one) = session.inner.open_prefix(&prefix) else {
        return refuse(session, stream, Refusal::new(request_error::PREFIX_OVERLAP, "prefixes overlap"))
            .await;
    };
    let mut changed = exchange.watch();
    stream.write(&ok()).await?;
    let mut told: Vec<Namespace> = Vec::new();
    loop {
        changed.borrow_and_update();
        let now = exchange.namespaces(&prefix);
        for suffix in told.iter().filter(|n| !now.contains(n)).filter_map(|n| n.suffix(&prefix)) {
            stream.write(&Message::NamespaceDone { suffix }).await?;
        }
        for suffix in now.iter().filter(|n| !told.contains(n)).filter_map(|n| n.suffix(&prefix)) {
            stream.write(&Message::Namespace { suffix }).await?;
        }
        told = now;
        tokio::select! {
            _ = changed.changed() => {}
            message = stream.recv.message() => match message {
                Ok(Some(Message::RequestUpdate { .. })) => stream.write(&ok()).await?,
                Ok(Some(_)) => return Err(WireError::violation("message after SUBSCRIBE_NAMESPACE").into()),
                Ok(None) | Err(PlaneError::Reset(_)) => return Ok(()),
                Err(e) => return Err(e),
            },
        }
    }
}

/// SUBSCRIBE_TRACKS: a PUBLISH for each single track there is, and for each new one.
async fn tracks(
    session: &QuicSession,
    mut stream: RequestStream,
    prefix: Namespace,
) -> Result<(), PlaneError> {
    let exchange = &session.inner.exchange;
    let mut changed = exchange.watch();
    stream.write(&ok()).await?;
    let mut pushed: BTreeMap<TrackName, Arc<Track>> = BTreeMap::new();
    loop {
        changed.borrow_and_update();
        let now = exchange.tracks(&prefix, session.inner.conn.stable_id());
        pushed.retain(|name, track| now.iter().any(|(n, t)| n == name && Arc::ptr_eq(t, track)));
        for (name, track) in now {
            if pushed.insert(name.clone(), track.clone()).is_none() {
                let session = session.clone();
                tokio::spawn(async move {
                    if let Err(e) = push_track(&session, &name, &track).await {
                        tracing::debug!(track = %name, error = %e, "moq: track not pushed");
                    }
                });
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            message = stream.recv.message() => match message {
                Ok(Some(Message::RequestUpdate { .. })) => stream.write(&ok()).await?,
                Ok(Some(_)) => return Err(WireError::violation("message after SUBSCRIBE_TRACKS").into()),
                Ok(None) | Err(PlaneError::Reset(_)) => return Ok(()),
                Err(e) => return Err(e),
            },
        }
    }
}

/// PUBLISH, ours.
async fn push_track(session: &QuicSession, name: &TrackName, track: &Track) -> Result<(), PlaneError> {
    let inner = &session.inner;
    let watch = track.watch();
    let (cursor, largest) = track.join();
    let (id, alias) = (inner.next_request(), inner.next_alias());
    let params = Params { largest, ..Params::default() };
    let message = Message::Publish { id, track: name.clone(), alias, params, properties: Bytes::new() };
    let (mut request, answer) = session.ask(&message, Duration::ZERO).await?;
    let Message::RequestOk { params, .. } = answer else {
        return Err(WireError::violation("no answer to PUBLISH").into());
    };
    let wanted = Wanted::new(&params, largest);
    feed(session, &mut request, track, Joined { watch, cursor, alias, wanted }).await
}

fn no_publishers() -> Refusal {
    Refusal::new(request_error::UNAUTHORIZED, "this endpoint takes no publications")
}

/// PUBLISH_NAMESPACE, to a relay: requests for it go to this session as long as its stream is open.
async fn accept_namespace(
    session: QuicSession,
    mut stream: RequestStream,
    namespace: Namespace,
) -> Result<(), PlaneError> {
    let exchange = session.inner.exchange.clone();
    if !exchange.is_relay() {
        return refuse(&session, stream, no_publishers()).await;
    }
    let source = Arc::new(Upstream::new(session.clone(), TrackConfig::default()));
    let offer = match exchange.offer(namespace, source) {
        Ok(offer) => offer,
        Err(refusal) => return refuse(&session, stream, refusal).await,
    };
    stream.write(&ok()).await?;
    until_withdrawn(&session, &mut stream).await?;
    drop(offer);
    Ok(())
}

/// PUBLISH, to a relay: one track, sent to us without being asked for.
async fn accept_track(
    session: &QuicSession,
    mut stream: RequestStream,
    name: TrackName,
    alias: u64,
) -> Result<(), PlaneError> {
    let inner = &session.inner;
    if !inner.exchange.is_relay() {
        return refuse(session, stream, no_publishers()).await;
    }
    let track = Arc::new(Track::new(TrackConfig { one_subgroup: false, ..TrackConfig::default() }));
    let offer = match inner.exchange.offer_track(name, track.clone(), inner.conn.stable_id()) {
        Ok(offer) => offer,
        Err(refusal) => return refuse(session, stream, refusal).await,
    };
    let (events, receiver) = mpsc::channel(inner.limits.queue);
    inner.open_route(alias, events)?;
    let mut result = stream.write(&ok()).await;
    if result.is_ok() {
        tokio::select! {
            () = pump(Published(receiver), &track) => {}
            withdrawn = until_withdrawn(session, &mut stream) => result = withdrawn,
        }
    }
    inner.close_route(alias);
    track.end();
    drop(offer);
    result
}

/// The objects of a PUBLISH.
struct Published(mpsc::Receiver<Queued<Event>>);

impl Subscription for Published {
    fn largest(&self) -> Option<Location> {
        None
    }

    async fn next(&mut self) -> Result<Event, PlaneError> {
        let queued = self.0.recv().await;
        queued.map(|queued| queued.what).ok_or_else(|| PlaneError::Closed("session is over".into()))
    }
}

async fn until_withdrawn(session: &QuicSession, stream: &mut RequestStream) -> Result<(), PlaneError> {
    loop {
        tokio::select! {
            _ = session.closed() => return Ok(()),
            message = stream.recv.message() => match message {
                Ok(Some(Message::RequestUpdate { .. })) => stream.write(&ok()).await?,
                Ok(Some(Message::PublishDone { .. }) | None) | Err(PlaneError::Reset(_)) => return Ok(()),
                Ok(Some(_)) => return Err(WireError::violation("message after a publication").into()),
                Err(e) => return Err(e),
            },
        }
    }
}
