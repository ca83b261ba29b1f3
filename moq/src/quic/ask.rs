//! What we ask of the peer: subscribe, fetch, publish.

use super::session::{FetchEvent, Inner, Queue, Queued, QuicSession};
use super::stream::RequestStream;
use crate::plane::{Event, Fetching, Object, ObjectPlane, PlaneError, Refusal, Start, Subscription};
use crate::wire::{
    FetchKind, Filter, Location, LocationRange, Message, Namespace, Params, SessionCode, TrackName,
    WireError, publish_done, request_error,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// How long after PUBLISH_DONE streams that it counts may still arrive, and what is left of a FETCH that is broken off.
const LATE_STREAMS: Duration = Duration::from_secs(2);

/// A live subscription.
#[derive(Debug)]
pub struct QuicSubscription {
    inner: Arc<Inner>,
    events: mpsc::Receiver<Queued<Event>>,
    largest: Option<Location>,
    alias: u64,
    control: AbortHandle,
}

/// The answer to a FETCH.
#[derive(Debug)]
pub struct QuicFetching {
    events: mpsc::Receiver<Queued<FetchEvent>>,
    end: Location,
    pending: PendingFetch,
    /// Cancels the request when dropped.
    request: RequestStream,
    told: Told,
}

/// What the publisher says on the request's own stream behind FETCH_OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// All that belongs to the answer was, or will be, sent.
    End,
    /// The answer is broken off (a code); what of it is on its way may still come until then.
    Broken(u64, Instant),
}

/// The entry of a FETCH in the session's table, for as long as somebody waits for it.
#[derive(Debug)]
struct PendingFetch {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for PendingFetch {
    fn drop(&mut self) {
        self.inner.close_fetch(self.id);
    }
}

impl QuicSession {
    /// Asks, and waits for the answer: as long as [`super::Limits::answer`], and `more` where the peer may take its time.
    pub(super) async fn ask(
        &self,
        message: &Message,
        more: Duration,
    ) -> Result<(RequestStream, Message), PlaneError> {
        let asked = async {
            let opened = self.inner.conn.open_bi().await;
            let (send, recv) = opened.map_err(|e| PlaneError::Closed(e.to_string()))?;
            let mut request = RequestStream::new(send, recv);
            request.write(message).await?;
            let response = response(&mut request).await?;
            Ok((request, response))
        };
        let late = |_| PlaneError::Refused(Refusal::new(request_error::TIMEOUT, "no answer in time"));
        tokio::time::timeout(self.inner.limits.answer.saturating_add(more), asked).await.map_err(late)?
    }
}

async fn response(request: &mut RequestStream) -> Result<Message, PlaneError> {
    match request.recv.message().await? {
        Some(Message::RequestError { code, retry_after_ms, reason }) => {
            let retry_after = retry_after_ms.map(Duration::from_millis);
            Err(Refusal { code, reason, retry_after }.into())
        }
        Some(message) => Ok(message),
        None => Err(PlaneError::Closed("request stream ended without an answer".into())),
    }
}

impl ObjectPlane for QuicSession {
    type Subscription = QuicSubscription;
    type Fetching = QuicFetching;

    async fn subscribe(
        &self,
        track: &TrackName,
        start: Start,
        rendezvous: Duration,
    ) -> Result<QuicSubscription, PlaneError> {
        let filter = match start {
            Start::NextGroup => Filter::NextGroup,
            Start::Latest => Filter::LargestObject,
            Start::At(at) => Filter::From(at),
        };
        let wait = u64::try_from(rendezvous.as_millis()).unwrap_or(u64::MAX);
        let params = Params {
            filter: Some(filter),
            rendezvous_timeout: Some(wait).filter(|ms| *ms > 0),
            ..Params::default()
        };
        let id = self.inner.next_request();
        let message = Message::Subscribe { id, track: track.clone(), params };
        let (request, answer) = self.ask(&message, rendezvous).await?;
        let Message::SubscribeOk { alias, params, .. } = answer else {
            return Err(WireError::violation("no answer to SUBSCRIBE").into());
        };
        let (events, receiver) = mpsc::channel(self.inner.limits.queue);
        let streams = self.inner.open_route(alias, events.clone())?;
        let control = tokio::spawn(until_done(request, events, streams)).abort_handle();
        let inner = self.inner.clone();
        Ok(QuicSubscription { inner, events: receiver, largest: params.largest, alias, control })
    }

