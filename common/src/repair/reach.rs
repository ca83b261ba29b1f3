//! Whether multicast reaches a receiver well enough, or whole objects should be subscribed to another way.
//!
//! What should have come is known from descriptions: the source symbols of every object that is being sent, spread over the time
//! that its flow takes for it. What has come are packets. Above a loss of a half, repair is most of what is sent and mends nothing
//! that has a successor soon (playlists); then, and when nothing comes at all, the objects themselves are wanted. They are no
//! longer when multicast has been good for a while. Between the two thresholds nothing changes, and nothing changes twice soon.

use crate::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Above this loss multicast is poor.
const POOR: f64 = 0.5;
/// Below this loss it is good.
const GOOD: f64 = 0.3;
/// Loss is that of the last so many seconds, and of what it takes to the beginning of an object,
const WINDOW: Duration = Duration::from_secs(4);
/// and of as many more as it takes for so many symbols.
const SYMBOLS_MIN: f64 = 64.0;
/// Nothing is older than this.
const MEMORY: Duration = Duration::from_secs(20);
/// A description precedes its packets, and packets are counted, by about this.
const LAG: Duration = Duration::from_millis(500);
/// Good for so long before it is relied upon again.
const RETURN: Duration = Duration::from_secs(4);
/// Loss changes nothing sooner than this after the last change.
pub const STAY: Duration = Duration::from_secs(10);
/// Symbols and packets are counted in steps of this.
const STEP: Duration = Duration::from_millis(250);

/// See the module. Of one rendition, since the join.
#[derive(Clone, Debug)]
pub struct Reach {
    since: Time,
    /// Number of the first step of `steps`.
    first: u64,
    steps: VecDeque<Step>,
    heard: u64,
    is_poor: bool,
    changed_at: Option<Time>,
    good_since: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// An object is described.
    begins: bool,
    expected: f64,
    heard: f64,
}

impl Reach {
    /// Multicast is joined now, and taken for good.
    pub const fn new(now: Time) -> Reach {
        Reach {
            since: now,
            first: 0,
            steps: VecDeque::new(),
            heard: 0,
            is_poor: false,
            changed_at: None,
            good_since: None,
        }
    }

    /// An object is being sent: so many packets, over so long.
    pub fn described(&mut self, now: Time, packets: u64, over: Duration) {
        let steps = (over.min(MEMORY).as_nanos() / STEP.as_nanos()) as u64 + 1;
        let each = packets as f64 / steps as f64;
        let described = self.step(now);
        if let Some(step) = self.at(described) {
            step.begins = true;
        }
        let begin = self.step(now + LAG);
        for step in begin..begin + steps {
            if let Some(step) = self.at(step) {
                step.expected += each;
            }
        }
    }

    /// Looks again; a few times a second. `heard`: packets of objects since the join; `silent`: none came for longer than it should
    /// take. Returns whether objects are to be subscribed to.
    pub fn look(&mut self, now: Time, heard: u64, silent: bool) -> bool {
        let new = heard.saturating_sub(self.heard);
        self.heard = heard;
        let current = self.step(now);
        if let Some(step) = self.at(current) {
            step.heard += new as f64;
        }
        self.forget(now);
        let loss = self.loss(now);
        let rested = self.changed_at.is_none_or(|at| now - at >= STAY);
        if !self.is_poor {
            if silent || (rested && loss.is_some_and(|loss| loss > POOR)) {
                self.change(now, true);
            }
            return self.is_poor;
        }
        if silent || loss.is_some_and(|loss| loss >= GOOD) {
            self.good_since = None;
        } else if now - *self.good_since.get_or_insert(now) >= RETURN && rested {
            self.change(now, false);
        }
        self.is_poor
    }

    /// Share of what should have come lately that did not. None: too little should have.
    pub fn loss(&self, now: Time) -> Option<f64> {
        let newest = self.step(now);
        let recent = (WINDOW.as_nanos() / STEP.as_nanos()) as u64;
        let mut sum = Step::default();
        let past = self.steps.iter().enumerate().map(|(i, step)| (self.first + i as u64, step));
        for (number, step) in past.rev().filter(|(number, _)| *number <= newest) {
            sum.expected += step.expected;
            sum.heard += step.heard;
            // From the beginning of an object: what is expected at its end was heard a moment before.
            if step.begins && newest - number >= recent && sum.expected >= SYMBOLS_MIN {
                return Some((1.0 - sum.heard / sum.expected).max(0.0));
            }
        }
        None
    }

    fn change(&mut self, now: Time, is_poor: bool) {
        (self.is_poor, self.changed_at, self.good_since) = (is_poor, Some(now), None);
    }

    fn step(&self, at: Time) -> u64 {
        ((at - self.since).as_nanos() / STEP.as_nanos()) as u64
    }

