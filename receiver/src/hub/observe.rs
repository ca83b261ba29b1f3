//! What people ask: snapshot, history, metrics, readiness.

use super::history::Second;
use super::stats::{Window, add, share};
use super::{Entry, Hub, State};
use crate::doctor::{self, Report};
use crate::snapshot::{
    Bytes, ChannelSnapshot, ChannelState, History, LayerSnapshot, Objects, Observe, RenditionSnapshot,
    SessionSnapshot, Snapshot, Totals,
};
use crate::urls::RenditionKey;
use mahp_common::catalog::{Endpoint, Format, Role};
use mahp_common::repair::layer::LayerControl;
use mahp_common::{Time, WallTime};
use mahp_runtime::admin::Status;
use metrics::{counter, gauge};
use std::net::SocketAddr;
use std::time::Duration;

/// A joined rendition gets this long before it counts as broken.
const SETTLING: Duration = Duration::from_secs(5);
/// IGMP snooping without querier stops forwarding about this long after a join.
const QUERIER: std::ops::RangeInclusive<u64> = 235..=285;

impl Observe for Hub {
    fn snapshot(&self) -> Snapshot {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut state = self.state();
        state.listen();
        let mut totals = state.totals(self, now);
        let channels = state.channel_snapshots(self, now);
        totals.rate_bps = channels.iter().map(|c| c.rate_bps).sum();
        for channel in &channels {
            add(&mut totals.objects, &channel.objects);
        }
        Snapshot {
            version: env!("CARGO_PKG_VERSION").into(),
            at_ms: wall.unix_millis(),
            uptime_ms: millis(now - Time::ZERO),
            sessions: state.session_snapshots(wall),
            channels,
            totals,
        }
    }

    fn history(&self) -> History {
        self.state().rings.history()
    }

    fn diagnose(&self) -> Report {
        doctor::diagnose(self.snapshot().sessions, || self.flows())
    }
}

impl Status for Hub {
    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.snapshot()).unwrap_or_default()
    }

    fn not_ready(&self) -> Vec<String> {
        let snapshot = self.snapshot();
        let sessions = snapshot
            .sessions
            .iter()
            .filter(|s| !s.ok)
            .map(|s| format!("session description of {}: {}", s.origin, s.trouble()));
        let broken = snapshot.channels.iter().filter(|c| c.state == ChannelState::Broken);
        sessions.chain(broken.map(|c| format!("channel {}: {}", c.name, c.reason))).collect()
    }

    fn before_metrics(&self) {
        self.publish(&self.snapshot());
    }

    fn extra(&self, path: &str) -> Option<(u16, &'static str, Vec<u8>)> {
        let json = |body: serde_json::Result<Vec<u8>>| Some((200, "application/json", body.ok()?));
        match path {
            "/api/channels" => json(serde_json::to_vec(&self.snapshot().channels)),
            "/api/history" => json(serde_json::to_vec(&self.history())),
            "/api/doctor" => {
                use tokio::runtime::{Handle, RuntimeFlavor};
                // It blocks for two seconds, which only a runtime with other threads can bear.
                match Handle::try_current().map(|h| h.runtime_flavor()) {
                    Ok(RuntimeFlavor::CurrentThread) | Err(_) => None,
                    Ok(_) => json(serde_json::to_vec(&tokio::task::block_in_place(|| self.diagnose()))),
                }
            }
            "/api/flows" => json(serde_json::to_vec(&self.flows())),
            _ => None,
        }
    }
}

impl Hub {
    /// Once a second: leaves what is idle, takes counters over, writes history.
    pub fn tick(&self) {
        let wall = self.clock.wall();
        self.with(|state, now| {
            state.joins.tick(now);
            state.reopen(now);
            state.tick_layers(now);
            let second = state.second(self, now);
            state.rings.push(wall.unix_secs(), second);
        });
        self.publish_counters();
    }

    /// All flows on offer, for the doctor.
    pub fn flows(&self) -> Vec<doctor::Flow> {
        let now = self.clock.now();
        let mut state = self.state();
        state.listen();
        state.renditions.iter().flat_map(|(key, entry)| entry.doctor_flows(key, now)).collect()
    }

