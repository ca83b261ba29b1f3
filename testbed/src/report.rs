//! What a run showed: the ledger that `demo --check` prints and judges.

use crate::client::{Fetched, Report, Verdict, Via};
use crate::link::{FlowCount, Percent};
use std::fmt::{self, Write};
use std::time::Duration;

/// Media bytes that must come by multicast.
pub const MULTICAST_SHARE: f64 = 0.95;
/// Unusual segments that the ledger names, per player.
const EXCEPTIONS: usize = 12;
/// A wait worth naming: a segment's length.
const LONG_WAIT_MS: u64 = 2000;

/// One run.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// How long players played.
    pub length: Duration,
    /// What the link was told to drop.
    pub asked_loss: Percent,
    /// Seed of the link.
    pub seed: u64,
    /// What the link did while they played.
    pub link: FlowCount,
    /// Media bytes that the receiver fetched from the origin while they played, as counted at the origin.
    pub unicast_bytes: u64,
    /// Bytes of encoding symbols that the receiver fetched by unicast while they played, by its own count.
    pub repair_bytes: u64,
    /// Media bytes that the sender fetched from the origin.
    pub sender_bytes: u64,
    /// One report a player.
    pub players: Vec<Report>,
}

impl Ledger {
    fn bytes(&self) -> u64 {
        self.players.iter().map(Report::bytes).sum()
    }

    /// Share of media bytes that needed no unicast: not of the origin (the receiver's word and the origin's log, whichever is worse), and
    /// not of a repair server.
    pub fn multicast_share(&self) -> f64 {
        let claimed: u64 =
            self.players.iter().map(|p| p.bytes_via(Via::Unicast) + p.bytes_via(Via::Unsaid)).sum();
        let unicast = claimed.max(self.unicast_bytes) + self.repair_bytes;
        match self.bytes() {
            0 => 0.0,
            total => 1.0 - (unicast as f64 / total as f64).min(1.0),
        }
    }

