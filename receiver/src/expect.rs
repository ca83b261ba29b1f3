//! What multicast will still bring: the part of the decision ladder (DESIGN section 5) that has to guess. Pure.
//!
//! One [`Hearing`] per rendition remembers what was heard of it: when packets came, which objects began in which order, and
//! how playlists order their segments. [`Hearing::verdict`] then tells of an object that is not in the store whether it
//! is coming, can be expected (the live edge), or is not worth waiting for.

use crate::library::ResourceKey;
use mahp_common::session::recv::Progress;
use mahp_common::{ObjectKind, Time};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// An object at the live edge is waited for at most this much longer than the cadence says.
const SLACK_MAX: Duration = Duration::from_millis(2500);
/// A rendition is silent after this, or 1.5 target durations (1.5 s more than one at most) if that is longer.
const SILENCE_MIN: Duration = Duration::from_secs(2);
/// A described object whose first symbol is not here after this was missed.
const START_MAX: Duration = Duration::from_millis(1500);
/// Symbols of an object that is not described are followed by others, or by its description, within this time.
const NAMELESS_MAX: Duration = Duration::from_millis(500);
/// Announced objects and positions remembered per rendition.
const REMEMBERED: usize = 1024;
/// Positions start here, so that a playlist can be taught backwards.
const ORIGIN: u64 = 1 << 32;
/// Between two playlists that have nothing in common.
const GAP: u64 = 10_000;
/// Starts that the cadence is taken from.
const STARTS: usize = 9;
/// Expected completion of an object that has stalled: far away.
pub const STALLED: Duration = Duration::from_secs(60);

/// What is known of how a flow sends, for estimates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowRate {
    /// Pacing rate of the flow, bit/s; 0 = unknown.
    pub rate_bps: u64,
    /// Encoding symbol length T.
    pub symbol_size: u16,
    /// Repair symbols per hundred source symbols.
    pub repair_percent: u32,
    /// Recent share of source symbols that did not arrive.
    pub loss: f64,
}

/// Why nothing is coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Absent {
    /// No packet for too long.
    Silent,
    /// It was sent already: before the join, or it was lost.
    Passed,
    /// A playlist that came by multicast lists it, so it has been sent.
    Listed,
    /// The live edge should have brought it by now.
    Overdue,
    /// Carousel of a film: it comes round some time, but nobody waits that long.
    Carousel,
}

/// Of an object that is not in the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Under assembly.
    Coming {
        /// When it should be complete.
        expected_by: Time,
        /// Share of needed symbols here.
        progress: f32,
    },
    /// Not begun, but it should soon.
    Expected {
        /// Not reasonable to wait longer.
        until: Time,
    },
    /// Not worth waiting for.
    NotComing(Absent),
}

#[derive(Clone, Copy, Debug)]
struct Announced {
    at: Time,
    /// Listed first in its FDT Instance: it was being sent when it was described.
    begun: bool,
    /// From long before the live edge: says nothing of what comes next.
    past: bool,
    /// For parts of a file: the last byte heard of so far.
    last_byte: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Hearing {
    live: bool,
    target: Duration,
    joined_at: Time,
    last_packet: Option<Time>,
    /// Last symbol of an object that is not described.
    nameless: Option<Time>,
    starts: VecDeque<Time>,
    announced: Bounded<Announced>,
    listed: Bounded<()>,
    /// How many media objects the newest playlist lists.
    listing: u32,
    order: Order,
    /// Position of the newest media object that has begun.
    started: Option<u64>,
}

impl Hearing {
    /// Of a rendition that is being joined now.
    pub fn new(live: bool, target: Duration, joined_at: Time) -> Hearing {
        Hearing {
            live,
            target,
            joined_at,
            last_packet: None,
            nameless: None,
            starts: VecDeque::new(),
            announced: Bounded::default(),
            listed: Bounded::default(),
            listing: 0,
            order: Order::default(),
            started: None,
        }
    }

    /// The groups were joined (again): what was sent while we were away is gone.
    pub fn joined(&mut self, now: Time) {
        self.joined_at = now;
        (self.last_packet, self.nameless) = (None, None);
        self.starts.clear();
        self.started = None;
    }

    /// The sender was restarted: cadence begins anew.
    pub fn new_session(&mut self) {
        self.starts.clear();
        self.announced = Bounded::default();
    }

