//! Finds the pieces of an MPD's text to change.
//!
//! Two walks. The first notes the base URL of each Period, AdaptationSet and Representation, as references in an element
//! that is inherited (a SegmentTemplate of an AdaptationSet) are resolved against the bases of all that inherit it. The
//! second makes the edits.

use super::RewriteOptions;
use super::xml::{self, Attribute, Item, Tag, Walk};
use crate::limits;
use crate::manifest::datetime::parse_duration;
use crate::manifest::url::{ReferenceRewriter, UrlMap};
use crate::manifest::{Edit, Edits, ManifestError};
use quick_xml::escape::escape;
use std::ops::Range;
use url::{Position, Url};

/// Different bases below one level that its references are tried with.
const BASES_PER_LEVEL: usize = 64;

/// See [`super::rewrite`].
pub(super) fn rewrite(
    text: &str,
    base: &Url,
    served_path: &str,
    map: &dyn UrlMap,
    options: &RewriteOptions,
) -> Result<Vec<Edit>, ManifestError> {
    let document = ReferenceRewriter::new(base, served_path, map)?;
    let levels = survey(text)?;
    let bases = Bases::new(&levels, &document)?;
    let mut rewriter = Rewriter {
        text,
        document: &document,
        levels: &levels,
        bases: &bases,
        options,
        next_level: 0,
        path: Vec::new(),
        edits: Edits::default(),
    };
    let mut walk = Walk::new(text)?;
    while let Some(item) = walk.next()? {
        match item {
            Item::Open(tag) => rewriter.open(&tag)?,
            Item::Close(content) => rewriter.close(content)?,
        }
    }
    let mut edits = rewriter.edits.list;
    // Duplicated attributes apart (which XML forbids), they are in order already.
    edits.sort_by_key(|edit| edit.start);
    Ok(edits)
}

/// What an element is to the rewriter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    /// MPD, Period, AdaptationSet or Representation, by its number in document order.
    Level(usize),
    /// SegmentTemplate, SegmentList, SegmentBase and what they contain, below this level.
    Segmenting(usize),
    /// BaseURL of this level.
    BaseUrl(usize),
    /// Location, PatchLocation, ContentSteering.
    DocumentUrl,
    UtcTiming,
    /// Not ours to read, with all that is in it.
    Other,
}

/// One MPD, Period, AdaptationSet or Representation.
#[derive(Debug, Default)]
struct Level {
    parent: Option<usize>,
    /// Text of its first BaseURL.
    base_url: Option<String>,
    /// Levels whose base URL counts for references that are inherited from here.
    used_with: Vec<usize>,
}

/// What an element is, by its name and its parent. `next_level`: the number of the next level.
fn element(parent: Option<Element>, depth: usize, name: &str, next_level: usize) -> Element {
    match (parent, name) {
        (None, "MPD") => Element::Level(next_level),
        (Some(Element::Level(_)), "Period") if depth == 1 => Element::Level(next_level),
        (Some(Element::Level(_)), "AdaptationSet") if depth == 2 => Element::Level(next_level),
        (Some(Element::Level(_)), "Representation") if depth == 3 => Element::Level(next_level),
        (Some(Element::Level(level)), "BaseURL") => Element::BaseUrl(level),
        (Some(Element::Level(level)), "SegmentTemplate" | "SegmentList" | "SegmentBase") => {
            Element::Segmenting(level)
        }
        (Some(Element::Level(_)), "Location" | "PatchLocation" | "ContentSteering") if depth == 1 => {
            Element::DocumentUrl
        }
        (Some(Element::Level(_)), "UTCTiming") if depth == 1 => Element::UtcTiming,
        (
            Some(Element::Segmenting(level)),
            "Initialization" | "RepresentationIndex" | "BitstreamSwitching" | "SegmentURL",
        ) => Element::Segmenting(level),
        _ => Element::Other,
    }
}

