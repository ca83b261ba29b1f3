//! Everything the receiver knows: sessions, channels, renditions, the store. What flows say comes in ([`intake`]), what players
//! ask is answered ([`library`](crate::library), in `hub/answer.rs`), what people ask is shown (`hub/observe.rs`).
//!
//! One lock around the state; nothing under it waits. Where the engine of a flow is looked at, its lock is taken after the
//! hub's, never the other way round: a flow talks to the hub without holding its engine.

mod answer;
mod history;
mod intake;
mod layer;
mod observe;
mod offer;
mod parts;
pub mod recover;
mod stats;

use crate::config::SessionSource;
use crate::expect::{FlowRate, Hearing};
use crate::flow::{Control, Shared, Spec};
use crate::http::access::HostList;
use crate::joins::{Effect, Joins, Policy};
use crate::library::{ResourceKey, Stored};
use crate::moq::Copies;
use crate::served::Served;
use crate::store::disk::{Disk, Done};
use crate::store::{Class, PieceKey, Store};
use crate::urls::{RenditionKey, UrlIndex};
use history::Rings;
use mahp_common::auth::VerifyingKey;
use mahp_common::catalog::{Channel, Rendition, Role, SessionDescription};
use mahp_common::drop::DropCounters;
use mahp_common::repair::layer::LayerControl;
use mahp_common::repair::plan::ObjectKey;
use mahp_common::repair::reach::Reach;
use mahp_common::session::recv::Pool;
use mahp_common::{ByteRange, ObjectMeta, Time, Toi};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
pub(crate) use observe::endpoint_text;
use parts::Unmade;
use stats::RenditionStats;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use url::Url;

/// A flow gets at least this much memory for assembly, or is not joined.
const ASSEMBLY_MIN: u64 = 1 << 20;
/// Objects on their way that are remembered per rendition: the oldest is forgotten.
const FLIGHTS_MAX: usize = 256;
/// Manifests that are remembered: beyond it, those that are no longer in the store are forgotten.
const MANIFESTS_MAX: usize = 4096;
/// Origins of film objects that are remembered: beyond it all are forgotten (a TOI is collected again after 30 s anyway).
const ORIGINS_MAX: usize = 65_536;
/// Objects that had no room and wait to be collected again: further ones are not, until the engine forgets them.
const REOPEN_MAX: usize = 1024;

/// What the hub must know of the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the store.
    pub memory: u64,
    /// Bytes under assembly, over all flows.
    pub assembly_memory: u64,
    /// When to join.
    pub join: Policy,
    /// Longest hold.
    pub hold: Duration,
    /// Origins besides those of channels that may be asked.
    pub allow_origins: HostList,
    /// Interface to join on.
    pub interface: Option<String>,
    /// Receive buffer to ask for.
    pub recv_buffer: usize,
    /// MoQ publisher of all channels, instead of those of the session descriptions.
    pub publisher: Option<Url>,
    /// What is complete is given there, too.
    pub(crate) copies: Copies,
}

/// See the module.
pub struct Hub {
    options: Options,
    clock: Clock,
    served: Arc<Served>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// There are effects to act on.
    effects: Notify,
}

struct State {
    sessions: Vec<Session>,
    channels: Vec<Arc<Channel>>,
    renditions: BTreeMap<RenditionKey, Entry>,
    urls: UrlIndex,
    joins: Joins,
    store: Store,
    manifests: HashMap<ResourceKey, ManifestInfo>,
    flights: HashMap<ResourceKey, Vec<Flight>>,
    /// Segments of which not all parts are here, newest last.
    unmade: VecDeque<Unmade>,
    /// Number of the last flight.
    flown: u64,
    /// Until when the recovery does something for objects in flight.
    hopes: HashMap<ObjectKey, Time>,
    /// Where objects of films in the store came from, so that they can be collected again once they have left it.
    origins: HashMap<PieceKey, (RenditionKey, Toi)>,
    /// Objects to collect again when they come round, from a time on; in order of time.
    reopen: VecDeque<(Time, RenditionKey, Toi)>,
    /// Memory for assembly that no flow has for itself.
    assembly: Arc<Pool>,
    drops: DropCounters,
    rings: Rings,
    last_served: crate::snapshot::Bytes,
    /// 90 % of the holds of the last second.
    recent_hold_p90_ms: Option<u64>,
    disk: Option<Disk>,
    copies: Copies,
}

