//! Headers of media answers: validators, ranges, caching, where the bytes came from.

use super::body::Body;
use super::range::{RangeSpec, Selection};
use crate::freshness::{has, seconds};
use crate::library::{Source, Stored};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use mahp_common::{Digest, ObjectMeta, Time};
use std::time::Duration;

/// `Cache-Status` (RFC 9211).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The conditions of a request (RFC 9110 section 13) and its range.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// A single byte range.
    pub range: Option<RangeSpec>,
    /// If-Range.
    pub if_range: Option<String>,
    /// If-None-Match, all values joined.
    pub if_none_match: Option<String>,
    /// If-Modified-Since.
    pub if_modified_since: Option<String>,
}

impl Conditions {
    /// Reads them. Unreadable ones count as absent.
    pub fn of(headers: &HeaderMap) -> Conditions {
        let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let etags: Vec<&str> =
            headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).collect();
        let mut ranges = headers.get_all(header::RANGE).iter();
        let range = match (ranges.next(), ranges.next()) {
            (Some(one), None) => one.to_str().ok().and_then(RangeSpec::parse),
            _ => None,
        };
        Conditions {
            range,
            if_range: text(header::IF_RANGE),
            if_none_match: (!etags.is_empty()).then(|| etags.join(",")),
            if_modified_since: text(header::IF_MODIFIED_SINCE),
        }
    }

    /// The range to ask an origin for: with If-Range the whole resource is wanted in case the validator has changed.
    pub fn bounds(&self) -> Option<(u64, Option<u64>)> {
        if self.if_range.is_some() { None } else { self.stored_bounds() }
    }

    /// The range to look up in the store, where [`Conditions::if_range_names`] can be told at once.
    pub fn stored_bounds(&self) -> Option<(u64, Option<u64>)> {
        self.range.and_then(RangeSpec::bounds)
    }

    /// Whether If-Range, where there is one, names the version of a stored object: by our tag, its origin's, or its date. The
    /// parts of a file carry their origin's tag, the whole of it ours: a client may know either.
    pub fn if_range_names(&self, meta: &ObjectMeta) -> bool {
        let Some(value) = &self.if_range else { return true };
        let origin = meta.etag.as_deref().filter(|tag| is_strong(tag));
        origin == Some(value)
            || meta.last_modified.as_ref() == Some(value)
            || etag_of(meta).is_some_and(|tag| tag.as_bytes() == value.as_bytes())
    }
}

/// What is known of the resource besides its bytes.
#[derive(Clone, Debug)]
pub struct Entity {
    /// Content-Type.
    pub content_type: HeaderValue,
    /// Strong entity tag.
    pub etag: Option<HeaderValue>,
    /// Last-Modified of the origin.
    pub last_modified: Option<HeaderValue>,
    /// Cache-Control.
    pub cache_control: HeaderValue,
    /// Seconds since it left the origin or was verified.
    pub age: Option<u64>,
    /// Cache-Status.
    pub cache_status: HeaderValue,
    /// Length of the whole resource.
    pub complete: Option<u64>,
    /// Others to pass on (Set-Cookie).
    pub others: Vec<(HeaderName, HeaderValue)>,
}

/// What to answer, given which bytes can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// 304.
    NotModified,
    /// 416.
    Unsatisfiable,
    /// 200 with everything.
    Whole,
    /// 206 with bytes first to last of the resource.
    Part(u64, u64),
}

/// Decides by conditions and range. `have`: first byte and number of bytes that can be had; `None` of length: up to an end
/// that is not known (a stream), which only [`Decision::Whole`] can answer.
pub fn decide(entity: &Entity, have: (u64, Option<u64>), asked: &Conditions) -> Decision {
    if is_fresh_at_client(entity, asked) {
        return Decision::NotModified;
    }
    let (offset, len) = have;
    let end = len.map(|len| offset.saturating_add(len));
    let is_all = offset == 0 && (entity.complete.is_none() || entity.complete == end);
    let range = asked.range.filter(|_| if_range_holds(entity, asked));
    let (Some(range), Some(end)) = (range, end) else {
        return match end {
            Some(end) if !is_all && end > offset => Decision::Part(offset, end - 1),
            _ => Decision::Whole,
        };
    };
    match range.select(entity.complete.unwrap_or(end)) {
        // Only what is here can be sent; a 206 may be shorter than what was asked for (RFC 9110 section 15.3.7).
        Selection::Part(first, last) if first >= offset && first < end => {
            Decision::Part(first, last.min(end - 1))
        }
        Selection::Part(..) | Selection::Unsatisfiable => Decision::Unsatisfiable,
        Selection::Whole => Decision::Whole,
    }
}

