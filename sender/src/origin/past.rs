//! The past of an EVENT playlist: the segments before those that the follower began with. An EVENT playlist keeps them all, and
//! viewers seek back.
//!
//! The live edge comes first. One segment of the past may leave for each new one, when nothing else waits and the flow's rate
//! has room for two: newest first, as viewers look back from the edge, once; with `--loop` then again and again, oldest first,
//! for those who join late.

use super::hls::{NewSegment, Version, new_segment};
use super::{Origin, Want};
use crate::sink::Item;
use mahp_common::manifest::hls::PlaylistType;
use mahp_common::{Object, ObjectKind};
use std::collections::{BTreeSet, VecDeque};
use tokio::task::JoinSet;

/// Segments that may be made up for when the live edge left no time.
const CREDIT_MAX: usize = 2;

/// See the module.
pub struct Past {
    origin: Origin,
    repeat: bool,
    carry_keys: bool,
    /// Media sequence number of the first segment that was sent at the edge; none: no EVENT playlist was seen.
    begun: Option<u64>,
    left: VecDeque<NewSegment>,
    /// What is in `left` was sent before.
    again: bool,
    credit: usize,
    /// Init segments and keys that were sent in this round, or at the edge.
    sent: BTreeSet<String>,
    request: JoinSet<Vec<Object>>,
}

impl Past {
    /// Has seen no playlist. `repeat`: again and again; `carry_keys`: keys too.
    pub fn new(origin: Origin, repeat: bool, carry_keys: bool) -> Past {
        Past {
            origin,
            repeat,
            carry_keys,
            begun: None,
            left: VecDeque::new(),
            again: false,
            credit: 0,
            sent: BTreeSet::new(),
            request: JoinSet::new(),
        }
    }

    /// A version of the playlist, of which these segments are new.
    pub fn seen(&mut self, version: &Version, new: &[NewSegment]) {
        let event = version.media.playlist_type == Some(PlaylistType::Event) && !version.media.endlist;
        let room = self.origin.segments_at_start > 1;
        let (true, Some(first)) = (event && room, new.first()) else { return };
        self.credit = (self.credit + new.len()).min(CREDIT_MAX);
        match self.begun {
            None => {
                self.begun = Some(first.sequence);
                self.left = before(version, first.sequence).rev().collect();
            }
            Some(_) if self.repeat && self.left.is_empty() => {
                self.again = true;
                self.sent.clear();
                self.left = before(version, first.sequence).collect();
            }
            Some(_) => {}
        }
        let newest = new.last().into_iter().flat_map(|s| s.map.iter().chain(&s.keys));
        self.sent.extend(newest.map(|want| self.origin.key(want)));
    }

    /// The origin began anew: what was there is gone.
    pub fn forget(&mut self) {
        *self = Past::new(self.origin.clone(), self.repeat, self.carry_keys);
    }

    /// Whether there is something to do, now that nothing else waits.
    pub fn is_due(&self) -> bool {
        !self.request.is_empty() || (self.credit > 0 && !self.left.is_empty())
    }

    /// The next segment with what it needs, or nothing if the origin does not have it. Cancel safe.
    pub async fn next(&mut self) -> Vec<Item> {
        if self.request.is_empty()
            && let Some(segment) = self.left.pop_front()
        {
            self.credit = self.credit.saturating_sub(1);
            let keys = segment.keys.into_iter().filter(|_| self.carry_keys).chain(segment.map);
            let mut wants: Vec<Want> = keys.filter(|w| self.sent.insert(self.origin.key(w))).collect();
            wants.push(segment.want);
            self.request.spawn(load(self.origin.clone(), wants));
        }
        let objects = match self.request.join_next().await {
            Some(Ok(objects)) => objects,
            _ => Vec::new(),
        };
        objects.into_iter().map(|object| Item { repeat: self.again, ..Item::new(object) }).collect()
    }
}

/// The segments before a media sequence number, in order.
fn before(version: &Version, sequence: u64) -> impl DoubleEndedIterator<Item = NewSegment> + '_ {
    let old = version.media.segments.iter().filter(move |s| s.sequence < sequence && !s.gap);
    old.filter_map(|s| new_segment(version, s))
}

async fn load(origin: Origin, wants: Vec<Want>) -> Vec<Object> {
    let mut objects = Vec::with_capacity(wants.len());
    for want in wants {
        match origin.fetch(&want).await {
            Ok(mut object) => {
                if object.meta.kind == ObjectKind::Media {
                    object.meta.available_at = Some(0);
                }
                objects.push(object);
            }
            // It stays with the origin, where players find what it has.
            Err(e) => {
                tracing::debug!("{e}");
                return Vec::new();
            }
        }
    }
    objects
}
