//! MPDs (ISO/IEC 23009-1): enumeration of segments and event-level rewriting with quick-xml; nothing is re-serialised.

mod model;
mod resolve;
mod rewrite;
mod segments;
mod template;
#[cfg(test)]
mod tests;
mod xml;

use super::url::UrlMap;
use super::{Edit, ManifestError};
use crate::object::ByteRange;
use crate::time::WallTime;
use std::time::Duration;
use url::Url;

/// An MPD, understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mpd {
    /// `@type = dynamic`.
    pub dynamic: bool,
    /// `@availabilityStartTime`.
    pub availability_start: Option<WallTime>,
    /// `@minimumUpdatePeriod`.
    pub minimum_update_period: Option<Duration>,
    /// `@timeShiftBufferDepth`.
    pub time_shift_buffer_depth: Option<Duration>,
    /// `@suggestedPresentationDelay`.
    pub suggested_presentation_delay: Option<Duration>,
    /// `@mediaPresentationDuration`.
    pub media_presentation_duration: Option<Duration>,
    /// `@maxSegmentDuration`.
    pub max_segment_duration: Option<Duration>,
    /// `Location`, resolved.
    pub location: Option<Url>,
    /// `UTCTiming`: scheme and value.
    pub utc_timing: Vec<(String, String)>,
    /// Representations over all Periods in document order.
    pub representations: Vec<Representation>,
}

/// One Representation of one Period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Representation {
    /// `@id` of the Period, or its index.
    pub period: String,
    /// Index of the Period.
    pub period_index: usize,
    /// Start of the Period on the presentation timeline.
    pub period_start: Duration,
    /// Duration of the Period where known.
    pub period_duration: Option<Duration>,
    /// `@id`.
    pub id: String,
    /// `@bandwidth`, bit/s.
    pub bandwidth: u64,
    /// `@contentType` or the first half of `@mimeType`: video, audio, text, image.
    pub content_type: String,
    /// `@mimeType`.
    pub mime_type: Option<String>,
    /// `@codecs`.
    pub codecs: Option<String>,
    /// width x height.
    pub resolution: Option<String>,
    /// `@lang`.
    pub language: Option<String>,
    /// How its segments are addressed.
    pub addressing: Addressing,
    /// URL pattern of its media segments with `*` for $Number$ and $Time$ (for the session description).
    pub url_pattern: Option<String>,
}

/// How segments are addressed.
#[derive(Clone, Debug, PartialEq)]
pub enum Addressing {
    /// SegmentTemplate or SegmentList: the segments are enumerated by [`Mpd::segments`].
    Segments(SegmentSource),
    /// SegmentBase, or only a BaseURL: one file; init and index ranges where given.
    SingleFile {
        /// The file.
        url: Url,
        /// `Initialization@range`.
        init_range: Option<ByteRange>,
        /// `@indexRange`.
        index_range: Option<ByteRange>,
    },
}

impl Representation {
    /// How long before it is complete a segment may be asked for, where that is a moment (`@availabilityTimeOffset`): it is
    /// served while it is being made.
    pub fn early(&self) -> Option<Duration> {
        match &self.addressing {
            Addressing::Segments(source) => Duration::try_from_secs_f64(source.availability_time_offset)
                .ok()
                .filter(|early| !early.is_zero()),
            Addressing::SingleFile { .. } => None,
        }
    }
}

impl Default for Addressing {
    fn default() -> Self {
        Addressing::Segments(SegmentSource::default())
    }
}

/// What is needed to enumerate; opaque outside this module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentSource {
    /// What relative references are resolved against; always there but in `default()`.
    base: Option<Url>,
    segmenting: model::Segmenting,
    /// Sum of @availabilityTimeOffset, seconds; may be infinite.
    availability_time_offset: f64,
}

/// One segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Absolute URL.
    pub url: Url,
    /// `mediaRange` of SegmentList.
    pub range: Option<ByteRange>,
    /// $Number$, or the index in a list.
    pub number: u64,
    /// Start on the presentation timeline.
    pub start: Duration,
    /// Duration.
    pub duration: Duration,
    /// Dynamic MPDs: when it is available at the origin (availabilityTimeOffset included).
    pub available_at: Option<WallTime>,
}

impl Mpd {
    /// Reads an MPD that came from `url` (after redirects). Where an element has several BaseURL, the first counts.
    ///
    /// Bounded by [`crate::limits`]; a DOCTYPE is refused.
    pub fn parse(body: &[u8], url: &Url) -> Result<Mpd, ManifestError> {
        if body.len() > crate::limits::MANIFEST_BYTES {
            return Err(ManifestError::Limit("MPD size"));
        }
        let text = std::str::from_utf8(body).map_err(|e| ManifestError::NotUtf8(e.valid_up_to()))?;
        resolve::resolve(&model::read(text)?, url)
    }

    /// Initialization segment of a Representation with segments.
    pub fn init(&self, representation: &Representation) -> Option<(Url, Option<ByteRange>)> {
        segments::init(representation)
    }

    /// Media segments. Static: all. Dynamic: those available at `now` inside the time-shift buffer (SegmentTimeline: all that
    /// are listed). Bounded by [`crate::limits::MPD_SEGMENTS`]: beyond it a static MPD loses its end, a dynamic one what is
    /// oldest.
    pub fn segments(&self, representation: &Representation, now: WallTime) -> Vec<Segment> {
        segments::segments(self, representation, now)
    }

    /// Dynamic, by the clock (a constant @duration, or a timeline whose last S has `@r = -1`): when the next segment after
    /// `number` becomes available.
    pub fn next_available(&self, representation: &Representation, number: u64) -> Option<WallTime> {
        segments::next_available(self, representation, number)
    }
}

/// What the receiver may do to an MPD besides URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewriteOptions {
    /// Replace `UTCTiming` values of the schemes http-iso, http-xsdate and http-head by this local path (`/time`), which
    /// must answer with a date in ISO 8601.
    pub time_path: Option<String>,
    /// A time-shift buffer that is shorter than what the MPD says (or does not say, which means no end): written as
    /// `MPD@timeShiftBufferDepth`, in milliseconds. A longer one changes nothing.
    pub time_shift_buffer: Option<Duration>,
}

/// Edits that make every URL of the MPD (BaseURL, Location, PatchLocation, ContentSteering, @media, @initialization, @index,
/// @bitstreamSwitching, @sourceURL, xlink:href of http(s)) lead through the receiver. Licence URLs, schemes and namespaces
/// stay. Nothing outside the spans changes, but for the time-shift buffer of the options. An MPD without an absolute BaseURL whose relative references already lead there
/// needs no edits.
///
/// Bounded by [`crate::limits`]; the text that is written is bounded too ([`crate::limits::MANIFEST_BYTES`]).
pub fn rewrite(
    text: &str,
    base: &Url,
    served_path: &str,
    map: &dyn UrlMap,
    options: &RewriteOptions,
) -> Result<Vec<Edit>, ManifestError> {
    rewrite::rewrite(text, base, served_path, map, options)
}
