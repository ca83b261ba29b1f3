//! MPDs against a scripted origin: what is complete, and what grows by the clock or by the list.

use crate::support::{ListSink, Reply, ScriptedOrigin, origin};
use mahp_common::WallTime;
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::Fetcher;
use mahp_sender::cli::Cli;
use mahp_sender::config::{ChannelConfig, ChannelSettings, resolve};
use mahp_sender::origin::dash_live;
use mahp_sender::origin::dash_mpd::MpdFollower;
use mahp_sender::origin::discover::{Found, What, discover};
use mahp_sender::origin::vod::{Source, Timeline, carry};
use mahp_sender::spool::Spool;
use mahp_sender::status::RenditionStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

fn channel(o: &ScriptedOrigin, path: &str, renditions: &[&str]) -> ChannelConfig {
    let renditions = renditions.iter().map(|r| (*r).to_owned()).collect();
    let settings = ChannelSettings { renditions: Some(renditions), ..Default::default() };
    let cli = Cli { urls: vec![o.url(path).to_string()], channel: settings, ..Cli::default() };
    resolve(cli).expect("valid").channels.remove(0)
}

async fn found(o: &ScriptedOrigin, path: &str, renditions: &[&str]) -> Found {
    discover(&Fetcher::new("test"), Clock::new(), &channel(o, path, renditions)).await.expect("an MPD")
}

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

/// Carries one rendition of a static MPD once; returns its paths.
async fn carried(found: &Found, id: &str) -> (Vec<String>, ListSink) {
    let sink = ListSink::default();
    let (origin, _) = origin();
    let (version, ladder) = found.mpd.clone().expect("an MPD");
    let rendition = found.renditions.iter().find(|r| r.id == id).unwrap_or_else(|| panic!("no {id}"));
    let What::Dash(rung) = rendition.what else { panic!("DASH") };
    let timeline = Timeline {
        start: origin.clock.now(),
        speed: 100.0,
        duration: Duration::from_secs(10),
        repeat: false,
    };
    let source = Source::Dash(version.mpd, ladder, rung);
    carry(origin, Arc::new(sink.clone()), Spool::new(0), source, 1_000_000, timeline).await;
    (sink.paths(), sink)
}

#[tokio::test]
async fn static_mpd_is_carried_in_order_over_its_periods() {
    let o = ScriptedOrigin::start().await;
    o.set(
        "/v/clip.mpd",
        Reply::ok(
            r#"<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT8S" profiles="x" minBufferTime="PT2S">
<Period id="a" duration="PT4S"><AdaptationSet contentType="video" mimeType="video/mp4">
 <SegmentTemplate timescale="1" duration="2" startNumber="1" initialization="$RepresentationID$/init.mp4" media="$RepresentationID$/$Number%03d$.m4s"/>
 <Representation id="v1" bandwidth="500000" width="640" height="360"/><Representation id="v2" bandwidth="1500000" width="1280" height="720"/>
</AdaptationSet><AdaptationSet contentType="audio" lang="en" mimeType="audio/mp4">
 <SegmentTemplate timescale="10" initialization="audio-init.mp4" media="audio-$Time$.m4s"><SegmentTimeline><S t="0" d="20" r="1"/></SegmentTimeline></SegmentTemplate>
 <Representation id="a1" bandwidth="96000"/></AdaptationSet></Period>
<Period id="ad" duration="PT4S"><AdaptationSet contentType="video" mimeType="video/mp4">
 <Representation id="other" bandwidth="1400000"><SegmentList duration="4" timescale="1"><Initialization sourceURL="ad-init.mp4"/><SegmentURL media="ad.mp4" mediaRange="100-299"/></SegmentList></Representation>
</AdaptationSet></Period></MPD>"#,
        ),
    );
    for path in [
        "v1/init.mp4",
        "v1/001.m4s",
        "v1/002.m4s",
        "v2/init.mp4",
        "v2/001.m4s",
        "v2/002.m4s",
        "audio-init.mp4",
        "audio-0.m4s",
        "audio-20.m4s",
        "ad-init.mp4",
    ] {
        o.set(&format!("/v/{path}"), Reply::ok(path));
    }
    o.set("/v/ad.mp4", Reply::ok(vec![5; 300]));
    let found = found(&o, "/v/clip.mpd", &[]).await;
    assert!(!found.live);
    let ids: Vec<&str> = found.renditions.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids, ["640x360", "1280x720", "audio-en"]);
    assert_eq!(found.prefixes, [o.url("/v/").to_string()]);
    let (paths, sink) = carried(&found, "1280x720").await;
    let expected =
        ["/v/v2/init.mp4", "/v/ad-init.mp4", "/v/v2/001.m4s", "/v/v2/002.m4s", "/v/ad.mp4#100-299"];
    assert_eq!(paths, list(&expected), "the advertisement is on the nearest rung");
    assert_eq!(sink.items()[4].object.meta.media_time, Some(Duration::from_secs(4)));
    let (paths, _) = carried(&found, "640x360").await;
    assert_eq!(paths, list(&["/v/v1/init.mp4", "/v/v1/001.m4s", "/v/v1/002.m4s"]));
    let (paths, _) = carried(&found, "audio-en").await;
    assert_eq!(paths, list(&["/v/audio-init.mp4", "/v/audio-0.m4s", "/v/audio-20.m4s"]));
}

