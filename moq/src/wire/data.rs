//! Data streams (draft-18 section 11): subgroups of a subscription, records of a FETCH.

use super::{Location, PROPERTIES_BYTES, Reader, SessionCode, WireError, put_bytes, put_vi64};
use bytes::Bytes;

const FETCH_HEADER: u64 = 0x05;
const SETUP: u64 = 0x2f00;
const PADDING: u64 = 0x132b_3e28;

/// What a unidirectional stream begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamHeader {
    /// The control stream: a SETUP message begins with this type, nothing was consumed.
    Control,
    /// Objects of a subscription.
    Subgroup(SubgroupHeader),
    /// Objects of the FETCH of this Request ID.
    Fetch(u64),
    /// Zeroes to throw away.
    Padding,
}

impl StreamHeader {
    /// Reads it. For [`StreamHeader::Control`] the reader stays where it was.
    pub fn decode(r: &mut Reader<'_>) -> Result<StreamHeader, WireError> {
        let start = r.clone();
        match r.vi64()? {
            SETUP => {
                *r = start;
                Ok(StreamHeader::Control)
            }
            FETCH_HEADER => Ok(StreamHeader::Fetch(r.vi64()?)),
            PADDING => Ok(StreamHeader::Padding),
            // 0b0XX1XXXX
            kind @ 0x10..=0x7f if kind & 0x10 != 0 => {
                SubgroupHeader::decode(kind, r).map(StreamHeader::Subgroup)
            }
            _ => Err(WireError::violation("unknown stream type")),
        }
    }

    /// The header of the stream that answers a FETCH.
    pub fn encode_fetch(request: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_vi64(&mut out, FETCH_HEADER);
        put_vi64(&mut out, request);
        out
    }
}

/// SUBGROUP_HEADER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubgroupHeader {
    /// Which track.
    pub alias: u64,
    /// Which group.
    pub group: u64,
    /// Which subgroup; none: the ID of the first object.
    pub subgroup: Option<u64>,
    /// 0 first, 255 last; none: the track's.
    pub priority: Option<u8>,
    /// Whether each object has properties.
    pub properties: bool,
    /// Whether the group ends with this stream's FIN.
    pub end_of_group: bool,
}

impl SubgroupHeader {
    fn decode(kind: u64, r: &mut Reader<'_>) -> Result<SubgroupHeader, WireError> {
        let mode = kind & 0x06;
        if mode == 0x06 {
            return Err(WireError::violation("reserved subgroup mode"));
        }
        Ok(SubgroupHeader {
            alias: r.vi64()?,
            group: r.vi64()?,
            subgroup: match mode {
                0x00 => Some(0),
                0x02 => None,
                _ => Some(r.vi64()?),
            },
            priority: if kind & 0x20 == 0 { Some(r.u8()?) } else { None },
            properties: kind & 0x01 != 0,
            end_of_group: kind & 0x08 != 0,
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mode = match self.subgroup {
            Some(0) => 0x00,
            None => 0x02,
            Some(_) => 0x04,
        };
        let kind = 0x10
            | mode
            | u64::from(self.properties)
            | u64::from(self.end_of_group) << 3
            | u64::from(self.priority.is_none()) << 5;
        let mut out = Vec::new();
        put_vi64(&mut out, kind);
        put_vi64(&mut out, self.alias);
        put_vi64(&mut out, self.group);
        if let Some(subgroup) = self.subgroup.filter(|s| *s != 0) {
            put_vi64(&mut out, subgroup);
        }
        out.extend(self.priority);
        out
    }
}

/// What stands before an object's payload on a subgroup stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubgroupObject {
    /// Object ID.
    pub object: u64,
    /// Properties as they came.
    pub properties: Bytes,
    /// Bytes of payload that follow.
    pub len: u64,
    /// 0 normal, 3 end of group, 4 end of track.
    pub status: u64,
}

impl SubgroupObject {
    /// Reads the fields before the payload. `prior`: the ID of the object before it on this stream.
    pub fn decode(
        r: &mut Reader<'_>,
        header: &SubgroupHeader,
        prior: Option<u64>,
    ) -> Result<SubgroupObject, WireError> {
        let delta = r.vi64()?;
        let object = match prior {
            None => Some(delta),
            Some(prior) => prior.checked_add(delta).and_then(|o| o.checked_add(1)),
        }
        .ok_or(WireError::violation("object ID is too large"))?;
        let properties = if header.properties { properties(r)? } else { Bytes::new() };
        let len = r.vi64()?;
        let status = if len == 0 { r.vi64()? } else { 0 };
        match status {
            0 => {}
            3 | 4 if properties.is_empty() => {}
            _ => return Err(WireError::violation("object status")),
        }
        Ok(SubgroupObject { object, properties, len, status })
    }

