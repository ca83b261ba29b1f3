//! One light receiver.

use super::net::{Answered, Asked, Client, Heard, Piece};
use super::{Counters, CrowdArgs, Flow, Places};
use mahp_common::auth::VerifyingKey;
use mahp_common::repair::plan::{
    Action, Input as PlanInput, ObjectKey, Outcome, Output as PlanOutput, PlanConfig, Planner, Server, View,
};
use mahp_common::repair::report::{ObjectLack, Report};
use mahp_common::session::recv::{
    Command, Event, Input, Lack, Output, Path, Reception, RecvConfig, RecvSession,
};
use mahp_common::{ObjectKind, ObjectMeta, Time, Toi, Tsi};
use mahp_runtime::clock::Clock;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// A player would want a segment this long after it was first heard of: one and a half segments of two seconds.
const DEADLINE: Duration = Duration::from_secs(3);
/// Ranges are merged over gaps of this size.
const MERGE: u64 = 16 << 10;
/// Objects first heard of within this time after the start may have been missed in part: they are not counted.
const SETTLE: Duration = Duration::from_secs(4);
/// Memory of one flow.
const ASSEMBLY: u64 = 8 << 20;

struct Session {
    tsi: Tsi,
    groups: Vec<IpAddr>,
    engine: RecvSession,
    rate_bps: u64,
    repair_percent: u32,
}

/// An object that was announced and is not complete.
struct Flight {
    session: usize,
    toi: Toi,
    meta: ObjectMeta,
    since: Time,
}

pub(super) struct Member {
    number: usize,
    /// As it tells the sender.
    name: u64,
    loss: f64,
    rng: fastrand::Rng,
    begun: Option<Time>,
    sessions: Vec<Session>,
    flights: BTreeMap<ObjectKey, Flight>,
    next_key: u64,
    planner: Planner,
    servers: Vec<Server>,
    reports: bool,
}

