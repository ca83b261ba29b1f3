//! Answers that grow: a segment that is still being made, of which chunks are here. What is here is sent, and more as it comes.
//! The answer has no length; it ends when the segment is known to, or is broken off.

use super::Front;
use super::ask::Ask;
use super::body::{Body, BodyError};
use super::headers;
use super::media;
use super::pieces::{Stretch, worst_source};
use super::send::send_stream;
use crate::library::{Availability, Stored};
use crate::origin::Want;
use crate::origin::flight::End;
use crate::served::Why;
use bytes::Bytes;
use http::{Method, Response};
use mahp_common::Payload;
use mahp_common::catalog::Format;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A chunk is left to multicast, and what mends its losses, for this long beyond twice its duration.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Times that the origin is asked for the rest of one answer.
const ATTEMPTS: u32 = 3;

/// The first chunk of what is asked for, if that is a segment which comes in chunks, and not complete.
pub(super) fn begun(front: &Front, ask: &Ask) -> Option<Arc<Stored>> {
    let channel = ask.channel.as_ref()?;
    let by_chunks = channel.live && channel.format == Format::Dash && channel.part_target_ms.is_some();
    let whole = ask.conditions.bounds().is_none() && ask.method == Method::GET;
    (by_chunks && whole).then(|| front.multicast.piece(&ask.url, 0)).flatten()
}

/// Sends a segment from its first chunk on.
pub(super) fn send_growing(front: &Arc<Front>, ask: &Ask, first: &Arc<Stored>) -> Response<Body> {
    let source = worst_source(std::slice::from_ref(first));
    let mut entity = headers::stored_entity(first, None, front.clock.now(), headers::hit(source));
    // That of a chunk.
    entity.etag = None;
    let part =
        ask.channel.as_ref().and_then(|c| c.part_target_ms).map_or(Duration::ZERO, Duration::from_millis);
    send_stream(front, ask, source, entity, (0, None), || {
        let growing = Growing {
            front: front.clone(),
            want: media::want(ask, Why::Fallback),
            changes: front.multicast.changes(),
            patience: part * 2 + PATIENCE,
            at: 0,
            attempts: 0,
            rest: Payload::default(),
            ends: false,
        };
        Body::unfold(growing, |mut growing| async move {
            let next = growing.next().await?;
            Ok(next.map(|bytes| (bytes, growing)))
        })
    })
}

/// One answer on its way.
struct Growing {
    front: Arc<Front>,
    want: Want,
    changes: watch::Receiver<u64>,
    patience: Duration,
    /// Bytes handed on, and at hand.
    at: u64,
    /// Times that the origin was asked.
    attempts: u32,
    /// At hand.
    rest: Payload,
    /// Nothing comes behind that.
    ends: bool,
}

impl Growing {
    /// The next bytes; none: that was all.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let mut due = Instant::now() + self.patience;
        loop {
            if let Some(bytes) = self.take() {
                return Ok(Some(bytes));
            }
            if self.ends {
                return Ok(None);
            }
            self.changes.mark_unchanged();
            if self.look() {
                continue;
            }
            tokio::select! {
                () = media::changed(&mut self.changes) => {}
                () = sleep_until(due) => {
                    self.ask_the_origin().await?;
                    due = Instant::now() + self.patience;
                }
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let bytes = self.rest.chunks().first()?.clone();
        self.rest = self.rest.slice(bytes.len() as u64, u64::MAX);
        Some(bytes)
    }

    /// Takes what is here. Whether that led on.
    fn look(&mut self) -> bool {
        let library = &self.front.multicast;
        let here = match library.demand(&self.want.url, Some((self.at, None))) {
            Availability::Here(pieces) => Stretch::of(&pieces),
            _ => library.piece(&self.want.url, self.at).and_then(|piece| Stretch::of(&[piece])),
        };
        here.is_some_and(|here| self.go_on(&here))
    }

    fn go_on(&mut self, here: &Stretch) -> bool {
        if here.first <= self.at && self.at < here.end() {
            self.rest = here.payload.slice(self.at - here.first, u64::MAX);
            self.at = here.end();
        } else if here.complete != Some(self.at) {
            return false;
        }
        self.ends = here.complete == Some(self.at);
        true
    }

    /// A chunk did not come: the rest of the segment, as far as the origin has it. It is stored, for whoever else waits.
    async fn ask_the_origin(&mut self) -> Result<(), BodyError> {
        let url = self.want.url.clone();
        let broken = |why: &str| Err(BodyError(format!("{url}: {why}")));
        if !self.front.options.unicast || self.attempts == ATTEMPTS {
            return broken("its next chunk did not come");
        }
        self.attempts += 1;
        let want = Want { range: Some((self.at, None)), ..self.want.clone() };
        match self.front.origins.fetch(want).ended().await {
            End::Stored(_) => Ok(()),
            End::Private(fetched) => {
                let (first, payload) = (fetched.head.range.map_or(0, |r| r.first), fetched.payload.clone());
                let complete = Some(first + payload.len());
                match self.go_on(&Stretch { first, payload, complete }) {
                    true => Ok(()),
                    false => broken("the origin sent another part than asked for"),
                }
            }
            End::Failed(why) => broken(&why),
            _ => broken("the origin does not send the rest"),
        }
    }
}
