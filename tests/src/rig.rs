//! The real programs around a bad link: origin → `mahp-sender` → link that loses packets → `mahp-receiver`.
//!
//! No root and no namespaces: the sender sends from 127.0.0.1 and announces 127.0.0.2, and the link (of the testbed) stands
//! between the two. Everything runs on free ports; everything is ended when the rig is dropped.

use crate::client::{self, Comparison, Piece};
use crate::origin::Origin;
use crate::process::{Process, eventually};
use crate::tools;
use anyhow::{Context, bail, ensure};
use mahp_common::WallTime;
use mahp_common::catalog::{SessionDescription, WELL_KNOWN_PATH};
use mahp_testbed::link::{Impairment, Link, Percent, endpoints};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;

/// Packets lost in the main runs: 5 %.
pub const LOSS: f64 = 0.05;
/// How long a program may take to do what a test waits for. Generous: build machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the two programs are, and how packets get from one to the other.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address of the sender: where it sends from and serves its description.
    pub sender: &'static str,
    /// Interface that it sends on.
    pub sender_interface: &'static str,
    /// Source to announce. The lossy link then stands between it and [`Place::sender`].
    pub announce: Option<&'static str>,
    /// Address of the receiver: where it serves players.
    pub receiver: &'static str,
    /// Interface that it joins on.
    pub receiver_interface: &'static str,
    /// Process whose network namespace the receiver lives in, if not in ours.
    pub namespace: Option<u32>,
}

impl Place {
    /// Both on loopback with nothing between them.
    pub const DIRECT: Place = Place { announce: None, ..Place::LOOPBACK };

    /// Both on loopback with the lossy link between them.
    pub const LOOPBACK: Place = Place {
        sender: "127.0.0.1",
        sender_interface: "lo",
        announce: Some("127.0.0.2"),
        receiver: "127.0.0.1",
        receiver_interface: "lo",
        namespace: None,
    };

    fn http(host: &str) -> anyhow::Result<String> {
        let host: IpAddr = host.parse()?;
        // Where the address is not ours (of another namespace), any free port will do.
        let port = match TcpListener::bind((host, 0)) {
            Ok(listener) => listener.local_addr()?.port(),
            Err(_) => free_tcp()?,
        };
        Ok(SocketAddr::new(host, port).to_string())
    }

    fn receiver_command(&self, program: &Path) -> Command {
        let Some(process) = self.namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{process}/ns/net")).arg(program);
        command
    }
}

/// How a receiver learns of its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Description {
    /// From the sender's web server.
    Http,
    /// From the announcement group.
    InBand,
}

/// How the pair is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where it is.
    pub place: Place,
    /// How the receiver learns of channels.
    pub description: Description,
    /// Share of packets that the link loses: 0 to 1.
    pub loss: f64,
    /// More options of the sender.
    pub sender: &'static [&'static str],
    /// The sender's configuration file, when it names the channels instead of the command line.
    pub config: Option<PathBuf>,
    /// Channels whose origin does not answer at the start.
    pub missing: usize,
    /// More options of the receiver.
    pub receiver: &'static [&'static str],
}

impl Setup {
    /// A VOD that repeats, heard from the start by a receiver that is always joined.
    pub const CAROUSEL: Setup = Setup { sender: &["--loop", "--vod-rate", "12 Mbit/s"], ..Setup::LIVE };
    /// A live channel with a receiver that is always joined.
    pub const LIVE: Setup = Setup {
        place: Place::LOOPBACK,
        description: Description::Http,
        loss: LOSS,
        sender: &[],
        config: None,
        missing: 0,
        receiver: &["--join", "always"],
    };
}

/// A running pair.
pub struct Rig {
    /// The first receiver.
    pub receiver: Receiver,
    sender: Process,
    /// Program and arguments.
    sender_command: Vec<OsString>,
    sender_admin: String,
    link: Option<Lossy>,
    session: String,
    channels: Vec<Served>,
    place: Place,
    dir: PathBuf,
}

/// A channel as receivers serve it: its name, and the file name of its manifest.
#[derive(Clone, Debug)]
struct Served {
    name: String,
    manifest: String,
}

/// The link with the runtime that drives it.
struct Lossy {
    link: Link,
    _runtime: Runtime,
}

/// A running receiver.
pub struct Receiver {
    process: Process,
    channels: Vec<Served>,
    listen: String,
    admin: String,
}

