//! Counters of renditions and channels.

use crate::histogram::Histogram;
use crate::snapshot::Objects;
use mahp_common::drop::DropCounters;
use mahp_common::repair::report::RUN_BINS;
use mahp_common::session::recv::{ByPath, RecvStats};
use std::collections::VecDeque;

/// Loss is shown over this many seconds in which objects were finished,
const LOSS_SECONDS: usize = 10;
/// of the last so many: a manifest that is sent again and again is finished once.
const LOSS_MEMORY: u64 = 60;

/// Counters that only grow, over all joins of a rendition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) source_symbols: u64,
    pub(super) repair_symbols: u64,
    pub(super) late_symbols: u64,
    pub(super) duplicate_symbols: u64,
    pub(super) lost_symbols: u64,
    pub(super) expected_symbols: u64,
    pub(super) recovered_symbols: u64,
    /// Bytes of complete objects by way.
    pub(super) object_bytes: ByPath,
    /// Bytes of objects fetched whole by unicast.
    pub(super) whole_bytes: u64,
    pub(super) loss_runs: [u64; RUN_BINS],
    pub(super) kernel_drops: u64,
    pub(super) objects: Objects,
}

impl Counts {
    /// Adds another rendition's.
    pub(super) fn add(&mut self, other: &Counts) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.source_symbols += other.source_symbols;
        self.repair_symbols += other.repair_symbols;
        self.late_symbols += other.late_symbols;
        self.duplicate_symbols += other.duplicate_symbols;
        self.lost_symbols += other.lost_symbols;
        self.expected_symbols += other.expected_symbols;
        self.recovered_symbols += other.recovered_symbols;
        self.object_bytes.add_all(&other.object_bytes);
        self.whole_bytes += other.whole_bytes;
        self.loss_runs.iter_mut().zip(other.loss_runs).for_each(|(a, b)| *a += b);
        self.kernel_drops += other.kernel_drops;
        add(&mut self.objects, &other.objects);
    }
}

/// What one second brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    pub(super) lost_symbols: u64,
    pub(super) expected_symbols: u64,
    /// Objects that multicast alone did not complete.
    pub(super) unfinished: u64,
    pub(super) finished: u64,
}

impl Window {
    /// Adds another's.
    pub(super) fn add(&mut self, other: &Window) {
        self.lost_symbols += other.lost_symbols;
        self.expected_symbols += other.expected_symbols;
        self.unfinished += other.unfinished;
        self.finished += other.finished;
    }

    /// Share of source symbols that multicast did not bring; none: nothing was finished.
    pub(super) fn before_fec(&self) -> Option<f64> {
        (self.expected_symbols > 0).then(|| share(self.lost_symbols, self.expected_symbols))
    }

    /// Share of objects that multicast alone did not complete; none: nothing was finished.
    pub(super) fn after_fec(&self) -> Option<f64> {
        let objects = self.unfinished + self.finished;
        (objects > 0).then(|| share(self.unfinished, objects))
    }
}

/// Of one rendition.
#[derive(Debug, Default)]
pub(super) struct RenditionStats {
    pub(super) counts: Counts,
    pub(super) completion: Histogram,
    /// Since the last second, for the history.
    pub(super) recent_completion: Histogram,
    /// 90 % of those of the last second.
    pub(super) recent_completion_p90_ms: Option<u64>,
    pub(super) rate_bps: u64,
    pub(super) delay_ms: Option<u64>,
    pub(super) in_flight: u64,
    pub(super) assembly_bytes: u64,
    pub(super) this_second: Window,
    /// With the second they are of.
    windows: VecDeque<(u64, Window)>,
    seconds: u64,
    seen: RecvStats,
    seen_kernel_drops: u64,
    seen_wrong_source: u64,
}

impl RenditionStats {
    /// A flow begins: its counters start at 0.
    pub(super) fn begin(&mut self) {
        self.seen = RecvStats::default();
        self.seen_kernel_drops = 0;
        self.seen_wrong_source = 0;
    }

