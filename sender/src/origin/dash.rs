//! DASH: which renditions an MPD offers, and a complete MPD as tracks for the carousel.

use super::discover::{self, Found, FoundRendition, Manifest, What, folder, shortest};
use super::hls::size_of;
use super::vod::Track;
use super::{Origin, Want};
use crate::config::ChannelConfig;
use mahp_common::catalog::{Format, Role};
use mahp_common::manifest::dash::{Addressing, Mpd, Representation, Segment};
use mahp_common::{ByteRange, Object, ObjectKind, WallTime};
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::{FetchError, Response};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A file that is addressed by SegmentBase is carried in blocks of this size.
const BLOCK: u64 = 1 << 20;
/// Chunks are believed to be at least this long.
const CHUNK_MIN: Duration = Duration::from_millis(100);

/// One version of an MPD.
#[derive(Clone, Debug)]
pub struct MpdVersion {
    /// Counts versions.
    pub number: u64,
    /// Its bytes.
    pub object: Object,
    /// Its meaning.
    pub mpd: Arc<Mpd>,
}

/// The Representations that the channel's renditions were made of. Those of other Periods are matched to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ladder {
    rungs: Vec<Rung>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rung {
    id: String,
    content_type: String,
    language: Option<String>,
    bandwidth: u64,
}

impl Ladder {
    fn of<'a>(representations: impl IntoIterator<Item = &'a Representation>) -> Ladder {
        let rung = |r: &Representation| Rung {
            id: r.id.clone(),
            content_type: r.content_type.clone(),
            language: r.language.clone(),
            bandwidth: r.bandwidth,
        };
        Ladder { rungs: representations.into_iter().map(rung).collect() }
    }

    /// The rung that a Representation of any Period belongs to: the same `@id`, else the same content type and language
    /// (where there is one) with the nearest bandwidth, as in Periods of advertisements.
    pub fn rung(&self, r: &Representation) -> Option<usize> {
        let same_type = |x: &Rung| x.content_type == r.content_type;
        if let Some(i) = self.rungs.iter().position(|x| x.id == r.id && same_type(x)) {
            return Some(i);
        }
        let far = |x: &Rung| (x.language != r.language, x.bandwidth.abs_diff(r.bandwidth));
        self.rungs
            .iter()
            .enumerate()
            .filter(|(_, x)| same_type(x))
            .min_by_key(|(_, x)| far(x))
            .map(|(i, _)| i)
    }

    /// Representations of `mpd` on rung `rung`, in the order of their Periods.
    pub fn representations<'a>(
        &'a self,
        mpd: &'a Mpd,
        rung: usize,
    ) -> impl Iterator<Item = &'a Representation> {
        mpd.representations.iter().filter(move |r| self.rung(r) == Some(rung))
    }
}

/// Reads an answer as an MPD.
///
/// # Errors
/// One line of why not.
pub fn version(origin: &Origin, url: &Url, number: u64, response: &Response) -> Result<MpdVersion, String> {
    let mpd = Mpd::parse(&response.body, &response.final_url)
        .map_err(|e| format!("{url} cannot be read as an MPD: {e}"))?;
    Ok(MpdVersion { number, object: discover::manifest_object(origin, url, response), mpd: Arc::new(mpd) })
}

