//! Figures of a run: what issue lists, users and other systems compare. Pure.

use super::{Collected, Span, Watched};
use crate::client::{Fetched, Verdict, Via};
use crate::scenario::PlayerKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Start-up: a player's first segments exist before its receiver has joined, so they come by unicast and are counted apart.
pub const START_UP_S: f64 = 8.0;

/// See the module. `None`: this run does not show it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Stalls of all players after their first picture.
    pub stalls: u64,
    /// Their length together, milliseconds.
    pub stalled_ms: u64,
    /// Least media shown by a player, of the time it played; 0 to 1.
    pub played_share: Option<f64>,
    /// Media segments that players got after start-up.
    pub segments: u64,
    /// Of these, intact by multicast alone; 0 to 1.
    pub intact_without_unicast: Option<f64>,
    /// Segments with other bytes than the origin's, of all.
    pub wrong: u64,
    /// Media bytes by unicast (repair and whole segments) after start-up, of those served; 0 to 1.
    pub unicast_share: Option<f64>,
    /// The same in the last third of the run: after adaptation.
    pub unicast_share_late: Option<f64>,
    /// Availability at the origin to last byte at a probe, milliseconds: median.
    pub last_byte_p50_ms: Option<u64>,
    /// 95th percentile.
    pub last_byte_p95_ms: Option<u64>,
    /// Longest.
    pub last_byte_max_ms: Option<u64>,
    /// Receiver ready to its first intact segment at a player, longest of all receivers, milliseconds.
    pub first_segment_ms: Option<u64>,
    /// Longest wait for the first picture behind a receiver, milliseconds.
    pub startup_ms: Option<u64>,
    /// The same beside the origin.
    pub startup_direct_ms: Option<u64>,
    /// Multicast packets lost on the legs of receivers, of those sent to them; 0 to 1.
    pub loss: Option<f64>,
    /// Unicast bytes from origin and sender to receivers, on the wire.
    pub egress_bytes: u64,
    /// Of what as many unicast viewers would have cost; 0 to 1.
    pub egress_share: Option<f64>,
    /// Most requests of receivers to the origin in one second.
    pub peak_requests: u64,
    /// Bytes by unicast in seconds that were not within an outage (and the time after it that the scenario grants).
    pub unicast_outside_outage: Option<u64>,
    /// Processor time of the sender, seconds for each gigabyte sent.
    pub sender_cpu_s_per_gb: Option<f64>,
    /// Largest resident memory of the sender, bytes.
    pub sender_rss_max: Option<u64>,
    /// Processor time of receivers, seconds for each gigabyte received.
    pub receiver_cpu_s_per_gb: Option<f64>,
    /// Largest resident memory of a receiver, bytes.
    pub receiver_rss_max: Option<u64>,
    /// Multicast of second repair layers that was sent down the leg of each receiver, Ethernet bytes; empty: there is no such layer.
    pub layer_2_bytes: BTreeMap<String, u64>,
    /// By how much the resident memory of each program grew, bytes an hour: least squares over the last two thirds of the run.
    pub memory_slope: BTreeMap<String, f64>,
    /// Length of the run, seconds: the slope of a short one is that of its start.
    pub lasted_s: f64,
    /// Multicast bytes on the wire (Ethernet) of what the sender's media has; 0.2 = 20 % more.
    pub wire_overhead: Option<f64>,
}

/// Bytes of one receiver from both sides of the counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Host.
    pub receiver: String,
    /// What the receiver says it served, by source.
    pub served_multicast: u64,
    /// Repaired.
    pub served_repaired: u64,
    /// Unicast.
    pub served_unicast: u64,
    /// What its players say they got, by source.
    pub got_multicast: u64,
    /// Repaired.
    pub got_repaired: u64,
    /// Unicast.
    pub got_unicast: u64,
    /// Whether both sides agree to the byte.
    pub balanced: bool,
    /// Why it cannot be said; empty: it can.
    pub not_judged: String,
}

/// What figures are made of.
pub(super) struct Ground<'a> {
    pub(super) collected: &'a Collected,
    pub(super) players: &'a [Watched],
    pub(super) spans: &'a [Span],
    /// Zero, Unix milliseconds.
    pub(super) zero_ms: u64,
    pub(super) duration_s: f64,
    /// Viewers behind receivers: processes and light ones.
    pub(super) viewers: usize,
    /// Seconds after an outage in which unicast is granted.
    pub(super) grace_s: f64,
}

