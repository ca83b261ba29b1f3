use super::*;
use mahp_common::ObjectMeta;
use mahp_common::catalog::{Endpoint, WireProfile};
use mahp_common::repair::report::{ObjectLack, Report};
use std::net::Ipv4Addr;

const TSI: u64 = 7;

fn options() -> Options {
    Options { memory: 16 << 20, unicast_bps: 8_000_000, client_bps: 800_000, multicast_bps: 8_000_000 }
}

fn flow() -> mahp_common::catalog::Flow {
    let group = Ipv4Addr::new(232, 1, 1, 1).into();
    mahp_common::catalog::Flow {
        endpoint: Endpoint { source: None, group, port: 5000, tsi: Tsi(TSI) },
        repair: None,
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: 1344,
        repair_percent: 15,
        rate_bps: 32_000_000,
    }
}

fn peer(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

/// A service with one object, TOI 5, of a megabyte.
fn service() -> (Arc<Service>, Place) {
    let service = Service::new(options(), Clock::new());
    let place = service.place("news", "high", &flow(), ShareConfig::new(5, 15, 50));
    place.keep(Toi(5), &Object::new(ObjectMeta::default(), vec![1; 1_000_000].into()));
    (service, place)
}

fn lacking(receiver: u64, toi: u64, blocks: Vec<(u32, u32)>) -> Vec<u8> {
    let lacks = vec![ObjectLack { tsi: TSI, toi, blocks }];
    Report { receiver, sample: 1.0, lacks, reception: Vec::new() }.to_json()
}

#[tokio::test]
async fn what_many_lack_goes_to_the_flow_once() {
    let (service, mut place) = service();
    let deciding = tokio::spawn(service.clone().run());
    for n in 1..=20 {
        let answer = service.report(peer(n), &lacking(1, 5, vec![(0, 10)])).expect("read");
        assert!(answer.wait_ms.is_some() && answer.refused.is_empty(), "{answer:?}");
    }
    let request = tokio::time::timeout(Duration::from_secs(10), place.requests.recv()).await;
    let Ok(Some(Request::Repair { toi, data, blocks })) = request else { panic!("{request:?}") };
    assert_eq!((toi, data.len(), blocks), (Toi(5), 1_000_000, vec![(Sbn(0), 13)]));
    assert!(place.requests.try_recv().is_err());
    let state = service.state();
    assert_eq!((state.counts.reports, state.multicast.repairs), (20, 1));
    assert!((state.receivers - 20.0).abs() < 1e-9);
    deciding.abort();
}

#[tokio::test]
async fn symbols_that_many_ask_for_over_moq_go_to_the_flow_once() {
    let (service, mut place) = service();
    let id = ObjectId { tsi: Tsi(TSI), toi: Toi(5) };
    assert_eq!(service.asked(peer(1), 1, id, Sbn(0), 12), None, "the first is answered");
    for n in 2..=20 {
        let wait = service.asked(peer(n), 1, id, Sbn(0), 12).expect("may come by multicast");
        assert!(wait < Duration::from_millis(150), "{wait:?}");
    }
    let unknown = ObjectId { tsi: Tsi(TSI), toi: Toi(6) };
    assert_eq!(service.asked(peer(2), 1, unknown, Sbn(0), 12), None);
    assert_eq!(service.asked(peer(2), 1, id, Sbn(9), 12), None, "no such block");
    assert_eq!(service.asked(peer(2), 1, id, Sbn(0), u32::MAX), None);
    let deciding = tokio::spawn(service.clone().run());
    let request = tokio::time::timeout(Duration::from_secs(10), place.requests.recv()).await;
    let Ok(Some(Request::Repair { blocks, .. })) = request else { panic!("{request:?}") };
    assert_eq!((blocks, service.state().counts.deferred), (vec![(Sbn(0), 13)], 19));
    deciding.abort();
}

#[tokio::test]
async fn hostile_reports_are_refused_with_a_reason_and_counted() {
    let (service, mut place) = service();
    let refused = |answer: Answer| answer.refused.concat();
    let unknown = service.report(peer(1), &lacking(1, 6, vec![(0, 1)])).expect("read");
    assert!(refused(unknown).contains("no such object"));
    let many = service.report(peer(1), &lacking(1, 5, vec![(0, 1_000_000)])).expect("read");
    assert!(refused(many).contains("not so many symbols"));
    let forged: Vec<Answer> =
        (0..10).map(|n| service.report(peer(2), &lacking(n, 5, vec![(0, 700)])).expect("read")).collect();
    assert_eq!(forged.iter().filter(|a| !a.refused.is_empty()).count(), 6, "four votes an address");
    assert!(service.report(peer(1), b"{}").is_err());
    let flood = (0..1000).filter(|_| service.may_report(peer(3)).is_ok()).count();
    assert!((200..300).contains(&flood), "{flood}");
    let counts = service.state().counts;
    for why in ["unknown", "impossible", "votes", "unreadable", "flood"] {
        assert!(counts.refused_reports.contains_key(why), "{why}: {counts:?}");
    }
    assert!(place.requests.try_recv().is_err(), "none of them had anything sent");
}

#[test]
fn budgets_hold_for_each_and_for_all() {
    let (service, _place) = service();
    // A client: 100 kB/s, 200 kB at once.
    let got = (0..100).filter(|_| service.spend(peer(1), 10_000).is_ok()).count();
    assert!((20..25).contains(&got), "{got}");
    let busy = service.spend(peer(1), 10_000).expect_err("spent");
    assert!(busy.spent == Spent::Client && busy.after <= Duration::from_secs(1), "{busy:?}");
    // All: 1 MB/s, 2 MB at once.
    let got: usize =
        (2..250).map(|n| (0..20).filter(|_| service.spend(peer(n), 10_000).is_ok()).count()).sum();
    assert!((180..230).contains(&got), "{got}");
    let counts = service.state().counts;
    assert_eq!(counts.served_bytes, counts.served * 10_000);
    assert!(counts.busy > 4000);
}

#[test]
fn clients_are_subscribers() {
    let of = |text: &str| client(text.parse().expect("address"));
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
}
