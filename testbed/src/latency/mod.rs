//! `mahp-testbed latency`: glass to glass. A low-latency channel whose pictures show the clock goes from an encoder and origin in
//! this process through the sender, a bad link and the receiver to hls.js or dash.js in Chromium, which reads the clock again. With
//! `--client parts` there are no pictures: the time from the sender to a client that asks for each part is measured.
//!
//! Needs ffmpeg, and for pictures Chromium, node and the npm modules of `tests/players` (`tests/install`). One machine, and so
//! one clock. With `--rtt`, sender and receiver are in network namespaces, and all that is between them takes its time.

mod client;
pub mod encoder;
pub mod figures;
pub mod origin;
pub mod picture;
mod plot;

use crate::emu::{Direction, Impairment, LossModel, TrafficClass};
use crate::link::Percent;
use crate::net::ns::Namespace;
use crate::net::{Host, Lan};
use crate::process::{Child, Launch};
use crate::run::agent::Agent;
use anyhow::{Context, bail, ensure};
use clap::Args;
use encoder::Spec;
use figures::{Figures, Seen};
use mahp_common::catalog::SessionDescription;
use mahp_receiver::snapshot::Snapshot;
use mahp_runtime::clock::Clock;
use mahp_runtime::config::Span;
use origin::Origin;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// A start takes a second or two; a loaded machine more.
const START: Duration = Duration::from_secs(60);
/// Complete segments at the origin before anything else begins.
const SEGMENTS: usize = 3;
/// Hosts.
const SENDER: &str = "sender";
const RECEIVER: &str = "receiver-1";
/// What multicast takes where there are no namespaces.
const LOOPBACK_DELAY: Duration = Duration::from_millis(5);

/// Who asks the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    /// hls.js or dash.js in Chromium, which shows pictures.
    Browser,
    /// One that loads each part of LL-HLS as soon as it is hinted at, and compares it with the origin's.
    Parts,
}

/// How the channel is made, and by what it is played in Chromium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// LL-HLS, hls.js.
    Hls,
    /// Low-latency DASH, dash.js.
    Dash,
}

impl Format {
    const fn manifest(self) -> &'static str {
        match self {
            Format::Hls => "master.m3u8",
            Format::Dash => "manifest.mpd",
        }
    }

    const fn player(self) -> &'static str {
        match self {
            Format::Hls => "hls.js",
            Format::Dash => "dash.js",
        }
    }
}

/// Options of the measurement.
#[derive(Args, Clone, Debug)]
pub struct LatencyArgs {
    /// Packets to drop between sender and receiver: a run for each
    #[arg(long, value_name = "SHARE", value_delimiter = ',', default_value = "0%,2%,5%,10%")]
    pub loss: Vec<Percent>,
    /// Mean number of packets dropped in a row
    #[arg(long, value_name = "PACKETS", default_value_t = 1.0)]
    pub burst: f64,
    /// Round-trip time between sender and receiver, in network namespaces: runs for each [default: on the loopback interface]
    #[arg(long, value_name = "TIME", value_delimiter = ',')]
    pub rtt: Vec<Span>,
    /// How the channel is made
    #[arg(long, value_name = "FORMAT", default_value = "hls")]
    pub format: Format,
    /// Who asks the receiver
    #[arg(long, value_name = "CLIENT", default_value = "browser")]
    pub client: Client,
    /// How long each run is measured
    #[arg(long = "for", value_name = "TIME", default_value = "60s")]
    pub run_for: Span,
    /// What is left out at the beginning of each
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub settle: Span,
    /// Duration of a part
    #[arg(long, value_name = "TIME", default_value = "500ms")]
    pub part: Span,
    /// Bit rate of the channel
    #[arg(long, value_name = "RATE", default_value = "5 Mbit/s")]
    pub rate: mahp_runtime::config::BitRate,
    /// PART-HOLD-BACK of the origin: how far from the live edge players keep [default: twice --part]
    #[arg(long, value_name = "TIME")]
    pub hold_back: Option<Span>,
    /// Repair symbols per hundred source symbols
    #[arg(long, value_name = "PERCENT", default_value_t = 10)]
    pub repair: u32,
    /// Most that the sender makes of it when receivers report losses [default: the sender's]
    #[arg(long, value_name = "PERCENT")]
    pub repair_ceiling: Option<u32>,
    /// By which way the receiver gets symbols that it lacks: http, moq or auto
    #[arg(long, value_name = "WAY", default_value = "moq")]
    pub recovery: String,
    /// Seed of the link
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Folder with latency.mjs and its npm modules
    #[arg(long, value_name = "FOLDER", default_value = "tests/players")]
    pub players: PathBuf,
    /// Folder for the result
    #[arg(long, value_name = "FOLDER", default_value = "testbed-results/latency")]
    pub out: PathBuf,
    /// Print what sender and receiver say
    #[arg(long)]
    pub verbose: bool,
}

