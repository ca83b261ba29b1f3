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
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;
use url::Url;

/// Packets lost in the main runs: 5 %.
pub const LOSS: f64 = 0.05;
/// How long a program may take to do what a test waits for. Generous: build machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the pair is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Share of packets that the link loses: 0 to 1.
    pub loss: f64,
    /// More options of the sender.
    pub sender: &'static [&'static str],
    /// More options of the receiver.
    pub receiver: &'static [&'static str],
}

impl Setup {
    /// A VOD that repeats, heard from the start by a receiver that is always joined.
    pub const CAROUSEL: Setup =
        Setup { loss: LOSS, sender: &["--loop", "--vod-rate", "12 Mbit/s"], receiver: &["--join", "always"] };
    /// A live channel with a receiver that is always joined.
    pub const LIVE: Setup = Setup { loss: LOSS, sender: &[], receiver: &["--join", "always"] };
}

/// A running pair.
pub struct Rig {
    /// The first receiver.
    pub receiver: Receiver,
    sender: Process,
    sender_admin: String,
    link: Lossy,
    session: String,
    channel: String,
    manifest: Url,
    dir: PathBuf,
}

/// The link with the runtime that drives it.
struct Lossy {
    link: Link,
    _runtime: Runtime,
}

/// A running receiver.
pub struct Receiver {
    process: Process,
    channel: String,
    manifest: String,
    listen: String,
    admin: String,
}

impl Rig {
    /// Starts sender, link and receiver for a manifest of the origin, and waits until the receiver knows the channel.
    ///
    /// # Errors
    /// Says which program did not come up, with its last lines.
    pub fn start(name: &str, origin: &Origin, path: &str, setup: &Setup) -> anyhow::Result<Rig> {
        let dir = tools::work_dir().join("rigs").join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        let manifest = Url::parse(&origin.url(path))?;
        let (http, admin) = (free_tcp()?, free_tcp()?);
        let mut command = Command::new(program("mahp-sender")?);
        command
            .arg(manifest.as_str())
            .args(["--source", "127.0.0.1", "--announce-source", "127.0.0.2", "--interface", "lo"])
            .args(["--http", &http, "--admin", &admin, "--port-base", &free_udp()?.to_string()])
            .arg("--key-file")
            .arg(dir.join("sender.key"))
            .args(setup.sender);
        let mut sender = Process::start("sender", &dir, &mut command)?;
        let session = format!("http://{http}{WELL_KNOWN_PATH}");
        let description = description(&session, &mut sender)?;
        let link = Lossy::start(&description, setup.loss)?;
        let channel = description.channels.first().context("the sender offers no channel")?.name.clone();
        let receiver = Receiver::start("receiver", &dir, &session, &channel, &manifest, setup.receiver)
            .with_context(|| sender.tail())?;
        Ok(Rig { receiver, sender, sender_admin: admin, link, session, channel, manifest, dir })
    }

