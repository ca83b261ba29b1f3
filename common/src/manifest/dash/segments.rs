//! Enumeration of segments: numbers, times, URLs, availability.
//!
//! Media time is counted in units of the timescale from the start of the Period, in 128 bits: products of any two values
//! of an MPD fit.

use super::model::{S, Segmenting};
use super::template::{self, Values};
use super::{Addressing, Mpd, Representation, Segment, SegmentSource};
use crate::limits::{MANIFEST_BYTES, MPD_SEGMENTS};
use crate::object::ByteRange;
use crate::time::WallTime;
use std::time::Duration;
use url::Url;

/// Bytes of URLs that one enumeration may make.
const URL_BYTES: usize = 4 * MANIFEST_BYTES;
const NANOS: u128 = 1_000_000_000;

fn source(representation: &Representation) -> Option<(&SegmentSource, &Url)> {
    match &representation.addressing {
        Addressing::Segments(source) => Some((source, source.base.as_ref()?)),
        Addressing::SingleFile { .. } => None,
    }
}

/// See [`Mpd::init`].
pub(super) fn init(representation: &Representation) -> Option<(Url, Option<ByteRange>)> {
    let (source, base) = source(representation)?;
    let (reference, range) = source.segmenting.initialization.as_ref()?;
    let values = Values {
        representation_id: &representation.id,
        bandwidth: representation.bandwidth,
        number: None,
        time: None,
    };
    let url = match reference {
        Some(reference) => base.join(&template::expand(reference, values)?).ok()?,
        None => base.clone(),
    };
    Some((url, *range))
}

/// See [`Mpd::segments`].
pub(super) fn segments(mpd: &Mpd, representation: &Representation, now: WallTime) -> Vec<Segment> {
    let Some((source, base)) = source(representation) else {
        return Vec::new();
    };
    let clock = Clock::new(mpd, representation, source);
    let entries = match &source.segmenting.timeline {
        Some(timeline) => from_timeline(&clock, timeline, now),
        None => from_duration(&clock, now),
    };
    let mut left = URL_BYTES;
    let mut out = Vec::new();
    for entry in entries {
        let Some((url, range)) = locate(clock.segmenting, base, representation, &entry) else { continue };
        let Some(rest) = left.checked_sub(url.as_str().len()) else { break };
        left = rest;
        out.push(Segment {
            url,
            range,
            number: entry.number,
            start: clock.presentation_time(entry.time),
            duration: clock.duration(entry.duration),
            available_at: mpd.dynamic.then(|| clock.available_at(entry.time.saturating_add(entry.duration))),
        });
    }
    out
}

/// See [`Mpd::next_available`].
pub(super) fn next_available(mpd: &Mpd, representation: &Representation, number: u64) -> Option<WallTime> {
    let (source, _) = source(representation)?;
    let clock = Clock::new(mpd, representation, source);
    if !mpd.dynamic {
        return None;
    }
    if let Some(timeline) = &clock.segmenting.timeline {
        return next_of_timeline(&clock, timeline, number);
    }
    let duration = u128::from(clock.segmenting.duration?);
    let index = u128::from(number.checked_add(1)?.checked_sub(clock.first_number())?);
    if clock.count_by_period(duration).is_some_and(|count| index >= count) {
        return None;
    }
    Some(clock.available_at((index + 1).saturating_mul(duration).saturating_add(clock.offset())))
}

/// Of a timeline whose last S repeats for an open time (`@r = -1`).
fn next_of_timeline(clock: &Clock<'_>, timeline: &[S], number: u64) -> Option<WallTime> {
    timeline.last().filter(|last| last.r < 0)?;
    let run = runs(clock, timeline, WallTime::from_unix_secs(0)).pop()?;
    let next = number.checked_add(1)?;
    let index = u128::from(next.checked_sub(run.number)?);
    let start = index.saturating_mul(run.duration).saturating_add(run.time);
    let over = clock.period_end().is_some_and(|end| start >= end)
        || clock.segmenting.end_number.is_some_and(|end| next > end);
    (!over).then(|| clock.available_at(start.saturating_add(run.duration)))
}

/// A segment before it has a URL.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    /// Place in a SegmentList.
    index: usize,
    /// Media time of its start, with @presentationTimeOffset.
    time: u128,
    duration: u128,
}

/// Turns media time into presentation time and wall-clock time.
struct Clock<'a> {
    segmenting: &'a Segmenting,
    timescale: u128,
    period_start: Duration,
    period_duration: Option<Duration>,
    dynamic: bool,
    /// Wall-clock milliseconds of the start of the Period.
    period_wall: u128,
    /// Nanoseconds that segments are available before they are complete; `None` without end.
    early: Option<u128>,
    buffer_depth: Option<Duration>,
}

