//! What players are answered, and what people are shown.

use super::rig::{Rig, SIZE, body, media, object, options, segment};
use crate::hub::*;
use crate::library::{Availability, Library, Source};
use crate::snapshot::Observe;
use bytes::Bytes;
use mahp_common::session::recv::Input;
use mahp_common::session::send::FlowKind;
use mahp_common::wire::alc::{AlcRepr, PayloadId};
use mahp_common::wire::fti::NO_CODE;
use mahp_common::{Digest, Esi, ObjectKind, Sbn};

#[tokio::test(flavor = "multi_thread")]
async fn what_fec_cannot_mend_is_mended_by_ranges() {
    let rig = Rig::new(options());
    rig.join().await;
    let mut caster = rig.caster();
    // An outage takes 80 of 224 source symbols and all repair symbols.
    caster.lose(|flow, n| flow == FlowKind::Repair || (60..140).contains(&n));
    caster.send(media(1)).await;
    rig.until(|| rig.hub.repair_plan(&segment(1), None).is_some()).await;
    caster.sent().await;
    let coming = rig.hub.demand(&segment(1), None);
    let Availability::Coming { progress, .. } = coming else { panic!("{coming:?}") };
    assert!(progress > 0.4 && progress < 1.0, "{progress}");
    let plan = rig.hub.repair_plan(&segment(1), None).unwrap();
    let bytes = body(1);
    let missing: u64 = plan.ranges.iter().map(|(a, b)| b - a + 1).sum();
    assert!(missing < SIZE as u64 * 7 / 10);
    for (first, last) in &plan.ranges {
        rig.hub.feed(&plan, *first, &bytes[*first as usize..=*last as usize]);
    }
    let stored = rig.until_here(&segment(1)).await;
    assert_eq!(stored.payload.to_bytes(), bytes);
    assert_eq!(stored.source, Source::Repaired);
    assert_eq!(rig.hub.snapshot().totals.objects.repaired, 1);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn playlists_are_kept_in_their_newest_version_and_teach_urls() {
    let rig = Rig::new(options());
    rig.join().await;
    let url = Url::parse("http://o.example/news/high/index.m3u8").unwrap();
    let playlist = |first: u64| {
        let segments: String = (first..first + 3).map(|n| format!("#EXTINF:2,\nelsewhere/{n}\n")).collect();
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n{segments}").into_bytes()
    };
    let mut caster = rig.caster();
    for first in [1, 2] {
        caster.send(object(&url, ObjectKind::Manifest, playlist(first))).await;
    }
    let newest = || rig.hub.manifest(&url).filter(|m| m.stored.payload.to_bytes() == playlist(2));
    rig.until(|| newest().is_some_and(|m| m.fresh)).await;
    assert_eq!(newest().unwrap().base, url);
    // Not under any pattern of the description, but named by the playlist: of this rendition, and sent before it.
    let listed = Url::parse("http://o.example/news/high/elsewhere/3").unwrap();
    assert_eq!(rig.hub.channel_of(&listed).map(|c| c.name.clone()).as_deref(), Some("news"));
    assert!(matches!(rig.hub.demand(&listed, None), Availability::NotComing));
    let next = Url::parse("http://o.example/news/high/elsewhere/5.ts").unwrap();
    assert!(matches!(rig.hub.demand(&next, None), Availability::Expected { .. }));
    // Silence makes it stale.
    rig.until(|| newest().is_some_and(|m| !m.fresh)).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_playlist_that_never_came_is_not_waited_for() {
    let rig = Rig::new(options());
    rig.join().await;
    let url = Url::parse("http://o.example/news/high/index.m3u8").unwrap();
    let playlist = |n: u64| {
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{n}\n#EXTINF:2,\n{n}.ts\n")
            .into_bytes()
    };
    let mut caster = rig.caster();
    caster.lose(|_, _| true);
    caster.send(object(&url, ObjectKind::Manifest, playlist(1))).await;
    caster.sent().await;
    caster.lose(|_, _| false);
    // Its FDT Instance lists the one before it too.
    caster.send(object(&url, ObjectKind::Manifest, playlist(2))).await;
    let newest = || rig.hub.manifest(&url).filter(|m| m.stored.payload.to_bytes() == playlist(2));
    rig.until(|| newest().is_some_and(|m| m.fresh)).await;
    caster.sent().await;
    rig.until(|| rig.hub.state().flights.is_empty()).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_reports_of_players_make_no_other_object() {
    let rig = Rig::new(options());
    rig.join().await;
    let mut caster = rig.caster();
    let with = |query: &str| {
        let mut url = segment(1);
        url.set_query(Some(query));
        url
    };
    caster.send(object(&with("hdnts=of-the-sender&v=1"), ObjectKind::Media, body(1))).await;
    let stored = rig.until_here(&with("hdnts=of-a-player&v=1&CMCD=br%3D1")).await;
    assert!(stored.payload.to_bytes() == body(1) && stored.source == Source::Multicast);
    // What is no token tells objects apart.
    assert!(!matches!(rig.hub.demand(&with("hdnts=of-a-player&v=2"), None), Availability::Here(_)));
    rig.end().await;
}

/// Joined 1.3 s ago, a segment that has not begun is overdue: half a second each, and 0.75 s late.
#[tokio::test(start_paused = true)]
async fn an_overdue_segment_is_waited_for_while_symbols_come_that_nothing_has_described() {
    let mut rig = Rig::new(options());
    rig.description.channels[0].target_duration_ms = 500;
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    rig.join().await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert!(matches!(rig.hub.demand(&segment(1), None), Availability::NotComing));
    let symbol = AlcRepr {
        tsi: rig.flow().endpoint.tsi,
        toi: Toi(77),
        codepoint: NO_CODE,
        close_session: false,
        close_object: false,
        fti: None,
        fdt: None,
        cenc: None,
        sender_time: None,
        payload_id: PayloadId { sbn: Sbn(0), esi: Esi(3) },
    };
    let mut datagram = Vec::new();
    symbol.emit(&mut datagram);
    datagram.resize(datagram.len() + 1344, 7);
    let flow = rig.hub.state().renditions.values().find_map(|entry| entry.flow.clone()).unwrap();
    let (now, wall) = (rig.hub.clock.now(), rig.hub.clock.wall());
    flow.session().handle_input(Input::Packet { now, wall, datagram: &datagram });
    assert!(matches!(rig.hub.demand(&segment(1), None), Availability::Expected { .. }));
    tokio::time::sleep(Duration::from_millis(510)).await;
    assert!(matches!(rig.hub.demand(&segment(1), None), Availability::NotComing), "they have ceased");
}

#[tokio::test]
async fn unknown_hosts_are_refused_unless_listed() {
    let rig = Rig::new(options());
    let ask = |s: &str| rig.hub.demand(&Url::parse(s).unwrap(), None);
    assert!(matches!(ask("http://elsewhere.example/x"), Availability::Forbidden));
    assert!(matches!(ask("http://allowed.example/x"), Availability::Allowed));
    assert!(matches!(ask("http://o.example/not/below/the/prefix"), Availability::Allowed));
    assert!(matches!(ask("http://o.example/news/of/no/rendition"), Availability::NotComing));
}

#[tokio::test]
async fn unicast_fills_the_store_and_does_not_replace_what_multicast_brought() {
    let rig = Rig::new(options());
    let meta = |body: &[u8]| ObjectMeta {
        url: segment(1).to_string(),
        length: body.len() as u64,
        digest: Some(Digest::of(body)),
        ..ObjectMeta::default()
    };
    let put = rig.hub.put(meta(b"one"), Bytes::from_static(b"one"), Duration::ZERO);
    assert_eq!(put.source, Source::Unicast);
    assert!(matches!(rig.hub.demand(&segment(1), None), Availability::Here(_)));
    // As if multicast had brought it.
    {
        let mut state = rig.hub.state();
        let key = state.urls.key(&segment(1));
        let heard = Stored { source: Source::Multicast, ..(*put).clone() };
        let class = Class::Cached { rendition: None };
        state.keep(Time::ZERO, &key, Arc::new(heard), class);
    }
    let other = rig.hub.put(meta(b"two"), Bytes::from_static(b"two"), Duration::ZERO);
    assert_eq!(other.payload.to_bytes(), "two", "this viewer gets his");
    let Availability::Here(pieces) = rig.hub.demand(&segment(1), None) else { panic!() };
    assert_eq!(pieces[0].payload.to_bytes(), "one", "the others theirs");
    assert_eq!(rig.hub.snapshot().totals.objects.unicast, 1);
}

#[tokio::test]
async fn what_unicast_brought_is_good_for_as_long_as_its_origin_says() {
    let rig = Rig::new(options());
    let put = |url: &str, good_for: u64| {
        let meta = ObjectMeta { url: url.into(), length: 3, ..ObjectMeta::default() };
        rig.hub.put(meta, Bytes::from_static(b"one"), Duration::from_secs(good_for));
        rig.hub.demand(&Url::parse(url).unwrap(), None)
    };
    assert!(matches!(put("http://o.example/news/assets.json", 60), Availability::Here(_)));
    assert!(matches!(put("http://o.example/news/assets.json", 0), Availability::Stale(_)));
    assert!(matches!(put(segment(1).as_str(), 0), Availability::Here(_)), "segments never change");
}

#[tokio::test(flavor = "multi_thread")]
async fn films_go_to_disk_and_come_back() {
    let folder = std::env::temp_dir().join(format!("mahp-hub-disk-{}", std::process::id()));
    let mut rig = Rig::new(Options { memory: 8 << 20, ..options() });
    rig.description.channels[0].live = false;
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    let (disk, mut jobs) = Disk::open(&folder, 64 << 20).unwrap();
    rig.hub.set_disk(disk);
    let hub = rig.hub.clone();
    let worker = tokio::spawn(async move {
        while let Some(job) = jobs.recv().await {
            hub.disk_done(job.run(Time::ZERO));
        }
    });
    rig.join().await;
    let mut caster = rig.caster();
    for n in 0..40 {
        caster.send(media(n)).await;
        rig.until_here(&segment(n)).await;
    }
    caster.sent().await;
    // 40 x 300 kB do not fit into 7 MiB: the first ones come from disk.
    assert!(rig.hub.snapshot().totals.store_bytes <= 8 << 20);
    for n in [0, 1, 39] {
        assert_eq!(rig.until_here(&segment(n)).await.payload.to_bytes(), body(n));
    }
    assert!(rig.hub.snapshot().totals.disk_bytes >= 40 * SIZE as u64);
    // The same for whoever knows an object by its record.
    for n in [2, 3, 39] {
        let meta = media(n).meta;
        assert_eq!(rig.hub.stored(&meta).await.map(|payload| payload.digest()), meta.digest);
    }
    assert_eq!(rig.hub.stored(&media(77).meta).await, None);
    worker.abort();
    std::fs::remove_dir_all(folder).unwrap();
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_metrics_tell_of_what_happened() {
    let rig = Rig::new(options());
    rig.join().await;
    rig.hub.tick();
    rig.caster().send(media(1)).await;
    rig.until_here(&segment(1)).await;
    rig.hub.tick();
    let history = rig.hub.history();
    let rates = &history.channels["news"]["rate_bps"];
    assert!(rates.iter().flatten().sum::<f64>() > SIZE as f64 * 8.0, "{rates:?}");
    assert_eq!(history.totals["received_bps"].len(), rates.len());
    assert!(history.flows.contains_key("news/high"));
    // A page goes on with the values of the last second, as the history has them.
    let newest = |series: &[Option<f64>]| series.last().copied().flatten();
    let snapshot = rig.hub.snapshot();
    let recent = snapshot.channels[0].recent_completion_p90_ms.map(|ms| ms as f64);
    assert_eq!(recent, newest(&history.channels["news"]["completion_p90_ms"]));
    assert!(recent.is_some() && newest(&history.flows["news/high"]["rate_bps"]).is_some());
    rig.hub.served.hold(Duration::from_millis(700));
    rig.hub.tick();
    let held = rig.hub.snapshot().totals;
    assert_eq!(held.recent_hold_p90_ms, Some(held.hold_ms.p90));
    rig.hub.tick();
    let later = rig.hub.snapshot();
    assert_eq!((later.totals.recent_hold_p90_ms, later.totals.hold_ms.count), (None, 1));
    assert_eq!(later.channels[0].recent_completion_p90_ms, None);
    // The snapshot reads back as itself: it is the interface of the page and of `status`.
    let snapshot = rig.hub.snapshot();
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<crate::snapshot::Snapshot>(&text).unwrap(), snapshot);
    assert!(snapshot.text().contains("news live"), "{}", snapshot.text());
    rig.end().await;
}
