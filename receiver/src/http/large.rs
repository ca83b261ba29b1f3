//! Bodies that are too large to be kept whole: passed on as they come, with back-pressure.

use super::Front;
use super::ask::Ask;
use super::body::{Body, BodyError};
use super::errors::Refusal;
use super::headers::{self, Decision};
use super::media;
use super::send::{have, origin_entity, send_stream};
use crate::freshness::lifetime;
use crate::library::Source;
use crate::origin::flight::Large;
use crate::origin::upstream::{Answer, Head};
use crate::origin::{Want, meta};
use crate::served::Why;
use bytes::Bytes;
use http::{HeaderMap, Response};
use mahp_common::{ByteRange, Digest, ObjectMeta};
use std::sync::Arc;
use std::time::Duration;

/// Blocks of a range that are stored as they pass.
const BLOCK: usize = 1 << 20;
/// How many of them, for one request: the store is for what is watched by more than one.
const BLOCKS_MAX: usize = 64;
/// To skip more than this of a body, it is asked for again by range.
const SKIP_MAX: u64 = 1 << 20;

/// Passes a large body on as it comes; of a range, blocks are stored on the way.
pub(super) async fn send_large(front: &Arc<Front>, ask: &Ask, large: Large) -> Response<Body> {
    let (entity, have) = (origin_entity(ask, &large.answer.head), have(&large.answer.head));
    let skip = match headers::decide(&entity, have, &ask.conditions) {
        Decision::Part(first, last) if first.saturating_sub(have.0) > SKIP_MAX => Some((first, Some(last))),
        _ => None,
    };
    let Some(range) = skip else { return stream_large(front, ask, large) };
    drop(large);
    let want = Want { range: Some(range), ..media::want(ask, Why::Fallback) };
    match front.origins.open(&want, want.range, HeaderMap::new()).await {
        // If the origin ignores ranges, what comes before is skipped.
        Ok(answer) => stream_large(front, ask, Large { prefix: Vec::new(), answer }),
        Err(e) => Refusal::no_source(ask.url.as_str(), &e.to_string()).response(&ask.headers),
    }
}

fn stream_large(front: &Arc<Front>, ask: &Ask, large: Large) -> Response<Body> {
    let Large { prefix, answer: Answer { head, body } } = large;
    let (entity, have) = (origin_entity(ask, &head), have(&head));
    let tee = Tee::new(front, ask, &head);
    let counted = front.clone();
    let state = (prefix.into_iter(), body, tee);
    send_stream(front, ask, Source::Unicast, entity, have, move || {
        Body::unfold(state, move |(mut prefix, mut body, mut tee)| {
            let front = counted.clone();
            async move {
                let piece = match prefix.next() {
                    Some(piece) => piece,
                    None => match body.chunk().await.map_err(|e| BodyError(e.to_string()))? {
                        Some(piece) => {
                            front.served.fetched(Why::Fallback, piece.len() as u64);
                            piece
                        }
                        None => return Ok(None),
                    },
                };
                if let Some(tee) = &mut tee {
                    tee.add(&piece);
                }
                Ok(Some((piece, (prefix, body, tee))))
            }
        })
    })
}

/// Stores blocks of a range of a large file as they pass.
struct Tee {
    front: Arc<Front>,
    meta: ObjectMeta,
    range: ByteRange,
    block: Vec<u8>,
    blocks: usize,
    good_for: Duration,
}

impl Tee {
    fn new(front: &Arc<Front>, ask: &Ask, head: &Head) -> Option<Tee> {
        let range = head.range.filter(|r| r.complete.is_some() && headers::may_store(&head.headers))?;
        if !ask.credentials.0.is_empty() {
            return None;
        }
        let want = media::want(ask, Why::Fallback);
        let (meta, good_for) = (meta(&want, head), lifetime(&head.headers));
        Some(Tee { front: front.clone(), meta, range, block: Vec::new(), blocks: 0, good_for })
    }

    fn add(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.blocks < BLOCKS_MAX {
            let (now, later) = piece.split_at(piece.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            piece = later;
            let at_end = self.range.first + self.block.len() as u64 > self.range.last;
            if self.block.len() == BLOCK || at_end {
                self.store();
            }
        }
    }

    fn store(&mut self) {
        let bytes = Bytes::from(std::mem::take(&mut self.block));
        let len = bytes.len() as u64;
        let mut meta = self.meta.clone();
        meta.range = Some(ByteRange { last: self.range.first + len - 1, ..self.range });
        meta.length = len;
        meta.digest = Some(Digest::of(&bytes));
        self.range.first += len;
        self.blocks += 1;
        self.front.multicast.put(meta, bytes, self.good_for);
    }
}
