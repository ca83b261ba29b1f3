//! DASH: which renditions an MPD offers, and a complete MPD as tracks for the carousel.

use super::discover::{self, Found, FoundRendition, Manifest, What, folder, shortest};
use super::hls::first_byte;
use super::single_file;
use super::vod::Track;
use super::{Origin, Want};
use crate::config::ChannelConfig;
use mahp_common::catalog::{Format, Role};
use mahp_common::manifest::dash::{Addressing, Mpd, Representation, Segment};
use mahp_common::manifest::url::cache_key;
use mahp_common::{Object, ObjectKind, WallTime};
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::{FetchError, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Patterns of URLs that a rendition is described by: receivers learn others from what they get.
const PATTERNS: usize = 4;
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

/// What the channel's renditions were made of: of each content type and language, as many as one Period has at most. The
/// Representations of each Period are spread over these rungs one to one, as two of them on one flow would delay each other.
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

impl Rung {
    fn of(r: &Representation) -> Rung {
        Rung {
            id: r.id.clone(),
            content_type: r.content_type.clone(),
            language: r.language.clone(),
            bandwidth: r.bandwidth,
        }
    }

    fn is_other_language(&self, r: &Representation) -> bool {
        self.language.is_some() && r.language.is_some() && self.language != r.language
    }
}

/// Whether a Representation may be on a rung of its content type, strictest first.
type Fit = fn(&Rung, &Representation) -> bool;
const FITS: [Fit; 4] = [
    |x, r| x.id == r.id && !x.is_other_language(r),
    |x, r| x.language == r.language,
    |x, r| !x.is_other_language(r),
    // Better than not at all, when flows cannot be added any more.
    |_, _| true,
];

impl Ladder {
    /// The ladder of all Periods of `mpd`, and the Representation that each rung has its name from. The Period with the most
    /// goes first, so that an advertisement names nothing; among equals that of `now`.
    fn of(mpd: &Mpd, now: WallTime) -> (Ladder, Vec<&Representation>) {
        let current = current_period(mpd, now);
        let mut periods: Vec<(usize, Vec<usize>)> = periods(mpd).into_iter().collect();
        periods.sort_by_key(|(period, members)| {
            (std::cmp::Reverse(members.len()), Some(*period) != current, *period)
        });
        let (mut ladder, mut named) = (Ladder::default(), Vec::new());
        for (_, members) in periods {
            let members: Vec<&Representation> = members.iter().map(|i| &mpd.representations[*i]).collect();
            let places = ladder.spread(&members, &FITS[..3]);
            for (r, _) in members.into_iter().zip(places).filter(|(_, place)| place.is_none()) {
                ladder.rungs.push(Rung::of(r));
                named.push(r);
            }
        }
        (ladder, named)
    }

    /// The rungs of one Period's Representations: each rung once, the nearest bandwidth first for the highest.
    fn spread(&self, members: &[&Representation], fits: &[Fit]) -> Vec<Option<usize>> {
        let mut places = vec![None; members.len()];
        let mut free = vec![true; self.rungs.len()];
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(members[*i].bandwidth));
        for fit in fits {
            for i in &order {
                let r = members[*i];
                if places[*i].is_some() {
                    continue;
                }
                let may = |(j, x): &(usize, &Rung)| free[*j] && x.content_type == r.content_type && fit(x, r);
                let nearest = self
                    .rungs
                    .iter()
                    .enumerate()
                    .filter(may)
                    .min_by_key(|(_, x)| x.bandwidth.abs_diff(r.bandwidth));
                if let Some((j, _)) = nearest {
                    (places[*i], free[j]) = (Some(j), false);
                }
            }
        }
        places
    }

    /// The rung of each Representation of `mpd`, where it has one: the same `@id`, else the nearest bandwidth of the same
    /// content type and language, or where the language is not said; else what is left of that type.
    pub fn places(&self, mpd: &Mpd) -> Vec<Option<usize>> {
        let mut all = vec![None; mpd.representations.len()];
        for members in periods(mpd).into_values() {
            let of_period: Vec<&Representation> = members.iter().map(|i| &mpd.representations[*i]).collect();
            for (i, place) in members.into_iter().zip(self.spread(&of_period, &FITS)) {
                all[i] = place;
            }
        }
        all
    }

    /// Representations of `mpd` on rung `rung`, in the order of their Periods.
    pub fn representations<'a>(
        &self,
        mpd: &'a Mpd,
        rung: usize,
    ) -> impl Iterator<Item = &'a Representation> + use<'a> {
        let places = self.places(mpd);
        mpd.representations.iter().zip(places).filter(move |(_, place)| *place == Some(rung)).map(|(r, _)| r)
    }

    /// What a live MPD offers, passes `filter`, and is on no rung.
    pub fn left_out(&self, url: &Url, mpd: &Mpd, filter: &[String]) -> Vec<String> {
        let all = mpd.representations.iter().zip(self.places(mpd));
        let left = all.filter(|(_, place)| place.is_none()).map(|(r, _)| r);
        let passes = |r: &&Representation| discover::wanted(filter, &rendition(url, &[], 0, r));
        left.filter(passes).map(|r| format!("{} {}", r.content_type, r.id)).collect()
    }
}

