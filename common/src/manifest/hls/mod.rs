//! HLS playlists (RFC 8216 and its 2nd edition): a line-preserving reader with byte spans, and the rewriter.

mod head;
mod lines;
mod parse;
mod rewrite;
#[cfg(test)]
mod tests;

use super::url::UrlMap;
use super::{Edit, ManifestError};
use crate::object::ByteRange;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A playlist, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Playlist {
    /// Master (multivariant) playlist.
    Master(Master),
    /// Media playlist.
    Media(Media),
}

/// A master playlist. URIs are as written, with EXT-X-DEFINE variables substituted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Master {
    /// EXT-X-STREAM-INF and EXT-X-I-FRAME-STREAM-INF.
    pub variants: Vec<Variant>,
    /// EXT-X-MEDIA with a URI.
    pub media: Vec<MediaGroup>,
    /// URIs of EXT-X-SESSION-KEY.
    pub session_keys: Vec<String>,
    /// EXT-X-DEFINE NAME/VALUE, QUERYPARAM resolved against the playlist's URL: imported by media playlists.
    pub variables: Vec<(String, String)>,
}

/// One variant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// URI of the media playlist.
    pub uri: String,
    /// BANDWIDTH, bit/s.
    pub bandwidth: u64,
    /// AVERAGE-BANDWIDTH, bit/s.
    pub average_bandwidth: Option<u64>,
    /// CODECS.
    pub codecs: Option<String>,
    /// RESOLUTION as written.
    pub resolution: Option<String>,
    /// AUDIO, SUBTITLES groups.
    pub audio_group: Option<String>,
    /// SUBTITLES group.
    pub subtitles_group: Option<String>,
    /// EXT-X-I-FRAME-STREAM-INF.
    pub iframes_only: bool,
}

/// One EXT-X-MEDIA.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaGroup {
    /// TYPE: AUDIO, VIDEO, SUBTITLES, CLOSED-CAPTIONS.
    pub media_type: String,
    /// GROUP-ID.
    pub group_id: String,
    /// NAME.
    pub name: String,
    /// LANGUAGE.
    pub language: Option<String>,
    /// URI.
    pub uri: String,
}

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Media {
    /// EXT-X-TARGETDURATION.
    pub target_duration: Duration,
    /// EXT-X-MEDIA-SEQUENCE.
    pub media_sequence: u64,
    /// EXT-X-DISCONTINUITY-SEQUENCE.
    pub discontinuity_sequence: u64,
    /// EXT-X-ENDLIST: nothing will be added.
    pub endlist: bool,
    /// EXT-X-PLAYLIST-TYPE.
    pub playlist_type: Option<PlaylistType>,
    /// EXT-X-I-FRAMES-ONLY.
    pub iframes_only: bool,
    /// Segments in order; EXT-X-GAP segments too, marked.
    pub segments: Vec<Segment>,
    /// EXT-X-SERVER-CONTROL CAN-BLOCK-RELOAD=YES.
    pub can_block_reload: bool,
    /// EXT-X-PART-INF PART-TARGET: its newest segments come in parts.
    pub part_target: Option<Duration>,
    /// EXT-X-PART, in order.
    pub parts: Vec<Part>,
    /// URI of EXT-X-PRELOAD-HINT of TYPE=PART: what comes next.
    pub next_part: Option<String>,
}

impl Media {
    /// Media sequence number and number of the part behind the newest one, or behind the newest segment where nothing of the
    /// next one is there yet: what `_HLS_msn` and `_HLS_part` ask for.
    pub fn next(&self) -> (u64, u64) {
        let next = self.segments.last().map_or(self.media_sequence, |s| s.sequence.saturating_add(1));
        match self.parts.last() {
            Some(part) if part.sequence >= next => (part.sequence, part.number + 1),
            _ => (next, 0),
        }
    }
}

/// EXT-X-PLAYLIST-TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaylistType {
    /// EVENT.
    Event,
    /// VOD.
    Vod,
}

