//! The receiver's side of recovery: for each object in flight, what to do by when.
//!
//! In order: wait for the FEC of the stream; tell the sender, at random and sampled, and wait for repair symbols by multicast;
//! ask a repair server for symbols; ask the origin for the missing bytes, or for everything. Each step begins no earlier than
//! the loss is revealed (the transmission should be over, a newer object has begun, silence) and no later than the object's
//! deadline allows. What another receiver's request brings on multicast in the meantime is used: an object whose symbols are
//! coming in is left alone.
//!
//! The driver tells what each object lacks ([`Input::Object`], again at the time that [`Output::Timeout`] names, as symbols may have
//! come since), when it is complete, and how each action ended; it does the actions.

use super::budget::TokenBucket;
use crate::fec::raptorq::{ESI_END, ESI_MOQ_END};
use crate::ids::{Esi, Sbn};
use crate::session::recv::Lack;
use crate::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Parameters of a [`Planner`].
#[derive(Clone, Debug)]
pub struct PlanConfig {
    /// Of the back-off.
    pub seed: u64,
    /// Most bytes per second by unicast repair.
    pub bytes_per_sec: f64,
    /// Most bytes of unicast repair at once.
    pub burst: f64,
    /// Objects at a time: further ones are left to the players' requests.
    pub objects: usize,
}

impl Default for PlanConfig {
    /// 2 MB/s, 8 MB at once.
    fn default() -> PlanConfig {
        PlanConfig { seed: 0, bytes_per_sec: 2e6, burst: 8e6, objects: 256 }
    }
}

/// An object, by a number of the driver's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(pub u64);

/// A repair server, by a number of the driver's choice, and its weight (0: never).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// Number.
    pub id: u32,
    /// Share of the requests it should get, relative to the others'.
    pub weight: u32,
}

/// What there is to know about an object in flight.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// What it lacks.
    pub lack: &'a Lack,
    /// Pacing rate of its flow, bit/s; 0 = unknown.
    pub rate_bps: u64,
    /// Repair symbols per hundred source symbols that the sender adds.
    pub repair_percent: u32,
    /// By when it must be complete.
    pub deadline: Time,
    /// Whether the sender takes reports.
    pub reports: bool,
    /// Its repair servers.
    pub servers: &'a [Server],
    /// Whether the origin may be asked.
    pub origin: bool,
}

/// What goes in.
#[derive(Debug)]
pub enum Input<'a> {
    /// An object lacks something (still).
    Object {
        /// Now.
        now: Time,
        /// Which.
        key: ObjectKey,
        /// What and how.
        view: View<'a>,
    },
    /// An object is complete, given up, or here another way.
    Gone {
        /// Which.
        key: ObjectKey,
    },
    /// An action has ended.
    Done {
        /// Now.
        now: Time,
        /// Of which object.
        key: ObjectKey,
        /// How.
        outcome: Outcome,
    },
    /// The sender wants lacks reported with this probability.
    Sample {
        /// 0 to 1.
        probability: f64,
    },
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The report was taken: wait this long for multicast (`None`: ask by unicast).
    Reported(Option<Duration>),
    /// What was asked for was fed to the decoder.
    Fed,
    /// This server is busy: not before this time has passed.
    Busy(Server, Duration),
    /// This server will answer for this object after this time; until then symbols may come by multicast.
    Later(Server, Duration),
    /// This server does not have it, does not answer, or answers nonsense.
    Failed(Server),
    /// The report got no answer.
    Unreported,
    /// The origin failed.
    OriginFailed,
}