/// The first walk.
fn survey(text: &str) -> Result<Vec<Level>, ManifestError> {
    let (mut levels, mut representations): (Vec<Level>, Vec<usize>) = Default::default();
    let mut path: Vec<Element> = Vec::new();
    let mut walk = Walk::new(text)?;
    while let Some(item) = walk.next()? {
        match item {
            Item::Open(tag) => {
                let element = element(path.last().copied(), path.len(), tag.name(), levels.len());
                if let Element::Level(_) = element {
                    let parent = path.iter().rev().find_map(|e| match e {
                        Element::Level(level) => Some(*level),
                        _ => None,
                    });
                    if levels.len() > limits::MPD_LEVELS {
                        return Err(ManifestError::Limit("Periods, AdaptationSets and Representations"));
                    }
                    levels.push(Level { parent, ..Level::default() });
                }
                path.push(element);
            }
            Item::Close(content) => match path.pop() {
                Some(Element::BaseUrl(level)) if levels[level].base_url.is_none() => {
                    levels[level].base_url = reference_text(&text[content])?;
                }
                Some(Element::Level(level)) if path.len() == 3 => representations.push(level),
                _ => {}
            },
        }
    }
    // Only now, as a BaseURL may (against the schema) stand behind the Representations.
    for representation in representations {
        note_use(&mut levels, representation);
    }
    Ok(levels)
}

/// The base of a Representation, or the one it inherits, counts for references of all levels above it.
fn note_use(levels: &mut [Level], representation: usize) {
    let mut lineage = vec![representation];
    while let Some(parent) = lineage.last().and_then(|level| levels[*level].parent) {
        lineage.push(parent);
    }
    let own = lineage.iter().copied().find(|level| levels[*level].base_url.is_some());
    let base = own.or(lineage.last().copied()).unwrap_or(representation);
    for level in lineage {
        let used_with = &mut levels[level].used_with;
        if used_with.len() < BASES_PER_LEVEL && !used_with.contains(&base) {
            used_with.push(base);
        }
    }
}

fn reference_text(content: &str) -> Result<Option<String>, ManifestError> {
    let text = xml::text_of(content).map(|text| text.trim_ascii().to_owned());
    match text.filter(|text| !text.is_empty()) {
        Some(text) if text.len() > limits::URL_BYTES => Err(ManifestError::Limit("length of a base URL")),
        text => Ok(text),
    }
}

/// For each level, how references below it are rewritten. Only levels with a BaseURL have an entry of their own.
struct Bases<'a> {
    rewriters: Vec<Option<Base<'a>>>,
}

enum Base<'a> {
    /// Players arrive at the receiver.
    Ours(ReferenceRewriter<'a>),
    /// The base is at a host that is not mapped: players go there, and so do the references below it.
    Theirs(Url),
}

impl<'a> Bases<'a> {
    fn new(levels: &[Level], document: &ReferenceRewriter<'a>) -> Result<Bases<'a>, ManifestError> {
        let mut bases = Bases { rewriters: Vec::with_capacity(levels.len()) };
        let mut budget = 4 * limits::MANIFEST_BYTES;
        for level in levels {
            let base = match (&level.base_url, level.parent) {
                // Parents come first in document order.
                (Some(reference), parent) => Some(match parent.and_then(|p| bases.of(levels, p)) {
                    Some(Base::Theirs(above)) => below_theirs(above, reference),
                    Some(Base::Ours(above)) => below_ours(above, reference)?,
                    None => below_ours(document, reference)?,
                }),
                (None, _) => None,
            };
            let spent = match &base {
                Some(Base::Ours(r)) => r.base().as_str().len() + r.served().as_str().len(),
                Some(Base::Theirs(url)) => url.as_str().len(),
                None => 0,
            };
            let left = usize::checked_sub(budget, spent);
            budget = left.ok_or(ManifestError::Limit("size of base URLs"))?;
            bases.rewriters.push(base);
        }
        Ok(bases)
    }

    /// The base in force at a level; `None`: the document's.
    fn of(&self, levels: &[Level], level: usize) -> Option<&Base<'a>> {
        let mut at = Some(level);
        while let Some(level) = at {
            if let Some(base) = &self.rewriters[level] {
                return Some(base);
            }
            at = levels[level].parent;
        }
        None
    }
}

