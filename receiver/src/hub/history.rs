//! The last five minutes, one value a second, for plots.

use crate::snapshot::History;
use std::collections::{BTreeMap, VecDeque};

/// Values per series.
const LENGTH: usize = 300;

/// Channels, and flows, that are remembered: further ones only when others have gone.
const NAMES: usize = 256;

type Series = BTreeMap<&'static str, VecDeque<Option<f64>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// Unix second of the newest value.
    now: u64,
    filled: usize,
    totals: Series,
    channels: BTreeMap<String, Series>,
    flows: BTreeMap<String, Series>,
}

/// By channel or flow: name and value of each series.
type Values = Vec<(String, Vec<(&'static str, Option<f64>)>)>;

/// The values of one second.
#[derive(Debug, Default)]
pub(super) struct Second {
    pub(super) totals: Vec<(&'static str, Option<f64>)>,
    pub(super) channels: Values,
    pub(super) flows: Values,
}

impl Rings {
    pub(super) fn push(&mut self, unix_secs: u64, second: Second) {
        self.now = unix_secs;
        self.filled = (self.filled + 1).min(LENGTH);
        append(&mut self.totals, second.totals, self.filled);
        append_all(&mut self.channels, second.channels, self.filled);
        append_all(&mut self.flows, second.flows, self.filled);
    }

    pub(super) fn history(&self) -> History {
        let named = |all: &BTreeMap<String, Series>| {
            all.iter().map(|(name, series)| (name.clone(), export(series))).collect()
        };
        History {
            start: (self.now + 1).saturating_sub(self.filled as u64),
            step: 1,
            totals: export(&self.totals),
            channels: named(&self.channels),
            flows: named(&self.flows),
        }
    }
}

/// What has no value this second is gone from the description; its series goes when all its values have.
fn append_all(all: &mut BTreeMap<String, Series>, mut values: Values, filled: usize) {
    for (name, _) in &values {
        if all.len() < NAMES || all.contains_key(name) {
            all.entry(name.clone()).or_default();
        }
    }
    all.retain(|name, series| {
        let at = values.iter().position(|(n, _)| n == name);
        let now = at.map(|i| std::mem::take(&mut values[i].1)).unwrap_or_default();
        append(series, now, filled);
        at.is_some() || series.values().any(|s| s.iter().any(Option::is_some))
    });
}

fn append(series: &mut Series, values: Vec<(&'static str, Option<f64>)>, filled: usize) {
    for (name, _) in &values {
        series.entry(name).or_default();
    }
    for (name, ring) in series {
        let value = values.iter().find(|(n, _)| n == name).and_then(|(_, v)| *v);
        ring.push_back(value.filter(|v| v.is_finite()));
        while ring.len() < filled {
            ring.push_front(None);
        }
        while ring.len() > LENGTH {
            ring.pop_front();
        }
    }
}

fn export(series: &Series) -> BTreeMap<String, Vec<Option<f64>>> {
    series.iter().map(|(name, ring)| ((*name).to_owned(), ring.iter().copied().collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(value: f64, channel: Option<&str>) -> Second {
        let channels = channel.map(|c| (c.to_owned(), vec![("rate_bps", Some(value))]));
        Second {
            totals: vec![("viewers", Some(value))],
            channels: channels.into_iter().collect(),
            flows: vec![],
        }
    }

    #[test]
    fn all_series_have_one_length_and_old_channels_go() {
        let mut rings = Rings::default();
        rings.push(100, second(1.0, None));
        rings.push(101, second(2.0, Some("news")));
        let h = rings.history();
        assert_eq!((h.start, h.step), (100, 1));
        assert_eq!(h.totals["viewers"], [Some(1.0), Some(2.0)]);
        assert_eq!(h.channels["news"]["rate_bps"], [None, Some(2.0)]);
        for t in 0..299u64 {
            rings.push(102 + t, second(3.0, None));
        }
        let h = rings.history();
        assert_eq!(h.totals["viewers"].len(), LENGTH);
        assert_eq!(h.start, 101);
        assert_eq!(h.channels["news"]["rate_bps"].len(), LENGTH);
        let many = (0..1000).map(|n| (n.to_string(), vec![("rate_bps", Some(1.0))])).collect();
        let mut flooded = Rings::default();
        flooded.push(1, Second { flows: many, ..Second::default() });
        assert_eq!(flooded.history().flows.len(), NAMES);
        rings.push(401, second(f64::NAN, None));
        assert!(rings.history().channels.is_empty(), "nothing of it is left");
        assert_eq!(rings.history().totals["viewers"].last(), Some(&None));
    }
}
