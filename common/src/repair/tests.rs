//! The whole of recovery in virtual time: one sender with its repair service, an origin, and any number of receivers behind a
//! network that loses packets.

use super::ObjectId;
use super::aggregate::{AggregateConfig, Aggregator, Known, Reporter, Verdict};
use super::budget::{Budget, TokenBucket};
use super::plan::{
    Action, Input as PlanInput, ObjectKey, Outcome, Output as PlanOutput, PlanConfig, Planner, Server, View,
};
use super::share::{ShareConfig, ShareControl};
use crate::catalog::WireProfile;
use crate::fec::partition::raptorq_oti;
use crate::fec::{Blocks, EncodeJob};
use crate::ids::{Sbn, Toi};
use crate::object::Object;
use crate::session::recv::{self, Path, RecvSession};
use crate::session::send::{self, SendSession};
use crate::testing::{WALL_START, configs, seed, segment};
use crate::time::{Time, WallTime};
use crate::wire::alc::PayloadId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// One way to the sender or the origin.
const LATENCY: Duration = Duration::from_millis(10);
/// A live object is played this long after it was announced: three segments.
const BUFFER: Duration = Duration::from_secs(6);
const SERVER: Server = Server { id: 0, weight: 1 };

/// What the network does to a packet on its way to a receiver.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Independent(f64),
    /// Two states: mean loss in bursts of this mean length.
    Bursts(f64, f64),
}

/// What is switched on.
#[derive(Clone, Copy, Debug)]
struct Means {
    reports: bool,
    server: bool,
    origin: bool,
    adaptive: bool,
}

const ALL: Means = Means { reports: true, server: true, origin: true, adaptive: true };

/// A request on its way: when it is answered.
struct Pending {
    at: Time,
    key: ObjectKey,
    action: Action,
}

struct Viewer {
    recv: RecvSession,
    planner: Planner,
    rng: fastrand::Rng,
    bad: bool,
    flights: BTreeMap<Toi, Time>,
    complete: BTreeMap<Toi, (Time, recv::Reception)>,
    announced: BTreeMap<Toi, Time>,
    pending: Vec<Pending>,
    look_at: Time,
    reported: (u64, u64),
}

struct World {
    now: Time,
    means: Means,
    loss: Loss,
    outage: Option<(Time, Time)>,
    sender: SendSession,
    rate_bps: u64,
    objects: BTreeMap<Toi, Object>,
    aggregator: Aggregator,
    budget: Budget<usize>,
    share: ShareControl,
    percent: u32,
    viewers: Vec<Viewer>,
    tag: u64,
    buf: Vec<u8>,
    /// Bytes by unicast, of sender and origin, in each second.
    unicast: BTreeMap<u64, u64>,
    requests: BTreeMap<u64, u64>,
    reports: u64,
}

impl World {
    fn new(seed: u64, viewers: usize, rate_bps: u64, loss: Loss, means: Means) -> World {
        let (mut send, recv) = configs(WireProfile::Mabr, rate_bps);
        send.repair_percent = 15;
        let viewer = |i: usize| Viewer {
            recv: RecvSession::new(recv.clone()),
            planner: Planner::new(PlanConfig { seed: seed + i as u64, ..PlanConfig::default() }),
            rng: fastrand::Rng::with_seed(seed.wrapping_mul(31) + i as u64),
            bad: false,
            flights: BTreeMap::new(),
            complete: BTreeMap::new(),
            announced: BTreeMap::new(),
            pending: Vec::new(),
            look_at: Time::from_millis(i as u64 % 50),
            reported: (0, 0),
        };
        World {
            now: Time::ZERO,
            means,
            loss,
            outage: None,
            sender: SendSession::new(send),
            rate_bps,
            objects: BTreeMap::new(),
            aggregator: Aggregator::new(AggregateConfig::default()),
            budget: Budget::new(TokenBucket::new(2.5e6, 5e6), TokenBucket::new(1e6, 2e6), 4096),
            share: ShareControl::new(ShareConfig::new(15, 15, 50)),
            percent: 15,
            viewers: (0..viewers).map(viewer).collect(),
            tag: 0,
            buf: Vec::new(),
            unicast: BTreeMap::new(),
            requests: BTreeMap::new(),
            reports: 0,
        }
    }

