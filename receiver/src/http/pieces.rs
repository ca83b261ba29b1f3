//! What the store has of a resource, put together and sent.

use super::Front;
use super::ask::Ask;
use super::body::Body;
use super::errors::Refusal;
use super::headers::{self, Decision};
use crate::library::{Source, Stored};
use http::header::HeaderValue;
use http::{Response, StatusCode};
use mahp_common::Payload;
use std::sync::Arc;

/// Bytes of a resource that follow on each other.
pub(super) struct Stretch {
    /// Where they begin.
    pub(super) first: u64,
    /// They.
    pub(super) payload: Payload,
    /// Length of the resource, where known.
    pub(super) complete: Option<u64>,
}

impl Stretch {
    /// Of pieces in order, which may overlap. `None`: there are gaps, or nothing.
    pub(super) fn of(pieces: &[Arc<Stored>]) -> Option<Stretch> {
        let first = pieces.first()?.meta.range.map_or(0, |r| r.first);
        let (mut end, mut complete, mut chunks) = (first, None, Vec::new());
        for piece in pieces {
            let from = piece.meta.range.map_or(0, |r| r.first);
            let known = end.checked_sub(from)?;
            let new = piece.payload.slice(known, u64::MAX);
            end += new.len();
            chunks.extend_from_slice(new.chunks());
            complete = complete.or(match piece.meta.range {
                Some(range) => range.complete,
                None => Some(piece.payload.len()),
            });
        }
        Some(Stretch { first, payload: Payload::from_chunks(chunks), complete })
    }

    /// The byte behind them.
    pub(super) const fn end(&self) -> u64 {
        self.first + self.payload.len()
    }
}

/// Whether pieces hold what is asked for: the store is trusted, but wrong bytes are the worst answer.
pub(super) fn covers(pieces: &[Arc<Stored>], range: Option<(u64, Option<u64>)>) -> bool {
    let Some(stretch) = Stretch::of(pieces) else { return false };
    let (end, complete) = (stretch.end(), stretch.complete);
    match range {
        None => stretch.first == 0 && complete.is_none_or(|c| c == end),
        Some((from, to)) => {
            let reaches = to.map_or(complete == Some(end), |to| to < end || complete == Some(end));
            (stretch.first <= from && from < end && reaches) || complete.is_some_and(|c| from >= c)
        }
    }
}

/// The least glorious source is the one that is told.
pub(super) fn worst_source(pieces: &[Arc<Stored>]) -> Source {
    let rank = |s: Source| match s {
        Source::Multicast => 0,
        Source::Repaired => 1,
        Source::Unicast => 2,
    };
    pieces.iter().map(|p| p.source).max_by_key(|s| rank(*s)).unwrap_or(Source::Unicast)
}

/// Answers with pieces of the store; they were found to cover what is asked for.
pub(super) fn send_pieces(
    front: &Front,
    ask: &Ask,
    pieces: &[Arc<Stored>],
    status: HeaderValue,
) -> Response<Body> {
    try_send(front, ask, pieces, status).unwrap_or_else(|| inconsistent(ask))
}

fn try_send(front: &Front, ask: &Ask, pieces: &[Arc<Stored>], status: HeaderValue) -> Option<Response<Body>> {
    let Stretch { first, payload, complete } = Stretch::of(pieces)?;
    let one = pieces.first()?;
    let mut entity = headers::stored_entity(one, complete, front.clock.now(), status);
    if let Some(known) = ask.conditions.if_range.as_ref().filter(|_| ask.conditions.if_range_names(&one.meta))
    {
        // The client goes on under the tag that it knows.
        entity.etag = HeaderValue::from_str(known).ok().filter(|_| known.contains('"')).or(entity.etag);
    }
    let decision = headers::decide(&entity, (first, Some(payload.len())), &ask.conditions);
    Some(headers::answer(entity, decision, || {
        let body = match decision {
            Decision::Part(from, to) => Body::from(payload.slice(from - first, to - first)),
            _ => Body::from(payload),
        };
        let body = body.metered(front.meter(ask, worst_source(pieces)));
        match &ask.cut {
            Some(cut) => body.holding(front.lent.lend(pieces, cut)),
            None => body,
        }
    }))
}

/// The store gave something that does not fit together: nothing is better than wrong bytes.
fn inconsistent(ask: &Ask) -> Response<Body> {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "E-PIECES",
        format!("the pieces of {} do not fit together", ask.url),
        "ask again",
    )
    .response(&ask.headers)
}
