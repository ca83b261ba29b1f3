//! What VOD carousels keep of what they fetched: a bounded amount of memory, then a bounded temporary file without a name.
//! What finds no room is fetched again at each turn.

use bytes::Bytes;
use mahp_common::{Digest, Object, ObjectMeta};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Share of the budget that is memory, at most.
const MEMORY_MAX: u64 = 64 << 20;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    memory_left: u64,
    disk_left: u64,
    end: u64,
    tracks: usize,
    file: Option<Arc<File>>,
    kept: HashMap<(usize, usize), Kept>,
    by_digest: HashMap<Digest, (usize, usize)>,
}

#[derive(Clone, Debug)]
enum Kept {
    Memory(Box<Object>),
    Disk(Box<ObjectMeta>, u64),
}

impl Spool {
    /// Keeps at most `budget` bytes in all.
    pub fn new(budget: u64) -> Spool {
        let memory = MEMORY_MAX.min(budget);
        Spool(Arc::new(Mutex::new(Inner {
            memory_left: memory,
            disk_left: budget - memory,
            end: 0,
            tracks: 0,
            file: None,
            kept: HashMap::new(),
            by_digest: HashMap::new(),
        })))
    }

    /// A number for a new track.
    pub fn track(&self) -> usize {
        let mut inner = self.lock();
        inner.tracks += 1;
        inner.tracks
    }

    /// Keeps `object` under `key` (track, index) where there is room.
    pub async fn put(&self, key: (usize, usize), object: &Object) {
        let len = object.data.len() as u64;
        let (file, at) = {
            let mut inner = self.lock();
            if inner.kept.contains_key(&key) {
                return;
            }
            if len <= inner.memory_left {
                inner.memory_left -= len;
                inner.keep(key, &object.meta, Kept::Memory(Box::new(object.clone())));
                return;
            }
            if len > inner.disk_left {
                return;
            }
            let Some(file) = inner.open() else { return };
            let at = inner.end;
            inner.disk_left -= len;
            inner.end += len;
            (file, at)
        };
        let data = object.data.clone();
        let written = tokio::task::spawn_blocking(move || file.write_all_at(&data, at)).await;
        match written {
            Ok(Ok(())) => {
                self.lock().keep(key, &object.meta, Kept::Disk(Box::new(object.meta.clone()), at));
            }
            Ok(Err(e)) => {
                tracing::warn!(
                    "temporary file of the carousel: {e}; what finds no room in memory is fetched again"
                );
                self.lock().disk_left = 0;
            }
            Err(_) => {}
        }
    }

    /// What was kept under `key`.
    pub async fn get(&self, key: (usize, usize)) -> Option<Object> {
        let (meta, at, file) = {
            let inner = self.lock();
            match inner.kept.get(&key)? {
                Kept::Memory(object) => return Some((**object).clone()),
                Kept::Disk(meta, at) => (meta.clone(), *at, inner.file.clone()?),
            }
        };
        let len = usize::try_from(meta.length).ok()?;
        let read = tokio::task::spawn_blocking(move || -> io::Result<Bytes> {
            let mut data = vec![0; len];
            file.read_exact_at(&mut data, at)?;
            Ok(data.into())
        });
        // The digest of `meta` is that of the bytes written: a file that changed under us is noticed by receivers, and here first.
        let object = Object { data: read.await.ok()?.ok()?, meta: *meta };
        (Some(Digest::of(&object.data)) == object.meta.digest).then_some(object)
    }

    /// The object with these bytes, if some track keeps it.
    pub async fn find(&self, digest: Digest) -> Option<Object> {
        let key = *self.lock().by_digest.get(&digest)?;
        self.get(key).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, key: (usize, usize), meta: &ObjectMeta, kept: Kept) {
        if let Some(digest) = meta.digest {
            self.by_digest.insert(digest, key);
        }
        self.kept.insert(key, kept);
    }

    fn open(&mut self) -> Option<Arc<File>> {
        if self.file.is_none() {
            match nameless_file() {
                Ok(file) => self.file = Some(Arc::new(file)),
                Err(e) => {
                    tracing::warn!(
                        "no temporary file for the carousel: {e}; what finds no room in memory is fetched again"
                    );
                    self.disk_left = 0;
                }
            }
        }
        self.file.clone()
    }
}

/// A file that vanishes with the process, however it ends.
fn nameless_file() -> io::Result<File> {
    let session = crate::key::random_u64().map_err(|e| io::Error::other(e.message))?;
    let path = std::env::temp_dir().join(format!("mahp-sender-{session:016x}"));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(n: u8, len: usize) -> Object {
        Object::new(ObjectMeta { url: format!("http://o/{n}"), ..ObjectMeta::default() }, vec![n; len].into())
    }

    #[tokio::test]
    async fn keeps_in_memory_then_on_disk_then_not() {
        let spool = Spool::new(MEMORY_MAX + 100);
        let big = object(1, MEMORY_MAX as usize - 10);
        spool.put((0, 0), &big).await;
        for n in 1..=3u8 {
            spool.put((0, n.into()), &object(n, 60)).await;
        }
        assert_eq!(spool.get((0, 0)).await, Some(big));
        assert_eq!(spool.get((0, 1)).await, Some(object(1, 60)), "from the file");
        assert_eq!(spool.get((0, 2)).await, None, "no room");
        assert_eq!(spool.get((1, 0)).await, None, "another track");
        assert_eq!(spool.find(Digest::of(&[1; 60])).await, Some(object(1, 60)));
        assert_eq!(spool.find(Digest::of(&[2; 60])).await, None);
    }
}
