use super::*;
use crate::manifest::testing::{self, OwnMap, SERVED, check_edits};
use crate::manifest::url::{ChannelMap, UrlMap};
use proptest::prelude::*;
use std::sync::Arc;

const NEVER: WallTime = WallTime::from_unix_millis(0);
/// 2026-11-22T15:00:00Z
const START: u64 = 1_795_359_600_000;

fn parse(text: &str) -> Mpd {
    Mpd::parse(text.as_bytes(), &testing::base()).unwrap()
}

fn mpd(name: &str) -> Mpd {
    parse(&testing::text(name))
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Segments of a Representation: last part of the URL, number, start and duration in milliseconds.
fn listed(mpd: &Mpd, representation: usize, now: WallTime) -> Vec<(String, u64, u64, u64)> {
    mpd.segments(&mpd.representations[representation], now)
        .iter()
        .map(|s| {
            let url = s.url.as_str().strip_prefix("https://cdn.example/a/b/video/").unwrap_or(s.url.as_str());
            (url.to_owned(), s.number, s.start.as_millis() as u64, s.duration.as_millis() as u64)
        })
        .collect()
}

fn urls(mpd: &Mpd, representation: usize) -> Vec<String> {
    let segments = mpd.segments(&mpd.representations[representation], NEVER);
    segments.into_iter().map(|s| s.url.into()).collect()
}

fn row(url: &str, number: u64, start: u64, duration: u64) -> (String, u64, u64, u64) {
    (url.to_owned(), number, start, duration)
}

fn range(first: u64, last: u64) -> Option<ByteRange> {
    Some(ByteRange { first, last, complete: None })
}

fn init(mpd: &Mpd, representation: usize) -> String {
    mpd.init(&mpd.representations[representation]).unwrap().0.into()
}

fn options() -> RewriteOptions {
    RewriteOptions { time_path: Some("/time".to_owned()), ..RewriteOptions::default() }
}

fn rewritten(text: &str) -> String {
    check_edits(text, &rewrite(text, &testing::base(), SERVED, &testing::map(), &options()).unwrap())
}

#[test]
fn the_corpus_is_large_enough_and_all_of_it_is_read() {
    let corpus = testing::corpus("mpd");
    assert!(corpus.len() >= 15);
    for (name, bytes) in corpus {
        let mpd = Mpd::parse(&bytes, &testing::base()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!mpd.representations.is_empty(), "{name}");
    }
}

#[test]
fn numbers_with_widths() {
    let m = mpd("vod-number.mpd");
    assert_eq!(
        listed(&m, 0, NEVER),
        [
            row("v1/00001.m4s", 1, 0, 4000),
            row("v1/00002.m4s", 2, 4000, 4000),
            row("v1/00003.m4s", 3, 8000, 4000)
        ]
    );
    assert_eq!(init(&m, 1), "https://cdn.example/a/b/video/v2/init.mp4");
    assert_eq!(listed(&m, 2, NEVER)[2], row("a/128000-2.m4s?x=1&y=$", 2, 8000, 4000));
    assert_eq!(init(&m, 2), "https://cdn.example/a/b/video/a/128000.mp4");
    let r = &m.representations[0];
    assert_eq!(r.url_pattern.as_deref(), Some("https://cdn.example/a/b/video/v1/*.m4s"));
    assert_eq!((r.content_type.as_str(), r.resolution.as_deref()), ("video", Some("1280x720")));
    assert_eq!((r.period.as_str(), r.bandwidth, r.codecs.as_deref()), ("p0", 1_000_000, Some("avc1.64001f")));
    assert_eq!(m.representations[2].content_type, "audio");
    assert_eq!(m.representations[2].language.as_deref(), Some("en"));
    assert_eq!((m.dynamic, m.max_segment_duration), (false, Some(ms(4000))));
}

#[test]
fn timelines() {
    assert_eq!(
        listed(&mpd("vod-timeline.mpd"), 0, NEVER),
        [
            row("t900000-n7.m4s", 7, 0, 4000),
            row("t1260000-n8.m4s", 8, 4000, 4000),
            row("t1620000-n9.m4s", 9, 8000, 2000),
            row("t1890000-n10.m4s", 10, 11_000, 4000),
            row("t2250000-n11.m4s", 11, 15_000, 4000),
            row("t2610000-n12.m4s", 12, 19_000, 1000)
        ]
    );
    let m = mpd("timeline-open-end.mpd");
    assert_eq!(
        listed(&m, 0, NEVER),
        [row("0.m4s", 1, 0, 2000), row("20.m4s", 2, 2000, 2000), row("40.m4s", 3, 4000, 2000)]
    );
    assert_eq!(
        listed(&m, 1, NEVER),
        [row("5.m4a", 40, 500, 4000), row("45.m4a", 41, 4500, 4000), row("85.m4a", 42, 8500, 4000)]
    );
}

#[test]
fn live_numbers_are_available_in_time() {
    let m = mpd("live-number.mpd");
    let r = &m.representations[0];
    let now = WallTime::from_unix_millis(START + 100_000);
    let numbers: Vec<_> = m.segments(r, now).iter().map(|s| s.number).collect();
    assert_eq!(numbers, [45, 46, 47, 48, 49]);
    let last = m.segments(r, now).pop().unwrap();
    assert_eq!(last.available_at, Some(WallTime::from_unix_millis(START + 98_500)));
    assert_eq!(m.next_available(r, 49), Some(WallTime::from_unix_millis(START + 100_500)));
    let at = WallTime::from_unix_millis(START + 100_500);
    assert_eq!(m.segments(r, at).pop().unwrap().number, 50);
    let just_before = WallTime::from_unix_millis(START + 100_499);
    assert_eq!(m.segments(r, just_before).pop().unwrap().number, 49);
    assert_eq!(m.segments(r, WallTime::from_unix_millis(START)), []);
    assert_eq!(m.minimum_update_period, Some(ms(2000)));
    assert_eq!(m.suggested_presentation_delay, Some(ms(6000)));
    assert_eq!(m.availability_start, Some(WallTime::from_unix_millis(START)));
    assert_eq!(m.utc_timing.len(), 4);
    assert_eq!(m.utc_timing[0].1, "https://time.example/now?x=1&y=2");

    let m = mpd("live-epoch.mpd");
    let now = WallTime::from_unix_millis(1_795_362_121_678);
    let numbers: Vec<_> = m.segments(&m.representations[0], now).iter().map(|s| s.number).collect();
    assert_eq!(numbers, (897_681_030..=897_681_059).collect::<Vec<_>>());
}

#[test]
fn live_timelines_go_on_until_now() {
    let m = mpd("live-timeline.mpd");
    let now = WallTime::from_unix_secs(1_795_362_015);
    let segments = m.segments(&m.representations[0], now);
    let last = segments.last().unwrap();
    let next = last.available_at.unwrap().unix_millis() + last.duration.as_millis() as u64;
    let told = m.next_available(&m.representations[0], last.number);
    assert_eq!(told, Some(WallTime::from_unix_millis(next)), "it goes by the clock");
    let times: Vec<_> =
        segments.iter().map(|s| (s.number, s.url.path().rsplit('/').next().unwrap())).collect();
    assert_eq!(
        times,
        [
            (500, "86177376000000.m4s"),
            (501, "86177376096000.m4s"),
            (502, "86177376192000.m4s"),
            (503, "86177376288000.m4s"),
            (504, "86177376384000.m4s"),
            (505, "86177376480000.m4s"),
            (506, "86177376576256.m4s")
        ]
    );
    assert_eq!(segments[0].available_at, Some(WallTime::from_unix_secs(1_795_362_002)));
    assert_eq!(segments[0].start, Duration::from_secs(1_795_362_000));
    assert_eq!(m.location.unwrap().as_str(), "https://cdn.example/a/b/video/index.m3u8?tok=T2&s=1");
}

#[test]
fn base_urls_at_every_level() {
    let m = mpd("base-urls.mpd");
    assert_eq!(urls(&m, 0)[0], "https://cdn.example/a/b/p1/set/one/1.m4s");
    assert_eq!(urls(&m, 1)[1], "https://far.example/deep/er/two/2.m4s");
    assert_eq!(urls(&m, 2)[0], "https://cdn.example/a/b/p1/set/1.m4s");
    assert_eq!(init(&m, 1), "https://cdn.example/a/b/init-two.mp4");
    assert_eq!(urls(&mpd("late-base.mpd"), 0)[0], "https://cdn.example/a/b/video/1.m4s");
    assert_eq!(init(&mpd("late-base.mpd"), 0), "https://cdn.example/a/b/video/x/deep/up.mp4");
    let text = testing::text("crlf-bom.mpd");
    assert_eq!(urls(&parse(&text), 0)[1], "https://cdn.example/a/b/video/2.m4s");
}

#[test]
fn what_a_list_names_counts_even_beyond_the_end_of_the_period() {
    let text = testing::text("segment-list.mpd").replace("PT9S", "PT5S");
    let m = Mpd::parse(text.as_bytes(), &testing::base()).unwrap();
    let names = ["s1.m4s", "s2.m4s?a=1&b=%222%22", "whole.mp4"];
    assert_eq!(listed(&m, 0, NEVER).iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), names);
}

