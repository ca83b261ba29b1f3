//! Where followers put objects: the queue of a rendition's flow, or a list in tests.

use mahp_common::{Object, Time};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// An object on its way to a flow.
#[derive(Clone, Debug)]
pub struct Item {
    /// The object.
    pub object: Object,
    /// When the origin listed it; what was known before has none.
    pub listed_at: Option<Time>,
    /// Live: it is late when its last packet leaves later than this after `listed_at`.
    pub late_after: Option<Duration>,
    /// Sent before: the carousel for late joiners.
    pub repeat: bool,
}

impl Item {
    /// An object without a deadline.
    pub fn new(object: Object) -> Item {
        Item { object, listed_at: None, late_after: None, repeat: false }
    }

    /// An object that was sent before.
    pub fn repeat(object: Object) -> Item {
        Item { repeat: true, ..Item::new(object) }
    }
}

/// Resolves when the flow has taken the object; at once when the flow is gone.
pub type PutFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes objects of one rendition, in order.
pub trait ObjectSink: Send + Sync + 'static {
    /// Puts `item` behind those before it, waiting for room.
    fn put(&self, item: Item) -> PutFuture;
}