/// Reads what a channel's MPD offers.
///
/// # Errors
/// `E-ORIGIN-TYPE`, `E-ORIGIN-EMPTY`.
pub fn discover(origin: &Origin, config: &ChannelConfig, response: &Response) -> Result<Found, StartupError> {
    let first = version(origin, &config.url, 0, response)
        .map_err(|e| StartupError::runtime("E-ORIGIN-TYPE", e, "check the MPD with a validator"))?;
    let (mpd, now) = (first.mpd.clone(), origin.clock.wall());
    if mpd.representations.is_empty() {
        return Err(discover::lists_nothing(config));
    }
    // Live: the newest Period is what is watched. Static: the first one is the programme.
    let periods = mpd.representations.iter().map(|r| r.period_index);
    let period = if mpd.dynamic { periods.max() } else { periods.min() };
    let offered: Vec<&Representation> =
        mpd.representations.iter().filter(|r| Some(r.period_index) == period).collect();
    let ladder = Ladder::of(offered.iter().copied());
    let mut renditions: Vec<FoundRendition> =
        offered.iter().enumerate().map(|(i, r)| rendition(&config.url, i, r)).collect();
    discover::name_renditions(&mut renditions);
    renditions.retain(|r| discover::wanted(&config.renditions, r));
    let target_duration = mpd.max_segment_duration.unwrap_or_else(|| longest(&mpd, now));
    Ok(Found {
        format: Format::Dash,
        live: mpd.dynamic,
        target_duration,
        part_target: chunk_target(&mpd, now),
        manifest: Some(Manifest { url: config.url.clone(), object: first.object.clone() }),
        renditions,
        prefixes: prefixes(config, &mpd, response, now),
        mpd: Some((first, Arc::new(ladder))),
    })
}

fn rendition(url: &Url, rung: usize, r: &Representation) -> FoundRendition {
    let text = r.codecs.as_deref().is_some_and(|c| c.starts_with("stpp") || c.starts_with("wvtt"));
    let (word, role, default) = match r.content_type.as_str() {
        "video" => ("video", Role::Video, 6_000_000),
        "audio" => ("audio", Role::Audio, 192_000),
        "text" => ("text", Role::Text, 64_000),
        _ if text => ("text", Role::Text, 64_000),
        _ => ("other", Role::Other, 64_000),
    };
    let id = match (role, &r.resolution, &r.language) {
        (Role::Video, Some(size), _) => size.clone(),
        (Role::Audio | Role::Text, _, Some(language)) => format!("{word}-{language}"),
        _ => format!("{word}-{}", r.id),
    };
    FoundRendition {
        id,
        role,
        bitrate_bps: if r.bandwidth > 0 { r.bandwidth } else { default },
        key: format!("{url} {}", r.id),
        playlist_url: None,
        url_patterns: r.url_pattern.clone().into_iter().collect(),
        codecs: r.codecs.clone(),
        resolution: r.resolution.clone(),
        language: r.language.clone(),
        what: What::Dash(rung),
    }
}

/// Longest chunk, about: what is to come of a segment when it may be asked for. `None`: segments are complete by then.
fn chunk_target(mpd: &Mpd, now: WallTime) -> Option<Duration> {
    let of = |r: &Representation| {
        let (early, last) = (r.early()?, mpd.segments(r, now).pop()?);
        Some(last.duration.saturating_sub(early).clamp(CHUNK_MIN, last.duration.max(CHUNK_MIN)))
    };
    mpd.representations.iter().filter(|_| mpd.dynamic).filter_map(of).max()
}

fn longest(mpd: &Mpd, now: WallTime) -> Duration {
    let segments = mpd.representations.iter().take(4).flat_map(|r| mpd.segments(r, now));
    segments.map(|s| s.duration).max().unwrap_or(Duration::from_secs(4))
}

fn prefixes(config: &ChannelConfig, mpd: &Mpd, response: &Response, now: WallTime) -> Vec<String> {
    let mut prefixes = vec![folder(&config.url), folder(&response.final_url)];
    prefixes.extend(mpd.location.as_ref().map(folder));
    for r in &mpd.representations {
        match &r.addressing {
            Addressing::SingleFile { url, .. } => prefixes.push(folder(url)),
            Addressing::Segments(_) => {
                let segments = mpd.segments(r, now);
                prefixes.extend(mpd.init(r).map(|(url, _)| folder(&url)));
                prefixes.extend(segments.first().into_iter().chain(segments.last()).map(|s| folder(&s.url)));
            }
        }
    }
    shortest(prefixes)
}

/// The init segment of a Representation.
pub fn init_want(mpd: &Mpd, r: &Representation) -> Option<Want> {
    let (url, range) = mpd.init(r)?;
    Some(Want { url, range, kind: ObjectKind::Init, media_time: None, duration: None })
}

