//! Origins: manifests are read and followed, objects fetched.
//!
//! [`discover`] reads a URL once and tells what is there. Then [`live`] (HLS) and [`dash_live`] follow what grows, and
//! [`vod`] goes through what is complete. Each rendition has a task of its own, so that a slow or dead origin stalls
//! nobody else.

pub mod cadence;
pub mod chunks;
pub mod dash;
pub mod dash_live;
pub mod dash_mpd;
pub mod discover;
pub mod hls;
pub mod live;
pub mod outbox;
pub mod parts;
pub mod past;
pub mod single_file;
pub mod utc;
pub mod vod;

use crate::status::RenditionStatus;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use mahp_common::manifest::url::cache_key;
use mahp_common::{ByteRange, Object, ObjectKind, ObjectMeta};
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::{FetchError, Fetcher, Opened, Request, Response};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use url::Url;

/// Something to fetch and send.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    /// As a player would ask for it.
    pub url: Url,
    /// Part of the file.
    pub range: Option<ByteRange>,
    /// Manifest, init, media, other.
    pub kind: ObjectKind,
    /// Start on the presentation timeline, where known.
    pub media_time: Option<Duration>,
    /// Duration of media in it.
    pub duration: Option<Duration>,
}

impl Want {
    /// Identity within one version of a manifest.
    pub fn key(&self) -> String {
        with_range(self.url.to_string(), self.range)
    }
}

fn with_range(url: String, range: Option<ByteRange>) -> String {
    match range {
        Some(r) => format!("{url}#{}-{}", r.first, r.last),
        None => url,
    }
}

/// Init segments that may be needed again: the newest few.
#[derive(Clone, Debug, Default)]
struct Inits(Vec<(String, Object)>);

impl Inits {
    /// More than a presentation with advertisements alternates between.
    const KEPT: usize = 16;

    fn insert(&mut self, key: String, object: Object) {
        self.0.retain(|(k, _)| *k != key);
        if self.0.len() >= Self::KEPT {
            self.0.remove(0);
        }
        self.0.push((key, object));
    }

    fn get(&self, key: &str) -> Option<&Object> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, o)| o)
    }
}

/// A rendition's access to its origin: client, clock, counters.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Shared client.
    pub fetcher: Fetcher,
    /// Shared clock.
    pub clock: Clock,
    /// Counters of the rendition.
    pub status: Arc<RenditionStatus>,
    /// Query parameters that identify viewers, not content, beyond the well-known ones.
    pub token_parameters: Arc<[String]>,
    /// How many of the segments at the live edge are sent to begin with.
    pub segments_at_start: usize,
    /// What an origin sent in place of a range.
    pub whole: Whole,
}

/// The file that an origin without ranges sent in place of the last one that was asked for: the next ones are cut from it.
#[derive(Clone, Debug, Default)]
pub struct Whole(Arc<Mutex<Option<Kept>>>);

#[derive(Debug)]
struct Kept {
    url: Url,
    response: Response,
}

impl Whole {
    /// Larger files are not kept.
    const MAX: usize = 64 << 20;

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of `url`, if it is here, and `range` lies within it: files may grow.
    fn get(&self, url: &Url, range: ByteRange) -> Option<Response> {
        let kept = self.lock();
        let here = kept.as_ref().filter(|k| k.url == *url && range.last < k.response.body.len() as u64);
        here.map(|k| k.response.clone())
    }

    /// Keeps the answer to a request for a part, where it is the whole.
    fn keep(&self, url: &Url, response: &Response) {
        if response.range.is_some() {
            return;
        }
        let (length, fits) = (response.body.len(), response.body.len() <= Whole::MAX);
        let mut kept = self.lock();
        if kept.is_none() {
            let what = if fits { "it is kept, and cut here" } else { "it comes again for each part" };
            tracing::warn!(%url, length, "W-RANGE: the origin sends the whole file in place of a part: {what}");
        }
        // Of what is too large the address is kept: it is told of once.
        let body = if fits { response.body.clone() } else { Bytes::new() };
        *kept = Some(Kept { url: url.clone(), response: Response { body, ..response.clone() } });
    }
}

/// Until the headers of a media response: a live edge that holds requests for parts answers within a few seconds.
const FIRST_BYTE: Duration = Duration::from_secs(8);

/// Until all of what is fetched again is here.
const AGAIN: Duration = Duration::from_secs(9);

impl Origin {
    /// Identity for “never twice” over versions of a manifest, whose tokens may be others each time.
    pub fn key(&self, want: &Want) -> String {
        with_range(cache_key(&want.url, &self.token_parameters), want.range)
    }

    /// The key under which an object was wanted.
    fn key_of(&self, object: &Object) -> String {
        let url = Url::parse(&object.meta.url);
        let key = url.map_or(object.meta.url.clone(), |url| cache_key(&url, &self.token_parameters));
        with_range(key, object.meta.range)
    }

    /// Notes that numbers or names of segments begin anew, and says so, though not each time where that is a habit.
    fn began_anew(&self, url: &Url) {
        if let Some(times) = self.status.restarted(self.clock.now()) {
            tracing::warn!(%url, times, "W-RESTART: the origin began anew; following from its live edge");
        }
    }

