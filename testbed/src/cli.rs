//! The command line.

use crate::clip::Clip;
use crate::origin::Origin;
use crate::presentation::Presentation;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
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
    /// Serve the test clip as live and on-demand HLS and DASH.
    Origin(OriginArgs),
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
        Command::Origin(args) => runtime().and_then(|r| r.block_on(serve_origin(&args))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
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
