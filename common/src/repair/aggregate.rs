//! From the lacks that receivers report to repair symbols on multicast: one fresh symbol mends a different loss at each.
//!
//! Reports of an object are collected for a moment. Then, if several receivers lack symbols and one multicast costs less than
//! answering each, the need of a high percentile of the reporters is sent once, and everybody is told to wait for it. A
//! single reporter is left to unicast. Nothing a report says is believed beyond these bounds: an address has few votes
//! whatever receiver numbers it makes up, a block needs at most its K symbols, an object has a few rounds, all objects
//! share a budget of bytes, and the tables are bounded.

use super::ObjectId;
use super::budget::TokenBucket;
use crate::ids::Sbn;
use crate::time::Time;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Parameters of an [`Aggregator`].
#[derive(Clone, Copy, Debug)]
pub struct AggregateConfig {
    /// Reports of an object are collected this long after the first.
    pub window: Duration,
    /// Share of the reporters whose need is met: 0 to 1.
    pub percentile: f64,
    /// Most bytes per second on multicast for all reports.
    pub bytes_per_sec: f64,
    /// Most bytes at once.
    pub burst: f64,
    /// Times that one object is repaired by multicast within [`MEMORY`].
    pub rounds: u32,
    /// Receivers that are believed behind one client address.
    pub votes: usize,
    /// Objects with reports at a time: reports of further ones are refused.
    pub objects: usize,
    /// Reporters of one object: further ones are answered, and not counted.
    pub reporters: usize,
}

impl Default for AggregateConfig {
    /// 80 ms, 90 %, 1 MB/s with bursts of 4 MB.
    fn default() -> AggregateConfig {
        AggregateConfig {
            window: Duration::from_millis(80),
            percentile: 0.9,
            bytes_per_sec: 1e6,
            burst: 4e6,
            rounds: 4,
            votes: 4,
            objects: 256,
            reporters: 1024,
        }
    }
}

/// An object that nobody has reported for this long is forgotten.
pub const MEMORY: Duration = Duration::from_secs(10);
/// After the last symbol should have left: until it should be at the receivers and in use.
const ARRIVAL: Duration = Duration::from_millis(150);

/// Who reports: the client's address, as a number of the driver's choice, and the receiver number it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reporter {
    /// Address.
    pub client: u64,
    /// Number.
    pub receiver: u64,
}

/// An object as the sender knows it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its name.
    pub id: ObjectId,
    /// K of each block.
    pub blocks: &'a [u32],
    /// Bytes of a repair packet.
    pub packet_bytes: u64,
    /// Rate that repair symbols leave at, bit/s.
    pub rate_bps: u64,
}

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Symbols may come by multicast: wait this long.
    Wait(Duration),
    /// Ask by unicast.
    Unicast,
    /// Not believed.
    Refused(Refusal),
}

/// Why a report was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Names no block, or one that the object has not, or more symbols than it has.
    Impossible,
    /// Too many objects have reports already.
    Crowded,
    /// Its address has used up its votes.
    Votes,
}

impl Refusal {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Impossible => "impossible",
            Refusal::Crowded => "crowded",
            Refusal::Votes => "votes",
        }
    }
}

/// Fresh repair symbols for the object, so many of each block, on multicast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// The object.
    pub id: ObjectId,
    /// How many of which block.
    pub blocks: Vec<(Sbn, u32)>,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AggregateStats {
    /// Lacks of objects that were believed.
    pub believed: u64,
    /// Repairs by multicast.
    pub repairs: u64,
    /// Their symbols.
    pub symbols: u64,
    /// Repairs that were worth it and exceeded the budget.
    pub over_budget: u64,
    /// Objects that were left to unicast.
    pub left: u64,
}

/// See the module. After [`Aggregator::report`] and [`Aggregator::timeout`], drain [`Aggregator::poll`].
#[derive(Debug)]
pub struct Aggregator {
    config: AggregateConfig,
    bucket: TokenBucket,
    objects: BTreeMap<ObjectId, Object>,
    out: VecDeque<Send>,
    stats: AggregateStats,
}

#[derive(Debug)]
struct Object {
    blocks: usize,
    packet_bytes: u64,
    rate_bps: u64,
    phase: Phase,
    rounds: u32,
    last: Time,
    /// Believed reports of this round: weight and need of each block.
    lacks: HashMap<Reporter, (f64, Vec<u32>)>,
    votes: HashMap<u64, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until then reports are collected.
    Collecting(Time),
    /// Symbols are on their way until then.
    Sending(Time),
    /// Nothing was sent: asks go by unicast. A report later than this begins anew.
    Left(Time),
}