#[tokio::test]
async fn single_file_is_carried_in_blocks() {
    let o = ScriptedOrigin::start().await;
    o.set(
        "/f/one.mpd",
        Reply::ok(
            r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT10S"><Period><AdaptationSet contentType="video" mimeType="video/mp4">
<Representation id="v" bandwidth="2000000"><BaseURL>film.mp4</BaseURL><SegmentBase indexRange="800-1200"><Initialization range="0-799"/></SegmentBase></Representation></AdaptationSet></Period></MPD>"#,
        ),
    );
    let film: Vec<u8> = (0..2_500_000u32).map(|i| (i % 251) as u8).collect();
    o.set("/f/film.mp4", Reply::ok(film.clone()));
    let found = found(&o, "/f/one.mpd", &[]).await;
    let (paths, sink) = carried(&found, "video-v").await;
    assert_eq!(
        paths,
        list(&[
            "/f/film.mp4#0-1200",
            "/f/film.mp4#1201-1049776",
            "/f/film.mp4#1049777-2098352",
            "/f/film.mp4#2098353-2499999"
        ])
    );
    let bytes: Vec<u8> = sink.items().iter().flat_map(|i| i.object.data.to_vec()).collect();
    assert!(bytes == film);
    assert!(sink.items().iter().all(|i| i.object.meta.range.and_then(|r| r.complete) == Some(2_500_000)));
}

/// Tasks of a live channel with one rendition.
struct Live {
    mpd: ListSink,
    media: ListSink,
    status: Arc<RenditionStatus>,
    /// Counters of the MPD.
    left_out: Arc<RenditionStatus>,
    tasks: JoinSet<()>,
}

async fn live(o: &ScriptedOrigin, path: &str) -> Live {
    let found = found(o, path, &["video"]).await;
    assert!(found.live);
    let (first, ladder) = found.mpd.expect("an MPD");
    let (mpd, media) = (ListSink::default(), ListSink::default());
    let (mpd_origin, left_out) = origin();
    let (media_origin, status) = origin();
    let (done, progress) = watch::channel(0);
    let (follower, feed) =
        MpdFollower::new(mpd_origin, Arc::new(mpd.clone()), o.url(path), first, vec![progress]);
    let follower = follower.watching(ladder.clone(), vec!["video".into()]);
    let mut tasks = JoinSet::new();
    tasks.spawn(dash_live::follow(media_origin, Arc::new(media.clone()), feed, ladder, 0, false, done));
    tasks.spawn(follower.run());
    Live { mpd, media, status, left_out, tasks }
}

fn iso(t: WallTime) -> String {
    let seconds = t.unix_secs();
    let date = httpdate_date(seconds);
    format!(
        "{date}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        t.unix_millis() % 1000
    )
}

