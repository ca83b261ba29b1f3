//! How long after its publication an object is verified, and how much of it is fetched: the real engines, planner and publisher,
//! with the network between them and time itself simulated. 60 parts of 312,500 bytes, one each 500 ms, 10 % repair in the stream.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use bytes::Bytes;
use mahp_common::catalog::WireProfile;
use mahp_common::fec::raptorq::{ESI_MOQ_END, ESI_MULTICAST_END};
use mahp_common::repair::plan::{self, Action, ObjectKey, Outcome, PlanConfig, Planner, Server, View};
use mahp_common::session::recv::{self, Path, RecvConfig, RecvSession};
use mahp_common::session::send::{self, SendConfig, SendSession};
use mahp_common::wire::alc::PayloadId;
use mahp_common::{Esi, Object, ObjectMeta, Sbn, Time, Toi, Tsi};
use mahp_moq::catalog::Kind;
use mahp_moq::plane::{Asker, Source as _};
use mahp_moq::publisher::{ChannelPublisher, namespace};
use mahp_moq::symbols::SymbolRange;
use mahp_moq::wire::LocationRange;
use mahp_moq::{Location, TrackName};
use std::collections::BTreeMap;
use std::time::Duration;
use support::{WALL, WINDOWS, channel, key};

const PERIOD: Duration = Duration::from_millis(500);
const LEN: usize = 312_500;
const OBJECTS: usize = 60;
/// As the channel has it.
const REPAIR: u32 = 10;
/// Six times the bit rate and its repair, as `headroom` has it.
const RATE: u64 = 34_000_000;
/// Of the losses.
const SEED: u64 = 11;
/// Objects in flight are looked at this often, and when the planner says, but not more often than that (`receiver/src/recovery`).
const LOOK: Duration = Duration::from_millis(50);
const LOOK_MIN: Duration = Duration::from_millis(10);
/// As the receiver has it for parts (`receiver/src/hub/recover.rs`).
const PATIENCE: Duration = Duration::from_millis(1700);

/// What is under way.
enum Arrival {
    Packet(Vec<u8>),
    Record(Bytes),
    /// At the publisher.
    Ask(ObjectKey, Toi, Vec<(Sbn, Esi, u32)>),
    /// At the receiver: block, first ESI, symbols.
    Answer(ObjectKey, Toi, Vec<(PayloadId, Vec<u8>)>),
}

struct World {
    now: Time,
    /// One way.
    delay: Duration,
    loss: f64,
    rng: fastrand::Rng,
    sender: SendSession,
    publisher: ChannelPublisher,
    published: Vec<Object>,
    receiver: RecvSession,
    planner: Planner,
    under_way: BTreeMap<(Time, u64), Arrival>,
    arrivals: u64,
    /// Described and not complete: when.
    flying: BTreeMap<u64, (Toi, Time)>,
    begun: BTreeMap<String, Time>,
    look_at: Time,
    took: Vec<Duration>,
    fetched: u64,
}

impl World {
    fn new(loss: f64, rtt: Duration) -> World {
        let send = SendConfig {
            repair_percent: REPAIR,
            session: 3,
            toi_of_content: true,
            key: Some(key()),
            ..SendConfig::new(WireProfile::Mabr, Tsi(10), Tsi(11), RATE)
        };
        let recv = RecvConfig {
            tsi: Some(Tsi(10)),
            repair_tsi: Some(Tsi(11)),
            key: Some(key().verifying_key()),
            ..RecvConfig::default()
        };
        World {
            now: Time::ZERO,
            delay: rtt / 2,
            loss,
            rng: fastrand::Rng::with_seed(SEED),
            sender: SendSession::new(send),
            publisher: ChannelPublisher::new(&channel(RATE), key(), 3, &WINDOWS, Vec::new(), WALL),
            published: Vec::new(),
            receiver: RecvSession::new(recv),
            planner: Planner::new(PlanConfig { seed: 5, ..PlanConfig::default() }),
            under_way: BTreeMap::new(),
            arrivals: 0,
            flying: BTreeMap::new(),
            begun: BTreeMap::new(),
            look_at: Time::ZERO,
            took: Vec::new(),
            fetched: 0,
        }
    }

