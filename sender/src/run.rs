//! Wiring: what is discovered is planned, what is planned is sent. The only file that starts detached tasks; all have a name
//! and are joined at the end.

use crate::config::Config;
use crate::description::{self, Issuer, Published};
use crate::flow::{FlowSink, FlowTask, Shared};
use crate::origin::discover::{Found, What, discover};
use crate::origin::live::{FollowOptions, follow, follow_manifest};
use crate::origin::vod::{self, Timeline};
use crate::origin::{Origin, hls};
use crate::plan::{Plan, mbit, plan, table};
use crate::sink::ObjectSink;
use crate::spool::Spool;
use crate::status::{RenditionStatus, SenderStatus};
use crate::{http, key, progress};
use mahp_common::Tsi;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::{Channel, Rendition, Role, WELL_KNOWN_PATH};
use mahp_common::session::send::SendConfig;
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use mahp_runtime::udp::{self, Interface, MulticastSender, SendOptions};
use mahp_runtime::{admin, shutdown};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest that running tasks may take after a signal.
const SHUTDOWN: Duration = Duration::from_secs(5);

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
    let listener = http::bind(config.http).await?;
    let http_address = listener.local_addr().unwrap_or(config.http);
    let started = tokio::select! {
        found = discover_all(&fetcher, clock, config) => found?,
        () = stop.cancelled() => return Ok(()),
    };
    let (config, found) = started;
    let plan = plan(&config, &found, announced(&config, Some(source)))?;
    let status = Arc::new(SenderStatus::new(&plan.channels));
    let mut tasks = Tasks::default();
    let admin_address = admin::serve(config.admin, metrics, status.clone(), stop.clone()).await?;

    let session = key::random_session()?;
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
    let mut sender = Sender { config, plan, status, shared, fetcher, session, key, stop: stop.clone() };

    banner(&sender, &interface, source, http_address, admin_address);
    tasks.background("description server", http::serve(listener, published.clone()));
    tasks.background("description renewal", description::renew(issuer, clock, publish));
    tasks.background("progress", progress::report(sender.status.clone()));
    sender.announce(&mut tasks, published);
    sender.start_channels(&mut tasks, found);
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

fn banner(sender: &Sender, interface: &Interface, source: IpAddr, http: SocketAddr, admin: SocketAddr) {
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

/// Tasks with names.
#[derive(Default)]
struct Tasks {
    /// These end when the content ends.
    work: JoinSet<String>,
    /// These are ended.
    background: JoinSet<()>,
}

impl Tasks {
    fn work(&mut self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(async move {
            task.await;
            name
        });
    }

    fn background(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.background.spawn(async move {
            task.await;
            tracing::debug!(name, "ended");
        });
    }

    /// Until all work is done, or `stop` and a moment more.
    async fn finish(mut self, stop: &CancellationToken) {
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN).await;
        };
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                done = self.work.join_next() => match done {
                    Some(Ok(name)) => tracing::debug!(name, "ended"),
                    Some(Err(e)) => tracing::error!("task failed: {e}"),
                    None => break,
                },
                () = &mut deadline => {
                    tracing::warn!(tasks = self.work.len(), "did not end in time");
                    break;
                }
            }
        }
        stop.cancel();
        self.background.shutdown().await;
    }
}

/// Everything that starting a channel needs.
struct Sender {
    config: Config,
    plan: Plan,
    status: Arc<SenderStatus>,
    shared: Shared,
    fetcher: Fetcher,
    session: u64,
    key: SigningKey,
    stop: CancellationToken,
}

impl Sender {
    fn announce(&self, tasks: &mut Tasks, published: watch::Receiver<Arc<Published>>) {
        let (flow, config) =
            description::announcement(&self.plan, self.session, self.first_toi(), self.key.clone());
        let (task, sink) = FlowTask::new(self.shared.clone(), Arc::default(), "announcement", &flow, config);
        let stop = self.stop.clone();
        tasks.background("announcement flow", task.run(stop));
        tasks.background("announcement", description::carry(Arc::new(sink), published));
    }

    /// Above the TOIs of any run before: ten a second are never reached by the objects of one rendition.
    fn first_toi(&self) -> u32 {
        u32::try_from(self.shared.clock.wall().unix_millis() / 100 & 0x7fff_ffff).unwrap_or(1).max(1)
    }

