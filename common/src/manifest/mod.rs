//! Playlists and MPDs: read to understand, never written from a model; only URL spans are rewritten.
//!
//! [`hls`] is a line-preserving reader of RFC 8216 playlists, [`dash`] enumerates segments of MPDs and finds their URL
//! spans, [`url`] maps origin URLs to the receiver's paths and makes cache keys.

pub mod dash;
pub(crate) mod datetime;
pub mod hls;
#[cfg(test)]
mod testing;
pub mod url;

use crate::catalog::Format;

/// A piece of a manifest's text to be replaced: byte offsets `start..end` of the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What stands there afterwards (already escaped for its place).
    pub with: String,
}

/// Applies edits (sorted, not overlapping) to `text`; every byte outside the spans stays as it is.
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let mut out = String::with_capacity(text.len() + edits.iter().map(|e| e.with.len()).sum::<usize>());
    let mut at = 0;
    for edit in edits {
        out.push_str(text.get(at..edit.start).unwrap_or_default());
        out.push_str(&edit.with);
        at = edit.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// Edits in the making: in order, not overlapping, bounded in what they write.
#[derive(Debug, Default)]
struct Edits {
    list: Vec<Edit>,
    written: usize,
}

impl Edits {
    /// Bytes `start..end` become `with`.
    fn replace(&mut self, start: usize, end: usize, with: String) -> Result<(), ManifestError> {
        // A long base URL written into every line must not exhaust memory.
        self.written += with.len();
        if self.written > crate::limits::MANIFEST_BYTES {
            return Err(ManifestError::Limit("size of rewritten references"));
        }
        self.list.push(Edit { start, end, with });
        Ok(())
    }

    /// Bytes `start..end` vanish.
    fn remove(&mut self, start: usize, end: usize) {
        match self.list.last_mut() {
            Some(last) if last.end == start && last.with.is_empty() => last.end = end,
            _ => self.list.push(Edit { start, end, with: String::new() }),
        }
    }
}

/// Tells HLS from DASH by content, as a BOM, an extension or a Content-Type cannot be trusted.
pub fn sniff(body: &[u8]) -> Option<Format> {
    let start = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let start = start.trim_ascii_start();
    if start.starts_with(b"#EXTM3U") {
        return Some(Format::Hls);
    }
    let head = start.get(..start.len().min(4096)).unwrap_or_default();
    let looks_xml = head.starts_with(b"<");
    (looks_xml && head.windows(4).any(|w| w == b"<MPD" || w == b":MPD")).then_some(Format::Dash)
}

/// Why a manifest was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A bound of [`crate::limits`] was passed.
    #[error("manifest exceeds the limit of {0}")]
    Limit(&'static str),
    /// Not UTF-8.
    #[error("manifest is not UTF-8 (byte {0})")]
    NotUtf8(usize),
    /// Neither HLS nor DASH, or not what it was said to be.
    #[error("not a {0}")]
    NotThat(&'static str),
    /// Line or element that cannot be understood and matters.
    #[error("line {line}: {what}")]
    Syntax {
        /// 1-based.
        line: usize,
        /// What is wrong.
        what: String,
    },
}