/// `2026-11-22` of Unix seconds: by search, as this is a test.
fn httpdate_date(seconds: u64) -> String {
    (2020..2100)
        .flat_map(|y| (1..=12).flat_map(move |m| (1..=31).map(move |d| format!("{y}-{m:02}-{d:02}"))))
        .find(|date| {
            let start =
                mahp_sender::origin::utc::parse_iso(&format!("{date}T00:00:00Z")).map(WallTime::unix_secs);
            start.is_some_and(|s| s / 86_400 == seconds / 86_400)
        })
        .expect("a date")
}

fn minus(t: WallTime, d: Duration) -> WallTime {
    WallTime::from_unix_millis(t.unix_millis() - u64::try_from(d.as_millis()).expect("small"))
}

fn number_mpd(start: WallTime, more: &str) -> String {
    format!(
        r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic" availabilityStartTime="{}" minimumUpdatePeriod="PT30S" timeShiftBufferDepth="PT20S">{more}
<Period id="p" start="PT0S"><AdaptationSet contentType="video" mimeType="video/mp4">
<SegmentTemplate timescale="1" duration="1" startNumber="0" initialization="init.mp4" media="n$Number$.m4s"/><Representation id="v" bandwidth="500000"/></AdaptationSet></Period></MPD>"#,
        iso(start)
    )
}

#[tokio::test]
async fn numbers_are_followed_by_the_clock() {
    let o = ScriptedOrigin::start().await;
    // The origin's clock is an hour behind ours.
    let theirs = minus(Clock::new().wall(), Duration::from_secs(3600));
    let timing =
        format!(r#"<UTCTiming schemeIdUri="urn:mpeg:dash:utc:http-iso:2014" value="{}"/>"#, o.url("/time"));
    o.set("/time", Reply::ok(iso(theirs)));
    o.set("/n/live.mpd", Reply::ok(number_mpd(minus(theirs, Duration::from_secs(10)), &timing)));
    o.set("/n/init.mp4", Reply::ok("init"));
    for n in 0..60 {
        o.set(&format!("/n/n{n}.m4s"), Reply::ok(format!("segment {n}")));
    }
    let live = live(&o, "/n/live.mpd").await;
    live.media.wait("the start and three more", |s| s.media().len() >= 7).await;
    let media = live.media.media();
    assert_eq!(media[0], "/n/init.mp4");
    let numbers: Vec<u64> = media[1..].iter().map(|p| p[4..p.len() - 4].parse().expect("a number")).collect();
    assert!((7..=9).contains(&numbers[0]), "near the edge of the origin's clock: {numbers:?}");
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "each once, in order: {numbers:?}");
    assert_eq!(live.mpd.paths(), list(&["/n/live.mpd"]), "one version, sent once");
}

#[tokio::test]
async fn number_that_is_late_at_the_origin_is_tried_again() {
    let o = ScriptedOrigin::start().await;
    let start = minus(Clock::new().wall(), Duration::from_secs(10));
    o.set("/n/live.mpd", Reply::ok(number_mpd(start, "")));
    o.set("/n/init.mp4", Reply::ok("init"));
    for n in 0..60 {
        let there = Reply::ok(format!("segment {n}"));
        o.sequence(&format!("/n/n{n}.m4s"), vec![Reply::status(404), there]);
    }
    let live = live(&o, "/n/live.mpd").await;
    live.media.wait("five segments", |s| s.media().len() >= 6).await;
    let media = live.media.media();
    let mut sorted = media[1..].to_vec();
    sorted.sort_by_key(|p| p[4..p.len() - 4].parse::<u64>().expect("a number"));
    assert_eq!(media[1..], sorted[..], "a moment's lateness keeps the order");
    assert_eq!(live.status.failed.load(Relaxed), 0);
}

fn timeline_mpd(kind: &str, start: &str, first: u64, count: u64, more: &str) -> String {
    format!(
        r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="{kind}" availabilityStartTime="{start}" minimumUpdatePeriod="PT0.5S" timeShiftBufferDepth="PT20S">{more}
<Period id="p" start="PT0S"><AdaptationSet contentType="video" mimeType="video/mp4">
<SegmentTemplate timescale="1" initialization="init.mp4" media="t$Time$.m4s"><SegmentTimeline><S t="{first}" d="1" r="{}"/></SegmentTimeline></SegmentTemplate><Representation id="v" bandwidth="500000"/></AdaptationSet></Period></MPD>"#,
        count - 1
    )
}

