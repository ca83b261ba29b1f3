//! The clock the engines are told the time from.

use mahp_common::{Time, WallTime};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Monotonic time since the clock was made, and wall clock. Cheap to copy; all parts of a process share one origin.
///
/// Monotonic time is tokio's, so that tests with `tokio::time::pause` run in virtual time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { origin: Instant::now() }
    }
}

impl Clock {
    /// A clock that starts now.
    pub fn new() -> Clock {
        Clock::default()
    }

    /// Monotonic time.
    pub fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Wall clock.
    pub fn wall(&self) -> WallTime {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        WallTime::from_unix_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// The instant for `tokio::time::sleep_until`.
    pub fn instant(&self, at: Time) -> Instant {
        self.origin + at.since(Time::ZERO)
    }
}
