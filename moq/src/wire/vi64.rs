//! The variable-length integer of drafts 17 and later (draft-18 section 1.4.1), and the reader everything is decoded with.

use super::WireError;
use bytes::Bytes;

/// Appends `value` in its shortest form.
pub fn put_vi64(out: &mut Vec<u8>, value: u64) {
    let bits = 64 - value.leading_zeros() as usize;
    if bits > 56 {
        out.push(0xff);
        out.extend_from_slice(&value.to_be_bytes());
        return;
    }
    // n bytes hold 7n bits.
    let len = bits.div_ceil(7).max(1);
    let bytes = value.to_be_bytes();
    let at = out.len();
    out.extend_from_slice(&bytes[8 - len..]);
    out[at] |= !(0xff_u8.checked_shr(len as u32 - 1).unwrap_or(0));
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_vi64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A cursor over bytes that are there.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    /// From the first byte.
    pub const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, len: bytes.len() }
    }

    /// Bytes read so far.
    pub const fn consumed(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self.rest.split_first().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Two bytes, big endian.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A variable-length integer; longer forms than needed are valid.
    pub fn vi64(&mut self) -> Result<u64, WireError> {
        let first = *self.rest.first().ok_or(WireError::Short)?;
        let extra = first.leading_ones() as usize;
        let bytes = self.take(1 + extra)?;
        let mut value = if extra >= 7 { 0 } else { u64::from(first) & (0x7f >> extra) };
        for b in &bytes[1..] {
            value = value << 8 | u64::from(*b);
        }
        Ok(value)
    }

    /// `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// A length, refused above `limit`, and that many bytes.
    pub fn bytes(&mut self, limit: usize, reason: &'static str) -> Result<&'a [u8], WireError> {
        let n = self.vi64()?;
        match usize::try_from(n) {
            Ok(n) if n <= limit => self.take(n),
            _ => Err(WireError::violation(reason)),
        }
    }

    /// Everything that is left.
    pub fn remaining(&mut self) -> Bytes {
        Bytes::copy_from_slice(std::mem::take(&mut self.rest))
    }
}