fn timeline_origin(o: &ScriptedOrigin) {
    o.set("/t/init.mp4", Reply::ok("init"));
    for n in 0..60 {
        o.set(&format!("/t/t{n}.m4s"), Reply::ok(format!("segment {n}")));
    }
}

const LONG_AGO: &str = "2024-01-01T00:00:00Z";

#[tokio::test]
async fn timeline_is_followed_by_the_list_until_the_end() {
    let o = ScriptedOrigin::start().await;
    timeline_origin(&o);
    o.set("/t/live.mpd", Reply::ok(timeline_mpd("dynamic", LONG_AGO, 0, 6, "")));
    let mut live = live(&o, "/t/live.mpd").await;
    live.media.wait("the start", |s| s.media().len() == 4).await;
    o.set("/t/live.mpd", Reply::ok(timeline_mpd("dynamic", LONG_AGO, 3, 5, "")));
    live.media.wait("two more", |s| s.media().len() == 6).await;
    live.mpd.wait("the second version", |s| s.paths().len() == 2).await;
    o.set("/t/live.mpd", Reply::ok(timeline_mpd("static", LONG_AGO, 3, 6, "")));
    while let Some(ended) = live.tasks.join_next().await {
        ended.expect("no panic");
    }
    let expected =
        ["/t/init.mp4", "/t/t3.m4s", "/t/t4.m4s", "/t/t5.m4s", "/t/t6.m4s", "/t/t7.m4s", "/t/t8.m4s"];
    assert_eq!(live.media.media(), list(&expected));
    assert_eq!(live.mpd.paths().len(), 3, "each version once");
    for n in 3..=8 {
        assert_eq!(o.count(&format!("/t/t{n}.m4s")), 1, "segment {n}");
    }
}

#[tokio::test]
async fn version_waits_for_its_segments() {
    let o = ScriptedOrigin::start().await;
    timeline_origin(&o);
    o.set("/t/live.mpd", Reply::ok(timeline_mpd("dynamic", LONG_AGO, 0, 3, "")));
    let live = live(&o, "/t/live.mpd").await;
    live.media.wait("the start", |s| s.media().len() == 4).await;
    o.set("/t/t3.m4s", Reply::ok("segment 3").after(Duration::from_millis(700)));
    o.set("/t/live.mpd", Reply::ok(timeline_mpd("dynamic", LONG_AGO, 0, 4, "")));
    live.mpd.wait("the second version", |s| s.paths().len() == 2).await;
    assert_eq!(live.media.media().len(), 5, "its segment was there first");
}

#[tokio::test]
async fn location_and_a_new_beginning() {
    let o = ScriptedOrigin::start().await;
    timeline_origin(&o);
    let location = format!("<Location>{}</Location>", o.url("/t/session-7.mpd"));
    o.set("/t/live.mpd", Reply::ok(timeline_mpd("dynamic", LONG_AGO, 0, 3, &location)));
    o.set("/t/session-7.mpd", Reply::ok(timeline_mpd("dynamic", LONG_AGO, 0, 3, &location)));
    let live = live(&o, "/t/live.mpd").await;
    live.media.wait("the start", |s| s.media().len() == 4).await;
    live.mpd.wait("both addresses", |s| s.paths().len() == 2).await;
    assert_eq!(live.mpd.paths(), list(&["/t/live.mpd", "/t/session-7.mpd"]));
    // The same names mean other media after a restart.
    o.set("/t/session-7.mpd", Reply::ok(timeline_mpd("dynamic", "2025-01-01T00:00:00Z", 0, 2, "")));
    live.media.wait("the restart", |s| s.media().len() == 7).await;
    assert_eq!(live.media.media()[4..], list(&["/t/init.mp4", "/t/t0.m4s", "/t/t1.m4s"])[..]);
    assert!(o.count("/t/session-7.mpd") > 0);
}

