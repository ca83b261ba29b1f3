//! What multicast brings: joins, loss and its repair, what is kept and what is not.

use super::rig::{Rig, SIZE, body, media, object, options, segment};
use crate::hub::*;
use crate::library::{Availability, Library, Source};
use crate::snapshot::{ChannelState, Observe};
use crate::testing::{Caster, unique_group};
use bytes::Bytes;
use mahp_common::auth::SigningKey;
use mahp_common::session::send::FlowKind;
use mahp_common::{Digest, Object, ObjectKind};

#[tokio::test(flavor = "multi_thread")]
async fn segments_come_by_multicast_in_spite_of_loss() {
    let rig = Rig::new(options());
    rig.join().await;
    let mut caster = rig.caster();
    // 5 % of the packets of both flows.
    caster.lose(|_, n| n % 20 == 7);
    for n in 1..=5 {
        caster.send(media(n)).await;
        let stored = rig.until_here(&segment(n)).await;
        assert_eq!(stored.payload.to_bytes(), body(n));
        assert_eq!(stored.source, Source::Multicast);
    }
    rig.hub.tick();
    let snapshot = rig.hub.snapshot();
    let r = &snapshot.channels[0].renditions[0];
    assert_eq!((r.objects.multicast, r.objects.lost), (5, 0));
    assert!(r.loss_before_fec > 0.03 && r.loss_before_fec < 0.08, "{}", r.loss_before_fec);
    assert_eq!(r.loss_after_fec, 0.0);
    assert_eq!(snapshot.channels[0].state, ChannelState::Live);
    assert!(r.joined && r.interface == "lo" && r.packets > 0 && r.completion_ms.count == 5);
    rig.end().await;
}