impl LatencyArgs {
    fn spec(&self) -> anyhow::Result<Spec> {
        let frames = self.part.0.as_secs_f64() * f64::from(picture::RATE);
        ensure!(
            (1.0..=f64::from(picture::RATE) * 4.0).contains(&frames),
            "--part must be between a frame (1/{} s) and 4 s",
            picture::RATE
        );
        let part_frames = frames.round() as u32; // in range, see above
        let segment_parts = (picture::RATE * 2).div_ceil(part_frames);
        Ok(Spec { part_frames, segment_parts, bitrate_bps: self.rate.0 })
    }

    fn hold_back(&self) -> Duration {
        self.hold_back.map_or(self.part.0 * 2, |span| span.0)
    }
}

/// Runs all measurements, one after the other. Exit status 1 when a player stood still, saw nothing, or got other bytes.
pub async fn run(args: LatencyArgs) -> anyhow::Result<ExitCode> {
    ensure!(
        args.client == Client::Browser || args.format == Format::Hls,
        "--client parts is for --format hls: dash.js plays --format dash"
    );
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let rtts: Vec<Option<Duration>> = match args.rtt.is_empty() {
        true => vec![None],
        false => args.rtt.iter().map(|span| Some(span.0)).collect(),
    };
    let mut runs = Vec::new();
    for (loss, rtt) in args.loss.iter().flat_map(|loss| rtts.iter().map(move |rtt| (*loss, *rtt))) {
        let figures = measure(&args, loss, rtt).await.with_context(|| format!("at {loss} loss"))?;
        eprintln!("{}", figures.line());
        runs.push(figures);
    }
    let table = match args.client {
        Client::Browser => figures::table(&runs),
        Client::Parts => figures::table_of_parts(&runs),
    };
    print!("{table}");
    let mut files = vec![("latency.md", table), ("latency.json", serde_json::to_string_pretty(&runs)?)];
    if args.client == Client::Browser {
        files.push(("latency.svg", plot::svg(&runs)));
    }
    for (name, text) in files {
        std::fs::write(args.out.join(name), text)?;
    }
    let good = |r: &Figures| match args.client {
        Client::Browser => r.latency.count > 0 && r.stalls.0 == 0,
        Client::Parts => r.stages.iter().any(|stage| stage.count > 0) && r.wrong == 0,
    };
    Ok(if runs.iter().all(good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run. `rtt`: in network namespaces, with this round-trip time; the process must be in one of its own.
///
/// # Errors
/// What is not installed; a program that ended.
pub async fn measure(args: &LatencyArgs, loss: Percent, rtt: Option<Duration>) -> anyhow::Result<Figures> {
    let rtt_ms = rtt.map(|rtt| u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX));
    let name = rtt_ms.map_or(String::new(), |ms| format!("-rtt-{ms}"));
    let folder = std::path::absolute(args.out.join(format!("loss-{}{name}", loss.fraction() * 100.0)))?;
    std::fs::create_dir_all(&folder)?;
    let mut pair = Pair::start(args, loss, rtt, &folder).await?;
    let (agent, status) = (pair.agent.clone(), pair.status()?);
    let before = async {
        tokio::time::sleep(args.settle.0).await;
        snapshot(&agent, &status).await
    };
    let (played, before) = tokio::select! {
        done = async { tokio::join!(watch(args, &pair.lan, &folder), before) } => done,
        error = broken(&mut pair.sender, &mut pair.receiver) => return Err(error),
    };
    let after = snapshot(&agent, &status).await;
    let log = pair.origin.log();
    let last_words = format!("{}{}", pair.sender.last_words(), pair.receiver.last_words());
    pair.stop().await;
    let path = figures::Path { loss: loss.fraction(), rtt_ms, seed: args.seed };
    let mut figures = Figures::of(path, &played.context(last_words)?, &log);
    let (before, after) = (before?.totals, after?.totals);
    figures.object_bytes = figures::since(&before.object_bytes, &after.object_bytes);
    figures.fetched_bytes = figures::since(&before.origin, &after.origin);
    Ok(figures)
}

/// Plays behind the receiver.
async fn watch(args: &LatencyArgs, lan: &Lan, folder: &Path) -> anyhow::Result<Seen> {
    let receiver = lan.host(RECEIVER).context("no receiver")?;
    let live = format!("http://{}:{}/live/ll", Ipv4Addr::LOCALHOST, receiver.ports[0]);
    match args.client {
        Client::Browser => show(args, &format!("{live}/{}", args.format.manifest()), receiver, folder).await,
        Client::Parts => {
            let follow =
                client::follow(Url::parse(&format!("{live}/media.m3u8"))?, args.settle.0, args.run_for.0);
            in_namespace(receiver, follow).await
        }
    }
}

/// Runs `work` on a thread in a host's namespace.
async fn in_namespace<T: Send + 'static>(
    host: &Host,
    work: impl Future<Output = T> + Send + 'static,
) -> anyhow::Result<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let run = move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            let _ = tell.send(runtime.block_on(work));
        }
    };
    match host.namespace() {
        Some(namespace) => namespace.spawn("client", run)?,
        None => std::thread::Builder::new().name("client".into()).spawn(run)?,
    };
    told.await.context("the client broke off")
}