    /// Packets were received.
    pub fn packets(&mut self, now: Time) {
        self.last_packet = Some(now);
    }

    /// When the last symbol came of an object that no FDT Instance has described yet, if there is one.
    pub fn nameless(&mut self, at: Option<Time>) {
        self.nameless = at;
    }

    /// An FDT Instance described an object for the first time. `newest`: it is being sent now; others were sent before.
    /// `last_byte`: of its range, when it is a part of a file.
    pub fn announced(
        &mut self,
        now: Time,
        key: &ResourceKey,
        kind: ObjectKind,
        newest: bool,
        last_byte: Option<u64>,
    ) {
        self.note(now, key, newest, false, last_byte);
        if kind == ObjectKind::Media && newest {
            self.start(now, key);
        }
    }

    /// A media object is complete. Where its description was lost at first, and came with that of something newer, only its
    /// packets tell when it began.
    pub fn completed(&mut self, first_symbol: Time, key: &ResourceKey) {
        let Some(announced) = self.announced.get_mut(key).filter(|a| !a.begun && !a.past) else { return };
        announced.begun = true;
        if self.starts.back().is_none_or(|last| first_symbol > *last) {
            self.start(first_symbol, key);
        }
    }

    fn start(&mut self, at: Time, key: &ResourceKey) {
        if self.starts.back().is_none_or(|last| at - *last >= Duration::from_millis(50)) {
            self.starts.push_back(at);
        }
        while self.starts.len() > STARTS {
            self.starts.pop_front();
        }
        let position = self.order.position_or_next(key);
        self.started = self.started.max(Some(position));
    }

    /// The same of what is sent from before the live edge, when there is time: it is coming, and nothing follows from it.
    pub fn announced_past(&mut self, now: Time, key: &ResourceKey, newest: bool, last_byte: Option<u64>) {
        self.note(now, key, newest, true, last_byte);
    }

    fn note(&mut self, now: Time, key: &ResourceKey, begun: bool, past: bool, last_byte: Option<u64>) {
        let before = self.announced.get(key).and_then(|a| a.last_byte);
        let entry = Announced { at: now, begun, past, last_byte: last_byte.max(before) };
        self.announced.insert(key, entry);
    }

    /// A playlist names these, oldest first. `by_multicast`: it came by multicast, and so after everything it lists.
    pub fn taught(&mut self, keys: &[ResourceKey], by_multicast: bool) {
        if !self.live {
            return;
        }
        self.listing = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let newest = keys.get(keys.len().saturating_sub(REMEMBERED)..).unwrap_or_default();
        self.order.teach(newest);
        for key in newest.iter().filter(|_| by_multicast) {
            self.listed.insert(key, ());
        }
        // Positions may have moved under the newest start.
        if self.started.is_some() {
            let order = &self.order;
            let since = self.joined_at;
            let begun = self.announced.iter().filter(|(_, a)| a.begun && !a.past && a.at >= since);
            self.started = begun.filter_map(|(key, _)| order.at.get(key)).copied().max().or(self.started);
        }
    }

    /// A playlist names these initialization segments: sent before the segments that need them, and again now and then, which
    /// nobody waits for.
    pub fn taught_inits(&mut self, keys: &[ResourceKey]) {
        // Of a single file, the key is that of its segments too.
        let (order, listed) = (&self.order, &mut self.listed);
        for key in keys.iter().take(REMEMBERED).filter(|k| !order.at.contains_key(k)) {
            listed.insert(key, ());
        }
    }

    /// Whether an object was sent before the join, or had begun by then, as far as playlists and what was heard since tell.
    pub fn precedes_join(&self, now: Time, key: &ResourceKey) -> bool {
        let begun = self.announced.iter().filter(|(_, a)| a.begun && !a.past && a.at >= self.joined_at);
        let first = begun.filter_map(|(key, _)| self.order.at.get(key)).min();
        match (self.order.at.get(key), first) {
            (Some(position), Some(first)) => position <= first,
            // Nothing has begun since the join, which is not long ago.
            (_, None) => self.is_alive(now),
            (None, Some(_)) => false,
        }
    }

    /// How many media objects the newest playlist lists.
    pub const fn listing(&self) -> u32 {
        self.listing
    }

