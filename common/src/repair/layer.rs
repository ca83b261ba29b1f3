//! Whether a receiver should be in a rendition's second repair layer: while it loses more than the first mends.
//!
//! Every object that has ended, or that the first layer did not mend, is noted. The layer is joined when two of the last
//! objects needed more than they were given, or when their loss comes close to what the first layer can mend. It is left
//! when the loss has been well below that for a while; a receiver that needs it again soon stays longer, so that loss that
//! comes and goes does not make it flap.

use crate::fec::raptorq::repair_symbols;
use crate::ids::Toi;
use crate::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Objects that are looked at: the last so many,
const RECENT: usize = 8;
/// none older than this.
const MEMORY: Duration = Duration::from_secs(60);
/// Source symbols, and objects, of which a share is a loss.
const SYMBOLS_MIN: u64 = 100;
const OBJECTS_MIN: usize = 2;
/// Share of what the first layer mends above which the second is joined.
const JOIN_SHARE: f64 = 0.75;
/// Below this it is not needed any more.
const STAY_SHARE: f64 = 0.5;
/// It is left after this long without need.
const STAY: Duration = Duration::from_secs(60);
/// The time without need grows to at most 2^this times [`STAY`].
const PATIENCE_MAX: u32 = 3;
/// Whoever did not need it for this long begins with [`STAY`] again.
const FORGET: Duration = Duration::from_secs(600);
/// An object that lost less than this share of what the first layer mends was late, not short.
const SHORT_SHARE: f64 = 0.2;
/// About the symbols of a block of a large object.
const BLOCK_SYMBOLS: u64 = 1000;

/// What came of an object by multicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub toi: Toi,
    /// Source symbols.
    pub symbols: u64,
    /// Of these, not heard.
    pub lost: u64,
    /// What was heard of it did not do.
    pub short: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct LayerControl {
    /// Repair share of the first layer, percent.
    percent: u32,
    recent: VecDeque<(Time, Seen)>,
    joined: bool,
    needed_at: Time,
    left_at: Option<Time>,
    patience: u32,
    joins: u64,
}

impl LayerControl {
    /// Outside. `percent`: the repair share of the first layer.
    pub const fn new(percent: u32) -> LayerControl {
        LayerControl {
            percent,
            recent: VecDeque::new(),
            joined: false,
            needed_at: Time::ZERO,
            left_at: None,
            patience: 0,
            joins: 0,
        }
    }

    /// An object has ended, or is known to need more. Not for one that was under way at the join. What is told again of an
    /// object replaces what was told before, but it stays short.
    pub fn object(&mut self, now: Time, mut seen: Seen) {
        self.recent.retain(|(_, s)| {
            seen.short |= s.toi == seen.toi && s.short;
            s.toi != seen.toi
        });
        // Of which less than half came was hit by an outage: more repair symbols would have been lost with it.
        if seen.symbols == 0 || seen.lost.saturating_mul(2) > seen.symbols {
            return;
        }
        seen.short &= seen.lost as f64 > SHORT_SHARE * given(seen.symbols, self.percent) as f64;
        self.recent.push_back((now, seen));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.settle(now);
    }

    /// Time passes. Call about once a second.
    pub fn tick(&mut self, now: Time) {
        self.settle(now);
    }

    /// Whether it should be joined.
    pub const fn is_wanted(&self) -> bool {
        self.joined
    }

    /// How often it was joined.
    pub const fn joins(&self) -> u64 {
        self.joins
    }

    /// The flow is left, and what was heard of it says nothing about the next time.
    pub fn reset(&mut self, now: Time) {
        self.recent.clear();
        if self.joined {
            self.leave(now);
        }
    }

    fn settle(&mut self, now: Time) {
        self.recent.retain(|(at, _)| now < *at + MEMORY);
        let short = self.recent.iter().filter(|(_, s)| s.short).count();
        let load = self.load();
        if short > 0 || load.is_some_and(|load| load > STAY_SHARE) {
            self.needed_at = now;
        }
        if !self.joined && (short >= OBJECTS_MIN || load.is_some_and(|load| load > JOIN_SHARE)) {
            self.join(now);
        } else if self.joined && now >= self.needed_at + STAY * 2u32.pow(self.patience) {
            self.leave(now);
        }
    }

    fn join(&mut self, now: Time) {
        self.joined = true;
        self.joins += 1;
        self.patience = match self.left_at {
            Some(left) if now < left + STAY => (self.patience + 1).min(PATIENCE_MAX),
            Some(left) if now < left + FORGET => self.patience,
            _ => 0,
        };
    }

    const fn leave(&mut self, now: Time) {
        self.joined = false;
        self.left_at = Some(now);
    }

