//! What a run showed: glass to glass, and how long each stage took.

use super::origin::Log;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the browser reports (`tests/players/latency.mjs`), or the client without pictures.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Seen {
    /// When a frame was shown, and what its clock said: Unix milliseconds.
    pub frames: Vec<(f64, f64)>,
    /// What was loaded.
    pub parts: Vec<Loaded>,
    /// Times it waited for data.
    pub stalls: u32,
    /// Milliseconds of that.
    pub stalled: f64,
    /// Frames whose clock could not be read.
    pub unread: u32,
    /// Seconds that the playhead went.
    pub played: f64,
    /// Seconds meanwhile.
    pub wall: f64,
    /// Milliseconds to the first picture.
    pub startup: Option<f64>,
    /// Errors of the player.
    pub errors: Vec<String>,
    /// Version of the player.
    pub version: String,
}

/// One download of the player.
#[derive(Clone, Debug, Deserialize)]
pub struct Loaded {
    /// File name.
    pub name: String,
    /// A part, not a segment.
    pub part: bool,
    /// When it was asked for, Unix milliseconds.
    pub asked: f64,
    /// When it was there.
    pub loaded: f64,
    /// Digest of its bytes, hexadecimal, where the client tells it.
    #[serde(default)]
    pub digest: Option<String>,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95 in 100 are not above it.
    pub p95: f64,
    /// 99 in 100 are not above it.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// How many there were.
    pub count: usize,
}

impl Quantiles {
    /// Of any values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Quantiles {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |q: f64| {
            // Below the number of values, which are few.
            let rank = (q * values.len().saturating_sub(1) as f64).round() as usize;
            values.get(rank).copied().unwrap_or_default()
        };
        Quantiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0), count: values.len() }
    }
}

/// The stages, in order: name, and what it is measured from and to.
pub const STAGES: [(&str, &str); 4] = [
    ("encode", "last frame of a part painted → the origin has the part"),
    ("sender", "→ the sender has asked the origin for it"),
    ("network", "→ the player has it: multicast, FEC, recovery, receiver, HTTP"),
    ("player", "→ its last frame is on the screen"),
];

/// What is between sender and receiver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Path {
    /// Share of multicast packets lost.
    pub loss: f64,
    /// Round-trip time, milliseconds; none: multicast takes 5 ms, and unicast none.
    pub rtt_ms: Option<u64>,
    /// Seed of the losses.
    pub seed: u64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// What was between sender and receiver.
    pub path: Path,
    /// Glass to glass.
    pub latency: Quantiles,
    /// As [`STAGES`].
    pub stages: Vec<Quantiles>,
    /// Times it waited for data, and milliseconds of that.
    pub stalls: (u32, f64),
    /// Seconds played and seconds meanwhile.
    pub played: (f64, f64),
    /// Milliseconds to the first picture.
    pub startup_ms: Option<f64>,
    /// Frames read, and not readable.
    pub frames: (usize, u32),
    /// Parts and segments that were loaded.
    pub loaded: (usize, usize),
    /// Bytes of complete objects at the receiver by way.
    pub object_bytes: BTreeMap<String, u64>,
    /// Bytes that the receiver fetched, by why.
    pub fetched_bytes: BTreeMap<String, u64>,
    /// Parts with other bytes than the origin's.
    pub wrong: usize,
    /// Errors of the player.
    pub errors: Vec<String>,
    /// Latency over time: seconds, milliseconds (the largest of each half second).
    pub course: Vec<(f64, f64)>,
}

