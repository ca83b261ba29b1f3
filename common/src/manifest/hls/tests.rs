use super::*;
use crate::manifest::apply;
use crate::manifest::testing::{self, BASE, OwnMap, SERVED, check_edits, check_reference};
use crate::manifest::url::{ChannelMap, UrlMap};
use proptest::prelude::*;

const IMPORTS: &[(&str, &str)] = &[("auth", "A1")];

fn imports() -> Vec<(String, String)> {
    IMPORTS.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

fn parse(text: &str) -> Playlist {
    Playlist::parse(text.as_bytes(), &testing::base(), &imports()).unwrap()
}

fn media(name: &str) -> Media {
    match parse(&testing::text(name)) {
        Playlist::Media(media) => media,
        Playlist::Master(_) => panic!("{name} is a master playlist"),
    }
}

fn master(name: &str) -> Master {
    match parse(&testing::text(name)) {
        Playlist::Master(master) => master,
        Playlist::Media(_) => panic!("{name} is a media playlist"),
    }
}

fn uris(media: &Media) -> Vec<&str> {
    media.segments.iter().map(|s| s.uri.as_str()).collect()
}

fn range(first: u64, last: u64) -> Option<ByteRange> {
    Some(ByteRange { first, last, complete: None })
}

fn rewritten(text: &str, options: RewriteOptions<'_>) -> String {
    let imports = imports();
    let options = RewriteOptions { imports: &imports, ..options };
    check_edits(text, &rewrite(text, &testing::base(), SERVED, &testing::map(), options).unwrap())
}

/// Every reference of a playlist in order, by the reader and not by the rewriter.
fn references(playlist: &Playlist) -> Vec<String> {
    match playlist {
        Playlist::Master(m) => {
            let variants = m.variants.iter().map(|v| v.uri.clone());
            variants.chain(m.media.iter().map(|g| g.uri.clone())).chain(m.session_keys.clone()).collect()
        }
        Playlist::Media(m) => m
            .segments
            .iter()
            .flat_map(|s| {
                let map = s.map.iter().map(|m| m.uri.clone());
                let keys = s.keys.iter().filter_map(|k| k.uri.clone());
                std::iter::once(s.uri.clone()).chain(map).chain(keys)
            })
            .collect(),
    }
}

#[test]
fn the_corpus_is_large_enough_and_all_of_it_is_read() {
    let corpus = testing::corpus("m3u8");
    assert!(corpus.len() >= 25);
    for (name, bytes) in corpus {
        Playlist::parse(&bytes, &testing::base(), &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn vod_and_its_forms() {
    let m = media("vod-ts.m3u8");
    assert_eq!(uris(&m), ["seg0.ts", "seg1.ts", "seg2.ts"]);
    assert_eq!((m.target_duration, m.endlist), (Duration::from_secs(10), true));
    assert_eq!(m.playlist_type, Some(PlaylistType::Vod));
    assert_eq!(m.segments[2].duration, Duration::from_millis(3003));
    let m = media("vod-crlf-bom.m3u8");
    assert_eq!(uris(&m), ["https://cdn.example/a/b/video/one.ts", "two.ts"]);
    assert!(m.endlist);
    let m = media("event-no-final-newline.m3u8");
    assert_eq!(uris(&m), ["/a/b/video/e0.ts", "/elsewhere/e1.ts"]);
    assert_eq!((m.playlist_type, m.endlist), (Some(PlaylistType::Event), false));
    let m = media("live-title-commas.m3u8");
    assert_eq!(m.segments.iter().map(|s| s.sequence).collect::<Vec<_>>(), [1234, 1235, 1236]);
    assert_eq!(m.segments[2].duration, Duration::from_millis(5500));
    let m = media("iptv-list.m3u8");
    assert_eq!(uris(&m), ["http://other.example/one/index.m3u8", "rtp://239.0.0.1:5000"]);
    assert_eq!(uris(&media("no-extinf.m3u8")), ["first.mp3", "https://cdn.example/a/b/video/second.mp3"]);
    assert!(media("empty-live.m3u8").segments.is_empty());
}

#[test]
fn maps_ranges_and_discontinuities() {
    let m = media("fmp4-map-change.m3u8");
    let maps: Vec<_> = m.segments.iter().map(|s| s.map.as_ref().unwrap().uri.as_str()).collect();
    let ad = "https://cdn.example/a/b/ad/init.mp4";
    assert_eq!(maps, ["init_a.mp4", "init_a.mp4", ad, "init_a.mp4"]);
    assert_eq!(m.segments[2].map.as_ref().unwrap().range, range(0, 719));
    assert_eq!(m.segments.iter().map(|s| s.discontinuity).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(m.discontinuity_sequence, 2);
    let ranges: Vec<_> = media("byterange.m3u8").segments.iter().map(|s| s.range).collect();
    assert_eq!(ranges, [range(719, 1718), range(1719, 3718), range(3719, 4218), range(0, 9), None, None]);
    assert!(media("iframes.m3u8").iframes_only);
}

#[test]
fn keys_in_force() {
    let keys = |name: &str| -> Vec<Vec<String>> {
        let media = media(name);
        media.segments.iter().map(|s| s.keys.iter().filter_map(|k| k.uri.clone()).collect()).collect()
    };
    assert_eq!(keys("aes128-rotation.m3u8"), [vec!["https://keys.example/k?id=1"], vec!["key2.bin"], vec![]]);
    let drm = keys("multi-drm.m3u8");
    assert_eq!(drm[0].len(), 3);
    assert_eq!(drm[1].last().unwrap(), "skd://asset/2");
    assert_eq!(drm[1].len(), 3);
    assert_eq!(keys("sample-aes-ts.m3u8"), [["/keys/{id}.bin"], ["../keys/2.bin"]]);
}

#[test]
fn dates_are_carried_on() {
    let dates: Vec<_> = media("pdt-forms.m3u8").segments.iter().map(|s| s.program_date_time).collect();
    const T: u64 = 1_795_362_121_678;
    let expected = [T, T + 2000, T + 4001, 1_795_362_128_000, 1_795_362_140_123];
    assert_eq!(dates, expected.map(Some));
}

#[test]
fn variables_are_substituted() {
    assert_eq!(
        uris(&media("define-query.m3u8")),
        [
            "https://cdn.example/a/b/video/0.m4s?a=A1",
            "sub/1.m4s?t=T1",
            "{$undefined}/2.m4s",
            "{$ not a variable}/3.m4s"
        ]
    );
    assert_eq!(
        master("master-full.m3u8").variables,
        [("host".to_owned(), "https://cdn.example/a/b".to_owned())]
    );
}

#[test]
fn gaps_low_latency_and_jumps() {
    let gaps: Vec<_> = media("gap-and-bitrate.m3u8").segments.iter().map(|s| s.gap).collect();
    assert_eq!(gaps, [false, true, false]);
    let m = media("low-latency.m3u8");
    assert!(m.can_block_reload && m.part_target.is_some());
    assert_eq!(m.segments.iter().map(|s| s.sequence).collect::<Vec<_>>(), [266, 267, 268]);
    assert_eq!(media("delta-update.m3u8").segments[0].sequence, 120);
    let last = media("sequence-jump.m3u8").segments.last().map(|s| (s.uri.clone(), s.sequence));
    assert!(last.is_some_and(|(uri, _)| uri == "x2.ts"));
    let m = media("trailing-tags.m3u8");
    assert_eq!((m.media_sequence, m.segments[1].sequence, m.endlist), (3, 4, true));
}

#[test]
fn master_playlists() {
    let m = master("master-full.m3u8");
    let variants: Vec<_> = m.variants.iter().map(|v| (v.uri.as_str(), v.bandwidth)).collect();
    assert_eq!(
        variants,
        [
            ("video/720.m3u8", 2_000_000),
            ("https://cdn.example/a/b/video/360.m3u8?x=1&y=2", 800_000),
            ("https://cdn.example/a/b/iframe/720.m3u8", 100_000)
        ]
    );
    assert!(m.variants[2].iframes_only && !m.variants[1].iframes_only);
    assert_eq!(m.variants[0].codecs.as_deref(), Some("avc1.64001f,mp4a.40.2"));
    assert_eq!(m.variants[0].average_bandwidth, Some(1_800_000));
    assert_eq!(m.variants[0].audio_group.as_deref(), Some("aac"));
    let groups: Vec<_> = m.media.iter().map(|g| (g.name.as_str(), g.uri.as_str())).collect();
    assert_eq!(
        groups,
        [
            ("English", "audio/en.m3u8"),
            ("Deutsch, mit Komma", "https://cdn.example/a/b/audio/de.m3u8"),
            ("English", "subs/en.m3u8")
        ]
    );
    assert_eq!(m.session_keys, ["skd://s", "https://cdn.example/a/b/k.bin"]);
    let m = master("master-odd.m3u8");
    let variants: Vec<_> = m.variants.iter().map(|v| (v.uri.as_str(), v.bandwidth)).collect();
    assert_eq!(
        variants,
        [("a.m3u8", 1_000_000), ("b.m3u8", 500_000), ("c.m3u8", 0), ("http://other.example:8080/d.m3u8", 2)]
    );
    assert_eq!(m.media[0].uri, "unquoted/audio.m3u8");
}

#[test]
fn spans_cover_the_lines_of_a_segment() {
    let text = testing::text("low-latency.m3u8");
    let m = media("low-latency.m3u8");
    let of = |i: usize| &text[m.segments[i].span.0..m.segments[i].span.1];
    assert!(of(0).starts_with("#EXT-X-PROGRAM-DATE-TIME") && of(0).ends_with("fileSequence266.mp4\n"));
    assert!(of(2).starts_with("#EXT-X-PART:") && of(2).ends_with("fileSequence268.mp4\n"));
}

/// What players see of the whole corpus, compared with what the origin meant.
#[test]
fn every_reference_of_the_corpus_arrives() {
    for (name, bytes) in testing::corpus("m3u8") {
        let text = String::from_utf8(bytes).unwrap();
        let after = rewritten(&text, RewriteOptions::default());
        let (before, after_parsed) = (references(&parse(&text)), references(&parse(&after)));
        assert_eq!(before.len(), after_parsed.len(), "{name}");
        for (before, after) in before.iter().zip(&after_parsed).filter(|(b, _)| !b.contains("{$")) {
            check_reference(before, after, &testing::base(), SERVED, &testing::map());
        }
        let home = Url::parse(&format!("http://home.example{SERVED}")).unwrap();
        let imports = imports();
        let options = RewriteOptions { imports: &imports, ..RewriteOptions::default() };
        assert_eq!(rewrite(&after, &home, SERVED, &OwnMap, options).unwrap(), [], "{name} again");
    }
}

/// Where all references lie in the channel's folder, a second rewrite finds nothing to do.
#[test]
fn rewriting_twice_is_rewriting_once() {
    let map = ChannelMap::new("/o/", &Url::parse("https://cdn.example/").unwrap(), Arc::new(|_| false));
    let served = map.to_local(&testing::base()).unwrap();
    let mut changed = 0;
    for (name, bytes) in testing::corpus("m3u8") {
        let text = String::from_utf8(bytes).unwrap();
        let once = rewrite(&text, &testing::base(), &served, &map, RewriteOptions::default()).unwrap();
        changed += usize::from(!once.is_empty());
        let once = apply(&text, &once);
        let again = rewrite(&once, &testing::base(), &served, &map, RewriteOptions::default()).unwrap();
        assert_eq!(again, [], "{name}");
    }
    assert!(changed > 10);
}

#[test]
fn only_what_must_change_is_changed() {
    for untouched in ["vod-ts.m3u8", "byterange.m3u8", "multi-drm.m3u8", "unknown-tags.m3u8", "iframes.m3u8"]
    {
        let text = testing::text(untouched);
        assert_eq!(rewritten(&text, RewriteOptions::default()), text, "{untouched}");
    }
    let all = RewriteOptions::default();
    let text = testing::text("master-full.m3u8");
    let expected = text
        .replace("\"https://steer.example/s?x=1\"", "\"../../../https/steer.example/s?x=1\"")
        .replace("https://cdn.example/a/b/info.json", "../info.json")
        .replace("https://cdn.example/a/b/k.bin", "../k.bin")
        .replace("{$host}/audio/de.m3u8", "../audio/de.m3u8")
        .replace("{$host}/video/360.m3u8", "360.m3u8")
        .replace("https://cdn.example/a/b/iframe/", "../iframe/")
        .replace("\"/thumbs/i.m3u8\"", "\"../../../https/cdn.example/thumbs/i.m3u8\"");
    assert_eq!(rewritten(&text, all), expected);
    let text = testing::text("define-query.m3u8");
    let expected =
        text.replace("{$path}/init.mp4", "init.mp4").replace("{$path}/0.m4s?a={$auth}", "0.m4s?a=A1");
    assert_eq!(rewritten(&text, all), expected);
    let text = testing::text("daterange-scte35.m3u8");
    assert_eq!(rewritten(&text, all), text.replace("https://cdn.example/a/b/x.json", "../x.json"));
    let text = testing::text("odd-references.m3u8");
    let after = rewritten(&text, all);
    assert!(after.contains("\np%20q.ts?x={y}&z=%22w%22#frag\n"), "{after}");
    assert!(after.contains("\n../../../https/[2001:db8::1]:8443/e.ts\n"));
    assert!(!after.contains("secret"));
}

/// The player sees another value of a QUERYPARAM than the origin: then the origin's is written.
#[test]
fn query_variables_that_differ_are_resolved() {
    let text = testing::text("define-query.m3u8");
    let imports = imports();
    let options = RewriteOptions { imports: &imports, ..RewriteOptions::default() };
    let served = "/live/news/video/index.m3u8";
    let edits = rewrite(&text, &testing::base(), served, &testing::map(), options).unwrap();
    assert!(apply(&text, &edits).contains("\nsub/1.m4s?t=T1\n"));
    let options = RewriteOptions::default();
    let edits = rewrite(&text, &testing::base(), SERVED, &testing::map(), options).unwrap();
    assert!(apply(&text, &edits).contains("\n{$path}/0.m4s?a={$auth}\n"));
}

#[test]
fn the_live_edge_is_trimmed() {
    let trim = |name: &str, trim_tail| {
        rewritten(&testing::text(name), RewriteOptions { trim_tail, ..RewriteOptions::default() })
    };
    let text = testing::text("low-latency.m3u8");
    let cut = text.find("#EXT-X-PART:").unwrap();
    assert_eq!(trim("low-latency.m3u8", 1), text[..cut]);
    let text = testing::text("trailing-tags.m3u8");
    let expected =
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXTINF:4,\nt0.m4s\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:3\n";
    assert_eq!(trim("trailing-tags.m3u8", 1), expected, "{text}");
    let all_gone = parse(&trim("fmp4-map-change.m3u8", 99));
    assert!(matches!(all_gone, Playlist::Media(m) if m.segments.is_empty() && m.media_sequence == 7));
    let text = testing::text("master-audio-only.m3u8");
    assert!(trim("master-audio-only.m3u8", 1).contains("hi.m3u8"), "{text}");
    for (name, bytes) in testing::corpus("m3u8") {
        if let Playlist::Media(m) = parse(std::str::from_utf8(&bytes).unwrap()) {
            let Playlist::Media(after) = parse(&trim(&name, 2)) else { panic!("{name}") };
            assert_eq!(after.segments.len(), m.segments.len().saturating_sub(2), "{name}");
        }
    }
}

#[test]
fn the_beginning_is_trimmed() {
    let trim =
        |text: &str, trim_head| rewritten(text, RewriteOptions { trim_head, ..RewriteOptions::default() });
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n\
        #EXT-X-PROGRAM-DATE-TIME:2026-11-22T15:42:01.678Z\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n\
        #EXTINF:4,\n#EXT-X-BYTERANGE:10@5\na\n#EXT-X-DISCONTINUITY\n#EXTINF:4,\n#EXT-X-BYTERANGE:20\na\n\
        #EXT-X-DISCONTINUITY\n#EXTINF:4,\n#EXT-X-BYTERANGE:30\na\n#EXTINF:4,\nb\n";
    let expected = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:9\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n\
        #EXT-X-DISCONTINUITY-SEQUENCE:1\n#EXT-X-PROGRAM-DATE-TIME:2026-11-22T15:42:09.678Z\n\
        #EXT-X-DISCONTINUITY\n#EXTINF:4,\n#EXT-X-BYTERANGE:30@35\na\n#EXTINF:4,\nb\n";
    assert_eq!(trim(text, 2), expected);
    assert_eq!(trim(&text.replace("#EXT-X-MEDIA-SEQUENCE:7\n", ""), 99).matches("SEQUENCE:3\n").count(), 1);
    for kept in ["#EXT-X-PLAYLIST-TYPE:EVENT\n", "#EXT-X-ENDLIST\n"] {
        assert_eq!(trim(&format!("{text}{kept}"), 2), format!("{text}{kept}"));
    }
}

/// What is left of a playlist is what its end was: the same segments with the same numbers, keys, maps, ranges and dates.
#[test]
fn the_beginning_of_the_corpus_is_trimmed() {
    for (name, bytes) in testing::corpus("m3u8") {
        let text = std::str::from_utf8(&bytes).unwrap();
        let Playlist::Media(before) = parse(text) else { continue };
        let may = !before.endlist && before.playlist_type.is_none() && !text.contains("EXT-X-SKIP");
        for trim_head in 0..4 {
            let options = RewriteOptions { trim_head, ..RewriteOptions::default() };
            let edits = rewrite(text, &testing::base(), SERVED, &OwnMap, options).unwrap();
            let Playlist::Media(after) = parse(&apply(text, &edits)) else { panic!("{name}") };
            let gone = if may { trim_head.min(before.segments.len().saturating_sub(1)) } else { 0 };
            let facts = |s: &Segment| {
                let map = s.map.as_ref().map(|m| m.range);
                (s.sequence, s.duration, s.range, s.discontinuity, s.gap, map, s.keys.len())
            };
            // A written date has no less than a millisecond.
            let dates = before.segments.iter().skip(gone).zip(&after.segments);
            let mut dates = dates.map(|(b, a)| (b.program_date_time, a.program_date_time));
            let same = |(b, a): (Option<u64>, Option<u64>)| match (b, a) {
                (Some(b), Some(a)) => b.abs_diff(a) <= 1,
                _ => a == b,
            };
            assert!(dates.all(same), "{name} {trim_head}");
            let expected: Vec<_> = before.segments.iter().skip(gone).map(facts).collect();
            assert_eq!(after.segments.iter().map(facts).collect::<Vec<_>>(), expected, "{name} {trim_head}");
            let left = before.segments.iter().take(gone).filter(|s| s.discontinuity).count() as u64;
            assert_eq!(after.discontinuity_sequence, before.discontinuity_sequence + left, "{name}");
        }
    }
}

#[test]
fn low_latency_tags_are_cut() {
    let text = testing::text("low-latency.m3u8");
    let after = rewritten(&text, RewriteOptions { strip_low_latency: true, ..RewriteOptions::default() });
    let expected = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:4\n#EXT-X-SERVER-CONTROL:HOLD-BACK=12.0\n\
        #EXT-X-MEDIA-SEQUENCE:266\n#EXT-X-PROGRAM-DATE-TIME:2026-11-22T15:42:01.678Z\n#EXT-X-MAP:URI=\"init.mp4\"\n\
        #EXTINF:4.00008,\nfileSequence266.mp4\n#EXTINF:4.00008,\nfileSequence267.mp4\n#EXTINF:4.00008,\nfileSequence268.mp4\n";
    assert_eq!(after, expected);
    let text = testing::text("delta-update.m3u8");
    let after = rewritten(&text, RewriteOptions { strip_low_latency: true, ..RewriteOptions::default() });
    assert_eq!(after, text.replace("#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL=24.0\n", ""));
}

#[test]
fn what_is_refused() {
    let parse = |bytes: &[u8]| Playlist::parse(bytes, &testing::base(), &[]).unwrap_err();
    assert_eq!(parse(b"<html>"), ManifestError::NotThat("HLS playlist"));
    assert_eq!(parse(b""), ManifestError::NotThat("HLS playlist"));
    assert_eq!(parse(b"#EXTM3U\n\xff"), ManifestError::NotUtf8(8));
    assert!(matches!(parse(&vec![b'\n'; 17 << 20]), ManifestError::Limit(_)));
    let many = format!("#EXTM3U{}", "\n".repeat(400_001));
    assert!(matches!(parse(many.as_bytes()), ManifestError::Limit(_)));
}

/// Small texts that would become huge: a long variable, or a long base, in every line.
#[test]
fn what_is_written_is_bounded() {
    let text = format!(
        "#EXTM3U\n#EXT-X-DEFINE:NAME=\"v\",VALUE=\"{}\"\n{}",
        "x".repeat(1 << 20),
        "{$v}\n".repeat(1000)
    );
    let base = testing::base();
    let refused = Playlist::parse(text.as_bytes(), &base, &[]).unwrap_err();
    assert!(matches!(refused, ManifestError::Limit(_)));
    let refused = rewrite(&text, &base, SERVED, &testing::map(), RewriteOptions::default()).unwrap_err();
    assert!(matches!(refused, ManifestError::Limit(_)));
    let text = format!("#EXTM3U\n{}", "x\n".repeat(10_000));
    let base = Url::parse(&format!("https://far.example/{}/", "y".repeat(8000))).unwrap();
    let refuse = |text: &str, base: &Url| {
        rewrite(text, base, SERVED, &testing::map(), RewriteOptions::default()).unwrap_err()
    };
    assert_eq!(refuse(&text, &base), ManifestError::Limit("size of rewritten references"));
    let text = format!("#EXTM3U\n{}", "data:\n".repeat(100_000));
    assert_eq!(refuse(&text, &base), ManifestError::Limit("references"));
    let base = Url::parse(&format!("https://far.example/{}/", "y".repeat(9000))).unwrap();
    assert_eq!(refuse("#EXTM3U\n", &base), ManifestError::Limit("length of a base URL"));
    let text = format!("#EXTM3U\n{}", "#EXT-X-DEFINE:IMPORT=\"a\"\n".repeat(2000));
    assert_eq!(refuse(&text, &testing::base()), ManifestError::Limit("EXT-X-DEFINE tags"));
    // A reference that is longer than any URL stays, a DRM header in a data: URL for one.
    let text = format!("#EXTM3U\n#EXT-X-KEY:METHOD=X,URI=\"data:text/plain,{}\"\n", "z".repeat(20_000));
    assert_eq!(rewritten(&text, RewriteOptions::default()), text);
}

/// Keys and maps are shared by segments, not copied into each.
#[test]
fn many_keys_in_force_cost_little() {
    let mut text = String::from("#EXTM3U\n");
    for i in 0..50_000 {
        text.push_str(&format!("#EXT-X-KEY:METHOD=X,URI=\"u{i}\",KEYFORMAT=\"{i}\"\n#EXTINF:1,\ns\n"));
    }
    let Playlist::Media(media) = parse(&text) else { panic!("media") };
    assert_eq!(media.segments.last().unwrap().keys.len(), 32);
}

/// m3u8-rs agrees on the playlists that it reads rightly.
#[test]
fn a_second_opinion() {
    let plain = [
        "vod-ts.m3u8",
        "vod-crlf-bom.m3u8",
        "event-no-final-newline.m3u8",
        "fmp4-map-change.m3u8",
        "gap-and-bitrate.m3u8",
        "iframes.m3u8",
        "webvtt.m3u8",
        "sample-aes-ts.m3u8",
        "empty-live.m3u8",
    ];
    for name in plain {
        let text = testing::text(name);
        let theirs =
            m3u8_rs::parse_media_playlist_res(text.trim_start_matches('\u{feff}').as_bytes()).unwrap();
        let ours = media(name);
        assert_eq!(uris(&ours), theirs.segments.iter().map(|s| s.uri.trim()).collect::<Vec<_>>(), "{name}");
        for (ours, theirs) in ours.segments.iter().zip(&theirs.segments) {
            assert!((ours.duration.as_secs_f32() - theirs.duration).abs() < 1e-3, "{name}");
        }
        assert_eq!((ours.media_sequence, ours.endlist), (theirs.media_sequence, theirs.end_list), "{name}");
    }
    let theirs =
        m3u8_rs::parse_master_playlist_res(testing::text("master-audio-only.m3u8").as_bytes()).unwrap();
    let ours = master("master-audio-only.m3u8");
    let pairs =
        |v: &[m3u8_rs::VariantStream]| -> Vec<_> { v.iter().map(|v| (v.uri.clone(), v.bandwidth)).collect() };
    assert_eq!(
        ours.variants.iter().map(|v| (v.uri.clone(), v.bandwidth)).collect::<Vec<_>>(),
        pairs(&theirs.variants)
    );
}

/// Pieces that playlists are made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("#EXTM3U\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("#EXTINF:4,\n".to_owned()),
        Just("#EXT-X-DEFINE:NAME=\"v\",VALUE=\"{$v}\"\n".to_owned()),
        "#EXT-X-(KEY|MAP|PART|MEDIA|STREAM-INF|SKIP|SERVER-CONTROL|BYTERANGE):[A-Z=\",{$v}0-9@ -]{0,30}\n?",
        "(URI=)?\"?(https?://)?(cdn\\.example|\\{\\$v\\}|\\PC{0,6})/[a-z.?#&{}$\"]{0,12}\"?\n",
        "\\PC{0,20}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|p| format!("#EXTM3U\n{}", p.concat()))
}

fn check_any(text: &str, (trim_head, trim_tail): (usize, usize), strip_low_latency: bool) {
    let imports = imports();
    let options = RewriteOptions { trim_head, trim_tail, strip_low_latency, imports: &imports };
    if let Ok(edits) = rewrite(text, &testing::base(), SERVED, &testing::map(), options) {
        let after = check_edits(text, &edits);
        assert!(Playlist::parse(after.as_bytes(), &testing::base(), &imports).is_ok());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Playlist::parse(&bytes, &Url::parse(BASE).unwrap(), &[]);
        check_any(&String::from_utf8_lossy(&bytes), (1, 1), true);
    }

    #[test]
    fn any_pieces_are_survived(text in pieces(), trim in (0usize..3, 0usize..3), strip: bool) {
        check_any(&text, trim, strip);
    }

    #[test]
    fn mutations_of_the_corpus_are_survived(
        which: proptest::sample::Index,
        cuts in proptest::collection::vec((any::<proptest::sample::Index>(), 0usize..4, "\\PC{0,3}|[\"\n,=#{$}:]"), 1..8),
        trim in (0usize..3, 0usize..3),
        strip: bool,
    ) {
        let corpus = testing::corpus("m3u8");
        let mut bytes = which.get(&corpus).1.clone();
        for (at, length, with) in cuts {
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, with.into_bytes());
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = Playlist::parse(&bytes, &testing::base(), &[]);
        check_any(&text, trim, strip);
    }
}
