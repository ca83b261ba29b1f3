//! What is found behind a channel's URL: every kind of rendition of a master playlist, with everything that tells them apart.

use crate::support::{ListSink, Reply, ScriptedOrigin, origin, segments};
use mahp_common::catalog::{Format, Role};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use mahp_sender::cli::Cli;
use mahp_sender::config::{ChannelConfig, resolve};
use mahp_sender::origin::discover::{Found, What, discover};
use mahp_sender::origin::live::{FollowOptions, follow};
use std::io::Write as _;
use std::sync::Arc;

const MASTER: &str = "#EXTM3U\n\
    #EXT-X-VERSION:8\n\
    #EXT-X-DEFINE:NAME=\"side\",VALUE=\"b\"\n\
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"English\",LANGUAGE=\"en\",DEFAULT=YES,URI=\"audio/{$side}/en.m3u8\"\n\
    #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",NAME=\"Deutsch\",LANGUAGE=\"de\",URI=\"text/de.m3u8\"\n\
    #EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID=\"c\",NAME=\"CC\",INSTREAM-ID=\"CC1\"\n\
    #EXT-X-STREAM-INF:BANDWIDTH=800000,RESOLUTION=640x360,CODECS=\"avc1.64001e,mp4a.40.2\",AUDIO=\"a\",SUBTITLES=\"s\"\n\
    low.m3u8?token=1\n\
    #EXT-X-STREAM-INF:BANDWIDTH=3000000,RESOLUTION=1280x720,AUDIO=\"a\"\n\
    high.m3u8?token=1\n\
    #EXT-X-STREAM-INF:BANDWIDTH=3200000,RESOLUTION=1280x720,AUDIO=\"other\"\n\
    high.m3u8?token=1\n\
    #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=90000,RESOLUTION=640x360,URI=\"iframes.m3u8\"\n";

fn media(segment: &str, lines: &str) -> String {
    format!("#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:4\n{lines}#EXTINF:4,\n{segment}\n")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// An origin with a rich master playlist, compressed, behind a redirect.
async fn rich() -> ScriptedOrigin {
    let o = ScriptedOrigin::start().await;
    o.set("/show/master.m3u8", Reply::status(302).header("location", "/edge/show/master.m3u8"));
    o.set("/edge/show/master.m3u8", Reply::ok(gzip(MASTER.as_bytes())).header("content-encoding", "gzip"));
    o.set("/edge/show/audio/b/en.m3u8", Reply::ok(media("en1.aac", "")));
    o.set("/edge/show/text/de.m3u8", Reply::ok(media("de1.vtt", "")));
    o.set("/edge/show/low.m3u8?token=1", Reply::ok(media("low1.ts", "#EXT-X-PLAYLIST-TYPE:EVENT\n")));
    o.set("/edge/show/high.m3u8?token=1", Reply::ok(media("high1.ts", "")));
    o.set("/edge/show/iframes.m3u8", Reply::ok(media("low1.ts", "#EXT-X-I-FRAMES-ONLY\n")));
    o
}

fn config(o: &ScriptedOrigin, arguments: &[&str]) -> ChannelConfig {
    let url = o.url("/show/master.m3u8");
    let line = ["mahp-sender", url.as_str()].into_iter().chain(arguments.iter().copied());
    let cli = <Cli as clap::Parser>::try_parse_from(line).expect("a valid command line");
    resolve(cli).expect("valid").channels.remove(0)
}

async fn found(o: &ScriptedOrigin, arguments: &[&str]) -> Result<Found, StartupError> {
    discover(&Fetcher::new("mahp-sender/test"), Clock::new(), &config(o, arguments)).await
}

#[tokio::test]
async fn every_kind_of_rendition_is_found_once() {
    let o = rich().await;
    let found = found(&o, &["--include-iframes"]).await.expect("found");
    let all: Vec<(&str, Role, u64)> =
        found.renditions.iter().map(|r| (r.id.as_str(), r.role, r.bitrate_bps)).collect();
    let told = [
        ("640x360", Role::Video, 800_000),
        ("1280x720", Role::Video, 3_200_000),
        ("iframes-640x360", Role::Other, 90_000),
    ];
    assert_eq!(all[..3], told, "a playlist that two variants name is carried once");
    let names: Vec<(&str, Role)> = all[3..].iter().map(|(id, role, _)| (*id, *role)).collect();
    assert_eq!(names, [("audio-en", Role::Audio), ("text-de", Role::Text)]);
    assert!(all.iter().all(|(_, _, bitrate)| *bitrate > 0), "estimated where nothing tells it: {all:?}");
    assert_eq!((found.format, found.live), (Format::Hls, true), "EVENT without EXT-X-ENDLIST goes on");
    let manifest = found.manifest.expect("the master playlist");
    assert_eq!(manifest.url, o.url("/show/master.m3u8"), "under the address that players use");
    assert_eq!(manifest.object.data, MASTER.as_bytes(), "uncompressed, byte for byte");
    assert_eq!(found.renditions[4].language.as_deref(), Some("de"));
    let audio = found.renditions[3].playlist_url.as_ref().map(url::Url::path);
    assert_eq!(audio, Some("/edge/show/audio/b/en.m3u8"), "EXT-X-DEFINE and the redirect's base are applied");
    assert!(found.prefixes.contains(&o.url("/edge/show/").to_string()), "{:?}", found.prefixes);
}

#[tokio::test]
async fn renditions_are_chosen_by_role_size_and_language() {
    let o = rich().await;
    for (filter, expected) in [
        ("audio", vec!["audio-en"]),
        ("640X360,text", vec!["640x360", "text-de"]),
        ("de", vec!["text-de"]),
        ("video", vec!["640x360", "1280x720"]),
    ] {
        let found = found(&o, &["--renditions", filter]).await.expect("found");
        let ids: Vec<&str> = found.renditions.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, expected, "--renditions {filter}");
    }
    let error = found(&o, &["--renditions", "4k"]).await.expect_err("nothing is left");
    assert!(error.message.contains("no rendition") && error.hint.contains("--dry-run"), "{error}");
}

