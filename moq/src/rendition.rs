//! The tracks of one rendition, and what is known of each object that was published in them.

use crate::past::{Asked, Past, gone};
use crate::plane::{Fetched, Object, Promise, Refusal, household};
use crate::symbols::SymbolRange;
use crate::track::{Track, TrackConfig};
use crate::wire::{Location, LocationRange};
use bytes::Bytes;
use mahp_common::catalog;
use mahp_common::fec::partition::{raptorq_oti, source_oti};
use mahp_common::fec::{Blocks, EncodeJob};
use mahp_common::repair::ObjectId;
use mahp_common::{ObjectKind, ObjectMeta, Toi, Tsi};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Records and playlists go before media.
const PRIORITY_RECORDS: u8 = 32;
const PRIORITY_DOCUMENTS: u8 = 48;
const PRIORITY_MEDIA: u8 = 128;
/// Objects of a rendition that are known at most: the oldest are forgotten, with their records.
pub const KNOWN_OBJECTS: usize = 8192;
/// Symbols of one block that are made for all who ask before they are told to wait: repair by multicast costs less then.
const SYMBOLS_PER_BLOCK: u32 = 20_000;
/// Of these, for one address.
const SYMBOLS_PER_ADDRESS: u32 = SYMBOLS_PER_BLOCK / 2;
/// When to ask again.
const BUSY: Duration = Duration::from_millis(500);

/// Bytes that are kept of each rendition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Segments, for those who subscribe.
    pub media: usize,
    /// Playlists and initialization segments.
    pub documents: usize,
    /// Records: an object can be had as long as its record is here.
    pub records: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rendition {
    id: Arc<str>,
    pub(crate) tsi: Tsi,
    pub(crate) symbol_size: u16,
    pub(crate) media: Arc<Track>,
    pub(crate) documents: Arc<Track>,
    pub(crate) records: Arc<Track>,
    known: Mutex<Known>,
}

/// The objects that have a record here.
#[derive(Debug)]
struct Known {
    next_group: u64,
    groups: BTreeMap<u64, Place>,
    /// The newest group of each.
    tois: HashMap<Toi, u64>,
}

#[derive(Debug)]
struct Place {
    toi: Toi,
    meta: Arc<ObjectMeta>,
    /// How it is cut; none: it has no symbols.
    blocks: Option<Blocks>,
    /// Symbols made of each block.
    made: HashMap<u32, Made>,
}

/// Symbols of a block: in all, and for each address that asked.
#[derive(Debug, Default)]
struct Made {
    all: u32,
    by: HashMap<IpAddr, u32>,
}

/// Symbols counted against a block and an address; dropped: not after all.
pub(crate) struct Charge<'a> {
    rendition: &'a Rendition,
    toi: Toi,
    sbn: u32,
    address: IpAddr,
    count: u32,
}

impl Charge<'_> {
    /// They were made.
    pub(crate) fn keep(mut self) {
        self.count = 0;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let known = &mut *self.rendition.known();
        let made = known.place_of(self.toi).and_then(|place| place.made.get_mut(&self.sbn));
        let Some(made) = made else { return };
        made.all = made.all.saturating_sub(self.count);
        if let Some(by) = made.by.get_mut(&self.address) {
            *by = by.saturating_sub(self.count);
            if *by == 0 {
                made.by.remove(&self.address);
            }
        }
    }
}

impl Rendition {
    pub(crate) fn new(rendition: &catalog::Rendition, windows: &Windows, first_group: u64) -> Rendition {
        let track = |priority, bytes| {
            // An object and the end of its group are two entries.
            let config =
                TrackConfig { bytes, priority, objects: 2 * KNOWN_OBJECTS, ..TrackConfig::default() };
            Arc::new(Track::new(config))
        };
        let known = Known { next_group: first_group, groups: BTreeMap::new(), tois: HashMap::new() };
        Rendition {
            id: rendition.id.as_str().into(),
            tsi: rendition.flow.endpoint.tsi,
            symbol_size: rendition.flow.symbol_size,
            media: track(PRIORITY_MEDIA, windows.media),
            documents: track(PRIORITY_DOCUMENTS, windows.documents),
            records: track(PRIORITY_RECORDS, windows.records),
            known: Mutex::new(known),
        }
    }

