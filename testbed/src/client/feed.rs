//! Which segments a track has: HLS media playlists and MPDs, both as a [`Listing`].

use anyhow::{Context, bail};
use mahp_common::manifest::dash::{Addressing, Mpd, Representation};
use mahp_common::manifest::hls::{Master, Media, Playlist};
use mahp_common::{ByteRange, WallTime};
use std::time::Duration;
use url::Url;

/// One segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Media sequence number or `$Number$`.
    pub number: u64,
    /// Where.
    pub url: Url,
    /// Which part of it.
    pub range: Option<ByteRange>,
    /// Start on the presentation timeline.
    pub start: Duration,
    /// Its length.
    pub duration: Duration,
    /// Its initialization segment.
    pub init: Option<(Url, Option<ByteRange>)>,
}

/// The segments of a track as known now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// In order.
    pub entries: Vec<Entry>,
    /// Nothing will be added.
    pub ended: bool,
    /// Longest segment, about.
    pub target: Duration,
    /// How far behind the live edge a player starts.
    pub hold_back: Duration,
}

impl Listing {
    /// The first segment to play: at the beginning, or `hold_back` behind the live edge.
    pub fn first(&self) -> Option<&Entry> {
        if self.ended {
            return self.entries.first();
        }
        let last = self.entries.last()?;
        let from = (last.start + last.duration).saturating_sub(self.hold_back);
        // Not a segment of which only the last few milliseconds are wanted.
        self.entries.iter().find(|e| e.start + e.duration > from + Duration::from_millis(100))
    }
}

/// Which rendition to play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Highest bit rate.
    #[default]
    Highest,
    /// Lowest bit rate.
    Lowest,
}

impl Choice {
    fn pick<T>(self, of: impl Iterator<Item = T>, rate: impl Fn(&T) -> u64) -> Option<T> {
        match self {
            Choice::Highest => of.max_by_key(rate),
            Choice::Lowest => of.min_by_key(rate),
        }
    }
}

/// The media playlists to play out of a master playlist: the chosen variant, and its sound if that is apart.
pub fn renditions(master: &Master, base: &Url, choice: Choice) -> anyhow::Result<Vec<Url>> {
    let variants = master.variants.iter().filter(|v| !v.iframes_only);
    let variant = choice.pick(variants, |v| v.bandwidth).context("the master playlist has no variant")?;
    let mut urls = vec![base.join(&variant.uri)?];
    if let Some(group) = &variant.audio_group {
        let sound = master.media.iter().find(|m| m.media_type == "AUDIO" && &m.group_id == group);
        urls.extend(sound.map(|m| base.join(&m.uri)).transpose()?);
    }
    Ok(urls)
}

/// A track of HLS: gives segments of successive versions of its playlist one timeline.
#[derive(Clone, Debug, Default)]
pub struct HlsFeed {
    /// Sequence number and start of a segment seen before.
    anchor: Option<(u64, Duration)>,
}

impl HlsFeed {
    /// Reads a version of the playlist.
    pub fn read(&mut self, body: &[u8], base: &Url, imports: &[(String, String)]) -> anyhow::Result<Listing> {
        match Playlist::parse(body, base, imports)? {
            Playlist::Media(media) => self.listing(&media, base),
            Playlist::Master(_) => bail!("{base}: a master playlist inside a master playlist"),
        }
    }

    /// The segments of a parsed version.
    pub fn listing(&mut self, media: &Media, base: &Url) -> anyhow::Result<Listing> {
        let mut at = self.start_of_window(media);
        let mut entries = Vec::new();
        for segment in &media.segments {
            if let Some(millis) = segment.program_date_time.filter(|_| !media.endlist) {
                at = Duration::from_millis(millis);
            }
            let init = segment.map.as_ref().map(|m| base.join(&m.uri).map(|u| (u, m.range))).transpose()?;
            if !segment.gap {
                entries.push(Entry {
                    number: segment.sequence,
                    url: base.join(&segment.uri)?,
                    range: segment.range,
                    start: at,
                    duration: segment.duration,
                    init,
                });
            }
            self.anchor = Some((segment.sequence, at));
            at += segment.duration;
        }
        let target = media.target_duration;
        Ok(Listing { entries, ended: media.endlist, target, hold_back: 3 * target })
    }