/// What to do for an object. One at a time for each; tell with [`Input::Done`] how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Report what it lacks.
    Report,
    /// Ask a repair server for encoding symbols: block, first ESI, number.
    Symbols(Server, Vec<(Sbn, Esi, u32)>),
    /// Ask a repair server for the missing bytes.
    Ranges(Server),
    /// Ask the origin for the missing bytes.
    OriginRanges,
    /// Ask the origin for everything.
    OriginWhole,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Something to do.
    Action(ObjectKey, Action),
    /// Look at the objects again no later than this; `None`: there are none to look at.
    Timeout(Option<Time>),
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanStats {
    /// Objects whose loss was revealed.
    pub revealed: u64,
    /// Reports.
    pub reports: u64,
    /// Requests to repair servers.
    pub server_requests: u64,
    /// Requests to the origin.
    pub origin_requests: u64,
    /// Times that a request had to wait for the budget.
    pub budget_waits: u64,
}

/// Reports of a loss are spread over this time.
const REPORT_SPREAD: Duration = Duration::from_millis(120);
/// After the report's time: what a report takes to become symbols, when the sender has not said.
const MULTICAST_WAIT: Duration = Duration::from_millis(350);
/// Unicast requests are spread over at most this much more.
const BACK_OFF_MAX: Duration = Duration::from_millis(600);
/// Least time before the deadline that unicast starts at.
const LEAD: Duration = Duration::from_millis(1200);
/// The transmission is over this long after it should be.
const MARGIN: Duration = Duration::from_millis(60);
/// Repair symbols are spread over this time.
const REPAIR_SPREAD: Duration = Duration::from_millis(100);
/// Nothing came for this long: an object is not coming in.
const SILENCE: Duration = Duration::from_millis(250);
/// The same where a newer object has begun.
const SILENCE_SUPERSEDED: Duration = Duration::from_millis(120);
/// A decoder has done its work.
const DECODING: Duration = Duration::from_millis(120);
/// What was fetched has reached the decoder: an object that still lacks something lacks it indeed.
const FEEDING: Duration = Duration::from_millis(60);
/// A server that failed is not asked for this long.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// Unicast attempts for one object.
const ATTEMPTS: u32 = 8;
/// Share of an object above which the missing bytes are asked for in one piece.
const WHOLE_SHARE: f64 = 0.7;
/// Repair symbols beyond those missing, at most: with K a block fails in one case of 200, with K + 2 in one of 10^6. The first
/// request asks for no more than an eighth of what is missing: two beyond four would be a third of it.
const SPARE: u32 = 2;

/// See the module. After each input, poll until [`Output::Timeout`].
#[derive(Debug)]
pub struct Planner {
    config: PlanConfig,
    rng: fastrand::Rng,
    now: Time,
    sample: f64,
    bucket: TokenBucket,
    objects: BTreeMap<ObjectKey, Object>,
    servers: BTreeMap<Server, Time>,
    out: VecDeque<(ObjectKey, Action)>,
    stats: PlanStats,
}

#[derive(Debug)]
struct Object {
    lack: Lack,
    deadline: Time,
    over_at: Time,
    reports: bool,
    servers: Vec<Server>,
    origin: bool,
    stage: Stage,
    running: bool,
    attempts: u32,
    origin_failed: bool,
    /// Next ESI to ask of each block.
    next_esi: BTreeMap<Sbn, u32>,
    /// Symbols held when the stage began: progress since then means that symbols are coming.
    look_at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The FEC of the stream may do.
    Hearing,
    /// To report at this time.
    Reporting(Time),
    /// Symbols may come by multicast until then.
    Waiting(Time),
    /// By unicast, from this time on.
    Unicast(Time),
    /// Nothing more can be done.
    Over,
}

impl Planner {
    /// Knows no object.
    pub fn new(config: PlanConfig) -> Planner {
        Planner {
            rng: fastrand::Rng::with_seed(config.seed),
            now: Time::ZERO,
            sample: 1.0,
            bucket: TokenBucket::new(config.bytes_per_sec, config.burst),
            config,
            objects: BTreeMap::new(),
            servers: BTreeMap::new(),
            out: VecDeque::new(),
            stats: PlanStats::default(),
        }
    }

