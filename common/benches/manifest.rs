//! Cost of reading and rewriting manifests: `cargo bench -p mahp-common --bench manifest`.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mahp_common::WallTime;
use mahp_common::manifest::url::ChannelMap;
use mahp_common::manifest::{apply, dash, hls};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use url::Url;

const SEGMENTS: u64 = 10_000;
const SERVED: &str = "/live/news/video/index.m3u8";

/// A playlist with a date and a range of attributes every few segments; `prefix` stands before each URI.
fn playlist(prefix: &str) -> String {
    let mut text =
        String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:1\n");
    for i in 0..SEGMENTS {
        if i % 10 == 0 {
            let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:2026-11-22T15:42:01.678Z");
            let _ = writeln!(text, "#EXT-X-MAP:URI=\"{prefix}init.mp4\"");
        }
        let _ = writeln!(text, "#EXTINF:4.000,\n{prefix}segment-{i}.m4s?x=1");
    }
    text
}

/// An MPD with a timeline of as many entries.
fn mpd() -> String {
    let mut text = String::from(
        "<MPD type=\"static\" mediaPresentationDuration=\"PT40000S\"><Period><AdaptationSet mimeType=\"video/mp4\">\
         <SegmentTemplate timescale=\"1000\" media=\"https://cdn.example/a/b/$Time$.m4s\"><SegmentTimeline>",
    );
    for i in 0..SEGMENTS {
        let _ = writeln!(text, "<S t=\"{}\" d=\"4000\"/>", i * 4000);
    }
    text.push_str("</SegmentTimeline></SegmentTemplate><Representation id=\"v\" bandwidth=\"1\"/>");
    text.push_str("</AdaptationSet></Period></MPD>");
    text
}

fn manifests(c: &mut Criterion) {
    let base = Url::parse("https://cdn.example/a/b/video/index.m3u8").expect("a URL");
    let folder = Url::parse("https://cdn.example/a/b/").expect("a URL");
    let map = ChannelMap::new("/live/news/", &folder, Arc::new(|_| true));
    let mut group = c.benchmark_group("manifest");
    group.throughput(Throughput::Elements(SEGMENTS));
    for (name, prefix) in [
        ("relative", ""),
        ("absolute", "https://cdn.example/a/b/video/"),
        ("elsewhere", "https://far.example/x/"),
    ] {
        let text = playlist(prefix);
        group.bench_function(format!("hls_rewrite_10000_{name}"), |b| {
            b.iter(|| {
                let options = hls::RewriteOptions::default();
                let edits = hls::rewrite(black_box(&text), &base, SERVED, &map, options).expect("a playlist");
                apply(&text, &edits)
            });
        });
    }
    let text = playlist("");
    group.bench_function("hls_parse_10000", |b| {
        b.iter(|| hls::Playlist::parse(black_box(text.as_bytes()), &base, &[]).expect("a playlist"));
    });
    let text = mpd();
    group.bench_function("dash_rewrite_10000", |b| {
        b.iter(|| {
            let options = dash::RewriteOptions::default();
            let edits = dash::rewrite(black_box(&text), &base, SERVED, &map, &options).expect("an MPD");
            apply(&text, &edits)
        });
    });
    group.bench_function("dash_parse_and_enumerate_10000", |b| {
        b.iter(|| {
            let mpd = dash::Mpd::parse(black_box(text.as_bytes()), &base).expect("an MPD");
            mpd.segments(&mpd.representations[0], WallTime::from_unix_millis(0))
        });
    });
    group.finish();
}

criterion_group!(benches, manifests);
criterion_main!(benches);
