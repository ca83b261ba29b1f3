//! Ranges, HEAD and conditional requests, of the store and of origins.

use super::rig::{Rig, SEGMENT, Script, bytes};
use crate::library::Source;
use bytes::Bytes;
use http::header;
use mahp_common::{ByteRange, ObjectMeta};

const PATH: &str = "/live/news/v/1.ts";

async fn range(rig: &Rig, target: &str, value: &str) -> (u16, String, Option<Bytes>) {
    let seen = rig.ask("GET", target, &[(header::RANGE, value)]).await;
    (seen.status.as_u16(), seen.header("content-range").to_owned(), seen.body.ok())
}

#[tokio::test(start_paused = true)]
async fn every_range_of_a_stored_object() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.multicast.multicast(SEGMENT, &body);
    for (value, status, content_range, part) in [
        ("bytes=0-", 206, "bytes 0-4999/5000", 0..5000),
        ("bytes=0-0", 206, "bytes 0-0/5000", 0..1),
        ("bytes=999-1000", 206, "bytes 999-1000/5000", 999..1001),
        ("bytes=4000-9999", 206, "bytes 4000-4999/5000", 4000..5000),
        ("bytes=-500", 206, "bytes 4500-4999/5000", 4500..5000),
        ("bytes=-9999", 206, "bytes 0-4999/5000", 0..5000),
        ("bytes=0-1,3-4", 200, "", 0..5000),
        ("lines=0-1", 200, "", 0..5000),
    ] {
        let expected = (status, content_range.to_owned(), Some(body.slice(part)));
        assert_eq!(range(&rig, PATH, value).await, expected, "{value}");
    }
    for value in ["bytes=5000-", "bytes=5000-6000", "bytes=-0"] {
        let seen = range(&rig, PATH, value).await;
        assert_eq!(seen, (416, "bytes */5000".to_owned(), Some(Bytes::new())), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_get_without_a_body() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.multicast.multicast(SEGMENT, &body);
    let get = rig.get(PATH).await;
    let head = rig.ask("HEAD", PATH, &[]).await;
    assert_eq!((head.status.as_u16(), head.body.as_deref()), (200, Ok(&b""[..])));
    assert_eq!(head.header("content-length"), "5000");
    assert_eq!(head.header("etag"), get.header("etag"));
    let part = rig.ask("HEAD", PATH, &[(header::RANGE, "bytes=0-9")]).await;
    assert_eq!((part.status.as_u16(), part.header("content-length")), (206, "10"));
    assert_eq!(rig.served.of("news").multicast, 5000);
}

#[tokio::test(start_paused = true)]
async fn what_the_client_has_is_not_sent_again() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.multicast.multicast(SEGMENT, &body);
    let etag = rig.get(PATH).await.header("etag").to_owned();
    let seen = rig.ask("GET", PATH, &[(header::IF_NONE_MATCH, &etag)]).await;
    assert_eq!((seen.status.as_u16(), seen.body.as_deref()), (304, Ok(&b""[..])));
    assert_eq!((seen.header("etag"), seen.header("timing-allow-origin")), (etag.as_str(), "*"));
    let seen = rig.ask("GET", PATH, &[(header::IF_NONE_MATCH, "\"other\"")]).await;
    assert_eq!(seen.status.as_u16(), 200);
    // A client's wish for a fresh copy is not a reason to go to the origin.
    let seen =
        rig.ask("GET", PATH, &[(header::CACHE_CONTROL, "no-cache"), (header::PRAGMA, "no-cache")]).await;
    assert_eq!((seen.status.as_u16(), rig.web.count()), (200, 0));
}

fn piece(rig: &Rig, file: &Bytes, first: u64, last: u64) {
    let range = Some(ByteRange { first, last, complete: Some(file.len() as u64) });
    let meta =
        ObjectMeta { url: SEGMENT.into(), range, etag: Some("\"file\"".into()), ..ObjectMeta::default() };
    rig.multicast.store(meta, file.slice(first as usize..=last as usize), Source::Multicast);
}

