//! A channel as a MoQ publisher: its catalog, objects, manifest records, and symbols made on demand.

use crate::catalog::{self, Catalog, Kind};
use crate::manifest;
use crate::plane::{Boxed, Fetched, Object, Refusal, Source};
use crate::symbols::SymbolRange;
use crate::track::{Track, TrackConfig};
use crate::wire::{Location, LocationRange, Namespace, TrackName, request_error};
use mahp_common::auth::SigningKey;
use mahp_common::catalog::Channel;
use mahp_common::fec::{Blocks, EncodeJob};
use mahp_common::wire::fdt::FdtFile;
use mahp_common::wire::fti::Oti;
use mahp_common::{ObjectKind, Toi, Tsi, WallTime};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// First field of the namespace; the second is the channel's name.
pub const NAMESPACE: &str = "mahp";
/// Validity of a manifest record.
const RECORD_LIFETIME: Duration = Duration::from_secs(3600);
/// Records and playlists go before media.
const PRIORITY_MANIFEST: u8 = 32;
const PRIORITY_DOCUMENTS: u8 = 48;
/// Symbols of one block that are made for all who ask before they are told to wait: repair by multicast costs less then.
const SYMBOLS_PER_BLOCK: u32 = 20_000;
/// When to ask again.
const BUSY: Duration = Duration::from_millis(500);
/// Encoders at a time.
const ENCODERS: usize = 2;

