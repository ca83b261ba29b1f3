//! What the clients of a listener may take: sessions, and room for their answers; for each address and all together.

use super::session::Limits;
use crate::plane::household;
use crate::room::Room;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Sessions of one address (IPv6: of one /64): more are refused. As a session subscribes to a track once, also what an address can
/// take of the subscriptions to a rendition.
pub(super) const SESSIONS_PER_ADDRESS: usize = 50;

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    room: Room,
    limits: Limits,
    households: Mutex<HashMap<IpAddr, Weak<Household>>>,
}

/// What the sessions of an address share.
#[derive(Debug)]
struct Household {
    room: Room,
}

/// The place of one session, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    household: Arc<Household>,
    limits: Limits,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Places {
        Places { room: Room::new(limits.listener_bytes), limits, households: Mutex::default() }
    }

    /// Bytes taken by all.
    pub(super) fn held(&self) -> usize {
        self.room.used()
    }

    /// A place for a session; none: its address has enough of them.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let households = &mut *self.households.lock().unwrap_or_else(PoisonError::into_inner);
        let address = household(address);
        let known = households.get(&address).and_then(Weak::upgrade);
        let household = known.unwrap_or_else(|| {
            households.retain(|_, household| household.strong_count() > 0);
            let new = Arc::new(Household { room: self.room.inside(self.limits.address_bytes) });
            households.insert(address, Arc::downgrade(&new));
            new
        });
        // This one is counted, too.
        let enough = Arc::strong_count(&household) > SESSIONS_PER_ADDRESS;
        (!enough).then_some(Place { household, limits: self.limits })
    }
}

impl Place {
    /// Of a session.
    pub(super) fn room(&self) -> Room {
        self.household.room.inside(self.limits.session_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_sessions_and_so_much_room() {
        let limits = Limits::default();
        let places = Places::new(limits);
        let [a, b, neighbour, other]: [IpAddr; 4] =
            ["192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|a| a.parse().unwrap());
        let mut held: Vec<Place> = (0..SESSIONS_PER_ADDRESS).map(|_| places.enter(a).unwrap()).collect();
        assert!(places.enter(a).is_none());
        held.pop();
        held.push(places.enter(a).expect("one has gone"));
        let _v6: Vec<Place> = (0..SESSIONS_PER_ADDRESS).map(|_| places.enter(b).unwrap()).collect();
        assert!(places.enter(neighbour).is_none(), "of the same /64");
        let other = places.enter(other).unwrap();

        let mut taken = Vec::new();
        while let Ok(more) = held[taken.len() % held.len()].room().take(1 << 20) {
            taken.push(more);
        }
        assert_eq!(taken.len() << 20, limits.address_bytes);
        assert!(other.room().take(limits.session_bytes).is_ok(), "others have theirs");
        assert!(other.room().take(limits.session_bytes + 1).is_err());
    }
}
