//! Objects lose symbols on multicast; what is missing is fetched from a publisher over real QUIC, made on demand, into the
//! engine that the packets feed. Loss is drawn from a seed.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use bytes::Bytes;
use mahp_common::catalog::WireProfile;
use mahp_common::session::recv::{self, Path, RecvConfig, RecvSession};
use mahp_common::session::send::{self, SendConfig, SendSession};
use mahp_common::wire::alc::PayloadId;
use mahp_common::{Object, ObjectMeta, Time, Toi, Tsi};
use mahp_moq::catalog::{Catalog, Kind};
use mahp_moq::channel::SUBSCRIBERS;
use mahp_moq::manifest;
use mahp_moq::plane::{Asker, Fetching as _, ObjectPlane as _, PlaneError, Source as _, Start};
use mahp_moq::publisher::{ChannelPublisher, namespace};
use mahp_moq::quic::QuicSession;
use mahp_moq::symbols::SymbolRange;
use mahp_moq::wire::{LocationRange, request_error};
use mahp_moq::{Exchange, TrackName};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use support::{WALL, WINDOWS, channel, key, listen};

/// 500 ms at 5 Mbit/s.
const LEN: usize = 312_500;
const OBJECTS: usize = 40;

fn objects() -> Vec<Object> {
    let object = |i: usize| {
        let url = format!("http://origin.example/v0/{i}.m4s");
        let data: Bytes = support::payload(i as u64, 0, LEN);
        Object::new(ObjectMeta { url, ..ObjectMeta::default() }, data)
    };
    (0..OBJECTS).map(object).collect()
}

/// Sends the objects; the publisher takes each as it begins. Every datagram and TOI in order.
fn send(publisher: &ChannelPublisher, objects: &[Object]) -> (Vec<Vec<u8>>, Vec<Toi>) {
    let config = SendConfig {
        repair_percent: 10,
        session: 3,
        toi_of_content: true,
        key: Some(key()),
        ..SendConfig::new(WireProfile::Mabr, Tsi(10), Tsi(11), 1_000_000_000)
    };
    let mut session = SendSession::new(config);
    let (mut now, mut sent, mut tois, mut buf) = (Time::ZERO, Vec::new(), Vec::new(), Vec::new());
    for (tag, object) in objects.iter().enumerate() {
        let boxed = Box::new(object.clone());
        session.handle_input(send::Input::Object { now, wall: WALL, tag: tag as u64, object: boxed });
        loop {
            match session.poll_output(&mut buf) {
                send::Output::Transmit(t) => {
                    let batch = buf.get(..t.len).unwrap_or(&buf);
                    sent.extend(batch.chunks(t.segment_size.max(1)).map(<[u8]>::to_vec));
                }
                send::Output::Command(send::Command::Encode(job)) => {
                    session.handle_input(send::Input::Encoded { now, result: job.run() });
                }
                send::Output::Event(send::Event::Started { toi, .. }) => {
                    publisher.publish("v0", toi, object, WALL);
                    tois.push(toi);
                }
                send::Output::Event(_) => {}
                send::Output::Timeout(Some(at)) => {
                    now = now.max(at);
                    session.handle_input(send::Input::Timeout { now, wall: WALL });
                }
                send::Output::Timeout(None) => break,
            }
        }
    }
    (sent, tois)
}

/// A receiving engine and the digests of what it completed.
struct Receiver {
    engine: RecvSession,
    complete: HashMap<Toi, (String, recv::Reception)>,
    now: Time,
}

impl Receiver {
    fn new() -> Receiver {
        let config = RecvConfig {
            tsi: Some(Tsi(10)),
            repair_tsi: Some(Tsi(11)),
            key: Some(key().verifying_key()),
            ..RecvConfig::default()
        };
        Receiver { engine: RecvSession::new(config), complete: HashMap::new(), now: Time::ZERO }
    }

    /// Nothing comes for a moment: blocks that can be solved are.
    fn pause(&mut self) {
        self.now += Duration::from_millis(30);
        self.input(recv::Input::Timeout { now: self.now });
    }

    fn input(&mut self, input: recv::Input<'_>) {
        self.engine.handle_input(input);
        loop {
            match self.engine.poll_output() {
                recv::Output::Command(recv::Command::Decode(job)) => {
                    let result = job.run();
                    self.engine.handle_input(recv::Input::Decoded { now: self.now, result });
                }
                recv::Output::Event(recv::Event::Complete { toi, meta, payload, how }) => {
                    assert_eq!(Some(payload.digest()), meta.digest);
                    self.complete.insert(toi, (meta.url, how));
                }
                recv::Output::Event(_) => {}
                recv::Output::Timeout(_) => return,
            }
        }
    }
}