    fn wall(&self) -> WallTime {
        WallTime::from_unix_secs(WALL_START) + self.now.since(Time::ZERO)
    }

    /// A live channel: a segment of `len` bytes each two seconds.
    fn live(&mut self, segments: u64, len: usize) {
        for i in 0..segments {
            let object = segment(i, len + (i as usize * 997) % 5000);
            let toi = Toi(1000 + self.objects.len() as u128);
            self.objects.insert(toi, object.clone());
            self.tag += 1;
            let (now, wall, tag) = (self.now, self.wall(), self.tag);
            self.sender.handle_input(send::Input::Object { now, wall, tag, object: Box::new(object) });
            self.run_for(Duration::from_secs(2));
        }
        self.run_for(BUFFER);
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(1);
            let (now, wall) = (self.now, self.wall());
            self.sender.handle_input(send::Input::Timeout { now, wall });
            self.drain_sender();
            self.aggregator.timeout(now);
            self.multicast_repair();
            for i in 0..self.viewers.len() {
                self.viewer(i);
            }
            if self.means.adaptive && now.as_nanos().is_multiple_of(1_000_000_000) {
                self.adapt();
            }
        }
    }

    fn drain_sender(&mut self) {
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            match self.sender.poll_output(&mut buf) {
                send::Output::Transmit(t) => {
                    for packet in buf[..t.len].chunks(t.segment_size.max(1)) {
                        self.multicast(packet);
                    }
                }
                send::Output::Command(send::Command::Encode(job)) => {
                    let (now, result) = (self.now, job.run());
                    self.sender.handle_input(send::Input::Encoded { now, result });
                }
                send::Output::Event(_) => {}
                send::Output::Timeout(_) => break,
            }
        }
        self.buf = buf;
    }

    fn multicast(&mut self, datagram: &[u8]) {
        let (now, wall) = (self.now, self.wall());
        let out = self.outage.is_some_and(|(from, to)| from <= now && now < to);
        for viewer in &mut self.viewers {
            if !out && !viewer.loses(self.loss) {
                viewer.recv.handle_input(recv::Input::Packet { now, wall, datagram });
                viewer.drain(now);
            }
        }
    }

    fn multicast_repair(&mut self) {
        while let Some(send) = self.aggregator.poll() {
            let data = self.objects[&send.id.toi].data.clone();
            let (now, toi, blocks) = (self.now, send.id.toi, send.blocks);
            self.sender.handle_input(send::Input::Repair { now, toi, data, blocks });
            self.drain_sender();
        }
    }

    fn adapt(&mut self) {
        let now = self.now;
        let due = (now.as_nanos() / 1_000_000_000).is_multiple_of(5);
        for (i, viewer) in self.viewers.iter_mut().enumerate().filter(|_| due) {
            let s = viewer.recv.stats();
            let (lost, expected) = (s.lost_symbols, s.expected_symbols);
            let (before_lost, before) = std::mem::replace(&mut viewer.reported, (lost, expected));
            let from = Reporter { client: i as u64, receiver: 0 };
            self.share.report(now, from, lost - before_lost, expected - before, false);
        }
        let percent = self.share.share(now);
        if percent != self.percent {
            self.percent = percent;
            self.sender.handle_input(send::Input::Share { percent });
        }
    }

    fn viewer(&mut self, i: usize) {
        let now = self.now;
        while let Some(at) = self.viewers[i].pending.iter().position(|p| p.at <= now) {
            let pending = self.viewers[i].pending.swap_remove(at);
            let outcome = self.answer(i, pending.key, &pending.action);
            self.viewers[i].planner.handle_input(PlanInput::Done { now, key: pending.key, outcome });
            self.act(i);
        }
        if self.viewers[i].look_at > now {
            return;
        }
        self.viewers[i].recv.handle_input(recv::Input::Timeout { now });
        self.viewers[i].drain(now);
        self.look(i);
        self.act(i);
    }

    fn look(&mut self, i: usize) {
        let (now, means, rate_bps, repair_percent) = (self.now, self.means, self.rate_bps, self.percent);
        let viewer = &mut self.viewers[i];
        let servers: &[Server] = if means.server { &[SERVER] } else { &[] };
        for (toi, at) in viewer.flights.clone() {
            let key = ObjectKey(toi.0 as u64);
            let Some(lack) = viewer.recv.lack(toi) else {
                viewer.planner.handle_input(PlanInput::Gone { key });
                continue;
            };
            let (reports, origin) = (means.reports, means.origin);
            let deadline = at + Duration::from_secs(3);
            let view = View { lack: &lack, rate_bps, repair_percent, deadline, reports, servers, origin };
            viewer.planner.handle_input(PlanInput::Object { now, key, view });
        }
        viewer.look_at = now + Duration::from_millis(50);
    }

    fn act(&mut self, i: usize) {
        let viewer = &mut self.viewers[i];
        while let PlanOutput::Action(key, action) = viewer.planner.poll_output() {
            viewer.pending.push(Pending { at: self.now + LATENCY * 2, key, action });
        }
    }

    fn answer(&mut self, i: usize, key: ObjectKey, action: &Action) -> Outcome {
        let toi = Toi(key.0.into());
        let object = self.objects[&toi].clone();
        match action {
            Action::Report => self.report(i, toi, &object),
            Action::Symbols(server, blocks) => {
                let bytes = blocks.iter().map(|(_, _, n)| u64::from(*n) * 1344).sum();
                if let Err((_, wait)) = self.budget.take(self.now, &i, bytes) {
                    return Outcome::Busy(*server, wait.max(Duration::from_secs(1)));
                }
                self.count(bytes);
                for (sbn, from, count) in blocks {
                    let code = code(object.data.len());
                    let job = EncodeJob::of_object(toi, &object.data, &code, *sbn, *from, *count);
                    let symbols: Vec<u8> =
                        job.expect("a block").run().repair.into_iter().flat_map(|(_, s)| s).collect();
                    let first = PayloadId { sbn: *sbn, esi: *from };
                    let (now, path) = (self.now, Path::Sender);
                    let input = recv::Input::Symbols { now, toi, path, first, symbols: &symbols };
                    self.viewers[i].recv.handle_input(input);
                    self.viewers[i].drain(self.now);
                }
                Outcome::Fed
            }
            Action::Ranges(_) | Action::OriginRanges => {
                for (first, last) in self.viewers[i].recv.missing_ranges(toi, 0) {
                    self.fetch(i, toi, first, &object.data.slice(first as usize..=last as usize));
                }
                Outcome::Fed
            }
            Action::OriginWhole => {
                self.fetch(i, toi, 0, &object.data);
                Outcome::Fed
            }
        }
    }

    fn fetch(&mut self, i: usize, toi: Toi, offset: u64, bytes: &Bytes) {
        self.count(bytes.len() as u64);
        let (now, path) = (self.now, Path::Origin);
        self.viewers[i].recv.handle_input(recv::Input::Bytes { now, toi, path, offset, bytes });
        self.viewers[i].drain(now);
    }

    fn count(&mut self, bytes: u64) {
        let second = self.now.as_nanos() / 1_000_000_000;
        *self.unicast.entry(second).or_default() += bytes;
        *self.requests.entry(second).or_default() += 1;
    }

    fn report(&mut self, i: usize, toi: Toi, object: &Object) -> Outcome {
        self.reports += 1;
        let Some(lack) = self.viewers[i].recv.lack(toi) else { return Outcome::Reported(None) };
        let code = code(object.data.len());
        let blocks: Vec<u32> = (0..code.count()).map(|b| code.block_symbols(Sbn(b))).collect();
        let lacks: Vec<(Sbn, u32)> =
            lack.blocks.iter().filter(|b| b.missing > 0).map(|b| (b.sbn, b.missing)).collect();
        let id = ObjectId { tsi: crate::Tsi(0x2001), toi };
        let known = Known { id, blocks: &blocks, packet_bytes: 1380, rate_bps: self.rate_bps };
        let from = Reporter { client: i as u64, receiver: 0 };
        let sample = self.viewers[i].planner.sample();
        match self.aggregator.report(self.now, from, sample, &known, &lacks) {
            Verdict::Wait(wait) => Outcome::Reported(Some(wait)),
            Verdict::Unicast | Verdict::Refused(_) => Outcome::Reported(None),
        }
    }

    /// Objects that were not whole when a player needed them.
    fn stalls(&self) -> usize {
        let late = |v: &Viewer| {
            self.objects
                .keys()
                .enumerate()
                .filter(|(i, toi)| {
                    let needed = Time::from_secs(2 * *i as u64) + BUFFER;
                    v.complete.get(toi).is_none_or(|(at, _)| *at > needed)
                })
                .count()
        };
        self.viewers.iter().map(late).sum()
    }

    fn unicast_from(&self, second: u64) -> u64 {
        self.unicast.range(second..).map(|(_, n)| n).sum()
    }

    fn media(&self) -> u64 {
        self.objects.values().map(|o| o.data.len() as u64).sum()
    }

    /// Every byte of every object came some way, and what was fetched is what the unicast servers sent, less what came twice.
    fn assert_ledger(&self) {
        let mut fetched = 0;
        for viewer in &self.viewers {
            for (toi, (_, how)) in &viewer.complete {
                assert_eq!(how.bytes.total(), self.objects[toi].data.len() as u64);
                fetched += how.bytes.fetched();
            }
        }
        assert!(fetched <= self.unicast_from(0), "{fetched} of {}", self.unicast_from(0));
    }

    fn say(&self, what: &str) {
        let share = self.unicast_from(0) as f64 / (self.media() as f64 * self.viewers.len() as f64);
        println!(
            "{what}: {} stalls, {:.3} % unicast, peak {} requests/s, {} reports, {} multicast repairs, share {} %",
            self.stalls(),
            share * 100.0,
            self.requests.values().max().unwrap_or(&0),
            self.reports,
            self.aggregator.stats().repairs,
            self.percent
        );
    }
}

