//! The origin, the sender and the receivers as processes in their namespaces.

use super::Plan;
use super::agent::Agent;
use super::leftovers::RunFolder;
use super::play::Content as PlayContent;
use crate::net::ns::Namespace;
use crate::net::{Host, Lan};
use crate::process::{Child, Launch};
use crate::scenario::{Content, Scenario};
use anyhow::{Context, bail};
use mahp_common::catalog::SessionDescription;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// File of the light receivers' counters.
const CROWD: &str = "crowd.json";
/// A start takes a second or two; a loaded machine more.
const START: Duration = Duration::from_secs(40);
/// Name of the encoder of the test pattern, and of its folder.
const PATTERN: &str = "pattern";
/// Segments of the test pattern before anybody asks for them.
const PATTERN_WINDOW: usize = 3;

/// All programs by host.
pub(super) struct Programs {
    settings: Settings,
    folder: RunFolder,
    running: BTreeMap<String, Child>,
    agents: BTreeMap<String, Agent>,
    /// Hosts whose program is down on purpose.
    down: Vec<String>,
    /// Receivers whose counters began anew in this run.
    pub(super) restarted: Vec<String>,
    /// When each receiver answered for the first time, Unix milliseconds.
    pub(super) ready_ms: BTreeMap<String, u64>,
    session: Option<String>,
}

/// What does not change.
struct Settings {
    scenario: Scenario,
    /// Address and ports of each host.
    places: BTreeMap<String, Place>,
    /// What the sender announces, when that is not its address.
    announced: Option<Ipv4Addr>,
    logs: PathBuf,
    binaries: Option<PathBuf>,
    verbose: bool,
    epoch_ms: u64,
}

/// Where a host's program listens.
#[derive(Clone, Copy)]
struct Place {
    address: Ipv4Addr,
    ports: [u16; 2],
}

impl Programs {
    pub(super) fn new(plan: &Plan, lan: &Lan, folder: RunFolder, epoch_ms: u64) -> anyhow::Result<Programs> {
        let logs = plan.out.join("logs");
        if logs.is_dir() {
            // Logs are appended to at restarts; those of an earlier run would be read as this one's.
            std::fs::remove_dir_all(&logs).with_context(|| format!("cannot empty {}", logs.display()))?;
        }
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let agent = |host: &Host| anyhow::Ok((host.name.clone(), Agent::start(host.namespace())?));
        let place = |h: &Host| (h.name.clone(), Place { address: h.address, ports: h.ports });
        let settings = Settings {
            scenario: plan.scenario.clone(),
            places: lan.hosts().iter().map(place).collect(),
            announced: lan.announced(),
            logs,
            binaries: plan.programs.clone(),
            verbose: plan.verbose,
            epoch_ms,
        };
        Ok(Programs {
            settings,
            folder,
            running: BTreeMap::new(),
            agents: lan.hosts().iter().map(agent).collect::<anyhow::Result<_>>()?,
            down: Vec::new(),
            restarted: Vec::new(),
            ready_ms: BTreeMap::new(),
            session: None,
        })
    }

    /// Starts everything in order and waits until it is ready.
    pub(super) async fn start(&mut self, lan: &Lan) -> anyhow::Result<()> {
        match self.settings.scenario.origin.content {
            Content::Url => {}
            Content::Pattern => {
                self.start_pattern().await?;
                self.start_one(lan, "origin").await?;
            }
            Content::Standard | Content::Clip | Content::Folder => self.start_one(lan, "origin").await?,
        }
        self.start_one(lan, "sender").await?;
        if self.settings.scenario.sender.standby {
            self.start_one(lan, "standby").await?;
        }
        if self.settings.scenario.receivers.light > 0 {
            self.start_one(lan, "crowd").await?;
        }
        if lan.is_loopback() {
            lan.carry(&self.description().await?)?;
        }
        if self.settings.scenario.receivers.wait {
            return Ok(());
        }
        for name in self.settings.scenario.receiver_names() {
            self.spawn(lan, &name)?;
        }
        for name in self.settings.scenario.receiver_names() {
            self.ready(&name).await?;
        }
        Ok(())
    }

    async fn description(&self) -> anyhow::Result<SessionDescription> {
        let session = self.session.as_deref().context("the sender has not said where its description is")?;
        let agent = self.agents.get("sender").context("no host sender")?;
        let bytes = agent.get(session).await.context("the sender does not serve its description")?;
        let now = mahp_runtime::clock::Clock::new().wall();
        Ok(SessionDescription::open(&bytes, None, now)?.0)
    }

