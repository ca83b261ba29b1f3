//! `mahp-testbed demo`: the whole way of a segment on one machine, without root and without the internet. The origin and the
//! bad link are in this process, the sender and the receiver are processes of their own, and whoever opens the printed URL
//! watches video that went through multicast with loss.

mod pair;
mod screen;

use crate::client::{self, Options, Report};
use crate::link::{Impairment, Percent};
use crate::presentation::Class;
use crate::report::Ledger;
use anyhow::Context;
use clap::Args;
use mahp_receiver::snapshot::Snapshot;
use mahp_runtime::config::Span;
use mahp_runtime::shutdown;
use pair::Pair;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The check begins when the receiver has listened for longer than the window a player starts in: a player of a channel that
/// was joined a moment ago gets its first segments by unicast, and that is not what is measured.
const LISTENED: Duration = Duration::from_secs(10);
/// Longest wait until every rendition brought something. What is not here then is counted against the check.
const WARM_UP: Duration = Duration::from_secs(20);

/// Options of the demo.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// How long, such as 20s or 5m [default: until Ctrl-C; with --check 20s]
    #[arg(long = "for", value_name = "TIME")]
    pub run_for: Option<Span>,
    /// Play HLS and DASH with the built-in player, print a ledger, and fail unless every segment came in time with the
    /// origin's bytes, nothing stalled, and at least 95 % of media bytes came by multicast
    #[arg(long)]
    pub check: bool,
    /// Packets to drop between sender and receiver
    #[arg(long, value_name = "SHARE", default_value = "5%")]
    pub loss: Percent,
    /// Mean number of packets dropped in a row
    #[arg(long, value_name = "PACKETS", default_value_t = 1.0)]
    pub burst: f64,
    /// Delay of the link
    #[arg(long, value_name = "TIME", default_value = "5ms")]
    pub delay: Span,
    /// Largest deviation from the delay
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    pub jitter: Span,
    /// Packets that come twice
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    pub duplicate: Percent,
    /// Let every so many-th packet overtake the one before [default: none]
    #[arg(long, value_name = "PACKETS", default_value_t = 0, hide_default_value = true)]
    pub reorder: u32,
    /// Seed of the link: the same seed drops the same packets of the same stream
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Repair symbols per hundred source symbols [default: the sender's]
    #[arg(long, value_name = "PERCENT")]
    pub repair: Option<u32>,
    /// Whether the receiver may ask the origin for what multicast did not bring: on or off
    #[arg(long, value_name = "SWITCH", default_value = "on")]
    pub unicast: Unicast,
    /// Port of the page and of players; 0: any free one [default: 7790, or any free one if that is taken]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Do not open a browser
    #[arg(long)]
    pub no_open: bool,
    /// Print what sender and receiver say
    #[arg(long)]
    pub verbose: bool,
}

/// Whether the receiver may use unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unicast {
    /// It may.
    On,
    /// Multicast or nothing.
    Off,
}

impl DemoArgs {
    fn impairment(&self) -> Impairment {
        Impairment {
            loss: self.loss,
            burst: self.burst,
            delay: self.delay.0,
            jitter: self.jitter.0,
            duplicate: self.duplicate,
            reorder_every: self.reorder,
            seed: self.seed,
        }
    }
}

/// Runs the demo to its end. Exit status 1 when the check fails.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signals();
    let mut pair = tokio::select! {
        pair = Pair::start(&args) => pair?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    print!("{}", screen::banner(&args, &pair));
    let outcome =
        if args.check { check(&args, &mut pair, &stop).await } else { show(&args, &mut pair, &stop).await };
    pair.stop().await;
    outcome
}

/// Keeps the pair going and tells how it goes.
async fn show(args: &DemoArgs, pair: &mut Pair, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    if !args.no_open {
        screen::open_browser(&pair.page());
    }
    let far = Duration::from_secs(365 * 86_400);
    let end = Instant::now() + args.run_for.map_or(far, |s| s.0);
    let mut line = screen::StatusLine::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(end) => break,
            error = pair.broken() => {
                line.finish();
                return Err(error);
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let snapshot = pair.snapshot().await.ok();
        line.show(&pair.link().total(), snapshot.as_ref());
    }
    line.finish();
    Ok(ExitCode::SUCCESS)
}

/// Plays with the built-in player and judges.
async fn check(args: &DemoArgs, pair: &mut Pair, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    let ledger = tokio::select! {
        ledger = measure(args, pair) => ledger?,
        () = stop.cancelled() => {
            println!("stopped before the check was over");
            return Ok(ExitCode::FAILURE);
        }
    };
    print!("{ledger}");
    let complaints = ledger.complaints();
    if complaints.is_empty() {
        println!("check passed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("check FAILED:");
    for complaint in &complaints {
        println!("  - {complaint}");
    }
    Ok(ExitCode::FAILURE)
}

async fn measure(args: &DemoArgs, pair: &mut Pair) -> anyhow::Result<Ledger> {
    warm_up(pair).await?;
    let length = args.run_for.map_or(Duration::from_secs(20), |s| s.0);
    let (link, origin) = (pair.link().total(), pair.origin().log());
    let symbols = symbol_bytes(pair).await?;
    let mut players = JoinSet::new();
    for (index, manifest) in pair.manifests().into_iter().enumerate() {
        let presentation = pair.origin().presentation().clone();
        let truth: client::Truth = Arc::new(move |url| presentation.truth(url.path()));
        let options = Options { truth: Some(truth), ..Options::new(manifest, length) };
        players.spawn(async move { (index, client::play(options).await) });
    }
    let mut reports: Vec<(usize, Report)> = Vec::new();
    while reports.len() < pair.manifests().len() {
        tokio::select! {
            report = players.join_next() => {
                reports.push(report.context("a player is missing")?.context("a player broke off")?);
            }
            error = pair.broken() => return Err(error),
        }
    }
    reports.sort_by_key(|(index, _)| *index);
    let (link_after, origin_after) = (pair.link().total(), pair.origin().log());
    let during = |agent| {
        origin_after.of(agent, Class::Media).bytes.saturating_sub(origin.of(agent, Class::Media).bytes)
    };
    Ok(Ledger {
        length,
        asked_loss: args.loss,
        seed: args.seed,
        link: link_after.minus(link),
        unicast_bytes: during("mahp-receiver"),
        repair_bytes: symbol_bytes(pair).await?.saturating_sub(symbols),
        sender_bytes: during("mahp-sender"),
        players: reports.into_iter().map(|(_, report)| report).collect(),
    })
}

/// Bytes of symbols that the receiver has had from the sender by unicast so far.
async fn symbol_bytes(pair: &Pair) -> anyhow::Result<u64> {
    let by_why = pair.snapshot().await?.totals.origin;
    Ok(["sender", "moq"].iter().filter_map(|why| by_why.get(*why)).sum())
}

/// Waits until the receiver has listened long enough to all that it joined and every rendition brought something.
async fn warm_up(pair: &mut Pair) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut joined = None;
    loop {
        let snapshot = pair.snapshot().await.ok();
        let is_joined = |s: &Snapshot| s.channels.iter().flat_map(|c| &c.renditions).all(|r| r.joined);
        if joined.is_none() && snapshot.as_ref().is_some_and(is_joined) {
            joined = Some(Instant::now());
        }
        let listened = joined.is_some_and(|at| at.elapsed() > LISTENED);
        if begun.elapsed() > WARM_UP || (listened && snapshot.is_some_and(|s| pair::warm(&s))) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            error = pair.broken() => return Err(error),
        }
    }
}
