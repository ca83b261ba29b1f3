//! Reads a playlist into [`Playlist`].

use super::lines::{self, Kind, Line, SegmentSpans, Variables, attributes};
use super::{Key, Map, Master, Media, MediaGroup, Part, Playlist, PlaylistType, Segment, Variant};
use crate::manifest::{ManifestError, datetime};
use crate::object::ByteRange;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Attributes of one tag that are looked at.
const ATTRIBUTES_MAX: usize = 256;
/// EXT-X-KEY tags in force at once; the oldest is forgotten.
const KEYS_MAX: usize = 32;

/// See [`Playlist::parse`].
pub(super) fn parse(body: &[u8], url: &Url, imports: &[(String, String)]) -> Result<Playlist, ManifestError> {
    if body.len() > crate::limits::MANIFEST_BYTES {
        return Err(ManifestError::Limit("playlist size"));
    }
    let text = std::str::from_utf8(body).map_err(|e| ManifestError::NotUtf8(e.valid_up_to()))?;
    let mut reader = Reader::new(url, imports);
    for line in lines::lines(text)? {
        match line.kind() {
            Kind::Nothing => {}
            Kind::Tag(name, value) => {
                reader.spans.tag(name, &line);
                reader.tag(name, value)?;
            }
            Kind::Uri(uri) => reader.uri(uri, &line)?,
        }
    }
    Ok(reader.finish())
}

/// What the tags since the last URI said about the next segment.
#[derive(Default)]
struct Pending {
    duration: Duration,
    range: Option<(u64, Option<u64>)>,
    discontinuity: bool,
    gap: bool,
    date: Option<Duration>,
    variant: Option<Variant>,
}

struct Reader<'a> {
    variables: Variables<'a>,
    spans: SegmentSpans,
    master: Master,
    media: Media,
    has_master_tags: bool,
    has_media_tags: bool,
    pending: Pending,
    skipped: u64,
    map: Option<Arc<Map>>,
    keys: Vec<Arc<Key>>,
    /// `keys` as segments share them; none after a change.
    shared_keys: Option<Arc<[Arc<Key>]>>,
    /// EXT-X-PROGRAM-DATE-TIME of the next segment, from the ones before.
    next_date: Option<Duration>,
}

