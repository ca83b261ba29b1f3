//! The built-in player against the origin, without anything in between: it must find nothing wrong where nothing is wrong, and
//! must find what is.

use http::StatusCode;
use mahp_common::WallTime;
use mahp_testbed::client::{Choice, Options, Report, Verdict, Via, play};
use mahp_testbed::clip::Clip;
use mahp_testbed::origin::{Fault, Origin};
use mahp_testbed::presentation::{Class, Presentation};
use std::sync::Arc;
use std::time::Duration;

async fn origin() -> Origin {
    let now = mahp_runtime::clock::Clock::new().wall();
    let epoch = WallTime::from_unix_millis(now.unix_millis() - 60_500);
    let presentation = Presentation::new(Clip::embedded(), epoch, Duration::from_secs(8));
    Origin::start(([127, 0, 0, 1], 0).into(), presentation).await.expect("a free port")
}

fn options(origin: &Origin, path: &str, secs: u64) -> Options {
    let presentation = origin.presentation().clone();
    let truth = Arc::new(move |url: &url::Url| presentation.truth(url.path()));
    Options { truth: Some(truth), ..Options::new(origin.url(path), Duration::from_secs(secs)) }
}

fn numbers(report: &Report, track: usize) -> Vec<u64> {
    report.segments.iter().filter(|s| s.track == track).map(|s| s.number).collect()
}

#[tokio::test]
async fn plays_on_demand_hls_to_the_end() {
    let origin = origin().await;
    let report = play(options(&origin, "/vod/master.m3u8", 60)).await;
    assert_eq!(report.complaints(), Vec::<String>::new(), "{report:?}");
    assert_eq!((numbers(&report, 0), numbers(&report, 1)), ((0..4).collect(), (0..4).collect()));
    assert!((7900..=8100).contains(&report.played_ms), "{report:?}");
    assert_eq!(report.inits.len(), 2);
    assert!(report.segments.iter().all(|s| s.verdict == Verdict::Same && s.via == Via::Unsaid));
    assert_eq!(origin.log().of("mahp-testbed-player", Class::Media).bytes, report.bytes());
}

#[tokio::test]
async fn plays_live_hls_from_three_segments_behind() {
    let origin = origin().await;
    let low = Options { choice: Choice::Lowest, ..options(&origin, "/live/master.m3u8", 4) };
    let report = play(low).await;
    assert_eq!(report.complaints(), Vec::<String>::new(), "{report:?}");
    for track in 0..2 {
        let numbers = numbers(&report, track);
        // 60.5 s after the epoch segment 29 is the newest: 27, 28, 29, and what came in four seconds.
        assert!(numbers.len() >= 4 && numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
        assert!((27..=30).contains(&numbers[0]), "{numbers:?}");
    }
    assert!(report.segments.iter().any(|s| s.url.contains("/lo/")));
}

#[tokio::test]
async fn plays_on_demand_dash_to_the_end() {
    let origin = origin().await;
    let report = play(options(&origin, "/vod/manifest.mpd", 60)).await;
    assert_eq!(report.complaints(), Vec::<String>::new(), "{report:?}");
    assert_eq!((numbers(&report, 0), numbers(&report, 1)), ((0..4).collect(), (0..4).collect()));
    assert!((7900..=8100).contains(&report.played_ms), "{report:?}");
    assert_eq!((report.format.as_str(), report.inits.len()), ("dash", 2));
}

#[tokio::test]
async fn plays_live_dash_and_asks_for_nothing_before_its_time() {
    let origin = origin().await;
    let report = play(options(&origin, "/live/manifest.mpd", 5)).await;
    assert_eq!(report.complaints(), Vec::<String>::new(), "{report:?}");
    assert_eq!(report.failures.values().sum::<u64>(), 0, "{report:?}");
    for track in 0..2 {
        let numbers = numbers(&report, track);
        assert!(numbers.len() >= 4 && numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
        assert!((27..=30).contains(&numbers[0]), "{numbers:?}");
    }
}

#[tokio::test]
async fn errors_are_retried_and_told() {
    let origin = origin().await;
    let status = StatusCode::SERVICE_UNAVAILABLE;
    origin.set_knobs(|k| k.faults.push(Fault { path: "/hi/2.m4s".into(), status, times: Some(1) }));
    let report = play(options(&origin, "/vod/master.m3u8", 60)).await;
    assert_eq!(report.complaints(), Vec::<String>::new(), "one error in time is no harm: {report:?}");
    assert_eq!(report.failures.values().sum::<u64>(), 1);
    assert!(report.segments.iter().any(|s| s.requests == 2));
}

#[tokio::test]
async fn wrong_bytes_are_found() {
    let origin = origin().await;
    let presentation = origin.presentation().clone();
    let mut wrong = options(&origin, "/vod/master.m3u8", 60);
    wrong.truth = Some(Arc::new(move |url: &url::Url| {
        let mut bytes = presentation.truth(url.path())?.to_vec();
        if url.path().ends_with("/audio/1.m4s") {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        Some(bytes.into())
    }));
    let complaints = play(wrong).await.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("/vod/audio/1.m4s has other bytes"), "{complaints:?}");
}

#[tokio::test]
async fn a_segment_that_never_comes_is_a_stall() {
    let origin = origin().await;
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    origin.set_knobs(|k| k.faults.push(Fault { path: "/audio/1.m4s".into(), status, times: None }));
    let report = play(options(&origin, "/vod/master.m3u8", 5)).await;
    assert_eq!(report.stalls.len(), 1, "{report:?}");
    assert!((1900..=2100).contains(&report.played_ms), "only the first segment has sound: {report:?}");
    assert!(report.complaints().iter().any(|c| c.contains("1 stalls")), "{:?}", report.complaints());
}

#[tokio::test]
async fn what_is_no_manifest_is_said() {
    let origin = origin().await;
    let report = play(options(&origin, "/vod/hi/init.mp4", 5)).await;
    assert!(report.error.unwrap().contains("neither a playlist nor an MPD"));
}