    fn publish(&self, snapshot: &Snapshot) {
        let t = &snapshot.totals;
        gauge!("mahp_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        gauge!("mahp_receiver_cache_bytes").set(t.store_bytes as f64);
        gauge!("mahp_receiver_cache_limit_bytes").set(t.store_limit_bytes as f64);
        gauge!("mahp_receiver_reassembly_bytes").set(t.assembly_bytes as f64);
        for channel in &snapshot.channels {
            let name = || channel.name.clone();
            gauge!("mahp_receiver_viewers", "channel" => name()).set(channel.viewers as f64);
            if let Some(delay) = channel.delay_ms {
                gauge!("mahp_receiver_live_delay_seconds", "channel" => name()).set(delay as f64 / 1000.0);
            }
            let last = channel.renditions.iter().filter_map(|r| r.last_packet_ms).min();
            if let Some(ago) = last {
                let at = snapshot.at_ms.saturating_sub(ago) as f64 / 1000.0;
                gauge!("mahp_receiver_last_packet_timestamp_seconds", "channel" => name()).set(at);
            }
        }
    }

    fn publish_counters(&self) {
        let state = self.state();
        for channel in &state.channels {
            let name = || channel.name.clone();
            let of_channel = || state.renditions.iter().filter(|(k, _)| *k.channel == *channel.name);
            let mut sum = super::stats::Counts::default();
            for (_, entry) in of_channel() {
                sum.add(&entry.stats.counts);
            }
            let layers = || of_channel().filter_map(|(_, e)| e.layer.as_ref());
            let joins = layers().map(LayerControl::joins).sum();
            counter!("mahp_receiver_repair_layer_joins_total", "channel" => name()).absolute(joins);
            let joined = of_channel().filter(|(_, e)| e.is_in_layer_2()).count();
            gauge!("mahp_receiver_repair_layer_joined", "channel" => name()).set(joined as f64);
            counter!("mahp_receiver_packets_total", "channel" => name()).absolute(sum.packets);
            counter!("mahp_receiver_received_bytes_total", "channel" => name()).absolute(sum.bytes);
            counter!("mahp_receiver_symbols_missing_total", "channel" => name()).absolute(sum.lost_symbols);
            let whole = [("whole", sum.whole_bytes)];
            for (path, bytes) in sum.object_bytes.iter().map(|(p, n)| (p.as_str(), n)).chain(whole) {
                counter!("mahp_receiver_object_bytes_total", "channel" => name(), "path" => path)
                    .absolute(bytes);
            }
            let kinds = [
                ("source", sum.source_symbols),
                ("repair", sum.repair_symbols),
                ("late", sum.late_symbols),
                ("duplicate", sum.duplicate_symbols),
            ];
            for (kind, n) in kinds {
                counter!("mahp_receiver_symbols_total", "channel" => name(), "kind" => kind).absolute(n);
            }
        }
        for (reason, n) in state.drops.iter() {
            counter!("mahp_receiver_packets_dropped_total", "reason" => reason.as_str()).absolute(n);
        }
        let kernel = state.renditions.values().map(|e| e.stats.counts.kernel_drops).sum();
        counter!("mahp_receiver_socket_drops_total").absolute(kernel);
    }
}

impl State {
    fn listen(&mut self) {
        for entry in self.renditions.values_mut() {
            entry.listen();
        }
    }

    fn session_snapshots(&self, wall: WallTime) -> Vec<SessionSnapshot> {
        let one = |s: &super::Session| {
            let d = s.description.as_ref();
            let expired = d.is_some_and(|d| d.expires < wall.unix_secs());
            SessionSnapshot {
                origin: s.source.to_string(),
                name: d.map(|d| d.name.clone()).unwrap_or_default(),
                session: d.map(|d| d.session.clone()).unwrap_or_default(),
                ok: d.is_some() && !expired,
                error: if expired { "the session description has expired".into() } else { s.error.clone() },
                hint: if s.error.is_empty() { String::new() } else { s.hint.clone() },
                key: s.key.map(|k| k.to_base64()).unwrap_or_default(),
                expires: d.map_or(0, |d| d.expires),
            }
        };
        self.sessions.iter().map(one).collect()
    }