    /// Whether packets come as they should.
    pub fn is_alive(&self, now: Time) -> bool {
        now - self.last_packet.unwrap_or(self.joined_at).max(self.joined_at) <= self.silence_limit()
    }

    /// Whether at least one packet came and not too long ago.
    pub fn is_heard(&self, now: Time) -> bool {
        self.last_packet.is_some() && self.is_alive(now)
    }

    /// Of an object that is not in the store. `first_byte`: of the range asked for, when it may be a part of a file;
    /// `flight`: how far the engine is with it; `rate`: for estimates.
    pub fn verdict(
        &self,
        now: Time,
        key: &ResourceKey,
        first_byte: Option<u64>,
        flight: Option<&Progress>,
        rate: &FlowRate,
    ) -> Verdict {
        if let Some(progress) = flight.filter(|p| p.missing_symbols < p.source_symbols) {
            let expected_by = completion(now, progress, rate);
            let share = 1.0 - progress.missing_symbols as f32 / progress.source_symbols.max(1) as f32;
            return Verdict::Coming { expected_by, progress: share };
        }
        if !self.is_alive(now) {
            return Verdict::NotComing(Absent::Silent);
        }
        let announced = self.announced.get(key);
        if let Some(a) = announced.filter(|a| a.begun && now - a.at < START_MAX)
            && a.last_byte.is_none_or(|last| first_byte.is_none_or(|first| first <= last))
        {
            return Verdict::Expected { until: a.at + START_MAX };
        }
        if !self.live {
            return Verdict::NotComing(Absent::Carousel);
        }
        self.at_live_edge(now, key, first_byte, announced)
    }

    fn at_live_edge(
        &self,
        now: Time,
        key: &ResourceKey,
        first_byte: Option<u64>,
        announced: Option<&Announced>,
    ) -> Verdict {
        let later_part = match (announced.and_then(|a| a.last_byte), first_byte) {
            (Some(last), Some(first)) => first > last,
            _ => false,
        };
        if !later_part {
            if announced.is_some() {
                return Verdict::NotComing(Absent::Passed);
            }
            if self.listed.get(key).is_some() {
                return Verdict::NotComing(Absent::Listed);
            }
        }
        let position = self.order.at.get(key).copied();
        let ahead = match (position, self.started) {
            (Some(p), Some(started)) if p <= started && !later_part => {
                return Verdict::NotComing(Absent::Passed);
            }
            (Some(p), Some(started)) => p.saturating_sub(started).max(1),
            // Nothing has begun since the join: what a playlist already listed was most likely sent before it.
            (Some(p), None) if Some(p) < self.order.last() => return Verdict::NotComing(Absent::Passed),
            _ => 1,
        };
        let until = match self.nameless {
            Some(at) if ahead == 1 => self.next_nameless(at),
            _ => self.next_start(ahead),
        };
        if now > until { Verdict::NotComing(Absent::Overdue) } else { Verdict::Expected { until } }
    }

    /// When the object `ahead` starts after the newest one should have begun, slack included.
    fn next_start(&self, ahead: u64) -> Time {
        let cadence = self.cadence();
        let slack = (cadence / 2 + Duration::from_millis(500)).min(SLACK_MAX);
        let from = self.starts.back().copied().unwrap_or(self.joined_at);
        from + cadence * u32::try_from(ahead.min(100)).unwrap_or(100) + slack
    }

    /// The same of the next one, where an object is coming whose description was lost so far: most likely it is that. Not for longer
    /// than a cadence, however long such symbols come.
    fn next_nameless(&self, last_symbol: Time) -> Time {
        let until = self.next_start(1);
        until.max((last_symbol + NAMELESS_MAX).min(until + self.cadence()))
    }

    /// Median time between starts of media objects; the target duration before two were heard.
    fn cadence(&self) -> Duration {
        let mut steps: Vec<Duration> =
            self.starts.iter().zip(self.starts.iter().skip(1)).map(|(a, b)| *b - *a).collect();
        steps.sort();
        let median = steps.get(steps.len() / 2).copied().unwrap_or(self.target);
        median.clamp(Duration::from_millis(200), (self.target * 2).max(Duration::from_millis(200)))
    }

