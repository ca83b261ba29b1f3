//! What the receiver tells about itself: the body of `/api/status`, of the page's events and of `mahp-receiver status --json`.
//!
//! A [`Snapshot`] is small and made once a second for whoever asks; a [`History`] is the last five minutes for plots, asked
//! for once by a page that then goes on with snapshots. Field names are the API: add, do not rename.

use crate::doctor::Report;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the page and the admin server read. Implemented by `hub::Hub`.
pub trait Observe: Send + Sync + 'static {
    /// The state now. Cheap: no I/O.
    fn snapshot(&self) -> Snapshot;
    /// The last five minutes.
    fn history(&self) -> History;
    /// Looks for what is wrong. Reads `/proc` and may listen on interfaces for up to two seconds: call it from a blocking thread.
    fn diagnose(&self) -> Report;
}

/// The state of the receiver at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Version of the program.
    pub version: String,
    /// Wall clock of the snapshot, Unix milliseconds.
    pub at_ms: u64,
    /// Since the program started, milliseconds.
    pub uptime_ms: u64,
    /// Session descriptions in use, one per sender.
    pub sessions: Vec<SessionSnapshot>,
    /// Channels on offer, in the order of the descriptions.
    pub channels: Vec<ChannelSnapshot>,
    /// Sums over everything.
    pub totals: Totals,
}

impl Snapshot {
    /// For a terminal.
    pub fn text(&self) -> String {
        let t = &self.totals;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let offload =
            t.offload.map_or_else(String::new, |o| format!(", {:.0} % of it spared the uplink", o * 100.0));
        let mut out = format!(
            "mahp-receiver {}, up {} s: {} viewers, {:.1} MiB served{offload}, {:.1} Mbit/s received, store {:.1} of {:.1} MiB\n",
            self.version,
            self.uptime_ms / 1000,
            t.viewers,
            mib(t.served.total()),
            t.rate_bps as f64 / 1e6,
            mib(t.store_bytes),
            mib(t.store_limit_bytes),
        );
        for s in self.sessions.iter().filter(|s| !s.ok || !s.error.is_empty()) {
            out.push_str(&format!("session {}: {}\n", s.origin, s.trouble()));
        }
        for c in &self.channels {
            let state = match c.state {
                ChannelState::Live => "live",
                ChannelState::Waiting => "waiting",
                ChannelState::Broken => "broken",
            };
            let o = &c.objects;
            out.push_str(&format!(
                "{} {state}: {}; objects: {} multicast, {} repaired, {} unicast, {} lost\n",
                c.name, c.reason, o.multicast, o.repaired, o.unicast, o.lost
            ));
            for r in c.renditions.iter().filter(|r| r.joined) {
                out.push_str(&format!(
                    "  {} {} on {}: {:.2} Mbit/s, loss {:.2} % of {} symbols before FEC, {:.2} % of objects after\n",
                    r.id,
                    r.flow,
                    r.interface,
                    r.rate_bps as f64 / 1e6,
                    r.loss_before_fec * 100.0,
                    r.expected_symbols,
                    r.loss_after_fec * 100.0
                ));
                if let Some(layer) = r.repair_layer_2.as_ref().filter(|layer| layer.joined) {
                    out.push_str(&format!("    and its second repair layer on {}\n", layer.flow));
                }
            }
        }
        out
    }
}

/// One sender.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionSnapshot {
    /// The URL or `source@group:port` that was given.
    pub origin: String,
    /// Its name for people.
    pub name: String,
    /// Identity of the sender's run.
    pub session: String,
    /// Whether a verified description is in use.
    pub ok: bool,
    /// Last thing that went wrong; empty = nothing.
    pub error: String,
    /// How to mend it.
    pub hint: String,
    /// Pinned public key, base64; empty before first contact or without authentication.
    pub key: String,
    /// Unix seconds after which the description must not be used.
    pub expires: u64,
}

impl SessionSnapshot {
    /// What is wrong, for people who know which session it is about.
    pub fn trouble(&self) -> &str {
        let error = self.error.strip_prefix(self.origin.as_str()).unwrap_or(&self.error);
        match error.trim_start_matches([':', ' ']) {
            "" => "it has not answered yet",
            error => error,
        }
    }
}

/// State of a channel, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelState {
    /// Data arrives.
    Live,
    /// Nobody watches it, or it was joined a moment ago.
    #[default]
    Waiting,
    /// Joined, and nothing (usable) arrives.
    Broken,
}

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelSnapshot {
    /// Name in URLs and metrics.
    pub name: String,
    /// Title for people.
    pub title: String,
    /// `hls` or `dash`.
    pub format: String,
    /// Live, or on demand.
    pub live: bool,
    /// Absolute URL of the manifest at the origin.
    pub manifest_url: String,
    /// Longest segment, milliseconds.
    pub target_duration_ms: u64,
    /// How it goes.
    pub state: ChannelState,
    /// Why, in words.
    pub reason: String,
    /// Players seen in the last 15 seconds.
    pub viewers: u64,
    /// Bytes served to players, by source.
    pub served: Bytes,
    /// Objects of all renditions.
    pub objects: Objects,
    /// Share of source symbols of finished objects of all renditions that multicast did not bring, last 10 seconds with data;
    /// none: nothing was finished.
    pub loss_before_fec: Option<f64>,
    /// The same of objects that multicast alone did not complete.
    pub loss_after_fec: Option<f64>,
    /// First packet of an object to verified and servable, 90 % of those of the last second; the largest of its renditions.
    /// None: no object was completed.
    pub recent_completion_p90_ms: Option<u64>,
    /// UDP payload bit/s over the last second, all renditions.
    pub rate_bps: u64,
    /// Time from the origin's publication at the sender to servable here, of the newest object, milliseconds.
    pub delay_ms: Option<u64>,
    /// Its renditions.
    pub renditions: Vec<RenditionSnapshot>,
}