    fn totals(&self, hub: &Hub, now: Time) -> Totals {
        let served = hub.served.total();
        let origin = hub.served.origin();
        let fetched: u64 = origin.values().sum();
        Totals {
            viewers: hub.served.all_viewers(now),
            offload: (served.total() > 0).then(|| 1.0 - share(fetched, served.total())),
            served,
            origin,
            object_bytes: self.object_bytes(),
            hold_ms: hub.served.holds(),
            recent_hold_p90_ms: self.recent_hold_p90_ms,
            rate_bps: 0,
            objects: Objects::default(),
            store_bytes: self.store.bytes(),
            store_limit_bytes: self.store.limit(),
            pinned_bytes: self.store.pinned_bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, |d| d.bytes()),
            disk_limit_bytes: self.disk.as_ref().map_or(0, |d| d.limit()),
            assembly_bytes: self.renditions.values().map(|e| e.stats.assembly_bytes).sum(),
            assembly_limit_bytes: hub.options.assembly_memory,
            drops: self.drops.iter().map(|(r, n)| (r.as_str().to_owned(), n)).collect(),
            kernel_drops: self.renditions.values().map(|e| e.stats.counts.kernel_drops).sum(),
        }
    }

    /// Every byte of every object of the channels, by way.
    fn object_bytes(&self) -> std::collections::BTreeMap<String, u64> {
        let mut sum = super::stats::Counts::default();
        self.renditions.values().for_each(|e| sum.add(&e.stats.counts));
        let ways = sum.object_bytes.iter().map(|(path, bytes)| (path.as_str().to_owned(), bytes));
        ways.chain([("whole".to_owned(), sum.whole_bytes)]).filter(|(_, bytes)| *bytes > 0).collect()
    }

    fn channel_snapshots(&self, hub: &Hub, now: Time) -> Vec<ChannelSnapshot> {
        let one = |channel: &std::sync::Arc<mahp_common::catalog::Channel>| {
            let entries: Vec<(&RenditionKey, &Entry)> =
                self.renditions.iter().filter(|(k, _)| *k.channel == *channel.name).collect();
            // In the order of the description, not of names.
            let mut renditions: Vec<RenditionSnapshot> =
                entries.iter().map(|(_, e)| e.snapshot(now)).collect();
            renditions.sort_by_key(|r| channel.renditions.iter().position(|c| c.id == r.id));
            let (state, reason) = judge(&entries, now);
            let mut objects = Objects::default();
            let mut loss = Window::default();
            let completion = entries.iter().filter_map(|(_, e)| e.stats.recent_completion_p90_ms).max();
            for (_, entry) in &entries {
                add(&mut objects, &entry.stats.counts.objects);
                loss.add(&entry.stats.loss());
            }
            ChannelSnapshot {
                name: channel.name.clone(),
                title: channel.title.clone(),
                format: match channel.format {
                    Format::Hls => "hls".into(),
                    Format::Dash => "dash".into(),
                },
                live: channel.live,
                manifest_url: channel.manifest_url.clone(),
                target_duration_ms: channel.target_duration_ms,
                state,
                reason,
                viewers: hub.served.viewers(now, &channel.name),
                served: hub.served.of(&channel.name),
                objects,
                loss_before_fec: loss.before_fec(),
                loss_after_fec: loss.after_fec(),
                recent_completion_p90_ms: completion,
                rate_bps: renditions.iter().map(|r| r.rate_bps).sum(),
                delay_ms: renditions.iter().filter(|r| r.joined).filter_map(|r| r.delay_ms).max(),
                renditions,
            }
        };
        self.channels.iter().map(one).collect()
    }

