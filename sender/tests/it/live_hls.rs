//! The follower of live media playlists against a scripted origin: exactly which objects go out, in which order.

use crate::support::{ListSink, Reply, ScriptedOrigin, origin, playlist, segments};
use mahp_sender::origin::hls::HlsRendition;
use mahp_sender::origin::live::{FollowOptions, follow};
use mahp_sender::status::RenditionStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;

struct Rig {
    origin: ScriptedOrigin,
    sink: ListSink,
    status: Arc<RenditionStatus>,
    tasks: JoinSet<()>,
}

/// Follows `/live/media.m3u8` of an origin prepared by `prepare`.
async fn rig(options: FollowOptions, prepare: impl FnOnce(&ScriptedOrigin)) -> Rig {
    let server = ScriptedOrigin::start().await;
    prepare(&server);
    let sink = ListSink::default();
    let (origin, status) = origin();
    let rendition =
        HlsRendition { url: server.url("/live/media.m3u8"), master: None, imports: Vec::new(), first: None };
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(origin, Arc::new(sink.clone()), rendition, options));
    Rig { origin: server, sink, status, tasks }
}

const PLAIN: FollowOptions = FollowOptions { carry_keys: false, repeat: false, low_latency: false };

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn set_playlist(o: &ScriptedOrigin, text: &str) {
    o.set("/live/media.m3u8", Reply::ok(text));
}

#[tokio::test]
async fn window_slides_and_nothing_is_sent_twice() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 20);
        set_playlist(o, &playlist(1, 6, &[]));
    })
    .await;
    rig.sink.wait("the start", |s| s.media().len() == 3).await;
    set_playlist(&rig.origin, &playlist(3, 8, &[]));
    rig.sink.wait("two more", |s| s.media().len() == 5).await;
    set_playlist(&rig.origin, &playlist(4, 9, &[]));
    rig.sink
        .wait("the last version", |s| s.paths().iter().filter(|p| p.ends_with("m3u8")).count() == 3)
        .await;
    // The last three first; then each new one once; a version of the playlist behind the segments it lists.
    let expected = [
        "/live/seg4.ts",
        "/live/seg5.ts",
        "/live/seg6.ts",
        "/live/media.m3u8",
        "/live/seg7.ts",
        "/live/seg8.ts",
        "/live/media.m3u8",
        "/live/seg9.ts",
        "/live/media.m3u8",
    ];
    assert_eq!(rig.sink.paths(), list(&expected));
    for n in 1..=3 {
        assert_eq!(rig.origin.count(&format!("/live/seg{n}.ts")), 0);
    }
    for n in 4..=9 {
        assert_eq!(rig.origin.count(&format!("/live/seg{n}.ts")), 1, "segment {n}");
    }
    let last = rig.sink.items().pop().expect("an item").object;
    assert_eq!(last.data, playlist(4, 9, &[]).as_bytes(), "byte for byte");
}

/// What goes out of an EVENT playlist that grows from six segments to seven and eight, and whether it went out before.
async fn event(repeat: bool, count: usize) -> Vec<(String, bool)> {
    let text = |last| playlist(1, last, &[(1, "#EXT-X-PLAYLIST-TYPE:EVENT")]);
    let rig = rig(FollowOptions { repeat, ..PLAIN }, |o| {
        segments(o, "/live", 1, 20);
        set_playlist(o, &text(6));
    })
    .await;
    rig.sink.wait("the edge, and two of the past", |s| s.items().len() >= 6).await;
    set_playlist(&rig.origin, &text(7));
    rig.sink.wait("a new one, and one of the past", |s| s.items().len() >= 9).await;
    set_playlist(&rig.origin, &text(8));
    rig.sink.wait("another", |s| s.items().len() >= count).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for item in rig.sink.items() {
        let meta = &item.object.meta;
        let old = ["1", "2", "3"].iter().any(|n| meta.url.ends_with(&format!("/seg{n}.ts")));
        assert_eq!(meta.is_past(), old, "{}", meta.url);
    }
    let name = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
    rig.sink.items().into_iter().map(|item| (name(&item.object.meta.url), item.repeat)).collect()
}