/// Indices of the Representations of each Period.
fn periods(mpd: &Mpd) -> BTreeMap<usize, Vec<usize>> {
    let mut periods: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, r) in mpd.representations.iter().enumerate() {
        periods.entry(r.period_index).or_default().push(i);
    }
    periods
}

/// The Period that has begun last; of a static MPD none.
fn current_period(mpd: &Mpd, now: WallTime) -> Option<usize> {
    let since = now.unix_millis().checked_sub(mpd.availability_start?.unix_millis())?;
    let begun = |r: &&Representation| r.period_start <= Duration::from_millis(since);
    mpd.representations.iter().filter(begun).map(|r| r.period_index).max()
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
    let (ladder, named) = Ladder::of(&mpd, now);
    let mut renditions: Vec<FoundRendition> = named
        .iter()
        .enumerate()
        .map(|(i, r)| rendition(&config.url, &config.token_parameters, i, r))
        .collect();
    for (r, place) in mpd.representations.iter().zip(ladder.places(&mpd)) {
        if let Some(found) = place.and_then(|place| renditions.get_mut(place)) {
            found.bitrate_bps = found.bitrate_bps.max(r.bandwidth);
            let new = r.url_pattern.iter().filter(|p| !found.url_patterns.contains(p)).cloned();
            let room = PATTERNS.saturating_sub(found.url_patterns.len());
            let new: Vec<String> = new.take(room).collect();
            found.url_patterns.extend(new);
        }
    }
    discover::name_renditions(&mut renditions);
    discover::choose(config, &mut renditions);
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

/// `tokens`: names of parameters that are no part of the URL's identity.
fn rendition(url: &Url, tokens: &[String], rung: usize, r: &Representation) -> FoundRendition {
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
        key: format!("{} {}", cache_key(url, tokens), r.id),
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
                let (length, response) = first_byte(origin, url).await?;
                origin.whole.keep(url, &response);
                let duration = r.period_duration.unwrap_or_else(|| duration(mpd));
                let head = single_file::head(r, length);
                let blocks = single_file::blocks(url, head.as_ref(), length, r.period_start, duration);
                track.segments.extend(blocks.map(|w| (w.media_time.unwrap_or_default(), w)));
                track.inits.extend(head);
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

    fn in_period(period: usize, members: &[Representation]) -> Vec<Representation> {
        let seconds = Duration::from_secs(100);
        let place = |r: &Representation| Representation {
            period_index: period,
            period_start: seconds * u32::try_from(period).expect("few"),
            period_duration: Some(seconds),
            ..r.clone()
        };
        members.iter().map(place).collect()
    }

    fn mpd(periods: &[&[Representation]]) -> Mpd {
        let representations = periods.iter().enumerate().flat_map(|(i, p)| in_period(i, p)).collect();
        Mpd { availability_start: Some(WallTime::default()), representations, ..Mpd::default() }
    }

    fn offered() -> [Representation; 4] {
        [
            representation("v1", "video", 1_000_000, None),
            representation("v2", "video", 4_000_000, None),
            representation("a1", "audio", 128_000, Some("en")),
            representation("a2", "audio", 128_000, Some("de")),
        ]
    }

    #[test]
    fn representations_of_other_periods_find_their_rung() {
        let (ladder, _) = Ladder::of(&mpd(&[&offered()]), WallTime::default());
        let places = |members: &[Representation]| ladder.places(&mpd(&[members]));
        assert_eq!(places(&[representation("v2", "video", 1, None)]), [Some(1)], "the same id");
        let ad = [representation("ad", "video", 3_000_000, None)];
        assert_eq!(places(&ad), [Some(1)], "nearest bandwidth");
        let other = [representation("v2", "audio", 96_000, Some("de"))];
        assert_eq!(places(&other), [Some(3)], "an id of another type is another's");
        let two = [
            representation("x", "video", 3_000_000, None),
            representation("y", "video", 3_500_000, None),
            representation("z", "video", 3_900_000, None),
            representation("s", "audio", 96_000, None),
            representation("f", "audio", 96_000, Some("fr")),
        ];
        assert_eq!(
            places(&two),
            [None, Some(0), Some(1), Some(2), Some(3)],
            "one to one, and what is too many is left out"
        );
        assert_eq!(places(&[representation("t", "text", 1, None)]), [None]);
    }

    #[test]
    fn a_ladder_is_that_of_all_periods_whichever_comes_first() {
        let ad = [representation("ad", "video", 900_000, None), representation("t", "text", 1, None)];
        let later = WallTime::from_unix_secs(150);
        for (periods, now) in [
            ([&ad[..], &offered()], WallTime::default()),
            ([&ad, &offered()], later),
            ([&offered(), &ad], WallTime::default()),
            ([&offered(), &ad], later),
        ] {
            let mpd = mpd(&periods);
            let (ladder, named) = Ladder::of(&mpd, now);
            let names: Vec<&str> = named.iter().map(|r| r.id.as_str()).collect();
            assert_eq!(names, ["v1", "v2", "a1", "a2", "t"]);
            let on = |rung| ladder.representations(&mpd, rung).map(|r| r.id.clone()).collect::<BTreeSet<_>>();
            assert_eq!(on(0), BTreeSet::from(["v1".to_owned(), "ad".to_owned()]));
            assert_eq!((on(1).len(), on(2).len(), on(3).len(), on(4).len()), (1, 1, 1, 1));
        }
    }
}
