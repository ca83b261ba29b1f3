//! Progress for people: one line that is rewritten on a terminal, else a line every ten seconds.

use crate::plan::mbit;
use crate::status::{Entry, SenderStatus};
use mahp_common::catalog::Role;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, interval};

/// Prints until dropped.
pub async fn report(status: Arc<SenderStatus>) {
    let terminal = std::io::stderr().is_terminal();
    let start = Instant::now();
    let mut meters: BTreeMap<String, Meter> = BTreeMap::new();
    let mut ticks = interval(Duration::from_secs(if terminal { 1 } else { 10 }));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let lines = lines(&status, start.elapsed(), &mut meters);
        let mut out = std::io::stderr().lock();
        // Nobody reads a closed terminal.
        let _ = if terminal {
            write!(out, "\r\x1b[K{}", lines.join(" | "))
        } else {
            writeln!(out, "{}", lines.join("\n"))
        };
        let _ = out.flush();
    }
}

/// Ends the rewritten line.
pub fn finish() {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
}

/// Rates from counters.
#[derive(Clone, Copy, Debug)]
struct Meter {
    at: Instant,
    bytes: u64,
    position: u64,
}

fn lines(status: &SenderStatus, elapsed: Duration, meters: &mut BTreeMap<String, Meter>) -> Vec<String> {
    status.channels().iter().map(|(channel, entries)| line(&channel.name, entries, elapsed, meters)).collect()
}

fn line(name: &str, entries: &[Entry], elapsed: Duration, meters: &mut BTreeMap<String, Meter>) -> String {
    let sum = |f: &dyn Fn(&Entry) -> u64| entries.iter().map(f).sum::<u64>();
    let bytes = sum(&|e| {
        e.status.source_bytes.load(Relaxed)
            + e.status.repair_bytes.load(Relaxed)
            + e.status.fdt_bytes.load(Relaxed)
    });
    let position = sum(&|e| e.status.position.load(Relaxed));
    let now = Meter { at: Instant::now(), bytes, position };
    let before = meters.insert(name.to_owned(), now).unwrap_or(Meter {
        at: now.at.checked_sub(elapsed).unwrap_or(now.at),
        bytes: 0,
        position: 0,
    });
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let rate = mbit((bytes.saturating_sub(before.bytes) as f64 * 8.0 / seconds) as u64);
    let live = entries.first().is_some_and(|e| e.live);
    if !live {
        let total = sum(&|e| e.status.total.load(Relaxed));
        return vod_line(
            name,
            position,
            total,
            &rate,
            position.saturating_sub(before.position) as f64 / seconds,
        );
    }
    let rungs = entries.iter().filter(|e| e.rendition.role != Role::Manifest).count();
    let late = sum(&|e| e.status.late.load(Relaxed));
    let failed = sum(&|e| e.status.failed.load(Relaxed));
    let origin = entries.iter().map(|e| e.status.origin_millis.load(Relaxed)).max().unwrap_or(0);
    let queue = entries
        .iter()
        .map(|e| e.status.queue_bytes.load(Relaxed) as f64 * 8.0 / e.rendition.flow.rate_bps.max(1) as f64)
        .fold(0.0, f64::max);
    let failed = if failed > 0 { format!(" failed {failed}") } else { String::new() };
    format!(
        "{name} live {} {rungs} rungs {rate} origin {origin} ms late {late}{failed} queue {queue:.1} s",
        clock(elapsed)
    )
}

fn vod_line(name: &str, position: u64, total: u64, rate: &str, per_second: f64) -> String {
    let percent = (position * 100).checked_div(total).unwrap_or(0);
    let left = total.saturating_sub(position);
    let eta = match left {
        0 => String::new(),
        _ if per_second > 0.0 => {
            format!(" eta {}", words(Duration::from_secs_f64((left as f64 / per_second).min(1e9))))
        }
        _ => " eta ?".into(),
    };
    format!("{name} {position}/{total} segments {percent} % {rate}{eta}")
}

fn clock(d: Duration) -> String {
    let s = d.as_secs();
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

fn words(d: Duration) -> String {
    let s = d.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vod_line_tells_position_rate_and_end() {
        let line = vod_line("bbb", 124, 300, "12.3 Mbit/s", 0.926);
        assert_eq!(line, "bbb 124/300 segments 41 % 12.3 Mbit/s eta 3m10s");
        assert_eq!(vod_line("bbb", 300, 300, "0.0 Mbit/s", 0.0), "bbb 300/300 segments 100 % 0.0 Mbit/s");
    }
}
