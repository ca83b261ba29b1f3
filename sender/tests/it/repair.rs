//! The repair service over real HTTP: what it gives completes an object, and what it refuses it refuses with a reason.

use http::header::RETRY_AFTER;
use mahp_common::catalog::{Endpoint, Flow, WireProfile};
use mahp_common::fec::partition::{raptorq_oti, source_oti};
use mahp_common::fec::raptorq::ESI_MOQ_END;
use mahp_common::repair::report::{Answer, ObjectLack, Report};
use mahp_common::repair::share::ShareConfig;
use mahp_common::session::recv::{Event, Input, Output, Path, RecvConfig, RecvSession};
use mahp_common::session::send::{self, SendConfig, SendSession};
use mahp_common::wire::alc::PayloadId;
use mahp_common::{Esi, Object, ObjectMeta, Time, Toi, Tsi, WallTime};
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::{FetchError, Fetcher, Request};
use mahp_sender::repair::{Options, Place, Service};
use mahp_sender::{description::Published, http as server};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use url::Url;

const TSI: Tsi = Tsi(0x2001);
const TOI: Toi = Toi(1000);

/// A segment of random bytes.
fn object() -> Object {
    let mut bytes = vec![0; 1_500_000];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    Object::new(
        ObjectMeta { url: "http://origin.example/1.m4s".into(), ..ObjectMeta::default() },
        bytes.into(),
    )
}

fn flow() -> Flow {
    let group = Ipv4Addr::new(232, 1, 1, 1).into();
    Flow {
        endpoint: Endpoint { source: None, group, port: 5000, tsi: TSI },
        repair: None,
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: 1344,
        repair_percent: 15,
        rate_bps: 32_000_000,
    }
}

/// A server with one object.
async fn start(client_bps: u64) -> (SocketAddr, Arc<Service>, Place) {
    let options = Options { memory: 16 << 20, unicast_bps: 80_000_000, client_bps, multicast_bps: 8_000_000 };
    let service = Service::new(options, Clock::new());
    let place = service.place("news", "high", &flow(), ShareConfig::new(5, 15, 50));
    place.keep(TOI, &object());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    let published = Published {
        json: bytes::Bytes::new(),
        xml: bytes::Bytes::new(),
        sdp: bytes::Bytes::new(),
        etag: String::new(),
    };
    let (_, current) = watch::channel(Arc::new(published));
    tokio::spawn(server::serve(listener, current, Some(service.clone())));
    tokio::spawn(service.clone().run());
    (address, service, place)
}

fn url(address: SocketAddr, rest: &str) -> Url {
    Url::parse(&format!("http://{address}/repair/{rest}")).expect("url")
}

async fn get(address: SocketAddr, rest: &str) -> Result<bytes::Bytes, FetchError> {
    Fetcher::new("test").get(&url(address, rest), Request::default()).await.map(|r| r.body)
}

fn status(result: Result<bytes::Bytes, FetchError>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(FetchError::Status { status, .. }) => status,
        Err(e) => panic!("{e}"),
    }
}

/// A receiver that heard the description of the object and every fourth of its packets not.
fn receiver() -> RecvSession {
    let mut config = SendConfig::new(WireProfile::Mabr, TSI, Tsi(0x2002), 1_000_000_000);
    (config.first_toi, config.repair_percent) = (1000, 0);
    let mut sender = SendSession::new(config);
    let mut receiver = RecvSession::new(RecvConfig {
        tsi: Some(TSI),
        repair_tsi: Some(Tsi(0x2002)),
        ..RecvConfig::default()
    });
    let (mut now, wall) = (Time::ZERO, WallTime::default());
    sender.handle_input(send::Input::Object { now, wall, tag: 1, object: Box::new(object()) });
    let (mut buf, mut n) = (Vec::new(), 0);
    loop {
        match sender.poll_output(&mut buf) {
            send::Output::Transmit(t) => {
                for datagram in buf[..t.len].chunks(t.segment_size.max(1)) {
                    n += 1;
                    if n % 4 > 0 || n < 8 {
                        receiver.handle_input(Input::Packet { now, wall, datagram });
                    }
                }
            }
            send::Output::Timeout(Some(at)) => {
                now = at;
                sender.handle_input(send::Input::Timeout { now, wall });
            }
            send::Output::Timeout(None) => return receiver,
            _ => {}
        }
    }
}

fn complete(receiver: &mut RecvSession) -> bool {
    loop {
        match receiver.poll_output() {
            Output::Command(mahp_common::session::recv::Command::Decode(job)) => {
                let (now, result) = (Time::from_secs(9), job.run());
                receiver.handle_input(Input::Decoded { now, result });
            }
            Output::Event(Event::Complete { payload, .. }) => {
                return payload.to_bytes() == object().data;
            }
            Output::Event(_) => {}
            Output::Timeout(_) => return false,
        }
    }
}

