//! What the recovery asks the hub: which objects in flight should be completed by when, and how each rendition is received.

use super::{Entry, Flight, Hub, State};
use crate::config::SessionSource;
use crate::flow::Control;
use crate::library::Library;
use crate::urls::RenditionKey;
use mahp_common::auth::VerifyingKey;
use mahp_common::catalog::{Channel, Flow, Role};
use mahp_common::recipe::Recipe;
use mahp_common::repair::plan::ObjectKey;
use mahp_common::repair::report::RUN_BINS;
use mahp_common::session::recv::{ByPath, Lack};
use mahp_common::{ObjectKind, ObjectMeta, Payload, Time, Toi, Tsi};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A rendition of which nobody asked anything for longer than this (and three target durations) is not watched.
const WATCHED: Duration = Duration::from_secs(10);
/// A player that waits gets an object within this time.
const PATIENCE: Duration = Duration::from_secs(3);
/// A part of a low-latency playlist is completed this much later than its duration: its loss is mended as soon as it is revealed.
const PART_PATIENCE: Duration = Duration::from_millis(1200);

/// A disk has read an object by then.
const DISK_TIME: Duration = Duration::from_secs(2);

/// An object in flight that should be completed.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its number.
    pub key: ObjectKey,
    /// Its rendition.
    pub rendition: RenditionKey,
    /// TSI of its source flow.
    pub tsi: Tsi,
    /// Its description.
    pub meta: ObjectMeta,
    /// What it lacks.
    pub lack: Lack,
    /// Pacing rate of its flow.
    pub rate_bps: u64,
    /// Repair share of its flow, all layers that are joined.
    pub repair_percent: u32,
    /// By when it should be here.
    pub deadline: Time,
    /// Repair servers and their weights.
    pub servers: Vec<(Url, u32)>,
    /// Whether the origin has it: it has no recipes.
    pub origin: bool,
    /// Where reports go.
    pub report_url: Option<Url>,
}

/// How a rendition is received, since the program started.
#[derive(Clone, Debug)]
pub struct Received {
    /// The rendition.
    pub rendition: RenditionKey,
    /// TSI of its source flow.
    pub tsi: Tsi,
    /// Packets.
    pub packets: u64,
    /// Source symbols.
    pub source: u64,
    /// Repair symbols.
    pub repair: u64,
    /// Source symbols of finished objects.
    pub expected: u64,
    /// Of these, not heard on multicast.
    pub lost: u64,
    /// Rebuilt by the decoder.
    pub recovered: u64,
    /// Bytes of objects by way.
    pub bytes: ByPath,
    /// Runs of lost source symbols.
    pub runs: [u64; RUN_BINS],
    /// From the join to the first packet, milliseconds.
    pub join_ms: Option<u64>,
    /// The second repair layer is joined.
    pub layer_2: bool,
}

/// A joined rendition that somebody watches and a MoQ publisher has.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The rendition.
    pub rendition: RenditionKey,
    /// Its publisher.
    pub publisher: Url,
    /// Its place on multicast.
    pub flow: Flow,
    /// Key of its FDT Instances.
    pub key: Option<VerifyingKey>,
    /// Live, and no packet came for longer than it should take, or too few do: its objects are to be subscribed to.
    pub poor: bool,
}

impl Followed {
    /// Whether both are the same but for what comes.
    pub fn is_same(&self, other: &Followed) -> bool {
        let what = |f: &Followed| (f.rendition.clone(), f.publisher.clone(), f.flow.clone(), f.key);
        what(self) == what(other)
    }
}

/// A channel that a MoQ publisher has.
#[derive(Clone, Debug, PartialEq)]
pub struct Relayed {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Its publisher.
    pub publisher: Url,
    /// Key of its sender.
    pub key: VerifyingKey,
}

/// Where the bytes of an object are.
enum Place {
    Memory(Payload),
    /// And they are being read: [`Library::changes`] tells when they are in memory.
    Disk,
    Nowhere,
}

impl Received {
    /// Nothing yet.
    pub fn new(rendition: RenditionKey, tsi: Tsi) -> Received {
        Received {
            rendition,
            tsi,
            packets: 0,
            source: 0,
            repair: 0,
            expected: 0,
            lost: 0,
            recovered: 0,
            bytes: ByPath::default(),
            runs: [0; RUN_BINS],
            join_ms: None,
            layer_2: false,
        }
    }
}

impl Hub {
    /// Objects in flight that somebody waits for or will soon ask for.
    pub fn wanted(&self) -> Vec<Wanted> {
        let now = self.clock.now();
        let state = self.state();
        let instead = self.options.publisher.as_ref();
        state.flights.values().flatten().filter_map(|flight| state.wanted(now, flight, instead)).collect()
    }

    /// Until when the recovery does something for these objects.
    pub fn set_hopes(&self, hopes: HashMap<ObjectKey, Time>) {
        self.state().hopes = hopes;
    }

