//! Adaptive FEC: the repair share of a rendition follows the loss that its receivers report.
//!
//! The loss that counts is a high percentile of the receivers, smoothed; the share is what that loss needs, between a floor
//! and a ceiling, and it changes slowly: up within seconds, down within minutes, so that a loss that comes and goes does
//! not find the share just lowered. A receiver is believed as far as its address has votes.
//!
//! Where there is a second repair layer, a receiver that has joined it counts only with the loss that this leaves. If the share rose
//! for those whom the second layer serves, every receiver would carry what the layer is there to spare them; and once it had
//! risen, nobody would need the layer. A receiver that loses much and has not joined (an older one, one that has just begun)
//! counts in full: nothing else mends its loss.

use super::aggregate::Reporter;
use crate::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Parameters of a [`ShareControl`].
#[derive(Clone, Copy, Debug)]
pub struct ShareConfig {
    /// Never less than this, percent.
    pub floor: u32,
    /// Never more than this, percent.
    pub ceiling: u32,
    /// Where it starts, percent.
    pub start: u32,
    /// Repair share of the second layer, percent; 0: there is none.
    pub layer_2: u32,
    /// Share of the receivers whose loss is covered: 0 to 1.
    pub percentile: f64,
    /// Most points per second up.
    pub up_per_sec: f64,
    /// Most points per second down.
    pub down_per_sec: f64,
    /// Receivers that are believed behind one client address.
    pub votes: usize,
    /// Receivers that are remembered: further ones are not counted.
    pub receivers: usize,
}

impl ShareConfig {
    /// From `floor` to `ceiling` percent, starting at `start`: two points a second up, one in ten seconds down.
    pub const fn new(floor: u32, start: u32, ceiling: u32) -> ShareConfig {
        ShareConfig {
            floor,
            ceiling,
            start,
            layer_2: 0,
            percentile: 0.95,
            up_per_sec: 2.0,
            down_per_sec: 0.1,
            votes: 4,
            receivers: 4096,
        }
    }
}

/// A receiver that has not reported for this long does not count.
const MEMORY: Duration = Duration::from_secs(60);
/// The share is looked at this often.
const STEP: Duration = Duration::from_secs(1);
/// Weight of a new percentile in the smoothed one, where it is lower; a higher one counts at once.
const WEIGHT: f64 = 0.1;
/// A report of fewer symbols says nothing about a loss.
const EXPECTED_MIN: u64 = 20;

/// Why the share is what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Why {
    /// Receivers that count.
    pub receivers: usize,
    /// Their percentile of loss now: 0 to 1.
    pub loss: f64,
    /// Smoothed.
    pub smoothed: f64,
    /// What that loss needs, percent, before floor, ceiling and rate limit.
    pub needed: f64,
}

/// See the module.
#[derive(Debug)]
pub struct ShareControl {
    config: ShareConfig,
    receivers: BTreeMap<(u64, u64), Heard>,
    share: f64,
    smoothed: f64,
    at: Option<Time>,
    why: Why,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    loss: f64,
    at: Time,
}

impl ShareControl {
    /// Has heard nothing.
    pub fn new(config: ShareConfig) -> ShareControl {
        let share = f64::from(config.start.clamp(config.floor, config.ceiling));
        ShareControl {
            config,
            receivers: BTreeMap::new(),
            share,
            smoothed: 0.0,
            at: None,
            why: Why::default(),
        }
    }

    /// A receiver tells that `lost` of `expected` source symbols did not come by multicast. `layer_2`: it is in the second
    /// layer, and counts with what that leaves to the first.
    pub fn report(&mut self, now: Time, from: Reporter, lost: u64, expected: u64, layer_2: bool) {
        if expected < EXPECTED_MIN {
            return;
        }
        let key = (from.client, from.receiver);
        if !self.receivers.contains_key(&key) {
            let of_client = self.receivers.range((from.client, 0)..=(from.client, u64::MAX)).count();
            if of_client >= self.config.votes || self.receivers.len() >= self.config.receivers {
                return;
            }
        }
        let lost = lost.min(expected) as f64 / expected as f64;
        let loss = if layer_2 { left_over(lost, self.config.layer_2) } else { lost };
        self.receivers.insert(key, Heard { loss, at: now });
    }

    /// The share now, percent. Call about once a second; more often changes nothing.
    pub fn share(&mut self, now: Time) -> u32 {
        let since = now.since(*self.at.get_or_insert(now));
        if since >= STEP {
            self.at = Some(now);
            self.step(now, since.as_secs_f64().min(10.0));
        }
        // Between floor and ceiling, which are small.
        self.share.round() as u32
    }

    /// Why it is what it is.
    pub const fn why(&self) -> &Why {
        &self.why
    }