    async fn run(&mut self) {
        let period = u64::try_from(PERIOD.as_millis()).unwrap();
        for ms in 0..period * (OBJECTS as u64 + 8) {
            self.now = Time::ZERO + Duration::from_millis(ms);
            if ms % period == 0 && self.published.len() < OBJECTS {
                self.put();
            }
            self.sender.handle_input(send::Input::Timeout { now: self.now, wall: WALL });
            self.send().await;
            while self.under_way.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                let (_, arrival) = self.under_way.pop_first().unwrap();
                self.arrive(arrival).await;
            }
            self.hear(recv::Input::Timeout { now: self.now });
            if self.look_at <= self.now {
                self.look();
            }
        }
    }

    fn put(&mut self) {
        let n = self.published.len();
        let url = format!("http://origin.example/v0/{n}.m4s");
        let data: Bytes = support::payload(n as u64, 0, LEN);
        let object = Object::new(ObjectMeta { url: url.clone(), ..ObjectMeta::default() }, data);
        self.begun.insert(url, self.now);
        self.published.push(object.clone());
        let object = Box::new(object);
        let input = send::Input::Object { now: self.now, wall: WALL, tag: n as u64, object };
        self.sender.handle_input(input);
    }

    fn later(&mut self, arrival: Arrival) {
        self.arrivals += 1;
        self.under_way.insert((self.now + self.delay, self.arrivals), arrival);
    }

    async fn send(&mut self) {
        let mut buf = Vec::new();
        loop {
            match self.sender.poll_output(&mut buf) {
                send::Output::Transmit(t) => {
                    for packet in buf.get(..t.len).unwrap_or(&buf).chunks(t.segment_size.max(1)) {
                        if self.rng.f64() >= self.loss {
                            self.later(Arrival::Packet(packet.to_vec()));
                        }
                    }
                }
                send::Output::Command(send::Command::Encode(job)) => {
                    self.sender.handle_input(send::Input::Encoded { now: self.now, result: job.run() });
                }
                send::Output::Event(send::Event::Started { tag, toi }) => {
                    self.publisher.publish("v0", toi, &self.published[tag as usize], WALL);
                    let records = TrackName::new(namespace("news"), Kind::Manifest.track("v0"));
                    let track = self.publisher.tracks().track(&records).await.unwrap();
                    let newest = Location::new(track.largest().unwrap().group, 0);
                    self.later(Arrival::Record(track.get(newest).unwrap().payload));
                }
                send::Output::Event(_) => {}
                send::Output::Timeout(_) => return,
            }
        }
    }

    async fn arrive(&mut self, arrival: Arrival) {
        let now = self.now;
        match arrival {
            Arrival::Packet(datagram) => {
                self.hear(recv::Input::Packet { now, wall: WALL, datagram: &datagram });
            }
            Arrival::Record(instance) => {
                self.hear(recv::Input::Description { now, wall: WALL, newest: true, instance: &instance });
            }
            Arrival::Ask(key, toi, blocks) => {
                let mut answers = Vec::new();
                for (sbn, from, count) in blocks {
                    let first = Esi(from.0 - ESI_MOQ_END + ESI_MULTICAST_END);
                    let range: LocationRange = SymbolRange { toi, sbn, first, count }.to_range();
                    let name = TrackName::new(namespace("news"), Kind::Symbols.track("v0"));
                    let got = self.publisher.tracks().fetch(&Asker::ourselves(), &name, range).await.unwrap();
                    let got = got.all().await.unwrap();
                    let symbols: Vec<u8> = got.iter().flat_map(|o| o.payload.to_vec()).collect();
                    answers.push((PayloadId { sbn, esi: first }, symbols));
                }
                self.later(Arrival::Answer(key, toi, answers));
            }
            Arrival::Answer(key, toi, answers) => {
                for (first, symbols) in answers {
                    self.fetched += symbols.len() as u64;
                    self.hear(recv::Input::Symbols { now, toi, path: Path::Moq, first, symbols: &symbols });
                }
                self.planner.handle_input(plan::Input::Done { now, key, outcome: Outcome::Fed });
                self.look_at = now;
            }
        }
    }

    fn hear(&mut self, input: recv::Input<'_>) {
        self.receiver.handle_input(input);
        loop {
            match self.receiver.poll_output() {
                recv::Output::Command(recv::Command::Decode(job)) => {
                    let result = job.run();
                    self.receiver.handle_input(recv::Input::Decoded { now: self.now, result });
                }
                recv::Output::Event(recv::Event::Announced { toi, .. }) => {
                    let number = toi.0 as u64;
                    self.flying.entry(number).or_insert((toi, self.now));
                }
                recv::Output::Event(recv::Event::Complete { toi, meta, payload, .. }) => {
                    assert_eq!(Some(payload.digest()), meta.digest);
                    self.flying.remove(&(toi.0 as u64));
                    self.planner.handle_input(plan::Input::Gone { key: ObjectKey(toi.0 as u64) });
                    self.took.push(self.now - self.begun[&meta.url]);
                }
                recv::Output::Event(_) => {}
                recv::Output::Timeout(_) => return,
            }
        }
    }

    fn look(&mut self) {
        for (number, (toi, since)) in self.flying.clone() {
            let Some(lack) = self.receiver.lack(toi) else { continue };
            let view = View {
                lack: &lack,
                rate_bps: RATE,
                repair_percent: REPAIR,
                deadline: since + PATIENCE,
                reports: false,
                servers: &[Server { id: 0, weight: 1 }],
                origin: false,
            };
            self.planner.handle_input(plan::Input::Object { now: self.now, key: ObjectKey(number), view });
        }
        let usual = self.now + LOOK;
        self.look_at = self.act().map_or(usual, |at| at.max(self.now + LOOK_MIN).min(usual));
    }

    fn act(&mut self) -> Option<Time> {
        loop {
            match self.planner.poll_output() {
                plan::Output::Action(key, Action::Symbols(_, blocks)) => {
                    self.later(Arrival::Ask(key, Toi(key.0.into()), blocks));
                }
                plan::Output::Action(_, other) => panic!("{other:?}"),
                plan::Output::Timeout(at) => return at,
            }
        }
    }
}

