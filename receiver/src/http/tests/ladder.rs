//! Every line of the decision ladder, in virtual time.

use super::rig::{Rig, SEGMENT, Script, bytes};
use crate::http::Options;
use crate::library::{Availability, RepairPlan, Source, Stored};
use bytes::Bytes;
use http::header::{self, HeaderName};
use mahp_common::{Digest, ObjectMeta};
use std::sync::Arc;
use std::time::Duration;

const PATH: &str = "/live/news/v/1.ts";

fn ms(d: Duration) -> u128 {
    d.as_millis()
}

#[tokio::test(start_paused = true)]
async fn here_is_sent_at_once() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.multicast.multicast(SEGMENT, &body);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), seen.body.as_ref().ok()), (200, Some(&body)));
    assert_eq!(seen.header("cache-status"), "mahp; hit; detail=multicast");
    assert_eq!(seen.header("etag"), format!("\"b3-{}\"", Digest::of(&body).to_hex()));
    assert_eq!(seen.header("content-type"), "video/mp2t");
    assert_eq!(seen.header("accept-ranges"), "bytes");
    assert_eq!(seen.header("age"), "0");
    assert_eq!(seen.header("cache-control"), "public, max-age=3600, immutable");
    assert_eq!(seen.header("timing-allow-origin"), "*");
    assert_eq!(seen.header("access-control-allow-origin"), "*");
    assert!(seen.header("access-control-expose-headers").contains("Cache-Status"));
    assert_eq!((seen.waited, rig.web.count()), (Duration::ZERO, 0));
    assert_eq!(rig.served.of("news").multicast, 5000);
    assert_eq!(rig.served.viewers(rig.clock.now(), "news"), 1);
}

#[tokio::test(start_paused = true)]
async fn coming_is_waited_for_and_multicast_wins() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body)]);
    rig.multicast.forecast(SEGMENT, Availability::Coming { expected_by: rig.at(1500), progress: 0.5 });
    let late = body.clone();
    rig.later(1400, move |library| library.multicast(SEGMENT, &late));
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), ms(seen.waited)), (200, 1400));
    assert_eq!(seen.header("cache-status"), "mahp; hit; detail=multicast");
    assert_eq!(rig.web.count(), 0);
    assert_eq!(rig.served.holds().count, 1);
}

#[tokio::test(start_paused = true)]
async fn coming_too_late_is_fetched_in_time() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body).after(300)]);
    rig.multicast.forecast(SEGMENT, Availability::Coming { expected_by: rig.at(1000), progress: 0.9 });
    let seen = rig.get(PATH).await;
    assert_eq!(seen.header("cache-status"), "mahp; fwd=miss; stored; detail=unicast");
    assert_eq!(seen.body.ok(), Some(body));
    // Not before it should have come, and not at the last moment.
    let asked = ms(rig.web.asked()[0].at);
    assert!((1100..=1600).contains(&asked), "{asked}");
    assert_eq!(rig.multicast.state.lock().unwrap().put.len(), 1);
    assert_eq!(rig.served.of("news").unicast, 5000);
    assert_eq!(rig.served.origin()["fallback"], 5000);
}

#[tokio::test(start_paused = true)]
async fn a_player_whose_buffer_runs_dry_is_served_sooner() {
    // As `coming_too_late_is_fetched_in_time`, but multicast promises more than the player can wait for.
    for (deadline, asked_by) in [("20000", 3000..=3600), ("4000", 1400..=1600), ("100", 0..=600)] {
        let (rig, body) = (Rig::new(), bytes(5000));
        rig.web.script(SEGMENT, [Script::body(&body).after(300)]);
        rig.multicast.forecast(SEGMENT, Availability::Coming { expected_by: rig.at(6000), progress: 0.5 });
        let cmcd = format!("bl={deadline},dl={deadline},su");
        let seen = rig.ask("GET", PATH, &[(HeaderName::from_static("cmcd-request"), &cmcd)]).await;
        assert_eq!(seen.body.ok(), Some(body));
        let asked = ms(rig.web.asked()[0].at);
        assert!(asked_by.contains(&asked), "deadline {deadline} ms, asked at {asked} ms");
    }
    // What multicast brings sooner than the origin could is left to it.
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.multicast.forecast(SEGMENT, Availability::Coming { expected_by: rig.at(50), progress: 0.9 });
    let late = body.clone();
    rig.later(60, move |library| library.multicast(SEGMENT, &late));
    let seen = rig.ask("GET", PATH, &[(HeaderName::from_static("cmcd-request"), "dl=0,su")]).await;
    assert!(seen.body == Ok(body));
    assert_eq!((ms(seen.waited), rig.web.count()), (60, 0));
}

