//! Impairments and events by the clock of the run.

use super::programs::Programs;
use crate::emu::{Direction, Impairment, TrafficClass};
use crate::net::Lan;
use crate::result::Happened;
use crate::scenario::{Action, Event, Scenario};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
pub(super) struct Script<'a> {
    scenario: &'a Scenario,
    /// Events to come, the next one last.
    events: Vec<Event>,
    cut: BTreeSet<String>,
    happened: Vec<Happened>,
}

type Place = (String, Direction, TrafficClass);

impl<'a> Script<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Script<'a> {
        let mut events = scenario.event.clone();
        events.sort_by_key(|e| std::cmp::Reverse(e.at));
        Script { scenario, events, cut: BTreeSet::new(), happened: Vec::new() }
    }

    /// Tells the emulator what holds at `at`.
    pub(super) fn impair(&self, at: i64, lan: &Lan) {
        let wanted = wanted(self.scenario, &self.cut, at);
        for host in lan.hosts() {
            for direction in [Direction::Up, Direction::Down] {
                for class in TrafficClass::ALL {
                    let place = (host.name.clone(), direction, class);
                    let impairment = wanted.get(&place).cloned().unwrap_or_default();
                    lan.impair(host, direction, class, &impairment);
                }
            }
        }
    }

    /// Does what is due.
    pub(super) async fn act(&mut self, at: i64, lan: &Lan, programs: &mut Programs) -> anyhow::Result<()> {
        while let Some(event) = self.events.pop_if(|e| i128::from(at) >= e.at.0.as_millis().cast_signed()) {
            for host in self.scenario.matching(&event.to) {
                self.happened.push(Happened { at_ms: at, action: event.action, host: host.clone() });
                self.one(&event, &host, lan, programs).await?;
            }
        }
        Ok(())
    }

    async fn one(
        &mut self,
        event: &Event,
        host: &str,
        lan: &Lan,
        programs: &mut Programs,
    ) -> anyhow::Result<()> {
        match event.action {
            Action::Kill => programs.kill(host).await,
            // A start is not waited for: others go on meanwhile.
            Action::Start => programs.spawn(lan, host)?,
            Action::Restart => {
                programs.end(host).await;
                programs.spawn(lan, host)?;
            }
            Action::Cut => {
                self.cut.insert(host.into());
            }
            Action::Mend => {
                self.cut.remove(host);
            }
            Action::Slow => {
                let millis = event.delay.map_or(0, |d| d.0.as_millis());
                programs.origin_control(&format!("delay?{millis}")).await;
            }
        }
        Ok(())
    }

    /// What happened so far.
    pub(super) fn happened(&self) -> &[Happened] {
        &self.happened
    }
}

/// What holds where at a time. Pure.
fn wanted(scenario: &Scenario, cut: &BTreeSet<String>, at: i64) -> BTreeMap<Place, Impairment> {
    let mut out = BTreeMap::new();
    for impair in scenario.impair.iter().filter(|i| i.holds(at)) {
        for host in scenario.matching(&impair.leg) {
            for class in impair.traffic.classes() {
                out.insert((host.clone(), impair.direction, class), impair.impairment());
            }
        }
    }
    for host in cut {
        for direction in [Direction::Up, Direction::Down] {
            for class in TrafficClass::ALL {
                out.entry((host.clone(), direction, class)).or_default().outage = true;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impairments_hold_in_their_time_and_the_last_wins() {
        let text = "title = \"t\"\nduration = \"60s\"\n\
            [[impair]]\nleg = \"receivers\"\nloss = \"5%\"\n\
            [[impair]]\nleg = \"receiver-1\"\nfrom = \"10s\"\nuntil = \"40s\"\noutage = true\n";
        let scenario = Scenario::parse("test", text).expect("a good scenario");
        let place = ("receiver-1".to_owned(), Direction::Down, TrafficClass::Multicast);
        let at = |millis: i64, cut: &BTreeSet<String>| {
            wanted(&scenario, cut, millis).get(&place).cloned().unwrap_or_default()
        };
        let none = BTreeSet::new();
        assert!(
            at(i64::MIN, &none).loss.share().fraction() > 0.0,
            "without a beginning: from the first packet"
        );
        assert!(!at(9_999, &none).outage && at(10_000, &none).outage && at(39_999, &none).outage);
        assert!(!at(40_000, &none).outage && at(40_000, &none).loss.share().fraction() > 0.0);
        assert!(at(0, &BTreeSet::from(["receiver-1".to_owned()])).outage, "a cut adds to what holds");
        let other = ("origin".to_owned(), Direction::Down, TrafficClass::Multicast);
        assert!(!wanted(&scenario, &none, 0).contains_key(&other));
    }
}
