//! Wiring: every task and queue of the receiver, and the only place that starts long-lived tasks. All are joined at the end.

use crate::config::{Config, Latency, SessionSource};
use crate::description::multicast::{self, Listener};
use crate::description::{Follower, KnownKeys, Look, Remembered, Trust, drops_of, report};
use crate::flow;
use crate::http::access::{HostList, Network};
use crate::http::site::Site;
use crate::http::{self, Front};
use crate::hub::{self, Hub, SessionId};
use crate::joins::Effect;
use crate::meanings::MEANINGS;
use crate::moq::{self, Copies, Publishers, Relay};
use crate::origin::Bounds;
use crate::origin::reach::Reach;
use crate::origin::upstream::Web;
use crate::page::Page;
use crate::recovery::Recovery;
use crate::served::Served;
use crate::store::disk::{Disk, Job};
use crate::urls::RenditionKey;
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use mahp_runtime::guard::host_name;
use mahp_runtime::{admin, listen};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The first look at a description may take this long before the receiver starts without it.
const FIRST_LOOK: Duration = Duration::from_secs(6);
/// The same where there is one of an earlier run to start with.
const FIRST_LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The disk index is written this often when it has changed.
const SAVE: Duration = Duration::from_secs(10);

/// A receiver that runs.
pub struct Receiver {
    /// Everything it knows.
    pub hub: Arc<Hub>,
    /// Where players ask.
    pub http: SocketAddr,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Receiver {
    /// Waits until it was told to stop, and has finished: responses ended, groups left.
    pub async fn finished(self) {
        self.stop.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Starts a receiver; it runs until `stop`.
///
/// # Errors
/// What keeps it from starting: what [`check`] finds, addresses in use, a session description that is refused, a disk store that
/// cannot be.
/// A sender that does not answer keeps nothing from starting: it is asked again.
pub async fn start(config: Config, stop: CancellationToken) -> Result<Receiver, StartupError> {
    let metrics = admin::install_metrics();
    MEANINGS.tell();
    let clock = Clock::new();
    let served = Arc::new(Served::default());
    check(&config)?;
    let front_options = front_options(&config)?;
    let (relay, copies) = Relay::start(&config.moq, clock)?;
    let options = hub_options(&config, &front_options.allow_origins, copies.clone());
    let hub = Hub::new(options, clock, served.clone());
    let tasks = TaskTracker::new();

    let (listener, http_address) = listen::bind(config.listen, "the server for players", "--listen")?;
    let (admin_address, admin) = admin::server(config.admin, metrics, hub.clone(), stop.clone()).await?;
    tasks.spawn(admin);
    if let Some(folder) = &config.disk {
        let (disk, jobs) = Disk::open(folder, config.disk_bytes)?;
        hub.set_disk(disk);
        tasks.spawn(disk_work(hub.clone(), clock, jobs, stop.clone()));
    }
    let known = KnownKeys::load(config.state_dir.as_deref())?;
    let trust = Arc::new(Trust::new(config.keys.clone(), config.require_auth, known));
    sessions(&config, &hub, &trust, clock, &tasks, &stop).await?;

    tasks.spawn(flows(hub.clone(), clock, config.recv_buffer, stop.clone()));
    tasks.spawn(ticks(hub.clone(), stop.clone()));
    let reach = Reach {
        listed: front_options.allow_origins.clone(),
        multicast: hub.clone(),
        sender_is_here: config.sessions.iter().any(SessionSource::is_here),
    };
    let guarded = Fetcher::guarded(USER_AGENT, move |host, address| reach.allows(host, address));
    let upstream = Web::new(guarded.clone());
    let page = Page::new(hub.clone(), stop.clone());
    let front = Front::new(hub.clone(), Arc::new(upstream), served.clone(), clock, front_options, Some(page));
    let publishers = Publishers::new(hub.clone(), served.clone(), copies);
    if let Some(relay) = relay {
        let (relaying, stop) = (relay.run(publishers.clone()), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(relaying).await });
    }
    if config.recovery.may_ask_publishers() {
        let (follow, stop) = (moq::follow(publishers.clone()), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(follow).await });
    }
    let (origins, options) = (front.origins(), config.recovery);
    let recovery = Recovery::new(hub.clone(), origins, served, clock, guarded, publishers, options);
    let recovery_stop = stop.clone();
    tasks.spawn(async move { recovery_stop.run_until_cancelled(recovery.run()).await });
    tasks.spawn(http::server::serve(listener, front, stop.clone()));
    Ok(Receiver { hub, http: http_address, admin: admin_address, tasks, stop })
}

/// What can be said of a configuration without starting.
///
/// # Errors
/// A network or host that is none, an interface that does not exist, MoQ in a build without it.
pub fn check(config: &Config) -> Result<(), StartupError> {
    front_options(config)?;
    moq::check(&config.moq, config.recovery.ways)?;
    let interface = config.interface.as_deref().map(mahp_runtime::udp::interface).transpose();
    interface.map(drop).map_err(|e| config.place.blame("interface", e))
}

const USER_AGENT: &str = concat!("mahp-receiver/", env!("CARGO_PKG_VERSION"));

fn fetcher() -> Fetcher {
    Fetcher::new(USER_AGENT)
}

fn front_options(config: &Config) -> Result<http::Options, StartupError> {
    let wrong = |key: &'static str| {
        move |e: String| {
            let error = StartupError::usage("E-CONFIG", e, "mahp-receiver config print --default");
            config.place.blame(key, error)
        }
    };
    let networks = config.allow_from.iter().map(|n| n.parse::<Network>()).collect::<Result<_, _>>();
    Ok(http::Options {
        allow_from: networks.map_err(wrong("allow-from"))?,
        site: Site::of_this_box(),
        allow_origins: HostList::new(&config.allow_origin).map_err(wrong("allow-origin"))?,
        host_names: host_names(&config.host_names).map_err(wrong("host-name"))?,
        rungs: config.rungs,
        low_latency: config.latency == Latency::Low,
        unicast: config.unicast,
        bounds: Bounds::beside(config.memory),
        lent: (config.memory / 4).max(8 << 20),
        connections: connections(mahp_runtime::files::limit()),
        ..http::Options::default()
    })
}