/// A sender, as given by the operator.
struct Session {
    source: SessionSource,
    description: Option<SessionDescription>,
    key: Option<VerifyingKey>,
    error: String,
    /// How to mend it.
    hint: String,
    /// It was heard of since the start; its description may be one of an earlier run.
    answered: bool,
    /// Its description should be looked at again.
    refresh: Arc<Notify>,
}

/// A rendition on offer.
struct Entry {
    session: usize,
    channel: Arc<Channel>,
    rendition: Rendition,
    hearing: Hearing,
    flow: Option<Arc<Shared>>,
    joined_at: Option<Time>,
    /// First packet since the join.
    first_packet: Option<Time>,
    last_packet: Option<Time>,
    /// Somebody asked for something of it.
    wanted_at: Option<Time>,
    error: String,
    allotted: u64,
    stats: RenditionStats,
    /// Of its second repair layer, where it has one.
    layer: Option<LayerControl>,
    /// Whether what its objects need comes by multicast, since the join.
    reach: Reach,
    /// Resources with flights of this rendition, oldest first.
    flying: VecDeque<(ResourceKey, Toi)>,
}

/// An object that multicast has described and not completed.
#[derive(Clone, Debug)]
struct Flight {
    rendition: RenditionKey,
    toi: Toi,
    meta: ObjectMeta,
    /// When it was described.
    at: Time,
    /// Tells flights apart.
    number: u64,
    /// A player asked for it.
    asked_at: Option<Time>,
}

#[derive(Clone, Debug)]
struct ManifestInfo {
    rendition: Option<RenditionKey>,
    /// None: by unicast.
    toi: Option<Toi>,
    /// This version was last completed or described again.
    heard_at: Time,
}

/// Handle of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(usize);

impl Hub {
    /// Knows no session yet.
    pub fn new(options: Options, clock: Clock, served: Arc<Served>) -> Arc<Hub> {
        let state = State {
            sessions: Vec::new(),
            channels: Vec::new(),
            renditions: BTreeMap::new(),
            urls: UrlIndex::default(),
            joins: Joins::new(options.join),
            store: Store::new(options.memory, false),
            manifests: HashMap::new(),
            flights: HashMap::new(),
            unmade: VecDeque::new(),
            flown: 0,
            hopes: HashMap::new(),
            origins: HashMap::new(),
            reopen: VecDeque::new(),
            assembly: Pool::new(options.assembly_memory),
            drops: DropCounters::default(),
            rings: Rings::default(),
            last_served: crate::snapshot::Bytes::default(),
            recent_hold_p90_ms: None,
            disk: None,
            copies: options.copies.clone(),
        };
        Arc::new(Hub {
            options,
            clock,
            served,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            effects: Notify::new(),
        })
    }

    /// The next thing to do for the driver: join or leave. Cancel safe.
    pub async fn next_effect(&self) -> Effect {
        loop {
            let waiting = self.effects.notified();
            if let Some(effect) = self.state().joins.poll() {
                return effect;
            }
            waiting.await;
        }
    }