impl Ground<'_> {
    /// All figures.
    pub(super) fn figures(&self) -> Figures {
        let mut f = Figures { lasted_s: self.duration_s, ..Figures::default() };
        self.of_players(&mut f);
        self.of_probes(&mut f);
        self.of_unicast(&mut f);
        self.of_machines(&mut f);
        f
    }

    fn behind(&self) -> impl Iterator<Item = &Watched> {
        self.players.iter().filter(|p| p.host != "direct")
    }

    fn viewers_behind(&self) -> impl Iterator<Item = &Watched> {
        self.behind().filter(|p| p.kind == PlayerKind::BuiltIn)
    }

    fn of_players(&self, f: &mut Figures) {
        for player in self.behind().filter(|p| p.kind != PlayerKind::Probe) {
            f.stalls += player.report.stalls.len() as u64;
            f.stalled_ms += player.report.stalls.iter().map(|s| s.lasted_ms).sum::<u64>();
        }
        let shares = self.viewers_behind().map(|p| self.played(p));
        f.played_share = shares.reduce(f64::min);
        let after: Vec<&Fetched> = self.viewers_behind().flat_map(after_start_up).collect();
        f.segments = after.len() as u64;
        let intact = after.iter().filter(|s| s.via == Via::Multicast && s.verdict == Verdict::Same).count();
        f.intact_without_unicast = (!after.is_empty()).then(|| intact as f64 / after.len() as f64);
        let segments = self.players.iter().flat_map(|p| &p.report.segments);
        f.wrong = segments.filter(|s| s.verdict == Verdict::Different).count() as u64;
        let startup = |p: &Watched| p.report.startup_ms;
        f.startup_ms = self.viewers_behind().filter_map(startup).max();
        let direct = self.players.iter().filter(|p| p.host == "direct" && p.kind == PlayerKind::BuiltIn);
        f.startup_direct_ms = direct.filter_map(startup).max();
        f.first_segment_ms = self.first_segment();
    }

    /// Media shown of the time from its first picture to the end.
    fn played(&self, player: &Watched) -> f64 {
        let begun = player.report.started_ms.saturating_sub(self.zero_ms) as f64 / 1000.0;
        let startup = player.report.startup_ms.map_or(f64::INFINITY, |ms| ms as f64 / 1000.0);
        let time = self.duration_s - begun - startup;
        if time <= 0.0 { 0.0 } else { (player.report.played_ms as f64 / 1000.0 / time).min(1.0) }
    }

    /// `None` if a receiver with a player never had one.
    fn first_segment(&self) -> Option<u64> {
        let mut longest = None;
        for (receiver, ready) in &self.collected.ready_ms {
            let segments = self.behind().filter(|p| &p.host == receiver).flat_map(|p| {
                let good = p.report.segments.iter().filter(|s| s.track == 0 && s.verdict == Verdict::Same);
                good.map(|s| p.report.started_ms + s.at_ms)
            });
            if self.behind().any(|p| &p.host == receiver) {
                longest = longest.max(Some(segments.min()?.saturating_sub(*ready)));
            }
        }
        longest
    }

    fn of_probes(&self, f: &mut Figures) {
        let probes = self.behind().filter(|p| p.kind == PlayerKind::Probe);
        let mut behind: Vec<u64> =
            probes.flat_map(after_start_up).filter_map(|s| u64::try_from(s.behind_ms?).ok()).collect();
        behind.sort_unstable();
        let at = |share: f64| {
            behind.get(((behind.len() as f64 * share) as usize).min(behind.len().saturating_sub(1))).copied()
        };
        (f.last_byte_p50_ms, f.last_byte_p95_ms) = (at(0.5), at(0.95));
        f.last_byte_max_ms = behind.last().copied();
    }

    /// When a receiver's start-up is over: seconds from zero.
    fn settled(&self, receiver: &str) -> f64 {
        let starts = self.behind().filter(|p| p.host == receiver).map(|p| p.report.started_ms);
        let first = starts.min().unwrap_or(self.zero_ms).saturating_sub(self.zero_ms);
        first as f64 / 1000.0 + START_UP_S
    }

    fn of_unicast(&self, f: &mut Figures) {
        let late = self.duration_s * 2.0 / 3.0;
        let names: Vec<&String> = self.collected.receivers.keys().collect();
        f.unicast_share = self.share(names.iter().map(|n| (n.as_str(), self.settled(n))));
        f.unicast_share_late = self.share(names.iter().map(|n| (n.as_str(), self.settled(n).max(late))));
        if self.spans.iter().any(|s| s.outage) {
            f.unicast_outside_outage =
                Some(names.iter().map(|n| self.outside_outage(n, self.settled(n))).sum());
        }
        let series = &self.collected.series;
        let to_receivers =
            |host: &str| series.last(&format!("{host}/to_receivers_bytes")).unwrap_or_default();
        f.egress_bytes = ["origin", "sender", "standby"].map(to_receivers).iter().sum::<f64>() as u64;
        // What one viewer gets, times all of them.
        let players = self.viewers_behind().map(|p| p.report.bytes()).max().unwrap_or(0);
        let cost = players as f64 * self.viewers as f64;
        f.egress_share = (cost > 0.0).then(|| f.egress_bytes as f64 / cost);
        let peaks = series.rate("origin/receivers_requests").into_iter().map(|(_, r)| r.round() as u64);
        let crowd = self.collected.crowd.as_ref().map_or(0, |c| c.peak_requests);
        f.peak_requests = peaks.max().unwrap_or(0).max(crowd);
    }

    /// Bytes of media by unicast of those served, from a time on, over receivers.
    fn share<'b>(&self, receivers: impl Iterator<Item = (&'b str, f64)>) -> Option<f64> {
        let (mut unicast, mut served) = (0.0, 0.0);
        for (name, from) in receivers {
            unicast += self.grown(name, &UNICAST, from);
            served += self.grown(name, &SERVED, from);
        }
        (served > 0.0).then(|| unicast / served)
    }

    fn grown(&self, receiver: &str, what: &[&str], from: f64) -> f64 {
        let series = &self.collected.series;
        let one = |what: &&str| {
            let name = format!("{receiver}/{what}");
            let rates = series.rate(&name);
            let steps = rates.iter().zip(
                std::iter::once(series.t.first().copied().unwrap_or(0.0)).chain(rates.iter().map(|r| r.0)),
            );
            steps.filter(|((t, _), _)| *t > from).map(|((t, rate), before)| rate * (t - before)).sum::<f64>()
        };
        what.iter().map(one).sum()
    }

    fn outside_outage(&self, receiver: &str, from: f64) -> u64 {
        let series = &self.collected.series;
        let mut bytes = 0.0;
        for what in UNICAST {
            let rates = series.rate(&format!("{receiver}/{what}"));
            let outside = |t: f64| {
                let inside = |s: &Span| s.outage && t > s.from && t <= s.until + self.grace_s + 1.0;
                t > from && !self.spans.iter().any(inside)
            };
            bytes += rates.iter().filter(|(t, _)| outside(*t)).map(|(_, rate)| rate).sum::<f64>();
        }
        bytes as u64
    }

    fn of_machines(&self, f: &mut Figures) {
        let series = &self.collected.series;
        let receivers: Vec<&String> = self.collected.receivers.keys().collect();
        let of = |host: &str, what: &str| series.last(&format!("{host}/{what}"));
        let most = |host: &str, what: &str| {
            let values = series.column(&format!("{host}/{what}")).iter().flatten().copied();
            values.reduce(f64::max)
        };
        let sum = |what: &str| receivers.iter().filter_map(|r| of(r, what)).sum::<f64>();
        let frames = sum("down_multicast_frames");
        f.loss = (frames > 0.0).then(|| sum("down_multicast_dropped") / frames);
        let sent = of("sender", "up_multicast_bytes").unwrap_or_default();
        f.sender_cpu_s_per_gb = of("sender", "cpu_seconds").filter(|_| sent > 0.0).map(|s| s / sent * 1e9);
        f.sender_rss_max = most("sender", "rss_bytes").map(|b| b as u64);
        let received = sum("down_multicast_bytes");
        f.receiver_cpu_s_per_gb = (received > 0.0).then(|| sum("cpu_seconds") / received * 1e9);
        f.receiver_rss_max =
            receivers.iter().filter_map(|r| most(r, "rss_bytes")).reduce(f64::max).map(|b| b as u64);
        f.layer_2_bytes = self.by_host("layer_2_bytes", |host, what| of(host, what).map(|b| b as u64));
        f.memory_slope = self.by_host("rss_bytes", |host, what| {
            let late = self.duration_s / 3.0;
            let rows = series.t.iter().zip(series.column(&format!("{host}/{what}")));
            slope(rows.filter(|(t, _)| **t >= late).filter_map(|(t, v)| Some((*t, (*v)?))))
                .map(|s| s * 3600.0)
        });
        let media = of("origin", "sender_media_bytes").unwrap_or_default();
        // The origin counts what a standby fetched, too.
        let sent = sent + of("standby", "up_multicast_bytes").unwrap_or_default();
        f.wire_overhead = (media > 0.0 && sent > 0.0).then(|| sent / media - 1.0);
    }

    /// A value of each host that has one.
    fn by_host<T>(&self, what: &str, value: impl Fn(&str, &str) -> Option<T>) -> BTreeMap<String, T> {
        let hosts = self.collected.receivers.keys().map(String::as_str).chain(["sender", "standby"]);
        hosts.filter_map(|host| Some((host.to_owned(), value(host, what)?))).collect()
    }

    /// The ledger of each receiver.
    pub(super) fn ledgers(&self) -> Vec<Ledger> {
        self.collected.receivers.keys().map(|name| self.ledger(name)).collect()
    }

    fn ledger(&self, receiver: &str) -> Ledger {
        let served = self.collected.receivers.get(receiver).map(|s| s.totals.served).unwrap_or_default();
        let here = || self.players.iter().filter(|p| p.host == receiver);
        let got = |via: Via| here().filter_map(|p| p.report.received.get(&via)).sum::<u64>();
        let strangers = here().any(|p| !matches!(p.kind, PlayerKind::BuiltIn | PlayerKind::Probe));
        let failures = here().any(|p| !p.report.failures.is_empty());
        let not_judged = if self.collected.restarted.iter().any(|r| r == receiver) {
            "its counters began anew"
        } else if strangers {
            "players that do not count took part"
        } else if failures {
            "responses were broken off; their bytes are known to one side only"
        } else {
            ""
        };
        let (multicast, repaired, unicast) = (got(Via::Multicast), got(Via::Repaired), got(Via::Unicast));
        Ledger {
            receiver: receiver.into(),
            served_multicast: served.multicast,
            served_repaired: served.repaired,
            served_unicast: served.unicast,
            got_multicast: multicast,
            got_repaired: repaired,
            got_unicast: unicast,
            balanced: (served.multicast, served.repaired, served.unicast) == (multicast, repaired, unicast),
            not_judged: not_judged.into(),
        }
    }
}