fn host_names(names: &[String]) -> Result<Vec<String>, String> {
    let wrong = |n: &String| format!("`{n}` is no host name: write tv.example.org");
    let read = |n: &String| {
        host_name(n).filter(|name| name.eq_ignore_ascii_case(n.trim_end_matches('.'))).ok_or_else(|| wrong(n))
    };
    names.iter().map(read).collect()
}

/// Players leave half of the open files to groups, origins and the disk, whatever the limit is.
fn connections(files: u64) -> usize {
    usize::try_from(files / 2).unwrap_or(usize::MAX).min(http::Options::default().connections)
}

fn hub_options(config: &Config, allow_origins: &HostList, copies: Copies) -> hub::Options {
    hub::Options {
        memory: config.memory,
        assembly_memory: config.assembly_memory,
        join: config.join,
        hold: config.hold,
        allow_origins: allow_origins.clone(),
        interface: config.interface.clone(),
        recv_buffer: config.recv_buffer,
        publisher: config.moq.publisher.clone(),
        copies,
    }
}

/// Starts to follow all sessions; returns after a first look at those that have a URL.
async fn sessions(
    config: &Config,
    hub: &Arc<Hub>,
    trust: &Arc<Trust>,
    clock: Clock,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), StartupError> {
    let remembered = Remembered::new(config.state_dir.as_deref());
    let mut first = JoinSet::new();
    for source in &config.sessions {
        let refresh = Arc::new(Notify::new());
        let session = hub.add_session(source.clone(), refresh.clone());
        match source {
            SessionSource::Url(url) => {
                let (hub, trust, remembered) = (hub.clone(), trust.clone(), remembered.clone());
                let follow = Follow { hub, trust, remembered, clock, session, refresh };
                first.spawn(first_look(follow, Follower::new(url.clone())));
            }
            SessionSource::Multicast { source, group, port } => {
                let listener = Listener {
                    hub: hub.clone(),
                    session,
                    trust: trust.clone(),
                    clock,
                    interface: config.interface.clone(),
                    insecure: config.insecure,
                };
                let listen = multicast::listen(listener, *source, *group, *port);
                let stop = stop.clone();
                tasks.spawn(async move { stop.run_until_cancelled(listen).await });
            }
        }
    }
    while let Some(looked) = first.join_next().await {
        let Ok(looked) = looked else { continue };
        let (follow, follower) = looked?;
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(follow.run(follower)).await });
    }
    Ok(())
}