#[tokio::test]
async fn the_past_of_an_event_follows_its_edge() {
    let mut expected: Vec<(String, bool)> = [
        "seg4.ts",
        "seg5.ts",
        "seg6.ts",
        "media.m3u8",
        "seg3.ts",
        "seg2.ts",
        "seg7.ts",
        "media.m3u8",
        "seg1.ts",
    ]
    .into_iter()
    .chain(["seg8.ts", "media.m3u8"])
    .map(|name| (name.to_owned(), false))
    .collect();
    assert_eq!(event(false, 11).await, expected, "each once");
    // The carousel begins anew with what was new at the time.
    expected.push(("seg1.ts".to_owned(), true));
    assert_eq!(event(true, 12).await, expected);
}

#[tokio::test]
async fn other_tokens_do_not_make_other_segments() {
    let with_token = |token: u32, text: String| text.replace(".ts\n", &format!(".ts?token={token}\n"));
    let rig = rig(PLAIN, |o| {
        for (n, token) in (1..=9).flat_map(|n| [1, 2, 3].map(|token| (n, token))) {
            o.set(&format!("/live/seg{n}.ts?token={token}"), Reply::ok(format!("segment {n}")));
        }
        set_playlist(o, &with_token(1, playlist(1, 6, &[])));
    })
    .await;
    rig.sink.wait("the start", |s| s.media().len() == 3).await;
    set_playlist(&rig.origin, &with_token(2, playlist(3, 8, &[])));
    rig.sink.wait("two more", |s| s.media().len() == 5).await;
    set_playlist(&rig.origin, &with_token(3, playlist(4, 9, &[])));
    let versions = |s: &ListSink| s.paths().iter().filter(|p| p.ends_with(".m3u8")).count();
    rig.sink.wait("the last version", |s| versions(s) == 3).await;
    let expected =
        ["4.ts?token=1", "5.ts?token=1", "6.ts?token=1", "7.ts?token=2", "8.ts?token=2", "9.ts?token=3"];
    assert_eq!(rig.sink.media(), expected.map(|name| format!("/live/seg{name}")));
}

/// The playlist's own token runs out: the master playlist has the new one.
#[tokio::test]
async fn a_playlist_that_is_refused_is_looked_up_in_its_master_playlist() {
    let server = ScriptedOrigin::start().await;
    segments(&server, "/live", 1, 20);
    let master = |token: u32| {
        format!(
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nother.m3u8?token={token}\n#EXT-X-STREAM-INF:BANDWIDTH=2\nmedia.m3u8?token={token}\n"
        )
    };
    server.set("/live/master.m3u8", Reply::ok(master(1)));
    server.set("/live/media.m3u8?token=1", Reply::ok(playlist(1, 6, &[])));
    let (origin, _status) = origin();
    let rendition = HlsRendition {
        url: server.url("/live/media.m3u8?token=1"),
        master: Some(server.url("/live/master.m3u8")),
        imports: Vec::new(),
        first: None,
    };
    let sink = ListSink::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(origin, Arc::new(sink.clone()), rendition, PLAIN));
    sink.wait("the start", |s| s.media().len() == 3).await;
    assert_eq!(server.count("/live/master.m3u8"), 0, "not asked without need");
    server.set("/live/media.m3u8?token=2", Reply::ok(playlist(3, 8, &[])));
    server.set("/live/master.m3u8", Reply::ok(master(2)));
    server.set("/live/media.m3u8?token=1", Reply::status(403));
    sink.wait("two more", |s| s.media().len() == 5).await;
    server.set("/live/media.m3u8?token=2", Reply::ok(playlist(4, 9, &[])));
    sink.wait("one more", |s| s.media().len() == 6).await;
    assert_eq!(server.count("/live/master.m3u8"), 1, "the new URL is kept");
}