/// Slope of the line through points that has the least squares; `None`: no line goes through them.
fn slope(points: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let points: Vec<(f64, f64)> = points.collect();
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (xy, xx) = points
        .iter()
        .fold((0.0, 0.0), |(xy, xx), p| (xy + (p.0 - x) * (p.1 - y), xx + (p.0 - x) * (p.0 - x)));
    (xx > 0.0).then(|| xy / xx)
}

/// Columns of a receiver that count media bytes by unicast.
const UNICAST: [&str; 3] = ["fetched_fallback_bytes", "fetched_repair_bytes", "fetched_sender_bytes"];
/// Columns that count bytes served.
const SERVED: [&str; 3] = ["served_multicast_bytes", "served_repaired_bytes", "served_unicast_bytes"];

/// Segments that existed only after the receiver could hear them whole.
fn after_start_up(player: &Watched) -> impl Iterator<Item = &Fetched> {
    player.report.segments.iter().filter(|s| {
        let available = s.behind_ms.map_or(i64::MAX, |b| i64::try_from(s.at_ms).unwrap_or(i64::MAX) - b);
        let late = s.at_ms as f64 > START_UP_S * 1000.0;
        // Available at least half a start-up after the player began, so that its transmission was heard from its beginning.
        late && available > (START_UP_S * 500.0) as i64
    })
}