    /// Adds what the engine has counted since the last call; refusals go to `drops`. Returns the bytes that came.
    pub(super) fn absorb(
        &mut self,
        now: &RecvStats,
        kernel_drops: u64,
        wrong_source: u64,
        drops: &mut DropCounters,
    ) -> u64 {
        use mahp_common::drop::DropReason;
        let before = std::mem::replace(&mut self.seen, now.clone());
        let c = &mut self.counts;
        let bytes = now.bytes.saturating_sub(before.bytes);
        c.packets += now.packets.saturating_sub(before.packets);
        c.bytes += bytes;
        c.source_symbols += now.source_symbols.saturating_sub(before.source_symbols);
        c.repair_symbols += now.repair_symbols.saturating_sub(before.repair_symbols);
        let lost = now.lost_symbols.saturating_sub(before.lost_symbols);
        let expected = now.expected_symbols.saturating_sub(before.expected_symbols);
        c.lost_symbols += lost;
        c.expected_symbols += expected;
        c.recovered_symbols += now.recovered_symbols.saturating_sub(before.recovered_symbols);
        c.object_bytes.add_all(&now.object_bytes.since(&before.object_bytes));
        let runs = now.loss_runs.iter().zip(before.loss_runs).map(|(a, b)| a.saturating_sub(b));
        c.loss_runs.iter_mut().zip(runs).for_each(|(a, b)| *a += b);
        self.this_second.lost_symbols += lost;
        self.this_second.expected_symbols += expected;
        c.kernel_drops += kernel_drops.saturating_sub(self.seen_kernel_drops);
        self.seen_kernel_drops = kernel_drops;
        drops.add(DropReason::WrongSource, wrong_source.saturating_sub(self.seen_wrong_source));
        self.seen_wrong_source = wrong_source;
        for (reason, n) in now.drops.iter() {
            let new = n.saturating_sub(before.drops.get(reason));
            match reason {
                DropReason::Late => c.late_symbols += new,
                DropReason::Duplicate => c.duplicate_symbols += new,
                _ => {}
            }
            drops.add(reason, new);
        }
        self.in_flight = now.objects_in_flight as u64;
        self.assembly_bytes = now.assembly_bytes;
        bytes
    }

    /// A flow has ended.
    pub(super) fn end(&mut self) {
        (self.in_flight, self.assembly_bytes, self.rate_bps) = (0, 0, 0);
        self.recent_completion_p90_ms = None;
    }

    /// A second has passed.
    pub(super) fn second(&mut self) {
        self.seconds += 1;
        let recent = std::mem::take(&mut self.recent_completion);
        self.recent_completion_p90_ms = (recent.count() > 0).then(|| recent.quantile(0.9));
        let window = std::mem::take(&mut self.this_second);
        if window.finished + window.unfinished + window.expected_symbols > 0 {
            self.windows.push_back((self.seconds, window));
        }
        let old = |(at, _): &(u64, Window)| at + LOSS_MEMORY <= self.seconds;
        while self.windows.len() > LOSS_SECONDS || self.windows.front().is_some_and(old) {
            self.windows.pop_front();
        }
    }

    /// What the last seconds with data brought.
    pub(super) fn loss(&self) -> Window {
        let mut sum = Window::default();
        self.windows.iter().for_each(|(_, window)| sum.add(window));
        sum
    }
}

/// `whole` is not 0.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Adds b to a.
pub(super) fn add(a: &mut Objects, b: &Objects) {
    a.multicast += b.multicast;
    a.repaired += b.repaired;
    a.unicast += b.unicast;
    a.lost += b.lost;
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::drop::DropReason;

    #[test]
    fn counters_go_on_over_joins() {
        let mut stats = RenditionStats::default();
        let mut drops = DropCounters::default();
        let mut engine = RecvStats {
            packets: 10,
            bytes: 1000,
            lost_symbols: 1,
            expected_symbols: 10,
            ..RecvStats::default()
        };
        engine.drops.add(DropReason::Late, 3);
        stats.begin();
        assert_eq!(stats.absorb(&engine, 5, 1, &mut drops), 1000);
        assert_eq!(stats.absorb(&engine, 5, 1, &mut drops), 0);
        stats.end();
        stats.begin();
        stats.absorb(&engine, 2, 0, &mut drops);
        assert_eq!((stats.counts.packets, stats.counts.kernel_drops, stats.counts.late_symbols), (20, 7, 6));
        assert_eq!((drops.get(DropReason::Late), drops.get(DropReason::WrongSource)), (6, 1));
    }

    #[test]
    fn loss_is_over_seconds_with_data() {
        let this_second = Window { lost_symbols: 5, expected_symbols: 100, unfinished: 1, finished: 3 };
        let mut stats = RenditionStats { this_second, ..RenditionStats::default() };
        stats.second();
        for _ in 0..50 {
            stats.second();
        }
        assert_eq!((stats.loss().before_fec(), stats.loss().after_fec()), (Some(0.05), Some(0.25)));
        // One packet of a playlist weighs what one packet weighs.
        let mut all = stats.loss();
        all.add(&Window { lost_symbols: 1, expected_symbols: 1, unfinished: 0, finished: 1 });
        assert_eq!((all.before_fec(), all.after_fec()), (Some(6.0 / 101.0), Some(0.2)));
        for _ in 0..50 {
            stats.second();
        }
        assert_eq!((stats.loss().before_fec(), stats.loss().after_fec()), (None, None), "long ago");
    }
}
