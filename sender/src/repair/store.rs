//! Recently sent objects, for those who lack something of them: bounded, the one sent longest ago goes first.

use bytes::Bytes;
use mahp_common::fec::Blocks;
use mahp_common::fec::partition::raptorq_oti;
use mahp_common::repair::ObjectId;
use mahp_common::{Object, Sbn};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What an object costs beyond its bytes.
const OVERHEAD: u64 = 1 << 10;

/// An object that was sent.
#[derive(Debug)]
pub struct Kept {
    /// Its bytes.
    pub data: Bytes,
    /// Of the origin.
    pub content_type: Option<String>,
    /// How RaptorQ cuts it; none where it cannot.
    pub code: Option<Blocks>,
    /// K of each block.
    pub symbols: Vec<u32>,
}

impl Kept {
    /// Of an object that leaves in symbols of this size.
    pub fn new(object: &Object, symbol_size: u16) -> Kept {
        let oti = raptorq_oti(object.data.len() as u64, symbol_size);
        let code = oti.and_then(|oti| Blocks::of(&oti, u64::MAX).ok());
        let symbols = code.iter().flat_map(|b| (0..b.count()).map(|i| b.block_symbols(Sbn(i)))).collect();
        let content_type = object.meta.content_type.clone();
        Kept { data: object.data.clone(), content_type, code, symbols }
    }

    fn cost(&self) -> u64 {
        self.data.len() as u64 + OVERHEAD
    }
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    limit: u64,
    bytes: u64,
    sent: u64,
    objects: HashMap<ObjectId, (u64, Arc<Kept>)>,
    order: BTreeMap<u64, ObjectId>,
}

impl Store {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: u64) -> Store {
        Store { limit, bytes: 0, sent: 0, objects: HashMap::new(), order: BTreeMap::new() }
    }

    /// An object is being sent (again).
    pub fn insert(&mut self, id: ObjectId, kept: Kept) {
        self.remove(id);
        if kept.cost() > self.limit {
            return;
        }
        self.sent += 1;
        self.bytes += kept.cost();
        self.order.insert(self.sent, id);
        self.objects.insert(id, (self.sent, Arc::new(kept)));
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.order.first_key_value() else { return };
            self.remove(*oldest);
        }
    }

    /// An object that was sent not too long ago.
    pub fn get(&self, id: ObjectId) -> Option<Arc<Kept>> {
        self.objects.get(&id).map(|(_, kept)| kept.clone())
    }

    /// Bytes kept.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn remove(&mut self, id: ObjectId) {
        if let Some((at, kept)) = self.objects.remove(&id) {
            self.order.remove(&at);
            self.bytes -= kept.cost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::{ObjectMeta, Toi, Tsi};

    fn id(toi: u128) -> ObjectId {
        ObjectId { tsi: Tsi(1), toi: Toi(toi) }
    }

    fn kept(len: usize) -> Kept {
        Kept::new(&Object::new(ObjectMeta::default(), vec![7; len].into()), 1344)
    }

    #[test]
    fn the_one_sent_longest_ago_goes_first() {
        let mut store = Store::new(3 * (10_000 + OVERHEAD));
        for toi in 1..=3 {
            store.insert(id(toi), kept(10_000));
        }
        store.insert(id(1), kept(10_000)); // a carousel
        store.insert(id(4), kept(10_000));
        let here: Vec<u128> = (1..=4).filter(|t| store.get(id(*t)).is_some()).collect();
        assert_eq!(here, [1, 3, 4]);
        assert_eq!(store.bytes(), 3 * (10_000 + OVERHEAD));
        store.insert(id(5), kept(1_000_000));
        assert!(store.get(id(5)).is_none() && store.get(id(4)).is_some(), "too large for the store");
    }

    #[test]
    fn an_object_knows_its_blocks() {
        let kept = kept(2_000_000);
        assert_eq!(kept.symbols.iter().map(|k| u64::from(*k)).sum::<u64>(), 2_000_000u64.div_ceil(1344));
        assert_eq!(kept.symbols.len(), 2);
    }
}