fn below_ours<'a>(above: &ReferenceRewriter<'a>, reference: &str) -> Result<Base<'a>, ManifestError> {
    let Ok(origin) = above.base().join(reference) else {
        return Ok(Base::Theirs(above.base().clone()));
    };
    let seen = match above.rewrite(reference)? {
        Some(with) => above.served().join(&with),
        None => above.served().join(reference),
    };
    Ok(match seen {
        // An absolute reference that stays leads away from the receiver.
        Ok(seen) if seen.host_str() == above.served().host_str() => Base::Ours(above.rebased(origin, seen)),
        _ => Base::Theirs(origin),
    })
}

fn below_theirs<'a>(above: &Url, reference: &str) -> Base<'a> {
    Base::Theirs(above.join(reference).unwrap_or_else(|_| above.clone()))
}

/// The second walk.
struct Rewriter<'a> {
    text: &'a str,
    document: &'a ReferenceRewriter<'a>,
    levels: &'a [Level],
    bases: &'a Bases<'a>,
    options: &'a RewriteOptions,
    next_level: usize,
    path: Vec<Element>,
    edits: Edits,
}

impl Rewriter<'_> {
    fn open(&mut self, tag: &Tag<'_>) -> Result<(), ManifestError> {
        let element = element(self.path.last().copied(), self.path.len(), tag.name(), self.next_level);
        self.next_level += usize::from(matches!(element, Element::Level(_)));
        self.path.push(element);
        let clock = if element == Element::UtcTiming { self.clock_reference(tag) } else { None };
        let is_event_stream = tag.name() == "EventStream";
        let mut result = if element == Element::Level(0) { self.time_shift_buffer(tag) } else { Ok(()) };
        tag.attributes(|a| {
            if result.is_ok() {
                result = self.attribute(element, is_event_stream, clock.as_deref(), &a);
            }
        });
        result
    }

    /// Shortens the time-shift buffer of the MPD.
    fn time_shift_buffer(&mut self, tag: &Tag<'_>) -> Result<(), ManifestError> {
        let Some(depth) = self.options.time_shift_buffer else { return Ok(()) };
        let mut written = None;
        tag.attributes(|a| {
            if (a.prefix, a.name) == ("", "timeShiftBufferDepth") {
                written = Some((a.span, parse_duration(a.raw)));
            }
        });
        let text = format!("PT{}.{:03}S", depth.as_secs(), depth.subsec_millis());
        match written {
            Some((_, Some(says))) if says <= depth => Ok(()),
            Some((span, _)) => self.edits.replace(span.start, span.end, text),
            None => match tag.name_end() {
                Some(at) => self.edits.replace(at, at, format!(" timeShiftBufferDepth=\"{text}\"")),
                None => Ok(()),
            },
        }
    }

    fn attribute(
        &mut self,
        element: Element,
        is_event_stream: bool,
        clock: Option<&str>,
        a: &Attribute<'_>,
    ) -> Result<(), ManifestError> {
        let with = match (element, a.prefix, a.name) {
            (Element::Level(_) | Element::Segmenting(_), "xlink", "href") => {
                self.document_reference(a.raw)?
            }
            (Element::Other, "xlink", "href") if is_event_stream => self.document_reference(a.raw)?,
            (
                Element::Segmenting(level),
                "",
                "media" | "initialization" | "index" | "bitstreamSwitching" | "sourceURL",
            ) => self.segment_reference(level, a.raw)?,
            (Element::UtcTiming, "", "value") => clock.filter(|with| *with != a.raw).map(str::to_owned),
            _ => None,
        };
        match with {
            Some(with) => self.edits.replace(a.span.start, a.span.end, escape(with).into_owned()),
            None => Ok(()),
        }
    }

    fn close(&mut self, content: Range<usize>) -> Result<(), ManifestError> {
        let raw = &self.text[content.clone()];
        let with = match self.path.pop() {
            Some(Element::DocumentUrl) => self.document_reference(raw)?,
            Some(Element::BaseUrl(level)) => {
                let parent = self.levels[level].parent;
                match parent.and_then(|parent| self.bases.of(self.levels, parent)) {
                    Some(Base::Theirs(_)) => None,
                    Some(Base::Ours(base)) => rewrite_raw(base, raw)?,
                    None => self.document_reference(raw)?,
                }
            }
            _ => None,
        };
        match with {
            Some(with) => self.edits.replace(content.start, content.end, escape(with).into_owned()),
            None => Ok(()),
        }
    }

    /// References of the document as a whole do not regard BaseURL.
    fn document_reference(&self, raw: &str) -> Result<Option<String>, ManifestError> {
        rewrite_raw(self.document, raw)
    }

    /// A reference of a SegmentTemplate, SegmentList or SegmentBase at `level`, tried with the base of every
    /// Representation below. Where their answers differ, a path of the receiver is written if all mean the same one, and
    /// else nothing: the reference then leads to the path that the rewritten BaseURL makes of it.
    fn segment_reference(&self, level: usize, raw: &str) -> Result<Option<String>, ManifestError> {
        let Some(reference) = xml::text_of(raw) else { return Ok(None) };
        let own = [level];
        let used_with = &self.levels[level].used_with;
        let used_with = if used_with.is_empty() { &own[..] } else { used_with };
        let mut answers = Vec::with_capacity(used_with.len());
        for level in used_with {
            answers.push(match self.bases.of(self.levels, *level) {
                None => Some((self.document, self.document.rewrite(&reference)?)),
                Some(Base::Ours(base)) => Some((base, base.rewrite(&reference)?)),
                Some(Base::Theirs(_)) => None,
            });
        }
        let written = |at: usize| answers[at].as_ref().and_then(|(_, answer)| answer.as_deref());
        if (1..answers.len()).all(|at| written(at) == written(0)) {
            return Ok(written(0).map(str::to_owned));
        }
        let path = |at: usize| {
            let (base, answer) = answers[at].as_ref()?;
            let arrived = base.served().join(answer.as_deref()?).ok()?;
            Some(arrived[Position::BeforePath..].to_owned())
        };
        let first = path(0).filter(|path| **path != *reference);
        Ok(first.filter(|first| (1..answers.len()).all(|at| path(at).as_ref() == Some(first))))
    }

    /// The value of a UTCTiming of the http schemes that `/time` can stand in for. Players resolve it against the BaseURL
    /// of the MPD.
    fn clock_reference(&self, tag: &Tag<'_>) -> Option<String> {
        let time_path = self.options.time_path.as_deref()?;
        let mut is_clock = false;
        tag.attributes(|a| {
            let name = a.raw.strip_prefix("urn:mpeg:dash:utc:").and_then(|rest| rest.split(':').next());
            is_clock |=
                a.name == "schemeIdUri" && matches!(name, Some("http-xsdate" | "http-iso" | "http-head"));
        });
        let base = match self.bases.of(self.levels, 0) {
            None => self.document,
            Some(Base::Ours(base)) => base,
            Some(Base::Theirs(_)) => return None,
        };
        is_clock.then(|| base.relative_to_served(time_path))
    }
}

fn rewrite_raw(base: &ReferenceRewriter<'_>, raw: &str) -> Result<Option<String>, ManifestError> {
    match xml::text_of(raw) {
        Some(text) => base.rewrite(text.trim_ascii()),
        None => Ok(None),
    }
}
