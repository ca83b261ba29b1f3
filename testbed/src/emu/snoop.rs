//! What the host of a leg has joined. With one host a leg, the state of the switch is the state of that host: no timers.

use super::frame::Change;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Groups of one leg that are kept; a host that reports more is not heard any more until it leaves some.
const GROUPS_MAX: usize = 4096;

/// What a host wants to hear of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Include(BTreeSet<IpAddr>),
    Exclude(BTreeSet<IpAddr>),
}

/// Groups and sources of one leg.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    groups: HashMap<IpAddr, Filter>,
}

impl Membership {
    /// A report came.
    pub fn change(&mut self, group: IpAddr, change: Change) {
        if !self.groups.contains_key(&group) && self.groups.len() >= GROUPS_MAX {
            return;
        }
        let filter = self.groups.entry(group).or_insert_with(|| Filter::Include(BTreeSet::new()));
        match (change, &mut *filter) {
            (Change::Include(sources), _) => *filter = Filter::Include(sources.into_iter().collect()),
            (Change::Exclude(sources), _) => *filter = Filter::Exclude(sources.into_iter().collect()),
            (Change::Allow(sources), Filter::Include(set))
            | (Change::Block(sources), Filter::Exclude(set)) => set.extend(sources),
            (Change::Block(sources), Filter::Include(set))
            | (Change::Allow(sources), Filter::Exclude(set)) => {
                set.retain(|s| !sources.contains(s));
            }
        }
        if *filter == Filter::Include(BTreeSet::new()) {
            self.groups.remove(&group);
        }
    }

    /// Whether the host wants what `source` sends to `group`.
    pub fn wants(&self, source: IpAddr, group: IpAddr) -> bool {
        match self.groups.get(&group) {
            None => false,
            Some(Filter::Include(set)) => set.contains(&source),
            Some(Filter::Exclude(set)) => !set.contains(&source),
        }
    }

    /// Forgets everything: the host is gone.
    pub fn clear(&mut self) {
        self.groups.clear();
    }
}
