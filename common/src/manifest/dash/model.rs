//! The MPD as written: levels of Period, AdaptationSet and Representation with what each says of its segments.

use super::xml::{self, Item, Tag, Walk};
use crate::limits;
use crate::manifest::{ManifestError, datetime};
use crate::object::ByteRange;
use std::sync::Arc;

/// Bytes of names and references that are kept, over the whole document.
const KEPT_BYTES: usize = 2 * limits::MANIFEST_BYTES;

/// UTCTiming elements that are kept.
const CLOCKS_MAX: usize = 16;

/// The attributes of an element that are kept, unescaped, by local name: a handful, so a list will do.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Vec<(String, String)>);

impl Attributes {
    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

/// The MPD element.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) attributes: Attributes,
    pub(super) level: Level,
    pub(super) location: Option<String>,
    pub(super) utc_timing: Vec<(String, String)>,
    pub(super) periods: Vec<Period>,
}

#[derive(Debug, Default)]
pub(super) struct Period {
    pub(super) attributes: Attributes,
    pub(super) level: Level,
    pub(super) sets: Vec<AdaptationSet>,
}

#[derive(Debug, Default)]
pub(super) struct AdaptationSet {
    pub(super) attributes: Attributes,
    pub(super) level: Level,
    pub(super) representations: Vec<Representation>,
}

#[derive(Debug, Default)]
pub(super) struct Representation {
    pub(super) attributes: Attributes,
    pub(super) level: Level,
}

/// What any level may say.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    /// The first BaseURL, and its @availabilityTimeOffset.
    pub(super) base_url: Option<(String, Option<f64>)>,
    pub(super) template: Option<Box<Segmenting>>,
    pub(super) list: Option<Box<Segmenting>>,
    pub(super) single: Option<Box<Segmenting>>,
}

/// A SegmentTemplate, SegmentList or SegmentBase.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Segmenting {
    pub(super) timescale: Option<u64>,
    pub(super) presentation_time_offset: Option<u64>,
    pub(super) start_number: Option<u64>,
    pub(super) end_number: Option<u64>,
    pub(super) duration: Option<u64>,
    pub(super) availability_time_offset: Option<f64>,
    pub(super) media: Option<Arc<str>>,
    /// @initialization, or Initialization@sourceURL and @range.
    pub(super) initialization: Option<(Option<Arc<str>>, Option<ByteRange>)>,
    pub(super) index_range: Option<ByteRange>,
    pub(super) timeline: Option<Arc<[S]>>,
    pub(super) urls: Option<Arc<[SegmentUrl]>>,
}

/// An entry of a SegmentTimeline.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct S {
    pub(super) t: Option<u64>,
    pub(super) n: Option<u64>,
    pub(super) d: u64,
    pub(super) r: i64,
}

/// A SegmentURL.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SegmentUrl {
    pub(super) media: Option<Arc<str>>,
    pub(super) range: Option<ByteRange>,
}

impl Segmenting {
    /// This level's words, else the ones of the level above.
    pub(super) fn or(self, above: &Segmenting) -> Segmenting {
        Segmenting {
            timescale: self.timescale.or(above.timescale),
            presentation_time_offset: self.presentation_time_offset.or(above.presentation_time_offset),
            start_number: self.start_number.or(above.start_number),
            end_number: self.end_number.or(above.end_number),
            duration: self.duration.or(above.duration),
            availability_time_offset: self.availability_time_offset.or(above.availability_time_offset),
            media: self.media.or_else(|| above.media.clone()),
            initialization: self.initialization.or_else(|| above.initialization.clone()),
            index_range: self.index_range.or(above.index_range),
            timeline: self.timeline.or_else(|| above.timeline.clone()),
            urls: self.urls.or_else(|| above.urls.clone()),
        }
    }
}

/// Reads the document.
pub(super) fn read(text: &str) -> Result<Document, ManifestError> {
    let mut walk = Walk::new(text)?;
    let mut reader = Reader::default();
    while let Some(item) = walk.next()? {
        match item {
            Item::Open(tag) => reader.open(&tag)?,
            Item::Close(content) => reader.close(&text[content])?,
        }
    }
    Ok(reader.document)
}

/// The elements that matter; everything below another element is left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    Mpd,
    Period,
    AdaptationSet,
    Representation,
    Segmenting(Kind),
    Timeline,
    S,
    Initialization,
    SegmentUrl,
    BaseUrl,
    Location,
    UtcTiming,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Template,
    List,
    Base,
}

#[derive(Default)]
struct Reader {
    document: Document,
    path: Vec<Element>,
    /// The SegmentTemplate, SegmentList or SegmentBase that is open, its timeline and its SegmentURLs.
    segmenting: Segmenting,
    timeline: Vec<S>,
    urls: Vec<SegmentUrl>,
    /// @availabilityTimeOffset of the open BaseURL.
    base_offset: Option<f64>,
    kept: usize,
    levels: usize,
    entries: usize,
}

