//! Relay for others on the LAN: the tracks of the channels, served from what this receiver has.
//!
//! An object is published here when it is complete, with the sender's signed record of it, which this receiver had from the
//! sender's publisher; whoever asks here can verify both. Only the newest are kept for those who subscribe: what is fetched later
//! comes from the receiver's store, in memory or on disk, for as long as that has it ([`shelves`](super::shelves)). What is not here,
//! and symbols and objects that are asked for by TOI and are not, are asked from that publisher. A subscription counts as somebody
//! who watches: groups are joined for it.

use super::fetch::Publishers;
use super::shelves::{OwnStore, TURNS, Upstream};
use crate::config::Moq;
use crate::hub::recover::Relayed;
use crate::recovery::client::count;
use crate::urls::RenditionKey;
use bytes::Bytes;
use mahp_common::{ObjectMeta, Payload, Toi};
use mahp_moq::channel::{ChannelTracks, Shelf, Windows};
use mahp_moq::exchange::Offer;
use mahp_moq::plane::{Asker, Boxed, Fetched, Refusal, Source};
use mahp_moq::publisher::namespace;
use mahp_moq::quic::{Identity, Limits, Listener, ListenerStats};
use mahp_moq::wire::LocationRange;
use mahp_moq::{Exchange, Track, TrackName};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use metrics::{counter, gauge};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Kept of each rendition for those who subscribe. The store has the rest.
const WINDOWS: Windows = Windows { media: 4 << 20, documents: 1 << 20, records: 2 << 20 };
/// What is on offer, and who watches, is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// Objects and records between hub and relay: further ones are left out, and asked from the publisher by whoever needs them.
const QUEUE: usize = 256;
/// Records that wait for their objects, of each channel.
const RECORDS: usize = 1024;
/// Objects that wait for their records, of each channel.
const OBJECTS: usize = 16;
/// Most bytes of one answer of the publisher.
const ANSWER_BYTES: usize = 33 << 20;

/// What this receiver has got and verified.
#[derive(Clone, Debug)]
enum Copy {
    Record(Box<ObjectMeta>, Bytes),
    Object(Payload),
}

/// The way of copies to the relay: without one, nothing happens; what finds it full is left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies(Option<mpsc::Sender<(RenditionKey, Toi, Copy)>>);

impl Copies {
    /// An object is complete.
    pub(crate) fn object(&self, rendition: &RenditionKey, toi: Toi, payload: &Payload) {
        self.give(|| (rendition.clone(), toi, Copy::Object(payload.clone())));
    }

    /// The record of an object has come, which says this of it.
    pub(super) fn record(&self, rendition: &RenditionKey, (toi, meta): (Toi, &ObjectMeta), record: &Bytes) {
        self.give(|| (rendition.clone(), toi, Copy::Record(Box::new(meta.clone()), record.clone())));
    }

    fn give(&self, copy: impl FnOnce() -> (RenditionKey, Toi, Copy)) {
        if let Some(relay) = &self.0
            && relay.try_send(copy()).is_err()
        {
            count("moq_relay_full");
        }
    }
}

/// See the module.
pub(crate) struct Relay {
    listener: Listener,
    exchange: Arc<Exchange>,
    clock: Clock,
    copies: mpsc::Receiver<(RenditionKey, Toi, Copy)>,
    /// Of requests to publishers.
    turns: Arc<Semaphore>,
    channels: BTreeMap<String, Relaying>,
}

struct Relaying {
    what: Relayed,
    tracks: Arc<ChannelTracks>,
    _offer: Offer,
    records: Recent<(Box<ObjectMeta>, Bytes)>,
    objects: Recent<Payload>,
}

/// The newest of something, by rendition and TOI.
struct Recent<T> {
    most: usize,
    order: VecDeque<(RenditionKey, Toi)>,
    held: HashMap<(RenditionKey, Toi), T>,
}

impl<T> Recent<T> {
    fn new(most: usize) -> Recent<T> {
        Recent { most, order: VecDeque::new(), held: HashMap::new() }
    }

    fn put(&mut self, key: (RenditionKey, Toi), value: T) {
        if self.held.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.held.remove(&oldest);
        }
    }

    fn take(&mut self, key: &(RenditionKey, Toi)) -> Option<T> {
        self.order.retain(|k| k != key);
        self.held.remove(key)
    }
}

impl Relay {
    /// Listens where `options` say, with no channel yet; none when they do not. Also the way for copies.
    ///
    /// # Errors
    /// `E-MOQ`: the address is in use, or the certificate cannot be used.
    pub(crate) fn start(options: &Moq, clock: Clock) -> Result<(Option<Relay>, Copies), StartupError> {
        let Some(address) = options.listen else { return Ok((None, Copies::default())) };
        let identity = match &options.certificate {
            Some((chain, key)) => Identity::from_files(chain, key),
            None => Identity::self_signed(&["localhost".to_owned()]),
        };
        let identity = identity.map_err(|e| {
            let hint = "give PEM files with --moq-certificate and --moq-certificate-key, or neither";
            StartupError::usage("E-MOQ", format!("cannot serve MoQ: {e}"), hint)
        })?;
        let exchange = Exchange::new();
        let listener = Listener::bind(address, &identity, exchange.clone(), Limits::small());
        let bound = listener.and_then(|l| l.local_addr().map(|address| (l, address)));
        let (listener, bound) = bound.map_err(|e| {
            let what = format!("cannot listen for MoQ on UDP {address}: {e}");
            StartupError::usage("E-MOQ", what, "choose another address with --moq-listen, or leave it out")
        })?;
        mahp_runtime::say::line(format_args!("MoQ for others: {}", url(bound, &identity)));
        let (to, copies) = mpsc::channel(QUEUE);
        let turns = Arc::new(Semaphore::new(TURNS));
        let channels = BTreeMap::new();
        let relay = Relay { listener, exchange, clock, copies, turns, channels };
        Ok((Some(relay), Copies(Some(to))))
    }

