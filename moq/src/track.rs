//! The live window of one track: what subscriptions are served from as objects arrive, and past objects are fetched from.
//!
//! Objects are kept in order of arrival, which is the order subscriptions get them in; the oldest go when the window is
//! full. A subscription that still needs one of those is too far behind and is told so: memory is bounded by the window
//! alone, however slow the subscribers are.

use crate::plane::{Fetched, Object, Promise, Refusal};
use crate::wire::{Location, LocationRange};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::watch;

/// Bounds and rank of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackConfig {
    /// Payload bytes kept; the newest object is kept even when it alone is larger.
    pub bytes: usize,
    /// Objects kept.
    pub objects: usize,
    /// Publisher priority: 0 first, 255 last.
    pub priority: u8,
    /// Whether every group is one subgroup, complete when it ends: so for our own tracks, unknown for relayed ones.
    pub one_subgroup: bool,
}

impl Default for TrackConfig {
    fn default() -> TrackConfig {
        TrackConfig { bytes: 32 << 20, objects: 4096, priority: 128, one_subgroup: true }
    }
}

/// One step of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An object.
    Object(Object),
    /// A subgroup is complete; with `last`, its group is, too.
    EndOfSubgroup {
        /// Which group.
        group: u64,
        /// Which subgroup.
        subgroup: u64,
        /// Whether the group is complete.
        last: bool,
    },
    /// Nothing yet.
    Wait,
    /// The window moved past the subscription.
    Behind,
    /// The track is over.
    Ended,
}

/// The window.
#[derive(Debug)]
pub struct Track {
    config: TrackConfig,
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    log: VecDeque<Entry>,
    /// Sequence number of the first entry of `log`.
    first: u64,
    index: BTreeMap<Location, Object>,
    /// Groups that are complete and of which nothing was evicted.
    complete: BTreeSet<u64>,
    bytes: usize,
    largest: Option<Location>,
    ended: bool,
}

#[derive(Clone, Debug)]
enum Entry {
    Object(Location),
    EndOfSubgroup { group: u64, subgroup: u64, last: bool },
}

impl Track {
    /// An empty window.
    pub fn new(config: TrackConfig) -> Track {
        Track { config, state: Mutex::default(), version: watch::Sender::new(0) }
    }

    /// Its bounds and rank.
    pub fn config(&self) -> &TrackConfig {
        &self.config
    }

    /// Adds an object. Whether it was new: an object never changes, so a second one of the same location is left out.
    pub fn push(&self, object: Object) -> bool {
        let at = object.at;
        {
            let state = &mut *self.lock();
            if state.ended || state.index.contains_key(&at) {
                return false;
            }
            state.largest = state.largest.max(Some(at));
            state.bytes += object.payload.len() + object.properties.len();
            state.index.insert(at, object);
            state.log.push_back(Entry::Object(at));
            state.evict(&self.config);
        }
        self.notify();
        true
    }

    /// No more objects in this group.
    pub fn end_group(&self, group: u64) {
        self.end_subgroup(group, 0, true);
    }

    /// No more objects in this subgroup; with `last`, none in the group either.
    pub fn end_subgroup(&self, group: u64, subgroup: u64, last: bool) {
        {
            let state = &mut *self.lock();
            if state.ended || state.complete.contains(&group) {
                return;
            }
            if last {
                state.complete.insert(group);
            }
            state.log.push_back(Entry::EndOfSubgroup { group, subgroup, last });
            state.evict(&self.config);
        }
        self.notify();
    }

    /// A larger location exists upstream (SUBSCRIBE_OK of a relay's own subscription).
    pub fn raise_largest(&self, at: Location) {
        let state = &mut *self.lock();
        state.largest = state.largest.max(Some(at));
    }

    /// No more objects at all.
    pub fn end(&self) {
        self.lock().ended = true;
        self.notify();
    }

    /// Largest location so far.
    pub fn largest(&self) -> Option<Location> {
        self.lock().largest
    }

    /// Smallest location in the window.
    pub fn oldest(&self) -> Option<Location> {
        self.lock().index.keys().next().copied()
    }

    /// The object at a location, if it is in the window.
    pub fn get(&self, at: Location) -> Option<Object> {
        self.lock().index.get(&at).cloned()
    }

    /// Payload bytes held.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Where a subscription begins that gets what arrives from now on, and the largest location up to here.
    pub fn join(&self) -> (u64, Option<Location>) {
        let state = self.lock();
        (state.first + state.log.len() as u64, state.largest)
    }