/// Status line and headers for a decision, with the body made by `body` where there is one.
pub fn answer(entity: Entity, decision: Decision, body: impl FnOnce() -> Body) -> Response<Body> {
    let (status, content_range) = match decision {
        Decision::NotModified => (StatusCode::NOT_MODIFIED, None),
        Decision::Unsatisfiable => {
            let complete = entity.complete.map_or("*".to_owned(), |n| n.to_string());
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{complete}")))
        }
        Decision::Whole => (StatusCode::OK, None),
        Decision::Part(first, last) => {
            let complete = entity.complete.map_or("*".to_owned(), |n| n.to_string());
            (StatusCode::PARTIAL_CONTENT, Some(format!("bytes {first}-{last}/{complete}")))
        }
    };
    let has_body = status.is_success();
    let mut response = Response::new(if has_body { body() } else { Body::empty() });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(value) = content_range.and_then(|v| HeaderValue::try_from(v).ok()) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    headers.insert(header::CACHE_CONTROL, entity.cache_control);
    headers.insert(CACHE_STATUS, entity.cache_status);
    if has_body {
        headers.insert(header::CONTENT_TYPE, entity.content_type);
    }
    if let Some(age) = entity.age {
        headers.insert(header::AGE, age.into());
    }
    let validators = [(header::ETAG, entity.etag), (header::LAST_MODIFIED, entity.last_modified)];
    headers.extend(validators.into_iter().filter_map(|(name, value)| Some((name, value?))));
    for (name, value) in entity.others {
        headers.append(name, value);
    }
    response
}

fn is_fresh_at_client(entity: &Entity, asked: &Conditions) -> bool {
    if let Some(list) = &asked.if_none_match {
        return list.trim() == "*" || entity.etag.as_ref().is_some_and(|tag| lists(list, tag));
    }
    // An exact comparison suffices: players send back what we sent.
    matches!((&asked.if_modified_since, &entity.last_modified), (Some(s), Some(m)) if s.as_bytes() == m.as_bytes())
}

/// Weak comparison (RFC 9110 section 8.8.3.2) against a list.
fn lists(list: &str, tag: &HeaderValue) -> bool {
    list.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t.as_bytes() == tag.as_bytes())
}

/// Strong comparison; without the header it holds.
fn if_range_holds(entity: &Entity, asked: &Conditions) -> bool {
    let Some(value) = &asked.if_range else { return true };
    let is_date = !value.contains('"');
    let own = if is_date { &entity.last_modified } else { &entity.etag };
    own.as_ref().is_some_and(|v| v.as_bytes() == value.as_bytes())
}

/// `"b3-<hex>"`: the entity tag of bytes whose digest is known.
pub fn etag(digest: Digest) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"b3-{}\"", digest.to_hex())).ok()
}

/// Entity tag of a stored object. A part of a file has the file's: a tag must not differ from range to range.
pub fn etag_of(meta: &ObjectMeta) -> Option<HeaderValue> {
    match meta.range {
        None => meta.digest.and_then(etag),
        Some(_) => meta.etag.as_deref().filter(|t| is_strong(t)).and_then(|t| HeaderValue::from_str(t).ok()),
    }
}

/// Whether an origin's entity tag identifies bytes.
pub fn is_strong(etag: &str) -> bool {
    etag.starts_with('"')
}

/// Content-Type: the origin's, else by the extension of the URL's path.
pub fn content_type(meta: &ObjectMeta) -> HeaderValue {
    meta.content_type
        .as_deref()
        .and_then(|t| HeaderValue::from_str(t).ok())
        .unwrap_or_else(|| HeaderValue::from_static(type_by_extension(&meta.url)))
}