impl Reader {
    fn open(&mut self, tag: &Tag<'_>) -> Result<(), ManifestError> {
        let element = element(self.path.last().copied(), tag.name());
        self.path.push(element);
        match element {
            Element::Other => return Ok(()),
            Element::S => return self.push_entry(tag),
            _ => {}
        }
        if matches!(element, Element::Period | Element::AdaptationSet | Element::Representation) {
            self.levels += 1;
            if self.levels > limits::MPD_LEVELS {
                return Err(ManifestError::Limit("Periods, AdaptationSets and Representations"));
            }
        }
        let attributes = self.attributes(tag)?;
        match element {
            Element::Mpd => self.document.attributes = attributes,
            Element::Period => self.document.periods.push(Period { attributes, ..Period::default() }),
            Element::AdaptationSet => {
                if let Some(period) = self.document.periods.last_mut() {
                    period.sets.push(AdaptationSet { attributes, ..AdaptationSet::default() });
                }
            }
            Element::Representation => {
                let set = self.document.periods.last_mut().and_then(|p| p.sets.last_mut());
                if let Some(set) = set {
                    set.representations.push(Representation { attributes, ..Representation::default() });
                }
            }
            Element::Segmenting(_) => {
                self.segmenting = segmenting(&attributes);
                self.timeline.clear();
                self.urls.clear();
            }
            Element::Initialization => {
                let range = attributes.get("range").and_then(|r| byte_range(r));
                let url = attributes.get("sourceURL").map(|u| Arc::from(u.as_str()));
                self.segmenting.initialization = Some((url, range));
            }
            Element::SegmentUrl => self.push_url(&attributes)?,
            Element::BaseUrl => self.base_offset = time_offset(&attributes),
            Element::UtcTiming if self.document.utc_timing.len() == CLOCKS_MAX => {}
            Element::UtcTiming => {
                let of = |name: &str| attributes.get(name).cloned().unwrap_or_default();
                self.document.utc_timing.push((of("schemeIdUri"), of("value")));
            }
            Element::Timeline | Element::S | Element::Location | Element::Other => {}
        }
        Ok(())
    }

