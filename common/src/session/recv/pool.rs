//! Memory that several sessions share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that nobody holds. Each session has some memory of its own; what a large object needs beyond that it borrows here, so
/// that memory is where objects are, and no session's traffic can take what another has for itself.
#[derive(Debug)]
pub struct Pool {
    free: AtomicU64,
}

impl Pool {
    /// A pool of so many bytes.
    pub fn new(bytes: u64) -> Arc<Pool> {
        Arc::new(Pool { free: AtomicU64::new(bytes) })
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Takes so many bytes, or none where fewer are free.
    pub fn take(&self, bytes: u64) -> bool {
        let less = |free: u64| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: u64) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a session has borrowed; given back when it ends.
#[derive(Debug)]
pub(super) struct Loan {
    pool: Arc<Pool>,
    /// Bytes borrowed, at most `most`.
    bytes: u64,
    most: u64,
}

/// Borrowed at a time: not each symbol by itself.
const GRAIN: u64 = 64 << 10;

impl Loan {
    /// Nothing borrowed yet; never more than `most` bytes.
    pub(super) fn new(pool: Arc<Pool>, most: u64) -> Loan {
        Loan { pool, bytes: 0, most }
    }

    /// Whether `bytes` are borrowed now, after borrowing what is missing.
    pub(super) fn reach(&mut self, bytes: u64) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let wanted = bytes.next_multiple_of(GRAIN).min(self.most);
        // The last bytes of a pool are not lost to the grain.
        let Some(goal) = [wanted, bytes].into_iter().find(|goal| *goal >= bytes && self.borrow(*goal)) else {
            return false;
        };
        self.bytes = goal;
        true
    }

    fn borrow(&self, goal: u64) -> bool {
        goal <= self.most && self.pool.take(goal - self.bytes)
    }

    /// Gives back what is not needed for `bytes`.
    pub(super) fn settle(&mut self, bytes: u64) {
        let keep = bytes.next_multiple_of(GRAIN).min(self.bytes);
        self.pool.give(self.bytes - keep);
        self.bytes = keep;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.pool.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_borrowed_is_never_more_than_there_is_and_comes_back(
            total in 0u64..1 << 20,
            most in 0u64..1 << 20,
            steps in proptest::collection::vec((0usize..3, 0u64..1 << 20), 0..40),
        ) {
            let pool = Pool::new(total);
            let mut loans: Vec<Loan> = (0..3).map(|_| Loan::new(pool.clone(), most)).collect();
            for (who, bytes) in steps {
                if loans[who].reach(bytes) {
                    prop_assert!(bytes <= loans[who].bytes && loans[who].bytes <= most);
                } else {
                    loans[who].settle(bytes / 2);
                }
                let held: u64 = loans.iter().map(|l| l.bytes).sum();
                prop_assert_eq!(pool.free() + held, total);
            }
            drop(loans);
            prop_assert_eq!(pool.free(), total);
        }
    }
}
