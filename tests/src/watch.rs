//! A browser player watched twice at once: straight from the origin, and through the pair.
//!
//! Both play side by side in one browser, so whatever the machine does to one it does to the other. The play from the origin is
//! the control: where it stalls, the machine or the content is to blame, the run proves nothing about the pair, and is repeated.
//! So is a run in which only the play through the pair stalls: a fault of the pair shows itself again, a moment in which the
//! machine had no processor to spare does not. Wrong bytes, bad responses and players' errors are never forgiven.

use crate::players::browser::{self, Job, Played};
use crate::report::{self, Row};
use crate::tools;
use anyhow::ensure;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs at most, when something stalls.
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
    /// The least share of bytes by multicast.
    pub multicast: f64,
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

/// Plays everything side by side until neither the controls nor the plays through the pair stumble, and tells how it went through
/// the pair. `way` is for the report. `meanwhile` runs once beside each attempt, and must leave the world as it found it.
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
        let of_control = of_all(&played, Played::complaints);
        let wrong = of_all(&through, Played::wrong);
        let unsteady = of_pair(watched, &through);
        if wrong.is_empty() && attempt < ATTEMPTS && !(of_control.is_empty() && unsteady.is_empty()) {
            let why = [of_control, unsteady].concat().join("\n");
            tools::say(&format!("{name}: played again, attempt {attempt} of {ATTEMPTS} stumbled:\n{why}"));
            continue;
        }
        let of_origin = watched.iter().filter(|w| w.origin.is_some());
        of_origin.zip(&played).for_each(|(w, played)| row(w, "origin", played));
        watched.iter().zip(&through).for_each(|(w, played)| row(w, way, played));
        ensure!(wrong.is_empty(), "through the pair:\n{}", wrong.join("\n"));
        ensure!(
            of_control.is_empty(),
            "straight from the origin, the pair not involved:\n{}",
            of_control.join("\n")
        );
        happened?;
        ensure!(unsteady.is_empty(), "through the pair:\n{}", unsteady.join("\n"));
        return Ok(through);
    }
}

fn of_all(all: &[Played], look: impl Fn(&Played) -> Vec<String>) -> Vec<String> {
    all.iter().flat_map(|p| look(p).into_iter().map(|wrong| format!("{}: {wrong}", p.name))).collect()
}

/// What stumbled through the pair, the share of bytes by multicast included.
fn of_pair(watched: &[Watched], through: &[Played]) -> Vec<String> {
    let mut unsteady = of_all(through, Played::unsteady);
    let few = watched.iter().zip(through).filter(|(w, p)| p.share() < w.multicast);
    unsteady.extend(few.map(|(w, p)| {
        let (share, least) = (p.share(), w.multicast);
        format!("{}: {share:.3} of the bytes by multicast, not {least}: {:?}", p.name, p.bytes)
    }));
    unsteady
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
