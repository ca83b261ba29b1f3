//! Wiring: what is discovered is planned, what is planned is sent. Detached tasks
//! are started here and in [`crate::channels`]; all have a name and are joined at the end.

use crate::channels::Channels;
use crate::config::{ChannelConfig, Config};
use crate::description::{Issuer, Offer};
use crate::flow::Shared;
use crate::meanings::MEANINGS;
use crate::origin::discover::{Found, discover};
use crate::plan::{Plan, Planner, carried_twice, mbit, table};
use crate::repair::Service as RepairService;
use crate::service::{Reread, Service};
use crate::spool::Spool;
use crate::status::SenderStatus;
use crate::tasks::Tasks;
use crate::{http, key, moq, progress, repair, still};
use mahp_common::catalog::{RepairServer, WELL_KNOWN_PATH};
use mahp_common::repair::REPORT_PATH;
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use mahp_runtime::udp::{self, Interface, MulticastSender, SendOptions};
use mahp_runtime::{admin, listen, notify, say, shutdown};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Shows the plan and sends nothing.
///
/// # Errors
/// Those of [`run`] up to the plan.
pub async fn dry_run(config: Config, json: bool) -> Result<(), StartupError> {
    let there = discover_all(&fetcher(), Clock::new(), &config).await?;
    for (channel, e) in &there.missing {
        say::error(format_args!("{} is left out: {e}", channel.name));
    }
    let source = announced(&config, local_place(&config).ok().map(|(_, source)| source));
    let key = key::peek(config.key_file.as_deref());
    let planner = Planner::new(&config, source);
    let mut planner = match &key {
        Some(key) => planner.signed(&key.verifying_key()),
        None => planner,
    };
    let plan = planner.plan(&there.channels, &there.found)?;
    // Its group follows from the key, which the first start makes.
    let announcement = (key.is_some() || config.group_base.is_some()).then_some(plan.announcement);
    if json {
        let channels: Vec<_> = plan.channels.iter().map(|p| &p.channel).collect();
        let value = serde_json::json!({ "channels": channels, "announcement": announcement, "total_bps": plan.total_bps() });
        say::line(format_args!("{value:#}"));
    } else {
        say::out(table(&plan));
        if announcement.is_none() {
            say::line(
                "there is no signing key yet: the first start makes one, and another group for the announcement",
            );
        }
        say::line("dry run: nothing was sent");
    }
    Ok(())
}

/// Sends until the content ends or a signal comes. `reread` gives the configuration anew at each SIGHUP.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(config: Config, reread: Reread) -> Result<(), StartupError> {
    let stop = shutdown::on_signals();
    let clock = Clock::new();
    let fetcher = fetcher();
    let key = key::load_or_create(config.key_file.as_deref())?;
    let (interface, source) = local_place(&config)?;
    let metrics = admin::install_metrics();
    MEANINGS.tell();
    let (listener, http_address) = listen::bind(config.http, "the session description", "--http")?;
    let there = tokio::select! {
        there = discover_all(&fetcher, clock, &config) => there?,
        () = stop.cancelled() => return Ok(()),
    };
    let mut planner = Planner::new(&config, announced(&config, Some(source))).signed(&key.verifying_key());
    let plan = planner.plan(&there.channels, &there.found)?;
    let status = Arc::new(SenderStatus::default());
    plan.channels.iter().for_each(|p| status.add(&p.channel));
    there.missing.iter().for_each(|(channel, e)| status.wait_for(&channel.name, &e.message));
    let admin_address = admin::serve(config.admin, metrics, status.clone(), stop.clone()).await?;
    let session = key::random_session(clock.wall())?;
    let host = host(http_address, source);
    let repair = RepairService::new(config.repair, clock);
    let spool = Spool::new(config.spool_bytes);
    let moq = config
        .moq
        .as_ref()
        .map(|o| moq::Publisher::start(o, clock, key.clone(), session, repair.clone(), (&spool, &fetcher)))
        .transpose()?;
    let moq_url = moq.as_ref().and_then(|m| m.url(source));
    let offer = Offer { moq_url, ttl: config.ttl, ..offer(&config, host) };
    let issuer = Issuer::new(&plan, &config.name, session, key, offer);
    let (published, described) = watch::channel(Arc::new(issuer.issue(clock.wall())?));
    let options = SendOptions { source, interface, ttl: u32::from(config.ttl), dscp: config.dscp };
    let socket = Arc::new(MulticastSender::new(&options)?);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let shared = Shared { socket, clock, encoders: Arc::new(Semaphore::new(cores)) };
    status.set_repair(repair.clone());
    if let Some(moq) = &moq {
        status.set_moq(moq.counters());
    }
    let served = (config.repair.unicast_bps > 0).then(|| repair.clone());
    let running = BTreeMap::new();
    let mut channels = Channels {
        planner,
        issuer,
        published,
        status,
        shared,
        fetcher,
        repair,
        moq,
        spool,
        session,
        stop,
        running,
    };

    for (a, b) in carried_twice(&plan) {
        tracing::warn!(
            "W-TWICE: the channels {a} and {b} carry segments of the same URLs, each of which is sent twice"
        );
    }
    banner(&plan, &options, host, admin_address);
    let mut tasks = Tasks::default();
    tasks.background("description server", http::serve(listener, described, served));
    tasks.background("repair", channels.repair.clone().run());
    tasks.background("progress", progress::report(channels.status.clone()));
    tasks.background("standstill", still::watch(channels.status.clone()));
    if let Some(relaying) = channels.moq.as_ref().and_then(moq::Publisher::relaying) {
        tasks.background("MoQ relay", relaying);
    }
    channels.announce(&mut tasks, &plan);
    for ((channel, planned), found) in there.channels.iter().zip(&plan.channels).zip(there.found) {
        channels.start(&mut tasks, channel, planned, found);
    }
    notify::ready();
    notify::start_watchdog();
    let missing = there.missing.into_iter().map(|(channel, _)| channel).collect();
    Service::new(channels, tasks, config, reread).run(missing).await;
    progress::finish();
    Ok(())
}