impl Figures {
    /// From what was seen.
    pub fn of(path: Path, seen: &Seen, log: &Log) -> Figures {
        let since = seen.frames.first().map_or(0.0, |f| f.0);
        let mut course: Vec<(f64, f64)> = Vec::new();
        for (shown, painted) in &seen.frames {
            let slot = ((shown - since) / 500.0).floor() / 2.0;
            match course.last_mut().filter(|(at, _)| *at == slot) {
                Some((_, most)) => *most = most.max(shown - painted),
                None => course.push((slot, shown - painted)),
            }
        }
        Figures {
            path,
            latency: Quantiles::of(seen.frames.iter().map(|(shown, painted)| shown - painted)),
            stages: stages(seen, log).into_iter().map(Quantiles::of).collect(),
            stalls: (seen.stalls, seen.stalled),
            played: (seen.played, seen.wall),
            startup_ms: seen.startup,
            frames: (seen.frames.len(), seen.unread),
            loaded: (
                seen.parts.iter().filter(|p| p.part).count(),
                seen.parts.iter().filter(|p| !p.part).count(),
            ),
            object_bytes: BTreeMap::new(),
            fetched_bytes: BTreeMap::new(),
            wrong: wrong(seen, log),
            errors: seen.errors.clone(),
            course,
        }
    }
}

impl Figures {
    /// One line, for who waits.
    pub fn line(&self) -> String {
        let network = self.stages.get(2).copied().unwrap_or_default();
        format!(
            "{} % loss: glass to glass p50 {:.0} ms, p95 {:.0} ms, {} stalls; sender to client p50 {:.0} ms, p99 {:.0} ms",
            self.path.loss * 100.0,
            self.latency.p50,
            self.latency.p95,
            self.stalls.0,
            network.p50,
            network.p99,
        )
    }
}

fn stages(seen: &Seen, log: &Log) -> [Vec<f64>; 4] {
    let mut out: [Vec<f64>; 4] = Default::default();
    // Unix milliseconds are exact in f64.
    let ms = |at: u64| at as f64;
    let since = seen.frames.first().map_or(0.0, |f| f.0);
    for loaded in seen.parts.iter().filter(|p| p.part && p.loaded >= since) {
        let Some(times) = place(&loaded.name).and_then(|place| log.get(&place)) else { continue };
        let Some(taken) = times.taken else { continue };
        out[0].push(ms(times.ready) - ms(times.painted));
        out[1].push(ms(taken) - ms(times.ready));
        out[2].push(loaded.loaded - ms(taken));
        let shown = seen.frames.iter().find(|(_, painted)| *painted == ms(times.painted));
        out[3].extend(shown.map(|(shown, _)| shown - loaded.loaded));
    }
    out
}

/// What counters went up by.
pub fn since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(way, bytes): (&String, &u64)| {
        (way.clone(), bytes.saturating_sub(before.get(way).copied().unwrap_or(0)))
    };
    after.iter().map(more).collect()
}

fn wrong(seen: &Seen, log: &Log) -> usize {
    let is_wrong = |loaded: &&Loaded| {
        let there = place(&loaded.name).and_then(|place| log.get(&place)?.digest).map(|d| d.to_hex());
        loaded.digest.is_some() && loaded.digest != there
    };
    seen.parts.iter().filter(is_wrong).count()
}

/// Segment and number of a part, from its file name.
fn place(name: &str) -> Option<(u64, u64)> {
    let (segment, part) = name.strip_prefix('s')?.split_once(".p")?;
    Some((segment.parse().ok()?, part.split('.').next()?.parse().ok()?))
}

