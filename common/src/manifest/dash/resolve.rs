//! From the MPD as written to [`Mpd`]: inheritance, base URLs, times of Periods.

use super::model::{
    AdaptationSet, Attributes, Document, Level, Period, Representation as Written, Segmenting,
};
use super::template::{self, Values};
use super::{Addressing, Mpd, Representation, SegmentSource};
use crate::limits;
use crate::manifest::{ManifestError, datetime};
use crate::time::WallTime;
use std::time::Duration;
use url::Url;

/// See [`Mpd::parse`].
pub(super) fn resolve(document: &Document, url: &Url) -> Result<Mpd, ManifestError> {
    let attributes = &document.attributes;
    let duration = |name: &str| attributes.get(name).and_then(|v| datetime::parse_duration(v));
    let date = attributes.get("availabilityStartTime").and_then(|v| datetime::parse_date_time(v));
    let mut mpd = Mpd {
        dynamic: attributes.get("type").is_some_and(|t| t.trim_ascii() == "dynamic"),
        availability_start: date.map(WallTime::from_unix_millis),
        minimum_update_period: duration("minimumUpdatePeriod"),
        time_shift_buffer_depth: duration("timeShiftBufferDepth"),
        suggested_presentation_delay: duration("suggestedPresentationDelay"),
        media_presentation_duration: duration("mediaPresentationDuration"),
        max_segment_duration: duration("maxSegmentDuration"),
        location: document.location.as_deref().and_then(|l| url.join(l).ok()),
        utc_timing: document.utc_timing.clone(),
        representations: Vec::new(),
    };
    let times = period_times(&document.periods, mpd.media_presentation_duration);
    let root = Inherited::root(url).below(&document.level);
    let mut resolver = Resolver { mpd: &mut mpd, budget: 4 * limits::MANIFEST_BYTES };
    for (index, (period, (start, duration))) in document.periods.iter().zip(times).enumerate() {
        let at = PeriodAt { index, period, start, duration };
        resolver.period(&at, &root)?;
    }
    Ok(mpd)
}

/// Start and duration of each Period (ISO/IEC 23009-1 section 5.3.2.1).
fn period_times(periods: &[Period], whole: Option<Duration>) -> Vec<(Duration, Option<Duration>)> {
    let of =
        |period: &Period, name: &str| period.attributes.get(name).and_then(|v| datetime::parse_duration(v));
    let mut times: Vec<(Duration, Option<Duration>)> = Vec::with_capacity(periods.len());
    for period in periods {
        let after =
            times.last().map_or(Duration::ZERO, |(start, duration)| *start + duration.unwrap_or_default());
        times.push((of(period, "start").unwrap_or(after), of(period, "duration")));
    }
    let starts: Vec<Duration> = times.iter().map(|(start, _)| *start).collect();
    for (index, (start, duration)) in times.iter_mut().enumerate() {
        let end = starts.get(index + 1).copied().or(whole);
        // A Period ends where the next begins, whatever its own words are.
        let until_next = end.map(|end| end.saturating_sub(*start));
        *duration = match (*duration, until_next) {
            (Some(own), Some(next)) if index + 1 < starts.len() => Some(own.min(next)),
            (own, next) => own.or(next),
        };
    }
    times
}

/// What a level takes over from those above it.
#[derive(Clone)]
struct Inherited {
    base: Url,
    availability_time_offset: f64,
    addressing: Option<(Kind, Segmenting)>,
    template: Segmenting,
    list: Segmenting,
    single: Segmenting,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Template,
    List,
    Single,
}

impl Inherited {
    fn root(url: &Url) -> Inherited {
        Inherited {
            base: url.clone(),
            availability_time_offset: 0.0,
            addressing: None,
            template: Segmenting::default(),
            list: Segmenting::default(),
            single: Segmenting::default(),
        }
    }

    fn below(&self, level: &Level) -> Inherited {
        let mut own = self.clone();
        if let Some((reference, offset)) = &level.base_url {
            own.base = self.base.join(reference).unwrap_or_else(|_| self.base.clone());
            own.availability_time_offset += offset.unwrap_or(0.0);
        }
        for (kind, said) in
            [(Kind::Single, &level.single), (Kind::List, &level.list), (Kind::Template, &level.template)]
        {
            if let Some(said) = said {
                let slot = match kind {
                    Kind::Template => &mut own.template,
                    Kind::List => &mut own.list,
                    Kind::Single => &mut own.single,
                };
                *slot = Segmenting::clone(said).or(slot);
                own.addressing = Some((kind, slot.clone()));
            }
        }
        own
    }
}