    /// ffmpeg, making a live channel into the origin's folder; waits until players find a window of segments.
    async fn start_pattern(&mut self) -> anyhow::Result<()> {
        let folder = self.folder.path().join(PATTERN);
        let live = folder.join("live");
        std::fs::create_dir_all(&live).with_context(|| format!("cannot make {}", live.display()))?;
        let launch = Launch {
            name: PATTERN.into(),
            program: Some("ffmpeg".into()),
            args: pattern(&live),
            namespace: None,
            log: Some(self.settings.logs.join("pattern.log")),
            verbose: self.settings.verbose,
        };
        let child = Child::start(&launch).context("content = \"pattern\" needs ffmpeg on the PATH")?;
        if let Some(pid) = child.id() {
            self.folder.note_child(pid);
        }
        self.running.insert(PATTERN.into(), child);
        let end = Instant::now() + START;
        let listed = || std::fs::read_to_string(live.join("video.m3u8")).unwrap_or_default();
        while listed().matches("#EXTINF").count() < PATTERN_WINDOW || !live.join("master.m3u8").is_file() {
            self.check()?;
            if Instant::now() > end {
                bail!("ffmpeg made no test pattern within {START:?}:\n{}", self.child(PATTERN)?.last_words());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Starts a program and waits until it is ready.
    pub(super) async fn start_one(&mut self, lan: &Lan, name: &str) -> anyhow::Result<()> {
        self.spawn(lan, name)?;
        self.ready(name).await
    }

    /// Starts a program.
    pub(super) fn spawn(&mut self, lan: &Lan, name: &str) -> anyhow::Result<()> {
        if self.running.contains_key(name) {
            return Ok(());
        }
        let host = lan.host(name).with_context(|| format!("no host {name}"))?;
        let launch = match name {
            "origin" => self.origin(host),
            "sender" | "standby" => self.sender(host)?,
            "crowd" => self.crowd(host)?,
            name if name.starts_with("receiver-") => self.receiver(host)?,
            name => bail!("nothing runs on {name}"),
        };
        if self.down.iter().any(|d| d == name) {
            self.down.retain(|d| d != name);
            self.restarted.push(name.into());
        }
        self.launch(host, &launch).map(|child| {
            self.running.insert(name.into(), child);
        })
    }

    /// Starts any program on a host, and writes it down.
    pub(super) fn launch(&self, host: &Host, launch: &Launch) -> anyhow::Result<Child> {
        let launch = Launch {
            name: launch.name.clone(),
            program: launch.program.clone(),
            args: launch.args.clone(),
            namespace: host.namespace().map(Namespace::fd),
            log: Some(self.settings.logs.join(format!("{}.log", launch.name))),
            verbose: self.settings.verbose,
        };
        let child = Child::start(&launch)?;
        if let Some(pid) = child.id() {
            self.folder.note_child(pid);
        }
        Ok(child)
    }

    async fn ready(&mut self, name: &str) -> anyhow::Result<()> {
        match name {
            "origin" => {
                let child = self.child(name)?;
                child.says("http://", START).await?;
            }
            "sender" => {
                let session = self.child(name)?.says("receive: mahp-receiver ", START).await?;
                self.session = Some(session);
            }
            "standby" => _ = self.child(name)?.says("receive: mahp-receiver ", START).await?,
            "crowd" => _ = self.child(name)?.says("crowd: ", START).await?,
            _ => {
                let end = Instant::now() + START;
                while self.get(name, "readyz").await.is_none() {
                    if Instant::now() > end {
                        let said = self.child(name)?.last_words();
                        bail!("{name} was not ready within {START:?}:\n{said}");
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let now = mahp_runtime::clock::Clock::new().wall().unix_millis();
                self.ready_ms.entry(name.into()).or_insert(now);
            }
        }
        Ok(())
    }

    fn child(&mut self, name: &str) -> anyhow::Result<&mut Child> {
        self.running.get_mut(name).with_context(|| format!("{name} does not run"))
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, name: &str) {
        if let Some(child) = self.running.remove(name) {
            child.kill().await;
            self.down.push(name.into());
        }
    }

    /// SIGTERM.
    pub(super) async fn end(&mut self, name: &str) {
        if let Some(child) = self.running.remove(name) {
            child.stop().await;
            self.down.push(name.into());
        }
    }

    /// An error when a program ended that should run.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for (name, child) in &mut self.running {
            if child.has_ended() {
                bail!("{name} ended by itself:\n{}", child.last_words());
            }
        }
        Ok(())
    }

    /// Stops everything, players' side first.
    pub(super) async fn stop(&mut self) {
        let order = |name: &str| match name {
            "origin" | PATTERN => 2,
            "sender" | "standby" => 1,
            _ => 0,
        };
        let mut running: Vec<(String, Child)> = std::mem::take(&mut self.running).into_iter().collect();
        running.sort_by_key(|(name, _)| order(name));
        let mut set = tokio::task::JoinSet::new();
        for (name, child) in running {
            if order(&name) == 0 {
                set.spawn(child.stop());
            } else {
                while set.join_next().await.is_some() {}
                child.stop().await;
            }
        }
        while set.join_next().await.is_some() {}
    }

    /// Process id of a host's program.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        self.running.get(name).and_then(Child::id)
    }

    /// What the program of a host tells about itself.
    pub(super) async fn status(&self, name: &str) -> Option<bytes::Bytes> {
        match name {
            "origin" => self.origin_control("log").await,
            "crowd" => std::fs::read(self.folder.path().join(CROWD)).ok().map(bytes::Bytes::from),
            name => self.get(name, "api/status").await,
        }
    }

    fn place(&self, name: &str) -> Option<Place> {
        self.settings.places.get(name).copied()
    }

    fn origin_url(&self, path: &str) -> Option<String> {
        if let Some(url) = &self.settings.scenario.origin.url {
            return Some(format!("{}{path}", url.trim_end_matches('/')));
        }
        let place = self.place("origin")?;
        Some(format!("http://{}:{}{path}", place.address, place.ports[0]))
    }

    /// The origin's log, or `delay?MILLISECONDS`.
    pub(super) async fn origin_control(&self, what: &str) -> Option<bytes::Bytes> {
        let agent = self.agents.get("origin").filter(|_| self.running.contains_key("origin"))?;
        agent.get(&self.origin_url(&format!("/_testbed/{what}"))?).await
    }

    async fn get(&self, name: &str, path: &str) -> Option<bytes::Bytes> {
        let port = self.place(name)?.ports[1];
        let agent = self.agents.get(name).filter(|_| self.running.contains_key(name))?;
        agent.get(&format!("http://127.0.0.1:{port}/{path}")).await
    }

    /// Where players of a channel ask on a host: `direct` asks the origin.
    pub(super) fn manifest(&self, host: &str, channel: &str) -> Option<String> {
        let channel = self.settings.scenario.channel.iter().find(|c| c.name == channel)?;
        let path = &channel.manifest;
        if host == "direct" {
            return self.origin_url(path);
        }
        let port = self.place(host)?.ports[0];
        let file = path.rsplit('/').next()?;
        Some(format!("http://127.0.0.1:{port}/live/{}/{file}", channel.name))
    }

    /// For files of players.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the built-in player compares with.
    pub(super) fn content(&self) -> PlayContent {
        let origin = &self.settings.scenario.origin;
        match origin.content {
            Content::Standard => PlayContent::Standard,
            Content::Clip => PlayContent::Clip,
            Content::Folder | Content::Pattern => PlayContent::Folder,
            Content::Url => PlayContent::Origin,
        }
    }

    /// The manifest of a channel at an origin of which only its URL is known.
    pub(super) fn original(&self, channel: &str) -> Option<String> {
        self.settings.scenario.origin.url.as_ref()?;
        self.manifest("direct", channel)
    }

    /// Folder of what the manifest of a channel refers to, where the origin has files.
    pub(super) fn channel_folder(&self, channel: &str) -> Option<PathBuf> {
        let channel = self.settings.scenario.channel.iter().find(|c| c.name == channel)?;
        let (path, _) = channel.manifest.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
        Some(self.content_folder()?.join(path))
    }

    /// Folder of the origin's files.
    fn content_folder(&self) -> Option<PathBuf> {
        match self.settings.scenario.origin.content {
            Content::Folder => self.settings.scenario.origin.folder.clone(),
            Content::Pattern => Some(self.folder.path().join(PATTERN)),
            Content::Standard | Content::Clip | Content::Url => None,
        }
    }

    fn origin(&self, host: &Host) -> Launch {
        let s = &self.settings;
        let content = if s.scenario.origin.content == Content::Clip { "clip" } else { "standard" };
        let mut args: Vec<OsString> = vec![
            "--listen".into(),
            SocketAddr::from((host.address, host.ports[0])).to_string().into(),
            "--content".into(),
            content.into(),
            "--epoch-ms".into(),
            s.epoch_ms.to_string().into(),
        ];
        if let Some(vod) = s.scenario.origin.vod {
            args.extend(["--vod".into(), format!("{}ms", vod.0.as_millis()).into()]);
        }
        if let Some(delay) = s.scenario.origin.delay {
            args.extend(["--delay".into(), format!("{}ms", delay.0.as_millis()).into()]);
        }
        if let Some(folder) = self.content_folder() {
            args.extend(["--folder".into(), folder.into()]);
        }
        Launch::own("origin", args)
    }

    fn sender(&self, host: &Host) -> anyhow::Result<Launch> {
        let s = &self.settings.scenario;
        let mut file = mahp_sender::config::File {
            sender: s.sender.settings.clone(),
            defaults: s.sender.defaults.clone(),
            channel: Vec::new(),
        };
        let ipv6 = file.sender.ipv6 == Some(true);
        file.sender.source = Some(if ipv6 { host.address6.into() } else { host.address.into() });
        file.sender.announce_source = self.settings.announced.map(Into::into);
        file.sender.http = Some((host.address, host.ports[0]).into());
        file.sender.admin = Some((Ipv4Addr::LOCALHOST, host.ports[1]).into());
        file.sender.key_file = Some(self.folder.path().join("sender.key"));
        if s.sender.standby {
            let other = self.place(if host.name == "sender" { "standby" } else { "sender" });
            file.sender.standby_source = other.map(|other| vec![other.address.into()]);
        }
        for channel in &s.channel {
            let mut settings = channel.settings.clone();
            settings.url = self.origin_url(&channel.manifest);
            settings.channel_name = Some(channel.name.clone());
            file.channel.push(settings);
        }
        let config = self.folder.write(&format!("{}.toml", host.name), &toml::to_string(&file)?)?;
        Ok(self.program("sender", &host.name, vec!["--config".into(), config.into()]))
    }

    fn receiver(&self, host: &Host) -> anyhow::Result<Launch> {
        let mut settings = self.settings.scenario.receivers.settings.clone();
        let session = self.session.clone().context("the sender has not said where its description is")?;
        settings.session = Some(vec![session]);
        settings.listen = Some((Ipv4Addr::UNSPECIFIED, host.ports[0]).into());
        settings.admin = Some((Ipv4Addr::LOCALHOST, host.ports[1]).into());
        let state = self.folder.path().join(&host.name);
        std::fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
        settings.state_dir = Some(state);
        let file = mahp_receiver::config::File { receiver: settings };
        let config = self.folder.write(&format!("{}.toml", host.name), &toml::to_string(&file)?)?;
        Ok(self.program("receiver", &host.name, vec!["--config".into(), config.into()]))
    }

    fn crowd(&self, host: &Host) -> anyhow::Result<Launch> {
        let s = &self.settings.scenario;
        let address = host.more_addresses(s.receivers.light).context("no addresses for light receivers")?;
        let session = self.session.clone().context("the sender has not said where its description is")?;
        let args: Vec<OsString> = vec![
            session.into(),
            "--count".into(),
            s.receivers.light.to_string().into(),
            "--loss".into(),
            s.receivers.light_loss.0.to_string().into(),
            "--seed".into(),
            s.seed.to_string().into(),
            "--address".into(),
            address.to_string().into(),
            "--json".into(),
            self.folder.path().join(CROWD).into(),
        ];
        Ok(Launch::own("crowd", args))
    }

    /// The real binary where a folder is given, else the same entry point in this executable.
    fn program(&self, kind: &str, name: &str, args: Vec<OsString>) -> Launch {
        match &self.settings.binaries {
            Some(folder) => Launch {
                name: name.into(),
                program: Some(folder.join(format!("mahp-{kind}"))),
                args,
                namespace: None,
                log: None,
                verbose: false,
            },
            None => Launch { name: name.into(), ..Launch::own(kind, args) },
        }
    }
}

/// A live channel of 640 by 360 pixels and a tone, at about 1 Mbit/s; every segment stays, to compare with.
fn pattern(live: &Path) -> Vec<OsString> {
    let text = "-hide_banner -nostdin -loglevel warning -re -f lavfi -i testsrc2=size=640x360:rate=25 \
        -re -f lavfi -i sine=frequency=440:beep_factor=4:sample_rate=48000 \
        -c:v libx264 -preset superfast -tune zerolatency -pix_fmt yuv420p -b:v 900k -maxrate 900k -bufsize 900k -g 50 -keyint_min 50 \
        -sc_threshold 0 -c:a aac -b:a 96k -f hls -hls_time 2 -hls_list_size 8 -hls_segment_type fmp4 \
        -hls_flags independent_segments+temp_file -master_pl_name master.m3u8 -hls_fmp4_init_filename init.mp4";
    let mut args: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
    args.extend([
        "-hls_segment_filename".into(),
        live.join("video-%d.m4s").into(),
        live.join("video.m3u8").into(),
    ]);
    args
}
