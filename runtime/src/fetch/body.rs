//! What the headers say of the body, and undoing gzip. Pure.

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE};
use mahp_common::ByteRange;
use std::io::Write;

/// Content-Length, where there is one that is a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Content-Encoding in lower case; empty without one.
pub(super) fn coding(headers: &HeaderMap) -> String {
    let all: Vec<&str> = headers.get_all(CONTENT_ENCODING).iter().filter_map(|v| v.to_str().ok()).collect();
    all.join(", ").trim().to_ascii_lowercase()
}

/// The range of a 206, checked against what was asked and against Content-Length.
pub(super) fn partial(
    headers: &HeaderMap,
    asked: Option<(u64, Option<u64>)>,
    length: Option<u64>,
) -> Result<ByteRange, String> {
    let text = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let text = text.ok_or("status 206 without a Content-Range")?;
    let found = content_range(text).ok_or_else(|| format!("Content-Range {text:?} cannot be read"))?;
    let (first, last) = asked.ok_or("status 206, but no range was asked for")?;
    // The origin may shorten the range at its end (RFC 9110 section 14.2), and nothing else.
    if found.first != first || last.is_some_and(|l| found.last > l) {
        return Err(format!("another range came than was asked for: {text:?}"));
    }
    if length.is_some_and(|l| l != found.len()) {
        return Err(format!("Content-Length does not match Content-Range {text:?}"));
    }
    Ok(found)
}

/// `bytes 0-99/1000` or `bytes 0-99/*` (RFC 9110 section 14.4).
pub(super) fn content_range(text: &str) -> Option<ByteRange> {
    let rest = text.trim();
    let unit = rest.get(..5)?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, complete) = rest.get(5..)?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let complete = match complete.trim() {
        "*" => None,
        digits => Some(number(digits)?),
    };
    // `last` at the very end of u64 would make the length overflow.
    let sound = first <= last && last < u64::MAX && complete.is_none_or(|c| last < c);
    sound.then_some(ByteRange { first, last, complete })
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    // `parse` alone would take a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Why gzip cannot be undone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GunzipError {
    /// More than the limit.
    TooLarge,
    /// In one line.
    Broken(String),
}

/// Undoes gzip (RFC 1952, any number of members), piece by piece, into at most `limit` bytes in all.
#[derive(Debug)]
pub(super) struct Gunzip {
    decoder: MultiGzDecoder<Bounded>,
}

impl Gunzip {
    pub(super) fn new(limit: u64) -> Gunzip {
        Gunzip { decoder: MultiGzDecoder::new(Bounded { out: Vec::new(), left: limit, full: false }) }
    }

    /// Takes the next piece, returns what it decodes to; possibly nothing yet.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<Bytes, GunzipError> {
        let result = self.decoder.write_all(piece).and_then(|()| self.decoder.flush());
        self.taken(result)
    }

    /// Checks that the end is one.
    pub(super) fn finish(&mut self) -> Result<(), GunzipError> {
        let result = self.decoder.try_finish();
        self.taken(result).map(drop)
    }

    fn taken(&mut self, result: std::io::Result<()>) -> Result<Bytes, GunzipError> {
        let bounded = self.decoder.get_mut();
        match result {
            Ok(()) => Ok(std::mem::take(&mut bounded.out).into()),
            Err(_) if bounded.full => Err(GunzipError::TooLarge),
            Err(e) => Err(GunzipError::Broken(format!("gzip: {e}"))),
        }
    }
}

/// Where decoded bytes go. Refuses more than `left`, so that a bomb stops while it is being decoded.
#[derive(Debug)]
struct Bounded {
    out: Vec<u8>,
    left: u64,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => {
                self.left = left;
                self.out.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            None => {
                self.full = true;
                Err(std::io::Error::other("too large"))
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn content_range_forms() {
        let range = |first, last, complete| Some(ByteRange { first, last, complete });
        assert_eq!(content_range("bytes 0-99/1000"), range(0, 99, Some(1000)));
        assert_eq!(content_range(" Bytes 5-5/* "), range(5, 5, None));
        for bad in [
            "",
            "bytes",
            "bytes */1000",
            "bytes 9-5/10",
            "bytes 0-10/10",
            "bytes 0-/10",
            "bytes -5/10",
            "items 0-1/2",
            "bytes 0-1",
            "bytes +0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
            "byté 0-1/2",
        ] {
            assert_eq!(content_range(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_partial_answer_is_held_against_the_question() {
        let headers = |text: &str| HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]);
        let of = |text: &str, asked, length| partial(&headers(text), asked, length);
        assert_eq!(of("bytes 10-19/100", Some((10, Some(19))), Some(10)).unwrap().len(), 10);
        assert_eq!(of("bytes 90-99/100", Some((90, Some(200))), None).unwrap().last, 99);
        assert_eq!(of("bytes 90-99/100", Some((90, None)), None).unwrap().last, 99);
        assert!(of("bytes 0-19/100", Some((10, Some(19))), None).is_err());
        assert!(of("bytes 10-20/100", Some((10, Some(19))), None).is_err());
        assert!(of("bytes 10-19/100", Some((10, Some(19))), Some(9)).is_err());
        assert!(of("bytes 10-19/100", None, None).is_err());
        assert!(partial(&HeaderMap::new(), Some((0, None)), None).is_err());
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzEncoder::new(bytes, flate2::Compression::best()).read_to_end(&mut out).unwrap();
        out
    }

    fn gunzip(raw: &[u8], piece: usize, limit: u64) -> Result<Vec<u8>, GunzipError> {
        let mut gunzip = Gunzip::new(limit);
        let mut out = Vec::new();
        for piece in raw.chunks(piece) {
            out.extend_from_slice(&gunzip.write(piece)?);
        }
        gunzip.finish()?;
        Ok(out)
    }

    #[test]
    fn gunzip_takes_members_in_pieces_of_any_size() {
        let two = [gzip(b"#EXTM3U\n"), gzip(b"#EXT-X-ENDLIST\n")].concat();
        for piece in 1..=two.len() {
            assert_eq!(gunzip(&two, piece, 23).unwrap(), b"#EXTM3U\n#EXT-X-ENDLIST\n", "pieces of {piece}");
            assert_eq!(gunzip(&two, piece, 22), Err(GunzipError::TooLarge), "pieces of {piece}");
        }
    }

    #[test]
    fn gunzip_stops_at_a_bomb_and_at_a_broken_end() {
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 10_000);
        assert_eq!(gunzip(&bomb, bomb.len(), 1 << 20), Err(GunzipError::TooLarge));
        assert_eq!(gunzip(&bomb, bomb.len(), 8 << 20).unwrap().len(), 8 << 20);
        let small = gzip(b"#EXTM3U\n#EXT-X-VERSION:3\n");
        for end in 1..small.len() {
            let result = gunzip(&small[..end], 7, 1000);
            assert!(matches!(result, Err(GunzipError::Broken(_))), "cut at {end}: {result:?}");
        }
        assert!(matches!(gunzip(b"plain text", 100, 100), Err(GunzipError::Broken(_))));
    }
}