/// Plays in Chromium.
async fn show(args: &LatencyArgs, manifest: &str, host: &Host, folder: &Path) -> anyhow::Result<Seen> {
    let script = std::path::absolute(args.players.join("latency.mjs"))?;
    ensure!(script.is_file(), "{} is not there: --players names its folder", script.display());
    let chromium = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| which(name));
    let (seconds, settle) = (args.run_for.0.as_secs_f64(), args.settle.0.as_secs_f64());
    let job = serde_json::json!({
        "chromium": chromium.context("Chromium is not installed")?, "url": manifest,
        "player": args.format.player(), "delay": args.hold_back().as_secs_f64(),
        "seconds": seconds, "settle": settle, "config": { "backBufferLength": 10 },
    });
    let (job_file, result) = (folder.join("job.json"), folder.join("seen.json"));
    std::fs::write(&job_file, serde_json::to_vec(&job)?)?;
    let _ = std::fs::remove_file(&result);
    let mut node = Child::start(&Launch {
        name: "browser".into(),
        program: Some(which("node").context("node is not installed")?),
        args: vec![script.into(), job_file.into(), result.clone().into()],
        namespace: host.namespace().map(Namespace::fd),
        log: None,
        verbose: args.verbose,
    })?;
    let most = args.run_for.0 + args.settle.0 + Duration::from_secs(120);
    let done = tokio::time::timeout(most, node.finish()).await;
    if done != Ok(true) {
        let said = node.last_words();
        node.kill().await;
        bail!("the browser failed:\n{said}");
    }
    Ok(serde_json::from_slice(&std::fs::read(&result)?)?)
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Origin, sender, network and receiver.
struct Pair {
    origin: Origin,
    sender: Child,
    receiver: Child,
    agent: Agent,
    lan: Lan,
}

impl Pair {
    async fn start(
        args: &LatencyArgs,
        loss: Percent,
        rtt: Option<Duration>,
        folder: &Path,
    ) -> anyhow::Result<Pair> {
        let hosts = [SENDER.to_owned(), RECEIVER.to_owned()];
        let lan = match rtt {
            Some(_) => Lan::new(&hosts, args.seed)?,
            None => Lan::loopback(&hosts, args.seed)?,
        };
        impair(&lan, args, loss, rtt)?;
        let (there, here) =
            (lan.host(SENDER).context("no sender")?, lan.host(RECEIVER).context("no receiver")?);
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = there.namespace().map_or_else(|| Ok(bind()), |n| n.run(bind))??;
        let origin = Origin::start(args.spec()?, args.hold_back(), listener).await?;
        tokio::time::timeout(START, origin.ready(SEGMENTS)).await.context("ffmpeg made no segments")?;
        let child = |host: &Host, name: &str, own: Vec<OsString>| {
            let log = Some(folder.join(format!("{name}.log")));
            let namespace = host.namespace().map(Namespace::fd);
            Child::start(&Launch { verbose: args.verbose, log, namespace, ..Launch::own(name, own) })
        };
        let mut sender = child(there, "sender", sender_args(args, &origin, &lan, there, folder))?;
        let session = sender.says("receive: mahp-receiver ", START).await?;
        let served = Agent::start(there.namespace())?.get(&session).await;
        let description = served.context("the sender does not serve its description")?;
        let (description, _) = SessionDescription::open(&description, None, Clock::new().wall())?;
        lan.carry(&description)?;
        let receiver = child(here, "receiver", receiver_args(args, &session, here, folder))?;
        let agent = Agent::start(here.namespace())?;
        let mut pair = Pair { origin, sender, receiver, agent, lan };
        pair.ready().await?;
        Ok(pair)
    }

