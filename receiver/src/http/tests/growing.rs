//! Segments that are sent while they are made.

use super::rig::{FakeLibrary, Rig, SEGMENT, Script, bytes, channel};
use crate::http::Options;
use crate::library::{Availability, Source};
use bytes::Bytes;
use mahp_common::catalog::{Channel, Format};
use mahp_common::{ByteRange, ObjectMeta};
use std::sync::Arc;

const PATH: &str = "/live/news/v/1.ts";

/// A channel whose segments come in chunks of half a second.
fn rig(options: Options) -> Rig {
    let rig = Rig::with(options);
    let by_chunks = Channel { format: Format::Dash, part_target_ms: Some(500), ..channel() };
    rig.multicast.state.lock().unwrap().channels = vec![Arc::new(by_chunks)];
    rig.multicast.forecast(SEGMENT, Availability::Expected { until: rig.at(3000) });
    rig
}

/// A chunk has come.
fn chunk(library: &FakeLibrary, body: &Bytes, first: usize, end: usize) {
    let range = ByteRange { first: first as u64, last: end as u64 - 1, complete: None };
    let meta = ObjectMeta { url: SEGMENT.into(), range: Some(range), ..ObjectMeta::default() };
    library.store(meta, body.slice(first..end), Source::Multicast);
}

/// Chunks that come at these times (milliseconds) and end there; with the last one the segment is known whole.
fn chunks(rig: &Rig, body: &Bytes, ends: &[(u64, usize)]) {
    let mut first = 0;
    for (at, end) in ends {
        let (body, begin, end) = (body.clone(), first, *end);
        rig.later(*at, move |library| {
            chunk(library, &body, begin, end);
            if end == body.len() {
                library.multicast(SEGMENT, &body);
            }
        });
        first = end;
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_is_sent_chunk_by_chunk() {
    let (rig, body) = (rig(Options::default()), bytes(4000));
    chunks(&rig, &body, &[(100, 1000), (600, 2500), (1100, 4000)]);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), seen.waited.as_millis()), (200, 100), "with the first chunk");
    assert_eq!((seen.header("content-length"), seen.header("etag")), ("", ""));
    assert_eq!(seen.header("cache-status"), "mahp; hit; detail=multicast");
    assert!(seen.body == Ok(body) && rig.web.count() == 0);
}

#[tokio::test(start_paused = true)]
async fn what_of_it_does_not_come_is_asked_of_the_origin() {
    for knows_ranges in [true, false] {
        let (rig, body) = (rig(Options::default()), bytes(4000));
        rig.web.script(SEGMENT, [Script::body(&body).with(|sent| sent.knows_ranges = knows_ranges)]);
        chunks(&rig, &body, &[(100, 1000)]);
        let seen = rig.get(PATH).await;
        assert_eq!(seen.waited.as_millis(), 100);
        assert!(seen.body == Ok(body), "ranges: {knows_ranges}");
        let asked: Vec<_> = rig.web.asked().iter().map(|asked| asked.range).collect();
        assert_eq!(asked, [Some((1000, None))]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_go_on_is_broken_off() {
    let closed = Options { unicast: false, ..Options::default() };
    for (options, web) in [(closed, Script::status(200)), (Options::default(), Script::dead())] {
        let (rig, body) = (rig(options), bytes(4000));
        rig.web.script(SEGMENT, [web]);
        chunks(&rig, &body, &[(100, 1000), (600, 2500)]);
        let seen = rig.get(PATH).await;
        assert!(seen.status.as_u16() == 200 && seen.body == Err(body.slice(..2500)));
    }
}

#[tokio::test(start_paused = true)]
async fn other_channels_wait_for_the_whole() {
    let (rig, body) = (rig(Options::default()), bytes(4000));
    rig.multicast.state.lock().unwrap().channels = vec![Arc::new(channel())];
    chunks(&rig, &body, &[(100, 1000), (1100, 4000)]);
    let seen = rig.get(PATH).await;
    assert_eq!(seen.waited.as_millis(), 1100);
    assert!(!seen.header("etag").is_empty() && seen.body == Ok(body));
}
