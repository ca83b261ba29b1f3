//! The command line.

mod suite;

use crate::clip::Clip;
use crate::crowd::{self, CrowdArgs};
use crate::demo::{self, DemoArgs};
use crate::latency::{self, LatencyArgs};
use crate::origin::Origin;
use crate::presentation::Presentation;
use crate::run::play::{self, PlayArgs};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use mahp_runtime::config::Span;
use mahp_runtime::error::StartupError;
use mahp_runtime::shutdown;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Proves MAHP under loss: an origin, a sender, a bad link, a receiver and a player on one machine.
#[derive(Debug, Parser)]
#[command(name = "mahp-testbed", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: open the printed page and watch video that crossed lossy multicast.
    Demo(DemoArgs),
    /// Serve the test clip as live and on-demand HLS and DASH.
    Origin(OriginArgs),
    /// Run a scenario and write its report.
    Run(RunArgs),
    /// The shipped scenarios.
    List,
    /// Run many scenarios: `short` or `full`.
    Suite(SuiteArgs),
    /// Two reports side by side.
    Compare(CompareArgs),
    /// One plot of a report as an SVG file, to the standard output.
    Plot(PlotArgs),
    /// The built-in player.
    Play(PlayArgs),
    /// Many light receivers in one process: what a crowd costs the sender and the origin.
    Crowd(CrowdArgs),
    /// Glass to glass: a low-latency channel with a clock in its pictures, played in Chromium behind the pair.
    Latency(LatencyArgs),
    /// `mahp-sender` in a child process of the demo.
    #[command(hide = true, disable_help_flag = true)]
    Sender(ChildArgs),
    /// `mahp-receiver` in a child process of the demo.
    #[command(hide = true, disable_help_flag = true)]
    Receiver(ChildArgs),
}

#[derive(Debug, Args)]
struct ChildArgs {
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

#[derive(Debug, Args)]
struct OriginArgs {
    /// Where to listen
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))]
    listen: SocketAddr,
    /// The clip as it is, or as the standard channel of three renditions up to 8 Mbit/s
    #[arg(long, value_name = "CONTENT", default_value = "clip")]
    content: play::Content,
    /// Serve the files of a folder too
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// When live segment 0 began, Unix milliseconds [default: a minute ago]
    #[arg(long, value_name = "MS")]
    epoch_ms: Option<u64>,
    /// Length of what is on demand
    #[arg(long, value_name = "TIME", default_value = "64s")]
    vod: Span,
    /// Added before each answer
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    delay: Span,
}

/// How runs are done.
#[derive(Args, Clone, Debug)]
struct How {
    /// Seed of all randomness [default: the scenario's]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Folder for the result [default: testbed-results/NAME]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Folder with mahp-sender and mahp-receiver to run [default: the same programs within this executable]
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Everything on the loopback interface: for machines that allow no network namespaces. Shows less, and says what
    #[arg(long)]
    no_namespaces: bool,
    /// Print what the programs say
    #[arg(long)]
    verbose: bool,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// A file, or the name of a shipped scenario (see `list`)
    scenario: String,
    /// As in the short suite: times are multiplied by the scenario's `short`
    #[arg(long)]
    short: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
struct SuiteArgs {
    /// `short` (as CI runs it) or `full`
    name: Suite,
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Scenarios at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    jobs: usize,
    /// How often scenarios that failed by the clock alone (never for a wrong byte) are run again, nothing else beside them
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    again: usize,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    Short,
    Full,
}

#[derive(Args, Debug)]
struct PlotArgs {
    /// A report.json, or its folder
    report: PathBuf,
    /// Part of the plot's title
    #[arg(default_value = "by source")]
    title: String,
}

#[derive(Args, Debug)]
struct CompareArgs {
    /// A report.json, or its folder
    a: PathBuf,
    /// Another
    b: PathBuf,
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "compare.html")]
    out: PathBuf,
}

/// Runs the program. Exit codes: 0 fine, 1 run-time error or failed check, 2 usage.
pub fn main_with_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Demo(args) => runtime().and_then(|r| r.block_on(demo::run(args))),
        Command::Origin(args) => {
            runtime().and_then(|r| r.block_on(serve_origin(&args))).map(|()| ExitCode::SUCCESS)
        }
        Command::Run(args) => return suite::exit(suite::run(&args.scenario, args.short, &args.how)),
        Command::List => return suite::list(),
        Command::Suite(args) => suite::suite(&args),
        Command::Compare(args) => suite::compare(&args),
        Command::Plot(args) => suite::plot(&args),
        Command::Play(args) => runtime().and_then(|r| r.block_on(play::play(args))),
        Command::Latency(args) => match latency_namespace(&args) {
            Ok(()) => runtime().and_then(|r| r.block_on(latency::run(args))),
            Err(error) => return suite::exit(Err(error)),
        },
        Command::Crowd(args) => runtime().and_then(|r| r.block_on(crowd::run(args))),
        Command::Sender(args) => {
            let entry = |args| mahp_sender::main_with_args(args).map(|()| 0);
            return as_child("mahp-sender", args, entry);
        }
        Command::Receiver(args) => return as_child("mahp-receiver", args, mahp_receiver::main_with_args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Round-trip times need a network namespace: before the runtime starts threads.
fn latency_namespace(args: &LatencyArgs) -> Result<(), StartupError> {
    if args.rtt.is_empty() { Ok(()) } else { crate::net::ns::enter_own() }
}

/// Runs another program's entry point.
fn as_child(
    name: &str,
    args: ChildArgs,
    entry: impl FnOnce(Vec<OsString>) -> Result<u8, StartupError>,
) -> ExitCode {
    let args = std::iter::once(name.into()).chain(args.args).collect();
    match entry(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}

/// The clip, live since a minute ago, so that players find a full window at once.
pub(crate) fn live_presentation() -> Presentation {
    let now = mahp_runtime::clock::Clock::new().wall();
    let epoch = mahp_common::WallTime::from_unix_secs(now.unix_secs().saturating_sub(60));
    Presentation::new(Clip::embedded(), epoch, Duration::from_secs(64))
}

/// What the origin program serves.
fn presentation(args: &OriginArgs) -> Presentation {
    let now = mahp_runtime::clock::Clock::new().wall();
    let ago = mahp_common::WallTime::from_unix_secs(now.unix_secs().saturating_sub(60));
    let epoch = args.epoch_ms.map_or(ago, mahp_common::WallTime::from_unix_millis);
    let clip = match args.content {
        play::Content::Standard => Clip::standard(),
        play::Content::Clip | play::Content::Folder | play::Content::Origin => Clip::embedded(),
    };
    Presentation::new(clip, epoch, args.vod.0)
}

async fn serve_origin(args: &OriginArgs) -> anyhow::Result<()> {
    let origin = Origin::with_folder(args.listen, presentation(args), args.folder.clone())
        .await
        .with_context(|| format!("cannot listen on {}; try --listen with another port", args.listen))?;
    for path in ["/live/master.m3u8", "/live/manifest.mpd", "/vod/master.m3u8", "/vod/manifest.mpd"] {
        println!("{}", origin.url(path));
    }
    origin.set_knobs(|knobs| knobs.delay = args.delay.0);
    shutdown::on_signals().cancelled().await;
    Ok(())
}
