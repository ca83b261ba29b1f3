//! Wiring: what is discovered is planned, what is planned is sent. Detached tasks
//! are started here and in [`crate::channels`]; all have a name and are joined at the end.

use crate::channels::Channels;
use crate::config::Config;
use crate::description::{self, Issuer};
use crate::flow::Shared;
use crate::origin::discover::{Found, discover};
use crate::plan::{mbit, plan, table};
use crate::spool::Spool;
use crate::status::SenderStatus;
use crate::tasks::Tasks;
use crate::{http, key, progress};
use mahp_common::catalog::WELL_KNOWN_PATH;
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use mahp_runtime::udp::{self, Interface, MulticastSender, SendOptions};
use mahp_runtime::{admin, notify, shutdown};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Shows the plan and sends nothing.
///
/// # Errors
/// Those of [`run`] up to the plan.
pub async fn dry_run(config: Config, json: bool) -> Result<(), StartupError> {
    let clock = Clock::new();
    let (config, found) = discover_all(&fetcher(), clock, config).await?;
    let source = announced(&config, local_place(&config).ok().map(|(_, source)| source));
    let plan = plan(&config, &found, source)?;
    if json {
        let value = serde_json::json!({ "channels": plan.channels, "announcement": plan.announcement, "total_bps": plan.total_bps() });
        println!("{value:#}");
    } else {
        print!("{}", table(&plan));
        println!("dry run: nothing was sent");
    }
    Ok(())
}

/// Sends until the content ends or a signal comes.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(config: Config) -> Result<(), StartupError> {
    let stop = shutdown::on_signals();
    let clock = Clock::new();
    let fetcher = fetcher();
    let key = key::load_or_create(config.key_file.as_deref())?;
    let (interface, source) = local_place(&config)?;
    let metrics = admin::install_metrics();
    let (listener, http_address) = admin::bind(config.http, "the session description (--http)").await?;
    let started = tokio::select! {
        found = discover_all(&fetcher, clock, config) => found?,
        () = stop.cancelled() => return Ok(()),
    };
    let (config, found) = started;
    let plan = plan(&config, &found, announced(&config, Some(source)))?;
    let status = Arc::new(SenderStatus::new(&plan.channels));
    let mut tasks = Tasks::default();
    let admin_address = admin::serve(config.admin, metrics, status.clone(), stop.clone()).await?;

    let session = key::random_session(clock.wall())?;
    let issuer = Issuer::new(&plan, &config.name, session, key.clone());
    let (publish, published) = watch::channel(Arc::new(issuer.issue(clock.wall())?));
    let socket = MulticastSender::new(&SendOptions {
        source,
        interface: interface.clone(),
        ttl: u32::from(config.ttl),
        dscp: config.dscp,
    })?;
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let shared = Shared { socket: Arc::new(socket), clock, encoders: Arc::new(Semaphore::new(cores)) };
    let sender = Channels { config, plan, status, shared, fetcher, session, key, stop: stop.clone() };

    banner(&sender, &interface, source, http_address, admin_address);
    tasks.background("description server", http::serve(listener, published.clone()));
    tasks.background("description renewal", description::renew(issuer, clock, publish));
    tasks.background("progress", progress::report(sender.status.clone()));
    sender.announce(&mut tasks, published);
    let spool = Spool::new(sender.config.spool_bytes);
    for (index, found) in found.into_iter().enumerate() {
        sender.start(&mut tasks, index, found, &spool);
    }
    notify::ready();
    notify::start_watchdog();
    tasks.finish(&stop).await;
    progress::finish();
    Ok(())
}

fn fetcher() -> Fetcher {
    Fetcher::new(concat!("mahp-sender/", env!("CARGO_PKG_VERSION")))
}

/// Discovers all channels at once. With several, those that fail are left out; with none left, the first error stops.
async fn discover_all(
    fetcher: &Fetcher,
    clock: Clock,
    mut config: Config,
) -> Result<(Config, Vec<Found>), StartupError> {
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
    let mut first_error = None;
    let (mut channels, mut found) = (Vec::new(), Vec::new());
    for (i, result) in results {
        match result {
            Ok(f) => {
                channels.push(config.channels[i].clone());
                found.push(f);
            }
            Err(e) => {
                if config.channels.len() > 1 {
                    tracing::error!(channel = config.channels[i].name, "left out: {e}");
                }
                first_error.get_or_insert(e);
            }
        }
    }
    match first_error {
        Some(e) if found.is_empty() => Err(e),
        _ => {
            config.channels = channels;
            Ok((config, found))
        }
    }
}

/// Interface and address to send from.
fn local_place(config: &Config) -> Result<(Interface, IpAddr), StartupError> {
    let fits = |a: &&IpAddr| a.is_ipv6() == config.ipv6;
    if let Some(name) = &config.interface {
        let interface = udp::interface(name)?;
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
        return Ok((udp::interface(&source.to_string())?, source));
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

fn banner(sender: &Channels, interface: &Interface, source: IpAddr, http: SocketAddr, admin: SocketAddr) {
    let plan = &sender.plan;
    let flows: usize = plan.channels.iter().map(|c| c.renditions.len()).sum();
    let names: Vec<&str> = plan.channels.iter().map(|c| c.name.as_str()).collect();
    let host = if http.ip().is_unspecified() { SocketAddr::new(source, http.port()) } else { http };
    let hops = match sender.config.ttl {
        1 => "TTL 1: this network only, --ttl raises it".to_owned(),
        ttl => format!("TTL {ttl}"),
    };
    println!("mahp-sender {}: {}", env!("CARGO_PKG_VERSION"), names.join(", "));
    println!(
        "sending {flows} flows from {source} on {}, at most {}; {hops}",
        interface.name,
        mbit(plan.total_bps())
    );
    println!("receive: mahp-receiver http://{host}{WELL_KNOWN_PATH}");
    println!("status: http://{admin}/api/status; Ctrl-C stops");
}
