//! Clients that ask for much and take nothing: what they can make a publisher hold, and how long.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use mahp_common::{Object, ObjectKind, ObjectMeta, Toi};
use mahp_moq::catalog::Kind;
use mahp_moq::plane::{Event, Fetching as _, ObjectPlane as _, PlaneError, Start, Subscription as _};
use mahp_moq::publisher::{ChannelPublisher, namespace};
use mahp_moq::quic::{Connector, Identity, Limits, Listener, MoqtUrl, QuicSession, Trust, parse_url};
use mahp_moq::symbols::SymbolRange;
use mahp_moq::wire::{publish_done, request_error};
use mahp_moq::{Exchange, TrackName, exchange};
use std::time::Duration;
use support::{T, WALL, WINDOWS, channel, key, payload};

const OBJECTS: u64 = 20;
const SYMBOLS: u32 = 4000;

/// A peer may let us wait this long.
fn impatient() -> Limits {
    Limits { grace: Duration::from_millis(500), ..Limits::default() }
}

/// Grants one stream, that of SETUP.
fn stingy() -> Limits {
    Limits { streams: 1, ..Limits::default() }
}

struct Rig {
    publisher: ChannelPublisher,
    listener: Listener,
    url: MoqtUrl,
    trust: Trust,
    _offer: exchange::Offer,
}

fn rig() -> Rig {
    let publisher = ChannelPublisher::new(&channel(10_000_000), key(), 3, &WINDOWS, Vec::new(), WALL);
    for i in 0..OBJECTS {
        let url = format!("http://origin.example/v0/{i}.m4s");
        let meta = ObjectMeta { url, kind: ObjectKind::Media, ..ObjectMeta::default() };
        publisher.publish("v0", Toi(i.into()), &Object::new(meta, payload(i, 0, 100_000)), WALL);
    }
    let exchange = Exchange::new();
    let offer = exchange.offer(namespace("news"), publisher.tracks()).unwrap();
    let identity = Identity::self_signed(&["localhost".into()]).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(address, &identity, exchange, impatient()).unwrap();
    let url = parse_url(&format!("moqt://{}/", listener.local_addr().unwrap())).unwrap();
    let trust = Trust::Fingerprints(vec![identity.fingerprint()]);
    Rig { publisher, listener, url, trust, _offer: offer }
}

impl Rig {
    async fn connect(&self, limits: Limits) -> Result<QuicSession, PlaneError> {
        Connector::new(&self.trust, limits).unwrap().connect(&self.url, Exchange::new()).await
    }

    async fn until(&self, what: &str, is: impl Fn(&Listener) -> bool) {
        for _ in 0..3000 {
            if is(&self.listener) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; {:?}", self.listener.stats());
    }
}

fn track(kind: Kind) -> TrackName {
    TrackName::new(namespace("news"), kind.track("v0"))
}

fn symbols(toi: u64) -> mahp_moq::wire::LocationRange {
    SymbolRange::repair(Toi(toi.into()), mahp_common::Sbn(0), 0, SYMBOLS).to_range()
}

#[tokio::test]
async fn who_takes_nothing_gets_no_more_than_its_room_and_not_for_long() {
    let rig = rig();
    let greedy = rig.connect(stingy()).await.unwrap();
    let rq = track(Kind::Symbols);
    let (mut open, mut refused) = (Vec::new(), 0);
    for toi in 0..OBJECTS {
        match greedy.fetch(&rq, symbols(toi)).await {
            Ok(fetching) => open.push(fetching),
            Err(PlaneError::Refused(refusal)) => {
                assert!(refusal.code == request_error::EXCESSIVE_LOAD && refusal.retry_after.is_some());
                refused += 1;
            }
            Err(e) => panic!("{e}"),
        }
        assert!(rig.listener.stats().held_bytes <= Limits::default().session_bytes);
    }
    assert!(!open.is_empty() && refused > 0, "{} answers, {refused} refusals", open.len());
    let made = rig.publisher.tracks().stats().symbols;
    assert!(made <= (Limits::default().session_bytes / usize::from(T)) as u64 * 3, "{made}");
    rig.until("what was not taken is let go", |listener| listener.stats().held_bytes == 0).await;

    // Who reads is served, and then nothing is held any more.
    let honest = rig.connect(Limits::default()).await.unwrap();
    let fetching = honest.fetch(&rq, symbols(OBJECTS - 1)).await.unwrap();
    assert_eq!(fetching.collect(64 << 20).await.unwrap().len(), SYMBOLS as usize);
    rig.until("what was taken is let go", |listener| listener.stats().held_bytes == 0).await;
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_is_too_far_behind() {
    let rig = rig();
    let idle = rig.connect(stingy()).await.unwrap();
    let mut subscription = idle.subscribe(&track(Kind::Media), Start::Latest, Duration::ZERO).await.unwrap();
    let meta = ObjectMeta { kind: ObjectKind::Media, ..ObjectMeta::default() };
    rig.publisher.publish("v0", Toi(99), &Object::new(meta, payload(99, 0, 1000)), WALL);
    let end = tokio::time::timeout(Duration::from_secs(20), subscription.next()).await.expect("an end");
    assert!(matches!(end, Ok(Event::Done(publish_done::TOO_FAR_BEHIND, _))), "{end:?}");
}

#[tokio::test]
async fn an_address_has_so_many_sessions() {
    let rig = rig();
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(rig.connect(Limits::default()).await.expect("there is room"));
    }
    assert!(rig.connect(Limits::default()).await.is_err());
    sessions.pop().unwrap().close();
    rig.until("one has gone", |listener| listener.stats().sessions == 49).await;
    assert!(rig.connect(Limits::default()).await.is_ok());
}

#[tokio::test]
async fn a_subscription_that_is_not_read_holds_so_many_bytes() {
    const LEN: usize = 300_000;
    let rig = rig();
    let limits = Limits { object_bytes: LEN, assembly_bytes: 1 << 20, ..Limits::default() };
    let session = rig.connect(limits).await.unwrap();
    let mut subscription =
        session.subscribe(&track(Kind::Media), Start::Latest, Duration::ZERO).await.unwrap();
    for i in 100..120 {
        let url = format!("http://origin.example/v0/{i}.m4s");
        let meta = ObjectMeta { url, kind: ObjectKind::Media, ..ObjectMeta::default() };
        rig.publisher.publish("v0", Toi(i.into()), &Object::new(meta, payload(i, 0, LEN)), WALL);
    }
    rig.until("all is on its way", |listener| listener.stats().carried.objects_out >= 20).await;
    for _ in 0..20 {
        assert!(session.stats().bytes_in <= 1 << 20, "more than there is room for");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut got = 0;
    while got < 20 {
        let event = tokio::time::timeout(Duration::from_secs(20), subscription.next()).await;
        got += usize::from(matches!(event.expect("in time"), Ok(Event::Object(_))));
    }
}
