//! Recovery of objects in flight: does what the pure planner ([`mahp_common::repair::plan`]) decides.
//!
//! Looks at what the hub wants completed, asks the planner, and does its actions: reports to the sender, symbols from repair
//! servers, byte ranges from the origin. Whatever comes is fed to the flow's engine, which knows no difference. Players'
//! requests ([`crate::http`]) remain the last resort: what is not here in time they fetch themselves.

pub(crate) mod client;
mod report;

use crate::hub::Hub;
use crate::hub::recover::Wanted;
use crate::library::Library as _;
use crate::moq::{self, Publishers};
use crate::origin::flight::End;
use crate::origin::{Credentials, Origins, Want};
use crate::served::{Served, Why};
use client::Client;
use mahp_common::repair::plan::{
    Action, Input, ObjectKey, Outcome, Output, PlanConfig, Planner, Server, View,
};
use mahp_common::repair::report::Answer;
use mahp_common::{ByteRange, Time};
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::Fetcher;
use report::Reporting;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use url::Url;

/// Objects in flight are looked at this often, and when the planner says.
const LOOK: Duration = Duration::from_millis(50);
/// But not more often than this.
const LOOK_MIN: Duration = Duration::from_millis(10);
/// The same while there are none.
const IDLE: Duration = Duration::from_millis(200);

/// Who is asked for symbols.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Ways {
    /// Repair servers by HTTP.
    Http,
    /// The MoQ publisher (experimental).
    Moq,
    /// Whichever there is.
    #[default]
    Auto,
}

impl Ways {
    fn has(self, server: &Url) -> bool {
        match self {
            Ways::Auto if moq::IS_HERE => true,
            Ways::Http | Ways::Auto => server.scheme() != "moqt",
            Ways::Moq => server.scheme() == "moqt",
        }
    }
}

/// What may be done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Reports to the sender, and its repair servers.
    pub sender: bool,
    /// By which ways its repair servers are asked.
    pub ways: Ways,
    /// Anything by unicast but reports.
    pub unicast: bool,
    /// Most bytes per second of repair by unicast.
    pub bytes_per_sec: f64,
}

impl Options {
    /// Whether MoQ publishers may be asked.
    pub const fn may_ask_publishers(&self) -> bool {
        self.sender && self.unicast && !matches!(self.ways, Ways::Http)
    }
}

/// See the module.
pub struct Recovery {
    hub: Arc<Hub>,
    origins: Arc<Origins>,
    clock: Clock,
    options: Options,
    client: Client,
    publishers: Publishers,
    planner: Planner,
    servers: HashMap<Url, u32>,
    reporting: Reporting,
    /// What was last seen of each object that the planner knows.
    wanted: BTreeMap<ObjectKey, Wanted>,
    /// Of these, those that the stream did not complete.
    short: BTreeSet<ObjectKey>,
    running: JoinSet<Ended>,
}

/// An action has ended.
enum Ended {
    Action(ObjectKey, Outcome, Option<Answer>),
    Reception(Option<Answer>),
}

impl Recovery {
    /// Does nothing yet.
    pub(crate) fn new(
        hub: Arc<Hub>,
        origins: Arc<Origins>,
        served: Arc<Served>,
        clock: Clock,
        fetcher: Fetcher,
        publishers: Publishers,
        options: Options,
    ) -> Recovery {
        let config = PlanConfig {
            seed: fastrand::u64(..),
            bytes_per_sec: options.bytes_per_sec,
            burst: options.bytes_per_sec * 4.0,
            ..PlanConfig::default()
        };
        Recovery {
            publishers,
            client: Client::new(hub.clone(), served, fetcher),
            hub,
            origins,
            clock,
            options,
            planner: Planner::new(config),
            servers: HashMap::new(),
            reporting: Reporting::new(fastrand::u64(..)),
            wanted: BTreeMap::new(),
            short: BTreeSet::new(),
            running: JoinSet::new(),
        }
    }

    /// Until dropped.
    pub async fn run(mut self) {
        loop {
            let at = self.look();
            self.report_reception();
            tokio::select! {
                Some(ended) = self.running.join_next() => {
                    if let Ok(ended) = ended {
                        self.ended(ended);
                    }
                }
                () = tokio::time::sleep_until(self.clock.instant(at)) => {}
            }
        }
    }

    /// Looks at everything in flight and starts what is due. Returns when to look again.
    fn look(&mut self) -> Time {
        let now = self.clock.now();
        let wanted = self.hub.wanted();
        let gone: Vec<ObjectKey> =
            self.wanted.keys().filter(|k| !wanted.iter().any(|w| w.key == **k)).copied().collect();
        for key in gone {
            self.wanted.remove(&key);
            self.short.remove(&key);
            self.planner.handle_input(Input::Gone { key });
        }
        for w in wanted {
            let servers: Vec<Server> = match self.options.sender && self.options.unicast {
                true => {
                    let ways = self.options.ways;
                    let servers = w.servers.iter().filter(|(url, _)| ways.has(url));
                    servers.map(|(url, weight)| self.server(url, *weight)).collect()
                }
                false => Vec::new(),
            };
            let view = View {
                lack: &w.lack,
                rate_bps: w.rate_bps,
                repair_percent: w.repair_percent,
                deadline: w.deadline,
                reports: self.options.sender && w.report_url.is_some(),
                servers: &servers,
                origin: self.options.unicast && w.origin,
            };
            self.planner.handle_input(Input::Object { now, key: w.key, view });
            self.wanted.insert(w.key, w);
        }
        let planned = self.act(now);
        self.tell_short();
        let hopes = self.wanted.keys().filter_map(|k| Some((*k, self.planner.hope(*k)?))).collect();
        self.hub.set_hopes(hopes);
        let usual = now + if self.wanted.is_empty() { IDLE } else { LOOK };
        planned.map_or(usual, |at| at.max(now + LOOK_MIN).min(usual))
    }