    async fn fetch(&self, track: &TrackName, range: LocationRange) -> Result<QuicFetching, PlaneError> {
        let id = self.inner.next_request();
        let (events, receiver) = mpsc::channel(self.inner.limits.queue);
        self.inner.open_fetch(id, events);
        let pending = PendingFetch { inner: self.inner.clone(), id };
        let kind = FetchKind::Standalone(track.clone(), range);
        let message = Message::Fetch { id, kind, params: Params::default() };
        let (request, answer) = self.ask(&message, Duration::ZERO).await?;
        match answer {
            Message::FetchOk { end, .. } => {
                Ok(QuicFetching { events: receiver, end, pending, request, told: Told::Nothing })
            }
            _ => Err(WireError::violation("no answer to FETCH").into()),
        }
    }

    async fn publish(&self, namespace: &Namespace) -> Result<(), PlaneError> {
        let id = self.inner.next_request();
        let namespace = namespace.clone();
        let message = Message::PublishNamespace { id, namespace, params: Params::default() };
        let (mut request, answer) = self.ask(&message, Duration::ZERO).await?;
        match answer {
            Message::RequestOk { .. } => {}
            _ => return Err(WireError::violation("no answer to PUBLISH_NAMESPACE").into()),
        }
        match request.recv.message().await {
            Ok(Some(_)) => Err(WireError::violation("message after the answer to PUBLISH_NAMESPACE").into()),
            Ok(None) | Err(PlaneError::Reset(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn closed(&self) -> String {
        self.inner.conn.closed().await.to_string()
    }

    fn close(&self) {
        self.inner.close(SessionCode::NoError, "done");
    }
}

/// Waits for PUBLISH_DONE, then for the streams it counts. Aborted when the subscription is dropped, which cancels it.
async fn until_done(mut request: RequestStream, events: Queue<Event>, mut streams: watch::Receiver<u64>) {
    let done = loop {
        match request.recv.message().await {
            Ok(Some(Message::PublishDone { status, streams: count, reason })) => {
                let all = streams.wait_for(|seen| *seen >= count);
                // Those that do not come in time are lost: the subscriber finds the hole.
                let _ = tokio::time::timeout(LATE_STREAMS, all).await;
                break Event::Done(status, reason);
            }
            Ok(Some(_)) => {}
            Ok(None) => break Event::Done(publish_done::INTERNAL, "request stream ended".into()),
            Err(PlaneError::Reset(code)) => {
                break Event::Done(publish_done::INTERNAL, format!("request stream was reset (code {code})"));
            }
            Err(_) => return,
        }
    };
    // The subscription may be gone.
    let _ = events.send(done.into()).await;
}

impl Subscription for QuicSubscription {
    fn largest(&self) -> Option<Location> {
        self.largest
    }

    async fn next(&mut self) -> Result<Event, PlaneError> {
        let queued = self.events.recv().await;
        queued.map(|queued| queued.what).ok_or_else(|| self.inner.closed_error())
    }
}

impl Drop for QuicSubscription {
    fn drop(&mut self) {
        self.control.abort();
        self.inner.close_route(self.alias);
    }
}

impl Fetching for QuicFetching {
    fn end(&self) -> Location {
        self.end
    }

    /// A data stream that is reset may arrive without its header, as a stream of nobody: then the request's stream says it.
    async fn next(&mut self) -> Result<Option<Object>, PlaneError> {
        loop {
            let event = match self.told {
                Told::Nothing => tokio::select! {
                    biased;
                    event = self.events.recv() => event,
                    told = self.request.recv.message() => {
                        self.told = match told {
                            Err(PlaneError::Reset(code)) => Told::Broken(code, Instant::now() + LATE_STREAMS),
                            _ => Told::End,
                        };
                        continue;
                    }
                },
                Told::End => self.events.recv().await,
                Told::Broken(code, until) => match timeout_at(until, self.events.recv()).await {
                    Ok(event) => event,
                    Err(_) => return Err(PlaneError::Reset(code)),
                },
            };
            return match event.map(|queued| queued.what) {
                Some(FetchEvent::Object(object)) => Ok(Some(object)),
                Some(FetchEvent::End) => Ok(None),
                Some(FetchEvent::Failed(e)) => Err(e),
                None => Err(self.pending.inner.closed_error()),
            };
        }
    }
}
