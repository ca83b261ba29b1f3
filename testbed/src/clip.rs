//! The demo clip: a moving test pattern with a clock, in two renditions and a sound track, of our own making
//! (`testbed/clip/make.sh`), cut into CMAF segments and repeated for ever on a continuous timeline.

use crate::boxes::{self, BoxError, Timing};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Nominal length of a segment. Video segments are exactly this long; sound segments are off by less than one AAC frame.
pub const SEGMENT: Duration = Duration::from_secs(2);

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// H.264.
    Video,
    /// AAC.
    Audio,
}

/// One CMAF segment of the clip as packaged: `styp`, `sidx`, `moof`, `mdat`.
#[derive(Clone, Debug)]
pub struct Fragment {
    /// The segment.
    pub bytes: Bytes,
    /// Its start in the clip, in the track's timescale.
    pub start: u64,
    /// Its duration, in the track's timescale.
    pub duration: u64,
}

/// A track: initialization segment and media segments.
#[derive(Clone, Debug)]
pub struct Track {
    /// Name in URLs: `hi`, `lo`, `audio`.
    pub name: &'static str,
    /// Video or audio.
    pub kind: Kind,
    /// RFC 6381 codecs.
    pub codecs: &'static str,
    /// Width and height of video.
    pub size: Option<(u32, u32)>,
    /// `ftyp` and `moov`.
    pub init: Bytes,
    /// Units per second of the track's times.
    pub timescale: u32,
    /// Bit rate that segments are filled up to with `free` boxes (ISO/IEC 14496-12 section 8.1.2), which players skip.
    pub filled_to: Option<u64>,
    fragments: Vec<Fragment>,
}

/// All tracks.
#[derive(Clone, Debug)]
pub struct Clip {
    tracks: Vec<Track>,
}

impl Clip {
    /// The clip that is part of the program.
    pub fn embedded() -> Arc<Clip> {
        static CLIP: OnceLock<Arc<Clip>> = OnceLock::new();
        CLIP.get_or_init(|| {
            let track = |name, kind, codecs, size, file: &'static [u8]| {
                Track::cut(name, kind, codecs, size, Bytes::from_static(file))
                    .expect("the embedded clip is read by the tests")
            };
            use Kind::{Audio, Video};
            let hi: &[u8] = include_bytes!("../clip/hi.mp4");
            let lo: &[u8] = include_bytes!("../clip/lo.mp4");
            let audio: &[u8] = include_bytes!("../clip/audio.mp4");
            Arc::new(Clip {
                tracks: vec![
                    track("hi", Video, "avc1.4d401f", Some((640, 360)), hi),
                    track("lo", Video, "avc1.4d4015", Some((320, 180)), lo),
                    track("audio", Audio, "mp4a.40.2", None, audio),
                ],
            })
        })
        .clone()
    }

    /// The standard channel of measurements: the clip's pictures at 8, 3 and 1 Mbit/s, and its sound.
    pub fn standard() -> Arc<Clip> {
        static CLIP: OnceLock<Arc<Clip>> = OnceLock::new();
        CLIP.get_or_init(|| {
            let clip = Clip::embedded();
            let filled = |name, of: &str, rate| Track {
                name,
                filled_to: Some(rate),
                ..clip.track(of).cloned().expect("a track of the embedded clip")
            };
            let mut tracks = vec![
                filled("top", "hi", 8_000_000),
                filled("mid", "hi", 3_000_000),
                filled("low", "lo", 1_000_000),
            ];
            tracks.extend(clip.track("audio").cloned());
            Arc::new(Clip { tracks })
        })
        .clone()
    }

    /// The tracks, best video first, sound last.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// The track of this name.
    pub fn track(&self, name: &str) -> Option<&Track> {
        self.tracks.iter().find(|t| t.name == name)
    }
}

impl Track {
    /// Cuts a fragmented file into initialization segment and media segments.
    fn cut(
        name: &'static str,
        kind: Kind,
        codecs: &'static str,
        size: Option<(u32, u32)>,
        file: Bytes,
    ) -> Result<Track, BoxError> {
        let boxes = boxes::children(&file, 0..file.len())?;
        let moov = boxes.iter().find(|b| &b.kind == b"moov").ok_or(BoxError("no moov"))?;
        let init = file.slice(..moov.whole.end);
        let mut fragments = Vec::new();
        let mut start = moov.whole.end;
        for mdat in boxes.iter().filter(|b| &b.kind == b"mdat") {
            let bytes = file.slice(start..mdat.whole.end);
            let at = boxes::timing(&bytes)?.decode_time;
            fragments.push(Fragment { start: at, duration: boxes::duration(&bytes)?, bytes });
            start = mdat.whole.end;
        }
        if fragments.is_empty() {
            return Err(BoxError("no movie fragment"));
        }
        Ok(Track {
            name,
            kind,
            codecs,
            size,
            timescale: boxes::timescale(&init)?,
            init,
            filled_to: None,
            fragments,
        })
    }

    /// The segments as packaged.
    pub fn fragments(&self) -> &[Fragment] {
        &self.fragments
    }

    /// Length of one loop, in the track's timescale.
    fn loop_length(&self) -> u64 {
        self.fragments.iter().map(|f| f.duration).sum()
    }

    fn place(&self, number: u64) -> (&Fragment, u64) {
        let count = self.fragments.len() as u64;
        let index = usize::try_from(number % count).unwrap_or(0);
        (&self.fragments[index], number / count)
    }