    /// A step that is not forgotten yet.
    fn at(&mut self, number: u64) -> Option<&mut Step> {
        if self.steps.is_empty() {
            self.first = number;
        }
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        // No further ahead than the longest object.
        if index > 4 * (MEMORY.as_nanos() / STEP.as_nanos()) as usize {
            self.steps.clear();
            self.first = number;
            self.steps.push_back(Step::default());
            return self.steps.back_mut();
        }
        while self.steps.len() <= index {
            self.steps.push_back(Step::default());
        }
        self.steps.get_mut(index)
    }

    fn forget(&mut self, now: Time) {
        let oldest = self.step(now).saturating_sub((MEMORY.as_nanos() / STEP.as_nanos()) as u64);
        while self.first < oldest && self.steps.pop_front().is_some() {
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rendition of 400 packets a second, in segments; `lost` says how many of a hundred are lost in a second. Returns when it
    /// changed, in milliseconds, and to what.
    fn run(secs: u64, segment: Duration, lost: impl Fn(u64) -> f64) -> Vec<(u64, bool)> {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut reach = Reach::new(Time::ZERO);
        let (mut changes, mut was, mut heard) = (Vec::new(), false, 0);
        let (mut next, mut flying) = (Duration::ZERO, VecDeque::new());
        for ms in (0..secs * 1000).step_by(10) {
            let now = Time::from_millis(ms);
            if now >= Time::ZERO + next {
                // Sent at three times its rate.
                let packets = (segment.as_millis() as u64 * 400) / 1000;
                reach.described(now, packets, segment / 3);
                let each = segment / 3 / packets as u32;
                flying.extend((0..packets as u32).map(|i| now + each * i));
                next += segment;
            }
            while flying.front().is_some_and(|at| *at <= now) {
                flying.pop_front();
                heard += u64::from(rng.f64() * 100.0 >= lost(ms / 1000));
            }
            if ms % 500 == 0 {
                let is = reach.look(now, heard, false);
                if is != was {
                    changes.push((ms, is));
                }
                was = is;
            }
        }
        changes
    }

    const PART: Duration = Duration::from_millis(500);
    const SEGMENTS: [Duration; 4] =
        [PART, Duration::from_secs(2), Duration::from_secs(6), Duration::from_secs(10)];

    #[test]
    fn a_loss_that_repair_can_mend_changes_nothing() {
        for (segment, lost) in
            SEGMENTS.into_iter().flat_map(|s| [0.0, 10.0, 20.0, 30.0, 40.0].map(|l| (s, l)))
        {
            assert_eq!(run(300, segment, |_| lost), [], "{lost} % of segments of {segment:?}");
        }
    }

    #[test]
    fn near_total_loss_is_seen_soon_and_for_good() {
        for segment in SEGMENTS {
            let changes = run(300, segment, |_| 99.9);
            assert!(matches!(changes[..], [(at, true)] if at <= 6_000), "{segment:?}: {changes:?}");
        }
    }

    #[test]
    fn it_goes_back_when_multicast_was_good_for_four_seconds() {
        for segment in SEGMENTS {
            let changes = run(120, segment, |at| if (30..60).contains(&at) { 99.9 } else { 5.0 });
            let [(poor, true), (good, false)] = changes[..] else { panic!("{segment:?}: {changes:?}") };
            assert!((30_000..46_000).contains(&poor), "{segment:?}: {poor}");
            assert!((64_000..86_000).contains(&good), "{segment:?}: {good}");
        }
    }

    #[test]
    fn loss_around_a_half_does_not_make_it_flap() {
        for segment in SEGMENTS {
            for period in [1, 3, 5, 10, 20, 60] {
                let changes = run(600, segment, |at| if at / period % 2 == 0 { 40.0 } else { 60.0 });
                assert!(changes.len() <= 1, "each {period} s, {segment:?}: {changes:?}");
                // From very good to very bad it may change, but not often.
                let changes = run(600, segment, |at| if at / period % 2 == 0 { 5.0 } else { 95.0 });
                let too_soon = changes.windows(2).find(|w| w[1].0 - w[0].0 < STAY.as_millis() as u64);
                assert_eq!(too_soon, None, "each {period} s, {segment:?}");
            }
        }
    }

    #[test]
    fn silence_counts_at_once_and_packets_after_four_seconds() {
        let mut reach = Reach::new(Time::ZERO);
        assert!(!reach.look(Time::from_secs(1), 0, false));
        assert!(reach.look(Time::from_secs(3), 0, true), "no packet, and nothing is known");
        assert!(reach.look(Time::from_secs(20), 0, true));
        assert!(reach.look(Time::from_secs(21), 5, false), "packets come again");
        assert!(reach.look(Time::from_secs(24), 50, false));
        assert!(!reach.look(Time::from_secs(25), 60, false));
    }

    #[test]
    fn times_that_jump_and_floods_are_bounded() {
        let mut reach = Reach::new(Time::from_secs(100));
        for i in 0..10_000u64 {
            reach.described(Time::from_secs(100 + i * 1000), u64::MAX, Duration::MAX);
            reach.look(Time::from_secs(i), i, false);
            assert!(reach.steps.len() < 1000);
        }
    }
}
