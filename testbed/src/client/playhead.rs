//! A player's playhead without a decoder: what is buffered, where playback stands, when it stalled. Pure.

use mahp_common::Time;
use std::time::Duration;

/// Media ahead of the playhead, on every track, from which on it plays. Browsers start with less than a segment.
const ENOUGH: Duration = Duration::from_millis(500);
/// Holes up to this long are stepped over, as players do; audio and video never end on the same millisecond.
const HOLE: Duration = Duration::from_millis(150);

/// Playback came to a stop for want of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stall {
    /// Where on the presentation timeline, milliseconds.
    pub position_ms: u64,
    /// How long, milliseconds.
    pub lasted_ms: u64,
    /// When it began, milliseconds since the player started.
    #[serde(default)]
    pub at_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was shown yet.
    Starting,
    Playing,
    /// Since when.
    Stalled(Time),
    /// The end of the content.
    Ended,
}

#[derive(Clone, Copy, Debug, Default)]
struct Buffered {
    /// End of what can be played without a hole; `None`: nothing yet.
    end: Option<Duration>,
    finished: bool,
}

/// The playhead over all tracks.
#[derive(Clone, Debug)]
pub struct Playhead {
    tracks: Vec<Buffered>,
    state: State,
    /// Presentation time; the start position before anything plays.
    position: Duration,
    begun: Time,
    at: Time,
    startup: Option<Duration>,
    played: Duration,
    stalls: Vec<Stall>,
    holes: u64,
}

impl Playhead {
    /// A playhead that waits since `now`.
    pub fn new(tracks: usize, now: Time) -> Playhead {
        Playhead {
            tracks: vec![Buffered::default(); tracks],
            state: State::Starting,
            position: Duration::ZERO,
            begun: now,
            at: now,
            startup: None,
            played: Duration::ZERO,
            stalls: Vec::new(),
            holes: 0,
        }
    }

    /// Media from `start` to `end` of a track is there.
    pub fn append(&mut self, now: Time, track: usize, start: Duration, end: Duration) {
        self.advance(now);
        let Some(buffered) = self.tracks.get_mut(track) else { return };
        match buffered.end {
            Some(have) if start > have + HOLE => {
                self.holes += 1;
                // Players jump over a hole that will never be filled.
                if self.position >= have {
                    self.position = self.position.max(start);
                }
                buffered.end = Some(end);
            }
            Some(have) => buffered.end = Some(have.max(end)),
            None => {
                buffered.end = Some(end);
                if self.state == State::Starting {
                    self.position = self.position.max(start);
                }
            }
        }
        self.settle(now);
    }

    /// Nothing more will come on this track.
    pub fn finish(&mut self, now: Time, track: usize) {
        self.advance(now);
        if let Some(buffered) = self.tracks.get_mut(track) {
            buffered.finished = true;
        }
        self.settle(now);
    }

    /// Plays up to `now`.
    pub fn advance(&mut self, now: Time) {
        let passed = now.since(self.at);
        if self.state == State::Playing {
            let room = self.limit().saturating_sub(self.position);
            let step = passed.min(room);
            self.position += step;
            self.played += step;
            if passed > room {
                self.state = if self.at_the_end() { State::Ended } else { State::Stalled(self.at + room) };
            }
        }
        self.at = self.at.max(now);
    }

    /// Starts or goes on when there is enough.
    fn settle(&mut self, now: Time) {
        let ahead = self.limit().saturating_sub(self.position);
        let enough = ahead >= ENOUGH || (!ahead.is_zero() && self.tracks.iter().any(|t| t.finished));
        match self.state {
            State::Starting if enough => {
                self.startup = Some(now.since(self.begun));
                self.state = State::Playing;
            }
            State::Stalled(since) if enough => {
                self.note_stall(since, now);
                self.state = State::Playing;
            }
            State::Stalled(since) if self.at_the_end() => {
                self.note_stall(since, now);
                self.state = State::Ended;
            }
            _ => {}
        }
    }

    fn note_stall(&mut self, since: Time, now: Time) {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let lasted = now.since(since);
        self.stalls.push(Stall {
            position_ms: millis(self.position),
            lasted_ms: millis(lasted),
            at_ms: millis(since.since(self.begun)),
        });
    }

