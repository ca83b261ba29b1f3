//! Who watches: players as processes on receivers' hosts, or beside the origin.

use super::Plan;
use super::programs::Programs;
use crate::client;
use crate::net::Lan;
use crate::process::{Child, Launch};
use crate::result::Watched;
use crate::scenario::{Player, PlayerKind, Scenario};
use anyhow::Context;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How long after the end a player may take to finish.
const FINISH: Duration = Duration::from_secs(25);

/// A player to start, or running.
struct Entry {
    spec: Player,
    name: String,
    host: String,
    channel: String,
    report: PathBuf,
    child: Option<Child>,
    started: bool,
}

/// All players.
pub(super) struct Players {
    entries: Vec<Entry>,
}

impl Players {
    pub(super) fn new(scenario: &Scenario) -> Players {
        let mut entries = Vec::new();
        for spec in &scenario.player {
            let hosts = match spec.on.as_str() {
                "origin" => vec!["direct".to_owned()],
                on => scenario.matching(on),
            };
            for host in hosts {
                let number = entries.len() + 1;
                let kind = match spec.kind {
                    PlayerKind::BuiltIn => "player",
                    PlayerKind::Probe => "probe",
                    PlayerKind::Ffmpeg => "ffmpeg",
                    PlayerKind::Vlc => "vlc",
                    PlayerKind::Chromium => "chromium",
                };
                let first = || scenario.channel.first().map(|c| c.name.clone()).unwrap_or_default();
                entries.push(Entry {
                    name: format!("{kind}-{number}-{host}"),
                    channel: spec.channel.clone().unwrap_or_else(first),
                    report: PathBuf::new(),
                    spec: spec.clone(),
                    host,
                    child: None,
                    started: false,
                });
            }
        }
        Players { entries }
    }

    /// Starts those whose time has come, and their receivers where these wait for them.
    pub(super) async fn start_due(
        &mut self,
        at: i64,
        plan: &Plan,
        lan: &Lan,
        programs: &mut Programs,
        epoch_ms: u64,
    ) -> anyhow::Result<()> {
        for entry in &mut self.entries {
            let start = i64::try_from(entry.spec.start.0.as_millis()).unwrap_or(i64::MAX);
            if entry.started || at < start {
                continue;
            }
            entry.started = true;
            if plan.scenario.receivers.wait && entry.host.starts_with("receiver-") {
                programs.start_one(lan, &entry.host).await?;
            }
            let rest =
                plan.scenario.duration.0.saturating_sub(Duration::from_millis(at.max(0).unsigned_abs()));
            let length = entry.spec.length.map_or(rest, |l| l.0.min(rest));
            entry.report = programs.folder().join(format!("{}.json", entry.name));
            let launch = entry.launch(programs, length, epoch_ms)?;
            let host = lan.host(&entry.host).context("a player without a host")?;
            entry.child = Some(programs.launch(host, &launch)?);
        }
        Ok(())
    }

    /// Waits for all and reads what they report.
    pub(super) async fn finish(self, programs: &Programs) -> anyhow::Result<Vec<Watched>> {
        let mut out = Vec::new();
        for mut entry in self.entries {
            let Some(mut child) = entry.child.take() else { continue };
            let ended = tokio::time::timeout(FINISH, child.finish()).await;
            let said = child.last_words();
            let report = match entry.spec.kind {
                PlayerKind::BuiltIn | PlayerKind::Probe => {
                    let text = std::fs::read(&entry.report)
                        .with_context(|| format!("{} left no report:\n{said}", entry.name))?;
                    serde_json::from_slice(&text)?
                }
                kind => external(kind, ended == Ok(true), &said),
            };
            if ended.is_err() {
                child.kill().await;
            }
            let manifest = programs.manifest(&entry.host, &entry.channel).unwrap_or_default();
            out.push(Watched { name: entry.name, kind: entry.spec.kind, host: entry.host, manifest, report });
        }
        Ok(out)
    }
}

impl Entry {
    fn launch(&self, programs: &Programs, length: Duration, epoch_ms: u64) -> anyhow::Result<Launch> {
        let manifest = programs
            .manifest(&self.host, &self.channel)
            .with_context(|| format!("no channel {}", self.channel))?;
        let own = |text: &str| OsString::from(text);
        let (program, args) = match self.spec.kind {
            PlayerKind::BuiltIn | PlayerKind::Probe => {
                let mut args = vec![
                    own(&manifest),
                    own("--for"),
                    format!("{}ms", length.as_millis()).into(),
                    own("--json"),
                    self.report.clone().into(),
                    own("--content"),
                    own(programs.content().as_str()),
                    own("--epoch-ms"),
                    epoch_ms.to_string().into(),
                ];
                if let Some(folder) = programs.content_folder() {
                    args.extend([own("--folder"), folder.into()]);
                }
                args.extend(self.spec.lowest.then(|| own("--lowest")));
                args.extend((self.spec.kind == PlayerKind::Probe).then(|| own("--probe")));
                return Ok(Launch { name: self.name.clone(), ..Launch::own("play", args) });
            }
            PlayerKind::Ffmpeg => ("ffmpeg", ffmpeg(&manifest, length)),
            PlayerKind::Vlc => ("cvlc", vlc(&manifest, length)),
            PlayerKind::Chromium => ("chromium", chromium(&manifest, programs)),
        };
        Ok(Launch {
            name: self.name.clone(),
            program: Some(program.into()),
            args,
            namespace: None,
            log: None,
            verbose: false,
        })
    }
}

/// Decodes everything; errors of the decoder are its exit status (`-xerror`).
fn ffmpeg(manifest: &str, length: Duration) -> Vec<OsString> {
    let seconds = length.saturating_sub(Duration::from_secs(2)).as_secs_f64().to_string();
    let args = ["-hide_banner", "-nostdin", "-loglevel", "warning", "-xerror", "-re", "-i", manifest, "-t"];
    let mut out: Vec<OsString> = args.iter().map(OsString::from).collect();
    out.extend([seconds.into(), "-f".into(), "null".into(), "-".into()]);
    out
}

fn vlc(manifest: &str, length: Duration) -> Vec<OsString> {
    let seconds = length.saturating_sub(Duration::from_secs(2)).as_secs();
    let stop = format!("--run-time={seconds}");
    ["--intf=dummy", "--vout=dummy", "--aout=dummy", "--play-and-exit", &stop, manifest, "vlc://quit"]
        .iter()
        .map(OsString::from)
        .collect()
}

/// The receiver's page, which plays by itself; headless Chromium ends when its virtual time is over.
fn chromium(manifest: &str, programs: &Programs) -> Vec<OsString> {
    let page = manifest.split("/live/").next().unwrap_or(manifest);
    let profile = programs.folder().join("chromium");
    let mut out: Vec<OsString> =
        ["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"].iter().map(OsString::from).collect();
    out.push(format!("--user-data-dir={}", profile.display()).into());
    out.extend(["--autoplay-policy=no-user-gesture-required".into(), page.into()]);
    out
}

/// What is known of a player that is not ours: whether it ended well, and what it said.
fn external(kind: PlayerKind, good: bool, said: &str) -> client::Report {
    // Chromium plays until it is ended.
    let good = good || kind == PlayerKind::Chromium;
    client::Report {
        format: "external".into(),
        error: (!good).then(|| format!("it ended with an error:\n{said}")),
        ..client::Report::default()
    }
}
