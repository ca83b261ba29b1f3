//! The parts of a low-latency playlist (EXT-X-PART): each is an object of its own and leaves as soon as it exists.
//!
//! A segment whose parts have left is not sent again. It is fetched and compared with them, and receivers are told how to put
//! it together ([`Recipe`]); one that is not its parts, byte for byte, is sent whole.

use super::hls::{NewSegment, Version, new_segment};
use super::{Origin, Want};
use mahp_common::Object;
use mahp_common::manifest::hls::Segment;
use mahp_common::recipe::Recipe;
use mahp_runtime::fetch::FetchError;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Segments whose parts are kept until the segment has been compared with them.
const SEGMENTS: usize = 4;
/// Attempts at a segment to compare, and the pause between them.
const ATTEMPTS: (u32, Duration) = (4, Duration::from_millis(500));

/// See the module.
#[derive(Debug)]
pub struct Parts {
    origin: Origin,
    /// Media sequence number and number of the newest part seen.
    newest: Option<(u64, u64)>,
    segments: VecDeque<Collected>,
    /// Sequence numbers of which the newest version lists parts.
    listed: Vec<u64>,
    requests: JoinSet<(u64, Result<Object, FetchError>)>,
}

/// A segment of which parts were sent.
#[derive(Debug)]
struct Collected {
    sequence: u64,
    /// In order, with the key under which each was wanted.
    parts: Vec<(String, Option<Object>)>,
    whole: Option<Object>,
}

/// A whole segment, parts of which have left.
///
/// # Errors
/// Of the last attempt.
pub(super) async fn again(origin: &Origin, want: &Want) -> Result<Object, FetchError> {
    let mut attempt = 1;
    loop {
        match origin.fetch(want).await {
            Err(_) if attempt < ATTEMPTS.0 => sleep(ATTEMPTS.1).await,
            result => return result,
        }
        attempt += 1;
    }
}

impl Parts {
    /// None yet.
    pub fn new(origin: Origin) -> Parts {
        Parts {
            origin,
            newest: None,
            segments: VecDeque::new(),
            listed: Vec::new(),
            requests: JoinSet::new(),
        }
    }

    /// The origin began anew.
    pub fn restart(&mut self) {
        *self = Parts::new(self.origin.clone());
    }

    /// What a version of the playlist brings: at first the parts of the newest segment and of the one that follows.
    pub fn update(&mut self, version: &Version) -> Vec<NewSegment> {
        let media = &version.media;
        self.listed = media.parts.iter().map(|p| p.sequence).collect();
        self.listed.dedup();
        let begin = media.segments.last().map_or(media.media_sequence, |s| s.sequence);
        let mut new = Vec::new();
        for part in media.parts.iter().filter(|p| !p.gap) {
            let place = (part.sequence, part.number);
            if self.newest.map_or(part.sequence < begin, |newest| place <= newest) {
                continue;
            }
            let like_a_segment = Segment {
                uri: part.uri.clone(),
                sequence: part.sequence,
                duration: part.duration,
                range: part.range,
                map: part.map.clone(),
                keys: part.keys.clone(),
                ..Segment::default()
            };
            let Some(part) = new_segment(version, &like_a_segment) else { continue };
            self.newest = Some(place);
            self.collect(place, self.origin.key(&part.want));
            new.push(part);
        }
        new
    }

    fn collect(&mut self, (sequence, number): (u64, u64), key: String) {
        match self.segments.back_mut().filter(|s| s.sequence == sequence) {
            // One that is missing between others: it cannot be put together any more.
            Some(segment) if segment.parts.len() as u64 == number => segment.parts.push((key, None)),
            Some(_) => {}
            None if number == 0 => {
                self.segments.push_back(Collected { sequence, parts: vec![(key, None)], whole: None });
            }
            None => {}
        }
        if self.segments.len() > SEGMENTS {
            self.segments.pop_front();
        }
    }

    /// Whether any part was seen.
    pub fn has_begun(&self) -> bool {
        self.newest.is_some()
    }

    /// Whether the newest version lists parts of this segment.
    pub fn lists(&self, sequence: u64) -> bool {
        self.listed.contains(&sequence)
    }

    /// A segment is complete. Returns it if it has to be sent whole: no part of it was.
    pub fn complete(&mut self, segment: NewSegment) -> Option<NewSegment> {
        let sequence = segment.sequence;
        if !self.segments.iter().any(|s| s.sequence == sequence) {
            return Some(segment);
        }
        let origin = self.origin.clone();
        self.requests.spawn(async move { (sequence, again(&origin, &segment.want).await) });
        None
    }

    /// An object was fetched and is on its way. Returns what is to be sent behind it: how a segment is put together.
    pub fn fetched(&mut self, object: &Object) -> Option<Object> {
        let key = self.origin.key_of(object);
        let sequence = self.segments.iter_mut().rev().find_map(|s| {
            let (_, part) = s.parts.iter_mut().find(|(k, _)| *k == key)?;
            *part = Some(object.clone());
            Some(s.sequence)
        })?;
        self.finish(sequence)
    }

    /// The next segment that can be described, or has to be sent whole. Pends while there is none. Cancel safe.
    pub async fn next(&mut self) -> Object {
        loop {
            match self.requests.join_next().await {
                Some(Ok((sequence, Ok(whole)))) => {
                    if let Some(segment) = self.segments.iter_mut().find(|s| s.sequence == sequence) {
                        segment.whole = Some(whole);
                    }
                    if let Some(object) = self.finish(sequence) {
                        return object;
                    }
                }
                Some(Ok((_, Err(e)))) => tracing::warn!("{e}; receivers get this segment from the origin"),
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Whether a segment is still to be compared.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    fn finish(&mut self, sequence: u64) -> Option<Object> {
        let at = self.segments.iter().position(|s| s.sequence == sequence)?;
        let segment = self.segments.get(at)?;
        let whole = segment.whole.clone()?;
        let parts: Option<Vec<Object>> = segment.parts.iter().map(|(_, object)| object.clone()).collect();
        let parts = parts?;
        self.segments.remove(at);
        let recipe = Recipe::of(&whole, &parts);
        if recipe.is_none() {
            tracing::debug!(url = whole.meta.url, "this segment is not its parts: sent whole");
        }
        Some(recipe.unwrap_or(whole))
    }
}