    /// Start and duration of segment `number` of the endless timeline, in the track's timescale.
    pub fn times(&self, number: u64) -> (u64, u64) {
        let (fragment, round) = self.place(number);
        (round * self.loop_length() + fragment.start, fragment.duration)
    }

    /// Start of segment `number` of the endless timeline.
    pub fn start(&self, number: u64) -> Duration {
        self.to_duration(self.times(number).0)
    }

    /// Duration of segment `number`.
    pub fn duration(&self, number: u64) -> Duration {
        self.to_duration(self.times(number).1)
    }

    /// Segment `number` of the endless timeline (0 is the first): the clip's bytes, moved to their place in time.
    pub fn segment(&self, number: u64) -> Bytes {
        let (fragment, _) = self.place(number);
        let mut bytes = fragment.bytes.to_vec();
        // Sequence numbers have 32 bits and start at 1.
        let sequence = u32::try_from((number + 1) & 0xffff_ffff).unwrap_or(0);
        boxes::set_timing(&mut bytes, Timing { sequence, decode_time: self.times(number).0 })
            .expect("every fragment of the clip was read when it was cut");
        self.fill(&mut bytes, number);
        Bytes::from(bytes)
    }

    /// Adds a `free` box with bytes that no other segment has.
    fn fill(&self, bytes: &mut Vec<u8>, number: u64) {
        let Some(rate) = self.filled_to else { return };
        let wanted = self.filled_bytes(rate, self.times(number).1);
        let Some(room) = wanted.checked_sub(bytes.len()).filter(|r| *r >= 8) else { return };
        let at = bytes.len() + 8;
        bytes.extend(u32::try_from(room).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(b"free");
        bytes.resize(wanted, 0);
        fastrand::Rng::with_seed(number ^ rate << 32).fill(&mut bytes[at..]);
    }

    fn filled_bytes(&self, rate: u64, units: u64) -> usize {
        usize::try_from(rate * units / 8 / u64::from(self.timescale).max(1)).unwrap_or(0)
    }

    /// Largest and average bit rate over segments, bit/s.
    pub fn bitrates(&self) -> (u64, u64) {
        if let Some(rate) = self.filled_to {
            return (rate, rate);
        }
        let rate = |bytes: usize, units: u64| bytes as u64 * 8 * u64::from(self.timescale) / units.max(1);
        let peak = self.fragments.iter().map(|f| rate(f.bytes.len(), f.duration)).max().unwrap_or(0);
        let total = self.fragments.iter().map(|f| f.bytes.len()).sum();
        (peak, rate(total, self.loop_length()))
    }

    fn to_duration(&self, units: u64) -> Duration {
        let scale = u64::from(self.timescale).max(1);
        Duration::from_secs(units / scale) + Duration::from_nanos(units % scale * 1_000_000_000 / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clip_is_what_the_playlists_say() {
        let clip = Clip::embedded();
        let total: usize = clip.tracks().iter().flat_map(|t| t.fragments()).map(|f| f.bytes.len()).sum();
        assert!(total < 2_000_000, "the clip in the repository is at most 2 MB, but is {total}");
        for track in clip.tracks() {
            assert_eq!(track.fragments().len(), 8, "{}", track.name);
            assert_eq!(track.loop_length(), 16 * u64::from(track.timescale), "{}", track.name);
            if track.kind == Kind::Video {
                // avcC: version, then the three bytes of RFC 6381's avc1.PPCCLL.
                let at = track.init.windows(4).position(|w| w == b"avcC").unwrap() + 5;
                let hex: String = track.init[at..at + 3].iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(track.codecs, format!("avc1.{hex}"));
            }
        }
    }

    #[test]
    fn the_standard_channel_has_the_rates_it_says_and_no_two_segments_alike() {
        let clip = Clip::standard();
        for (track, rate) in clip.tracks().iter().zip([8_000_000, 3_000_000, 1_000_000]) {
            assert_eq!(track.bitrates(), (rate, rate));
            let segments = [0, 1, 8].map(|n| track.segment(n));
            for segment in &segments {
                assert_eq!(segment.len() as u64, rate * 2 / 8, "{}", track.name);
                let boxes = boxes::children(segment, 0..segment.len()).unwrap();
                assert_eq!(&boxes.last().unwrap().kind, b"free");
            }
            let tail = |n: usize| segments[n].slice(segments[n].len() - 1000..);
            assert!(tail(0) != tail(1) && tail(0) != tail(2));
            assert!(track.segment(8) == segments[2], "the same at every call");
        }
    }

    #[test]
    fn the_endless_timeline_has_no_gap() {
        let clip = Clip::embedded();
        for track in clip.tracks() {
            let mut next = 0;
            for number in 0..40 {
                let (start, duration) = track.times(number);
                assert_eq!(start, next, "{} {number}", track.name);
                let segment = track.segment(number);
                let timing = boxes::timing(&segment).unwrap();
                assert_eq!(timing, Timing { sequence: number as u32 + 1, decode_time: start });
                let nominal = SEGMENT * number as u32;
                assert!(
                    track.start(number) >= nominal
                        && track.start(number) - nominal < Duration::from_millis(22)
                );
                next = start + duration;
            }
        }
        // A segment number of a channel that has run for 100 years.
        assert_eq!(clip.tracks()[0].start(1_577_880_000), Duration::from_secs(3_155_760_000));
    }
}