    /// What to join for a rendition; takes its share of the memory for assembly. `None`: it is no longer on offer.
    ///
    /// # Errors
    /// `E-ASSEMBLY-MEMORY`: no memory is left for it.
    pub fn spec(&self, key: &RenditionKey) -> Result<Option<Spec>, StartupError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let renditions = state.renditions.len() as u64;
        let Some(entry) = state.renditions.get_mut(key) else { return Ok(None) };
        state.assembly.give(std::mem::take(&mut entry.allotted));
        let total = self.options.assembly_memory;
        // Where all are joined, none may take what the others need: half is divided, and half is for who needs it.
        let equal = match self.options.join {
            Policy::Always => total / renditions.max(1),
            Policy::OnDemand { .. } => u64::MAX,
        };
        let want = (entry.assembly_need(total).min(equal) / 2).max(ASSEMBLY_MIN);
        let Some(share) = [want, ASSEMBLY_MIN].into_iter().find(|share| state.assembly.take(*share)) else {
            return Err(StartupError::runtime(
                "E-ASSEMBLY-MEMORY",
                format!("no memory left to assemble objects of {key}"),
                "--assembly-memory with a larger size, or watch fewer renditions at once",
            ));
        };
        entry.allotted = share;
        let verify = state.sessions.get(entry.session).and_then(|s| s.key);
        Ok(Some(Spec {
            key: key.clone(),
            flow: entry.rendition.flow.clone(),
            standby: entry.channel.standby_sources.clone(),
            verify,
            assembly_bytes: share,
            pool: (state.assembly.clone(), total / 2),
            interface: self.options.interface.clone(),
            recv_buffer: self.options.recv_buffer,
        }))
    }

    /// A flow has joined.
    pub fn joined(&self, key: &RenditionKey, flow: Arc<Shared>) {
        let now = self.clock.now();
        let mut state = self.state();
        state.joins.works(key);
        if let Some(entry) = state.renditions.get_mut(key) {
            entry.hearing.joined(now);
            entry.joined_at = Some(now);
            (entry.first_packet, entry.last_packet) = (None, None);
            entry.error.clear();
            entry.stats.begin();
            entry.reach = Reach::new(now);
            entry.reset_layer(now);
            entry.flow = Some(flow);
        }
        drop(state);
        self.changed();
    }

    /// A flow could not join, or its socket failed.
    pub fn failed(&self, key: &RenditionKey, error: &StartupError) {
        let now = self.clock.now();
        let mut state = self.state();
        state.joins.failed(now, key);
        state.end_flow(key);
        if let Some(entry) = state.renditions.get_mut(key) {
            entry.error = error.to_string();
        }
        drop(state);
        self.changed();
    }

    /// A flow has left its groups.
    pub fn left(&self, key: &RenditionKey) {
        self.state().end_flow(key);
        self.changed();
    }

    /// Leaves everything: shutdown.
    pub fn leave_all(&self) {
        self.state().joins.leave_all();
        self.effects.notify_waiters();
    }

    /// Films are kept on disk too.
    pub fn set_disk(&self, disk: Disk) {
        self.state().disk = Some(disk);
    }

    /// Something came of a job of the disk store.
    pub fn disk_done(&self, done: Done) {
        self.with(|state, now| {
            let Some((piece, stored)) = state.disk.as_mut().and_then(|d| d.done(done)) else { return };
            state.keep(now, &piece.resource, stored, Class::Cached { rendition: None });
        });
        self.changed();
    }

    /// Has the index of the disk store written.
    pub fn disk_save(&self) {
        if let Some(disk) = &mut self.state().disk {
            disk.save();
        }
    }

    /// Counts what was refused beside the flows: session descriptions, packets of announcements.
    pub fn refused(&self, drops: &DropCounters) {
        let mut state = self.state();
        drops.iter().for_each(|(reason, n)| state.drops.add(reason, n));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for objects.
    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Runs `change` on the state and wakes the driver if there is something to do.
    fn with<R>(&self, change: impl FnOnce(&mut State, Time) -> R) -> R {
        let result = change(&mut self.state(), self.clock.now());
        self.effects.notify_waiters();
        result
    }
}

impl State {
    fn end_flow(&mut self, key: &RenditionKey) {
        let Some(entry) = self.renditions.get_mut(key) else { return };
        entry.absorb(&mut self.drops);
        entry.stats.end();
        entry.flow = None;
        entry.joined_at = None;
        self.assembly.give(std::mem::take(&mut entry.allotted));
        let flying = std::mem::take(&mut entry.flying);
        for (resource, toi) in flying {
            self.land(&resource, key, toi);
        }
        self.store.unpin(key);
    }