impl Aggregator {
    /// Has no reports.
    pub fn new(config: AggregateConfig) -> Aggregator {
        Aggregator {
            bucket: TokenBucket::new(config.bytes_per_sec, config.burst),
            config,
            objects: BTreeMap::new(),
            out: VecDeque::new(),
            stats: AggregateStats::default(),
        }
    }

    /// A receiver lacks symbols of an object. `sample`: the share of receivers it speaks for.
    pub fn report(
        &mut self,
        now: Time,
        from: Reporter,
        sample: f64,
        object: &Known<'_>,
        lacks: &[(Sbn, u32)],
    ) -> Verdict {
        let Some(need) = checked(object.blocks, lacks) else { return Verdict::Refused(Refusal::Impossible) };
        self.timeout(now);
        if !self.objects.contains_key(&object.id) && self.objects.len() >= self.config.objects {
            return Verdict::Refused(Refusal::Crowded);
        }
        let window = self.config.window;
        let entry = self.objects.entry(object.id).or_insert_with(|| Object::new(object, now + window));
        entry.last = now;
        if matches!(entry.phase, Phase::Left(until) | Phase::Sending(until) if now >= until) {
            entry.begin(now + window);
        }
        match entry.phase {
            Phase::Sending(until) => return Verdict::Wait(until - now),
            Phase::Left(_) => return Verdict::Unicast,
            Phase::Collecting(_) if entry.rounds >= self.config.rounds => return Verdict::Unicast,
            Phase::Collecting(_) => {}
        }
        if !entry.lacks.contains_key(&from) {
            let votes = entry.votes.entry(from.client).or_default();
            if *votes >= self.config.votes {
                return Verdict::Refused(Refusal::Votes);
            }
            *votes += 1;
        }
        if entry.lacks.len() < self.config.reporters || entry.lacks.contains_key(&from) {
            // A forged tiny sample would speak for a crowd: one report speaks for fifty receivers at most.
            let (weight, lacks) = entry.lacks.entry(from).or_insert_with(|| (1.0, vec![0; need.len()]));
            *weight = 1.0 / sample.clamp(0.02, 1.0);
            // Whoever asks block by block lacks all that he asked for.
            lacks.iter_mut().zip(need).for_each(|(sum, n)| *sum = n.max(*sum));
        }
        self.stats.believed += 1;
        Verdict::Wait(entry.expected_end(self.config.percentile) - now)
    }

    /// Until when reports of an object are collected, and how many there are; `None`: none are collected now.
    pub fn collecting(&self, id: ObjectId) -> Option<(Time, usize)> {
        let object = self.objects.get(&id)?;
        match object.phase {
            Phase::Collecting(until) => Some((until, object.lacks.len())),
            Phase::Sending(_) | Phase::Left(_) => None,
        }
    }

    /// Decides what is due.
    pub fn timeout(&mut self, now: Time) {
        let due = |o: &Object| matches!(o.phase, Phase::Collecting(until) if now >= until);
        let ids: Vec<ObjectId> = self.objects.iter().filter(|(_, o)| due(o)).map(|(id, _)| *id).collect();
        for id in ids {
            self.decide(now, id);
        }
        self.objects.retain(|_, o| now < o.last + MEMORY);
    }

    /// When [`Aggregator::timeout`] should be called.
    pub fn next_timeout(&self) -> Option<Time> {
        let due = |o: &Object| match o.phase {
            Phase::Collecting(until) => until,
            Phase::Sending(_) | Phase::Left(_) => o.last + MEMORY,
        };
        self.objects.values().map(due).min()
    }

    /// The next repair to send.
    pub fn poll(&mut self) -> Option<Send> {
        self.out.pop_front()
    }

    /// Counters.
    pub const fn stats(&self) -> &AggregateStats {
        &self.stats
    }

    fn decide(&mut self, now: Time, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let need = object.need(self.config.percentile);
        let symbols: u64 = need.iter().map(|(_, n)| u64::from(*n)).sum();
        let bytes = symbols * object.packet_bytes;
        object.lacks.retain(|_, (_, lack)| lack.iter().any(|n| *n > 0));
        let worth_it = symbols > 0 && object.asked_for() >= 2.0 * symbols as f64;
        if worth_it && self.bucket.take(now, bytes).is_ok() {
            object.rounds += 1;
            object.phase = Phase::Sending(now + object.transmission(bytes) + ARRIVAL);
            self.stats.repairs += 1;
            self.stats.symbols += symbols;
            self.out.push_back(Send { id, blocks: need });
        } else {
            self.stats.over_budget += u64::from(worth_it);
            self.stats.left += 1;
            object.phase = Phase::Left(now + ARRIVAL);
        }
        object.lacks.clear();
        object.votes.clear();
    }
}

