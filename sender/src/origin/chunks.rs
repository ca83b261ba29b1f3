//! Segments of a low-latency MPD (`@availabilityTimeOffset`): the origin serves each while it is being made, and each of its CMAF
//! chunks is an object of its own, a byte range of the segment, that leaves as soon as it is here.
//!
//! The segment is not sent again: behind its last chunk, receivers are told how to put it together ([`Recipe`]). One that the
//! origin has whole, or that has no chunks, is sent whole.

use super::parts::again;
use super::{Origin, Want};
use bytes::{Bytes, BytesMut};
use mahp_common::chunks::Cutter;
use mahp_common::recipe::Recipe;
use mahp_common::{ByteRange, Object, ObjectMeta, limits};
use mahp_runtime::fetch::{FetchError, Request};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Segments that grow at a time: further ones are sent whole.
const GROWING: usize = 4;
/// Objects on their way to the outbox.
const QUEUE: usize = 8;
/// Attempts at a segment that should have begun, and the pause between them: clocks differ by a little.
const ATTEMPTS: (u32, Duration) = (10, Duration::from_millis(100));
/// Until the headers of a segment that should have begun.
const FIRST_BYTE: Duration = Duration::from_secs(8);
/// Silence within a segment after which the connection is given up.
const SILENCE: Duration = Duration::from_secs(8);

/// See the module.
#[derive(Debug)]
pub struct Chunks {
    origin: Origin,
    growing: JoinSet<()>,
    tell: mpsc::Sender<Ready>,
    ready: mpsc::Receiver<Ready>,
}

/// What can be sent.
#[derive(Debug)]
pub enum Ready {
    /// A chunk, a whole segment, or how one is put together.
    Object(Box<Object>),
    /// Nothing of this segment could be had: it is to be fetched as any other.
    Whole(Box<Want>, u64),
}

impl Chunks {
    /// None yet.
    pub fn new(origin: Origin) -> Chunks {
        let (tell, ready) = mpsc::channel(QUEUE);
        Chunks { origin, growing: JoinSet::new(), tell, ready }
    }

    /// Follows a segment that has begun. Returns it if it has to be fetched whole. `sequence`: handed back with it.
    pub fn follow(&mut self, want: Want, sequence: u64) -> Option<Want> {
        while self.growing.try_join_next().is_some() {}
        if self.growing.len() >= GROWING || want.range.is_some() {
            return Some(want);
        }
        self.growing.spawn(grow(self.origin.clone(), want, sequence, self.tell.clone()));
        None
    }

    /// The next that can be sent. Pends while there is nothing. Cancel safe.
    pub async fn next(&mut self) -> Ready {
        match self.ready.recv().await {
            Some(ready) => ready,
            // It cannot be closed: one end to write is here.
            None => std::future::pending().await,
        }
    }

    /// Whether no segment grows, and everything was taken.
    pub fn is_idle(&mut self) -> bool {
        while self.growing.try_join_next().is_some() {}
        self.growing.is_empty() && self.ready.is_empty()
    }
}

async fn grow(origin: Origin, want: Want, sequence: u64, tell: mpsc::Sender<Ready>) {
    let mut sent = Vec::new();
    let mut attempt = 1;
    let whole = loop {
        match stream(&origin, &want, &mut sent, &tell).await {
            Ok(whole) => break Ok(whole),
            // What has left stays what it was: the rest has to be fetched.
            Err(_) if !sent.is_empty() => break again(&origin, &want).await,
            Err(e) if attempt == ATTEMPTS.0 => break Err(e),
            Err(_) => sleep(ATTEMPTS.1).await,
        }
        attempt += 1;
    };
    let last = match whole {
        Ok(whole) => finish(whole, sent).into_iter().map(|object| Ready::Object(Box::new(object))).collect(),
        Err(e) if sent.is_empty() => {
            tracing::debug!("{e}; the segment is fetched whole");
            vec![Ready::Whole(Box::new(want), sequence)]
        }
        Err(e) => {
            tracing::warn!("{e}; receivers get the rest of this segment from the origin");
            Vec::new()
        }
    };
    for ready in last {
        // Its reader lives as long as the task.
        let _ = tell.send(ready).await;
    }
}