/// The namespace of a channel.
pub fn namespace(channel: &str) -> Namespace {
    Namespace::new([NAMESPACE.to_owned(), channel.to_owned()])
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublisherStats {
    /// Objects published.
    pub objects: u64,
    /// Bytes held for FETCH, all tracks.
    pub held_bytes: u64,
    /// Symbols made.
    pub symbols: u64,
    /// Requests for symbols that were told to wait.
    pub busy: u64,
}

/// A channel.
#[derive(Debug)]
pub struct ChannelPublisher {
    catalog: Arc<Track>,
    renditions: BTreeMap<String, Rendition>,
    key: SigningKey,
    session: u64,
    encoders: Semaphore,
    objects: AtomicU64,
    symbols: AtomicU64,
    busy: AtomicU64,
}

#[derive(Debug)]
struct Rendition {
    tsi: Tsi,
    media: Arc<Track>,
    documents: Arc<Track>,
    manifest: Arc<Track>,
    /// How the objects of the windows are cut, and symbols made of each block.
    cut: Mutex<BTreeMap<u64, Cut>>,
}

#[derive(Debug)]
struct Cut {
    blocks: Blocks,
    documents: bool,
    made: HashMap<u32, u32>,
}

impl ChannelPublisher {
    /// A channel without objects. `window_bytes`: kept of each rendition for those who come late or lost something.
    pub fn new(
        channel: &Channel,
        key: SigningKey,
        session: u64,
        window_bytes: usize,
        wall: WallTime,
    ) -> ChannelPublisher {
        let catalog = Arc::new(Track::new(TrackConfig { priority: 0, ..TrackConfig::default() }));
        let text = Catalog::of(channel, &key.verifying_key().to_base64(), wall.unix_millis()).to_json();
        // MSF: the groups of a restarted publisher are larger than those before.
        let group = wall.unix_millis();
        catalog.push(Object::new(Location::new(group, 0), text.into()));
        catalog.end_group(group);
        let track = |priority, share: usize| {
            let config = TrackConfig { bytes: window_bytes / share, priority, ..TrackConfig::default() };
            Arc::new(Track::new(config))
        };
        let renditions = channel.renditions.iter().map(|r| {
            let rendition = Rendition {
                tsi: r.flow.endpoint.tsi,
                media: track(128, 1),
                documents: track(PRIORITY_DOCUMENTS, 8),
                manifest: track(PRIORITY_MANIFEST, 8),
                cut: Mutex::default(),
            };
            (r.id.clone(), rendition)
        });
        ChannelPublisher {
            catalog,
            renditions: renditions.collect(),
            key,
            session,
            encoders: Semaphore::new(ENCODERS),
            objects: AtomicU64::new(0),
            symbols: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        }
    }

    /// Publishes an object that is being sent as `toi`: its record first, then itself. `oti`, `repair_oti`: as in its FDT
    /// Instance. An object of an unknown rendition or a TOI above 64 bits is left out.
    pub fn publish(
        &self,
        rendition: &str,
        toi: Toi,
        object: &mahp_common::Object,
        (oti, repair_oti): (Oti, Option<Oti>),
        wall: WallTime,
    ) {
        let (Some(r), Some(at)) = (self.renditions.get(rendition), manifest::place(toi)) else { return };
        let fountain = repair_oti.unwrap_or(oti);
        let file = FdtFile {
            toi,
            meta: object.meta.clone(),
            content_encoding: None,
            oti: Some(oti),
            repair_oti,
            content_md5: None,
            content_digest: None,
        };
        let expires = (wall + RECORD_LIFETIME).ntp_secs();
        let Ok(record) = manifest::seal(file, r.tsi, self.session, expires, &self.key) else { return };
        let is_media = object.meta.kind == ObjectKind::Media;
        r.remember(at.group, &fountain, !is_media);
        let track = if is_media { &r.media } else { &r.documents };
        for (track, payload) in [(&r.manifest, record.into()), (track, object.data.clone())] {
            track.push(Object::new(at, payload));
            track.end_group(at.group);
        }
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// Counters.
    pub fn stats(&self) -> PublisherStats {
        let held = |r: &Rendition| r.media.bytes() + r.documents.bytes() + r.manifest.bytes();
        PublisherStats {
            objects: self.objects.load(Ordering::Relaxed),
            held_bytes: self.renditions.values().map(held).sum::<usize>() as u64,
            symbols: self.symbols.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
        }
    }

    fn find(&self, name: &TrackName) -> Option<(&Rendition, Kind)> {
        let name = std::str::from_utf8(&name.name).ok()?;
        let (rendition, kind) = Kind::of(name, |r| self.renditions.contains_key(r))?;
        Some((self.renditions.get(rendition)?, kind))
    }

    async fn make(&self, rendition: &Rendition, range: LocationRange) -> Result<Fetched, Refusal> {
        let asked = SymbolRange::of(range)?;
        let job = rendition.job(&asked, range.start.group).inspect_err(|refusal| {
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

impl Rendition {
    fn remember(&self, group: u64, oti: &Oti, documents: bool) {
        let Ok(blocks) = Blocks::of(oti, u64::MAX) else { return };
        let cut = &mut *self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.entry(group).or_insert(Cut { blocks, documents, made: HashMap::new() });
        // What the windows have let go of can have no symbols.
        let oldest = self.media.oldest().into_iter().chain(self.documents.oldest()).min();
        if let Some(oldest) = oldest {
            cut.retain(|group, _| *group >= oldest.group);
        }
    }

    /// The work for a request, counted against its block.
    fn job(&self, asked: &SymbolRange, group: u64) -> Result<EncodeJob, Refusal> {
        let gone = || Refusal::does_not_exist("no such object here (any more)");
        let (blocks, documents) = {
            let cuts = &mut *self.cut.lock().unwrap_or_else(PoisonError::into_inner);
            let cut = cuts.get_mut(&group).ok_or_else(gone)?;
            let made = cut.made.entry(asked.sbn.0).or_default();
            if *made + asked.count > SYMBOLS_PER_BLOCK {
                return Err(Refusal::excessive_load("many ask for this block", BUSY));
            }
            *made += asked.count;
            (cut.blocks, cut.documents)
        };
        let track = if documents { &self.documents } else { &self.media };
        let object = track.get(Location::new(group, 0)).ok_or_else(gone)?;
        let job =
            EncodeJob::of_object(asked.toi, &object.payload, &blocks, asked.sbn, asked.first, asked.count);
        job.ok_or_else(|| Refusal::invalid_range("no such FEC Payload ID here"))
    }
}

impl Source for ChannelPublisher {
    fn track<'a>(&'a self, name: &'a TrackName) -> Boxed<'a, Result<Arc<Track>, Refusal>> {
        Box::pin(async move {
            if name.name == catalog::TRACK.as_bytes() {
                return Ok(self.catalog.clone());
            }
            let missing = || Refusal::does_not_exist("no such track");
            match self.find(name).ok_or_else(missing)? {
                (r, Kind::Media) => Ok(r.media.clone()),
                (r, Kind::Documents) => Ok(r.documents.clone()),
                (r, Kind::Manifest) => Ok(r.manifest.clone()),
                (_, Kind::Symbols) => {
                    Err(Refusal::new(request_error::NOT_SUPPORTED, "symbols are for FETCH"))
                }
            }
        })
    }

    fn fetch<'a>(&'a self, name: &'a TrackName, range: LocationRange) -> Boxed<'a, Result<Fetched, Refusal>> {
        Box::pin(async move {
            match self.find(name) {
                Some((r, Kind::Symbols)) => self.make(r, range).await,
                _ => self.track(name).await?.fetch(range),
            }
        })
    }
}