/// Reads the signed records of all objects, as a subscriber does: the engine knows then of those whose FDT Instances were lost.
async fn read_records(receiver: &mut Receiver, session: &QuicSession) {
    let track = TrackName::new(namespace("news"), Kind::Manifest.track("v0"));
    let all = LocationRange::groups(0, u64::MAX);
    let records = session.fetch(&track, all).await.unwrap().collect(1 << 20).await.unwrap();
    assert_eq!(records.len(), OBJECTS);
    for record in records {
        let instance = &record.payload;
        let now = receiver.now;
        receiver.input(recv::Input::Description { now, wall: WALL, newest: true, instance });
    }
}

/// Fetches what each object lacks, a few times if need be.
async fn repair(receiver: &mut Receiver, session: &QuicSession, tois: impl Iterator<Item = Toi>) -> u64 {
    let track = TrackName::new(namespace("news"), Kind::Symbols.track("v0"));
    let mut bytes = 0;
    for toi in tois {
        let mut skip = HashMap::new();
        for _ in 0..4 {
            let Some(lack) = receiver.engine.lack(toi) else { break };
            for block in lack.blocks {
                let skip: &mut u32 = skip.entry(block.sbn).or_default();
                let ask = SymbolRange::repair(toi, block.sbn, *skip, block.missing + 2);
                *skip += ask.count;
                let got =
                    session.fetch(&track, ask.to_range()).await.unwrap().collect(64 << 20).await.unwrap();
                assert_eq!(got.len() as u32, ask.count);
                let symbols = got.iter().flat_map(|o| o.payload.iter().copied()).collect::<Vec<_>>();
                bytes += symbols.len() as u64;
                let first = PayloadId { sbn: block.sbn, esi: ask.first };
                receiver.input(recv::Input::Symbols {
                    now: receiver.now,
                    toi,
                    path: Path::Moq,
                    first,
                    symbols: &symbols,
                });
            }
            receiver.pause();
        }
    }
    bytes
}

struct Rig {
    server: support::Server,
    publisher: Arc<ChannelPublisher>,
    _offer: mahp_moq::exchange::Offer,
}

fn rig() -> Rig {
    let publisher =
        Arc::new(ChannelPublisher::new(&channel(10_000_000), key(), 3, &WINDOWS, Vec::new(), WALL));
    let exchange = Exchange::new();
    let offer = exchange.offer(namespace("news"), publisher.tracks()).unwrap();
    Rig { server: listen(exchange), publisher, _offer: offer }
}

#[tokio::test]
async fn symbols_made_on_demand_complete_every_object() {
    let rig = rig();
    let objects = objects();
    let (datagrams, tois) = send(&rig.publisher, &objects);
    let session = rig.server.connect().await;
    // Loss in percent, and the most that may be fetched of all bytes.
    let most =
        [(0.0, 0.0), (2.0, 0.002), (5.0, 0.002), (10.0, 0.05), (20.0, 0.16), (50.0, 0.6), (99.9, 1.03)];
    for (loss, most) in most {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut receiver = Receiver::new();
        for datagram in &datagrams {
            if rng.f64() * 100.0 >= loss {
                receiver.input(recv::Input::Packet { now: Time::ZERO, wall: WALL, datagram });
            }
        }
        receiver.pause();
        let by_multicast = receiver.complete.len();
        read_records(&mut receiver, &session).await;
        let fetched = repair(&mut receiver, &session, tois.iter().copied()).await;
        let share = fetched as f64 / (OBJECTS * LEN) as f64;
        println!(
            "{loss} % loss: {by_multicast} by multicast, {} in all, {:.2} % fetched",
            receiver.complete.len(),
            share * 100.0
        );
        assert_eq!(receiver.complete.len(), OBJECTS, "every object, heard of on multicast or not");
        assert!(share <= most, "{share} of all bytes at {loss} % loss");
        let from_moq: u64 = receiver.complete.values().map(|(_, how)| how.bytes.get(Path::Moq)).sum();
        assert_eq!(from_moq > 0, fetched > 0, "bytes are counted by way");
    }
}