/// One rendition and its flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RenditionSnapshot {
    /// Unique in the channel.
    pub id: String,
    /// `manifest`, `video`, `audio`, `text`, `other`.
    pub role: String,
    /// Bit rate of the media, bit/s.
    pub bitrate_bps: u64,
    /// `1280x720`.
    pub resolution: Option<String>,
    /// RFC 6381.
    pub codecs: Option<String>,
    /// BCP 47.
    pub language: Option<String>,
    /// `source@group:port` of the source flow (`*@…` for any-source multicast).
    pub flow: String,
    /// Whether the groups are joined now.
    pub joined: bool,
    /// Interface of the join.
    pub interface: String,
    /// Why it could not be joined; empty = no error.
    pub error: String,
    /// UDP payload bit/s over the last second.
    pub rate_bps: u64,
    /// Since the last packet, milliseconds.
    pub last_packet_ms: Option<u64>,
    /// Packets so far.
    pub packets: u64,
    /// Share of source symbols of finished objects that multicast did not bring, last 10 seconds with data; 0 to 1.
    pub loss_before_fec: f64,
    /// Share of objects that multicast alone did not complete, last 10 seconds with data; 0 to 1.
    pub loss_after_fec: f64,
    /// Source symbols that this is of: of a few the share says little.
    pub expected_symbols: u64,
    /// Objects so far.
    pub objects: Objects,
    /// Objects under assembly now.
    pub in_flight: u64,
    /// Bytes under assembly now.
    pub assembly_bytes: u64,
    /// First packet of an object to verified and servable, since the start.
    pub completion_ms: Quantiles,
    /// As in [`ChannelSnapshot::delay_ms`].
    pub delay_ms: Option<u64>,
    /// Its second repair layer, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_layer_2: Option<LayerSnapshot>,
}

/// The second repair layer of a rendition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerSnapshot {
    /// `source@group:port`.
    pub flow: String,
    /// Repair symbols per hundred source symbols.
    pub percent: u32,
    /// Whether it is joined now.
    pub joined: bool,
    /// How often it was needed.
    pub joins: u64,
    /// Packets since the rendition was joined.
    pub packets: u64,
    /// Why it could not be joined; empty = no error.
    pub error: String,
}

/// Objects by how they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Objects {
    /// By multicast alone, FEC included.
    pub multicast: u64,
    /// By multicast, missing symbols by unicast.
    pub repaired: u64,
    /// Whole by unicast.
    pub unicast: u64,
    /// Heard of and given up, or failed verification.
    pub lost: u64,
}

/// Bytes by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bytes {
    /// Objects that multicast alone completed.
    pub multicast: u64,
    /// Objects that needed symbols by unicast.
    pub repaired: u64,
    /// Objects fetched whole.
    pub unicast: u64,
}

impl Bytes {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.multicast + self.repaired + self.unicast
    }
}

/// Quantiles of a time, milliseconds (upper edges of logarithmic bins, 19 % wide).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

/// Sums.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Players seen in the last 15 seconds.
    pub viewers: u64,
    /// Bytes served to players, by source.
    pub served: Bytes,
    /// Bytes fetched from origins, by why: `fallback`, `repair`, `manifest`, `key`.
    pub origin: BTreeMap<String, u64>,
    /// Bytes of complete objects by the way they came: `multicast`, `sender`, `origin`, `moq` (each for the same decoder; they
    /// add up to the objects' lengths), and `whole`: objects fetched whole by unicast.
    pub object_bytes: BTreeMap<String, u64>,
    /// 1 - origin bytes / served bytes: what the uplink was spared. `None` before anything was served.
    pub offload: Option<f64>,
    /// Times that requests were held, since the start.
    pub hold_ms: Quantiles,
    /// 90 % of those of the last second; none: nothing was held.
    pub recent_hold_p90_ms: Option<u64>,
    /// UDP payload bit/s over the last second.
    pub rate_bps: u64,
    /// Objects of all channels.
    pub objects: Objects,
    /// Bytes in the store.
    pub store_bytes: u64,
    /// Its limit.
    pub store_limit_bytes: u64,
    /// Of [`Totals::store_bytes`], pinned for the live window.
    pub pinned_bytes: u64,
    /// Bytes in the disk store.
    pub disk_bytes: u64,
    /// Its limit; 0 = no disk store.
    pub disk_limit_bytes: u64,
    /// Bytes under assembly.
    pub assembly_bytes: u64,
    /// Their limit.
    pub assembly_limit_bytes: u64,
    /// Refusals by reason ([`mahp_common::drop::DropReason::as_str`]).
    pub drops: BTreeMap<String, u64>,
    /// Datagrams the kernel dropped at our sockets (receive buffer full).
    pub kernel_drops: u64,
}

/// The last five minutes in steps of one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Unix seconds of the first value of each series; all series have the same length.
    pub start: u64,
    /// Seconds between two values.
    pub step: u64,
    /// Over everything: `multicast_bps`, `repaired_bps`, `unicast_bps` (served), `received_bps`, `hold_p90_ms`, `viewers`.
    pub totals: BTreeMap<String, Vec<Option<f64>>>,
    /// Per channel: `rate_bps`, `loss_before_fec`, `loss_after_fec`, `completion_p90_ms`, `delay_ms`.
    pub channels: BTreeMap<String, BTreeMap<String, Vec<Option<f64>>>>,
    /// Per flow, keyed `channel/rendition`: `rate_bps`.
    pub flows: BTreeMap<String, BTreeMap<String, Vec<Option<f64>>>>,
}