#[tokio::test]
async fn symbols_by_http_complete_what_was_heard() {
    let (address, service, _place) = start(80_000_000).await;
    let mut receiver = receiver();
    assert!(!complete(&mut receiver));
    let lack = receiver.lack(TOI).expect("in flight");
    for block in &lack.blocks {
        let (sbn, count) = (block.sbn, block.missing + 2);
        let rest = format!("symbols?tsi={TSI}&toi={TOI}&sbn={sbn}&from={ESI_MOQ_END}&count={count}");
        let symbols = get(address, &rest).await.expect("symbols");
        assert_eq!(symbols.len(), count as usize * 1344);
        let first = PayloadId { sbn, esi: Esi(ESI_MOQ_END) };
        let (now, toi, path) = (Time::from_secs(9), TOI, Path::Sender);
        receiver.handle_input(Input::Symbols { now, toi, path, first, symbols: &symbols });
    }
    receiver.handle_input(Input::Timeout { now: Time::from_secs(10) });
    assert!(complete(&mut receiver), "rebuilt, byte for byte");
    assert_eq!(service.state().counts.served, lack.blocks.len() as u64);
}

#[tokio::test]
async fn bytes_by_http_complete_it_too() {
    let (address, _service, _place) = start(80_000_000).await;
    let mut receiver = receiver();
    for (first, last) in receiver.missing_ranges(TOI, 64 << 10) {
        let request = Request { range: Some((first, Some(last))), ..Request::default() };
        let answer =
            Fetcher::new("test").get(&url(address, &format!("object?tsi={TSI}&toi={TOI}")), request).await;
        let bytes = answer.expect("bytes").body;
        let (now, toi, path) = (Time::from_secs(9), TOI, Path::Sender);
        receiver.handle_input(Input::Bytes { now, toi, path, offset: first, bytes: &bytes });
    }
    assert!(complete(&mut receiver));
}

#[tokio::test]
async fn hostile_requests_are_refused_and_budgets_hold() {
    let (address, service, _place) = start(8_000_000).await;
    let object = format!("tsi={TSI}&toi={TOI}");
    for (rest, expected) in [
        ("symbols".to_owned(), 400),
        (format!("symbols?{object}&sbn=0&from={ESI_MOQ_END}&count=4000000000"), 400),
        (format!("symbols?{object}&sbn=77&from={ESI_MOQ_END}&count=1"), 400),
        (format!("symbols?{object}&sbn=0&from=0&count=1"), 400),
        (format!("symbols?{object}&sbn=0&from=16777215&count=9"), 400),
        (format!("symbols?tsi={TSI}&toi=5&sbn=0&from={ESI_MOQ_END}&count=1"), 404),
        (format!("object?tsi=9&toi={TOI}"), 404),
        ("report".to_owned(), 405),
        ("elsewhere".to_owned(), 404),
    ] {
        assert_eq!(status(get(address, &rest).await), expected, "{rest}");
    }
    // One megabyte a second, two at once: the second copy of the object is too much.
    assert_eq!(status(get(address, &format!("object?{object}")).await), 200);
    match get(address, &format!("object?{object}")).await {
        Err(FetchError::Status { status: 503, headers, .. }) => {
            let after: u64 = headers[RETRY_AFTER].to_str().expect("text").parse().expect("seconds");
            assert!((1..=2).contains(&after), "{after}");
        }
        other => panic!("{:?}", other.map(|b| b.len())),
    }
    let counts = service.state().counts;
    assert_eq!((counts.served, counts.busy, counts.unknown, counts.invalid), (1, 1, 2, 5));
}

#[tokio::test]
async fn a_report_is_answered_and_a_hostile_one_refused() {
    let (address, service, _place) = start(8_000_000).await;
    let post = async |body: Vec<u8>| {
        let (target, wait) = (url(address, "report"), Duration::from_secs(5));
        Fetcher::new("test").post(&target, "application/json", body.into(), 1 << 14, wait).await
    };
    let lacks = vec![ObjectLack { tsi: TSI.0, toi: 1000, blocks: vec![(0, 5)] }];
    let report = Report { receiver: 1, sample: 1.0, lacks, reception: Vec::new() };
    let answer = post(report.to_json()).await.expect("answered");
    let answer = Answer::parse(&answer.body).expect("readable");
    assert!(answer.wait_ms.is_some_and(|ms| ms < 1000) && answer.sample > 0.9, "{answer:?}");
    assert!(matches!(post(b"{}".to_vec()).await, Err(FetchError::Status { status: 400, .. })));
    let large = vec![b' '; 100_000];
    // The server may have closed the connection before all of it was sent.
    match post(large).await {
        Err(FetchError::Status { status, .. }) => assert_eq!(status, 413),
        Err(_) => {}
        Ok(_) => panic!("taken"),
    }
    assert_eq!(service.state().counts.reports, 1);
}

#[test]
fn the_object_is_cut_as_its_flow_cuts_it() {
    // What the service encodes must be what the FDT of the flow describes.
    let (a, b) = (raptorq_oti(1_500_000, 1344).expect("codable"), source_oti(1_500_000, 1344));
    assert_eq!((a.transfer_length, a.symbol_size), (b.transfer_length, b.symbol_size));
}
