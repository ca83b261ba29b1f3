//! The clip as a web origin offers it: which bytes a path has at a given time. Pure; the server around it is [`crate::origin`].
//!
//! The first part of a path chooses what it is, the rest is the same everywhere:
//! * `/live/…`, `/hls/…`, `/dash/…`: the live channel (three names for it, so that an HLS and a DASH channel of one session
//!   description need not share URL prefixes);
//! * `/vod/…`, `/vod-hls/…`, `/vod-dash/…`: the same on demand;
//! * below: `master.m3u8`, `TRACK/index.m3u8`, `manifest.mpd`, `TRACK/init.mp4`, `TRACK/NUMBER.m4s`.

use crate::clip::{Clip, Kind, SEGMENT, Track};
use bytes::Bytes;
use mahp_common::WallTime;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Segments a live playlist lists, and `timeShiftBufferDepth` in segments.
pub const WINDOW: u64 = 12;
/// Segments that a late player may still fetch after they left the playlist.
pub const GRACE: u64 = 8;

/// The clip with a place in time.
#[derive(Clone, Debug)]
pub struct Presentation {
    clip: Arc<Clip>,
    /// Start of live segment 0; DASH `availabilityStartTime`.
    epoch: WallTime,
    /// Segments of the on-demand form.
    vod_segments: u64,
}

/// Live or on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Live,
    Vod,
}

/// What a path is, for headers, logs and knobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Playlist or MPD.
    Manifest,
    /// Initialization segment.
    Init,
    /// Media segment.
    Media,
}

/// The answer for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Bytes, their type, their class, and for how long they may be cached.
    Here {
        /// The body.
        body: Bytes,
        /// `Content-Type`.
        content_type: &'static str,
        /// What it is.
        class: Class,
        /// `Cache-Control`.
        cache_control: &'static str,
    },
    /// A live segment that does not exist yet (404 until then).
    NotYet(WallTime),
    /// A live segment that is gone, or no such path.
    NotFound,
}

impl Presentation {
    /// `epoch`: when live segment 0 began. `vod_length` is rounded up to whole segments.
    pub fn new(clip: Arc<Clip>, epoch: WallTime, vod_length: Duration) -> Presentation {
        let segments = vod_length.as_millis().div_ceil(SEGMENT.as_millis()).max(1);
        Presentation { clip, epoch, vod_segments: u64::try_from(segments).unwrap_or(u64::MAX) }
    }

    /// The clip.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// When live segment `number` is complete and so available.
    pub fn available_at(&self, number: u64) -> WallTime {
        let length = u64::try_from(SEGMENT.as_millis()).unwrap_or(0);
        let after = number.saturating_add(1).saturating_mul(length);
        self.epoch + Duration::from_millis(after)
    }

    /// When the live segment or on-demand segment of a URL's path became available; `None`: no segment, or on demand.
    pub fn available(&self, path: &str) -> Option<WallTime> {
        if path.contains("/vod") {
            return None;
        }
        segment_number(path.rsplit('/').next()?).map(|n| self.available_at(n))
    }

    /// Live segments to list at `now`: first and one past the last.
    pub fn window(&self, now: WallTime) -> (u64, u64) {
        let length = u64::try_from(SEGMENT.as_millis()).unwrap_or(1);
        let end = now.unix_millis().saturating_sub(self.epoch.unix_millis()) / length;
        (end.saturating_sub(WINDOW), end)
    }

    /// The answer for `path` (without query) at `now`. `host` stands in absolute URLs (UTCTiming).
    pub fn answer(&self, path: &str, host: &str, now: WallTime) -> Answer {
        let mut parts = path.trim_start_matches('/').split('/');
        let mode = match parts.next() {
            Some("live" | "hls" | "dash") => Mode::Live,
            Some("vod" | "vod-hls" | "vod-dash") => Mode::Vod,
            _ => return Answer::NotFound,
        };
        match (parts.next(), parts.next(), parts.next()) {
            (Some("master.m3u8"), None, None) => playlist(self.master(), mode),
            (Some("manifest.mpd"), None, None) => mpd(self.mpd(mode, host), mode),
            (Some(track), Some(file), None) => match self.clip.track(track) {
                Some(track) => self.track_file(mode, track, file, now),
                None => Answer::NotFound,
            },
            _ => Answer::NotFound,
        }
    }