/// One media segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    /// URI with variables substituted.
    pub uri: String,
    /// Media sequence number.
    pub sequence: u64,
    /// EXTINF.
    pub duration: Duration,
    /// EXT-X-BYTERANGE, offset resolved (continuations too).
    pub range: Option<ByteRange>,
    /// EXT-X-DISCONTINUITY before it.
    pub discontinuity: bool,
    /// EXT-X-GAP: not there, must not be fetched.
    pub gap: bool,
    /// EXT-X-MAP in force, shared by the segments that it applies to.
    pub map: Option<Arc<Map>>,
    /// EXT-X-KEY in force, all of them (several KEYFORMATs), METHOD=NONE resolved to none. Shared as well.
    pub keys: Arc<[Arc<Key>]>,
    /// EXT-X-PROGRAM-DATE-TIME, milliseconds since the Unix epoch, written or derived from the segments before.
    pub program_date_time: Option<u64>,
    /// Byte span in the text of this segment's lines: from the first tag that belongs to it up to and including its URI
    /// line's end. Removing the spans of the last n segments trims the live edge.
    pub span: (usize, usize),
}

/// One partial segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// URI with variables substituted.
    pub uri: String,
    /// Media sequence number of the segment that it is a part of.
    pub sequence: u64,
    /// Its place in that segment, from 0 on.
    pub number: u64,
    /// DURATION.
    pub duration: Duration,
    /// BYTERANGE, offset resolved (continuations too).
    pub range: Option<ByteRange>,
    /// GAP=YES: not there, must not be fetched.
    pub gap: bool,
    /// EXT-X-MAP in force.
    pub map: Option<Arc<Map>>,
    /// EXT-X-KEY in force.
    pub keys: Arc<[Arc<Key>]>,
}

/// EXT-X-MAP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// URI.
    pub uri: String,
    /// BYTERANGE.
    pub range: Option<ByteRange>,
}

/// EXT-X-KEY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// METHOD: AES-128, SAMPLE-AES, SAMPLE-AES-CTR.
    pub method: String,
    /// URI.
    pub uri: Option<String>,
    /// KEYFORMAT.
    pub keyformat: Option<String>,
}

impl Playlist {
    /// Reads a playlist. `url`: its own URL (for EXT-X-DEFINE QUERYPARAM); `imports`: the master's variables.
    ///
    /// Tolerates what players tolerate (CRLF, BOM, unknown tags, odd attributes); bounded by [`crate::limits`].
    pub fn parse(body: &[u8], url: &Url, imports: &[(String, String)]) -> Result<Playlist, ManifestError> {
        parse::parse(body, url, imports)
    }
}

/// What the receiver may do to a playlist, and what it needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RewriteOptions<'a> {
    /// Leave out this many segments at the beginning, as if they had left a sliding window: what applies to later segments
    /// stays (EXT-X-KEY, EXT-X-MAP), sequence numbers, the date and byte range offsets are carried on. At least one segment
    /// stays. EVENT and complete playlists and delta updates are not trimmed.
    pub trim_head: usize,
    /// Leave out this many segments at the live edge and everything after them, EXT-X-ENDLIST too. Tags about the playlist
    /// as a whole stay. Master playlists are not trimmed.
    pub trim_tail: usize,
    /// Cut EXT-X-PART, PRELOAD-HINT, PART-INF, RENDITION-REPORT and what EXT-X-SERVER-CONTROL promises of blocking reloads,
    /// parts and delta updates: low-latency parts are not carried.
    pub strip_low_latency: bool,
    /// The master's variables ([`Master::variables`]), for EXT-X-DEFINE IMPORT. URIs with variables that are not known stay.
    pub imports: &'a [(String, String)],
}

/// Edits that make every URI of the playlist (lines of URIs, and URI / SERVER-URI attributes of the tags that the
/// 2nd edition of RFC 8216 defines, where the scheme is http(s) or relative) lead through the receiver. `base`: URL the
/// body came from after redirects. Nothing outside the returned spans changes; unknown tags stay.
///
/// Bounded by [`crate::limits`]; the text that is written is bounded too ([`crate::limits::MANIFEST_BYTES`]).
pub fn rewrite(
    text: &str,
    base: &Url,
    served_path: &str,
    map: &dyn UrlMap,
    options: RewriteOptions<'_>,
) -> Result<Vec<Edit>, ManifestError> {
    rewrite::rewrite(text, base, served_path, map, options)
}
