//! An object: the unit that is pulled, encoded, carried, repaired, cached and served.

use bytes::Bytes;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// BLAKE3-256 of an object's bytes as carried (transfer bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of one contiguous piece.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// Lower-case hexadecimal, 64 characters.
    pub fn to_hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Reads 64 hexadecimal characters.
    pub fn from_hex(s: &str) -> Option<Digest> {
        blake3::Hash::from_hex(s).ok().map(|h| Digest(*h.as_bytes()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// What an object is to the presentation. Decides how it is kept and how long it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ObjectKind {
    /// A playlist or an MPD; a newer version replaces an older one of the same URL.
    Manifest,
    /// An initialization segment (EXT-X-MAP, DASH Initialization).
    Init,
    /// A media segment, subtitles included.
    #[default]
    Media,
    /// Anything else (keys when the operator allows them, images).
    Other,
}

impl ObjectKind {
    /// The word used on the wire (`mahp:Kind`) and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Manifest => "manifest",
            ObjectKind::Init => "init",
            ObjectKind::Media => "media",
            ObjectKind::Other => "other",
        }
    }

    /// Reads the word of [`ObjectKind::as_str`]; unknown words are `Other`.
    pub fn from_word(s: &str) -> ObjectKind {
        match s {
            "manifest" => ObjectKind::Manifest,
            "init" => ObjectKind::Init,
            "media" => ObjectKind::Media,
            _ => ObjectKind::Other,
        }
    }
}

/// A part of a resource: bytes `first..=last` of a file of `complete` bytes (HLS EXT-X-BYTERANGE, DASH mediaRange,
/// blocks of a DASH SegmentBase file).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    /// First byte.
    pub first: u64,
    /// Last byte, inclusive.
    pub last: u64,
    /// Length of the whole file where the origin told it.
    pub complete: Option<u64>,
}

impl ByteRange {
    /// Number of bytes.
    #[allow(clippy::len_without_is_empty)] // a range is never empty
    pub const fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// What is known of an object: the origin's URL and headers worth keeping, length, digest, media time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectMeta {
    /// The URL a player (through the receiver) asks for: absolute, the origin's, before redirects. With `range`, the file's.
    pub url: String,
    /// Where redirects led, when that differs from `url`: the base for relative references of a manifest.
    pub final_url: Option<String>,
    /// Set when this object is a part of the file at `url`.
    pub range: Option<ByteRange>,
    /// Manifest, init, media, other.
    pub kind: ObjectKind,
    /// Content-Type of the origin.
    pub content_type: Option<String>,
    /// ETag of the origin, with quotes.
    pub etag: Option<String>,
    /// Last-Modified of the origin, as sent.
    pub last_modified: Option<String>,
    /// Cache-Control of the origin, as sent.
    pub cache_control: Option<String>,
    /// Bytes of the object as carried and served (we carry decoded bodies: no Content-Encoding).
    pub length: u64,
    /// BLAKE3-256 of those bytes. Objects of foreign senders have none.
    pub digest: Option<Digest>,
    /// Presentation time of the first sample, where the manifest tells it.
    pub media_time: Option<Duration>,
    /// Duration of media in it.
    pub duration: Option<Duration>,
    /// When the origin made it available at the sender, Unix milliseconds: receivers show delay with it. 0: long before
    /// ([`ObjectMeta::is_past`]).
    pub available_at: Option<u64>,
}

impl ObjectMeta {
    /// Of a live channel, but from before what its sender began with: an EVENT playlist's past, sent when there is time. Says
    /// nothing of what comes next, and nobody waits for it unasked.
    pub fn is_past(&self) -> bool {
        self.kind == ObjectKind::Media && self.available_at == Some(0)
    }

    /// Bytes that its strings take: others choose how long they are, so whoever keeps a description counts them.
    pub fn heap_bytes(&self) -> u64 {
        let ObjectMeta { url, final_url, content_type, etag, last_modified, cache_control, .. } = self;
        let optional = [final_url, content_type, etag, last_modified, cache_control];
        optional.into_iter().flatten().chain([url]).map(|s| s.capacity() as u64).sum()
    }

    /// Stands for the whole description where only equality matters: equal for equal ones, and for no others.
    pub fn fingerprint(&self) -> Digest {
        let mut hasher = Fingerprint(blake3::Hasher::new());
        self.hash(&mut hasher);
        Digest(*hasher.0.finalize().as_bytes())
    }
}

/// Collects what `Hash` writes: nobody can make two descriptions of one fingerprint, as with a hash of 64 bits.
struct Fingerprint(blake3::Hasher);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// An object with its bytes, in one piece, as the sender has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is. `length` and `digest` must be those of `data`.
    pub meta: ObjectMeta,
    /// Its bytes.
    pub data: Bytes,
}

impl Object {
    /// Fills in `length` and `digest` from `data`.
    pub fn new(mut meta: ObjectMeta, data: Bytes) -> Object {
        meta.length = data.len() as u64;
        meta.digest = Some(Digest::of(&data));
        Object { meta, data }
    }
}

/// The bytes of a received object: source blocks in order, not copied together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    chunks: Vec<Bytes>,
    len: u64,
}

impl Payload {
    /// From pieces in order; empty pieces are left out.
    pub fn from_chunks(chunks: impl IntoIterator<Item = Bytes>) -> Payload {
        let chunks: Vec<Bytes> = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        let len = chunks.iter().map(|c| c.len() as u64).sum();
        Payload { chunks, len }
    }

    /// Number of bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Bytes `first..=last` as pieces that share memory with this payload. Bounds are clamped to the length.
    pub fn slice(&self, first: u64, last: u64) -> Payload {
        let mut out = Vec::new();
        let mut at = 0u64;
        for chunk in &self.chunks {
            let end = at + chunk.len() as u64;
            let from = first.max(at);
            let to = last.saturating_add(1).min(end);
            if from < to {
                // Both differences are below the chunk's length, which is a usize.
                out.push(chunk.slice((from - at) as usize..(to - at) as usize));
            }
            at = end;
        }
        Payload::from_chunks(out)
    }

    /// BLAKE3-256 over all pieces.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for chunk in &self.chunks {
            hasher.update(chunk);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// One contiguous copy (no copy when there is one piece).
    pub fn to_bytes(&self) -> Bytes {
        match self.chunks.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(b: Bytes) -> Payload {
        Payload::from_chunks([b])
    }
}