    /// One input; then drain [`Planner::poll_output`].
    pub fn handle_input(&mut self, input: Input<'_>) {
        match input {
            Input::Object { now, key, view } => {
                self.now = now;
                self.see(key, &view);
                self.step(key);
            }
            Input::Gone { key } => _ = self.objects.remove(&key),
            Input::Done { now, key, outcome } => {
                self.now = now;
                self.done(key, outcome);
                self.step(key);
            }
            Input::Sample { probability } => self.sample = probability.clamp(0.0, 1.0),
        }
    }

    /// Next output.
    pub fn poll_output(&mut self) -> Output {
        match self.out.pop_front() {
            Some((key, action)) => Output::Action(key, action),
            None => Output::Timeout(self.objects.values().filter(|o| !o.running).map(|o| o.look_at).min()),
        }
    }

    /// Objects that lack something.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Whether what the stream brought of an object does not do.
    pub fn is_revealed(&self, key: ObjectKey) -> bool {
        self.objects.get(&key).is_some_and(|o| o.stage != Stage::Hearing && !o.lack.blocks.is_empty())
    }

    /// Probability with which lacks are reported.
    pub const fn sample(&self) -> f64 {
        self.sample
    }

    /// Counters.
    pub const fn stats(&self) -> &PlanStats {
        &self.stats
    }

    /// Until when something is being done for the object that a player need not do himself; `None`: nothing.
    pub fn hope(&self, key: ObjectKey) -> Option<Time> {
        let object = self.objects.get(&key)?;
        let lead = LEAD / 2;
        match object.stage {
            Stage::Over => None,
            Stage::Hearing => Some(object.over_at + MULTICAST_WAIT),
            Stage::Reporting(at) | Stage::Waiting(at) | Stage::Unicast(at) => Some(at.max(self.now) + lead),
        }
    }

    fn see(&mut self, key: ObjectKey, view: &View<'_>) {
        let full = self.objects.len() >= self.config.objects;
        if full && !self.objects.contains_key(&key) {
            return;
        }
        let now = self.now;
        let object = self.objects.entry(key).or_insert_with(|| Object::new(view.lack.clone(), now));
        object.lack = view.lack.clone();
        object.deadline = view.deadline;
        object.over_at = transmission_over(view);
        (object.reports, object.origin) = (view.reports, view.origin);
        if object.servers != view.servers {
            object.servers = view.servers.to_vec();
        }
    }

    fn step(&mut self, key: ObjectKey) {
        let now = self.now;
        let Some(object) = self.objects.get_mut(&key) else { return };
        if object.running {
            return;
        }
        if object.lack.blocks.is_empty() {
            object.look_at = now + DECODING;
            return;
        }
        // A stage that has ended leads to the next; each looks at its own time.
        loop {
            let before = object.stage;
            match object.stage {
                Stage::Hearing => {
                    let at = object.revealed_at();
                    if now < at {
                        object.look_at = at;
                        return;
                    }
                    self.stats.revealed += 1;
                    object.stage = object.after_reveal(now, self.sample, &mut self.rng);
                }
                Stage::Reporting(at) => {
                    if object.is_coming(now) && now < object.last_call() {
                        object.stage = Stage::Waiting(now + MULTICAST_WAIT);
                    } else if now < at {
                        object.look_at = at;
                        return;
                    } else {
                        self.stats.reports += 1;
                        object.stage = Stage::Waiting(now + MULTICAST_WAIT);
                        object.running = true;
                        self.out.push_back((key, Action::Report));
                        return;
                    }
                }
                Stage::Waiting(at) => {
                    if now < at.min(object.last_call()) {
                        object.look_at = at.min(object.last_call());
                        return;
                    }
                    let back_off = object.back_off(now, &mut self.rng);
                    object.stage = Stage::Unicast(now + back_off);
                }
                Stage::Unicast(at) => {
                    // What others asked for is coming in.
                    let coming = object.is_coming(now) && now < object.last_call();
                    let at = if coming { at.max(object.lack.last_symbol + SILENCE_SUPERSEDED) } else { at };
                    if now < at {
                        object.look_at = at;
                        return;
                    }
                    return self.unicast(key);
                }
                Stage::Over => {
                    object.look_at = now + Duration::from_secs(1);
                    return;
                }
            }
            if object.stage == before {
                return;
            }
        }
    }

