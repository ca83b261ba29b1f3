//! Live renditions whose origin brings nothing new: it answers, and all looks well but to viewers.

use crate::status::{Entry, SenderStatus};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(1);

/// Tells of each rendition once when it stands still, and when it goes on. Until dropped.
pub async fn watch(status: Arc<SenderStatus>) {
    let mut still = Still::default();
    let mut ticks = interval(PERIOD);
    loop {
        ticks.tick().await;
        for change in still.look(&status.entries(), Instant::now()) {
            match change {
                Change::Stopped(name, age) => tracing::warn!(
                    "W-STALE: {name}: no new segment for {} s; is the encoder behind the origin running?",
                    age.as_secs()
                ),
                Change::GoesOn(name) => tracing::info!("{name}: new segments come again"),
            }
        }
    }
}

/// What is told.
#[derive(Debug, PartialEq)]
enum Change {
    Stopped(String, Duration),
    GoesOn(String),
}

/// What stands still, as told.
#[derive(Debug, Default)]
struct Still(BTreeSet<String>);

impl Still {
    fn look(&mut self, entries: &[Entry], now: Instant) -> Vec<Change> {
        let name = |e: &Entry| format!("{}/{}", e.channel, e.rendition.id);
        let stopped = |e: &Entry| Some((name(e), e.stands_still(now)?));
        let stopped: Vec<(String, Duration)> = entries.iter().filter_map(stopped).collect();
        let names: BTreeSet<String> = stopped.iter().map(|(name, _)| name.clone()).collect();
        let there: BTreeSet<String> = entries.iter().map(name).collect();
        // Of channels that were taken away nothing is said.
        let back = self.0.difference(&names).filter(|name| there.contains(*name)).cloned();
        let mut changes: Vec<Change> = back.map(Change::GoesOn).collect();
        let new = stopped.into_iter().filter(|(name, _)| !self.0.contains(name));
        changes.extend(new.map(|(name, age)| Change::Stopped(name, age)));
        self.0 = names;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::RenditionStatus;
    use mahp_common::catalog::Rendition;

    fn entry(id: &str) -> Entry {
        let rendition = serde_json::json!({
            "id": id, "role": "video", "bitrate_bps": 1,
            "flow": { "group": "232.1.1.1", "port": 5000, "tsi": 1, "profile": "flute-raptorq",
                      "symbol_size": 1344, "repair_percent": 0, "rate_bps": 1 },
        });
        let rendition: Rendition = serde_json::from_value(rendition).expect("a rendition");
        let status = Arc::<RenditionStatus>::default();
        Entry { channel: "tv".into(), live: true, target: Duration::from_secs(4), rendition, status }
    }

    #[test]
    fn what_stands_still_is_told_once_and_so_is_that_it_goes_on() {
        let entries = [entry("high"), entry("low")];
        entries[0].status.expects(true);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut still = Still::default();
        assert_eq!(still.look(&entries, at(11)), []);
        let told = still.look(&entries, at(14));
        assert!(
            matches!(&told[..], [Change::Stopped(name, age)] if name == "tv/high" && age.as_secs() >= 13)
        );
        assert_eq!(still.look(&entries, at(60)), []);
        entries[0].status.came();
        assert_eq!(still.look(&entries, at(1)), [Change::GoesOn("tv/high".into())]);
        assert_eq!(still.look(&entries, at(60)).len(), 1, "again");
        entries[0].status.expects(false);
        assert_eq!(still.look(&entries, at(90)).len(), 1, "what has ended is not missed");
        assert_eq!(still.look(&entries, at(900)), [], "nothing was expected of the other one");
    }
}
