//! What a client may ask of the repair service: read strictly, and checked against the object, before anything is done.

use mahp_common::fec::Blocks;
use mahp_common::fec::raptorq::{ESI_END, ESI_MOQ_END};
use mahp_common::repair::ObjectId;
use mahp_common::{Esi, Sbn, Toi, Tsi};

/// Symbols beyond K that may be asked for at once.
const SPARE: u32 = 16;

/// A request for encoding symbols of one block: `tsi`, `toi`, `sbn`, `from`, `count` in the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolsAsk {
    /// The object.
    pub id: ObjectId,
    /// Its block.
    pub sbn: Sbn,
    /// The first symbol.
    pub from: Esi,
    /// How many.
    pub count: u32,
}

impl SymbolsAsk {
    /// Reads a query. None: a parameter is missing, is not in digits or is too large.
    pub fn parse(query: &str) -> Option<SymbolsAsk> {
        Some(SymbolsAsk {
            id: object_id(query)?,
            sbn: Sbn(number(query, "sbn")?.try_into().ok()?),
            from: Esi(number(query, "from")?.try_into().ok()?),
            count: number(query, "count")?.try_into().ok()?,
        })
    }

    /// Whether an object that is cut like this has the symbols, and they are those that HTTP may give.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self, code: &Blocks) -> Result<(), &'static str> {
        let symbols = code.block_symbols(self.sbn);
        if self.sbn.0 >= code.count() || self.count == 0 || self.count > symbols + SPARE {
            return Err("the object has no such block, or not so many symbols");
        }
        let end = self.from.0.checked_add(self.count);
        if self.from.0 < ESI_MOQ_END || end.is_none_or(|end| end > ESI_END) {
            return Err("encoding symbols from 8388608 to 16776191 are to be had here");
        }
        Ok(())
    }
}

/// `tsi` and `toi` of a query.
pub fn object_id(query: &str) -> Option<ObjectId> {
    Some(ObjectId { tsi: Tsi(number(query, "tsi")?), toi: Toi(number(query, "toi")?.into()) })
}

fn number(query: &str, name: &str) -> Option<u64> {
    let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    pair.bytes().all(|b| b.is_ascii_digit()).then(|| pair.parse().ok())?
}

/// The value of a Range header, `bytes=first-last`, `bytes=first-`, `bytes=-length`: first and last byte within `length` bytes.
pub fn one_range(value: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let end = length.checked_sub(1)?;
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => (length.saturating_sub(suffix.parse().ok().filter(|n| *n > 0)?), end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<usize>().ok()?.min(end)),
    };
    (range.0 <= range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        let ask = SymbolsAsk::parse("tsi=1&toi=4000000000&sbn=2&from=8388608&count=9").expect("good");
        assert_eq!((ask.id.toi, ask.sbn, ask.from, ask.count), (Toi(4_000_000_000), Sbn(2), Esi(1 << 23), 9));
        for bad in [
            "",
            "tsi=1&toi=2&sbn=3&from=4",
            "tsi=-1&toi=2&sbn=3&from=4&count=5",
            "tsi=1&toi=2&sbn=99999999999&from=4&count=5",
            "tsi=1&toi=+2&sbn=3&from=4&count=5",
        ] {
            assert_eq!(SymbolsAsk::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_stay_within_the_object() {
        let read = |text: &str| one_range(text, 1000);
        assert_eq!(read("bytes=0-99"), Some((0, 99)));
        assert_eq!(read("bytes=900-99999999999"), Some((900, 999)));
        assert_eq!(read("bytes=990-"), Some((990, 999)));
        assert_eq!(read("bytes=-5"), Some((995, 999)));
        assert_eq!(read("bytes=-5000"), Some((0, 999)));
        for bad in
            ["bytes=1000-", "bytes=5-4", "bytes=-0", "bytes=-", "items=0-1", "bytes=0-1,5-6", "bytes=a-b"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(one_range("bytes=0-", 0), None);
        assert_eq!(one_range("bytes=-1", 0), None);
    }
}