/// Joined in the middle of segment 1, of which the rest and the one before are fetched.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_join_is_no_loss() {
    let rig = Rig::new(options());
    rig.join().await;
    let mut caster = rig.caster();
    caster.lose(|flow, n| flow == FlowKind::Repair || n < 100);
    caster.send(media(1)).await;
    caster.sent().await;
    // The next one's FDT Instances list the first, too.
    caster.lose(|_, _| false);
    caster.send(media(2)).await;
    rig.hub.teach_playlist(&[], &[0, 1, 2].map(segment));
    rig.until(|| rig.hub.repair_plan(&segment(1), None).is_some()).await;
    let (plan, bytes) = (rig.hub.repair_plan(&segment(1), None).unwrap(), body(1));
    for (first, last) in &plan.ranges {
        rig.hub.feed(&plan, *first, &bytes[*first as usize..=*last as usize]);
    }
    assert_eq!(rig.until_here(&segment(1)).await.source, Source::Repaired);
    rig.until_here(&segment(2)).await;
    let meta = object(&segment(0), ObjectKind::Media, body(0)).meta;
    rig.hub.put(meta, body(0).into(), Duration::ZERO);
    caster.send(media(3)).await;
    rig.until_here(&segment(3)).await;
    rig.hub.tick();
    let news = rig.hub.snapshot().channels.remove(0);
    assert_eq!((news.objects.repaired, news.objects.unicast), (1, 1));
    assert_eq!((news.loss_before_fec, news.loss_after_fec), (Some(0.0), Some(0.0)));
    let counts = rig.hub.state().renditions.values().next().unwrap().stats.counts;
    assert_eq!(counts.lost_symbols, 0, "nothing to report to the sender");
    assert!(counts.expected_symbols > 0 && counts.loss_runs.iter().all(|n| *n == 0));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pinned_key_did_not_sign_is_never_stored() {
    let rig = Rig::new(options());
    rig.join().await;
    for (forger, reason) in
        [(None, "unsigned_fdt"), (Some(SigningKey::from_seed(&[1; 32])), "bad_fdt_signature")]
    {
        let mut caster = Caster::new(&rig.flow(), 7, forger);
        caster.send(media(1)).await;
        caster.sent().await;
        rig.until(|| {
            rig.hub.tick();
            rig.hub.snapshot().totals.drops.contains_key(reason)
        })
        .await;
    }
    assert!(!matches!(rig.hub.demand(&segment(1), None), Availability::Here(_)));
    assert_eq!(rig.hub.snapshot().totals.store_bytes, 0);
    // The real one still gets through.
    rig.caster().send(media(2)).await;
    rig.until_here(&segment(2)).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_sender_goes_on_and_what_was_stored_stays() {
    let rig = Rig::new(options());
    rig.join().await;
    rig.caster().send(media(1)).await;
    rig.until_here(&segment(1)).await;
    let mut again = Caster::new(&rig.flow(), 2, Some(rig.key.clone()));
    again.send(media(2)).await;
    rig.until_here(&segment(2)).await;
    rig.until_here(&segment(1)).await;
    let refreshed = tokio::time::timeout(Duration::from_secs(10), rig.refresh.notified()).await;
    assert!(refreshed.is_ok(), "the description should be looked at again");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rendition_that_nobody_asks_for_is_left() {
    let idle = Duration::from_secs(1);
    let rig = Rig::new(Options { join: Policy::OnDemand { idle }, ..options() });
    assert!(!rig.hub.flows().iter().any(|f| f.joined), "on demand");
    rig.join().await;
    rig.until(|| {
        rig.hub.tick();
        !rig.hub.flows().iter().any(|f| f.joined)
    })
    .await;
    assert_eq!(rig.hub.snapshot().channels[0].state, ChannelState::Waiting);
    rig.join().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_hold_under_a_flood_of_large_objects() {
    let rig = Rig::new(Options { memory: 16 << 20, assembly_memory: 8 << 20, ..options() });
    rig.join().await;
    let mut caster = rig.caster();
    // Nothing completes: all of it stays under assembly until it is given up.
    caster.lose(|_, n| n % 2 == 0);
    for n in 0..12 {
        caster.send(object(&segment(n), ObjectKind::Media, vec![n as u8; 2_000_000])).await;
    }
    let held = || {
        rig.hub.tick();
        let t = rig.hub.snapshot().totals;
        assert!(t.assembly_bytes <= t.assembly_limit_bytes, "{t:?}");
        assert!(t.store_bytes <= t.store_limit_bytes, "{t:?}");
        t
    };
    rig.until(|| held().drops.contains_key("byte_limit")).await;
    caster.lose(|_, _| false);
    for n in 100..130 {
        caster.send(object(&segment(n), ObjectKind::Media, vec![n as u8; 2_000_000])).await;
        held();
    }
    rig.until(|| {
        held();
        matches!(rig.hub.demand(&segment(129), None), Availability::Here(_))
    })
    .await;
    // The live window survived.
    let here =
        (100..130).filter(|n| matches!(rig.hub.demand(&segment(*n), None), Availability::Here(_))).count();
    assert!(here >= 4, "{here}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_description_moves_the_flow() {
    let mut rig = Rig::new(options());
    rig.join().await;
    let group = unique_group();
    let flow = &mut rig.description.channels[0].renditions[0].flow;
    flow.endpoint.group = group;
    flow.repair = flow.repair.map(|r| mahp_common::catalog::Endpoint { group, ..r });
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    rig.until(|| rig.hub.flows().iter().any(|f| f.joined && f.group == Some(group))).await;
    rig.caster().send(media(3)).await;
    rig.until_here(&segment(3)).await;
    // Without the channel there is nothing to join, and its URLs are nobody's.
    rig.description.channels.clear();
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    assert!(rig.hub.flows().is_empty() && rig.hub.channels().is_empty());
    assert!(matches!(rig.hub.demand(&segment(9), None), Availability::Forbidden));
    rig.end().await;
}

#[tokio::test]
async fn the_memory_for_assembly_is_divided_and_given_back() {
    let mut rig = Rig::new(Options { assembly_memory: 8 << 20, ..options() });
    let one = rig.description.channels[0].renditions[0].clone();
    rig.description.channels[0].renditions = (0..20)
        .map(|n| Rendition { id: format!("r{n}"), bitrate_bps: 8_000_000, role: Role::Video, ..one.clone() })
        .collect();
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    let spec = |n: usize| rig.hub.spec(&RenditionKey::new("news", &format!("r{n}")));
    let mut total = 0;
    let mut refused = 0;
    for n in 0..20 {
        match spec(n) {
            Ok(Some(spec)) => total += spec.assembly_bytes,
            Ok(None) => panic!("on offer"),
            Err(e) => {
                assert_eq!(e.code, "E-ASSEMBLY-MEMORY");
                refused += 1;
            }
        }
    }
    assert!(total <= 8 << 20 && refused > 0);
    for n in 0..20 {
        rig.hub.left(&RenditionKey::new("news", &format!("r{n}")));
    }
    assert_eq!(rig.hub.state().assembly.free(), 8 << 20);
    assert!(spec(19).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carousel_is_not_collected_twice_and_again_after_eviction() {
    let mut rig = Rig::new(Options { memory: 8 << 20, ..options() });
    rig.description.channels[0].live = false;
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    rig.join().await;
    let mut caster = rig.caster();
    for n in 0..3 {
        caster.send(media(n)).await;
        rig.until_here(&segment(n)).await;
    }
    for n in 0..3 {
        caster.send(media(n)).await;
    }
    caster.sent().await;
    rig.until(|| {
        rig.hub.tick();
        rig.hub.snapshot().totals.drops.get("late").copied().unwrap_or(0) > 500
    })
    .await;
    assert_eq!(rig.hub.snapshot().totals.objects.multicast, 3);
    // Other things push it out; the next round brings it back.
    for n in 0..30 {
        let url = format!("http://allowed.example/{n}");
        let meta = ObjectMeta { url, length: SIZE as u64, ..ObjectMeta::default() };
        rig.hub.put(meta, body(n).into(), Duration::ZERO);
    }
    assert!(!matches!(rig.hub.demand(&segment(0), None), Availability::Here(_)));
    caster.send(media(0)).await;
    assert_eq!(rig.until_here(&segment(0)).await.payload.to_bytes(), body(0));
    rig.end().await;
}

/// A repair service of one object, TOI 10000: symbols on demand, and every report is told to ask by unicast.
async fn repair_service(object: Object) -> (Url, Arc<Mutex<Vec<String>>>) {
    use http_body_util::Full;
    use mahp_common::fec::partition::raptorq_oti;
    use mahp_common::fec::{Blocks, EncodeJob};
    use mahp_common::{Esi, Sbn};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = Url::parse(&format!("http://{}/repair/", listener.local_addr().unwrap())).unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    let oti = raptorq_oti(object.data.len() as u64, 1344).unwrap();
    let code = Blocks::of(&oti, u64::MAX).unwrap();
    let answer = move |uri: &http::Uri| -> Vec<u8> {
        log.lock().unwrap().push(uri.to_string());
        let number = |name: &str| -> u32 {
            let pairs = uri.query().unwrap_or_default().split('&').filter_map(|p| p.split_once('='));
            pairs.clone().find(|(n, _)| *n == name).map_or(0, |(_, v)| v.parse().unwrap())
        };
        if uri.path().ends_with("/report") {
            return br#"{"sample":1.0,"period_ms":1000}"#.to_vec();
        }
        let (sbn, from, count) = (Sbn(number("sbn")), Esi(number("from")), number("count"));
        let job = EncodeJob::of_object(Toi(10_000), &object.data, &code, sbn, from, count).unwrap();
        job.run().repair.into_iter().flat_map(|(_, symbol)| symbol).collect()
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let body = answer(request.uri());
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(body)))) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (base, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_stream_lost_comes_from_a_repair_server_before_anybody_waits() {
    use crate::origin::upstream::Web;
    use crate::origin::{Bounds, Origins};
    use crate::recovery::{Options as RecoveryOptions, Recovery, Ways};
    use mahp_runtime::fetch::Fetcher;
    let mut rig = Rig::new(options());
    let sent = media(1);
    let (base, asked) = repair_service(sent.clone()).await;
    let news = &mut rig.description.channels[0];
    news.repair_servers = vec![mahp_common::catalog::RepairServer { url: base.to_string(), weight: 1 }];
    news.report_url = Some(base.join("report").unwrap().to_string());
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    let web = Web::new(Fetcher::guarded("test", |_, _| false));
    let served = rig.hub.served.clone();
    let via = http::HeaderValue::from_static("1.1 test");
    let origins = Origins::new(Arc::new(web), rig.hub.clone(), served.clone(), Bounds::default(), via);
    let options = RecoveryOptions { sender: true, ways: Ways::Auto, unicast: true, bytes_per_sec: 1e7 };
    let fetcher = Fetcher::new("test");
    let publishers = crate::moq::Publishers::new(rig.hub.clone(), served.clone(), Default::default());
    let recovery =
        Recovery::new(rig.hub.clone(), origins, served, rig.hub.clock, fetcher, publishers, options);
    let recovering = tokio::spawn(recovery.run());
    rig.join().await;
    let mut caster = rig.caster();
    // Every third packet of the source flow after the description, and all repair.
    caster.lose(|flow, n| flow == FlowKind::Repair || (n > 3 && n % 3 == 0 && n < 200));
    caster.send(sent.clone()).await;
    // Nobody asks for the object itself.
    rig.until(|| rig.hub.snapshot().totals.objects.repaired == 1).await;
    let stored = rig.until_here(&segment(1)).await;
    assert!(stored.payload.to_bytes() == sent.data && stored.source == Source::Repaired);
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().any(|a| a.ends_with("/report")), "{asked:?}");
    assert!(asked.iter().any(|a| a.contains("/symbols?tsi=1&toi=10000&sbn=0&from=8388608")), "{asked:?}");
    let fetched = rig.hub.served.origin().get("sender").copied().unwrap_or_default();
    assert!(fetched > 0 && fetched <= sent.data.len() as u64 / 2, "{fetched} bytes");
    recovering.abort();
    rig.end().await;
}

#[tokio::test]
async fn a_second_repair_layer_is_joined_when_the_first_is_nearly_used_up() {
    use mahp_common::catalog::{Endpoint, RepairLayer};
    let mut rig = Rig::new(options());
    let flow = &mut rig.description.channels[0].renditions[0].flow;
    let endpoint = Endpoint { group: unique_group(), tsi: mahp_common::Tsi(3), ..flow.endpoint };
    flow.repair_layer_2 = Some(RepairLayer { endpoint, percent: 60 });
    rig.hub.describe(rig.session, rig.description.clone(), Some(rig.key.verifying_key()));
    rig.join().await;
    let layer = || rig.hub.snapshot().channels[0].renditions[0].repair_layer_2.clone().expect("offered");
    let mut caster = rig.caster();
    caster.send(media(1)).await;
    rig.until_here(&segment(1)).await;
    assert_eq!((layer().joined, layer().joins, layer().packets), (false, 0, 0));
    // 28 of 224 symbols: the 34 of the first layer mend that, but only just.
    caster.lose(|flow, n| flow == FlowKind::Source && n % 8 == 0);
    for n in 2..=8 {
        caster.send(media(n)).await;
        rig.until_here(&segment(n)).await;
    }
    rig.until(|| layer().joined).await;
    // 56 of 224: only with the second.
    caster.lose(|flow, n| flow == FlowKind::Source && n % 4 == 0);
    caster.send(media(9)).await;
    assert_eq!(rig.until_here(&segment(9)).await.source, Source::Multicast);
    assert!(layer().packets > 0 && layer().joins == 1 && layer().error.is_empty(), "{:?}", layer());
    rig.end().await;
}

/// A part of segment 1.
fn part(n: usize) -> Object {
    let url = Url::parse(&format!("http://o.example/news/high/1.{n}.ts")).unwrap();
    object(&url, ObjectKind::Media, body(n))
}

#[tokio::test]
async fn a_segment_is_put_together_from_its_parts() {
    let rig = Rig::new(options());
    rig.join().await;
    let mut caster = rig.caster();
    let whole = object(&segment(1), ObjectKind::Media, [body(1), body(2)].concat());
    let recipe = mahp_common::recipe::Recipe::of(&whole, &[part(1), part(2)]).unwrap();
    // Told of before its last part is here.
    for object in [part(1), recipe, part(2)] {
        caster.send(object).await;
    }
    let stored = rig.until_here(&segment(1)).await;
    assert_eq!(stored.payload.digest(), Digest::of(&whole.data));
    assert_eq!((stored.meta.digest, stored.meta.kind), (whole.meta.digest, ObjectKind::Media));
    assert_eq!(stored.source, Source::Multicast);
    // By their records, both are there.
    for meta in [part(2).meta, whole.meta] {
        assert_eq!(rig.hub.stored(&meta).await.map(|payload| payload.digest()), meta.digest);
    }
    rig.end().await;
}

#[tokio::test]
async fn what_the_parts_do_not_make_up_is_not_served() {
    let rig = Rig::new(options());
    rig.join().await;
    let mut caster = rig.caster();
    let whole = object(&segment(1), ObjectKind::Media, [body(1), body(3)].concat());
    let other = object(&Url::parse("http://o.example/news/high/1.2.ts").unwrap(), ObjectKind::Media, body(3));
    let recipe = mahp_common::recipe::Recipe::of(&whole, &[part(1), other]).unwrap();
    for object in [part(1), recipe, part(2), media(7)] {
        caster.send(object).await;
    }
    rig.until_here(&segment(7)).await;
    assert!(!matches!(rig.hub.demand(&segment(1), None), Availability::Here(_)));
    rig.end().await;
}