#[tokio::test(start_paused = true)]
async fn a_forecast_that_moves_away_does_not_move_the_deadline() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body).after(300)]);
    for step in 0..20 {
        let expected_by = rig.at(step * 500 + 2000);
        let available = Availability::Coming { expected_by, progress: 0.1 };
        rig.later(step * 500, move |library| library.forecast(SEGMENT, available));
    }
    rig.multicast.forecast(SEGMENT, Availability::Coming { expected_by: rig.at(2000), progress: 0.1 });
    let seen = rig.get(PATH).await;
    assert_eq!(seen.body.ok(), Some(body));
    assert!(ms(seen.waited) < 8000, "{:?}", seen.waited);
}

#[tokio::test(start_paused = true)]
async fn expected_is_waited_for_then_fetched() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body)]);
    rig.multicast.forecast(SEGMENT, Availability::Expected { until: rig.at(2000) });
    let seen = rig.get(PATH).await;
    assert_eq!(seen.body.ok(), Some(body));
    assert!((2000..=2500).contains(&ms(seen.waited)), "{:?}", seen.waited);
}

#[tokio::test(start_paused = true)]
async fn not_coming_is_fetched_at_once_and_stored() {
    let (rig, body) = (Rig::new(), bytes(5000));
    let script = Script::body(&body)
        .header(header::CONTENT_TYPE, "video/x")
        .header(header::LAST_MODIFIED, "Sun, 22 Nov 2026 15:00:00 GMT")
        .header(header::ETAG, "\"o\"")
        .header(header::CACHE_CONTROL, "max-age=77");
    rig.web.script(SEGMENT, [script]);
    let first = rig.get(PATH).await;
    assert_eq!((first.waited, first.header("content-type")), (Duration::ZERO, "video/x"));
    assert_eq!(first.header("last-modified"), "Sun, 22 Nov 2026 15:00:00 GMT");
    assert_eq!(first.header("cache-control"), "public, max-age=77, immutable");
    let second = rig.get(PATH).await;
    assert_eq!(second.header("cache-status"), "mahp; hit; detail=unicast");
    assert_eq!(first.header("etag"), second.header("etag"));
    assert_eq!((second.body.ok(), rig.web.count()), (Some(body), 1));
}

/// What the store has of a resource that its origin may have replaced.
fn stale(rig: &Rig, url: &str, body: &Bytes) {
    let piece = Stored {
        meta: ObjectMeta { url: url.into(), ..ObjectMeta::default() },
        payload: body.clone().into(),
        source: Source::Unicast,
        stored_at: rig.at(0),
        good_until: Some(rig.at(0)),
    };
    rig.multicast.forecast(url, Availability::Stale(vec![Arc::new(piece)]));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_replaced_is_asked_for_and_served_if_the_origin_does_not_answer() {
    const LIST: &str = "https://cdn.example/live/assets.json";
    const PATH: &str = "/live/news/assets.json";
    let (old, new) = (bytes(10), bytes(20));
    for (script, status, body, waited, told) in [
        (Script::body(&new), 200, &new, 0, "mahp; fwd=miss; stored; detail=unicast"),
        (Script::dead(), 200, &old, 0, "mahp; fwd=stale; detail=unicast"),
        (Script::body(&new).after(5000), 200, &old, 2000, "mahp; fwd=stale; detail=unicast"),
    ] {
        let rig = Rig::new();
        stale(&rig, LIST, &old);
        rig.web.script(LIST, [script]);
        let seen = rig.get(PATH).await;
        assert_eq!((seen.status.as_u16(), ms(seen.waited)), (status, waited));
        assert_eq!(seen.header("cache-status"), told);
        assert_eq!(seen.body.as_ref().ok(), Some(body));
        assert_eq!(rig.web.count(), 1);
    }
    let rig = Rig::new();
    stale(&rig, LIST, &old);
    assert_eq!(rig.get(PATH).await.status.as_u16(), 404, "the origin has it no more");
    let rig = Rig::with(Options { unicast: false, ..Options::default() });
    stale(&rig, LIST, &old);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.waited, seen.body.ok()), (Duration::ZERO, Some(old)));
}