#[test]
fn lists_and_single_files() {
    let m = mpd("segment-list.mpd");
    assert_eq!(
        listed(&m, 0, NEVER),
        [
            row("s1.m4s", 5, 0, 3000),
            row("s2.m4s?a=1&b=%222%22", 6, 3000, 3000),
            row("whole.mp4", 7, 6000, 3000)
        ]
    );
    let ranges: Vec<_> = m.segments(&m.representations[0], NEVER).iter().map(|s| s.range).collect();
    assert_eq!(ranges, [range(0, 999), None, range(2000, 2999)]);
    let (url, init_range) = m.init(&m.representations[0]).unwrap();
    assert_eq!((url.as_str(), init_range), ("https://cdn.example/a/b/video/init.mp4", range(0, 99)));
    assert_eq!(listed(&m, 1, NEVER), [row("a1", 1, 0, 4000), row("a2", 2, 4000, 5000)]);

    let m = mpd("segment-base.mpd");
    let Addressing::SingleFile { url, init_range, index_range } = &m.representations[0].addressing else {
        panic!("single file")
    };
    assert_eq!(url.as_str(), "https://cdn.example/a/b/video/v_0_100000.mp4");
    assert_eq!((*init_range, *index_range), (range(0, 699), range(700, 1411)));
    let types: Vec<_> = m.representations.iter().map(|r| r.content_type.as_str()).collect();
    assert_eq!(types, ["video", "text", "text"]);
    assert!(matches!(&m.representations[2].addressing,
        Addressing::SingleFile { url, .. } if url.as_str() == "https://cdn.example/a/b/subs/en.mp4?a=1&b=2"));
    assert_eq!(m.segments(&m.representations[0], NEVER), []);
}

