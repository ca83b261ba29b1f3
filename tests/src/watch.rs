//! A browser player watched twice at once: straight from the origin, and through the pair.
//!
//! Both play side by side in one browser, so whatever the machine does to one it does to the other. The play from the origin is
//! the control: where it stalls, the machine or the content is to blame, the run proves nothing about the pair, and is repeated.

use crate::players::browser::{self, Job, Played};
use crate::report::{self, Row};
use crate::tools;
use anyhow::ensure;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs at most, when controls stall.
const ATTEMPTS: usize = 3;

/// A player on a presentation.
#[derive(Clone, Debug)]
pub struct Watched {
    /// `hls`, `dash`, `shaka`, `native` or `page`; see [`Job::player`].
    pub player: &'static str,
    /// Name of the content in reports.
    pub content: String,
    /// The manifest at the origin; `None` where there can be no control.
    pub origin: Option<String>,
    /// The manifest at the receiver.
    pub receiver: String,
    /// Name of the channel at the receiver.
    pub channel: String,
    /// The manifest's folder on the origin's disk.
    pub files: PathBuf,
}

impl Watched {
    fn job(&self, way: &str, url: &str) -> Job {
        Job {
            name: format!("{}-{}-{way}", self.player, self.content),
            player: self.player.into(),
            url: url.into(),
            files: self.files.clone(),
            channel: (self.player == "page").then(|| self.channel.clone()),
        }
    }
}

/// One browser at a time: several side by side would starve each other and look like stalls.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plays everything side by side until the controls play without a complaint, and tells how it went through the pair. `way` is
/// for the report. `meanwhile` runs once beside each attempt, and must leave the world as it found it.
///
/// # Errors
/// Lists what a viewer would complain of, of the controls or else of the pair; and errors of `meanwhile`.
pub fn side_by_side(
    name: &str,
    way: &str,
    watched: &[Watched],
    meanwhile: impl Fn() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Played>> {
    let controls: Vec<Job> =
        watched.iter().filter_map(|w| w.origin.as_ref().map(|url| w.job("origin", url))).collect();
    let pair = watched.iter().map(|w| w.job("pair", &w.receiver));
    let jobs: Vec<Job> = controls.iter().cloned().chain(pair).collect();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let folder = tools::work_dir().join(format!("watch-{name}-{attempt}"));
        let (mut played, happened) = std::thread::scope(|scope| {
            let playing = scope.spawn(|| browser::play(&folder, &jobs));
            let happened = meanwhile();
            let played = playing.join().map_err(|_| anyhow::anyhow!("the driver panicked"));
            played.and_then(|played| played).map(|played| (played, happened))
        })?;
        let through = played.split_off(controls.len());
        let wrong = complaints(&played);
        if !wrong.is_empty() && attempt < ATTEMPTS {
            tools::say(&format!("{name}: again, because the origin's own play had\n{}", wrong.join("\n")));
            continue;
        }
        let of_origin = watched.iter().filter(|w| w.origin.is_some());
        of_origin.zip(&played).for_each(|(w, played)| row(w, "origin", played));
        watched.iter().zip(&through).for_each(|(w, played)| row(w, way, played));
        ensure!(wrong.is_empty(), "straight from the origin, the pair not involved:\n{}", wrong.join("\n"));
        happened?;
        let wrong = complaints(&through);
        ensure!(wrong.is_empty(), "through the pair:\n{}", wrong.join("\n"));
        return Ok(through);
    }
}

fn complaints(all: &[Played]) -> Vec<String> {
    all.iter()
        .flat_map(|played| played.complaints().into_iter().map(|wrong| format!("{}: {wrong}", played.name)))
        .collect()
}

/// Writes a line of the report.
fn row(watched: &Watched, way: &str, played: &Played) {
    let share = (way != "origin").then(|| played.share());
    let startup = played.startup.map_or("no picture".to_owned(), |s| format!("first picture after {s:.1} s"));
    let complaints = played.complaints();
    let note = if complaints.is_empty() { startup } else { format!("{startup}; {}", complaints.join("; ")) };
    report::add(&Row {
        player: watched.player.into(),
        content: watched.content.clone(),
        way: way.into(),
        played: played.played,
        stalls: played.stalls,
        multicast: share,
        note,
    });
}