/// Keeps one description current.
struct Follow {
    hub: Arc<Hub>,
    trust: Arc<Trust>,
    remembered: Remembered,
    clock: Clock,
    session: SessionId,
    refresh: Arc<Notify>,
}

async fn first_look(follow: Follow, mut follower: Follower) -> Result<(Follow, Follower), StartupError> {
    let fetcher = fetcher();
    let again = follow.begin_again(&mut follower);
    let patience = if again { FIRST_LOOK_AGAIN } else { FIRST_LOOK };
    let look = follower.look(&fetcher, &follow.trust, follow.clock.wall());
    let look = tokio::time::timeout(patience, look).await;
    match look {
        Ok(Look::Refused(error)) if !again => return Err(error),
        Ok(look) => follow.take(&follower, look),
        Err(_) => {}
    }
    Ok((follow, follower))
}

impl Follow {
    /// Starts with the description of an earlier run, if there is a good one.
    fn begin_again(&self, follower: &mut Follower) -> bool {
        let url = follower.url();
        let Some((bytes, accepted)) = self.remembered.read(url, &self.trust, self.clock.wall()) else {
            return false;
        };
        tracing::info!(%url, "starting with the session description of the last run");
        follower.begin_with(bytes);
        self.hub.describe_again(self.session, accepted.description, accepted.key);
        true
    }

    async fn run(self, mut follower: Follower) {
        let fetcher = fetcher();
        loop {
            // A restarted sender, heard by multicast, has a new description.
            _ = tokio::time::timeout(follower.pause(), self.refresh.notified()).await;
            let look = follower.look(&fetcher, &self.trust, self.clock.wall()).await;
            self.take(&follower, look);
        }
    }

    fn take(&self, follower: &Follower, look: Look) {
        match look {
            Look::New(accepted) => {
                report(follower.source(), &accepted);
                self.remembered.write(follower.url(), follower.accepted());
                self.hub.describe(self.session, accepted.description, Some(accepted.key));
            }
            Look::Same => self.hub.session_ok(self.session),
            Look::Unreachable(error) | Look::Refused(error) => {
                self.hub.refused(&drops_of(&error));
                if self.hub.session_error(self.session, &error) {
                    tracing::warn!("{error}");
                }
            }
        }
    }
}

/// Joins and leaves as the hub says, and runs what is joined.
pub(crate) async fn flows(hub: Arc<Hub>, clock: Clock, recv_buffer: usize, stop: CancellationToken) {
    let cores = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from)));
    let mut running: JoinSet<(RenditionKey, io::Result<()>)> = JoinSet::new();
    let mut stops: HashMap<RenditionKey, CancellationToken> = HashMap::new();
    let warned = AtomicBool::new(false);
    loop {
        let effect = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = running.join_next() => {
                ended_by_itself(&hub, &mut stops, ended);
                continue;
            }
            effect = hub.next_effect() => effect,
        };
        match effect {
            Effect::Join(key) => match join(&hub, &key, clock) {
                Ok(Some(joined)) => {
                    warn_of_small_buffer(&warned, joined.shared().recv_buffer, recv_buffer);
                    let token = stop.child_token();
                    stops.insert(key.clone(), token.clone());
                    let run = joined.run(hub.clone(), cores.clone(), token);
                    running.spawn(async move { (key, run.await) });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("{error}");
                    hub.failed(&key, &error);
                }
            },
            Effect::Leave(key) => {
                if let Some(token) = stops.remove(&key) {
                    token.cancel();
                    leave(&hub, &mut running, &mut stops, &key).await;
                }
            }
        }
    }
    // Their tokens are children of `stop`.
    while running.join_next().await.is_some() {}
}

fn join(hub: &Hub, key: &RenditionKey, clock: Clock) -> Result<Option<flow::Joined>, StartupError> {
    let Some(spec) = hub.spec(key)? else { return Ok(None) };
    let joined = flow::join(&spec, clock)?;
    let shared = joined.shared();
    tracing::info!(%key, flow = hub::endpoint_text(&spec.flow.endpoint), interface = shared.interface, "joined");
    hub.joined(key, shared);
    Ok(Some(joined))
}

