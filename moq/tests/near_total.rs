//! Nearly all packets are lost: everything comes over MoQ, playlists too, which nobody repairs as each has a successor soon. At a
//! loss that repair can mend, nothing is subscribed to. In virtual time, with the engines, the publisher and its tracks; loss is
//! drawn from a seed.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use mahp_common::catalog::WireProfile;
use mahp_common::repair::reach::Reach;
use mahp_common::session::recv::{self, Path, RecvConfig, RecvSession};
use mahp_common::session::send::{self, SendConfig, SendSession};
use mahp_common::{Object, ObjectKind, ObjectMeta, Time, Toi, Tsi, WallTime};
use mahp_moq::catalog::Kind;
use mahp_moq::manifest;
use mahp_moq::plane::{Asker, Source as _};
use mahp_moq::publisher::{ChannelPublisher, namespace};
use mahp_moq::track::Step;
use mahp_moq::wire::LocationRange;
use mahp_moq::{Track, TrackName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use support::{T, WALL, WINDOWS, channel, key};

/// Pacing rate: twice that of the parts.
const RATE: u64 = 2_000_000;
/// A part each half second.
const PART: Duration = Duration::from_millis(500);
const PART_LEN: usize = 60_000;
const PLAYLIST_LEN: usize = 3000;
/// One way, both by multicast and over MoQ.
const WAY: Duration = Duration::from_millis(20);
/// A part that is not here by then is fetched.
const FETCH: Duration = Duration::from_millis(1000);
/// Silence: as the receiver judges it.
const SILENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);

enum Arrival {
    Packet(Vec<u8>),
    Record(bytes::Bytes),
    Object(Toi, bytes::Bytes),
    Fetch(Toi),
}

/// A subscription to one track.
struct Ear {
    track: Arc<Track>,
    cursor: u64,
}

struct World {
    now: Time,
    loss: Box<dyn Fn(u64) -> f64>,
    rng: fastrand::Rng,
    sender: SendSession,
    publisher: ChannelPublisher,
    objects: Vec<Object>,
    tois: BTreeMap<Toi, usize>,
    flying: BTreeMap<(Time, u64), Arrival>,
    flown: u64,
    engine: RecvSession,
    reach: Reach,
    last_packet: Time,
    described: BTreeMap<u64, Toi>,
    records: Ear,
    ears: Vec<Ear>,
    /// Numbers of the objects that are complete, and those that a subscription brought.
    complete: BTreeSet<usize>,
    heard: BTreeSet<usize>,
    /// When it began to subscribe, and when it ended, in milliseconds.
    changes: Vec<u64>,
}