#[tokio::test]
async fn missing_segment_is_tried_again_and_holds_up_nothing() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 9);
        o.sequence(
            "/live/seg2.ts",
            vec![Reply::status(404), Reply::status(503), Reply::status(404), Reply::ok("late")],
        );
        set_playlist(o, &playlist(1, 3, &[]));
    })
    .await;
    rig.sink.wait("all three", |s| s.media().len() == 3).await;
    let media = rig.sink.media();
    assert_eq!(media, list(&["/live/seg1.ts", "/live/seg3.ts", "/live/seg2.ts"]), "late, but sent");
    assert_eq!(rig.status.failed.load(Relaxed), 0);
}

#[tokio::test]
async fn segment_that_never_comes_is_counted_when_it_leaves_the_window() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 9);
        o.set("/live/seg2.ts", Reply::status(404));
        set_playlist(o, &playlist(1, 3, &[]));
    })
    .await;
    rig.sink.wait("the others", |s| s.media().len() == 2).await;
    set_playlist(&rig.origin, &playlist(3, 5, &[]));
    rig.sink.wait("the next ones", |s| s.media().len() == 4).await;
    let asked = rig.origin.count("/live/seg2.ts");
    set_playlist(&rig.origin, &playlist(4, 6, &[]));
    rig.sink.wait("one more", |s| s.media().len() == 5).await;
    assert_eq!(rig.status.failed.load(Relaxed), 1);
    assert!(rig.origin.count("/live/seg2.ts") <= asked + 1, "given up");
}

#[tokio::test]
async fn slow_segment_is_passed_over_and_sent_when_it_comes() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 9);
        o.set("/live/seg2.ts", Reply::ok("slow").after(Duration::from_secs(3)));
        set_playlist(o, &playlist(1, 3, &[]));
    })
    .await;
    rig.sink.wait("all three", |s| s.media().len() == 3).await;
    assert_eq!(
        rig.sink.paths(),
        list(&["/live/seg1.ts", "/live/seg3.ts", "/live/media.m3u8", "/live/seg2.ts"])
    );
    assert_eq!(rig.origin.count("/live/seg2.ts"), 1);
}

#[tokio::test]
async fn origin_that_begins_anew_is_followed_from_its_edge() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 20);
        set_playlist(o, &playlist(10, 14, &[]));
    })
    .await;
    rig.sink.wait("the start", |s| s.media().len() == 3).await;
    set_playlist(&rig.origin, &playlist(1, 4, &[]));
    rig.sink.wait("the restart", |s| s.media().len() == 6).await;
    assert_eq!(rig.sink.media()[3..], list(&["/live/seg2.ts", "/live/seg3.ts", "/live/seg4.ts"])[..]);
}

#[tokio::test]
async fn older_version_of_the_playlist_changes_nothing() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 20);
        // An edge server that lags behind another one.
        o.sequence(
            "/live/media.m3u8",
            vec![
                Reply::ok(playlist(1, 5, &[])),
                Reply::ok(playlist(2, 6, &[])),
                Reply::ok(playlist(1, 5, &[])),
                Reply::ok(playlist(3, 7, &[])),
            ],
        );
    })
    .await;
    rig.sink.wait("the last", |s| s.media().len() == 5).await;
    let expected = ["/live/seg3.ts", "/live/seg4.ts", "/live/seg5.ts", "/live/seg6.ts", "/live/seg7.ts"];
    assert_eq!(rig.sink.media(), list(&expected));
}

#[tokio::test]
async fn jump_forward_is_counted() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 30);
        set_playlist(o, &playlist(1, 3, &[]));
    })
    .await;
    rig.sink.wait("the start", |s| s.media().len() == 3).await;
    set_playlist(&rig.origin, &playlist(10, 12, &[]));
    rig.sink.wait("the rest", |s| s.media().len() == 6).await;
    assert_eq!(rig.sink.media()[3..], list(&["/live/seg10.ts", "/live/seg11.ts", "/live/seg12.ts"])[..]);
    assert_eq!(rig.status.skipped.load(Relaxed), 6);
}