    /// The fields before the payload.
    pub fn encode(&self, header: &SubgroupHeader, prior: Option<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        put_vi64(&mut out, prior.map_or(self.object, |p| self.object.saturating_sub(p).saturating_sub(1)));
        if header.properties {
            put_bytes(&mut out, &self.properties);
        }
        put_vi64(&mut out, self.len);
        if self.len == 0 {
            put_vi64(&mut out, self.status);
        }
        out
    }
}

fn properties(r: &mut Reader<'_>) -> Result<Bytes, WireError> {
    let bytes = r.bytes(PROPERTIES_BYTES, "object properties are too long")?;
    check_properties(bytes)?;
    Ok(Bytes::copy_from_slice(bytes))
}

/// Walks Key-Value-Pairs (draft-18 section 1.4.3): unknown ones are kept as they are, malformed ones refused.
fn check_properties(bytes: &[u8]) -> Result<(), WireError> {
    let malformed =
        WireError::Violation { code: SessionCode::KeyValueFormatting, reason: "object properties" };
    let r = &mut Reader::new(bytes);
    let mut key = 0u64;
    while !r.is_empty() {
        key = r.vi64().ok().and_then(|d| key.checked_add(d)).ok_or(malformed)?;
        let value = if key.is_multiple_of(2) {
            r.vi64().map(|_| ())
        } else {
            r.bytes(usize::from(u16::MAX), "object property").map(|_| ())
        };
        value.map_err(|_| malformed)?;
    }
    Ok(())
}

/// One record of a FETCH stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchRecord {
    /// An object; its payload of `len` bytes follows.
    Object {
        /// Where.
        at: Location,
        /// Subgroup ID; none for an object published as a datagram.
        subgroup: Option<u64>,
        /// 0 first, 255 last.
        priority: u8,
        /// Properties as they came.
        properties: Bytes,
        /// Bytes of payload that follow.
        len: u64,
    },
    /// No object up to here, as far as is known (`false`: it is not known).
    EndOfRange(Location, bool),
}

const SUBGROUP_PRIOR: u64 = 1;
const SUBGROUP_NEXT: u64 = 2;
const SUBGROUP_PRESENT: u64 = 3;
const OBJECT_PRESENT: u64 = 0x04;
const GROUP_PRESENT: u64 = 0x08;
const PRIORITY_PRESENT: u64 = 0x10;
const PROPERTIES_PRESENT: u64 = 0x20;
const DATAGRAM: u64 = 0x40;
const END_OF_ABSENT_RANGE: u64 = 0x8c;
const END_OF_UNKNOWN_RANGE: u64 = 0x10c;

#[derive(Clone, Copy, Debug, Default)]
struct Prior {
    at: Option<Location>,
    subgroup: Option<u64>,
    priority: Option<u8>,
}

/// Decodes the records of one FETCH stream.
#[derive(Clone, Debug, Default)]
pub struct FetchDecoder {
    prior: Prior,
    descending: bool,
}

impl FetchDecoder {
    /// For a FETCH in this group order.
    pub fn new(descending: bool) -> FetchDecoder {
        FetchDecoder { prior: Prior::default(), descending }
    }

    /// The next record up to its payload. Nothing changes on [`WireError::Short`].
    pub fn decode(&mut self, r: &mut Reader<'_>) -> Result<FetchRecord, WireError> {
        let flags = r.vi64()?;
        match flags {
            END_OF_ABSENT_RANGE | END_OF_UNKNOWN_RANGE => {
                let at = self.end_of_range(r)?;
                self.prior.at = Some(at);
                return Ok(FetchRecord::EndOfRange(at, flags == END_OF_ABSENT_RANGE));
            }
            0..=0x7f => {}
            _ => return Err(WireError::violation("unknown fetch flags")),
        }
        let first = "first fetch record refers to one before it";
        let missing = WireError::violation(first);
        let group = self.group(flags & GROUP_PRESENT != 0, r)?;
        let subgroup = match flags & 3 {
            _ if flags & DATAGRAM != 0 => None,
            SUBGROUP_PRIOR => Some(self.prior.subgroup.ok_or(missing)?),
            SUBGROUP_NEXT => {
                let prior = self.prior.subgroup.ok_or(missing)?;
                Some(prior.checked_add(1).ok_or(WireError::violation("subgroup ID is too large"))?)
            }
            SUBGROUP_PRESENT => Some(r.vi64()?),
            _ => Some(0),
        };
        let object = self.object(flags, r)?;
        let priority =
            if flags & PRIORITY_PRESENT != 0 { r.u8()? } else { self.prior.priority.ok_or(missing)? };
        let properties = if flags & PROPERTIES_PRESENT != 0 { properties(r)? } else { Bytes::new() };
        let len = r.vi64()?;
        let at = Location { group, object };
        self.prior =
            Prior { at: Some(at), subgroup: subgroup.or(self.prior.subgroup), priority: Some(priority) };
        Ok(FetchRecord::Object { at, subgroup, priority, properties, len })
    }