impl<'a> Clock<'a> {
    fn new(mpd: &Mpd, representation: &Representation, source: &'a SegmentSource) -> Clock<'a> {
        let start = mpd.availability_start.map_or(0, WallTime::unix_millis);
        let early = source.availability_time_offset;
        Clock {
            segmenting: &source.segmenting,
            timescale: u128::from(source.segmenting.timescale.unwrap_or(1)),
            period_start: representation.period_start,
            period_duration: representation.period_duration,
            dynamic: mpd.dynamic,
            period_wall: u128::from(start) + representation.period_start.as_millis(),
            // A float-to-integer cast saturates and makes negative values 0.
            early: early.is_finite().then_some((early * 1e9) as u128),
            buffer_depth: mpd.time_shift_buffer_depth,
        }
    }

    /// @presentationTimeOffset.
    fn offset(&self) -> u128 {
        u128::from(self.segmenting.presentation_time_offset.unwrap_or(0))
    }

    fn first_number(&self) -> u64 {
        self.segmenting.start_number.unwrap_or(1)
    }

    fn duration(&self, units: u128) -> Duration {
        let seconds = u64::try_from(units / self.timescale).unwrap_or(u64::MAX);
        // Below one second.
        let nanos = units % self.timescale * NANOS / self.timescale;
        Duration::new(seconds.min(1 << 40), nanos as u32)
    }

    /// Units of the timescale in a duration, rounded up or down.
    fn units(&self, duration: Duration, up: bool) -> u128 {
        let product = duration.as_nanos().saturating_mul(self.timescale);
        if up { product.div_ceil(NANOS) } else { product / NANOS }
    }

    fn presentation_time(&self, time: u128) -> Duration {
        self.period_start + self.duration(time.saturating_sub(self.offset()))
    }

    /// When a segment that ends at media time `end` is available: rounded up, so that nobody asks too early.
    fn available_at(&self, end: u128) -> WallTime {
        let Some(early) = self.early else {
            return WallTime::from_unix_millis(u64::try_from(self.period_wall).unwrap_or(u64::MAX));
        };
        let end = self.duration(end.saturating_sub(self.offset())).as_nanos();
        let wall = (self.period_wall * 1_000_000 + end).saturating_sub(early).div_ceil(1_000_000);
        WallTime::from_unix_millis(u64::try_from(wall).unwrap_or(u64::MAX))
    }

    /// Media time up to which segments are available at `now`. With an endless availability offset the end of the Period
    /// counts; where that is not known, what is complete.
    fn complete_until(&self, now: WallTime) -> Option<u128> {
        let early = match self.early {
            None if self.period_duration.is_some() => return None,
            early => early.unwrap_or(0),
        };
        let since = (u128::from(now.unix_millis()) * 1_000_000).saturating_add(early);
        let since = since.saturating_sub(self.period_wall * 1_000_000);
        let since = Duration::from_nanos(u64::try_from(since).unwrap_or(u64::MAX));
        Some(self.offset() + self.units(since, false))
    }

    /// Media time before which segments have left the time-shift buffer at `now`.
    fn buffer_start(&self, now: WallTime) -> u128 {
        let Some(depth) = self.buffer_depth else { return 0 };
        let since = u128::from(now.unix_millis()).saturating_sub(self.period_wall + depth.as_millis());
        let since = Duration::from_millis(u64::try_from(since).unwrap_or(u64::MAX));
        self.offset() + self.units(since, false)
    }

    /// Media time of the end of the Period.
    fn period_end(&self) -> Option<u128> {
        self.period_duration.map(|d| self.offset() + self.units(d, true))
    }

    /// Segments of this duration in the Period, @endNumber regarded; of a list as many as it names, as players ask for what is
    /// named even where it begins after the end of the Period. `None`: no end is known.
    fn count_by_period(&self, duration: u128) -> Option<u128> {
        let by_period = self.period_duration.map(|d| {
            // What a rounded duration leaves over is not a segment: a thousandth of one is tolerated.
            (self.units(d, true).saturating_sub(duration / 1000)).div_ceil(duration)
        });
        let by_number = self.segmenting.end_number;
        let by_number =
            by_number.map(|end| (u128::from(end) + 1).saturating_sub(u128::from(self.first_number())));
        let by_list = self.segmenting.urls.as_ref().filter(|_| self.segmenting.media.is_none());
        let by_list = by_list.map(|urls| urls.len() as u128);
        let by_period = by_period.filter(|_| by_list.is_none());
        [by_period, by_number, by_list].into_iter().flatten().min()
    }
}

/// Segments of equal duration.
fn from_duration(clock: &Clock<'_>, now: WallTime) -> Vec<Entry> {
    let Some(duration) = clock.segmenting.duration.map(u128::from) else {
        return without_duration(clock);
    };
    let mut count = clock.count_by_period(duration);
    let mut first = 0;
    if clock.dynamic {
        if let Some(until) = clock.complete_until(now) {
            let complete = until.saturating_sub(clock.offset()) / duration;
            count = Some(count.map_or(complete, |count| count.min(complete)));
        }
        first = clock.buffer_start(now).saturating_sub(clock.offset()) / duration;
        first = first.max(count.unwrap_or(0).saturating_sub(MPD_SEGMENTS as u128));
    }
    let indices = first..count.unwrap_or(0).min(first.saturating_add(MPD_SEGMENTS as u128));
    indices
        .map_while(|index| {
            Some(Entry {
                number: clock.first_number().checked_add(u64::try_from(index).ok()?)?,
                index: usize::try_from(index).ok()?,
                time: index.saturating_mul(duration).saturating_add(clock.offset()),
                duration,
            })
        })
        .collect()
}

/// Neither duration nor timeline: one segment that lasts as long as the Period, or what a list names.
fn without_duration(clock: &Clock<'_>) -> Vec<Entry> {
    let count = clock.segmenting.urls.as_ref().map_or(1, |urls| urls.len());
    let whole = clock.period_duration.map_or(0, |d| clock.units(d, false));
    let each = whole / (count.max(1) as u128);
    (0..count)
        .map_while(|index| {
            let number = clock.first_number().checked_add(index as u64)?;
            Some(Entry { number, index, time: clock.offset() + each * index as u128, duration: each })
        })
        .collect()
}

/// One S with its repetitions.
struct Run {
    number: u64,
    time: u128,
    duration: u128,
    count: u128,
}

/// The segments that a SegmentTimeline lists.
fn from_timeline(clock: &Clock<'_>, timeline: &[S], now: WallTime) -> Vec<Entry> {
    let runs = runs(clock, timeline, now);
    let total = runs.iter().fold(0u128, |sum, run| sum.saturating_add(run.count));
    let mut skip = if clock.dynamic { total.saturating_sub(MPD_SEGMENTS as u128) } else { 0 };
    let mut index = skip;
    let mut out = Vec::new();
    for run in &runs {
        let from = skip.min(run.count);
        skip -= from;
        for at in from..run.count {
            let number = u64::try_from(at).ok().and_then(|at| run.number.checked_add(at));
            let (Some(number), Ok(place)) = (number, usize::try_from(index)) else { return out };
            let ended = clock.segmenting.end_number.is_some_and(|end| number > end);
            if ended || out.len() == MPD_SEGMENTS {
                return out;
            }
            let time = at.saturating_mul(run.duration).saturating_add(run.time);
            out.push(Entry { number, index: place, time, duration: run.duration });
            index += 1;
        }
    }
    out
}

fn runs(clock: &Clock<'_>, timeline: &[S], now: WallTime) -> Vec<Run> {
    let (mut number, mut time) = (clock.first_number(), 0u128);
    let mut runs = Vec::with_capacity(timeline.len());
    for (at, entry) in timeline.iter().enumerate() {
        number = entry.n.unwrap_or(number);
        time = entry.t.map_or(time, u128::from);
        let duration = u128::from(entry.d);
        if duration == 0 {
            continue;
        }
        let count = if entry.r >= 0 {
            u128::from(entry.r.unsigned_abs()) + 1
        } else {
            let next = timeline.get(at + 1).and_then(|next| next.t).map(u128::from);
            open_count(clock, time, duration, next, now)
        };
        runs.push(Run { number, time, duration, count });
        number = number.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        time = count.saturating_mul(duration).saturating_add(time);
    }
    runs
}

/// Repetitions of `@r = -1`: until the next S, the end of the Period, or now.
fn open_count(clock: &Clock<'_>, time: u128, duration: u128, next: Option<u128>, now: WallTime) -> u128 {
    if let Some(next) = next {
        return next.saturating_sub(time).div_ceil(duration);
    }
    let by_period = clock.period_end().map(|end| end.saturating_sub(time).div_ceil(duration));
    let by_now = if clock.dynamic { clock.complete_until(now) } else { None };
    let by_now = by_now.map(|until| until.saturating_sub(time) / duration);
    [by_period, by_now].into_iter().flatten().min().unwrap_or(1)
}

/// URL and range of a segment.
fn locate(
    segmenting: &Segmenting,
    base: &Url,
    representation: &Representation,
    entry: &Entry,
) -> Option<(Url, Option<ByteRange>)> {
    if let Some(urls) = segmenting.urls.as_ref().filter(|_| segmenting.media.is_none()) {
        let url = urls.get(entry.index)?;
        let location = match &url.media {
            Some(media) => base.join(media).ok()?,
            None => base.clone(),
        };
        return Some((location, url.range));
    }
    let values = Values {
        representation_id: &representation.id,
        bandwidth: representation.bandwidth,
        number: Some(entry.number),
        time: u64::try_from(entry.time).ok(),
    };
    let reference = template::expand(segmenting.media.as_deref()?, values)?;
    Some((base.join(&reference).ok()?, None))
}