    /// A cursor at the oldest entry of the window.
    pub fn cursor_at_start(&self) -> u64 {
        self.lock().first
    }

    /// What is at `cursor`, which moves on.
    pub fn step(&self, cursor: &mut u64) -> Step {
        let state = self.lock();
        let Some(offset) = cursor.checked_sub(state.first) else { return Step::Behind };
        let entry = usize::try_from(offset).ok().and_then(|o| state.log.get(o));
        match entry {
            None if state.ended => Step::Ended,
            None => Step::Wait,
            Some(Entry::EndOfSubgroup { group, subgroup, last }) => {
                *cursor += 1;
                Step::EndOfSubgroup { group: *group, subgroup: *subgroup, last: *last }
            }
            Some(Entry::Object(at)) => {
                *cursor += 1;
                state.index.get(at).cloned().map_or(Step::Behind, Step::Object)
            }
        }
    }

    /// Changes whenever [`Track::step`] may have something new.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// How many hold a receiver of [`Track::watch`].
    pub fn watchers(&self) -> usize {
        self.version.receiver_count()
    }

    /// Whether anybody does.
    pub fn is_watched(&self) -> bool {
        self.watchers() > 0
    }

    /// Objects of a range, from the window. Nothing published, or a start behind the largest object: INVALID_RANGE
    /// (draft-18 section 10.12.3).
    ///
    /// Each is looked up when its turn comes, so that an answer that is read slowly keeps nothing that has left the window.
    pub fn fetch(self: &Arc<Self>, range: LocationRange) -> Result<Fetched, Refusal> {
        let answer = self.answer(range)?;
        let state = self.lock();
        if state.index.keys().next().is_some_and(|oldest| range.last() < *oldest) {
            return Err(Refusal::invalid_range("range is older than the window"));
        }
        let promise = |at: Location| {
            let window = Arc::downgrade(self);
            Promise::new(at, async move { look_up(&window, at) })
        };
        let objects = state.index.range(range.start..=range.last()).map(|(at, _)| promise(*at));
        Ok(Fetched { objects: objects.collect(), ..answer })
    }

    /// The answer to a FETCH, without objects: for a source that has more of them than the window. Refused as by
    /// [`Track::fetch`], but not for its age.
    pub fn answer(&self, range: LocationRange) -> Result<Fetched, Refusal> {
        let state = self.lock();
        let largest = state.largest.ok_or_else(|| Refusal::invalid_range("nothing was published yet"))?;
        if range.is_empty() || range.start > largest {
            return Err(Refusal::invalid_range("range begins behind the largest object"));
        }
        let beyond = range.last() > largest && range.end != Location::new(largest.group, 0);
        let end = if beyond { largest.next() } else { range.end };
        let end_of_track = state.ended && range.last() >= largest;
        Ok(Fetched { end, end_of_track, ..Fetched::default() })
    }

    /// [`Track::fetch`], only when the range lies in one group that is complete here: what a relay may answer by itself.
    pub fn fetch_complete(self: &Arc<Self>, range: LocationRange) -> Option<Fetched> {
        let group = range.start.group;
        let whole = range.last().group == group && self.lock().complete.contains(&group);
        whole.then(|| self.fetch(range).ok()).flatten()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can panic: there are none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.version.send_modify(|v| *v += 1);
    }
}

fn look_up(window: &Weak<Track>, at: Location) -> Result<Object, Refusal> {
    let found = window.upgrade().and_then(|window| window.get(at));
    found.ok_or_else(|| Refusal::does_not_exist("has left the window"))
}