    /// Publishes an object: its record first, then itself. False: it is in its window already (a carousel sends it again).
    pub(crate) fn publish(&self, toi: Toi, meta: &ObjectMeta, record: Bytes, data: Bytes) -> bool {
        let Some(group) = self.place(toi, meta) else { return false };
        for (track, payload) in [(&self.records, record), (self.objects(meta.kind), data)] {
            track.push(Object::new(Location::new(group, 0), payload));
            track.end_group(group);
        }
        true
    }

    /// Whether somebody has subscribed to one of its tracks.
    pub(crate) fn is_watched(&self) -> bool {
        [&self.media, &self.documents, &self.records].iter().any(|track| track.is_watched())
    }

    /// Bytes in its windows.
    pub(crate) fn bytes(&self) -> usize {
        self.media.bytes() + self.documents.bytes() + self.records.bytes()
    }

    /// Objects of a range: those in the window, and those that have left it, each when its turn comes.
    pub(crate) async fn fetch(
        &self,
        past: &Arc<Past>,
        is_media: bool,
        range: LocationRange,
    ) -> Result<Fetched, Refusal> {
        let track = if is_media { &self.media } else { &self.documents };
        let answer = track.answer(range)?;
        let mut places: Vec<(Location, Toi, Arc<ObjectMeta>)> = {
            let known = self.known();
            let in_range = known.groups.range(range.start.group..=range.last().group);
            let in_range = in_range.filter(|(_, place)| is_media == is_in_media(place.meta.kind));
            let located = in_range.map(|(group, p)| (Location::new(*group, 0), p.toi, p.meta.clone()));
            located.filter(|(at, ..)| range.contains(*at) && Some(*at) <= track.largest()).collect()
        };
        // Who asks for one object is told at once if it cannot be had.
        if places.len() == 1
            && let Some((at, toi, meta)) = places.pop()
        {
            let object = match track.get(at) {
                Some(object) => object,
                None => Object::new(at, past.get(&self.asked(toi, meta)).await?),
            };
            return Ok(Fetched { objects: vec![object.into()], ..answer });
        }
        if places.is_empty() {
            return track.fetch(range);
        }
        // Looked up when its turn comes: an answer that is read slowly keeps nothing that has left the window.
        let promise = |(at, toi, meta)| {
            let (track, past, asked) = (track.clone(), past.clone(), self.asked(toi, meta));
            Promise::new(at, async move {
                match track.get(at) {
                    Some(object) => Ok(object),
                    None => Ok(Object::new(at, past.get(&asked).await?)),
                }
            })
        };
        Ok(Fetched { objects: places.into_iter().map(promise).collect(), ..answer })
    }

    /// The whole object with a TOI, which is the group here.
    pub(crate) async fn whole(&self, past: &Past, range: LocationRange) -> Result<Fetched, Refusal> {
        let toi = range.start.group;
        if range != LocationRange::objects(toi, 0, 1) {
            return Err(Refusal::invalid_range("one object at a time is fetched by its TOI"));
        }
        let bytes = self.object(past, Toi(toi.into()), false).await?;
        Ok(Fetched::of(range.end, [Object::new(range.start, bytes)]))
    }