impl Rig {
    /// Starts sender, link and receiver for a manifest of the origin, and waits until the receiver knows the channel.
    ///
    /// # Errors
    /// Says which program did not come up, with its last lines.
    pub fn start(name: &str, origin: &Origin, path: &str, setup: &Setup) -> anyhow::Result<Rig> {
        Rig::start_all(name, &[origin.url(path)], setup)
    }

    /// The same for several channels in one pair: URLs of their manifests.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start_all(name: &str, manifests: &[String], setup: &Setup) -> anyhow::Result<Rig> {
        let dir = fresh_dir(name)?;
        let place = &setup.place;
        let (http, admin) = (Place::http(place.sender)?, Place::http("127.0.0.1")?);
        let mut command = Command::new(program("mahp-sender")?);
        match &setup.config {
            Some(file) => command.arg("--config").arg(file),
            None => command.args(manifests),
        };
        command
            .args(["--source", place.sender, "--interface", place.sender_interface])
            .args(["--http", &http, "--admin", &admin, "--port-base", &free_udp()?.to_string()])
            .arg("--key-file")
            .arg(dir.join("sender.key"))
            .args(setup.sender);
        command.args(place.announce.iter().flat_map(|source| ["--announce-source", source]));
        let mut sender = Process::start("sender", &dir, &mut command)?;
        let url = format!("http://{http}{WELL_KNOWN_PATH}");
        let description = description(&url, &mut sender, manifests.len() - setup.missing)?;
        let link = place.announce.map(|_| Lossy::start(&description, setup.loss)).transpose()?;
        let channels: Vec<Served> =
            manifests.iter().filter_map(|url| Served::find(&description, url)).collect();
        ensure!(channels.len() == manifests.len() - setup.missing, "the sender offers other channels");
        let session = match setup.description {
            Description::Http => url,
            Description::InBand => in_band(&description)?,
        };
        let receiver = Receiver::start("receiver", &dir, place, &session, &channels, setup.receiver)
            .with_context(|| sender.tail())?;
        let sender_command =
            std::iter::once(command.get_program()).chain(command.get_args()).map(OsString::from).collect();
        let place = place.clone();
        Ok(Rig { receiver, sender, sender_command, sender_admin: admin, link, session, channels, place, dir })
    }

    /// One more receiver of the same sender.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn another_receiver(&self, name: &str, options: &[&str]) -> anyhow::Result<Receiver> {
        Receiver::start(name, &self.dir, &self.place, &self.session, &self.channels, options)
    }

    /// Waits until the carousel has sent everything once more from now, in every rendition: until two turns have ended.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub fn one_round(&self) -> anyhow::Result<()> {
        let turns = || status(&self.sender_admin).ok().map(|status| turns(&status));
        let before = eventually("the sender's status", PATIENCE, turns)?;
        eventually("a round of the carousel", Duration::from_secs(120), || {
            let now = turns()?;
            let whole = |(key, turns): (&String, &u64)| *turns >= before.get(key).unwrap_or(&0) + 2;
            now.iter().all(whole).then_some(())
        })
        .with_context(|| self.sender.tail())
    }

    /// From now on another share of packets is lost.
    pub fn lose(&self, share: f64) {
        if let Some(link) = &self.link {
            link.link.set(&impairment(share));
        }
    }

    /// Share of packets that the link has lost so far.
    pub fn lost(&self) -> f64 {
        self.link.as_ref().map_or(0.0, |link| link.link.total().loss().fraction())
    }

    /// Packets that the link has seen.
    pub fn packets(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.link.total().offered)
    }

    /// Ends the sender.
    pub fn stop_sender(&mut self) {
        self.sender.stop();
    }

    /// Ends the sender without a word, as a crash.
    pub fn kill_sender(&mut self) {
        self.sender.kill();
    }

    /// Starts the sender again, with the same options and the same key.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_sender(&mut self) -> anyhow::Result<()> {
        let (program, arguments) = self.sender_command.split_first().context("no sender")?;
        self.sender = Process::start("sender-again", &self.dir, Command::new(program).args(arguments))?;
        Ok(())
    }

    /// URL of the sender's MoQ publisher.
    ///
    /// # Errors
    /// When there is none.
    pub fn publisher(&self) -> anyhow::Result<String> {
        let answer = client::get(&self.session, &[])?;
        let description: Value = serde_json::from_slice(&answer.body)?;
        let url = description.pointer("/channels/0/moq_url").and_then(Value::as_str);
        Ok(url.context("the sender does not publish over MoQ")?.to_owned())
    }

    /// The last lines of both programs: for reports of failures.
    pub fn tails(&self) -> String {
        format!("{}{}", self.sender.tail(), self.receiver.process.tail())
    }

    /// Compares everything below the manifest's folder with the origin.
    pub fn compare(&self, origin: &Origin, folder: &str, pieces: &[Piece]) -> Comparison {
        client::compare(&self.receiver.url(""), &origin.url(&format!("{folder}/")), pieces)
    }
}

