//! Lines, tags and attribute lists with their byte spans, and EXT-X-DEFINE variables.

use super::super::ManifestError;
use crate::limits;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use url::Url;

/// Attributes of EXT-X-DEFINE that are looked at; it has two.
const DEFINE_ATTRIBUTES: usize = 8;

/// One line. Offsets are bytes of the whole text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// First byte of the line.
    pub(super) start: usize,
    /// First byte of `text`.
    pub(super) at: usize,
    /// The line without white space at its ends.
    pub(super) text: &'a str,
    /// First byte of the next line.
    pub(super) next: usize,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    /// Empty, or a comment.
    Nothing,
    /// `#EXT…`: name without `#` and value after the colon.
    Tag(&'a str, &'a str),
    /// Anything else is a URI.
    Uri(&'a str),
}

impl<'a> Line<'a> {
    pub(super) fn kind(&self) -> Kind<'a> {
        match self.text.strip_prefix('#') {
            // Channel lists write attributes behind it without a colon.
            Some(tag) if tag.starts_with("EXTM3U") => Kind::Tag("EXTM3U", ""),
            Some(tag) if tag.starts_with("EXT") => {
                let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
                Kind::Tag(name, value)
            }
            Some(_) => Kind::Nothing,
            None if self.text.is_empty() => Kind::Nothing,
            None => Kind::Uri(self.text),
        }
    }

    /// Offset in the whole text of a part of this line's text.
    pub(super) fn offset_of(&self, part: &str) -> usize {
        // Both are addresses in the same string: the difference is the place of `part` in it.
        self.at + (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }
}

/// The lines of a text that is a playlist, within limits. A BOM belongs to no line.
pub(super) fn lines(text: &str) -> Result<impl Iterator<Item = Line<'_>>, ManifestError> {
    if text.len() > limits::MANIFEST_BYTES {
        return Err(ManifestError::Limit("playlist size"));
    }
    if super::super::sniff(text.as_bytes()) != Some(crate::catalog::Format::Hls) {
        return Err(ManifestError::NotThat("HLS playlist"));
    }
    if text.bytes().filter(|b| *b == b'\n').count() >= limits::PLAYLIST_LINES {
        return Err(ManifestError::Limit("playlist lines"));
    }
    let mut next = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    Ok(std::iter::from_fn(move || {
        let start = next;
        let rest = text.get(start..).filter(|r| !r.is_empty())?;
        let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
        next = start + length;
        let line = &rest[..length];
        let trimmed = line.trim_ascii();
        let at = start + (line.len() - line.trim_ascii_start().len());
        Some(Line { start, at, text: trimmed, next })
    }))
}

/// One `NAME=VALUE` of an attribute list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    /// Without quotes.
    pub(super) value: &'a str,
    pub(super) quoted: bool,
    /// Name, `=`, value and quotes.
    pub(super) whole: &'a str,
}

/// The attributes of a list, as tolerant as players: spaces after commas, names without values, missing last quote.
pub(super) fn attributes(list: &str) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        if rest.is_empty() {
            return None;
        }
        let whole = rest;
        let name_end = rest.find(['=', ',']).unwrap_or(rest.len());
        let name = rest[..name_end].trim_ascii();
        let Some(value) = rest[name_end..].strip_prefix('=') else {
            rest = &rest[name_end..];
            return Some(Attribute { name, value: "", quoted: false, whole: &whole[..name_end] });
        };
        let value = value.trim_ascii_start();
        let (value, quoted, after) = match value.strip_prefix('"') {
            Some(inside) => match inside.split_once('"') {
                Some((value, after)) => (value, true, after),
                None => (inside, true, ""),
            },
            None => {
                let end = value.find(',').unwrap_or(value.len());
                (value[..end].trim_ascii_end(), false, &value[end..])
            }
        };
        let whole = &whole[..whole.len() - after.len()];
        rest = after.find(',').map_or("", |at| &after[at..]);
        Some(Attribute { name, value, quoted, whole })
    })
}

/// Tags of the playlist as a whole: they stay when the live edge is trimmed and belong to no segment.
pub(super) fn is_playlist_tag(name: &str) -> bool {
    matches!(
        name,
        "EXTM3U"
            | "EXT-X-VERSION"
            | "EXT-X-TARGETDURATION"
            | "EXT-X-MEDIA-SEQUENCE"
            | "EXT-X-DISCONTINUITY-SEQUENCE"
            | "EXT-X-PLAYLIST-TYPE"
            | "EXT-X-I-FRAMES-ONLY"
            | "EXT-X-INDEPENDENT-SEGMENTS"
            | "EXT-X-IMAGES-ONLY"
            | "EXT-X-START"
            | "EXT-X-DEFINE"
            | "EXT-X-SERVER-CONTROL"
            | "EXT-X-PART-INF"
            | "EXT-X-ALLOW-CACHE"
            | "EXT-X-CONTENT-STEERING"
            | "EXT-X-SKIP"
    )
}

