//! A manifest as a player gets it: references lead back here, low-latency parts are left out, the live edge is as far as
//! bytes can be had, and of the variants those that multicast carries. Everything else stays byte for byte.

use super::Front;
use super::ask::{Ask, Reload};
use super::routes::Form;
use super::rungs;
use super::window;
use crate::expect::STALLED;
use crate::library::{Availability, ResourceKey};
use bytes::Bytes;
use mahp_common::Time;
use mahp_common::catalog::{Channel, Format};
use mahp_common::manifest::hls::{self, Master, Media, Playlist, Segment};
use mahp_common::manifest::url::{ChannelMap, GenericMap, UrlMap};
use mahp_common::manifest::{Edit, ManifestError, apply, dash, sniff};
use std::time::Duration;
use url::Url;

const HLS: &str = "application/vnd.apple.mpegurl";
const DASH: &str = "application/dash+xml";
/// A segment that is complete by then is as good as here: a player needs as long to ask for it.
const SOON: Duration = Duration::from_millis(500);
/// At most so many segments that multicast is about to bring are kept back.
const KEPT_BACK_MAX: usize = 1;
/// Never fewer segments than this are left because some are kept back.
const SEGMENTS_MIN: usize = 3;

/// A segment that a playlist names: URL and byte range.
pub(super) type Named = (Url, Option<(u64, Option<u64>)>);

/// See the module.
pub struct Rendered {
    /// Its text.
    pub bytes: Bytes,
    /// Its type.
    pub content_type: &'static str,
    /// Whether there will be other versions.
    pub live: bool,
}

impl Rendered {
    /// A text that cannot be read: better passed on than withheld.
    pub fn as_it_is(bytes: Bytes) -> Rendered {
        let content_type = match sniff(&bytes) {
            Some(Format::Dash) => DASH,
            _ => HLS,
        };
        Rendered { bytes, content_type, live: true }
    }
}

/// Leaves every reference alone: for forward-proxy clients.
struct Untouched;

impl UrlMap for Untouched {
    fn to_local(&self, _: &Url) -> Option<String> {
        None
    }
}

/// Renders a manifest that came from `base`, and teaches the library what it names.
pub fn render(front: &Front, ask: &Ask, body: &Bytes, base: &Url) -> Result<Rendered, ManifestError> {
    let text = std::str::from_utf8(body).map_err(|e| ManifestError::NotUtf8(e.valid_up_to()))?;
    let map = map(front, ask);
    match sniff(body) {
        Some(Format::Hls) => {
            let imports = front.memo.variables(&ask.key);
            let imports = imports.as_deref().unwrap_or_default();
            match Playlist::parse(body, base, imports)? {
                Playlist::Master(master) => hls_master(front, ask, text, base, &master, &*map),
                Playlist::Media(media) => hls_media(front, ask, Text { text, base, imports }, &media, &*map),
            }
        }
        Some(Format::Dash) => {
            let mpd = dash::Mpd::parse(body, base)?;
            let time_path = (ask.form == Form::Path).then(|| "/time".to_owned());
            let time_shift_buffer = window::depth(front, ask, &mpd);
            let options = dash::RewriteOptions { time_path, time_shift_buffer };
            let edits = dash::rewrite(text, base, &ask.served_path, &*map, &options)?;
            Ok(Rendered { bytes: apply(text, &edits).into(), content_type: DASH, live: mpd.dynamic })
        }
        None => Err(ManifestError::NotThat("playlist or MPD")),
    }
}

fn map(front: &Front, ask: &Ask) -> Box<dyn UrlMap> {
    if ask.form == Form::Absolute {
        return Box::new(Untouched);
    }
    let channel = ask.channel.as_ref().filter(|c| ask.served_path.starts_with(&channel_path(c)));
    match channel.and_then(|c| Some((c, Url::parse(&c.manifest_url).ok()?))) {
        Some((c, manifest)) => Box::new(ChannelMap::new(&channel_path(c), &manifest, front.allow.clone())),
        None => Box::new(GenericMap::new(front.allow.clone())),
    }
}

fn channel_path(channel: &Channel) -> String {
    format!("/live/{}/", channel.name)
}

fn hls_master(
    front: &Front,
    ask: &Ask,
    text: &str,
    base: &Url,
    master: &Master,
    map: &dyn UrlMap,
) -> Result<Rendered, ManifestError> {
    let key = |uri: &str| base.join(uri).ok().map(|u| front.multicast.key(&u));
    if !master.variables.is_empty() {
        let variants = master.variants.iter().map(|v| v.uri.as_str());
        let playlists = variants.chain(master.media.iter().map(|m| m.uri.as_str())).filter_map(key);
        front.memo.remember_variables(playlists, &master.variables);
    }
    front.memo.remember_keys(master.session_keys.iter().filter_map(|uri| key(uri)));
    let options = hls::RewriteOptions::default();
    let mut edits = hls::rewrite(text, base, &ask.served_path, map, options)?;
    if front.options.rungs == super::Rungs::Carried
        && let Some(channel) = &ask.channel
    {
        let carried: Vec<ResourceKey> = channel
            .renditions
            .iter()
            .filter_map(|r| Some(front.multicast.key(&Url::parse(r.playlist_url.as_deref()?).ok()?)))
            .collect();
        let is_carried = |uri: &str| key(uri).is_some_and(|k| carried.contains(&k));
        edits = without(edits, rungs::spans_to_remove(text, master, is_carried));
    }
    let live = ask.channel.as_ref().is_none_or(|c| c.live);
    Ok(Rendered { bytes: apply(text, &edits).into(), content_type: HLS, live })
}