    /// Without packets for longer than this, they do not come as they should.
    pub fn silence_limit(&self) -> Duration {
        // Within two seconds after what the announced interval promised.
        SILENCE_MIN.max((self.target * 3 / 2).min(self.target + Duration::from_millis(1500)))
    }
}

/// When an object under assembly should be complete at the rate its symbols came in, repair symbols included; far away if the
/// repair symbols cannot make up for what was sent before the join.
pub fn completion(now: Time, progress: &Progress, rate: &FlowRate) -> Time {
    let margin = Duration::from_millis(100);
    if progress.missing_symbols == 0 {
        return now + margin * 2; // being decoded
    }
    if progress.unheard_symbols.min(progress.missing_symbols) > repair_symbols(progress, rate) {
        return now + STALLED;
    }
    let received = progress.source_symbols.saturating_sub(progress.missing_symbols);
    let heard_for = progress.last_symbol - progress.first_symbol;
    let nominal = match rate.rate_bps {
        0 => Duration::from_millis(2),
        bps => Duration::from_nanos((u64::from(rate.symbol_size) + 40) * 8_000_000_000 / bps),
    };
    let step = if received >= 16 && !heard_for.is_zero() {
        heard_for.div_f64((received - 1) as f64)
    } else {
        nominal
    };
    if now - progress.last_symbol > (step * 100).max(Duration::from_secs(1)) {
        return now + STALLED;
    }
    let repair = if rate.loss > 0.0 { f64::from(rate.repair_percent) / 100.0 } else { 0.0 };
    let tail = step.mul_f64(progress.source_symbols as f64 * repair);
    let rest = step.mul_f64(progress.missing_symbols as f64);
    (progress.last_symbol + rest + tail + margin).max(now + margin)
}

fn repair_symbols(progress: &Progress, rate: &FlowRate) -> u64 {
    progress.source_symbols * u64::from(rate.repair_percent) / 100
}

/// Where segments stand relative to one another, from playlists that overlap.
#[derive(Debug, Default)]
struct Order {
    at: HashMap<ResourceKey, u64>,
    keys: BTreeMap<u64, ResourceKey>,
}

impl Order {
    fn teach(&mut self, keys: &[ResourceKey]) {
        let anchor = keys.iter().enumerate().find_map(|(i, k)| Some((i as u64, *self.at.get(k)?)));
        let base = match (anchor, self.last()) {
            (Some((i, position)), _) => position.saturating_sub(i),
            (None, Some(last)) => last + GAP,
            (None, None) => ORIGIN,
        };
        for (i, key) in keys.iter().enumerate() {
            self.set(key, base + i as u64);
        }
    }

    /// Its position; an object that no playlist has named yet is newer than all.
    fn position_or_next(&mut self, key: &ResourceKey) -> u64 {
        if let Some(position) = self.at.get(key) {
            return *position;
        }
        let next = self.last().map_or(ORIGIN, |last| last + 1);
        self.set(key, next);
        next
    }

    fn set(&mut self, key: &ResourceKey, position: u64) {
        if let Some(old) = self.at.insert(key.clone(), position) {
            self.keys.remove(&old);
        }
        if let Some(displaced) = self.keys.insert(position, key.clone()).filter(|d| d != key) {
            self.at.remove(&displaced);
        }
        while self.keys.len() > REMEMBERED {
            if let Some((_, oldest)) = self.keys.pop_first() {
                self.at.remove(&oldest);
            }
        }
    }

    fn last(&self) -> Option<u64> {
        self.keys.last_key_value().map(|(p, _)| *p)
    }
}

/// A map that forgets the oldest beyond [`REMEMBERED`].
#[derive(Debug)]
struct Bounded<V> {
    map: HashMap<ResourceKey, V>,
    order: VecDeque<ResourceKey>,
}

impl<V> Default for Bounded<V> {
    fn default() -> Self {
        Bounded { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Bounded<V> {
    fn insert(&mut self, key: &ResourceKey, value: V) {
        if self.map.insert(key.clone(), value).is_none() {
            self.order.push_back(key.clone());
        }
        while self.order.len() > REMEMBERED {
            if let Some(old) = self.order.pop_front() {
                self.map.remove(&old);
            }
        }
    }

    fn get(&self, key: &ResourceKey) -> Option<&V> {
        self.map.get(key)
    }

    fn get_mut(&mut self, key: &ResourceKey) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &V)> {
        self.map.iter()
    }
}

#[cfg(test)]
mod tests;