    /// The bytes that a segment or initialization segment URL ends in must have, whoever serves it; `None` if the path
    /// does not end in `TRACK/FILE`. Times do not matter: a client that holds the bytes may be behind or ahead.
    pub fn truth(&self, path: &str) -> Option<Bytes> {
        let mut parts = path.rsplit('/');
        let file = parts.next()?;
        let track = self.clip.track(parts.next()?)?;
        match file {
            "init.mp4" => Some(track.init.clone()),
            _ => Some(track.segment(segment_number(file)?)),
        }
    }

    fn track_file(&self, mode: Mode, track: &Track, file: &str, now: WallTime) -> Answer {
        let forever = "public, max-age=3600, immutable";
        let content_type = match track.kind {
            Kind::Video => "video/mp4",
            Kind::Audio => "audio/mp4",
        };
        match file {
            "index.m3u8" => return playlist(self.media_playlist(mode, track, now), mode),
            "init.mp4" => {
                let (body, class) = (track.init.clone(), Class::Init);
                return Answer::Here { body, content_type, class, cache_control: forever };
            }
            _ => {}
        }
        let Some(number) = segment_number(file) else { return Answer::NotFound };
        let (first, end) = match mode {
            Mode::Live => self.window(now),
            Mode::Vod => (0, self.vod_segments),
        };
        if mode == Mode::Live && number >= end {
            return Answer::NotYet(self.available_at(number));
        }
        if number >= end || number < first.saturating_sub(GRACE) {
            return Answer::NotFound;
        }
        let (body, class) = (track.segment(number), Class::Media);
        Answer::Here { body, content_type, class, cache_control: forever }
    }

    fn master(&self) -> String {
        let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n\n");
        let sound = self.clip.tracks().iter().find(|t| t.kind == Kind::Audio);
        let (sound_peak, sound_average) = sound.map(Track::bitrates).unwrap_or_default();
        if let Some(sound) = sound {
            put(
                &mut out,
                format_args!(
                    "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"sound\",NAME=\"Tones\",LANGUAGE=\"zxx\",DEFAULT=YES,AUTOSELECT=YES,\
                     CHANNELS=\"1\",URI=\"{}/index.m3u8\"\n\n",
                    sound.name
                ),
            );
        }
        for video in self.clip.tracks().iter().filter(|t| t.kind == Kind::Video) {
            let (peak, average) = video.bitrates();
            let (width, height) = video.size.unwrap_or_default();
            let codecs = sound.map_or(video.codecs.to_owned(), |s| format!("{},{}", video.codecs, s.codecs));
            put(
                &mut out,
                format_args!(
                    "#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},CODECS=\"{codecs}\",RESOLUTION={width}x{height},\
                     FRAME-RATE=25.000,AUDIO=\"sound\"\n{}/index.m3u8\n",
                    peak + sound_peak,
                    average + sound_average,
                    video.name
                ),
            );
        }
        out
    }

    fn media_playlist(&self, mode: Mode, track: &Track, now: WallTime) -> String {
        let (first, end) = match mode {
            Mode::Live => self.window(now),
            Mode::Vod => (0, self.vod_segments),
        };
        let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n");
        put(&mut out, format_args!("#EXT-X-TARGETDURATION:{}\n", SEGMENT.as_secs()));
        put(&mut out, format_args!("#EXT-X-MEDIA-SEQUENCE:{first}\n"));
        if mode == Mode::Vod {
            out.push_str("#EXT-X-PLAYLIST-TYPE:VOD\n");
        }
        out.push_str("#EXT-X-MAP:URI=\"init.mp4\"\n");
        for number in first..end {
            if mode == Mode::Live {
                let at = self.epoch + track.start(number);
                put(&mut out, format_args!("#EXT-X-PROGRAM-DATE-TIME:{}\n", iso8601(at)));
            }
            let seconds = track.duration(number).as_secs_f64();
            put(&mut out, format_args!("#EXTINF:{seconds:.5},\n{number}.m4s\n"));
        }
        if mode == Mode::Vod {
            out.push_str("#EXT-X-ENDLIST\n");
        }
        out
    }

