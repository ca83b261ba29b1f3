//! The tracks of a channel: what was published, and symbols made on demand. Windows hold the newest objects for those who subscribe;
//! what has left them is got from where it is kept ([`Shelf`]) when somebody fetches it.
//!
//! Groups of the live tracks are numbered in the order in which objects are published, from the wall clock on: those of a publisher
//! that was restarted are larger than those before (MSF). The record of an object and the object have the same number. TOIs follow
//! from content and have no order: they are the groups of the tracks that are only fetched from.

use crate::catalog::{self, Catalog, Kind};
use crate::past::Past;
pub use crate::past::{Asked, Shelf};
use crate::plane::{Asker, Boxed, Fetched, Object, Refusal, Source};
use crate::rendition::Rendition;
pub use crate::rendition::{KNOWN_OBJECTS, Windows};
use crate::symbols::SymbolRange;
use crate::track::{Track, TrackConfig};
use crate::wire::{Location, LocationRange, TrackName, request_error};
use bytes::Bytes;
use mahp_common::catalog::Channel;
use mahp_common::repair::ObjectId;
use mahp_common::{ObjectKind, ObjectMeta, Sbn, Toi, WallTime};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Subscriptions to the media of one rendition: when multicast fails for everybody, they must not all become unicast here. Further
/// ones are told to wait, and their receivers go on with what HTTP brings.
pub const SUBSCRIBERS: usize = 200;
/// When to subscribe again.
const FULL: Duration = Duration::from_secs(5);
/// Encoders at a time.
const ENCODERS: usize = 2;

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelStats {
    /// Objects published.
    pub objects: u64,
    /// Bytes held for FETCH, all tracks.
    pub held_bytes: u64,
    /// Symbols made.
    pub symbols: u64,
    /// Requests for symbols, and subscriptions, that were told to wait.
    pub busy: u64,
    /// Requests for symbols that were told to wait for multicast.
    pub deferred: u64,
}

/// See the module.
#[derive(Debug)]
pub struct ChannelTracks {
    catalog: Arc<Track>,
    /// The newest, and its group.
    described: Mutex<(Catalog, u64)>,
    renditions: BTreeMap<String, Rendition>,
    past: Arc<Past>,
    encoders: Arc<Semaphore>,
    objects: AtomicU64,
    symbols: AtomicU64,
    busy: AtomicU64,
    deferred: AtomicU64,
    lacks: OnceLock<Arc<dyn Lacks>>,
}

/// Hears who lacks symbols, so that what many lack is multicast once.
pub trait Lacks: fmt::Debug + Send + Sync {
    /// Somebody asks for symbols of a block. The time to tell it to come again after, as they may come by multicast until then;
    /// none: it is answered.
    fn asked(&self, asker: &Asker, id: ObjectId, sbn: Sbn, symbols: u32) -> Option<Duration>;
}

impl ChannelTracks {
    /// A channel without objects. `key`: the sender's public key, base64. `windows`: of each rendition. `shelves`: where what has left
    /// them is, asked in this order.
    pub fn new(
        channel: &Channel,
        key: &str,
        windows: &Windows,
        shelves: Vec<Arc<dyn Shelf>>,
        wall: WallTime,
    ) -> ChannelTracks {
        let first_group = wall.unix_millis();
        // The newest is kept, and the end of its group.
        let catalog = Track::new(TrackConfig { priority: 0, objects: 2, ..TrackConfig::default() });
        let described = Catalog::of(channel, key, wall.unix_millis());
        describe(&catalog, first_group, &described);
        let renditions =
            channel.renditions.iter().map(|r| (r.id.clone(), Rendition::new(r, windows, first_group)));
        ChannelTracks {
            catalog: Arc::new(catalog),
            described: Mutex::new((described, first_group)),
            renditions: renditions.collect(),
            past: Arc::new(Past::new(shelves)),
            encoders: Arc::new(Semaphore::new(ENCODERS)),
            objects: AtomicU64::new(0),
            symbols: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            lacks: OnceLock::new(),
        }
    }

    /// Who hears of lacks. Once.
    pub fn set_lacks(&self, lacks: Arc<dyn Lacks>) {
        let _ = self.lacks.set(lacks);
    }

