//! Groups that have left the live window are fetched over real QUIC: from where they are kept, or not at all, and then it is said.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use mahp_common::{Object, ObjectKind, ObjectMeta, Payload, Toi};
use mahp_moq::catalog::Kind;
use mahp_moq::channel::{Asked, Shelf, Windows};
use mahp_moq::plane::{Boxed, Fetching as _, ObjectPlane as _, PlaneError, Refusal};
use mahp_moq::publisher::{ChannelPublisher, namespace};
use mahp_moq::quic::QuicSession;
use mahp_moq::symbols::SymbolRange;
use mahp_moq::wire::{LocationRange, request_error};
use mahp_moq::{Exchange, TrackName, exchange};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use support::{Server, WALL, channel, key, listen};

const LEN: usize = 100_000;
const OBJECTS: u64 = 40;
/// Ten of them are in the window.
const SMALL: Windows = Windows { media: 10 * LEN, documents: 10_000, records: 1 << 20 };

/// What an origin has, by URL; and what it says of the rest.
#[derive(Debug)]
struct Origin {
    has: Mutex<HashMap<String, bytes::Bytes>>,
    refusal: Refusal,
}

impl Shelf for Origin {
    fn get<'a>(&'a self, asked: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>> {
        let found = self.has.lock().unwrap().get(&asked.meta.url).cloned();
        let answer = found.map(Payload::from).ok_or_else(|| self.refusal.clone());
        Box::pin(async move { answer })
    }
}

struct Rig {
    origin: Arc<Origin>,
    objects: Vec<Object>,
    session: QuicSession,
    _server: Server,
    _offer: exchange::Offer,
}

/// A publisher of objects that an origin has, but for some of them.
async fn rig(lacks: &[u64], refusal: Refusal) -> Rig {
    let object = |i: u64| {
        let meta = ObjectMeta {
            url: format!("http://origin.example/v0/{i}.m4s"),
            kind: ObjectKind::Media,
            ..ObjectMeta::default()
        };
        Object::new(meta, support::payload(i, 0, LEN))
    };
    let objects: Vec<Object> = (0..OBJECTS).map(object).collect();
    let has = (0..OBJECTS).zip(&objects).filter(|(i, _)| !lacks.contains(i));
    let has = has.map(|(_, o)| (o.meta.url.clone(), o.data.clone())).collect();
    let origin = Arc::new(Origin { has: Mutex::new(has), refusal });
    let made = ChannelPublisher::new(&channel(10_000_000), key(), 3, &SMALL, vec![origin.clone()], WALL);
    for (toi, object) in (0..).zip(&objects) {
        made.publish("v0", Toi(toi), object, WALL);
    }
    let exchange = Exchange::new();
    let offer = exchange.offer(namespace("news"), made.tracks()).unwrap();
    let server = listen(exchange);
    let session = server.connect().await;
    Rig { origin, objects, session, _server: server, _offer: offer }
}

impl Rig {
    async fn fetch(&self, kind: Kind, range: LocationRange) -> Result<Vec<mahp_moq::Object>, PlaneError> {
        let track = TrackName::new(namespace("news"), kind.track("v0"));
        self.session.fetch(&track, range).await?.collect(64 << 20).await
    }

    /// Groups of the objects, by their records.
    async fn groups(&self) -> Vec<u64> {
        let records = self.fetch(Kind::Manifest, LocationRange::groups(0, u64::MAX)).await.unwrap();
        records.iter().map(|record| record.at.group).collect()
    }
}

#[tokio::test]
async fn every_group_that_has_a_record_can_be_fetched() {
    let rig = rig(&[], Refusal::does_not_exist("404")).await;
    let groups = rig.groups().await;
    assert_eq!(groups.len() as u64, OBJECTS);
    let all = rig.fetch(Kind::Media, LocationRange::groups(0, u64::MAX)).await.unwrap();
    assert_eq!(all.iter().map(|o| o.at.group).collect::<Vec<_>>(), groups, "all of them, in order");
    assert!(all.iter().zip(&rig.objects).all(|(got, object)| got.payload == object.data));
    let first = rig.fetch(Kind::Media, LocationRange::groups(groups[0], groups[0])).await.unwrap();
    assert!(first.len() == 1 && first[0].payload == rig.objects[0].data);
    let by_toi = rig.fetch(Kind::Objects, LocationRange::objects(1, 0, 1)).await.unwrap();
    assert!(by_toi.len() == 1 && by_toi[0].payload == rig.objects[1].data);
    let symbols = SymbolRange::repair(Toi(2), mahp_common::Sbn(0), 0, 3);
    assert_eq!(rig.fetch(Kind::Symbols, symbols.to_range()).await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_cannot_be_had_is_said() {
    let rig = rig(&[0, 3], Refusal::does_not_exist("404")).await;
    let groups = rig.groups().await;
    let refused = rig.fetch(Kind::Media, LocationRange::groups(groups[0], groups[0])).await;
    let PlaneError::Refused(refusal) = refused.unwrap_err() else { panic!("not an answer to the request") };
    assert_eq!(refusal.code, request_error::DOES_NOT_EXIST);
    // Among others it is left out, as one of which nothing is known.
    let some = rig.fetch(Kind::Media, LocationRange::groups(groups[0], groups[5])).await.unwrap();
    let got: Vec<u64> = some.iter().map(|o| o.at.group).collect();
    assert_eq!(got, [groups[1], groups[2], groups[4], groups[5]]);
    // The origin has other bytes in its place now.
    let url = rig.objects[7].meta.url.clone();
    rig.origin.has.lock().unwrap().insert(url, support::payload(77, 0, LEN));
    let refused = rig.fetch(Kind::Media, LocationRange::groups(groups[7], groups[7])).await;
    assert!(matches!(refused, Err(PlaneError::Refused(r)) if r.is_absence()));
}

#[tokio::test]
async fn an_answer_that_cannot_go_on_is_broken_off() {
    let rig = rig(&[3], Refusal::new(request_error::INTERNAL, "connection refused")).await;
    let groups = rig.groups().await;
    let range = LocationRange::groups(groups[0], groups[9]);
    let broken = rig.fetch(Kind::Media, range).await;
    assert!(matches!(broken, Err(PlaneError::Reset(_))), "a clean end would say that this is all");
    let refused = rig.fetch(Kind::Media, LocationRange::groups(groups[3], groups[3])).await;
    assert!(matches!(refused, Err(PlaneError::Refused(r)) if r.code == request_error::INTERNAL));
}