/// A media segment.
pub fn segment_want(s: &Segment) -> Want {
    Want {
        url: s.url.clone(),
        range: s.range,
        kind: ObjectKind::Media,
        media_time: Some(s.start),
        duration: Some(s.duration),
    }
}

/// How long a static MPD's presentation lasts.
pub fn duration(mpd: &Mpd) -> Duration {
    let end = |r: &Representation| match r.period_duration {
        Some(d) => r.period_start + d,
        None => mpd.segments(r, WallTime::default()).last().map_or(Duration::ZERO, |s| s.start + s.duration),
    };
    mpd.media_presentation_duration
        .or_else(|| mpd.representations.iter().map(end).max())
        .filter(|d| !d.is_zero())
        .unwrap_or(Duration::from_secs(60))
}

/// One rung of a static MPD as a track.
///
/// # Errors
/// Of the request that tells the length of a SegmentBase file.
pub async fn track(origin: &Origin, mpd: &Mpd, ladder: &Ladder, rung: usize) -> Result<Track, FetchError> {
    let mut track = Track::default();
    let mut known = BTreeSet::new();
    for r in ladder.representations(mpd, rung) {
        match &r.addressing {
            Addressing::SingleFile { url, .. } => {
                let length = size_of(origin, url).await?;
                let duration = r.period_duration.unwrap_or_else(|| duration(mpd));
                track.segments.extend(
                    blocks(url, length, r.period_start, duration)
                        .map(|w| (w.media_time.unwrap_or_default(), w)),
                );
            }
            Addressing::Segments(_) => {
                track.inits.extend(init_want(mpd, r).filter(|w| known.insert(w.key())));
                for s in mpd.segments(r, WallTime::default()) {
                    let want = segment_want(&s);
                    if known.insert(want.key()) {
                        track.segments.push((s.start, want));
                    }
                }
            }
        }
    }
    Ok(track)
}

/// Fixed blocks of a file, spread over its duration. Its init and index segments are in the first ones.
fn blocks(url: &Url, length: u64, start: Duration, duration: Duration) -> impl Iterator<Item = Want> {
    let part = move |bytes: u64| duration.mul_f64(bytes as f64 / length.max(1) as f64);
    (0..length.div_ceil(BLOCK)).map(move |n| {
        let first = n * BLOCK;
        let last = (first + BLOCK).min(length) - 1;
        Want {
            url: url.clone(),
            range: Some(ByteRange { first, last, complete: Some(length) }),
            kind: ObjectKind::Media,
            media_time: Some(start + part(first)),
            duration: Some(part(last - first + 1)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn representation(id: &str, kind: &str, bandwidth: u64, language: Option<&str>) -> Representation {
        Representation {
            id: id.into(),
            content_type: kind.into(),
            bandwidth,
            language: language.map(Into::into),
            ..Representation::default()
        }
    }

    #[test]
    fn representations_of_other_periods_find_their_rung() {
        let offered = [
            representation("v1", "video", 1_000_000, None),
            representation("v2", "video", 4_000_000, None),
            representation("a1", "audio", 128_000, Some("en")),
            representation("a2", "audio", 128_000, Some("de")),
        ];
        let ladder = Ladder::of(&offered);
        assert_eq!(ladder.rung(&representation("v2", "video", 1, None)), Some(1), "the same id");
        assert_eq!(
            ladder.rung(&representation("ad", "video", 3_000_000, None)),
            Some(1),
            "nearest bandwidth"
        );
        assert_eq!(
            ladder.rung(&representation("v2", "audio", 96_000, Some("de"))),
            Some(3),
            "an id of another type is another's"
        );
        assert_eq!(ladder.rung(&representation("t", "text", 1, None)), None);
    }

    #[test]
    fn blocks_cover_the_file_once() {
        let url = Url::parse("http://o/f.mp4").expect("url");
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7] {
            let wants: Vec<Want> =
                blocks(&url, length, Duration::from_secs(3), Duration::from_secs(10)).collect();
            let mut at = 0;
            for w in &wants {
                let r = w.range.expect("a range");
                assert_eq!(r.first, at);
                at = r.last + 1;
            }
            assert_eq!(at, length);
        }
    }
}
