//! What is reported to senders, and when.

use crate::hub::recover::{Received, Wanted};
use crate::urls::RenditionKey;
use mahp_common::Time;
use mahp_common::repair::report::{ObjectLack, REPORT_SESSIONS, Reception, Report};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use url::Url;

/// Until a sender says otherwise.
const PERIOD: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Reporting {
    receiver: u64,
    /// Between two reports of reception.
    pub(super) period: Duration,
    next: Option<Time>,
    last: HashMap<RenditionKey, (Time, Received)>,
}

impl Reporting {
    /// `receiver`: a number drawn at random.
    pub(super) fn new(receiver: u64) -> Reporting {
        // JSON numbers are exact up to 2^53 everywhere.
        Reporting { receiver: receiver >> 11, period: PERIOD, next: None, last: HashMap::new() }
    }

    /// A report of what an object lacks.
    pub(super) fn lacks(&self, sample: f64, wanted: &Wanted) -> Report {
        let blocks = wanted.lack.blocks.iter().filter(|b| b.missing > 0).map(|b| (b.sbn.0, b.missing));
        let lack = ObjectLack {
            tsi: wanted.tsi.0,
            toi: u64::try_from(wanted.lack.toi.0).unwrap_or(u64::MAX),
            blocks: blocks.collect(),
        };
        Report {
            receiver: self.receiver,
            sample: speaks_for(sample),
            lacks: vec![lack],
            reception: Vec::new(),
        }
    }

    /// Whether the time has come; at random around the period, so that receivers do not report together.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        let jitter = self.period.mul_f64(0.5 + fastrand::f64());
        match self.next {
            Some(at) if now < at => false,
            Some(_) => {
                self.next = Some(now + jitter);
                true
            }
            None => {
                self.next = Some(now + jitter);
                false
            }
        }
    }

    /// Reports of what was received since the last ones, by where they go.
    pub(super) fn reception(&mut self, now: Time, received: Vec<(Url, Received)>) -> BTreeMap<Url, Report> {
        let mut out: BTreeMap<Url, Report> = BTreeMap::new();
        let mut last = HashMap::new();
        for (url, r) in received {
            let before = self.last.remove(&r.rendition);
            last.insert(r.rendition.clone(), (now, r.clone()));
            let Some((at, before)) = before else { continue };
            let report = out.entry(url).or_insert_with(|| Report {
                receiver: self.receiver,
                sample: 1.0,
                ..Report::default()
            });
            if report.reception.len() < REPORT_SESSIONS {
                report.reception.push(since(&r, &before, now - at));
            }
        }
        self.last = last;
        out
    }
}

/// A sender that wants nothing reported was not heard right.
fn speaks_for(sample: f64) -> f64 {
    if sample > 0.0 { sample } else { 1.0 }
}

fn since(now: &Received, before: &Received, period: Duration) -> Reception {
    let bytes = now.bytes.since(&before.bytes);
    Reception {
        tsi: now.tsi.0,
        period_ms: u64::try_from(period.as_millis()).unwrap_or(u64::MAX),
        packets: now.packets.saturating_sub(before.packets),
        source: now.source.saturating_sub(before.source),
        repair: now.repair.saturating_sub(before.repair),
        expected: now.expected.saturating_sub(before.expected),
        lost: now.lost.saturating_sub(before.lost),
        recovered: now.recovered.saturating_sub(before.recovered),
        bytes: bytes.iter().filter(|(_, n)| *n > 0).map(|(p, n)| (p.as_str().to_owned(), n)).collect(),
        runs: now.runs.iter().zip(before.runs).map(|(a, b)| a.saturating_sub(b)).collect(),
        join_ms: now.join_ms.filter(|_| before.join_ms.is_none()),
        layer_2: now.layer_2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::Tsi;

    #[test]
    fn reports_tell_what_came_since_the_last() {
        let url = Url::parse("http://s/repair/report").expect("url");
        let key = RenditionKey::new("news", "high");
        let mut r = Received { packets: 100, expected: 90, lost: 5, ..Received::new(key, Tsi(7)) };
        let mut reporting = Reporting::new(u64::MAX);
        assert!(reporting.reception(Time::from_secs(1), vec![(url.clone(), r.clone())]).is_empty());
        (r.packets, r.expected, r.lost) = (150, 140, 8);
        let reports = reporting.reception(Time::from_secs(6), vec![(url.clone(), r)]);
        let told = &reports[&url].reception[0];
        assert_eq!((told.tsi, told.packets, told.lost, told.period_ms), (7, 50, 3, 5000));
        assert_eq!(Report::parse(&reports[&url].to_json()).as_ref(), Ok(&reports[&url]));
    }

    #[test]
    fn reports_are_spread_around_their_period() {
        let mut reporting = Reporting::new(1);
        let due = (0..1000).filter(|n| reporting.is_due(Time::from_millis(n * 100))).count();
        assert!((14..=26).contains(&due), "{due} in 100 s at one in 5 s");
    }
}