#[test]
fn periods_follow_each_other() {
    let m = mpd("multi-period.mpd");
    let times: Vec<_> =
        m.representations.iter().map(|r| (r.period.as_str(), r.period_start, r.period_duration)).collect();
    assert_eq!(
        times,
        [
            ("first", ms(0), Some(ms(10_000))),
            ("ad", ms(10_000), Some(ms(15_000))),
            ("2", ms(25_000), Some(ms(35_000)))
        ]
    );
    assert_eq!(urls(&m, 0).len(), 2);
    assert_eq!(urls(&m, 1)[2], "https://ads.example/spot/3.m4s");
    let third = listed(&m, 2, NEVER);
    assert_eq!((third.len(), &third[6]), (7, &row("p3/27.m4s", 27, 55_000, 5000)));
}

#[test]
fn levels_inherit() {
    let m = mpd("inheritance.mpd");
    assert_eq!(listed(&m, 0, NEVER)[0], row("own-9.m4s", 9, 0, 2000));
    assert_eq!(listed(&m, 1, NEVER)[2], row("set-5.m4s", 5, 4000, 2000));
    assert_eq!(init(&m, 0), "https://cdn.example/a/b/video/period-r1.mp4");
    assert_eq!(m.representations[0].codecs.as_deref(), Some("avc1.64001f"));
    assert_eq!(m.representations[1].codecs.as_deref(), Some("hvc1.1.6.L93.B0"));
    assert!(matches!(&m.representations[2].addressing,
        Addressing::SingleFile { url, .. } if url.path() == "/a/b/video/r3.mp4"));
}

