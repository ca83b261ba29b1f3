//! The elements of an MPD with byte spans, from quick-xml's events. No document type, no entities of the document's own.

use crate::limits;
use crate::manifest::ManifestError;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use std::borrow::Cow;
use std::ops::Range;

/// What the walk meets.
#[derive(Debug)]
pub(super) enum Item<'a> {
    /// An element begins.
    Open(Tag<'a>),
    /// The innermost element ends; its content (without tags) is this span of the text.
    Close(Range<usize>),
}

/// A start tag.
#[derive(Debug)]
pub(super) struct Tag<'a> {
    text: &'a str,
    event: BytesStart<'a>,
}

/// An attribute as written.
#[derive(Debug)]
pub(super) struct Attribute<'t> {
    /// Before the colon; empty if there is none.
    pub(super) prefix: &'t str,
    /// After the colon.
    pub(super) name: &'t str,
    /// Between the quotes, not unescaped.
    pub(super) raw: &'t str,
    /// Where that stands in the text.
    pub(super) span: Range<usize>,
}

impl Tag<'_> {
    /// Name without prefix.
    pub(super) fn name(&self) -> &str {
        self.event.local_name().into_inner()
    }

    /// Where its name ends in the text.
    pub(super) fn name_end(&self) -> Option<usize> {
        let name = self.event.name().into_inner();
        let start = (name.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let end = start.wrapping_add(name.len());
        (self.text.get(start..end) == Some(name)).then_some(end)
    }

    /// Calls `each` for every attribute that can be read; what is not an attribute ends the element's attributes.
    pub(super) fn attributes(&self, mut each: impl FnMut(Attribute<'_>)) {
        let mut attributes = self.event.attributes();
        // The check for duplicates takes quadratic time.
        for attribute in attributes.with_checks(false).map_while(Result::ok) {
            let key = attribute.key.into_inner();
            let (prefix, name) = key.split_once(':').unwrap_or(("", key));
            // The reader borrows from the text: the difference of addresses is the place in it.
            let start = (attribute.value.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
            let span = start..start.wrapping_add(attribute.value.len());
            if self.text.get(span.clone()) == Some(&*attribute.value) {
                each(Attribute { prefix, name, raw: &attribute.value, span });
            }
        }
    }
}

/// Walks over the elements of a text.
pub(super) struct Walk<'a> {
    text: &'a str,
    reader: Reader<&'a [u8]>,
    /// Length of a BOM, which the reader does not count.
    skipped: usize,
    /// Where the content of each open element begins.
    open: Vec<usize>,
    /// An empty element was met: its end comes next.
    close_empty: bool,
    seen_root: bool,
}

impl<'a> Walk<'a> {
    /// The elements of `text`, whose root must be an `MPD`.
    pub(super) fn new(text: &'a str) -> Result<Walk<'a>, ManifestError> {
        if text.len() > limits::MANIFEST_BYTES {
            return Err(ManifestError::Limit("MPD size"));
        }
        let inner = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader::from_str(inner);
        // A lone `&` in a URL is common and harmless.
        reader.config_mut().allow_dangling_amp = true;
        let skipped = text.len() - inner.len();
        Ok(Walk { text, reader, skipped, open: Vec::new(), close_empty: false, seen_root: false })
    }

    /// The next item; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Item<'a>>, ManifestError> {
        if std::mem::take(&mut self.close_empty) {
            let at = self.at();
            return Ok(Some(Item::Close(at..at)));
        }
        loop {
            let before = self.at();
            match self.reader.read_event() {
                Ok(Event::Start(event)) => {
                    self.check_start(&event)?;
                    self.open.push(self.at());
                    return Ok(Some(Item::Open(Tag { text: self.text, event })));
                }
                Ok(Event::Empty(event)) => {
                    self.check_start(&event)?;
                    self.close_empty = true;
                    return Ok(Some(Item::Open(Tag { text: self.text, event })));
                }
                Ok(Event::End(_)) => {
                    let start = self.open.pop().unwrap_or(before);
                    return Ok(Some(Item::Close(start..before)));
                }
                Ok(Event::DocType(_)) => return Err(self.refuse("DOCTYPE")),
                Ok(Event::Eof) if !self.open.is_empty() => {
                    return Err(self.refuse("the document ends within an element"));
                }
                Ok(Event::Eof) if !self.seen_root => return Err(ManifestError::NotThat("MPD")),
                Ok(Event::Eof) => return Ok(None),
                Ok(_) => {}
                // Messages quote names, which may be as long as the document.
                Err(error) => {
                    let message: String = error.to_string().chars().take(120).collect();
                    return Err(self.refuse(&message));
                }
            }
        }
    }

    fn at(&self) -> usize {
        self.skipped + usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX - self.skipped)
    }

    fn check_start(&mut self, event: &BytesStart<'_>) -> Result<(), ManifestError> {
        if !self.seen_root && event.local_name().into_inner() != "MPD" {
            return Err(ManifestError::NotThat("MPD"));
        }
        self.seen_root = true;
        if self.open.len() >= limits::MPD_DEPTH {
            return Err(ManifestError::Limit("nesting"));
        }
        Ok(())
    }

    fn refuse(&self, what: &str) -> ManifestError {
        let read = self.text.get(..self.at()).unwrap_or(self.text);
        let line = read.bytes().filter(|b| *b == b'\n').count() + 1;
        ManifestError::Syntax { line, what: what.to_owned() }
    }
}

/// The text of an element's content or attribute as a reader of XML sees it; comments vanish, CDATA is kept. `None` if it
/// has elements or entities that are not XML's own (a lone `&` stands for itself).
pub(super) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains(['&', '<']) {
        return Some(Cow::Borrowed(raw));
    }
    if !raw.contains('<') {
        return unescape_tolerantly(raw);
    }
    let mut reader = Reader::from_str(raw);
    reader.config_mut().allow_dangling_amp = true;
    let mut text = String::new();
    loop {
        match reader.read_event().ok()? {
            Event::Text(piece) => text.push_str(&unescape_tolerantly(&piece.into_inner())?),
            Event::CData(piece) => text.push_str(&piece.into_inner()),
            Event::GeneralRef(name) => text.push_str(&unescape(&format!("&{};", name.into_inner())).ok()?),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return Some(Cow::Owned(text)),
            _ => return None,
        }
    }
}

/// Unescapes; where that fails because of a lone `&` (as in `?a=1&b=2`), the text as it is.
fn unescape_tolerantly(raw: &str) -> Option<Cow<'_, str>> {
    match unescape(raw) {
        Ok(text) => Some(Cow::Owned(text.into_owned())),
        Err(_) if !raw.contains(';') => Some(Cow::Owned(raw.to_owned())),
        Err(_) => None,
    }
}
