//! The Range header (RFC 9110 section 14): one range, open or closed or a suffix. Pure.
//!
//! Several ranges in one header are answered with the whole resource, which section 14.2 allows and every player accepts.

/// A range as asked for, before the length of the resource is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RangeSpec {
    /// `bytes=first-last`, both inclusive.
    Closed(u64, u64),
    /// `bytes=first-`.
    From(u64),
    /// `bytes=-count`: the last bytes.
    Suffix(u64),
}

/// What a Range header means for a resource of known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// No range, or one that is to be ignored: the whole resource, status 200.
    Whole,
    /// Bytes first to last, inclusive: status 206.
    Part(u64, u64),
    /// Nothing of the resource is in the range: status 416.
    Unsatisfiable,
}

impl RangeSpec {
    /// Reads a header value. `None`: no single byte range (another unit, several ranges, malformed): the header is ignored.
    pub fn parse(value: &str) -> Option<RangeSpec> {
        let (unit, set) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (first.is_empty(), last.is_empty()) {
            (true, true) => None,
            (true, false) => Some(RangeSpec::Suffix(number(last)?)),
            (false, true) => Some(RangeSpec::From(number(first)?)),
            (false, false) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(RangeSpec::Closed(first, last))
            }
        }
    }

    /// What it selects of a resource of `len` bytes.
    pub const fn select(self, len: u64) -> Selection {
        let Some(end) = len.checked_sub(1) else { return Selection::Unsatisfiable };
        match self {
            RangeSpec::Closed(first, _) | RangeSpec::From(first) if first > end => Selection::Unsatisfiable,
            RangeSpec::Suffix(0) => Selection::Unsatisfiable,
            RangeSpec::Closed(first, last) if last < end => Selection::Part(first, last),
            RangeSpec::Closed(first, _) | RangeSpec::From(first) => Selection::Part(first, end),
            RangeSpec::Suffix(count) => Selection::Part(len.saturating_sub(count), end),
        }
    }

    /// As the multicast half and the HTTP client take it; `None`: the whole resource must be asked for (`bytes=0-`, and
    /// suffixes as long as the length is not known).
    pub const fn bounds(self) -> Option<(u64, Option<u64>)> {
        match self {
            RangeSpec::Closed(first, last) => Some((first, Some(last))),
            RangeSpec::From(0) | RangeSpec::Suffix(_) => None,
            RangeSpec::From(first) => Some((first, None)),
        }
    }
}

/// What a Range header value selects of a resource of `len` bytes.
pub fn parse(value: &str, len: u64) -> Selection {
    RangeSpec::parse(value).map_or(Selection::Whole, |spec| spec.select(len))
}

/// Decimal digits only (`u64::from_str` takes a sign); more than fit mean "beyond any end".
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let cases: &[(&str, u64, Selection)] = &[
            ("bytes=0-", 10, Selection::Part(0, 9)),
            ("bytes=0-0", 10, Selection::Part(0, 0)),
            ("bytes=0-9", 10, Selection::Part(0, 9)),
            ("bytes=0-10", 10, Selection::Part(0, 9)),
            ("bytes=9-", 10, Selection::Part(9, 9)),
            ("bytes=10-", 10, Selection::Unsatisfiable),
            ("bytes=10-20", 10, Selection::Unsatisfiable),
            ("bytes=-1", 10, Selection::Part(9, 9)),
            ("bytes=-10", 10, Selection::Part(0, 9)),
            ("bytes=-11", 10, Selection::Part(0, 9)),
            ("bytes=-0", 10, Selection::Unsatisfiable),
            ("bytes=0-", 0, Selection::Unsatisfiable),
            ("bytes=-5", 0, Selection::Unsatisfiable),
            ("bytes=5-4", 10, Selection::Whole),
            ("bytes=0-1,3-4", 10, Selection::Whole),
            ("bytes=,", 10, Selection::Whole),
            ("bytes=-", 10, Selection::Whole),
            ("bytes=", 10, Selection::Whole),
            ("bytes", 10, Selection::Whole),
            ("", 10, Selection::Whole),
            ("items=0-1", 10, Selection::Whole),
            ("Bytes=1-2", 10, Selection::Part(1, 2)),
            ("bytes= 1-2", 10, Selection::Part(1, 2)),
            ("bytes=+1-2", 10, Selection::Whole),
            ("bytes=1--2", 10, Selection::Whole),
            ("bytes=0x1-2", 10, Selection::Whole),
            ("bytes=0-18446744073709551615", 10, Selection::Part(0, 9)),
            ("bytes=0-99999999999999999999999", 10, Selection::Part(0, 9)),
            ("bytes=99999999999999999999999-", 10, Selection::Unsatisfiable),
            ("bytes=-99999999999999999999999", 10, Selection::Part(0, 9)),
            ("bytes=0-", u64::MAX, Selection::Part(0, u64::MAX - 1)),
        ];
        for (value, len, expected) in cases {
            assert_eq!(parse(value, *len), *expected, "{value} of {len}");
        }
    }

    #[test]
    fn any_text_selects_inside_the_resource() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let alphabet = b"bytes=-,0123456789 \tx+";
        for _ in 0..50_000 {
            let tail: String =
                (0..rng.usize(..24)).map(|_| char::from(alphabet[rng.usize(..alphabet.len())])).collect();
            let value = if rng.bool() { format!("bytes={tail}") } else { tail };
            let len = if rng.bool() { rng.u64(..64) } else { rng.u64(..) };
            if let Selection::Part(first, last) = parse(&value, len) {
                assert!(first <= last && last < len, "seed {seed}: {value:?} of {len}");
            }
        }
    }
}