    /// Symbols lost, as a share of those that the first layer mends: repair symbols are lost like others. `None`: too little was
    /// heard to tell.
    fn load(&self) -> Option<f64> {
        let sum = |of: &dyn Fn(&Seen) -> u64| self.recent.iter().map(|(_, s)| of(s)).sum::<u64>();
        let (symbols, lost) = (sum(&|s| s.symbols), sum(&|s| s.lost));
        if symbols < SYMBOLS_MIN || self.recent.len() < OBJECTS_MIN {
            return None;
        }
        let given = sum(&|s| given(s.symbols, self.percent)) as f64;
        let heard = 1.0 - lost as f64 / symbols as f64;
        Some(if lost == 0 { 0.0 } else { lost as f64 / (given * heard) })
    }
}

/// Repair symbols that an object gets.
fn given(symbols: u64, percent: u32) -> u64 {
    let blocks = symbols.div_ceil(BLOCK_SYMBOLS).max(1);
    // At most the symbols of a block.
    blocks * u64::from(repair_symbols((symbols / blocks) as u32, percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object of 1000 symbols each two seconds, of which `lost` are lost; short where the share does not do.
    struct Run {
        control: LayerControl,
        now: Time,
        toi: u128,
    }

    impl Run {
        fn new() -> Run {
            Run { control: LayerControl::new(15), now: Time::from_secs(10), toi: 0 }
        }

        fn objects(&mut self, n: u32, lost: u64) -> bool {
            for _ in 0..n {
                self.toi += 1;
                self.now += Duration::from_secs(2);
                let seen = Seen { toi: Toi(self.toi), symbols: 1000, lost, short: false };
                self.control.object(self.now, seen);
            }
            self.control.is_wanted()
        }

        fn short(&mut self, n: u32) -> bool {
            for _ in 0..n {
                self.toi += 1;
                self.now += Duration::from_secs(2);
                let seen = Seen { toi: Toi(self.toi), symbols: 1000, lost: 90, short: true };
                // Told when it is revealed, and again when it is complete.
                self.control.object(self.now, seen);
                self.control.object(self.now, Seen { short: false, ..seen });
            }
            self.control.is_wanted()
        }
    }

    #[test]
    fn what_the_first_layer_mends_joins_nothing() {
        for lost in [0, 10, 50, 80] {
            assert!(!Run::new().objects(1000, lost), "{lost} of 1000");
        }
    }

    #[test]
    fn loss_near_what_the_first_layer_mends_joins_after_two_objects() {
        for lost in [120, 200, 300] {
            let mut run = Run::new();
            assert!(!run.objects(1, lost), "one object is no measure");
            assert!(run.objects(1, lost), "{lost} of 1000");
            assert!(run.objects(1000, lost) && run.control.joins() == 1);
        }
        // Without a first layer, any loss does.
        let mut bare = Run { control: LayerControl::new(0), ..Run::new() };
        assert!(!bare.objects(100, 0));
        assert!(bare.objects(2, 1));
    }

    #[test]
    fn objects_that_fell_short_join_it_too() {
        let mut run = Run::new();
        assert!(!run.short(1), "once is an accident");
        assert!(!run.objects(8, 0));
        assert!(run.short(2));
    }

    #[test]
    fn objects_that_were_only_late_do_not() {
        let mut run = Run::new();
        for toi in 0..100 {
            run.control.object(run.now, Seen { toi: Toi(toi), symbols: 1000, lost: 20, short: true });
        }
        assert!(!run.control.is_wanted());
    }

    #[test]
    fn an_outage_is_no_need() {
        let mut run = Run::new();
        assert!(!run.objects(10, 900));
        run.control.object(run.now, Seen { toi: Toi(1), symbols: 0, lost: 0, short: true });
        run.control.object(run.now, Seen { toi: Toi(1), symbols: u64::MAX, lost: u64::MAX, short: true });
        assert!(!run.control.is_wanted());
    }

    #[test]
    fn it_is_left_after_a_time_without_need_and_longer_when_it_was_needed_again() {
        let mut run = Run::new();
        let stay = |run: &mut Run| {
            assert!(run.objects(8, 200));
            let from = run.now;
            while run.objects(1, 10) {}
            (run.now - from).as_secs()
        };
        let times: Vec<u64> = (0..5).map(|_| stay(&mut run)).collect();
        assert!((60..80).contains(&times[0]), "{times:?}");
        assert!(times.windows(2).all(|w| w[1] >= w[0]) && (480..500).contains(&times[4]), "{times:?}");
        // Forgotten after a long time without need.
        run.objects(400, 10);
        assert!((60..80).contains(&stay(&mut run)));
        // Silence is no need.
        assert!(run.objects(8, 200));
        run.control.tick(run.now + Duration::from_secs(1000));
        assert!(!run.control.is_wanted());
        run.control.reset(run.now + Duration::from_secs(1001));
    }
}
