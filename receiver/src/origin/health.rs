//! What we know of each origin from the answers it gave: how fast it is, and whether it answers at all.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Hosts remembered; the one that was quiet longest is forgotten.
const HOSTS_MAX: usize = 256;
/// After a failure, an origin counts as failing for this long.
const FAILING_FOR: Duration = Duration::from_secs(10);
/// Weight of a new measurement.
const WEIGHT: f64 = 0.3;
/// Downloads below this size measure latency only.
const RATE_BYTES_MIN: u64 = 64 << 10;
/// Assumed before the first measurement.
const FIRST_BYTE_DEFAULT: f64 = 0.3;
/// Assumed before the first measurement, bytes per second.
const RATE_DEFAULT: f64 = 1e6;

/// Per host.
#[derive(Debug, Default)]
pub struct Health {
    hosts: HashMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    first_byte_secs: f64,
    bytes_per_sec: f64,
    failed_at: Option<Instant>,
    last: Instant,
}

impl Health {
    /// Headers came after this time.
    pub fn answered(&mut self, host: &str, now: Instant, after: Duration) {
        let host = self.host(host, now);
        host.failed_at = None;
        host.first_byte_secs += WEIGHT * (after.as_secs_f64() - host.first_byte_secs);
    }

    /// It refused, but it answers.
    pub fn refused(&mut self, host: &str, now: Instant) {
        self.host(host, now).failed_at = None;
    }

    /// A body of `bytes` came in `took`.
    pub fn transferred(&mut self, host: &str, now: Instant, bytes: u64, took: Duration) {
        if bytes >= RATE_BYTES_MIN {
            let host = self.host(host, now);
            // As f64 a byte count is exact up to 2^53.
            let rate = bytes as f64 / took.as_secs_f64().max(1e-3);
            host.bytes_per_sec += WEIGHT * (rate - host.bytes_per_sec);
        }
    }

    /// No answer, or a broken one, or a server error.
    pub fn failed(&mut self, host: &str, now: Instant) {
        self.host(host, now).failed_at = Some(now);
    }

    /// Whether there is no reason to think that it will not answer.
    pub fn is_healthy(&self, host: &str, now: Instant) -> bool {
        let failed = self.hosts.get(host).and_then(|h| h.failed_at);
        failed.is_none_or(|at| now.duration_since(at) > FAILING_FOR)
    }

    /// How long fetching this much will take: with a reserve of half.
    pub fn estimate(&self, host: &str, bytes: u64) -> Duration {
        let (first_byte, rate) = self
            .hosts
            .get(host)
            .map_or((FIRST_BYTE_DEFAULT, RATE_DEFAULT), |h| (h.first_byte_secs, h.bytes_per_sec));
        let secs = 1.5 * (first_byte + bytes as f64 / rate.max(1.0));
        Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX)
    }

    fn host(&mut self, name: &str, now: Instant) -> &mut Host {
        if !self.hosts.contains_key(name) && self.hosts.len() >= HOSTS_MAX {
            let oldest = self.hosts.iter().min_by_key(|(_, h)| h.last).map(|(name, _)| name.clone());
            oldest.map(|name| self.hosts.remove(&name));
        }
        let host = self.hosts.entry(name.to_owned()).or_insert(Host {
            first_byte_secs: FIRST_BYTE_DEFAULT,
            bytes_per_sec: RATE_DEFAULT,
            failed_at: None,
            last: now,
        });
        host.last = now;
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_follow_measurements() {
        let now = Instant::now();
        let mut health = Health::default();
        let before = health.estimate("a", 1 << 20);
        for _ in 0..20 {
            health.answered("a", now, Duration::from_millis(10));
            health.transferred("a", now, 10_000_000, Duration::from_secs(1));
        }
        assert!(health.estimate("a", 1 << 20) < before / 4);
        assert_eq!(health.estimate("b", 1 << 20), before);
    }

    #[test]
    fn a_failure_is_forgotten_after_a_while_or_by_an_answer() {
        let now = Instant::now();
        let mut health = Health::default();
        health.failed("a", now);
        assert!(!health.is_healthy("a", now) && health.is_healthy("b", now));
        assert!(health.is_healthy("a", now + Duration::from_secs(11)));
        health.answered("a", now, Duration::ZERO);
        assert!(health.is_healthy("a", now));
    }

    #[test]
    fn hosts_are_bounded() {
        let mut health = Health::default();
        let start = Instant::now();
        for i in 0..1000u64 {
            health.failed(&i.to_string(), start + Duration::from_secs(i));
        }
        assert_eq!(health.hosts.len(), HOSTS_MAX);
        assert!(health.hosts.contains_key("999"));
    }
}