    fn step(&mut self, now: Time, secs: f64) {
        self.receivers.retain(|_, heard| now < heard.at + MEMORY);
        let mut losses: Vec<f64> = self.receivers.values().map(|h| h.loss).collect();
        losses.sort_by(f64::total_cmp);
        let rank = (losses.len() as f64 * self.config.percentile).ceil() as usize;
        let loss = losses.get(rank.max(1) - 1).copied().unwrap_or(0.0);
        self.smoothed =
            if loss > self.smoothed { loss } else { self.smoothed + WEIGHT * (loss - self.smoothed) };
        let needed = needed(self.smoothed);
        self.why = Why { receivers: losses.len(), loss, smoothed: self.smoothed, needed };
        // Nobody reports: nobody is known to need another share than the one configured.
        let goal = if losses.is_empty() { f64::from(self.config.start) } else { needed };
        let goal = goal.clamp(f64::from(self.config.floor), f64::from(self.config.ceiling));
        let (up, down) = (self.config.up_per_sec * secs, self.config.down_per_sec * secs);
        self.share += (goal - self.share).clamp(-down, up);
    }
}

/// Percent of repair that a loss needs: repair symbols are lost too, and a loss of a mean `p` is at times a third more.
fn needed(loss: f64) -> f64 {
    let loss = (loss * 1.3).min(0.75);
    100.0 * loss / (1.0 - loss) + if loss > 0.0 { 3.0 } else { 0.0 }
}

/// The loss that the first layer has to mend when a second of this share mends what it can.
fn left_over(loss: f64, layer_2: u32) -> f64 {
    let share = (needed(loss) - f64::from(layer_2) - 3.0).max(0.0) / 100.0;
    share / (1.0 + share) / 1.3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(client: u64) -> Reporter {
        Reporter { client, receiver: 1 }
    }

    /// Runs `secs` seconds with everybody reporting the loss that `of` gives him; returns share and seconds.
    fn run(control: &mut ShareControl, from: u64, secs: u64, of: impl Fn(u64) -> f64) -> Vec<u32> {
        (from..from + secs)
            .map(|s| {
                for client in 0..20 {
                    let lost = (of(client) * 1000.0) as u64;
                    control.report(Time::from_secs(s), who(client), lost, 1000, false);
                }
                control.share(Time::from_secs(s))
            })
            .collect()
    }

    #[test]
    fn it_rises_within_seconds_to_what_the_loss_needs_and_falls_slowly() {
        let mut control = ShareControl::new(ShareConfig::new(5, 15, 50));
        let up = run(&mut control, 0, 30, |_| 0.2);
        assert!(up[14] >= 33 && up[29] <= 50, "{up:?}");
        assert!(up.windows(2).all(|w| w[1] <= w[0] + 2), "rate limit: {up:?}");
        let down = run(&mut control, 30, 600, |_| 0.0);
        assert!(down[60] >= 30, "{}", down[60]);
        assert_eq!(down.last(), Some(&5));
    }

    #[test]
    fn floor_and_ceiling_hold_and_silence_means_the_configured_share() {
        let mut control = ShareControl::new(ShareConfig::new(5, 15, 40));
        assert_eq!(run(&mut control, 0, 100, |_| 0.9).last(), Some(&40));
        let quiet: Vec<u32> = (100..1000).map(|s| control.share(Time::from_secs(s))).collect();
        assert_eq!(quiet.last(), Some(&15));
    }

    #[test]
    fn one_liar_among_twenty_and_his_forged_numbers_change_nothing() {
        let mut honest = ShareControl::new(ShareConfig::new(5, 15, 50));
        let mut lied_to = ShareControl::new(ShareConfig::new(5, 15, 50));
        for s in 0..60 {
            let now = Time::from_secs(s);
            for client in 0..100 {
                honest.report(now, who(client), 10, 1000, false);
                lied_to.report(now, who(client), 10, 1000, false);
            }
            for receiver in 0..1000 {
                lied_to.report(now, Reporter { client: 500, receiver }, u64::MAX, 1000, false);
            }
            assert_eq!(honest.share(now), lied_to.share(now), "at {s} s");
        }
        assert_eq!(lied_to.why().receivers, 104);
    }

    #[test]
    fn it_does_not_rise_for_those_whom_the_second_layer_serves() {
        let share = |layer_2: u32, joined: bool| {
            let mut control = ShareControl::new(ShareConfig { layer_2, ..ShareConfig::new(15, 15, 50) });
            for s in 0..60 {
                for client in 0..20 {
                    let lost = if client < 5 { 200 } else { 10 };
                    control.report(Time::from_secs(s), who(client), lost, 1000, joined && client < 5);
                }
                control.share(Time::from_secs(s));
            }
            control.share(Time::from_secs(60))
        };
        assert_eq!(share(30, true), 15);
        assert_eq!(share(30, false), 38, "nobody is known to be in it");
        assert_eq!(share(10, true), 28, "it does not do alone");
        assert_eq!(share(0, true), 38, "there is none, whatever a report says");
    }

    #[test]
    fn what_a_loss_needs_covers_it() {
        for percent in 1..=30 {
            let loss = f64::from(percent) / 100.0;
            assert!(needed(loss) / 100.0 * (1.0 - loss) > loss * 1.1, "{percent} %");
        }
        assert!(needed(0.0).abs() < f64::EPSILON);
    }
}
