//! What the person at the terminal sees.

use super::pair::{DOWNSTREAM, Pair, UPSTREAM};
use super::{DemoArgs, Unicast};
use crate::link::FlowCount;
use mahp_receiver::snapshot::Snapshot;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use url::Url;

/// Without a terminal, a line this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Six lines: what it is, where to look, how to stop.
pub(super) fn banner(args: &DemoArgs, pair: &Pair) -> String {
    let manifests = pair.manifests();
    let flows = pair.link().counts().len();
    let unicast = match args.unicast {
        Unicast::On => "what is missing then comes by unicast",
        Unicast::Off => "unicast is off",
    };
    let loss = if args.burst > 1.0 {
        format!("{} of packets in bursts of about {}", args.loss, args.burst)
    } else {
        format!("{} of packets", args.loss)
    };
    let mut out = format!("MAHP demo: origin > sender > multicast that drops {loss} > receiver > players\n");
    put(&mut out, "open", format!("{}", pair.page()));
    for (name, url) in ["hls", "dash"].iter().zip(&manifests) {
        put(&mut out, name, format!("ffplay {url}    or: vlc {url}"));
    }
    put(
        &mut out,
        "loss",
        format!(
            "{flows} flows from {UPSTREAM} cross the link to {DOWNSTREAM} (seed {}); {unicast}",
            args.seed
        ),
    );
    put(&mut out, "stop", "Ctrl-C".into());
    out
}

fn put(out: &mut String, name: &str, text: String) {
    let _ = writeln!(out, "  {name:<5} {text}");
}

/// Opens the page where there is a desktop and a person.
pub(super) fn open_browser(page: &Url) {
    let desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some_and(|v| !v.is_empty()));
    if desktop && std::io::stdout().is_terminal() {
        let mut command = Command::new("xdg-open");
        command.arg(page.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Without xdg-open the printed URL has to do.
        let _ = command.spawn();
    }
}

/// A line that is written again and again.
pub(super) struct StatusLine {
    started: Instant,
    before: FlowCount,
    terminal: bool,
    last_plain: Option<Instant>,
}

impl StatusLine {
    pub(super) fn new() -> StatusLine {
        StatusLine {
            started: Instant::now(),
            before: FlowCount::default(),
            terminal: std::io::stdout().is_terminal(),
            last_plain: None,
        }
    }

    pub(super) fn show(&mut self, link: &FlowCount, receiver: Option<&Snapshot>) {
        let text = status(self.started.elapsed(), link.minus(self.before), receiver);
        if self.terminal {
            self.before = *link;
            // Erase to the end of the line.
            print!("\r{text}\x1b[K");
            let _ = std::io::stdout().flush();
        } else if self.last_plain.is_none_or(|at| at.elapsed() >= PLAIN_EVERY) {
            self.before = *link;
            self.last_plain = Some(Instant::now());
            println!("{text}");
        }
    }

    pub(super) fn finish(&self) {
        if self.terminal {
            println!();
        }
    }
}

fn status(running: Duration, link: FlowCount, receiver: Option<&Snapshot>) -> String {
    let secs = running.as_secs();
    let mut out = format!("{:02}:{:02}  link dropped {}", secs / 60, secs % 60, link.loss());
    let Some(snapshot) = receiver else {
        out.push_str("  (the receiver does not answer)");
        return out;
    };
    let (objects, served) = (snapshot.totals.objects, snapshot.totals.served);
    let all = objects.multicast + objects.repaired + objects.unicast + objects.lost;
    if all > 0 {
        let incomplete = 100.0 * (all - objects.multicast) as f64 / all as f64;
        let _ = write!(out, ", after FEC {incomplete:.1} % of {all} objects incomplete");
    }
    if served.total() > 0 {
        let share = 100.0 * served.multicast as f64 / served.total() as f64;
        let megabytes = served.total() as f64 / 1e6;
        let _ = write!(out, "  served {megabytes:.1} MB, {share:.1} % by multicast");
    }
    let _ = write!(out, "  {} players", snapshot.totals.viewers);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_says_what_matters() {
        let link = FlowCount { offered: 200, dropped: 10, duplicated: 0, bytes: 0 };
        let mut snapshot = Snapshot::default();
        snapshot.totals.objects.multicast = 199;
        snapshot.totals.objects.repaired = 1;
        snapshot.totals.served.multicast = 3_000_000;
        snapshot.totals.served.unicast = 1_000_000;
        snapshot.totals.viewers = 2;
        assert_eq!(
            status(Duration::from_secs(75), link, Some(&snapshot)),
            "01:15  link dropped 5 %, after FEC 0.5 % of 200 objects incomplete  served 4.0 MB, 75.0 % by multicast  2 players"
        );
        assert!(status(Duration::ZERO, link, None).contains("does not answer"));
    }
}