impl Viewer {
    fn loses(&mut self, loss: Loss) -> bool {
        match loss {
            Loss::Independent(share) => self.rng.f64() < share,
            Loss::Bursts(share, length) => {
                let end = 1.0 / length;
                let begin = end * share / (1.0 - share);
                let turn = if self.bad { end } else { begin };
                if self.rng.f64() < turn {
                    self.bad = !self.bad;
                }
                self.bad
            }
        }
    }

    fn drain(&mut self, now: Time) {
        loop {
            match self.recv.poll_output() {
                recv::Output::Command(recv::Command::Decode(job)) => {
                    let result = job.run();
                    self.recv.handle_input(recv::Input::Decoded { now, result });
                }
                recv::Output::Event(recv::Event::Announced { toi, .. }) => {
                    self.announced.entry(toi).or_insert(now);
                    self.flights.insert(toi, now);
                }
                recv::Output::Event(recv::Event::Complete { toi, how, .. }) => {
                    self.flights.remove(&toi);
                    self.planner.handle_input(PlanInput::Gone { key: ObjectKey(toi.0 as u64) });
                    self.complete.insert(toi, (now, how));
                }
                recv::Output::Event(_) => {}
                recv::Output::Timeout(_) => break,
            }
        }
    }
}

fn code(length: usize) -> Blocks {
    Blocks::of(&raptorq_oti(length as u64, 1344).expect("codable"), u64::MAX).expect("valid")
}

