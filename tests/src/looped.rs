//! A live HLS channel without an encoder: sliding windows over a VOD playlist that is repeated for ever, with a discontinuity
//! wherever it begins again.

use std::fmt::Write;
use std::time::Duration;

/// Segments in a window.
const WINDOW: usize = 6;
/// What the channel had published before its origin started: a player can start at once.
const AGE: Duration = Duration::from_secs(24);

/// The media playlist (RFC 8216 section 4.3) of the channel at `elapsed`, made of the VOD playlist `vod`. A playlist without
/// segments, such as a master playlist, is returned as it is. Segment `a.ts` of the third pass is `pass2-a.ts`.
pub fn playlist(vod: &str, elapsed: Duration) -> String {
    let segments = segments(vod);
    let length: f64 = segments.iter().map(|(seconds, _)| seconds).sum();
    if length <= 0.0 {
        return vod.to_owned();
    }
    let age = (AGE + elapsed).as_secs_f64();
    let pass = (age / length).floor();
    let mut end = pass * length;
    let in_pass = segments.iter().take_while(|(seconds, _)| {
        end += seconds;
        end <= age
    });
    let published = pass as usize * segments.len() + in_pass.count();
    let first = published.saturating_sub(WINDOW);
    let target = segments.iter().map(|(seconds, _)| seconds.ceil() as u32).max().unwrap_or(1);
    // A discontinuity counts as gone when its segment has left the window.
    let gone = first.saturating_sub(1) / segments.len();
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:{target}\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-DISCONTINUITY-SEQUENCE:{gone}\n#EXT-X-INDEPENDENT-SEGMENTS\n"
    );
    for at in first..published {
        let (pass, index) = (at / segments.len(), at % segments.len());
        let (seconds, name) = segments[index];
        if index == 0 && pass > 0 {
            text.push_str("#EXT-X-DISCONTINUITY\n");
        }
        let _ = write!(text, "#EXTINF:{seconds:.6},\npass{pass}-{name}\n");
    }
    text
}

/// The VOD's file of a segment: `a.ts` of `pass2-a.ts`.
pub fn file(name: &str) -> &str {
    let number = name.strip_prefix("pass").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    number.and_then(|rest| rest.strip_prefix('-')).unwrap_or(name)
}

fn segments(vod: &str) -> Vec<(f64, &str)> {
    let mut duration = None;
    let mut found = Vec::new();
    for line in vod.lines() {
        if let Some(value) = line.strip_prefix("#EXTINF:") {
            duration = value.split(',').next().and_then(|seconds| seconds.parse().ok());
        } else if !line.starts_with('#') {
            found.extend(duration.take().map(|seconds: f64| (seconds, line)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOD: &str =
        "#EXTM3U\n#EXTINF:2,\na.ts\n#EXTINF:2,\nb.ts\n#EXTINF:2,\nc.ts\n#EXTINF:2,\nd.ts\n#EXT-X-ENDLIST\n";

    #[test]
    fn the_window_slides_and_numbers_go_on() {
        let at = |seconds| playlist(VOD, Duration::from_secs(seconds));
        // Twelve segments are out; the window holds those from number 6.
        assert!(at(0).contains("MEDIA-SEQUENCE:6\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n"));
        assert!(at(1).ends_with("pass1-d.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:2.000000,\npass2-a.ts\n#EXTINF:2.000000,\npass2-b.ts\n#EXTINF:2.000000,\npass2-c.ts\n#EXTINF:2.000000,\npass2-d.ts\n"));
        // The segment with the tag is the first, then it is gone.
        assert!(at(4).contains("MEDIA-SEQUENCE:8\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-DISCONTINUITY\n"));
        assert!(at(6).contains("MEDIA-SEQUENCE:9\n#EXT-X-DISCONTINUITY-SEQUENCE:2\n"));
        assert!(!at(0).contains("ENDLIST"));
        let master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv0/index.m3u8\n";
        assert_eq!(playlist(master, Duration::ZERO), master);
    }

    #[test]
    fn names_lead_back_to_files() {
        assert_eq!(file("pass12-a.ts"), "a.ts");
        assert_eq!(file("a.ts"), "a.ts");
        assert_eq!(file("passage.ts"), "passage.ts");
    }
}
