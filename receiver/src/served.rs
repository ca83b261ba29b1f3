//! What was served to players and fetched from origins: told by the HTTP half, shown by the snapshot and the metrics.

use crate::histogram::Histogram;
use crate::library::Source;
use crate::snapshot::{Bytes, Quantiles};
use mahp_common::Time;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A player that asked for nothing for this long is gone.
const VIEWER_IDLE: Duration = Duration::from_secs(15);
/// Players remembered: beyond it new ones are not counted until old ones are gone.
const VIEWERS_MAX: usize = 4096;

/// Why bytes were fetched from an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// Multicast did not bring the object.
    Fallback,
    /// Byte ranges for an object under assembly.
    Repair,
    /// Symbols and byte ranges of the sender's repair servers.
    Sender,
    /// Symbols and objects of a MoQ publisher.
    Moq,
    /// Playlists and MPDs.
    Manifest,
    /// Decryption keys.
    Key,
}

impl Why {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::Fallback => "fallback",
            Why::Repair => "repair",
            Why::Sender => "sender",
            Why::Moq => "moq",
            Why::Manifest => "manifest",
            Why::Key => "key",
        }
    }
}

/// Counters of the HTTP half. Shared; all methods are short.
#[derive(Debug, Default)]
pub struct Served {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    channels: BTreeMap<String, Bytes>,
    other: Bytes,
    origin: BTreeMap<&'static str, u64>,
    holds: Histogram,
    recent_holds: Histogram,
    viewers: HashMap<(IpAddr, String), Time>,
}

impl Served {
    /// `bytes` of a body were written to a player. `channel`: `None` for allow-listed hosts of no channel.
    pub fn response(&self, channel: Option<&str>, source: Source, bytes: u64) {
        metrics::counter!("mahp_receiver_http_response_bytes_total", "source" => source.as_str())
            .increment(bytes);
        let mut state = self.lock();
        let slot = match channel {
            Some(name) if state.channels.contains_key(name) => state.channels.get_mut(name),
            Some(name) => Some(state.channels.entry(name.to_owned()).or_default()),
            None => Some(&mut state.other),
        };
        if let Some(slot) = slot {
            match source {
                Source::Multicast => slot.multicast += bytes,
                Source::Repaired => slot.repaired += bytes,
                Source::Unicast => slot.unicast += bytes,
            }
        }
    }

    /// `bytes` of a body came from an origin.
    pub fn fetched(&self, why: Why, bytes: u64) {
        metrics::counter!("mahp_receiver_origin_bytes_total", "why" => why.as_str()).increment(bytes);
        *self.lock().origin.entry(why.as_str()).or_default() += bytes;
    }

    /// A request was held for this long before its first byte left. Requests answered at once are not counted.
    pub fn hold(&self, time: Duration) {
        metrics::histogram!("mahp_receiver_http_hold_seconds").record(time.as_secs_f64());
        let mut state = self.lock();
        state.holds.record(time);
        state.recent_holds.record(time);
    }

    /// A player at `peer` asked for something of `channel`.
    pub fn viewer(&self, now: Time, channel: &str, peer: IpAddr) {
        let mut state = self.lock();
        if state.viewers.len() >= VIEWERS_MAX {
            state.viewers.retain(|_, last| now - *last < VIEWER_IDLE);
        }
        let full = state.viewers.len() >= VIEWERS_MAX;
        let key = (peer, channel.to_owned());
        if !full || state.viewers.contains_key(&key) {
            state.viewers.insert(key, now);
        }
    }

    /// Players of a channel.
    pub fn viewers(&self, now: Time, channel: &str) -> u64 {
        let state = self.lock();
        state.viewers.iter().filter(|((_, c), last)| c == channel && now - **last < VIEWER_IDLE).count()
            as u64
    }

    /// Players of all channels (one that watches two counts twice).
    pub fn all_viewers(&self, now: Time) -> u64 {
        self.lock().viewers.values().filter(|last| now - **last < VIEWER_IDLE).count() as u64
    }

    /// Bytes served of a channel.
    pub fn of(&self, channel: &str) -> Bytes {
        self.lock().channels.get(channel).copied().unwrap_or_default()
    }

    /// Bytes served of everything.
    pub fn total(&self) -> Bytes {
        let state = self.lock();
        state.channels.values().fold(state.other, |sum, b| Bytes {
            multicast: sum.multicast + b.multicast,
            repaired: sum.repaired + b.repaired,
            unicast: sum.unicast + b.unicast,
        })
    }

    /// Bytes fetched from origins by why.
    pub fn origin(&self) -> BTreeMap<String, u64> {
        self.lock().origin.iter().map(|(why, n)| ((*why).to_owned(), *n)).collect()
    }

    /// Hold times since the start.
    pub fn holds(&self) -> Quantiles {
        self.lock().holds.quantiles()
    }

    /// Hold times since this was last asked: for the history. `None` when nothing was held.
    pub fn take_recent_holds(&self) -> Option<Quantiles> {
        let mut state = self.lock();
        let q = (state.recent_holds.count() > 0).then(|| state.recent_holds.quantiles());
        state.recent_holds.clear();
        q
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters stay usable whatever happened to a thread that held them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    #[test]
    fn viewers_come_and_go_and_are_bounded() {
        let served = Served::default();
        served.viewer(Time::from_secs(0), "news", peer(1));
        served.viewer(Time::from_secs(1), "news", peer(1));
        served.viewer(Time::from_secs(2), "news", peer(2));
        served.viewer(Time::from_secs(2), "film", peer(2));
        assert_eq!(served.viewers(Time::from_secs(3), "news"), 2);
        assert_eq!(served.all_viewers(Time::from_secs(3)), 3);
        assert_eq!(served.viewers(Time::from_secs(16), "news"), 1);
        assert_eq!(served.all_viewers(Time::from_secs(60)), 0);
        for n in 0..10_000 {
            served.viewer(Time::from_secs(70), "news", peer(n));
        }
        assert_eq!(served.all_viewers(Time::from_secs(70)), VIEWERS_MAX as u64);
        served.viewer(Time::from_secs(100), "news", peer(99_999));
        assert_eq!(served.all_viewers(Time::from_secs(100)), 1);
    }

    #[test]
    fn bytes_add_up_by_source() {
        let served = Served::default();
        served.response(Some("news"), Source::Multicast, 10);
        served.response(Some("news"), Source::Repaired, 5);
        served.response(None, Source::Unicast, 3);
        served.fetched(Why::Repair, 1);
        assert_eq!(served.of("news"), Bytes { multicast: 10, repaired: 5, unicast: 0 });
        assert_eq!(served.total().total(), 18);
        assert_eq!(served.origin().get("repair"), Some(&1));
    }
}