/// The need of each block. `None` where the report contradicts the object.
fn checked(blocks: &[u32], lacks: &[(Sbn, u32)]) -> Option<Vec<u32>> {
    let mut need = vec![0; blocks.len()];
    for (sbn, missing) in lacks {
        let symbols = *blocks.get(sbn.0 as usize)?;
        // Two more than K are useful where a decoder failed with K.
        if *missing > symbols + 2 {
            return None;
        }
        *need.get_mut(sbn.0 as usize)? = *missing;
    }
    need.iter().any(|n| *n > 0).then_some(need)
}

impl Object {
    fn new(known: &Known<'_>, until: Time) -> Object {
        Object {
            blocks: known.blocks.len(),
            packet_bytes: known.packet_bytes,
            rate_bps: known.rate_bps,
            phase: Phase::Collecting(until),
            rounds: 0,
            last: Time::ZERO,
            lacks: HashMap::new(),
            votes: HashMap::new(),
        }
    }

    fn begin(&mut self, until: Time) {
        self.phase = Phase::Collecting(until);
        self.lacks.clear();
        self.votes.clear();
    }

    /// The percentile of the need of each block over those who lack something of it, and what the symbols themselves may lose.
    fn need(&self, percentile: f64) -> Vec<(Sbn, u32)> {
        let block = |i: usize| {
            let mut needs: Vec<u32> =
                self.lacks.values().filter_map(|(_, n)| n.get(i).copied()).filter(|n| *n > 0).collect();
            needs.sort_unstable();
            let rank = (needs.len() as f64 * percentile).ceil() as usize;
            let need = needs.get(rank.clamp(1, needs.len().max(1)) - 1).copied()?;
            Some((Sbn(i as u32), need + need / 8 + 2))
        };
        (0..self.blocks).filter_map(block).collect()
    }

    /// Symbols that unicast would carry: of all who lack, also of those who were not drawn to say so.
    fn asked_for(&self) -> f64 {
        self.lacks
            .values()
            .map(|(weight, need)| weight * need.iter().map(|n| f64::from(*n)).sum::<f64>())
            .sum()
    }

    fn transmission(&self, bytes: u64) -> Duration {
        Duration::from_nanos(bytes.saturating_mul(8_000_000_000) / self.rate_bps.max(1))
    }

    fn expected_end(&self, percentile: f64) -> Time {
        let Phase::Collecting(until) = self.phase else { return self.last };
        let symbols: u64 = self.need(percentile).iter().map(|(_, n)| u64::from(*n)).sum();
        until + self.transmission(symbols * self.packet_bytes) + ARRIVAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Toi, Tsi};

    const BLOCKS: [u32; 2] = [700, 699];