    /// Asks a server, or the origin.
    fn unicast(&mut self, key: ObjectKey) {
        let now = self.now;
        let server = self.choose(key);
        let Some(object) = self.objects.get_mut(&key) else { return };
        if object.attempts >= ATTEMPTS {
            object.stage = Stage::Over;
            return;
        }
        let cost = object.cost();
        let action = match server {
            Some(server) if object.lack.fountain => Action::Symbols(server, object.ask()),
            Some(server) => Action::Ranges(server),
            None if !object.origin || object.origin_failed => {
                // Perhaps a busy server is free again before the deadline.
                let free = object.servers.iter().filter_map(|s| self.servers.get(s)).min().copied();
                match free.filter(|at| *at < object.deadline && *at > now) {
                    Some(at) => (object.stage, object.look_at) = (Stage::Unicast(at), at),
                    None => (object.stage, object.look_at) = (Stage::Over, now + Duration::from_secs(1)),
                }
                return;
            }
            // Which bytes are wrong is not known.
            None if object.lack.doubtful || object.missing_share() > WHOLE_SHARE => Action::OriginWhole,
            None => Action::OriginRanges,
        };
        if let Err(wait) = self.bucket.take(now, cost) {
            self.stats.budget_waits += 1;
            let at = now + wait;
            if at >= object.deadline {
                object.stage = Stage::Over;
            } else {
                object.stage = Stage::Unicast(at);
            }
            object.look_at = at;
            return;
        }
        match action {
            Action::OriginWhole | Action::OriginRanges => self.stats.origin_requests += 1,
            _ => self.stats.server_requests += 1,
        }
        object.attempts += 1;
        object.running = true;
        self.out.push_back((key, action));
    }

