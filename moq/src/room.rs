//! Bytes that answers may hold until their askers have taken them: of a session, of all sessions of an address, of a listener.
//!
//! What is made or got for one asker alone is taken from here first: who asks for much and reads nothing fills its own room.

use crate::plane::Refusal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// When to ask again.
const FULL: Duration = Duration::from_secs(1);

/// Room for so many bytes, inside a larger one or not. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Room(Arc<Level>);

#[derive(Debug)]
struct Level {
    used: AtomicUsize,
    most: usize,
    outer: Option<Room>,
}

/// Bytes taken from a room and all around it; dropped: given back.
#[derive(Debug, Default)]
pub struct Taken {
    from: Option<Room>,
    bytes: usize,
}

impl Room {
    /// For `most` bytes.
    pub fn new(most: usize) -> Room {
        Room(Arc::new(Level { used: AtomicUsize::new(0), most, outer: None }))
    }

    /// For `most` bytes, which `self` must have, too.
    pub fn inside(&self, most: usize) -> Room {
        Room(Arc::new(Level { used: AtomicUsize::new(0), most, outer: Some(self.clone()) }))
    }

    /// Without a bound: for who asks in our own program.
    pub fn unbounded() -> Room {
        Room::new(usize::MAX)
    }

    /// Takes room, everywhere or nowhere. Refused (EXCESSIVE_LOAD): there is none.
    pub fn take(&self, bytes: usize) -> Result<Taken, Refusal> {
        let full = || Refusal::excessive_load("what you asked for before is still on its way", FULL);
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.0.most);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| full())?;
        let mut taken = Taken { from: None, bytes };
        if let Some(outer) = &self.0.outer {
            match outer.take(bytes) {
                Ok(mut outer) => outer.forget(),
                Err(refusal) => {
                    self.0.used.fetch_sub(bytes, Ordering::Relaxed);
                    return Err(refusal);
                }
            }
        }
        taken.from = Some(self.clone());
        Ok(taken)
    }

    /// Bytes taken now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    fn give(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(outer) = &self.0.outer {
            outer.give(bytes);
        }
    }
}

impl Taken {
    /// Up to `bytes` of it, for a part of what it was taken for.
    pub fn split(&mut self, bytes: usize) -> Taken {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Taken { from: self.from.clone(), bytes }
    }

    /// Takes more from the same room. Refused: there is none; what was taken stays.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        if let Some(room) = &self.from {
            room.take(bytes)?.forget();
            self.bytes += bytes;
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.from = None;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(room) = &self.from {
            room.give(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request_error;
    use proptest::prelude::*;

    #[test]
    fn a_session_takes_no_more_than_its_own_and_all_no_more_than_the_listener_s() {
        let listener = Room::new(100);
        let (a, b) = (listener.inside(60), listener.inside(60));
        let first = a.take(60).unwrap();
        let refused = a.take(1).unwrap_err();
        assert!(refused.code == request_error::EXCESSIVE_LOAD && refused.retry_after.is_some());
        assert!(b.take(41).is_err());
        assert_eq!((b.used(), listener.used()), (0, 60), "nothing is kept of what was refused");
        let mut second = b.take(40).unwrap();
        assert!(second.grow(1).is_err());
        let part = second.split(15);
        drop((first, second));
        assert_eq!((a.used(), b.used(), listener.used()), (0, 15, 15));
        drop(part);
        assert_eq!(listener.used(), 0);
    }

    proptest! {
        #[test]
        fn all_comes_back(steps in proptest::collection::vec((0..2usize, 0..80usize, 0..80usize), 0..40)) {
            let outer = Room::new(200);
            let rooms = [outer.inside(120), outer.inside(150)];
            let mut held: Vec<Taken> = Vec::new();
            for (room, bytes, part) in steps {
                if let Ok(mut taken) = rooms[room].take(bytes) {
                    held.push(taken.split(part));
                    held.push(taken);
                } else if !held.is_empty() {
                    held.remove(0);
                }
                prop_assert!(outer.used() <= 200);
                prop_assert_eq!(outer.used(), held.iter().map(|t| t.bytes).sum::<usize>());
            }
            held.clear();
            prop_assert_eq!((outer.used(), rooms[0].used(), rooms[1].used()), (0, 0, 0));
        }
    }
}