/// Awaits the end of a flow that was told to stop, so that a new one may take its place.
async fn leave(
    hub: &Hub,
    running: &mut JoinSet<(RenditionKey, io::Result<()>)>,
    stops: &mut HashMap<RenditionKey, CancellationToken>,
    key: &RenditionKey,
) {
    while let Some(ended) = running.join_next().await {
        if ended.as_ref().is_ok_and(|(k, _)| k == key) {
            break;
        }
        ended_by_itself(hub, stops, ended);
    }
    tracing::info!(%key, "left");
    hub.left(key);
}

fn ended_by_itself(
    hub: &Hub,
    stops: &mut HashMap<RenditionKey, CancellationToken>,
    ended: Result<(RenditionKey, io::Result<()>), tokio::task::JoinError>,
) {
    let Ok((key, result)) = ended else { return };
    stops.remove(&key);
    let what = result.err().map_or_else(|| "ended".to_owned(), |e| e.to_string());
    let error = StartupError::runtime("E-SOCKET", format!("receiving {key}: {what}"), "mahp-receiver doctor");
    tracing::warn!("{error}");
    hub.failed(&key, &error);
}

fn warn_of_small_buffer(warned: &AtomicBool, got: usize, wanted: usize) {
    if got >= wanted || warned.swap(true, Ordering::Relaxed) {
        return;
    }
    // At 900 Mbit/s, what a gigabit link delivers at most.
    let burst_ms = got as f64 * 8.0 / 900_000.0;
    let (got, wanted_kib) = (got >> 10, wanted >> 10);
    tracing::warn!(
        "W-RCVBUF: receive buffer is {got} KiB, wanted {wanted_kib} KiB; bursts above {burst_ms:.1} ms at 900 Mbit/s will be lost\n  fix: sysctl -w net.core.rmem_max={wanted}"
    );
}

async fn ticks(hub: Arc<Hub>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        hub.tick();
    }
}

/// One job after the other, as a file may be removed and written again. At the end the index is written.
async fn disk_work(
    hub: Arc<Hub>,
    clock: Clock,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    stop: CancellationToken,
) {
    let mut save = tokio::time::interval(SAVE);
    let work = async |job: Job| {
        let now = clock.now();
        if let Ok(done) = tokio::task::spawn_blocking(move || job.run(now)).await {
            hub.disk_done(done);
        }
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = save.tick() => hub.disk_save(),
            Some(job) = jobs.recv() => work(job).await,
        }
    }
    hub.disk_save();
    while let Ok(job) = jobs.try_recv() {
        work(job).await;
    }
}

/// What is printed at the start: version, channels, where to watch, how to stop.
pub fn banner(receiver: &Receiver) -> String {
    use crate::library::Library as _;
    let channels: Vec<String> = receiver
        .hub
        .channels()
        .iter()
        .map(|c| {
            let kind = if c.live { "live" } else { "on demand" };
            format!("{} ({kind}, {} renditions)", c.name, c.renditions.len())
        })
        .collect();
    let channels = match channels.as_slice() {
        [] => "none yet; waiting for a session description".to_owned(),
        some => some.join(", "),
    };
    format!(
        "mahp-receiver {}\nchannels: {channels}\nopen {}\nstop with Ctrl-C; status: mahp-receiver status, nothing arrives: mahp-receiver doctor",
        env!("CARGO_PKG_VERSION"),
        watch_at(receiver.http),
    )
}

/// A URL that works from this box, and from others where that differs.
fn watch_at(listen: SocketAddr) -> String {
    if !listen.ip().is_unspecified() {
        return format!("http://{listen}/");
    }
    let addresses = mahp_runtime::udp::interfaces().unwrap_or_default();
    let mut public = addresses
        .iter()
        .filter(|i| i.up)
        .flat_map(|i| &i.addresses)
        .filter(|a| !a.is_loopback() && a.is_ipv4());
    let local = format!("http://127.0.0.1:{}/", listen.port());
    match public.next() {
        Some(address) => {
            format!("{local} or, from other devices, http://{}/", SocketAddr::new(*address, listen.port()))
        }
        None => local,
    }
}

#[cfg(test)]
mod tests;