/// Table of types for origins that send none.
pub fn type_by_extension(url: &str) -> &'static str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let extension = path.rsplit('/').next().unwrap_or_default().rsplit_once('.').map_or("", |(_, e)| e);
    match extension.to_ascii_lowercase().as_str() {
        "m3u8" | "m3u" => "application/vnd.apple.mpegurl",
        "mpd" => "application/dash+xml",
        "ts" | "m2ts" | "mts" => "video/mp2t",
        "mp4" | "m4v" | "cmfv" => "video/mp4",
        "m4s" => "video/iso.segment",
        "m4a" | "cmfa" => "audio/mp4",
        "cmft" => "application/mp4",
        "aac" => "audio/aac",
        "mp3" => "audio/mpeg",
        "ac3" => "audio/ac3",
        "ec3" | "eac3" => "audio/eac3",
        "webm" => "video/webm",
        "vtt" | "webvtt" => "text/vtt",
        "ttml" | "dfxp" => "application/ttml+xml",
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        _ => "application/octet-stream",
    }
}

/// How long a client may keep an immutable object when the origin does not say.
const LIFETIME_DEFAULT: u64 = 3600;
/// What is served is good for this long at least.
const LIFETIME_MIN: u64 = 10;

/// Cache-Control of a media object of this age. `max-age` counts from the beginning of the object's life, as `Age` does.
pub fn media_cache_control(origin: Option<&str>, age: u64) -> HeaderValue {
    let origin = origin.unwrap_or_default().to_ascii_lowercase();
    if has(&origin, "no-store") || has(&origin, "private") {
        return HeaderValue::from_static("no-store");
    }
    if has(&origin, "no-cache") {
        return HeaderValue::from_static("no-cache");
    }
    let lifetime = seconds(&origin, "s-maxage").or_else(|| seconds(&origin, "max-age"));
    let lifetime = lifetime.unwrap_or(LIFETIME_DEFAULT).max(age + LIFETIME_MIN);
    HeaderValue::try_from(format!("public, max-age={lifetime}, immutable"))
        .unwrap_or(HeaderValue::from_static("no-cache"))
}

/// Whether a shared cache may keep an answer with these headers (RFC 9111 section 3).
pub fn may_store(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::SET_COOKIE) {
        return false;
    }
    let forbids = |value: &HeaderValue| {
        let says = value.to_str().unwrap_or_default().to_ascii_lowercase();
        has(&says, "no-store") || has(&says, "private")
    };
    !headers.get_all(header::CACHE_CONTROL).iter().any(forbids)
}

/// Cache-Control of what may change at the origin, of this age: good for so long from now on.
pub fn passing_cache_control(age: u64, good_for: Duration) -> HeaderValue {
    match good_for.as_secs() {
        0 => HeaderValue::from_static("no-cache"),
        secs => HeaderValue::try_from(format!("public, max-age={}", age + secs))
            .unwrap_or(HeaderValue::from_static("no-cache")),
    }
}

/// `Cache-Status` of an object that is in the store.
pub fn hit(source: Source) -> HeaderValue {
    HeaderValue::from_static(match source {
        Source::Multicast => "mahp; hit; detail=multicast",
        Source::Repaired => "mahp; hit; detail=repaired",
        Source::Unicast => "mahp; hit; detail=unicast",
    })
}

/// `Cache-Status` of an object fetched for this request.
pub fn miss(stored: bool) -> HeaderValue {
    HeaderValue::from_static(if stored {
        "mahp; fwd=miss; stored; detail=unicast"
    } else {
        "mahp; fwd=miss; detail=unicast"
    })
}

/// `Cache-Status` of what the origin might have replaced, but did not answer.
pub fn stale() -> HeaderValue {
    HeaderValue::from_static("mahp; fwd=stale; detail=unicast")
}