    /// Tells the flow of a rendition, if it is joined.
    pub fn tell(&self, rendition: &RenditionKey, control: Control) {
        if let Some(flow) = self.state().renditions.get(rendition).and_then(|e| e.flow.as_ref()) {
            flow.tell(control);
        }
    }

    /// What of what somebody watches a MoQ publisher has.
    pub fn followed(&self) -> Vec<Followed> {
        let now = self.clock.now();
        let mut state = self.state();
        let State { renditions, sessions, .. } = &mut *state;
        let watched: Vec<RenditionKey> =
            renditions.iter().filter(|(_, e)| e.is_watched(now)).map(|(k, _)| k.clone()).collect();
        let mut poor_channels = BTreeSet::new();
        let mut followed = Vec::new();
        for (key, entry) in renditions {
            let wanted = match entry.rendition.role {
                Role::Manifest => watched.iter().any(|w| w.channel == key.channel),
                _ => watched.contains(key),
            };
            let publisher = publisher(&entry.channel, self.options.publisher.as_ref());
            let (Some(publisher), true, true) = (publisher, wanted, entry.flow.is_some()) else { continue };
            let poor = entry.look_at_reach(now);
            if poor {
                poor_channels.insert(key.channel.clone());
            }
            let rendition = key.clone();
            let key = sessions.get(entry.session).and_then(|s| s.key);
            let flow = entry.rendition.flow.clone();
            followed.push((entry.rendition.role, Followed { rendition, publisher, flow, key, poor }));
        }
        // A manifest is too small to tell, and useless without the rest.
        for (role, what) in &mut followed {
            what.poor |= *role == Role::Manifest && poor_channels.contains(&what.rendition.channel);
        }
        followed.into_iter().map(|(_, what)| what).collect()
    }

    /// The channels that MoQ publishers have.
    pub fn relayed(&self) -> Vec<Relayed> {
        let state = self.state();
        let one = |channel: &Arc<Channel>| {
            let publisher = publisher(channel, self.options.publisher.as_ref())?;
            let entry = state.renditions.iter().find(|(k, _)| *k.channel == *channel.name)?.1;
            let key = state.sessions.get(entry.session)?.key?;
            Some(Relayed { channel: channel.clone(), publisher, key })
        };
        state.channels.iter().filter_map(one).collect()
    }

    /// Somebody watches a rendition, other than by HTTP.
    pub fn watch(&self, rendition: &RenditionKey) {
        self.with(|state, now| {
            state.joins.demand(now, rendition);
            if let Some(entry) = state.renditions.get_mut(rendition) {
                entry.wanted_at = Some(now);
            }
        });
    }

    /// The bytes of an object, or of what has its place now (which its digest tells), if they are in the store: in memory or on disk.
    pub async fn stored(&self, meta: &ObjectMeta) -> Option<Payload> {
        let mut changes = self.changes();
        let found = async {
            loop {
                changes.borrow_and_update();
                match self.look_for(meta) {
                    Place::Memory(payload) => return Some(payload),
                    Place::Disk => changes.changed().await.ok()?,
                    Place::Nowhere => return None,
                }
            }
        };
        tokio::time::timeout(DISK_TIME, found).await.ok()?
    }

    fn look_for(&self, meta: &ObjectMeta) -> Place {
        let Ok(url) = Url::parse(&meta.url) else { return Place::Nowhere };
        let mut state = self.state();
        let key = state.urls.described_key(&url);
        let range = meta.range.map(|r| (r.first, r.last));
        if let Some((payload, _)) = state.bytes_of(&key, range) {
            return Place::Memory(payload);
        }
        let range = range.map(|(first, last)| (first, Some(last)));
        match state.disk.as_mut().is_some_and(|disk| disk.request(&key, range)) {
            true => Place::Disk,
            false => Place::Nowhere,
        }
    }

    /// Byte ranges that an object lacks, merged over gaps.
    pub fn missing_ranges(&self, rendition: &RenditionKey, toi: Toi, merge: u64) -> Vec<(u64, u64)> {
        let flow = self.state().renditions.get(rendition).and_then(|e| e.flow.clone());
        flow.map(|f| f.session().missing_ranges(toi, merge)).unwrap_or_default()
    }

    /// How each joined rendition is received, and where that is reported.
    pub fn reception(&self) -> Vec<(Url, Received)> {
        let state = self.state();
        let one = |(key, entry): (&RenditionKey, &Entry)| {
            entry.flow.as_ref()?;
            let url = state.resolve(entry.session, entry.channel.report_url.as_ref()?)?;
            let c = &entry.stats.counts;
            let received = Received {
                packets: c.packets,
                source: c.source_symbols,
                repair: c.repair_symbols,
                expected: c.expected_symbols,
                lost: c.lost_symbols,
                recovered: c.recovered_symbols,
                bytes: c.object_bytes,
                runs: c.loss_runs,
                layer_2: entry.is_in_layer_2(),
                join_ms: entry.join_delay().map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
                ..Received::new(key.clone(), entry.rendition.flow.endpoint.tsi)
            };
            Some((url, received))
        };
        state.renditions.iter().filter_map(one).collect()
    }
}

