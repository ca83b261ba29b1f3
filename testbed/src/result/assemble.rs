//! From samples and players' reports to a [`Report`].

use super::figures::Ground;
use super::{Collected, Happened, Leg, Report, SCHEMA, Span, Watched, verdict};
use crate::run::{LOOPBACK_LIMITS, Plan, external};
use crate::scenario::{Action, Impair, PlayerKind, Scenario};

/// What a run left.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What was to be run.
    pub plan: &'a Plan,
    /// Beginning of the warm-up, Unix milliseconds.
    pub started_ms: u64,
    /// Samples.
    pub collected: Collected,
    /// Players.
    pub players: Vec<Watched>,
    /// Events.
    pub events: Vec<Happened>,
    /// Counters of the emulator.
    pub wire: Vec<Leg>,
    /// Frames the machine lost.
    pub emulator_lost: u64,
}

/// Puts it together and judges.
pub fn assemble(parts: Parts<'_>) -> Report {
    let scenario = &parts.plan.scenario;
    let spans = spans(scenario, &parts.events);
    let warm_up = u64::try_from(scenario.warm_up.0.as_millis()).unwrap_or(0);
    let ground = Ground {
        collected: &parts.collected,
        players: &parts.players,
        spans: &spans,
        zero_ms: parts.started_ms + warm_up,
        duration_s: scenario.duration.0.as_secs_f64(),
        viewers: scenario.receivers.count + scenario.receivers.light,
        grace_s: scenario.pass.unicast_only_during_outage_plus.map_or(0.0, |g| g.0.as_secs_f64()),
    };
    let mut figures = ground.figures();
    if !parts.plan.namespaces {
        // Nothing counts packets by their destination there.
        figures.egress_share = None;
    }
    let ledgers = ground.ledgers();
    let errors: Vec<String> = parts.players.iter().filter_map(error).collect();
    let criteria = verdict::all(&scenario.pass, &figures, &ledgers, parts.emulator_lost, &errors);
    Report {
        schema: SCHEMA.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        name: parts.plan.name.clone(),
        title: scenario.title.clone(),
        about: scenario.about.trim().to_owned(),
        scenario: parts.plan.text.clone(),
        seed: scenario.seed,
        duration_s: scenario.duration.0.as_secs_f64(),
        mode: if parts.plan.namespaces { "namespaces" } else { "loopback" }.into(),
        limits: limits(parts.plan),
        started_ms: parts.started_ms,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        passed: criteria.iter().all(verdict::Criterion::good),
        criteria,
        figures,
        ledgers,
        events: parts.events,
        spans,
        players: parts.players,
        receivers: parts.collected.receivers,
        crowd: parts.collected.crowd,
        legs: parts.wire,
        emulator_lost: parts.emulator_lost,
        origin_log: parts.collected.origin_log,
        series: parts.collected.series,
    }
}

/// What this mode, and this machine, cannot show.
fn limits(plan: &Plan) -> Vec<String> {
    let mut out = match plan.namespaces {
        true => Vec::new(),
        false => LOOPBACK_LIMITS.map(str::to_owned).to_vec(),
    };
    let programs = plan.scenario.player.iter().filter_map(|p| external::program(p.kind));
    let absent = programs.filter(|p| !external::installed(p));
    out.extend(absent.map(|p| format!("how {p} plays: it is not installed here")));
    out.dedup();
    out
}

fn error(player: &Watched) -> Option<String> {
    let name = &player.name;
    match &player.report.error {
        Some(error) => Some(format!("{name}: {error}")),
        None if player.kind == PlayerKind::BuiltIn && player.report.startup_ms.is_none() => {
            Some(format!("{name}: it showed nothing"))
        }
        None => None,
    }
}

/// Impairments that begin or end within the run, and what events take away.
fn spans(scenario: &Scenario, events: &[Happened]) -> Vec<Span> {
    let end = scenario.duration.0.as_secs_f64();
    let of = |impair: &Impair| {
        let from = impair.from.map_or(0.0, |f| f.0.as_secs_f64());
        let until = impair.until.map_or(end, |u| u.0.as_secs_f64());
        let timed = impair.from.is_some() || impair.until.is_some();
        timed.then(|| Span { what: what(impair), from, until, outage: impair.outage })
    };
    let mut out: Vec<Span> = scenario.impair.iter().filter_map(of).collect();
    for (number, event) in events.iter().enumerate() {
        let (ends, what): (&[Action], _) = match event.action {
            Action::Kill => (&[Action::Start], "down"),
            Action::Cut => (&[Action::Mend], "cut off"),
            Action::Slow => (&[Action::Slow], "slow"),
            Action::Restart => (&[], "restarted"),
            Action::Start | Action::Mend => continue,
        };
        let rest = events.iter().skip(number + 1);
        let back = rest.filter(|e| e.host == event.host && ends.contains(&e.action)).map(|e| e.at_ms).next();
        let from = event.at_ms as f64 / 1000.0;
        let until = match event.action {
            Action::Restart => from + 0.2,
            _ => back.map_or(end, |b| b as f64 / 1000.0),
        };
        let dies = matches!(event.action, Action::Kill | Action::Restart) && event.host == "sender";
        let outage = dies && !scenario.sender.standby;
        out.push(Span { what: format!("{} {what}", event.host), from, until, outage });
    }
    out
}

fn what(impair: &Impair) -> String {
    let effect = if impair.outage {
        "multicast outage".to_owned()
    } else if impair.loss.0.fraction() > 0.0 {
        format!("{} loss", impair.loss.0)
    } else {
        "impaired".to_owned()
    };
    format!("{}: {effect}", impair.leg)
}
