//! The tracks of a channel: what was published lately, and symbols made on demand.
//!
//! Groups of the live tracks are numbered in the order in which objects are published, from the wall clock on: those of a publisher
//! that was restarted are larger than those before (MSF). The record of an object and the object have the same number. TOIs follow
//! from content and have no order: they are the groups of the tracks that are only fetched from.

use crate::catalog::{self, Catalog, Kind};
use crate::plane::{Asker, Boxed, Fetched, Object, Refusal, Source};
use crate::symbols::SymbolRange;
use crate::track::{Track, TrackConfig};
use crate::wire::{Location, LocationRange, TrackName, request_error};
use bytes::Bytes;
use mahp_common::catalog::Channel;
use mahp_common::fec::partition::{raptorq_oti, source_oti};
use mahp_common::fec::{Blocks, EncodeJob};
use mahp_common::repair::ObjectId;
use mahp_common::{ObjectKind, Sbn, Toi, Tsi, WallTime};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Records and playlists go before media.
const PRIORITY_MANIFEST: u8 = 32;
const PRIORITY_DOCUMENTS: u8 = 48;
const PRIORITY_MEDIA: u8 = 128;
/// Symbols of one block that are made for all who ask before they are told to wait: repair by multicast costs less then.
const SYMBOLS_PER_BLOCK: u32 = 20_000;
/// When to ask again.
const BUSY: Duration = Duration::from_millis(500);
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
    renditions: BTreeMap<String, Rendition>,
    encoders: Semaphore,
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
    fn asked(&self, asker: Asker, id: ObjectId, sbn: Sbn, symbols: u32) -> Option<Duration>;
}

#[derive(Debug)]
struct Rendition {
    tsi: Tsi,
    symbol_size: u16,
    media: Arc<Track>,
    documents: Arc<Track>,
    manifest: Arc<Track>,
    held: Mutex<Held>,
}

/// The objects in the windows, by TOI.
#[derive(Debug)]
struct Held {
    next_group: u64,
    places: HashMap<Toi, Place>,
}

#[derive(Debug)]
struct Place {
    group: u64,
    is_media: bool,
    /// How it is cut; none: it has no symbols.
    blocks: Option<Blocks>,
    /// Symbols made of each block.
    made: HashMap<u32, u32>,
}

