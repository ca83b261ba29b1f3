//! Leaves out the first segments of a live playlist, as a sliding window does (RFC 8216 section 6.2.2).

use super::lines::{self, Kind, Line};
use super::{Playlist, RewriteOptions, Segment, parse};
use crate::manifest::datetime::format_date_time_millis;
use crate::manifest::{Edits, ManifestError};
use url::Url;

/// Whether a line needs nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Yes,
    No,
}

/// What is left out, and how the rest begins.
pub(super) struct Head {
    /// The first segment that stays; without its date if that is written in its own lines.
    first: Segment,
    discontinuity_sequence: u64,
    /// Tags that were seen, of those that are changed or else written anew.
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    media_sequence: bool,
    discontinuity_sequence: bool,
    /// The lines of the first segment have begun.
    first: bool,
}

impl Head {
    /// `None`: nothing is left out.
    pub(super) fn of(
        text: &str,
        base: &Url,
        options: RewriteOptions<'_>,
    ) -> Result<Option<Head>, ManifestError> {
        if options.trim_head == 0 {
            return Ok(None);
        }
        let Playlist::Media(media) = parse::parse(text.as_bytes(), base, options.imports)? else {
            return Ok(None);
        };
        let trim = options.trim_head.min(media.segments.len().saturating_sub(options.trim_tail + 1));
        // A delta update counts from where the playlist before it began.
        let is_delta = text.contains("\n#EXT-X-SKIP");
        if trim == 0 || media.endlist || media.playlist_type.is_some() || is_delta {
            return Ok(None);
        }
        let gone = media.segments.get(..trim).unwrap_or_default();
        let left = gone.iter().filter(|s| s.discontinuity).count() as u64;
        let Some(mut first) = media.segments.get(trim).cloned() else { return Ok(None) };
        let lines = text.get(first.span.0..first.span.1).unwrap_or_default();
        first.program_date_time = first.program_date_time.filter(|_| !lines.contains("#EXT-X-PROGRAM-DATE"));
        let discontinuity_sequence = media.discontinuity_sequence.saturating_add(left);
        Ok(Some(Head { first, discontinuity_sequence, seen: Seen::default() }))
    }

    /// Looks at a line before anybody else does.
    pub(super) fn line(
        &mut self,
        line: &Line<'_>,
        kind: Kind<'_>,
        edits: &mut Edits,
    ) -> Result<Done, ManifestError> {
        let (start, end) = self.first.span;
        if line.start >= start && !self.seen.first {
            self.begin(line.start, edits)?;
        }
        match kind {
            Kind::Tag("EXT-X-MEDIA-SEQUENCE", value) if !self.seen.media_sequence => {
                self.seen.media_sequence = true;
                self.number(line, value, self.first.sequence, edits)
            }
            Kind::Tag("EXT-X-DISCONTINUITY-SEQUENCE", value) if !self.seen.discontinuity_sequence => {
                self.seen.discontinuity_sequence = true;
                self.number(line, value, self.discontinuity_sequence, edits)
            }
            Kind::Tag("EXT-X-BYTERANGE", value) if (start..end).contains(&line.start) => {
                match self.first.range.filter(|_| !value.contains('@')) {
                    Some(range) => {
                        let at = line.offset_of(value) + value.len();
                        edits.replace(at, at, format!("@{}", range.first))?;
                        Ok(Done::Yes)
                    }
                    None => Ok(Done::No),
                }
            }
            Kind::Tag(name, _) if line.start < start && !stays(name) => Ok(Self::remove(line, edits)),
            Kind::Uri(_) | Kind::Nothing if line.start < start => Ok(Self::remove(line, edits)),
            _ => Ok(Done::No),
        }
    }

    fn remove(line: &Line<'_>, edits: &mut Edits) -> Done {
        edits.remove(line.start, line.next);
        Done::Yes
    }

    fn number(
        &self,
        line: &Line<'_>,
        value: &str,
        number: u64,
        edits: &mut Edits,
    ) -> Result<Done, ManifestError> {
        if self.seen.first {
            // Behind the first segment it says nothing (RFC 8216 section 4.3.3.2); what it should say is already written.
            return Ok(Self::remove(line, edits));
        }
        let at = line.offset_of(value);
        let colon = if line.text.contains(':') { "" } else { ":" };
        let at = if colon.is_empty() { at } else { line.at + line.text.len() };
        edits.replace(at, at + value.len(), format!("{colon}{number}"))?;
        Ok(Done::Yes)
    }

    /// What has to stand before the first segment and does not.
    fn begin(&mut self, at: usize, edits: &mut Edits) -> Result<(), ManifestError> {
        self.seen.first = true;
        let mut with = String::new();
        if !self.seen.media_sequence {
            with.push_str(&format!("#EXT-X-MEDIA-SEQUENCE:{}\n", self.first.sequence));
        }
        if !self.seen.discontinuity_sequence && self.discontinuity_sequence > 0 {
            with.push_str(&format!("#EXT-X-DISCONTINUITY-SEQUENCE:{}\n", self.discontinuity_sequence));
        }
        if let Some(date) = self.first.program_date_time {
            with.push_str(&format!("#EXT-X-PROGRAM-DATE-TIME:{}\n", format_date_time_millis(date)));
        }
        if with.is_empty() { Ok(()) } else { edits.replace(at, at, with) }
    }
}

/// Tags among the lines of segments that are left out which apply to later ones, or to the playlist.
fn stays(name: &str) -> bool {
    lines::is_playlist_tag(name)
        || matches!(name, "EXT-X-KEY" | "EXT-X-MAP" | "EXT-X-BITRATE" | "EXT-X-DATERANGE")
}