/// Each file of the corpus with the edits that a person would make.
#[test]
fn only_what_must_change_is_changed() {
    const CDN: &str = "https://cdn.example/a/b/";
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("vod-number.mpd", &[]),
        ("vod-timeline.mpd", &[]),
        ("drm.mpd", &[]),
        ("inheritance.mpd", &[]),
        (
            "live-number.mpd",
            &[
                ("https://time.example/now?x=1&amp;y=2", "../../../time"),
                ("https://time.example/iso", "../../../time"),
            ],
        ),
        (
            "live-timeline.mpd",
            &[
                ("https://cdn.example/a/b/video/index.m3u8", "index.m3u8"),
                ("https://cdn.example/a/b/video/patch", "patch"),
            ],
        ),
        (
            "base-urls.mpd",
            &[
                (">https://cdn.example/a/b/<", ">../<"),
                ("https://other.example/b/", "../../../https/other.example/b/"),
                ("https://cdn.example/a/b/init-", "/live/news/init-"),
                ("https://far.example/", "../../../../https/far.example/"),
            ],
        ),
        (
            "segment-list.mpd",
            &[
                ("https://cdn.example/a/b/video/init.mp4", "init.mp4"),
                ("https://cdn.example/a/b/video/s2.m4s?a=1&amp;b=\"2\"", "s2.m4s?a=1&amp;b=%222%22"),
                ("\"/abs.idx\"", "\"../../../https/cdn.example/abs.idx\""),
            ],
        ),
        (
            "segment-base.mpd",
            &[
                ("https://cdn.example/a/b/subs/en.vtt", "../subs/en.vtt"),
                ("<![CDATA[https://cdn.example/a/b/subs/en.mp4?a=1&b=2]]>", "../subs/en.mp4?a=1&amp;b=2"),
            ],
        ),
        ("multi-period.mpd", &[("https://cdn.example/a/b/video/p3/i.mp4", "p3/i.mp4")]),
        (
            "prefixed-namespace.mpd",
            &[
                ("https://cdn.example/a/b/period.xml?x=1&#38;y=2", "../period.xml?x=1&amp;y=2"),
                ("https://cdn.example/a/b/video/it", "it"),
            ],
        ),
        (
            "crlf-bom.mpd",
            &[
                ("\r\n    https://cdn.example/a/b/video/\r\n  ", "./"),
                ("https://cdn.example/a/b/video/$", "$"),
            ],
        ),
        (
            "late-base.mpd",
            &[("https://cdn.example/a/b/video/$", "../../../$"), ("https://cdn.example/a/b/video/x/", "x/")],
        ),
        (
            "events-and-steering.mpd",
            &[
                ("https://steer.example/", "../../../https/steer.example/"),
                ("https://cdn.example/a/b/events.xml", "../events.xml"),
                ("https://cdn.example/a/b/video/$", "$"),
                ("/bs.mp4", "../../../https/cdn.example/bs.mp4"),
            ],
        ),
        (
            "lone-ampersand.mpd",
            &[
                ("https://cdn.example/a/b/video/?a=1&b", "./?a=1&amp;b"),
                ("https://cdn.example/a/b/video/$Number$.m4s?a=1&b", "$Number$.m4s?a=1&amp;b"),
            ],
        ),
    ];
    for (name, replacements) in cases {
        let text = testing::text(name);
        let expected = replacements.iter().fold(text.clone(), |text, (from, to)| {
            assert!(text.contains(from), "{name}: {from}");
            text.replace(from, to)
        });
        assert_eq!(rewritten(&text), expected, "{name}");
    }
    assert!(rewritten(&testing::text("drm.mpd")).contains(CDN));
}

/// A player's view of the rewritten MPD: every URL is where the map sends the origin's.
fn check_player_view(name: &str, text: &str, after: &str, map: &dyn UrlMap, served: &str) {
    let now = WallTime::from_unix_secs(1_795_362_015);
    let home = Url::parse(&format!("http://home.example{served}")).unwrap();
    let origin = parse(text);
    let player = Mpd::parse(after.as_bytes(), &home).unwrap();
    assert_eq!(origin.representations.len(), player.representations.len());
    for (o, p) in origin.representations.iter().zip(&player.representations) {
        let all = |m: &Mpd, r: &Representation| -> Vec<Url> {
            let media = m.segments(r, now).into_iter().map(|s| s.url);
            let file = match &r.addressing {
                Addressing::SingleFile { url, .. } => Some(url.clone()),
                Addressing::Segments(_) => None,
            };
            media.chain(m.init(r).map(|i| i.0)).chain(file).collect()
        };
        let (o, p) = (all(&origin, o), all(&player, p));
        assert_eq!(o.len(), p.len(), "{name}");
        for (o, p) in o.iter().zip(&p) {
            let expected = map.to_local(o).map(|path| home.join(&path).unwrap());
            assert_eq!(p, expected.as_ref().unwrap_or(o), "{name}");
        }
    }
}

