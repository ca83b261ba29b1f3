//! Namespaces, track names and locations (draft-18 sections 1.4.2 and 2.4.1).

use super::{NAMESPACE_FIELDS, Reader, TRACK_NAME_BYTES, WireError, put_bytes, put_vi64};
use bytes::Bytes;
use std::fmt;

/// A tuple of byte strings.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Vec<Bytes>);

impl Namespace {
    /// From its fields. Empty fields and more than [`NAMESPACE_FIELDS`] of them cannot be sent.
    pub fn new<T: Into<Bytes>>(fields: impl IntoIterator<Item = T>) -> Namespace {
        Namespace(fields.into_iter().map(Into::into).collect())
    }

    /// Its fields.
    pub fn fields(&self) -> &[Bytes] {
        &self.0
    }

    /// Whether this one begins with the fields of `prefix`.
    pub fn starts_with(&self, prefix: &Namespace) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// What is left behind `prefix`.
    pub fn suffix(&self, prefix: &Namespace) -> Option<Namespace> {
        self.0.strip_prefix(prefix.0.as_slice()).map(|rest| Namespace(rest.to_vec()))
    }

    /// The fields of this one and then those of `suffix`.
    pub fn join(&self, suffix: &Namespace) -> Namespace {
        Namespace([self.0.as_slice(), suffix.0.as_slice()].concat())
    }

    /// Whether the first field begins with `.`: never an application's (draft-18 section 3.2.1).
    pub fn is_reserved(&self) -> bool {
        self.0.first().is_some_and(|f| f.starts_with(b"."))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_vi64(out, self.0.len() as u64);
        for field in &self.0 {
            put_bytes(out, field);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Namespace, WireError> {
        let count = r.vi64()?;
        if count > NAMESPACE_FIELDS as u64 {
            return Err(WireError::violation("namespace of more than 32 fields"));
        }
        let mut fields = Vec::new();
        let mut total = 0;
        for _ in 0..count {
            let field = r.bytes(TRACK_NAME_BYTES, "namespace field is too long")?;
            total += field.len();
            if field.is_empty() || total > TRACK_NAME_BYTES {
                return Err(WireError::violation("namespace with an empty field, or longer than 4096 bytes"));
            }
            fields.push(Bytes::copy_from_slice(field));
        }
        Ok(Namespace(fields))
    }
}

/// Written as in MSF URLs: fields joined by `-`, bytes other than letters, digits and `_` as `.hh`.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, field) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("-")?;
            }
            write_escaped(f, field)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for b in bytes {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => write!(f, "{}", *b as char)?,
            _ => write!(f, ".{b:02x}")?,
        }
    }
    Ok(())
}

/// A full track name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackName {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub name: Bytes,
}

impl TrackName {
    /// From both parts.
    pub fn new(namespace: Namespace, name: impl Into<Bytes>) -> TrackName {
        TrackName { namespace, name: name.into() }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.namespace.encode(out);
        put_bytes(out, &self.name);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<TrackName, WireError> {
        let namespace = Namespace::decode(r)?;
        let name = Bytes::copy_from_slice(r.bytes(TRACK_NAME_BYTES, "track name is too long")?);
        let total = name.len() + namespace.0.iter().map(Bytes::len).sum::<usize>();
        if total > TRACK_NAME_BYTES {
            return Err(WireError::violation("full track name is longer than 4096 bytes"));
        }
        Ok(TrackName { namespace, name })
    }
}

impl fmt::Display for TrackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}--", self.namespace)?;
        write_escaped(f, &self.name)
    }
}

impl fmt::Debug for TrackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Place of an object in a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Group ID.
    pub group: u64,
    /// Object ID.
    pub object: u64,
}

impl Location {
    /// From both parts.
    pub const fn new(group: u64, object: u64) -> Location {
        Location { group, object }
    }

    /// The next object of the group.
    pub const fn next(self) -> Location {
        Location { group: self.group, object: self.object.saturating_add(1) }
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        put_vi64(out, self.group);
        put_vi64(out, self.object);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Location, WireError> {
        Ok(Location { group: r.vi64()?, object: r.vi64()? })
    }
}

/// A range as FETCH writes it: `end` is one object behind the last; object 0 of `end` stands for its whole group
/// (draft-18 section 10.12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationRange {
    /// The first object.
    pub start: Location,
    /// One behind the last, or the whole group.
    pub end: Location,
}

impl LocationRange {
    /// Objects `first` up to, not including, `first + count` of one group; `count` is at least 1.
    pub const fn objects(group: u64, first: u64, count: u64) -> LocationRange {
        LocationRange { start: Location::new(group, first), end: Location::new(group, first + count) }
    }

    /// Whole groups, both ends included.
    pub const fn groups(first: u64, last: u64) -> LocationRange {
        LocationRange { start: Location::new(first, 0), end: Location::new(last, 0) }
    }

    /// The last location that belongs to it.
    pub const fn last(&self) -> Location {
        match self.end.object {
            0 => Location::new(self.end.group, u64::MAX),
            n => Location::new(self.end.group, n - 1),
        }
    }

    /// Whether `at` belongs to it.
    pub fn contains(&self, at: Location) -> bool {
        self.start <= at && at <= self.last()
    }

    /// Whether nothing can belong to it.
    pub fn is_empty(&self) -> bool {
        self.last() < self.start
    }
}