impl ChannelTracks {
    /// A channel without objects. `key`: the sender's public key, base64. `window_bytes`: kept of each rendition for those who come
    /// late or lost something.
    pub fn new(channel: &Channel, key: &str, window_bytes: usize, wall: WallTime) -> ChannelTracks {
        let first_group = wall.unix_millis();
        let catalog = Track::new(TrackConfig { priority: 0, ..TrackConfig::default() });
        let text = Catalog::of(channel, key, wall.unix_millis()).to_json();
        catalog.push(Object::new(Location::new(first_group, 0), text.into()));
        catalog.end_group(first_group);
        let track = |priority, share: usize| {
            let config = TrackConfig { bytes: window_bytes / share, priority, ..TrackConfig::default() };
            Arc::new(Track::new(config))
        };
        let renditions = channel.renditions.iter().map(|r| {
            let rendition = Rendition {
                tsi: r.flow.endpoint.tsi,
                symbol_size: r.flow.symbol_size,
                media: track(PRIORITY_MEDIA, 1),
                documents: track(PRIORITY_DOCUMENTS, 8),
                manifest: track(PRIORITY_MANIFEST, 8),
                held: Mutex::new(Held { next_group: first_group, places: HashMap::new() }),
            };
            (r.id.clone(), rendition)
        });
        ChannelTracks {
            catalog: Arc::new(catalog),
            renditions: renditions.collect(),
            encoders: Semaphore::new(ENCODERS),
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

    /// Publishes an object: its record first, then itself. One that is held already (a carousel sends it again) and one of an unknown
    /// rendition are left out.
    pub fn publish(&self, rendition: &str, toi: Toi, kind: ObjectKind, record: Bytes, data: Bytes) {
        let Some(r) = self.renditions.get(rendition) else { return };
        let is_media = kind == ObjectKind::Media;
        let Some(group) = r.place(toi, is_media, data.len() as u64) else { return };
        for (track, payload) in [(&r.manifest, record), (r.objects(is_media), data)] {
            track.push(Object::new(Location::new(group, 0), payload));
            track.end_group(group);
        }
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// Renditions of which somebody has subscribed to a track.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        let tracks = |r: &Rendition| [r.media.clone(), r.documents.clone(), r.manifest.clone()];
        let watched = self.renditions.iter().filter(move |(_, r)| tracks(r).iter().any(|t| t.is_watched()));
        watched.map(|(id, _)| id.as_str())
    }

    /// Whether the groups of a track are TOIs.
    pub fn is_by_toi(&self, name: &TrackName) -> bool {
        self.find(name).is_some_and(|(_, kind)| matches!(kind, Kind::Symbols | Kind::Objects))
    }

    /// Counters.
    pub fn stats(&self) -> ChannelStats {
        let held = |r: &Rendition| r.media.bytes() + r.documents.bytes() + r.manifest.bytes();
        ChannelStats {
            objects: self.objects.load(Ordering::Relaxed),
            held_bytes: self.renditions.values().map(held).sum::<usize>() as u64,
            symbols: self.symbols.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
            deferred: self.deferred.load(Ordering::Relaxed),
        }
    }

    /// Symbols for somebody, unless they are sent to all who lack some.
    async fn symbols(
        &self,
        asker: Asker,
        rendition: &Rendition,
        range: LocationRange,
    ) -> Result<Fetched, Refusal> {
        let SymbolRange { toi, sbn, count, .. } = SymbolRange::of(range)?;
        let id = ObjectId { tsi: rendition.tsi, toi };
        let wait = self.lacks.get().and_then(|lacks| lacks.asked(asker, id, sbn, count));
        match wait {
            Some(wait) => {
                self.deferred.fetch_add(1, Ordering::Relaxed);
                Err(Refusal::excessive_load("these symbols may come by multicast", wait))
            }
            None => self.make(rendition, range).await,
        }
    }

    fn find(&self, name: &TrackName) -> Option<(&Rendition, Kind)> {
        let name = std::str::from_utf8(&name.name).ok()?;
        let (rendition, kind) = Kind::of(name, |r| self.renditions.contains_key(r))?;
        Some((self.renditions.get(rendition)?, kind))
    }

    async fn make(&self, rendition: &Rendition, range: LocationRange) -> Result<Fetched, Refusal> {
        let asked = SymbolRange::of(range)?;
        let job = rendition.job(&asked).inspect_err(|refusal| {
            if refusal.code == request_error::EXCESSIVE_LOAD {
                self.busy.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        let failed = || Refusal::new(request_error::INTERNAL, "symbols could not be made");
        let _permit = self.encoders.acquire().await.map_err(|_| failed())?;
        let made = tokio::task::spawn_blocking(move || job.run()).await.map_err(|_| failed())?;
        if made.repair.len() != asked.count as usize {
            return Err(failed());
        }
        self.symbols.fetch_add(u64::from(asked.count), Ordering::Relaxed);
        let objects = made.repair.into_iter().map(|(esi, symbol)| {
            let object = u64::from(asked.sbn.0) << 24 | u64::from(esi.0);
            Object::new(Location::new(range.start.group, object), symbol.into())
        });
        Ok(Fetched { end: range.end, end_of_track: false, objects: objects.collect() })
    }
}

fn gone() -> Refusal {
    Refusal::does_not_exist("no such object here (any more)")
}

impl Rendition {
    const fn objects(&self, is_media: bool) -> &Arc<Track> {
        if is_media { &self.media } else { &self.documents }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group for a new object; none: it is held.
    fn place(&self, toi: Toi, is_media: bool, length: u64) -> Option<u64> {
        let held = &mut *self.held();
        // What the windows have let go of is gone.
        let oldest = |is_media| self.objects(is_media).oldest().map_or(0, |at| at.group);
        let (media, documents) = (oldest(true), oldest(false));
        held.places.retain(|_, place| place.group >= if place.is_media { media } else { documents });
        if held.places.contains_key(&toi) {
            return None;
        }
        let oti =
            raptorq_oti(length, self.symbol_size).unwrap_or_else(|| source_oti(length, self.symbol_size));
        let blocks = Blocks::of(&oti, u64::MAX).ok();
        let group = held.next_group;
        held.next_group += 1;
        held.places.insert(toi, Place { group, is_media, blocks, made: HashMap::new() });
        Some(group)
    }

    /// The whole object with a TOI, which is the group here.
    fn whole(&self, range: LocationRange) -> Result<Fetched, Refusal> {
        let toi = range.start.group;
        if range != LocationRange::objects(toi, 0, 1) {
            return Err(Refusal::invalid_range("one object at a time is fetched by its TOI"));
        }
        let place = self.held().places.get(&Toi(toi.into())).map(|p| (p.group, p.is_media));
        let (group, is_media) = place.ok_or_else(gone)?;
        let object = self.objects(is_media).get(Location::new(group, 0)).ok_or_else(gone)?;
        let object = Object { at: range.start, ..object };
        Ok(Fetched { end: range.end, end_of_track: false, objects: vec![object] })
    }

    /// The work for a request, counted against its block.
    fn job(&self, asked: &SymbolRange) -> Result<EncodeJob, Refusal> {
        let none = || Refusal::invalid_range("no such FEC Payload ID here");
        let (group, is_media, blocks) = {
            let held = &mut *self.held();
            let place = held.places.get_mut(&asked.toi).ok_or_else(gone)?;
            let blocks = place.blocks.ok_or_else(none)?;
            let made = place.made.entry(asked.sbn.0).or_default();
            if *made + asked.count > SYMBOLS_PER_BLOCK {
                return Err(Refusal::excessive_load("many ask for this block", BUSY));
            }
            *made += asked.count;
            (place.group, place.is_media, blocks)
        };
        let object = self.objects(is_media).get(Location::new(group, 0)).ok_or_else(gone)?;
        EncodeJob::of_object(asked.toi, &object.payload, &blocks, asked.sbn, asked.first, asked.count)
            .ok_or_else(none)
    }
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
                (r, Kind::Manifest) => Ok(r.manifest.clone()),
                (_, Kind::Symbols | Kind::Objects) => {
                    Err(Refusal::new(request_error::NOT_SUPPORTED, "this track is for FETCH"))
                }
            }
        })
    }

    fn fetch<'a>(&'a self, name: &'a TrackName, range: LocationRange) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            match self.find(name) {
                Some((r, Kind::Symbols)) => self.make(r, range).await,
                Some((r, Kind::Objects)) => r.whole(range),
                Some((r, Kind::Media)) => r.media.fetch(range),
                _ => self.track(name).await?.fetch(range),
            }
        })
    }

    fn fetch_for<'a>(
        &'a self,
        asker: Asker,
        name: &'a TrackName,
        range: LocationRange,
    ) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            match self.find(name) {
                Some((r, Kind::Symbols)) => self.symbols(asker, r, range).await,
                _ => self.fetch(name, range).await,
            }
        })
    }
}
