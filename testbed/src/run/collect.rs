//! One row a second of what everything tells about itself and of what the emulator counted.

use super::programs::Programs;
use super::usage;
use crate::crowd::Counters;
use crate::emu::{Direction, TrafficClass};
use crate::net::Lan;
use crate::origin::LogRow;
use crate::presentation::Class;
use crate::result::{Collected, Series};
use mahp_receiver::snapshot::{RenditionSnapshot, Snapshot};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

/// See the module.
pub(super) struct Collector {
    zero: Instant,
    series: Series,
    /// Processor time at the row before, by host.
    cpu: BTreeMap<String, (Instant, f64)>,
    collected: Collected,
}

impl Collector {
    pub(super) fn new(zero: Instant) -> Collector {
        Collector { zero, series: Series::default(), cpu: BTreeMap::new(), collected: Collected::default() }
    }

    /// Adds a row.
    pub(super) async fn sample(&mut self, lan: &Lan, programs: &mut Programs) {
        self.series.row(super::millis_from(self.zero) as f64 / 1000.0);
        for host in lan.hosts() {
            if let Some(usage) = programs.pid(&host.name).and_then(usage::of) {
                self.usage(&host.name, usage);
            }
        }
        self.wire(lan);
        for host in lan.hosts() {
            let Some(body) = programs.status(&host.name).await else { continue };
            match host.name.as_str() {
                "origin" => self.origin(&body),
                "sender" => self.sender(&body),
                "standby" => {}
                "crowd" => self.crowd(&body),
                name => self.receiver(name, &body),
            }
        }
        self.collected.restarted.clone_from(&programs.restarted);
        self.collected.ready_ms.clone_from(&programs.ready_ms);
    }

    fn usage(&mut self, host: &str, usage: usage::Usage) {
        let now = Instant::now();
        let before = self.cpu.insert(host.into(), (now, usage.cpu));
        if let Some((at, cpu)) = before
            && usage.cpu >= cpu
        {
            let share = (usage.cpu - cpu) / (now - at).as_secs_f64().max(0.01);
            self.series.put(&format!("{host}/cpu"), share);
        }
        self.series.put(&format!("{host}/cpu_seconds"), usage.cpu);
        self.series.put(&format!("{host}/rss_bytes"), usage.rss);
    }

    fn wire(&mut self, lan: &Lan) {
        for host in lan.hosts() {
            for (direction, word) in [(Direction::Up, "up"), (Direction::Down, "down")] {
                for class in [TrafficClass::Multicast, TrafficClass::Unicast] {
                    let count = lan.count(host, direction, class);
                    let name = format!("{}/{word}_{}", host.name, class.as_str());
                    self.series.put(&format!("{name}_bytes"), count.bytes as f64);
                    self.series.put(&format!("{name}_frames"), count.frames as f64);
                    self.series.put(&format!("{name}_dropped"), count.dropped as f64);
                }
            }
        }
        self.layers(lan);
        // What unicast costs origin and sender: only what goes to receivers and viewers, not what the sender itself pulls.
        let switch = lan.emulator().switch();
        for from in ["origin", "sender", "standby"] {
            let Some(leg) = lan.host(from).map(|h| h.leg) else { continue };
            let to = lan.hosts().iter().filter(|h| h.name.starts_with("receiver-") || h.name == "crowd");
            let bytes: u64 = to.map(|h| switch.between(leg, h.leg).bytes).sum();
            self.series.put(&format!("{from}/to_receivers_bytes"), bytes as f64);
        }
    }

    /// What of second repair layers is carried to whom, where the sender has any.
    fn layers(&mut self, lan: &Lan) {
        let groups: Vec<IpAddr> = renditions(&self.collected.sender)
            .filter_map(|r| r["repair_layer_2"]["group"].as_str()?.parse().ok())
            .collect();
        if groups.is_empty() {
            return;
        }
        let switch = lan.emulator().switch();
        for host in lan.hosts().iter().filter(|h| h.name.starts_with("receiver-")) {
            let bytes: u64 = groups.iter().map(|group| switch.of_group(host.leg, *group).bytes).sum();
            self.series.put(&format!("{}/layer_2_bytes", host.name), bytes as f64);
        }
    }

    fn origin(&mut self, body: &[u8]) {
        let Ok(rows) = serde_json::from_slice::<Vec<LogRow>>(body) else { return };
        let of = |agent: &str, class: Option<Class>| {
            let rows =
                rows.iter().filter(|r| r.agent.starts_with(agent) && (class.is_none() || r.class == class));
            rows.fold((0, 0), |(requests, bytes), r| (requests + r.count.requests, bytes + r.count.bytes))
        };
        for (agent, word) in [("mahp-receiver", "receivers"), ("mahp-sender", "sender")] {
            let (requests, _) = of(agent, None);
            let (_, media) = of(agent, Some(Class::Media));
            self.series.put(&format!("origin/{word}_requests"), requests as f64);
            self.series.put(&format!("origin/{word}_media_bytes"), media as f64);
        }
        self.collected.origin_log = rows;
    }

