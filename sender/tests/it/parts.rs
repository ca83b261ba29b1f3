//! The follower of low-latency playlists: parts go out one by one, and segments as what they consist of.

use crate::support::{ListSink, Reply, ScriptedOrigin, origin};
use mahp_common::recipe::Recipe;
use mahp_sender::origin::hls::HlsRendition;
use mahp_sender::origin::live::{FollowOptions, follow};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const LOW_LATENCY: FollowOptions = FollowOptions { carry_keys: false, repeat: false, low_latency: true };

/// Segments 1 to `segments` of two parts each, and `parts` of the next one.
fn playlist(segments: u64, parts: u64) -> String {
    let mut text =
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1\n\
                    #EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-MEDIA-SEQUENCE:1\n#EXT-X-MAP:URI=\"init.mp4\"\n"
            .to_owned();
    let part = |text: &mut String, n, p| writeln!(text, "#EXT-X-PART:DURATION=0.5,URI=\"p{n}.{p}.m4s\"");
    for n in 1..=segments {
        (0..2).for_each(|p| part(&mut text, n, p).expect("writing to a string"));
        writeln!(text, "#EXTINF:1,\ns{n}.m4s").expect("writing to a string");
    }
    (0..parts).for_each(|p| part(&mut text, segments + 1, p).expect("writing to a string"));
    text
}

fn media(server: &ScriptedOrigin, n: u64, whole: &str) {
    server.set(&format!("/live/p{n}.0.m4s"), Reply::ok(format!("{n}, first half; ")));
    server.set(&format!("/live/p{n}.1.m4s"), Reply::ok(format!("{n}, second half")));
    server.set(&format!("/live/s{n}.m4s"), Reply::ok(whole).header("content-type", "video/mp4"));
}

/// Follows an origin that lists one part more at each request, up to the end of segment 4. `third`: bytes of segment 3.
async fn run(third: &str) -> ListSink {
    let server = ScriptedOrigin::start().await;
    server.set("/live/init.mp4", Reply::ok("init"));
    for n in [1, 2, 4] {
        media(&server, n, &format!("{n}, first half; {n}, second half"));
    }
    media(&server, 3, third);
    let step = |path: &str, segments, parts, end: &str| {
        let reply = Reply::ok(playlist(segments, parts) + end);
        server.set(&format!("/live/media.m3u8{path}"), reply.after(Duration::from_millis(60)));
    };
    step("", 2, 0, "");
    step("?_HLS_msn=3&_HLS_part=0", 2, 1, "");
    step("?_HLS_msn=3&_HLS_part=1", 3, 0, "");
    step("?_HLS_msn=4&_HLS_part=0", 3, 1, "");
    step("?_HLS_msn=4&_HLS_part=1", 4, 0, "#EXT-X-ENDLIST\n");
    let sink = ListSink::default();
    let url = server.url("/live/media.m3u8");
    let rendition = HlsRendition { url, master: None, imports: Vec::new(), first: None };
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(origin().0, Arc::new(sink.clone()), rendition, LOW_LATENCY));
    let ended = tokio::time::timeout(Duration::from_secs(30), tasks.join_next()).await;
    ended.expect("it ends with the stream").expect("a task").expect("no panic");
    sink
}

fn without_segments(sink: &ListSink) -> Vec<String> {
    sink.paths().into_iter().filter(|p| !p.starts_with("/live/s")).collect()
}

#[tokio::test]
async fn each_part_leaves_before_the_playlist_that_lists_it() {
    let sink = run("3, first half; 3, second half").await;
    let list = "/live/media.m3u8";
    let expected = [
        // What was there: the newest segment's parts.
        "/live/init.mp4",
        "/live/p2.0.m4s",
        "/live/p2.1.m4s",
        list, // ...
        "/live/p3.0.m4s",
        list,
        "/live/p3.1.m4s",
        list,
        "/live/p4.0.m4s",
        list,
        "/live/p4.1.m4s",
        list,
    ];
    assert_eq!(without_segments(&sink), expected);
    assert!(
        sink.items().iter().all(|i| i.object.meta.final_url.is_none()),
        "under the address that players use"
    );
}

#[tokio::test]
async fn a_segment_leaves_as_what_it_consists_of() {
    let sink = run("3, first half; 3, second half").await;
    let of = |n: u64| {
        let items = sink.items();
        items.into_iter().find(|i| i.object.meta.url.ends_with(&format!("/s{n}.m4s"))).map(|i| i.object)
    };
    for n in 2..=4 {
        let object = of(n).expect("the segment is told of");
        let recipe = Recipe::read(&object.data).expect("as what it consists of");
        assert!(Recipe::is(&object.meta));
        assert_eq!(recipe.content_type.as_deref(), Some("video/mp4"));
        let pieces: Vec<&str> = recipe.pieces.iter().filter_map(|p| p.url.rsplit('/').next()).collect();
        assert_eq!(pieces, [format!("p{n}.0.m4s"), format!("p{n}.1.m4s")]);
    }
    assert_eq!(of(1), None, "nobody could play it any more");
}

#[tokio::test]
async fn a_segment_that_is_not_its_parts_leaves_whole() {
    let sink = run("3, something else").await;
    let items = sink.items();
    let third = items.iter().find(|i| i.object.meta.url.ends_with("/s3.m4s")).expect("it leaves");
    assert_eq!(&third.object.data[..], b"3, something else");
    assert!(!Recipe::is(&third.object.meta));
}
