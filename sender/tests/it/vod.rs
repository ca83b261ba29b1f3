//! What is complete: order, carousel, spool, a dead origin.

use crate::support::{ListSink, Reply, ScriptedOrigin, origin};
use mahp_common::Time;
use mahp_sender::origin::hls::{HlsRendition, load};
use mahp_sender::origin::vod::{Source, Timeline, carry};
use mahp_sender::spool::Spool;
use mahp_sender::status::RenditionStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;

const SEGMENTS: usize = 6;

fn prepare(o: &ScriptedOrigin) {
    let mut text = String::from("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MAP:URI=\"init.mp4\"\n");
    for n in 0..SEGMENTS {
        text.push_str(&format!("#EXTINF:2,\n{n}.m4s\n"));
        o.set(&format!("/vod/{n}.m4s"), Reply::ok(format!("segment {n}")));
    }
    text.push_str("#EXT-X-ENDLIST\n");
    o.set("/vod/media.m3u8", Reply::ok(text));
    o.set("/vod/init.mp4", Reply::ok("init"));
}

struct Rig {
    origin: ScriptedOrigin,
    sink: ListSink,
    status: Arc<RenditionStatus>,
    tasks: JoinSet<()>,
}

async fn rig(speed: f64, repeat: bool, prepare: impl FnOnce(&ScriptedOrigin)) -> Rig {
    let server = ScriptedOrigin::start().await;
    prepare(&server);
    let sink = ListSink::default();
    let (origin, status) = origin();
    let url = server.url("/vod/media.m3u8");
    let first = load(&origin, &url, &[]).await.expect("the playlist");
    let rendition = HlsRendition { url, master: None, imports: Vec::new(), first: Some(first) };
    let timeline =
        Timeline { start: Time::ZERO, speed, duration: Duration::from_secs(2 * SEGMENTS as u64), repeat };
    let source = Source::Hls(Box::new(rendition), false);
    let mut tasks = JoinSet::new();
    tasks.spawn(carry(origin, Arc::new(sink.clone()), Spool::new(1 << 20), source, 1_000_000, timeline));
    Rig { origin: server, sink, status, tasks }
}

#[tokio::test]
async fn everything_is_sent_once_in_order() {
    let mut rig = rig(20.0, false, prepare).await;
    rig.tasks.join_next().await.expect("a task").expect("no panic");
    let mut expected = vec!["/vod/media.m3u8".to_owned(), "/vod/init.mp4".to_owned()];
    expected.extend((0..SEGMENTS).map(|n| format!("/vod/{n}.m4s")));
    assert_eq!(rig.sink.paths(), expected);
    let media: Vec<_> = rig.sink.items().into_iter().filter(|i| i.object.meta.url.ends_with("m4s")).collect();
    assert_eq!(media[3].object.meta.media_time, Some(Duration::from_secs(6)));
    assert_eq!(rig.status.position.load(Relaxed), SEGMENTS as u64);
    assert_eq!(rig.origin.count("/vod/init.mp4"), 1);
}

#[tokio::test]
async fn carousel_goes_on_without_the_origin() {
    let rig = rig(40.0, true, prepare).await;
    rig.sink.wait("the first turn", |s| s.media().len() == SEGMENTS + 1).await;
    for n in 0..SEGMENTS {
        rig.origin.set(&format!("/vod/{n}.m4s"), Reply::status(500));
    }
    let again =
        |s: &ListSink| s.items().iter().filter(|i| i.repeat && i.object.meta.url.ends_with("m4s")).count();
    rig.sink.wait("two turns more", |s| again(s) >= 2 * SEGMENTS).await;
    let turn: Vec<String> = rig
        .sink
        .items()
        .iter()
        .filter(|i| i.repeat && i.object.meta.url.ends_with("m4s"))
        .take(SEGMENTS)
        .map(|i| String::from_utf8_lossy(&i.object.data).into_owned())
        .collect();
    assert_eq!(turn, (0..SEGMENTS).map(|n| format!("segment {n}")).collect::<Vec<_>>());
    assert_eq!(rig.origin.count("/vod/3.m4s"), 1, "kept");
    assert_eq!(rig.status.failed.load(Relaxed), 0);
}

#[tokio::test]
async fn playlists_and_init_segments_come_round() {
    let rig = rig(1.0, true, prepare).await;
    let again = |s: &ListSink, end: &str| {
        s.items().iter().filter(|i| i.repeat && i.object.meta.url.ends_with(end)).count()
    };
    rig.sink.wait("twice more", |s| again(s, "m3u8") >= 2 && again(s, "init.mp4") >= 2).await;
}

#[tokio::test]
async fn segment_that_fails_for_a_while_is_sent_in_its_place() {
    let mut rig = rig(20.0, false, |o| {
        prepare(o);
        o.sequence("/vod/2.m4s", vec![Reply::status(503), Reply::status(503), Reply::ok("segment 2")]);
    })
    .await;
    rig.tasks.join_next().await.expect("a task").expect("no panic");
    assert_eq!(rig.sink.media()[1..], (0..SEGMENTS).map(|n| format!("/vod/{n}.m4s")).collect::<Vec<_>>()[..]);
}