    /// Takes the counters of one second over.
    fn second(&mut self, hub: &Hub, now: Time) -> Second {
        let mut out = Second::default();
        let mut received = 0;
        let mut by_channel: std::collections::BTreeMap<String, ChannelSecond> =
            std::collections::BTreeMap::new();
        for (key, entry) in &mut self.renditions {
            let bytes = entry.absorb(&mut self.drops);
            entry.stats.rate_bps = bytes * 8;
            received += bytes * 8;
            entry.stats.second();
            let sum = by_channel.entry(key.channel.to_string()).or_default();
            sum.rate_bps += bytes * 8;
            sum.loss.add(&entry.stats.loss());
            sum.joined |= entry.flow.is_some();
            if let Some(p90) = entry.stats.recent_completion_p90_ms {
                sum.completion_p90_ms = sum.completion_p90_ms.max(Some(p90));
                sum.delay_ms = sum.delay_ms.max(entry.stats.delay_ms);
            }
            if entry.flow.is_some() {
                out.flows.push((key.to_string(), vec![("rate_bps", Some((bytes * 8) as f64))]));
            }
        }
        out.channels =
            by_channel.into_iter().filter(|(_, c)| c.joined).map(|(n, c)| (n, c.values())).collect();
        out.totals = self.second_of_totals(hub, now, received);
        out
    }

    fn second_of_totals(&mut self, hub: &Hub, now: Time, received: u64) -> Vec<(&'static str, Option<f64>)> {
        let served = hub.served.total();
        self.recent_hold_p90_ms = hub.served.take_recent_holds().map(|q| q.p90);
        let before: Bytes = std::mem::replace(&mut self.last_served, served);
        let rate = |now: u64, before: u64| Some((now.saturating_sub(before) * 8) as f64);
        vec![
            ("multicast_bps", rate(served.multicast, before.multicast)),
            ("repaired_bps", rate(served.repaired, before.repaired)),
            ("unicast_bps", rate(served.unicast, before.unicast)),
            ("received_bps", Some(received as f64)),
            ("hold_p90_ms", self.recent_hold_p90_ms.map(|ms| ms as f64)),
            ("viewers", Some(hub.served.all_viewers(now) as f64)),
        ]
    }
}

#[derive(Default)]
struct ChannelSecond {
    joined: bool,
    rate_bps: u64,
    loss: Window,
    completion_p90_ms: Option<u64>,
    delay_ms: Option<u64>,
}

impl ChannelSecond {
    fn values(&self) -> Vec<(&'static str, Option<f64>)> {
        vec![
            ("rate_bps", Some(self.rate_bps as f64)),
            ("loss_before_fec", self.loss.before_fec()),
            ("loss_after_fec", self.loss.after_fec()),
            ("completion_p90_ms", self.completion_p90_ms.map(|ms| ms as f64)),
            ("delay_ms", self.delay_ms.map(|ms| ms as f64)),
        ]
    }
}

impl Entry {
    fn snapshot(&self, now: Time) -> RenditionSnapshot {
        let loss = self.stats.loss();
        let r = &self.rendition;
        RenditionSnapshot {
            id: r.id.clone(),
            role: role_word(r.role).into(),
            bitrate_bps: r.bitrate_bps,
            resolution: r.resolution.clone(),
            codecs: r.codecs.clone(),
            language: r.language.clone(),
            flow: endpoint_text(&r.flow.endpoint),
            joined: self.flow.is_some(),
            interface: self.flow.as_ref().map(|f| f.interface.clone()).unwrap_or_default(),
            error: self.error.clone(),
            rate_bps: self.stats.rate_bps,
            last_packet_ms: self.last_packet.map(|at| millis(now - at)),
            packets: self.stats.counts.packets,
            loss_before_fec: loss.before_fec().unwrap_or_default(),
            loss_after_fec: loss.after_fec().unwrap_or_default(),
            expected_symbols: loss.expected_symbols,
            objects: self.stats.counts.objects,
            in_flight: self.stats.in_flight,
            assembly_bytes: self.stats.assembly_bytes,
            completion_ms: self.stats.completion.quantiles(),
            delay_ms: self.stats.delay_ms,
            repair_layer_2: self.layer_snapshot(),
        }
    }