/// Reads a segment to its end, and sends its chunks as they come, if the origin does not know its length yet: it is being made.
async fn stream(
    origin: &Origin,
    want: &Want,
    sent: &mut Vec<Object>,
    tell: &mpsc::Sender<Ready>,
) -> Result<Object, FetchError> {
    let request = Request {
        first_byte_timeout: Some(FIRST_BYTE),
        timeout: Some(SILENCE),
        max_bytes: Some(limits::OBJECT_BYTES),
        ..Request::default()
    };
    let mut opened = origin.open(&want.url, request).await?;
    let meta = ObjectMeta {
        media_time: want.media_time,
        ..origin.meta(&want.url, &opened.headers, &opened.final_url, want.kind)
    };
    let grows = opened.length.is_none();
    let (mut whole, mut cutter, mut at) = (BytesMut::new(), Cutter::default(), 0);
    while let Some(bytes) = opened.chunk().await? {
        whole.extend_from_slice(&bytes);
        if !grows {
            continue;
        }
        cutter.push(&bytes);
        while let Some(chunk) = cutter.chunk() {
            let available_at = Some(origin.clock.wall().unix_millis());
            let chunk = piece(&ObjectMeta { available_at, ..meta.clone() }, at, chunk);
            at += chunk.data.len() as u64;
            sent.push(chunk.clone());
            // Its reader lives as long as the task.
            let _ = tell.send(Ready::Object(Box::new(chunk))).await;
        }
    }
    Ok(Object::new(ObjectMeta { duration: want.duration, ..meta }, whole.freeze()))
}

/// A part of a segment whose length is not known yet.
fn piece(meta: &ObjectMeta, first: u64, bytes: Bytes) -> Object {
    let last = (first + bytes.len() as u64).saturating_sub(1);
    let range = Some(ByteRange { first, last, complete: None });
    Object::new(ObjectMeta { range, ..meta.clone() }, bytes)
}

/// What is to be sent of a complete segment whose first chunks have left: what is behind them, and how it is put together; or
/// the whole of it.
fn finish(whole: Object, mut sent: Vec<Object>) -> Vec<Object> {
    let at: usize = sent.iter().map(|chunk| chunk.data.len()).sum();
    let rest = whole.data.get(at..).filter(|rest| at > 0 && !rest.is_empty());
    let rest = rest.map(|rest| piece(&whole.meta, at as u64, whole.data.slice_ref(rest)));
    sent.extend(rest.clone());
    match Recipe::of(&whole, &sent) {
        Some(recipe) => rest.into_iter().chain([recipe]).collect(),
        None => vec![whole],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(data: &'static [u8]) -> Object {
        let meta = ObjectMeta { url: "http://o/1.m4s".into(), ..ObjectMeta::default() };
        Object::new(meta, data.into())
    }

    fn sent(chunks: &[&'static [u8]]) -> Vec<Object> {
        let mut at = 0;
        let chunk = |bytes: &&'static [u8]| {
            let chunk = piece(&object(b"").meta, at, Bytes::from_static(bytes));
            at += bytes.len() as u64;
            chunk
        };
        chunks.iter().map(chunk).collect()
    }

    #[test]
    fn behind_its_chunks_goes_what_is_left_and_how_to_put_it_together() {
        let out = finish(object(b"abcdef"), sent(&[b"abc", b"def"]));
        assert_eq!(out.len(), 1);
        assert!(Recipe::is(&out[0].meta) && out[0].meta.range.is_none());
        let out = finish(object(b"abcdef"), sent(&[b"abc"]));
        assert_eq!(out.len(), 2);
        assert_eq!(out[0].meta.range.map(|r| (r.first, r.last, r.complete)), Some((3, 5, None)));
        assert_eq!(&out[0].data[..], b"def");
        let pieces = Recipe::read(&out[1].data).expect("a recipe").pieces;
        assert_eq!(pieces.iter().map(|p| p.range).collect::<Vec<_>>(), [Some((0, 2)), Some((3, 5))]);
    }

    #[test]
    fn a_segment_that_is_not_its_chunks_goes_whole() {
        let other: [&[&'static [u8]]; 3] = [&[], &[b"abd"], &[b"abc", b"defg"]];
        for chunks in other {
            let out = finish(object(b"abcdef"), sent(chunks));
            assert_eq!(out, [object(b"abcdef")]);
        }
    }
}