    /// Tells the hub once of each object that the stream did not complete.
    fn tell_short(&mut self) {
        for (key, wanted) in &self.wanted {
            if self.planner.is_revealed(*key) && self.short.insert(*key) {
                self.hub.fell_short(wanted);
            }
        }
    }

    fn server(&mut self, url: &Url, weight: u32) -> Server {
        let next = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        Server { id: *self.servers.entry(url.clone()).or_insert(next), weight }
    }

    fn url(&self, server: Server) -> Option<Url> {
        self.servers.iter().find(|(_, id)| **id == server.id).map(|(url, _)| url.clone())
    }

    /// Starts what the planner says. Returns when it wants to see the objects again.
    fn act(&mut self, now: Time) -> Option<Time> {
        loop {
            let (key, action) = match self.planner.poll_output() {
                Output::Action(key, action) => (key, action),
                Output::Timeout(at) => return at,
            };
            if !self.start(key, &action) {
                let outcome = match action {
                    Action::Report => Outcome::Unreported,
                    Action::Symbols(server, _) | Action::Ranges(server) => Outcome::Failed(server),
                    Action::OriginRanges | Action::OriginWhole => Outcome::OriginFailed,
                };
                self.planner.handle_input(Input::Done { now, key, outcome });
            }
        }
    }

    /// False: it cannot be done.
    fn start(&mut self, key: ObjectKey, action: &Action) -> bool {
        let Some(wanted) = self.wanted.get(&key) else { return false };
        let client = self.client.clone();
        match action {
            Action::Report => {
                let Some(url) = wanted.report_url.clone() else { return false };
                let report = self.reporting.lacks(self.planner.sample(), wanted);
                self.running.spawn(async move {
                    match client.report(&url, &report).await {
                        Some(answer) => {
                            let wait = answer.wait_ms.map(Duration::from_millis);
                            Ended::Action(key, Outcome::Reported(wait), Some(answer))
                        }
                        None => Ended::Action(key, Outcome::Unreported, None),
                    }
                });
            }
            Action::Symbols(server, blocks) => {
                let Some(url) = self.url(*server) else { return false };
                let (server, blocks, wanted) = (*server, blocks.clone(), wanted.clone());
                let publishers = self.publishers.clone();
                self.running.spawn(async move {
                    let outcome = match url.scheme() {
                        "moqt" => publishers.symbols(server, &url, &wanted, &blocks).await,
                        _ => client.symbols(server, &url, &wanted, &blocks).await,
                    };
                    Ended::Action(key, outcome, None)
                });
            }
            Action::Ranges(server) => {
                let Some(url) = self.url(*server) else { return false };
                let (server, wanted) = (*server, wanted.clone());
                let publishers = self.publishers.clone();
                self.running.spawn(async move {
                    let outcome = match url.scheme() {
                        "moqt" => publishers.object(server, &url, &wanted).await,
                        _ => client.ranges(server, &url, &wanted).await,
                    };
                    Ended::Action(key, outcome, None)
                });
            }
            Action::OriginRanges | Action::OriginWhole => {
                let whole = *action == Action::OriginWhole;
                let part = if whole { None } else { self.origin(wanted, false) };
                // Where losses are scattered over the object, ranges would be most of it.
                let lacks = || !self.hub.missing_ranges(&wanted.rendition, wanted.lack.toi, 0).is_empty();
                let flight = part.or_else(|| if whole || lacks() { self.origin(wanted, true) } else { None });
                let Some(flight) = flight else { return false };
                self.running.spawn(async move {
                    let outcome = match flight.ended().await {
                        End::Stored(_) | End::Repaired => Outcome::Fed,
                        _ => Outcome::OriginFailed,
                    };
                    Ended::Action(key, outcome, None)
                });
            }
        }
        true
    }

    /// A download from the origin; players that ask for the same join it.
    fn origin(&self, wanted: &Wanted, whole: bool) -> Option<Arc<crate::origin::flight::Flight>> {
        let url = Url::parse(&wanted.meta.url).ok()?;
        let range = wanted.meta.range.map(|ByteRange { first, last, .. }| (first, Some(last)));
        let want = Want {
            key: self.hub.key(&url),
            url: url.clone(),
            range,
            credentials: Credentials::default(),
            alone: false,
            exact: false,
            why: if whole { Why::Fallback } else { Why::Repair },
            known: true,
        };
        if whole {
            return Some(self.origins.fetch(want));
        }
        let plan = self.hub.repair_plan(&url, range)?;
        crate::origin::repair::requests(&plan)?;
        Some(self.origins.repair(want, plan))
    }

    fn ended(&mut self, ended: Ended) {
        let now = self.clock.now();
        match ended {
            Ended::Action(key, outcome, answer) => {
                if let Some(answer) = answer {
                    self.heed(&answer);
                }
                self.planner.handle_input(Input::Done { now, key, outcome });
                self.act(now);
            }
            Ended::Reception(answer) => {
                if let Some(answer) = answer {
                    self.heed(&answer);
                }
            }
        }
    }

    fn heed(&mut self, answer: &Answer) {
        self.planner.handle_input(Input::Sample { probability: answer.sample });
        self.reporting.period = Duration::from_millis(answer.period_ms);
    }

    /// Tells the senders how we receive, from time to time.
    fn report_reception(&mut self) {
        let now = self.clock.now();
        if !self.options.sender || !self.reporting.is_due(now) {
            return;
        }
        for (url, report) in self.reporting.reception(now, self.hub.reception()) {
            let client = self.client.clone();
            self.running.spawn(async move { Ended::Reception(client.report(&url, &report).await) });
        }
    }
}