impl<'a> Reader<'a> {
    fn new(url: &'a Url, imports: &'a [(String, String)]) -> Reader<'a> {
        Reader {
            variables: Variables::new(url, imports),
            spans: SegmentSpans::default(),
            master: Master::default(),
            media: Media::default(),
            has_master_tags: false,
            has_media_tags: false,
            pending: Pending::default(),
            skipped: 0,
            map: None,
            keys: Vec::new(),
            shared_keys: None,
            next_date: None,
        }
    }

    fn tag(&mut self, name: &str, value: &str) -> Result<(), ManifestError> {
        self.has_master_tags |= lines::is_master_tag(name);
        self.has_media_tags |= lines::is_media_tag(name);
        if name == "EXT-X-DEFINE" {
            return self.variables.define(value);
        }
        self.playlist_tag(name, value);
        self.segment_tag(name, value)?;
        self.master_tag(name, value)
    }

    /// Tags about the whole media playlist.
    fn playlist_tag(&mut self, name: &str, value: &str) {
        let media = &mut self.media;
        match name {
            "EXT-X-TARGETDURATION" => {
                media.target_duration = datetime::parse_seconds(value).unwrap_or_default();
            }
            "EXT-X-MEDIA-SEQUENCE" => media.media_sequence = integer(value),
            "EXT-X-DISCONTINUITY-SEQUENCE" => media.discontinuity_sequence = integer(value),
            "EXT-X-ENDLIST" => media.endlist = true,
            "EXT-X-I-FRAMES-ONLY" => media.iframes_only = true,
            "EXT-X-PLAYLIST-TYPE" => {
                media.playlist_type = match value.trim_ascii() {
                    "VOD" => Some(PlaylistType::Vod),
                    "EVENT" => Some(PlaylistType::Event),
                    _ => None,
                };
            }
            "EXT-X-SERVER-CONTROL" => {
                media.can_block_reload =
                    attributes(value).any(|a| a.name == "CAN-BLOCK-RELOAD" && a.value == "YES");
            }
            "EXT-X-PART-INF" => {
                let target = attributes(value).find(|a| a.name == "PART-TARGET");
                media.part_target = target.and_then(|a| datetime::parse_seconds(a.value));
            }
            "EXT-X-SKIP" => {
                let skipped = attributes(value).find(|a| a.name == "SKIPPED-SEGMENTS");
                self.skipped = skipped.map_or(0, |a| integer(a.value));
            }
            _ => {}
        }
    }

    /// Tags about the next segment, or all segments from here.
    fn segment_tag(&mut self, name: &str, value: &str) -> Result<(), ManifestError> {
        match name {
            "EXTINF" => {
                let seconds = value.split(',').next().unwrap_or_default();
                self.pending.duration = datetime::parse_seconds(seconds).unwrap_or_default();
            }
            "EXT-X-BYTERANGE" => self.pending.range = parse_range(value),
            "EXT-X-DISCONTINUITY" => self.pending.discontinuity = true,
            "EXT-X-GAP" => self.pending.gap = true,
            "EXT-X-PROGRAM-DATE-TIME" => {
                self.pending.date = datetime::parse_date_time(value).map(Duration::from_millis);
            }
            "EXT-X-MAP" => self.map = self.read_map(value)?.map(Arc::new),
            "EXT-X-KEY" => {
                let key = self.read_key(value)?;
                self.put_key(key);
            }
            "EXT-X-PART" => {
                let part = self.read_part(value)?;
                self.media.parts.extend(part);
            }
            "EXT-X-PRELOAD-HINT" => {
                let hint = self.read(value)?;
                let of = |name| hint.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
                if of("TYPE").as_deref() == Some("PART") {
                    self.media.next_part = of("URI");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Tags of master playlists.
    fn master_tag(&mut self, name: &str, value: &str) -> Result<(), ManifestError> {
        match name {
            "EXT-X-STREAM-INF" => self.pending.variant = Some(self.read_variant(value)?),
            "EXT-X-I-FRAME-STREAM-INF" => {
                let mut variant = self.read_variant(value)?;
                variant.iframes_only = true;
                if !variant.uri.is_empty() {
                    self.master.variants.push(variant);
                }
            }
            "EXT-X-MEDIA" => {
                let group = self.read_media_group(value)?;
                if !group.uri.is_empty() {
                    self.master.media.push(group);
                }
            }
            "EXT-X-SESSION-KEY" => {
                if let Some(uri) = self.read_key(value)?.uri {
                    self.master.session_keys.push(uri);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn uri(&mut self, uri: &str, line: &Line<'_>) -> Result<(), ManifestError> {
        let uri = self.variables.substitute(uri)?.0.into_owned();
        let start = self.spans.uri(line);
        let pending = std::mem::take(&mut self.pending);
        if let Some(mut variant) = pending.variant {
            variant.uri = uri;
            self.master.variants.push(variant);
            return Ok(());
        }
        let date = pending.date.or(self.next_date);
        self.next_date = date.map(|date| date + pending.duration);
        let segment = Segment {
            range: pending.range.and_then(|range| self.resolve_range(range, &uri)),
            uri,
            sequence: 0, // `finish` knows where numbers start
            duration: pending.duration,
            discontinuity: pending.discontinuity,
            gap: pending.gap,
            map: self.map.clone(),
            keys: self.keys_in_force(),
            program_date_time: date.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            span: (start, line.next),
        };
        self.media.segments.push(segment);
        Ok(())
    }

    /// A range without an offset goes on where the range before it ended, in the same file.
    fn resolve_range(&self, range: (u64, Option<u64>), uri: &str) -> Option<ByteRange> {
        let before = self.media.segments.last().filter(|s| s.uri == uri).and_then(|s| s.range);
        resolve(range, before)
    }

    /// EXT-X-PART. `sequence` is the place of its segment in the list; `finish` knows where numbers start.
    fn read_part(&mut self, list: &str) -> Result<Option<Part>, ManifestError> {
        let sequence = self.media.segments.len() as u64;
        let number = self.media.parts.last().filter(|p| p.sequence == sequence).map_or(0, |p| p.number + 1);
        let mut part = Part { sequence, number, ..Part::default() };
        let mut range = None;
        for (name, value) in self.read(list)? {
            match name {
                "URI" => part.uri = value,
                "DURATION" => part.duration = datetime::parse_seconds(&value).unwrap_or_default(),
                "BYTERANGE" => range = parse_range(&value),
                "GAP" => part.gap = value == "YES",
                _ => {}
            }
        }
        let before = self.media.parts.last().filter(|p| p.uri == part.uri).and_then(|p| p.range);
        part.range = range.and_then(|range| resolve(range, before));
        part.map = self.map.clone();
        part.keys = self.keys_in_force();
        Ok((!part.uri.is_empty()).then_some(part))
    }

    /// The keys in force, shared.
    fn keys_in_force(&mut self) -> Arc<[Arc<Key>]> {
        Arc::clone(self.shared_keys.get_or_insert_with(|| Arc::from(self.keys.as_slice())))
    }

    fn put_key(&mut self, key: Key) {
        self.shared_keys = None;
        if key.method == "NONE" {
            self.keys.clear();
            return;
        }
        self.keys.retain(|k| k.keyformat != key.keyformat);
        if self.keys.len() == KEYS_MAX {
            self.keys.remove(0);
        }
        self.keys.push(Arc::new(key));
    }

    /// Name and value of each attribute, variables in quoted strings substituted.
    fn read<'t>(&self, list: &'t str) -> Result<Vec<(&'t str, String)>, ManifestError> {
        attributes(list)
            .take(ATTRIBUTES_MAX)
            .map(|a| {
                let value = if a.quoted {
                    self.variables.substitute(a.value)?.0.into_owned()
                } else {
                    a.value.to_owned()
                };
                Ok((a.name, value))
            })
            .collect()
    }

    fn read_map(&self, list: &str) -> Result<Option<Map>, ManifestError> {
        let mut map = Map::default();
        for (name, value) in self.read(list)? {
            match name {
                "URI" => map.uri = value,
                "BYTERANGE" => {
                    map.range = parse_range(&value).and_then(|(length, at)| range(length, at.unwrap_or(0)));
                }
                _ => {}
            }
        }
        Ok((!map.uri.is_empty()).then_some(map))
    }

    fn read_key(&self, list: &str) -> Result<Key, ManifestError> {
        let mut key = Key::default();
        for (name, value) in self.read(list)? {
            match name {
                "METHOD" => key.method = value,
                "URI" => key.uri = Some(value),
                "KEYFORMAT" => key.keyformat = Some(value),
                _ => {}
            }
        }
        Ok(key)
    }

    fn read_variant(&self, list: &str) -> Result<Variant, ManifestError> {
        let mut variant = Variant::default();
        for (name, value) in self.read(list)? {
            match name {
                "URI" => variant.uri = value,
                "BANDWIDTH" => variant.bandwidth = integer(&value),
                "AVERAGE-BANDWIDTH" => variant.average_bandwidth = Some(integer(&value)),
                "CODECS" => variant.codecs = Some(value),
                "RESOLUTION" => variant.resolution = Some(value),
                "AUDIO" => variant.audio_group = Some(value),
                "SUBTITLES" => variant.subtitles_group = Some(value),
                _ => {}
            }
        }
        Ok(variant)
    }

    fn read_media_group(&self, list: &str) -> Result<MediaGroup, ManifestError> {
        let mut group = MediaGroup::default();
        for (name, value) in self.read(list)? {
            match name {
                "TYPE" => group.media_type = value,
                "GROUP-ID" => group.group_id = value,
                "NAME" => group.name = value,
                "LANGUAGE" => group.language = Some(value),
                "URI" => group.uri = value,
                _ => {}
            }
        }
        Ok(group)
    }

    fn finish(mut self) -> Playlist {
        if self.has_master_tags && !self.has_media_tags {
            self.master.variables = self.variables.into_list();
            return Playlist::Master(self.master);
        }
        let mut sequence = self.media.media_sequence.saturating_add(self.skipped);
        for part in &mut self.media.parts {
            part.sequence = part.sequence.saturating_add(sequence);
        }
        for segment in &mut self.media.segments {
            segment.sequence = sequence;
            sequence = sequence.saturating_add(1);
        }
        Playlist::Media(self.media)
    }
}

/// `n[@o]`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (length, offset) = text.split_once('@').map_or((text, None), |(n, o)| (n, Some(o)));
    let offset = match offset {
        Some(offset) => Some(offset.trim_ascii().parse().ok()?),
        None => None,
    };
    Some((length.trim_ascii().parse().ok()?, offset))
}

/// A range whose offset may be told by the one before it in the same file.
fn resolve((length, offset): (u64, Option<u64>), before: Option<ByteRange>) -> Option<ByteRange> {
    let first = offset.or_else(|| before?.last.checked_add(1)).unwrap_or(0);
    range(length, first)
}

/// `None` for an empty range or one that ends beyond 2^64.
fn range(length: u64, first: u64) -> Option<ByteRange> {
    let last = first.checked_add(length)?.checked_sub(1).filter(|_| length > 0)?;
    Some(ByteRange { first, last, complete: None })
}

/// A decimal integer; what players read as a number otherwise (`1e6`, `12.0`) is cut, anything else is 0.
fn integer(text: &str) -> u64 {
    let text = text.trim_ascii();
    // A float-to-integer cast saturates.
    text.parse().unwrap_or_else(|_| text.parse::<f64>().map_or(0, |f| f as u64))
}
