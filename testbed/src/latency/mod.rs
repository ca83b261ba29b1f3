//! `mahp-testbed latency`: glass to glass. A low-latency HLS channel whose pictures show the clock goes from an encoder and origin
//! in this process through the sender, a bad link and the receiver to hls.js in Chromium, which reads the clock again.
//!
//! Needs ffmpeg, Chromium, node and the npm modules of `tests/players` (`tests/install`). One machine, and so one clock.

pub mod encoder;
pub mod figures;
pub mod origin;
pub mod picture;
mod plot;

use crate::demo::{DOWNSTREAM, UPSTREAM};
use crate::link::{self, Impairment, Link, Percent};
use crate::process::{Child, Launch};
use anyhow::{Context, bail, ensure};
use clap::Args;
use encoder::Spec;
use figures::{Figures, Seen};
use mahp_common::catalog::SessionDescription;
use mahp_receiver::snapshot::Snapshot;
use mahp_runtime::clock::Clock;
use mahp_runtime::config::Span;
use mahp_runtime::fetch::{Fetcher, Request};
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

/// Options of the measurement.
#[derive(Args, Clone, Debug)]
pub struct LatencyArgs {
    /// Packets to drop between sender and receiver: a run for each
    #[arg(long, value_name = "SHARE", value_delimiter = ',', default_value = "0%,2%,5%,10%")]
    pub loss: Vec<Percent>,
    /// Mean number of packets dropped in a row
    #[arg(long, value_name = "PACKETS", default_value_t = 1.0)]
    pub burst: f64,
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

/// Runs all measurements, one after the other. Exit status 1 when a player stood still or saw nothing.
pub async fn run(args: LatencyArgs) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut runs = Vec::new();
    for loss in &args.loss {
        let figures = measure(&args, *loss).await.with_context(|| format!("at {loss} loss"))?;
        eprintln!(
            "{loss} loss: p50 {:.0} ms, p95 {:.0} ms, {} stalls",
            figures.latency.p50, figures.latency.p95, figures.stalls.0
        );
        runs.push(figures);
    }
    let table = figures::table(&runs);
    print!("{table}");
    for (name, text) in [
        ("latency.md", table),
        ("latency.svg", plot::svg(&runs)),
        ("latency.json", serde_json::to_string_pretty(&runs)?),
    ] {
        std::fs::write(args.out.join(name), text)?;
    }
    let good = runs.iter().all(|r| r.latency.count > 0 && r.stalls.0 == 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run.
///
/// # Errors
/// What is not installed; a program that ended.
pub async fn measure(args: &LatencyArgs, loss: Percent) -> anyhow::Result<Figures> {
    let name = format!("{}", loss.fraction() * 100.0);
    let folder = std::path::absolute(args.out.join(format!("loss-{name}")))?;
    std::fs::create_dir_all(&folder)?;
    let mut pair = Pair::start(args, loss, &folder).await?;
    let manifest = pair.manifest();
    let played = tokio::select! {
        seen = watch(args, &manifest, &folder) => seen,
        error = pair.broken() => Err(error),
    };
    let snapshot = pair.snapshot().await;
    let log = pair.origin.log();
    let last_words = format!("{}{}", pair.sender.last_words(), pair.receiver.last_words());
    pair.stop().await;
    let mut figures = Figures::of(loss.fraction(), args.seed, &played.context(last_words)?, &log);
    figures.object_bytes = snapshot?.totals.object_bytes;
    Ok(figures)
}

/// Plays in Chromium.
async fn watch(args: &LatencyArgs, manifest: &str, folder: &Path) -> anyhow::Result<Seen> {
    let script = std::path::absolute(args.players.join("latency.mjs"))?;
    ensure!(script.is_file(), "{} is not there: --players names its folder", script.display());
    let chromium = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| which(name));
    let (seconds, settle) = (args.run_for.0.as_secs_f64(), args.settle.0.as_secs_f64());
    let job = serde_json::json!({
        "chromium": chromium.context("Chromium is not installed")?, "url": manifest,
        "seconds": seconds, "settle": settle, "config": { "backBufferLength": 10 },
    });
    let (job_file, result) = (folder.join("job.json"), folder.join("seen.json"));
    std::fs::write(&job_file, serde_json::to_vec(&job)?)?;
    let _ = std::fs::remove_file(&result);
    let mut node = Child::start(&Launch {
        name: "browser".into(),
        program: Some(which("node").context("node is not installed")?),
        args: vec![script.into(), job_file.into(), result.clone().into()],
        namespace: None,
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

/// Origin, sender, link and receiver.
struct Pair {
    origin: Origin,
    sender: Child,
    link: Link,
    receiver: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    fetcher: Fetcher,
}

impl Pair {
    async fn start(args: &LatencyArgs, loss: Percent, folder: &Path) -> anyhow::Result<Pair> {
        let origin = Origin::start(args.spec()?, args.hold_back()).await?;
        tokio::time::timeout(START, origin.ready(SEGMENTS)).await.context("ffmpeg made no segments")?;
        let child = |name: &str, own: Vec<OsString>| {
            let log = Some(folder.join(format!("{name}.log")));
            Child::start(&Launch { verbose: args.verbose, log, ..Launch::own(name, own) })
        };
        let mut sender = child("sender", sender_args(args, &origin, folder))?;
        let session = Url::parse(&sender.says("receive: mahp-receiver ", START).await?)?;
        let fetcher = Fetcher::new("mahp-testbed/0.1");
        let answer = fetcher.get(&session, Request::default()).await?;
        let (description, _) = SessionDescription::open(&answer.body, None, Clock::new().wall())?;
        let impairment = Impairment {
            loss,
            burst: args.burst,
            delay: Duration::from_millis(5),
            seed: args.seed,
            ..Impairment::default()
        };
        let link = Link::start(link::endpoints(&description), UPSTREAM, &impairment)?;
        let (listen, admin) = (free_port()?, free_port()?);
        let receiver = child("receiver", receiver_args(args, &session, listen, admin, folder))?;
        let mut pair = Pair { origin, sender, link, receiver, listen, admin, fetcher };
        pair.ready().await?;
        Ok(pair)
    }

    /// Waits until parts come by multicast.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + START;
        loop {
            if let Ok(snapshot) = self.snapshot().await {
                let objects = snapshot.channels.iter().flat_map(|c| &c.renditions).map(|r| &r.objects);
                if objects.map(|o| o.multicast + o.repaired).sum::<u64>() >= 12 {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < end, "nothing came by multicast within {START:?}");
            tokio::select! {
                error = self.broken() => return Err(error),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    async fn broken(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.sender.ended() => error,
            error = self.receiver.ended() => error,
        }
    }

    async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let url = Url::parse(&format!("http://{}/api/status", self.admin))?;
        Ok(serde_json::from_slice(&self.fetcher.get(&url, Request::default()).await?.body)?)
    }

    fn manifest(&self) -> String {
        format!("http://{}/live/ll/master.m3u8", self.listen)
    }

    async fn stop(self) {
        self.receiver.stop().await;
        drop(self.link);
        self.sender.stop().await;
    }
}

fn sender_args(args: &LatencyArgs, origin: &Origin, folder: &Path) -> Vec<OsString> {
    let url = origin.url();
    // Groups of this run only: the origin's port is nobody else's.
    let port = Url::parse(&url).ok().and_then(|u| u.port()).unwrap_or(1);
    let [high, low] = port.to_be_bytes();
    let mut out: Vec<OsString> = vec![url.into(), "--low-latency".into()];
    for (flag, value) in [
        ("--channel-name", "ll".to_owned()),
        ("--source", UPSTREAM.to_string()),
        ("--announce-source", DOWNSTREAM.to_string()),
        ("--group-base", format!("232.{high}.{low}.1")),
        ("--http", "127.0.0.1:0".into()),
        ("--admin", "127.0.0.1:0".into()),
        ("--moq", "127.0.0.1:0".into()),
        ("--repair", args.repair.to_string()),
    ] {
        out.extend([flag.into(), value.into()]);
    }
    out.extend(["--key-file".into(), folder.join("sender.key").into()]);
    out
}

fn receiver_args(
    args: &LatencyArgs,
    session: &Url,
    listen: SocketAddr,
    admin: SocketAddr,
    folder: &Path,
) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec![session.as_str().into()];
    for (flag, value) in [
        ("--listen", listen.to_string()),
        ("--admin", admin.to_string()),
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

/// A free loopback address. Another program may take it before the receiver binds it; then that says so.
fn free_port() -> anyhow::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).context("no free port")
}
