//! When to ask for a live playlist again.
//!
//! RFC 8216 section 6.3.4 lets a client ask after the target duration when the playlist changed and after half of it when it
//! did not: two requests for each segment. Spent blindly, they find a new segment up to half a target duration late, for as
//! long as the origin keeps its rhythm. The same two requests are spent here on finding that rhythm: each change lies
//! between the last request that did not see it and the first that did, and the next one is expected a segment later;
//! asking in the middle of that span halves it each time.

use mahp_common::Time;
use std::time::Duration;

/// Spans below this are not halved any more.
const EXACT: Duration = Duration::from_millis(50);
/// Bounds of the time between two requests.
const MIN: Duration = Duration::from_millis(50);
/// Upper bound.
const MAX: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Debug)]
pub struct Cadence {
    target: Duration,
    interval: Duration,
    /// The last request that saw no change.
    unseen: Option<Time>,
    /// By when the next change is expected at the latest.
    expected: Time,
    /// Requests after `expected` that saw no change.
    misses: u32,
    /// Whether the rhythm is known. The first request always finds segments, however long they have been there.
    found: bool,
}

impl Default for Cadence {
    fn default() -> Self {
        let two = Duration::from_secs(2);
        Cadence { target: two, interval: two, unseen: None, expected: Time::ZERO, misses: 0, found: false }
    }
}

impl Cadence {
    /// A request at `asked` saw a change; the newest segment lasts `last`. Returns when to ask next.
    pub fn changed(&mut self, asked: Time, target: Duration, last: Duration) -> Time {
        self.target = target.clamp(MIN, MAX);
        self.interval = last.clamp(self.target / 2, self.target);
        let span = match self.unseen {
            Some(unseen) => asked.since(unseen),
            None if self.found => Duration::ZERO,
            None => self.interval,
        };
        let span = span.min(self.interval / 2);
        self.found |= span <= EXACT;
        self.expected = asked + self.interval;
        self.misses = 0;
        self.unseen = None;
        let early = if span > EXACT { span / 2 } else { Duration::ZERO };
        asked + (self.interval - early)
    }

    /// A request at `asked` saw no change. Returns when to ask next.
    pub fn unchanged(&mut self, asked: Time) -> Time {
        self.unseen = Some(asked);
        if asked < self.expected {
            return self.expected.max(asked + MIN);
        }
        // A little late is usual; an origin that stands still is asked at the pace of the RFC.
        let pause = (self.target / 16 * 2u32.pow(self.misses.min(3))).max(MIN);
        self.misses += 1;
        asked + pause
    }

    /// A request at `asked` failed, and `now` is later. Returns when to ask next.
    pub fn failed(&mut self, now: Time) -> Time {
        now + (self.target / 2).max(MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks an origin that publishes a segment of `segment` at `phase`, `phase + segment`, …; returns lateness of each
    /// discovery and the number of requests.
    fn follow(
        segment: Duration,
        target: Duration,
        phase: Duration,
        jitter: u64,
        begin: Duration,
        seconds: u64,
    ) -> (Vec<Duration>, usize) {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut cadence = Cadence::default();
        let published: Vec<Time> = (0..)
            .map(|n| Time::ZERO + phase + segment * n + Duration::from_millis(rng.u64(0..=jitter)))
            .take_while(|t| *t < Time::from_secs(seconds))
            .collect();
        let (mut seen, mut requests, mut late) = (0, 0, Vec::new());
        let mut at = Time::ZERO + begin;
        while at < Time::from_secs(seconds) {
            requests += 1;
            let there = published.iter().filter(|t| **t <= at).count();
            at = if there > seen {
                late.extend(published[seen..there].iter().map(|t| at.since(*t)));
                seen = there;
                cadence.changed(at, target, segment)
            } else {
                cadence.unchanged(at)
            };
        }
        (late, requests)
    }

    #[test]
    fn rhythm_is_found_with_no_more_requests_than_the_rfc_allows() {
        for (segment, target) in [(2000, 2000), (1920, 2000), (6000, 6000), (4000, 6000)] {
            for phase in [0, 300, 990, 1700] {
                let (segment, target) = (Duration::from_millis(segment), Duration::from_millis(target));
                let (late, requests) =
                    follow(segment, target, Duration::from_millis(phase), 50, Duration::ZERO, 300);
                let settled = &late[late.len() / 2..];
                let mean = settled.iter().sum::<Duration>() / u32::try_from(settled.len()).expect("few");
                assert!(mean < segment / 6, "{segment:?} at {phase}: {mean:?}");
                let allowed = 300.0 / segment.as_secs_f64() * 2.5;
                assert!(
                    (requests as f64) < allowed,
                    "{segment:?} at {phase}: {requests} requests, {allowed}"
                );
            }
        }
    }

    #[test]
    fn rhythm_is_found_though_the_first_request_finds_a_window_of_segments() {
        let segment = Duration::from_secs(2);
        for begin in (60_000..62_000).step_by(130) {
            let begin = Duration::from_millis(begin);
            let (late, _) = follow(segment, segment, Duration::ZERO, 0, begin, 200);
            let last = late.last().expect("segments were found");
            assert!(*last <= EXACT, "begun after {begin:?}: {last:?} late");
        }
    }

    #[test]
    fn origin_that_stands_still_is_asked_at_half_the_target_duration() {
        let mut cadence = Cadence::default();
        let target = Duration::from_secs(4);
        let mut at = cadence.changed(Time::ZERO, target, target);
        assert!(at <= Time::from_secs(4), "after the target duration at the latest");
        for _ in 0..10 {
            at = cadence.unchanged(at);
        }
        assert_eq!(cadence.unchanged(at).since(at), Duration::from_secs(2));
    }
}