const TOP: u64 = 8_000_000;
/// Bytes of two seconds of it.
const SEGMENT: usize = 2_000_000;

fn one(loss: Loss, means: Means, segments: u64) -> World {
    let mut world = World::new(seed(21), 1, TOP * 4, loss, means);
    world.live(segments, SEGMENT);
    world.say(&format!("{loss:?}, {means:?}"));
    world.assert_ledger();
    world
}

#[test]
fn five_percent_needs_no_unicast_and_does_not_stall() {
    let world = one(Loss::Independent(0.05), ALL, 30);
    assert_eq!((world.stalls(), world.unicast_from(0)), (0, 0));
}

#[test]
fn ten_percent_needs_hardly_any() {
    let world = one(Loss::Independent(0.10), ALL, 30);
    assert_eq!(world.stalls(), 0);
    assert!(world.unicast_from(0) <= world.media() / 100);
}

#[test]
fn twenty_percent_is_mended_by_unicast_until_the_share_has_followed() {
    let world = one(Loss::Independent(0.20), ALL, 50);
    assert_eq!(world.stalls(), 0);
    assert!(world.unicast_from(0) <= world.media() / 10);
    let later = world.objects.values().skip(30).map(|o| o.data.len() as u64).sum::<u64>();
    assert!(world.unicast_from(60) <= later * 3 / 100, "{} of {later}", world.unicast_from(60));
    assert!(world.percent > 30);
}