/// Tags that only a master playlist has.
pub(super) fn is_master_tag(name: &str) -> bool {
    matches!(
        name,
        "EXT-X-STREAM-INF"
            | "EXT-X-I-FRAME-STREAM-INF"
            | "EXT-X-IMAGE-STREAM-INF"
            | "EXT-X-MEDIA"
            | "EXT-X-SESSION-DATA"
            | "EXT-X-SESSION-KEY"
            | "EXT-X-CONTENT-STEERING"
    )
}

/// Tags that only a media playlist has.
pub(super) fn is_media_tag(name: &str) -> bool {
    matches!(
        name,
        "EXTINF" | "EXT-X-TARGETDURATION" | "EXT-X-MEDIA-SEQUENCE" | "EXT-X-PART" | "EXT-X-ENDLIST"
    )
}

/// Finds where the lines of each segment begin: at the first tag after the segment before it that is not
/// [`is_playlist_tag`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SegmentSpans {
    first_tag: Option<usize>,
}

impl SegmentSpans {
    /// A tag was read.
    pub(super) fn tag(&mut self, name: &str, line: &Line<'_>) {
        if self.first_tag.is_none() && !is_playlist_tag(name) {
            self.first_tag = Some(line.start);
        }
    }

    /// A URI was read: where the lines of its segment begin.
    pub(super) fn uri(&mut self, line: &Line<'_>) -> usize {
        self.first_tag.take().unwrap_or(line.start)
    }
}

/// EXT-X-DEFINE variables in force at a line.
#[derive(Clone, Debug)]
pub(super) struct Variables<'a> {
    url: &'a Url,
    imports: &'a [(String, String)],
    known: BTreeMap<String, String>,
    defined: usize,
    /// Bytes that substitution may still write: a long variable used in every line must not exhaust memory.
    budget: Cell<usize>,
}

impl<'a> Variables<'a> {
    /// `url`: of the playlist, for QUERYPARAM. `imports`: the master's variables.
    pub(super) fn new(url: &'a Url, imports: &'a [(String, String)]) -> Variables<'a> {
        Variables {
            url,
            imports,
            known: BTreeMap::new(),
            defined: 0,
            budget: Cell::new(limits::MANIFEST_BYTES),
        }
    }

    /// Reads the attributes of EXT-X-DEFINE.
    pub(super) fn define(&mut self, list: &str) -> Result<(), ManifestError> {
        // Each may search all imports or the whole query.
        self.defined += 1;
        if self.defined > limits::PLAYLIST_VARIABLES {
            return Err(ManifestError::Limit("EXT-X-DEFINE tags"));
        }
        let (mut name, mut value) = (None, None);
        for attribute in attributes(list).take(DEFINE_ATTRIBUTES) {
            match attribute.name {
                "NAME" => name = Some(attribute.value),
                "VALUE" => value = Some(attribute.value.to_owned()),
                "IMPORT" => {
                    name = Some(attribute.value);
                    value = self.imports.iter().find(|(n, _)| n == attribute.value).map(|(_, v)| v.clone());
                }
                "QUERYPARAM" => {
                    name = Some(attribute.value);
                    let mut pairs = self.url.query_pairs();
                    value = pairs.find(|(n, _)| n == attribute.value).map(|(_, v)| v.into_owned());
                }
                _ => {}
            }
        }
        if let (Some(name), Some(value)) = (name, value) {
            self.known.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// All variables by name.
    pub(super) fn into_list(self) -> Vec<(String, String)> {
        self.known.into_iter().collect()
    }

    /// Replaces `{$name}` by the variable's value. Unknown ones stay, and the second result is false.
    pub(super) fn substitute<'t>(&self, text: &'t str) -> Result<(Cow<'t, str>, bool), ManifestError> {
        if !text.contains("{$") {
            return Ok((Cow::Borrowed(text), true));
        }
        let (mut out, mut all_known, mut rest) = (String::new(), true, text);
        while let Some((before, after)) = rest.split_once("{$") {
            out.push_str(before);
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            let name = end.filter(|end| after[*end..].starts_with('}')).map(|end| &after[..end]);
            match name.and_then(|name| Some((name, self.known.get(name)?))) {
                Some((name, value)) => {
                    let left = self.budget.get().checked_sub(value.len());
                    self.budget.set(left.ok_or(ManifestError::Limit("size of substituted variables"))?);
                    out.push_str(value);
                    rest = &after[name.len() + 1..];
                }
                None => {
                    all_known = false;
                    out.push_str("{$");
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        Ok((Cow::Owned(out), all_known))
    }
}