    fn mpd(&self, mode: Mode, host: &str) -> String {
        let mut out = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\"",
        );
        let segment = SEGMENT.as_secs();
        match mode {
            Mode::Live => put(
                &mut out,
                format_args!(
                    " type=\"dynamic\" availabilityStartTime=\"{epoch}\" publishTime=\"{epoch}\" \
                     minimumUpdatePeriod=\"PT{}S\" timeShiftBufferDepth=\"PT{}S\" suggestedPresentationDelay=\"PT{}S\"",
                    3 * segment,
                    WINDOW * segment,
                    3 * segment,
                    epoch = iso8601(self.epoch),
                ),
            ),
            Mode::Vod => put(
                &mut out,
                format_args!(
                    " type=\"static\" mediaPresentationDuration=\"PT{}S\"",
                    self.vod_segments * segment
                ),
            ),
        }
        put(
            &mut out,
            format_args!(
                " minBufferTime=\"PT{segment}S\" maxSegmentDuration=\"PT{}S\" \
                 profiles=\"urn:mpeg:dash:profile:isoff-live:2011\">\n  <Period id=\"0\" start=\"PT0S\">\n",
                segment + 1
            ),
        );
        self.adaptation_set(&mut out, Kind::Video, "video");
        self.adaptation_set(&mut out, Kind::Audio, "audio");
        out.push_str("  </Period>\n");
        if mode == Mode::Live {
            put(
                &mut out,
                format_args!(
                    "  <UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:http-iso:2014\" value=\"http://{}/time\"/>\n",
                    escape(host)
                ),
            );
        }
        out.push_str("</MPD>\n");
        out
    }

    fn adaptation_set(&self, out: &mut String, kind: Kind, name: &str) {
        put(
            out,
            format_args!(
                "    <AdaptationSet contentType=\"{name}\" mimeType=\"{name}/mp4\" segmentAlignment=\"true\" startWithSAP=\"1\">\n"
            ),
        );
        for track in self.clip.tracks().iter().filter(|t| t.kind == kind) {
            let (peak, _) = track.bitrates();
            let scale = track.timescale;
            let what = match track.size {
                Some((w, h)) => format!("width=\"{w}\" height=\"{h}\" frameRate=\"25\""),
                None => format!("audioSamplingRate=\"{scale}\""),
            };
            put(
                out,
                format_args!(
                    "      <Representation id=\"{id}\" bandwidth=\"{peak}\" codecs=\"{codecs}\" {what}>\n        \
                     <SegmentTemplate timescale=\"{scale}\" duration=\"{duration}\" startNumber=\"0\" \
                     initialization=\"$RepresentationID$/init.mp4\" media=\"$RepresentationID$/$Number$.m4s\"/>\n      \
                     </Representation>\n",
                    id = track.name,
                    codecs = track.codecs,
                    duration = u64::from(scale) * SEGMENT.as_secs(),
                ),
            );
        }
        out.push_str("    </AdaptationSet>\n");
    }
}

fn playlist(text: String, mode: Mode) -> Answer {
    manifest(text, "application/vnd.apple.mpegurl", mode)
}

fn mpd(text: String, mode: Mode) -> Answer {
    manifest(text, "application/dash+xml", mode)
}

fn manifest(text: String, content_type: &'static str, mode: Mode) -> Answer {
    let cache_control = match mode {
        Mode::Live => "no-cache",
        Mode::Vod => "public, max-age=60",
    };
    Answer::Here { body: Bytes::from(text), content_type, class: Class::Manifest, cache_control }
}

fn segment_number(file: &str) -> Option<u64> {
    let digits = file.strip_suffix(".m4s")?;
    // One name for one segment: no signs, no leading zeros.
    let canonical = digits == "0" || !digits.starts_with(['0', '+']);
    canonical.then(|| digits.parse().ok()).flatten()
}

/// Writing to a string cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// `2026-11-22T15:04:05.678Z`.
pub fn iso8601(at: WallTime) -> String {
    let (secs, millis) = (at.unix_secs(), at.unix_millis() % 1000);
    let (year, month, day) = civil(secs / 86_400);
    let (h, m, s) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{millis:03}Z")
}