fn fetcher() -> Fetcher {
    Fetcher::new(concat!("mahp-sender/", env!("CARGO_PKG_VERSION")))
}

/// What answered at the start, and what did not.
struct There {
    channels: Vec<ChannelConfig>,
    found: Vec<Found>,
    missing: Vec<(ChannelConfig, StartupError)>,
}

/// Discovers all channels at once. When none answers, the first error stops the start.
async fn discover_all(fetcher: &Fetcher, clock: Clock, config: &Config) -> Result<There, StartupError> {
    let mut loads = JoinSet::new();
    for (i, channel) in config.channels.iter().cloned().enumerate() {
        let fetcher = fetcher.clone();
        loads.spawn(async move { (i, discover(&fetcher, clock, &channel).await) });
    }
    let mut results: Vec<(usize, Result<Found, StartupError>)> = Vec::new();
    while let Some(done) = loads.join_next().await {
        results.extend(done.ok());
    }
    results.sort_by_key(|(i, _)| *i);
    let mut there = There { channels: Vec::new(), found: Vec::new(), missing: Vec::new() };
    for (i, result) in results {
        let channel = config.channels[i].clone();
        match result {
            Ok(found) => {
                there.channels.push(channel);
                there.found.push(found);
            }
            Err(e) => there.missing.push((channel, e)),
        }
    }
    match there.missing.first() {
        Some((_, e)) if there.found.is_empty() => Err(e.clone()),
        _ => {
            for (channel, e) in &there.missing {
                tracing::warn!(channel = channel.name, "not there yet, asked for again until it is: {e}");
            }
            Ok(there)
        }
    }
}

/// Interface and address to send from.
fn local_place(config: &Config) -> Result<(Interface, IpAddr), StartupError> {
    let fits = |a: &&IpAddr| a.is_ipv6() == config.ipv6;
    if let Some(name) = &config.interface {
        let interface = udp::interface(name).map_err(|e| config.place.blame("interface", e))?;
        let own = interface.addresses.iter().find(fits).copied();
        let source = config.source.or(own).ok_or_else(|| {
            let family = if config.ipv6 { "IPv6" } else { "IPv4" };
            StartupError::usage(
                "E-IFACE",
                format!("interface {} has no {family} address", interface.name),
                "give it one, or choose another with --interface",
            )
        })?;
        return Ok((interface, source));
    }
    if let Some(source) = config.source {
        let interface = udp::interface(&source.to_string());
        return Ok((interface.map_err(|e| config.place.blame("source", e))?, source));
    }
    let towards = config.group_base.unwrap_or(if config.ipv6 {
        IpAddr::from([0xff3e, 0, 0, 0, 0, 0, 0x8000, 1])
    } else {
        IpAddr::from([232, 0, 1, 0])
    });
    udp::route_to(towards)
}

/// The S of (S,G) in the description.
fn announced(config: &Config, source: Option<IpAddr>) -> Option<IpAddr> {
    config.announce_source.or(source).filter(|_| !config.asm)
}

/// Where receivers find our HTTP server. They have a route to the source of the packets, or could not join.
fn host(http: SocketAddr, source: IpAddr) -> SocketAddr {
    if http.ip().is_unspecified() { SocketAddr::new(source, http.port()) } else { http }
}

/// Our own repair service, unless others are named.
fn offer(config: &Config, host: SocketAddr) -> Offer {
    if config.repair.unicast_bps == 0 {
        let (servers, standby) = (config.repair_servers.clone(), config.standby_sources.clone());
        return Offer { servers, standby, ..Offer::default() };
    }
    let own = format!("http://{host}{}", repair::http::PREFIX);
    let servers = match config.repair_servers.as_slice() {
        [] => vec![RepairServer { url: own.clone(), weight: 1 }],
        given => given.to_vec(),
    };
    let report_url = Some(format!("{own}{REPORT_PATH}"));
    Offer { servers, report_url, standby: config.standby_sources.clone(), ..Offer::default() }
}

fn banner(plan: &Plan, options: &SendOptions, host: SocketAddr, admin: SocketAddr) {
    let source = options.source;
    let flows: usize = plan.channels.iter().map(|p| p.channel.renditions.len()).sum();
    let names: Vec<&str> = plan.channels.iter().map(|p| p.channel.name.as_str()).collect();
    let hops = match options.ttl {
        1 => "TTL 1: this network only, --ttl raises it".to_owned(),
        ttl => format!("TTL {ttl}"),
    };
    say::line(format_args!("mahp-sender {}: {}", env!("CARGO_PKG_VERSION"), names.join(", ")));
    say::out(table(plan));
    say::line(format_args!(
        "sending {flows} flows from {source} on {}, at most {}; {hops}",
        options.interface.name,
        mbit(plan.total_bps())
    ));
    say::line(format_args!("receive: mahp-receiver http://{host}{WELL_KNOWN_PATH}"));
    say::line(format_args!("status: http://{admin}/api/status; Ctrl-C stops"));
}