    /// Until dropped. What is not here is asked from the publishers.
    pub(crate) async fn run(mut self, publishers: Publishers) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    self.look(&publishers);
                    publish(&self.listener.stats());
                }
                copy = self.copies.recv() => match copy {
                    Some((rendition, toi, copy)) => self.take((rendition, toi), copy),
                    None => return,
                },
            }
        }
    }

    /// Offers what is on offer, and tells the hub what somebody watches here.
    fn look(&mut self, publishers: &Publishers) {
        let relayed = publishers.hub.relayed();
        self.channels.retain(|_, r| relayed.contains(&r.what));
        for what in relayed {
            if self.channels.contains_key(&what.channel.name) {
                continue;
            }
            let key = what.key.to_base64();
            let upstream = Upstream {
                channel: what.channel.name.clone(),
                sessions: publishers.sessions.clone(),
                publisher: what.publisher.clone(),
                turns: self.turns.clone(),
            };
            let shelves: Vec<Arc<dyn Shelf>> =
                vec![Arc::new(OwnStore(publishers.hub.clone())), Arc::new(upstream.clone())];
            let wall = self.clock.wall();
            let tracks = Arc::new(ChannelTracks::new(&what.channel, &key, &WINDOWS, shelves, wall));
            let source = Arc::new(Local { tracks: tracks.clone(), upstream });
            let offer = match self.exchange.offer(namespace(&what.channel.name), source) {
                Ok(offer) => offer,
                Err(e) => {
                    tracing::warn!(channel = what.channel.name, "not served over MoQ: {e}");
                    continue;
                }
            };
            let (records, objects) = (Recent::new(RECORDS), Recent::new(OBJECTS));
            let name = what.channel.name.clone();
            self.channels.insert(name, Relaying { what, tracks, _offer: offer, records, objects });
        }
        for (channel, relaying) in &self.channels {
            for rendition in relaying.tracks.watched() {
                publishers.hub.watch(&RenditionKey::new(channel, rendition));
            }
        }
    }

    /// Publishes an object as soon as both are here, it and its record.
    fn take(&mut self, key: (RenditionKey, Toi), copy: Copy) {
        let Some(relaying) = self.channels.get_mut(&*key.0.channel) else { return };
        match copy {
            Copy::Record(meta, record) => relaying.records.put(key.clone(), (meta, record)),
            Copy::Object(payload) => relaying.objects.put(key.clone(), payload),
        }
        let Some((meta, record)) = relaying.records.held.get(&key).cloned() else { return };
        let Some(payload) = relaying.objects.take(&key) else { return };
        relaying.tracks.publish(&key.0.rendition, key.1, &meta, record, payload.to_bytes());
    }
}

/// Brings the metrics up to date.
fn publish(stats: &ListenerStats) {
    let ListenerStats { sessions, failed, carried, held_bytes } = stats;
    gauge!("mahp_receiver_moq_sessions").set(*sessions as f64);
    gauge!("mahp_receiver_moq_held_bytes").set(*held_bytes as f64);
    counter!("mahp_receiver_moq_failed_sessions_total").absolute(*failed);
    counter!("mahp_receiver_moq_violations_total").absolute(carried.violations);
    counter!("mahp_receiver_moq_bytes_total").absolute(carried.bytes_out);
    for (code, n) in carried.refused() {
        counter!("mahp_receiver_moq_refusals_total", "code" => code).absolute(n);
    }
}

fn url(address: SocketAddr, identity: &Identity) -> String {
    format!("moqt://{address}/#sha256={}", identity.fingerprint())
}

/// A channel's tracks, and behind them its publisher.
struct Local {
    tracks: Arc<ChannelTracks>,
    upstream: Upstream,
}

impl Source for Local {
    fn track<'a>(&'a self, name: &'a TrackName) -> Boxed<'a, Result<Arc<Track>, Refusal>> {
        self.tracks.track(name)
    }

    fn fetch<'a>(
        &'a self,
        asker: &'a Asker,
        name: &'a TrackName,
        range: LocationRange,
    ) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            match self.tracks.fetch(asker, name, range).await {
                // Groups of the live tracks are numbered here and there on their own; TOIs are the same.
                Err(refusal) if refusal.is_absence() && self.tracks.is_by_toi(name) => {
                    self.upstream.fetch(name, range, ANSWER_BYTES, &asker.room).await
                }
                answer => answer,
            }
        })
    }
}