    fn known(toi: u128) -> Known<'static> {
        let id = ObjectId { tsi: Tsi(1), toi: Toi(toi) };
        Known { id, blocks: &BLOCKS, packet_bytes: 1380, rate_bps: 40_000_000 }
    }

    fn who(client: u64, receiver: u64) -> Reporter {
        Reporter { client, receiver }
    }

    fn sent(aggregator: &mut Aggregator) -> Vec<Send> {
        std::iter::from_fn(|| aggregator.poll()).collect()
    }

    #[test]
    fn many_lacks_become_one_multicast_of_the_percentile() {
        let mut a = Aggregator::new(AggregateConfig::default());
        for i in 0..100 {
            let verdict =
                a.report(Time::from_millis(i / 4), who(i, 0), 1.0, &known(5), &[(Sbn(0), 1 + i as u32)]);
            assert!(matches!(verdict, Verdict::Wait(t) if t < Duration::from_secs(1)), "{verdict:?}");
        }
        assert_eq!(a.next_timeout(), Some(Time::from_millis(80)));
        a.timeout(Time::from_millis(80));
        let id = ObjectId { tsi: Tsi(1), toi: Toi(5) };
        assert_eq!(sent(&mut a), [Send { id, blocks: vec![(Sbn(0), 90 + 11 + 2)] }]);
        // Those who come while it is on its way wait for it.
        let late = a.report(Time::from_millis(90), who(7, 7), 1.0, &known(5), &[(Sbn(0), 50)]);
        assert!(matches!(late, Verdict::Wait(_)));
        a.timeout(Time::from_millis(200));
        assert_eq!(sent(&mut a), []);
    }

    #[test]
    fn blocks_that_are_asked_for_one_by_one_add_up() {
        let mut a = Aggregator::new(AggregateConfig::default());
        for i in 0..10 {
            for (sbn, n) in [(0, 30), (1, 40), (0, 20)] {
                a.report(Time::ZERO, who(i, 0), 1.0, &known(5), &[(Sbn(sbn), n)]);
            }
        }
        assert_eq!(a.collecting(known(5).id), Some((Time::from_millis(80), 10)));
        a.timeout(Time::from_millis(80));
        assert_eq!(sent(&mut a)[0].blocks, [(Sbn(0), 30 + 3 + 2), (Sbn(1), 40 + 5 + 2)]);
        assert_eq!((a.collecting(known(5).id), a.collecting(known(6).id)), (None, None));
    }

    #[test]
    fn one_reporter_is_left_to_unicast() {
        let mut a = Aggregator::new(AggregateConfig::default());
        a.report(Time::ZERO, who(1, 1), 1.0, &known(5), &[(Sbn(0), 10)]);
        a.timeout(Time::from_millis(80));
        assert_eq!(sent(&mut a), []);
        assert_eq!(
            a.report(Time::from_millis(90), who(2, 1), 1.0, &known(5), &[(Sbn(0), 10)]),
            Verdict::Unicast
        );
        // One that speaks for many is not alone.
        a.report(Time::ZERO, who(1, 1), 0.1, &known(6), &[(Sbn(0), 10)]);
        a.timeout(Time::from_millis(180));
        assert_eq!(sent(&mut a).len(), 1);
    }

    #[test]
    fn a_liar_changes_little_and_forged_numbers_nothing() {
        let mut a = Aggregator::new(AggregateConfig::default());
        for i in 0..40 {
            a.report(Time::ZERO, who(i, 0), 1.0, &known(5), &[(Sbn(1), 5)]);
        }
        for n in 0..1000 {
            let verdict = a.report(Time::ZERO, who(999, n), 0.000_001, &known(5), &[(Sbn(1), 699)]);
            assert_eq!(verdict == Verdict::Refused(Refusal::Votes), n >= 4, "{n}");
        }
        a.timeout(Time::from_millis(80));
        assert_eq!(sent(&mut a)[0].blocks, [(Sbn(1), 7)], "the percentile of 44 is still honest");
    }

    #[test]
    fn impossible_reports_are_refused() {
        let mut a = Aggregator::new(AggregateConfig::default());
        for lacks in [&[(Sbn(2), 1)][..], &[(Sbn(0), 703)], &[(Sbn(0), u32::MAX)], &[], &[(Sbn(0), 0)]] {
            let verdict = a.report(Time::ZERO, who(1, 1), 1.0, &known(5), lacks);
            assert_eq!(verdict, Verdict::Refused(Refusal::Impossible), "{lacks:?}");
        }
        for toi in 0..1000 {
            a.report(Time::ZERO, who(1, 1), 1.0, &known(toi), &[(Sbn(0), 1)]);
        }
        assert_eq!(a.objects.len(), 256);
    }

    #[test]
    fn a_flood_of_reports_does_not_exceed_the_budget() {
        let config = AggregateConfig { bytes_per_sec: 1e6, burst: 2e6, ..AggregateConfig::default() };
        let mut a = Aggregator::new(config);
        let mut bytes = 0;
        for ms in 0..10_000u64 {
            let now = Time::from_millis(ms);
            for client in 0..8 {
                let toi = u128::from(ms / 100);
                a.report(now, who(client, ms), 0.02, &known(toi), &[(Sbn(0), 702), (Sbn(1), 701)]);
            }
            a.timeout(now);
            bytes += sent(&mut a)
                .iter()
                .map(|s| s.blocks.iter().map(|(_, n)| u64::from(*n)).sum::<u64>() * 1380)
                .sum::<u64>();
        }
        assert!(bytes <= 12_000_000, "{bytes} bytes in ten seconds");
        assert!(a.stats().over_budget > 0);
    }

    #[test]
    fn an_object_has_a_few_rounds() {
        let mut a = Aggregator::new(AggregateConfig { burst: 1e9, ..AggregateConfig::default() });
        let mut repairs = 0;
        for ms in (0..8000).step_by(10) {
            for client in 0..3 {
                a.report(Time::from_millis(ms), who(client, 0), 1.0, &known(5), &[(Sbn(0), 100)]);
            }
            a.timeout(Time::from_millis(ms));
            repairs += sent(&mut a).len();
        }
        assert_eq!(repairs, 4);
    }
}