#[tokio::test]
async fn a_timeline_without_an_end_goes_with_the_period_and_the_clock() {
    let mpd = |kind: &str, attributes: &str| {
        format!(
            r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="{kind}" {attributes}><Period id="p" start="PT0S">
<AdaptationSet contentType="video" mimeType="video/mp4"><SegmentTemplate timescale="1" initialization="init.mp4" media="t$Time$.m4s">
<SegmentTimeline><S t="0" d="1" r="-1"/></SegmentTimeline></SegmentTemplate><Representation id="v" bandwidth="500000"/></AdaptationSet></Period></MPD>"#
        )
    };
    let o = ScriptedOrigin::start().await;
    timeline_origin(&o);
    o.set("/t/film.mpd", Reply::ok(mpd("static", r#"mediaPresentationDuration="PT4S""#)));
    let (paths, _) = carried(&found(&o, "/t/film.mpd", &[]).await, "video-v").await;
    assert_eq!(paths, list(&["/t/init.mp4", "/t/t0.m4s", "/t/t1.m4s", "/t/t2.m4s", "/t/t3.m4s"]));

    let start = iso(minus(Clock::new().wall(), Duration::from_secs(10)));
    // Players stay so far behind the edge; what is carried does not.
    let attributes = format!(
        r#"availabilityStartTime="{start}" minimumUpdatePeriod="PT30S" timeShiftBufferDepth="PT8S" suggestedPresentationDelay="PT6S""#
    );
    let text = mpd("dynamic", &attributes);
    o.set("/t/live.mpd", Reply::ok(text.clone()));
    let live = live(&o, "/t/live.mpd").await;
    live.media.wait("the start and three more", |s| s.media().len() >= 7).await;
    let media = live.media.media();
    let numbers: Vec<u64> = media[1..].iter().map(|p| p[4..p.len() - 4].parse().expect("a number")).collect();
    assert!((7..=9).contains(&numbers[0]), "near the edge: {numbers:?}");
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "each once, in order: {numbers:?}");
    assert!(live.mpd.items()[0].object.data.as_ref() == text.as_bytes(), "byte for byte");
}

/// One Period: `id`, its attributes, video of these bandwidths whose ids begin with `name`, and more AdaptationSets.
fn period(attributes: &str, name: &str, bandwidths: &[u32], more: &str) -> String {
    let video = |b: &u32| {
        format!(r#"<Representation id="{name}{b}" bandwidth="{b}" height="{}" width="16"/>"#, b / 1000)
    };
    let video: String = bandwidths.iter().map(video).collect();
    format!(
        r#"<Period {attributes}><AdaptationSet contentType="video" mimeType="video/mp4"><SegmentTemplate timescale="1" duration="2" startNumber="1" initialization="$RepresentationID$-init.mp4" media="$RepresentationID$-$Number$.m4s"/>{video}</AdaptationSet>{more}</Period>"#
    )
}

const RUNGS: [u32; 4] = [400_000, 900_000, 2_000_000, 4_000_000];
const OTHERS: &str = r#"<AdaptationSet contentType="audio" lang="en" mimeType="audio/mp4"><SegmentTemplate timescale="1" duration="2" startNumber="1" media="$RepresentationID$-$Number$.m4s"/><Representation id="a" bandwidth="96000"/></AdaptationSet>
<AdaptationSet contentType="text" lang="en" mimeType="application/mp4"><SegmentTemplate timescale="1" duration="2" startNumber="1" media="$RepresentationID$-$Number$.m4s"/><Representation id="t" bandwidth="1000"/></AdaptationSet>"#;

const ALL_RUNGS: [&str; 6] = ["16x400", "16x900", "16x2000", "16x4000", "audio-en", "text-en"];

fn ids(found: &Found) -> Vec<&str> {
    found.renditions.iter().map(|r| r.id.as_str()).collect()
}

#[tokio::test]
async fn an_advertisement_before_the_film_takes_nothing_from_it() {
    let o = ScriptedOrigin::start().await;
    let ad = period(r#"id="ad" duration="PT4S""#, "ad", &[1_000_000], "");
    let film = period(r#"id="film" duration="PT4S""#, "v", &RUNGS, OTHERS);
    let head =
        r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT8S">"#;
    o.set("/p/film.mpd", Reply::ok(format!("{head}{ad}{film}</MPD>")));
    for name in ["ad1000000", "v400000", "v900000", "v2000000", "v4000000", "a", "t"] {
        for part in ["init.mp4", "1.m4s", "2.m4s"] {
            o.set(&format!("/p/{name}-{part}"), Reply::ok(format!("{name} {part}")));
        }
    }
    let found = found(&o, "/p/film.mpd", &[]).await;
    assert_eq!(ids(&found), ALL_RUNGS);
    let of = |name: &str, parts: &[&str]| parts.iter().map(|p| format!("/p/{name}-{p}")).collect::<Vec<_>>();
    let all = ["init.mp4", "1.m4s", "2.m4s"];
    for (id, name) in [("16x400", "v400000"), ("16x2000", "v2000000"), ("16x4000", "v4000000")] {
        assert_eq!(carried(&found, id).await.0, of(name, &all), "{id}");
    }
    let mut both = of("ad1000000", &all);
    both.insert(1, "/p/v900000-init.mp4".into());
    both.extend(of("v900000", &all[1..]));
    assert_eq!(carried(&found, "16x900").await.0, both, "the advertisement is on the nearest rung");
    assert_eq!(carried(&found, "audio-en").await.0, of("a", &all[1..]));
    assert_eq!(carried(&found, "text-en").await.0, of("t", &all[1..]));
    let high = found.renditions.iter().find(|r| r.id == "16x900").expect("there");
    assert_eq!((high.bitrate_bps, high.url_patterns.len()), (1_000_000, 2));
}

#[tokio::test]
async fn a_period_that_is_announced_takes_nothing_from_the_one_that_is_on_and_begins_in_time() {
    let o = ScriptedOrigin::start().await;
    let now = Clock::new().wall();
    let (started, on) = (minus(now, Duration::from_secs(100)), 103);
    let head = format!(
        r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic" availabilityStartTime="{}" minimumUpdatePeriod="PT30S" timeShiftBufferDepth="PT20S">"#,
        iso(started)
    );
    let film = period(r#"id="film" start="PT0S""#, "v", &RUNGS, OTHERS);
    let ad = period(&format!(r#"id="ad" start="PT{on}S""#), "ad", &[300_000], "");
    o.set("/p/live.mpd", Reply::ok(format!("{head}{film}{ad}</MPD>")));
    for name in RUNGS.map(|b| format!("v{b}")).iter().chain([&"ad300000".to_owned()]) {
        o.set(&format!("/p/{name}-init.mp4"), Reply::ok("init"));
        (1..70).for_each(|n| o.set(&format!("/p/{name}-{n}.m4s"), Reply::ok(format!("{name} {n}"))));
    }
    let found = found(&o, "/p/live.mpd", &[]).await;
    assert_eq!(ids(&found), ALL_RUNGS);
    let live = live(&o, "/p/live.mpd").await;
    live.media.wait("the announced Period", |s| s.media().iter().any(|p| p == "/p/ad300000-2.m4s")).await;
    let media = live.media.media();
    assert!(media.iter().all(|p| p.starts_with("/p/v400000-") || p.starts_with("/p/ad300000-")), "{media:?}");
    let unique: std::collections::BTreeSet<&String> = media.iter().collect();
    assert_eq!(unique.len(), media.len(), "each once: {media:?}");
    assert!(media.contains(&"/p/v400000-51.m4s".to_owned()), "up to the end of the Period: {media:?}");
}

#[tokio::test]
async fn what_comes_after_the_start_and_fits_nowhere_is_told() {
    let o = ScriptedOrigin::start().await;
    timeline_origin(&o);
    o.set("/t/live.mpd", Reply::ok(timeline_mpd("dynamic", LONG_AGO, 0, 3, "")));
    let live = live(&o, "/t/live.mpd").await;
    live.media.wait("the start", |s| s.media().len() == 4).await;
    let audio = r#"</AdaptationSet><AdaptationSet contentType="audio" mimeType="audio/mp4"><Representation id="a" bandwidth="9"/><Representation id="v" bandwidth="9"/></AdaptationSet></Period>"#;
    let text = timeline_mpd("dynamic", LONG_AGO, 0, 4, "").replace("</AdaptationSet></Period>", audio);
    o.set("/t/live.mpd", Reply::ok(text));
    live.mpd.wait("the second version", |s| s.paths().len() == 2).await;
    // What the filter of the channel (video) leaves out is not missed.
    assert_eq!(live.left_out.not_carried(), Vec::<String>::new());
    let video = r#"<Representation id="w" bandwidth="900000"/></AdaptationSet></Period>"#;
    o.set(
        "/t/live.mpd",
        Reply::ok(timeline_mpd("dynamic", LONG_AGO, 0, 5, "").replace("</AdaptationSet></Period>", video)),
    );
    live.mpd.wait("the third version", |s| s.paths().len() == 3).await;
    assert_eq!(live.left_out.not_carried(), ["video w"]);
}

#[tokio::test]
async fn a_file_of_an_origin_without_ranges_is_fetched_once() {
    let o = ScriptedOrigin::start().await;
    o.set(
        "/f/one.mpd",
        Reply::ok(
            r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT10S"><Period><AdaptationSet contentType="video" mimeType="video/mp4">
<Representation id="v" bandwidth="2000000"><BaseURL>film.mp4</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"#,
        ),
    );
    let film: Vec<u8> = (0..3_500_000u32).map(|i| (i % 251) as u8).collect();
    o.set("/f/film.mp4", Reply { ranges: false, ..Reply::ok(film.clone()) });
    let found = found(&o, "/f/one.mpd", &[]).await;
    let (paths, sink) = carried(&found, "video-v").await;
    assert_eq!(paths.len(), 4);
    let bytes: Vec<u8> = sink.items().iter().flat_map(|i| i.object.data.to_vec()).collect();
    assert!(bytes == film);
    assert_eq!(o.count("/f/film.mp4"), 1);
}

#[tokio::test]
async fn an_advertisement_in_one_file_goes_out_before_it_is_on_where_there_is_room() {
    let o = ScriptedOrigin::start().await;
    // The film ends, and an advertisement of 20 s begins, in 9 s; it may leave 8 s before.
    let started = minus(Clock::new().wall(), Duration::from_secs(91));
    let head = format!(
        r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic" availabilityStartTime="{}" minimumUpdatePeriod="PT30S" timeShiftBufferDepth="PT20S">"#,
        iso(started)
    );
    let film = period(r#"id="film" start="PT0S""#, "v", &[400_000], "");
    let file = |name: &str, start: u32| {
        format!(
            r#"<Period id="{name}" start="PT{start}S" duration="PT20S"><AdaptationSet contentType="video" mimeType="video/mp4"><Representation id="{name}" bandwidth="1000000"><BaseURL>{name}.mp4</BaseURL><SegmentBase indexRange="800-1200"><Initialization range="0-799"/></SegmentBase></Representation></AdaptationSet></Period>"#
        )
    };
    o.set("/p/live.mpd", Reply::ok(format!("{head}{film}{}{}</MPD>", file("ad", 100), file("next", 120))));
    o.set("/p/v400000-init.mp4", Reply::ok("init"));
    (1..70).for_each(|n| o.set(&format!("/p/v400000-{n}.m4s"), Reply::ok(format!("v {n}"))));
    let bytes: Vec<u8> = (0..2_500_000u32).map(|i| (i % 251) as u8).collect();
    o.set("/p/ad.mp4", Reply::ok(bytes.clone()));
    let live = live(&o, "/p/live.mpd").await;
    live.media.wait("the film's end", |s| s.media().contains(&"/p/v400000-50.m4s".to_owned())).await;
    let paths = live.media.paths();
    let expected = [
        "/p/ad.mp4#0-1200",
        "/p/ad.mp4#1201-1049776",
        "/p/ad.mp4#1049777-2098352",
        "/p/ad.mp4#2098353-2499999",
    ];
    let of_ad: Vec<String> = live.media.media().into_iter().filter(|p| p.contains("ad.mp4#1")).collect();
    assert_eq!(of_ad, list(&expected[1..3]), "each once, in order");
    let at =
        |path: &str| paths.iter().position(|p| p == path).unwrap_or_else(|| panic!("no {path} in {paths:?}"));
    expected.windows(2).for_each(|pair| assert!(at(pair[0]) < at(pair[1]), "its header first: {paths:?}"));
    assert!(at(expected[3]) < at("/p/v400000-49.m4s"), "before the film's end: {paths:?}");
    assert_eq!(o.count("/p/next.mp4"), 0, "what begins later is not asked for");
    assert_eq!(live.left_out.not_carried(), Vec::<String>::new());
}

#[tokio::test]
async fn of_an_advertisement_that_is_on_what_was_played_is_not_begun_with() {
    let o = ScriptedOrigin::start().await;
    let started = minus(Clock::new().wall(), Duration::from_secs(50));
    let mpd = format!(
        r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic" availabilityStartTime="{}" minimumUpdatePeriod="PT30S"><Period start="PT0S" duration="PT100S"><AdaptationSet contentType="video" mimeType="video/mp4"><Representation id="v" bandwidth="400000"><BaseURL>ad.mp4</BaseURL><SegmentBase indexRange="800-1200"/></Representation></AdaptationSet></Period></MPD>"#,
        iso(started)
    );
    o.set("/p/live.mpd", Reply::ok(mpd));
    o.set("/p/ad.mp4", Reply::ok(vec![7; 5_000_000]));
    let live = live(&o, "/p/live.mpd").await;
    live.media.wait("the file's end", |s| s.paths().contains(&"/p/ad.mp4#4195505-4999999".to_owned())).await;
    // 35 s were played: 1.75 MB, one block.
    let expected = ["/p/ad.mp4#0-1200", "/p/ad.mp4#1049777-2098352", "/p/ad.mp4#2098353-3146928"];
    assert_eq!(live.media.paths()[..3], list(&expected));
}

#[tokio::test]
async fn blocks_that_had_no_room_before_the_mpd_dropped_them_are_counted() {
    let o = ScriptedOrigin::start().await;
    let started = minus(Clock::new().wall(), Duration::from_secs(5));
    let mpd = |period: &str| {
        format!(
            r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic" availabilityStartTime="{}" minimumUpdatePeriod="PT1S">{period}</MPD>"#,
            iso(started)
        )
    };
    let ad = r#"<Period start="PT0S" duration="PT100S"><AdaptationSet contentType="video" mimeType="video/mp4"><Representation id="v" bandwidth="400000"><BaseURL>ad.mp4</BaseURL><SegmentBase indexRange="800-1200"/></Representation></AdaptationSet></Period>"#;
    o.set("/p/live.mpd", Reply::ok(mpd(ad)));
    // Each block takes a second: most of the eight wait.
    o.set("/p/ad.mp4", Reply { delay: Duration::from_secs(1), ..Reply::ok(vec![7; 8_000_000]) });
    let live = live(&o, "/p/live.mpd").await;
    live.media.wait("the first block", |s| s.paths().iter().any(|p| p.starts_with("/p/ad.mp4#1201-"))).await;
    (1..9).for_each(|n| o.set(&format!("/p/v400000-{n}.m4s"), Reply::ok("v")));
    o.set("/p/live.mpd", Reply::ok(mpd(&period(r#"start="PT0S""#, "v", &[400_000], ""))));
    live.media.wait("what follows", |s| s.media().iter().any(|p| p.starts_with("/p/v400000-"))).await;
    let sent =
        live.media.paths().iter().filter(|p| p.starts_with("/p/ad.mp4#") && !p.contains("#0-")).count();
    let skipped = live.status.skipped.load(Relaxed);
    assert!(skipped >= 2 && sent as u64 + skipped <= 8, "{sent} sent, {skipped} skipped");
}
