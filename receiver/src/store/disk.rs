//! Verified objects of films on disk, for carousels longer than memory.
//!
//! One file per object, named by its BLAKE3 digest, and an index that says which URL each belongs to. A file is written
//! beside and renamed, and verified by its digest each time it is read, so neither a crash nor a bad disk can make it
//! serve wrong bytes. This module decides and keeps account; [`Job`]s do the input and output on a thread for blocking work.

use super::PieceKey;
use crate::library::{ResourceKey, Source, Stored};
use mahp_common::{ByteRange, Digest, ObjectKind, ObjectMeta, Payload, Time};
use mahp_runtime::error::StartupError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const INDEX: &str = "index.jsonl";
const BESIDE: &str = ".new";
/// Objects waiting to be written are in memory outside its budget: no more than this, the rest is not written.
const PENDING_MAX: u64 = 16 << 20;
/// Objects in the index.
const ENTRIES_MAX: usize = 200_000;

/// One object in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    key: String,
    url: String,
    final_url: Option<String>,
    range: Option<(u64, u64, Option<u64>)>,
    kind: String,
    content_type: Option<String>,
    etag: Option<String>,
    last_modified: Option<String>,
    cache_control: Option<String>,
    length: u64,
    digest: String,
    media_time_ms: Option<u64>,
    duration_ms: Option<u64>,
    unicast: bool,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    digest: Digest,
    /// Position in the order of use.
    used: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    limit: u64,
    bytes: u64,
    entries: BTreeMap<PieceKey, Entry>,
    by_use: BTreeMap<u64, PieceKey>,
    /// Files and how many entries name them.
    files: HashMap<Digest, u32>,
    next_use: u64,
    jobs: mpsc::UnboundedSender<Job>,
    pending: u64,
    reading: HashSet<PieceKey>,
    dirty: bool,
}

/// Input or output to be done.
#[derive(Debug)]
pub enum Job {
    /// Write an object.
    Write {
        /// Where.
        path: PathBuf,
        /// What.
        stored: Arc<Stored>,
        /// Which.
        piece: PieceKey,
    },
    /// Read an object.
    Read {
        /// Where.
        path: PathBuf,
        /// Which.
        piece: PieceKey,
        /// What it must be.
        meta: Box<ObjectMeta>,
        /// Where it came from.
        source: Source,
    },
    /// Remove files.
    Remove(Vec<PathBuf>),
    /// Write the index.
    Index {
        /// Where.
        path: PathBuf,
        /// Its text.
        text: String,
    },
}

/// What came of a [`Job`].
#[derive(Debug)]
pub enum Done {
    /// An object was written, or could not be.
    Written {
        /// Which.
        piece: PieceKey,
        /// Its length.
        length: u64,
        /// Why not.
        error: Option<io::Error>,
    },
    /// An object was read; `None`: it was not there or not what it must be.
    Read {
        /// Which.
        piece: PieceKey,
        /// The object.
        stored: Option<Arc<Stored>>,
    },
    /// Nothing to tell.
    Nothing,
}

impl Job {
    /// Does it. Blocks.
    pub fn run(self, now: Time) -> Done {
        match self {
            Job::Write { path, stored, piece } => {
                let chunks = stored.payload.chunks().iter().map(|c| &c[..]);
                Done::Written { piece, length: stored.payload.len(), error: write(&path, chunks).err() }
            }
            Job::Read { path, piece, meta, source } => {
                let stored =
                    fs::read(&path).ok().filter(|b| meta.digest == Some(Digest::of(b))).map(|bytes| {
                        Arc::new(Stored {
                            meta: *meta,
                            payload: Payload::from(bytes::Bytes::from(bytes)),
                            source,
                            stored_at: now,
                            good_until: None,
                        })
                    });
                Done::Read { piece, stored }
            }
            Job::Remove(paths) => {
                for path in paths {
                    _ = fs::remove_file(path);
                }
                Done::Nothing
            }
            Job::Index { path, text } => {
                if let Err(e) = write(&path, [text.as_bytes()].into_iter()) {
                    tracing::warn!("W-DISK: {}: cannot be written: {e}", path.display());
                }
                Done::Nothing
            }
        }
    }
}