    /// Group ID and Object ID of an End of Range indicator, coded as those of an object.
    fn end_of_range(&self, r: &mut Reader<'_>) -> Result<Location, WireError> {
        let group = self.group(true, r)?;
        Ok(Location { group, object: r.vi64()? })
    }

    fn group(&self, present: bool, r: &mut Reader<'_>) -> Result<u64, WireError> {
        let too_large = WireError::violation("group ID is out of range");
        match (self.prior.at, present) {
            (None, false) => Err(WireError::violation("first fetch record has no group")),
            (None, true) => r.vi64(),
            (Some(prior), false) => Ok(prior.group),
            (Some(prior), true) => {
                let step = r.vi64()?.checked_add(1).ok_or(too_large)?;
                let group = if self.descending {
                    prior.group.checked_sub(step)
                } else {
                    prior.group.checked_add(step)
                };
                group.ok_or(too_large)
            }
        }
    }

    fn object(&self, flags: u64, r: &mut Reader<'_>) -> Result<u64, WireError> {
        let too_large = WireError::violation("object ID is too large");
        if flags & OBJECT_PRESENT == 0 {
            let prior = self.prior.at.ok_or(WireError::violation("first fetch record has no object"))?;
            return prior.object.checked_add(1).ok_or(too_large);
        }
        let delta = r.vi64()?;
        match self.prior.at {
            Some(prior) if flags & GROUP_PRESENT == 0 => prior.object.checked_add(delta).ok_or(too_large),
            _ => Ok(delta),
        }
    }
}

/// Encodes the records of one FETCH stream, ascending or descending by group.
#[derive(Clone, Debug, Default)]
pub struct FetchEncoder {
    prior: Option<Location>,
    priority: Option<u8>,
}

impl FetchEncoder {
    /// The bytes before the payload.
    pub fn encode(
        &mut self,
        at: Location,
        subgroup: u64,
        priority: u8,
        properties: &[u8],
        len: u64,
    ) -> Vec<u8> {
        let mut flags = if subgroup == 0 { 0 } else { SUBGROUP_PRESENT };
        let new_group = self.prior.is_none_or(|p| p.group != at.group);
        let new_object = new_group || self.prior.is_none_or(|p| p.object.checked_add(1) != Some(at.object));
        let new_priority = self.priority != Some(priority);
        flags |= if new_group { GROUP_PRESENT } else { 0 };
        flags |= if new_object { OBJECT_PRESENT } else { 0 };
        flags |= if new_priority { PRIORITY_PRESENT } else { 0 };
        flags |= if properties.is_empty() { 0 } else { PROPERTIES_PRESENT };
        let mut out = Vec::new();
        put_vi64(&mut out, flags);
        if new_group {
            self.put_group(&mut out, at.group);
        }
        if subgroup != 0 {
            put_vi64(&mut out, subgroup);
        }
        if new_object {
            let base = self.prior.filter(|_| !new_group).map_or(0, |p| p.object);
            put_vi64(&mut out, at.object.saturating_sub(base));
        }
        if new_priority {
            out.push(priority);
        }
        if !properties.is_empty() {
            put_bytes(&mut out, properties);
        }
        put_vi64(&mut out, len);
        (self.prior, self.priority) = (Some(at), Some(priority));
        out
    }

    /// End of Unknown Range: what is left out up to here exists, or may, and cannot be had. In another
    /// group than the record before.
    pub fn unknown(&mut self, at: Location) -> Vec<u8> {
        let mut out = Vec::new();
        put_vi64(&mut out, END_OF_UNKNOWN_RANGE);
        self.put_group(&mut out, at.group);
        put_vi64(&mut out, at.object);
        self.prior = Some(at);
        out
    }

    fn put_group(&self, out: &mut Vec<u8>, group: u64) {
        put_vi64(out, self.prior.map_or(group, |p| p.group.abs_diff(group).saturating_sub(1)));
    }
}