#[test]
fn congested_bursts_are_mended() {
    let world = one(Loss::Bursts(0.09, 12.0), ALL, 50);
    assert_eq!(world.stalls(), 0);
    assert!(world.unicast_from(0) <= world.media() / 10);
    let later = world.objects.values().skip(30).map(|o| o.data.len() as u64).sum::<u64>();
    assert!(world.unicast_from(60) <= later * 3 / 100, "{} of {later}", world.unicast_from(60));
}

#[test]
fn without_any_recovery_twenty_percent_stalls() {
    // Negative control: neither reports nor unicast nor an adaptive share.
    let means = Means { reports: false, server: false, origin: false, adaptive: false };
    let world = one(Loss::Independent(0.20), means, 10);
    assert!(world.stalls() >= 9, "{}", world.stalls());
}

#[test]
fn a_sender_without_service_leaves_it_to_the_origin() {
    let means = Means { server: false, reports: false, adaptive: false, ..ALL };
    let world = one(Loss::Independent(0.20), means, 10);
    assert_eq!(world.stalls(), 0);
    let (_, how) = world.viewers[0].complete[&Toi(1003)];
    assert!(how.bytes.get(Path::Origin) > 0 && how.bytes.get(Path::Sender) == 0);
}

#[test]
fn no_more_is_fetched_than_missing_and_two_symbols_of_each_block() {
    let mut world =
        World::new(seed(5), 1, TOP * 4, Loss::Independent(0.25), Means { adaptive: false, ..ALL });
    world.live(10, SEGMENT);
    assert_eq!(world.stalls(), 0);
    for (_, how) in world.viewers[0].complete.values() {
        let heard = how.source_received + how.repair_received;
        let lacking = how.source_symbols.saturating_sub(heard);
        // Two blocks, two symbols more each, and once in a while a second request of two.
        assert!(how.fetched <= lacking + 2 * 2 + 4, "{how:?}");
        assert!(how.fetched > 0);
    }
}

/// A segment that is lost with its announcements: one of a quarter of a megabyte, at 6 s.
fn unheard(means: Means) -> World {
    let mut world =
        World::new(seed(8), 1, 4_600_000, Loss::Independent(0.0), Means { adaptive: false, ..means });
    world.outage = Some((Time::from_millis(5900), Time::from_millis(6900)));
    world.live(6, 250_000);
    world.say(&format!("a segment of which nothing was heard, {means:?}"));
    world.assert_ledger();
    world
}

#[test]
fn an_object_of_which_nothing_was_heard_is_learnt_of_from_the_next_and_recovered() {
    let lost = Toi(1003);
    let world = unheard(ALL);
    assert!(world.viewers[0].announced[&lost] >= Time::from_secs(8), "by the announcement of the next one");
    let (_, how) = world.viewers[0].complete[&lost];
    assert_eq!((how.source_received, world.stalls()), (0, 0));

    // Negative control: without recovery it is known of, and never whole.
    let world = unheard(Means { reports: false, server: false, origin: false, adaptive: false });
    assert!(world.viewers[0].announced.contains_key(&lost));
    assert_eq!((world.viewers[0].complete.contains_key(&lost), world.stalls()), (false, 1));
}

/// 200 receivers of a channel of 1 Mbit/s, each losing one packet in a hundred, and all the same second of stream.
fn crowd(means: Means) -> World {
    sampled_crowd(means, 1.0)
}