fn write<'a>(path: &Path, chunks: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(BESIDE);
    let mut file = fs::File::create(&beside)?;
    let written = chunks.into_iter().try_for_each(|chunk| file.write_all(chunk));
    drop(file);
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| _ = fs::remove_file(&beside))
}

impl Disk {
    /// Opens or makes a store in `folder`. What the index does not name is removed, what is not there is forgotten.
    ///
    /// # Errors
    /// `E-DISK`: the folder cannot be made, read or written.
    pub fn open(folder: &Path, limit: u64) -> Result<(Disk, mpsc::UnboundedReceiver<Job>), StartupError> {
        let trouble = |e: io::Error| {
            StartupError::usage(
                "E-DISK",
                format!("{}: {e}", folder.display()),
                "--disk with a folder that this user may write, or without a disk store: leave --disk away",
            )
        };
        fs::create_dir_all(folder).map_err(trouble)?;
        let probe = folder.join(format!("probe{BESIDE}"));
        fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(trouble)?;
        let (jobs, receiver) = mpsc::unbounded_channel();
        let mut disk = Disk {
            folder: folder.to_owned(),
            limit,
            bytes: 0,
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
            files: HashMap::new(),
            next_use: 0,
            jobs,
            pending: 0,
            reading: HashSet::new(),
            dirty: false,
        };
        let index = fs::read_to_string(folder.join(INDEX)).unwrap_or_default();
        for record in index.lines().filter_map(|l| serde_json::from_str::<Record>(l).ok()) {
            disk.load(record);
        }
        disk.remove_strays().map_err(trouble)?;
        disk.make_room(0);
        Ok((disk, receiver))
    }

    /// Bytes on disk and about to be.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bound.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Has an object written, if it is not there already, has a digest, and fits.
    pub fn write(&mut self, piece: &PieceKey, stored: &Arc<Stored>) {
        let length = stored.payload.len();
        let Some(digest) = stored.meta.digest else { return };
        let new = record(piece, &stored.meta, digest, stored.source);
        // A range of what is here whole does not replace it.
        let has_it = |old: &Entry| {
            old.digest == digest || (old.record.length > length && version(&old.record) == version(&new))
        };
        if self.entries.get(piece).is_some_and(has_it) {
            return;
        }
        let media = matches!(stored.meta.kind, ObjectKind::Media | ObjectKind::Init);
        if !media || length > self.limit || self.pending + length > PENDING_MAX {
            return;
        }
        self.forget(piece);
        self.make_room(if self.files.contains_key(&digest) { 0 } else { length });
        let is_new = !self.files.contains_key(&digest);
        self.insert(piece.clone(), new, digest);
        if is_new {
            self.pending += length;
            self.submit(Job::Write { path: self.path(digest), stored: stored.clone(), piece: piece.clone() });
        }
        self.dirty = true;
    }

    /// Has the pieces read that cover a request. False: they are not all here.
    pub fn request(&mut self, key: &ResourceKey, range: Option<(u64, Option<u64>)>) -> bool {
        let Some(pieces) = self.covering(key, range) else { return false };
        for piece in pieces {
            self.touch(&piece);
            let Some(entry) = self.entries.get(&piece) else { continue };
            if self.reading.insert(piece.clone()) {
                let source = if entry.record.unicast { Source::Unicast } else { Source::Multicast };
                let meta = Box::new(meta(&entry.record, entry.digest));
                self.submit(Job::Read { path: self.path(entry.digest), piece, meta, source });
            }
        }
        true
    }

    /// Takes note of what came of a job. Returns an object that was read, to be put into memory.
    pub fn done(&mut self, done: Done) -> Option<(PieceKey, Arc<Stored>)> {
        match done {
            Done::Written { piece, length, error } => {
                self.pending -= length;
                if let Some(error) = error {
                    tracing::warn!(
                        "W-DISK: {}: {error}; the object stays in memory only",
                        self.folder.display()
                    );
                    self.forget(&piece);
                }
                None
            }
            Done::Read { piece, stored } => {
                self.reading.remove(&piece);
                if stored.is_none() {
                    self.forget(&piece);
                }
                stored.map(|s| (piece, s))
            }
            Done::Nothing => None,
        }
    }

