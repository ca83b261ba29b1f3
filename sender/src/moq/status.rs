//! What the publisher tells: status and metrics.

use super::{Offered, Relayed};
use mahp_moq::channel::ChannelStats;
use mahp_moq::quic::{Listener, ListenerStats};
use metrics::{counter, gauge};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the counters are. Cheap to clone.
#[derive(Clone)]
pub struct Counters {
    pub(super) listener: Option<Arc<Listener>>,
    pub(super) relayed: Arc<Relayed>,
    pub(super) channels: Arc<Mutex<Offered>>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.state(), f)
    }
}

/// What they say now.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Sessions of the listener; with the relay's, what they have carried.
    sessions: ListenerStats,
    /// Whether there is a session with the relay.
    relay: bool,
    channels: Vec<(String, ChannelStats)>,
}

impl Counters {
    /// What they say now.
    pub fn state(&self) -> State {
        let mut sessions = self.listener.as_ref().map(|l| l.stats()).unwrap_or_default();
        let (relay, carried) = self.relayed.stats();
        sessions.carried = sessions.carried.with(carried);
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channels = channels.iter().map(|(name, (p, _))| (name.clone(), p.tracks().stats()));
        State { sessions, relay, channels: channels.collect() }
    }
}

/// For `/api/status`.
pub fn json(state: &State) -> Value {
    let ListenerStats { sessions, failed, carried, held_bytes } = state.sessions;
    let refused: Map<String, Value> =
        carried.refused().filter(|(_, n)| *n > 0).map(|(code, n)| (code.into(), n.into())).collect();
    let channel = |(name, c): &(String, ChannelStats)| {
        json!({ "name": name, "objects": c.objects, "window_bytes": c.held_bytes, "symbols": c.symbols,
                "busy": c.busy, "left_to_multicast": c.deferred })
    };
    json!({
        "sessions": sessions, "relay": state.relay, "failed": failed, "violations": carried.violations,
        "objects": carried.objects_out, "bytes": carried.bytes_out, "held_bytes": held_bytes, "refused": refused,
        "channels": state.channels.iter().map(channel).collect::<Vec<_>>(),
    })
}

/// Brings the metrics up to date.
pub fn publish(state: &State) {
    let ListenerStats { sessions, failed, carried, held_bytes } = state.sessions;
    gauge!("mahp_sender_moq_sessions").set((sessions + usize::from(state.relay)) as f64);
    gauge!("mahp_sender_moq_held_bytes").set(held_bytes as f64);
    counter!("mahp_sender_moq_failed_sessions_total").absolute(failed);
    counter!("mahp_sender_moq_violations_total").absolute(carried.violations);
    counter!("mahp_sender_moq_bytes_total").absolute(carried.bytes_out);
    for (code, n) in carried.refused() {
        counter!("mahp_sender_moq_refusals_total", "code" => code).absolute(n);
    }
    for (channel, stats) in &state.channels {
        let channel = || channel.clone();
        counter!("mahp_sender_moq_symbols_total", "channel" => channel()).absolute(stats.symbols);
        for (why, n) in [("busy", stats.busy), ("multicast", stats.deferred)] {
            counter!("mahp_sender_moq_busy_total", "channel" => channel(), "why" => why).absolute(n);
        }
    }
}