#[test]
fn players_arrive_where_the_map_says() {
    for (name, bytes) in testing::corpus("mpd") {
        let text = String::from_utf8(bytes).unwrap();
        let after = rewritten(&text);
        check_player_view(&name, &text, &after, &testing::map(), SERVED);
        let home = Url::parse(&format!("http://home.example{SERVED}")).unwrap();
        assert_eq!(rewrite(&after, &home, SERVED, &OwnMap, &options()).unwrap(), [], "{name} again");
    }
}

/// A redirect led elsewhere: then even relative references are rewritten, each once.
#[test]
fn a_base_elsewhere_is_regarded() {
    let base = Url::parse("https://edge.example/x/y/m.mpd").unwrap();
    let text = testing::text("vod-number.mpd");
    let edits = rewrite(&text, &base, SERVED, &testing::map(), &RewriteOptions::default()).unwrap();
    let up = "\"../../../https/edge.example/x/y/";
    let expected = text.replace("\"$Rep", &format!("{up}$Rep")).replace("\"a/", &format!("{up}a/"));
    assert_eq!(check_edits(&text, &edits), expected);
}

#[test]
fn the_time_shift_buffer_is_shortened_and_never_made_longer() {
    let with = |attributes: &str| {
        format!("\u{feff}<?xml version=\"1.0\"?>\n<d:MPD{attributes} type='dynamic'><Period/></d:MPD>")
    };
    let shortened = |attributes: &str| {
        let options = RewriteOptions {
            time_shift_buffer: Some(Duration::from_millis(12_345)),
            ..RewriteOptions::default()
        };
        let text = with(attributes);
        check_edits(&text, &rewrite(&text, &testing::base(), SERVED, &testing::map(), &options).unwrap())
    };
    let written = with(" timeShiftBufferDepth=\"PT12.345S\"");
    assert_eq!(shortened(""), written);
    assert_eq!(shortened(" timeShiftBufferDepth=\"PT1H\""), written);
    assert_eq!(shortened(" timeShiftBufferDepth=\"nonsense\""), written);
    let other = " x:timeShiftBufferDepth='PT1H' timeShiftBufferDepth='PT12S'";
    assert_eq!(shortened(other), with(other));
    for (name, bytes) in testing::corpus("mpd") {
        let text = String::from_utf8(bytes).unwrap();
        let options = RewriteOptions { time_shift_buffer: Some(Duration::ZERO), ..RewriteOptions::default() };
        let edits = rewrite(&text, &testing::base(), SERVED, &testing::map(), &options).unwrap();
        let after = Mpd::parse(check_edits(&text, &edits).as_bytes(), &testing::base());
        assert_eq!(after.unwrap().time_shift_buffer_depth, Some(Duration::ZERO), "{name}");
    }
}

#[test]
fn rewriting_twice_is_rewriting_once() {
    let map = ChannelMap::new("/o/", &Url::parse("https://cdn.example/").unwrap(), Arc::new(|_| false));
    let served = map.to_local(&testing::base()).unwrap();
    let mut changed = 0;
    for (name, bytes) in testing::corpus("mpd") {
        let text = String::from_utf8(bytes).unwrap();
        let once = rewrite(&text, &testing::base(), &served, &map, &options()).unwrap();
        changed += usize::from(!once.is_empty());
        let once = check_edits(&text, &once);
        let again = rewrite(&once, &testing::base(), &served, &map, &RewriteOptions::default()).unwrap();
        assert_eq!(again, [], "{name}");
    }
    assert!(changed > 8);
}