    /// Publishes an object: its record first, then itself. One that is in its window already (a carousel sends it again) and one of an
    /// unknown rendition are left out. `meta`: what the record says of it.
    pub fn publish(&self, rendition: &str, toi: Toi, meta: &ObjectMeta, record: Bytes, data: Bytes) {
        if meta.kind == ObjectKind::Init {
            self.initialize(rendition, &data);
        }
        if self.renditions.get(rendition).is_some_and(|r| r.publish(toi, meta, record, data)) {
            self.objects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says in a new catalog what players need to start, if it is news.
    fn initialize(&self, rendition: &str, init: &[u8]) {
        let (catalog, group) = &mut *self.described.lock().unwrap_or_else(PoisonError::into_inner);
        if catalog.initialize(rendition, init) {
            *group += 1;
            describe(&self.catalog, *group, catalog);
        }
    }

    /// Renditions of which somebody has subscribed to a track.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        self.renditions.iter().filter(|(_, r)| r.is_watched()).map(|(id, _)| id.as_str())
    }

    /// Whether the groups of a track are TOIs.
    pub fn is_by_toi(&self, name: &TrackName) -> bool {
        self.find(name).is_some_and(|(_, kind)| matches!(kind, Kind::Symbols | Kind::Objects))
    }

    /// Counters.
    pub fn stats(&self) -> ChannelStats {
        ChannelStats {
            objects: self.objects.load(Ordering::Relaxed),
            held_bytes: self.renditions.values().map(Rendition::bytes).sum::<usize>() as u64,
            symbols: self.symbols.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
            deferred: self.deferred.load(Ordering::Relaxed),
        }
    }

    /// Symbols for somebody, unless they are sent to all who lack some.
    async fn symbols(
        &self,
        asker: &Asker,
        rendition: &Rendition,
        range: LocationRange,
    ) -> Result<Fetched, Refusal> {
        let asked = SymbolRange::of(range)?;
        let id = ObjectId { tsi: rendition.tsi, toi: asked.toi };
        let wait = self.lacks.get().and_then(|lacks| lacks.asked(asker, id, asked.sbn, asked.count));
        if let Some(wait) = wait {
            self.deferred.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::excessive_load("these symbols may come by multicast", wait));
        }
        self.make(asker, rendition, &asked, range).await.inspect_err(|refusal| {
            if refusal.code == request_error::EXCESSIVE_LOAD {
                self.busy.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    fn find(&self, name: &TrackName) -> Option<(&Rendition, Kind)> {
        let name = std::str::from_utf8(&name.name).ok()?;
        let (rendition, kind) = Kind::of(name, |r| self.renditions.contains_key(r))?;
        Some((self.renditions.get(rendition)?, kind))
    }

    /// Room first, then the object, then an encoder: who waits for one holds nothing that memory would not hold without him.
    async fn make(
        &self,
        asker: &Asker,
        rendition: &Rendition,
        asked: &SymbolRange,
        range: LocationRange,
    ) -> Result<Fetched, Refusal> {
        let failed = || Refusal::new(request_error::INTERNAL, "symbols could not be made");
        let charge = rendition.charge(asked, asker.address)?;
        let held = asker.room.take(asked.count as usize * usize::from(rendition.symbol_size))?;
        let job = rendition.job(&self.past, asked).await?;
        let turn = self.encoders.clone().acquire_owned().await.map_err(|_| failed())?;
        // Whoever goes away now has had them made: the work goes on, and is counted.
        charge.keep();
        let work = move || (job.run(), drop(turn)).0;
        let made = tokio::task::spawn_blocking(work).await.map_err(|_| failed())?;
        if made.repair.len() != asked.count as usize {
            return Err(failed());
        }
        self.symbols.fetch_add(u64::from(asked.count), Ordering::Relaxed);
        let objects = made.repair.into_iter().map(|(esi, symbol)| {
            let object = u64::from(asked.sbn.0) << 24 | u64::from(esi.0);
            Object::new(Location::new(range.start.group, object), symbol.into())
        });
        Ok(Fetched { held, ..Fetched::of(range.end, objects) })
    }
}

fn describe(track: &Track, group: u64, catalog: &Catalog) {
    track.push(Object::new(Location::new(group, 0), catalog.to_json().into()));
    track.end_group(group);
}

impl Source for ChannelTracks {
    fn track<'a>(&'a self, name: &'a TrackName) -> Boxed<'a, Result<Arc<Track>, Refusal>> {
        Box::pin(async move {
            if name.name == catalog::TRACK.as_bytes() {
                return Ok(self.catalog.clone());
            }
            let missing = || Refusal::does_not_exist("no such track");
            match self.find(name).ok_or_else(missing)? {
                (r, Kind::Media) if r.media.watchers() >= SUBSCRIBERS => {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                    Err(Refusal::excessive_load("as many receivers are served as can be", FULL))
                }
                (r, Kind::Media) => Ok(r.media.clone()),
                (r, Kind::Documents) => Ok(r.documents.clone()),
                (r, Kind::Manifest) => Ok(r.records.clone()),
                (_, Kind::Symbols | Kind::Objects) => {
                    Err(Refusal::new(request_error::NOT_SUPPORTED, "this track is for FETCH"))
                }
            }
        })
    }

    fn fetch<'a>(
        &'a self,
        asker: &'a Asker,
        name: &'a TrackName,
        range: LocationRange,
    ) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            match self.find(name) {
                Some((r, Kind::Symbols)) => self.symbols(asker, r, range).await,
                Some((r, Kind::Objects)) => r.whole(&self.past, range).await,
                Some((r, Kind::Media)) => r.fetch(&self.past, true, range).await,
                Some((r, Kind::Documents)) => r.fetch(&self.past, false, range).await,
                _ => self.track(name).await?.fetch(range),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::catalog::Format;

    #[tokio::test]
    async fn the_catalog_follows_the_initialization_segment() {
        let channel = catalog::tests::channel(1);
        assert_eq!(channel.format, Format::Hls);
        let windows = Windows { media: 1000, documents: 1000, records: 1000 };
        let tracks = ChannelTracks::new(&channel, "a2V5", &windows, Vec::new(), WallTime::from_unix_secs(7));
        let name = TrackName::new(crate::publisher::namespace("news"), catalog::TRACK);
        let newest = async || {
            let all = LocationRange::groups(0, u64::MAX);
            let got = tracks.fetch(&Asker::ourselves(), &name, all).await.unwrap().all().await.unwrap();
            assert_eq!(got.len(), 1, "one is kept");
            (got[0].at.group, Catalog::parse(&got[0].payload).unwrap())
        };
        let (first, before) = newest().await;
        assert!(before.init_data_list.is_empty());
        let meta = ObjectMeta { kind: ObjectKind::Init, ..ObjectMeta::default() };
        for (toi, init) in [(1, &b"\0\0\0\x08ftyp"[..]), (2, b"\0\0\0\x08ftyp"), (3, b"not MP4...")] {
            tracks.publish("v0", Toi(toi), &meta, Bytes::from_static(b"record"), Bytes::from_static(init));
            let (group, after) = newest().await;
            assert_eq!((group, after.init_data_list.len()), (first + 1, 1));
        }
    }
}