impl Member {
    pub(super) fn new(
        number: usize,
        args: &CrowdArgs,
        flows: &[Flow],
        key: VerifyingKey,
        places: &Places,
    ) -> Member {
        let mut rng = fastrand::Rng::with_seed(args.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let session = |flow: &Flow| {
            let f = &flow.rendition.flow;
            let config = RecvConfig {
                tsi: Some(f.endpoint.tsi),
                repair_tsi: f.repair.map(|r| r.tsi),
                key: Some(key),
                assembly_bytes: ASSEMBLY,
                ..RecvConfig::default()
            };
            Session {
                tsi: f.endpoint.tsi,
                groups: std::iter::once(f.endpoint.group).chain(f.repair.map(|r| r.group)).collect(),
                engine: RecvSession::new(config),
                rate_bps: f.rate_bps,
                repair_percent: f.repair_percent,
            }
        };
        let server = |(id, (_, weight)): (usize, &(url::Url, u32))| Server {
            id: u32::try_from(id).unwrap_or(u32::MAX),
            weight: *weight,
        };
        Member {
            number,
            name: rng.u64(..) >> 11,
            loss: args.loss.fraction(),
            planner: Planner::new(PlanConfig { seed: rng.u64(..), ..PlanConfig::default() }),
            rng,
            begun: None,
            sessions: flows.iter().map(session).collect(),
            flights: BTreeMap::new(),
            next_key: 0,
            servers: places.servers.iter().enumerate().map(server).collect(),
            reports: places.reports.is_some(),
        }
    }

    /// A datagram came for all; this one may lose it.
    pub(super) fn packet(&mut self, clock: &Clock, heard: &Heard, counters: &mut Counters) {
        if self.loss > 0.0 && self.rng.f64() < self.loss {
            return;
        }
        let (now, wall) = (clock.now(), clock.wall());
        self.begun.get_or_insert(now);
        for number in 0..self.sessions.len() {
            let session = &mut self.sessions[number];
            if session.groups.contains(&heard.group) {
                session.engine.handle_input(Input::Packet { now, wall, datagram: &heard.payload });
                self.drain(number, now, counters);
            }
        }
    }

    fn drain(&mut self, number: usize, now: Time, counters: &mut Counters) {
        loop {
            let engine = &mut self.sessions[number].engine;
            match engine.poll_output() {
                Output::Command(Command::Decode(job)) => {
                    engine.handle_input(Input::Decoded { now, result: job.run() });
                }
                Output::Event(event) => self.event(number, now, event, counters),
                Output::Timeout(_) => return,
            }
        }
    }

    fn event(&mut self, session: usize, now: Time, event: Event, counters: &mut Counters) {
        match event {
            Event::Announced { toi, meta, newest } => {
                let known = self.key_of(session, toi).is_some();
                if newest && !known && meta.kind == ObjectKind::Media {
                    let key = ObjectKey(self.next_key);
                    self.next_key += 1;
                    self.flights.insert(key, Flight { session, toi, meta, since: now });
                }
            }
            Event::Complete { toi, how, .. } => self.end(session, toi, Some(&how), counters),
            Event::Lost { toi, .. } => self.end(session, toi, None, counters),
            Event::NewSession { .. } | Event::Closed => {}
        }
    }

    fn key_of(&self, session: usize, toi: Toi) -> Option<ObjectKey> {
        let same = |(_, f): &(&ObjectKey, &Flight)| f.session == session && f.toi == toi;
        self.flights.iter().find(same).map(|(key, _)| *key)
    }

    fn end(&mut self, session: usize, toi: Toi, how: Option<&Reception>, counters: &mut Counters) {
        let Some(key) = self.key_of(session, toi) else { return };
        let Some(flight) = self.flights.remove(&key) else { return };
        self.planner.handle_input(PlanInput::Gone { key });
        if self.begun.is_none_or(|b| flight.since - b < SETTLE) {
            return;
        }
        let Some(how) = how else {
            counters.lost += 1;
            return;
        };
        counters.bytes += how.bytes.total();
        counters.sender_bytes += how.bytes.get(Path::Sender);
        counters.origin_bytes += how.bytes.get(Path::Origin);
        if how.fetched > 0 {
            counters.repaired += 1;
        } else {
            counters.intact += 1;
        }
    }

    /// What is in flight, and what the planner wants done for it.
    pub(super) fn look(&mut self, clock: &Clock, client: &Client, counters: &mut Counters) {
        let now = clock.now();
        for number in 0..self.sessions.len() {
            self.sessions[number].engine.handle_input(Input::Timeout { now });
            self.drain(number, now, counters);
        }
        for (key, flight) in &self.flights {
            let session = &self.sessions[flight.session];
            let Some(lack) = session.engine.lack(flight.toi) else { continue };
            let view = View {
                lack: &lack,
                rate_bps: session.rate_bps,
                repair_percent: session.repair_percent,
                deadline: flight.since + DEADLINE,
                reports: self.reports,
                servers: &self.servers,
                origin: true,
            };
            self.planner.handle_input(PlanInput::Object { now, key: *key, view });
        }
        self.act(now, client, counters);
    }

    fn act(&mut self, now: Time, client: &Client, counters: &mut Counters) {
        while let PlanOutput::Action(key, action) = self.planner.poll_output() {
            if !self.start(key, &action, client, counters) {
                let outcome = match action {
                    Action::Report => Outcome::Unreported,
                    Action::Symbols(server, _) | Action::Ranges(server) => Outcome::Failed(server),
                    Action::OriginRanges | Action::OriginWhole => Outcome::OriginFailed,
                };
                self.planner.handle_input(PlanInput::Done { now, key, outcome });
            }
        }
    }

    /// False: it cannot be done.
    fn start(&self, key: ObjectKey, action: &Action, client: &Client, counters: &mut Counters) -> bool {
        let Some(flight) = self.flights.get(&key) else { return false };
        let session = &self.sessions[flight.session];
        let Some(lack) = session.engine.lack(flight.toi) else { return false };
        let (tsi, toi, symbol_size) = (session.tsi, flight.toi, lack.symbol_size);
        let asked = Asked { member: self.number, key, tsi, toi, symbol_size };
        let ranges = || session.engine.missing_ranges(toi, MERGE);
        match action {
            Action::Report => {
                counters.reports += 1;
                client.report(asked, self.report(tsi, &lack));
            }
            Action::Symbols(server, blocks) => {
                counters.sender_requests += blocks.len() as u64;
                client.symbols(asked, *server, blocks.clone());
            }
            Action::Ranges(server) => {
                let ranges = ranges();
                counters.sender_requests += ranges.len() as u64;
                client.ranges(asked, *server, ranges);
            }
            Action::OriginRanges => {
                let ranges = ranges();
                counters.origin_requests += ranges.len() as u64;
                client.origin(asked, &flight.meta.url, ranges);
            }
            Action::OriginWhole => {
                counters.origin_requests += 1;
                client.origin(asked, &flight.meta.url, vec![(0, lack.length.saturating_sub(1))]);
            }
        }
        true
    }

    fn report(&self, tsi: Tsi, lack: &Lack) -> Report {
        let missing = lack.blocks.iter().filter(|b| b.missing > 0);
        let sample = self.planner.sample();
        Report {
            receiver: self.name,
            sample: if sample > 0.0 { sample } else { 1.0 },
            lacks: vec![ObjectLack {
                tsi: tsi.0,
                toi: u64::try_from(lack.toi.0).unwrap_or(u64::MAX),
                blocks: missing.map(|b| (b.sbn.0, b.missing)).collect(),
            }],
            reception: Vec::new(),
        }
    }

    /// A request of this receiver ended.
    pub(super) fn answered(
        &mut self,
        clock: &Clock,
        answered: Answered,
        client: &Client,
        counters: &mut Counters,
    ) {
        let now = clock.now();
        match answered.outcome {
            Outcome::Busy(..) | Outcome::Later(..) => counters.busy += 1,
            Outcome::Failed(_) | Outcome::OriginFailed | Outcome::Unreported => counters.failed += 1,
            Outcome::Fed | Outcome::Reported(_) => {}
        }
        if let Some((session, toi)) = self.flights.get(&answered.key).map(|f| (f.session, f.toi)) {
            for piece in &answered.pieces {
                let engine = &mut self.sessions[session].engine;
                match piece {
                    Piece::Symbols(first, symbols) => {
                        let (path, first) = (Path::Sender, *first);
                        engine.handle_input(Input::Symbols { now, toi, path, first, symbols });
                    }
                    Piece::Bytes(path, offset, bytes) => {
                        let (path, offset) = (*path, *offset);
                        engine.handle_input(Input::Bytes { now, toi, path, offset, bytes });
                    }
                }
            }
            self.drain(session, now, counters);
        }
        if let Some(answer) = &answered.answer {
            self.planner.handle_input(PlanInput::Sample { probability: answer.sample });
        }
        let (key, outcome) = (answered.key, answered.outcome);
        self.planner.handle_input(PlanInput::Done { now, key, outcome });
        self.act(now, client, counters);
    }
}