    fn start_of_window(&self, media: &Media) -> Duration {
        let Some((sequence, start)) = self.anchor else { return Duration::ZERO };
        // The anchor is the last segment of the version before: walk back over the ones that both versions have.
        let known = media.segments.iter().take_while(|s| s.sequence < sequence);
        let before: Duration = known.map(|s| s.duration).sum();
        start.saturating_sub(before)
    }
}

/// The Representations to play: the chosen video and the best sound.
pub fn representations(mpd: &Mpd, choice: Choice) -> anyhow::Result<Vec<Representation>> {
    let of = |kind: &'static str| {
        mpd.representations.iter().filter(move |r| r.period_index == 0 && r.content_type == kind)
    };
    let video = choice.pick(of("video"), |r| r.bandwidth);
    let audio = Choice::Highest.pick(of("audio"), |r| r.bandwidth);
    let chosen: Vec<_> = video.into_iter().chain(audio).cloned().collect();
    if chosen.is_empty() {
        bail!("the MPD has neither video nor audio");
    }
    Ok(chosen)
}

/// The segments of a Representation at `now`.
pub fn dash_listing(mpd: &Mpd, of: &Representation, now: WallTime) -> anyhow::Result<Listing> {
    let same = |r: &&Representation| r.id == of.id && r.period == of.period;
    let found = mpd.representations.iter().find(same);
    let representation = found.with_context(|| format!("Representation {} is gone from the MPD", of.id))?;
    if let Addressing::SingleFile { url, .. } = &representation.addressing {
        bail!("{url}: this client does not play SegmentBase");
    }
    let init = mpd.init(representation);
    let entry = |s: mahp_common::manifest::dash::Segment| Entry {
        number: s.number,
        url: s.url,
        range: s.range,
        start: s.start,
        duration: s.duration,
        init: init.clone(),
    };
    let entries: Vec<_> = mpd.segments(representation, now).into_iter().map(entry).collect();
    let longest = entries.iter().map(|e| e.duration).max().unwrap_or(Duration::from_secs(2));
    // dash.js: the suggested delay, else four segments.
    let hold_back = mpd.suggested_presentation_delay.unwrap_or(4 * longest);
    Ok(Listing { entries, ended: !mpd.dynamic, target: longest, hold_back })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::manifest::hls::Segment;

    fn media(first: u64, count: u64, endlist: bool) -> Media {
        let segment = |sequence| Segment {
            uri: format!("{sequence}.m4s"),
            sequence,
            duration: Duration::from_millis(2000 + sequence % 3),
            ..Segment::default()
        };
        Media {
            target_duration: Duration::from_secs(2),
            media_sequence: first,
            endlist,
            segments: (first..first + count).map(segment).collect(),
            ..Media::default()
        }
    }

    fn base() -> Url {
        Url::parse("http://o/hi/index.m3u8").unwrap()
    }

    #[test]
    fn versions_of_a_playlist_share_one_timeline() {
        let mut feed = HlsFeed::default();
        let mut starts = std::collections::BTreeMap::new();
        // The window slides, stands still, and jumps within what both versions list.
        for first in [10, 11, 11, 12, 15, 18] {
            for entry in feed.listing(&media(first, 5, false), &base()).unwrap().entries {
                let start = *starts.entry(entry.number).or_insert(entry.start);
                assert_eq!(entry.start, start, "segment {} moved", entry.number);
            }
        }
        let ends: Vec<_> = starts.values().copied().collect();
        assert!(ends.windows(2).all(|w| w[1] > w[0] + Duration::from_millis(1999)), "{ends:?}");
    }

    #[test]
    fn live_starts_three_segments_behind_and_on_demand_at_the_beginning() {
        let listing = |endlist| HlsFeed::default().listing(&media(10, 8, endlist), &base()).unwrap();
        assert_eq!(listing(false).first().unwrap().number, 15);
        assert_eq!(listing(true).first().unwrap().number, 10);
        let few = HlsFeed::default().listing(&media(0, 2, false), &base()).unwrap();
        assert_eq!(few.first().unwrap().number, 0);
        assert!(Listing::default().first().is_none());
    }
}