/// Adds removals to edits: edits inside a removed span go with it.
fn without(mut edits: Vec<Edit>, spans: Vec<(usize, usize)>) -> Vec<Edit> {
    edits.retain(|e| !spans.iter().any(|(start, end)| e.start >= *start && e.end <= *end));
    edits.extend(spans.into_iter().map(|(start, end)| Edit { start, end, with: String::new() }));
    edits.sort_by_key(|e| e.start);
    edits
}

/// A playlist as it came.
struct Text<'a> {
    text: &'a str,
    base: &'a Url,
    imports: &'a [(String, String)],
}

fn hls_media(
    front: &Front,
    ask: &Ask,
    Text { text, base, imports }: Text<'_>,
    media: &Media,
    map: &dyn UrlMap,
) -> Result<Rendered, ManifestError> {
    let (places, segments) = named(media, base);
    teach(front, base, media, &segments);
    let by_parts = is_by_parts(ask, media);
    let (trim_head, trim_tail) = match (media.segments.first(), media.segments.last()) {
        (Some(first), Some(last)) if !media.endlist && front.is_ours(&ask.url) => {
            let head = untold(front, media, &segments);
            let left_out = if by_parts { 0 } else { trim(front, segments.get(head..).unwrap_or_default()) };
            let kept = segments.len() - left_out;
            // Both are counted in segments that can be asked for; what is left out includes gaps between them.
            let head = places.get(head).copied().unwrap_or(0);
            let tail = places.get(kept).map_or(0, |first_left_out| media.segments.len() - first_left_out);
            front.memo.list(&ask.key, first.sequence..=last.sequence, (head, tail))
        }
        _ => (0, 0),
    };
    let options = hls::RewriteOptions { trim_head, trim_tail, strip_low_latency: !by_parts, imports };
    let edits = hls::rewrite(text, base, &ask.served_path, map, options)?;
    Ok(Rendered { bytes: apply(text, &edits).into(), content_type: HLS, live: !media.endlist })
}

/// Whether a playlist is shown with its parts: they are carried.
fn is_by_parts(ask: &Ask, media: &Media) -> bool {
    media.part_target.is_some() && ask.channel.as_ref().is_some_and(|c| c.part_target_ms.is_some())
}

/// Whether a playlist has what a blocking reload asks for, or never will.
pub fn has(front: &Front, ask: &Ask, reload: Reload, body: &Bytes, base: &Url) -> bool {
    let imports = front.memo.variables(&ask.key);
    match Playlist::parse(body, base, imports.as_deref().unwrap_or_default()) {
        Ok(Playlist::Media(media)) if is_by_parts(ask, &media) && !media.endlist => {
            let (sequence, part) = media.next();
            // What is further away than the next segment is not waited for (RFC 8216, 2nd edition, section 6.2.5.2).
            reload.sequence > sequence + 1
                || match reload.part {
                    Some(asked) => (sequence, part) > (reload.sequence, asked),
                    None => sequence > reload.sequence,
                }
        }
        _ => true,
    }
}

/// The segments of a playlist that can be asked for, and their places in it.
fn named(media: &Media, base: &Url) -> (Vec<usize>, Vec<Named>) {
    let there = media.segments.iter().enumerate().filter(|(_, s)| !s.gap);
    let url = |s: &Segment| Some((base.join(&s.uri).ok()?, s.range.map(|r| (r.first, Some(r.last)))));
    there.filter_map(|(place, s)| Some((place, url(s)?))).unzip()
}

/// Whether a player can begin with this playlist: without unicast, of a live one, not before the first of its segments is
/// here or on its way.
pub fn can_begin(front: &Front, ask: &Ask, body: &Bytes, base: &Url) -> bool {
    if front.options.unicast {
        return true;
    }
    match sniff(body) {
        Some(Format::Hls) => {
            let imports = front.memo.variables(&ask.key);
            match Playlist::parse(body, base, imports.as_deref().unwrap_or_default()) {
                Ok(Playlist::Media(media)) if !media.endlist && front.is_ours(&ask.url) => {
                    let (_, segments) = named(&media, base);
                    teach(front, base, &media, &segments);
                    segments.iter().any(|named| comes(front, named))
                }
                _ => true,
            }
        }
        Some(Format::Dash) => {
            dash::Mpd::parse(body, base).map_or(true, |mpd| window::can_begin(front, ask, &mpd))
        }
        None => true,
    }
}