    /// A flight has ended.
    fn land(&mut self, resource: &ResourceKey, rendition: &RenditionKey, toi: Toi) {
        if let Some(flights) = self.flights.get_mut(resource) {
            flights.retain(|f| f.toi != toi || f.rendition != *rendition);
            if flights.is_empty() {
                self.flights.remove(resource);
            }
        }
    }

    /// Puts an object into the store, and lets film objects that had to make way be collected again.
    fn keep(&mut self, now: Time, key: &ResourceKey, stored: Arc<Stored>, class: Class) -> bool {
        let kept = self.store.insert(now, key, stored, class);
        for gone in self.store.take_evicted() {
            if let Some((rendition, toi)) = self.origins.remove(&gone)
                && let Some(flow) = self.renditions.get(&rendition).and_then(|e| e.flow.as_ref())
            {
                flow.tell(Control::Reopen(toi));
            }
        }
        kept
    }
}

impl Entry {
    fn target(&self) -> Duration {
        Duration::from_millis(self.channel.target_duration_ms)
    }

    /// Longest part, of a channel that is carried part by part.
    fn part_target(&self) -> Option<Duration> {
        self.channel.part_target_ms.map(Duration::from_millis)
    }

    /// Memory that eight segments of the declared rate need (segments vary, several are under assembly at a time), from 6 MiB
    /// (2 MiB for manifests and text) to half of everything; half where the rate is not known.
    fn assembly_need(&self, total: u64) -> u64 {
        let most = total / 2;
        let least = match self.rendition.role {
            Role::Manifest | Role::Text => 2 << 20,
            Role::Video | Role::Audio | Role::Other => 6 << 20,
        };
        if self.rendition.bitrate_bps == 0 {
            return most;
        }
        let segment =
            self.rendition.bitrate_bps.saturating_mul(self.channel.target_duration_ms.max(1000)) / 8000;
        segment.saturating_mul(8).max(least).min(most)
    }

    fn flow_rate(&self) -> FlowRate {
        let flow = &self.rendition.flow;
        FlowRate {
            rate_bps: flow.rate_bps,
            symbol_size: flow.symbol_size,
            repair_percent: self.repair_percent(),
            loss: self.stats.loss().before_fec().unwrap_or_default(),
        }
    }

    /// Takes over what the flow has noted since the last time.
    fn listen(&mut self) {
        let Some(flow) = &self.flow else { return };
        self.last_packet = flow.last_packet();
        self.first_packet = self.first_packet.or(self.last_packet);
        // What a subscription brings comes as packets would.
        if let Some(at) = self.last_packet.max(flow.last_object()) {
            self.hearing.packets(at);
        }
    }

    /// Adds what the engine counted; returns the bytes that came.
    fn absorb(&mut self, drops: &mut DropCounters) -> u64 {
        self.listen();
        let Some(flow) = &self.flow else { return 0 };
        let now = flow.session().stats().clone();
        self.stats.absorb(&now, flow.kernel_drops(), flow.wrong_source(), drops)
    }
}

impl Flight {
    fn range(&self) -> ByteRange {
        let last = self.meta.length.saturating_sub(1);
        self.meta.range.unwrap_or(ByteRange { first: 0, last, complete: Some(self.meta.length) })
    }
}

/// The URL of an object: absolute, or (foreign senders) relative to the group's address.
fn object_url(entry: &Entry, location: &str) -> Option<Url> {
    match Url::parse(location) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Some(url),
        Ok(_) => None,
        Err(url::ParseError::RelativeUrlWithoutBase) => {
            let endpoint = entry.rendition.flow.endpoint;
            let base = format!("http://{}/", std::net::SocketAddr::new(endpoint.group, endpoint.port));
            Url::parse(&base).ok()?.join(location).ok()
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
