//! The report for a terminal.

use super::Report;
use super::figures::Figures;
use super::verdict::MEMORY_RUN_S;
use crate::crowd::Counters;
use std::fmt::Write;

/// A row of figures: name, and how a run's value is shown.
pub(super) type Row = (&'static str, fn(&Figures) -> Option<String>);

/// What is shown of every run, in the order of importance.
pub(super) const ROWS: [Row; 23] = [
    ("stalls", |f| Some(format!("{} ({} ms)", f.stalls, f.stalled_ms))),
    ("media shown", |f| f.played_share.map(percent)),
    ("packets lost on the way", |f| f.loss.map(percent)),
    ("intact without unicast", |f| f.intact_without_unicast.map(percent)),
    ("media bytes by unicast", |f| f.unicast_share.map(percent)),
    ("the same, last third", |f| f.unicast_share_late.map(percent)),
    ("last byte after availability, median", |f| f.last_byte_p50_ms.map(millis)),
    ("last byte after availability, 95 %", |f| f.last_byte_p95_ms.map(millis)),
    ("last byte after availability, longest", |f| f.last_byte_max_ms.map(millis)),
    ("first intact segment after start", |f| f.first_segment_ms.map(millis)),
    ("first picture", |f| f.startup_ms.map(millis)),
    ("first picture beside the origin", |f| f.startup_direct_ms.map(millis)),
    ("unicast to receivers, on the wire", |f| f.egress_share.map(|_| megabytes(f.egress_bytes))),
    ("of what unicast viewers would cost", |f| f.egress_share.map(percent)),
    ("most requests to the origin in a second", |f| Some(f.peak_requests.to_string())),
    ("multicast bytes beyond the media", |f| f.wire_overhead.map(percent)),
    ("sender, processor time for 1 GB", |f| f.sender_cpu_s_per_gb.map(|s| format!("{s:.1} s"))),
    ("sender, memory", |f| f.sender_rss_max.map(megabytes)),
    ("receiver, processor time for 1 GB", |f| f.receiver_cpu_s_per_gb.map(|s| format!("{s:.1} s"))),
    ("receiver, memory", |f| f.receiver_rss_max.map(megabytes)),
    ("growth of memory, sender", |f| slope(f, |host| !host.starts_with("receiver-"))),
    ("growth of memory, receivers", |f| slope(f, |host| host.starts_with("receiver-"))),
    ("second repair layer, carried to", layer_2),
];

/// The fastest growth of the programs of these hosts. Of short runs it would be that of a start.
fn slope(f: &Figures, hosts: fn(&str) -> bool) -> Option<String> {
    if f.lasted_s < MEMORY_RUN_S {
        return None;
    }
    let most = f.memory_slope.iter().filter(|(host, _)| hosts(host)).map(|(_, s)| *s).reduce(f64::max);
    most.map(|bytes| format!("{:.1} MB/h", bytes / 1e6))
}

fn layer_2(f: &Figures) -> Option<String> {
    let one = |(host, bytes): (&String, &u64)| format!("{host} {}", megabytes(*bytes));
    let all: Vec<String> = f.layer_2_bytes.iter().map(one).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn percent(fraction: f64) -> String {
    // More digits where they matter: near 0 and 100 %.
    let per_cent = fraction * 100.0;
    if per_cent > 0.0 && per_cent < 0.01 { format!("{per_cent:.4} %") } else { format!("{per_cent:.2} %") }
}

fn millis(ms: u64) -> String {
    format!("{ms} ms")
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// What the light receivers did.
pub(super) fn crowd(c: &Counters) -> [(&'static str, u64); 10] {
    [
        ("objects intact by multicast alone", c.intact),
        ("objects with something by unicast", c.repaired),
        ("objects never complete", c.lost),
        ("bytes of complete objects", c.bytes),
        ("of these by unicast, from the sender", c.sender_bytes),
        ("of these by unicast, from the origin", c.origin_bytes),
        ("reports of lacks", c.reports),
        ("requests to the sender", c.sender_requests),
        ("requests to the origin", c.origin_requests),
        ("most requests in one second", c.peak_requests),
    ]
}

/// Figures, then criteria.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    let seconds = report.duration_s;
    let _ = writeln!(
        out,
        "{}: {} ({seconds:.0} s, seed {}, {})",
        report.name, report.title, report.seed, report.mode
    );
    for limit in &report.limits {
        let _ = writeln!(out, "  cannot show: {limit}");
    }
    for (name, value) in ROWS {
        if let Some(value) = value(&report.figures) {
            let _ = writeln!(out, "  {name:<40} {value}");
        }
    }
    if let Some(c) = &report.crowd {
        let _ = writeln!(out, "  {} light receivers:", c.receivers);
        crowd(c).iter().for_each(|(name, value)| _ = writeln!(out, "    {name:<38} {value}"));
    }
    for c in &report.criteria {
        let mark = match (c.good(), c.must_fail) {
            (true, false) => "holds",
            (true, true) => "fails, as it must",
            (false, false) => "FAILS",
            (false, true) => "HOLDS, but must fail",
        };
        let _ = writeln!(out, "  {:<40} {mark}: {} ({})", c.name, c.measured, c.wanted);
    }
    let _ = writeln!(out, "{}", if report.passed { "passed" } else { "FAILED" });
    out
}
