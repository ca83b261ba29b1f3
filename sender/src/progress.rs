//! Progress for people: one line that is rewritten on a terminal, else a line every ten seconds.

use crate::plan::mbit;
use crate::status::{Entry, RenditionStatus, SenderStatus};
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
        let mut lines = lines(&status, start.elapsed(), &mut meters);
        if terminal && lines.len() > 1 {
            lines = vec![sums(&status, start.elapsed(), &mut meters)];
        }
        let mut out = std::io::stderr().lock();
        // Nobody reads a closed terminal.
        let _ = if terminal {
            // Without line wrap (DECAWM), the terminal cuts what is too long: a second row would not be rewritten.
            write!(out, "\r\x1b[K\x1b[?7l{}\x1b[?7h", lines.join(""))
        } else {
            writeln!(out, "{}", lines.join("\n"))
        };
        let _ = out.flush();
    }
}

/// Ends the rewritten line.
pub fn finish() {
    if std::io::stderr().is_terminal() {
        mahp_runtime::say::error("");
    }
}

/// Rates from counters.
#[derive(Clone, Copy, Debug)]
struct Meter {
    at: Instant,
    bytes: u64,
}

/// Key of the meter of all channels, which no channel has for its name.
const ALL: &str = "";

fn lines(status: &SenderStatus, elapsed: Duration, meters: &mut BTreeMap<String, Meter>) -> Vec<String> {
    status.channels().iter().map(|(channel, entries)| line(&channel.name, entries, elapsed, meters)).collect()
}

/// Many channels in one line.
fn sums(status: &SenderStatus, elapsed: Duration, meters: &mut BTreeMap<String, Meter>) -> String {
    let channels = status.channels();
    let live = channels.iter().filter(|(channel, _)| channel.live).count();
    let entries = status.entries();
    let rate = rate(ALL, &entries, elapsed, meters);
    let still = entries.iter().filter(|e| e.stands_still(Instant::now()).is_some()).count();
    let still = if still > 0 { format!(" standing still {still}") } else { String::new() };
    format!(
        "{live} live {} VOD {} {rate} {}{still}",
        channels.len() - live,
        clock(elapsed),
        troubles(&entries)
    )
}

fn sum(entries: &[Entry], f: impl Fn(&RenditionStatus) -> u64) -> u64 {
    entries.iter().map(|e| f(&e.status)).sum()
}

fn rate(name: &str, entries: &[Entry], elapsed: Duration, meters: &mut BTreeMap<String, Meter>) -> String {
    let bytes = sum(entries, |s| {
        s.source_bytes.load(Relaxed) + s.repair_bytes.load(Relaxed) + s.fdt_bytes.load(Relaxed)
    });
    let now = Meter { at: Instant::now(), bytes };
    let start = Meter { at: now.at.checked_sub(elapsed).unwrap_or(now.at), bytes: 0 };
    let before = meters.insert(name.to_owned(), now).unwrap_or(start);
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    mbit((bytes.saturating_sub(before.bytes) as f64 * 8.0 / seconds) as u64)
}

/// What should be none, and how long queues are.
fn troubles(entries: &[Entry]) -> String {
    let queue = entries
        .iter()
        .map(|e| e.status.queue_bytes.load(Relaxed) as f64 * 8.0 / e.rendition.flow.rate_bps.max(1) as f64)
        .fold(0.0, f64::max);
    let failed = sum(entries, |s| s.failed.load(Relaxed));
    let failed = if failed > 0 { format!(" failed {failed}") } else { String::new() };
    format!("late {}{failed} queue {queue:.1} s", sum(entries, |s| s.late.load(Relaxed)))
}

fn line(name: &str, entries: &[Entry], elapsed: Duration, meters: &mut BTreeMap<String, Meter>) -> String {
    let rate = rate(name, entries, elapsed, meters);
    let live = entries.first().is_some_and(|e| e.live);
    if !live {
        let media = || entries.iter().filter(|e| e.rendition.role != Role::Manifest).map(|e| &e.status);
        let (position, total) =
            (sum(entries, |s| s.position.load(Relaxed)), sum(entries, |s| s.total.load(Relaxed)));
        let turns = media().map(|s| s.turns.load(Relaxed)).min().unwrap_or(0);
        let now = Instant::now();
        let left = media().map(|s| s.pace().map(|pace| pace.left(now))).max().flatten();
        return vod_line(name, turns, (position, total), &rate, left);
    }
    let rungs = entries.iter().filter(|e| e.rendition.role != Role::Manifest).count();
    let origin = entries.iter().map(|e| e.status.origin_millis.load(Relaxed)).max().unwrap_or(0);
    format!("{name} live {} {rungs} rungs {rate} origin {origin} ms {}", clock(elapsed), troubles(entries))
}

/// `turns`: those that are complete. The first one is named only by what follows: most content is sent once.
fn vod_line(
    name: &str,
    turns: u64,
    (position, total): (u64, u64),
    rate: &str,
    left: Option<Duration>,
) -> String {
    let percent = (position * 100).checked_div(total).unwrap_or(0);
    // Between two turns the position is still that of the one that is complete.
    let turn = if position < total { turns + 1 } else { turns };
    let turn = if turn > 1 { format!(" turn {turn}") } else { String::new() };
    let eta = match left {
        _ if position >= total && total > 0 => String::new(),
        Some(left) => format!(" eta {}", words(left)),
        None => " eta ?".into(),
    };
    format!("{name}{turn} {position}/{total} segments {percent} % {rate}{eta}")
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
    use crate::status::Pace;

    #[test]
    fn vod_line_tells_turn_position_rate_and_end() {
        let seconds = |s| Some(Duration::from_secs(s));
        let line = vod_line("bbb", 0, (124, 300), "12.3 Mbit/s", seconds(190));
        assert_eq!(line, "bbb 124/300 segments 41 % 12.3 Mbit/s eta 3m10s");
        assert_eq!(vod_line("bbb", 1, (300, 300), "0 bit/s", None), "bbb 300/300 segments 100 % 0 bit/s");
        assert_eq!(vod_line("bbb", 0, (0, 0), "0 bit/s", None), "bbb 0/0 segments 0 % 0 bit/s eta ?");
        assert_eq!(
            vod_line("bbb", 1, (1, 300), "9 bit/s", seconds(5)),
            "bbb turn 2 1/300 segments 0 % 9 bit/s eta 5s"
        );
        assert_eq!(
            vod_line("bbb", 2, (300, 300), "9 bit/s", seconds(0)),
            "bbb turn 2 300/300 segments 100 % 9 bit/s"
        );
    }

    #[test]
    fn what_is_left_follows_the_pace_of_the_turn_and_not_of_the_last_second() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let pace = |media: u64, after: u64| Pace {
            began,
            at: at(after),
            media: Duration::from_secs(media),
            total: Duration::from_secs(100),
            speed: 4.0,
        };
        assert_eq!(pace(0, 0).left(at(0)), Duration::from_secs(25), "as planned");
        assert_eq!(pace(20, 10).left(at(10)), Duration::from_secs(40), "slower than planned");
        assert_eq!(pace(20, 10).left(at(13)), Duration::from_secs(37), "between two segments");
        assert_eq!(pace(100, 30).left(at(30)), Duration::ZERO);
    }
}