    /// Waits until the receiver knows the channel. (What nobody watches is not repaired: at high loss nothing is complete yet.)
    async fn ready(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + START;
        loop {
            if snapshot(&self.agent, &self.status()?).await.is_ok_and(|s| !s.channels.is_empty()) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the receiver knew no channel within {START:?}");
            tokio::select! {
                error = broken(&mut self.sender, &mut self.receiver) => return Err(error),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    /// Where the receiver tells about itself, in its namespace.
    fn status(&self) -> anyhow::Result<String> {
        let [_, admin] = self.lan.host(RECEIVER).context("no receiver")?.ports;
        Ok(format!("http://{}:{admin}/api/status", Ipv4Addr::LOCALHOST))
    }

    async fn stop(self) {
        self.receiver.stop().await;
        self.sender.stop().await;
    }
}

async fn snapshot(agent: &Agent, status: &str) -> anyhow::Result<Snapshot> {
    let status = agent.get(status).await.context("the receiver tells no status")?;
    Ok(serde_json::from_slice(&status)?)
}

async fn broken(sender: &mut Child, receiver: &mut Child) -> anyhow::Error {
    tokio::select! {
        error = sender.ended() => error,
        error = receiver.ended() => error,
    }
}

/// What is between sender and receiver: multicast loses packets, and everything takes half of the round-trip time each way.
fn impair(lan: &Lan, args: &LatencyArgs, loss: Percent, rtt: Option<Duration>) -> anyhow::Result<()> {
    let receiver = lan.host(RECEIVER).context("no receiver")?;
    let delay = rtt.map_or(LOOPBACK_DELAY, |rtt| rtt / 2);
    let loss = match loss.fraction() {
        share if share <= 0.0 => LossModel::None,
        _ if args.burst > 1.0 => LossModel::Bursts(loss, args.burst),
        _ => LossModel::Independent(loss),
    };
    let slow = Impairment { delay, ..Impairment::default() };
    let lossy = Impairment { loss, ..slow.clone() };
    lan.impair(receiver, Direction::Down, TrafficClass::Multicast, &lossy);
    lan.impair(receiver, Direction::Down, TrafficClass::Unicast, &slow);
    lan.impair(receiver, Direction::Up, TrafficClass::Unicast, &slow);
    Ok(())
}

fn sender_args(args: &LatencyArgs, origin: &Origin, lan: &Lan, host: &Host, folder: &Path) -> Vec<OsString> {
    let url = origin.url(args.format.manifest());
    // Groups of this run only: the origin's port is nobody else's.
    let port = Url::parse(&url).ok().and_then(|u| u.port()).unwrap_or(1);
    let [high, low] = port.to_be_bytes();
    let mut out: Vec<OsString> = vec![url.into(), "--low-latency".into()];
    for (flag, value) in [
        ("--channel-name", "ll".to_owned()),
        ("--source", host.address.to_string()),
        ("--announce-source", lan.announced().unwrap_or(host.address).to_string()),
        ("--group-base", format!("232.{high}.{low}.1")),
        ("--http", SocketAddr::from((host.address, host.ports[0])).to_string()),
        ("--admin", "127.0.0.1:0".into()),
        ("--moq", format!("{}:0", host.address)),
        ("--repair", args.repair.to_string()),
    ] {
        out.extend([flag.into(), value.into()]);
    }
    if let Some(ceiling) = args.repair_ceiling {
        out.extend(["--repair-ceiling".into(), ceiling.to_string().into()]);
    }
    out.extend(["--key-file".into(), folder.join("sender.key").into()]);
    out
}

fn receiver_args(args: &LatencyArgs, session: &str, host: &Host, folder: &Path) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec![session.into()];
    let local = |port: u16| format!("{}:{port}", Ipv4Addr::LOCALHOST);
    for (flag, value) in [
        ("--listen", local(host.ports[0])),
        ("--admin", local(host.ports[1])),
        ("--join", "always".into()),
        ("--recovery", args.recovery.clone()),
    ] {
        out.extend([flag.into(), value.into()]);
    }
    // A key of a run before would be pinned.
    let state = folder.join("receiver");
    let _ = std::fs::remove_dir_all(&state);
    out.extend(["--state-dir".into(), state.into()]);
    out
}