    fn start_channels(&mut self, tasks: &mut Tasks, found: Vec<Found>) {
        let spool = Spool::new(self.config.spool_bytes);
        let mut tracks = 0;
        for (i, found) in found.into_iter().enumerate() {
            let channel = self.plan.channels[i].clone();
            if found.live {
                self.start_live(tasks, &channel, i, found);
            } else {
                self.start_vod(tasks, &channel, i, found, &spool, &mut tracks);
            }
        }
    }

    fn start_live(&self, tasks: &mut Tasks, channel: &Channel, index: usize, found: Found) {
        let options = FollowOptions { carry_keys: self.config.channels[index].carry_keys };
        if let (Some(manifest), Some(r)) = (found.manifest, of_role(channel, Role::Manifest)) {
            let (origin, sink) = self.flow(tasks, channel, r);
            self.work(
                tasks,
                format!("{}/{}", channel.name, r.id),
                follow_manifest(origin, Arc::new(sink), manifest.url, manifest.object),
            );
        }
        for f in found.renditions {
            let Some(r) = channel.renditions.iter().find(|r| r.id == f.id) else { continue };
            let (origin, sink) = self.flow(tasks, channel, r);
            match f.what {
                What::Hls(rendition) => {
                    self.work(
                        tasks,
                        format!("{}/{}", channel.name, r.id),
                        follow(origin, Arc::new(sink), rendition, options),
                    );
                }
            }
        }
    }

    fn start_vod(
        &self,
        tasks: &mut Tasks,
        channel: &Channel,
        index: usize,
        found: Found,
        spool: &Spool,
        tracks: &mut usize,
    ) {
        let config = &self.config.channels[index];
        let made: Vec<_> = found
            .renditions
            .iter()
            .filter_map(|f| {
                let r = channel.renditions.iter().find(|r| r.id == f.id)?;
                let What::Hls(hls) = &f.what;
                *tracks += 1;
                Some((r, hls::track(hls, *tracks, r.flow.rate_bps, config.carry_keys)?))
            })
            .collect();
        let duration = made.iter().filter_map(|(_, (_, duration))| Some(*duration)).max().unwrap_or_default();
        let timeline = Timeline {
            start: self.shared.clock.now(),
            speed: self.plan.speeds[index],
            duration,
            repeat: config.repeat,
        };
        if let (Some(manifest), Some(r)) = (found.manifest, of_role(channel, Role::Manifest)) {
            let (_, sink) = self.flow(tasks, channel, r);
            let sink: Arc<dyn ObjectSink> = Arc::new(sink);
            tasks.background("manifest", vod::repeat(self.shared.clock, sink, manifest.object));
        }
        for (r, (track, _)) in made {
            let (origin, sink) = self.flow(tasks, channel, r);
            self.work(
                tasks,
                format!("{}/{}", channel.name, r.id),
                vod::carry(origin, Arc::new(sink), spool.clone(), track, timeline),
            );
        }
    }

    /// A task that ends at `stop`.
    fn work(&self, tasks: &mut Tasks, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        tasks.work(name, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Starts a rendition's flow.
    fn flow(&self, tasks: &mut Tasks, channel: &Channel, r: &Rendition) -> (Origin, FlowSink) {
        let status: Arc<RenditionStatus> = self.status.of(&channel.name, &r.id);
        let config = SendConfig {
            symbol_size: r.flow.symbol_size,
            repair_percent: r.flow.repair_percent,
            session: self.session,
            first_toi: self.first_toi(),
            key: Some(self.key.clone()),
            ..SendConfig::new(
                r.flow.profile,
                r.flow.endpoint.tsi,
                r.flow.repair.map_or(Tsi(0), |e| e.tsi),
                r.flow.rate_bps,
            )
        };
        let (task, sink) = FlowTask::new(self.shared.clone(), status.clone(), &channel.name, &r.flow, config);
        let name = format!("{}/{} flow", channel.name, r.id);
        let stop = self.stop.clone();
        if r.role == Role::Manifest && !channel.live {
            // A VOD's manifest is repeated until the media have left; it is no work to wait for.
            tasks.background("manifest flow", task.run(stop));
        } else {
            tasks.work(name, task.run(stop));
        }
        (Origin { fetcher: self.fetcher.clone(), clock: self.shared.clock, status }, sink)
    }
}

fn of_role(channel: &Channel, role: Role) -> Option<&Rendition> {
    channel.renditions.iter().find(|r| r.role == role)
}