/// Where a channel is published over MoQ. `instead`: what the operator says.
fn publisher(channel: &Channel, instead: Option<&Url>) -> Option<Url> {
    let own = || Url::parse(channel.moq_url.as_deref()?).ok().filter(|u| u.scheme() == "moqt");
    instead.cloned().or_else(own)
}

impl State {
    fn wanted(&self, now: Time, flight: &Flight, instead: Option<&Url>) -> Option<Wanted> {
        let entry = self.renditions.get(&flight.rendition)?;
        // A manifest has a successor soon, and players' requests bring the one of the origin.
        if flight.meta.kind == ObjectKind::Manifest {
            return None;
        }
        let deadline = entry.deadline(now, flight)?;
        let lack = entry.flow.as_ref()?.session().lack(flight.toi)?;
        let channel = &entry.channel;
        let servers = channel
            .repair_servers
            .iter()
            .filter_map(|s| Some((self.resolve(entry.session, &s.url)?, s.weight)))
            .chain(publisher(channel, instead).map(|url| (url, 1)))
            .collect();
        Some(Wanted {
            key: ObjectKey(flight.number),
            rendition: flight.rendition.clone(),
            tsi: entry.rendition.flow.endpoint.tsi,
            meta: flight.meta.clone(),
            lack,
            rate_bps: entry.rendition.flow.rate_bps,
            repair_percent: entry.repair_percent(),
            deadline,
            servers,
            origin: !Recipe::is(&flight.meta),
            report_url: channel.report_url.as_ref().and_then(|url| self.resolve(entry.session, url)),
        })
    }

    /// An absolute URL out of a description, or one relative to where that was had.
    fn resolve(&self, session: usize, url: &str) -> Option<Url> {
        let resolved = match &self.sessions.get(session)?.source {
            SessionSource::Url(base) => base.join(url),
            SessionSource::Multicast { .. } => Url::parse(url),
        };
        resolved.ok().filter(|u| matches!(u.scheme(), "http" | "https"))
    }

    /// Until when the recovery does something for a flight.
    pub(super) fn hope(&self, now: Time, flight: &Flight) -> Option<Time> {
        self.hopes.get(&ObjectKey(flight.number)).copied().filter(|at| *at > now)
    }
}

impl Entry {
    /// By when an object is needed: soon after a player has asked for it; of a live channel that is watched, before its players
    /// run out of what they have. `None`: nobody needs it, as what is sent of a live channel's past.
    fn deadline(&self, now: Time, flight: &Flight) -> Option<Time> {
        let target = self.target();
        let live = self.channel.live && !flight.meta.is_past() && self.is_watched(now);
        let part = self.part_target().map(|part| part + PART_PATIENCE);
        let usual = target.max(Duration::from_secs(2)) * 3 / 2;
        let by_clock = live.then(|| flight.at + part.unwrap_or(usual));
        let by_player = flight.asked_at.map(|at| at + PATIENCE);
        by_clock.into_iter().chain(by_player).min()
    }

    fn is_watched(&self, now: Time) -> bool {
        self.wanted_at.is_some_and(|at| now - at < WATCHED.max(self.target() * 3))
    }

    /// An object is being sent: what should come of it.
    pub(super) fn expect(&mut self, now: Time, meta: &ObjectMeta) {
        // What is described for the first time soon after the join may be nearly through.
        let under_way = self.part_target().unwrap_or_else(|| self.target());
        if self.joined_at.is_none_or(|at| now - at < under_way) {
            return;
        }
        let flow = &self.rendition.flow;
        let symbols = meta.length.div_ceil(u64::from(flow.symbol_size.max(1)));
        // Where repair symbols come in the same session, they count as well.
        let repair = if flow.repair.is_none() { u64::from(flow.repair_percent) } else { 0 };
        let packets = symbols.saturating_mul(100 + repair) / 100;
        let bits = packets.saturating_mul(u64::from(flow.symbol_size) * 8);
        let over = bits.saturating_mul(1000).checked_div(flow.rate_bps).unwrap_or(0);
        self.reach.described(now, packets, Duration::from_millis(over));
    }

    /// Whether its objects are to be subscribed to.
    fn look_at_reach(&mut self, now: Time) -> bool {
        let Some(flow) = &self.flow else { return false };
        let heard = flow.session().stats().source_packets;
        self.channel.live && self.reach.look(now, heard, self.is_silent(now))
    }

    /// A live rendition of which no packets come although it is joined.
    fn is_silent(&self, now: Time) -> bool {
        let heard = self.flow.as_ref().and_then(|f| f.last_packet()).max(self.joined_at);
        self.channel.live && heard.is_some_and(|at| now - at > self.hearing.silence_limit())
    }

    /// From the join to the first packet.
    fn join_delay(&self) -> Option<Duration> {
        Some(self.first_packet? - self.joined_at?)
    }
}