#[tokio::test(start_paused = true)]
async fn what_may_change_is_not_called_immutable() {
    let rig = Rig::new();
    for (name, says, told) in [
        ("a.json", "max-age=9", "public, max-age=9"),
        ("b.json", "no-cache", "no-cache"),
        ("c.ts", "max-age=99", "public, max-age=99, immutable"),
    ] {
        let script = Script::body(&bytes(10)).header(header::CACHE_CONTROL, says);
        rig.web.script(&format!("https://cdn.example/live/{name}"), [script]);
        let seen = rig.get(&format!("/live/news/{name}")).await;
        assert_eq!(seen.header("cache-control"), told, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_viewers_are_one_request_to_the_origin() {
    let (rig, body) = (Rig::new(), bytes(50_000));
    rig.web.script(SEGMENT, [Script::body(&body).after(500)]);
    let mut viewers = tokio::task::JoinSet::new();
    let rig = Arc::new(rig);
    for i in 0..100 {
        let (rig, body) = (rig.clone(), body.clone());
        viewers.spawn(async move {
            // Some leave before it is there, the first one too.
            let got = tokio::time::timeout(
                Duration::from_millis(if i % 10 == 0 { 100 } else { 5000 }),
                rig.get(&format!("{PATH}?token={i}&CMCD=br%3D{i}")),
            )
            .await;
            if let Ok(seen) = got {
                assert_eq!(seen.body.ok(), Some(body));
            }
        });
    }
    while let Some(done) = viewers.join_next().await {
        done.expect("viewer");
    }
    assert_eq!(rig.web.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_download_nobody_waits_for_ends() {
    let rig = Rig::new();
    rig.web.script(SEGMENT, [Script::body(&bytes(100)).after(3000)]);
    let left = tokio::time::timeout(Duration::from_secs(1), rig.get(PATH)).await;
    assert!(left.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(rig.multicast.state.lock().unwrap().put.is_empty());
}

#[tokio::test(start_paused = true)]
async fn multicast_wins_over_a_running_download() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body).after(4000)]);
    let late = body.clone();
    rig.later(700, move |library| library.multicast(SEGMENT, &late));
    let seen = rig.get(PATH).await;
    assert_eq!((ms(seen.waited), seen.header("cache-status")), (700, "mahp; hit; detail=multicast"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(rig.multicast.state.lock().unwrap().put.is_empty(), "the download went on");
}

fn plan(body: &Bytes, ranges: &[(u64, u64)]) -> RepairPlan {
    let meta = ObjectMeta {
        url: SEGMENT.into(),
        length: body.len() as u64,
        digest: Some(Digest::of(body)),
        etag: Some("\"o\"".into()),
        ..ObjectMeta::default()
    };
    RepairPlan { meta, ranges: ranges.to_vec() }
}

fn rig_with_losses(body: &Bytes, ranges: &[(u64, u64)]) -> Rig {
    let rig = Rig::new();
    rig.multicast.forecast(SEGMENT, Availability::Coming { expected_by: rig.at(500), progress: 0.9 });
    let mut state = rig.multicast.state.lock().unwrap();
    state.plan = Some(plan(body, ranges));
    let need = ranges.iter().map(|(a, b)| b - a + 1).sum();
    state.complete_after = Some((need, body.clone()));
    drop(state);
    rig
}

#[tokio::test(start_paused = true)]
async fn missing_ranges_are_fetched_and_fed() {
    let body = bytes(100_000);
    let rig = rig_with_losses(&body, &[(1000, 1999), (50_000, 50_999)]);
    rig.web.script(SEGMENT, [Script::body(&body)]);
    let seen = rig.get(PATH).await;
    assert_eq!(seen.header("cache-status"), "mahp; hit; detail=repaired");
    assert_eq!(seen.body.as_ref().ok(), Some(&body));
    let asked = rig.web.asked();
    let ranges: Vec<_> = asked.iter().map(|a| a.range).collect();
    assert_eq!(ranges, [Some((1000, Some(1999))), Some((50_000, Some(50_999)))]);
    assert!(asked.iter().all(|a| a.headers[header::IF_RANGE] == "\"o\""));
    let fed = rig.multicast.state.lock().unwrap().fed.clone();
    assert!(fed.iter().all(|(at, b)| body[*at as usize..][..b.len()] == b[..]));
    assert_eq!((rig.served.origin()["repair"], rig.served.of("news").repaired), (2000, 100_000));
}

#[tokio::test(start_paused = true)]
async fn an_origin_without_ranges_gives_the_whole() {
    let body = bytes(100_000);
    let rig = rig_with_losses(&body, &[(1000, 1999)]);
    rig.web.script(SEGMENT, [Script::body(&body).with(|s| s.knows_ranges = false)]);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.body.ok(), rig.web.count()), (Some(body), 1));
    assert_eq!(seen.headers["cache-status"], "mahp; fwd=miss; stored; detail=unicast");
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_does_not_help_is_followed_by_the_whole() {
    let body = bytes(100_000);
    let rig = rig_with_losses(&body, &[(1000, 1999)]);
    rig.multicast.state.lock().unwrap().complete_after = None;
    rig.web.script(SEGMENT, [Script::body(&body)]);
    let seen = rig.get(PATH).await;
    assert_eq!(seen.body.ok(), Some(body));
    let ranges: Vec<_> = rig.web.asked().iter().map(|a| a.range).collect();
    assert_eq!(ranges, [Some((1000, Some(1999))), None]);
}

#[tokio::test(start_paused = true)]
async fn another_file_at_the_origin_is_not_fed() {
    let (body, other) = (bytes(100_000), bytes(90_000));
    let rig = rig_with_losses(&body, &[(1000, 1999)]);
    rig.web.script(SEGMENT, [Script::body(&other)]);
    let seen = rig.get(PATH).await;
    assert_eq!(seen.body.ok(), Some(other));
    assert!(rig.multicast.state.lock().unwrap().fed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_404_is_passed_on() {
    let rig = Rig::new();
    rig.web.script(SEGMENT, [Script::status(404)]);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), seen.waited), (404, Duration::ZERO));
    assert_eq!(seen.header("cache-control"), "no-store");
    assert_eq!(seen.header("mahp-error"), "E-ORIGIN-STATUS");
    assert_eq!(seen.header("access-control-allow-origin"), "*");
}

#[tokio::test(start_paused = true)]
async fn a_404_is_not_passed_on_while_multicast_may_bring_it() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::status(404)]);
    rig.multicast.forecast(SEGMENT, Availability::Expected { until: rig.at(500) });
    let late = body.clone();
    rig.later(6000, move |library| library.multicast(SEGMENT, &late));
    let seen = rig.get(PATH).await;
    assert_eq!((seen.body.ok(), ms(seen.waited)), (Some(body), 6000));
    assert!(rig.web.count() < 6);
}