/// Year, month, day of the day `days` after 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let (mut year, mut left) = (1970, days);
    let leap = |y: u64| u64::from(y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400)));
    // 400 years have 146 097 days.
    year += left / 146_097 * 400;
    left %= 146_097;
    while left >= 365 + leap(year) {
        left -= 365 + leap(year);
        year += 1;
    }
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: WallTime = WallTime::from_unix_secs(1_700_000_000);

    fn presentation() -> Presentation {
        Presentation::new(Clip::embedded(), EPOCH, Duration::from_secs(64))
    }

    fn text(answer: Answer) -> String {
        match answer {
            Answer::Here { body, .. } => String::from_utf8(body.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_segment_is_listed_exactly_when_it_can_be_fetched() {
        let p = presentation();
        for millis in (0..200_000).step_by(137) {
            let now = EPOCH + Duration::from_millis(millis);
            let (first, end) = p.window(now);
            assert!(end - first <= WINDOW);
            let list = text(p.answer("/live/hi/index.m3u8", "o", now));
            assert!(list.contains(&format!("#EXT-X-MEDIA-SEQUENCE:{first}\n")));
            assert_eq!(list.matches("#EXTINF").count() as u64, end - first);
            for number in first..end {
                assert!(list.contains(&format!("\n{number}.m4s\n")), "{now} {number}");
                assert!(p.available_at(number) <= now);
                assert!(matches!(p.answer(&format!("/live/hi/{number}.m4s"), "o", now), Answer::Here { .. }));
            }
            let next = p.answer(&format!("/live/hi/{end}.m4s"), "o", now);
            assert_eq!(next, Answer::NotYet(p.available_at(end)));
            assert!(p.available_at(end) > now && p.available_at(end) <= now + SEGMENT);
            if first > GRACE {
                let gone = p.answer(&format!("/live/hi/{}.m4s", first - GRACE - 1), "o", now);
                assert_eq!(gone, Answer::NotFound);
            }
        }
    }

    #[test]
    fn before_its_epoch_the_channel_is_empty() {
        let p = presentation();
        let list = text(p.answer("/live/lo/index.m3u8", "o", WallTime::from_unix_secs(5)));
        assert_eq!(list.matches("#EXTINF").count(), 0);
    }

    #[test]
    fn on_demand_is_whole_at_any_time() {
        let p = presentation();
        for now in [WallTime::from_unix_secs(0), EPOCH] {
            let list = text(p.answer("/vod/audio/index.m3u8", "o", now));
            assert_eq!(list.matches("#EXTINF").count(), 32);
            assert!(list.ends_with("#EXT-X-ENDLIST\n"));
            assert!(matches!(p.answer("/vod/audio/31.m4s", "o", now), Answer::Here { .. }));
            assert_eq!(p.answer("/vod/audio/32.m4s", "o", now), Answer::NotFound);
        }
        assert!(
            text(p.answer("/vod/manifest.mpd", "o", EPOCH)).contains("mediaPresentationDuration=\"PT64S\"")
        );
    }

    #[test]
    fn paths_have_one_name() {
        let p = presentation();
        let now = EPOCH + Duration::from_secs(60);
        for path in [
            "/",
            "/live",
            "/live/",
            "/live/hi",
            "/live/hi/01.m4s",
            "/live/hi/+1.m4s",
            "/live/hi/x.m4s",
            "/x/hi/1.m4s",
            "/live/no/1.m4s",
            "/live/hi/1.m4s/",
        ] {
            assert_eq!(p.answer(path, "o", now), Answer::NotFound, "{path}");
        }
    }

    #[test]
    fn truth_knows_segments_behind_any_prefix() {
        let p = presentation();
        let now = EPOCH + Duration::from_secs(60);
        let Answer::Here { body, .. } = p.answer("/hls/hi/20.m4s", "o", now) else { panic!() };
        assert_eq!(p.truth("/live/demo/some/prefix/hi/20.m4s").unwrap(), body);
        assert_ne!(p.truth("/hi/21.m4s").unwrap(), body);
        assert!(p.truth("/live/demo/master.m3u8").is_none());
        assert!(p.truth("").is_none());
    }

    #[test]
    fn dates() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000, "2023-11-14T22:13:20.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso8601(WallTime::from_unix_secs(secs)), text);
        }
    }
}
