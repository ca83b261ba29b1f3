//! Memory that running answers keep alive after the store has let go of it.
//!
//! An answer shares the bytes of the store, so a thousand viewers of one segment cost one segment. But whoever takes his answer
//! slowly keeps it from being freed, and many who each asked for something else keep more than the store may have. What answers alone
//! keep is bounded: beyond that the oldest of them are broken off, and their viewers ask again.

use crate::library::Stored;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What answers keep is looked at this often.
pub const LOOK: Duration = Duration::from_secs(1);

/// Breaks a connection off; each request carries that of its connection among its extensions.
#[derive(Clone, Debug, Default)]
pub struct Cut(pub CancellationToken);

/// See the module.
#[derive(Debug)]
pub struct Lent {
    limit: u64,
    loans: Mutex<Loans>,
}

#[derive(Debug, Default)]
struct Loans {
    next: u64,
    /// By number: the oldest first.
    running: BTreeMap<u64, Loan>,
}

#[derive(Debug)]
struct Loan {
    objects: Vec<Arc<Stored>>,
    cut: Cut,
}

/// Ends a loan when it is dropped.
#[derive(Debug)]
pub struct Guard {
    lent: Arc<Lent>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.lent.lock().running.remove(&self.number);
    }
}

impl Lent {
    /// Answers alone may keep so many bytes.
    pub fn new(limit: u64) -> Arc<Lent> {
        Arc::new(Lent { limit, loans: Mutex::default() })
    }

    /// Notes that an answer on a connection has bytes of these objects.
    pub fn lend(self: &Arc<Self>, objects: &[Arc<Stored>], cut: &Cut) -> Guard {
        let mut loans = self.lock();
        let number = loans.next;
        loans.next += 1;
        loans.running.insert(number, Loan { objects: objects.to_vec(), cut: cut.clone() });
        drop(loans);
        Guard { lent: self.clone(), number }
    }

    /// Breaks off answers, the oldest first, until what they alone keep is within the limit. Returns how many.
    pub fn look(&self) -> usize {
        let mut loans = self.lock();
        let mut kept = kept_alone(&loans.running);
        let mut excess = kept.values().map(|k| k.bytes).sum::<u64>().saturating_sub(self.limit);
        let mut cut = 0;
        while excess > 0 {
            let keeps = |loan: &Loan| loan.objects.iter().any(|o| kept.contains_key(&Arc::as_ptr(o)));
            let Some(number) = loans.running.iter().find(|(_, l)| keeps(l)).map(|(n, _)| *n) else { break };
            let Some(loan) = loans.running.remove(&number) else { break };
            loan.cut.0.cancel();
            cut += 1;
            for object in &loan.objects {
                let address = Arc::as_ptr(object);
                let Some(k) = kept.get_mut(&address) else { continue };
                k.loans -= 1;
                if k.loans == 0 {
                    excess = excess.saturating_sub(k.bytes);
                    kept.remove(&address);
                }
            }
        }
        cut
    }

    fn lock(&self) -> MutexGuard<'_, Loans> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Kept {
    loans: usize,
    bytes: u64,
}

/// Objects that only answers refer to any more.
fn kept_alone(running: &BTreeMap<u64, Loan>) -> HashMap<*const Stored, Kept> {
    let mut all: HashMap<*const Stored, (Kept, &Arc<Stored>)> = HashMap::new();
    for object in running.values().flat_map(|l| &l.objects) {
        let bytes = object.payload.len();
        all.entry(Arc::as_ptr(object)).or_insert((Kept { loans: 0, bytes }, object)).0.loans += 1;
    }
    let alone = all.into_iter().filter(|(_, (kept, object))| Arc::strong_count(object) <= kept.loans);
    alone.map(|(address, (kept, _))| (address, kept)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::Source;
    use mahp_common::{ObjectMeta, Payload, Time};

    fn object(bytes: usize) -> Arc<Stored> {
        Arc::new(Stored {
            meta: ObjectMeta::default(),
            payload: Payload::from(bytes::Bytes::from(vec![0; bytes])),
            source: Source::Unicast,
            stored_at: Time::ZERO,
            good_until: None,
        })
    }

    #[test]
    fn what_the_store_has_costs_nothing_and_the_oldest_go_first() {
        let lent = Lent::new(25);
        let cuts: Vec<Cut> = (0..5).map(|_| Cut::default()).collect();
        let shared = object(1000);
        let mut store: Vec<Arc<Stored>> = (0..3).map(|_| object(10)).collect();
        let mut guards = vec![lent.lend(std::slice::from_ref(&shared), &cuts[0])];
        for (n, one) in store.iter().enumerate() {
            guards.push(lent.lend(std::slice::from_ref(one), &cuts[n + 1]));
        }
        // Another viewer of the first of them.
        guards.push(lent.lend(&store[..1], &cuts[4]));
        assert_eq!(lent.look(), 0, "all of it is in the store");
        store.remove(1);
        assert_eq!(lent.look(), 0, "10 bytes are within the limit");
        store.clear();
        assert_eq!(lent.look(), 2, "30 bytes are 5 too many; the oldest 10 have two viewers");
        let is_cut = |cuts: &[Cut]| cuts.iter().map(|c| c.0.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(is_cut(&cuts), [false, true, true, false, false]);
    }

    #[test]
    fn answers_that_have_ended_keep_nothing() {
        let lent = Lent::new(0);
        let cut = Cut::default();
        let guard = lent.lend(&[object(10)], &cut);
        drop(guard);
        assert_eq!((lent.look(), cut.0.is_cancelled()), (0, false));
        let _guard = lent.lend(&[object(10)], &cut);
        assert_eq!((lent.look(), cut.0.is_cancelled()), (1, true));
        assert_eq!(lent.look(), 0, "once");
    }
}