    /// Notes something that the manifest offers and no rendition carries; says so once.
    fn not_carried(&self, url: &Url, name: &str) {
        if self.status.leave_out(name) {
            tracing::warn!(
                %url,
                "W-NOT-CARRIED: {name} came after the start, players get it from the origin, each for itself; reload the channel to carry it"
            );
        }
    }

    /// Fetches an object.
    ///
    /// # Errors
    /// Of the client; a short body or a wrong range is [`FetchError::Body`].
    pub async fn fetch(&self, want: &Want) -> Result<Object, FetchError> {
        let response = self.part(want).await?;
        let (range, body) = cut(want, &response)?;
        let mut meta = self.meta(&want.url, &response.headers, &response.final_url, want.kind);
        meta.range = range;
        meta.media_time = want.media_time;
        meta.duration = want.duration;
        Ok(Object::new(meta, body))
    }

    /// The answer to a request for an object, or the file that came for an earlier one.
    async fn part(&self, want: &Want) -> Result<Response, FetchError> {
        let Some(range) = want.range else { return self.get(&want.url, request(want)).await };
        if let Some(whole) = self.whole.get(&want.url, range) {
            return Ok(whole);
        }
        let response = self.get(&want.url, request(want)).await?;
        self.whole.keep(&want.url, &response);
        Ok(response)
    }

    /// One request, counted and timed.
    ///
    /// # Errors
    /// Of the client. Status 304 is an error of the client but no trouble of the origin.
    pub async fn get(&self, url: &Url, request: Request) -> Result<Response, FetchError> {
        let start = self.clock.now();
        let result = self.fetcher.get(url, request).await;
        let took = self.clock.now().since(start);
        match &result {
            Ok(_) | Err(FetchError::Status { status: 304, .. }) => {
                metrics::histogram!("mahp_sender_origin_fetch_seconds").record(took.as_secs_f64());
                self.status.origin_good(took);
            }
            Err(e) => self.status.origin_bad(e.to_string()),
        }
        result
    }

    /// One request, whose answer is read as it comes. Counted and timed to the end of its headers.
    ///
    /// # Errors
    /// Of the client.
    pub async fn open(&self, url: &Url, request: Request) -> Result<Opened, FetchError> {
        let start = self.clock.now();
        let result = self.fetcher.open(url, request).await;
        match &result {
            Ok(_) => self.status.origin_good(self.clock.now().since(start)),
            Err(e) => self.status.origin_bad(e.to_string()),
        }
        result
    }

    /// Description of an answer. `url`: what was asked for; `final_url`: where that led.
    pub fn meta(&self, url: &Url, headers: &HeaderMap, final_url: &Url, kind: ObjectKind) -> ObjectMeta {
        let header = |name| text(headers, name);
        let mut url = url.clone();
        url.set_fragment(None);
        ObjectMeta {
            final_url: (*final_url != url).then(|| final_url.to_string()),
            url: url.into(),
            kind,
            content_type: header(CONTENT_TYPE),
            etag: header(ETAG),
            last_modified: header(LAST_MODIFIED),
            cache_control: header(CACHE_CONTROL),
            available_at: Some(self.clock.wall().unix_millis()),
            ..ObjectMeta::default()
        }
    }
}

fn request(want: &Want) -> Request {
    Request {
        range: want.range.map(|r| (r.first, Some(r.last))),
        first_byte_timeout: Some(FIRST_BYTE),
        accept_gzip: want.kind == ObjectKind::Manifest,
        ..Request::default()
    }
}

/// Fetches again what was sent before: `length` bytes, which may be others by now. Says nothing of the state of the origin.
///
/// # Errors
/// As [`Origin::fetch`].
pub async fn again(fetcher: &Fetcher, want: &Want, length: u64) -> Result<Bytes, FetchError> {
    let mut request = Request { timeout: Some(AGAIN), ..request(want) };
    if want.range.is_none() {
        request.max_bytes = Some(length);
    }
    let response = fetcher.get(&want.url, request).await?;
    cut(want, &response).map(|(_, body)| body)
}

/// A header as text, when it is text.
pub(crate) fn text(headers: &HeaderMap, name: http::HeaderName) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// The bytes that were asked for: an origin without ranges answers 200 with the whole file.
fn cut(want: &Want, response: &Response) -> Result<(Option<ByteRange>, Bytes), FetchError> {
    let Some(range) = want.range else { return Ok((None, response.body.clone())) };
    let broken = |cause: &str| FetchError::Body { url: want.url.to_string(), cause: cause.into() };
    if let Some(got) = response.range {
        let same =
            got.first == range.first && got.last == range.last && got.len() == response.body.len() as u64;
        return if same {
            Ok((Some(got), response.body.clone()))
        } else {
            Err(broken("another range than asked for"))
        };
    }
    let complete = response.body.len() as u64;
    let (first, last) = (usize::try_from(range.first), usize::try_from(range.last));
    match (first, last) {
        (Ok(first), Ok(last)) if range.last < complete => {
            Ok((Some(ByteRange { complete: Some(complete), ..range }), response.body.slice(first..=last)))
        }
        _ => Err(broken("the file is shorter than the range asked for")),
    }
}