    /// Why the check fails; empty = it passes.
    pub fn complaints(&self) -> Vec<String> {
        let told = |p: &Report| {
            let name = if p.format.is_empty() { p.manifest.clone() } else { p.format.clone() };
            p.complaints().into_iter().map(move |c| format!("{name}: {c}"))
        };
        let mut all: Vec<String> = self.players.iter().flat_map(told).collect();
        if self.players.iter().any(|p| p.segments.is_empty()) || self.players.is_empty() {
            all.push("a player fetched no segment".into());
        }
        let share = self.multicast_share();
        if share < MULTICAST_SHARE {
            all.push(format!(
                "{:.1} % of media bytes came by multicast; {:.0} % are wanted",
                share * 100.0,
                MULTICAST_SHARE * 100.0
            ));
        }
        // A link that was told to drop and did not would prove nothing.
        if self.asked_loss.fraction() > 0.0 && self.link.dropped == 0 {
            all.push("the link dropped nothing, so nothing is proved".into());
        }
        all
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.length.as_secs_f64();
        writeln!(f, "ledger of {secs:.0} s with {} loss (seed {})", self.asked_loss, self.seed)?;
        for player in &self.players {
            writeln!(f, "  {}", line(player))?;
            for segment in exceptions(player).take(EXCEPTIONS) {
                writeln!(f, "    {}", exception(segment))?;
            }
        }
        writeln!(
            f,
            "  link: {} packets offered, {} dropped ({}), {:.2} MB",
            self.link.offered,
            self.link.dropped,
            self.link.loss(),
            megabytes(self.link.bytes)
        )?;
        writeln!(
            f,
            "  origin: the sender fetched {:.2} MB of media, the receiver {:.2} MB, and {:.2} MB of symbols from the sender",
            megabytes(self.sender_bytes),
            megabytes(self.unicast_bytes),
            megabytes(self.repair_bytes)
        )?;
        writeln!(f, "  by multicast: {:.2} % of media bytes", self.multicast_share() * 100.0)
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Segments that took another way than they should, or long.
fn exceptions(player: &Report) -> impl Iterator<Item = &Fetched> {
    player.segments.iter().filter(|s| s.via != Via::Multicast || s.late || s.first_byte_ms > LONG_WAIT_MS)
}

fn exception(segment: &Fetched) -> String {
    let late = if segment.late { ", too late" } else { "" };
    let (ms, path) = (segment.first_byte_ms, segment.url.splitn(4, '/').nth(3).unwrap_or(&segment.url));
    format!("/{path}: {}, waited {ms} ms, {} request(s){late}", segment.via, segment.requests)
}

/// One player in one line.
fn line(player: &Report) -> String {
    let count = |via: Via| player.segments.iter().filter(|s| s.via == via).count();
    let startup = player.startup_ms.map_or("never started".into(), |ms| format!("started after {ms} ms"));
    let longest = player.segments.iter().map(|s| s.first_byte_ms).max().unwrap_or(0);
    let right = player.segments.iter().filter(|s| s.verdict == Verdict::Same).count();
    let name = if player.format.is_empty() { &player.manifest } else { &player.format };
    let mut out = format!(
        "{name}: {startup}, played {:.1} s, {} stalls; {} segments, {right} with the origin's bytes, {:.2} MB:",
        player.played_ms as f64 / 1000.0,
        player.stalls.len(),
        player.segments.len(),
        megabytes(player.bytes()),
    );
    for via in [Via::Multicast, Via::Repaired, Via::Unicast, Via::Unsaid] {
        let count = count(via);
        if count > 0 || via == Via::Multicast {
            let _ = write!(out, " {count} {via}");
        }
    }
    let _ = write!(out, "; longest wait {longest} ms");
    let failed: u64 = player.failures.values().sum();
    if let Some((most, _)) = player.failures.iter().max_by_key(|(_, count)| **count) {
        let _ = write!(out, "; {failed} failed requests, such as: {most}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player(vias: &[Via]) -> Report {
        let segment = |(number, via): (usize, &Via)| Fetched {
            track: 0,
            number: number as u64,
            url: format!("http://r/{number}.m4s"),
            bytes: 1000,
            via: *via,
            verdict: Verdict::Same,
            first_byte_ms: 3,
            total_ms: 4,
            requests: 1,
            late: false,
            at_ms: 0,
            behind_ms: None,
        };
        Report {
            format: "hls".into(),
            startup_ms: Some(100),
            played_ms: 2000 * vias.len() as u64,
            segments: vias.iter().enumerate().map(segment).collect(),
            ..Report::default()
        }
    }

    fn ledger(players: Vec<Report>) -> Ledger {
        Ledger {
            length: Duration::from_secs(20),
            asked_loss: Percent::from_fraction(0.05),
            seed: 1,
            link: FlowCount { offered: 1000, dropped: 50, duplicated: 0, bytes: 1_000_000 },
            unicast_bytes: 0,
            repair_bytes: 0,
            sender_bytes: 40_000,
            players,
        }
    }

    #[test]
    fn a_good_run_passes() {
        let good = ledger(vec![player(&[Via::Multicast; 40])]);
        assert_eq!(good.complaints(), Vec::<String>::new());
        assert!(good.to_string().contains("40 segments, 40 with the origin's bytes"), "{good}");
    }

    #[test]
    fn the_worse_of_two_witnesses_counts() {
        let mut vias = vec![Via::Multicast; 40];
        vias[..3].fill(Via::Unicast);
        let claimed = ledger(vec![player(&vias)]);
        assert!(claimed.complaints()[0].starts_with("92.5 %"), "{:?}", claimed.complaints());
        let measured = Ledger { unicast_bytes: 4000, ..ledger(vec![player(&[Via::Multicast; 40])]) };
        assert!(measured.complaints()[0].starts_with("90.0 %"), "{:?}", measured.complaints());
        let repaired = Ledger { repair_bytes: 4000, ..ledger(vec![player(&[Via::Repaired; 40])]) };
        assert!(repaired.complaints()[0].starts_with("90.0 %"), "{:?}", repaired.complaints());
    }

    #[test]
    fn everything_a_viewer_sees_fails_the_check() {
        type Spoil = fn(&mut Ledger);
        let spoilers: [Spoil; 8] = [
            |l| l.players[0].stalls.push(crate::client::Stall { position_ms: 1, lasted_ms: 1, at_ms: 0 }),
            |l| l.players[0].segments[7].verdict = Verdict::Different,
            |l| l.players[0].segments[7].verdict = Verdict::Unknown,
            |l| l.players[0].segments[7].late = true,
            |l| l.players[0].missed.push((1, "gone".into())),
            |l| l.players[0].startup_ms = None,
            |l| l.players[0].segments.clear(),
            |l| l.link.dropped = 0,
        ];
        for (number, spoil) in spoilers.iter().enumerate() {
            let mut spoiled = ledger(vec![player(&[Via::Multicast; 40])]);
            spoil(&mut spoiled);
            assert!(!spoiled.complaints().is_empty(), "spoiler {number}");
        }
        assert!(!ledger(Vec::new()).complaints().is_empty());
    }
}