impl Lossy {
    fn start(description: &SessionDescription, loss: f64) -> anyhow::Result<Lossy> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let inside = runtime.enter();
        let link = Link::start(endpoints(description), Ipv4Addr::LOCALHOST, &impairment(loss))?;
        drop(inside);
        Ok(Lossy { link, _runtime: runtime })
    }
}

fn impairment(loss: f64) -> Impairment {
    Impairment { loss: Percent::from_fraction(loss), seed: 1, ..Impairment::default() }
}

impl Receiver {
    /// A receiver of a sender that is not one of ours, on loopback; `session` as on the command line.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn alone(name: &str, session: &str, options: &[&str]) -> anyhow::Result<Receiver> {
        let dir = fresh_dir(name)?;
        Receiver::start(name, &dir, &Place::DIRECT, session, &[], options)
    }

    fn start(
        name: &str,
        dir: &Path,
        place: &Place,
        session: &str,
        channels: &[Served],
        options: &[&str],
    ) -> anyhow::Result<Receiver> {
        let (listen, admin) = (Place::http(place.receiver)?, Place::http("127.0.0.1")?);
        let mut command = place.receiver_command(&program("mahp-receiver")?);
        command.arg(session).args(["--listen", &listen, "--admin", &admin]);
        command.args(["--interface", place.receiver_interface]);
        command.arg("--state-dir").arg(dir.join(format!("{name}-state"))).args(options);
        let mut process = Process::start(name, dir, &mut command)?;
        let known = || {
            let gone = process.ended().is_some();
            let status = status(if place.namespace.is_some() { &listen } else { &admin }).ok();
            let known = |s: &Value| s.pointer("/channels").and_then(Value::as_array).map_or(0, Vec::len);
            let here = status.filter(|s| known(s) >= channels.len());
            here.map(|_| true).or(gone.then_some(false))
        };
        let up =
            eventually("the receiver knows the channel", PATIENCE, known).with_context(|| process.tail())?;
        ensure!(up, "the receiver ended\n{}", process.tail());
        // The admin server is on loopback: another namespace has one of its own. The page's server tells the same.
        let admin = if place.namespace.is_some() { listen.clone() } else { admin };
        Ok(Receiver { process, channels: channels.to_vec(), listen, admin })
    }

    fn channel_url(&self, channel: &Served, path: &str) -> String {
        format!("http://{}/live/{}/{path}", self.listen, channel.name)
    }

    /// URL of a path below the folder of the first channel's manifest.
    pub fn url(&self, path: &str) -> String {
        self.channel_url(&self.channels[0], path)
    }

    /// URL of the first channel's manifest.
    pub fn manifest(&self) -> String {
        self.url(&self.channels[0].manifest)
    }

    /// URLs of all channels' manifests, in the order in which the rig was asked for them.
    pub fn manifests(&self) -> Vec<String> {
        self.channels.iter().map(|channel| self.channel_url(channel, &channel.manifest)).collect()
    }

    /// Names of all channels, in the same order.
    pub fn names(&self) -> Vec<&str> {
        self.channels.iter().map(|channel| channel.name.as_str()).collect()
    }

    /// URL of the page.
    pub fn page(&self) -> String {
        format!("http://{}/", self.listen)
    }

    /// What `/api/status` tells.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<Value> {
        status(&self.admin)
    }

    /// A counter of its `/metrics`, with its labels as they are written there; 0 while there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let answer = client::get(&format!("http://{}/metrics", self.admin), &[]).ok();
        let text = answer.map(|a| String::from_utf8_lossy(&a.body).into_owned()).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// Objects that were received by multicast, repaired ones included, of each channel.
    pub fn objects_by_channel(&self) -> Vec<u64> {
        let Ok(status) = self.status() else { return Vec::new() };
        let channels = status.get("channels").and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |channel: &Value, key: &str| {
            channel.pointer(&format!("/objects/{key}")).and_then(Value::as_u64).unwrap_or(0)
        };
        channels.iter().map(|channel| of(channel, "multicast") + of(channel, "repaired")).collect()
    }

    /// Objects that were received by multicast, repaired ones included.
    pub fn objects(&self) -> u64 {
        self.objects_by_channel().iter().sum()
    }

    /// Its last lines.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// Where it serves others over MoQ, with `--moq-listen`.
    pub fn moq_url(&self) -> Option<String> {
        let output = self.process.output();
        output.lines().find_map(|line| line.strip_prefix("MoQ for others: ")).map(str::to_owned)
    }
}

