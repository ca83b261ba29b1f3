//! Criteria: what a scenario asks for against what a run showed. Pure.

use super::figures::{Figures, Ledger};
use crate::link::Percent;
use crate::scenario::Pass;
use serde::{Deserialize, Serialize};

/// One criterion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Criterion {
    /// Its key in the scenario file.
    pub name: String,
    /// What was asked for.
    pub wanted: String,
    /// What was measured.
    pub measured: String,
    /// Whether it holds.
    pub holds: bool,
    /// Whether it must fail.
    pub must_fail: bool,
}

impl Criterion {
    /// Whether it is as it should be.
    pub fn good(&self) -> bool {
        self.holds != self.must_fail
    }

    /// Whether a machine that is too busy can be the reason: wrong bytes never have that excuse, nor has a control that should
    /// fail and does not.
    pub fn by_the_clock(&self) -> bool {
        !self.must_fail && !["right-bytes", "ledger"].contains(&self.name.as_str())
    }
}

/// Names of the criteria that a scenario has.
pub fn names(pass: &Pass) -> Vec<String> {
    judge(pass, &Figures::default()).into_iter().map(|c| c.name).collect()
}

/// Everything that is judged.
pub fn all(
    pass: &Pass,
    figures: &Figures,
    ledgers: &[Ledger],
    emulator_lost: u64,
    errors: &[String],
) -> Vec<Criterion> {
    let mut out = judge(pass, figures);
    for criterion in &mut out {
        criterion.must_fail = pass.must_fail.contains(&criterion.name);
    }
    let mut always = |name: &str, wanted: &str, measured: String, holds: bool| {
        let (name, wanted) = (name.to_owned(), wanted.to_owned());
        out.push(Criterion { name, wanted, measured, holds, must_fail: false });
    };
    always(
        "right-bytes",
        "no segment differs from the origin's",
        format!("{} differ", figures.wrong),
        figures.wrong == 0,
    );
    let judged: Vec<&Ledger> = ledgers.iter().filter(|l| l.not_judged.is_empty()).collect();
    let wrong: Vec<&str> = judged.iter().filter(|l| !l.balanced).map(|l| l.receiver.as_str()).collect();
    let measured = match (judged.len(), wrong.is_empty()) {
        (0, _) => ledgers.first().map_or("no receiver".into(), |l| format!("not judged: {}", l.not_judged)),
        (n, true) => format!("{n} balanced to the byte"),
        _ => format!("differs: {}", wrong.join(", ")),
    };
    always("ledger", "receiver and players count the same bytes by source", measured, wrong.is_empty());
    always("emulator", "no frame lost for want of time", format!("{emulator_lost} lost"), emulator_lost == 0);
    // Negative controls break players: that is what they show.
    if pass.must_fail.is_empty() {
        let measured = errors.first().cloned().unwrap_or_else(|| "none".into());
        always("players", "no player gave up", measured, errors.is_empty());
    }
    out
}

/// The growth of memory is judged in runs of at least this length.
pub(super) const MEMORY_RUN_S: f64 = 1800.0;

/// Collects criteria.
struct Judge {
    out: Vec<Criterion>,
}

impl Judge {
    /// A bound, when the scenario has it. `None` measured fails.
    fn check<T: Copy, M: Copy>(
        &mut self,
        name: &str,
        bound: Option<T>,
        measured: Option<M>,
        wanted: impl Fn(T) -> String,
        shown: impl Fn(M) -> String,
        holds: impl Fn(M, T) -> bool,
    ) {
        if let Some(bound) = bound {
            self.out.push(Criterion {
                name: name.into(),
                wanted: wanted(bound),
                measured: measured.map_or("nothing".into(), shown),
                holds: measured.is_some_and(|m| holds(m, bound)),
                must_fail: false,
            });
        }
    }

    fn at_most(&mut self, name: &str, bound: Option<u64>, measured: Option<u64>, unit: &str) {
        let wanted = |b: u64| format!("at most {b}{unit}");
        self.check(name, bound, measured, wanted, |m| format!("{m}{unit}"), |m, b| m <= b);
    }