impl World {
    async fn new(seed: u64, loss: impl Fn(u64) -> f64 + 'static) -> World {
        println!("seed {seed}");
        let config = SendConfig {
            repair_percent: 10,
            session: 3,
            toi_of_content: true,
            key: Some(key()),
            ..SendConfig::new(WireProfile::Mabr, Tsi(10), Tsi(11), RATE)
        };
        let publisher = ChannelPublisher::new(&channel(RATE), key(), 3, &WINDOWS, Vec::new(), WALL);
        let engine = RecvSession::new(RecvConfig {
            tsi: Some(Tsi(10)),
            repair_tsi: Some(Tsi(11)),
            key: Some(key().verifying_key()),
            ..RecvConfig::default()
        });
        let records = subscribe(&publisher, Kind::Manifest).await;
        World {
            now: Time::ZERO,
            loss: Box::new(loss),
            rng: fastrand::Rng::with_seed(seed),
            sender: SendSession::new(config),
            publisher,
            objects: Vec::new(),
            tois: BTreeMap::new(),
            flying: BTreeMap::new(),
            flown: 0,
            engine,
            reach: Reach::new(Time::ZERO),
            last_packet: Time::ZERO,
            described: BTreeMap::new(),
            records,
            ears: Vec::new(),
            complete: BTreeSet::new(),
            heard: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    /// So many seconds, in steps of 5 ms.
    async fn run(&mut self, secs: u64) {
        for ms in (0..secs * 1000).step_by(5) {
            self.now = Time::from_millis(ms);
            if ms % PART.as_millis() as u64 == 0 {
                self.origin();
            }
            self.send();
            self.land().await;
            self.engine(recv::Input::Timeout { now: self.now });
            if ms % LOOK.as_millis() as u64 == 0 {
                self.look().await;
            }
            self.listen();
        }
    }

    fn wall(&self) -> WallTime {
        WALL + (self.now - Time::ZERO)
    }

    /// A part and the playlist that lists it.
    fn origin(&mut self) {
        let n = self.objects.len() as u64;
        for (kind, len, url) in [
            (ObjectKind::Media, PART_LEN, format!("http://origin.example/v0/{n}.m4s")),
            (ObjectKind::Manifest, PLAYLIST_LEN, "http://origin.example/v0.m3u8".to_owned()),
        ] {
            let meta = ObjectMeta { url, kind, ..ObjectMeta::default() };
            let object = Object::new(meta, support::payload(self.objects.len() as u64, 0, len));
            let tag = self.objects.len() as u64;
            self.objects.push(object.clone());
            let (now, wall) = (self.now, self.wall());
            self.sender.handle_input(send::Input::Object { now, wall, tag, object: Box::new(object) });
        }
    }

    fn send(&mut self) {
        let (now, wall) = (self.now, self.wall());
        self.sender.handle_input(send::Input::Timeout { now, wall });
        let mut buf = Vec::new();
        loop {
            match self.sender.poll_output(&mut buf) {
                send::Output::Transmit(t) => {
                    let batch = buf.get(..t.len).unwrap_or(&buf).to_vec();
                    for packet in batch.chunks(t.segment_size.max(1)) {
                        let second = (now - Time::ZERO).as_secs();
                        if self.rng.f64() >= (self.loss)(second) {
                            self.later(WAY, Arrival::Packet(packet.to_vec()));
                        }
                    }
                }
                send::Output::Command(send::Command::Encode(job)) => {
                    self.sender.handle_input(send::Input::Encoded { now, result: job.run() });
                }
                send::Output::Event(send::Event::Started { toi, tag }) => {
                    self.tois.insert(toi, tag as usize);
                    self.publisher.publish("v0", toi, &self.objects[tag as usize], wall);
                }
                send::Output::Event(_) => {}
                send::Output::Timeout(_) => return,
            }
        }
    }

    fn later(&mut self, after: Duration, arrival: Arrival) {
        self.flown += 1;
        self.flying.insert((self.now + after, self.flown), arrival);
    }

    async fn land(&mut self) {
        while let Some(first) = self.flying.first_entry().filter(|f| f.key().0 <= self.now) {
            let now = self.now;
            match first.remove() {
                Arrival::Packet(datagram) => {
                    self.last_packet = now;
                    let wall = self.wall();
                    self.engine(recv::Input::Packet { now, wall, datagram: &datagram });
                }
                Arrival::Record(instance) => {
                    let wall = self.wall();
                    self.engine(recv::Input::Description { now, wall, newest: true, instance: &instance });
                }
                Arrival::Object(toi, bytes) => {
                    self.engine(recv::Input::Bytes { now, toi, path: Path::Moq, offset: 0, bytes: &bytes });
                }
                Arrival::Fetch(toi) => self.fetch(toi).await,
            }
        }
    }

    /// The recovery of the receiver, in its simplest form.
    async fn fetch(&mut self, toi: Toi) {
        let number = self.tois[&toi];
        if self.complete.contains(&number) || self.objects[number].meta.kind == ObjectKind::Manifest {
            return;
        }
        let name = TrackName::new(namespace("news"), Kind::Objects.track("v0"));
        let range = LocationRange::objects(toi.0 as u64, 0, 1);
        let got = self
            .publisher
            .tracks()
            .fetch(&Asker::ourselves(), &name, range)
            .await
            .unwrap()
            .all()
            .await
            .unwrap();
        let (now, path) = (self.now, Path::Moq);
        self.engine(recv::Input::Bytes { now, toi, path, offset: 0, bytes: &got[0].payload });
    }

    /// What the tracks have that is subscribed to.
    fn listen(&mut self) {
        for record in self.records.take() {
            let file = manifest::open(&record.payload, Tsi(10), &key().verifying_key()).unwrap();
            self.described.insert(record.at.group, file.toi);
            self.later(WAY, Arrival::Record(record.payload));
            self.later(FETCH, Arrival::Fetch(file.toi));
        }
        let heard: Vec<_> = self.ears.iter_mut().flat_map(Ear::take).collect();
        for object in heard {
            let toi = self.described[&object.at.group];
            self.heard.insert(self.tois[&toi]);
            self.later(WAY * 2, Arrival::Object(toi, object.payload));
        }
    }

    async fn look(&mut self) {
        let silent = self.now - self.last_packet > SILENCE;
        let poor = self.reach.look(self.now, self.engine.stats().source_packets, silent);
        if poor == self.ears.is_empty() {
            self.changes.push((self.now - Time::ZERO).as_millis() as u64);
        }
        if poor && self.ears.is_empty() {
            for kind in [Kind::Media, Kind::Documents] {
                self.ears.push(subscribe(&self.publisher, kind).await);
            }
        } else if !poor {
            self.ears.clear();
        }
    }

    fn engine(&mut self, input: recv::Input<'_>) {
        self.engine.handle_input(input);
        loop {
            match self.engine.poll_output() {
                recv::Output::Command(recv::Command::Decode(job)) => {
                    let result = job.run();
                    self.engine.handle_input(recv::Input::Decoded { now: self.now, result });
                }
                recv::Output::Event(recv::Event::Announced { meta, newest: true, .. }) => {
                    let symbols = meta.length.div_ceil(T.into());
                    let over = Duration::from_millis(meta.length * 8 * 1000 / RATE);
                    self.reach.described(self.now, symbols, over);
                }
                recv::Output::Event(recv::Event::Complete { toi, payload, .. }) => {
                    let number = self.tois[&toi];
                    assert_eq!(Some(payload.digest()), self.objects[number].meta.digest);
                    self.complete.insert(number);
                }
                recv::Output::Event(_) => {}
                recv::Output::Timeout(_) => return,
            }
        }
    }

    /// Objects of the seconds `from..to` that are not complete: parts and playlists.
    fn missing(&self, from: u64, to: u64) -> (usize, usize) {
        // Two objects each half second.
        let numbers = (from as usize * 4)..(to as usize * 4);
        let missing: Vec<usize> = numbers.filter(|n| !self.complete.contains(n)).collect();
        let parts = missing.iter().filter(|n| **n % 2 == 0).count();
        (parts, missing.len() - parts)
    }
}

impl Ear {
    /// What has come since the last time.
    fn take(&mut self) -> Vec<mahp_moq::Object> {
        let mut objects = Vec::new();
        loop {
            match self.track.step(&mut self.cursor) {
                Step::Object(object) => objects.push(object),
                Step::EndOfSubgroup { .. } => {}
                _ => return objects,
            }
        }
    }
}

async fn subscribe(publisher: &ChannelPublisher, kind: Kind) -> Ear {
    let name = TrackName::new(namespace("news"), kind.track("v0"));
    let track = publisher.tracks().track(&name).await.unwrap();
    let (cursor, _) = track.join();
    Ear { track, cursor }
}

#[tokio::test]
async fn at_near_total_loss_everything_comes_over_moq() {
    for seed in 1..=3 {
        let mut world = World::new(seed, |_| 0.999).await;
        world.run(60).await;
        // Silent for two seconds, or too little for four.
        assert!(matches!(world.changes[..], [at] if at <= 5000), "{:?}", world.changes);
        assert_eq!(world.missing(6, 58), (0, 0), "parts and playlists");
        let heard = (6 * 4..58 * 4).filter(|n| world.heard.contains(n)).count();
        assert_eq!(heard, 52 * 4, "by subscription");
    }
}

#[tokio::test]
async fn at_a_loss_that_repair_can_mend_nothing_is_subscribed_to() {
    for (seed, loss) in [(1, 0.0), (2, 0.1), (3, 0.2), (4, 0.3)] {
        let mut world = World::new(seed, move |_| loss).await;
        world.run(60).await;
        assert!(world.changes.is_empty(), "{loss}: {:?}", world.changes);
        assert!(world.heard.is_empty());
        assert_eq!(world.missing(1, 58).0, 0, "parts, with what was fetched");
    }
}

#[tokio::test]
async fn it_goes_over_and_back_without_a_gap() {
    let mut world = World::new(5, |at| if (20..60).contains(&at) { 0.999 } else { 0.02 }).await;
    world.run(90).await;
    let [over, back] = world.changes[..] else { panic!("{:?}", world.changes) };
    assert!((20_000..26_000).contains(&over) && (64_000..72_000).contains(&back), "{over} {back}");
    let (parts, playlists) = world.missing(1, 88);
    assert_eq!(parts, 0);
    // Those of the time until it was noticed: each has a successor.
    assert!(playlists <= 12, "{playlists} playlists");
    assert_eq!(world.missing(26, 88), (0, 0), "none from then on, nor on the way back");
}

#[tokio::test]
async fn loss_around_a_half_does_not_make_it_flap() {
    for (seed, period) in [(6, 1), (7, 4), (8, 15)] {
        let mut world = World::new(seed, move |at| if at / period % 2 == 0 { 0.4 } else { 0.6 }).await;
        world.run(120).await;
        assert!(world.changes.len() <= 1, "each {period} s: {:?}", world.changes);
        assert_eq!(world.missing(1, 118).0, 0, "parts");
    }
}