    /// A server that may be asked, at random by weight.
    fn choose(&mut self, key: ObjectKey) -> Option<Server> {
        let object = self.objects.get(&key)?;
        let free = |s: &&Server| self.servers.get(s).is_none_or(|until| self.now >= *until);
        let servers: Vec<Server> =
            object.servers.iter().filter(free).filter(|s| s.weight > 0).copied().collect();
        let total: u64 = servers.iter().map(|s| u64::from(s.weight)).sum();
        if total == 0 {
            return None;
        }
        let mut at = self.rng.u64(0..total);
        servers.into_iter().find(|s| {
            let weight = u64::from(s.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    fn done(&mut self, key: ObjectKey, outcome: Outcome) {
        let now = self.now;
        match outcome {
            Outcome::Busy(server, wait) => _ = self.servers.insert(server, now + wait.min(COOL_DOWN * 6)),
            Outcome::Failed(server) => _ = self.servers.insert(server, now + COOL_DOWN),
            Outcome::Later(..) | Outcome::Reported(_) | Outcome::Fed => {}
            Outcome::Unreported | Outcome::OriginFailed => {}
        }
        let Some(object) = self.objects.get_mut(&key) else { return };
        object.running = false;
        match outcome {
            Outcome::Reported(Some(wait)) => object.stage = Stage::Waiting(now + wait),
            Outcome::Reported(None) | Outcome::Unreported => {
                object.stage = Stage::Unicast(now + object.back_off(now, &mut self.rng));
            }
            Outcome::Fed => object.stage = Stage::Unicast(now + FEEDING),
            // The server is not busy, but has a better way for this object; where that is too slow, another server is asked.
            Outcome::Later(server, wait) => {
                self.bucket.give_back(object.cost());
                if now + wait < object.deadline {
                    object.stage = Stage::Unicast(now + wait);
                } else {
                    self.servers.insert(server, now + wait);
                    object.stage = Stage::Unicast(now);
                }
            }
            // Another way at once: time has been lost.
            Outcome::Busy(..) | Outcome::Failed(_) => object.stage = Stage::Unicast(now),
            Outcome::OriginFailed => {
                object.origin_failed = true;
                object.stage = Stage::Unicast(now);
            }
        }
    }
}

/// When all that the sender sends of an object by itself should be here.
fn transmission_over(view: &View<'_>) -> Time {
    let lack = view.lack;
    let packet_bits = (u64::from(lack.symbol_size) + 40) * 8;
    let step = match view.rate_bps {
        0 => Duration::from_millis(2),
        bps => Duration::from_nanos(packet_bits.saturating_mul(1_000_000_000) / bps),
    };
    let packets = lack.source_symbols as f64 * (1.0 + f64::from(view.repair_percent) / 100.0);
    lack.first_symbol.unwrap_or(lack.since) + step.mul_f64(packets) + REPAIR_SPREAD + MARGIN
}

impl Object {
    fn new(lack: Lack, now: Time) -> Object {
        Object {
            lack,
            deadline: now,
            over_at: now,
            reports: false,
            servers: Vec::new(),
            origin: false,
            stage: Stage::Hearing,
            running: false,
            attempts: 0,
            origin_failed: false,
            next_esi: BTreeMap::new(),
            look_at: now,
        }
    }

    /// When it is certain that the FEC of the stream did not do.
    fn revealed_at(&self) -> Time {
        let silence = if self.lack.superseded.is_some() { SILENCE_SUPERSEDED } else { SILENCE };
        let quiet = self.lack.last_symbol + silence;
        // While symbols come in, the end that was expected may be late.
        let over = self.over_at.max(self.lack.last_symbol + MARGIN);
        quiet.min(over).min(self.last_call())
    }

    /// No later than this something must be done that helps by itself.
    fn last_call(&self) -> Time {
        let lead = LEAD.as_nanos() as u64;
        Time::from_nanos(self.deadline.as_nanos().saturating_sub(lead))
    }

    fn after_reveal(&self, now: Time, sample: f64, rng: &mut fastrand::Rng) -> Stage {
        let patience = self.last_call().since(now);
        if !self.reports || patience < MULTICAST_WAIT {
            return Stage::Unicast(now + self.back_off(now, rng));
        }
        let spread = REPORT_SPREAD.min(patience / 3).mul_f64(rng.f64());
        if rng.f64() < sample {
            Stage::Reporting(now + spread)
        } else {
            // Others speak for this one.
            Stage::Waiting(now + REPORT_SPREAD + MULTICAST_WAIT)
        }
    }

    fn back_off(&self, now: Time, rng: &mut fastrand::Rng) -> Duration {
        (self.last_call().since(now) / 2).min(BACK_OFF_MAX).mul_f64(rng.f64())
    }

    fn is_coming(&self, now: Time) -> bool {
        self.lack.first_symbol.is_some() && now < self.lack.last_symbol + SILENCE_SUPERSEDED
    }

    fn missing_share(&self) -> f64 {
        self.lack.missing() as f64 / self.lack.source_symbols.max(1) as f64
    }

    fn cost(&self) -> u64 {
        let symbols: u64 =
            self.lack.blocks.iter().map(|b| u64::from(b.missing + self.spare(b.missing))).sum();
        symbols * u64::from(self.lack.symbol_size)
    }

    const fn spare(&self, missing: u32) -> u32 {
        if self.attempts == 0 && missing / 8 < SPARE { missing / 8 } else { SPARE }
    }

    /// Symbols to ask for: of each block what is missing, and a few more, none asked for before.
    fn ask(&mut self) -> Vec<(Sbn, Esi, u32)> {
        let mut next = std::mem::take(&mut self.next_esi);
        let block = |b: &crate::session::recv::BlockLack| {
            let count = b.missing + self.spare(b.missing);
            let first = next.entry(b.sbn).or_insert(ESI_MOQ_END);
            if *first + count > ESI_END {
                *first = ESI_MOQ_END;
            }
            let from = Esi(*first);
            *first += count;
            (b.sbn, from, count)
        };
        let asked = self.lack.blocks.iter().map(block).collect();
        self.next_esi = next;
        asked
    }
}