#[tokio::test(start_paused = true)]
async fn a_404_is_passed_on_when_multicast_did_not_bring_it_either() {
    let rig = Rig::new();
    rig.web.script(SEGMENT, [Script::status(410)]);
    rig.multicast.forecast(SEGMENT, Availability::Expected { until: rig.at(500) });
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), ms(seen.waited)), (410, 8000));
}

#[tokio::test(start_paused = true)]
async fn a_dead_origin_is_a_504_after_the_budget_and_not_earlier() {
    for script in [Script::dead(), Script::status(503), Script::body(&bytes(9)).after(60_000)] {
        for expected in [false, true] {
            let rig = Rig::new();
            rig.web.script(SEGMENT, [script.clone()]);
            if expected {
                rig.multicast.forecast(SEGMENT, Availability::Expected { until: rig.at(500) });
            }
            let seen = rig.ask("GET", PATH, &[(header::ACCEPT, "application/json")]).await;
            assert_eq!((seen.status.as_u16(), ms(seen.waited)), (504, 8000));
            let told: serde_json::Value = serde_json::from_str(&seen.text()).unwrap();
            assert_eq!(told["code"], "E-NO-SOURCE");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_comes_back_within_the_budget_is_no_error() {
    let (rig, body) = (Rig::new(), bytes(5000));
    let broken = Script::body(&body).with(|s| s.breaks_at = Some(1000));
    rig.web.script(SEGMENT, [Script::dead(), Script::status(502), broken, Script::body(&body)]);
    let seen = rig.get(PATH).await;
    assert_eq!(seen.body.ok(), Some(body));
    assert_eq!(rig.web.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn without_unicast_only_multicast_counts() {
    let rig = Rig::with(Options { unicast: false, ..Options::default() });
    rig.web.script(SEGMENT, [Script::body(&bytes(9))]);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), rig.web.count()), (504, 0));
    assert!(seen.text().contains("switched off"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_download_is_passed_on_as_it_comes_when_the_time_is_up() {
    let (rig, body) = (Rig::new(), bytes(40_000));
    let slow = |s: &mut super::rig::Sent| (s.piece, s.pace) = (1000, Duration::from_millis(500));
    rig.web.script(SEGMENT, [Script::body(&body).with(slow)]);
    let seen = rig.get(PATH).await;
    assert_eq!((ms(seen.waited), seen.header("content-length")), (8000, "40000"));
    assert_eq!(seen.body.ok(), Some(body));
}

#[tokio::test(start_paused = true)]
async fn a_download_that_breaks_after_the_headers_breaks_the_connection() {
    let (rig, body) = (Rig::new(), bytes(40_000));
    let slow = |s: &mut super::rig::Sent| {
        (s.piece, s.pace, s.breaks_at) = (1000, Duration::from_millis(500), Some(30_000));
    };
    rig.web.script(SEGMENT, [Script::body(&body).with(slow)]);
    let seen = rig.get(PATH).await;
    assert_eq!((seen.status.as_u16(), seen.header("content-length")), (200, "40000"));
    assert_eq!(seen.body.err(), Some(body.slice(..30_000)));
}

#[tokio::test(start_paused = true)]
async fn a_failing_leader_does_not_poison_followers() {
    let (rig, body) = (Arc::new(Rig::new()), bytes(5000));
    rig.web.script(&format!("{SEGMENT}?token=old"), [Script::status(403).after(200)]);
    rig.web.script(&format!("{SEGMENT}?token=new"), [Script::body(&body).after(200)]);
    let leader = rig.clone();
    let leader = tokio::spawn(async move { leader.get(&format!("{PATH}?token=old")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let follower = rig.get(&format!("{PATH}?token=new")).await;
    assert_eq!(follower.body.ok(), Some(body));
    let leader = leader.await.unwrap();
    assert!(leader.status.as_u16() == 403 || leader.status.as_u16() == 200);
}

#[tokio::test(start_paused = true)]
async fn answers_for_one_viewer_are_neither_stored_nor_shared() {
    for (name, value) in [(header::SET_COOKIE, "s=1; Path=/"), (header::CACHE_CONTROL, "private")] {
        let (rig, body) = (Arc::new(Rig::new()), bytes(5000));
        rig.web.script(SEGMENT, [Script::body(&body).after(100).header(name.clone(), value)]);
        let other = rig.clone();
        let other = tokio::spawn(async move { other.get(PATH).await });
        let seen = rig.get(PATH).await;
        assert_eq!(seen.body.as_ref().ok(), Some(&body));
        assert_eq!(other.await.unwrap().body.ok(), Some(body));
        assert_eq!(seen.header("cache-status"), "mahp; fwd=miss; detail=unicast");
        assert_eq!(seen.header("cache-control"), "private, no-cache");
        if name == header::SET_COOKIE {
            assert_eq!(seen.header("set-cookie"), "s=1; Path=/live/news/v/");
        }
        assert!(rig.multicast.state.lock().unwrap().put.is_empty());
        assert!(rig.web.count() >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_viewers_credentials_go_to_the_origin_and_to_no_other_viewer() {
    let (rig, body) = (Arc::new(Rig::new()), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body).after(100)]);
    let headers = [(header::AUTHORIZATION, "Basic eA=="), (header::COOKIE, "a=b")];
    let other = rig.clone();
    let other = tokio::spawn(async move { other.get(PATH).await });
    let seen = rig.ask("GET", PATH, &headers).await;
    assert_eq!(seen.body.ok(), Some(body));
    other.await.unwrap();
    let asked = rig.web.asked();
    assert_eq!(asked.len(), 2);
    let with: Vec<_> = asked.iter().filter(|a| a.headers.contains_key(header::AUTHORIZATION)).collect();
    assert_eq!((with.len(), &with[0].headers[header::COOKIE]), (1, &"a=b".parse().unwrap()));
    assert!(asked.iter().all(|a| a.headers.contains_key(header::VIA)));
}

#[tokio::test(start_paused = true)]
async fn sources_of_pieces_are_told_truly() {
    let rig = Rig::new();
    let body = bytes(2000);
    rig.multicast.store(
        ObjectMeta { url: SEGMENT.into(), ..ObjectMeta::default() },
        body.clone(),
        Source::Repaired,
    );
    assert_eq!(rig.get(PATH).await.header("cache-status"), "mahp; hit; detail=repaired");
    assert_eq!(rig.served.of("news").repaired, 2000);
}

/// One 404 ends VLC and dash.js: a channel may be of a sender that has not answered yet.
#[tokio::test(start_paused = true)]
async fn a_channel_of_a_sender_that_has_not_answered_is_waited_for() {
    waits_for_the_sender(PATH, (404, "news")).await;
}

/// The same by the URL at its origin.
#[tokio::test(start_paused = true)]
async fn an_origin_of_a_sender_that_has_not_answered_is_waited_for() {
    waits_for_the_sender("/https/cdn.example/live/v/1.ts", (403, "cdn.example")).await;
    waits_for_the_sender(SEGMENT, (403, "cdn.example")).await;
}

async fn waits_for_the_sender(path: &str, (refused, what): (u16, &str)) {
    let rig = Rig::new();
    let channels = std::mem::take(&mut rig.multicast.state.lock().unwrap().channels);
    assert_eq!(rig.get(path).await.status.as_u16(), refused, "all have answered");

    rig.multicast.state.lock().unwrap().unheard_sessions = true;
    rig.multicast.state.lock().unwrap().budget = Some(Duration::from_secs(3));
    let seen = rig.get(path).await;
    assert_eq!((seen.status.as_u16(), ms(seen.waited)), (504, 2250));
    assert_eq!((seen.header("mahp-error"), seen.header("retry-after")), ("E-SESSION", "2"));
    assert!(seen.text().contains(what));

    // It answers, and has no such channel.
    rig.later(1000, |library| {
        library.state.lock().unwrap().unheard_sessions = false;
        library.bump();
    });
    let seen = rig.get(path).await;
    assert_eq!((seen.status.as_u16(), ms(seen.waited)), (refused, 1000));

    // It answers late, has it, and nobody brings it: that wait is of the same hold.
    let late = channels.clone();
    rig.multicast.state.lock().unwrap().unheard_sessions = true;
    rig.web.script(SEGMENT, [Script::status(200).after(60_000)]);
    rig.later(2000, move |library| {
        library.state.lock().unwrap().channels = late;
        library.bump();
    });
    let seen = rig.get(path).await;
    assert_eq!((seen.status.as_u16(), ms(seen.waited)), (504, 3000));
    rig.multicast.state.lock().unwrap().channels.clear();

    // It answers, and has it.
    rig.multicast.state.lock().unwrap().unheard_sessions = true;
    let body = bytes(5000);
    rig.multicast.multicast(SEGMENT, &body);
    rig.later(500, |library| library.bump());
    rig.later(1000, |library| {
        library.state.lock().unwrap().channels = channels;
        library.bump();
    });
    let seen = rig.get(path).await;
    assert_eq!((seen.status.as_u16(), ms(seen.waited)), (200, 1000));
    assert_eq!(seen.body.ok(), Some(body));
}