#[tokio::test(start_paused = true)]
async fn pieces_of_a_file_serve_ranges_inside_them() {
    let (rig, file) = (Rig::new(), bytes(10_000));
    piece(&rig, &file, 0, 2499);
    piece(&rig, &file, 2500, 4999);
    rig.web.script(SEGMENT, [Script::body(&file)]);
    let seen = rig.ask("GET", PATH, &[(header::RANGE, "bytes=2000-2999")]).await;
    assert_eq!((seen.status.as_u16(), seen.body.ok()), (206, Some(file.slice(2000..3000))));
    assert_eq!(seen.headers["content-range"], "bytes 2000-2999/10000");
    // One tag for all ranges of the file: the origin's.
    assert_eq!((seen.headers["etag"].to_str().unwrap(), rig.web.count()), ("\"file\"", 0));
    let expected = (206, "bytes 4000-5999/10000".to_owned(), Some(file.slice(4000..6000)));
    assert_eq!(range(&rig, PATH, "bytes=4000-5999").await, expected);
    assert_eq!(rig.web.asked()[0].range, Some((4000, Some(5999))));
    // Now it is stored, too.
    assert_eq!(range(&rig, PATH, "bytes=4000-5999").await, expected);
    assert_eq!(rig.web.count(), 1);
}

/// Chromium names the tag of the first range in all further ones. Not all of the file is here, and need not be.
#[tokio::test(start_paused = true)]
async fn if_range_of_a_piece_gets_pieces_and_only_another_version_the_whole() {
    let (rig, file) = (Rig::new(), bytes(10_000));
    piece(&rig, &file, 0, 2499);
    piece(&rig, &file, 2500, 4999);
    rig.web.script(SEGMENT, [Script::body(&file)]);
    let on = |tag: &'static str| [(header::RANGE, "bytes=2000-2999"), (header::IF_RANGE, tag)];
    let seen = rig.ask("GET", PATH, &on("\"file\"")).await;
    assert_eq!((seen.status.as_u16(), seen.body.ok()), (206, Some(file.slice(2000..3000))));
    assert_eq!(rig.web.count(), 0);
    let seen = rig.ask("GET", PATH, &on("\"older\"")).await;
    assert_eq!((seen.status.as_u16(), seen.body.ok()), (200, Some(file.clone())));
    assert_eq!(rig.web.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_whole_is_known_by_its_origins_tag_too() {
    let (rig, file) = (Rig::new(), bytes(5000));
    let meta = ObjectMeta { url: SEGMENT.into(), etag: Some("\"file\"".into()), ..ObjectMeta::default() };
    rig.multicast.store(meta, file.clone(), Source::Multicast);
    let headers = [(header::RANGE, "bytes=10-19"), (header::IF_RANGE, "\"file\"")];
    let seen = rig.ask("GET", PATH, &headers).await;
    assert_eq!(seen.header("etag"), "\"file\"");
    assert_eq!((seen.status.as_u16(), seen.body.ok()), (206, Some(file.slice(10..20))));
}

#[tokio::test(start_paused = true)]
async fn ranges_of_what_is_not_here() {
    let file = bytes(10_000);
    for (value, content_range, part) in [
        ("bytes=0-", "bytes 0-9999/10000", 0..10_000),
        ("bytes=100-199", "bytes 100-199/10000", 100..200),
        ("bytes=9000-", "bytes 9000-9999/10000", 9000..10_000),
        ("bytes=9000-99999", "bytes 9000-9999/10000", 9000..10_000),
        ("bytes=-100", "bytes 9900-9999/10000", 9900..10_000),
    ] {
        for knows_ranges in [true, false] {
            let rig = Rig::new();
            rig.web.script(SEGMENT, [Script::body(&file).with(|s| s.knows_ranges = knows_ranges)]);
            let expected = (206, content_range.to_owned(), Some(file.slice(part.clone())));
            assert_eq!(range(&rig, PATH, value).await, expected, "{value}, {knows_ranges}");
        }
    }
    let rig = Rig::new();
    rig.web.script(SEGMENT, [Script::status(416)]);
    assert_eq!(range(&rig, PATH, "bytes=10000-").await.0, 416);
}

#[tokio::test(start_paused = true)]
async fn if_range_of_a_changed_resource_gets_the_whole() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body)]);
    let headers = [(header::RANGE, "bytes=10-19"), (header::IF_RANGE, "\"old\"")];
    let seen = rig.ask("GET", PATH, &headers).await;
    assert_eq!((seen.status.as_u16(), seen.body.ok()), (200, Some(body.clone())));
    let etag = seen.headers["etag"].to_str().unwrap().to_owned();
    let seen = rig.ask("GET", PATH, &[(header::RANGE, "bytes=10-19"), (header::IF_RANGE, &etag)]).await;
    assert_eq!((seen.status.as_u16(), seen.body.ok()), (206, Some(body.slice(10..20))));
}