#[tokio::test]
async fn gaps_are_not_asked_for_and_init_segments_come_first() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 9);
        o.set("/live/init1.mp4", Reply::ok("init one"));
        o.set("/live/all.mp4", Reply::ok(vec![7; 100]));
        let extra = [
            (1, "#EXT-X-MAP:URI=\"init1.mp4\""),
            (2, "#EXT-X-GAP"),
            (3, "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"40@10\""),
        ];
        set_playlist(o, &playlist(1, 3, &extra));
    })
    .await;
    rig.sink.wait("the playlist", |s| s.paths().last().is_some_and(|p| p.ends_with("m3u8"))).await;
    let expected =
        ["/live/init1.mp4", "/live/seg1.ts", "/live/all.mp4#10-49", "/live/seg3.ts", "/live/media.m3u8"];
    assert_eq!(rig.sink.paths(), list(&expected));
    assert_eq!(rig.origin.count("/live/seg2.ts"), 0);
    let range = rig.sink.items()[2].object.meta.range.expect("a range");
    assert_eq!((range.first, range.last, range.complete), (10, 49, Some(100)));
}

#[tokio::test]
async fn keys_are_carried_only_on_request() {
    for carry_keys in [false, true] {
        let rig = rig(FollowOptions { carry_keys, ..PLAIN }, |o| {
            segments(o, "/live", 1, 2);
            o.set("/live/key.bin", Reply::ok(vec![1; 16]));
            let key = "#EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\"";
            set_playlist(o, &playlist(1, 2, &[(1, key)]));
        })
        .await;
        rig.sink.wait("the playlist", |s| s.paths().last().is_some_and(|p| p.ends_with("m3u8"))).await;
        assert_eq!(rig.sink.paths().contains(&"/live/key.bin".to_owned()), carry_keys);
        assert_eq!(rig.origin.count("/live/key.bin"), usize::from(carry_keys));
    }
}

#[tokio::test]
async fn redirects_tokens_and_byte_ranges_keep_the_urls_that_players_use() {
    let rig = rig(PLAIN, |o| {
        o.set("/live/media.m3u8", Reply::status(302).header("location", "/edge/7/media.m3u8?t=1"));
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n#EXT-X-BYTERANGE:10@0\nall.ts?token=a%20b\n#EXTINF:1,\n#EXT-X-BYTERANGE:5\nall.ts?token=a%20b\n#EXT-X-ENDLIST\n";
        o.set("/edge/7/media.m3u8?t=1", Reply::ok(text));
        let whole = Reply::ok((0..15u8).collect::<Vec<u8>>()).header("etag", "\"v1\"").header("cache-control", "max-age=9");
        o.set("/edge/7/all.ts?token=a%20b", whole);
    })
    .await;
    rig.sink.wait("all", |s| s.paths().len() == 3).await;
    let expected = ["/edge/7/all.ts?token=a%20b#0-9", "/edge/7/all.ts?token=a%20b#10-14", "/live/media.m3u8"];
    assert_eq!(rig.sink.paths(), list(&expected));
    let items = rig.sink.items();
    assert_eq!(items[1].object.data[..], [10, 11, 12, 13, 14]);
    assert_eq!(items[1].object.meta.etag.as_deref(), Some("\"v1\""));
    assert_eq!(items[1].object.meta.cache_control.as_deref(), Some("max-age=9"));
    let last = &items[2].object.meta;
    assert_eq!(last.final_url, Some(rig.origin.url("/edge/7/media.m3u8?t=1").to_string()));
}