    /// First point that some track cannot play.
    fn limit(&self) -> Duration {
        self.tracks.iter().map(|t| t.end.unwrap_or_default()).min().unwrap_or_default()
    }

    fn at_the_end(&self) -> bool {
        let limit = self.limit();
        self.tracks.iter().any(|t| t.finished && t.end.unwrap_or_default() <= limit)
    }

    /// Presentation time shown.
    pub fn position(&self) -> Duration {
        self.position
    }

    /// Media of a track ahead of the playhead.
    pub fn ahead(&self, track: usize) -> Duration {
        let end = self.tracks.get(track).and_then(|t| t.end).unwrap_or_default();
        end.saturating_sub(self.position)
    }

    /// Media ahead of the playhead on every track.
    pub fn buffered(&self) -> Duration {
        self.limit().saturating_sub(self.position)
    }

    /// Whether something was shown already.
    pub fn started(&self) -> bool {
        self.state != State::Starting
    }

    /// Whether the content is over.
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// From the beginning of the wait to the first picture.
    pub fn startup(&self) -> Option<Duration> {
        self.startup
    }

    /// Media shown.
    pub fn played(&self) -> Duration {
        self.played
    }

    /// Holes that were jumped over.
    pub fn holes(&self) -> u64 {
        self.holes
    }

    /// Stalls up to now; one that still lasts is the last.
    pub fn stalls(&self) -> Vec<Stall> {
        let mut copy = self.clone();
        if let State::Stalled(since) = copy.state {
            copy.note_stall(since, copy.at);
        }
        copy.stalls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn d(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn plays_when_every_track_has_media_and_stalls_when_one_has_none() {
        let mut p = Playhead::new(2, t(1000));
        p.append(t(1200), 0, d(10_000), d(12_000));
        p.advance(t(1300));
        assert!(!p.started(), "no sound yet");
        p.append(t(1500), 1, d(10_010), d(12_020));
        assert_eq!(p.startup(), Some(d(500)));
        p.append(t(1600), 1, d(12_020), d(14_000));
        p.advance(t(4000));
        assert_eq!(p.position(), d(12_000), "picture is missing since 3490");
        assert_eq!(p.stalls(), [Stall { position_ms: 12_000, lasted_ms: 510, at_ms: 2490 }]);
        p.append(t(4500), 0, d(12_000), d(14_000));
        p.advance(t(5000));
        assert_eq!(p.position(), d(12_500));
        assert_eq!(p.stalls(), [Stall { position_ms: 12_000, lasted_ms: 1010, at_ms: 2490 }]);
        assert_eq!(p.played(), d(2490));
    }

    #[test]
    fn media_in_time_never_stalls() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let mut p = Playhead::new(1, t(0));
            p.append(t(0), 0, d(0), d(2000));
            for n in 1..20 {
                // Each segment before the previous one ends.
                p.append(t((n - 1) * 2000 + rng.u64(0..2000)), 0, d(n * 2000), d((n + 1) * 2000));
            }
            p.finish(t(39_000), 0);
            p.advance(t(40_001));
            assert!(p.stalls().is_empty() && p.ended(), "{p:?}");
            assert_eq!(p.played(), d(40_000));
        }
    }

    #[test]
    fn a_late_segment_stalls_for_as_long_as_it_is_late() {
        let mut p = Playhead::new(1, t(0));
        p.append(t(0), 0, d(0), d(2000));
        p.append(t(2700), 0, d(2000), d(4000));
        assert_eq!(p.stalls(), [Stall { position_ms: 2000, lasted_ms: 700, at_ms: 2000 }]);
    }

    #[test]
    fn a_missing_segment_is_jumped_over_and_counted() {
        let mut p = Playhead::new(1, t(0));
        p.append(t(0), 0, d(0), d(2000));
        p.append(t(3000), 0, d(4000), d(6000));
        assert_eq!((p.holes(), p.position()), (1, d(4000)));
        p.advance(t(3500));
        assert_eq!(p.position(), d(4500));
    }

    #[test]
    fn the_end_is_no_stall() {
        let mut p = Playhead::new(2, t(0));
        for track in 0..2 {
            p.append(t(0), track, d(0), d(300));
            p.finish(t(0), track);
        }
        assert!(p.started(), "short content plays too");
        p.advance(t(5000));
        assert!(p.ended() && p.stalls().is_empty());
    }
}