const BIG: &str = "https://films.example/film.mp4";
const BIG_PATH: &str = "/https/films.example/film.mp4";

fn rig_with_film(file: &Bytes, knows_ranges: bool) -> Rig {
    let rig = Rig::new();
    rig.multicast.state.lock().unwrap().allowed.push("films.example".into());
    let sent = |s: &mut super::rig::Sent| (s.piece, s.knows_ranges) = (100_000, knows_ranges);
    rig.web.script(BIG, [Script::body(file).with(sent)]);
    rig
}

#[tokio::test(start_paused = true)]
async fn large_files_pass_through() {
    let file = bytes(10 << 20);
    for knows_ranges in [true, false] {
        let rig = rig_with_film(&file, knows_ranges);
        let seen = rig.get(BIG_PATH).await;
        assert_eq!(seen.header("content-length"), "10485760");
        assert_eq!(seen.body.ok(), Some(file.clone()));
        assert!(rig.multicast.state.lock().unwrap().put.is_empty());
        for (value, part) in [
            ("bytes=0-", 0..10 << 20),
            ("bytes=100-", 100..10 << 20),
            ("bytes=1000000-8999999", 1_000_000..9_000_000),
            ("bytes=-6000000", (10 << 20) - 6_000_000..10 << 20),
        ] {
            let (status, _, body) = range(&rig, BIG_PATH, value).await;
            assert_eq!((status, body), (206, Some(file.slice(part))), "{value}, {knows_ranges}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_of_a_large_range_are_stored_as_they_pass() {
    let file = bytes(10 << 20);
    let rig = rig_with_film(&file, true);
    let asked = "bytes=1000-7000999";
    assert_eq!(range(&rig, BIG_PATH, asked).await.2, Some(file.slice(1000..7_001_000)));
    let put = rig.multicast.state.lock().unwrap().put.clone();
    assert_eq!(put.len(), 7);
    assert!(put.iter().all(|m| m.length <= 1 << 20 && m.digest.is_some()));
    assert_eq!(range(&rig, BIG_PATH, asked).await.2, Some(file.slice(1000..7_001_000)));
    assert_eq!(rig.web.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_file_that_breaks_off_breaks_the_connection() {
    let file = bytes(10 << 20);
    let rig = rig_with_film(&file, true);
    let breaks = |s: &mut super::rig::Sent| (s.piece, s.breaks_at) = (100_000, Some(7_000_000));
    rig.web.script(BIG, [Script::body(&file).with(breaks)]);
    let seen = rig.get(BIG_PATH).await;
    assert_eq!(seen.body.err(), Some(file.slice(..7_000_000)));
    // The same without a length.
    let chunked = |s: &mut super::rig::Sent| {
        (s.piece, s.breaks_at, s.tells_length) = (100_000, Some(7_000_000), false);
    };
    rig.web.script(BIG, [Script::body(&file).with(chunked)]);
    assert_eq!(rig.get(BIG_PATH).await.body.err(), Some(file.slice(..7_000_000)));
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_is_whole_at_its_end() {
    for size in [5000, 10 << 20] {
        let file = bytes(size);
        let rig = rig_with_film(&file, true);
        let chunked = |s: &mut super::rig::Sent| (s.piece, s.tells_length) = (100_000, false);
        rig.web.script(BIG, [Script::body(&file).with(chunked)]);
        assert_eq!(rig.get(BIG_PATH).await.body.ok(), Some(file));
    }
}

#[tokio::test(start_paused = true)]
async fn two_viewers_of_a_large_file_do_not_wait_for_each_other() {
    let file = bytes(10 << 20);
    let rig = std::sync::Arc::new(rig_with_film(&file, true));
    let other = rig.clone();
    let other = tokio::spawn(async move { other.get(BIG_PATH).await });
    let one = rig.get(BIG_PATH).await;
    assert_eq!((one.body.ok(), other.await.unwrap().body.ok()), (Some(file.clone()), Some(file)));
}