    /// Has the index written if it changed. Call now and then, and at the end.
    pub fn save(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let in_order = self.by_use.values().filter_map(|p| self.entries.get(p));
        let lines = in_order.filter_map(|e| serde_json::to_string(&e.record).ok());
        let text = lines.fold(String::new(), |mut text, line| {
            text.push_str(&line);
            text.push('\n');
            text
        });
        self.submit(Job::Index { path: self.folder.join(INDEX), text });
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_hex())
    }

    fn submit(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    fn load(&mut self, record: Record) {
        let Some(digest) = Digest::from_hex(&record.digest) else { return };
        let there = fs::metadata(self.path(digest)).is_ok_and(|m| m.is_file() && m.len() == record.length);
        if there && self.entries.len() < ENTRIES_MAX {
            let first = record.range.map_or(0, |r| r.0);
            let piece = PieceKey { resource: ResourceKey(record.key.as_str().into()), first };
            self.forget(&piece);
            self.insert(piece, record, digest);
        }
    }

    fn insert(&mut self, piece: PieceKey, record: Record, digest: Digest) {
        let references = self.files.entry(digest).or_default();
        if *references == 0 {
            self.bytes += record.length;
        }
        *references += 1;
        self.next_use += 1;
        self.by_use.insert(self.next_use, piece.clone());
        self.entries.insert(piece, Entry { record, digest, used: self.next_use });
    }

    fn forget(&mut self, piece: &PieceKey) {
        let Some(entry) = self.entries.remove(piece) else { return };
        self.by_use.remove(&entry.used);
        self.dirty = true;
        let Some(references) = self.files.get_mut(&entry.digest) else { return };
        *references -= 1;
        if *references == 0 {
            self.files.remove(&entry.digest);
            self.bytes -= entry.record.length;
            self.submit(Job::Remove(vec![self.path(entry.digest)]));
        }
    }

    fn make_room(&mut self, length: u64) {
        while self.bytes + length > self.limit || self.entries.len() >= ENTRIES_MAX {
            let Some((_, oldest)) = self.by_use.first_key_value().map(|(n, p)| (*n, p.clone())) else {
                return;
            };
            self.forget(&oldest);
        }
    }

    fn touch(&mut self, piece: &PieceKey) {
        self.next_use += 1;
        if let Some(entry) = self.entries.get_mut(piece) {
            self.by_use.remove(&entry.used);
            entry.used = self.next_use;
            self.by_use.insert(self.next_use, piece.clone());
        }
    }

    /// Pieces that cover a range, all of one version.
    fn covering(&self, key: &ResourceKey, range: Option<(u64, Option<u64>)>) -> Option<Vec<PieceKey>> {
        let from = PieceKey { resource: key.clone(), first: 0 };
        let all: Vec<(&PieceKey, &Record)> = self
            .entries
            .range(from..)
            .take_while(|(p, _)| p.resource == *key)
            .map(|(p, e)| (p, &e.record))
            .collect();
        let newest = all.last().map(|(_, r)| version(r))?;
        let pieces: Vec<_> = all.into_iter().filter(|(_, r)| version(r) == newest).collect();
        let (first, last) = range.unwrap_or((0, None));
        let last = match (last, newest.0) {
            (Some(last), Some(length)) => last.min(length.saturating_sub(1)),
            (None, Some(length)) => length.saturating_sub(1),
            (Some(last), None) => last,
            (None, None) => return None,
        };
        let mut found = Vec::new();
        let mut at = first;
        while at <= last {
            let end = |p: &PieceKey, r: &Record| p.first + r.length;
            let next = pieces
                .iter()
                .filter(|(p, r)| p.first <= at && end(p, r) > at)
                .max_by_key(|(p, r)| end(p, r))?;
            found.push(next.0.clone());
            at = end(next.0, next.1);
        }
        (!found.is_empty()).then_some(found)
    }

    fn remove_strays(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let digest = Digest::from_hex(name);
            // Only what can be ours is touched.
            let ours = name.strip_suffix(BESIDE).is_some_and(|n| n == INDEX || Digest::from_hex(n).is_some());
            if ours || digest.is_some_and(|d| !self.files.contains_key(&d)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// What identifies a version of a file, beyond its URL.
fn version(r: &Record) -> (Option<u64>, Option<&str>, Option<&str>) {
    (complete(r), r.etag.as_deref(), r.last_modified.as_deref())
}

fn complete(record: &Record) -> Option<u64> {
    match record.range {
        Some((_, _, complete)) => complete,
        None => Some(record.length),
    }
}

fn record(piece: &PieceKey, meta: &ObjectMeta, digest: Digest, source: Source) -> Record {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Record {
        key: piece.resource.0.to_string(),
        url: meta.url.clone(),
        final_url: meta.final_url.clone(),
        range: meta.range.map(|r| (r.first, r.last, r.complete)),
        kind: meta.kind.as_str().into(),
        content_type: meta.content_type.clone(),
        etag: meta.etag.clone(),
        last_modified: meta.last_modified.clone(),
        cache_control: meta.cache_control.clone(),
        length: meta.length,
        digest: digest.to_hex(),
        media_time_ms: meta.media_time.map(millis),
        duration_ms: meta.duration.map(millis),
        unicast: source == Source::Unicast,
    }
}

fn meta(record: &Record, digest: Digest) -> ObjectMeta {
    ObjectMeta {
        url: record.url.clone(),
        final_url: record.final_url.clone(),
        range: record.range.map(|(first, last, complete)| ByteRange { first, last, complete }),
        kind: ObjectKind::from_word(&record.kind),
        content_type: record.content_type.clone(),
        etag: record.etag.clone(),
        last_modified: record.last_modified.clone(),
        cache_control: record.cache_control.clone(),
        length: record.length,
        digest: Some(digest),
        media_time: record.media_time_ms.map(Duration::from_millis),
        duration: record.duration_ms.map(Duration::from_millis),
        available_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            Folder(std::env::temp_dir().join(format!("mahp-disk-{}-{n}", std::process::id())))
        }

        /// Bytes of objects really there.
        fn bytes(&self) -> u64 {
            fs::read_dir(&self.0)
                .unwrap()
                .map(|f| f.unwrap())
                .filter(|f| f.file_name() != INDEX)
                .map(|f| f.metadata().unwrap().len())
                .sum()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn piece(name: &str, first: u64) -> PieceKey {
        PieceKey { resource: ResourceKey(format!("https://h/{name}").into()), first }
    }

    fn object(name: &str, body: Vec<u8>, range: Option<ByteRange>) -> Arc<Stored> {
        let meta = ObjectMeta {
            url: format!("https://h/{name}"),
            range,
            length: body.len() as u64,
            digest: Some(Digest::of(&body)),
            etag: Some("\"1\"".into()),
            duration: Some(Duration::from_secs(2)),
            ..ObjectMeta::default()
        };
        let payload = Payload::from(bytes::Bytes::from(body));
        Arc::new(Stored { meta, payload, source: Source::Multicast, stored_at: Time::ZERO, good_until: None })
    }

    /// Runs all jobs; returns what was read.
    fn work(disk: &mut Disk, jobs: &mut mpsc::UnboundedReceiver<Job>) -> Vec<(PieceKey, Arc<Stored>)> {
        let mut read = Vec::new();
        while let Ok(job) = jobs.try_recv() {
            read.extend(disk.done(job.run(Time::ZERO)));
        }
        read
    }

    #[test]
    fn objects_survive_a_restart() {
        let folder = Folder::new();
        let (mut disk, mut jobs) = Disk::open(&folder.0, 1 << 20).unwrap();
        let whole = object("a.ts", vec![1; 5000], None);
        let part =
            object("b.mp4", vec![2; 100], Some(ByteRange { first: 50, last: 149, complete: Some(300) }));
        disk.write(&piece("a.ts", 0), &whole);
        disk.write(&piece("b.mp4", 50), &part);
        disk.save();
        work(&mut disk, &mut jobs);
        fs::write(folder.0.join(Digest::of(b"stray").to_hex()), b"stray").unwrap();
        fs::write(folder.0.join("not ours.txt"), b"x").unwrap();

        let (mut disk, mut jobs) = Disk::open(&folder.0, 1 << 20).unwrap();
        assert_eq!(disk.bytes(), 5100);
        assert_eq!(folder.bytes(), 5101, "the stray is gone, what is not ours is not");
        assert!(disk.request(&piece("a.ts", 0).resource, None));
        assert!(disk.request(&piece("b.mp4", 0).resource, Some((60, Some(80)))));
        assert!(!disk.request(&piece("b.mp4", 0).resource, None));
        assert!(!disk.request(&piece("c", 0).resource, None));
        let read = work(&mut disk, &mut jobs);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].1.payload, whole.payload);
        assert_eq!(read[0].1.meta, whole.meta);
        assert_eq!(read[1].1.meta, part.meta);
    }

    #[test]
    fn it_never_holds_more_than_its_bound() {
        let folder = Folder::new();
        let (mut disk, mut jobs) = Disk::open(&folder.0, 100_000).unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        for n in 0..300u32 {
            let body = vec![rng.u8(..); rng.usize(1..30_000)];
            disk.write(&piece(&(n % 50).to_string(), 0), &object("x", body, None));
            if rng.bool() {
                disk.request(&piece(&rng.u32(0..50).to_string(), 0).resource, None);
            }
            work(&mut disk, &mut jobs);
            assert!(disk.bytes() <= 100_000);
            assert_eq!(folder.bytes(), disk.bytes(), "step {n}");
        }
        disk.write(&piece("huge", 0), &object("huge", vec![0; 200_000], None));
        assert!(!disk.request(&piece("huge", 0).resource, None));
        drop(disk);
        // Without an index nothing is known, so nothing is kept.
        let (disk, _jobs) = Disk::open(&folder.0, 100_000).unwrap();
        assert_eq!((disk.bytes(), folder.bytes()), (0, 0));
    }

    #[test]
    fn a_damaged_file_is_not_served() {
        let folder = Folder::new();
        let (mut disk, mut jobs) = Disk::open(&folder.0, 1 << 20).unwrap();
        let stored = object("a", vec![1; 1000], None);
        disk.write(&piece("a", 0), &stored);
        work(&mut disk, &mut jobs);
        let mut bytes = vec![1; 1000];
        bytes[500] = 2;
        fs::write(folder.0.join(stored.meta.digest.unwrap().to_hex()), bytes).unwrap();
        assert!(disk.request(&piece("a", 0).resource, None));
        assert!(work(&mut disk, &mut jobs).is_empty());
        assert!(!disk.request(&piece("a", 0).resource, None), "forgotten");
        assert_eq!(disk.bytes(), 0);
    }

    #[test]
    fn equal_objects_share_a_file_and_pieces_are_covered() {
        let folder = Folder::new();
        let (mut disk, mut jobs) = Disk::open(&folder.0, 1 << 20).unwrap();
        for first in [0, 100, 200] {
            let range = ByteRange { first, last: first + 99, complete: Some(300) };
            disk.write(&piece("f", first), &object("f", vec![9; 100], Some(range)));
        }
        assert_eq!(disk.bytes(), 100);
        work(&mut disk, &mut jobs);
        assert!(disk.request(&piece("f", 0).resource, None));
        assert_eq!(work(&mut disk, &mut jobs).len(), 3);
        disk.forget(&piece("f", 0));
        work(&mut disk, &mut jobs);
        assert_eq!(folder.bytes(), 100);
        assert!(disk.request(&piece("f", 0).resource, Some((100, None))));
    }

    #[test]
    fn a_range_does_not_replace_the_whole() {
        let folder = Folder::new();
        let (mut disk, mut jobs) = Disk::open(&folder.0, 1 << 20).unwrap();
        let range = ByteRange { first: 0, last: 99, complete: Some(300) };
        let (whole, part) = (object("f", vec![9; 300], None), object("f", vec![9; 100], Some(range)));
        for (written, has) in [(&part, false), (&whole, true), (&part, true)] {
            disk.write(&piece("f", 0), written);
            work(&mut disk, &mut jobs);
            assert_eq!(disk.request(&piece("f", 0).resource, None), has);
            work(&mut disk, &mut jobs);
        }
        assert_eq!(disk.bytes(), 300);
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_with_advice() {
        let error = Disk::open(Path::new("/proc/nowhere"), 1).unwrap_err();
        assert_eq!((error.code, error.exit), ("E-DISK", 2));
    }
}
