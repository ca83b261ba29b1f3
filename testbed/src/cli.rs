//! The command line.

use crate::clip::Clip;
use crate::demo::{self, DemoArgs, child};
use crate::origin::Origin;
use crate::presentation::Presentation;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use mahp_runtime::error::StartupError;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
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
    /// Where to listen.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))]
    listen: SocketAddr,
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

/// Runs another program's entry point.
fn as_child(
    name: &str,
    args: ChildArgs,
    entry: impl FnOnce(Vec<OsString>) -> Result<u8, StartupError>,
) -> ExitCode {
    child::follow_parent();
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

async fn serve_origin(args: &OriginArgs) -> anyhow::Result<()> {
    let origin = Origin::start(args.listen, live_presentation())
        .await
        .with_context(|| format!("cannot listen on {}; try --listen with another port", args.listen))?;
    for path in ["/live/master.m3u8", "/live/manifest.mpd", "/vod/master.m3u8", "/vod/manifest.mpd"] {
        println!("{}", origin.url(path));
    }
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")
}
