//! Finds the pieces of a playlist's text to change; writes nothing else.

use super::RewriteOptions;
use super::head::{Done, Head};
use super::lines::{self, Kind, Line, SegmentSpans, Variables, attributes};
use crate::manifest::url::{ReferenceRewriter, UrlMap};
use crate::manifest::{Edit, Edits, ManifestError};
use std::collections::VecDeque;
use url::Url;

/// See [`super::rewrite`].
pub(super) fn rewrite(
    text: &str,
    base: &Url,
    served_path: &str,
    map: &dyn UrlMap,
    options: RewriteOptions<'_>,
) -> Result<Vec<Edit>, ManifestError> {
    let references = ReferenceRewriter::new(base, served_path, map)?;
    let mut rewriter = Rewriter {
        cut_from: trim_from(text, options.trim_tail)?,
        head: Head::of(text, base, options)?,
        options,
        at_origin: Variables::new(base, options.imports),
        at_player: Variables::new(references.served(), options.imports),
        references: &references,
        edits: Edits::default(),
    };
    for line in lines::lines(text)? {
        rewriter.line(&line)?;
    }
    Ok(rewriter.edits.list)
}

/// Where the last `trim_tail` segments begin; the end of the text if nothing is trimmed.
fn trim_from(text: &str, trim_tail: usize) -> Result<usize, ManifestError> {
    let mut starts = VecDeque::new();
    if trim_tail == 0 {
        return Ok(text.len());
    }
    let (mut spans, mut is_master) = (SegmentSpans::default(), false);
    for line in lines::lines(text)? {
        match line.kind() {
            Kind::Nothing => {}
            Kind::Tag(name, _) => {
                is_master |= lines::is_master_tag(name) && !lines::is_playlist_tag(name);
                spans.tag(name, &line);
            }
            Kind::Uri(_) => {
                starts.push_back(spans.uri(&line));
                if starts.len() > trim_tail {
                    starts.pop_front();
                }
            }
        }
    }
    Ok(starts.front().copied().filter(|_| !is_master).unwrap_or(text.len()))
}

struct Rewriter<'a> {
    cut_from: usize,
    head: Option<Head>,
    options: RewriteOptions<'a>,
    /// Variables as the origin means them, and as a player will read them: QUERYPARAM depends on the URL.
    at_origin: Variables<'a>,
    at_player: Variables<'a>,
    references: &'a ReferenceRewriter<'a>,
    edits: Edits,
}

impl Rewriter<'_> {
    fn line(&mut self, line: &Line<'_>) -> Result<(), ManifestError> {
        let kind = line.kind();
        let keep = matches!(kind, Kind::Tag(name, _) if lines::is_playlist_tag(name));
        if line.start >= self.cut_from && !keep {
            self.edits.remove(line.start, line.next);
            return Ok(());
        }
        if let Some(head) = &mut self.head
            && head.line(line, kind, &mut self.edits)? == Done::Yes
        {
            return Ok(());
        }
        match kind {
            Kind::Nothing => Ok(()),
            Kind::Uri(uri) => match self.reference(uri)? {
                Some(with) => self.edits.replace(line.at, line.at + uri.len(), with),
                None => Ok(()),
            },
            Kind::Tag("EXT-X-DEFINE", value) => {
                self.at_origin.define(value)?;
                self.at_player.define(value)
            }
            Kind::Tag(name, _) if self.options.strip_low_latency && is_low_latency_tag(name) => {
                self.edits.remove(line.start, line.next);
                Ok(())
            }
            Kind::Tag("EXT-X-SERVER-CONTROL", value) if self.options.strip_low_latency => {
                self.server_control(line, value)
            }
            Kind::Tag("EXT-X-CONTENT-STEERING", value) => self.attribute(line, value, "SERVER-URI"),
            Kind::Tag(name, value) if has_uri_attribute(name) => self.attribute(line, value, "URI"),
            Kind::Tag(..) => Ok(()),
        }
    }

    /// Rewrites the attributes called `name`.
    fn attribute(&mut self, line: &Line<'_>, list: &str, name: &str) -> Result<(), ManifestError> {
        for attribute in attributes(list).filter(|a| a.name == name) {
            let Some(with) = self.reference(attribute.value)? else { continue };
            let start = line.offset_of(attribute.value);
            let with = if attribute.quoted { with } else { format!("\"{with}\"") };
            self.edits.replace(start, start + attribute.value.len(), with)?;
        }
        Ok(())
    }

    /// What to write in place of a reference, if anything.
    fn reference(&self, uri: &str) -> Result<Option<String>, ManifestError> {
        let (at_origin, known) = self.at_origin.substitute(uri)?;
        if !known {
            return Ok(None);
        }
        let (at_player, known) = self.at_player.substitute(uri)?;
        let with = self.references.rewrite_as_seen(&at_origin, known.then_some(&*at_player))?;
        // The URL Standard leaves `{` in queries; here it would begin a variable. (It encodes `"`.)
        Ok(with.map(|w| if w.contains("{$") { w.replace("{$", "%7B$") } else { w }))
    }

    /// Leaves the attributes out that promise what needs parts or delta updates. A player that follows PART-HOLD-BACK
    /// without parts would play beyond the live edge.
    fn server_control(&mut self, line: &Line<'_>, list: &str) -> Result<(), ManifestError> {
        let cut = |name: &str| {
            matches!(name, "CAN-BLOCK-RELOAD" | "PART-HOLD-BACK" | "CAN-SKIP-UNTIL" | "CAN-SKIP-DATERANGES")
        };
        if !attributes(list).any(|a| cut(a.name)) {
            return Ok(());
        }
        let mut kept = String::new();
        for attribute in attributes(list).filter(|a| !cut(a.name)) {
            kept.push_str(if kept.is_empty() { "" } else { "," });
            kept.push_str(attribute.whole);
        }
        if kept.is_empty() {
            self.edits.remove(line.start, line.next);
            return Ok(());
        }
        let start = line.offset_of(list);
        self.edits.replace(start, start + list.len(), kept)
    }
}

/// Tags that are cut with [`RewriteOptions::strip_low_latency`]. EXT-X-SKIP is not one of them: without it the segments of
/// a delta update would get wrong numbers, and no player asks for one that did not see CAN-SKIP-UNTIL.
fn is_low_latency_tag(name: &str) -> bool {
    matches!(name, "EXT-X-PART" | "EXT-X-PART-INF" | "EXT-X-PRELOAD-HINT" | "EXT-X-RENDITION-REPORT")
}

/// Tags whose attribute URI is a URL of something that is fetched.
fn has_uri_attribute(name: &str) -> bool {
    matches!(
        name,
        "EXT-X-MAP"
            | "EXT-X-KEY"
            | "EXT-X-MEDIA"
            | "EXT-X-I-FRAME-STREAM-INF"
            | "EXT-X-IMAGE-STREAM-INF"
            | "EXT-X-SESSION-KEY"
            | "EXT-X-SESSION-DATA"
            | "EXT-X-PART"
            | "EXT-X-PRELOAD-HINT"
            | "EXT-X-RENDITION-REPORT"
            | "EXT-X-DATERANGE"
    )
}