#[tokio::test]
async fn catalog_records_and_objects_agree() {
    let rig = rig();
    let objects = objects();
    let (_, tois) = send(&rig.publisher, &objects);
    let session = rig.server.connect().await;
    let fetch = async |track: String, range| {
        let name = TrackName::new(namespace("news"), track);
        session.fetch(&name, range).await?.collect(64 << 20).await
    };
    let all = LocationRange::groups(0, u64::MAX);
    let catalog = fetch("catalog".into(), all).await.unwrap();
    let catalog = Catalog::parse(&catalog[0].payload).unwrap();
    assert_eq!(catalog.flows().unwrap()["v0"], channel(10_000_000).renditions[0].flow);
    let records = fetch(Kind::Manifest.track("v0"), all).await.unwrap();
    assert_eq!(records.len(), OBJECTS);
    for (record, object) in records.iter().zip(&objects) {
        let file = manifest::open(&record.payload, Tsi(10), &key().verifying_key()).unwrap();
        assert_eq!(file.meta, object.meta);
        let toi = file.toi.0 as u64;
        for (track, group) in [(Kind::Media, record.at.group), (Kind::Objects, toi)] {
            let got = fetch(track.track("v0"), LocationRange::objects(group, 0, 1)).await.unwrap();
            assert!(got[0].payload == object.data, "bytes of {}", object.meta.url);
        }
    }
    // A carousel sends an object again: nothing new is published.
    rig.publisher.publish("v0", tois[0], &objects[0], WALL);
    assert_eq!(rig.publisher.tracks().stats().objects, OBJECTS as u64);
    let code = |r: Result<Vec<mahp_moq::Object>, PlaneError>| match r {
        Err(PlaneError::Refused(refusal)) => refusal.code,
        other => panic!("{:?}", other.map(|o| o.len())),
    };
    let rq = Kind::Symbols.track("v0");
    assert_eq!(code(fetch(rq.clone(), all).await), request_error::INVALID_RANGE);
    assert_eq!(
        code(fetch(rq.clone(), LocationRange::objects(tois[0].0 as u64, 0, 1)).await),
        request_error::INVALID_RANGE
    );
    assert_eq!(code(fetch(rq, LocationRange::objects(7, 1 << 22, 1)).await), request_error::DOES_NOT_EXIST);
    let by_toi = Kind::Objects.track("v0");
    assert_eq!(code(fetch(by_toi.clone(), all).await), request_error::INVALID_RANGE);
    assert_eq!(code(fetch(by_toi, LocationRange::objects(7, 0, 1)).await), request_error::DOES_NOT_EXIST);
}

#[tokio::test]
async fn many_requests_for_one_block_are_told_to_wait() {
    let rig = rig();
    let (_, tois) = send(&rig.publisher, &objects()[..1]);
    let session = rig.server.connect().await;
    let track = TrackName::new(namespace("news"), Kind::Symbols.track("v0"));
    let range = LocationRange::objects(tois[0].0 as u64, 1 << 22, 4000);
    for asked in 0..20 {
        match session.fetch(&track, range).await {
            Ok(fetching) => assert_eq!(fetching.collect(64 << 20).await.unwrap().len(), 4000),
            Err(PlaneError::Refused(refusal)) => {
                assert_eq!(refusal.code, request_error::EXCESSIVE_LOAD);
                let busy = rig.publisher.tracks().stats().busy;
                assert!(
                    refusal.retry_after.is_some() && asked == 2 && busy == 1,
                    "half of them for an address"
                );
                let asker = |n| Asker { address: [192, 0, 2, n].into(), ..Asker::ourselves() };
                let tracks = rig.publisher.tracks();
                assert!(tracks.fetch(&asker(1), &track, range).await.is_ok(), "others have theirs");
                assert!(tracks.fetch(&asker(2), &track, range).await.is_ok());
                assert!(tracks.fetch(&asker(3), &track, range).await.is_ok());
                assert!(tracks.fetch(&asker(4), &track, range).await.is_err(), "all together have no more");
                return;
            }
            Err(e) => panic!("{e}"),
        }
    }
    panic!("never told to wait");
}

#[tokio::test]
async fn only_so_many_may_subscribe_to_the_objects() {
    let rig = rig();
    let (_, tois) = send(&rig.publisher, &objects()[..1]);
    let tracks = rig.publisher.tracks();
    let media = TrackName::new(namespace("news"), Kind::Media.track("v0"));
    let mut served = Vec::new();
    for _ in 0..SUBSCRIBERS {
        served.push(tracks.track(&media).await.expect("there is room").watch());
    }
    let session = rig.server.connect().await;
    let subscribe = || session.subscribe(&media, Start::Latest, Duration::ZERO);
    match subscribe().await {
        Err(PlaneError::Refused(refusal)) => {
            assert_eq!(refusal.code, request_error::EXCESSIVE_LOAD);
            assert!(refusal.retry_after.is_some());
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("one too many"),
    }
    // Records and what is fetched are for all.
    let records = TrackName::new(namespace("news"), Kind::Manifest.track("v0"));
    assert!(session.subscribe(&records, Start::Latest, Duration::ZERO).await.is_ok());
    let whole = TrackName::new(namespace("news"), Kind::Objects.track("v0"));
    assert!(session.fetch(&whole, LocationRange::objects(tois[0].0 as u64, 0, 1)).await.is_ok());
    served.pop();
    assert!(subscribe().await.is_ok(), "somebody has gone");
}