#[tokio::test]
async fn origin_without_ranges_is_cut_here() {
    let rig = rig(PLAIN, |o| {
        let text =
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n#EXT-X-BYTERANGE:4@3\nall.ts\n#EXT-X-ENDLIST\n";
        set_playlist(o, text);
        o.set("/live/all.ts", Reply { ranges: false, ..Reply::ok("0123456789") });
    })
    .await;
    rig.sink.wait("the segment", |s| s.media().len() == 1).await;
    assert_eq!(rig.sink.items()[0].object.data, "3456");
}

#[tokio::test]
async fn unchanged_playlists_are_asked_for_conditionally() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 9);
        o.set("/live/media.m3u8", Reply::ok(playlist(1, 3, &[])).header("etag", "\"one\""));
    })
    .await;
    rig.sink.wait("the start", |s| s.media().len() == 3).await;
    for _ in 0..500 {
        if rig.origin.count("/live/media.m3u8") >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let conditional = rig
        .origin
        .requests()
        .iter()
        .filter(|(_, h)| h.get("if-none-match").is_some_and(|v| v == "\"one\""))
        .count();
    assert!(conditional >= 2, "{conditional}");
    assert_eq!(rig.sink.paths().iter().filter(|p| p.ends_with("m3u8")).count(), 1, "one version, sent once");
    assert_eq!(rig.status.origin_errors.load(Relaxed), 0, "304 is no trouble");
}

#[tokio::test]
async fn stream_that_ends_is_finished() {
    let mut rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 9);
        set_playlist(o, &playlist(1, 3, &[]));
    })
    .await;
    rig.sink.wait("the start", |s| s.media().len() == 3).await;
    set_playlist(&rig.origin, &format!("{}#EXT-X-ENDLIST\n", playlist(1, 4, &[])));
    rig.tasks.join_next().await.expect("a task").expect("no panic");
    let expected = [
        "/live/seg1.ts",
        "/live/seg2.ts",
        "/live/seg3.ts",
        "/live/media.m3u8",
        "/live/seg4.ts",
        "/live/media.m3u8",
    ];
    assert_eq!(rig.sink.paths(), list(&expected));
}

#[tokio::test]
async fn dead_playlist_is_trouble_until_it_answers() {
    let rig = rig(PLAIN, |o| segments(o, "/live", 1, 9)).await;
    for _ in 0..500 {
        if rig.status.origin_errors.load(Relaxed) > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(rig.status.origin_trouble.lock().expect("lock").is_some());
    set_playlist(&rig.origin, &playlist(1, 3, &[]));
    rig.sink.wait("the start", |s| s.media().len() == 3).await;
    assert!(rig.status.origin_trouble.lock().expect("lock").is_none());
}

#[tokio::test]
async fn origin_that_holds_requests_is_asked_for_the_next_segment_at_once() {
    let rig = rig(PLAIN, |o| {
        segments(o, "/live", 1, 9);
        let text = |last| playlist(1, last, &[(1, "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES")]);
        o.set("/live/media.m3u8", Reply::ok(text(3)));
        o.set("/live/media.m3u8?_HLS_msn=4", Reply::ok(text(4)).after(Duration::from_millis(300)));
        o.set("/live/media.m3u8?_HLS_msn=5", Reply::ok(text(5)).after(Duration::from_millis(300)));
        o.set("/live/media.m3u8?_HLS_msn=6", Reply::status(503));
    })
    .await;
    rig.sink.wait("both", |s| s.media().len() == 5).await;
    rig.sink.wait("the last version", |s| s.paths().last().is_some_and(|p| p.ends_with("m3u8"))).await;
    let expected = [
        "/live/seg1.ts",
        "/live/seg2.ts",
        "/live/seg3.ts",
        "/live/media.m3u8",
        "/live/seg4.ts",
        "/live/media.m3u8",
        "/live/seg5.ts",
        "/live/media.m3u8",
    ];
    assert_eq!(rig.sink.paths(), list(&expected), "under the address that players use");
    assert!(rig.sink.items().iter().all(|i| i.object.meta.final_url.is_none()));
    assert_eq!(rig.origin.count("/live/media.m3u8?_HLS_msn=4"), 1);
}