    fn sender(&mut self, body: &[u8]) {
        let Ok(status) = serde_json::from_slice::<Value>(body) else { return };
        for kind in ["source", "repair", "repair_layer_2", "fdt"] {
            let bytes: f64 = renditions(&status).filter_map(|r| r["bytes"][kind].as_f64()).sum();
            self.series.put(&format!("sender/{kind}_bytes"), bytes);
        }
        numbers("sender", "repair", &status["repair"], &mut self.series);
        let flows = status["repair"]["flows"].as_array().into_iter().flatten();
        let shares: Vec<f64> = flows.filter_map(|f| f["fec"]["percent"].as_f64()).collect();
        if let Some(most) = shares.into_iter().reduce(f64::max) {
            self.series.put("sender/repair_share", most);
        }
        self.collected.sender = status;
    }

    fn crowd(&mut self, body: &[u8]) {
        let Ok(counters) = serde_json::from_slice::<Counters>(body) else { return };
        if let Ok(value) = serde_json::to_value(&counters) {
            numbers("crowd", "light", &value, &mut self.series);
        }
        self.collected.crowd = Some(counters);
    }

    fn receiver(&mut self, name: &str, body: &[u8]) {
        let Ok(snapshot) = serde_json::from_slice::<Snapshot>(body) else { return };
        let t = &snapshot.totals;
        let series = &mut self.series;
        let mut put = |key: &str, value: f64| series.put(&format!("{name}/{key}"), value);
        put("served_multicast_bytes", t.served.multicast as f64);
        put("served_repaired_bytes", t.served.repaired as f64);
        put("served_unicast_bytes", t.served.unicast as f64);
        for (why, bytes) in &t.origin {
            put(&format!("fetched_{why}_bytes"), *bytes as f64);
        }
        put("objects_multicast", t.objects.multicast as f64);
        put("objects_repaired", t.objects.repaired as f64);
        put("objects_unicast", t.objects.unicast as f64);
        put("objects_lost", t.objects.lost as f64);
        put("received_bps", t.rate_bps as f64);
        put("hold_p90_ms", t.hold_ms.p90 as f64);
        put("store_bytes", t.store_bytes as f64);
        put("assembly_bytes", t.assembly_bytes as f64);
        put("kernel_drops", t.kernel_drops as f64);
        let delay = snapshot.channels.iter().filter_map(|c| c.delay_ms).max();
        if let Some(delay) = delay {
            put("delay_ms", delay as f64);
        }
        let media = |r: &&RenditionSnapshot| r.joined && matches!(r.role.as_str(), "video" | "audio");
        let joined: Vec<_> = snapshot.channels.iter().flat_map(|c| &c.renditions).filter(media).collect();
        let weight: f64 = joined.iter().map(|r| r.bitrate_bps as f64).sum();
        if weight > 0.0 {
            let mean = |of: fn(&RenditionSnapshot) -> f64| {
                joined.iter().map(|r| of(r) * r.bitrate_bps as f64).sum::<f64>() / weight
            };
            put("loss_before_fec", mean(|r| r.loss_before_fec));
            put("loss_after_fec", mean(|r| r.loss_after_fec));
        }
        if let Ok(all) = serde_json::from_slice::<Value>(body) {
            numbers(name, "recovery", &all["totals"]["recovery"], &mut self.series);
        }
        self.collected.receivers.insert(name.into(), snapshot);
    }

    /// In a few words, for the terminal.
    pub(super) fn line(&self) -> String {
        let mut served = mahp_receiver::snapshot::Bytes::default();
        for snapshot in self.collected.receivers.values() {
            served.multicast += snapshot.totals.served.multicast;
            served.repaired += snapshot.totals.served.repaired;
            served.unicast += snapshot.totals.served.unicast;
        }
        let mb = |bytes: u64| bytes as f64 / 1e6;
        format!(
            "served {:.1} MB: multicast {:.1}, repaired {:.1}, unicast {:.1}",
            mb(served.total()),
            mb(served.multicast),
            mb(served.repaired),
            mb(served.unicast)
        )
    }

    pub(super) fn finish(self) -> Collected {
        Collected { series: self.series, ..self.collected }
    }
}

/// Renditions of all channels in the sender's status.
fn renditions(status: &Value) -> impl Iterator<Item = &Value> {
    let channels = status["channels"].as_array().into_iter().flatten();
    channels.flat_map(|c| c["renditions"].as_array().into_iter().flatten())
}

/// Every number of a JSON object, whatever it is called: counters that a program adds later are in the report at once.
fn numbers(host: &str, under: &str, value: &Value, series: &mut Series) {
    match value {
        Value::Number(n) => {
            if let Some(n) = n.as_f64() {
                series.put(&format!("{host}/{under}"), n);
            }
        }
        Value::Object(fields) if under.len() < 100 => {
            fields.iter().for_each(|(key, v)| numbers(host, &format!("{under}_{key}"), v, series));
        }
        _ => {}
    }
}