impl State {
    fn evict(&mut self, config: &TrackConfig) {
        while (self.index.len() > 1 && self.bytes > config.bytes) || self.log.len() > config.objects.max(2) {
            match self.log.pop_front() {
                Some(Entry::Object(at)) => {
                    self.complete.remove(&at.group);
                    if let Some(object) = self.index.remove(&at) {
                        self.bytes -= object.payload.len() + object.properties.len();
                    }
                }
                Some(Entry::EndOfSubgroup { group, .. }) => {
                    self.complete.remove(&group);
                }
                None => {}
            }
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn object(group: u64, object: u64, len: usize) -> Object {
        Object::new(Location::new(group, object), Bytes::from(vec![group as u8; len]))
    }

    #[test]
    fn a_slow_cursor_is_behind_and_memory_stays() {
        let track = Track::new(TrackConfig { bytes: 1000, objects: 100, ..TrackConfig::default() });
        let mut slow = track.cursor_at_start();
        for group in 0..50 {
            assert!(track.push(object(group, 0, 100)));
            track.end_group(group);
            assert!(track.bytes() <= 1000);
        }
        assert_eq!(track.step(&mut slow), Step::Behind);
        let mut cursor = track.cursor_at_start();
        let mut seen = Vec::new();
        loop {
            match track.step(&mut cursor) {
                Step::Object(o) => seen.push(o.at.group),
                Step::EndOfSubgroup { .. } => {}
                other => break assert_eq!(other, Step::Wait),
            }
        }
        assert_eq!(seen, (40..50).collect::<Vec<_>>());
        assert!(!track.push(object(49, 0, 1)), "an object never changes");
    }

    #[test]
    fn the_newest_object_stays_though_it_is_larger_than_the_window() {
        let track = Track::new(TrackConfig { bytes: 100, ..TrackConfig::default() });
        for group in 0..3 {
            track.push(object(group, 0, 500));
            track.end_group(group);
            assert_eq!((track.oldest(), track.bytes()), (Some(Location::new(group, 0)), 500));
        }
    }

    /// Bytes of which we can see whether somebody has them.
    struct Seen {
        _held: Arc<()>,
    }

    impl AsRef<[u8]> for Seen {
        fn as_ref(&self) -> &[u8] {
            b"seen"
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_keeps_nothing_that_has_left_the_window() {
        let track = Arc::new(Track::new(TrackConfig { bytes: 12, ..TrackConfig::default() }));
        let held = Arc::new(());
        for group in 0..3 {
            let payload = Bytes::from_owner(Seen { _held: held.clone() });
            track.push(Object::new(Location::new(group, 0), payload));
        }
        let answer = track.fetch(LocationRange::groups(0, 2)).unwrap();
        track.push(object(3, 0, 8));
        assert_eq!((answer.objects.len(), Arc::strong_count(&held)), (3, 1 + 1));
        let mut found = Vec::new();
        for promise in answer.objects {
            found.push(promise.get().await.map_err(|refusal| refusal.is_absence()).map(|o| o.at.group));
        }
        assert_eq!(found, [Err(true), Err(true), Ok(2)]);
    }

    #[test]
    fn fetch_says_where_it_ends() {
        let track = Arc::new(Track::new(TrackConfig::default()));
        assert!(track.fetch(LocationRange::groups(0, 5)).is_err());
        for group in 3..6 {
            track.push(object(group, 0, 10));
            track.push(object(group, 1, 10));
        }
        let all = track.fetch(LocationRange::groups(0, 9)).unwrap();
        assert_eq!((all.objects.len(), all.end), (6, Location::new(5, 2)));
        let one = track.fetch(LocationRange::objects(4, 1, 1)).unwrap();
        assert_eq!((one.objects.len(), one.end), (1, Location::new(4, 2)));
        let last = track.fetch(LocationRange::groups(5, 5)).unwrap();
        assert_eq!((last.objects.len(), last.end), (2, Location::new(5, 0)));
        assert!(track.fetch(LocationRange::groups(6, 6)).is_err());
        assert!(
            track.fetch(LocationRange::groups(0, 2)).is_err(),
            "older than the window: unknown, not absent"
        );
    }

    proptest! {
        #[test]
        fn fetch_is_exactly_the_range(
            at in proptest::collection::btree_set((0..6u64, 0..6u64), 1..30),
            start in (0..7u64, 0..7u64), end in (0..7u64, 0..7u64),
        ) {
            let track = Arc::new(Track::new(TrackConfig::default()));
            for (g, o) in &at {
                track.push(object(*g, *o, 1));
            }
            let range =
                LocationRange { start: Location::new(start.0, start.1), end: Location::new(end.0, end.1) };
            let expected: Vec<Location> =
                at.iter().map(|(g, o)| Location::new(*g, *o)).filter(|l| range.contains(*l)).collect();
            match track.fetch(range) {
                Ok(fetched) => {
                    prop_assert_eq!(fetched.objects.iter().map(|o| o.at).collect::<Vec<_>>(), expected);
                }
                Err(_) => prop_assert!(expected.is_empty()),
            }
        }
    }
}