#[test]
fn what_is_refused() {
    let parse = |text: &str| Mpd::parse(text.as_bytes(), &testing::base()).unwrap_err();
    let both = |text: &str| {
        let of_rewrite = rewrite(text, &testing::base(), SERVED, &testing::map(), &options()).unwrap_err();
        assert_eq!(of_rewrite, parse(text));
        of_rewrite
    };
    assert_eq!(both(""), ManifestError::NotThat("MPD"));
    assert_eq!(both("<Patch/>"), ManifestError::NotThat("MPD"));
    assert_eq!(both("#EXTM3U\n"), ManifestError::NotThat("MPD"));
    let doctype = "<?xml version='1.0'?>\n<!DOCTYPE MPD [<!ENTITY a 'b'>]><MPD>&a;</MPD>";
    assert_eq!(both(doctype), ManifestError::Syntax { line: 2, what: "DOCTYPE".to_owned() });
    assert!(matches!(both("<MPD><Period></MPD>"), ManifestError::Syntax { .. }));
    assert!(matches!(both("<MPD><Period>"), ManifestError::Syntax { .. }));
    assert_eq!(both(&"<MPD>".repeat(40)), ManifestError::Limit("nesting"));
    assert!(matches!(Mpd::parse(b"<MPD>\xff</MPD>", &testing::base()), Err(ManifestError::NotUtf8(5))));
    assert_eq!(both(&" ".repeat(17 << 20)), ManifestError::Limit("MPD size"));
}

/// Small documents that would become huge.
#[test]
fn what_is_made_of_them_is_bounded() {
    let refused = |text: &str| {
        let of_rewrite = rewrite(text, &testing::base(), SERVED, &testing::map(), &options()).unwrap_err();
        (Mpd::parse(text.as_bytes(), &testing::base()).unwrap_err(), of_rewrite)
    };
    let same = |what| (ManifestError::Limit(what), ManifestError::Limit(what));
    let text = format!("<MPD><BaseURL>{}</BaseURL></MPD>", "x".repeat(10_000));
    assert_eq!(refused(&text), same("length of a base URL"));
    let text = format!("<MPD>{}</MPD>", "<Period/>".repeat(60_000));
    assert_eq!(refused(&text), same("Periods, AdaptationSets and Representations"));
    let long = "x".repeat(8000);
    let many = "<Representation id='a'><BaseURL>b/</BaseURL></Representation>".repeat(10_000);
    let text = format!(
        "<MPD><BaseURL>https://cdn.example/{long}/</BaseURL><Period id='{long}'><AdaptationSet>{many}</AdaptationSet></Period></MPD>"
    );
    let expected =
        (ManifestError::Limit("size of Representations"), ManifestError::Limit("size of base URLs"));
    assert_eq!(refused(&text), expected);
    let entries = "<S/>".repeat(600_000);
    let text = format!(
        "<MPD><Period><SegmentTemplate><SegmentTimeline>{entries}</SegmentTimeline></SegmentTemplate></Period></MPD>"
    );
    let too_many = Mpd::parse(text.as_bytes(), &testing::base()).unwrap_err();
    assert_eq!(too_many, ManifestError::Limit("S and SegmentURL elements"));
    let urls = "<SegmentURL media='a'/>".repeat(100_000);
    let text = format!(
        "<MPD><BaseURL>https://cdn.example/{long}/</BaseURL><Period><SegmentList>{urls}</SegmentList></Period></MPD>"
    );
    let too_long = rewrite(&text, &testing::base(), SERVED, &testing::map(), &options()).unwrap_err();
    assert_eq!(too_long, ManifestError::Limit("references"));

    let of = |attributes: &str, inside: &str| {
        parse(&format!(
            "<MPD type='dynamic'><BaseURL>https://cdn.example/{long}/</BaseURL><Period><AdaptationSet><SegmentTemplate \
             media='$Number$' {attributes}>{inside}</SegmentTemplate><Representation id='a'/></AdaptationSet></Period></MPD>"
        ))
    };
    let far = WallTime::from_unix_millis(u64::MAX);
    for (attributes, inside) in [
        ("duration='1' timescale='18446744073709551615'", ""),
        ("duration='1' availabilityTimeOffset='INF' endNumber='18446744073709551615'", ""),
        ("duration='18446744073709551615' startNumber='18446744073709551615'", ""),
        (
            "timescale='1'",
            "<SegmentTimeline><S t='18446744073709551615' d='18446744073709551615' r='9223372036854775807'/><S d='1' r='-1'/></SegmentTimeline>",
        ),
        (
            "presentationTimeOffset='18446744073709551615'",
            "<SegmentTimeline><S d='1' r='9223372036854775807'/><S d='0' r='-1'/><S d='1' n='18446744073709551615' r='5'/></SegmentTimeline>",
        ),
    ] {
        let m = of(attributes, inside);
        for now in [NEVER, far] {
            let bytes: usize =
                m.segments(&m.representations[0], now).iter().map(|s| s.url.as_str().len()).sum();
            assert!(bytes <= 64 << 20, "{attributes}");
        }
        let _ = m.next_available(&m.representations[0], u64::MAX);
        let _ = m.next_available(&m.representations[0], u64::MAX - 1);
    }
}