/// The same, when the sender has told them to report with this probability.
fn sampled_crowd(means: Means, probability: f64) -> World {
    let mut world = World::new(seed(77), 200, 4_600_000, Loss::Independent(0.01), means);
    for viewer in &mut world.viewers {
        viewer.planner.handle_input(PlanInput::Sample { probability });
    }
    // The fourth segment begins at 6 s and takes half a second.
    world.outage = Some((Time::from_millis(5900), Time::from_millis(6900)));
    world.live(5, 250_000);
    world.say(&format!("200 receivers, {means:?}"));
    world.assert_ledger();
    world
}

/// What 200 viewers would have fetched of that second by unicast.
const SECOND_BY_UNICAST: u64 = 200 * 125_000;

#[test]
fn a_loss_common_to_200_receivers_costs_hardly_any_unicast() {
    let world = crowd(ALL);
    assert_eq!(world.stalls(), 0);
    let unicast = world.unicast_from(0);
    assert!(unicast <= SECOND_BY_UNICAST / 20, "{unicast} bytes by unicast, {SECOND_BY_UNICAST} without us");
    assert!(world.requests.values().all(|n| *n <= 100), "requests per second: {:?}", world.requests);
    assert!(world.aggregator.stats().repairs >= 1);
}

#[test]
fn a_tenth_of_the_reports_speaks_for_all() {
    let (all, tenth) = (crowd(ALL), sampled_crowd(ALL, 0.1));
    assert_eq!(tenth.stalls(), 0);
    assert!(tenth.reports >= 1 && tenth.reports * 4 <= all.reports, "{} of {}", tenth.reports, all.reports);
    assert!(tenth.aggregator.stats().repairs >= 1, "nothing was multicast");
    let unicast = tenth.unicast_from(0);
    assert!(unicast <= SECOND_BY_UNICAST / 20, "{unicast} bytes by unicast, {SECOND_BY_UNICAST} without us");
}

#[test]
fn without_reports_the_same_loss_is_a_storm() {
    // Negative control for the test above: it is the multicast repair that spares the servers.
    let world = crowd(Means { reports: false, ..ALL });
    assert!(world.unicast_from(0) > SECOND_BY_UNICAST, "{}", world.unicast_from(0));
}

#[test]
fn a_busy_server_is_left_alone_until_it_says_and_the_origin_asked() {
    let mut planner = Planner::new(PlanConfig { seed: seed(3), ..PlanConfig::default() });
    let mut world = World::new(1, 1, TOP * 4, Loss::Independent(0.3), Means { adaptive: false, ..ALL });
    world.means.reports = false;
    world.means.server = false;
    world.means.origin = false;
    world.live(1, SEGMENT);
    let lack = world.viewers[0].recv.lack(Toi(1000)).expect("lacking");
    let key = ObjectKey(1);
    let mut asked = Vec::new();
    for ms in (8000..12_000).step_by(50) {
        let now = Time::from_millis(ms);
        let view = View {
            lack: &lack,
            rate_bps: TOP * 4,
            repair_percent: 15,
            deadline: Time::from_secs(11),
            reports: false,
            servers: &[SERVER],
            origin: true,
        };
        planner.handle_input(PlanInput::Object { now, key, view });
        while let PlanOutput::Action(_, action) = planner.poll_output() {
            let outcome = match &action {
                Action::Symbols(server, _) => Outcome::Busy(*server, Duration::from_secs(2)),
                _ => Outcome::Fed,
            };
            asked.push((ms, action));
            planner.handle_input(PlanInput::Done { now, key, outcome });
        }
    }
    let to_server: Vec<u64> =
        asked.iter().filter(|(_, a)| matches!(a, Action::Symbols(..))).map(|(ms, _)| *ms).collect();
    assert!(to_server.windows(2).all(|w| w[1] - w[0] >= 2000), "{to_server:?}");
    assert!(asked.iter().any(|(_, a)| *a == Action::OriginRanges), "{asked:?}");
    assert!(asked.len() <= 9, "attempts are bounded: {}", asked.len());
}
