//! A histogram of times with logarithmic bins: constant memory, quantiles good to 19 %.

use crate::snapshot::Quantiles;
use std::time::Duration;

/// Bins per power of two.
const STEPS: u32 = 4;
/// Powers of two of a millisecond: up to about 17 minutes.
const OCTAVES: u32 = 20;
const BINS: usize = (STEPS * OCTAVES) as usize;

/// See the module.
#[derive(Clone, Debug)]
pub struct Histogram {
    bins: [u64; BINS],
    count: u64,
    max_ms: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { bins: [0; BINS], count: 0, max_ms: 0 }
    }
}

impl Histogram {
    /// Counts one time.
    pub fn record(&mut self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Some(bin) = self.bins.get_mut(bin_of(ms)) {
            *bin += 1;
        }
        self.count += 1;
        self.max_ms = self.max_ms.max(ms);
    }

    /// Times counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The time that a share `q` of all is not above, milliseconds.
    pub fn quantile(&self, q: f64) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (bin, n) in self.bins.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return upper_edge_ms(bin).min(self.max_ms);
            }
        }
        self.max_ms
    }

    /// For people.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            count: self.count,
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            max: self.max_ms,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Histogram::default();
    }
}

/// Bin 0 holds times below 1 ms and 1 ms itself.
fn bin_of(ms: u64) -> usize {
    if ms <= 1 {
        return 0;
    }
    let log = (ms as f64).log2() * f64::from(STEPS);
    (log.ceil() as usize).min(BINS - 1)
}

fn upper_edge_ms(bin: usize) -> u64 {
    (bin as f64 / f64::from(STEPS)).exp2().ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_one_bin_of_the_truth() {
        let mut h = Histogram::default();
        for ms in 1..=1000u64 {
            h.record(Duration::from_millis(ms));
        }
        for (q, truth) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0)] {
            let got = h.quantile(q) as f64;
            assert!(got >= truth * 0.99 && got <= truth * 1.20, "{q}: {got}");
        }
        assert_eq!(h.quantiles().max, 1000);
    }

    #[test]
    fn nothing_and_the_extremes() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(0.5), 0);
        h.record(Duration::ZERO);
        assert_eq!(h.quantile(0.5), 0);
        h.record(Duration::from_secs(u64::MAX / 1000));
        assert_eq!(h.count(), 2);
        h.clear();
        assert_eq!(h.quantiles(), Quantiles::default());
    }
}