/// Attributes without end take linear time: this would not finish if they were compared with each other.
#[test]
fn many_attributes_are_no_burden() {
    let attributes: String = (0..500_000).map(|i| format!(" a{i}='1'")).collect();
    let m = parse(&format!("<MPD{attributes}><Period/></MPD>"));
    assert_eq!(m.representations, []);
}

/// dash-mpd-core agrees on what it keeps.
#[test]
fn a_second_opinion() {
    for name in
        ["vod-timeline.mpd", "live-number.mpd", "inheritance.mpd", "multi-period.mpd", "base-urls.mpd"]
    {
        let theirs = dash_mpd_core::parse(&testing::text(name)).unwrap();
        let ours = mpd(name);
        let mut index = 0;
        for period in &theirs.periods {
            for set in &period.adaptations {
                for representation in &set.representations {
                    let r = &ours.representations[index];
                    assert_eq!(representation.id.as_deref(), Some(r.id.as_str()), "{name}");
                    assert_eq!(representation.bandwidth, Some(r.bandwidth), "{name}");
                    let template = representation.SegmentTemplate.as_ref().or(set.SegmentTemplate.as_ref());
                    if let Some(timeline) = template.and_then(|t| t.SegmentTimeline.as_ref()) {
                        let entries: Vec<_> = timeline.segments.iter().map(|s| (s.t, s.d, s.r)).collect();
                        assert_eq!(entries.len(), 4, "{name}");
                        assert_eq!(entries[0], (Some(900_000), 360_000, Some(1)));
                    }
                    index += 1;
                }
            }
        }
        assert_eq!(index, ours.representations.len(), "{name}");
        assert_eq!(theirs.mediaPresentationDuration, ours.media_presentation_duration, "{name}");
        assert_eq!(theirs.timeShiftBufferDepth, ours.time_shift_buffer_depth, "{name}");
    }
}

fn check_any(text: &str) {
    let now = WallTime::from_unix_secs(1_795_362_015);
    if let Ok(mpd) = Mpd::parse(text.as_bytes(), &testing::base()) {
        for representation in mpd.representations.iter().take(8) {
            let segments = mpd.segments(representation, now);
            assert!(segments.len() <= crate::limits::MPD_SEGMENTS);
            let _ = (mpd.init(representation), mpd.next_available(representation, 7));
        }
    }
    if let Ok(edits) = rewrite(text, &testing::base(), SERVED, &testing::map(), &options()) {
        let after = check_edits(text, &edits);
        let again = Mpd::parse(after.as_bytes(), &testing::base());
        assert_eq!(again.is_ok(), Mpd::parse(text.as_bytes(), &testing::base()).is_ok(), "{after}");
    }
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "\\PC{0,100}") {
        check_any(&text);
        check_any(&format!("<MPD {text}/>"));
        check_any(&format!("<MPD><BaseURL>{text}</BaseURL><Period/></MPD>"));
    }

    #[test]
    fn mutations_of_the_corpus_are_survived(
        which: proptest::sample::Index,
        cuts in proptest::collection::vec(
            (any::<proptest::sample::Index>(), 0usize..6, "\\PC{0,3}|[\"'<>&;=/$%0-9-]{1,20}|-1|99999999999999999999"), 1..6),
    ) {
        let corpus = testing::corpus("mpd");
        let mut bytes = which.get(&corpus).1.clone();
        for (at, length, with) in cuts {
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, with.into_bytes());
        }
        check_any(&String::from_utf8_lossy(&bytes));
    }
}