/// How many segments at the beginning only the origin could bring, where unicast is switched off: who joined late never
/// heard them, and a player that begins with one of them would wait for it in vain.
fn untold(front: &Front, media: &Media, segments: &[Named]) -> usize {
    if front.options.unicast || media.playlist_type.is_some() {
        return 0;
    }
    segments.iter().position(|named| comes(front, named)).unwrap_or(0)
}

/// Whether a live playlist goes on where another one ends.
pub fn goes_beyond(this: (&Bytes, &Url), other: (&Bytes, &Url)) -> bool {
    let span = |(body, base): (&Bytes, &Url)| match Playlist::parse(body, base, &[]) {
        Ok(Playlist::Media(media)) => {
            Some((media.segments.first()?.sequence, media.segments.last()?.sequence))
        }
        _ => None,
    };
    match (span(this), span(other)) {
        (Some((first, last)), Some((_, end))) => last > end && first <= end,
        _ => false,
    }
}

/// Whether all of it is here or will be, as far as its symbols tell: one that was only described may have been half over when
/// we joined.
pub(super) fn comes(front: &Front, (url, range): &Named) -> bool {
    let now = front.clock.now();
    match front.multicast.demand(url, *range) {
        Availability::Here(_) => true,
        Availability::Coming { expected_by, .. } => expected_by < now + STALLED / 2,
        _ => false,
    }
}

fn teach(front: &Front, base: &Url, media: &Media, segments: &[Named]) {
    let keys = media.segments.iter().flat_map(|s| s.keys.iter()).filter_map(|k| k.uri.as_deref());
    let keys = keys.filter_map(|uri| base.join(uri).ok()).map(|u| front.multicast.key(&u));
    front.memo.remember_keys(keys);
    let parts = media.parts.iter().filter(|p| !p.gap).map(|p| &p.uri).chain(&media.next_part);
    let parts = parts.filter_map(|uri| base.join(uri).ok());
    let mut urls: Vec<Url> = segments.iter().map(|(url, _)| url.clone()).chain(parts).collect();
    urls.dedup();
    front.multicast.teach_playlist(&inits(media, base), &urls);
}

/// The initialization segments of a playlist.
pub fn inits(media: &Media, base: &Url) -> Vec<Url> {
    let maps = media.segments.iter().filter_map(|s| s.map.as_ref());
    let mut urls: Vec<Url> = maps.filter_map(|m| base.join(&m.uri).ok()).collect();
    urls.dedup();
    urls
}

/// How many segments at the live edge to keep back.
fn trim(front: &Front, segments: &[Named]) -> usize {
    let now = front.clock.now();
    let mut kept_back = 0;
    for (trimmed, (url, range)) in segments.iter().rev().enumerate() {
        let left = segments.len() - trimmed;
        let fetchable = front.options.unicast && front.origins.is_healthy(url);
        match listing(&front.multicast.demand(url, *range), now) {
            Listing::Here => return trimmed,
            Listing::Coming
                if !front.options.low_latency && kept_back < KEPT_BACK_MAX && left > SEGMENTS_MIN =>
            {
                kept_back += 1;
            }
            Listing::Coming => return trimmed,
            Listing::Absent if fetchable || left == 1 => return trimmed,
            Listing::Absent => {}
        }
    }
    0
}

enum Listing {
    /// Can be sent as soon as a player asks for it.
    Here,
    /// Multicast is about to bring it.
    Coming,
    /// Unicast only.
    Absent,
}

fn listing(available: &Availability, now: Time) -> Listing {
    match available {
        Availability::Here(_) => Listing::Here,
        Availability::Coming { expected_by, .. } if *expected_by <= now + SOON => Listing::Here,
        Availability::Coming { expected_by, .. } if *expected_by >= now + STALLED / 2 => Listing::Absent,
        Availability::Coming { .. } | Availability::Expected { .. } => Listing::Coming,
        Availability::Stale(_)
        | Availability::NotComing
        | Availability::Allowed
        | Availability::Forbidden => Listing::Absent,
    }
}

/// After which time to expect another version.
pub fn update_period(body: &Bytes, base: &Url) -> Duration {
    const UNKNOWN: Duration = Duration::from_secs(2);
    const PART_MIN: Duration = Duration::from_millis(250);
    const STATIC: Duration = Duration::from_secs(60);
    match sniff(body) {
        Some(Format::Hls) => match Playlist::parse(body, base, &[]) {
            Ok(Playlist::Media(m)) if !m.endlist => match m.part_target {
                Some(part) => part.clamp(PART_MIN, STATIC),
                None => m.target_duration.clamp(Duration::from_secs(1), STATIC),
            },
            Ok(Playlist::Media(_)) => STATIC,
            Ok(Playlist::Master(_)) | Err(_) => Duration::from_secs(10),
        },
        Some(Format::Dash) => match dash::Mpd::parse(body, base) {
            Ok(mpd) if mpd.dynamic => {
                mpd.minimum_update_period.unwrap_or(UNKNOWN).clamp(Duration::from_secs(1), STATIC)
            }
            Ok(_) => STATIC,
            Err(_) => UNKNOWN,
        },
        None => Duration::ZERO,
    }
}
