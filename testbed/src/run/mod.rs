//! Runs a scenario: namespaces, programs, players, events, samples; and takes everything down again.

pub(crate) mod agent;
mod collect;
pub mod external;
pub mod leftovers;
pub mod play;
mod players;
mod programs;
mod script;
mod usage;

use crate::emu::{Direction, TrafficClass};
use crate::net::Lan;
use crate::result::{self, Report};
use crate::scenario::Scenario;
use anyhow::Context;
use collect::Collector;
use leftovers::RunFolder;
use mahp_runtime::clock::Clock;
use programs::Programs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to run and where to write.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name for people and files.
    pub name: String,
    /// The scenario, with seed and times as they are to be.
    pub scenario: Scenario,
    /// Its text.
    pub text: String,
    /// Folder of the result.
    pub out: PathBuf,
    /// Folder with `mahp-sender` and `mahp-receiver`; none: the entry points in this executable.
    pub programs: Option<PathBuf>,
    /// Hosts are network namespaces; otherwise everything is on the loopback interface, which shows less.
    pub namespaces: bool,
    /// Print what the programs say.
    pub verbose: bool,
    /// Print how it goes.
    pub progress: bool,
}

/// Length of the built-in content's segments.
const SEGMENT_MS: u64 = 2000;

/// What the loopback interface cannot show.
pub const LOOPBACK_LIMITS: [&str; 4] = [
    "impairments of unicast and control traffic, and of single hosts: one link loses multicast for all receivers alike",
    "reordering, corruption, forgery, bottlenecks, cuts",
    "membership: every socket on the interface hears its group",
    "unicast on the wire (egress)",
];

/// One run, from the first process to the last.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&plan.out).with_context(|| format!("cannot make {}", plan.out.display()))?;
    let folder = RunFolder::new()?;
    let (hosts, seed) = (plan.scenario.hosts(), plan.scenario.seed);
    let lan = if plan.namespaces { Lan::new(&hosts, seed)? } else { Lan::loopback(&hosts, seed)? };
    let mut stage = Stage::new(plan, lan, folder)?;
    let outcome = stage.play().await;
    stage.programs.stop().await;
    let report = outcome?;
    result::write(&report, &plan.out, &stage.lan)?;
    Ok(report)
}

/// Everything that runs.
struct Stage<'a> {
    plan: &'a Plan,
    lan: Lan,
    programs: Programs,
    clock: Clock,
    /// Of this run: wall clock of live segment 0.
    epoch_ms: u64,
}

impl<'a> Stage<'a> {
    fn new(plan: &'a Plan, lan: Lan, folder: RunFolder) -> anyhow::Result<Stage<'a>> {
        let clock = Clock::new();
        // A minute ago, so that players find a full window at once.
        let epoch_ms = (clock.wall().unix_secs() - 60) * 1000;
        let programs = Programs::new(plan, &lan, folder, epoch_ms)?;
        Ok(Stage { plan, lan, programs, clock, epoch_ms })
    }

    async fn play(&mut self) -> anyhow::Result<Report> {
        let scenario = &self.plan.scenario;
        let mut script = script::Script::new(scenario);
        script.impair(i64::MIN, &self.lan);
        self.programs.start(&self.lan).await?;
        // Zero is when a live segment becomes available, in every run: what is lost from when to when does not depend on the hour.
        let warm_up = u64::try_from(scenario.warm_up.0.as_millis()).unwrap_or(0);
        let phase = (self.clock.wall().unix_millis() + warm_up).saturating_sub(self.epoch_ms) % SEGMENT_MS;
        tokio::time::sleep(Duration::from_millis(SEGMENT_MS - phase)).await;
        let zero = Instant::now() + scenario.warm_up.0;
        let started_ms = self.clock.wall().unix_millis();
        let mut collector = Collector::new(zero);
        let mut players = players::Players::new(scenario);
        let end = zero + scenario.duration.0;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut sampled = Instant::now();
        collector.sample(&self.lan, &mut self.programs).await;
        while Instant::now() < end {
            tick.tick().await;
            let at = millis_from(zero);
            script.impair(at, &self.lan);
            script.act(at, &self.lan, &mut self.programs).await?;
            players.start_due(at, self.plan, &self.lan, &mut self.programs, self.epoch_ms).await?;
            if sampled.elapsed() >= Duration::from_secs(1) {
                sampled += Duration::from_secs(1);
                collector.sample(&self.lan, &mut self.programs).await;
                players.look().await;
                self.progress(at, &collector);
            }
            self.programs.check()?;
        }
        let players = players.finish(&self.programs).await?;
        // The last bytes of the last response are counted when they are written.
        tokio::time::sleep(Duration::from_millis(300)).await;
        collector.sample(&self.lan, &mut self.programs).await;
        let events = script.happened().to_vec();
        let emulator_lost = self.lan.emulator().lost();
        Ok(result::assemble(result::Parts {
            plan: self.plan,
            started_ms,
            collected: collector.finish(),
            players,
            events,
            wire: self.wire(),
            emulator_lost,
        }))
    }

    fn progress(&self, at: i64, collector: &Collector) {
        if self.plan.progress {
            eprint!("\r{:>4} s  {}\x1b[K", at / 1000, collector.line());
        }
    }

    /// Counters of all legs.
    fn wire(&self) -> Vec<result::Leg> {
        let mut out = Vec::new();
        for host in self.lan.hosts() {
            for direction in [Direction::Up, Direction::Down] {
                for class in TrafficClass::ALL {
                    let count = self.lan.count(host, direction, class);
                    out.push(result::Leg { host: host.name.clone(), direction, class, count });
                }
            }
        }
        out
    }
}

/// Milliseconds since `zero`, negative before it.
fn millis_from(zero: Instant) -> i64 {
    let now = Instant::now();
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    if now >= zero { millis(now - zero) } else { -millis(zero - now) }
}

/// Where the result of a run goes when nobody says.
pub fn default_out(name: &str) -> PathBuf {
    Path::new("testbed-results").join(name)
}