#[tokio::test]
async fn one_dead_playlist_does_not_stop_the_start() {
    let o = rich().await;
    o.set("/edge/show/high.m3u8?token=1", Reply::status(503));
    let found = found(&o, &[]).await.expect("found");
    let first = |id: &str| {
        let r = found.renditions.iter().find(|r| r.id == id).expect("it is carried all the same");
        matches!(&r.what, What::Hls(hls) if hls.first.is_some())
    };
    assert!(first("640x360"));
    assert!(!first("1280x720"), "followed until it answers");
}

/// Sample-encrypted segments go out as they are, keys and dates stay in the playlist, variables of the master are known.
#[tokio::test]
async fn media_playlist_goes_out_byte_for_byte() {
    let server = ScriptedOrigin::start().await;
    let text = "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-TARGETDURATION:1\n\
        #EXT-X-DEFINE:IMPORT=\"side\"\n\
        #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://key/1\",KEYFORMAT=\"com.apple.streamingkeydelivery\"\n\
        #EXT-X-DATERANGE:ID=\"ad\",START-DATE=\"2026-01-01T00:00:00Z\",X-ASSET-URI=\"http://ads.example/x\"\n\
        #EXTINF:1,\r\n{$side}/seg1.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:1,\n{$side}/seg2.ts\n#EXT-X-UNKNOWN:1\n#EXT-X-ENDLIST\n";
    server.set("/live/media.m3u8", Reply::ok(text));
    segments(&server, "/live/b", 1, 2);
    let sink = ListSink::default();
    let rendition = mahp_sender::origin::hls::HlsRendition {
        url: server.url("/live/media.m3u8"),
        master: None,
        imports: vec![("side".into(), "b".into())],
        first: None,
    };
    let options = FollowOptions { carry_keys: true, repeat: false, low_latency: false };
    follow(origin().0, Arc::new(sink.clone()), rendition, options).await;
    assert_eq!(
        sink.paths(),
        ["/live/b/seg1.ts", "/live/b/seg2.ts", "/live/media.m3u8"],
        "no key of a DRM system"
    );
    assert!(sink.items()[2].object.data == text.as_bytes());
}