    /// Counts a request for symbols against its block and who asks.
    pub(crate) fn charge(&self, asked: &SymbolRange, address: IpAddr) -> Result<Charge<'_>, Refusal> {
        let busy = || Refusal::excessive_load("many ask for this block", BUSY);
        let address = household(address);
        let known = &mut *self.known();
        let place = known.place_of(asked.toi).ok_or_else(gone)?;
        if place.blocks.is_none_or(|blocks| asked.sbn.0 >= blocks.count()) {
            return Err(no_symbols());
        }
        let made = place.made.entry(asked.sbn.0).or_default();
        let by = made.by.get(&address).copied().unwrap_or_default();
        if made.all + asked.count > SYMBOLS_PER_BLOCK || by + asked.count > SYMBOLS_PER_ADDRESS {
            return Err(busy());
        }
        made.all += asked.count;
        made.by.insert(address, by + asked.count);
        let (toi, sbn, count) = (asked.toi, asked.sbn.0, asked.count);
        Ok(Charge { rendition: self, toi, sbn, address, count })
    }

    /// The work for a request for symbols.
    pub(crate) async fn job(&self, past: &Past, asked: &SymbolRange) -> Result<EncodeJob, Refusal> {
        let blocks = self.known().place_of(asked.toi).ok_or_else(gone)?.blocks.ok_or_else(no_symbols)?;
        let bytes = self.object(past, asked.toi, true).await?;
        EncodeJob::of_object(asked.toi, &bytes, &blocks, asked.sbn, asked.first, asked.count)
            .ok_or_else(no_symbols)
    }

    async fn object(&self, past: &Past, toi: Toi, for_symbols: bool) -> Result<Bytes, Refusal> {
        let (group, meta) = {
            let known = self.known();
            let group = *known.tois.get(&toi).ok_or_else(gone)?;
            (group, known.groups.get(&group).ok_or_else(gone)?.meta.clone())
        };
        match self.objects(meta.kind).get(Location::new(group, 0)) {
            Some(object) => Ok(object.payload),
            None => past.get(&Asked { for_symbols, ..self.asked(toi, meta) }).await,
        }
    }

    fn asked(&self, toi: Toi, meta: Arc<ObjectMeta>) -> Asked {
        Asked { rendition: self.id.clone(), id: ObjectId { tsi: self.tsi, toi }, meta, for_symbols: false }
    }

    fn objects(&self, kind: ObjectKind) -> &Arc<Track> {
        if is_in_media(kind) { &self.media } else { &self.documents }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group for a new object; none: it is in its window.
    fn place(&self, toi: Toi, meta: &ObjectMeta) -> Option<u64> {
        let known = &mut *self.known();
        known.forget_before(self.records.oldest().map_or(0, |at| at.group));
        let window = self.objects(meta.kind);
        if known.tois.get(&toi).is_some_and(|group| window.get(Location::new(*group, 0)).is_some()) {
            return None;
        }
        let (length, size) = (meta.length, self.symbol_size);
        let oti = raptorq_oti(length, size).unwrap_or_else(|| source_oti(length, size));
        let blocks = Blocks::of(&oti, u64::MAX).ok();
        // As much of the record as it takes to get the object again.
        let meta = ObjectMeta {
            url: meta.url.clone(),
            range: meta.range,
            kind: meta.kind,
            content_type: meta.content_type.clone(),
            length,
            digest: meta.digest,
            ..ObjectMeta::default()
        };
        let group = known.next_group;
        known.next_group += 1;
        known.groups.insert(group, Place { toi, meta: Arc::new(meta), blocks, made: HashMap::new() });
        known.tois.insert(toi, group);
        Some(group)
    }
}

fn no_symbols() -> Refusal {
    Refusal::invalid_range("no such FEC Payload ID here")
}

impl Known {
    /// The newest of a TOI.
    fn place_of(&mut self, toi: Toi) -> Option<&mut Place> {
        self.groups.get_mut(self.tois.get(&toi)?)
    }

    /// What has no record any more.
    fn forget_before(&mut self, oldest: u64) {
        while let Some(first) = self.groups.first_entry().filter(|first| *first.key() < oldest) {
            let (group, place) = first.remove_entry();
            if self.tois.get(&place.toi) == Some(&group) {
                self.tois.remove(&place.toi);
            }
        }
    }
}

fn is_in_media(kind: ObjectKind) -> bool {
    kind == ObjectKind::Media
}