struct PeriodAt<'a> {
    index: usize,
    period: &'a Period,
    start: Duration,
    duration: Option<Duration>,
}

struct Resolver<'a> {
    mpd: &'a mut Mpd,
    /// Bytes that may still be kept: long names inherited by many Representations must not exhaust memory.
    budget: usize,
}

impl Resolver<'_> {
    fn period(&mut self, at: &PeriodAt<'_>, above: &Inherited) -> Result<(), ManifestError> {
        let inherited = above.below(&at.period.level);
        for set in &at.period.sets {
            let inherited = inherited.below(&set.level);
            for written in &set.representations {
                let representation = representation(at, set, written, &inherited.below(&written.level));
                self.spend(&representation)?;
                self.mpd.representations.push(representation);
            }
        }
        Ok(())
    }

    fn spend(&mut self, representation: &Representation) -> Result<(), ManifestError> {
        let texts = [
            Some(&representation.period),
            Some(&representation.id),
            Some(&representation.content_type),
            representation.mime_type.as_ref(),
            representation.codecs.as_ref(),
            representation.language.as_ref(),
            representation.url_pattern.as_ref(),
        ];
        let base = match &representation.addressing {
            Addressing::Segments(source) => source.base.as_ref(),
            Addressing::SingleFile { url, .. } => Some(url),
        };
        let bytes = texts.into_iter().flatten().map(String::len).sum::<usize>()
            + base.map_or(0, |base| base.as_str().len())
            + size_of::<Representation>();
        let left = self.budget.checked_sub(bytes);
        self.budget = left.ok_or(ManifestError::Limit("size of Representations"))?;
        Ok(())
    }
}

fn representation(
    at: &PeriodAt<'_>,
    set: &AdaptationSet,
    written: &Written,
    inherited: &Inherited,
) -> Representation {
    let own = &written.attributes;
    let either = |name: &str| own.get(name).or_else(|| set.attributes.get(name)).cloned();
    let id = own.get("id").cloned().unwrap_or_default();
    let bandwidth = own.get("bandwidth").and_then(|b| b.trim_ascii().parse().ok()).unwrap_or(0);
    let (addressing, url_pattern) = addressing(inherited, &id, bandwidth);
    let (mime_type, codecs) = (either("mimeType"), either("codecs"));
    Representation {
        period: at.period.attributes.get("id").cloned().unwrap_or_else(|| at.index.to_string()),
        period_index: at.index,
        period_start: at.start,
        period_duration: at.duration,
        content_type: content_type(&set.attributes, mime_type.as_deref(), codecs.as_deref()),
        id,
        bandwidth,
        mime_type,
        codecs,
        resolution: either("width").zip(either("height")).map(|(w, h)| format!("{w}x{h}")),
        language: either("lang"),
        addressing,
        url_pattern,
    }
}

fn addressing(inherited: &Inherited, id: &str, bandwidth: u64) -> (Addressing, Option<String>) {
    let base = inherited.base.clone();
    match &inherited.addressing {
        Some((Kind::Template | Kind::List, segmenting)) => {
            let own_offset = segmenting.availability_time_offset.unwrap_or(0.0);
            let values = Values { representation_id: id, bandwidth, number: None, time: None };
            let media = segmenting.media.as_deref().and_then(|media| template::expand(media, values));
            let pattern = media.and_then(|media| base.join(&media).ok()).map(String::from);
            let source = SegmentSource {
                base: Some(base),
                segmenting: segmenting.clone(),
                availability_time_offset: inherited.availability_time_offset + own_offset,
            };
            (Addressing::Segments(source), pattern)
        }
        single => {
            let single = single.as_ref().map(|(_, single)| single);
            let init_range = single.and_then(|s| s.initialization.as_ref()?.1);
            let index_range = single.and_then(|s| s.index_range);
            let pattern = base.to_string();
            (Addressing::SingleFile { url: base, init_range, index_range }, Some(pattern))
        }
    }
}

/// @contentType, else what MIME type and codecs tell.
fn content_type(set: &Attributes, mime_type: Option<&str>, codecs: Option<&str>) -> String {
    if let Some(written) = set.get("contentType") {
        return written.clone();
    }
    let mime_type = mime_type.unwrap_or_default();
    let is_text_codec = codecs.is_some_and(|c| c.starts_with("stpp") || c.starts_with("wvtt"));
    match mime_type.split('/').next().unwrap_or_default() {
        "application" if is_text_codec || mime_type.contains("ttml") => "text".to_owned(),
        first => first.to_owned(),
    }
}
