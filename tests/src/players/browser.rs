//! hls.js, dash.js, Shaka and Chromium's own HLS, in headless Chromium, driven by `players/browser.mjs`.

use crate::process::Process;
use crate::tools;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Seconds that each browser player plays.
pub const SECONDS: u32 = 30;

/// One player on one URL.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// Unique within the call; names the screenshot.
    pub name: String,
    /// `hls`, `dash`, `shaka`, `native`; or `page`: the page of the receiver that serves the URL.
    pub player: String,
    /// The manifest.
    pub url: String,
    /// The manifest's folder on the origin's disk: media that the player got is compared with it.
    pub files: PathBuf,
    /// For `page`: the channel to play.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

/// Bytes of media responses by the receiver's Cache-Status.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Bytes {
    /// By multicast alone.
    pub multicast: u64,
    /// By multicast, completed by unicast.
    pub repaired: u64,
    /// From the origin.
    pub unicast: u64,
    /// Not said: an origin, or a manifest.
    pub other: u64,
}

/// How a player played.
#[derive(Clone, Debug, Deserialize)]
pub struct Played {
    /// Of the job.
    pub name: String,
    /// Of the job.
    pub player: String,
    /// Seconds that `currentTime` advanced since the first picture.
    pub played: f64,
    /// Seconds on the clock meanwhile.
    pub wall: f64,
    /// Seconds from the start to the first picture.
    pub startup: Option<f64>,
    /// Times it waited for data, or stood still for a second.
    pub stalls: u32,
    /// Times that `currentTime` jumped ahead.
    pub jumps: u32,
    /// Played to the end of the clip.
    pub ended: bool,
    /// Errors that the player told.
    pub errors: Vec<String>,
    /// Why the driver gave up, as when no picture came in time.
    pub failure: Option<String>,
    /// Bytes by source.
    pub bytes: Bytes,
    /// Responses with status 400 and above.
    pub bad: Vec<String>,
    /// The picture changes between two looks.
    pub moves: bool,
    /// The first look.
    pub picture: Option<Picture>,
    /// What a cross-origin script can read.
    pub cors: Option<Cors>,
    /// Bytes of media that were compared with the origin's files.
    pub compared: u64,
    /// Media that differed from the origin's file.
    pub different: Vec<String>,
    /// What the receiver's own page showed.
    pub told: Option<Told>,
    /// What hls.js had chosen at the end.
    pub tracks: Option<Tracks>,
    /// The browser's console: its level and its text.
    pub console: Vec<String>,
}

/// What hls.js had chosen.
#[derive(Clone, Debug, Deserialize)]
pub struct Tracks {
    /// Language of the audio; empty where there is no choice.
    pub audio: String,
    /// The subtitle on the screen.
    pub cue: String,
}

/// What the receiver's own page showed while it played.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// Viewers, channels, rate.
    pub headline: String,
    /// Below the picture.
    pub playing: String,
    /// What the doctor found.
    pub findings: String,
    /// Rows of the table of flows.
    pub flows: u32,
    /// Cells of segments by source.
    pub multicast: u32,
    /// By multicast, completed by unicast.
    pub repaired: u32,
    /// From the origin.
    pub unicast: u32,
    /// Plots on which nothing is drawn.
    pub empty_plots: Vec<String>,
    /// Channels that were changed to afterwards, and whose clock ran.
    pub changed: Vec<String>,
    /// Pixels by which the page is wider than a large window, and than a phone.
    pub overflow_wide: i32,
    /// See above.
    pub overflow_phone: i32,
}

/// A look at the picture.
#[derive(Clone, Debug, Deserialize)]
pub struct Picture {
    /// Standard deviation of the red channel: a black or grey picture has none.
    pub contrast: f64,
}

/// What a cross-origin script can read of responses.
#[derive(Clone, Debug, Deserialize)]
pub struct Cors {
    /// Header values of the manifest.
    #[serde(default)]
    pub headers: std::collections::BTreeMap<String, Option<String>>,
    /// Requests with an entry in Resource Timing.
    #[serde(default)]
    pub requests: u32,
    /// Of these, those whose times are told (Timing-Allow-Origin).
    #[serde(default)]
    pub timed: u32,
}

impl Played {
    /// Share of bytes by multicast, manifests not counted.
    pub fn share(&self) -> f64 {
        let by_multicast = self.bytes.multicast + self.bytes.repaired;
        by_multicast as f64 / (by_multicast + self.bytes.unicast).max(1) as f64
    }

    /// What a viewer would complain of; empty when nothing is wrong.
    pub fn complaints(&self) -> Vec<String> {
        let mut all = self.wrong();
        all.extend(self.unsteady());
        all
    }

    /// What no load of the machine excuses: errors of the player, bad responses, wrong bytes.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.errors.clone();
        wrong.extend(self.bad.iter().map(|bad| format!("response {bad}")));
        wrong.extend(self.different.iter().map(|path| format!("other bytes than the origin's file: {path}")));
        wrong
    }

    /// What a machine without processor time to spare does as well: stalls, a clock that does not run at speed 1, no picture.
    pub fn unsteady(&self) -> Vec<String> {
        let mut unsteady: Vec<String> = self.failure.iter().cloned().collect();
        let speed = self.played / self.wall.max(0.001);
        if !(0.95..=1.05).contains(&speed) || self.wall < f64::from(SECONDS) - 1.5 {
            unsteady.push(format!("played {:.2} s in {:.2} s", self.played, self.wall));
        }
        if self.stalls > 0 || self.jumps > 0 {
            unsteady.push(format!("{} stalls, {} jumps", self.stalls, self.jumps));
        }
        if !self.moves || self.picture.as_ref().is_none_or(|picture| picture.contrast < 10.0) {
            unsteady.push(format!("no moving picture: {:?}", self.picture));
        }
        unsteady
    }
}

/// Whether Chromium and the npm modules are installed; see [`tools::have`].
pub fn have(test: &str) -> bool {
    tools::have(
        test,
        &[
            "ffmpeg",
            "chromium",
            "node",
            "players/node_modules/playwright-core",
            "players/node_modules/hls.js",
        ],
    )
}

/// Plays all jobs side by side in one browser. Screenshots, jobs and results stay in `folder`.
///
/// # Errors
/// When the browser cannot be driven. A player that fails is a result, not an error.
pub fn play(folder: &Path, jobs: &[Job]) -> anyhow::Result<Vec<Played>> {
    play_for(folder, jobs, SECONDS)
}

/// The same for another time than [`SECONDS`].
///
/// # Errors
/// As [`play`].
pub fn play_for(folder: &Path, jobs: &[Job], seconds: u32) -> anyhow::Result<Vec<Played>> {
    std::fs::create_dir_all(folder)?;
    let chromium = tools::find("chromium").context("chromium is not installed")?;
    let plan = serde_json::json!({ "chromium": chromium, "shots": folder, "seconds": seconds, "jobs": jobs });
    let (plan_file, result_file) = (folder.join("jobs.json"), folder.join("results.json"));
    std::fs::write(&plan_file, serde_json::to_vec_pretty(&plan)?)?;
    let _ = std::fs::remove_file(&result_file);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("players/browser.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(&plan_file).arg(&result_file);
    let mut node = Process::start("browser", folder, &mut command)?;
    let status = node.wait(Duration::from_secs(240))?;
    ensure!(status.success(), "browser.mjs: {status}\n{}", node.tail());
    Ok(serde_json::from_slice(&std::fs::read(&result_file)?)?)
}