    fn layer_2(&mut self, only: Option<&str>, f: &Figures) {
        let Some(only) = only else { return };
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let of = |host: &str| f.layer_2_bytes.get(host).copied();
        let others: u64 = f.layer_2_bytes.iter().filter(|(host, _)| *host != only).map(|(_, b)| b).sum();
        self.out.push(Criterion {
            name: "layer-2-only".into(),
            wanted: format!("reaches {only} and nobody else"),
            measured: of(only).map_or("nothing".into(), |bytes| {
                format!("{:.1} MB to {only}, {:.1} MB to others", mb(bytes), mb(others))
            }),
            holds: of(only).is_some_and(|bytes| bytes > 0) && others == 0,
            must_fail: false,
        });
    }

    fn memory(&mut self, bound: Option<f64>, f: &Figures) {
        let Some(bound) = bound else { return };
        let most = f.memory_slope.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let tells = f.lasted_s >= MEMORY_RUN_S;
        let short = if tells { "" } else { "; not judged: the run is shorter than half an hour" };
        self.out.push(Criterion {
            name: "memory-slope".into(),
            wanted: format!("at most {:.0} MB/h", bound / 1e6),
            measured: most
                .map_or("nothing".into(), |(host, slope)| format!("{:.1} MB/h ({host}){short}", slope / 1e6)),
            holds: !tells || most.is_some_and(|(_, slope)| *slope <= bound),
            must_fail: false,
        });
    }

    fn share_at_most(&mut self, name: &str, bound: Option<f64>, measured: Option<f64>) {
        let wanted = |b: f64| format!("at most {}", percent(b));
        self.check(name, bound, measured, wanted, percent, |m, b| m <= b + 1e-9);
    }

    fn share_at_least(&mut self, name: &str, bound: Option<f64>, measured: Option<f64>) {
        let wanted = |b: f64| format!("at least {}", percent(b));
        self.check(name, bound, measured, wanted, percent, |m, b| m >= b - 1e-9);
    }
}

fn percent(fraction: f64) -> String {
    if fraction > 0.0 && fraction < 0.0001 {
        return "above 0, below 0.01 %".into();
    }
    Percent::from_fraction(fraction).to_string()
}

fn judge(pass: &Pass, f: &Figures) -> Vec<Criterion> {
    let share = |s: Option<crate::scenario::Share>| s.map(|s| s.0.fraction());
    let millis =
        |s: Option<mahp_runtime::config::Span>| s.map(|s| u64::try_from(s.0.as_millis()).unwrap_or(u64::MAX));
    let mut judge = Judge { out: Vec::new() };
    judge.at_most("stalls", pass.stalls, Some(f.stalls), "");
    judge.share_at_least("played", share(pass.played), f.played_share);
    judge.share_at_least("intact", share(pass.intact), f.intact_without_unicast);
    judge.share_at_most("unicast", share(pass.unicast), f.unicast_share);
    judge.share_at_most("unicast-late", share(pass.unicast_late), f.unicast_share_late);
    judge.share_at_least("unicast-at-least", share(pass.unicast_at_least), f.unicast_share);
    judge.at_most("last-byte", millis(pass.last_byte), f.last_byte_p95_ms, " ms");
    judge.at_most("first-segment", millis(pass.first_segment), f.first_segment_ms, " ms");
    judge.at_most("startup", millis(pass.startup), f.startup_ms, " ms");
    let over = f.startup_ms.zip(f.startup_direct_ms).map(|(ours, direct)| ours.saturating_sub(direct));
    judge.at_most("startup-over-direct", millis(pass.startup_over_direct), over, " ms");
    judge.share_at_most("egress", share(pass.egress), f.egress_share);
    judge.at_most("requests", pass.requests, Some(f.peak_requests), " in a second");
    judge.layer_2(pass.layer_2_only.as_deref(), f);
    judge.memory(pass.memory_slope.map(|g| g.bytes_per_hour), f);
    let outside = pass.unicast_only_during_outage_plus.map(|_| 0);
    judge.at_most("unicast-only-during-outage-plus", outside, f.unicast_outside_outage, " bytes outside");
    judge.out
}
