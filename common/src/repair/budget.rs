//! Token buckets: how much may be sent or asked for, by all and by each client.

use crate::time::Time;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Grants units (bytes) at a mean rate, with bursts.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Units per second.
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Time,
}

impl TokenBucket {
    /// `rate` units per second, at most `burst` at once; full at the start.
    pub const fn new(rate: f64, burst: f64) -> TokenBucket {
        TokenBucket { rate, burst, tokens: burst, at: Time::ZERO }
    }

    /// Takes `units` if they are there; else says after which time they would be. More than the burst is never there.
    ///
    /// # Errors
    /// The time to wait.
    pub fn take(&mut self, now: Time, units: u64) -> Result<(), Duration> {
        self.refill(now);
        // Byte counts are far below 2^53.
        let units = units as f64;
        if units <= self.tokens {
            self.tokens -= units;
            return Ok(());
        }
        let wait = (units.min(self.burst) - self.tokens) / self.rate.max(1e-9);
        let wait = Duration::try_from_secs_f64(wait).unwrap_or(FOREVER).min(FOREVER);
        Err(if units > self.burst { FOREVER } else { wait })
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, units: u64) {
        self.tokens = (self.tokens + units as f64).min(self.burst);
    }

    fn refill(&mut self, now: Time) {
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() * self.rate).min(self.burst);
        self.at = self.at.max(now);
    }

    fn is_full(&mut self, now: Time) -> bool {
        self.refill(now);
        self.tokens >= self.burst
    }
}

/// Longest wait that is told: what needs longer needs another way.
const FOREVER: Duration = Duration::from_secs(3600);

/// Which bound was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// That of all clients together.
    Global,
    /// That of this client.
    Client,
}

/// A bucket for all and one for each client. Clients are remembered in a bounded table: a client whose bucket is full again is
/// forgotten first, and when none is, a new client shares the bucket of all the unremembered.
#[derive(Debug)]
pub struct Budget<K> {
    all: TokenBucket,
    each: TokenBucket,
    clients: HashMap<K, TokenBucket>,
    strangers: TokenBucket,
    clients_max: usize,
}

impl<K: Eq + Hash + Clone> Budget<K> {
    /// Buckets for all together and for each client; at most `clients_max` clients are remembered.
    pub fn new(all: TokenBucket, each: TokenBucket, clients_max: usize) -> Budget<K> {
        Budget { all, each, clients: HashMap::new(), strangers: each, clients_max }
    }

    /// Takes `units` for `client`.
    ///
    /// # Errors
    /// Which bound is hit, and after which time to try again.
    pub fn take(&mut self, now: Time, client: &K, units: u64) -> Result<(), (Spent, Duration)> {
        if !self.clients.contains_key(client) && self.clients.len() >= self.clients_max {
            self.clients.retain(|_, bucket| !bucket.is_full(now));
        }
        let full = self.clients.len() >= self.clients_max;
        let bucket = match self.clients.get_mut(client) {
            Some(bucket) => bucket,
            None if full => &mut self.strangers,
            None => self.clients.entry(client.clone()).or_insert(self.each),
        };
        bucket.take(now, units).map_err(|wait| (Spent::Client, wait))?;
        self.all.take(now, units).map_err(|wait| {
            bucket.give_back(units);
            (Spent::Global, wait)
        })
    }

    /// Clients remembered.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_grants_its_rate_and_burst_and_no_more() {
        let mut bucket = TokenBucket::new(1000.0, 500.0);
        let mut granted = 0;
        for ms in 0..10_000 {
            if bucket.take(Time::from_millis(ms), 70).is_ok() {
                granted += 70;
            }
        }
        assert!((10_300..=10_500).contains(&granted), "{granted}");
        assert_eq!(bucket.take(Time::from_secs(100), 501), Err(FOREVER));
        assert_eq!(bucket.take(Time::from_secs(100), 500), Ok(()));
        assert_eq!(bucket.take(Time::from_secs(100), 250), Err(Duration::from_millis(250)));
    }

    #[test]
    fn one_client_cannot_spend_for_all_and_many_cannot_exceed_the_whole() {
        let all = TokenBucket::new(1000.0, 1000.0);
        let mut budget = Budget::new(all, TokenBucket::new(100.0, 100.0), 8);
        let now = Time::from_secs(1);
        assert_eq!(budget.take(now, &1, 100), Ok(()));
        assert_eq!(budget.take(now, &1, 1), Err((Spent::Client, Duration::from_millis(10))));
        let granted: u64 = (2..1000).map(|c| u64::from(budget.take(now, &c, 100).is_ok()) * 100).sum();
        assert_eq!(granted, 800, "seven more remembered, and all strangers share one");
        assert_eq!(budget.clients(), 8);
        // Idle clients make room.
        let later = Time::from_secs(10);
        assert_eq!(budget.take(later, &5000, 100), Ok(()));
        assert_eq!(budget.clients(), 1);
    }

    #[test]
    fn what_all_refuse_is_not_taken_from_the_client() {
        let mut budget = Budget::new(TokenBucket::new(1.0, 50.0), TokenBucket::new(1.0, 100.0), 8);
        let now = Time::from_secs(1);
        assert!(matches!(budget.take(now, &1, 60), Err((Spent::Global, _))));
        assert_eq!(budget.take(now, &1, 50), Ok(()));
    }
}
