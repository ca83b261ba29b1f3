//! Message parameters (draft-18 section 10.2) and subscription filters (section 5.1.2).

use super::{Location, Namespace, Reader, WireError, put_bytes, put_vi64};
use bytes::Bytes;

/// Which objects of a track a subscription wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// From the group behind the largest one.
    NextGroup,
    /// From the object behind the largest one.
    LargestObject,
    /// From here on.
    From(Location),
    /// From here to the end of a group.
    Range(Location, u64),
}

impl Filter {
    fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Filter::NextGroup => put_vi64(&mut out, 1),
            Filter::LargestObject => put_vi64(&mut out, 2),
            Filter::From(start) => {
                put_vi64(&mut out, 3);
                start.encode(&mut out);
            }
            Filter::Range(start, end_group) => {
                put_vi64(&mut out, 4);
                start.encode(&mut out);
                put_vi64(&mut out, end_group.saturating_sub(start.group));
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Filter, WireError> {
        let r = &mut Reader::new(bytes);
        let filter = match r.vi64()? {
            1 => Filter::NextGroup,
            2 => Filter::LargestObject,
            3 => Filter::From(Location::decode(r)?),
            4 => {
                let start = Location::decode(r)?;
                let end = start.group.checked_add(r.vi64()?);
                Filter::Range(start, end.ok_or(WireError::violation("end group is too large"))?)
            }
            _ => return Err(WireError::violation("unknown subscription filter")),
        };
        if r.is_empty() { Ok(filter) } else { Err(WireError::violation("subscription filter is too long")) }
    }
}

/// All parameters of the draft. An unknown one closes the session: the block cannot be parsed past it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// 0x02, milliseconds.
    pub object_delivery_timeout: Option<u64>,
    /// 0x03, may occur more than once.
    pub tokens: Vec<Bytes>,
    /// 0x04, milliseconds to wait for a publisher.
    pub rendezvous_timeout: Option<u64>,
    /// 0x06, milliseconds.
    pub subgroup_delivery_timeout: Option<u64>,
    /// 0x08, milliseconds.
    pub expires: Option<u64>,
    /// 0x09.
    pub largest: Option<Location>,
    /// 0x0A, milliseconds.
    pub fill_timeout: Option<u64>,
    /// 0x10.
    pub forward: Option<bool>,
    /// 0x20: 0 first, 255 last.
    pub subscriber_priority: Option<u8>,
    /// 0x21.
    pub filter: Option<Filter>,
    /// 0x22: whether descending.
    pub descending: Option<bool>,
    /// 0x32.
    pub new_group_request: Option<u64>,
    /// 0x34.
    pub namespace_prefix: Option<Namespace>,
}

/// Most authorization tokens in one message.
const TOKENS: usize = 8;

impl Params {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut block = Block::default();
        block.vi64(0x02, self.object_delivery_timeout);
        for token in &self.tokens {
            block.lp(0x03, Some(token));
        }
        block.vi64(0x04, self.rendezvous_timeout);
        block.vi64(0x06, self.subgroup_delivery_timeout);
        block.vi64(0x08, self.expires);
        if let Some(largest) = self.largest {
            block.key(0x09);
            largest.encode(&mut block.out);
        }
        block.vi64(0x0a, self.fill_timeout);
        block.u8(0x10, self.forward.map(u8::from));
        block.u8(0x20, self.subscriber_priority);
        block.lp(0x21, self.filter.map(Filter::encode).as_deref());
        block.u8(0x22, self.descending.map(|d| 1 + u8::from(d)));
        block.vi64(0x32, self.new_group_request);
        if let Some(prefix) = &self.namespace_prefix {
            block.key(0x34);
            prefix.encode(&mut block.out);
        }
        put_vi64(out, block.count);
        out.extend_from_slice(&block.out);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Params, WireError> {
        let count = r.vi64()?;
        let mut params = Params::default();
        let mut key = 0u64;
        for i in 0..count {
            let delta = r.vi64()?;
            if delta == 0 && i > 0 && key != 0x03 {
                return Err(WireError::violation("parameter twice"));
            }
            key = key.checked_add(delta).ok_or(WireError::violation("parameter type is too large"))?;
            params.decode_one(key, r)?;
        }
        Ok(params)
    }

    fn decode_one(&mut self, key: u64, r: &mut Reader<'_>) -> Result<(), WireError> {
        match key {
            0x02 => self.object_delivery_timeout = Some(r.vi64()?),
            0x03 => {
                let token = Bytes::copy_from_slice(r.bytes(usize::from(u16::MAX), "token is too long")?);
                if self.tokens.len() == TOKENS {
                    return Err(WireError::violation("too many authorization tokens"));
                }
                self.tokens.push(token);
            }
            0x04 => self.rendezvous_timeout = Some(r.vi64()?),
            0x06 => self.subgroup_delivery_timeout = Some(r.vi64()?),
            0x08 => self.expires = Some(r.vi64()?),
            0x09 => self.largest = Some(Location::decode(r)?),
            0x0a => self.fill_timeout = Some(r.vi64()?),
            0x10 => {
                self.forward = Some(match r.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(WireError::violation("FORWARD is neither 0 nor 1")),
                });
            }
            0x20 => self.subscriber_priority = Some(r.u8()?),
            0x21 => self.filter = Some(decode_filter(r)?),
            0x22 => {
                self.descending = Some(match r.u8()? {
                    1 => false,
                    2 => true,
                    _ => return Err(WireError::violation("GROUP_ORDER is neither 1 nor 2")),
                });
            }
            0x32 => self.new_group_request = Some(r.vi64()?),
            0x34 => self.namespace_prefix = Some(Namespace::decode(r)?),
            _ => return Err(WireError::violation("unknown message parameter")),
        }
        Ok(())
    }
}

fn decode_filter(r: &mut Reader<'_>) -> Result<Filter, WireError> {
    // The bytes are all there: a short filter is a wrong one.
    match Filter::decode(r.bytes(64, "subscription filter is too long")?) {
        Err(WireError::Short) => Err(WireError::violation("subscription filter is too short")),
        other => other,
    }
}

#[derive(Default)]
struct Block {
    out: Vec<u8>,
    count: u64,
    last: u64,
}

impl Block {
    fn key(&mut self, key: u64) {
        put_vi64(&mut self.out, key - self.last);
        self.last = key;
        self.count += 1;
    }

    fn vi64(&mut self, key: u64, value: Option<u64>) {
        if let Some(value) = value {
            self.key(key);
            put_vi64(&mut self.out, value);
        }
    }

    fn u8(&mut self, key: u64, value: Option<u8>) {
        if let Some(value) = value {
            self.key(key);
            self.out.push(value);
        }
    }

    fn lp(&mut self, key: u64, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.key(key);
            put_bytes(&mut self.out, value);
        }
    }
}