    /// One more receiver of the same sender.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn another_receiver(&self, name: &str, options: &[&str]) -> anyhow::Result<Receiver> {
        Receiver::start(name, &self.dir, &self.session, &self.channel, &self.manifest, options)
    }

    /// Waits until the carousel has sent everything once more from now. `content` is the folder sent. Renditions go round at
    /// their own pace: two and a half times the bytes are once round for the slowest.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub fn one_round(&self, content: &Path) -> anyhow::Result<()> {
        let round = size_of(content)?;
        let sent = || status(&self.sender_admin).ok().map(|status| sum(&status, "/bytes/source"));
        let before = eventually("the sender's status", PATIENCE, sent)?;
        eventually("a round of the carousel", Duration::from_secs(120), || {
            sent().filter(|sent| *sent > before + 2 * round + round / 2)
        })
        .with_context(|| self.sender.tail())?;
        Ok(())
    }

    /// From now on another share of packets is lost.
    pub fn lose(&self, share: f64) {
        self.link.link.set(&impairment(share));
    }

    /// Share of packets that the link has lost so far.
    pub fn lost(&self) -> f64 {
        self.link.link.total().loss().fraction()
    }

    /// Packets that the link has seen.
    pub fn packets(&self) -> u64 {
        self.link.link.total().offered
    }

    /// Ends the sender.
    pub fn stop_sender(&mut self) {
        self.sender.stop();
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
    fn start(
        name: &str,
        dir: &Path,
        session: &str,
        channel: &str,
        manifest: &Url,
        options: &[&str],
    ) -> anyhow::Result<Receiver> {
        let (listen, admin) = (free_tcp()?, free_tcp()?);
        let mut command = Command::new(program("mahp-receiver")?);
        command.arg(session).args(["--listen", &listen, "--admin", &admin, "--interface", "lo"]);
        command.arg("--state-dir").arg(dir.join(format!("{name}-state"))).args(options);
        let mut process = Process::start(name, dir, &mut command)?;
        let known = || {
            let gone = process.ended().is_some();
            let status = status(&admin).ok();
            let here = status
                .filter(|s| s.pointer("/channels").and_then(Value::as_array).is_some_and(|c| !c.is_empty()));
            here.map(|_| true).or(gone.then_some(false))
        };
        let up =
            eventually("the receiver knows the channel", PATIENCE, known).with_context(|| process.tail())?;
        ensure!(up, "the receiver ended\n{}", process.tail());
        let manifest = manifest.path_segments().and_then(Iterator::last).unwrap_or_default().to_owned();
        Ok(Receiver { process, channel: channel.to_owned(), manifest, listen, admin })
    }

    /// URL of a path below the folder of the channel's manifest.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/live/{}/{path}", self.listen, self.channel)
    }

    /// URL of the manifest.
    pub fn manifest(&self) -> String {
        self.url(&self.manifest)
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

    /// Objects of the channel that were received by multicast, repaired ones included.
    pub fn objects(&self) -> u64 {
        self.status().map_or(0, |status| {
            let of = |key: &str| {
                status.pointer(&format!("/channels/0/objects/{key}")).and_then(Value::as_u64).unwrap_or(0)
            };
            of("multicast") + of("repaired")
        })
    }

    /// Its last lines.
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}

/// Bytes of the files below a folder.
fn size_of(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size_of(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// Sums a number over all renditions of all channels of a sender's status.
fn sum(status: &Value, pointer: &str) -> u64 {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    list(status.get("channels"))
        .iter()
        .flat_map(|channel| list(channel.get("renditions")))
        .filter_map(|rendition| rendition.pointer(pointer).and_then(Value::as_u64))
        .sum()
}

fn status(admin: &str) -> anyhow::Result<Value> {
    let answer = client::get(&format!("http://{admin}/api/status"), &[])?;
    ensure!(answer.status == 200, "/api/status: {}", answer.status);
    Ok(serde_json::from_slice(&answer.body)?)
}

/// The sender's verified session description, as soon as it publishes one.
fn description(url: &str, sender: &mut Process) -> anyhow::Result<SessionDescription> {
    let answer = eventually("the sender publishes its description", PATIENCE, || {
        let gone = sender.ended().is_some();
        client::get(url, &[]).ok().filter(|answer| answer.status == 200).map(Some).or(gone.then_some(None))
    });
    let Some(answer) = answer.with_context(|| sender.tail())? else {
        bail!("the sender ended\n{}", sender.tail());
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = WallTime::from_unix_millis(u64::try_from(now.as_millis())?);
    Ok(SessionDescription::open(&answer.body, None, now)?.0)
}

/// A free `127.0.0.1:PORT`. Another program could take it before ours does; then the test says so.
fn free_tcp() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
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

/// `cargo build` of all programs. A test of one package alone does not build those of others, and an old one would be tested.
fn build(profile_dir: &Path) -> anyhow::Result<()> {
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