/// One line for each run without pictures, Markdown: from the sender to the client.
pub fn table_of_parts(runs: &[Figures]) -> String {
    let mut out = "| loss | RTT, ms | parts | not the origin's | sender to client p50 / p95 / p99 / max, ms | symbols and parts by MoQ | all that was fetched over it, records too | by another way |\n|---|---|---|---|---|---|---|---|\n".to_owned();
    for r in runs {
        let network = r.stages.get(2).copied().unwrap_or_default();
        let of = |bytes: &BTreeMap<String, u64>, ways: &[&str], is: bool| {
            let chosen = bytes.iter().filter(|(way, _)| ways.contains(&way.as_str()) == is);
            chosen.map(|(_, bytes)| *bytes).sum::<u64>() as f64
        };
        let all = of(&r.object_bytes, &[], false).max(1.0);
        let _ = writeln!(
            out,
            "| {} % | {} | {} | {} | {:.0} / {:.0} / {:.0} / {:.0} | {:.2} % | {:.2} % | {:.2} % |",
            r.path.loss * 100.0,
            r.path.rtt_ms.map_or("-".into(), |ms| if ms <= 1 { "≤ 1".into() } else { ms.to_string() }),
            network.count,
            r.wrong,
            network.p50,
            network.p95,
            network.p99,
            network.max,
            of(&r.object_bytes, &["moq"], true) / all * 100.0,
            of(&r.fetched_bytes, &["moq"], true) / all * 100.0,
            of(&r.object_bytes, &["moq", "multicast"], false) / all * 100.0,
        );
    }
    out
}

/// One line for each run, Markdown.
pub fn table(runs: &[Figures]) -> String {
    let mut out = "| loss | glass to glass p50 / p95 / p99 / max, ms | stalls | played | encode | sender | network p50 / p95 | player | by multicast / MoQ / other, MB |\n|---|---|---|---|---|---|---|---|---|\n".to_owned();
    for r in runs {
        let stage = |i: usize| r.stages.get(i).copied().unwrap_or_default();
        let bytes = |way: &str| r.object_bytes.get(way).copied().unwrap_or(0) as f64 / 1e6;
        let all: f64 = r.object_bytes.values().map(|b| *b as f64 / 1e6).sum();
        let other = (all - bytes("multicast") - bytes("moq")).max(0.0);
        let _ = writeln!(
            out,
            "| {} % | {:.0} / {:.0} / {:.0} / {:.0} | {} | {:.1} of {:.1} s | {:.0} | {:.0} | {:.0} / {:.0} | {:.0} | {:.1} / {:.1} / {:.1} |",
            r.path.loss * 100.0,
            r.latency.p50,
            r.latency.p95,
            r.latency.p99,
            r.latency.max,
            r.stalls.0,
            r.played.0,
            r.played.1,
            stage(0).p50,
            stage(1).p50,
            stage(2).p50,
            stage(2).p95,
            stage(3).p50,
            bytes("multicast"),
            bytes("moq"),
            other,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::origin::Times;
    use super::*;

    #[test]
    fn stages_add_up_to_what_is_seen() {
        let times = Times { painted: 1000, ready: 1050, taken: Some(1060), bytes: 9, digest: None };
        let log = Log::from([((3, 1), times)]);
        let loaded =
            Loaded { name: "s3.p1.m4s".into(), part: true, asked: 1100.0, loaded: 1300.0, digest: None };
        let seen = Seen {
            frames: vec![(1200.0, 900.0), (2500.0, 1000.0)],
            parts: vec![loaded],
            stalls: 0,
            stalled: 0.0,
            unread: 0,
            played: 1.0,
            wall: 1.0,
            startup: None,
            errors: vec![],
            version: String::new(),
        };
        let figures = Figures::of(Path { loss: 0.05, rtt_ms: None, seed: 1 }, &seen, &log);
        let medians: Vec<f64> = figures.stages.iter().map(|s| s.p50).collect();
        assert_eq!(medians, [50.0, 10.0, 240.0, 1200.0]);
        assert_eq!(medians.iter().sum::<f64>(), figures.latency.max);
        assert_eq!(figures.course, [(0.0, 300.0), (1.0, 1500.0)]);
        assert!(table(&[figures]).contains("| 5 % | 1500 /"));
    }

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(Quantiles::of([]).max, 0.0);
        let q = Quantiles::of([3.0, 1.0, 2.0]);
        assert_eq!((q.p50, q.p95, q.max, q.count), (2.0, 3.0, 3.0, 3));
    }
}