/// Complete turns of each rendition of a sender's status, but those that carry manifests only.
fn turns(status: &Value) -> BTreeMap<String, u64> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let mut found = BTreeMap::new();
    for channel in list(status.get("channels")) {
        for rendition in list(channel.get("renditions")).iter().filter(|r| r["role"] != "manifest") {
            let turns = rendition.get("turns").and_then(Value::as_u64).unwrap_or(0);
            found.insert(format!("{}/{}", channel["name"], rendition["id"]), turns);
        }
    }
    found
}

fn status(admin: &str) -> anyhow::Result<Value> {
    let answer = client::get(&format!("http://{admin}/api/status"), &[])?;
    ensure!(answer.status == 200, "/api/status: {}", answer.status);
    Ok(serde_json::from_slice(&answer.body)?)
}

impl Served {
    /// The channel whose manifest has this URL; none, when its origin does not answer yet.
    fn find(description: &SessionDescription, manifest: &str) -> Option<Served> {
        let channel = description.channels.iter().find(|channel| channel.manifest_url == manifest)?;
        let file = manifest.split('?').next()?.rsplit('/').next()?;
        Some(Served { name: channel.name.clone(), manifest: file.to_owned() })
    }
}

/// The folder of a rig's logs and state, empty.
fn fresh_dir(name: &str) -> anyhow::Result<PathBuf> {
    let dir = tools::work_dir().join("rigs").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// `SOURCE@GROUP:PORT` of the announcement group.
fn in_band(description: &SessionDescription) -> anyhow::Result<String> {
    let endpoint = description.announcement.context("nothing is announced in band")?;
    let target = SocketAddr::new(endpoint.group, endpoint.port);
    Ok(endpoint.source.map_or(target.to_string(), |source| format!("{source}@{target}")))
}

/// The sender's verified session description, as soon as it has that many channels.
fn description(url: &str, sender: &mut Process, channels: usize) -> anyhow::Result<SessionDescription> {
    let found = eventually("the sender publishes its channels", PATIENCE, || {
        let gone = sender.ended().is_some();
        let published = read_description(url).ok().filter(|found| found.channels.len() >= channels);
        published.map(Some).or(gone.then_some(None))
    });
    match found.with_context(|| sender.tail())? {
        Some(found) => Ok(found),
        None => bail!("the sender ended\n{}", sender.tail()),
    }
}

fn read_description(url: &str) -> anyhow::Result<SessionDescription> {
    let answer = client::get(url, &[])?;
    ensure!(answer.status == 200, "{url}: {}", answer.status);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = WallTime::from_unix_millis(u64::try_from(now.as_millis())?);
    Ok(SessionDescription::open(&answer.body, None, now)?.0)
}

/// A free TCP port. Another program could take it before ours does; then the test says so.
fn free_tcp() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A free UDP port, even, so that the next one is likely to be free for the repair flow.
fn free_udp() -> anyhow::Result<u16> {
    loop {
        let port = UdpSocket::bind("0.0.0.0:0")?.local_addr()?.port();
        if port % 2 == 0 {
            return Ok(port);
        }
    }
}

/// Path of a program of the workspace, built with the sources as they are now.
///
/// # Errors
/// When it does not build.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let dir = tools::profile_dir();
    BUILT
        .get_or_init(|| build(&dir).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)?;
    let path = dir.join(name);
    ensure!(path.is_file(), "{} is missing: cargo build --workspace --bins", path.display());
    Ok(path)
}

/// `cargo build` of all programs, unless `tests/run` has just done it. A test of one package alone does not build those of
/// others, and an old one would be tested.
fn build(profile_dir: &Path) -> anyhow::Result<()> {
    if std::env::var_os("MAHP_PROGRAMS_BUILT").is_some() {
        return Ok(());
    }
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let lock = File::create(tools::work_dir().join("build.lock"))?;
    lock.lock()?;
    let target = profile_dir.parent().context("the build folder has a parent")?;
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--workspace", "--bins", "--target-dir"])
        .arg(target);
    match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    let output = command.output().context("running cargo")?;
    ensure!(output.status.success(), "building the programs: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