/// The entity of stored objects: `one` of them for the headers, `complete` length of the resource.
pub fn stored_entity(one: &Stored, complete: Option<u64>, now: Time, cache_status: HeaderValue) -> Entity {
    let age = now.since(one.stored_at).max(Duration::ZERO).as_secs();
    Entity {
        content_type: content_type(&one.meta),
        etag: etag_of(&one.meta),
        last_modified: one.meta.last_modified.as_deref().and_then(|v| HeaderValue::from_str(v).ok()),
        cache_control: match one.good_until {
            None => media_cache_control(one.meta.cache_control.as_deref(), age),
            Some(until) => passing_cache_control(age, until.since(now)),
        },
        age: Some(age),
        cache_status,
        complete,
        others: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(complete: Option<u64>) -> Entity {
        Entity {
            content_type: HeaderValue::from_static("video/mp2t"),
            etag: Some(HeaderValue::from_static("\"b3-1\"")),
            last_modified: Some(HeaderValue::from_static("Sun, 22 Nov 2026 15:00:00 GMT")),
            cache_control: HeaderValue::from_static("no-cache"),
            age: None,
            cache_status: hit(Source::Multicast),
            complete,
            others: vec![],
        }
    }

    fn asked(pairs: &[(HeaderName, &str)]) -> Conditions {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).expect("value"));
        }
        Conditions::of(&headers)
    }

    #[test]
    fn decisions_on_a_whole_resource() {
        let e = entity(Some(10));
        let on = |pairs: &[(HeaderName, &str)]| decide(&e, (0, Some(10)), &asked(pairs));
        assert_eq!(on(&[]), Decision::Whole);
        assert_eq!(on(&[(header::RANGE, "bytes=0-")]), Decision::Part(0, 9));
        assert_eq!(on(&[(header::RANGE, "bytes=4-5")]), Decision::Part(4, 5));
        assert_eq!(on(&[(header::RANGE, "bytes=-3")]), Decision::Part(7, 9));
        assert_eq!(on(&[(header::RANGE, "bytes=10-")]), Decision::Unsatisfiable);
        assert_eq!(on(&[(header::RANGE, "bytes=0-1,4-5")]), Decision::Whole);
        assert_eq!(on(&[(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=2-3")]), Decision::Whole);
        let range = (header::RANGE, "bytes=4-5");
        assert_eq!(on(&[range.clone(), (header::IF_RANGE, "\"b3-1\"")]), Decision::Part(4, 5));
        assert_eq!(on(&[range.clone(), (header::IF_RANGE, "\"b3-2\"")]), Decision::Whole);
        assert_eq!(on(&[range.clone(), (header::IF_RANGE, "W/\"b3-1\"")]), Decision::Whole);
        let date = "Sun, 22 Nov 2026 15:00:00 GMT";
        assert_eq!(on(&[range.clone(), (header::IF_RANGE, date)]), Decision::Part(4, 5));
        assert_eq!(on(&[(header::IF_NONE_MATCH, "\"x\", W/\"b3-1\"")]), Decision::NotModified);
        assert_eq!(on(&[(header::IF_NONE_MATCH, "\"x\""), (header::IF_NONE_MATCH, "*")]), Decision::Whole);
        assert_eq!(on(&[(header::IF_NONE_MATCH, "*")]), Decision::NotModified);
        assert_eq!(on(&[(header::IF_NONE_MATCH, "\"x\"")]), Decision::Whole);
        assert_eq!(on(&[(header::IF_MODIFIED_SINCE, date)]), Decision::NotModified);
        // If-None-Match wins over If-Modified-Since.
        assert_eq!(
            on(&[(header::IF_MODIFIED_SINCE, date), (header::IF_NONE_MATCH, "\"x\"")]),
            Decision::Whole
        );
    }

    #[test]
    fn decisions_on_a_piece_of_a_file() {
        let on = |complete, range: &str| {
            decide(&entity(complete), (100, Some(50)), &asked(&[(header::RANGE, range)]))
        };
        assert_eq!(on(Some(1000), "bytes=100-149"), Decision::Part(100, 149));
        assert_eq!(on(Some(1000), "bytes=110-119"), Decision::Part(110, 119));
        assert_eq!(on(Some(1000), "bytes=110-500"), Decision::Part(110, 149));
        assert_eq!(on(None, "bytes=110-119"), Decision::Part(110, 119));
        assert_eq!(on(Some(150), "bytes=-10"), Decision::Part(140, 149));
        assert_eq!(on(Some(1000), "bytes=1000-"), Decision::Unsatisfiable);
    }

    #[test]
    fn cache_control_never_says_stale() {
        let text = |origin, age| media_cache_control(origin, age).to_str().map(str::to_owned).expect("ascii");
        assert_eq!(text(Some("max-age=60"), 5), "public, max-age=60, immutable");
        assert_eq!(text(Some("max-age=60"), 100), "public, max-age=110, immutable");
        assert_eq!(text(Some("public, s-maxage=\"7\", max-age=60"), 0), "public, max-age=10, immutable");
        assert_eq!(text(None, 0), "public, max-age=3600, immutable");
        assert_eq!(text(Some("No-Cache"), 0), "no-cache");
        assert_eq!(text(Some("private, max-age=9"), 0), "no-store");
    }

    #[test]
    fn types() {
        assert_eq!(type_by_extension("https://h/a.b/1.TS?x=.mp4"), "video/mp2t");
        assert_eq!(type_by_extension("https://h/a.mp4/1"), "application/octet-stream");
    }
}