    fn close(&mut self, content: &str) -> Result<(), ManifestError> {
        match self.path.pop() {
            Some(Element::BaseUrl) => {
                let offset = self.base_offset.take();
                if self.level().is_some_and(|level| level.base_url.is_none()) {
                    let url = self.keep_text(content)?;
                    if let (Some(level), Some(url)) = (self.level(), url) {
                        level.base_url = Some((url, offset));
                    }
                }
            }
            Some(Element::Location) if self.document.location.is_none() => {
                self.document.location = self.keep_text(content)?;
            }
            Some(Element::Segmenting(kind)) => {
                let mut segmenting = std::mem::take(&mut self.segmenting);
                if !self.timeline.is_empty() {
                    segmenting.timeline = Some(std::mem::take(&mut self.timeline).into());
                }
                if !self.urls.is_empty() {
                    segmenting.urls = Some(std::mem::take(&mut self.urls).into());
                }
                if let Some(level) = self.level() {
                    match kind {
                        Kind::Template => level.template = Some(segmenting.into()),
                        Kind::List => level.list = Some(segmenting.into()),
                        Kind::Base => level.single = Some(segmenting.into()),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The level that the innermost open element is.
    fn level(&mut self) -> Option<&mut Level> {
        let period = self.document.periods.last_mut();
        match self.path.last()? {
            Element::Mpd => Some(&mut self.document.level),
            Element::Period => Some(&mut period?.level),
            Element::AdaptationSet => Some(&mut period?.sets.last_mut()?.level),
            Element::Representation => Some(&mut period?.sets.last_mut()?.representations.last_mut()?.level),
            _ => None,
        }
    }

    /// Attributes without prefix, unescaped.
    fn attributes(&mut self, tag: &Tag<'_>) -> Result<Attributes, ManifestError> {
        let (mut out, mut bytes) = (Attributes::default(), 0);
        tag.attributes(|a| {
            let wanted = a.prefix.is_empty() && is_kept(a.name) && out.get(a.name).is_none();
            if wanted && let Some(value) = xml::text_of(a.raw) {
                bytes += value.len();
                out.0.push((a.name.to_owned(), value.into_owned()));
            }
        });
        self.keep(bytes)?;
        Ok(out)
    }

    fn keep(&mut self, bytes: usize) -> Result<(), ManifestError> {
        self.kept += bytes;
        if self.kept > KEPT_BYTES {
            Err(ManifestError::Limit("size of names and references"))
        } else {
            Ok(())
        }
    }

    /// The text of a BaseURL or Location; none if it is longer than any URL.
    fn keep_text(&mut self, content: &str) -> Result<Option<String>, ManifestError> {
        let text = xml::text_of(content).map(|text| text.trim_ascii().to_owned());
        let text = text.filter(|text| !text.is_empty());
        if text.as_ref().is_some_and(|text| text.len() > limits::URL_BYTES) {
            return Err(ManifestError::Limit("length of a base URL"));
        }
        self.keep(text.as_ref().map_or(0, String::len))?;
        Ok(text)
    }

    fn count_entry(&mut self) -> Result<(), ManifestError> {
        self.entries += 1;
        if self.entries > limits::MPD_ENTRIES {
            Err(ManifestError::Limit("S and SegmentURL elements"))
        } else {
            Ok(())
        }
    }

    fn push_entry(&mut self, tag: &Tag<'_>) -> Result<(), ManifestError> {
        self.count_entry()?;
        let mut entry = S::default();
        tag.attributes(|a| match a.name {
            "t" => entry.t = integer(a.raw),
            "n" => entry.n = integer(a.raw),
            "d" => entry.d = integer(a.raw).unwrap_or(0),
            "r" => entry.r = a.raw.trim_ascii().parse().unwrap_or(0),
            _ => {}
        });
        self.timeline.push(entry);
        Ok(())
    }

    fn push_url(&mut self, attributes: &Attributes) -> Result<(), ManifestError> {
        self.count_entry()?;
        self.urls.push(SegmentUrl {
            media: attributes.get("media").map(|u| Arc::from(u.as_str())),
            range: attributes.get("mediaRange").and_then(|r| byte_range(r)),
        });
        Ok(())
    }
}

/// What an element is, by its name and its parent.
fn element(parent: Option<Element>, name: &str) -> Element {
    let is_level = matches!(
        parent,
        Some(Element::Mpd | Element::Period | Element::AdaptationSet | Element::Representation)
    );
    match (parent, name) {
        (None, "MPD") => Element::Mpd,
        (Some(Element::Mpd), "Period") => Element::Period,
        (Some(Element::Mpd), "Location") => Element::Location,
        (Some(Element::Mpd), "UTCTiming") => Element::UtcTiming,
        (Some(Element::Period), "AdaptationSet") => Element::AdaptationSet,
        (Some(Element::AdaptationSet), "Representation") => Element::Representation,
        (_, "BaseURL") if is_level => Element::BaseUrl,
        (_, "SegmentTemplate") if is_level => Element::Segmenting(Kind::Template),
        (_, "SegmentList") if is_level => Element::Segmenting(Kind::List),
        (_, "SegmentBase") if is_level => Element::Segmenting(Kind::Base),
        (Some(Element::Segmenting(_)), "SegmentTimeline") => Element::Timeline,
        (Some(Element::Segmenting(_)), "Initialization") => Element::Initialization,
        (Some(Element::Segmenting(Kind::List)), "SegmentURL") => Element::SegmentUrl,
        (Some(Element::Timeline), "S") => Element::S,
        _ => Element::Other,
    }
}

/// Attributes that anything is made of.
fn is_kept(name: &str) -> bool {
    matches!(
        name,
        "type" | "availabilityStartTime" | "minimumUpdatePeriod" | "timeShiftBufferDepth" | "maxSegmentDuration"
            | "suggestedPresentationDelay" | "mediaPresentationDuration" // MPD
            | "id" | "start" | "duration" // Period and segmenting
            | "bandwidth" | "contentType" | "mimeType" | "codecs" | "width" | "height" | "lang"
            | "timescale" | "presentationTimeOffset" | "startNumber" | "endNumber" | "availabilityTimeOffset"
            | "media" | "initialization" | "indexRange" | "range" | "sourceURL" | "mediaRange"
            | "schemeIdUri" | "value"
    )
}

fn segmenting(attributes: &Attributes) -> Segmenting {
    let number = |name: &str| attributes.get(name).and_then(|v| integer(v));
    let text = |name: &str| attributes.get(name).map(|v| Arc::from(v.as_str()));
    Segmenting {
        timescale: number("timescale").filter(|t| *t > 0),
        presentation_time_offset: number("presentationTimeOffset"),
        start_number: number("startNumber"),
        end_number: number("endNumber"),
        duration: number("duration").filter(|d| *d > 0),
        availability_time_offset: time_offset(attributes),
        media: text("media"),
        initialization: text("initialization").map(|url| (Some(url), None)),
        index_range: attributes.get("indexRange").and_then(|r| byte_range(r)),
        timeline: None,
        urls: None,
    }
}

/// `availabilityTimeOffset`, seconds; `INF` is infinity.
fn time_offset(attributes: &Attributes) -> Option<f64> {
    let text = attributes.get("availabilityTimeOffset")?.trim_ascii();
    if text == "INF" { Some(f64::INFINITY) } else { text.parse().ok().filter(|f: &f64| f.is_finite()) }
}

/// An unsigned integer, or the whole part of what some packagers write as a decimal.
fn integer(text: &str) -> Option<u64> {
    let text = text.trim_ascii();
    text.parse().ok().or_else(|| datetime::parse_seconds(text).map(|d| d.as_secs()))
}

/// `first-last`.
fn byte_range(text: &str) -> Option<ByteRange> {
    let (first, last) = text.trim_ascii().split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    // The length must fit, too.
    (first <= last && last < u64::MAX).then_some(ByteRange { first, last, complete: None })
}
