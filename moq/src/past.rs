//! Objects that have left the live windows: got again from where they are kept, verified, one copy for all who ask at a time.

use crate::plane::{Boxed, Refusal};
use crate::wire::request_error;
use bytes::Bytes;
use mahp_common::repair::ObjectId;
use mahp_common::{ObjectMeta, Payload};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// Bytes of past objects in memory, of a channel: those on their way to whoever asked for them, and a few of the newest. Enough for
/// the largest object that a session carries.
pub(crate) const PAST_BYTES: usize = 32 << 20;
/// Of these, kept for whoever asks next.
const RECENT_BYTES: usize = 8 << 20;
/// Objects that are got at a time.
pub(crate) const LOADS: usize = 4;
/// Longest wait for a turn, and for room; then [`BUSY`].
const TURN: Duration = Duration::from_secs(2);
/// When to ask again.
const BUSY: Duration = Duration::from_secs(1);
/// Longest wait for one shelf.
const SHELF_TIME: Duration = Duration::from_secs(10);
/// Room is counted in KiB: permits are 32 bits.
const UNIT: usize = 1 << 10;

/// An object of the past.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its rendition.
    pub rendition: Arc<str>,
    /// Its number.
    pub id: ObjectId,
    /// Of its record: URL, range, kind, length, digest, content type.
    pub meta: Arc<ObjectMeta>,
    /// Only for symbols that are made of it: not worth more than these are, where they can be had themselves.
    pub for_symbols: bool,
}

/// A place where bytes of past objects are. What it gives is verified by whoever asks it.
pub trait Shelf: fmt::Debug + Send + Sync + 'static {
    /// The bytes of an object. Refused: it does not have them ([`Refusal::is_absence`]), or cannot tell now.
    fn get<'a>(&'a self, asked: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>>;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Past {
    /// Asked in this order.
    shelves: Vec<Arc<dyn Shelf>>,
    room: Arc<Semaphore>,
    turns: Semaphore,
    cells: Mutex<Cells>,
}

/// The object, and whether only symbols are made of it.
type Key = (ObjectId, bool);

/// One object that somebody has asked for.
type Cell = OnceCell<Result<Bytes, Refusal>>;

#[derive(Debug, Default)]
struct Cells {
    open: HashMap<Key, Weak<Cell>>,
    /// Oldest first.
    recent: VecDeque<(usize, Arc<Cell>)>,
}

impl Past {
    pub(crate) fn new(shelves: Vec<Arc<dyn Shelf>>) -> Past {
        Past {
            shelves,
            room: Arc::new(Semaphore::new(PAST_BYTES / UNIT)),
            turns: Semaphore::new(LOADS),
            cells: Mutex::default(),
        }
    }

    /// The bytes of an object: those of its record. Whoever asks meanwhile waits for the same.
    pub(crate) async fn get(&self, asked: &Asked) -> Result<Bytes, Refusal> {
        if self.shelves.is_empty() {
            return Err(gone());
        }
        let key = (asked.id, asked.for_symbols);
        let cell = self.cell(key);
        let result = cell.get_or_init(|| self.load(asked)).await.clone();
        self.lock().loaded(key, &cell, result.as_ref().ok().map(Bytes::len));
        result
    }

    fn cell(&self, key: Key) -> Arc<Cell> {
        let open = &mut self.lock().open;
        if let Some(cell) = open.get(&key).and_then(Weak::upgrade) {
            return cell;
        }
        open.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(Cell::new());
        open.insert(key, Arc::downgrade(&cell));
        cell
    }

    async fn load(&self, asked: &Asked) -> Result<Bytes, Refusal> {
        let busy = || Refusal::excessive_load("many ask for what is past", BUSY);
        let room = self.room(asked.meta.length).await.ok_or_else(busy)?;
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(busy()) };
        let mut refusal = gone();
        for shelf in &self.shelves {
            refusal = match tokio::time::timeout(SHELF_TIME, shelf.get(asked)).await {
                Ok(Ok(payload)) => match verified(payload, asked.meta.clone()).await {
                    Some(bytes) => return Ok(Bytes::from_owner(Roomy { bytes, _room: room })),
                    None => Refusal::does_not_exist("there are other bytes in its place now"),
                },
                Ok(Err(refusal)) => refusal,
                Err(_) => Refusal::new(request_error::TIMEOUT, "it could not be had in time"),
            };
        }
        Err(refusal)
    }

    /// Room for an object; none: there is none for now.
    async fn room(&self, length: u64) -> Option<OwnedSemaphorePermit> {
        let units = usize::try_from(length).ok()?.div_ceil(UNIT);
        let units = u32::try_from(units).ok().filter(|units| *units as usize <= PAST_BYTES / UNIT)?;
        if let Ok(room) = self.room.clone().try_acquire_many_owned(units) {
            return Some(room);
        }
        self.lock().recent.clear();
        tokio::time::timeout(TURN, self.room.clone().acquire_many_owned(units)).await.ok()?.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Cells> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cells {
    /// What could not be had is asked for anew by the next; what could is kept for a while.
    fn loaded(&mut self, key: Key, cell: &Arc<Cell>, length: Option<usize>) {
        let Some(length) = length else {
            if self.open.get(&key).is_some_and(|open| open.as_ptr() == Arc::as_ptr(cell)) {
                self.open.remove(&key);
            }
            return;
        };
        if length > RECENT_BYTES || self.recent.iter().any(|(_, c)| Arc::ptr_eq(c, cell)) {
            return;
        }
        self.recent.push_back((length, cell.clone()));
        while self.recent.iter().map(|(length, _)| length).sum::<usize>() > RECENT_BYTES {
            self.recent.pop_front();
        }
    }
}

/// Bytes that take room until the last who has them lets go.
struct Roomy {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Roomy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes in one piece, if they are those of the record.
async fn verified(payload: Payload, meta: Arc<ObjectMeta>) -> Option<Bytes> {
    if payload.len() != meta.length {
        return None;
    }
    let check = move || (Some(payload.digest()) == meta.digest).then(|| payload.to_bytes());
    tokio::task::spawn_blocking(check).await.ok()?
}

/// What an object is asked for that is kept nowhere.
pub(crate) fn gone() -> Refusal {
    Refusal::does_not_exist("no such object here (any more)")
}

#[cfg(test)]
mod tests;
