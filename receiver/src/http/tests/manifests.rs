//! Manifests: where they come from, what becomes of them.

use super::rig::{CHANNEL, Rig, Script, bytes};
use crate::http::{Options, Rungs};
use crate::library::Availability;
use bytes::Bytes;
use http::header;
use mahp_common::catalog::{Channel, Endpoint, Flow, Rendition, Role, WireProfile};
use mahp_common::ids::Tsi;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const MASTER: &str = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=800000\nv/low.m3u8\n\
                      #EXT-X-STREAM-INF:BANDWIDTH=4000000\nhttps://other.example/high.m3u8\n";
const MEDIA_URL: &str = "https://cdn.example/live/v/low.m3u8";
const MEDIA_PATH: &str = "/live/news/v/low.m3u8";

fn media(first: u64, count: u64) -> String {
    let mut text =
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-FOO:keep, this\n");
    (first..first + count).for_each(|n| text.push_str(&format!("#EXTINF:2.0,a, title\n{n}.ts\n")));
    text
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn with_rendition(rig: &Rig, playlist: &str) {
    let endpoint = Endpoint { source: None, group: [232, 0, 0, 1].into(), port: 5000, tsi: Tsi(1) };
    let flow = Flow {
        endpoint,
        repair: None,
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: 1344,
        repair_percent: 15,
        rate_bps: 1_000_000,
    };
    let rendition = Rendition {
        id: "low".into(),
        role: Role::Video,
        bitrate_bps: 800_000,
        playlist_url: Some(playlist.into()),
        url_patterns: vec![],
        codecs: None,
        resolution: None,
        language: None,
        flow,
    };
    let mut state = rig.multicast.state.lock().unwrap();
    let channel = Channel { renditions: vec![rendition], ..(*state.channels[0]).clone() };
    state.channels = vec![Arc::new(channel)];
}

#[tokio::test(start_paused = true)]
async fn a_fresh_one_of_multicast_is_served() {
    let rig = Rig::new();
    let body = media(10, 5);
    rig.multicast.hear_manifest(MEDIA_URL, &body, true);
    let seen = rig.get(MEDIA_PATH).await;
    assert_eq!(seen.text(), body);
    assert_eq!(seen.header("content-type"), "application/vnd.apple.mpegurl");
    assert_eq!((seen.header("cache-control"), seen.header("age")), ("no-cache", "0"));
    assert_eq!(seen.header("cache-status"), "mahp; hit; detail=multicast");
    assert_eq!(rig.web.count(), 0);
    let again = rig.ask("GET", MEDIA_PATH, &[(header::IF_NONE_MATCH, seen.header("etag"))]).await;
    assert_eq!(again.status.as_u16(), 304);
    let taught = rig.multicast.state.lock().unwrap().taught[0].clone();
    assert_eq!((taught.0.len(), taught.1.len()), (0, 5));
    assert_eq!(taught.1[0], "https://cdn.example/live/v/10.ts");
    let mapped = body.replace("#EXTINF", "#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF");
    rig.multicast.hear_manifest(MEDIA_URL, &mapped, true);
    rig.get(MEDIA_PATH).await;
    let taught = rig.multicast.state.lock().unwrap().taught.last().cloned().unwrap();
    assert_eq!(taught.0, ["https://cdn.example/live/v/init.mp4"]);
}

#[tokio::test(start_paused = true)]
async fn ranges_of_manifests_as_ffmpeg_and_vlc_ask_for_them() {
    let rig = Rig::new();
    let body = media(10, 5);
    rig.multicast.hear_manifest(MEDIA_URL, &body, true);
    let seen = rig.ask("GET", MEDIA_PATH, &[(header::RANGE, "bytes=0-")]).await;
    assert_eq!((seen.status.as_u16(), seen.text()), (206, body.clone()));
    let seen = rig.ask("GET", MEDIA_PATH, &[(header::RANGE, "bytes=40-")]).await;
    assert_eq!((seen.status.as_u16(), seen.text()), (206, body[40..].to_owned()));
    assert_eq!(rig.ask("HEAD", MEDIA_PATH, &[]).await.header("content-length"), body.len().to_string());
}

#[tokio::test(start_paused = true)]
async fn without_multicast_the_origin_is_asked_once_for_half_a_target_duration() {
    let rig = Arc::new(Rig::new());
    rig.web.script(MEDIA_URL, [Script::body(&text(&media(10, 5))).after(50)]);
    let mut viewers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let rig = rig.clone();
        viewers.spawn(async move { rig.get(MEDIA_PATH).await.status.as_u16() });
    }
    while let Some(status) = viewers.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(rig.web.count(), 1);
    tokio::time::advance(Duration::from_millis(900)).await;
    assert_eq!(rig.get(MEDIA_PATH).await.header("cache-status"), "mahp; hit; detail=unicast");
    assert_eq!(rig.web.count(), 1);
    tokio::time::advance(Duration::from_millis(200)).await;
    rig.get(MEDIA_PATH).await;
    assert_eq!(rig.web.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stale_one_is_better_than_none() {
    let rig = Rig::new();
    rig.multicast.hear_manifest(MEDIA_URL, &media(10, 5), false);
    rig.web.script(MEDIA_URL, [Script::body(&text(&media(11, 5)))]);
    assert!(rig.get(MEDIA_PATH).await.text().contains("15.ts"), "the origin's is newer");
    for dead in [Script::dead(), Script::status(500), Script::dead().after(60_000)] {
        let rig = Rig::new();
        rig.multicast.hear_manifest(MEDIA_URL, &media(10, 5), false);
        rig.multicast.multicast("https://cdn.example/live/v/14.ts", &bytes(10));
        rig.web.script(MEDIA_URL, [dead]);
        let seen = rig.get(MEDIA_PATH).await;
        assert!(seen.waited <= Duration::from_secs(2));
        assert_eq!(seen.text(), media(10, 5));
        assert!(seen.header("cache-status").contains("stale"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_origins_last_one_outlives_the_origin() {
    let rig = Rig::new();
    rig.web.script(MEDIA_URL, [Script::body(&text(&media(10, 5))), Script::dead()]);
    assert_eq!(rig.get(MEDIA_PATH).await.status.as_u16(), 200);
    tokio::time::advance(Duration::from_secs(30)).await;
    let seen = rig.get(MEDIA_PATH).await;
    assert_eq!((seen.text(), seen.header("age")), (media(10, 5), "30"));
}

#[tokio::test(start_paused = true)]
async fn none_anywhere_is_waited_for_and_then_a_504() {
    let rig = Rig::new();
    with_rendition(&rig, MEDIA_URL);
    rig.web.script(MEDIA_URL, [Script::dead()]);
    let seen = rig.get(MEDIA_PATH).await;
    assert_eq!((seen.status.as_u16(), seen.waited), (504, Duration::from_secs(8)));
    rig.later(3000, |library| library.hear_manifest(MEDIA_URL, &media(10, 5), true));
    let seen = rig.get(MEDIA_PATH).await;
    assert_eq!((seen.status.as_u16(), seen.waited), (200, Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn a_404_of_the_origin_is_passed_on() {
    let rig = Rig::new();
    with_rendition(&rig, MEDIA_URL);
    assert_eq!(rig.get(MEDIA_PATH).await.status.as_u16(), 404);
}

#[tokio::test(start_paused = true)]
async fn references_lead_back_here_and_nothing_else_changes() {
    let rig = Rig::with(Options {
        allow_origins: crate::http::access::HostList::new(["other.example"]).unwrap(),
        ..Options::default()
    });
    rig.multicast.hear_manifest(CHANNEL, MASTER, true);
    let expected = MASTER.replace("https://other.example/high.m3u8", "../../https/other.example/high.m3u8");
    assert_eq!(rig.get("/live/news/master.m3u8").await.text(), expected);
    let generic = rig.get("/https/cdn.example/live/master.m3u8").await.text();
    // The channel's own path is as good as the generic one.
    assert!(generic.contains("v/low.m3u8") && generic.contains("other.example/high.m3u8"), "{generic}");
    assert!(!generic.contains("https://"), "{generic}");
    // A forward proxy's client keeps the origin's URLs.
    assert_eq!(rig.get(CHANNEL).await.text(), MASTER);
}

#[tokio::test(start_paused = true)]
async fn references_to_hosts_that_are_not_allowed_stay() {
    let rig = Rig::new();
    rig.multicast.hear_manifest(CHANNEL, MASTER, true);
    assert_eq!(rig.get("/live/news/master.m3u8").await.text(), MASTER);
}

#[tokio::test(start_paused = true)]
async fn only_carried_variants_are_offered() {
    let rig = Rig::new();
    with_rendition(&rig, MEDIA_URL);
    rig.multicast.hear_manifest(CHANNEL, MASTER, true);
    let carried = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=800000\nv/low.m3u8\n";
    assert_eq!(rig.get("/live/news/master.m3u8").await.text(), carried);
    let rig = Rig::with(Options { rungs: Rungs::All, ..Options::default() });
    with_rendition(&rig, MEDIA_URL);
    rig.multicast.hear_manifest(CHANNEL, MASTER, true);
    assert_eq!(rig.get("/live/news/master.m3u8").await.text(), MASTER);
}

fn segment(n: u64) -> String {
    format!("https://cdn.example/live/v/{n}.ts")
}

async fn listed(rig: &Rig) -> usize {
    rig.get(MEDIA_PATH).await.text().matches(".ts").count()
}

#[tokio::test(start_paused = true)]
async fn the_live_edge_is_where_the_bytes_are() {
    let soon = |ms| Availability::Coming { expected_by: Rig::new().at(ms), progress: 0.2 };
    let expected = || Availability::Expected { until: Rig::new().at(3000) };
    for (forecast, count, why) in [
        (vec![], 6, "by unicast everything can be had"),
        (vec![(15, expected())], 5, "multicast is about to bring it"),
        (vec![(15, soon(1500))], 5, "multicast is bringing it"),
        (vec![(15, soon(200))], 6, "it is as good as here"),
        (vec![(15, expected()), (14, expected())], 5, "one is kept back at most"),
        (vec![(12, expected())], 6, "only the last count"),
    ] {
        let rig = Rig::new();
        rig.multicast.hear_manifest(MEDIA_URL, &media(10, 6), true);
        for (n, availability) in forecast {
            rig.multicast.forecast(&segment(n), availability);
        }
        assert_eq!(listed(&rig).await, count, "{why}");
        rig.multicast.multicast(&segment(15), &bytes(10));
        assert_eq!(listed(&rig).await, 6);
    }
}

#[tokio::test(start_paused = true)]
async fn gaps_at_the_live_edge_are_no_segments() {
    let rig = Rig::new();
    let text = media(10, 6).replace("#EXTINF:2.0,a, title\n15", "#EXT-X-GAP\n#EXTINF:2.0,a, title\n15");
    rig.multicast.hear_manifest(MEDIA_URL, &text, true);
    rig.multicast.forecast(&segment(14), Availability::Expected { until: rig.at(3000) });
    let seen = rig.get(MEDIA_PATH).await.text();
    assert!(seen.contains("13.ts") && !seen.contains("14.ts") && !seen.contains("GAP"), "{seen}");
    rig.multicast.multicast(&segment(14), &bytes(10));
    assert_eq!(rig.get(MEDIA_PATH).await.text(), text);
}

#[tokio::test(start_paused = true)]
async fn low_latency_lists_what_is_on_its_way() {
    let rig = Rig::with(Options { low_latency: true, ..Options::default() });
    rig.multicast.hear_manifest(MEDIA_URL, &media(10, 6), true);
    rig.multicast.forecast(&segment(15), Availability::Expected { until: rig.at(3000) });
    assert_eq!(listed(&rig).await, 6);
}

#[tokio::test(start_paused = true)]
async fn what_was_listed_stays_listed() {
    let rig = Rig::with(Options { unicast: false, ..Options::default() });
    rig.multicast.hear_manifest(MEDIA_URL, &media(10, 6), true);
    rig.multicast.multicast(&segment(15), &bytes(10));
    assert_eq!(listed(&rig).await, 1, "what is before it cannot be had");
    // The store forgets, the list does not.
    rig.multicast.state.lock().unwrap().store.clear();
    assert_eq!(listed(&rig).await, 1);
    rig.multicast.hear_manifest(MEDIA_URL, &media(12, 6), true);
    let seen = rig.get(MEDIA_PATH).await.text();
    assert!(
        seen.contains("15.ts") && !seen.contains("16.ts"),
        "16 and 17 are new, and nothing can bring them"
    );
    assert!(seen.contains("#EXT-X-MEDIA-SEQUENCE:15\n"), "{seen}");
    // The channel begins anew.
    rig.multicast.hear_manifest(MEDIA_URL, &media(0, 3), true);
    assert_eq!(listed(&rig).await, 3);
}

#[tokio::test(start_paused = true)]
async fn who_joins_late_and_by_multicast_alone_begins_with_what_is_on_its_way() {
    let rig = Rig::with(Options { unicast: false, ..Options::default() });
    rig.multicast.hear_manifest(MEDIA_URL, &media(10, 6), true);
    let soon = Availability::Coming { expected_by: rig.at(2000), progress: 0.1 };
    rig.later(300, move |library| {
        library.forecast(&segment(15), soon);
        library.bump();
    });
    let begun = Instant::now();
    let seen = rig.get(MEDIA_PATH).await.text();
    assert!(seen.contains("#EXT-X-MEDIA-SEQUENCE:15\n") && seen.contains("15.ts"), "{seen}");
    assert!(!seen.contains("14.ts"), "{seen}");
    assert_eq!(begun.elapsed(), Duration::from_millis(300), "nothing was listed before there was something");
}

#[tokio::test(start_paused = true)]
async fn multicast_does_not_take_a_player_back_in_time() {
    let rig = Rig::new();
    rig.web.script(MEDIA_URL, [Script::body(&text(&media(11, 6)))]);
    assert!(rig.get(MEDIA_PATH).await.text().contains("16.ts"));
    rig.multicast.hear_manifest(MEDIA_URL, &media(10, 6), true);
    assert!(rig.get(MEDIA_PATH).await.text().contains("16.ts"));
    // Multicast falls silent: what the origin had then is not good for ever.
    rig.multicast.hear_manifest(MEDIA_URL, &media(10, 6), false);
    rig.web.script(MEDIA_URL, [Script::body(&text(&media(13, 6)))]);
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert!(rig.get(MEDIA_PATH).await.text().contains("18.ts"));
    rig.multicast.hear_manifest(MEDIA_URL, &media(14, 6), true);
    let seen = rig.get(MEDIA_PATH).await;
    assert!(seen.text().contains("19.ts") && seen.header("cache-status").contains("multicast"));
    // The channel begins anew: that is no step back.
    rig.multicast.hear_manifest(MEDIA_URL, &media(0, 3), true);
    assert!(rig.get(MEDIA_PATH).await.text().contains("2.ts"));
}

#[tokio::test(start_paused = true)]
async fn segments_that_nothing_can_bring_are_not_listed() {
    let rig = Rig::with(Options { unicast: false, ..Options::default() });
    rig.multicast.hear_manifest(MEDIA_URL, &media(10, 6), true);
    rig.multicast.multicast("https://cdn.example/live/v/12.ts", &bytes(10));
    let seen = rig.get(MEDIA_PATH).await.text();
    assert!(seen.contains("12.ts") && !seen.contains("13.ts") && !seen.contains("11.ts"), "{seen}");
    // Of a finished playlist everything is listed: a carousel will bring it.
    let vod = media(10, 6) + "#EXT-X-ENDLIST\n";
    rig.multicast.hear_manifest(MEDIA_URL, &vod, true);
    let seen = rig.get(MEDIA_PATH).await;
    assert_eq!((seen.text(), seen.header("cache-control")), (vod, "max-age=60"));
}

#[tokio::test(start_paused = true)]
async fn low_latency_parts_are_left_out_and_blocking_reloads_are_not_blocked() {
    let rig = Rig::new();
    let body = media(10, 3).replace(
        "#EXT-X-FOO",
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1\n#EXT-X-PART-INF:PART-TARGET=0.3\n#EXT-X-FOO",
    ) + "#EXT-X-PART:DURATION=0.3,URI=\"13.0.ts\"\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"13.1.ts\"\n";
    rig.multicast.hear_manifest(MEDIA_URL, &body, true);
    let seen = rig.get(&format!("{MEDIA_PATH}?_HLS_msn=99&_HLS_part=3")).await;
    assert_eq!((seen.status.as_u16(), seen.waited), (200, Duration::ZERO));
    let seen = seen.text();
    assert!(!seen.contains("PART") && !seen.contains("CAN-BLOCK-RELOAD"), "{seen}");
    assert!(seen.contains("12.ts") && seen.contains("#EXT-X-FOO:keep, this"));
}

/// Segments from 10 on, each of two parts, and `parts` of the next one; the part behind them is hinted at.
fn in_parts(segments: u64, parts: u64) -> String {
    let mut text = media(10, 0).replace(
        "#EXT-X-FOO",
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1\n#EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-FOO",
    );
    for n in 10..10 + segments {
        text.push_str(&format!(
            "#EXT-X-PART:DURATION=0.5,URI=\"{n}.0.ts\"\n#EXT-X-PART:DURATION=0.5,URI=\"{n}.1.ts\"\n#EXTINF:1.0,\n{n}.ts\n"
        ));
    }
    let n = 10 + segments;
    (0..parts).for_each(|p| text.push_str(&format!("#EXT-X-PART:DURATION=0.5,URI=\"{n}.{p}.ts\"\n")));
    text + &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{n}.{parts}.ts\"\n")
}

/// A channel that is carried part by part.
fn rig_of_parts() -> Arc<Rig> {
    let rig = Rig::new();
    let mut state = rig.multicast.state.lock().unwrap();
    let channel = Channel { part_target_ms: Some(500), ..(*state.channels[0]).clone() };
    state.channels = vec![Arc::new(channel)];
    drop(state);
    Arc::new(rig)
}

#[tokio::test(start_paused = true)]
async fn parts_that_are_carried_stay_and_are_taught() {
    let rig = rig_of_parts();
    rig.multicast.hear_manifest(MEDIA_URL, &in_parts(3, 1), true);
    let seen = rig.get(MEDIA_PATH).await;
    assert_eq!((seen.text(), seen.waited), (in_parts(3, 1), Duration::ZERO));
    let taught = rig.multicast.state.lock().unwrap().taught.last().cloned().unwrap().1;
    let newest: Vec<&str> = taught.iter().rev().take(3).filter_map(|u| u.rsplit('/').next()).collect();
    assert_eq!(newest, ["13.1.ts", "13.0.ts", "12.1.ts"], "what is hinted at is the newest");
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_blocks_is_answered_when_the_part_is_listed() {
    let rig = rig_of_parts();
    let later = rig.clone();
    rig.multicast.hear_manifest(MEDIA_URL, &in_parts(3, 1), true);
    tokio::spawn(async move {
        for (segments, parts) in [(3, 2), (4, 0), (4, 1)] {
            tokio::time::sleep(Duration::from_millis(500)).await;
            later.multicast.hear_manifest(MEDIA_URL, &in_parts(segments, parts), true);
        }
    });
    for (query, waited, seen) in [
        ("_HLS_msn=13&_HLS_part=0", 0, in_parts(3, 1)),
        ("_HLS_msn=13&_HLS_part=1", 500, in_parts(3, 2)),
        ("_HLS_msn=13", 500, in_parts(4, 0)),
        // Of more parts than there are, the first of the next segment is meant.
        ("_HLS_msn=13&_HLS_part=7", 0, in_parts(4, 0)),
        ("_HLS_msn=14&_HLS_part=0", 500, in_parts(4, 1)),
        // Too far away to wait for.
        ("_HLS_msn=16", 0, in_parts(4, 1)),
        // Three target durations, then what there is.
        ("_HLS_msn=14&_HLS_part=1", 6000, in_parts(4, 1)),
    ] {
        let answer = rig.get(&format!("{MEDIA_PATH}?{query}")).await;
        assert_eq!(answer.waited, Duration::from_millis(waited), "{query}");
        assert_eq!(answer.text(), seen, "{query}");
    }
    assert_eq!(rig.web.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn content_tells_a_manifest_not_its_name() {
    let rig = Rig::new();
    let url = "https://cdn.example/live/v/list.php";
    rig.web.script(url, [Script::body(&text(&media(1, 3))).header(header::CONTENT_TYPE, "text/plain")]);
    let seen = rig.get("/live/news/v/list.php").await;
    assert_eq!(seen.header("content-type"), "application/vnd.apple.mpegurl");
    assert!(rig.multicast.state.lock().unwrap().put.is_empty());
    // From now on it is asked for as a manifest, in any coding.
    tokio::time::advance(Duration::from_secs(5)).await;
    rig.get("/live/news/v/list.php?CMCD=x").await;
    assert_eq!(rig.served.origin().keys().map(String::as_str).collect::<Vec<_>>(), ["fallback", "manifest"]);
    // And a name that looks like one does not make one.
    let url = "https://cdn.example/live/v/not.m3u8";
    rig.web.script(url, [Script::body(&bytes(500))]);
    assert_eq!(rig.get("/live/news/v/not.m3u8").await.body.ok(), Some(bytes(500)));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_for_one_viewer_is_not_kept() {
    let rig = Rig::new();
    with_rendition(&rig, MEDIA_URL);
    let script = Script::body(&text(&media(1, 3)))
        .header(header::SET_COOKIE, "id=7; Domain=cdn.example; Path=/; Secure")
        .header(header::CACHE_CONTROL, "private");
    rig.web.script(MEDIA_URL, [script]);
    let seen = rig.get(MEDIA_PATH).await;
    assert_eq!(seen.header("cache-control"), "private, no-cache");
    assert_eq!(seen.header("set-cookie"), "id=7; Path=/live/news/v/");
    let before = rig.web.count();
    rig.ask("GET", MEDIA_PATH, &[(header::COOKIE, "id=7")]).await;
    assert_eq!(rig.web.count(), before + 1);
    assert_eq!(rig.web.asked().last().unwrap().headers[header::COOKIE], "id=7");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_manifests_are_not_mixed_up() {
    let rig = Rig::new();
    with_rendition(&rig, MEDIA_URL);
    for token in ["a", "b"] {
        let body = media(1, 3).replace(".ts", &format!(".ts?token={token}"));
        rig.web.script(&format!("{MEDIA_URL}?token={token}"), [Script::body(&text(&body))]);
    }
    for token in ["a", "b"] {
        let seen = rig.get(&format!("{MEDIA_PATH}?token={token}")).await.text();
        assert!(seen.contains(&format!("1.ts?token={token}")), "{seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_found_by_another_viewers_download_is_asked_for_again() {
    let rig = Arc::new(Rig::new());
    let url = "https://cdn.example/live/v/list.php";
    for token in ["a", "b"] {
        let body = media(1, 3).replace(".ts", &format!(".ts?token={token}"));
        rig.web.script(&format!("{url}?token={token}"), [Script::body(&text(&body)).after(100)]);
    }
    let other = rig.clone();
    let other = tokio::spawn(async move { other.get("/live/news/v/list.php?token=a").await.text() });
    tokio::task::yield_now().await;
    let seen = rig.get("/live/news/v/list.php?token=b").await.text();
    assert!(seen.contains("token=b") && !seen.contains("token=a"), "{seen}");
    assert!(other.await.unwrap().contains("token=a"));
}

#[tokio::test(start_paused = true)]
async fn keys_are_counted_as_keys() {
    let rig = Rig::new();
    let body = media(1, 2).replace("#EXT-X-FOO", "#EXT-X-KEY:METHOD=AES-128,URI=\"k.bin\"\n#EXT-X-FOO");
    rig.multicast.hear_manifest(MEDIA_URL, &body, true);
    rig.get(MEDIA_PATH).await;
    rig.web.script("https://cdn.example/live/v/k.bin", [Script::body(&bytes(16))]);
    assert_eq!(rig.get("/live/news/v/k.bin").await.body.ok(), Some(bytes(16)));
    assert_eq!(rig.served.origin()["key"], 16);
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_cannot_be_read_is_passed_on() {
    let rig = Rig::new();
    let odd = "#EXTM3U\n#EXT-X-TARGETDURATION:what\nseg.ts\n\u{fffd}";
    rig.multicast.hear_manifest(MEDIA_URL, odd, true);
    assert_eq!(rig.get(MEDIA_PATH).await.status.as_u16(), 200);
}
