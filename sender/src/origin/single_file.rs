//! A Representation in one file (SegmentBase, or only a BaseURL): it is carried in blocks, because its index, which says where
//! segments begin, is between the player and the file.

use super::hls::first_byte;
use super::{Origin, Want};
use mahp_common::manifest::dash::{Addressing, Representation};
use mahp_common::{ByteRange, ObjectKind};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;
use url::Url;

/// Bytes of a block.
const BLOCK: u64 = 1 << 20;
/// A header that is sent again and again is at most this long.
const HEAD_MAX: u64 = 256 << 10;
/// In a live MPD a file goes out from this long before its Period on, wherever its flow has room: players take all of a file for
/// available and ask ahead, as far as their buffers allow.
pub const LEAD: Duration = Duration::from_secs(8);
/// What should have been played this long ago is not begun with: players are that far behind the clock at most.
pub const BEHIND: Duration = Duration::from_secs(15);
/// Pauses between attempts to learn a file's length: for about as long as an advertisement lasts.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// Files whose lengths are remembered.
const FILES: usize = 1024;

/// What is behind the [`head`] of a file (all of it where there is none), in blocks that are spread over its duration.
pub fn blocks(
    url: &Url,
    head: Option<&Want>,
    length: u64,
    start: Duration,
    duration: Duration,
) -> impl Iterator<Item = Want> {
    let from = head.and_then(|w| w.range).map_or(0, |r| r.last + 1);
    let part = move |bytes: u64| duration.mul_f64(bytes as f64 / length.max(1) as f64);
    (0..length.saturating_sub(from).div_ceil(BLOCK)).map(move |n| {
        let first = from + n * BLOCK;
        let last = (first + BLOCK).min(length) - 1;
        Want {
            url: url.clone(),
            range: Some(ByteRange { first, last, complete: Some(length) }),
            kind: ObjectKind::Media,
            media_time: Some(start + part(first)),
            duration: Some(part(last - first + 1)),
        }
    })
}

/// From the file's start to the end of its init and index segments, where the MPD says where these are: what everybody needs
/// first, whenever he comes.
pub fn head(r: &Representation, length: u64) -> Option<Want> {
    let Addressing::SingleFile { url, init_range, index_range } = &r.addressing else { return None };
    let last = init_range.iter().chain(index_range).map(|range| range.last).max()?;
    let range = ByteRange { first: 0, last, complete: Some(length) };
    let fits = last < HEAD_MAX.min(length);
    fits.then(|| Want {
        url: url.clone(),
        range: Some(range),
        kind: ObjectKind::Init,
        media_time: None,
        duration: None,
    })
}

/// Lengths of files: each is asked for once, when it is wanted first.
#[derive(Debug, Default)]
pub struct Lengths {
    /// By cache key. `None`: asked for, or not to be had.
    files: BTreeMap<String, Option<u64>>,
    asking: JoinSet<(String, Option<u64>)>,
}

impl Lengths {
    /// The length of a file, if it is known; [`Lengths::learned`] tells when it may be.
    pub fn get(&mut self, origin: &Origin, url: &Url) -> Option<u64> {
        let key = origin.key(&whole(url));
        if let Some(length) = self.files.get(&key) {
            return *length;
        }
        if self.files.len() >= FILES {
            self.files.clear();
        }
        self.files.insert(key.clone(), None);
        let (origin, url) = (origin.clone(), url.clone());
        self.asking.spawn(async move { (key, ask(&origin, &url).await) });
        None
    }

    /// Pends until a length has been learned. Cancel safe.
    pub async fn learned(&mut self) {
        loop {
            match self.asking.join_next().await {
                Some(Ok((key, Some(length)))) => {
                    self.files.insert(key, Some(length));
                    return;
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

fn whole(url: &Url) -> Want {
    Want { url: url.clone(), range: None, kind: ObjectKind::Media, media_time: None, duration: None }
}

async fn ask(origin: &Origin, url: &Url) -> Option<u64> {
    for pause in PAUSES.iter().map(Some).chain([None]) {
        match (first_byte(origin, url).await, pause) {
            (Ok((length, response)), _) => {
                origin.whole.keep(url, &response);
                return Some(length);
            }
            (Err(e), Some(pause)) => {
                tracing::debug!("{e}");
                sleep(*pause).await;
            }
            (Err(e), None) => {
                tracing::warn!(%url, "its length cannot be had from the origin: {e}; players get it there")
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_file_once() {
        let url = Url::parse("http://o/f.mp4").expect("url");
        for length in [0, 1, 999, 1000, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 1000, 5 * BLOCK + 7] {
            for index in [None, Some(ByteRange { first: 0, last: 999, complete: None })] {
                let addressing =
                    Addressing::SingleFile { url: url.clone(), init_range: None, index_range: index };
                let head = head(&Representation { addressing, ..Representation::default() }, length);
                let (start, duration) = (Duration::from_secs(3), Duration::from_secs(10));
                let blocks = blocks(&url, head.as_ref(), length, start, duration);
                let mut at = 0;
                for r in head.iter().cloned().chain(blocks).filter_map(|w| w.range) {
                    assert_eq!(r.first, at);
                    at = r.last + 1;
                }
                assert_eq!(at, length);
            }
        }
    }

    #[test]
    fn a_head_is_what_the_mpd_says_and_short() {
        let url = Url::parse("http://o/f.mp4").expect("url");
        let range = |first, last| Some(ByteRange { first, last, complete: None });
        let of = |init_range, index_range| {
            let addressing = Addressing::SingleFile { url: url.clone(), init_range, index_range };
            let r = Representation { addressing, ..Representation::default() };
            head(&r, 2_000_000).and_then(|w| w.range).map(|r| (r.first, r.last))
        };
        assert_eq!(of(range(0, 799), range(800, 1200)), Some((0, 1200)));
        assert_eq!(of(None, range(800, 1200)), Some((0, 1200)));
        assert_eq!(of(None, None), None);
        // An index behind the media, or beyond the file.
        assert_eq!(of(range(0, 799), range(1_900_000, 1_999_999)), None);
        assert_eq!(of(range(0, u64::MAX), None), None);
    }
}