    fn layer_snapshot(&self) -> Option<LayerSnapshot> {
        let (layer, control) = self.rendition.flow.repair_layer_2.as_ref().zip(self.layer.as_ref())?;
        Some(LayerSnapshot {
            flow: endpoint_text(&layer.endpoint),
            percent: layer.percent,
            joined: self.is_in_layer_2(),
            joins: control.joins(),
            packets: self.flow.as_ref().map_or(0, |f| f.datagrams()[2]),
            error: self.flow.as_ref().map(|f| f.layer_2().error()).unwrap_or_default(),
        })
    }

    fn doctor_flows(&self, key: &RenditionKey, now: Time) -> Vec<doctor::Flow> {
        let flow = &self.rendition.flow;
        let second = flow.repair_layer_2.filter(|_| self.is_in_layer_2()).map(|layer| layer.endpoint);
        let endpoints = [Some(flow.endpoint), flow.repair, second];
        let one = |(i, e): (usize, Endpoint)| doctor::Flow {
            name: match i {
                0 => key.to_string(),
                1 => format!("{key} (repair)"),
                _ => format!("{key} (repair layer 2)"),
            },
            source: e.source,
            group: Some(e.group),
            port: e.port,
            interface: self.flow.as_ref().map(|f| f.interface.clone()).unwrap_or_default(),
            joined: self.flow.is_some(),
            join_error: self.error.clone(),
            joined_for_ms: self.joined_at.map(|at| millis(now - at)),
            last_packet_ms: self.last_packet.map(|at| millis(now - at)),
            packets: self.flow.as_ref().map_or(0, |f| f.datagrams()[i]),
            recv_buffer: self.flow.as_ref().map_or(0, |f| f.recv_buffer as u64),
            // A repair flow is silent where nothing is sent.
            must_be_heard: i == 0,
        };
        endpoints.into_iter().enumerate().filter_map(|(i, e)| Some(one((i, e?)))).collect()
    }
}

/// State of a channel, and why.
fn judge(entries: &[(&RenditionKey, &Entry)], now: Time) -> (ChannelState, String) {
    let joined: Vec<&Entry> = entries.iter().map(|(_, e)| *e).filter(|e| e.flow.is_some()).collect();
    if let Some(heard) = joined.iter().filter(|e| e.hearing.is_heard(now)).count().checked_sub(1) {
        return (ChannelState::Live, format!("{} of {} renditions arrive", heard + 1, entries.len()));
    }
    if let Some((key, entry)) = entries.iter().find(|(_, e)| !e.error.is_empty()) {
        return (ChannelState::Broken, format!("{key} cannot be joined: {}", entry.error));
    }
    let Some(entry) = joined.iter().max_by_key(|e| e.joined_at.map(|at| now - at)) else {
        return (ChannelState::Waiting, "nobody watches it".into());
    };
    let joined_for = entry.joined_at.map_or(Duration::ZERO, |at| now - at);
    let flow = endpoint_text(&entry.rendition.flow.endpoint);
    let interface = entry.flow.as_ref().map(|f| f.interface.clone()).unwrap_or_default();
    if joined_for < SETTLING {
        return (ChannelState::Waiting, format!("joined {flow} on {interface} just now"));
    }
    let reason = match entry.last_packet {
        None => format!(
            "joined {flow} on {interface} {} s ago, 0 packets: run mahp-receiver doctor",
            joined_for.as_secs()
        ),
        Some(at) => {
            let heard_for = at - entry.joined_at.unwrap_or(at);
            let querier = if QUERIER.contains(&heard_for.as_secs()) {
                "; a switch with IGMP snooping and no querier does that"
            } else {
                ""
            };
            format!(
                "data stopped {} s ago, {} s after the join{querier}: run mahp-receiver doctor",
                (now - at).as_secs(),
                heard_for.as_secs()
            )
        }
    };
    (ChannelState::Broken, reason)
}

/// `source@group:port`.
pub(crate) fn endpoint_text(e: &Endpoint) -> String {
    let target = SocketAddr::new(e.group, e.port);
    match e.source {
        Some(source) => format!("{source}@{target}"),
        None => format!("*@{target}"),
    }
}

const fn role_word(role: Role) -> &'static str {
    match role {
        Role::Manifest => "manifest",
        Role::Video => "video",
        Role::Audio => "audio",
        Role::Text => "text",
        Role::Other => "other",
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