/// How a run ended.
struct Figures {
    share: f64,
    p50: Duration,
    p99: Duration,
    max: Duration,
}

async fn measure(loss: f64, rtt: Duration) -> Figures {
    let mut world = World::new(loss, rtt);
    world.run().await;
    assert_eq!(world.took.len(), OBJECTS, "every object is complete at {loss} and {rtt:?}");
    world.took.sort();
    let share = world.fetched as f64 / (OBJECTS * LEN) as f64;
    let at = |hundredths: usize| world.took[(OBJECTS - 1) * hundredths / 100];
    Figures { share, p50: at(50), p99: at(99), max: at(100) }
}

#[tokio::test]
async fn parts_are_verified_in_time_at_any_loss_and_round_trip_time() {
    println!("| loss | RTT | fetched | publish to verified p50 / p99 / max, ms |\n|---|---|---|---|");
    // Loss, and the most that may be fetched of all bytes.
    let most = [(0.0, 0.0), (0.02, 0.0), (0.05, 0.005), (0.1, 0.015), (0.2, 0.14), (0.5, 0.5), (0.999, 1.02)];
    for (loss, most) in most {
        for ms in [1, 20, 50, 100] {
            let rtt = Duration::from_millis(ms);
            let Figures { share, p50, p99, max } = measure(loss, rtt).await;
            let [p50, p99, max] = [p50, p99, max].map(|took| took.as_millis());
            println!("| {} % | {ms} ms | {:.2} % | {p50} / {p99} / {max} |", loss * 100.0, share * 100.0);
            assert!(share <= most, "{share} of all bytes fetched at {loss} and {ms} ms");
            let limit = 450 + if ms > 1 { 2 * u128::from(ms) } else { 0 };
            assert!(p99 <= limit, "{p99} ms at {loss} and {ms} ms");
        }
    }
}
