//! Many light receivers in one process: each has the engines of the protocol (receiving sessions, the recovery planner) and losses of
//! its own, and speaks to the sender and the origin as `mahp-receiver` does; they share sockets, and nothing is stored or
//! served. What they cost the sender and the origin is what as many receivers would.

mod member;
mod net;

use anyhow::Context;
use clap::Args;
use mahp_common::catalog::{Channel, Endpoint, Rendition, Role, SessionDescription};
use mahp_runtime::clock::Clock;
use mahp_runtime::config::Span;
use mahp_runtime::fetch::{Fetcher, Request};
use mahp_runtime::shutdown;
use member::Member;
use net::{Answered, Client, Heard};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use url::Url;

/// What is in flight is looked at this often.
const LOOK: Duration = Duration::from_millis(50);
/// What requests say they are from.
const USER_AGENT: &str = "mahp-receiver-light/0.1";
/// Datagrams between sockets and engines.
const QUEUE: usize = 8192;

/// Options of `mahp-testbed crowd`.
#[derive(Args, Clone, Debug)]
pub struct CrowdArgs {
    /// The session description
    pub session: Url,
    /// How many receivers
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub count: usize,
    /// Loss of each on its own
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    pub loss: crate::link::Percent,
    /// Seed of the losses
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Addresses from this one on, which the host must have: one for each. Default: all have the host's
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<Ipv4Addr>,
    /// How long [default: until stopped]
    #[arg(long = "for", value_name = "TIME")]
    pub run_for: Option<Span>,
    /// File for the counters, written once a second
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Counters over all receivers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Receivers.
    pub receivers: u64,
    /// Media objects that multicast alone completed.
    pub intact: u64,
    /// Completed with something by unicast.
    pub repaired: u64,
    /// Never completed.
    pub lost: u64,
    /// Bytes of complete media objects.
    pub bytes: u64,
    /// Of these, by unicast from the sender.
    pub sender_bytes: u64,
    /// Of these, by unicast from the origin.
    pub origin_bytes: u64,
    /// Reports to the sender.
    pub reports: u64,
    /// Requests for symbols or bytes to the sender.
    pub sender_requests: u64,
    /// Requests to the origin.
    pub origin_requests: u64,
    /// Requests that were answered with "busy".
    pub busy: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Most requests and reports in one second, all receivers together.
    pub peak_requests: u64,
}

impl Counters {
    fn requests(&self) -> u64 {
        self.reports + self.sender_requests + self.origin_requests
    }
}

/// What all members know of a flow.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    rendition: Rendition,
}

/// Where repair is had.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    reports: Option<Url>,
    servers: Vec<(Url, u32)>,
}

/// Runs until told to stop.
///
/// # Errors
/// No description, nothing in it to receive, no socket.
pub async fn run(args: CrowdArgs) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signals();
    let clock = Clock::new();
    let fetcher = Fetcher::new(USER_AGENT);
    let answer = fetcher.get(&args.session, Request::default()).await?;
    let (description, key) = SessionDescription::open(&answer.body, None, clock.wall())?;
    let channel = description.channels.first().context("the description has no channel")?;
    let flows = flows(channel);
    anyhow::ensure!(!flows.is_empty(), "the channel carries neither video nor sound");
    let places = places(channel, &args.session);
    let (packets, mut heard) = mpsc::channel::<Heard>(QUEUE);
    for endpoint in endpoints(&flows) {
        net::listen(endpoint, packets.clone())?;
    }
    let (answers, mut answered) = mpsc::unbounded_channel::<Answered>();
    let fetchers = match args.address {
        Some(first) => (0..args.count).map(|n| fetcher_of(first, n)).collect(),
        None => vec![fetcher],
    };
    let client = Client::new(fetchers, places.clone(), answers);
    let member = |n: usize| Member::new(n, &args, &flows, key, &places);
    let mut members: Vec<Member> = (0..args.count).map(member).collect();
    let mut counters = Counters { receivers: args.count as u64, ..Counters::default() };
    println!("crowd: {} light receivers, {} flows", args.count, flows.len());
    let end = args.run_for.map(|s| Instant::now() + s.0);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut second = (Instant::now(), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(packet) = heard.recv() => {
                for member in &mut members {
                    member.packet(&clock, &packet, &mut counters);
                }
            }
            Some(answer) = answered.recv() => {
                if let Some(member) = members.get_mut(answer.member) {
                    member.answered(&clock, answer, &client, &mut counters);
                }
            }
            _ = look.tick() => {
                members.iter_mut().for_each(|m| m.look(&clock, &client, &mut counters));
                if second.0.elapsed() >= Duration::from_secs(1) {
                    counters.peak_requests = counters.peak_requests.max(counters.requests() - second.1);
                    second = (Instant::now(), counters.requests());
                    write(&args, &counters);
                }
            }
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
    }
    write(&args, &counters);
    Ok(ExitCode::SUCCESS)
}

/// A fetcher of the `n`-th member, with an address of its own: what a sender believes and allows is counted by address.
fn fetcher_of(first: Ipv4Addr, n: usize) -> Fetcher {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    let address = Ipv4Addr::from_bits(first.to_bits().wrapping_add(n));
    Fetcher::from_address(USER_AGENT, IpAddr::V4(address))
}

/// The best picture, and the sound: what a viewer watches.
fn flows(channel: &Channel) -> Vec<Flow> {
    let of = |role: Role| channel.renditions.iter().filter(move |r| r.role == role);
    let best = |role: Role| of(role).max_by_key(|r| r.bitrate_bps).cloned();
    let chosen = [best(Role::Video), best(Role::Audio)];
    chosen.into_iter().flatten().map(|rendition| Flow { rendition }).collect()
}

fn places(channel: &Channel, session: &Url) -> Places {
    let servers = channel.repair_servers.iter();
    Places {
        reports: channel.report_url.as_ref().and_then(|u| session.join(u).ok()),
        servers: servers.filter_map(|s| Some((session.join(&s.url).ok()?, s.weight))).collect(),
    }
}

/// Each group and port once.
fn endpoints(flows: &[Flow]) -> Vec<Endpoint> {
    let of = |f: &Flow| std::iter::once(f.rendition.flow.endpoint).chain(f.rendition.flow.repair);
    let mut all: Vec<Endpoint> = flows.iter().flat_map(of).collect();
    all.sort_by_key(|e| (e.group, e.port));
    all.dedup_by_key(|e| (e.group, e.port));
    all
}

fn write(args: &CrowdArgs, counters: &Counters) {
    let Some(path) = &args.json else { return };
    // Readers must never see half a file.
    let part = path.with_extension("part");
    if let Ok(text) = serde_json::to_vec(counters)
        && std::fs::write(&part, text).is_ok()
    {
        let _ = std::fs::rename(&part, path);
    }
}
