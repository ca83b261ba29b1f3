//! Who watches: players as processes on receivers' hosts, or beside the origin.

use super::Plan;
use super::external::{self, External};
use super::programs::Programs;
use crate::net::Lan;
use crate::process::{Child, Launch};
use crate::result::Watched;
use crate::scenario::{Player, PlayerKind, Scenario};
use anyhow::Context;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long after the end a player may take to finish.
const FINISH: Duration = Duration::from_secs(25);

/// A player to start, or running.
struct Entry {
    spec: Player,
    name: String,
    host: String,
    channel: String,
    report: PathBuf,
    running: Option<Running>,
    started: bool,
}

/// A player that runs, or has run.
struct Running {
    child: Child,
    since: Instant,
    started_ms: u64,
    length: Duration,
    /// One that is not ours.
    external: Option<External>,
}

/// All players.
pub(super) struct Players {
    entries: Vec<Entry>,
}

impl Players {
    /// Those that can run here.
    pub(super) fn new(scenario: &Scenario) -> Players {
        let mut entries = Vec::new();
        let here = |p: &&Player| external::program(p.kind).is_none_or(external::installed);
        for spec in scenario.player.iter().filter(here) {
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
                    running: None,
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
            let external = match external::program(entry.spec.kind) {
                Some(_) => Some(External::new(entry.spec.kind, programs.folder().join(&entry.name))?),
                None => None,
            };
            let launch = entry.launch(programs, external.as_ref(), length, epoch_ms)?;
            let host = lan.host(&entry.host).context("a player without a host")?;
            entry.running = Some(Running {
                child: programs.launch(host, &launch)?,
                since: Instant::now(),
                started_ms: mahp_runtime::clock::Clock::new().wall().unix_millis(),
                length,
                external,
            });
        }
        Ok(())
    }

    /// How far those are that are not ours. Once a second.
    pub(super) async fn look(&mut self) {
        for running in self.entries.iter_mut().filter_map(|e| e.running.as_mut()) {
            let at = u64::try_from(running.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(external) = &mut running.external {
                external.look(at, &mut running.child).await;
            }
        }
    }

    /// Waits for all and reads what they report.
    pub(super) async fn finish(self, programs: &Programs) -> anyhow::Result<Vec<Watched>> {
        let mut out = Vec::new();
        for mut entry in self.entries {
            let Some(Running { mut child, started_ms, length, external, .. }) = entry.running.take() else {
                continue;
            };
            let report = match external {
                Some(external) => {
                    let report = external.report(started_ms, length, &child.last_words());
                    // They play until they are ended; ffmpeg may take its time after SIGTERM.
                    child.kill().await;
                    report
                }
                None => {
                    let ended = tokio::time::timeout(FINISH, child.finish()).await;
                    let said = child.last_words();
                    if ended.is_err() {
                        child.kill().await;
                    }
                    let text = std::fs::read(&entry.report)
                        .with_context(|| format!("{} left no report:\n{said}", entry.name))?;
                    serde_json::from_slice(&text)?
                }
            };
            let manifest = programs.manifest(&entry.host, &entry.channel).unwrap_or_default();
            out.push(Watched { name: entry.name, kind: entry.spec.kind, host: entry.host, manifest, report });
        }
        Ok(out)
    }
}

impl Entry {
    fn launch(
        &self,
        programs: &Programs,
        external: Option<&External>,
        length: Duration,
        epoch_ms: u64,
    ) -> anyhow::Result<Launch> {
        let manifest = programs
            .manifest(&self.host, &self.channel)
            .with_context(|| format!("no channel {}", self.channel))?;
        let own = |text: &str| OsString::from(text);
        if let Some(external) = external {
            let (program, args) = external.command(&manifest, length)?;
            let (name, program) = (self.name.clone(), Some(program.into()));
            return Ok(Launch { name, program, args, namespace: None, log: None, verbose: false });
        }
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
        if let Some(folder) = programs.channel_folder(&self.channel) {
            args.extend([own("--folder"), folder.into()]);
        }
        if let Some(url) = programs.original(&self.channel) {
            args.extend([own("--original"), url.into()]);
        }
        args.extend(self.spec.lowest.then(|| own("--lowest")));
        args.extend((self.spec.kind == PlayerKind::Probe).then(|| own("--probe")));
        Ok(Launch { name: self.name.clone(), ..Launch::own("play", args) })
    }
}
