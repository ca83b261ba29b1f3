//! Targets of the repair service: reports of receivers, requests for symbols and bytes, the sender's answers.

use bytes::Bytes;
use mahp_common::catalog::{Endpoint, Flow, WireProfile};
use mahp_common::fec::EncodeJob;
use mahp_common::repair::report::{Answer, REPORT_BYTES, Report};
use mahp_common::repair::share::ShareConfig;
use mahp_common::{Object, ObjectMeta, Toi, Tsi};
use mahp_runtime::clock::Clock;
use mahp_sender::repair::ask::{SymbolsAsk, object_id, one_range};
use mahp_sender::repair::store::Kept;
use mahp_sender::repair::{Options, Service};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

/// Small, so that a few symbols are a block.
const SYMBOL_SIZE: u16 = 64;
/// Bytes of the object with TOI 1.
const OBJECT: usize = 20_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn flow() -> Flow {
    let endpoint =
        |port, tsi| Endpoint { source: None, group: Ipv4Addr::new(232, 1, 1, 1).into(), port, tsi };
    Flow {
        endpoint: endpoint(5000, Tsi(1)),
        repair: Some(endpoint(5001, Tsi(2))),
        repair_layer_2: None,
        profile: WireProfile::Mabr,
        symbol_size: SYMBOL_SIZE,
        repair_percent: 15,
        rate_bps: 5_000_000,
    }
}

fn sent() -> Object {
    let meta = ObjectMeta { url: "https://cdn.example/a".into(), ..ObjectMeta::default() };
    Object { data: Bytes::from(vec![7; OBJECT]), meta: ObjectMeta { length: OBJECT as u64, ..meta } }
}

/// What a receiver posts, in lines: each is a report to a service that has sent one object (TSI 1, TOI 1). What was read is
/// written so that it reads the same; counters and answers stay within their bounds.
pub fn report(data: &[u8]) {
    let options =
        Options { memory: 1 << 20, unicast_bps: 1 << 20, client_bps: 1 << 20, multicast_bps: 1 << 20 };
    let service = Service::new(options, Clock::new());
    let place = service.place("news", "v0", &flow(), ShareConfig::new(5, 15, 60));
    place.keep(Toi(1), &sent());
    for line in data.split(|b| *b == b'\n').take(64) {
        let read = Report::parse(line);
        assert!(read.is_err() || line.len() <= REPORT_BYTES);
        match (read, service.report(HERE, line)) {
            (Ok(report), Ok(answer)) => {
                let same =
                    Report::parse(&report.to_json()).map(|again| Report { sample: report.sample, ..again });
                assert_eq!(same.as_ref(), Ok(&report));
                assert_same_answer(&answer);
            }
            (Err(why), Err(same)) => assert_eq!(why, same),
            (read, answer) => panic!("{read:?} and {answer:?}"),
        }
    }
    let state = service.state();
    assert!(state.receivers.is_finite() && state.receivers <= 64.0 * 50.0);
    assert!(state.flows.iter().all(|f| (5..=60).contains(&f.percent)));
}

/// What a sender answers. Values that cannot be are put right once, and stay.
pub fn answer(data: &[u8]) {
    let Some(answer) = Answer::parse(data) else { return };
    assert!((0.0..=1.0).contains(&answer.sample));
    assert_same_answer(&answer);
}

/// It reads as it was written; the share only to the last digits, which the reader of JSON rounds as it likes.
fn assert_same_answer(answer: &Answer) {
    let again = Answer::parse(&answer.to_json()).expect("our own");
    assert!((again.sample - answer.sample).abs() < 1e-12, "{} and {}", again.sample, answer.sample);
    assert_eq!(Answer { sample: answer.sample, ..again }, *answer);
}

/// The query of a request, a newline, a Range value. Symbols that the checks let pass can be made; ranges lie in the object.
pub fn request(data: &[u8]) {
    static KEPT: LazyLock<Kept> = LazyLock::new(|| Kept::new(&sent(), SYMBOL_SIZE));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (query, range) = text.split_once('\n').unwrap_or((text, ""));
    for length in [OBJECT, 1, 0] {
        if let Some((first, last)) = one_range(range, length) {
            assert!(first <= last && last < length, "{range} of {length}: {first}-{last}");
        }
    }
    let Some(ask) = SymbolsAsk::parse(query) else { return };
    assert_eq!(object_id(query), Some(ask.id));
    let Some(code) = &KEPT.code else { return };
    if ask.check(code).is_err() {
        return;
    }
    let job = EncodeJob::of_object(ask.id.toi, &KEPT.data, code, ask.sbn, ask.from, ask.count);
    let made = job.map(|j| j.run().repair).unwrap_or_default();
    assert_eq!(made.len(), ask.count as usize, "{ask:?}");
    assert!(
        made.iter().zip(ask.from.0..).all(|((esi, s), n)| esi.0 == n && s.len() == usize::from(SYMBOL_SIZE))
    );
}
