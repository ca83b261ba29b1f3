//! How long a peer may make us wait for room in its streams. Who reads nothing must not keep memory that nobody else needs.

use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Slower than this, bytes/s (2 Mbit/s), and a peer is not served.
const RATE: u64 = 256 << 10;

/// Time for one object: `grace` for a stream to open and for what is small, and as long as its bytes may take.
pub(super) fn time_for(grace: Duration, bytes: usize) -> Duration {
    grace + Duration::from_millis(bytes as u64 * 1000 / RATE)
}

/// The time of one answer: grace once, and as long as its bytes take, of which only what the peer makes us wait counts.
#[derive(Debug)]
pub(super) struct Pace {
    grace: Duration,
    bytes: usize,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(grace: Duration) -> Pace {
        Pace { grace, bytes: 0, waited: Duration::ZERO }
    }

    /// Waits for the peer to take `bytes` more; none: it did not in time. A peer that was quick before gets no more for it than
    /// the time of one object.
    pub(super) async fn take<T>(&mut self, bytes: usize, taking: impl Future<Output = T>) -> Option<T> {
        self.bytes = self.bytes.saturating_add(bytes);
        let left = time_for(self.grace, self.bytes).saturating_sub(self.waited);
        let left = left.min(time_for(self.grace, bytes));
        let begun = Instant::now();
        let taken = timeout(left, taking).await.ok();
        self.waited += begun.elapsed();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use tokio::time::sleep;

    const GRACE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn grace_is_given_once_to_an_answer() {
        let mut pace = Pace::new(GRACE);
        let begun = Instant::now();
        assert!(pace.take(0, sleep(GRACE - SECOND)).await.is_some());
        assert!(pace.take(RATE as usize, sleep(SECOND)).await.is_some());
        assert!(pace.take(RATE as usize, pending::<()>()).await.is_none());
        assert_eq!(begun.elapsed(), GRACE + 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_quickly_is_no_credit() {
        let mut pace = Pace::new(GRACE);
        for _ in 0..1000 {
            assert!(pace.take(RATE as usize, ready(())).await.is_some());
        }
        let begun = Instant::now();
        assert!(pace.take(RATE as usize, pending::<()>()).await.is_none());
        assert_eq!(begun.elapsed(), GRACE + SECOND);
    }
}
